//! The readers' side: the history of topics over a range of positions. A topic costs one look-up in
//! each segment of the range; records are read only for what is found. A reader looks at the tail of
//! a segment first and at its database after: what moves from the one to the other meanwhile is seen
//! twice, and never missed.

use std::sync::{Arc, PoisonError, RwLock};

use rowtide_feed::{Change, Changes, History, Transaction};
use rowtide_plan::plan::TableId;
use rowtide_plan::row::Topic;
use rowtide_protocol::{Epoch, Lsn};
use rusqlite::{Connection, OptionalExtension};
use rustc_hash::FxHashSet;
use thiserror::Error;

use crate::record::{Damaged, Interruptions, read_change, topic_hash};
use crate::segment::{Segment, from_sql, to_sql};

/// What writer and readers share.
#[derive(Debug)]
pub(crate) struct Shared(RwLock<State>);

/// The log as it is at one moment.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) epoch: Epoch,
    /// Not empty; each ends where the next begins, and only the last is written.
    pub(crate) segments: Arc<[Arc<Segment>]>,
    pub(crate) end: Lsn,
}

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
    /// Cursors before this position cannot resume.
    pub oldest: Lsn,
    /// When the oldest transaction was committed, microseconds since 1970 UTC; `None` if there is
    /// none.
    pub oldest_us: Option<i64>,
    /// Everything up to here is durable.
    pub end: Lsn,
}

impl Shared {
    pub(crate) fn new(state: State) -> Shared {
        Shared(RwLock::new(state))
    }

    pub(crate) fn state(&self) -> State {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl State {
    pub(crate) fn newest(&self) -> &Arc<Segment> {
        &self.segments[self.segments.len() - 1]
    }

    pub(crate) fn oldest(&self) -> Lsn {
        self.segments[0].after
    }

    /// The segments that hold something of what is after `after` and up to `up_to`, in order.
    fn within(&self, after: Lsn, up_to: Lsn) -> impl DoubleEndedIterator<Item = &Arc<Segment>> {
        let ends = self.segments[1..].iter().map(|next| next.after).chain([self.end]);
        let with_ends: Vec<_> = self.segments.iter().zip(ends).collect();
        with_ends
            .into_iter()
            .filter(move |(segment, end)| segment.after < up_to && *end > after)
            .map(|(segment, _)| segment)
    }
}

/// What a call of [`LogReader::history`] asks for, and what it has found.
struct Search<'a> {
    topics: FxHashSet<&'a Topic>,
    /// Sorted, each once.
    hashes: Vec<i64>,
    tables: &'a [TableId],
    after: Lsn,
    up_to: Lsn,
    changes_left: usize,
    bytes_left: usize,
    history: History,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> LogReader {
        LogReader(shared)
    }

    /// The id of this unbroken run of the stream.
    pub fn epoch(&self) -> Epoch {
        self.0.state().epoch
    }

    /// What happened to rows that were in one of `topics`, before or after, and which of `tables`
    /// were interrupted, in the transactions after `after` and up to `up_to` (or the end of the log,
    /// if that comes first). A topic without changes costs a look-up and no row is read for it.
    ///
    /// # Errors
    /// [`HistoryError::TooOld`] when `after` lies before the oldest position,
    /// [`HistoryError::TooMuch`] past `max_changes` or past `max_bytes` of records.
    pub fn history(
        &self,
        topics: &[Topic],
        tables: &[TableId],
        after: Lsn,
        up_to: Lsn,
        max_changes: usize,
        max_bytes: usize,
    ) -> Result<History, HistoryError> {
        let state = self.0.state();
        if after < state.oldest() {
            return Err(HistoryError::TooOld);
        }
        let up_to = up_to.min(state.end);
        let mut hashes: Vec<i64> = topics.iter().map(topic_hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let mut search = Search {
            topics: topics.iter().collect(),
            hashes,
            tables,
            after,
            up_to,
            changes_left: max_changes,
            bytes_left: max_bytes,
            history: History::default(),
        };
        for segment in state.within(after, up_to) {
            search.segment(segment).map_err(|error| of(segment, error))?;
        }
        search.history.interrupted.sort_unstable();
        search.history.interrupted.dedup();
        Ok(search.history)
    }

    /// The transactions after `after` and up to `up_to`, in order.
    ///
    /// # Errors
    /// [`HistoryError::TooOld`] when `after` lies before the oldest position.
    pub fn transactions(&self, after: Lsn, up_to: Lsn) -> Result<Vec<Committed>, HistoryError> {
        let state = self.0.state();
        if after < state.oldest() {
            return Err(HistoryError::TooOld);
        }
        let up_to = up_to.min(state.end);
        let mut transactions = Vec::new();
        for segment in state.within(after, up_to) {
            let read = segment.read(|db| {
                let mut rows = db.prepare_cached(
                    "SELECT lsn, xid, time_us FROM commits WHERE lsn > ? AND lsn <= ? ORDER BY lsn",
                )?;
                let rows = rows.query_map((to_sql(after), to_sql(up_to)), |row| {
                    let lsn = from_sql(row.get(0)?);
                    Ok(Committed { lsn, xid: row.get(1)?, commit_time_us: row.get(2)? })
                })?;
                for row in rows {
                    transactions.push(row?);
                }
                Ok(())
            });
            read.map_err(|error| of(segment, error))?;
        }
        Ok(transactions)
    }

    /// The last transactions whole, in order, but for the mutations that they settled: as many as
    /// have `max_changes` changes altogether, where one without changes counts as one.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn tail(&self, max_changes: usize) -> Result<Vec<Arc<Transaction>>, HistoryError> {
        let state = self.0.state();
        let mut left = max_changes;
        let mut newest_first = Vec::new();
        for segment in state.within(Lsn(0), state.end).rev() {
            let whole = segment
                .read(|db| last_transactions(db, state.end, &mut left, &mut newest_first))
                .map_err(|error| of(segment, error))?;
            if !whole {
                break;
            }
        }
        newest_first.reverse();
        Ok(newest_first)
    }

    /// How much there is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn statistics(&self) -> Result<Statistics, HistoryError> {
        let state = self.0.state();
        let mut with_transactions =
            state.segments.iter().filter(|segment| segment.newest_us() != i64::MIN);
        let oldest_us = match with_transactions.next() {
            None => None,
            Some(segment) => segment
                .read(|db| {
                    db.prepare_cached("SELECT time_us FROM commits ORDER BY lsn LIMIT 1")?
                        .query_row([], |row| row.get(0))
                        .optional()
                })
                .map_err(|error: rusqlite::Error| of(segment, error.into()))?,
        };
        let bytes = state.segments.iter().map(|segment| segment.bytes()).sum();
        Ok(Statistics { bytes, oldest: state.oldest(), oldest_us, end: state.end })
    }
}

