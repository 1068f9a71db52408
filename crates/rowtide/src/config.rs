//! Configuration: a file, the environment and flags, in rising precedence. Every setting has one name,
//! `listen` in the file, `ROWTIDE_LISTEN` in the environment and `--listen` as a flag. What is not
//! known or does not fit is an error that names it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use miette::{Diagnostic, NamedSource, SourceSpan};
use rowtide_documents::host::{BadStorageUrl, StorageUrl};
use rowtide_log::LogOptions;
use rowtide_postgres::connect::{ConnectOptions, InvalidUrl, Names};
use rowtide_postgres::trial::Trial;
use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use crate::auth::AuthOptions;
use crate::former_names::{FormerFlags, current_name, former_name, log_dir, warn_of_former_name};
use crate::limits::{self, ClientLimits, ConnectionLimits};

/// The settings of a server, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database.
    pub database: ConnectOptions,
    /// Under which names things are kept there.
    pub names: Names,
    /// The definition's file.
    pub definition: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// How many connections there may be.
    pub connections: ConnectionLimits,
    /// How tokens are checked.
    pub auth: AuthOptions,
    /// How many engines run side by side.
    pub engines: usize,
    /// How many bytes of changes may wait for one session.
    pub send_queue_bytes: usize,
    /// Where the log of changes is kept, and how much of it.
    pub log: LogOptions,
    /// Where live documents are kept.
    pub documents_dir: PathBuf,
    /// Where their objects are, if not there.
    pub storage: Option<StorageUrl>,
    /// How many bytes of rows are held in memory.
    pub row_bytes: usize,
    /// How many connections to Postgres run loads.
    pub load_connections: usize,
    /// What clients may ask for.
    pub client: ClientLimits,
    /// The same database behind a pooler, for mutations alone, if there is one.
    pub mutation_database: Option<ConnectOptions>,
    /// How many connections to Postgres apply mutations.
    pub mutation_connections: usize,
    /// Whether statements are prepared on those.
    pub prepared_statements: bool,
    /// How long Postgres may take for one answer on those.
    pub mutation_answer: Duration,
}

