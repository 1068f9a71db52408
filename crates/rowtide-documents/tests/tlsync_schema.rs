//! A room whose records the application's schema knows, in QuickJS, with clients of three releases of the application:
//! they edit what they like, each in its own version, and believe only what they are told, which must at every clock be
//! the very document of that clock, brought down to their version. What is not valid, or too much, ends one session.

#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(dead_code, reason = "what others need of it")]
mod tlsync;

#[path = "tlsync_schema/asking.rs"]
mod asking;
#[path = "tlsync_schema/merging.rs"]
mod merging;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rowtide_documents::place::{Access, Closing, Effect, Frame, Reason, Socket};
use rowtide_documents::tlsync::{TlsyncLimits, TlsyncRoom, TlsyncSchema};
use rowtide_schema::{Bundle, SchemaLimits, SchemaPool, SchemaQuestion, Unanswered};
use serde_json::{Value, json};
use tlsync::client::Client;
use tlsync::diff::Records;
use tlsync::world::records;

const DRAWING: &str = include_str!("../../rowtide-schema/tests/drawing.js");

const NOW: Duration = Duration::from_secs(1_000);

/// A release of the application.
struct Release {
    schema: Arc<TlsyncSchema>,
    pool: SchemaPool,
}

fn release(version: u64) -> Release {
    let limits = SchemaLimits {
        push: Duration::from_millis(800),
        memory_bytes: 12 << 20,
        stack_bytes: 256 << 10,
        threads: 1,
        ..SchemaLimits::default()
    };
    let source = DRAWING.replace("VERSION = 3", &format!("VERSION = {version}"));
    let bundle = Bundle::load(source, &limits).unwrap();
    let schema = Arc::new(TlsyncSchema::read(bundle.description()).unwrap());
    Release { schema, pool: SchemaPool::start(bundle, &limits).unwrap() }
}

fn schema(version: u64) -> Value {
    json!({"schemaVersion": 2, "sequences": {"com.example.store": 1, "com.example.shape": version}})
}

/// The records as clients of a version have them.
fn down(records: &Records, version: u64) -> Records {
    let mut records = records.clone();
    for shape in records.values_mut().filter(|record| record["typeName"] == "shape") {
        if version < 3 {
            let position = shape.as_object_mut().unwrap().remove("position").unwrap();
            shape["x"] = position["x"].clone();
        }
        if version < 2 {
            shape["props"].as_object_mut().unwrap().remove("color");
        }
    }
    records
}

/// A shape as a client of a version makes it.
fn shape(id: &str, version: u64) -> Value {
    let mut shape =
        json!({"id": id, "typeName": "shape", "meta": {}, "props": {"text": "", "points": []}});
    if version < 3 {
        shape["x"] = json!(0);
    } else {
        shape["position"] = json!({"x": 0});
    }
    if version >= 2 {
        shape["props"]["color"] = json!("black");
    }
    shape
}

struct Member {
    version: u64,
    client: Client,
    socket: Option<Socket>,
    incoming: VecDeque<Bytes>,
}

/// A room and its members, without a network between them that loses anything but sockets.
struct World<'a> {
    release: &'a Release,
    room: TlsyncRoom,
    members: Vec<Member>,
    sockets: u64,
    /// The document at every clock, for each version.
    histories: BTreeMap<u64, BTreeMap<u64, Records>>,
    log: Vec<Bytes>,
}

impl<'a> World<'a> {
    fn new(release: &'a Release, members: &[(u64, u8)]) -> World<'a> {
        // Sockets are cut often, and no time passes.
        let editions_at_once = 10_000;
        World::with(release, members, TlsyncLimits { editions_at_once, ..TlsyncLimits::default() })
    }

    fn with(release: &'a Release, members: &[(u64, u8)], limits: TlsyncLimits) -> World<'a> {
        let mut room = TlsyncRoom::new(limits);
        assert_eq!(room.adopt(release.schema.clone()), Ok(Vec::new()));
        let member = |(version, protocol): &(u64, u8)| Member {
            version: *version,
            client: Client::new(*protocol),
            socket: None,
            incoming: VecDeque::new(),
        };
        let members = members.iter().map(member).collect();
        let (histories, log) = (BTreeMap::new(), Vec::new());
        let mut world = World { release, room, members, sockets: 0, histories, log };
        world.remember();
        world
    }

    fn remember(&mut self) {
        if self.members.is_empty() {
            return;
        }
        let (clock, now) = (self.room.clock(), records(&self.room.snapshot()));
        for version in 1..=3 {
            self.histories
                .entry(version)
                .or_default()
                .entry(clock)
                .or_insert_with(|| down(&now, version));
        }
    }

    /// What a room says in the end, with the answers to what it asks.
    fn answered(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        while let Some(Effect::Ask(question)) =
            effects.pop_if(|effect| matches!(effect, Effect::Ask(_)))
        {
            let answer = self.asked(question);
            effects.extend(self.room.answered(NOW, answer).unwrap());
        }
        effects
    }

    fn asked(&self, question: SchemaQuestion) -> Result<Bytes, Unanswered> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.release.pool.ask(&"a document".into(), question))
    }

