//! A server process: the sessions, the engines with what waits for each, the loads and the questions to
//! the log. It may be killed between any two events, and everything in here is gone then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use futures_util::FutureExt;
use rand::Rng;
use rowtide_engine::{
    Engine, HistoryId, HistoryRequest, Input, Load, Opening, Output, Place, SessionId,
};
use rowtide_feed::{
    Acknowledgement, Event as FeedEvent, FeedEnded, Generation, History, HistoryQuery, Subscription,
};
use rowtide_plan::compile::compile_partly;
use rowtide_plan::plan::Plan;
use rowtide_protocol::{
    ClientMessage, Connect, Cursor, ErrorCode, Lsn, Refusal, connected_frame, error_frame,
    ready_frame, reject_frame, snapshot_frame, tx_frame,
};
use serde_json::Map;

use crate::data::{TABLES, USERS, definition, tables_json};
use crate::disk::Entry;
use crate::feed::{Asked, ServerFeed, answered};
use crate::network::{Parcel, Side};
use crate::postgres::Unreadable;
use crate::postgres::catalog::Facts;
use crate::replicator::Stream;
use crate::world::{At, Event, World};
use crate::writer::Queue;

/// How much may wait for a client that does not read.
const OUTBOX: usize = 8;
/// About how many bytes of rows are in one frame of a snapshot.
const SLICE_BYTES: usize = 200;
/// How much may be on its way on one connection.
const UNDER_WAY: usize = 6;
/// How many bytes of rows an engine holds: so few that rows are forgotten now and then.
const ROW_BUDGET: usize = 2_000;

#[derive(Default)]
pub struct Server {
    /// Grows with every start and every end, so that what was meant for an earlier life is known.
    pub life: u64,
    pub running: bool,
    pub generation: Option<Arc<Generation>>,
    /// How many there were.
    pub generations: u64,
    /// It was asked to stop, and writes what it still has.
    pub stopping: bool,
    /// None while it stands by.
    pub engines: Vec<EngineThread>,
    /// By connection.
    pub sessions: BTreeMap<u64, Session>,
    /// The mutations of each session, also of those that have ended.
    pub queues: BTreeMap<u64, Queue>,
    /// What is not durable yet.
    pub log_queue: VecDeque<Entry>,
    pub writing: bool,
    pub stream: Option<Stream>,
    pub feed: ServerFeed,
    /// Why the next stream cannot be the continuation of the log, if it cannot.
    pub broken: Option<&'static str>,
    pub tables: Option<Compiled>,
}

/// What a server has read of the tables, and made of it.
#[derive(Clone)]
pub struct Compiled {
    pub plan: Arc<Plan>,
    pub facts: Vec<Facts>,
    pub refused: BTreeSet<usize>,
    pub read_at: Lsn,
}

pub struct EngineThread {
    pub engine: Engine,
    subscription: Subscription,
    /// What was asked of the log.
    histories: Vec<(HistoryId, Asked<History>)>,
    /// Until then it is slow.
    slow_until_ms: u64,
    inbox: VecDeque<Input>,
    woken: bool,
    gathering: bool,
    loading: bool,
    turn: u64,
}

pub struct Session {
    pub client: String,
    pub user: String,
    /// Set once it is known whose the client id is.
    engine: Option<usize>,
    /// The last mutation that was settled when the client came.
    pub last: u64,
    /// Up to this one the client was told what became of its mutations.
    told: u64,
    refused: Vec<Refusal>,
    outbox: VecDeque<Output>,
    draining: bool,
}

impl World {
    /// Whether something was meant for a server that is not there any more.
    pub fn is_gone(&self, at: At) -> bool {
        let server = &self.servers[at.server];
        !server.running || server.life != at.life
    }

