//! The page for operators and `/metrics` tell of the same metrics. Metrics are the process's, so this test has
//! one of its own.

use std::collections::BTreeSet;

use rowtide_tests::{App, Drawer, Raw, Writer, eventually, http_get};
use serde_json::json;

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
    let mut back = Raw::open(&app).await;
    back.say(&Raw::connect_from(&App::token("u1"), cursor.as_str())).await;
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
    let (outcome, ()) = tokio::join!(ann.mutate(rows), held);
    outcome.applied();
    let row = sql.query_one(
        "SELECT id FROM file WHERE \"ownerId\" = 'u1' AND NOT \"isDeleted\" LIMIT 1",
        &[],
    );
    let path = format!("/app/file/{}", row.await.unwrap().get::<_, String>(0));
    let address = app.address().to_string();
    let mut drawer = Drawer::live(&address, &path, Some(&App::token("u1")), "s").await;
    assert_eq!(drawer.draw("more").await, "commit");
    let saved = || async {
        let text = http_get(&app, "/metrics").await;
        names(&text).contains("rowtide_room_save_seconds_count").then_some(())
    };
    eventually("the drawing is saved", saved).await;
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
    let text = exported;
    let exported: BTreeSet<&str> = names(&text).into_iter().filter(|name| whole(name)).collect();
    assert_eq!(exported, told);
    let lines = || text.lines().filter_map(|line| line.strip_prefix("# HELP "));
    let explained: BTreeSet<&str> = lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(explained, told, "each says what it is");
    assert!(lines().all(|line| line.len() > 30), "{:?}", lines().collect::<Vec<_>>());
}
