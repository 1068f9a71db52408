//! The engine against its model. A history is a random definition, random data and a random course of
//! events in a simulated Postgres: transactions that commit in another order than their ids, that
//! are streamed before they are visible, loads that run and arrive late or fail, sessions that come,
//! go and come back with any cursor they ever had, a log that answers late or cannot, truncations,
//! transactions too large to hold, tables that get columns, rows that come and go by time alone, a stream that starts again, an engine that starts again where its log
//! ends. After every message, each client must hold exactly what its rules, evaluated naively on the whole
//! data as of that commit, select; and nobody is told of a row, be it to delete it, that was not for them
//! at any commit since the last message, unless a transaction that could not be held was among these.
//!
//! `ROWTIDE_HISTORIES` sets how many histories are run, `ROWTIDE_FIRST` which is the first of them, `ROWTIDE_SEED` runs a
//! single one and prints its course.

mod data;
pub(crate) mod postgres;
mod rule;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rowtide_plan::claims::Claims;
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::Plan;
use rowtide_protocol::{ChangedRow, Cursor, Epoch, Lsn, Mode, ServerMessage, ViewId};

use self::data::Data;
use self::postgres::{Added, CLIENTS, Postgres, TABLES};
use self::rule::{Ask, Rules, User};
use crate::{
    Engine, HistoryRequest, Input, Load, Opening, Output, Place, SessionId, Subscribing,
    SubscriptionId, Subscriptions, ViewRows,
};

const EPOCH: Epoch = Epoch(7);

/// A client's rows: their JSON by table and key.
type Replica = BTreeMap<(String, i64), serde_json::Value>;

struct Client {
    user: User,
    /// Rows of a snapshot that is not complete yet.
    arriving: Replica,
    replica: Replica,
    mode: Option<Mode>,
    cursor: Option<Lsn>,
    /// Whether `replica` is what it holds; otherwise it waits for its `ready`.
    ready: bool,
    /// Whose mutations it is told of.
    client: usize,
    not_before: Option<Lsn>,
    /// What was acknowledged since it came, and where, that it has not been told of.
    owed: Vec<(u64, Lsn)>,
    /// The subscriptions whose rows it has, once it is ready.
    held: Vec<(SubscriptionId, Ask)>,
    /// Those whose rows it is not told yet that it has.
    asked: Vec<(SubscriptionId, Ask)>,
    /// Those that it wants no longer.
    unwanted: Vec<SubscriptionId>,
}

impl Client {
    /// What it may be told of.
    fn asks(&self) -> Vec<Ask> {
        self.held.iter().chain(&self.asked).map(|(_, ask)| *ask).collect()
    }
}

fn asks_of(held: &[(SubscriptionId, Ask)]) -> Vec<Ask> {
    held.iter().map(|(_, ask)| *ask).collect()
}

/// What someone who may come back has.
struct Departed {
    user: User,
    replica: Replica,
    cursor: Cursor,
    held: Vec<(SubscriptionId, Ask)>,
}

struct History {
    rng: SmallRng,
    rules: Rules,
    definition: Definition,
    /// As it was in the beginning; whatever columns tables get, topics and views are the same.
    plan: Arc<Plan>,
    postgres: Postgres,
    engine: Engine,
    /// Loads that were asked for and have not seen the database yet.
    asked: Vec<Load>,
    /// Loads that have seen the database and are on their way.
    under_way: Vec<Input>,
    clients: BTreeMap<SessionId, Client>,
    departed: Vec<Departed>,
    /// Snapshots that somebody is still being sent, and what was in them when they were made.
    frozen: Vec<(Arc<ViewRows>, Replica)>,
    /// Questions that the log has not answered.
    questions: Vec<HistoryRequest>,
    /// Who came back and was only sent what had changed.
    resumed: Resumed,
    row_budget: usize,
    next_session: u64,
    tick: u64,
    /// Whether everything comes to its end.
    rests: bool,
    /// Whether its course is printed.
    told: bool,
}

/// How many sessions that came back were only sent what had changed.
#[derive(Clone, Copy, Debug, Default)]
struct Resumed {
    all: usize,
    /// Those with a cursor from before some table got a column.
    reshaped: usize,
    /// Those whose rules ask sets.
    by_sets: usize,
    /// Those with subscriptions.
    subscribed: usize,
    /// Those whose rules ask for the time.
    by_time: usize,
}

