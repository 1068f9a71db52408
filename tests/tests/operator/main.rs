//! What an operator does with a database that an application uses: check it, set it up, take that out again.

mod check;
mod recipes;
mod setup;
mod teardown;
mod writes;

use rowtide_tests::{Database, Dir, Running, Said, eventually, rowtide, said};
use tokio_postgres::Client;

const TABLES: &str = "
CREATE TABLE note (id text PRIMARY KEY, owner text NOT NULL, body text NOT NULL);
CREATE INDEX ON note (owner);
INSERT INTO note VALUES ('n1', 'ada', 'hello'), ('n2', 'bob', 'secret');";
const DEFINITION: &str = "[tables.note]\nvisible = 'owner = auth.user_id'\n\
    [tables.note.insert]\nallow = 'new.owner = auth.user_id'\n\
    [tables.note.delete]\nallow = 'old.owner = auth.user_id'\n";
const SECRET: &str = "a secret of this test, long enough for HS256";

/// The command over a database of its own.
struct Operator {
    database: Database,
    dir: Dir,
}

impl Operator {
    async fn new(tables: &str, definition: &str) -> Operator {
        let operator = Operator { database: Database::with(tables).await, dir: Dir::new() };
        operator.dir.write("rowtide.toml", definition);
        operator
    }

    fn command_at(&self, url: &str, args: &[&str]) -> std::process::Command {
        let mut command = rowtide(args);
        command
            .current_dir(self.dir.path())
            .env("DATABASE_URL", url)
            .env("ROWTIDE_ENVIRONMENT", self.database.name())
            .env("ROWTIDE_TOKEN_SECRET", SECRET)
            .env("ROWTIDE_LISTEN", "127.0.0.1:0");
        command
    }

    /// As superuser.
    async fn says(&self, args: &[&str]) -> Said {
        said(self.command_at(&self.database.url().await, args)).await
    }

    async fn says_as(&self, role: &str, args: &[&str]) -> Said {
        said(self.command_at(&self.database.url_as(role).await, args)).await
    }

    async fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command_at(&self.database.url().await, args))
    }

    fn psql_command(&self, url: &str, script: &str) -> std::process::Command {
        let file = self.dir.write("script.sql", script);
        let mut command = std::process::Command::new("psql");
        command.args(["-X", "-q", "-f", &file, &psql_url(url)]);
        command
    }

    /// Runs a script with `psql`.
    async fn psql(&self, role: &str, script: &str) -> Said {
        said(self.psql_command(&self.database.url_as(role).await, script)).await
    }

    /// What is in the database that setup makes, and the replica identities.
    async fn state(&self) -> Vec<String> {
        let names = self.database.names();
        let sql = "SELECT 'schema' FROM pg_namespace WHERE nspname = $1
                   UNION ALL SELECT 'publication' FROM pg_publication WHERE pubname = $2
                   UNION ALL SELECT 'slot' FROM pg_replication_slots WHERE slot_name = $3
                   UNION ALL SELECT relname || ' ' || relreplident::text FROM pg_class \
                     WHERE relkind = 'r' AND relnamespace::regnamespace::text IN ('public', 'other', '\"Odd Schema\"') ORDER BY 1";
        let client = self.database.connect().await;
        let rows =
            client.query(sql, &[&names.schema, &names.publication, &names.slot]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Writes at the beginning of one turn after the other, while somebody is in the way of all. Postgres ends a turn by its own
    /// clock after a tenth of a second, and a write by the same clock after a whole one. One of the writes may be unlucky.
    async fn write_in_turns(&self) {
        let (looks, writer) = (self.database.connect().await, self.database.connect().await);
        writer.batch_execute("SET lock_timeout = '1s'").await.unwrap();
        let (looks, mut turns, mut gave_up) = (&looks, Vec::new(), 0);
        while turns.len() < 4 {
            let known = &turns;
            let turn = eventually("it asks for its lock", || async move {
                let sql = "SELECT waitstart::text FROM pg_locks WHERE relation = 'note'::regclass AND NOT granted \
                       AND mode = 'AccessExclusiveLock' AND waitstart IS NOT NULL";
                let row = looks.query_opt(sql, &[]).await.unwrap()?;
                Some(row.get::<_, String>(0)).filter(|turn| !known.contains(turn))
            });
            let turn = turn.await;
            turns.push(turn);
            let written = writer.batch_execute("UPDATE note SET body = body || '.'").await;
            gave_up += usize::from(written.is_err());
        }
        assert!(gave_up <= 1, "{gave_up} of {} writes had to wait longer than a turn", turns.len());
    }

    /// What a query for one text answers.
    async fn one(&self, sql: &str) -> Option<String> {
        self.database.connect().await.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// How many connections of the command there are, of those that fit a condition.
    async fn ours(&self, client: &Client, condition: &str) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'rowtide %' \
             AND datname = current_database() {condition}"
        );
        client.query_one(&sql, &[]).await.unwrap().get(0)
    }
}

/// A URL as `psql` takes it.
fn psql_url(url: &str) -> String {
    let (user, rest) = url.strip_prefix("postgres://").unwrap().split_once('@').unwrap();
    let (host, database) = rest.split_once('/').unwrap();
    format!("postgres:///{database}?host={host}&user={user}")
}

#[track_caller]
fn succeeded(said: &Said) {
    assert_eq!(said.code(), Some(0), "{said:?}");
}

#[track_caller]
fn rejected(said: &Said, parts: &[&str]) {
    assert_eq!(said.code(), Some(1), "{said:?}");
    // A terminal's lines are wrapped, and begin with a bar.
    let words: Vec<&str> =
        said.err.split_whitespace().filter(|word| !matches!(*word, "│" | "×")).collect();
    let text = words.join(" ") + &said.out;
    for part in parts {
        assert!(text.contains(part), "no `{part}` in:\n{}\n{}", said.err, said.out);
    }
}
