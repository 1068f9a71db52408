//! Migrations: each file once, in order, whole or not at all, and never changed afterwards.

use rowtide_postgres::migrate::{MigrateError, Migration, migrate};
use rowtide_tests::{Database, eventually};

fn file(name: &str, sql: &str) -> Migration {
    Migration { name: name.to_owned(), sql: sql.to_owned() }
}

async fn rows(database: &Database, sql: &str) -> usize {
    database.connect().await.query(sql, &[]).await.unwrap().len()
}

#[tokio::test]
async fn each_file_is_applied_once_in_the_order_of_their_numbers() {
    let database = Database::create().await;
    let mut client = database.connect().await;
    let mut files = vec![
        file("sample.sql", "INSERT INTO b VALUES (1, 2)"),
        file("10_b.sql", "ALTER TABLE a RENAME TO b"),
        file("9_c.sql", "ALTER TABLE a ADD COLUMN c int"),
        file("0001_a.sql", "CREATE TABLE a (a int);\n-- and\nINSERT INTO a VALUES (0);"),
    ];
    let applied = migrate(&mut client, &files).await.unwrap();
    assert_eq!(applied, ["0001_a.sql", "9_c.sql", "10_b.sql", "sample.sql"]);
    assert_eq!(migrate(&mut client, &files).await.unwrap(), [""; 0]);
    files.push(file("11_d.sql", "INSERT INTO b VALUES (3, 4)"));
    assert_eq!(migrate(&mut client, &files).await.unwrap(), ["11_d.sql"]);
    assert_eq!(rows(&database, "SELECT c FROM b").await, 3);
}

#[tokio::test]
async fn a_file_that_fails_leaves_nothing_and_those_before_it_stay() {
    let database = Database::create().await;
    let mut client = database.connect().await;
    let good = file("1.sql", "CREATE TABLE a ()");
    let bad = file("2.sql", "INSERT INTO a DEFAULT VALUES; INSERT INTO nowhere VALUES (1)");
    let error = migrate(&mut client, &[good.clone(), bad]).await.unwrap_err();
    let said = "migration `2.sql` failed at line 1: relation \"nowhere\" does not exist, in: \
                INSERT INTO nowhere VALUES (1)";
    assert_eq!(error.to_string(), said);
    assert_eq!(rows(&database, "SELECT FROM a").await, 0);
    let repaired = file("2.sql", "INSERT INTO a DEFAULT VALUES");
    assert_eq!(migrate(&mut client, &[good, repaired]).await.unwrap(), ["2.sql"]);
    assert_eq!(rows(&database, "SELECT FROM a").await, 1);
}

#[tokio::test]
async fn a_file_that_was_changed_is_refused_by_name() {
    let database = Database::create().await;
    let mut client = database.connect().await;
    migrate(&mut client, &[file("1.sql", "CREATE TABLE a ()")]).await.unwrap();
    let changed = [file("1.sql", "CREATE TABLE a (b int)"), file("2.sql", "CREATE TABLE c ()")];
    let error = migrate(&mut client, &changed).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Changed(name) if name == "1.sql"), "{error}");
    let made = rows(&database, "SELECT 1 FROM pg_tables WHERE tablename = 'c'").await;
    assert_eq!(made, 0, "nothing behind it is applied");
}

#[tokio::test]
async fn two_that_migrate_at_once_take_turns() {
    let database = Database::create().await;
    let (mut first, mut second) = (database.connect().await, database.connect().await);
    let watch = database.connect().await;
    let files = [
        file("1.sql", "CREATE TABLE a (); SELECT pg_advisory_xact_lock(1)"),
        file("2.sql", "INSERT INTO a DEFAULT VALUES"),
    ];
    // Holds up the first file, in whichever of the two it is.
    watch.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1)").await.unwrap();
    let other = files.clone();
    let tasks = [
        tokio::spawn(async move { migrate(&mut first, &files).await.unwrap() }),
        tokio::spawn(async move { migrate(&mut second, &other).await.unwrap() }),
    ];
    let waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually("both wait", || async {
        (watch.query(waiting, &[]).await.unwrap().len() == 2).then_some(())
    })
    .await;
    watch.batch_execute("COMMIT").await.unwrap();
    let mut applied = Vec::new();
    for task in tasks {
        applied.extend(task.await.unwrap());
    }
    applied.sort();
    assert_eq!(applied, ["1.sql", "2.sql"]);
    assert_eq!(rows(&database, "SELECT FROM a").await, 1);
}