impl History {
    fn new(seed: u64) -> History {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (rules, definition, plan) = rule::definition(&mut rng);
        let plan = Arc::new(plan);
        let postgres = Postgres::new(&plan, &mut rng);
        let row_budget = [0, 200, usize::MAX][rng.random_range(0..3)];
        let engine = Engine::new(Arc::clone(&plan), EPOCH, postgres.streamed(), &[], row_budget);
        History {
            rng,
            rules,
            definition,
            plan,
            postgres,
            engine,
            asked: Vec::new(),
            under_way: Vec::new(),
            clients: BTreeMap::new(),
            departed: Vec::new(),
            frozen: Vec::new(),
            questions: Vec::new(),
            resumed: Resumed::default(),
            row_budget,
            next_session: 0,
            tick: 0,
            rests: false,
            told: std::env::var_os("ROWTIDE_SEED").is_some(),
        }
    }

    fn run(mut self) -> Resumed {
        let most = if self.rng.random_bool(0.3) { 300 } else { 120 };
        for _ in 0..self.rng.random_range(20..most) {
            match self.rng.random_range(0..1000) {
                0..210 => self.postgres.begin_or_commit(&mut self.rng),
                210..290 => self.postgres.make_visible(&mut self.rng),
                290..500 => self.stream(),
                500..580 => self.ask(),
                580..660 => self.look(),
                660..760 => self.arrive(),
                760..830 => self.open(),
                830..860 => self.close(),
                860..930 => self.answer(),
                930..950 if self.rules.can_ask() => self.subscribe(),
                950..960 if self.rules.can_ask() => self.unsubscribe(),
                930..960 => self.answer(),
                960..968 => self.postgres.other_wal(),
                968..970 => self.add_columns(),
                970..976 => self.restart(),
                976..985 => self.read_late(),
                _ => {
                    let most = if self.rng.random_bool(0.5) { 1 } else { 300 };
                    self.tick += self.rng.random_range(1..=most);
                    self.step(Input::Tick(self.tick));
                }
            }
        }
        self.come_to_rest()
    }

    /// Everything that is under way arrives; then every client must be there.
    fn come_to_rest(mut self) -> Resumed {
        self.postgres.finish_all();
        self.rests = true;
        // Whoever left may come back to the end.
        for _ in 0..self.rng.random_range(0..6) {
            self.open();
        }
        for _ in 0..100 {
            // What could not be read is asked for again.
            self.step(Input::Tick(self.tick));
            while !self.questions.is_empty() {
                self.answer();
            }
            while self.postgres.streamed() < self.postgres.wal_end() {
                self.stream();
            }
            self.ask();
            while !self.asked.is_empty() {
                self.look();
            }
            while !self.under_way.is_empty() {
                self.arrive();
            }
        }
        while !self.frozen.is_empty() {
            self.read_late();
        }
        self.engine.check_invariants();
        assert!(!self.engine.wants_load(), "the engine comes to rest");
        for (session, client) in &self.clients {
            assert!(client.ready, "{session:?} never became ready");
            assert!(client.owed.is_empty(), "{session:?} is told of all that was acknowledged");
            let (at, added) = (Lsn(u64::MAX), self.postgres.added(Lsn(u64::MAX)));
            assert!(client.asked.is_empty(), "{session:?} is told of its subscriptions");
            assert!(
                client.unwanted.is_empty(),
                "{session:?} is rid of those that it wants no longer"
            );
            let (asks, data) = (client.asks(), self.postgres.at(at));
            let expected = expected(&self.rules, &client.user, &asks, data, added);
            assert_eq!(client.replica, expected, "{session:?} of {:?} in the end", client.user);
        }
        self.resumed
    }

