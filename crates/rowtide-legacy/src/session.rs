//! One older client. The session takes the steps of its view and says them in the older words. What it is sent it
//! takes also when it is about to end, or has said so, and before its rows have come: older clients never send again. Pure: see
//! [`rowtide_gateway::conversation`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rowtide_gateway::auth::Identity;
use rowtide_gateway::conversation::{
    Asked, Beat, ClaimRequest, Conversation, Effect, Ending, Input, Mutation, Pulse, Stopping,
};
use rowtide_gateway::limits::{ClientLimits, LONGEST_WAIT};
use rowtide_gateway::rate::Verdict;
use rowtide_gateway::registry::Sharing;
use rowtide_gateway::scheduler::Broken;
use rowtide_gateway::send_queue::SessionStep;
use rowtide_gateway::{NotServing, Now, OpenRequest};
use rowtide_plan::plan::Plan;
use rowtide_plan::write::Rejection;
use rowtide_postgres::mutate::{Author, Number};
use rowtide_postgres::named_outcomes::{NamedOutcome, Tab, Told};
use rowtide_protocol::{ErrorCode, MAX_OPS, RejectCode};
use serde_json::value::RawValue;

use crate::frames::{Frame, Frames};
use crate::heard::Heard;
use crate::missed::Missed;
use crate::publications::Publications;
use crate::translate::{Held, Update, applied, commit, mutation, outcomes, reject, tolerance};

/// The longest name of a mutation, in bytes.
const MAX_NAME_BYTES: usize = 200;
/// How long after something was told to a tab that has come back it is asked whether it has heard: another with the same
/// `sessionId`, such as a copy of it, may come back as well, and have sent it.
const COPIES_COME: Duration = Duration::from_secs(5);

/// The client that counts the mutations of a user's older clients; no client id has a slash.
fn client_of(user_id: &str) -> Box<str> {
    format!("app/{user_id}").into()
}

/// A session. See the module.
pub struct OlderSession {
    limits: ClientLimits,
    identity: Identity,
    author: Arc<Author>,
    held: Held,
    frames: Frames,
    /// Which of the user's tabs it is.
    session: Arc<str>,
    /// The mutations that it has sent and not heard of.
    sent: HashSet<String>,
    missed: Missed,
    publications: Publications,
    heard: Heard,
    /// Whether it was said that something is not understood.
    said: bool,
    pulse: Option<Pulse>,
    phase: Phase,
    stopping: Option<Stopping>,
    deadline: Option<Duration>,
}

enum Phase {
    /// The place and the engine's session are waited for. What is sent meanwhile is read by the plan that served when it
    /// came, if one did, should the server stop before.
    Opening(Option<Arc<Plan>>),
    /// All is there; a mutation may wait for the user's rate to be asked.
    Live(Arc<Plan>, Option<(String, Box<Mutation>)>),
    /// It is over. With a plan what still comes is taken.
    Ended(Option<Arc<Plan>>),
}

impl Phase {
    /// By what a message is read; `None` where nothing is served.
    fn plan(&self) -> Option<&Arc<Plan>> {
        match self {
            Phase::Opening(plan) | Phase::Ended(plan) => plan.as_ref(),
            Phase::Live(plan, _) => Some(plan),
        }
    }
}

/// What a step comes to.
type Outcome = Result<(), Option<Ending>>;

impl OlderSession {
    /// The session of who has come, in a tab that keeps its `session` when it comes back; `plan` serves now, if one does.
    pub fn new(
        limits: ClientLimits,
        identity: Identity,
        session: &str,
        plan: Option<Arc<Plan>>,
    ) -> OlderSession {
        OlderSession {
            limits,
            author: Arc::clone(&identity.author),
            held: Held::new(&identity.author.user_id),
            identity,
            frames: Frames::default(),
            session: session.into(),
            sent: HashSet::new(),
            missed: Missed::default(),
            publications: Publications::default(),
            heard: Heard::default(),
            said: false,
            pulse: None,
            phase: Phase::Opening(plan),
            stopping: None,
            deadline: None,
        }
    }

