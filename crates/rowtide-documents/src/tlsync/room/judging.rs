//! Pushes to a document whose records the application's schema knows: the schema is asked whether they are valid, and
//! what they are in every edition, before anything happens. What the document has become, each edition has become, too,
//! and whoever has one is told of it in its own version. A client is told that what it asked for has happened only if
//! its edition has become just what it has made of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rowtide_schema::SchemaQuestion;

use super::super::application::{Judged, Pushed, TlsyncSchema, ask_of_push};
use super::super::diff::{Flavour, RecordOp, RecordsDiff, apply};
use super::super::document::Change;
use super::super::edition::EditionId;
use super::super::json::{Json, MAX_DEPTH};
use super::super::message::Push;
use super::super::record::{InvalidRecord, check, check_diff};
use super::super::schema::Schema;
use super::super::session::{Phase, Presence, Session, Stay};
use super::super::telling::Became;
use super::outcome::{Asked, Outcome};
use super::{Awaited, TlsyncRoom};
use crate::place::{Access, Closing, Effect, Reason, Socket};

/// A push whose records the schema is asked about.
#[derive(Debug)]
pub(super) struct JudgedPush {
    session: Arc<str>,
    socket: Socket,
    edition: Option<EditionId>,
    asked: Asked,
    wanted: Wanted,
    /// What the session shows of itself then, as it has it: the last record of the question.
    shown: Option<Json>,
    /// In which editions the records were asked for.
    to: Vec<EditionId>,
}

/// What a push does to the document, if it is valid.
#[derive(Debug, Default)]
struct Wanted {
    /// What was asked for, by a client that has the document itself.
    diff: RecordsDiff,
    /// What it makes of records, in the client's version, in the order of the question.
    states: Vec<(Box<str>, Json)>,
    /// What a client of an edition removes.
    removed: Vec<Box<str>>,
    /// Whether everything that was asked for has an effect in the client's version.
    exact: bool,
}

impl TlsyncRoom {
    /// A client has changed something; the application's schema is asked, if there is something to ask.
    pub(super) fn ask_of(
        &mut self,
        now: Duration,
        id: &Arc<str>,
        push: Push,
        application: &TlsyncSchema,
        effects: &mut Vec<Effect>,
    ) {
        self.let_unused_editions_go();
        let Some(session) = self.sessions.get(id) else { return };
        let Stay::Here(here) = &session.stay else { return };
        let Phase::Talking(talk) = &here.phase else { return };
        let (flavour, edition, socket) = (talk.protocol.flavour(), talk.edition, here.socket);
        let presence_alone = push.diff.is_none();
        let diff = push.diff.filter(|_| here.access == Access::Edit);
        let wanted = match edition {
            _ if diff.is_none() => Ok(Wanted::default()),
            None => self.wanted(diff.unwrap_or_default(), flavour, application),
            Some(edition) => {
                self.wanted_of_edition(edition, diff.unwrap_or_default(), flavour, application)
            }
        };
        let Ok(wanted) = wanted else {
            return self.end(now, id, Closing::Final(Reason::InvalidRecord), effects);
        };
        let shown = self.would_show(id, edition, push.presence, flavour, application);
        let asked = Asked { clock: push.clock, presence_alone, mended: push.mended, flavour };
        let to: Vec<EditionId> = self.editions.iter().map(|(id, _)| id).collect();
        let session = id.clone();
        let judged = JudgedPush { session, socket, edition, asked, wanted, shown, to };
        if judged.wanted.states.is_empty() && judged.shown.is_none() {
            let to = judged.to.iter().map(|_| Some(Vec::new())).collect();
            let records = Some(Vec::new());
            return self.judged(now, judged, Judged::Valid { records, to }, effects);
        }
        let question = self.question(&judged);
        let bytes = question.text.len().saturating_mul(1 + judged.to.len());
        let here = self.sessions.get_mut(id).and_then(Session::here);
        if !here.is_some_and(|here| here.may_have_asked(now, bytes, &self.limits)) {
            return self.end(now, id, Closing::Final(Reason::RateLimited), effects);
        }
        self.awaited = Some(Box::new(Awaited::Push(judged)));
        effects.push(Effect::Ask(question));
    }

    /// What a push makes of the document.
    fn wanted(
        &mut self,
        diff: RecordsDiff,
        flavour: Flavour,
        application: &TlsyncSchema,
    ) -> Result<Wanted, InvalidRecord> {
        self.document.check(&diff, |type_name| application.stores(type_name), &self.limits)?;
        if !self.document.would_fit(&diff, &self.limits) {
            return Ok(Wanted::default());
        }
        let mut states = Vec::new();
        for (id, op) in &diff.0 {
            match op {
                RecordOp::Put(state) => states.push((id.clone(), state.clone())),
                RecordOp::Patch(diff) => {
                    let Some(record) = self.document.records.get_mut(id) else { continue };
                    let (mut diff, mut state) = (diff.clone(), record.value().clone());
                    apply(&mut diff, &mut state, flavour);
                    if !diff.0.is_empty() {
                        states.push((id.clone(), state));
                    }
                }
                RecordOp::Remove => {}
            }
        }
        Ok(Wanted { diff, states, removed: Vec::new(), exact: true })
    }

