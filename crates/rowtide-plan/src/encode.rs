//! From the text of a row's columns to a [`Row`]: its JSON, its key, its topics and the values that
//! are needed later, in one pass. This is where nearly all of the work of a streamed row is done, and
//! it is done once, however many clients see the row.

use bytes::Bytes;
use thiserror::Error;

use crate::json::{UnexpectedText, push_string, push_value};
use crate::plan::{Branch, BranchId, Plan, TableId};
use crate::row::{Image, Row, Topic};
use crate::value::{ColumnType, InvalidValue, Value};

/// One column of a row on its way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// SQL `NULL`.
    Null,
    /// What the type's output function prints.
    Text(&'a [u8]),
    /// Not there: not part of the replica identity.
    Missing,
}

/// Why a row could not be encoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The source does not have a column of the plan.
    #[error("table `{table}` has no column `{column}` any more")]
    NoColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A column that is needed did not come with the row.
    #[error(
        "column `{column}` of table `{table}` did not come with the row: its replica identity is too small"
    )]
    Missing {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// The text of a column is not of its type, or not UTF-8.
    #[error("column `{column}` of table `{table}` holds text that is not of its type")]
    Unexpected {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
}

/// Encodes the rows of one table, as they come from one source.
#[derive(Clone, Debug)]
pub struct RowEncoder {
    table: String,
    columns: Vec<Column>,
    /// Indexes into `columns`, in key order.
    key: Vec<usize>,
    /// Indexes into `columns`.
    kept: Vec<usize>,
    branches: Vec<(BranchId, Branch)>,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    /// Where its value is found among the datums.
    source: usize,
    kind: ColumnType,
    /// `,"name":`, without the comma for the first.
    prefix: Vec<u8>,
    /// `"name":`
    key_prefix: Vec<u8>,
    /// Whether a rule needs its value.
    needed: bool,
}

impl RowEncoder {
    /// An encoder for rows whose values come in the order of `columns`, given by their names. Columns
    /// that the plan does not know are left out.
    ///
    /// # Errors
    /// [`EncodeError::NoColumn`] when one of the plan's columns is not among them.
    pub fn new(plan: &Plan, table: TableId, columns: &[&str]) -> Result<RowEncoder, EncodeError> {
        let planned = plan.table(table);
        let branches: Vec<(BranchId, Branch)> =
            planned.branches.iter().map(|id| (*id, plan.branch(*id).clone())).collect();
        let mut needed = vec![false; planned.catalog.columns.len()];
        for (_, branch) in &branches {
            branch.anchor.iter().for_each(|column| needed[*column] = true);
            branch.filter.0.operands(&mut |operand| {
                if let crate::filter::Operand::Column(column) = operand {
                    needed[*column] = true;
                }
            });
        }
        planned.kept.iter().for_each(|column| needed[*column] = true);
        let column = |(index, column): (usize, &crate::catalog::CatalogColumn)| {
            let source = columns.iter().position(|name| *name == column.name).ok_or_else(|| {
                EncodeError::NoColumn {
                    table: planned.catalog.name.clone(),
                    column: column.name.clone(),
                }
            })?;
            let mut key_prefix = Vec::new();
            push_string(&mut key_prefix, &column.name);
            key_prefix.push(b':');
            let mut prefix = if index == 0 { Vec::new() } else { vec![b','] };
            prefix.extend_from_slice(&key_prefix);
            let name = column.name.clone();
            let (kind, needed) = (column.kind.clone(), needed[index]);
            Ok(Column { name, source, kind, prefix, key_prefix, needed })
        };
        Ok(RowEncoder {
            table: planned.catalog.name.clone(),
            columns: planned
                .catalog
                .columns
                .iter()
                .enumerate()
                .map(column)
                .collect::<Result<_, _>>()?,
            key: planned.key.clone(),
            kept: planned.kept.clone(),
            branches,
        })
    }

    /// The whole row.
    ///
    /// # Errors
    /// When a column is missing or is not of its type.
    pub fn row(&self, datums: &[Datum<'_>]) -> Result<Row, EncodeError> {
        let image = self.image(datums)?;
        let size: usize = self
            .columns
            .iter()
            .map(|column| {
                let text = datums.get(column.source).map_or(0, |datum| match datum {
                    Datum::Text(text) => text.len(),
                    _ => 4,
                });
                column.prefix.len() + text + 2
            })
            .sum();
        let mut json = Vec::with_capacity(size + 2);
        json.push(b'{');
        for column in &self.columns {
            json.extend_from_slice(&column.prefix);
            self.push(&mut json, column, datums)?;
        }
        json.push(b'}');
        Ok(Row { image, json: json.into() })
    }

    /// What the engine needs of the row, without its JSON. Only the key and the columns that rules
    /// need have to be there.
    ///
    /// # Errors
    /// When one of those columns is missing or is not of its type.
    pub fn image(&self, datums: &[Datum<'_>]) -> Result<Image, EncodeError> {
        let mut key = Vec::with_capacity(32);
        for (index, column) in self.key.iter().map(|index| &self.columns[*index]).enumerate() {
            key.push(if index == 0 { b'{' } else { b',' });
            key.extend_from_slice(&column.key_prefix);
            self.push(&mut key, column, datums)?;
        }
        key.push(b'}');
        let values = self.values(datums)?;
        let mut topics = Vec::with_capacity(self.branches.len());
        for (id, branch) in &self.branches {
            let anchor = match branch.anchor {
                None => None,
                Some(column) if values[column].is_null() => continue,
                Some(column) => Some(&values[column]),
            };
            if branch.filter.passes(&values) {
                topics.push(Topic { branch: *id, anchor: anchor.cloned() });
            }
        }
        let mut values = values;
        let kept = self
            .kept
            .iter()
            .map(|column| std::mem::replace(&mut values[*column], Value::Null))
            .collect();
        Ok(Image { key: Bytes::from(key), kept, topics: topics.into() })
    }

    /// The values that rules need, by column; the others are null.
    fn values(&self, datums: &[Datum<'_>]) -> Result<Vec<Value>, EncodeError> {
        let value = |column: &Column| {
            if !column.needed {
                return Ok(Value::Null);
            }
            match self.text(column, datums)? {
                None => Ok(Value::Null),
                // Of a type that cannot be compared a rule asks no more than whether it is null.
                Some(_) if column.kind.family().is_none() => Ok(Value::Bool(true)),
                Some(text) => Value::parse(&column.kind, text)
                    .map_err(|InvalidValue { .. }| self.unexpected(column)),
            }
        };
        self.columns.iter().map(value).collect()
    }

    fn push(
        &self,
        into: &mut Vec<u8>,
        column: &Column,
        datums: &[Datum<'_>],
    ) -> Result<(), EncodeError> {
        match self.text(column, datums)? {
            None => into.extend_from_slice(b"null"),
            Some(text) => push_value(into, &column.kind, text)
                .map_err(|UnexpectedText| self.unexpected(column))?,
        }
        Ok(())
    }

    fn text<'a>(
        &self,
        column: &Column,
        datums: &[Datum<'a>],
    ) -> Result<Option<&'a str>, EncodeError> {
        match datums.get(column.source) {
            Some(Datum::Null) => Ok(None),
            Some(Datum::Text(text)) => {
                std::str::from_utf8(text).map(Some).map_err(|_| self.unexpected(column))
            }
            Some(Datum::Missing) | None => {
                Err(EncodeError::Missing { table: self.table.clone(), column: column.name.clone() })
            }
        }
    }

    fn unexpected(&self, column: &Column) -> EncodeError {
        EncodeError::Unexpected { table: self.table.clone(), column: column.name.clone() }
    }
}
