//! The adapter for clients of the older protocol, `GET /app/{userId}/connect`, where the definition
//! asks for it. It is another way to speak about the same views, rules and transactions: a session
//! takes the steps of its view and says them in the older words, and hands the older mutations to the
//! same writer, in one queue for each user and under numbers that the database gives.

mod frames;
mod translate;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use rowtide_plan::plan::Plan;
use rowtide_plan::write::Rejection;
use rowtide_postgres::mutate::{Author, Number};
use rowtide_protocol::{ErrorCode, RejectCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until, timeout};

use self::frames::{Frame, Frames};
use self::translate::{Held, Update, commit, reject};
use crate::auth::Identity;
use crate::hub::{Step, Subscription};
use crate::limits::{FLUSH_BYTES, GOODBYE_TIMEOUT, LONGEST_WAIT, READ_BUFFER_BYTES};
use crate::registry::Entry;
use crate::server::{State, bearer};
use crate::session::refusal;
use crate::socket::{Beat, Ending, Gone, Heartbeat, feed, read_error, write};
use crate::writer::{Asked, Broken, Queue};

/// The version of the older protocol.
const VERSION: i64 = 1;
/// Said to clients that are older still; they take it as final.
const TOO_OLD: (u16, &str) = (4099, "CLIENT_TOO_OLD");
/// The longest name of a mutation, in bytes.
const MAX_NAME_BYTES: usize = 200;

/// The queue of each user, for as long as one of their sessions has it or something waits in it.
#[derive(Default)]
pub(crate) struct OlderQueues {
    queues: Mutex<HashMap<String, Weak<Queue>>>,
}

impl OlderQueues {
    fn of(&self, state: &State, user_id: &str) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(user_id).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = state.writer.queue(&client_of(user_id), user_id);
        queues.insert(user_id.to_owned(), Arc::downgrade(&queue));
        queue
    }
}

/// The client that counts the mutations of a user's older clients; no client id has a slash.
fn client_of(user_id: &str) -> String {
    format!("app/{user_id}")
}

/// What stands in the query.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asks {
    session_id: Option<String>,
    protocol_version: Option<String>,
    access_token: Option<String>,
}

/// Answers a connect, before the upgrade wherever it can.
pub(crate) async fn connect(
    Extract(state): Extract<Arc<State>>,
    Path(user_id): Path<String>,
    Query(asks): Query<Asks>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let refuse = |status: StatusCode, why: &str| (status, format!("{why}\n")).into_response();
    if !state.older_clients {
        return refuse(StatusCode::NOT_FOUND, "this application has no older clients");
    }
    if asks.session_id.is_none_or(|id| id.is_empty()) {
        return refuse(StatusCode::BAD_REQUEST, "`sessionId` is missing");
    }
    let version = asks.protocol_version.as_deref().unwrap_or("1").parse::<i64>();
    let Ok(version) = version else {
        return refuse(StatusCode::BAD_REQUEST, "`protocolVersion` is not a number");
    };
    if version != VERSION {
        return upgrade.on_upgrade(too_old);
    }
    let Some(token) = bearer(&headers).or(asks.access_token) else {
        return refuse(StatusCode::UNAUTHORIZED, "a token is missing");
    };
    let identity = match state.auth.check(&token).await {
        Ok(identity) => identity,
        Err(error) => return refuse(StatusCode::UNAUTHORIZED, &error.to_string()),
    };
    if identity.user_id != user_id {
        return refuse(StatusCode::FORBIDDEN, "the token is another user's");
    }
    if !state.rate.take(&user_id) {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests");
    }
    let limit = state.limits.message_bytes;
    let tracker = state.sessions.clone();
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(usize::MAX)
        .max_message_size(limit)
        .max_frame_size(limit)
        .on_upgrade(move |socket| tracker.track_future(serve(socket, state, identity)))
}

async fn too_old(mut socket: WebSocket) {
    close(&mut socket, TOO_OLD.0, TOO_OLD.1).await;
}

/// Says goodbye, and waits until it is heard.
async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    let goodbye = async {
        write(socket, [Message::Close(Some(frame))]).await.ok();
        while let Some(Ok(_)) = socket.recv().await {}
    };
    // Whether the client hears it is up to the client.
    drop(timeout(GOODBYE_TIMEOUT, goodbye).await);
}

async fn serve(mut socket: WebSocket, state: Arc<State>, identity: Identity) {
    let ending = match Session::open(&state, identity).await {
        Ok(session) => session.run(&mut socket, &state).await,
        Err(ending) => Some(ending),
    };
    if let Some(Ending { code, message }) = ending {
        tracing::debug!(code = code.as_str(), message, "an older client's session ends");
        close(&mut socket, code.close_code(), code.as_str()).await;
    }
}

struct Session {
    identity: Identity,
    author: Arc<Author>,
    /// Held for as long as the session lasts.
    _entry: Entry,
    subscription: Subscription,
    queue: Arc<Queue>,
    plan: Arc<Plan>,
    held: Held,
    frames: Frames,
    /// The mutations that it has sent and not heard of.
    sent: HashSet<String>,
}

impl Session {
    async fn open(state: &State, identity: Identity) -> Result<Session, Ending> {
        let client = client_of(&identity.user_id);
        let entry = state.registry.enter(&client, &identity.user_id, u64::MAX, false).await;
        let entry = entry.map_err(refusal)?;
        let author = Arc::new(identity.author());
        let subscription = state.hub.open(&author, &client, None, None, None).await;
        let subscription =
            subscription.map_err(|error| Ending::new(ErrorCode::Unavailable, error.to_string()))?;
        let queue = state.older_queues.of(state, &identity.user_id);
        let held = Held::new(&identity.user_id);
        Ok(Session {
            identity,
            author,
            _entry: entry,
            plan: Arc::clone(subscription.plan()),
            subscription,
            queue,
            held,
            frames: Frames::default(),
            sent: HashSet::new(),
        })
    }