    fn act(&mut self, input: Input<'_, SessionStep>, now: &Now, out: &mut Vec<Effect>) -> Outcome {
        if matches!(input, Input::Text(_) | Input::Binary | Input::Heard) {
            self.pulse = Some(Pulse::new(now.time));
        }
        if self.remaining(now).is_zero() {
            return end(ErrorCode::Unauthorized, "the token has expired");
        }
        match input {
            Input::Begin => {
                self.pulse = Some(Pulse::new(now.time));
                let user = &self.identity.author.user_id;
                out.push(Effect::Claim(ClaimRequest {
                    client: client_of(user),
                    user: user.as_str().into(),
                    known: None,
                    sharing: Sharing::Shared,
                }));
            }
            Input::Claimed(claimed) => {
                claimed.map_err(|error| Some(error.into()))?;
                out.push(Effect::Open(OpenRequest {
                    author: Some(Arc::clone(&self.author)),
                    client: Some(client_of(&self.identity.author.user_id)),
                    told: None,
                    not_before: None,
                    cursor: None,
                    subscriptions: Vec::new(),
                }));
            }
            Input::Opened(Ok(plan)) => self.phase = Phase::Live(plan, None),
            // It may be told before the session itself is told to stop.
            Input::Opened(Err(NotServing::Stopped)) => self.stop(now),
            Input::Opened(Err(error)) => return Err(Some(error.into())),
            Input::Text(text) => self.hear(text, out)?,
            Input::Binary => self.ignore("a binary one"),
            Input::Unreadable(why) => return bad(&why),
            Input::Rated(verdict) => self.rated(verdict, out),
            Input::Full(mutation) => {
                if let Number::Next { name, .. } = &mutation.number {
                    self.sent.remove(&**name);
                    reject_at_once(name, RejectCode::RateLimitExceeded, out);
                }
            }
            Input::Outcomes(found) => {
                let found = self.missed.answered(found);
                self.tell(&found, now, out);
            }
            Input::Said(step) => self.say(step, now, out)?,
            Input::Broken(broken) => return self.broken_off(&broken),
            Input::Superseded => {
                return end(ErrorCode::Superseded, "another connection has taken over");
            }
            Input::Stop => self.stop(now),
            Input::Clock => match self.pulse.as_mut().and_then(|pulse| pulse.beat(now.time)) {
                None => {}
                Some(Beat::Ping) => self.ping(out),
                Some(Beat::Dead) => {
                    return end(ErrorCode::Timeout, "nothing was heard for too long");
                }
            },
            Input::Heard => {
                let client = client_of(&self.identity.author.user_id);
                let told = |name| Told { client: client.clone(), name };
                let told: Vec<Told> = self.heard.answered().into_iter().map(told).collect();
                if !told.is_empty() {
                    out.push(Effect::NoteTold(told));
                }
            }
            Input::Token(_) => {}
        }
        if self.heard.is_due(now.time) {
            self.ping(out);
        }
        if self.missed.is_due(now.time) {
            self.ask(out);
        }
        // Without a view nothing is heard of what is taken; the tab is told when it comes back.
        let waits = !self.sent.is_empty() && matches!(self.phase, Phase::Live(..));
        if self.stopping.is_some_and(|stopping| stopping.is_over(now.time, waits)) {
            return Err(Some(Ending::stopping()));
        }
        let expires = now.time + self.remaining(now).min(LONGEST_WAIT);
        let beats = self.pulse.as_ref().map(Pulse::deadline);
        let stops = self.stopping.map(|stopping| stopping.deadline(now.time));
        let due = [beats, stops, self.heard.deadline(), self.missed.deadline()];
        self.deadline = due.into_iter().flatten().chain([expires]).min();
        Ok(())
    }

    /// The server stops: what has arrived already is still taken, whether the first rows have come or not.
    fn stop(&mut self, now: &Now) {
        self.stopping.get_or_insert(Stopping::new(now.time));
    }

    /// How long it may go on. These clients cannot send a new token, and would lose what they send while they connect
    /// again.
    fn remaining(&self, now: &Now) -> Duration {
        match self.limits.older_sessions_outlive_tokens {
            true => LONGEST_WAIT,
            false => self.identity.remaining(now.unix),
        }
    }

    fn ping(&mut self, out: &mut Vec<Effect>) {
        self.heard.pinged();
        out.push(Effect::Ping);
    }

