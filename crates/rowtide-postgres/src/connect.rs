//! Connections to Postgres: one way to read a URL, and one way to connect, for queries and for the
//! stream alike. Every connection has a name, and limits that end it when the other side is gone, so
//! that no ghost holds a lock.

use std::time::Duration;

use thiserror::Error;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::context::place;
use crate::session::{Amiss, STARTUP};
use crate::tls::{InvalidRoots, Trust};

/// How long the other side may be silent before a connection is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// How long connecting may take.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);

/// After how much silence of ours Postgres ends the stream, and the slot is free for the next server. We
/// are heard at least every ten seconds.
pub(crate) const WAL_SENDER_TIMEOUT: &str = "20s";

/// Settings of a session under which the text of every value has one form.
pub(crate) const TEXT_SETTINGS: [(&str, &str); 7] = [
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO,YMD"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    // Of `regclass` and its relatives.
    ("quote_all_identifiers", "off"),
    ("client_encoding", "UTF8"),
];

/// Where a database is, and how to get in.
#[derive(Clone)]
pub struct ConnectOptions {
    config: Config,
    trust: Trust,
}

/// The URL cannot be used.
#[derive(Debug, Error)]
pub enum InvalidUrl {
    /// Not a URL or a connection string of Postgres.
    #[error(
        "the database URL cannot be read: {0} (expected postgres://user:password@host:port/database)"
    )]
    Unreadable(#[source] tokio_postgres::Error),
    /// Something that is needed is not there.
    #[error("the database URL names no {0}")]
    Missing(&'static str),
    /// A kind of TLS that is not supported.
    #[error(
        "sslmode=verify-ca is not supported; use verify-full (the certificate must be for the host's \
         name), or require (any certificate)"
    )]
    VerifyCa,
    /// More than one host.
    #[error("the database URL names several hosts; name the primary alone")]
    SeveralHosts,
}

/// A connection could not be made. `target` names user, host and database; never the password.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The server could not be reached, or did not let us in.
    #[error("cannot connect to {target}: {}", reason(source))]
    Refused {
        /// Whereto.
        target: String,
        /// What Postgres or the system said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Whoever took the connection said nothing.
    #[error("cannot connect to {target}: there was no answer within {} s", patience.as_secs_f64())]
    Silent {
        /// Whereto.
        target: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// TLS cannot be set up.
    #[error("cannot connect to {target}: {source}")]
    Roots {
        /// Whereto.
        target: String,
        /// What is wrong.
        #[source]
        source: InvalidRoots,
    },
    /// The connection of the stream could not be made.
    #[error("cannot connect to {target} for the stream: {reason}")]
    Stream {
        /// Whereto.
        target: String,
        /// What Postgres or the system said, or which step failed.
        reason: String,
    },
}

impl ConnectError {
    /// What may help, where the words of Postgres or the system do not say.
    pub fn advice(&self) -> Option<&'static str> {
        let ConnectError::Refused { source, .. } = self else { return None };
        if let Some(database) = source.as_db_error() {
            return match database.code().code() {
                "28P01" => Some(
                    "the password in the URL is wrong, or the role has none, or there is no such role: Postgres \
                     does not tell them apart",
                ),
                "28000" if database.message().contains("pg_hba.conf") => Some(
                    "pg_hba.conf says on the server who may connect, from where and with TLS or not",
                ),
                "42501" => Some(
                    "the role may not connect to the database: GRANT CONNECT ON DATABASE … TO …",
                ),
                "53300" => Some(
                    "all connections that are allowed are in use, or the limit of the role or database is",
                ),
                "57P03" => Some("the server is starting up or shutting down; try again"),
                _ if database.message().contains("unsupported startup parameter") => Some(
                    "this is a pooler: let database_url lead to Postgres itself; the pooler can be the \
                     mutation_database_url, with ignore_startup_parameters = options",
                ),
                _ => None,
            };
        }
        let said = reason(source);
        if said.contains("password missing") {
            return Some("the server wants a password, and the URL has none");
        }
        if said.contains("not valid for name") || said.contains("NotValidForName") {
            return Some(
                "sslmode=verify-full: the server's certificate is for another name; connect by one that it names",
            );
        }
        if said.contains("UnknownIssuer") {
            return Some("sslmode=verify-full: name the authority's certificate in sslrootcert");
        }
        if said.contains("lookup address") || said.contains("resolve") {
            return Some("the host's name is not known here; is it spelled right?");
        }
        match system_error(source)?.kind() {
            std::io::ErrorKind::ConnectionRefused => Some(
                "nothing listens there: is Postgres running, and does it listen on this address and port \
                 (listen_addresses)?",
            ),
            std::io::ErrorKind::NotFound => {
                Some("there is no socket of Postgres in this directory: is it running?")
            }
            std::io::ErrorKind::TimedOut => Some(
                "there is no answer: is it the right address, and does a firewall let through?",
            ),
            _ => None,
        }
    }
}

