//! The SQL of one write. One statement checks the rules and writes if they hold, so nothing can change
//! between the two. The rules see the database as it was before the write, so a new row can never be the
//! reason that the rules allow it. An earlier statement locks the row if it exists, because a statement
//! sees only what was committed before it began, and not what was committed while it waited for a lock. It locks
//! no row that the writer may not see: nobody is held up by those who may not see his rows. All statements of a mutation are
//! sent together, so each passes on in a setting of the transaction whether the next one is to do anything: behind
//! a write that is rejected nothing is locked or written. What the answer means is in [`super::verdict`].

use std::collections::BTreeSet;

use rowtide_protocol::OpKind;

use super::params::{Params, Statement, key_is, name, quoted};
use super::visible::visible;
use crate::catalog::CatalogColumn;
use crate::documents::PlannedKind;
use crate::ids::TableId;
use crate::judged_rule::JudgedRule;
use crate::plan::{Plan, Table};
use crate::sql::{quote_identifier, quote_literal};
use crate::write_rules::{RowLimit, UpdateRule};

/// Names that no table has which a rule may speak of.
const JUDGED: &str = "\"rowtide judged\"";
const WRITTEN: &str = "\"rowtide written\"";

const LOCKED: &str = "\"rowtide locked\"";

/// What lets the next write of a transaction begin, as an expression.
pub const GO_ON: &str = "pg_catalog.set_config('rowtide.step', 'next', true)";
const NEXT: &str = "pg_catalog.current_setting('rowtide.step', true) = 'next'";
/// The row of an update or a delete is locked.
const HAS_LOCK: &str = "pg_catalog.current_setting('rowtide.step', true) = 'locked'";

/// Goes on to `step` where the condition holds, and otherwise does nothing more.
fn step(condition: &str, step: &str) -> String {
    format!(
        "pg_catalog.set_config('rowtide.step', CASE WHEN {condition} THEN '{step}' ELSE 'stop' END, true)"
    )
}

/// A rule by itself, to ask Postgres whether it accepts it.
#[derive(Clone, Debug)]
pub struct RuleStatement {
    /// A `SELECT` of the rule alone.
    pub sql: String,
    /// Where the rule begins in it, in bytes.
    pub starts: usize,
}

/// Locks the row with the write's key, if the writer may see it.
pub fn lock(plan: &Plan, id: TableId, kind: OpKind) -> Statement {
    let table = plan.table(id);
    let mut params = Params::default();
    // An update that keeps the key leaves room for those who only refer to the row.
    let strength = if kind == OpKind::Delete { "UPDATE" } else { "NO KEY UPDATE" };
    let (from, key) = (name(table), key_is(table, "", &mut params));
    let visible = visible(plan, id, &mut params);
    let locked = step(&format!("EXISTS (SELECT FROM {LOCKED})"), "locked");
    let sql = format!(
        "WITH {LOCKED} AS MATERIALIZED (SELECT 1 FROM {from} WHERE {NEXT} AND {key} AND {visible} \
         FOR {strength})\nSELECT {locked}"
    );
    Statement { sql, params: params.list }
}

/// Makes those who insert under one limit wait for each other, until their transactions end. `None` if
/// the table has no limits.
pub fn limit_lock(plan: &Plan, table: TableId) -> Option<Statement> {
    let table = plan.table(table);
    let limits = &table.write.insert.as_ref()?.limits;
    if limits.is_empty() {
        return None;
    }
    let mut params = Params::default();
    // Two users' rows are counted apart if the rule tells them apart.
    let of = |(index, limit): (usize, &RowLimit)| {
        let mut key = quote_literal(&format!("{}/{index}", name(table)));
        for claim in limit.counted.claims() {
            let parameter = params.rule_claim(claim);
            key += &format!(" || '/' || coalesce({parameter}::text, '')");
        }
        format!("pg_advisory_xact_lock(hashtextextended({key}, 0))")
    };
    let locks: Vec<String> = limits.iter().enumerate().map(of).collect();
    // The list is evaluated from left to right, so all take them in one order.
    let sql = format!("SELECT {} WHERE {NEXT}", locks.join(", "));
    Some(Statement { sql, params: params.list })
}

