//! The state of one topic in use: its rows, who looks at it, and how far its load has come. A topic
//! that is being loaded keeps the changes that are streamed meanwhile; when the load arrives, those
//! that its snapshot had not seen are applied to it, in commit order. A loaded topic may run ahead
//! of the stream for a while: until the stream has passed the load's position, transactions that the
//! snapshot had seen are skipped. A topic of clients that only came back is not loaded at all: its
//! changes say by themselves which rows they move in and out.

use std::sync::Arc;

use rowtide_feed::{Change, Changes, Transaction};
use rowtide_plan::map::IdSet;
use rowtide_plan::row::{Row, Topic};
use rowtide_protocol::Lsn;

use crate::rows_by_value::RowsByValue;
use crate::turns::Turns;
use crate::window::Prefix;
use crate::{LoadId, Loaded, TopicRows, TransactionSnapshot};

/// Index of a view in the engine.
pub(crate) type ViewKey = usize;
/// Index of a topic in the engine.
pub(crate) type TopicKey = usize;

/// One topic in use.
#[derive(Debug)]
pub(crate) struct TopicState {
    id: Topic,
    /// The views that reach it, and those that it is leaving. A topic without views is dropped.
    views: IdSet<ViewKey>,
    /// The rows of its last load, brought forward; while it is loaded again, those of before. Only
    /// [`Topics`](crate::topics::Topics) changes them, which counts their bytes.
    pub(super) rows: TopicRows,
    /// What is known of its rows, where they are for a window.
    pub(crate) prefix: Option<Prefix>,
    /// Its rows by what they are asked for in sets, for as long as these are its rows.
    pub(super) by_value: Vec<RowsByValue>,
    /// When its rows come or go by time alone.
    pub(super) turns: Turns,
    phase: Phase,
    /// Its rows were read first by a load that ran ahead of the stream, up to here. Until then they are not the ones that
    /// those have who were told of them before, while nobody had read them.
    read_ahead_until: Option<Lsn>,
}

