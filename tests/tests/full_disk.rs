//! A disk that is full while the server runs: it says so, the stream waits in Postgres, nothing is lost, and it
//! goes on by itself once there is room. The disk is a small one of the test's own, so it must run as root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use rowtide_tests::{App, Dir, Raw, eventually};

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
        mounted.is_ok_and(|status| status.success()).then_some(SmallDisk(dir))
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

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_holds_the_stream_up_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        let me = fs::metadata("/proc/self").expect("a process knows itself");
        assert_ne!(me.uid(), 0, "root can mount a disk");
        eprintln!("not shown here: only root can mount a small disk");
        return;
    };
    let change = |options: &mut rowtide::server::ServerOptions| {
        options.hub.log.dir = disk.path().join("history");
        // The client reads only in the end.
        options.hub.outbox_bytes = 64 << 20;
    };
    let app = App::with_options(DEFINITION, TABLES, change).await;
    let mut raw = Raw::live(&app, "ann").await;
    let health = || app.server.as_ref().unwrap().hub().health();
    let sql = app.database.connect().await;
    let write = |id: i32| {
        let text = format!("repeat(md5('{id}'), 4000)");
        format!("INSERT INTO note VALUES ({id}, 'ann', {text})")
    };
    fs::write(disk.path().join("filler"), vec![0; 18 << 20]).unwrap();
    let mut written = 0;
    // Nothing of this fits any more after a while.
    while health().ready {
        written += 1;
        sql.batch_execute(&write(written)).await.unwrap();
        assert!(written < 500, "the disk was never full");
    }
    assert!(health().detail.contains("no room"), "{}", health().detail);
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
