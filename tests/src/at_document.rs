//! Clients of live documents: a socket and how it ends, one that draws as tldraw's clients do, and one that writes a
//! text as clients of Yjs do.

use std::collections::BTreeMap;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, GetString, ReadTxn, StateVector, Text, Transact, Update};

use crate::eventually::PATIENCE;

/// What comes over a socket.
#[derive(Clone, Debug, PartialEq)]
pub enum Came {
    /// JSON in a text frame.
    Text(Value),
    /// A binary frame.
    Binary(Vec<u8>),
    /// The end, with code and reason; code 0 if there was no goodbye.
    End(u16, String),
}

/// A socket of a document.
pub struct AtDocument {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl AtDocument {
    /// Connects.
    ///
    /// # Panics
    /// When the upgrade is not accepted.
    pub async fn open(address: &str, path_and_query: &str) -> AtDocument {
        let url = format!("ws://{address}{path_and_query}");
        let connected = timeout(PATIENCE, connect_async(url)).await.expect("an answer in time");
        AtDocument { socket: connected.expect("the upgrade is accepted").0 }
    }

    /// Sends a text.
    pub async fn say(&mut self, text: &str) {
        drop(self.socket.send(Message::text(text)).await);
    }

    /// Sends bytes.
    pub async fn say_bytes(&mut self, bytes: Vec<u8>) {
        drop(self.socket.send(Message::Binary(bytes.into())).await);
    }

    /// What comes next.
    ///
    /// # Panics
    /// When nothing comes in time.
    pub async fn next(&mut self) -> Came {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("something in time") {
                Some(Ok(Message::Text(text))) => {
                    return Came::Text(serde_json::from_str(&text).expect("it is JSON"));
                }
                Some(Ok(Message::Binary(bytes))) => return Came::Binary(bytes.to_vec()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Came::End(frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_) | Err(_)) | None => return Came::End(0, String::new()),
            }
        }
    }

    /// How it ends.
    pub async fn end(&mut self) -> (u16, String) {
        loop {
            if let Came::End(code, reason) = self.next().await {
                return (code, reason);
            }
        }
    }
}

/// A client of tlsync.
pub struct Drawer {
    /// Its socket.
    pub at: AtDocument,
    /// The records as it was told.
    pub records: BTreeMap<String, Value>,
    /// Whether it may only look.
    pub is_readonly: bool,
    clock: u64,
    results: BTreeMap<u64, Value>,
}

impl Drawer {
    /// Comes to a document at this path, which may have a query.
    pub async fn open(address: &str, path: &str, token: Option<&str>, session: &str) -> Drawer {
        let token = token.map_or_else(String::new, |token| format!("&accessToken={token}"));
        let path = format!("{path}?sessionId={session}&storeId=s{token}");
        let at = AtDocument::open(address, &path).await;
        let records = BTreeMap::new();
        Drawer { at, records, is_readonly: false, clock: 0, results: BTreeMap::new() }
    }

    /// As [`Drawer::open`], and is told the document.
    ///
    /// # Panics
    /// When it is sent away.
    pub async fn live(address: &str, path: &str, token: Option<&str>, session: &str) -> Drawer {
        let mut drawer = Drawer::open(address, path, token, session).await;
        let connected = drawer.connect(&json!({ "schemaVersion": 2, "sequences": {} })).await;
        connected.unwrap_or_else(|(code, reason)| panic!("sent away: {code} {reason}"));
        drawer
    }

    /// Connects as a client of a schema, and is told the document; or how it was sent away.
    ///
    /// # Errors
    /// When it is sent away.
    pub async fn connect(&mut self, schema: &Value) -> Result<(), (u16, String)> {
        let connect = json!({
            "type": "connect", "connectRequestId": "c", "lastServerClock": -1,
            "protocolVersion": 8, "schema": schema,
        });
        self.at.say(&connect.to_string()).await;
        loop {
            match self.at.next().await {
                Came::Text(message) if message["type"] == "connect" => {
                    self.is_readonly = message["isReadonly"] == true;
                    self.take_diff(&message["diff"]);
                    return Ok(());
                }
                Came::End(code, reason) => return Err((code, reason)),
                _ => {}
            }
        }
    }

    /// Puts a page; returns what became of it.
    pub async fn draw(&mut self, name: &str) -> Value {
        let page = json!({
            "id": format!("page:{name}"), "typeName": "page", "name": name, "index": "a2", "meta": {},
        });
        self.push(json!({ format!("page:{name}"): ["put", page] })).await
    }

    /// Changes the document; returns what became of that.
    ///
    /// # Panics
    /// When it is sent away.
    pub async fn push(&mut self, diff: Value) -> Value {
        self.clock += 1;
        let push = json!({ "type": "push", "clientClock": self.clock, "diff": diff });
        self.at.say(&push.to_string()).await;
        loop {
            if let Some(result) = self.results.remove(&self.clock) {
                if result == "commit" {
                    self.take_diff(&diff);
                }
                return result;
            }
            let came = self.take_next().await;
            came.unwrap_or_else(|(code, reason)| panic!("sent away: {code} {reason}"));
        }
    }