/// Settings as they were given; what is not given is `None`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Settings {
    /// The database to sync, as postgres://user:password@host:port/name
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// The definition's file [default: rowtide.toml]
    #[arg(long, value_name = "FILE")]
    pub definition: Option<String>,
    /// Where to listen [default: 127.0.0.1:4400]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Names slot, publication and schema in the database [default: default]
    #[arg(long, value_name = "NAME")]
    pub environment: Option<String>,
    /// The secret of HS256 tokens, at least 32 bytes (better given in the environment)
    #[arg(long, value_name = "SECRET")]
    pub token_secret: Option<String>,
    /// A file or URL of the public keys of tokens (JWKS)
    #[arg(long, value_name = "FILE|URL")]
    pub jwks: Option<String>,
    /// After how many seconds the public keys are read again, 10 to 86400: so long is a key taken that was taken out
    /// [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub jwks_seconds: Option<String>,
    /// The `iss` that tokens must have
    #[arg(long, value_name = "TEXT")]
    pub issuer: Option<String>,
    /// The `aud` that tokens must have
    #[arg(long, value_name = "TEXT")]
    pub audience: Option<String>,
    /// How many engines run side by side, 1 to 64 [default: one a core]
    #[arg(long, value_name = "NUMBER")]
    pub engines: Option<String>,
    /// How many bytes of changes may wait for one session; beyond it the session ends [default: 16777216]
    #[arg(long, value_name = "BYTES")]
    pub send_queue_bytes: Option<String>,
    /// How many bytes of rows are held to be sent to those who come; beyond it they are loaded again
    /// [default: 536870912]
    #[arg(long, value_name = "BYTES")]
    pub row_bytes: Option<String>,
    /// The directory of the log of changes, from which clients that were away are brought up to date
    /// [default: rowtide-log]
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<String>,
    /// How long changes are kept in that log [default: 86400]
    #[arg(long, value_name = "SECONDS")]
    pub log_seconds: Option<String>,
    /// How large that log may become; beyond it the oldest changes go first [default: 4294967296]
    #[arg(long, value_name = "BYTES")]
    pub log_bytes: Option<String>,
    /// The directory of live documents [default: `documents` below the directory of the log]
    #[arg(long, value_name = "DIR")]
    pub documents_dir: Option<String>,
    /// Where live documents are stored, as s3://bucket/prefix or file:///directory; their edits since are in the directory
    /// of live documents [default: `objects` in that directory]
    #[arg(long, value_name = "URL")]
    pub storage_url: Option<String>,
    /// How many connections to Postgres load rows, 1 to 64: no more loads run at a time, however many
    /// clients arrive together [default: 1]
    #[arg(long, value_name = "NUMBER")]
    pub load_connections: Option<String>,
    /// The largest message from a client; a larger one closes its connection [default: 4194304]
    #[arg(long, value_name = "BYTES")]
    pub max_message_bytes: Option<String>,
    /// The largest mutation; a larger one is rejected [default: 1048576]
    #[arg(long, value_name = "BYTES")]
    pub max_mutation_bytes: Option<String>,
    /// The most operations of one mutation, 1 to 500 [default: 500]
    #[arg(long, value_name = "NUMBER")]
    pub ops_per_mutation: Option<String>,
    /// How many connects and operations of mutations one user may have in a minute, 0 for any number: a mutation over it
    /// waits [default: 600]
    #[arg(long, value_name = "NUMBER")]
    pub requests_per_minute: Option<String>,
    /// How many requests without a token one address may have in a minute: for what is published, to come to documents and to
    /// connect; 0 for any number: behind a proxy all have one [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub requests_per_address: Option<String>,
    /// The same database behind a transaction pooler, for mutations alone [default: the database's URL]
    #[arg(long, value_name = "URL")]
    pub mutation_database_url: Option<String>,
    /// How many connections to Postgres apply mutations, 1 to 1000 [default: 10]
    #[arg(long, value_name = "NUMBER")]
    pub mutation_connections: Option<String>,
    /// Whether statements are prepared, true or false; false behind a pooler that hands out a connection
    /// for each transaction and does not know of them [default: true]
    #[arg(long, value_name = "BOOL")]
    pub prepared_statements: Option<String>,
    /// How many seconds Postgres may take for one answer to a mutation, 1 to 3600, before the connection is given up and
    /// the mutation tried over another [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub mutation_answer_seconds: Option<String>,
    /// How many sessions one user may have at a time, and ten times as many tabs of older clients [default: 50]
    #[arg(long, value_name = "NUMBER")]
    pub sessions_per_user: Option<String>,
    /// How many connections there may be, 1 to 1000000; fewer where the system allows fewer open files. Beyond it
    /// only health and metrics are answered [default: 100000]
    #[arg(long, value_name = "NUMBER")]
    pub max_connections: Option<String>,
    /// How many connections there may be from one address, 0 for any number: behind a proxy all have one
    /// [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub connections_per_address: Option<String>,
    /// After how many days a client id is removed that nobody connects with, up to 36500, give or take a week; 0: never
    /// [default: 400]
    #[arg(long, value_name = "DAYS")]
    pub unused_client_days: Option<String>,
    /// Whether sessions of the older protocol outlive the tokens that they came with, true or false [default: true]
    #[arg(long, value_name = "BOOL")]
    pub older_sessions_outlive_tokens: Option<String>,
}

/// Where documents are going to be stored.
#[derive(Clone, Debug)]
pub struct StorageTrial {
    /// The directory of documents.
    pub dir: PathBuf,
    /// Another storage, if there is one.
    pub url: Option<StorageUrl>,
}

