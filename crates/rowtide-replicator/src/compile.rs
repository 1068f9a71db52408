//! A look at the database: what the plan relies on, and the definition compiled as far as it fits. What does not
//! fit is named with the reason, and is not served; so are tables of which changes or rows could not be had
//! whole.

use std::sync::Arc;

use rowtide_plan::catalog::{Catalog, Unstreamed};
use rowtide_plan::compile::compile_partly;
use rowtide_plan::definition::Definition;
use rowtide_plan::error::DefinitionProblem;
use rowtide_postgres::catalog::{encoding_said, unserved_encoding};
use rowtide_postgres::check::check_own_tables;
use rowtide_postgres::connect::{ConnectError, ConnectOptions, Names, connect, reason};
use rowtide_postgres::rules::prepare_rules;
use rowtide_postgres::slot::{is_standby, system_identity};
use rowtide_postgres::wal::{WalError, pass_end_of_wal};
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
    #[error("the server is a standby; connect to the primary, or promote it")]
    Standby,
    #[error("{}", encoding_said(.0))]
    Encoding(String),
    #[error(transparent)]
    Wal(#[from] WalError),
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
    if is_standby(&client).await? {
        return Err(LookError::Standby);
    }
    if let Some(encoding) = unserved_encoding(&client).await? {
        return Err(LookError::Encoding(encoding));
    }
    let mut watcher = Watcher::new(client, names, &tables).await?;
    let (observed, mut catalog) = watcher.look_with_catalog(&tables).await?;
    let client = watcher.client();
    let system = system_identity(client).await?;
    leave_out_unfit(&observed, &mut catalog);
    let (mut plan, rejected) = compile_partly(definition, &catalog);
    let rejected: Vec<(String, String)> =
        rejected.into_iter().map(|(table, error)| (table, said(&error.problems))).collect();
    let unwritable = prepare_rules(client, &mut plan).await?;
    let unwritable = unwritable.into_iter().map(|(table, problems)| (table, said(&problems)));
    let unwritable = unwritable.collect();
    let own = check_own_tables(client, names).await?.into_iter().map(|problem| {
        let repair = problem.repair.map_or_else(String::new, |repair| format!(" ({repair})"));
        format!("{}{repair}", problem.what)
    });
    let own = own.collect();
    let wal_end = pass_end_of_wal(client).await?;
    Ok(Looked { observed, plan: Arc::new(plan), rejected, unwritable, own, system, wal_end })
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

/// The problems as `rowtide check` says them, without their places.
fn said(problems: &[DefinitionProblem]) -> String {
    let said = problems.iter().map(|DefinitionProblem { message, label, help, .. }| {
        let label = Some(label).filter(|label| !label.is_empty() && *label != message);
        let label = label.map_or_else(String::new, |label| format!(": {label}"));
        let help = help.as_ref().map_or_else(String::new, |help| format!(" ({help})"));
        format!("{message}{label}{help}")
    });
    said.collect::<Vec<_>>().join("; ")
}
