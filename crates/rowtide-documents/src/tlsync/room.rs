//! A room of tldraw's clients: the authoritative copy of one document, and who is in it. Clients push changes and
//! are told what became of them, in the order in which they pushed; everybody else is told the same change. A
//! change is an edit to be made durable first. What a client says that is wrong ends its own session and nothing
//! else. There is no I/O, no clock and no randomness in here.

mod judging;
mod migrating;
mod outcome;
mod talking;

pub use migrating::SchemaFailure;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::application::TlsyncSchema;
use super::diff::RecordsDiff;
use super::document::{Change, Document};
use super::edition::{EditionId, Editions};
use super::limits::TlsyncLimits;
use super::message::{Heard, Protocol, incompatibility, pong};
use super::session::{Here, PRESENCE_TYPE, Pace, Phase, Presence, Session, Stay};
use super::snapshot::{self, Begun, ReplayError, SnapshotError};
use super::telling::{Became, Entries};
use crate::place::{Access, Closing, Effect, Frame, Reason, Socket};
use judging::JudgedPush;
use migrating::Coming;

/// A room. All times are since the same moment, whichever that is.
#[derive(Debug)]
pub struct TlsyncRoom {
    limits: TlsyncLimits,
    document: Document,
    /// By the names that clients have given them.
    sessions: BTreeMap<Arc<str>, Session>,
    sockets: BTreeMap<Socket, Arc<str>>,
    /// What the records are, if the application says so.
    application: Option<Arc<TlsyncSchema>>,
    /// The document for clients of older schemas.
    editions: Editions,
    /// How often the document was brought down for somebody.
    brought_down: Pace,
    /// Whether an edit since the room was opened, or restored, has said what schema it is in.
    has_said_schema: bool,
    /// What goes on when the application's schema has answered.
    awaited: Option<Box<Awaited>>,
}

/// What became of edits that were merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergedEdits {
    /// Those that did not fit whole.
    pub unmerged: Vec<Bytes>,
    /// The ids of records that they changed. What such a record has become nobody has validated.
    pub changed: BTreeSet<Box<str>>,
}

/// What a room goes on with once it has an answer.
#[derive(Debug)]
enum Awaited {
    /// The document that was opened.
    Migration,
    /// A document to restore.
    Restore(Box<Document>),
    /// Another name, and the editions that it was asked for in.
    Rename(RecordsDiff, Vec<EditionId>),
    /// Whether the schema of somebody who comes can be served.
    Served(Coming),
    Edition(Coming),
    Push(JudgedPush),
}

impl TlsyncRoom {
    /// A room with a new document.
    pub fn new(limits: TlsyncLimits) -> TlsyncRoom {
        TlsyncRoom::begin(0, limits)
    }

    /// A room with a new document whose clock begins at `clock`. Where a document was deleted and is begun anew, that
    /// is a clock that the one before cannot have reached: then its clients, which may still have it, are sent
    /// everything. A room to replay edits in may begin at any clock; the first edit says which one it was.
    pub fn begin(clock: u64, limits: TlsyncLimits) -> TlsyncRoom {
        TlsyncRoom::of(Document::begin(clock), limits)
    }

