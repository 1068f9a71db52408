//! A server of documents, for as long as it lives: the real decision about who may be there, the real room, and around
//! them what follows the host: an edit is written and flushed before anybody is told, and the document is saved whole some
//! time after the first edit that it has not got.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use rowtide_access::watching::{MemberId, Watching};
use rowtide_documents::place::{Access, Closing, Effect, Frame, Socket};
use rowtide_documents::tlsync::{TlsyncLimits, TlsyncRoom};
use rowtide_documents::yjs::{YjsLimits, YjsRoom};

/// A room of either protocol.
pub enum Room {
    Drawing(Box<TlsyncRoom>),
    Note(Box<YjsRoom>),
}

/// What waits for an edit to be durable.
pub enum Waiting {
    Edit(u64),
    Told(Effect),
}

/// How far somebody has come.
pub enum Place {
    /// It is not known what they may do.
    Asks,
    /// The room is being opened for them; this is what they may do by now.
    Opens(Access),
    In,
}

/// A server in one of its lives.
#[derive(Default)]
pub struct House {
    pub life: u64,
    pub runs: bool,
    pub watching: Watching,
    pub asked: Option<Vec<MemberId>>,
    pub room: Option<Room>,
    pub waiting: VecDeque<Waiting>,
    pub people: BTreeMap<MemberId, Place>,
    /// The last edit that was written.
    pub written: u64,
    pub flush_due: bool,
    /// The clock of what is saved, or being saved.
    pub covered: u64,
    pub save_due_ms: Option<u64>,
    pub is_saving: bool,
    /// How many saves have begun, or were given up.
    pub saves: u64,
    pub watch_due_ms: Option<u64>,
    pub tick_due_ms: Option<u64>,
}

impl Room {
    /// The document as it was stored, and then the edits since.
    pub fn open(is_drawing: bool, object: Option<&[u8]>, edits: &[Bytes], begins_at: u64) -> Room {
        let mut room = match (is_drawing, object) {
            (true, None) => {
                Room::Drawing(Box::new(TlsyncRoom::begin(begins_at, TlsyncLimits::default())))
            }
            (true, Some(object)) => {
                let opened = TlsyncRoom::open(object, TlsyncLimits::default());
                Room::Drawing(Box::new(opened.expect("it was saved")))
            }
            (false, None) => Room::Note(Box::new(YjsRoom::new(YjsLimits::default()))),
            (false, Some(object)) => {
                let opened = YjsRoom::open(object, YjsLimits::default());
                Room::Note(Box::new(opened.expect("it was saved")))
            }
        };
        for edit in edits {
            match &mut room {
                Room::Drawing(room) => room.replay(edit).expect("edits follow"),
                Room::Note(room) => room.replay(edit).expect("edits can be read"),
            }
        }
        room
    }

    pub fn clock(&self) -> u64 {
        match self {
            Room::Drawing(room) => room.clock(),
            Room::Note(room) => room.clock(),
        }
    }

    pub fn snapshot(&self) -> Bytes {
        match self {
            Room::Drawing(room) => room.snapshot(),
            Room::Note(room) => room.snapshot(),
        }
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Room::Drawing(room) => room.is_empty(),
            Room::Note(room) => room.is_empty(),
        }
    }

    pub fn join(
        &mut self,
        now: Duration,
        socket: Socket,
        session: &str,
        access: Access,
    ) -> Vec<Effect> {
        match self {
            Room::Drawing(room) => room.join(now, socket, session, access, socket.0),
            Room::Note(room) => room.join(now, socket, session, access),
        }
    }

    pub fn heard(&mut self, now: Duration, socket: Socket, frame: &Frame) -> Vec<Effect> {
        match (self, frame) {
            (Room::Drawing(room), Frame::Text(text)) => {
                room.heard(now, socket, std::str::from_utf8(text).expect("it is text"))
            }
            (Room::Note(room), frame) => room.heard(now, socket, frame),
            (Room::Drawing(_), Frame::Binary(_)) => panic!("a drawing is told in text"),
        }
    }

    pub fn left(&mut self, now: Duration, socket: Socket) -> Vec<Effect> {
        match self {
            Room::Drawing(room) => room.left(now, socket),
            Room::Note(room) => room.left(now, socket),
        }
    }

    pub fn access_changed(&mut self, now: Duration, socket: Socket, access: Access) -> Vec<Effect> {
        match self {
            Room::Drawing(room) => room.access_changed(now, socket, access),
            Room::Note(room) => room.access_changed(now, socket, access),
        }
    }

    pub fn close(&mut self, now: Duration, socket: Socket, closing: Closing) -> Vec<Effect> {
        match self {
            Room::Drawing(room) => room.close(now, socket, closing),
            Room::Note(room) => room.close(now, socket, closing),
        }
    }

    pub fn tick(&mut self, now: Duration) -> Vec<Effect> {
        match self {
            Room::Drawing(room) => room.tick(now),
            Room::Note(room) => room.tick(now),
        }
    }

    pub fn next_tick(&self) -> Option<Duration> {
        match self {
            Room::Drawing(room) => room.next_tick(),
            Room::Note(room) => room.next_tick(),
        }
    }
}
