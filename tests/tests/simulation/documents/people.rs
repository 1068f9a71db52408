//! A client of the document, and what it knows of it.

use std::collections::BTreeMap;

use rowtide_documents::place::Frame;
use serde_json::{Value, json};
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Array, Doc, ReadTxn, StateVector, Transact, Update};

const SYNC: u8 = 0;
const STEP_1: u8 = 0;
const STEP_2: u8 = 1;
const UPDATE: u8 = 2;

/// What a client has of the document.
pub enum View {
    Drawing { records: BTreeMap<String, Value>, clock: i64 },
    Note(Doc),
}

/// What a client has learnt from a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Learnt {
    /// It has the document.
    Welcome,
    /// An edit is there.
    Shown(String),
    Saved(String),
    Refused(String),
    /// It has something to say to that.
    Answers(Frame),
}

/// See the module.
pub struct Person {
    pub is_owner: bool,
    /// Comes with nothing each time.
    pub is_forgetful: bool,
    pub is_welcome: bool,
    /// The connection, and when it was begun.
    pub connection: Option<(u64, u64)>,
    view: View,
    clock: u64,
    pushed: BTreeMap<u64, String>,
}

impl View {
    fn new(is_drawing: bool, client: u64) -> View {
        if is_drawing {
            return View::Drawing { records: BTreeMap::new(), clock: -1 };
        }
        View::Note(Doc::with_client_id(client))
    }
}

impl Person {
    pub fn new(is_drawing: bool, is_owner: bool, is_forgetful: bool) -> Person {
        let (view, pushed) = (View::new(is_drawing, 1), BTreeMap::new());
        let (is_welcome, connection, clock) = (false, None, 0);
        Person { is_owner, is_forgetful, is_welcome, connection, view, clock, pushed }
    }

    /// Forgets the document; goes on as another client of Yjs.
    pub fn forget(&mut self, client: u64) {
        self.view = View::new(matches!(self.view, View::Drawing { .. }), client);
    }

    /// What it says when it comes.
    pub fn greeting(&mut self) -> Frame {
        (self.is_welcome, self.clock) = (false, 0);
        self.pushed.clear();
        match &self.view {
            View::Drawing { clock, .. } => text(&json!({
                "type": "connect", "connectRequestId": "c", "lastServerClock": clock,
                "protocolVersion": 8, "schema": { "schemaVersion": 2, "sequences": {} },
            })),
            View::Note(doc) => sync(STEP_1, &doc.transact().state_vector().encode_v1()),
        }
    }

    /// An edit with this mark.
    pub fn edit(&mut self, mark: &str) -> Frame {
        match &self.view {
            View::Drawing { .. } => {
                self.clock += 1;
                self.pushed.insert(self.clock, mark.to_owned());
                let diff = json!({ format!("page:{mark}"): ["put", page(mark)] });
                text(&json!({ "type": "push", "clientClock": self.clock, "diff": diff }))
            }
            View::Note(doc) => {
                let marks = doc.get_or_insert_array("marks");
                let mut transaction = doc.transact_mut();
                marks.push_back(&mut transaction, mark);
                sync(UPDATE, &transaction.encode_update_v1())
            }
        }
    }

    /// What it says so that it is not taken for dead.
    pub fn ping(&self) -> Option<Frame> {
        matches!(self.view, View::Drawing { .. }).then(|| text(&json!({ "type": "ping" })))
    }

    /// Everything that it has.
    pub fn content(&self) -> Vec<String> {
        match &self.view {
            View::Drawing { records, .. } => {
                records.iter().map(|(id, record)| format!("{id} {record}")).collect()
            }
            View::Note(_) => self.marks(),
        }
    }

    /// The marks of edits that it has.
    pub fn marks(&self) -> Vec<String> {
        match &self.view {
            View::Drawing { records, .. } => {
                let marks = records.keys().filter_map(|id| id.strip_prefix("page:m"));
                marks.map(|rest| format!("m{rest}")).collect()
            }
            View::Note(doc) => {
                let marks = doc.get_or_insert_array("marks");
                let transaction = doc.transact();
                marks.iter(&transaction).map(|mark| mark.to_string(&transaction)).collect()
            }
        }
    }

