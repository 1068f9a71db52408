//! From the text of a row's columns to a [`Row`]: its JSON, its key, its topics and the values that
//! are needed later, in one pass. This is where nearly all of the work of a streamed row is done, and
//! it is done once, however many clients see the row.

use bytes::Bytes;
use smallvec::SmallVec;
use thiserror::Error;

use crate::ids::{BranchId, TableId};
use crate::json::{UnexpectedText, push_string, push_value};
use crate::plan::{Branch, Plan};
use crate::row::{Image, Row, Topic};
use crate::value::{ColumnType, Int8Form, InvalidValue, Value};

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
    /// The places of all datums that an image is made of.
    sources: Vec<usize>,
    /// The places of all datums that a row is made of, where another row is of no concern; `None` where every change is.
    concerns: Option<Vec<usize>>,
    branches: Vec<(BranchId, Branch)>,
}

/// The values of a row by column; of most tables they fit without memory of their own.
type Values = SmallVec<[Value; 12]>;

#[derive(Clone, Debug)]
struct Column {
    name: String,
    /// Where its value is found among the datums; of a column that is not read it need not be there.
    source: Option<usize>,
    kind: ColumnType,
    form: Int8Form,
    /// `,"name":`, without the comma for the first.
    prefix: Vec<u8>,
    /// `"name":`
    key_prefix: Vec<u8>,
    /// Whether clients get its value.
    sent: bool,
    /// Whether a rule needs its value.
    needed: bool,
}

impl Column {
    fn datum<'d, 'a>(&self, datums: &'d [Datum<'a>]) -> Option<&'d Datum<'a>> {
        datums.get(self.source?)
    }
}

impl RowEncoder {
    /// An encoder for rows whose values come in the order of `columns`, given by their names. Columns
    /// that the plan does not know are left out.
    ///
    /// # Errors
    /// [`EncodeError::NoColumn`] when one of the columns that the plan reads is not among them.
    pub fn new(plan: &Plan, table: TableId, columns: &[&str]) -> Result<RowEncoder, EncodeError> {
        let planned = plan.table(table);
        let branches: Vec<(BranchId, Branch)> =
            (planned.branches.iter().map(|id| (*id, plan.branch(*id).clone())))
                .filter(|(_, branch)| branch.is_reached())
                .collect();
        let (needed, read) = (plan.needed_columns(table), plan.read_columns(table));
        let first_sent = planned.sent_columns().next().map(|(index, _)| index);
        let column = |(index, column): (usize, &crate::catalog::CatalogColumn)| {
            let source = columns.iter().position(|name| *name == column.name);
            if source.is_none() && read.contains(&index) {
                let (table, column) = (planned.name.clone(), column.name.clone());
                return Err(EncodeError::NoColumn { table, column });
            }
            let mut key_prefix = Vec::new();
            push_string(&mut key_prefix, &column.name);
            key_prefix.push(b':');
            let mut prefix = if Some(index) == first_sent { Vec::new() } else { vec![b','] };
            prefix.extend_from_slice(&key_prefix);
            let (name, kind) = (column.name.clone(), column.kind.clone());
            let form = plan.form_of(column);
            let (sent, needed) = (planned.is_sent(index), needed.contains(&index));
            Ok(Column { name, source, kind, form, prefix, key_prefix, sent, needed })
        };
        let columns = planned.catalog.columns.iter().enumerate();
        let columns = columns.map(column).collect::<Result<Vec<Column>, _>>()?;
        let key = planned.key.clone();
        let sources = |is: &dyn Fn(usize, &Column) -> bool| -> Vec<usize> {
            let columns = columns.iter().enumerate().filter(|(index, column)| is(*index, column));
            columns.filter_map(|(_, column)| column.source).collect()
        };
        Ok(RowEncoder {
            table: planned.name.clone(),
            sources: sources(&|index, column| column.needed || key.contains(&index)),
            concerns: (!planned.hidden.is_empty() && !plan.is_asked_by_documents(table))
                .then(|| sources(&|index, _| read.contains(&index))),
            columns,
            key,
            kept: planned.kept.clone(),
            branches,
        })
    }