/// A segment that was removed while it was read is history that is no more.
fn of(segment: &Segment, error: HistoryError) -> HistoryError {
    if segment.is_removed() { HistoryError::TooOld } else { error }
}

impl Search<'_> {
    fn segment(&mut self, segment: &Segment) -> Result<(), HistoryError> {
        let (indexed, in_tail) = segment.tail(|tail| {
            let of = |hash| tail.changes.get(hash).into_iter().flatten().copied();
            (tail.indexed, self.hashes.iter().flat_map(of).collect::<Vec<i64>>())
        });
        segment.read(|db| {
            let first = last_change(db, self.after)?;
            let last = last_change(db, self.up_to)?;
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
            let row = rows.next()?.ok_or(Damaged)?;
            let lsn = from_sql(row.get(0)?);
            let record = row.get_ref(1)?.as_blob().map_err(|_| Damaged)?;
            self.bytes_left =
                self.bytes_left.checked_sub(record.len()).ok_or(HistoryError::TooMuch)?;
            let change = read_change(lsn, record)?;
            if change.topics().any(|topic| self.topics.contains(topic)) {
                self.history.changes.push((lsn, change));
            }
        }
        Ok(())
    }

    fn find_interruptions(&mut self, db: &Connection) -> Result<(), HistoryError> {
        let mut query =
            db.prepare_cached("SELECT table_id FROM interrupted WHERE lsn > ? AND lsn <= ?")?;
        let mut rows = query.query((to_sql(self.after), to_sql(self.up_to)))?;
        while let Some(row) = rows.next()? {
            let table = TableId(row.get(0)?);
            if self.tables.contains(&table) {
                self.history.interrupted.push(table);
            }
        }
        Ok(())
    }
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
        "SELECT lsn, xid, time_us, last_change, interruptions FROM commits WHERE lsn <= ? \
         ORDER BY lsn DESC",
    )?;
    let mut records =
        db.prepare_cached("SELECT record FROM changes WHERE id > ? AND id <= ? ORDER BY id")?;
    let mut commits = commits.query([to_sql(end)])?;
    while let Some(commit) = commits.next()? {
        let lsn = from_sql(commit.get(0)?);
        let last: i64 = commit.get(3)?;
        let first = match lsn.0.checked_sub(1) {
            Some(before) => last_change(db, Lsn(before))?,
            None => 0,
        };
        let weight = usize::try_from(last - first).map_err(|_| Damaged)?.max(1);
        match left.checked_sub(weight) {
            Some(rest) => *left = rest,
            None => return Ok(false),
        }
        let interruptions = match commit.get_ref(4)?.as_blob_or_null().map_err(|_| Damaged)? {
            Some(bytes) => Interruptions::read(bytes)?,
            None => Interruptions::default(),
        };
        let changes = match interruptions.too_large {
            Some(tables) => Changes::TooLarge(tables),
            None => {
                let mut rows = records.query((first, last))?;
                let mut changes: Vec<Change> = Vec::new();
                while let Some(row) = rows.next()? {
                    let record = row.get_ref(0)?.as_blob().map_err(|_| Damaged)?;
                    changes.push(read_change(lsn, record)?);
                }
                if changes.len() as i64 != last - first {
                    return Err(Damaged.into());
                }
                Changes::Rows(changes)
            }
        };
        into.push(Arc::new(Transaction {
            lsn,
            xid: commit.get(1)?,
            commit_time_us: commit.get(2)?,
            truncated: interruptions.truncated,
            changes,
            acknowledgements: Vec::new(),
        }));
    }
    Ok(true)
}