/// Why the configuration cannot be used.
#[derive(Debug, Error, Diagnostic)]
pub enum ConfigError {
    /// What to log cannot be read.
    #[error("the log level `{given}` cannot be read: {why}")]
    #[diagnostic(help("give a level, or levels by part, such as `info,rowtide_gateway=debug`"))]
    LogLevel {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something in the file is wrong.
    #[error("{message}")]
    File {
        /// What is wrong.
        message: String,
        /// The file's text.
        #[source_code]
        source_code: Arc<NamedSource<String>>,
        /// Where.
        #[label("here")]
        place: SourceSpan,
        /// What may be written.
        #[help]
        help: String,
    },
    /// A variable of the environment is not known.
    #[error("the environment variable `{name}` is not a setting")]
    #[diagnostic(help("the settings are {known}"))]
    Variable {
        /// The variable.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The value of a variable of the environment is no text.
    #[error("the value of the environment variable `{name}` is not UTF-8")]
    #[diagnostic(help("set it anew, or unset it"))]
    NotText {
        /// The variable.
        name: String,
    },
    /// A setting is given twice in one place, by its name and by its former one.
    #[error("`{former}` and `{name}` are one setting, and both are given")]
    #[diagnostic(help("leave `{former}` out: it is the former name"))]
    Twice {
        /// The former name, as it is written there.
        former: String,
        /// The name, as it is written there.
        name: String,
    },
    /// A value does not fit.
    #[error("`{name}` is `{value}`: {expected}")]
    Value {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// A setting is missing.
    #[error("`{name}` is not set")]
    #[diagnostic(help("set it as --{flag}, as {variable} or in the configuration file"))]
    Missing {
        /// The setting.
        name: &'static str,
        /// Its flag.
        flag: String,
        /// Its variable.
        variable: String,
    },
    /// The database's URL cannot be used.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Number(i64),
}

/// Variables that begin with `ROWTIDE_` and are read elsewhere: by the command line, and by tests.
const NOT_SETTINGS: [&str; 7] =
    ["PG_BIN", "CONFIG", "LOG", "LOG_LEVEL", "LOG_FORMAT", "HISTORIES", "SEED"];

/// The value of a variable of the environment.
///
/// # Errors
/// When it is not UTF-8.
pub(crate) fn as_text(name: &str, value: OsString) -> Result<String, ConfigError> {
    value.into_string().map_err(|_| ConfigError::NotText { name: name.to_owned() })
}

/// Why a value was not put into a setting.
enum NotPut {
    /// No setting has this name.
    Unknown,
    /// It has one already.
    Twice(ConfigError),
}

impl Settings {
    /// Every setting by its name, in the order of `--help`.
    fn fields(&mut self) -> [(&'static str, &mut Option<String>); 32] {
        [
            ("database_url", &mut self.database_url),
            ("definition", &mut self.definition),
            ("listen", &mut self.listen),
            ("environment", &mut self.environment),
            ("token_secret", &mut self.token_secret),
            ("jwks", &mut self.jwks),
            ("jwks_seconds", &mut self.jwks_seconds),
            ("issuer", &mut self.issuer),
            ("audience", &mut self.audience),
            ("engines", &mut self.engines),
            ("send_queue_bytes", &mut self.send_queue_bytes),
            ("row_bytes", &mut self.row_bytes),
            ("log_dir", &mut self.log_dir),
            ("log_seconds", &mut self.log_seconds),
            ("log_bytes", &mut self.log_bytes),
            ("documents_dir", &mut self.documents_dir),
            ("storage_url", &mut self.storage_url),
            ("load_connections", &mut self.load_connections),
            ("max_message_bytes", &mut self.max_message_bytes),
            ("max_mutation_bytes", &mut self.max_mutation_bytes),
            ("ops_per_mutation", &mut self.ops_per_mutation),
            ("requests_per_minute", &mut self.requests_per_minute),
            ("requests_per_address", &mut self.requests_per_address),
            ("mutation_database_url", &mut self.mutation_database_url),
            ("mutation_connections", &mut self.mutation_connections),
            ("prepared_statements", &mut self.prepared_statements),
            ("mutation_answer_seconds", &mut self.mutation_answer_seconds),
            ("sessions_per_user", &mut self.sessions_per_user),
            ("max_connections", &mut self.max_connections),
            ("connections_per_address", &mut self.connections_per_address),
            ("unused_client_days", &mut self.unused_client_days),
            ("older_sessions_outlive_tokens", &mut self.older_sessions_outlive_tokens),
        ]
    }

    fn names() -> String {
        let mut settings = Settings::default();
        settings.fields().map(|(name, _)| name).join(", ")
    }

    /// Puts a value into the setting that is `given` by its name or by its former one, of which it warns. Names are
    /// `written` in messages as they are where the value comes from.
    fn put(
        &mut self,
        given: &str,
        value: String,
        written: impl Fn(&str) -> String,
    ) -> Result<(), NotPut> {
        let name = current_name(given);
        let mut fields = self.fields();
        let field = fields.iter_mut().find(|(known, _)| *known == name);
        let (_, field) = field.ok_or(NotPut::Unknown)?;
        if let (Some(_), Some(former)) = (&field, former_name(name)) {
            let (former, name) = (written(former), written(name));
            return Err(NotPut::Twice(ConfigError::Twice { former, name }));
        }
        if given != name {
            warn_of_former_name(&written(given), &written(name));
        }
        **field = Some(value);
        Ok(())
    }

    /// These flags, with those that were given by the former names of their settings.
    ///
    /// # Errors
    /// When a setting was given by both.
    pub fn with_former_flags(mut self, former: FormerFlags) -> Result<Settings, ConfigError> {
        for (given, value) in former.given() {
            let written = |name: &str| format!("--{}", name.replace('_', "-"));
            self.put(given, value, written).map_err(|not_put| match not_put {
                NotPut::Unknown => {
                    ConfigError::Variable { name: written(given), known: Settings::names() }
                }
                NotPut::Twice(error) => error,
            })?;
        }
        Ok(self)
    }

    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// When it is not TOML, or holds what is not a setting.
    pub fn from_file(path: &Path, text: &str) -> Result<Settings, ConfigError> {
        let fail = |message: String, place: std::ops::Range<usize>| ConfigError::File {
            message,
            source_code: Arc::new(NamedSource::new(path.display().to_string(), text.to_owned())),
            place: place.into(),
            help: format!("the settings are {}", Settings::names()),
        };
        type Table = std::collections::BTreeMap<Spanned<String>, Spanned<toml::Value>>;
        let table: Table = toml::from_str(text)
            .map_err(|error| fail(error.message().to_owned(), error.span().unwrap_or(0..0)))?;
        let mut settings = Settings::default();
        for (name, value) in table {
            let place = value.span();
            let value = match value.into_inner().try_into::<Scalar>() {
                Ok(Scalar::Text(text)) => text,
                Ok(Scalar::Number(number)) => number.to_string(),
                Err(_) => return Err(fail("a setting is text or a number".to_owned(), place)),
            };
            // Told here, where it can be shown, unless there is a secret in it.
            if name.get_ref() == "storage_url"
                && !value.contains('@')
                && let Err(error) = value.parse::<StorageUrl>()
            {
                return Err(fail(error.to_string(), place));
            }
            settings.put(name.get_ref(), value, str::to_owned).map_err(|not_put| {
                let message = match not_put {
                    NotPut::Unknown => format!("`{}` is not a setting", name.get_ref()),
                    NotPut::Twice(error) => error.to_string(),
                };
                fail(message, name.span())
            })?;
        }
        Ok(settings)
    }

    /// Reads the variables of the environment. `DATABASE_URL` is known too. What others have there is no matter, and need
    /// not even be text.
    ///
    /// # Errors
    /// When a variable that begins with `ROWTIDE_` is not a setting, or the value of one that is read is not UTF-8.
    pub fn from_environment(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Settings, ConfigError> {
        let mut settings = Settings::default();
        let mut database_url = None;
        for (name, value) in variables {
            // A name that is no text is no setting, and is told of as far as it can be written.
            let name = name.to_string_lossy().into_owned();
            if name == "DATABASE_URL" {
                database_url = Some(as_text(&name, value)?);
                continue;
            }
            let Some(known) = name.strip_prefix("ROWTIDE_") else { continue };
            if NOT_SETTINGS.contains(&known) {
                continue;
            }
            let value = as_text(&name, value)?;
            let written = |name: &str| format!("ROWTIDE_{}", name.to_uppercase());
            settings.put(&known.to_lowercase(), value, written).map_err(
                |not_put| match not_put {
                    NotPut::Unknown => ConfigError::Variable { name, known: Settings::names() },
                    NotPut::Twice(error) => error,
                },
            )?;
        }
        settings.database_url = settings.database_url.or(database_url);
        Ok(settings)
    }

    /// What is set here, and for the rest what is set in `lower`.
    #[must_use]
    pub fn over(mut self, mut lower: Settings) -> Settings {
        for ((_, high), (_, low)) in self.fields().into_iter().zip(lower.fields()) {
            if high.is_none() {
                *high = low.take();
            }
        }
        self
    }

    /// The layers together: flags over environment over file.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn read(flags: Settings, file: Option<&Path>) -> Result<Settings, ConfigError> {
        let environment = Settings::from_environment(std::env::vars_os())?;
        let file = match file {
            None => Settings::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
                Settings::from_file(path, &text)?
            }
        };
        Ok(flags.over(environment).over(file))
    }

    /// As `rowtide dev` has them: what leads to a database, or says what is where for a server that is deployed, counts
    /// as a `flag` alone. Whoever has exported it for `rowtide serve` does not mean a private PostgreSQL with sample
    /// data, nor tokens for anyone that the server takes. Returned with the names of what was set and does not count.
    #[must_use]
    pub fn of_dev(mut self, flags: &Settings) -> (Settings, Vec<&'static str>) {
        const DEPLOYED: [&str; 7] = [
            "database_url",
            "mutation_database_url",
            "environment",
            "log_dir",
            "documents_dir",
            "storage_url",
            "token_secret",
        ];
        let mut flags = flags.clone();
        let mut ignored = Vec::new();
        for ((name, value), (_, flag)) in self.fields().into_iter().zip(flags.fields()) {
            if DEPLOYED.contains(&name) && *value != *flag {
                *value = flag.take();
                ignored.push(name);
            }
        }
        (self, ignored)
    }

    /// The definition's file.
    pub fn definition_path(&self) -> PathBuf {
        PathBuf::from(self.definition.as_deref().unwrap_or("rowtide.toml"))
    }

    /// The database and the names of things in it.
    ///
    /// # Errors
    /// When there is no URL, or one of both does not fit.
    pub fn database(&self) -> Result<(ConnectOptions, Names), ConfigError> {
        let url = self.database_url.as_deref().ok_or_else(|| ConfigError::Missing {
            name: "database_url",
            flag: "database-url".to_owned(),
            variable: "DATABASE_URL".to_owned(),
        })?;
        let environment = self.environment.as_deref().unwrap_or("default");
        let names = Names::of(environment).ok_or_else(|| ConfigError::Value {
            name: "environment",
            value: environment.to_owned(),
            expected: "expected 1 to 40 of a-z 0-9 _".to_owned(),
        })?;
        Ok((ConnectOptions::parse(url)?, names))
    }

    /// Where documents are stored, if that is not the directory of documents.
    fn storage(&self) -> Result<Option<StorageUrl>, ConfigError> {
        let Some(text) = &self.storage_url else { return Ok(None) };
        text.parse().map(Some).map_err(|error: BadStorageUrl| ConfigError::Value {
            name: "storage_url",
            // What stands before an @ is a secret that does not belong here.
            value: text.rsplit_once('@').map_or(text.clone(), |(_, place)| format!("…@{place}")),
            expected: error.to_string(),
        })
    }

    /// What a server is going to do with the database, for trying it, and where it is going to store documents.
    ///
    /// # Errors
    /// When one of the settings of that does not fit.
    pub fn trial(&self) -> Result<(Trial, StorageTrial), ConfigError> {
        // How tokens are checked has no part in it, and need not be set where it is tried.
        let token_secret = self.token_secret.clone().or(Some(String::new()));
        let config = Settings { token_secret, ..self.clone() }.check()?;
        let storage = StorageTrial { dir: config.documents_dir, url: config.storage };
        let trial = Trial {
            mutations: config.mutation_database.unwrap_or_else(|| config.database.clone()),
            database: config.database,
            prepared_statements: config.prepared_statements,
            load_connections: config.load_connections,
            mutation_connections: config.mutation_connections,
        };
        Ok((trial, storage))
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// At the first that is missing or does not fit.
    pub fn check(&self) -> Result<Config, ConfigError> {
        let (database, names) = self.database()?;
        let number = |name, given: &Option<String>, default: usize, min: usize, max: usize| {
            let Some(text) = given else { return Ok(default) };
            text.parse::<usize>().ok().filter(|value| (min..=max).contains(value)).ok_or_else(
                || {
                    let expected = format!("expected a number from {min} to {max}");
                    ConfigError::Value { name, value: text.clone(), expected }
                },
            )
        };
        let listen = self.listen.as_deref().unwrap_or("127.0.0.1:4400");
        let listen = listen.parse().map_err(|_| ConfigError::Value {
            name: "listen",
            value: listen.to_owned(),
            expected: "expected an address and a port, such as 127.0.0.1:4400".to_owned(),
        })?;
        if self.token_secret.is_none() && self.jwks.is_none() {
            return Err(ConfigError::Missing {
                name: "token_secret` or `jwks",
                flag: "jwks".to_owned(),
                variable: "ROWTIDE_TOKEN_SECRET".to_owned(),
            });
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(64);
        let queue = limits::SEND_QUEUE_BYTES;
        let (retention, bytes) =
            (limits::LOG_RETENTION.as_secs() as usize, limits::LOG_BYTES as usize);
        let most = 366 * 24 * 60 * 60;
        let retention = number("log_seconds", &self.log_seconds, retention, 60, most)?;
        // Like every name that is stored it carries the environment.
        let dir = match &self.log_dir {
            Some(dir) => Path::new(dir).join(&names.slot),
            None => log_dir(Path::new(""), "rowtide-log", "rowtide-history", Some(&names.slot)),
        };
        // Beside the log's own directory and not in it: nothing but the log is there.
        let documents_dir = match &self.documents_dir {
            Some(dir) => Path::new(dir).join(&names.slot),
            None => dir.parent().unwrap_or(Path::new("")).join("documents").join(&names.slot),
        };
        let storage = self.storage()?;
        let log = LogOptions {
            dir,
            retention: Duration::from_secs(retention as u64),
            max_bytes: number("log_bytes", &self.log_bytes, bytes, 1 << 20, 1 << 50)? as u64,
        };
        let client = ClientLimits::default();
        let truth = |name, given: &Option<String>| {
            let text = given.as_deref().unwrap_or("true");
            text.parse::<bool>().map_err(|_| ConfigError::Value {
                name,
                value: text.to_owned(),
                expected: "expected true or false".to_owned(),
            })
        };
        let prepared = truth("prepared_statements", &self.prepared_statements)?;
        let outlive = &self.older_sessions_outlive_tokens;
        let pooled = self.mutation_database_url.as_deref().map(ConnectOptions::parse);
        Ok(Config {
            database,
            names,
            definition: self.definition_path(),
            listen,
            connections: ConnectionLimits {
                connections: number(
                    "max_connections",
                    &self.max_connections,
                    limits::CONNECTIONS,
                    1,
                    1_000_000,
                )?,
                per_address: number(
                    "connections_per_address",
                    &self.connections_per_address,
                    0,
                    0,
                    1_000_000,
                )?,
                ..ConnectionLimits::default()
            },
            auth: AuthOptions {
                secret: self.token_secret.clone(),
                jwks: self.jwks.clone(),
                issuer: self.issuer.clone(),
                audience: self.audience.clone(),
                jwks_age: Duration::from_secs(number(
                    "jwks_seconds",
                    &self.jwks_seconds,
                    limits::JWKS_MAX_AGE.as_secs() as usize,
                    10,
                    86_400,
                )? as u64),
            },
            engines: number("engines", &self.engines, cores, 1, 64)?,
            send_queue_bytes: number(
                "send_queue_bytes",
                &self.send_queue_bytes,
                queue,
                4096,
                1 << 32,
            )?,
            log,
            documents_dir,
            storage,
            row_bytes: number("row_bytes", &self.row_bytes, limits::ROW_BYTES, 0, 1 << 50)?,
            load_connections: number(
                "load_connections",
                &self.load_connections,
                limits::LOAD_CONNECTIONS,
                1,
                64,
            )?,
            client: ClientLimits {
                message_bytes: number(
                    "max_message_bytes",
                    &self.max_message_bytes,
                    client.message_bytes,
                    1024,
                    1 << 28,
                )?,
                mutation_bytes: number(
                    "max_mutation_bytes",
                    &self.max_mutation_bytes,
                    client.mutation_bytes,
                    1024,
                    1 << 28,
                )?,
                ops_per_mutation: number(
                    "ops_per_mutation",
                    &self.ops_per_mutation,
                    client.ops_per_mutation,
                    1,
                    limits::OPS_PER_MUTATION,
                )?,
                sessions_per_user: number(
                    "sessions_per_user",
                    &self.sessions_per_user,
                    client.sessions_per_user,
                    1,
                    100_000,
                )?,
                requests_per_minute: number(
                    "requests_per_minute",
                    &self.requests_per_minute,
                    limits::REQUESTS_PER_MINUTE,
                    0,
                    1_000_000_000,
                )? as u32,
                requests_per_address: number(
                    "requests_per_address",
                    &self.requests_per_address,
                    0,
                    0,
                    1_000_000_000,
                )? as u32,
                unused_clients: match number(
                    "unused_client_days",
                    &self.unused_client_days,
                    limits::UNUSED_CLIENT_DAYS,
                    0,
                    36_500,
                )? {
                    0 => None,
                    days => Some(Duration::from_secs(86_400 * days as u64)),
                },
                removal_every: client.removal_every,
                older_sessions_outlive_tokens: truth("older_sessions_outlive_tokens", outlive)?,
            },
            mutation_database: pooled.transpose()?,
            mutation_answer: Duration::from_secs(number(
                "mutation_answer_seconds",
                &self.mutation_answer_seconds,
                limits::MUTATION_ANSWER_SECONDS,
                1,
                3600,
            )? as u64),
            mutation_connections: number(
                "mutation_connections",
                &self.mutation_connections,
                limits::MUTATION_CONNECTIONS,
                1,
                1_000,
            )?,
            prepared_statements: prepared,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Settings, ConfigError> {
        Settings::from_file(Path::new("server.toml"), text)
    }

    fn environment(name: &str, value: &str) -> Result<Settings, ConfigError> {
        Settings::from_environment([(name.into(), value.into())])
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let file = file("listen = '1.1.1.1:1'\nissuer = 'file'\nengines = 3").unwrap();
        let environment = environment("ROWTIDE_LISTEN", "2.2.2.2:2").unwrap();
        let flags = Settings { issuer: Some("flag".to_owned()), ..Settings::default() };
        let settings = flags.over(environment).over(file);
        assert_eq!(settings.listen.as_deref(), Some("2.2.2.2:2"));
        assert_eq!(settings.issuer.as_deref(), Some("flag"));
        assert_eq!(settings.engines.as_deref(), Some("3"));
    }

    #[test]
    fn what_is_not_a_setting_is_named() {
        let error = file("listne = '1.1.1.1:1'").unwrap_err().to_string();
        assert_eq!(error, "`listne` is not a setting");
        let error = environment("ROWTIDE_LISTNE", "x").unwrap_err().to_string();
        assert_eq!(error, "the environment variable `ROWTIDE_LISTNE` is not a setting");
        assert!(file("listen = [1]").is_err());
        assert!(file("listen = ").is_err());
    }

    #[test]
    fn a_former_name_is_taken_and_one_who_gives_both_is_told() {
        let former =
            "outbox_bytes = 5000\nhistory_dir = 'a'\nhistory_seconds = 60\nhistory_bytes = 1048576";
        let settings = file(former).unwrap();
        assert_eq!(settings.send_queue_bytes.as_deref(), Some("5000"));
        assert_eq!(settings.log_dir.as_deref(), Some("a"));
        assert_eq!(settings.log_seconds.as_deref(), Some("60"));
        assert_eq!(settings.log_bytes.as_deref(), Some("1048576"));
        // In whichever layer, and whichever name it has there, the higher one wins.
        let higher =
            environment("ROWTIDE_HISTORY_DIR", "b").unwrap().over(file("log_dir = 'a'").unwrap());
        assert_eq!(higher.log_dir.as_deref(), Some("b"));
        let higher =
            environment("ROWTIDE_LOG_DIR", "b").unwrap().over(file("history_dir = 'a'").unwrap());
        assert_eq!(higher.log_dir.as_deref(), Some("b"));
        for text in ["log_dir = 'a'\nhistory_dir = 'a'", "history_dir = 'a'\nlog_dir = 'a'"] {
            let error = file(text).unwrap_err().to_string();
            assert_eq!(error, "`history_dir` and `log_dir` are one setting, and both are given");
        }
        let both = ["ROWTIDE_OUTBOX_BYTES", "ROWTIDE_SEND_QUEUE_BYTES"];
        let both = both.map(|name| (name.into(), "4096".into()));
        let error = Settings::from_environment(both).unwrap_err().to_string();
        let expected = "`ROWTIDE_OUTBOX_BYTES` and `ROWTIDE_SEND_QUEUE_BYTES` are one setting, and both are given";
        assert_eq!(error, expected);
        // Nobody is told of names that go away.
        assert!(!Settings::names().contains("history") && !Settings::names().contains("outbox"));
    }

    #[test]
    fn a_storage_that_is_none_is_shown_in_the_file() {
        let text = "listen = '1.1.1.1:1'\nstorage_url = 'ftp://bucket'";
        let ConfigError::File { message, place, .. } = file(text).unwrap_err() else {
            panic!("it is not shown");
        };
        assert_eq!(message, "expected file:///directory or s3://bucket/prefix");
        assert_eq!(&text[place.offset()..][..place.len()], "'ftp://bucket'");
        assert!(file("storage_url = 's3://bucket/prefix'").is_ok());
    }

    #[test]
    fn dev_takes_what_leads_to_a_database_from_flags_alone() {
        let variables = [
            ("DATABASE_URL", "postgres://me@db/app"),
            ("ROWTIDE_MUTATION_DATABASE_URL", "postgres://me@pooler/app"),
            ("ROWTIDE_TOKEN_SECRET", "of production"),
            ("ROWTIDE_LISTEN", "1.1.1.1:1"),
        ];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let environment = Settings::from_environment(variables).unwrap();
        let file = file("environment = 'production'\nlog_dir = '/var/lib/rowtide'").unwrap();
        let flags = Settings { log_dir: Some("here".to_owned()), ..Settings::default() };
        let (dev, ignored) = flags.clone().over(environment).over(file).of_dev(&flags);
        assert_eq!(
            ignored,
            ["database_url", "environment", "token_secret", "mutation_database_url"]
        );
        assert_eq!((dev.database_url, dev.mutation_database_url), (None, None));
        assert_eq!((dev.environment, dev.token_secret), (None, None));
        assert_eq!(dev.log_dir.as_deref(), Some("here"));
        assert_eq!(dev.listen.as_deref(), Some("1.1.1.1:1"));
    }

    #[test]
    fn a_value_that_does_not_fit_is_named() {
        let good = Settings {
            database_url: Some("postgres://me@localhost/db".to_owned()),
            token_secret: Some("x".repeat(32)),
            ..Settings::default()
        };
        assert!(good.check().is_ok());
        let check = |change: fn(&mut Settings)| {
            let mut settings = good.clone();
            change(&mut settings);
            settings.check().unwrap_err().to_string()
        };
        assert!(check(|s| s.engines = Some("0".to_owned())).starts_with("`engines` is `0`"));
        assert!(check(|s| s.listen = Some("here".to_owned())).starts_with("`listen` is `here`"));
        assert!(check(|s| s.environment = Some("Über".to_owned())).starts_with("`environment`"));
        let secret = check(|s| s.storage_url = Some("s3://key:secret@bucket".to_owned()));
        assert!(secret.starts_with("`storage_url` is `…@bucket`: expected s3://"), "{secret}");
        assert!(check(|s| s.token_secret = None).contains("`token_secret` or `jwks` is not set"));
        assert!(check(|s| s.database_url = None).contains("`database_url` is not set"));
        assert!(check(|s| s.database_url = Some("postgres://h/db".to_owned())).contains("no user"));
    }
}
