//! The loads of all engines, over a bounded number of connections. Requests that wait are merged into one load, each
//! topic once, so engines that need the same rows share them; while Postgres is away a load is tried again
//! until it succeeds. A table that cannot be read keeps only those waiting who need it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use rowtide_engine::{Load, Loaded, TopicRows};
use rowtide_feed::Feed;
use rowtide_plan::map::SeededMap;
use rowtide_plan::plan::{BranchId, Plan};
use rowtide_plan::row::Topic;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_postgres::load::{LoadError, LoadedTopics, Loader};
use rowtide_postgres::said_once::SaidOnce;
use rowtide_postgres::table_trouble::TableTrouble;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The longest wait between two tries.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// What is done with the answer to a load; `None` if it will not come.
type Answer = Box<dyn FnOnce(Option<Loaded>) + Send>;

/// A load of one engine. If it is dropped without rows, the engine is told.
struct Request {
    load: Load,
    answer: Option<Answer>,
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            answer(None);
        }
    }
}

/// Where engines of one generation ask for rows. Cheap to clone; what it asks for is given up with the generation.
#[derive(Clone)]
pub(crate) struct Loads {
    /// Each engine has one load under way, which bounds it.
    requests: mpsc::UnboundedSender<Request>,
    /// Why the load under way does not succeed.
    failing: watch::Receiver<Option<String>>,
    runtime: Handle,
}

impl Loads {
    /// Starts `connections` loaders; they end with `stop`. Where a load shows that the tables have no longer
    /// the plan's shape, the feed is asked to look.
    pub(crate) fn start(
        database: &ConnectOptions,
        connections: usize,
        counts: &Arc<LoadCounts>,
        feed: &Feed,
        stop: &CancellationToken,
    ) -> Loads {
        let (requests, asked) = mpsc::unbounded_channel();
        let (says, failing) = watch::channel(None);
        let asked = Arc::new(Mutex::new(asked));
        let runtime = Handle::current();
        for _ in 0..connections.max(1) {
            let task = LoaderTask {
                loader: Loader::new(database.clone()),
                requests: Arc::clone(&asked),
                feed: feed.clone(),
                counts: Arc::clone(counts),
                failing: says.clone(),
            };
            let stopped = stop.clone();
            runtime.spawn(async move { stopped.run_until_cancelled(task.run()).await });
        }
        Loads { requests, failing, runtime }
    }

    /// Asks for a load. The answer is called once, from another thread.
    pub(crate) fn ask(&self, load: Load, answer: Answer) {
        // Without loaders the request is dropped, which answers it.
        drop(self.requests.send(Request { load, answer: Some(answer) }));
    }

    /// Why the load under way does not succeed.
    pub(crate) fn failing(&self) -> Option<String> {
        self.failing.borrow().clone()
    }

    /// Where the loaders run.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

/// What loads have read since the start.
#[derive(Default)]
pub(crate) struct LoadCounts {
    /// `SELECT`s of rows.
    pub(crate) queries: AtomicU64,
    pub(crate) rows: AtomicU64,
    /// Tables that could not be read by the last load that wanted to.
    unreadable: StdMutex<BTreeSet<String>>,
}

impl LoadCounts {
    pub(crate) fn unreadable(&self) -> Vec<String> {
        self.lock().iter().cloned().collect()
    }

