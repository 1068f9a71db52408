//! What a client's owner and its task share: the state under one lock that is never held for long, and
//! the bells with which they wake each other.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rowtide_protocol::ServerMessage;
use tokio::sync::{Notify, mpsc};

use crate::client::{ClientStatus, ConnectionError, Event, Status};
use crate::op::Op;
use crate::optimistic::{ApplyError, MutateError, Optimistic, Step};
use crate::queue::Record;
use crate::replica::RowChange;
use crate::storage::StorageError;

/// How many events may wait in the outbox before no more is read from the server.
const OUTBOX: usize = 16;
/// Below this many records since the last one a compaction is not worth it.
const COMPACT_AFTER: usize = 1_000;

/// See the module's text.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// There may be something to store.
    pub(crate) to_store: Notify,
    /// There may be something to send.
    pub(crate) to_send: Notify,
    /// There is something to tell the owner.
    to_tell: Notify,
    /// The outbox has become shorter.
    told: Notify,
}

/// The state.
pub(crate) struct Inner {
    pub(crate) optimistic: Optimistic,
    /// What the owner is to be told, in order, from the server, by mutations and of the storage alike.
    outbox: VecDeque<Event>,
    /// How many outcomes the owner has not taken yet.
    untold: usize,
    connection: Status,
    last_error: Option<String>,
    storage_error: Option<String>,
    stopped: bool,
}

/// What is to be stored in one go.
pub(crate) enum Batch {
    Append(Vec<Record>, Stored),
    Replace(Vec<Record>, Stored),
}

/// What will be durable once a batch is.
#[derive(Clone, Copy)]
pub(crate) struct Stored {
    unstored: usize,
    outcomes: usize,
}

