//! The engine against its model. A history is a random definition, random data and a random course of
//! events in a simulated Postgres: transactions that commit in another order than their ids, that
//! are streamed before they are visible, loads that run and arrive late or fail, sessions that come
//! and go, truncations, transactions too large to hold, a stream that starts again. After every
//! message, each client must hold exactly what its rules, evaluated naively on the whole data as of
//! that commit, select.
//!
//! `ROWTIDE_HISTORIES` sets how many histories are run, `ROWTIDE_SEED` runs a single one and
//! prints its course.

mod postgres;
mod rule;

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rowtide_plan::claims::Claims;
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::Plan;
use rowtide_protocol::{Change, Cursor, Epoch, Lsn, ServerMessage, tx_frame};

use self::postgres::{CLIENTS, Data, Postgres, TABLES};
use self::rule::{Rule, User};
use crate::{Engine, Input, Load, Opening, Output, SessionId};

const EPOCH: Epoch = Epoch(7);

/// A client's rows: their JSON by table and key.
type Replica = BTreeMap<(String, i64), serde_json::Value>;

struct Client {
    user: User,
    /// Rows of a snapshot that is not complete yet.
    arriving: Replica,
    replica: Replica,
    cursor: Option<Lsn>,
    /// Whose mutations it is told of.
    client: usize,
    not_before: Lsn,
    /// What was settled since it came, and where, that it has not been told of.
    owed: Vec<(u64, Lsn)>,
}

struct History {
    rng: SmallRng,
    rules: Vec<Rule>,
    plan: Arc<Plan>,
    postgres: Postgres,
    engine: Engine,
    /// Loads that were asked for and have not seen the database yet.
    asked: Vec<Load>,
    /// Loads that have seen the database and are on their way.
    under_way: Vec<Input>,
    clients: BTreeMap<SessionId, Client>,
    next_session: u64,
    turn: u64,
    /// Whether its course is printed.
    told: bool,
}

impl History {
    fn new(seed: u64) -> History {
        let mut rng = SmallRng::seed_from_u64(seed);
        let rules: Vec<Rule> = (0..TABLES.len()).map(|_| Rule::random(&mut rng, 2)).collect();
        let mut text = String::new();
        for (table, rule) in TABLES.iter().zip(&rules) {
            text += &format!("[tables.{table}]\nvisible = '''{}'''\n", rule.sql());
        }
        let definition = Definition::parse("rowtide.toml", &text)
            .unwrap_or_else(|error| panic!("{text}\n{error:?}"));
        let plan = compile(&definition, &postgres::catalog())
            .unwrap_or_else(|error| panic!("{text}\n{error:?}"));
        let plan = Arc::new(plan);
        let postgres = Postgres::new(&plan, &mut rng);
        let engine = Engine::new(Arc::clone(&plan), EPOCH, postgres.streamed());
        History {
            rng,
            rules,
            plan,
            postgres,
            engine,
            asked: Vec::new(),
            under_way: Vec::new(),
            clients: BTreeMap::new(),
            next_session: 0,
            turn: 0,
            told: std::env::var_os("ROWTIDE_SEED").is_some(),
        }
    }

    fn run(mut self) {
        for _ in 0..self.rng.random_range(20..120) {
            match self.rng.random_range(0..100) {
                0..25 => self.postgres.begin_or_commit(&mut self.rng),
                25..35 => self.postgres.make_visible(&mut self.rng),
                35..60 => self.stream(),
                60..70 => self.ask(),
                70..78 => self.look(),
                78..88 => self.arrive(),
                88..95 => self.open(),
                95..97 => self.close(),
                97..98 => self.postgres.other_wal(),
                _ => {
                    self.turn += self.rng.random_range(1..300);
                    self.step(Input::Tick(self.turn));
                }
            }
        }
        self.come_to_rest();
    }

