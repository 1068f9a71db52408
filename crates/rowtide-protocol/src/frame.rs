//! Frames that the server sends, made by splicing. A row is turned into JSON once, when it leaves
//! Postgres; from there on its bytes are copied and never encoded again. Names of tables and all
//! other text go through `serde_json`, so that a frame is always valid JSON if the rows are.

use bytes::Bytes;
use serde::Serialize;

use crate::{Cursor, ErrorCode, MadeKey, Mode, Rejected, SubscriptionCode};

fn json(value: impl Serialize) -> String {
    serde_json::to_string(&value).expect("strings and numbers always have a JSON form")
}

/// One `put` of a `tx`: the whole row. `row` is the row's JSON.
pub fn put_change(into: &mut Vec<u8>, table_json: &str, row: &[u8]) {
    change(into, b"{\"op\":\"put\",\"table\":", table_json, row);
}

/// One `delete` of a `tx`. `key` is the JSON object of the primary key.
pub fn delete_change(into: &mut Vec<u8>, table_json: &str, key: &[u8]) {
    change(into, b"{\"op\":\"delete\",\"table\":", table_json, key);
}

fn change(into: &mut Vec<u8>, head: &[u8], table_json: &str, row: &[u8]) {
    into.reserve(head.len() + table_json.len() + row.len() + 8);
    into.extend_from_slice(head);
    into.extend_from_slice(table_json.as_bytes());
    into.extend_from_slice(b",\"row\":");
    into.extend_from_slice(row);
    into.push(b'}');
}

/// What a `tx` says beside its changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct TxParts<'a> {
    /// Every mutation up to this one is acknowledged.
    pub ack: Option<u64>,
    /// The keys that were made by what `ack` acknowledges.
    pub keys: &'a [&'a MadeKey],
    /// When the last of the commits happened, RFC 3339.
    pub commit_time: Option<&'a str>,
    /// Subscriptions whose rows the client has from now on.
    pub subscribed: &'a [u64],
    /// Subscriptions of which it has no row any more that only they select.
    pub unsubscribed: &'a [u64],
}

