//! The plan as a person would draw it: for each table, how its rows are reached from the claims, with
//! the SQL of each load and the index that serves it.

mod queries;

use std::fmt::Write;

use rowtide_protocol::OpKind;

use crate::check::{anchor_index, window_index};
use crate::claims::{Claim, ClaimUse};
use crate::document_sql::{publish_error_sql, published_ids_sql, standing_query, touch_sql};
use crate::documents::PlannedKind;
use crate::filter::{InSet, Operand, Predicate};
use crate::ids::{BranchId, SetId, TableId};
use crate::plan::{Branch, Plan, Source, Table};
use crate::sql::{literal_sql, load_sql, order_sql, quote_identifier, truth, type_of_kind};
use crate::value::ColumnType;
use crate::window::{Window, WindowLimit};
use crate::write::{self, Param};

/// Draws a plan.
pub fn explain(plan: &Plan) -> String {
    let mut text = String::new();
    for table in plan.tables.iter().filter(|table| table.published) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", table.name);
        let seen = |id: &BranchId| plan.branch(*id).says_what_may_be_seen();
        let published: Vec<BranchId> = table.branches.iter().copied().filter(seen).collect();
        if published.is_empty() {
            let _ = writeln!(text, "  is seen by nobody");
        }
        for &id in &published {
            text.push_str("  ");
            draw(plan, id, 1, &mut text);
        }
        if !published.iter().all(|id| plan.branch(*id).is_reached()) {
            let _ = writeln!(text, "  is sent on demand: what queries select of it");
        }
        if !table.hidden.is_empty() {
            let hidden = table.hidden.iter().map(|column| &table.catalog.columns[*column].name);
            let hidden: Vec<String> = hidden.map(|name| quote_identifier(name)).collect();
            let _ = writeln!(text, "  is sent without {}", hidden.join(", "));
        }
        let _ = writeln!(text);
    }
    queries::queries(plan, &mut text);
    sets(plan, &mut text);
    let _ = writeln!(text, "loads");
    for index in 0..plan.branches.len() {
        let id = BranchId(index as u16);
        if !plan.branch(id).is_reached() {
            continue;
        }
        let _ = writeln!(text, "  {} ({})", topic(plan, id), cost(plan, id));
        for line in load_sql(plan, id).lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    let _ = writeln!(text, "\nwrites");
    for (index, table) in plan.tables.iter().enumerate().filter(|(_, table)| table.published) {
        writes(plan, TableId(index as u16), table, &mut text);
    }
    for (index, call) in plan.calls.iter().enumerate() {
        let _ = writeln!(text, "  mutation {}", call.name);
        for line in write::run(plan, index).sql.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    if !plan.documents.is_empty() {
        let _ = writeln!(text, "\ndocuments");
    }
    for kind in &plan.documents {
        document(plan, kind, &mut text);
    }
    text
}

/// How the rows of a topic are read.
fn cost(plan: &Plan, id: BranchId) -> String {
    let branch = plan.branch(id);
    let table = plan.table(branch.table);
    if let Some(window) = branch.window.map(|id| plan.window(id)) {
        return cost_of_window(plan, branch, window);
    }
    let Some(anchor) = branch.anchor else { return "reads the table once".to_owned() };
    match anchor_index(&table.catalog, &table.catalog.columns[anchor].name) {
        Some(index) => format!("index {}", quote_identifier(index)),
        None => "no index: reads the whole table every time".to_owned(),
    }
}

/// How the first rows of a topic are read.
fn cost_of_window(plan: &Plan, branch: &Branch, window: &Window) -> String {
    let table = plan.table(branch.table);
    let limit = match window.limit {
        WindowLimit::Rows(rows) => rows.to_string(),
        WindowLimit::Param(claim) => claim_text(&plan.claims[usize::from(claim.0)].claim),
    };
    let order = order_sql(window, table, None);
    let index = match window_index(&table.catalog, branch.anchor, window) {
        Some(index) => format!("index {}", quote_identifier(index)),
        None => "no index: puts all rows in order every time".to_owned(),
    };
    format!("the first {limit} by {order}; {index}")
}

/// The sets that rules ask, and the rows that fill those of a view.
fn sets(plan: &Plan, text: &mut String) {
    for set in (0..plan.sets).map(|index| SetId(index as u16)) {
        let _ = writeln!(text, "set {} of each view, filled by", set.0 + 1);
        for (index, from) in plan.branches.iter().enumerate() {
            for fill in from.fills.iter().filter(|fill| fill.set == set) {
                let _ = write!(text, "  {} of ", selected(plan, from, &fill.columns));
                draw(plan, BranchId(index as u16), 1, text);
            }
        }
        let _ = writeln!(text);
    }
}

/// What a membership takes of the rows of a branch.
fn selected(plan: &Plan, from: &Branch, columns: &[usize]) -> String {
    let table = plan.table(from.table);
    let name = |column: &usize| quote_identifier(&table.catalog.columns[table.kept[*column]].name);
    match columns {
        [] => "any row".to_owned(),
        [one] => name(one),
        several => format!("({})", several.iter().map(name).collect::<Vec<_>>().join(", ")),
    }
}

/// Where documents are served, what makes anybody's standing be asked for again, and how it is.
fn document(plan: &Plan, kind: &PlannedKind, text: &mut String) {
    let table = plan.table(kind.table);
    let key = quote_identifier(&table.catalog.columns[kind.key].name);
    let (name, path) = (&kind.name, kind.protocol.path(&kind.name));
    let _ = writeln!(text, "  {name} at {path}/ and the {key} of {}", table.name);
    let mut asks = vec![format!("its row of {}", table.name)];
    asks.extend(kind.looks_into.iter().map(|id| format!("any row of {}", plan.table(*id).name)));
    let _ = writeln!(text, "    standings follow {}", asks.join(", "));
    let query = standing_query(plan, kind, |number| format!("${number}::text[]"));
    let published = published_ids_sql(plan, kind, true);
    let others = [touch_sql(plan, kind), published, publish_error_sql(plan, kind)];
    for line in
        std::iter::once(&query.sql).chain(others.iter().flatten()).flat_map(|sql| sql.lines())
    {
        let _ = writeln!(text, "    {line}");
    }
}

/// What each kind of write becomes: first what it locks, then what judges and does it, or judges it for the role that does.
fn writes(plan: &Plan, id: TableId, table: &Table, text: &mut String) {
    let columns = |kind| -> Vec<usize> {
        let rules = &table.write;
        let takes = |column: &usize| {
            let writable = !rules.readonly.contains(column)
                && (kind == OpKind::Insert || !rules.immutable.contains(column));
            table.key.contains(column)
                || (writable && !table.catalog.columns[*column].input.is_of_postgres_alone())
        };
        table.sent_columns().map(|(column, _)| column).filter(takes).collect()
    };
    let name = &table.name;
    let kinds = [
        ("insert into", OpKind::Insert, table.write.insert.is_some()),
        ("update of", OpKind::Update, !table.write.updates.is_empty()),
        ("delete from", OpKind::Delete, table.write.delete.is_some()),
    ];
    for (words, kind, allowed) in kinds {
        if !allowed {
            let _ = writeln!(text, "  {words} {name}: never");
            continue;
        }
        let _ = writeln!(text, "  {words} {name}");
        let before = match kind {
            OpKind::Insert => write::limit_lock(plan, id),
            OpKind::Update | OpKind::Delete => Some(write::lock(plan, id, kind)),
        };
        let statement = write::write(plan, id, kind, &columns(kind));
        for statement in before.into_iter().chain([statement]) {
            for line in statement.sql.lines() {
                let _ = writeln!(text, "    {line}");
            }
            let _ = writeln!(text, "    -- {}", parameters(table, &statement.params));
        }
        if let Some(role) = &plan.writes_as {
            let statement = write::write_as_role(plan, id, kind, &columns(kind));
            let _ = writeln!(text, "    -- and as role {}", quote_identifier(role));
            for line in statement.sql.lines() {
                let _ = writeln!(text, "    {line}");
            }
            let _ = writeln!(text, "    -- {}", parameters(table, &statement.params));
        }
    }
}

fn parameters(table: &Table, params: &[Param]) -> String {
    let of = |(index, param): (usize, &Param)| {
        let what = match param {
            Param::Value(column) => quote_identifier(&table.catalog.columns[*column].name),
            Param::Claim(claim, _) => claim_text(claim),
        };
        format!("${} {what}", index + 1)
    };
    params.iter().enumerate().map(of).collect::<Vec<_>>().join(", ")
}

fn topic(plan: &Plan, id: BranchId) -> String {
    let branch = plan.branch(id);
    let table = plan.table(branch.table);
    match branch.anchor {
        Some(anchor) => {
            let column = &table.catalog.columns[anchor];
            let any_of = if column.kind.element().is_some() { "any of " } else { "" };
            format!("{} by {any_of}{}", table.name, quote_identifier(&column.name))
        }
        None => format!("all of {}", table.name),
    }
}

/// A branch, on the line that was begun, and below it what names its topics.
fn draw(plan: &Plan, id: BranchId, depth: usize, text: &mut String) {
    let branch = plan.branch(id);
    let table = plan.table(branch.table);
    let source = match branch.source {
        Source::Everyone => " for everyone".to_owned(),
        Source::Claim(claim) => {
            let ClaimUse { claim, kind } = &plan.claims[usize::from(claim.0)];
            let is_any = if kind.element().is_some() { "any of " } else { "" };
            format!(" = {is_any}{}", claim_text(claim))
        }
        Source::Links => String::new(),
    };
    let mut conditions = Vec::new();
    if branch.filter.0 != Predicate::Literal(Some(true)) {
        conditions.push(predicate(plan, table, &branch.filter.0, &|column| column));
    }
    if branch.claim_filter.0 != Predicate::Literal(Some(true)) {
        let kept = |column: usize| table.kept[column];
        conditions.push(predicate(plan, table, &branch.claim_filter.0, &kept));
    }
    let conditions = match conditions.len() {
        0 => String::new(),
        _ => format!(", where {}", conditions.join(" AND ")),
    };
    let mut namers = Vec::new();
    for (index, from) in plan.branches.iter().enumerate() {
        for link in from.links.iter().filter(|link| link.target == id) {
            let column = selected(plan, from, link.column.as_slice());
            namers.push((BranchId(index as u16), column));
        }
    }
    let named = match branch.source {
        Source::Links if namers.is_empty() => ", named by nothing",
        Source::Links => ", named by",
        _ => "",
    };
    let _ = writeln!(text, "{}{source}{conditions}{named}", topic(plan, id));
    for (from, column) in namers {
        let _ = write!(text, "{}{column} of ", "  ".repeat(depth + 1));
        draw(plan, from, depth + 1, text);
    }
}

fn claim_text(claim: &Claim) -> String {
    match claim {
        Claim::UserId => "auth.user_id".to_owned(),
        Claim::Named(path) => {
            let is_plain = |name: &str| name.chars().all(|c| c.is_alphanumeric() || c == '_');
            let names = path.iter().map(|name| match is_plain(name) {
                true => name.clone(),
                false => quote_identifier(name),
            });
            format!("auth.claims.{}", names.collect::<Vec<_>>().join("."))
        }
        Claim::Param { name, .. } => format!("params.{name}"),
    }
}

/// Whether a row is in a set, or is not.
fn in_set(test: &InSet, not: &str, operand: &impl Fn(&Operand) -> String) -> String {
    let set = test.set.0 + 1;
    let parts: Vec<String> = test.columns.iter().map(operand).collect();
    let value = match parts.as_slice() {
        [] => return format!("{not}EXISTS in set {set}"),
        [one] => one.clone(),
        several => format!("({})", several.join(", ")),
    };
    match test.exists {
        true => format!("{value} {not}EXISTS in set {set}"),
        false => format!("{value} {not}IN set {set}"),
    }
}

/// A predicate as SQL with claims; `column` gives a column's place in the catalog.
fn predicate(
    plan: &Plan,
    table: &Table,
    predicate_: &Predicate,
    column: &impl Fn(usize) -> usize,
) -> String {
    let operand = |operand: &Operand| match operand {
        Operand::Column(index) => quote_identifier(&table.catalog.columns[column(*index)].name),
        Operand::Cast(index, kind) => {
            let name = quote_identifier(&table.catalog.columns[column(*index)].name);
            format!("{name}::{}", type_of_kind(kind).unwrap_or("text"))
        }
        Operand::Claim(id) => claim_text(&plan.claims[usize::from(id.0)].claim),
        Operand::Literal(value) => literal_sql(value, &ColumnType::Text),
    };
    // A date and a time of day are told from other times by what they are compared with.
    let beside = |side: &Operand, other: &Operand| match (side, other) {
        (Operand::Literal(value), Operand::Column(index)) => {
            literal_sql(value, &table.catalog.columns[column(*index)].kind)
        }
        _ => operand(side),
    };
    let joined = |parts: &[Predicate], word: &str| {
        let parts: Vec<String> =
            parts.iter().map(|part| predicate(plan, table, part, column)).collect();
        format!("({})", parts.join(word))
    };
    match predicate_ {
        Predicate::Literal(None) => "NULL".to_owned(),
        Predicate::Literal(Some(answer)) => answer.to_string(),
        Predicate::Bare(inner) => operand(inner),
        Predicate::IsNull(inner) => format!("{} IS NULL", operand(inner)),
        Predicate::InSet(test) => in_set(test, "", &operand),
        Predicate::Time(test) => {
            let (column, is) = (operand(&test.column), test.comparison.sql());
            format!("{column} {is} now(){}", test.interval_text())
        }
        Predicate::Not(inner) => match inner.as_ref() {
            Predicate::InSet(test) => in_set(test, "NOT ", &operand),
            Predicate::IsNull(inner) => format!("{} IS NOT NULL", operand(inner)),
            inner => format!("NOT {}", predicate(plan, table, inner, column)),
        },
        Predicate::Any(item, array) => format!("{} = ANY ({})", operand(item), operand(array)),
        Predicate::Is(inner, answer) => {
            format!("({}) IS {}", predicate(plan, table, inner, column), truth(*answer))
        }
        Predicate::And(parts) => joined(parts, " AND "),
        Predicate::Or(parts) => joined(parts, " OR "),
        Predicate::Compare(comparison, left, right) => {
            let (left, right) = (beside(left, right), beside(right, left));
            format!("{left} {} {right}", comparison.sql())
        }
        Predicate::In(inner, values) => {
            let literals = values.iter().map(|value| Operand::Literal(value.clone()));
            let values: Vec<String> = literals.map(|value| beside(&value, inner)).collect();
            format!("{} IN ({})", operand(inner), values.join(", "))
        }
    }
}
