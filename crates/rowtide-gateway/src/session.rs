//! One client that speaks the protocol of [`rowtide_protocol`]. The session checks the first message, joins the
//! view of its user, and from then on says what it is given and answers the client's own messages, until one side
//! ends it. What it tells a client is the documented code for each case. Pure: see [`crate::conversation`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rowtide_engine::SubscriptionId;
use rowtide_plan::plan::{Plan, Table};
use rowtide_plan::write::Rejection;
use rowtide_postgres::mutate::{Author, Number};
use rowtide_protocol::{
    ClientMessage, Connect, Cursor, ErrorCode, Mode, Mutate, PROTOCOL_VERSION, RejectCode,
    Subscribe, SubscriptionCode, connected_frame, error_frame, pong_frame,
    subscription_error_frame,
};

use crate::auth::Unauthorized;
use crate::conversation::{
    Asked, Beat, ClaimRequest, Conversation, Effect, Ending, Input, Known, Mutation, Pulse,
    Stopping,
};
use crate::limits::{
    AUTH_PER_MINUTE, CONNECT_TIMEOUT, ClientLimits, FULL_PATIENCE, FULL_RETRY, LONGEST_WAIT,
    MUTATION_QUEUE, RATE_PATIENCE, SUBSCRIBES_PER_SECOND,
};
use crate::now::Now;
use crate::opening::{
    NotServing, OpenRequest, Refused, bytes_of, claims_of, subscribing, subscribing_one,
};
use crate::pace::Pace;
use crate::rate::Verdict;
use crate::registry::{KnownNumbers, Sharing};
use crate::scheduler::Broken;
use crate::send_queue::Delivery;
use crate::telemetry::Limit;
use crate::visitor::{Visitor, known_of_nobody, turn_down};

/// A session. See the module.
#[derive(Debug)]
pub struct Session {
    limits: ClientLimits,
    /// Came with the upgrade, and counts more than the message's.
    header_token: Option<String>,
    /// The plan that served when the socket was opened.
    plan: Option<Arc<Plan>>,
    phase: Phase,
    pulse: Pulse,
}

#[derive(Debug)]
enum Phase {
    /// `connect` has not come; it must until then.
    Waiting { until: Duration },
    /// The token is being checked.
    Checking(Box<Connect>),
    /// The rate of the user is asked, or of where somebody without a token comes from.
    Rating(Box<Connect>, Visitor),
    /// The client id is being claimed.
    Claiming(Box<Connect>, Visitor),
    /// The engine's session is being opened.
    Opening(Box<Connect>, Visitor, Known),
    /// All is there.
    Live(Box<Live>),
    /// It is over.
    Ended,
}

#[derive(Debug)]
struct Live {
    plan: Arc<Plan>,
    visitor: Visitor,
    known: Known,
    heard: bool,
    /// The number that follows all that the client was told and has sent.
    next: u64,
    /// Whether it has left out a number.
    left_out: bool,
    /// Every mutation up to this number was acknowledged.
    acked: u64,
    /// Where the client stands, once it does.
    cursor: Option<Cursor>,
    reading: Reading,
    /// How often it may bring a token.
    tokens: Pace,
    /// The subscriptions that are there, or asked for, or on their way out, and how many bytes each takes.
    subscriptions: BTreeMap<SubscriptionId, usize>,
    /// Those of `connect` that are refused, until it is told.
    refused: Vec<Refused>,
    /// How often it may ask for subscriptions.
    subscribes: Pace,
    /// Whether the client takes deflated frames.
    takes_deflated: bool,
    /// When what was handed to the queue last was first.
    pushed_at: Duration,
    stopping: Option<Stopping>,
    /// When there is something to do next.
    deadline: Duration,
}

