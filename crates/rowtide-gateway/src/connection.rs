//! The loop of one socket: it carries the effects of a [`Conversation`] and decides nothing. Whatever waits is waited
//! for here at once: the client, the engine, the database, the clock, the end.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use rowtide_protocol::{ErrorCode, TextFrame};
use tokio::time::{sleep_until, timeout, timeout_at};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::admission::ClientOrigin;
use crate::auth::{Identity, TokenError};
use crate::claims::Entry;
use crate::conversation::{ClaimRequest, Conversation, Effect, Ending, Input, Known, NoClaim};
use crate::engines::EngineSession;
use crate::gate::{Socket, TooLong};
use crate::gateway::Services;
use crate::limits::{
    FLUSH_BYTES, GOODBYE_MESSAGES, LONGEST_WAIT, MESSAGES_PER_SECOND, WRITE_TIMEOUT,
};
use crate::listening::Listening;
use crate::opening::NotServing;
use crate::outlet::Outlet;
use crate::pace::Pace;
use crate::rate::Verdict;
use crate::registry::Sharing;
use crate::scheduler::Broken;
use crate::send_queue::{Delivery, SessionStep};
use crate::telemetry::{self, CountedSubscriptions, Limit};
use crate::writer::Queue;
use rowtide_postgres::named_outcomes::NamedOutcome;

/// What a session is given to say, as it takes it from its outlet.
pub trait Saying: Sized + Send {
    /// The next that is there.
    fn take(outlet: &Outlet) -> Option<Self>;
    /// About how many bytes it is.
    fn bytes(&self) -> usize;
    /// Counts it for operators.
    fn count(&self);
    /// The frame that is to be deflated before it is said to who takes that.
    fn undeflated(&self) -> Option<TextFrame>;
}

impl Saying for Delivery {
    fn take(outlet: &Outlet) -> Option<Delivery> {
        outlet.try_next()
    }

    fn bytes(&self) -> usize {
        if let Delivery::Frame(frame) = self { frame.frame.text().len() } else { 0 }
    }

    fn count(&self) {
        match self {
            Delivery::Begin(mode) => telemetry::connected(mode.as_str()),
            Delivery::Frame(frame) => {
                telemetry::rows_sent(frame.rows);
                frame.commit_time_us.into_iter().for_each(telemetry::commit_sent);
            }
            Delivery::Closed(..) => {}
        }
    }

    fn undeflated(&self) -> Option<TextFrame> {
        let Delivery::Frame(frame) = self else { return None };
        frame.frame.wants_deflating().then(|| frame.frame.clone())
    }
}

impl Saying for SessionStep {
    fn take(outlet: &Outlet) -> Option<SessionStep> {
        outlet.try_next_step()
    }

    fn bytes(&self) -> usize {
        match self {
            SessionStep::Snapshot { rows, .. } => rows.iter().map(|row| row.json.len()).sum(),
            SessionStep::Tx { messages, .. } => messages.iter().map(|message| message.size()).sum(),
            SessionStep::Begin(_) | SessionStep::Ready(_) | SessionStep::Closed(..) => 0,
        }
    }

    fn count(&self) {
        match self {
            SessionStep::Begin(mode) => telemetry::connected(mode.as_str()),
            SessionStep::Snapshot { rows, .. } => telemetry::rows_sent(rows.len() as u64),
            SessionStep::Tx { messages, .. } => {
                let times = messages.iter().rev().filter_map(|message| message.commit_time_us);
                times.take(1).for_each(telemetry::commit_sent);
            }
            SessionStep::Ready(_) | SessionStep::Closed(..) => {}
        }
    }

    fn undeflated(&self) -> Option<TextFrame> {
        None
    }
}

/// An answer that is waited for.
enum Answer {
    Token(Result<Identity, TokenError>),
    Claimed(Result<(Entry, Known), NoClaim>),
    Opened(Result<EngineSession, NotServing>),
    Outcomes(Vec<NamedOutcome>),
}

/// The conversation is over.
enum Over {
    /// It has said so.
    Ended(Option<Ending>),
    /// The socket is gone, or the client took too long to read.
    Gone,
}

struct Connection<C: Conversation> {
    socket: Socket,
    /// How fast the client may send.
    pace: Pace,
    /// Whether the client was let in.
    let_in: bool,
    shared: Arc<Services>,
    from: ClientOrigin,
    conversation: C,
    effects: Vec<Effect>,
    /// What effects came to at once.
    inputs: VecDeque<Input<'static, C::Said>>,
    entry: Option<Entry>,
    subscriptions: CountedSubscriptions,
    session: Option<EngineSession>,
    /// Whose mutations it sends, once that is known.
    client: Option<ClaimRequest>,
    queue: Option<Queue>,
    answer: Option<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    /// What is said next, once it is deflated.
    deflating: Option<Pin<Box<dyn Future<Output = C::Said> + Send>>>,
    /// Whether there may be more to say.
    more: bool,
    listening: Listening,
    unflushed: bool,
    frames: u64,
    bytes: u64,
}

