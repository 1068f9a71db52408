//! Clients of documents that edit at random moments, come and go, and keep the books. What one was told is saved, or what
//! another was shown of it, must be in the document from then on; what was refused must never be. A client of tlsync comes
//! back with the last clock that it knows, one of Yjs with its document or with none: then the server alone has what it
//! wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Array, ReadTxn, StateVector, Transact, Update};

use super::desk::Desk;
use super::view::{Fate, Kind, View, page};
use crate::App;
use crate::at_document::{STEP_1, STEP_2, SYNC, UPDATE, buffer, sync};

/// How long a client waits for an answer before it tries again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it says that it is there.
const PING: Duration = Duration::from_secs(4);

/// How a visit to a document ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With this reason.
    SentAway(String),
    /// Without one.
    Lost,
    /// Because the client wanted it.
    Left,
}

/// A client of one document after the other: those of one row that takes the place of another.
pub(super) struct Editor {
    pub(super) user: &'static str,
    pub(super) slot: usize,
    pub(super) kind: Kind,
    /// Which document the view is of.
    document: String,
    pub(super) view: Arc<Mutex<View>>,
    /// Its edits bear it.
    name: String,
    marks: u64,
    /// Marks of its own that it knows to be saved.
    own: BTreeSet<String>,
    /// Whether it has the document and is told of edits.
    pub(super) here: Arc<AtomicBool>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A push that was not answered.
enum Pushed {
    Put(String),
    Remove(String),
}

/// One stay at a document.
struct Visit<'a> {
    socket: Socket,
    document: &'a str,
    begun: Instant,
    welcome: bool,
    clock: u64,
    pushed: BTreeMap<u64, Pushed>,
}

impl Editor {
    pub(super) fn new(user: &'static str, slot: usize, kind: Kind, number: usize) -> Editor {
        let view = Arc::new(Mutex::new(View::new(kind)));
        let name = format!("{user}-{number}");
        let (document, own, here) = (String::new(), BTreeSet::new(), Arc::default());
        Editor { user, slot, kind, document, view, name, marks: 0, own, here }
    }

    /// Whether it has never been anywhere.
    pub(super) fn is_fresh(&self) -> bool {
        self.document.is_empty()
    }