    fn step(&mut self, input: Input) {
        if self.told {
            println!("{input:?}");
        }
        if let Input::Transaction(transaction) = &input
            && transaction.lsn > self.engine.position()
        {
            for acknowledgement in &transaction.acknowledgements {
                let of = |client: &&mut Client| *CLIENTS[client.client] == *acknowledgement.client;
                for client in self.clients.values_mut().filter(of) {
                    client.owed.push((acknowledgement.last_mutation, transaction.lsn));
                }
            }
        }
        let mut outputs = Vec::new();
        self.engine.advance(input, &mut outputs);
        // Looking at each step would take longer than all else; what breaks an invariant mostly stays.
        let is_looked_at = self.rng.random_ratio(1, 8);
        if is_looked_at || self.told {
            self.engine.check_invariants();
        }
        for output in outputs {
            if self.told {
                println!("  {output:?}");
            }
            self.deliver(output);
        }
        self.questions.extend(std::iter::from_fn(|| self.engine.take_history()));
    }

    fn deliver(&mut self, output: Output) {
        let (session, cursor) = match output {
            Output::Begin { session, mode } => {
                let client = self.clients.get_mut(&session).expect("only open sessions are told");
                assert!(client.mode.is_none(), "the mode is said once, and first");
                assert!(
                    mode == Mode::Snapshot || client.cursor.is_some(),
                    "nobody resumes unasked"
                );
                if let (Mode::Resume, Some(cursor)) = (mode, client.cursor) {
                    let now = self.postgres.added(self.engine.position());
                    self.resumed.all += 1;
                    self.resumed.subscribed += usize::from(!client.held.is_empty());
                    self.resumed.by_time += usize::from(self.plan.asks_time());
                    self.resumed.by_sets += usize::from(self.plan.sets > 0);
                    self.resumed.reshaped += usize::from(self.postgres.added(cursor) != now);
                }
                client.mode = Some(mode);
                return;
            }
            Output::Reset { session } => {
                let client = self.clients.remove(&session).expect("only open sessions are told");
                self.depart(client);
                return;
            }
            Output::Discarded(_) => return,
            Output::Snapshot { session, rows } => {
                let said = self.said(&rows);
                let client = self.clients.get_mut(&session).expect("only open sessions are told");
                assert_eq!(client.mode, Some(Mode::Snapshot));
                let at_once = client.arriving.is_empty() || !client.held.is_empty();
                assert!(at_once, "all rows at once");
                client.arriving.extend(said.clone());
                self.frozen.push((rows, said));
                return;
            }
            Output::Ready { session, cursor } => {
                let client = self.clients.get_mut(&session).expect("only open sessions are told");
                assert!(!client.ready, "ready once");
                assert!(Some(cursor.lsn) >= client.not_before, "not older than it was told");
                match client.mode.expect("the mode is said first") {
                    Mode::Snapshot => client.replica = std::mem::take(&mut client.arriving),
                    Mode::Resume => {
                        assert!(client.cursor <= Some(cursor.lsn), "cursors go forward")
                    }
                }
                client.cursor = None;
                client.ready = true;
                (session, cursor)
            }
            Output::Tx { session, message, acknowledgements, subscriptions } => {
                let cursor = message.cursor;
                let client = self.clients.get_mut(&session).expect("only open sessions are told");
                assert!(client.ready || client.mode == Some(Mode::Resume), "rows come first");
                assert!(
                    client.ready || acknowledgements.is_empty(),
                    "nothing is acknowledged before ready"
                );
                for acknowledgement in acknowledgements {
                    // In order, each once, and never before its effects.
                    assert!(!client.owed.is_empty(), "{session:?} was told of more than there was");
                    let (number, lsn) = client.owed.remove(0);
                    assert_eq!(number, acknowledgement.last_mutation);
                    assert!(lsn <= cursor.lsn, "{number} is told before its effects");
                }
                let frame = message.frame().text().clone();
                let text = std::str::from_utf8(&frame).unwrap();
                let Ok(ServerMessage::Tx { changes, .. }) = ServerMessage::parse(text) else {
                    panic!("not a tx: {text}");
                };
                for change in changes {
                    match change {
                        ChangedRow::Put { table, row } => {
                            let key = (table, row["id"].as_i64().unwrap());
                            client.replica.insert(key, row.into());
                        }
                        ChangedRow::Delete { table, row } => {
                            assert_eq!(row.len(), 1, "a delete names the key alone");
                            let key = (table, row["id"].as_i64().unwrap());
                            let passed = |client: &Client| {
                                let since = client.cursor.unwrap_or_default();
                                let asks = client.asks();
                                let visible = |data| {
                                    expected(&self.rules, &client.user, &asks, data, [0; 3])
                                        .contains_key(&key)
                                };
                                // What was not held may have brought the row in, and its link away.
                                self.postgres.between(since, cursor.lsn).any(visible)
                                    || self.postgres.was_loaded_again(since, cursor.lsn)
                            };
                            let had = client.replica.remove(&key).is_some();
                            let told = had || passed(client);
                            assert!(told, "{session:?} is told of {key:?}, which was not for it");
                        }
                    }
                }
                let Subscriptions { subscribed, unsubscribed } = subscriptions;
                let is_told = |list: &mut Vec<_>, id| {
                    let at = list.iter().position(|(of, _)| *of == id)?;
                    Some(list.swap_remove(at))
                };
                for id in subscribed {
                    assert!(client.ready, "those of the beginning are there with `ready`");
                    let asked = is_told(&mut client.asked, id).expect("it was asked for");
                    client.held.push(asked);
                }
                for id in unsubscribed {
                    assert!(client.ready);
                    let at = client.unwanted.iter().position(|of| *of == id);
                    client.unwanted.swap_remove(at.expect("it was not wanted any more"));
                    let gone = is_told(&mut client.held, id);
                    let gone = gone.or_else(|| is_told(&mut client.asked, id));
                    gone.expect("it was there");
                }
                (session, cursor)
            }
        };
        self.check(session, cursor);
    }