    /// Asks what became of what the tab has sent over earlier connections.
    fn ask(&self, out: &mut Vec<Effect>) {
        let user = &self.identity.author.user_id;
        let (client, session) = (client_of(user), (&*self.session).into());
        out.push(Effect::AskOutcomes(Tab { client, user: user.as_str().into(), session }));
    }

    /// Tells what became of what the tab has sent over earlier connections.
    fn tell(&mut self, found: &[NamedOutcome], now: &Now, out: &mut Vec<Effect>) {
        outcomes(found).into_iter().for_each(|message| say(message, out));
        for outcome in found {
            self.sent.remove(&*outcome.name);
            if outcome.rejected.is_some() {
                self.missed.tells_rejection(&outcome.name);
            }
            self.heard.told(&outcome.name, Some(now.time + COPIES_COME));
        }
    }

    /// Says once for a session what is not understood, and nothing of what was sent: it may be anything.
    fn ignore(&mut self, what: &str) {
        if std::mem::replace(&mut self.said, true) {
            tracing::debug!(what, "a message of an older client is ignored");
        } else {
            tracing::warn!(what, "a message of an older client is not understood, and ignored");
        }
    }

    fn broken_off(&self, broken: &Broken) -> Outcome {
        tracing::debug!(?broken, "the mutations of an older client are not taken");
        let code = match broken {
            Broken::Stopped | Broken::Superseded => ErrorCode::Restarting,
            Broken::Gap { .. } | Broken::NotTheirs => ErrorCode::Unavailable,
        };
        end(code, "mutations are not taken any more")
    }

    /// Says a step in the older words.
    fn say(&mut self, step: SessionStep, now: &Now, out: &mut Vec<Effect>) -> Outcome {
        let Phase::Live(plan, _) = &self.phase else { return Ok(()) };
        match step {
            SessionStep::Begin(_) => {}
            SessionStep::Snapshot { table, rows } => self.held.arrive(plan.table(table), rows),
            SessionStep::Ready(cursor) => {
                say(self.held.initial_data(plan, cursor.lsn), out);
                if self.missed.ready() {
                    self.ask(out);
                }
            }
            SessionStep::Tx { messages, acknowledgements } => {
                for message in &messages {
                    let updates = self.held.updates(plan, message.changes());
                    updates.into_iter().for_each(|update| say(update, out));
                    for (name, code) in self.publications.changed(plan, message.changes()) {
                        say(reject(&name, code), out);
                    }
                }
                for acknowledgement in &acknowledgements {
                    let missed = self.missed.acknowledged(acknowledgement);
                    self.tell(&missed, now, out);
                }
                let names = applied(&acknowledgements);
                commit(&names).into_iter().for_each(|commit| say(commit, out));
                for acknowledgement in &acknowledgements {
                    let Some(name) = acknowledgement.name.as_deref() else { continue };
                    // To the session that sent it alone.
                    match (self.sent.remove(name), acknowledgement.rejected.first()) {
                        (true, None) => self.heard.told(name, None),
                        (true, Some(rejected)) => {
                            say(reject(name, &rejected.code), out);
                            self.missed.tells_rejection(name);
                            self.heard.told(name, Some(now.time));
                        }
                        (false, Some(_)) => self.missed.strange_rejection(name, now.time),
                        (false, None) => {}
                    }
                }
            }
            SessionStep::Closed(code, message) => return end(code, &message),
        }
        Ok(())
    }

