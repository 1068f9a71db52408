//! The limits of a room of Yjs, with their units.

use std::time::Duration;

/// How long a message to a member is waited for, before an empty one is sent: clients of `y-websocket` that hear nothing
/// for 30 s take their connection for dead.
pub(crate) const QUIET: Duration = Duration::from_secs(20);

/// How often one member is asked for edits that are missing before its others, at the most.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(5);

/// So many bytes of an answer count as much as a message.
pub(crate) const BYTES_PER_MESSAGE: usize = 64 << 10;

/// How much may go on in a room of Yjs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct YjsLimits {
    /// How many sessions there may be at a time.
    pub sessions: usize,
    /// The largest message, in bytes.
    pub message_bytes: usize,
    /// How much memory the document may take, in bytes; about the size of what it says, some 250 bytes for each run of
    /// elements, and 1.5 KB for each client that ever edited it. Deletions may take a quarter more, so that a full
    /// document can be made smaller.
    pub document_bytes: usize,
    /// The longest state of a client's awareness, in bytes.
    pub awareness_bytes: usize,
    /// For how many clients one session may speak.
    pub clients_per_session: usize,
    /// How many messages one session may send at once, and in each second from then on; and how much it may ask for,
    /// of which 64 KB count as much as a message.
    pub messages_per_second: u32,
}

impl Default for YjsLimits {
    fn default() -> YjsLimits {
        YjsLimits {
            sessions: 100,
            message_bytes: 16 << 20,
            document_bytes: 128 << 20,
            awareness_bytes: 64 << 10,
            clients_per_session: 16,
            messages_per_second: 500,
        }
    }
}

/// How much of its rate a session has used: the time at which all that it sent would have been due.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    due: Duration,
}

impl Rate {
    /// Counts messages; whether they are within the rate. More than may be sent at once counts as that: nothing is too
    /// much for ever.
    pub(crate) fn take(&mut self, now: Duration, messages: u32, per_second: u32) -> bool {
        let messages = messages.min(per_second.max(1));
        let each = Duration::from_secs(1) / per_second.max(1);
        self.due = self.due.max(now) + each.saturating_mul(messages);
        self.due <= now + Duration::from_secs(1)
    }
}
