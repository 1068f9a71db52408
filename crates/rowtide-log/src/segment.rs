//! A segment: a stretch of the log in a SQLite database of its own, by itself complete. Records are
//! appended one after the other; the index by topic is random by nature, and an insert into it costs
//! a page. So what was appended last is indexed in memory, in the [`Tail`], and goes into the index
//! some ten thousand entries at a time, in order, which is a third of the work. After a crash the
//! tail is made again from the records.

mod error;
mod files;
mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use rowtide_feed::Event;
use rowtide_feed::codec::{Commit, decode, decode_change, decode_commit, topic_hash};
use rowtide_plan::map::SeededMap;
use rowtide_plan::row::Topic;
use rowtide_protocol::{Epoch, Lsn};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use self::files::{path_of, remove_database, wal_of};
use crate::identity::LogIdentity;
use crate::rules::{self, Header, LogEnd};

pub use error::Damaged;
pub(crate) use error::{SegmentError, Unreadable, Unusable};
pub(crate) use files::{list, make_private, private_file, remove};
pub(crate) use writer::{SegmentWriter, first_time_us};

/// The form of a segment (`user_version`). Records say their own version.
const FORMAT: i64 = 2;

/// Where a log is stored to begin and to end in which nothing has begun: Postgres has no commit there.
const NOWHERE: Lsn = Lsn(0);

/// Marks a SQLite database as a segment (`application_id`).
const APPLICATION: i64 = 0x526f_5431;

/// Connections of readers that are kept for the next reader.
const IDLE_READERS: usize = 4;

const SCHEMA: &str = "
    CREATE TABLE segment (
        epoch INTEGER NOT NULL,
        identity BLOB NOT NULL,
        after INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE progress (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        transaction_end INTEGER NOT NULL,
        quiet_end INTEGER,
        quiet_time_us INTEGER,
        indexed INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE commits (
        lsn INTEGER PRIMARY KEY,
        last_change INTEGER NOT NULL,
        record BLOB NOT NULL
    ) STRICT;
    CREATE TABLE changes (
        id INTEGER PRIMARY KEY,
        lsn INTEGER NOT NULL,
        record BLOB NOT NULL
    ) STRICT;
    CREATE TABLE topics (
        topic INTEGER NOT NULL,
        change INTEGER NOT NULL,
        PRIMARY KEY (topic, change)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE interrupted (
        lsn INTEGER NOT NULL,
        table_id INTEGER NOT NULL,
        PRIMARY KEY (lsn, table_id)
    ) STRICT, WITHOUT ROWID;
";

/// Where a segment has each `Event::Reshaped`, as a message. It is made with the first one: a segment without any is as earlier
/// versions wrote it.
const RESHAPED: &str = "
    CREATE TABLE IF NOT EXISTS reshaped (
        lsn INTEGER PRIMARY KEY,
        message BLOB NOT NULL
    ) STRICT;
";

/// How many columns tables have ([`LogIdentity::columns`], two bytes each, little-endian). What an earlier version wrote has none.
const COLUMNS: &str = "
    CREATE TABLE IF NOT EXISTS columns (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        counts BLOB NOT NULL
    ) STRICT;
";

/// One stretch of the log: everything after `after`, up to where the next segment begins.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    /// `None` if nothing has begun in its log.
    pub(crate) after: Option<Lsn>,
    path: PathBuf,
    /// When its last transaction was committed, if there is one.
    newest_us: Mutex<Option<i64>>,
    tail: RwLock<Tail>,
    readers: Mutex<Vec<Connection>>,
    /// Whether all of it is in the database file, for good.
    sealed: AtomicBool,
    removed: AtomicBool,
}

/// The index of the changes that are not in the segment's own index yet.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// The changes behind this one are here.
    pub(crate) indexed: i64,
    /// By the topic's hash, in order.
    pub(crate) changes: SeededMap<i64, Vec<i64>>,
    /// Topics and changes altogether.
    pub(crate) entries: usize,
}

/// A segment that was there.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) segment: Segment,
    pub(crate) header: Header,
    /// `None` if nothing has begun in its log.
    pub(crate) end: Option<LogEnd>,
}

