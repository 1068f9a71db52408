//! The disk with the log: messages of the feed's codec, one behind the other. What is appended, and what questions
//! about the past are answered with, is decided by the log's own rules. What is durable survives every server; what a
//! server has queued for it does not. It may be full for a while, and then nothing can be added.

use std::collections::VecDeque;
use std::sync::Arc;

use rowtide_feed::codec::{decode, encode};
use rowtide_feed::{Event, History, HistoryQuery, Transaction};
use rowtide_log::rules::{LogEnd, LogSelection, Replay, bring_forward, to_append, to_reshape};
use rowtide_log::{Committed, LogIdentity};
use rowtide_postgres::watch::Observed;
use rowtide_protocol::{Epoch, Lsn};

use crate::log::Logged;

/// There is no room.
#[derive(Debug)]
pub struct Full;

pub struct Disk {
    pub full: bool,
    /// The server that has the log, and which of its lives.
    pub holder: Option<(usize, u64)>,
    /// What the log is of; none if there is none.
    pub identity: Option<LogIdentity>,
    pub epoch: Epoch,
    pub begins: Lsn,
    end: LogEnd,
    /// A message for each transaction, and for each time at which tables had more columns.
    messages: VecDeque<Vec<u8>>,
    epochs: u64,
    /// What the database was like when it was noted last, and in which epoch.
    note: Option<(Epoch, Box<Observed>)>,
}

impl Disk {
    pub fn new() -> Disk {
        Disk {
            full: false,
            holder: None,
            identity: None,
            epoch: Epoch(0),
            begins: Lsn(0),
            end: LogEnd::at(Lsn(0)),
            messages: VecDeque::new(),
            epochs: 0,
            note: None,
        }
    }

    /// Another one is put in its place.
    pub fn replace(&mut self) {
        *self = Disk { epochs: self.epochs, ..Disk::new() };
    }

    /// Everything up to here is durable.
    pub fn end(&self) -> Lsn {
        self.end.position()
    }

    /// Empties the log, which begins at `position` then.
    ///
    /// # Errors
    /// When there is no room.
    pub fn begin(&mut self, identity: LogIdentity, position: Lsn) -> Result<Epoch, Full> {
        if self.full {
            return Err(Full);
        }
        self.epochs += 1;
        self.epoch = Epoch(self.epochs);
        self.identity = Some(identity);
        (self.begins, self.end) = (position, LogEnd::at(position));
        self.messages.clear();
        Ok(self.epoch)
    }

    /// What was noted last of the epoch that it is of.
    pub fn seen(&self) -> Option<Box<Observed>> {
        let of_this = |(epoch, observed): &(Epoch, Box<Observed>)| {
            (*epoch == self.epoch).then(|| observed.clone())
        };
        self.note.as_ref().and_then(of_this)
    }

    /// Makes what was queued durable.
    ///
    /// # Errors
    /// When there is no room.
    pub fn write(&mut self, logged: &Logged) -> Result<(), Full> {
        match logged {
            Logged::Events(events) => self.append(events),
            Logged::Reshaped(of, event) => self.reshape(of.clone(), event),
            Logged::Note(_) if self.full => Ok(()),
            Logged::Note(observed) => {
                self.note = Some((self.epoch, observed.clone()));
                Ok(())
            }
        }
    }

    /// Makes events durable. What is there already is passed over.
    ///
    /// # Errors
    /// When there is no room.
    pub fn append(&mut self, events: &[Event]) -> Result<(), Full> {
        if self.full {
            return Err(Full);
        }
        let appending = to_append(&self.end, events).expect("nothing is missing before it");
        for (previous, transaction) in appending.transactions {
            let transaction = Arc::new(transaction.clone());
            let mut message = Vec::new();
            encode(&Event::Transaction { previous, transaction }, &mut message);
            self.messages.push_back(message);
        }
        self.end = appending.end;
        Ok(())
    }

    /// Makes an `Event::Reshaped` durable, with what the log is of from there on.
    ///
    /// # Errors
    /// When there is no room.
    pub fn reshape(&mut self, identity: LogIdentity, event: &Event) -> Result<(), Full> {
        if self.full {
            return Err(Full);
        }
        let end = to_reshape(&self.end, event).expect("nothing is missing before it");
        if let Some(end) = end {
            let mut message = Vec::new();
            encode(event, &mut message);
            self.messages.push_back(message);
            (self.identity, self.end) = (Some(identity), end);
        }
        Ok(())
    }

    fn events(&self) -> impl DoubleEndedIterator<Item = Event> {
        self.messages.iter().map(|message| {
            let mut rest = &message[..];
            let event = decode(&mut rest).expect("a message that was written is read");
            assert!(rest.is_empty(), "one message, and nothing behind it");
            event
        })
    }

    fn transactions(&self) -> impl DoubleEndedIterator<Item = Arc<Transaction>> {
        self.events().filter_map(|event| match event {
            Event::Transaction { transaction, .. } => Some(transaction),
            _ => None,
        })
    }

    /// Lets all but the last `kept` transactions go.
    pub fn prune(&mut self, kept: usize) {
        let gone = self.messages.len().saturating_sub(kept);
        let last = gone.checked_sub(1).and_then(|last| self.events().nth(last));
        if let Some(lsn) = last.and_then(|last| last.lsn()) {
            self.begins = lsn;
            self.messages.drain(..gone);
        }
    }

    /// The last transactions, in order.
    pub fn recent(&self) -> Vec<Arc<Transaction>> {
        let mut recent: Vec<_> = self.transactions().collect();
        let reshaped: Vec<Event> =
            self.events().filter(|event| matches!(event, Event::Reshaped { .. })).collect();
        bring_forward(&mut recent, &reshaped);
        recent
    }

    /// The transactions behind `position`.
    pub fn committed(&self, position: Lsn) -> Vec<Committed> {
        let behind = self.transactions().filter(|transaction| transaction.lsn > position);
        let committed = |transaction: Arc<Transaction>| Committed {
            lsn: transaction.lsn,
            xid: transaction.xid,
            commit_time_us: transaction.commit_time_us,
        };
        behind.map(committed).collect()
    }

    /// The transactions behind a position, about so many bytes; `None` if that is not known any more.
    pub fn replay(&self, after: Lsn, max_bytes: usize) -> Option<Vec<Event>> {
        let mut replay = Replay::new(after, self.begins, max_bytes).ok()?;
        for event in self.events() {
            if !replay.has_room() {
                break;
            }
            replay.transaction(event);
        }
        Some(replay.done(&self.end))
    }

    /// What has changed in the topics; `None` if that is not known any more.
    pub fn history(&self, query: &HistoryQuery) -> Option<History> {
        let mut selection = LogSelection::new(query, self.begins, self.end()).ok()?;
        self.events().for_each(|event| selection.event(&event));
        Some(selection.done())
    }
}
