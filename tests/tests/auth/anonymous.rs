//! Clients without a token, where the definition lets them in.

use std::sync::Arc;
use std::time::Duration;

use rowtide_client::{Client, ClientOptions, Event, Op, Outcome};
use rowtide_gateway::auth::sign;
use rowtide_tests::{App, Raw, SECRET, eventually};
use serde_json::{Value, json};

/// With rows of those for whom somebody without a token might be taken.
const TABLES: &str = "
    CREATE TABLE note (id int PRIMARY KEY, owner text, shared bool NOT NULL DEFAULT false);
    INSERT INTO note VALUES (1, 'ann', false), (2, 'ann', true), (3, NULL, false), (4, 'null', false), (5, '', false)";

fn definition(anonymous: &str) -> String {
    format!(
        "{anonymous}
[tables.note]
visible = 'owner = auth.user_id OR shared'
insert.allow = 'true'
update = [{{ allow = 'true' }}]
"
    )
}

async fn app(change: impl FnOnce(&mut rowtide::server::ServerOptions)) -> App {
    App::with_options(&definition("[auth]\nanonymous = true"), TABLES, change).await
}

fn connect(changes: &Value) -> Value {
    let mut connect = Raw::connect("");
    let fields = connect.as_object_mut().unwrap();
    fields.remove("token");
    fields.extend(changes.as_object().unwrap().clone());
    connect
}

/// Connects, and returns `connected`, the ids of the rows and the cursor.
async fn come(raw: &mut Raw, connect: &Value) -> (Value, Vec<i64>, String) {
    raw.say(connect).await;
    let (mut connected, mut ids) = (Value::Null, Vec::new());
    loop {
        let message = raw.hear().await.unwrap_or_else(|ending| panic!("{ending:?}"));
        match message["type"].as_str().unwrap() {
            "connected" => connected = message,
            "snapshot" => {
                let rows = message["rows"].as_array().unwrap();
                ids.extend(rows.iter().map(|row| row["id"].as_i64().unwrap()));
            }
            "ready" => {
                ids.sort_unstable();
                return (connected, ids, message["cursor"].as_str().unwrap().to_owned());
            }
            _ => {}
        }
    }
}

