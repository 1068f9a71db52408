//! Single faults, each of which once cost someone something: what was found by torture is kept here.

use std::time::Duration;

use rowtide_tests::proxy::{Direction, Flow, Proxy, Upstream};
use rowtide_tests::torture::audit;
use rowtide_tests::{App, Dir, Fleet, Node, Raw, Scribe, Writer, eventually, insert};
use serde_json::{Value, json};
use tokio::time::Instant;

const DEFINITION: &str = "
[tables.note]
visible = 'owner = auth.user_id'
[tables.note.insert]
allow = 'new.owner = auth.user_id'
";
const TABLES: &str = "CREATE TABLE note (id int PRIMARY KEY, owner text NOT NULL)";

fn note(id: u32, owner: &str) -> Value {
    json!([insert("note", json!({ "id": id, "owner": owner }))])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_told_every_rejection_that_its_acknowledgement_covers() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    writer.mutate(note(1, "another")).await.rejected("forbidden", "");
    writer.mutate(note(2, "u1")).await.applied();
    writer.mutate(note(3, "another")).await.rejected("forbidden", "");
    // On a connection that was opened before all that was acknowledged, by a server that only later took
    // over the stream, it is all sent again.
    let (mut again, _) = Writer::again(&app, "u1", &writer.client_id, 3).await;
    again.send_as(1, note(1, "another")).await;
    let mut rejected = Vec::new();
    let acknowledged = loop {
        let message = again.raw.hear().await.expect("the session stays");
        if message["type"] == "reject" {
            rejected.push(message["id"].clone());
        }
        if let Some(ack) = message["ack"].as_u64() {
            break ack;
        }
    };
    assert_eq!((acknowledged, rejected), (3, vec![json!(1), json!(3)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_before_every_rejection_below_it_was_told() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    // What a session sees of mutations that another queue of the client has acknowledged, one of them before
    // the session joined the stream, and after its last number was read.
    let schema = app.database.names().schema;
    let id = &writer.client_id;
    let sql = format!(
        "BEGIN; INSERT INTO {schema}.refusal (client_id, id, code, message) \
         VALUES ('{id}', 1, 'forbidden', 'no'); \
         UPDATE {schema}.client SET last_mutation = 2 WHERE client_id = '{id}'; COMMIT"
    );
    app.database.run(&sql).await;
    loop {
        match writer.raw.hear().await {
            Ok(message) => assert_eq!(message["ack"], Value::Null, "{message}"),
            Err(ending) => break ending.assert("the session", "restarting"),
        }
    }
    let (_, connected) = Writer::again(&app, "u1", id, 0).await;
    assert_eq!(connected["refused"][0]["id"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_ahead_of_a_restored_database_is_told_to_come_back() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    writer.mutate(note(1, "u1")).await.applied();
    writer.mutate(note(2, "u1")).await.applied();
    // What a backup knows, under a session that knows more.
    let schema = app.database.names().schema;
    app.database.run(&format!("UPDATE {schema}.client SET last_mutation = 1")).await;
    writer.send(note(3, "u1")).await;
    writer.raw.ending().await.assert("the session", "restarting");
    let (mut again, connected) = Writer::again(&app, "u1", &writer.client_id, 2).await;
    assert_eq!(connected["lastMutation"], 1);
    again.send_as(3, note(3, "u1")).await;
    again.raw.ending().await.assert("who leaves a gap", "bad_request");

    // One that does not know the client at all.
    let (mut again, _) = Writer::again(&app, "u1", &writer.client_id, 1).await;
    app.database.run(&format!("DELETE FROM {schema}.client")).await;
    again.send(note(3, "u1")).await;
    again.raw.ending().await.assert("the session", "restarting");
    let (mut again, connected) = Writer::again(&app, "u1", &writer.client_id, 1).await;
    assert_eq!(connected["lastMutation"], 0);
    again.mutate(note(3, "u1")).await.applied();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_arrives_late_takes_over_from_nobody() {
    let app = App::with(DEFINITION, TABLES).await;
    let sessions = async |count: u64| {
        eventually("the sessions are there", || async {
            let health = app.server.as_ref()?.health();
            (health.sessions == count).then_some(())
        })
        .await;
    };
    // What a client said before it gave up, on a network that delivers it after the client has come
    // over another.
    let network = Proxy::start(Upstream::Tcp(app.address())).await;
    let connect = Raw::connect(&App::token("u1"));
    let mut late = Raw::open_url(&format!("ws://{}/sync", network.address()), None).await;
    network.flow(Direction::ToClient, Flow::Stalled);
    let mut present = Raw::open(&app).await;
    present.say(&connect).await;
    present.until("ready").await;
    late.say(&connect).await;
    sessions(2).await;
    present.assert_alive().await;
    network.cut();
    sessions(1).await;
    present.assert_alive().await;

    // One that is there is a newer one.
    let mut newer = Raw::open(&app).await;
    newer.say(&connect).await;
    newer.until("ready").await;
    tokio::spawn(async move { newer.ending().await });
    present.ending().await.assert("the older", "superseded");
}

/// A server is killed in the middle of a mutation, and on the way to Postgres nothing says so: its
/// sessions there go on to hold the client's row, another row and the slot.
#[tokio::test(flavor = "multi_thread")]
async fn the_ghosts_of_a_killed_server_are_not_waited_for() {
    let dir = Dir::new();
    let node = Node::start(&dir, "postgres").await;
    let mut fleet = Fleet::prepare(&dir, &node, Scribe::DEFINITION, Scribe::TABLES).await;
    fleet.add();
    fleet.ready().await;
    let mut scribe = Scribe::start(fleet.url(), "u1", None).await;
    scribe.comes_to_rest(soon()).await;
    scribe.assert_nothing_found();
    let sql = node.connect(Fleet::DATABASE).await;
    let row = "BEGIN; SELECT FROM task WHERE id = 2 FOR UPDATE";
    sql.batch_execute(row).await.unwrap();
    scribe.retitle(2);
    let waits = "SELECT count(*) FROM pg_stat_activity \
                 WHERE application_name = 'rowtide mutate' AND wait_event_type = 'Lock'";
    let listening = async {
        loop {
            scribe.listen(Duration::from_millis(20)).await;
        }
    };
    let other = node.connect(Fleet::DATABASE).await;
    let waited = eventually("the mutation waits for the row", || async {
        let count: i64 = other.query_one(waits, &[]).await.ok()?.get(0);
        (count == 1).then_some(())
    });
    tokio::select! { () = listening => {}, () = waited => {} }
    fleet.back.strand();
    fleet.members[0].kill().await;
    sql.batch_execute("COMMIT").await.unwrap();
    fleet.start(0);
    scribe.comes_to_rest(soon()).await;
    scribe.assert_nothing_found();
    assert_eq!(audit(&sql, &[scribe]).await, [""; 0]);
}

/// The longest that a ghost may last, and a client may wait before it comes back, and then some.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(180)
}
