//! The log, on two threads of its own, because a disk may take its time. One writes: what the stream
//! brings, in order and in groups, durable before its position is confirmed to Postgres. When it cannot, it
//! says so and tries again, and the stream is held up meanwhile: nothing is let go. The other answers what
//! engines ask for sessions that come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::SystemTime;

use rowtide_engine::HistoryRequest;
use rowtide_feed::{Event, History, HistoryQuery, Transaction};
use rowtide_log::{HistoryError, Identity, Log, LogError, LogReader};
use rowtide_protocol::{Epoch, Lsn};
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::engine_thread::Command;
use crate::limits::{
    HISTORY_BYTES, HISTORY_CHANGES, LOG_BATCHES, LOG_GATHER, LOG_GROUP, LOG_POSITION_EVERY,
    LOG_PRUNE_EVERY, LOG_RETRY, RECENT_CHANGES,
};
use crate::telemetry;

/// What the writer does.
enum Task {
    Append(Vec<Event>, Arc<OwnedSemaphorePermit>),
    Begin(Identity, Lsn, oneshot::Sender<Epoch>),
}

/// A question of an engine, on its way to the reader.
pub(super) struct Question {
    pub(super) request: HistoryRequest,
    pub(super) reply: mpsc::WeakSender<Command>,
}

/// How the log is doing.
#[derive(Clone, Debug)]
pub(super) struct LogStatus {
    /// The log that the positions belong to.
    pub(super) epoch: Epoch,
    /// Durable up to here.
    pub(super) end: Lsn,
    /// Cursors before it cannot be resumed.
    pub(super) oldest: Lsn,
    /// Every transaction up to here can be read.
    covered: Lsn,
    /// Why it cannot be written.
    pub(super) failing: Option<String>,
}

/// The front of the log's threads.
pub(super) struct LogThreads {
    tasks: mpsc::Sender<Task>,
    /// One entry for each session that waits for its history, so its length is bounded by the sessions.
    pub(super) questions: mpsc::UnboundedSender<Question>,
    status: watch::Receiver<LogStatus>,
    reader: LogReader,
    ended: oneshot::Receiver<()>,
    /// The end of what was queued last.
    handed: AtomicU64,
}

/// The writer has ended: what is queued comes to nothing.
#[derive(Debug, Error)]
#[error("the log's writer has ended")]
pub(super) struct LogEnded;

impl LogThreads {
    /// Starts both.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub(super) fn start(log: Log, reader: LogReader) -> std::io::Result<LogThreads> {
        let (tasks, received) = mpsc::channel(LOG_BATCHES);
        let (questions, asked) = mpsc::unbounded_channel();
        let status = LogStatus {
            epoch: log.epoch(),
            end: log.end(),
            oldest: log.oldest(),
            covered: log.end(),
            failing: None,
        };
        let (says, status) = watch::channel(status);
        let (ends, ended) = oneshot::channel();
        let writer = Writer { log, says, positioned: SystemTime::UNIX_EPOCH };
        spawn("log", move || {
            writer.run(received);
            drop(ends);
        })?;
        let (of_reader, of_status) = (reader.clone(), status.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        spawn("history", move || answer(&runtime, &of_reader, asked, of_status))?;
        let handed = AtomicU64::new(0);
        Ok(LogThreads { tasks, questions, status, reader, ended, handed })
    }

