//! Clients that come back with a cursor: they are sent what has changed for them since and nothing else,
//! whatever the reason, over a restart of the server as well; and where that cannot be said, everything.
//! However they are brought up to date, they end with what SQL says.

use std::collections::{BTreeMap, BTreeSet};

use rowtide_plan::definition::Definition;
use rowtide_tests::{App, Raw, eventually};
use serde_json::{Value, json};

const TABLES: &str = "
    CREATE TABLE member (team int, person text, PRIMARY KEY (team, person));
    CREATE INDEX ON member (person);
    CREATE TABLE team (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE note (id int PRIMARY KEY, team int NOT NULL, owner text NOT NULL,
                       hidden bool NOT NULL DEFAULT false, text text NOT NULL);
    CREATE INDEX ON note (team);
    CREATE INDEX ON note (owner);
    CREATE TABLE news (id int PRIMARY KEY, text text NOT NULL);
    INSERT INTO team SELECT n, 'team ' || n FROM generate_series(1, 4) n;
    INSERT INTO member VALUES (1, 'ann'), (2, 'ann'), (1, 'bob'), (3, 'bob');
    INSERT INTO note SELECT n, 1 + n % 4, CASE n % 3 WHEN 0 THEN 'ann' ELSE 'bob' END, n % 5 = 0, 'note ' || n
      FROM generate_series(1, 40) n;
    INSERT INTO news VALUES (1, 'hello')";

const DEFINITION: &str = "
    [tables.team]
    visible = 'id IN (SELECT team FROM member WHERE person = auth.user_id)'
    [tables.note]
    visible = '''owner = auth.user_id
                 OR (NOT hidden AND team IN (SELECT id FROM team WHERE id IN
                       (SELECT team FROM member WHERE person = auth.user_id)))'''
    [tables.news]
    visible = 'true'
";

/// The same rules, for Postgres.
const TRUTH: &str = "
    SELECT 'team', id, to_jsonb(t)::text FROM team t
      WHERE id IN (SELECT team FROM member WHERE person = $1)
    UNION ALL SELECT 'note', id, to_jsonb(t)::text FROM note t
      WHERE owner = $1 OR (NOT hidden AND team IN (SELECT id FROM team WHERE id IN
                            (SELECT team FROM member WHERE person = $1)))
    UNION ALL SELECT 'news', id, to_jsonb(t)::text FROM news t";

/// The rows of a client by table and key.
type Rows = BTreeMap<(String, i64), Value>;

/// A client that keeps its rows and its cursor between connections.
struct Away {
    user: &'static str,
    rows: Rows,
    cursor: Option<String>,
}

/// How a client was brought up to date.
#[derive(Debug, PartialEq)]
struct Return {
    mode: String,
    /// What it was told, as `put note 3` or `delete note 3`, sorted.
    told: Vec<String>,
}

impl Away {
    fn new(user: &'static str) -> Away {
        Away { user, rows: Rows::new(), cursor: None }
    }

    fn key(table: &Value, row: &Value) -> (String, i64) {
        (table.as_str().expect("a name").to_owned(), row["id"].as_i64().expect("a key"))
    }

    /// Connects, is brought up to date, and keeps the connection.
    async fn comes_back(&mut self, app: &App) -> (Return, Raw) {
        let mut raw = Raw::open(app).await;
        raw.say(&Raw::connect_from(&App::token(self.user), self.cursor.as_deref())).await;
        let connected = raw.hear().await.expect("it is let in");
        assert_eq!(connected["type"], "connected", "{connected}");
        let mode = connected["mode"].as_str().expect("a mode").to_owned();
        if mode == "snapshot" {
            self.rows.clear();
        }
        let mut told = Vec::new();
        loop {
            let message = raw.hear().await.expect("it is brought up to date");
            match message["type"].as_str() {
                Some("snapshot") => {
                    assert_eq!(mode, "snapshot");
                    for row in message["rows"].as_array().expect("rows") {
                        self.rows.insert(Away::key(&message["table"], row), row.clone());
                    }
                }
                Some("tx") => {
                    assert_eq!(mode, "resume");
                    told.extend(self.apply(&message));
                }
                Some("ready") => {
                    self.cursor = message["cursor"].as_str().map(str::to_owned);
                    break;
                }
                _ => panic!("{message}"),
            }
        }
        told.sort();
        (Return { mode, told }, raw)
    }

    fn apply(&mut self, tx: &Value) -> Vec<String> {
        self.cursor = tx["cursor"].as_str().map(str::to_owned);
        let change = |change: &Value| {
            let key = Away::key(&change["table"], &change["row"]);
            let told = format!("{} {} {}", change["op"].as_str().expect("an op"), key.0, key.1);
            if change["op"] == "put" {
                self.rows.insert(key, change["row"].clone());
            } else {
                assert!(self.rows.remove(&key).is_some(), "it never had {key:?}");
            }
            told
        };
        tx["changes"].as_array().expect("changes").iter().map(change).collect()
    }

    /// Comes back, goes again, and holds what SQL says.
    async fn returns(&mut self, app: &App) -> Return {
        let (back, _raw) = self.comes_back(app).await;
        self.holds_the_truth(app).await;
        back
    }

    async fn holds_the_truth(&self, app: &App) {
        let rows = app.database.connect().await.query(TRUTH, &[&self.user]).await.unwrap();
        let row = |row: &tokio_postgres::Row| {
            let json = serde_json::from_str(row.get(2)).unwrap();
            ((row.get::<_, String>(0), i64::from(row.get::<_, i32>(1))), json)
        };
        let truth: Rows = rows.iter().map(row).collect();
        assert_eq!(self.rows, truth, "{}", self.user);
    }
}

fn resumed(told: &[&str]) -> Return {
    let told: BTreeSet<String> = told.iter().map(|text| (*text).to_owned()).collect();
    Return { mode: "resume".to_owned(), told: told.into_iter().collect() }
}

async fn app() -> App {
    App::with(DEFINITION, TABLES).await
}

/// Runs SQL, and waits until the server, if it is there, has what was committed.
async fn run(app: &App, sql: &str) {
    let client = app.database.connect().await;
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}"));
    if app.server.is_some() {
        streamed(app).await;
    }
}

