//! The replicator reads Postgres and nothing reads Postgres' stream but it. It owns the stream, the slot and the
//! log, holds what the plan relies on against the database, decides when an epoch ends, and publishes all of
//! it to the feed. It knows neither engines nor sessions: what is confirmed to Postgres depends on the log
//! alone.

mod batching;
mod compile;
pub mod continuity;
pub mod drift;
pub mod limits;
mod log_threads;
pub mod machine;
pub mod patience;
mod requests;
mod shell;
mod source;
mod telemetry;

use std::sync::{Arc, PoisonError, RwLock};

use rowtide_feed::{Feed, LogExtent, feed};
use rowtide_log::{LogOptions, LogReader};
use rowtide_plan::definition::Definition;
use rowtide_postgres::connect::{ConnectOptions, Names};
use rowtide_protocol::Lsn;
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::log_threads::LogStatus;
use crate::shell::Shell;

/// What a replicator needs to run.
#[derive(Clone, Debug)]
pub struct ReplicatorOptions {
    /// The database.
    pub database: ConnectOptions,
    /// Under which names things are kept there.
    pub names: Names,
    /// What to sync.
    pub definition: Arc<Definition>,
    /// Where the log is kept, and how much of it.
    pub log: LogOptions,
    /// How many bytes of transactions may be on their way to the log and to those who follow:
    /// [`limits::RING_BYTES`], if nothing speaks against it.
    pub ring_bytes: usize,
}

/// Why a replicator cannot be started. Whatever may heal by itself is none of these: it is waited for.
#[derive(Debug, Error)]
pub enum StartError {
    /// The operating system gave no thread, or no event loop for one.
    #[error("cannot start a thread of the replicator: {0}")]
    Thread(#[from] std::io::Error),
}

/// The log as it is open now, for whoever reads it.
#[derive(Clone)]
struct OpenLog {
    reader: LogReader,
    status: watch::Receiver<LogStatus>,
}

/// None while the log is not open: before the first database was reached, and while another server has it.
type SharedLog = Arc<RwLock<Option<OpenLog>>>;

/// How much the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStatistics {
    /// Bytes on disk, as of about a second before the last write.
    pub bytes: u64,
    /// Cursors before this position cannot resume.
    pub oldest: Lsn,
    /// Everything up to here is durable.
    pub end: Lsn,
}

/// A replicator that runs. Dropping it changes nothing: the token that it was started with stops it.
#[derive(Clone)]
pub struct ReplicatorHandle {
    log: SharedLog,
    /// Its sender goes with the last thread.
    ended: watch::Receiver<()>,
}

/// Starts a replicator. Its threads end after `stop`, with all that was received durable, or left to Postgres.
///
/// What is not there yet (the database, a table, a privilege, the publication, the slot, the log's directory)
/// is waited for; until then [`rowtide_feed::FeedState`] says what is missing and has no generation.
///
/// # Errors
/// When there is no thread for it.
pub fn start(
    options: ReplicatorOptions,
    stop: CancellationToken,
) -> Result<(Feed, ReplicatorHandle), StartError> {
    let (publisher, feed, asked) = feed(options.ring_bytes);
    let log = SharedLog::default();
    let (look, outrun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (ends, ended) = watch::channel(());
    requests::start(asked, Arc::clone(&log), Arc::clone(&look), Arc::clone(&outrun))?;
    // On a thread of its own socket, decoder and hand-over take turns without waking one another across cores.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shell = Shell::new(options, publisher, Arc::clone(&log), look, outrun, stop);
    std::thread::Builder::new().name("stream".to_owned()).spawn(move || {
        runtime.block_on(shell.run());
        drop(ends);
    })?;
    Ok((feed, ReplicatorHandle { log, ended }))
}

impl ReplicatorHandle {
    /// Waits until it has ended.
    pub async fn ended(self) {
        let mut ended = self.ended;
        // Nothing is ever sent, so an error is the end.
        while ended.changed().await.is_ok() {}
    }

    /// What the log holds, as its writer has said last; `None` while it is not open, or holds nothing. Waits for no disk.
    pub fn log_statistics(&self) -> Option<LogStatistics> {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let LogStatus { bytes, extent, .. } = log.status.borrow().clone();
        let LogExtent { oldest, durable } = extent?;
        Some(LogStatistics { bytes, oldest, end: durable })
    }
}
