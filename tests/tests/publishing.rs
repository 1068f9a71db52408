//! What rows do to their documents, end to end: they are published, published anew and taken back, begin as copies, and go
//! with their rows, whoever wrote those and whether a server ran or not. And the pages: what is published, the history, and
//! the way back in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rowtide::application::Application;
use rowtide::server::ServerOptions;
use rowtide_access::{failed_effects, repeat_effects};
use rowtide_plan::definition::Definition;
use rowtide_postgres::migrate::migrate;
use rowtide_postgres::setup::setup;
use rowtide_tests::{
    App, Came, Database, Dir, Drawer, Older, Running, SECRET, Texter, eventually, rowtide, said,
    serve,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::Client;

/// The drawing of a file, and beside it a text that is published as well and says why it is not.
fn definition() -> String {
    let files = include_str!("../../examples/files/rowtide.toml");
    let text = r#"
publish_error = "publishError"

[tables.page]
visible = 'owner = auth.user_id'
columns = ["id", "owner"]

[documents.note]
table = "page"
protocol = "yjs"
read = 'owner = auth.user_id'
edit = 'owner = auth.user_id'
restore = 'owner = auth.user_id'
published = "is_public"
slug = "address"
publish_error = "trouble"
"#;
    format!("{files}{text}")
}

const PAGE: &str = "ALTER TABLE file ADD COLUMN \"publishError\" text; CREATE TABLE page (id bigint PRIMARY KEY, owner text NOT NULL, \
                    is_public boolean NOT NULL DEFAULT false, address text, trouble text); \
                    CREATE INDEX ON page (owner)";

async fn database() -> Database {
    let application = Application::example("files").unwrap();
    let database = Database::create().await;
    let mut client = database.connect().await;
    migrate(&mut client, &application.migrations).await.unwrap_or_else(|error| panic!("{error}"));
    client.batch_execute(PAGE).await.unwrap();
    database
}

async fn app() -> App {
    let definition = Definition::parse("rowtide.toml", &definition()).unwrap();
    App::over(database().await, &Arc::new(definition), |_| ()).await
}

/// A file of a user's, which begins as `source`.
async fn make(sql: &Client, id: &str, owner: &str, source: Option<&str>) {
    let insert = r#"INSERT INTO file SELECT (jsonb_populate_record(NULL::file, to_jsonb(f) || jsonb_build_object(
        'id', $1::text, 'publishedSlug', 'slug-' || $1::text, 'ownerId', $2::text, 'shared', false,
        'published', false, 'lastPublished', 0, 'isDeleted', false, 'name', $1::text, 'updatedAt', 1,
        'createSource', $3::text))).* FROM (SELECT * FROM file LIMIT 1) AS f"#;
    sql.execute(insert, &[&id, &owner, &source]).await.unwrap();
}

async fn run(sql: &Client, id: &str, what: &str) {
    sql.batch_execute(&format!("UPDATE file SET {what} WHERE id = '{id}'")).await.unwrap();
}

async fn drawer(address: &str, id: &str, user: &str) -> Drawer {
    let token = App::token(user);
    Drawer::live(address, &format!("/app/file/{id}"), Some(&token), &format!("tab-{user}")).await
}

/// As [`drawer`], of somebody who comes back for as long as they are asked to.
async fn drawer_at_last(address: &str, id: &str, user: &str) -> Drawer {
    let (path, token) = (format!("/app/file/{id}"), App::token(user));
    eventually("they are let in", || async {
        let mut first = Drawer::open(address, &path, Some(&token), "first").await;
        let connect = json!({
            "type": "connect", "connectRequestId": "c", "lastServerClock": -1,
            "protocolVersion": 8, "schema": { "schemaVersion": 2, "sequences": {} },
        });
        first.at.say(&connect.to_string()).await;
        matches!(first.at.next().await, Came::Text(_)).then_some(())
    })
    .await;
    drawer(address, id, user).await
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| line.to_lowercase().starts_with(&format!("{name}:"));
        self.head.lines().find(named).and_then(|line| Some(line.split_once(": ")?.1))
    }
}

