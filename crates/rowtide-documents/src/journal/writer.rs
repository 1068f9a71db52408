//! The thread that writes: everything that has come meanwhile in one group, with one flush.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::histogram;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::format::{Group, Mark, Record};
use super::index::{Index, Place, Segment};
use super::reading::End;
use super::segments::{self, Created};
use super::{JournalError, JournalState, Refused};

/// How long a durable write takes, of all edits that have come meanwhile.
const WRITE_SECONDS: &str = "rowtide_journal_write_seconds";

/// A group is not made longer than this, but for one edit that is.
const GROUP_BYTES: usize = 8 << 20;

/// A segment that is longer is followed by the next one.
const SEGMENT_BYTES: u64 = 64 << 20;

/// A segment with nothing of use in it is given up for a new one when it is longer than this.
const SPENT_BYTES: u64 = 4 << 20;

/// If there are more segments, what is of use in the oldest may be written again, so that it can go.
const SEGMENTS: usize = 8;

/// It is if less than one in so many bytes of all segments is of use: so no more is written again than is won by it,
/// also when nothing at all can be saved.
const WORTH_COPYING: u64 = 4;

/// The most bytes that all segments may have. Beyond it edits are refused until documents have been saved; that is
/// when a quarter of it, at the least, is edits that are not.
const JOURNAL_BYTES: u64 = 8 << 30;

/// How often writing is tried again while it fails.
const RETRY: Duration = Duration::from_millis(500);

/// What the thread is asked for.
#[derive(Debug)]
pub(super) enum Command {
    Append {
        document: Arc<str>,
        edit: Bytes,
        /// How often the journal had failed when the edit was made.
        failures: u64,
        done: oneshot::Sender<Result<u64, Refused>>,
        _room: OwnedSemaphorePermit,
    },
    Settle {
        document: Arc<str>,
        number: u64,
        /// For whom it has to be durable.
        done: Option<oneshot::Sender<Result<u64, Refused>>>,
    },
    /// Tells when everything before it is done.
    Reach { done: oneshot::Sender<()> },
}

/// Writes the newest segment.
#[derive(Debug)]
pub(super) struct Writer {
    dir: PathBuf,
    index: Arc<Mutex<Index>>,
    commands: Receiver<Command>,
    state: watch::Sender<JournalState>,
    segment: Arc<Segment>,
    number: u64,
    /// What its groups begin with.
    mark: Mark,
    /// So long is the segment, as far as it is durable.
    end: u64,
    /// The number of the next edit.
    next: u64,
    /// So many bytes all segments may have.
    most_bytes: u64,
    /// When it is tried again whether it can write, if it cannot.
    retry: Option<Instant>,
}

impl Writer {
    /// Goes on where the journal ends, with a segment of its own.
    pub(super) fn new(
        dir: &Path,
        index: Arc<Mutex<Index>>,
        end: End,
        commands: Receiver<Command>,
        state: watch::Sender<JournalState>,
    ) -> Result<Writer, JournalError> {
        let (number, previous_end) = end.newest.map_or((1, 0), |(newest, end)| (newest + 1, end));
        let at = |source| JournalError::Io { path: dir.to_owned(), source };
        let Created { file, path, len, mark } =
            segments::create(dir, number, end.next, previous_end).map_err(at)?;
        let segment = Arc::new(Segment { path, file });
        let mut writer = Writer {
            dir: dir.to_owned(),
            index,
            commands,
            state,
            segment,
            number,
            mark,
            end: len,
            next: end.next,
            most_bytes: JOURNAL_BYTES,
            retry: None,
        };
        writer.begun();
        writer.remove_spent();
        Ok(writer)
    }

