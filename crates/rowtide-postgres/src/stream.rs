//! The stream: logical replication from one persistent slot. Postgres sends whole transactions in commit
//! order; here they become [`Transaction`](rowtide_feed::Transaction)s of the plan, many at a time, as whatever
//! is there at once. A small task tells Postgres that we are there and what is confirmed, also while nobody
//! takes what comes. A connection that ends is made again by the caller, from the confirmed position; what was
//! delivered before comes again and is known by its LSN.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use rowtide_plan::plan::Plan;
use rowtide_protocol::{InvalidLsn, Lsn};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_postgres::Client;
use tokio_util::task::AbortOnDropHandle;

pub use crate::assemble::{AssembleError, SchemaChange, StreamEvent};
use crate::assemble::{Assembler, US_1970_TO_2000};
use crate::catalog::server_version;
use crate::connect::{APPLICATION, CONNECT, ConnectError, ConnectOptions, Names, connect, reason};
use crate::handshake::{self, Failure, Request, Socket};
pub use crate::intake::Batch;
use crate::intake::{Intake, IntakeError};
use crate::slot::{SystemIdentity, system_identity};
use crate::slot_making::creation_sql;
use crate::walsender::{COPY_DONE, StreamRejection, put_status};

/// The most bytes of encoded rows that one transaction may take before its tables are loaded again
/// instead.
pub const MAX_TRANSACTION_BYTES: usize = 64 << 20;
/// How much is read at once.
const READ_BYTES: usize = 256 << 10;
/// A transaction that comes so long after its commit is one of a backlog.
pub const BACKLOG: Duration = Duration::from_millis(20);
/// How long a backlog is left to grow before it is read. Postgres sends message by message, and without a pause whoever
/// reads is woken for a few of them at a time. A timer is not that fine, so the thread itself waits: no longer than
/// decoding a large batch takes it.
const LINGER: Duration = Duration::from_micros(200);
/// How long the end of a connection may take that is ended in order.
const FAREWELL: Duration = Duration::from_secs(2);
/// Postgres does not know a thing by this name (`undefined_object`).
const UNDEFINED_OBJECT: &str = "42704";
/// Since this version a walsender learns at once that a table has become a partition, or is none any more. One of an older
/// version keeps what it has once found out of a table, until it ends or a publication is altered.
const PARTITIONS_FOLLOWED: i32 = 150_000;
/// Another uses it (`object_in_use`).
const OBJECT_IN_USE: &str = "55006";

/// When what is said.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How soon a newly confirmed position is told. Each makes Postgres work.
    confirm: Duration,
    /// How often we say that we are there when there is nothing else to say. Postgres ends the stream when it has
    /// not heard of us for [`WAL_SENDER_TIMEOUT`](crate::connect::WAL_SENDER_TIMEOUT).
    alive: Duration,
    /// After how much silence Postgres is asked whether it is there.
    quiet: Duration,
    /// How long it may take to answer.
    answer: Duration,
}

const PACE: Pace = Pace {
    confirm: Duration::from_secs(1),
    alive: Duration::from_secs(5),
    quiet: Duration::from_secs(10),
    answer: Duration::from_secs(20),
};

/// Why the stream does not go on.
#[derive(Debug, Error)]
pub enum StreamError {
    /// Postgres cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A question about the slot was not answered.
    #[error("cannot look at the replication slot: {}", reason(.0))]
    Query(#[from] tokio_postgres::Error),
    /// Postgres tells a position that cannot be read.
    #[error("cannot look at the replication slot: {0}")]
    Position(#[from] InvalidLsn),
    /// The slot has no position: it is not one of logical replication, or still being made.
    #[error("the replication slot `{0}` has no position")]
    SlotUnusable(String),
    /// The slot does not exist.
    #[error("there is no replication slot `{0}`")]
    SlotMissing(String),
    /// Postgres has thrown away WAL that the slot needs.
    #[error("the replication slot `{0}` is lost: it was too far behind")]
    SlotLost(String),
    /// Another server uses the slot.
    #[error("the replication slot `{slot}` is in use by process {pid}")]
    SlotActive {
        /// The slot.
        slot: String,
        /// The walsender.
        pid: i32,
    },
    /// A connection of this server still had the slot; it was asked to end.
    #[error(
        "an earlier connection of this server (process {pid}) still has the replication slot `{slot}`"
    )]
    OwnConnection {
        /// The slot.
        slot: String,
        /// The walsender.
        pid: i32,
    },
    /// There was no publication of that name when a change was made that the slot comes to now: it was dropped, or made
    /// anew since. The slot does not get past that.
    #[error("the publication `{0}` was not there when changes were made: the slot cannot go on")]
    PublicationMissing(String),
    /// Postgres ended the stream with an error.
    #[error("Postgres ended the replication stream: {0}")]
    Rejected(StreamRejection),
    /// The connection ended.
    #[error("the replication stream ended: {0}")]
    Ended(String),
    /// What came cannot be decoded.
    #[error(transparent)]
    Decode(AssembleError),
}