/// Whether the client's messages are read, or what holds them up.
#[derive(Debug)]
enum Reading {
    Open,
    /// A new token is being checked.
    Token,
    /// There were so many that this one is checked then.
    TokenLater(String, Duration),
    /// There were so many changes of subscriptions that this one is looked at then.
    SubscribeLater(Subscription, Duration),
    /// The user's rate is asked for a mutation.
    Rate(Box<Mutation>),
    /// A mutation is over the rate until then.
    Paused(Box<Mutation>, Duration),
    /// The queue is full. It is tried again then.
    Full {
        mutation: Box<Mutation>,
        since: Duration,
        again_at: Duration,
    },
}

/// What is asked about a subscription.
#[derive(Debug)]
enum Subscription {
    Wanted(Subscribe),
    NotWanted(u64),
}

/// What a step comes to.
type Outcome = Result<(), Option<Ending>>;

impl Session {
    /// A session over a socket that was opened now. `header_token` came with the upgrade; `plan` is what serves, if
    /// something does yet.
    pub fn new(
        limits: ClientLimits,
        header_token: Option<String>,
        plan: Option<Arc<Plan>>,
        now: &Now,
    ) -> Session {
        let phase = Phase::Waiting { until: now.time + CONNECT_TIMEOUT };
        Session { limits, header_token, plan, phase, pulse: Pulse::new(now.time) }
    }

