//! One older client. The session takes the steps of its view and says them in the older words. What it is sent it
//! takes also when it is about to end, or has said so: older clients never send again. Pure: see
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
use rowtide_gateway::send_queue::Step;
use rowtide_gateway::{Now, OpenRequest};
use rowtide_plan::plan::Plan;
use rowtide_plan::write::Rejection;
use rowtide_postgres::mutate::{Author, Number};
use rowtide_protocol::{ErrorCode, RejectCode};
use serde_json::value::RawValue;

use crate::frames::{Frame, Frames};
use crate::translate::{self, Held, Update, commit, reject};

/// The longest name of a mutation, in bytes.
const MAX_NAME_BYTES: usize = 200;

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
    /// The mutations that it has sent and not heard of.
    sent: HashSet<String>,
    pulse: Option<Pulse>,
    phase: Phase,
    stopping: Option<Stopping>,
    deadline: Option<Duration>,
}

enum Phase {
    /// The place and the engine's session are waited for.
    Opening,
    /// All is there; a mutation may wait for the user's rate to be asked.
    Live(Arc<Plan>, Option<(String, Box<Mutation>)>),
    /// It is over. With a plan what still comes is taken.
    Ended(Option<Arc<Plan>>),
}

/// What a step comes to.
type Outcome = Result<(), Option<Ending>>;

impl OlderSession {
    /// The session of who has come.
    pub fn new(limits: ClientLimits, identity: Identity) -> OlderSession {
        OlderSession {
            limits,
            author: Arc::clone(&identity.author),
            held: Held::new(&identity.author.user_id),
            identity,
            frames: Frames::default(),
            sent: HashSet::new(),
            pulse: None,
            phase: Phase::Opening,
            stopping: None,
            deadline: None,
        }
    }

