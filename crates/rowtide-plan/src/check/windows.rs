//! What could be better about windows: that no index has the rows in their order, so that each load puts all in order that a
//! window may be of.

use super::Problem;
use crate::catalog::CatalogTable;
use crate::plan::{Plan, Table};
use crate::sql::{order_sql, quote_identifier, quote_table};
use crate::window::Window;

/// The index that has the rows of a window by what finds them, and then in their order. Which direction its columns have the
/// catalog does not know; Postgres reads it from either end.
pub(crate) fn window_index<'a>(
    catalog: &'a CatalogTable,
    anchor: Option<usize>,
    window: &Window,
) -> Option<&'a str> {
    let name = |column: usize| catalog.columns[column].name.as_str();
    // Rows that are the same in the first column are few, and Postgres puts them in order by the others.
    let wanted: Vec<&str> =
        anchor.into_iter().chain(window.order.first().map(|of| of.column)).map(name).collect();
    let mut wanted_once: Vec<&str> = Vec::new();
    for column in wanted {
        if !wanted_once.contains(&column) {
            wanted_once.push(column);
        }
    }
    let serves = |columns: &[String]| {
        columns.len() >= wanted_once.len() && columns.iter().zip(&wanted_once).all(|(a, b)| a == b)
    };
    let mut indexes = catalog.indexes.iter().filter(|index| !index.of_elements);
    indexes.find(|index| serves(&index.columns)).map(|index| index.name.as_str())
}

/// One sentence for each query and column by which rows of its window are found.
pub(super) fn windows_without_index(plan: &Plan, table: &Table) -> Vec<Problem> {
    let catalog = &table.catalog;
    let quoted = quote_table(&catalog.schema, &catalog.name);
    let mut problems: Vec<Problem> = Vec::new();
    for branch in table.branches.iter().map(|id| plan.branch(*id)) {
        let Some(window) = branch.window.map(|id| plan.window(id)) else { continue };
        let is_array = |column: usize| catalog.columns[column].kind.element().is_some();
        if window_index(catalog, branch.anchor, window).is_some() {
            continue;
        }
        let query = &plan.queries[usize::from(window.query.0)].name;
        let what = format!(
            "no index has the rows of {quoted} in the order of the query `{query}`: every load puts all of them in order"
        );
        let order = order_sql(window, table, None);
        let repair = match branch.anchor {
            // No index is of elements and has an order besides.
            Some(anchor) if is_array(anchor) => None,
            Some(anchor) => {
                Some(format!("{}, {order}", quote_identifier(&catalog.columns[anchor].name)))
            }
            None => Some(order),
        };
        // Postgres makes none of a partitioned table so.
        let beside = if catalog.streaming.partitioned { "" } else { " CONCURRENTLY" };
        let repair = repair.map(|columns| format!("CREATE INDEX{beside} ON {quoted} ({columns});"));
        let problem = Problem { what, repair, fatal: false };
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    problems
}
