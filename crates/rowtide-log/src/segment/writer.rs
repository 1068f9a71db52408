//! The one connection that writes: the newest segment's.

use std::path::Path;
use std::sync::Arc;

use rowtide_feed::codec::{encode, encode_change, encode_commit};
use rowtide_feed::{Changes, Event};
use rowtide_protocol::Epoch;
use rusqlite::Connection;
use smallvec::SmallVec;

use super::{
    RESHAPED, Segment, SegmentError, Tail, Unreadable, end_to_sql, hash, read_commit, remove,
    to_sql,
};
use crate::identity::LogIdentity;
use crate::rules::{Appending, LogEnd, interruptions};

/// So many entries go into the index at once, a few thousand changes: enough for pages to be shared,
/// and few enough that an append is held up by some tens of milliseconds at most.
const INDEX_BATCH: usize = 24_000;

/// Pages of SQLite's write-ahead log before they are brought into the database: 16 MiB. Whatever is
/// written again until then is written once.
const CHECKPOINT_PAGES: i64 = 4_096;

/// Appends to a segment.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    segment: Arc<Segment>,
    db: Connection,
    last_change: i64,
    /// When its first transaction was committed, if it has one.
    pub(crate) oldest_us: Option<i64>,
    /// Bytes of the database, its write-ahead log aside.
    pub(crate) bytes: u64,
}

impl SegmentWriter {
    /// Begins a new segment where the log ends.
    ///
    /// # Errors
    /// Then nothing of it is left: a later start would go on from it.
    pub(crate) fn create(
        dir: &Path,
        number: u64,
        epoch: Epoch,
        identity: &LogIdentity,
        after: Option<LogEnd>,
    ) -> Result<SegmentWriter, SegmentError> {
        let made = Segment::create(dir, number, epoch, identity, after)
            .and_then(|segment| Ok(SegmentWriter::new(Arc::new(segment))?));
        if made.is_err() {
            drop(remove(dir, number));
        }
        made
    }

    /// The segment that is written.
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    pub(crate) fn new(segment: Arc<Segment>) -> Result<SegmentWriter, Unreadable> {
        let db = segment.connect()?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        db.pragma_update(None, "journal_size_limit", CHECKPOINT_PAGES * 4_096)?;
        // In KiB.
        db.pragma_update(None, "cache_size", -16_384)?;
        let last_change =
            db.query_row("SELECT ifnull(max(id), 0) FROM changes", [], |row| row.get(0))?;
        let oldest_us = first_time_us(&db)?;
        let bytes = size_of_database(&db)?;
        Ok(SegmentWriter { segment, db, last_change, oldest_us, bytes })
    }

    /// Appends transactions and moves the segment's end, all or nothing and durably.
    pub(crate) fn append(&mut self, appending: &Appending<'_>) -> Result<(), rusqlite::Error> {
        let transactions = &appending.transactions;
        let write = self.db.transaction()?;
        let mut last_change = self.last_change;
        let mut entries: Vec<(i64, i64)> = Vec::new();
        {
            let mut commit = write.prepare_cached("INSERT INTO commits VALUES (?, ?, ?)")?;
            let mut insert = write.prepare_cached("INSERT INTO changes VALUES (?, ?, ?)")?;
            let mut record = Vec::with_capacity(1_024);
            for (previous, transaction) in transactions {
                let lsn = to_sql(transaction.lsn);
                if let Changes::Rows(changes) = &transaction.changes {
                    for change in changes {
                        last_change += 1;
                        record.clear();
                        encode_change(transaction.lsn, change, &mut record);
                        insert.execute((last_change, lsn, &record[..]))?;
                        let mut hashes: SmallVec<[i64; 8]> = change.topics().map(hash).collect();
                        hashes.sort_unstable();
                        hashes.dedup();
                        entries.extend(hashes.iter().map(|hash| (*hash, last_change)));
                    }
                }
                record.clear();
                encode_commit(*previous, transaction, &mut record);
                commit.execute((lsn, last_change, &record[..]))?;
                for table in interruptions(transaction) {
                    write.execute(
                        "INSERT OR IGNORE INTO interrupted VALUES (?, ?)",
                        (lsn, table.0),
                    )?;
                }
            }
        }
        let flush = self.segment.tail(|tail| tail.entries) + entries.len() > INDEX_BATCH;
        if flush {
            self.segment.tail(|tail| index(&write, tail, &entries, last_change))?;
        }
        write
            .prepare_cached(
                "UPDATE progress SET transaction_end = ?, quiet_end = ?, quiet_time_us = ?",
            )?
            .execute(end_to_sql(&appending.end))?;
        let bytes = size_of_database(&write)?;
        write.commit()?;
        self.last_change = last_change;
        self.bytes = bytes;
        if let (Some((_, first)), Some((_, last))) = (transactions.first(), transactions.last()) {
            self.oldest_us.get_or_insert(first.commit_time_us);
            self.segment.set_newest_us(last.commit_time_us);
        }
        self.segment.change_tail(|tail| {
            if flush {
                *tail = Tail { indexed: last_change, ..Tail::default() };
            } else {
                entries.iter().for_each(|(topic, change)| tail.add(*topic, *change));
            }
        });
        Ok(())
    }

