//! What an operator sees at `/metrics`.

use rowtide_tests::{App, Writer, eventually, http_get};
use serde_json::json;

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