/// The statement of a write that begins with these columns: the key's, and those to write.
pub fn write(plan: &Plan, table: TableId, kind: OpKind, columns: &[usize]) -> Statement {
    match kind {
        OpKind::Insert => insert(plan, table, columns),
        OpKind::Update => update(plan, table, columns),
        OpKind::Delete => delete(plan, table),
    }
}

/// Answers `(exists or written, [allowed, written], [limit reached, …])`.
fn insert(plan: &Plan, id: TableId, columns: &[usize]) -> Statement {
    let table = plan.table(id);
    let from = name(table);
    let mut params = Params::default();
    let (mut values, mut written) = (Vec::new(), Vec::new());
    for (index, column) in table.catalog.columns.iter().enumerate() {
        if column.input.generated.is_some() {
            continue;
        }
        let quoted = quote_identifier(&column.name);
        let type_name = &column.input.type_name;
        let value = match &column.input.default {
            _ if columns.contains(&index) && !column.input.is_of_postgres_alone() => {
                params.value(table, index)
            }
            // Evaluated once, so that what is judged is what is written.
            Some(default) => format!("({default})::{type_name}"),
            _ => {
                values.push(format!("NULL::{type_name} AS {quoted}"));
                continue;
            }
        };
        values.push(format!("{value} AS {quoted}"));
        written.push(quoted);
    }
    let rules = table.write.insert.as_ref();
    let allowed = rules.map_or_else(|| "false".to_owned(), |insert| params.rule(&insert.allow));
    let limits = rules.map_or(&[][..], |insert| &insert.limits);
    let alias = quote_identifier(&table.catalog.name);
    let reached: Vec<String> = limits
        .iter()
        .map(|limit| {
            let counted = params.rule(&limit.counted);
            let max = limit.max;
            format!(
                "((SELECT {counted} IS TRUE FROM \"new\" AS {alias}) AND (SELECT count(*) FROM \
                 (SELECT FROM {from} AS {alias} WHERE {counted} LIMIT {max}) AS counted) >= {max})"
            )
        })
        .collect();
    let selected: Vec<String> = written.iter().map(|column| format!("\"new\".{column}")).collect();
    let values = with_generated(table, format!("SELECT {} WHERE {NEXT}", values.join(", ")));
    let (list, selected) = (written.join(", "), selected.join(", "));
    let (key, reached) = (key_is(table, "", &mut params), reached.join(", "));
    let conflict: Vec<String> = table.key.iter().map(|column| quoted(table, *column)).collect();
    let conflict = conflict.join(", ");
    let go_on = step(&format!("EXISTS (SELECT FROM {WRITTEN})"), "next");
    let sql = format!(
        "WITH \"new\" AS MATERIALIZED ({values}),\n\
         {JUDGED} AS MATERIALIZED (SELECT {allowed} IS TRUE AS allowed, \
         ARRAY[{reached}]::boolean[] AS reached, \
         EXISTS (SELECT FROM {from} WHERE {key}) AS there FROM \"new\"),\n\
         {WRITTEN} AS (INSERT INTO {from} ({list}) SELECT {selected} FROM \"new\", {JUDGED} AS j \
         WHERE j.allowed AND NOT j.there AND NOT true = ANY (j.reached) \
         ON CONFLICT ({conflict}) DO NOTHING RETURNING 1)\n\
         SELECT there, ARRAY[allowed, EXISTS (SELECT FROM {WRITTEN})], reached, {go_on} FROM {JUDGED}"
    );
    Statement { sql, params: params.list }
}