    /// What a push makes of an edition.
    fn wanted_of_edition(
        &self,
        edition: EditionId,
        diff: RecordsDiff,
        flavour: Flavour,
        application: &TlsyncSchema,
    ) -> Result<Wanted, InvalidRecord> {
        let mut wanted = Wanted { exact: true, ..Wanted::default() };
        let Some(edition) = self.editions.get(edition) else { return Ok(Wanted::default()) };
        for (id, op) in diff.0 {
            let before = edition.records.get(&id);
            let state = match (op, before) {
                (RecordOp::Put(state), _) => {
                    check(&id, &state, |type_name| application.stores(type_name), &self.limits)?;
                    wanted.exact &= before.is_none();
                    Some(state).filter(|state| before != Some(state))
                }
                (RecordOp::Patch(mut diff), Some(before)) => {
                    check_diff(before, &diff)?;
                    if diff.depth() > MAX_DEPTH {
                        return Ok(Wanted::default());
                    }
                    let mut state = before.clone();
                    wanted.exact &= apply(&mut diff, &mut state, flavour).exact;
                    (!diff.0.is_empty()).then_some(state)
                }
                (RecordOp::Remove, Some(_)) => {
                    wanted.removed.push(id);
                    continue;
                }
                (RecordOp::Patch(_) | RecordOp::Remove, None) => None,
            };
            let Some(state) = state else {
                wanted.exact = false;
                continue;
            };
            let limits = &self.limits;
            if state.weight() > limits.record_bytes || state.depth() > MAX_DEPTH {
                return Ok(Wanted::default());
            }
            wanted.states.push((id, state));
        }
        Ok(wanted)
    }

    /// What a session would show of itself, as it has it.
    fn would_show(
        &self,
        id: &Arc<str>,
        edition: Option<EditionId>,
        op: Option<RecordOp>,
        flavour: Flavour,
        application: &TlsyncSchema,
    ) -> Option<Json> {
        let presence = &self.sessions.get(id)?.presence;
        let before = match edition {
            None => presence.state.as_ref(),
            Some(edition) => self.editions.get(edition)?.records.get(&presence.id),
        };
        let type_name = application.presence()?;
        presence.would_show(before, op?, type_name, flavour, &self.limits)
    }

    fn question(&mut self, judged: &JudgedPush) -> SchemaQuestion {
        let edition = judged.edition.and_then(|edition| self.editions.get(edition));
        let presence = self.sessions.get(&judged.session).map(|session| &session.presence);
        // What was loaded as text is read here.
        for (id, _) in &judged.wanted.states {
            if let Some(record) = self.document.records.get_mut(id) {
                record.value();
            }
        }
        let of_document = judged.wanted.states.iter().map(|(id, record)| Pushed {
            record,
            before: edition.and_then(|edition| edition.records.get(id)),
            own: self.document.records.get(id).and_then(|own| own.as_value()),
        });
        let of_session = judged.shown.iter().map(|record| Pushed {
            record,
            before: edition.zip(presence).and_then(|(of, own)| of.records.get(&own.id)),
            own: presence.and_then(|presence| presence.state.as_ref()),
        });
        let records: Vec<Pushed<'_>> = of_document.chain(of_session).collect();
        let to: Vec<&Schema> =
            judged.to.iter().filter_map(|id| Some(&*self.editions.get(*id)?.schema)).collect();
        ask_of_push(&records, edition.map(|edition| &*edition.schema), &to)
    }

