//! Random histories, a directory of a test's own, and the naive answer to compare with.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;
use rowtide_feed::{Acknowledgement, Change, Changes, Event, History, HistoryQuery, Transaction};
use rowtide_log::{HistoryError, Log, LogIdentity, LogOptions, LogReader, Opened};
use rowtide_plan::plan::{BranchId, TableId};
use rowtide_plan::row::{Image, Row, Topic};
use rowtide_plan::value::Value;
use rowtide_protocol::{Lsn, MadeKey, Rejected};

/// Removed when it is dropped.
pub(crate) struct TestDir(pub(crate) PathBuf);

impl TestDir {
    pub(crate) fn new(name: &str) -> TestDir {
        let unique =
            format!("rowtide-log-{name}-{}-{:x}", std::process::id(), rand::random::<u64>());
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).unwrap();
        TestDir(path)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

pub(crate) fn identity() -> LogIdentity {
    LogIdentity {
        plan: [7; 32],
        columns: vec![3],
        system: 42,
        database: 5,
        timeline: 1,
        slot: "rowtide".into(),
    }
}

pub(crate) fn options(dir: &Path) -> LogOptions {
    LogOptions {
        dir: dir.to_owned(),
        retention: Duration::from_secs(24 * 3_600),
        max_bytes: 1 << 30,
    }
}

pub(crate) fn open(dir: &Path) -> Opened {
    begun(Log::open(options(dir), identity()).unwrap(), identity())
}

/// The log begins at the first position there is, if nothing has begun in it.
pub(crate) fn begun(mut opened: Opened, of: LogIdentity) -> Opened {
    if opened.log.extent().is_none() {
        opened.log.begin_epoch(of, Lsn(0)).unwrap();
    }
    opened
}

pub(crate) fn oldest(log: &Log) -> Lsn {
    log.extent().unwrap().oldest
}

pub(crate) fn end(log: &Log) -> Lsn {
    log.extent().unwrap().durable
}

pub(crate) fn topic(branch: u16, anchor: i64) -> Topic {
    Topic { branch: BranchId(branch), anchor: Some(Value::Int(anchor)) }
}

/// Each topic that [`transaction`] uses.
pub(crate) fn all_topics() -> Vec<Topic> {
    let anchored = (0..3).flat_map(|branch| (0..6).map(move |anchor| topic(branch, anchor)));
    anchored.chain([Topic { branch: BranchId(9), anchor: None }]).collect()
}

pub(crate) const TABLES: [TableId; 3] = [TableId(0), TableId(1), TableId(2)];

fn image(random: &mut SmallRng, key: u32) -> Image {
    let topics = all_topics();
    let topics = (0..random.random_range(0..3))
        .map(|_| topics[random.random_range(0..topics.len())].clone())
        .collect();
    let kept = (0..random.random_range(0..3))
        .map(|_| match random.random_range(0..4) {
            0 => Value::Null,
            1 => Value::Bool(random.random()),
            2 => Value::Int(random.random()),
            _ => Value::Text(format!("{:x}", random.random::<u64>()).into()),
        })
        .collect();
    Image { key: Bytes::from(format!("{{\"id\":{key}}}")), kept, topics }
}

fn change(random: &mut SmallRng) -> Change {
    let key = random.random_range(0..50);
    let table = TABLES[random.random_range(0..TABLES.len())];
    let kind = random.random_range(0..4);
    let old = (kind != 0).then(|| image(random, key));
    let new = (kind != 1).then(|| {
        let image = match &old {
            Some(old) if kind == 3 => old.clone(),
            _ => image(random, key),
        };
        let filler = "x".repeat(random.random_range(0..300));
        let json = Bytes::from(format!(
            "{{\"id\":{key},\"n\":{},\"f\":\"{filler}\"}}",
            random.random::<u32>()
        ));
        Arc::new(Row { image, json })
    });
    Change::between(table, old, new).expect("it is there before or after")
}

/// A transaction some way behind `after`.
pub(crate) fn transaction(
    random: &mut SmallRng,
    after: Lsn,
    commit_time_us: i64,
) -> Arc<Transaction> {
    let tables = |random: &mut SmallRng| vec![TABLES[random.random_range(0..TABLES.len())]];
    let truncated = if random.random_ratio(1, 30) { tables(random) } else { Vec::new() };
    let changes = match random.random_range(0..40) {
        0 => Changes::TooLarge(tables(random)),
        1 => Changes::TooLarge(Vec::new()),
        2..6 => Changes::Rows(Vec::new()),
        _ => {
            let count = random.random_range(1..6);
            Changes::Rows((0..count).map(|_| change(random)).collect())
        }
    };
    let acknowledgements = (0..random.random_range(0_u32..6).saturating_sub(3))
        .map(|_| Arc::new(acknowledgement(random)))
        .collect();
    Arc::new(Transaction {
        lsn: Lsn(after.0 + random.random_range(1..1_000)),
        xid: random.random(),
        commit_time_us,
        truncated,
        changes,
        acknowledgements,
    })
}

fn acknowledgement(random: &mut SmallRng) -> Acknowledgement {
    let last_mutation = random.random();
    let rejected = (0..random.random_range(0..3))
        .map(|_| Rejected {
            id: random.random(),
            code: "forbidden".to_owned(),
            message: "x".repeat(random.random_range(0..20)),
        })
        .collect();
    Acknowledgement {
        client: format!("client-{}", random.random_range(0..9)).into(),
        last_mutation,
        rejected,
        name: random.random_ratio(1, 3).then(|| "name".into()),
        keys: (0..random.random_range(0..3_u32).saturating_sub(1))
            .map(|op| made(random, op))
            .collect(),
    }
}

fn made(random: &mut SmallRng, op: u32) -> MadeKey {
    let key = [("id".to_owned(), random.random::<i64>().into())];
    MadeKey { id: random.random(), op, key: key.into_iter().collect() }
}

/// The transactions as the feed carries them, behind a transaction that ended at `previous`.
pub(crate) fn events(mut previous: Lsn, transactions: &[Arc<Transaction>]) -> Vec<Event> {
    let event = |transaction: &Arc<Transaction>| {
        let before = std::mem::replace(&mut previous, transaction.lsn);
        Event::Transaction { previous: before, transaction: Arc::clone(transaction) }
    };
    transactions.iter().map(event).collect()
}

/// Appends transactions behind the last one.
pub(crate) fn append(log: &mut Log, reader: &LogReader, transactions: &[Arc<Transaction>]) {
    log.append(&events(reader.last_transaction().unwrap(), transactions)).unwrap();
}

/// All that happened in `topics`.
pub(crate) fn history(
    reader: &LogReader,
    topics: &[Topic],
    tables: &[TableId],
    after: Lsn,
    up_to: Lsn,
    max_changes: usize,
) -> Result<History, HistoryError> {
    let query = HistoryQuery { topics: topics.to_vec(), tables: tables.into(), after, up_to };
    reader.history_within(&query, max_changes, usize::MAX)
}