/// Creates the slot if it is not there; in a statement of its own, because Postgres wants that.
///
/// # Errors
/// When Postgres refuses.
pub async fn create_slot(client: &Client, slot: &str) -> Result<bool, tokio_postgres::Error> {
    let sql = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1";
    if client.query_opt(sql, &[&slot]).await?.is_some() {
        return Ok(false);
    }
    let version = server_version(client).await?;
    client.query(creation_sql(version), &[&slot]).await?;
    Ok(true)
}

/// Drops a slot that cannot be used any more.
///
/// # Errors
/// When Postgres refuses.
pub async fn drop_slot(client: &Client, slot: &str) -> Result<(), tokio_postgres::Error> {
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
               WHERE slot_name = $1 AND NOT active";
    client.query(sql, &[&slot]).await.map(drop)
}

/// Which server process this is, among those that use a slot: a connection of its own that Postgres does not
/// know to be gone may be ended, another server's is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Instance(pub u32);

/// Where a slot stands when the stream begins.
#[derive(Clone, Copy, Debug)]
pub struct SlotPosition {
    /// Every transaction that was committed behind this is brought.
    pub confirmed: Lsn,
    /// Where WAL ended: once that is reached, the stream has caught up.
    pub end: Lsn,
    /// Of which database.
    pub system: SystemIdentity,
    /// What becomes a partition, or ceases to be one, is streamed for the rest of a connection as it was before, if the
    /// connection has come to it before: up to version 14, for a plan with partitioned tables.
    pub remembers_partitions: bool,
}

/// A connection that streams.
pub struct Stream {
    read: ReadHalf<Socket>,
    intake: Intake,
    publication: String,
    state: State,
    pace: Pace,
    /// When something came last.
    heard: Instant,
    /// When Postgres was asked whether it is there, if it has not answered.
    asked: Option<Instant>,
    told: Arc<Told>,
    teller: AbortOnDropHandle<()>,
}

/// Whether more can come.
enum State {
    Running,
    /// What came before this was handed out and this was not yet.
    Failed(StreamError),
    Over,
}

/// What the task that speaks to Postgres is to say.
#[derive(Debug, Default)]
struct Told {
    confirmed: AtomicU64,
    /// Postgres wants to hear from us at once.
    answer: AtomicBool,
    /// We want to hear from Postgres.
    ask: AtomicBool,
    /// The stream ends.
    stop: AtomicBool,
    now: Notify,
}

impl Stream {
    /// Starts to stream from what the slot has confirmed. What is said to Postgres is said by a task of this runtime.
    ///
    /// # Errors
    /// When the slot cannot be used, or Postgres cannot be reached.
    pub async fn start(
        options: &ConnectOptions,
        names: &Names,
        plan: Arc<Plan>,
        instance: Instance,
    ) -> Result<(Stream, SlotPosition), StreamError> {
        Stream::start_with_budget(options, names, plan, instance, MAX_TRANSACTION_BYTES).await
    }

