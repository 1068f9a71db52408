//! Whether the writer sees a row, as one condition. It says in SQL, over memberships, what the plan does with
//! loads and memory: the same branches, anchors, links and filters.

use std::cell::RefCell;

use super::params::{Params, name};
use crate::filter::{InSet, Operand, Predicate};
use crate::ids::{BranchId, TableId};
use crate::plan::{Plan, Source, Table};
use crate::sql::{
    ViewSql, anchor_condition, compared, predicate_of_view, predicate_sql, quote_identifier,
};
use crate::value::Family;

/// Whether the rule of a table shows a row, over its plain columns: what the plan does with loads and
/// memory, as one condition.
pub(super) fn visible(plan: &Plan, table: TableId, params: &mut Params) -> String {
    let alternatives: Vec<String> = (plan.table(table).branches.iter())
        .filter(|branch| plan.branch(**branch).says_what_may_be_seen())
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
            let is_array = plan.claims[usize::from(claim.0)].kind.element().is_some();
            let values = match is_array {
                true => params.claim(plan, claim, "text[]"),
                false => format!("ARRAY[{}]", params.claim(plan, claim, "text")),
            };
            conditions.push(anchor_condition(&table.catalog.columns[anchor], &values));
        }
        (Source::Links, _) => conditions.push(linked(plan, id, params)),
        (Source::Everyone, _) | (Source::Claim(_), None) => {}
    }
    if branch.filter.0 != Predicate::Literal(Some(true)) {
        conditions.push(predicate_sql(table, &branch.filter.0));
    }
    if branch.claim_filter.0 != Predicate::Literal(Some(true)) {
        let predicate = branch.claim_filter.0.with_columns(&|kept| table.kept[kept]);
        let params = RefCell::new(&mut *params);
        let claim = |id, type_name: &str| params.borrow_mut().claim(plan, id, type_name);
        let set = |test: &InSet| in_set(plan, table, test, &mut params.borrow_mut());
        let view = ViewSql { uses: &plan.claims, claim: &claim, set: &set };
        conditions.push(predicate_of_view(table, &predicate, &view));
    }
    if conditions.is_empty() {
        "true".to_owned()
    } else {
        format!("({})", conditions.join(" AND "))
    }
}

/// Whether a row names this topic of a branch.
fn linked(plan: &Plan, id: BranchId, params: &mut Params) -> String {
    let branch = plan.branch(id);
    let outer: Vec<usize> = branch.anchor.into_iter().collect();
    let mut memberships = Vec::new();
    for (index, from) in plan.branches.iter().enumerate() {
        for link in from.links.iter().filter(|link| link.target == id) {
            let from = BranchId(index as u16);
            let inner = link.column.as_slice();
            memberships.push(membership(
                plan,
                plan.table(branch.table),
                &outer,
                from,
                inner,
                params,
            ));
        }
    }
    any(&memberships)
}

/// Whether a row is in a set, null included.
fn in_set(plan: &Plan, table: &Table, test: &InSet, params: &mut Params) -> String {
    let column = |operand: &Operand| match operand {
        Operand::Column(column) => Some(*column),
        _ => None,
    };
    let outer: Vec<usize> = test.columns.iter().filter_map(column).collect();
    let mut memberships = Vec::new();
    for (index, from) in plan.branches.iter().enumerate() {
        for fill in from.fills.iter().filter(|fill| fill.set == test.set) {
            let from = BranchId(index as u16);
            memberships.push(membership(plan, table, &outer, from, &fill.columns, params));
        }
    }
    let found = any(&memberships);
    if test.exists { format!("coalesce({found}, false)") } else { found }
}

fn any(memberships: &[String]) -> String {
    if memberships.is_empty() {
        "false".to_owned()
    } else {
        format!("({})", memberships.join(" OR "))
    }
}

/// Whether columns of a table have the values of kept columns of a row of a branch.
fn membership(
    plan: &Plan,
    outer_table: &Table,
    outer: &[usize],
    from: BranchId,
    inner: &[usize],
    params: &mut Params,
) -> String {
    let inner_table = plan.table(plan.branch(from).table);
    let condition = branch_sql(plan, from, params);
    let name = name(inner_table);
    if outer.is_empty() {
        return format!("EXISTS (SELECT 1 FROM {name} WHERE {condition})");
    }
    let pair = |(outer, inner): (&usize, &usize)| {
        let outer = &outer_table.catalog.columns[*outer];
        let inner = &inner_table.catalog.columns[inner_table.kept[*inner]];
        let text = outer.kind != inner.kind && outer.kind.family() == Some(Family::Text);
        [outer, inner].map(|column| {
            if text {
                format!("{}::text", quote_identifier(&column.name))
            } else {
                compared(column)
            }
        })
    };
    let (outer, inner): (Vec<String>, Vec<String>) =
        outer.iter().zip(inner).map(pair).map(|[outer, inner]| (outer, inner)).unzip();
    let inner = inner.join(", ");
    let outer = match outer.as_slice() {
        [one] => one.clone(),
        several => format!("({})", several.join(", ")),
    };
    format!("{outer} IN (SELECT {inner} FROM {name} WHERE {condition})")
}
