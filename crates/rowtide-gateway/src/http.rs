//! The way in: the upgrade of `/sync`, and of any other path where a conversation is to be held. The handshake is
//! done here (RFC 6455, 4.2) because the socket is read through a [`Gate`](crate::gate) until its client is let in.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rowtide_protocol::SUBPROTOCOL;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::admission::ClientOrigin;
use crate::connection::{self, Saying};
use crate::conversation::Conversation;
use crate::gate::{Gate, Socket};
use crate::gateway::Gateway;
use crate::held_socket::{HeldSocket, goodbye};
use crate::http_server::Seat;
use crate::limits::{FIRST_MESSAGE_BYTES, READ_BUFFER_BYTES, WRITE_BUFFER_BYTES};
use crate::session::Session;

/// A request to become a WebSocket.
pub struct Upgrade {
    on_upgrade: OnUpgrade,
    accept: String,
    /// The protocols that the client speaks.
    offers: Vec<String>,
    protocol: Option<&'static str>,
    /// The connection's place, if the server counts them.
    seat: Option<Arc<Seat>>,
}

impl<S: Send + Sync> FromRequestParts<S> for ClientOrigin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<ClientOrigin, Infallible> {
        let seat = parts.extensions.get::<Arc<Seat>>();
        Ok(ClientOrigin(seat.map(|seat| seat.origin)))
    }
}

/// A request is none to become a WebSocket.
#[derive(Debug)]
pub struct NoUpgrade(StatusCode, &'static str);

impl IntoResponse for NoUpgrade {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = NoUpgrade;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Upgrade, NoUpgrade> {
        let bad = |why| NoUpgrade(StatusCode::BAD_REQUEST, why);
        if parts.method != Method::GET {
            return Err(NoUpgrade(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with GET"));
        }
        let says = |name: HeaderName, what: &str| {
            words(&parts.headers, &name).any(|word| word.eq_ignore_ascii_case(what))
        };
        if !says(CONNECTION, "upgrade") || !says(UPGRADE, "websocket") {
            return Err(bad("clients connect with a WebSocket here"));
        }
        if !says(SEC_WEBSOCKET_VERSION, "13") {
            return Err(bad("`Sec-WebSocket-Version` must be 13"));
        }
        let key = parts.headers.get(SEC_WEBSOCKET_KEY);
        let key = key.ok_or(bad("`Sec-WebSocket-Key` is missing"))?;
        let accept = derive_accept_key(key.as_bytes());
        let offers = words(&parts.headers, &SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect();
        let seat = parts.extensions.get::<Arc<Seat>>().cloned();
        let on_upgrade = parts.extensions.remove::<OnUpgrade>();
        let on_upgrade = on_upgrade.ok_or(bad("this connection cannot become a WebSocket"))?;
        Ok(Upgrade { on_upgrade, accept, offers, protocol: None, seat })
    }
}

/// The words of a header, which are separated by commas.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

impl Upgrade {
    /// Says that the conversation is in this protocol, if the client offers it.
    #[must_use]
    pub fn protocol(mut self, protocol: &'static str) -> Upgrade {
        self.protocol = self.offers.iter().any(|offer| offer == protocol).then_some(protocol);
        self
    }

    /// Answers, and closes the socket with this code and reason.
    pub fn turn_away(self, code: u16, reason: &'static str) -> Response {
        self.answer(FIRST_MESSAGE_BYTES, move |socket| goodbye(socket, code, reason))
    }

    /// Answers, and does with the socket what `talk` does. Messages have at most `limit` bytes.
    fn answer<F>(self, limit: usize, talk: impl FnOnce(Socket) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send,
    {
        let Upgrade { on_upgrade, accept, protocol, seat, .. } = self;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(usize::MAX)
            .max_message_size(Some(limit))
            .max_frame_size(Some(limit));
        tokio::spawn(async move {
            // The connection counts for as long as the socket is open.
            let _seat = seat;
            // A client that is gone already is no news.
            let Ok(upgraded) = on_upgrade.await else { return };
            let gate = Gate::new(TokioIo::new(upgraded), FIRST_MESSAGE_BYTES);
            talk(WebSocketStream::from_raw_socket(gate, Role::Server, Some(config)).await).await;
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::try_from(accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        response
    }
}

impl Gateway {
    /// Takes a request without a token from the rate of where it comes from.
    ///
    /// # Errors
    /// After what time there is something to take again, if there is nothing now.
    pub fn take_of_origin(&self, from: ClientOrigin) -> Result<(), Duration> {
        self.shared.take_of_origin(from)
    }

    /// The route `/sync`.
    pub fn router(&self) -> Router {
        Router::new().route("/sync", get(sync)).with_state(self.clone())
    }

    /// Answers an upgrade, and holds a conversation over its socket. `begin` makes it when the socket is there.
    pub fn converse<C>(
        &self,
        upgrade: Upgrade,
        begin: impl FnOnce(&Gateway) -> C + Send + 'static,
    ) -> Response
    where
        C: Conversation,
        C::Said: Saying,
    {
        let gateway = self.clone();
        let tracker = self.shared.sessions.clone();
        let from = ClientOrigin(upgrade.seat.as_ref().map(|seat| seat.origin));
        upgrade.answer(self.shared.limits.message_bytes, async move |socket| {
            let conversation = begin(&gateway);
            let shared = Arc::clone(&gateway.shared);
            tracker.track_future(connection::serve(socket, shared, from, conversation)).await;
        })
    }

    /// Answers an upgrade, and hands its socket to `talk`. Messages have at most `limit` bytes. The server's stop waits for
    /// it, so it ends soon after [`Gateway::stopping`].
    pub fn hold<F>(
        &self,
        upgrade: Upgrade,
        limit: usize,
        talk: impl FnOnce(HeldSocket) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send,
    {
        let (tracker, clock) = (self.shared.sessions.clone(), self.shared.clock);
        upgrade.answer(limit, async move |socket| {
            tracker.track_future(talk(HeldSocket::new(socket, clock))).await;
        })
    }
}

/// The token of an `Authorization` header; an empty one where the header has none behind its scheme: whoever means to
/// be somebody must not be taken for nobody.
pub fn bearer(headers: &HeaderMap) -> Option<String> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split_once(' ').unwrap_or((value, "")))
        // Schemes have no case (RFC 9110, 11.1).
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned())
}

async fn sync(State(gateway): State<Gateway>, headers: HeaderMap, upgrade: Upgrade) -> Response {
    let token = bearer(&headers);
    gateway.converse(upgrade.protocol(SUBPROTOCOL), move |gateway| {
        let now = gateway.shared.clock.now();
        Session::new(gateway.shared.limits, token, gateway.plan(), &now)
    })
}
