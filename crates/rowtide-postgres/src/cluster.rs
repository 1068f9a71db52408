//! A private PostgreSQL cluster, for `rowtide dev` and for tests: its own directory, its own socket,
//! no TCP port, the server binaries that are installed. As root the server runs as an unprivileged
//! user, because Postgres refuses root. A cluster of `rowtide dev` is kept for the next start and is
//! taken over if it still runs; one of a test ends with the process that started it, however that
//! ends, and leaves nothing behind.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio_postgres::Client;

use crate::connect::{ConnectError, ConnectOptions, connect};

/// How long the server may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest path of a socket that every system takes, in bytes, without the socket's own name.
const MAX_SOCKET_PATH: usize = 80;
/// The superuser of the cluster.
const SUPERUSER: &str = "postgres";

/// Why there is no cluster.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// No server binaries were found.
    #[error(
        "no PostgreSQL server was found. Install one (Debian, Ubuntu: `apt-get install postgresql`; \
         Fedora: `dnf install postgresql-server`; macOS: `brew install postgresql`), or name the \
         directory of its binaries in ROWTIDE_PG_BIN"
    )]
    NotInstalled,
    /// The directory was made by another major version.
    #[error(
        "`{}` was made by PostgreSQL {found}, but the server that was found is {installed}; move it \
         away, or name the binaries of {found} in ROWTIDE_PG_BIN", dir.display()
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
    /// The file system refused.
    #[error("cannot prepare `{}`: {source}", path.display())]
    Files {
        /// What was to be made.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program of PostgreSQL's failed.
    #[error("`{program}` failed: {said}{hint}")]
    Program {
        /// Its name.
        program: String,
        /// What it said.
        said: String,
        /// What may help.
        hint: &'static str,
    },
    /// The server did not become ready.
    #[error("PostgreSQL did not start within {PATIENCE:?}: {0}")]
    NotReady(ConnectError),
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    binaries: PathBuf,
    data: PathBuf,
    socket: PathBuf,
    user: Option<User>,
    /// Of a test's cluster: ends when its standard input is closed.
    keeper: Option<Child>,
    adopted: bool,
}

#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

impl Cluster {
    /// Starts the cluster that is kept in `dir`, made if it is not there, or takes over the one that
    /// runs already. `progress` is told what takes long.
    ///
    /// # Errors
    /// When there is no server, or it cannot be started.
    pub async fn start(dir: &Path, progress: impl Fn(&str)) -> Result<Cluster, ClusterError> {
        let mut cluster = Cluster::prepare(dir, "on", &progress)?;
        cluster.adopted = cluster.connect("postgres").await.is_ok();
        if cluster.adopted {
            return Ok(cluster);
        }
        progress("starting PostgreSQL");
        let log = cluster.data.join("server.log");
        let options = format!("-k '{}'", cluster.socket.display());
        let mut command = cluster.command("pg_ctl");
        command.arg("start").arg("-w").arg("-D").arg(&cluster.data).arg("-l").arg(&log);
        // Not ended by the Ctrl-C that is meant for us: we stop it in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.args(["-o", &options]).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().map_err(|source| files(&cluster.binaries, source))?;
        if !status.success() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let last = said.lines().rev().take(3).collect::<Vec<_>>().join("; ");
            return Err(ClusterError::Program {
                program: "pg_ctl start".into(),
                said: last,
                hint: "",
            });
        }
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    /// Starts a cluster that lives no longer than this process, in a temporary directory, without
    /// the guarantee that it survives a power cut.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_temporary() -> Result<Cluster, ClusterError> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("rowtide-{}-{count}", std::process::id()));
        let mut cluster = Cluster::prepare(&dir, "off", &|_| {})?;
        // The shell outlives us if we are killed, sees its input end, and cleans up. It and the
        // server are in a group of their own, out of the reach of a Ctrl-C.
        let script = "trap '' INT; \"$1\" -D \"$2\" -k \"$3\" >\"$2/server.log\" 2>&1 & server=$!; \
                      read -r _; kill -QUIT $server; wait $server; rm -rf \"$4\"";
        let mut command = cluster.plain_command(Path::new("/bin/sh"));
        command.args(["-c", script, "sh"]);
        command.arg(cluster.binaries.join("postgres")).arg(&cluster.data).arg(&cluster.socket);
        command.arg(&dir);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        cluster.keeper =
            Some(command.spawn().map_err(|source| files(Path::new("/bin/sh"), source))?);
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    fn prepare(dir: &Path, fsync: &str, progress: &impl Fn(&str)) -> Result<Cluster, ClusterError> {
        let binaries = find_binaries().ok_or(ClusterError::NotInstalled)?;
        let user =
            if is_root() { Some(unprivileged_user().ok_or(ClusterError::NoUser)?) } else { None };
        make_dir(dir, user, 0o755)?;
        let dir = fs::canonicalize(dir).map_err(|source| files(dir, source))?;
        let socket = if dir.as_os_str().len() <= MAX_SOCKET_PATH {
            dir.join("socket")
        } else {
            // A socket's path has a limit that a directory's has not.
            let mut hasher = rustc_hash::FxHasher::default();
            std::hash::Hash::hash(&dir, &mut hasher);
            let name = format!("rowtide-{:016x}", std::hash::Hasher::finish(&hasher));
            std::env::temp_dir().join(name)
        };
        make_dir(&socket, user, 0o700)?;
        let data = dir.join("postgres");
        let cluster = Cluster { binaries, data, socket, user, keeper: None, adopted: false };
        if cluster.data.join("PG_VERSION").exists() {
            cluster.check_version()?;
            return Ok(cluster);
        }
        progress("creating a private PostgreSQL cluster");
        make_dir(&cluster.data, user, 0o700)?;
        let mut command = cluster.command("initdb");
        command.arg("-D").arg(&cluster.data).args(["-U", SUPERUSER, "-E", "UTF8", "--locale=C"]);
        command.args(["--auth=trust", "--no-sync", "--no-instructions"]);
        run(&mut command, "initdb")?;
        let settings = format!(
            "listen_addresses = ''\nwal_level = logical\nmax_wal_senders = 32\n\
             max_replication_slots = 32\nmax_connections = 200\nfsync = {fsync}\n\
             full_page_writes = {fsync}\nlog_min_messages = warning\n"
        );
        // The server's own user owns the file; we are that user or root.
        let path = cluster.data.join("postgresql.auto.conf");
        fs::write(&path, settings).map_err(|source| files(&path, source))?;
        Ok(cluster)
    }

