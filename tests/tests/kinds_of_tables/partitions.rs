//! Partitioned tables are synced through their root. What comes and goes with a partition as a whole is not streamed,
//! and is loaded again.

use rowtide_tests::{Writer, delete, eventually, http_get, insert, update};
use serde_json::{Value, json};

use crate::kit::{Operator, Stage};

/// Partitions of their own layout, and one that is partitioned again.
const TABLES: &str = "
CREATE TABLE event (at int NOT NULL, id int NOT NULL, owner text NOT NULL, body text, PRIMARY KEY (at, id))
  PARTITION BY RANGE (at);
CREATE INDEX ON event (owner);
CREATE TABLE event_1 (gone int, body text, owner text NOT NULL, id int NOT NULL, at int NOT NULL);
ALTER TABLE event_1 DROP COLUMN gone;
ALTER TABLE event ATTACH PARTITION event_1 FOR VALUES FROM (0) TO (10);
CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
CREATE TABLE event_2_odd PARTITION OF event_2 FOR VALUES IN (1, 3, 5);
CREATE TABLE event_2_rest PARTITION OF event_2 DEFAULT;
CREATE TABLE other (id int PRIMARY KEY);
INSERT INTO event VALUES (1, 1, 'ann', 'a'), (2, 2, 'bob', 'b'), (11, 3, 'ann', 'c'), (12, 4, 'ann', 'd');";
const RULE: &str =
    "[tables.event]\nvisible = 'owner = auth.user_id'\n[tables.other]\nvisible = 'true'\n";
const ROWS: &str = "SELECT to_jsonb(event)::text FROM event WHERE owner = 'ann'";