    /// As [`Stream::start`], with another limit of bytes for one transaction.
    ///
    /// # Errors
    /// As [`Stream::start`].
    pub async fn start_with_budget(
        options: &ConnectOptions,
        names: &Names,
        plan: Arc<Plan>,
        instance: Instance,
        max_transaction_bytes: usize,
    ) -> Result<(Stream, SlotPosition), StreamError> {
        let client = connect(options, "slot").await?;
        let name = format!("{APPLICATION}stream {:08x}", instance.0);
        let mut position = check_slot(&client, &names.slot, &name).await?;
        position.remembers_partitions = server_version(&client).await? < PARTITIONS_FOLLOWED
            && plan.tables.iter().any(|table| table.catalog.streaming.partitioned);
        let sql = "SELECT pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL";
        let knows = client.query_typed(sql, &[]).await?;
        let has_transaction_timeout = knows.first().is_some_and(|row| row.get(0));
        let request = Request {
            application_name: &name,
            settings: &options.stream_settings(has_transaction_timeout),
            slot: &names.slot,
            publication: &names.publication,
            // By these time passes where nobody commits anything else.
            messages: plan.asks_time(),
        };
        let started = timeout(CONNECT, handshake::start(options, &request)).await;
        let failed = |reason| ConnectError::Stream { target: options.target(), reason };
        let (socket, buffer) = match started {
            Ok(Ok(started)) => started,
            Ok(Err(Failure::Rejected(rejection))) if rejection.code == OBJECT_IN_USE => {
                // Someone was faster; who it is can be seen now.
                check_slot(&client, &names.slot, &name).await?;
                return Err(failed(rejection.message).into());
            }
            Ok(Err(Failure::Rejected(rejection))) => return Err(failed(rejection.message).into()),
            Ok(Err(Failure::Other(reason))) => return Err(failed(reason).into()),
            Err(_) => {
                let reason = format!("it took longer than {} s", CONNECT.as_secs());
                return Err(failed(reason).into());
            }
        };
        let assembler = Assembler::new(plan, names.schema.clone(), max_transaction_bytes);
        let intake = Intake::new(assembler, buffer);
        Ok((Stream::over(socket, intake, names.publication.clone(), PACE), position))
    }

    fn over(socket: Socket, intake: Intake, publication: String, pace: Pace) -> Stream {
        let (read, write) = split(socket);
        let told = Arc::new(Told::default());
        let teller = tokio::spawn(tell(write, Arc::clone(&told), pace));
        Stream {
            read,
            intake,
            publication,
            state: State::Running,
            pace,
            heard: Instant::now(),
            asked: None,
            told,
            teller: AbortOnDropHandle::new(teller),
        }
    }

    /// Waits until something is there, and takes it: about `max_bytes` or `max_events` at the most, at least one
    /// event. Cancel safe: what was not handed out comes with the next call. While nobody calls, Postgres is held
    /// up, and told that we are there.
    ///
    /// # Errors
    /// When the connection ends or what comes cannot be decoded, once everything before that was handed out. Nothing
    /// comes after an error.
    pub async fn next_batch(
        &mut self,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Batch, StreamError> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Running => self.state = State::Running,
                State::Failed(error) => return Err(error),
                State::Over => return Err(StreamError::Ended("it has failed before".to_owned())),
            }
            let mut batch = Batch::default();
            let taken = self.intake.take(max_events, max_bytes, &mut batch);
            if self.intake.wants_answer() {
                self.told.say(&self.told.answer);
            }
            if let Err(error) = taken {
                self.state = State::Failed(self.error(error));
            }
            if !batch.events.is_empty() {
                return Ok(batch);
            }
            if matches!(self.state, State::Running) {
                if self.intake.late() > BACKLOG {
                    std::thread::sleep(LINGER);
                }
                if let Err(error) = self.read().await {
                    self.state = State::Failed(error);
                }
            }
        }
    }

    /// Waits for more bytes.
    async fn read(&mut self) -> Result<(), StreamError> {
        loop {
            let until = match self.asked {
                None => self.heard + self.pace.quiet,
                Some(asked) => asked + self.pace.answer,
            };
            let into = self.intake.room(READ_BYTES);
            match timeout_at(until, self.read.read_buf(into)).await {
                Ok(Ok(0)) => return Err(StreamError::Ended("Postgres closed it".to_owned())),
                Ok(Ok(_)) => {
                    self.heard = Instant::now();
                    self.asked = None;
                    return Ok(());
                }
                Ok(Err(error)) => return Err(StreamError::Ended(error.to_string())),
                Err(_) if self.asked.is_some() => {
                    return Err(StreamError::Ended("Postgres has fallen silent".to_owned()));
                }
                // That nothing comes may be because nothing happens.
                Err(_) => {
                    self.asked = Some(Instant::now());
                    self.told.say(&self.told.ask);
                }
            }
        }
    }

    fn error(&self, error: IntakeError) -> StreamError {
        match error {
            IntakeError::Ended => StreamError::Ended("Postgres ended it".to_owned()),
            IntakeError::Rejected(rejection)
                if rejection.code == UNDEFINED_OBJECT
                    && rejection.message.contains(&self.publication) =>
            {
                StreamError::PublicationMissing(self.publication.clone())
            }
            IntakeError::Rejected(rejection) => StreamError::Rejected(rejection),
            IntakeError::Decode(error) => StreamError::Decode(error),
        }
    }

    /// How long after its commit the last transaction was sent, by Postgres' clock: whether there is a backlog.
    pub fn late(&self) -> Duration {
        self.intake.late()
    }

    /// What is committed behind `at`, from what is not handed out yet on, is of another plan: see [`Assembler::switch`].
    pub fn switch(&mut self, at: Lsn, plan: Arc<Plan>) {
        self.intake.switch(at, plan);
    }

    /// Tells Postgres that everything up to `lsn` is not needed again; a little later, with what else is confirmed
    /// until then. A position before one that was confirmed already changes nothing.
    pub fn confirm(&self, lsn: Lsn) {
        self.told.confirmed.fetch_max(lsn.0, Ordering::Relaxed);
    }

    /// Tells what is confirmed and ends the connection, so that the slot is free at once.
    pub async fn stop(mut self) {
        self.told.say(&self.told.stop);
        let farewell = async {
            // Postgres closes it when it has taken the end, for which it may have to get rid of what it was sending.
            let mut rest = BytesMut::with_capacity(READ_BYTES);
            while self.read.read_buf(&mut rest).await.is_ok_and(|count| count > 0) {
                rest.clear();
            }
        };
        // The server notices a connection that was not ended in order a little later.
        drop(timeout(FAREWELL, farewell).await);
        drop(self.teller);
    }
}

