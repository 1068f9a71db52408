//! Applies mutations, each in one transaction. The transaction advances the client's row to the mutation's
//! number, which makes a repeat a no-op; then it checks and does each write; then it commits. Everything but
//! the commit is sent at once, so an allowed mutation takes two round trips. A rejected one is rolled back,
//! and another statement acknowledges its number. The session keeps no state, so a pooler may be between
//! server and Postgres.

mod answers;
mod bound;
mod client_row;
mod connection;
mod failure;
mod made_keys;
mod operations;
mod sending;
mod statements;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::write::{Operation, Rejection};
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::sync::Semaphore;

pub use self::connection::BEGIN;
use self::connection::MutationConnection;
pub use self::failure::Failure;
use crate::connect::{ConnectOptions, Names};
use crate::said_once::SaidOnce;

/// The sender and the number of a mutation.
#[derive(Clone, Debug, PartialEq)]
pub struct Ticket {
    /// The client id: names the row of `client` that counts the mutation.
    pub client: Arc<str>,
    /// The user whom the client id must belong to.
    pub user_id: Arc<str>,
    /// Its number.
    pub number: Number,
}

/// How a mutation is numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Number {
    /// By the client: the number must follow the last acknowledged one.
    Given(u64),
    /// By the server, for clients that only name their mutations. A known name is a repeat.
    Next {
        /// The client's name for it.
        name: Arc<str>,
        /// The tab that it is of: it is told what became of it, also over a later connection.
        session: Arc<str>,
    },
}

/// The identity that the rules are checked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Author {
    /// The token's `sub`.
    pub user_id: String,
    /// All its claims, `sub` among them.
    pub claims: Map<String, Value>,
}

impl Author {
    /// The claims as JSON, as the database is told them. No setting holds NUL, and no JSON does unescaped.
    fn claims_text(&self) -> String {
        let mut claims = Cow::Borrowed(&self.claims);
        if !claims.contains_key("sub") {
            claims.to_mut().insert("sub".to_owned(), self.user_id.clone().into());
        }
        serde_json::to_string(&*claims).unwrap_or_default()
    }
}

/// What to do under a number.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// All of the operations, or none.
    Apply(Vec<Operation>),
    /// Acknowledge rejections: the first is of this number, the others of the numbers behind it.
    Reject(Vec<Rejection>),
    /// Acknowledge a rejection that follows from what the plan says of a table, if that is still so.
    RejectIfItFits {
        /// The table.
        table: TableId,
        /// Why it would be rejected.
        rejection: Rejection,
    },
}

/// The outcome of an attempt to apply a mutation.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The number is acknowledged now. The stream has the outcome.
    Acked {
        /// The code, if the mutation was rejected.
        rejected: Option<String>,
    },
    /// The number was acknowledged before. The stream has the client's row again, with the rejection if
    /// there was one.
    Repeated,
    /// The number does not follow the last acknowledged one. The last one is 0 for a client that is not
    /// known, because the database was restored.
    Gap {
        /// The last acknowledged number.
        last: u64,
    },
    /// The client id belongs to another user, or its row is gone.
    NotTheirs,
}

/// Why a mutation was not acknowledged. Nothing was applied, unless the connection was lost during the
/// commit. The caller may try the same mutation again at any time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MutateError {
    /// Postgres is not reachable, or cannot acknowledge any mutation now.
    #[error("Postgres cannot apply mutations now: {0}")]
    Away(String),
    /// Another transaction was in the way.
    #[error("another transaction was in the way: {0}")]
    Conflict(String),
    /// It took longer than a statement may take.
    #[error("it took too long: {0}")]
    Slow(String),
}

/// Applies mutations over a bounded number of connections.
pub struct Mutator {
    options: ConnectOptions,
    names: Names,
    prepare: bool,
    answer_within: Duration,
    idle: Mutex<Vec<MutationConnection>>,
    permits: Semaphore,
    round_trips: AtomicU64,
    /// What the role that writes may not do, as far as it was said.
    said: Arc<Mutex<SaidOnce>>,
}

impl Mutator {
    /// Opens connections when they are needed, at most `connections`. Without `prepare` Postgres parses each
    /// statement every time, which some poolers need. A connection on which Postgres does not answer within
    /// `answer_within` is closed.
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
            said: Arc::default(),
        }
    }

    /// The number of round trips to Postgres, without those to connect and to prepare statements.
    pub fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }

    /// Does the work of one mutation, once a connection is free.
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
            Work::Apply(operations) => connection.apply(plan, ticket, author, operations).await,
            Work::Reject(rejections) => connection.reject(ticket, rejections).await,
            Work::RejectIfItFits { table, rejection } => {
                connection.reject_if_it_fits(plan, ticket, *table, rejection).await
            }
        };
        self.round_trips.fetch_add(connection.take_round_trips(), Ordering::Relaxed);
        // After an error, and when this future is dropped, the connection is closed, because it may have an
        // open transaction.
        // What is rejected here is not the mutation, but Rowtide's own writing of the row in `client`.
        match applied {
            Ok(outcome) => {
                self.lock().push(connection);
                Ok(outcome)
            }
            Err(failure) => Err(failure.waits()),
        }
    }

    /// Goes the way of a mutation, without one: to a Postgres that would let a transaction write, and back. Waits for a
    /// free connection.
    ///
    /// # Errors
    /// When there is no such way now.
    pub async fn look(&self) -> Result<(), MutateError> {
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|closed| MutateError::Away(closed.to_string()))?;
        let mut connection = self.take().await?;
        match connection.look().await {
            Ok(()) => {
                self.lock().push(connection);
                Ok(())
            }
            Err(failure) => Err(failure.waits()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<MutationConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self) -> Result<MutationConnection, MutateError> {
        while let Some(connection) = self.lock().pop() {
            if connection.is_open() {
                return Ok(connection);
            }
        }
        let Mutator { options, names, prepare, answer_within, said, .. } = self;
        MutationConnection::open(options, names, *prepare, *answer_within, Arc::clone(said))
            .await
            .map_err(|error| MutateError::Away(error.to_string()))
    }
}