/// LSNs in the order of SQLite's signed numbers.
pub(crate) fn to_sql(lsn: Lsn) -> i64 {
    (lsn.0 ^ 1 << 63) as i64
}

pub(crate) fn from_sql(stored: i64) -> Lsn {
    Lsn(stored as u64 ^ 1 << 63)
}

impl Segment {
    /// Makes an empty segment that begins where the log ends, in a file that gets its name when it is whole.
    fn create(
        dir: &Path,
        number: u64,
        epoch: Epoch,
        identity: &LogIdentity,
        after: Option<LogEnd>,
    ) -> Result<Segment, SegmentError> {
        let path = path_of(dir, number);
        let new = path.with_extension("new");
        remove_database(&new)?;
        drop(private_file(&new)?);
        Segment::fill(&new, epoch, identity, &after.unwrap_or(LogEnd::at(NOWHERE)))?;
        fs::rename(&new, &path)?;
        fs::File::open(dir)?.sync_all()?;
        Ok(Segment::at(path, number, after.map(|after| after.position())))
    }

    fn fill(
        path: &Path,
        epoch: Epoch,
        identity: &LogIdentity,
        after: &LogEnd,
    ) -> Result<(), rusqlite::Error> {
        let db = Connection::open(path)?;
        db.pragma_update(None, "synchronous", "FULL")?;
        let begin = db.unchecked_transaction()?;
        begin.pragma_update(None, "application_id", APPLICATION)?;
        begin.pragma_update(None, "user_version", FORMAT)?;
        begin.execute_batch(SCHEMA)?;
        begin.execute(
            "INSERT INTO segment VALUES (?, ?, ?)",
            (epoch.0 as i64, identity.bytes(), to_sql(after.position())),
        )?;
        set_columns(&begin, identity)?;
        let (transaction, quiet, time_us) = end_to_sql(after);
        begin.execute(
            "INSERT INTO progress VALUES (1, ?, ?, ?, 0)",
            (transaction, quiet, time_us),
        )?;
        begin.commit()?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.close().map_err(|(_, error)| error)
    }

    fn at(path: PathBuf, number: u64, after: Option<Lsn>) -> Segment {
        Segment {
            number,
            after,
            path,
            newest_us: Mutex::default(),
            tail: RwLock::default(),
            readers: Mutex::default(),
            sealed: AtomicBool::new(false),
            removed: AtomicBool::new(false),
        }
    }

