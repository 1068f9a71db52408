//! Whether the writer sees a row, as one condition. It says in SQL, over memberships, what the plan does with
//! loads and memory: the same branches, anchors, links and filters.

use std::cell::RefCell;

use super::params::{Params, name};
use crate::filter::Predicate;
use crate::ids::{BranchId, TableId};
use crate::plan::{Plan, Source};
use crate::sql::{
    ClaimsSql, anchor_condition, compared, predicate_sql, predicate_with_claims, quote_identifier,
};
use crate::value::Family;

/// Whether the rule of a table shows a row, over its plain columns: what the plan does with loads and
/// memory, as one condition.
pub(super) fn visible(plan: &Plan, table: TableId, params: &mut Params) -> String {
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
            let is_array = plan.claims[usize::from(claim.0)].kind.element().is_some();
            let values = match is_array {
                true => params.claim(plan, claim, "text[]"),
                false => format!("ARRAY[{}]", params.claim(plan, claim, "text")),
            };
            conditions.push(anchor_condition(&table.catalog.columns[anchor], &values));
        }
        (Source::Links, Some(anchor)) => conditions.push(linked(plan, id, anchor, params)),
        (Source::Everyone, _) | (_, None) => {}
    }
    if branch.filter.0 != Predicate::Literal(Some(true)) {
        conditions.push(predicate_sql(table, &branch.filter.0));
    }
    if branch.claim_filter.0 != Predicate::Literal(Some(true)) {
        let predicate = branch.claim_filter.0.with_columns(&|kept| table.kept[kept]);
        let params = RefCell::new(&mut *params);
        let write = |claim, type_name: &str| params.borrow_mut().claim(plan, claim, type_name);
        let claims = ClaimsSql { uses: &plan.claims, write: &write };
        conditions.push(predicate_with_claims(table, &predicate, &claims));
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
