//! A room with clients around it, a network that delivers late or never, and a server that stores edits late and may
//! end at any time. It remembers the document at every clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use rowtide_documents::place::{Access, Closing, Effect, Frame, Reason, Socket};
use rowtide_documents::tlsync::{TlsyncLimits, TlsyncRoom};
use serde_json::{Value, json};

use super::client::Client;
use super::diff::Records;

pub(crate) fn schema(version: u64) -> Value {
    json!({"schemaVersion": 2, "sequences": {"com.tldraw.store": version}})
}

pub(crate) fn limits() -> TlsyncLimits {
    TlsyncLimits {
        sessions: 8,
        tombstones: 1,
        tombstones_slack: 1,
        messages_a_second: 1_000_000,
        messages_at_once: 1_000_000,
        ..TlsyncLimits::default()
    }
}

/// What arrives at a client.
enum Arrival {
    Frame(Bytes),
    End(Closing),
}

pub(crate) struct Member {
    pub(crate) client: Client,
    access: Access,
    session: String,
    socket: Option<Socket>,
    incoming: VecDeque<Arrival>,
}

pub(crate) struct World {
    room: TlsyncRoom,
    pub(crate) members: Vec<Member>,
    now: Duration,
    sockets: u64,
    /// What waits for edits to be durable.
    held: VecDeque<Effect>,
    snapshot: Bytes,
    log: Vec<Bytes>,
    /// The newest clock that a server that ends now would come back with.
    durable: u64,
    history: BTreeMap<u64, Records>,
    /// The snapshots at the same clocks.
    past: BTreeMap<u64, Bytes>,
    /// Snapshots from before.
    older: Vec<Bytes>,
    /// Somebody who says anything.
    somebody: Option<Socket>,
}

pub(crate) fn records(snapshot: &[u8]) -> Records {
    let snapshot: Value = serde_json::from_slice(snapshot).unwrap();
    let documents = snapshot["documents"].as_array().unwrap().iter();
    documents.map(|d| (d["state"]["id"].as_str().unwrap().to_owned(), d["state"].clone())).collect()
}

fn clock(snapshot: &[u8]) -> u64 {
    let snapshot: Value = serde_json::from_slice(snapshot).unwrap();
    snapshot["documentClock"].as_u64().unwrap()
}

impl World {
    /// A room, and clients of versions who may edit or only read.
    pub(crate) fn new(members: &[(u8, Access)]) -> World {
        let room = TlsyncRoom::new(limits());
        let snapshot = room.snapshot();
        let member = |(n, (version, access)): (usize, &(u8, Access))| Member {
            client: Client::new(*version),
            access: *access,
            session: format!("session {n}"),
            socket: None,
            incoming: VecDeque::new(),
        };
        World {
            history: BTreeMap::from([(0, records(&snapshot))]),
            past: BTreeMap::from([(0, snapshot.clone())]),
            members: members.iter().enumerate().map(member).collect(),
            room,
            now: Duration::from_secs(1_000),
            sockets: 0,
            held: VecDeque::new(),
            older: vec![snapshot.clone()],
            somebody: None,
            snapshot,
            log: Vec::new(),
            durable: 0,
        }
    }

