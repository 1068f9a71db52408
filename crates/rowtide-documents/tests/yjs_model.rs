//! A room of Yjs against clients that are the library `yrs`: they edit what they like, go away, edit on, come back, and
//! the server ends at any effect. In the end everyone has the same document, with all that was ever durable.

#![allow(clippy::unwrap_used, reason = "a test")]

mod yjs;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rowtide_documents::place::{Access, Closing, Effect, Frame, Reason, Socket};
use rowtide_documents::yjs::{YjsLimits, YjsRoom};
use yjs::{SYNC, number, read_number, sync_message};
use yrs::block::ClientID;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{
    Any, Array, ArrayPrelim, Doc, GetString, Map, MapPrelim, OffsetKind, Options, Out, ReadTxn,
    StateVector, Text, Transact, Update, XmlElementPrelim, XmlFragment, XmlTextPrelim,
};

const AUTH: u8 = 2;

fn doc(client: u64) -> Doc {
    let mut options = Options::with_client_id(ClientID::new(client));
    options.offset_kind = OffsetKind::Utf16;
    // What is cleaned up depends on how updates were grouped when they came.
    options.cleanup_formatting = false;
    Doc::with_options(options)
}

fn apply(doc: &Doc, update: &[u8]) {
    let update = Update::decode_v1(update).expect("an update that yrs reads");
    doc.transact_mut().apply_update(update).expect("an update that fits");
}

/// What a document says, in a form that can be compared.
fn content(doc: &Doc) -> String {
    let text = doc.get_or_insert_text("text");
    let map = doc.get_or_insert_map("map");
    let list = doc.get_or_insert_array("list");
    let xml = doc.get_or_insert_xml_fragment("xml");
    let txn = doc.transact();
    let sorted = |any: Any| serde_json::to_value(&any).expect("JSON").to_string();
    let formatted: Vec<String> = text
        .diff(&txn, |_| ())
        .into_iter()
        .map(|part| {
            let attributes: BTreeMap<String, String> = part
                .attributes
                .iter()
                .flat_map(|attributes| attributes.iter())
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect();
            format!("{:?}{attributes:?}", part.insert)
        })
        .collect();
    format!(
        "{} | {} | {} | {}",
        formatted.join(","),
        sorted(yrs::types::ToJson::to_json(&map, &txn)),
        sorted(yrs::types::ToJson::to_json(&list, &txn)),
        xml.get_string(&txn)
    )
}

#[derive(Clone, Debug)]
enum Change {
    Type(u32, String),
    Erase(u32, u32),
    Bold(u32, u32, bool),
    Set(u8, i64),
    SetNested(u8, i64),
    Remove(u8),
    Push(i64),
    PushNested(String),
    Drop(u32),
    Paragraph(String),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<u32>(), "[a-zé\u{1f600}]{1,6}").prop_map(|(at, text)| Change::Type(at, text)),
        2 => (any::<u32>(), 1..6u32).prop_map(|(at, len)| Change::Erase(at, len)),
        1 => (any::<u32>(), 1..6u32, any::<bool>()).prop_map(|(at, len, on)| Change::Bold(at, len, on)),
        2 => (0..4u8, any::<i64>()).prop_map(|(key, value)| Change::Set(key, value)),
        1 => (0..4u8, any::<i64>()).prop_map(|(key, value)| Change::SetNested(key, value)),
        1 => (0..4u8).prop_map(Change::Remove),
        2 => any::<i64>().prop_map(Change::Push),
        1 => "[a-z]{1,4}".prop_map(Change::PushNested),
        1 => any::<u32>().prop_map(Change::Drop),
        1 => "[a-z]{1,4}".prop_map(Change::Paragraph),
    ]
}

/// A place in a text that is not inside of a pair of UTF-16.
fn place(text: &str, at: u32) -> u32 {
    let places: Vec<u32> = std::iter::once(0)
        .chain(text.chars().scan(0, |units, char| {
            *units += char.len_utf16() as u32;
            Some(*units)
        }))
        .collect();
    places[at as usize % places.len()]
}