/// A `tx` frame. Each of `bodies` is a comma-separated list of changes, or empty; together they are
/// the changes in order.
pub fn tx_frame<'a>(
    cursor: Cursor,
    bodies: impl IntoIterator<Item = &'a [u8]>,
    parts: TxParts<'_>,
) -> Bytes {
    let TxParts { ack, keys, commit_time, subscribed, unsubscribed } = parts;
    let mut frame = Vec::with_capacity(256);
    frame.extend_from_slice(format!(r#"{{"type":"tx","cursor":"{cursor}""#).as_bytes());
    if let Some(ack) = ack {
        frame.extend_from_slice(format!(r#","ack":{ack}"#).as_bytes());
    }
    if !keys.is_empty() {
        frame.extend_from_slice(format!(r#","keys":{}"#, json(keys)).as_bytes());
    }
    if let Some(time) = commit_time {
        frame.extend_from_slice(format!(r#","commitTime":{}"#, json(time)).as_bytes());
    }
    for (name, ids) in [("subscribed", subscribed), ("unsubscribed", unsubscribed)] {
        if !ids.is_empty() {
            frame.extend_from_slice(format!(r#","{name}":{}"#, json(ids)).as_bytes());
        }
    }
    frame.extend_from_slice(b",\"changes\":[");
    join(&mut frame, bodies);
    frame.extend_from_slice(b"]}");
    frame.into()
}

/// A `snapshot` frame of whole rows.
pub fn snapshot_frame<'a>(table_json: &str, rows: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut frame = Vec::with_capacity(1024);
    frame.extend_from_slice(br#"{"type":"snapshot","table":"#);
    frame.extend_from_slice(table_json.as_bytes());
    frame.extend_from_slice(b",\"rows\":[");
    join(&mut frame, rows);
    frame.extend_from_slice(b"]}");
    frame.into()
}

fn join<'a>(frame: &mut Vec<u8>, parts: impl IntoIterator<Item = &'a [u8]>) {
    let mut first = true;
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        if !first {
            frame.push(b',');
        }
        first = false;
        frame.extend_from_slice(part);
    }
}

/// What this server has beyond the first version of the protocol.
const FEATURES: [&str; 4] = ["calls", crate::DEFLATE, "keys", "subscriptions"];

/// A `connected` frame; `user_id` is `None` of somebody without a token. `tables_json` is an object of each table's `{"key":[…]}`.
pub fn connected_frame(
    user_id: Option<&str>,
    mode: Mode,
    last_mutation: u64,
    rejected: &[Rejected],
    keys: &[MadeKey],
    tables_json: &str,
) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Frame<'a> {
        r#type: &'a str,
        protocol: u64,
        user_id: Option<&'a str>,
        mode: &'a str,
        last_mutation: u64,
        #[serde(rename = "refused")]
        rejected: &'a [Rejected],
        #[serde(skip_serializing_if = "<[MadeKey]>::is_empty")]
        keys: &'a [MadeKey],
        tables: Option<&'a serde_json::value::RawValue>,
        features: &'a [&'a str],
    }
    let protocol = crate::PROTOCOL_VERSION;
    let tables = serde_json::from_str(tables_json).ok();
    let (r#type, mode) = ("connected", mode.as_str());
    let features = &FEATURES;
    json(Frame { r#type, protocol, user_id, mode, last_mutation, rejected, keys, tables, features })
        .into()
}

/// A `ready` frame.
pub fn ready_frame(cursor: Cursor) -> Bytes {
    format!(r#"{{"type":"ready","cursor":"{cursor}"}}"#).into()
}

/// A `reject` frame.
pub fn reject_frame(id: u64, code: &str, message: &str) -> Bytes {
    let (code, message) = (json(code), json(message));
    format!(r#"{{"type":"reject","id":{id},"code":{code},"message":{message}}}"#).into()
}

/// A `subscription_error` frame: the subscription is not there.
pub fn subscription_error_frame(id: u64, code: SubscriptionCode, message: &str) -> Bytes {
    let (code, message) = (code.as_str(), json(message));
    format!(r#"{{"type":"subscription_error","id":{id},"code":"{code}","message":{message}}}"#)
        .into()
}

/// A `pong` frame.
pub fn pong_frame() -> Bytes {
    Bytes::from_static(br#"{"type":"pong"}"#)
}

/// An `error` frame, the last before the connection is closed. `retry_after_ms` is the longest
/// random wait before the client should come back.
pub fn error_frame(code: ErrorCode, message: &str, retry_after_ms: Option<u64>) -> Bytes {
    let retry = retry_after_ms.map_or_else(String::new, |ms| format!(r#","retryAfterMs":{ms}"#));
    let message = json(message);
    format!(r#"{{"type":"error","code":"{}","message":{message}{retry}}}"#, code.as_str()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChangedRow, Epoch, Lsn, ServerMessage, ViewId};

    fn read(frame: &Bytes) -> ServerMessage {
        ServerMessage::parse(std::str::from_utf8(frame).unwrap()).unwrap()
    }

    #[test]
    fn a_client_reads_what_the_server_splices() {
        let cursor = Cursor { epoch: Epoch(1), view: ViewId(3), lsn: Lsn(2) };
        let mut body = Vec::new();
        put_change(&mut body, "\"a\\\"b\"", br#"{"id":1}"#);
        body.push(b',');
        delete_change(&mut body, "\"t\"", br#"{"id":2}"#);
        let parts: [&[u8]; 3] = [b"", &body, b""];
        let key = serde_json::from_str(r#"{"id":4711,"at":"a\"b"}"#).unwrap();
        let made = MadeKey { id: 7, op: 1, key };
        let beside = TxParts {
            ack: Some(7),
            keys: &[&made],
            commit_time: Some("2026-01-01T00:00:00Z"),
            subscribed: &[1, 2],
            unsubscribed: &[3],
        };
        let ServerMessage::Tx {
            changes,
            ack,
            cursor: sent,
            keys,
            commit_time,
            subscribed,
            unsubscribed,
        } = read(&tx_frame(cursor, parts, beside))
        else {
            panic!("not a tx");
        };
        assert_eq!(keys, std::slice::from_ref(&made));
        assert_eq!((subscribed, unsubscribed), (vec![1, 2], vec![3]));
        let refused = subscription_error_frame(4, SubscriptionCode::BadRequest, "no\"");
        assert!(matches!(read(&refused), ServerMessage::SubscriptionError { id: 4, .. }));
        assert_eq!((ack, sent, changes.len()), (Some(7), cursor.to_string(), 2));
        assert_eq!(commit_time.as_deref(), Some("2026-01-01T00:00:00Z"));
        assert!(matches!(&changes[0], ChangedRow::Put { table, .. } if table == "a\"b"));
        assert!(
            matches!(read(&connected_frame(Some("u\"1"), Mode::Snapshot, 9, &[], &[made], r#"{"t":{"key":["id"]}}"#)),
            ServerMessage::Connected(c) if c.user_id.as_deref() == Some("u\"1") && c.tables["t"].key == ["id"]
                && c.keys.len() == 1)
        );
        assert!(matches!(
            read(&error_frame(ErrorCode::Restarting, "x", Some(5))),
            ServerMessage::Error { retry_after_ms: Some(5), .. }
        ));
        assert_eq!(read(&pong_frame()), ServerMessage::Pong);
    }
}