    fn hear(&mut self, text: &str, out: &mut Vec<Effect>) -> Outcome {
        let text = match self.frames.take(text, self.limits.message_bytes) {
            Frame::Whole(text) => text,
            Frame::Part => return Ok(()),
            Frame::Broken(why) => return bad(why),
        };
        let (name, updates) = match mutation(&text) {
            Ok(mutation) => mutation,
            Err(what) => {
                self.ignore(what);
                return Ok(());
            }
        };
        let Some(plan) = self.phase.plan() else {
            // Nothing is served, and nobody else takes it: better a rejection than silence.
            reject_at_once(&name, RejectCode::UnknownError, out);
            return Ok(());
        };
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
            // It cannot be kept.
            reject_at_once(&name, RejectCode::BadRequest, out);
            return Ok(());
        }
        self.publications.asks(plan, &name, updates);
        let mutation = self.read(&name, updates, text.len(), plan);
        // As large as one of today's at the most, it is one request.
        let requests = mutation.operations.div_ceil(MAX_OPS);
        let rate = Effect::Rate(Arc::clone(&self.author), requests, Duration::ZERO);
        match &mut self.phase {
            Phase::Live(_, asked) => {
                *asked = Some((name, Box::new(mutation)));
                out.push(rate);
            }
            // Nobody hears of it any more: it is taken.
            _ => out.push(Effect::Push(Box::new(mutation))),
        }
        Ok(())
    }

    /// Older clients send nothing again, so they are told of what is over the rate.
    fn rated(&mut self, verdict: Verdict, out: &mut Vec<Effect>) {
        let Phase::Live(_, asked) = &mut self.phase else { return };
        let Some((name, mutation)) = asked.take() else { return };
        if verdict == Verdict::Now {
            self.sent.insert(name);
            out.push(Effect::Push(mutation));
        } else {
            reject_at_once(&name, RejectCode::RateLimitExceeded, out);
        }
    }

    /// Reads a mutation. What is wrong with it is told when it is its turn, and as durably as all else: the connection may
    /// end before the client has heard it.
    fn read(&self, name: &str, updates: Option<&RawValue>, bytes: usize, plan: &Plan) -> Mutation {
        let updates = updates.map_or("null", RawValue::get);
        let (asked, operations) = match serde_json::from_str::<Vec<Update>>(updates) {
            Ok(updates) => {
                let ops: Vec<_> = updates.into_iter().filter_map(|of| of.op(plan)).collect();
                let operations = ops.len().max(1);
                (Asked::Apply(ops), operations)
            }
            Err(error) => {
                let rejection = Rejection::new(RejectCode::BadRequest, error.to_string());
                (Asked::Reject(rejection), 1)
            }
        };
        Mutation {
            number: Number::Next { name: name.into(), session: Arc::clone(&self.session) },
            author: Arc::clone(&self.author),
            asked,
            tolerance: Some(tolerance),
            operations,
            bytes,
        }
    }
}

impl Conversation for OlderSession {
    type Said = SessionStep;

    fn step(&mut self, input: Input<'_, SessionStep>, now: &Now, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Ended(_)) {
            if let Input::Text(text) = input {
                let mut late = Vec::new();
                // What is wrong with it has nobody to be told to.
                drop(self.hear(text, &mut late));
                out.extend(late.into_iter().filter(|effect| matches!(effect, Effect::Push(_))));
            }
            return;
        }
        if let Err(ending) = self.act(input, now, out) {
            // What was sent before the client hears of the end would be lost, where the end is not its own doing.
            let takes = ending.as_ref().is_some_and(|end| {
                matches!(end.code, ErrorCode::Restarting | ErrorCode::Unavailable)
            });
            self.phase = Phase::Ended(self.phase.plan().filter(|_| takes).cloned());
            out.push(Effect::End(ending));
        }
    }

    fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    fn has_let_in(&self) -> bool {
        // Their token came with the upgrade.
        true
    }

    fn reads(&self) -> bool {
        match &self.phase {
            // What comes waits in the socket, until it can be told what becomes of it.
            Phase::Opening(_) => self.stopping.is_some(),
            Phase::Live(_, asked) => asked.is_none(),
            Phase::Ended(_) => false,
        }
    }

    fn takes_deflated(&self) -> bool {
        false
    }
}

/// Rejects what is not put into the queue.
fn reject_at_once(name: &str, code: RejectCode, out: &mut Vec<Effect>) {
    say(reject(name, code.as_str()), out);
    out.push(Effect::CountRejection(code));
}

fn say(message: String, out: &mut Vec<Effect>) {
    out.push(Effect::Send(Bytes::from(message)));
}

fn end(code: ErrorCode, message: &str) -> Outcome {
    Err(Some(Ending::new(code, message)))
}

fn bad(message: &str) -> Outcome {
    end(ErrorCode::BadRequest, message)
}

#[cfg(test)]
mod tests;
