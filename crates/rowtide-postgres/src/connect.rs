//! Connections to Postgres: one way to read a URL, and one way to connect, for queries and for the
//! stream alike. Every connection has a name, and limits that end it when the other side is gone, so
//! that no ghost holds a lock.

use std::path::Path;
use std::time::Duration;

use pgwire_replication::{ReplicationConfig, TlsConfig};
use rowtide_protocol::Lsn;
use thiserror::Error;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long the other side may be silent before a connection is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Settings of a session under which the text of every value has one form.
pub(crate) const TEXT_SETTINGS: [(&str, &str); 6] = [
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO,YMD"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
];

/// Where a database is, and how to get in.
#[derive(Clone)]
pub struct ConnectOptions {
    config: Config,
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
    /// More than one host.
    #[error("the database URL names several hosts; name the primary alone")]
    SeveralHosts,
}

/// A connection could not be made.
#[derive(Debug, Error)]
#[error("cannot connect to {target}: {}", reason(source))]
pub struct ConnectError {
    /// User, host and database; never the password.
    pub target: String,
    /// What Postgres or the system said.
    #[source]
    pub source: tokio_postgres::Error,
}

/// What an error of the driver's says, in Postgres' own words where there are some.
pub fn reason(error: &tokio_postgres::Error) -> String {
    if let Some(database) = error.as_db_error() {
        return database.message().to_owned();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConnectOptions({})", self.target())
    }
}

impl ConnectOptions {
    /// Reads `postgres://…` or `host=… user=…`.
    ///
    /// # Errors
    /// When it cannot be read, or names no user, host or database.
    pub fn parse(url: &str) -> Result<ConnectOptions, InvalidUrl> {
        let config: Config = url.parse().map_err(InvalidUrl::Unreadable)?;
        if config.get_user().is_none_or(str::is_empty) {
            return Err(InvalidUrl::Missing("user"));
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err(InvalidUrl::Missing("database"));
        }
        match config.get_hosts() {
            [] => Err(InvalidUrl::Missing("host")),
            [_] => Ok(ConnectOptions { config }),
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

    fn port(&self) -> u16 {
        self.config.get_ports().first().copied().unwrap_or(5432)
    }

    /// The options of a replication connection.
    pub(crate) fn replication(
        &self,
        role: &str,
        slot: &str,
        publication: &str,
    ) -> ReplicationConfig {
        let (user, database) = (self.user(), self.database());
        let password = self.config.get_password().unwrap_or_default();
        let password = String::from_utf8_lossy(password).into_owned();
        let settings: Vec<String> =
            TEXT_SETTINGS.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
        let base = match self.config.get_hosts().first() {
            Some(Host::Unix(path)) => {
                let mut base = ReplicationConfig::unix(
                    path_text(path),
                    self.port(),
                    user,
                    password,
                    database,
                    slot,
                    publication,
                );
                base.tls = TlsConfig::disabled();
                base
            }
            Some(Host::Tcp(host)) => {
                let mut base =
                    ReplicationConfig::new(host, user, password, database, slot, publication)
                        .with_port(self.port());
                base.tls = match self.config.get_ssl_mode() {
                    SslMode::Disable | SslMode::Prefer => TlsConfig::disabled(),
                    _ => TlsConfig::verify_full(None),
                };
                base
            }
            None => ReplicationConfig::default(),
        };
        base.with_start_lsn(pgwire_replication::Lsn::from_u64(Lsn(0).0))
            .with_application_name(format!("rowtide {role}"))
            .with_options(settings.join(" "))
    }
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Connects; `role` becomes part of `application_name`. The connection is driven by a task that ends
/// with the client.
///
/// # Errors
/// When the server cannot be reached or does not let us in.
pub async fn connect(options: &ConnectOptions, role: &str) -> Result<Client, ConnectError> {
    let mut config = options.config.clone();
    config
        .application_name(format!("rowtide {role}"))
        .connect_timeout(CONNECT)
        .keepalives(true)
        .keepalives_idle(SILENCE)
        .tcp_user_timeout(SILENCE);
    let fail = |source| ConnectError { target: options.target(), source };
    // Over a local socket, or where the URL does not insist, nothing is encrypted.
    if matches!(config.get_ssl_mode(), SslMode::Disable | SslMode::Prefer) {
        let (client, connection) = config.connect(NoTls).await.map_err(fail)?;
        drive(role, connection);
        return Ok(client);
    }
    // Installed already is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // One that cannot be read only means that servers which need it are refused.
        drop(roots.add(certificate));
    }
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await.map_err(fail)?;
    drive(role, connection);
    Ok(client)
}

fn drive<C>(role: &str, connection: C)
where
    C: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    let role = role.to_owned();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(role, error = reason(&error), "a connection to Postgres ended");
        }
    });
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
