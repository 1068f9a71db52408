//! The stream as the state machine takes it: batches of what is there already, and failures by what can be done
//! about them. Everything that the replicator needs of `rowtide-postgres/src/stream.rs` goes through here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rowtide_plan::plan::Plan;
use rowtide_postgres::connect::{ConnectOptions, Names};
use rowtide_postgres::stream::{
    BACKLOG, Batch, Instance, SchemaChange, Stream, StreamError, StreamEvent,
};
use rowtide_protocol::Lsn;
use tokio::time::{Instant, timeout_at};

use crate::limits::{BATCH, BATCH_BYTES, GATHER, GATHER_EVENTS, GATHER_PAUSE};
use crate::machine::{Brought, SlotFound, StreamFailure};

/// A connection that streams.
pub(crate) struct Source {
    stream: Stream,
    /// What has come and was not taken: what is gathered, or came behind a table that does not fit.
    rest: VecDeque<StreamEvent>,
    /// About how many bytes of transactions that is.
    bytes: usize,
    /// Until when more is gathered.
    until: Option<Instant>,
    /// Why nothing comes behind it.
    failed: Option<StreamFailure>,
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
        let (rest, bytes) = (VecDeque::new(), 0);
        Ok((Source { stream, rest, bytes, until: None, failed: None }, found))
    }

    /// Waits for what comes, and takes with it what need not be waited for: handing on each by itself would wake
    /// everyone for each. Of a backlog more is gathered. A table that does not fit comes where it is noticed, before the
    /// transaction that shows it; what is behind it comes with the next call. Cancel safe.
    pub(crate) async fn next_batch(&mut self) -> (Vec<Brought>, Option<StreamFailure>) {
        if self.rest.is_empty() && self.failed.is_none() {
            match self.stream.next_batch(BATCH, BATCH_BYTES).await {
                Ok(batch) => self.put(batch),
                Err(error) => self.failed = Some(failure(error)),
            }
            let late = self.stream.late();
            self.until = (late > BACKLOG).then(|| Instant::now() + (late / 4).min(GATHER));
        }
        self.gather().await;
        (self.until, self.bytes) = (None, 0);
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
        (brought, self.failed.take())
    }

    fn put(&mut self, batch: Batch) {
        self.bytes += batch.bytes;
        self.rest.extend(batch.events);
    }

    /// Takes more, as long as it is time for that, there is room and something comes. Cancel safe.
    async fn gather(&mut self) {
        while let Some(until) = self.until.filter(|until| Instant::now() < *until)
            && self.failed.is_none()
            && self.rest.len() < GATHER_EVENTS
            && self.bytes < BATCH_BYTES
        {
            let until = until.min(Instant::now() + GATHER_PAUSE);
            match timeout_at(until, self.stream.next_batch(BATCH, BATCH_BYTES)).await {
                Ok(Ok(batch)) => self.put(batch),
                Ok(Err(error)) => self.failed = Some(failure(error)),
                Err(_) => break,
            }
        }
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
