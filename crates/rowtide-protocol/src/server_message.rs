//! What the server says, as a client reads it. The server itself never builds these: it splices
//! rows that are already JSON into frames ([`crate::tx_frame`] and its neighbours).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::MadeKey;

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ServerMessage {
    /// The answer to `connect`.
    Connected(Connected),
    /// Part of a new replica.
    Snapshot {
        /// The table of the rows.
        table: String,
        /// Whole rows.
        rows: Vec<Map<String, Value>>,
    },
    /// The client holds exactly the rows it may see as of `cursor`.
    Ready {
        /// Where the client stands now.
        cursor: String,
    },
    /// One step forward, to be applied as a whole.
    #[serde(rename_all = "camelCase")]
    Tx {
        /// Where the client stands after it.
        cursor: String,
        /// In order.
        changes: Vec<ChangedRow>,
        /// Every mutation up to this id is acknowledged, and its effects are in the rows.
        ack: Option<u64>,
        /// The keys that were made for inserts of the mutations that it acknowledges.
        #[serde(default)]
        keys: Vec<MadeKey>,
        /// When the commit happened, RFC 3339.
        commit_time: Option<String>,
        /// Subscriptions whose rows the client has as of this.
        #[serde(default)]
        subscribed: Vec<u64>,
        /// Subscriptions of which it has no row any more that only they select.
        #[serde(default)]
        unsubscribed: Vec<u64>,
    },
    /// A subscription is refused, and is not there.
    #[serde(rename = "subscription_error")]
    SubscriptionError {
        /// The subscription.
        id: u64,
        /// `bad_request`, `too_many` or `unavailable`; text, so that a newer server's code can be read.
        code: String,
        /// For the client's author.
        message: String,
    },
    /// A mutation was not applied.
    Reject(Rejected),
    /// The answer to `ping`.
    Pong,
    /// Comes before the server closes the connection.
    #[serde(rename_all = "camelCase")]
    Error {
        /// See [`crate::ErrorCode`]; text, so that a newer server's code can be read.
        code: String,
        /// For a person.
        message: String,
        /// With `restarting` and `unavailable`: the longest random wait before reconnecting, in ms.
        retry_after_ms: Option<u64>,
    },
    /// A type that this client does not know, to be ignored.
    #[serde(other)]
    Unknown,
}

/// The fields of `connected`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connected {
    /// The version that the server speaks.
    pub protocol: u64,
    /// The token's user; `None` of a client that has no token.
    pub user_id: Option<String>,
    /// What comes next.
    pub mode: Mode,
    /// Every mutation up to this id is acknowledged.
    pub last_mutation: u64,
    /// The rejected mutations that the client has not been told of.
    #[serde(default, rename = "refused")]
    pub rejected: Vec<Rejected>,
    /// The keys that were made for inserts of mutations that the client has not been told of.
    #[serde(default)]
    pub keys: Vec<MadeKey>,
    /// The tables whose rows are sent.
    #[serde(default)]
    pub tables: BTreeMap<String, TableKey>,
    /// What the server has beyond the first version of the protocol.
    #[serde(default)]
    pub features: Vec<String>,
}

/// What a client must know of a table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TableKey {
    /// The columns of the primary key.
    pub key: Vec<String>,
}

/// How the replica is brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// All rows are sent and replace what the client has.
    Snapshot,
    /// Only what changed since the cursor is sent.
    Resume,
}

impl Mode {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Snapshot => "snapshot",
            Mode::Resume => "resume",
        }
    }
}

/// One rejected mutation, and why it was rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The mutation.
    pub id: u64,
    /// See [`crate::RejectCode`].
    pub code: String,
    /// For the developer; never another user's data.
    pub message: String,
}

/// One change of a row.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum ChangedRow {
    /// The row is new or has changed: the whole row.
    Put {
        /// Its table.
        table: String,
        /// All its columns.
        row: Map<String, Value>,
    },
    /// The row is gone from what this user may see: its primary key.
    Delete {
        /// Its table.
        table: String,
        /// The key columns.
        row: Map<String, Value>,
    },
}

impl ServerMessage {
    /// Reads one text frame.
    ///
    /// # Errors
    /// When the text is not a message of the protocol.
    pub fn parse(text: &str) -> Result<ServerMessage, serde_json::Error> {
        serde_json::from_str(text)
    }
}