    fn check_version(&self) -> Result<(), ClusterError> {
        let path = self.data.join("PG_VERSION");
        let found = fs::read_to_string(&path).map_err(|source| files(&path, source))?;
        let found = found.trim().to_owned();
        let said = run(self.command("postgres").arg("--version"), "postgres --version")?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let installed = said.split_whitespace().nth(2).unwrap_or_default().to_owned();
        if installed.split('.').next() == Some(found.as_str()) {
            return Ok(());
        }
        Err(ClusterError::Version { dir: self.data.clone(), found, installed })
    }

    fn command(&self, program: &str) -> Command {
        self.plain_command(&self.binaries.join(program))
    }

    fn plain_command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // The server's user may not be allowed to be where we are.
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
                Err(error) if Instant::now() > deadline => {
                    return Err(ClusterError::NotReady(error));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Whether it was running already when it was started.
    pub fn adopted(&self) -> bool {
        self.adopted
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
        format!("postgres://{SUPERUSER}@{socket}/{database}")
    }

    /// Connects to a database as superuser.
    ///
    /// # Errors
    /// When the server does not let us in.
    pub async fn connect(&self, database: &str) -> Result<Client, ConnectError> {
        let options = ConnectOptions::parse(&self.url(database))
            .expect("the URL of a cluster has a user, a host and a database");
        connect(&options, "dev").await
    }

    /// Creates a database if it is not there. The name must be a plain identifier.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_database(&self, name: &str) -> Result<(), ConnectError> {
        let client = self.connect("postgres").await?;
        let fail = |source| ConnectError { target: format!("database `{name}`"), source };
        let sql = "SELECT 1 FROM pg_database WHERE datname = $1";
        if client.query_opt(sql, &[&name]).await.map_err(fail)?.is_none() {
            let quoted = rowtide_plan::sql::quote_identifier(name);
            client.batch_execute(&format!("CREATE DATABASE {quoted}")).await.map_err(fail)?;
        }
        Ok(())
    }

    /// Stops the server in order. Blocks for as long as that takes.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(mut self) -> Result<(), ClusterError> {
        if self.keeper.is_some() {
            self.end_keeper();
            return Ok(());
        }
        let mut command = self.command("pg_ctl");
        command.arg("stop").arg("-w").args(["-m", "fast"]).arg("-D").arg(&self.data);
        run(&mut command, "pg_ctl stop").map(drop)
    }

    fn end_keeper(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            // Nothing is left to be done if it is gone already.
            drop(keeper.wait());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end_keeper();
    }
}

fn files(path: &Path, source: io::Error) -> ClusterError {
    ClusterError::Files { path: path.to_owned(), source }
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

fn make_dir(path: &Path, owner: Option<User>, mode: u32) -> Result<(), ClusterError> {
    let make = || {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        if let Some(user) = owner {
            chown(path, Some(user.uid), Some(user.gid))?;
        }
        Ok(())
    };
    make().map_err(|source| files(path, source))
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn unprivileged_user() -> Option<User> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let of = |wanted: &str| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (uid, gid) = (fields.nth(1)?, fields.next()?);
            (name == wanted).then_some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        })
    };
    of("postgres").or_else(|| of("nobody"))
}

/// The directory of the newest server binaries.
fn find_binaries() -> Option<PathBuf> {
    let has_server = |dir: &PathBuf| dir.join("initdb").is_file() && dir.join("postgres").is_file();
    if let Some(named) = std::env::var_os("ROWTIDE_PG_BIN") {
        return Some(PathBuf::from(named)).filter(has_server);
    }
    let versions = |root: &str, below: &str| {
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        let mut dirs: Vec<(u32, PathBuf)> = entries
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let version = name.trim_start_matches("postgresql@").parse().ok()?;
                Some((version, entry.path().join(below)))
            })
            .collect();
        dirs.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        dirs.into_iter().map(|(_, dir)| dir)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = versions("/usr/lib/postgresql", "bin")
        .chain(std::env::split_paths(&path))
        .chain(versions("/opt/homebrew/opt", "bin"))
        .chain(versions("/usr/local/opt", "bin"));
    candidates.into_iter().find(has_server)
}
