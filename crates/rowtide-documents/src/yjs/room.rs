//! A room for clients of Yjs.
//!
//! The room knows the document as its updates say it ([`super::document`]) and passes on what each client sends: first
//! as an edit to make durable, then to the others, byte for byte. A client that comes says what it has and is sent the
//! rest, and is asked for what it has and the room lacks. Whatever one client sends that makes no sense ends that
//! client's stay and touches nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::arrangement::Tangled;
use super::awareness::{Allowance, Awareness};
use super::document::Document;
use super::lib0::MalformedYjs;
use super::limits::{ASK_AGAIN, BYTES_PER_MESSAGE, QUIET, Rate, YjsLimits};
use super::restoring::restoring;
use super::update::UpdateReader;
use super::wire::{self, Message, Messages};
use crate::place::{Access, Closing, Effect, Frame, Reason, Socket};

/// Why a document of Yjs cannot be read, or not be brought back.
#[derive(Debug, Error)]
pub enum YjsError {
    /// It is none.
    #[error("this is no document of Yjs: {0}")]
    Malformed(#[from] MalformedYjs),
    /// Somebody made it up so that its elements cannot be put in order in time.
    #[error("the document's elements cannot be put in order")]
    Tangled,
}

/// The authoritative copy of a document of Yjs, and who is there.
#[derive(Debug)]
pub struct YjsRoom {
    limits: YjsLimits,
    document: Document,
    clock: u64,
    members: BTreeMap<Socket, Member>,
    awareness: Awareness,
}

#[derive(Debug)]
struct Member {
    session: Box<str>,
    access: Access,
    joined: Duration,
    /// What it says.
    rate: Rate,
    /// What it is told because it asked.
    answers: Rate,
    /// When something was sent last.
    told: Duration,
    told_to_read: bool,
    /// When it was asked last for what is missing before what it had sent.
    asked: Option<Duration>,
}

impl YjsRoom {
    /// A room with an empty document.
    pub fn new(limits: YjsLimits) -> YjsRoom {
        YjsRoom {
            limits,
            document: Document::default(),
            clock: 0,
            members: BTreeMap::new(),
            awareness: Awareness::default(),
        }
    }

    /// A room with the document that `snapshot` was made of. It is taken as it is, also if it is over a limit.
    ///
    /// # Errors
    /// If it is no update of Yjs.
    pub fn open(snapshot: &[u8], limits: YjsLimits) -> Result<YjsRoom, YjsError> {
        let mut room = YjsRoom::new(limits);
        room.document.apply(snapshot)?;
        Ok(room)
    }

    /// Takes in an edit of [`Effect::Edit`]; one that was taken in before changes nothing.
    ///
    /// # Errors
    /// If it is no update of Yjs.
    pub fn replay(&mut self, edit: &[u8]) -> Result<(), YjsError> {
        if !self.document.news(edit, 0)?.is_nothing() {
            self.document.apply(edit)?;
            self.clock += 1;
        }
        Ok(())
    }

    /// The document as one update of Yjs, version 1.
    pub fn snapshot(&self) -> Bytes {
        self.document.to_update().into()
    }

    /// Goes up whenever the document changes.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// How much memory the document takes, in bytes, about.
    pub fn document_bytes(&self) -> usize {
        self.document.bytes()
    }

    /// Nobody is there.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many sockets are there.
    pub fn sessions(&self) -> usize {
        self.members.len()
    }

    /// A socket comes. One of the same session that is there already makes room for it.
    pub fn join(
        &mut self,
        now: Duration,
        socket: Socket,
        session: &str,
        access: Access,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let same = self.members.iter().find(|(_, member)| &*member.session == session);
        if let Some(old) = same.map(|(socket, _)| *socket) {
            effects.extend(self.close(now, old, Closing::ComeBack));
        }
        if self.members.len() >= self.limits.sessions {
            effects.push(Effect::Close(socket, Closing::Final(Reason::RoomFull)));
            return effects;
        }
        let member = Member {
            session: session.into(),
            access,
            joined: now,
            rate: Rate::default(),
            answers: Rate::default(),
            told: now,
            told_to_read: false,
            asked: None,
        };
        self.members.insert(socket, member);
        if access == Access::Edit {
            effects.push(self.ask(now, socket));
        }
        effects.extend(self.tell_awareness(now, socket));
        effects
    }

