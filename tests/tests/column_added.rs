//! `ALTER TABLE … ADD COLUMN` while clients are connected: nobody is disconnected or sent a snapshot, only the rows of the
//! table are told, and everybody holds what SQL says, with the column. What does more than add columns ends as it did.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rowtide_protocol::Lsn;
use rowtide_tests::{App, Raw, eventually};
use serde_json::{Value, json};
use tokio::time::timeout;

const TABLES: &str = "
    CREATE TABLE member (team int, person text, PRIMARY KEY (team, person));
    CREATE TABLE team (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE note (id int PRIMARY KEY, team int NOT NULL, owner text NOT NULL, text text);
    CREATE INDEX ON note (team);
    CREATE INDEX ON note (owner);
    CREATE TABLE diary (id int PRIMARY KEY, owner text NOT NULL, text text);
    CREATE TABLE news (id int, text text NOT NULL, PRIMARY KEY (id)) PARTITION BY LIST (id);
    CREATE TABLE news_1 PARTITION OF news FOR VALUES IN (1);
    CREATE TABLE news_2 PARTITION OF news FOR VALUES IN (2);
    INSERT INTO team SELECT n, 'team ' || n FROM generate_series(1, 4) n;
    INSERT INTO member VALUES (1, 'ann'), (2, 'ann'), (1, 'bob'), (3, 'bob');
    INSERT INTO note SELECT n, 1 + n % 4, CASE n % 3 WHEN 0 THEN 'ann' ELSE 'bob' END, 'note ' || n
      FROM generate_series(1, 40) n;
    INSERT INTO diary SELECT n, CASE n % 2 WHEN 0 THEN 'ann' ELSE 'eve' END, 'day ' || n
      FROM generate_series(1, 20) n;
    INSERT INTO news VALUES (1, 'hello')";

const DEFINITION: &str = "
    [tables.team]
    visible = 'id IN (SELECT team FROM member WHERE person = auth.user_id)'
    [tables.note]
    visible = '''owner = auth.user_id OR team IN (SELECT team FROM member WHERE person = auth.user_id)'''
    [tables.note.insert]
    allow = 'new.owner = auth.user_id'
    [[tables.note.update]]
    allow = 'old.owner = auth.user_id'
    [tables.diary]
    visible = 'owner = auth.user_id'
    [tables.news]
    visible = 'true'
";

/// The same rules, for Postgres.
const TRUTH: &str = "
    SELECT 'team', id, to_jsonb(t)::text FROM team t
      WHERE id IN (SELECT team FROM member WHERE person = $1)
    UNION ALL SELECT 'note', id, (to_jsonb(t) - 'secret' - 'more secrets')::text FROM note t
      WHERE owner = $1 OR team IN (SELECT team FROM member WHERE person = $1)
    UNION ALL SELECT 'diary', id, to_jsonb(t)::text FROM diary t WHERE owner = $1
    UNION ALL SELECT 'news', id, to_jsonb(t)::text FROM news t";

/// The rows of a client by table and key.
type Rows = BTreeMap<(String, i64), Value>;

/// A client that keeps its rows and its cursor between connections.
struct Peer {
    user: &'static str,
    rows: Rows,
    cursor: Option<String>,
    raw: Raw,
    /// Whether the last connection was brought up to date by what had changed.
    resumed: bool,
    /// What it was told on this connection, as `put note 3`.
    told: Vec<String>,
}

fn key(table: &Value, row: &Value) -> (String, i64) {
    (table.as_str().unwrap().to_owned(), row["id"].as_i64().unwrap())
}

impl Peer {
    async fn new(app: &App, user: &'static str) -> Peer {
        let (rows, told) = (Rows::new(), Vec::new());
        let raw = Raw::open(app).await;
        let mut peer = Peer { user, rows, cursor: None, raw, resumed: false, told };
        peer.connect().await;
        peer.holds_the_truth(app).await;
        peer
    }

    /// Goes, and comes back with its cursor.
    async fn comes_back(&mut self, app: &App) {
        self.raw = Raw::open(app).await;
        self.connect().await;
    }

    async fn connect(&mut self) {
        self.told.clear();
        let connect = Raw::connect_from(&App::token(self.user), self.cursor.as_deref());
        self.raw.say(&connect).await;
        loop {
            let message = self.raw.hear().await.expect("it is brought up to date");
            match message["type"].as_str().unwrap() {
                "connected" => {
                    self.resumed = message["mode"] == "resume";
                    if !self.resumed {
                        self.rows.clear();
                    }
                }
                "snapshot" => {
                    assert!(!self.resumed);
                    for row in message["rows"].as_array().unwrap() {
                        self.rows.insert(key(&message["table"], row), row.clone());
                    }
                }
                "tx" => self.apply(&message),
                "ready" => {
                    self.cursor = message["cursor"].as_str().map(str::to_owned);
                    return;
                }
                _ => panic!("{message}"),
            }
        }
    }

    fn apply(&mut self, tx: &Value) {
        if let Some(cursor) = tx["cursor"].as_str() {
            self.cursor = Some(cursor.to_owned());
        }
        for change in tx["changes"].as_array().into_iter().flatten() {
            let key = key(&change["table"], &change["row"]);
            self.told.push(format!("{} {} {}", change["op"].as_str().unwrap(), key.0, key.1));
            if change["op"] == "put" {
                self.rows.insert(key, change["row"].clone());
            } else {
                assert!(self.rows.remove(&key).is_some(), "it never had {key:?}");
            }
        }
    }

    async fn truth(&self, app: &App) -> Rows {
        let rows = app.database.connect().await.query(TRUTH, &[&self.user]).await.unwrap();
        let row = |row: &tokio_postgres::Row| {
            let json = serde_json::from_str(row.get(2)).unwrap();
            ((row.get::<_, String>(0), i64::from(row.get::<_, i32>(1))), json)
        };
        rows.iter().map(row).collect()
    }

    async fn holds_the_truth(&self, app: &App) {
        assert_eq!(self.rows, self.truth(app).await, "{}", self.user);
    }

    /// Hears what it is told on this connection, and nothing but changes, until it holds what SQL says.
    async fn comes_to_the_truth(&mut self, app: &App) {
        let truth = self.truth(app).await;
        let user = self.user;
        let hears = async {
            while self.rows != truth {
                let message = self.raw.hear().await;
                let message = message.unwrap_or_else(|end| panic!("{user} is sent away: {end:?}"));
                assert_eq!(message["type"], "tx", "{user} is sent {message}");
                self.apply(&message);
            }
        };
        let waited = timeout(Duration::from_secs(60), hears).await;
        assert!(waited.is_ok(), "{user} holds {:?} and not {truth:?}", self.rows);
    }

    /// The tables of the rows that it was told on this connection.
    fn tables(&self) -> BTreeSet<&str> {
        self.told.iter().map(|told| told.split(' ').nth(1).unwrap()).collect()
    }

    fn epoch(&self) -> String {
        self.cursor.as_deref().unwrap().split('.').next().unwrap().to_owned()
    }
}

async fn run(app: &App, sql: &str) {
    let client = app.database.connect().await;
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}"));
}