impl Stage {
    async fn events(&mut self, statement: &str) {
        self.run(statement).await;
        self.holds("event", ROWS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_partitions_are_rows_of_their_table_wherever_they_move() {
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("event", ROWS).await;
    let before = stage.cursor().await;
    for statement in [
        "UPDATE event SET body = body || '!'",
        "UPDATE event SET owner = 'ann' WHERE id = 2",
        // From one partition to another, and within the one that is partitioned.
        "UPDATE event SET at = at + 10 WHERE at < 10",
        "UPDATE event SET id = id + 1",
        "INSERT INTO event_1 (at, id, owner, body) VALUES (5, 5, 'ann', 'direct')",
        "UPDATE event_2_odd SET owner = 'bob'",
        "UPDATE event SET owner = 'ann'; DELETE FROM event WHERE id = 5",
        "BEGIN; INSERT INTO event SELECT 3, n, 'ann', 'n' FROM generate_series(30, 60) n; \
         UPDATE event SET at = 13 WHERE at = 3; DELETE FROM event WHERE id % 2 = 0; COMMIT",
    ] {
        stage.events(statement).await;
    }
    assert_eq!(stage.mode_from(&before).await, "resume", "rows that move begin no epoch");
    stage.events("TRUNCATE event").await;
    stage.events("INSERT INTO event VALUES (1, 1, 'ann', 'again')").await;
}

/// Then Postgres streams no row as one of the root: also to a server that starts so, nothing would say what has changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_partitions_are_streamed_as_tables_by_themselves_is_not_served() {
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("event", ROWS).await;
    let publication = stage.app.database.names().publication;
    let alter = |via_root: bool| {
        format!("ALTER PUBLICATION {publication} SET (publish_via_partition_root = {via_root})")
    };
    stage.run(&alter(false)).await;
    stage.rejects(&["event"]).await;
    stage.follows("other", "INSERT INTO other VALUES (1)").await;
    stage.run("UPDATE event SET owner = 'bob' WHERE at < 12").await;
    stage.app.stop_server().await;
    stage.app.start_server().await;
    // One that has not had all of the definition yet does not take the place of another.
    eventually("a server that starts says so", || async {
        let health = http_get(&stage.app, "/health/ready").await;
        let health: Value = serde_json::from_str(&health).ok()?;
        (health["ready"] == false && health["refusedTables"] == json!(["event"])).then_some(())
    })
    .await;
    stage.run(&alter(true)).await;
    stage.rejects(&[]).await;
    stage.holds("event", ROWS).await;
    stage.events("UPDATE event SET body = 'again'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_write_through_the_root() {
    let definition = format!(
        "{RULE}[tables.event.insert]\nallow = 'new.owner = auth.user_id'\n\
         [[tables.event.update]]\nallow = 'old.owner = auth.user_id'\n\
         [tables.event.delete]\nallow = 'owner = auth.user_id'\n"
    );
    let mut stage = Stage::new(&definition, TABLES).await;
    let mut writer = Writer::live(&stage.app, "ann").await;
    let row = |at: i32, body: &str| json!({ "at": at, "id": 9, "owner": "ann", "body": body });
    writer
        .mutate(json!([insert("event", row(3, "x")), insert("event", row(13, "y"))]))
        .await
        .applied();
    writer.mutate(json!([insert("event", row(13, "z"))])).await.applied();
    let key = json!({ "at": 3, "id": 9 });
    writer
        .mutate(json!([update("event", json!({ "at": 3, "id": 9, "body": "X" }))]))
        .await
        .applied();
    writer.mutate(json!([delete("event", key)])).await.applied();
    let theirs = json!({ "at": 2, "id": 2, "body": "mine" });
    writer.mutate(json!([update("event", theirs)])).await.rejected("not_found", "");
    stage.holds("event", ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_and_goes_with_a_partition_is_loaded_again() {
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("event", ROWS).await;
    stage.events("TRUNCATE event_1").await;
    stage.events("ALTER TABLE event DETACH PARTITION event_2").await;
    stage
        .events(
            "UPDATE event_2 SET body = 'unseen'; \
             ALTER TABLE event ATTACH PARTITION event_2 FOR VALUES FROM (10) TO (20)",
        )
        .await;
    stage.events("DROP TABLE event_2_odd").await;
    stage
        .events(
            "CREATE TABLE event_3 (LIKE event INCLUDING ALL); ALTER TABLE event_3 REPLICA IDENTITY FULL; \
             INSERT INTO event_3 VALUES (21, 1, 'ann', 'brought'); \
             ALTER TABLE event ATTACH PARTITION event_3 FOR VALUES FROM (20) TO (30)",
        )
        .await;
    stage.events("UPDATE event SET body = 'seen'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_detached_while_no_server_runs_is_noticed() {
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("event", ROWS).await;
    stage.app.stop_server().await;
    stage.run("ALTER TABLE event DETACH PARTITION event_1; TRUNCATE event_2_odd").await;
    stage.app.start_server().await;
    stage.holds("event", ROWS).await;
}

/// Between two looks at the catalog nothing of it shows but who has written it.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_written_while_it_is_detached_for_a_moment_is_loaded_again() {
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("event", ROWS).await;
    for (root, partition, bounds) in [
        ("event", "event_1", "FOR VALUES FROM (0) TO (10)"),
        // And one of which only the partition above it is.
        ("event_2", "event_2_odd", "FOR VALUES IN (1, 3, 5)"),
        ("event", "event_2", "FOR VALUES FROM (10) TO (20)"),
    ] {
        stage
            .events(&format!(
                "BEGIN; ALTER TABLE {root} DETACH PARTITION {partition}; COMMIT; \
                 UPDATE {partition} SET body = body || ' unseen', owner = 'ann'; \
                 BEGIN; ALTER TABLE {root} ATTACH PARTITION {partition} {bounds}; COMMIT"
            ))
            .await;
    }
}

/// What the root's identity is says nothing of what a partition's was.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_go_while_a_partition_has_a_smaller_identity_for_a_moment_are_gone() {
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("event", ROWS).await;
    stage
        .events(
            "BEGIN; ALTER TABLE event_1 REPLICA IDENTITY DEFAULT; COMMIT; DELETE FROM event WHERE id = 1; \
             BEGIN; ALTER TABLE event_1 REPLICA IDENTITY FULL; COMMIT",
        )
        .await;
    stage
        .events(
            "BEGIN; ALTER TABLE event_2_odd REPLICA IDENTITY DEFAULT; UPDATE event SET at = 15 WHERE id = 3; \
             ALTER TABLE event_2_odd REPLICA IDENTITY FULL; COMMIT",
        )
        .await;
    // Another change of the partition keeps who looks from seeing it. What is inserted is whole, what is deleted is not.
    stage.events("INSERT INTO event VALUES (14, 3, 'ann', 'e'), (16, 6, 'ann', 'f')").await;
    stage
        .events(
            "BEGIN; ALTER TABLE event_2_odd REPLICA IDENTITY DEFAULT; COMMIT; INSERT INTO event VALUES (13, 5, 'bob', 'g'); \
             DELETE FROM event WHERE at = 14; BEGIN; ALTER TABLE event_2_odd REPLICA IDENTITY FULL; COMMIT; \
             ALTER TABLE event ADD COLUMN more int",
        )
        .await;
    // Also while no server runs.
    stage.app.stop_server().await;
    stage
        .run(
            "BEGIN; ALTER TABLE event_2_rest REPLICA IDENTITY DEFAULT; COMMIT; DELETE FROM event WHERE id = 4; \
             BEGIN; ALTER TABLE event_2_rest REPLICA IDENTITY FULL; COMMIT",
        )
        .await;
    stage.app.start_server().await;
    stage.holds("event", ROWS).await;
    stage.app.stop_server().await;
    stage
        .run(
            "BEGIN; ALTER TABLE event_2_rest REPLICA IDENTITY DEFAULT; COMMIT; DELETE FROM event WHERE id = 6; \
             BEGIN; ALTER TABLE event_2_rest REPLICA IDENTITY FULL; COMMIT; ALTER TABLE event ADD COLUMN most int",
        )
        .await;
    stage.app.start_server().await;
    stage.holds("event", ROWS).await;
}

/// No look at the catalog shows it, and that it went is not streamed.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_and_go_with_a_partition_between_two_looks_are_gone() {
    const MADE: &str = "CREATE TABLE event_9 PARTITION OF event FOR VALUES FROM (90) TO (100); \
        ALTER TABLE event_9 REPLICA IDENTITY FULL";
    const ROWS: &str = "INSERT INTO event VALUES (91, 1, 'ann', 'x'), (92, 1, 'bob', 'y')";
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("event", self::ROWS).await;
    for transactions in [
        vec![MADE, ROWS, "DROP TABLE event_9"],
        vec![
            MADE,
            ROWS,
            "UPDATE event SET owner = 'ann' WHERE at = 92",
            "ALTER TABLE event DETACH PARTITION event_9",
        ],
        vec![
            "DROP TABLE IF EXISTS event_9; DELETE FROM event WHERE at = 8",
            MADE,
            ROWS,
            "UPDATE event SET at = 8 WHERE at = 91",
            "DROP TABLE event_9",
        ],
        vec![
            "CREATE TABLE event_9 (LIKE event INCLUDING ALL); INSERT INTO event_9 VALUES (91, 1, 'ann', 'before')",
            "ALTER TABLE event_9 REPLICA IDENTITY FULL; ALTER TABLE event ATTACH PARTITION event_9 FOR VALUES FROM (90) TO (100)",
            "UPDATE event SET body = 'seen' WHERE at = 91",
            "ALTER TABLE event DETACH PARTITION event_9",
            "DROP TABLE event_9",
        ],
    ] {
        let each: String =
            transactions.iter().map(|sql| format!("BEGIN; {sql}; COMMIT; ")).collect();
        stage.events(&each).await;
        stage.run("DROP TABLE IF EXISTS event_9").await;
        // And in one transaction.
        stage.events(&format!("BEGIN; {}; COMMIT", transactions.join("; "))).await;
    }
    stage.run("DROP TABLE IF EXISTS event_9").await;
    // What follows is as ever, and while no server runs it is the same.
    stage.events("UPDATE event SET body = 'after'").await;
    stage.app.stop_server().await;
    stage
        .run(&format!(
            "BEGIN; {MADE}; COMMIT; BEGIN; {ROWS}; COMMIT; BEGIN; DROP TABLE event_9; COMMIT"
        ))
        .await;
    stage.app.start_server().await;
    stage.holds("event", self::ROWS).await;
}

/// What a walsender of version 14 has once found out of a table it keeps: that it was no partition when it came to the
/// first row.
#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_a_partition_or_ceases_to_be_one_while_no_server_runs_is_streamed_as_what_it_is()
 {
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("event", ROWS).await;
    stage.app.stop_server().await;
    stage
        .run(
            "CREATE TABLE event_3 (LIKE event INCLUDING ALL); ALTER TABLE event_3 REPLICA IDENTITY FULL; \
             INSERT INTO event_3 VALUES (21, 1, 'ann', 'brought')",
        )
        .await;
    stage.run("ALTER TABLE event ATTACH PARTITION event_3 FOR VALUES FROM (20) TO (30)").await;
    stage.run("UPDATE event SET body = 'before' WHERE at < 10").await;
    stage.run("ALTER TABLE event DETACH PARTITION event_1").await;
    stage.app.start_server().await;
    stage.holds("event", ROWS).await;
    stage.events("UPDATE event SET body = 'seen'").await;
    stage.events("UPDATE event_1 SET body = 'not of the table'").await;
    stage.events("INSERT INTO event VALUES (22, 1, 'ann', 'new')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_partition_without_the_identity_is_named_until_it_has_it() {
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("event", ROWS).await;
    stage.run("CREATE TABLE event_3 PARTITION OF event FOR VALUES FROM (20) TO (30)").await;
    // The application's own statements go on all the same.
    stage.run("INSERT INTO event VALUES (21, 1, 'ann', 'x'); UPDATE event SET body = 'y'").await;
    stage.run("UPDATE event SET owner = 'bob' WHERE at = 21; DELETE FROM event WHERE at = 1").await;
    stage.rejects(&["event"]).await;
    stage.run("ALTER TABLE event_3 REPLICA IDENTITY FULL").await;
    stage.rejects(&[]).await;
    stage.events("UPDATE event SET owner = 'ann'").await;
    // With both in one transaction nobody loses sight of the table.
    stage
        .events(
            "BEGIN; CREATE TABLE event_4 PARTITION OF event FOR VALUES FROM (30) TO (40); \
             ALTER TABLE event_4 REPLICA IDENTITY FULL; INSERT INTO event VALUES (31, 1, 'ann', 'x'); COMMIT",
        )
        .await;
    stage.events("UPDATE event SET body = 'z'").await;
    stage.rejects(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_sees_to_every_partition_and_to_a_publication_that_is_there() {
    let operator = Operator::new(RULE, TABLES).await;
    operator.is_set_up().await;
    let publication = operator.database.names().publication;
    operator
        .sql
        .batch_execute(&format!(
            "ALTER PUBLICATION {publication} SET (publish_via_partition_root = false);
             CREATE TABLE event_3 PARTITION OF event FOR VALUES FROM (20) TO (30)"
        ))
        .await
        .unwrap();
    let said = operator.says("check").await;
    assert_eq!(said.code(), Some(1), "{said:?}");
    for part in [
        "(publish_via_partition_root = true);",
        "ALTER TABLE \"public\".\"event_3\" REPLICA IDENTITY FULL;",
    ] {
        assert!(said.out.contains(part), "no `{part}` in {said:?}");
    }
    operator.is_set_up().await;
    operator.sql.batch_execute("UPDATE event SET body = 'z'; DELETE FROM event").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_can_be_synced_by_itself_and_not_beside_its_table() {
    let rule = "[tables.event_1]\nvisible = 'owner = auth.user_id'\n[tables.event_2_odd]\nvisible = 'true'\n";
    let tables = format!("{TABLES} ALTER TABLE event_2_odd ADD CHECK (at > 0);");
    let mut stage = Stage::new(rule, &tables).await;
    let rows = "SELECT to_jsonb(event_1)::text FROM event_1 WHERE owner = 'ann'";
    stage.holds("event_1", rows).await;
    for statement in
        ["UPDATE event SET body = 'x'", "UPDATE event SET at = 3 WHERE at = 11", "TRUNCATE event"]
    {
        stage.run(statement).await;
        stage.holds("event_1", rows).await;
        stage.holds_all("event_2_odd").await;
    }
    let both = format!("{RULE}{rule}");
    let operator = Operator::new(&both, TABLES).await;
    let parts = [
        "\"public\".\"event_1\" is a partition of a table that is synced, too,",
        "sync public.event alone",
    ];
    operator.is_rejected(&parts, "UPDATE event SET body = 'x'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_not_streamed_or_could_not_be_updated_are_rejected() {
    let unlogged = format!(
        "{TABLES} CREATE UNLOGGED TABLE lost PARTITION OF event FOR VALUES FROM (50) TO (60);"
    );
    let operator = Operator::new(RULE, &unlogged).await;
    let parts = ["with a partition that is not streamed", "detach \"public\".\"lost\""];
    operator.is_rejected(&parts, "UPDATE event SET body = 'x'").await;

    let foreign = format!(
        "{TABLES} CREATE FOREIGN DATA WRAPPER wrapper; CREATE SERVER elsewhere FOREIGN DATA WRAPPER wrapper;
         ALTER TABLE event DROP CONSTRAINT event_pkey;
         CREATE FOREIGN TABLE afar PARTITION OF event FOR VALUES FROM (50) TO (60) SERVER elsewhere;"
    );
    let operator = Operator::new(RULE, &foreign).await;
    operator
        .is_rejected(&["detach \"public\".\"afar\""], "INSERT INTO event VALUES (1, 9, 'ann', 'x')")
        .await;

    // A partition that is made later would have no replica identity, and could not be updated.
    let keyless = "CREATE TABLE event (at int NOT NULL, owner text) PARTITION BY RANGE (at);
                   CREATE UNIQUE INDEX ON event (at);
                   CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10);
                   CREATE TABLE other (id int PRIMARY KEY);";
    let operator = Operator::new(RULE, keyless).await;
    let parts = ["table \"public\".\"event\" has no primary key"];
    operator.is_rejected(&parts, "UPDATE event SET owner = 'x'").await;
}

/// Up to version 14 Postgres streams what such a row was without the column, and with it who saw the row.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_partitions_that_are_older_than_a_column_of_a_rule_are_right_or_rejected() {
    const RULE: &str =
        "[tables.event]\nvisible = \"kind = 'shown'\"\n[tables.other]\nvisible = 'true'\n";
    const ROWS: &str = "SELECT to_jsonb(event)::text FROM event WHERE kind = 'shown'";
    let tables = format!("{TABLES} ALTER TABLE event ADD kind text DEFAULT 'shown';");
    let mut stage = Stage::new(RULE, &tables).await;
    let version = stage.sql.query_one("SELECT current_setting('server_version_num')::int", &[]);
    if version.await.unwrap().get::<_, i32>(0) < 150_000 {
        eventually("it is rejected from the beginning", || async {
            let health = http_get(&stage.app, "/health/ready").await;
            health.contains("\"refusedTables\":[\"event\"]").then_some(())
        })
        .await;
        stage.run("VACUUM FULL event").await;
        stage.rejects(&[]).await;
    }
    stage.holds("event", ROWS).await;
    stage
        .run("UPDATE event SET kind = 'hidden' WHERE id = 1; DELETE FROM event WHERE id = 3")
        .await;
    stage.holds("event", ROWS).await;
}
