//! The model's server. It does what the protocol promises, in the simplest way: it keeps every state of
//! its rows for ever.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::Rng;
use rand::rngs::SmallRng;
use rowtide_client::{Op, OpKind, Outgoing, Row};
use rowtide_protocol::{ChangedRow, Connected, Mode, Rejected, ServerMessage, TableKey};
use serde_json::{Value, json};

/// RowMap by table and the values of their key.
pub type RowMap = BTreeMap<(String, String), Row>;

pub const TABLES: [(&str, &[&str]); 2] = [("note", &["id"]), ("mark", &["note", "person"])];
pub const USERS: [&str; 2] = ["ann", "bob"];

pub fn key(table: &str, row: &Row) -> (String, String) {
    let (_, columns) = TABLES.iter().find(|(name, _)| *name == table).unwrap();
    let values: Vec<&Value> = columns.iter().map(|column| &row[*column]).collect();
    (table.to_owned(), json!(values).to_string())
}

fn key_row(table: &str, row: &Row) -> Row {
    let (_, columns) = TABLES.iter().find(|(name, _)| *name == table).unwrap();
    columns.iter().map(|column| ((*column).to_owned(), row[*column].clone())).collect()
}

/// What the database has of one client id.
#[derive(Clone, Default)]
pub struct ClientRow {
    pub user: String,
    pub last: u64,
    pub rejections: Vec<Rejected>,
    pub applied: BTreeSet<u64>,
    /// What each number was first sent with. It must never be sent with anything else.
    pub seen: BTreeMap<u64, Vec<Op>>,
}

#[derive(Clone, Default)]
struct Commit {
    rows: RowMap,
    last: BTreeMap<String, u64>,
}

pub struct ModelSession {
    pub client_id: String,
    user: String,
    /// The commit that the messages sent so far lead to.
    at: usize,
    acked: u64,
    ready: bool,
    /// `ready` cannot come before the effects of the mutations that `connected` acknowledged.
    acked_at: usize,
    snapshot: bool,
}

pub struct ModelServer {
    /// Every committed state.
    states: Vec<Commit>,
    pub clients: BTreeMap<String, ClientRow>,
    /// The mutations of each client that are not judged yet. They outlive the connection.
    work: BTreeMap<String, VecDeque<Outgoing>>,
    pub session: Option<ModelSession>,
    /// What is on its way to the client.
    pub sent: VecDeque<ServerMessage>,
    writes: u64,
}

impl ModelServer {
    pub fn new() -> ModelServer {
        ModelServer {
            states: vec![Commit::default()],
            clients: BTreeMap::new(),
            work: BTreeMap::new(),
            session: None,
            sent: VecDeque::new(),
            writes: 0,
        }
    }

    fn head(&self) -> usize {
        self.states.len() - 1
    }

    /// What `user` may see as of a commit.
    pub fn view(&self, at: usize, user: &str) -> RowMap {
        let visible = |row: &Row| row["owner"] == user || row["owner"] == "all";
        let rows = self.states[at].rows.iter().filter(|(_, row)| visible(row));
        rows.map(|(key, row)| (key.clone(), row.clone())).collect()
    }

    pub fn now(&self, user: &str) -> RowMap {
        self.view(self.head(), user)
    }

    fn commit(&mut self, rows: RowMap) {
        let last = self.clients.iter().map(|(id, client)| (id.clone(), client.last)).collect();
        self.states.push(Commit { rows, last });
    }

    /// Others write some rows.
    pub fn others_write(&mut self, rng: &mut SmallRng) {
        let mut rows = self.states[self.head()].rows.clone();
        for _ in 0..rng.random_range(1..4) {
            self.write(&mut rows, &crate::random_op(rng), true);
        }
        self.commit(rows);
    }

