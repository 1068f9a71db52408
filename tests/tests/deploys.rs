//! Deploys and servers that die, with clients that keep writing throughout: nobody but the operator has
//! to know of them.

use std::time::Duration;

use rowtide::limits::DRAIN_TIMEOUT;
use rowtide_tests::torture::audit;
use rowtide_tests::{
    App, Dir, Fleet, Node, Raw, Scribe, Writer, eventually, flushed, insert, truth,
};
use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

/// How long everyone has to be whole again.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(180)
}

/// Ends in this order.
struct Deployment {
    fleet: Fleet,
    sql: Client,
    _node: Node,
    _dir: Dir,
}

impl Deployment {
    /// One server that is ready.
    async fn start() -> Deployment {
        let dir = Dir::new();
        let node = Node::start(&dir, "postgres").await;
        let mut fleet = Fleet::prepare(&dir, &node, Scribe::DEFINITION, Scribe::TABLES).await;
        fleet.add();
        fleet.ready().await;
        let sql = node.connect(Fleet::DATABASE).await;
        Deployment { _dir: dir, _node: node, fleet, sql }
    }

    /// Clients of several users that write until they are told to stop.
    async fn writing(&self, stop: &CancellationToken) -> Vec<tokio::task::JoinHandle<Scribe>> {
        let mut writing = Vec::new();
        for number in 0..6 {
            let user = format!("u{}", number % 3 + 1);
            let mut scribe = Scribe::start(self.fleet.url(), &user, None).await;
            scribe.comes_to_rest(soon()).await;
            let stop = stop.clone();
            writing.push(tokio::spawn(async move {
                scribe.write_until(rand::random(), &stop).await;
                scribe
            }));
        }
        writing
    }

    /// Fails unless each of the writers has what it was promised, and holds what SQL says.
    async fn assert_whole(&self, writing: Vec<tokio::task::JoinHandle<Scribe>>) {
        let mut scribes = Vec::new();
        for task in writing {
            let mut scribe = task.await.unwrap();
            scribe.comes_to_rest(soon()).await;
            scribes.push(scribe);
        }
        self.sql.batch_execute("UPDATE marker SET value = value + 1").await.unwrap();
        for scribe in &mut scribes {
            let expected = truth(&self.sql, Scribe::DEFINITION, &scribe.user).await;
            scribe.hold(&expected, soon()).await;
            scribe.assert_nothing_found();
            assert!(scribe.tally.confirmed.len() > 1, "it wrote");
        }
        assert_eq!(audit(&self.sql, &scribes).await, [""; 0]);
    }

