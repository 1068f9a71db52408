//! A client that writes all the time and keeps the books: what it wrote, and what it was promised of
//! it. Every mutation carries marks that no other has, and the database counts how often each mark was
//! applied, so that a promise can be held against it. What it sees on the way is looked at too: money
//! that two accounts pass between them is never half passed, and what is confirmed is shown.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowtide_client::{
    Acked, Client, ClientOptions, Event, FileStorage, Op, Outcome, Row, Status, StorageError,
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{App, PATIENCE, Rows, held};

/// How many mutations may wait before a scribe writes no more.
const MAX_PENDING: usize = 40;
/// How many entries of its own a scribe keeps.
const KEPT_ENTRIES: usize = 30;
/// What all accounts hold together.
const MONEY: i64 = 1_000;

/// See the module's text.
pub struct Scribe {
    /// Whose client it is.
    pub user: String,
    /// What was promised and what came of it.
    pub tally: Tally,
    options: ClientOptions,
    /// Where its queue is, if that outlives the client.
    queue: Option<PathBuf>,
    client: Client,
    /// The marks of mutations whose outcome is not known.
    made: BTreeMap<u64, Vec<String>>,
    /// Whether those whose outcome was told were confirmed.
    told: BTreeMap<u64, bool>,
    entries: VecDeque<String>,
    /// Its marks begin so.
    name: String,
    marks: u64,
}

/// The books of a scribe.
#[derive(Debug, Default)]
pub struct Tally {
    /// Marks of mutations that were confirmed.
    pub confirmed: BTreeSet<String>,
    /// Marks of mutations that were rejected, or given up before they were stored.
    pub rejected: BTreeSet<String>,
    /// Marks of mutations whose outcome nobody will ever tell.
    pub untold: BTreeSet<String>,
    /// How many mutations were confirmed, and how many rejected with each code.
    pub outcomes: BTreeMap<String, u64>,
    /// How often the client was closed and opened again.
    pub reopened: u64,
    /// What must not be.
    pub findings: Vec<String>,
}

impl Scribe {
    /// The tables that scribes write.
    pub const TABLES: &str = "
        CREATE TABLE marker (id int PRIMARY KEY, value bigint NOT NULL);
        INSERT INTO marker VALUES (1, 0);
        CREATE TABLE account (id int PRIMARY KEY, cents int NOT NULL);
        INSERT INTO account SELECT n, 100 FROM generate_series(1, 10) AS n;
        CREATE TABLE project (id int PRIMARY KEY, name text NOT NULL);
        INSERT INTO project SELECT n, 'project ' || n FROM generate_series(1, 6) AS n;
        CREATE TABLE member (
          project_id int NOT NULL REFERENCES project ON DELETE CASCADE, user_id text NOT NULL,
          PRIMARY KEY (project_id, user_id));
        CREATE INDEX ON member (user_id);
        INSERT INTO member SELECT p, 'u' || u FROM generate_series(1, 6) AS p,
          generate_series(1, 4) AS u WHERE (p + u) % 2 = 0;
        CREATE TABLE task (
          id int PRIMARY KEY, project_id int NOT NULL REFERENCES project, title text NOT NULL,
          mark text);
        CREATE INDEX ON task (project_id);
        INSERT INTO task SELECT n, n % 6 + 1, 'task ' || n FROM generate_series(1, 40) AS n;
        CREATE TABLE entry (
          id text PRIMARY KEY, owner text NOT NULL, open boolean NOT NULL,
          body text NOT NULL CHECK (body <> 'bad'), mark text);
        CREATE INDEX ON entry (owner);
        CREATE TABLE applied (mark text NOT NULL);
        CREATE FUNCTION note_mark() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN INSERT INTO applied VALUES (new.mark); RETURN NULL; END $$;
        CREATE TRIGGER note_mark AFTER INSERT OR UPDATE ON task FOR EACH ROW
          WHEN (new.mark IS NOT NULL) EXECUTE FUNCTION note_mark();
        CREATE TRIGGER note_mark AFTER INSERT OR UPDATE ON entry FOR EACH ROW
          WHEN (new.mark IS NOT NULL) EXECUTE FUNCTION note_mark();";

    /// Who sees and writes what in them.
    pub const DEFINITION: &str = r#"
[tables.marker]
visible = 'true'

[tables.account]
visible = 'true'

[tables.member]
visible = 'user_id = auth.user_id'

[tables.project]
visible = 'id IN (SELECT project_id FROM member WHERE user_id = auth.user_id)'

[tables.task]
visible = 'project_id IN (SELECT project_id FROM member WHERE user_id = auth.user_id)'

[[tables.task.update]]
columns = ["title", "mark"]
allow = 'EXISTS (SELECT FROM member WHERE project_id = old.project_id AND user_id = auth.user_id)'

[tables.entry]
visible = 'owner = auth.user_id'

[tables.entry.insert]
allow = 'new.owner = auth.user_id'

[[tables.entry.insert.limit]]
where = 'owner = auth.user_id AND open'
max = 8
code = "too_many_open"

[[tables.entry.update]]
allow = 'old.owner = auth.user_id'

[tables.entry.delete]
allow = 'old.owner = auth.user_id'
"#;

