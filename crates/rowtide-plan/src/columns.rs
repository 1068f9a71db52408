//! Which columns of a table are known of outside of Postgres. Clients are *sent* those that the definition lets out, and
//! know of no others: a row's JSON holds these alone. Rules for reading may ask for any column, so what they need is
//! *read* beside them. What is neither is not loaded, routed, kept or logged.

use std::collections::BTreeSet;

use crate::catalog::CatalogColumn;
use crate::plan::{Plan, Table, TableId};
use crate::value::Int8Form;

impl Table {
    /// Whether clients are sent the column, and may name it in what they write.
    pub fn is_sent(&self, column: usize) -> bool {
        !self.hidden.contains(&column)
    }

    /// The columns that clients are sent, each with its place in the catalog's columns, in that order.
    pub fn sent_columns(&self) -> impl Iterator<Item = (usize, &CatalogColumn)> + Clone {
        self.catalog.columns.iter().enumerate().filter(|(column, _)| self.is_sent(*column))
    }

    /// The place in the catalog's columns of the one that clients know by this name.
    pub fn sent_column(&self, name: &str) -> Option<usize> {
        self.catalog.column(name).filter(|column| self.is_sent(*column))
    }
}

impl Plan {
    /// How the integers of a column are written in the rows that clients are sent.
    pub fn form_of(&self, column: &CatalogColumn) -> Int8Form {
        if column.input.is_int8 { self.int8 } else { Int8Form::Number }
    }

    /// The columns of a table that clients are sent, or that rules for reading need, by their places in the catalog's
    /// columns.
    pub fn read_columns(&self, id: TableId) -> BTreeSet<usize> {
        let mut read = self.needed_columns(id);
        let table = self.table(id);
        read.extend(&table.key);
        read.extend(table.sent_columns().map(|(column, _)| column));
        read
    }

    /// Whether rules of documents are asked anew with every change of the table's rows: they may name any column.
    pub(crate) fn is_asked_by_documents(&self, id: TableId) -> bool {
        self.documents.iter().any(|kind| kind.table == id || kind.looks_into.contains(&id))
    }

    /// The columns of a table whose values rules for reading need, by their places in the catalog's columns.
    pub(crate) fn needed_columns(&self, id: TableId) -> BTreeSet<usize> {
        let table = self.table(id);
        let mut needed: BTreeSet<usize> = table.kept.iter().copied().collect();
        for branch in table.branches.iter().map(|id| self.branch(*id)) {
            needed.extend(branch.anchor);
            branch.filter.0.operands(&mut |operand| needed.extend(operand.column()));
        }
        needed
    }
}