fn edit(doc: &Doc, change: &Change) -> Vec<u8> {
    let text = doc.get_or_insert_text("text");
    let map = doc.get_or_insert_map("map");
    let list = doc.get_or_insert_array("list");
    let xml = doc.get_or_insert_xml_fragment("xml");
    let had = doc.transact().state_vector();
    {
        let mut txn = doc.transact_mut();
        let now = text.get_string(&txn);
        match change {
            Change::Type(at, more) => text.insert(&mut txn, place(&now, *at), more),
            Change::Erase(at, len) | Change::Bold(at, len, _) => {
                let (a, b) = (place(&now, *at), place(&now, at.wrapping_add(*len)));
                let (from, to) = (a.min(b), a.max(b));
                if from < to {
                    if let Change::Bold(_, _, on) = change {
                        let value = if *on { Any::Bool(true) } else { Any::Null };
                        text.format(&mut txn, from, to - from, [("bold".into(), value)].into());
                    } else {
                        text.remove_range(&mut txn, from, to - from);
                    }
                }
            }
            Change::Set(key, value) => drop(map.insert(&mut txn, format!("k{key}"), *value)),
            Change::SetNested(key, value) => {
                let nested = match map.get(&txn, &format!("k{key}")) {
                    Some(Out::YMap(nested)) => nested,
                    _ => map.insert(&mut txn, format!("k{key}"), MapPrelim::default()),
                };
                nested.insert(&mut txn, "value", *value);
            }
            Change::Remove(key) => drop(map.remove(&mut txn, &format!("k{key}"))),
            Change::Push(value) => drop(list.push_back(&mut txn, *value)),
            Change::PushNested(value) => {
                let nested = list.push_back(&mut txn, ArrayPrelim::default());
                nested.push_back(&mut txn, value.as_str());
            }
            Change::Drop(at) => {
                let len = list.len(&txn);
                if len > 0 {
                    list.remove(&mut txn, at % len);
                }
            }
            Change::Paragraph(text) => {
                let paragraph = xml.push_back(&mut txn, XmlElementPrelim::empty("p"));
                paragraph.push_back(&mut txn, XmlTextPrelim::new(text));
            }
        }
    }
    doc.transact().encode_diff_v1(&had)
}

#[derive(Clone, Debug)]
enum Step {
    /// A client edits, connected or not.
    Edit(usize, Change),
    /// A client connects, or its connection breaks.
    Toggle(usize),
    /// A client hears what it was sent, up to so many frames.
    Hear(usize, usize),
    /// The room hears what a client sent, up to so many frames.
    Receive(usize, usize),
    /// The journal has written so many edits.
    Write(usize),
    /// The document is saved as it is.
    Save,
    /// The server ends, and starts with what is durable.
    Crash,
}

const CLIENTS: usize = 4;
/// This one may only read.
const READER: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        6 => (client.clone(), change()).prop_map(|(client, change)| Step::Edit(client, change)),
        2 => client.clone().prop_map(Step::Toggle),
        6 => (client.clone(), 1..6usize).prop_map(|(client, count)| Step::Hear(client, count)),
        6 => (client, 1..6usize).prop_map(|(client, count)| Step::Receive(client, count)),
        6 => (1..4usize).prop_map(Step::Write),
        1 => Just(Step::Save),
        1 => Just(Step::Crash),
    ]
}

struct Client {
    doc: Doc,
    socket: Option<Socket>,
    sent: Vec<Frame>,
    inbox: Vec<Frame>,
    denied: usize,
}

/// A room with its journal and its object, as a host has them.
struct World {
    room: YjsRoom,
    clients: Vec<Client>,
    sockets: u64,
    object: Bytes,
    durable: Vec<Bytes>,
    /// What waits for the journal, in order.
    waiting: Vec<Effect>,
}

impl World {
    fn new() -> World {
        let clients = (0..CLIENTS).map(|client| Client {
            doc: doc(client as u64 + 1),
            socket: None,
            sent: Vec::new(),
            inbox: Vec::new(),
            denied: 0,
        });
        World {
            room: YjsRoom::new(YjsLimits::default()),
            clients: clients.collect(),
            sockets: 0,
            object: Bytes::from_static(&[0, 0]),
            durable: Vec::new(),
            waiting: Vec::new(),
        }
    }

    fn access(client: usize) -> Access {
        if client == READER { Access::Read } else { Access::Edit }
    }

    /// Carries out what is not behind an edit that is not durable.
    fn carry_out(&mut self) {
        while let Some(effect) = self.waiting.first() {
            match effect {
                Effect::Edit(_) => break,
                Effect::Send(socket, frame) | Effect::SendAtOnce(socket, frame) => {
                    let to = self.clients.iter_mut().find(|client| client.socket == Some(*socket));
                    if let Some(client) = to {
                        client.inbox.push(frame.clone());
                    }
                }
                Effect::Close(socket, closing) => panic!("{socket:?} is closed: {closing:?}"),
                Effect::Ask(_) => panic!("a text has no schema to ask"),
            }
            self.waiting.remove(0);
        }
    }

    fn take(&mut self, effects: Vec<Effect>) {
        self.waiting.extend(effects);
        self.carry_out();
    }

    fn connect(&mut self, client: usize) {
        self.sockets += 1;
        let socket = Socket(self.sockets);
        self.clients[client].socket = Some(socket);
        let effects =
            self.room.join(Duration::ZERO, socket, &format!("s{socket:?}"), Self::access(client));
        self.take(effects);
        let vector = self.clients[client].doc.transact().state_vector().encode_v1();
        self.clients[client].sent.push(sync_message(0, &vector));
    }

    fn disconnect(&mut self, client: usize) {
        if let Some(socket) = self.clients[client].socket.take() {
            let effects = self.room.left(Duration::ZERO, socket);
            self.take(effects);
        }
        self.clients[client].sent.clear();
        self.clients[client].inbox.clear();
    }