    fn check(&mut self, session: SessionId, cursor: Cursor) {
        assert_eq!(cursor.epoch, EPOCH);
        assert!(cursor.lsn <= self.postgres.streamed(), "nothing is said before it was streamed");
        let client = self.clients.get_mut(&session).expect("the session is open");
        assert!(client.cursor <= Some(cursor.lsn), "cursors go forward");
        if !client.ready {
            // Brought forward by several messages, of which the last is `ready`.
            return;
        }
        client.cursor = Some(cursor.lsn);
        let (data, added) = (self.postgres.at(cursor.lsn), self.postgres.added(cursor.lsn));
        let asks = asks_of(&client.held);
        let expected = expected(&self.rules, &client.user, &asks, data, added);
        assert_eq!(client.replica, expected, "{session:?} of {:?} at {}", client.user, cursor.lsn);
        let (user, replica) = (client.user, client.replica.clone());
        let held = client.held.clone();
        assert_eq!(cursor.view, self.view_of(&user));
        if self.rng.random_bool(0.5) {
            // Someone may come back with whatever they ever had.
            self.departed.push(Departed { user, replica, cursor, held });
        }
    }

    /// What the client has it may come back with.
    fn depart(&mut self, client: Client) {
        if let (true, Some(lsn)) = (client.ready, client.cursor) {
            let view = self.view_of(&client.user);
            let cursor = Cursor { epoch: EPOCH, view, lsn };
            let Client { user, replica, held, .. } = client;
            self.departed.push(Departed { user, replica, cursor, held });
        }
    }

    /// The rows of a snapshot, read in slices of any size.
    fn said(&mut self, rows: &ViewRows) -> Replica {
        let mut said = Replica::new();
        let mut place = Place::default();
        while let Some(slice) = rows.slice(place, self.rng.random_range(1..200)) {
            assert!(!slice.rows.is_empty() && slice.next > place, "a slice has rows");
            place = slice.next;
            let table = &self.plan.table(slice.table).catalog.name;
            for row in slice.rows {
                let json: serde_json::Value = serde_json::from_slice(&row.json).unwrap();
                let key = (table.clone(), json["id"].as_i64().unwrap());
                assert!(said.insert(key, json).is_none(), "each row once");
            }
        }
        said
    }

