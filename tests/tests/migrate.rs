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
    let said = "migration `2.sql` failed: relation \"nowhere\" does not exist";
    assert_eq!(error.to_string(), said);
    assert_eq!(rows(&database, "SELECT FROM a").await, 0);
    let mended = file("2.sql", "INSERT INTO a DEFAULT VALUES");
    assert_eq!(migrate(&mut client, &[good, mended]).await.unwrap(), ["2.sql"]);
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
