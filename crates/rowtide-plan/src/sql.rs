//! The SQL of loads. Every column is selected so that the text is exactly what the type's output
//! function prints, because that is what the stream sends, and both must become the same JSON. Names
//! come from the catalog and literals are quoted; nothing of a client's is ever part of it.

use crate::catalog::CatalogColumn;
use crate::claims::ClaimUse;
use crate::filter::{InSet, Operand, Predicate};
use crate::ids::{BranchId, ClaimId};
use crate::plan::{Branch, Plan, Table};
use crate::value::{ColumnType, Family, Value};
use crate::window::{OrderColumn, Window};

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
/// order. `$1` is a `text[]` of anchor values; there is none if the branch has no anchor. Of a branch that is for a window
/// `$1` is a `bigint[]`, of how many rows are wanted for each topic, `$2` the anchor values, and before the columns comes the
/// place of the row's topic in these arrays, from 1.
pub fn load_sql(plan: &Plan, branch: BranchId) -> String {
    let branch = plan.branch(branch);
    let table = plan.table(branch.table);
    let anchor = branch.anchor.map(|anchor| &table.catalog.columns[anchor]);
    let Some(window) = branch.window else {
        let anchor = anchor.map(|anchor| anchor_condition(anchor, "$1"));
        return rows_sql(plan, branch, anchor);
    };
    let from = quote_table(&table.catalog.schema, &table.catalog.name);
    let order = order_sql(plan.window(window), table, Some(&from));
    let Some(anchor) = anchor else {
        let rows = rows_sql(plan, branch, None).replace('\n', "\n  ");
        return format!(
            "SELECT '1', first.*\nFROM (\n  {rows}\n  ORDER BY {order}\n  LIMIT ($1::int8[])[1]\n) AS first"
        );
    };
    // Within, the table's own name comes first.
    let asked = if table.catalog.name == "asked" { "asked_for" } else { "asked" };
    let rows = rows_sql(plan, branch, Some(one_anchor(anchor, asked))).replace('\n', "\n  ");
    format!(
        "SELECT {asked}.place::text, first.*\n\
         FROM unnest($1::int8[], $2::text[]) WITH ORDINALITY AS {asked}(rows, anchor, place)\n\
         CROSS JOIN LATERAL (\n  {rows}\n  ORDER BY {order}\n  LIMIT {asked}.rows\n) AS first"
    )
}

/// What SQL calls the order of a window. Where columns are named `of` their table, a name is not that of what is selected, which
/// may be a column that has been made text.
pub(crate) fn order_sql(window: &Window, table: &Table, of: Option<&str>) -> String {
    let from = of.map(|of| format!("{of}.")).unwrap_or_default();
    let column = |of: &OrderColumn| {
        let column = &table.catalog.columns[of.column];
        let collation = if column.kind == ColumnType::Text { " COLLATE \"C\"" } else { "" };
        let direction = if of.descending { " DESC" } else { "" };
        let nulls = match (of.descending, of.nulls_first) {
            (true, true) | (false, false) => "",
            (false, true) => " NULLS FIRST",
            (true, false) => " NULLS LAST",
        };
        format!("{from}{}{collation}{direction}{nulls}", quote_identifier(&column.name))
    };
    window.order.iter().map(column).collect::<Vec<_>>().join(", ")
}

/// The column is the anchor that is asked for. A plain equality, so that an index over the column and the order serves.
fn one_anchor(column: &CatalogColumn, asked: &str) -> String {
    if column.kind == ColumnType::Enum || column.kind.element().is_some() {
        return anchor_condition(column, &format!("ARRAY[{asked}.anchor]"));
    }
    format!("{} = {asked}.anchor::{}", compared(column), comparison_type(column))
}

fn rows_sql(plan: &Plan, branch: &Branch, anchor: Option<String>) -> String {
    let table = plan.table(branch.table);
    let columns = plan.read_columns(branch.table).into_iter();
    let columns: Vec<String> = columns.map(|at| text_of(&table.catalog.columns[at])).collect();
    let from = quote_table(&table.catalog.schema, &table.catalog.name);
    let mut conditions = Vec::from_iter(anchor);
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
    if column.kind.element().is_some() {
        return overlaps(column, values);
    }
    let (name, element) = (compared(column), comparison_type(column));
    if column.kind == ColumnType::Enum {
        // A claim need not be one of the labels, and then must not fail the load of all others.
        return format!(
            "{name} = ANY(ARRAY(SELECT label FROM unnest(enum_range(NULL::{element})) AS label \
             WHERE concat(label) = ANY({values})))"
        );
    }
    format!("{name} = ANY({values}::text[]::{element}[])")
}

