//! A client of the older protocol, as those in the field behave.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::{self, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::App;
use crate::eventually::PATIENCE;

/// One connection of such a client.
pub struct Older {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Code and reason with which the server has closed, if that was heard while something else was waited for.
    goodbye: Option<(u16, String)>,
}

impl Older {
    /// Connects with this path and query; `Err` with the status of a refusal.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn open(app: &App, path_and_query: &str) -> Result<Older, http::StatusCode> {
        Older::open_at(&app.address().to_string(), path_and_query).await
    }

    /// As [`Older::open`], of a server at this address.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn open_at(address: &str, path_and_query: &str) -> Result<Older, http::StatusCode> {
        let url = format!("ws://{address}{path_and_query}");
        match timeout(PATIENCE, connect_async(url)).await.expect("an answer in time") {
            Ok((socket, _)) => Ok(Older { socket, goodbye: None }),
            Err(tungstenite::Error::Http(response)) => Err(response.status()),
            Err(error) => panic!("{error}"),
        }
    }

    /// A session of `user` and the rows that it begins with.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn live(app: &App, user: &str) -> (Older, Value) {
        Older::tab(app, user, "s").await
    }

    /// As [`Older::live`], of a tab of the user that has come before under this `sessionId`, or has not.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn tab(app: &App, user: &str, session: &str) -> (Older, Value) {
        let token = App::token(user);
        let query = format!("/app/{user}/connect?sessionId={session}&accessToken={token}");
        let mut older = Older::open(app, &query).await.expect("a session");
        let initial = older.hear().await;
        assert_eq!(initial["type"], "initial_data");
        (older, initial["initialData"].clone())
    }

    /// Sends a mutation.
    pub async fn mutate(&mut self, name: &str, updates: Value) {
        let message = json!({ "type": "mutate", "mutationId": name, "updates": updates });
        self.send(&message.to_string()).await;
    }

    /// Sends bytes.
    pub async fn send_binary(&mut self, bytes: Vec<u8>) {
        drop(self.socket.send(Message::Binary(bytes.into())).await);
    }

    /// Reads for as long as something lasts, as a client does that answers to pings.
    ///
    /// # Panics
    /// When the connection ends meanwhile.
    pub async fn read_during<T>(&mut self, something: impl Future<Output = T>) -> (T, Vec<Value>) {
        let mut heard = Vec::new();
        tokio::pin!(something);
        loop {
            tokio::select! {
                done = &mut something => return (done, heard),
                next = self.socket.next() => match next {
                    Some(Ok(Message::Text(text))) => {
                        heard.push(serde_json::from_str(&text).expect("it is JSON"));
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    other => panic!("{other:?} instead of a message"),
                },
            }
        }
    }

    /// Sends text.
    pub async fn send(&mut self, text: &str) {
        drop(self.socket.send(Message::text(text)).await);
    }

    /// Closes the connection.
    pub async fn hang_up(mut self) {
        drop(self.socket.close(None).await);
    }

    /// Fails unless a ping is answered, before anything else is said.
    ///
    /// # Panics
    /// When it is not.
    pub async fn assert_alive(&mut self) {
        drop(self.socket.send(Message::Ping(b"there?".to_vec().into())).await);
        match timeout(PATIENCE, self.socket.next()).await.expect("a pong in time") {
            Some(Ok(Message::Pong(_))) => {}
            other => panic!("{other:?} instead of a pong"),
        }
    }

    /// The next message.
    ///
    /// # Panics
    /// When the connection ends, or nothing comes in time.
    pub async fn hear(&mut self) -> Value {
        loop {
            let next = timeout(PATIENCE, self.socket.next()).await.expect("a message in time");
            match next {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).expect("it is JSON");
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?} instead of a message"),
            }
        }
    }

    /// Everything up to the `commit` or the `reject` of a mutation, that included.
    pub async fn until(&mut self, name: &str) -> Vec<Value> {
        let mut heard = Vec::new();
        loop {
            let message = self.hear().await;
            let done = message["mutationId"] == name
                || message["mutationIds"]
                    .as_array()
                    .is_some_and(|names| names.contains(&json!(name)));
            heard.push(message);
            if done {
                return heard;
            }
        }
    }

    /// Whether the `commit` or the `reject` of a mutation comes before the server closes.
    ///
    /// # Panics
    /// When neither comes in time.
    pub async fn hears_of_before_the_end(&mut self, name: &str) -> bool {
        loop {
            let next = timeout(PATIENCE, self.socket.next()).await.expect("a message in time");
            match next {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).expect("it is JSON");
                    let names = message["mutationIds"].as_array();
                    let is_of_it = message["mutationId"] == name
                        || names.is_some_and(|names| names.contains(&json!(name)));
                    if is_of_it {
                        return true;
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    self.goodbye = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                    return false;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?} instead of a message"),
            }
        }
    }

    /// Code and reason with which the server closes.
    ///
    /// # Panics
    /// When it does not.
    pub async fn closed(&mut self) -> (u16, String) {
        if let Some(goodbye) = self.goodbye.take() {
            return goodbye;
        }
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(_)) => {}
                other => panic!("{other:?} instead of a goodbye"),
            }
        }
    }
}