    fn take(&mut self, effects: Vec<Effect>) -> Vec<(Socket, Closing)> {
        let effects = self.answered(effects);
        self.remember();
        let mut closed = Vec::new();
        for effect in effects {
            match effect {
                Effect::Edit(edit) => self.log.push(edit),
                Effect::Send(to, Frame::Text(frame))
                | Effect::SendAtOnce(to, Frame::Text(frame)) => {
                    let theirs = self.members.iter_mut().find(|member| member.socket == Some(to));
                    theirs.into_iter().for_each(|member| member.incoming.push_back(frame.clone()));
                }
                Effect::Close(socket, closing) => closed.push((socket, closing)),
                other => panic!("{other:?}"),
            }
        }
        closed
    }

    fn join(&mut self, name: &str) -> Socket {
        self.sockets += 1;
        let socket = Socket(self.sockets);
        let effects = self.room.join(NOW, socket, name, Access::Edit, self.sockets);
        assert_eq!(self.take(effects), []);
        socket
    }

    fn come(&mut self, n: usize) {
        if self.members[n].socket.is_some() {
            return;
        }
        let socket = self.join(&format!("session {n}"));
        let member = &mut self.members[n];
        member.socket = Some(socket);
        member.client.open(&schema(member.version));
        self.hear(n);
        self.deliver(n);
    }

    fn cut(&mut self, n: usize) {
        let Some(socket) = self.members[n].socket.take() else { return };
        self.members[n].incoming.clear();
        self.members[n].client.closed();
        let effects = self.room.left(NOW, socket);
        self.take(effects);
    }

    fn hear(&mut self, n: usize) {
        let Some(socket) = self.members[n].socket else { return };
        while let Some(text) = self.members[n].client.outgoing.pop_front() {
            let effects = self.room.heard(NOW, socket, &text);
            assert_eq!(self.take(effects), [], "{text}");
        }
    }

    fn deliver(&mut self, n: usize) {
        let member = &mut self.members[n];
        while let Some(frame) = member.incoming.pop_front() {
            member.client.hear(&frame, &self.histories[&member.version]);
        }
    }

    /// Somebody of a version comes and says something; how that ends for them, and for nobody else.
    fn says(&mut self, version: u64, said: &str) -> Vec<Closing> {
        let socket = self.join("somebody");
        let mut client = Client::new(8);
        client.open(&schema(version));
        let effects = self.room.heard(NOW, socket, &client.outgoing[0]);
        let mut closed = self.take(effects);
        if closed.is_empty() {
            let effects = self.room.heard(NOW, socket, said);
            closed = self.take(effects);
        }
        let effects = self.room.left(NOW, socket);
        self.take(effects);
        assert!(closed.iter().all(|(other, _)| *other == socket));
        closed.into_iter().map(|(_, closing)| closing).collect()
    }

