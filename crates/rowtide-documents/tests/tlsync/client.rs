//! A client: what it believes the document to be, what it has changed since, and how it puts the two together when
//! it hears something. It believes nothing that it need not: every operation that it is told must fit.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::diff::{Fit, Records, apply, between};

const PRESENCE: &str = "instance_presence:";

pub(crate) struct Client {
    pub(crate) version: u8,
    /// What the server has told it.
    pub(crate) base: Records,
    /// What its user sees.
    pub(crate) view: Records,
    /// What the others show of themselves.
    pub(crate) others: Records,
    /// What it shows of itself.
    pub(crate) shown: Option<Value>,
    pub(crate) server_clock: i64,
    /// Pushes that were not answered: clock, diff, and presence, if it is told of that alone.
    pending: VecDeque<(u64, Option<Value>)>,
    clock: u64,
    request: u64,
    connected: bool,
    /// What it has told of itself since it connected.
    told: Option<Value>,
    read_only: bool,
    /// What goes to the server.
    pub(crate) outgoing: VecDeque<String>,
}

impl Client {
    pub(crate) fn new(version: u8) -> Client {
        Client {
            version,
            base: Records::new(),
            view: Records::new(),
            others: Records::new(),
            shown: None,
            // Older clients say 0 before they have seen anything.
            server_clock: if version < 8 { 0 } else { -1 },
            pending: VecDeque::new(),
            clock: 0,
            request: 0,
            connected: false,
            told: None,
            read_only: false,
            outgoing: VecDeque::new(),
        }
    }

    /// Whether everything that it has done was answered.
    pub(crate) fn is_quiet(&self) -> bool {
        self.connected
            && self.pending.is_empty()
            && (self.read_only || self.between(&self.sent(), &self.view).is_none())
    }

    fn between(&self, before: &Records, after: &Records) -> Option<Value> {
        between(before, after, self.version)
    }

    /// The document with what was pushed.
    fn sent(&self) -> Records {
        let mut records = self.base.clone();
        for diff in self.pending.iter().filter_map(|(_, diff)| diff.as_ref()) {
            apply(&mut records, diff, self.version, Fit::AsFarAsPossible);
        }
        records
    }

    /// It has a socket.
    pub(crate) fn open(&mut self, schema: &Value) {
        self.request += 1;
        self.outgoing.clear();
        let connect = json!({"type": "connect", "connectRequestId": self.request.to_string(),
            "lastServerClock": self.server_clock, "protocolVersion": self.version, "schema": schema});
        self.outgoing.push_back(connect.to_string());
    }

    /// It has none any more.
    pub(crate) fn closed(&mut self) {
        self.connected = false;
        self.pending.clear();
        self.outgoing.clear();
    }

    /// Pushes what its user has done.
    pub(crate) fn push(&mut self) {
        if !self.connected {
            return;
        }
        let diff = self.between(&self.sent(), &self.view);
        let presence = match (&self.told, &self.shown) {
            (Some(told), Some(shown)) if told == shown => None,
            (_, None) => None,
            (None, Some(shown)) => Some(json!(["put", shown])),
            (Some(_), Some(shown)) => {
                let changed: serde_json::Map<_, _> = shown
                    .as_object()
                    .unwrap()
                    .iter()
                    .map(|(key, value)| (key.clone(), json!(["put", value])))
                    .collect();
                Some(json!(["patch", changed]))
            }
        };
        if diff.is_none() && presence.is_none() {
            return;
        }
        self.told.clone_from(&self.shown);
        let mut push = json!({"type": "push", "clientClock": self.clock});
        if let Some(diff) = &diff {
            push["diff"] = diff.clone();
        }
        if let Some(presence) = presence {
            push["presence"] = presence;
        }
        self.pending.push_back((self.clock, diff));
        self.clock += 1;
        self.outgoing.push_back(push.to_string());
    }

    pub(crate) fn ping(&mut self) {
        self.outgoing.push_back(json!({"type": "ping"}).to_string());
    }

    /// Takes a frame. After each message, the document at the clock that it says must be the one it now believes in.
    pub(crate) fn hear(&mut self, frame: &[u8], history: &BTreeMap<u64, Records>) {
        let frame: Value = serde_json::from_slice(frame).unwrap();
        match frame["type"].as_str().unwrap() {
            "connect" => self.hydrate(&frame, history),
            "data" => {
                assert!(self.connected, "told before it is connected");
                self.push();
                for message in frame["data"].as_array().unwrap() {
                    self.take(message);
                    self.believe(message, history);
                }
                self.view = self.sent();
            }
            "pong" => {}
            other => panic!("{other}"),
        }
    }

    fn believe(&mut self, message: &Value, history: &BTreeMap<u64, Records>) {
        let clock = message["serverClock"].as_u64().unwrap();
        assert!(clock as i64 >= self.server_clock, "the clock goes back");
        self.server_clock = clock as i64;
        assert_eq!(self.base, history[&clock], "at {clock}");
    }

    fn hydrate(&mut self, frame: &Value, history: &BTreeMap<u64, Records>) {
        assert_eq!(frame["connectRequestId"], self.request.to_string());
        let (version, before) = (self.version, std::mem::take(&mut self.base));
        let mine = std::mem::take(&mut self.view);
        if frame["hydrationType"] != "wipe_all" {
            self.base.clone_from(&before);
        } else {
            self.server_clock = -1;
        }
        self.others.clear();
        self.take_diff(&frame["diff"], Fit::AsFarAsPossible);
        self.believe(frame, history);
        self.connected = true;
        self.told = None;
        self.read_only = frame["isReadonly"] == true;
        // What was done meanwhile is done again: by whole records, or by what is different in them.
        self.view.clone_from(&self.base);
        if version < 8 {
            for (id, record) in mine.iter().filter(|(id, record)| before.get(*id) != Some(record)) {
                self.view.insert(id.clone(), record.clone());
            }
            self.view.retain(|id, _| mine.contains_key(id) || !before.contains_key(id));
        } else if let Some(again) = between(&before, &mine, version) {
            apply(&mut self.view, &again, version, Fit::AsFarAsPossible);
        }
        self.push();
    }

    fn take(&mut self, message: &Value) {
        if message["type"] == "patch" {
            return self.take_diff(&message["diff"], Fit::Exactly);
        }
        assert_eq!(message["type"], "push_result");
        let (clock, diff) = self.pending.pop_front().expect("a result of no push");
        assert_eq!(message["clientClock"], clock, "a result of another push");
        match (&message["action"], diff) {
            (Value::String(action), Some(diff)) if action == "commit" => {
                assert!(!self.read_only, "a reader's change is committed");
                self.take_diff(&diff, Fit::Exactly);
            }
            (Value::String(action), None) => assert_eq!(action, "commit"),
            (Value::String(action), Some(_)) => assert_eq!(action, "discard"),
            (action, _) => {
                assert!(!self.read_only, "a reader's change has an effect");
                self.take_diff(&action["rebaseWithDiff"], Fit::Exactly);
            }
        }
    }

    fn take_diff(&mut self, diff: &Value, fit: Fit) {
        for (id, op) in diff.as_object().unwrap() {
            assert!(op[0] != "put" || op[1]["id"] == **id, "{op} under {id}");
            let records = if id.starts_with(PRESENCE) { &mut self.others } else { &mut self.base };
            apply(records, &json!({id: op}), self.version, fit);
        }
    }
}