/// As the tools have them that have a place for the way back.
#[tokio::test]
async fn files_that_go_up_and_down_only_go_up() {
    let database = Database::create().await;
    let mut client = database.connect().await;
    let files = [
        file("V2__b.sql", "ALTER TABLE a ADD COLUMN b int"),
        file("V10__c.sql", "ALTER TABLE a RENAME b TO c"),
        file("V1__a.sql", "-- migrate:up\nCREATE TABLE a ();\n-- migrate:down\nDROP TABLE a;\n"),
        file("R__v.sql", "CREATE OR REPLACE VIEW v AS SELECT c FROM a"),
    ];
    let applied = migrate(&mut client, &files).await.unwrap();
    assert_eq!(applied, ["V1__a.sql", "V2__b.sql", "V10__c.sql", "R__v.sql"]);
    // What may be applied again is, once it has changed.
    let changed = [file("R__v.sql", "CREATE OR REPLACE VIEW v AS SELECT c, 1 AS one FROM a")];
    assert_eq!(migrate(&mut client, &changed).await.unwrap(), ["R__v.sql"]);
    assert_eq!(migrate(&mut client, &changed).await.unwrap(), [""; 0]);
    assert_eq!(rows(&database, "SELECT one FROM v").await, 0);
}

#[tokio::test]
async fn what_cannot_be_in_a_transaction_is_applied_without() {
    let database = Database::create().await;
    let mut client = database.connect().await;
    let files = [
        file("1.sql", "CREATE TABLE a (b int);\n\nCREATE INDEX CONCURRENTLY i ON a (b);\nVACUUM a"),
        file("2.sql", "BEGIN; ALTER TABLE a ADD COLUMN c int; COMMIT; INSERT INTO a VALUES (1, 2)"),
        file("3.sql", "-- no-transaction\nINSERT INTO a VALUES (3, 4)"),
        // As `pg_dump` writes it, for itself alone.
        file(
            "4.sql",
            "\\restrict x\nSELECT pg_catalog.set_config('search_path', '', false);\n\\unrestrict x",
        ),
        file("5.sql", "INSERT INTO a VALUES (5, 6)"),
    ];
    assert_eq!(migrate(&mut client, &files).await.unwrap().len(), 5);
    assert_eq!(rows(&database, "SELECT FROM a").await, 3);
    // Two at once do not wait for each other.
    let (mut first, mut second) = (database.connect().await, database.connect().await);
    let more = [file("6.sql", "CREATE INDEX CONCURRENTLY j ON a (b); INSERT INTO a VALUES (7, 8)")];
    let other = more.clone();
    let both = [
        tokio::spawn(async move { migrate(&mut first, &more).await.unwrap() }),
        tokio::spawn(async move { migrate(&mut second, &other).await.unwrap() }),
    ];
    let mut applied = 0;
    for one in both {
        applied += one.await.unwrap().len();
    }
    assert_eq!((applied, rows(&database, "SELECT FROM a").await), (1, 4));
}

#[tokio::test]
async fn a_file_that_fails_says_its_line_and_its_statement() {
    let database = Database::create().await;
    let mut client = database.connect().await;
    for (sql, said, left) in [
        (
            "-- a table\nCREATE TABLE a (b int);\n\nINSERT INTO a\nVALUES ('x''\n', nowhere);\n",
            "failed at line 6: column \"nowhere\" does not exist, in: INSERT INTO a VALUES ('x'' ', nowhere)",
            0,
        ),
        (
            "DO $$ BEGIN\n  RAISE 'no; not so';\nEND $$;",
            "failed at line 1: no; not so, in: DO $$ BEGIN RAISE 'no; not so'; END $$",
            0,
        ),
        (
            "BEGIN;\nCREATE TABLE a ();\nSELECT nowhere;\nCOMMIT;",
            "failed at line 3: column \"nowhere\" does not exist, in: SELECT nowhere",
            0,
        ),
        (
            "CREATE TABLE a (b int);\nCREATE INDEX CONCURRENTLY ON a (c);",
            "failed at line 2: column \"c\" does not exist, in: CREATE INDEX CONCURRENTLY ON a (c) (what stands \
             before it in the file is done)",
            1,
        ),
        ("SELECT 1;\n\\connect other", "line 2: only psql can run this: \\connect other", 1),
        ("COPY a FROM stdin;\n1\n\\.\n", "line 1: only psql can run this: COPY a FROM stdin", 1),
    ] {
        let error = migrate(&mut client, &[file("1_x.sql", sql)]).await.unwrap_err().to_string();
        assert!(error.starts_with("migration `1_x.sql`") && error.ends_with(said), "{error}");
        let made = rows(&database, "SELECT 1 FROM pg_tables WHERE tablename = 'a'").await;
        assert_eq!(made, left, "{error}");
    }
}
