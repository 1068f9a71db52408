//! Rows as they travel through the server. A row is turned into JSON once, when it leaves Postgres,
//! and routed once: the topics that it belongs to are found when it is made. From there on rows are
//! shared, never copied.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_protocol::{Lsn, Refusal};

use crate::plan::{BranchId, TableId};
use crate::value::Value;

/// A branch at one value of its anchor: the unit of routing, loading and caching.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic {
    /// The branch.
    pub branch: BranchId,
    /// The value of the anchor; `None` when the branch has no anchor and is the same for all.
    pub anchor: Option<Value>,
}

/// What the engine must know of a row to decide who sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The JSON object of the primary key: the row's identity, and the body of its `delete`.
    pub key: Bytes,
    /// The columns that are needed later: link columns and those compared with claims, in the order
    /// of [`crate::plan::Table::kept`].
    pub kept: Box<[Value]>,
    /// Every topic that the row is in, published or not: anchor not null and filter true.
    pub topics: Box<[Topic]>,
}

/// A row with its JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Identity, kept columns and topics.
    pub image: Image,
    /// The whole row as a JSON object, columns in the order of `attnum`.
    pub json: Bytes,
}

/// What a transaction did to one row, net of its intermediate states.
///
/// A change of the primary key is a delete of the old key and an insert of the new one.
#[derive(Clone, Debug)]
pub struct Change {
    /// The table.
    pub table: TableId,
    /// The row before the transaction; `None` for an insert.
    pub old: Option<Image>,
    /// The row after the transaction; `None` for a delete. At least one of both is there, and both
    /// have the same key.
    pub new: Option<Arc<Row>>,
}

/// A committed transaction of the stream.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The end of the commit record: the position after this transaction.
    pub lsn: Lsn,
    /// The 32-bit transaction id of the stream.
    pub xid: u32,
    /// When it was committed, microseconds since 1970 UTC.
    pub commit_time_us: i64,
    /// Tables that it truncated, before its `changes` (what it changed earlier is left out).
    pub truncated: Vec<TableId>,
    /// What it did.
    pub changes: Changes,
    /// The mutations that it settled.
    pub settlements: Vec<Arc<Settlement>>,
}

impl Transaction {
    /// About how much memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let image = |image: &Image| {
            image.key.len() + size_of_val(&*image.kept) + size_of_val(&*image.topics)
        };
        let change = |change: &Change| {
            let old = change.old.as_ref().map_or(0, image);
            let new = change.new.as_ref().map_or(0, |row| row.json.len() + image(&row.image));
            size_of::<Change>() + old + new
        };
        let changes = match &self.changes {
            Changes::Rows(changes) => changes.iter().map(change).sum(),
            Changes::TooLarge(_) => 0,
        };
        size_of::<Transaction>() + changes
    }
}

/// A client's row in the stream: how far its mutations are settled. It is in the same transaction as
/// their effects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The client.
    pub client: Box<str>,
    /// Every mutation up to this number is settled.
    pub last_mutation: u64,
    /// Those that this transaction refused, or of which it tells again.
    pub refused: Vec<Refusal>,
    /// The name of the one that it settled, for clients that name their mutations.
    pub name: Option<Box<str>>,
}

/// What a transaction did to rows.
#[derive(Clone, Debug)]
pub enum Changes {
    /// One entry for each row.
    Rows(Vec<Change>),
    /// Too much to hold: the topics of these tables must be loaded again.
    TooLarge(Vec<TableId>),
}

/// What the log says of some topics between two positions.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// With the end of the commit that each was part of; in commit order, each once.
    pub changes: Vec<(Lsn, Change)>,
    /// Tables that were truncated, or changed beyond what can be held: their changes are not all of it.
    pub interrupted: Vec<TableId>,
}
