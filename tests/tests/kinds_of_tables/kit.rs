//! A server over some tables with a client that is connected all the time, and `rowtide`'s commands over a database.

use std::time::Duration;

use rowtide_client::{Client, Event, Status};
use rowtide_tests::{
    App, Database, Dir, PATIENCE, Raw, SECRET, Said, eventually, held, http_get, rowtide, said,
};
use serde_json::{Value, json};

/// After what time it is looked again whether a query sees what a client holds.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A server, a client of the user `ann`, and a connection of the application.
pub(crate) struct Stage {
    pub(crate) app: App,
    pub(crate) sql: tokio_postgres::Client,
    client: Client,
}

impl Stage {
    pub(crate) async fn new(definition: &str, sql: &str) -> Stage {
        let app = App::with(definition, sql).await;
        let sql = app.database.connect().await;
        let mut client = app.client("ann");
        live(&mut client).await;
        Stage { app, sql, client }
    }

    /// What the application runs. It must not fail.
    pub(crate) async fn run(&self, statement: &str) {
        let ran = self.sql.batch_execute(statement).await;
        ran.unwrap_or_else(|error| panic!("{error:?}\nin: {statement}"));
    }

    /// The client that was there all the time and one that comes anew hold in `table` what `rows`, a query for JSON,
    /// selects.
    pub(crate) async fn holds(&mut self, table: &str, rows: &str) {
        holds(&mut self.client, table, &self.sql, rows).await;
        let mut anew = self.app.client("ann");
        holds(&mut anew, table, &self.sql, rows).await;
    }

    /// As [`Stage::holds`], of all rows and columns.
    pub(crate) async fn holds_all(&mut self, table: &str) {
        self.holds(table, &format!("SELECT to_jsonb(t)::text FROM {table} t")).await;
    }

    /// Runs what the application runs, and sees that all is there.
    pub(crate) async fn follows(&mut self, table: &str, statement: &str) {
        self.run(statement).await;
        self.holds_all(table).await;
    }

    /// The server serves all but these tables.
    pub(crate) async fn rejects(&self, tables: &[&str]) {
        let what = format!("the tables that are not served are {tables:?}");
        eventually(&what, || async {
            let health = http_get(&self.app, "/health/ready").await;
            let health: Value = serde_json::from_str(&health).ok()?;
            (health["ready"] == true && health["refusedTables"] == json!(tables)).then_some(())
        })
        .await;
    }

    /// Where the rows of `ann` stand.
    pub(crate) async fn cursor(&self) -> String {
        let mut raw = Raw::open(&self.app).await;
        raw.say(&Raw::connect(&App::token("ann"))).await;
        raw.until("ready").await["cursor"].as_str().expect("a cursor").to_owned()
    }

    /// In which mode a client of `ann` comes back that stands there.
    pub(crate) async fn mode_from(&self, cursor: &str) -> String {
        let mut raw = Raw::open(&self.app).await;
        raw.say(&Raw::connect_from(&App::token("ann"), Some(cursor))).await;
        raw.until("connected").await["mode"].as_str().expect("a mode").to_owned()
    }
}

async fn live(client: &mut Client) {
    while client.next().await != Some(Event::Status(Status::Live)) {}
}

/// What was streamed a query may see a moment later, so it is asked again.
async fn holds(client: &mut Client, table: &str, sql: &tokio_postgres::Client, query: &str) {
    let mut expected = Vec::new();
    let wait = async {
        loop {
            expected = rows(sql, query).await;
            let now: Option<Vec<String>> =
                held(&client.replica()).remove(table).map(|rows| rows.into_iter().collect());
            if now.as_ref() == Some(&expected) {
                return;
            }
            if let Ok(event) = tokio::time::timeout(ASK_AGAIN, client.next()).await {
                assert!(!matches!(event, None | Some(Event::Stopped(_))), "{event:?}");
            }
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        panic!("{table} holds {:?} and not {expected:?}", held(&client.replica()).get(table));
    }
}

async fn rows(sql: &tokio_postgres::Client, query: &str) -> Vec<String> {
    let rows = sql.query(query, &[]).await;
    let rows = rows.unwrap_or_else(|error| panic!("{error:?}\nin: {query}"));
    let json = |row: &tokio_postgres::Row| -> String {
        let json: Value = serde_json::from_str(row.get(0)).expect("it is JSON");
        json.to_string()
    };
    let mut rows: Vec<String> = rows.iter().map(json).collect();
    rows.sort();
    rows
}

/// `rowtide`'s commands, over a database with some tables.
pub(crate) struct Operator {
    pub(crate) database: Database,
    pub(crate) sql: tokio_postgres::Client,
    dir: Dir,
}

impl Operator {
    pub(crate) async fn new(definition: &str, sql: &str) -> Operator {
        let database = Database::with(sql).await;
        let sql = database.connect().await;
        let dir = Dir::new();
        dir.write("rowtide.toml", definition);
        Operator { database, sql, dir }
    }

    pub(crate) async fn says(&self, command: &str) -> Said {
        self.says_at(command, &self.database.url().await).await
    }

    /// What a command says of the database at `url`.
    pub(crate) async fn says_at(&self, command: &str, url: &str) -> Said {
        said(self.command(command, url)).await
    }

    pub(crate) fn command(&self, command: &str, url: &str) -> std::process::Command {
        let mut process = rowtide([command]);
        process
            .current_dir(self.dir.path())
            .env("DATABASE_URL", url)
            .env("ROWTIDE_ENVIRONMENT", self.database.name())
            .env("ROWTIDE_TOKEN_SECRET", SECRET)
            .env("ROWTIDE_LISTEN", "127.0.0.1:0");
        process
    }

    /// `check` and `setup` end with an error that says `parts`, nothing was changed, and `writes`, which the
    /// application runs, do not fail.
    pub(crate) async fn is_rejected(&self, parts: &[&str], writes: &str) {
        for command in ["check", "setup"] {
            let said = self.says(command).await;
            assert_eq!(said.code(), Some(1), "{command}: {said:?}");
            let text = format!("{}{}", said.out, said.err);
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            for part in parts {
                assert!(text.contains(part), "{command} says no `{part}`: {text}");
            }
        }
        let sql = "SELECT (SELECT count(*) FROM pg_publication WHERE pubname LIKE 'rowtide%') \
                   + (SELECT count(*) FROM pg_class WHERE relreplident = 'f' AND oid >= 16384) \
                   + (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'rowtide%')";
        let changed: i64 = self.sql.query_one(sql, &[]).await.expect("a number").get(0);
        assert_eq!(changed, 0, "setup has changed something");
        let ran = self.sql.batch_execute(writes).await;
        ran.unwrap_or_else(|error| panic!("{error:?}\nin: {writes}"));
    }

    /// `setup` and then `check` find nothing to complain about. Returns what `check` says.
    pub(crate) async fn is_set_up(&self) -> String {
        for command in ["setup", "check"] {
            let said = self.says(command).await;
            assert_eq!(said.code(), Some(0), "{command}: {said:?}");
            if command == "check" {
                return said.out;
            }
        }
        unreachable!("check is the last command")
    }
}
