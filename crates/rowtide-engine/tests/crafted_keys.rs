//! Keys that are crafted so that a hash without a seed is the same for all of them, wherever one from outside reaches
//! a map of the engine: ids and claims of users, ids of clients, topics, keys of rows. With such a hash each costs a
//! look at all that came before it, so twenty thousand cost some hundred times what any others do.

#![allow(clippy::unwrap_used, reason = "a test")]

mod teams;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rowtide_engine::{
    Engine, Input, Load, Loaded, Opening, Output, SessionId, TransactionSnapshot,
};
use rowtide_feed::{Acknowledgement, Change, Changes, History, RowChange, Transaction};
use rowtide_plan::encode::{Datum, RowEncoder};
use rowtide_plan::plan::Plan;
use rowtide_plan::row::Row;
use rowtide_protocol::{Cursor, Epoch, Lsn};

use crate::teams::{TEXT, plan};

/// How many keys collide.
const KEYS: usize = 20_000;
/// How often the time is taken: others run on the same machine.
const TRIES: usize = 5;

const DEFINITION: &str = "
    [tables.member]
    visible = 'person = auth.user_id'
    [tables.note]
    visible = 'team IN (SELECT team FROM member WHERE person = auth.user_id)'
";

/// Of rustc-hash 2.
const SEEDS: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];
const MIXED_IN: u64 = 0xa409_3822_299f_31d0;

/// Texts that collide when they follow `prefix`. That hash multiplies sixteen bytes after the other, and keeps what
/// came of them for the next but one; what is multiplied with zero is forgotten. So eight bytes that are what came of
/// the block before the last make the eight behind them mean nothing.
fn crafted(prefix: &str) -> Vec<String> {
    let (filler, forgets) = (0_u64..)
        .find_map(|n| {
            let filler = format!("{n:0width$}", width = 16 - prefix.len());
            let block = [prefix.as_bytes(), filler.as_bytes()].concat();
            let [x, y] = [0, 8].map(|at| u64::from_le_bytes(block[at..at + 8].try_into().unwrap()));
            let product = u128::from(SEEDS[0] ^ x) * u128::from(MIXED_IN ^ y);
            let mixed = ((product as u64) ^ ((product >> 64) as u64)).to_le_bytes();
            let is_plain = mixed.iter().all(u8::is_ascii_alphanumeric);
            is_plain.then(|| (filler, String::from_utf8(mixed.to_vec()).unwrap()))
        })
        .unwrap();
    let key = |n| format!("{filler}{}{forgets}{n:08}{}", "a".repeat(16), "b".repeat(17));
    (0..KEYS).map(key).collect()
}

/// As many texts of that length that do not.
fn ordinary(crafted: &[String]) -> Vec<String> {
    let length = crafted[0].len();
    (0..crafted.len()).map(|n| format!("{n:0length$}")).collect()
}

#[expect(clippy::disallowed_types, reason = "it is shown what such a hash does")]
fn hash_without_a_seed(key: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(key);
    hasher.finish()
}

#[track_caller]
fn assert_collides<'a>(keys: impl Iterator<Item = &'a [u8]>) {
    let hashes: BTreeSet<u64> = keys.map(hash_without_a_seed).collect();
    assert_eq!(hashes.len(), 1, "these keys are none that collide");
}

/// Fails if crafted keys cost much more than others.
#[track_caller]
fn assert_as_cheap(prefix: &str, run: impl Fn(&[String]) -> Duration) {
    let crafted = crafted(prefix);
    let ordinary = ordinary(&crafted);
    let mut took = Vec::new();
    for _ in 0..TRIES {
        let times = (run(&ordinary), run(&crafted));
        if times.1 < times.0 * 8 {
            return;
        }
        took.push(times);
    }
    panic!("crafted keys are dear: {took:?}");
}

/// An engine whose loads bring the rows that are here, and whose questions to the log are answered at once.
struct Deployment {
    plan: Arc<Plan>,
    engine: Engine,
    rows: Vec<Arc<Row>>,
    history: History,
    lsn: u64,
}

impl Deployment {
    fn new() -> Deployment {
        let plan = plan(DEFINITION, TEXT);
        let engine = Engine::new(Arc::clone(&plan), Epoch(1), Lsn(100), &[], usize::MAX);
        Deployment { plan, engine, rows: Vec::new(), history: History::default(), lsn: 100 }
    }

    fn row(&self, table: &str, columns: [&str; 3]) -> Change {
        let table = self.plan.table_id("public", table).unwrap();
        let encoder = RowEncoder::new(&self.plan, table, &["id", "team", "person"]).unwrap();
        let datums = columns.map(|text| Datum::Text(text.as_bytes()));
        Change { table, row: RowChange::Insert(Arc::new(encoder.row(&datums).unwrap())) }
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        let mut next = Some(input);
        while let Some(input) = next {
            self.engine.step(input, &mut outputs);
            let question = self.engine.take_history();
            let question =
                question.map(|of| Input::History(of.id, Some(std::mem::take(&mut self.history))));
            next = question.or_else(|| self.engine.take_load(100_000).map(|load| self.load(load)));
        }
        outputs
    }

