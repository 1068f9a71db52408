//! What is spoken over one socket, as a state machine: inputs go in (a text message, an answer that was asked for,
//! something to be said, the clock), effects come out (send this, ask for that, end). One loop carries the effects
//! of all conversations ([`crate::Gateway::converse`]), so it is there once, whatever the protocol; a conversation
//! is where further channels over the same socket have their place. Pure.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rowtide_engine::{Subscribing, SubscriptionId};
use rowtide_plan::plan::Plan;
use rowtide_plan::write::{Rejection, Tolerance, Write};
use rowtide_postgres::mutate::{Author, Number};
use rowtide_postgres::named_outcomes::{NamedOutcome, Tab, Told};
use rowtide_protocol::{ErrorCode, MadeKey, Op, RejectCode, Rejected, SubscriptionCode};

use crate::auth::{Identity, TokenError, Unauthorized};
use crate::limits::{PING_AFTER, SILENCE, STOP_LISTEN, STOP_PATIENCE};
use crate::now::Now;
use crate::opening::{NotServing, OpenRequest, Until};
use crate::rate::Verdict;
use crate::registry::{KnownNumbers, Sharing};
use crate::scheduler::Broken;
use crate::telemetry::Limit;

/// What happens to a conversation. `S` is what it is given to say.
#[derive(Debug)]
pub enum Input<'a, S> {
    /// The socket is there. Comes first.
    Begin,
    /// A text message of the client.
    Text(&'a str),
    /// A binary message of the client.
    Binary,
    /// What the client sent is no message: why. Nothing can be read after it.
    Unreadable(String),
    /// The client has shown that it is there.
    Heard,
    /// The answer to [`Effect::CheckToken`].
    Token(Result<Identity, TokenError>),
    /// The answer to [`Effect::Claim`].
    Claimed(Result<Known, NoClaim>),
    /// The answer to [`Effect::Open`]: the plan of what is to be said.
    Opened(Result<Arc<Plan>, NotServing>),
    /// The answer to [`Effect::Rate`] or [`Effect::RateOfOrigin`].
    Rated(Verdict),
    /// The answer to [`Effect::AskOutcomes`], in the order of the numbers.
    Outcomes(Vec<NamedOutcome>),
    /// There was no room for what was pushed: here it is again.
    Full(Box<Mutation>),
    /// Something is to be said.
    Said(S),
    /// Mutations are not taken any further.
    Broken(Broken),
    /// A newer connection of the client has taken over.
    Superseded,
    /// The server stops.
    Stop,
    /// It is at least as late as [`Conversation::deadline`].
    Clock,
}

/// What a conversation wants done, in order.
#[derive(Debug)]
pub enum Effect {
    /// Send a text frame.
    Send(Bytes),
    /// Send a binary frame.
    SendDeflated {
        /// The raw DEFLATE of a text frame.
        bytes: Bytes,
        /// How many bytes that has.
        text_bytes: usize,
    },
    /// Send a WebSocket ping.
    Ping,
    /// Check a token.
    CheckToken(String),
    /// Ask whose a client id is. The connection counts from then on.
    Claim(ClaimRequest),
    /// Open a session of an engine.
    Open(OpenRequest),
    /// Ask the engine for more.
    Subscribe(Subscribing),
    /// Ask the engine for less.
    Unsubscribe(SubscriptionId),
    /// Count what was asked for: it was taken, or refused.
    CountSubscription(Result<(), SubscriptionCode>),
    /// So many subscriptions are there now.
    HasSubscriptions(usize),
    /// The client was heard on this connection: older ones of it are to go.
    Heard,
    /// Take so many operations of the user's rate, if that is a wait of at most so long.
    Rate(Arc<Author>, usize, Duration),
    /// Take a request without a token of the rate of where the client comes from. It is answered as [`Effect::Rate`] is.
    RateOfOrigin,
    /// Put a mutation into the client's queue.
    Push(Box<Mutation>),
    /// This limit holds the client up.
    Limited(Limit),
    /// Ask what became of named mutations of a tab that it is not known to have heard of. One question at a time.
    AskOutcomes(Tab),
    /// Note that tabs have heard what became of these.
    NoteTold(Vec<Told>),
    /// Count a mutation that was rejected without being put into a queue.
    CountRejection(RejectCode),
    /// End, and say why if there is something to say and somebody to hear it. Nothing is sent after it.
    End(Option<Ending>),
}

/// A question to the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The client id.
    pub client: Box<str>,
    /// The user who is there.
    pub user: Box<str>,
    /// How far it knows of its mutations; `None` if it does not number them. Then the database is not asked.
    pub known: Option<KnownNumbers>,
    /// Whether several connections of the client may stay.
    pub sharing: Sharing,
}

/// What is known of a client that comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Every mutation up to this one was acknowledged when it came.
    pub last_mutation: u64,
    /// What was rejected of those that the client does not know the outcome of.
    pub rejected: Vec<Rejected>,
    /// The keys that were made by mutations that it does not know the outcome of.
    pub keys: Vec<MadeKey>,
    /// Rows that are not older have the effects of all of them; any have them if there is none.
    pub until: Option<Until>,
}

/// Why a client id cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoClaim {
    /// It belongs to another user.
    OtherUser,
    /// Nobody has used it for so long that it was removed.
    Removed,
    /// The user has as many sessions as one may have.
    TooManySessions(usize),
    /// It cannot be asked for: why.
    Unavailable(String),
}

/// A mutation that has arrived.
#[derive(Debug)]
pub struct Mutation {
    /// Its number or name.
    pub number: Number,
    /// For whom its rules are judged.
    pub author: Arc<Author>,
    /// What is to become of it.
    pub asked: Asked,
    /// What its client expects of each write, if it is not one of today's.
    pub tolerance: Option<fn(&Plan, &Write) -> Tolerance>,
    /// Its size in operations, at least one.
    pub operations: usize,
    /// Its size in bytes.
    pub bytes: usize,
}

