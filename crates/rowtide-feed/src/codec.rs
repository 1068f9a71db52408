//! Events as bytes, for any wire and for the log: one format, versioned, documented in `docs/feed.md` so that
//! another language can read it. A *message* is one event and says its own length. A *record* is a part of an
//! event that a log stores by itself: what a commit was, or one change of a row. Reading is total: any bytes
//! are what was written, or an error that says what is wrong and where.

mod read;
mod v1;

use std::sync::Arc;

use rowtide_plan::plan::TableId;
use rowtide_plan::row::Topic;
use rowtide_protocol::Lsn;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{Acknowledgement, Change, Changes, Event, Transaction};
use read::Reader;

/// The newest version that is written. Every version from 1 on is read. What version 1 can say is written as that, so
/// that older readers understand it: later versions have kinds more, and nothing else is different.
pub const VERSION: u8 = 3;

/// Bytes before a message's version: its length.
const LENGTH: usize = 4;
/// Bytes at the end of a message or a record.
const CHECKSUM: usize = 4;
/// The least that a message or a record is: version, kind, checksum.
const LEAST: usize = 2 + CHECKSUM;

/// What a message or a record is of. Numbers are never used again for something else.
mod kind {
    pub(super) const EPOCH_BEGAN: u8 = 1;
    pub(super) const STREAM_BEGAN: u8 = 2;
    pub(super) const TRANSACTION: u8 = 3;
    pub(super) const POSITION: u8 = 4;
    pub(super) const TABLE_CHANGED: u8 = 5;
    /// Since version 2.
    pub(super) const RESHAPED: u8 = 6;
    /// Since version 3: a transaction that tells of keys that were made.
    pub(super) const TRANSACTION_WITH_KEYS: u8 = 7;
    pub(super) const COMMIT: u8 = 16;
    pub(super) const CHANGE: u8 = 17;
    /// Since version 3.
    pub(super) const COMMIT_WITH_KEYS: u8 = 18;
}

/// Why bytes are not what they should be. Places are counted in bytes from the beginning of the message or record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end before the message does.
    #[error("the message is cut off: at least {missing} more bytes belong to it")]
    CutOff {
        /// At least so many are missing; when the length is there, exactly so many.
        missing: usize,
    },
    /// It is shorter than anything that was ever written.
    #[error("{length} bytes are too few for a message")]
    TooShort {
        /// What it says of its length, or how long the record is.
        length: usize,
    },
    /// It is of a version that this reader does not know.
    #[error("it is of version {0}, which is not known here")]
    Version(u8),
    /// It is not what was written, or was written for another position.
    #[error("the checksum does not fit")]
    Checksum,
    /// It is of a kind that is not known, or not expected here.
    #[error("it is of kind {0}, which is not expected here")]
    Kind(u8),
    /// A part of it is not what the format says.
    #[error("at byte {at} there is no {what}")]
    Invalid {
        /// Where the part begins.
        at: usize,
        /// What should be there.
        what: &'static str,
    },
    /// There is more than belongs to it.
    #[error("what comes from byte {at} on does not belong to it")]
    Trailing {
        /// Where it should end.
        at: usize,
    },
    /// A transaction has not as many changes as its commit says.
    #[error("a transaction of {expected} changes has {found}")]
    Count {
        /// What the commit says.
        expected: usize,
        /// How many there are.
        found: usize,
    },
}

/// A transaction without the changes of its rows, as a log stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The position after the transaction before it, or where the epoch began.
    pub previous: Lsn,
    /// The position after it.
    pub lsn: Lsn,
    /// The 32-bit transaction id of the stream.
    pub xid: u32,
    /// When it was committed, microseconds since 1970 UTC.
    pub commit_time_us: i64,
    /// Tables that it truncated.
    pub truncated: Vec<TableId>,
    /// What it did to rows.
    pub content: Content,
    /// The mutations that it acknowledges.
    pub acknowledgements: Vec<Arc<Acknowledgement>>,
}

/// What a [`Commit`] says of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// So many changes belong to it.
    Rows(u32),
    /// They were too many to hold: the tables.
    TooLarge(Vec<TableId>),
}

impl Commit {
    /// The whole transaction with its changes, in the order in which they were written.
    ///
    /// # Errors
    /// [`DecodeError::Count`] when these are not as many as it had.
    pub fn with_changes(self, rows: Vec<Change>) -> Result<Transaction, DecodeError> {
        let expected = match &self.content {
            Content::Rows(count) => *count as usize,
            Content::TooLarge(_) => 0,
        };
        if rows.len() != expected {
            return Err(DecodeError::Count { expected, found: rows.len() });
        }
        let changes = match self.content {
            Content::Rows(_) => Changes::Rows(rows),
            Content::TooLarge(tables) => Changes::TooLarge(tables),
        };
        Ok(Transaction {
            lsn: self.lsn,
            xid: self.xid,
            commit_time_us: self.commit_time_us,
            truncated: self.truncated,
            changes,
            acknowledgements: self.acknowledgements,
        })
    }
}

