//! The hub joins the stream, the log, the loads and the engines, and hands every session the frames of its
//! view. It is the only place where they meet: engines run on threads of their own, one task runs
//! loads, one task, the replicator, owns the stream and the log. A generation is engines that go on from the
//! log; when a table changes its shape, or the slot is lost, another one begins, with another epoch.

mod engine_thread;
mod frames;
mod garbage;
mod loader_task;
mod log_threads;
mod outbox;
mod replicator;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rowtide_engine::{Counts, Engine, Opening, SessionId};
use rowtide_feed::Transaction;
use rowtide_log::{Began, HistoryError, Identity, Log, LogError, LogOptions, LogReader, Opened};
use rowtide_plan::compile::compile_partly;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::Plan;
use rowtide_postgres::catalog::read_catalog;
use rowtide_postgres::connect::{ConnectError, ConnectOptions, Names, connect};
use rowtide_postgres::load::Loader;
use rowtide_postgres::mutate::Author;
use rowtide_postgres::rules::prepare_rules;
use rowtide_postgres::slot::system_identity;
use rowtide_postgres::stream::Instance;
use rowtide_postgres::wal::end_of_wal;
use rowtide_protocol::{Cursor, Epoch, ErrorCode, Lsn};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::engine_thread::{Arriving, Command, EngineHandle};
use self::garbage::Garbage;
use self::loader_task::LoadCounts;
use self::log_threads::{LogStatus, LogThreads};
use self::outbox::Outbox;
use self::replicator::{PERMIT_BYTES, PERMITS, Replicator};

use crate::limits::GENERATION_LOOK;

pub use self::outbox::{Delivery, Messages, Step};

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
    /// Where the history is kept, and how much of it.
    pub log: LogOptions,
    /// How many bytes of rows the engines try to hold at the most, together.
    pub row_bytes: usize,
    /// How many connections run loads; at least one.
    pub load_connections: usize,
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
    /// The log cannot be used.
    #[error("cannot use the log: {0}")]
    Log(#[from] LogError),
    /// The log cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// Another server has the slot or the log.
    #[error("this server stands by: {0}")]
    Standby(String),
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
    /// The log can bring clients up to date from this LSN on.
    pub oldest: String,
    /// How many `SELECT`s of rows the loads have run since the start.
    pub load_queries: u64,
    /// How many rows these have read.
    pub loaded_rows: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Tables of the definition that are not served, because they no longer fit their rules.
    pub refused_tables: Vec<String>,
    /// Tables that could not be read by the last load that wanted to; who sees their rows waits.
    pub unreadable_tables: Vec<String>,
}

/// Plan and engines that belong together.
struct Generation {
    plan: Arc<Plan>,
    engines: Vec<EngineHandle>,
    /// Told by the loader when the tables do not have the plan's shape.
    schema_changed: Arc<Notify>,
    /// Why the load under way does not succeed.
    load_failing: watch::Receiver<Option<String>>,
    stop: CancellationToken,
}

/// What the definition comes to with the tables as they are.
struct Compiled {
    plan: Arc<Plan>,
    /// Where WAL ended when the tables were looked at: what was committed before and can be seen, every
    /// load of the plan sees.
    as_of: Lsn,
    refused: Vec<String>,
}

struct Shared {
    options: HubOptions,
    /// Where sessions and loads run.
    runtime: Handle,
    compiled: RwLock<Arc<Compiled>>,
    /// None before the log and the slot are ours.
    generation: RwLock<Option<Arc<Generation>>>,
    log: RwLock<Option<(watch::Receiver<LogStatus>, LogReader)>>,
    /// The memory of what is on its way from the stream, in units of [`PERMIT_BYTES`].
    budget: Arc<Semaphore>,
    status: watch::Sender<Status>,
    next_session: AtomicU64,
    sessions: AtomicU64,
    load_counts: Arc<LoadCounts>,
    stop: CancellationToken,
}

