//! Every limit of the gateway, with its unit, in one place. Those that an operator may want to set are
//! defaults.

use std::time::Duration;

/// The largest message from a client, in bytes; beyond it the connection is closed.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// The largest mutation, in bytes; beyond it the mutation is rejected as `too_large`.
pub const MAX_MUTATION_BYTES: usize = 1 << 20;
/// The most operations of one mutation.
pub const OPS_PER_MUTATION: usize = rowtide_protocol::MAX_OPS;
/// How many connects and operations one user may have in a minute.
pub const REQUESTS_PER_MINUTE: usize = 600;
/// How many connections to Postgres apply mutations.
pub const MUTATION_CONNECTIONS: usize = 10;
/// How long Postgres may take for one answer to a mutation before the connection is given up, in seconds.
/// Longer than the statement's own time-out, which is 20 s.
pub const MUTATION_ANSWER_SECONDS: usize = 30;
/// How often it is looked, while no mutation is there, whether one could be applied: where they go a way of their own.
pub const MUTATION_LOOK: Duration = Duration::from_secs(5);
/// How many mutations of one client may wait; beyond it the client is sent away, to come back.
pub const MUTATION_QUEUE: usize = 256;
/// How many bytes of mutations may wait in all.
pub const MUTATION_QUEUE_BYTES: usize = 256 << 20;
/// How many connections to Postgres run loads.
pub const LOAD_CONNECTIONS: usize = 1;
/// How many bytes of rows are held to be sent to those who come; beyond it they are loaded again.
pub const ROW_BYTES: usize = 512 << 20;
/// How many bytes of changes may wait for one session before it is closed with `slow_consumer`.
pub const SEND_QUEUE_BYTES: usize = 16 << 20;
/// How long a session that comes waits for engines.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a mutation that is over the rate waits at the most; one that would wait longer is sent again by its client.
pub const RATE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a session waits for room in a queue that is full, before its client is sent away.
pub const FULL_PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks for room.
pub const FULL_RETRY: Duration = Duration::from_millis(50);
/// How long a session listens for what has arrived already when the server stops.
pub const STOP_LISTEN: Duration = Duration::from_millis(50);
/// How long it waits then for what it was sent to be acknowledged.
pub const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// The longest random wait that a client is asked for before it comes back.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How many messages that have arrived already are still taken when the server stops.
pub const STOP_MESSAGES: usize = 10_000;
/// How many sessions one user may have at a time.
pub const SESSIONS_PER_USER: usize = 50;
/// How long a client may take to say `connect`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After this much silence of the client the server sends a WebSocket ping.
pub const PING_AFTER: Duration = Duration::from_secs(25);
/// After this much silence the connection is dropped.
pub const SILENCE: Duration = Duration::from_secs(60);
/// How many bytes are written to a client before its own messages are looked at again.
pub const FLUSH_BYTES: usize = 256 << 10;
/// Of how many bytes of one snapshot's frames the deflated form is kept, while several sessions are sent it. What is kept is
/// smaller, by what deflating saves.
pub const KEPT_DEFLATED_BYTES: usize = 64 << 20;
/// How many of the processors may deflate frames at a time: one in so many, and at least one.
pub const PROCESSORS_PER_DEFLATING: usize = 2;
/// How long one write to a client may take.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to hear that the server closes its connection.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many messages are still read of a client that was told goodbye: those that were on their way.
pub const GOODBYE_MESSAGES: usize = 10_000;
/// After this long at the latest a token is looked at again: an `Instant` cannot be as far away as a
/// token may end, and the clock that tokens go by may be set.
pub const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long sessions have to say goodbye when the server stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The read buffer of a socket, in bytes; the default of the library is sixteen times as much.
pub const READ_BUFFER_BYTES: usize = 4 << 10;
/// How many bytes of frames to a socket are written at once, when several wait: each write is a call of the system.
pub const WRITE_BUFFER_BYTES: usize = 8 << 10;
/// The longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;
/// The longest user id, in bytes.
pub const MAX_USER_ID_BYTES: usize = 1_024;
/// The largest JWKS, in bytes.
pub const JWKS_BYTES: usize = 1 << 20;
/// How long fetching a JWKS may take.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after the first time that an issuer's keys could not be read at the start; it doubles with each.
pub const JWKS_MIN_PAUSE: Duration = Duration::from_millis(200);
/// The longest such pause.
pub const JWKS_MAX_PAUSE: Duration = Duration::from_secs(10);
/// How often a JWKS is fetched at the most because of a key that is not known.
pub const JWKS_REFRESH: Duration = Duration::from_secs(30);
/// How long client ids are collected before they are claimed with one statement.
pub const CLAIM_COLLECT: Duration = Duration::from_millis(5);
/// The most client ids in one statement.
pub const CLAIM_BATCH: usize = 2_000;
/// The pause before what became of an older client's mutations is asked again, where one is being acknowledged.
pub const OUTCOMES_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause while the database does not answer; it doubles up to there.
pub const OUTCOMES_MAX_PAUSE: Duration = Duration::from_secs(5);
/// How many notes of what older clients have heard wait for the database; what is more is told once more.
pub const TOLD_WAITING: usize = 100_000;
/// How many times as many tabs of older clients one user may have as sessions of today's: tabs share all rows.
pub const TABS_PER_SESSION: usize = 10;
/// How long claiming a client id may take before the client is told `unavailable`.
pub const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest message before `connect` is accepted, in bytes: it holds a token and little else.
pub const FIRST_MESSAGE_BYTES: usize = 32 << 10;
/// How many messages of any kind, pings of WebSocket among them, one connection may send at once, and in each
/// second from then on; what is more is read later.
pub const MESSAGES_PER_SECOND: u32 = 2_000;
/// How many subscriptions one session may have.
pub const SUBSCRIPTIONS_PER_SESSION: usize = 100;
/// How many bytes the names of their queries and their parameters, as JSON, may have together: a client that comes back names
/// all of them in `connect`.
pub const SUBSCRIPTION_BYTES: usize = 16 << 10;
/// How many `subscribe` and `unsubscribe` one session may send at once, and in each second from then on; what is more is
/// looked at later.
pub const SUBSCRIBES_PER_SECOND: u32 = 100;
/// How many `auth` one session may send at once, and in each minute from then on; what is more is looked at later.
pub const AUTH_PER_MINUTE: u32 = 10;
/// How many connections there may be, if as many files may be open.
pub const CONNECTIONS: usize = 100_000;
/// How many open files are left to everything but connections of clients.
pub const OTHER_FILES: usize = 256;
/// How many connections that are over a limit are kept at a time, to be asked for health and metrics; a newer one
/// takes the place of the oldest.
pub const HEALTH_CONNECTIONS: usize = 64;
/// How long the head of a request may take.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request and its answer may take in all, from when the connection was accepted. A connection takes one
/// request; a WebSocket has time-outs of its own.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for a connection that is over a limit.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest head of a request, in bytes; a token may be in it.
pub const HEAD_BYTES: usize = 32 << 10;
/// How often it is said in the log that a limit of connections is reached, at the most.
pub const LIMIT_LOG: Duration = Duration::from_secs(60);
/// How long nothing is accepted after the system could not.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How old the keys of an issuer become before they are fetched again: so long is a key accepted that was taken out.
pub const JWKS_MAX_AGE: Duration = Duration::from_secs(300);
/// The shortest RSA key, in bits (RFC 7518, 3.3).
pub const MIN_RSA_BITS: usize = 2_048;

