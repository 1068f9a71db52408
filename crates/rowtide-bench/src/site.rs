//! Where a scenario runs: a private cluster, a database of rooms with items and people who are members
//! of rooms, and the server as a process of its own, so that its memory and its time on the cores are
//! its own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use miette::{Context, IntoDiagnostic, Result, miette};
use rowtide_plan::definition::Definition;
use rowtide_postgres::cluster::Cluster;
use rowtide_postgres::connect::Names;
use rowtide_postgres::setup::setup;
use rowtide_protocol::Lsn;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::postgres_tools::{Length, Pgbench, script};
use crate::progress;
use rowtide::dev;

const DATABASE: &str = "bench";
const ENVIRONMENT: &str = "bench";
/// Commits one change of one random row.
const UPDATE: &str = "\\set id random(1, :items)\n\
                      UPDATE item SET stars = stars + 1, changed_at = now() WHERE id = :id;\n";
pub(crate) const DEFINITION: &str = r#"[tables.item]
visible = 'room IN (SELECT room FROM member WHERE person = auth.user_id)'
immutable = ["id", "room"]

[[tables.item.update]]
allow = 'EXISTS (SELECT FROM member WHERE room = old.room AND person = auth.user_id)'
"#;
const TABLES: &str = "
CREATE TABLE member (room integer, person text, PRIMARY KEY (room, person));
CREATE INDEX ON member (person);
CREATE TABLE item (
  id integer PRIMARY KEY,
  room integer NOT NULL,
  title text NOT NULL,
  author text NOT NULL,
  done boolean NOT NULL DEFAULT false,
  stars integer NOT NULL DEFAULT 0,
  changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON item (room);";

/// How many people there are, and who sees what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Population {
    pub(crate) people: u32,
    /// How many people are members of each room.
    pub(crate) viewers: u32,
    /// How many items each room, and so each person, has.
    pub(crate) rows: u32,
}

impl Population {
    fn rooms(self) -> u32 {
        self.people.div_ceil(self.viewers.max(1))
    }

    pub(crate) fn items(self) -> u64 {
        u64::from(self.rooms()) * u64::from(self.rows)
    }
}

/// What a scenario needs beside items and members of rooms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Annex<'a> {
    /// SQL that makes and fills it.
    pub(crate) tables: &'a str,
    /// What the definition says more.
    pub(crate) definition: &'a str,
}

/// What every scenario is given.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    /// Where the private cluster and what the server writes are kept.
    pub(crate) dir: PathBuf,
    /// The server.
    pub(crate) program: PathBuf,
}

/// A cluster, a database, and the server once it was started.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) population: Population,
    pub(crate) names: Names,
    ground: Ground,
    script: PathBuf,
    secret: String,
    http: reqwest::Client,
    listen: SocketAddr,
    server: Option<Server>,
}

struct Server {
    process: Child,
    address: SocketAddr,
}

/// What `/health/ready` says that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Health {
    /// `None` before the stream has one; an older server says `0/0` then.
    pub(crate) position: Option<Lsn>,
    pub(crate) load_queries: u64,
    pub(crate) loaded_rows: u64,
    pub(crate) sessions: u64,
}

impl Site {
    pub(crate) async fn prepare(ground: &Ground, population: Population) -> Result<Site> {
        Site::prepare_with(ground, population, Annex::default()).await
    }

