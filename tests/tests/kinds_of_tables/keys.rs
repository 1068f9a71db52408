//! What tells rows apart: a primary key, a unique index, and keys that may be the same for a while.

use rowtide_tests::{Writer, delete, insert};
use serde_json::json;

use crate::kit::{Operator, Stage};

const RULE: &str = "[tables.item]\nvisible = 'true'\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_deferrable_primary_key_is_rejected_with_the_reason() {
    let table = "CREATE TABLE item (list int, place int, body text,
                   PRIMARY KEY (list, place) DEFERRABLE INITIALLY DEFERRED);
                 INSERT INTO item VALUES (1, 1, 'a'), (1, 2, 'b'), (1, 3, 'c');";
    let operator = Operator::new(RULE, table).await;
    let parts = [
        "the primary key of table \"public\".\"item\" is DEFERRABLE",
        "two rows may have the same key within a transaction",
        "make the key NOT DEFERRABLE",
    ];
    operator.is_rejected(&parts, "UPDATE item SET place = place + 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_told_apart_by_another_key_than_a_deferrable_one() {
    let table = "CREATE TABLE item (list int, place int, id int NOT NULL UNIQUE, body text,
                   PRIMARY KEY (list, place) DEFERRABLE);
                 INSERT INTO item VALUES (1, 1, 1, 'a'), (1, 2, 2, 'b'), (1, 3, 3, 'c');";
    let mut stage = Stage::new(RULE, table).await;
    stage.holds_all("item").await;
    stage.follows("item", "UPDATE item SET place = place + 1").await;
    stage.follows("item", "DELETE FROM item WHERE id = 1; UPDATE item SET place = place - 1").await;
    // With the index goes what tells them apart.
    stage.run("ALTER TABLE item DROP CONSTRAINT item_id_key").await;
    stage.rejects(&["item"]).await;
    stage.run("UPDATE item SET place = place + 1; CREATE UNIQUE INDEX again ON item (id)").await;
    stage.rejects(&[]).await;
    stage.holds_all("item").await;
    // Nor does it tell rows apart any more if its column may be null.
    stage.run("ALTER TABLE item ALTER id DROP NOT NULL").await;
    stage.rejects(&["item"]).await;
    stage.run("ALTER TABLE item ALTER id SET NOT NULL").await;
    stage.rejects(&[]).await;
    stage.follows("item", "UPDATE item SET body = 'z'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_becomes_deferrable_is_noticed() {
    let table =
        "CREATE TABLE item (id int PRIMARY KEY, body text); INSERT INTO item VALUES (1, 'a');";
    let mut stage = Stage::new(RULE, table).await;
    stage.holds_all("item").await;
    stage.run("ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (id) DEFERRABLE").await;
    stage.rejects(&["item"]).await;
    stage.run("INSERT INTO item VALUES (2, 'b'); UPDATE item SET id = id + 1").await;
    stage.run("ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (id)").await;
    stage.rejects(&[]).await;
    stage.follows("item", "UPDATE item SET id = id + 10").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_index_over_columns_that_are_never_null_is_a_key() {
    let definition = format!(
        "{RULE}[tables.item.insert]\nallow = 'true'\n[[tables.item.update]]\nallow = 'true'\n\
         [tables.item.delete]\nallow = 'true'\n"
    );
    let table = "CREATE TABLE item (a int NOT NULL, b int NOT NULL, body text);
                 CREATE UNIQUE INDEX item_key ON item (b, a) INCLUDE (body);
                 INSERT INTO item VALUES (1, 1, 'a'), (2, 1, 'b');";
    let mut stage = Stage::new(&definition, table).await;
    stage.holds_all("item").await;
    let mut writer = Writer::live(&stage.app, "ann").await;
    let row = |a: i32, body: &str| json!({ "a": a, "b": 1, "body": body });
    writer.mutate(json!([insert("item", row(3, "c"))])).await.applied();
    // One that is there is updated.
    writer.mutate(json!([insert("item", row(2, "B"))])).await.applied();
    writer.mutate(json!([delete("item", json!({ "a": 1, "b": 1 }))])).await.applied();
    stage.holds_all("item").await;
    stage.follows("item", "UPDATE item SET a = a + 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_leaves_rows_out_or_is_over_an_expression_is_no_key() {
    let table = "CREATE TABLE item (a int NOT NULL, b int, body text NOT NULL);
                 CREATE UNIQUE INDEX ON item (a) WHERE b > 0; CREATE UNIQUE INDEX ON item (lower(body));
                 CREATE UNIQUE INDEX ON item (b); ALTER TABLE item ADD UNIQUE (body) DEFERRABLE;";
    let operator = Operator::new(RULE, table).await;
    let parts = [
        "table \"public\".\"item\" has no primary key",
        "a unique index over columns that are NOT NULL",
    ];
    operator.is_rejected(&parts, "UPDATE item SET a = 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_which_nobody_has_looked_whether_it_is_null_is_no_key() {
    let table = "CREATE TABLE item (a int, body text); CREATE UNIQUE INDEX ON item (a);
                 INSERT INTO item VALUES (NULL, 'a'), (NULL, 'b');";
    let operator = Operator::new(RULE, table).await;
    if !operator.database.is_at_least(18, "constraints that are not validated").await {
        return;
    }
    let sql = "ALTER TABLE item ADD CONSTRAINT c NOT NULL a NOT VALID";
    operator.sql.batch_execute(sql).await.unwrap();
    let parts = ["table \"public\".\"item\" has no primary key"];
    operator.is_rejected(&parts, "INSERT INTO item VALUES (1, 'c')").await;
    let sql = "DELETE FROM item; ALTER TABLE item VALIDATE CONSTRAINT c";
    operator.sql.batch_execute(sql).await.unwrap();
    operator.is_set_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_only_memberships_look_into_needs_no_key() {
    let definition = "[tables.item]\nvisible = 'list IN (SELECT list FROM member WHERE person = auth.user_id)'\n";
    let tables = "CREATE TABLE item (id int PRIMARY KEY, list int, body text);
                  CREATE TABLE member (list int, person text, since text); CREATE INDEX ON member (person);
                  INSERT INTO item VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c');
                  INSERT INTO member VALUES (1, 'ann', 'x'), (1, 'ann', 'x'), (2, 'ann', NULL), (3, 'bob', 'x');";
    let mut stage = Stage::new(definition, tables).await;
    let rows = "SELECT to_jsonb(item)::text FROM item WHERE list IN (SELECT list FROM member WHERE person = 'ann')";
    stage.holds("item", rows).await;
    let one = "DELETE FROM member WHERE ctid = (SELECT min(ctid) FROM member WHERE list = 1)";
    for statement in [
        // Of two that are the same one is left, and then none.
        one,
        one,
        "INSERT INTO member VALUES (3, 'ann', 'x'), (3, 'ann', 'x')",
        "UPDATE member SET list = 1 WHERE ctid = (SELECT max(ctid) FROM member WHERE list = 3)",
        "UPDATE member SET person = 'bob' WHERE list = 2; UPDATE item SET body = 'z'",
        "BEGIN; INSERT INTO member VALUES (2, 'ann', 'y'); DELETE FROM member WHERE list = 1; \
         INSERT INTO item VALUES (4, 2, 'd'); COMMIT",
        "TRUNCATE member",
        "INSERT INTO member VALUES (3, 'ann', 'x')",
    ] {
        stage.run(statement).await;
        stage.holds("item", rows).await;
    }
    // To be synced itself it needs one.
    let both = format!("{definition}[tables.member]\nvisible = 'person = auth.user_id'\n");
    let operator = Operator::new(&both, tables).await;
    operator
        .is_rejected(
            &["table \"public\".\"member\" has no primary key"],
            "UPDATE member SET list = 1",
        )
        .await;
}
