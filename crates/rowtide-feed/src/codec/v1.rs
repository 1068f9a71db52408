//! Versions 1 to 3 of what is inside messages and records: `docs/feed.md` describes it byte by byte, and the golden
//! files of the tests hold it. Version 2 has one kind more, version 3 two. Numbers are little-endian, and everything of no fixed size has its length or its
//! number before it. Nothing in here may change; what is to be otherwise is another version.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_plan::plan::{BranchId, TableId};
use rowtide_plan::row::{Image, Row, Topic};
use rowtide_protocol::{Epoch, Lsn, MadeKey, Rejected};
use serde_json::Map;

use super::read::Reader;
use super::{Commit, Content, DecodeError, kind};
use crate::{
    Acknowledgement, Change, Changes, EpochReason, Event, Fingerprint, RowChange, Transaction,
};

/// What of a row is in a change.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Shape {
    Insert = 0,
    Delete = 1,
    Update = 2,
    /// An update that moved no kept value and no topic: most are.
    UpdateInPlace = 3,
}

impl Shape {
    fn of(tag: u8) -> Option<Shape> {
        let shapes = [Shape::Insert, Shape::Delete, Shape::Update, Shape::UpdateInPlace];
        shapes.get(usize::from(tag)).copied()
    }
}

/// What a transaction did to rows.
#[derive(Clone, Copy)]
#[repr(u8)]
enum ContentTag {
    Rows = 0,
    TooLarge = 1,
}

/// Whether acknowledgements have keys that were made.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Keys {
    /// No transaction did before version 3, and of most there are none.
    NotTold,
    Told,
}

/// The numbers of the reasons.
fn reason_number(reason: EpochReason) -> u8 {
    match reason {
        EpochReason::NewLog => 1,
        EpochReason::UnusableLog => 2,
        EpochReason::OtherDatabase => 3,
        EpochReason::OtherTables => 4,
        EpochReason::LogBehind => 5,
        EpochReason::LogShort => 6,
        EpochReason::DatabaseBehind => 7,
        EpochReason::OtherTransactions => 8,
        EpochReason::MissingTransactions => 9,
        EpochReason::SlotLost => 10,
        EpochReason::SlotMissing => 11,
        EpochReason::AlteredBack => 12,
        EpochReason::PublicationChanged => 13,
        EpochReason::TableReplaced => 14,
    }
}

/// A length or a number of things. More than four gigabytes are never held in one transaction; if they were, it
/// would be rejected by whoever reads it, and not taken for something else.
pub(super) fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

pub(super) fn write_event(into: &mut Vec<u8>, event: &Event) {
    match event {
        Event::EpochBegan { epoch, plan, position, reason } => {
            into.extend_from_slice(&epoch.0.to_le_bytes());
            into.extend_from_slice(&plan.0);
            into.extend_from_slice(&position.0.to_le_bytes());
            into.push(reason_number(*reason));
        }
        Event::StreamBegan { wal_end } => into.extend_from_slice(&wal_end.0.to_le_bytes()),
        Event::Transaction { previous, transaction } => {
            into.extend_from_slice(&transaction.lsn.0.to_le_bytes());
            write_commit(into, *previous, transaction);
            if let Changes::Rows(changes) = &transaction.changes {
                changes.iter().for_each(|change| write_change(into, change));
            }
        }
        Event::Position { previous, lsn, time_us } => {
            into.extend_from_slice(&previous.0.to_le_bytes());
            into.extend_from_slice(&lsn.0.to_le_bytes());
            into.extend_from_slice(&time_us.to_le_bytes());
        }
        Event::TableChanged { table, what } => {
            write_slice(into, table.as_bytes());
            write_slice(into, what.as_bytes());
        }
        Event::Reshaped { previous, lsn, plan, tables } => {
            into.extend_from_slice(&previous.0.to_le_bytes());
            into.extend_from_slice(&lsn.0.to_le_bytes());
            into.extend_from_slice(&plan.0);
            write_tables(into, tables);
        }
    }
}

