//! A client process around the client's own state machine: what the Rust client does with sockets, timers
//! and files, done here with simulated ones. It crashes and comes back with the queue that it had stored,
//! and without its replica.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rowtide_client::{Acked, Op, Optimistic, Outcome, Record, Resumption, Row, Step};
use rowtide_protocol::{Mode, ServerMessage};
use serde_json::json;

use crate::data::{TABLES, USERS};
use crate::network::{Parcel, Side};
use crate::subscribing::Asked;
use crate::world::{Event, World};

/// How many mutations may be under way.
const WINDOW: u64 = 16;

pub struct Client {
    pub user: &'static str,
    pub optimistic: Optimistic,
    storage: Vec<Record>,
    pub running: bool,
    /// It does not come back.
    has_left: bool,
    /// Grows with every start.
    pub life: u64,
    pub connection: Option<u64>,
    /// The tables that it was told of last.
    pub tables: BTreeSet<usize>,
    /// Whether `ready` has come on this connection.
    pub live: bool,
    /// How many commits there were when it last was where everyone must be in the end.
    pub rested: Option<usize>,
    failures: u32,
    /// How many ids it has had.
    ids: u32,
    /// The tag of each mutation by its id.
    tags: BTreeMap<u64, u64>,
    storing: bool,
    /// What it asks for of what is synced on demand.
    pub asked: Asked,
}

impl Client {
    pub fn new(number: usize) -> Client {
        Client {
            user: USERS[number % USERS.len()],
            optimistic: Optimistic::new(format!("client-{number}-0")),
            storage: Vec::new(),
            running: true,
            has_left: false,
            life: 0,
            connection: None,
            tables: (0..TABLES.len()).collect(),
            live: false,
            rested: None,
            failures: 0,
            ids: 0,
            tags: BTreeMap::new(),
            storing: false,
            asked: Asked::default(),
        }
    }

    /// The tag of the first mutation that it was told nothing of.
    pub fn first_pending(&self) -> Option<u64> {
        let id = self.optimistic.pending().next()?;
        Some(self.tags[&id])
    }
}

impl World {
    fn is_other_life(&self, client: usize, life: u64) -> bool {
        !self.clients[client].running || self.clients[client].life != life
    }

    /// Connects to one of the servers, whichever it is led to.
    pub fn connect(&mut self, client: usize, life: u64) {
        if self.is_other_life(client, life) || self.clients[client].connection.is_some() {
            return;
        }
        let server = self.rng.random_range(0..self.servers.len());
        if !self.servers[server].running || self.servers[server].stopping.is_some() {
            return self.connect_later(client, None);
        }
        let id = self.network.open(client, server, self.servers[server].life);
        let user = self.clients[client].user;
        let state = &mut self.clients[client].optimistic;
        let Resumption { cursor, subscriptions } = state.resume();
        if cursor.is_some() && !subscriptions.is_empty() {
            self.seen.count("subscriptions that come back");
        }
        let connect = json!({
            "type": "connect",
            "protocol": 1,
            "clientId": state.client_id(),
            "token": user,
            "cursor": cursor,
            "subscriptions": subscriptions,
            "settled": state.acked(),
            "acked": state.spent(),
            // Every other connection takes deflated frames.
            "accept": if life % 2 == client as u64 % 2 { &["deflate"][..] } else { &[] },
        });
        self.clients[client].connection = Some(id);
        if self.stormy && self.rng.random_bool(0.15) {
            // The way to the server has gone, and what was sent on it arrives late.
            self.seen.count("connections given up");
            let late_ms = self.now_ms + self.rng.random_range(100..5000);
            self.network.stall(id, Side::Server, late_ms);
            let heard = self.rng.random_range(0..1000);
            self.after(heard, Event::Close(id, Side::Client));
        }
        self.send(id, Side::Server, connect.to_string().into_bytes());
    }

    /// Waits as clients do: longer with each failure, and spread.
    fn connect_later(&mut self, client: usize, at_most_ms: Option<u64>) {
        let client_state = &mut self.clients[client];
        let ceiling = 30_000.min(500 << client_state.failures.min(10));
        client_state.failures += 1;
        let life = client_state.life;
        let delay = self.rng.random_range(0..=at_most_ms.unwrap_or(ceiling));
        self.after(delay, Event::Connect(client, life));
    }

