//! What a client says. [`ClientMessage::parse`] is total: any text gives a message or a
//! [`BadMessage`] that names the field which is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::KeyReference;

/// The name of one durable queue of mutations: 8 to 64 of `A-Z a-z 0-9 _ -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Box<str>);

impl ClientId {
    /// Takes `text` as a client id, or `None` if it has the wrong length or characters.
    pub fn new(text: &str) -> Option<ClientId> {
        let fits = (8..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        fits.then(|| ClientId(text.into()))
    }

    /// The id as it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A message from a client, checked for its form.
#[derive(Debug)]
pub enum ClientMessage {
    /// The first message of a connection.
    Connect(Connect),
    /// One transaction of the client's.
    Mutate(Mutate),
    /// Asks for what a query selects.
    Subscribe(Subscribe),
    /// Asks no longer.
    Unsubscribe {
        /// The subscription.
        id: u64,
    },
    /// A new token for the live session.
    Auth {
        /// The token, unverified.
        token: String,
    },
    /// Asks for a `pong`.
    Ping,
}

/// The fields of `connect`.
#[derive(Debug)]
pub struct Connect {
    /// The version of the protocol that the client speaks.
    pub protocol: u64,
    /// The client's queue of mutations.
    pub client_id: ClientId,
    /// The token, unverified, unless it came in a header.
    pub token: Option<String>,
    /// The version of the application.
    pub app_version: Option<i64>,
    /// The client's cursor, unread: one that cannot be read means a snapshot, not an error.
    pub cursor: Option<String>,
    /// The highest mutation id whose outcome the client knows.
    pub outcomes_known: Option<u64>,
    /// The highest mutation id that the client was told of as acknowledged, stored or not.
    pub acked: Option<u64>,
    /// What it is subscribed to; with a cursor, the rows of these are as of the cursor.
    pub subscriptions: Vec<Subscribe>,
    /// Whether it takes deflated frames.
    pub accepts_deflate: bool,
}

/// The fields of `subscribe`, and of one of the subscriptions of `connect`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The client's own, at least 1, and not in use.
    pub id: u64,
    /// What the definition calls the query, unchecked.
    pub query: String,
    /// The query's parameters, unchecked.
    #[serde(default)]
    pub params: serde_json::Map<String, serde_json::Value>,
}

/// The fields of `mutate`.
#[derive(Debug)]
pub struct Mutate {
    /// Grows by exactly one per client, from 1.
    pub id: u64,
    /// 1 to 500 operations, applied in order; or what is wrong with them: a mutation that has a number
    /// is rejected under it, so that the ones behind it can follow.
    pub ops: Result<Vec<Op>, BadMessage>,
}

/// One operation of a mutation.
#[derive(Debug)]
pub enum Op {
    /// Writes one row.
    Row(RowOp),
    /// Runs what the definition calls so.
    Call(CallOp),
}

/// An operation on one row.
#[derive(Debug, Deserialize)]
pub struct RowOp {
    /// What to do.
    #[serde(rename = "op")]
    pub kind: OpKind,
    /// The table, unchecked.
    pub table: String,
    /// The primary key, and the columns to write.
    pub row: BTreeMap<String, OpValue>,
}

/// A mutation that has a name.
#[derive(Debug, Deserialize)]
pub struct CallOp {
    /// What the definition calls it, unchecked.
    pub name: String,
    /// What it is called with.
    #[serde(default)]
    pub args: BTreeMap<String, OpValue>,
}

/// A value of an operation.
#[derive(Debug)]
pub enum OpValue {
    /// As it was written.
    Json(Box<RawValue>),
    /// A part of the key that the server makes for an earlier insert.
    Key(KeyReference),
}

impl<'de> Deserialize<'de> for OpValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<OpValue, D::Error> {
        let json = Box::<RawValue>::deserialize(from)?;
        Ok(KeyReference::read(json.get()).map_or(OpValue::Json(json), OpValue::Key))
    }
}

/// What an operation on a row does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpKind {
    /// Writes a new row, or updates the one with the same key.
    Insert,
    /// Writes columns of an existing row.
    Update,
    /// Deletes a row.
    Delete,
}

/// The most operations in one mutation.
pub const MAX_OPS: usize = 500;

/// A message that breaks the protocol; its text is for the client's author.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BadMessage(pub String);

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
}

