//! The stream as the state machine takes it: batches of what is there already, and failures by what can be done
//! about them. Everything that the replicator needs of `rowtide-postgres/src/stream.rs` goes through here.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use rowtide_plan::plan::Plan;
use rowtide_postgres::connect::{ConnectOptions, Names};
use rowtide_postgres::stream::{Instance, Stream, StreamError, StreamEvent};
use rowtide_protocol::Lsn;

use crate::limits::{BATCH, BATCH_BYTES};
use crate::machine::{Brought, SlotFound, StreamFailure};

/// A connection that streams.
pub(crate) struct Source(Stream);

impl Source {
    pub(crate) async fn start(
        options: &ConnectOptions,
        names: &Names,
        plan: Arc<Plan>,
        instance: Instance,
    ) -> Result<(Source, SlotFound), StreamFailure> {
        let started = Stream::start(options, names, plan, instance).await;
        let (stream, slot) = started.map_err(failure)?;
        let found =
            SlotFound { confirmed: slot.confirmed, wal_ends: slot.end, system: slot.system };
        Ok((Source(stream), found))
    }

    /// Waits for what comes, and takes with it what need not be waited for: handing on each by itself would wake
    /// everyone for each. Cancel safe.
    pub(crate) async fn next_batch(&mut self) -> (Vec<Brought>, Option<StreamFailure>) {
        let (mut brought, mut bytes) = (Vec::new(), 0);
        let mut next = Some(self.0.next().await);
        while let Some(event) = next {
            match event {
                Ok(StreamEvent::Transaction(transaction)) => {
                    bytes += transaction.bytes();
                    brought.push(Brought::Transaction(Arc::new(transaction)));
                }
                Ok(StreamEvent::Position(lsn)) => {
                    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    let time_us = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
                    brought.push(Brought::Position { lsn, time_us });
                }
                Err(error) => return (brought, Some(failure(error))),
            }
            let more = brought.len() < BATCH && bytes < BATCH_BYTES;
            next = more.then(|| self.0.next().now_or_never()).flatten();
        }
        (brought, None)
    }

    /// Tells Postgres that everything up to `lsn` is not needed again.
    pub(crate) fn confirm(&self, lsn: Lsn) {
        self.0.confirm(lsn);
    }

    /// Ends the connection, so that the slot is free at once.
    pub(crate) async fn stop(self) {
        self.0.stop().await;
    }
}

fn failure(error: StreamError) -> StreamFailure {
    let said = error.to_string();
    match error {
        StreamError::SlotMissing(_) => StreamFailure::SlotMissing(said),
        StreamError::SlotLost(_) => StreamFailure::SlotLost(said),
        StreamError::SlotActive { .. } => StreamFailure::SlotTaken(said),
        StreamError::OwnConnection { .. } => StreamFailure::OwnConnection(said),
        StreamError::SchemaChanged { table, what, committed } => {
            StreamFailure::Unfit { table, what, committed }
        }
        // Sent as SQLSTATE 42704 (undefined_object), of which the replication client keeps the words alone.
        StreamError::Ended(why)
            if why.contains("publication \"") && why.contains("does not exist") =>
        {
            StreamFailure::PublicationMissing(said)
        }
        StreamError::Ended(_)
        | StreamError::Connect(_)
        | StreamError::Query(_)
        | StreamError::Decode(_) => StreamFailure::Ended(said),
    }
}