    /// The connection is gone, as far as the client knows.
    pub fn lose_connection(&mut self, client: usize, at_most_ms: Option<u64>) {
        let Some(id) = self.clients[client].connection.take() else { return };
        self.clients[client].live = false;
        self.clients[client].optimistic.disconnected();
        self.end_connection(id, Side::Client);
        self.connect_later(client, at_most_ms);
    }

    pub fn client_receives(&mut self, client: usize, parcel: Parcel) {
        let text = match parcel {
            Parcel::Text(text) => text,
            Parcel::Ping => {
                if let Some(id) = self.clients[client].connection {
                    self.send_parcel(id, Side::Server, Parcel::Pong);
                }
                return;
            }
            Parcel::Pong => return,
            Parcel::End => return self.lose_connection(client, None),
        };
        self.say(|| format!("client {client} receives {text}"));
        let message = ServerMessage::parse(&text).expect("servers speak the protocol");
        if let ServerMessage::Error { code, retry_after_ms, .. } = &message {
            match code.as_str() {
                "restarting" | "unavailable" | "slow_consumer" | "timeout" => {}
                "rate_limit_exceeded" => self.seen.count("clients over their rate"),
                // A connection that was given up may be heard of after the one that took its place.
                "superseded" => self.seen.count("superseded by an earlier connection"),
                other => panic!("client {client} is told `{other}`"),
            }
            return self.lose_connection(client, *retry_after_ms);
        }
        match &message {
            ServerMessage::Connected(connected) => {
                let told = |table: &usize| connected.tables.contains_key(TABLES[*table]);
                self.clients[client].tables = (0..TABLES.len()).filter(told).collect();
                let resumed = connected.mode == Mode::Resume;
                let has_rows = self.clients[client].optimistic.cursor().is_some();
                self.seen.count(match (resumed, has_rows) {
                    (true, _) => "resumes",
                    (false, true) => "snapshots in place of older rows",
                    (false, false) => "first snapshots",
                });
            }
            ServerMessage::Ready { .. } => {
                self.clients[client].live = true;
                self.clients[client].failures = 0;
            }
            _ => {}
        }
        let step = self.clients[client].optimistic.apply(&message);
        let Step { acked, subscribed, refused, .. } =
            step.expect("a server's messages can be applied");
        self.told_of_subscriptions(client, &subscribed, &refused);
        if matches!(message, ServerMessage::Ready { .. }) {
            self.ask_for_comments(client);
        }
        for Acked { id, outcome, .. } in acked {
            let tag = self.clients[client].tags[&id];
            self.ledger.tell(tag, client, outcome == Outcome::Applied, self.postgres.now());
        }
        self.check_replica(client);
        self.store_later(client);
        self.send_pending(client);
    }

    fn send_pending(&mut self, client: usize) {
        let Some(id) = self.clients[client].connection else { return };
        while let Some(request) = self.clients[client].optimistic.next_subscription_request() {
            self.send(id, Side::Server, serde_json::to_vec(&request).unwrap());
        }
        while let Some(outgoing) = self.clients[client].optimistic.next_to_send(WINDOW) {
            self.seen.count("mutations sent");
            self.send(id, Side::Server, serde_json::to_vec(&outgoing).unwrap());
        }
    }

    fn store_later(&mut self, client: usize) {
        let state = &mut self.clients[client];
        let something = state.optimistic.unstored().len() + state.optimistic.outcomes().len() > 0;
        if something && !std::mem::replace(&mut state.storing, true) {
            let (delay, life) = (self.rng.random_range(1..40), state.life);
            self.after(delay, Event::Store(client, life));
        }
    }

    /// Writes what must last. Outcomes may be left for later.
    pub fn store(&mut self, client: usize, life: u64) {
        if self.is_other_life(client, life) {
            return;
        }
        let state = &mut self.clients[client];
        state.storing = false;
        let (all, outcomes) =
            (state.optimistic.unstored().len(), state.optimistic.outcomes().len());
        if self.rng.random_bool(0.1) {
            state.storage = state.optimistic.records();
            state.optimistic.stored(all);
            state.optimistic.outcomes_stored(outcomes);
        } else {
            state.storage.extend(state.optimistic.unstored().cloned());
            state.optimistic.stored(all);
            let count = self.rng.random_range(0..=outcomes);
            state.storage.extend(state.optimistic.outcomes().take(count).cloned());
            state.optimistic.outcomes_stored(count);
        }
        self.store_later(client);
        self.send_pending(client);
    }

