//! The disk with the log. What is durable survives every server; what a server has queued for it does not.
//! It may be full for a while, and then nothing can be added.

use std::collections::VecDeque;
use std::sync::Arc;

use rowtide_feed::{Change, Changes, Event, History, HistoryQuery, Transaction};
use rowtide_log::{Committed, Identity};
use rowtide_plan::row::Topic;
use rowtide_protocol::{Epoch, Lsn};

/// There is no room.
#[derive(Debug)]
pub struct Full;

pub struct Disk {
    pub full: bool,
    /// The server that has the log, and which of its lives.
    pub holder: Option<(usize, u64)>,
    /// What the log is of; none if there is none.
    pub identity: Option<Identity>,
    pub epoch: Epoch,
    pub begins: Lsn,
    pub end: Lsn,
    transactions: VecDeque<Arc<Transaction>>,
    epochs: u64,
}

impl Disk {
    pub fn new() -> Disk {
        Disk {
            full: false,
            holder: None,
            identity: None,
            epoch: Epoch(0),
            begins: Lsn(0),
            end: Lsn(0),
            transactions: VecDeque::new(),
            epochs: 0,
        }
    }

    /// Another one is put in its place.
    pub fn replace(&mut self) {
        *self = Disk { epochs: self.epochs, ..Disk::new() };
    }

    /// Empties the log, which begins at `position` then.
    ///
    /// # Errors
    /// When there is no room.
    pub fn begin(&mut self, identity: Identity, position: Lsn) -> Result<Epoch, Full> {
        if self.full {
            return Err(Full);
        }
        self.epochs += 1;
        self.epoch = Epoch(self.epochs);
        self.identity = Some(identity);
        (self.begins, self.end) = (position, position);
        self.transactions.clear();
        Ok(self.epoch)
    }

    /// Makes events durable. What is there already is passed over.
    ///
    /// # Errors
    /// When there is no room.
    pub fn append(&mut self, events: &[Event]) -> Result<(), Full> {
        if self.full {
            return Err(Full);
        }
        for event in events {
            let Some(lsn) = event.lsn().filter(|lsn| *lsn > self.end) else { continue };
            self.end = lsn;
            if let Event::Transaction { transaction, .. } = event {
                self.transactions.push_back(Arc::clone(transaction));
            }
        }
        Ok(())
    }

    /// Lets all but the last `kept` transactions go.
    pub fn prune(&mut self, kept: usize) {
        while self.transactions.len() > kept {
            self.begins = self.transactions.pop_front().map_or(self.begins, |gone| gone.lsn);
        }
    }

    /// The last transactions, in order.
    pub fn recent(&self) -> Vec<Arc<Transaction>> {
        self.transactions.iter().cloned().collect()
    }

    /// The transactions behind `position`.
    pub fn committed(&self, position: Lsn) -> Vec<Committed> {
        let behind = self.transactions.iter().filter(|transaction| transaction.lsn > position);
        let committed = |transaction: &Arc<Transaction>| Committed {
            lsn: transaction.lsn,
            xid: transaction.xid,
            commit_time_us: transaction.commit_time_us,
        };
        behind.map(committed).collect()
    }

    /// The transactions behind a position, about so many bytes; `None` if that is not known any more.
    pub fn replay(&self, after: Lsn, max_bytes: usize) -> Option<Vec<Event>> {
        if after < self.begins {
            return None;
        }
        let (mut bytes, mut previous) = (0, self.begins);
        let mut events = Vec::new();
        for transaction in &self.transactions {
            if transaction.lsn > after && (events.is_empty() || bytes < max_bytes) {
                bytes += transaction.bytes();
                let transaction = Arc::clone(transaction);
                events.push(Event::Transaction { previous, transaction });
            }
            previous = transaction.lsn;
        }
        Some(events)
    }

    /// What has changed in the topics; `None` if that is not known any more.
    pub fn history(&self, query: &HistoryQuery) -> Option<History> {
        if query.after < self.begins {
            return None;
        }
        let of_topics = |topics: &[Topic]| topics.iter().any(|t| query.topics.contains(t));
        let concerns = |change: &&Change| {
            of_topics(change.topics_before()) || of_topics(change.topics_after())
        };
        let mut history = History::default();
        let range = |transaction: &&Arc<Transaction>| {
            transaction.lsn > query.after && transaction.lsn <= query.up_to
        };
        for transaction in self.transactions.iter().filter(range) {
            let mut interrupted = transaction.truncated.clone();
            match &transaction.changes {
                Changes::TooLarge(tables) => interrupted.extend(tables),
                Changes::Rows(changes) => {
                    let concerned = changes.iter().filter(concerns);
                    history
                        .changes
                        .extend(concerned.map(|change| (transaction.lsn, change.clone())));
                }
            }
            interrupted.retain(|table| query.tables.contains(table));
            history.interrupted.extend(interrupted);
        }
        Some(history)
    }
}
