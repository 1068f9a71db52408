//! A room whose records the application's schema knows: its document is brought up to that schema when it is opened or
//! restored, and brought down to an edition when a client of an older one comes. Each is a question; what was begun with
//! it goes on with the answer. If there is no answer, whoever has asked has to go, and nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rowtide_schema::{SchemaQuestion, Unanswered};
use thiserror::Error;

use super::super::application::{
    Brought, Judged, NewerSchema, Pushed, Served, TlsyncSchema, Validated, ask_for_edition,
    ask_of_push, ask_to_bring_up, ask_whether_served, ask_which_are_valid, named,
};
use super::super::diff::{Flavour, RecordOp, RecordsDiff, apply};
use super::super::document::{DOCUMENT_ID, Document};
use super::super::edition::{Edition, EditionId};
use super::super::json::{Json, MAX_DEPTH};
use super::super::limits::TlsyncLimits;
use super::super::message::{Connect, Protocol};
use super::super::record::Record;
use super::super::schema::{Mismatch, Schema};
use super::super::session::Session;
use super::super::snapshot::{self, SnapshotError};
use super::outcome::Accepted;
use super::{Awaited, TlsyncRoom};
use crate::place::{Closing, Effect, Reason, Socket};

/// A client of an older schema that wants to be told of the document.
#[derive(Debug)]
pub(super) struct Coming {
    session: Arc<str>,
    socket: Socket,
    protocol: Protocol,
    schema: Arc<Schema>,
    connect: Connect,
}

/// Why a document cannot be brought up to the application's schema.
#[derive(Debug, Error)]
pub enum SchemaFailure {
    /// There is no answer.
    #[error("the application's schema did not answer: {0}")]
    Unanswered(#[from] Unanswered),
    /// It says that it cannot do it.
    #[error("the application's schema cannot migrate it: {0}")]
    Failed(Box<str>),
    /// Its answer is no list of records that can be stored.
    #[error("the application's schema made something that cannot be stored of it")]
    Unstorable,
    /// Its answer is none to what it was asked.
    #[error("the application's schema answered something else than it was asked")]
    Unreadable,
}

impl TlsyncRoom {
    /// Takes the application's schema for the document, before anybody is in the room and after all edits are replayed.
    /// A document of an older schema is brought up to it: that is an edit, once the question about it is answered.
    ///
    /// # Errors
    /// If the document is of a newer one; the room is of no use then, and nothing has happened to the document.
    pub fn adopt(&mut self, application: Arc<TlsyncSchema>) -> Result<Vec<Effect>, NewerSchema> {
        if let Some(begun) = self.document.begun {
            self.document = Document::begin_with(begun, &application.initial);
        }
        let mismatch = self.document.schema.as_ref().map(|own| application.schema.serves(own));
        self.application = Some(application);
        match mismatch {
            None | Some(Ok(())) => Ok(Vec::new()),
            Some(Err(Mismatch::ServerTooOld)) => Err(NewerSchema),
            Some(Err(Mismatch::ClientTooOld)) => {
                let effects = vec![Effect::Ask(bring_up(&self.document))];
                self.awaited = Some(Box::new(Awaited::Migration));
                Ok(effects)
            }
        }
    }

    /// Asks which of some records of the document are not valid, if there is a schema to ask and something to ask about. The
    /// answer is for [`TlsyncRoom::invalid`].
    pub fn ask_of_records(&self, ids: &BTreeSet<Box<str>>) -> Option<SchemaQuestion> {
        self.application.as_ref()?;
        let mut records = ids.iter().filter_map(|id| self.document.records.get(id)).peekable();
        records.peek()?;
        Some(ask_which_are_valid(|out| write_all(records, out)))
    }

    /// The ids of records that are not valid, as the application's schema has answered.
    ///
    /// # Errors
    /// If the answer cannot be read.
    pub fn invalid(answer: &[u8]) -> Result<BTreeSet<Box<str>>, SchemaFailure> {
        let Validated { invalid } =
            serde_json::from_slice(answer).map_err(|_| SchemaFailure::Unreadable)?;
        Ok(invalid)
    }

