//! A disk that is full while the server runs: it says so, the stream waits in Postgres, nothing is lost, and it
//! goes on by itself once there is room. The disk is a small one of the test's own, so it must run as root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use rowtide_tests::{App, Dir, PATIENCE, Raw, eventually, flushed};

const TABLES: &str =
    "CREATE TABLE note (id int PRIMARY KEY, owner text NOT NULL, text text NOT NULL)";
const DEFINITION: &str = "[tables.note]\nvisible = 'owner = auth.user_id'";

/// A disk of 24 MB, unmounted in the end.
struct SmallDisk(Dir);

impl SmallDisk {
    /// `None` where nothing may be mounted.
    fn mount() -> Option<SmallDisk> {
        let dir = Dir::new();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "rowtide-test"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(SmallDisk(dir));
        }
        let me = fs::metadata("/proc/self").expect("a process knows itself");
        assert_ne!(me.uid(), 0, "root can mount a disk");
        eprintln!("not shown here: only root can mount a small disk");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

/// A server whose log is on the disk.
async fn app(disk: &SmallDisk) -> App {
    let change = |options: &mut rowtide::server::ServerOptions| {
        options.log.dir = disk.path().join("log");
        // The client reads only in the end.
        options.gateway.send_queue_bytes = 64 << 20;
    };
    App::with_options(DEFINITION, TABLES, change).await
}

/// Writes until the server says that nothing more of it fits, and returns how often: each time once it has what was
/// written before.
async fn fill(app: &App, disk: &SmallDisk, sql: &tokio_postgres::Client) -> i32 {
    fs::write(disk.path().join("filler"), vec![0; 18 << 20]).unwrap();
    let health = || app.server.as_ref().unwrap().health();
    let mut written = 0;
    while health().ready {
        written += 1;
        sql.batch_execute(&write(written)).await.unwrap();
        let end = flushed(sql).await;
        eventually("it has what was written, or no room for it", || async {
            let health = health();
            (!health.ready || health.position >= Some(end)).then_some(())
        })
        .await;
        assert!(written < 500, "the disk was never full");
    }
    assert!(health().detail.contains("no room"), "{}", health().detail);
    written
}

fn write(id: i32) -> String {
    format!("INSERT INTO note VALUES ({id}, 'ann', repeat(md5('{id}'), 4000))")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_holds_the_stream_up_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let app = app(&disk).await;
    let mut raw = Raw::live(&app, "ann").await;
    let health = || app.server.as_ref().unwrap().health();
    let sql = app.database.connect().await;
    let mut written = fill(&app, &disk, &sql).await;
    for _ in 0..20 {
        written += 1;
        sql.batch_execute(&write(written)).await.unwrap();
    }
    // What is not durable is not confirmed, so Postgres still has it.
    fs::remove_file(disk.path().join("filler")).unwrap();
    let mut heard = 0;
    while heard < written {
        let tx = raw.until("tx").await;
        heard += tx["changes"].as_array().unwrap().len() as i32;
    }
    assert_eq!(heard, written, "each once");
    eventually("the server is ready again", || async { health().ready.then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_full_disk_stops_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let mut app = app(&disk).await;
    let mut raw = Raw::live(&app, "ann").await;
    let sql = app.database.connect().await;
    let written = fill(&app, &disk, &sql).await;
    let stopped = tokio::time::timeout(PATIENCE, app.stop_server());
    assert!(stopped.await.is_ok(), "it does not wait for room");
    raw.ending().await.assert("its client", "restarting");
    fs::remove_file(disk.path().join("filler")).unwrap();
    app.start_server().await;
    let mut raw = Raw::open(&app).await;
    raw.say(&Raw::connect(&App::token("ann"))).await;
    let mut rows = 0;
    loop {
        let message = raw.hear().await.expect("it is brought up to date");
        match message["type"].as_str() {
            Some("snapshot") => rows += message["rows"].as_array().unwrap().len() as i32,
            Some("ready") => break,
            _ => {}
        }
    }
    assert_eq!(rows, written);
}