fn insert(number: u64, id: i64) -> Value {
    let op = json!({ "op": "insert", "table": "note", "row": { "id": id } });
    json!({ "type": "mutate", "id": number, "ops": [op] })
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_without_a_token_reads_what_everyone_sees_and_leaves_nothing_behind() {
    let app = app(|options| options.gateway.client.sessions_per_user = 1).await;
    let sql = app.database.connect().await;
    let mut raw = Raw::open(&app).await;
    let (connected, ids, _) = come(&mut raw, &connect(&json!({}))).await;
    assert_eq!((&connected["userId"], &connected["lastMutation"]), (&Value::Null, &json!(0)));
    assert_eq!(ids, [2], "null owns nothing, and is neither `null` nor empty");
    // Changes come as to anyone, and go.
    sql.batch_execute("UPDATE note SET shared = true WHERE id = 1").await.unwrap();
    let tx = raw.tx().await;
    assert_eq!(tx["changes"][0]["row"]["id"], 1);
    sql.batch_execute("UPDATE note SET shared = false WHERE id = 1").await.unwrap();
    let tx = raw.tx().await;
    assert_eq!(tx["changes"][0]["op"], "delete");
    // What it writes is refused in the stream, under its number, and the connection stays.
    for number in [1, 2] {
        raw.say(&insert(number, 100)).await;
        let reject = raw.until("reject").await;
        assert_eq!((&reject["id"], &reject["code"]), (&json!(number), &json!("forbidden")));
        let tx = raw.tx().await;
        assert_eq!((&tx["ack"], &tx["changes"]), (&json!(number), &json!([])));
    }
    raw.assert_alive().await;
    // Strangers are not one user, whose sessions are counted.
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = Raw::open(&app).await;
        assert_eq!(come(&mut other, &connect(&json!({}))).await.1, [2]);
        others.push(other);
    }
    let kept = format!("SELECT count(*) FROM {}.client", app.database.names().schema);
    let count: i64 = sql.query_one(&kept, &[]).await.unwrap().get(0);
    assert_eq!(count, 0, "nothing is kept of them");
    let written = "SELECT count(*) FROM note WHERE id = 100";
    assert_eq!(sql.query_one(written, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_without_a_token_comes_back_with_a_cursor_and_signs_in() {
    let app = app(|_| {}).await;
    let sql = app.database.connect().await;
    let mut raw = Raw::open(&app).await;
    let client = json!({ "clientId": "a-browser" });
    let (_, _, cursor) = come(&mut raw, &connect(&client)).await;
    raw.say(&insert(1, 100)).await;
    raw.tx().await;
    drop(raw);
    sql.batch_execute("UPDATE note SET shared = true WHERE id = 1").await.unwrap();
    // Nothing is known of who has no token, for which their connect would wait.
    app.streamed().await;
    let mut raw = Raw::open(&app).await;
    let back = json!({ "clientId": "a-browser", "cursor": cursor, "acked": 1, "settled": 1 });
    let (connected, ids, _) = come(&mut raw, &connect(&back)).await;
    assert_eq!((&connected["mode"], &connected["lastMutation"]), (&json!("resume"), &json!(1)));
    assert!(ids.is_empty(), "it has them");
    raw.say(&insert(2, 100)).await;
    assert_eq!(raw.tx().await["ack"], 2);
    // A token of its own does not make another of this session; a connection with it does.
    raw.say(&json!({ "type": "auth", "token": App::token("ann") })).await;
    raw.ending().await.assert("signed in within", "unauthorized");
    let mut raw = Raw::open(&app).await;
    let mut ann = Raw::connect(&App::token("ann"));
    ann["clientId"] = json!("a-browser");
    ann["cursor"] = json!(cursor);
    ann["acked"] = json!(2);
    let (connected, ids, _) = come(&mut raw, &ann).await;
    assert_eq!((&connected["userId"], &connected["mode"]), (&json!("ann"), &json!("snapshot")));
    assert_eq!((&connected["lastMutation"], ids), (&json!(2), vec![1, 2]));
    raw.say(&insert(3, 100)).await;
    // What her client had heard already may come once more, with the commit by which it was made known.
    while raw.tx().await["ack"] != 3 {}
    // Who says the id of a client of hers hears nothing of it, and takes nothing over.
    let mut other = Raw::open(&app).await;
    come(&mut other, &connect(&client)).await;
    other.assert_alive().await;
    raw.say(&insert(4, 101)).await;
    assert_eq!(raw.tx().await["ack"], 4);
    other.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_there_counts_whatever_it_is() {
    let app = app(|_| {}).await;
    let of_nobody = sign(SECRET, "", Duration::from_secs(60)).unwrap();
    for (name, header, token) in [
        ("no token", None, json!("no token")),
        ("an empty one", None, json!("")),
        ("an empty header", Some("Bearer"), Value::Null),
        ("a bad header", Some("Bearer x"), Value::Null),
        ("the empty user's", None, json!(of_nobody)),
    ] {
        let mut raw = Raw::open_with(&app, header).await;
        raw.say(&connect(&json!({ "token": token }))).await;
        raw.ending().await.assert(name, "unauthorized");
    }
    let mut raw = Raw::open(&app).await;
    let (connected, ids, _) = come(&mut raw, &Raw::connect(&App::token("null"))).await;
    assert_eq!((&connected["userId"], ids), (&json!("null"), vec![2, 4]));
    let closed = App::with(&definition(""), TABLES).await;
    let mut raw = Raw::open(&closed).await;
    raw.say(&connect(&json!({}))).await;
    raw.ending().await.assert("as long as the definition does not say so", "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_a_rate_of_connects_without_a_token_and_users_have_their_own() {
    let app = app(|options| options.gateway.client.requests_per_address = 2).await;
    for _ in 0..2 {
        come(&mut Raw::open(&app).await, &connect(&json!({}))).await;
    }
    let mut raw = Raw::open(&app).await;
    raw.say(&connect(&json!({}))).await;
    raw.ending().await.assert("the third", "rate_limit_exceeded");
    Raw::live(&app, "ann").await.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_without_a_token_shows_what_everyone_sees_and_is_told_that_it_writes_nothing() {
    let app = app(|_| {}).await;
    let mut client = Client::start(ClientOptions {
        url: app.url(),
        token: Arc::new(|| None),
        client_id: "nobodys-client".to_owned(),
        app_version: None,
    });
    let shown = |client: &Client| (client.shown().rows("note").count() == 1).then_some(());
    eventually("its row", || async { shown(&client) }).await;
    let row = json!({ "id": 100 }).as_object().unwrap().clone();
    let id = client.mutate(vec![Op::insert("note", row)]).unwrap();
    let acked = loop {
        if let Event::Acked(acked) = client.next().await.expect("it runs") {
            break acked;
        }
    };
    assert_eq!(acked.id, id);
    let Outcome::Rejected { code, .. } = acked.outcome else { panic!("it was applied") };
    assert_eq!((code.as_str(), client.shown().user_id()), ("forbidden", None));
}
