//! The messages of tlsync: what clients say, read once into what it means, and what they are told, written once for
//! all who are told the same. Messages about data are told in lists, so that several can share a frame.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Number;
use serde_json::error::Category;

use super::diff::{Flavour, RecordOp, RecordsDiff};
use super::document::Hydration;
use super::json::{Json, write_value};
use super::schema::{Mismatch, Schema};
use super::surrogates;
use super::telling::Entries;
use crate::place::{Access, Reason};

/// The oldest version of the protocol that is served.
const OLDEST: u8 = 5;
/// The newest.
const NEWEST: u8 = 8;
/// What stands before and behind the messages of a frame about data.
const DATA: (&[u8], &[u8]) = (br#"{"type":"data","data":["#, b"]}");

/// A version of the protocol that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protocol(u8);

/// What a client says.
#[derive(Debug)]
pub(super) enum Heard {
    Connect(Connect),
    Push(Push),
    Ping,
}

/// A client wants to be told of the document.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) request: Box<str>,
    /// The last clock that it was told.
    pub(super) seen: i64,
    pub(super) protocol: Result<Protocol, Mismatch>,
    pub(super) schema: Option<Schema>,
}

/// A client has changed the document, or what it shows of itself.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) clock: Number,
    pub(super) diff: Option<RecordsDiff>,
    pub(super) presence: Option<RecordOp>,
    /// It was read as something else than the client has, because that cannot be kept.
    pub(super) mended: bool,
}

/// Why a text is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is no JSON: something happened to it on the way.
    Text,
    /// It is JSON and says nothing that a client can say.
    Message,
    /// It is JSON and has a value that no record has: one that is nested too deep, or a number beyond all numbers. It would
    /// be the same when it came again.
    Record,
}

impl Unreadable {
    /// Why a text was not read. The parser tells these reasons apart in words alone.
    fn of(error: &serde_json::Error) -> Unreadable {
        let said = error.to_string();
        if said.starts_with("recursion limit exceeded") || said.starts_with("number out of range") {
            Unreadable::Record
        } else if error.classify() == Category::Data {
            Unreadable::Message
        } else {
            Unreadable::Text
        }
    }
}

/// What became of a push, as its client is told.
#[derive(Debug)]
pub(super) enum Action<'a> {
    /// What was asked for has happened.
    Commit,
    /// Nothing has happened.
    Discard,
    /// Something else has happened.
    Rebase(&'a Entries),
}

/// A message about data, within a frame of its own.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The frame with this message alone.
    pub(super) frame: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(rename = "type")]
    kind: Box<str>,
    connect_request_id: Option<Box<str>>,
    last_server_clock: Option<Number>,
    protocol_version: Option<Number>,
    schema: Option<Json>,
    client_clock: Option<Number>,
    diff: Option<RecordsDiff>,
    presence: Option<RecordOp>,
}

impl Protocol {
    fn read(version: Option<&Number>) -> Result<Protocol, Mismatch> {
        let version = version.and_then(Number::as_f64).unwrap_or(0.0);
        match version {
            version if version < f64::from(OLDEST) => Err(Mismatch::ClientTooOld),
            version if version > f64::from(NEWEST) => Err(Mismatch::ServerTooOld),
            version => Ok(Protocol(version as u8)),
        }
    }

    /// Which diffs clients of it know.
    pub(super) fn flavour(self) -> Flavour {
        if self.0 < 8 { Flavour::Seven } else { Flavour::Eight }
    }

    /// Whether its clients are told in a message why they are sent away, and do not read it from the end of the
    /// connection.
    pub(super) fn is_told_reasons(self) -> bool {
        self.0 < 7
    }
}

impl Heard {
    /// Reads what a client says.
    pub(super) fn read(text: &str) -> Result<Heard, Unreadable> {
        match serde_json::from_str::<Written>(text) {
            Ok(written) => Heard::of(written, false),
            Err(error) => match Unreadable::of(&error) {
                Unreadable::Text => {
                    let mended = surrogates::mend(text).ok_or(Unreadable::Text)?;
                    let written = serde_json::from_str(&mended);
                    Heard::of(written.map_err(|error| Unreadable::of(&error))?, true)
                }
                other => Err(other),
            },
        }
    }

    fn of(written: Written, mended: bool) -> Result<Heard, Unreadable> {
        match &*written.kind {
            "connect" => Ok(Heard::Connect(Connect {
                request: written.connect_request_id.ok_or(Unreadable::Message)?,
                // A number that is none was never a clock here; one beyond all clocks is as good as the last.
                seen: written
                    .last_server_clock
                    .and_then(|clock| clock.as_f64())
                    .map_or(-1, |n| n as i64),
                protocol: Protocol::read(written.protocol_version.as_ref()),
                schema: written.schema.and_then(Schema::read),
            })),
            // What a session shows of itself is an object.
            "push" if matches!(&written.presence, Some(RecordOp::Put(state)) if state.as_object().is_none()) => {
                Err(Unreadable::Message)
            }
            "push" => Ok(Heard::Push(Push {
                clock: written.client_clock.ok_or(Unreadable::Message)?,
                diff: written.diff,
                presence: written.presence,
                mended,
            })),
            "ping" => Ok(Heard::Ping),
            _ => Err(Unreadable::Message),
        }
    }
}

