//! The hub joins the stream, the loads and the engines, and hands every session the frames of its
//! view. It is the only place where they meet: engines run on threads of their own, one task runs
//! loads, one task, the replicator, owns the stream. When a table changes its shape, or the slot is
//! lost, all of it is begun anew as another generation, with another epoch.

mod engine_thread;
mod loader_task;
mod outbox;
mod replicator;

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rowtide_engine::{Counts, Opening, SessionId};
use rowtide_plan::compile::compile_partly;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::Plan;
use rowtide_postgres::catalog::read_catalog;
use rowtide_postgres::connect::{ConnectError, ConnectOptions, Names, connect};
use rowtide_postgres::load::Loader;
use rowtide_postgres::mutate::Author;
use rowtide_postgres::rules::prepare_rules;
use rowtide_protocol::{Epoch, ErrorCode, Lsn};
use rustc_hash::FxBuildHasher;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::engine_thread::{Command, EngineHandle};
use self::outbox::Outbox;

pub use self::outbox::{Delivery, Step};

/// What the hub needs to run.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// The database.
    pub database: ConnectOptions,
    /// Under which names things are kept there.
    pub names: Names,
    /// What to sync.
    pub definition: Arc<Definition>,
    /// How many engines run side by side; at least one.
    pub engines: usize,
    /// How many bytes of changes may wait for one session.
    pub outbox_bytes: usize,
}

/// Why there is no hub, or no place in it.
#[derive(Debug, Error)]
pub enum HubError {
    /// Postgres cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The catalog cannot be read.
    #[error("cannot read the catalog: {}", rowtide_postgres::connect::reason(.0))]
    Catalog(#[from] tokio_postgres::Error),
    /// The operating system gave no thread.
    #[error("cannot start an engine: {0}")]
    Thread(#[from] std::io::Error),
    /// The hub has stopped.
    #[error("the server is stopping")]
    Stopped,
}

/// What `/health/ready` says.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Whether new sessions would be served with rows that are up to date.
    pub ready: bool,
    /// Why, for a person.
    pub detail: String,
    /// Where the stream stands: every commit up to this LSN has been taken in by all engines.
    pub position: String,
    /// How many `SELECT`s of rows the loads have run since the start.
    pub load_queries: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Tables of the definition that are not served, because they no longer fit their rules.
    pub refused_tables: Vec<String>,
}

/// Plan and engines that belong together.
struct Generation {
    plan: Arc<Plan>,
    engines: Vec<EngineHandle>,
    refused: Vec<String>,
    /// Told by the loader when the tables do not have the plan's shape.
    schema_changed: Arc<Notify>,
    /// Why the load under way does not succeed.
    load_failing: watch::Receiver<Option<String>>,
    stop: CancellationToken,
}

struct Shared {
    options: HubOptions,
    /// Where sessions and loads run.
    runtime: Handle,
    generation: RwLock<Arc<Generation>>,
    status: watch::Sender<Status>,
    next_session: AtomicU64,
    sessions: AtomicU64,
    load_queries: Arc<AtomicU64>,
    stop: CancellationToken,
}

/// How the stream is doing.
#[derive(Clone, Debug, PartialEq)]
enum Status {
    Starting,
    Streaming,
    Waiting(String),
}

/// A cheap handle to the hub.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("health", &self.health()).finish()
    }
}

/// One session's place in its view; dropping it leaves the view.
pub struct Subscription {
    session: SessionId,
    outbox: Arc<Outbox>,
    closes: mpsc::UnboundedSender<SessionId>,
    shared: Arc<Shared>,
}

impl Subscription {
    /// Waits for the next frame. Cancel safe.
    pub async fn next(&self) -> Delivery {
        self.outbox.next().await
    }

    /// A further frame that is already there, so that several are written with one flush.
    pub fn try_next(&self) -> Option<Delivery> {
        self.outbox.try_next()
    }
}

impl Subscription {
    /// The plan that its steps are of.
    pub fn plan(&self) -> &Arc<Plan> {
        self.outbox.plan()
    }

