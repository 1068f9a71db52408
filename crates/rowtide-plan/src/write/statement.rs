//! The SQL of one write. One statement checks the rules and writes if they hold, so nothing can change
//! between the two. The rules see the database as it was before the write, so a new row can never be the
//! reason that the rules allow it. An earlier statement locks the row if it exists, because a statement
//! sees only what was committed before it began, and not what was committed while it waited for a lock. It locks
//! no row that the writer may not see: nobody is held up by those who may not see his rows. All statements of a mutation are
//! sent together, so each passes on in a setting of the transaction whether the next one is to do anything: behind
//! a write that is rejected nothing is locked or written. Where another role does the write, the statement only judges, and
//! [`super::as_role`] has the one that writes. What the answer means is in [`super::verdict`].

use std::collections::BTreeSet;

use rowtide_protocol::OpKind;

use super::as_role::{defaults, hand_over};
use super::columns::{Origin, any, coverage, immutable, leaves_key, origin, written};
use super::params::{Params, Statement, key_is, key_made, key_returned, name, of_row, quoted};
use super::steps::{HAS_LOCK, NEXT, WRITTEN, step};
use super::visible::visible;
use crate::catalog::CatalogColumn;
use crate::documents::PlannedKind;
use crate::ids::TableId;
use crate::judged_rule::JudgedRule;
use crate::plan::{Plan, Table};
use crate::sql::{quote_identifier, quote_literal};
use crate::write_rules::RowLimit;

/// Names that no table has which a rule may speak of.
const JUDGED: &str = "\"rowtide judged\"";

const LOCKED: &str = "\"rowtide locked\"";