    /// The schema has said what it thinks of a push.
    pub(super) fn judged(
        &mut self,
        now: Duration,
        judged: JudgedPush,
        said: Judged,
        effects: &mut Vec<Effect>,
    ) {
        let id = judged.session.clone();
        let Judged::Valid { records, to } = said else {
            return self.end(now, &id, Closing::Final(Reason::InvalidRecord), effects);
        };
        let JudgedPush { edition, asked, wanted, shown, to: editions, .. } = judged;
        let records = match (edition, records) {
            (None, _) => {
                wanted.states.iter().map(|(_, state)| state.clone()).chain(shown).collect()
            }
            (Some(_), Some(records)) => records,
            (Some(_), None) => Vec::new(),
        };
        let shows = records.len() > wanted.states.len();
        if records.len() != wanted.states.len() + usize::from(shows) {
            return self.end(now, &id, Closing::Final(Reason::UnknownError), effects);
        }
        let mut own = records.into_iter();
        let diff = match edition {
            None => wanted.diff,
            Some(_) => {
                let ids = wanted.states.iter().map(|(id, _)| id.clone());
                let puts = ids.zip(own.by_ref()).map(|(id, state)| (id, RecordOp::Put(state)));
                let removes = wanted.removed.iter().map(|id| (id.clone(), RecordOp::Remove));
                let mut all: Vec<_> = puts.chain(removes).collect();
                all.sort_by(|(a, _), (b, _)| a.cmp(b));
                RecordsDiff(all)
            }
        };
        let fits = edition.is_none() || self.document.would_fit(&diff, &self.limits);
        let change = if fits && !diff.0.is_empty() {
            self.document.change(diff, asked.flavour, &self.limits)
        } else {
            Change::none()
        };
        let places: BTreeMap<&str, usize> =
            wanted.states.iter().enumerate().map(|(at, (id, _))| (&**id, at)).collect();
        let mut exact = asked.is_exact(&change);
        let mut outcome = self.follow(change, &places, &editions, &to);
        if let Some(place) = edition.and_then(|own| editions.iter().position(|id| *id == own)) {
            let after = to.get(place).and_then(Option::as_ref);
            let same = |(at, (id, state)): (usize, &(Box<str>, Json))| {
                outcome.change.became.iter().any(|(other, _)| other == id)
                    && after.and_then(|after| after.get(at)) == Some(state)
            };
            exact = wanted.exact && !asked.mended && wanted.states.iter().enumerate().all(same);
        }
        let entries = self.document.tell(&outcome.change, Flavour::Eight);
        self.write_change(&outcome.change, &entries, None, effects);
        let result = self.result_in(edition, &asked, exact, &outcome, &entries);
        let shown = if shows { own.last() } else { None };
        outcome.shown = shown.and_then(|state| self.show(&id, state, &editions, &to, &mut outcome));
        self.tell_result(now, &id, &result, entries, &outcome, effects);
        for edition in outcome.lost {
            self.lose_edition(now, edition, effects);
        }
    }

    /// Has every edition follow a change; `said` is what the records at `places` are in each.
    pub(super) fn follow(
        &mut self,
        change: Change,
        places: &BTreeMap<&str, usize>,
        editions: &[EditionId],
        said: &[Option<Vec<Json>>],
    ) -> Outcome {
        let (mut changes, mut lost) = (BTreeMap::new(), Vec::new());
        for (n, id) in editions.iter().enumerate() {
            let Some(edition) = self.editions.get_mut(*id) else { continue };
            let states = said.get(n).and_then(Option::as_ref);
            let Some(states) = states.filter(|states| states.len() >= places.len()) else {
                lost.push(*id);
                continue;
            };
            let mut of_edition = Change::none();
            for (record, became) in &change.became {
                let became = match (became, places.get(&**record)) {
                    (Became::Removed, _) => edition.remove(record),
                    (_, Some(place)) => edition.put(record, states[*place].clone()),
                    (_, None) => None,
                };
                of_edition.became.extend(became.map(|became| (record.clone(), became)));
            }
            changes.insert(*id, of_edition);
        }
        Outcome { change, editions: changes, lost, shown: None }
    }

    /// Shows what a session shows of itself, which is `state` in the application's schema; what became of it.
    fn show(
        &mut self,
        id: &Arc<str>,
        state: Json,
        editions: &[EditionId],
        said: &[Option<Vec<Json>>],
        outcome: &mut Outcome,
    ) -> Option<Became> {
        let presence = &mut self.sessions.get_mut(id)?.presence;
        for (id, states) in editions.iter().zip(said) {
            let Some(state) = states.as_ref().and_then(|states| states.last()) else { continue };
            let Some(edition) = self.editions.get_mut(*id) else { continue };
            let became = edition.put(&presence.id, state.clone());
            let change = outcome.editions.entry(*id).or_insert_with(Change::none);
            change.became.extend(became.map(|became| (presence.id.clone(), became)));
        }
        Presence::replace(presence, state)
    }

    /// Forgets editions that nobody has.
    pub(super) fn let_unused_editions_go(&mut self) {
        let sessions = &self.sessions;
        self.editions.retain(|id| sessions.values().any(|other| other.edition() == Some(id)));
    }

    /// The schema could not say what a document is for some clients, who have to go.
    pub(super) fn lose_edition(
        &mut self,
        now: Duration,
        edition: EditionId,
        effects: &mut Vec<Effect>,
    ) {
        let theirs = self.sessions.iter().filter(|(_, other)| other.edition() == Some(edition));
        let theirs: Vec<Arc<str>> = theirs.map(|(id, _)| id.clone()).collect();
        for id in theirs {
            self.end(now, &id, Closing::Final(Reason::ClientTooOld), effects);
        }
        self.editions.remove(edition);
    }
}

impl JudgedPush {
    pub(super) fn session(&self) -> (&Arc<str>, Socket) {
        (&self.session, self.socket)
    }
}