    /// Makes the document what a snapshot says, as the newest edit of all. Everybody has to come back.
    ///
    /// # Errors
    /// If the snapshot cannot be read, or is of a newer schema than the application's; nothing has happened then.
    pub fn restore(
        &mut self,
        _now: Duration,
        snapshot: &[u8],
    ) -> Result<Vec<Effect>, SnapshotError> {
        let restored = snapshot::read(snapshot)?;
        let of = self.application.as_ref().map(|application| application.schema.clone());
        match of.zip(restored.schema.as_ref()).map(|(own, schema)| own.serves(schema)) {
            None | Some(Ok(())) => Ok(self.restored(restored)),
            Some(Err(Mismatch::ServerTooOld)) => Err(SnapshotError::Newer(NewerSchema)),
            Some(Err(Mismatch::ClientTooOld)) => {
                let question = bring_up(&restored);
                self.awaited = Some(Box::new(Awaited::Restore(Box::new(restored))));
                Ok(vec![Effect::Ask(question)])
            }
        }
    }

    fn restored(&mut self, restored: Document) -> Vec<Effect> {
        let clock = self.document.clock + 1;
        let edit = snapshot::write_restored(clock, self.begun(), &restored);
        self.document = self.document.restored(restored, &self.limits);
        self.has_said_schema = false;
        let sockets = std::mem::take(&mut self.sockets).into_keys();
        self.sessions.clear();
        self.editions.clear();
        let closed = sockets.map(|socket| Effect::Close(socket, Closing::ComeBack));
        [Effect::Edit(edit)].into_iter().chain(closed).collect()
    }

    /// Gives the document another name.
    pub fn rename(&mut self, now: Duration, name: &str) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.let_unused_editions_go();
        let diff = Document::renaming(name);
        if self.editions.len() == 0 {
            self.renamed(now, diff, Vec::new(), &[], &mut effects);
            return effects;
        }
        let Some((_, RecordOp::Patch(renaming))) = diff.0.first() else { return effects };
        let Some(record) = self.document.records.get_mut(DOCUMENT_ID) else { return effects };
        let (mut renaming, mut state) = (renaming.clone(), record.value().clone());
        apply(&mut renaming, &mut state, Flavour::Eight);
        if renaming.0.is_empty() {
            return effects;
        }
        let pushed = Pushed { record: &state, before: None, own: None };
        let (to, schemas): (Vec<EditionId>, Vec<&Schema>) =
            self.editions.iter().map(|(id, edition)| (id, &*edition.schema)).unzip();
        let question = ask_of_push(&[pushed], None, &schemas);
        self.awaited = Some(Box::new(Awaited::Rename(diff, to)));
        effects.push(Effect::Ask(question));
        effects
    }

    fn renamed(
        &mut self,
        now: Duration,
        diff: RecordsDiff,
        editions: Vec<EditionId>,
        said: &[Option<Vec<Json>>],
        effects: &mut Vec<Effect>,
    ) {
        let change = self.document.change(diff, Flavour::Eight, &self.limits);
        if change.became.is_empty() {
            return;
        }
        let outcome = self.follow(change, &BTreeMap::from([(DOCUMENT_ID, 0)]), &editions, said);
        let entries = self.document.tell(&outcome.change, Flavour::Eight);
        self.write_change(&outcome.change, &entries, None, effects);
        let told = self.told(entries, &outcome.change, None, &outcome.editions);
        self.tell(now, None, &told, effects);
        for edition in outcome.lost {
            self.lose_edition(now, edition, effects);
        }
    }

