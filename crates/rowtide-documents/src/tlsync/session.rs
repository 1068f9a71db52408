//! A session: somebody's stay in a room, over the sockets it takes. It begins to talk when it has connected; what
//! it shows of itself stays for a while when its socket is gone, so that others do not see it leave and come back.

use std::sync::Arc;
use std::time::Duration;

use super::diff::{Flavour, ObjectDiff, RecordOp, apply, make};
use super::edition::EditionId;
use super::json::{Json, MAX_DEPTH};
use super::limits::TlsyncLimits;
use super::message::{Heard, Protocol, Unreadable};
use super::outbox::Outbox;
use super::parts::{Broken, Parts};
use super::schema::Schema;
use super::telling::Became;
use crate::place::{Access, Closing, Reason, Socket};

/// The type of what sessions show of themselves.
pub(super) const PRESENCE_TYPE: &str = "instance_presence";

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) presence: Presence,
    pub(super) stay: Stay,
}

/// What a session shows of itself: a record that is never stored.
#[derive(Debug)]
pub(super) struct Presence {
    pub(super) id: Box<str>,
    pub(super) state: Option<Json>,
}

/// Where a session is.
#[derive(Debug)]
pub(super) enum Stay {
    Here(Box<Here>),
    /// It lost its socket.
    Gone {
        /// Until when it is still shown.
        until: Duration,
    },
}

/// A session with a socket.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) socket: Socket,
    pub(super) access: Access,
    pub(super) phase: Phase,
    parts: Parts,
    /// What it says.
    pace: Pace,
    /// What it is told because it asked for it again, or what has to be made for it alone.
    answers: Pace,
    /// What the application's schema is asked because of what it says.
    questions: Pace,
}

/// How far a session with a socket has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// It has not connected.
    Waiting {
        /// When it has to.
        until: Duration,
    },
    Talking(Talk),
}

/// A session that has connected, and is told of everything.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) protocol: Protocol,
    pub(super) schema: Arc<Schema>,
    /// The edition of the document that it has; none if it has the document itself.
    pub(super) edition: Option<EditionId>,
    pub(super) outbox: Outbox,
    pub(super) heard_at: Duration,
}

/// How much of something there was lately, such as messages: a bucket that fills with time.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When it would be full again.
    full_at: Duration,
}

impl Session {
    /// The session, if it has a socket.
    pub(super) fn here(&mut self) -> Option<&mut Here> {
        if let Stay::Here(here) = &mut self.stay { Some(here) } else { None }
    }

    /// When there is something to do about it next.
    pub(super) fn next_tick(&self, limits: &TlsyncLimits) -> Duration {
        match &self.stay {
            Stay::Gone { until } => *until,
            Stay::Here(here) => match &here.phase {
                Phase::Waiting { until } => *until,
                Phase::Talking(talk) => {
                    let silent = talk.heard_at + limits.silence;
                    talk.outbox.next_due().map_or(silent, |due| due.min(silent))
                }
            },
        }
    }

    /// Its schema, if it has connected.
    pub(super) fn schema(&self) -> Option<&Arc<Schema>> {
        self.talks().map(|talk| &talk.schema)
    }

    /// The flavour of what it is told, if it has connected.
    pub(super) fn flavour(&self) -> Option<Flavour> {
        self.talks().map(|talk| talk.protocol.flavour())
    }

    /// The edition that it has, if it has connected and has one.
    pub(super) fn edition(&self) -> Option<EditionId> {
        self.talks().and_then(|talk| talk.edition)
    }

    fn talks(&self) -> Option<&Talk> {
        let Stay::Here(here) = &self.stay else { return None };
        if let Phase::Talking(talk) = &here.phase { Some(talk) } else { None }
    }
}

impl Here {
    /// A session whose socket has just come.
    pub(super) fn new(
        now: Duration,
        socket: Socket,
        access: Access,
        limits: &TlsyncLimits,
    ) -> Here {
        let phase = Phase::Waiting { until: now + limits.connect_within };
        let (pace, answers, questions) = <(Pace, Pace, Pace)>::default();
        Here { socket, access, phase, parts: Parts::default(), pace, answers, questions }
    }

    /// The session, if it has connected.
    pub(super) fn talk(&mut self) -> Option<&mut Talk> {
        if let Phase::Talking(talk) = &mut self.phase { Some(talk) } else { None }
    }

    /// Takes a frame; what the client says, if that is complete.
    pub(super) fn hear(
        &mut self,
        now: Duration,
        frame: &str,
        limits: &TlsyncLimits,
    ) -> Result<Option<Heard>, Closing> {
        if let Some(talk) = self.talk() {
            talk.heard_at = now;
        }
        let text = match self.parts.take(frame, limits.message_bytes, limits.message_parts) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(Broken::OutOfOrder) => return Err(Closing::ComeBack),
            Err(Broken::TooLong) => return Err(Closing::Final(Reason::UnknownError)),
        };
        if !self.pace.take(now, text.len(), limits) {
            return Err(Closing::Final(Reason::RateLimited));
        }
        match Heard::read(&text) {
            Ok(heard) => Ok(Some(heard)),
            Err(Unreadable::Text) => Err(Closing::ComeBack),
            Err(Unreadable::Message) => Err(Closing::Final(Reason::UnknownError)),
            Err(Unreadable::Record) => Err(Closing::Final(Reason::InvalidRecord)),
        }
    }
}

