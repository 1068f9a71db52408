//! Turns an operation of a client into a write of the plan: finds its table and columns, and reads its
//! values. An operation that the rules can never allow, whatever the rows are, is rejected at once.

use rowtide_protocol::{KeyReference, Op, OpKind, OpValue, RejectCode, RowOp};
use serde_json::value::RawValue;

use super::call::Call;
use super::columns::leaves_key;
use super::input;
use super::rejection::{Rejection, Unreadable, meant, shown};
use crate::calls::PlannedCall;
use crate::ids::TableId;
use crate::plan::{Plan, Table};

/// One operation in terms of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes a row.
    Write(Write),
    /// Runs a named mutation.
    Call(Call),
}

impl Operation {
    /// The places of values that are keys which are to be made by what comes before it: columns, or parameters.
    pub fn references(&self) -> &[(usize, KeyReference)] {
        match self {
            Operation::Write(write) => &write.references,
            Operation::Call(call) => &call.references,
        }
    }
}

/// A write of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The table.
    pub table: TableId,
    /// What to do.
    pub kind: OpKind,
    /// The columns of the key, and those to write, in the catalog's order: each with the text that
    /// Postgres reads.
    pub values: Vec<(usize, Option<String>)>,
    /// The columns whose values are keys that are made first; [`Plan::with_keys`] puts them among the values.
    pub references: Vec<(usize, KeyReference)>,
    /// What its client expects of it beyond the protocol of today.
    pub tolerance: Tolerance,
}

/// What clients of an older protocol expect of a write; nothing for today's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tolerance {
    /// An update or a delete of a row that is not there, or that the writer may not see, does nothing.
    pub missing: bool,
    /// The columns that are left out of an insert that becomes an update of a row.
    pub left_out: Vec<usize>,
}

impl Write {
    /// The text of a column's value; `None` for null, and for columns that it does not write.
    pub fn value(&self, column: usize) -> Option<&str> {
        self.values.iter().find(|(other, _)| *other == column)?.1.as_deref()
    }

    /// Whether it is an insert whose key, or a part of it, is to be made.
    pub fn makes_key(&self, plan: &Plan) -> bool {
        let columns: Vec<usize> = self.columns().collect();
        self.kind == OpKind::Insert && leaves_key(plan.table(self.table), &columns)
    }

    /// The columns that it names.
    fn columns(&self) -> impl Iterator<Item = usize> {
        let referring = self.references.iter().map(|(column, _)| *column);
        self.values.iter().map(|(column, _)| *column).chain(referring)
    }
}

/// The text of a value for a column.
///
/// # Errors
/// What is wrong, with the names.
pub(super) fn text_of_column(
    table: &Table,
    column: usize,
    json: &RawValue,
) -> Result<Option<String>, String> {
    let of = &table.catalog.columns[column];
    input::text_of(of, json)
        .map_err(|wanted| format!("column `{}` of table `{}` takes {wanted}", of.name, table.name))
}

