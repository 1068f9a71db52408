//! What an operator can see: counters, gauges and histograms for Prometheus at `/metrics`. Every name
//! stands here with its unit. Nothing waits for telemetry, and nothing of it can fail a request. What
//! Postgres knows of the slot is asked for now and then, and is warned of before it hurts.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rowtide_postgres::connect::{ConnectOptions, Names, connect};
use rowtide_postgres::slot::{SlotHealth, slot_health};
use rowtide_protocol::{ErrorCode, Lsn};
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;
use crate::limits::{
    self, MUTATION_QUEUE_BYTES, RETAINED_WAL_ERROR_BYTES, RETAINED_WAL_WARNING_BYTES, SLOT_WATCH,
};
use crate::writer::Writer;

/// Upper bounds of the histograms' buckets, in seconds.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Connects that were answered, by `mode` (`snapshot`, `resume`) or refused, by code.
const CONNECTS: &str = "rowtide_connects_total";
/// Sessions that the server ended, by `code`.
const ENDINGS: &str = "rowtide_sessions_ended_total";
/// Mutations that were settled, by `outcome`: `applied`, `repeated`, or the code of the refusal.
const MUTATIONS: &str = "rowtide_mutations_total";
/// From a mutation's arrival until it was settled in Postgres.
const MUTATION_SECONDS: &str = "rowtide_mutation_seconds";
/// Mutations that wait or are being applied.
const MUTATIONS_WAITING: &str = "rowtide_mutations_waiting";
/// Tries of mutations that came to nothing, by `reason`: `conflict`, `away`.
const MUTATION_RETRIES: &str = "rowtide_mutation_retries_total";
/// Bytes of frames sent to clients.
const SENT_BYTES: &str = "rowtide_sent_bytes_total";
/// Rows for clients, in snapshots and as changes; a row counts once for each session.
const SENT_ROWS: &str = "rowtide_sent_rows_total";
/// Frames sent to clients.
const SENT_FRAMES: &str = "rowtide_sent_frames_total";
/// From Postgres' time of a commit until it was made into a frame for a client's socket.
const COMMIT_TO_SEND: &str = "rowtide_commit_to_send_seconds";
/// 1 if new sessions would be served with rows that are up to date.
const READY: &str = "rowtide_ready";
/// Open sessions.
const SESSIONS: &str = "rowtide_sessions";
/// Different sets of claims among them.
const VIEWS: &str = "rowtide_views";
/// Topics in use.
const TOPICS: &str = "rowtide_topics";
/// The JSON of rows that are held in memory, in bytes.
const ROW_BYTES: &str = "rowtide_row_bytes";
/// Topics that wait for a load or are part of one.
const TOPICS_LOADING: &str = "rowtide_topics_loading";
/// Queries that loaded rows.
const LOAD_QUERIES: &str = "rowtide_load_queries_total";
/// Rows that these have read.
const LOADED_ROWS: &str = "rowtide_loaded_rows_total";
/// The LSN up to which every commit has been taken in, as a number.
const POSITION: &str = "rowtide_position_lsn";
/// How far that is behind the end of WAL, in bytes.
const LAG_BYTES: &str = "rowtide_replication_lag_bytes";
/// How long ago WAL ended where the position is now, in seconds.
const LAG_SECONDS: &str = "rowtide_replication_lag_seconds";
/// WAL that Postgres keeps for the slot, in bytes.
const RETAINED: &str = "rowtide_slot_retained_wal_bytes";
/// 1 for the slot's `status`: `reserved`, `extended`, `unreserved`, `lost`, `missing`.
const SLOT: &str = "rowtide_slot_status";
/// Questions to the log for sessions that come back, by `result`: `read`, `interrupted`, `too_old`, `too_much`,
/// `failed`.
const HISTORIES: &str = "rowtide_histories_total";
/// How long a durable write of the log took.
const LOG_WRITE: &str = "rowtide_log_write_seconds";
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
/// Epochs that have begun, by `reason`.
const EPOCHS: &str = "rowtide_epochs_total";
/// Tables of the definition that are not served.
const REFUSED_TABLES: &str = "rowtide_refused_tables";
/// Tables that loads could not read.
const UNREADABLE_TABLES: &str = "rowtide_unreadable_tables";

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
            handle
        })
        .clone()
}

/// A connect was answered.
pub(crate) fn connected(mode: &'static str) {
    counter!(CONNECTS, "result" => mode).increment(1);
}

/// A connect was refused.
pub(crate) fn refused(code: ErrorCode) {
    counter!(CONNECTS, "result" => code.as_str()).increment(1);
}

/// The server ended a session.
pub(crate) fn ended(code: ErrorCode) {
    counter!(ENDINGS, "code" => code.as_str()).increment(1);
}

/// Counts a mutation that waits, for as long as it is held.
pub(crate) struct WaitingMutation(());

impl WaitingMutation {
    pub(crate) fn new() -> WaitingMutation {
        gauge!(MUTATIONS_WAITING).increment(1.0);
        WaitingMutation(())
    }
}

impl Drop for WaitingMutation {
    fn drop(&mut self) {
        gauge!(MUTATIONS_WAITING).decrement(1.0);
    }
}

