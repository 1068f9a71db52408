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
/// How many documents take a name at once.
pub const NAMED_AT_ONCE: usize = 64;
/// How many documents are deleted, published or unpublished at once.
pub const EFFECTS_AT_ONCE: usize = 32;
/// How often it is tried to delete, publish or unpublish a document; then an operator has it tried again, or the next start.
pub const EFFECT_TRIES: u32 = 10;
/// The pause after such a try that failed; it doubles with each.
pub const MIN_EFFECT_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
pub const MAX_EFFECT_PAUSE: Duration = Duration::from_secs(300);
/// After what time it is kept how far the stream was followed, where nothing is to be done.
pub const CURSOR_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether an operator wants something repeated.
pub const REPEATS_EVERY: Duration = Duration::from_secs(1);
/// After what time it is said again that what is to be done with documents cannot be kept.
pub const SAID_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How many documents are held against their rows at once, where it is not known what happened.
pub const RECONCILED_AT_ONCE: usize = 500;
/// The most bytes of a request to the endpoints of history and publication.
pub const MAX_REQUEST_BYTES: usize = 4 << 10;
/// How long they may take; less than a connection may do nothing.
pub const REQUEST_WITHIN: Duration = Duration::from_secs(20);
/// How many requests to these endpoints are answered at once.
pub const REQUESTS_AT_ONCE: usize = 64;
/// How many bytes of publications are held as they were rendered, to be sent to whoever asks next.
pub const RENDERED_BYTES: usize = 64 << 20;
/// How many publications are read and rendered at once; who asks for another one waits.
pub const RENDERED_AT_ONCE: usize = 4;
/// How many sources of sources a document may begin from.
pub const MAX_SOURCES: usize = 8;
/// How many addresses are remembered in what the stream said of them last.
pub const MOST_KNOWN_ROWS: usize = 50_000;
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
/// For how long after frames were sent to a client of Yjs those that come next wait, to go together.
pub const GATHER_FRAMES: Duration = Duration::from_millis(10);
/// The largest frame of a client of Yjs, in bytes.
pub const YJS_FRAME_BYTES: usize = 16 << 20;
