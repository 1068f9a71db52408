//! `rowtide types`: what the tables of a definition are in TypeScript, from the catalog. For each its
//! rows, what an insert and an update may name (what the definition lets nobody write is not there),
//! and its key, in the form that the JavaScript client is given. For each query, its parameters.
//!
//! A client shows a row that it inserts before the server has it, and a program must find in it what the type of rows
//! says. So the client is given the defaults that are constants; an insert must name what else a client can make, such as a time;
//! and what only the database can make is optional in rows.

use std::fmt::Write;

use rowtide_plan::catalog::CatalogColumn;
use rowtide_plan::default_value::DefaultValue;
use rowtide_plan::plan::{Plan, Table};
use rowtide_plan::queries::QueryParam;
use rowtide_plan::value::{ColumnType, Int8Form};

const HEADER: &str =
    "// Written by `rowtide types`: run it again when the tables or the definition change.\n\n";

/// What a program reads of a `float8`: with anything else in the type it could not calculate. The strings that stand for what is
/// not a number calculate as what they name (`'Infinity' > 1`), and `Number` makes it of them.
const READ_FLOAT: &str = "number";
/// What a program may write to a `float8`.
const WRITTEN_FLOAT: &str = "Float";

/// A TypeScript module with `Schema`, a type for the rows of each table, with `Queries`, one for the parameters of each query if
/// there are any, and with `tables`.
pub(crate) fn types(plan: &Plan) -> String {
    let tables: Vec<&Table> = plan.tables.iter().filter(|table| table.published).collect();
    let sent = tables.iter().flat_map(|table| table.sent_columns());
    let of_columns = sent.map(|(_, column)| column.kind.clone());
    let params = plan.queries.iter().flat_map(|query| &query.params);
    let kinds: Vec<ColumnType> =
        of_columns.chain(params.map(|param| param.kind.column_type())).collect();
    let mut text = HEADER.to_owned();
    if kinds.iter().any(|kind| *element(kind) == ColumnType::Json) {
        text.push_str("import type { Json } from '@rowtide/client';\n\n");
    }
    if kinds.iter().any(|kind| matches!(element(kind), ColumnType::Float4 | ColumnType::Float8)) {
        text.push_str("export type Float = number | 'NaN' | 'Infinity' | '-Infinity';\n\n");
    }
    text.push_str("export interface Schema {\n");
    for table in &tables {
        push(&mut text, format_args!("  {}: {{\n", property(&table.name)));
        row(&mut text, plan, table);
        insert(&mut text, plan, table);
        update(&mut text, plan, table);
        let key = table.catalog.primary_key.iter().map(|column| quoted(column));
        push(&mut text, format_args!("    key: {};\n  }};\n", key.collect::<Vec<_>>().join(" | ")));
    }
    text.push_str("}\n\n");
    queries(&mut text, plan);
    text.push_str("export const tables = {\n");
    for table in &tables {
        let key: Vec<String> =
            table.catalog.primary_key.iter().map(|column| quoted(column)).collect();
        let (name, key) = (property(&table.name), key.join(", "));
        let constants = constants(plan, table);
        let defaults = match constants.is_empty() {
            true => String::new(),
            false => format!(", defaults: {{ {} }}", constants.join(", ")),
        };
        push(&mut text, format_args!("  {name}: {{ key: [{key}]{defaults} }},\n"));
    }
    text.push_str("} as const;\n");
    text
}

/// What each query takes.
fn queries(text: &mut String, plan: &Plan) {
    if plan.queries.is_empty() {
        return;
    }
    text.push_str("export interface Queries {\n");
    for query in &plan.queries {
        let params: Vec<String> =
            query.params.iter().map(|param| parameter(param, plan.int8)).collect();
        let params = match params.is_empty() {
            true => "{}".to_owned(),
            false => format!("{{ {} }}", params.join("; ")),
        };
        push(text, format_args!("  {}: {params};\n", property(&query.name)));
    }
    text.push_str("}\n\n");
}

/// What a parameter may be: null fits every type.
fn parameter(param: &QueryParam, int8: Int8Form) -> String {
    let is_int8 = param.kind.sql().starts_with("int8");
    let form = if is_int8 { int8 } else { Int8Form::Number };
    let mark = if param.is_optional() { "?" } else { "" };
    let values = value(&[], &param.kind.column_type(), form, WRITTEN_FLOAT);
    format!("{}{mark}: {values} | null", property(&param.name))
}

/// What a row has: what nobody but the database can make is not there in one that has just been inserted.
fn row(text: &mut String, plan: &Plan, table: &Table) {
    let is_late = |index: usize, column: &CatalogColumn| {
        let may_lack = table.write.insert.is_some() && !table.key.contains(&index);
        may_lack
            && match column.default_value(plan.form_of(column)) {
                DefaultValue::Constant(_) => false,
                DefaultValue::OfPostgres => true,
                DefaultValue::Expression | DefaultValue::Missing => !is_inserted(table, index),
            }
    };
    object(
        text,
        plan,
        "row",
        table.sent_columns().map(|(index, column)| (column, is_late(index, column))),
    );
}