    /// Takes a frame in.
    pub fn hear(&mut self, frame: &Frame) -> Vec<Learnt> {
        match frame {
            Frame::Text(text) => {
                let message: Value = serde_json::from_slice(text).expect("it is JSON");
                self.hear_json(&message)
            }
            Frame::Binary(bytes) => self.hear_sync(bytes),
        }
    }

    fn hear_json(&mut self, message: &Value) -> Vec<Learnt> {
        let mut learnt = Vec::new();
        let View::Drawing { records, clock } = &mut self.view else { return learnt };
        if message["type"] == "connect" {
            if message["hydrationType"] == "wipe_all" {
                records.clear();
            }
            take_diff(records, &message["diff"]);
            *clock = message["serverClock"].as_i64().unwrap_or(*clock);
            self.is_welcome = true;
            learnt.push(Learnt::Welcome);
        }
        for item in message["data"].as_array().into_iter().flatten() {
            *clock = item["serverClock"].as_i64().unwrap_or(*clock);
            if item["type"] == "patch" {
                take_diff(records, &item["diff"]);
                let put = item["diff"].as_object().into_iter().flatten();
                let marks = put.filter_map(|(id, _)| id.strip_prefix("page:m"));
                learnt.extend(marks.map(|rest| Learnt::Shown(format!("m{rest}"))));
                continue;
            }
            let mark = item["clientClock"].as_u64().and_then(|clock| self.pushed.remove(&clock));
            let Some(mark) = mark else { continue };
            match item["action"].as_str() {
                Some("commit") => {
                    records.insert(format!("page:{mark}"), page(&mark));
                    learnt.push(Learnt::Saved(mark));
                }
                Some("discard") => learnt.push(Learnt::Refused(mark)),
                _ => panic!("a put of something new becomes {item}"),
            }
        }
        learnt
    }

    fn hear_sync(&mut self, mut frame: &[u8]) -> Vec<Learnt> {
        let mut learnt = Vec::new();
        while let [SYNC, step, rest @ ..] = frame {
            let before = self.marks();
            let View::Note(doc) = &self.view else { return learnt };
            let (content, rest) = buffer(rest);
            frame = rest;
            if *step == STEP_1 {
                let has = StateVector::decode_v1(content).expect("a state vector");
                let lacks = doc.transact().encode_state_as_update_v1(&has);
                learnt.push(Learnt::Answers(sync(STEP_2, &lacks)));
                continue;
            }
            let update = Update::decode_v1(content).expect("an update");
            doc.transact_mut().apply_update(update).expect("it fits");
            let shown = self.marks().into_iter().filter(|mark| !before.contains(mark));
            learnt.extend(shown.map(Learnt::Shown));
            if *step == STEP_2 {
                self.is_welcome = true;
                learnt.push(Learnt::Welcome);
            }
        }
        learnt
    }
}

fn take_diff(records: &mut BTreeMap<String, Value>, diff: &Value) {
    for (id, op) in diff.as_object().into_iter().flatten() {
        match op[0].as_str() {
            Some("put") => drop(records.insert(id.clone(), op[1].clone())),
            Some("remove") => drop(records.remove(id)),
            _ => panic!("nobody changes a record: {op}"),
        }
    }
}

fn page(mark: &str) -> Value {
    json!({
        "id": format!("page:{mark}"), "typeName": "page", "name": mark, "index": "a2", "meta": {},
    })
}

fn text(message: &Value) -> Frame {
    Frame::Text(message.to_string().into())
}

fn sync(step: u8, content: &[u8]) -> Frame {
    let mut out = vec![SYNC, step];
    let mut length = content.len();
    while length > 0x7f {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(content);
    Frame::Binary(out.into())
}

fn buffer(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (mut length, mut shift, mut at) = (0, 0, 0);
    loop {
        length |= usize::from(bytes[at] & 0x7f) << shift;
        shift += 7;
        at += 1;
        if bytes[at - 1] < 0x80 {
            return bytes[at..].split_at(length);
        }
    }
}
