//! What clients of a room ask for, done, and what everybody is told of it. One step computes what a client that
//! connects does not know yet and makes it one of those who are told: nothing can happen in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::diff::Flavour;
use super::super::document::Change;
use super::super::edition::EditionId;
use super::super::json::Json;
use super::super::limits::TlsyncLimits;
use super::super::message::{Action, Connect, Connected, Item, Protocol, Push};
use super::super::outbox::Outbox;
use super::super::record::InvalidRecord;
use super::super::schema::{Mismatch, Schema};
use super::super::session::{Phase, Session, Stay, Talk};
use super::super::snapshot;
use super::super::telling::{Became, Entries};
use super::outcome::{Accepted, Asked, Outcome};
use super::{TlsyncRoom, send_away};
use crate::place::{Access, Closing, Effect, Frame, Reason};

/// A message about data, as clients of each flavour read it.
#[derive(Clone)]
struct Flavours {
    seven: Item,
    eight: Item,
}

/// A message about data, for all who have connected. Those of an edition in which nothing happened are not told.
pub(super) struct Told {
    own: Flavours,
    editions: BTreeMap<EditionId, Flavours>,
}

/// What became of what a session shows of itself.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    id: &'a str,
    became: &'a Became,
    state: Option<&'a Json>,
}

/// Whether a client has the document itself.
enum Served {
    Equal(Accepted),
    /// It would have an edition.
    Older(Protocol, Arc<Schema>),
}

impl From<Mismatch> for Reason {
    fn from(mismatch: Mismatch) -> Reason {
        match mismatch {
            Mismatch::ClientTooOld => Reason::ClientTooOld,
            Mismatch::ServerTooOld => Reason::ServerTooOld,
        }
    }
}

impl TlsyncRoom {
    /// A client wants to be told of the document.
    pub(super) fn connect(
        &mut self,
        now: Duration,
        id: &Arc<str>,
        connect: Connect,
        effects: &mut Vec<Effect>,
    ) {
        let mut connect = connect;
        let schema = connect.schema.take();
        match self.accept(id, connect.protocol, schema) {
            Ok(Served::Equal(accepted)) => self.let_in(now, id, accepted, &connect, effects),
            Ok(Served::Older(protocol, schema)) => {
                self.come_older(now, id, protocol, schema, connect, effects);
            }
            Err(mismatch) => {
                self.refuse(now, id, connect.protocol.ok(), mismatch.into(), effects);
            }
        }
    }

    /// Tells a client of the document, and from now on of everything.
    pub(super) fn let_in(
        &mut self,
        now: Duration,
        id: &Arc<str>,
        accepted: Accepted,
        connect: &Connect,
        effects: &mut Vec<Effect>,
    ) {
        let Accepted { protocol, schema, edition } = accepted;
        let shown = self.sessions.values().filter_map(|session| session.presence.state.as_ref());
        let bytes = self.document.weight() + shown.map(Json::weight).sum::<usize>();
        let again = self.sessions.get_mut(id).and_then(Session::here);
        if again.is_some_and(|here| !here.may_connect_again(now, bytes, &self.limits)) {
            return self.end(now, id, Closing::Final(Reason::RateLimited), effects);
        }
        let mut entries = Entries::default();
        let of_edition = edition.and_then(|edition| self.editions.get(edition));
        let hydration = {
            let records = of_edition.map(|edition| &edition.records);
            self.document.hydrate(connect.seen, records, &mut entries)
        };
        for (other, Session { presence, .. }) in &self.sessions {
            let state = match of_edition {
                None => presence.state.as_ref(),
                Some(edition) => edition.records.get(&presence.id),
            };
            if let Some(state) = state.filter(|_| other != id) {
                entries.tell_put(&presence.id, |out| state.write(out));
            }
        }
        let Some(here) = self.sessions.get_mut(id).and_then(Session::here) else { return };
        if let Some(waiting) = here.talk().and_then(|talk| talk.outbox.flush()) {
            effects.push(Effect::Send(here.socket, Frame::Text(waiting)));
        }
        let connected = Connected {
            request: &connect.request,
            protocol,
            schema: &schema,
            clock: self.document.clock,
            access: here.access,
            hydration,
            diff: &entries,
        };
        effects.push(Effect::Send(here.socket, Frame::Text(connected.frame())));
        let outbox = Outbox::default();
        here.phase = Phase::Talking(Talk { protocol, schema, edition, outbox, heard_at: now });
    }

