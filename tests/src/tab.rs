//! A tab of the application as its older clients behave: what a person does within 50 ms becomes one mutation; it is
//! sent once, and dropped where there is no connection; a tab comes back by itself, under the same `sessionId`, and
//! with a token that lasts only as long as the connect takes. Until the tab is told what became of a mutation it shows
//! its effects over the rows that it holds, so one of which it is never told hides what others write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rowtide::auth::sign;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::SECRET;

/// Within this what a person does is one mutation.
const BATCH: Duration = Duration::from_millis(50);
/// How long a connect may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The pause before the next connect: those clients take 500 to 2,000 ms.
const PAUSE_MS: std::ops::Range<u64> = 100..500;
/// How long tokens last.
const TOKEN: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A mutation of which the tab does not know yet what became of it.
#[derive(Clone, Debug)]
struct Pending {
    name: String,
    /// What must have been among the rows, once it is told that it was applied: a table, a key and a value.
    shows: Vec<(String, String, Value)>,
    /// On which connection it was sent.
    connection: u64,
}

/// What a tab has seen.
#[derive(Debug, Default)]
struct Seen {
    /// Rows by table and key.
    rows: BTreeMap<(String, String), Value>,
    /// Every value that was ever in the column of each row that mutations write.
    values: BTreeSet<(String, String, String)>,
    pending: Vec<Pending>,
    /// How many connections there were, and whether the last one is live.
    connections: u64,
    live: bool,
    /// What was told of own mutations: `None` for applied.
    told: BTreeMap<String, Option<String>>,
    tally: TabTally,
    wrong: Vec<String>,
}

/// What became of what was done in a tab, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TabTally {
    /// Mutations that were written to a socket.
    pub sent: usize,
    /// Mutations that were dropped, because there was no connection.
    pub dropped: usize,
    /// Of those sent, how many were applied.
    pub applied: usize,
    /// Of those sent, how many were rejected.
    pub rejected: usize,
    /// Of both, of how many the tab was told on a later connection.
    pub told_later: usize,
    /// Rejections that were told again.
    pub told_again: usize,
    /// Connections.
    pub connections: u64,
}

/// What the tab is to do.
enum Task {
    Do(Vec<Value>),
    /// Lose the connection: close it, or leave it behind as it is.
    Lose {
        closed: bool,
    },
}

/// One tab.
pub struct Tab {
    /// The user.
    pub user: String,
    seen: Arc<Mutex<Seen>>,
    tasks: mpsc::UnboundedSender<Task>,
    running: tokio::task::JoinHandle<()>,
}