    fn act(&mut self, input: Input<'_, Delivery>, now: &Now, out: &mut Vec<Effect>) -> Outcome {
        if matches!(input, Input::Text(_) | Input::Binary | Input::Heard) {
            self.pulse.heard(now.time);
        }
        if let Input::Unreadable(why) = input {
            return if matches!(self.phase, Phase::Ended) { Ok(()) } else { bad(why) };
        }
        if matches!(input, Input::Stop) && !matches!(self.phase, Phase::Live(_) | Phase::Ended) {
            return end(Ending::stopping());
        }
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Ended => Ok(()),
            Phase::Waiting { until } => self.wait(until, input, now, out),
            Phase::Checking(connect) => self.check(connect, input, out),
            Phase::Rating(connect, visitor) => self.rate(connect, visitor, input, out),
            Phase::Claiming(connect, visitor) => self.claim(connect, visitor, input, out),
            Phase::Opening(connect, visitor, known) => {
                self.open(connect, visitor, known, input, out)
            }
            Phase::Live(mut live) => {
                live.act(&self.limits, &mut self.pulse, input, now, out)?;
                live.deadline = live.next_deadline(&self.pulse, now);
                self.phase = Phase::Live(live);
                Ok(())
            }
        }
    }

    fn wait(
        &mut self,
        until: Duration,
        input: Input<'_, Delivery>,
        now: &Now,
        out: &mut Vec<Effect>,
    ) -> Outcome {
        let connect = match input {
            Input::Text(text) => match ClientMessage::parse(text) {
                Ok(ClientMessage::Connect(connect)) => connect,
                Ok(_) => return bad("the first message must be `connect`"),
                Err(error) => return bad(error.0),
            },
            Input::Binary => return bad("messages are text frames, not binary ones"),
            _ if now.time >= until => {
                return end(Ending::new(ErrorCode::Timeout, "`connect` did not come in time"));
            }
            _ => {
                self.phase = Phase::Waiting { until };
                return Ok(());
            }
        };
        if connect.protocol != PROTOCOL_VERSION {
            let version = connect.protocol;
            return bad(format!("this server speaks protocol {PROTOCOL_VERSION}, not {version}"));
        }
        if let Some(plan) = &self.plan {
            check_version(plan, &connect)?;
        }
        let token = self.header_token.take().or_else(|| connect.token.clone());
        let connect = Box::new(connect);
        if let Some(token) = token {
            out.push(Effect::CheckToken(token));
            self.phase = Phase::Checking(connect);
            return Ok(());
        }
        if let Some(plan) = &self.plan {
            check_visitor(plan, &Visitor::Anonymous)?;
        }
        out.push(Effect::RateOfOrigin);
        self.phase = Phase::Rating(connect, Visitor::Anonymous);
        Ok(())
    }

    fn check(
        &mut self,
        connect: Box<Connect>,
        input: Input<'_, Delivery>,
        out: &mut Vec<Effect>,
    ) -> Outcome {
        let Input::Token(checked) = input else {
            self.phase = Phase::Checking(connect);
            return Ok(());
        };
        let identity = checked.map_err(|error| Some(error.into()))?;
        // A connect waits for nothing: the client does.
        out.push(Effect::Rate(Arc::clone(&identity.author), 1, Duration::ZERO));
        self.phase = Phase::Rating(connect, Visitor::User(identity));
        Ok(())
    }

    fn rate(
        &mut self,
        connect: Box<Connect>,
        visitor: Visitor,
        input: Input<'_, Delivery>,
        out: &mut Vec<Effect>,
    ) -> Outcome {
        match input {
            Input::Rated(Verdict::Now) => {}
            Input::Rated(Verdict::After(wait) | Verdict::TooLong(wait)) => {
                let per_minute = match visitor {
                    Visitor::User(_) => self.limits.requests_per_minute,
                    Visitor::Anonymous => self.limits.requests_per_address,
                };
                return end(Ending::too_fast(per_minute, wait));
            }
            _ => {
                self.phase = Phase::Rating(connect, visitor);
                return Ok(());
            }
        }
        self.enter(connect, visitor, out);
        Ok(())
    }

    /// Claims the client id for its user. One of nobody belongs to nobody.
    fn enter(&mut self, connect: Box<Connect>, visitor: Visitor, out: &mut Vec<Effect>) {
        let Some(user) = visitor.user_id() else {
            let known = known_of_nobody(&connect);
            self.ask_open(connect, visitor, known, out);
            return;
        };
        out.push(Effect::Claim(ClaimRequest {
            client: connect.client_id.as_str().into(),
            user: user.into(),
            known: Some(KnownNumbers {
                outcomes: connect.outcomes_known.unwrap_or(0),
                acked: connect.acked.unwrap_or(0),
            }),
            sharing: Sharing::NewestWins,
        }));
        self.phase = Phase::Claiming(connect, visitor);
    }

    fn claim(
        &mut self,
        connect: Box<Connect>,
        visitor: Visitor,
        input: Input<'_, Delivery>,
        out: &mut Vec<Effect>,
    ) -> Outcome {
        let Input::Claimed(claimed) = input else {
            self.phase = Phase::Claiming(connect, visitor);
            return Ok(());
        };
        let known = claimed.map_err(|error| Some(error.into()))?;
        self.ask_open(connect, visitor, known, out);
        Ok(())
    }

    fn ask_open(
        &mut self,
        connect: Box<Connect>,
        visitor: Visitor,
        known: Known,
        out: &mut Vec<Effect>,
    ) {
        let author = visitor.author().map(Arc::clone);
        out.push(Effect::Open(OpenRequest {
            // What is acknowledged to the id's owner is no affair of somebody who only says it.
            client: author.as_ref().map(|_| connect.client_id.as_str().into()),
            author,
            told: Some(known.last_mutation),
            not_before: known.until,
            // One that cannot be read is of another server.
            cursor: connect.cursor.as_ref().and_then(|cursor| cursor.parse::<Cursor>().ok()),
            subscriptions: connect.subscriptions.clone(),
        }));
        self.phase = Phase::Opening(connect, visitor, known);
    }

    fn open(
        &mut self,
        connect: Box<Connect>,
        visitor: Visitor,
        known: Known,
        input: Input<'_, Delivery>,
        out: &mut Vec<Effect>,
    ) -> Outcome {
        let Input::Opened(opened) = input else {
            self.phase = Phase::Opening(connect, visitor, known);
            return Ok(());
        };
        let plan = match opened {
            // The client has been told nothing yet.
            Err(NotServing::Outdated) => {
                self.enter(connect, visitor, out);
                return Ok(());
            }
            opened => opened.map_err(|error| Some(error.into()))?,
        };
        // It may be another one than when the socket was opened.
        check_version(&plan, &connect)?;
        check_visitor(&plan, &visitor)?;
        let claims = claims_of(&plan, visitor.author().map(|author| &**author));
        let (_, refused) = subscribing(&plan, &claims, &connect.subscriptions);
        let is_taken = |of: &&Subscribe| !refused.iter().any(|(id, ..)| *id == of.id);
        let taken: Vec<&Subscribe> = connect.subscriptions.iter().filter(is_taken).collect();
        if !connect.subscriptions.is_empty() {
            out.extend(taken.iter().map(|_| Effect::CountSubscription(Ok(()))));
            out.extend(refused.iter().map(|(_, code, _)| Effect::CountSubscription(Err(*code))));
            out.push(Effect::HasSubscriptions(taken.len()));
        }
        self.phase = Phase::Live(Box::new(Live {
            plan,
            subscriptions: taken
                .into_iter()
                .map(|of| (SubscriptionId(of.id), bytes_of(of)))
                .collect(),
            refused,
            visitor,
            heard: false,
            next: known.last_mutation + 1,
            left_out: false,
            acked: known.last_mutation,
            cursor: None,
            known,
            reading: Reading::Open,
            tokens: Pace::new(AUTH_PER_MINUTE, Duration::from_secs(60)),
            subscribes: Pace::new(SUBSCRIBES_PER_SECOND, Duration::from_secs(1)),
            takes_deflated: connect.accepts_deflate,
            pushed_at: Duration::ZERO,
            stopping: None,
            // At once, so that the next one is found.
            deadline: Duration::ZERO,
        }));
        Ok(())
    }
}