    /// One operation; whether there was a row for it.
    fn write(&mut self, rows: &mut RowMap, op: &Op, upsert: bool) -> bool {
        self.writes += 1;
        let op = op.on_row().expect("nobody calls anything here");
        let key = key(&op.table, &op.row);
        let there = rows.contains_key(&key);
        if op.kind == OpKind::Delete {
            return rows.remove(&key).is_some();
        }
        if op.kind == OpKind::Update && !there && !upsert {
            return false;
        }
        let row = rows.entry(key).or_default();
        row.entry("owner").or_insert_with(|| json!("all"));
        row.extend(op.row.clone());
        // As a trigger would: no client can know it before it comes.
        row.insert("version".to_owned(), json!(self.writes));
        true
    }

    /// `None`: the client id belongs to another user.
    pub fn connect(
        &mut self,
        client_id: &str,
        user: &str,
        cursor: Option<&str>,
        acked: Option<u64>,
        rng: &mut SmallRng,
    ) -> Option<()> {
        self.cut(rng);
        let client = self.clients.entry(client_id.to_owned()).or_default();
        if client.user.is_empty() {
            user.clone_into(&mut client.user);
        }
        if client.user != user {
            return None;
        }
        let acked = acked.unwrap_or(0);
        assert!(acked <= client.last, "the client knows what has not happened");
        let mut rejections = client.rejections.clone();
        rejections.retain(|rejection| rejection.id > acked);
        let last = client.last;
        let resumed = cursor.filter(|_| rng.random_bool(0.7)).map(|cursor| {
            let (at, of) = cursor.split_once('@').unwrap();
            assert_eq!(of, user, "a cursor of another user");
            at.parse::<usize>().unwrap()
        });
        let tables = TABLES.iter().map(|(table, key)| {
            let key = key.iter().map(|column| (*column).to_owned()).collect();
            ((*table).to_owned(), TableKey { key })
        });
        self.sent.push_back(ServerMessage::Connected(Connected {
            protocol: 1,
            user_id: Some(user.to_owned()),
            mode: if resumed.is_some() { Mode::Resume } else { Mode::Snapshot },
            last_mutation: last,
            rejected: rejections,
            tables: tables.collect(),
            keys: Vec::new(),
        }));
        self.session = Some(ModelSession {
            client_id: client_id.to_owned(),
            user: user.to_owned(),
            at: resumed.unwrap_or(0),
            acked: last,
            ready: false,
            acked_at: self.head(),
            snapshot: resumed.is_none(),
        });
        Some(())
    }

    /// The connection is lost, with all messages that were on their way. Sometimes the server loses the
    /// mutations that it has received too.
    pub fn cut(&mut self, rng: &mut SmallRng) {
        self.sent.clear();
        self.session = None;
        if rng.random_bool(0.3) {
            self.work.clear();
        }
    }

    pub fn receive(&mut self, outgoing: Outgoing) {
        let client_id = self.session.as_ref().unwrap().client_id.clone();
        let seen = &mut self.clients.get_mut(&client_id).unwrap().seen;
        let first = seen.entry(outgoing.number).or_insert_with(|| outgoing.ops.to_vec());
        assert_eq!(*first, *outgoing.ops, "another mutation under the same number");
        self.work.entry(client_id).or_default().push_back(outgoing);
    }

    pub fn idle(&self) -> bool {
        let done = self.session.as_ref().is_some_and(|session| {
            let last = self.clients[&session.client_id].last;
            session.ready && session.at == self.head() && session.acked == last
        });
        done && self.sent.is_empty() && self.work.values().all(VecDeque::is_empty)
    }

