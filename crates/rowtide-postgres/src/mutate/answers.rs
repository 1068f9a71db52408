//! What the answers to a mutation's statements mean: which writes were done, with which keys, and what is wrong with which
//! operation. Pure.

use std::borrow::Cow;

use rowtide_plan::plan::Plan;
use rowtide_plan::write::{KnownKeys, Operation, Rejection, Write, WriteVerdict};
use rowtide_protocol::{MadeKey, RejectCode, Rejected};
use serde_json::{Map, Value};
use tokio_postgres::Row;

use super::Ticket;
use super::failure::Failure;

pub(super) fn verdict(plan: &Plan, write: &Write, rows: &[Row]) -> Result<WriteVerdict, Failure> {
    let answer = match rows.first() {
        Some(row) => Some((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)),
        None => None,
    };
    Ok(WriteVerdict::of(plan, write, answer, key_printed(rows)?.as_deref()))
}

pub(super) fn verdict_of_role(
    plan: &Plan,
    write: &Write,
    rows: &[Row],
) -> Result<WriteVerdict, Failure> {
    let written = rows.first().map(|row| row.try_get(0)).transpose()?;
    let key = key_printed(rows)?;
    Ok(WriteVerdict::of_role(plan, write, written.unwrap_or(false), key.as_deref()))
}

/// The key that an insert made, as Postgres prints its columns.
fn key_printed(rows: &[Row]) -> Result<Option<Vec<String>>, Failure> {
    let row = rows.first().filter(|row| row.columns().iter().any(|column| column.name() == "made"));
    Ok(row.map(|row| row.try_get("made")).transpose()?.flatten())
}

/// The key that the operation at `index` made, if it did.
pub(super) fn made(
    ticket: &Ticket,
    index: usize,
    key: Option<Map<String, Value>>,
) -> Option<MadeKey> {
    let op = u32::try_from(index).ok()?;
    Some(MadeKey { id: ticket.number.given(), op, key: key? })
}

/// The operations, the first of which is the mutation's at `offset`, with the keys that they refer to.
pub(super) fn with_keys<'a>(
    plan: &Plan,
    operations: &'a [Operation],
    known: &KnownKeys,
    offset: usize,
) -> Result<Cow<'a, [Operation]>, Rejection> {
    if operations.iter().all(|operation| operation.references().is_empty()) {
        return Ok(Cow::Borrowed(operations));
    }
    let one = |(index, operation): (usize, &Operation)| {
        let operation = plan.with_keys(operation, known);
        operation.map(Cow::into_owned).map_err(|rejection| with_op(index, rejection))
    };
    (offset..).zip(operations).map(one).collect::<Result<Vec<_>, _>>().map(Cow::Owned)
}

pub(super) fn is_call(operation: &Operation) -> bool {
    matches!(operation, Operation::Call(_))
}

/// Whether the write's client expects that it does nothing.
pub(super) fn tolerates(write: &Write, rejection: &Rejection) -> bool {
    write.tolerance.missing && rejection.code == RejectCode::NotFound
}

/// The rejection of the mutation with this number.
pub(super) fn with_number(id: u64, rejection: &Rejection) -> Rejected {
    Rejected { id, code: rejection.code.as_str().to_owned(), message: rejection.message.clone() }
}

pub(super) fn with_op(index: usize, rejection: Rejection) -> Rejection {
    Rejection { message: format!("ops[{index}]: {}", rejection.message), ..rejection }
}

pub(super) fn of_op(index: usize, failure: Failure) -> Failure {
    match failure {
        Failure::Rejected(rejection) => Failure::Rejected(with_op(index, rejection)),
        other => other,
    }
}