impl Conversation for Session {
    type Said = Delivery;

    fn step(&mut self, input: Input<'_, Delivery>, now: &Now, out: &mut Vec<Effect>) {
        if let Err(ending) = self.act(input, now, out) {
            self.phase = Phase::Ended;
            if let Some(Ending { code, message, retry_after }) = &ending {
                let retry_after_ms =
                    retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                out.push(Effect::Send(error_frame(*code, message, retry_after_ms)));
            }
            out.push(Effect::End(ending));
        }
    }

    fn deadline(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Waiting { until } => Some(*until),
            Phase::Live(live) => Some(live.deadline),
            _ => None,
        }
    }

    fn has_let_in(&self) -> bool {
        matches!(self.phase, Phase::Live(_))
    }

    fn reads(&self) -> bool {
        match &self.phase {
            Phase::Waiting { .. } => true,
            Phase::Live(live) => matches!(live.reading, Reading::Open),
            _ => false,
        }
    }

    fn takes_deflated(&self) -> bool {
        matches!(&self.phase, Phase::Live(live) if live.takes_deflated)
    }
}

impl Live {
    fn act(
        &mut self,
        limits: &ClientLimits,
        pulse: &mut Pulse,
        input: Input<'_, Delivery>,
        now: &Now,
        out: &mut Vec<Effect>,
    ) -> Outcome {
        // Here and not only when it falls silent: a client may see to it that it never does.
        if self.visitor.remaining(now.unix).is_zero() {
            return end(Ending::new(ErrorCode::Unauthorized, "the token has expired"));
        }
        let is_of_client = matches!(input, Input::Text(_) | Input::Binary | Input::Heard);
        if is_of_client && !std::mem::replace(&mut self.heard, true) {
            out.push(Effect::Heard);
        }
        match input {
            Input::Text(text) => self.answer(text, limits, now, out)?,
            Input::Binary => return bad("messages are text frames, not binary ones"),
            Input::Said(delivery) => self.say(delivery, out)?,
            Input::Token(checked) => {
                self.renew(Visitor::User(checked.map_err(|error| Some(error.into()))?))?
            }
            Input::Rated(verdict) => self.rated(verdict, limits, now, out)?,
            Input::Full(mutation) => self.full(mutation, now)?,
            Input::Broken(broken) => return end(self.broken_off(broken)),
            Input::Superseded => {
                let message = "another connection of this `clientId` has taken over";
                return end(Ending::new(ErrorCode::Superseded, message));
            }
            Input::Clock => self.pass(pulse, now, out)?,
            Input::Stop => self.stopping = Some(Stopping::new(now.time)),
            Input::Begin
            | Input::Unreadable(_)
            | Input::Heard
            | Input::Claimed(_)
            | Input::Opened(_)
            | Input::Outcomes(_) => {}
        }
        if self.stopping.is_some_and(|stopping| stopping.is_over(now.time, self.waits())) {
            return end(Ending::stopping());
        }
        Ok(())
    }

