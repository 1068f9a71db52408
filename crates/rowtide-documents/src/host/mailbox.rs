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
    /// It was edited with a newer schema than this server's, and is left as it is.
    #[error("the document is of a newer schema than the server's")]
    Newer,
    /// It has begun already, and cannot begin with something else.
    #[error("the document has begun already")]
    Begun,
    /// It could not be saved.
    #[error("the document could not be saved")]
    Unsaved,
    /// It cannot be restored to this.
    #[error("the document cannot be restored: {0}")]
    Unrestorable(#[from] UnreadableDocument),
    /// It cannot be given this name now.
    #[error("the document cannot be given another name: {0}")]
    Unnamed(#[source] UnreadableDocument),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] super::failure::StorageError),
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] crate::journal::Refused),
}

/// Why a document is not published.
#[derive(Debug, Error)]
pub enum PublishError {
    /// It has no address, or one that nothing can have.
    #[error("its address is missing, too long, or one that no client asks for")]
    Slug,
    /// Another document has the address.
    #[error("another document is published under its address")]
    Taken,
    /// It cannot be opened or saved.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] super::failure::StorageError),
}

impl DocumentError {
    /// How a socket is closed that cannot come to the document.
    pub fn closing(&self) -> Closing {
        match self {
            DocumentError::NotFound => Closing::Final(Reason::NotFound),
            DocumentError::Newer => Closing::Final(Reason::ServerTooOld),
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
        done: Done,
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
    /// Puts a snapshot in place of the document, which cannot be opened.
    PutBack {
        snapshot: Bytes,
        done: Done,
    },
    /// Whether somebody has edited the document, or it was saved.
    HasBegun {
        answer: oneshot::Sender<bool>,
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

/// A request in the row, with the place that it takes there until the room has it.
#[derive(Debug)]
struct Waiting {
    request: Request,
    _place: Option<OwnedSemaphorePermit>,
}

/// The way to a room that is awake.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    row: mpsc::UnboundedSender<Waiting>,
    /// Places in the row. Only what stands in it has one, so the room is all that is needed for the next to come.
    places: Arc<Semaphore>,
    /// For the bytes of messages.
    bytes: Arc<Semaphore>,
    units: usize,
}

/// The room's end of it.
#[derive(Debug)]
pub(super) struct Inbox {
    row: mpsc::UnboundedReceiver<Waiting>,
}

/// A room has gone, and was not told.
#[derive(Debug)]
pub(super) struct Gone;

/// Makes one in which so many requests may wait, and so many bytes of messages.
pub(super) fn mailbox(requests: usize, bytes: usize) -> (Mailbox, Inbox) {
    let (row, inbox) = mpsc::unbounded_channel();
    let units = bytes / UNIT + 1;
    let places = Arc::new(Semaphore::new(requests.max(1)));
    (Mailbox { row, places, bytes: Arc::new(Semaphore::new(units)), units }, Inbox { row: inbox })
}

impl Mailbox {
    /// Asks the room for something, once there is a place for it.
    pub(super) async fn send(&self, request: Request) -> Result<(), Gone> {
        let place = self.place().await?;
        self.put(request, Some(place))
    }

    /// Has a socket join. Its seat is there if and only if the room is told of it, whoever gives up waiting.
    pub(super) async fn join(&self, socket: Socket, join: Request) -> Result<Seat, Gone> {
        let place = self.place().await?;
        self.put(join, Some(place))?;
        Ok(Seat { socket, mailbox: self.clone() })
    }

    /// Tells the room that the host stops, which needs no place: it is told once.
    pub(super) fn stop(&self) -> Result<(), Gone> {
        self.put(Request::Stop, None)
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, Gone> {
        Arc::clone(&self.places).acquire_owned().await.map_err(|_| Gone)
    }

    fn put(&self, request: Request, place: Option<OwnedSemaphorePermit>) -> Result<(), Gone> {
        self.row.send(Waiting { request, _place: place }).map_err(|_| Gone)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.row.is_closed()
    }

    /// Whether anybody but its keeper can ask the room for something.
    pub(super) fn is_shared(&self) -> bool {
        self.row.strong_count() > 1
    }
}

impl Inbox {
    /// The next request; none once nobody can ask.
    pub(super) async fn next(&mut self) -> Option<Request> {
        self.row.recv().await.map(|waiting| waiting.request)
    }

    /// Nothing more is taken in; what is there is still to be answered.
    pub(super) fn close(&mut self) {
        self.row.close();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.row.is_empty()
    }
}

/// A socket's stay in a room, which ends when this is dropped.
#[derive(Debug)]
pub struct Seat {
    socket: Socket,
    mailbox: Mailbox,
}

impl Seat {
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
        self.mailbox.send(heard).await.ok();
    }
}

impl Drop for Seat {
    /// It leaves after all that it sent, and without waiting for a place: no more sockets leave than have come.
    fn drop(&mut self) {
        self.mailbox.put(Request::Left { socket: self.socket }, None).ok();
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