    async fn run(mut self, socket: &mut WebSocket, state: &Arc<State>) -> Option<Ending> {
        let mut heartbeat = Heartbeat::new();
        let queue = Arc::clone(&self.queue);
        loop {
            let remaining = self.identity.remaining();
            if remaining.is_zero() {
                return Some(Ending::new(ErrorCode::Unauthorized, "the token has expired"));
            }
            let expires = Instant::now() + remaining.min(LONGEST_WAIT);
            tokio::select! {
                biased;
                () = state.stop.cancelled() => return Some(Ending::stopping()),
                broken = queue.broken() => {
                    tracing::debug!(?broken, "the mutations of an older client are not taken");
                    let code = match broken {
                        Broken::Stopped => ErrorCode::Restarting,
                        Broken::Gap { .. } | Broken::NotTheirs => ErrorCode::Unavailable,
                    };
                    return Some(Ending::new(code, "mutations are not taken any more"));
                }
                message = socket.recv() => {
                    heartbeat.heard();
                    let answered = match message {
                        Some(Ok(message)) => self.answer(message, socket, state).await,
                        Some(Err(error)) => return read_error(error),
                        None => return None,
                    };
                    if let Err(ending) = answered {
                        return ending;
                    }
                }
                step = self.subscription.next_step() => {
                    if let Err(ending) = self.deliver(step, socket).await {
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

    /// Says what there is with one flush, up to a size.
    async fn deliver(&mut self, first: Step, socket: &mut WebSocket) -> Result<(), Option<Ending>> {
        let mut next = Some(first);
        let mut bytes = 0;
        while let Some(step) = next {
            for message in self.said(step).map_err(Some)? {
                bytes += message.len();
                feed(socket, Message::text(message)).await.map_err(|Gone| None)?;
            }
            next = if bytes < FLUSH_BYTES { self.subscription.try_next_step() } else { None };
        }
        write(socket, []).await.map_err(|Gone| None)
    }

    /// A step in the older words.
    fn said(&mut self, step: Step) -> Result<Vec<String>, Ending> {
        Ok(match step {
            Step::Snapshot { table, rows } => {
                self.held.arrive(self.plan.table(table), rows);
                Vec::new()
            }
            Step::Begin(_) => Vec::new(),
            Step::Ready(cursor) => vec![self.held.initial_data(&self.plan, cursor.lsn)],
            Step::Tx { messages, acknowledgements } => {
                let bodies = messages.iter().map(|message| message.changes());
                let mut said: Vec<String> =
                    bodies.flat_map(|body| self.held.updates(&self.plan, body)).collect();
                said.extend(commit(&acknowledgements));
                for acknowledgement in &acknowledgements {
                    let Some(name) = acknowledgement.name.as_deref() else { continue };
                    // To the session that sent it alone.
                    let ours = self.sent.remove(name);
                    if let Some(refusal) = acknowledgement.rejected.first().filter(|_| ours) {
                        said.push(reject(name, &refusal.code));
                    }
                }
                said
            }
            Step::Closed(code, message) => return Err(Ending { code, message }),
        })
    }

    async fn answer(
        &mut self,
        message: Message,
        socket: &mut WebSocket,
        state: &State,
    ) -> Result<(), Option<Ending>> {
        let bad = |message: &str| Some(Ending::new(ErrorCode::BadRequest, message));
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(bad("messages are text frames, not binary ones")),
            Message::Close(_) => return Err(None),
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
        };
        let text = match self.frames.take(&text, state.limits.message_bytes) {
            Frame::Whole(text) => text,
            Frame::Part => return Ok(()),
            Frame::Broken(why) => return Err(bad(why)),
        };
        let translate::Message { mutation_id: name, updates, .. } = serde_json::from_str(&text)
            .ok()
            .filter(|message: &translate::Message<'_>| message.r#type == "mutate")
            .ok_or_else(|| bad("`mutate` with a `mutationId` is the only message"))?;
        match self.mutate(&name, updates, text.len(), state) {
            Ok(()) => {
                self.sent.insert(name);
                Ok(())
            }
            Err(rejection) => {
                let said = reject(&name, rejection.code.as_str());
                write(socket, [Message::text(said)]).await.map_err(|Gone| None)
            }
        }
    }

    /// Puts a mutation into the user's queue.
    fn mutate(
        &self,
        name: &str,
        updates: &RawValue,
        bytes: usize,
        state: &State,
    ) -> Result<(), Rejection> {
        let limits = &state.limits;
        if !state.rate.take(&self.identity.user_id) {
            return Err(Rejection::new(RejectCode::RateLimitExceeded, "too many requests"));
        }
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
            let what = format!("`mutationId` must have 1 to {MAX_NAME_BYTES} bytes");
            return Err(Rejection::new(RejectCode::BadRequest, what));
        }
        let updates: Vec<Update> = serde_json::from_str(updates.get())
            .map_err(|error| Rejection::new(RejectCode::BadRequest, error.to_string()))?;
        if bytes > limits.mutation_bytes || updates.len() > limits.ops_per_mutation {
            return Err(Rejection::new(RejectCode::TooLarge, "the mutation is too large"));
        }
        let ops = updates.into_iter().filter_map(|update| update.op(&self.plan)).collect();
        let number = Number::Next { name: name.into() };
        let pushed = self.queue.push(number, Arc::clone(&self.author), Asked::Apply(ops), bytes);
        pushed.map_err(|_full| Rejection::new(RejectCode::RateLimitExceeded, "too many wait"))
    }
}
