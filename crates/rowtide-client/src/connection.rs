//! A connection that lasts. It connects, gives what comes to the state and what may be sent to the
//! server; when the connection ends it does what the protocol asks for that ending: waits and comes
//! back, gets another token, takes another client id, or stops with an error that a person must see.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::SplitSink;
use futures_util::{Sink, SinkExt, StreamExt};
use rowtide_protocol::{PROTOCOL_VERSION, SUBPROTOCOL, ServerMessage};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::backoff::wait;
use crate::client::{ClientOptions, ConnectionError, Event};
use crate::journal::Journal;
use crate::optimistic::ApplyError;
use crate::shared::Shared;
use crate::storage::{Storage, StorageError};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(15);
/// The server pings after 25 s; this much silence means that it is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the server's reason is waited for when it takes no more messages.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The largest message that is taken.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// How many mutations may be under way.
const WINDOW: usize = 100;

/// How one connection ended.
enum Ended {
    /// Come back, after at most so long if the server said it.
    Again { reason: String, at_most: Option<Duration> },
    /// Come back with another client id.
    OtherClientId { reason: String },
    /// Do not come back.
    Final(ConnectionError),
}

/// The task of a client: ends when the owner is gone or the server is of no use, with everything stored.
///
/// # Errors
/// When something could not be stored in the end.
pub(crate) async fn run(
    options: ClientOptions,
    shared: Arc<Shared>,
    storage: Box<dyn Storage>,
    events: mpsc::Sender<Event>,
) -> Result<(), StorageError> {
    let mut journal = Journal::new(storage);
    let error = tokio::select! {
        error = keep_connected(&options, &shared) => Some(error),
        // These end only with the owner.
        () = journal.run(&shared) => None,
        () = shared.tell(&events, false) => None,
        () = events.closed() => None,
    };
    shared.stop(error);
    let stored = journal.flush(&shared, true).await;
    // The next client may have the storage, also if the owner takes its time.
    drop(journal);
    shared.tell(&events, true).await;
    stored
}

/// Connects again and again, until there is no use.
async fn keep_connected(options: &ClientOptions, shared: &Shared) -> ConnectionError {
    let mut failures = 0;
    loop {
        shared.connecting();
        let mut was_live = false;
        let ended = connection(options, shared, &mut was_live).await;
        if was_live {
            failures = 0;
        }
        let (reason, at_most) = match ended {
            Ended::Again { reason, at_most } => (reason, at_most),
            Ended::OtherClientId { reason } => {
                shared.abandon(format!("{:032x}", rand::random::<u128>()));
                (reason, None)
            }
            Ended::Final(error) => {
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

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

fn again(reason: impl ToString) -> Ended {
    Ended::Again { reason: reason.to_string(), at_most: None }
}

async fn connection(options: &ClientOptions, shared: &Shared, was_live: &mut bool) -> Ended {
    let socket = match timeout(CONNECT, open(options, shared)).await {
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
                // Why it takes no more may be on its way.
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
            Ok(Some(Ok(_))) => {
                heard = Instant::now();
                continue;
            }
        };
        let message = match ServerMessage::parse(&text) {
            Ok(message) => message,
            Err(error) => break again(format!("the server sent what cannot be read: {error}")),
        };
        if let ServerMessage::Error { code, message, retry_after_ms } = message {
            return ending(code, message, retry_after_ms);
        }
        match shared.apply(&message) {
            Ok(()) => {}
            Err(error @ ApplyError::OtherUser { .. }) => {
                break Ended::OtherClientId { reason: error.to_string() };
            }
            Err(error) => break again(error),
        }
        *was_live |= matches!(message, ServerMessage::Ready { .. });
        shared.room().await;
        // Also if the owner took its time.
        heard = Instant::now();
    };
    broken.unwrap_or(ended)
}

/// Hands on what may be sent.
fn send(shared: &Shared, to_write: &mpsc::Sender<Utf8Bytes>) {
    // There are never more under way than there are places.
    while let Ok(place) = to_write.try_reserve() {
        let Some(outgoing) = shared.lock().optimistic.next_to_send(WINDOW as u64) else { return };
        match serde_json::to_string(&outgoing) {
            Ok(text) => place.send(text.into()),
            Err(error) => tracing::error!(%error, "a mutation cannot be written as JSON"),
        }
    }
}

/// Writes what it is given, until that fails.
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

async fn open(options: &ClientOptions, shared: &Shared) -> Result<Socket, Ended> {
    let bad_url = || Ended::Final(ConnectionError::Url(options.url.clone()));
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
        "token": (options.token)(),
    });
    if let Some(version) = options.app_version {
        connect["appVersion"] = version.into();
    }
    {
        let state = &shared.lock().optimistic;
        connect["clientId"] = state.client_id().into();
        if let Some(cursor) = state.cursor() {
            connect["cursor"] = cursor.into();
        }
        if let Some(settled) = state.settled() {
            connect["settled"] = settled.into();
        }
    }
    socket.send(Message::text(connect.to_string())).await.map_err(again)?;
    Ok(socket)
}
