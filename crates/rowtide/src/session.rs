//! One connected client. The session speaks the protocol on its socket: it checks the first message,
//! joins the view of its user, and from then on passes frames from the hub to the socket and answers
//! the client's own messages, until one side ends it. What it tells a client is the documented code
//! for each case, and nothing of it touches other sessions.

use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures_util::SinkExt;
use rowtide_plan::write::Rejection;
use rowtide_postgres::mutate::{Author, Number};
use rowtide_protocol::{
    ClientMessage, Connect, Cursor, ErrorCode, Mode, Mutation, PROTOCOL_VERSION, RejectCode,
    connected_frame, error_frame, pong_frame,
};
use tokio::time::{Instant, sleep_until, timeout};

use crate::auth::{Identity, Unauthorized};
use crate::hub::{Delivery, Subscription};
use crate::limits::{CONNECT_TIMEOUT, FLUSH_BYTES, GOODBYE_TIMEOUT, LONGEST_WAIT, RETRY_AFTER_MS};
use crate::registry::{Entry, Refused};
use crate::server::State;
use crate::socket::{Beat, Ending, Gone, Heartbeat, feed, read_error, text, write};
use crate::telemetry;
use crate::writer::{Asked, Broken, Full, Queue};

/// Serves one socket until it ends. `header_token` came with the upgrade.
pub(crate) async fn serve(mut socket: WebSocket, state: Arc<State>, header_token: Option<String>) {
    let ending = match open(&mut socket, &state, header_token).await {
        Ok(session) => {
            session.run(&mut socket, &state).await.inspect(|ending| telemetry::ended(ending.code))
        }
        Err(ending) => ending.inspect(|ending| telemetry::refused(ending.code)),
    };
    let Some(Ending { code, message }) = ending else { return };
    tracing::debug!(code = code.as_str(), message, "a session ends");
    let come_back = matches!(code, ErrorCode::Restarting | ErrorCode::Unavailable);
    let frame = error_frame(code, &message, come_back.then_some(RETRY_AFTER_MS));
    // A reason has at most 123 bytes (RFC 6455, 5.5); the code says enough.
    let close =
        CloseFrame { code: code.close_code(), reason: Utf8Bytes::from_static(code.as_str()) };
    let goodbye = async {
        socket.feed(text(frame)).await?;
        socket.send(Message::Close(Some(close))).await?;
        // Until the client has read it; dropping the socket at once may take it back.
        while let Some(Ok(_)) = socket.recv().await {}
        Ok::<_, axum::Error>(())
    };
    // Whether the client hears it is up to the client.
    drop(timeout(GOODBYE_TIMEOUT, goodbye).await);
}

struct Session {
    identity: Identity,
    author: Arc<Author>,
    entry: Entry,
    subscription: Subscription,
    /// Where its mutations wait, once there has been one.
    queue: Option<Arc<Queue>>,
    /// The number that follows all that the client was told and has sent.
    next: u64,
    /// Whether it has left out a number.
    left_out: bool,
}

/// From the upgrade to `connected`. `Err(None)` when the client has gone.
async fn open(
    socket: &mut WebSocket,
    state: &Arc<State>,
    header_token: Option<String>,
) -> Result<Session, Option<Ending>> {
    let first = timeout(CONNECT_TIMEOUT, first_message(socket));
    let connect = match state.stop.run_until_cancelled(first).await {
        Some(Ok(connect)) => connect?,
        Some(Err(_)) => {
            let message = "`connect` did not come in time";
            return Err(Some(Ending::new(ErrorCode::Timeout, message)));
        }
        None => return Err(Some(Ending::stopping())),
    };
    if connect.protocol != PROTOCOL_VERSION {
        let message =
            format!("this server speaks protocol {PROTOCOL_VERSION}, not {}", connect.protocol);
        return Err(Some(Ending::new(ErrorCode::BadRequest, message)));
    }
    let plan = state.hub.plan();
    if let Some(min) = plan.min_client
        && connect.app_version.is_none_or(|version| version < min)
    {
        let message = format!("this application needs version {min} of the client or newer");
        return Err(Some(Ending::new(ErrorCode::ClientTooOld, message)));
    }
    let token = header_token.or(connect.token).ok_or(Unauthorized::Missing);
    let identity = match token {
        Ok(token) => state.auth.check(&token).await.map_err(|error| Some(error.into()))?,
        Err(error) => return Err(Some(error.into())),
    };
    if !state.rate.take(&identity.user_id) {
        let message = format!("more than {} requests a minute", state.limits.requests_per_minute);
        return Err(Some(Ending::new(ErrorCode::RateLimitExceeded, message)));
    }
    let settled = connect.settled.unwrap_or(0);
    // One that cannot be read is of another server.
    let cursor = connect.cursor.and_then(|cursor| cursor.parse::<Cursor>().ok());
    let entry = state
        .registry
        .enter(connect.client_id.as_str(), &identity.user_id, settled, true)
        .await
        .map_err(|refused| Some(refusal(refused)))?;
    let author = Arc::new(identity.author());
    let subscription = state
        .hub
        .open(&author, entry.client(), Some(entry.last_mutation()), entry.settled_until(), cursor)
        .await
        .map_err(|error| Some(Ending::new(ErrorCode::Unavailable, error.to_string())))?;
    let next = entry.last_mutation() + 1;
    Ok(Session { identity, author, entry, subscription, queue: None, next, left_out: false })
}