/// How the stream is doing.
#[derive(Clone, Debug, PartialEq)]
enum Status {
    Starting,
    /// Another server has the place.
    Standby(String),
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
    /// When the catalog or the log cannot be read.
    pub async fn start(options: HubOptions) -> Result<(Hub, JoinHandle<()>), HubError> {
        let client = connect(&options.database, "catalog").await?;
        let compiled = compile(&client, &options.definition).await?;
        let system = system_identity(&client).await?;
        let identity = Identity {
            plan: compiled.plan.fingerprint(),
            system: system.cluster,
            database: system.database,
            timeline: system.timeline,
            slot: options.names.slot.clone(),
        };
        drop(client);
        let shared = Arc::new(Shared {
            options,
            runtime: Handle::current(),
            compiled: RwLock::new(Arc::new(compiled)),
            generation: RwLock::default(),
            log: RwLock::default(),
            budget: Arc::new(Semaphore::new(PERMITS)),
            status: watch::channel(Status::Starting).0,
            next_session: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            load_counts: Arc::default(),
            stop: CancellationToken::new(),
        });
        let (log, broken) = shared.open_log(&identity)?.unzip();
        let replicator = Replicator {
            shared: Arc::clone(&shared),
            log,
            identity,
            instance: Instance(rand::random()),
            broken: broken.flatten(),
            read_since: Lsn(0),
        };
        // On a thread of its own socket, decoder and hand-over to the engines take turns without
        // waking one another across cores.
        let thread = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ends, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("stream".to_owned()).spawn(move || {
            thread.block_on(replicator.run());
            drop(ends);
        })?;
        // It sends nothing, but that it is gone.
        let replicator = tokio::spawn(async move { drop(ended.await) });
        Ok((Hub { shared }, replicator))
    }

