//! The state that a client's owner and its task share. It is under one lock, which nobody holds for long,
//! and has notifications with which the two wake each other.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rowtide_protocol::ServerMessage;
use tokio::sync::{Notify, mpsc};

use crate::event::{ClientStatus, ConnectionError, Event, Status};
use crate::op::Op;
use crate::optimistic::{ApplyError, MutateError, Optimistic, Step};
use crate::queue::Record;
use crate::replica::RowChange;
use crate::row::Row;
use crate::storage::StorageError;
use crate::subscriptions::SubscribeError;

/// With more events in the queue the client reads nothing more from the server.
const MAX_QUEUED_EVENTS: usize = 16;
/// With fewer records since the last compaction another one is not worth it.
const COMPACT_AFTER: usize = 1_000;

/// The shared state of one client. See the module's text.
pub(crate) struct SharedState {
    state: Mutex<ClientState>,
    /// There may be something to store.
    pub(crate) to_store: Notify,
    /// There may be something to send.
    pub(crate) to_send: Notify,
    /// There is an event for the owner.
    to_report: Notify,
    /// The queue of events has become shorter.
    reported: Notify,
}

/// What the lock protects.
pub(crate) struct ClientState {
    pub(crate) optimistic: Optimistic,
    /// Events that the owner has not received yet, in order.
    events: VecDeque<Event>,
    /// How many outcomes the owner has not received yet.
    unreported: usize,
    connection: Status,
    last_error: Option<String>,
    storage_error: Option<String>,
    stopped: bool,
}

/// One write to the storage.
pub(crate) enum StorageWrite {
    Append(Vec<Record>, WriteCounts),
    Replace(Vec<Record>, WriteCounts),
}

/// How many records become durable with a write.
#[derive(Clone, Copy)]
pub(crate) struct WriteCounts {
    unstored: usize,
    outcomes: usize,
}

