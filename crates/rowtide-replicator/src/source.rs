//! The stream as the state machine takes it: batches of what is there already, and failures by what can be done
//! about them. Everything that the replicator needs of `rowtide-postgres/src/stream.rs` goes through here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rowtide_plan::plan::Plan;
use rowtide_postgres::connect::{ConnectOptions, Names};
use rowtide_postgres::stream::{Instance, SchemaChange, Stream, StreamError, StreamEvent};
use rowtide_protocol::Lsn;

use crate::limits::{BATCH, BATCH_BYTES};
use crate::machine::{Brought, SlotFound, StreamFailure};

/// A connection that streams.
pub(crate) struct Source {
    stream: Stream,
    /// What came together with a table that does not fit, and behind it.
    rest: VecDeque<StreamEvent>,
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
        let found =
            SlotFound { confirmed: slot.confirmed, wal_ends: slot.end, system: slot.system };
        Ok((Source { stream, rest: VecDeque::new() }, found))
    }

    /// Waits for what comes, and takes with it what need not be waited for: handing on each by itself would wake
    /// everyone for each. A table that does not fit comes where it is noticed, before the transaction that shows
    /// it; what is behind it comes with the next call. Cancel safe.
    pub(crate) async fn next_batch(&mut self) -> (Vec<Brought>, Option<StreamFailure>) {
        if self.rest.is_empty() {
            match self.stream.next_batch(BATCH, BATCH_BYTES).await {
                Ok(batch) => self.rest.extend(batch.events),
                Err(error) => return (Vec::new(), Some(failure(error))),
            }
        }
        let mut brought = Vec::with_capacity(self.rest.len());
        while let Some(event) = self.rest.pop_front() {
            match event {
                StreamEvent::Transaction(transaction) => {
                    brought.push(Brought::Transaction(Arc::new(transaction)));
                }
                StreamEvent::Position(lsn) => {
                    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    let time_us = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
                    brought.push(Brought::Position { lsn, time_us });
                }
                StreamEvent::SchemaChanged(SchemaChange { table, what, committed }) => {
                    return (brought, Some(StreamFailure::Unfit { table, what, committed }));
                }
            }
        }
        (brought, None)
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
