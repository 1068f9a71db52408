//! Transactions that were streamed and may not be visible yet. A commit is written to the log, and
//! streamed from there, before it becomes visible to new snapshots; a synchronous standby stretches
//! that gap to any length. So a load that is asked for now may miss a transaction that the engine has
//! already seen. Such transactions are kept here until a snapshot shows that they are visible: what
//! one snapshot sees, every later one sees too.

use std::collections::VecDeque;
use std::sync::Arc;

use rowtide_feed::Transaction;
use rowtide_plan::plan::TableId;

use crate::TransactionSnapshot;

/// How many bytes are kept of transactions that may not be visible yet. Past that, a load that turns out to
/// need one that was let go is asked for again.
pub const MAX_RECENT_BYTES: usize = 64 << 20;

#[derive(Debug, Default)]
pub(crate) struct Recent {
    entries: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) xid: u32,
    /// `None` once its changes have been let go.
    pub(crate) transaction: Option<Arc<Transaction>>,
}

impl Recent {
    pub(crate) fn of(transactions: &[Arc<Transaction>]) -> Recent {
        let mut recent = Recent::default();
        transactions.iter().for_each(|transaction| recent.push(transaction));
        recent
    }

    pub(crate) fn push(&mut self, transaction: &Arc<Transaction>) {
        self.bytes += transaction.bytes();
        self.entries
            .push_back(Entry { xid: transaction.xid, transaction: Some(Arc::clone(transaction)) });
        if self.bytes <= MAX_RECENT_BYTES {
            return;
        }
        // Always the oldest are let go, so those that were are in front.
        let held = self.entries.partition_point(|entry| entry.transaction.is_none());
        for entry in self.entries.iter_mut().skip(held) {
            if let Some(gone) = entry.transaction.take() {
                self.bytes -= gone.bytes();
            }
            if self.bytes <= MAX_RECENT_BYTES {
                return;
            }
        }
    }

    /// Rows of these tables are others from here on: of a transaction that has some nothing is known any more.
    pub(crate) fn reshape(&mut self, tables: &[TableId]) {
        for transaction in self.entries.iter_mut().filter_map(|entry| entry.transaction.as_mut()) {
            if let Some(without) = transaction.without_rows_of(tables) {
                self.bytes = self.bytes - transaction.bytes() + without.bytes();
                *transaction = Arc::new(without);
            }
        }
    }

    /// Drops what `snapshot` has seen.
    pub(crate) fn drop_visible(&mut self, snapshot: &TransactionSnapshot) {
        let bytes = &mut self.bytes;
        self.entries.retain(|entry| {
            let visible = snapshot.contains(entry.xid);
            if visible && let Some(transaction) = &entry.transaction {
                *bytes -= transaction.bytes();
            }
            !visible
        });
    }

    /// In commit order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
