//! The one connection that writes: the newest segment's.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rowtide_feed::{Changes, Transaction};
use rowtide_protocol::{Epoch, Lsn};
use rusqlite::{Connection, OptionalExtension};
use smallvec::SmallVec;

use super::{Segment, SegmentError, Tail, remove, to_sql};
use crate::log::Identity;
use crate::record::{Interruptions, topic_hash, write_change};

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
    /// Begins a new segment at `after`.
    ///
    /// # Errors
    /// Then nothing of it is left: a later start would go on from it.
    pub(crate) fn create(
        dir: &Path,
        number: u64,
        epoch: Epoch,
        identity: &Identity,
        after: Lsn,
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

    pub(crate) fn new(segment: Arc<Segment>) -> Result<SegmentWriter, rusqlite::Error> {
        let db = segment.connect()?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        db.pragma_update(None, "journal_size_limit", CHECKPOINT_PAGES * 4_096)?;
        // In KiB.
        db.pragma_update(None, "cache_size", -16_384)?;
        let last_change =
            db.query_row("SELECT ifnull(max(id), 0) FROM changes", [], |row| row.get(0))?;
        let oldest_us = db
            .query_row("SELECT time_us FROM commits ORDER BY lsn LIMIT 1", [], |row| row.get(0))
            .optional()?;
        let bytes = size_of_database(&db)?;
        Ok(SegmentWriter { segment, db, last_change, oldest_us, bytes })
    }

    /// Appends transactions and moves the segment's end to `end`, all or nothing and durably.
    pub(crate) fn append(
        &mut self,
        transactions: &[&Transaction],
        end: Lsn,
    ) -> Result<(), rusqlite::Error> {
        let write = self.db.transaction()?;
        let mut last_change = self.last_change;
        let mut entries: Vec<(i64, i64)> = Vec::new();
        {
            let mut commit = write.prepare_cached("INSERT INTO commits VALUES (?, ?, ?, ?, ?)")?;
            let mut insert = write.prepare_cached("INSERT INTO changes VALUES (?, ?, ?)")?;
            for transaction in transactions {
                let lsn = to_sql(transaction.lsn);
                let mut interruptions =
                    Interruptions { truncated: transaction.truncated.clone(), too_large: None };
                match &transaction.changes {
                    Changes::TooLarge(tables) => interruptions.too_large = Some(tables.clone()),
                    Changes::Rows(changes) => {
                        for change in changes {
                            last_change += 1;
                            let record = write_change(transaction.lsn, change);
                            insert.execute((last_change, lsn, record))?;
                            let mut hashes: SmallVec<[i64; 8]> =
                                change.topics().map(topic_hash).collect();
                            hashes.sort_unstable();
                            hashes.dedup();
                            entries.extend(hashes.iter().map(|hash| (*hash, last_change)));
                        }
                    }
                }
                let (xid, time_us) = (transaction.xid, transaction.commit_time_us);
                commit.execute((lsn, xid, time_us, last_change, interruptions.write()))?;
                for table in interruptions.tables() {
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
        write.prepare_cached("UPDATE progress SET end = ?")?.execute([to_sql(end)])?;
        let bytes = size_of_database(&write)?;
        write.commit()?;
        self.last_change = last_change;
        self.bytes = bytes;
        if let (Some(first), Some(last)) = (transactions.first(), transactions.last()) {
            self.oldest_us.get_or_insert(first.commit_time_us);
            self.segment.newest_us.store(last.commit_time_us, Ordering::Relaxed);
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

/// Puts the tail and `more` into the index.
fn index(
    write: &Connection,
    tail: &Tail,
    more: &[(i64, i64)],
    last_change: i64,
) -> Result<(), rusqlite::Error> {
    let of_tail = tail
        .changes
        .iter()
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