/// The error of the operating system behind an error of the driver's.
fn system_error(error: &tokio_postgres::Error) -> Option<&std::io::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        source = cause.source();
    }
    None
}

/// What an error of the driver's says, in Postgres' own words where there are some.
pub fn reason(error: &tokio_postgres::Error) -> String {
    if let Some(database) = error.as_db_error() {
        // Since version 16 only the detail says which right is missing. Of other errors it may tell values of rows.
        let missing = *database.code() == SqlState::INSUFFICIENT_PRIVILEGE;
        return match database.detail().filter(|_| missing) {
            Some(detail) => format!("{} ({detail})", database.message()),
            None => database.message().to_owned(),
        };
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What an error of a statement over rows says, for the log: its message where that names things and not values.
pub fn reason_without_values(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| reason(error), message_without_values)
}

/// As [`reason_without_values`]. What a value is wrong with, which constraint it violates, and what is said within functions of
/// the application, tells of rows; then it is the code, the names that come with it, and the place.
pub fn message_without_values(error: &DbError) -> String {
    let code = error.code().code();
    let is_of_values =
        matches!(code.get(..2), Some("21" | "22" | "23" | "38" | "39" | "44" | "P0"));
    let is_raised = error.routine() == Some("exec_stmt_raise");
    let is_within = error.where_().is_some_and(|context| !context.is_empty());
    if !is_of_values && !is_raised && !is_within {
        return error.message().to_owned();
    }
    let names = [
        ("table", error.table()),
        ("column", error.column()),
        ("constraint", error.constraint()),
        ("type", error.datatype()),
    ];
    let mut text = format!("SQLSTATE {code}");
    for (what, name) in names {
        name.iter().for_each(|name| text += &format!(", {what} `{name}`"));
    }
    if let Some(place) = error.where_().and_then(place) {
        text += &format!(", {place}");
    }
    text
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConnectOptions({})", self.target())
    }
}

impl ConnectOptions {
    /// Reads `postgres://user:password@host:port/database?…`, or `host=… user=… dbname=…`. A host
    /// with a slash (`%2F` in a URL) is the directory of a socket.
    ///
    /// `sslmode` is `disable`, `prefer`, `require` or, in a URL, `verify-full`, for which
    /// `sslrootcert` names a PEM file of authorities (without it, the publicly trusted ones are
    /// believed). `options` sets what a session begins with, such as `-c statement_timeout=60s`.
    ///
    /// # Errors
    /// When it cannot be read, or names no user, host or database.
    pub fn parse(url: &str) -> Result<ConnectOptions, InvalidUrl> {
        let (url, trust) = take_trust(url)?;
        let config: Config = url.parse().map_err(InvalidUrl::Unreadable)?;
        if config.get_user().is_none_or(str::is_empty) {
            return Err(InvalidUrl::Missing("user"));
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err(InvalidUrl::Missing("database"));
        }
        match config.get_hosts() {
            [] => Err(InvalidUrl::Missing("host")),
            [_] => Ok(ConnectOptions { config, trust }),
            _ => Err(InvalidUrl::SeveralHosts),
        }
    }

    /// The database's name.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    /// The user's name.
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// User, host and database, for people.
    pub fn target(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => format!("{host}:{}", self.port()),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        format!("database `{}` at {host} as `{}`", self.database(), self.user())
    }

    pub(crate) fn port(&self) -> u16 {
        self.config.get_ports().first().copied().unwrap_or(5432)
    }

