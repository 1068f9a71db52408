//! What one set of claims sees, and what its sessions have been sent of it. A view counts how often
//! it reaches each topic: once from its claims, and once for every link row that names it. Between
//! two messages it collects the rows that were touched, with whether they were visible at the last
//! message; a message is then the difference to what is visible now. Holding a view back is nothing
//! but not making that message yet. A client that comes back has a view of its own, whose last message
//! is the one that the client had, until it can join the others of its claims.

use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use rowtide_feed::Acknowledgement;
use rowtide_plan::claims::Claims;
use rowtide_plan::plan::TableId;
use rowtide_plan::row::Row;
use rowtide_protocol::{Cursor, Epoch, Lsn, ViewId};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use crate::resume::Resume;
use crate::topic::{Ahead, TopicKey};
use crate::{SessionId, TransactionSnapshot, ViewRows};

#[derive(Debug)]
pub(crate) struct View {
    pub(crate) claims: Claims,
    pub(crate) id: ViewId,
    /// Sessions that hold the rows of the last message.
    pub(crate) live: Vec<SessionId>,
    /// Sessions that wait for their first rows, and where the stream must be for these.
    pub(crate) joining: Vec<(SessionId, Lsn)>,
    /// A session that has come back, while it is found out what has changed for it.
    pub(crate) resume: Option<Box<Resume>>,
    /// A session that holds the rows of the last message, which it had from another connection.
    pub(crate) returning: Option<SessionId>,
    /// What the next message tells some of its sessions.
    pub(crate) settled: Vec<(SessionId, Arc<Acknowledgement>)>,
    /// How often each topic is named; never zero.
    pub(crate) reach: FxHashMap<TopicKey, u32>,
    /// Topics of `reach` that were not there at the last message.
    pub(crate) gained: FxHashSet<TopicKey>,
    /// Topics that were in reach at the last message and are not any more, and whose rows must be read
    /// to say which ones that takes away.
    pub(crate) leaving: FxHashSet<TopicKey>,
    /// Topics of `reach` and `leaving` whose rows are waited for.
    pub(crate) waiting: usize,
    /// Where the stream must be before the next message.
    pub(crate) release_at: Lsn,
    pub(crate) touched: Touched,
    /// What was frozen last, if nothing has changed since and somebody has it still.
    pub(crate) frozen: Weak<ViewRows>,
    /// The position of the last message.
    pub(crate) sent: Lsn,
    /// Whether the engine already has it on its list of views to look at after this step.
    pub(crate) dirty: bool,
}

/// A row that may have to be in the next message.
#[derive(Debug)]
pub(crate) struct TouchedRow {
    pub(crate) table: TableId,
    pub(crate) key: Bytes,
    /// Whether it was visible at the last message.
    pub(crate) was_visible: bool,
    /// Where the stream was when it was first touched.
    pub(crate) first: Lsn,
    /// Its latest state that concerned this view, which says in which topics to look for it; where a topic is
    /// not read, it is the row.
    pub(crate) latest: Option<Arc<Row>>,
    /// Whether the latest that is known is that it was deleted, so that no state from before may stand in.
    is_deleted: bool,
    /// What the load that `latest` comes from had seen, if it ran ahead of the stream.
    ahead: Option<Arc<TransactionSnapshot>>,
}

impl TouchedRow {
    /// The stream brings the row's state after `xid`.
    pub(crate) fn was_streamed(&mut self, row: Option<&Arc<Row>>, xid: u32) {
        if !self.ahead.as_ref().is_some_and(|snapshot| snapshot.contains(xid)) {
            self.is_now(row);
        }
    }

    /// Nothing later is known than that this is the row.
    pub(crate) fn is_now(&mut self, row: Option<&Arc<Row>>) {
        self.latest = row.cloned();
        self.is_deleted = row.is_none();
        self.ahead = None;
    }

