//! The model's server. It does what the protocol promises, in the simplest way: it keeps every state of
//! its rows for ever.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::Rng;
use rand::rngs::SmallRng;
use rowtide_client::{Op, OpKind, Outgoing, Resumption, Row, SubscriptionRequest};
use rowtide_protocol::{ChangedRow, Connected, Mode, Rejected, ServerMessage, Subscribe, TableKey};
use serde_json::{Value, json};

/// RowMap by table and the values of their key.
pub type RowMap = BTreeMap<(String, String), Row>;

pub const TABLES: [(&str, &[&str]); 2] = [("note", &["id"]), ("mark", &["note", "person"])];
pub const USERS: [&str; 2] = ["ann", "bob"];
/// The table that is synced on demand.
const ON_DEMAND: &str = "mark";

/// What subscriptions select, by their ids: the marks of a note.
pub type Selected = BTreeMap<u64, Value>;

pub fn key(table: &str, row: &Row) -> (String, String) {
    let (_, columns) = TABLES.iter().find(|(name, _)| *name == table).unwrap();
    let values: Vec<&Value> = columns.iter().map(|column| &row[*column]).collect();
    (table.to_owned(), json!(values).to_string())
}

fn key_row(table: &str, row: &Row) -> Row {
    let (_, columns) = TABLES.iter().find(|(name, _)| *name == table).unwrap();
    columns.iter().map(|column| ((*column).to_owned(), row[*column].clone())).collect()
}

/// Whether the definition has the query.
fn is_known(subscribe: &Subscribe) -> bool {
    subscribe.query == "marks"
}

pub fn selected<'a>(of: impl IntoIterator<Item = &'a Subscribe>) -> Selected {
    of.into_iter().map(|subscribe| (subscribe.id, subscribe.params["note"].clone())).collect()
}

/// A cursor names the commit, the user and the subscriptions whose rows the client has.
fn write_cursor(at: usize, user: &str, held: &Selected) -> String {
    json!([at, user, held]).to_string()
}

