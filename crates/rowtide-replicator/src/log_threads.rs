//! The log's writer, on a thread of its own, because a disk may take its time. What the stream brings is written
//! in order and in groups, durable before its position is confirmed to Postgres. When it cannot be written, the
//! writer says so and tries again, and the stream is held up meanwhile: nothing is let go. All that the
//! replicator needs of `rowtide-log` goes through here and `requests`.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime};

use rowtide_feed::{Event, LogExtent, Publisher, Transaction};
use rowtide_log::{Began, Committed, HistoryError, Log, LogError, LogIdentity, LogOptions};
use rowtide_log::{LogReader, Opened};
use rowtide_postgres::watch::Observed;
use rowtide_protocol::{Epoch, Lsn};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::limits::{
    LOG_BATCHES, LOG_COLLECT, LOG_GROUP, LOG_POSITION_EVERY, LOG_PRUNE_EVERY, LOG_RETRY,
    LOG_SIZE_EVERY, RECENT_CHANGES,
};
use crate::telemetry;

/// What the writer does.
enum Task {
    Append(Arc<[Event]>),
    Reshape(LogIdentity, Event),
    Note(Box<Observed>),
    /// A new epoch, at a position or, without one, with nothing that could go on.
    Begin(LogIdentity, Option<Lsn>, oneshot::Sender<Epoch>),
}

/// How the log is doing.
#[derive(Clone, Debug)]
pub(crate) struct LogStatus {
    /// The log that the positions belong to.
    pub(crate) epoch: Epoch,
    /// From where to where it goes, if it has begun.
    pub(crate) extent: Option<LogExtent>,
    /// Every transaction up to here can be read.
    pub(crate) covered: Option<Lsn>,
    /// Its size, as of a moment ago: whoever wants to know it must not wait for the disk.
    pub(crate) bytes: u64,
    /// Why it cannot be written.
    pub(crate) failing: Option<String>,
}

/// The front of the log's writer.
pub(crate) struct LogThreads {
    tasks: mpsc::Sender<Task>,
    status: watch::Receiver<LogStatus>,
    reader: LogReader,
    ended: oneshot::Receiver<()>,
    /// The end of what was queued last.
    handed: Option<Lsn>,
}

/// The writer has ended: what is queued comes to nothing.
#[derive(Debug, Error)]
#[error("the log's writer has ended")]
pub(crate) struct LogEnded;