    /// Everybody comes, everything arrives, and everybody has the same; also a room that begins again with the log.
    fn end(&mut self) {
        for round in 0.. {
            assert!(round < 20, "it does not come to rest");
            for n in 0..self.members.len() {
                self.come(n);
                self.members[n].client.push();
                self.hear(n);
            }
            let effects = self.room.tick(NOW + Duration::from_secs(1));
            self.take(effects);
            (0..self.members.len()).for_each(|n| self.deliver(n));
            if round > 1 && self.members.iter().all(|member| member.client.is_quiet()) {
                break;
            }
        }
        let document = records(&self.room.snapshot());
        for Member { version, client, .. } in &self.members {
            assert_eq!(client.base, down(&document, *version));
            assert_eq!(client.view, client.base);
        }
        let shown = self.members.iter().filter(|member| member.client.shown.is_some()).count();
        for Member { client, .. } in &self.members {
            assert_eq!(client.others.len(), shown - usize::from(client.shown.is_some()));
        }
        let mut again = TlsyncRoom::new(TlsyncLimits::default());
        self.log.iter().for_each(|edit| again.replay(edit).unwrap());
        assert_eq!(again.adopt(self.release.schema.clone()), Ok(Vec::new()));
        assert_eq!(again.snapshot(), self.room.snapshot());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Remove(usize, usize),
    Move(usize, usize, u32),
    Type(usize, usize, &'static str),
    Paint(usize, usize, &'static str),
    Note(usize, usize, u32),
    Show(usize, u32),
    Push(usize),
    Deliver(usize),
    Come(usize),
    Cut(usize),
    Rename(u32),
    Wrong(u64, usize),
}

const MEMBERS: [(u64, u8); 5] = [(3, 8), (1, 8), (2, 8), (1, 7), (3, 7)];

fn step() -> impl Strategy<Value = Step> {
    let who = 0..MEMBERS.len();
    let shape = 0..4_usize;
    prop_oneof![
        4 => (who.clone(), shape.clone()).prop_map(|(who, shape)| Step::Remove(who, shape)),
        9 => (who.clone(), shape.clone(), 0..9_u32).prop_map(|(who, shape, x)| Step::Move(who, shape, x)),
        9 => (who.clone(), shape.clone(), prop_oneof![Just("a"), Just("é😀")])
            .prop_map(|(who, shape, text)| Step::Type(who, shape, text)),
        6 => (who.clone(), shape.clone(), prop_oneof![Just("red"), Just("blue")])
            .prop_map(|(who, shape, color)| Step::Paint(who, shape, color)),
        4 => (who.clone(), shape, 0..3_u32).prop_map(|(who, shape, n)| Step::Note(who, shape, n)),
        3 => (who.clone(), 0..9_u32).prop_map(|(who, at)| Step::Show(who, at)),
        30 => who.clone().prop_map(Step::Push),
        30 => who.clone().prop_map(Step::Deliver),
        9 => who.clone().prop_map(Step::Come),
        3 => who.prop_map(Step::Cut),
        1 => (0..3_u32).prop_map(Step::Rename),
        2 => (1..4_u64, 0..WRONG.len()).prop_map(|(version, how)| Step::Wrong(version, how)),
    ]
}

/// Pushes that are not valid in any version.
const WRONG: [&str; 4] = [
    r#"{"shape:w":["put",{"id":"shape:w","typeName":"shape","props":{"text":1},"meta":{}}]}"#,
    r#"{"page:ok":["put",{"id":"page:ok","typeName":"page"}],"shape:w":["put",{"id":"shape:w","typeName":"shape","x":-1,"position":{"x":-1},"props":{"text":"","points":[],"color":"red"},"meta":{}}]}"#,
    r#"{"camera:a":["put",{"id":"camera:a","typeName":"camera"}]}"#,
    r#"{"document:document":["patch",{"name":["put",5]}]}"#,
];

fn push(diff: &str) -> String {
    format!(r#"{{"type":"push","clientClock":1,"diff":{diff}}}"#)
}

impl World<'_> {
    fn edit(&mut self, who: usize, n: usize, edit: impl FnOnce(&mut Value, u64)) {
        let Member { version, client, .. } = &mut self.members[who];
        let id = format!("shape:{n}");
        edit(client.view.entry(id.clone()).or_insert_with(|| shape(&id, *version)), *version);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Remove(who, n) => {
                self.members[*who].client.view.remove(&format!("shape:{n}"));
            }
            Step::Move(who, n, x) => self.edit(*who, *n, |shape, version| {
                let place = if version < 3 { shape } else { &mut shape["position"] };
                place["x"] = json!(x);
            }),
            Step::Type(who, n, text) => self.edit(*who, *n, |shape, _| {
                let before = shape["props"]["text"].as_str().unwrap().to_owned();
                shape["props"]["text"] = json!(before + text);
            }),
            Step::Paint(who, n, color) => self.edit(*who, *n, |shape, version| {
                if version >= 2 {
                    shape["props"]["color"] = json!(color);
                }
            }),
            Step::Note(who, n, note) => {
                self.edit(*who, *n, |shape, _| shape["meta"] = json!({"note": note}));
            }
            Step::Show(who, at) => {
                self.members[*who].client.shown =
                    Some(json!({"id": "instance_presence:mine", "shown": [who, at]}));
            }
            Step::Push(who) => {
                self.members[*who].client.push();
                self.hear(*who);
            }
            Step::Deliver(who) => {
                let effects = self.room.tick(NOW + Duration::from_millis(500));
                self.take(effects);
                self.deliver(*who);
            }
            Step::Come(who) => self.come(*who),
            Step::Cut(who) => self.cut(*who),
            Step::Rename(n) => {
                let effects = self.room.rename(NOW, &format!("name {n}"));
                self.take(effects);
            }
            Step::Wrong(version, how) => {
                let before = self.room.snapshot();
                let ended = self.says(*version, &push(WRONG[*how]));
                assert_eq!(ended, [Closing::Final(Reason::InvalidRecord)], "{}", WRONG[*how]);
                assert_eq!(self.room.snapshot(), before);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everybody_has_the_document_in_their_own_version(
        steps in proptest::collection::vec(step(), 1..200)
    ) {
        static RELEASE: LazyLock<Release> = LazyLock::new(|| release(3));
        let mut world = World::new(&RELEASE, &MEMBERS);
        (0..MEMBERS.len()).for_each(|who| world.come(who));
        steps.iter().for_each(|step| world.step(step));
        world.end();
    }
}

#[test]
fn an_older_client_takes_away_nothing_that_it_does_not_know() {
    let release = release(3);
    let mut world = World::new(&release, &[(3, 8), (1, 8)]);
    world.come(0);
    world.step(&Step::Paint(0, 1, "red"));
    world.step(&Step::Push(0));
    world.come(1);
    world.step(&Step::Move(1, 1, 7));
    world.step(&Step::Push(1));
    let painted = &records(&world.room.snapshot())["shape:1"];
    assert_eq!((&painted["props"]["color"], &painted["position"]["x"]), (&json!("red"), &json!(7)));
    world.end();
}

#[test]
fn what_is_too_much_ends_one_session_and_the_room_lives_on() {
    let release = release(3);
    let mut world = World::new(&release, &[(3, 8), (2, 8)]);
    (0..2).for_each(|who| world.come(who));
    for (text, reason) in [
        ("endless", Reason::UnknownError),
        ("memory", Reason::UnknownError),
        ("deep", Reason::UnknownError),
        ("throws", Reason::InvalidRecord),
        ("pollutes", Reason::InvalidRecord),
    ] {
        let mut bad = shape("shape:bad", 3);
        bad["props"]["text"] = json!(text);
        let diff = json!({"shape:bad": ["put", bad]}).to_string();
        assert_eq!(world.says(3, &push(&diff)), [Closing::Final(reason)], "{text}");
        world.step(&Step::Type(0, 1, "a"));
        world.step(&Step::Push(0));
    }
    let mut large = shape("shape:large", 3);
    large["props"]["junk"] = json!({"constructor": {"prototype": {"polluted": 1}}, "toString": 1});
    let diff = json!({"shape:large": ["put", large]}).to_string();
    assert_eq!(world.says(3, &push(&diff)), []);
    large["id"] = json!("shape:huge");
    large["props"]["text"] = json!("x".repeat(7 << 20));
    let diff = json!({"shape:huge": ["put", large]}).to_string();
    assert_eq!(world.says(3, &push(&diff)), [Closing::Final(Reason::UnknownError)]);
    world.end();
}

#[test]
fn a_document_is_brought_up_when_it_is_opened_and_one_that_is_newer_is_left_alone() {
    let (second, third) = (release(2), release(3));
    let mut world = World::new(&second, &[]);
    let diff = json!({"shape:1": ["put", shape("shape:1", 2)]}).to_string();
    assert_eq!(world.says(2, &push(&diff)), []);
    let older = world.room.snapshot();
    let open = |snapshot: &[u8]| TlsyncRoom::open(snapshot, TlsyncLimits::default()).unwrap();
    let mut world = World::new(&third, &[]);
    world.room = open(&older);
    let effects = world.room.adopt(third.schema.clone()).unwrap();
    let effects = world.answered(effects);
    let [Effect::Edit(edit)] = &effects[..] else { panic!("{effects:?}") };
    let newer = world.room.snapshot();
    assert_eq!(records(&newer)["shape:1"], shape("shape:1", 3));
    assert_eq!(world.room.clock(), open(&older).clock() + 1);
    // The edit is in the log, and whatever comes after it follows on it.
    let mut again = open(&older);
    again.replay(edit).unwrap();
    assert_eq!(again.adopt(third.schema.clone()), Ok(Vec::new()));
    assert_eq!(again.snapshot(), newer);
    // So is one whose records are the same in both.
    let mut world = World::new(&second, &[]);
    let page = r#"{"page:a":["put",{"id":"page:a","typeName":"page"}]}"#;
    assert_eq!(world.says(2, &push(page)), []);
    let mut same = open(&world.room.snapshot());
    let mut world = World::new(&third, &[]);
    world.room = open(&same.snapshot());
    let effects = world.room.adopt(third.schema.clone()).unwrap();
    let effects = world.answered(effects);
    let [Effect::Edit(edit)] = &effects[..] else { panic!("{effects:?}") };
    same.replay(edit).unwrap();
    assert_eq!(same.snapshot(), world.room.snapshot());
    assert_eq!(same.adopt(third.schema.clone()), Ok(Vec::new()));
    // What was saved earlier is brought up when it is restored.
    let effects = again.restore(NOW, &older).unwrap();
    world.room = again;
    assert!(matches!(world.answered(effects)[..], [Effect::Edit(_)]));
    assert_eq!(records(&world.room.snapshot()), records(&newer));
    assert!(open(&newer).adopt(second.schema.clone()).is_err());
    let mut room = open(&older);
    assert_eq!(room.adopt(second.schema.clone()), Ok(Vec::new()));
    assert!(room.restore(NOW, &newer).is_err());
    assert_eq!(room.snapshot(), older);
}