    fn act(&mut self, input: Input<'_, Step>, now: &Now, out: &mut Vec<Effect>) -> Outcome {
        if matches!(input, Input::Text(_) | Input::Binary | Input::Heard) {
            self.pulse = Some(Pulse::new(now.time));
        }
        if self.identity.remaining(now.unix).is_zero() {
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
                    author: Arc::clone(&self.author),
                    client: client_of(&self.identity.author.user_id),
                    told: None,
                    not_before: None,
                    cursor: None,
                }));
            }
            Input::Opened(opened) => {
                let plan = opened.map_err(|error| Some(error.into()))?;
                self.phase = Phase::Live(plan, None);
            }
            Input::Text(text) => self.hear(text, out)?,
            Input::Binary => return bad("messages are text frames, not binary ones"),
            Input::Unreadable(why) => return bad(&why),
            Input::Rated(verdict) => self.rated(verdict, out),
            Input::Full(mutation) => {
                if let Number::Next { name } = &mutation.number {
                    self.sent.remove(&**name);
                    say(reject(name, RejectCode::RateLimitExceeded.as_str()), out);
                }
            }
            Input::Said(step) => self.say(step, out)?,
            Input::Broken(broken) => return self.broken_off(&broken),
            Input::Superseded => {
                return end(ErrorCode::Superseded, "another connection has taken over");
            }
            Input::Stop if matches!(self.phase, Phase::Opening) => {
                return Err(Some(Ending::stopping()));
            }
            Input::Stop => self.stopping = Some(Stopping::new(now.time)),
            Input::Clock => match self.pulse.as_mut().and_then(|pulse| pulse.beat(now.time)) {
                None => {}
                Some(Beat::Ping) => out.push(Effect::Ping),
                Some(Beat::Dead) => {
                    return end(ErrorCode::Timeout, "nothing was heard for too long");
                }
            },
            Input::Token(_) | Input::Heard => {}
        }
        let waits = !self.sent.is_empty();
        if self.stopping.is_some_and(|stopping| stopping.is_over(now.time, waits)) {
            return Err(Some(Ending::stopping()));
        }
        let expires = now.time + self.identity.remaining(now.unix).min(LONGEST_WAIT);
        let beats = self.pulse.as_ref().map_or(expires, Pulse::deadline);
        let stops = self.stopping.map_or(expires, |stopping| stopping.deadline(now.time));
        self.deadline = Some(expires.min(beats).min(stops));
        Ok(())
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
    fn say(&mut self, step: Step, out: &mut Vec<Effect>) -> Outcome {
        let Phase::Live(plan, _) = &self.phase else { return Ok(()) };
        match step {
            Step::Begin(_) => {}
            Step::Snapshot { table, rows } => self.held.arrive(plan.table(table), rows),
            Step::Ready(cursor) => say(self.held.initial_data(plan, cursor.lsn), out),
            Step::Tx { messages, acknowledgements } => {
                for message in &messages {
                    let updates = self.held.updates(plan, message.changes());
                    updates.into_iter().for_each(|update| say(update, out));
                }
                commit(&acknowledgements).into_iter().for_each(|commit| say(commit, out));
                for acknowledgement in &acknowledgements {
                    let Some(name) = acknowledgement.name.as_deref() else { continue };
                    // To the session that sent it alone.
                    let ours = self.sent.remove(name);
                    if let Some(refusal) = acknowledgement.rejected.first().filter(|_| ours) {
                        say(reject(name, &refusal.code), out);
                    }
                }
            }
            Step::Closed(code, message) => return end(code, &message),
        }
        Ok(())
    }

    fn hear(&mut self, text: &str, out: &mut Vec<Effect>) -> Outcome {
        let text = match self.frames.take(text, self.limits.message_bytes) {
            Frame::Whole(text) => text,
            Frame::Part => return Ok(()),
            Frame::Broken(why) => return bad(why),
        };
        let message = serde_json::from_str(&text).ok();
        let message = message.filter(|message: &translate::Message<'_>| message.r#type == "mutate");
        let Some(translate::Message { mutation_id: name, updates, .. }) = message else {
            return bad("`mutate` with a `mutationId` is the only message");
        };
        let (Phase::Live(plan, _) | Phase::Ended(Some(plan))) = &self.phase else { return Ok(()) };
        match self.read(&name, updates, text.len(), plan) {
            Ok(mutation) => {
                let operations = mutation.operations;
                let rate = Effect::Rate(Arc::clone(&self.author), operations, Duration::ZERO);
                match &mut self.phase {
                    Phase::Live(_, asked) => {
                        *asked = Some((name, Box::new(mutation)));
                        out.push(rate);
                    }
                    // Nobody hears of it any more: it is taken.
                    _ => out.push(Effect::Push(Box::new(mutation))),
                }
            }
            Err(rejection) => say(reject(&name, rejection.code.as_str()), out),
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
            say(reject(&name, RejectCode::RateLimitExceeded.as_str()), out);
        }
    }

    fn read(
        &self,
        name: &str,
        updates: &RawValue,
        bytes: usize,
        plan: &Plan,
    ) -> Result<Mutation, Rejection> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
            let what = format!("`mutationId` must have 1 to {MAX_NAME_BYTES} bytes");
            return Err(Rejection::new(RejectCode::BadRequest, what));
        }
        let updates: Vec<Update> = serde_json::from_str(updates.get())
            .map_err(|error| Rejection::new(RejectCode::BadRequest, error.to_string()))?;
        if bytes > self.limits.mutation_bytes || updates.len() > self.limits.ops_per_mutation {
            return Err(Rejection::new(RejectCode::TooLarge, "the mutation is too large"));
        }
        let ops: Vec<_> = updates.into_iter().filter_map(|update| update.op(plan)).collect();
        Ok(Mutation {
            number: Number::Next { name: name.into() },
            author: Arc::clone(&self.author),
            operations: ops.len().max(1),
            asked: Asked::Apply(ops),
            bytes,
        })
    }
}

impl Conversation for OlderSession {
    type Said = Step;

    fn step(&mut self, input: Input<'_, Step>, now: &Now, out: &mut Vec<Effect>) {
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
            let takes = ending.as_ref().is_some_and(|end| end.code == ErrorCode::Restarting);
            let phase = std::mem::replace(&mut self.phase, Phase::Ended(None));
            if let Phase::Live(plan, _) = phase {
                self.phase = Phase::Ended(takes.then_some(plan));
            }
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
        matches!(self.phase, Phase::Live(_, None))
    }
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