    /// Waits for the next step, for sessions that do not speak in frames. Cancel safe.
    pub async fn next_step(&self) -> Step {
        self.outbox.next_step().await
    }

    /// A further step that is already there.
    pub fn try_next_step(&self) -> Option<Step> {
        self.outbox.try_next_step()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
        // An engine that has stopped has no sessions.
        let _gone = self.closes.send(self.session);
    }
}

impl Hub {
    /// Compiles the definition against the database and starts to stream. The task that is returned
    /// ends after [`Hub::stop`].
    ///
    /// # Errors
    /// When the catalog cannot be read or an engine cannot be started.
    pub async fn start(options: HubOptions) -> Result<(Hub, JoinHandle<()>), HubError> {
        let load_queries = Arc::new(AtomicU64::new(0));
        let stop = CancellationToken::new();
        let runtime = Handle::current();
        let generation = Generation::begin(&options, &runtime, &load_queries, &stop, None).await?;
        let shared = Arc::new(Shared {
            options,
            runtime,
            generation: RwLock::new(Arc::new(generation)),
            status: watch::channel(Status::Starting).0,
            next_session: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            load_queries,
            stop,
        });
        // On a thread of its own socket, decoder and hand-over to the engines take turns without
        // waking one another across cores.
        let thread = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let replicated = replicator::run(Arc::clone(&shared));
        let (ends, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("stream".to_owned()).spawn(move || {
            thread.block_on(replicated);
            drop(ends);
        })?;
        // It sends nothing, but that it is gone.
        let replicator = tokio::spawn(async move { drop(ended.await) });
        Ok((Hub { shared }, replicator))
    }

    /// The plan that serves at the moment.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.shared.generation().plan)
    }

    /// Joins the view of a user, and is told of the mutations of a client. The first rows are not older
    /// than `not_before`.
    ///
    /// # Errors
    /// When the hub has stopped.
    pub async fn open(
        &self,
        author: &Author,
        client: &str,
        not_before: Lsn,
    ) -> Result<Subscription, HubError> {
        let shared = &self.shared;
        loop {
            let generation = shared.generation();
            let claims = generation.plan.resolve_claims(&author.user_id, &author.claims);
            let place = FxBuildHasher.hash_one(&claims) as usize % generation.engines.len();
            let engine = &generation.engines[place];
            let session = SessionId(shared.next_session.fetch_add(1, Ordering::Relaxed));
            let limit = shared.options.outbox_bytes;
            let outbox = Arc::new(Outbox::new(Arc::clone(&generation.plan), limit));
            let client = Some(client.into());
            let opening = Opening { session, claims, client, not_before };
            let open = Command::Open(opening, Arc::clone(&outbox));
            if engine.commands.send(open).await.is_ok() {
                shared.sessions.fetch_add(1, Ordering::Relaxed);
                let closes = engine.closes.clone();
                return Ok(Subscription { session, outbox, closes, shared: Arc::clone(shared) });
            }
            if shared.stop.is_cancelled() {
                return Err(HubError::Stopped);
            }
            // Another generation has begun, or is about to.
            tokio::task::yield_now().await;
        }
    }

    /// How the hub is doing.
    pub fn health(&self) -> Health {
        let status = self.shared.status.borrow().clone();
        let failing = self.shared.generation().load_failing.borrow().clone();
        let (ready, detail) = match (status, failing) {
            (Status::Waiting(reason), _) | (Status::Streaming, Some(reason)) => (false, reason),
            (Status::Starting, _) => (false, "catching up with the stream".to_owned()),
            (Status::Streaming, None) => (true, "streaming".to_owned()),
        };
        Health {
            ready,
            detail,
            position: self.shared.generation().position().to_string(),
            load_queries: self.shared.load_queries.load(Ordering::Relaxed),
            sessions: self.shared.sessions.load(Ordering::Relaxed),
            refused_tables: self.shared.generation().refused.clone(),
        }
    }

    /// Waits until the stream has caught up. Cancel safe.
    pub async fn wait_until_ready(&self) {
        let mut status = self.shared.status.subscribe();
        // The sender lives as long as we do.
        drop(status.wait_for(|status| *status == Status::Streaming).await);
    }