/// How far a topic has been read.
///
/// `outdated` is set once its rows were read, and the stream then said that they are not true any more: as of
/// that position. It stays until the topic is evicted, because a view may not have told of it for long.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Nobody needs its rows: those who reach it have them, and it names no other topics.
    ///
    /// To `Wanted`, when somebody must be sent its rows, or they have become others.
    Unread,
    /// Waits for the next load.
    ///
    /// To `Loading`, when that load is asked for.
    Wanted { outdated: Option<Lsn> },
    /// Part of a load under way.
    ///
    /// To `Loaded`, when the load arrives; back to `Wanted`, when it fails, or has not seen what was not kept, or when the
    /// table's rows have become others meanwhile.
    Loading {
        load: LoadId,
        /// What was streamed, in commit order.
        pending: Vec<Pending>,
        outdated: Option<Lsn>,
    },
    /// Its rows are true as of the engine's position, or ahead of it.
    ///
    /// To `Wanted`, when a transaction changes more than can be held, or the table's rows become others; to `Unread`, when its rows are evicted.
    Loaded {
        /// What its load had seen, until the stream has passed the load's position.
        ahead: Option<Ahead>,
        outdated: Option<Lsn>,
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

impl TopicState {
    pub(super) fn new(id: Topic, turns: Turns, prefix: Option<Prefix>) -> TopicState {
        let (views, rows) = (IdSet::default(), TopicRows::default());
        TopicState {
            id,
            views,
            rows,
            prefix,
            by_value: Vec::new(),
            turns,
            phase: Phase::Unread,
            read_ahead_until: None,
        }
    }

    pub(crate) fn id(&self) -> &Topic {
        &self.id
    }

    /// The views that reach it, and those that it is leaving.
    pub(crate) fn views(&self) -> &IdSet<ViewKey> {
        &self.views
    }

    pub(crate) fn rows(&self) -> &TopicRows {
        &self.rows
    }

    /// When its rows come or go by time alone.
    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    pub(crate) fn phase(&self) -> &Phase {
        &self.phase
    }

    /// A view looks at it from now on. To be called where the view counts what it waits for.
    pub(crate) fn add_view(&mut self, view: ViewKey) {
        self.views.insert(view);
    }

    pub(crate) fn remove_view(&mut self, view: ViewKey) {
        self.views.remove(&view);
    }

    /// Whether those who reach it must wait for its rows.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Wanted { .. } | Phase::Loading { .. })
    }

    /// Whether its rows are, or were at the last message, the rows of the topic: it has been loaded once.
    pub(crate) fn was_read(&self) -> bool {
        match &self.phase {
            Phase::Unread => false,
            Phase::Wanted { outdated } | Phase::Loading { outdated, .. } => outdated.is_some(),
            Phase::Loaded { .. } => true,
        }
    }

    /// Whether a row that was first touched at `first` was touched after the rows became untrue, if they did.
    pub(crate) fn is_touched_late(&self, first: Lsn) -> bool {
        match &self.phase {
            Phase::Unread => true,
            Phase::Wanted { outdated }
            | Phase::Loading { outdated, .. }
            | Phase::Loaded { outdated, .. } => *outdated <= Some(first),
        }
    }

    /// Whether its rows have already seen the transaction `xid`, which the stream brings now.
    pub(crate) fn has_seen(&self, xid: u32) -> bool {
        self.ahead().is_some_and(|ahead| ahead.snapshot.contains(xid))
    }

    /// The load that made it run ahead of the stream, if it does.
    pub(crate) fn ahead(&self) -> Option<&Ahead> {
        match &self.phase {
            Phase::Loaded { ahead, .. } => ahead.as_ref(),
            _ => None,
        }
    }

    /// Whether its rows, with what the stream has touched since, tell which ones those have who were told of them before.
    /// The stream is at `position`.
    pub(crate) fn tells_what_was(&self, position: Lsn) -> bool {
        self.was_read() && self.read_ahead_until.is_none_or(|until| until <= position)
    }

    /// Whether the rows that those have who were told of them before cannot be compared with the rows after `xid`,
    /// whose changes are not known: it was not read, or first by a load that may have seen that transaction. The stream is
    /// at `position`.
    pub(crate) fn cannot_compare(&self, xid: u32, position: Lsn) -> bool {
        let may_have_seen = match &self.phase {
            Phase::Loaded { .. } => self.has_seen(xid),
            _ => true,
        };
        !self.tells_what_was(position) && may_have_seen
    }

    /// The row of `change` after it, if it is in this topic, and one of those that are known.
    pub(crate) fn row_after<'a>(&self, change: &'a Change) -> Option<&'a Arc<Row>> {
        let is_known =
            |row: &&Arc<Row>| self.prefix.as_ref().is_none_or(|of| of.covers(&of.rank(&row.image)));
        change.after().filter(|row| row.image.topics.contains(&self.id)).filter(is_known)
    }

    /// Its rows are needed. Whether it must be asked for, because it was not wanted yet.
    pub(crate) fn want(&mut self) -> bool {
        let is_unread = matches!(self.phase, Phase::Unread);
        if is_unread {
            self.phase = Phase::Wanted { outdated: None };
        }
        is_unread
    }

    /// It becomes part of a load. Whether it waits for one.
    pub(crate) fn begin_load(&mut self, load: LoadId) -> bool {
        let Phase::Wanted { outdated } = self.phase else { return false };
        self.phase = Phase::Loading { load, pending: Vec::new(), outdated };
        self.prefix.iter_mut().for_each(Prefix::begin_load);
        true
    }

    /// Keeps what was streamed for it, if it is being loaded. Whether it is.
    pub(crate) fn keep(&mut self, step: impl FnOnce() -> Pending) -> bool {
        let Phase::Loading { pending, .. } = &mut self.phase else { return false };
        pending.push(step());
        true
    }

    /// The load `id` has ended, and the topic is wanted until it is said to be loaded. What was streamed
    /// meanwhile; `None` if it is not part of that load (any more).
    pub(crate) fn end_load(&mut self, id: LoadId) -> Option<Vec<Pending>> {
        match &mut self.phase {
            Phase::Loading { load, pending, outdated } if *load == id => {
                let pending = std::mem::take(pending);
                self.phase = Phase::Wanted { outdated: *outdated };
                Some(pending)
            }
            _ => None,
        }
    }

    /// The load that has just ended brought its rows.
    pub(crate) fn was_loaded(&mut self, ahead: Option<Ahead>) {
        if let Phase::Wanted { outdated } = self.phase {
            if outdated.is_none() {
                self.read_ahead_until = ahead.as_ref().map(|ahead| ahead.until);
            }
            self.phase = Phase::Loaded { ahead, outdated };
        }
    }

    /// The rows of its table have become others as of `lsn`, and must be loaded again: what a load brings that was asked for
    /// before is of no use. Whether it must be asked for. `had` says whether anyone has its rows.
    pub(crate) fn reshape(&mut self, lsn: Lsn, had: bool) -> bool {
        let (outdated, ask) = match &self.phase {
            Phase::Unread if !had => return false,
            Phase::Unread => (None, true),
            Phase::Wanted { outdated } => (*outdated, false),
            Phase::Loading { outdated, .. } => (*outdated, true),
            Phase::Loaded { .. } => (Some(lsn), true),
        };
        self.phase = Phase::Wanted { outdated };
        ask
    }

    /// Its rows are not true any more as of `lsn`, and must be loaded again.
    pub(crate) fn outdate(&mut self, lsn: Lsn) {
        if let Phase::Loaded { .. } = self.phase {
            self.phase = Phase::Wanted { outdated: Some(lsn) };
        }
    }

    /// The stream has come to `lsn`.
    pub(crate) fn pass(&mut self, lsn: Lsn) {
        if let Phase::Loaded { ahead, .. } = &mut self.phase {
            ahead.take_if(|ahead| ahead.until <= lsn);
        }
    }

    /// Its rows were let go.
    pub(super) fn was_evicted(&mut self) {
        (self.phase, self.read_ahead_until) = (Phase::Unread, None);
    }

    /// Fits a load to the stream: its rows, and what was streamed meanwhile and its snapshot had not
    /// seen, which must be known. Takes as many steps as there are changes that it had not.
    pub(crate) fn fit(
        &self,
        rows: &mut TopicRows,
        pending: &[Pending],
        snapshot: &TransactionSnapshot,
    ) {
        for step in pending {
            match step {
                Pending::Truncated { xid } if !snapshot.contains(*xid) => {
                    *rows = TopicRows::default();
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
    }
}

impl Pending {
    /// Whether a load cannot be fitted to this, because nobody knows what it changed, and the snapshot has not seen it.
    pub(crate) fn is_missing_from(&self, snapshot: &TransactionSnapshot) -> bool {
        matches!(self, Pending::Unknown { xid } if !snapshot.contains(*xid))
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