/// The column, an array, has one of `values`, an array of text. They are brought to the column's own type, which its index is
/// for: without numbers that no element can be.
fn overlaps(column: &CatalogColumn, values: &str) -> String {
    let (name, array) = (quote_identifier(&column.name), column.input.type_name.as_str());
    let (element, range) = match array {
        "smallint[]" => ("int2", "-32768 AND 32767"),
        "integer[]" => ("int4", "-2147483648 AND 2147483647"),
        // What is compared is not always one of these.
        "real[]" => return format!("{name}::float8[] && {values}::text[]::float8[]"),
        "oid[]" => return format!("{name}::int8[] && {values}::text[]::int8[]"),
        "name[]" => return format!("{name}::text[] && {values}::text[]"),
        _ => return format!("{name} && {values}::text[]::{array}"),
    };
    format!(
        "{name} && ARRAY(SELECT value::{element} FROM unnest({values}::text[]::int8[]) AS value \
         WHERE value BETWEEN {range})"
    )
}

/// The type of values that a column is compared with: the widest of its kind, so that none is out of
/// range, is cut or rounded, or is rejected by a domain, and the same index serves.
pub(crate) fn literal_type(column: &CatalogColumn) -> &str {
    type_of_kind(&column.kind).unwrap_or(&column.input.type_name)
}

/// The type of what a column is compared with in a rule. A `float4` is compared as the `float8` that it is, since a number
/// without quotes, which is no `float4`, may stand beside it.
fn comparison_type(column: &CatalogColumn) -> &str {
    if column.kind == ColumnType::Float4 { "float8" } else { literal_type(column) }
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
    let no_claims = |_: ClaimId, _: &str| unreachable!("a row filter holds no claims");
    let no_sets = |_: &InSet| unreachable!("a row filter asks no set");
    predicate_of_view(table, predicate, &ViewSql { uses: &[], claim: &no_claims, set: &no_sets })
}

/// How what a view decides is written in SQL.
pub(crate) struct ViewSql<'a> {
    /// [`crate::plan::Plan::claims`].
    pub(crate) uses: &'a [ClaimUse],
    /// Writes a claim as a type.
    pub(crate) claim: &'a dyn Fn(ClaimId, &str) -> String,
    /// Writes who is in a set.
    pub(crate) set: &'a dyn Fn(&InSet) -> String,
}

