//! A server whose messages a test writes, and a directory for its files.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rowtide_client::{ClientOptions, Op, row_of};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

const IN_TIME: Duration = Duration::from_secs(60);

pub fn note(id: u64, text: &str) -> Vec<Op> {
    vec![Op::insert("note", row_of(&json!({"id": id, "text": text})).unwrap())]
}

pub fn connected(user: &str, last: u64, rejected: Value) -> Value {
    json!({"type": "connected", "protocol": 1, "userId": user, "mode": "snapshot",
        "lastMutation": last, "refused": rejected, "tables": {"note": {"key": ["id"]}}})
}

pub fn ready(cursor: &str) -> Value {
    json!({"type": "ready", "cursor": cursor})
}

/// A server that accepts connections.
pub struct PlayedServer {
    listener: TcpListener,
}

impl PlayedServer {
    pub async fn start() -> PlayedServer {
        PlayedServer { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub fn options(&self) -> ClientOptions {
        ClientOptions {
            url: format!("ws://{}/sync", self.listener.local_addr().unwrap()),
            token: Arc::new(|| Some("a token".to_owned())),
            client_id: "client-of-the-test".to_owned(),
            app_version: None,
        }
    }

    /// The next connection, and its `connect`.
    pub async fn session(&mut self) -> (PlayedSession, Value) {
        let (stream, _) = timeout(IN_TIME, self.listener.accept()).await.unwrap().unwrap();
        #[expect(clippy::result_large_err, reason = "the callback's type is given")]
        let protocol = |request: &Request, mut response: Response| {
            let offered = request.headers()["Sec-WebSocket-Protocol"].clone();
            response.headers_mut().insert("Sec-WebSocket-Protocol", offered);
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, protocol).await.unwrap();
        let mut session = PlayedSession(socket);
        let connect = session.next().await;
        assert_eq!(connect["type"], "connect");
        (session, connect)
    }
}

/// The server's side of a connection. Dropping it cuts the connection.
pub struct PlayedSession(WebSocketStream<TcpStream>);

impl PlayedSession {
    pub async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    pub async fn send(&mut self, message: Message) {
        self.0.send(message).await.unwrap();
    }

    pub async fn next(&mut self) -> Value {
        let message = timeout(IN_TIME, self.0.next()).await.unwrap().unwrap().unwrap();
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }

    /// The number of the next mutation.
    pub async fn mutation(&mut self) -> u64 {
        let message = self.next().await;
        assert_eq!(message["type"], "mutate");
        message["id"].as_u64().unwrap()
    }

    pub async fn until_closed(&mut self) {
        let closed = async { while let Some(Ok(_)) = self.0.next().await {} };
        timeout(IN_TIME, closed).await.unwrap();
    }
}

pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rowtide-client-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Dir(path)
    }

    pub fn queue(&self) -> PathBuf {
        self.0.join("queue.jsonl")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