    fn load(&self, load: Load) -> Input {
        let rows = load.topics.iter().map(|topic| {
            let rows = self.rows.iter().filter(|row| row.image.topics.contains(topic));
            Some(rows.cloned().collect())
        });
        let snapshot = TransactionSnapshot::new(1_000, vec![]);
        let rows = rows.collect();
        Input::Loaded(load.id, Loaded { snapshot, position: Lsn(self.lsn), rows })
    }

    fn open(&mut self, session: u64, user: &str, cursor: Option<Cursor>) -> Vec<Output> {
        let claims = self.plan.resolve_claims(user, &serde_json::Map::new());
        let client = Some(user.into());
        let session = SessionId(session);
        self.step(Input::Open(Opening {
            session,
            claims,
            client,
            not_before: None,
            cursor,
            subscriptions: Vec::new(),
        }))
    }

    fn commit(&mut self, changes: Vec<Change>, clients: &[String]) -> Vec<Output> {
        self.lsn += 100;
        let told = clients.iter().map(|client| {
            Arc::new(Acknowledgement {
                client: client.as_str().into(),
                last_mutation: 1,
                rejected: Vec::new(),
                name: None,
                keys: Vec::new(),
            })
        });
        self.step(Input::Transaction(Arc::new(Transaction {
            lsn: Lsn(self.lsn),
            xid: 1_000 + self.lsn as u32,
            commit_time_us: 0,
            truncated: Vec::new(),
            changes: Changes::Rows(changes),
            acknowledgements: told.collect(),
        })))
    }
}

fn took(run: impl FnOnce()) -> Duration {
    let began = Instant::now();
    run();
    began.elapsed()
}

#[test]
fn ids_of_users_and_clients() {
    assert_collides(crafted("").iter().map(String::as_bytes));
    assert_as_cheap("", |keys| {
        let mut deployment = Deployment::new();
        took(|| {
            for (session, user) in keys.iter().enumerate() {
                deployment.open(session as u64, user, None);
            }
            let told = deployment.commit(Vec::new(), keys);
            assert_eq!(told.len(), keys.len());
        })
    });
}

#[test]
fn topics_of_one_user() {
    assert_as_cheap("", |keys| {
        let mut deployment = Deployment::new();
        deployment.open(1, "eve", None);
        let member = |team: &String| deployment.row("member", [team, team, "eve"]);
        let members: Vec<Change> = keys.iter().map(member).collect();
        took(|| {
            deployment.commit(members, &[]);
            assert!(deployment.engine.counts().topics > keys.len());
        })
    });
}

#[test]
fn keys_of_rows() {
    let changes = |deployment: &Deployment, keys: &[String]| -> Vec<Change> {
        keys.iter().map(|key| deployment.row("note", [key, "red", "eve"])).collect()
    };
    let all = changes(&Deployment::new(), &crafted(r#"{"id":""#));
    assert_collides(all.iter().map(|change| &change.key()[..]));
    assert_as_cheap(r#"{"id":""#, |keys| {
        let mut deployment = Deployment::new();
        let RowChange::Insert(member) = deployment.row("member", ["m", "red", "eve"]).row else {
            panic!("it is an insert");
        };
        deployment.rows.push(member);
        deployment.open(1, "eve", None);
        let changes = changes(&deployment, keys);
        took(|| {
            let told = deployment.commit(changes, &[]);
            let [Output::Tx { message, .. }] = &told[..] else { panic!("{}", told.len()) };
            assert_eq!(message.rows, keys.len());
        })
    });
}

#[test]
fn rows_that_a_client_has_missed() {
    assert_as_cheap(r#"{"id":""#, |keys| {
        let mut deployment = Deployment::new();
        let RowChange::Insert(member) = deployment.row("member", ["m", "red", "eve"]).row else {
            panic!("it is an insert");
        };
        deployment.rows.push(member);
        let first = deployment.open(1, "eve", None);
        let Some(Output::Ready { cursor, .. }) = first.last() else { panic!("{first:?}") };
        let cursor = *cursor;
        let changes: Vec<Change> =
            keys.iter().map(|key| deployment.row("note", [key, "red", "eve"])).collect();
        deployment.commit(changes.clone(), &[]);
        let lsn = Lsn(deployment.lsn);
        deployment.history.changes = changes.into_iter().map(|change| (lsn, change)).collect();
        took(|| {
            let told = deployment.open(2, "eve", Some(cursor));
            let rows: usize = told
                .iter()
                .map(|output| match output {
                    Output::Tx { message, .. } => message.rows,
                    _ => 0,
                })
                .sum();
            assert_eq!(rows, keys.len());
        })
    });
}