/// How many connections there may be, and how long one may take for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In all.
    pub connections: usize,
    /// From one address, of IPv6 from one /64; 0: any number.
    pub per_address: usize,
    /// For the head of the request.
    pub head_timeout: Duration,
    /// For the request and its answer in all; a WebSocket has time-outs of its own.
    pub http_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        ConnectionLimits {
            connections: CONNECTIONS,
            per_address: 0,
            head_timeout: HEAD_TIMEOUT,
            http_timeout: HTTP_TIMEOUT,
        }
    }
}
/// How often a number of client ids are removed that nobody has used for long.
pub const REMOVAL_EVERY: Duration = Duration::from_secs(60);
/// The default of after how many days a client id is removed that nobody uses.
pub const UNUSED_CLIENT_DAYS: usize = 400;

/// What one client, or one user, may ask of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// The largest message, in bytes; beyond it the connection is closed.
    pub message_bytes: usize,
    /// The largest mutation, in bytes; beyond it the mutation is rejected.
    pub mutation_bytes: usize,
    /// The most operations of one mutation.
    pub ops_per_mutation: usize,
    /// How many sessions one user may have at a time.
    pub sessions_per_user: usize,
    /// How many connects and operations of mutations one user may have in a minute; 0: any number. What is more waits.
    pub requests_per_minute: u32,
    /// How many requests without a token one address may have in a minute: for what is published, to come to documents
    /// and to connect; 0: any number.
    pub requests_per_address: u32,
    /// After how long without a connect a client id is removed, give or take a week; `None`: never.
    pub unused_clients: Option<Duration>,
    /// How often a number of these are removed.
    pub removal_every: Duration,
    /// Whether a session of the older protocol, whose clients cannot send a new token, outlives the one it came with.
    pub older_sessions_outlive_tokens: bool,
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits {
            message_bytes: MAX_MESSAGE_BYTES,
            mutation_bytes: MAX_MUTATION_BYTES,
            ops_per_mutation: OPS_PER_MUTATION,
            sessions_per_user: SESSIONS_PER_USER,
            requests_per_minute: REQUESTS_PER_MINUTE as u32,
            requests_per_address: 0,
            unused_clients: Some(Duration::from_secs(86_400 * UNUSED_CLIENT_DAYS as u64)),
            removal_every: REMOVAL_EVERY,
            older_sessions_outlive_tokens: true,
        }
    }
}
