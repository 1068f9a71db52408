//! The writer's side: the one owner of the directory, which appends, prunes and begins anew. Readers
//! see what is appended once it is durable.

use std::fs::{File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rowtide_feed::{Event, LogExtent};
use rowtide_protocol::{Epoch, Lsn};
use thiserror::Error;

use crate::identity::LogIdentity;
use crate::note;
use crate::reader::LogReader;
use crate::rules::{self, Began, Gap, LogEnd, LogOpening, OpeningVerdict};
use crate::segment::{
    self, Damaged, Found, Segment, SegmentError, SegmentWriter, Unreadable, Unusable,
};
use crate::state::{Shared, State};

/// A log of so many segments is full, by age and by size: what is pruned at once, and how many
/// look-ups a topic costs a client that was away for the whole retention.
const SEGMENTS: u32 = 8;

/// How long a lock may be someone else's before the log is. A child that this process is about to start holds
/// what the process had open for a moment, also if it was closed meanwhile.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Where a log is and how much it keeps.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The directory; it is made if it is not there. Nothing else may be in it.
    pub dir: PathBuf,
    /// Transactions are kept for this long after their commit, and up to an eighth longer.
    pub retention: Duration,
    /// The most bytes on disk. Beyond it transactions are pruned before their time. Not counted: what is
    /// appended between two calls of [`Log::prune`], and 16 MiB of SQLite's write-ahead log.
    pub max_bytes: u64,
}

/// A log that is open.
#[derive(Debug)]
pub struct Opened {
    /// The one writer.
    pub log: Log,
    /// For any number of readers.
    pub reader: LogReader,
    /// What was found.
    pub began: Began,
    /// What was noted last ([`Log::note`]), if that was in this epoch.
    pub note: Option<String>,
}

/// Why the log could not be opened or written. What was appended before is not concerned.
#[derive(Debug, Error)]
pub enum LogError {
    /// Another process has it open.
    #[error("the log in `{0}` is in use by another process")]
    Locked(PathBuf),
    /// There is no room. What was asked for succeeds once there is.
    #[error("there is no room for the log in `{0}`")]
    DiskFull(PathBuf),
    /// The directory or a file in it cannot be used.
    #[error("the log in `{dir}` cannot be used: {source}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing has begun in it that could be gone on with.
    #[error("nothing has begun in the log in `{0}`")]
    NotBegun(PathBuf),
    /// What was to be appended is not the continuation. It never will be: something between was not handed over.
    #[error(transparent)]
    Gap(#[from] Gap),
    /// What is in it is not what was written.
    #[error("the log in `{dir}` is damaged: {source}")]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        source: Damaged,
    },
    /// The storage engine failed.
    #[error("the log in `{dir}` failed: {source}")]
    Storage {
        /// The directory.
        dir: PathBuf,
        /// What the engine says.
        source: rusqlite::Error,
    },
}

/// The writer of a log. To be used from a thread of its own: it waits for the disk.
#[derive(Debug)]
pub struct Log {
    options: LogOptions,
    identity: LogIdentity,
    shared: Arc<Shared>,
    writer: SegmentWriter,
    /// Held for as long as the log is open; the system lets go of it when the process ends.
    _lock: File,
}

impl Log {
    /// Opens the log in a directory, or makes one. What is there goes on if it is of `identity` and
    /// can be read; otherwise a new one with a new epoch takes its place, in which nothing has begun. Where it may be of the same
    /// before tables got more columns it goes on as that ([`Log::identity`]), for others to decide.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another process has it open; others when the directory cannot be
    /// read or written.
    pub fn open(options: LogOptions, identity: LogIdentity) -> Result<Opened, LogError> {
        let dir = options.dir.clone();
        let at = |source: io::Error| LogError::io(&options, source);
        segment::make_private(&dir).map_err(at)?;
        let lock = segment::private_file(&dir.join("lock")).map_err(at)?;
        let asked = Instant::now();
        while let Err(error) = lock.try_lock() {
            match error {
                TryLockError::Error(source) => return Err(at(source)),
                TryLockError::WouldBlock if asked.elapsed() > LOCK_PATIENCE => {
                    return Err(LogError::Locked(dir));
                }
                TryLockError::WouldBlock => std::thread::sleep(LOCK_PATIENCE / 100),
            }
        }
        let numbers = segment::list(&dir).map_err(at)?;
        let (state, identity, began) = find(&options, identity, &numbers)?;
        let next = numbers.last().map_or(0, |last| last + 1);
        let (writer, state) = match state {
            Some(state) => {
                let writer = SegmentWriter::new(Arc::clone(state.newest()));
                let mut writer = writer.map_err(|source| LogError::of(&options, source.into()))?;
                // Where there is no room for that now, it does not know.
                drop(writer.learn_columns(&identity));
                (writer, state)
            }
            None => begin(&options, &identity, None, next)?,
        };
        // What is left of other epochs, or before a gap.
        let oldest = state.segments.first().map_or(0, |oldest| oldest.number);
        for number in numbers.into_iter().filter(|number| *number < oldest) {
            segment::remove(&dir, number).map_err(at)?;
        }
        let note = note::read(&dir, state.epoch);
        let shared = Arc::new(Shared::new(state));
        let reader = LogReader::new(Arc::clone(&shared));
        let log = Log { options, identity, shared, writer, _lock: lock };
        Ok(Opened { log, reader, began, note })
    }

