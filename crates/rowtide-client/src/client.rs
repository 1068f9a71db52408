//! A client as an application holds it: the rows that are shown, mutations, events, and how things
//! stand. Everything that takes time happens in one task behind it, which talks to the server
//! ([`crate::connection`]) and to the storage ([`crate::journal`]).

use std::ops::Deref;
use std::sync::{Arc, MutexGuard};

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::connection::run;
use crate::op::Op;
use crate::optimistic::{MutateError, Optimistic, Settled};
use crate::replica::{Replica, RowChange};
use crate::shared::{Inner, Shared};
use crate::storage::{MemoryStorage, Storage, StorageError};

/// How many events may wait for the owner before the connection is no longer read.
const EVENTS: usize = 256;

/// Gives a token whenever one is needed: at each connect.
pub type TokenSource = Arc<dyn Fn() -> String + Send + Sync>;

/// What a client needs.
#[derive(Clone)]
pub struct ClientOptions {
    /// `ws://…/sync` or `wss://…/sync`.
    pub url: String,
    /// Where tokens come from.
    pub token: TokenSource,
    /// 8 to 64 of `A-Z a-z 0-9 _ -`; names this client's queue of mutations. A queue that was stored
    /// keeps the id that it began with.
    pub client_id: String,
    /// The application's version, if it says one.
    pub app_version: Option<i64>,
}

/// How the connection is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Trying to connect, or waiting for the first rows.
    Connecting,
    /// The replica follows the server.
    Live,
    /// Cut off; the next try is under way after a wait.
    Offline {
        /// Why.
        reason: String,
    },
}

/// How things stand, to be shown to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientStatus {
    /// The connection.
    pub connection: Status,
    /// How many mutations wait for their outcome.
    pub pending: usize,
    /// Why the connection was last cut off, if it is not live again.
    pub last_error: Option<String>,
    /// Why mutations cannot be stored at the moment. Those that are not stored are not sent.
    pub storage_error: Option<String>,
    /// Whether the client has stopped for good.
    pub stopped: bool,
}

/// What the owner of a client is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The connection is doing otherwise.
    Status(Status),
    /// Rows are shown otherwise, by one or more commits or mutations, to be shown as a whole. Comes after
    /// [`Client::shown`] has them.
    Changes(Vec<RowChange>),
    /// The outcome of a mutation. Comes after the changes that it makes.
    Settled(Settled),
    /// Mutations cannot be stored; it is tried again, and new ones are not taken meanwhile.
    NotStored {
        /// Why.
        reason: String,
    },
    /// The client has stopped for good.
    Stopped(ConnectionError),
}

/// Why a client stopped for good.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectionError {
    /// The URL cannot be used.
    #[error("`{0}` is not a URL of a server (expected ws://host:port/sync)")]
    Url(String),
    /// The server ended the connection in a way that no retry mends.
    #[error("the server refused: {message} ({code})")]
    Refused {
        /// See the protocol's error codes.
        code: String,
        /// The server's words.
        message: String,
    },
}

/// A running client. Dropping it ends the connection, as [`Client::close`] does, without waiting for it.
pub struct Client {
    shared: Arc<Shared>,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<Result<(), StorageError>>,
}

impl Client {
    /// Starts to connect, with a queue of mutations that ends with the process. To be called in a Tokio
    /// runtime.
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
        let shared = Arc::new(Shared::new(optimistic));
        let (sender, events) = mpsc::channel(EVENTS);
        let task = tokio::spawn(run(options, Arc::clone(&shared), storage, sender));
        Client { shared, events, task }
    }

    /// The next event; `None` after [`Event::Stopped`]. Cancel safe. Events are to be taken: while some
    /// hundreds wait nothing more is read from the server, and an outcome is told again after a restart
    /// until it was taken.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await?;
        if matches!(event, Event::Settled(_)) {
            self.shared.outcome_taken();
        }
        Some(event)
    }

    /// Makes a mutation of 1 to 500 operations. It shows at once, also without a server; it is sent once
    /// it is stored, and again until it is settled, also after a restart if the storage lasts. The id is
    /// that of its [`Event::Settled`].
    ///
    /// # Errors
    /// When the server could not take it, too many wait already, the storage fails, or the client has
    /// stopped. Nothing is shown then. Whether the rules allow it is the server's to say.
    pub fn mutate(&self, ops: Vec<Op>) -> Result<u64, MutateError> {
        self.shared.mutate(ops)
    }

    /// The rows as they are shown, pending mutations included. Hold it for a short time: the connection
    /// waits for it, and so does [`Client::mutate`], which must not be called meanwhile.
    pub fn shown(&self) -> Shown<'_> {
        Shown(self.shared.lock())
    }

    /// The rows as the server last told them, without pending mutations. As [`Client::shown`].
    pub fn replica(&self) -> Base<'_> {
        Base(self.shared.lock())
    }

    /// How things stand.
    pub fn status(&self) -> ClientStatus {
        self.shared.lock().status()
    }

    /// Ends the connection and waits until the mutations made are stored. Those that are not settled are
    /// sent by the next client with this queue.
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

/// The rows that are shown, while it is held.
pub struct Shown<'a>(MutexGuard<'a, Inner>);

impl Deref for Shown<'_> {
    type Target = Optimistic;

    fn deref(&self) -> &Optimistic {
        &self.0.optimistic
    }
}

/// The rows of the server, while it is held.
pub struct Base<'a>(MutexGuard<'a, Inner>);

impl Deref for Base<'_> {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        self.0.optimistic.base()
    }
}
