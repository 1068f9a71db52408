//! Writes that a role of the database's own does, so that its row-level security and its grants judge them, too. The rules are
//! judged first, by [`super::statement`], as the server's own role: `visible`, `allow` and limits mean the same with a role
//! and without. Then a statement of the role does what they allow. The defaults of an insert were evaluated when it was
//! judged; they are handed over in a setting of the transaction, so that what was judged is what is written.

use rowtide_protocol::OpKind;

use super::columns::{Origin, any, leaves_key, origin, written};
use super::params::{Params, Statement, key_is, key_made, key_returned, name, quoted};
use super::steps::{NEXT, WRITTEN, step};
use crate::ids::TableId;
use crate::plan::{Plan, Table};
use crate::sql::quote_identifier;

const DEFAULTS: &str = "rowtide.defaults";

/// The columns whose defaults an insert of `columns` takes.
pub(super) fn defaults<'a>(
    table: &'a Table,
    columns: &'a [usize],
) -> impl Iterator<Item = usize> + 'a {
    let all = 0..table.catalog.columns.len();
    all.filter(|index| matches!(origin(table, columns, *index), Origin::Default(_)))
}

/// Hands the defaults of `"new"` over, if the insert is allowed, as text that their types read.
pub(super) fn hand_over(table: &Table, columns: &[usize], holds: &str) -> String {
    let values: Vec<String> = defaults(table, columns)
        .map(|column| format!("\"new\".{}::text", quoted(table, column)))
        .collect();
    let values = values.join(", ");
    format!(
        "pg_catalog.set_config('{DEFAULTS}', CASE WHEN {holds} THEN \
         (SELECT ARRAY[{values}]::text[]::text FROM \"new\") ELSE '' END, true)"
    )
}

/// The statement with which the role does a write that was allowed. Answers whether a row was written: policies hide rows from
/// updates and deletes; and the key if that is made, for which the role must be able to read it.
pub fn write_as_role(plan: &Plan, id: TableId, kind: OpKind, columns: &[usize]) -> Statement {
    let table = plan.table(id);
    let into = name(table);
    let mut params = Params::default();
    let write = match kind {
        OpKind::Insert => insert(table, columns, &mut params),
        OpKind::Update => {
            let sets: Vec<String> = written(table, columns)
                .map(|column| {
                    format!("{} = {}", quoted(table, column), params.value(table, column))
                })
                .collect();
            if sets.is_empty() {
                return Statement { sql: "SELECT true".to_owned(), params: Vec::new() };
            }
            let key = key_is(table, "target.", &mut params);
            format!("UPDATE {into} AS target SET {} WHERE {NEXT} AND {key}", sets.join(", "))
        }
        OpKind::Delete => {
            let key = key_is(table, "target.", &mut params);
            format!("DELETE FROM {into} AS target WHERE {NEXT} AND {key}")
        }
    };
    // No other column is returned: the role may be one that cannot read what it writes.
    let makes_key = kind == OpKind::Insert && leaves_key(table, columns);
    let returned = key_returned(table, makes_key);
    let mut go_on = step(&format!("EXISTS (SELECT FROM {WRITTEN})"), "next");
    if makes_key {
        go_on += &format!(", {}", key_made(table));
    }
    let sql = format!(
        "WITH {WRITTEN} AS ({write} RETURNING {returned})\nSELECT EXISTS (SELECT FROM {WRITTEN}), {go_on}"
    );
    Statement { sql, params: params.list }
}

/// A row that is there makes it fail, and not be passed over: to look for one takes the right to read.
fn insert(table: &Table, columns: &[usize], params: &mut Params) -> String {
    let (mut list, mut values, mut handed) = (Vec::new(), Vec::new(), 0);
    for (index, column) in table.catalog.columns.iter().enumerate() {
        let value = match origin(table, columns, index) {
            Origin::Client => params.value(table, index),
            Origin::Default(_) => {
                handed += 1;
                format!("(handed.defaults)[{handed}]::{}", column.input.type_name)
            }
            Origin::Nothing | Origin::Generated => continue,
        };
        list.push(quote_identifier(&column.name));
        values.push(value);
    }
    let mut overriding = "";
    if list.is_empty() {
        list.extend(any(table).map(|column| quoted(table, column)));
        values.push("NULL".to_owned());
        overriding = "OVERRIDING USER VALUE ";
    }
    let (into, list, values) = (name(table), list.join(", "), values.join(", "));
    let handed = match handed {
        0 => String::new(),
        _ => format!(
            " FROM (SELECT nullif(pg_catalog.current_setting('{DEFAULTS}', true), '')::text[] \
             AS defaults) AS handed"
        ),
    };
    format!("INSERT INTO {into} ({list}) {overriding}SELECT {values}{handed} WHERE {NEXT}")
}
