//! Single faults, each of which once cost someone something: what was found by torture is kept here.

use rowtide_tests::{App, Writer, insert};
use serde_json::{Value, json};

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
async fn a_repeat_is_told_every_refusal_that_its_acknowledgement_covers() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    writer.mutate(note(1, "another")).await.refused("forbidden", "");
    writer.mutate(note(2, "u1")).await.applied();
    writer.mutate(note(3, "another")).await.refused("forbidden", "");
    // On a connection that was opened before all that was settled, by a server that only later took
    // over the stream, it is all sent again.
    let (mut again, _) = Writer::again(&app, "u1", &writer.client_id, 3).await;
    again.send_as(1, note(1, "another")).await;
    let mut refused = Vec::new();
    let acknowledged = loop {
        let message = again.raw.hear().await.expect("the session stays");
        if message["type"] == "reject" {
            refused.push(message["id"].clone());
        }
        if let Some(ack) = message["ack"].as_u64() {
            break ack;
        }
    };
    assert_eq!((acknowledged, refused), (3, vec![json!(1), json!(3)]));
}
