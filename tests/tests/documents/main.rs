//! Live documents of rows, end to end: real sockets, a real Postgres, and a server that is killed. A drawing and a text
//! belong to each file of the files example.

mod ids;

use std::sync::Arc;
use std::time::Instant;

use rowtide::application::{Application, ApplicationError, read_schemas};
use rowtide::limits::documents::MISSING_FOR;
use rowtide_plan::definition::Definition;
use rowtide_postgres::migrate::migrate;
use rowtide_postgres::setup::setup;
use rowtide_tests::{
    App, AtDocument, Came, Database, Dir, Drawer, Running, Texter, eventually, http_get, serve,
};
use serde_json::json;
use tokio_postgres::Client;

/// The drawing of a file, and as much again for a text.
fn definition() -> String {
    let files = include_str!("../../../examples/files/rowtide.toml");
    let text = r#"
[documents.note]
table = "file"
protocol = "yjs"
alive = 'NOT "isDeleted"'
read = '"ownerId" = auth.user_id OR shared'
edit = """"ownerId" = auth.user_id OR (shared AND "sharedLinkType" = 'edit')"""

[documents.board]
table = "file"
protocol = "tlsync"
read = '''id IN (SELECT "fileId" FROM file_state WHERE "userId" = auth.user_id)'''
edit = 'false'
"#;
    format!("{files}{text}")
}

async fn database() -> Database {
    let application = Application::example("files").unwrap();
    let database = Database::create().await;
    let mut client = database.connect().await;
    migrate(&mut client, &application.migrations).await.unwrap_or_else(|error| panic!("{error}"));
    database
}

async fn app() -> App {
    let definition = Definition::parse("rowtide.toml", &definition()).unwrap();
    App::over(database().await, &Arc::new(definition), |_| ()).await
}

/// A file of u1's.
async fn make(sql: &Client, id: &str, shared: Option<&str>) {
    let insert = r#"INSERT INTO file SELECT (jsonb_populate_record(NULL::file, to_jsonb(f) || jsonb_build_object(
        'id', $1::text, 'publishedSlug', 'slug-' || $1::text, 'ownerId', 'u1', 'shared', $2::bool,
        'sharedLinkType', $3::text, 'isDeleted', false, 'name', 'first', 'updatedAt', 1))).*
        FROM (SELECT * FROM file LIMIT 1) AS f"#;
    let link = shared.unwrap_or("view");
    sql.execute(insert, &[&id, &shared.is_some(), &link]).await.unwrap();
}

fn at(app: &App) -> String {
    app.address().to_string()
}

async fn drawer(app: &App, id: &str, user: &str) -> Drawer {
    let token = App::token(user);
    Drawer::live(&at(app), &format!("/app/file/{id}"), Some(&token), &format!("tab-{user}")).await
}

async fn texter(app: &App, id: &str, user: &str) -> Texter {
    Texter::open(&at(app), &format!("/doc/note/{id}"), Some(&App::token(user))).await
}

const NOT_FOUND: (u16, &str) = (4099, "NOT_FOUND");
const FORBIDDEN: (u16, &str) = (4099, "FORBIDDEN");
const NOT_AUTHENTICATED: (u16, &str) = (4099, "NOT_AUTHENTICATED");
const COME_BACK: (u16, &str) = (1012, "COME_BACK");
/// As clients of Yjs take it for final.
const YJS_FORBIDDEN: (u16, &str) = (4403, "FORBIDDEN");