/// Waits until the server has all that is committed.
async fn streamed(app: &App) {
    let sql = app.database.connect().await;
    let end = sql.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap();
    let end: Lsn = end.get::<_, &str>(0).parse().unwrap();
    eventually("the stream is there", || async {
        let position = app.server.as_ref().unwrap().health().position;
        (position >= Some(end)).then_some(())
    })
    .await;
}

async fn app() -> App {
    App::with(DEFINITION, TABLES).await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_stay_and_only_rows_of_the_table_are_told() {
    let app = app().await;
    let (mut ann, mut bob) = (Peer::new(&app, "ann").await, Peer::new(&app, "bob").await);
    // Without any rows of what has changed, and one that was brought up to date without having rows loaded.
    let mut eve = Peer::new(&app, "eve").await;
    bob.comes_back(&app).await;
    assert!(bob.resumed);
    let epoch = ann.epoch();
    for add in [
        "ALTER TABLE note ADD COLUMN stars int",
        "ALTER TABLE note ADD COLUMN kind text NOT NULL DEFAULT 'plain'",
        "ALTER TABLE note ADD COLUMN flag bool, ADD COLUMN more jsonb DEFAULT '[1]'",
    ] {
        run(&app, add).await;
        for peer in [&mut ann, &mut bob] {
            peer.told.clear();
            peer.comes_to_the_truth(&app).await;
            assert_eq!(peer.tables(), ["note"].into(), "{add}");
            let notes = peer.rows.keys().filter(|(table, _)| table == "note").count();
            assert_eq!(peer.told.len(), notes, "each once: {:?}", peer.told);
        }
    }
    // Without a row of it nothing is told, and what comes next is.
    run(&app, "UPDATE note SET stars = id, flag = true; INSERT INTO news VALUES (2, 'more')").await;
    for peer in [&mut ann, &mut bob, &mut eve] {
        peer.comes_to_the_truth(&app).await;
    }
    assert_eq!(eve.told, ["put news 2"]);
    Peer::new(&app, "ann").await;
    for peer in [ann, bob, eve] {
        assert_eq!(peer.epoch(), epoch);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_clients_do_not_get_costs_them_nothing() {
    let named = "[tables.note]\n    columns = ['id', 'team', 'owner', 'text']\n";
    let mut app = App::with(&DEFINITION.replace("[tables.note]\n", named), TABLES).await;
    let (mut ann, mut bob) = (Peer::new(&app, "ann").await, Peer::new(&app, "bob").await);
    bob.comes_back(&app).await;
    assert!(bob.resumed);
    let epoch = ann.epoch();
    let add = "ALTER TABLE note ADD COLUMN secret text DEFAULT 's3cret';
               UPDATE note SET text = 'new', secret = 'other' WHERE id = 6";
    run(&app, add).await;
    for peer in [&mut ann, &mut bob] {
        peer.comes_to_the_truth(&app).await;
        assert_eq!(peer.told, ["put note 6"]);
    }
    // Where the column of the other table is told of, this one is known.
    run(&app, "ALTER TABLE team ADD COLUMN color text DEFAULT 'red'").await;
    for peer in [&mut ann, &mut bob] {
        peer.comes_to_the_truth(&app).await;
        assert!(peer.told.iter().any(|told| told.starts_with("put team")), "{:?}", peer.told);
    }
    run(&app, "UPDATE note SET secret = 'x'; UPDATE note SET text = 'newer' WHERE id = 6").await;
    for peer in [&mut ann, &mut bob] {
        peer.comes_to_the_truth(&app).await;
        let notes: Vec<&String> = peer.told.iter().filter(|told| told.contains("note")).collect();
        assert_eq!(notes, ["put note 6", "put note 6"]);
    }
    app.stop_server().await;
    let add = "ALTER TABLE note ADD COLUMN \"more secrets\" int; UPDATE note SET secret = 'y'";
    run(&app, add).await;
    app.start_server().await;
    streamed(&app).await;
    for peer in [&mut ann, &mut bob] {
        peer.comes_back(&app).await;
        assert!(peer.resumed && peer.told.is_empty(), "{:?}", peer.told);
        peer.holds_the_truth(&app).await;
        assert_eq!(peer.epoch(), epoch);
    }
    Peer::new(&app, "ann").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_name_others_and_partitions_get_columns_as_well() {
    let app = app().await;
    let (mut ann, mut bob) = (Peer::new(&app, "ann").await, Peer::new(&app, "bob").await);
    bob.comes_back(&app).await;
    for add in [
        "ALTER TABLE member ADD COLUMN since date; INSERT INTO member VALUES (4, 'ann', now())",
        "ALTER TABLE team ADD COLUMN color text DEFAULT 'red'; INSERT INTO team VALUES (5, 'five')",
        "ALTER TABLE news ADD COLUMN by text DEFAULT 'me'; UPDATE news SET text = 'new'",
        "ALTER TABLE diary ADD COLUMN n int; DELETE FROM diary WHERE id = 2",
        "DELETE FROM member WHERE team = 1",
    ] {
        run(&app, add).await;
        ann.comes_to_the_truth(&app).await;
        bob.comes_to_the_truth(&app).await;
    }
    assert_eq!(ann.epoch(), Peer::new(&app, "ann").await.epoch());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_around_the_column_is_told() {
    let app = app().await;
    let (mut ann, mut bob) = (Peer::new(&app, "ann").await, Peer::new(&app, "bob").await);
    bob.comes_back(&app).await;
    let epoch = ann.epoch();
    for sql in [
        // In both forms, and in one transaction.
        "BEGIN; UPDATE note SET text = 'before' WHERE id < 10; ALTER TABLE note ADD COLUMN a int DEFAULT 7;
         UPDATE note SET text = 'after', a = 8 WHERE id > 30; DELETE FROM note WHERE id IN (3, 33);
         INSERT INTO note VALUES (50, 1, 'ann', 'new', 9); COMMIT",
        // Two at once, and one that is gone again.
        "ALTER TABLE note ADD COLUMN b int DEFAULT 1; UPDATE note SET b = 2 WHERE id = 6;
         ALTER TABLE note ADD COLUMN c int DEFAULT 3; UPDATE note SET c = 4 WHERE id = 6;
         ALTER TABLE note ADD COLUMN d int; UPDATE note SET d = 4 WHERE id = 9;
         ALTER TABLE note DROP COLUMN d; UPDATE note SET text = 'last' WHERE id = 12",
        "ALTER TABLE note ADD COLUMN e int; CREATE INDEX ON note (e); INSERT INTO note (id, team, owner) VALUES (60, 2, 'bob')",
        "ALTER TABLE note ADD COLUMN f int; ALTER TABLE diary ADD COLUMN f text DEFAULT 'f';
         UPDATE diary SET f = 'g' WHERE id = 4",
    ] {
        run(&app, sql).await;
        ann.comes_to_the_truth(&app).await;
        bob.comes_to_the_truth(&app).await;
    }
    assert_eq!((ann.epoch(), bob.epoch()), (epoch.clone(), epoch));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_and_goes_meanwhile_ends_with_it() {
    let mut app = app().await;
    let (mut ann, mut bob) = (Peer::new(&app, "ann").await, Peer::new(&app, "bob").await);
    let mut eve = Peer::new(&app, "eve").await;
    let epoch = ann.epoch();
    run(
        &app,
        "DELETE FROM note WHERE id IN (9, 12); INSERT INTO note VALUES (70, 1, 'ann', 'new'), (71, 1, 'bob', 'gone');
         ALTER TABLE note ADD COLUMN stars int DEFAULT 2; UPDATE note SET stars = 3 WHERE id = 6;
         DELETE FROM note WHERE id IN (15, 71); DELETE FROM member WHERE person = 'bob' AND team = 3;
         INSERT INTO member VALUES (2, 'bob')",
    )
    .await;
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(Peer::new_somewhere(&app, "ann").await);
    }
    for other in &mut others {
        other.comes_to_the_truth(&app).await;
    }
    ann.comes_to_the_truth(&app).await;
    // From before the column: told of rows of the table, and of what else has changed, and of nothing else.
    bob.comes_back(&app).await;
    assert!(bob.resumed);
    bob.holds_the_truth(&app).await;
    assert_eq!(bob.tables(), ["note", "team"].into());
    let notes = bob.told.iter().filter(|told| told.starts_with("put note"));
    assert_eq!(notes.count(), bob.rows.keys().filter(|(table, _)| table == "note").count());
    let teams = bob.told.iter().filter(|told| told.contains(" team "));
    assert_eq!(teams.collect::<Vec<_>>(), ["delete team 3", "put team 2"]);
    // From behind it, over another life of the server.
    app.stop_server().await;
    run(&app, "UPDATE note SET stars = 4 WHERE id = 18").await;
    app.start_server().await;
    streamed(&app).await;
    ann.comes_back(&app).await;
    assert!(ann.resumed);
    assert_eq!(ann.told, ["put note 18"]);
    ann.holds_the_truth(&app).await;
    eve.comes_back(&app).await;
    assert!(eve.resumed && eve.told.is_empty(), "she sees none of the table: {:?}", eve.told);
    eve.holds_the_truth(&app).await;
    // And once more, over rows that the server has not read.
    run(&app, "ALTER TABLE note ADD COLUMN more int DEFAULT 1").await;
    ann.comes_to_the_truth(&app).await;
    assert_eq!((ann.epoch(), bob.epoch(), eve.epoch()), (epoch.clone(), epoch.clone(), epoch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_was_added_while_no_server_ran_ends_no_epoch() {
    let mut app = app().await;
    let mut ann = Peer::new(&app, "ann").await;
    let mut eve = Peer::new(&app, "eve").await;
    let epoch = ann.epoch();
    for add in [
        "UPDATE note SET text = 'before' WHERE id = 3; ALTER TABLE note ADD COLUMN stars int DEFAULT 2;
         UPDATE note SET stars = 3 WHERE id = 6; DELETE FROM note WHERE id = 9",
        "ALTER TABLE note ADD COLUMN kind text; ALTER TABLE note ADD COLUMN more jsonb DEFAULT '{}'",
    ] {
        app.stop_server().await;
        run(&app, add).await;
        app.start_server().await;
        streamed(&app).await;
        ann.comes_back(&app).await;
        assert!(ann.resumed, "{add}");
        ann.comes_to_the_truth(&app).await;
        assert_eq!(ann.tables(), ["note"].into());
        eve.comes_back(&app).await;
        assert!(eve.resumed && eve.told.is_empty(), "she sees none of the table: {:?}", eve.told);
        eve.holds_the_truth(&app).await;
        Peer::new(&app, "ann").await;
        // What comes next is told with the column.
        run(&app, "UPDATE note SET text = text || '!' WHERE id = 12").await;
        ann.comes_to_the_truth(&app).await;
        assert_eq!((ann.epoch(), eve.epoch()), (epoch.clone(), epoch.clone()));
    }
    // What is more than that ends it as ever.
    app.stop_server().await;
    run(&app, "ALTER TABLE note ADD COLUMN a int; ALTER TABLE note RENAME COLUMN kind TO sort")
        .await;
    app.start_server().await;
    ann.comes_back(&app).await;
    assert!(!ann.resumed);
    ann.holds_the_truth(&app).await;
    assert_ne!(ann.epoch(), epoch);
}

impl Peer {
    /// Comes while nobody knows which rows it is sent.
    async fn new_somewhere(app: &App, user: &'static str) -> Peer {
        let (rows, told) = (Rows::new(), Vec::new());
        let raw = Raw::open(app).await;
        let mut peer = Peer { user, rows, cursor: None, raw, resumed: false, told };
        peer.connect().await;
        peer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_of_the_new_column_is_applied() {
    let app = app().await;
    let mut ann = Peer::new(&app, "ann").await;
    run(&app, "ALTER TABLE note ADD COLUMN stars int").await;
    let op = json!({ "op": "update", "table": "note", "row": { "id": 3, "stars": 5 } });
    ann.raw.say(&json!({ "type": "mutate", "id": 1, "ops": [op] })).await;
    eventually("it is applied", || async {
        let stars = app.one("SELECT coalesce(stars, 0) FROM note WHERE id = 3").await;
        (stars == "5").then_some(())
    })
    .await;
    ann.comes_to_the_truth(&app).await;
    assert_eq!(ann.rows[&("note".to_owned(), 3)]["stars"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_more_than_a_column_begins_an_epoch() {
    let app = app().await;
    let mut ann = Peer::new(&app, "ann").await;
    for sql in [
        // Every row is written anew.
        "ALTER TABLE note ADD COLUMN at uuid DEFAULT gen_random_uuid()",
        "ALTER TABLE note ADD COLUMN a int, DROP COLUMN at",
        "BEGIN; ALTER TABLE note ADD COLUMN b int; ALTER TABLE note RENAME COLUMN a TO c; COMMIT",
    ] {
        let epoch = ann.epoch();
        run(&app, sql).await;
        ann.raw.ending().await.assert(sql, "restarting");
        ann = Peer::new_somewhere(&app, "ann").await;
        ann.holds_the_truth(&app).await;
        assert_ne!(ann.epoch(), epoch, "{sql}");
    }
}