    fn hear(&mut self, client: usize) {
        let client = &mut self.clients[client];
        if client.inbox.is_empty() {
            return;
        }
        let Frame::Binary(frame) = client.inbox.remove(0) else { panic!("a text") };
        let mut rest = &frame[..];
        match read_number(&mut rest) as u8 {
            SYNC => {
                let kind = read_number(&mut rest);
                let len = read_number(&mut rest);
                assert_eq!(len, rest.len() as u64);
                if kind == 0 {
                    let vector = StateVector::decode_v1(rest).expect("a state vector");
                    let update = client.doc.transact().encode_diff_v1(&vector);
                    client.sent.push(sync_message(1, &update));
                } else {
                    apply(&client.doc, rest);
                }
            }
            AUTH => client.denied += 1,
            kind => panic!("a message of kind {kind}"),
        }
    }

    fn receive(&mut self, client: usize) {
        let Some(socket) = self.clients[client].socket else { return };
        if self.clients[client].sent.is_empty() {
            return;
        }
        let frame = self.clients[client].sent.remove(0);
        let effects = self.room.heard(Duration::ZERO, socket, &frame);
        self.take(effects);
    }

    fn write(&mut self) {
        if let Some(Effect::Edit(edit)) = self.waiting.first() {
            self.durable.push(edit.clone());
            self.waiting.remove(0);
            self.carry_out();
        }
    }

    fn save(&mut self) {
        // The host saves what is durable, or waits until it is.
        while !self.waiting.is_empty() {
            self.write();
        }
        self.object = self.room.snapshot();
        self.durable.clear();
    }

    fn crash(&mut self) {
        for client in 0..CLIENTS {
            self.clients[client].socket = None;
            self.clients[client].sent.clear();
            self.clients[client].inbox.clear();
        }
        self.waiting.clear();
        self.room = YjsRoom::open(&self.object, YjsLimits::default()).expect("the object");
        // Also what was saved already may still be in the journal.
        for edit in self.durable.iter().chain(self.durable.first()) {
            self.room.replay(edit).expect("an edit");
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Edit(client, change) => {
                let update = edit(&self.clients[*client].doc, change);
                if self.clients[*client].socket.is_some() {
                    self.clients[*client].sent.push(sync_message(2, &update));
                }
            }
            Step::Toggle(client) => match self.clients[*client].socket {
                Some(_) => self.disconnect(*client),
                None => self.connect(*client),
            },
            Step::Hear(client, count) => (0..*count).for_each(|_| self.hear(*client)),
            Step::Receive(client, count) => (0..*count).for_each(|_| self.receive(*client)),
            Step::Write(count) => (0..*count).for_each(|_| self.write()),
            Step::Save => self.save(),
            Step::Crash => self.crash(),
        }
    }

    /// Everyone comes, and all that is under way arrives.
    fn settle(&mut self) {
        for client in 0..CLIENTS {
            if self.clients[client].socket.is_none() {
                self.connect(client);
            }
        }
        for _ in 0..1_000 {
            (0..CLIENTS).for_each(|client| self.receive(client));
            self.write();
            (0..CLIENTS).for_each(|client| self.hear(client));
            let quiet = |client: &Client| client.sent.is_empty() && client.inbox.is_empty();
            if self.waiting.is_empty() && self.clients.iter().all(quiet) {
                return;
            }
        }
        panic!("it does not come to rest");
    }
}

