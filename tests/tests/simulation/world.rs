//! One deployment: virtual time, what happens in it, and what must hold after every step. All chance comes
//! from one seed, and all order from one queue of events.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rowtide_engine::Load;
use rowtide_feed::Request;
use rowtide_gateway::Outlet;
use rowtide_gateway::claiming::{ClaimBatch, ClaimedIds};
use rowtide_gateway::conversation::Mutation;
use rowtide_gateway::scheduler::{Broken, Job};
use rowtide_gateway::worker::EngineArrival;
use rowtide_postgres::mutate::Outcome;
use rowtide_postgres::named_outcomes::{Tab, Told};
use rowtide_protocol::Lsn;

use crate::breaks::Break;
use crate::checks::{EpochFacts, Ledger, Seen};
use crate::client::Client;
use crate::disk::Disk;
use crate::mutations::Attempt;
use crate::network::{Network, Parcel, Side};
use crate::older::{OLDER, Older};
use crate::postgres::Postgres;
use crate::postgres::database::{Database, Work, Writes};
use crate::replicator::Job as ReplicatorJob;
use crate::server::Server;
use crate::sessions::Answer;
use crate::sql::{random_row, write};

/// A server in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub server: usize,
    pub life: u64,
}

/// What is to happen.
#[derive(Debug)]
pub enum Event {
    // Postgres
    BeginSql,
    CommitSql { xid: u64, postgres_life: u64 },
    BeginMigration,
    CommitMigration { xid: u64, kind: Option<usize>, postgres_life: u64 },
    Show(usize, Lsn),
    StartPostgres,
    EndStall,
    WalsenderEnds(usize, u64),
    // Servers
    StartServer(usize),
    Replicator(At, u64, Box<ReplicatorJob>),
    Watch(At),
    Write(At),
    Engine(At, usize, u64),
    EngineDue(At, usize, u64),
    Look(At, usize, Load, u64),
    Looked(At, usize, Box<EngineArrival<Outlet>>, u64),
    Generation(At),
    AnswerRequest(At, Request, u32),
    Claims(At),
    Claim(At, Box<ClaimBatch>, u64),
    ClaimOutcomes(At, Box<ClaimedIds>),
    Answer(At, u64, Box<Answer>),
    Outcomes(At, u64, Box<Tab>),
    Told(At, Vec<Told>),
    Read(At, u64),
    Clock(At, u64),
    Supersede(At, u64),
    Broken(At, u64, Broken),
    Drain(At, u64),
    Goodbye(At, u64),
    Stopping(At),
    Retry(At),
    Attempt(At, Box<Job<Mutation>>),
    Commit(At, Box<Attempt>),
    Committed(At, Box<Attempt>, Lsn, Outcome),
    // The network
    Arrive(u64, Side),
    Close(u64, Side),
    // Clients
    Connect(usize, u64),
    Store(usize, u64),
    Mutate(usize),
    StartClient(usize),
    ConnectOlder(usize),
    OlderActs(usize),
    // Faults
    Fault,
    EmptyDisk,
}

/// What a deployment has to stand.
pub struct Weather {
    /// The longest pause between two faults.
    pub pace_ms: u64,
    /// Whether epochs end: databases that go back, slots and disks that are lost.
    pub epochs_end: bool,
    /// Whether clients crash, and lose their replicas.
    pub clients_crash: bool,
    /// Whether tables are truncated, and transactions too large to hold.
    pub rough: bool,
    /// Whether people alter tables and publications.
    pub migrations: bool,
    /// Whether a crowd comes and goes when all is at rest.
    pub crowds: bool,
}

pub struct World {
    pub rng: SmallRng,
    pub now_ms: u64,
    queue: BTreeMap<(u64, u64), Event>,
    events: u64,
    pub postgres: Postgres,
    /// The server that streams, as Postgres knows it.
    pub walsender: Option<(usize, u64)>,
    /// Why the present epoch may end.
    pub may_end: BTreeSet<&'static str>,
    /// Who has ended the log, and has not begun an epoch since.
    pub ended_by: Option<At>,
    pub last_epoch: Option<u64>,
    pub disk: Disk,
    pub network: Network,
    pub servers: Vec<Server>,
    pub clients: Vec<Client>,
    pub older: Vec<Older>,
    pub epochs: BTreeMap<u64, EpochFacts>,
    pub ledger: Ledger,
    pub seen: Seen,
    pub weather: Weather,
    /// Whether there are faults, and people who do something.
    pub stormy: bool,
    pub most_mutations: u64,
    /// Whether its course is printed.
    pub told: bool,
    pub broken: Option<Break>,
}

/// Within this everyone must be there, once faults have ended.
const RECOVERY_MS: u64 = 120_000;

impl World {
    pub fn new(seed: u64, told: bool) -> World {
        World::with(seed, told, None)
    }

