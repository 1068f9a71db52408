//! The adapter for clients of the older protocol, `GET /app/{userId}/connect`, where the definition
//! asks for it. It is another way to speak about the same views, rules and transactions: a conversation of the
//! gateway that takes the steps of its view and says them in the older words, and hands the older mutations to the
//! same scheduler, in one queue for each user and under numbers that the database gives.

mod frames;
mod session;
mod translate;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rowtide_gateway::auth::TokenError;
use rowtide_gateway::{Gateway, Upgrade, bearer};
use serde::Deserialize;

pub use crate::session::OlderSession;

/// The version of the older protocol.
const VERSION: i64 = 1;
/// Said to clients that are older still; they take it as final.
const TOO_OLD: (u16, &str) = (4099, "CLIENT_TOO_OLD");

/// The route of older clients.
pub fn router(gateway: &Gateway) -> Router {
    Router::new().route("/app/{user_id}/connect", get(connect)).with_state(gateway.clone())
}

/// What stands in the query.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asks {
    session_id: Option<String>,
    protocol_version: Option<String>,
    access_token: Option<String>,
}

/// Answers a connect, before the upgrade wherever it can.
async fn connect(
    State(gateway): State<Gateway>,
    Path(user_id): Path<String>,
    Query(asks): Query<Asks>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Response {
    let reject = |status: StatusCode, why: &str| (status, format!("{why}\n")).into_response();
    if asks.session_id.is_none_or(|id| id.is_empty()) {
        return reject(StatusCode::BAD_REQUEST, "`sessionId` is missing");
    }
    let version = asks.protocol_version.as_deref().unwrap_or("1").parse::<i64>();
    let Ok(version) = version else {
        return reject(StatusCode::BAD_REQUEST, "`protocolVersion` is not a number");
    };
    if version != VERSION {
        let (code, reason) = TOO_OLD;
        return upgrade.turn_away(code, reason);
    }
    let Some(token) = bearer(&headers).or(asks.access_token) else {
        return reject(StatusCode::UNAUTHORIZED, "a token is missing");
    };
    let identity = match gateway.auth().check(&token).await {
        Ok(identity) => identity,
        Err(error @ TokenError::Unauthorized(_)) => {
            return reject(StatusCode::UNAUTHORIZED, &error.to_string());
        }
        Err(error @ TokenError::NoKeysYet) => {
            return reject(StatusCode::SERVICE_UNAVAILABLE, &error.to_string());
        }
    };
    if identity.author.user_id != user_id {
        return reject(StatusCode::FORBIDDEN, "the token is another user's");
    }
    if !gateway.may_go_on(&user_id, 1) {
        return reject(StatusCode::TOO_MANY_REQUESTS, "too many requests");
    }
    gateway.converse(upgrade, move |gateway| OlderSession::new(*gateway.limits(), identity))
}
