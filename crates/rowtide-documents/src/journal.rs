//! The edits of documents since each was saved last, durable.
//!
//! A document is stored as an object, whole, some seconds after it was edited; until then its edits are here, so that
//! the end of the process at any moment loses nothing that somebody was told is saved. An edit lives for seconds, is
//! read only if the process ended meanwhile, and goes when its document is saved. That is why this is not the log of
//! rows (`rowtide-log`): that one keeps a single order for hours with an index by topic, in SQLite, which would write
//! each edit twice and then delete it again. Here an edit is written once, at the end of a file, together with all that
//! others edit meanwhile, and one flush makes them all durable.
//!
//! The journal is a row of segments. One thread writes, the newest of them; a segment is removed when no edit in it or
//! before it is of use any more. After a write that failed nothing is appended to that segment: the next one says how
//! much of it counts.

mod format;
mod index;
mod reading;
mod segments;
mod writer;

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot, watch};

pub(crate) use segments::{ID, id as id_of, make_private, write_whole};

use index::Index;
use writer::{Command, Writer};

/// How many bytes of edits may wait for the disk, in all; who has more to append waits.
const QUEUE_BYTES: usize = 64 << 20;

/// So many bytes of them count as one: a semaphore counts no further than 32 bits on some machines.
const QUEUE_UNIT: usize = 1 << 10;

/// The file in the directory whose lock says that the journal is open.
const LOCK: &str = "lock";

/// How long a lock may be someone else's before the journal is. A child that this process is about to start holds what
/// the process had open for a moment, also if it was closed meanwhile.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Why the journal cannot be opened or read.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error("the journal in `{0}` is in use by another process")]
    Locked(PathBuf),
    /// A file or the directory cannot be used.
    #[error("the journal's `{path}` cannot be used: {source}")]
    Io {
        /// The file or the directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What was durable is not what was written.
    #[error(
        "the journal is damaged: `{path}` at byte {offset}. Bring the file back as it was; or move it away, and with it all edits in \
         it that are not saved yet"
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where the first byte is that makes no sense, or where one is missing.
        offset: u64,
    },
}

/// An edit was not made durable, and never will be: there is no space, or the disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the journal could not write it")]
pub struct Refused;

/// How the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalState {
    /// It can write. While it cannot, every edit is refused, and it tries by itself until it can.
    pub writable: bool,
    /// How often it has begun to refuse edits.
    pub failures: u64,
}

/// Tells when an edit is durable, and its number.
pub type Receipt = oneshot::Receiver<Result<u64, Refused>>;

/// The journal of all documents, open. There is one in a directory, in all processes.
#[derive(Debug)]
pub struct Journal {
    index: Arc<Mutex<Index>>,
    queue: Arc<Semaphore>,
    state: watch::Receiver<JournalState>,
    writing: Mutex<Option<Writing>>,
    id: Box<str>,
}

/// What there is for as long as the journal is not closed.
#[derive(Debug)]
struct Writing {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
    lock: Arc<JournalLock>,
}

/// Keeps others from opening the journal for as long as somebody has it; the system lets go of it when the process
/// ends.
#[derive(Debug)]
pub struct JournalLock {
    _own: HeldLock,
    _other: Option<HeldLock>,
}

/// A file whose lock this process has.
#[derive(Debug)]
pub(crate) struct HeldLock {
    _file: File,
}

impl Journal {
    /// Opens the journal in a directory, or makes one. What a crash has left half-written is cut off. Waits for the disk.
    ///
    /// # Errors
    /// [`JournalError::Locked`] if it is open already; [`JournalError::Damaged`] if something is missing or wrong that
    /// was durable, which nothing is done about.
    pub fn open(dir: &Path) -> Result<Journal, JournalError> {
        Journal::open_with(dir, None)
    }

