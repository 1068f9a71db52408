//! What is committed and cannot be seen yet, and who holds up the making of a slot: an epoch begins behind
//! neither, and whoever is waited for is named.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rowtide_feed::ReplicatorStatus;
use rowtide_plan::definition::Definition;
use rowtide_postgres::connect::{ConnectOptions, Names};
use rowtide_postgres::setup::setup;
use rowtide_tests::{Dir, Node, eventually};
use tokio_postgres::Client;

use crate::kit::{DEFINITION, Mirror, Running, Site, TABLES, start_replicator};

/// A Postgres of its own, whose standbys a test decides on.
struct Stalled {
    node: Node,
    client: Client,
    options: ConnectOptions,
    names: Names,
    definition: Arc<Definition>,
    dir: Dir,
}

impl Stalled {
    async fn new() -> Stalled {
        let dir = Dir::new();
        let node = Node::start(&dir, "postgres").await;
        node.cluster().create_database("app").await.unwrap();
        let client = node.connect("app").await;
        client.batch_execute(TABLES).await.unwrap();
        let definition = Definition::parse("rowtide.toml", DEFINITION).unwrap();
        let names = Names::of("app").unwrap();
        setup(&client, &names, &definition.tables()).await.unwrap();
        let options = ConnectOptions::parse(&node.cluster().url("app")).unwrap();
        Stalled { node, client, options, names, definition: Arc::new(definition), dir }
    }

    fn start(&self, log: &Dir) -> Running {
        start_replicator(self.options.clone(), self.names.clone(), &self.definition, log)
    }

    /// Runs a statement whose commit hangs until the standbys are back, and waits until it does.
    async fn hang(&self, sql: &'static str) -> tokio::task::JoinHandle<()> {
        self.node.set("synchronous_standby_names", "nobody").await;
        self.commits_hang().await;
        let client = self.node.connect("app").await;
        let hanging = tokio::spawn(async move { client.batch_execute(sql).await.unwrap() });
        let waits = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        eventually("its commit hangs", || async {
            (self.node.one(waits).await != "0").then_some(())
        })
        .await;
        hanging
    }

    /// Waits until a commit would hang: what was set holds for others before the process that tells them of standbys has read
    /// it. A commit that is cancelled there has been made.
    async fn commits_hang(&self) {
        let client = self.node.connect("app").await;
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let hung = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&hung);
        let committing = tokio::spawn(async move {
            while !until.load(Ordering::Relaxed) {
                client.batch_execute("SELECT pg_current_xact_id()").await.unwrap();
            }
        });
        let waits = format!(
            "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid = {pid}"
        );
        eventually("commits hang", || async { (self.node.one(&waits).await != "0").then_some(()) })
            .await;
        hung.store(true, Ordering::Relaxed);
        self.node.one(&format!("SELECT pg_cancel_backend({pid})::text")).await;
        committing.await.unwrap();
    }

    /// Lets them be back.
    async fn recover(&self) {
        self.node.set("synchronous_standby_names", "").await;
    }

    /// Waits until the slot has confirmed all that is written.
    async fn confirmed(&self) {
        let end = self.node.one("SELECT pg_current_wal_flush_lsn()::text").await;
        let sql = format!(
            "SELECT coalesce(min((confirmed_flush_lsn >= '{end}')::text), '') \
             FROM pg_replication_slots"
        );
        eventually("it is confirmed", || async {
            (self.node.one(&sql).await == "true").then_some(())
        })
        .await;
    }
}

