//! What must never be in a log is in none, at any level: tokens and values of rows, whatever goes wrong with them. A second
//! log without our filter shows that what is looked for would have been there; and the binary is looked at as it is run. What must
//! be in a log is there, once.

use std::sync::OnceLock;

use rowtide::log_filter::{read_filter, without_values};
use rowtide_tests::small::{FILES, SMALL_FILES, files_tables};
use rowtide_tests::{
    App, AtDocument, Came, Captured, Database, Dir, Older, Raw, Running, SECRET, Writer,
    eventually, http_get, insert, rowtide, said,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::MutexGuard;
use tokio_tungstenite::tungstenite::Message;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// Is in every value, id and token that is sent.
const MARK: &str = "Zeisig4711";

/// What goes wrong is said by the value, which each of them quotes.
const TABLES: &str = "
    CREATE TABLE note (
        id text PRIMARY KEY, owner text NOT NULL, body text CHECK (body <> 'Zeisig4711-forbidden'), number int,
        kind regclass
    );
    CREATE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE said text := coalesce(to_jsonb(NEW) ->> 'body', to_jsonb(NEW) ->> 'name');
    BEGIN
        RAISE NOTICE 'a row %', NEW;
        IF said LIKE '%custom%' THEN
            RAISE EXCEPTION 'not this one: %', said USING ERRCODE = 'R0001';
        ELSIF said LIKE '%again%' THEN
            RAISE EXCEPTION 'try % again', said USING ERRCODE = '40001';
        ELSIF said LIKE '%away%' THEN
            RAISE EXCEPTION 'no room for %', said USING ERRCODE = '53100';
        ELSIF said LIKE '%raised%' THEN
            RAISE EXCEPTION 'not %', said;
        ELSIF said LIKE '%cast%' THEN
            PERFORM said::int;
        ELSIF said LIKE '%relation%' THEN
            PERFORM said::regclass;
        ELSIF said LIKE '%setting%' THEN
            said := current_setting(said);
        ELSIF said LIKE '%execute%' THEN
            EXECUTE 'SELECT ' || replace(said, '-', '_');
        ELSIF said LIKE '%sequence%' THEN
            EXECUTE format('SELECT nextval((%L::text)::regclass)', said);
        ELSIF said LIKE '%opened%' THEN
            DECLARE opened refcursor;
            BEGIN
                OPEN opened FOR EXECUTE 'SELECT ' || replace(said, '-', '_');
            END;
        ELSIF said LIKE '%slow%' THEN
            PERFORM pg_cancel_backend(pg_backend_pid());
            PERFORM pg_sleep(60);
        ELSIF said LIKE '%spill%' THEN
            SET LOCAL temp_file_limit = 0;
            SET LOCAL work_mem = '64kB';
            PERFORM count(*) FROM (SELECT said || n FROM generate_series(1, 20000) n ORDER BY md5(n::text)) all_of_it;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER complain BEFORE INSERT OR UPDATE ON note FOR EACH ROW EXECUTE FUNCTION complain();";

const DEFINITION: &str = "
    [tables.note]
    visible = 'owner = auth.user_id'
    [tables.note.insert]
    allow = 'new.owner = auth.user_id'
    [[tables.note.update]]
    allow = 'old.owner = auth.user_id'
    [tables.note.delete]
    allow = 'old.owner = auth.user_id'
";

/// What a value that goes wrong comes to, by the end of it.
const WRONG: [(&str, &str); 14] = [
    ("forbidden", "constraint"),
    ("custom", "constraint"),
    ("raised", "constraint"),
    ("away", "constraint"),
    ("cast", "unknown_error"),
    ("\0", "bad_request"),
    ("again", "unknown_error"),
    ("slow", "unknown_error"),
    ("relation", "unknown_error"),
    ("setting", "unknown_error"),
    ("execute", "unknown_error"),
    ("sequence", "unknown_error"),
    ("opened", "unknown_error"),
    ("fine", ""),
];

/// What one test of this process has logged: the others wait.
struct Log {
    from: (usize, usize),
    _alone: MutexGuard<'static, ()>,
}

impl Log {
    async fn begin() -> Log {
        static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let alone = ALONE.lock().await;
        let (ours, all) = captured();
        Log { from: (ours.size(), all.size()), _alone: alone }
    }

    /// As it is written for an operator.
    fn ours(&self) -> String {
        captured().0.text(self.from.0)
    }

    /// As it would be without the filter.
    fn all(&self) -> String {
        captured().1.text(self.from.1)
    }
}

fn captured() -> &'static (Captured, Captured) {
    static CAPTURED: OnceLock<(Captured, Captured)> = OnceLock::new();
    CAPTURED.get_or_init(|| {
        let (ours, all) = (Captured::default(), Captured::default());
        let layer = |into: &Captured| {
            let into = into.clone();
            tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || into.clone())
        };
        let layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![
            without_values(read_filter("trace").unwrap(), layer(&ours)).boxed(),
            layer(&all).with_filter(EnvFilter::new("trace")).boxed(),
        ];
        tracing_subscriber::registry().with(layers).init();
        (ours, all)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_tokens_nor_values_are_logged_at_any_level() {
    let log = Log::begin().await;
    let app = App::with(DEFINITION, TABLES).await;
    let user = format!("{MARK}-user");
    let token = App::token(&user);
    let signature = token.rsplit('.').next().unwrap().to_owned();
    let mut raw = Raw::live(&app, &user).await;
    let mut number = 0;
    let mut mutate = |op: &str, row: Value| {
        number += 1;
        json!({ "type": "mutate", "id": number, "ops": [{ "op": op, "table": "note", "row": row }] })
    };
    let row = |id: &str, body: &str| json!({ "id": format!("{MARK}-{id}"), "owner": user, "body": format!("{MARK}-{body}") });
    let good = mutate("insert", row("1", "body"));
    let bodies = ["forbidden", "custom", "raised", "cast", "\0", "again"];
    let bad: Vec<Value> = bodies.iter().map(|body| mutate("insert", row("2", body))).collect();
    let others = [
        mutate("insert", json!({ "id": MARK, "owner": user, "number": MARK })),
        mutate("insert", json!({ "id": MARK, "owner": MARK })),
        mutate("update", json!({ "id": MARK, "body": MARK })),
        mutate("insert", json!({ "id": MARK, "owner": user, MARK: 1 })),
    ];
    for message in [good].iter().chain(&bad).chain(&others) {
        raw.say(message).await;
    }
    let last = number;
    loop {
        let message = raw.until("tx").await;
        if message["ack"].as_u64() == Some(last) {
            break;
        }
    }
    raw.say(&json!({ "type": "auth", "token": App::token(&user) })).await;
    raw.assert_alive().await;
    // What is wrong is told to whoever sends it.
    for text in [
        json!({ "type": MARK }).to_string(),
        json!({ "type": "connect", "protocol": token, "clientId": MARK }).to_string(),
        json!({ "type": "connect", "protocol": 1, "clientId": "c", "token": token }).to_string(),
        format!("{{\"type\": \"connect\", {token}"),
    ] {
        let mut raw = Raw::open(&app).await;
        raw.send(Message::text(text)).await;
        raw.ending().await.assert("a bad message", "bad_request");
    }
    let mut forged = Raw::open_with(&app, Some(&format!("Bearer {token}x"))).await;
    forged.say(&Raw::connect(&token)).await;
    forged.ending().await.assert("a forged token", "unauthorized");
    drop(http_get(&app, &format!("/?accessToken={token}")).await);
    let sql = app.database.connect().await;
    let insert = "INSERT INTO note VALUES ('Zeisig4711-9', 'Zeisig4711-user', 'Zeisig4711-sql')";
    sql.batch_execute(insert).await.unwrap();
    raw.until("tx").await;
    drop(raw);
    drop(app);

    let (ours, all) = (log.ours(), log.all());
    for (what, mark) in [("a value", MARK), ("a token", &signature)] {
        assert!(all.contains(mark), "{what} would be logged, if libraries were let");
        let line = ours.lines().find(|line| line.contains(mark));
        assert_eq!(line, None, "{what} is logged");
    }
    assert!(ours.contains("DEBUG rowtide"), "our own messages are there");
}

/// As an operator runs it, with what clients of both protocols send.
#[tokio::test(flavor = "multi_thread")]
async fn the_binary_says_neither_tokens_nor_values_at_any_level() {
    tokio::join!(binary_says_no_value("trace"), binary_says_no_value("debug"));
}

async fn binary_says_no_value(level: &str) {
    let user = format!("{MARK}-user");
    let on_files = format!(
        "CREATE TRIGGER a_complaint BEFORE INSERT OR UPDATE ON file FOR EACH ROW EXECUTE FUNCTION complain();
         INSERT INTO \"user\" VALUES ('{user}', '{MARK}', '{MARK}@example.org', '{MARK}', 'red', 'png', 'auto', true, true, 1, 1, '');"
    );
    let database =
        Database::with(&format!("{}{SMALL_FILES}{TABLES}{on_files}", files_tables())).await;
    let (dir, url) = (Dir::new(), database.url().await);
    dir.write("rowtide.toml", &format!("{FILES}{DEFINITION}"));
    let command = |args: &[&str]| {
        let mut command = rowtide(args);
        command
            .current_dir(dir.path())
            .env("DATABASE_URL", &url)
            .env("ROWTIDE_ENVIRONMENT", database.name())
            .env("ROWTIDE_TOKEN_SECRET", SECRET)
            .env("ROWTIDE_LISTEN", "127.0.0.1:0");
        command
    };
    let set_up = said(command(&["setup"])).await;
    assert_eq!(set_up.code(), Some(0), "{set_up:?}");
    let mut server = Running::start(command(&["serve", "--log-level", level]));
    let address = server.line("ready http://").await;

    let token = App::token(&user);
    let socket = format!("ws://{address}/sync");
    let mut raw = Raw::open_url(&socket, None).await;
    raw.say(&json!({ "type": "connect", "protocol": 1, "clientId": format!("{MARK}-client"), "token": token }))
        .await;
    raw.until("ready").await;
    let mut number = 0;
    let mut mutate = |row: Value| {
        number += 1;
        json!({ "type": "mutate", "id": number, "ops": [insert("note", row)] })
    };
    let row = |body: &str| json!({ "id": format!("{MARK}-{body}"), "owner": user, "body": format!("{MARK}-{body}") });
    for (body, code) in WRONG {
        raw.say(&mutate(row(body))).await;
        assert_eq!(outcome(&mut raw).await, code, "{body}");
    }
    for (row, code) in [
        (json!({ "id": MARK, "owner": user, "kind": MARK }), "bad_request"),
        (json!({ "id": MARK, "owner": user, "number": MARK }), "bad_request"),
        (json!({ "id": MARK, "owner": user, MARK: 1 }), "bad_request"),
        (json!({ "id": MARK, "owner": MARK }), "forbidden"),
    ] {
        raw.say(&mutate(row.clone())).await;
        assert_eq!(outcome(&mut raw).await, code, "{row}");
    }
    // Postgres itself has no room: it is waited for.
    raw.say(&mutate(row("spill"))).await;
    eventually("the mutation waits", || async {
        server.said().contains("a mutation waits for Postgres").then_some(())
    })
    .await;
    let sql = database.connect().await;
    sql.batch_execute("DROP TRIGGER complain ON note").await.unwrap();
    assert_eq!(outcome(&mut raw).await, "");
    raw.say(&json!({ "type": "auth", "token": token })).await;
    raw.assert_alive().await;
    for (text, code) in [
        (json!({ "type": MARK }).to_string(), "bad_request"),
        (Raw::connect(&format!("{token}x")).to_string(), "unauthorized"),
        (format!("{{\"type\": \"connect\", {token}"), "bad_request"),
    ] {
        let mut raw = Raw::open_url(&socket, None).await;
        raw.send(Message::text(text)).await;
        raw.ending().await.assert("a bad message", code);
    }

    let path = |user: &str, token: &str| {
        format!("/app/{user}/connect?sessionId={MARK}-tab&accessToken={token}")
    };
    let mut tab = Older::open_at(&address, &path(&user, &token)).await.unwrap();
    assert_eq!(tab.hear().await["type"], "initial_data");
    for (name, code) in WRONG.into_iter().filter(|(name, _)| *name != "forbidden") {
        let file = json!({
            "id": format!("{MARK}-{name}"), "name": format!("{MARK}-{name}"), "ownerId": user, "thumbnail": "",
            "shared": false, "sharedLinkType": "view", "published": false, "lastPublished": 0,
            "publishedSlug": format!("{MARK}-{name}"), "createdAt": 1, "updatedAt": 1, "isEmpty": true,
            "isDeleted": false,
        });
        let named = format!("{MARK}-mutation-{name}");
        tab.mutate(&named, json!([{ "table": "file", "event": "insert", "row": file }])).await;
        let heard = tab.until(&named).await;
        let is_rejected = heard.last().unwrap()["type"] == "reject";
        assert_eq!(is_rejected, !code.is_empty(), "{name}: {heard:?}");
    }
    tab.send(&json!({ "type": MARK, "accessToken": token }).to_string()).await;
    tab.send(&format!("{MARK} {token}")).await;
    tab.send_binary(token.clone().into_bytes()).await;
    tab.assert_alive().await;
    for (path, status) in [
        (path(&user, &format!("{token}x")), 401),
        (path("owner", &token), 403),
        (format!("/app/{user}/connect?accessToken={token}"), 400),
    ] {
        let refused = Older::open_at(&address, &path).await.err().map(|status| status.as_u16());
        assert_eq!(refused, Some(status), "{path}");
    }
    for request in [
        format!("GET /sync?accessToken={token} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET /{MARK} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"),
        format!("{token} {MARK}\r\n\r\n"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        drop(stream.read(&mut [0; 1024]).await);
    }
    // A live document, to which one comes with a token in the path.
    let query = format!("?sessionId={MARK}-s&storeId={MARK}");
    for (path, is_let_in) in [
        (format!("/app/file/{MARK}-fine{query}&accessToken={token}"), true),
        (format!("/app/file/{MARK}-fine{query}&accessToken={token}x"), false),
        (format!("/app/file/{MARK}-nowhere{query}&accessToken={token}"), false),
    ] {
        let mut at = AtDocument::open(&address, &path).await;
        at.say(&connect_to_document(MARK)).await;
        assert_eq!(matches!(at.next().await, Came::Text(_)), is_let_in, "{path}");
        at.say(&format!("{MARK} {token}")).await;
        at.end().await;
    }
    let insert = format!("INSERT INTO note VALUES ('{MARK}-9', '{user}', '{MARK}-sql')");
    sql.batch_execute(&insert).await.unwrap();
    raw.until("tx").await;
    // What they print for their user is rows; what they log is beside it.
    let url = ["--token", &token, "--url", &socket, "--log-level", level];
    let op = json!({ "op": "insert", "table": "note", "row": row("by-command") }).to_string();
    let mutated = said(command(&[&["mutate"], &url[..], &[&op]].concat())).await;
    assert_eq!(mutated.code(), Some(0), "{mutated:?}");
    let mut watch = Running::start(command(&[&["watch"], &url[..]].concat()));
    watch.line("live").await;
    let watched = watch.stop().await;
    let said = server.stop().await;
    assert_eq!(said.code(), Some(0), "{said:?}");

    let parts: Vec<&str> = token.split('.').collect();
    let all = (said.out + &said.err + &mutated.err + &watched.err).to_lowercase();
    for mark in [MARK, parts[1], parts[2], SECRET] {
        let line = all.lines().find(|line| line.contains(&mark.to_lowercase()));
        assert_eq!(line, None, "at {level}");
    }
    // All of it was met, and logged.
    for part in [
        "debug",
        "a mutation waits for postgres",
        "sqlstate 53400",
        "took too long",
        "something in the database fails",
        "a message of an older client is not understood",
        "a session ends",
    ] {
        assert!(all.contains(part), "no `{part}` at {level} in:\n{all}");
    }
}

/// What a client of a drawing says first.
fn connect_to_document(id: &str) -> String {
    let schema = json!({ "schemaVersion": 2, "sequences": {} });
    json!({
        "type": "connect", "connectRequestId": id, "lastServerClock": -1, "protocolVersion": 8, "schema": schema,
    })
    .to_string()
}

/// The code of the next acknowledgement's rejection; empty if it was applied.
async fn outcome(raw: &mut Raw) -> String {
    let mut code = String::new();
    loop {
        let message = raw.hear().await.unwrap();
        if message["type"] == "reject" {
            message["code"].as_str().unwrap().clone_into(&mut code);
        }
        if !message["ack"].is_null() {
            return code;
        }
    }
}

/// Whoever runs the database is told which trigger it is, and with which statements it was met.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_trigger_is_one_error_with_its_statement_and_without_values() {
    let log = Log::begin().await;
    let tables = "
        CREATE TABLE note (id text PRIMARY KEY, owner text NOT NULL, body text);
        CREATE TABLE kept (body text);
        CREATE FUNCTION keep_it() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO kept (bodies) VALUES (NEW.body || 'x');
            RETURN NEW;
        END $$;
        CREATE TRIGGER keep_it BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION keep_it();";
    let app = App::with(DEFINITION, tables).await;
    let mut writer = Writer::live(&app, "u1").await;
    let note = |id: &str| json!([insert("note", json!({ "id": id, "owner": "u1", "body": MARK }))]);
    writer.mutate(note("n1")).await.rejected("unknown_error", "function `keep_it()`");
    let errors = || {
        let lines = log.ours();
        let lines = lines.lines().filter(|line| line.contains(" ERROR "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("it is told", || async { (!errors().is_empty()).then_some(()) }).await;
    let [told] = &errors()[..] else { panic!("{:?}", errors()) };
    for part in [
        "42703",
        "keep_it()",
        "line 3 at SQL statement",
        "INSERT INTO \\\"public\\\".\\\"note\\\"",
        "INSERT INTO kept (bodies)",
        "column \\\"bodies\\\" of relation \\\"kept\\\" does not exist",
    ] {
        assert!(told.contains(part), "no `{part}` in {told}");
    }
    // What is put together when it runs, in whatever way, is not repeated; where that is done is.
    for (n, body) in [
        "EXECUTE format('INSERT INTO kept (bodies) VALUES (%L)', NEW.body)",
        "EXECUTE format('SELECT nextval((%L::text)::regclass)', NEW.body)",
        "PERFORM NEW.body::regclass",
        "NEW.body := query_to_xml('SELECT ' || NEW.body, true, true, '')",
    ]
    .iter()
    .enumerate()
    {
        app.database
            .run(&format!(
                "CREATE OR REPLACE FUNCTION keep_it() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN {body}; RETURN NEW; END $$"
            ))
            .await;
        writer.mutate(note("n2")).await.rejected("unknown_error", "function `keep_it()`");
        eventually("it is told", || async { (errors().len() >= n + 2).then_some(()) }).await;
        let errors = errors();
        assert_eq!(errors.len(), n + 2, "{body}");
        let told = errors.last().unwrap();
        for part in ["keep_it()", " line 2 at ", "INSERT INTO \\\"public\\\".\\\"note\\\""] {
            assert!(told.contains(part), "{body}: no `{part}` in {told}");
        }
    }
    let lines = log.ours().to_lowercase();
    let line = lines.lines().find(|line| line.contains(&MARK.to_lowercase()));
    assert_eq!(line, None, "a value is logged");
}

/// It is the client's version that is odd, so it is said once, and not with what may be anything.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_client_says_that_is_not_understood_is_one_warning_without_its_text() {
    let log = Log::begin().await;
    let app = App::small_files().await;
    let (mut tab, _) = Older::live(&app, "owner").await;
    tab.send(&json!({ "type": MARK, "body": MARK }).to_string()).await;
    tab.send(&format!("{{{MARK}")).await;
    tab.send_binary(MARK.into()).await;
    tab.assert_alive().await;
    let lines = log.ours();
    let of = |level: &str| {
        let ours = lines.lines().filter(|line| line.contains("a message of an older client"));
        ours.filter(|line| line.contains(level)).count()
    };
    assert_eq!((of(" WARN "), of(" DEBUG ")), (1, 2), "{lines}");
    assert!(!lines.contains(MARK), "{lines}");
}
