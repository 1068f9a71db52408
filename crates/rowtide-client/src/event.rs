//! What a client tells its owner: events, in the order in which things happened, and a status, which says how
//! things are now. They are plain values and know nothing of the connection or the storage that they tell
//! of.

use thiserror::Error;

use crate::optimistic::Acked;
use crate::replica::RowChange;
use crate::subscriptions::RefusedSubscription;

/// The state of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The client is connecting, or waits for the first rows.
    Connecting,
    /// The replica follows the server.
    Live,
    /// There is no connection. The client tries again after a wait.
    Offline {
        /// Why.
        reason: String,
    },
}

/// The status of a client, to show to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientStatus {
    /// The connection.
    pub connection: Status,
    /// How many mutations are not acknowledged yet.
    pub pending: usize,
    /// Why the last connection ended, until the next one is live.
    pub last_error: Option<String>,
    /// Why mutations cannot be stored at the moment. The client sends only stored mutations.
    pub storage_error: Option<String>,
    /// Whether the client has stopped for good.
    pub stopped: bool,
}

/// What a client reports to its owner.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The state of the connection has changed.
    Status(Status),
    /// Shown rows have changed, by one or more commits or mutations. An application shows these changes all
    /// at the same time. The event comes after [`Client::shown`](crate::Client::shown) has them.
    Changes(Vec<RowChange>),
    /// The server has acknowledged a mutation. The event comes after the changes of the mutation.
    Acked(Acked),
    /// The rows of a subscription are there. The event comes after their changes. It comes again where they were gone in between,
    /// as after another user has signed in.
    Subscribed(u64),
    /// The server has refused a subscription; it is not there any more.
    SubscriptionRefused(RefusedSubscription),
    /// Mutations cannot be stored. The client tries again, and accepts no new ones until it succeeds.
    NotStored {
        /// Why.
        reason: String,
    },
    /// The client has stopped for good.
    Stopped(ConnectionError),
}

/// Why a client stopped for good.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectionError {
    /// The URL cannot be used.
    #[error("`{0}` is not a URL of a server (expected ws://host:port/sync)")]
    Url(String),
    /// The server ended the connection for a reason that another try does not change.
    #[error("the server rejected the connection: {message} ({code})")]
    Rejected {
        /// See the protocol's error codes.
        code: String,
        /// The server's words.
        message: String,
    },
}