#[track_caller]
fn assert_end((code, reason): (u16, String), expected: (u16, &str)) {
    assert_eq!((code, reason.as_str()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_edit_a_drawing_and_a_text_of_one_row() {
    let app = app().await;
    let sql = app.database.connect().await;
    make(&sql, "d", Some("edit")).await;
    let (mut ann, mut bob) = (drawer(&app, "d", "u1").await, drawer(&app, "d", "u2").await);
    assert!(!ann.is_readonly && !bob.is_readonly);
    assert_eq!(ann.draw("ann").await, "commit");
    assert_eq!(bob.draw("bob").await, "commit");
    let both = |records: &std::collections::BTreeMap<String, serde_json::Value>| {
        records.contains_key("page:ann") && records.contains_key("page:bob")
    };
    ann.until(both).await;
    bob.until(both).await;
    assert_eq!(ann.records, bob.records);
    let (mut ann, mut bob) = (texter(&app, "d", "u1").await, texter(&app, "d", "u2").await);
    ann.write("Hello").await;
    bob.until("Hello").await;
    bob.write(", Ann").await;
    ann.until("Hello, Ann").await;
    assert_eq!(ann.text(), bob.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_row_says_is_true_for_those_who_are_there() {
    let app = app().await;
    let sql = app.database.connect().await;
    make(&sql, "d", Some("edit")).await;
    let run = async |what: &str| {
        let statement = format!("UPDATE file SET {what} WHERE id = 'd'");
        sql.batch_execute(&statement).await.unwrap();
    };
    let (mut owner, mut guest) = (drawer(&app, "d", "u1").await, drawer(&app, "d", "u2").await);
    let mut writer = texter(&app, "d", "u2").await;
    // The document has the row's name, also if that is another.
    owner.until(|records| records["document:document"]["name"] == "first").await;
    run("name = 'second'").await;
    owner.until(|records| records["document:document"]["name"] == "second").await;
    guest.until(|records| records["document:document"]["name"] == "second").await;
    // Who may no longer edit comes back to look.
    run("\"sharedLinkType\" = 'view'").await;
    let (code, _) = guest.at.end().await;
    assert!(code != 4099, "it is not final");
    let mut guest = drawer(&app, "d", "u2").await;
    assert!(guest.is_readonly);
    assert_eq!(guest.name(), "second");
    assert_eq!(guest.draw("of-a-guest").await, "discard");
    assert_eq!(owner.draw("of-the-owner").await, "commit");
    guest.until(|records| records.contains_key("page:of-the-owner")).await;
    assert!(!guest.has("of-a-guest"));
    // What is not shared is not for guests.
    run("shared = false").await;
    assert_end(guest.at.end().await, FORBIDDEN);
    assert_end(writer.at.end().await, YJS_FORBIDDEN);
    assert_eq!(owner.draw("of-the-owner-alone").await, "commit");
    let token = App::token("u2");
    let mut again = Drawer::open(&at(&app), "/app/file/d", Some(&token), "x").await;
    assert_end(again.at.end().await, FORBIDDEN);
    // What is deleted is gone for all.
    run("\"isDeleted\" = true").await;
    assert_end(owner.at.end().await, NOT_FOUND);
    run("\"isDeleted\" = false").await;
    let owner = drawer(&app, "d", "u1").await;
    assert!(owner.has("of-the-owner-alone"), "and comes back as it was");
    let mut owner = owner;
    sql.batch_execute("DELETE FROM file WHERE id = 'd'").await.unwrap();
    assert_end(owner.at.end().await, NOT_FOUND);
    // Another row of this id begins another document.
    make(&sql, "d", None).await;
    let anew = eventually("a document of another row", || async {
        let token = App::token("u1");
        let mut drawer = Drawer::open(&at(&app), "/app/file/d", Some(&token), "y").await;
        let connect = json!({
            "type": "connect", "connectRequestId": "c", "lastServerClock": -1,
            "protocolVersion": 8, "schema": { "schemaVersion": 2, "sequences": {} },
        });
        drawer.at.say(&connect.to_string()).await;
        match drawer.at.next().await {
            Came::Text(message) => Some(message),
            _ => None,
        }
    })
    .await;
    assert!(anew["diff"].get("page:of-the-owner").is_none(), "{anew}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_table_that_the_rules_look_into_counts() {
    let app = app().await;
    let sql = app.database.connect().await;
    make(&sql, "d", Some("view")).await;
    let token = App::token("u2");
    let mut before = Drawer::open(&at(&app), "/app/board/d", Some(&token), "x").await;
    assert_end(before.at.end().await, FORBIDDEN);
    sql.batch_execute(r#"INSERT INTO file_state ("userId", "fileId") VALUES ('u2', 'd')"#)
        .await
        .unwrap();
    let mut member = Drawer::live(&at(&app), "/app/board/d", Some(&token), "x").await;
    assert!(member.is_readonly);
    sql.batch_execute(r#"DELETE FROM file_state WHERE "userId" = 'u2' AND "fileId" = 'd'"#)
        .await
        .unwrap();
    assert_end(member.at.end().await, FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_no_server_ran_counts_at_the_next_connect() {
    let mut app = app().await;
    let sql = app.database.connect().await;
    make(&sql, "d", Some("edit")).await;
    let mut guest = drawer(&app, "d", "u2").await;
    assert_eq!(guest.draw("kept").await, "commit");
    app.stop_server().await;
    assert_end(guest.at.end().await, COME_BACK);
    let change = "UPDATE file SET \"sharedLinkType\" = 'view', name = 'away' WHERE id = 'd'";
    sql.batch_execute(change).await.unwrap();
    app.start_server().await;
    let mut guest = drawer(&app, "d", "u2").await;
    assert!(guest.is_readonly && guest.has("kept"));
    guest.until(|records| records["document:document"]["name"] == "away").await;
    sql.batch_execute("UPDATE file SET shared = false WHERE id = 'd'").await.unwrap();
    assert_end(guest.at.end().await, FORBIDDEN);
}

/// What a metric without labels says.
async fn metric(app: &App, name: &str) -> Option<f64> {
    let text = http_get(app, "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.map(|value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_told_of_a_save_once_and_that_wakes_nothing() {
    let app = app().await;
    let sql = app.database.connect().await;
    make(&sql, "d", None).await;
    sql.batch_execute(
        "CREATE TABLE touches (id text); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO touches VALUES (NEW.id); RETURN NEW; END $$; \
         CREATE TRIGGER note AFTER UPDATE OF \"updatedAt\" ON file FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await
    .unwrap();
    let touches = async || -> i64 {
        let sql = "SELECT count(*) FROM touches WHERE id = 'd'";
        app.database.connect().await.query_one(sql, &[]).await.unwrap().get(0)
    };
    let mut owner = drawer(&app, "d", "u1").await;
    // The name of the row is an edit, too, and may be saved before what is drawn.
    owner.until(|records| records["document:document"]["name"] == "first").await;
    assert_eq!(owner.draw("one").await, "commit");
    eventually("the row is told", || async { (touches().await > 0).then_some(()) }).await;
    drop(owner);
    // A room that nobody is in sleeps once all of it is saved.
    eventually("the room sleeps", || async {
        (metric(&app, "rowtide_rooms_awake").await == Some(0.0)).then_some(())
    })
    .await;
    let at_rest = eventually("touches come to rest", || async {
        let before = touches().await;
        // The stream has brought the last one back by the time that a later change has come.
        let mut look = drawer(&app, "d", "u1").await;
        look.at.say("{}").await;
        drop(look);
        eventually("the room sleeps", || async {
            (metric(&app, "rowtide_rooms_awake").await == Some(0.0)).then_some(())
        })
        .await;
        (touches().await == before).then_some(before)
    })
    .await;
    assert!(at_rest <= 2, "one for the name and one for the drawing, and not {at_rest}");
    let told: i64 =
        sql.query_one("SELECT \"updatedAt\" FROM file WHERE id = 'd'", &[]).await.unwrap().get(0);
    assert!(told > 1_600_000_000_000, "milliseconds since 1970: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_locked_is_told_later_and_keeps_no_other_waiting() {
    let app = app().await;
    let sql = app.database.connect().await;
    for id in ["locked", "free"] {
        make(&sql, id, None).await;
    }
    let told = async |id: &str| -> Option<()> {
        let sql = "SELECT \"updatedAt\" > 1 FROM file WHERE id = $1";
        let told = app.database.connect().await.query_one(sql, &[&id]).await.unwrap();
        told.get::<_, bool>(0).then_some(())
    };
    sql.batch_execute("BEGIN; SELECT FROM file WHERE id = 'locked' FOR UPDATE").await.unwrap();
    for id in ["locked", "free"] {
        let mut owner = drawer(&app, id, "u1").await;
        assert_eq!(owner.draw("one").await, "commit");
    }
    eventually("the other row is told", || told("free")).await;
    assert_eq!(told("locked").await, None);
    sql.batch_execute("ROLLBACK").await.unwrap();
    eventually("the row that was locked is told", || told("locked")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_come_is_told_why_and_nobody_else_is_disturbed() {
    let app = app().await;
    let sql = app.database.connect().await;
    make(&sql, "shared", Some("view")).await;
    make(&sql, "own", None).await;
    let mut bystander = drawer(&app, "shared", "u1").await;
    let good = App::token("u2");
    let of = |path: &str, token: &str| format!("{path}?sessionId=s&accessToken={token}");
    let cases = [
        (of("/app/file/own", &good), FORBIDDEN),
        ("/app/file/own?sessionId=s".to_owned(), NOT_AUTHENTICATED),
        (of("/app/file/shared", "no.good.token"), NOT_AUTHENTICATED),
        (of("/app/file/shared", &"x".repeat(17_000)), NOT_AUTHENTICATED),
        (of("/app/file/nowhere", &good), NOT_FOUND),
        (of("/app/file/%2e%2e%2fetc", &good), NOT_FOUND),
        (of(&format!("/app/file/{}", "x".repeat(2_000)), &good), NOT_FOUND),
        (of("/app/file/a%00b", &good), NOT_FOUND),
        (of("/doc/note/own", &good), YJS_FORBIDDEN),
        ("/doc/note/own".to_owned(), (4401, "NOT_AUTHENTICATED")),
        (of("/doc/note/nowhere", &good), (4404, "NOT_FOUND")),
        (format!("/app/file/shared?sessionId={}", "x".repeat(201)), (4099, "UNKNOWN_ERROR")),
    ];
    for (path, expected) in cases {
        let mut socket = AtDocument::open(&at(&app), &path).await;
        let (code, reason) = socket.end().await;
        assert_eq!((code, reason.as_str()), expected, "{path}");
    }
    // Whoever has not signed in may look at what is shared.
    let mut anonymous = Drawer::live(&at(&app), "/app/file/shared", None, "s").await;
    assert!(anonymous.is_readonly);
    // Frames that are none end their own socket.
    let frames: [&[u8]; 3] = [&[9, 9, 9], &[0, 2, 200, 1], &[0xff; 64]];
    for frame in frames {
        let mut socket = AtDocument::open(&at(&app), &of("/doc/note/shared", &good)).await;
        socket.say_bytes(frame.to_vec()).await;
        let (code, _) = socket.end().await;
        assert!(code != 0, "it is told something");
    }
    let texts = ["0_}", "no JSON", "{\"type\":\"push\"}", "[]", "\u{0}"];
    for (nth, text) in texts.into_iter().enumerate() {
        let session = format!("bad-{nth}");
        let mut drawer = Drawer::live(&at(&app), "/app/file/shared", Some(&good), &session).await;
        drawer.at.say(text).await;
        let (code, _) = drawer.at.end().await;
        assert!(code != 0, "{text}: it is told something");
    }
    assert_eq!(bystander.draw("undisturbed").await, "commit");
    anonymous.until(|records| records.contains_key("page:undisturbed")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_comes_right_after_the_socket_is_found() {
    let app = app().await;
    let sql = app.database.connect().await;
    let token = App::token("u1");
    let address = at(&app);
    let connect = json!({
        "type": "connect", "connectRequestId": "c", "lastServerClock": -1,
        "protocolVersion": 8, "schema": { "schemaVersion": 2, "sequences": {} },
    });
    // A row that comes after the time in which it is looked for says nothing: then another one does.
    let came = loop {
        let id = format!("late-{:08x}", rand::random::<u32>());
        let path = format!("/app/file/{id}");
        // Navigation is faster than the row.
        let began = Instant::now();
        let opened = Drawer::open(&address, &path, Some(&token), "s");
        let (mut drawer, ()) = tokio::join!(opened, make(&sql, &id, None));
        let is_in_time = began.elapsed() < MISSING_FOR;
        drawer.at.say(&connect.to_string()).await;
        let came = drawer.at.next().await;
        if is_in_time || matches!(came, Came::Text(_)) {
            break came;
        }
    };
    match came {
        Came::Text(message) => assert_eq!(message["type"], "connect"),
        other => panic!("{other:?}"),
    }
}

/// A server that is a process.
struct Process {
    running: Running,
    address: String,
}

async fn process(database: &Database, dir: &Dir, definition: &str) -> Process {
    let (running, address) = serve(database, dir, definition).await;
    Process { running, address }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_nothing_that_was_acknowledged() {
    let (database, dir) = (database().await, Dir::new());
    let text = definition();
    let parsed = Definition::parse("rowtide.toml", &text).unwrap();
    let sql = database.connect().await;
    setup(&sql, &database.names(), &parsed.tables()).await.unwrap();
    make(&sql, "d", Some("edit")).await;
    let definition = dir.write("rowtide.toml", &text);
    let mut drawn: Vec<String> = Vec::new();
    let mut written = String::new();
    for round in 0..3 {
        let server = process(&database, &dir, &definition).await;
        let token = App::token("u1");
        let (mut ann, mut bob) = eventually("the server serves", || async {
            let mut ann = Drawer::open(&server.address, "/app/file/d", Some(&token), "s").await;
            let connect = json!({
                "type": "connect", "connectRequestId": "c", "lastServerClock": -1,
                "protocolVersion": 8, "schema": { "schemaVersion": 2, "sequences": {} },
            });
            ann.at.say(&connect.to_string()).await;
            let Came::Text(_) = ann.at.next().await else { return None };
            let ann = Drawer::live(&server.address, "/app/file/d", Some(&token), "s").await;
            Some((ann, Texter::open(&server.address, "/doc/note/d", Some(&token)).await))
        })
        .await;
        for name in &drawn {
            assert!(ann.has(name), "{name} is lost");
        }
        let mut carl = Texter::open(&server.address, "/doc/note/d", Some(&token)).await;
        carl.until(&written).await;
        bob.until(&written).await;
        for nth in 0..20 {
            let name = format!("r{round}-{nth}");
            assert_eq!(ann.draw(&name).await, "commit");
            drawn.push(name);
            let more = format!("<{round}.{nth}>");
            bob.write(&more).await;
            // What others see is durable.
            carl.until(&more).await;
            written += &more;
        }
        server.running.signal("KILL");
        server.running.ended().await;
    }
    let server = process(&database, &dir, &definition).await;
    let token = App::token("u1");
    let connected = eventually("the server serves", || async {
        let mut carl = Texter::open(&server.address, "/doc/note/d", Some(&token)).await;
        let Came::Binary(_) = carl.at.next().await else { return None };
        Some(Drawer::live(&server.address, "/app/file/d", Some(&token), "s").await)
    })
    .await;
    for name in &drawn {
        assert!(connected.has(name), "{name} is lost");
    }
    let mut carl = Texter::open(&server.address, "/doc/note/d", Some(&token)).await;
    carl.until(&written).await;
    server.running.stop().await;
}

/// The application's schema, of a release.
fn schema_of(version: u64) -> String {
    let drawing = include_str!("../../../crates/rowtide-schema/tests/drawing.js");
    drawing.replace("VERSION = 3", &format!("VERSION = {version}"))
}

/// The files example, whose drawings have the application's own schema.
fn definition_with_schema() -> String {
    let protocol = "protocol = \"tlsync\"";
    let files = include_str!("../../../examples/files/rowtide.toml");
    files.replacen(protocol, &format!("{protocol}\nschema = \"drawing.js\""), 1)
}

/// Somebody who draws with a release of the application.
async fn of_release(server: &Process, version: u64) -> Result<Drawer, (u16, String)> {
    let sequences = json!({ "com.example.store": 1, "com.example.shape": version });
    let (token, session) = (App::token("u1"), format!("tab-{version}"));
    let mut drawer = Drawer::open(&server.address, "/app/file/d", Some(&token), &session).await;
    let schema = json!({ "schemaVersion": 2, "sequences": sequences });
    drawer.connect(&schema).await.map(|()| drawer)
}

/// As [`of_release`], once the server serves.
async fn once_served(server: &Process, version: u64) -> Drawer {
    eventually("the server serves", || async {
        let came = of_release(server, version).await;
        came.map_err(|(code, reason)| assert_end((code, reason), COME_BACK)).ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_of_an_application_share_a_drawing() {
    let (database, dir) = (database().await, Dir::new());
    let text = definition_with_schema();
    let definition = dir.write("rowtide.toml", &text);
    dir.write("drawing.js", &schema_of(2));
    let sql = database.connect().await;
    let parsed = Definition::parse("rowtide.toml", &text).unwrap();
    setup(&sql, &database.names(), &parsed.tables()).await.unwrap();
    make(&sql, "d", Some("edit")).await;
    let server = process(&database, &dir, &definition).await;
    let mut second = once_served(&server, 2).await;
    let shape = json!({ "id": "shape:a", "typeName": "shape", "x": 1, "meta": {},
        "props": { "text": "", "points": [], "color": "red" } });
    assert_eq!(second.push(json!({ "shape:a": ["put", shape] })).await, "commit");
    let mut first = of_release(&server, 1).await.unwrap();
    assert!(first.records["shape:a"]["props"].get("color").is_none());
    assert_eq!(first.push(json!({ "shape:a": ["patch", { "x": ["put", 5] }] })).await, "commit");
    second.until(|records| records["shape:a"]["x"] == 5).await;
    assert_eq!(second.records["shape:a"]["props"]["color"], "red");
    let wrong = json!({ "type": "push", "clientClock": 9, "diff": { "shape:a": ["patch", { "x": ["put", -1] }] } });
    second.at.say(&wrong.to_string()).await;
    assert_end(second.at.end().await, (4099, "INVALID_RECORD"));
    assert_end(of_release(&server, 3).await.err().unwrap(), (4099, "SERVER_TOO_OLD"));
    drop((first, second));
    server.running.stop().await;
    // The next release brings the document up, and the one before leaves it alone from then on.
    dir.write("drawing.js", &schema_of(3));
    let server = process(&database, &dir, &definition).await;
    let third = once_served(&server, 3).await;
    assert_eq!(third.records["shape:a"]["position"], json!({ "x": 5 }));
    let first = of_release(&server, 1).await.unwrap();
    assert_eq!(first.records["shape:a"]["x"], 5);
    drop((first, third));
    server.running.stop().await;
    dir.write("drawing.js", &schema_of(2));
    let server = process(&database, &dir, &definition).await;
    let refused = eventually("the server serves", || async {
        let end = of_release(&server, 2).await.err()?;
        (end.1 != COME_BACK.1).then_some(end)
    })
    .await;
    assert_end(refused, (4099, "SERVER_TOO_OLD"));
    server.running.stop().await;
}

#[test]
fn a_schema_that_cannot_be_used_is_pointed_at() {
    let dir = Dir::new();
    let path = dir.write("rowtide.toml", &definition_with_schema());
    let definition = Definition::parse(&path, &definition_with_schema()).unwrap();
    let why = || match read_schemas(path.as_ref(), &definition) {
        Err(ApplicationError::Definition(error)) => error.problems[0].message.clone(),
        other => panic!("{other:?}"),
    };
    assert!(why().contains("`drawing.js` cannot be used: it cannot be read"), "{}", why());
    for (text, expected) in [
        ("const", "bundle:1"),
        ("export const serialize = 1;", "function `serialize`"),
        ("for (;;);", "more time than it may"),
    ] {
        dir.write("drawing.js", text);
        assert!(why().contains(expected), "{}", why());
    }
    dir.write("drawing.js", &schema_of(3));
    assert_eq!(read_schemas(path.as_ref(), &definition).unwrap().len(), 1);
}
