//! The rows that were touched since a view's last message, each with whether it was visible then. They may be
//! in the next message; what they are by then is found out when it is made.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_plan::map::SeededMap;
use rowtide_plan::plan::TableId;
use rowtide_plan::row::Row;
use rowtide_protocol::Lsn;

use crate::TransactionSnapshot;
use crate::message::GoneRow;
use crate::topic::Ahead;

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
    /// Whether `latest` is known of a change of the row.
    by_change: bool,
    /// As of this commit it is known what it is.
    pub(crate) at: Lsn,
    /// What the load that `latest` comes from had seen, if it ran ahead of the stream.
    ahead: Option<Arc<TransactionSnapshot>>,
}

impl TouchedRow {
    /// The stream brings the row's state after `xid`, which committed `at` this position.
    pub(crate) fn was_streamed(&mut self, row: Option<&Arc<Row>>, xid: u32, at: Lsn) {
        if !self.ahead.as_ref().is_some_and(|snapshot| snapshot.contains(xid)) {
            self.is_now(row, at);
        }
    }

    /// Nothing later is known than that this is the row.
    pub(crate) fn is_now(&mut self, row: Option<&Arc<Row>>, at: Lsn) {
        self.at = at;
        self.latest = row.cloned();
        self.is_deleted = row.is_none();
        self.by_change = true;
        self.ahead = None;
    }

    /// A load brought the row's state, while the stream is `at` this position.
    pub(crate) fn was_loaded(&mut self, row: &Arc<Row>, ahead: Option<&Ahead>, at: Lsn) {
        self.at = at;
        self.latest = Some(Arc::clone(row));
        (self.is_deleted, self.by_change) = (false, false);
        self.ahead = ahead.map(|ahead| Arc::clone(&ahead.snapshot));
    }

    /// A topic that the view has no more had the row `at` this position: of use if nothing later is known.
    pub(crate) fn was_held(&mut self, row: &Arc<Row>, at: Lsn) {
        if !self.is_deleted && self.latest.is_none() {
            self.latest = Some(Arc::clone(row));
            self.at = at;
        }
    }

    /// What is known of it, if it is gone.
    pub(crate) fn gone(&self) -> GoneRow<'_> {
        GoneRow { latest: self.latest.as_ref(), at: self.at, by_change: self.by_change }
    }
}

/// Rows in the order in which they were first touched.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    rows: Vec<TouchedRow>,
    /// Only once there are too many rows to look through.
    index: Option<SeededMap<(TableId, Bytes), usize>>,
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
                by_change: false,
                at: now,
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
