//! What must never be in a log is in none, at any level: tokens and values of rows, whatever goes wrong with them.
//! A second log without our filter shows that what is looked for would have been there.

use std::io::Write;
use std::sync::{Arc, Mutex};

use rowtide::log_filter::{read_filter, without_values};
use rowtide_tests::{App, Raw, http_get};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// Is in every value, id and token that is sent.
const MARK: &str = "Zeisig4711";

const TABLES: &str = "
    CREATE TABLE note (
        id text PRIMARY KEY, owner text NOT NULL, body text CHECK (body <> 'Zeisig4711-forbidden'), number int
    );
    CREATE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE NOTICE 'a row %', NEW;
        IF NEW.body LIKE '%custom%' THEN
            RAISE EXCEPTION 'not this one: %', NEW.body USING ERRCODE = 'R0001';
        ELSIF NEW.body LIKE '%again%' THEN
            RAISE EXCEPTION 'try % again', NEW.body USING ERRCODE = '40001';
        ELSIF NEW.body LIKE '%away%' THEN
            RAISE EXCEPTION 'no room for %', NEW.body USING ERRCODE = '53100';
        ELSIF NEW.body LIKE '%raised%' THEN
            RAISE EXCEPTION 'not %', NEW.body;
        ELSIF NEW.body LIKE '%cast%' THEN
            NEW.number := NEW.body::int;
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

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Captured {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_tokens_nor_values_are_logged_at_any_level() {
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

    let (ours, all) = (ours.text(), all.text());
    for (what, mark) in [("a value", MARK), ("a token", &signature)] {
        assert!(all.contains(mark), "{what} would be logged, if libraries were let");
        let line = ours.lines().find(|line| line.contains(mark));
        assert_eq!(line, None, "{what} is logged");
    }
    assert!(ours.contains("DEBUG rowtide"), "our own messages are there");
}
