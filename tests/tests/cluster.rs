//! The private cluster: started, kept, taken over, stopped, and what it says when it cannot be.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rowtide_postgres::cluster::{Cluster, ClusterError};
use rowtide_tests::{Database, cluster, eventually};

/// A directory for one test, removed in the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("rowtide-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        // As root the server is another user, who must be able to get there.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

async fn start(dir: &Path) -> Result<Cluster, ClusterError> {
    Cluster::start(dir, |_| {}).await
}

fn postmaster_pid(dir: &Path) -> Option<u32> {
    let text = fs::read_to_string(dir.join("postgres/postmaster.pid")).ok()?;
    text.lines().next()?.parse().ok()
}

fn socket_of(cluster: &Cluster) -> PathBuf {
    socket_in(&cluster.url("postgres"))
}

fn socket_in(url: &str) -> PathBuf {
    let host = url.trim_start_matches("postgres://postgres@").trim_end_matches("/postgres");
    PathBuf::from(host.replace("%2F", "/"))
}

async fn setting(cluster: &Cluster, name: &str) -> String {
    let client = cluster.connect("postgres").await.unwrap();
    let row = client.query_one("SELECT current_setting($1)", &[&name]).await.unwrap();
    row.get(0)
}

#[tokio::test]
async fn a_cluster_is_kept_for_the_next_start() {
    let dir = Dir::new("kept");
    let cluster = start(&dir.0).await.unwrap();
    assert!(!cluster.adopted());
    cluster.create_database("app").await.unwrap();
    cluster.create_database("app").await.expect("making it again is no error");
    let client = cluster.connect("app").await.unwrap();
    client.batch_execute("CREATE TABLE kept (); INSERT INTO kept DEFAULT VALUES").await.unwrap();
    cluster.stop().unwrap();
    assert_eq!(postmaster_pid(&dir.0), None);

    let cluster = start(&dir.0).await.unwrap();
    assert!(!cluster.adopted());
    let client = cluster.connect("app").await.unwrap();
    assert_eq!(client.query("SELECT FROM kept", &[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn it_is_ready_for_logical_replication_and_listens_on_its_socket_alone() {
    let dir = Dir::new("settings");
    let cluster = start(&dir.0).await.unwrap();
    for (name, value) in [
        ("wal_level", "logical"),
        ("listen_addresses", ""),
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("server_encoding", "UTF8"),
    ] {
        assert_eq!(setting(&cluster, name).await, value, "{name}");
    }
    let mode = |path: &str| fs::metadata(dir.0.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("socket"), mode("postgres")), (0o700, 0o700));
    // For a test it may forget what a power cut takes, but not lag.
    let temporary = crate::cluster().await;
    assert_eq!(setting(temporary, "fsync").await, "off");
    assert_eq!(setting(temporary, "synchronous_commit").await, "on");
}

#[tokio::test]
async fn dropping_it_stops_the_server() {
    let dir = Dir::new("dropped");
    drop(start(&dir.0).await.unwrap());
    assert_eq!(postmaster_pid(&dir.0), None);
}

#[tokio::test]
async fn one_that_still_runs_after_a_crash_is_taken_over_and_stopped_in_the_end() {
    let dir = Dir::new("adopted");
    let crashed = start(&dir.0).await.unwrap();
    let pid = postmaster_pid(&dir.0).unwrap();
    // What a crash leaves: the lock is let go, and nobody stops the server.
    fs::remove_file(dir.0.join("lock")).unwrap();
    std::mem::forget(crashed);

    let cluster = start(&dir.0).await.unwrap();
    assert!(cluster.adopted());
    assert_eq!(postmaster_pid(&dir.0), Some(pid));
    cluster.stop().unwrap();
    assert_eq!(postmaster_pid(&dir.0), None);
}

#[tokio::test]
async fn one_that_was_killed_recovers() {
    let dir = Dir::new("killed");
    let cluster = start(&dir.0).await.unwrap();
    let client = cluster.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE kept ()").await.unwrap();
    let pid = postmaster_pid(&dir.0).unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    eventually("the server is gone", || async { client.is_closed().then_some(()) }).await;
    drop(cluster);

    // Its children end by themselves, one after the other, and until then have what they share.
    let cluster = eventually("it recovers", || async { start(&dir.0).await.ok() }).await;
    assert!(!cluster.adopted());
    let client = cluster.connect("postgres").await.unwrap();
    client.batch_execute("SELECT FROM kept").await.unwrap();
}

#[tokio::test]
async fn two_do_not_share_a_directory() {
    let dir = Dir::new("shared");
    let first = start(&dir.0).await.unwrap();
    let error = start(&dir.0).await.unwrap_err();
    assert!(matches!(&error, ClusterError::InUse(_)), "{error}");
    assert!(error.to_string().contains("--dir"), "{error}");
    first.connect("postgres").await.expect("the first notices nothing");
}

#[tokio::test]
async fn a_directory_of_another_version_is_refused_and_not_touched() {
    let dir = Dir::new("version");
    start(&dir.0).await.unwrap().stop().unwrap();
    let version = dir.0.join("postgres/PG_VERSION");
    fs::write(&version, "9\n").unwrap();
    let error = start(&dir.0).await.unwrap_err();
    assert!(matches!(&error, ClusterError::Version { found, .. } if found == "9"), "{error}");
    assert_eq!(fs::read_to_string(&version).unwrap(), "9\n");
}

#[tokio::test]
async fn a_directory_that_is_half_made_is_made_anew() {
    let dir = Dir::new("half");
    fs::create_dir_all(dir.0.join("postgres.new/base")).unwrap();
    let cluster = start(&dir.0).await.unwrap();
    assert!(!dir.0.join("postgres.new").exists());
    cluster.connect("postgres").await.unwrap();
}

#[tokio::test]
async fn a_long_path_with_a_blank_and_a_quote_will_do() {
    let dir = Dir::new("long");
    let path = dir.0.join(format!("it's, {}", "x".repeat(100)));
    let cluster = start(&path).await.unwrap();
    cluster.connect("postgres").await.unwrap();
    let socket = socket_of(&cluster);
    assert!(!socket.starts_with(&dir.0), "the path would be too long for a socket");
    cluster.stop().unwrap();
    assert!(!socket.exists(), "nothing stays outside of the directory");
}

#[tokio::test]
async fn what_is_in_the_directory_already_keeps_its_owner_and_mode() {
    let dir = Dir::new("owner");
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o711)).unwrap();
    let before = fs::metadata(&dir.0).unwrap();
    drop(start(&dir.0).await.unwrap());
    let after = fs::metadata(&dir.0).unwrap();
    assert_eq!(after.permissions().mode(), before.permissions().mode());
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&after),
        std::os::unix::fs::MetadataExt::uid(&before)
    );
}

