//! What an operator sees at `/metrics`.

use rowtide_tests::{
    App, Database, Dir, Running, SECRET, Writer, eventually, http_get, rowtide, said,
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
    ann.mutate(update(json!({ "id": "u2", "name": "Ann" }))).await.rejected("not_found", "user");
    // The client may hear of it before the server has put it away, and counted.
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
        eventually(&format!("{name} is {expected}"), || async {
            let text = http_get(&app, "/metrics").await;
            (value(&text, name) == Some(expected)).then_some(())
        })
        .await;
    }
    for name in [
        "rowtide_position_lsn",
        "rowtide_topics",
        "rowtide_sent_bytes_total",
        "rowtide_commit_to_send_seconds_count",
    ] {
        eventually(&format!("{name} is told"), || async {
            (value(&http_get(&app, "/metrics").await, name) > Some(0.0)).then_some(())
        })
        .await;
    }
    let text = http_get(&app, "/metrics").await;
    assert!(!text.contains("u1"), "nothing of users is told");
    // What Postgres knows of the slot is asked for now and then. Other databases write WAL as well.
    let slot = eventually("the slot is looked at, and has come near the end of WAL", || async {
        let text = http_get(&app, "/metrics").await;
        value(&text, "rowtide_replication_lag_bytes").filter(|lag| *lag < 1e6).map(|_| text)
    })
    .await;
    assert_eq!(value(&slot, "rowtide_slot_status{status=\"reserved\"}"), Some(1.0));
    assert_eq!(value(&slot, "rowtide_slot_status{status=\"lost\"}"), Some(0.0));
    assert!(value(&slot, "rowtide_slot_retained_wal_bytes").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_fills_is_warned_of_in_a_log_that_machines_read() {
    let dir = Dir::new();
    let database = Database::create().await;
    let sql = database.connect().await;
    let table = "CREATE TABLE note (id int PRIMARY KEY, owner text, text text)";
    sql.batch_execute(table).await.unwrap();
    let definition = dir.write("rowtide.toml", "[tables.note]\nvisible = 'owner = auth.user_id'");
    let (url, log_dir) = (database.url().await, dir.join("log"));
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
    command.args(["--log-dir", &log_dir, "--log-bytes", "1048576"]);
    command.env("ROWTIDE_TOKEN_SECRET", SECRET);
    let mut server = Running::start(command);
    server.line("ready http://").await;
    sql.batch_execute("INSERT INTO note VALUES (1, 'ann', '')").await.unwrap();
    let warned = eventually("the operator is warned", || async {
        let update = "UPDATE note SET text = repeat(md5(random()::text), 2000)";
        sql.batch_execute(update).await.unwrap();
        let said = server.said();
        let mut logged = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        logged.find(|line| {
            line["fields"]["message"].as_str().is_some_and(|said| said.contains("nearly as large"))
        })
    })
    .await;
    assert_eq!((&warned["level"], &warned["fields"]["limit"]), (&json!("WARN"), &json!(1 << 20)));
}
