//! From the definition and the tables as they are to the plan that serves: what fits is compiled, what does not
//! is named with the reason.

use std::sync::Arc;

use rowtide_plan::compile::compile_partly;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::Plan;
use rowtide_postgres::catalog::read_catalog;
use rowtide_postgres::connect::reason;
use rowtide_postgres::rules::prepare_rules;
use rowtide_postgres::wal::end_of_wal;
use rowtide_protocol::Lsn;
use tokio_postgres::Client;

/// What the definition comes to with the tables as they are.
pub(crate) struct Compiled {
    pub(crate) plan: Arc<Plan>,
    /// Where WAL ended when the tables were looked at: what was committed before and can be seen, every
    /// load of the plan sees.
    pub(crate) as_of: Lsn,
    /// The tables that are not served, and why.
    pub(crate) refused: Vec<(String, String)>,
}

/// The catalog cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the catalog: {}", reason(.0))]
pub(crate) struct CompileError(#[from] tokio_postgres::Error);

/// Compiles what of the definition fits the tables, and says what does not.
pub(crate) async fn compile(
    client: &Client,
    definition: &Definition,
) -> Result<Compiled, CompileError> {
    let as_of = end_of_wal(client).await?;
    let catalog = read_catalog(client, &definition.tables()).await?;
    let (mut plan, refused) = compile_partly(definition, &catalog);
    let said = |problems: &[rowtide_plan::error::Problem]| {
        let problems: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
        problems.join("; ")
    };
    let refused: Vec<(String, String)> =
        refused.into_iter().map(|(table, error)| (table, said(&error.problems))).collect();
    for (table, problems) in &refused {
        tracing::error!(table, problems, "a table is not served");
    }
    for (table, problems) in prepare_rules(client, &mut plan).await? {
        tracing::error!(table, problems = said(&problems), "a table cannot be written");
    }
    Ok(Compiled { plan: Arc::new(plan), as_of, refused })
}