/// What happened.
enum Event<S> {
    Message(Option<Result<Message, Error>>),
    Answer(Answer),
    More,
    Deflated(S),
    Broken(Broken),
    Superseded,
    Stop,
    Clock,
}

/// Carries a conversation over a socket until it ends.
pub(crate) async fn serve<C>(
    socket: Socket,
    shared: Arc<Services>,
    from: ClientOrigin,
    conversation: C,
) where
    C: Conversation,
    C::Said: Saying,
{
    let mut connection = Connection {
        socket,
        pace: Pace::new(MESSAGES_PER_SECOND, Duration::from_secs(1)),
        let_in: false,
        shared,
        from,
        conversation,
        effects: Vec::new(),
        inputs: VecDeque::from([Input::Begin]),
        entry: None,
        subscriptions: CountedSubscriptions::default(),
        session: None,
        client: None,
        queue: None,
        answer: None,
        deflating: None,
        more: false,
        listening: Listening::default(),
        unflushed: false,
        frames: 0,
        bytes: 0,
    };
    if let Over::Ended(ending) = connection.run().await {
        connection.say_goodbye(ending).await;
    }
}

impl<C> Connection<C>
where
    C: Conversation,
    C::Said: Saying,
{
    async fn run(&mut self) -> Over {
        loop {
            if let Err(over) = self.take_inputs().await {
                return over;
            }
            if self.more {
                // Neither the queue nor a socket that is read as fast makes it wait.
                tokio::task::yield_now().await;
            }
            let event = self.wait().await;
            if let Err(over) = self.take(event).await {
                return over;
            }
        }
    }

    /// Takes what effects came to, until there is nothing more.
    async fn take_inputs(&mut self) -> Result<(), Over> {
        while let Some(input) = self.inputs.pop_front() {
            self.step(input).await?;
        }
        if std::mem::take(&mut self.unflushed) {
            telemetry::sent(std::mem::take(&mut self.frames), std::mem::take(&mut self.bytes));
            match timeout(WRITE_TIMEOUT, self.socket.flush()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(Over::Gone),
            }
        }
        Ok(())
    }

    async fn step(&mut self, input: Input<'_, C::Said>) -> Result<(), Over> {
        let now = self.shared.clock.now();
        self.conversation.step(input, &now, &mut self.effects);
        if !self.let_in && self.conversation.has_let_in() {
            self.let_in = true;
            self.socket.get_mut().open();
        }
        for effect in std::mem::take(&mut self.effects) {
            self.carry(effect).await?;
        }
        Ok(())
    }

    /// Waits until something happens. Cancel safe in all its parts.
    async fn wait(&mut self) -> Event<C::Said> {
        let clock = &self.shared.clock;
        let deadline = self.conversation.deadline();
        let rests = self.pace.rests_until(clock.time());
        let at = deadline.into_iter().chain(rests).min();
        let at = clock.instant(at.unwrap_or_else(|| clock.time() + LONGEST_WAIT));
        let reads = rests.is_none() && self.listening.is_open(self.conversation.reads());
        let (more, deflates) = (self.more, self.deflating.is_some());
        tokio::select! {
            message = self.socket.next(), if reads => Event::Message(message),
            answer = wait_for(self.answer.as_mut()) => Event::Answer(answer),
            said = wait_for(self.deflating.as_mut()) => Event::Deflated(said),
            () = filled(self.session.as_ref(), more), if !deflates => Event::More,
            broken = broken(self.queue.as_mut()) => Event::Broken(broken),
            () = superseded(self.entry.as_ref()) => Event::Superseded,
            () = sleep_until(at) => Event::Clock,
            () = self.shared.stop.cancelled(), if self.listening.hears_of_stop() => Event::Stop,
        }
    }

    async fn take(&mut self, event: Event<C::Said>) -> Result<(), Over> {
        match event {
            Event::Message(message) => self.hear(message).await,
            Event::Answer(answer) => {
                self.answer = None;
                let input = match answer {
                    Answer::Token(checked) => Input::Token(checked),
                    Answer::Claimed(claimed) => Input::Claimed(claimed.map(|(entry, known)| {
                        self.entry = Some(entry);
                        known
                    })),
                    Answer::Opened(opened) => Input::Opened(opened.map(|session| {
                        let plan = Arc::clone(session.outlet().plan());
                        self.session = Some(session);
                        plan
                    })),
                    Answer::Outcomes(outcomes) => Input::Outcomes(outcomes),
                };
                self.step(input).await
            }
            Event::More => self.say().await,
            Event::Deflated(said) => {
                self.deflating = None;
                self.tell(said).await?;
                self.say().await
            }
            Event::Broken(broken) => self.step(Input::Broken(broken)).await,
            Event::Superseded => self.step(Input::Superseded).await,
            // It may be the pace that was waited for.
            Event::Clock => match self.conversation.deadline() {
                Some(deadline) if deadline <= self.shared.clock.time() => {
                    self.step(Input::Clock).await
                }
                _ => Ok(()),
            },
            Event::Stop => self.stop().await,
        }
    }

    async fn hear(&mut self, message: Option<Result<Message, Error>>) -> Result<(), Over> {
        let now = self.shared.clock.time();
        self.pace.take(now);
        if self.pace.rests_until(now).is_some() {
            telemetry::limited(Limit::Messages);
        }
        match message {
            Some(Ok(Message::Text(text))) => self.step(Input::Text(&text)).await,
            Some(Ok(Message::Binary(_))) => self.step(Input::Binary).await,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => self.step(Input::Heard).await,
            Some(Ok(Message::Close(_) | Message::Frame(_))) | None => Err(Over::Gone),
            Some(Err(error)) => match unreadable(&error) {
                None => Err(Over::Gone),
                Some(why) => self.step(Input::Unreadable(why)).await,
            },
        }
    }

    /// Says what there is, up to a size: the client's own messages must get their turn as well, and after them the
    /// other sessions of this thread.
    async fn say(&mut self) -> Result<(), Over> {
        let mut bytes = 0;
        self.more = true;
        while bytes < FLUSH_BYTES {
            let Some(said) = self.session.as_ref().and_then(|s| C::Said::take(s.outlet())) else {
                self.more = false;
                return Ok(());
            };
            bytes += said.bytes();
            if self.conversation.takes_deflated()
                && let Some(frame) = said.undeflated()
            {
                // What is behind it stays in the queue.
                self.more = false;
                let deflater = self.shared.deflater.clone();
                self.deflating = Some(Box::pin(async move {
                    deflater.deflate(frame).await;
                    said
                }));
                return Ok(());
            }
            self.tell(said).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, said: C::Said) -> Result<(), Over> {
        said.count();
        self.step(Input::Said(said)).await
    }

    /// The server stops. What has arrived already comes first.
    async fn stop(&mut self) -> Result<(), Over> {
        self.listening.stop();
        self.take_inputs().await?;
        while self.listening.takes(self.conversation.reads()) {
            let arrived = tokio::task::unconstrained(self.socket.next()).now_or_never();
            let Some(message) = arrived else { break };
            self.hear(message).await?;
            self.take_inputs().await?;
        }
        if self.listening.tells() {
            self.step(Input::Stop).await?;
        }
        Ok(())
    }

    async fn carry(&mut self, effect: Effect) -> Result<(), Over> {
        match effect {
            Effect::Send(frame) => {
                self.frames += 1;
                self.bytes += frame.len() as u64;
                self.feed(text(frame)).await?;
            }
            Effect::SendDeflated { bytes, text_bytes } => {
                self.frames += 1;
                self.bytes += bytes.len() as u64;
                telemetry::deflated(text_bytes, bytes.len());
                self.feed(Message::Binary(bytes)).await?;
            }
            Effect::Ping => self.feed(Message::Ping(Bytes::new())).await?,
            Effect::CheckToken(token) => {
                let auth = self.shared.auth.clone();
                let check = async move { Answer::Token(auth.check(&token).await) };
                self.answer = Some(Box::pin(check));
            }
            Effect::Claim(request) => {
                self.client = Some(request.clone());
                // One that asks again has one place and not two.
                self.entry = None;
                let claims = self.shared.claims.clone();
                let claim = async move { Answer::Claimed(claims.enter(request).await) };
                self.answer = Some(Box::pin(claim));
            }
            Effect::Open(request) => {
                let engines = self.shared.engines.clone();
                let open = async move { Answer::Opened(engines.open(request).await) };
                self.answer = Some(Box::pin(open));
            }
            Effect::Subscribe(subscribing) => {
                self.session.iter().for_each(|session| session.subscribe(subscribing.clone()));
            }
            Effect::Unsubscribe(id) => {
                self.session.iter().for_each(|session| session.unsubscribe(id));
            }
            Effect::CountSubscription(result) => telemetry::subscribed(result),
            Effect::HasSubscriptions(count) => self.subscriptions.set(count),
            Effect::Heard => self.entry.iter().for_each(Entry::heard),
            Effect::Rate(author, operations, longest) => {
                let verdict = self.shared.take_rate(&author.user_id, operations, longest);
                self.inputs.push_back(Input::Rated(verdict));
            }
            Effect::RateOfOrigin => {
                let taken = self.shared.take_of_origin(self.from);
                let verdict = taken.err().map_or(Verdict::Now, Verdict::TooLong);
                self.inputs.push_back(Input::Rated(verdict));
            }
            Effect::Push(mutation) => {
                let Some(client) = &self.client else { return Ok(()) };
                let shares = client.sharing == Sharing::Shared;
                let writer = &self.shared.writer;
                let queue = self
                    .queue
                    .get_or_insert_with(|| writer.attach(&client.client, &client.user, shares));
                if let Err(mutation) = queue.push(*mutation) {
                    self.inputs.push_back(Input::Full(Box::new(mutation)));
                }
            }
            Effect::Limited(limit) => telemetry::limited(limit),
            Effect::AskOutcomes(tab) => {
                let outcomes = self.shared.outcomes.clone();
                self.answer =
                    Some(Box::pin(async move { Answer::Outcomes(outcomes.ask(tab).await) }));
            }
            Effect::NoteTold(told) => self.shared.outcomes.note(told),
            Effect::CountRejection(code) => telemetry::mutation_rejected(&code),
            Effect::End(ending) => return Err(Over::Ended(ending)),
        }
        Ok(())
    }

    /// Writes a frame that need not be on its way yet.
    async fn feed(&mut self, frame: Message) -> Result<(), Over> {
        self.unflushed = true;
        match timeout(WRITE_TIMEOUT, self.socket.feed(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Over::Gone),
        }
    }

    /// Closes with the ending's code, and waits until the client has read it: dropping the socket at once may take it
    /// back. What the client had sent before it read that is not lost, if the conversation has a use for it.
    async fn say_goodbye(mut self, ending: Option<Ending>) {
        let Some(Ending { code, message, .. }) = ending else { return };
        match self.session.take() {
            Some(_) => telemetry::ended(code),
            None => telemetry::rejected(code),
        }
        self.entry = None;
        // What is wrong with a message may be told in its own words, and is the client's affair.
        let why = Some(message).filter(|_| code != ErrorCode::BadRequest);
        tracing::debug!(code = code.as_str(), why, "a session ends");
        // A reason has at most 123 bytes (RFC 6455, 5.5); the code says enough.
        let close = CloseFrame {
            code: code.close_code().into(),
            reason: Utf8Bytes::from_static(code.as_str()),
        };
        self.socket.get_mut().leave();
        let clock = self.shared.clock;
        let until = clock.instant(self.listening.say_goodbye(clock.time()));
        let goodbye = async {
            self.socket.send(Message::Close(Some(close))).await?;
            for _ in 0..GOODBYE_MESSAGES {
                let Some(Ok(message)) = self.socket.next().await else { break };
                if let Message::Text(text) = message {
                    // It is over already.
                    drop(self.step(Input::Text(&text)).await);
                }
            }
            Ok::<_, Error>(())
        };
        // Whether the client hears it is up to the client.
        drop(timeout_at(until, goodbye).await);
    }
}

async fn wait_for<T>(what: Option<&mut Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match what {
        Some(what) => what.await,
        None => std::future::pending().await,
    }
}

async fn filled(session: Option<&EngineSession>, more: bool) {
    match session {
        Some(_) if more => {}
        Some(session) => session.outlet().filled().await,
        None => std::future::pending().await,
    }
}

async fn broken(queue: Option<&mut Queue>) -> Broken {
    match queue {
        Some(queue) => queue.broken().await,
        None => std::future::pending().await,
    }
}

async fn superseded(entry: Option<&Entry>) {
    match entry {
        Some(entry) => entry.superseded().await,
        None => std::future::pending().await,
    }
}

fn text(frame: Bytes) -> Message {
    match Utf8Bytes::try_from(frame) {
        Ok(text) => Message::Text(text),
        Err(_) => unreachable!("frames are JSON made of UTF-8"),
    }
}

/// What to say of a frame that cannot be read; nothing if the connection is gone.
pub(crate) fn unreadable(error: &Error) -> Option<String> {
    if let Error::Io(error) = error
        && let Some(too_long) = error.get_ref().and_then(|error| error.downcast_ref::<TooLong>())
    {
        telemetry::limited(Limit::FirstMessage);
        return Some(too_long.to_string());
    }
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        | Error::Io(_)
        | Error::ConnectionClosed
        | Error::AlreadyClosed => None,
        broken => Some(format!("the message cannot be read: {broken}")),
    }
}
