//! What a walsender says and is told, as bytes (PostgreSQL documentation, "Message Formats" and "Streaming
//! Replication Protocol"). Messages are found in a buffer and borrow from it, many at a time. Reading is total:
//! any bytes are a message, the beginning of one, or an error.

use bytes::{BufMut, BytesMut};
use rowtide_protocol::Lsn;
use thiserror::Error;
use tokio_postgres::error::SqlState;

use crate::pgoutput::Malformed;

/// The bytes of a message besides its body: its kind and its length.
pub(crate) const HEADER: usize = 5;

/// Postgres has said no.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct StreamRejection {
    /// The SQLSTATE.
    pub code: String,
    /// In Postgres' own words; of a right that is missing with which one that is.
    pub message: String,
}

/// Says that we send nothing more.
pub(crate) const COPY_DONE: &[u8] = b"c\0\0\0\x04";

/// A message of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first message of `buffer`, with the bytes that it takes there; `None` if it is not all there yet.
    pub(crate) fn first(buffer: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, Malformed> {
        let Some((header, rest)) = buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [kind, length @ ..] = *header;
        // The length counts itself.
        let body = (u32::from_be_bytes(length) as usize).checked_sub(4);
        let Some(body) = body else { return Err(malformed(kind, "the length is too small")) };
        Ok(rest.get(..body).map(|body| (Frame { kind, body }, HEADER + body.len())))
    }

    /// The bytes that the first message of `buffer` takes, once its header is there.
    pub(crate) fn length(buffer: &[u8]) -> Option<usize> {
        let (header, _) = buffer.split_first_chunk::<HEADER>()?;
        let [_, length @ ..] = *header;
        Some(1 + u32::from_be_bytes(length) as usize)
    }

    /// What an `ErrorResponse` says.
    pub(crate) fn rejection(self) -> StreamRejection {
        let mut rejection = StreamRejection { code: String::new(), message: String::new() };
        let mut detail = String::new();
        for field in self.body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = || String::from_utf8_lossy(text).into_owned();
            match kind {
                b'C' => rejection.code = text(),
                b'M' => rejection.message = text(),
                b'D' => detail = text(),
                _ => {}
            }
        }
        // Of other errors it may tell values of rows.
        if rejection.code == SqlState::INSUFFICIENT_PRIVILEGE.code() && !detail.is_empty() {
            rejection.message = format!("{} ({detail})", rejection.message);
        }
        rejection
    }
}

/// A message while the stream runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    /// A message of the plugin.
    Wal {
        /// When it was sent, in microseconds since 2000, by the clock that commits have.
        sent_us: i64,
        message: &'a [u8],
    },
    /// That Postgres is there, and how far it has sent.
    KeepAlive {
        end: Lsn,
        /// Whether it wants to hear from us at once.
        reply: bool,
    },
    /// The stream ends with an error.
    Rejected(StreamRejection),
    /// The stream ends.
    Done,
    /// Something that is not about the stream.
    Aside,
}

impl<'a> Said<'a> {
    pub(crate) fn read(frame: Frame<'a>) -> Result<Said<'a>, Malformed> {
        match frame.kind {
            b'd' => {}
            b'E' => return Ok(Said::Rejected(frame.rejection())),
            b'c' | b'C' => return Ok(Said::Done),
            b'N' | b'S' => return Ok(Said::Aside),
            kind => return Err(malformed(kind, "it does not belong here")),
        }
        let Some((&kind, body)) = frame.body.split_first() else {
            return Err(malformed(frame.kind, "it is empty"));
        };
        match kind {
            // Where it begins, where WAL ends, and the time.
            b'w' => match (body.get(16..).and_then(<[u8]>::first_chunk), body.get(24..)) {
                (Some(sent), Some(message)) => {
                    Ok(Said::Wal { sent_us: i64::from_be_bytes(*sent), message })
                }
                _ => Err(malformed(kind, "it is cut off")),
            },
            b'k' => match (body.first_chunk(), body.get(16), body.len()) {
                (Some(end), Some(reply), 17) => {
                    Ok(Said::KeepAlive { end: Lsn(u64::from_be_bytes(*end)), reply: *reply != 0 })
                }
                _ => Err(malformed(kind, "it has another length")),
            },
            _ => Err(malformed(kind, "the kind of message is unknown")),
        }
    }
}

/// Appends a status: that everything up to `confirmed` is not needed again, and whether we want an answer. The time
/// is in microseconds since 2000.
pub(crate) fn put_status(into: &mut BytesMut, confirmed: Lsn, time_us: i64, reply: bool) {
    into.put_u8(b'd');
    into.put_u32(4 + 1 + 3 * 8 + 8 + 1);
    into.put_u8(b'r');
    // Written, flushed and applied.
    (0..3).for_each(|_| into.put_u64(confirmed.0));
    into.put_i64(time_us);
    into.put_u8(u8::from(reply));
}

fn malformed(kind: u8, what: &'static str) -> Malformed {
    Malformed { kind: char::from(kind), what, offset: 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn what_postgres_says_is_read() {
        let said = |kind, body: &[u8]| {
            let bytes = frame(kind, body);
            let (frame, length) = Frame::first(&bytes).unwrap().unwrap();
            assert_eq!((length, Frame::length(&bytes)), (bytes.len(), Some(bytes.len())));
            match Said::read(frame)? {
                Said::Wal { sent_us, message } => Ok(format!("wal {sent_us} {message:?}")),
                other => Ok::<_, Malformed>(format!("{other:?}")),
            }
        };
        let wal = [&b"w"[..], &[0; 23], &[9], b"B"].concat();
        assert_eq!(said(b'd', &wal).unwrap(), "wal 9 [66]");
        let keepalive = [&b"k"[..], &7_u64.to_be_bytes(), &[0; 8], &[1]].concat();
        assert!(said(b'd', &keepalive).unwrap().contains("Lsn(7), reply: true"));
        let rejected = said(b'E', b"SERROR\0C42704\0Mno publication\0\0").unwrap();
        assert!(rejected.contains(r#"code: "42704", message: "no publication""#), "{rejected}");
        assert_eq!(said(b'c', b"").unwrap(), "Done");
        assert_eq!(said(b'N', b"x").unwrap(), "Aside");
        for (kind, body) in
            [(b'd', &b""[..]), (b'd', b"k"), (b'd', b"w"), (b'd', b"x"), (b'Z', b"I")]
        {
            assert!(said(kind, body).is_err(), "{kind} {body:?}");
        }
        assert!(Frame::first(&[b'd', 0, 0, 0, 3]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_rejected(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..60), kind in 0..8_usize
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = b"dEcCNSZx"[kind];
            }
            if bytes.len() > 5 {
                bytes[1..4].fill(0);
            }
            if let Ok(Some((frame, length))) = Frame::first(&bytes) {
                prop_assert!(length <= bytes.len());
                drop(Said::read(frame));
            }
        }
    }
}