/// What is looked at first of an operation.
#[derive(Deserialize)]
struct OpEnvelope<'a> {
    #[serde(borrow)]
    op: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConnectFields {
    protocol: u64,
    client_id: String,
    token: Option<String>,
    app_version: Option<i64>,
    cursor: Option<String>,
    settled: Option<u64>,
    acked: Option<u64>,
    #[serde(default)]
    subscriptions: Vec<Subscribe>,
    /// What it takes of the forms of frames; others than the known are of later versions.
    #[serde(default)]
    accept: Vec<String>,
}

#[derive(Deserialize)]
struct UnsubscribeFields {
    id: u64,
}

#[derive(Deserialize)]
struct MutateFields<'a> {
    id: u64,
    #[serde(borrow)]
    ops: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AuthFields {
    token: String,
}

/// Reads an object. By itself `serde` takes an array of the fields' values for one, too.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> serde_json::Result<T> {
    let blank = |c| matches!(c, ' ' | '\t' | '\n' | '\r');
    if text.trim_start_matches(blank).starts_with('[') {
        return Err(serde::de::Error::custom("an array, where an object was expected"));
    }
    serde_json::from_str(text)
}

fn read_ops(ops: Option<&RawValue>) -> Result<Vec<Op>, BadMessage> {
    let ops = ops.ok_or_else(|| BadMessage("`mutate`: `ops` is missing".to_owned()))?;
    let wrong = |e: serde_json::Error| BadMessage(format!("`mutate`: `ops`: {e}"));
    let ops: Vec<&RawValue> = serde_json::from_str(ops.get()).map_err(wrong)?;
    if ops.is_empty() || ops.len() > MAX_OPS {
        let count = ops.len();
        return Err(BadMessage(format!(
            "`mutate`: `ops` must hold 1 to {MAX_OPS} operations, not {count}"
        )));
    }
    let read = |(index, op): (usize, &&RawValue)| {
        read_op(op.get()).map_err(|e| BadMessage(format!("`mutate`: `ops[{index}]`: {e}")))
    };
    ops.iter().enumerate().map(read).collect()
}

fn read_op(text: &str) -> serde_json::Result<Op> {
    let OpEnvelope { op } = object(text)?;
    match op.as_deref() {
        Some("call") => Ok(Op::Call(object(text)?)),
        _ => Ok(Op::Row(object(text)?)),
    }
}

impl Subscribe {
    fn check(&self, kind: &str) -> Result<(), BadMessage> {
        match self.id {
            0 => Err(BadMessage(format!("`{kind}`: the `id` of a subscription is at least 1"))),
            _ => Ok(()),
        }
    }
}

