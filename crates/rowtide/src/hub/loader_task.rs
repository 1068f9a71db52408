//! One task runs the loads of all engines. Requests that wait are merged into one load, each topic
//! once, so engines that need the same rows share them; while Postgres is away a load is tried again
//! until it succeeds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rowtide_engine::Loaded;
use rowtide_plan::plan::Plan;
use rowtide_plan::row::Topic;
use rowtide_postgres::load::{LoadError, Loader};
use rustc_hash::FxHashMap;
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
        let mut places: FxHashMap<Topic, usize> = FxHashMap::default();
        for topic in merged.iter().flat_map(|request| &request.load.topics) {
            places.entry(topic.clone()).or_insert_with(|| {
                topics.push(topic.clone());
                topics.len() - 1
            });
        }
        let mut backoff = Duration::from_millis(100);
        let loaded = loop {
            match loader.load(&plan, &topics).await {
                Ok(loaded) => break loaded,
                Err(error) => {
                    failing.send_replace(Some(error.to_string()));
                    tracing::warn!(%error, topics = topics.len(), "a load failed; trying again");
                    if matches!(error, LoadError::SchemaChanged { .. }) {
                        schema_changed.notify_one();
                    }
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        };
        failing.send_if_modified(|failing| failing.take().is_some());
        counts.queries.fetch_add(loaded.queries, Ordering::Relaxed);
        let rows: usize = loaded.topics.rows.iter().map(Vec::len).sum();
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
