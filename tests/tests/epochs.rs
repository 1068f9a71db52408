//! When the unbroken run of the stream ends: the slot is dropped or lost, the database goes back to a
//! backup, a standby takes the primary's place. Clients that were connected, and wrote, are whole again
//! by themselves, and hold what the database holds now.

use std::time::Duration;

use rowtide_tests::{Dir, Fleet, Node, Scribe, eventually, truth};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long everyone has to be whole again.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(180)
}

/// A Postgres and a server, and clients of several users that have written. Ends in this order.
struct Site {
    scribes: Vec<Scribe>,
    fleet: Fleet,
    node: Node,
    dir: Dir,
}

impl Site {
    async fn start() -> Site {
        let dir = Dir::new();
        let node = Node::start(&dir, "first").await;
        let mut fleet = Fleet::prepare(&dir, &node, Scribe::DEFINITION, Scribe::TABLES).await;
        fleet.add();
        fleet.ready().await;
        let mut scribes = Vec::new();
        for user in ["u1", "u1", "u2", "u3"] {
            scribes.push(Scribe::start(fleet.url(), user, None).await);
        }
        Site { scribes, fleet, node, dir }
    }

    /// Lets everyone write until a number of mutations is confirmed.
    async fn write(&mut self) {
        let writing = self.scribes.iter_mut().map(|scribe| async {
            let confirmed = scribe.tally.confirmed.len();
            let until = soon();
            while scribe.tally.confirmed.len() < confirmed + 5 && Instant::now() < until {
                scribe.write_for(Duration::from_millis(300)).await;
            }
            assert!(scribe.tally.confirmed.len() > confirmed, "nothing is confirmed any more");
        });
        futures_util::future::join_all(writing).await;
    }

    /// Lets everyone write while something is done to the database.
    async fn write_during(&mut self, done: impl AsyncFnOnce(&mut Node, &Fleet, &Dir)) {
        let stop = CancellationToken::new();
        let Site { scribes, fleet, node, dir } = self;
        let writing = scribes.iter_mut().map(|scribe| scribe.write_until(rand::random(), &stop));
        let doing = async {
            done(node, fleet, dir).await;
            stop.cancel();
        };
        tokio::join!(futures_util::future::join_all(writing), doing);
    }

    /// Fails unless everyone is whole and can write. What was promised before the database went back to
    /// a backup does not count.
    async fn assert_whole(mut self) {
        self.fleet.revive();
        for scribe in &mut self.scribes {
            scribe.comes_to_rest(soon()).await;
        }
        self.write().await;
        let sql = self.node.connect(Fleet::DATABASE).await;
        sql.batch_execute("UPDATE marker SET value = value + 1").await.unwrap();
        // Everyone, before anyone is asked what they hold: they see what the others write.
        for scribe in &mut self.scribes {
            scribe.comes_to_rest(soon()).await;
        }
        for scribe in &mut self.scribes {
            let expected = truth(&sql, Scribe::DEFINITION, &scribe.user).await;
            scribe.hold(&expected, soon()).await;
            scribe.assert_nothing_found();
        }
    }
}

/// Ends the stream, and drops its slot before it can begin again.
async fn drop_slot(node: &Node) {
    let sql = node.connect("postgres").await;
    let free = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    eventually("the slot is dropped", || async {
        sql.batch_execute(free).await.ok()?;
        sql.batch_execute(drop).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_is_dropped() {
    let mut site = Site::start().await;
    site.write().await;
    site.write_during(async |node, _, _| drop_slot(node).await).await;
    site.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_is_lost_because_too_much_wal_was_kept_for_it() {
    let mut site = Site::start().await;
    site.write().await;
    site.write_during(async |node, fleet, _| {
        node.set("max_slot_wal_keep_size", "1MB").await;
        // The server hears nothing and confirms nothing, while the world goes on.
        fleet.back.strand();
        fleet.back.refuse(true);
        let sql = node.connect(Fleet::DATABASE).await;
        eventually("the slot is lost", || async {
            sql.batch_execute("UPDATE task SET title = 'meanwhile', mark = NULL").await.ok()?;
            node.wear(4).await;
            let status = "SELECT coalesce(min(wal_status), 'none') FROM pg_replication_slots";
            (node.one(status).await == "lost").then_some(())
        })
        .await;
        fleet.back.cut();
        fleet.back.heal();
    })
    .await;
    site.assert_whole().await;
}

/// What is done between the backup and going back to it, and after that, before the server is back.
async fn restored(beyond: bool, server_stays: bool) {
    let mut site = Site::start().await;
    site.write().await;
    site.node.stop();
    let backup = site.node.copy(&site.dir, "backup");
    site.node.start_again().await;
    site.write().await;
    site.fleet.back.refuse(true);
    site.fleet.back.cut();
    if !server_stays {
        site.fleet.members[0].kill().await;
    }
    site.node.stop();
    site.node.restore(&backup);
    site.node.start_again().await;
    if beyond {
        // Other writes take the place of those that are gone, and more.
        let sql = site.node.connect(Fleet::DATABASE).await;
        sql.batch_execute("UPDATE task SET title = 'since then', mark = NULL").await.unwrap();
        site.node.wear(4).await;
        sql.batch_execute("UPDATE task SET title = title || '!', mark = NULL WHERE id % 2 = 0")
            .await
            .unwrap();
    }
    site.fleet.back.heal();
    if !server_stays {
        site.fleet.start(0);
    }
    site.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_with_the_server() {
    restored(false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_that_has_grown_with_the_server() {
    restored(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_under_the_server() {
    restored(false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_that_has_grown_under_the_server() {
    restored(true, true).await;
}

/// A standby takes the place of the primary, with the slot or without; it has all the primary had, or it
/// lacks the last of it.
async fn promoted(slot: bool, lacks: bool) {
    let mut site = Site::start().await;
    site.write().await;
    site.node.stop();
    let mut standby = site.node.copy(&site.dir, "second");
    standby.follow(&site.node, slot);
    site.node.start_again().await;
    standby.start_again().await;
    site.write().await;
    standby.catch_up_with(&site.node).await;
    if lacks {
        standby.stop();
        site.write().await;
    }
    site.fleet.back.refuse(true);
    site.fleet.back.cut();
    site.node.kill().await;
    if lacks {
        standby.start_again().await;
    }
    standby.promote().await;
    site.fleet.back.lead_to(standby.upstream());
    site.fleet.back.heal();
    site.node = standby;
    site.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_without_the_slot() {
    promoted(false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_with_the_slot() {
    promoted(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_without_the_slot_that_lacks_the_last_commits() {
    promoted(false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_with_the_slot_that_lacks_the_last_commits() {
    promoted(true, true).await;
}

/// Postgres stops when whoever streams has confirmed all of its WAL, also what concerns nobody.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_that_is_stopped_in_order_does_not_wait_for_a_server() {
    let mut site = Site::start().await;
    let sql = site.node.connect(Fleet::DATABASE).await;
    for round in 0..3 {
        // A position behind a transaction that is told, and nothing that is told behind it.
        sql.batch_execute("UPDATE marker SET value = value + 1").await.unwrap();
        let expected = truth(&sql, Scribe::DEFINITION, "u1").await;
        site.scribes[0].hold(&expected, soon()).await;
        sql.batch_execute(&format!("CREATE TABLE nobody_{round} (id int)")).await.unwrap();
    }
    drop(sql);
    site.node.stop();
    let log = site.node.log();
    assert!(!log.contains("immediate shutdown request"), "{log}");
    site.node.start_again().await;
    site.assert_whole().await;
}
