//! A Postgres of one test that may die: killed at any moment and started again, copied while it is
//! stopped, followed by a standby that takes its place. Unlike the cluster that tests share it is kept
//! in a directory of the test, and recovers from what is in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rowtide_postgres::cluster::Cluster;
use tokio_postgres::Client;

use crate::proxy::Upstream;
use crate::{Dir, eventually};

/// How long Postgres may take to start; others build and test on the same machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// One Postgres, which runs or not.
pub struct Node {
    dir: PathBuf,
    cluster: Option<Cluster>,
}

impl Node {
    /// Makes a cluster below `dir` and starts it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(dir: &Dir, name: &str) -> Node {
        let mut node = Node { dir: dir.path().join(name), cluster: None };
        node.start_again().await;
        // A killed process loses nothing that it has written to the system; a power cut is not tried.
        node.set("fsync", "off").await;
        node
    }

    /// Starts it after a stop or a kill.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.cluster.is_none() {
            match Cluster::start(&self.dir, |_| ()).await {
                Ok(cluster) => self.cluster = Some(cluster),
                // The children of one that was killed are still going.
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    /// Stops it in order.
    ///
    /// # Panics
    /// When it does not run or does not stop.
    pub fn stop(&mut self) {
        let cluster = self.cluster.take().expect("it runs");
        let stopped = tokio::task::block_in_place(|| cluster.stop());
        stopped.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Kills it as it stands.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill(&mut self) {
        let pid = postmaster(&self.data()).expect("it runs");
        kill(pid);
        eventually("it is gone", || async { (!alive(pid)).then_some(()) }).await;
        // It finds nothing to stop.
        drop(self.cluster.take());
    }

    /// Kills one of its sessions, upon which Postgres ends all others and recovers.
    pub async fn crash(&self) {
        let Ok(client) = self.cluster().connect("postgres").await else { return };
        if let Ok(row) = client.query_one("SELECT pg_backend_pid()", &[]).await {
            kill(row.get::<_, i32>(0).unsigned_abs());
        }
    }

    /// Copies the directory of one that is stopped.
    ///
    /// # Panics
    /// When it runs, or cannot be copied.
    pub fn copy(&self, dir: &Dir, name: &str) -> Node {
        assert!(self.cluster.is_none(), "what runs is not copied");
        let copy = Node { dir: dir.path().join(name), cluster: None };
        copy.take_from(self);
        copy
    }

    /// Takes the place of its directory with that of `backup`; both are stopped.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn restore(&self, backup: &Node) {
        assert!(self.cluster.is_none(), "what runs is not replaced");
        fs::remove_dir_all(self.data()).expect("it can be removed");
        self.take_from(backup);
    }

    fn take_from(&self, other: &Node) {
        fs::create_dir_all(&self.dir).expect("a directory can be made");
        // As root, with the owner that Postgres runs as.
        let copied = Command::new("cp").arg("-a").arg(other.data()).arg(self.data()).status();
        assert!(copied.expect("there is a cp").success(), "it cannot be copied");
    }

    /// Lets a copy follow `primary` when it is started, without its slots unless they are to be kept.
    ///
    /// # Panics
    /// When it cannot be set up.
    pub fn follow(&self, primary: &Node, slots: bool) {
        let settings = self.data().join("postgresql.auto.conf");
        let mut text = fs::read_to_string(&settings).expect("it has settings");
        let socket = primary.socket();
        let host = socket.parent().expect("it is in a directory").display();
        text += &format!("primary_conninfo = 'host={host} user=postgres'\n");
        fs::write(&settings, text).expect("settings can be written");
        fs::write(self.data().join("standby.signal"), "").expect("a file can be written");
        if !slots {
            let slots = self.data().join("pg_replslot");
            for slot in slots.read_dir().expect("it has slots").flatten() {
                fs::remove_dir_all(slot.path()).expect("a slot can be removed");
            }
        }
    }

    /// Waits until a standby has all that `primary` has written.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn catch_up_with(&self, primary: &Node) {
        let end: String = primary.one("SELECT pg_current_wal_flush_lsn()::text").await;
        let sql = format!("SELECT (pg_last_wal_replay_lsn() >= '{end}')::text");
        eventually("the standby catches up", || async {
            (self.one(&sql).await == "true").then_some(())
        })
        .await;
    }

    /// Makes a standby the primary: another timeline begins.
    ///
    /// # Panics
    /// When it does not become one.
    pub async fn promote(&self) {
        assert_eq!(self.one("SELECT pg_promote()::text").await, "true");
    }

    /// Changes a setting that needs no restart.
    ///
    /// # Panics
    /// When Postgres refuses.
    pub async fn set(&self, name: &str, value: &str) {
        let client = self.connect("postgres").await;
        let set = format!("ALTER SYSTEM SET {name} = '{value}'");
        client.batch_execute(&set).await.unwrap_or_else(|error| panic!("{error:?}"));
        let shown = format!("SHOW {name}");
        let before: String = client.query_one(&shown, &[]).await.expect("a setting").get(0);
        client.batch_execute("SELECT pg_reload_conf()").await.expect("it reads them again");
        eventually("the setting holds", || async {
            let now: String = client.query_one(&shown, &[]).await.ok()?.get(0);
            (now != before || now == value).then_some(())
        })
        .await;
    }

    /// Moves WAL on by some segments and lets go of what no slot keeps.
    ///
    /// # Panics
    /// When Postgres refuses.
    pub async fn wear(&self, segments: usize) {
        let client = self.connect("postgres").await;
        for _ in 0..segments {
            let sql = "SELECT pg_logical_emit_message(false, 'wear', 'x'); SELECT pg_switch_wal()";
            client.batch_execute(sql).await.expect("WAL can be switched");
        }
        client.batch_execute("CHECKPOINT").await.expect("a checkpoint can be made");
    }

    /// Connects to a database as superuser.
    ///
    /// # Panics
    /// When it does not let us in.
    pub async fn connect(&self, database: &str) -> Client {
        let connected = self.cluster().connect(database).await;
        connected.unwrap_or_else(|error| panic!("{error}"))
    }

    /// What a query for one text answers.
    ///
    /// # Panics
    /// When it does not answer with one row.
    pub async fn one(&self, sql: &str) -> String {
        let row = self.connect("postgres").await.query_one(sql, &[]).await;
        row.unwrap_or_else(|error| panic!("{error:?}\nin: {sql}")).get(0)
    }

    /// The cluster.
    ///
    /// # Panics
    /// When it does not run.
    pub fn cluster(&self) -> &Cluster {
        self.cluster.as_ref().expect("it runs")
    }

    /// Whether it runs, as far as it was not killed by others.
    pub fn runs(&self) -> bool {
        self.cluster.is_some()
    }

    /// Where a proxy finds it.
    pub fn upstream(&self) -> Upstream {
        Upstream::Unix(self.socket())
    }

    /// The end of what it has logged.
    pub fn log(&self) -> String {
        let log = fs::read(self.data().join("server.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn data(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("socket/.s.PGSQL.5432")
    }
}

fn postmaster(data: &Path) -> Option<u32> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    text.lines().next()?.parse().ok()
}

fn kill(pid: u32) {
    let killed = Command::new("kill").args(["-s", "KILL", &pid.to_string()]).status();
    assert!(killed.expect("there is a kill").success(), "{pid} cannot be killed");
}

fn alive(pid: u32) -> bool {
    let asked = Command::new("kill").args(["-0", &pid.to_string()]).output();
    asked.is_ok_and(|asked| asked.status.success())
}
