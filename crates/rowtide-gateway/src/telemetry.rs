//! What an operator can see of the gateway: counters, gauges and histograms. Every name stands here with its unit.
//! Nothing waits for telemetry, and nothing of it can fail a request.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{counter, gauge, histogram};
use rowtide_protocol::{ErrorCode, Lsn, RejectCode, SubscriptionCode};
use tokio::time::Instant;

use crate::health::EnginesHealth;

/// Open connections, of HTTP and of WebSocket.
const CONNECTIONS: &str = "rowtide_connections";
/// How often a client was held up, or sent away, by a `limit`.
const LIMITED: &str = "rowtide_limited_total";
/// How old the keys of the issuer are, in seconds; 0 where there are none.
const JWKS_AGE: &str = "rowtide_jwks_age_seconds";
/// Connects that were answered, by `mode` (`snapshot`, `resume`) or rejected, by code.
const CONNECTS: &str = "rowtide_connects_total";
/// Sessions that the server ended, by `code`.
const ENDINGS: &str = "rowtide_sessions_ended_total";
/// Mutations that were acknowledged, by `outcome`: `applied`, `repeated`, or the code of the rejection.
const MUTATIONS: &str = "rowtide_mutations_total";
/// From a mutation's arrival until it was acknowledged in Postgres.
const MUTATION_SECONDS: &str = "rowtide_mutation_seconds";
/// Mutations that wait or are being applied.
const MUTATIONS_WAITING: &str = "rowtide_mutations_waiting";
/// 1 while mutations cannot be applied and wait.
const MUTATIONS_FAILING: &str = "rowtide_mutations_failing";
/// Tries of mutations that came to nothing, by `reason`: `conflict`, `away`.
const MUTATION_RETRIES: &str = "rowtide_mutation_retries_total";
/// Bytes of frames sent to clients.
const SENT_BYTES: &str = "rowtide_sent_bytes_total";
/// Bytes of the texts of frames that were sent deflated.
const DEFLATED_TEXT_BYTES: &str = "rowtide_deflated_text_bytes_total";
/// Bytes of these frames as they were sent.
const DEFLATED_BYTES: &str = "rowtide_deflated_bytes_total";
/// Rows for clients, in snapshots and as changes; a row counts once for each session.
const SENT_ROWS: &str = "rowtide_sent_rows_total";
/// Frames sent to clients.
const SENT_FRAMES: &str = "rowtide_sent_frames_total";
/// From Postgres' time of a commit until it was made into a frame for a client's socket.
const COMMIT_TO_SEND: &str = "rowtide_commit_to_send_seconds";
/// Open sessions.
const SESSIONS: &str = "rowtide_sessions";
/// Subscriptions of these.
const SUBSCRIPTIONS: &str = "rowtide_subscriptions";
/// Subscriptions that were asked for, by `result`: `taken`, or the code of the refusal.
const SUBSCRIBES: &str = "rowtide_subscribes_total";
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
/// Tables that loads could not read.
const UNREADABLE_TABLES: &str = "rowtide_unreadable_tables";

/// The `result` of a subscription that was not refused.
const TAKEN: &str = "taken";

/// A limit that holds clients up, or sends them away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Connections in all.
    Connections,
    /// Connections from one address.
    ConnectionsPerAddress,
    /// Requests without a token from one address.
    RequestsPerAddress,
    /// Files that may be open.
    OpenFiles,
    /// The time of a request and its answer.
    HttpTime,
    /// The size of a message before `connect` is accepted.
    FirstMessage,
    /// Messages of one connection in a second.
    Messages,
    /// `auth` of one session in a minute.
    Auth,
    /// Changes of subscriptions of one session in a second.
    Subscribes,
}

impl Limit {
    /// All of them.
    const ALL: [Limit; 9] = [
        Limit::Connections,
        Limit::ConnectionsPerAddress,
        Limit::RequestsPerAddress,
        Limit::OpenFiles,
        Limit::HttpTime,
        Limit::FirstMessage,
        Limit::Messages,
        Limit::Auth,
        Limit::Subscribes,
    ];

    /// Its name in metrics and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Limit::Connections => "max_connections",
            Limit::ConnectionsPerAddress => "connections_per_address",
            Limit::RequestsPerAddress => "requests_per_address",
            Limit::OpenFiles => "open_files",
            Limit::HttpTime => "http_time",
            Limit::FirstMessage => "first_message",
            Limit::Messages => "messages",
            Limit::Auth => "auth",
            Limit::Subscribes => "subscribes",
        }
    }
}

/// A client was held up, or sent away.
pub(crate) fn limited(limit: Limit) {
    counter!(LIMITED, "limit" => limit.as_str()).increment(1);
}

