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
use tokio::sync::{Notify, mpsc, watch};

use super::engine_thread::{Command, LoadRequest};

/// The longest wait between two tries.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Runs loads until it is dropped. `schema_changed` is told when a load shows that the tables
/// no longer have the plan's shape; `queries` counts the `SELECT`s of rows; `failing` says why the
/// load under way does not succeed.
pub(super) async fn run(
    mut loader: Loader,
    plan: Arc<Plan>,
    mut requests: mpsc::Receiver<LoadRequest>,
    schema_changed: Arc<Notify>,
    queries: Arc<AtomicU64>,
    failing: watch::Sender<Option<String>>,
) {
    while let Some(first) = requests.recv().await {
        let mut merged = vec![first];
        while let Ok(next) = requests.try_recv() {
            merged.push(next);
        }
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
        queries.store(loader.queries(), Ordering::Relaxed);
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
