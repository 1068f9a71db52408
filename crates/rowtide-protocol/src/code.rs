//! The codes with which the server rejects a mutation or ends a connection.

use serde::{Deserialize, Serialize};

/// Why the server closes a connection: the `code` of an `error` message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The client broke the protocol.
    BadRequest,
    /// The token is missing, wrong or expired.
    Unauthorized,
    /// The `clientId` belongs to another user.
    Forbidden,
    /// The client did not say `connect` in time, or fell silent.
    Timeout,
    /// A newer connection of the same `clientId` has taken over.
    Superseded,
    /// The client did not read fast enough.
    SlowConsumer,
    /// The application asks for a newer client.
    ClientTooOld,
    /// Too many connects or messages in a short time.
    RateLimitExceeded,
    /// The server is stopping or starting anew.
    Restarting,
    /// The server cannot serve at the moment.
    Unavailable,
}

impl ErrorCode {
    /// The WebSocket close code that goes with this code.
    pub const fn close_code(self) -> u16 {
        match self {
            ErrorCode::BadRequest => 4400,
            ErrorCode::Unauthorized => 4401,
            ErrorCode::Forbidden => 4403,
            ErrorCode::Timeout => 4408,
            ErrorCode::SlowConsumer => 4409,
            ErrorCode::Superseded => 4410,
            ErrorCode::ClientTooOld => 4426,
            ErrorCode::RateLimitExceeded => 4429,
            ErrorCode::Restarting => 1012,
            ErrorCode::Unavailable => 4503,
        }
    }

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "bad_request",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::Timeout => "timeout",
            ErrorCode::Superseded => "superseded",
            ErrorCode::SlowConsumer => "slow_consumer",
            ErrorCode::ClientTooOld => "client_too_old",
            ErrorCode::RateLimitExceeded => "rate_limit_exceeded",
            ErrorCode::Restarting => "restarting",
            ErrorCode::Unavailable => "unavailable",
        }
    }
}

/// Why a subscription is refused: the `code` of a `subscription_error` message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubscriptionCode {
    /// There is no such query, or its parameters are others.
    BadRequest,
    /// The session has as many as it may have.
    TooMany,
    /// The query does not fit the database now.
    Unavailable,
}

impl SubscriptionCode {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            SubscriptionCode::BadRequest => "bad_request",
            SubscriptionCode::TooMany => "too_many",
            SubscriptionCode::Unavailable => "unavailable",
        }
    }
}

/// Why a mutation was rejected: the `code` of a `reject` message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RejectCode {
    /// Unknown table or column, missing key, wrong type.
    BadRequest,
    /// A rule of the definition says no.
    Forbidden,
    /// The row is not there, or not visible.
    NotFound,
    /// A unique, foreign key, check or not-null constraint was violated.
    Constraint,
    /// The mutation is larger than the server takes.
    TooLarge,
    /// Too many mutations in a short time.
    RateLimitExceeded,
    /// The server failed.
    UnknownError,
    /// A code that the definition gives, such as `max_files_reached`.
    Application(String),
}

impl RejectCode {
    /// All but those of applications.
    pub const OURS: [RejectCode; 7] = [
        RejectCode::BadRequest,
        RejectCode::Forbidden,
        RejectCode::NotFound,
        RejectCode::Constraint,
        RejectCode::TooLarge,
        RejectCode::RateLimitExceeded,
        RejectCode::UnknownError,
    ];

    /// The word on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            RejectCode::BadRequest => "bad_request",
            RejectCode::Forbidden => "forbidden",
            RejectCode::NotFound => "not_found",
            RejectCode::Constraint => "constraint",
            RejectCode::TooLarge => "too_large",
            RejectCode::RateLimitExceeded => "rate_limit_exceeded",
            RejectCode::UnknownError => "unknown_error",
            RejectCode::Application(code) => code,
        }
    }
}