pub fn read_cursor(text: &str, of: &str) -> (usize, Selected) {
    let (at, user, held): (usize, String, Selected) = serde_json::from_str(text).unwrap();
    assert_eq!(user, of, "a cursor of another user");
    (at, held)
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
    /// Whose rows the messages sent so far lead to.
    held: Selected,
    /// What `connect` named, until `ready`.
    named: Selected,
    joining: Selected,
    leaving: BTreeSet<u64>,
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

    /// What `user` may see as of a commit, and is sent with these subscriptions.
    pub fn view(&self, at: usize, user: &str, selected: &Selected) -> RowMap {
        let notes: Vec<&Value> = selected.values().collect();
        let sent = |((table, _), row): &(&(String, String), &Row)| {
            let visible = row["owner"] == user || row["owner"] == "all";
            visible && (table != ON_DEMAND || notes.contains(&&row["note"]))
        };
        let rows = self.states[at].rows.iter().filter(sent);
        rows.map(|(key, row)| (key.clone(), row.clone())).collect()
    }

    pub fn now(&self, user: &str, selected: &Selected) -> RowMap {
        self.view(self.head(), user, selected)
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
        from: &Resumption,
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
        let cursor = from.cursor.as_deref().map(|text| read_cursor(text, user));
        let (named, refused): (Vec<&Subscribe>, Vec<&Subscribe>) =
            from.subscriptions.iter().partition(|subscribe| is_known(subscribe));
        if let Some((_, held)) = &cursor {
            assert_eq!(&selected(&from.subscriptions), held, "what is held as of the cursor");
        }
        // A definition that has changed knows some no more.
        let forgotten = |_: &&&Subscribe| rng.random_bool(0.02);
        let (forgotten, named): (Vec<&Subscribe>, Vec<&Subscribe>) =
            named.iter().partition(forgotten);
        let refused = [refused, forgotten].concat();
        let named = selected(named);
        let resumed = cursor.filter(|_| refused.is_empty() && rng.random_bool(0.7));
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
            features: vec!["subscriptions".to_owned()],
        }));
        for subscribe in refused {
            self.refuse(subscribe.id);
        }
        let is_snapshot = resumed.is_none();
        let (at, held) = resumed.unwrap_or_default();
        self.session = Some(ModelSession {
            client_id: client_id.to_owned(),
            user: user.to_owned(),
            at,
            acked: last,
            ready: false,
            acked_at: self.head(),
            snapshot: is_snapshot,
            held,
            named,
            joining: Selected::new(),
            leaving: BTreeSet::new(),
        });
        Some(())
    }

    fn refuse(&mut self, id: u64) {
        let (code, message) = ("bad_request".to_owned(), "no".to_owned());
        self.sent.push_back(ServerMessage::SubscriptionError { id, code, message });
    }

    /// A client asks for more, or for less.
    pub fn subscription(&mut self, request: SubscriptionRequest) {
        let session = self.session.as_mut().unwrap();
        let is_there = |session: &ModelSession, id| {
            let of = [&session.held, &session.named, &session.joining];
            of.iter().any(|of| of.contains_key(&id))
        };
        match request {
            SubscriptionRequest::Subscribe(subscribe) => {
                assert!(!is_there(session, subscribe.id), "an id in use");
                if is_known(&subscribe) {
                    session.joining.extend(selected([&subscribe]));
                } else {
                    self.refuse(subscribe.id);
                }
            }
            SubscriptionRequest::Unsubscribe { id } if is_there(session, id) => {
                assert!(session.leaving.insert(id), "ended twice");
            }
            SubscriptionRequest::Unsubscribe { id } => self.refuse(id),
        }
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
            let settled = session.joining.is_empty() && session.leaving.is_empty();
            session.ready && session.at == self.head() && session.acked == last && settled
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
        if session.snapshot && !session.ready {
            let to = rng.random_range(session.acked_at..=head);
            let mut rows: BTreeMap<String, Vec<Row>> = BTreeMap::new();
            for ((table, _), row) in self.view(to, &user, &session.named) {
                rows.entry(table).or_default().push(row);
            }
            for (table, rows) in rows {
                for rows in rows.chunks(3) {
                    let (table, rows) = (table.clone(), rows.to_vec());
                    self.sent.push_back(ServerMessage::Snapshot { table, rows });
                }
            }
            let cursor = write_cursor(to, &user, &session.named);
            self.sent.push_back(ServerMessage::Ready { cursor });
            let session = self.session.as_mut().unwrap();
            (session.at, session.ready) = (to, true);
            session.held = std::mem::take(&mut session.named);
            return;
        }
        if !session.ready && session.at >= session.acked_at && rng.random_bool(0.5) {
            let cursor = write_cursor(session.at, &user, &session.held);
            self.sent.push_back(ServerMessage::Ready { cursor });
            let session = self.session.as_mut().unwrap();
            session.ready = true;
            session.named.clear();
            return;
        }
        // Some of what is asked for comes with this step, and some of what is not any more goes.
        let joins = session.joining.clone().into_iter();
        let joins: Selected = joins.filter(|_| session.ready && rng.random_bool(0.6)).collect();
        let mut after_joins = session.held.clone();
        after_joins.extend(joins.clone());
        let goes = |id: &u64| session.ready && after_joins.contains_key(id);
        let leaves: BTreeSet<u64> = session.leaving.iter().copied().filter(goes).collect();
        let leaves: BTreeSet<u64> = leaves.into_iter().filter(|_| rng.random_bool(0.6)).collect();
        let mut held = after_joins;
        held.retain(|id, _| !leaves.contains(id));
        let last = self.states[to].last.get(&client_id).copied().unwrap_or(0);
        // Sometimes there is no `ack`, or the last one is sent again.
        let ack = (last > session.acked || rng.random_bool(0.1)).then_some(last);
        if to == session.at && ack.is_none() && joins.is_empty() && leaves.is_empty() {
            return;
        }
        let before = self.view(session.at, &user, &session.held);
        let after = self.view(to, &user, &held);
        let cursor = write_cursor(to, &user, &held);
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
        session.held = held;
        session.joining.retain(|id, _| !joins.contains_key(id));
        session.leaving.retain(|id| !leaves.contains(id));
        self.sent.push_back(ServerMessage::Tx {
            cursor,
            changes,
            ack,
            commit_time: None,
            keys: Vec::new(),
            subscribed: joins.into_keys().collect(),
            unsubscribed: leaves.into_iter().collect(),
        });
    }
}