    /// What it is of.
    pub fn identity(&self) -> &LogIdentity {
        &self.identity
    }

    /// The id of this unbroken run of the stream.
    pub fn epoch(&self) -> Epoch {
        self.shared.state().epoch
    }

    /// From where to where it goes; `None` if it is new, or was ended, and nothing has begun in it since.
    pub fn extent(&self) -> Option<LogExtent> {
        let (oldest, end) = self.shared.state().range()?;
        Some(LogExtent { oldest, durable: end.position() })
    }

    /// Its size, in bytes on disk. Asks the disk.
    pub fn bytes(&self) -> u64 {
        self.shared.state().segments.iter().map(|segment| segment.bytes()).sum()
    }

    /// Appends to the end, in order, all or nothing; durable when it returns. What lies at or before
    /// the end is skipped, so that the stream may bring it again; so are events without a position.
    ///
    /// # Errors
    /// Then the log is as it was, and the same call can be made again; of [`LogError::Gap`] and [`LogError::NotBegun`] in vain.
    pub fn append(&mut self, events: &[Event]) -> Result<(), LogError> {
        let end = self.end()?;
        let appending = rules::to_append(&end, events)?;
        if appending.end == end {
            return Ok(());
        }
        if let Some((_, first)) = appending.transactions.first()
            && self.is_full(first.commit_time_us)
        {
            self.next_segment()?;
        }
        self.writer
            .append(&appending)
            .map_err(|source| LogError::of(&self.options, source.into()))?;
        self.shared.change(|state| state.end = Some(appending.end));
        Ok(())
    }

    /// Appends an [`Event::Reshaped`]: from here on the log is of `identity`. Both become durable together, when it
    /// returns. If the log has it already nothing is changed.
    ///
    /// # Errors
    /// As of [`Log::append`].
    pub fn reshape(&mut self, identity: LogIdentity, event: &Event) -> Result<(), LogError> {
        let end = self.end()?;
        let Some(end) = rules::to_reshape(&end, event)? else { return Ok(()) };
        self.writer
            .reshape(&identity, event, &end)
            .map_err(|source| LogError::of(&self.options, source.into()))?;
        self.identity = identity;
        self.shared.change(|state| state.end = Some(end));
        Ok(())
    }

    /// Keeps a note for whoever goes on with this epoch, in place of the last one; durable when it returns.
    ///
    /// # Errors
    /// When it cannot be written: the last one is there then.
    pub fn note(&mut self, text: &str) -> Result<(), LogError> {
        let written = note::write(&self.options.dir, self.epoch(), text);
        written.map_err(|source| LogError::io(&self.options, source))
    }

    /// Removes what is older than the retention, as of `now`, and what is beyond the size.
    ///
    /// # Errors
    /// When files cannot be removed, or a new segment not be made.
    pub fn prune(&mut self, now: SystemTime) -> Result<(), LogError> {
        let now_us = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        let kept_us = now_us.saturating_sub(micros(self.options.retention));
        if self.writer.oldest_us.is_some()
            && self.shared.state().newest().newest_us() < Some(kept_us)
        {
            self.next_segment()?;
        }
        let segments = self.shared.state().segments;
        let mut bytes = self.bytes();
        let [old @ .., _] = &segments[..] else { return Ok(()) };
        for segment in old {
            if segment.newest_us() >= Some(kept_us) && bytes <= self.options.max_bytes {
                break;
            }
            bytes = bytes.saturating_sub(segment.bytes());
            self.shared.change(|state| state.segments = state.segments[1..].into());
            segment.remove().map_err(|source| LogError::io(&self.options, source))?;
        }
        Ok(())
    }

    /// Empties the log and begins anew at `position`, with a new epoch.
    ///
    /// # Errors
    /// When the new log cannot be made: then the old one is as it was.
    pub fn begin_epoch(&mut self, identity: LogIdentity, position: Lsn) -> Result<(), LogError> {
        self.replace(identity, Some(LogEnd::at(position)))
    }