/// What the document of the room says to somebody who has nothing.
fn stored(room: &YjsRoom) -> Doc {
    let stored = doc(99);
    apply(&stored, &room.snapshot());
    stored
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everyone_comes_to_the_same_document(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        let told: Vec<StateVector> =
            world.clients.iter().map(|client| client.doc.transact().state_vector()).collect();
        world.settle();
        let says = content(&stored(&world.room));
        for client in 0..READER {
            prop_assert_eq!(content(&world.clients[client].doc), says.clone(), "client {}", client);
        }
        // Whatever anybody had been told, or had done, is there; but for what the reader did.
        let has = stored(&world.room).transact().state_vector();
        for vector in &told {
            for (client, clock) in vector.iter().filter(|(client, _)| client.get() != READER as u64 + 1) {
                prop_assert!(has.get(client) >= *clock);
            }
        }
        prop_assert_eq!(has.get(&ClientID::new(READER as u64 + 1)), 0);
        // And the same is there after the server has started anew.
        world.save();
        world.crash();
        prop_assert_eq!(content(&stored(&world.room)), says);
    }

    /// In whatever order updates come, and however often.
    #[test]
    fn updates_may_come_in_any_order(
        changes in proptest::collection::vec((0..2usize, change()), 1..30),
        order in any::<u64>(),
    ) {
        let docs = [doc(1), doc(2)];
        let mut updates = Vec::new();
        for (who, change) in &changes {
            updates.push(edit(&docs[*who], change));
            if updates.len() % 7 == 0 {
                let update = docs[0].transact().encode_diff_v1(&docs[1].transact().state_vector());
                apply(&docs[1], &update);
            }
        }
        let whole = doc(3);
        updates.iter().for_each(|update| apply(&whole, update));
        let mut room = YjsRoom::new(YjsLimits::default());
        let mut seed = order;
        let mut left = updates.clone();
        while !left.is_empty() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let next = left.swap_remove((seed >> 33) as usize % left.len());
            room.replay(&next).unwrap();
            // What waits for other updates is in a snapshot too.
            if seed >> 60 == 0 {
                room = YjsRoom::open(&room.snapshot(), YjsLimits::default()).unwrap();
            }
        }
        let clock = room.clock();
        updates.iter().for_each(|update| room.replay(update).unwrap());
        prop_assert_eq!(room.clock(), clock);
        prop_assert_eq!(content(&stored(&room)), content(&whole));
    }

    /// What a document was comes back, for those who are there, for those who come, and in one document for all who
    /// edited meanwhile.
    #[test]
    fn an_earlier_state_comes_back(
        before in proptest::collection::vec((0..2usize, change()), 1..30),
        after in proptest::collection::vec((0..2usize, change()), 0..30),
        late in proptest::collection::vec(change(), 0..5),
        meet in 1..8usize,
    ) {
        let docs = [doc(1), doc(2)];
        let offline = doc(3);
        let mut room = YjsRoom::new(YjsLimits::default());
        let mut earlier = None;
        for (index, (who, change)) in before.iter().chain(&after).enumerate() {
            if index == before.len() {
                earlier = Some((room.snapshot(), content(&stored(&room))));
                apply(&offline, &room.snapshot());
            }
            room.replay(&edit(&docs[*who], change)).unwrap();
            if index % meet == 0 {
                docs.iter().for_each(|doc| apply(doc, &room.snapshot()));
            }
        }
        let (snapshot, says) = earlier.unwrap_or_else(|| (room.snapshot(), content(&stored(&room))));
        docs.iter().for_each(|doc| apply(doc, &room.snapshot()));
        room.join(Duration::ZERO, Socket(1), "s", Access::Read);
        let effects = room.restore(Duration::ZERO, &snapshot).unwrap();
        let [Effect::Edit(restoring), Effect::Send(Socket(1), _)] = &effects[..] else {
            panic!("{effects:?}");
        };
        prop_assert_eq!(content(&stored(&room)), says.clone());
        for doc in &docs {
            apply(doc, restoring);
            prop_assert_eq!(content(doc), says.clone());
        }
        for change in &late {
            room.replay(&edit(&offline, change)).unwrap();
        }
        for doc in docs.iter().chain([&offline]) {
            apply(doc, &room.snapshot());
            prop_assert_eq!(content(doc), content(&stored(&room)));
        }
        // And again, to what it has become.
        let says = content(&stored(&room));
        let snapshot = room.snapshot();
        room.restore(Duration::ZERO, &snapshot).unwrap();
        prop_assert_eq!(content(&stored(&room)), says);
    }

    /// Bytes that somebody made up, or changed, end nobody's stay but theirs.
    #[test]
    fn rubbish_ends_one_session(
        changes in proptest::collection::vec(change(), 1..20),
        bent in proptest::collection::vec((any::<u16>(), any::<u8>(), 0..4u8), 1..6),
        which in any::<u16>(),
    ) {
        let source = doc(1);
        let mut updates: Vec<Vec<u8>> = changes.iter().map(|change| edit(&source, change)).collect();
        let index = which as usize % updates.len();
        let update = &mut updates[index];
        for (at, byte, how) in bent {
            if update.is_empty() {
                break;
            }
            let at = at as usize % update.len();
            match how {
                0 => update[at] = byte,
                1 => update[at] ^= 1 << (byte & 7),
                2 => update.insert(at, byte),
                _ => drop(update.remove(at)),
            }
        }
        let mut room = YjsRoom::new(YjsLimits::default());
        let (bad, good) = (Socket(1), Socket(2));
        room.join(Duration::ZERO, bad, "bad", Access::Edit);
        room.join(Duration::ZERO, good, "good", Access::Edit);
        for update in &updates {
            let effects = room.heard(Duration::ZERO, bad, &sync_message(2, update));
            for effect in effects {
                prop_assert!(!matches!(effect, Effect::Close(Socket(2), _)));
            }
        }
        // What it has taken, it gives out again and reads again.
        let snapshot = room.snapshot();
        let again = YjsRoom::open(&snapshot, YjsLimits::default()).unwrap();
        prop_assert_eq!(&again.snapshot(), &snapshot);
        prop_assert_eq!(again.document_bytes(), room.document_bytes());
        room.restore(Duration::ZERO, &snapshot).unwrap();
        prop_assert_eq!(room.sessions(), if room.heard(Duration::ZERO, bad, &sync_message(0, &[0])).is_empty() { 1 } else { 2 });
    }
}

fn room_of(limits: YjsLimits, members: &[(u64, Access)]) -> YjsRoom {
    let mut room = YjsRoom::new(limits);
    for (socket, access) in members {
        room.join(Duration::ZERO, Socket(*socket), &format!("s{socket}"), *access);
    }
    room
}