    /// A frame comes from a socket.
    pub fn heard(&mut self, now: Duration, socket: Socket, frame: &Frame) -> Vec<Effect> {
        if !self.members.contains_key(&socket) {
            return Vec::new();
        }
        let Frame::Binary(bytes) = frame else {
            return self.close(now, socket, Closing::ComeBack);
        };
        if bytes.len() > self.limits.message_bytes {
            return self.close(now, socket, Closing::Final(Reason::UnknownError));
        }
        // Clients pass on what they hear of others.
        let most_entries = self.limits.sessions.saturating_mul(self.limits.clients_per_session);
        let mut messages = Messages::new(bytes, most_entries);
        let mut effects = Vec::new();
        loop {
            let heard = match messages.next() {
                Ok(None) => return effects,
                Ok(Some(message)) => self.heard_message(now, socket, message),
                Err(_) => Err(Closing::ComeBack),
            };
            match heard {
                Ok(more) => effects.extend(more),
                Err(closing) => {
                    effects.extend(self.close(now, socket, closing));
                    return effects;
                }
            }
        }
    }

    /// A socket has gone.
    pub fn left(&mut self, now: Duration, socket: Socket) -> Vec<Effect> {
        if self.members.remove(&socket).is_none() {
            return Vec::new();
        }
        let gone = self.awareness.leave(now, socket);
        self.tell_of(now, &gone)
    }

    /// What a socket may do has changed.
    pub fn access_changed(&mut self, now: Duration, socket: Socket, access: Access) -> Vec<Effect> {
        let Some(member) = self.members.get_mut(&socket) else { return Vec::new() };
        if std::mem::replace(&mut member.access, access) == access {
            return Vec::new();
        }
        member.told_to_read = false;
        // What it did meanwhile is taken now.
        if access == Access::Edit { vec![self.ask(now, socket)] } else { Vec::new() }
    }

    /// Closes a socket.
    pub fn close(&mut self, now: Duration, socket: Socket, closing: Closing) -> Vec<Effect> {
        if !self.members.contains_key(&socket) {
            return Vec::new();
        }
        let mut effects = self.left(now, socket);
        effects.push(Effect::Close(socket, closing));
        effects
    }

    /// Makes the document what a snapshot says. That is an edit like others: nobody has to come back.
    ///
    /// # Errors
    /// If the snapshot is no update of Yjs, or cannot be put in order; nothing has happened then.
    pub fn restore(&mut self, now: Duration, snapshot: &[u8]) -> Result<Vec<Effect>, YjsError> {
        let mut earlier = Document::default();
        earlier.apply(snapshot)?;
        let update = restoring(&self.document, &earlier).map_err(|Tangled| YjsError::Tangled)?;
        self.document.apply(&update)?;
        self.clock += 1;
        Ok(self.tell_edit(now, &update, None))
    }

    /// What is due at `now`.
    pub fn tick(&mut self, now: Duration) -> Vec<Effect> {
        let expired = self.awareness.expire(now);
        let mut effects = self.tell_of(now, &expired);
        let nothing = Frame::Binary(wire::awareness([].into_iter()));
        for (socket, member) in &mut self.members {
            if member.told + QUIET <= now {
                member.told = now;
                effects.push(Effect::SendAtOnce(*socket, nothing.clone()));
            }
        }
        effects
    }

    /// When the next [`YjsRoom::tick`] is due; at no time if nobody is there.
    pub fn next_tick(&self) -> Option<Duration> {
        let quiet = self.members.values().map(|member| member.told + QUIET).min();
        [quiet, self.awareness.next_expiry()].into_iter().flatten().min()
    }

    fn heard_message(
        &mut self,
        now: Duration,
        socket: Socket,
        message: Message<'_>,
    ) -> Result<Vec<Effect>, Closing> {
        self.count_message(now, socket)?;
        match message {
            Message::Step1(has) => {
                let update = self.document.since(has).map_err(|_| Closing::ComeBack)?;
                self.count_answer(now, socket, update.len())?;
                Ok(vec![self.send(now, socket, wire::step_2(&update))])
            }
            Message::Update(update) => self.heard_update(now, socket, update),
            Message::Awareness(entries) => {
                let Some(member) = self.members.get(&socket) else { return Ok(Vec::new()) };
                let allowance = Allowance {
                    clients: self.limits.clients_per_session,
                    state_bytes: self.limits.awareness_bytes,
                };
                let changed = self.awareness.hear(now, socket, member.joined, &entries, allowance);
                Ok(self.tell_of(now, &changed))
            }
            Message::QueryAwareness => {
                let bytes = self.awareness_bytes();
                self.count_answer(now, socket, bytes)?;
                Ok(self.tell_awareness(now, socket).into_iter().collect())
            }
        }
    }