async fn ask(address: &str, line: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

async fn published(address: &str, slug: &str) -> Answer {
    ask(address, &format!("GET /app/publish/{slug}"), "", "").await
}

/// Waits until what is published at an address has these pages, or, without them, until nothing is.
async fn until_published(address: &str, slug: &str, pages: Option<&[&str]>) {
    eventually(&format!("{slug} is {pages:?}"), || async {
        let answer = published(address, slug).await;
        let is = match pages {
            None => answer.status == 404,
            Some(pages) => answer.status == 200 && has_pages(&answer.json(), pages),
        };
        is.then_some(())
    })
    .await;
}

fn has_pages(published: &Value, pages: &[&str]) -> bool {
    assert_eq!(published["error"], false);
    // Of what nobody has opened no client has said one.
    assert!(published["schema"].is_object() || pages.is_empty(), "{published}");
    let records = published["records"].as_array().expect("a list");
    let drawn = records.iter().filter_map(|record| record["id"].as_str()?.strip_prefix("page:"));
    let mut drawn: Vec<&str> = drawn.filter(|name| *name != "page").collect();
    drawn.sort_unstable();
    drawn == pages
}

/// Where the objects of a file are.
fn objects(documents: &Path, environment: &str, id: &str) -> PathBuf {
    documents.join("objects").join(environment).join("documents/file").join(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_publishes_its_document_and_takes_it_back() {
    let mut app = app().await;
    let dir = app.options().documents_dir.clone();
    let environment = app.options().gateway.names.slot.clone();
    let (at, sql) = (app.address().to_string(), app.database.connect().await);
    make(&sql, "d", "u1", None).await;
    let mut ann = drawer(&at, "d", "u1").await;
    assert_eq!(ann.draw("one").await, "commit");
    assert_eq!(published(&at, "slug-d").await.status, 404);
    run(&sql, "d", "published = true").await;
    until_published(&at, "slug-d", Some(&["one"])).await;
    let answer = published(&at, "slug-d").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let tag = answer.header("etag").expect("a tag").to_owned();
    let known = format!("If-None-Match: {tag}\r\n");
    assert_eq!(ask(&at, "GET /app/publish/slug-d", &known, "").await.status, 304);
    // What is drawn later is published when the row says so, and not before.
    assert_eq!(ann.draw("two").await, "commit");
    run(&sql, "d", "name = 'other'").await;
    ann.until(|records| records["document:document"]["name"] == "other").await;
    assert_eq!(published(&at, "slug-d").await.header("etag"), Some(&*tag));
    run(&sql, "d", "\"lastPublished\" = 1").await;
    until_published(&at, "slug-d", Some(&["one", "two"])).await;
    assert_eq!(ask(&at, "GET /app/publish/slug-d", &known, "").await.status, 200);
    run(&sql, "d", "\"publishedSlug\" = 'ä/b'").await;
    until_published(&at, "%C3%A4%2Fb", Some(&["one", "two"])).await;
    until_published(&at, "slug-d", None).await;
    // A row that is not alive has nothing published, and has it again when it is.
    run(&sql, "d", "\"isDeleted\" = true").await;
    assert_eq!(published(&at, "%C3%A4%2Fb").await.status, 404);
    run(&sql, "d", "\"isDeleted\" = false").await;
    assert_eq!(published(&at, "%C3%A4%2Fb").await.status, 200);
    run(&sql, "d", "published = false").await;
    assert_eq!(published(&at, "%C3%A4%2Fb").await.status, 404, "no later than anybody is told");
    run(&sql, "d", "published = true, \"publishedSlug\" = 'slug-d'").await;
    until_published(&at, "slug-d", Some(&["one", "two"])).await;
    sql.batch_execute("DELETE FROM file WHERE id = 'd'").await.unwrap();
    assert_eq!(published(&at, "slug-d").await.status, 404);
    let stored = objects(&dir, &environment, "d").join("current");
    eventually("it is deleted", || async { (!stored.exists()).then_some(()) }).await;
    let wrong = published(&at, "").await;
    assert_eq!(wrong.status, 404);
    let nowhere = published(&at, "nowhere").await;
    assert_eq!((nowhere.status, &nowhere.json()["error"]), (404, &json!(true)));
    assert_eq!(published(&at, &"x".repeat(2_000)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_the_first_ones_and_the_others_row_says_so() {
    let mut app = app().await;
    let dir = app.options().documents_dir.clone();
    let (at, sql) = (app.address().to_string(), app.database.connect().await);
    sql.batch_execute("INSERT INTO page VALUES (1, 'u1', true, 'same'), (2, 'u1', false, 'same')")
        .await
        .unwrap();
    let is_there = || async { (published(&at, "same").await.status == 200).then_some(()) };
    eventually("the first is published, though nobody has opened it", is_there).await;
    sql.batch_execute("UPDATE page SET is_public = true WHERE id = 2").await.unwrap();
    let trouble = async |id: i64| -> Option<String> {
        let row = sql.query_one("SELECT trouble FROM page WHERE id = $1", &[&id]).await;
        row.unwrap().get(0)
    };
    let told = eventually("the row says why", || trouble(2)).await;
    assert!(told.contains("another document"), "{told}");
    let failed = eventually("it is kept that it has failed", || async {
        Some(failed_effects(&dir).unwrap()).filter(|failed| !failed.is_empty())
    })
    .await;
    assert_eq!(failed.iter().map(|one| &*one.document).collect::<Vec<_>>(), ["note/2"]);
    // It is not tried again by itself, but once somebody wants it.
    sql.batch_execute("UPDATE page SET is_public = false WHERE id = 1").await.unwrap();
    until_published(&at, "same", None).await;
    let is_free = || async {
        assert_eq!(repeat_effects(&dir, Some("note/1")).unwrap(), 0);
        repeat_effects(&dir, Some("note/2")).unwrap();
        (published(&at, "same").await.status == 200).then_some(())
    };
    eventually("it is published", is_free).await;
    eventually("all is well", || async { trouble(2).await.is_none().then_some(()) }).await;
    eventually("nothing has failed", || async {
        failed_effects(&dir).unwrap().is_empty().then_some(())
    })
    .await;
    // Without an address nothing is published; with another one it is.
    sql.batch_execute("UPDATE page SET is_public = true, address = NULL WHERE id = 1")
        .await
        .unwrap();
    eventually("the row says why", || trouble(1)).await;
    sql.batch_execute("UPDATE page SET address = 'another' WHERE id = 1").await.unwrap();
    let is_there = || async { (published(&at, "another").await.status == 200).then_some(()) };
    eventually("it is published", is_there).await;
    eventually("all is well", || async { trouble(1).await.is_none().then_some(()) }).await;
    let text = published(&at, "another").await;
    assert_eq!(text.header("content-type"), Some("application/octet-stream"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_storage_does_not_do_is_done_when_it_does() {
    let mut app = app().await;
    let dir = app.options().documents_dir.clone();
    let environment = app.options().gateway.names.slot.clone();
    let (at, sql) = (app.address().to_string(), app.database.connect().await);
    // Nothing can be put below a file.
    let addresses = dir.join("objects").join(&environment).join("published");
    std::fs::create_dir_all(addresses.parent().unwrap()).unwrap();
    std::fs::write(&addresses, "").unwrap();
    make(&sql, "d", "u1", None).await;
    run(&sql, "d", "published = true").await;
    let tried = || async {
        let text = rowtide_tests::http_get(&app, "/metrics").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("rowtide_document_effect_retries_total "));
        (line.unwrap().parse::<f64>().unwrap() > 0.0).then_some(())
    };
    eventually("it is tried", tried).await;
    assert_ne!(published(&at, "slug-d").await.status, 200);
    std::fs::remove_file(&addresses).unwrap();
    until_published(&at, "slug-d", Some(&[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_rows_while_no_server_ran_is_seen_to() {
    let mut app = app().await;
    let dir = app.options().documents_dir.clone();
    let environment = app.options().gateway.names.slot.clone();
    let (at, sql) = (app.address().to_string(), app.database.connect().await);
    for id in ["gone", "back", "stays", "out"] {
        make(&sql, id, if id == "gone" { "u2" } else { "u1" }, None).await;
        let mut ann = drawer(&at, id, if id == "gone" { "u2" } else { "u1" }).await;
        assert_eq!(ann.draw("drawn").await, "commit");
    }
    run(&sql, "gone", "published = true").await;
    run(&sql, "out", "published = true").await;
    until_published(&at, "slug-gone", Some(&["drawn"])).await;
    until_published(&at, "slug-out", Some(&["drawn"])).await;
    sql.batch_execute(
        "INSERT INTO file SELECT (jsonb_populate_record(NULL::file, to_jsonb(f) || jsonb_build_object(
         'id', 'many-' || n, 'publishedSlug', 'many-' || n))).*
         FROM (SELECT * FROM file WHERE id = 'gone') AS f, generate_series(1, 3000) AS n",
    )
    .await
    .unwrap();
    app.stop_server().await;
    // Thousands by cascade, one that is another row by then, and one that is published.
    sql.batch_execute("DELETE FROM \"user\" WHERE id = 'u2'").await.unwrap();
    sql.batch_execute("DELETE FROM file WHERE id = 'back'").await.unwrap();
    make(&sql, "back", "u1", None).await;
    run(&sql, "stays", "published = true").await;
    run(&sql, "out", "published = false").await;
    app.start_server().await;
    // Nobody comes to what was another row's, not even at once.
    let back = drawer_at_last(&at, "back", "u1").await;
    assert!(!back.has("drawn"), "it is another row's");
    until_published(&at, "slug-stays", Some(&["drawn"])).await;
    until_published(&at, "slug-out", None).await;
    assert_eq!(published(&at, "slug-gone").await.status, 404);
    let stored = |id: &str| objects(&dir, &environment, id).join("current");
    let gone = stored("gone");
    eventually("it is deleted", || async { (!gone.exists()).then_some(()) }).await;
    assert!(stored("out").exists() && stored("stays").exists());
    drop(back);
    // Of a table that is truncated the stream says nothing of rows.
    app.stop_server().await;
    sql.batch_execute("TRUNCATE file CASCADE").await.unwrap();
    app.start_server().await;
    let left = [stored("out"), stored("stays")];
    eventually("all are deleted", || async {
        left.iter().all(|stored| !stored.exists()).then_some(())
    })
    .await;
    // Nobody has told of their deletion, so they can be brought back; of the others somebody has.
    let removed = dir.join("objects").join(&environment).join("removed/file");
    let kept = |id: &str| std::fs::read_dir(removed.join(id)).map_or(0, Iterator::count);
    assert_eq!((kept("out"), kept("stays"), kept("gone")), (1, 1, 0));
    let object = std::fs::read_dir(removed.join("stays")).unwrap().next().unwrap().unwrap();
    let text = std::fs::read_to_string(object.path()).unwrap();
    assert!(text.contains("page:drawn"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_what_was_kept_all_documents_are_held_against_their_rows() {
    let mut app = app().await;
    let dir = app.options().documents_dir.clone();
    let environment = app.options().gateway.names.slot.clone();
    let (at, sql) = (app.address().to_string(), app.database.connect().await);
    for id in ["gone", "in", "out"] {
        make(&sql, id, "u1", None).await;
        assert_eq!(drawer(&at, id, "u1").await.draw("drawn").await, "commit");
    }
    run(&sql, "out", "published = true").await;
    until_published(&at, "slug-out", Some(&["drawn"])).await;
    app.stop_server().await;
    for name in ["effects.db", "effects.db-wal", "effects.db-shm"] {
        std::fs::remove_file(dir.join(name)).ok();
    }
    // Nor does the log say what happened.
    std::fs::remove_dir_all(&app.options().log.dir).unwrap();
    sql.batch_execute("DELETE FROM file WHERE id = 'gone'").await.unwrap();
    run(&sql, "in", "published = true").await;
    run(&sql, "out", "published = false").await;
    app.start_server().await;
    until_published(&at, "slug-in", Some(&["drawn"])).await;
    until_published(&at, "slug-out", None).await;
    let gone = objects(&dir, &environment, "gone").join("current");
    eventually("it is deleted", || async { (!gone.exists()).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_client_is_told_what_it_could_not_publish() {
    let app = app().await;
    let (at, sql) = (app.address().to_string(), app.database.connect().await);
    make(&sql, "d", "u1", None).await;
    let (mut ann, _) = Older::live(&app, "u1").await;
    let asked = |row: Value| json!([{ "table": "file", "event": "update", "row": row }]);
    let without = json!({ "id": "d", "published": true, "publishedSlug": "" });
    ann.mutate("m1", asked(without)).await;
    let told = async |ann: &mut Older| loop {
        let heard = ann.hear().await;
        if heard["type"] == "reject" {
            return heard;
        }
    };
    let expected = json!({ "type": "reject", "mutationId": "m1", "errorCode": "publish_failed" });
    assert_eq!(told(&mut ann).await, expected);
    ann.mutate("m2", asked(json!({ "id": "d", "publishedSlug": "well" }))).await;
    until_published(&at, "well", Some(&[])).await;
    let sql_error = "SELECT \"publishError\" FROM file WHERE id = 'd'";
    eventually("the row says that it is well", || async {
        let error: Option<String> = sql.query_one(sql_error, &[]).await.unwrap().get(0);
        error.is_none().then_some(())
    })
    .await;
}

/// A server that is a process, and where it listens.
async fn process(database: &Database, dir: &Dir, definition: &str) -> (Running, String) {
    let (mut running, address) = serve(database, dir, definition).await;
    running.line("ready http://").await;
    (running, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_does_all_that_rows_say() {
    let (database, dir) = (database().await, Dir::new());
    let text = definition();
    let parsed = Definition::parse("rowtide.toml", &text).unwrap();
    let sql = database.connect().await;
    setup(&sql, &database.names(), &parsed.tables()).await.unwrap();
    let definition = dir.write("rowtide.toml", &text);
    let ids: Vec<String> = (0..6).map(|nth| format!("d{nth}")).collect();
    for id in &ids {
        make(&sql, id, "u1", None).await;
    }
    for round in 0..3 {
        let (server, at) = process(&database, &dir, &definition).await;
        let name = format!("r{round}");
        for id in &ids[..3] {
            assert_eq!(drawer_at_last(&at, id, "u1").await.draw(&name).await, "commit");
        }
        // All of it is under way when the end comes.
        run(&sql, "d0", &format!("published = true, \"lastPublished\" = {}", round + 1)).await;
        run(&sql, "d1", &format!("published = {}", round % 2 == 0)).await;
        run(&sql, "d2", &format!("published = true, \"publishedSlug\" = 's{round}'")).await;
        let delete = format!("DELETE FROM file WHERE id = 'd{}'", round + 3);
        sql.batch_execute(&delete).await.unwrap();
        server.signal("KILL");
        server.ended().await;
    }
    let (server, at) = process(&database, &dir, &definition).await;
    until_published(&at, "slug-d0", Some(&["r0", "r1", "r2"])).await;
    eventually("the second is published", || async {
        (published(&at, "slug-d1").await.status == 200).then_some(())
    })
    .await;
    eventually("the third is published at its last address", || async {
        (published(&at, "s2").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(published(&at, "s0").await.status, 404);
    assert_eq!(published(&at, "s1").await.status, 404);
    // What cannot be done an operator is told by the command, and has it tried again, also with no server.
    run(&sql, "d0", "\"publishedSlug\" = ''").await;
    let operator = async |args: &[&str]| {
        let mut command = rowtide([&["effects"], args].concat());
        command.args(["--database-url", &database.url().await]);
        command.args(["--definition", &definition, "--environment", database.name()]);
        command.args(["--log-dir", &dir.join("log")]);
        command.env("ROWTIDE_TOKEN_SECRET", SECRET);
        said(command).await
    };
    let listed = eventually("it is given up", || async {
        let listed = operator(&[]).await;
        (!listed.out.contains("nothing has failed")).then_some(listed)
    })
    .await;
    assert_eq!(
        listed.out, "file/d0: its address is missing, too long, or one that no client asks for\n",
        "{listed:?}"
    );
    server.stop().await;
    let none = operator(&["--repeat", "file/d1"]).await;
    assert_eq!((none.code(), &*none.out), (Some(1), "0 will be tried again\n"));
    let one = operator(&["--repeat", "file/d0"]).await;
    assert_eq!((one.code(), &*one.out), (Some(0), "1 will be tried again\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_begins_as_what_its_row_says_for_whom_may_read_that() {
    let app = app().await;
    let (at, sql) = (app.address().to_string(), app.database.connect().await);
    make(&sql, "first", "u1", None).await;
    let mut ann = drawer(&at, "first", "u1").await;
    assert_eq!(ann.draw("one").await, "commit");
    make(&sql, "copy", "u1", Some("f/first")).await;
    make(&sql, "of-copy", "u1", Some("f/copy")).await;
    // Two who open it at once, and the second copy before the first.
    let token = App::token("u1");
    let other = Drawer::live(&at, "/app/file/of-copy", Some(&token), "another-tab");
    let (one, two) = tokio::join!(drawer(&at, "of-copy", "u1"), other);
    assert!(one.has("one") && two.has("one"));
    assert_eq!(ann.draw("two").await, "commit");
    let mut copy = drawer(&at, "copy", "u1").await;
    assert!(copy.has("one") && !copy.has("two"), "it had begun already");
    copy.until(|records| records["document:document"]["name"] == "copy").await;
    assert_eq!(copy.draw("of-copy").await, "commit");
    assert!(!ann.has("of-copy"));
    // Whoever may not read the source gets nothing of it, and the document does not begin.
    let end = async |id: &str, user: &str| {
        let token = App::token(user);
        let path = format!("/app/file/{id}");
        let mut drawer = Drawer::open(&at, &path, Some(&token), "x").await;
        drawer.at.end().await
    };
    let final_end = |reason: &str| (4099, reason.to_owned());
    make(&sql, "stolen", "u2", Some("f/first")).await;
    assert_eq!(end("stolen", "u2").await, final_end("FORBIDDEN"));
    run(&sql, "first", "shared = true").await;
    assert!(drawer(&at, "stolen", "u2").await.has("two"), "they may by now");
    // Nobody copies their own into somebody else's by coming to it, not even when they may edit that.
    make(&sql, "mine", "u1", None).await;
    assert_eq!(drawer(&at, "mine", "u1").await.draw("secret").await, "commit");
    make(&sql, "trap", "u2", Some("f/mine")).await;
    run(&sql, "trap", "shared = true, \"sharedLinkType\" = 'edit'").await;
    assert_eq!(end("trap", "u1").await, final_end("FORBIDDEN"));
    make(&sql, "lure", "u1", Some("f/trap")).await;
    assert_eq!(end("lure", "u1").await, final_end("FORBIDDEN"), "nor on the way to another one");
    assert_eq!(end("trap", "u2").await, final_end("FORBIDDEN"));
    let mut nobody = Drawer::open(&at, "/app/file/trap", None, "x").await;
    assert_eq!(nobody.at.end().await, final_end("NOT_AUTHENTICATED"));
    make(&sql, "of-nothing", "u1", Some("f/nowhere")).await;
    assert_eq!(end("of-nothing", "u1").await, final_end("NOT_FOUND"));
    make(&sql, "a", "u1", Some("f/b")).await;
    make(&sql, "b", "u1", Some("f/a")).await;
    assert_eq!(end("a", "u1").await, final_end("NOT_FOUND"));
    // What is published anybody may have.
    make(&sql, "of-published", "u2", Some("p/slug-first")).await;
    assert_eq!(end("of-published", "u2").await, final_end("NOT_FOUND"));
    run(&sql, "first", "published = true").await;
    until_published(&at, "slug-first", Some(&["one", "two"])).await;
    assert!(drawer(&at, "of-published", "u2").await.has("two"));
    make(&sql, "other", "u1", Some("r/whatever")).await;
    assert!(!drawer(&at, "other", "u1").await.has("one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_document_and_the_way_back_are_for_whom_the_rule_allows_it() {
    let definition = Definition::parse("rowtide.toml", &definition()).unwrap();
    let each = |options: &mut ServerOptions| options.documents.history_every = Duration::ZERO;
    let app = App::over(database().await, &Arc::new(definition), each).await;
    let (at, sql) = (app.address().to_string(), app.database.connect().await);
    make(&sql, "d", "u1", None).await;
    run(&sql, "d", "shared = true, \"sharedLinkType\" = 'edit'").await;
    let bearer = |user: &str| format!("Authorization: Bearer {}\r\n", App::token(user));
    let get = async |path: &str, user: &str| {
        ask(&at, &format!("GET /app/file/d/{path}"), &bearer(user), "").await
    };
    let mut ann = drawer(&at, "d", "u1").await;
    assert_eq!(ann.draw("one").await, "commit");
    let time = eventually("it is saved", || async {
        let times = get("history", "u1").await.json();
        let time = times.as_array().unwrap().first()?.as_str().unwrap().to_owned();
        let snapshot = get(&format!("history/{time}"), "u1").await.json();
        snapshot.to_string().contains("page:one").then_some(time)
    })
    .await;
    assert_eq!(ann.draw("two").await, "commit");
    let restore = async |user: &str, body: &str| {
        ask(&at, "POST /app/file/d/restore", &bearer(user), body).await
    };
    let body = json!({ "timestamp": time }).to_string();
    let refused = restore("u2", &body).await;
    assert_eq!((refused.status, &refused.json()["reason"]), (403, &json!("FORBIDDEN")));
    assert_eq!(get("history", "u2").await.status, 403);
    assert_eq!(ask(&at, "GET /app/file/d/history", "", "").await.status, 401);
    assert_eq!(restore("u1", "{}").await.status, 400);
    assert_eq!(restore("u1", &"x".repeat(100_000)).await.status / 100, 4);
    assert_eq!(restore("u1", r#"{"timestamp":"../current"}"#).await.status, 404);
    assert_eq!(get("history/2000-01-01T00:00:00.000Z", "u1").await.status, 404);
    let nowhere = ask(&at, "GET /app/file/nowhere/history", &bearer("u1"), "").await;
    assert_eq!(nowhere.status, 404);
    let done = restore("u1", &body).await;
    assert_eq!((done.status, &done.json()["error"]), (200, &json!(false)));
    // Everybody comes back, and finds it as it was.
    loop {
        if let Came::End(code, _) = ann.at.next().await {
            assert_ne!(code, 4099);
            break;
        }
    }
    let ann = drawer(&at, "d", "u1").await;
    assert!(ann.has("one") && !ann.has("two"));
    // A text has a history as well, below its own path.
    sql.batch_execute("INSERT INTO page VALUES (7, 'u1')").await.unwrap();
    let mut text = Texter::open(&at, "/doc/note/7", Some(&App::token("u1"))).await;
    text.write("hello").await;
    eventually("it is saved", || async {
        let answer = ask(&at, "GET /doc/note/7/history", &bearer("u1"), "").await;
        (answer.status == 200 && answer.json() != json!([])).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_documents_change_places_in_one_transaction() {
    let app = app().await;
    let (at, sql) = (app.address().to_string(), app.database.connect().await);
    for id in ["x", "y"] {
        make(&sql, id, "u1", None).await;
        let mut ann = drawer(&at, id, "u1").await;
        assert_eq!(ann.draw(&format!("of {id}")).await, "commit");
        run(&sql, id, "published = true").await;
        until_published(&at, &format!("slug-{id}"), Some(&[&format!("of {id}")])).await;
    }
    // Addresses are unique in the table, so one of them waits elsewhere, which nobody sees.
    let address = |id: &str, slug: &str| {
        format!("UPDATE file SET \"publishedSlug\" = '{slug}' WHERE id = '{id}'; ")
    };
    let swap = [address("x", "between"), address("y", "slug-x"), address("x", "slug-y")].concat();
    sql.batch_execute(&format!("BEGIN; {swap}COMMIT")).await.unwrap();
    until_published(&at, "slug-x", Some(&["of y"])).await;
    until_published(&at, "slug-y", Some(&["of x"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_document_is_not_published_is_said_also_if_its_row_does_not_take_it_at_first() {
    let app = app().await;
    let sql = app.database.connect().await;
    // A sequence counts what is taken back, too.
    let refuses = "CREATE TABLE refuses (); INSERT INTO refuses DEFAULT VALUES; CREATE SEQUENCE refused; \
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
          IF NEW.trouble IS NOT NULL AND EXISTS (SELECT FROM refuses) THEN \
            PERFORM nextval('refused'); RAISE EXCEPTION 'not now'; \
          END IF; RETURN NEW; END $$; \
        CREATE TRIGGER refuse BEFORE UPDATE ON page FOR EACH ROW EXECUTE FUNCTION refuse(); \
        INSERT INTO page (id, owner) VALUES (1, 'u1'); UPDATE page SET is_public = true";
    sql.batch_execute(refuses).await.unwrap();
    eventually("it is refused", || async {
        let row = sql.query_one("SELECT is_called FROM refused", &[]).await.unwrap();
        row.get::<_, bool>(0).then_some(())
    })
    .await;
    sql.batch_execute("DELETE FROM refuses").await.unwrap();
    eventually("the row says why", || async {
        let row = sql.query_one("SELECT trouble FROM page", &[]).await.unwrap();
        row.get::<_, Option<String>>(0)
    })
    .await;
    sql.batch_execute("UPDATE page SET address = 'here'").await.unwrap();
    eventually("the row says that it is well", || async {
        let row = sql.query_one("SELECT trouble FROM page", &[]).await.unwrap();
        row.get::<_, Option<String>>(0).is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_the_network_has_its_rate_of_requests_without_a_token() {
    let definition = Arc::new(Definition::parse("rowtide.toml", &definition()).unwrap());
    let app = App::over(database().await, &definition, |options| {
        options.gateway.client.requests_per_address = 3;
    })
    .await;
    let at = app.address().to_string();
    make(&app.database.connect().await, "r", "u1", None).await;
    // Whoever has a token has a rate of their own; before documents are served nobody is told anything.
    drawer_at_last(&at, "r", "u1").await;
    let stranger = async || Drawer::open(&at, "/app/file/r", None, "tab").await.at.next().await;
    let closed = |code: u16, reason: &str| Came::End(code, reason.to_owned());
    assert_eq!(stranger().await, closed(4099, "NOT_AUTHENTICATED"));
    for _ in 0..2 {
        assert_eq!(published(&at, "nowhere").await.status, 404);
    }
    let answer = published(&at, "nowhere").await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (429, Some("RATE_LIMITED")));
    let seconds: u64 = answer.header("retry-after").expect("when").parse().unwrap();
    assert!((1..=21).contains(&seconds), "{seconds}");
    assert_eq!(stranger().await, closed(1012, "COME_BACK"));
    drawer(&at, "r", "u1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_that_rows_cannot_be_told_of_their_documents() {
    let (database, dir) = (database().await, Dir::new());
    let definition = dir.write("rowtide.toml", &definition());
    let role = format!("teller_{}", database.name());
    database.run(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON page, file TO {role}")).await;
    let url = database.url_as(&role).await;
    let check = async || {
        let mut command = rowtide(["check", "--database-url", &url, "--definition", &definition]);
        command.args(["--environment", database.name(), "--log-dir", &dir.join("log")]);
        said(command).await.out
    };
    let checked = check().await;
    let lacks = |checked: &str, of: &str| {
        checked.contains(&format!("role {role} cannot tell rows of documents.{of}"))
    };
    for of in ["file `touched`", "file `publish_error`", "note `publish_error`"] {
        assert!(lacks(&checked, of), "{of}: {checked}");
    }
    let columns = r#"UPDATE ("updatedAt", "publishError") ON file"#;
    let grant = format!("GRANT {columns} TO {role}; GRANT UPDATE (trouble) ON page TO {role}");
    database.run(&grant).await;
    let checked = check().await;
    assert!(!lacks(&checked, ""), "{checked}");
    database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