/// What an insert takes. What the database makes or the client is told may be left out.
fn insert(text: &mut String, plan: &Plan, table: &Table) {
    if table.write.insert.is_none() {
        return text.push_str("    insert: never;\n");
    }
    let written = table.sent_columns().filter(|(index, _)| is_inserted(table, *index));
    object(
        text,
        plan,
        "insert",
        written.map(|(index, column)| {
            let default = column.default_value(plan.form_of(column));
            let optional = matches!(default, DefaultValue::Constant(_) | DefaultValue::OfPostgres);
            match table.key.contains(&index) {
                true => (column, table.makes_key(index)),
                false => (column, optional),
            }
        }),
    );
}

/// Whether a client may give the column a value in an insert.
fn is_inserted(table: &Table, index: usize) -> bool {
    let readonly = table.write.readonly.contains(&index);
    !readonly && !table.catalog.columns[index].input.is_of_postgres_alone()
}

/// What a row has that an insert leaves out, as far as that is a constant. A key that is left out is made.
fn constants(plan: &Plan, table: &Table) -> Vec<String> {
    let columns = table
        .sent_columns()
        .filter(|(index, _)| table.write.insert.is_some() && !table.key.contains(index));
    let constant = |column: &CatalogColumn| match column.default_value(plan.form_of(column)) {
        DefaultValue::Constant(json) => {
            Some(format!("{}: {}", property(&column.name), literal(json)))
        }
        _ => None,
    };
    columns.filter_map(|(_, column)| constant(column)).collect()
}

/// JSON as this module writes it: a string in single quotes.
fn literal(json: String) -> String {
    serde_json::from_str::<String>(&json).map_or(json, |text| quoted(&text))
}

/// What an update may name beside the key: all of it may be left out.
fn update(text: &mut String, plan: &Plan, table: &Table) {
    let rules = &table.write;
    if rules.updates.is_empty() {
        return text.push_str("    update: never;\n");
    }
    let may = |index: usize| {
        let named = |columns: &Option<Vec<usize>>| {
            columns.as_ref().is_none_or(|columns| columns.contains(&index))
        };
        let fixed = rules.readonly.contains(&index) || rules.immutable.contains(&index);
        !fixed
            && !table.key.contains(&index)
            && rules.updates.iter().any(|rule| named(&rule.columns))
    };
    let written = table.sent_columns().filter(|(index, _)| may(*index));
    object(text, plan, "update", written.map(|(_, column)| (column, true)));
}

fn object<'a>(
    text: &mut String,
    plan: &Plan,
    name: &str,
    columns: impl Iterator<Item = (&'a CatalogColumn, bool)>,
) {
    push(text, format_args!("    {name}: {{\n"));
    let float = if name == "row" { READ_FLOAT } else { WRITTEN_FLOAT };
    for (column, optional) in columns {
        let form = plan.form_of(column);
        if let Some(told) = told(column, form) {
            push(text, format_args!("      /** {told} */\n"));
        }
        let (name, mark) = (property(&column.name), if optional { "?" } else { "" });
        let null = if column.not_null { "" } else { " | null" };
        push(
            text,
            format_args!(
                "      {name}{mark}: {}{null};\n",
                value(&column.labels, &column.kind, form, float)
            ),
        );
    }
    text.push_str("    };\n");
}

/// The type in Postgres, where that in TypeScript does not say it.
fn told(column: &CatalogColumn, form: Int8Form) -> Option<String> {
    if matches!(element(&column.kind), ColumnType::Float4 | ColumnType::Float8) {
        return Some(format!("{}: NaN and infinities come as strings", column.type_name));
    }
    let plain = matches!(
        column.kind,
        ColumnType::Bool | ColumnType::Int | ColumnType::Text | ColumnType::Enum | ColumnType::Json
    );
    let is_string = column.kind == ColumnType::Int && form == Int8Form::String;
    (!plain || is_string).then(|| column.type_name.replace("*/", "* /"))
}

fn value(labels: &[String], kind: &ColumnType, form: Int8Form, float: &str) -> String {
    match kind {
        ColumnType::Bool => "boolean".to_owned(),
        ColumnType::Int if form == Int8Form::String => "string".to_owned(),
        ColumnType::Int => "number".to_owned(),
        ColumnType::Float4 | ColumnType::Float8 => float.to_owned(),
        ColumnType::Json => "Json".to_owned(),
        ColumnType::Enum if !labels.is_empty() => {
            labels.iter().map(|label| quoted(label)).collect::<Vec<_>>().join(" | ")
        }
        ColumnType::Array(of) => format!("({} | null)[]", value(labels, of, form, float)),
        _ => "string".to_owned(),
    }
}

fn element(kind: &ColumnType) -> &ColumnType {
    match kind {
        ColumnType::Array(of) => element(of),
        kind => kind,
    }
}

/// A name as a property: in quotes unless it is an ordinary identifier.
fn property(name: &str) -> String {
    let mut chars = name.chars();
    let begins = chars.next().is_some_and(|char| char.is_ascii_alphabetic() || "_$".contains(char));
    if begins && chars.all(|char| char.is_ascii_alphanumeric() || "_$".contains(char)) {
        return name.to_owned();
    }
    quoted(name)
}

fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('\'', "\\'");
    format!("'{}'", text.replace('\n', "\\n").replace('\r', "\\r"))
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing into a string does not fail.
    let _ = text.write_fmt(what);
}
