//! The queries of a plan: what each takes, what its subscribers share, and for each table how the rows are found that it
//! selects, of those that may be seen.

use std::fmt::Write;

use serde_json::Value as Json;

use super::{claim_text, cost, draw};
use crate::ids::{BranchId, QueryId};
use crate::plan::{Branch, Plan, Selection};
use crate::queries::{PlannedQuery, QueryParam};
use crate::sql::quote_literal;
use crate::value::Family;

/// Draws all queries, if there are some.
pub(super) fn queries(plan: &Plan, text: &mut String) {
    if !plan.queries.is_empty() {
        let _ = writeln!(text, "queries");
    }
    for (index, query) in plan.queries.iter().enumerate() {
        let params: Vec<String> = query.params.iter().map(param).collect();
        let _ = writeln!(text, "  {}({})", query.name, params.join(", "));
        let _ = writeln!(text, "    {}", shared_by(plan, query));
        let selection = Selection::Query(QueryId(index as u16));
        let selects = |branch: &Branch| branch.published && branch.selection == selection;
        let mut is_empty = true;
        for (index, branch) in plan.branches.iter().enumerate() {
            if selects(branch) {
                is_empty = false;
                let id = BranchId(index as u16);
                let _ =
                    writeln!(text, "    {} ({})", plan.table(branch.table).name, cost(plan, id));
                text.push_str("      ");
                draw(plan, id, 3, text);
            }
        }
        if is_empty {
            let _ = writeln!(text, "    selects nothing");
        }
    }
    if !plan.queries.is_empty() {
        let _ = writeln!(text);
    }
}

/// Who has the rows of a query in common: what they select depends on nothing else.
fn shared_by(plan: &Plan, query: &PlannedQuery) -> String {
    let named = query.claims.iter().zip(&plan.claims).filter(|(named, _)| **named);
    let mut names: Vec<String> = named.map(|(_, used)| claim_text(&used.claim)).collect();
    names.dedup();
    match names.is_empty() {
        true => "one view for everyone".to_owned(),
        false => format!("one view for each {}", names.join(", ")),
    }
}

fn param(param: &QueryParam) -> String {
    let QueryParam { name, kind, default } = param;
    let is_number =
        matches!(kind.element().family(), Some(Family::Int | Family::Float | Family::Numeric));
    let default = default.as_ref().map(|default| match default {
        Json::String(text) if is_number => format!(" = {text}"),
        Json::String(text) => format!(" = {}", quote_literal(text).trim_start()),
        other => format!(" = {other}"),
    });
    format!("{name} {}{}", kind.sql(), default.unwrap_or_default())
}