    /// Empties the log, which is of another epoch then that has not begun: nothing can be its continuation.
    ///
    /// # Errors
    /// As of [`Log::begin_epoch`].
    pub fn end_epoch(&mut self, identity: LogIdentity) -> Result<(), LogError> {
        self.replace(identity, None)
    }

    fn end(&self) -> Result<LogEnd, LogError> {
        let end = self.shared.state().end;
        end.ok_or_else(|| LogError::NotBegun(self.options.dir.clone()))
    }

    fn replace(&mut self, identity: LogIdentity, end: Option<LogEnd>) -> Result<(), LogError> {
        let old = self.shared.state();
        let next = old.newest().number + 1;
        let (writer, state) = begin(&self.options, &identity, end, next)?;
        self.writer = writer;
        self.identity = identity;
        self.shared.change(|shared| *shared = state);
        for segment in old.segments.iter() {
            // What cannot be removed now is of another epoch, and goes with the next start.
            drop(segment.remove());
        }
        Ok(())
    }

    /// Whether the newest segment has its share of the log when a transaction of `time_us` comes.
    fn is_full(&self, time_us: i64) -> bool {
        let share_us = micros(self.options.retention / SEGMENTS);
        let is_old = |oldest_us: i64| time_us.saturating_sub(oldest_us) > share_us;
        self.writer.bytes > self.options.max_bytes / u64::from(SEGMENTS)
            || self.writer.oldest_us.is_some_and(is_old)
    }

    fn next_segment(&mut self) -> Result<(), LogError> {
        let of = |error| LogError::of(&self.options, error);
        let state = self.shared.state();
        self.writer.seal().map_err(|source| of(source.into()))?;
        let number = state.newest().number + 1;
        let dir = &self.options.dir;
        self.writer = SegmentWriter::create(dir, number, state.epoch, &self.identity, state.end)
            .map_err(of)?;
        let next = Arc::clone(self.writer.segment());
        self.shared.change(|state| {
            state.segments = state.segments.iter().cloned().chain([next]).collect();
        });
        Ok(())
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A new epoch, with one empty segment; nothing has begun in it if it has no end.
fn begin(
    options: &LogOptions,
    identity: &LogIdentity,
    end: Option<LogEnd>,
    number: u64,
) -> Result<(SegmentWriter, State), LogError> {
    let epoch = Epoch(rand::random());
    let writer = SegmentWriter::create(&options.dir, number, epoch, identity, end)
        .map_err(|error| LogError::of(options, error))?;
    let segments = [Arc::clone(writer.segment())].into();
    Ok((writer, State { epoch, segments, end }))
}

/// What a directory holds of the log that should be there.
fn find(
    options: &LogOptions,
    identity: LogIdentity,
    numbers: &[u64],
) -> Result<(Option<State>, LogIdentity, Began), LogError> {
    let mut opening = LogOpening::new(&identity);
    let mut newest_first = Vec::new();
    let mut of_newest = None;
    for (age, number) in numbers.iter().rev().enumerate() {
        match Segment::open(&options.dir, *number, age == 0) {
            Ok(Found { segment, header, end }) => {
                if !opening.part(Ok(&header)) {
                    break;
                }
                of_newest.get_or_insert((header.epoch, end));
                newest_first.push(Arc::new(segment));
            }
            Err(Unusable::Unfit(unusable)) => {
                opening.part(Err(unusable));
                break;
            }
            Err(Unusable::Failed(source)) => return Err(LogError::of(options, source.into())),
        }
    }
    newest_first.reverse();
    Ok(match (opening.verdict(), of_newest) {
        (OpeningVerdict::Continues { of, began, .. }, Some((epoch, end))) => {
            (Some(State { epoch, segments: newest_first.into(), end }), of, began)
        }
        (OpeningVerdict::Continues { began, .. } | OpeningVerdict::Begins(began), _) => {
            (None, identity, began)
        }
    })
}

impl LogError {
    fn io(options: &LogOptions, source: io::Error) -> LogError {
        let dir = options.dir.clone();
        match source.kind() {
            io::ErrorKind::StorageFull => LogError::DiskFull(dir),
            _ => LogError::Io { dir, source },
        }
    }

    fn of(options: &LogOptions, error: SegmentError) -> LogError {
        match error {
            SegmentError::Io(source) => LogError::io(options, source),
            SegmentError::Unreadable(Unreadable::Damaged(source)) => {
                LogError::Damaged { dir: options.dir.clone(), source }
            }
            SegmentError::Unreadable(Unreadable::Storage(source)) => {
                match source.sqlite_error_code() {
                    Some(rusqlite::ErrorCode::DiskFull) => LogError::DiskFull(options.dir.clone()),
                    _ => LogError::Storage { dir: options.dir.clone(), source },
                }
            }
        }
    }
}
