//! Whether the stream brings enough of old rows. Who saw a row is decided by its old values, so a table
//! whose replica identity leaves one of them out cannot be served.

use crate::catalog::{CatalogTable, FullRejected, ReplicaIdentity};
use crate::error::DefinitionProblem;
use crate::ids::TableId;
use crate::plan::Plan;
use crate::sql::quote_table;
use crate::sql_text::Span;

/// The stream must bring the old value of every column that decides who saw a row, and of every
/// column that an update may leave out because it is stored out of line.
pub(super) fn too_small_identity(
    plan: &Plan,
    id: TableId,
    span: Span,
) -> Option<DefinitionProblem> {
    let table = plan.table(id);
    let catalog = &table.catalog;
    if let Some(problem) = smaller_partition(catalog, span.clone()) {
        return Some(problem);
    }
    let needed = needed(plan, id);
    if let Some(problem) = older_rows(catalog, &needed, span.clone()) {
        return Some(problem);
    }
    let identity: Vec<usize> = match &catalog.replica_identity {
        ReplicaIdentity::Full => return None,
        ReplicaIdentity::Nothing => Vec::new(),
        ReplicaIdentity::Key => table.key.clone(),
        ReplicaIdentity::Index(columns) => {
            columns.iter().filter_map(|column| catalog.column(column)).collect()
        }
    };
    let toasted = (0..catalog.columns.len()).filter(|column| catalog.columns[*column].toastable);
    let missing = needed.into_iter().chain(toasted).find(|column| !identity.contains(column))?;
    let quoted = quote_table(&catalog.schema, &catalog.name);
    let column = &catalog.columns[missing].name;
    let problem = DefinitionProblem::of_table(
        span,
        format!("the replica identity of table {quoted} is too small"),
        format!("the stream does not bring the old value of \"{column}\""),
    );
    let full = || format!("ALTER TABLE {quoted} REPLICA IDENTITY FULL;");
    let rejected = catalog.streaming.full_rejected.as_ref();
    Some(problem.help(rejected.map_or_else(full, |rejected| instead_of_full(rejected, &quoted))))
}

/// The columns that tell which row it is, and who saw it.
fn needed(plan: &Plan, id: TableId) -> Vec<usize> {
    let table = plan.table(id);
    let mut needed: Vec<usize> = table.key.clone();
    needed.extend(&table.kept);
    for branch in table.branches.iter().map(|branch| plan.branch(*branch)) {
        needed.extend(branch.anchor);
        branch.filter.0.operands(&mut |operand| needed.extend(operand.column()));
    }
    needed
}

/// Rows that were written before such a column was added come with null for it.
fn older_rows(catalog: &CatalogTable, needed: &[usize], span: Span) -> Option<DefinitionProblem> {
    let name = |column: &usize| &catalog.columns[*column].name;
    let (partition, column) = catalog.streaming.partitions.iter().find_map(|partition| {
        let column = needed.iter().map(name).find(|name| partition.null_in_old_rows.contains(name));
        Some((&partition.name, column?))
    })?;
    let quoted = quote_table(&catalog.schema, &catalog.name);
    let problem = DefinitionProblem::of_table(
        span,
        format!("rows of a partition of table {quoted} are older than its column \"{column}\""),
        format!("this version of Postgres streams old values of rows in {partition} without it"),
    );
    Some(problem.help(format!("VACUUM FULL {partition}; writes them anew, with the column")))
}

/// Rows of a partition come with the old values that its own replica identity has; what else the table's would
/// have comes as null.
fn smaller_partition(catalog: &CatalogTable, span: Span) -> Option<DefinitionProblem> {
    let fits = |identity: &ReplicaIdentity| {
        *identity == ReplicaIdentity::Full || *identity == catalog.replica_identity
    };
    let mut partitions = catalog.streaming.partitions.iter();
    let partition = &partitions.find(|part| !fits(&part.replica_identity))?.name;
    let quoted = quote_table(&catalog.schema, &catalog.name);
    let problem = DefinitionProblem::of_table(
        span,
        format!("a partition of table {quoted} has a smaller replica identity"),
        format!("the stream does not bring the old values of rows in {partition}"),
    );
    Some(problem.help(format!("ALTER TABLE {partition} REPLICA IDENTITY FULL;")))
}

/// What to do where the identity cannot be `FULL`, because Postgres would reject the application's updates.
pub(crate) fn instead_of_full(rejected: &FullRejected, table: &str) -> String {
    match rejected {
        FullRejected::VirtualColumn(column) => format!(
            "make column {column} STORED: with a VIRTUAL one Postgres rejects updates of a table whose \
             replica identity is FULL"
        ),
        FullRejected::ColumnList { publication } => format!(
            "take {table} out of publication {publication}, or its list of columns: with one Postgres \
             rejects updates of a table whose replica identity is FULL"
        ),
        FullRejected::GeneratedColumn { publication, column } => format!(
            "ALTER PUBLICATION {publication} SET (publish_generated_columns = stored);  -- without \
             {column} in it Postgres rejects updates of a table whose replica identity is FULL"
        ),
    }
}