    /// Everything that is under way arrives; then every client must be there.
    fn come_to_rest(mut self) {
        self.postgres.finish_all();
        for _ in 0..100 {
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
        assert!(!self.engine.wants_load(), "the engine comes to rest");
        for (session, client) in &self.clients {
            assert!(client.cursor.is_some(), "{session:?} never became ready");
            assert!(client.owed.is_empty(), "{session:?} is told of all that was settled");
            let expected = expected(&self.rules, &client.user, self.postgres.at(Lsn(u64::MAX)));
            assert_eq!(client.replica, expected, "{session:?} of {:?} in the end", client.user);
        }
    }

    fn step(&mut self, input: Input) {
        if self.told {
            println!("{input:?}");
        }
        if let Input::Transaction(transaction) = &input
            && transaction.lsn > self.engine.position()
        {
            for settlement in &transaction.settlements {
                let of = |client: &&mut Client| *CLIENTS[client.client] == *settlement.client;
                for client in self.clients.values_mut().filter(of) {
                    client.owed.push((settlement.last_mutation, transaction.lsn));
                }
            }
        }
        let mut outputs = Vec::new();
        self.engine.step(input, &mut outputs);
        for output in outputs {
            if self.told {
                println!("  {output:?}");
            }
            self.deliver(output);
        }
    }

    fn deliver(&mut self, output: Output) {
        let (session, cursor) = match output {
            Output::Snapshot { session, table, rows } => {
                let client = self.clients.get_mut(&session).expect("only open sessions are told");
                let table = &self.plan.table(table).catalog.name;
                for row in rows {
                    let json: serde_json::Value = serde_json::from_slice(&row.json).unwrap();
                    let key = (table.clone(), json["id"].as_i64().unwrap());
                    assert!(client.arriving.insert(key, json).is_none(), "each row once");
                }
                return;
            }
            Output::Ready { session, cursor } => {
                let client = self.clients.get_mut(&session).expect("only open sessions are told");
                assert!(client.cursor.is_none(), "ready once");
                assert!(cursor.lsn >= client.not_before, "not older than it was told");
                client.replica = std::mem::take(&mut client.arriving);
                (session, cursor)
            }
            Output::Tx { session, cursor, changes, settlements, .. } => {
                let client = self.clients.get_mut(&session).expect("only open sessions are told");
                for settlement in settlements {
                    // In order, each once, and never before its effects.
                    assert!(!client.owed.is_empty(), "{session:?} was told of more than there was");
                    let (number, lsn) = client.owed.remove(0);
                    assert_eq!(number, settlement.last_mutation);
                    assert!(lsn <= cursor.lsn, "{number} is told before its effects");
                }
                let frame = tx_frame(cursor, [&changes[..]], None, None);
                let text = std::str::from_utf8(&frame).unwrap();
                let Ok(ServerMessage::Tx { changes, .. }) = ServerMessage::parse(text) else {
                    panic!("not a tx: {text}");
                };
                for change in changes {
                    match change {
                        Change::Put { table, row } => {
                            let key = (table, row["id"].as_i64().unwrap());
                            client.replica.insert(key, row.into());
                        }
                        Change::Delete { table, row } => {
                            assert_eq!(row.len(), 1, "a delete names the key alone");
                            client.replica.remove(&(table, row["id"].as_i64().unwrap()));
                        }
                    }
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
        client.cursor = Some(cursor.lsn);
        let expected = expected(&self.rules, &client.user, self.postgres.at(cursor.lsn));
        assert_eq!(client.replica, expected, "{session:?} of {:?} at {}", client.user, cursor.lsn);
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
        let loaded = self.postgres.load(&self.plan, &load.topics);
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
        let user = User::random(&mut self.rng);
        let claims: Claims = self.plan.resolve_claims(user.id, &user.claims());
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let client = self.rng.random_range(0..CLIENTS.len());
        let known = if self.rng.random_bool(0.3) { self.postgres.wal_end() } else { Lsn(0) };
        let arriving = Client {
            user,
            arriving: Replica::new(),
            replica: Replica::new(),
            cursor: None,
            client,
            not_before: known,
            owed: Vec::new(),
        };
        self.clients.insert(session, arriving);
        let client = Some(CLIENTS[client].into());
        self.step(Input::Open(Opening { session, claims, client, not_before: known }));
    }

    fn close(&mut self) {
        let Some(session) = self.clients.keys().next().copied() else { return };
        self.clients.remove(&session);
        self.step(Input::Close(session));
    }
}

/// The rules, evaluated naively on all of the data.
fn expected(rules: &[Rule], user: &User, data: &Data) -> Replica {
    let mut replica = Replica::new();
    for (table, rule) in rules.iter().enumerate() {
        for row in data[table].values() {
            if rule.judge(row, user, data) == Some(true) {
                replica.insert((TABLES[table].to_owned(), row.id), row.json());
            }
        }
    }
    replica
}

#[test]
fn every_client_holds_what_its_rules_select_after_every_message() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("ROWTIDE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ROWTIDE_HISTORIES").unwrap_or(10_000),
    };
    for seed in seeds {
        let history = std::panic::AssertUnwindSafe(|| History::new(seed).run());
        if let Err(panic) = std::panic::catch_unwind(history) {
            eprintln!("this history fails: ROWTIDE_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
