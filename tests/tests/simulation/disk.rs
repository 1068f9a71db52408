//! The disk with the log. What is durable survives every server; what a server has queued for it does not.
//! It may be full for a while, and then nothing can be added.

use std::collections::VecDeque;
use std::sync::Arc;

use rowtide_feed::{Change, Changes, Event, History, HistoryQuery, Transaction};
use rowtide_plan::row::Topic;
use rowtide_protocol::{Epoch, Lsn};

use crate::postgres::catalog::Facts;

/// What the stream brought, as the log takes it.
#[derive(Clone, Debug)]
pub enum Entry {
    Transaction(Arc<Transaction>),
    /// The stream has come this far.
    Position(Lsn),
}

impl Entry {
    pub fn lsn(&self) -> Lsn {
        match self {
            Entry::Transaction(transaction) => transaction.lsn,
            Entry::Position(lsn) => *lsn,
        }
    }
}

/// A transaction as the log knows it again.
pub type Seen = (Lsn, u32, i64);

pub fn seen(transaction: &Transaction) -> Seen {
    (transaction.lsn, transaction.xid, transaction.commit_time_us)
}

/// There is no room.
#[derive(Debug)]
pub struct Full;

pub struct Disk {
    pub full: bool,
    /// The server that has the log, and which of its lives.
    pub holder: Option<(usize, u64)>,
    pub epoch: Epoch,
    /// Of the Postgres that the log is of; 0 if it cannot go on.
    pub timeline: u32,
    /// What was read of the tables that the log is of.
    pub facts: Vec<Facts>,
    pub oldest: Lsn,
    pub end: Lsn,
    transactions: VecDeque<Arc<Transaction>>,
    epochs: u64,
}

impl Disk {
    pub fn new() -> Disk {
        Disk {
            full: false,
            holder: None,
            epoch: Epoch(0),
            timeline: 0,
            facts: Vec::new(),
            oldest: Lsn(0),
            end: Lsn(0),
            transactions: VecDeque::new(),
            epochs: 0,
        }
    }

    /// Another one is put in its place.
    pub fn replace(&mut self) {
        *self = Disk { epochs: self.epochs, ..Disk::new() };
    }

    /// What comes next will not be the continuation: the log says so, whoever opens it.
    ///
    /// # Errors
    /// When there is no room.
    pub fn end_epoch(&mut self) -> Result<(), Full> {
        if self.full {
            return Err(Full);
        }
        self.timeline = 0;
        Ok(())
    }

    /// Empties the log, which begins at `position` then.
    ///
    /// # Errors
    /// When there is no room.
    pub fn begin(&mut self, position: Lsn, timeline: u32) -> Result<Epoch, Full> {
        if self.full {
            return Err(Full);
        }
        self.epochs += 1;
        self.epoch = Epoch(self.epochs);
        self.timeline = timeline;
        (self.oldest, self.end) = (position, position);
        self.transactions.clear();
        Ok(self.epoch)
    }

    /// Makes an entry durable. What is there already is passed over.
    ///
    /// # Errors
    /// When there is no room.
    pub fn append(&mut self, entry: &Entry) -> Result<(), Full> {
        if self.full {
            return Err(Full);
        }
        if entry.lsn() > self.end {
            self.end = entry.lsn();
            if let Entry::Transaction(transaction) = entry {
                self.transactions.push_back(Arc::clone(transaction));
            }
        }
        Ok(())
    }

    /// Lets all but the last `kept` transactions go.
    pub fn prune(&mut self, kept: usize) {
        while self.transactions.len() > kept {
            self.oldest = self.transactions.pop_front().map_or(self.oldest, |gone| gone.lsn);
        }
    }

    pub fn transactions(&self) -> Vec<Arc<Transaction>> {
        self.transactions.iter().cloned().collect()
    }

    /// The transactions behind `position`.
    pub fn seen_behind(&self, position: Lsn) -> VecDeque<Seen> {
        let behind = self.transactions.iter().filter(|transaction| transaction.lsn > position);
        behind.map(|transaction| seen(transaction)).collect()
    }

    /// The transactions behind a position, about so many bytes; `None` if that is not known any more.
    pub fn replay(&self, after: Lsn, max_bytes: usize) -> Option<Vec<Event>> {
        if after < self.oldest {
            return None;
        }
        let (mut bytes, mut previous) = (0, self.oldest);
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
    pub fn history(&self, request: &HistoryQuery) -> Option<History> {
        if request.after < self.oldest {
            return None;
        }
        let of_topics = |topics: &[Topic]| topics.iter().any(|t| request.topics.contains(t));
        let concerns = |change: &&Change| {
            of_topics(change.topics_before()) || of_topics(change.topics_after())
        };
        let mut history = History::default();
        let range = |transaction: &&Arc<Transaction>| {
            transaction.lsn > request.after && transaction.lsn <= request.up_to
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
            interrupted.retain(|table| request.tables.contains(table));
            history.interrupted.extend(interrupted);
        }
        Some(history)
    }
}