    pub(super) fn status(&self) -> LogStatus {
        self.status.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<LogStatus> {
        self.status.clone()
    }

    pub(super) fn reader(&self) -> &LogReader {
        &self.reader
    }

    /// Queues what the stream brought; waits while the disk is behind. The permit is given back when it is
    /// written.
    pub(super) async fn append(
        &self,
        entries: Vec<Event>,
        permit: Arc<OwnedSemaphorePermit>,
    ) -> Result<(), LogEnded> {
        let end = entries.last().and_then(Event::lsn);
        self.tasks.send(Task::Append(entries, permit)).await.map_err(|_| LogEnded)?;
        end.into_iter().for_each(|lsn| self.handed.store(lsn.0, Ordering::Relaxed));
        Ok(())
    }

    /// Waits until everything that was queued is written.
    pub(super) async fn flushed(&self) -> Result<(), LogEnded> {
        let mut status = self.status.clone();
        let handed = Lsn(self.handed.load(Ordering::Relaxed));
        let flushed = status.wait_for(|status| status.covered >= handed).await;
        flushed.map(drop).map_err(|_| LogEnded)
    }

    /// Empties the log and begins anew at `position`, with a new epoch, which is returned.
    pub(super) async fn begin(&self, identity: Identity, position: Lsn) -> Result<Epoch, LogEnded> {
        let (reply, begun) = oneshot::channel();
        let task = Task::Begin(identity, position, reply);
        self.tasks.send(task).await.map_err(|_| LogEnded)?;
        self.handed.store(position.0, Ordering::Relaxed);
        begun.await.map_err(|_| LogEnded)
    }

    /// The last transactions, which a load may not see yet.
    pub(super) fn recent(&self) -> Result<Vec<Arc<Transaction>>, HistoryError> {
        self.reader.tail(RECENT_CHANGES)
    }

    /// Writes what is queued, if it can be written, and gives the log's directory free.
    pub(super) async fn close(self) {
        let LogThreads { tasks, questions, reader, ended, .. } = self;
        drop((tasks, questions, reader));
        drop(ended.await);
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

struct Writer {
    log: Log,
    says: watch::Sender<LogStatus>,
    /// When a position without a transaction was last written.
    positioned: SystemTime,
}

impl Writer {
    fn run(mut self, mut tasks: mpsc::Receiver<Task>) {
        let mut pruned = SystemTime::now();
        let mut next = tasks.blocking_recv();
        while let Some(task) = next.take() {
            match task {
                Task::Begin(identity, position, reply) => {
                    if !self.until_done(&tasks, |log| log.begin_epoch(identity.clone(), position)) {
                        return;
                    }
                    self.tell(position);
                    // Whoever asked may have gone.
                    let _gone = reply.send(self.log.epoch());
                }
                Task::Append(mut entries, permit) => {
                    // One write for all that comes in a moment.
                    std::thread::sleep(LOG_GATHER);
                    let mut permits = vec![permit];
                    while entries.len() < LOG_GROUP
                        && let Ok(task) = tasks.try_recv()
                    {
                        match task {
                            Task::Append(more, permit) => {
                                entries.extend(more);
                                permits.push(permit);
                            }
                            begin @ Task::Begin(..) => {
                                next = Some(begin);
                                break;
                            }
                        }
                    }
                    if !self.append(&tasks, &entries) {
                        return;
                    }
                }
            }
            let now = SystemTime::now();
            if now.duration_since(pruned).is_ok_and(|since| since >= LOG_PRUNE_EVERY) {
                pruned = now;
                if let Err(error) = self.log.prune(now) {
                    tracing::warn!(%error, "old history cannot be dropped yet");
                }
                self.tell(Lsn(0));
            }
            if next.is_none() {
                next = tasks.blocking_recv();
            }
        }
    }

    /// Whether it was done; not if nobody waits for it any more.
    fn append(&mut self, tasks: &mpsc::Receiver<Task>, entries: &[Event]) -> bool {
        let Some(covered) = entries.last().and_then(Event::lsn) else { return true };
        // A position alone says only that nothing came; it is not worth a write each time.
        let now = SystemTime::now();
        let late = now.duration_since(self.positioned).map_or(true, |d| d >= LOG_POSITION_EVERY);
        if late || entries.iter().any(|entry| matches!(entry, Event::Transaction { .. })) {
            self.positioned = now;
            let begun = std::time::Instant::now();
            if !self.until_done(tasks, |log| log.append(entries)) {
                return false;
            }
            telemetry::logged(begun.elapsed());
        }
        self.tell(covered);
        true
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
            std::thread::sleep(LOG_RETRY);
            if tasks.is_closed() {
                return false;
            }
        }
        true
    }

    fn tell(&self, covered: Lsn) {
        let (epoch, end, oldest) = (self.log.epoch(), self.log.end(), self.log.oldest());
        self.says.send_modify(|status| {
            let covered = if status.epoch == epoch { status.covered.max(covered) } else { covered };
            *status = LogStatus { epoch, end, oldest, covered, failing: None };
        });
    }
}

/// Answers questions until nobody can ask any more. The engine may be ahead of the log by what is being written,
/// which is waited for: the stream stands still behind it, and sending all rows instead would help nobody.
fn answer(
    runtime: &Runtime,
    reader: &LogReader,
    mut questions: mpsc::UnboundedReceiver<Question>,
    mut status: watch::Receiver<LogStatus>,
) {
    while let Some(Question { request, reply }) = questions.blocking_recv() {
        let id = request.id;
        let covers = status.wait_for(|status| status.covered >= request.up_to);
        // An error if the writer has ended.
        let covered = runtime.block_on(covers).is_ok();
        let history = if covered { read(reader, request) } else { None };
        if let Some(reply) = reply.upgrade() {
            drop(reply.blocking_send(Command::History(id, history)));
        }
    }
}

fn read(reader: &LogReader, request: HistoryRequest) -> Option<History> {
    let HistoryRequest { topics, tables, after, up_to, .. } = request;
    let query = HistoryQuery { topics, tables, after, up_to };
    let history = reader.history_within(&query, HISTORY_CHANGES, HISTORY_BYTES);
    match history {
        Ok(history) => {
            telemetry::history(if history.interrupted.is_empty() { "read" } else { "interrupted" });
            Some(history)
        }
        Err(error) => {
            let reason = match &error {
                HistoryError::TooOld => "too_old",
                HistoryError::TooMuch => "too_much",
                HistoryError::Damaged(_) | HistoryError::Storage(_) => {
                    tracing::error!(%error, "the log cannot be read");
                    "failed"
                }
            };
            telemetry::history(reason);
            None
        }
    }
}
