//! What an operator can see of rooms: counters, gauges and histograms. Every name stands here with its unit.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use super::health::HostHealth;
use crate::place::{Closing, Reason};

/// Rooms that are awake.
const AWAKE: &str = "rowtide_rooms_awake";
/// Sockets in rooms.
const SESSIONS: &str = "rowtide_room_sessions";
/// Edits that were made durable.
const PUSHES: &str = "rowtide_room_pushes_total";
/// From when an edit was heard until it was durable.
const PUSH_SECONDS: &str = "rowtide_room_push_seconds";
/// Edits that could not be made durable.
const REFUSED: &str = "rowtide_room_refused_pushes_total";
/// Bytes of edits that are durable in the journal and not in an object.
const UNSAVED_BYTES: &str = "rowtide_room_unsaved_bytes";
/// How long saving a document takes.
const SAVE_SECONDS: &str = "rowtide_room_save_seconds";
/// Bytes of documents that were saved.
const SAVED_BYTES: &str = "rowtide_room_saved_bytes_total";
/// Saves that failed.
const SAVE_FAILURES: &str = "rowtide_room_save_failures_total";
/// Calls of the storage that failed, by `reason`.
const STORAGE_FAILURES: &str = "rowtide_storage_failures_total";
/// Every reason.
const STORAGE_REASONS: [&str; 5] = ["denied", "overloaded", "unreachable", "slow", "other"];
/// Documents that another server had written, so that they were not saved over it.
const SUPERSEDED: &str = "rowtide_room_superseded_total";
/// Documents that were opened with edits of this server and what another one had written.
const MERGED: &str = "rowtide_room_merged_total";
/// Documents whose last save failed.
const SAVES_FAILING: &str = "rowtide_room_saves_failing";
/// How long a document takes until its room is awake.
const OPEN_SECONDS: &str = "rowtide_room_open_seconds";
/// Documents that could not be opened.
const OPEN_FAILURES: &str = "rowtide_room_open_failures_total";
/// Sockets that the server closed, by `reason`.
const CLOSED: &str = "rowtide_room_closed_total";
/// The reason of a socket that is to come back.
const COME_BACK: &str = "COME_BACK";
/// Questions to the application's schema.
const SCHEMA_QUESTIONS: &str = "rowtide_room_schema_questions_total";
/// Questions that the application's schema did not answer.
const SCHEMA_FAILURES: &str = "rowtide_room_schema_failures_total";
/// The segments of the journal, in bytes.
const JOURNAL_BYTES: &str = "rowtide_journal_bytes";
/// 1 while the journal cannot be written, and documents can only be read.
const JOURNAL_FAILING: &str = "rowtide_journal_failing";

/// Shows what has not happened yet, too.
pub(super) fn begin() {
    for name in [
        PUSHES,
        REFUSED,
        SAVED_BYTES,
        SAVE_FAILURES,
        OPEN_FAILURES,
        SCHEMA_QUESTIONS,
        SCHEMA_FAILURES,
        SUPERSEDED,
        MERGED,
    ] {
        counter!(name).increment(0);
    }
    for reason in STORAGE_REASONS {
        counter!(STORAGE_FAILURES, "reason" => reason).increment(0);
    }
    counter!(CLOSED, "reason" => COME_BACK).increment(0);
}

/// An edit is durable, so long after it was heard.
pub(super) fn pushed(after: Duration) {
    counter!(PUSHES).increment(1);
    histogram!(PUSH_SECONDS).record(after.as_secs_f64());
}

/// An edit was refused.
pub(super) fn refused() {
    counter!(REFUSED).increment(1);
}

/// A document of so many bytes was saved.
pub(super) fn saved(bytes: usize, took: Duration) {
    counter!(SAVED_BYTES).increment(bytes as u64);
    histogram!(SAVE_SECONDS).record(took.as_secs_f64());
}

/// The application's schema was asked, and answered or not.
pub(super) fn asked(answered: bool) {
    counter!(SCHEMA_QUESTIONS).increment(1);
    counter!(SCHEMA_FAILURES).increment(u64::from(!answered));
}

/// A save failed.
pub(super) fn save_failed() {
    counter!(SAVE_FAILURES).increment(1);
}

/// A call of the storage failed.
pub(super) fn storage_failed(reason: &'static str) {
    counter!(STORAGE_FAILURES, "reason" => reason).increment(1);
}

/// Another server has written a document that is open here.
pub(super) fn superseded() {
    counter!(SUPERSEDED).increment(1);
}

/// Edits of this server were merged with what another one has written.
pub(super) fn merged() {
    counter!(MERGED).increment(1);
}

/// A room is awake.
pub(super) fn opened(took: Duration) {
    histogram!(OPEN_SECONDS).record(took.as_secs_f64());
}

/// A document could not be opened.
pub(super) fn open_failed() {
    counter!(OPEN_FAILURES).increment(1);
}

/// A socket was closed.
pub(super) fn closed(closing: Closing) {
    let reason = match closing {
        Closing::Final(reason) => Reason::code(reason),
        Closing::ComeBack => COME_BACK,
    };
    counter!(CLOSED, "reason" => reason).increment(1);
}

/// A socket was too slow for what it was sent.
pub(super) fn slow() {
    counter!(CLOSED, "reason" => "SLOW").increment(1);
}

/// What is told when it is asked for.
pub(super) fn gauges(health: &HostHealth) {
    gauge!(AWAKE).set(health.rooms_awake as f64);
    gauge!(SESSIONS).set(health.sessions as f64);
    gauge!(UNSAVED_BYTES).set(health.unsaved_bytes as f64);
    gauge!(SAVES_FAILING).set(health.saves_failing.len() as f64);
    gauge!(JOURNAL_BYTES).set(health.journal_bytes as f64);
    gauge!(JOURNAL_FAILING).set(if health.journal_failing { 1.0 } else { 0.0 });
}
