//! Types that change beneath rows that nobody writes: the rows are loaded again, however deep in a column's type the
//! other type is.

use rowtide_tests::{App, Raw};

use crate::kit::Stage;

const RULE: &str = "[tables.item]\nvisible = 'true'\n";
const TABLES: &str = "
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TYPE pair AS (number int, mood mood);
CREATE TYPE moods AS RANGE (subtype = mood);
CREATE DOMAIN checked AS pair CHECK ((value).number > 0);
CREATE TABLE list (id int PRIMARY KEY);
CREATE TABLE item (id int PRIMARY KEY, list int REFERENCES list, mood mood, all_moods mood[], pair pair,
  pairs pair[], checked checked, moods moods);
INSERT INTO list VALUES (1);
INSERT INTO item VALUES (1, 1, 'sad', '{sad,glad}', '(1,sad)', '{\"(1,sad)\"}', '(1,sad)', '[sad,glad]');";
/// With composite values as their text, which is what clients get.
const ROWS: &str = "
SELECT jsonb_build_object('id', id, 'list', list, 'mood', mood, 'all_moods', all_moods, 'pair', pair::text,
  'pairs', (SELECT jsonb_agg(p::text) FROM unnest(pairs) p), 'checked', checked::text, 'moods', moods::text)::text
FROM item";

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_attributes_are_changed_in_one_transaction_with_a_lost_foreign_key() {
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("item", ROWS).await;
    stage
        .run(
            "BEGIN; ALTER TABLE item DROP CONSTRAINT item_list_fkey; \
             ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; \
             ALTER TYPE pair ADD ATTRIBUTE more text; COMMIT",
        )
        .await;
    stage.holds("item", ROWS).await;
    stage.run("DELETE FROM list; UPDATE item SET id = 2").await;
    stage.holds("item", ROWS).await;
}

/// An enum that only a part of a column's type is made of.
#[tokio::test(flavor = "multi_thread")]
async fn a_label_is_renamed_that_is_deep_in_a_type() {
    for (column, value) in [("pair", "(1,sad)"), ("checked", "(1,sad)"), ("moods", "[sad,glad]")] {
        let tables = format!(
            "{TABLES} DROP TABLE item; CREATE TABLE item (id int PRIMARY KEY, deep {column}); \
             INSERT INTO item VALUES (1, '{value}');"
        );
        let rows = "SELECT jsonb_build_object('id', id, 'deep', deep::text)::text FROM item";
        let mut stage = Stage::new(RULE, &tables).await;
        stage.holds("item", rows).await;
        stage.run("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
        stage.holds("item", rows).await;
    }
}

/// Rows that are written in between are streamed with the name that the label had, and the catalog is as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_label_is_renamed_and_renamed_back_around_a_write() {
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("item", ROWS).await;
    let rename = |from: &str, to: &str| format!("ALTER TYPE mood RENAME VALUE '{from}' TO '{to}'");
    let (there, back) = (rename("sad", "blue"), rename("blue", "sad"));
    stage
        .run(&format!(
            "BEGIN; {there}; COMMIT; BEGIN; UPDATE item SET id = 2; COMMIT; BEGIN; {back}; COMMIT"
        ))
        .await;
    stage.holds("item", ROWS).await;
    stage.run(&format!("BEGIN; {there}; UPDATE item SET id = 3; {back}; COMMIT")).await;
    stage.holds("item", ROWS).await;
}

/// The attribute looks the same, and all rows have lost it.
#[tokio::test(flavor = "multi_thread")]
async fn an_attribute_is_dropped_and_added_again() {
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("item", ROWS).await;
    stage
        .run(
            "BEGIN; ALTER TYPE pair DROP ATTRIBUTE mood; COMMIT; BEGIN; ALTER TYPE pair ADD ATTRIBUTE mood mood; COMMIT",
        )
        .await;
    stage.holds("item", ROWS).await;
}

/// None of it is in the stream, and clients that come back have a cursor of before.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_rows_while_no_server_runs_is_noticed() {
    for (what, sql) in [
        ("renamed", "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'"),
        (
            "renamed around a write, and back",
            "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; BEGIN; UPDATE item SET id = 2; COMMIT; \
             ALTER TYPE mood RENAME VALUE 'blue' TO 'sad'",
        ),
        ("added", "ALTER TYPE pair ADD ATTRIBUTE more text"),
        (
            "dropped and added",
            "BEGIN; ALTER TYPE pair DROP ATTRIBUTE mood; COMMIT; BEGIN; ALTER TYPE pair ADD ATTRIBUTE mood mood; COMMIT",
        ),
        ("using", "ALTER TABLE item ALTER id TYPE int USING id + 1"),
        ("of each row", "ALTER TABLE item ADD more int DEFAULT (random() * 1000)::int"),
    ] {
        let mut stage = Stage::new(RULE, TABLES).await;
        stage.holds("item", ROWS).await;
        stage.app.stop_server().await;
        stage.run(sql).await;
        stage.app.start_server().await;
        let rows = match what {
            "of each row" => ROWS.replace("'id', id,", "'id', id, 'more', more,"),
            _ => ROWS.to_owned(),
        };
        stage.holds("item", &rows).await;
    }
}

/// What concerns no row costs nobody a snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_no_row_while_no_server_runs_ends_no_epoch() {
    let mut stage = Stage::new(RULE, TABLES).await;
    stage.holds("item", ROWS).await;
    let begun = epoch(&stage.app).await;
    for sql in [
        "ALTER TYPE mood ADD VALUE 'new'; ALTER TABLE item ADD varied varchar(3)",
        "ALTER TABLE item ALTER varied TYPE varchar(5), ALTER varied SET DEFAULT 'x'; CREATE INDEX ON item (varied)",
        "VACUUM FULL item; GRANT SELECT ON item TO PUBLIC; GRANT SELECT ON item TO PUBLIC; TRUNCATE item; ANALYZE item",
    ] {
        stage.app.stop_server().await;
        for sql in sql.split("; ") {
            stage.run(sql).await;
        }
        stage.app.start_server().await;
        let rows = ROWS.replace("'id', id,", "'id', id, 'varied', varied,");
        stage.holds("item", &rows).await;
        assert_eq!(epoch(&stage.app).await, begun, "{sql}");
    }
}

async fn epoch(app: &App) -> String {
    let mut raw = Raw::open(app).await;
    raw.say(&Raw::connect(&App::token("ann"))).await;
    let cursor = raw.until("ready").await["cursor"].clone();
    let cursor = cursor.as_str().expect("a cursor");
    cursor.split('.').next().expect("an epoch").to_owned()
}