/// A rule by itself, to ask Postgres whether it accepts it.
#[derive(Clone, Debug)]
pub struct RuleStatement {
    /// A `SELECT` of the rule alone.
    pub sql: String,
    /// Where the rule begins in it, in bytes.
    pub starts: usize,
    /// The same for a rule whose columns may have no prefix, where this one is not accepted for that.
    pub bare: Option<Box<RuleStatement>>,
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

/// The statement of a write that begins with these columns: the key's, and those to write. It judges the write, and does it
/// unless a role of its own does.
pub fn write(plan: &Plan, table: TableId, kind: OpKind, columns: &[usize]) -> Statement {
    match kind {
        OpKind::Insert => insert(plan, table, columns),
        OpKind::Update => update(plan, table, columns),
        OpKind::Delete => delete(plan, table),
    }
}

/// Answers `(exists or written, [allowed, written], [limit reached, …])`, and the key if that is made: such an insert meets no
/// row that is there, and one that has its key all the same is an error.
fn insert(plan: &Plan, id: TableId, columns: &[usize]) -> Statement {
    let table = plan.table(id);
    let from = name(table);
    let mut params = Params::default();
    let (mut values, mut written) = (Vec::new(), Vec::new());
    for (index, column) in table.catalog.columns.iter().enumerate() {
        let quoted = quote_identifier(&column.name);
        let value = match origin(table, columns, index) {
            Origin::Generated => continue,
            Origin::Client => params.value(table, index),
            // Evaluated once, so that what is judged is what is written.
            Origin::Default(default) => format!("({default})::{}", column.input.type_name),
            Origin::Nothing => {
                values.push(format!("NULL::{} AS {quoted}", column.input.type_name));
                continue;
            }
        };
        values.push(format!("{value} AS {quoted}"));
        written.push(quoted);
    }
    let mut overriding = "";
    if written.is_empty() {
        written.extend(any(table).map(|column| quoted(table, column)));
        overriding = "OVERRIDING USER VALUE ";
    }
    let rules = table.write.insert.as_ref();
    let allowed = rules.map_or_else(
        || "false".to_owned(),
        |insert| params.allow(table, &insert.allow, &["\"new\""]),
    );
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
    let reached = reached.join(", ");
    let makes_key = leaves_key(table, columns);
    let there = match makes_key {
        true => "false".to_owned(),
        false => {
            let key = key_is(table, "", &mut params);
            format!("EXISTS (SELECT FROM {from} WHERE {key})")
        }
    };
    let conflict = match makes_key {
        true => String::new(),
        false => {
            let key: Vec<String> = table.key.iter().map(|column| quoted(table, *column)).collect();
            format!("ON CONFLICT ({}) DO NOTHING ", key.join(", "))
        }
    };
    let returned = key_returned(table, makes_key);
    let holds = "allowed AND NOT there AND NOT true = ANY (reached)";
    let (write, is_written) = match plan.writes_as {
        Some(_) => (String::new(), holds.to_owned()),
        None => {
            let write = format!(
                ",\n{WRITTEN} AS (INSERT INTO {from} ({list}) {overriding}SELECT {selected} FROM \"new\", {JUDGED} AS j \
                 WHERE j.allowed AND NOT j.there AND NOT true = ANY (j.reached) \
                 {conflict}RETURNING {returned})"
            );
            (write, format!("EXISTS (SELECT FROM {WRITTEN})"))
        }
    };
    let mut go_on = step(&is_written, "next");
    if plan.writes_as.is_some() && defaults(table, columns).next().is_some() {
        go_on += &format!(", {}", hand_over(table, columns, holds));
    }
    if makes_key && plan.writes_as.is_none() {
        go_on += &format!(", {}", key_made(table));
    }
    let sql = format!(
        "WITH \"new\" AS MATERIALIZED ({values}),\n\
         {JUDGED} AS MATERIALIZED (SELECT {allowed} IS TRUE AS allowed, \
         ARRAY[{reached}]::boolean[] AS reached, {there} AS there FROM \"new\"){write}\n\
         SELECT there, ARRAY[allowed, {is_written}], reached, {go_on} FROM {JUDGED}"
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
        .map(|rule| {
            let holds = params.allow(table, &rule.allow, &["\"old\"", "\"new\""]);
            format!("{holds} IS TRUE")
        })
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
    let update = if sets.is_empty() || plan.writes_as.is_some() {
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
    let allowed =
        rule.map_or_else(|| "false".to_owned(), |rule| params.allow(table, rule, &["\"old\""]));
    let visible = visible(plan, id, &mut params);
    let key = key_is(table, "", &mut params);
    let go_on = step("allowed", "next");
    let delete = match plan.writes_as {
        Some(_) => String::new(),
        None => format!(
            ",\n{WRITTEN} AS (DELETE FROM {from} AS target USING {JUDGED} AS j WHERE {} AND j.allowed)",
            key_is(table, "target.", &mut params)
        ),
    };
    let sql = format!(
        "WITH \"old\" AS MATERIALIZED (SELECT * FROM {from} WHERE {HAS_LOCK} AND {key} AND {visible}),\n\
         {JUDGED} AS MATERIALIZED (SELECT {allowed} IS TRUE AS allowed FROM \"old\"){delete}\n\
         SELECT true, ARRAY[allowed], ARRAY[]::boolean[], {go_on} FROM {JUDGED}"
    );
    Statement { sql, params: params.list }
}

/// A rule alone; each claim in it is a parameter of its own, whose type Postgres is to say.
pub fn rule_statements(table: &Table) -> Vec<RuleStatement> {
    let from = name(table);
    let alias = quote_identifier(&table.catalog.name);
    let (old, new) = (known_row(table, "old"), known_row(table, "new"));
    let row = format!("(SELECT * FROM {from}) AS \"old\"");
    let mut statements = Vec::new();
    let mut add = |rule: &JudgedRule, rows: &str, bare: Option<&str>| {
        let mut statement = alone(rule, rows, "", "");
        statement.bare = bare.map(|row| {
            let around = of_row(table, row, HERE);
            let (before, behind) = around.split_once(HERE).unwrap_or_default();
            Box::new(alone(rule, rows, before, behind))
        });
        statements.push(statement);
    };
    let rules = &table.write;
    if let Some(insert) = &rules.insert {
        add(&insert.allow, &new, Some("\"new\""));
        for limit in &insert.limits {
            add(&limit.counted, &format!("{from} AS {alias}"), None);
        }
    }
    for rule in &rules.updates {
        // Both have the same columns, so that one without a prefix is never of one of them alone.
        add(&rule.allow, &format!("{old}, {new}"), Some("\"old\""));
    }
    if let Some(rule) = &rules.delete {
        add(rule, &row, Some("\"old\""));
    }
    statements
}

/// As [`rule_statements`], for the rules of documents.
pub fn document_rule_statements(plan: &Plan, kind: &PlannedKind) -> Vec<RuleStatement> {
    let table = plan.table(kind.table);
    let rows = format!("{} AS {}", name(table), quote_identifier(&table.catalog.name));
    kind.rules().map(|rule| alone(rule, &rows, "", "")).collect()
}

/// Stands for a rule in what is put around it.
const HERE: &str = "\0";

fn alone(rule: &JudgedRule, rows: &str, before: &str, behind: &str) -> RuleStatement {
    let mut number = 0;
    let sql = rule.sql(|_| {
        number += 1;
        format!("${number}")
    });
    let head = format!("SELECT 1 FROM {rows} WHERE {before}");
    RuleStatement { starts: head.len(), sql: format!("{head}{sql}{behind}"), bare: None }
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

/// The columns that the plan knows: Postgres may have others, which it computes and does not publish.
fn known_row(table: &Table, row: &str) -> String {
    let columns: Vec<String> =
        table.catalog.columns.iter().map(|column| quote_identifier(&column.name)).collect();
    format!("(SELECT {} FROM {}) AS \"{row}\"", columns.join(", "), name(table))
}