    /// Other tables are loaded now, or the same ones anew.
    pub(crate) fn clear_unreadable(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Whole between any two statements that hold it.
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what has become of the tables that a load wanted to read, where that is news.
    fn note_unreadable(&self, plan: &Plan, topics: &[Topic], failed: &BTreeMap<String, LoadError>) {
        let mut unreadable = self.lock();
        if unreadable.is_empty() && failed.is_empty() {
            return;
        }
        let branches: BTreeSet<BranchId> = topics.iter().map(|topic| topic.branch).collect();
        for branch in branches {
            let table = &plan.table(plan.branch(branch).table).name;
            if !failed.contains_key(table) && unreadable.remove(table) {
                tracing::info!(table, "the table can be read again");
            }
        }
        for (table, error) in failed {
            if unreadable.insert(table.clone()) {
                tracing::error!(table, %error, "a table cannot be read; whoever sees it waits");
            }
        }
    }
}

struct LoaderTask {
    loader: Loader,
    requests: Arc<Mutex<mpsc::UnboundedReceiver<Request>>>,
    feed: Feed,
    counts: Arc<LoadCounts>,
    failing: watch::Sender<Option<String>>,
}

impl LoaderTask {
    async fn run(self) {
        let LoaderTask { mut loader, requests, feed, counts, failing } = self;
        let mut said = SaidOnce::default();
        let mut other: Option<Request> = None;
        loop {
            let mut waiting = requests.lock().await;
            let first = match other.take() {
                Some(request) => request,
                None => match waiting.recv().await {
                    Some(request) => request,
                    None => return,
                },
            };
            let plan = Arc::clone(&first.load.plan);
            let mut merged = vec![first];
            while other.is_none()
                && let Ok(next) = waiting.try_recv()
            {
                // While the plan is extended some engines are behind.
                match Arc::ptr_eq(&next.load.plan, &plan) {
                    true => merged.push(next),
                    false => other = Some(next),
                }
            }
            drop(waiting);
            let mut topics: Vec<Topic> = Vec::new();
            let mut before: Vec<TopicRows> = Vec::new();
            let mut most: Vec<Option<usize>> = Vec::new();
            let mut places: SeededMap<Topic, usize> = SeededMap::default();
            let loads = merged.iter_mut().map(|request| &mut request.load);
            let all = loads
                .flat_map(|load| load.topics.iter().zip(load.before.drain(..)).zip(&load.most));
            for ((topic, rows), wanted) in all {
                let place = *places.or_insert_with(topic.clone(), || {
                    topics.push(topic.clone());
                    before.push(rows);
                    most.push(None);
                    topics.len() - 1
                });
                most[place] = most[place].max(*wanted);
            }
            let commit_behind = merged.iter().filter_map(|of| of.load.commit_behind_us).min();
            let mut backoff = Duration::from_millis(100);
            let loaded = loop {
                match load(&mut loader, commit_behind, &plan, &topics, &before, &most).await {
                    Ok(loaded) => break loaded,
                    Err(error) => {
                        let why = error.to_string();
                        if said.is_new(&why) {
                            tracing::warn!(%error, "a load failed; it is tried again until it succeeds");
                        }
                        failing.send_replace(Some(why));
                    }
                }
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            };
            let mut troubles = loaded.failed.values().filter_map(LoadError::trouble);
            if troubles.any(TableTrouble::asks_for_a_look) {
                // What follows from it comes over the feed.
                feed.look();
            }
            failing.send_if_modified(|failing| failing.take().is_some());
            said.clear();
            counts.note_unreadable(&plan, &topics, &loaded.failed);
            counts.queries.fetch_add(loaded.queries, Ordering::Relaxed);
            let rows: usize = loaded.topics.rows.iter().flatten().map(TopicRows::len).sum();
            counts.rows.fetch_add(rows as u64, Ordering::Relaxed);
            let loaded = loaded.topics;
            for mut request in merged {
                let rows = request
                    .load
                    .topics
                    .iter()
                    .map(|topic| loaded.rows[*places.get(topic)?].clone());
                let answer = Loaded {
                    snapshot: loaded.snapshot.clone(),
                    position: loaded.position,
                    rows: rows.collect(),
                };
                if let Some(told) = request.answer.take() {
                    told(Some(answer));
                }
            }
        }
    }
}

/// A load, and before it the commit that it may ask for.
async fn load(
    loader: &mut Loader,
    commit_behind_us: Option<i64>,
    plan: &Plan,
    topics: &[Topic],
    before: &[TopicRows],
    most: &[Option<usize>],
) -> Result<LoadedTopics, LoadError> {
    if let Some(us) = commit_behind_us {
        loader.commit_behind(us).await?;
    }
    loader.load(plan, topics, before, most).await
}