/// Mutations were settled, `since` their arrival.
pub(crate) fn mutations_settled(outcome: &str, count: usize, since: Instant) {
    counter!(MUTATIONS, "outcome" => outcome.to_owned()).increment(count as u64);
    histogram!(MUTATION_SECONDS).record(since.elapsed().as_secs_f64());
}

/// A mutation is tried again.
pub(crate) fn mutation_retried(reason: &'static str) {
    counter!(MUTATION_RETRIES, "reason" => reason).increment(1);
}

/// Frames were written to a socket.
pub(crate) fn sent(frames: u64, bytes: u64) {
    counter!(SENT_FRAMES).increment(frames);
    counter!(SENT_BYTES).increment(bytes);
}

/// Rows are on their way to clients.
pub(crate) fn rows_sent(rows: u64) {
    if rows > 0 {
        counter!(SENT_ROWS).increment(rows);
    }
}

/// A commit is on its way to a client.
pub(crate) fn commit_sent(commit_time_us: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Postgres' clock may be ahead of ours.
    let late_us = (now.as_micros() as i64).saturating_sub(commit_time_us).max(0);
    histogram!(COMMIT_TO_SEND).record(late_us as f64 / 1e6);
}

/// The log was asked what a session has missed.
pub(crate) fn history(result: &'static str) {
    counter!(HISTORIES, "result" => result).increment(1);
}

/// A group of transactions is in the log.
pub(crate) fn logged(took: Duration) {
    histogram!(LOG_WRITE).record(took.as_secs_f64());
}

/// Nobody can resume from before.
pub(crate) fn epoch_began(reason: &'static str) {
    counter!(EPOCHS, "reason" => reason).increment(1);
}

/// What is read when it is asked for.
pub(crate) async fn render(handle: &PrometheusHandle, hub: &Hub) -> String {
    let health = hub.health();
    let counts = hub.counts().await;
    gauge!(READY).set(if health.ready { 1.0 } else { 0.0 });
    gauge!(SESSIONS).set(health.sessions as f64);
    gauge!(VIEWS).set(counts.views as f64);
    gauge!(TOPICS).set(counts.topics as f64);
    gauge!(ROW_BYTES).set(counts.row_bytes as f64);
    gauge!(TOPICS_LOADING).set(counts.loading as f64);
    counter!(LOAD_QUERIES).absolute(health.load_queries);
    counter!(LOADED_ROWS).absolute(health.loaded_rows);
    gauge!(STREAM_BYTES).set(hub.stream_bytes() as f64);
    if let Some((log, failing)) = hub.log_statistics() {
        gauge!(LOG_BYTES).set(log.bytes as f64);
        gauge!(LOG_OLDEST).set(log.oldest.0 as f64);
        gauge!(LOG_END).set(log.end.0 as f64);
        gauge!(LOG_FAILING).set(if failing { 1.0 } else { 0.0 });
    }
    gauge!(POSITION).set(health.position.parse::<Lsn>().map_or(0.0, |lsn| lsn.0 as f64));
    gauge!(REFUSED_TABLES).set(health.refused_tables.len() as f64);
    gauge!(UNREADABLE_TABLES).set(health.unreadable_tables.len() as f64);
    handle.run_upkeep();
    handle.render()
}

/// Looks at the slot and at what fills, until `stop`.
pub(crate) async fn watch(
    database: ConnectOptions,
    names: Names,
    hub: Hub,
    writer: Writer,
    stop: CancellationToken,
) {
    stop.run_until_cancelled(async {
        let mut client = None;
        let mut ends = VecDeque::new();
        let mut near = Near::default();
        loop {
            near.look(&hub, &writer);
            let look = look(&database, &names, &hub, &mut client, &mut ends);
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
    history: bool,
    stream: bool,
    mutations: bool,
}

impl Near {
    fn look(&mut self, hub: &Hub, writer: &Writer) {
        if let Some((log, _)) = hub.log_statistics() {
            let what = "the history is nearly as large as it may become; beyond that the oldest goes before its \
                        time, and clients that were away for longer get snapshots";
            warn_once(&mut self.history, log.bytes, hub.log_limit(), what);
        }
        let what = "engines or history are behind; the stream soon waits for them, and WAL piles up in Postgres";
        warn_once(&mut self.stream, hub.stream_bytes() as u64, limits::STREAM_BYTES as u64, what);
        let what = "very many mutations wait for Postgres; soon clients are sent away with theirs";
        let waiting = writer.waiting_bytes() as u64;
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
    hub: &Hub,
    client: &mut Option<Client>,
    ends: &mut VecDeque<(Lsn, Instant)>,
) {
    if client.as_ref().is_none_or(Client::is_closed) {
        *client = connect(database, "slot watch").await.ok();
    }
    let Some(connection) = client else { return };
    match slot_health(connection, &names.slot).await {
        Ok(health) => note(&names.slot, health, hub, ends),
        Err(error) => {
            tracing::debug!(%error, "the slot cannot be looked at");
            *client = None;
        }
    }
}

/// `ends` is where WAL ended, and when, for all that lies after the position.
fn note(slot: &str, health: Option<SlotHealth>, hub: &Hub, ends: &mut VecDeque<(Lsn, Instant)>) {
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
    let position: Lsn = hub.health().position.parse().unwrap_or_default();
    if position == Lsn(0) {
        // The stream has not begun.
        return;
    }
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
