//! The SQL of one write. One statement checks the rules and writes if they hold, so nothing can change
//! between the two. The rules see the database as it was before the write, so a new row can never be the
//! reason that the rules allow it. An earlier statement locks the row if it exists, because a statement
//! sees only what was committed before it began, and not what was committed while it waited for a lock. The
//! answer has enough to tell a client what was wrong.

use std::collections::BTreeSet;

use rowtide_protocol::{OpKind, RejectCode};

use super::{Limit, Rejection, RuleClaim, Write, WriteRule};
use crate::filter::Predicate;
use crate::plan::{BranchId, Claim, ClaimId, Plan, Source, Table, TableId};
use crate::sql::{
    anchor_condition, compared, literal_type, predicate_sql, predicate_with_claims,
    quote_identifier, quote_literal, quote_table, type_of_kind,
};
use crate::value::{ColumnType, Family};

/// Names that no table has which a rule may speak of.
const JUDGED: &str = "\"rowtide judged\"";
const WRITTEN: &str = "\"rowtide written\"";

/// What a parameter stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// The write's value of a column.
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

/// What the statement of a write answered: one row of `(boolean, boolean[], boolean[])`, or none.
/// An update or a delete treats a row that the writer may not see as if it did not exist. So neither the
/// answer nor the time that it takes reveals anything about that row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The write was done.
    Written,
    /// An insert met a row, or is not allowed. The caller repeats it as an update of the row with its key. If
    /// the update finds no row, the rejection stands. The rejection and the way to it are the same whether
    /// there is a row that the writer may not see or none.
    Exists(Rejection),
    /// The write is rejected.
    Rejected(Rejection),
}

/// A rule by itself, to ask Postgres whether it accepts it.
#[derive(Clone, Debug)]
pub struct RuleStatement {
    /// A `SELECT` of the rule alone.
    pub sql: String,
    /// Where the rule begins in it, in bytes.
    pub starts: usize,
}

/// Collects parameters while SQL is written.
#[derive(Default)]
struct Params {
    list: Vec<Param>,
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

    fn value(&mut self, table: &Table, column: usize) -> String {
        self.typed(Param::Value(column), &table.catalog.columns[column].input.type_name)
    }

    fn rule(&mut self, rule: &WriteRule) -> String {
        rule.sql(|claim| self.rule_claim(claim))
    }

    fn rule_claim(&mut self, claim: &RuleClaim) -> String {
        let (kind, type_name) = match &claim.kind {
            Some((kind, type_name)) => (kind.clone(), type_name.as_str()),
            None => (ColumnType::Text, "text"),
        };
        if kind == ColumnType::Int
            && let Some(range) = integers(type_name)
        {
            // A claim need not be in the range of the type, and is null then.
            let number = self.typed(Param::Claim(claim.claim.clone(), kind), "int8");
            return format!("(CASE WHEN {number} BETWEEN {range} THEN {number} END)::{type_name}");
        }
        if kind == ColumnType::Enum {
            // A claim need not be one of the labels, and is null then.
            let text = self.typed(Param::Claim(claim.claim.clone(), kind), "text");
            return format!(
                "(SELECT label FROM unnest(enum_range(NULL::{type_name})) AS label \
                 WHERE concat(label) = {text})"
            );
        }
        self.typed(Param::Claim(claim.claim.clone(), kind), type_name)
    }

    fn claim(&mut self, plan: &Plan, id: ClaimId, type_name: &str) -> String {
        let wanted = &plan.claims[usize::from(id.0)];
        let param = Param::Claim(wanted.claim.clone(), wanted.kind.clone());
        self.typed(param, type_name)
    }
}

/// The range of an integer type that is smaller than `int8`.
fn integers(type_name: &str) -> Option<&'static str> {
    Some(match type_name {
        "\"pg_catalog\".\"int2\"" => "-32768 AND 32767",
        "\"pg_catalog\".\"int4\"" => "-2147483648 AND 2147483647",
        "\"pg_catalog\".\"oid\"" => "0 AND 4294967295",
        _ => return None,
    })
}

