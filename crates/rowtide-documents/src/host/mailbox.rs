//! What a room is asked for, and by whom.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::outbox::{Outbox, OutgoingFrames, frame_bytes};
use super::room::UnreadableDocument;
use crate::place::{Access, Closing, Frame, Reason, Socket};

/// So many bytes of messages count as one.
const UNIT: usize = 1 << 10;

/// Why nobody can come to a document, or nothing can be done with it.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// It is deleted, or there is no such kind.
    #[error("there is no such document")]
    NotFound,
    /// As many rooms are awake as may be.
    #[error("as many rooms are awake as may be")]
    Full,
    /// The host stops.
    #[error("the host stops")]
    Stopping,
    /// It is there and cannot be opened, for a reason that the log tells.
    #[error("the document cannot be opened now")]
    Unopened,
    /// It has begun already, and cannot begin with something else.
    #[error("the document has begun already")]
    Begun,
    /// It could not be saved.
    #[error("the document could not be saved")]
    Unsaved,
    /// It cannot be restored to this.
    #[error("the document cannot be restored: {0}")]
    Unrestorable(#[from] UnreadableDocument),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] super::objects::StorageError),
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] crate::journal::Refused),
}

impl DocumentError {
    /// How a socket is closed that cannot come to the document.
    pub fn closing(&self) -> Closing {
        match self {
            DocumentError::NotFound => Closing::Final(Reason::NotFound),
            _ => Closing::ComeBack,
        }
    }
}

/// Says whether and how each socket of a room is closed.
pub(super) type Judge = Box<dyn Fn(Socket) -> Option<Closing> + Send>;

/// Tells whether it was done.
pub(super) type Done = oneshot::Sender<Result<(), DocumentError>>;

pub(super) enum Request {
    Join {
        socket: Socket,
        session: Box<str>,
        access: Access,
        outbox: Outbox,
        done: Done,
    },
    Heard {
        socket: Socket,
        frame: Frame,
        _room: OwnedSemaphorePermit,
    },
    Left {
        socket: Socket,
    },
    SetAccess {
        socket: Socket,
        access: Access,
    },
    Close {
        judge: Judge,
    },
    Rename {
        name: Box<str>,
    },
    /// Saves what is there; for the history too, if that is wanted.
    Save {
        done: Done,
        for_history: bool,
    },
    /// Makes the document what a snapshot says; only one that has not begun yet, if it `begins` so.
    Restore {
        snapshot: Bytes,
        begins: bool,
        done: Done,
    },
    /// The document is deleted: everyone goes, and nothing is saved any more.
    Forget {
        done: Done,
    },
    /// Everyone goes, and the room sleeps once all is saved.
    Stop,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Request")
    }
}

/// The way to a room that is awake.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    pub(super) requests: mpsc::Sender<Request>,
    /// For the bytes of messages.
    bytes: Arc<Semaphore>,
    units: usize,
}

impl Mailbox {
    pub(super) fn new(requests: mpsc::Sender<Request>, bytes: usize) -> Mailbox {
        let units = bytes / UNIT + 1;
        Mailbox { requests, bytes: Arc::new(Semaphore::new(units)), units }
    }
}

/// A socket's stay in a room, which ends when this is dropped.
#[derive(Debug)]
pub struct Seat {
    socket: Socket,
    mailbox: Mailbox,
    /// A place in the row of requests for its leaving, which so comes after all that it sent.
    leaving: Option<mpsc::OwnedPermit<Request>>,
}

impl Seat {
    pub(super) fn new(
        socket: Socket,
        mailbox: Mailbox,
        leaving: mpsc::OwnedPermit<Request>,
    ) -> Seat {
        Seat { socket, mailbox, leaving: Some(leaving) }
    }

    /// The socket's number.
    pub fn socket(&self) -> Socket {
        self.socket
    }

    /// The socket has sent a frame. Waits while the room has too much to do; what a room that has gone is told is lost,
    /// as the socket is closed then.
    pub async fn heard(&self, frame: Frame) {
        let units = (frame_bytes(&frame) / UNIT + 1).min(self.mailbox.units) as u32;
        let Ok(room) = Arc::clone(&self.mailbox.bytes).acquire_many_owned(units).await else {
            return;
        };
        let heard = Request::Heard { socket: self.socket, frame, _room: room };
        self.mailbox.requests.send(heard).await.ok();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(leaving) = self.leaving.take() {
            leaving.send(Request::Left { socket: self.socket });
        }
    }
}

/// A socket that has come to a document.
#[derive(Debug)]
pub struct Joined {
    /// Its stay.
    pub seat: Seat,
    /// What it is sent, and at last how it is closed.
    pub outgoing: OutgoingFrames,
}