/// The rows that loads have read.
fn loaded(app: &App) -> u64 {
    app.server.as_ref().unwrap().health().loaded_rows
}

/// Waits until the server has all that is committed.
async fn streamed(app: &App) {
    let sql = app.database.connect().await;
    let end: String =
        sql.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap().get(0);
    let end: rowtide_protocol::Lsn = end.parse().unwrap();
    eventually("the stream is there", || async {
        let position = app.server.as_ref().unwrap().health().position;
        (position >= Some(end)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_missed_nothing_is_told_nothing_and_only_rows_that_name_others_are_read() {
    let app = app().await;
    let mut ann = Away::new("ann");
    assert_eq!(ann.returns(&app).await.mode, "snapshot");
    run(&app, "UPDATE note SET text = 'of others' WHERE team = 3 AND owner = 'bob'").await;
    let before = loaded(&app);
    assert_eq!(ann.returns(&app).await, resumed(&[]));
    // Two memberships and two teams say which notes are theirs; no note was read, and no news.
    assert!(loaded(&app) - before <= 6, "{} rows were read", loaded(&app) - before);
    let definition = Definition::parse("x", DEFINITION).unwrap();
    assert_eq!(definition.tables().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_rules_name_no_other_rows_causes_no_row_to_be_read() {
    let tables = "CREATE TABLE note (id int PRIMARY KEY, owner text NOT NULL);
                  CREATE INDEX ON note (owner);
                  INSERT INTO note SELECT n, 'ann' FROM generate_series(1, 500) n";
    let app = App::with("[tables.note]\nvisible = 'owner = auth.user_id'", tables).await;
    let mut ann = Away::new("ann");
    ann.comes_back(&app).await;
    run(&app, "UPDATE note SET owner = 'bob' WHERE id = 7; INSERT INTO note VALUES (501, 'ann')")
        .await;
    let before = (loaded(&app), app.server.as_ref().unwrap().health().load_queries);
    let (back, _raw) = ann.comes_back(&app).await;
    assert_eq!(back, resumed(&["delete note 7", "put note 501"]));
    assert_eq!(ann.comes_back(&app).await.0, resumed(&[]));
    assert_eq!((loaded(&app), app.server.as_ref().unwrap().health().load_queries), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_meanwhile_is_told_for_every_reason_there_is() {
    let app = app().await;
    let (mut ann, mut bob) = (Away::new("ann"), Away::new("bob"));
    ann.returns(&app).await;
    bob.returns(&app).await;
    let steps: &[(&str, &[&str], &[&str])] = &[
        ("UPDATE note SET text = 'changed' WHERE id = 3", &["put note 3"], &[]),
        (
            "INSERT INTO note VALUES (100, 1, 'bob', false, 'new')",
            &["put note 100"],
            &["put note 100"],
        ),
        ("DELETE FROM note WHERE id = 100", &["delete note 100"], &["delete note 100"]),
        (
            "INSERT INTO note VALUES (101, 1, 'bob', false, 'x'); DELETE FROM note WHERE id = 101",
            &[],
            &[],
        ),
        // Hidden from those who are not its owner, and shown again.
        ("UPDATE note SET hidden = true WHERE id = 4", &["delete note 4"], &["put note 4"]),
        ("UPDATE note SET hidden = false WHERE id = 4", &["put note 4"], &["put note 4"]),
        // Given to another.
        (
            "UPDATE note SET owner = 'ann', team = 4 WHERE id = 7",
            &["put note 7"],
            &["delete note 7"],
        ),
        ("UPDATE news SET text = 'for all'", &["put news 1"], &["put news 1"]),
        ("UPDATE note SET id = 1000 WHERE id = 3", &["delete note 3", "put note 1000"], &[]),
    ];
    for (sql, for_ann, for_bob) in steps {
        run(&app, sql).await;
        assert_eq!(ann.returns(&app).await, resumed(for_ann), "ann: {sql}");
        assert_eq!(bob.returns(&app).await, resumed(for_bob), "bob: {sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_were_gained_come_whole_and_those_that_were_lost_go_whole() {
    let app = app().await;
    let mut ann = Away::new("ann");
    ann.returns(&app).await;
    let notes = |rows: &Rows| rows.keys().filter(|(table, _)| table == "note").count();
    let before = notes(&ann.rows);
    run(&app, "INSERT INTO member VALUES (4, 'ann')").await;
    let back = ann.returns(&app).await;
    assert_eq!(back.mode, "resume");
    assert!(back.told.contains(&"put team 4".to_owned()) && notes(&ann.rows) > before, "{back:?}");
    // Lost again; what is theirs stays.
    run(&app, "DELETE FROM member WHERE team = 4 AND person = 'ann'").await;
    let back = ann.returns(&app).await;
    assert!(back.told.contains(&"delete team 4".to_owned()), "{back:?}");
    assert_eq!((back.mode.as_str(), notes(&ann.rows)), ("resume", before));
    // Lost two levels up, and changed while it was lost.
    run(&app, "DELETE FROM team WHERE id = 2; UPDATE note SET text = 'unseen' WHERE team = 2")
        .await;
    assert_eq!(ann.returns(&app).await.mode, "resume");
    run(&app, "INSERT INTO team VALUES (2, 'again')").await;
    assert_eq!(ann.returns(&app).await.mode, "resume");
    // Gained and lost while away: as if nothing had been.
    run(&app, "INSERT INTO member VALUES (3, 'ann'); UPDATE note SET text = 'x' WHERE team = 3")
        .await;
    run(&app, "DELETE FROM member WHERE team = 3 AND person = 'ann'").await;
    let back = ann.returns(&app).await;
    assert!(back.told.iter().all(|told| told.starts_with("put note")), "{back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_back_hears_what_happens_next_and_loses_what_a_link_takes_away() {
    let app = app().await;
    let mut ann = Away::new("ann");
    ann.returns(&app).await;
    let (back, mut raw) = ann.comes_back(&app).await;
    assert_eq!(back, resumed(&[]));
    for sql in [
        "UPDATE note SET text = 'live' WHERE id = 4",
        "DELETE FROM member WHERE team = 1 AND person = 'ann'",
        "INSERT INTO member VALUES (1, 'ann')",
        "UPDATE note SET hidden = NOT hidden WHERE team = 1",
    ] {
        run(&app, sql).await;
        let tx = raw.until("tx").await;
        ann.apply(&tx);
        ann.holds_the_truth(&app).await;
    }
    // Beside another session of the same user that got everything.
    let mut other = Away::new("ann");
    let (_, mut of_other) = other.comes_back(&app).await;
    run(&app, "UPDATE note SET text = 'for both' WHERE team = 1").await;
    ann.apply(&raw.until("tx").await);
    other.apply(&of_other.until("tx").await);
    assert_eq!(ann.rows, other.rows);
    ann.holds_the_truth(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_goes_on_where_its_log_ends() {
    let mut app = app().await;
    let (mut ann, mut bob) = (Away::new("ann"), Away::new("bob"));
    ann.returns(&app).await;
    bob.returns(&app).await;
    run(&app, "UPDATE note SET text = 'before' WHERE id = 4").await;
    app.stop_server().await;
    run(&app, "UPDATE note SET text = 'while it was away' WHERE id = 8").await;
    run(&app, "DELETE FROM member WHERE team = 2 AND person = 'ann'").await;
    app.start_server().await;
    assert_eq!(bob.returns(&app).await, resumed(&["put note 4", "put note 8"]));
    assert_eq!(ann.returns(&app).await.mode, "resume");
    app.stop_server().await;
    app.start_server().await;
    assert_eq!(ann.returns(&app).await, resumed(&[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_while_a_table_had_another_shape_for_a_while_is_not_missed() {
    let mut app = app().await;
    let mut ann = Away::new("ann");
    ann.returns(&app).await;
    app.stop_server().await;
    run(&app, "ALTER TABLE note ADD COLUMN stars int").await;
    run(&app, "UPDATE note SET text = 'starred' WHERE owner = 'ann'").await;
    run(&app, "ALTER TABLE note DROP COLUMN stars").await;
    app.start_server().await;
    // The catalog is as it was, so only the stream can tell.
    streamed(&app).await;
    ann.returns(&app).await;
    // What was passed over is not looked at again and again.
    run(&app, "UPDATE note SET text = 'later' WHERE id = 3").await;
    assert_eq!(ann.returns(&app).await, resumed(&["put note 3"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_says_nothing_here_is_answered_with_everything() {
    let app = app().await;
    let mut ann = Away::new("ann");
    ann.returns(&app).await;
    let good = ann.cursor.clone().unwrap();
    let mut bob = Away::new("bob");
    bob.returns(&app).await;
    let parts: Vec<&str> = good.split('.').collect();
    let [epoch, view, lsn] = parts[..] else { panic!("{good}") };
    for (what, cursor) in [
        ("cut short", good[..good.len() - 3 - lsn.len()].to_owned()),
        ("not a cursor", "'; DROP TABLE note; --".to_owned()),
        (
            "of another epoch",
            format!("{:016x}.{view}.{lsn}", u64::from_str_radix(epoch, 16).unwrap() ^ 1),
        ),
        ("of another user", bob.cursor.clone().unwrap()),
        ("from before the log", format!("{epoch}.{view}.1")),
        ("10 kB", "f".repeat(10_000)),
    ] {
        ann.cursor = Some(cursor);
        assert_eq!(ann.returns(&app).await.mode, "snapshot", "{what}");
    }
    ann.cursor = Some(good);
    assert_eq!(ann.returns(&app).await, resumed(&[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_ahead_of_the_server_waits_for_it_and_not_for_ever() {
    let app = app().await;
    let mut ann = Away::new("ann");
    ann.returns(&app).await;
    let good = ann.cursor.clone().unwrap();
    let (head, lsn) = good.rsplit_once('.').unwrap();
    let ahead = u64::from_str_radix(lsn, 16).unwrap() + (1 << 40);
    ann.cursor = Some(format!("{head}.{ahead:x}"));
    assert_eq!(ann.returns(&app).await.mode, "snapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_said_by_changes_is_sent_whole() {
    let app = app().await;
    let mut ann = Away::new("ann");
    ann.returns(&app).await;
    run(&app, "TRUNCATE note").await;
    assert_eq!(ann.returns(&app).await.mode, "snapshot");
    // Also to those who are there, and were brought up to date without all of their rows.
    let (back, mut raw) = ann.comes_back(&app).await;
    assert_eq!(back, resumed(&[]));
    run(&app, "INSERT INTO note VALUES (1, 1, 'ann', false, 'x')").await;
    ann.apply(&raw.until("tx").await);
    run(&app, "TRUNCATE note").await;
    raw.ending().await.assert("who cannot be told", "restarting");
    assert_eq!(ann.returns(&app).await.mode, "snapshot");
    // Another shape of a table is another epoch.
    let (_, mut raw) = ann.comes_back(&app).await;
    let sql = app.database.connect().await;
    let change = "ALTER TABLE note ADD COLUMN stars int, ALTER COLUMN text TYPE varchar(99);
                  INSERT INTO note VALUES (2, 1, 'ann', false, 'x', 5)";
    sql.batch_execute(change).await.unwrap();
    raw.ending().await.assert("whose table has another shape", "restarting");
    streamed(&app).await;
    assert_eq!(ann.returns(&app).await.mode, "snapshot");
    assert_eq!(ann.rows[&("note".to_owned(), 2)]["stars"], json!(5));
}