pub(super) fn read_event(from: &mut Reader<'_>, kind: u8) -> Result<Event, DecodeError> {
    Ok(match kind {
        kind::EPOCH_BEGAN => Event::EpochBegan {
            epoch: Epoch(from.u64("epoch")?),
            plan: Fingerprint(from.array("fingerprint")?),
            position: Lsn(from.u64("position")?),
            reason: from.tag("reason", |tag| {
                EpochReason::ALL.into_iter().find(|reason| reason_number(*reason) == tag)
            })?,
        },
        kind::STREAM_BEGAN => Event::StreamBegan { wal_end: Lsn(from.u64("end of WAL")?) },
        kind::TRANSACTION | kind::TRANSACTION_WITH_KEYS => {
            let lsn = Lsn(from.u64("position")?);
            let keys = if kind == kind::TRANSACTION { Keys::NotTold } else { Keys::Told };
            let commit = read_commit(from, lsn, keys)?;
            let count = match commit.content {
                Content::Rows(count) => count,
                Content::TooLarge(_) => 0,
            };
            let changes = from.several(count, read_change)?;
            let previous = commit.previous;
            Event::Transaction { previous, transaction: Arc::new(commit.with_changes(changes)?) }
        }
        kind::POSITION => Event::Position {
            previous: Lsn(from.u64("previous position")?),
            lsn: Lsn(from.u64("position")?),
            time_us: from.i64("time")?,
        },
        kind::TABLE_CHANGED => Event::TableChanged {
            table: from.text("table")?.to_owned(),
            what: from.text("description")?.to_owned(),
        },
        kind::RESHAPED => Event::Reshaped {
            previous: Lsn(from.u64("previous position")?),
            lsn: Lsn(from.u64("position")?),
            plan: Fingerprint(from.array("fingerprint")?),
            tables: read_tables(from)?,
        },
        other => return Err(DecodeError::Kind(other)),
    })
}

pub(super) fn write_commit(into: &mut Vec<u8>, previous: Lsn, transaction: &Transaction) {
    into.extend_from_slice(&previous.0.to_le_bytes());
    into.extend_from_slice(&transaction.xid.to_le_bytes());
    into.extend_from_slice(&transaction.commit_time_us.to_le_bytes());
    write_tables(into, &transaction.truncated);
    match &transaction.changes {
        Changes::Rows(changes) => {
            into.push(ContentTag::Rows as u8);
            into.extend_from_slice(&length(changes.len()).to_le_bytes());
        }
        Changes::TooLarge(tables) => {
            into.push(ContentTag::TooLarge as u8);
            write_tables(into, tables);
        }
    }
    into.extend_from_slice(&length(transaction.acknowledgements.len()).to_le_bytes());
    let keys = if transaction.tells_of_keys() { Keys::Told } else { Keys::NotTold };
    for acknowledgement in &transaction.acknowledgements {
        write_acknowledgement(into, acknowledgement);
        if keys == Keys::Told {
            write_keys(into, &acknowledgement.keys);
        }
    }
}

pub(super) fn read_commit(
    from: &mut Reader<'_>,
    lsn: Lsn,
    keys: Keys,
) -> Result<Commit, DecodeError> {
    let previous = Lsn(from.u64("previous position")?);
    let xid = from.u32("transaction id")?;
    let commit_time_us = from.i64("commit time")?;
    let truncated = read_tables(from)?;
    let content = from.tag("content", |tag| match tag {
        0 => Some(ContentTag::Rows),
        1 => Some(ContentTag::TooLarge),
        _ => None,
    })?;
    let content = match content {
        ContentTag::Rows => Content::Rows(from.u32("number of changes")?),
        ContentTag::TooLarge => Content::TooLarge(read_tables(from)?),
    };
    let acknowledgements: Vec<Arc<Acknowledgement>> = from.list("acknowledgements", |from| {
        let mut acknowledgement = read_acknowledgement(from)?;
        if keys == Keys::Told {
            acknowledgement.keys = read_keys(from)?;
        }
        Ok(Arc::new(acknowledgement))
    })?;
    let none = acknowledgements.iter().all(|of| of.keys.is_empty());
    if keys == Keys::Told && none {
        return Err(from.invalid("key that was made"));
    }
    Ok(Commit { previous, lsn, xid, commit_time_us, truncated, content, acknowledgements })
}

fn write_acknowledgement(into: &mut Vec<u8>, acknowledgement: &Acknowledgement) {
    write_slice(into, acknowledgement.client.as_bytes());
    into.extend_from_slice(&acknowledgement.last_mutation.to_le_bytes());
    into.extend_from_slice(&length(acknowledgement.rejected.len()).to_le_bytes());
    for rejection in &acknowledgement.rejected {
        into.extend_from_slice(&rejection.id.to_le_bytes());
        write_slice(into, rejection.code.as_bytes());
        write_slice(into, rejection.message.as_bytes());
    }
    into.push(u8::from(acknowledgement.name.is_some()));
    if let Some(name) = &acknowledgement.name {
        write_slice(into, name.as_bytes());
    }
}

fn read_acknowledgement(from: &mut Reader<'_>) -> Result<Acknowledgement, DecodeError> {
    Ok(Acknowledgement {
        client: from.text("client")?.into(),
        last_mutation: from.u64("mutation")?,
        rejected: from.list("rejections", |from| {
            Ok(Rejected {
                id: from.u64("mutation")?,
                code: from.text("code")?.to_owned(),
                message: from.text("message")?.to_owned(),
            })
        })?,
        name: from.option("name", |from| Ok(from.text("name")?.into()))?,
        keys: Vec::new(),
    })
}