    /// A client of an older schema comes: it has an edition of the document, if the application can make it. Whether it can
    /// is asked about the schema alone, before anything is made.
    pub(super) fn come_older(
        &mut self,
        now: Duration,
        session: &Arc<str>,
        protocol: Protocol,
        schema: Arc<Schema>,
        connect: Connect,
        effects: &mut Vec<Effect>,
    ) {
        if let Some((id, edition)) = self.editions.of(&schema) {
            let accepted = Accepted { protocol, schema: edition.schema.clone(), edition: Some(id) };
            return self.let_in(now, session, accepted, &connect, effects);
        }
        let Some(here) = self.sessions.get_mut(session).and_then(Session::here) else { return };
        let socket = here.socket;
        let question = ask_whether_served(&schema);
        let session = session.clone();
        let coming = Coming { session, socket, protocol, schema, connect };
        self.awaited = Some(Box::new(Awaited::Served(coming)));
        effects.push(Effect::Ask(question));
    }

    /// A client comes whose schema can be served, or not.
    fn come_served(
        &mut self,
        now: Duration,
        coming: Coming,
        answer: Result<Bytes, Unanswered>,
        effects: &mut Vec<Effect>,
    ) {
        let Coming { session, socket, protocol, schema, .. } = &coming;
        if self.sockets.get(socket) != Some(session) {
            return;
        }
        let refused = match read(answer) {
            Some(Served { serves: true }) => None,
            Some(Served { serves: false }) => Some(Reason::ClientTooOld),
            None => Some(Reason::UnknownError),
        };
        if let Some(reason) = refused {
            return self.refuse(now, session, Some(*protocol), reason, effects);
        }
        self.let_unused_editions_go();
        if self.editions.len() >= self.limits.editions {
            // There is room again when one of them has gone.
            return self.end(now, session, Closing::ComeBack, effects);
        }
        let Some(here) = self.sessions.get_mut(session).and_then(Session::here) else { return };
        if !here.may_have_edition(now, &self.limits) {
            return self.end(now, session, Closing::Final(Reason::RateLimited), effects);
        }
        let TlsyncLimits { editions_at_once, edition_every, .. } = self.limits;
        if !self.brought_down.takes(now, 1, editions_at_once, edition_every) {
            return self.end(now, session, Closing::ComeBack, effects);
        }
        let question = ask_for_edition(schema, |out| {
            write_records(&self.document, out);
            for state in self.sessions.values().filter_map(|other| other.presence.state.as_ref()) {
                if out.last() != Some(&b'[') {
                    out.push(b',');
                }
                state.write(out);
            }
        });
        self.awaited = Some(Box::new(Awaited::Edition(coming)));
        effects.push(Effect::Ask(question));
    }

    /// The application's schema has answered, or it could not.
    ///
    /// # Errors
    /// If a document cannot be brought up, or there is no answer about its name. One that is to be opened is of no use then;
    /// one that was to be restored, or to have another name, is as it was.
    pub fn answered(
        &mut self,
        now: Duration,
        answer: Result<Bytes, Unanswered>,
    ) -> Result<Vec<Effect>, SchemaFailure> {
        let mut effects = Vec::new();
        match self.awaited.take().map(|awaited| *awaited) {
            None => {}
            Some(Awaited::Migration) => {
                let migrated = self.brought_up(&answer?)?;
                let ids = self.document.records.keys().filter(|id| !migrated.contains_key(*id));
                let removed = ids.map(|id| (id.clone(), RecordOp::Remove));
                let mut diff: Vec<_> = removed.collect();
                diff.extend(migrated.into_iter().map(|(id, state)| (id, RecordOp::Put(state))));
                diff.sort_by(|(a, _), (b, _)| a.cmp(b));
                // The schema is another one, also where no record is.
                let change = self.document.change(RecordsDiff(diff), Flavour::Eight, &self.limits);
                if change.became.is_empty() {
                    self.document.clock += 1;
                }
                self.document.schema = None;
                let entries = self.document.tell(&change, Flavour::Eight);
                self.write_edit(&entries, None, &mut effects);
            }
            Some(Awaited::Restore(mut restored)) => {
                let migrated = self.brought_up(&answer?)?;
                let clock = restored.clock;
                let record = |(id, state)| (id, Record::new(state, clock));
                let records = migrated.into_iter().map(record).collect();
                let schema =
                    self.application.as_ref().map(|application| application.schema.clone());
                *restored = Document::of(clock, clock, records, BTreeMap::new(), schema);
                effects = self.restored(*restored);
            }
            Some(Awaited::Rename(diff, to)) => {
                // A name that no client could read is none.
                if let Some(Judged::Valid { to: said, .. }) = read(Ok(answer?)) {
                    self.renamed(now, diff, to, &said, &mut effects);
                }
            }
            Some(Awaited::Served(coming)) => self.come_served(now, coming, answer, &mut effects),
            Some(Awaited::Edition(coming)) => self.come_with(now, coming, answer, &mut effects),
            Some(Awaited::Push(judged)) => {
                let (session, socket) = judged.session();
                if self.sockets.get(&socket) != Some(session) {
                    return Ok(effects);
                }
                let session = session.clone();
                match read(answer) {
                    Some(said) => self.judged(now, judged, said, &mut effects),
                    None => {
                        let closing = Closing::Final(Reason::UnknownError);
                        self.end(now, &session, closing, &mut effects);
                    }
                }
            }
        }
        Ok(effects)
    }