    /// The plan that serves at the moment.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.shared.compiled().plan)
    }

    /// Joins the view of a user, and is told of the mutations of a client, which knows every outcome up to
    /// `told` if it numbers them. The rows are not older than `not_before`. With a cursor that is still good
    /// only what has changed since is sent.
    ///
    /// # Errors
    /// When the hub has stopped, or another server has its place.
    pub async fn open(
        &self,
        author: &Author,
        client: &str,
        told: Option<u64>,
        not_before: Option<Lsn>,
        cursor: Option<Cursor>,
    ) -> Result<Subscription, HubError> {
        let shared = &self.shared;
        loop {
            let generation = self.serving().await?;
            let claims = generation.plan.resolve_claims(&author.user_id, &author.claims);
            let place = claims.view_id().0 as usize % generation.engines.len();
            let engine = &generation.engines[place];
            let session = SessionId(shared.next_session.fetch_add(1, Ordering::Relaxed));
            let limit = shared.options.outbox_bytes;
            let outbox = Arc::new(Outbox::new(Arc::clone(&generation.plan), limit, told));
            let client = Some(client.into());
            let opening = Opening { session, claims, client, not_before, cursor };
            let open = Command::Open(opening, Arriving::new(Arc::clone(&outbox)));
            if engine.commands.send(open).await.is_ok() {
                shared.sessions.fetch_add(1, Ordering::Relaxed);
                let closes = engine.closes.clone();
                return Ok(Subscription { session, outbox, closes, shared: Arc::clone(shared) });
            }
            // Another generation has begun, or is about to.
            tokio::time::sleep(GENERATION_LOOK).await;
        }
    }

    /// The generation, once there is one.
    async fn serving(&self) -> Result<Arc<Generation>, HubError> {
        let shared = &self.shared;
        let mut status = shared.status.subscribe();
        loop {
            if shared.stop.is_cancelled() {
                return Err(HubError::Stopped);
            }
            if let Some(generation) = shared.generation() {
                return Ok(generation);
            }
            if let Status::Standby(why) = &*status.borrow_and_update() {
                return Err(HubError::Standby(why.clone()));
            }
            let changed = shared.stop.run_until_cancelled(status.changed()).await;
            if !matches!(changed, Some(Ok(()))) {
                return Err(HubError::Stopped);
            }
        }
    }

    /// How the hub is doing.
    pub fn health(&self) -> Health {
        let status = self.shared.status.borrow().clone();
        let generation = self.shared.generation();
        let log = self.log_status();
        let failing = generation.as_ref().and_then(|g| g.load_failing.borrow().clone());
        let failing = log.as_ref().and_then(|log| log.failing.clone()).or(failing);
        let (ready, detail) = match (status, failing) {
            (Status::Standby(reason) | Status::Waiting(reason), _)
            | (Status::Streaming, Some(reason)) => (false, reason),
            (Status::Starting, _) => (false, "catching up with the stream".to_owned()),
            (Status::Streaming, None) => (true, "streaming".to_owned()),
        };
        Health {
            ready,
            detail,
            position: generation.map_or(Lsn(0), |g| g.position()).to_string(),
            oldest: log.map_or(Lsn(0), |log| log.oldest).to_string(),
            load_queries: self.shared.load_counts.queries.load(Ordering::Relaxed),
            loaded_rows: self.shared.load_counts.rows.load(Ordering::Relaxed),
            sessions: self.shared.sessions.load(Ordering::Relaxed),
            refused_tables: self.shared.compiled().refused.clone(),
            unreadable_tables: self.shared.load_counts.unreadable(),
        }
    }

    fn log_status(&self) -> Option<LogStatus> {
        let log = self.shared.log.read().unwrap_or_else(PoisonError::into_inner);
        log.as_ref().map(|(status, _)| status.borrow().clone())
    }

    /// What is on its way from the stream to engines and log, in bytes.
    pub(crate) fn stream_bytes(&self) -> usize {
        (PERMITS - self.shared.budget.available_permits()) * PERMIT_BYTES
    }

    /// How large the log may become, in bytes.
    pub(crate) fn log_limit(&self) -> u64 {
        self.shared.options.log.max_bytes
    }

    /// What the log holds, once it is ours: its statistics, and whether it can be written.
    pub(crate) fn log_statistics(&self) -> Option<(rowtide_log::Statistics, bool)> {
        let failing = self.log_status()?.failing.is_some();
        let log = self.shared.log.read().unwrap_or_else(PoisonError::into_inner);
        let reader = log.as_ref().map(|(_, reader)| reader.clone());
        drop(log);
        Some((reader?.statistics().ok()?, failing))
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
        for engine in self.shared.generation().iter().flat_map(|generation| &generation.engines) {
            let (reply, counts) = oneshot::channel();
            if engine.commands.send(Command::Counts(reply)).await.is_ok()
                && let Ok(counts) = counts.await
            {
                sum.sessions += counts.sessions;
                sum.views += counts.views;
                sum.topics += counts.topics;
                sum.loading += counts.loading;
                sum.row_bytes += counts.row_bytes;
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
    fn generation(&self) -> Option<Arc<Generation>> {
        self.generation.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace_generation(&self, next: Option<Arc<Generation>>) -> Option<Arc<Generation>> {
        let mut generation = self.generation.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut generation, next)
    }

    fn compiled(&self) -> Arc<Compiled> {
        Arc::clone(&self.compiled.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn show_log(&self, log: Option<&LogThreads>) {
        let log = log.map(|log| (log.watch(), log.reader().clone()));
        *self.log.write().unwrap_or_else(PoisonError::into_inner) = log;
    }

    /// Whether that is news.
    fn set_status(&self, status: Status) -> bool {
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        })
    }

    /// What the log's records are of, with the plan that serves now.
    fn identity(&self, before: &Identity) -> Identity {
        Identity { plan: self.compiled().plan.fingerprint(), ..before.clone() }
    }

    /// The log, and why the stream cannot be its continuation if it is a new one; `None` when another server
    /// has it.
    fn open_log(
        &self,
        identity: &Identity,
    ) -> Result<Option<(LogThreads, Option<&'static str>)>, HubError> {
        let Opened { log, reader, began } =
            match Log::open(self.options.log.clone(), identity.clone()) {
                Ok(opened) => opened,
                Err(LogError::Locked(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        let broken = match began {
            Began::Continued => {
                tracing::info!(end = %log.end(), "the log goes on");
                None
            }
            Began::Shortened(reason) => {
                tracing::warn!(reason, end = %log.end(), "the log has lost its oldest part");
                None
            }
            Began::New => Some("new_log"),
            Began::Replaced(reason) => {
                tracing::warn!(reason, "the log could not be used; a new one begins");
                Some("log_replaced")
            }
        };
        let log = LogThreads::start(log, reader)?;
        self.show_log(Some(&log));
        Ok(Some((log, broken)))
    }

    /// Waits until there is memory for so much more of the stream.
    async fn reserve(&self, bytes: usize) -> Arc<OwnedSemaphorePermit> {
        let wanted = (bytes / PERMIT_BYTES + 1).min(PERMITS) as u32;
        match Arc::clone(&self.budget).acquire_many_owned(wanted).await {
            Ok(permit) => Arc::new(permit),
            Err(_) => unreachable!("the budget is never closed"),
        }
    }

    /// Compiles the definition again. Whether the tables have another shape than before.
    async fn compile_again(&self) -> Result<bool, HubError> {
        let client = connect(&self.options.database, "catalog").await?;
        let mut next = compile(&client, &self.options.definition).await?;
        let shape = |compiled: &Compiled| -> Vec<_> {
            compiled.plan.tables.iter().map(|table| table.catalog.clone()).collect()
        };
        let serving = self.compiled();
        let changed = shape(&serving) != shape(&next);
        if !changed {
            next.plan = Arc::clone(&serving.plan);
        }
        *self.compiled.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(changed)
    }

    /// Begins a generation whose engines have the stream up to `position`; the one before ends.
    fn begin(
        &self,
        log: &LogThreads,
        epoch: Epoch,
        position: Lsn,
        recent: &[Arc<Transaction>],
    ) -> Result<Arc<Generation>, HubError> {
        let generation = Arc::new(Generation::begin(self, log, epoch, position, recent)?);
        if let Some(before) = self.replace_generation(Some(Arc::clone(&generation))) {
            before.stop.cancel();
        }
        // Sessions wait for a generation, and this one is there.
        self.status.send_modify(|status| {
            if *status != Status::Streaming {
                *status = Status::Starting;
            }
        });
        Ok(generation)
    }
}

/// Compiles what of the definition fits the tables, and says what does not.
async fn compile(
    client: &tokio_postgres::Client,
    definition: &Definition,
) -> Result<Compiled, HubError> {
    let as_of = end_of_wal(client).await?;
    let catalog = read_catalog(client, &definition.tables()).await?;
    let (mut plan, refused) = compile_partly(definition, &catalog);
    for (table, error) in &refused {
        let problems: Vec<String> =
            error.problems.iter().map(|problem| problem.message.clone()).collect();
        tracing::error!(table, problems = problems.join("; "), "a table is not served");
    }
    for (table, problems) in prepare_rules(client, &mut plan).await? {
        let problems: Vec<String> =
            problems.iter().map(|problem| problem.message.clone()).collect();
        tracing::error!(table, problems = problems.join("; "), "a table cannot be written");
    }
    let refused = refused.into_iter().map(|(table, _)| table).collect();
    Ok(Compiled { plan: Arc::new(plan), as_of, refused })
}

impl Generation {
    /// What all engines have taken in.
    fn position(&self) -> Lsn {
        self.engines.iter().map(EngineHandle::position).min().unwrap_or_default()
    }

    fn begin(
        shared: &Shared,
        log: &LogThreads,
        epoch: Epoch,
        position: Lsn,
        recent: &[Arc<Transaction>],
    ) -> Result<Generation, HubError> {
        let options = &shared.options;
        let plan = Arc::clone(&shared.compiled().plan);
        let stop = shared.stop.child_token();
        let schema_changed = Arc::new(Notify::new());
        // Each engine has one load under way.
        let (loads, requests) = mpsc::channel(options.engines.max(1));
        let mut engines = Vec::new();
        let garbage = Garbage::start()?;
        for index in 0..options.engines.max(1) {
            let name = format!("engine-{index}");
            let budget = options.row_bytes / options.engines.max(1);
            let engine = Engine::new(Arc::clone(&plan), epoch, position, recent, budget);
            let (loads, questions) = (loads.clone(), log.questions.clone());
            engines.push(engine_thread::start(
                name,
                engine,
                loads,
                questions,
                garbage.clone(),
                stop.clone(),
            )?);
        }
        shared.load_counts.forget_unreadable();
        let (failing, load_failing) = watch::channel(None);
        let requests = Arc::new(tokio::sync::Mutex::new(requests));
        for _ in 0..options.load_connections.max(1) {
            let loader = loader_task::run(
                Loader::new(options.database.clone()),
                Arc::clone(&plan),
                Arc::clone(&requests),
                Arc::clone(&schema_changed),
                Arc::clone(&shared.load_counts),
                failing.clone(),
            );
            let stopped = stop.clone();
            shared.runtime.spawn(async move { stopped.run_until_cancelled(loader).await });
        }
        Ok(Generation { plan, engines, schema_changed, load_failing, stop })
    }
}

/// Why sessions are closed when a generation ends.
const RESTARTING: (ErrorCode, &str) = (ErrorCode::Restarting, "the server is starting anew");
