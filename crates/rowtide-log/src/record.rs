//! Changes as bytes. A record is a checksum and one change, with the JSON of its row; numbers are
//! little-endian, and everything of no fixed size has its length before it. Reading is total: any
//! bytes are a change or refused.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_feed::{Change, RowChange};
use rowtide_plan::plan::{BranchId, TableId};
use rowtide_plan::row::{Image, Row, Topic};
use rowtide_plan::value::Value;
use rowtide_protocol::Lsn;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The bytes are not a record, or not the one that was written at this position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a record of the log is damaged")]
pub struct Damaged;

/// What of a row is in a record.
mod shape {
    pub(super) const INSERT: u8 = 0;
    pub(super) const DELETE: u8 = 1;
    pub(super) const UPDATE: u8 = 2;
    /// An update that moved no kept value and no topic: most are.
    pub(super) const UPDATE_IN_PLACE: u8 = 3;
}

/// The record of `change`, which is of the transaction at `lsn`.
pub(crate) fn write_change(lsn: Lsn, change: &Change) -> Vec<u8> {
    let json = change.after().map_or(0, |row| row.json.len());
    let mut into = Vec::with_capacity(json + 256);
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&change.table.0.to_le_bytes());
    match &change.row {
        RowChange::Insert(after) => write_row(&mut into, shape::INSERT, None, after),
        RowChange::Update { before, after } if *before == after.image => {
            write_row(&mut into, shape::UPDATE_IN_PLACE, None, after);
        }
        RowChange::Update { before, after } => {
            write_row(&mut into, shape::UPDATE, Some(before), after);
        }
        RowChange::Delete(before) => {
            into.push(shape::DELETE);
            write_slice(&mut into, &before.key);
            write_values(&mut into, before);
        }
    }
    let checksum = checksum(lsn, &into[4..]);
    into[..4].copy_from_slice(&checksum);
    into
}

/// The change of a record.
///
/// # Errors
/// When `record` is not what was written for a change of the transaction at `lsn`.
pub(crate) fn read_change(lsn: Lsn, record: &[u8]) -> Result<Change, Damaged> {
    let (stored, body) = record.split_first_chunk::<4>().ok_or(Damaged)?;
    if *stored != checksum(lsn, body) {
        return Err(Damaged);
    }
    parse_change(body).ok_or(Damaged)
}

/// What is behind the checksum of a record; `None` if it is no change. Total: any bytes may come.
pub fn parse_change(mut body: &[u8]) -> Option<Change> {
    let from = &mut body;
    let table = TableId(u16::from_le_bytes(read_array(from)?));
    let [kind] = read_array(from)?;
    let key = Bytes::copy_from_slice(read_slice(from)?);
    let image = read_values(from, key.clone())?;
    let row = |image, from: &mut &[u8]| {
        Some(Arc::new(Row { image, json: Bytes::copy_from_slice(read_slice(from)?) }))
    };
    let row = match kind {
        shape::INSERT => RowChange::Insert(row(image, from)?),
        shape::UPDATE_IN_PLACE => {
            RowChange::Update { before: image.clone(), after: row(image, from)? }
        }
        shape::UPDATE => {
            let after = read_values(from, key)?;
            RowChange::Update { before: image, after: row(after, from)? }
        }
        shape::DELETE => RowChange::Delete(image),
        _ => return None,
    };
    from.is_empty().then_some(Change { table, row })
}

/// The position is in it, so that a record is not taken for one of another transaction.
fn checksum(lsn: Lsn, body: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&lsn.0.to_le_bytes());
    hasher.update(body);
    hasher.finalize().to_le_bytes()
}

fn write_row(into: &mut Vec<u8>, kind: u8, old: Option<&Image>, new: &Row) {
    into.push(kind);
    write_slice(into, &new.image.key);
    if let Some(old) = old {
        write_values(into, old);
    }
    write_values(into, &new.image);
    write_slice(into, &new.json);
}

/// Kept values and topics.
fn write_values(into: &mut Vec<u8>, image: &Image) {
    into.extend_from_slice(&(image.kept.len() as u16).to_le_bytes());
    image.kept.iter().for_each(|value| value.write(into));
    into.extend_from_slice(&(image.topics.len() as u16).to_le_bytes());
    image.topics.iter().for_each(|topic| write_topic(into, topic));
}

fn read_values(from: &mut &[u8], key: Bytes) -> Option<Image> {
    let kept = read_list(from, Value::read)?;
    let topics = read_list(from, read_topic)?;
    Some(Image { key, kept, topics })
}

fn write_topic(into: &mut Vec<u8>, topic: &Topic) {
    into.extend_from_slice(&topic.branch.0.to_le_bytes());
    into.push(u8::from(topic.anchor.is_some()));
    if let Some(anchor) = &topic.anchor {
        anchor.write(into);
    }
}

fn read_topic(from: &mut &[u8]) -> Option<Topic> {
    let branch = BranchId(u16::from_le_bytes(read_array(from)?));
    let anchor = match read_array(from)? {
        [0] => None,
        [1] => Some(Value::read(from)?),
        _ => return None,
    };
    Some(Topic { branch, anchor })
}