fn write_keys(into: &mut Vec<u8>, keys: &[MadeKey]) {
    into.extend_from_slice(&length(keys.len()).to_le_bytes());
    for made in keys {
        into.extend_from_slice(&made.id.to_le_bytes());
        into.extend_from_slice(&made.op.to_le_bytes());
        write_slice(into, json_of(&made.key).as_bytes());
    }
}

fn read_keys(from: &mut Reader<'_>) -> Result<Vec<MadeKey>, DecodeError> {
    from.list("keys", |from| {
        let (id, op) = (from.u64("mutation")?, from.u32("operation")?);
        let invalid = from.invalid("key");
        let text = from.text("key")?;
        let key = serde_json::from_str(text).ok().filter(|key| json_of(key) == text);
        Ok(MadeKey { id, op, key: key.ok_or(invalid)? })
    })
}

/// The one form in which a key is written.
fn json_of(key: &Map<String, serde_json::Value>) -> String {
    serde_json::to_string(key).unwrap_or_default()
}

pub(super) fn write_change(into: &mut Vec<u8>, change: &Change) {
    into.extend_from_slice(&change.table.0.to_le_bytes());
    match &change.row {
        RowChange::Insert(after) => write_row(into, Shape::Insert, None, after),
        RowChange::Update { before, after } if *before == after.image => {
            write_row(into, Shape::UpdateInPlace, None, after);
        }
        RowChange::Update { before, after } => {
            write_row(into, Shape::Update, Some(before), after);
        }
        RowChange::Delete(before) => {
            into.push(Shape::Delete as u8);
            write_slice(into, &before.key);
            write_image(into, before);
        }
    }
}

pub(super) fn read_change(from: &mut Reader<'_>) -> Result<Change, DecodeError> {
    let table = TableId(from.u16("table")?);
    let shape = from.tag("shape of a change", Shape::of)?;
    let key = Bytes::copy_from_slice(from.slice("key")?);
    let image = read_image(from, key.clone())?;
    let row = |image, from: &mut Reader<'_>| {
        Ok(Arc::new(Row { image, json: Bytes::copy_from_slice(from.slice("row")?) }))
    };
    let row = match shape {
        Shape::Insert => RowChange::Insert(row(image, from)?),
        Shape::UpdateInPlace => {
            RowChange::Update { before: image.clone(), after: row(image, from)? }
        }
        Shape::Update => {
            let after = read_image(from, key)?;
            RowChange::Update { before: image, after: row(after, from)? }
        }
        Shape::Delete => RowChange::Delete(image),
    };
    Ok(Change { table, row })
}

fn write_row(into: &mut Vec<u8>, shape: Shape, before: Option<&Image>, after: &Row) {
    into.push(shape as u8);
    write_slice(into, &after.image.key);
    if let Some(before) = before {
        write_image(into, before);
    }
    write_image(into, &after.image);
    write_slice(into, &after.json);
}

/// Kept values and topics.
fn write_image(into: &mut Vec<u8>, image: &Image) {
    into.extend_from_slice(&length(image.kept.len()).to_le_bytes());
    image.kept.iter().for_each(|value| value.write(into));
    into.extend_from_slice(&length(image.topics.len()).to_le_bytes());
    image.topics.iter().for_each(|topic| write_topic(into, topic));
}

fn read_image(from: &mut Reader<'_>, key: Bytes) -> Result<Image, DecodeError> {
    let kept = from.list("kept values", Reader::value)?;
    let topics = from.list("topics", read_topic)?;
    Ok(Image { key, kept, topics })
}

pub(super) fn write_topic(into: &mut Vec<u8>, topic: &Topic) {
    into.extend_from_slice(&topic.branch.0.to_le_bytes());
    into.push(u8::from(topic.anchor.is_some()));
    if let Some(anchor) = &topic.anchor {
        anchor.write(into);
    }
}

fn read_topic(from: &mut Reader<'_>) -> Result<Topic, DecodeError> {
    let branch = BranchId(from.u16("branch")?);
    let anchor = from.option("anchor", Reader::value)?;
    Ok(Topic { branch, anchor })
}

fn write_tables(into: &mut Vec<u8>, tables: &[TableId]) {
    into.extend_from_slice(&length(tables.len()).to_le_bytes());
    tables.iter().for_each(|table| into.extend_from_slice(&table.0.to_le_bytes()));
}

fn read_tables(from: &mut Reader<'_>) -> Result<Vec<TableId>, DecodeError> {
    from.list("tables", |from| from.u16("table").map(TableId))
}

fn write_slice(into: &mut Vec<u8>, bytes: &[u8]) {
    into.extend_from_slice(&length(bytes.len()).to_le_bytes());
    into.extend_from_slice(bytes);
}