    /// One with a mistake in it.
    pub fn with(seed: u64, told: bool, broken: Option<Break>) -> World {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut database = Database::default();
        let mut writes = Writes::new();
        for (table, ids) in [(0, 4), (1, 6), (2, 8), (3, 8)] {
            for id in 0..ids {
                let row = random_row(&mut rng, table, id);
                write(&database, &mut writes, table, id, Some(row));
            }
        }
        database.apply(&Work { writes, ..Work::default() }, 3);
        let weather = Weather {
            pace_ms: [400, 1500, 5000][rng.random_range(0..3)],
            epochs_end: rng.random_bool(0.4),
            clients_crash: rng.random_bool(0.5),
            rough: rng.random_bool(0.3),
            migrations: rng.random_bool(0.4),
            crowds: rng.random_bool(0.1),
        };
        let clients = rng.random_range(2..=5);
        let older = if rng.random_bool(0.3) { rng.random_range(1..=3) } else { 0 };
        let mut postgres = Postgres::new(database, rng.random_bool(0.3));
        postgres.remembers_partitions = !postgres.newer && seed % 3 == 1;
        World {
            now_ms: 0,
            queue: BTreeMap::new(),
            events: 0,
            postgres,
            walsender: None,
            may_end: BTreeSet::new(),
            ended_by: None,
            last_epoch: None,
            disk: Disk::new(),
            network: Network::default(),
            servers: vec![Server::default(), Server::default()],
            clients: (0..clients).map(Client::new).collect(),
            older: (0..older).map(Older::new).collect(),
            epochs: BTreeMap::new(),
            ledger: Ledger::default(),
            seen: Seen::default(),
            weather,
            stormy: false,
            most_mutations: 0,
            told,
            broken,
            rng,
        }
    }

    /// Storms and what comes after each; returns what was seen.
    pub fn run(mut self) -> Seen {
        let servers = self.rng.random_range(1..=2);
        (0..servers).for_each(|server| self.start_server(server));
        (0..self.clients.len()).for_each(|client| self.after(0, Event::Connect(client, 0)));
        (0..self.older.len()).for_each(|number| self.after(0, Event::ConnectOlder(number)));
        for _ in 0..self.rng.random_range(1..=2) {
            self.storm();
            self.recover();
        }
        // Whoever has more mutations that wait for a table than may wait is sent away, and comes back.
        let rests = self.clients.iter().all(|client| client.first_pending().is_none());
        if self.weather.crowds && rests {
            self.storm_at_rest();
        }
        self.close();
        self.seen
    }

    /// Everyone goes, and nothing is left of anyone.
    fn close(&mut self) {
        (0..self.clients.len()).for_each(|client| self.leave(client));
        (0..self.older.len()).for_each(|number| self.older_leaves(number));
        let end = self.now_ms + RECOVERY_MS;
        while self.now_ms < end {
            self.step();
        }
        self.check_that_nothing_is_left();
    }

    fn storm(&mut self) {
        self.stormy = true;
        self.most_mutations += 40;
        self.after(0, Event::Fault);
        self.after(0, Event::BeginSql);
        if self.weather.migrations {
            self.after(200, Event::BeginMigration);
        }
        (0..self.clients.len()).for_each(|client| self.after(10, Event::Mutate(client)));
        (0..self.older.len()).for_each(|number| self.after(10, Event::OlderActs(number)));
        let end = self.now_ms + self.rng.random_range(4_000..25_000);
        while self.now_ms < end {
            self.step();
        }
        self.stormy = false;
    }

    /// Everything works again; then everyone must get everything, in bounded time.
    fn recover(&mut self) {
        self.say(|| "the storm is over".to_owned());
        self.disk.full = false;
        self.start_postgres();
        self.postgres.show_all();
        self.mend_database();
        (0..self.servers.len()).for_each(|server| self.start_server(server));
        (0..self.clients.len()).for_each(|client| self.start_client(client));
        self.mark_the_end();
        self.clients.iter_mut().for_each(|client| client.rested = None);
        let latest = self.now_ms + RECOVERY_MS;
        while !self.is_at_rest() {
            assert!(self.now_ms < latest, "{}", self.who_is_stuck());
            (0..50).for_each(|_| self.step());
        }
        self.ledger.check(self.postgres.now());
        self.seen.count("recoveries");
    }

