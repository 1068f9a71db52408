//! The way in: the upgrade of `/sync`, and of any other path where a conversation is to be held.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use axum::routing::get;
use rowtide_protocol::SUBPROTOCOL;

use crate::connection::{self, Saying};
use crate::conversation::Conversation;
use crate::gateway::Gateway;
use crate::limits::READ_BUFFER_BYTES;
use crate::session::Session;

impl Gateway {
    /// The route `/sync`.
    pub fn router(&self) -> Router {
        Router::new().route("/sync", get(sync)).with_state(self.clone())
    }

    /// Answers an upgrade, and holds a conversation over its socket. `begin` makes it when the socket is there.
    pub fn converse<C>(
        &self,
        upgrade: WebSocketUpgrade,
        begin: impl FnOnce(&Gateway) -> C + Send + 'static,
    ) -> Response
    where
        C: Conversation,
        C::Said: Saying,
    {
        let gateway = self.clone();
        let tracker = self.shared.sessions.clone();
        let talk = async move |socket: WebSocket| {
            let conversation = begin(&gateway);
            connection::serve(socket, Arc::clone(&gateway.shared), conversation).await;
        };
        let limit = self.shared.limits.message_bytes;
        upgrade
            .read_buffer_size(READ_BUFFER_BYTES)
            // Frames are written out with every flush; a buffer would only be kept for nothing.
            .write_buffer_size(0)
            .max_write_buffer_size(usize::MAX)
            .max_message_size(limit)
            .max_frame_size(limit)
            .on_upgrade(move |socket| tracker.track_future(talk(socket)))
    }
}

/// The token of an `Authorization` header.
pub fn bearer(headers: &HeaderMap) -> Option<String> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        // Schemes have no case (RFC 9110, 11.1).
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned())
}

async fn sync(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let token = bearer(&headers);
    gateway.converse(upgrade.protocols([SUBPROTOCOL]), move |gateway| {
        let now = gateway.shared.clock.now();
        Session::new(gateway.shared.limits, token, gateway.plan(), &now)
    })
}
