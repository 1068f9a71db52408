//! What an operator can see of who comes to documents. Every name stands here with its unit.

use metrics::{counter, gauge};

/// Standings that Postgres was asked for.
const ASKED: &str = "rowtide_document_standings_total";
/// Questions for standings that were not answered.
const FAILED: &str = "rowtide_document_standings_failed_total";
/// Connects to documents, by `outcome`: `OK`, the reason that was told, or `COME_BACK`.
const CONNECTS: &str = "rowtide_document_connects_total";
/// Sockets that are at a document.
const SOCKETS: &str = "rowtide_document_sockets";

/// Documents that are to be deleted, published or unpublished, or looked at.
const WAITING: &str = "rowtide_document_effects_waiting";
/// Documents of which that has failed, and is not tried any more.
const GIVEN_UP: &str = "rowtide_document_effects_failed";
/// What was done with documents because of their rows.
const DONE: &str = "rowtide_document_effects_total";
/// What was tried and is tried again.
const TRIED: &str = "rowtide_document_effect_retries_total";

/// Shows what has not happened yet, too.
pub(crate) fn begin() {
    counter!(ASKED).increment(0);
    counter!(FAILED).increment(0);
    counter!(CONNECTS, "outcome" => "OK").increment(0);
    gauge!(SOCKETS).set(0.0);
    counter!(DONE).increment(0);
    counter!(TRIED).increment(0);
    effects(0, 0);
}

pub(crate) fn effects(waiting: usize, failed: usize) {
    gauge!(WAITING).set(waiting as f64);
    gauge!(GIVEN_UP).set(failed as f64);
}

pub(crate) fn effect_done() {
    counter!(DONE).increment(1);
}

pub(crate) fn effect_tried() {
    counter!(TRIED).increment(1);
}

pub(crate) fn standings_asked(count: usize) {
    counter!(ASKED).increment(count as u64);
}

pub(crate) fn standings_failed() {
    counter!(FAILED).increment(1);
}

pub(crate) fn connect(outcome: &'static str) {
    counter!(CONNECTS, "outcome" => outcome).increment(1);
}

/// Counts a socket for as long as it is there.
pub(crate) struct SocketCounted;

impl SocketCounted {
    pub(crate) fn new() -> SocketCounted {
        gauge!(SOCKETS).increment(1);
        SocketCounted
    }
}

impl Drop for SocketCounted {
    fn drop(&mut self) {
        gauge!(SOCKETS).decrement(1);
    }
}