/// What the index knows of a topic. Two topics that share it by chance cost a look at each other's
/// records, and are told apart there.
pub(crate) fn topic_hash(topic: &Topic) -> i64 {
    let mut bytes = Vec::with_capacity(64);
    write_topic(&mut bytes, topic);
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(&bytes));
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// What a transaction did to whole tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interruptions {
    pub(crate) truncated: Vec<TableId>,
    /// The tables, if its changes were too much to hold.
    pub(crate) too_large: Option<Vec<TableId>>,
}

impl Interruptions {
    pub(crate) fn tables(&self) -> impl Iterator<Item = TableId> {
        self.truncated.iter().chain(self.too_large.iter().flatten()).copied()
    }

    /// `None` if there is nothing to write.
    pub(crate) fn write(&self) -> Option<Vec<u8>> {
        if *self == Interruptions::default() {
            return None;
        }
        let mut into = Vec::new();
        let mut list = |tables: &[TableId]| {
            into.extend_from_slice(&(tables.len() as u16).to_le_bytes());
            tables.iter().for_each(|table| into.extend_from_slice(&table.0.to_le_bytes()));
        };
        list(&self.truncated);
        if let Some(tables) = &self.too_large {
            list(tables);
        }
        Some(into)
    }

    pub(crate) fn read(mut from: &[u8]) -> Result<Interruptions, Damaged> {
        let table = |from: &mut &[u8]| Some(TableId(u16::from_le_bytes(read_array(from)?)));
        let truncated = read_list(&mut from, table).ok_or(Damaged)?.into();
        let mut too_large = None;
        if !from.is_empty() {
            too_large = Some(read_list(&mut from, table).ok_or(Damaged)?.into());
        }
        if from.is_empty() { Ok(Interruptions { truncated, too_large }) } else { Err(Damaged) }
    }
}

fn write_slice(into: &mut Vec<u8>, bytes: &[u8]) {
    // A row of Postgres has at most a gigabyte.
    into.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    into.extend_from_slice(bytes);
}

fn read_slice<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(read_array(from)?);
    let (bytes, rest) = from.split_at_checked(usize::try_from(length).ok()?)?;
    *from = rest;
    Some(bytes)
}

fn read_array<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*bytes)
}

/// A number of things and the things; none of them is empty, so the bytes bound their number.
fn read_list<T>(from: &mut &[u8], read: impl Fn(&mut &[u8]) -> Option<T>) -> Option<Box<[T]>> {
    let count = u16::from_le_bytes(read_array(from)?);
    (0..count).map(|_| read(from)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        use rowtide_plan::value::ColumnType::{Numeric, TimestampTz};
        let parsed = |kind, text: &str| Value::parse(&kind, text).unwrap();
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<f64>().prop_map(Value::float),
            "\\PC{0,20}".prop_map(|text| Value::Text(text.into())),
            any::<[u8; 16]>().prop_map(Value::Uuid),
            vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Bytea(bytes.into())),
            "-?[0-9]{1,30}\\.[0-9]{1,20}".prop_map(move |text| parsed(Numeric, &text)),
            "20[0-9]{2}-0[1-9]-[12][0-8] 1[0-9]:00:00\\+00"
                .prop_map(move |text| parsed(TimestampTz, &text)),
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

    fn change() -> impl Strategy<Value = Change> {
        let json = || vec(any::<u8>(), 0..80).prop_map(Bytes::from);
        (any::<u16>(), json(), json(), 0..4).prop_flat_map(|(table, key, json, kind)| {
            (image(key.clone()), image(key)).prop_map(move |(old, new)| {
                let image = if kind == 3 { old.clone() } else { new };
                let after = (kind != 1).then(|| Arc::new(Row { image, json: json.clone() }));
                Change::between(TableId(table), (kind != 0).then_some(old), after).unwrap()
            })
        })
    }

    proptest! {
        #[test]
        fn a_change_is_read_back_at_its_position_alone(change in change(), lsn: u64) {
            let record = write_change(Lsn(lsn), &change);
            prop_assert_eq!(read_change(Lsn(lsn), &record).unwrap(), change);
            prop_assert!(read_change(Lsn(lsn ^ 1), &record).is_err());
        }

        #[test]
        fn a_record_that_is_cut_or_changed_is_refused(change in change(), at: usize, bit in 0..8u8) {
            let record = write_change(Lsn(1), &change);
            let at = at % record.len();
            prop_assert!(read_change(Lsn(1), &record[..at]).is_err());
            let mut changed = record;
            changed[at] ^= 1_u8 << bit;
            prop_assert!(read_change(Lsn(1), &changed).is_err());
        }

        #[test]
        fn any_bytes_are_a_change_or_refused(
            bytes in vec(any::<u8>(), 0..60),
            change in change(),
            at: usize,
            byte: u8,
        ) {
            drop(parse_change(&bytes));
            drop(Interruptions::read(&bytes));
            let mut near = write_change(Lsn(1), &change).split_off(4);
            let at = at % near.len();
            near[at] = byte;
            drop(parse_change(&near));
        }

        #[test]
        fn interruptions_are_read_back(
            truncated in vec(any::<u16>().prop_map(TableId), 0..4),
            too_large in option::of(vec(any::<u16>().prop_map(TableId), 0..4)),
        ) {
            let interruptions = Interruptions { truncated, too_large };
            let read = interruptions.write().map(|bytes| Interruptions::read(&bytes));
            prop_assert_eq!(read.unwrap_or(Ok(Interruptions::default())), Ok(interruptions));
        }
    }
}
