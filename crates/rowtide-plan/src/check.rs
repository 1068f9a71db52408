//! Checks the tables of a plan. A finding is a problem or a possible improvement, with the SQL for it.

use crate::catalog::{Catalog, ReplicaIdentity};
use crate::compile::compile;
use crate::definition::Definition;
use crate::error::DefinitionError;
use crate::plan::Plan;
use crate::sql::{quote_identifier, quote_table};
use crate::value::ColumnType;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A sentence.
    pub what: String,
    /// The SQL that repairs it, or what else to do.
    pub repair: Option<String>,
    /// Whether the server cannot serve the plan like this.
    pub fatal: bool,
}

/// The plan as it will be once setup has given every table a replica identity that holds the whole old
/// row, and the tables that have a smaller one now.
///
/// # Errors
/// With everything that does not fit even then.
pub fn plan_once_set_up(
    definition: &Definition,
    catalog: &Catalog,
) -> Result<(Plan, Vec<Problem>), DefinitionError> {
    let mut set_up = catalog.clone();
    for table in &mut set_up.tables {
        table.replica_identity = ReplicaIdentity::Full;
    }
    let plan = compile(definition, &set_up)?;
    let problems = match compile(definition, catalog) {
        Ok(_) => Vec::new(),
        Err(error) => error
            .problems
            .into_iter()
            .map(|problem| {
                let what = format!("{}: {}", problem.message, problem.label);
                Problem { what, repair: problem.help, fatal: true }
            })
            .collect(),
    };
    Ok((plan, problems))
}

/// Looks at the tables of a plan: an index for every anchor, keys that JavaScript can hold.
pub fn check_plan(plan: &Plan) -> Vec<Problem> {
    let mut problems = Vec::new();
    let note = |what, repair| Problem { what, repair, fatal: false };
    for table in &plan.tables {
        let catalog = &table.catalog;
        let quoted = quote_table(&catalog.schema, &catalog.name);
        let mut anchors: Vec<usize> =
            table.branches.iter().filter_map(|branch| plan.branch(*branch).anchor).collect();
        anchors.sort_unstable();
        anchors.dedup();
        for anchor in anchors {
            let column = &catalog.columns[anchor].name;
            if anchor_index(catalog, column).is_none() {
                let name = quote_identifier(column);
                let repair = format!("CREATE INDEX CONCURRENTLY ON {quoted} ({name});");
                let what = format!(
                    "no index serves the anchor {name} of {quoted}: every load reads the whole table"
                );
                problems.push(note(what, Some(repair)));
            }
        }
        for key in &table.key {
            let column = &catalog.columns[*key];
            if column.kind == ColumnType::Int && column.type_name == "bigint" && table.published {
                let name = quote_identifier(&column.name);
                let what = format!(
                    "the key {name} of {quoted} is a bigint: JavaScript clients lose digits beyond 2^53"
                );
                problems.push(note(what, None));
            }
        }
    }
    problems
}

/// The index that finds rows by `column`.
pub(crate) fn anchor_index<'a>(
    catalog: &'a crate::catalog::CatalogTable,
    column: &str,
) -> Option<&'a str> {
    let leads = |index: &&crate::catalog::CatalogIndex| {
        index.columns.first().is_some_and(|first| first == column)
    };
    catalog.indexes.iter().find(leads).map(|index| index.name.as_str())
}
