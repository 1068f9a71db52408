//! Messages about data on their way to one session. The first goes at once; those that come shortly after it wait
//! and go together, so that a room full of people who draw does not send each of them a frame for every stroke of
//! every other.

use std::time::Duration;

use bytes::Bytes;

use super::message::{Item, data};

/// What waits for one session.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Vec<Bytes>,
    bytes: usize,
    /// Until when what comes has to wait.
    until: Duration,
}

impl Outbox {
    /// Takes a message; the frame to send now, if it need not wait.
    pub(super) fn offer(
        &mut self,
        now: Duration,
        item: &Item,
        debounce: Duration,
    ) -> Option<Bytes> {
        if self.waiting.is_empty() && self.until <= now {
            self.until = now + debounce;
            return Some(item.frame.clone());
        }
        let message = item.message();
        self.bytes += message.len();
        self.waiting.push(message);
        self.due(now, debounce)
    }

    /// The frame whose time has come.
    pub(super) fn due(&mut self, now: Duration, debounce: Duration) -> Option<Bytes> {
        if now < self.until {
            return None;
        }
        let frame = self.flush()?;
        self.until = now + debounce;
        Some(frame)
    }

    /// All that waits, at once.
    pub(super) fn flush(&mut self) -> Option<Bytes> {
        self.bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() { None } else { Some(data(&waiting)) }
    }

    /// When a frame is due, if something waits.
    pub(super) fn next_due(&self) -> Option<Duration> {
        if self.waiting.is_empty() { None } else { Some(self.until) }
    }

    /// How many bytes wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