    /// Whether something that was sent is not acknowledged yet.
    fn waits(&self) -> bool {
        self.acked + 1 < self.next || !matches!(self.reading, Reading::Open)
    }

    /// When there is something to do next.
    fn next_deadline(&self, pulse: &Pulse, now: &Now) -> Duration {
        let expires = now.time + self.visitor.remaining(now.unix).min(LONGEST_WAIT);
        let mut deadline = match &self.reading {
            Reading::Open => pulse.deadline(),
            Reading::Paused(_, until)
            | Reading::TokenLater(_, until)
            | Reading::SubscribeLater(_, until) => *until,
            Reading::Full { again_at, .. } => *again_at,
            Reading::Token | Reading::Rate(_) => expires,
        };
        if let Some(stopping) = self.stopping {
            deadline = deadline.min(stopping.deadline(now.time));
        }
        deadline.min(expires)
    }

    /// Does what is due.
    fn pass(&mut self, pulse: &mut Pulse, now: &Now, out: &mut Vec<Effect>) -> Outcome {
        match std::mem::replace(&mut self.reading, Reading::Open) {
            Reading::Paused(mutation, until) if now.time >= until => {
                // It could not be heard meanwhile.
                pulse.heard(now.time);
                self.push(mutation, now.time, out);
            }
            Reading::TokenLater(token, until) if now.time >= until => {
                pulse.heard(now.time);
                self.check(token, now.time, out);
            }
            Reading::SubscribeLater(subscription, until) if now.time >= until => {
                pulse.heard(now.time);
                self.change_subscription(subscription, now.time, out)?;
            }
            Reading::Full { mutation, since, again_at } if now.time >= again_at => {
                pulse.heard(now.time);
                self.push(mutation, since, out);
            }
            other => self.reading = other,
        }
        if !matches!(self.reading, Reading::Open) {
            return Ok(());
        }
        match pulse.beat(now.time) {
            None => Ok(()),
            Some(Beat::Ping) => {
                out.push(Effect::Ping);
                Ok(())
            }
            Some(Beat::Dead) => {
                end(Ending::new(ErrorCode::Timeout, "nothing was heard for too long"))
            }
        }
    }

    fn say(&mut self, delivery: Delivery, out: &mut Vec<Effect>) -> Outcome {
        match delivery {
            Delivery::Begin(mode) => {
                // Whoever answers is there, and takes over from older connections of the client.
                out.push(Effect::Ping);
                out.push(Effect::Send(self.connected(mode)));
                for (id, code, message) in std::mem::take(&mut self.refused) {
                    out.push(Effect::Send(subscription_error_frame(id, code, &message)));
                }
            }
            Delivery::Frame(frame) => {
                self.acked = self.acked.max(frame.acknowledges.unwrap_or(0));
                self.cursor = frame.cursor.or(self.cursor);
                for id in &frame.unsubscribed {
                    self.subscriptions.remove(id);
                }
                if !frame.unsubscribed.is_empty() {
                    out.push(Effect::HasSubscriptions(self.subscriptions.len()));
                }
                let text = frame.frame.text();
                out.push(match frame.frame.deflated().filter(|_| self.takes_deflated) {
                    Some(bytes) => {
                        Effect::SendDeflated { bytes: bytes.clone(), text_bytes: text.len() }
                    }
                    None => Effect::Send(text.clone()),
                });
                self.turn_down(out);
            }
            Delivery::Closed(code, message) => return end(Ending::new(code, message)),
        }
        Ok(())
    }