fn closed(effects: &[Effect], socket: u64) -> Option<Closing> {
    effects.iter().find_map(|effect| match effect {
        Effect::Close(closed, closing) if *closed == Socket(socket) => Some(*closing),
        _ => None,
    })
}

#[test]
fn an_edit_is_made_durable_and_then_told_to_the_others_as_it_came() {
    let mut room =
        room_of(YjsLimits::default(), &[(1, Access::Edit), (2, Access::Edit), (3, Access::Read)]);
    let update = edit(&doc(7), &Change::Type(0, "hello".into()));
    let frame = sync_message(2, &update);
    let effects = room.heard(Duration::ZERO, Socket(1), &frame);
    assert_eq!(
        effects,
        [
            Effect::Edit(update.clone().into()),
            Effect::Send(Socket(2), frame.clone()),
            Effect::Send(Socket(3), frame.clone()),
        ]
    );
    assert_eq!(room.heard(Duration::ZERO, Socket(2), &sync_message(1, &update)), []);
    assert_eq!(room.clock(), 1);
}

#[test]
fn a_reader_is_told_once_that_edits_are_not_taken() {
    let mut room = room_of(YjsLimits::default(), &[(1, Access::Read)]);
    let source = doc(7);
    assert_eq!(room.heard(Duration::ZERO, Socket(1), &sync_message(1, &[0, 0])), []);
    let first = sync_message(2, &edit(&source, &Change::Push(1)));
    let effects = room.heard(Duration::ZERO, Socket(1), &first);
    let [Effect::Send(Socket(1), Frame::Binary(bytes))] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(bytes[..2], [AUTH, 0]);
    let second = sync_message(1, &edit(&source, &Change::Push(2)));
    assert_eq!(room.heard(Duration::ZERO, Socket(1), &second), []);
    assert_eq!(room.clock(), 0);
    // Once it may edit, it is asked for what it did.
    let effects = room.access_changed(Duration::ZERO, Socket(1), Access::Edit);
    assert_eq!(effects, [Effect::Send(Socket(1), sync_message(0, &[0]))]);
}

#[test]
fn a_client_that_left_a_gap_is_asked_for_what_is_missing() {
    let mut room = room_of(YjsLimits::default(), &[(1, Access::Edit)]);
    let source = doc(7);
    edit(&source, &Change::Push(1));
    let later = edit(&source, &Change::Push(2));
    let effects = room.heard(Duration::ZERO, Socket(1), &sync_message(2, &later));
    assert_eq!(effects.last(), Some(&Effect::Send(Socket(1), sync_message(0, &[0]))));
}

#[test]
fn limits_end_the_session_that_is_over_them() {
    let limits = YjsLimits {
        sessions: 2,
        message_bytes: 10_000,
        document_bytes: 4_000,
        messages_per_second: 10,
        ..YjsLimits::default()
    };
    let mut room = room_of(limits, &[(1, Access::Edit), (2, Access::Edit)]);
    let effects = room.join(Duration::ZERO, Socket(3), "s3", Access::Edit);
    assert_eq!(effects, [Effect::Close(Socket(3), Closing::Final(Reason::RoomFull))]);

    let source = doc(7);
    let large = edit(&source, &Change::Type(0, "x".repeat(5_000)));
    let effects = room.heard(Duration::ZERO, Socket(1), &sync_message(2, &large));
    assert_eq!(closed(&effects, 1), Some(Closing::Final(Reason::UnknownError)));
    assert_eq!(room.clock(), 0);

    let query = Frame::Binary(Bytes::from_static(&[3]));
    let closing = (0..11).find_map(|_| closed(&room.heard(Duration::ZERO, Socket(2), &query), 2));
    assert_eq!(closing, Some(Closing::Final(Reason::RateLimited)));
    assert!(room.is_empty());

    let mut room = room_of(limits, &[(1, Access::Edit)]);
    let effects = room.heard(Duration::ZERO, Socket(1), &Frame::Binary(vec![0; 10_001].into()));
    assert!(closed(&effects, 1).is_some());
}

#[test]
fn a_full_document_can_be_made_smaller() {
    let limits = YjsLimits { document_bytes: 6_000, ..YjsLimits::default() };
    let mut room = room_of(limits, &[(1, Access::Edit)]);
    let source = doc(7);
    let full = edit(&source, &Change::Type(0, "x".repeat(4_000)));
    assert_eq!(closed(&room.heard(Duration::ZERO, Socket(1), &sync_message(2, &full)), 1), None);
    let before = room.document_bytes();
    {
        let text = source.get_or_insert_text("text");
        text.remove_range(&mut source.transact_mut(), 100, 3_000);
    }
    let erased = source.transact().encode_diff_v1(&source.transact().state_vector());
    assert_eq!(closed(&room.heard(Duration::ZERO, Socket(1), &sync_message(2, &erased)), 1), None);
    assert!(room.document_bytes() < before - 1_500, "{}", room.document_bytes());
}