    /// A room with a document that was stored.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(snapshot: &[u8], limits: TlsyncLimits) -> Result<TlsyncRoom, SnapshotError> {
        Ok(TlsyncRoom::of(snapshot::read(snapshot)?, limits))
    }

    fn of(document: Document, limits: TlsyncLimits) -> TlsyncRoom {
        TlsyncRoom {
            limits,
            document,
            sessions: BTreeMap::new(),
            sockets: BTreeMap::new(),
            application: None,
            editions: Editions::default(),
            brought_down: Pace::default(),
            has_said_schema: false,
            awaited: None,
        }
    }

    /// Does an edit again that came after the snapshot; one that the snapshot has already is passed over. Edits
    /// are replayed in their order, before anybody is in the room.
    ///
    /// # Errors
    /// If it cannot be read, or does not follow. The room is of no use then.
    pub fn replay(&mut self, edit: &[u8]) -> Result<(), ReplayError> {
        snapshot::replay(&mut self.document, edit, &self.limits)
    }

    /// Does what edits did on a document that somebody else has changed since, as far as they fit, and to no record that is
    /// `left_out`. They are merged in their order, before anybody is in the room.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn merge(
        &mut self,
        edits: &[Bytes],
        left_out: impl Fn(&str) -> bool,
    ) -> Result<MergedEdits, ReplayError> {
        let (mut said_in, mut merged) = (None, MergedEdits::default());
        let MergedEdits { unmerged, changed } = &mut merged;
        for edit in edits {
            let document = &mut self.document;
            if !snapshot::merge(document, edit, &mut said_in, &left_out, changed, &self.limits)? {
                unmerged.push(edit.clone());
            }
        }
        Ok(merged)
    }

    /// Begins to count anew, beyond `clock`: what clients have seen under clocks until now was not always this document, so
    /// everybody is sent all of it. That is for a document that others have changed elsewhere, before anybody is in the room.
    pub fn renumber(&mut self, clock: u64) {
        self.document.renumber(clock);
    }

    /// The document as it is stored. It has what every edit until now has led to, durable or not.
    pub fn snapshot(&self) -> Bytes {
        let otherwise = self.application.as_ref().map(|application| &*application.schema);
        snapshot::write(&self.document, otherwise)
    }

    /// The document's clock: it goes up with every edit.
    pub fn clock(&self) -> u64 {
        self.document.clock
    }

    /// About how many bytes of JSON the document is.
    pub fn document_bytes(&self) -> usize {
        self.document.weight()
    }

    /// Whether there is no session at all, not even one that is only shown yet.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// How many sessions have a socket.
    pub fn sessions(&self) -> usize {
        self.sockets.len()
    }

    /// A socket has come, for the session that its client calls `session`. One that had another socket until now
    /// goes on with this one. `chance` is any number that nobody else could know.
    pub fn join(
        &mut self,
        now: Duration,
        socket: Socket,
        session: &str,
        access: Access,
        chance: u64,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        if session.len() > self.limits.session_name_bytes {
            effects.push(Effect::Close(socket, Closing::Final(Reason::UnknownError)));
            return effects;
        }
        if let Some(known) = self.sessions.get_mut(session) {
            let here = Here::new(now, socket, access, &self.limits);
            let before = std::mem::replace(&mut known.stay, Stay::Here(Box::new(here)));
            if let Stay::Here(before) = before {
                self.sockets.remove(&before.socket);
                effects.push(Effect::Close(before.socket, Closing::ComeBack));
            }
            self.sockets.insert(socket, session.into());
            return effects;
        }
        if self.sockets.len() >= self.limits.sessions {
            effects.push(Effect::Close(socket, Closing::Final(Reason::RoomFull)));
            return effects;
        }
        if self.sessions.len() >= self.limits.sessions {
            self.let_the_longest_gone_go(now, &mut effects);
        }
        let presence = Presence { id: self.new_presence_id(chance), state: None };
        let here = Here::new(now, socket, access, &self.limits);
        let id: Arc<str> = session.into();
        self.sessions.insert(id.clone(), Session { presence, stay: Stay::Here(Box::new(here)) });
        self.sockets.insert(socket, id);
        effects
    }

    /// A socket has said something.
    pub fn heard(&mut self, now: Duration, socket: Socket, text: &str) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(id) = self.sockets.get(&socket).cloned() else { return effects };
        let Some(here) = self.sessions.get_mut(&id).and_then(Session::here) else { return effects };
        match here.hear(now, text, &self.limits) {
            Ok(Some(Heard::Connect(connect))) => self.connect(now, &id, connect, &mut effects),
            Ok(Some(Heard::Push(push))) => self.push(now, &id, push, &mut effects),
            Ok(Some(Heard::Ping)) => {
                if here.talk().is_some() {
                    effects.push(Effect::SendAtOnce(socket, Frame::Text(pong())));
                }
            }
            Ok(None) => {}
            Err(closing) => self.end(now, &id, closing, &mut effects),
        }
        effects
    }

    /// A socket has gone.
    pub fn left(&mut self, now: Duration, socket: Socket) -> Vec<Effect> {
        if let Some(id) = self.sockets.remove(&socket) {
            self.lose_socket(now, &id);
        }
        Vec::new()
    }

    /// The person behind a socket may do something else now: if that is no news, nothing happens.
    pub fn access_changed(&mut self, now: Duration, socket: Socket, access: Access) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(id) = self.sockets.get(&socket).cloned()
            && let Some(here) = self.sessions.get_mut(&id).and_then(Session::here)
            && here.access != access
        {
            self.end(now, &id, Closing::ComeBack, &mut effects);
        }
        effects
    }

    /// Closes a socket.
    pub fn close(&mut self, now: Duration, socket: Socket, closing: Closing) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(id) = self.sockets.get(&socket).cloned() {
            self.end(now, &id, closing, &mut effects);
        }
        effects
    }

    /// Time has passed: what has waited goes, and who was waited for in vain.
    pub fn tick(&mut self, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        let (mut late, mut gone) = (Vec::new(), Vec::new());
        for (id, session) in &mut self.sessions {
            match &mut session.stay {
                Stay::Gone { until } if *until <= now => gone.push(id.clone()),
                Stay::Gone { .. } => {}
                Stay::Here(here) => match &mut here.phase {
                    Phase::Waiting { until } if *until <= now => late.push(id.clone()),
                    Phase::Waiting { .. } => {}
                    Phase::Talking(talk) if talk.heard_at + self.limits.silence <= now => {
                        late.push(id.clone());
                    }
                    Phase::Talking(talk) => {
                        if let Some(frame) = talk.outbox.due(now, self.limits.debounce) {
                            effects.push(Effect::Send(here.socket, Frame::Text(frame)));
                        }
                    }
                },
            }
        }
        for id in late {
            self.end(now, &id, Closing::ComeBack, &mut effects);
        }
        for id in gone {
            self.forget(now, &id, &mut effects);
        }
        effects
    }

    /// When [`TlsyncRoom::tick`] has something to do next; `None` as long as nobody is there.
    pub fn next_tick(&self) -> Option<Duration> {
        self.sessions.values().map(|session| session.next_tick(&self.limits)).min()
    }

    /// Ends the stay of a session that has a socket. One that may come back is still shown for a while.
    fn end(&mut self, now: Duration, id: &Arc<str>, closing: Closing, effects: &mut Vec<Effect>) {
        let Some(here) = self.sessions.get_mut(id).and_then(Session::here) else { return };
        let socket = here.socket;
        self.sockets.remove(&socket);
        match closing {
            Closing::ComeBack => {
                effects.push(Effect::Close(socket, closing));
                self.lose_socket(now, id);
            }
            Closing::Final(reason) => {
                let protocol = here.talk().map(|talk| talk.protocol);
                send_away(socket, protocol, reason, effects);
                self.forget(now, id, effects);
            }
        }
    }

    fn lose_socket(&mut self, now: Duration, id: &Arc<str>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.presence.state.is_some() {
            session.stay = Stay::Gone { until: now + self.limits.presence_stays };
        } else {
            self.sessions.remove(id);
        }
    }

    /// Forgets a session; whoever was shown it is told.
    fn forget(&mut self, now: Duration, id: &Arc<str>, effects: &mut Vec<Effect>) {
        let Some(Session { presence, .. }) = self.sessions.remove(id) else { return };
        if presence.state.is_some() {
            let mut entries = Entries::default();
            entries.tell_removed(&presence.id);
            let removed = |id| {
                let became = vec![(presence.id.clone(), Became::Removed)];
                (id, Change { became, exact: false })
            };
            let editions = self.editions.iter().map(|(id, _)| removed(id)).collect();
            let told = self.told(entries, &Change::none(), None, &editions);
            self.editions.forget(&presence.id);
            self.tell(now, None, &told, effects);
        }
    }

    /// How the document began, if nobody has edited it yet.
    fn begun(&self) -> Option<Begun<'_>> {
        let initial = self.application.as_ref().map(|application| &*application.initial);
        self.document.begun.map(|at| Begun { at, initial })
    }

    fn let_the_longest_gone_go(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let gone = self.sessions.iter().filter_map(|(id, session)| match &session.stay {
            Stay::Gone { until } => Some((*until, id)),
            Stay::Here(_) => None,
        });
        if let Some((_, id)) = gone.min() {
            let id = id.clone();
            self.forget(now, &id, effects);
        }
    }

    fn new_presence_id(&self, chance: u64) -> Box<str> {
        let mut number = chance;
        loop {
            let id = format!("{PRESENCE_TYPE}:{number:016x}");
            if self.sessions.values().all(|session| *session.presence.id != *id) {
                return id.into();
            }
            number = number.wrapping_add(1);
        }
    }
}

/// Sends somebody away for good, in the way that clients of its protocol understand.
fn send_away(
    socket: Socket,
    protocol: Option<Protocol>,
    reason: Reason,
    effects: &mut Vec<Effect>,
) {
    if protocol.is_some_and(Protocol::is_told_reasons) {
        effects.push(Effect::Send(socket, Frame::Text(incompatibility(reason))));
        effects.push(Effect::Close(socket, Closing::ComeBack));
    } else {
        effects.push(Effect::Close(socket, Closing::Final(reason)));
    }
}

#[cfg(test)]
mod tests;