impl Here {
    /// Whether it may be told as many bytes again as it was told when it connected.
    pub(super) fn may_connect_again(
        &mut self,
        now: Duration,
        bytes: usize,
        limits: &TlsyncLimits,
    ) -> bool {
        self.talk().is_none() || self.answers.take(now, bytes, limits)
    }

    /// Whether the application's schema may be asked about as many bytes because of what it says.
    pub(super) fn may_have_asked(
        &mut self,
        now: Duration,
        bytes: usize,
        limits: &TlsyncLimits,
    ) -> bool {
        self.questions.take(now, bytes, limits)
    }

    /// Whether the whole document may be brought down for it. That costs all that it may be told at once: a client has one
    /// schema, and so does it once.
    pub(super) fn may_have_edition(&mut self, now: Duration, limits: &TlsyncLimits) -> bool {
        self.answers.take(now, usize::MAX, limits)
    }
}

impl Pace {
    /// Whether a message of some bytes is within the rate.
    fn take(&mut self, now: Duration, bytes: usize, limits: &TlsyncLimits) -> bool {
        let more = bytes / limits.bytes_a_message.max(1);
        let messages = u32::try_from(more.saturating_add(1)).unwrap_or(u32::MAX);
        // More than a whole bucket costs a whole bucket: nothing is too much for ever.
        let messages = messages.min(limits.messages_at_once);
        let each = Duration::from_secs(1) / limits.messages_a_second.max(1);
        self.takes(now, messages, limits.messages_at_once, each)
    }

    /// Whether so many more are within what there may be at once, where there may be one more after `each`.
    pub(super) fn takes(&mut self, now: Duration, more: u32, at_once: u32, each: Duration) -> bool {
        let full_at = self.full_at.max(now) + each * more;
        let within = full_at <= now + each * at_once;
        if within {
            self.full_at = full_at;
        }
        within
    }
}

impl Presence {
    /// Shows what a client says of itself, under the room's id for it; what became of it for others.
    pub(super) fn show(
        &mut self,
        op: RecordOp,
        flavour: Flavour,
        limits: &TlsyncLimits,
    ) -> Option<Became> {
        match op {
            RecordOp::Put(Json::Object(mut new)) => {
                new.set("id", Json::text(&self.id));
                new.set("typeName", Json::text(PRESENCE_TYPE));
                let became = match self.state.as_ref().and_then(Json::as_object) {
                    Some(before) => patched(make(before, &new, Flavour::Eight)),
                    None => Some(Became::Put),
                };
                let new = Json::Object(new);
                if new.weight() > limits.presence_bytes {
                    return None;
                }
                self.state = Some(new);
                became
            }
            RecordOp::Patch(mut diff) => {
                let state = self.state.as_mut()?;
                diff.0.retain(|(key, _)| !matches!(&**key, "id" | "typeName"));
                if state.weight() + diff.weight() > limits.presence_bytes {
                    return None;
                }
                apply(&mut diff, state, flavour);
                patched(diff)
            }
            RecordOp::Put(_) | RecordOp::Remove => None,
        }
    }
}

impl Presence {
    /// What a session would show of itself, which has shown `before`, under the room's id for it.
    pub(super) fn would_show(
        &self,
        before: Option<&Json>,
        op: RecordOp,
        type_name: &str,
        flavour: Flavour,
        limits: &TlsyncLimits,
    ) -> Option<Json> {
        let mut state = match op {
            RecordOp::Put(state) => state,
            RecordOp::Patch(mut diff) => {
                let mut state = before?.clone();
                if diff.depth() > MAX_DEPTH
                    || state.weight() + diff.weight() > limits.presence_bytes
                {
                    return None;
                }
                apply(&mut diff, &mut state, flavour);
                state
            }
            RecordOp::Remove => return None,
        };
        let Json::Object(object) = &mut state else { return None };
        object.set("id", Json::text(&self.id));
        object.set("typeName", Json::text(type_name));
        let fits = state.weight() <= limits.presence_bytes && state.depth() <= MAX_DEPTH;
        (fits && before != Some(&state)).then_some(state)
    }

    /// Shows a state; what became of it for others.
    pub(super) fn replace(&mut self, state: Json) -> Option<Became> {
        let became = match self.state.as_ref().and_then(Json::as_object).zip(state.as_object()) {
            Some((before, after)) => patched(make(before, after, Flavour::Eight)),
            None => Some(Became::Put),
        };
        self.state = Some(state);
        became
    }
}

fn patched(diff: ObjectDiff) -> Option<Became> {
    if diff.0.is_empty() { None } else { Some(Became::Patched(diff)) }
}
