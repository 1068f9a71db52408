//! What could be better about queries: a table that is synced on demand and that none selects, and a selection that no
//! column finds, for which all of a table is read.

use super::Problem;
use crate::filter::Predicate;
use crate::plan::{Plan, Selection, Source, Table};
use crate::sql::quote_table;

/// That a table is synced on demand, and no query selects rows of it.
pub(super) fn asked_for_by_nobody(plan: &Plan, table: &Table) -> Option<Problem> {
    let published =
        || table.branches.iter().map(|id| plan.branch(*id)).filter(|branch| branch.published);
    let is_on_demand = published().any(|branch| branch.selection == Selection::Never);
    if !is_on_demand || published().any(|branch| matches!(branch.selection, Selection::Query(_))) {
        return None;
    }
    let quoted = quote_table(&table.catalog.schema, &table.catalog.name);
    let what = format!(
        "{quoted} is synced on demand, and no query selects rows of it: nobody is sent any"
    );
    let name = match table.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        true => table.name.clone(),
        false => format!("\"{}\"", table.name),
    };
    let repair = format!(
        "write a query with `{name} = {{ where = '…' }}` under its [queries.NAME.select], or leave `sync` out"
    );
    Some(Problem { what, repair: Some(repair), fatal: false })
}

/// That no column finds what a query selects of a table: one sentence for each query.
pub(super) fn selected_from_all(plan: &Plan, table: &Table) -> Vec<Problem> {
    let branches = || table.branches.iter().map(|id| plan.branch(*id));
    // Then it is in memory anyway.
    let is_whole = branches().any(|branch| {
        branch.selection == Selection::Always
            && branch.anchor.is_none()
            && branch.filter.0 == Predicate::Literal(Some(true))
    });
    if is_whole {
        return Vec::new();
    }
    let mut names: Vec<&str> = branches()
        .filter(|branch| branch.sends_all_rows() && branch.anchor.is_none())
        // What other tables decide is told of by itself.
        .filter(|branch| branch.source == Source::Everyone && !branch.claim_filter.0.asks_sets())
        .filter(|branch| branch.claim_filter.0 != Predicate::Literal(Some(true)))
        .filter_map(|branch| match branch.selection {
            Selection::Query(query) => Some(plan.queries[usize::from(query.0)].name.as_str()),
            Selection::Always | Selection::Never => None,
        })
        .collect();
    names.dedup();
    let quoted = quote_table(&table.catalog.schema, &table.catalog.name);
    let problem = |name: &str| {
        let what = format!(
            "no column finds the rows of {quoted} that the query `{name}` selects: all of the table is read, and held in memory"
        );
        let repair = "compare a column with a parameter, as `column = params.x`, beside the rest, and make an index for it";
        Problem { what, repair: Some(repair.to_owned()), fatal: false }
    };
    names.into_iter().map(problem).collect()
}