/// Appends the message of an event.
pub fn encode(event: &Event, into: &mut Vec<u8>) {
    let start = into.len();
    into.extend_from_slice(&[0; LENGTH]);
    let kind = match event {
        Event::EpochBegan { .. } => kind::EPOCH_BEGAN,
        Event::StreamBegan { .. } => kind::STREAM_BEGAN,
        Event::Transaction { transaction, .. } => match transaction.tells_of_keys() {
            true => kind::TRANSACTION_WITH_KEYS,
            false => kind::TRANSACTION,
        },
        Event::Position { .. } => kind::POSITION,
        Event::TableChanged { .. } => kind::TABLE_CHANGED,
        Event::Reshaped { .. } => kind::RESHAPED,
    };
    into.extend_from_slice(&[version_of(kind), kind]);
    v1::write_event(into, event);
    let checksum = checksum(None, &into[start + LENGTH..]);
    into.extend_from_slice(&checksum);
    let length = v1::length(into.len() - start - LENGTH);
    into[start..start + LENGTH].copy_from_slice(&length.to_le_bytes());
}

/// Reads the message at the front of `from`, and moves it on behind it; of an error it is not moved.
///
/// # Errors
/// [`DecodeError::CutOff`] when the message is longer than `from`: with more bytes it may be one. All others say
/// that no further bytes will make it one.
pub fn decode(from: &mut &[u8]) -> Result<Event, DecodeError> {
    let Some((length, rest)) = from.split_first_chunk::<LENGTH>() else {
        return Err(DecodeError::CutOff { missing: LENGTH - from.len() });
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length < LEAST {
        return Err(DecodeError::TooShort { length });
    }
    let Some((record, rest)) = rest.split_at_checked(length) else {
        return Err(DecodeError::CutOff { missing: length - rest.len() });
    };
    let (kind, body) = open(None, record)?;
    let mut reader = Reader::new(body, LENGTH + 2);
    let event = v1::read_event(&mut reader, kind)?;
    reader.end()?;
    *from = rest;
    Ok(event)
}

/// Appends the record of a transaction without the changes of its rows.
pub fn encode_commit(previous: Lsn, transaction: &Transaction, into: &mut Vec<u8>) {
    let start = into.len();
    let kind = match transaction.tells_of_keys() {
        true => kind::COMMIT_WITH_KEYS,
        false => kind::COMMIT,
    };
    into.extend_from_slice(&[version_of(kind), kind]);
    v1::write_commit(into, previous, transaction);
    let checksum = checksum(Some(transaction.lsn), &into[start..]);
    into.extend_from_slice(&checksum);
}

/// Reads the record of the transaction at `lsn`.
///
/// # Errors
/// When it is not what was written for this position.
pub fn decode_commit(lsn: Lsn, record: &[u8]) -> Result<Commit, DecodeError> {
    let (kind, body) = open(Some(lsn), record)?;
    let keys = match kind {
        kind::COMMIT => v1::Keys::NotTold,
        kind::COMMIT_WITH_KEYS => v1::Keys::Told,
        other => return Err(DecodeError::Kind(other)),
    };
    let mut reader = Reader::new(body, 2);
    let commit = v1::read_commit(&mut reader, lsn, keys)?;
    reader.end()?;
    Ok(commit)
}

/// Appends the record of a change, which is of the transaction at `lsn`.
pub fn encode_change(lsn: Lsn, change: &Change, into: &mut Vec<u8>) {
    let start = into.len();
    into.extend_from_slice(&[version_of(kind::CHANGE), kind::CHANGE]);
    v1::write_change(into, change);
    let checksum = checksum(Some(lsn), &into[start..]);
    into.extend_from_slice(&checksum);
}

/// Reads the record of a change of the transaction at `lsn`.
///
/// # Errors
/// When it is not what was written for a transaction at this position.
pub fn decode_change(lsn: Lsn, record: &[u8]) -> Result<Change, DecodeError> {
    let (kind, body) = open(Some(lsn), record)?;
    if kind != kind::CHANGE {
        return Err(DecodeError::Kind(kind));
    }
    let mut reader = Reader::new(body, 2);
    let change = v1::read_change(&mut reader)?;
    reader.end()?;
    Ok(change)
}

/// What an index by topic knows a topic by: the first eight bytes of the SHA-256 of its bytes in version 1, as a
/// little-endian number. It never changes. Two topics may share it by chance.
pub fn topic_hash(topic: &Topic) -> u64 {
    let mut bytes = Vec::with_capacity(64);
    v1::write_topic(&mut bytes, topic);
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(&bytes));
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The kind and the body of what is between a length and its end. The version comes first, because all the rest is
/// a matter of it, the checksum included.
fn open(lsn: Option<Lsn>, record: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    let too_short = DecodeError::TooShort { length: record.len() };
    let version = *record.first().ok_or(too_short)?;
    if !(1..=VERSION).contains(&version) {
        return Err(DecodeError::Version(version));
    }
    let (sealed, stored) = record.split_last_chunk::<CHECKSUM>().ok_or(too_short)?;
    let [_, kind, body @ ..] = sealed else { return Err(too_short) };
    if *stored != checksum(lsn, sealed) {
        return Err(DecodeError::Checksum);
    }
    if version != version_of(*kind) {
        return Err(DecodeError::Kind(*kind));
    }
    Ok((*kind, body))
}

/// The version that a kind came with, and is written as: what is equal has equal bytes.
fn version_of(kind: u8) -> u8 {
    match kind {
        kind::RESHAPED => 2,
        kind::TRANSACTION_WITH_KEYS | kind::COMMIT_WITH_KEYS => 3,
        _ => 1,
    }
}

/// CRC-32 (IEEE). Of a record the position is in it, so that it is not taken for one of another transaction.
fn checksum(lsn: Option<Lsn>, sealed: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = crc32fast::Hasher::new();
    if let Some(lsn) = lsn {
        hasher.update(&lsn.0.to_le_bytes());
    }
    hasher.update(sealed);
    hasher.finalize().to_le_bytes()
}