    /// The answer to `connect`, once it is known how the replica is brought up to date.
    fn connected(&self, mode: Mode) -> bytes::Bytes {
        let Known { last_mutation, rejected, keys, .. } = &self.known;
        let tables = tables_json(&self.plan);
        connected_frame(self.visitor.user_id(), mode, *last_mutation, rejected, keys, &tables)
    }

    fn answer(
        &mut self,
        text: &str,
        limits: &ClientLimits,
        now: &Now,
        out: &mut Vec<Effect>,
    ) -> Outcome {
        match ClientMessage::parse(text).map_err(|error| bad_request(error.0))? {
            ClientMessage::Ping => out.push(Effect::Send(pong_frame())),
            ClientMessage::Connect(_) => return bad("`connect` is said once"),
            ClientMessage::Auth { token } => match self.tokens.rests_until(now.time) {
                Some(until) => {
                    out.push(Effect::Limited(Limit::Auth));
                    self.reading = Reading::TokenLater(token, until);
                }
                None => self.check(token, now.time, out),
            },
            ClientMessage::Subscribe(subscribe) => {
                self.take_subscription(Subscription::Wanted(subscribe), now.time, out)?;
            }
            ClientMessage::Unsubscribe { id } => {
                self.take_subscription(Subscription::NotWanted(id), now.time, out)?;
            }
            ClientMessage::Mutate(mutate) => {
                let Some(author) = self.visitor.author().map(Arc::clone) else {
                    return self.take_of_nobody(mutate.id, out);
                };
                let mutation = self.read(mutate, Arc::clone(&author), text.len(), limits);
                let operations = mutation.operations;
                out.push(Effect::Rate(author, operations, RATE_PATIENCE));
                self.reading = Reading::Rate(Box::new(mutation));
            }
        }
        Ok(())
    }

    /// Takes what is asked about a subscription, now or when its time has come.
    fn take_subscription(
        &mut self,
        subscription: Subscription,
        now: Duration,
        out: &mut Vec<Effect>,
    ) -> Outcome {
        match self.subscribes.rests_until(now) {
            Some(until) => {
                out.push(Effect::Limited(Limit::Subscribes));
                self.reading = Reading::SubscribeLater(subscription, until);
                Ok(())
            }
            None => self.change_subscription(subscription, now, out),
        }
    }

    fn change_subscription(
        &mut self,
        subscription: Subscription,
        now: Duration,
        out: &mut Vec<Effect>,
    ) -> Outcome {
        self.subscribes.take(now);
        match subscription {
            Subscription::Wanted(subscribe) => {
                let id = SubscriptionId(subscribe.id);
                if self.subscriptions.contains_key(&id) {
                    return bad(format!("the subscription {} is in use", subscribe.id));
                }
                let author = self.visitor.author().map(|author| &**author);
                let claims = claims_of(&self.plan, author);
                let others = (self.subscriptions.len(), self.subscriptions.values().sum());
                match subscribing_one(&self.plan, &claims, &subscribe, others) {
                    Ok(subscribing) => {
                        self.subscriptions.insert(id, bytes_of(&subscribe));
                        out.push(Effect::Subscribe(subscribing));
                        out.push(Effect::CountSubscription(Ok(())));
                        out.push(Effect::HasSubscriptions(self.subscriptions.len()));
                    }
                    Err((id, code, message)) => {
                        out.push(Effect::CountSubscription(Err(code)));
                        out.push(Effect::Send(subscription_error_frame(id, code, &message)));
                    }
                }
            }
            Subscription::NotWanted(id) if self.subscriptions.contains_key(&SubscriptionId(id)) => {
                out.push(Effect::Unsubscribe(SubscriptionId(id)));
            }
            Subscription::NotWanted(id) => {
                let (code, why) = (SubscriptionCode::BadRequest, "there is no such subscription");
                out.push(Effect::Send(subscription_error_frame(id, code, why)));
            }
        }
        Ok(())
    }

