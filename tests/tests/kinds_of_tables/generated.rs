//! Generated columns. Postgres publishes those that are stored since version 18, and takes no updates of a table with
//! full replica identity that has one which is not published.

use rowtide_tests::{Running, Writer, eventually, insert, update};
use serde_json::json;

use crate::kit::{Operator, Stage};

const TABLE: &str = "
CREATE TABLE note (id int PRIMARY KEY, owner text NOT NULL, body text NOT NULL,
  shouted text GENERATED ALWAYS AS (upper(body)) STORED);
INSERT INTO note VALUES (1, 'ann', 'one'), (2, 'bob', 'two');";
const RULE: &str = "[tables.note]\nvisible = 'owner = auth.user_id'\n";

/// What the client holds where generated columns are published, and elsewhere.
fn rows(published: bool) -> &'static str {
    if published {
        "SELECT to_jsonb(note)::text FROM note WHERE owner = 'ann'"
    } else {
        "SELECT (to_jsonb(note) - 'shouted')::text FROM note WHERE owner = 'ann'"
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_columns_are_synced_where_postgres_publishes_them() {
    let mut stage = Stage::new(RULE, TABLE).await;
    let published = stage.app.database.is_at_least(18, "generated columns are synced").await;
    stage.holds("note", rows(published)).await;
    for statement in [
        "UPDATE note SET body = body || '!'",
        "INSERT INTO note (id, owner, body) VALUES (3, 'ann', 'three')",
        "UPDATE note SET owner = 'ann' WHERE id = 2",
        "DELETE FROM note WHERE id = 1",
    ] {
        stage.run(statement).await;
        stage.holds("note", rows(published)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_may_become_generated_and_cease_to_be_while_the_application_writes() {
    let table = "CREATE TABLE note (id int PRIMARY KEY, owner text NOT NULL, body text NOT NULL);
                 INSERT INTO note VALUES (1, 'ann', 'one');";
    let mut stage = Stage::new(RULE, table).await;
    let published = stage.app.database.is_at_least(18, "generated columns are synced").await;
    stage.holds_all("note").await;
    let add = "ALTER TABLE note ADD COLUMN shouted text GENERATED ALWAYS AS (upper(body)) STORED";
    stage.run(&format!("{add}; UPDATE note SET body = 'two'")).await;
    stage.holds("note", rows(published)).await;
    stage.run("UPDATE note SET body = 'three'").await;
    stage.holds("note", rows(published)).await;
    stage.run("ALTER TABLE note ALTER COLUMN shouted DROP EXPRESSION").await;
    stage.run("UPDATE note SET body = 'four', shouted = 'said'").await;
    stage.holds_all("note").await;
    stage.run("ALTER TABLE note DROP COLUMN shouted; UPDATE note SET body = 'five'").await;
    stage.holds_all("note").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_write_around_generated_columns_and_rules_may_speak_of_them() {
    let definition = format!(
        "{RULE}[tables.note.insert]\nallow = \"new.shouted <> 'NO'\"\n\
         [[tables.note.update]]\nallow = \"new.shouted <> 'NO' AND old.shouted <> new.shouted\"\n"
    );
    let operator = Operator::new(&definition, TABLE).await;
    if !operator.database.is_at_least(18, "rules name generated columns").await {
        operator.is_rejected(&["new.shouted"], "UPDATE note SET body = 'x'").await;
        return;
    }
    let mut stage = Stage::new(&definition, TABLE).await;
    let mut writer = Writer::live(&stage.app, "ann").await;
    let row = |body: &str| json!({ "id": 7, "owner": "ann", "body": body });
    writer.mutate(json!([insert("note", row("no"))])).await.rejected("forbidden", "");
    writer.mutate(json!([insert("note", row("yes"))])).await.applied();
    stage.holds("note", rows(true)).await;
    let body = |body: &str| json!({ "id": 7, "body": body });
    writer.mutate(json!([update("note", body("no"))])).await.rejected("forbidden", "");
    writer.mutate(json!([update("note", body("YES"))])).await.rejected("forbidden", "");
    writer.mutate(json!([update("note", body("maybe"))])).await.applied();
    let named = json!({ "id": 7, "shouted": "X" });
    writer
        .mutate(json!([update("note", named)]))
        .await
        .rejected("forbidden", "computed by Postgres alone");
    stage.holds("note", rows(true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_which_columns_clients_do_not_get() {
    let operator = Operator::new(RULE, TABLE).await;
    let said = operator.is_set_up().await;
    let published = operator.database.is_at_least(18, "generated columns are synced").await;
    let note = "note: column \"shouted\" of \"public\".\"note\" is a generated column";
    assert_eq!(said.contains(note), !published, "{said}");
    operator.sql.batch_execute("UPDATE note SET body = 'x'; DELETE FROM note").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_for_a_column_that_is_not_streamed_says_why_it_cannot_be() {
    let rule = "[tables.note]\nvisible = 'shouted = auth.user_id'\n";
    let operator = Operator::new(rule, TABLE).await;
    if operator.database.is_at_least(18, "rules name generated columns").await {
        operator.is_set_up().await;
    } else {
        let parts = ["column `shouted` of table `note` is generated and not streamed"];
        operator.is_rejected(&parts, "UPDATE note SET body = 'x'").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_column_is_left_out_where_the_key_is_identity_enough_and_else_rejected() {
    let narrow = "CREATE TABLE score (id int PRIMARY KEY, points int NOT NULL,
                    double int GENERATED ALWAYS AS (points * 2) VIRTUAL);
                  INSERT INTO score VALUES (1, 1), (2, 2);";
    let wide = "CREATE TABLE note (id int PRIMARY KEY, owner text NOT NULL, body text NOT NULL,
                  shouted text GENERATED ALWAYS AS (upper(body)) VIRTUAL);
                INSERT INTO note VALUES (1, 'ann', 'one');";
    let database = rowtide_tests::Database::create().await;
    if !database.is_at_least(18, "virtual generated columns").await {
        return;
    }
    let rule = "[tables.score]\nvisible = 'true'\n";
    let rows = "SELECT (to_jsonb(score) - 'double')::text FROM score";
    let mut stage = Stage::new(rule, narrow).await;
    stage.holds("score", rows).await;
    for statement in ["UPDATE score SET points = points + 1", "DELETE FROM score WHERE id = 1"] {
        stage.run(statement).await;
        stage.holds("score", rows).await;
    }
    let operator = Operator::new(RULE, wide).await;
    let parts = [
        "replica identity of table \"public\".\"note\" is too small",
        "make column \"shouted\" STORED",
    ];
    operator.is_rejected(&parts, "UPDATE note SET body = 'x'; DELETE FROM note").await;
}

/// Postgres' own rule, which makes the application's statements fail: it is named until it is repaired.
#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_column_that_is_added_to_a_synced_table_is_named_with_what_mends_it() {
    let table = "CREATE TABLE note (id int PRIMARY KEY, owner text NOT NULL, body text NOT NULL);";
    let operator = Operator::new(RULE, table).await;
    operator.is_set_up().await;
    if !operator.database.is_at_least(18, "virtual generated columns").await {
        return;
    }
    let mut server = Running::start(operator.command("serve", &operator.database.url().await));
    server.line("ready http://").await;
    let add = "ALTER TABLE note ADD COLUMN shouted text GENERATED ALWAYS AS (upper(body)) VIRTUAL";
    operator.sql.batch_execute(add).await.unwrap();
    eventually("the server names it", || async {
        let said = server.said();
        let named = said.contains("Postgres rejects every update and delete of table");
        (named && said.contains("make column \"shouted\" STORED")).then_some(())
    })
    .await;
    server.stop().await;
    let said = operator.says("check").await;
    assert_eq!(said.code(), Some(1), "{said:?}");
    let text = "Postgres rejects every update and delete of table \"public\".\"note\"";
    assert!(said.out.contains(text), "{said:?}");
    assert!(said.out.contains("make column \"shouted\" STORED"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_publication_with_which_full_identity_does_not_go_is_named_before_anything_fails() {
    let operator = Operator::new(RULE, TABLE).await;
    if !operator.database.is_at_least(15, "publications with lists of columns").await {
        return;
    }
    let other = format!("other_{}", operator.database.name());
    let create = format!("CREATE PUBLICATION {other} FOR TABLE note (id, body)");
    operator.sql.batch_execute(&create).await.unwrap();
    let take_out = format!("take \"public\".\"note\" out of publication {other}");
    operator.is_rejected(&[&take_out], "UPDATE note SET body = 'x'").await;

    let change = format!("ALTER PUBLICATION {other} SET TABLE note");
    operator.sql.batch_execute(&change).await.unwrap();
    if operator.database.is_at_least(18, "publications of generated columns").await {
        let option = format!("ALTER PUBLICATION {other} SET (publish_generated_columns = stored)");
        operator.is_rejected(&[&option], "UPDATE note SET body = 'y'").await;
        operator.sql.batch_execute(&option).await.unwrap();
    }
    operator.is_set_up().await;
    operator.sql.batch_execute("UPDATE note SET body = 'z'; DELETE FROM note").await.unwrap();
}

/// Somebody else's publication, which a server that runs has no part in, makes the application's statements fail.
#[tokio::test(flavor = "multi_thread")]
async fn another_publication_with_which_full_identity_does_not_go_is_named_while_it_serves() {
    let table = "CREATE TABLE note (id int PRIMARY KEY, owner text NOT NULL, body text NOT NULL);";
    let operator = Operator::new(RULE, table).await;
    operator.is_set_up().await;
    if !operator.database.is_at_least(15, "publications with lists of columns").await {
        return;
    }
    let mut server = Running::start(operator.command("serve", &operator.database.url().await));
    server.line("ready http://").await;
    for number in 1..3 {
        let other = format!("other_{number}_{}", operator.database.name());
        let create = format!("CREATE PUBLICATION {other} FOR TABLE note (id, body)");
        operator.sql.batch_execute(&create).await.unwrap();
        let named = format!("take \"public\".\"note\" out of publication {other}");
        let said = server.says(&named).await;
        assert!(said.contains("Postgres rejects every update and delete of table"), "{said}");
        let said = operator.says("setup").await;
        assert!(format!("{}{}", said.out, said.err).contains(&other), "{said:?}");
        operator.sql.batch_execute(&format!("DROP PUBLICATION {other}")).await.unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_of_an_earlier_version_is_altered_to_bring_generated_columns() {
    let operator = Operator::new(RULE, TABLE).await;
    if !operator.database.is_at_least(18, "publications of generated columns").await {
        return;
    }
    operator.is_set_up().await;
    let publication = operator.database.names().publication;
    let none = format!("ALTER PUBLICATION {publication} SET (publish_generated_columns = none)");
    operator.sql.batch_execute(&none).await.unwrap();
    let said = operator.says("check").await;
    assert_eq!(said.code(), Some(1), "{said:?}");
    assert!(said.out.contains("(publish_generated_columns = stored);"), "{said:?}");
    operator.is_set_up().await;
    operator.sql.batch_execute("UPDATE note SET body = 'z'").await.unwrap();
}
