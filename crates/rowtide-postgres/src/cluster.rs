//! A private PostgreSQL cluster for `rowtide dev` and for tests. It uses the installed server binaries, and
//! has its own directory and socket, but no TCP port. Users who can access the socket's directory (its owner
//! and root) connect without a password. If this process is root, the server runs as an unprivileged user,
//! because Postgres does not run as root. The cluster of `rowtide dev` stays for the next start, which
//! adopts it if it still runs. The cluster of a test ends with the process that started it, even if that
//! process is killed, and leaves no files behind.

mod binaries;
mod place;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio_postgres::Client;

use self::place::{
    User, files, give, is_root, lock, make_dir, make_temporary_dir, server_user, socket_dir,
};
use crate::connect::{ConnectError, ConnectOptions, connect, reason};

/// How long the server may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time between two attempts to connect to a server that is starting.
const POLL: Duration = Duration::from_millis(20);
/// Postgres' default port.
const DEFAULT_PORT: &str = "5432";
/// The superuser of the cluster.
const SUPERUSER: &str = "postgres";

/// Why a cluster could not be started or used.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// No server binaries were found.
    #[error(
        "no PostgreSQL server was found. Install one (Debian, Ubuntu: `apt-get install postgresql`; \
         Fedora: `dnf install postgresql-server`; macOS: `brew install postgresql`), or name the \
         directory of its binaries in ROWTIDE_PG_BIN"
    )]
    NotInstalled,
    /// `ROWTIDE_PG_BIN` is wrong.
    #[error("ROWTIDE_PG_BIN names `{}`, which does not hold initdb, pg_ctl and postgres", .0.display())]
    NoBinariesIn(PathBuf),
    /// Another process of ours uses the directory.
    #[error("another rowtide uses `{}`; stop it, or choose another directory with --dir", .0.display())]
    InUse(PathBuf),
    /// The directory was made by another major version.
    #[error(
        "`{}` was made by PostgreSQL {found}, but the server that was found is {installed}; install \
         PostgreSQL {found}, name its binaries in ROWTIDE_PG_BIN, or move the directory away to \
         begin anew", dir.display()
    )]
    Version {
        /// The data directory.
        dir: PathBuf,
        /// Its version.
        found: String,
        /// The binaries' version.
        installed: String,
    },
    /// Running as root, and no user to run Postgres as.
    #[error("Postgres does not run as root, and there is neither a user `postgres` nor `nobody`")]
    NoUser,
    /// An operation on files failed.
    #[error("cannot prepare `{}`: {source}", path.display())]
    Files {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A program of PostgreSQL failed.
    #[error("`{program}` failed: {said}{hint}")]
    Program {
        /// Its name.
        program: String,
        /// Its output.
        said: String,
        /// What may help.
        hint: &'static str,
    },
    /// Connecting to the server failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A database could not be created.
    #[error("cannot create database `{name}`: {}", reason(source))]
    Database {
        /// Its name.
        name: String,
        /// The error of Postgres.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server did not become ready.
    #[error(
        "PostgreSQL in `{}` was not ready within {PATIENCE:?}: {source}{said}. If no PostgreSQL runs \
         there, remove `postmaster.pid`", data.display()
    )]
    NotReady {
        /// The data directory.
        data: PathBuf,
        /// The error of the last attempt to connect.
        source: ConnectError,
        /// The end of the server's log.
        said: String,
    },
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    binaries: PathBuf,
    data: PathBuf,
    socket: PathBuf,
    port: String,
    user: Option<User>,
    /// The process that watches over a test's cluster. It ends the cluster when its standard input closes.
    keeper: Option<Child>,
    /// The lock on the directory of a cluster that stays for the next start.
    lock: Option<File>,
    adopted: bool,
}

