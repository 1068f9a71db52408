//! The adapter for clients of the older protocol, `GET /app/{userId}/connect`, where the definition
//! asks for it. It is another way to speak about the same views, rules and transactions: a conversation of the
//! gateway that takes the steps of its view and says them in the older words, and hands the older mutations to the
//! same scheduler, in one queue for each user and under numbers that the database gives.

mod frames;
mod heard;
mod missed;
mod publications;
mod session;
mod translate;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rowtide_gateway::auth::TokenError;
use rowtide_gateway::{Gateway, Upgrade, bearer};
use rowtide_protocol::ErrorCode;
use serde::Deserialize;

pub use crate::session::OlderSession;

/// The version of the older protocol.
const VERSION: i64 = 1;
/// Said to clients that are older still; they take it as final.
const TOO_OLD: (u16, &str) = (4099, "CLIENT_TOO_OLD");
/// The longest `sessionId`, in bytes: it is kept with every mutation.
const MAX_SESSION_ID_BYTES: usize = 200;

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
    let count = |code: ErrorCode| gateway.count_rejected_connect(code);
    let reject = |status: StatusCode, code: ErrorCode, why: &str| {
        count(code);
        (status, format!("{why}\n")).into_response()
    };
    let bad = |why: &str| reject(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, why);
    let Some(session) = asks.session_id.filter(|id| !id.is_empty()) else {
        return bad("`sessionId` is missing");
    };
    if session.len() > MAX_SESSION_ID_BYTES || session.contains('\0') {
        return bad("`sessionId` must have 1 to 200 bytes, and no NUL");
    }
    let version = asks.protocol_version.as_deref().unwrap_or("1").parse::<i64>();
    let Ok(version) = version else {
        return bad("`protocolVersion` is not a number");
    };
    if version != VERSION {
        count(ErrorCode::ClientTooOld);
        let (code, reason) = TOO_OLD;
        return upgrade.turn_away(code, reason);
    }
    let Some(token) = bearer(&headers).or(asks.access_token) else {
        return reject(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, "a token is missing");
    };
    let identity = match gateway.auth().check(&token).await {
        Ok(identity) => identity,
        Err(error @ TokenError::Unauthorized(_)) => {
            let why = error.to_string();
            return reject(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, &why);
        }
        Err(error @ TokenError::NoKeysYet) => {
            let why = error.to_string();
            return reject(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, &why);
        }
    };
    if identity.author.user_id != user_id {
        let why = "the token is another user's";
        return reject(StatusCode::FORBIDDEN, ErrorCode::Forbidden, why);
    }
    if !gateway.may_go_on(&user_id, 1) {
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimitExceeded);
        return reject(status, code, "too many requests");
    }
    gateway.converse(upgrade, move |gateway| {
        OlderSession::new(*gateway.limits(), identity, &session, gateway.plan())
    })
}