    /// The person does something.
    pub fn make_mutation(&mut self, client: usize) {
        if !self.stormy || self.ledger.made >= self.most_mutations {
            return;
        }
        let delay = self.rng.random_range(100..4000);
        self.after(delay, Event::Mutate(client));
        if self.clients[client].running {
            if self.rng.random_bool(0.3) {
                self.look_at_others(client);
            }
            self.mutate(client, 2);
        }
    }

    /// A mutation of one operation, and up to so many more.
    pub fn mutate(&mut self, client: usize, more: usize) {
        self.ledger.made += 1;
        let tag = self.ledger.made;
        let user = self.clients[client].user;
        let ops = random_ops(&mut self.rng, tag, user, more);
        self.say(|| format!("client {client} makes mutation {tag}: {ops:?}"));
        let of_table = |op: &Op| {
            TABLES.iter().position(|table| op.on_row().is_some_and(|op| *table == op.table))
        };
        self.ledger.tables.insert(tag, ops.iter().filter_map(of_table).collect());
        let state = &mut self.clients[client];
        let (id, _) = state.optimistic.mutate(ops).expect("there is room for it");
        state.tags.insert(id, tag);
        self.store_later(client);
    }

    /// It goes for good.
    pub fn leave(&mut self, client: usize) {
        if let Some(id) = self.clients[client].connection.take() {
            self.end_connection(id, Side::Client);
        }
        let state = &mut self.clients[client];
        (state.running, state.has_left) = (false, true);
        state.life += 1;
    }

    /// The process ends, with all that was not stored.
    pub fn crash_client(&mut self, client: usize) {
        if !self.clients[client].running {
            return;
        }
        self.seen.count("client crashes");
        if let Some(id) = self.clients[client].connection.take() {
            self.vanish(id, Side::Client);
        }
        let state = &mut self.clients[client];
        state.running = false;
        state.life += 1;
        let delay = self.rng.random_range(50..4000);
        self.after(delay, Event::StartClient(client));
    }

    pub fn start_client(&mut self, client: usize) {
        let state = &mut self.clients[client];
        if state.has_left || std::mem::replace(&mut state.running, true) {
            return;
        }
        state.optimistic = match Optimistic::restore(&state.storage).expect("the queue is whole") {
            Some(restored) => restored,
            None => {
                state.ids += 1;
                Optimistic::new(format!("client-{client}-{}", state.ids))
            }
        };
        let last = state.storage.iter().map(|record| match record {
            Record::Mutation { id, .. } => *id,
            Record::Acked { id } | Record::Client { acked: id, .. } => *id,
            _ => 0,
        });
        let last = last.max().unwrap_or(0);
        state.tags.retain(|id, _| *id <= last);
        (state.live, state.storing, state.failures) = (false, false, 0);
        state.asked = Asked::default();
        let life = state.life;
        self.look_at_others(client);
        self.store_later(client);
        self.connect(client, life);
    }
}

/// A mutation: something of the user's own that bears the tag, and perhaps more.
fn random_ops(rng: &mut impl Rng, tag: u64, user: &str, more: usize) -> Vec<Op> {
    let mut ops = vec![random_op(rng, tag, user, true)];
    for _ in 0..rng.random_range(0..=more) {
        ops.push(random_op(rng, tag, user, false));
    }
    ops
}

fn random_op(rng: &mut impl Rng, tag: u64, user: &str, inserts: bool) -> Op {
    let table = TABLES[if rng.random_bool(0.15) { 1 } else { rng.random_range(2..4) }];
    let mut row = Row::new();
    row.insert("id".to_owned(), json!(rng.random_range(0..8)));
    let kind = if inserts { 0 } else { rng.random_range(0..3) };
    if kind < 2 {
        row.insert("mark".to_owned(), json!(tag));
    }
    if kind == 0 || kind == 1 && rng.random_bool(0.3) {
        row.insert("parent".to_owned(), json!(rng.random_range(0..4)));
        row.insert("hidden".to_owned(), json!(rng.random_bool(0.2)));
    }
    match kind {
        0 => {
            row.insert("person".to_owned(), json!(user));
            Op::insert(table, row)
        }
        1 => Op::update(table, row),
        _ => Op::delete(table, row),
    }
}
