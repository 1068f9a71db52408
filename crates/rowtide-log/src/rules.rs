//! What a log does, whatever it is kept on: which events are appended, what a question about the past
//! selects, what a replay brings, and what becomes of a log that is opened. Pure, so that the SQLite
//! side and the simulation's disk go by the very same rules.

mod opening;

use std::sync::Arc;

use rowtide_feed::{
    Change, Changes, Event, Follower, History, HistoryQuery, PastError, Taken, Transaction,
};
use rowtide_plan::map::SeededSet;
use rowtide_plan::plan::TableId;
use rowtide_plan::row::Topic;
use rowtide_protocol::Lsn;
use thiserror::Error;

pub use opening::{Began, Header, LogOpening, OpeningVerdict, Replaced, Unusable};

/// Where a log ends. An [`Event::Reshaped`] is a link of it as a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    transaction: Lsn,
    quiet: Option<Quiet>,
}

/// The position that was reached without a transaction behind the last one, and the clock of Postgres then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quiet {
    lsn: Lsn,
    time_us: i64,
}

/// Transactions are missing between the end of the log and what is to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the log ends with the transaction at {after}, and what comes next follows one at {previous}"
)]
pub struct Gap {
    /// The position after the last transaction of the log, or where its epoch began.
    pub after: Lsn,
    /// The position after the transaction that is missing.
    pub previous: Lsn,
}

/// What is asked for lies before what the log still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the log does not go back that far")]
pub struct TooOld;

/// What is to be written, of events that were handed over.
#[derive(Debug)]
pub struct Appending<'a> {
    /// The transactions that are new, each behind the position after the one before it.
    pub transactions: Vec<(Lsn, &'a Transaction)>,
    /// Where the log ends with them.
    pub end: LogEnd,
}

impl From<TooOld> for PastError {
    fn from(TooOld: TooOld) -> PastError {
        PastError::TooOld
    }
}

impl LogEnd {
    /// The end of an empty log whose epoch begins at a position.
    pub fn at(position: Lsn) -> LogEnd {
        LogEnd { transaction: position, quiet: None }
    }

    /// An end that was stored: [`LogEnd::transaction`] and [`LogEnd::quiet`].
    pub(crate) fn stored(transaction: Lsn, quiet: Option<(Lsn, i64)>) -> LogEnd {
        let quiet = quiet.filter(|(lsn, _)| *lsn > transaction);
        LogEnd { transaction, quiet: quiet.map(|(lsn, time_us)| Quiet { lsn, time_us }) }
    }

    /// The position after the last transaction or [`Event::Reshaped`], or where the epoch began.
    pub fn transaction(&self) -> Lsn {
        self.transaction
    }

    /// The position that was reached behind the last transaction, and the clock then.
    pub(crate) fn quiet(&self) -> Option<(Lsn, i64)> {
        self.quiet.map(|quiet| (quiet.lsn, quiet.time_us))
    }

    /// Everything up to here is in the log.
    pub fn position(&self) -> Lsn {
        self.quiet.map_or(self.transaction, |quiet| quiet.lsn)
    }

    /// Moves on behind an event, if it is the next one; events without a position move nothing.
    pub fn take(&mut self, event: &Event) -> Taken {
        let mut follower = Follower::behind(self.transaction, self.position());
        let taken = follower.take(event);
        if let (Taken::Next, Event::Position { lsn, time_us, .. }) = (taken, event) {
            self.quiet = Some(Quiet { lsn: *lsn, time_us: *time_us });
        } else if let (Taken::Next, Event::Transaction { .. } | Event::Reshaped { .. }) =
            (taken, event)
        {
            *self = LogEnd::at(follower.transaction());
        }
        taken
    }

    /// What comes behind the last transaction, if something does.
    pub fn event(&self) -> Option<Event> {
        let Quiet { lsn, time_us } = self.quiet?;
        Some(Event::Position { previous: self.transaction, lsn, time_us })
    }
}

/// What of `events` is appended to a log that ends at `end`. What it has already comes again whenever the
/// stream begins anew, and is passed over; so are events without a position.
///
/// # Errors
/// When something is missing in between: a log with a gap would tell clients less than what happened.
pub fn to_append<'a>(end: &LogEnd, events: &'a [Event]) -> Result<Appending<'a>, Gap> {
    let mut appending = Appending { transactions: Vec::new(), end: *end };
    for event in events {
        let (Event::Transaction { previous, .. } | Event::Position { previous, .. }) = event else {
            continue;
        };
        match (appending.end.take(event), event) {
            (Taken::Next, Event::Transaction { transaction, .. }) => {
                appending.transactions.push((*previous, transaction));
            }
            (Taken::Next | Taken::Known, _) => {}
            (Taken::Gap { .. }, _) => {
                return Err(Gap { after: appending.end.transaction, previous: *previous });
            }
        }
    }
    Ok(appending)
}

/// Where a log that ends at `end` ends with an [`Event::Reshaped`]; `None` if it has it, or if it is another event.
///
/// # Errors
/// As [`to_append`].
pub fn to_reshape(end: &LogEnd, event: &Event) -> Result<Option<LogEnd>, Gap> {
    let Event::Reshaped { previous, .. } = event else { return Ok(None) };
    let mut reshaped = *end;
    match reshaped.take(event) {
        Taken::Next => Ok(Some(reshaped)),
        Taken::Known => Ok(None),
        Taken::Gap { .. } => Err(Gap { after: end.transaction, previous: *previous }),
    }
}

