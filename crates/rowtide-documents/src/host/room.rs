//! A room of either protocol, as the host sees it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use rowtide_schema::{SchemaQuestion, Unanswered};
use thiserror::Error;

use super::application::DocumentApplication;
use super::settings::DocumentKind;
use crate::place::{Access, Closing, Effect, Frame, Socket};
use crate::tlsync::{
    MergedEdits, NewerSchema, ReplayError, SchemaFailure, SnapshotError, TlsyncRoom,
};
use crate::yjs::{YjsError, YjsLimits, YjsRoom};

/// A room.
#[derive(Debug)]
pub(super) enum Room {
    Tlsync(Box<TlsyncRoom>),
    Yjs(Box<YjsRoom>),
}

/// A document that cannot be read.
#[derive(Debug, Error)]
pub enum UnreadableDocument {
    /// One of Yjs.
    #[error(transparent)]
    Yjs(#[from] YjsError),
    /// One of tlsync, as it was saved.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// An edit of one of tlsync.
    #[error(transparent)]
    Edit(#[from] ReplayError),
    /// One of tlsync, of an older schema than the application's.
    #[error(transparent)]
    Schema(#[from] SchemaFailure),
}

impl UnreadableDocument {
    /// An edit can be read, but does not follow on the document.
    pub(super) fn is_misfit(&self) -> bool {
        let edit = match self {
            UnreadableDocument::Edit(error) => error,
            _ => return false,
        };
        matches!(edit, ReplayError::Gap { .. } | ReplayError::Misfit { .. })
    }
}

impl Room {
    /// A room with the document that was saved, or a new one, which begins at a clock if its protocol has clocks that
    /// clients know.
    pub(super) fn open(
        kind: &DocumentKind,
        snapshot: Option<&[u8]>,
        begins_at: u64,
    ) -> Result<Room, UnreadableDocument> {
        Ok(match (kind, snapshot) {
            (DocumentKind::Tlsync(limits) | DocumentKind::TlsyncOf(limits, _), None) => {
                Room::Tlsync(Box::new(TlsyncRoom::begin(begins_at, limits.clone())))
            }
            (DocumentKind::Tlsync(limits) | DocumentKind::TlsyncOf(limits, _), Some(snapshot)) => {
                Room::Tlsync(Box::new(TlsyncRoom::open(snapshot, limits.clone())?))
            }
            (DocumentKind::Yjs(limits), None) => Room::Yjs(Box::new(YjsRoom::new(*limits))),
            (DocumentKind::Yjs(limits), Some(snapshot)) => {
                Room::Yjs(Box::new(YjsRoom::open(snapshot, *limits)?))
            }
        })
    }

    /// Takes the room out, to be put back.
    pub(super) fn take(&mut self) -> Room {
        let nothing = Room::Yjs(Box::new(YjsRoom::new(YjsLimits::default())));
        std::mem::replace(self, nothing)
    }

    pub(super) fn replay(&mut self, edit: &[u8]) -> Result<(), UnreadableDocument> {
        match self {
            Room::Tlsync(room) => Ok(room.replay(edit)?),
            Room::Yjs(room) => Ok(room.replay(edit)?),
        }
    }

    /// Takes in edits that were made of another state of the document, but what they do to records that are `left_out`. Those
    /// of Yjs always fit.
    pub(super) fn merge(
        &mut self,
        edits: &[Bytes],
        left_out: impl Fn(&str) -> bool,
    ) -> Result<MergedEdits, UnreadableDocument> {
        match self {
            Room::Tlsync(room) => Ok(room.merge(edits, left_out)?),
            Room::Yjs(room) => {
                edits.iter().try_for_each(|edit| room.replay(edit))?;
                Ok(MergedEdits::default())
            }
        }
    }

    /// Asks which of some records are not valid, if that can be asked; see [`TlsyncRoom::ask_of_records`].
    pub(super) fn ask_of_records(&self, ids: &BTreeSet<Box<str>>) -> Option<SchemaQuestion> {
        match self {
            Room::Tlsync(room) => room.ask_of_records(ids),
            Room::Yjs(_) => None,
        }
    }

    /// Counts anew beyond a clock, if its protocol has clocks that clients know: what they have seen was of another server.
    pub(super) fn renumber(&mut self, clock: u64) {
        if let Room::Tlsync(room) = self {
            room.renumber(clock);
        }
    }

    /// Takes the application's schema for the document that was opened, if it has one; see [`TlsyncRoom::adopt`].
    pub(super) fn adopt(
        &mut self,
        application: Option<&DocumentApplication>,
    ) -> Result<Vec<Effect>, NewerSchema> {
        match (self, application) {
            (Room::Tlsync(room), Some(application)) => room.adopt(application.schema.clone()),
            _ => Ok(Vec::new()),
        }
    }

    /// The application's schema has answered.
    pub(super) fn answered(
        &mut self,
        now: Duration,
        answer: Result<Bytes, Unanswered>,
    ) -> Result<Vec<Effect>, UnreadableDocument> {
        match self {
            Room::Tlsync(room) => Ok(room.answered(now, answer)?),
            Room::Yjs(_) => Ok(Vec::new()),
        }
    }

    pub(super) fn snapshot(&self) -> Bytes {
        match self {
            Room::Tlsync(room) => room.snapshot(),
            Room::Yjs(room) => room.snapshot(),
        }
    }

    pub(super) fn clock(&self) -> u64 {
        match self {
            Room::Tlsync(room) => room.clock(),
            Room::Yjs(room) => room.clock(),
        }
    }

    pub(super) fn document_bytes(&self) -> usize {
        match self {
            Room::Tlsync(room) => room.document_bytes(),
            Room::Yjs(room) => room.document_bytes(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Room::Tlsync(room) => room.is_empty(),
            Room::Yjs(room) => room.is_empty(),
        }
    }

    /// `chance` is any number that nobody else could know.
    pub(super) fn join(
        &mut self,
        now: Duration,
        socket: Socket,
        session: &str,
        access: Access,
        chance: u64,
    ) -> Vec<Effect> {
        match self {
            Room::Tlsync(room) => room.join(now, socket, session, access, chance),
            Room::Yjs(room) => room.join(now, socket, session, access),
        }
    }

    pub(super) fn heard(&mut self, now: Duration, socket: Socket, frame: &Frame) -> Vec<Effect> {
        match (self, frame) {
            (Room::Tlsync(room), Frame::Text(text)) => match std::str::from_utf8(text) {
                Ok(text) => room.heard(now, socket, text),
                Err(_) => room.close(now, socket, Closing::ComeBack),
            },
            (Room::Tlsync(room), Frame::Binary(_)) => room.close(now, socket, Closing::ComeBack),
            (Room::Yjs(room), frame) => room.heard(now, socket, frame),
        }
    }

    pub(super) fn left(&mut self, now: Duration, socket: Socket) -> Vec<Effect> {
        match self {
            Room::Tlsync(room) => room.left(now, socket),
            Room::Yjs(room) => room.left(now, socket),
        }
    }

    pub(super) fn access_changed(
        &mut self,
        now: Duration,
        socket: Socket,
        access: Access,
    ) -> Vec<Effect> {
        match self {
            Room::Tlsync(room) => room.access_changed(now, socket, access),
            Room::Yjs(room) => room.access_changed(now, socket, access),
        }
    }

    pub(super) fn close(&mut self, now: Duration, socket: Socket, closing: Closing) -> Vec<Effect> {
        match self {
            Room::Tlsync(room) => room.close(now, socket, closing),
            Room::Yjs(room) => room.close(now, socket, closing),
        }
    }

    /// Gives the document another name; one of Yjs has none.
    pub(super) fn rename(&mut self, now: Duration, name: &str) -> Vec<Effect> {
        match self {
            Room::Tlsync(room) => room.rename(now, name),
            Room::Yjs(_) => Vec::new(),
        }
    }

    pub(super) fn restore(
        &mut self,
        now: Duration,
        snapshot: &[u8],
    ) -> Result<Vec<Effect>, UnreadableDocument> {
        match self {
            Room::Tlsync(room) => Ok(room.restore(now, snapshot)?),
            Room::Yjs(room) => Ok(room.restore(now, snapshot)?),
        }
    }

    pub(super) fn tick(&mut self, now: Duration) -> Vec<Effect> {
        match self {
            Room::Tlsync(room) => room.tick(now),
            Room::Yjs(room) => room.tick(now),
        }
    }

    pub(super) fn next_tick(&self) -> Option<Duration> {
        match self {
            Room::Tlsync(room) => room.next_tick(),
            Room::Yjs(room) => room.next_tick(),
        }
    }
}
