//! What an operator can see: counters, gauges and histograms for Prometheus at `/metrics`. Every name
//! stands here with its unit. Nothing waits for telemetry, and nothing of it can fail a request. What
//! Postgres knows of the slot is asked for now and then, and is warned of before it hurts.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::Duration;

use metrics::gauge;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rowtide_access::Documents;
use rowtide_feed::Feed;
use rowtide_gateway::Gateway;
use rowtide_postgres::connect::{ConnectOptions, Names, connect};
use rowtide_postgres::slot::{SlotHealth, slot_health};
use rowtide_protocol::Lsn;
use rowtide_replicator::ReplicatorHandle;
use rowtide_replicator::limits::RING_BYTES;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::limits::{
    MUTATION_QUEUE_BYTES, RETAINED_WAL_ERROR_BYTES, RETAINED_WAL_WARNING_BYTES, SLOT_WATCH,
};
use crate::metric_help::describe;

/// What is looked at.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) feed: Feed,
    pub(crate) gateway: Gateway,
    /// Live documents, if the definition has some.
    pub(crate) documents: Option<Documents>,
    pub(crate) replicator: ReplicatorHandle,
    /// How large the log may become, in bytes.
    pub(crate) log_limit: u64,
}

impl Watched {
    pub(crate) fn health(&self) -> Health {
        Health::of(&self.feed, &self.gateway, self.documents.as_ref())
    }
}

/// Upper bounds of the histograms' buckets, in seconds.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 5.0, 30.0];

/// 1 if new sessions would be served with rows that are up to date.
const READY: &str = "rowtide_ready";
/// How far that is behind the end of WAL, in bytes.
const LAG_BYTES: &str = "rowtide_replication_lag_bytes";
/// How long ago WAL ended where the position is now, in seconds.
const LAG_SECONDS: &str = "rowtide_replication_lag_seconds";
/// WAL that Postgres keeps for the slot, in bytes.
const RETAINED: &str = "rowtide_slot_retained_wal_bytes";
/// 1 for the slot's `status`: `reserved`, `extended`, `unreserved`, `lost`, `missing`.
const SLOT: &str = "rowtide_slot_status";
/// The size of the log on disk, in bytes.
const LOG_BYTES: &str = "rowtide_log_bytes";
/// The LSN before which cursors cannot be resumed, as a number.
const LOG_OLDEST: &str = "rowtide_log_oldest_lsn";
/// The LSN up to which the log is durable, as a number.
const LOG_END: &str = "rowtide_log_end_lsn";
/// What is on its way from the stream to engines and log, in bytes.
const STREAM_BYTES: &str = "rowtide_stream_bytes";
/// 1 while the log cannot be written.
const LOG_FAILING: &str = "rowtide_log_failing";
/// Tables of the definition that are not served.
const REJECTED_TABLES: &str = "rowtide_refused_tables";

/// The recorder of this process, or a handle that renders nothing if another library has taken its
/// place.
pub(crate) fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let builder = PrometheusBuilder::new();
            let recorder = match builder.set_buckets(&SECONDS) {
                Ok(builder) => builder.build_recorder(),
                Err(_) => PrometheusBuilder::new().build_recorder(),
            };
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("metrics are taken by another recorder; /metrics shows none");
            }
            describe();
            handle
        })
        .clone()
}

/// What is read when it is asked for. Waits for no engine.
pub(crate) fn render(handle: &PrometheusHandle, watched: &Watched) -> String {
    let health = watched.health();
    watched.gateway.update_metrics();
    watched.documents.iter().for_each(Documents::update_metrics);
    gauge!(READY).set(if health.ready { 1.0 } else { 0.0 });
    gauge!(STREAM_BYTES).set(watched.feed.volatile_bytes() as f64);
    if let Some(log) = watched.replicator.log_statistics() {
        gauge!(LOG_BYTES).set(log.bytes as f64);
        gauge!(LOG_OLDEST).set(log.oldest.0 as f64);
        gauge!(LOG_END).set(log.end.0 as f64);
        let failing = watched.feed.state().log_failing.is_some();
        gauge!(LOG_FAILING).set(if failing { 1.0 } else { 0.0 });
    }
    gauge!(REJECTED_TABLES).set(health.rejected_tables.len() as f64);
    handle.run_upkeep();
    handle.render()
}