/// What is to become of a mutation.
#[derive(Debug)]
pub enum Asked {
    /// Its operations are to be applied.
    Apply(Vec<Op>),
    /// It is rejected already. Its number must be acknowledged, so that those behind it can follow.
    Reject(Rejection),
}

/// Why a conversation ends with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The code; its close code goes with it.
    pub code: ErrorCode,
    /// For the client's author.
    pub message: String,
    /// The longest random wait before the client should come back.
    pub retry_after: Option<Duration>,
}

impl Ending {
    /// An ending with the usual wait for its code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Ending {
        let comes_back = matches!(code, ErrorCode::Restarting | ErrorCode::Unavailable);
        let retry_after = comes_back.then_some(crate::limits::RETRY_AFTER);
        Ending { code, message: message.into(), retry_after }
    }

    /// The server stops.
    pub fn stopping() -> Ending {
        Ending::new(ErrorCode::Restarting, "the server is stopping")
    }

    /// The user asks for more than the rate allows, for so long.
    pub fn too_fast(per_minute: u32, wait: Duration) -> Ending {
        let message = format!("more than {per_minute} operations a minute");
        let retry_after = Some(wait);
        Ending { retry_after, ..Ending::new(ErrorCode::RateLimitExceeded, message) }
    }
}

impl From<Unauthorized> for Ending {
    fn from(error: Unauthorized) -> Ending {
        Ending::new(ErrorCode::Unauthorized, error.to_string())
    }
}

impl From<TokenError> for Ending {
    fn from(error: TokenError) -> Ending {
        match error {
            TokenError::Unauthorized(error) => error.into(),
            // It may be a good one, so the client must not throw it away.
            TokenError::NoKeysYet => Ending::new(ErrorCode::Unavailable, error.to_string()),
        }
    }
}

impl From<NotServing> for Ending {
    fn from(error: NotServing) -> Ending {
        Ending::new(ErrorCode::Unavailable, error.to_string())
    }
}

impl From<NoClaim> for Ending {
    fn from(error: NoClaim) -> Ending {
        match error {
            NoClaim::OtherUser => Ending::new(
                ErrorCode::Forbidden,
                "this `clientId` belongs to another user; take a new one",
            ),
            NoClaim::Removed => Ending::new(
                ErrorCode::Forbidden,
                "this `clientId` has not been used for so long that it was removed; take a new one",
            ),
            NoClaim::TooManySessions(limit) => Ending::new(
                ErrorCode::RateLimitExceeded,
                format!("more than {limit} connections of one user"),
            ),
            NoClaim::Unavailable(why) => Ending::new(ErrorCode::Unavailable, why),
        }
    }
}

/// A conversation over one socket.
pub trait Conversation: Send + 'static {
    /// What it is given to say.
    type Said: Send;

    /// Takes one input and appends what follows from it to `effects`. After [`Effect::End`] only
    /// [`Input::Text`] comes, of what the client had sent before it heard of the end.
    fn step(&mut self, input: Input<'_, Self::Said>, now: &Now, effects: &mut Vec<Effect>);

    /// When it wants [`Input::Clock`].
    fn deadline(&self) -> Option<Duration>;

    /// Whether it is known who the client is, and that they may be here. Until then a message is a small one, and
    /// nothing is read behind the first.
    fn has_let_in(&self) -> bool;

    /// Whether messages of the client are read. What is not read stays with the client, which notices.
    fn reads(&self) -> bool;

    /// Whether the client takes deflated frames. Then a frame that is worth it is deflated before it is given to be said,
    /// and is sent as it is where that was not done.
    fn takes_deflated(&self) -> bool;
}

/// When the other side was heard of, and when it was asked whether it is there. Silence counts only
/// from when it was asked: it may have been sent so much before that it could not answer.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    heard: Duration,
    asked: Option<Duration>,
}

/// What is to be done about a client that is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Ask whether it is there.
    Ping,
    /// It has not answered.
    Dead,
}

impl Pulse {
    /// The other side is there now.
    pub fn new(time: Duration) -> Pulse {
        Pulse { heard: time, asked: None }
    }

    /// The other side was heard.
    pub fn heard(&mut self, time: Duration) {
        *self = Pulse::new(time);
    }

    /// When there is something to be done.
    pub fn deadline(&self) -> Duration {
        self.asked.map_or(self.heard + PING_AFTER, |asked| asked + (SILENCE - PING_AFTER))
    }

    /// What is to be done now, if anything.
    pub fn beat(&mut self, time: Duration) -> Option<Beat> {
        if time < self.deadline() {
            return None;
        }
        if self.asked.is_some() {
            return Some(Beat::Dead);
        }
        self.asked = Some(time);
        Some(Beat::Ping)
    }
}

/// How a conversation ends when the server stops: what has arrived already is still taken, and what was taken is
/// acknowledged if that does not take long.
#[derive(Clone, Copy, Debug)]
pub struct Stopping {
    since: Duration,
}

impl Stopping {
    /// The server stops now.
    pub fn new(time: Duration) -> Stopping {
        Stopping { since: time }
    }

    /// Whether it is time for the goodbye, where something `waits` for its acknowledgement or not.
    pub fn is_over(&self, time: Duration, waits: bool) -> bool {
        time >= self.since + if waits { STOP_PATIENCE } else { STOP_LISTEN }
    }

    /// When that is to be looked at again.
    pub fn deadline(&self, time: Duration) -> Duration {
        let listens = self.since + STOP_LISTEN;
        if time < listens { listens } else { self.since + STOP_PATIENCE }
    }
}
