//! What waits for one socket: frames, bounded, and then perhaps how it is closed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::place::{Closing, Frame};

/// Frames count as this many bytes more than they have.
const FRAME_BYTES: usize = 64;

/// What goes to a socket next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A frame.
    Frame(Frame),
    /// It is closed, and nothing follows.
    Closed(Closing),
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Frame>,
    bytes: usize,
    closing: Option<Closing>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    news: Notify,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The room's end of it. Without it the socket is closed, to come back.
#[derive(Debug)]
pub(super) struct Outbox {
    shared: Arc<Shared>,
    bytes: usize,
    frames: usize,
}

/// The socket's end of it.
#[derive(Debug)]
pub struct OutgoingFrames {
    shared: Arc<Shared>,
}

/// Makes one that has so many bytes and frames at the most.
pub(super) fn outbox(bytes: usize, frames: usize) -> (Outbox, OutgoingFrames) {
    let shared = Arc::new(Shared::default());
    (Outbox { shared: Arc::clone(&shared), bytes, frames }, OutgoingFrames { shared })
}

pub(super) fn frame_bytes(frame: &Frame) -> usize {
    let (Frame::Text(bytes) | Frame::Binary(bytes)) = frame;
    Bytes::len(bytes) + FRAME_BYTES
}

impl Outbox {
    /// Adds a frame; whether there was room for it. One frame of any size has room if nothing else waits.
    pub(super) fn push(&self, frame: Frame) -> bool {
        let mut waiting = self.shared.waiting();
        let bytes = waiting.bytes + frame_bytes(&frame);
        if !waiting.frames.is_empty() && (bytes > self.bytes || waiting.frames.len() >= self.frames)
        {
            return false;
        }
        waiting.bytes = bytes;
        waiting.frames.push_back(frame);
        drop(waiting);
        self.shared.news.notify_one();
        true
    }

    /// Closes it after what waits.
    pub(super) fn close(self, closing: Closing) {
        self.shared.waiting().closing.get_or_insert(closing);
    }

    /// Closes it at once, so that the client comes back. What waits is forgotten.
    pub(super) fn give_up(self) {
        let mut waiting = self.shared.waiting();
        waiting.frames.clear();
        waiting.closing = Some(Closing::ComeBack);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.waiting().closing.get_or_insert(Closing::ComeBack);
        self.shared.news.notify_one();
    }
}

impl OutgoingFrames {
    /// What goes next. It can be dropped while it waits, and nothing is lost.
    pub async fn next(&mut self) -> Outgoing {
        loop {
            let news = self.shared.news.notified();
            {
                let mut waiting = self.shared.waiting();
                if let Some(frame) = waiting.frames.pop_front() {
                    waiting.bytes -= frame_bytes(&frame);
                    return Outgoing::Frame(frame);
                }
                if let Some(closing) = waiting.closing {
                    return Outgoing::Closed(closing);
                }
            }
            news.await;
        }
    }

    /// What goes next, if something waits.
    pub fn try_next(&mut self) -> Option<Outgoing> {
        let mut waiting = self.shared.waiting();
        if let Some(frame) = waiting.frames.pop_front() {
            waiting.bytes -= frame_bytes(&frame);
            return Some(Outgoing::Frame(frame));
        }
        waiting.closing.map(Outgoing::Closed)
    }
}