/// Locks the row with the write's key.
pub fn lock(plan: &Plan, table: TableId, kind: OpKind) -> Statement {
    let table = plan.table(table);
    let mut params = Params::default();
    // An update that keeps the key leaves room for those who only refer to the row.
    let strength = if kind == OpKind::Delete { "UPDATE" } else { "NO KEY UPDATE" };
    let (from, key) = (name(table), key_is(table, "", &mut params));
    let sql = format!("SELECT FROM {from} WHERE {key} FOR {strength}");
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
    let of = |(index, limit): (usize, &Limit)| {
        let mut key = quote_literal(&format!("{}/{index}", name(table)));
        for claim in limit.counted.claims() {
            let parameter = params.rule_claim(claim);
            key += &format!(" || '/' || coalesce({parameter}::text, '')");
        }
        format!("pg_advisory_xact_lock(hashtextextended({key}, 0))")
    };
    let locks: Vec<String> = limits.iter().enumerate().map(of).collect();
    // The list is evaluated from left to right, so all take them in one order.
    let sql = format!("SELECT {}", locks.join(", "));
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
        let quoted = quote_identifier(&column.name);
        let type_name = &column.input.type_name;
        let value = match &column.input.default {
            _ if columns.contains(&index) && !column.input.always_identity => {
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
    let (values, list, selected) = (values.join(", "), written.join(", "), selected.join(", "));
    let (key, reached) = (key_is(table, "", &mut params), reached.join(", "));
    let conflict: Vec<String> = table.key.iter().map(|column| quoted(table, *column)).collect();
    let conflict = conflict.join(", ");
    let sql = format!(
        "WITH \"new\" AS MATERIALIZED (SELECT {values}),\n\
         {JUDGED} AS MATERIALIZED (SELECT {allowed} IS TRUE AS allowed, \
         ARRAY[{reached}]::boolean[] AS reached, \
         EXISTS (SELECT FROM {from} WHERE {key}) AS there FROM \"new\"),\n\
         {WRITTEN} AS (INSERT INTO {from} ({list}) SELECT {selected} FROM \"new\", {JUDGED} AS j \
         WHERE j.allowed AND NOT j.there AND NOT true = ANY (j.reached) \
         ON CONFLICT ({conflict}) DO NOTHING RETURNING 1)\n\
         SELECT there, ARRAY[allowed, EXISTS (SELECT FROM {WRITTEN})], reached FROM {JUDGED}"
    );
    Statement { sql, params: params.list }
}

/// Answers `(true, [each rule], [each immutable column is the same])`.
fn update(plan: &Plan, id: TableId, columns: &[usize]) -> Statement {
    let table = plan.table(id);
    let from = name(table);
    let mut params = Params::default();
    let new: Vec<String> = (table.catalog.columns.iter().enumerate())
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
    let (new, rules, same) = (new.join(", "), rules.join(", "), same.join(", "));
    let key = key_is(table, "", &mut params);
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
        "WITH \"old\" AS MATERIALIZED (SELECT * FROM {from} WHERE {key} AND {visible}),\n\
         \"new\" AS MATERIALIZED (SELECT {new} FROM \"old\"),\n\
         {JUDGED} AS MATERIALIZED (SELECT ARRAY[{rules}]::boolean[] AS rules, \
         ARRAY[{same}]::boolean[] AS same FROM \"old\", \"new\"){update}\n\
         SELECT true, rules, same FROM {JUDGED}"
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
    let sql = format!(
        "WITH \"old\" AS MATERIALIZED (SELECT * FROM {from} WHERE {key} AND {visible}),\n\
         {JUDGED} AS MATERIALIZED (SELECT {allowed} IS TRUE AS allowed FROM \"old\"),\n\
         {WRITTEN} AS (DELETE FROM {from} AS target USING {JUDGED} AS j \
         WHERE {target} AND j.allowed)\n\
         SELECT true, ARRAY[allowed], ARRAY[]::boolean[] FROM {JUDGED}"
    );
    Statement { sql, params: params.list }
}

/// A rule alone; each claim in it is a parameter of its own, whose type Postgres is to say.
pub fn rule_statements(table: &Table) -> Vec<RuleStatement> {
    let from = name(table);
    let alias = quote_identifier(&table.catalog.name);
    let (row, new) = (format!("(SELECT * FROM {from}) AS \"old\""), new_row(table));
    let mut statements = Vec::new();
    let mut add = |rule: &WriteRule, rows: &str| {
        let mut number = 0;
        let sql = rule.sql(|_| {
            number += 1;
            format!("${number}")
        });
        let sql = format!("SELECT 1 FROM {rows} WHERE {sql}");
        statements.push(RuleStatement { starts: sql.find(" WHERE (").unwrap_or(0) + 7, sql });
    };
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

fn new_row(table: &Table) -> String {
    let columns: Vec<String> =
        table.catalog.columns.iter().map(|column| quote_identifier(&column.name)).collect();
    format!("(SELECT {} FROM {}) AS \"new\"", columns.join(", "), name(table))
}

impl Verdict {
    /// What an answer means; `None` if there was no row.
    pub fn of(plan: &Plan, write: &Write, answer: Option<(bool, Vec<bool>, Vec<bool>)>) -> Verdict {
        let table = plan.table(write.table);
        let name = &table.catalog.name;
        let reject = |code, message: String| Verdict::Rejected(Rejection::new(code, message));
        let not_found =
            || reject(RejectCode::NotFound, format!("there is no such row in table `{name}`"));
        let Some((first, rules, more)) = answer else { return not_found() };
        let columns: Vec<usize> = write.values.iter().map(|(column, _)| *column).collect();
        match write.kind {
            OpKind::Insert => {
                let (allowed, written) =
                    (rules.first() == Some(&true), rules.get(1) == Some(&true));
                let limits = table.write.insert.as_ref().map_or(&[][..], |insert| &insert.limits);
                let reached =
                    more.iter().position(|reached| *reached).and_then(|at| limits.get(at));
                let exists = |message: String| {
                    Verdict::Exists(Rejection::new(RejectCode::Forbidden, message))
                };
                match (written, first, allowed, reached) {
                    (true, ..) => Verdict::Written,
                    (_, _, false, _) => {
                        exists(format!("the rule for inserts into table `{name}` says no"))
                    }
                    (_, false, true, Some(limit)) => {
                        let message = format!(
                            "there are {} such rows in table `{name}` already, and no more are allowed",
                            limit.max
                        );
                        reject(RejectCode::Application(limit.code.clone()), message)
                    }
                    // It was there, or came to be while the statement ran.
                    _ => exists(format!("a row with this key is in table `{name}` already")),
                }
            }
            OpKind::Update if !first => not_found(),
            OpKind::Update => {
                let changed = immutable(table, &columns).zip(&more).find(|(_, same)| !**same);
                if let Some((column, _)) = changed {
                    let column = &table.catalog.columns[column].name;
                    let what = format!(
                        "column `{column}` of table `{name}` is written by an insert alone"
                    );
                    return reject(RejectCode::Forbidden, what);
                }
                let covering = coverage(table, &columns);
                let uncovered = written(table, &columns).zip(covering).find(|(_, covering)| {
                    !covering.iter().any(|rule| rules.get(*rule) == Some(&true))
                });
                match uncovered {
                    None if rules.contains(&true) => Verdict::Written,
                    None => {
                        let what = format!("the rules for updates of table `{name}` say no");
                        reject(RejectCode::Forbidden, what)
                    }
                    Some((column, _)) => {
                        let column = &table.catalog.columns[column].name;
                        let what = format!(
                            "no rule allows this update of column `{column}` of table `{name}`"
                        );
                        reject(RejectCode::Forbidden, what)
                    }
                }
            }
            OpKind::Delete if !first => not_found(),
            OpKind::Delete if rules.first() == Some(&true) => Verdict::Written,
            OpKind::Delete => {
                let what = format!("the rule for deletes from table `{name}` says no");
                reject(RejectCode::Forbidden, what)
            }
        }
    }
}

/// Those of the columns that an update would set.
fn written<'a>(table: &'a Table, columns: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    columns.iter().copied().filter(|column| {
        let numbered = table.catalog.columns[*column].input.always_identity;
        !numbered && !table.key.contains(column) && !table.write.immutable.contains(column)
    })
}

/// Those that only an insert writes, and that must be as they are.
fn immutable<'a>(table: &'a Table, columns: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    columns
        .iter()
        .copied()
        .filter(|column| !table.key.contains(column) && table.write.immutable.contains(column))
}

/// For each column that is written, the rules of which one must hold.
fn coverage(table: &Table, columns: &[usize]) -> Vec<Vec<usize>> {
    let covering = |column: usize| {
        let names = |(index, rule): (usize, &super::UpdateRule)| {
            rule.columns.as_ref().is_none_or(|columns| columns.contains(&column)).then_some(index)
        };
        table.write.updates.iter().enumerate().filter_map(names).collect()
    };
    written(table, columns).map(covering).collect()
}

fn name(table: &Table) -> String {
    quote_table(&table.catalog.schema, &table.catalog.name)
}

fn quoted(table: &Table, column: usize) -> String {
    quote_identifier(&table.catalog.columns[column].name)
}

fn key_is(table: &Table, prefix: &str, params: &mut Params) -> String {
    let is = |column: &usize| {
        format!("{prefix}{} = {}", quoted(table, *column), params.value(table, *column))
    };
    let conditions: Vec<String> = table.key.iter().map(is).collect();
    conditions.join(" AND ")
}

/// Whether the rule of a table shows a row, over its plain columns: what the plan does with loads and
/// memory, as one condition.
fn visible(plan: &Plan, table: TableId, params: &mut Params) -> String {
    let alternatives: Vec<String> = (plan.table(table).branches.iter())
        .filter(|branch| plan.branch(**branch).published)
        .map(|branch| branch_sql(plan, *branch, params))
        .collect();
    if alternatives.is_empty() {
        "(false)".to_owned()
    } else {
        format!("({})", alternatives.join(" OR "))
    }
}

fn branch_sql(plan: &Plan, id: BranchId, params: &mut Params) -> String {
    let branch = plan.branch(id);
    let table = plan.table(branch.table);
    let mut conditions = Vec::new();
    match (branch.source, branch.anchor) {
        (Source::Claim(claim), Some(anchor)) => {
            let value = params.claim(plan, claim, "text");
            let column = &table.catalog.columns[anchor];
            conditions.push(anchor_condition(column, &format!("ARRAY[{value}]")));
        }
        (Source::Links, Some(anchor)) => conditions.push(linked(plan, id, anchor, params)),
        (Source::Everyone, _) | (_, None) => {}
    }
    if branch.filter.0 != Predicate::Literal(Some(true)) {
        conditions.push(predicate_sql(table, &branch.filter.0));
    }
    if branch.claim_filter.0 != Predicate::Literal(Some(true)) {
        let predicate = branch.claim_filter.0.with_columns(&|kept| table.kept[kept]);
        let params = std::cell::RefCell::new(&mut *params);
        conditions.push(predicate_with_claims(table, &predicate, &|claim, beside| {
            let kind = &plan.claims[usize::from(claim.0)].kind;
            let type_name = beside.map(literal_type).or(type_of_kind(kind)).unwrap_or("text");
            params.borrow_mut().claim(plan, claim, type_name)
        }));
    }
    if conditions.is_empty() {
        "true".to_owned()
    } else {
        format!("({})", conditions.join(" AND "))
    }
}

/// The rows that name topics of a branch, as memberships.
fn linked(plan: &Plan, id: BranchId, anchor: usize, params: &mut Params) -> String {
    let outer = &plan.table(plan.branch(id).table).catalog.columns[anchor];
    let mut memberships = Vec::new();
    for (index, from) in plan.branches.iter().enumerate() {
        for link in from.links.iter().filter(|link| link.target == id) {
            let inner_table = plan.table(from.table);
            let inner = &inner_table.catalog.columns[inner_table.kept[link.column]];
            let condition = branch_sql(plan, BranchId(index as u16), params);
            let both = [outer, inner];
            let text = outer.kind != inner.kind && outer.kind.family() == Some(Family::Text);
            let [outer, inner] = both.map(|column| {
                if text {
                    format!("{}::text", quote_identifier(&column.name))
                } else {
                    compared(column)
                }
            });
            let name = name(inner_table);
            memberships.push(format!("{outer} IN (SELECT {inner} FROM {name} WHERE {condition})"));
        }
    }
    if memberships.is_empty() {
        "false".to_owned()
    } else {
        format!("({})", memberships.join(" OR "))
    }
}
