//! What the stories of the examples have in common: an example that is served from its own files, as `rowtide dev` takes
//! them, and persons who come with claims, hold what they are sent, and write.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use rowtide::application::Application;
use rowtide_client::{Replica, Row};
use rowtide_gateway::auth::sign_claims;
use rowtide_postgres::migrate::migrate;
use rowtide_protocol::ServerMessage;
use rowtide_tests::{App, Database, PATIENCE, Raw, SECRET, Said, rowtide, said};
use serde_json::{Value, json};

/// The directory of an example.
fn directory(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// An example and a database with its tables and its sample.
pub(super) struct Example {
    name: &'static str,
    application: Application,
    pub(super) database: Database,
}

impl Example {
    pub(super) async fn new(name: &'static str) -> Example {
        let dir = directory(name);
        let read = Application::read(&dir.join("rowtide.toml"), &dir.join("migrations"));
        let (application, unknown) = read.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(unknown, [""; 0]);
        let database = Database::create().await;
        let mut client = database.connect().await;
        let migrated = migrate(&mut client, &application.migrations).await;
        migrated.unwrap_or_else(|error| panic!("{error}"));
        Example { name, application, database }
    }

    /// Runs the command for it.
    pub(super) async fn says(&self, args: &[&str]) -> Said {
        let mut command = rowtide(args);
        command
            .current_dir(directory(self.name))
            .env("DATABASE_URL", self.database.url().await)
            .env("ROWTIDE_ENVIRONMENT", self.database.name());
        let said = said(command).await;
        assert_eq!(said.code(), Some(0), "{args:?}: {said:?}");
        said
    }

    /// What `rowtide check` has to say of it once it is set up, without the advice.
    pub(super) async fn notes(&self) -> Vec<String> {
        self.says(&["setup"]).await;
        let checked = self.says(&["check"]).await;
        let lines = checked.out.lines().filter(|line| !line.starts_with(' '));
        let (end, notes): (Vec<_>, Vec<_>) =
            lines.map(str::to_owned).partition(|line| line == "the definition fits the database");
        assert_eq!(end.len(), 1, "{checked:?}");
        notes
    }

    pub(super) async fn served(self) -> App {
        App::over(self.database, &self.application.definition, |_| {}).await
    }
}

/// Somebody who is connected.
pub(super) struct Person<'a> {
    app: &'a App,
    sql: tokio_postgres::Client,
    raw: Raw,
    replica: Replica,
    /// All that came, to look for what must not.
    heard: Vec<String>,
    subscribed: BTreeSet<u64>,
    mutations: u64,
}

impl<'a> Person<'a> {
    /// Somebody with these claims, of which `sub` is the user's id; nobody, without any.
    pub(super) async fn comes(app: &'a App, claims: Value) -> Person<'a> {
        let mut connect = Raw::connect("");
        match claims {
            Value::Object(mut claims) => {
                let user = claims.remove("sub").expect("a user has an id");
                let user = user.as_str().expect("an id is text");
                let token = sign_claims(SECRET, user, claims, Duration::from_secs(600));
                connect["token"] = token.expect("it can be signed").into();
            }
            _ => drop(connect.as_object_mut().expect("an object").remove("token")),
        }
        let mut raw = Raw::open(app).await;
        raw.say(&connect).await;
        let mut person = Person {
            app,
            sql: app.database.connect().await,
            raw,
            replica: Replica::new(),
            heard: Vec::new(),
            subscribed: BTreeSet::new(),
            mutations: 0,
        };
        while !matches!(person.hears().await, ServerMessage::Ready { .. }) {}
        person
    }

    /// Takes one message in.
    async fn hears(&mut self) -> ServerMessage {
        let text = self.raw.hear_text().await.unwrap_or_else(|ending| panic!("{ending:?}"));
        let message = serde_json::from_str(&text).expect("it is a message");
        self.replica.apply(&message).unwrap_or_else(|error| panic!("{error}: {text}"));
        if let ServerMessage::Tx { subscribed, unsubscribed, .. } = &message {
            self.subscribed.extend(subscribed);
            self.subscribed.retain(|id| !unsubscribed.contains(id));
        }
        self.heard.push(text);
        message
    }

    /// The values of a column in what they hold of a table.
    pub(super) fn holds(&self, table: &str, column: &str) -> BTreeSet<String> {
        let text = |row: &Row| match &row[column] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.replica.rows(table).map(text).collect()
    }

    /// Waits until these are the values of a column in what they hold of a table.
    pub(super) async fn sees(&mut self, table: &str, column: &str, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|text| (*text).to_owned()).collect();
        let wait = async {
            while self.holds(table, column) != expected {
                self.hears().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{expected:?}, and not {:?}", self.holds(table, column));
    }

    /// The row of a table with this value in a column.
    pub(super) fn row(&self, table: &str, column: &str, value: &str) -> &Row {
        let row = self.replica.rows(table).find(|row| row[column] == value);
        row.unwrap_or_else(|| panic!("no {value} in {table}"))
    }

    /// Subscribes, and waits for the rows.
    pub(super) async fn subscribes(&mut self, id: u64, query: &str, params: Value) {
        let subscribe = json!({ "type": "subscribe", "id": id, "query": query, "params": params });
        self.raw.say(&subscribe).await;
        while !self.subscribed.contains(&id) {
            let message = self.hears().await;
            assert!(!matches!(message, ServerMessage::SubscriptionError { .. }), "{message:?}");
        }
    }

    /// Writes, and waits for what becomes of it, the code of a rejection, and until whoever writes next is judged by it.
    pub(super) async fn writes(&mut self, ops: Value) -> Result<(), String> {
        self.mutations += 1;
        let number = self.mutations;
        self.raw.say(&json!({ "type": "mutate", "id": number, "ops": ops })).await;
        let mut outcome = Ok(());
        loop {
            match self.hears().await {
                ServerMessage::Reject(rejected) => outcome = Err(rejected.code),
                ServerMessage::Tx { ack, .. } if ack >= Some(number) => break,
                _ => {}
            }
        }
        self.app.commits_are_seen(&self.sql).await;
        outcome
    }

    /// Writes what is refused with this code.
    pub(super) async fn may_not(&mut self, code: &str, ops: Value) {
        assert_eq!(self.writes(ops.clone()).await, Err(code.to_owned()), "{ops}");
    }

    /// Writes what is applied.
    pub(super) async fn may(&mut self, ops: Value) {
        assert_eq!(self.writes(ops.clone()).await, Ok(()), "{ops}");
    }

    /// Fails if any of these was in what came.
    pub(super) fn never_heard(&self, words: &[&str]) {
        for text in &self.heard {
            for word in words {
                assert!(!text.contains(word), "`{word}` in {text}");
            }
        }
    }
}

/// A call of a mutation that has a name.
pub(super) fn call(name: &str, args: Value) -> Value {
    json!([{ "op": "call", "name": name, "args": args }])
}