    /// A client of `user` at `url`; with `queue` its mutations outlive it there.
    ///
    /// # Panics
    /// When the queue cannot be used.
    pub async fn start(url: String, user: &str, queue: Option<PathBuf>) -> Scribe {
        let of = user.to_owned();
        let options = ClientOptions {
            url,
            token: Arc::new(move || Some(App::token(&of))),
            client_id: new_client_id(),
            app_version: None,
        };
        let name = format!("{user}-{:06x}", rand::random::<u32>() >> 8);
        let client = match &queue {
            Some(path) => open(&options, path).await,
            None => Client::start(options.clone()),
        };
        Scribe {
            user: user.to_owned(),
            tally: Tally::default(),
            options,
            queue,
            client,
            made: BTreeMap::new(),
            told: BTreeMap::new(),
            entries: VecDeque::new(),
            name,
            marks: 0,
        }
    }

    /// Writes at random moments until `stop`, and now and then comes back as another process would.
    pub async fn write_until(&mut self, seed: u64, stop: &CancellationToken) {
        let mut rng = StdRng::seed_from_u64(seed);
        while !stop.is_cancelled() {
            self.listen(Duration::from_millis(rng.random_range(5..200))).await;
            if self.queue.is_some() && rng.random_ratio(1, 300) {
                self.reopen(rng.random()).await;
            }
            if self.client.status().pending < MAX_PENDING {
                self.write(&mut rng);
            }
        }
    }

    /// Writes at random moments for a time.
    pub async fn write_for(&mut self, time: Duration) {
        let stop = CancellationToken::new();
        let writing = self.write_until(rand::random(), &stop);
        let ending = async {
            tokio::time::sleep(time).await;
            stop.cancel();
        };
        tokio::join!(writing, ending);
    }

    /// Writes the title of a task.
    pub fn retitle(&mut self, task: u32) {
        let mark = self.mark();
        let row = json!({ "id": task, "title": format!("by {}", self.user), "mark": mark });
        self.make(vec![Op::update("task", row_of(row))], vec![mark]);
    }

    /// Takes in what comes within a time.
    pub async fn listen(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(event) = timeout_at(until, self.client.next()).await {
            self.take(event);
        }
    }

    /// Takes in what comes until all it has written is acknowledged and its connection is live.
    pub async fn comes_to_rest(&mut self, until: Instant) {
        while !self.made.is_empty() || self.client.status().connection != Status::Live {
            match timeout_at(until, self.client.next()).await {
                Ok(event) => self.take(event),
                Err(_) => {
                    let (status, made) = (self.client.status(), &self.made);
                    self.found(format!(
                        "stuck before it is acknowledged: {status:?}, waits for {made:?}"
                    ));
                    return;
                }
            }
        }
    }

    /// Takes in what comes until it holds exactly this.
    pub async fn hold(&mut self, expected: &Rows, until: Instant) {
        loop {
            let rows = held(&self.client.replica());
            if rows == *expected {
                return;
            }
            match timeout_at(until, self.client.next()).await {
                Ok(event) => self.take(event),
                Err(_) => {
                    let (status, differs) = (self.client.status(), difference(&rows, expected));
                    self.found(format!("does not hold what it should: {status:?}, {differs}"));
                    return;
                }
            }
        }
    }

    /// Fails if anything was found that must not be.
    ///
    /// # Panics
    /// When there was.
    #[track_caller]
    pub fn assert_nothing_found(&self) {
        assert!(self.tally.findings.is_empty(), "{:#?}", self.tally.findings);
    }

    /// Closes the client, in order or not, and opens it again with the same queue.
    async fn reopen(&mut self, in_order: bool) {
        let Some(path) = self.queue.clone() else { return };
        // A client in between, since the queue is one client's at a time.
        let nowhere = ClientOptions { url: "ws://127.0.0.1:9/sync".into(), ..self.options.clone() };
        let client = std::mem::replace(&mut self.client, Client::start(nowhere));
        if in_order {
            if let Err(error) = client.close().await {
                self.found(format!("the queue could not be stored: {error}"));
            }
        } else {
            drop(client);
        }
        self.client = open(&self.options, &path).await;
        self.tally.reopened += 1;
    }

    fn found(&mut self, what: String) {
        let Scribe { name, options, .. } = self;
        self.tally.findings.push(format!("{name} ({}): {what}", options.client_id));
    }