    /// Opens what is there. A torn tail is found by SQLite: its write-ahead log has checksums.
    pub(crate) fn open(dir: &Path, number: u64, is_newest: bool) -> Result<Found, Unusable> {
        let path = path_of(dir, number);
        let was_cut_off = fs::metadata(wal_of(&path)).is_ok_and(|wal| wal.len() > 0);
        let segment = Segment::at(path, number, None);
        if !is_newest && !was_cut_off {
            segment.set_sealed();
        }
        let db = segment.connect()?;
        let number = |pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        if number("application_id")? != APPLICATION || number("user_version")? != FORMAT {
            return Err(Unusable::Unfit(rules::Unusable::OtherVersion));
        }
        if was_cut_off {
            let found =
                db.pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0))?;
            if found != "ok" {
                return Err(Unusable::damaged(found));
            }
        }
        let (epoch, identity, after) =
            db.query_row("SELECT epoch, identity, after FROM segment", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get(2)?))
            })?;
        let after = from_sql(after);
        let (end, indexed) = db.query_row(
            "SELECT transaction_end, quiet_end, quiet_time_us, indexed FROM progress",
            [],
            |row| {
                let quiet = row.get::<_, Option<i64>>(1)?.zip(row.get::<_, Option<i64>>(2)?);
                let quiet = quiet.map(|(lsn, time_us)| (from_sql(lsn), time_us));
                let end = LogEnd::stored(from_sql(row.get(0)?), quiet);
                Ok((end, row.get::<_, i64>(3)?))
            },
        )?;
        let newest = last_commit(&db)?;
        let last_record: i64 =
            db.query_row("SELECT ifnull(max(id), 0) FROM changes", [], |row| row.get(0))?;
        let last_change = newest.as_ref().map_or(0, |(_, last_change)| *last_change);
        let reshaped = reshaped(&db)?.last().and_then(Event::lsn);
        let last_link = newest.as_ref().map(|(commit, _)| commit.lsn).max(reshaped);
        let transactions_fit = match last_link {
            Some(lsn) => lsn == end.transaction() && lsn > after,
            None => end.transaction() <= after,
        };
        let changes_fit = last_record == last_change && indexed <= last_change;
        if !transactions_fit || !changes_fit || after > end.position() {
            return Err(Unusable::damaged("its tables do not fit each other"));
        }
        let tail = read_tail(&db, indexed)?.into();
        let newest_us = Mutex::new(newest.map(|(commit, _)| commit.commit_time_us));
        let (epoch, columns) = (Epoch(epoch as u64), columns(&db)?);
        let header = Header { epoch, identity, columns, after, end: end.position() };
        drop(db);
        let has_begun = end.position() > NOWHERE;
        let (after, end) = (has_begun.then_some(after), has_begun.then_some(end));
        Ok(Found { segment: Segment { after, newest_us, tail, ..segment }, header, end })
    }

    /// Runs `read` on a connection whose transaction sees one state of the segment.
    pub(crate) fn read<T, E: From<rusqlite::Error>>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let sealed = self.sealed.load(Ordering::Acquire);
        let idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let db = match idle {
            Some(db) => db,
            None => self.connect()?,
        };
        let whole = db.unchecked_transaction()?;
        let result = read(&whole)?;
        whole.finish()?;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = sealed == self.sealed.load(Ordering::Acquire) && !self.is_removed();
        if is_current && readers.len() < IDLE_READERS {
            readers.push(db);
        }
        Ok(result)
    }

    /// A sealed segment is read without locks and without the shared memory file that they need:
    /// also while the disk is full.
    fn connect(&self) -> Result<Connection, rusqlite::Error> {
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let path = self.path.to_string_lossy();
        let path = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        if self.sealed.load(Ordering::Acquire) {
            let uri = format!("file:{path}?immutable=1");
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_READ_ONLY)
        } else {
            let uri = format!("file:{path}");
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_READ_WRITE)
        }
    }

    /// Nothing will be written to it again, and all is in the database file.
    fn set_sealed(&self) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        self.sealed.store(true, Ordering::Release);
        readers.clear();
    }

    /// Looks at the tail. What is appended meanwhile waits.
    pub(crate) fn tail<T>(&self, look: impl FnOnce(&Tail) -> T) -> T {
        look(&self.tail.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_tail(&self, change: impl FnOnce(&mut Tail)) {
        change(&mut self.tail.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// When its last transaction was committed, microseconds since 1970 UTC, if there is one.
    pub(crate) fn newest_us(&self) -> Option<i64> {
        *self.newest_us.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction was committed then.
    fn set_newest_us(&self, committed_us: i64) {
        *self.newest_us.lock().unwrap_or_else(PoisonError::into_inner) = Some(committed_us);
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        size(&self.path) + size(&wal_of(&self.path))
    }

    /// Deletes its files. Readers that have it open may go on.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.removed.store(true, Ordering::Release);
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        remove_database(&self.path)
    }

    /// Whether it was removed: reading it may fail for that.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

/// The columns of an end.
fn end_to_sql(end: &LogEnd) -> (i64, Option<i64>, Option<i64>) {
    let quiet = end.quiet();
    let (lsn, time_us) = (quiet.map(|(lsn, _)| to_sql(lsn)), quiet.map(|(_, time_us)| time_us));
    (to_sql(end.transaction()), lsn, time_us)
}

/// The last transaction, and its last change.
pub(crate) fn last_commit(db: &Connection) -> Result<Option<(Commit, i64)>, Unreadable> {
    let sql = "SELECT lsn, last_change, record FROM commits ORDER BY lsn DESC LIMIT 1";
    let mut last = db.prepare_cached(sql)?;
    let mut rows = last.query([])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(read_commit(row)?))
}

/// Has the segment say how many columns tables have.
fn set_columns(db: &Connection, identity: &LogIdentity) -> Result<(), rusqlite::Error> {
    db.execute_batch(COLUMNS)?;
    let counts: Vec<u8> = identity.columns.iter().flat_map(|count| count.to_le_bytes()).collect();
    db.execute("INSERT OR REPLACE INTO columns VALUES (1, ?)", [counts]).map(drop)
}

/// How many columns tables have, if the segment says.
fn columns(db: &Connection) -> Result<Option<Vec<u16>>, rusqlite::Error> {
    if !has_table(db, "columns")? {
        return Ok(None);
    }
    let counts: Option<Vec<u8>> =
        db.query_row("SELECT counts FROM columns", [], |row| row.get(0)).optional()?;
    let count = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes);
    Ok(counts.map(|counts| counts.as_chunks().0.iter().map(count).collect()))
}

fn has_table(db: &Connection, name: &str) -> Result<bool, rusqlite::Error> {
    let known = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?";
    db.prepare_cached(known)?.query_row([name], |row| Ok(row.get::<_, i64>(0)? > 0))
}

/// Each [`Event::Reshaped`] of the segment, in order.
pub(crate) fn reshaped(db: &Connection) -> Result<Vec<Event>, Unreadable> {
    if !has_table(db, "reshaped")? {
        return Ok(Vec::new());
    }
    let mut all = db.prepare_cached("SELECT message FROM reshaped ORDER BY lsn")?;
    let mut rows = all.query([])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let mut message = row.get_ref(0)?.as_blob().map_err(|_| Damaged::NoRecord)?;
        events.push(decode(&mut message).map_err(Damaged::from)?);
    }
    Ok(events)
}

/// A commit and its last change, of a row of `lsn, last_change, record`.
pub(crate) fn read_commit(row: &Row<'_>) -> Result<(Commit, i64), Unreadable> {
    let record = row.get_ref(2)?.as_blob().map_err(|_| Damaged::NoRecord)?;
    let commit = decode_commit(from_sql(row.get(0)?), record).map_err(Damaged::from)?;
    Ok((commit, row.get(1)?))
}

/// What is not indexed, from its records.
fn read_tail(db: &Connection, indexed: i64) -> Result<Tail, Unusable> {
    let mut tail = Tail { indexed, ..Tail::default() };
    let mut rows = db.prepare("SELECT id, lsn, record FROM changes WHERE id > ? ORDER BY id")?;
    let mut rows = rows.query([indexed])?;
    while let Some(row) = rows.next()? {
        let (id, lsn) = (row.get(0)?, from_sql(row.get(1)?));
        let record = row.get_ref(2)?.as_blob().map_err(|_| Damaged::NoRecord)?;
        let change = decode_change(lsn, record).map_err(Damaged::from)?;
        change.topics().for_each(|topic| tail.add(hash(topic), id));
    }
    Ok(tail)
}

/// What the index knows of a topic, in SQLite's signed numbers.
pub(crate) fn hash(topic: &Topic) -> i64 {
    topic_hash(topic) as i64
}

impl Tail {
    /// Changes come in order; a topic may come twice for one change.
    pub(crate) fn add(&mut self, topic: i64, change: i64) {
        let changes = self.changes.or_insert_with(topic, Vec::new);
        if changes.last() != Some(&change) {
            changes.push(change);
            self.entries += 1;
        }
    }
}
