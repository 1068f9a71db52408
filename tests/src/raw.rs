//! A client that says what it is told to, right or wrong, and hears what the server answers; and a
//! bystander, who must notice nothing of it. Every wait has a deadline, so that an answer that does
//! not come fails the test that waits for it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rowtide_protocol::inflate;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::{App, PATIENCE};

/// How the server ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// `code` of its `error`; empty if there was none.
    pub code: String,
    /// The close code; 0 if the connection ended without one.
    pub close: u16,
    /// `message` of its `error`.
    pub message: String,
}

impl Ending {
    /// Fails unless it is the one that is documented for `code`.
    ///
    /// # Panics
    /// With `name` and what came instead.
    #[track_caller]
    pub fn assert(&self, name: &str, code: &str) {
        let close = match code {
            "bad_request" => 4400,
            "unauthorized" => 4401,
            "forbidden" => 4403,
            "client_too_old" => 4426,
            "rate_limit_exceeded" => 4429,
            "slow_consumer" => 4409,
            "superseded" => 4410,
            "restarting" => 1012,
            "unavailable" => 4503,
            other => panic!("{other} is not a code of these tests"),
        };
        assert_eq!((self.code.as_str(), self.close), (code, close), "{name}: {self:?}");
    }
}

/// A WebSocket to the server, and nothing else.
pub struct Raw {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// How many of the frames that it has heard were deflated.
    pub deflated: usize,
}

async fn in_time<T>(what: impl Display, wait: impl Future<Output = T>) -> T {
    let waited = timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

impl Raw {
    /// Opens the socket and says nothing.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn open(app: &App) -> Raw {
        Raw::open_with(app, None).await
    }

    /// As [`Raw::open`], with this `Authorization`.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn open_with(app: &App, authorization: Option<&str>) -> Raw {
        Raw::open_url(&app.url(), authorization).await
    }

    /// As [`Raw::open_with`], at this URL.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn open_url(url: &str, authorization: Option<&str>) -> Raw {
        let mut request = url.into_client_request().expect("the URL is one");
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", "rowtide.v1".parse().expect("a header"));
        if let Some(value) = authorization {
            headers.insert("authorization", value.parse().expect("a header"));
        }
        let opened = in_time("the upgrade", connect_async(request)).await;
        let (socket, response) = opened.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(response.headers()["sec-websocket-protocol"], "rowtide.v1");
        Raw { socket, deflated: 0 }
    }

    /// Opens a socket at this URL; `None` if nobody takes it.
    ///
    /// # Panics
    /// When there is neither an answer nor an end.
    pub async fn try_open_url(url: &str) -> Option<Raw> {
        let opened = in_time("an upgrade or its refusal", connect_async(url)).await;
        opened.ok().map(|(socket, _)| Raw { socket, deflated: 0 })
    }

    /// A session of `user`, up to its `ready`.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn live(app: &App, user: &str) -> Raw {
        Raw::live_with(app, &App::token(user)).await
    }

    /// As [`Raw::live`], with this token.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn live_with(app: &App, token: &str) -> Raw {
        let mut raw = Raw::open(app).await;
        raw.say(&Raw::connect(token)).await;
        raw.until("ready").await;
        raw
    }

    /// A good `connect` of a new client.
    pub fn connect(token: &str) -> Value {
        let client_id = format!("raw-{:016x}", rand::random::<u64>());
        json!({ "type": "connect", "protocol": 1, "clientId": client_id, "token": token })
    }

    /// As [`Raw::connect`], of a client that comes back with a cursor, if it has one.
    pub fn connect_from(token: &str, cursor: Option<&str>) -> Value {
        let mut connect = Raw::connect(token);
        if let Some(cursor) = cursor {
            connect["cursor"] = cursor.into();
        }
        connect
    }

    /// Says a message.
    pub async fn say(&mut self, message: &Value) {
        self.send(Message::text(message.to_string())).await;
    }

    /// Sends what need not be a message. The server may close before it has all: that shows in what
    /// it answers.
    pub async fn send(&mut self, message: Message) {
        drop(in_time("sending", self.socket.send(message)).await);
    }

    /// Writes bytes below the frames.
    pub async fn write(&mut self, bytes: &[u8]) {
        drop(in_time("writing", self.socket.get_mut().write_all(bytes)).await);
    }

    /// The next message; `Err` with how it ended.
    ///
    /// # Panics
    /// When neither comes in time.
    pub async fn hear(&mut self) -> Result<Value, Ending> {
        let text = self.hear_text().await?;
        Ok(serde_json::from_str(&text).expect("it is JSON"))
    }

    /// As [`Raw::hear`], the text itself: it may hold numbers that are no doubles.
    ///
    /// # Panics
    /// When neither comes in time.
    pub async fn hear_text(&mut self) -> Result<String, Ending> {
        let mut ending = Ending { code: String::new(), close: 0, message: String::new() };
        loop {
            match in_time("an answer", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => {
                    if !text.starts_with(r#"{"type":"error""#) {
                        return Ok(text.to_string());
                    }
                    let message: Value = serde_json::from_str(&text).expect("it is JSON");
                    message["code"].as_str().expect("a code").clone_into(&mut ending.code);
                    message["message"].as_str().expect("a text").clone_into(&mut ending.message);
                }
                Some(Ok(Message::Binary(frame))) => {
                    self.deflated += 1;
                    return Ok(inflate(&frame, 64 << 20).expect("a deflated text"));
                }
                Some(Ok(Message::Close(frame))) => {
                    ending.close = frame.map_or(0, |frame| frame.code.into());
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(ending),
            }
        }
    }

    /// Passes over messages until one of this type.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            match self.hear().await {
                Ok(message) if message["type"] == kind => return message,
                Ok(_) => {}
                Err(ending) => panic!("{ending:?} instead of `{kind}`"),
            }
        }
    }

    /// The next message that says something, or `Err` with how it ended: a `tx` that neither changes nor acknowledges
    /// anything moves the cursor of an idle client on, and comes at any time.
    ///
    /// # Panics
    /// When neither comes in time.
    pub async fn hear_news(&mut self) -> Result<Value, Ending> {
        loop {
            let message = self.hear().await?;
            let is_empty = message["changes"] == json!([]) && message["ack"].is_null();
            if message["type"] != "tx" || !is_empty {
                return Ok(message);
            }
        }
    }

    /// Passes over messages until a `tx` that says something.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn tx(&mut self) -> Value {
        loop {
            match self.hear_news().await {
                Ok(message) if message["type"] == "tx" => return message,
                Ok(_) => {}
                Err(ending) => panic!("{ending:?} instead of a `tx`"),
            }
        }
    }

    /// Passes over messages until the server ends the connection.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ending(&mut self) -> Ending {
        loop {
            if let Err(ending) = self.hear().await {
                return ending;
            }
        }
    }

    /// Fails unless the session answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn assert_alive(&mut self) {
        self.say(&json!({ "type": "ping" })).await;
        self.until("pong").await;
    }
}

