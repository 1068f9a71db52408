//! The readers' side: the history of topics over a range of positions. A topic costs one look-up in
//! each segment of the range; records are read only for what is found. A reader looks at the tail of
//! a segment first and at its database after: what moves from the one to the other meanwhile is seen
//! twice, and never missed.

use std::sync::Arc;

use rowtide_feed::codec::{Commit, Content, decode_change};
use rowtide_feed::{Change, Event, History, HistoryQuery, PastError, Transaction};
use rowtide_plan::plan::TableId;
use rowtide_protocol::{Epoch, Lsn};
use rusqlite::{Connection, OptionalExtension};
use thiserror::Error;

use crate::rules::{LogSelection, Replay, TooOld, bring_forward};
use crate::segment::{
    Damaged, Segment, Unreadable, first_time_us, from_sql, hash, read_commit, reshaped, to_sql,
};
use crate::state::{Shared, State};

/// Reads a log. Cheap to clone; clones may be used from any thread.
#[derive(Clone, Debug)]
pub struct LogReader(Arc<Shared>);

/// Why history could not be read.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The log does not go back that far.
    #[error("the log does not go back that far")]
    TooOld,
    /// It would be more than was allowed.
    #[error("there is more history than allowed")]
    TooMuch,
    /// What was read is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The storage engine failed.
    #[error("the log cannot be read: {0}")]
    Storage(#[from] rusqlite::Error),
}

impl From<TooOld> for HistoryError {
    fn from(TooOld: TooOld) -> HistoryError {
        HistoryError::TooOld
    }
}

impl From<Unreadable> for HistoryError {
    fn from(unreadable: Unreadable) -> HistoryError {
        match unreadable {
            Unreadable::Damaged(damaged) => damaged.into(),
            Unreadable::Storage(error) => error.into(),
        }
    }
}

impl From<HistoryError> for PastError {
    fn from(error: HistoryError) -> PastError {
        match error {
            HistoryError::TooOld => PastError::TooOld,
            HistoryError::TooMuch => PastError::TooMuch,
            HistoryError::Damaged(_) | HistoryError::Storage(_) => {
                PastError::Unreadable(error.into())
            }
        }
    }
}

/// A transaction, without what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The position after it.
    pub lsn: Lsn,
    /// The 32-bit transaction id of the stream.
    pub xid: u32,
    /// When it was committed, microseconds since 1970 UTC.
    pub commit_time_us: i64,
}

/// How much a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes on disk.
    pub bytes: u64,
    /// When the oldest transaction was committed, microseconds since 1970 UTC; `None` if there is
    /// none.
    pub oldest_us: Option<i64>,
}