impl Shared {
    pub(crate) fn new(optimistic: Optimistic) -> Shared {
        let inner = Inner {
            optimistic,
            outbox: VecDeque::new(),
            untold: 0,
            connection: Status::Connecting,
            last_error: None,
            storage_error: None,
            stopped: false,
        };
        Shared {
            inner: Mutex::new(inner),
            to_store: Notify::new(),
            to_send: Notify::new(),
            to_tell: Notify::new(),
            told: Notify::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn mutate(&self, ops: Vec<Op>) -> Result<u64, MutateError> {
        let mut inner = self.lock();
        if inner.stopped {
            return Err(MutateError::Stopped);
        }
        if let Some(error) = &inner.storage_error {
            return Err(MutateError::Storage(error.clone()));
        }
        let (id, changes) = inner.optimistic.mutate(ops)?;
        inner.push_changes(changes);
        drop(inner);
        self.to_store.notify_one();
        self.to_tell.notify_one();
        Ok(id)
    }

    /// Applies a message.
    pub(crate) fn apply(&self, message: &ServerMessage) -> Result<(), ApplyError> {
        let mut inner = self.lock();
        let step = inner.optimistic.apply(message)?;
        inner.push(step);
        if matches!(message, ServerMessage::Ready { .. }) {
            inner.last_error = None;
            inner.push_status(Status::Live);
        }
        drop(inner);
        self.to_store.notify_one();
        self.to_tell.notify_one();
        Ok(())
    }

    /// Takes another client id, since another user is signed in.
    pub(crate) fn abandon(&self, client_id: String) {
        let mut inner = self.lock();
        let step = inner.optimistic.abandon(client_id);
        inner.push(step);
        drop(inner);
        self.to_store.notify_one();
        self.to_tell.notify_one();
    }

    /// A try to connect begins.
    pub(crate) fn connecting(&self) {
        self.lock().push_status(Status::Connecting);
        self.to_tell.notify_one();
    }

    /// The connection has ended.
    pub(crate) fn offline(&self, reason: String) {
        let mut inner = self.lock();
        inner.optimistic.disconnected();
        inner.last_error = Some(reason.clone());
        inner.push_status(Status::Offline { reason });
        drop(inner);
        self.to_tell.notify_one();
    }

    /// No more is to happen.
    pub(crate) fn stop(&self, error: Option<ConnectionError>) {
        let mut inner = self.lock();
        inner.optimistic.disconnected();
        inner.stopped = true;
        inner.outbox.extend(error.map(Event::Stopped));
    }

    /// The owner has taken an outcome.
    pub(crate) fn outcome_taken(&self) {
        let mut inner = self.lock();
        inner.untold = inner.untold.saturating_sub(1);
        drop(inner);
        self.to_store.notify_one();
    }

    /// Brings the outbox to the owner; ends when the owner is gone or, if `once`, nothing is left.
    pub(crate) async fn tell(&self, events: &mpsc::Sender<Event>, once: bool) {
        while let Ok(place) = events.reserve().await {
            let event = self.lock().outbox.pop_front();
            match event {
                Some(event) => {
                    place.send(event);
                    self.told.notify_one();
                }
                None if once => return,
                None => {
                    drop(place);
                    self.to_tell.notified().await;
                }
            }
        }
    }

    /// Waits until there is room in the outbox.
    pub(crate) async fn room(&self) {
        while self.lock().outbox.len() > OUTBOX {
            self.told.notified().await;
        }
    }

    /// What is to be stored, if anything: outcomes alone only if `all` is to be. `written` is how many
    /// records were appended since the last compaction.
    pub(crate) fn batch(&self, all: bool, written: usize, replace: bool) -> Option<Batch> {
        let inner = self.lock();
        let optimistic = &inner.optimistic;
        let told = inner.untold == 0;
        let outcomes = if told { optimistic.outcomes().len() } else { 0 };
        let stored = Stored { unstored: optimistic.unstored().len(), outcomes };
        if stored.unstored == 0 && !(all && outcomes > 0) && !replace {
            return None;
        }
        // The queue as it is has all outcomes in it.
        let large = written > COMPACT_AFTER && written / 4 > optimistic.pending().count();
        if replace || (large && told) {
            return Some(Batch::Replace(optimistic.records(), stored));
        }
        let outcomes = optimistic.outcomes().take(outcomes);
        Some(Batch::Append(optimistic.unstored().chain(outcomes).cloned().collect(), stored))
    }

    /// Whether only outcomes wait to be stored, which have been told.
    pub(crate) fn has_outcomes(&self) -> bool {
        let inner = self.lock();
        inner.untold == 0 && inner.optimistic.outcomes().len() > 0
    }

    /// A batch was stored, or not.
    pub(crate) fn stored(&self, stored: Stored, result: &Result<(), StorageError>) {
        let mut inner = self.lock();
        match result {
            Ok(()) => {
                inner.storage_error = None;
                inner.optimistic.stored(stored.unstored);
                inner.optimistic.outcomes_stored(stored.outcomes);
            }
            Err(error) => {
                let reason = error.to_string();
                if inner.storage_error.as_ref() != Some(&reason) {
                    tracing::warn!(%reason, "mutations cannot be stored");
                    inner.outbox.push_back(Event::NotStored { reason: reason.clone() });
                }
                inner.storage_error = Some(reason);
            }
        }
        drop(inner);
        self.to_send.notify_one();
        self.to_tell.notify_one();
    }
}

impl Inner {
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
        self.outbox.push_back(Event::Status(status));
    }

    /// What mutations changed: as many as the queue takes make one event.
    fn push_changes(&mut self, changes: Vec<RowChange>) {
        match self.outbox.back_mut() {
            _ if changes.is_empty() => {}
            Some(Event::Changes(waiting)) => waiting.extend(changes),
            _ => self.outbox.push_back(Event::Changes(changes)),
        }
    }

    fn push(&mut self, step: Step) {
        // On its own, so that the outbox counts it.
        if !step.changes.is_empty() {
            self.outbox.push_back(Event::Changes(step.changes));
        }
        self.untold += step.settled.len();
        self.outbox.extend(step.settled.into_iter().map(Event::Settled));
    }
}
