//! A look at the database: what the plan relies on, and the definition compiled as far as it fits. What does not
//! fit is named with the reason, and is not served; so are tables of which changes or rows could not be had
//! whole.

use std::sync::Arc;

use rowtide_plan::catalog::{Catalog, Unstreamed};
use rowtide_plan::compile::compile_partly;
use rowtide_plan::definition::Definition;
use rowtide_plan::error::Problem;
use rowtide_postgres::catalog::read_catalog;
use rowtide_postgres::connect::{ConnectError, ConnectOptions, Names, connect, reason};
use rowtide_postgres::rules::prepare_rules;
use rowtide_postgres::slot::system_identity;
use rowtide_postgres::watch::{Observed, WatchError, Watcher};
use thiserror::Error;

use crate::drift::unfit;
use crate::machine::Looked;

/// Why the database cannot be looked at.
#[derive(Debug, Error)]
pub(crate) enum LookError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("cannot read the catalog: {}", reason(.0))]
    Catalog(#[from] tokio_postgres::Error),
}

/// Looks, and compiles.
pub(crate) async fn look(
    options: &ConnectOptions,
    names: &Names,
    definition: &Definition,
) -> Result<Looked, LookError> {
    let tables = definition.tables();
    let client = connect(options, "catalog").await?;
    let mut watcher = Watcher::new(client, names, &tables).await?;
    let observed = watcher.look().await?;
    let client = watcher.client();
    let system = system_identity(client).await?;
    let mut catalog = read_catalog(client, &tables).await?;
    leave_out_unfit(&observed, &mut catalog);
    let (mut plan, refused) = compile_partly(definition, &catalog);
    let refused: Vec<(String, String)> =
        refused.into_iter().map(|(table, error)| (table, said(&error.problems))).collect();
    for (table, problems) in prepare_rules(client, &mut plan).await? {
        tracing::error!(table, problems = said(&problems), "a table cannot be written");
    }
    Ok(Looked { observed, plan: Arc::new(plan), refused, system })
}

fn leave_out_unfit(observed: &Observed, catalog: &mut Catalog) {
    let Catalog { tables, unstreamed } = catalog;
    tables.retain(|table| {
        let seen = observed.table(&table.schema, &table.name);
        // One that has appeared since is looked at soon again.
        let Some(kind) = seen.and_then(|seen| unfit(observed, seen)) else { return true };
        let (schema, name) = (table.schema.clone(), table.name.clone());
        unstreamed.push(Unstreamed { schema, name, kind });
        false
    });
}

fn said(problems: &[Problem]) -> String {
    let problems: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    problems.join("; ")
}