impl Cluster {
    /// Starts the cluster in `dir`, and creates it first if there is none; adopts it if it runs already.
    /// Calls `progress` before steps that take long. Dropping the cluster stops it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or the server cannot be started.
    pub async fn start(dir: &Path, progress: impl Fn(&str)) -> Result<Cluster, ClusterError> {
        fs::create_dir_all(dir).map_err(|source| files(dir, source))?;
        let lock = lock(dir)?;
        let mut cluster = Cluster::prepare(dir, "on", &progress)?;
        if cluster.runs().await? {
            cluster.adopted = true;
            cluster.lock = Some(lock);
            return Ok(cluster);
        }
        // With the lock set, dropping the cluster stops the server.
        cluster.lock = Some(lock);
        progress("starting PostgreSQL");
        let log = cluster.log();
        let mut command = cluster.command("pg_ctl");
        command.arg("start").arg("-w").arg("-D").arg(&cluster.data).arg("-l").arg(&log);
        // A group of its own, so that a Ctrl-C does not reach the server: Rowtide stops it in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.arg("-o").arg(format!("-k {}", cluster.socket.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().map_err(|source| files(&cluster.binaries, source))?;
        if !status.success() {
            let said = cluster.end_of_log();
            return Err(ClusterError::Program { program: "pg_ctl start".into(), said, hint: "" });
        }
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    /// Starts a cluster that lives no longer than this process, in a temporary directory, without
    /// the guarantee that it survives a power cut. `settings` come on top of the usual ones.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_temporary(settings: &[(&str, &str)]) -> Result<Cluster, ClusterError> {
        let dir = make_temporary_dir()?;
        let mut cluster = Cluster::prepare(&dir, "off", &|_| {})?;
        // The server's user removes the directory in the end.
        give(&dir, cluster.user).map_err(|source| files(&dir, source))?;
        // If this process is killed, the shell goes on, sees the end of its input, and cleans up. The shell
        // and the server are in a group of their own, so that a Ctrl-C does not reach them.
        let script = r#"
            dir=$1; log=$2; shift 2
            "$@" >"$log" 2>&1 &
            server=$!
            read -r _
            kill -QUIT $server
            wait $server
            rm -rf "$dir""#;
        let mut command = cluster.plain_command(Path::new("/bin/sh"));
        command.args(["-c", script, "sh"]).arg(&dir).arg(cluster.log());
        command.arg(cluster.binaries.join("postgres"));
        command.arg("-D").arg(&cluster.data).arg("-k").arg(&cluster.socket);
        for (name, value) in settings {
            if *name == "port" {
                (*value).clone_into(&mut cluster.port);
            }
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        cluster.keeper =
            Some(command.spawn().map_err(|source| files(Path::new("/bin/sh"), source))?);
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    fn prepare(dir: &Path, fsync: &str, progress: &impl Fn(&str)) -> Result<Cluster, ClusterError> {
        let dir = fs::canonicalize(dir).map_err(|source| files(dir, source))?;
        let data = dir.join("postgres");
        let version = data.join("PG_VERSION");
        let version = match fs::read_to_string(&version) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(files(&version, source)),
        };
        let binaries = binaries::find(&data, version.as_deref())?;
        let user =
            if is_root() { Some(server_user(&data).ok_or(ClusterError::NoUser)?) } else { None };
        let socket = socket_dir(&dir);
        make_dir(&socket, user)?;
        let cluster = Cluster {
            binaries,
            data,
            socket,
            port: DEFAULT_PORT.to_owned(),
            user,
            keeper: None,
            lock: None,
            adopted: false,
        };
        if version.is_none() {
            progress("creating a private PostgreSQL cluster");
            cluster.create(fsync)?;
        }
        Ok(cluster)
    }

    /// Creates the data directory under another name and renames it, so that it is never incomplete.
    fn create(&self, fsync: &str) -> Result<(), ClusterError> {
        let new = self.data.with_extension("new");
        if new.exists() {
            fs::remove_dir_all(&new).map_err(|source| files(&new, source))?;
        }
        make_dir(&new, self.user)?;
        let mut command = self.command("initdb");
        command.arg("-D").arg(&new).args(["-U", SUPERUSER, "-E", "UTF8", "--locale=C"]);
        command.args(["--auth=trust", "--no-sync", "--no-instructions"]);
        run(&mut command, "initdb")?;
        // `synchronous_commit` stays on. Without it the stream would wait for the WAL writer.
        let settings = format!(
            "listen_addresses = ''\nwal_level = logical\nmax_wal_senders = 64\n\
             max_replication_slots = 64\nmax_connections = 200\nfsync = {fsync}\n\
             full_page_writes = {fsync}\nlog_min_messages = warning\n"
        );
        // The server's user owns the file, and this process is that user or root.
        let path = new.join("postgresql.auto.conf");
        fs::write(&path, settings).map_err(|source| files(&path, source))?;
        fs::rename(&new, &self.data).map_err(|source| files(&self.data, source))
    }

    fn log(&self) -> PathBuf {
        self.data.join("server.log")
    }

    /// The last lines of the server's log, for an error.
    fn end_of_log(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }

    /// Whether a server runs on the data directory. Waits for one that is starting or stopping.
    async fn runs(&self) -> Result<bool, ClusterError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.command("pg_ctl").arg("status").arg("-D").arg(&self.data).output();
            if !status.map_err(|source| files(&self.binaries, source))?.status.success() {
                return Ok(false);
            }
            match self.connect("postgres").await {
                Ok(_) => return Ok(true),
                Err(error) if Instant::now() > deadline => return Err(self.not_ready(error)),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    fn command(&self, program: &str) -> Command {
        self.plain_command(&self.binaries.join(program))
    }

    fn plain_command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // The server's user may have no access to the current directory.
        command.current_dir("/").env_remove("PGDATA").env("LC_ALL", "C");
        if let Some(user) = self.user {
            std::os::unix::process::CommandExt::gid(&mut command, user.gid);
            std::os::unix::process::CommandExt::uid(&mut command, user.uid);
        }
        command
    }

    async fn wait_until_ready(&self) -> Result<(), ClusterError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.connect("postgres").await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(self.not_ready(error)),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    fn not_ready(&self, source: ConnectError) -> ClusterError {
        let said = self.end_of_log();
        let said = if said.is_empty() { said } else { format!(" ({said})") };
        ClusterError::NotReady { data: self.data.clone(), source, said }
    }

    /// Whether the server was running already.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The directory of this version's programs.
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// The URL of a database, as its superuser.
    pub fn url(&self, database: &str) -> String {
        let socket: String = self
            .socket
            .to_string_lossy()
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect();
        // For a server that listens only on its socket the port is just a part of the socket's name.
        let port = if self.port == DEFAULT_PORT { "" } else { &format!(":{}", self.port) };
        format!("postgres://{SUPERUSER}@{socket}{port}/{database}")
    }

    /// Connects to a database as superuser.
    ///
    /// # Errors
    /// When connecting fails.
    pub async fn connect(&self, database: &str) -> Result<Client, ConnectError> {
        let options = ConnectOptions::parse(&self.url(database))
            .expect("the URL of a cluster has a user, a host and a database");
        connect(&options, "dev").await
    }

    /// Creates a database if it does not exist.
    ///
    /// # Errors
    /// When connecting or creating fails.
    pub async fn create_database(&self, name: &str) -> Result<(), ClusterError> {
        let client = self.connect("postgres").await?;
        let fail = |source| ClusterError::Database { name: name.to_owned(), source };
        let sql = "SELECT 1 FROM pg_database WHERE datname = $1";
        if client.query_opt(sql, &[&name]).await.map_err(fail)?.is_none() {
            let quoted = rowtide_plan::sql::quote_identifier(name);
            client.batch_execute(&format!("CREATE DATABASE {quoted}")).await.map_err(fail)?;
        }
        Ok(())
    }

    /// Stops the server in order. Blocks for as long as that takes, at most half a minute.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(mut self) -> Result<(), ClusterError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), ClusterError> {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            // An error means that it has ended already, and then there is nothing left to do.
            drop(keeper.wait());
        }
        if self.lock.is_none() {
            return Ok(());
        }
        let stop = |mode: &str| {
            let mut command = self.command("pg_ctl");
            command.arg("stop").arg("-D").arg(&self.data).args(["-w", "-t", "15", "-m", mode]);
            run(&mut command, "pg_ctl stop")
        };
        // A fast stop waits for replication clients, and one that does not answer may delay it.
        let stopped = stop("fast").or_else(|_| stop("immediate")).map(drop);
        if !self.data.parent().is_some_and(|dir| self.socket.starts_with(dir)) {
            // In the directory for temporary files nobody else would remove it.
            drop(fs::remove_dir(&self.socket));
        }
        self.lock = None;
        stopped
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "the private cluster was not stopped");
        }
    }
}

fn run(command: &mut Command, program: &str) -> Result<Output, ClusterError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| files(Path::new(program), source))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let hint = if said.contains("Permission denied") {
        " (as root, Postgres runs as another user, who must be able to reach the directory: choose \
         another with --dir, or run as an ordinary user)"
    } else {
        ""
    };
    Err(ClusterError::Program { program: program.to_owned(), said, hint })
}
