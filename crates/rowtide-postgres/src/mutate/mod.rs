//! One mutation is one transaction: the client's row is moved on to the mutation's number, which makes
//! a repeat a no-op; then each write is judged and done; then it commits. All of it but the commit is
//! sent at once, so what is allowed takes two round trips. What is refused is rolled back, and its
//! number settled by a statement of its own. Nothing is left behind in the session, so a pooler may
//! sit in between.

mod client_row;
mod connection;
mod failure;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rowtide_plan::plan::Plan;
use rowtide_plan::write::{Rejection, Write};
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::sync::Semaphore;

pub use self::connection::BEGIN;
use self::connection::Connection;
pub use self::failure::Failure;
use crate::connect::{ConnectOptions, Names};

/// Who sends a mutation, and under which number.
#[derive(Clone, Debug, PartialEq)]
pub struct Ticket {
    /// The row of `client` that counts it.
    pub client: Arc<str>,
    /// Whose it must be.
    pub user_id: Arc<str>,
    /// Its number.
    pub number: Number,
}

/// How a mutation is numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Number {
    /// By the client: it must follow the last one that was settled.
    Given(u64),
    /// By the server, for clients that only name their mutations. A name that is known already is a
    /// repeat.
    Next {
        /// The client's name for it.
        name: Arc<str>,
    },
}

/// The identity that rules are judged for.
#[derive(Clone, Debug, Default)]
pub struct Author {
    /// The token's `sub`.
    pub user_id: String,
    /// Its other claims.
    pub claims: Map<String, Value>,
}

/// What is to be done under a number.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// All of the writes, or none.
    Apply(Vec<Write>),
    /// Nothing: it is refused already, and so are as many behind it as there are more of these.
    Refuse(Vec<Rejection>),
}

/// What became of a mutation.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Its number is settled now. The stream brings how.
    Settled {
        /// The code, if it was refused.
        refused: Option<String>,
    },
    /// It was settled before. The stream brings the client's row again, with what it was refused with
    /// if it was.
    Repeated,
    /// It does not follow the last one that was settled; of a client that is not known, because the
    /// database was restored, none was.
    Gap {
        /// That one.
        last: u64,
    },
    /// The client belongs to another user, or its row is gone.
    NotTheirs,
}

/// Why nothing became of it; nothing was applied, unless the connection was lost while it committed.
/// The same mutation may be tried again at any time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MutateError {
    /// Postgres is not there, or cannot settle any mutation now.
    #[error("Postgres cannot settle it now: {0}")]
    Away(String),
    /// Another transaction was in the way.
    #[error("another transaction was in the way: {0}")]
    Conflict(String),
}

/// Applies mutations over a bounded number of connections.
pub struct Mutator {
    options: ConnectOptions,
    names: Names,
    prepare: bool,
    answer_within: Duration,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
    round_trips: AtomicU64,
}

impl Mutator {
    /// Connections are made when they are needed, at most `connections` of them. Without `prepare`
    /// statements are parsed every time, as a pooler wants it that does not know of prepared ones. A
    /// connection on which Postgres does not answer within `answer_within` is given up.
    pub fn new(
        options: ConnectOptions,
        names: Names,
        connections: usize,
        prepare: bool,
        answer_within: Duration,
    ) -> Mutator {
        Mutator {
            options,
            names,
            prepare,
            answer_within,
            idle: Mutex::default(),
            permits: Semaphore::new(connections.max(1)),
            round_trips: AtomicU64::new(0),
        }
    }

    /// How often an answer of Postgres' was waited for, connecting and preparing aside.
    pub fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }

    /// Applies or refuses one mutation, once a connection is free.
    ///
    /// # Errors
    /// When Postgres is away, or another transaction was in the way: try again.
    pub async fn apply(
        &self,
        plan: &Arc<Plan>,
        ticket: &Ticket,
        author: &Author,
        work: &Work,
    ) -> Result<Outcome, MutateError> {
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|closed| MutateError::Away(closed.to_string()))?;
        let mut connection = self.take().await?;
        let applied = match work {
            Work::Apply(writes) => connection.apply(plan, ticket, author, writes).await,
            Work::Refuse(rejections) => connection.refuse(ticket, rejections).await,
        };
        self.round_trips.fetch_add(connection.take_round_trips(), Ordering::Relaxed);
        // After an error, and when this future is dropped, the connection is closed: a transaction may
        // be open on it.
        match applied {
            Ok(outcome) => {
                self.lock().push(connection);
                Ok(outcome)
            }
            Err(Failure::Away(what)) => Err(MutateError::Away(what)),
            Err(Failure::Conflict(what)) => Err(MutateError::Conflict(what)),
            // Even the refusal cannot be settled, which is no client's doing: its row in `client` cannot be
            // written as things are.
            Err(Failure::Rejected(rejection)) => Err(MutateError::Away(rejection.message)),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self) -> Result<Connection, MutateError> {
        while let Some(connection) = self.lock().pop() {
            if connection.is_open() {
                return Ok(connection);
            }
        }
        Connection::open(&self.options, &self.names, self.prepare, self.answer_within)
            .await
            .map_err(|error| MutateError::Away(error.to_string()))
    }
}