/// So many connections are open.
pub(crate) fn connections(open: usize) {
    gauge!(CONNECTIONS).set(open as f64);
}

/// A connect was answered.
pub(crate) fn connected(mode: &'static str) {
    counter!(CONNECTS, "result" => mode).increment(1);
}

/// A connect was rejected.
pub(crate) fn rejected(code: ErrorCode) {
    counter!(CONNECTS, "result" => code.as_str()).increment(1);
}

/// The server ended a session.
pub(crate) fn ended(code: ErrorCode) {
    counter!(ENDINGS, "code" => code.as_str()).increment(1);
}

/// A subscription was asked for, and was taken or refused.
pub(crate) fn subscribed(result: Result<(), SubscriptionCode>) {
    let result = result.map_or_else(SubscriptionCode::as_str, |()| TAKEN);
    counter!(SUBSCRIBES, "result" => result).increment(1);
}

/// The subscriptions of one session, counted for as long as it is there.
#[derive(Default)]
pub(crate) struct CountedSubscriptions(usize);

impl CountedSubscriptions {
    pub(crate) fn set(&mut self, count: usize) {
        gauge!(SUBSCRIPTIONS).increment(count as f64 - self.0 as f64);
        self.0 = count;
    }
}

impl Drop for CountedSubscriptions {
    fn drop(&mut self) {
        if self.0 > 0 {
            self.set(0);
        }
    }
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

/// A mutation was acknowledged, `since` its arrival; `codes` are those that the definition gives.
pub(crate) fn mutation_acknowledged<'a>(
    outcome: &'a str,
    codes: impl Iterator<Item = &'a str>,
    since: Instant,
) {
    counter!(MUTATIONS, "outcome" => label(outcome, codes).to_owned()).increment(1);
    histogram!(MUTATION_SECONDS).record(since.elapsed().as_secs_f64());
}

/// The outcome as a label. Functions of the database may raise as many codes as they like, and there are to be few labels.
fn label<'a>(outcome: &'a str, mut codes: impl Iterator<Item = &'a str>) -> &'a str {
    let is_ours = matches!(outcome, "applied" | "repeated")
        || RejectCode::OURS.iter().any(|code| code.as_str() == outcome);
    if is_ours || codes.any(|code| code == outcome) { outcome } else { "rejected" }
}

/// A mutation was rejected without being put into a queue.
pub(crate) fn mutation_rejected(code: &RejectCode) {
    counter!(MUTATIONS, "outcome" => code.as_str().to_owned()).increment(1);
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

/// A deflated frame of a text of so many bytes is on its way.
pub(crate) fn deflated(text_bytes: usize, bytes: usize) {
    counter!(DEFLATED_TEXT_BYTES).increment(text_bytes as u64);
    counter!(DEFLATED_BYTES).increment(bytes as u64);
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

/// What is told when it is asked for.
pub(crate) fn gauges(health: &EnginesHealth, age_of_keys: Option<Duration>, mutations_wait: bool) {
    gauge!(MUTATIONS_FAILING).set(if mutations_wait { 1.0 } else { 0.0 });
    gauge!(JWKS_AGE).set(age_of_keys.unwrap_or_default().as_secs_f64());
    // A limit that was never reached is told of, too: so it can be seen to be reached.
    for limit in Limit::ALL {
        counter!(LIMITED, "limit" => limit.as_str()).increment(0);
    }
    for result in [TAKEN, "bad_request", "too_many", "unavailable"] {
        counter!(SUBSCRIBES, "result" => result).increment(0);
    }
    gauge!(SUBSCRIPTIONS).increment(0.0);
    deflated(0, 0);
    let counts = health.counts;
    gauge!(SESSIONS).set(health.sessions as f64);
    gauge!(VIEWS).set(counts.views as f64);
    gauge!(TOPICS).set(counts.topics as f64);
    gauge!(ROW_BYTES).set(counts.row_bytes as f64);
    gauge!(TOPICS_LOADING).set(counts.loading as f64);
    counter!(LOAD_QUERIES).absolute(health.load_queries);
    counter!(LOADED_ROWS).absolute(health.loaded_rows);
    gauge!(POSITION).set(health.position.map_or(0.0, |Lsn(lsn)| lsn as f64));
    gauge!(UNREADABLE_TABLES).set(health.unreadable_tables.len() as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_functions_raise_are_one_label() {
        let of = |outcome| label(outcome, ["full"].into_iter()).to_owned();
        for outcome in ["applied", "repeated", "forbidden", "unknown_error", "full"] {
            assert_eq!(of(outcome), outcome);
        }
        assert_eq!((of("gone"), of("gone_2")), ("rejected".to_owned(), "rejected".to_owned()));
    }
}