    /// A slow client reads a snapshot that was frozen long ago: it is what it was.
    fn read_late(&mut self) {
        if self.frozen.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.frozen.len());
        let (rows, said) = self.frozen.swap_remove(at);
        assert_eq!(self.said(&rows), said, "a frozen snapshot does not change");
        if self.rng.random_bool(0.5) {
            self.frozen.push((rows, said));
        }
    }

    fn view_of(&self, user: &User) -> ViewId {
        let claims = self.plan.resolve_claims(user.id, &user.claims());
        claims.view_id()
    }

    /// The log says what it was asked, or that it cannot.
    fn answer(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.questions.len());
        let request = self.questions.swap_remove(at);
        let known = !self.rng.random_bool(0.05);
        let history = known.then(|| self.postgres.history(&request));
        self.step(Input::History(request.id, history));
    }

    /// The server is killed and started, on a log that has all or not quite all that was streamed.
    fn restart(&mut self) {
        for (_, client) in std::mem::take(&mut self.clients) {
            self.depart(client);
        }
        self.asked.clear();
        self.under_way.clear();
        self.questions.clear();
        let recent = self.postgres.restart(&mut self.rng);
        let position = self.postgres.streamed();
        let plan = self.postgres.plan_at(position).unwrap_or_else(|| Arc::clone(&self.plan));
        self.engine = Engine::new(plan, EPOCH, position, &recent, self.row_budget);
    }

    /// Some tables get a column.
    fn add_columns(&mut self) {
        let mut added = self.postgres.added(Lsn(u64::MAX));
        for _ in 0..self.rng.random_range(1..3) {
            added[self.rng.random_range(0..TABLES.len())] += 1;
        }
        let plan = compile(&self.definition, &postgres::catalog_with(added)).unwrap();
        self.postgres.reshape(added, Arc::new(plan));
    }

    fn stream(&mut self) {
        let input = self.postgres.stream(&mut self.rng);
        if let Some(input) = input {
            self.step(input);
        }
    }

    fn ask(&mut self) {
        let max_topics = if self.rng.random_bool(0.5) { 2 } else { 100 };
        self.asked.extend(self.engine.take_load(max_topics));
    }

    /// A load that was asked for sees the database, or fails.
    fn look(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let load = self.asked.swap_remove(self.rng.random_range(0..self.asked.len()));
        if self.rng.random_bool(0.05) {
            self.step(Input::LoadFailed(load.id));
            return;
        }
        if let Some(us) = load.commit_behind_us {
            let jump = if self.rests { 30 } else { self.rng.random_range(0..4) };
            self.postgres.commit_behind(us, jump);
        }
        let mut loaded = self.postgres.load(&load, &mut self.rng);
        for (rows, before) in loaded.rows.iter_mut().zip(&load.before) {
            if let Some(rows) = rows.as_mut().filter(|_| self.rng.random_bool(0.5)) {
                *rows = before.loaded_anew(rows.iter().cloned());
            }
            if self.rng.random_bool(0.02) {
                *rows = None;
            }
        }
        self.under_way.push(Input::Loaded(load.id, loaded));
    }

    fn arrive(&mut self) {
        if !self.under_way.is_empty() {
            let at = self.rng.random_range(0..self.under_way.len());
            let input = self.under_way.swap_remove(at);
            self.step(input);
        }
    }

    fn open(&mut self) {
        let back = if self.departed.is_empty() || self.rng.random_bool(0.2) {
            None
        } else {
            let at = self.rng.random_range(0..self.departed.len());
            Some(self.departed.swap_remove(at))
        };
        let (user, replica, cursor, held) = match back {
            None => {
                let asks = if self.rules.can_ask() { self.rng.random_range(0..3) } else { 0 };
                let ask = |number| (SubscriptionId(number), self.rules.ask(&mut self.rng));
                let held = (0..asks).map(ask).collect();
                (User::random(&mut self.rng), Replica::new(), None, held)
            }
            Some(Departed { user, replica, cursor, held }) => (user, replica, Some(cursor), held),
        };
        let claims: Claims = self.plan.resolve_claims(user.id, &user.claims());
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let client = self.rng.random_range(0..CLIENTS.len());
        let known = self.rng.random_bool(0.3).then(|| self.postgres.wal_end());
        let arriving = Client {
            user,
            arriving: Replica::new(),
            replica,
            mode: None,
            cursor: cursor.map(|cursor| cursor.lsn),
            ready: false,
            client,
            not_before: known,
            owed: Vec::new(),
            held,
            asked: Vec::new(),
            unwanted: Vec::new(),
        };
        let subscriptions = self.subscribing(&arriving.user, &arriving.held);
        self.clients.insert(session, arriving);
        let client = Some(CLIENTS[client].into());
        self.step(Input::Open(Opening {
            session,
            claims,
            client,
            not_before: known,
            cursor,
            subscriptions,
        }));
    }

    fn subscribing(&self, user: &User, asked: &[(SubscriptionId, Ask)]) -> Vec<Subscribing> {
        let claims = self.plan.resolve_claims(user.id, &user.claims());
        let subscribing = |(id, ask): &(SubscriptionId, Ask)| {
            let (query, params) = self.rules.sent(ask);
            let (query, claims) = self.plan.select(&claims, query, &params).unwrap();
            Subscribing { id: *id, query, claims }
        };
        asked.iter().map(subscribing).collect()
    }

    /// A session asks for more; it may not be ready yet.
    fn subscribe(&mut self) {
        let session = self.any_session();
        let Some(client) = session.and_then(|session| self.clients.get_mut(&session)) else {
            return;
        };
        let Some(session) = session else { return };
        let used = client.held.iter().chain(&client.asked).map(|(id, _)| id.0).max();
        let asked =
            (SubscriptionId(used.map_or(0, |used| used + 1)), self.rules.ask(&mut self.rng));
        client.asked.push(asked);
        let user = client.user;
        for subscribing in self.subscribing(&user, &[asked]) {
            self.step(Input::Subscribe(session, subscribing));
        }
    }

    /// A session asks for less.
    fn unsubscribe(&mut self) {
        let session = self.any_session();
        let Some(client) = session.and_then(|session| self.clients.get_mut(&session)) else {
            return;
        };
        let Some(session) = session else { return };
        let all: Vec<SubscriptionId> =
            client.held.iter().chain(&client.asked).map(|(id, _)| *id).collect();
        let wanted: Vec<_> = all.into_iter().filter(|id| !client.unwanted.contains(id)).collect();
        if wanted.is_empty() {
            return;
        }
        let id = wanted[self.rng.random_range(0..wanted.len())];
        client.unwanted.push(id);
        self.step(Input::Unsubscribe(session, id));
    }

    fn any_session(&mut self) -> Option<SessionId> {
        let sessions: Vec<SessionId> = self.clients.keys().copied().collect();
        (!sessions.is_empty()).then(|| sessions[self.rng.random_range(0..sessions.len())])
    }

    fn close(&mut self) {
        let Some(session) = self.clients.keys().next().copied() else { return };
        let client = self.clients.remove(&session).expect("it was there");
        self.depart(client);
        self.step(Input::Close(session));
    }
}