    /// Settings of the stream's session, as the `options` of a connection. Of two settings of one name the last
    /// one counts.
    pub(crate) fn stream_settings(&self, has_transaction_timeout: bool) -> String {
        let theirs = self.config.get_options().map(str::to_owned);
        // Between its commands Postgres takes it for idle, as any other session.
        let ours = TEXT_SETTINGS.iter().chain(&[
            ("wal_sender_timeout", WAL_SENDER_TIMEOUT),
            ("idle_session_timeout", "0"),
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
        ]);
        // Decoding is a transaction for Postgres; before 17 it does not know the setting.
        let ours = ours.chain(has_transaction_timeout.then_some(&("transaction_timeout", "0")));
        let ours = ours.map(|(name, value)| format!("-c {name}={value}"));
        theirs.into_iter().chain(ours).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn client_config(&self) -> Result<rustls::ClientConfig, InvalidRoots> {
        self.trust.client_config()
    }
}

/// How `application_name` begins of every connection of ours.
pub(crate) const APPLICATION: &str = "rowtide ";

/// Connects; `role` becomes part of `application_name`. The connection is driven by a task that ends
/// with the client. What is set for the role or the database does not change what the session relies on.
///
/// # Errors
/// When the server cannot be reached or does not let us in.
pub async fn connect(options: &ConnectOptions, role: &str) -> Result<Client, ConnectError> {
    let (client, amiss) = connect_shared(options, role).await?;
    let set = amiss.set(&client).await;
    set.map_err(|source| ConnectError::Refused { target: options.target(), source })?;
    Ok(client)
}

/// As [`connect`], over what may be a pooler: nothing is left behind in the session. Returns what each transaction has
/// to set.
pub(crate) async fn connect_shared(
    options: &ConnectOptions,
    role: &str,
) -> Result<(Client, Amiss), ConnectError> {
    connect_within(options, role, SILENCE).await
}

async fn connect_within(
    options: &ConnectOptions,
    role: &str,
    patience: Duration,
) -> Result<(Client, Amiss), ConnectError> {
    let mut config = options.config.clone();
    config
        .application_name(format!("{APPLICATION}{role}"))
        .connect_timeout(CONNECT)
        .keepalives(true)
        .keepalives_idle(SILENCE)
        .tcp_user_timeout(SILENCE);
    config.options(match options.config.get_options() {
        Some(theirs) => format!("{STARTUP} {theirs}"),
        None => STARTUP.to_owned(),
    });
    let target = || options.target();
    let tls = options.trust.client_config();
    let tls = tls.map_err(|source| ConnectError::Roots { target: target(), source })?;
    let role = role.to_owned();
    let connected = async {
        let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(role, error = reason(&error), "a connection to Postgres ended");
            }
        });
        let amiss = Amiss::ask(&client).await?;
        Ok((client, amiss))
    };
    // The driver bounds the time until somebody takes the connection, and not the time until they answer.
    let connected = timeout(patience, connected).await;
    let connected = connected.map_err(|_| ConnectError::Silent { target: target(), patience })?;
    connected.map_err(|source| ConnectError::Refused { target: target(), source })
}

/// Takes out of a URL what the driver does not know of TLS.
fn take_trust(url: &str) -> Result<(String, Trust), InvalidUrl> {
    let Some((place, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), Trust::Any));
    };
    let (mut verify, mut roots) = (false, None);
    let mut rest = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("sslmode", "verify-full")) => {
                verify = true;
                rest.push("sslmode=require");
            }
            Some(("sslmode", "verify-ca")) => return Err(InvalidUrl::VerifyCa),
            // The name that Postgres has for the publicly trusted ones.
            Some(("sslrootcert", "system")) => {}
            Some(("sslrootcert", path)) => roots = Some(percent_decoded(path).into()),
            _ => rest.push(pair),
        }
    }
    let trust = if verify { Trust::Host(roots) } else { Trust::Any };
    Ok((format!("{place}?{}", rest.join("&")), trust))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The names under which Rowtide keeps things in a database. They carry the environment, so that
/// two deployments on one server cannot take each other's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// The schema of Rowtide's own tables.
    pub schema: String,
}