/// As [`predicate_sql`], for predicates that hold claims and ask sets as well.
pub(crate) fn predicate_of_view(
    table: &Table,
    predicate: &Predicate,
    view: &ViewSql<'_>,
) -> String {
    let column = |index: usize| &table.catalog.columns[index];
    let joined = |parts: &[Predicate], word: &str, of_none: &str| {
        if parts.is_empty() {
            return of_none.to_owned();
        }
        let parts: Vec<String> =
            parts.iter().map(|part| predicate_of_view(table, part, view)).collect();
        format!("({})", parts.join(word))
    };
    let claim_kind = |id: ClaimId| view.uses.get(usize::from(id.0)).map(|claim| &claim.kind);
    // What a literal beside it is, and the name of that type.
    let type_beside = |operand: &Operand| match operand {
        Operand::Column(index) => {
            Some((column(*index).kind.clone(), comparison_type(column(*index))))
        }
        Operand::Cast(_, kind) => Some((kind.clone(), type_of_kind(kind)?)),
        Operand::Claim(id) => {
            claim_kind(*id).and_then(|kind| Some((kind.clone(), type_of_kind(kind)?)))
        }
        Operand::Literal(_) => None,
    };
    let operand = |operand: &Operand, beside: Option<&Operand>| match operand {
        Operand::Column(index) => compared(column(*index)),
        Operand::Cast(index, kind) => cast(column(*index), kind),
        Operand::Literal(value) => literal(value, beside.and_then(type_beside)),
        // A column has more to say about its type: a label is compared with one of its enum.
        Operand::Claim(id) => {
            let of_column = beside.filter(|beside| beside.column().is_some());
            let as_type = of_column.and_then(type_beside).or_else(|| type_beside(operand));
            (view.claim)(*id, as_type.map_or("text", |(_, name)| name))
        }
    };
    match predicate {
        Predicate::Literal(None) => "NULL::bool".to_owned(),
        Predicate::Literal(Some(answer)) => answer.to_string(),
        Predicate::Bare(inner) => operand(inner, None),
        Predicate::IsNull(inner) => match inner.column().map(column) {
            // The value itself, and not the fields of a composite one.
            Some(column) if column.kind == ColumnType::Other => {
                format!("num_nulls({}) = 1", quote_identifier(&column.name))
            }
            _ => format!("{} IS NULL", operand(inner, None)),
        },
        Predicate::InSet(test) => (view.set)(test),
        Predicate::Time(test) => {
            let (column, is) = (operand(&test.column, None), test.comparison.sql());
            format!("{column} {is} now(){}", test.interval_sql())
        }
        Predicate::Any(item, array) => {
            let kind = match array {
                Operand::Column(index) => column(*index).kind.element(),
                Operand::Claim(id) => claim_kind(*id).and_then(ColumnType::element),
                Operand::Cast(..) | Operand::Literal(_) => None,
            };
            let kind = kind.cloned().unwrap_or(ColumnType::Text);
            // A claim need not be one of the labels, and is none of them then.
            let as_text = kind == ColumnType::Enum;
            let name = match kind {
                ColumnType::Float4 => "float8",
                _ => type_of_kind(&kind).unwrap_or("text"),
            };
            let item = match item {
                Operand::Column(index) if as_text => cast(column(*index), &ColumnType::Text),
                Operand::Literal(value) => literal(value, Some((kind.clone(), name))),
                Operand::Claim(id) => (view.claim)(*id, name),
                item => operand(item, None),
            };
            let array = match array {
                Operand::Column(index) => {
                    let array = quote_identifier(&column(*index).name);
                    let is_oid = kind == ColumnType::Int && column(*index).type_name == "oid[]";
                    if is_oid { format!("{array}::{name}[]") } else { array }
                }
                Operand::Claim(id) => (view.claim)(*id, &format!("{name}[]")),
                other => operand(other, None),
            };
            format!("{item} = ANY({array})")
        }
        Predicate::Is(inner, answer) => {
            format!("(({}) IS {})", predicate_of_view(table, inner, view), truth(*answer))
        }
        Predicate::Not(inner) => format!("NOT ({})", predicate_of_view(table, inner, view)),
        Predicate::And(parts) => joined(parts, " AND ", "true"),
        Predicate::Or(parts) => joined(parts, " OR ", "false"),
        Predicate::Compare(comparison, left, right) => {
            let kind = |operand: &Operand| match operand {
                Operand::Column(index) => Some(column(*index).kind.clone()),
                Operand::Cast(_, kind) => Some(kind.clone()),
                Operand::Literal(_) | Operand::Claim(_) => None,
            };
            let sides = match (kind(left), kind(right)) {
                // A claim need not be one of the labels, and is none of them then.
                (Some(ColumnType::Enum), None) | (None, Some(ColumnType::Enum))
                    if [left, right].iter().any(|side| matches!(side, Operand::Claim(_))) =>
                {
                    [left, right].map(|side| match side {
                        Operand::Column(index) => cast(column(*index), &ColumnType::Text),
                        side => operand(side, None),
                    })
                }
                // Between `varchar` and `char(n)` Postgres would not count trailing blanks, between
                // `text` and `char(n)` it does.
                (Some(a), Some(b)) if a != b && a.family() == Some(Family::Text) => {
                    [left, right].map(|side| format!("{}::text", operand(side, None)))
                }
                _ => [operand(left, Some(right)), operand(right, Some(left))],
            };
            sides.join(&format!(" {} ", comparison.sql()))
        }
        Predicate::In(inner, values) => {
            let of = |value: &Value| literal(value, type_beside(inner));
            let values: Vec<String> = values.iter().map(of).collect();
            format!("{} IN ({})", operand(inner, None), values.join(", "))
        }
    }
}

/// A column as a type that each of its values can be.
fn cast(column: &CatalogColumn, kind: &ColumnType) -> String {
    let (name, to) = (quote_identifier(&column.name), type_of_kind(kind).unwrap_or("text"));
    // The application may have a cast of its own.
    if column.kind == ColumnType::Enum {
        format!("enum_out({name})::{to}")
    } else {
        format!("{name}::{to}")
    }
}

/// What stands behind `IS`.
pub(crate) fn truth(answer: Option<bool>) -> &'static str {
    match answer {
        Some(true) => "TRUE",
        Some(false) => "FALSE",
        None => "UNKNOWN",
    }
}

/// A literal for people, without its type.
pub(crate) fn literal_sql(value: &Value, kind: &ColumnType) -> String {
    match value {
        Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Numeric(_) => {
            value.to_text(&ColumnType::Text).unwrap_or_default()
        }
        other => other.to_text(kind).map_or_else(|| "NULL".to_owned(), |text| quote_literal(&text)),
    }
}

fn literal(value: &Value, beside: Option<(ColumnType, &str)>) -> String {
    let (kind, type_name) = beside.unzip();
    match (value.to_text(&kind.unwrap_or(ColumnType::Text)), type_name) {
        (None, _) => "NULL".to_owned(),
        (Some(text), Some(type_name)) => format!("{}::{type_name}", quote_literal(&text)),
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
