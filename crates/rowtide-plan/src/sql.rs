//! The SQL of loads. Every column is selected so that the text is exactly what the type's output
//! function prints, because that is what the stream sends, and both must become the same JSON. Names
//! come from the catalog and literals are quoted; nothing of a client's is ever part of it.

use crate::filter::{Operand, Predicate};
use crate::plan::{BranchId, Plan, Table};
use crate::value::{ColumnType, Value};

/// An identifier in double quotes.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal; right whatever `standard_conforming_strings` is set to.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// `"schema"."table"`.
pub fn quote_table(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_identifier(schema), quote_identifier(name))
}

/// The query for rows of a branch: all columns of the table as text, in the catalog's order. `$1` is
/// a `text[]` of anchor values; there is none if the branch has no anchor.
pub fn load_sql(plan: &Plan, branch: BranchId) -> String {
    let branch = plan.branch(branch);
    let table = plan.table(branch.table);
    let columns: Vec<String> = table
        .catalog
        .columns
        .iter()
        .map(|column| {
            let name = quote_identifier(&column.name);
            if cast_prints_the_same(&column.kind) {
                format!("{name}::text")
            } else {
                // `concat` calls the output function; a cast to text may not (`bool`, `inet`).
                format!("CASE WHEN {name} IS NOT NULL THEN concat({name}) END")
            }
        })
        .collect();
    let from = quote_table(&table.catalog.schema, &table.catalog.name);
    let mut conditions = Vec::new();
    if let Some(anchor) = branch.anchor {
        let column = &table.catalog.columns[anchor];
        let name = quote_identifier(&column.name);
        let element = anchor_type(column);
        conditions.push(format!("{name} = ANY($1::text[]::{element}[])"));
    }
    if branch.filter.0 != Predicate::Literal(Some(true)) {
        conditions.push(predicate_sql(table, &branch.filter.0));
    }
    let condition = match conditions.len() {
        0 => String::new(),
        _ => format!("\nWHERE {}", conditions.join("\n  AND ")),
    };
    format!("SELECT {}\nFROM {from}{condition}", columns.join(", "))
}

/// The type that anchor values are cast to: the column's, without a length that would cut them.
fn anchor_type(column: &crate::catalog::CatalogColumn) -> &str {
    match column.kind {
        ColumnType::Text => "text",
        ColumnType::Char => "bpchar",
        ColumnType::Numeric => "numeric",
        _ => &column.type_name,
    }
}

fn cast_prints_the_same(kind: &ColumnType) -> bool {
    match kind {
        ColumnType::Bool | ColumnType::Char | ColumnType::Other => false,
        ColumnType::Array(element) => !matches!(**element, ColumnType::Other),
        _ => true,
    }
}

/// A row filter as SQL over the table's columns.
pub fn predicate_sql(table: &Table, predicate: &Predicate) -> String {
    let column = |index: usize| &table.catalog.columns[index];
    let joined = |parts: &[Predicate], word: &str| {
        let parts: Vec<String> = parts.iter().map(|part| predicate_sql(table, part)).collect();
        format!("({})", parts.join(word))
    };
    // A literal takes the type of the column that it is compared with.
    let type_of = |operand: &Operand| match operand {
        Operand::Column(index) => Some(column(*index)),
        _ => None,
    };
    let operand = |operand: &Operand, beside: Option<&crate::catalog::CatalogColumn>| match operand
    {
        Operand::Column(index) => quote_identifier(&column(*index).name),
        Operand::Literal(value) => literal(value, beside),
        Operand::Claim(_) => unreachable!("a row filter holds no claims"),
    };
    match predicate {
        Predicate::Literal(None) => "NULL::bool".to_owned(),
        Predicate::Literal(Some(answer)) => answer.to_string(),
        Predicate::Bare(inner) => operand(inner, None),
        Predicate::IsNull(inner) => format!("{} IS NULL", operand(inner, None)),
        Predicate::Not(inner) => format!("NOT ({})", predicate_sql(table, inner)),
        Predicate::And(parts) => joined(parts, " AND "),
        Predicate::Or(parts) => joined(parts, " OR "),
        Predicate::Compare(comparison, left, right) => {
            let beside = type_of(left).or_else(|| type_of(right));
            let (left, right) = (operand(left, beside), operand(right, beside));
            format!("{left} {} {right}", comparison.sql())
        }
        Predicate::In(inner, values) => {
            let beside = type_of(inner);
            let values: Vec<String> = values.iter().map(|value| literal(value, beside)).collect();
            format!("{} IN ({})", operand(inner, None), values.join(", "))
        }
    }
}

fn literal(value: &Value, beside: Option<&crate::catalog::CatalogColumn>) -> String {
    let kind = beside.map_or(ColumnType::Text, |column| column.kind.clone());
    match (value.to_text(&kind), beside) {
        (None, _) => "NULL".to_owned(),
        (Some(text), Some(column)) => format!("{}::{}", quote_literal(&text), anchor_type(column)),
        (Some(text), None) => quote_literal(&text),
    }
}