    /// Takes the next event.
    pub fn step(&mut self) {
        let ((now_ms, _), event) = self.queue.pop_first().expect("there is always a next event");
        self.now_ms = now_ms;
        match event {
            Event::BeginSql => self.begin_sql(),
            Event::CommitSql { xid, postgres_life } => self.commit_sql(xid, postgres_life),
            Event::Show(history, lsn) => {
                if history == self.postgres.history() {
                    self.postgres.show(lsn);
                }
            }
            Event::StartPostgres => self.start_postgres(),
            Event::EndStall => self.postgres.show_all(),
            Event::WalsenderEnds(server, life) => {
                self.walsender.take_if(|walsender| *walsender == (server, life));
            }
            Event::StartServer(server) => self.start_server(server),
            Event::Replicator(at, asked, job) => self.work_for_replicator(at, asked, *job),
            Event::Watch(at) => self.watch(at),
            Event::Write(at) => self.write(at),
            Event::Engine(at, engine, number) => self.run_engine(at, engine, number),
            Event::EngineDue(at, engine, number) => self.engine_is_due(at, engine, number),
            Event::Look(at, engine, load, number) => self.look(at, engine, load, number),
            Event::Looked(at, engine, arrival, number) => {
                self.looked(at, engine, *arrival, number);
            }
            Event::Generation(at) => self.generation(at),
            Event::AnswerRequest(at, request, tries) => self.answer(at, request, tries),
            Event::Claims(at) => self.ask_claims(at),
            Event::Claim(at, claims, until_ms) => self.claim_ids(at, claims, until_ms),
            Event::ClaimOutcomes(at, claimed) => self.answer_claims(at, *claimed),
            Event::Answer(at, id, answer) => self.answer_session(at, id, *answer),
            Event::Outcomes(at, id, tab) => self.answer_outcomes(at, id, tab),
            Event::Told(at, told) => self.note_heard(at, told),
            Event::Read(at, id) => self.read_later(at, id),
            Event::Clock(at, id) => self.clock(at, id),
            Event::Supersede(at, id) => self.supersede_session(at, id),
            Event::Broken(at, id, why) => self.break_session(at, id, why),
            Event::Drain(at, id) => self.drain(at, id),
            Event::Goodbye(at, id) => self.goodbye_is_over(at, id),
            Event::Stopping(at) => self.go_on_stopping(at),
            Event::Retry(at) => self.retry(at),
            Event::Attempt(at, job) => self.attempt(at, *job),
            Event::Commit(at, attempt) => self.commit_attempt(at, attempt),
            Event::Committed(at, attempt, lsn, outcome) => {
                self.committed(at, attempt, lsn, outcome);
            }
            Event::Arrive(id, side) => {
                if let Some(parcel) = self.network.receive(id, side, self.now_ms) {
                    self.arrive(id, side, parcel);
                }
            }
            Event::Close(id, side) => self.arrive(id, side, Parcel::End),
            Event::Connect(client, life) => self.connect(client, life),
            Event::Store(client, life) => self.store(client, life),
            Event::Mutate(client) => self.make_mutation(client),
            Event::StartClient(client) => self.start_client(client),
            Event::ConnectOlder(number) => self.connect_older(number),
            Event::OlderActs(number) => self.older_acts(number),
            Event::BeginMigration => self.begin_migration(),
            Event::CommitMigration { xid, kind, postgres_life } => {
                self.commit_migration(xid, kind, postgres_life);
            }
            Event::Fault => self.fault(),
            Event::EmptyDisk => self.disk.full = false,
        }
    }

    pub fn after(&mut self, delay_ms: u64, event: Event) {
        self.events += 1;
        self.queue.insert((self.now_ms + delay_ms, self.events), event);
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.told {
            println!("{:>8} {}", self.now_ms, text());
        }
    }

    fn arrive(&mut self, id: u64, side: Side, parcel: Parcel) {
        let Some(connection) = self.network.connections.get(&id) else { return };
        let at = At { server: connection.server, life: connection.server_life };
        match side {
            Side::Server if !self.is_gone(at) => self.server_receives(at, id, parcel),
            Side::Client => match connection.client.checked_sub(OLDER) {
                Some(number) if self.older[number].connection == Some(id) => {
                    self.older_receives(number, parcel);
                }
                None if self.clients[connection.client].connection == Some(id) => {
                    self.client_receives(connection.client, parcel);
                }
                _ => {}
            },
            Side::Server => {}
        }
    }

    pub fn send(&mut self, id: u64, to: Side, text: Vec<u8>) {
        let text = String::from_utf8(text).expect("frames are text");
        self.send_parcel(id, to, Parcel::Text(text));
    }

    pub fn send_parcel(&mut self, id: u64, to: Side, parcel: Parcel) {
        let most = if self.stormy && self.rng.random_bool(0.02) { 2000 } else { 30 };
        let delay = self.rng.random_range(1..most);
        if let Some(arrives_ms) = self.network.send(id, to, parcel, self.now_ms, delay) {
            self.after(arrives_ms - self.now_ms, Event::Arrive(id, to));
        }
    }

    /// One side ends a connection; the other is told behind all that was sent.
    pub fn end_connection(&mut self, id: u64, by: Side) {
        let other = if by == Side::Client { Side::Server } else { Side::Client };
        self.send_parcel(id, other, Parcel::End);
        self.network.close(id, by);
    }

    /// One side is gone, and perhaps the other hears of it only when it has waited long enough.
    pub fn vanish(&mut self, id: u64, side: Side) {
        if self.rng.random_bool(0.5) {
            return self.end_connection(id, side);
        }
        let other = if side == Side::Client { Side::Server } else { Side::Client };
        let kept = self.rng.random_range(0..=self.network.under_way(id, other));
        self.network.cut(id, other, kept);
        self.network.close(id, side);
        let delay = self.rng.random_range(100..15_000);
        self.after(delay, Event::Close(id, other));
    }
}
