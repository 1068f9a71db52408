//! One step forward of a view, made once and shared by its sessions.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rowtide_plan::value::rfc3339;
use rowtide_protocol::{Cursor, tx_frame};

/// What has changed for a view since its last message.
#[derive(Debug)]
pub struct Message {
    /// Up to this commit.
    pub cursor: Cursor,
    /// The changes as JSON, separated by commas; shared where views are sent the same.
    pub changes: Bytes,
    /// How many they are.
    pub rows: u32,
    /// When the last of the commits happened, microseconds since 1970 UTC.
    pub commit_time_us: Option<i64>,
    /// The message as a frame, once somebody has asked for it.
    frame: OnceLock<Bytes>,
}

impl Message {
    /// A message; its frame is made when it is asked for.
    pub fn new(
        cursor: Cursor,
        changes: Bytes,
        rows: u32,
        commit_time_us: Option<i64>,
    ) -> Arc<Message> {
        Arc::new(Message { cursor, changes, rows, commit_time_us, frame: OnceLock::new() })
    }

    /// The `tx` frame of this message alone, without an acknowledgement; the same bytes for all who ask.
    pub fn frame(&self) -> Bytes {
        let make = || {
            let time = self.commit_time_us.map(rfc3339);
            tx_frame(self.cursor, [&self.changes[..]], None, time.as_deref())
        };
        self.frame.get_or_init(make).clone()
    }
}
