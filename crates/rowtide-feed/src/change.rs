//! What a transaction did. A change is one row's, net of its intermediate states, so that whoever takes it
//! may take the changes of a transaction in any order. Rows and keys are shared, never copied.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_plan::plan::TableId;
use rowtide_plan::row::{Image, Row, Topic};
use rowtide_protocol::{Lsn, MadeKey, Rejected};

/// What a transaction did to one row of one table.
///
/// A change of the primary key is a delete of the old key and an insert of the new one.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The table.
    pub table: TableId,
    /// What became of the row.
    pub row: RowChange,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowChange {
    /// It was not there before.
    Insert(Arc<Row>),
    /// It was there before, under the same key.
    Update {
        /// The row before the transaction.
        before: Image,
        /// The row after it.
        after: Arc<Row>,
    },
    /// It is not there any more.
    Delete(Image),
}

impl Change {
    /// The change from one state of a row to the next; `None` if it is there neither before nor after.
    pub fn between(
        table: TableId,
        before: Option<Image>,
        after: Option<Arc<Row>>,
    ) -> Option<Change> {
        let row = match (before, after) {
            (None, Some(row)) => RowChange::Insert(row),
            (Some(before), Some(after)) => RowChange::Update { before, after },
            (Some(row), None) => RowChange::Delete(row),
            (None, None) => return None,
        };
        Some(Change { table, row })
    }

    /// The row before the transaction, if it was there.
    pub fn before(&self) -> Option<&Image> {
        match &self.row {
            RowChange::Insert(_) => None,
            RowChange::Update { before, .. } | RowChange::Delete(before) => Some(before),
        }
    }

    /// The row after the transaction, if it is there.
    pub fn after(&self) -> Option<&Arc<Row>> {
        match &self.row {
            RowChange::Insert(after) | RowChange::Update { after, .. } => Some(after),
            RowChange::Delete(_) => None,
        }
    }

    /// The primary key of the row.
    pub fn key(&self) -> &Bytes {
        match &self.row {
            RowChange::Insert(row) => &row.image.key,
            RowChange::Update { before: image, .. } | RowChange::Delete(image) => &image.key,
        }
    }

    /// The topics that the row was in before.
    pub fn topics_before(&self) -> &[Topic] {
        self.before().map_or(&[], |image| &image.topics)
    }

    /// The topics that it is in after.
    pub fn topics_after(&self) -> &[Topic] {
        self.after().map_or(&[], |row| &row.image.topics)
    }

    /// Every topic that the row leaves, stays in or enters, each once.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        let before = self.topics_before();
        before.iter().chain(self.topics_after().iter().filter(|topic| !before.contains(topic)))
    }

    fn bytes(&self) -> usize {
        let image = |image: &Image| {
            image.key.len() + size_of_val(&*image.kept) + size_of_val(&*image.topics)
        };
        let before = self.before().map_or(0, image);
        let after = self.after().map_or(0, |row| row.json.len() + image(&row.image));
        size_of::<Change>() + before + after
    }
}

/// What a transaction did to rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Changes {
    /// One entry for each row.
    Rows(Vec<Change>),
    /// Too much to hold: the topics of these tables must be loaded again.
    TooLarge(Vec<TableId>),
}

/// A client's row in the stream: how far its mutations are acknowledged, each applied or rejected. It is in the
/// same transaction as their effects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The client.
    pub client: Box<str>,
    /// Every mutation up to this number is acknowledged.
    pub last_mutation: u64,
    /// Those that this transaction rejected, or of which it tells again.
    pub rejected: Vec<Rejected>,
    /// The keys that this transaction made, or of which it tells again.
    pub keys: Vec<MadeKey>,
    /// The name of the one that it acknowledges, for clients that name their mutations.
    pub name: Option<Box<str>>,
}

/// A committed transaction.
#[derive(Clone, Debug, PartialEq)]
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
    /// The mutations that it acknowledges.
    pub acknowledgements: Vec<Arc<Acknowledgement>>,
}

impl Transaction {
    /// Whether an acknowledgement has keys that were made.
    pub(crate) fn tells_of_keys(&self) -> bool {
        self.acknowledgements.iter().any(|acknowledgement| !acknowledgement.keys.is_empty())
    }

    /// About how much memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let changes = match &self.changes {
            Changes::Rows(changes) => changes.iter().map(Change::bytes).sum(),
            Changes::TooLarge(_) => 0,
        };
        size_of::<Transaction>() + changes
    }

    /// The same without its rows, if it has rows of one of these tables: it is one whose changes are not known. So it is
    /// taken where the rows of these tables have become others, and it may have to be applied to those.
    pub fn without_rows_of(&self, tables: &[TableId]) -> Option<Transaction> {
        let Changes::Rows(changes) = &self.changes else { return None };
        if !changes.iter().any(|change| tables.contains(&change.table)) {
            return None;
        }
        let mut touched: Vec<TableId> = changes.iter().map(|change| change.table).collect();
        touched.sort_unstable();
        touched.dedup();
        let Transaction { lsn, xid, commit_time_us, .. } = *self;
        Some(Transaction {
            lsn,
            xid,
            commit_time_us,
            truncated: self.truncated.clone(),
            changes: Changes::TooLarge(touched),
            acknowledgements: self.acknowledgements.clone(),
        })
    }
}

/// What the log says of some topics between two positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// With the end of the commit that each was part of; in commit order, each once.
    pub changes: Vec<(Lsn, Change)>,
    /// Tables that were truncated, or changed beyond what can be held: their changes are not all of it.
    pub interrupted: Vec<TableId>,
    /// Tables that got more columns ([`crate::Event::Reshaped`]): all their rows are others by that, besides what changes say.
    pub reshaped: Vec<TableId>,
    /// When the last transaction up to the first position was committed, microseconds since 1970 UTC; `None` if the log does not
    /// have it.
    pub time_us: Option<i64>,
}
