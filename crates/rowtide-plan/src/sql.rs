//! The SQL of loads. Every column is selected so that the text is exactly what the type's output
//! function prints, because that is what the stream sends, and both must become the same JSON. Names
//! come from the catalog and literals are quoted; nothing of a client's is ever part of it.

use crate::catalog::CatalogColumn;
use crate::filter::{InSet, Operand, Predicate};
use crate::ids::{BranchId, ClaimId};
use crate::plan::{Plan, Table};
use crate::value::{ColumnType, Family, Value};

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

/// The query for rows of a branch: the columns that are read of its table ([`Plan::read_columns`]) as text, in the catalog's
/// order. `$1` is a `text[]` of anchor values; there is none if the branch has no anchor.
pub fn load_sql(plan: &Plan, branch: BranchId) -> String {
    let branch = plan.branch(branch);
    let table = plan.table(branch.table);
    let columns = plan.read_columns(branch.table).into_iter();
    let columns: Vec<String> = columns.map(|at| text_of(&table.catalog.columns[at])).collect();
    let from = quote_table(&table.catalog.schema, &table.catalog.name);
    let mut conditions = Vec::new();
    if let Some(anchor) = branch.anchor {
        conditions.push(anchor_condition(&table.catalog.columns[anchor], "$1"));
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

/// What the output function of the column's type prints.
fn text_of(column: &CatalogColumn) -> String {
    let name = quote_identifier(&column.name);
    if cast_prints_the_same(&column.kind) {
        format!("{name}::text")
    } else {
        // `concat` calls the output function, but makes an empty text of null. `IS NULL` would ask a
        // composite value whether its fields are null.
        format!("CASE WHEN num_nulls({name}) = 0 THEN concat({name}) END")
    }
}

/// A cast to text is the output function, except for `bool`, `char(n)`, `inet`, and types that the
/// application has defined with casts of its own.
fn cast_prints_the_same(kind: &ColumnType) -> bool {
    match kind {
        ColumnType::Bool | ColumnType::Char | ColumnType::Enum | ColumnType::Other => false,
        ColumnType::Array(element) => !matches!(**element, ColumnType::Enum | ColumnType::Other),
        _ => true,
    }
}

/// The column is one of `values`, an array of text.
pub(crate) fn anchor_condition(column: &CatalogColumn, values: &str) -> String {
    let (name, element) = (compared(column), literal_type(column));
    if column.kind == ColumnType::Enum {
        // A claim need not be one of the labels, and then must not fail the load of all others.
        return format!(
            "{name} = ANY(ARRAY(SELECT label FROM unnest(enum_range(NULL::{element})) AS label \
             WHERE concat(label) = ANY({values})))"
        );
    }
    format!("{name} = ANY({values}::text[]::{element}[])")
}

/// The type of values that a column is compared with: the widest of its kind, so that none is out of
/// range, is cut or rounded, or is rejected by a domain, and the same index serves.
pub(crate) fn literal_type(column: &CatalogColumn) -> &str {
    type_of_kind(&column.kind).unwrap_or(&column.input.type_name)
}

/// As [`literal_type`], where there is one for the kind alone.
pub(crate) fn type_of_kind(kind: &ColumnType) -> Option<&'static str> {
    Some(match kind {
        ColumnType::Bool => "bool",
        ColumnType::Int => "int8",
        ColumnType::Float4 => "float4",
        ColumnType::Float8 => "float8",
        ColumnType::Numeric => "numeric",
        ColumnType::Text => "text",
        ColumnType::Char => "bpchar",
        ColumnType::Uuid => "uuid",
        ColumnType::Bytea => "bytea",
        ColumnType::TimestampTz => "timestamptz",
        ColumnType::Timestamp => "timestamp",
        ColumnType::Date => "date",
        ColumnType::Time => "time",
        ColumnType::Enum | ColumnType::Json | ColumnType::Array(_) | ColumnType::Other => {
            return None;
        }
    })
}

/// A column as it stands in a comparison.
pub(crate) fn compared(column: &CatalogColumn) -> String {
    let name = quote_identifier(&column.name);
    // Beside an `oid` Postgres would make an `oid` of a number, and reject a negative one.
    if column.kind == ColumnType::Int && column.type_name == "oid" {
        format!("{name}::int8")
    } else {
        name
    }
}

/// A row filter as SQL over the table's columns; its answer for every row is that of
/// [`Predicate::judge`].
pub fn predicate_sql(table: &Table, predicate: &Predicate) -> String {
    let no_claims =
        |_: ClaimId, _: Option<&CatalogColumn>| unreachable!("a row filter holds no claims");
    let no_sets = |_: &InSet| unreachable!("a row filter asks no set");
    predicate_with_claims(table, predicate, &no_claims, &no_sets)
}

/// As [`predicate_sql`], for predicates that hold claims and ask sets as well: `claim` writes one that is compared
/// with a column, or with a literal, and `set` writes who is in one.
pub(crate) fn predicate_with_claims(
    table: &Table,
    predicate: &Predicate,
    claim: &dyn Fn(ClaimId, Option<&CatalogColumn>) -> String,
    set: &dyn Fn(&InSet) -> String,
) -> String {
    let column = |operand: &Operand| match operand {
        Operand::Column(index) => Some(&table.catalog.columns[*index]),
        _ => None,
    };
    let joined = |parts: &[Predicate], word: &str, of_none: &str| {
        if parts.is_empty() {
            return of_none.to_owned();
        }
        let parts: Vec<String> =
            parts.iter().map(|part| predicate_with_claims(table, part, claim, set)).collect();
        format!("({})", parts.join(word))
    };
    // A literal takes the type of the column that it is compared with.
    let operand = |operand: &Operand, beside: Option<&CatalogColumn>| match operand {
        Operand::Column(index) => compared(&table.catalog.columns[*index]),
        Operand::Literal(value) => literal(value, beside),
        Operand::Claim(id) => claim(*id, beside),
    };
    match predicate {
        Predicate::Literal(None) => "NULL::bool".to_owned(),
        Predicate::Literal(Some(answer)) => answer.to_string(),
        Predicate::Bare(inner) => operand(inner, None),
        Predicate::IsNull(inner) => match column(inner) {
            // The value itself, and not the fields of a composite one.
            Some(column) if column.kind == ColumnType::Other => {
                format!("num_nulls({}) = 1", quote_identifier(&column.name))
            }
            _ => format!("{} IS NULL", operand(inner, None)),
        },
        Predicate::Not(inner) => {
            format!("NOT ({})", predicate_with_claims(table, inner, claim, set))
        }
        Predicate::InSet(test) => set(test),
        Predicate::And(parts) => joined(parts, " AND ", "true"),
        Predicate::Or(parts) => joined(parts, " OR ", "false"),
        Predicate::Compare(comparison, left, right) => {
            let sides = match (column(left), column(right)) {
                // Between `varchar` and `char(n)` Postgres would not count trailing blanks, between
                // `text` and `char(n)` it does.
                (Some(a), Some(b)) if a.kind != b.kind && a.kind.family() == Some(Family::Text) => {
                    [a, b].map(|column| format!("{}::text", quote_identifier(&column.name)))
                }
                (a, b) => {
                    let beside = a.or(b);
                    [operand(left, beside), operand(right, beside)]
                }
            };
            sides.join(&format!(" {} ", comparison.sql()))
        }
        Predicate::In(inner, values) => {
            let beside = column(inner);
            let values: Vec<String> = values.iter().map(|value| literal(value, beside)).collect();
            format!("{} IN ({})", operand(inner, None), values.join(", "))
        }
    }
}

/// A literal for people, without its type.
pub(crate) fn literal_sql(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Numeric(_) => {
            value.to_text(&ColumnType::Text).unwrap_or_default()
        }
        other => literal(other, None),
    }
}

fn literal(value: &Value, beside: Option<&CatalogColumn>) -> String {
    let kind = beside.map_or(ColumnType::Text, |column| column.kind.clone());
    match (value.to_text(&kind), beside) {
        (None, _) => "NULL".to_owned(),
        (Some(text), Some(column)) => format!("{}::{}", quote_literal(&text), literal_type(column)),
        (Some(text), None) => quote_literal(&text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_literals_cannot_end_their_quotes() {
        assert_eq!(quote_identifier(r#"a"b"#), r#""a""b""#);
        assert_eq!(quote_table("public", "user"), r#""public"."user""#);
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"\' OR true --"), r" E'\\'' OR true --'");
    }
}
