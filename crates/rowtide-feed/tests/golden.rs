//! The very bytes of each version. A version that was written once is read for ever: these files stay as they are,
//! whatever the present version is. `ROWTIDE_GOLDEN=write` writes those that are not there yet.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rowtide_feed::codec::{
    decode, decode_change, decode_commit, encode, encode_change, encode_commit, topic_hash,
};
use rowtide_feed::{
    Acknowledgement, Change, Changes, EpochReason, Event, Fingerprint, RowChange, Transaction,
};
use rowtide_plan::plan::{BranchId, TableId};
use rowtide_plan::row::{Image, Row, Topic};
use rowtide_plan::value::{ColumnType, Value};
use rowtide_protocol::{Epoch, Lsn, MadeKey, Rejected};

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

#[track_caller]
fn parsed(kind: ColumnType, text: &str) -> Value {
    Value::parse(&kind, text).unwrap()
}

/// One of every kind, and of some more than one.
fn values() -> Vec<Value> {
    vec![
        Value::Null,
        Value::Bool(false),
        Value::Bool(true),
        Value::Int(-2),
        Value::float(-1.5),
        Value::float(f64::NAN),
        parsed(ColumnType::Numeric, "-120.0450"),
        parsed(ColumnType::Numeric, "NaN"),
        Value::Text("ä\u{10FFFF}".into()),
        parsed(ColumnType::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        Value::Bytea([0, 0xff].into()),
        parsed(ColumnType::TimestampTz, "2001-02-03 04:05:06.789+00"),
        parsed(ColumnType::TimestampTz, "infinity"),
        parsed(ColumnType::Date, "2001-02-03"),
    ]
}

fn topic(branch: u16, anchor: Option<Value>) -> Topic {
    Topic { branch: BranchId(branch), anchor }
}

fn image(kept: Vec<Value>, topics: Vec<Topic>) -> Image {
    let key = Bytes::from_static(b"{\"id\":1}");
    Image { key, kept: kept.into(), topics: topics.into() }
}

fn row(image: Image) -> Arc<Row> {
    Arc::new(Row { image, json: Bytes::from_static(b"{\"id\":1,\"text\":\"x\"}") })
}

fn changes() -> Vec<(&'static str, Change)> {
    let every = image(values(), values().into_iter().map(|value| topic(7, Some(value))).collect());
    let moved = image(vec![Value::Int(2)], vec![topic(1, Some(Value::Int(2))), topic(2, None)]);
    let change = |table, row| Change { table: TableId(table), row };
    vec![
        ("insert", change(1, RowChange::Insert(row(every.clone())))),
        ("insert_plain", change(0, RowChange::Insert(row(image(vec![], vec![]))))),
        ("delete", change(0x0102, RowChange::Delete(every.clone()))),
        (
            "update",
            change(1, RowChange::Update { before: every.clone(), after: row(moved.clone()) }),
        ),
        (
            "update_in_place",
            change(1, RowChange::Update { before: moved.clone(), after: row(moved) }),
        ),
    ]
}

fn transactions() -> Vec<(&'static str, Transaction)> {
    let empty = Transaction {
        lsn: Lsn(0x16_b374_d848),
        xid: 0x0102_0304,
        commit_time_us: 1_700_000_000_000_001,
        truncated: vec![],
        changes: Changes::Rows(vec![]),
        acknowledgements: vec![],
    };
    let named = Acknowledgement {
        client: "client-1".into(),
        last_mutation: 9,
        rejected: vec![
            Rejected { id: 8, code: "forbidden".into(), message: "no".into() },
            Rejected { id: 9, code: "max_files_reached".into(), message: String::new() },
        ],
        name: Some("m-9".into()),
        keys: Vec::new(),
    };
    let plain = Acknowledgement {
        client: "ä".into(),
        last_mutation: u64::MAX,
        rejected: vec![],
        name: None,
        keys: Vec::new(),
    };
    let rows = changes().into_iter().map(|(_, change)| change).collect();
    let acknowledgements = vec![Arc::new(named), Arc::new(plain)];
    let too_large = Changes::TooLarge(vec![TableId(3), TableId(0x0405)]);
    vec![
        ("empty", empty.clone()),
        ("rows", Transaction { changes: Changes::Rows(rows), ..empty.clone() }),
        ("too_large", Transaction { changes: too_large.clone(), ..empty.clone() }),
        ("too_large_no_table", Transaction { changes: Changes::TooLarge(vec![]), ..empty.clone() }),
        (
            "truncated",
            Transaction {
                truncated: vec![TableId(2), TableId(9)],
                commit_time_us: -1,
                ..empty.clone()
            },
        ),
        (
            "acknowledged",
            Transaction { acknowledgements: acknowledgements.clone(), ..empty.clone() },
        ),
        (
            "everything",
            Transaction {
                truncated: vec![TableId(2)],
                changes: too_large,
                acknowledgements,
                ..empty
            },
        ),
    ]
}

/// Where the transaction before them ended.
const PREVIOUS: Lsn = Lsn(0x16_b374_d000);

fn events() -> Vec<(String, Event)> {
    let began = EpochReason::ALL.into_iter().map(|reason| {
        let event = Event::EpochBegan {
            epoch: Epoch(0x0102_0304_0506_0708),
            plan: Fingerprint(std::array::from_fn(|index| index as u8)),
            position: Lsn(0x1000),
            reason,
        };
        (format!("epoch_began_{reason}"), event)
    });
    let transactions = transactions().into_iter().map(|(name, transaction)| {
        let transaction = Arc::new(transaction);
        (format!("transaction_{name}"), Event::Transaction { previous: PREVIOUS, transaction })
    });
    let position =
        Event::Position { previous: PREVIOUS, lsn: Lsn(u64::MAX), time_us: 1_700_000_000_000_002 };
    let changed =
        Event::TableChanged { table: "public.notes".into(), what: "the column `n` is gone".into() };
    let others = [
        ("stream_began".to_owned(), Event::StreamBegan { wal_end: Lsn(0x2000) }),
        ("position".to_owned(), position),
        ("table_changed".to_owned(), changed),
    ];
    began.chain(transactions).chain(others).collect()
}

fn directory(version: u8) -> PathBuf {
    Path::new(DIR).join(format!("v{version}"))
}

/// Every file of a version is held against a value.
#[track_caller]
fn are_all(version: u8, held: &BTreeSet<String>) {
    let there: BTreeSet<String> = fs::read_dir(directory(version))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(&there, held, "every file is held against a value");
}

fn hold_event(version: u8, name: &str, event: &Event) -> String {
    let mut bytes = Vec::new();
    encode(event, &mut bytes);
    assert_eq!(bytes[4], version, "it is written as the first version that had it");
    hold(version, name, event, &bytes, |golden| {
        let mut from = golden;
        let event = decode(&mut from).unwrap();
        assert!(from.is_empty());
        event
    })
}

/// The file `name` has the bytes that `value` is encoded to, and is decoded to `value`.
fn hold<T: PartialEq + Debug>(
    version: u8,
    name: &str,
    value: &T,
    encoded: &[u8],
    decode: impl FnOnce(&[u8]) -> T,
) -> String {
    let file = format!("{name}.bin");
    let path = directory(version).join(&file);
    if !path.exists() && std::env::var("ROWTIDE_GOLDEN").is_ok_and(|what| what == "write") {
        fs::write(&path, encoded).unwrap();
    }
    let golden = fs::read(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert_eq!(&decode(&golden), value, "{file}");
    assert_eq!(encoded, golden, "{file}");
    file
}

#[test]
fn version_1_is_what_it_was() {
    let mut files = BTreeSet::new();
    for (name, event) in events() {
        files.insert(hold_event(1, &name, &event));
    }
    let lsn = Lsn(0x16_b374_d848);
    for (name, change) in changes() {
        let mut bytes = Vec::new();
        encode_change(lsn, &change, &mut bytes);
        let name = format!("record_change_{name}");
        files.insert(hold(1, &name, &change, &bytes, |golden| decode_change(lsn, golden).unwrap()));
    }
    for (name, transaction) in transactions() {
        let rows = match &transaction.changes {
            Changes::Rows(rows) => rows.clone(),
            Changes::TooLarge(_) => Vec::new(),
        };
        let mut bytes = Vec::new();
        encode_commit(PREVIOUS, &transaction, &mut bytes);
        files.insert(hold(1, &format!("record_commit_{name}"), &transaction, &bytes, |golden| {
            let commit = decode_commit(lsn, golden).unwrap();
            assert_eq!(commit.previous, PREVIOUS);
            commit.with_changes(rows).unwrap()
        }));
    }
    are_all(1, &files);
}

#[test]
fn version_2_is_what_it_was() {
    let event = Event::Reshaped {
        previous: PREVIOUS,
        lsn: Lsn(0x16_b374_d849),
        plan: Fingerprint(std::array::from_fn(|index| index as u8)),
        tables: vec![TableId(2), TableId(0x0405)],
    };
    are_all(2, &[hold_event(2, "reshaped", &event)].into());
}

#[test]
fn version_3_is_what_it_was() {
    let made = |id, op, key: &str| MadeKey { id, op, key: serde_json::from_str(key).unwrap() };
    let of = |client: &str, keys| {
        Arc::new(Acknowledgement {
            client: client.into(),
            last_mutation: 9,
            rejected: vec![],
            keys,
            name: None,
        })
    };
    let keys = vec![made(8, 0, r#"{"id":4711}"#), made(9, 499, r#"{"number":"12","org":"ä"}"#)];
    let transaction = Transaction {
        lsn: Lsn(0x16_b374_d848),
        xid: 0x0102_0304,
        commit_time_us: 1_700_000_000_000_001,
        truncated: vec![],
        changes: Changes::Rows(changes().into_iter().map(|(_, change)| change).take(1).collect()),
        acknowledgements: vec![of("client-1", keys), of("client-2", vec![])],
    };
    let mut bytes = Vec::new();
    encode_commit(PREVIOUS, &transaction, &mut bytes);
    let record = hold(3, "record_commit_with_keys", &transaction, &bytes, |golden| {
        let commit = decode_commit(transaction.lsn, golden).unwrap();
        let Changes::Rows(rows) = transaction.changes.clone() else { unreachable!() };
        commit.with_changes(rows).unwrap()
    });
    let event =
        Event::Transaction { previous: PREVIOUS, transaction: Arc::new(transaction.clone()) };
    let message = hold_event(3, "transaction_with_keys", &event);
    are_all(3, &[record, message].into());
}

/// The numbers were computed by another program from the description of the bytes.
#[test]
fn topics_have_the_hashes_that_they_always_had() {
    let hashes = [
        (topic(1, None), 0x6c26_ff17_07dc_50fb),
        (topic(0x0102, Some(Value::Int(7))), 0xf1b0_15b5_a552_598f),
        (topic(3, Some(Value::Text("user-ä".into()))), 0xb0da_d613_6523_2e49),
    ];
    for (topic, hash) in hashes {
        assert_eq!(topic_hash(&topic), hash, "{topic:?}");
    }
}