    /// The protocol and the schema of a client, if it can be served. As long as nobody has edited the document, its
    /// schema is that of whoever is there.
    fn accept(
        &self,
        id: &Arc<str>,
        protocol: Result<Protocol, Mismatch>,
        schema: Option<Schema>,
    ) -> Result<Served, Mismatch> {
        let protocol = protocol?;
        let readable = schema.filter(|schema| schema.weight() <= self.limits.schema_bytes);
        let schema = readable.ok_or(Mismatch::ClientTooOld)?;
        let of_others = || {
            let others = self.sessions.iter().filter(|(other, _)| *other != id);
            others.map(|(_, session)| session).find_map(Session::schema)
        };
        let equal = |schema| Served::Equal(Accepted { protocol, schema, edition: None });
        if let Some(application) = &self.application {
            return match application.schema.serves(&schema) {
                Ok(()) => Ok(equal(application.schema.clone())),
                Err(Mismatch::ClientTooOld) => Ok(Served::Older(protocol, Arc::new(schema))),
                Err(Mismatch::ServerTooOld) => Err(Mismatch::ServerTooOld),
            };
        }
        match self.document.schema.as_ref().or_else(of_others) {
            Some(own) => own.serves(&schema).map(|()| equal(own.clone())),
            None => Ok(equal(Arc::new(schema))),
        }
    }

    /// Sends a client away that has not connected yet.
    pub(super) fn refuse(
        &mut self,
        now: Duration,
        id: &Arc<str>,
        protocol: Option<Protocol>,
        reason: Reason,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(here) = self.sessions.get_mut(id).and_then(Session::here) {
            let socket = here.socket;
            self.sockets.remove(&socket);
            send_away(socket, protocol, reason, effects);
            self.forget(now, id, effects);
        }
    }

