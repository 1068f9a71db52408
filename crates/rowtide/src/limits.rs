//! Limits of the whole server, with their units, beside those of the gateway and the replicator. Those that an
//! operator may want to set are the defaults of [`crate::config`].

use std::time::Duration;

pub use rowtide_access::limits as documents;
pub use rowtide_gateway::limits::*;

/// How often the slot and what fills are looked at: more often than the log is pruned, so that it is seen to fill.
pub const SLOT_WATCH: Duration = Duration::from_secs(5);
/// How much WAL may be kept for the slot before it is warned of, in bytes.
pub const RETAINED_WAL_WARNING_BYTES: u64 = 1 << 30;
/// How much before it is an error, in bytes.
pub const RETAINED_WAL_ERROR_BYTES: u64 = 10 << 30;
/// How long the log keeps changes, so that a client that was away can be brought up to date from it.
pub const LOG_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// How large the log may become, in bytes; beyond it the oldest goes first.
pub const LOG_BYTES: u64 = 4 << 30;
/// How many connections may wait to be accepted; the system may allow fewer. Beyond it a client's first
/// packet is dropped, and it tries again a second later.
pub const ACCEPT_BACKLOG: u32 = 4_096;
/// How many people the playground proposes to sign in.
pub const PROPOSED_PEOPLE: i64 = 50;
/// How long documents may take to be saved when the server stops; what is not saved is in the journal.
pub const SAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the replicator and the HTTP server may take to end.
pub const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a server that starts looks whether it is ready, once all that it waits for is there.
pub const READY_LOOK: Duration = Duration::from_millis(50);
/// How long tokens for development are good.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