/// Waits until the mutations are not taken any further. Cancel safe.
async fn broken(queue: &Option<Arc<Queue>>) -> Broken {
    match queue {
        Some(queue) => queue.broken().await,
        None => std::future::pending().await,
    }
}

pub(crate) fn refusal(refused: Refused) -> Ending {
    match refused {
        Refused::OtherUser => Ending::new(
            ErrorCode::Forbidden,
            "this `clientId` belongs to another user; take a new one",
        ),
        Refused::TooManySessions(limit) => Ending::new(
            ErrorCode::RateLimitExceeded,
            format!("more than {limit} connections of one user"),
        ),
        Refused::Unavailable(why) => Ending::new(ErrorCode::Unavailable, why),
    }
}

async fn first_message(socket: &mut WebSocket) -> Result<Connect, Option<Ending>> {
    let bad = |message: &str| Some(Ending::new(ErrorCode::BadRequest, message));
    loop {
        let message = match socket.recv().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(read_error(error)),
            None => return Err(None),
        };
        match message {
            Message::Text(text) => {
                return match ClientMessage::parse(&text) {
                    Ok(ClientMessage::Connect(connect)) => Ok(connect),
                    Ok(_) => Err(bad("the first message must be `connect`")),
                    Err(error) => Err(bad(&error.0)),
                };
            }
            Message::Binary(_) => return Err(bad("messages are text frames, not binary ones")),
            Message::Close(_) => return Err(None),
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}

impl Session {
    async fn run(mut self, socket: &mut WebSocket, state: &Arc<State>) -> Option<Ending> {
        let mut heartbeat = Heartbeat::new();
        loop {
            // Here and not only when it falls silent: a client may see to it that it never does.
            let remaining = self.identity.remaining();
            if remaining.is_zero() {
                return Some(Ending::new(ErrorCode::Unauthorized, "the token has expired"));
            }
            let expires = Instant::now() + remaining.min(LONGEST_WAIT);
            tokio::select! {
                biased;
                () = state.stop.cancelled() => {
                    return Some(Ending::stopping());
                }
                broken = broken(&self.queue) => return Some(self.broken_off(broken)),
                () = self.entry.superseded() => {
                    let message = "another connection of this `clientId` has taken over";
                    return Some(Ending::new(ErrorCode::Superseded, message));
                }
                message = socket.recv() => {
                    heartbeat.heard();
                    match message {
                        Some(Ok(message)) => match self.answer(message, socket, state).await {
                            Ok(()) => {}
                            Err(ending) => return ending,
                        },
                        Some(Err(error)) => return read_error(error),
                        None => return None,
                    }
                }
                delivery = self.subscription.next() => {
                    if let Err(ending) = self.deliver(delivery, socket, state).await {
                        return ending;
                    }
                }
                beat = heartbeat.next() => match beat {
                    Beat::Ping => heartbeat.ask(socket).await.map_err(|Gone| ()).ok()?,
                    Beat::Dead => {
                        let message = "nothing was heard for too long";
                        return Some(Ending::new(ErrorCode::Timeout, message));
                    }
                },
                () = sleep_until(expires) => {}
            }
        }
    }

    /// Sends what there is with one flush, up to a size: others must get their turn as well.
    async fn deliver(
        &mut self,
        first: Delivery,
        socket: &mut WebSocket,
        state: &State,
    ) -> Result<(), Option<Ending>> {
        let mut next = Some(first);
        let (mut bytes, mut frames) = (0, 0);
        while let Some(delivery) = next {
            let frame = match delivery {
                Delivery::Begin(mode) => {
                    // Whoever answers is there, and takes over from older connections of the client.
                    feed(socket, Message::Ping(Bytes::new())).await.map_err(|Gone| None)?;
                    self.connected(mode, state)
                }
                Delivery::Frame(frame) => frame,
                Delivery::Closed(code, message) => return Err(Some(Ending { code, message })),
            };
            bytes += frame.len();
            frames += 1;
            feed(socket, text(frame)).await.map_err(|Gone| None)?;
            next = if bytes < FLUSH_BYTES { self.subscription.try_next() } else { None };
        }
        telemetry::sent(frames, bytes as u64);
        write(socket, []).await.map_err(|Gone| None)
    }

    /// The answer to `connect`, once it is known how the replica is brought up to date.
    fn connected(&self, mode: Mode, state: &State) -> Bytes {
        telemetry::connected(mode.as_str());
        let (user_id, entry) = (&self.identity.user_id, &self.entry);
        let (last, refused) = (entry.last_mutation(), entry.refused());
        connected_frame(user_id, mode, last, refused, &state.tables_json())
    }

    async fn answer(
        &mut self,
        message: Message,
        socket: &mut WebSocket,
        state: &Arc<State>,
    ) -> Result<(), Option<Ending>> {
        let bad = |message: &str| Some(Ending::new(ErrorCode::BadRequest, message));
        if matches!(message, Message::Close(_)) {
            return Err(None);
        }
        self.entry.take_over();
        let text_of = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(bad("messages are text frames, not binary ones")),
            Message::Close(_) | Message::Ping(_) | Message::Pong(_) => return Ok(()),
        };
        let reply = match ClientMessage::parse(&text_of).map_err(|error| bad(&error.0))? {
            ClientMessage::Ping => pong_frame(),
            ClientMessage::Connect(_) => return Err(bad("`connect` is said once")),
            ClientMessage::Auth { token } => {
                let identity = state.auth.check(&token).await.map_err(|e| Some(Ending::from(e)))?;
                if identity.user_id != self.identity.user_id {
                    let message = "`auth` must bring a token of the same user";
                    return Err(Some(Ending::new(ErrorCode::Unauthorized, message)));
                }
                let plan = state.hub.plan();
                let resolve =
                    |identity: &Identity| plan.resolve_claims(&identity.user_id, &identity.claims);
                if resolve(&identity) != resolve(&self.identity) {
                    // Other claims see other rows, and a new replica begins with `connected`.
                    let message = "the token's claims are others: connect again";
                    return Err(Some(Ending::new(ErrorCode::Restarting, message)));
                }
                self.author = Arc::new(identity.author());
                self.identity = identity;
                return Ok(());
            }
            ClientMessage::Mutate(mutation) => {
                return self.mutate(mutation, text_of.len(), state).map_err(Some);
            }
        };
        write(socket, [text(reply)]).await.map_err(|Gone| None)
    }

    /// Puts a mutation into the queue. What becomes of it comes with the stream, also if it is refused
    /// here: its number must be settled, so that those behind it can follow.
    fn mutate(
        &mut self,
        mutation: Mutation,
        bytes: usize,
        state: &Arc<State>,
    ) -> Result<(), Ending> {
        self.left_out |= mutation.id > self.next;
        self.next = self.next.max(mutation.id.saturating_add(1));
        let limits = &state.limits;
        let refuse = |code, message: String| Asked::Refuse(Rejection::new(code, message));
        let asked = if !state.rate.take(&self.identity.user_id) {
            let message = format!("more than {} requests a minute", limits.requests_per_minute);
            refuse(RejectCode::RateLimitExceeded, message)
        } else if bytes > limits.mutation_bytes {
            let message = format!("{bytes} bytes, more than {}", limits.mutation_bytes);
            refuse(RejectCode::TooLarge, message)
        } else {
            match mutation.ops {
                Err(wrong) => refuse(RejectCode::BadRequest, wrong.0),
                Ok(ops) if ops.len() > limits.ops_per_mutation => {
                    let most = limits.ops_per_mutation;
                    let message = format!("{} operations, more than {most}", ops.len());
                    refuse(RejectCode::TooLarge, message)
                }
                Ok(ops) => Asked::Apply(ops),
            }
        };
        // What is refused holds nothing of the message.
        let bytes = if matches!(asked, Asked::Apply(_)) { bytes } else { 0 };
        let queue = self
            .queue
            .get_or_insert_with(|| state.writer.queue(self.entry.client(), &self.identity.user_id));
        let author = Arc::clone(&self.author);
        queue.push(Number::Given(mutation.id), author, asked, bytes).map_err(|Full| {
            Ending::new(
                ErrorCode::Unavailable,
                "too many mutations wait to be applied; come back and send them again",
            )
        })
    }

    fn broken_off(&self, broken: Broken) -> Ending {
        match broken {
            Broken::Gap { number, last } if self.left_out => Ending::new(
                ErrorCode::BadRequest,
                format!("mutation {number} does not follow {last}, the last that was settled"),
            ),
            Broken::Gap { last, .. } => Ending::new(
                ErrorCode::Restarting,
                format!("the database has gone back, and knows of {last} mutations: connect again"),
            ),
            Broken::NotTheirs => Ending::new(
                ErrorCode::Forbidden,
                "this `clientId` is not yours any more; take a new one",
            ),
            Broken::Stopped => Ending::stopping(),
        }
    }
}
