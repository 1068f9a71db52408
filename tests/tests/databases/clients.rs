//! The clients that look on. They speak the protocol themselves, so that they come back at once and nothing of a
//! client library's patience is in between.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rowtide_client::Replica;
use rowtide_protocol::ServerMessage;
use rowtide_tests::App;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// The pause before a client comes back: nobody is measured.
const PAUSE: Duration = Duration::from_millis(20);

/// A client that streams for as long as it lives.
pub(crate) struct Streaming {
    pub(crate) replica: Arc<Mutex<Replica>>,
    task: JoinHandle<()>,
}

impl Streaming {
    pub(crate) fn start(url: String) -> Streaming {
        let replica = Arc::new(Mutex::new(Replica::new()));
        let shared = Arc::clone(&replica);
        let task = tokio::spawn(async move {
            loop {
                let take = |message: &ServerMessage| {
                    let mut replica = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    replica.apply(message).expect("the server keeps to the protocol");
                };
                let cursor = {
                    let replica = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    replica.cursor().map(str::to_owned)
                };
                talk(&url, cursor, take, false).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Streaming { replica, task }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Comes, and goes once it is up to date. Whether it was.
pub(crate) async fn visit(url: &str, replica: &mut Replica) -> bool {
    let cursor = replica.cursor().map(str::to_owned);
    let take = |message: &ServerMessage| {
        replica.apply(message).expect("the server keeps to the protocol");
    };
    talk(url, cursor, take, true).await
}

/// One connection. Ends with it, or with `ready` if no more is wanted; whether that has come.
async fn talk(
    url: &str,
    cursor: Option<String>,
    mut take: impl FnMut(&ServerMessage),
    until_ready: bool,
) -> bool {
    let mut request = url.into_client_request().expect("the URL is one");
    let protocol = "rowtide.v1".parse().expect("a header");
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    let Ok((mut socket, _)) = connect_async(request).await else { return false };
    let client = format!("looks-on-{:016x}", rand::random::<u64>());
    let connect = json!({
        "type": "connect", "protocol": 1, "clientId": client, "token": App::token("ann"), "cursor": cursor,
    });
    if socket.send(Message::text(connect.to_string())).await.is_err() {
        return false;
    }
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let message = ServerMessage::parse(&text).expect("the server keeps to the protocol");
        take(&message);
        if until_ready && matches!(message, ServerMessage::Ready { .. }) {
            drop(socket.close(None).await);
            return true;
        }
    }
    false
}