    /// Has a new token checked.
    fn check(&mut self, token: String, now: Duration, out: &mut Vec<Effect>) {
        self.tokens.take(now);
        out.push(Effect::CheckToken(token));
        self.reading = Reading::Token;
    }

    /// Takes a new token.
    fn renew(&mut self, visitor: Visitor) -> Outcome {
        self.reading = Reading::Open;
        if visitor.user_id() != self.visitor.user_id() {
            let message = match self.visitor {
                Visitor::User(_) => "`auth` must bring a token of the same user",
                Visitor::Anonymous => "this session began without a token: connect again with it",
            };
            return end(Ending::new(ErrorCode::Unauthorized, message));
        }
        let resolve = |visitor: &Visitor| {
            let resolve = |of: &Arc<Author>| self.plan.resolve_claims(&of.user_id, &of.claims);
            visitor.author().map(resolve)
        };
        if resolve(&visitor) != resolve(&self.visitor) {
            // Other claims see other rows, and a new replica begins with `connected`.
            let message = "the token's claims are others: connect again";
            return end(Ending::new(ErrorCode::Restarting, message));
        }
        self.visitor = visitor;
        Ok(())
    }

    /// Takes the number of a mutation of somebody without a token. It is rejected once the client stands somewhere; nobody
    /// else will ever know of it.
    fn take_of_nobody(&mut self, id: u64, out: &mut Vec<Effect>) -> Outcome {
        if id > self.next {
            return bad(format!("mutation {id} does not follow {}, the last one", self.next - 1));
        }
        if id < self.next {
            // It is told again, if it was told on this connection.
            if let Some(cursor) = self.cursor.filter(|_| id > self.known.last_mutation) {
                out.extend(turn_down(id, id, self.acked, cursor).map(Effect::Send));
            }
            return Ok(());
        }
        if self.next - self.acked > MUTATION_QUEUE as u64 {
            return end(Ending::new(
                ErrorCode::Unavailable,
                "too many mutations wait for the first rows; come back and send them again",
            ));
        }
        out.push(Effect::CountRejection(RejectCode::Forbidden));
        self.next = id.saturating_add(1);
        self.turn_down(out);
        Ok(())
    }

    /// Rejects what somebody without a token has sent, if something was sent and there is a position to say it at.
    fn turn_down(&mut self, out: &mut Vec<Effect>) {
        let (first, last) = (self.acked + 1, self.next - 1);
        if let (Visitor::Anonymous, Some(cursor)) = (&self.visitor, self.cursor)
            && first <= last
        {
            out.extend(turn_down(first, last, last, cursor).map(Effect::Send));
            self.acked = last;
        }
    }

    /// Reads a mutation. What becomes of it comes with the stream, also if it is rejected here: its number must be
    /// acknowledged, so that those behind it can follow.
    fn read(
        &self,
        mutate: Mutate,
        author: Arc<Author>,
        bytes: usize,
        limits: &ClientLimits,
    ) -> Mutation {
        let reject = |code, message: String| Asked::Reject(Rejection::new(code, message));
        let asked = if bytes > limits.mutation_bytes {
            let message = format!("{bytes} bytes, more than {}", limits.mutation_bytes);
            reject(RejectCode::TooLarge, message)
        } else {
            match mutate.ops {
                Err(wrong) => reject(RejectCode::BadRequest, wrong.0),
                Ok(ops) if ops.len() > limits.ops_per_mutation => {
                    let most = limits.ops_per_mutation;
                    let message = format!("{} operations, more than {most}", ops.len());
                    reject(RejectCode::TooLarge, message)
                }
                Ok(ops) => Asked::Apply(ops),
            }
        };
        // What is rejected holds nothing of the message.
        let (operations, bytes) = match &asked {
            Asked::Apply(ops) => (ops.len().max(1), bytes),
            Asked::Reject(_) => (1, 0),
        };
        let number = Number::Given(mutate.id);
        Mutation { number, author, asked, tolerance: None, operations, bytes }
    }

