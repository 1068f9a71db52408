//! Answers what those who follow the feed ask of the log, on a thread of its own, because a disk may take its
//! time. They may be ahead of the log by what is being written, which is waited for: the stream stands still
//! behind it, and sending all rows instead would help nobody. What is asked of an epoch that is over gets no
//! answer.

use std::sync::{Arc, PoisonError};

use rowtide_feed::{History, HistoryQuery, PastError, Request};
use rowtide_log::{HistoryError, LogReader};
use rowtide_protocol::{Epoch, Lsn};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};

use crate::limits::{HISTORY_BYTES, HISTORY_CHANGES};
use crate::{SharedLog, telemetry};

/// Starts to answer, until nobody can ask any more.
///
/// # Errors
/// When the operating system gives no thread.
pub(crate) fn start(
    mut asked: mpsc::UnboundedReceiver<Request>,
    log: SharedLog,
    look: Arc<Notify>,
    outrun: Arc<Notify>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    std::thread::Builder::new().name("history".to_owned()).spawn(move || {
        while let Some(request) = asked.blocking_recv() {
            match request {
                // Whoever asked may have gone.
                Request::History(epoch, query, reply) => {
                    if let Some(reader) = reader_of(&runtime, &log, epoch, query.up_to) {
                        drop(reply.send(history(&reader, &query)));
                    }
                }
                Request::Replay(epoch, after, bytes, reply) => {
                    if let Some(reader) = reader_of(&runtime, &log, epoch, after) {
                        let events = reader.replay(after, bytes).map_err(PastError::from);
                        if events.is_err() {
                            outrun.notify_one();
                        }
                        drop(reply.send(events));
                    }
                }
                Request::Look => look.notify_one(),
            }
        }
    })?;
    Ok(())
}

/// The log, once it has everything of an epoch up to a position; `None` if it is not of that epoch any more.
fn reader_of(runtime: &Runtime, log: &SharedLog, epoch: Epoch, up_to: Lsn) -> Option<LogReader> {
    let open = log.read().unwrap_or_else(PoisonError::into_inner).clone()?;
    let mut status = open.status;
    let covers = status.wait_for(|status| status.epoch != epoch || status.covered >= Some(up_to));
    // An error if the writer has ended.
    let epoch_then = runtime.block_on(covers).ok()?.epoch;
    (epoch_then == epoch).then_some(open.reader)
}

fn history(reader: &LogReader, query: &HistoryQuery) -> Result<History, PastError> {
    let read = reader.history_within(query, HISTORY_CHANGES, HISTORY_BYTES);
    let result = match &read {
        Ok(history) if history.interrupted.is_empty() => "read",
        Ok(_) => "interrupted",
        Err(HistoryError::TooOld) => "too_old",
        Err(HistoryError::TooMuch) => "too_much",
        Err(error) => {
            tracing::error!(%error, "the log cannot be read");
            "failed"
        }
    };
    telemetry::history(result);
    read.map_err(PastError::from)
}