    /// What there is to follow has changed: engines of another generation end, and those of this one begin.
    pub fn generation(&mut self, at: At) {
        if self.is_gone(at) {
            return;
        }
        let server = &mut self.servers[at.server];
        let generation = server.feed.feed.state().generation;
        let same = match (&server.generation, &generation) {
            (Some(serving), Some(generation)) => Arc::ptr_eq(serving, generation),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        self.end_engines(at);
        self.servers[at.server].generation = None;
        let Some(generation) = generation else { return };
        let count = self.rng.random_range(1..=2);
        let Generation { epoch, plan, position, recent } = &*generation;
        let thread = |_| {
            Ok(EngineThread {
                engine: Engine::new(Arc::clone(plan), *epoch, *position, recent, ROW_BUDGET),
                subscription: self.servers[at.server]
                    .feed
                    .feed
                    .subscribe(&generation, *position)?,
                histories: Vec::new(),
                slow_until_ms: 0,
                inbox: VecDeque::new(),
                woken: false,
                gathering: false,
                loading: false,
                turn: 0,
            })
        };
        let threads: Result<Vec<EngineThread>, FeedEnded> = (0..count).map(thread).collect();
        // It has ended again, so there will be another look.
        let Ok(threads) = threads else { return };
        let server = &mut self.servers[at.server];
        (server.engines, server.generation) = (threads, Some(generation));
        server.generations += 1;
        let generations = server.generations;
        self.after(1000, Event::Tick(at, generations));
        (0..count).for_each(|engine| self.wake_engine(at, engine));
    }

    pub fn plan_of(&self, at: At) -> Arc<Plan> {
        let tables = self.servers[at.server].tables.as_ref();
        Arc::clone(&tables.expect("nothing is served before the tables were read").plan)
    }

    /// Reads the tables as they can be seen, and compiles what fits.
    pub fn read_tables(&self) -> Compiled {
        let visible = &self.postgres.visible;
        let facts: Vec<Facts> = (0..TABLES.len()).map(|t| visible.catalog.facts(t)).collect();
        let mut catalog = visible.catalog.read();
        // Where the stream or loads would not tell all of a table, it is as if it was not there.
        let fit = |name: &str| {
            let table = TABLES.iter().position(|table| *table == name);
            table.is_some_and(|table| visible.catalog.serves(table))
        };
        catalog.tables.retain(|table| fit(&table.name));
        let (plan, refused) = compile_partly(&definition(), &catalog);
        let number = |(name, _): &(String, _)| TABLES.iter().position(|table| table == name);
        let refused = refused.iter().filter_map(number).collect();
        Compiled { plan: Arc::new(plan), facts, refused, read_at: self.postgres.wal_end }
    }

    /// The engines' feed is over: there is another generation, or the log does not go back to where they
    /// are, and then there must be another.
    fn end_generation_of_engines(&mut self, at: At) {
        let server = &mut self.servers[at.server];
        let current = server.feed.feed.state().generation;
        let (Some(serving), Some(current)) = (&server.generation, &current) else { return };
        if Arc::ptr_eq(serving, current) {
            self.renew_generation(at);
        }
    }

    /// The engines end, and every session with them.
    pub fn end_engines(&mut self, at: At) {
        let sessions: Vec<u64> = self.servers[at.server].sessions.keys().copied().collect();
        for session in sessions {
            self.end_session(at, session, Some(ErrorCode::Restarting));
        }
        self.servers[at.server].engines.clear();
    }

    pub fn give(&mut self, at: At, engine: usize, input: Input) {
        let Some(thread) = self.servers[at.server].engines.get_mut(engine) else { return };
        thread.inbox.push_back(input);
        self.wake_engine(at, engine);
    }

    pub fn wake_engine(&mut self, at: At, engine: usize) {
        let Some(thread) = self.servers[at.server].engines.get_mut(engine) else { return };
        if !std::mem::replace(&mut thread.woken, true) {
            let slow = thread.slow_until_ms.saturating_sub(self.now_ms);
            let delay = slow.max(self.rng.random_range(0..15));
            self.after(delay, Event::Engine(at, engine));
        }
    }

    /// One engine has much to do for a while, or its machine is busy.
    pub fn slow_engine(&mut self, server: usize) {
        let until_ms = self.now_ms + self.rng.random_range(500..10_000);
        if let Some(thread) = self.servers[server].engines.first_mut() {
            self.seen.count("slow engines");
            thread.slow_until_ms = until_ms;
        }
    }

    pub fn tick(&mut self, at: At, generations: u64) {
        if self.is_gone(at) || self.servers[at.server].generations != generations {
            return;
        }
        for engine in 0..self.servers[at.server].engines.len() {
            let thread = &mut self.servers[at.server].engines[engine];
            thread.turn += if self.rng.random_bool(0.05) { 299 } else { 1 };
            let turn = thread.turn;
            self.give(at, engine, Input::Tick(turn));
        }
        self.after(1000, Event::Tick(at, generations));
    }

    pub fn run_engine(&mut self, at: At, engine: usize) {
        if self.is_gone(at) {
            return;
        }
        let Some(thread) = self.servers[at.server].engines.get_mut(engine) else { return };
        thread.woken = false;
        let most = self.rng.random_range(1..=8);
        let mut outputs = Vec::new();
        // What comes with the feed and what comes from sessions and loads takes turns.
        let mut over = false;
        if thread.inbox.is_empty() || self.rng.random_bool(0.7) {
            match thread.subscription.next().now_or_never() {
                None => {}
                Some(Err(FeedEnded)) => over = true,
                Some(Ok(batch)) => {
                    thread.woken = true;
                    thread.inbox.extend(batch.iter().filter_map(input));
                }
            }
        }
        let mut answers = Vec::new();
        thread.histories.retain_mut(|(id, asked)| match answered(asked) {
            None => true,
            Some(answer) => {
                answers.push(Input::History(*id, answer));
                false
            }
        });
        thread.inbox.extend(answers);
        if over {
            // Another generation is there, or will be.
            self.seen.count("engines without a feed");
            self.end_generation_of_engines(at);
            return;
        }
        let thread = &mut self.servers[at.server].engines[engine];
        let again = std::mem::take(&mut thread.woken);
        for input in thread.inbox.drain(..most.min(thread.inbox.len())) {
            if self.told {
                println!("{:>8} server {} engine {engine}: {input:?}", self.now_ms, at.server);
            }
            if matches!(input, Input::Loaded(..) | Input::LoadFailed(_)) {
                thread.loading = false;
            }
            thread.engine.step(input, &mut outputs);
        }
        let questions: Vec<HistoryRequest> =
            std::iter::from_fn(|| thread.engine.take_history()).collect();
        let more =
            (again || !thread.inbox.is_empty()) && !std::mem::replace(&mut thread.woken, true);
        let gather = thread.engine.wants_load() && !thread.gathering && !thread.loading;
        thread.gathering |= gather;
        if more {
            self.after(1, Event::Engine(at, engine));
        }
        if gather {
            let delay = self.rng.random_range(2..30);
            self.after(delay, Event::Gather(at, engine));
        }
        for HistoryRequest { id, topics, tables, after, up_to } in questions {
            let query = HistoryQuery { topics, tables: tables.into(), after, up_to };
            let server = &mut self.servers[at.server];
            let asked = server.feed.feed.history(self.disk.epoch, query);
            server.engines[engine].histories.push((id, asked));
        }
        self.take_requests(at);
        for output in outputs {
            self.queue_output(at, output);
        }
    }

    fn queue_output(&mut self, at: At, output: Output) {
        let (Output::Begin { session, .. }
        | Output::Snapshot { session, .. }
        | Output::Ready { session, .. }
        | Output::Tx { session, .. }
        | Output::Reset { session }) = output
        else {
            return;
        };
        let Some(open) = self.servers[at.server].sessions.get_mut(&session.0) else { return };
        if let Output::Reset { .. } = output {
            self.seen.count("resets");
            return self.end_session(at, session.0, Some(ErrorCode::Restarting));
        }
        if let Output::Tx { acknowledgements, .. } = &output {
            for told in acknowledgements {
                let first = told.rejected.first().map_or(told.last_mutation, |first| first.id);
                let first = first.min(told.last_mutation);
                if first > open.told + 1 {
                    self.seen.count("acknowledgements that passed by");
                    return self.end_session(at, session.0, Some(ErrorCode::Restarting));
                }
                open.told = open.told.max(told.last_mutation);
            }
        }
        open.outbox.push_back(output);
        if open.outbox.len() > OUTBOX {
            self.seen.count("slow clients");
            return self.end_session(at, session.0, Some(ErrorCode::SlowConsumer));
        }
        if !std::mem::replace(&mut open.draining, true) {
            let delay = self.rng.random_range(0..10);
            self.after(delay, Event::Drain(at, session.0));
        }
    }

    /// Writes frames to a session's socket, as far as it takes them.
    pub fn drain(&mut self, at: At, id: u64) {
        if self.is_gone(at) {
            return;
        }
        let room = UNDER_WAY.saturating_sub(self.network.under_way(id, Side::Client));
        let Some(plan) = self.servers[at.server].tables.as_ref().map(|t| Arc::clone(&t.plan))
        else {
            return;
        };
        let Some(session) = self.servers[at.server].sessions.get_mut(&id) else { return };
        let mut frames = Vec::new();
        for _ in 0..room {
            let Some(output) = session.outbox.pop_front() else { break };
            write_frames(&plan, session, output, &mut frames);
        }
        let more = !session.outbox.is_empty();
        session.draining = more;
        for frame in frames {
            self.send(id, Side::Client, frame);
        }
        if more {
            let delay = self.rng.random_range(5..100);
            self.after(delay, Event::Drain(at, id));
        }
    }

    pub fn gather(&mut self, at: At, engine: usize) {
        if self.is_gone(at) {
            return;
        }
        let most = if self.rng.random_bool(0.5) { 3 } else { 100 };
        let Some(thread) = self.servers[at.server].engines.get_mut(engine) else { return };
        thread.gathering = false;
        let Some(load) = thread.engine.take_load(most) else { return };
        thread.loading = true;
        let delay = self.rng.random_range(1..40);
        let generations = self.servers[at.server].generations;
        self.after(delay, Event::Look(at, engine, load, generations));
    }

    /// A load's transaction sees the database.
    pub fn look(&mut self, at: At, engine: usize, load: Load, generations: u64) {
        if self.is_gone(at) || self.servers[at.server].generations != generations {
            return;
        }
        self.seen.count("loads");
        let fails = !self.postgres.up || self.stormy && self.rng.random_bool(0.03);
        let (delay, input) = if fails {
            self.seen.count("failed loads");
            (200, Input::LoadFailed(load.id))
        } else {
            let most = if self.rng.random_bool(0.1) { 3000 } else { 60 };
            let (loaded, failed) = self.postgres.load(&self.plan_of(at), &load.topics);
            if failed.values().any(|why| *why == Unreadable::Changed) {
                self.seen.count("loads that do not fit their tables");
                self.servers[at.server].feed.feed.look();
                self.take_requests(at);
            } else if !failed.is_empty() {
                self.seen.count("loads that are not permitted");
            }
            (self.rng.random_range(1..most), Input::Loaded(load.id, loaded))
        };
        self.after(delay, Event::Looked(at, engine, Box::new(input), generations));
    }

    pub fn looked(&mut self, at: At, engine: usize, input: Input, generations: u64) {
        if !self.is_gone(at) && self.servers[at.server].generations == generations {
            self.give(at, engine, input);
        }
    }

    /// Something has arrived from a client.
    pub fn server_receives(&mut self, at: At, id: u64, parcel: Parcel) {
        let Parcel::Text(text) = parcel else {
            return self.end_session(at, id, None);
        };
        match ClientMessage::parse(&text).expect("clients speak the protocol") {
            ClientMessage::Connect(_) if self.servers[at.server].stopping => {
                self.end_session(at, id, Some(ErrorCode::Restarting));
            }
            ClientMessage::Connect(connect) => {
                let delay = self.rng.random_range(1..30);
                let user = connect.token.clone().expect("clients say who they are");
                let session = Session {
                    client: connect.client_id.as_str().to_owned(),
                    user,
                    engine: None,
                    last: 0,
                    told: 0,
                    refused: Vec::new(),
                    outbox: VecDeque::new(),
                    draining: false,
                };
                self.servers[at.server].sessions.insert(id, session);
                self.after(delay, Event::Claim(at, id, Box::new(connect)));
            }
            ClientMessage::Mutate(mutation) => self.queue_mutation(at, id, mutation),
            ClientMessage::Auth { .. } | ClientMessage::Ping => {}
        }
    }

    /// Looks up whose the client id is and what became of its mutations; then its session opens.
    pub fn claim(&mut self, at: At, id: u64, connect: Box<Connect>) {
        if self.is_gone(at) {
            return;
        }
        let Some(session) = self.servers[at.server].sessions.get(&id) else { return };
        let (client, user) = (session.client.clone(), session.user.clone());
        if self.servers[at.server].engines.is_empty() || !self.postgres.up {
            return self.end_session(at, id, Some(ErrorCode::Unavailable));
        }
        let older = self.servers[at.server].sessions.iter();
        let older = older.filter(|(other, session)| **other != id && session.client == client);
        let older: Vec<u64> = older.map(|(other, _)| *other).collect();
        for older in older {
            self.end_session(at, older, Some(ErrorCode::Superseded));
        }
        // What these had sent is sent again, under other numbers if the database has gone back meanwhile; so
        // what waits is dropped, and what is under way must have ended.
        if self.drop_waiting(at, &client) {
            return self.after(20, Event::Claim(at, id, connect));
        }
        let Some(known) = self.postgres.claim(&client, &user, self.now_ms) else {
            self.seen.count("claims that wait");
            return self.after(20, Event::Claim(at, id, connect));
        };
        assert_eq!(known.user, user, "a client id is one user's");
        let settled = connect.settled.unwrap_or(0);
        // Also what the client knows already must be in its rows, and the engine may be behind that.
        let not_before = (known.last > 0).then_some(self.postgres.wal_end);
        let engines = self.servers[at.server].engines.len();
        let engine = USERS.iter().position(|of| *of == user).unwrap_or(0) % engines;
        let claims = self.plan_of(at).resolve_claims(&user, &Map::new());
        let cursor = connect.cursor.and_then(|cursor| cursor.parse::<Cursor>().ok());
        let Some(session) = self.servers[at.server].sessions.get_mut(&id) else { return };
        let refused = known.refused.range(settled + 1..=known.last.max(settled + 1));
        session.refused =
            refused.map(|(number, code)| crate::postgres::refusal(*number, code)).collect();
        (session.last, session.told) = (known.last, known.last);
        session.engine = Some(engine);
        let opening = Opening {
            session: SessionId(id),
            claims,
            client: Some(client.into()),
            not_before,
            cursor,
        };
        self.give(at, engine, Input::Open(opening));
    }

    /// Ends a session; with a code the client is told why.
    pub fn end_session(&mut self, at: At, id: u64, code: Option<ErrorCode>) {
        if let Some(session) = self.servers[at.server].sessions.remove(&id)
            && let Some(engine) = session.engine
        {
            self.give(at, engine, Input::Close(SessionId(id)));
        }
        if let Some(code) = code {
            let come_back = matches!(code, ErrorCode::Restarting | ErrorCode::Unavailable);
            let frame = error_frame(code, code.as_str(), come_back.then_some(2000));
            self.send(id, Side::Client, frame.to_vec());
        }
        self.end_connection(id, Side::Server);
    }
}

/// What an event of the feed is to an engine.
fn input(event: &FeedEvent) -> Option<Input> {
    match event {
        FeedEvent::Transaction { transaction, .. } => {
            Some(Input::Transaction(Arc::clone(transaction)))
        }
        FeedEvent::Position { lsn, .. } => Some(Input::Position(*lsn)),
        FeedEvent::StreamBegan { wal_end } => Some(Input::StreamBegan(*wal_end)),
        FeedEvent::EpochBegan { .. } | FeedEvent::TableChanged { .. } => None,
    }
}

/// What an output is on the wire. Transactions that wait are folded.
fn write_frames(plan: &Plan, session: &mut Session, output: Output, frames: &mut Vec<Vec<u8>>) {
    match output {
        Output::Begin { mode, .. } => {
            let (last, refused) = (session.last, &session.refused);
            let tables = tables_json();
            let frame = connected_frame(&session.user, mode, last, refused, &tables);
            frames.push(frame.to_vec());
        }
        Output::Snapshot { rows, .. } => {
            let mut place = Place::default();
            while let Some(slice) = rows.slice(place, SLICE_BYTES) {
                place = slice.next;
                let name = &plan.table(slice.table).name_json;
                let rows = slice.rows.iter().map(|row| &row.json[..]);
                frames.push(snapshot_frame(name, rows).to_vec());
            }
        }
        Output::Ready { cursor, .. } => frames.push(ready_frame(cursor).to_vec()),
        Output::Tx { message, mut acknowledgements, .. } => {
            let mut cursor = message.cursor;
            let mut bodies = vec![message.changes().clone()];
            while let Some(Output::Tx { .. }) = session.outbox.front()
                && let Some(Output::Tx { message, acknowledgements: more, .. }) =
                    session.outbox.pop_front()
            {
                acknowledgements.extend(more);
                bodies.push(message.changes().clone());
                cursor = message.cursor;
            }
            let refused =
                acknowledgements.iter().flat_map(|of: &Arc<Acknowledgement>| &of.rejected);
            frames.extend(refused.map(|r| reject_frame(r.id, &r.code, &r.message).to_vec()));
            let ack =
                acknowledgements.iter().map(|acknowledgement| acknowledgement.last_mutation).max();
            let bodies = bodies.iter().map(|body| &body[..]);
            frames.push(tx_frame(cursor, bodies, ack, None).to_vec());
        }
        Output::Reset { .. } | Output::Discarded(_) => {}
    }
}
