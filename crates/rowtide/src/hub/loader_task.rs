//! One task runs the loads of all engines. Requests that wait are merged into one load, each topic
//! once, so engines that need the same rows share them; while Postgres is away a load is tried again
//! until it succeeds. A table that cannot be read keeps only those waiting who need it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use rowtide_engine::{Loaded, TopicRows};
use rowtide_plan::plan::{BranchId, Plan};
use rowtide_plan::row::Topic;
use rowtide_postgres::load::{LoadError, Loader};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::{Mutex, Notify, mpsc, watch};

use super::engine_thread::{Command, LoadRequest};

/// The longest wait between two tries.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// What loads have read since the start.
#[derive(Default)]
pub(super) struct LoadCounts {
    /// `SELECT`s of rows.
    pub(super) queries: AtomicU64,
    pub(super) rows: AtomicU64,
    /// Tables that could not be read by the last load that wanted to.
    unreadable: StdMutex<BTreeSet<String>>,
}

impl LoadCounts {
    pub(super) fn unreadable(&self) -> Vec<String> {
        self.lock().iter().cloned().collect()
    }

    /// Other tables are loaded now, or the same ones anew.
    pub(super) fn forget_unreadable(&self) {
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
        let branches: FxHashSet<BranchId> = topics.iter().map(|topic| topic.branch).collect();
        for branch in branches {
            let table = &plan.table(plan.branch(branch).table).catalog.name;
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

/// Runs loads until it is dropped. `schema_changed` is told when a load shows that the tables
/// no longer have the plan's shape; `failing` says why the load under way does not succeed.
pub(super) async fn run(
    mut loader: Loader,
    plan: Arc<Plan>,
    requests: Arc<Mutex<mpsc::Receiver<LoadRequest>>>,
    schema_changed: Arc<Notify>,
    counts: Arc<LoadCounts>,
    failing: watch::Sender<Option<String>>,
) {
    loop {
        let mut waiting = requests.lock().await;
        let Some(first) = waiting.recv().await else { return };
        let mut merged = vec![first];
        while let Ok(next) = waiting.try_recv() {
            merged.push(next);
        }
        drop(waiting);
        let mut topics: Vec<Topic> = Vec::new();
        let mut before: Vec<TopicRows> = Vec::new();
        let mut places: FxHashMap<Topic, usize> = FxHashMap::default();
        let loads = merged.iter_mut().map(|request| &mut request.load);
        for (topic, rows) in loads.flat_map(|load| load.topics.iter().zip(load.before.drain(..))) {
            places.entry(topic.clone()).or_insert_with(|| {
                topics.push(topic.clone());
                before.push(rows);
                topics.len() - 1
            });
        }
        let mut backoff = Duration::from_millis(100);
        let loaded = loop {
            match loader.load(&plan, &topics, &before).await {
                Ok(loaded) => break loaded,
                Err(error) => {
                    failing.send_replace(Some(error.to_string()));
                    tracing::warn!(%error, topics = topics.len(), "a load failed; trying again");
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        };
        if loaded.failed.values().any(|error| matches!(error, LoadError::SchemaChanged { .. })) {
            schema_changed.notify_one();
        }
        failing.send_if_modified(|failing| failing.take().is_some());
        counts.note_unreadable(&plan, &topics, &loaded.failed);
        counts.queries.fetch_add(loaded.queries, Ordering::Relaxed);
        let rows: usize = loaded.topics.rows.iter().flatten().map(TopicRows::len).sum();
        counts.rows.fetch_add(rows as u64, Ordering::Relaxed);
        let loaded = loaded.topics;
        for request in merged {
            let rows = request.load.topics.iter().map(|topic| loaded.rows[places[topic]].clone());
            let answer = Loaded {
                snapshot: loaded.snapshot.clone(),
                position: loaded.position,
                rows: rows.collect(),
            };
            // An engine that has stopped does not wait for rows.
            drop(request.reply.send(Command::Loaded(request.load.id, answer)).await);
        }
    }
}