    fn take(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Acked(acked)) => self.book(acked),
            Some(Event::Changes(_)) => {
                let replica = self.client.replica();
                let sum: i64 =
                    replica.rows("account").filter_map(|row| row["cents"].as_i64()).sum();
                let none = replica.count("account") == 0;
                drop(replica);
                if sum != MONEY && !none {
                    self.found(format!("saw half of a transaction: {sum} of {MONEY}"));
                }
            }
            Some(Event::Stopped(error)) => {
                self.found(format!("was stopped for good: {error}"));
                self.options.client_id = new_client_id();
                self.queue = None;
                self.client = Client::start(self.options.clone());
                self.tally.untold.extend(std::mem::take(&mut self.made).into_values().flatten());
                self.told.clear();
            }
            Some(Event::NotStored { reason }) => self.found(format!("cannot store: {reason}")),
            Some(Event::Status(_) | Event::Subscribed(_) | Event::SubscriptionRefused(_))
            | None => {}
        }
    }

    fn book(&mut self, Acked { id, outcome, .. }: Acked) {
        let confirmed = outcome == Outcome::Applied;
        let Some(marks) = self.made.remove(&id) else {
            // It may be told again after a restart, but not otherwise.
            if self.told.get(&id) != Some(&confirmed) {
                self.found(format!("mutation {id} was told as {outcome:?} and otherwise before"));
            }
            return;
        };
        self.told.insert(id, confirmed);
        let code = match outcome {
            Outcome::Applied => "confirmed".to_owned(),
            Outcome::Rejected { code, .. } => code,
        };
        *self.tally.outcomes.entry(code).or_default() += 1;
        let books = if confirmed { &mut self.tally.confirmed } else { &mut self.tally.rejected };
        books.extend(marks);
    }

    fn write(&mut self, rng: &mut StdRng) {
        let (first, second) = (self.mark(), self.mark());
        let entry = |id: &str, owner: &str, open: bool, body: &str| {
            let row = json!({ "id": id, "owner": owner, "open": open, "body": body, "mark": id });
            Op::insert("entry", row_of(row))
        };
        let user = self.user.clone();
        let known = self.entries.get(rng.random_range(0..self.entries.len().max(1))).cloned();
        let (ops, marks) = match (rng.random_range(0..12), known) {
            (0..3, _) => return self.retitle(rng.random_range(1..=40)),
            (3, _) => (vec![entry(&first, &user, true, "open")], vec![first]),
            (4, _) => {
                // All or nothing, of which the second is not allowed.
                let ops =
                    vec![entry(&first, &user, false, ""), entry(&second, "nobody", false, "")];
                (ops, vec![first, second])
            }
            (5, _) => {
                let ops =
                    vec![entry(&first, &user, false, ""), entry(&second, &user, false, "bad")];
                (ops, vec![first, second])
            }
            (6, Some(known)) => {
                let close = json!({ "id": known, "open": false, "mark": first });
                let ops = vec![
                    Op::update("entry", row_of(close)),
                    entry(&second, &user, rng.random(), "closes another"),
                ];
                (ops, vec![first, second])
            }
            (7, Some(known)) => {
                let ops = vec![
                    Op::delete("entry", row_of(json!({ "id": known }))),
                    entry(&first, &user, false, "takes a place"),
                ];
                (ops, vec![first])
            }
            _ if self.entries.len() >= KEPT_ENTRIES => {
                let oldest = self.entries.pop_front().unwrap_or_default();
                let ops = vec![
                    entry(&first, &user, false, "takes the oldest's place"),
                    Op::delete("entry", row_of(json!({ "id": oldest }))),
                ];
                (ops, vec![first])
            }
            _ => {
                self.entries.push_back(first.clone());
                (vec![entry(&first, &user, false, "plain")], vec![first])
            }
        };
        self.make(ops, marks);
    }

    fn mark(&mut self) -> String {
        self.marks += 1;
        format!("{}-{}", self.name, self.marks)
    }

    fn make(&mut self, ops: Vec<Op>, marks: Vec<String>) {
        match self.client.mutate(ops) {
            // One that was made just before the client went may not have been stored.
            Ok(id) => self.tally.rejected.extend(self.made.insert(id, marks).unwrap_or_default()),
            Err(error) => self.found(format!("cannot make a mutation: {error}")),
        }
    }
}

fn new_client_id() -> String {
    format!("scribe-{:016x}", rand::random::<u64>())
}

async fn open(options: &ClientOptions, path: &PathBuf) -> Client {
    let until = Instant::now() + PATIENCE;
    loop {
        match FileStorage::open(path) {
            Ok(storage) => {
                let client = Client::open(options.clone(), storage).await;
                return client.unwrap_or_else(|error| panic!("{error}"));
            }
            // The client before is still storing.
            Err(StorageError::Locked { .. }) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn row_of(value: Value) -> Row {
    match value {
        Value::Object(row) => row,
        other => panic!("{other} is not a row"),
    }
}

/// What is in one and not in the other, for a person.
fn difference(held: &Rows, expected: &Rows) -> String {
    let none = BTreeSet::new();
    let tables: BTreeSet<&String> = held.keys().chain(expected.keys()).collect();
    let differs = |table: &String| {
        let (held, expected) =
            (held.get(table).unwrap_or(&none), expected.get(table).unwrap_or(&none));
        let too_many: Vec<&String> = held.difference(expected).take(3).collect();
        let missing: Vec<&String> = expected.difference(held).take(3).collect();
        (held != expected).then(|| format!("{table}: holds {too_many:?}, misses {missing:?}"))
    };
    tables.into_iter().filter_map(differs).collect::<Vec<_>>().join("; ")
}