#[test]
fn what_one_client_typed_letter_by_letter_is_one_run() {
    let mut room = YjsRoom::new(YjsLimits::default());
    let source = doc(7);
    for at in 0..2_000 {
        room.replay(&edit(&source, &Change::Type(at, "x".into()))).unwrap();
    }
    assert!(room.snapshot().len() < 2_200, "{}", room.snapshot().len());
}

fn awareness_message(entries: &[(u64, u64, &str)]) -> Frame {
    let mut update = Vec::new();
    number(&mut update, entries.len() as u64);
    for (client, clock, state) in entries {
        number(&mut update, *client);
        number(&mut update, *clock);
        number(&mut update, state.len() as u64);
        update.extend_from_slice(state.as_bytes());
    }
    let mut out = vec![1];
    number(&mut out, update.len() as u64);
    out.extend(update);
    Frame::Binary(out.into())
}

#[test]
fn everyone_is_told_who_is_there_and_who_has_gone() {
    let second = Duration::from_secs;
    let mut room = room_of(YjsLimits::default(), &[(1, Access::Edit), (2, Access::Read)]);
    let here = awareness_message(&[(11, 1, "{\"name\":\"a\"}")]);
    let to_both = |frame: &Frame| {
        vec![Effect::Send(Socket(1), frame.clone()), Effect::Send(Socket(2), frame.clone())]
    };
    assert_eq!(room.heard(second(1), Socket(1), &here), to_both(&here));
    // Clients pass on what they hear: that changes nothing.
    assert_eq!(room.heard(second(2), Socket(2), &here), []);
    assert_eq!(room.heard(second(2), Socket(2), &awareness_message(&[(11, 9, "null")])), []);
    // Who comes is told, and who asks.
    let effects = room.join(second(3), Socket(3), "s3", Access::Read);
    assert_eq!(effects, [Effect::Send(Socket(3), here.clone())]);
    let query = Frame::Binary(Bytes::from_static(&[3]));
    assert_eq!(room.heard(second(3), Socket(2), &query), [Effect::Send(Socket(2), here.clone())]);
    room.left(second(3), Socket(3));

    let gone = awareness_message(&[(11, 1, "null")]);
    assert_eq!(room.left(second(4), Socket(1)), [Effect::Send(Socket(2), gone.clone())]);
    // What somebody passes on late does not bring it back; the client itself does.
    assert_eq!(room.heard(second(5), Socket(2), &here), []);
    room.join(second(6), Socket(4), "s4", Access::Edit);
    let effects = room.heard(second(6), Socket(4), &here);
    assert_eq!(effects.len(), 2);

    // A state that is not renewed goes by itself.
    let effects = room.tick(second(36));
    assert!(effects.contains(&Effect::Send(Socket(2), gone)));
}

#[test]
fn a_member_that_hears_nothing_is_told_that_the_server_is_there() {
    let mut room = room_of(YjsLimits::default(), &[(1, Access::Read)]);
    assert_eq!(room.next_tick(), Some(Duration::from_secs(20)));
    assert_eq!(room.tick(Duration::from_secs(19)), []);
    let effects = room.tick(Duration::from_secs(20));
    assert_eq!(effects, [Effect::SendAtOnce(Socket(1), awareness_message(&[]))]);
    assert_eq!(room.next_tick(), Some(Duration::from_secs(40)));
}

#[test]
fn crafted_updates_take_neither_memory_nor_the_stack() {
    let nested_values = {
        let mut update = vec![1, 1, 7, 0, 8, 1, 1, b'a', 1];
        update.extend([117, 1].repeat(500_000));
        update.extend([126, 0]);
        update
    };
    let announced = vec![0xff, 0xff, 0xff, 0x7f, 1];
    let overflowing = {
        let mut update = vec![1, 2, 7];
        number(&mut update, (1 << 53) - 2);
        update.extend([0, 2, 0, 2, 0]);
        update
    };
    for update in [nested_values, announced, overflowing, vec![], vec![1], vec![0, 0, 0]] {
        let mut room = room_of(YjsLimits::default(), &[(1, Access::Edit), (2, Access::Edit)]);
        let effects = room.heard(Duration::ZERO, Socket(1), &sync_message(2, &update));
        assert_eq!(effects, [Effect::Close(Socket(1), Closing::Final(Reason::InvalidRecord))]);
    }

    // A hundred thousand maps, each in the one before, and then the outermost is deleted.
    let mut nested = vec![1];
    number(&mut nested, 100_000);
    nested.extend([7, 0]);
    for depth in 0..100_000u64 {
        nested.push(7 | 0x20);
        if depth == 0 {
            nested.extend([1, 3, b'm', b'a', b'p']);
        } else {
            nested.extend([0, 7]);
            number(&mut nested, depth - 1);
        }
        nested.extend([1, b'k', 1]);
    }
    nested.push(0);
    let mut room = room_of(YjsLimits::default(), &[(1, Access::Edit)]);
    for update in [nested, vec![0, 1, 7, 1, 0, 1]] {
        let effects = room.heard(Duration::ZERO, Socket(1), &sync_message(2, &update));
        assert_eq!(closed(&effects, 1), None);
    }
    assert_eq!(room.clock(), 2);
    let snapshot = room.snapshot();
    YjsRoom::open(&snapshot, YjsLimits::default()).unwrap();
    room.restore(Duration::ZERO, &snapshot).unwrap();
}