    /// Waits until as many mutations more have been applied as show that writing goes on.
    async fn writing_goes_on(&self) {
        let count = async || -> i64 {
            self.sql.query_one("SELECT count(*) FROM applied", &[]).await.unwrap().get(0)
        };
        let before = count().await;
        eventually("writing goes on", || async { (count().await > before + 10).then_some(()) })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_a_deploy_behind_a_standby() {
    let mut deployment = Deployment::start().await;
    let stop = CancellationToken::new();
    let writing = deployment.writing(&stop).await;
    for serving in 0..3 {
        deployment.writing_goes_on().await;
        let next = deployment.fleet.add();
        let waiting = &deployment.fleet.members[next];
        eventually("the standby listens", || async {
            waiting.said().contains("listening").then_some(())
        })
        .await;
        assert!(!waiting.is_ready().await, "the slot is taken");
        assert_eq!(deployment.fleet.members[serving].stop().await, Some(0));
        assert_eq!(deployment.fleet.ready().await, next);
    }
    deployment.writing_goes_on().await;
    stop.cancel();
    deployment.assert_whole(writing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_a_server_that_is_killed() {
    let mut deployment = Deployment::start().await;
    let stop = CancellationToken::new();
    let writing = deployment.writing(&stop).await;
    for serving in 0..2 {
        let next = deployment.fleet.add();
        deployment.writing_goes_on().await;
        deployment.fleet.members[serving].kill().await;
        assert_eq!(deployment.fleet.ready().await, next);
    }
    deployment.writing_goes_on().await;
    stop.cancel();
    deployment.assert_whole(writing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_at_once_serves_everyone() {
    let mut deployment = Deployment::start().await;
    let stop = CancellationToken::new();
    let writing = deployment.writing(&stop).await;
    for in_order in [true, false, true, false] {
        deployment.writing_goes_on().await;
        if in_order {
            assert_eq!(deployment.fleet.members[0].stop().await, Some(0));
        } else {
            deployment.fleet.members[0].kill().await;
        }
        deployment.fleet.start(0);
        deployment.fleet.ready().await;
    }
    deployment.writing_goes_on().await;
    stop.cancel();
    deployment.assert_whole(writing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_acknowledges_what_has_reached_it_and_takes_nothing_more() {
    let definition = "[tables.note]\nvisible = 'owner = auth.user_id'\n\
                      [tables.note.insert]\nallow = 'new.owner = auth.user_id'\n";
    let tables = "CREATE TABLE note (id int PRIMARY KEY, owner text NOT NULL)";
    let mut app = App::with(definition, tables).await;
    // On a machine that is busy the time that a server has to stop may pass before the client can do its part.
    for from in (0..30).step_by(3) {
        let time_is_over = stops_with_mutations_in_flight(&mut app, from).await;
        if !time_is_over {
            return;
        }
    }
    panic!("what was in flight is never acknowledged when the server has stopped");
}

/// Stops the server while it is at three mutations of one client. Returns whether the server's time to stop was over before
/// they could be acknowledged; otherwise they were.
async fn stops_with_mutations_in_flight(app: &mut App, from: u64) -> bool {
    let mut writer = Writer::live(app, "u1").await;
    let sql = app.database.connect().await;
    sql.batch_execute("BEGIN; LOCK TABLE note IN SHARE MODE").await.unwrap();
    for id in from..from + 3 {
        writer.send(json!([insert("note", json!({ "id": id, "owner": "u1" }))])).await;
    }
    let other = app.database.connect().await;
    eventually("a mutation is under way", || async {
        let waits = "SELECT 1 FROM pg_stat_activity \
                     WHERE application_name = 'rowtide mutate' AND wait_event_type = 'Lock' \
                     AND datname = current_database()";
        other.query_opt(waits, &[]).await.ok()?.map(drop)
    })
    .await;
    // What was sent before the ping has reached the server when it is answered.
    writer.raw.assert_alive().await;
    let client_id = writer.client_id.clone();
    let url = app.url();
    let told = async {
        let ending = writer.raw.ending().await;
        ending.assert("the client", "restarting");
        assert!(Raw::try_open_url(&url).await.is_none(), "a stopping server takes nobody");
        sql.batch_execute("COMMIT").await.unwrap();
    };
    let began = Instant::now();
    tokio::join!(told, app.stop_server());
    let took = began.elapsed();
    let rows = app.one(&format!("SELECT count(*) FROM note WHERE id >= {from}")).await;
    app.start_server().await;
    if rows != "3" {
        assert!(
            took >= DRAIN_TIMEOUT,
            "{rows} of 3 are acknowledged when it has stopped: {took:?}"
        );
        return true;
    }
    let (_, connected) = Writer::again(app, "u1", &client_id, 0).await;
    assert_eq!(connected["lastMutation"], 3);
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_sends_clients_away_until_it_has_the_slot() {
    let mut deployment = Deployment::start().await;
    let next = deployment.fleet.add();
    let waiting = &deployment.fleet.members[next];
    eventually("the standby listens", || async {
        waiting.said().contains("listening").then_some(())
    })
    .await;
    let mut raw = Raw::open_url(&format!("ws://{}/sync", waiting.address), None).await;
    raw.say(&Raw::connect(&App::token("u1"))).await;
    raw.ending().await.assert("who comes to a standby", "unavailable");
}

/// The server at place 0 is frozen until the one at place 1, on another machine, has the slot.
async fn lose_the_slot(deployment: &mut Deployment) {
    let next = deployment.fleet.add_elsewhere();
    deployment.writing_goes_on().await;
    deployment.fleet.members[0].signal("STOP");
    let free = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
    deployment.sql.batch_execute(free).await.unwrap();
    assert_eq!(deployment.fleet.ready().await, next);
    deployment.fleet.members[0].signal("CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loses_the_slot_sends_its_clients_to_the_one_that_has_it() {
    let mut deployment = Deployment::start().await;
    let stop = CancellationToken::new();
    let writing = deployment.writing(&stop).await;
    lose_the_slot(&mut deployment).await;
    stop.cancel();
    deployment.assert_whole(writing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_gets_the_slot_back_has_missed_nothing() {
    let mut deployment = Deployment::start().await;
    let stop = CancellationToken::new();
    let writing = deployment.writing(&stop).await;
    // One that only looks on, and so never hears that it has missed something.
    let mut reader = Scribe::start(deployment.fleet.url(), "u1", None).await;
    reader.comes_to_rest(soon()).await;
    lose_the_slot(&mut deployment).await;
    // What the other has taken in and confirmed is not streamed again.
    let update = "UPDATE task SET title = 'streamed to the other', mark = NULL";
    deployment.sql.batch_execute(update).await.unwrap();
    let end = flushed(&deployment.sql).await;
    let confirmed = format!("SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots");
    eventually("the other has confirmed it", || async {
        deployment.sql.query_one(&confirmed, &[]).await.ok()?.get::<_, bool>(0).then_some(())
    })
    .await;
    deployment.fleet.members[1].kill().await;
    assert_eq!(deployment.fleet.ready().await, 0);
    stop.cancel();
    deployment.assert_whole(writing).await;
    let expected = truth(&deployment.sql, Scribe::DEFINITION, "u1").await;
    reader.hold(&expected, soon()).await;
    reader.assert_nothing_found();
}