    /// How much the engines hold together.
    pub async fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for engine in &self.shared.generation().engines {
            let (reply, counts) = oneshot::channel();
            if engine.commands.send(Command::Counts(reply)).await.is_ok()
                && let Ok(counts) = counts.await
            {
                sum.sessions += counts.sessions;
                sum.views += counts.views;
                sum.topics += counts.topics;
                sum.loading += counts.loading;
            }
        }
        sum
    }

    /// Ends the stream and the engines. Sessions are told `restarting`.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.generation.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_status(&self, status: Status) {
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }

    /// Begins another generation; `false` if the tables still have the shape that this one was
    /// compiled for and `force` does not ask for it all the same.
    async fn renew(&self, force: bool) -> Result<bool, HubError> {
        let old = self.generation();
        let unless = (!force).then(|| Arc::clone(&old.plan));
        let begun =
            Generation::begin(&self.options, &self.runtime, &self.load_queries, &self.stop, unless)
                .await;
        let next = match begun {
            Ok(next) => next,
            Err(HubError::Stopped) => return Ok(false),
            Err(error) => return Err(error),
        };
        *self.generation.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        old.stop.cancel();
        Ok(true)
    }
}

impl Generation {
    /// What all engines have taken in.
    fn position(&self) -> Lsn {
        self.engines.iter().map(EngineHandle::position).min().unwrap_or_default()
    }

    /// `unless` is a plan that is still good if the tables have the shape it was compiled for; then
    /// the answer is [`HubError::Stopped`].
    async fn begin(
        options: &HubOptions,
        runtime: &Handle,
        load_queries: &Arc<AtomicU64>,
        stop: &CancellationToken,
        unless: Option<Arc<Plan>>,
    ) -> Result<Generation, HubError> {
        let client = connect(&options.database, "catalog").await?;
        let catalog = read_catalog(&client, &options.definition.tables()).await?;
        let (mut plan, refused) = compile_partly(&options.definition, &catalog);
        if let Some(old) = unless {
            let shape = |plan: &Plan| -> Vec<_> {
                plan.tables.iter().map(|table| table.catalog.clone()).collect()
            };
            if shape(&old) == shape(&plan) {
                return Err(HubError::Stopped);
            }
        }
        for (table, error) in &refused {
            let problems: Vec<String> =
                error.problems.iter().map(|problem| problem.message.clone()).collect();
            tracing::error!(table, problems = problems.join("; "), "a table is not served");
        }
        for (table, problems) in prepare_rules(&client, &mut plan).await? {
            let problems: Vec<String> =
                problems.iter().map(|problem| problem.message.clone()).collect();
            tracing::error!(table, problems = problems.join("; "), "a table cannot be written");
        }
        let plan = Arc::new(plan);
        // Random, so that no cursor of another run is ever taken for one of this.
        let epoch = Epoch(rand::random());
        let stop = stop.child_token();
        let schema_changed = Arc::new(Notify::new());
        // Each engine has one load under way.
        let (loads, requests) = mpsc::channel(options.engines.max(1));
        let mut engines = Vec::new();
        for index in 0..options.engines.max(1) {
            let name = format!("engine-{index}");
            let plan = Arc::clone(&plan);
            let (loads, stop) = (loads.clone(), stop.clone());
            engines.push(engine_thread::start(name, plan, epoch, Lsn(0), loads, stop)?);
        }
        let (failing, load_failing) = watch::channel(None);
        let loader = loader_task::run(
            Loader::new(options.database.clone()),
            Arc::clone(&plan),
            requests,
            Arc::clone(&schema_changed),
            Arc::clone(load_queries),
            failing,
        );
        let stopped = stop.clone();
        runtime.spawn(async move { stopped.run_until_cancelled(loader).await });
        let refused = refused.into_iter().map(|(table, _)| table).collect();
        Ok(Generation { plan, engines, refused, schema_changed, load_failing, stop })
    }
}

/// Why sessions are closed when a generation ends.
const RESTARTING: (ErrorCode, &str) = (ErrorCode::Restarting, "the server is starting anew");