/// Yjs' own clients do not look whether what they are told can be, and break: one that is told of such elements does not come
/// to the document any more.
#[test]
fn what_would_break_clients_is_told_to_none() {
    let of = |clock: u8, info: u8, rest: &[u8]| [&[1, 1, 5, clock, info], rest, &[0]].concat();
    let text = [1, b'x'];
    let root = [1, 1, b't'];
    let mut broken = vec![
        of(1, 0x84, &[&[5, 1][..], &text].concat()),
        of(1, 0x84, &[&[5, 9][..], &text].concat()),
        of(1, 0x44, &[&[5, 1][..], &text].concat()),
        of(1, 0xc4, &[&[5, 0, 5, 2][..], &text].concat()),
        of(1, 0x04, &[&[0, 5, 1][..], &text].concat()),
        // Options of a document that are none, and an integer that cannot be counted.
        of(0, 0x09, &[&root[..], &[1, b'd', 126]].concat()),
    ];
    let large = [&root[..], &[1, 125, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]].concat();
    broken.push(of(0, 0x08, &large));
    for update in broken {
        let mut room = room_of(YjsLimits::default(), &[(1, Access::Edit), (2, Access::Edit)]);
        let effects = room.heard(Duration::ZERO, Socket(1), &sync_message(2, &update));
        let invalid = Effect::Close(Socket(1), Closing::Final(Reason::InvalidRecord));
        assert_eq!(effects, [invalid], "{update:?}");
    }
    for update in [
        of(1, 0x84, &[&[5, 0][..], &text].concat()),
        of(1, 0x84, &[&[6, 9][..], &text].concat()),
        of(0, 0x09, &[&root[..], &[1, b'd', 118, 0]].concat()),
    ] {
        let mut room = room_of(YjsLimits::default(), &[(1, Access::Edit), (2, Access::Edit)]);
        let effects = room.heard(Duration::ZERO, Socket(1), &sync_message(2, &update));
        assert_eq!(closed(&effects, 1), None, "{update:?}");
    }
}

#[test]
fn a_message_that_names_a_client_again_and_again_is_told_on_once() {
    let mut room = room_of(YjsLimits::default(), &[(1, Access::Edit)]);
    let state = format!("\"{}\"", "x".repeat(1_000));
    let entries: Vec<_> = (1..=1_000).map(|clock| (11, clock, state.as_str())).collect();
    let effects = room.heard(Duration::ZERO, Socket(1), &awareness_message(&entries));
    assert_eq!(effects, [Effect::Send(Socket(1), awareness_message(&[(11, 1_000, &state)]))]);
}

#[test]
fn a_message_that_tells_of_more_clients_than_there_can_be_is_none() {
    let limits = YjsLimits { sessions: 2, clients_per_session: 3, ..YjsLimits::default() };
    let entries: Vec<_> = (1..=7).map(|client| (client, 1, "{}")).collect();
    let mut room = room_of(limits, &[(1, Access::Edit)]);
    let effects = room.heard(Duration::ZERO, Socket(1), &awareness_message(&entries[..6]));
    assert_eq!(effects, [Effect::Send(Socket(1), awareness_message(&entries[..3]))]);
    let effects = room.heard(Duration::ZERO, Socket(1), &awareness_message(&entries));
    assert_eq!(effects, [Effect::Close(Socket(1), Closing::ComeBack)]);
}

#[test]
fn each_message_of_a_frame_counts_before_the_next_is_read() {
    let limits = YjsLimits { messages_per_second: 10, ..YjsLimits::default() };
    let mut room = room_of(limits, &[(1, Access::Edit)]);
    room.heard(Duration::ZERO, Socket(1), &awareness_message(&[(11, 1, "{}")]));
    // After what is too much comes what cannot be read.
    let frame = [vec![3; 1_000_000], vec![0xff]].concat();
    let effects = room.heard(Duration::ZERO, Socket(1), &Frame::Binary(frame.into()));
    assert_eq!(effects.len(), 9 + 1);
    assert_eq!(closed(&effects, 1), Some(Closing::Final(Reason::RateLimited)));
}