impl Names {
    /// The names of an environment: 1 to 40 of `a-z 0-9 _`; `None` for other text.
    pub fn of(environment: &str) -> Option<Names> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if environment.is_empty() || environment.len() > 40 || !environment.bytes().all(plain) {
            return None;
        }
        let name = format!("rowtide_{environment}");
        let schema = if environment == "default" { "rowtide".to_owned() } else { name.clone() };
        Some(Names { slot: name.clone(), publication: name, schema })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_connection_strings_are_read() {
        for url in [
            "postgres://ann:p%40ss@db.example:5433/app",
            "postgresql://ann:p%40ss@db.example:5433/app?sslmode=require",
            "host=db.example port=5433 user=ann password=p@ss dbname=app",
        ] {
            let options = ConnectOptions::parse(url).unwrap();
            assert_eq!(options.target(), "database `app` at db.example:5433 as `ann`");
            assert_eq!(options.config.get_password(), Some(&b"p@ss"[..]));
        }
        let socket = ConnectOptions::parse("postgres://ann@%2Frun%2Fpg/app").unwrap();
        assert_eq!(socket.target(), "database `app` at /run/pg as `ann`");
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_without_the_password() {
        for (url, said) in [
            ("postgres://ann:s3cret@db/app?sslmode=verify-ca", "use verify-full"),
            ("postgres://ann:s3cret@db/app?sslmode=maybe", "sslmode"),
            ("postgres://ann:s3cret@db/app?sslcert=x", "sslcert"),
            ("postgres://ann:s3cret@db:port/app", "port"),
            ("postgres://ann:s3cret@db", "names no database"),
            ("postgres://:s3cret@db/app", "names no user"),
            ("postgres://ann:s3cret@/app", "host"),
            ("postgres://ann:s3cret@a,b/app", "several hosts"),
            ("mysql://ann:s3cret@db/app", "expected postgres://"),
            ("", "names no user"),
        ] {
            let error = ConnectOptions::parse(url).map(|_| ()).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(said), "{url}: {text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
        let options = ConnectOptions::parse("postgres://ann:s3cret@db/app").unwrap();
        assert!(!format!("{options:?}").contains("s3cret"));
    }

    #[test]
    fn the_url_says_whom_to_trust() {
        for (query, trust) in [
            ("", Trust::Any),
            ("?sslmode=disable", Trust::Any),
            ("?sslmode=require", Trust::Any),
            ("?sslmode=verify-full", Trust::Host(None)),
            ("?sslrootcert=system&sslmode=verify-full", Trust::Host(None)),
            (
                "?sslmode=verify-full&connect_timeout=3&sslrootcert=%2Fetc%2Fca.pem",
                Trust::Host(Some("/etc/ca.pem".into())),
            ),
        ] {
            let options = ConnectOptions::parse(&format!("postgres://ann@db/app{query}")).unwrap();
            assert_eq!(options.trust, trust, "{query}");
        }
    }

    #[test]
    fn names_carry_the_environment() {
        let names = Names::of("default").unwrap();
        assert_eq!((names.slot.as_str(), names.schema.as_str()), ("rowtide_default", "rowtide"));
        let names = Names::of("pr_12").unwrap();
        assert_eq!(
            (names.slot.as_str(), names.schema.as_str()),
            ("rowtide_pr_12", "rowtide_pr_12")
        );
        for wrong in ["", "Prod", "a-b", "a b", "ü", &"x".repeat(41)] {
            assert_eq!(Names::of(wrong), None, "{wrong:?}");
        }
    }

    /// As a pooler or a proxy does that takes connections and has stopped to work.
    #[tokio::test]
    async fn one_that_takes_connections_and_says_nothing_is_given_up() {
        let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("postgres://ann:s3cret@{}/app", silent.local_addr().unwrap());
        let options = ConnectOptions::parse(&url).unwrap();
        let connected = connect_within(&options, "test", Duration::from_millis(500));
        let connected = timeout(SILENCE, connected).await.expect("it is not waited for for ever");
        let Err(error) = connected else { panic!("nobody has answered") };
        let said = error.to_string();
        assert!(said.contains("there was no answer within 0.5 s"), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
}
