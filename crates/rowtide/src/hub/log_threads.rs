//! The log, on two threads of its own, because a disk may take its time. One writes: what the stream
//! brings, in order and in groups, durable before its position is confirmed to Postgres. When it cannot, it
//! says so and tries again, and the stream is held up meanwhile: nothing is let go. The other answers what
//! engines ask for sessions that come back.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use rowtide_engine::{HistoryId, HistoryRequest};
use rowtide_log::{Entry, HistoryError, Identity, Log, LogError, LogReader};
use rowtide_plan::row::{History, Transaction};
use rowtide_protocol::{Epoch, Lsn};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::engine_thread::Command;
use crate::limits::{
    HISTORY_BYTES, HISTORY_CHANGES, HISTORY_WAIT, LOG_BATCHES, LOG_GROUP, LOG_POSITION_EVERY,
    LOG_PRUNE_EVERY, LOG_RETRY, RECENT_CHANGES,
};
use crate::telemetry;

/// What the writer does.
enum Task {
    Append(Vec<Entry>, Arc<OwnedSemaphorePermit>),
    Begin(Identity, Lsn, oneshot::Sender<()>),
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
}

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
        spawn("history", move || answer(&of_reader, asked, of_status))?;
        Ok(LogThreads { tasks, questions, status, reader, ended })
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
    pub(super) async fn append(&self, entries: Vec<Entry>, permit: Arc<OwnedSemaphorePermit>) {
        // It ends only after us.
        drop(self.tasks.send(Task::Append(entries, permit)).await);
    }

    /// Waits until everything that was queued is durable.
    pub(super) async fn flushed(&self, lsn: Lsn) {
        let mut status = self.status.clone();
        drop(status.wait_for(|status| status.covered >= lsn).await);
    }

    /// Empties the log and begins anew at `position`, with a new epoch, which is returned.
    pub(super) async fn begin(&self, identity: Identity, position: Lsn) -> Epoch {
        let (reply, begun) = oneshot::channel();
        drop(self.tasks.send(Task::Begin(identity, position, reply)).await);
        drop(begun.await);
        self.status.borrow().epoch
    }

    /// The last transactions, which a load may not see yet.
    pub(super) fn recent(&self) -> Result<Vec<Arc<Transaction>>, HistoryError> {
        self.reader.tail(RECENT_CHANGES)
    }

    /// Writes what is queued and gives the log's directory free.
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
                    self.until_done(|log| log.begin_epoch(identity.clone(), position));
                    self.tell(position);
                    // Whoever asked may have gone.
                    let _gone = reply.send(());
                }
                Task::Append(mut entries, permit) => {
                    // One write for all that is there.
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
                    self.append(&entries);
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

    fn append(&mut self, entries: &[Entry]) {
        let covered = match entries.last() {
            Some(Entry::Transaction(transaction)) => transaction.lsn,
            Some(Entry::Position(lsn)) => *lsn,
            None => return,
        };
        // A position alone says only that nothing came; it is not worth a write each time.
        let now = SystemTime::now();
        let late = now.duration_since(self.positioned).map_or(true, |d| d >= LOG_POSITION_EVERY);
        if late || entries.iter().any(|entry| matches!(entry, Entry::Transaction(_))) {
            self.positioned = now;
            let begun = std::time::Instant::now();
            self.until_done(|log| log.append(entries));
            telemetry::logged(begun.elapsed());
        }
        self.tell(covered);
    }

    /// Tries until it succeeds: what cannot be written now can be once there is room, and until then the
    /// stream waits.
    fn until_done(&mut self, mut task: impl FnMut(&mut Log) -> Result<(), LogError>) {
        while let Err(error) = task(&mut self.log) {
            tracing::error!(%error, "the log cannot be written; the stream waits until it can");
            self.says.send_modify(|status| status.failing = Some(error.to_string()));
            std::thread::sleep(LOG_RETRY);
            if self.says.is_closed() {
                return;
            }
        }
    }

    fn tell(&self, covered: Lsn) {
        let (epoch, end, oldest) = (self.log.epoch(), self.log.end(), self.log.oldest());
        self.says.send_modify(|status| {
            let covered = if status.epoch == epoch { status.covered.max(covered) } else { covered };
            *status = LogStatus { epoch, end, oldest, covered, failing: None };
        });
    }
}

/// Answers questions until nobody can ask any more.
fn answer(
    reader: &LogReader,
    mut questions: mpsc::UnboundedReceiver<Question>,
    status: watch::Receiver<LogStatus>,
) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        return;
    };
    while let Some(Question { request, reply }) = questions.blocking_recv() {
        let history = match runtime.block_on(covered(status.clone(), request.up_to)) {
            true => read(reader, &request),
            false => {
                tracing::warn!("the log is too far behind to bring a client up to date");
                None
            }
        };
        if let Some(reply) = reply.upgrade() {
            let answer: (HistoryId, Option<History>) = (request.id, history);
            drop(reply.blocking_send(Command::History(answer.0, answer.1)));
        }
    }
}

/// Waits until the log has what the engine has: it may be behind by what is being written. As long as it cannot be
/// written at all the stream stands still, and sending all rows instead would help nobody.
async fn covered(mut status: watch::Receiver<LogStatus>, up_to: Lsn) -> bool {
    loop {
        let covers = status.wait_for(|status| status.covered >= up_to);
        let covers = timeout(HISTORY_WAIT, covers).await.map(|covers| covers.is_ok());
        match covers {
            Ok(covers) => return covers,
            Err(_) if status.borrow().failing.is_some() => {}
            Err(_) => return false,
        }
    }
}

fn read(reader: &LogReader, request: &HistoryRequest) -> Option<History> {
    let HistoryRequest { topics, tables, after, up_to, .. } = request;
    let history = reader.history(topics, tables, *after, *up_to, HISTORY_CHANGES, HISTORY_BYTES);
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