impl ClientMessage {
    /// Reads one text frame.
    ///
    /// # Errors
    /// [`BadMessage`] when the text is not a JSON object, its `type` is unknown, or a field is
    /// missing or has the wrong form. Unknown fields are ignored.
    pub fn parse(text: &str) -> Result<ClientMessage, BadMessage> {
        let envelope: Envelope<'_> =
            object(text).map_err(|e| BadMessage(format!("not a message: {e}")))?;
        let wrong = |e: serde_json::Error| BadMessage(format!("`{}`: {e}", envelope.kind));
        match envelope.kind.as_ref() {
            "connect" => {
                let fields: ConnectFields = object(text).map_err(wrong)?;
                let client_id = ClientId::new(&fields.client_id).ok_or_else(|| {
                    BadMessage(
                        "`connect`: `clientId` must be 8 to 64 characters of A-Z a-z 0-9 _ -"
                            .into(),
                    )
                })?;
                let mut ids = BTreeSet::new();
                for subscription in &fields.subscriptions {
                    subscription.check("connect")?;
                    if !ids.insert(subscription.id) {
                        let id = subscription.id;
                        let what = format!("`connect`: two subscriptions have the id {id}");
                        return Err(BadMessage(what));
                    }
                }
                Ok(ClientMessage::Connect(Connect {
                    protocol: fields.protocol,
                    client_id,
                    token: fields.token,
                    app_version: fields.app_version,
                    cursor: fields.cursor,
                    outcomes_known: fields.settled,
                    acked: fields.acked,
                    subscriptions: fields.subscriptions,
                    accepts_deflate: fields.accept.iter().any(|form| form == crate::DEFLATE),
                }))
            }
            "mutate" => {
                let fields: MutateFields<'_> = object(text).map_err(wrong)?;
                if fields.id == 0 || i64::try_from(fields.id).is_err() {
                    let most = i64::MAX;
                    return Err(BadMessage(format!("`mutate`: `id` is 1 to {most}")));
                }
                let ops = read_ops(fields.ops);
                Ok(ClientMessage::Mutate(Mutate { id: fields.id, ops }))
            }
            "subscribe" => {
                let subscribe: Subscribe = object(text).map_err(wrong)?;
                subscribe.check("subscribe")?;
                Ok(ClientMessage::Subscribe(subscribe))
            }
            "unsubscribe" => {
                let UnsubscribeFields { id } = object(text).map_err(wrong)?;
                Ok(ClientMessage::Unsubscribe { id })
            }
            "auth" => {
                let fields: AuthFields = object(text).map_err(wrong)?;
                Ok(ClientMessage::Auth { token: fields.token })
            }
            "ping" => Ok(ClientMessage::Ping),
            other => {
                let shown: String = other.chars().take(40).collect();
                Err(BadMessage(format!("`{shown}` is not a type of message")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn rejected(text: &str) -> String {
        ClientMessage::parse(text).unwrap_err().to_string()
    }

    /// What is wrong with the operations of a mutation whose number can be read.
    #[track_caller]
    fn rejected_ops(text: &str) -> String {
        match ClientMessage::parse(text).unwrap() {
            ClientMessage::Mutate(Mutate { id: 1, ops }) => ops.unwrap_err().to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_are_read_and_unknown_fields_ignored() {
        let text = r#"{"type":"connect","protocol":1,"clientId":"client-1","appVersion":3,"x":1}"#;
        let ClientMessage::Connect(connect) = ClientMessage::parse(text).unwrap() else {
            panic!("not a connect");
        };
        assert_eq!((connect.protocol, connect.app_version), (1, Some(3)));
        assert_eq!(connect.client_id.as_str(), "client-1");
        assert!(matches!(ClientMessage::parse(r#"{"type":"ping"}"#), Ok(ClientMessage::Ping)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(rejected("").starts_with("not a message"));
        assert!(rejected("[]").starts_with("not a message"));
        assert!(rejected(r#" ["ping"]"#).contains("an array"));
        assert!(rejected(r#"{"type":"upsert"}"#).contains("`upsert` is not a type"));
        assert!(rejected(r#"{"type":"subscribe"}"#).contains("`id`"));
        let none = r#"{"type":"subscribe","id":0,"query":"q"}"#;
        assert!(rejected(none).contains("at least 1"), "{}", rejected(none));
        let list = r#"{"type":"subscribe","id":1,"query":"q","params":[1]}"#;
        assert!(rejected(list).contains("expected a map"), "{}", rejected(list));
        let twice = r#"{"type":"connect","protocol":1,"clientId":"client-1",
            "subscriptions":[{"id":1,"query":"q"},{"id":1,"query":"r"}]}"#;
        assert!(rejected(twice).contains("two subscriptions"), "{}", rejected(twice));
        assert!(rejected(r#"{"type":"connect","protocol":1}"#).contains("clientId"));
        let short = r#"{"type":"connect","protocol":1,"clientId":"short"}"#;
        assert!(rejected(short).contains("8 to 64"));
        let op = r#"{"op":"upsert","table":"t","row":{}}"#;
        let ops = rejected_ops(&format!(r#"{{"type":"mutate","id":1,"ops":[{op}]}}"#));
        assert!(ops.contains("ops[0]"), "{ops}");
        assert!(rejected_ops(r#"{"type":"mutate","id":1,"ops":[]}"#).contains("1 to 500"));
        assert!(rejected(r#"{"type":"mutate","id":0,"ops":[]}"#).contains("`id` is 1 to"));
        assert!(
            rejected(r#"{"type":"mutate","id":9223372036854775808,"ops":[]}"#).contains("`id`")
        );
        for args in ["[]", "null", "1"] {
            let op = format!(r#"{{"op":"call","name":"f","args":{args}}}"#);
            let ops = rejected_ops(&format!(r#"{{"type":"mutate","id":1,"ops":[{op}]}}"#));
            assert!(ops.contains("ops[0]"), "{args}: {ops}");
        }
        let op = r#"{"op":"call","args":{}}"#;
        let ops = rejected_ops(&format!(r#"{{"type":"mutate","id":1,"ops":[{op}]}}"#));
        assert!(ops.contains("`name`"), "{ops}");
        let array = r#"["insert","t",{}]"#;
        let message = rejected_ops(&format!(r#"{{"type":"mutate","id":1,"ops":[{array}]}}"#));
        assert!(message.contains("ops[0]") && message.contains("an array"), "{message}");
        let deep = "[".repeat(100_000);
        assert!(
            rejected(&format!(r#"{{"type":"mutate","id":1,"ops":{deep}"#))
                .starts_with("not a message")
        );
    }
}