impl Raw {
    /// Fails unless a WebSocket ping is answered, which is possible within a message in parts.
    ///
    /// # Panics
    /// When it is not.
    pub async fn assert_ping_is_answered(&mut self) {
        self.send(Message::Ping(b"there?".to_vec().into())).await;
        loop {
            match in_time("a WebSocket pong", self.socket.next()).await {
                Some(Ok(Message::Pong(_))) => return,
                Some(Ok(Message::Text(text))) if !text.contains(r#""type":"error""#) => {}
                other => panic!("{other:?} instead of a pong"),
            }
        }
    }
}

/// Someone with a session on the server, to whom nothing of what others do wrong may matter.
pub struct Bystander {
    raw: Raw,
    sql: tokio_postgres::Client,
    count: u32,
}

impl Bystander {
    /// The tables that the bystander needs, and the definition of their rules.
    pub const TABLES: &str = "
        CREATE TABLE note (id int PRIMARY KEY, owner text NOT NULL, count int NOT NULL DEFAULT 0);
        INSERT INTO note VALUES (0, 'bystander')";
    /// See [`Bystander::TABLES`].
    pub const DEFINITION: &str = "[tables.note]\nvisible = 'owner = auth.user_id'\n";

    /// Comes to stay.
    ///
    /// # Panics
    /// When the server does not let them in.
    pub async fn of(app: &App) -> Bystander {
        Bystander::with_token(app, &App::token("bystander")).await
    }

    /// Comes to stay, with this token of the user `bystander`.
    ///
    /// # Panics
    /// When the server does not let them in.
    pub async fn with_token(app: &App, token: &str) -> Bystander {
        let raw = Raw::live_with(app, token).await;
        Bystander { raw, sql: app.database.connect().await, count: 0 }
    }

    /// Fails unless a change still reaches the session, and the server says that it is ready.
    ///
    /// # Panics
    /// With `name`, of what was done before.
    pub async fn assert_undisturbed(&mut self, app: &App, name: &str) {
        self.count += 1;
        let update = format!("UPDATE note SET count = {} WHERE id = 0", self.count);
        self.sql.batch_execute(&update).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let row = json!({ "id": 0, "owner": "bystander", "count": self.count });
        loop {
            match self.raw.hear().await {
                Ok(message) if message["changes"][0]["row"] == row => break,
                Ok(_) => {}
                Err(ending) => panic!("after {name} the bystander's session ended: {ending:?}"),
            }
        }
        let ready =
            http(app, b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert_eq!(ready.await, 200, "after {name}");
    }
}

/// A connection on which a request was sent, in so little of the time that the server gives it that it was read: who
/// is kept from sending it by a busy machine begins anew.
///
/// # Panics
/// When the server does not listen.
pub async fn asked(address: SocketAddr, request: &[u8], within: Duration) -> TcpStream {
    loop {
        let since = Instant::now();
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        // It may answer and close before it has read all.
        drop(stream.write_all(request).await);
        if since.elapsed() < within / 2 {
            return stream;
        }
    }
}

/// What the server answers to a `GET`: the body.
///
/// # Panics
/// When there is no answer.
pub async fn http_get(app: &App, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut stream = asked(app.address(), request.as_bytes(), app.time_for_a_request()).await;
    let mut answer = String::new();
    let read = in_time("an answer to HTTP", stream.read_to_string(&mut answer)).await;
    read.expect("the answer is text");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    body.to_owned()
}

/// Sends bytes to the server's port, and returns the status of its answer; 0 if there is none.
///
/// # Panics
/// When it neither answers nor closes.
pub async fn http(app: &App, request: &[u8]) -> u16 {
    let mut stream = asked(app.address(), request, app.time_for_a_request()).await;
    let mut answer = Vec::new();
    let read = async {
        // "HTTP/1.1 200"
        while answer.len() < 12
            && let Ok(1..) = stream.read_buf(&mut answer).await
        {}
    };
    in_time("an answer to HTTP", read).await;
    let status = answer.get(9..12).and_then(|status| std::str::from_utf8(status).ok());
    status.and_then(|status| status.parse().ok()).unwrap_or(0)
}