/// What a call of [`LogReader::history_within`] has found, and how much more it may find.
struct Search<'q> {
    selection: LogSelection<'q>,
    /// Sorted, each once.
    hashes: Vec<i64>,
    changes_left: usize,
    bytes_left: usize,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> LogReader {
        LogReader(shared)
    }

    /// The id of this unbroken run of the stream.
    pub fn epoch(&self) -> Epoch {
        self.0.state().epoch
    }

    /// The position after the last transaction, or where the epoch began: what is appended next
    /// follows it. `None` if nothing has begun.
    pub fn last_transaction(&self) -> Option<Lsn> {
        self.0.state().end.map(|end| end.transaction())
    }

    /// What happened to rows that were in one of the topics, before or after, and which of the tables
    /// were interrupted or reshaped, in the range that is asked for (or up to the end of the log, if that comes
    /// first). A topic without changes costs a look-up and no row is read for it.
    ///
    /// # Errors
    /// [`HistoryError::TooOld`] when the range begins before the oldest position, or nothing has begun,
    /// [`HistoryError::TooMuch`] past `max_changes` or past `max_bytes` of records.
    pub fn history_within(
        &self,
        query: &HistoryQuery,
        max_changes: usize,
        max_bytes: usize,
    ) -> Result<History, HistoryError> {
        let state = self.0.state();
        let (oldest, end) = state.range().ok_or(HistoryError::TooOld)?;
        let selection = LogSelection::new(query, oldest, end.position())?;
        let (after, up_to) = selection.range();
        let mut hashes: Vec<i64> = query.topics.iter().map(hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let (changes_left, bytes_left) = (max_changes, max_bytes);
        let mut search = Search { selection, hashes, changes_left, bytes_left };
        for segment in state.within(after, up_to) {
            search.segment(segment).map_err(|error| of(segment, error))?;
        }
        search.selection.began_at(time_at(&state, oldest, after)?);
        Ok(search.selection.done())
    }

    /// The transactions behind a position, whole and in order, as they were appended: as many as have
    /// about `max_bytes` in memory, and at least one if there is one. When these are all, the position
    /// that the log has reached behind the last one comes after them, if there is one.
    ///
    /// # Errors
    /// [`HistoryError::TooOld`] when `after` lies before the oldest position, or nothing has begun.
    pub fn replay(&self, after: Lsn, max_bytes: usize) -> Result<Vec<Event>, HistoryError> {
        let state = self.0.state();
        let (oldest, end) = state.range().ok_or(HistoryError::TooOld)?;
        let mut replay = Replay::new(after, oldest, max_bytes)?;
        for segment in state.within(after, end.position()) {
            segment
                .read(|db| replay_segment(db, after, end.position(), &mut replay))
                .map_err(|error| of(segment, error))?;
        }
        Ok(replay.done(&end))
    }

    /// The transactions after `after` and up to `up_to`, in order.
    ///
    /// # Errors
    /// [`HistoryError::TooOld`] when `after` lies before the oldest position, or nothing has begun.
    pub fn transactions(&self, after: Lsn, up_to: Lsn) -> Result<Vec<Committed>, HistoryError> {
        let state = self.0.state();
        let (oldest, end) = state.range().ok_or(HistoryError::TooOld)?;
        if after < oldest {
            return Err(HistoryError::TooOld);
        }
        let up_to = up_to.min(end.position());
        let mut transactions = Vec::new();
        for segment in state.within(after, up_to) {
            let read = segment.read(|db| {
                let mut rows = db.prepare_cached(
                    "SELECT lsn, last_change, record FROM commits WHERE lsn > ? AND lsn <= ? \
                     ORDER BY lsn",
                )?;
                let mut rows = rows.query((to_sql(after), to_sql(up_to)))?;
                while let Some(row) = rows.next()? {
                    let (commit, _) = read_commit(row)?;
                    let (lsn, xid, commit_time_us) =
                        (commit.lsn, commit.xid, commit.commit_time_us);
                    transactions.push(Committed { lsn, xid, commit_time_us });
                }
                Ok(())
            });
            read.map_err(|error| of(segment, error))?;
        }
        Ok(transactions)
    }

    /// The last transactions whole, in order: as many as have `max_changes` changes altogether, where one without changes counts as one.
    /// What was told of a table before its rows became others ([`Event::Reshaped`]) is not known of them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn tail(&self, max_changes: usize) -> Result<Vec<Arc<Transaction>>, HistoryError> {
        let state = self.0.state();
        let Some((oldest, end)) = state.range() else { return Ok(Vec::new()) };
        let end = end.position();
        let mut left = max_changes;
        let mut newest_first = Vec::new();
        let mut others = Vec::new();
        for segment in state.within(oldest, end).rev() {
            let whole = segment
                .read(|db| {
                    others.extend(reshaped(db)?);
                    last_transactions(db, end, &mut left, &mut newest_first)
                })
                .map_err(|error| of(segment, error))?;
            if !whole {
                break;
            }
        }
        newest_first.reverse();
        others.retain(|event| event.lsn() <= Some(end));
        bring_forward(&mut newest_first, &others);
        Ok(newest_first)
    }

    /// How much there is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn statistics(&self) -> Result<Statistics, HistoryError> {
        let state = self.0.state();
        let mut with_transactions =
            state.segments.iter().filter(|segment| segment.newest_us().is_some());
        let oldest_us = match with_transactions.next() {
            None => None,
            Some(segment) => segment
                .read(first_time_us)
                .map_err(|error| of(segment, HistoryError::from(error)))?,
        };
        let bytes = state.segments.iter().map(|segment| segment.bytes()).sum();
        Ok(Statistics { bytes, oldest_us })
    }
}