/// Of the last transactions of a log, in order, those that were told before a table's rows became others have no rows of it.
pub fn bring_forward(transactions: &mut [Arc<Transaction>], reshaped: &[Event]) {
    for event in reshaped {
        let Event::Reshaped { lsn, tables, .. } = event else { continue };
        for transaction in transactions.iter_mut().filter(|before| before.lsn < *lsn) {
            if let Some(without) = transaction.without_rows_of(tables) {
                *transaction = Arc::new(without);
            }
        }
    }
}

/// The answer to a question about topics, as it is found: changes in commit order.
#[derive(Debug)]
pub struct LogSelection<'q> {
    query: &'q HistoryQuery,
    topics: SeededSet<&'q Topic>,
    oldest: Lsn,
    up_to: Lsn,
    history: History,
}

impl<'q> LogSelection<'q> {
    /// Begins an answer, of a log that goes from `oldest` to `end`. What is asked for beyond the end is not told.
    ///
    /// # Errors
    /// When the log does not go back as far as the question.
    pub fn new(query: &'q HistoryQuery, oldest: Lsn, end: Lsn) -> Result<LogSelection<'q>, TooOld> {
        if query.after < oldest {
            return Err(TooOld);
        }
        let topics = query.topics.iter().collect();
        let up_to = query.up_to.min(end);
        Ok(LogSelection { query, topics, oldest, up_to, history: History::default() })
    }

    /// Transactions are looked at that lie behind the first and up to the second.
    pub fn range(&self) -> (Lsn, Lsn) {
        (self.query.after, self.up_to)
    }

    /// Takes a change of the range, if it is of one of the topics, before or after.
    pub fn change(&mut self, lsn: Lsn, change: Change) {
        if self.concerns(&change) {
            self.history.changes.push((lsn, change));
        }
    }

    fn concerns(&self, change: &Change) -> bool {
        change.topics().any(|topic| self.topics.contains(topic))
    }

    /// Takes a table that was interrupted in the range, if it is asked for.
    pub fn interruption(&mut self, table: TableId) {
        if self.query.tables.contains(&table) {
            self.history.interrupted.push(table);
        }
    }

    /// Takes what time it was where the range begins.
    pub fn began_at(&mut self, time_us: Option<i64>) {
        self.history.time_us = time_us;
    }

    /// Takes what an event has of the answer, if it is in the range, or the last transaction before it.
    pub fn event(&mut self, event: &Event) {
        let in_range = |lsn: Lsn| lsn > self.query.after && lsn <= self.up_to;
        if let Event::Reshaped { lsn, tables, .. } = event
            && in_range(*lsn)
        {
            let asked = tables.iter().filter(|table| self.query.tables.contains(table));
            self.history.reshaped.extend(asked);
        }
        let Event::Transaction { transaction, .. } = event else { return };
        if transaction.lsn > self.oldest && transaction.lsn <= self.query.after {
            self.began_at(Some(transaction.commit_time_us));
        }
        if transaction.lsn <= self.query.after || transaction.lsn > self.up_to {
            return;
        }
        interruptions(transaction).for_each(|table| self.interruption(table));
        if let Changes::Rows(changes) = &transaction.changes {
            let concerned = changes.iter().filter(|change| self.concerns(change));
            let concerned = concerned.map(|change| (transaction.lsn, change.clone()));
            self.history.changes.extend(concerned.collect::<Vec<_>>());
        }
    }

    /// The whole answer; each table that was interrupted or reshaped is in it once.
    pub fn done(mut self) -> History {
        for tables in [&mut self.history.interrupted, &mut self.history.reshaped] {
            tables.sort_unstable();
            tables.dedup();
        }
        self.history
    }
}

/// The tables of which a transaction does not say all that happened to their rows.
pub fn interruptions(transaction: &Transaction) -> impl Iterator<Item = TableId> {
    let too_large = match &transaction.changes {
        Changes::TooLarge(tables) => &tables[..],
        Changes::Rows(_) => &[],
    };
    transaction.truncated.iter().chain(too_large).copied()
}

/// The events behind a position, as they are read.
#[derive(Debug)]
pub struct Replay {
    after: Lsn,
    bytes_left: usize,
    events: Vec<Event>,
}

impl Replay {
    /// Begins a replay of about `max_bytes`, of a log that begins at `oldest`.
    ///
    /// # Errors
    /// When the log does not go back that far.
    pub fn new(after: Lsn, oldest: Lsn, max_bytes: usize) -> Result<Replay, TooOld> {
        if after < oldest {
            return Err(TooOld);
        }
        Ok(Replay { after, bytes_left: max_bytes, events: Vec::new() })
    }

    /// Whether there is room for another transaction: for one there always is.
    pub fn has_room(&self) -> bool {
        self.events.is_empty() || self.bytes_left > 0
    }

    /// Takes the next transaction or [`Event::Reshaped`] of the log, in order; those up to where the replay begins are passed over.
    pub fn transaction(&mut self, event: Event) {
        if event.lsn().is_some_and(|lsn| lsn > self.after) {
            self.bytes_left = self.bytes_left.saturating_sub(event.bytes());
            self.events.push(event);
        }
    }

    /// All of it; with the position behind the last transaction of a log that ends at `end`, if the replay has come
    /// that far. So whoever replays to the end has reached [`LogEnd::position`].
    pub fn done(mut self, end: &LogEnd) -> Vec<Event> {
        let reached = self.events.last().and_then(Event::lsn).unwrap_or(self.after);
        if reached >= end.transaction && reached < end.position() {
            self.events.extend(end.event());
        }
        self.events
    }
}
