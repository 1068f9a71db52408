//! Whether the stream brings enough of old rows. Who saw a row is decided by its old values, so a table
//! whose replica identity leaves one of them out cannot be served.

use crate::catalog::ReplicaIdentity;
use crate::error::DefinitionProblem;
use crate::filter::Operand;
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
    let identity: Vec<usize> = match &catalog.replica_identity {
        ReplicaIdentity::Full => return None,
        ReplicaIdentity::Nothing => Vec::new(),
        ReplicaIdentity::Key => table.key.clone(),
        ReplicaIdentity::Index(columns) => {
            columns.iter().filter_map(|column| catalog.column(column)).collect()
        }
    };
    let mut needed: Vec<usize> = table.key.clone();
    needed.extend(&table.kept);
    for branch in table.branches.iter().map(|branch| plan.branch(*branch)) {
        needed.extend(branch.anchor);
        branch.filter.0.operands(&mut |operand| {
            if let Operand::Column(column) = operand {
                needed.push(*column);
            }
        });
    }
    let toasted = (0..catalog.columns.len()).filter(|column| catalog.columns[*column].toastable);
    let missing = needed.into_iter().chain(toasted).find(|column| !identity.contains(column))?;
    let quoted = quote_table(&catalog.schema, &catalog.name);
    let column = &catalog.columns[missing].name;
    let problem = DefinitionProblem::of_table(
        span,
        format!("the replica identity of table {quoted} is too small"),
        format!("the stream does not bring the old value of \"{column}\""),
    );
    Some(problem.help(format!("ALTER TABLE {quoted} REPLICA IDENTITY FULL;")))
}