    /// As [`Site::prepare`], with an annex.
    pub(crate) async fn prepare_with(
        ground: &Ground,
        population: Population,
        annex: Annex<'_>,
    ) -> Result<Site> {
        let dir = ground.dir.as_path();
        let secret = dev::secret(dir)?;
        let cluster = Cluster::start(dir, progress).await.into_diagnostic()?;
        progress("filling a database");
        let names = Names::of(ENVIRONMENT).ok_or_else(|| miette!("the names do not fit"))?;
        let postgres = cluster.connect("postgres").await.into_diagnostic()?;
        // A scenario that was cut off leaves slots, and a database with slots cannot be dropped.
        postgres
            .batch_execute(&format!(
                "SELECT pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name) \
                 FROM pg_replication_slots WHERE database = '{DATABASE}'"
            ))
            .await
            .into_diagnostic()?;
        let sql = format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)");
        postgres.batch_execute(&sql).await.into_diagnostic()?;
        cluster.create_database(DATABASE).await.into_diagnostic()?;
        let client = cluster.connect(DATABASE).await.into_diagnostic()?;
        let Population { people, viewers, rows } = population;
        let rooms = population.rooms();
        let fill = format!(
            "{TABLES}
             INSERT INTO member SELECT (n - 1) / {viewers} + 1, 'p' || n FROM generate_series(1, {people}) n;
             INSERT INTO item (id, room, title, author)
               SELECT (room - 1) * {rows} + n, room, 'Item ' || n || ' of room ' || room, 'p' || room
               FROM generate_series(1, {rooms}) room, generate_series(1, {rows}) n;
             {}",
            annex.tables
        );
        let definition = format!("{DEFINITION}{}", annex.definition);
        client.batch_execute(&fill).await.into_diagnostic()?;
        client.batch_execute("VACUUM ANALYZE").await.into_diagnostic()?;
        // Held up on purpose, a stream would be ended for its silence.
        let patient = format!("ALTER DATABASE {DATABASE} SET wal_sender_timeout = 0");
        client.batch_execute(&patient).await.into_diagnostic()?;
        let parsed = Definition::parse("bench.toml", &definition)?;
        setup(&client, &names, &parsed.tables()).await.into_diagnostic()?;
        client.batch_execute("CHECKPOINT").await.into_diagnostic()?;
        fs::write(dir.join("bench.toml"), definition)
            .into_diagnostic()
            .wrap_err("cannot write the definition")?;
        let script = script(dir, "update.sql", UPDATE)?;
        // Of another database.
        drop(fs::remove_dir_all(dir.join("log")));
        let http = reqwest::Client::new();
        let listen = ([127, 0, 0, 1], 0).into();
        let ground = ground.clone();
        Ok(Site { cluster, population, names, ground, script, secret, http, listen, server: None })
    }

    /// Where the server keeps its log of changes.
    pub(crate) fn log_dir(&self) -> PathBuf {
        self.ground.dir.join("log")
    }

    /// A connection to the database.
    pub(crate) async fn connect(&self) -> Result<tokio_postgres::Client> {
        self.cluster.connect(DATABASE).await.into_diagnostic()
    }

    pub(crate) fn url(&self) -> String {
        self.cluster.url(DATABASE)
    }

    /// `pgbench` with one change of one random item a transaction.
    pub(crate) async fn write(
        &self,
        writers: u32,
        length: Length,
        rate: Option<u32>,
        durable: bool,
    ) -> Result<crate::postgres_tools::Written> {
        let items = self.population.items();
        let variables = [("items", items)];
        Pgbench {
            binaries: self.cluster.binaries(),
            url: &self.url(),
            script: &self.script,
            writers,
            length,
            rate,
            variables: &variables,
            durable,
        }
        .run()
        .await
    }

    /// Starts the server and waits until it is ready.
    pub(crate) async fn serve(&mut self) -> Result<()> {
        progress("starting the server");
        let mut command = Command::new(&self.ground.program);
        for (name, _) in std::env::vars_os() {
            // What a person set for a server of theirs is not meant for this one.
            if name.to_string_lossy().starts_with("ROWTIDE_") {
                command.env_remove(name);
            }
        }
        // By the names that a server of before knows as well; that they are former ones now need not be said.
        let mut process = command
            .arg("serve")
            .env("DATABASE_URL", self.url())
            .env("ROWTIDE_DEFINITION", self.ground.dir.join("bench.toml"))
            .env("ROWTIDE_ENVIRONMENT", ENVIRONMENT)
            .env("ROWTIDE_HISTORY_DIR", self.log_dir())
            .env("ROWTIDE_LISTEN", self.listen.to_string())
            .env("ROWTIDE_TOKEN_SECRET", &self.secret)
            .env("ROWTIDE_REQUESTS_PER_MINUTE", "0")
            .env("ROWTIDE_LOG", "warn,rowtide::former_names=off")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .into_diagnostic()
            .wrap_err("cannot start the server")?;
        let stdout = process.stdout.take().ok_or_else(|| miette!("the server has no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await.into_diagnostic()? {
                if let Some(address) = line.strip_prefix("ready http://") {
                    return address.parse().into_diagnostic();
                }
            }
            Err(miette!("the server ended before it was ready"))
        };
        let address = timeout(Duration::from_secs(60), ready)
            .await
            .map_err(|_| miette!("the server did not get ready"))??;
        // Where clients know it to be, also when it is started again.
        self.listen = address;
        self.server = Some(Server { process, address });
        Ok(())
    }

    fn server(&self) -> Result<&Server> {
        self.server.as_ref().ok_or_else(|| miette!("the server was not started"))
    }

    pub(crate) fn address(&self) -> Result<SocketAddr> {
        Ok(self.server()?.address)
    }

    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.server()?.process.id().ok_or_else(|| miette!("the server has ended"))
    }

    pub(crate) async fn health(&self) -> Result<Health> {
        let url = format!("http://{}/health/ready", self.address()?);
        let body =
            self.http.get(url).send().await.into_diagnostic()?.bytes().await.into_diagnostic()?;
        let health: Value = serde_json::from_slice(&body).into_diagnostic()?;
        let number = |name: &str| health[name].as_u64();
        let read = || {
            let position = match &health["position"] {
                Value::Null => None,
                position => Some(position.as_str()?.parse().ok()?),
            };
            let (load_queries, loaded_rows) = (number("loadQueries")?, number("loadedRows")?);
            Some(Health { position, load_queries, loaded_rows, sessions: number("sessions")? })
        };
        read().ok_or_else(|| miette!("the server's health is not understood: {health}"))
    }

    /// What `/metrics` says under a name without labels.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64> {
        let url = format!("http://{}/metrics", self.address()?);
        let text =
            self.http.get(url).send().await.into_diagnostic()?.text().await.into_diagnostic()?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.ok_or_else(|| miette!("the server says nothing of {name}"))?;
        value.trim().parse().into_diagnostic()
    }

    /// Where the WAL ends.
    pub(crate) async fn wal_end(&self) -> Result<Lsn> {
        let client = self.connect().await?;
        let row = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await;
        let text: String = row.into_diagnostic()?.get(0);
        text.parse().map_err(|_| miette!("`{text}` is not a position in the WAL"))
    }

    /// Ends the server.
    pub(crate) async fn end_server(&mut self) -> Result<()> {
        match self.server.take() {
            Some(mut server) => server.process.kill().await.into_diagnostic(),
            None => Ok(()),
        }
    }

    /// Stops server and cluster.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.end_server().await?;
        let cluster = self.cluster;
        let stopped = tokio::task::spawn_blocking(move || cluster.stop()).await;
        stopped.into_diagnostic()?.into_diagnostic()
    }
}
