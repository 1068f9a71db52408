//! What all kinds of sessions need of a WebSocket: to write within a time, to notice that the other
//! side has gone, and to end with a code.

use axum::body::Bytes;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use futures_util::SinkExt;
use rowtide_protocol::ErrorCode;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{self, Error, error::ProtocolError};

use crate::auth::Unauthorized;
use crate::limits::{PING_AFTER, SILENCE, WRITE_TIMEOUT};

/// Why a session ends with an error.
pub(crate) struct Ending {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl Ending {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Ending {
        Ending { code, message: message.into() }
    }

    pub(crate) fn stopping() -> Ending {
        Ending::new(ErrorCode::Restarting, "the server is stopping")
    }
}

impl From<Unauthorized> for Ending {
    fn from(error: Unauthorized) -> Ending {
        Ending::new(ErrorCode::Unauthorized, error.to_string())
    }
}

/// The socket is gone, or the client took too long to read.
pub(crate) struct Gone;

pub(crate) fn text(frame: Bytes) -> Message {
    match Utf8Bytes::try_from(frame) {
        Ok(text) => Message::Text(text),
        Err(_) => unreachable!("frames are JSON made of UTF-8"),
    }
}

/// Writes frames with one flush.
pub(crate) async fn write(
    socket: &mut WebSocket,
    frames: impl IntoIterator<Item = Message>,
) -> Result<(), Gone> {
    let all = async {
        for frame in frames {
            socket.feed(frame).await?;
        }
        socket.flush().await
    };
    match timeout(WRITE_TIMEOUT, all).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone),
    }
}

/// Writes a frame that need not be on its way yet.
pub(crate) async fn feed(socket: &mut WebSocket, frame: Message) -> Result<(), Gone> {
    match timeout(WRITE_TIMEOUT, socket.feed(frame)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone),
    }
}

/// What to say of a frame that cannot be read; nothing if the connection is gone.
pub(crate) fn read_error(error: axum::Error) -> Option<Ending> {
    let inner = error.into_inner();
    match inner.downcast_ref::<tungstenite::Error>() {
        Some(
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
            | Error::Io(_)
            | Error::ConnectionClosed
            | Error::AlreadyClosed,
        )
        | None => None,
        Some(broken) => {
            let message = format!("the message cannot be read: {broken}");
            Some(Ending::new(ErrorCode::BadRequest, message))
        }
    }
}

/// When the other side was heard of, and when it was asked whether it is there. Silence counts only
/// from when it was asked: it may have been sent so much before that it could not answer.
pub(crate) struct Heartbeat {
    heard: Instant,
    asked: Option<Instant>,
}

/// What is to be done about a client that is silent.
pub(crate) enum Beat {
    /// Ask whether it is there.
    Ping,
    /// It has not answered.
    Dead,
}

impl Heartbeat {
    pub(crate) fn new() -> Heartbeat {
        Heartbeat { heard: Instant::now(), asked: None }
    }

    pub(crate) fn heard(&mut self) {
        *self = Heartbeat::new();
    }

    /// Waits until something is to be done. Cancel safe.
    pub(crate) async fn next(&self) -> Beat {
        match self.asked {
            None => {
                sleep_until(self.heard + PING_AFTER).await;
                Beat::Ping
            }
            Some(asked) => {
                sleep_until(asked + (SILENCE - PING_AFTER)).await;
                Beat::Dead
            }
        }
    }

    /// Asks.
    pub(crate) async fn ask(&mut self, socket: &mut WebSocket) -> Result<(), Gone> {
        self.asked = Some(Instant::now());
        write(socket, [Message::Ping(Bytes::new())]).await
    }
}
