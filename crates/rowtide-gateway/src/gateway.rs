//! The gateway: engines, sessions, mutations. It needs a feed, and a database for loads and mutations, and nothing
//! else of who reads Postgres: as long as the feed has a generation it serves, also while nothing new comes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rowtide_feed::{Feed, ReplicatorStatus};
use rowtide_plan::plan::Plan;
use rowtide_postgres::connect::{ConnectOptions, Names};
use rowtide_postgres::mutate::Mutator;
use rowtide_protocol::ErrorCode;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::ClientOrigin;
use crate::auth::{Auth, AuthError, AuthOptions};
use crate::claims::Claims;
use crate::deflater::Deflater;
use crate::engines::{Engines, EnginesOptions};
use crate::health::EnginesHealth;
use crate::limits::ClientLimits;
use crate::now::Clock;
use crate::outcomes::Outcomes;
use crate::rate::{Rate, Verdict};
use crate::telemetry::{self, Limit};
use crate::writer::Writer;

/// What a gateway needs.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// The database of loads and client ids, and of mutations if they have none of their own.
    pub database: ConnectOptions,
    /// Under which names things are kept there.
    pub names: Names,
    /// How many engines run side by side; at least one.
    pub engines: usize,
    /// How many bytes of changes may wait for one session.
    pub send_queue_bytes: usize,
    /// How many bytes of rows the engines try to hold at the most, together.
    pub row_bytes: usize,
    /// How many connections run loads; at least one.
    pub load_connections: usize,
    /// How tokens are checked.
    pub auth: AuthOptions,
    /// What clients may ask for.
    pub client: ClientLimits,
    /// The same database behind a transaction pooler, for mutations alone, if there is one.
    pub mutation_database: Option<ConnectOptions>,
    /// How many connections to Postgres apply mutations; at least one.
    pub mutation_connections: usize,
    /// Whether statements are prepared on those.
    pub prepared_statements: bool,
    /// How long Postgres may take for one answer on those.
    pub mutation_answer: Duration,
    /// How often it is looked, while there is no mutation, whether one could be applied: where they have a database of
    /// their own.
    pub mutation_look: Duration,
}

/// What every connection shares.
pub(crate) struct Services {
    pub(crate) engines: Engines,
    pub(crate) auth: Auth,
    pub(crate) claims: Claims,
    pub(crate) outcomes: Outcomes,
    pub(crate) writer: Writer,
    pub(crate) deflater: Deflater,
    pub(crate) clock: Clock,
    pub(crate) stop: CancellationToken,
    pub(crate) limits: ClientLimits,
    pub(crate) sessions: TaskTracker,
    rate: Mutex<Rate>,
    /// Of those who have no token, by where they come from.
    rate_of_origins: Mutex<Rate>,
    feed: Feed,
    /// Ends what outlives the sessions: the engines, and the mutations that wait.
    ends: CancellationToken,
}

impl Services {
    pub(crate) fn take_rate(&self, user: &str, operations: usize, longest: Duration) -> Verdict {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.take(user, operations, self.clock.time(), longest)
    }

    /// Takes a request without a token from the rate of where it comes from, or says after what time there is one.
    pub(crate) fn take_of_origin(&self, from: ClientOrigin) -> Result<(), Duration> {
        let Some(origin) = from.name() else { return Ok(()) };
        let mut rate = self.rate_of_origins.lock().unwrap_or_else(PoisonError::into_inner);
        match rate.take(&origin, 1, self.clock.time(), Duration::ZERO) {
            Verdict::Now => Ok(()),
            Verdict::After(wait) | Verdict::TooLong(wait) => {
                telemetry::limited(Limit::RequestsPerAddress);
                Err(wait)
            }
        }
    }
}

/// A gateway that runs. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) shared: Arc<Services>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("health", &self.health()).finish()
    }
}

