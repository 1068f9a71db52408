//! SQL with parameters, while it is written. A value of the write and a claim become `$1`, `$2`, … in the
//! order in which they are first named, each with the type that Postgres is to read it as. So no value is ever
//! a part of the text.

use super::steps::WRITTEN;
use crate::claims::Claim;
use crate::ids::ClaimId;
use crate::judged_rule::{JudgedRule, RuleClaim};
use crate::plan::{Plan, Table};
use crate::sql::{quote_identifier, quote_table};
use crate::value::ColumnType;

/// What a parameter stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// The write's value of a column, or that of a call's parameter.
    Value(usize),
    /// A claim as a type; null if it does not fit.
    Claim(Claim, ColumnType),
}

/// SQL with its parameters, in their order; each is sent as text.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The text.
    pub sql: String,
    /// What `$1`, `$2`, … are.
    pub params: Vec<Param>,
}

/// Collects parameters while SQL is written.
#[derive(Default)]
pub(super) struct Params {
    pub(super) list: Vec<Param>,
    types: Vec<String>,
}

impl Params {
    /// `$n::type`; of one type what is the same is one parameter.
    fn typed(&mut self, param: Param, type_name: &str) -> String {
        let same = |at: &usize| self.list[*at] == param && self.types[*at] == type_name;
        let at = (0..self.list.len()).find(same).unwrap_or_else(|| {
            self.list.push(param);
            self.types.push(type_name.to_owned());
            self.list.len() - 1
        });
        format!("${}::{type_name}", at + 1)
    }

    pub(super) fn value(&mut self, table: &Table, column: usize) -> String {
        self.typed(Param::Value(column), &table.catalog.columns[column].input.type_name)
    }

    /// In parentheses, so that what stands behind it is of the value, as the `[1]` of `params.ids[1]`.
    pub(super) fn argument(&mut self, index: usize, type_name: &str) -> String {
        format!("({})", self.typed(Param::Value(index), type_name))
    }

    pub(super) fn rule(&mut self, rule: &JudgedRule) -> String {
        rule.sql(|claim| self.rule_claim(claim))
    }

    /// A rule that judges these rows, which are there under their names. Where columns have no prefix they are those of each of
    /// the rows in turn, found as Postgres finds columns: the nearest row that has one by that name.
    pub(super) fn allow(&mut self, table: &Table, rule: &JudgedRule, rows: &[&str]) -> String {
        if !rule.is_bare() {
            return self.rule(rule);
        }
        let rule = self.rule(rule);
        let holds: Vec<String> = rows.iter().map(|row| of_row(table, row, &rule)).collect();
        format!("({})", holds.join(" AND "))
    }

    pub(super) fn rule_claim(&mut self, claim: &RuleClaim) -> String {
        claim.sql(|kind, type_name| self.typed(Param::Claim(claim.claim.clone(), kind), type_name))
    }

    pub(super) fn claim(&mut self, plan: &Plan, id: ClaimId, type_name: &str) -> String {
        let wanted = &plan.claims[usize::from(id.0)];
        let param = Param::Claim(wanted.claim.clone(), wanted.kind.clone());
        self.typed(param, type_name)
    }
}

/// The table in SQL, with its schema.
pub(super) fn name(table: &Table) -> String {
    quote_table(&table.catalog.schema, &table.catalog.name)
}

/// An expression over the plain columns of a row, which also have the table's name.
pub(super) fn of_row(table: &Table, row: &str, expression: &str) -> String {
    let alias = match table.catalog.name.as_str() {
        // In the expression these are the rows themselves.
        "old" | "new" => "\"rowtide row\"".to_owned(),
        name => quote_identifier(name),
    };
    format!("(SELECT {expression} FROM (SELECT {row}.*) AS {alias})")
}

/// A column in SQL.
pub(super) fn quoted(table: &Table, column: usize) -> String {
    quote_identifier(&table.catalog.columns[column].name)
}

/// What an insert returns: its key, if that is made.
pub(super) fn key_returned(table: &Table, makes_key: bool) -> String {
    if !makes_key {
        return "1".to_owned();
    }
    let key: Vec<String> = table.key.iter().map(|column| quoted(table, *column)).collect();
    key.join(", ")
}

/// The key that was returned, as Postgres prints each of its columns.
pub(super) fn key_made(table: &Table) -> String {
    let printed = |column: &usize| format!("pg_catalog.format('%s', {})", quoted(table, *column));
    let key: Vec<String> = table.key.iter().map(printed).collect();
    format!("(SELECT ARRAY[{}] FROM {WRITTEN}) AS made", key.join(", "))
}

/// The row is the one with the write's key; `prefix` stands before the columns.
pub(super) fn key_is(table: &Table, prefix: &str, params: &mut Params) -> String {
    let is = |column: &usize| {
        format!("{prefix}{} = {}", quoted(table, *column), params.value(table, *column))
    };
    let conditions: Vec<String> = table.key.iter().map(is).collect();
    conditions.join(" AND ")
}
