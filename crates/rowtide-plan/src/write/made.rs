//! Keys that are made: what an insert that leaves its key out answers becomes the key as clients have it, and takes the
//! place of what refers to it in later operations. A key that is put somewhere is read as if the client had sent it there.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use rowtide_protocol::{KeyReference, MadeKey, RejectCode};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::call::text_of_argument;
use super::op::{Operation, text_of_column};
use super::rejection::Rejection;
use crate::ids::TableId;
use crate::json::push_value;
use crate::plan::Plan;
use crate::value::ColumnType;

/// How many mutations back a mutation may refer to a key that was made.
pub const REFERABLE_MUTATIONS: u64 = 10_000;

/// What is known of the keys that the operations of a mutation may refer to: as much as they refer to.
#[derive(Clone, Debug, Default)]
pub struct KnownKeys {
    /// Those that were made, by mutation and operation.
    made: BTreeMap<(u64, u32), MadeKey>,
    /// The mutations that made some.
    makers: BTreeSet<u64>,
    /// The earlier mutations that are referred to and were rejected.
    rejected: BTreeSet<u64>,
}

impl KnownKeys {
    /// A key that was made.
    pub fn add(&mut self, made: MadeKey) {
        self.makers.insert(made.id);
        self.made.insert((made.id, made.op), made);
    }

    /// The mutation made keys, whichever.
    pub fn makes(&mut self, id: u64) {
        self.makers.insert(id);
    }

    /// The mutation was rejected.
    pub fn was_rejected(&mut self, id: u64) {
        self.rejected.insert(id);
    }

    /// The keys of a mutation that are known, in order.
    pub fn of(&self, id: u64) -> impl Iterator<Item = &MadeKey> {
        self.made.range((id, 0)..=(id, u32::MAX)).map(|(_, made)| made)
    }

    /// The value that a reference stands for.
    ///
    /// # Errors
    /// `bad_request` that says what there is not.
    pub fn value(&self, reference: &KeyReference) -> Result<&Value, Rejection> {
        let KeyReference { id, op, column } = reference;
        let bad = |what: String| Rejection::new(RejectCode::BadRequest, what);
        if self.rejected.contains(id) {
            return Err(bad(format!("{reference}: mutation {id} was rejected")));
        }
        if !self.makers.contains(id) {
            return Err(bad(format!(
                "{reference}: no key is known that mutation {id} made (of the last {REFERABLE_MUTATIONS})"
            )));
        }
        let made = self.made.get(&(*id, *op)).ok_or_else(|| {
            bad(format!("{reference}: ops[{op}] of mutation {id} is no insert without its key"))
        })?;
        made.key
            .get(column)
            .ok_or_else(|| bad(format!("{reference}: its key has no column of this name")))
    }
}

impl Plan {
    /// A key as clients have it, of what Postgres prints of its columns.
    pub(super) fn key_of(&self, table: TableId, texts: &[String]) -> Map<String, Value> {
        let table = self.table(table);
        let value = |(column, text): (&usize, &String)| {
            let column = &table.catalog.columns[*column];
            let mut json = Vec::new();
            let pushed = push_value(&mut json, &column.kind, self.form_of(column), text);
            let value = pushed.ok().and_then(|()| serde_json::from_slice(&json).ok());
            (column.name.clone(), value.unwrap_or_else(|| Value::String(text.clone())))
        };
        table.key.iter().zip(texts).map(value).collect()
    }

    /// The operation with the keys that it refers to.
    ///
    /// # Errors
    /// `bad_request` where there is no such key, or its value does not fit.
    pub fn with_keys<'a>(
        &self,
        operation: &'a Operation,
        known: &KnownKeys,
    ) -> Result<Cow<'a, Operation>, Rejection> {
        if operation.references().is_empty() {
            return Ok(Cow::Borrowed(operation));
        }
        let bad = |wrong| Rejection::new(RejectCode::BadRequest, wrong);
        let mut operation = operation.clone();
        match &mut operation {
            Operation::Write(write) => {
                for (column, reference) in std::mem::take(&mut write.references) {
                    let kind = &self.table(write.table).catalog.columns[column].kind;
                    let json = json(known.value(&reference)?, kind)?;
                    let text =
                        text_of_column(self.table(write.table), column, &json).map_err(bad)?;
                    write.values.push((column, text));
                }
                write.values.sort_by_key(|(column, _)| *column);
            }
            Operation::Call(call) => {
                for (param, reference) in std::mem::take(&mut call.references) {
                    let planned = &self.calls[call.call];
                    let of = &planned.params[param];
                    let kind = of.kind.as_ref().map_or(&ColumnType::Other, |kind| &kind.kind);
                    let json = json(known.value(&reference)?, kind)?;
                    call.values[param] = text_of_argument(planned, of, &json).map_err(bad)?;
                }
            }
        }
        Ok(Cow::Owned(operation))
    }
}

/// The value as a client would send it for this type: a key that is told as digits goes into any integer.
fn json(value: &Value, kind: &ColumnType) -> Result<Box<RawValue>, Rejection> {
    let json = match (kind, value) {
        (ColumnType::Int, Value::String(digits)) if digits.parse::<i64>().is_ok() => digits.clone(),
        _ => value.to_string(),
    };
    let wrong =
        |error: serde_json::Error| Rejection::new(RejectCode::BadRequest, error.to_string());
    RawValue::from_string(json).map_err(wrong)
}