    fn seen(&self) -> MutexGuard<'_, View> {
        locked(&self.view)
    }

    /// Forgets what it has of the document.
    pub(super) fn forget(&mut self) {
        *self.seen() = View::new(self.kind);
    }

    /// Comes and goes, and edits meanwhile, until `stop`.
    pub(super) async fn edit_until(
        &mut self,
        address: &str,
        desk: &Desk,
        mut rng: StdRng,
        stop: &CancellationToken,
    ) {
        while !stop.is_cancelled() {
            if self.kind == Kind::Note && rng.random() {
                self.forget();
            }
            let until = Instant::now() + Duration::from_millis(rng.random_range(500..8_000));
            let document = desk.document(self.slot);
            let end = self.visit(address, desk, &document, until, Some(&mut rng), stop).await;
            desk.count(match end {
                End::SentAway(_) => "sent away",
                End::Lost => "lost sockets",
                End::Left => "visits",
            });
            let pause = Instant::now() + Duration::from_millis(rng.random_range(20..400));
            stop.run_until_cancelled(sleep_until(pause)).await;
        }
    }

    /// Stays at a document until then, comes again where it is to, and says with which reason it is kept out.
    pub(super) async fn stay(
        &mut self,
        address: &str,
        desk: &Desk,
        document: &str,
        until: Instant,
        stop: &CancellationToken,
    ) -> End {
        loop {
            let end = self.visit(address, desk, document, until, None, stop).await;
            let is_final = matches!(&end, End::SentAway(reason) if reason != "COME_BACK");
            if is_final || end == End::Left || Instant::now() > until {
                return end;
            }
            let pause = Instant::now() + Duration::from_millis(200);
            stop.run_until_cancelled(sleep_until(pause)).await;
        }
    }

    async fn visit(
        &mut self,
        address: &str,
        desk: &Desk,
        document: &str,
        until: Instant,
        edits: Option<&mut StdRng>,
        stop: &CancellationToken,
    ) -> End {
        self.here.store(false, Ordering::Relaxed);
        if document != self.document {
            self.forget();
            self.own.clear();
            document.clone_into(&mut self.document);
        }
        let (path, name, token) = (self.kind.path(), &self.name, App::token(self.user));
        let url = format!(
            "ws://{address}{path}/{document}?sessionId={name}&storeId=s&accessToken={token}"
        );
        let begun = Instant::now();
        let connected = stop.run_until_cancelled(timeout(PATIENCE, connect_async(url))).await;
        let Some(Ok(Ok((socket, _)))) = connected else { return End::Lost };
        let (pushed, clock) = (BTreeMap::new(), 0);
        let mut visit = Visit { socket, document, begun, welcome: false, clock, pushed };
        let end = tokio::select! {
            end = self.talk(&mut visit, desk, edits) => end,
            () = sleep_until(until) => End::Left,
            () = stop.cancelled() => End::Left,
        };
        if end == End::Left {
            drop(timeout(PING, visit.socket.close(None)).await);
        }
        end
    }

    async fn talk(
        &mut self,
        visit: &mut Visit<'_>,
        desk: &Desk,
        mut rng: Option<&mut StdRng>,
    ) -> End {
        let greeting = match &*self.seen() {
            View::Drawing { clock, .. } => Message::text(
                json!({
                    "type": "connect", "connectRequestId": "c", "lastServerClock": clock,
                    "protocolVersion": 8, "schema": { "schemaVersion": 2, "sequences": {} },
                })
                .to_string(),
            ),
            View::Note(doc) => {
                Message::binary(sync(STEP_1, &doc.transact().state_vector().encode_v1()))
            }
        };
        if visit.socket.send(greeting).await.is_err() {
            return End::Lost;
        }
        let mut edits_at = Instant::now();
        let mut pings_at = Instant::now() + PING;
        loop {
            let edits = visit.welcome && rng.is_some();
            tokio::select! {
                next = timeout(PATIENCE * 2, visit.socket.next()) => match next {
                    Ok(Some(Ok(Message::Close(Some(frame))))) => {
                        return End::SentAway(frame.reason.to_string());
                    }
                    Ok(Some(Ok(message))) => {
                        if self.hear(visit, desk, message).await.is_err() {
                            return End::Lost;
                        }
                    }
                    // A client of Yjs is told something after 20 s.
                    Err(_) if self.kind == Kind::Note && visit.welcome => {}
                    _ => return End::Lost,
                },
                () = sleep_until(edits_at), if edits => {
                    let Some(rng) = rng.as_deref_mut() else { continue };
                    edits_at = Instant::now() + Duration::from_millis(rng.random_range(30..500));
                    let edit = self.edit(visit, desk, rng);
                    if visit.socket.send(edit).await.is_err() {
                        return End::Lost;
                    }
                }
                () = sleep_until(pings_at) => {
                    pings_at = Instant::now() + PING;
                    let ping = Message::text(r#"{"type":"ping"}"#);
                    if self.kind == Kind::Drawing && visit.socket.send(ping).await.is_err() {
                        return End::Lost;
                    }
                }
            }
        }
    }

    /// Makes an edit.
    fn edit(&mut self, visit: &mut Visit<'_>, desk: &Desk, rng: &mut StdRng) -> Message {
        self.marks += 1;
        let mark = format!("{}-{}", self.name, self.marks);
        let old = self.own.first().cloned().filter(|_| rng.random_ratio(1, 8));
        match &*locked(&self.view) {
            View::Drawing { .. } => {
                visit.clock += 1;
                let (diff, pushed) = match old {
                    Some(old) => {
                        self.own.remove(&old);
                        desk.note(self.kind, visit.document, &old, Fate::Doubtful);
                        (json!({ format!("page:m-{old}"): ["remove"] }), Pushed::Remove(old))
                    }
                    None => {
                        desk.note(self.kind, visit.document, &mark, Fate::Unknown);
                        (
                            json!({ format!("page:m-{mark}"): ["put", page(&mark)] }),
                            Pushed::Put(mark),
                        )
                    }
                };
                visit.pushed.insert(visit.clock, pushed);
                let clock = visit.clock;
                Message::text(
                    json!({ "type": "push", "clientClock": clock, "diff": diff }).to_string(),
                )
            }
            View::Note(doc) => {
                desk.note(self.kind, visit.document, &mark, Fate::Unknown);
                let marks = doc.get_or_insert_array("marks");
                let mut transaction = doc.transact_mut();
                marks.push_back(&mut transaction, mark);
                Message::binary(sync(UPDATE, &transaction.encode_update_v1()))
            }
        }
    }

    async fn hear(
        &mut self,
        visit: &mut Visit<'_>,
        desk: &Desk,
        message: Message,
    ) -> Result<(), ()> {
        match message {
            Message::Text(text) => {
                let message: Value = serde_json::from_str(&text).map_err(|_| ())?;
                self.hear_json(visit, desk, &message);
                Ok(())
            }
            Message::Binary(bytes) => {
                for answer in self.hear_sync(visit, desk, &bytes) {
                    visit.socket.send(answer).await.map_err(|_| ())?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn hear_json(&mut self, visit: &mut Visit<'_>, desk: &Desk, message: &Value) {
        if message["type"] == "connect" {
            let mut view = locked(&self.view);
            if let View::Drawing { records, .. } = &mut *view
                && message["hydrationType"] == "wipe_all"
            {
                records.clear();
            }
            view.take_diff(&message["diff"]);
            view.saw_clock(&message["serverClock"]);
            drop(view);
            self.welcomed(visit, desk);
        }
        for item in message["data"].as_array().into_iter().flatten() {
            locked(&self.view).saw_clock(&item["serverClock"]);
            if item["type"] == "patch" {
                locked(&self.view).take_diff(&item["diff"]);
                let ids = item["diff"].as_object().into_iter().flatten();
                for (id, op) in ids {
                    if let Some(mark) = id.strip_prefix("page:m-")
                        && op[0] == "put"
                    {
                        desk.shown(self.kind, visit.document, mark);
                    }
                }
                continue;
            }
            let clock = item["clientClock"].as_u64().unwrap_or_default();
            if let Some(pushed) = visit.pushed.remove(&clock) {
                self.answered(visit.document, desk, pushed, &item["action"]);
            }
        }
    }

    fn answered(&mut self, document: &str, desk: &Desk, pushed: Pushed, action: &Value) {
        let mut view = locked(&self.view);
        let View::Drawing { records, .. } = &mut *view else { return };
        let (mark, fate) = match (pushed, action.as_str()) {
            (Pushed::Put(mark), Some("commit")) => {
                records.insert(format!("page:m-{mark}"), page(&mark));
                self.own.insert(mark.clone());
                (mark, Fate::Saved)
            }
            (Pushed::Put(mark), Some("discard")) => (mark, Fate::Refused),
            (Pushed::Remove(mark), Some("commit")) => {
                records.remove(&format!("page:m-{mark}"));
                (mark, Fate::TakenBack)
            }
            // Somebody may only look, so it is there still.
            (Pushed::Remove(mark), Some("discard")) => (mark, Fate::Saved),
            (Pushed::Put(mark) | Pushed::Remove(mark), _) => {
                desk.found(format!("a push of {mark} became {action}"));
                return;
            }
        };
        desk.note(self.kind, document, &mark, fate);
        desk.count(match fate {
            Fate::Refused => "edits refused",
            _ => "edits saved",
        });
    }

    fn hear_sync(&mut self, visit: &mut Visit<'_>, desk: &Desk, mut frame: &[u8]) -> Vec<Message> {
        let mut answers = Vec::new();
        while let [SYNC, step, rest @ ..] = frame {
            let (step, mut rest) = (*step, rest);
            let content = buffer(&mut rest).to_vec();
            frame = rest;
            let before: BTreeSet<String> = self.seen().marks().into_iter().collect();
            {
                let View::Note(doc) = &*locked(&self.view) else { return answers };
                if step == STEP_1 {
                    let has = StateVector::decode_v1(&content).expect("a state vector");
                    let lacks = doc.transact().encode_state_as_update_v1(&has);
                    answers.push(Message::binary(sync(STEP_2, &lacks)));
                    continue;
                }
                let update = Update::decode_v1(&content).expect("an update");
                doc.transact_mut().apply_update(update).expect("it fits");
            }
            // The document was stored before anybody was shown it, whoever wrote it.
            let shown: Vec<String> = self.seen().marks();
            for mark in shown.iter().filter(|mark| !before.contains(*mark)) {
                desk.shown(self.kind, visit.document, mark);
            }
            if step == STEP_2 {
                self.welcomed(visit, desk);
            }
        }
        answers
    }

    fn welcomed(&self, visit: &mut Visit<'_>, desk: &Desk) {
        visit.welcome = true;
        self.here.store(true, Ordering::Relaxed);
        desk.let_in(self.user, self.kind, visit.document, visit.begun);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
