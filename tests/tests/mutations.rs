//! Mutations as a client sends them: what the rules of the files example allow and refuse, and that
//! each is settled exactly once, whatever becomes of connections.

use rowtide_tests::{App, Writer, eventually};
use serde_json::{Value, json};

fn insert(table: &str, row: Value) -> Value {
    json!({ "op": "insert", "table": table, "row": row })
}

fn update(table: &str, row: Value) -> Value {
    json!({ "op": "update", "table": table, "row": row })
}

fn delete(table: &str, row: Value) -> Value {
    json!({ "op": "delete", "table": table, "row": row })
}

fn file(id: &str, owner: &str) -> Value {
    json!({
        "id": id, "name": "Plan", "ownerId": owner, "thumbnail": "", "shared": false,
        "sharedLinkType": "view", "published": false, "lastPublished": 0, "publishedSlug": id,
        "createdAt": 1, "updatedAt": 1, "isEmpty": true,
    })
}

/// A new file and its owner's state, as one mutation.
fn new_file(id: &str, owner: &str) -> Value {
    json!([
        insert("file", file(id, owner)),
        insert("file_state", json!({ "userId": owner, "fileId": id, "firstVisitAt": 1 })),
    ])
}

async fn one(app: &App, sql: &str) -> String {
    let client = app.database.connect().await;
    let row = client.query_opt(&format!("SELECT ({sql})::text"), &[]).await.unwrap().unwrap();
    row.get::<_, Option<String>>(0).unwrap_or_else(|| "null".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_writes_and_hears_of_it_with_the_acknowledgement() {
    let app = App::example("files").await;
    let mut ann = Writer::live(&app, "u1").await;
    let changes = ann.mutate(new_file("n1", "u1")).await.applied();
    assert_eq!(changes.len(), 2, "{changes:?}");
    let row = &changes.iter().find(|change| change["table"] == "file").unwrap()["row"];
    assert_eq!(row["name"], "Plan");
    assert_eq!(
        row["ownerName"].as_str().unwrap(),
        one(&app, r#"SELECT name FROM "user" WHERE id = 'u1'"#).await
    );
    let changes = ann
        .mutate(json!([update("file", json!({ "id": "n1", "name": "Plan B" }))]))
        .await
        .applied();
    assert_eq!(changes[0]["row"]["name"], "Plan B");
    // Inserting it again is an update of it; what would not change is let pass.
    let mut again = file("n1", "u1");
    again["name"] = "Plan C".into();
    let changes = ann.mutate(json!([insert("file", again)])).await.applied();
    assert_eq!(changes[0]["row"]["name"], "Plan C");
    let changes = ann.mutate(json!([delete("file", json!({ "id": "n1" }))])).await.applied();
    assert!(changes.iter().all(|change| change["op"] == "delete"), "{changes:?}");
    assert_eq!(one(&app, "SELECT count(*) FROM file WHERE id = 'n1'").await, "0");
    assert_eq!(
        one(
            &app,
            &format!(
                "SELECT last_mutation FROM {}.client WHERE client_id = '{}'",
                app.database.names().schema,
                ann.client_id
            )
        )
        .await,
        "4"
    );
}
