//! What a stranger may send: until a conversation has let its client in, the messages on its socket are small ones.
//! The library that reads frames takes one size for the whole life of a socket, so the headers of frames are read
//! here as they pass, and a message that says it is larger ends the socket before any of it is kept. Behind the
//! first message nothing is read any further before the client is let in. [`Lengths`] is pure.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;

/// The longest header of a frame, in bytes (RFC 6455, 5.2).
const MAX_HEADER: usize = 14;

/// A message is larger than a stranger's may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// How large it may be, in bytes.
    pub limit: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "before `connect` is accepted a message has at most {} bytes", self.limit)
    }
}

impl std::error::Error for TooLong {}

/// The lengths of the messages in a stream of frames, as far as their headers say them.
#[derive(Clone, Debug)]
pub struct Lengths {
    limit: usize,
    /// The part of a header that has come.
    header: [u8; MAX_HEADER],
    has: usize,
    /// What is still to come of a frame.
    payload: u64,
    /// What the frames of the message have so far.
    message: u64,
    /// Whether the frame is the last of a message of data.
    ends: bool,
    /// Whether a whole message has passed.
    has_first: bool,
    /// Whether a later message says that it is larger.
    is_held: bool,
}

impl Lengths {
    /// Of messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Lengths {
        Lengths {
            limit,
            header: [0; MAX_HEADER],
            has: 0,
            payload: 0,
            message: 0,
            ends: false,
            has_first: false,
            is_held: false,
        }
    }

    /// Whether the first message is there, whole.
    pub fn has_first(&self) -> bool {
        self.has_first
    }

    /// Whether a message behind the first is larger. Nothing is looked at behind its header.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Takes what comes next.
    ///
    /// # Errors
    /// When the first message says that it is larger.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while !self.is_held && !bytes.is_empty() {
            if self.payload > 0 {
                let part = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= part as u64;
                bytes = &bytes[part..];
            } else {
                self.header[self.has] = bytes[0];
                self.has += 1;
                bytes = &bytes[1..];
                if self.has < self.header_length() {
                    continue;
                }
                self.read_header()?;
            }
            if self.payload == 0 && self.ends {
                (self.has_first, self.ends, self.message) = (true, false, 0);
            }
        }
        Ok(())
    }

    /// How long the header is, as far as is known.
    fn header_length(&self) -> usize {
        if self.has < 2 {
            return 2;
        }
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        mask + match self.header[1] & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        }
    }

    fn read_header(&mut self) -> Result<(), TooLong> {
        let header = self.header;
        self.has = 0;
        self.payload = match header[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([header[2], header[3]])),
            127 => {
                let [_, _, length @ .., _, _, _, _] = header;
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        // Control frames stand between the frames of a message, and are no part of it.
        let is_data = header[0] & 0x08 == 0;
        self.ends = is_data && header[0] & 0x80 != 0;
        if is_data {
            self.message = self.message.saturating_add(self.payload);
        }
        let is_too_long = self.message.max(self.payload) > self.limit as u64;
        self.is_held = is_too_long && self.has_first;
        if is_too_long && !self.has_first { Err(TooLong { limit: self.limit }) } else { Ok(()) }
    }
}

/// A client's WebSocket.
pub(crate) type Socket = WebSocketStream<Gate<TokioIo<Upgraded>>>;

/// A socket, closed for all but a small first message until it is opened.
#[derive(Debug)]
pub(crate) struct Gate<S> {
    socket: S,
    state: GateState,
}

#[derive(Debug)]
enum GateState {
    /// A stranger's first message may come; what comes behind it waits.
    Closed(Lengths),
    /// The stranger was told to go: small messages are read, so that it can be seen to go.
    Leaving(Lengths),
    /// Something too large comes: it is read, so that its sender comes to read what they are told, and thrown away.
    Spoilt,
    /// Whatever comes.
    Open,
}

impl<S> Gate<S> {
    /// Lets in a first message of at most `limit` bytes.
    pub(crate) fn new(socket: S, limit: usize) -> Gate<S> {
        Gate { socket, state: GateState::Closed(Lengths::new(limit)) }
    }