impl Tab {
    /// Opens a tab of `user` at a server or whatever leads to one, such as `127.0.0.1:4400`.
    pub fn open(address: impl Into<String>, user: &str, session: &str) -> Tab {
        let (tasks, to_do) = mpsc::unbounded_channel();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let tab = Running {
            address: address.into(),
            user: user.to_owned(),
            session: session.to_owned(),
            seen: Arc::clone(&seen),
            to_do,
            batch: Vec::new(),
            send_at: None,
            made: 0,
            left: Vec::new(),
        };
        Tab { user: user.to_owned(), seen, tasks, running: tokio::spawn(tab.run()) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The person does something: `{table, event, row}` each.
    pub fn act(&self, updates: Vec<Value>) {
        drop(self.tasks.send(Task::Do(updates)));
    }

    /// Loses the connection; if it is not closed, the server does not hear of that.
    pub fn lose_connection(&self, closed: bool) {
        drop(self.tasks.send(Task::Lose { closed }));
    }

    /// Whether it has its rows.
    pub fn is_live(&self) -> bool {
        self.seen().live
    }

    /// The names of the mutations of which it was not told what became of them.
    pub fn pending(&self) -> Vec<String> {
        self.seen().pending.iter().map(|pending| pending.name.clone()).collect()
    }

    /// What was told of own mutations, by name: the code of those that were rejected.
    pub fn told(&self) -> BTreeMap<String, Option<String>> {
        self.seen().told.clone()
    }

    /// The rows of a table, as JSON with sorted keys.
    pub fn rows(&self, table: &str) -> BTreeSet<String> {
        let seen = self.seen();
        let of = seen.rows.iter().filter(|((of, _), _)| of == table);
        of.map(|(_, row)| row.to_string()).collect()
    }

    /// What became of what was done in it.
    pub fn tally(&self) -> TabTally {
        let seen = self.seen();
        TabTally { connections: seen.connections, ..seen.tally.clone() }
    }

    /// What was not as it must be.
    pub fn wrong(&self) -> Vec<String> {
        self.seen().wrong.clone()
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        self.running.abort();
    }
}

struct Running {
    address: String,
    user: String,
    session: String,
    seen: Arc<Mutex<Seen>>,
    to_do: mpsc::UnboundedReceiver<Task>,
    batch: Vec<Value>,
    send_at: Option<Instant>,
    made: u64,
    /// Connections that were left behind.
    left: Vec<Socket>,
}

impl Running {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(mut self) {
        loop {
            if let Some(socket) = self.connect().await {
                self.live(socket).await;
            }
            self.seen().live = false;
            let back = Instant::now() + Duration::from_millis(rand::random_range(PAUSE_MS));
            self.wait_until(back).await;
        }
    }

    async fn connect(&mut self) -> Option<Socket> {
        let token = sign(SECRET, &self.user, TOKEN).expect("a token can be signed");
        let (address, user, session) = (&self.address, &self.user, &self.session);
        let url =
            format!("ws://{address}/app/{user}/connect?sessionId={session}&accessToken={token}");
        timeout(CONNECT, connect_async(url)).await.ok()?.ok().map(|(socket, _)| socket)
    }

    /// Waits without a connection.
    async fn wait_until(&mut self, until: Instant) {
        loop {
            let send_at = self.send_at;
            tokio::select! {
                () = sleep_until(until) => return,
                task = self.to_do.recv() => match task {
                    Some(Task::Do(updates)) => self.collect(updates),
                    Some(Task::Lose { .. }) => {}
                    None => std::future::pending().await,
                },
                () = at(send_at) => drop(self.take_batch()),
            }
        }
    }

    async fn live(&mut self, mut socket: Socket) {
        self.seen().connections += 1;
        loop {
            let send_at = self.send_at;
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        let message = serde_json::from_str(&text).expect("servers speak JSON");
                        self.seen().hear(&message);
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => {}
                },
                task = self.to_do.recv() => match task {
                    Some(Task::Do(updates)) => self.collect(updates),
                    Some(Task::Lose { closed: true }) => return,
                    Some(Task::Lose { closed: false }) => return self.left.push(socket),
                    None => std::future::pending().await,
                },
                () = at(send_at) => {
                    if let Some((name, updates)) = self.take_batch() {
                        let sent = json!({
                            "type": "mutate", "mutationId": name, "updates": updates
                        });
                        // Whether it arrives nobody knows.
                        drop(socket.send(Message::text(sent.to_string())).await);
                    }
                }
            }
        }
    }

    fn collect(&mut self, updates: Vec<Value>) {
        self.batch.extend(updates);
        self.send_at.get_or_insert(Instant::now() + BATCH);
    }

    /// What is to be sent now, if there is a connection.
    fn take_batch(&mut self) -> Option<(String, Vec<Value>)> {
        self.send_at = None;
        let updates = std::mem::take(&mut self.batch);
        self.made += 1;
        let name = format!("{}-{}", self.session, self.made);
        let mut seen = self.seen();
        if !seen.live {
            seen.tally.dropped += 1;
            return None;
        }
        seen.tally.sent += 1;
        let connection = seen.connections;
        let shows = shows(&updates);
        seen.pending.push(Pending { name: name.clone(), shows, connection });
        drop(seen);
        Some((name, updates))
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => sleep(Duration::MAX).await,
    }
}

/// The column whose values tell of a mutation: each is written once. A state may be gone, and then nothing is written.
fn mark(table: &str) -> Option<&'static str> {
    (table == "file").then_some("name")
}