impl Told {
    fn say(&self, what: &AtomicBool) {
        what.store(true, Ordering::Relaxed);
        self.now.notify_one();
    }
}

/// Speaks to Postgres until the stream ends.
async fn tell(mut write: WriteHalf<Socket>, told: Arc<Told>, pace: Pace) {
    let mut message = BytesMut::new();
    let (mut last, mut at) = (None, Instant::now());
    loop {
        let stop = told.stop.load(Ordering::Relaxed);
        // What is asked for from here on is asked for again.
        let asked = told.ask.swap(false, Ordering::Relaxed);
        let wanted = told.answer.swap(false, Ordering::Relaxed) || asked || stop;
        let confirmed = Lsn(told.confirmed.load(Ordering::Relaxed));
        if wanted || last != Some(confirmed) || at.elapsed() >= pace.alive {
            message.clear();
            put_status(&mut message, confirmed, now_us(), asked);
            if stop {
                message.extend_from_slice(COPY_DONE);
                postgres_protocol::message::frontend::terminate(&mut message);
            }
            // Whoever reads notices that the connection is gone.
            if write.write_all(&message).await.is_err() || write.flush().await.is_err() || stop {
                return;
            }
            (last, at) = (Some(confirmed), Instant::now());
        }
        let due = Instant::now() + pace.confirm;
        tokio::select! {
            () = sleep_until(due) => {}
            () = told.now.notified() => {}
        }
    }
}

/// Microseconds since 2000.
fn now_us() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX) - US_1970_TO_2000
}

/// Whether the slot can be used, and where it stands. A connection of this very server, which has this name, that still has
/// it is ended.
async fn check_slot(client: &Client, slot: &str, name: &str) -> Result<SlotPosition, StreamError> {
    let sql = "SELECT active_pid, wal_status, pg_current_wal_flush_lsn()::text, \
               confirmed_flush_lsn::text, a.application_name = $2 \
               FROM pg_replication_slots LEFT JOIN pg_stat_activity a ON a.pid = active_pid \
               WHERE slot_name = $1";
    let Some(row) = client.query_opt(sql, &[&slot, &name]).await? else {
        return Err(StreamError::SlotMissing(slot.to_owned()));
    };
    if row.get::<_, Option<&str>>(1) == Some("lost") {
        return Err(StreamError::SlotLost(slot.to_owned()));
    }
    if let Some(pid) = row.get::<_, Option<i32>>(0) {
        if row.get::<_, Option<bool>>(4) == Some(true) {
            client.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await?;
            return Err(StreamError::OwnConnection { slot: slot.to_owned(), pid });
        }
        return Err(StreamError::SlotActive { slot: slot.to_owned(), pid });
    }
    let confirmed = row.get::<_, Option<&str>>(3);
    let confirmed = confirmed.ok_or_else(|| StreamError::SlotUnusable(slot.to_owned()))?.parse()?;
    let end = row.get::<_, &str>(2).parse()?;
    let system = system_identity(client).await?;
    Ok(SlotPosition { confirmed, end, system, remembers_partitions: false })
}

#[cfg(test)]
mod tests;