    /// Writes until nobody is left who could ask for it.
    pub(super) fn run(mut self) {
        loop {
            let first = match self.retry {
                None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(retry) => {
                    let wait = retry.saturating_duration_since(Instant::now());
                    if wait.is_zero() {
                        self.try_again();
                        continue;
                    }
                    self.commands.recv_timeout(wait)
                }
            };
            match first {
                Ok(first) if self.retry.is_none() => self.write(first),
                Ok(first) => self.refuse(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begun(&mut self) {
        let mut index = self.index();
        index.begin(self.number, Arc::clone(&self.segment));
        index.set_bytes(self.number, self.end);
    }

    /// Writes a command and those that have come meanwhile.
    fn write(&mut self, first: Command) {
        let mut group = Group::new(self.mark);
        let mut written = Vec::new();
        let mut next = self.next;
        let mut command = Some(first);
        while let Some(present) = command {
            let place = match &present {
                Command::Append { failures, .. } if *failures != self.failures() => None,
                Command::Append { document, edit, .. } => {
                    let record = Record::Edit { number: next, document, edit };
                    let offset = self.end + group.push(&record) as u64;
                    next += 1;
                    let len = edit.len() as u32;
                    Some(Place { number: next - 1, segment: self.number, offset, len })
                }
                Command::Settle { document, number, .. } => {
                    group.push(&Record::Settled { number: *number, document });
                    None
                }
                Command::Reach { .. } => None,
            };
            written.push((present, place));
            command = if group.len() < GROUP_BYTES { self.commands.try_recv().ok() } else { None };
        }
        if !group.is_empty()
            && let Err(error) = self.append(group)
        {
            self.fail(&error);
            written.into_iter().for_each(|(command, _)| self.refuse(command));
            return;
        }
        self.next = next;
        for (command, place) in written {
            match (command, place) {
                (Command::Append { document, done, .. }, Some(place)) => {
                    self.index().insert(&document, place);
                    // Nobody may be left to hear it; the edit is durable all the same.
                    done.send(Ok(place.number)).ok();
                }
                (Command::Settle { document, number, done }, None) => {
                    self.index().settle(&document, number);
                    done.and_then(|done| done.send(Ok(number)).ok());
                }
                (command, _) => self.refuse(command),
            }
        }
        self.tidy();
    }

    /// Appends a group, durably.
    fn append(&mut self, group: Group) -> io::Result<()> {
        let since = Instant::now();
        let bytes = group.finish();
        self.segment.file.write_all_at(&bytes, self.end)?;
        self.segment.file.sync_data()?;
        histogram!(WRITE_SECONDS).record(since.elapsed().as_secs_f64());
        self.end += bytes.len() as u64;
        self.index().set_bytes(self.number, self.end);
        Ok(())
    }

    fn failures(&self) -> u64 {
        self.state.borrow().failures
    }

    /// Does what can be done without writing.
    fn refuse(&mut self, command: Command) {
        match command {
            Command::Reach { done } => {
                done.send(()).ok();
            }
            Command::Append { done, .. } | Command::Settle { done: Some(done), .. } => {
                done.send(Err(Refused)).ok();
            }
            // It is in no need of being durable: what is replayed twice is replayed once.
            Command::Settle { document, number, done: None } => {
                self.index().settle(&document, number);
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!(path = %self.segment.path.display(), %error, "the journal cannot be written: edits of documents are refused");
        self.retry = Some(Instant::now() + RETRY);
        self.state.send_modify(|state| {
            state.writable = false;
            state.failures += 1;
        });
    }

    /// After a failure only a new segment can say what counts of this one.
    fn try_again(&mut self) {
        // It makes room for the new one; if it fails, what is there too much does not count.
        drop(self.segment.file.set_len(self.end));
        self.remove_spent();
        // A segment that begins only for the journal to be full still would be one more each time.
        let hopeless = self.is_full() && !self.is_mostly_spent();
        if !hopeless && self.begin().is_ok() && self.make_space().is_ok() && !self.is_full() {
            tracing::info!("the journal can be written again");
            self.retry = None;
            self.state.send_modify(|state| state.writable = true);
        } else {
            self.retry = Some(Instant::now() + RETRY);
        }
    }

    fn is_full(&self) -> bool {
        self.index().bytes() > self.most_bytes
    }

    fn is_mostly_spent(&self) -> bool {
        let index = self.index();
        index.live().saturating_mul(WORTH_COPYING) < index.bytes()
    }

    /// Whether what is of use in the oldest segment is to be written again. A small one always is: there is no more
    /// than one for each time that the journal was opened or failed.
    fn is_worth_copying(&self) -> bool {
        let small = self.index().oldest_bytes() <= SPENT_BYTES;
        self.index().segments() > SEGMENTS && (small || self.is_mostly_spent())
    }

    /// Removes and copies segments until the journal is not full, or no more is won by it.
    fn make_space(&mut self) -> io::Result<()> {
        self.remove_spent();
        while self.is_full() && self.is_mostly_spent() {
            let before = self.index().segments();
            self.copy_oldest()?;
            self.remove_spent();
            if self.index().segments() == before {
                break;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        let number = self.number + 1;
        let Created { file, path, len, mark } =
            segments::create(&self.dir, number, self.next, self.end)?;
        self.segment = Arc::new(Segment { path, file });
        self.number = number;
        self.mark = mark;
        self.end = len;
        self.begun();
        Ok(())
    }

    /// Goes on in a new segment if it is time, and removes those that are of no use.
    fn tidy(&mut self) {
        let spent = self.end > SPENT_BYTES && self.index().is_spent(self.number);
        let full = self.end > SEGMENT_BYTES;
        if (spent || full)
            && let Err(error) = self.begin()
        {
            self.fail(&error);
            return;
        }
        self.remove_spent();
        if self.is_worth_copying() {
            if let Err(error) = self.copy_oldest() {
                self.fail(&error);
                return;
            }
            self.remove_spent();
        }
        if self.is_full() {
            self.fail(&io::Error::other("it has as many bytes as it may"));
        }
    }

    /// Removes the oldest segments up to the first that is of use: what a segment says of edits before it must not
    /// be gone before they are.
    fn remove_spent(&mut self) {
        loop {
            let oldest = self.index().oldest();
            let Some((number, segment)) = oldest else { return };
            if number == self.number || !self.index().is_spent(number) {
                return;
            }
            if let Err(error) = fs::remove_file(&segment.path) {
                tracing::warn!(path = %segment.path.display(), %error, "a segment of the journal cannot be removed");
                return;
            }
            self.index().remove(number);
        }
    }

    /// Writes again what is of use in the oldest segment.
    fn copy_oldest(&mut self) -> io::Result<()> {
        let oldest = self.index().oldest();
        let Some((number, segment)) = oldest else { return Ok(()) };
        let edits = self.index().edits_of(number);
        let mut copied = Vec::new();
        let mut group = Group::new(self.mark);
        for (document, place) in edits {
            let mut edit = vec![0; place.len as usize];
            segment.file.read_exact_at(&mut edit, place.offset)?;
            let record = Record::Edit { number: place.number, document: &document, edit: &edit };
            let offset = self.end + group.push(&record) as u64;
            copied.push((document, Place { segment: self.number, offset, ..place }));
            if group.len() >= GROUP_BYTES {
                self.copied(std::mem::replace(&mut group, Group::new(self.mark)), &mut copied)?;
            }
        }
        if !group.is_empty() {
            self.copied(group, &mut copied)?;
        }
        Ok(())
    }

    fn copied(&mut self, group: Group, copied: &mut Vec<(Box<str>, Place)>) -> io::Result<()> {
        self.append(group)?;
        for (document, place) in copied.drain(..) {
            self.index().insert(&document, place);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn a_full_journal_refuses_edits_until_some_are_settled() {
        let name = format!("rowtide-full-journal-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        segments::make_private(&dir).expect("a directory");
        let index = Arc::new(Mutex::new(Index::default()));
        let (_commands, inbox) = std::sync::mpsc::channel();
        let (set_state, state) = watch::channel(JournalState { writable: true, failures: 0 });
        let end = End { next: 1, newest: None };
        let mut writer =
            Writer::new(&dir, Arc::clone(&index), end, inbox, set_state).expect("a writer");
        writer.most_bytes = 10_000;
        let append = |failures| {
            let room = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a permit");
            let (done, receipt) = oneshot::channel();
            let edit = Bytes::from(vec![7; 6_000]);
            let document = Arc::from("a");
            (Command::Append { document, edit, failures, done, _room: room }, receipt)
        };
        for number in 1..=2 {
            let (command, mut receipt) = append(0);
            writer.write(command);
            assert_eq!(receipt.try_recv(), Ok(Ok(number)));
        }
        assert!(!state.borrow().writable);
        for _ in 0..3 {
            writer.try_again();
        }
        assert!(!state.borrow().writable);
        assert_eq!(writer.index().segments(), 1, "trying takes no space");
        writer.refuse(Command::Settle { document: Arc::from("a"), number: 2, done: None });
        writer.try_again();
        assert!(state.borrow().writable);
        let (command, mut receipt) = append(1);
        writer.write(command);
        assert_eq!(receipt.try_recv(), Ok(Ok(3)));
        fs::remove_dir_all(&dir).ok();
    }
}
