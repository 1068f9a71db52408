//! What a room of either protocol tells the host around it.
//!
//! A room takes what a socket said, or what a clock or the rows said, and answers with [`Effect`]s
//! in order. The host carries them out in that order: a frame that follows an edit goes out when
//! the edit is durable, and not before. That is how nothing is lost that a client was told is
//! saved, while the room itself knows no disk.

use bytes::Bytes;
use rowtide_schema::SchemaQuestion;

/// One socket's stay in a room. The host numbers sockets, and never gives a number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket(pub u64);

/// What a member of a room may do with the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Sees the document and the others' presence, and is seen.
    Read,
    /// Changes the document too.
    Edit,
}

/// Why a socket is closed for good. Clients show it, and do not come back by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There is no such document, or it was deleted.
    NotFound,
    /// The document is there, and not for this person.
    Forbidden,
    /// The document is not for people who are not signed in.
    NotAuthenticated,
    /// Something else went wrong for good.
    UnknownError,
    /// The client speaks a version, or has a schema, that is no longer served.
    ClientTooOld,
    /// The client speaks a version, or has a schema, that the server does not know yet.
    ServerTooOld,
    /// The client sent a record that no client of this document could read.
    InvalidRecord,
    /// The client sent more than its rate.
    RateLimited,
    /// The room has as many sessions as it may.
    RoomFull,
}

impl Reason {
    /// The reason as it stands in the close frame, whatever the protocol.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotFound => "NOT_FOUND",
            Self::Forbidden => "FORBIDDEN",
            Self::NotAuthenticated => "NOT_AUTHENTICATED",
            Self::UnknownError => "UNKNOWN_ERROR",
            Self::ClientTooOld => "CLIENT_TOO_OLD",
            Self::ServerTooOld => "SERVER_TOO_OLD",
            Self::InvalidRecord => "INVALID_RECORD",
            Self::RateLimited => "RATE_LIMITED",
            Self::RoomFull => "ROOM_FULL",
        }
    }

    /// The code of the close frame that clients of Yjs take as final: y-websocket since 3.1 takes those from 4400 to 4499,
    /// which stand for the statuses of HTTP with the same last two digits.
    pub fn yjs_code(self) -> u16 {
        match self {
            Self::NotFound => 4404,
            Self::Forbidden => 4403,
            Self::NotAuthenticated => 4401,
            Self::RoomFull => 4409,
            Self::RateLimited => 4429,
            Self::UnknownError | Self::ClientTooOld | Self::ServerTooOld | Self::InvalidRecord => {
                4400
            }
        }
    }
}

/// The code of a close frame that is final for clients of tlsync: they come back after any other.
pub const FINAL: u16 = 4099;

/// How a socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// With the reason, and a code that clients of the protocol take as final: [`FINAL`] or [`Reason::yjs_code`].
    Final(Reason),
    /// So that the client comes back, and finds things as they are then.
    ComeBack,
}

/// A frame of the socket, encoded once and shared between the sockets it goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// UTF-8 text, as clients of tlsync read it.
    Text(Bytes),
    /// Bytes, as clients of Yjs read them.
    Binary(Bytes),
}

/// What a room asks of its host, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An edit to make durable. Given back to a room made from the same snapshot, in the order of
    /// the log, edits lead to the same document.
    Edit(Bytes),
    /// A question to the application's schema, the last of what a room asks for at a time: it is given the answer before
    /// anything else happens in it.
    Ask(SchemaQuestion),
    /// A frame for a socket, when every edit before it is durable.
    Send(Socket, Frame),
    /// A frame for a socket that says nothing of the document (`pong`): it waits for no disk.
    SendAtOnce(Socket, Frame),
    /// The end of a socket's stay, after the frames before it.
    Close(Socket, Closing),
}