impl Plan {
    /// A table, or a named mutation, of the operations that the definition has and the database does not fit now, itself or
    /// the rules for writing it. What they ask for can be told when it fits again, and not before.
    pub fn waits_for<'a>(&self, ops: &'a [Op]) -> Option<&'a str> {
        ops.iter().find_map(|op| match op {
            Op::Row(op) => {
                let unfit = self.unfit.contains(&op.table) || self.unjudged.contains(&op.table);
                unfit.then_some(op.table.as_str())
            }
            Op::Call(op) => {
                let is = |call: &&PlannedCall| call.name == op.name && !call.is_judged();
                self.calls.iter().find(is).map(|_| op.name.as_str())
            }
        })
    }

    /// Reads an operation.
    ///
    /// # Errors
    /// As [`Plan::read_row_op`] and [`Plan::read_call`].
    pub fn read_op(&self, op: &Op) -> Result<Operation, Unreadable> {
        match op {
            Op::Row(op) => self.read_row_op(op).map(Operation::Write),
            Op::Call(op) => self.read_call(op).map(Operation::Call),
        }
    }

    /// Reads an operation on a row.
    ///
    /// # Errors
    /// `bad_request` where it does not fit the table; `forbidden` where no rule could ever allow it.
    /// The message names the column.
    pub fn read_row_op(&self, op: &RowOp) -> Result<Write, Unreadable> {
        let table = self.table_of(op).map_err(|rejection| Unreadable { rejection, table: None })?;
        let read = self.read_op_of(table, op);
        read.map_err(|rejection| Unreadable { rejection, table: Some(table) })
    }

    /// The table that an operation names. Which there are the definition says, and not the database.
    fn table_of(&self, op: &RowOp) -> Result<TableId, Rejection> {
        let bad = |message: String| Rejection::new(RejectCode::BadRequest, message);
        let published = || self.tables.iter().filter(|table| table.published);
        let found = self.tables.iter().position(|t| t.published && t.name == op.table);
        found.map(|index| TableId(index as u16)).ok_or_else(|| {
            let names = published().map(|table| table.name.as_str());
            bad(format!("there is no table `{}`{}", shown(&op.table), meant(&op.table, names)))
        })
    }

    fn read_op_of(&self, id: TableId, op: &RowOp) -> Result<Write, Rejection> {
        let bad = |message: String| Rejection::new(RejectCode::BadRequest, message);
        let table = self.table(id);
        let name = &table.name;
        let mut values = Vec::with_capacity(op.row.len());
        let mut references = Vec::new();
        for (column, value) in &op.row {
            let Some(at) = table.sent_column(column) else {
                let names = table.sent_columns().map(|(_, column)| column.name.as_str());
                let meant = meant(column, names);
                let column = shown(column);
                return Err(bad(format!("table `{name}` has no column `{column}`{meant}")));
            };
            if op.kind == OpKind::Delete && !table.key.contains(&at) {
                let what = "a delete takes the columns of the primary key alone";
                return Err(bad(format!("{what}: `{column}` of table `{name}` is not one")));
            }
            match value {
                OpValue::Json(json) => {
                    values.push((at, text_of_column(table, at, json).map_err(bad)?));
                }
                OpValue::Key(reference) => references.push((at, reference.clone())),
            }
        }
        values.sort_by_key(|(column, _)| *column);
        let tolerance = Tolerance::default();
        let write = Write { table: id, kind: op.kind, values, references, tolerance };
        for column in &table.key {
            let is_made = op.kind == OpKind::Insert
                && table.makes_key(*column)
                && !write.columns().any(|named| named == *column);
            let is_referred = write.references.iter().any(|(of, _)| of == column);
            if write.value(*column).is_none() && !is_made && !is_referred {
                let column = &table.catalog.columns[*column].name;
                return Err(bad(format!("the key column `{column}` of table `{name}` is missing")));
            }
        }
        never_allowed(table, &write)?;
        Ok(write)
    }
}

/// Rejects what the rules never allow, whatever the rows are.
fn never_allowed(table: &Table, write: &Write) -> Result<(), Rejection> {
    let name = &table.name;
    let forbidden = |message: String| Err(Rejection::new(RejectCode::Forbidden, message));
    let rules = &table.write;
    let none = match write.kind {
        OpKind::Insert => rules.insert.is_none() && rules.updates.is_empty(),
        OpKind::Update => rules.updates.is_empty(),
        OpKind::Delete => rules.delete.is_none(),
    };
    if none {
        let verb = match write.kind {
            OpKind::Insert => "inserted into",
            OpKind::Update => "updated in",
            OpKind::Delete => "deleted from",
        };
        return forbidden(format!("nothing may be {verb} table `{name}`"));
    }
    if write.kind == OpKind::Delete {
        return Ok(());
    }
    for column in &write.columns().collect::<Vec<usize>>() {
        let column_name = &table.catalog.columns[*column].name;
        let is_key = table.key.contains(column);
        let input = &table.catalog.columns[*column].input;
        if input.is_of_postgres_alone() && !(is_key && write.kind == OpKind::Update) {
            let how = if input.always_identity { "numbered" } else { "computed" };
            return forbidden(format!(
                "column `{column_name}` of table `{name}` is {how} by Postgres alone"
            ));
        }
        if is_key {
            continue;
        }
        if rules.readonly.contains(column) {
            return forbidden(format!("column `{column_name}` of table `{name}` is read-only"));
        }
        if write.kind == OpKind::Update && rules.immutable.contains(column) {
            return forbidden(format!(
                "column `{column_name}` of table `{name}` is written by an insert alone"
            ));
        }
    }
    Ok(())
}
