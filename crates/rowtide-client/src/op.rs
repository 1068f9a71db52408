//! The operations of a mutation, in the form of the protocol. Each is on one row, or calls what the server has under a
//! name. The client applies those on rows to its own rows, to show at once what the server will do; it does not know the
//! server's rules and triggers, nor what a call does. An insert that leaves its key out, and whatever refers to the key that is made
//! for it (`{"$key": [ID, PLACE, COLUMN]}`, with the id of the mutation and the place of the insert in it), shows once it is acknowledged. An insert of a row that is there updates it, an update of a row that is not there does
//! nothing.

use std::sync::Arc;

use rowtide_protocol::KeyReference;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::row::Row;

/// One operation of a mutation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Op {
    /// On one row.
    Row(RowOp),
    /// What the server has under a name.
    Call(CallOp),
}

/// A call of what the server has under a name. Nothing of it is shown before it is applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename = "call")]
pub struct CallOp {
    /// The name.
    pub name: String,
    /// The arguments, by the names of the parameters.
    #[serde(default)]
    pub args: Row,
}

/// An operation on one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowOp {
    /// What is done.
    #[serde(rename = "op")]
    pub kind: OpKind,
    /// The table of the row.
    pub table: String,
    /// The whole primary key and, unless it is a delete, the columns to write.
    pub row: Row,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpKind {
    /// Writes a new row, or updates the one with the same key.
    Insert,
    /// Writes columns of a row that is there.
    Update,
    /// Removes a row.
    Delete,
}

impl Op {
    /// A new row.
    pub fn insert(table: impl Into<String>, row: Row) -> Op {
        Op::Row(RowOp { kind: OpKind::Insert, table: table.into(), row })
    }

    /// New values of a row; `row` holds its key and the columns that change.
    pub fn update(table: impl Into<String>, row: Row) -> Op {
        Op::Row(RowOp { kind: OpKind::Update, table: table.into(), row })
    }

    /// Removes a row; `key` holds the columns of its key.
    pub fn delete(table: impl Into<String>, key: Row) -> Op {
        Op::Row(RowOp { kind: OpKind::Delete, table: table.into(), row: key })
    }

    /// A call of what the server has under a name.
    pub fn call(name: impl Into<String>, args: Row) -> Op {
        Op::Call(CallOp { name: name.into(), args })
    }

