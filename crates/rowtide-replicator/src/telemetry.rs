//! What an operator can see of the replicator beside its status. The names are those of `/metrics`; nothing
//! waits for telemetry, and nothing of it can fail.

use std::time::Duration;

use metrics::{counter, histogram};
use rowtide_feed::EpochReason;

/// Questions to the log for sessions that come back, by `result`: `read`, `interrupted`, `too_old`, `too_much`,
/// `failed`.
const HISTORIES: &str = "rowtide_histories_total";
/// How long a durable write of the log took, in seconds.
const LOG_WRITE: &str = "rowtide_log_write_seconds";
/// Epochs that have begun, by `reason`.
const EPOCHS: &str = "rowtide_epochs_total";

/// The log was asked what a session has missed.
pub(crate) fn history(result: &'static str) {
    counter!(HISTORIES, "result" => result).increment(1);
}

/// A group of transactions is in the log.
pub(crate) fn logged(took: Duration) {
    histogram!(LOG_WRITE).record(took.as_secs_f64());
}

/// Nobody can resume from before.
pub(crate) fn epoch_began(reason: EpochReason) {
    counter!(EPOCHS, "reason" => reason.as_str()).increment(1);
}
