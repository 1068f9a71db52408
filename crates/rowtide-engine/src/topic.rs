//! The state of one topic in use: its rows, who looks at it, and how far its load has come. A topic
//! that is being loaded keeps the changes that are streamed meanwhile; when the load arrives, those
//! that its snapshot had not seen are applied to it, in commit order. A loaded topic may run ahead
//! of the stream for a while: until the stream has passed the load's position, transactions that the
//! snapshot had seen are skipped. A topic of clients that only came back is not loaded at all: its
//! changes say by themselves which rows they move in and out.

use std::sync::Arc;

use rowtide_feed::{Change, Changes, Transaction};
use rowtide_plan::row::{Row, Topic};
use rowtide_protocol::Lsn;
use rustc_hash::FxHashSet;

use crate::{LoadId, Loaded, TopicRows, TransactionSnapshot};

/// Index of a view in the engine.
pub(crate) type ViewKey = usize;
/// Index of a topic in the engine.
pub(crate) type TopicKey = usize;

#[derive(Debug)]
pub(crate) struct TopicState {
    pub(crate) topic: Topic,
    /// The views that reach it. A topic without views is dropped.
    pub(crate) views: FxHashSet<ViewKey>,
    /// While it is loaded again, the rows of before.
    pub(crate) rows: TopicRows,
    /// Whether `rows` are, or were at the last message, the rows of the topic: it has been loaded once.
    pub(crate) was_read: bool,
    /// Whether its last load was its first: what that has seen ahead of the stream cannot be compared with
    /// the rows that someone had before.
    pub(crate) is_first_load: bool,
    /// Where the stream was told that `rows` are not true any more, if they wait to be loaded again.
    pub(crate) outdated_at: Lsn,
    pub(crate) phase: Phase,
}

#[derive(Debug)]
pub(crate) enum Phase {
    /// Nobody needs its rows: those who reach it have them, and it names no other topics.
    Unread,
    /// Waits for the next load.
    Wanted,
    /// Part of a load under way.
    Loading {
        load: LoadId,
        /// In commit order.
        pending: Vec<Pending>,
    },
    /// Its rows are true as of the engine's position, or ahead of it.
    Loaded {
        /// The snapshot of its load, until the stream has passed the load's position.
        ahead: Option<Ahead>,
    },
}

/// A load that runs ahead of the stream.
#[derive(Clone, Debug)]
pub(crate) struct Ahead {
    pub(crate) snapshot: Arc<TransactionSnapshot>,
    /// Once the stream is here, the topic is no longer ahead of it.
    pub(crate) until: Lsn,
}

/// What was streamed for a topic while it was being loaded.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    /// One change of a transaction.
    Change { transaction: Arc<Transaction>, index: usize },
    /// The topic's table was truncated.
    Truncated { xid: u32 },
    /// Changes that were not kept: a snapshot that has not seen them is of no use.
    Unknown { xid: u32 },
}

/// The snapshot of a load has not seen a transaction whose changes were not kept.
#[derive(Debug)]
pub(crate) struct Unfit;

impl TopicState {
    pub(crate) fn new(topic: Topic, phase: Phase) -> TopicState {
        TopicState {
            topic,
            views: FxHashSet::default(),
            rows: TopicRows::default(),
            was_read: false,
            is_first_load: false,
            outdated_at: Lsn(0),
            phase,
        }
    }

    /// Whether those who reach it must wait for its rows.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Wanted | Phase::Loading { .. })
    }

    /// Whether its rows have already seen the transaction `xid`, which the stream brings now.
    pub(crate) fn has_seen(&self, xid: u32) -> bool {
        self.ahead().is_some_and(|ahead| ahead.snapshot.contains(xid))
    }

    /// The load that made it run ahead of the stream, if it does.
    pub(crate) fn ahead(&self) -> Option<&Ahead> {
        match &self.phase {
            Phase::Loaded { ahead } => ahead.as_ref(),
            _ => None,
        }
    }

    /// Where the stream must be before a view may show this topic.
    pub(crate) fn ahead_until(&self) -> Lsn {
        self.ahead().map_or(Lsn(0), |ahead| ahead.until)
    }

    /// Whether the rows that those had who came back with them cannot be compared with the rows after `xid`,
    /// whose changes are not known.
    pub(crate) fn cannot_compare(&self, xid: u32) -> bool {
        !self.was_read || (self.is_first_load && self.has_seen(xid))
    }

    /// The row of `change` after it, if it is in this topic.
    pub(crate) fn row_after<'a>(&self, change: &'a Change) -> Option<&'a Arc<Row>> {
        change.after().filter(|row| row.image.topics.contains(&self.topic))
    }

    /// Fits a load to the stream: its rows, and what was streamed meanwhile and its snapshot had not
    /// seen. Takes as many steps as there are changes that it had not.
    pub(crate) fn fit(
        &self,
        mut rows: TopicRows,
        pending: &[Pending],
        snapshot: &TransactionSnapshot,
    ) -> Result<TopicRows, Unfit> {
        for step in pending {
            match step {
                Pending::Unknown { xid } if !snapshot.contains(*xid) => return Err(Unfit),
                Pending::Truncated { xid } if !snapshot.contains(*xid) => {
                    rows = TopicRows::default()
                }
                Pending::Change { transaction, index } if !snapshot.contains(transaction.xid) => {
                    let Changes::Rows(changes) = &transaction.changes else { continue };
                    let change = &changes[*index];
                    match self.row_after(change) {
                        Some(row) => rows.insert(Arc::clone(row)),
                        None => rows.remove(change.key()),
                    };
                }
                _ => {}
            }
        }
        Ok(rows)
    }
}

impl Ahead {
    /// What a load that was just fitted leaves behind, if the stream is not past it already.
    pub(crate) fn of(
        loaded: &Loaded,
        snapshot: &Arc<TransactionSnapshot>,
        position: Lsn,
    ) -> Option<Ahead> {
        (loaded.position > position)
            .then(|| Ahead { snapshot: Arc::clone(snapshot), until: loaded.position })
    }
}
