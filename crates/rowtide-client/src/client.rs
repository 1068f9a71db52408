//! The client that an application uses: the shown rows, mutations, events and a status. One task in the
//! background does everything that takes time. It talks to the server ([`crate::connection`]) and to the
//! storage ([`crate::journal`]).

use std::ops::Deref;
use std::sync::{Arc, MutexGuard};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::connection::run;
use crate::event::{ClientStatus, Event};
use crate::op::Op;
use crate::optimistic::{MutateError, Optimistic};
use crate::options::ClientOptions;
use crate::replica::Replica;
use crate::row::Row;
use crate::shared::{ClientState, SharedState};
use crate::storage::{MemoryStorage, Storage, StorageError};
use crate::subscriptions::SubscribeError;

/// How many events may wait for the owner before the client stops reading from the server.
const EVENTS: usize = 256;

/// A running client. Dropping it does the same as [`Client::close`], but does not wait.
pub struct Client {
    shared: Arc<SharedState>,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<Result<(), StorageError>>,
}

impl Client {
    /// Starts to connect, with a queue of mutations that ends with the process. Call it in a Tokio runtime.
    pub fn start(options: ClientOptions) -> Client {
        let optimistic = Optimistic::new(options.client_id.clone());
        Client::with(options, optimistic, Box::new(MemoryStorage::new()))
    }

    /// Loads the queue of mutations, shows it, and starts to connect.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub async fn open(
        options: ClientOptions,
        mut storage: impl Storage,
    ) -> Result<Client, StorageError> {
        let load = tokio::task::spawn_blocking(move || (storage.load(), storage));
        let (records, storage) = load.await.map_err(|e| StorageError::Other(e.into()))?;
        let restored = Optimistic::restore(&records?)?;
        let optimistic = restored.unwrap_or_else(|| Optimistic::new(options.client_id.clone()));
        Ok(Client::with(options, optimistic, Box::new(storage)))
    }

    fn with(options: ClientOptions, optimistic: Optimistic, storage: Box<dyn Storage>) -> Client {
        let shared = Arc::new(SharedState::new(optimistic));
        let (sender, events) = mpsc::channel(EVENTS);
        let task = tokio::spawn(run(options, Arc::clone(&shared), storage, sender));
        Client { shared, events, task }
    }

    /// The next event; `None` after [`Event::Stopped`]. Cancel safe. An owner must receive its events: while
    /// some hundreds wait, the client reads nothing more from the server, and after a restart it reports
    /// every outcome again that the owner has not received.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await?;
        if matches!(event, Event::Acked(_)) {
            self.shared.outcome_reported();
        }
        Some(event)
    }

    /// Makes a mutation of 1 to 500 operations. It shows at once, also without a server. The client sends it
    /// once it is stored, and again until the server acknowledges it, also after a restart if the storage is
    /// durable. [`Event::Acked`] has the same id.
    ///
    /// # Errors
    /// When the server could not accept it, too many mutations wait already, the storage fails, or the client
    /// has stopped. Nothing is shown then. Only the server knows whether the rules allow it.
    pub fn mutate(&self, ops: Vec<Op>) -> Result<u64, MutateError> {
        self.shared.mutate(ops)
    }

    /// Asks for what a query of the definition selects, beside the rows that are always sent. `params` are its parameters
    /// by name, in the forms that values have in rows. Returns an id at once; [`Event::Subscribed`] has it when the rows are
    /// there, and [`Event::SubscriptionRefused`] where the server refuses. It holds over all connections of this client,
    /// and ends with it.
    ///
    /// # Errors
    /// When the server could not read it, there are too many, or the client has stopped.
    pub fn subscribe(&self, query: &str, params: Row) -> Result<u64, SubscribeError> {
        self.shared.subscribe(query, params)
    }

    /// Asks no longer. Rows that nothing else selects go with a later [`Event::Changes`].
    pub fn unsubscribe(&self, id: u64) {
        self.shared.unsubscribe(id);
    }

    /// The rows as they are shown, with pending mutations. Hold the guard for a short time: the connection
    /// waits for it. Do not call [`Client::mutate`] while you hold it, which would wait for ever.
    pub fn shown(&self) -> Shown<'_> {
        Shown(self.shared.lock())
    }

    /// The rows as the server last sent them, without pending mutations. The guard is as that of
    /// [`Client::shown`].
    pub fn replica(&self) -> Base<'_> {
        Base(self.shared.lock())
    }

    /// The status of the client.
    pub fn status(&self) -> ClientStatus {
        self.shared.lock().status()
    }

    /// Ends the connection and waits until all mutations are stored. The next client with this queue sends
    /// those that are not acknowledged yet.
    ///
    /// # Errors
    /// When they cannot be stored.
    pub async fn close(self) -> Result<(), StorageError> {
        let Client { events, task, .. } = self;
        drop(events);
        match task.await {
            Ok(stored) => stored,
            Err(error) => Err(StorageError::Other(error.into())),
        }
    }
}

/// A guard with the shown rows, see [`Client::shown`].
pub struct Shown<'a>(MutexGuard<'a, ClientState>);

impl Deref for Shown<'_> {
    type Target = Optimistic;

    fn deref(&self) -> &Optimistic {
        &self.0.optimistic
    }
}

/// A guard with the server's rows, see [`Client::replica`].
pub struct Base<'a>(MutexGuard<'a, ClientState>);

impl Deref for Base<'_> {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        self.0.optimistic.base()
    }
}
