//! What one set of claims sees, and what its sessions have been sent of it. A view counts how often
//! it reaches each topic: once from its claims, and once for every link row that names it. Between
//! two messages it collects the rows that were touched, with whether they were visible at the last
//! message; a message is then the difference to what is visible now. Holding a view back is nothing
//! but not making that message yet.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_plan::claims::Claims;
use rowtide_plan::plan::TableId;
use rowtide_plan::row::{Row, Settlement};
use rowtide_protocol::Lsn;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::SessionId;
use crate::topic::TopicKey;

#[derive(Debug)]
pub(crate) struct View {
    pub(crate) claims: Claims,
    /// Sessions that hold the rows of the last message.
    pub(crate) live: Vec<SessionId>,
    /// Sessions that wait for their first rows, and where the stream must be for these.
    pub(crate) joining: Vec<(SessionId, Lsn)>,
    /// What the next message tells some of its sessions.
    pub(crate) settled: Vec<(SessionId, Arc<Settlement>)>,
    /// How often each topic is named; never zero.
    pub(crate) reach: FxHashMap<TopicKey, u32>,
    /// Topics of `reach` that were not there at the last message.
    pub(crate) gained: FxHashSet<TopicKey>,
    /// Topics of `reach` that are not loaded.
    pub(crate) waiting: usize,
    /// Where the stream must be before the next message.
    pub(crate) release_at: Lsn,
    pub(crate) touched: Touched,
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
    /// Its latest state that concerned this view, which says in which topics to look for it.
    pub(crate) latest: Option<Arc<Row>>,
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
    /// The row, added with `was_visible` if it is not there yet.
    pub(crate) fn row(
        &mut self,
        table: TableId,
        key: &Bytes,
        was_visible: bool,
    ) -> &mut TouchedRow {
        let found = match &self.index {
            Some(index) => index.get(&(table, key.clone())).copied(),
            None => self.rows.iter().position(|row| row.table == table && row.key == *key),
        };
        let at = found.unwrap_or_else(|| {
            let at = self.rows.len();
            self.rows.push(TouchedRow { table, key: key.clone(), was_visible, latest: None });
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
            claims,
            live: Vec::new(),
            joining: Vec::new(),
            settled: Vec::new(),
            reach: FxHashMap::default(),
            gained: FxHashSet::default(),
            waiting: 0,
            release_at: Lsn(0),
            touched: Touched::default(),
            sent: Lsn(0),
            dirty: false,
        }
    }

    /// Whether the last message was made with this topic in reach.
    pub(crate) fn had(&self, topic: TopicKey) -> bool {
        self.reach.contains_key(&topic) && !self.gained.contains(&topic)
    }

    /// Whether nothing that it reaches is missing, and nothing runs ahead of the stream.
    pub(crate) fn is_whole(&self, position: Lsn) -> bool {
        self.waiting == 0 && self.release_at <= position
    }
}