    fn rated(
        &mut self,
        verdict: Verdict,
        limits: &ClientLimits,
        now: &Now,
        out: &mut Vec<Effect>,
    ) -> Outcome {
        match (std::mem::replace(&mut self.reading, Reading::Open), verdict) {
            (Reading::Rate(mutation), Verdict::Now) => self.push(mutation, now.time, out),
            (Reading::Rate(mutation), Verdict::After(wait)) => {
                self.reading = Reading::Paused(mutation, now.time + wait);
            }
            // Nothing is acknowledged for it: the client sends it again.
            (Reading::Rate(_), Verdict::TooLong(wait)) => {
                return end(Ending::too_fast(limits.requests_per_minute, wait));
            }
            (other, _) => self.reading = other,
        }
        Ok(())
    }

    /// Hands a mutation to the queue. If that is full, it comes back at once.
    fn push(&mut self, mutation: Box<Mutation>, since: Duration, out: &mut Vec<Effect>) {
        self.pushed_at = since;
        if let Number::Given(id) = mutation.number {
            self.left_out |= id > self.next;
            self.next = self.next.max(id.saturating_add(1));
        }
        out.push(Effect::Push(mutation));
    }

    fn full(&mut self, mutation: Box<Mutation>, now: &Now) -> Outcome {
        let since = self.pushed_at;
        if now.time >= since + FULL_PATIENCE {
            return end(Ending::new(
                ErrorCode::Unavailable,
                "too many mutations wait to be applied; come back and send them again",
            ));
        }
        self.reading = Reading::Full { mutation, since, again_at: now.time + FULL_RETRY };
        Ok(())
    }

    fn broken_off(&self, broken: Broken) -> Ending {
        match broken {
            Broken::Gap { number, last } if self.left_out => Ending::new(
                ErrorCode::BadRequest,
                format!("mutation {number} does not follow {last}, the last that was acknowledged"),
            ),
            Broken::Gap { last, .. } => Ending::new(
                ErrorCode::Restarting,
                format!("the database has gone back, and knows of {last} mutations: connect again"),
            ),
            Broken::NotTheirs => Ending::new(
                ErrorCode::Forbidden,
                "this `clientId` is not yours any more; take a new one",
            ),
            Broken::Superseded => Ending::new(
                ErrorCode::Restarting,
                "another connection of this `clientId` has come: connect again",
            ),
            Broken::Stopped => Ending::stopping(),
        }
    }
}

fn end(ending: Ending) -> Outcome {
    Err(Some(ending))
}

fn bad_request(message: impl Into<String>) -> Option<Ending> {
    Some(Ending::new(ErrorCode::BadRequest, message))
}

fn bad(message: impl Into<String>) -> Outcome {
    Err(bad_request(message))
}

/// Whether the definition lets them in.
fn check_visitor(plan: &Plan, visitor: &Visitor) -> Outcome {
    match visitor {
        Visitor::Anonymous if !plan.anonymous => end(Unauthorized::Missing.into()),
        _ => Ok(()),
    }
}

fn check_version(plan: &Plan, connect: &Connect) -> Outcome {
    match plan.min_client {
        Some(min) if connect.app_version.is_none_or(|version| version < min) => {
            let message = format!("this application needs version {min} of the client or newer");
            end(Ending::new(ErrorCode::ClientTooOld, message))
        }
        _ => Ok(()),
    }
}

/// The key columns of each table that is sent, as JSON.
fn tables_json(plan: &Plan) -> String {
    let key = |table: &Table| {
        let key = serde_json::json!({ "key": table.catalog.primary_key });
        (table.name.clone(), key)
    };
    let tables: serde_json::Map<String, serde_json::Value> =
        plan.tables.iter().filter(|table| table.published).map(key).collect();
    serde_json::Value::Object(tables).to_string()
}

#[cfg(test)]
mod tests;