    /// Has the segment say how many columns tables have, if an earlier version has written it.
    pub(crate) fn learn_columns(&mut self, identity: &LogIdentity) -> Result<(), rusqlite::Error> {
        if super::columns(&self.db)?.as_ref() == Some(&identity.columns) {
            return Ok(());
        }
        super::set_columns(&self.db, identity)
    }

    /// Appends an [`Event::Reshaped`], with which the log is of `identity` and ends at `end`, all or nothing and durably.
    pub(crate) fn reshape(
        &mut self,
        identity: &LogIdentity,
        event: &Event,
        end: &LogEnd,
    ) -> Result<(), rusqlite::Error> {
        let Event::Reshaped { lsn, .. } = event else { return Ok(()) };
        let write = self.db.transaction()?;
        write.execute_batch(RESHAPED)?;
        let mut message = Vec::new();
        encode(event, &mut message);
        write.execute("INSERT INTO reshaped VALUES (?, ?)", (to_sql(*lsn), message))?;
        write.execute("UPDATE segment SET identity = ?", [identity.bytes()])?;
        super::set_columns(&write, identity)?;
        write.execute(
            "UPDATE progress SET transaction_end = ?, quiet_end = ?, quiet_time_us = ?",
            end_to_sql(end),
        )?;
        write.commit()
    }

    /// Brings the segment to the form in which it is only read: all indexed, in one file. Nothing is
    /// lost if it fails.
    pub(crate) fn seal(&mut self) -> Result<(), rusqlite::Error> {
        let last_change = self.last_change;
        let write = self.db.transaction()?;
        self.segment.tail(|tail| index(&write, tail, &[], last_change))?;
        write.commit()?;
        self.segment.change_tail(|tail| {
            *tail = Tail { indexed: last_change, ..Tail::default() };
        });
        let (in_log, in_database) =
            self.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })?;
        // Otherwise a reader of an older state is in its way, and it goes on being read as it is.
        if in_log == in_database {
            self.segment.set_sealed();
        }
        Ok(())
    }
}

/// When the first transaction was committed.
pub(crate) fn first_time_us(db: &Connection) -> Result<Option<i64>, Unreadable> {
    let mut first =
        db.prepare_cached("SELECT lsn, last_change, record FROM commits ORDER BY lsn LIMIT 1")?;
    let mut rows = first.query([])?;
    let first = rows.next()?.map(read_commit).transpose()?;
    Ok(first.map(|(commit, _)| commit.commit_time_us))
}

/// Puts the tail and `more` into the index.
fn index(
    write: &Connection,
    tail: &Tail,
    more: &[(i64, i64)],
    last_change: i64,
) -> Result<(), rusqlite::Error> {
    let of_tail = tail
        .changes
        .sorted()
        .into_iter()
        .flat_map(|(topic, changes)| changes.iter().map(|change| (*topic, *change)));
    let mut entries: Vec<(i64, i64)> = of_tail.chain(more.iter().copied()).collect();
    entries.sort_unstable();
    let mut insert = write.prepare_cached("INSERT INTO topics VALUES (?, ?)")?;
    for entry in entries {
        insert.execute(entry)?;
    }
    write.execute("UPDATE progress SET indexed = ?", [last_change])?;
    Ok(())
}

fn size_of_database(db: &Connection) -> Result<u64, rusqlite::Error> {
    let pages: i64 = db.prepare_cached("PRAGMA page_count")?.query_row([], |row| row.get(0))?;
    Ok(pages.unsigned_abs() * 4_096)
}
