//! Columns without `old.` or `new.` in a rule are meant of each row that there is: of an update's, both.

use rowtide_tests::{App, Writer, delete, insert, update};
use serde_json::{Value, json};

use crate::token;

const TABLES: &str = "
    CREATE TABLE member (team text, person text, project text, PRIMARY KEY (team, person));
    INSERT INTO member VALUES ('red', 'u1', 'p1'), ('blue', 'u2', 'p1');
    CREATE TABLE note (
        id text PRIMARY KEY, owner text, team text, project text, status text, size int,
        deleted bool NOT NULL DEFAULT false
    );";

fn definition(update: &str) -> String {
    format!(
        "[tables.note]\nvisible = 'true'\n\
         [tables.note.insert]\nallow = \"\"\"{update}\"\"\"\n\
         [[tables.note.update]]\nallow = \"\"\"{update}\"\"\"\n\
         [tables.note.delete]\nallow = \"\"\"{update}\"\"\"\n"
    )
}

/// A note of `u1` and the red team.
fn note() -> Value {
    json!({
        "id": "a", "owner": "u1", "team": "red", "project": "p1", "status": "open", "size": 1,
    })
}

async fn over(allow: &str) -> (App, Writer) {
    let app = App::with(&definition(allow), TABLES).await;
    let writer = Writer::live_with(&app, &token(json!({ "team": "red" }))).await;
    (app, writer)
}

async fn may(writer: &mut Writer, changes: Value, expected: bool) {
    let mut row = json!({ "id": "a" });
    row.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let rejected = writer.mutate(json!([update("note", row)])).await.rejected;
    let code = rejected.as_ref().map(|(code, _)| code.as_str());
    assert_eq!(code, (!expected).then_some("forbidden"), "{changes}: {rejected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_without_a_prefix_is_of_the_row_as_it_is_and_as_it_will_be() {
    let (app, mut writer) = over("owner = auth.user_id").await;
    writer.mutate(json!([insert("note", note())])).await.applied();
    let mut others = note();
    (others["id"], others["owner"]) = ("b".into(), "u2".into());
    writer.mutate(json!([insert("note", others)])).await.rejected("forbidden", "`note`");
    may(&mut writer, json!({ "status": "shut" }), true).await;
    // Out of sight, but still theirs.
    may(&mut writer, json!({ "deleted": true }), true).await;
    may(&mut writer, json!({ "owner": "u2" }), false).await;
    let none = json!([update("note", json!({ "id": "a", "owner": null }))]);
    writer.mutate(none).await.rejected("forbidden", "`owner`");
    app.database.run("UPDATE note SET owner = 'u2'").await;
    may(&mut writer, json!({ "owner": "u1" }), false).await;
    let gone = json!([delete("note", json!({ "id": "a" }))]);
    writer.mutate(gone.clone()).await.rejected("forbidden", "`note`");
    app.database.run("UPDATE note SET owner = 'u1'").await;
    writer.mutate(gone).await.applied();
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_a_subquery_names_are_found_as_postgres_finds_them() {
    // `team` is the member's own column, and `owner` the note's, which the member has not.
    let rule = "owner IN (SELECT person FROM member WHERE team = auth.claims.team) AND \
                EXISTS (SELECT 1 FROM member WHERE member.team = note.team AND person = owner \
                -- to the end\n)";
    let (app, mut writer) = over(rule).await;
    writer.mutate(json!([insert("note", note())])).await.applied();
    may(&mut writer, json!({ "status": "shut" }), true).await;
    may(&mut writer, json!({ "owner": "u2", "team": "blue" }), false).await;
    may(&mut writer, json!({ "team": "blue" }), false).await;
    app.database.run("UPDATE note SET team = 'blue', owner = 'u2'").await;
    may(&mut writer, json!({ "owner": "u1", "team": "red" }), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prefixes_go_on_to_mean_one_row_beside_columns_without() {
    let definition = "
        [tables.note]
        visible = 'true'
        [[tables.note.update]]
        columns = ['status', 'size', 'owner']
        allow = \"\"\"owner = auth.user_id AND size < 5 AND old.status = 'open'
                 AND (new.status = 'open' OR old.size < new.size)\"\"\"";
    let app = App::with(definition, TABLES).await;
    let mut writer = Writer::live_with(&app, &token(json!({}))).await;
    let seed = "INSERT INTO note (id, owner, status, size) VALUES ('a', 'u1', 'open', 1)";
    app.database.run(seed).await;
    may(&mut writer, json!({ "status": "shut" }), false).await;
    may(&mut writer, json!({ "size": 5 }), false).await;
    may(&mut writer, json!({ "size": 2 }), true).await;
    may(&mut writer, json!({ "owner": "u2" }), false).await;
    may(&mut writer, json!({ "status": "shut", "size": 3 }), true).await;
    may(&mut writer, json!({ "size": 4 }), false).await;
    app.database.run("UPDATE note SET status = 'open', size = 6").await;
    may(&mut writer, json!({ "size": 1 }), false).await;
}