    /// Takes what the room wants, and remembers the document if it is another now.
    fn take(&mut self, effects: Vec<Effect>) {
        if self.room.clock() > *self.history.last_key_value().unwrap().0 {
            let snapshot = self.room.snapshot();
            self.history.insert(self.room.clock(), records(&snapshot));
            self.past.insert(self.room.clock(), snapshot);
        }
        for effect in effects {
            match effect {
                Effect::SendAtOnce(socket, Frame::Text(frame)) => {
                    assert_eq!(frame, r#"{"type":"pong"}"#);
                    self.arrive(socket, Arrival::Frame(frame));
                }
                other => self.held.push_back(other),
            }
        }
        self.release();
    }

    fn arrive(&mut self, socket: Socket, arrival: Arrival) {
        let member = self.members.iter_mut().find(|member| member.socket == Some(socket));
        if let Some(member) = member {
            member.incoming.push_back(arrival);
        }
    }

    /// Lets go what waits for no edit any more.
    fn release(&mut self) {
        while let Some(effect) = self.held.pop_front_if(|effect| !matches!(effect, Effect::Edit(_)))
        {
            match effect {
                Effect::Send(socket, Frame::Text(frame)) => {
                    self.arrive(socket, Arrival::Frame(frame));
                }
                Effect::Close(socket, closing) => self.arrive(socket, Arrival::End(closing)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Makes edits durable.
    pub(crate) fn store(&mut self, edits: usize) {
        for _ in 0..edits {
            let Some(Effect::Edit(edit)) = self.held.pop_front() else { return };
            let read: Value = serde_json::from_slice(&edit).unwrap();
            self.durable = self.durable.max(read["clock"].as_u64().unwrap());
            self.log.push(edit);
            self.release();
        }
    }

    /// Stores the whole document, so that edits until now are not needed any more.
    pub(crate) fn save(&mut self, keep_log: bool) {
        self.snapshot = self.room.snapshot();
        self.older.push(self.snapshot.clone());
        self.durable = self.room.clock();
        if !keep_log {
            self.log.clear();
        }
    }

    fn stored(&self) -> TlsyncRoom {
        let mut room = TlsyncRoom::open(&self.snapshot, limits()).unwrap();
        for edit in &self.log {
            room.replay(edit).unwrap();
        }
        room
    }

    /// The server ends and begins again: it has what was durable.
    pub(crate) fn crash(&mut self) {
        for member in &self.members {
            let told = member.client.server_clock;
            assert!(told <= self.durable as i64, "{told} was told and is lost");
        }
        self.begin_again();
    }

    /// The server loses its disk and begins again with what was saved elsewhere some time ago. Everybody comes back
    /// before anything else happens: later nobody could tell the new edits from those that are lost.
    pub(crate) fn lose(&mut self, older: usize) {
        self.snapshot = self.older[older % self.older.len()].clone();
        self.log.clear();
        self.durable = self.stored().clock();
        // What was restored has become another past.
        self.older.retain(|snapshot| clock(snapshot) <= self.durable);
        self.begin_again();
        for n in 0..self.members.len() {
            self.come(n);
            self.hear(n, 1, 1);
            self.deliver(n, 1);
        }
    }

    fn begin_again(&mut self) {
        self.held.clear();
        self.room = self.stored();
        assert_eq!(self.room.clock(), self.durable);
        self.history.split_off(&(self.durable + 1));
        self.past.split_off(&(self.durable + 1));
        assert_eq!(self.room.snapshot(), self.past[&self.durable]);
        for member in &mut self.members {
            member.socket = None;
            member.incoming.clear();
            member.client.closed();
        }
    }

    /// A member comes with a new socket.
    pub(crate) fn come(&mut self, n: usize) {
        let member = &mut self.members[n];
        if member.socket.is_some() {
            return;
        }
        self.sockets += 1;
        let socket = Socket(self.sockets);
        member.socket = Some(socket);
        member.client.open(&schema(1));
        let effects = self.room.join(self.now, socket, &member.session, member.access, 7);
        self.take(effects);
    }

    /// A member loses its socket; the server may notice it only when it waits in vain.
    pub(crate) fn cut(&mut self, n: usize, noticed: bool) {
        let Some(socket) = self.members[n].socket.take() else { return };
        self.members[n].incoming.clear();
        self.members[n].client.closed();
        if noticed {
            let effects = self.room.left(self.now, socket);
            self.take(effects);
        }
    }

    /// The server hears what a member has said, in parts or whole.
    pub(crate) fn hear(&mut self, n: usize, messages: usize, parts: usize) {
        for _ in 0..messages {
            let member = &mut self.members[n];
            let Some(socket) = member.socket else { return };
            let Some(text) = member.client.outgoing.pop_front() else { return };
            for frame in split(&text, parts) {
                let effects = self.room.heard(self.now, socket, &frame);
                let ends = |effect: &Effect| matches!(effect, Effect::Close(_, _));
                assert!(!effects.iter().any(ends), "{text} ends a session");
                self.take(effects);
            }
        }
    }

    /// A member hears what has arrived.
    pub(crate) fn deliver(&mut self, n: usize, frames: usize) {
        let member = &mut self.members[n];
        for _ in 0..frames {
            match member.incoming.pop_front() {
                Some(Arrival::Frame(frame)) => member.client.hear(&frame, &self.history),
                Some(Arrival::End(closing)) => {
                    assert_eq!(closing, Closing::ComeBack);
                    member.socket = None;
                    member.incoming.clear();
                    member.client.closed();
                }
                None => return,
            }
        }
    }

    /// Lets time pass, in which the server is too busy to do what is due.
    pub(crate) fn pass_busy(&mut self, time: Duration) {
        self.now += time;
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        let mut ticks = 0;
        while let Some(next) = self.room.next_tick().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            let effects = self.room.tick(self.now);
            self.take(effects);
            ticks += 1;
            assert!(ticks < 1_000, "it ticks without end");
        }
        self.now = until;
    }

    pub(crate) fn rename(&mut self, name: &str) {
        let effects = self.room.rename(self.now, name);
        self.take(effects);
    }

    pub(crate) fn restore(&mut self, n: usize) {
        let snapshot = self.older[n % self.older.len()].clone();
        let effects = self.room.restore(self.now, &snapshot).unwrap();
        self.take(effects);
    }

    /// What a member may do is another thing now.
    pub(crate) fn change_access(&mut self, n: usize) {
        let member = &mut self.members[n];
        member.access = match member.access {
            Access::Read => Access::Edit,
            Access::Edit => Access::Read,
        };
        let (access, Some(socket)) = (member.access, member.socket) else { return };
        let effects = self.room.access_changed(self.now, socket, access);
        self.take(effects);
    }

    /// Somebody connects, says something wrong, and is sent away, which nobody else notices.
    pub(crate) fn vandal(&mut self, wrong: &str, closing: Closing) {
        self.sockets += 1;
        let socket = Socket(self.sockets);
        let mut vandal = Client::new(8);
        vandal.open(&schema(1));
        let mut effects = self.room.join(self.now, socket, "vandal", Access::Edit, 9);
        effects.extend(self.room.heard(self.now, socket, &vandal.outgoing[0]));
        if !effects.iter().any(|effect| matches!(effect, Effect::Close(_, _))) {
            effects.extend(self.room.heard(self.now, socket, wrong));
            assert_eq!(effects.last(), Some(&Effect::Close(socket, closing)), "{wrong}");
        }
        let at = |effect: &Effect| match effect {
            Effect::Send(at, _) | Effect::SendAtOnce(at, _) | Effect::Close(at, _) => *at == socket,
            Effect::Edit(_) | Effect::Ask(_) => false,
        };
        assert!(effects.iter().all(at), "{effects:?}");
        assert_eq!(self.room.heard(self.now, socket, wrong), []);
        self.take(effects);
    }

    /// Somebody who is there, or comes for it, says anything.
    pub(crate) fn say_anything(&mut self, text: &str) {
        let socket = self.somebody.unwrap_or_else(|| {
            self.sockets += 1;
            let socket = Socket(self.sockets);
            let mut somebody = Client::new(8);
            somebody.open(&schema(1));
            let effects = self.room.join(self.now, socket, "somebody", Access::Edit, 7);
            self.take(effects);
            let effects = self.room.heard(self.now, socket, &somebody.outgoing[0]);
            self.take(effects);
            socket
        });
        let effects = self.room.heard(self.now, socket, text);
        let ends = |effect: &Effect| matches!(effect, Effect::Close(at, _) if *at == socket);
        self.somebody = Some(socket).filter(|_| !effects.iter().any(ends));
        self.take(effects);
    }

    /// Somebody of another release comes, and is sent away if the document has a schema.
    pub(crate) fn stranger(&mut self, newer: bool) {
        let snapshot: Value = serde_json::from_slice(&self.room.snapshot()).unwrap();
        if snapshot["schema"].is_null() {
            return;
        }
        self.sockets += 1;
        let socket = Socket(self.sockets);
        let mut stranger = Client::new(8);
        stranger.open(&schema(if newer { 2 } else { 0 }));
        let mut effects = self.room.join(self.now, socket, "stranger", Access::Edit, 9);
        effects.extend(self.room.heard(self.now, socket, &stranger.outgoing[0]));
        let reason = if newer { Reason::ServerTooOld } else { Reason::ClientTooOld };
        assert_eq!(effects, [Effect::Close(socket, Closing::Final(reason))]);
    }

    /// Everybody comes, and everything arrives. Then everybody sees the document, and everybody else.
    pub(crate) fn end(&mut self) {
        if let Some(socket) = self.somebody.take() {
            let effects = self.room.left(self.now, socket);
            self.take(effects);
        }
        for round in 0.. {
            assert!(round < 20, "it does not come to rest");
            for n in 0..self.members.len() {
                self.come(n);
                self.members[n].client.ping();
                self.members[n].client.push();
                self.hear(n, usize::MAX, 1);
            }
            self.store(usize::MAX);
            self.pass(Duration::from_secs(6));
            (0..self.members.len()).for_each(|n| self.deliver(n, usize::MAX));
            let quiet = |member: &Member| member.socket.is_some() && member.client.is_quiet();
            if round > 1 && self.members.iter().all(quiet) {
                break;
            }
        }
        let document = records(&self.room.snapshot());
        assert_eq!(records(&self.stored().snapshot()), document);
        let shown = |n: usize| self.members[n].client.shown.as_ref();
        for (n, Member { client, access, .. }) in self.members.iter().enumerate() {
            assert_eq!(client.base, document, "{n}");
            assert!(*access == Access::Read || client.view == document, "{n}");
            let seen: Vec<&Value> = client.others.values().map(|other| &other["shown"]).collect();
            let mut others: Vec<&Value> = (0..self.members.len())
                .filter(|other| *other != n)
                .filter_map(|other| shown(other).map(|state| &state["shown"]))
                .collect();
            others.sort_by_key(|state| state.to_string());
            let mut seen = seen;
            seen.sort_by_key(|state| state.to_string());
            assert_eq!(seen, others, "{n}");
        }
    }
}

/// A text in frames, as older clients split it.
fn split(text: &str, parts: usize) -> Vec<String> {
    if parts <= 1 {
        return vec![text.to_owned()];
    }
    let characters: Vec<char> = text.chars().collect();
    let chunks: Vec<String> = characters
        .chunks(characters.len().div_ceil(parts))
        .map(|chunk| chunk.iter().collect())
        .collect();
    let last = chunks.len() - 1;
    chunks.iter().enumerate().map(|(n, chunk)| format!("{}_{chunk}", last - n)).collect()
}