    /// A load brought the row's state.
    pub(crate) fn was_loaded(&mut self, row: &Arc<Row>, ahead: Option<&Ahead>) {
        self.latest = Some(Arc::clone(row));
        self.is_deleted = false;
        self.ahead = ahead.map(|ahead| Arc::clone(&ahead.snapshot));
    }

    /// A topic that the view has no more had the row: of use if nothing later is known.
    pub(crate) fn was_held(&mut self, row: &Arc<Row>) {
        if !self.is_deleted {
            self.latest.get_or_insert_with(|| Arc::clone(row));
        }
    }
}

/// Rows in the order in which they were first touched.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    rows: Vec<TouchedRow>,
    /// Only once there are too many rows to look through.
    index: Option<FxHashMap<(TableId, Bytes), usize>>,
}

const INDEX_ABOVE: usize = 12;

impl Touched {
    /// The row, added with `was_visible` if it is not there yet. The stream is at `now`.
    pub(crate) fn row(
        &mut self,
        table: TableId,
        key: &Bytes,
        was_visible: bool,
        now: Lsn,
    ) -> &mut TouchedRow {
        let found = match &self.index {
            Some(index) => index.get(&(table, key.clone())).copied(),
            None => self.rows.iter().position(|row| row.table == table && row.key == *key),
        };
        let at = found.unwrap_or_else(|| {
            let at = self.rows.len();
            self.rows.push(TouchedRow {
                table,
                key: key.clone(),
                was_visible,
                first: now,
                latest: None,
                is_deleted: false,
                ahead: None,
            });
            if let Some(index) = &mut self.index {
                index.insert((table, key.clone()), at);
            } else if self.rows.len() > INDEX_ABOVE {
                let entry = |(at, row): (usize, &TouchedRow)| ((row.table, row.key.clone()), at);
                self.index = Some(self.rows.iter().enumerate().map(entry).collect());
            }
            at
        });
        &mut self.rows[at]
    }

    pub(crate) fn of_table(&mut self, table: TableId) -> impl Iterator<Item = &mut TouchedRow> {
        self.rows.iter_mut().filter(move |row| row.table == table)
    }

    pub(crate) fn take(&mut self) -> Vec<TouchedRow> {
        self.index = None;
        std::mem::take(&mut self.rows)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl View {
    pub(crate) fn new(claims: Claims) -> View {
        View {
            id: ViewId(FxBuildHasher.hash_one(&claims)),
            claims,
            live: Vec::new(),
            joining: Vec::new(),
            resume: None,
            returning: None,
            settled: Vec::new(),
            reach: FxHashMap::default(),
            gained: FxHashSet::default(),
            leaving: FxHashSet::default(),
            waiting: 0,
            release_at: Lsn(0),
            touched: Touched::default(),
            frozen: Weak::new(),
            sent: Lsn(0),
            dirty: false,
        }
    }

    /// Whether the last message was made with this topic in reach.
    pub(crate) fn had(&self, topic: TopicKey) -> bool {
        (self.reach.contains_key(&topic) && !self.gained.contains(&topic))
            || self.leaving.contains(&topic)
    }

    /// Whether the next message has nothing to say.
    pub(crate) fn is_silent(&self) -> bool {
        self.touched.is_empty()
            && self.gained.is_empty()
            && self.leaving.is_empty()
            && self.settled.is_empty()
    }

    /// Nobody is left in it.
    pub(crate) fn is_deserted(&self) -> bool {
        self.live.is_empty()
            && self.joining.is_empty()
            && self.resume.is_none()
            && self.returning.is_none()
    }

    /// Where its sessions stand at `lsn`.
    pub(crate) fn cursor(&self, epoch: Epoch, lsn: Lsn) -> Cursor {
        Cursor { epoch, view: self.id, lsn }
    }

    /// Whether nothing that it reaches is missing, and nothing runs ahead of the stream.
    pub(crate) fn is_whole(&self, position: Lsn) -> bool {
        self.waiting == 0 && self.release_at <= position
    }
}
