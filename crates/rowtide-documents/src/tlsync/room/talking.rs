//! What clients of a room ask for, done, and what everybody is told of it. One step computes what a client that
//! connects does not know yet and makes it one of those who are told: nothing can happen in between.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Number;

use super::super::diff::Flavour;
use super::super::document::Change;
use super::super::json::Json;
use super::super::limits::TlsyncLimits;
use super::super::message::{Action, Connect, Connected, Item, Protocol, Push};
use super::super::outbox::Outbox;
use super::super::record::InvalidRecord;
use super::super::schema::{Mismatch, Schema};
use super::super::session::{Phase, Session, Stay, Talk};
use super::super::snapshot;
use super::super::telling::{Became, Entries};
use super::{TlsyncRoom, send_away};
use crate::place::{Access, Closing, Effect, Frame, Reason};

/// A message about data, as clients of each flavour read it.
pub(super) struct Told {
    seven: Item,
    eight: Item,
}

/// What became of what a session shows of itself.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    id: &'a str,
    became: &'a Became,
    state: Option<&'a Json>,
}

/// A push, as far as its answer depends on it.
struct Asked {
    clock: Number,
    presence_alone: bool,
    mended: bool,
    flavour: Flavour,
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
        let (protocol, schema) = match self.accept(id, connect.protocol, connect.schema) {
            Ok(accepted) => accepted,
            Err(mismatch) => {
                return self.refuse(now, id, connect.protocol.ok(), mismatch.into(), effects);
            }
        };
        let shown = self.sessions.values().filter_map(|session| session.presence.state.as_ref());
        let bytes = self.document.weight() + shown.map(Json::weight).sum::<usize>();
        let again = self.sessions.get_mut(id).and_then(Session::here);
        if again.is_some_and(|here| !here.may_connect_again(now, bytes, &self.limits)) {
            return self.end(now, id, Closing::Final(Reason::RateLimited), effects);
        }
        let mut entries = Entries::default();
        let hydration = self.document.hydrate(connect.seen, &mut entries);
        for (other, session) in &self.sessions {
            if let Some(state) = session.presence.state.as_ref().filter(|_| other != id) {
                entries.tell_put(&session.presence.id, |out| state.write(out));
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
        here.phase = Phase::Talking(Talk { protocol, schema, outbox, heard_at: now });
    }

    /// The protocol and the schema of a client, if it can be served. As long as nobody has edited the document, its
    /// schema is that of whoever is there.
    fn accept(
        &self,
        id: &Arc<str>,
        protocol: Result<Protocol, Mismatch>,
        schema: Option<Schema>,
    ) -> Result<(Protocol, Arc<Schema>), Mismatch> {
        let protocol = protocol?;
        let readable = schema.filter(|schema| schema.weight() <= self.limits.schema_bytes);
        let schema = readable.ok_or(Mismatch::ClientTooOld)?;
        let of_others = || {
            let others = self.sessions.iter().filter(|(other, _)| *other != id);
            others.map(|(_, session)| session).find_map(Session::schema)
        };
        match self.document.schema.as_ref().or_else(of_others) {
            Some(own) => own.serves(&schema).map(|()| (protocol, own.clone())),
            None => Ok((protocol, Arc::new(schema))),
        }
    }

    /// Sends a client away that has not connected yet.
    fn refuse(
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
        if !change.became.is_empty() {
            let clock = self.document.clock;
            let begun = self.document.begun.take();
            let new_schema = self.document.adopt(schema);
            let edit = snapshot::write_edit(clock, begun, &entries, new_schema);
            effects.push(Effect::Edit(edit));
        }
        let asked = Asked { clock: push.clock, presence_alone, mended: push.mended, flavour };
        let result = self.result(&asked, &change, &entries);
        let session = self.sessions.get_mut(id);
        let keeps_up =
            session.is_none_or(|session| offer(session, now, &result, &self.limits, effects));
        if !change.became.is_empty() || shown.is_some() {
            self.tell_others(now, id, entries, &change, shown.as_ref(), effects);
        }
        if !keeps_up {
            self.end(now, id, Closing::ComeBack, effects);
        }
    }

    /// Tells everybody else of a change, and of what a session shows of itself.
    fn tell_others(
        &mut self,
        now: Duration,
        id: &Arc<str>,
        entries: Entries,
        change: &Change,
        shown: Option<&Became>,
        effects: &mut Vec<Effect>,
    ) {
        let shown = shown.zip(self.sessions.get(id)).map(|(became, session)| Shown {
            id: &session.presence.id,
            became,
            state: session.presence.state.as_ref(),
        });
        let told = self.told(entries, change, shown);
        self.tell(now, Some(id), &told, effects);
    }

    /// What became of a push, for its client.
    fn result(&self, push: &Asked, change: &Change, entries: &Entries) -> Item {
        let clock = self.document.clock;
        let result = |action: &Action<'_>| Item::push_result(&push.clock, clock, action);
        if push.presence_alone {
            result(&Action::Commit)
        } else if change.became.is_empty() {
            result(&Action::Discard)
        } else if change.exact && !push.mended {
            result(&Action::Commit)
        } else if push.flavour == Flavour::Seven && change.appends_text() {
            result(&Action::Rebase(&self.document.tell(change, Flavour::Seven)))
        } else {
            result(&Action::Rebase(entries))
        }
    }

    /// The message about a change, and about what a session shows of itself, as everybody but its client is told.
    /// `entries` tells of the change already, to those of the later flavour.
    pub(super) fn told(&self, entries: Entries, change: &Change, shown: Option<Shown<'_>>) -> Told {
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
        Told { seven, eight }
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
