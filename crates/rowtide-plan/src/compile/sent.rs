//! What clients get of the rows of a table, held against the catalog. They tell rows apart by the key, so that is always sent;
//! and they write no column that they do not get.

use super::Compiler;
use crate::definition::SentColumns;
use crate::error::DefinitionProblem;
use crate::ids::TableId;
use crate::rule::Name;
use crate::sql::quote_identifier;
use crate::sql_text::Span;

/// The table and the column of which clients of the older protocol are told whose a row is.
const OLDER_OWNER: (&str, &str) = ("file", "ownerId");

impl Compiler<'_> {
    /// The columns that clients do not get, in the catalog's order.
    pub(super) fn hidden_columns(&mut self, table: TableId, sent: &SentColumns) -> Vec<usize> {
        let count = self.plan.table(table).catalog.columns.len();
        match sent {
            SentColumns::All => Vec::new(),
            SentColumns::Only(names, span) => {
                let sent = self.columns(table, names);
                let hidden: Vec<usize> =
                    (0..count).filter(|column| !sent.contains(column)).collect();
                // What is missing is not known where a name is wrong.
                if sent.len() == names.len() {
                    hidden.iter().for_each(|column| self.may_be_left_out(table, *column, span));
                }
                hidden
            }
            SentColumns::AllBut(names) => {
                let mut hidden = Vec::new();
                for name in names {
                    let left_out = &self.plan.table(table).catalog.streaming.left_out;
                    if left_out.iter().any(|column| column.name == name.text) {
                        // Another version of Postgres may stream it.
                        continue;
                    }
                    if let Ok(column) = self.column(table, name) {
                        self.may_be_hidden(table, column, name);
                        hidden.push(column);
                    }
                }
                hidden.sort_unstable();
                hidden.dedup();
                hidden
            }
        }
    }

    /// The columns of a rule for writing; those that clients do not get are none.
    pub(super) fn written_columns(&mut self, table: TableId, names: &[Name]) -> Vec<usize> {
        for name in names {
            let of = self.plan.table(table);
            if of.catalog.column(&name.text).is_some_and(|column| !of.is_sent(column)) {
                let what = format!("clients do not get column {}", quote_identifier(&name.text));
                let label = "nobody can write it";
                let problem = DefinitionProblem::new(name.span.clone(), what, label);
                self.problem(
                    problem.help("leave it out here: what is hidden is never written by a client"),
                );
            }
        }
        self.columns(table, names)
    }

    fn may_be_hidden(&mut self, table: TableId, column: usize, name: &Name) {
        let quoted = quote_identifier(&name.text);
        let problem = if self.plan.table(table).key.contains(&column) {
            let what = format!("the key column {quoted} cannot be hidden");
            DefinitionProblem::new(name.span.clone(), what, "clients tell rows apart by it")
                .help("take it out of `hidden`; if nobody may know it, give the table another key")
        } else if self.is_of_older_clients(table, column) {
            let what = format!("column {quoted} cannot be hidden from older clients");
            DefinitionProblem::new(name.span.clone(), what, "they are told by it whose a file is")
                .help("take it out of `hidden`, or `older_clients` out of [app]")
        } else {
            return;
        };
        self.problem(problem);
    }

    fn may_be_left_out(&mut self, table: TableId, column: usize, list: &Span) {
        let of = self.plan.table(table);
        let name = &of.catalog.columns[column].name;
        let quoted = quote_identifier(name);
        let problem = if of.key.contains(&column) {
            let what = format!("`columns` leaves out the key column {quoted}");
            DefinitionProblem::new(list.clone(), what, "clients tell rows apart by the key")
                .help(format!("add {quoted}"))
        } else if self.is_of_older_clients(table, column) {
            let what = format!("`columns` leaves out {quoted}, which older clients need");
            DefinitionProblem::new(list.clone(), what, "they are told by it whose a file is")
                .help(format!("add {quoted}, or take `older_clients` out of [app]"))
        } else {
            return;
        };
        self.problem(problem);
    }

    fn is_of_older_clients(&self, table: TableId, column: usize) -> bool {
        let of = self.plan.table(table);
        let name = of.catalog.columns[column].name.as_str();
        self.older_clients && (of.name.as_str(), name) == OLDER_OWNER
    }
}
