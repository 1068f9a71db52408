//! Every limit of the server, with its unit, in one place. Those that an operator may want to set are
//! the defaults of [`crate::config`].

use std::time::Duration;

/// The largest message from a client, in bytes; beyond it the connection is closed.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// The largest mutation, in bytes; beyond it the mutation is refused as `too_large`.
pub const MAX_MUTATION_BYTES: usize = 1 << 20;
/// The most operations of one mutation.
pub const OPS_PER_MUTATION: usize = rowtide_protocol::MAX_OPS;
/// How many connects and mutations one user may have in a minute.
pub const REQUESTS_PER_MINUTE: usize = 600;
/// How many connections to Postgres apply mutations.
pub const MUTATION_CONNECTIONS: usize = 10;
/// How long Postgres may take for one answer to a mutation before the connection is given up, in seconds.
/// Longer than the statement's own time-out, which is 20 s.
pub const MUTATION_ANSWER_SECONDS: usize = 30;
/// How many mutations of one client may wait; beyond it the client is sent away, to come back.
pub const MUTATION_QUEUE: usize = 256;
/// How many bytes of mutations may wait in all.
pub const MUTATION_QUEUE_BYTES: usize = 256 << 20;
/// How often a mutation that others are in the way of is tried.
pub const CONFLICT_RETRIES: u32 = 20;
/// How often the slot and what fills are looked at: more often than the history is pruned, so that it is seen to fill.
pub const SLOT_WATCH: Duration = Duration::from_secs(5);
/// How much WAL may be kept for the slot before it is warned of, in bytes.
pub const RETAINED_WAL_WARNING_BYTES: u64 = 1 << 30;
/// How much before it is an error, in bytes.
pub const RETAINED_WAL_ERROR_BYTES: u64 = 10 << 30;
/// How long refusals of a client that asks too often gather, to be settled together.
pub const LIMITED_GATHER: Duration = Duration::from_millis(100);
/// How many connections to Postgres run loads.
pub const LOAD_CONNECTIONS: usize = 1;
/// How many bytes of rows are held to be sent to those who come; beyond it they are loaded again.
pub const ROW_BYTES: usize = 512 << 20;
/// How long the log keeps history, so that a client that was away can be brought up to date from it.
pub const LOG_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// How large the log may become, in bytes; beyond it the oldest history goes first.
pub const LOG_BYTES: u64 = 4 << 30;
/// How many bytes of transactions may be on their way from the stream to engines and log.
pub const STREAM_BYTES: usize = 256 << 20;
/// How many batches of the stream may wait for the log.
pub const LOG_BATCHES: usize = 256;
/// How long transactions gather before they are written to the log together: nobody waits for that, and each
/// write is a flush of the disk.
pub const LOG_GATHER: Duration = Duration::from_millis(5);
/// How many entries are gathered for one write of the log.
pub const LOG_GROUP: usize = 4_096;
/// How often a position without transactions is written into the log.
pub const LOG_POSITION_EVERY: Duration = Duration::from_secs(1);
/// How often old history is dropped.
pub const LOG_PRUNE_EVERY: Duration = Duration::from_secs(10);
/// How long the log waits before it tries a write again that failed.
pub const LOG_RETRY: Duration = Duration::from_millis(500);
/// The most changes that bring one session up to date; beyond it the session is sent all of its rows.
pub const HISTORY_CHANGES: usize = 20_000;
/// The most bytes of changes that bring one session up to date.
pub const HISTORY_BYTES: usize = 8 << 20;
/// How many of the last changes are read from the log at the start, because a load may not see them yet.
pub const RECENT_CHANGES: usize = 10_000;
/// How soon a session that comes as a generation ends looks for the next.
pub const GENERATION_LOOK: Duration = Duration::from_millis(5);
/// How often a server that waits for another to give up its place looks whether it has.
pub const STANDBY_LOOK: Duration = Duration::from_millis(250);
/// How many bytes of changes may wait for one session before it is closed with `slow_consumer`.
pub const OUTBOX_BYTES: usize = 16 << 20;
/// How many sessions one user may have at a time.
pub const SESSIONS_PER_USER: usize = 50;
/// How many connections may wait to be accepted; the system may allow fewer. Beyond it a client's first
/// packet is dropped, and it tries again a second later.
pub const ACCEPT_BACKLOG: u32 = 4_096;
/// How long a client may take to say `connect`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After this much silence of the client the server sends a WebSocket ping.
pub const PING_AFTER: Duration = Duration::from_secs(25);
/// After this much silence the connection is dropped.
pub const SILENCE: Duration = Duration::from_secs(60);
/// How many bytes are written to a client before its own messages are looked at again.
pub const FLUSH_BYTES: usize = 256 << 10;
/// How long one write to a client may take.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to hear that the server closes its connection.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// After this long at the latest a token is looked at again: an `Instant` cannot be as far away as a
/// token may end, and the clock that tokens go by may be set.
pub const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long sessions have to say goodbye when the server stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest random wait that a client is asked for before it comes back, in milliseconds.
pub const RETRY_AFTER_MS: u64 = 5_000;
/// The read buffer of a socket, in bytes; the default of the library is sixteen times as much.
pub const READ_BUFFER_BYTES: usize = 4 << 10;
/// How many people the playground proposes to sign in.
pub const PROPOSED_PEOPLE: i64 = 50;
/// The longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;
/// The longest user id, in bytes.
pub const MAX_USER_ID_BYTES: usize = 1_024;
/// The largest JWKS, in bytes.
pub const JWKS_BYTES: usize = 1 << 20;
/// How long fetching a JWKS may take.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a JWKS is fetched at the most because of a key that is not known.
pub const JWKS_REFRESH: Duration = Duration::from_secs(30);
/// How long client ids gather before they are claimed with one statement.
pub const CLAIM_GATHER: Duration = Duration::from_millis(5);
/// The most client ids in one statement.
pub const CLAIM_BATCH: usize = 2_000;
/// How long claiming a client id may take before the client is told `unavailable`.
pub const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);

/// What one client, or one user, may ask of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// The largest message, in bytes; beyond it the connection is closed.
    pub message_bytes: usize,
    /// The largest mutation, in bytes; beyond it the mutation is refused.
    pub mutation_bytes: usize,
    /// The most operations of one mutation.
    pub ops_per_mutation: usize,
    /// How many sessions one user may have at a time.
    pub sessions_per_user: usize,
    /// How many connects and mutations one user may have in a minute; 0: any number.
    pub requests_per_minute: u32,
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits {
            message_bytes: MAX_MESSAGE_BYTES,
            mutation_bytes: MAX_MUTATION_BYTES,
            ops_per_mutation: OPS_PER_MUTATION,
            sessions_per_user: SESSIONS_PER_USER,
            requests_per_minute: REQUESTS_PER_MINUTE as u32,
        }
    }
}