    /// Lets in whatever comes.
    pub(crate) fn open(&mut self) {
        self.state = GateState::Open;
    }

    /// Whoever was not let in is to go.
    pub(crate) fn leave(&mut self) {
        if let GateState::Closed(lengths) = &self.state {
            self.state = GateState::Leaving(lengths.clone());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Gate { socket, state } = &mut *self;
        let before = into.filled().len();
        loop {
            match state {
                // Whoever opens the gate, or has the stranger leave, reads again after that.
                GateState::Closed(lengths) if lengths.has_first() => return Poll::Pending,
                GateState::Leaving(lengths) if lengths.is_held() => *state = GateState::Spoilt,
                _ => {}
            }
            std::task::ready!(Pin::new(&mut *socket).poll_read(cx, into))?;
            let came = &into.filled()[before..];
            match state {
                GateState::Closed(lengths) | GateState::Leaving(lengths) => {
                    if let Err(too_long) = lengths.take(came) {
                        *state = GateState::Spoilt;
                        return Poll::Ready(Err(io::Error::other(too_long)));
                    }
                }
                GateState::Spoilt if !came.is_empty() => {
                    into.set_filled(before);
                    continue;
                }
                GateState::Spoilt | GateState::Open => {}
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1_000;

    fn frame(code: u8, last: bool, masked: bool, length: usize) -> Vec<u8> {
        let mut bytes = vec![code | if last { 0x80 } else { 0 }];
        let mask = if masked { 0x80 } else { 0 };
        match length {
            0..126 => bytes.push(mask | length as u8),
            126..0x1_0000 => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(std::iter::repeat_n(1, if masked { 4 } else { 0 }));
        bytes.extend(std::iter::repeat_n(b'x', length.min(100_000)));
        bytes
    }

    /// In pieces of every size there comes the same of it.
    fn take(bytes: &[u8]) -> Result<bool, TooLong> {
        let take = |size: usize| {
            let mut lengths = Lengths::new(LIMIT);
            bytes.chunks(size).try_for_each(|piece| lengths.take(piece))?;
            Ok(lengths.has_first())
        };
        let whole = take(bytes.len());
        for size in [1, 2, 3, 7, 64] {
            assert_eq!(take(size), whole, "in pieces of {size}");
        }
        whole
    }

    #[test]
    fn a_first_message_of_the_largest_size_passes_in_one_frame_or_many() {
        for masked in [false, true] {
            for length in [0, 1, 125, 126, 127, LIMIT] {
                assert_eq!(take(&frame(1, true, masked, length)), Ok(true), "{length}");
            }
            let parts = [frame(1, false, masked, 500), frame(0, false, masked, 0)].concat();
            assert_eq!(take(&parts), Ok(false));
            let ping = frame(9, true, masked, 125);
            let whole = [&parts[..], &ping, &frame(0, true, masked, 500)].concat();
            assert_eq!(take(&whole), Ok(true));
        }
    }

    #[test]
    fn a_larger_one_is_told_by_its_header() {
        let too_long = Err(TooLong { limit: LIMIT });
        for length in [LIMIT + 1, 0xffff, 0x1_0000, 1 << 40, usize::MAX] {
            let whole = frame(1, true, true, length);
            assert_eq!(take(&whole[..whole.len().min(14)]), too_long, "{length}");
        }
        let parts = [frame(2, false, true, 500), frame(0, true, true, 501)].concat();
        assert_eq!(take(&parts), too_long);
        assert_eq!(take(&frame(9, true, true, LIMIT + 1)), too_long, "a ping is none either");
    }

    #[test]
    fn what_is_behind_the_first_is_held() {
        let small = [frame(9, true, true, 5), frame(1, true, true, 5), frame(1, true, true, LIMIT)];
        let mut lengths = Lengths::new(LIMIT);
        assert_eq!(lengths.take(&small.concat()), Ok(()));
        assert!(lengths.has_first() && !lengths.is_held());
        assert_eq!(lengths.take(&frame(1, true, true, LIMIT + 1)), Ok(()));
        assert!(lengths.is_held());
    }
}