/// A segment that was removed while it was read is a part of the log that is no more.
fn of(segment: &Segment, error: HistoryError) -> HistoryError {
    if segment.is_removed() { HistoryError::TooOld } else { error }
}

impl Search<'_> {
    fn segment(&mut self, segment: &Segment) -> Result<(), HistoryError> {
        let (indexed, in_tail) = segment.tail(|tail| {
            let of = |hash| tail.changes.get(hash).into_iter().flatten().copied();
            (tail.indexed, self.hashes.iter().flat_map(of).collect::<Vec<i64>>())
        });
        let (after, up_to) = self.selection.range();
        segment.read(|db| {
            let first = last_change(db, after)?;
            let last = last_change(db, up_to)?;
            let mut ids = in_tail;
            ids.retain(|id| (first + 1..=last).contains(id));
            if first < indexed.min(last) {
                self.look_up(db, first, last, &mut ids)?;
            }
            ids.sort_unstable();
            ids.dedup();
            self.changes_left =
                self.changes_left.checked_sub(ids.len()).ok_or(HistoryError::TooMuch)?;
            self.read_changes(db, &ids)?;
            self.find_interruptions(db)
        })
    }

    fn look_up(
        &self,
        db: &Connection,
        first: i64,
        last: i64,
        ids: &mut Vec<i64>,
    ) -> Result<(), HistoryError> {
        let mut query = db.prepare_cached(
            "SELECT change FROM topics WHERE topic = ? AND change > ? AND change <= ?",
        )?;
        for hash in &self.hashes {
            let mut rows = query.query((hash, first, last))?;
            while let Some(row) = rows.next()? {
                ids.push(row.get(0)?);
            }
        }
        Ok(())
    }

    fn read_changes(&mut self, db: &Connection, ids: &[i64]) -> Result<(), HistoryError> {
        let mut query = db.prepare_cached("SELECT lsn, record FROM changes WHERE id = ?")?;
        for id in ids {
            let mut rows = query.query([id])?;
            let row = rows.next()?.ok_or(Damaged::NoRecord)?;
            let lsn = from_sql(row.get(0)?);
            let record = row.get_ref(1)?.as_blob().map_err(|_| Damaged::NoRecord)?;
            self.bytes_left =
                self.bytes_left.checked_sub(record.len()).ok_or(HistoryError::TooMuch)?;
            self.selection.change(lsn, decode_change(lsn, record).map_err(Damaged::from)?);
        }
        Ok(())
    }

    fn find_interruptions(&mut self, db: &Connection) -> Result<(), HistoryError> {
        let (after, up_to) = self.selection.range();
        let mut query =
            db.prepare_cached("SELECT table_id FROM interrupted WHERE lsn > ? AND lsn <= ?")?;
        let mut rows = query.query((to_sql(after), to_sql(up_to)))?;
        while let Some(row) = rows.next()? {
            self.selection.interruption(TableId(row.get(0)?));
        }
        reshaped(db)?.iter().for_each(|event| self.selection.event(event));
        Ok(())
    }
}