impl Gateway {
    /// Starts to follow the feed and to take sessions, which get their rows when there are engines. `stop` has every
    /// session say goodbye; [`Gateway::drained`] waits for that.
    ///
    /// # Errors
    /// When tokens could never be checked. Keys that an issuer does not give now are asked for until it does.
    pub async fn start(
        options: GatewayOptions,
        feed: Feed,
        stop: CancellationToken,
    ) -> Result<Gateway, AuthError> {
        let auth = Auth::start(&options.auth, stop.clone()).await?;
        let clock = Clock::start();
        let ends = CancellationToken::new();
        let engines = Engines::start(
            EnginesOptions {
                database: options.database.clone(),
                engines: options.engines,
                send_queue_bytes: options.send_queue_bytes,
                row_bytes: options.row_bytes,
                load_connections: options.load_connections,
            },
            feed.clone(),
            clock,
            ends.clone(),
        );
        let own_way = options.mutation_database.is_some();
        let mutator = Mutator::new(
            options.mutation_database.unwrap_or_else(|| options.database.clone()),
            options.names.clone(),
            options.mutation_connections,
            options.prepared_statements,
            options.mutation_answer,
        );
        let writer = Writer::start(
            mutator,
            options.mutation_connections,
            engines.clone(),
            clock,
            stop.clone(),
            ends.clone(),
        );
        // Of the stream's database it is known anyway whether it is there.
        if own_way {
            writer.look_at_the_way(options.mutation_look, ends.clone());
        }
        let (database, names) = (options.database.clone(), options.names.clone());
        let outcomes = Outcomes::start(database, names, ends.clone());
        let claims = Claims::start(
            options.database,
            options.names,
            options.client,
            writer.clone(),
            engines.clone(),
            clock,
            stop.clone(),
        );
        let rate = Mutex::new(Rate::new(options.client.requests_per_minute));
        let rate_of_origins = Mutex::new(Rate::new(options.client.requests_per_address));
        let (limits, sessions) = (options.client, TaskTracker::new());
        let shared = Services {
            engines,
            auth,
            claims,
            outcomes,
            writer,
            deflater: Deflater::start(),
            clock,
            stop,
            limits,
            sessions,
            rate,
            rate_of_origins,
            feed,
            ends,
        };
        Ok(Gateway { shared: Arc::new(shared) })
    }

    /// How tokens are checked.
    pub fn auth(&self) -> &Auth {
        &self.shared.auth
    }

    /// What clients may ask for.
    pub fn limits(&self) -> &ClientLimits {
        &self.shared.limits
    }

    /// Takes operations of a user's rate, if they need not wait.
    pub fn may_go_on(&self, user: &str, operations: usize) -> bool {
        self.shared.take_rate(user, operations, Duration::ZERO) == Verdict::Now
    }

    /// Cancelled when sessions are to say goodbye.
    pub fn stopping(&self) -> CancellationToken {
        self.shared.stop.clone()
    }

    /// Counts a connect that was rejected before there was a conversation.
    pub fn count_rejected_connect(&self, code: ErrorCode) {
        telemetry::rejected(code);
    }

    /// The plan that serves, or served last; `None` before there was one.
    pub fn plan(&self) -> Option<Arc<Plan>> {
        self.shared.engines.plan()
    }

    /// How engines and loads are doing. Waits for nothing.
    pub fn health(&self) -> EnginesHealth {
        self.shared.engines.health()
    }

    /// Brings the gauges of `/metrics` up to date. Waits for nothing.
    pub fn update_metrics(&self) {
        let waits = self.mutations_wait_for().is_some();
        telemetry::gauges(&self.health(), self.shared.auth.age_of_keys(), waits);
    }

    /// Why mutations cannot be applied and wait, `None` if they do not. Waits for nothing.
    pub fn mutations_wait_for(&self) -> Option<String> {
        self.shared.writer.waits_for()
    }

    /// How many bytes of mutations wait, of the [`crate::limits::MUTATION_QUEUE_BYTES`] that may.
    pub fn waiting_mutation_bytes(&self) -> usize {
        self.shared.writer.waiting_bytes()
    }

    /// Waits until tokens can be checked, there are engines, and what they are given is up to date. Cancel safe.
    pub async fn wait_until_ready(&self) {
        self.shared.auth.has_keys().await;
        self.shared.engines.are_there().await;
        let mut states = self.shared.feed.watch();
        let streams = states.wait_for(|state| state.status == ReplicatorStatus::Streaming);
        if streams.await.is_err() {
            // The publisher has gone: it never will.
            std::future::pending::<()>().await;
        }
    }

    /// After `stop`: waits until every session has said goodbye and every mutation that has arrived is acknowledged.
    /// Cancel safe; a client, or Postgres, may hold it up for long.
    pub async fn drained(&self) {
        self.shared.sessions.close();
        self.shared.sessions.wait().await;
        self.shared.writer.is_idle().await;
    }

    /// Ends engines and mutations at once, with whatever there is still.
    pub fn end(&self) {
        self.shared.stop.cancel();
        self.shared.ends.cancel();
    }
}