#[tokio::test]
async fn a_test_has_a_database_of_its_own_that_goes_with_it() {
    let database = Database::with("CREATE TABLE here ()").await;
    let name = database.name().to_owned();
    let client = database.connect().await;
    let slot = database.names().slot;
    let sql = "SELECT 1 FROM pg_create_logical_replication_slot($1, 'pgoutput')";
    client.query(sql, &[&slot]).await.unwrap();
    drop(database);
    let client = cluster().await.connect("postgres").await.unwrap();
    let sql = "SELECT 1 FROM pg_database WHERE datname = $1";
    assert!(client.query(sql, &[&name]).await.unwrap().is_empty());
    let sql = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1";
    assert!(client.query(sql, &[&slot]).await.unwrap().is_empty());
}

/// Run by the test below in a process of its own.
#[tokio::test]
#[ignore = "waits to be killed"]
async fn hold_a_cluster() {
    let cluster = Cluster::start_temporary(&[]).await.unwrap();
    println!("\nheld {}", cluster.url("postgres"));
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nothing_is_left_of_a_test_that_is_killed() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "hold_a_cluster", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url =
        lines.find_map(|line| line.unwrap().strip_prefix("held ").map(str::to_owned)).unwrap();
    let socket = socket_in(&url);
    let pid = postmaster_pid(socket.parent().unwrap()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the directory is gone", || async { (!socket.parent()?.exists()).then_some(()) })
        .await;
    let alive = Command::new("kill").args(["-0", &pid.to_string()]).stderr(Stdio::null()).status();
    assert!(!alive.unwrap().success(), "the server is gone");
}