impl LogThreads {
    /// Opens the log and starts its writer. What it is of, what was found, and which look was kept with it last is told
    /// beside it.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another server has it; others when it cannot be used now.
    pub(crate) fn open(
        options: LogOptions,
        identity: LogIdentity,
        publisher: Arc<Publisher>,
    ) -> Result<(LogThreads, LogIdentity, Began, Option<Observed>), LogError> {
        let dir = options.dir.clone();
        let Opened { log, reader, began, note } = Log::open(options, identity)?;
        // One that another version wrote may tell nothing.
        let kept = note.and_then(|note| serde_json::from_str(&note).ok());
        let (tasks, received) = mpsc::channel(LOG_BATCHES);
        let of = log.identity().clone();
        let extent = log.extent();
        let handed = extent.map(|extent| extent.durable);
        let bytes = log.bytes();
        let status =
            LogStatus { epoch: log.epoch(), extent, covered: handed, bytes, failing: None };
        let (says, status) = watch::channel(status);
        let (ends, ended) = oneshot::channel();
        let positioned = SystemTime::UNIX_EPOCH;
        let writer = Writer { log, says, publisher, positioned, passed_over: None, measured: None };
        writer.publish_status();
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            writer.run(received);
            drop(ends);
        });
        thread.map_err(|source| LogError::Io { dir, source })?;
        Ok((LogThreads { tasks, status, reader, ended, handed }, of, began, kept))
    }

    pub(crate) fn status(&self) -> LogStatus {
        self.status.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<LogStatus> {
        self.status.clone()
    }

    pub(crate) fn reader(&self) -> &LogReader {
        &self.reader
    }

    /// Queues what the stream brought; waits while the disk is behind.
    pub(crate) async fn append(&mut self, events: Arc<[Event]>) -> Result<(), LogEnded> {
        let end = events.iter().filter_map(Event::lsn).max();
        self.tasks.send(Task::Append(events)).await.map_err(|_| LogEnded)?;
        self.handed = self.handed.max(end);
        Ok(())
    }

    /// Queues an [`Event::Reshaped`], with which the log is of something else.
    pub(crate) async fn reshape(&mut self, of: LogIdentity, event: Event) -> Result<(), LogEnded> {
        let end = event.lsn();
        self.tasks.send(Task::Reshape(of, event)).await.map_err(|_| LogEnded)?;
        self.handed = self.handed.max(end);
        Ok(())
    }

    /// Queues what was seen of the database, to be kept with the log.
    pub(crate) async fn keep(&mut self, observed: Box<Observed>) -> Result<(), LogEnded> {
        self.tasks.send(Task::Note(observed)).await.map_err(|_| LogEnded)
    }

    /// Waits until everything that was queued is written.
    pub(crate) async fn flushed(&self) -> Result<(), LogEnded> {
        let mut status = self.status.clone();
        let flushed = status.wait_for(|status| status.covered >= self.handed).await;
        flushed.map(drop).map_err(|_| LogEnded)
    }

    /// Empties the log and begins anew at `position`, with a new epoch, which is returned. Without a position nothing can
    /// be its continuation until it begins once more.
    pub(crate) async fn begin(
        &mut self,
        identity: LogIdentity,
        position: Option<Lsn>,
    ) -> Result<Epoch, LogEnded> {
        let (reply, begun) = oneshot::channel();
        let task = Task::Begin(identity, position, reply);
        self.tasks.send(task).await.map_err(|_| LogEnded)?;
        self.handed = position;
        begun.await.map_err(|_| LogEnded)
    }

    /// The last transactions, which a load may not see yet.
    pub(crate) fn recent(&self) -> Result<Vec<Arc<Transaction>>, HistoryError> {
        self.reader.tail(RECENT_CHANGES)
    }

    /// The transactions behind a position, without what they did.
    pub(crate) fn committed(&self, after: Lsn) -> Result<Vec<Committed>, HistoryError> {
        match self.status().extent {
            Some(extent) => self.reader.transactions(after, extent.durable),
            None => Ok(Vec::new()),
        }
    }

    /// Writes what is queued, if it can be written, and gives the log's directory free.
    pub(crate) async fn close(self) {
        let LogThreads { tasks, reader, ended, .. } = self;
        drop((tasks, reader));
        drop(ended.await);
    }
}

struct Writer {
    log: Log,
    says: watch::Sender<LogStatus>,
    publisher: Arc<Publisher>,
    /// When a position without a transaction was last written.
    positioned: SystemTime,
    /// The last one that was not worth a write, if nothing was written since.
    passed_over: Option<Event>,
    /// When its size was looked at last.
    measured: Option<Instant>,
}

impl Writer {
    fn run(mut self, mut tasks: mpsc::Receiver<Task>) {
        let mut pruned = SystemTime::now();
        let mut next = tasks.blocking_recv();
        while let Some(task) = next.take() {
            match task {
                Task::Begin(identity, position, reply) => {
                    self.passed_over = None;
                    let begun = self.until_done(&tasks, |log| match position {
                        Some(position) => log.begin_epoch(identity.clone(), position),
                        None => log.end_epoch(identity.clone()),
                    });
                    if !begun {
                        return;
                    }
                    self.tell(position);
                    // Whoever asked may have gone.
                    let _gone = reply.send(self.log.epoch());
                }
                Task::Reshape(of, event) => {
                    self.passed_over = None;
                    if !self.until_done(&tasks, |log| log.reshape(of.clone(), &event)) {
                        return;
                    }
                    self.tell(event.lsn());
                }
                Task::Note(observed) => self.note(&observed),
                Task::Append(events) => {
                    // One write for all that comes in a moment.
                    std::thread::sleep(LOG_COLLECT);
                    let mut events = events.to_vec();
                    while events.len() < LOG_GROUP
                        && let Ok(task) = tasks.try_recv()
                    {
                        match task {
                            Task::Append(more) => events.extend_from_slice(&more),
                            other @ (Task::Begin(..) | Task::Reshape(..) | Task::Note(_)) => {
                                next = Some(other);
                                break;
                            }
                        }
                    }
                    if !self.append(&tasks, &events) {
                        return;
                    }
                }
            }
            let now = SystemTime::now();
            if now.duration_since(pruned).is_ok_and(|since| since >= LOG_PRUNE_EVERY) {
                pruned = now;
                if let Err(error) = self.log.prune(now) {
                    tracing::warn!(%error, "old parts of the log cannot be dropped yet");
                }
                self.tell(None);
            }
            if next.is_none() {
                next = self.next_task(&mut tasks);
            }
        }
    }