    /// The operation, if it is on a row.
    pub fn on_row(&self) -> Option<&RowOp> {
        match self {
            Op::Row(op) => Some(op),
            Op::Call(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Op {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Op, D::Error> {
        let value = Value::deserialize(from)?;
        let read = match value.get("op").and_then(Value::as_str) {
            Some("call") => serde_json::from_value(value).map(Op::Call),
            _ => serde_json::from_value(value).map(Op::Row),
        };
        read.map_err(Error::custom)
    }
}

impl RowOp {
    /// The row after this operation; `None` if there is no row.
    pub(crate) fn apply(&self, row: Option<Row>) -> Option<Row> {
        match (self.kind, row) {
            (OpKind::Delete, _) | (OpKind::Update, None) => None,
            (OpKind::Insert, None) => Some(self.row.clone()),
            (OpKind::Insert | OpKind::Update, Some(mut row)) => {
                for (column, value) in &self.row {
                    row.insert(column.clone(), value.clone());
                }
                Some(row)
            }
        }
    }
}

/// What stands for a column of the key that the server makes for an insert, wherever a value may stand in the mutation of that
/// insert and in later ones of the same client: `id` is the mutation, and `place` that of the insert among its operations, counted
/// from 0.
///
/// The client's next id is one more than its last, so that a mutation may refer to an insert of its own before
/// [`Client::mutate`](crate::Client::mutate) has returned its id.
pub fn made_key(id: u64, place: usize, column: &str) -> Value {
    json!({ "$key": [id, place, column] })
}

/// Whether a value stands for a key that the server makes.
pub(crate) fn is_reference(value: &Value) -> bool {
    reference(value).is_some()
}

fn reference(value: &Value) -> Option<KeyReference> {
    value.get("$key")?;
    KeyReference::read(&value.to_string())
}

/// The operations with references by the numbers that the server knows mutations by, and not by their ids.
pub(crate) fn with_numbers(ops: Arc<[Op]>, number: impl Fn(u64) -> u64) -> Arc<[Op]> {
    if !ops.iter().any(|op| values_of(op).any(is_reference)) {
        return ops;
    }
    let numbered = |value: &Value| match reference(value) {
        Some(KeyReference { id, op, column }) => json!({ "$key": [number(id), op, column] }),
        None => value.clone(),
    };
    let one = |op: &Op| {
        let values = |row: &Row| -> Row {
            row.iter().map(|(name, value)| (name.clone(), numbered(value))).collect()
        };
        match op {
            Op::Row(op) => Op::Row(RowOp { row: values(&op.row), ..op.clone() }),
            Op::Call(op) => Op::Call(CallOp { args: values(&op.args), ..op.clone() }),
        }
    };
    ops.iter().map(one).collect()
}

/// The values of an operation.
fn values_of(op: &Op) -> impl Iterator<Item = &Value> {
    match op {
        Op::Row(op) => op.row.values(),
        Op::Call(op) => op.args.values(),
    }
}

/// Whether arrays and objects are nested at most `levels` deep.
pub(crate) fn within_depth(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => {
            levels > 0 && items.iter().all(|item| within_depth(item, levels - 1))
        }
        Value::Object(fields) => {
            levels > 0 && fields.values().all(|field| within_depth(field, levels - 1))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::row::row_of;

    fn row(value: Value) -> Row {
        row_of(&value).unwrap()
    }

    #[test]
    fn an_operation_has_the_form_of_the_protocol() {
        let op = Op::update("file", row(json!({"id": "f1", "name": "Plan B"})));
        let text = r#"{"op":"update","table":"file","row":{"id":"f1","name":"Plan B"}}"#;
        assert_eq!(serde_json::to_string(&op).unwrap(), text);
        assert_eq!(serde_json::from_str::<Op>(text).unwrap(), op);
        let op = Op::call("accept", row(json!({"token": "t"})));
        let text = r#"{"op":"call","name":"accept","args":{"token":"t"}}"#;
        assert_eq!(serde_json::to_string(&op).unwrap(), text);
        assert_eq!(serde_json::from_str::<Op>(text).unwrap(), op);
        let without = r#"{"op":"call","name":"accept"}"#;
        assert_eq!(serde_json::from_str::<Op>(without).unwrap(), Op::call("accept", Row::new()));
    }

    #[test]
    fn an_insert_over_a_row_updates_it_and_an_update_of_no_row_does_nothing() {
        let on_row = |op: Op| op.on_row().unwrap().clone();
        let insert = Op::insert("t", row(json!({"id": 1, "a": 1})));
        let update = Op::update("t", row(json!({"id": 1, "b": 2})));
        let delete = Op::delete("t", row(json!({"id": 1})));
        let [insert, update, delete] = [insert, update, delete].map(on_row);
        assert_eq!(update.apply(None), None);
        let shown = insert.apply(None);
        assert_eq!(shown, Some(row(json!({"id": 1, "a": 1}))));
        let shown = update.apply(shown);
        assert_eq!(shown, Some(row(json!({"id": 1, "a": 1, "b": 2}))));
        let again = on_row(Op::insert("t", row(json!({"id": 1, "a": 3})))).apply(shown);
        assert_eq!(again, Some(row(json!({"id": 1, "a": 3, "b": 2}))));
        assert_eq!(delete.apply(again), None);
    }

    #[test]
    fn a_reference_is_sent_with_the_number_that_the_server_knows() {
        let ops: Arc<[Op]> = [
            Op::insert("t", row(json!({"id": 1, "of": {"$key": [3, 0, "id"]}}))),
            Op::call("f", row(json!({"note": {"$key": [3, 1, "id"]}, "x": {"$key": 1}}))),
        ]
        .into();
        let sent = with_numbers(ops, |id| id + 10);
        assert_eq!(sent[0], Op::insert("t", row(json!({"id": 1, "of": {"$key": [13, 0, "id"]}}))));
        let args = json!({"note": {"$key": [13, 1, "id"]}, "x": {"$key": 1}});
        assert_eq!(sent[1], Op::call("f", row(args)));
    }

    #[test]
    fn depth_is_counted_to_its_limit() {
        assert!(within_depth(&json!([[1]]), 2));
        assert!(!within_depth(&json!([[1], {"a": [2]}]), 2));
    }
}
