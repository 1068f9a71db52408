//! Every limit of who is in which document, with its unit.

use std::time::Duration;

/// How many standings are asked for in one question.
pub const ASKED_AT_ONCE: usize = 256;
/// How long a row that is not there is looked for when somebody connects: their client knows of it before the
/// database does.
pub const MISSING_FOR: Duration = Duration::from_secs(1);
/// The pause before a standing is asked for again, whose answer did not count.
pub const ASK_AGAIN: Duration = Duration::from_millis(50);
/// For how long it may be unknown what somebody may do who connects. Less than the 10 s after which clients give up.
pub const UNKNOWN_AT_CONNECT: Duration = Duration::from_secs(8);
/// For how long it may be unknown, after a change, what somebody may do who is there.
pub const UNKNOWN_WHILE_OPEN: Duration = Duration::from_secs(30);
/// How often all standings are asked for while the stream is interrupted.
pub const ASK_WITHOUT_STREAM: Duration = Duration::from_secs(5);
/// After what time a change that no snapshot has proved visible makes one be taken.
pub const SNAPSHOT_DUE: Duration = Duration::from_secs(1);
/// How many changed rows are remembered one by one until a snapshot has proved them visible; beyond that, of which
/// kinds they were.
pub const MOST_SEEN_ROWS: usize = 10_000;
/// The pause after a question that Postgres did not answer; it doubles with each.
pub const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
pub const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How many documents are deleted or take a name at once.
pub const CHORES_AT_ONCE: usize = 64;
/// How often it is tried that a document takes its name. One that cannot be opened takes it when somebody comes again.
pub const NAME_TRIES: u32 = 12;
/// How long a server that has to stand by saves documents before it leaves the rest to the journal.
pub const STANDBY_SAVES: Duration = Duration::from_secs(5);
/// Longer than any process lives.
pub(crate) const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// How many saves are written into rows at once.
pub const TOUCHED_AT_ONCE: usize = 500;
/// The longest name of a session, in bytes.
pub const MAX_SESSION_ID_BYTES: usize = 200;
/// The largest frame of a client of tlsync, in bytes: a longer message comes in several.
pub const TLSYNC_FRAME_BYTES: usize = 1 << 20;
/// The largest frame of a client of Yjs, in bytes.
pub const YJS_FRAME_BYTES: usize = 16 << 20;