fn waits_for(status: &ReplicatorStatus, whom: &str) -> Option<()> {
    let ReplicatorStatus::Waiting(why) = status else { return None };
    why.contains(whom).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_does_not_begin_behind_a_commit_that_nobody_can_see() {
    let site = Stalled::new().await;
    site.client.batch_execute("INSERT INTO note VALUES (1, 'before')").await.unwrap();
    let log = Dir::new();
    let running = site.start(&log);
    running.streaming().await;
    let hanging = site.hang("UPDATE note SET body = 'after'").await;
    // It is streamed, durable and confirmed, and only its session does not come back.
    site.confirmed().await;
    running.stop().await;
    let asked = site.node.connect("app").await;
    let (_, unseen) = rowtide_postgres::unseen::unseen_before_end(&asked).await.unwrap();
    assert!(unseen.len() == 1 && unseen[0].waits, "{unseen:?}");
    let empty = Dir::new();
    let running = site.start(&empty);
    running.until("it says for whom it waits", |state| waits_for(&state.status, "standby")).await;
    site.recover().await;
    hanging.await.unwrap();
    running.streaming().await;
    let mut mirror = Mirror::over(site.node.connect("app").await, &running).await;
    let held = mirror.holds_what_is_there("note").await;
    assert_eq!(held["1"]["body"], "after");
    running.stop().await;
    drop(site.dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_on_with_a_commit_that_nobody_can_see_among_its_recent_ones() {
    let site = Stalled::new().await;
    site.client.batch_execute("INSERT INTO note VALUES (1, 'before')").await.unwrap();
    let log = Dir::new();
    let running = site.start(&log);
    let first = running.streaming().await;
    let hanging = site.hang("UPDATE note SET body = 'after'").await;
    site.confirmed().await;
    running.stop().await;
    let running = site.start(&log);
    let second = running.streaming().await;
    assert_eq!(first.epoch, second.epoch);
    let mut mirror = Mirror::over(site.node.connect("app").await, &running).await;
    assert_eq!(mirror.held("note").unwrap()["1"]["body"], "after");
    site.recover().await;
    hanging.await.unwrap();
    mirror.holds_what_is_there("note").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_does_not_wait_for_transactions_that_are_open_or_at_work() {
    let site = Site::new().await;
    let open = site.database.connect().await;
    open.batch_execute("BEGIN; INSERT INTO note VALUES (1, 'open')").await.unwrap();
    let sleeping = site.database.connect().await;
    let sleeping = tokio::spawn(async move {
        let sql = "INSERT INTO other SELECT 2, pg_sleep(600)::text";
        drop(sleeping.batch_execute(sql).await);
    });
    let running = site.start().await;
    running.streaming().await;
    let mut mirror = Mirror::new(&site, &running).await;
    open.batch_execute("COMMIT").await.unwrap();
    mirror.holds_what_is_there("note").await;
    sleeping.abort();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_made_waits_for_a_long_transaction_and_names_it() {
    let site = Site::new().await;
    let running = site.start().await;
    let first = running.streaming().await;
    let long = site.database.connect().await;
    long.batch_execute("BEGIN; INSERT INTO note VALUES (1, 'long')").await.unwrap();
    let pid: i32 = long.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    site.drop_slot().await;
    let process = format!("process {pid} ");
    running.until("it says for whom it waits", |state| waits_for(&state.status, &process)).await;
    // Longer than any statement may wait for a lock.
    let waited = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'rowtide slot' \
                  AND wait_event = 'transactionid' AND now() - query_start > interval '11 s'";
    eventually("it goes on waiting", || async {
        (site.one(waited).await.as_deref() == Some("1")).then_some(())
    })
    .await;
    long.batch_execute("COMMIT").await.unwrap();
    running.streaming_after(&first).await;
    let mut mirror = Mirror::new(&site, &running).await;
    mirror.holds_what_is_there("note").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_being_made_is_given_up_when_the_server_stops() {
    let site = Site::new().await;
    let long = site.database.connect().await;
    long.batch_execute("BEGIN; INSERT INTO note VALUES (1, 'long')").await.unwrap();
    site.drop_slot().await;
    let running = site.start().await;
    running.until("it waits", |state| waits_for(&state.status, "is being made")).await;
    running.stop().await;
    let left =
        "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'rowtide slot'";
    eventually("nothing is left behind", || async {
        (site.one(left).await.as_deref() == Some("0")).then_some(())
    })
    .await;
    let slot = site.database.names().slot;
    let slots = format!("SELECT 'there' FROM pg_replication_slots WHERE slot_name = '{slot}'");
    assert_eq!(site.one(&slots).await, None);
    long.batch_execute("COMMIT").await.unwrap();
}