impl Item {
    /// Something has become of records.
    pub(super) fn patch(diff: &Entries, clock: u64) -> Item {
        Item::write(diff.as_bytes().len(), |out| {
            out.extend_from_slice(br#"{"type":"patch","diff":{"#);
            out.extend_from_slice(diff.as_bytes());
            out.extend_from_slice(br#"},"serverClock":"#);
            write_value(out, &clock);
            out.push(b'}');
        })
    }

    /// What became of a push.
    pub(super) fn push_result(push: &Number, clock: u64, action: &Action<'_>) -> Item {
        let length = if let Action::Rebase(diff) = action { diff.as_bytes().len() } else { 0 };
        Item::write(length, |out| {
            out.extend_from_slice(br#"{"type":"push_result","clientClock":"#);
            write_value(out, push);
            out.extend_from_slice(br#","serverClock":"#);
            write_value(out, &clock);
            out.extend_from_slice(br#","action":"#);
            match action {
                Action::Commit => out.extend_from_slice(br#""commit""#),
                Action::Discard => out.extend_from_slice(br#""discard""#),
                Action::Rebase(diff) => {
                    out.extend_from_slice(br#"{"rebaseWithDiff":{"#);
                    out.extend_from_slice(diff.as_bytes());
                    out.extend_from_slice(b"}}");
                }
            }
            out.push(b'}');
        })
    }

    fn write(length: usize, write: impl FnOnce(&mut Vec<u8>)) -> Item {
        let mut out = Vec::with_capacity(length + 128);
        out.extend_from_slice(DATA.0);
        write(&mut out);
        out.extend_from_slice(DATA.1);
        Item { frame: out.into() }
    }

    /// The message alone.
    pub(super) fn message(&self) -> Bytes {
        self.frame.slice(DATA.0.len()..self.frame.len() - DATA.1.len())
    }
}

/// A frame with several messages about data.
pub(super) fn data(messages: &[Bytes]) -> Bytes {
    let length: usize = messages.iter().map(|message| message.len() + 1).sum();
    let mut out = Vec::with_capacity(DATA.0.len() + length + DATA.1.len());
    out.extend_from_slice(DATA.0);
    for (n, message) in messages.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(message);
    }
    out.extend_from_slice(DATA.1);
    out.into()
}

/// What a client is told when it has connected.
pub(super) struct Connected<'a> {
    pub(super) request: &'a str,
    pub(super) protocol: Protocol,
    pub(super) schema: &'a Schema,
    pub(super) clock: u64,
    pub(super) access: Access,
    pub(super) hydration: Hydration,
    pub(super) diff: &'a Entries,
}

impl Connected<'_> {
    /// The frame.
    pub(super) fn frame(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.diff.as_bytes().len() + 4_096);
        let mut add = |key: &str, value: &dyn Fn(&mut Vec<u8>)| {
            out.extend_from_slice(key.as_bytes());
            value(&mut out);
        };
        let hydration = match self.hydration {
            Hydration::WipeAll => "wipe_all",
            Hydration::WipePresence => "wipe_presence",
        };
        let (read_only, objects) = match self.access {
            Access::Read => ("true", "read"),
            Access::Edit => ("false", "write"),
        };
        add(r#"{"type":"connect","connectRequestId":"#, &|out| write_value(out, self.request));
        add(r#","hydrationType":"#, &|out| write_value(out, hydration));
        add(r#","protocolVersion":"#, &|out| write_value(out, &self.protocol.0));
        add(r#","schema":"#, &|out| self.schema.written().write(out));
        add(r#","serverClock":"#, &|out| write_value(out, &self.clock));
        add(r#","isReadonly":"#, &|out| out.extend_from_slice(read_only.as_bytes()));
        add(r#","objectAccess":"#, &|out| write_value(out, objects));
        add(r#","diff":{"#, &|out| out.extend_from_slice(self.diff.as_bytes()));
        add("}}", &|_| {});
        out.into()
    }
}

/// The answer to a ping.
pub(super) fn pong() -> Bytes {
    Bytes::from_static(br#"{"type":"pong"}"#)
}

/// Why a client of an older version is sent away.
pub(super) fn incompatibility(reason: Reason) -> Bytes {
    Bytes::from_static(match reason {
        Reason::ClientTooOld => br#"{"type":"incompatibility_error","reason":"clientTooOld"}"#,
        Reason::ServerTooOld => br#"{"type":"incompatibility_error","reason":"serverTooOld"}"#,
        Reason::InvalidRecord => br#"{"type":"incompatibility_error","reason":"invalidRecord"}"#,
        _ => br#"{"type":"incompatibility_error","reason":"invalidOperation"}"#,
    })
}