    fn come_with(
        &mut self,
        now: Duration,
        coming: Coming,
        answer: Result<Bytes, Unanswered>,
        effects: &mut Vec<Effect>,
    ) {
        let Coming { session, socket, protocol, schema, connect } = coming;
        if self.sockets.get(&socket) != Some(&session) {
            return;
        }
        let records = match read(answer) {
            Some(Brought::Records { records }) => records,
            Some(Brought::Refused { refused: _ }) => {
                let reason = Reason::ClientTooOld;
                return self.refuse(now, &session, Some(protocol), reason, effects);
            }
            Some(Brought::Failed { .. }) | None => {
                let reason = Reason::UnknownError;
                return self.refuse(now, &session, Some(protocol), reason, effects);
            }
        };
        let with_id = |state: Json| Some((named(&state)?.0.into(), state));
        let records = records.into_iter().filter_map(with_id).collect();
        let edition = Edition { schema: schema.clone(), records };
        let edition = Some(self.editions.add(edition));
        let accepted = Accepted { protocol, schema, edition };
        self.let_in(now, &session, accepted, &connect, effects);
    }

    /// The records of a document, brought up.
    fn brought_up(&self, answer: &[u8]) -> Result<BTreeMap<Box<str>, Json>, SchemaFailure> {
        let Some(application) = &self.application else { return Err(SchemaFailure::Unstorable) };
        let records = match serde_json::from_slice(answer) {
            Ok(Brought::Records { records }) => records,
            Ok(Brought::Failed { failed }) => return Err(SchemaFailure::Failed(failed)),
            Ok(Brought::Refused { .. }) | Err(_) => return Err(SchemaFailure::Unstorable),
        };
        let mut brought = BTreeMap::new();
        for record in records {
            let (id, type_name) = named(&record).ok_or(SchemaFailure::Unstorable)?;
            if !application.stores(type_name) || record.depth() > MAX_DEPTH {
                return Err(SchemaFailure::Unstorable);
            }
            if brought.insert(id.into(), record).is_some() {
                return Err(SchemaFailure::Unstorable);
            }
        }
        Ok(brought)
    }
}

fn bring_up(document: &Document) -> SchemaQuestion {
    let earliest = Schema::earliest();
    let from = document.schema.as_deref().unwrap_or(&earliest);
    ask_to_bring_up(from, |out| write_records(document, out))
}

/// Writes the records of a document, with commas between them.
fn write_records(document: &Document, out: &mut Vec<u8>) {
    write_all(document.records.values(), out);
}

fn write_all<'a>(records: impl Iterator<Item = &'a Record>, out: &mut Vec<u8>) {
    for (n, record) in records.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        record.write(out);
    }
}

/// An answer, if there is one that can be read.
fn read<T: serde::de::DeserializeOwned>(answer: Result<Bytes, Unanswered>) -> Option<T> {
    serde_json::from_slice(&answer.ok()?).ok()
}
