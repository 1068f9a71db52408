//! The stream: logical replication from one persistent slot. Postgres sends whole transactions in
//! commit order; here they become [`Transaction`]s of the plan. A connection that ends is made again
//! by the caller, from the confirmed position; what was delivered before comes again and is known by
//! its LSN. Everything that touches the replication client is in this file.

use std::sync::Arc;
use std::time::Duration;

use pgwire_replication::{PgWireError, ReplicationClient, ReplicationEvent};
use rowtide_feed::Transaction;
use rowtide_plan::plan::Plan;
use rowtide_protocol::Lsn;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;

use crate::assemble::{AssembleError, Assembler};
use crate::connect::{ConnectError, ConnectOptions, Names, connect, reason};
use crate::slot::{SystemIdentity, system_identity};

/// The most bytes of encoded rows that one transaction may take before its tables are loaded again
/// instead.
pub const MAX_TRANSACTION_BYTES: usize = 64 << 20;
/// How many messages may wait between the socket and the decoder. Each has a row, which may be large, so they are
/// few: socket and decoder take turns on one thread anyway.
const BUFFERED_MESSAGES: usize = 256;
/// How soon a confirmed position is told to Postgres.
const STATUS: Duration = Duration::from_secs(1);
/// How long Postgres may be silent. It asks whether we are there when it has not heard of us for half of
/// [`WAL_SENDER_TIMEOUT`](crate::connect::WAL_SENDER_TIMEOUT), so this much silence means that the
/// connection leads nowhere any more.
const SILENCE: Duration = Duration::from_secs(30);

/// What the stream brings.
#[derive(Debug)]
pub enum StreamEvent {
    /// A transaction.
    Transaction(Transaction),
    /// Everything up to here has been brought.
    Position(Lsn),
}

/// Why the stream does not go on.
#[derive(Debug, Error)]
pub enum StreamError {
    /// Postgres cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A question about the slot was not answered.
    #[error("cannot look at the replication slot: {}", reason(.0))]
    Query(#[from] tokio_postgres::Error),
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
    /// The connection ended.
    #[error("the replication stream ended: {0}")]
    Ended(String),
    /// A table no longer has the shape of the plan. The stream can go on: changes of that table are
    /// then passed over until its next shape is told.
    #[error("table `{table}` has changed: {what}")]
    SchemaChanged {
        /// The table.
        table: String,
        /// How.
        what: String,
        /// Where the transaction was committed whose change shows it.
        committed: Lsn,
    },
    /// What came cannot be decoded.
    #[error(transparent)]
    Decode(AssembleError),
}

impl From<PgWireError> for StreamError {
    fn from(error: PgWireError) -> StreamError {
        StreamError::Ended(error.to_string())
    }
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
    let sql = "SELECT 1 FROM pg_create_logical_replication_slot($1, 'pgoutput')";
    client.query(sql, &[&slot]).await?;
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
}

/// A connection that streams.
pub struct Stream {
    client: ReplicationClient,
    assembler: Assembler,
    /// Where the transaction is committed whose changes come.
    open: Option<Lsn>,
    heard: Instant,
}

impl Stream {
    /// Starts to stream from what the slot has confirmed.
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
        let role = format!("stream {:08x}", instance.0);
        let position = check_slot(&client, &names.slot, &role).await?;
        let mut config = options.replication(&role, &names.slot, &names.publication);
        config.buffer_events = BUFFERED_MESSAGES;
        config.status_interval = STATUS;
        let client = ReplicationClient::connect(config).await?;
        let assembler = Assembler::new(plan, names.schema.clone(), max_transaction_bytes);
        Ok((Stream { client, assembler, open: None, heard: Instant::now() }, position))
    }

    /// Waits for what comes next. Cancel safe.
    ///
    /// # Errors
    /// When the connection ends or what comes cannot be decoded; only after
    /// [`StreamError::SchemaChanged`] it may be called again.
    pub async fn next(&mut self) -> Result<StreamEvent, StreamError> {
        loop {
            let event = match timeout_at(self.heard + SILENCE, self.client.recv()).await {
                Ok(event) => event?,
                Err(_) => return Err(StreamError::Ended("Postgres has fallen silent".to_owned())),
            };
            self.heard = Instant::now();
            let Some(event) = event else {
                return Err(StreamError::Ended("Postgres closed it".to_owned()));
            };
            match event {
                ReplicationEvent::Begin { final_lsn, xid, commit_time_micros } => {
                    self.open = Some(Lsn(final_lsn.as_u64()));
                    self.assembler.begin(xid, commit_time_micros);
                }
                ReplicationEvent::Commit { end_lsn, .. } => {
                    self.open = None;
                    let lsn = Lsn(end_lsn.as_u64());
                    return Ok(StreamEvent::Transaction(self.assembler.commit(lsn)));
                }
                ReplicationEvent::XLogData { data, .. } => {
                    self.assembler.message(&data).map_err(|error| match error {
                        AssembleError::SchemaChanged { table, what } => {
                            let committed = self.open.unwrap_or(Lsn(u64::MAX));
                            StreamError::SchemaChanged { table, what, committed }
                        }
                        other => StreamError::Decode(other),
                    })?;
                }
                // Within a transaction the position is still that of the one before.
                ReplicationEvent::KeepAlive { wal_end, .. } if self.open.is_none() => {
                    return Ok(StreamEvent::Position(Lsn(wal_end.as_u64())));
                }
                ReplicationEvent::KeepAlive { .. }
                | ReplicationEvent::Message { .. }
                | ReplicationEvent::StoppedAt { .. } => {}
            }
        }
    }

    /// Tells Postgres that everything up to `lsn` is not needed again.
    pub fn confirm(&self, lsn: Lsn) {
        self.client.update_applied_lsn(pgwire_replication::Lsn::from_u64(lsn.0));
    }

    /// Ends the connection, so that the slot is free at once.
    pub async fn stop(mut self) {
        // The server notices a connection that was not ended in order a little later.
        drop(tokio::time::timeout(Duration::from_secs(2), self.client.shutdown()).await);
    }
}

/// Whether the slot can be used, and where it stands. A connection of this very server that still has it is
/// ended.
async fn check_slot(client: &Client, slot: &str, role: &str) -> Result<SlotPosition, StreamError> {
    let sql = "SELECT active_pid, wal_status, pg_current_wal_flush_lsn()::text, \
               confirmed_flush_lsn::text, a.application_name = 'rowtide ' || $2 \
               FROM pg_replication_slots LEFT JOIN pg_stat_activity a ON a.pid = active_pid \
               WHERE slot_name = $1";
    let Some(row) = client.query_opt(sql, &[&slot, &role]).await? else {
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
    let lsn = |text: Option<&str>| {
        let parsed = text.unwrap_or("0/0").parse();
        parsed.map_err(|error: rowtide_protocol::InvalidLsn| StreamError::Ended(error.to_string()))
    };
    let system = system_identity(client).await?;
    Ok(SlotPosition { confirmed: lsn(row.get(3))?, end: lsn(row.get(2))?, system })
}