    /// As [`Journal::open`], with a lock that others may have when they may have the journal.
    pub(crate) fn open_with(dir: &Path, other: Option<HeldLock>) -> Result<Journal, JournalError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        segments::make_private(dir).map_err(at(dir))?;
        let path = dir.join(LOCK);
        let lock = hold_lock(&path).map_err(at(&path))?;
        let own = lock.ok_or_else(|| JournalError::Locked(dir.to_owned()))?;
        let lock = Arc::new(JournalLock { _own: own, _other: other });
        let id = segments::id(dir).map_err(at(dir))?;
        let opened = reading::open(dir)?;
        let index = Arc::new(Mutex::new(opened.index));
        let (commands, inbox) = mpsc::channel();
        let (set_state, state) = watch::channel(JournalState { writable: true, failures: 0 });
        let writer = Writer::new(dir, Arc::clone(&index), opened.end, inbox, set_state)?;
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .map_err(at(dir))?;
        Ok(Journal {
            index,
            queue: Arc::new(Semaphore::new(QUEUE_BYTES / QUEUE_UNIT)),
            state,
            writing: Mutex::new(Some(Writing { commands, thread, lock })),
            id,
        })
    }

    /// What this journal is called, as long as its directory is there: no other one is called so, unless it is a copy.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Appends an edit of a document, after all that were appended before. Waits for its turn, and not for the disk:
    /// the receipt does. It is refused if the journal has refused any since it had `failures` of them: so no edit is
    /// durable that follows on one which is not.
    pub async fn append(&self, document: &Arc<str>, edit: Bytes, failures: u64) -> Receipt {
        let (done, receipt) = oneshot::channel();
        let units = (edit.len() / QUEUE_UNIT + 1).min(QUEUE_BYTES / QUEUE_UNIT) as u32;
        // Neither the semaphore nor the thread ends before the journal does.
        if let Ok(room) = Arc::clone(&self.queue).acquire_many_owned(units).await {
            let document = Arc::clone(document);
            self.send(Command::Append { document, edit, failures, done, _room: room });
        }
        receipt
    }

    /// The edits of a document up to and with `number` are of no use any more: it is saved.
    pub fn settle(&self, document: &Arc<str>, number: u64) {
        let document = Arc::clone(document);
        self.send(Command::Settle { document, number, done: None });
    }

    /// Forgets all edits of a document, durably.
    ///
    /// # Errors
    /// If that cannot be written; they may come back then when the journal is opened again.
    pub async fn forget(&self, document: &Arc<str>) -> Result<(), Refused> {
        let (done, receipt) = oneshot::channel();
        let document = Arc::clone(document);
        self.send(Command::Settle { document, number: u64::MAX, done: Some(done) });
        receipt.await.unwrap_or(Err(Refused)).map(drop)
    }

    /// Waits until everything that was appended before is durable or refused.
    pub async fn catch_up(&self) {
        let (done, reached) = oneshot::channel();
        self.send(Command::Reach { done });
        reached.await.ok();
    }

    /// The edits of a document that are durable and not settled, in order, and the last one's number. Waits for the
    /// disk.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn edits(&self, document: &str) -> Result<(Vec<Bytes>, u64), JournalError> {
        let places = self.index().places(document);
        let mut edits = Vec::with_capacity(places.len());
        let mut last = 0;
        for (place, segment) in places {
            let mut edit = vec![0; place.len as usize];
            segment
                .file
                .read_exact_at(&mut edit, place.offset)
                .map_err(|source| JournalError::Io { path: segment.path.clone(), source })?;
            edits.push(edit.into());
            last = place.number;
        }
        Ok((edits, last))
    }

    /// The documents that have edits which are not settled.
    pub fn documents(&self) -> Vec<Box<str>> {
        self.index().documents()
    }

    /// How many bytes all segments have on disk.
    pub fn bytes(&self) -> u64 {
        self.index().bytes()
    }

    /// What keeps others from opening the journal, for what must be over before they do; none if it is closed.
    pub fn lock(&self) -> Option<Arc<JournalLock>> {
        self.writing().as_ref().map(|writing| Arc::clone(&writing.lock))
    }

    /// Writes what was appended, and lets others open the journal. Whatever is appended later is refused. Waits for the
    /// disk.
    pub fn close(&self) {
        let writing = self.writing().take();
        if let Some(Writing { commands, thread, lock }) = writing {
            drop(commands);
            drop(thread.join());
            drop(lock);
        }
    }

    /// How it is, and when that changes.
    pub fn state(&self) -> watch::Receiver<JournalState> {
        self.state.clone()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, Option<Writing>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, command: Command) {
        if let Some(writing) = self.writing().as_ref() {
            // Without the thread, which ends when the journal is closed, the receipt says that the edit was refused.
            drop(writing.commands.send(command));
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes the lock of a file, which is made if it is not there; none if another process has it.
pub(crate) fn hold_lock(path: &Path) -> io::Result<Option<HeldLock>> {
    let file = segments::private_file(path)?;
    let asked = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(HeldLock { _file: file })),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if asked.elapsed() > LOCK_PATIENCE => return Ok(None),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PATIENCE / 100),
        }
    }
}
