//! A client's socket for whoever speaks over it without a conversation of the gateway's: with the same gate before a
//! stranger is let in, the same pace, and the same patience. Frames are read and written one by one; what they mean is
//! for whoever holds it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::time::{sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::connection::unreadable;
use crate::gate::Socket;
use crate::limits::{GOODBYE_MESSAGES, GOODBYE_TIMEOUT, MESSAGES_PER_SECOND, WRITE_TIMEOUT};
use crate::now::Clock;
use crate::pace::Pace;
use crate::telemetry::{self, Limit};

/// What a client sends, or is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldFrame {
    /// UTF-8.
    Text(Bytes),
    /// Any bytes.
    Binary(Bytes),
    /// A ping or a pong: there is somebody.
    Alive,
}

/// Nothing more comes from a client, or reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldEnd {
    /// It is gone, or took too long to read.
    Gone,
    /// It has sent what is no frame, or one that is too large.
    Unreadable,
}

/// See the module.
pub struct HeldSocket {
    socket: Socket,
    pace: Pace,
    clock: Clock,
}

impl HeldSocket {
    pub(crate) fn new(socket: Socket, clock: Clock) -> HeldSocket {
        HeldSocket { socket, pace: Pace::new(MESSAGES_PER_SECOND, Duration::from_secs(1)), clock }
    }

    /// Lets in more than a small first message.
    pub fn let_in(&mut self) {
        self.socket.get_mut().open();
    }

    /// The next frame. What is over the pace is read later. Cancel safe.
    ///
    /// # Errors
    /// When there will be none.
    pub async fn hear(&mut self) -> Result<HeldFrame, HeldEnd> {
        if let Some(until) = self.pace.rests_until(self.clock.time()) {
            sleep_until(self.clock.instant(until)).await;
        }
        let message = self.socket.next().await;
        let now = self.clock.time();
        self.pace.take(now);
        if self.pace.rests_until(now).is_some() {
            telemetry::limited(Limit::Messages);
        }
        match message {
            Some(Ok(Message::Text(text))) => Ok(HeldFrame::Text(text.into())),
            Some(Ok(Message::Binary(bytes))) => Ok(HeldFrame::Binary(bytes)),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(HeldFrame::Alive),
            Some(Ok(Message::Close(_) | Message::Frame(_))) | None => Err(HeldEnd::Gone),
            Some(Err(error)) => match unreadable(&error) {
                Some(_) => Err(HeldEnd::Unreadable),
                None => Err(HeldEnd::Gone),
            },
        }
    }

    /// Writes frames, [`HeldFrame::Alive`] as a ping, and sees them on their way.
    ///
    /// # Errors
    /// When the client is gone, or does not take them in time.
    pub async fn say(
        &mut self,
        frames: impl IntoIterator<Item = HeldFrame>,
    ) -> Result<(), HeldEnd> {
        let (mut count, mut bytes) = (0, 0);
        for frame in frames {
            let message = match frame {
                HeldFrame::Text(text) => match Utf8Bytes::try_from(text) {
                    Ok(text) => Message::Text(text),
                    // Nobody is told what is none.
                    Err(_) => continue,
                },
                HeldFrame::Binary(bytes) => Message::Binary(bytes),
                HeldFrame::Alive => Message::Ping(Bytes::new()),
            };
            count += 1;
            bytes += message.len() as u64;
            match timeout(WRITE_TIMEOUT, self.socket.feed(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(HeldEnd::Gone),
            }
        }
        telemetry::sent(count, bytes);
        match timeout(WRITE_TIMEOUT, self.socket.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(HeldEnd::Gone),
        }
    }

    /// Closes with a code and a reason of at most 123 bytes, and waits for a while until the client has read it:
    /// dropping the socket at once may take it back.
    pub async fn close(self, code: u16, reason: &'static str) {
        goodbye(self.socket, code, reason).await;
    }
}

/// See [`HeldSocket::close`].
pub(crate) async fn goodbye(mut socket: Socket, code: u16, reason: &'static str) {
    socket.get_mut().leave();
    let close = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
    let said = async {
        drop(socket.send(Message::Close(Some(close))).await);
        // Without an end there is no pace, either.
        for _ in 0..GOODBYE_MESSAGES {
            let Some(Ok(_)) = socket.next().await else { break };
        }
    };
    // Whether the client hears it is up to the client.
    drop(timeout(GOODBYE_TIMEOUT, said).await);
}
