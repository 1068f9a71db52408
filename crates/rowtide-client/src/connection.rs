//! A connection that comes back. It applies received messages to the state and sends the mutations that the
//! state allows. When the connection ends, it does what the protocol asks for that ending: it waits and
//! connects again, gets another token, takes another client id, or stops with an error that a person must
//! see.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::SplitSink;
use futures_util::{Sink, SinkExt, StreamExt};
use rowtide_protocol::{DEFLATE, PROTOCOL_VERSION, SUBPROTOCOL, ServerMessage, inflate};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::backoff::wait;
use crate::event::{ConnectionError, Event};
use crate::journal::Journal;
use crate::optimistic::{ApplyError, Resumption};
use crate::options::ClientOptions;
use crate::received;
use crate::shared::SharedState;
use crate::storage::{Storage, StorageError};

/// The longest time to connect.
const CONNECT: Duration = Duration::from_secs(15);
/// The server pings after 25 s. After this much silence the client takes the server for gone.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the client waits for the server's reason after a message could not be sent.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The largest message that the client accepts, inflated or not, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// How many mutations may wait for their acknowledgement, and how many messages to be written.
const WINDOW: usize = 100;

/// How a connection ended, and what follows.
enum ConnectionEnd {
    /// Connect again, after a wait of at most `at_most` if the server said so.
    Again { reason: String, at_most: Option<Duration> },
    /// Connect again, and ask for no deflated frames: one was broken.
    AgainWithText { reason: String },
    /// Connect again with another client id: this one cannot be had.
    OtherClientId { reason: String },
    /// Connect again with another client id, for another user.
    OtherUser { reason: String },
    /// Stop.
    Final(ConnectionError),
}

/// The task of a client. It ends when the owner is gone or another try to connect is useless. Before it
/// ends it stores everything.
///
/// # Errors
/// When not everything could be stored.
pub(crate) async fn run(
    options: ClientOptions,
    shared: Arc<SharedState>,
    storage: Box<dyn Storage>,
    events: mpsc::Sender<Event>,
) -> Result<(), StorageError> {
    let mut journal = Journal::new(storage);
    let error = tokio::select! {
        error = keep_connected(&options, &shared) => Some(error),
        // These two never end before the owner is gone.
        () = journal.run(&shared) => None,
        () = shared.report(&events, false) => None,
        () = events.closed() => None,
    };
    shared.stop(error);
    let stored = journal.flush(&shared, true).await;
    // Dropped first, so that the next client can open the storage even if the owner is slow.
    drop(journal);
    shared.report(&events, true).await;
    stored
}

/// Connects again and again, until another try is useless.
async fn keep_connected(options: &ClientOptions, shared: &SharedState) -> ConnectionError {
    let mut failures = 0;
    let mut deflated = true;
    loop {
        shared.connecting();
        let mut was_live = false;
        let ended = connection(options, shared, deflated, &mut was_live).await;
        if was_live {
            failures = 0;
        }
        let (reason, at_most) = match ended {
            ConnectionEnd::Again { reason, at_most } => (reason, at_most),
            ConnectionEnd::AgainWithText { reason } => {
                deflated = false;
                (reason, None)
            }
            ConnectionEnd::OtherClientId { reason } => {
                shared.renew(new_id());
                (reason, None)
            }
            ConnectionEnd::OtherUser { reason } => {
                shared.abandon(new_id());
                (reason, None)
            }
            ConnectionEnd::Final(error) => {
                shared.offline(error.to_string());
                return error;
            }
        };
        shared.offline(reason);
        shared.room().await;
        let pause = wait(failures, at_most, &mut rand::rng());
        failures += 1;
        tokio::time::sleep(pause).await;
    }
}

fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

fn again(reason: impl ToString) -> ConnectionEnd {
    ConnectionEnd::Again { reason: reason.to_string(), at_most: None }
}