    /// Judges one mutation of some client.
    pub fn judge(&mut self, rng: &mut SmallRng) {
        let waiting = self.work.iter().filter(|(_, work)| !work.is_empty());
        let waiting: Vec<String> = waiting.map(|(client_id, _)| client_id.clone()).collect();
        if waiting.is_empty() {
            return;
        }
        let client_id = waiting[rng.random_range(0..waiting.len())].clone();
        let Some(Outgoing { number, ops }) = self.work.get_mut(&client_id).unwrap().pop_front()
        else {
            return;
        };
        let client = &self.clients[&client_id];
        if number <= client.last {
            let rejection =
                client.rejections.iter().find(|rejection| rejection.id == number).cloned();
            self.send_reject(&client_id, rejection);
            return;
        }
        assert_eq!(number, client.last + 1, "a gap");
        let mut rows = self.states[self.head()].rows.clone();
        let fits = ops.iter().all(|op| self.write(&mut rows, op, false));
        let rejected = !fits || rng.random_bool(0.15);
        let client = self.clients.get_mut(&client_id).unwrap();
        client.last = number;
        if rejected {
            let code = if fits { "forbidden" } else { "not_found" };
            let (code, message) = (code.to_owned(), "no".to_owned());
            client.rejections.push(Rejected { id: number, code, message });
            let rejection = client.rejections.last().cloned();
            rows = self.states[self.head()].rows.clone();
            self.commit(rows);
            self.send_reject(&client_id, rejection);
        } else {
            assert!(client.applied.insert(number), "applied twice");
            self.commit(rows);
        }
    }

    /// Sends a rejection to the newest connection of the client.
    fn send_reject(&mut self, client_id: &str, rejection: Option<Rejected>) {
        let session = self.session.as_ref().filter(|session| session.client_id == client_id);
        if let (Some(rejection), Some(_)) = (rejection, session) {
            self.sent.push_back(ServerMessage::Reject(rejection));
        }
    }

    /// Sends the session its next message.
    pub fn step(&mut self, rng: &mut SmallRng) {
        let head = self.head();
        let Some(session) = &self.session else { return };
        let (user, client_id) = (session.user.clone(), session.client_id.clone());
        let to = rng.random_range(session.at..=head);
        let cursor = format!("{to}@{user}");
        if session.snapshot && !session.ready {
            let to = rng.random_range(session.acked_at..=head);
            let mut rows: BTreeMap<String, Vec<Row>> = BTreeMap::new();
            for ((table, _), row) in self.view(to, &user) {
                rows.entry(table).or_default().push(row);
            }
            for (table, rows) in rows {
                for rows in rows.chunks(3) {
                    let (table, rows) = (table.clone(), rows.to_vec());
                    self.sent.push_back(ServerMessage::Snapshot { table, rows });
                }
            }
            self.sent.push_back(ServerMessage::Ready { cursor: format!("{to}@{user}") });
            let session = self.session.as_mut().unwrap();
            (session.at, session.ready) = (to, true);
            return;
        }
        if !session.ready && session.at >= session.acked_at && rng.random_bool(0.5) {
            self.sent.push_back(ServerMessage::Ready { cursor: format!("{}@{user}", session.at) });
            self.session.as_mut().unwrap().ready = true;
            return;
        }
        let last = self.states[to].last.get(&client_id).copied().unwrap_or(0);
        // Sometimes there is no `ack`, or the last one is sent again.
        let ack = (last > session.acked || rng.random_bool(0.1)).then_some(last);
        if to == session.at && ack.is_none() {
            return;
        }
        let (before, after) = (self.view(session.at, &user), self.view(to, &user));
        let mut changes = Vec::new();
        for ((table, _), row) in before.iter().filter(|(key, _)| !after.contains_key(*key)) {
            changes.push(ChangedRow::Delete { table: table.clone(), row: key_row(table, row) });
        }
        for (key, row) in &after {
            // Sometimes a row that has not changed is sent too.
            if before.get(key) != Some(row) || rng.random_bool(0.05) {
                if rng.random_bool(0.1) {
                    let row = key_row(&key.0, row);
                    changes.push(ChangedRow::Delete { table: key.0.clone(), row });
                }
                changes.push(ChangedRow::Put { table: key.0.clone(), row: row.clone() });
            }
        }
        let session = self.session.as_mut().unwrap();
        session.at = to;
        session.acked = session.acked.max(last);
        self.sent.push_back(ServerMessage::Tx {
            cursor,
            changes,
            ack,
            commit_time: None,
            keys: Vec::new(),
            subscribed: Vec::new(),
            unsubscribed: Vec::new(),
        });
    }
}