/// Answers `(true, [each rule], [each immutable column is the same])`.
fn update(plan: &Plan, id: TableId, columns: &[usize]) -> Statement {
    let table = plan.table(id);
    let from = name(table);
    let mut params = Params::default();
    let plain = table.catalog.columns.iter().enumerate();
    let plain = plain.filter(|(_, column)| column.input.generated.is_none());
    let new: Vec<String> = plain
        .map(|(index, column)| {
            let quoted = quote_identifier(&column.name);
            if columns.contains(&index) {
                format!("{} AS {quoted}", params.value(table, index))
            } else {
                quoted
            }
        })
        .collect();
    let rules: Vec<String> = (table.write.updates.iter())
        .map(|rule| format!("{} IS TRUE", params.rule(&rule.allow)))
        .collect();
    let same: Vec<String> = immutable(table, columns)
        .map(|column| {
            let column = quoted(table, column);
            format!("\"old\".{column}::text IS NOT DISTINCT FROM \"new\".{column}::text")
        })
        .collect();
    let covered: Vec<String> = BTreeSet::from_iter(coverage(table, columns))
        .into_iter()
        .map(|rules| {
            let any: Vec<String> =
                rules.iter().map(|rule| format!("j.rules[{}]", rule + 1)).collect();
            if any.is_empty() { "false".to_owned() } else { format!("({})", any.join(" OR ")) }
        })
        .collect();
    let covered = if covered.is_empty() { "true".to_owned() } else { covered.join(" AND ") };
    let sets: Vec<String> = written(table, columns)
        .map(|column| format!("{} = {}", quoted(table, column), params.value(table, column)))
        .collect();
    let visible = visible(plan, id, &mut params);
    let new = with_generated(table, format!("SELECT {} FROM \"old\"", new.join(", ")));
    let (rules, same) = (rules.join(", "), same.join(", "));
    let key = key_is(table, "", &mut params);
    let holds = format!("{covered} AND true = ANY (j.rules) AND NOT false = ANY (j.same)");
    let go_on = step(&holds, "next");
    let update = if sets.is_empty() {
        String::new()
    } else {
        let key = key_is(table, "target.", &mut params);
        format!(
            ",\n{WRITTEN} AS (UPDATE {from} AS target SET {} FROM {JUDGED} AS j WHERE {key} \
             AND {covered} AND NOT false = ANY (j.same))",
            sets.join(", ")
        )
    };
    let sql = format!(
        "WITH \"old\" AS MATERIALIZED (SELECT * FROM {from} WHERE {HAS_LOCK} AND {key} AND {visible}),\n\
         \"new\" AS MATERIALIZED ({new}),\n\
         {JUDGED} AS MATERIALIZED (SELECT ARRAY[{rules}]::boolean[] AS rules, \
         ARRAY[{same}]::boolean[] AS same FROM \"old\", \"new\"){update}\n\
         SELECT true, rules, same, {go_on} FROM {JUDGED} AS j"
    );
    Statement { sql, params: params.list }
}

/// Answers `(true, [allowed], [])`.
fn delete(plan: &Plan, id: TableId) -> Statement {
    let table = plan.table(id);
    let from = name(table);
    let mut params = Params::default();
    let rule = table.write.delete.as_ref();
    let allowed = rule.map_or_else(|| "false".to_owned(), |rule| params.rule(rule));
    let visible = visible(plan, id, &mut params);
    let key = key_is(table, "", &mut params);
    let target = key_is(table, "target.", &mut params);
    let go_on = step("allowed", "next");
    let sql = format!(
        "WITH \"old\" AS MATERIALIZED (SELECT * FROM {from} WHERE {HAS_LOCK} AND {key} AND {visible}),\n\
         {JUDGED} AS MATERIALIZED (SELECT {allowed} IS TRUE AS allowed FROM \"old\"),\n\
         {WRITTEN} AS (DELETE FROM {from} AS target USING {JUDGED} AS j \
         WHERE {target} AND j.allowed)\n\
         SELECT true, ARRAY[allowed], ARRAY[]::boolean[], {go_on} FROM {JUDGED}"
    );
    Statement { sql, params: params.list }
}

