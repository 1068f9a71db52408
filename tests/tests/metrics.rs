//! What an operator sees at `/metrics`.

use std::collections::BTreeSet;

use rowtide_tests::{
    App, Database, Dir, Raw, Running, SECRET, Writer, eventually, http_get, rowtide, said,
};
use serde_json::{Value, json};

/// The value of a metric, by its name with labels.
fn value(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_mutations_and_the_slot_are_counted() {
    let app = App::example("files").await;
    let mut ann = Writer::live(&app, "u1").await;
    let update = |row| json!([{ "op": "update", "table": "user", "row": row }]);
    ann.mutate(update(json!({ "id": "u1", "name": "Ann" }))).await.applied();
    ann.mutate(update(json!({ "id": "u2", "name": "Ann" }))).await.refused("not_found", "user");
    let text = http_get(&app, "/metrics").await;
    for (name, expected) in [
        ("rowtide_ready", 1.0),
        ("rowtide_sessions", 1.0),
        ("rowtide_views", 1.0),
        ("rowtide_mutations_waiting", 0.0),
        ("rowtide_mutations_total{outcome=\"applied\"}", 1.0),
        ("rowtide_mutations_total{outcome=\"not_found\"}", 1.0),
        ("rowtide_connects_total{result=\"snapshot\"}", 1.0),
        ("rowtide_mutation_seconds_count", 2.0),
        ("rowtide_refused_tables", 0.0),
        ("rowtide_unreadable_tables", 0.0),
    ] {
        assert_eq!(value(&text, name), Some(expected), "{name}\n{text}");
    }
    for name in ["rowtide_position_lsn", "rowtide_topics", "rowtide_sent_bytes_total"] {
        assert!(value(&text, name) > Some(0.0), "{name}\n{text}");
    }
    assert!(value(&text, "rowtide_commit_to_send_seconds_count") > Some(0.0));
    assert!(!text.contains("u1"), "nothing of users is told");
    // What Postgres knows of the slot is asked for now and then.
    let slot = eventually("the slot is looked at", || async {
        let text = http_get(&app, "/metrics").await;
        value(&text, "rowtide_replication_lag_bytes").map(|_| text)
    })
    .await;
    assert_eq!(value(&slot, "rowtide_slot_status{status=\"reserved\"}"), Some(1.0));
    assert_eq!(value(&slot, "rowtide_slot_status{status=\"lost\"}"), Some(0.0));
    assert!(value(&slot, "rowtide_slot_retained_wal_bytes").is_some());
    assert!(value(&slot, "rowtide_replication_lag_bytes") < Some(1e6), "{slot}");
}

/// The names that a text tells of, in the order of the alphabet.
fn names(text: &str) -> BTreeSet<&str> {
    let of_metric = |character: char| character.is_ascii_lowercase() || character == '_';
    let words = text.split(|character: char| !of_metric(character));
    words.filter(|word| word.starts_with("rowtide_")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_what_the_page_for_operators_tells_of() {
    const PAGE: &str = include_str!("../../docs/operations.md");
    let table: String = PAGE.lines().filter(|line| line.starts_with("| `rowtide_")).collect();
    let told: BTreeSet<&str> =
        table.split('|').filter(|cell| cell.starts_with(" `rowtide_")).flat_map(names).collect();
    let mut app = App::example("files").await;
    let sql = app.database.connect().await;
    // Whatever is only there once it has happened: a resume, an ending, a conflict.
    let mut raw = Raw::open(&app).await;
    raw.say(&Raw::connect(&App::token("u1"))).await;
    let cursor = raw.until("ready").await["cursor"].clone();
    sql.batch_execute("UPDATE file SET name = 'streamed' WHERE \"ownerId\" = 'u1'").await.unwrap();
    raw.until("tx").await;
    let mut connect = Raw::connect(&App::token("u1"));
    connect["cursor"] = cursor;
    let mut back = Raw::open(&app).await;
    back.say(&connect).await;
    assert_eq!(back.until("connected").await["mode"], "resume");
    let mut ann = Writer::live(&app, "u2").await;
    let rows = json!([{ "op": "update", "table": "user", "row": { "id": "u2", "name": "Ann" } }]);
    sql.batch_execute("BEGIN; UPDATE \"user\" SET name = 'held' WHERE id = 'u2'").await.unwrap();
    let held = async {
        let waits = || async {
            let text = http_get(&app, "/metrics").await;
            names(&text).contains("rowtide_mutation_retries_total").then_some(())
        };
        // A lock is waited for 5 s before a mutation is tried again.
        eventually("a mutation is tried again", waits).await;
        sql.batch_execute("COMMIT").await.unwrap();
    };
    let (settled, ()) = tokio::join!(ann.mutate(rows), held);
    settled.applied();
    app.stop_server().await;
    app.start_server().await;
    let exported = eventually("the slot is looked at", || async {
        let text = http_get(&app, "/metrics").await;
        names(&text).contains("rowtide_replication_lag_seconds").then_some(text)
    })
    .await;
    // The parts of a histogram.
    let parts = ["_bucket", "_sum", "_count"];
    let whole = |name: &'_ str| parts.iter().all(|part| !name.ends_with(part));
    let exported: BTreeSet<&str> =
        names(&exported).into_iter().filter(|name| whole(name)).collect();
    assert_eq!(exported, told);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_fills_is_warned_of_in_a_log_that_machines_read() {
    let dir = Dir::new();
    let database = Database::create().await;
    let sql = database.connect().await;
    let table = "CREATE TABLE note (id int PRIMARY KEY, owner text, text text)";
    sql.batch_execute(table).await.unwrap();
    let definition = dir.write("rowtide.toml", "[tables.note]\nvisible = 'owner = auth.user_id'");
    let (url, history) = (database.url().await, dir.join("history"));
    let settings = ["--definition", &definition, "--database-url", &url];
    let run = |command: &str| {
        let mut command = rowtide([command]);
        command.args(settings).args(["--environment", database.name()]);
        command
    };
    let set_up = said(run("setup")).await;
    assert_eq!(set_up.code(), Some(0), "{set_up:?}");
    let mut command = run("serve");
    command.args(["--log-format", "json", "--listen", "127.0.0.1:0"]);
    command.args(["--history-dir", &history, "--history-bytes", "1048576"]);
    command.env("ROWTIDE_TOKEN_SECRET", SECRET);
    let mut server = Running::start(command);
    server.line("ready http://").await;
    for id in 0..20 {
        let row = format!("INSERT INTO note VALUES ({id}, 'ann', repeat(md5('{id}'), 2000))");
        sql.batch_execute(&row).await.unwrap();
    }
    let warned = eventually("the operator is warned", || async {
        let said = server.said();
        let mut logged = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        logged.find(|line| line["level"] == "WARN")
    })
    .await;
    let (fields, limit) = (&warned["fields"], 1 << 20);
    assert!(fields["message"].as_str().unwrap().contains("nearly as large"), "{warned}");
    assert_eq!(fields["limit"], limit, "{warned}");
}
