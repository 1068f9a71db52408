//! Arbitrary events.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use rowtide_feed::{
    Acknowledgement, Change, Changes, EpochReason, Event, Fingerprint, Transaction,
};
use rowtide_plan::plan::{BranchId, TableId};
use rowtide_plan::row::{Image, Row, Topic};
use rowtide_plan::value::{ColumnType, Value};
use rowtide_protocol::{Epoch, Lsn, MadeKey, Rejected};

pub(crate) fn value() -> impl Strategy<Value = Value> {
    let parsed = |kind, text: &str| Value::parse(&kind, text).unwrap();
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_map(Value::float),
        "\\PC{0,20}".prop_map(|text| Value::Text(text.into())),
        any::<[u8; 16]>().prop_map(Value::Uuid),
        vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Bytea(bytes.into())),
        vec(any::<i64>(), 0..4).prop_map(|numbers| {
            let elements: std::collections::BTreeSet<Value> =
                numbers.into_iter().map(Value::Int).collect();
            Value::Array(elements.into_iter().collect())
        }),
        "-?[0-9]{1,30}\\.[0-9]{1,20}".prop_map(move |text| parsed(ColumnType::Numeric, &text)),
        "20[0-9]{2}-0[1-9]-[12][0-8] 1[0-9]:00:00\\+00"
            .prop_map(move |text| parsed(ColumnType::TimestampTz, &text)),
    ]
}

fn image(key: Bytes) -> impl Strategy<Value = Image> {
    let topic = (any::<u16>(), option::of(value()))
        .prop_map(|(branch, anchor)| Topic { branch: BranchId(branch), anchor });
    (vec(value(), 0..4), vec(topic, 0..4)).prop_map(move |(kept, topics)| Image {
        key: key.clone(),
        kept: kept.into(),
        topics: topics.into(),
    })
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let json = || vec(any::<u8>(), 0..80).prop_map(Bytes::from);
    (any::<u16>(), json(), json(), 0..4).prop_flat_map(|(table, key, json, kind)| {
        (image(key.clone()), image(key)).prop_map(move |(old, new)| {
            let image = if kind == 3 { old.clone() } else { new };
            let after = (kind != 1).then(|| Arc::new(Row { image, json: json.clone() }));
            Change::between(TableId(table), (kind != 0).then_some(old), after).unwrap()
        })
    })
}

fn tables() -> impl Strategy<Value = Vec<TableId>> {
    vec(any::<u16>().prop_map(TableId), 0..4)
}

fn acknowledgement() -> impl Strategy<Value = Arc<Acknowledgement>> {
    let text = || "\\PC{0,12}";
    let rejected = vec((any::<u64>(), text(), text()), 0..3).prop_map(|rejected| {
        rejected.into_iter().map(|(id, code, message)| Rejected { id, code, message }).collect()
    });
    let made = (any::<u64>(), any::<u32>(), text(), any::<i64>());
    let keys = vec(made, 0..3).prop_map(|keys| {
        let made = |(id, op, column, value): (u64, u32, String, i64)| MadeKey {
            id,
            op,
            key: [(column, value.into())].into_iter().collect(),
        };
        keys.into_iter().map(made).collect()
    });
    (text(), any::<u64>(), rejected, keys, option::of(text())).prop_map(
        |(client, last_mutation, rejected, keys, name)| {
            let (client, name) = (client.into(), name.map(String::into));
            Arc::new(Acknowledgement { client, last_mutation, rejected, keys, name })
        },
    )
}

pub(crate) fn transaction() -> impl Strategy<Value = Transaction> {
    let changes = prop_oneof![
        3 => vec(change(), 0..4).prop_map(Changes::Rows),
        1 => tables().prop_map(Changes::TooLarge),
    ];
    (any::<u64>(), any::<u32>(), any::<i64>(), tables(), changes, vec(acknowledgement(), 0..3))
        .prop_map(|(lsn, xid, commit_time_us, truncated, changes, acknowledgements)| Transaction {
            lsn: Lsn(lsn),
            xid,
            commit_time_us,
            truncated,
            changes,
            acknowledgements,
        })
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let lsn = || any::<u64>().prop_map(Lsn);
    let reason = (0..EpochReason::ALL.len()).prop_map(|index| EpochReason::ALL[index]);
    prop_oneof![
        4 => (lsn(), transaction()).prop_map(|(previous, transaction)| Event::Transaction {
            previous,
            transaction: Arc::new(transaction),
        }),
        1 => (any::<u64>(), any::<[u8; 32]>(), lsn(), reason).prop_map(
            |(epoch, plan, position, reason)| Event::EpochBegan {
                epoch: Epoch(epoch),
                plan: Fingerprint(plan),
                position,
                reason,
            },
        ),
        1 => lsn().prop_map(|wal_end| Event::StreamBegan { wal_end }),
        1 => (lsn(), lsn(), any::<i64>())
            .prop_map(|(previous, lsn, time_us)| Event::Position { previous, lsn, time_us }),
        1 => (lsn(), lsn(), any::<[u8; 32]>(), prop::collection::vec(any::<u16>(), 0..4)).prop_map(
            |(previous, lsn, plan, tables)| Event::Reshaped {
                previous,
                lsn,
                plan: Fingerprint(plan),
                tables: tables.into_iter().map(TableId).collect(),
            },
        ),
        1 => ("\\PC{0,20}", "\\PC{0,20}")
            .prop_map(|(table, what)| Event::TableChanged { table, what }),
    ]
}