/// What the last of a batch's updates of each row makes of it.
fn shows(updates: &[Value]) -> Vec<(String, String, Value)> {
    let mut shows = BTreeMap::new();
    for update in updates {
        let (table, row) = (update["table"].as_str().expect("a table"), &update["row"]);
        let place = (table.to_owned(), key(table, row));
        let value = mark(table).and_then(|mark| row.get(mark)).cloned();
        match value {
            Some(value) => drop(shows.insert(place, value)),
            None if update["event"] == "delete" => drop(shows.remove(&place)),
            None => {}
        }
    }
    shows.into_iter().map(|((table, key), value)| (table, key, value)).collect()
}

fn key(table: &str, row: &Value) -> String {
    let text = |column: &str| row[column].as_str().unwrap_or_default();
    match table {
        "file_state" => format!("{}/{}", text("userId"), text("fileId")),
        _ => text("id").to_owned(),
    }
}

impl Seen {
    fn hear(&mut self, message: &Value) {
        match message["type"].as_str() {
            Some("initial_data") => self.begin(&message["initialData"]),
            Some("update") => self.update(&message["update"]),
            Some("commit") => {
                for name in message["mutationIds"].as_array().into_iter().flatten() {
                    self.note_outcome(name.as_str().unwrap_or_default(), None);
                }
            }
            Some("reject") => {
                let code = message["errorCode"].as_str().unwrap_or_default().to_owned();
                let name = message["mutationId"].as_str().unwrap_or_default();
                self.note_outcome(name, Some(code));
            }
            other => self.wrong.push(format!("a message of type {other:?}")),
        }
    }

    fn begin(&mut self, data: &Value) {
        self.rows.clear();
        self.live = true;
        if !data["user"].is_null() {
            self.put("user", &data["user"]);
        }
        for (table, rows) in [("file", &data["files"]), ("file_state", &data["fileStates"])] {
            rows.as_array().into_iter().flatten().for_each(|row| self.put(table, row));
        }
    }

    fn put(&mut self, table: &str, row: &Value) {
        let key = key(table, row);
        if let Some(value) = mark(table).and_then(|mark| row.get(mark)) {
            self.values.insert((table.to_owned(), key.clone(), value.to_string()));
        }
        self.rows.insert((table.to_owned(), key), row.clone());
    }

    fn update(&mut self, update: &Value) {
        if !self.live {
            self.wrong.push("an update before `initial_data`".to_owned());
        }
        let table = update["table"].as_str().unwrap_or_default();
        let place = (table.to_owned(), key(table, &update["row"]));
        let is_there = self.rows.contains_key(&place);
        let event = update["event"].as_str().unwrap_or_default();
        if is_there != (event != "insert") {
            self.wrong.push(format!("`{event}` of {place:?}, which is there: {is_there}"));
        }
        match event {
            "delete" => drop(self.rows.remove(&place)),
            _ => self.put(table, &update["row"]),
        }
    }

    fn note_outcome(&mut self, name: &str, rejected: Option<String>) {
        let Some(at) = self.pending.iter().position(|pending| pending.name == name) else {
            if let Some(before) = self.told.get(name) {
                if *before != rejected {
                    let what = format!("{name} was {before:?}, and is now {rejected:?}");
                    self.wrong.push(what);
                }
                self.tally.told_again += usize::from(rejected.is_some());
            }
            return;
        };
        let pending = self.pending.remove(at);
        self.told.insert(name.to_owned(), rejected.clone());
        self.tally.told_later += usize::from(pending.connection != self.connections);
        if rejected.is_some() {
            self.tally.rejected += 1;
            return;
        }
        self.tally.applied += 1;
        if pending.connection != self.connections {
            return;
        }
        for (table, key, value) in pending.shows {
            if !self.values.contains(&(table.clone(), key.clone(), value.to_string())) {
                let what = format!("{name} is told before its effect on {table} {key}");
                self.wrong.push(what);
            }
        }
    }
}
