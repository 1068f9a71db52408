mod presence;
mod pushes;
mod sessions;
mod stored;

use serde_json::{Value, json};

use super::super::{ReplayError, SnapshotError};
use super::*;

const ALL: Access = Access::Edit;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A room, the time in it, and what it has asked for.
struct Stage {
    room: TlsyncRoom,
    now: Duration,
    edits: Vec<Value>,
}

/// What a socket gets: messages, and the end.
#[derive(Clone, Debug, PartialEq)]
enum Got {
    Message(Value),
    End(Closing),
}

fn message(frame: &Frame) -> Value {
    let Frame::Text(text) = frame else { panic!("bytes") };
    serde_json::from_slice(text).unwrap()
}

fn schema() -> Value {
    json!({"schemaVersion": 2, "sequences": {"com.tldraw.store": 4}})
}

impl Stage {
    fn new() -> Stage {
        Stage::with(TlsyncLimits::default())
    }

    fn with(limits: TlsyncLimits) -> Stage {
        // Somewhere in time, where a stage with its room has been for a while.
        Stage { room: TlsyncRoom::new(limits), now: ms(1_000_000), edits: Vec::new() }
    }

    /// What each socket gets of effects, in order. An edit that they hold comes before what tells of it.
    fn got(&mut self, effects: Vec<Effect>) -> Vec<(u64, Got)> {
        let mut got = Vec::new();
        for effect in effects {
            match effect {
                Effect::Edit(edit) => {
                    assert!(got.is_empty(), "told before it is durable");
                    self.edits.push(serde_json::from_slice(&edit).unwrap());
                }
                Effect::Ask(_) => panic!("there is no schema to ask"),
                Effect::Send(socket, frame) => got.push((socket.0, Got::Message(message(&frame)))),
                Effect::SendAtOnce(socket, frame) => {
                    assert_eq!(message(&frame), json!({"type": "pong"}));
                    got.push((socket.0, Got::Message(message(&frame))));
                }
                Effect::Close(socket, closing) => got.push((socket.0, Got::End(closing))),
            }
        }
        got
    }

    fn join(&mut self, socket: u64, session: &str, access: Access) -> Vec<(u64, Got)> {
        let effects = self.room.join(self.now, Socket(socket), session, access, socket);
        self.got(effects)
    }

    fn hear(&mut self, socket: u64, text: &str) -> Vec<(u64, Got)> {
        let effects = self.room.heard(self.now, Socket(socket), text);
        self.got(effects)
    }

    fn say(&mut self, socket: u64, value: Value) -> Vec<(u64, Got)> {
        self.hear(socket, &value.to_string())
    }

    fn tick(&mut self) -> Vec<(u64, Got)> {
        let effects = self.room.tick(self.now);
        self.got(effects)
    }

    /// Lets time pass, with everything that is due in it.
    fn pass(&mut self, time: Duration) -> Vec<(u64, Got)> {
        let (until, mut got) = (self.now + time, Vec::new());
        while let Some(next) = self.room.next_tick().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            got.extend(self.tick());
        }
        self.now = until;
        got
    }

    fn connect(&mut self, socket: u64, protocol: u64, seen: i64) -> Vec<(u64, Got)> {
        self.say(
            socket,
            json!({"type": "connect", "connectRequestId": "r", "lastServerClock": seen,
                "protocolVersion": protocol, "schema": schema()}),
        )
    }

    /// A session that has connected, with the room's number for its socket.
    fn enter(&mut self, socket: u64, protocol: u64) {
        assert_eq!(self.join(socket, &format!("s{socket}"), ALL), []);
        let got = self.connect(socket, protocol, -1);
        assert!(
            matches!(&*got, [(to, Got::Message(m))] if *to == socket && m["type"] == "connect")
        );
    }

    /// A push, and what each socket gets of it when everything that waits has gone: messages about data alone.
    fn push(&mut self, socket: u64, clock: u64, diff: Value) -> Vec<(u64, Value)> {
        let push = json!({"type": "push", "clientClock": clock, "diff": diff});
        let mut got = self.say(socket, push);
        got.extend(self.pass(ms(40)));
        data(got)
    }

    fn close(&mut self, socket: u64, closing: Closing) -> Vec<(u64, Got)> {
        let effects = self.room.close(self.now, Socket(socket), closing);
        self.got(effects)
    }

    fn leave(&mut self, socket: u64) {
        assert_eq!(self.room.left(self.now, Socket(socket)), []);
    }

    fn record(&self, id: &str) -> Option<Value> {
        let snapshot: Value = serde_json::from_slice(&self.room.snapshot()).unwrap();
        let documents = snapshot["documents"].as_array().unwrap();
        documents.iter().map(|document| &document["state"]).find(|state| state["id"] == id).cloned()
    }
}

/// The messages about data, one by one.
fn data(got: Vec<(u64, Got)>) -> Vec<(u64, Value)> {
    let mut messages = Vec::new();
    for (socket, got) in got {
        let Got::Message(Value::Object(mut frame)) = got else { panic!("{got:?}") };
        assert_eq!(frame["type"], "data");
        let Some(Value::Array(data)) = frame.remove("data") else { panic!("{frame:?}") };
        messages.extend(data.into_iter().map(|message| (socket, message)));
    }
    messages
}

fn end(socket: u64, closing: Closing) -> (u64, Got) {
    (socket, Got::End(closing))
}

fn result(socket: u64, push: u64, clock: u64, action: &Value) -> (u64, Value) {
    let result = json!({"type": "push_result", "clientClock": push, "serverClock": clock,
        "action": action});
    (socket, result)
}

fn patch(socket: u64, clock: u64, diff: &Value) -> (u64, Value) {
    (socket, json!({"type": "patch", "serverClock": clock, "diff": diff}))
}

fn shape(id: &str, x: u64) -> Value {
    json!({"id": id, "typeName": "shape", "x": x, "props": {"text": ""}, "meta": {}})
}