    /// The whole row.
    ///
    /// # Errors
    /// When a column is missing or is not of its type.
    pub fn row(&self, datums: &[Datum<'_>]) -> Result<Row, EncodeError> {
        let size: usize = self
            .sent()
            .map(|column| {
                let text = column.datum(datums).map_or(0, |datum| match datum {
                    Datum::Text(text) => text.len(),
                    _ => 4,
                });
                column.prefix.len() + text + 2
            })
            .sum();
        let mut json = Vec::with_capacity(size + 2);
        json.push(b'{');
        for column in self.sent() {
            json.extend_from_slice(&column.prefix);
            self.push(&mut json, column, datums)?;
        }
        json.push(b'}');
        // The key has memory of its own: maps keep the one that they were given first.
        Ok(Row { image: self.image(datums)?, json: json.into() })
    }

    /// Whether anybody but Postgres has to know of an update: not where it changes nothing but columns that are not read.
    pub fn is_news(&self, before: &[Datum<'_>], after: &[Datum<'_>]) -> bool {
        let Some(concerns) = &self.concerns else { return true };
        let is_same = |source: &usize| match (before.get(*source), after.get(*source)) {
            (Some(Datum::Missing) | None, _) => false,
            (before, after) => before == after,
        };
        !concerns.iter().all(is_same)
    }

    /// What the engine needs of the row `before` it was updated to `after`, whose row is known already.
    ///
    /// # Errors
    /// When one of those columns is missing or is not of its type.
    pub fn image_before(
        &self,
        before: &[Datum<'_>],
        after: &[Datum<'_>],
        row: &Row,
    ) -> Result<Image, EncodeError> {
        // Most updates change nothing that decides who sees the row.
        if self
            .sources
            .iter()
            .all(|source| before.get(*source).is_some_and(|old| after.get(*source) == Some(old)))
        {
            return Ok(row.image.clone());
        }
        self.image(before)
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
        let mut values = self.values(datums)?;
        let mut topics: SmallVec<[Topic; 4]> = SmallVec::new();
        for (id, branch) in &self.branches {
            if branch.anchor.is_some_and(|column| values[column].is_null())
                || !branch.filter.passes(&values)
            {
                continue;
            }
            match branch.anchor {
                None => topics.push(Topic { branch: *id, anchor: None }),
                Some(column) => {
                    let topic =
                        |anchor: &Value| Topic { branch: *id, anchor: Some(anchor.clone()) };
                    topics.extend(values[column].anchors().map(topic));
                }
            }
        }
        let kept = self.kept.iter();
        let kept = kept.map(|column| std::mem::replace(&mut values[*column], Value::Null));
        Ok(Image {
            key: Bytes::from(key),
            kept: kept.collect(),
            topics: topics.into_iter().collect(),
        })
    }

    fn sent(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.sent)
    }

    /// The values that rules need, by column; the others are null.
    fn values(&self, datums: &[Datum<'_>]) -> Result<Values, EncodeError> {
        let value = |column: &Column| {
            if !column.needed {
                return Ok(Value::Null);
            }
            match self.text(column, datums)? {
                None => Ok(Value::Null),
                // Of a type that cannot be compared a rule asks no more than whether it is null.
                Some(_) if column.kind.family().is_none() && column.kind.element().is_none() => {
                    Ok(Value::Bool(true))
                }
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
            Some(text) => push_value(into, &column.kind, column.form, text)
                .map_err(|UnexpectedText| self.unexpected(column))?,
        }
        Ok(())
    }

    fn text<'a>(
        &self,
        column: &Column,
        datums: &[Datum<'a>],
    ) -> Result<Option<&'a str>, EncodeError> {
        match column.datum(datums) {
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

#[cfg(test)]
mod tests;