#[test]
fn a_document_of_any_size_can_be_opened() {
    let second = Duration::from_secs;
    let limits = YjsLimits { messages_per_second: 10, ..YjsLimits::default() };
    let source = doc(7);
    edit(&source, &Change::Type(0, "x".repeat(1 << 20)));
    let whole = source.transact().encode_diff_v1(&StateVector::default());
    let mut room = YjsRoom::open(&whole, limits).unwrap();
    room.join(Duration::ZERO, Socket(1), "s1", Access::Edit);
    let all = sync_message(0, &[0]);
    assert_eq!(room.heard(second(1), Socket(1), &awareness_message(&[(11, 1, "{}")])).len(), 1);
    let effects = room.heard(second(1), Socket(1), &all);
    assert_eq!(effects, [Effect::Send(Socket(1), sync_message(1, &room.snapshot()))]);
    // Its client goes on, and may have it again after a second; at once is too much.
    assert_eq!(room.heard(second(1), Socket(1), &sync_message(1, &[0, 0])), []);
    assert_eq!(room.heard(second(2), Socket(1), &all).len(), 1);
    let effects = room.heard(second(2), Socket(1), &all);
    assert_eq!(closed(&effects, 1), Some(Closing::Final(Reason::RateLimited)));
}

/// An update that inserts one element for each of some clients, or deletes one of each.
fn of_clients(clients: u64, deletes: bool) -> Vec<u8> {
    let mut update = Vec::new();
    if deletes {
        update.push(0);
    }
    number(&mut update, clients);
    for client in 1..=clients {
        if deletes {
            number(&mut update, client);
            update.extend([1, 0, 1]);
        } else {
            update.push(1);
            number(&mut update, client);
            update.extend([0, 1, 1, 1, b'a', 1]);
        }
    }
    if !deletes {
        update.push(0);
    }
    update
}

#[test]
fn a_client_counts_what_it_takes() {
    // A map of structs has room for eleven, of more than a hundred bytes each; one of ranges, of sixteen.
    for (deletes, each) in [(false, 1_500), (true, 250)] {
        let mut room = YjsRoom::new(YjsLimits::default());
        room.replay(&of_clients(1_000, deletes)).unwrap();
        assert!(room.document_bytes() > 1_000 * each, "{}", room.document_bytes());
        let limits = YjsLimits { document_bytes: 1_000 * each / 2, ..YjsLimits::default() };
        let mut room = room_of(limits, &[(1, Access::Edit)]);
        let update = sync_message(2, &of_clients(1_000, deletes));
        let effects = room.heard(Duration::ZERO, Socket(1), &update);
        assert_eq!(closed(&effects, 1), Some(Closing::Final(Reason::UnknownError)));
        assert_eq!(room.document_bytes(), 0);
    }
}

#[test]
fn names_and_cuts_count_what_they_take() {
    let mut room = YjsRoom::new(YjsLimits::default());
    let source = doc(7);
    let long = "k".repeat(100_000);
    {
        let map = source.get_or_insert_map("map");
        map.insert(&mut source.transact_mut(), long.as_str(), 1);
    }
    room.replay(&source.transact().encode_diff_v1(&StateVector::default())).unwrap();
    assert!(room.document_bytes() > 100_000);

    // Every second letter of a text: each range that is deleted leaves two runs more.
    let source = doc(8);
    room.replay(&edit(&source, &Change::Type(0, "x".repeat(4_000)))).unwrap();
    let limit = room.document_bytes() + 100_000;
    let limits = YjsLimits { document_bytes: limit, ..YjsLimits::default() };
    let mut room = YjsRoom::open(&room.snapshot(), limits).unwrap();
    room.join(Duration::ZERO, Socket(1), "s1", Access::Edit);
    let mut holes = vec![0, 1, 8];
    number(&mut holes, 2_000);
    for at in 0..2_000 {
        number(&mut holes, 2 * at);
        holes.push(1);
    }
    let effects = room.heard(Duration::ZERO, Socket(1), &sync_message(2, &holes));
    assert_eq!(closed(&effects, 1), Some(Closing::Final(Reason::UnknownError)));
}

#[test]
fn an_update_is_not_read_beyond_what_a_document_may_take() {
    let limits = YjsLimits { document_bytes: 100_000, ..YjsLimits::default() };
    // The same range over holes again and again, and then what cannot be read.
    let mut holes = vec![0, 1, 7];
    number(&mut holes, 500);
    for at in 0..500 {
        number(&mut holes, 2 * at);
        holes.push(1);
    }
    let mut again = vec![0, 1, 7];
    number(&mut again, 1_000);
    for _ in 0..10 {
        again.push(0);
        number(&mut again, 1 << 50);
    }
    let mut room = room_of(limits, &[(1, Access::Edit)]);
    assert_eq!(closed(&room.heard(Duration::ZERO, Socket(1), &sync_message(2, &holes)), 1), None);
    let effects = room.heard(Duration::ZERO, Socket(1), &sync_message(2, &again));
    assert_eq!(closed(&effects, 1), Some(Closing::Final(Reason::UnknownError)));
}

#[test]
fn an_update_of_a_reader_is_not_read() {
    let mut room = room_of(YjsLimits::default(), &[(1, Access::Read)]);
    let cut_off = [1, 2, 7, 0, 0, 5];
    let effects = room.heard(Duration::ZERO, Socket(1), &sync_message(2, &cut_off));
    assert!(matches!(&effects[..], [Effect::Send(Socket(1), _)]), "{effects:?}");
    assert_eq!(room.heard(Duration::ZERO, Socket(1), &sync_message(2, &[])), []);
}