    fn heard_update(
        &mut self,
        now: Duration,
        socket: Socket,
        update: &[u8],
    ) -> Result<Vec<Effect>, Closing> {
        let invalid = |_| Closing::Final(Reason::InvalidRecord);
        let Some(member) = self.members.get_mut(&socket) else { return Ok(Vec::new()) };
        if member.access == Access::Read {
            // Clients say also that they have nothing.
            if member.told_to_read || UpdateReader::is_empty(update).map_err(invalid)? {
                return Ok(Vec::new());
            }
            member.told_to_read = true;
            let denied = wire::permission_denied("This document may only be read.");
            return Ok(vec![self.send(now, socket, denied)]);
        }
        let limit = self.limits.document_bytes;
        let left = |limit: usize| limit.saturating_sub(self.document.bytes());
        let most = left(limit.saturating_add(limit / 4));
        let news = self.document.news(update, most).map_err(invalid)?;
        if news.is_nothing() {
            return Ok(Vec::new());
        }
        if news.bytes() > if news.structs > 0 { left(limit) } else { most } {
            return Err(Closing::Final(Reason::UnknownError));
        }
        let gaps = self.document.apply(update).map_err(invalid)?;
        self.clock += 1;
        let mut effects = self.tell_edit(now, update, Some(socket));
        if gaps
            && let Some(member) = self.members.get_mut(&socket)
            && member.asked.is_none_or(|asked| asked + ASK_AGAIN <= now)
        {
            member.asked = Some(now);
            effects.push(self.ask(now, socket));
        }
        Ok(effects)
    }

    /// An edit, and telling everyone of it but who made it.
    fn tell_edit(&mut self, now: Duration, update: &[u8], by: Option<Socket>) -> Vec<Effect> {
        let frame = wire::update(update);
        let mut effects = vec![Effect::Edit(frame.slice(frame.len() - update.len()..))];
        let others: Vec<Socket> =
            self.members.keys().copied().filter(|other| Some(*other) != by).collect();
        for other in others {
            effects.push(self.send(now, other, frame.clone()));
        }
        effects
    }

    /// Counts a message; a socket that is over its rate is closed.
    fn count_message(&mut self, now: Duration, socket: Socket) -> Result<(), Closing> {
        let per_second = self.limits.messages_per_second;
        let member = self.members.get_mut(&socket);
        within_rate(member.is_none_or(|member| member.rate.take(now, 1, per_second)))
    }

    /// Counts an answer of so many bytes, apart from messages: the whole document may be more than a rate allows for,
    /// and whoever is sent it has something to say after that.
    fn count_answer(&mut self, now: Duration, socket: Socket, bytes: usize) -> Result<(), Closing> {
        let per_second = self.limits.messages_per_second;
        let messages = u32::try_from(bytes / BYTES_PER_MESSAGE).unwrap_or(u32::MAX);
        let member = self.members.get_mut(&socket);
        within_rate(member.is_none_or(|member| member.answers.take(now, messages, per_second)))
    }

    fn send(&mut self, now: Duration, socket: Socket, bytes: Bytes) -> Effect {
        if let Some(member) = self.members.get_mut(&socket) {
            member.told = now;
        }
        Effect::Send(socket, Frame::Binary(bytes))
    }

    /// Asks a socket for what the room lacks.
    fn ask(&mut self, now: Duration, socket: Socket) -> Effect {
        let has = wire::step_1(&self.document.state_vector());
        self.send(now, socket, has)
    }

    /// Tells everyone of changed states, whose they are too: to hear of it is how a client knows that it is connected.
    fn tell_of(&mut self, now: Duration, clients: &BTreeSet<u64>) -> Vec<Effect> {
        let entries = self.awareness.entries(clients);
        if entries.is_empty() {
            return Vec::new();
        }
        let frame = wire::awareness(entries.into_iter());
        self.awareness.forget_some();
        let sockets: Vec<Socket> = self.members.keys().copied().collect();
        sockets.into_iter().map(|socket| self.send(now, socket, frame.clone())).collect()
    }

    /// Tells a socket of everyone who is there.
    fn tell_awareness(&mut self, now: Duration, socket: Socket) -> Option<Effect> {
        let clients = self.awareness.clients();
        let entries = self.awareness.entries(&clients);
        if entries.is_empty() {
            return None;
        }
        let frame = wire::awareness(entries.into_iter());
        Some(self.send(now, socket, frame))
    }

    fn awareness_bytes(&self) -> usize {
        let clients = self.awareness.clients();
        self.awareness.entries(&clients).iter().map(|entry| entry.state.len()).sum()
    }
}

fn within_rate(within: bool) -> Result<(), Closing> {
    if within { Ok(()) } else { Err(Closing::Final(Reason::RateLimited)) }
}