    /// Reads until the document is as wanted.
    ///
    /// # Panics
    /// When it is sent away, or that does not come.
    pub async fn until(&mut self, wanted: impl Fn(&BTreeMap<String, Value>) -> bool) {
        while !wanted(&self.records) {
            let came = self.take_next().await;
            came.unwrap_or_else(|(code, reason)| panic!("sent away: {code} {reason}"));
        }
    }

    /// Whether there is a page of this name.
    pub fn has(&self, name: &str) -> bool {
        self.records.contains_key(&format!("page:{name}"))
    }

    /// The document's own name.
    pub fn name(&self) -> &str {
        self.records["document:document"]["name"].as_str().expect("a name")
    }

    async fn take_next(&mut self) -> Result<(), (u16, String)> {
        match self.at.next().await {
            Came::Text(message) if message["type"] == "data" => {
                for item in message["data"].as_array().expect("a list") {
                    if item["type"] == "patch" {
                        self.take_diff(&item["diff"]);
                        continue;
                    }
                    let clock = item["clientClock"].as_u64().expect("a clock");
                    self.results.insert(clock, item["action"].clone());
                }
                Ok(())
            }
            Came::End(code, reason) => Err((code, reason)),
            _ => Ok(()),
        }
    }

    fn take_diff(&mut self, diff: &Value) {
        for (id, op) in diff.as_object().expect("a diff") {
            match op[0].as_str() {
                Some("put") => drop(self.records.insert(id.clone(), op[1].clone())),
                Some("remove") => drop(self.records.remove(id)),
                Some("patch") => {
                    let record = self.records.get_mut(id).expect("what is patched is there");
                    for (key, value) in op[1].as_object().expect("a patch") {
                        match value[0].as_str() {
                            Some("put") => record[key] = value[1].clone(),
                            Some("append") => {
                                let text = record[key].as_str().expect("a text").to_owned();
                                let more = value[1].as_str().expect("a text");
                                record[key] = Value::from(text + more);
                            }
                            other => panic!("{other:?} is not known to these clients"),
                        }
                    }
                }
                other => panic!("{other:?} is no operation"),
            }
        }
    }
}

pub(crate) const SYNC: u8 = 0;
pub(crate) const STEP_1: u8 = 0;
pub(crate) const STEP_2: u8 = 1;
pub(crate) const UPDATE: u8 = 2;
const AWARENESS: u8 = 1;

/// A client of Yjs, which writes one text.
pub struct Texter {
    /// Its socket.
    pub at: AtDocument,
    doc: Doc,
}

impl Texter {
    /// Comes to a document at this path.
    pub async fn open(address: &str, path: &str, token: Option<&str>) -> Texter {
        let token = token.map_or_else(String::new, |token| format!("?accessToken={token}"));
        let at = AtDocument::open(address, &format!("{path}{token}")).await;
        let mut texter = Texter { at, doc: Doc::new() };
        let vector = texter.doc.transact().state_vector().encode_v1();
        texter.at.say_bytes(sync(STEP_1, &vector)).await;
        texter
    }

    /// Writes at the end.
    pub async fn write(&mut self, more: &str) {
        let text = self.doc.get_or_insert_text("text");
        let update = {
            let mut transaction = self.doc.transact_mut();
            let end = text.len(&transaction);
            text.insert(&mut transaction, end, more);
            transaction.encode_update_v1()
        };
        self.at.say_bytes(sync(UPDATE, &update)).await;
    }

    /// What is written.
    pub fn text(&self) -> String {
        let text = self.doc.get_or_insert_text("text");
        text.get_string(&self.doc.transact())
    }

    /// Reads until the text has this in it.
    ///
    /// # Panics
    /// When it is sent away, or that does not come.
    pub async fn until(&mut self, part: &str) {
        while !self.text().contains(part) {
            match self.at.next().await {
                Came::Binary(frame) => self.take(&frame).await,
                Came::Text(_) => panic!("text is not for clients of Yjs"),
                Came::End(code, reason) => panic!("sent away: {code} {reason}"),
            }
        }
    }

    async fn take(&mut self, mut frame: &[u8]) {
        while let [kind, rest @ ..] = frame {
            frame = rest;
            match *kind {
                SYNC => {
                    let (step, mut rest) = (frame[0], &frame[1..]);
                    let content = buffer(&mut rest).to_vec();
                    frame = rest;
                    if step == STEP_1 {
                        let has = StateVector::decode_v1(&content).expect("a state vector");
                        let lacks = self.doc.transact().encode_state_as_update_v1(&has);
                        self.at.say_bytes(sync(STEP_2, &lacks)).await;
                    } else {
                        let update = Update::decode_v1(&content).expect("an update");
                        self.doc.transact_mut().apply_update(update).expect("it fits");
                    }
                }
                AWARENESS => drop(buffer(&mut frame)),
                // That it may only read.
                _ => return,
            }
        }
    }
}

pub(crate) fn sync(step: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![SYNC, step];
    let mut length = content.len();
    while length > 0x7f {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(content);
    out
}

pub(crate) fn buffer<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let (content, rest) = bytes.split_at(length);
    *bytes = rest;
    content
}