/// A rule alone; each claim in it is a parameter of its own, whose type Postgres is to say.
pub fn rule_statements(table: &Table) -> Vec<RuleStatement> {
    let from = name(table);
    let alias = quote_identifier(&table.catalog.name);
    let (row, new) = (format!("(SELECT * FROM {from}) AS \"old\""), new_row(table));
    let mut statements = Vec::new();
    let mut add = |rule: &JudgedRule, rows: &str| statements.push(alone(rule, rows));
    let rules = &table.write;
    if let Some(insert) = &rules.insert {
        add(&insert.allow, &new);
        for limit in &insert.limits {
            add(&limit.counted, &format!("{from} AS {alias}"));
        }
    }
    for rule in &rules.updates {
        add(&rule.allow, &format!("{row}, {new}"));
    }
    if let Some(rule) = &rules.delete {
        add(rule, &row);
    }
    statements
}

/// As [`rule_statements`], for the rules of documents.
pub fn document_rule_statements(plan: &Plan, kind: &PlannedKind) -> Vec<RuleStatement> {
    let table = plan.table(kind.table);
    let rows = format!("{} AS {}", name(table), quote_identifier(&table.catalog.name));
    kind.rules().map(|rule| alone(rule, &rows)).collect()
}

fn alone(rule: &JudgedRule, rows: &str) -> RuleStatement {
    let mut number = 0;
    let sql = rule.sql(|_| {
        number += 1;
        format!("${number}")
    });
    let sql = format!("SELECT 1 FROM {rows} WHERE {sql}");
    RuleStatement { starts: sql.find(" WHERE (").unwrap_or(0) + 7, sql }
}

/// A query for all of a row but its generated columns, with these: computed as Postgres will, so that rules may speak
/// of them.
fn with_generated(table: &Table, query: String) -> String {
    let computed = |column: &CatalogColumn| {
        let input = &column.input;
        let expression = input.generated.as_ref()?;
        Some(format!("({expression})::{} AS {}", input.type_name, quote_identifier(&column.name)))
    };
    let computed: Vec<String> = table.catalog.columns.iter().filter_map(computed).collect();
    if computed.is_empty() {
        return query;
    }
    let alias = quote_identifier(&table.catalog.name);
    format!("SELECT *, {} FROM ({query}) AS {alias}", computed.join(", "))
}

fn new_row(table: &Table) -> String {
    let columns: Vec<String> =
        table.catalog.columns.iter().map(|column| quote_identifier(&column.name)).collect();
    format!("(SELECT {} FROM {}) AS \"new\"", columns.join(", "), name(table))
}

/// Those of the columns that an update would set.
pub(super) fn written<'a>(
    table: &'a Table,
    columns: &'a [usize],
) -> impl Iterator<Item = usize> + 'a {
    columns.iter().copied().filter(|column| {
        let numbered = table.catalog.columns[*column].input.is_of_postgres_alone();
        !numbered && !table.key.contains(column) && !table.write.immutable.contains(column)
    })
}

/// Those that only an insert writes, and that must be as they are.
pub(super) fn immutable<'a>(
    table: &'a Table,
    columns: &'a [usize],
) -> impl Iterator<Item = usize> + 'a {
    columns
        .iter()
        .copied()
        .filter(|column| !table.key.contains(column) && table.write.immutable.contains(column))
}

/// For each column that is written, the rules of which one must hold.
pub(super) fn coverage(table: &Table, columns: &[usize]) -> Vec<Vec<usize>> {
    let covering = |column: usize| {
        let names = |(index, rule): (usize, &UpdateRule)| {
            rule.columns.as_ref().is_none_or(|columns| columns.contains(&column)).then_some(index)
        };
        table.write.updates.iter().enumerate().filter_map(names).collect()
    };
    written(table, columns).map(covering).collect()
}