/// Looks at the slot and at what fills, until `stop`.
pub(crate) async fn watch(
    database: ConnectOptions,
    names: Names,
    watched: Watched,
    stop: CancellationToken,
) {
    stop.run_until_cancelled(async {
        let mut client = None;
        let mut ends = VecDeque::new();
        let mut near = Near::default();
        loop {
            near.look(&watched);
            let look = look(&database, &names, &watched.gateway, &mut client, &mut ends);
            // What fills is looked at again also while Postgres does not answer.
            if tokio::time::timeout(SLOT_WATCH, look).await.is_err() {
                client = None;
            }
            tokio::time::sleep(SLOT_WATCH).await;
        }
    })
    .await;
}

/// Which limits of the whole server are near.
#[derive(Default)]
struct Near {
    log: bool,
    stream: bool,
    mutations: bool,
}

impl Near {
    fn look(&mut self, watched: &Watched) {
        if let Some(log) = watched.replicator.log_statistics() {
            let what = "the log is nearly as large as it may become; beyond that the oldest goes before its \
                        time, and clients that were away for longer get snapshots";
            warn_once(&mut self.log, log.bytes, watched.log_limit, what);
        }
        let what = "the log is behind; the stream soon waits for it, and WAL piles up in Postgres";
        warn_once(&mut self.stream, watched.feed.volatile_bytes() as u64, RING_BYTES as u64, what);
        let what = "very many mutations wait for Postgres; soon clients are sent away with theirs";
        let waiting = watched.gateway.waiting_mutation_bytes() as u64;
        warn_once(&mut self.mutations, waiting, MUTATION_QUEUE_BYTES as u64, what);
    }
}

/// Says that a limit is near when it comes near, and not again before it was farther.
fn warn_once(near: &mut bool, bytes: u64, limit: u64, what: &str) {
    let is_near = bytes > limit / 10 * 9;
    if is_near && !*near {
        tracing::warn!(bytes, limit, "{what}");
    }
    *near = is_near;
}

async fn look(
    database: &ConnectOptions,
    names: &Names,
    gateway: &Gateway,
    client: &mut Option<Client>,
    ends: &mut VecDeque<(Lsn, Instant)>,
) {
    if client.as_ref().is_none_or(Client::is_closed) {
        *client = connect(database, "slot watch").await.ok();
    }
    let Some(connection) = client else { return };
    match slot_health(connection, &names.slot).await {
        Ok(health) => note(&names.slot, health, gateway, ends),
        Err(error) => {
            tracing::debug!(%error, "the slot cannot be looked at");
            *client = None;
        }
    }
}

/// `ends` is where WAL ended, and when, for all that lies after the position.
fn note(
    slot: &str,
    health: Option<SlotHealth>,
    gateway: &Gateway,
    ends: &mut VecDeque<(Lsn, Instant)>,
) {
    let status = health.as_ref().map_or("missing", |health| health.status.as_str());
    for known in ["reserved", "extended", "unreserved", "lost", "missing"] {
        gauge!(SLOT, "status" => known).set(if status == known { 1.0 } else { 0.0 });
    }
    let Some(SlotHealth { retained_bytes, end_of_wal, .. }) = health else { return };
    gauge!(RETAINED).set(retained_bytes as f64);
    if retained_bytes > RETAINED_WAL_ERROR_BYTES {
        tracing::error!(
            slot,
            retained_bytes,
            "Postgres keeps very much WAL for the slot and may run out of disk; if this server is not \
             catching up, drop the slot: the server makes a new one, and clients get new snapshots"
        );
    } else if retained_bytes > RETAINED_WAL_WARNING_BYTES {
        tracing::warn!(slot, retained_bytes, "WAL piles up behind the slot");
    }
    // Without one the stream has not begun.
    let Some(position) = gateway.health().position else { return };
    ends.push_back((end_of_wal, Instant::now()));
    while ends.front().is_some_and(|(end, _)| *end <= position) {
        ends.pop_front();
    }
    // A stall of days is told as one of a few hours: enough to act upon.
    if ends.len() > 10_000 {
        ends.pop_back();
    }
    let late = ends.front().map_or(Duration::ZERO, |(_, since)| since.elapsed());
    gauge!(LAG_BYTES).set(end_of_wal.0.saturating_sub(position.0) as f64);
    gauge!(LAG_SECONDS).set(late.as_secs_f64());
}
