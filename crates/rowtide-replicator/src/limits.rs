//! Every limit of the replicator, with its unit, in one place.

use std::time::Duration;

/// How many bytes of transactions may be on their way from the stream to the log and to those who follow.
pub const RING_BYTES: usize = 256 << 20;
/// How many batches of the stream may wait for the log.
pub const LOG_BATCHES: usize = 256;
/// How long transactions are collected before they are written to the log together: each write is a flush of the disk,
/// and only a client that resumes waits for it.
pub const LOG_COLLECT: Duration = Duration::from_millis(5);
/// How many events go into one write of the log.
pub const LOG_GROUP: usize = 4_096;
/// How often a position without transactions is written into the log.
pub const LOG_POSITION_EVERY: Duration = Duration::from_secs(1);
/// How often old parts of the log are dropped.
pub const LOG_PRUNE_EVERY: Duration = Duration::from_secs(10);
/// How often the log's size is looked at, at the most.
pub const LOG_SIZE_EVERY: Duration = Duration::from_secs(1);
/// How long the log waits before it tries a write again that failed.
pub const LOG_RETRY: Duration = Duration::from_millis(500);
/// The most changes that bring one session up to date; beyond it the session is sent all of its rows.
pub const HISTORY_CHANGES: usize = 20_000;
/// The most bytes of changes that bring one session up to date.
pub const HISTORY_BYTES: usize = 8 << 20;
/// How many of the last changes are read from the log at the start, because a load may not see them yet.
pub const RECENT_CHANGES: usize = 10_000;
/// How often a server that waits for another to give up its place looks whether it has.
pub const STANDBY_LOOK: Duration = Duration::from_millis(250);
/// The pause after the first failure; it doubles with each.
pub const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
pub const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How many events that are there already are handed on together.
pub const BATCH: usize = 256;
/// About how many bytes of them.
pub const BATCH_BYTES: usize = 4 << 20;
/// How long what comes of a backlog is batched at the most, before it is handed on together: by a quarter of what it is
/// late already. Everyone behind the stream is woken once for it, each client of many among them.
pub const BATCH_TIME: Duration = Duration::from_millis(50);
/// If nothing more comes for so long, there is no backlog any more.
pub const BATCH_PAUSE: Duration = Duration::from_millis(2);
/// How many events of a backlog are batched at the most.
pub const BATCH_EVENTS: usize = 4_096;
/// How often the database is looked at while it streams: how long a drift may go unnoticed, and the one query of an
/// idle server.
pub const WATCH: Duration = Duration::from_secs(1);
/// How long a look at the tables may take. It waits for no lock of the application for longer than 10 seconds anyway.
pub const LOOK_TIMEOUT: Duration = Duration::from_secs(15);
/// For how long the database may not be looked at before the server says that it does not know what has become of the
/// tables, and is not ready.
pub const WATCH_PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether a transaction that is committed can be seen.
pub const UNSEEN_LOOK: Duration = Duration::from_millis(200);
/// After how many such looks a transaction that is at work, and waits for nothing, has not come to its commit: what
/// is left of one whose WAL is flushed takes a moment.
pub const COMMIT_LOOKS: u32 = 5;
