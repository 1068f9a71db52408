//! A connection that lasts. One task connects, applies what comes to the replica and tells its owner;
//! when the connection ends it does what the protocol asks for that ending: waits and comes back,
//! gets another token, takes another client id, or stops with an error that a person must see.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rowtide_protocol::{PROTOCOL_VERSION, SUBPROTOCOL, ServerMessage};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::backoff::wait;
use crate::replica::{Replica, RowChange};

/// How many events may wait for the owner before the connection is no longer read.
const EVENTS: usize = 256;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(15);
/// The server pings after 25 s; this much silence means that it is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// The largest message that is taken.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Gives a token whenever one is needed: at each connect.
pub type TokenSource = Arc<dyn Fn() -> String + Send + Sync>;

/// What a client needs.
#[derive(Clone)]
pub struct ClientOptions {
    /// `ws://…/sync` or `wss://…/sync`.
    pub url: String,
    /// Where tokens come from.
    pub token: TokenSource,
    /// 8 to 64 of `A-Z a-z 0-9 _ -`; names this client's queue of mutations.
    pub client_id: String,
    /// The application's version, if it says one.
    pub app_version: Option<i64>,
}

/// How the connection is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Trying to connect, or waiting for the first rows.
    Connecting,
    /// The replica follows the server.
    Live,
    /// Cut off; the next try is under way after a wait.
    Offline {
        /// Why.
        reason: String,
    },
}

/// What the owner of a client is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The connection is doing otherwise.
    Status(Status),
    /// Rows changed: one or more commits, to be shown as a whole. Comes after the replica has them.
    Changes(Vec<RowChange>),
    /// The client has stopped for good.
    Stopped(ConnectionError),
}

/// Why a client stopped for good.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectionError {
    /// The URL cannot be used.
    #[error("`{0}` is not a URL of a server (expected ws://host:port/sync)")]
    Url(String),
    /// The server ended the connection in a way that no retry mends.
    #[error("the server refused: {message} ({code})")]
    Refused {
        /// See the protocol's error codes.
        code: String,
        /// The server's words.
        message: String,
    },
}

/// A running client; dropping it ends the connection.
pub struct Client {
    replica: Arc<Mutex<Replica>>,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Starts to connect.
    pub fn start(options: ClientOptions) -> Client {
        let replica = Arc::new(Mutex::new(Replica::new()));
        let (sender, events) = mpsc::channel(EVENTS);
        let task = tokio::spawn(run(options, Arc::clone(&replica), sender));
        Client { replica, events, task }
    }

    /// The next event; `None` after [`Event::Stopped`]. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The rows as they are now. Hold it for a short time: the connection waits for it.
    pub fn replica(&self) -> MutexGuard<'_, Replica> {
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How one connection ended.
enum Ended {
    /// Come back, after at most so long if the server said it.
    Again { reason: String, at_most: Option<Duration> },
    /// Come back with another client id.
    OtherClientId { reason: String },
    /// Do not come back.
    Final(ConnectionError),
    /// The owner is gone.
    Dropped,
}

async fn run(
    mut options: ClientOptions,
    replica: Arc<Mutex<Replica>>,
    events: mpsc::Sender<Event>,
) {
    let mut failures = 0;
    loop {
        let mut was_live = false;
        let ended = connection(&options, &replica, &events, &mut was_live).await;
        if was_live {
            failures = 0;
        }
        let (reason, at_most) = match ended {
            Ended::Again { reason, at_most } => (reason, at_most),
            Ended::OtherClientId { reason } => {
                options.client_id = format!("{:032x}", rand::random::<u128>());
                (reason, None)
            }
            Ended::Final(error) => {
                // The owner may be gone as well.
                drop(events.send(Event::Stopped(error)).await);
                return;
            }
            Ended::Dropped => return,
        };
        if events.send(Event::Status(Status::Offline { reason })).await.is_err() {
            return;
        }
        let pause = wait(failures, at_most, &mut rand::rng());
        failures += 1;
        tokio::time::sleep(pause).await;
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

fn again(reason: impl ToString) -> Ended {
    Ended::Again { reason: reason.to_string(), at_most: None }
}

async fn connection(
    options: &ClientOptions,
    replica: &Mutex<Replica>,
    events: &mpsc::Sender<Event>,
    was_live: &mut bool,
) -> Ended {
    if events.send(Event::Status(Status::Connecting)).await.is_err() {
        return Ended::Dropped;
    }
    let mut socket = match timeout(CONNECT, open(options, replica)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(ended)) => return ended,
        Err(_) => return again("the server does not answer"),
    };
    let mut last_error = None;
    loop {
        let message = match timeout(SILENCE, socket.next()).await {
            Err(_) => return again("the server has fallen silent"),
            Ok(None) => return last_error.unwrap_or_else(|| again("the connection ended")),
            Ok(Some(Err(error))) => return last_error.unwrap_or_else(|| again(error)),
            Ok(Some(Ok(message))) => message,
        };
        let text = match message {
            Message::Text(text) => text,
            Message::Close(_) => {
                return last_error.unwrap_or_else(|| again("the connection ended"));
            }
            _ => continue,
        };
        let message = match ServerMessage::parse(&text) {
            Ok(message) => message,
            Err(error) => return again(format!("the server sent what cannot be read: {error}")),
        };
        if let ServerMessage::Error { code, message, retry_after_ms } = message {
            last_error = Some(ending(code, message, retry_after_ms));
            continue;
        }
        let ready = matches!(message, ServerMessage::Ready { .. });
        let applied = replica.lock().unwrap_or_else(PoisonError::into_inner).apply(&message);
        let changes = match applied {
            Ok(changes) => changes,
            Err(error) => return again(error),
        };
        if ready {
            *was_live = true;
        }
        let status = ready.then_some(Event::Status(Status::Live));
        let changes = (!changes.is_empty()).then_some(Event::Changes(changes));
        for event in changes.into_iter().chain(status) {
            if events.send(event).await.is_err() {
                return Ended::Dropped;
            }
        }
    }
}

/// What the protocol asks of a client for each code.
fn ending(code: String, message: String, retry_after_ms: Option<u64>) -> Ended {
    let at_most = retry_after_ms.map(Duration::from_millis);
    match code.as_str() {
        "forbidden" => Ended::OtherClientId { reason: message },
        "bad_request" | "superseded" | "client_too_old" => {
            Ended::Final(ConnectionError::Refused { code, message })
        }
        _ => Ended::Again { reason: format!("{message} ({code})"), at_most },
    }
}

async fn open(options: &ClientOptions, replica: &Mutex<Replica>) -> Result<Socket, Ended> {
    let bad_url = || Ended::Final(ConnectionError::Url(options.url.clone()));
    let mut request = options.url.as_str().into_client_request().map_err(|_| bad_url())?;
    let protocol = HeaderValue::from_static(SUBPROTOCOL);
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
    let config = WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .max_message_size(Some(MAX_MESSAGE_BYTES));
    let (mut socket, _) =
        connect_async_with_config(request, Some(config), true).await.map_err(again)?;
    let cursor = replica.lock().unwrap_or_else(PoisonError::into_inner).cursor().map(str::to_owned);
    let mut connect = serde_json::json!({
        "type": "connect",
        "protocol": PROTOCOL_VERSION,
        "clientId": options.client_id,
        "token": (options.token)(),
    });
    if let Some(version) = options.app_version {
        connect["appVersion"] = version.into();
    }
    if let Some(cursor) = cursor {
        connect["cursor"] = cursor.into();
    }
    socket.send(Message::text(connect.to_string())).await.map_err(again)?;
    Ok(socket)
}
