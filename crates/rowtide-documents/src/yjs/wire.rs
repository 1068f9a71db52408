//! The messages of y-protocols, which clients of `y-websocket` and servers send each other in binary frames.
//!
//! Reading is strict: a frame is a row of whole messages, and what is none is [`MalformedYjs`]. The updates and state
//! vectors in the messages are not looked into here, and what is said of awareness is ([`AwarenessEntry`]).

use bytes::Bytes;

use super::lib0::{MalformedYjs, Reader, put_buffer, put_number};

const SYNC: u64 = 0;
const AWARENESS: u64 = 1;
const AUTH: u64 = 2;
const QUERY_AWARENESS: u64 = 3;

const STEP_1: u64 = 0;
const STEP_2: u64 = 1;
const UPDATE: u64 = 2;

const PERMISSION_DENIED: u64 = 0;

/// What one client says of one client: who is there, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AwarenessEntry<'a> {
    pub(crate) client: u64,
    /// Goes up with each state of the client.
    pub(crate) clock: u64,
    /// JSON; `null` when the client has gone.
    pub(crate) state: &'a str,
}

/// A message from a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// What the client has, as a state vector; it wants the rest.
    Step1(&'a [u8]),
    /// What the client has and the server lacked, or an edit: an update either way.
    Update(&'a [u8]),
    Awareness(Vec<AwarenessEntry<'a>>),
    QueryAwareness,
}

/// The messages of a frame, one after the other.
#[derive(Debug)]
pub(crate) struct Messages<'a> {
    reader: Reader<'a>,
    most_entries: usize,
}

impl<'a> Messages<'a> {
    /// A message of awareness may have `most_entries` at the most.
    pub(crate) fn new(frame: &'a [u8], most_entries: usize) -> Messages<'a> {
        Messages { reader: Reader::new(frame), most_entries }
    }

    /// The next one; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Message<'a>>, MalformedYjs> {
        let reader = &mut self.reader;
        if reader.rest().is_empty() {
            return Ok(None);
        }
        Ok(Some(match reader.number()? {
            SYNC => match reader.number()? {
                STEP_1 => Message::Step1(reader.buffer()?),
                STEP_2 | UPDATE => Message::Update(reader.buffer()?),
                kind => return Err(MalformedYjs::Kind(kind)),
            },
            AWARENESS => {
                Message::Awareness(awareness_entries(reader.buffer()?, self.most_entries)?)
            }
            QUERY_AWARENESS => Message::QueryAwareness,
            kind => return Err(MalformedYjs::Kind(kind)),
        }))
    }
}

fn awareness_entries(bytes: &[u8], most: usize) -> Result<Vec<AwarenessEntry<'_>>, MalformedYjs> {
    let mut reader = Reader::new(bytes);
    let count = reader.number()?;
    if count > most as u64 {
        return Err(MalformedYjs::Number);
    }
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(AwarenessEntry {
            client: reader.number()?,
            clock: reader.number()?,
            state: reader.json()?,
        });
    }
    reader.end()?;
    Ok(entries)
}

/// Asks a client for what the server lacks.
pub(crate) fn step_1(state_vector: &[u8]) -> Bytes {
    sync(STEP_1, state_vector)
}

/// Answers a client's step 1.
pub(crate) fn step_2(update: &[u8]) -> Bytes {
    sync(STEP_2, update)
}

/// Tells a client of an edit.
pub(crate) fn update(update: &[u8]) -> Bytes {
    sync(UPDATE, update)
}

fn sync(kind: u64, content: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(content.len() + 12);
    put_number(&mut out, SYNC);
    put_number(&mut out, kind);
    put_buffer(&mut out, content);
    out.into()
}

/// Tells of states of clients; of none, it only shows that the server is there.
pub(crate) fn awareness<'a>(entries: impl ExactSizeIterator<Item = AwarenessEntry<'a>>) -> Bytes {
    let mut update = Vec::new();
    put_number(&mut update, entries.len() as u64);
    for entry in entries {
        put_number(&mut update, entry.client);
        put_number(&mut update, entry.clock);
        put_buffer(&mut update, entry.state.as_bytes());
    }
    let mut out = Vec::with_capacity(update.len() + 12);
    put_number(&mut out, AWARENESS);
    put_buffer(&mut out, &update);
    out.into()
}

/// Tells a client why its edits are not taken.
pub(crate) fn permission_denied(reason: &str) -> Bytes {
    let mut out = Vec::new();
    put_number(&mut out, AUTH);
    put_number(&mut out, PERMISSION_DENIED);
    put_buffer(&mut out, reason.as_bytes());
    out.into()
}