/// The rules, evaluated naively on all of the data.
fn expected(rules: &Rules, user: &User, asks: &[Ask], data: &Data, added: Added) -> Replica {
    let mut replica = Replica::new();
    for table in 0..TABLES.len() {
        for (id, row) in rules.selected(table, user, asks, data) {
            replica.insert((TABLES[table].to_owned(), id), row.json(added[table]));
        }
    }
    replica
}

#[test]
fn every_client_holds_what_its_rules_select_after_every_message() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("ROWTIDE_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("ROWTIDE_FIRST").unwrap_or(0);
            first..first + number("ROWTIDE_HISTORIES").unwrap_or(10_000)
        }
    };
    let (mut resumed, all) = (Resumed::default(), seeds.clone().count());
    for seed in seeds {
        let history = std::panic::AssertUnwindSafe(|| History::new(seed).run());
        match std::panic::catch_unwind(history) {
            Ok(of_history) => {
                resumed.all += of_history.all;
                resumed.reshaped += of_history.reshaped;
                resumed.by_sets += of_history.by_sets;
                resumed.by_time += of_history.by_time;
                resumed.subscribed += of_history.subscribed;
            }
            Err(panic) => {
                eprintln!("this history fails: ROWTIDE_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // Otherwise it says nothing of those who come back.
    let Resumed { all: resumed, reshaped, by_sets, subscribed, by_time } = resumed;
    assert!(all < 100 || subscribed > all / 20, "{subscribed} of them had subscriptions");
    assert!(all < 100 || resumed > all / 3, "{resumed} sessions were resumed in {all} histories");
    assert!(
        all < 100 || by_time > all / 10,
        "{by_time} of them are of rules that ask for the time"
    );
    assert!(all < 100 || by_sets > all / 6, "{by_sets} of them are of rules that ask sets");
    assert!(
        all < 1_000 || reshaped > all / 50,
        "{reshaped} of them had a cursor from before a table got a column"
    );
}
