//! The stream as the state machine takes it: batches of what is there already, and failures by what can be done
//! about them. Everything that the replicator needs of `rowtide-postgres/src/stream.rs` goes through here.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rowtide_plan::plan::Plan;
use rowtide_postgres::connect::{ConnectOptions, Names};
use rowtide_postgres::stream::{Instance, Stream, StreamError};
use rowtide_protocol::Lsn;
use tokio::time::{Instant, timeout_at};

use crate::batching::Batching;
use crate::limits::{BATCH, BATCH_BYTES};
use crate::machine::{Brought, SlotFound, StreamFailure};

/// A connection that streams.
pub(crate) struct Source {
    stream: Stream,
    batching: Batching,
    /// What the time of `batching` counts from.
    since: Instant,
}

impl Source {
    pub(crate) async fn start(
        options: &ConnectOptions,
        names: &Names,
        plan: Arc<Plan>,
        instance: Instance,
    ) -> Result<(Source, SlotFound), StreamFailure> {
        let started = Stream::start(options, names, plan, instance).await;
        let (stream, slot) = started.map_err(failure)?;
        let found = SlotFound {
            confirmed: slot.confirmed,
            wal_ends: slot.end,
            system: slot.system,
            remembers_partitions: slot.remembers_partitions,
        };
        let source = Source { stream, batching: Batching::default(), since: Instant::now() };
        Ok((source, found))
    }

    /// Waits for what comes, and takes with it what need not be waited for: handing on each by itself would wake
    /// everyone for each. Of a backlog more is batched; see [`Batching`]. Cancel safe.
    pub(crate) async fn next_batch(&mut self) -> (Vec<Brought>, Option<StreamFailure>) {
        if self.batching.is_empty() {
            match self.stream.next_batch(BATCH, BATCH_BYTES).await {
                Ok(batch) => self.batching.put(batch),
                Err(error) => self.batching.fail(failure(error)),
            }
            self.batching.late(self.stream.late(), self.time());
        }
        while let Some(until) = self.batching.waits_until(self.time()) {
            let more = self.stream.next_batch(BATCH, BATCH_BYTES);
            match timeout_at(self.since + until, more).await {
                Ok(Ok(batch)) => self.batching.put(batch),
                Ok(Err(error)) => self.batching.fail(failure(error)),
                Err(_) => break,
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.batching.take(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
    }

    fn time(&self) -> Duration {
        self.since.elapsed()
    }

    /// What is committed behind `at` is of another plan. Before anything was taken.
    pub(crate) fn switch(&mut self, at: Lsn, plan: Arc<Plan>) {
        self.stream.switch(at, plan);
    }

    /// Tells Postgres that everything up to `lsn` is not needed again.
    pub(crate) fn confirm(&self, lsn: Lsn) {
        self.stream.confirm(lsn);
    }

    /// Ends the connection, so that the slot is free at once.
    pub(crate) async fn stop(self) {
        self.stream.stop().await;
    }
}

fn failure(error: StreamError) -> StreamFailure {
    let said = error.to_string();
    match error {
        StreamError::SlotMissing(_) => StreamFailure::SlotMissing(said),
        StreamError::SlotLost(_) => StreamFailure::SlotLost(said),
        StreamError::SlotActive { .. } => StreamFailure::SlotTaken(said),
        StreamError::OwnConnection { .. } => StreamFailure::OwnConnection(said),
        StreamError::PublicationMissing(_) => StreamFailure::PublicationMissing(said),
        StreamError::Ended(_)
        | StreamError::Connect(_)
        | StreamError::Query(_)
        | StreamError::Position(_)
        | StreamError::SlotUnusable(_)
        | StreamError::Rejected(_)
        | StreamError::Decode(_) => StreamFailure::Ended(said),
    }
}