async fn connection(
    options: &ClientOptions,
    shared: &SharedState,
    deflated: bool,
    was_live: &mut bool,
) -> ConnectionEnd {
    let socket = match timeout(CONNECT, open(options, shared, deflated)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(ended)) => return ended,
        Err(_) => return again("the server does not answer"),
    };
    let (sink, mut stream) = socket.split();
    let (to_write, texts) = mpsc::channel(WINDOW);
    let writer = write(sink, texts);
    tokio::pin!(writer);
    let mut heard = Instant::now();
    let mut silence = SILENCE;
    let mut broken = None;
    let ended = loop {
        send(shared, &to_write);
        let message = tokio::select! {
            error = &mut writer, if broken.is_none() => {
                // The server's reason may still arrive.
                broken = Some(again(error));
                (heard, silence) = (Instant::now(), LAST_WORDS);
                continue;
            }
            () = shared.to_send.notified() => continue,
            message = timeout_at(heard + silence, stream.next()) => message,
        };
        let text = match message {
            Err(_) => break again("the server has fallen silent"),
            Ok(None | Some(Ok(Message::Close(_)))) => break again("the connection ended"),
            Ok(Some(Err(error))) => break again(error),
            Ok(Some(Ok(Message::Text(text)))) => text,
            Ok(Some(Ok(Message::Binary(frame)))) => {
                // A large one takes a while, and others share the thread.
                let text = spawn_blocking(move || inflate(&frame, MAX_MESSAGE_BYTES)).await;
                match text.map_err(|error| error.to_string()) {
                    Ok(Ok(text)) => text.into(),
                    Ok(Err(error)) => {
                        let reason = format!("a deflated frame is broken: {error}");
                        break ConnectionEnd::AgainWithText { reason };
                    }
                    Err(error) => break again(error),
                }
            }
            Ok(Some(Ok(_))) => {
                heard = Instant::now();
                continue;
            }
        };
        let message = match received::read(&text) {
            Ok(message) => message,
            Err(error) => break again(format!("the server sent what cannot be read: {error}")),
        };
        if let ServerMessage::Error { code, message, retry_after_ms } = message {
            return ending(code, message, retry_after_ms);
        }
        match shared.apply(&message) {
            Ok(()) => {}
            Err(error @ ApplyError::OtherUser { .. }) => {
                break ConnectionEnd::OtherUser { reason: error.to_string() };
            }
            Err(error) => break again(error),
        }
        *was_live |= matches!(message, ServerMessage::Ready { .. });
        shared.room().await;
        // Now, and not before, because the owner may have been slow.
        heard = Instant::now();
    };
    broken.unwrap_or(ended)
}

/// Passes what may be sent to the writer. Where the channel is full, an answer to what is in it comes, and more is sent
/// then.
fn send(shared: &SharedState, to_write: &mpsc::Sender<Utf8Bytes>) {
    while let Ok(place) = to_write.try_reserve() {
        let text = {
            let state = &mut shared.lock().optimistic;
            if let Some(request) = state.next_subscription_request() {
                serde_json::to_string(&request)
            } else if let Some(outgoing) = state.next_to_send(WINDOW as u64) {
                serde_json::to_string(&outgoing)
            } else {
                return;
            }
        };
        match text {
            Ok(text) => place.send(text.into()),
            Err(error) => tracing::error!(%error, "a message cannot be written as JSON"),
        }
    }
}

/// Sends texts to the server until that fails.
async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut texts: mpsc::Receiver<Utf8Bytes>,
) -> SocketError {
    while let Some(text) = texts.recv().await {
        if let Err(error) = write_all(&mut sink, text, &mut texts).await {
            return error;
        }
    }
    // The sender lives as long as the connection.
    std::future::pending().await
}

async fn write_all<S: Sink<Message, Error = SocketError> + Unpin>(
    sink: &mut S,
    first: Utf8Bytes,
    texts: &mut mpsc::Receiver<Utf8Bytes>,
) -> Result<(), SocketError> {
    sink.feed(Message::Text(first)).await?;
    while let Ok(text) = texts.try_recv() {
        sink.feed(Message::Text(text)).await?;
    }
    sink.flush().await
}

/// What the protocol asks of a client for each error code.
fn ending(code: String, message: String, retry_after_ms: Option<u64>) -> ConnectionEnd {
    let at_most = retry_after_ms.map(Duration::from_millis);
    match code.as_str() {
        "forbidden" => ConnectionEnd::OtherClientId { reason: message },
        "bad_request" | "superseded" | "client_too_old" => {
            ConnectionEnd::Final(ConnectionError::Rejected { code, message })
        }
        _ => ConnectionEnd::Again { reason: format!("{message} ({code})"), at_most },
    }
}

async fn open(
    options: &ClientOptions,
    shared: &SharedState,
    deflated: bool,
) -> Result<Socket, ConnectionEnd> {
    let bad_url = || ConnectionEnd::Final(ConnectionError::Url(options.url.clone()));
    let mut request = options.url.as_str().into_client_request().map_err(|_| bad_url())?;
    let protocol = HeaderValue::from_static(SUBPROTOCOL);
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
    let config = WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .max_message_size(Some(MAX_MESSAGE_BYTES));
    let (mut socket, _) =
        connect_async_with_config(request, Some(config), true).await.map_err(again)?;
    let mut connect = serde_json::json!({
        "type": "connect",
        "protocol": PROTOCOL_VERSION,
    });
    if deflated {
        connect["accept"] = serde_json::json!([DEFLATE]);
    }
    if let Some(token) = (options.token)() {
        connect["token"] = token.into();
    }
    if let Some(version) = options.app_version {
        connect["appVersion"] = version.into();
    }
    {
        let state = &mut shared.lock().optimistic;
        connect["clientId"] = state.client_id().into();
        let Resumption { cursor, subscriptions } = state.resume();
        if let Some(cursor) = cursor {
            connect["cursor"] = cursor.into();
        }
        if !subscriptions.is_empty() {
            connect["subscriptions"] = serde_json::json!(subscriptions);
        }
        if let Some(acked) = state.acked() {
            connect["settled"] = acked.into();
        }
        if let Some(spent) = state.spent() {
            connect["acked"] = spent.into();
        }
    }
    socket.send(Message::text(connect.to_string())).await.map_err(again)?;
    Ok(socket)
}