    /// A position that was passed over is written once nothing has come for a while: Postgres is told of it only then, and
    /// where it is stopped in order it waits for that.
    fn next_task(&mut self, tasks: &mut mpsc::Receiver<Task>) -> Option<Task> {
        if let Some(event) = self.passed_over.clone() {
            match receive_within(tasks, LOG_POSITION_EVERY) {
                Ok(task) => return task,
                Err(Late) => {
                    if !self.write(tasks, &[event]) {
                        return None;
                    }
                    self.tell(None);
                }
            }
        }
        tasks.blocking_recv()
    }

    /// Whether it was done; not if nobody waits for it any more.
    fn append(&mut self, tasks: &mpsc::Receiver<Task>, events: &[Event]) -> bool {
        let Some(covered) = events.iter().filter_map(Event::lsn).max() else { return true };
        // A position alone says only that nothing came; it is not worth a write each time.
        let now = SystemTime::now();
        let late = now.duration_since(self.positioned).map_or(true, |d| d >= LOG_POSITION_EVERY);
        if late || events.iter().any(|event| matches!(event, Event::Transaction { .. })) {
            if !self.write(tasks, events) {
                return false;
            }
        } else {
            self.passed_over = events.last().cloned();
        }
        self.tell(Some(covered));
        true
    }

    /// Whether it was done, as of [`Writer::append`].
    fn write(&mut self, tasks: &mpsc::Receiver<Task>, events: &[Event]) -> bool {
        (self.positioned, self.passed_over) = (SystemTime::now(), None);
        let begun = Instant::now();
        if !self.until_done(tasks, |log| log.append(events)) {
            return false;
        }
        telemetry::logged(begun.elapsed());
        true
    }

    /// Nothing waits for it: what an older one tells is only that more may have changed.
    fn note(&mut self, observed: &Observed) {
        let noted = serde_json::to_string(observed).map(|text| self.log.note(&text));
        if let Ok(Err(error)) = noted {
            tracing::warn!(%error, "what the tables are like cannot be kept with the log: the next server may begin a new epoch");
        }
    }

    /// Tries until it succeeds: what cannot be written now can be once there is room, and until then the
    /// stream waits. `false` if the server does not wait any more: Postgres still has what was not written.
    fn until_done(
        &mut self,
        tasks: &mpsc::Receiver<Task>,
        mut task: impl FnMut(&mut Log) -> Result<(), LogError>,
    ) -> bool {
        while let Err(error) = task(&mut self.log) {
            tracing::error!(%error, "the log cannot be written; the stream waits until it can");
            self.says.send_modify(|status| status.failing = Some(error.to_string()));
            self.publish_status();
            std::thread::sleep(LOG_RETRY);
            if tasks.is_closed() {
                return false;
            }
        }
        true
    }

    /// Tells how the log is, and that everything up to `covered` can be read.
    fn tell(&mut self, covered: Option<Lsn>) {
        let (epoch, extent) = (self.log.epoch(), self.log.extent());
        let late = self.measured.is_none_or(|then| then.elapsed() >= LOG_SIZE_EVERY);
        if late {
            self.measured = Some(Instant::now());
        }
        let measured = late.then(|| self.log.bytes());
        self.says.send_modify(|status| {
            let known = status.covered.filter(|_| status.epoch == epoch);
            let covered = known.max(covered).or(extent.map(|extent| extent.durable));
            let bytes = measured.unwrap_or(status.bytes);
            *status = LogStatus { epoch, extent, covered, bytes, failing: None };
        });
        self.publish_status();
    }

    /// Whoever follows is told by the writer itself, because the stream may be waiting for just that.
    fn publish_status(&self) {
        let LogStatus { extent: log, covered, failing, .. } = self.says.borrow().clone();
        if let Some(covered) = covered {
            self.publisher.durable(covered);
        }
        self.publisher.update(|state| {
            let changed = state.log != log || state.log_failing != failing;
            (state.log, state.log_failing) = (log, failing);
            changed
        });
    }
}

/// Nothing came in time.
struct Late;

/// The next task, or `None` if no more comes, for a thread that is no runtime's.
fn receive_within(
    tasks: &mut mpsc::Receiver<Task>,
    patience: Duration,
) -> Result<Option<Task>, Late> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let until = Instant::now() + patience;
    loop {
        if let Poll::Ready(task) = tasks.poll_recv(&mut context) {
            return Ok(task);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Late);
        }
        std::thread::park_timeout(left);
    }
}