    /// A client has changed something, all of it or nothing.
    pub(super) fn push(
        &mut self,
        now: Duration,
        id: &Arc<str>,
        push: Push,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(application) = self.application.clone() {
            return self.ask_of(now, id, push, &application, effects);
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Stay::Here(here) = &session.stay else { return };
        // What comes before the client has connected is of its last connection, and it will push it again.
        let Phase::Talking(talk) = &here.phase else { return };
        let (flavour, schema) = (talk.protocol.flavour(), talk.schema.clone());
        let presence_alone = push.diff.is_none();
        let change = match push.diff.filter(|_| here.access == Access::Edit) {
            Some(diff) => match self.document.push(diff, flavour, &schema, &self.limits) {
                Ok(change) => change,
                Err(InvalidRecord) => {
                    return self.end(now, id, Closing::Final(Reason::InvalidRecord), effects);
                }
            },
            None => Change::none(),
        };
        let shown = push.presence.and_then(|op| session.presence.show(op, flavour, &self.limits));

        let entries = self.document.tell(&change, Flavour::Eight);
        self.write_change(&change, &entries, Some(schema), effects);
        let asked = Asked { clock: push.clock, presence_alone, mended: push.mended, flavour };
        let exact = asked.is_exact(&change);
        let outcome = Outcome { shown, ..Outcome::of(change) };
        let result = self.result_in(None, &asked, exact, &outcome, &entries);
        self.tell_result(now, id, &result, entries, &outcome, effects);
    }

    /// Tells a session what became of its push, and everybody else what happened.
    pub(super) fn tell_result(
        &mut self,
        now: Duration,
        id: &Arc<str>,
        result: &Item,
        entries: Entries,
        outcome: &Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let session = self.sessions.get_mut(id);
        let keeps_up =
            session.is_none_or(|session| offer(session, now, result, &self.limits, effects));
        if !outcome.change.became.is_empty() || outcome.shown.is_some() {
            let shown =
                outcome.shown.as_ref().zip(self.sessions.get(id)).map(|(became, session)| Shown {
                    id: &session.presence.id,
                    became,
                    state: session.presence.state.as_ref(),
                });
            let told = self.told(entries, &outcome.change, shown, &outcome.editions);
            self.tell(now, Some(id), &told, effects);
        }
        if !keeps_up {
            self.end(now, id, Closing::ComeBack, effects);
        }
    }

    /// Makes a change durable, which has happened.
    pub(super) fn write_change(
        &mut self,
        change: &Change,
        entries: &Entries,
        schema: Option<Arc<Schema>>,
        effects: &mut Vec<Effect>,
    ) {
        if !change.became.is_empty() {
            self.write_edit(entries, schema, effects);
        }
    }

    /// Makes durable what has led to the document's clock. If the document has no schema yet, it is the application's, or the
    /// one of whoever has edited it. The first edit says it: a server that finds it and another document knows then whether
    /// they go together.
    pub(super) fn write_edit(
        &mut self,
        entries: &Entries,
        schema: Option<Arc<Schema>>,
        effects: &mut Vec<Effect>,
    ) {
        let of_application = self.application.as_ref().map(|of| of.schema.clone());
        if self.document.schema.is_none() {
            self.document.schema = of_application.or(schema);
            self.has_said_schema = false;
        }
        let schema = self.document.schema.as_deref().filter(|_| !self.has_said_schema);
        let edit = snapshot::write_edit(self.document.clock, self.begun(), entries, schema);
        self.has_said_schema = self.document.schema.is_some();
        self.document.begun = None;
        effects.push(Effect::Edit(edit));
    }

    /// What became of a push, for its client, which has an edition or the document itself. `entries` tells of the
    /// document already, to those of the later flavour.
    pub(super) fn result_in(
        &self,
        edition: Option<EditionId>,
        push: &Asked,
        exact: bool,
        outcome: &Outcome,
        entries: &Entries,
    ) -> Item {
        let clock = self.document.clock;
        let result = |action: &Action<'_>| Item::push_result(&push.clock, clock, action);
        let change = match edition {
            None => Some(&outcome.change),
            Some(edition) => outcome.editions.get(&edition),
        };
        let Some(change) = change.filter(|change| !change.became.is_empty()) else {
            let nothing = if push.presence_alone { Action::Commit } else { Action::Discard };
            return result(&nothing);
        };
        if exact {
            return result(&Action::Commit);
        }
        if edition.is_none() && (push.flavour == Flavour::Eight || !change.appends_text()) {
            return result(&Action::Rebase(entries));
        }
        result(&Action::Rebase(&self.tell_in(edition, change, push.flavour)))
    }

    /// Tells of a change of the document, or of an edition.
    fn tell_in(&self, edition: Option<EditionId>, change: &Change, flavour: Flavour) -> Entries {
        match edition.and_then(|edition| self.editions.get(edition)) {
            Some(edition) => edition.tell(change, flavour),
            None => self.document.tell(change, flavour),
        }
    }

    /// The message about a change, and about what a session shows of itself, as everybody but its client is told.
    /// `entries` tells of the change already, to those of the later flavour. What changed in editions is told to those who
    /// have them.
    pub(super) fn told(
        &self,
        entries: Entries,
        change: &Change,
        shown: Option<Shown<'_>>,
        editions: &BTreeMap<EditionId, Change>,
    ) -> Told {
        let clock = self.document.clock;
        let with_shown = |mut entries: Entries, flavour| {
            if let Some(Shown { id, became, state }) = shown {
                entries.tell(id, became, state, flavour);
            }
            Item::patch(&entries, clock)
        };
        let eight = with_shown(entries, Flavour::Eight);
        let differs =
            change.appends_text() || shown.is_some_and(|shown| shown.became.appends_text());
        let mut flavours = self.sessions.values().filter_map(Session::flavour);
        let seven = if differs && flavours.any(|flavour| flavour == Flavour::Seven) {
            with_shown(self.document.tell(change, Flavour::Seven), Flavour::Seven)
        } else {
            eight.clone()
        };
        let happened = editions.iter().filter(|(_, change)| !change.became.is_empty());
        let editions = happened.map(|(id, change)| {
            let item = |flavour| Item::patch(&self.tell_in(Some(*id), change, flavour), clock);
            let eight = item(Flavour::Eight);
            let seven = if change.appends_text() { item(Flavour::Seven) } else { eight.clone() };
            (*id, Flavours { seven, eight })
        });
        Told { own: Flavours { seven, eight }, editions: editions.collect() }
    }

    /// Tells everybody who has connected, but one. Whoever does not keep up has to come back.
    pub(super) fn tell(
        &mut self,
        now: Duration,
        but: Option<&Arc<str>>,
        told: &Told,
        effects: &mut Vec<Effect>,
    ) {
        let mut behind = Vec::new();
        for (id, session) in &mut self.sessions {
            let Some(flavour) = session.flavour().filter(|_| Some(id) != but) else { continue };
            let told = match session.edition() {
                None => Some(&told.own),
                Some(edition) => told.editions.get(&edition),
            };
            let Some(told) = told else { continue };
            let item = match flavour {
                Flavour::Seven => &told.seven,
                Flavour::Eight => &told.eight,
            };
            if !offer(session, now, item, &self.limits, effects) {
                behind.push(id.clone());
            }
        }
        for id in behind {
            self.end(now, &id, Closing::ComeBack, effects);
        }
    }
}

/// Puts a message on its way to a session that has connected; whether it keeps up.
fn offer(
    session: &mut Session,
    now: Duration,
    item: &Item,
    limits: &TlsyncLimits,
    effects: &mut Vec<Effect>,
) -> bool {
    let Some(here) = session.here() else { return true };
    let socket = here.socket;
    let Some(talk) = here.talk() else { return true };
    if let Some(frame) = talk.outbox.offer(now, item, limits.debounce) {
        effects.push(Effect::Send(socket, Frame::Text(frame)));
    }
    talk.outbox.bytes() <= limits.waiting_bytes
}