/// When the last transaction up to `lsn` was committed, if it is behind `oldest`.
fn time_at(state: &State, oldest: Lsn, lsn: Lsn) -> Result<Option<i64>, HistoryError> {
    for segment in state.within(oldest, lsn).rev() {
        let last = segment.read(|db| {
            let sql = "SELECT lsn, last_change, record FROM commits WHERE lsn > ? AND lsn <= ? \
                       ORDER BY lsn DESC LIMIT 1";
            let mut rows = db.prepare_cached(sql)?;
            let mut rows = rows.query((to_sql(oldest), to_sql(lsn)))?;
            let Some(row) = rows.next()? else { return Ok(None) };
            Ok(Some(read_commit(row)?.0.commit_time_us))
        });
        if let Some(time_us) = last.map_err(|error| of(segment, error))? {
            return Ok(Some(time_us));
        }
    }
    Ok(None)
}

/// The last change of the transactions up to `lsn`; 0 if there is none.
fn last_change(db: &Connection, lsn: Lsn) -> Result<i64, rusqlite::Error> {
    db.prepare_cached("SELECT last_change FROM commits WHERE lsn <= ? ORDER BY lsn DESC LIMIT 1")?
        .query_row([to_sql(lsn)], |row| row.get(0))
        .optional()
        .map(|last| last.unwrap_or(0))
}

/// Adds the transactions of one segment, the newest first, as far as `left` goes; whether it went to
/// the segment's beginning.
fn last_transactions(
    db: &Connection,
    end: Lsn,
    left: &mut usize,
    into: &mut Vec<Arc<Transaction>>,
) -> Result<bool, HistoryError> {
    let mut commits = db.prepare_cached(
        "SELECT lsn, last_change, record FROM commits WHERE lsn <= ? ORDER BY lsn DESC",
    )?;
    let mut commits = commits.query([to_sql(end)])?;
    while let Some(row) = commits.next()? {
        let (commit, last) = read_commit(row)?;
        let weight = match commit.content {
            Content::Rows(count) => count.max(1) as usize,
            Content::TooLarge(_) => 1,
        };
        match left.checked_sub(weight) {
            Some(rest) => *left = rest,
            None => return Ok(false),
        }
        into.push(Arc::new(whole(db, commit, last)?));
    }
    Ok(true)
}

/// Adds the transactions of one segment that are behind `after`, in order, while there is room.
fn replay_segment(
    db: &Connection,
    after: Lsn,
    end: Lsn,
    replay: &mut Replay,
) -> Result<(), HistoryError> {
    let mut commits = db.prepare_cached(
        "SELECT lsn, last_change, record FROM commits WHERE lsn > ? AND lsn <= ? ORDER BY lsn",
    )?;
    let mut commits = commits.query((to_sql(after), to_sql(end)))?;
    let mut reshaped = reshaped(db)?;
    reshaped.retain(|event| event.lsn() <= Some(end));
    let mut reshaped = reshaped.into_iter().peekable();
    while let Some(row) = commits.next()? {
        let (commit, last) = read_commit(row)?;
        while let Some(event) =
            reshaped.next_if(|event| replay.has_room() && event.lsn() < Some(commit.lsn))
        {
            replay.transaction(event);
        }
        if !replay.has_room() {
            return Ok(());
        }
        let previous = commit.previous;
        let transaction = Arc::new(whole(db, commit, last)?);
        replay.transaction(Event::Transaction { previous, transaction });
    }
    while let Some(event) = reshaped.next_if(|_| replay.has_room()) {
        replay.transaction(event);
    }
    Ok(())
}

/// The transaction of a commit, whose last change is `last`.
fn whole(db: &Connection, commit: Commit, last: i64) -> Result<Transaction, HistoryError> {
    let mut changes: Vec<Change> = Vec::new();
    if let Content::Rows(count @ 1..) = commit.content {
        let mut records =
            db.prepare_cached("SELECT record FROM changes WHERE id > ? AND id <= ? ORDER BY id")?;
        let mut rows = records.query((last - i64::from(count), last))?;
        while let Some(row) = rows.next()? {
            let record = row.get_ref(0)?.as_blob().map_err(|_| Damaged::NoRecord)?;
            changes.push(decode_change(commit.lsn, record).map_err(Damaged::from)?);
        }
    }
    Ok(commit.with_changes(changes).map_err(Damaged::from)?)
}
