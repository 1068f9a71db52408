//! Every limit of a room, with its unit, in one place.

use std::time::Duration;

/// What a room bounds. The default is what an ordinary room has.
#[derive(Clone, Debug)]
pub struct TlsyncLimits {
    /// The most sessions with a socket; one more is refused with `ROOM_FULL`.
    pub sessions: usize,
    /// The longest name that a client may have for its session, in bytes.
    pub session_name_bytes: usize,
    /// How large a schema may be, in bytes of its JSON, about; a client with a larger one is refused.
    pub schema_bytes: usize,
    /// The longest id of a record, in bytes; a session that puts a longer one is ended with `INVALID_RECORD`.
    pub id_bytes: usize,
    /// The largest message, put together, in bytes.
    pub message_bytes: usize,
    /// The most parts that a message may come in.
    pub message_parts: usize,
    /// The most records of a document; a push that would lead beyond it is discarded.
    pub records: usize,
    /// How large a document may be, in bytes of its JSON, about; a push that would lead beyond it is discarded.
    pub document_bytes: usize,
    /// How large one record may be, in bytes of its JSON, about; a push that would lead beyond it is discarded.
    pub record_bytes: usize,
    /// How large what a session shows of itself may be, in bytes of its JSON, about; what would lead beyond it
    /// has no effect.
    pub presence_bytes: usize,
    /// How many older schemas a room may serve at a time; a client of another one that could be served is sent away to come
    /// back, until nobody of one of them is there any more.
    pub editions: usize,
    /// How often a room may be brought down to older schemas at once; a client that would need it once more is sent away to
    /// come back. Everybody in the room waits meanwhile, whoever it is that comes.
    pub editions_at_once: u32,
    /// After how long it may be once more.
    pub edition_every: Duration,
    /// How many bytes of messages may wait in the room for one session, before its socket is closed.
    pub waiting_bytes: usize,
    /// How many messages a session may send a second, for long; beyond it is ended with `RATE_LIMITED`. A long
    /// message counts as one for each [`TlsyncLimits::bytes_a_message`].
    pub messages_a_second: u32,
    /// How many messages a session may send at once.
    pub messages_at_once: u32,
    /// How many bytes of a message count as one message. What the application's schema is asked because of a session's
    /// messages has a rate of its own, as large as theirs: the bytes of a question, once for each schema that it is about.
    pub bytes_a_message: usize,
    /// How many ids of records that were removed are kept: a client that was away longer is sent everything.
    pub tombstones: usize,
    /// How many more there may be before they are made as few again.
    pub tombstones_slack: usize,
    /// How long a client may take to say `connect`.
    pub connect_within: Duration,
    /// How long a session may be silent before its socket is closed.
    pub silence: Duration,
    /// How long a session that lost its socket is still shown to the others.
    pub presence_stays: Duration,
    /// After a message about data, how long the next ones are collected.
    pub debounce: Duration,
}

impl Default for TlsyncLimits {
    fn default() -> TlsyncLimits {
        TlsyncLimits {
            sessions: 50,
            session_name_bytes: 256,
            schema_bytes: 256 << 10,
            id_bytes: 512,
            message_bytes: 8 << 20,
            message_parts: 64,
            records: 40_000,
            document_bytes: 64 << 20,
            record_bytes: 16 << 20,
            presence_bytes: 1 << 20,
            editions: 4,
            editions_at_once: 20,
            edition_every: Duration::from_secs(5),
            waiting_bytes: 16 << 20,
            messages_a_second: 200,
            messages_at_once: 1_000,
            bytes_a_message: 64 << 10,
            tombstones: 5_000,
            tombstones_slack: 1_000,
            connect_within: Duration::from_secs(10),
            silence: Duration::from_secs(20),
            presence_stays: Duration::from_secs(5),
            debounce: Duration::from_micros(16_700),
        }
    }
}