impl SharedState {
    pub(crate) fn new(optimistic: Optimistic) -> SharedState {
        let state = ClientState {
            optimistic,
            events: VecDeque::new(),
            unreported: 0,
            connection: Status::Connecting,
            last_error: None,
            storage_error: None,
            stopped: false,
        };
        SharedState {
            state: Mutex::new(state),
            to_store: Notify::new(),
            to_send: Notify::new(),
            to_report: Notify::new(),
            reported: Notify::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, ClientState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn mutate(&self, ops: Vec<Op>) -> Result<u64, MutateError> {
        let mut state = self.lock();
        if state.stopped {
            return Err(MutateError::Stopped);
        }
        if let Some(error) = &state.storage_error {
            return Err(MutateError::Storage(error.clone()));
        }
        let (id, changes) = state.optimistic.mutate(ops)?;
        state.push_changes(changes);
        drop(state);
        self.to_store.notify_one();
        self.to_report.notify_one();
        Ok(id)
    }

    pub(crate) fn subscribe(&self, query: &str, params: Row) -> Result<u64, SubscribeError> {
        let mut state = self.lock();
        if state.stopped {
            return Err(SubscribeError::Stopped);
        }
        let id = state.optimistic.subscribe(query, params)?;
        drop(state);
        self.to_send.notify_one();
        Ok(id)
    }

    pub(crate) fn unsubscribe(&self, id: u64) {
        self.lock().optimistic.unsubscribe(id);
        self.to_send.notify_one();
    }

    /// Applies a message.
    pub(crate) fn apply(&self, message: &ServerMessage) -> Result<(), ApplyError> {
        let mut state = self.lock();
        let step = state.optimistic.apply(message)?;
        state.push(step);
        if matches!(message, ServerMessage::Ready { .. }) {
            state.last_error = None;
            state.push_status(Status::Live);
        }
        drop(state);
        self.to_store.notify_one();
        self.to_report.notify_one();
        Ok(())
    }

    /// Takes another client id, because the present one cannot be had.
    pub(crate) fn renew(&self, client_id: String) {
        self.lock().optimistic.renew(client_id);
        self.to_store.notify_one();
    }

    /// Takes another client id, because another user is signed in.
    pub(crate) fn abandon(&self, client_id: String) {
        let mut state = self.lock();
        let step = state.optimistic.abandon(client_id);
        state.push(step);
        drop(state);
        self.to_store.notify_one();
        self.to_report.notify_one();
    }

    /// The client begins to connect.
    pub(crate) fn connecting(&self) {
        self.lock().push_status(Status::Connecting);
        self.to_report.notify_one();
    }

    /// The connection has ended.
    pub(crate) fn offline(&self, reason: String) {
        let mut state = self.lock();
        state.optimistic.disconnected();
        state.last_error = Some(reason.clone());
        state.push_status(Status::Offline { reason });
        drop(state);
        self.to_report.notify_one();
    }

    /// The client stops: it changes and sends nothing more.
    pub(crate) fn stop(&self, error: Option<ConnectionError>) {
        let mut state = self.lock();
        state.optimistic.disconnected();
        state.stopped = true;
        state.events.extend(error.map(Event::Stopped));
    }

    /// The owner has received an outcome.
    pub(crate) fn outcome_reported(&self) {
        let mut state = self.lock();
        state.unreported = state.unreported.saturating_sub(1);
        drop(state);
        self.to_store.notify_one();
    }

    /// Sends the queued events to the owner. Ends when the owner is gone or, with `once`, when none is left.
    pub(crate) async fn report(&self, events: &mpsc::Sender<Event>, once: bool) {
        while let Ok(place) = events.reserve().await {
            let event = self.lock().events.pop_front();
            match event {
                Some(event) => {
                    place.send(event);
                    self.reported.notify_one();
                }
                None if once => return,
                None => {
                    drop(place);
                    self.to_report.notified().await;
                }
            }
        }
    }

    /// Waits until there is room in the queue of events.
    pub(crate) async fn room(&self) {
        while self.lock().events.len() > MAX_QUEUED_EVENTS {
            self.reported.notified().await;
        }
    }

    /// The next write to the storage, if there is one. Outcomes alone make a write only with `all`. `written`
    /// is the number of records that were appended since the last compaction.
    pub(crate) fn next_write(
        &self,
        all: bool,
        written: usize,
        replace: bool,
    ) -> Option<StorageWrite> {
        let state = self.lock();
        let optimistic = &state.optimistic;
        let reported = state.unreported == 0;
        let outcomes = if reported { optimistic.outcomes().len() } else { 0 };
        let counts = WriteCounts { unstored: optimistic.unstored().len(), outcomes };
        if counts.unstored == 0 && !(all && outcomes > 0) && !replace {
            return None;
        }
        // The queue in memory includes all outcomes.
        let large = written > COMPACT_AFTER && written / 4 > optimistic.pending().count();
        if replace || (large && reported) {
            return Some(StorageWrite::Replace(optimistic.records(), counts));
        }
        let outcomes = optimistic.outcomes().take(outcomes);
        Some(StorageWrite::Append(optimistic.unstored().chain(outcomes).cloned().collect(), counts))
    }

    /// Whether there are outcomes to store, all of which the owner has received.
    pub(crate) fn has_outcomes(&self) -> bool {
        let state = self.lock();
        state.unreported == 0 && state.optimistic.outcomes().len() > 0
    }

    /// A write has ended.
    pub(crate) fn written(&self, counts: WriteCounts, result: &Result<(), StorageError>) {
        let mut state = self.lock();
        match result {
            Ok(()) => {
                state.storage_error = None;
                state.optimistic.stored(counts.unstored);
                state.optimistic.outcomes_stored(counts.outcomes);
            }
            Err(error) => {
                let reason = error.to_string();
                if state.storage_error.as_ref() != Some(&reason) {
                    tracing::warn!(%reason, "mutations cannot be stored");
                    state.events.push_back(Event::NotStored { reason: reason.clone() });
                }
                state.storage_error = Some(reason);
            }
        }
        drop(state);
        self.to_send.notify_one();
        self.to_report.notify_one();
    }
}

impl ClientState {
    pub(crate) fn status(&self) -> ClientStatus {
        ClientStatus {
            connection: self.connection.clone(),
            pending: self.optimistic.pending().count(),
            last_error: self.last_error.clone(),
            storage_error: self.storage_error.clone(),
            stopped: self.stopped,
        }
    }

    fn push_status(&mut self, status: Status) {
        self.connection = status.clone();
        self.events.push_back(Event::Status(status));
    }

    /// Queues the changes of mutations. They join the last event if that has changes too.
    fn push_changes(&mut self, changes: Vec<RowChange>) {
        match self.events.back_mut() {
            _ if changes.is_empty() => {}
            Some(Event::Changes(waiting)) => waiting.extend(changes),
            _ => self.events.push_back(Event::Changes(changes)),
        }
    }

    fn push(&mut self, step: Step) {
        // Each step is an event of its own, so that the limit of the queue counts it.
        if !step.changes.is_empty() {
            self.events.push_back(Event::Changes(step.changes));
        }
        self.unreported += step.acked.len();
        self.events.extend(step.acked.into_iter().map(Event::Acked));
        self.events.extend(step.subscribed.into_iter().map(Event::Subscribed));
        self.events.extend(step.refused.into_iter().map(Event::SubscriptionRefused));
    }
}
