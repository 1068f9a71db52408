//! What a look finds missing of the definition, as sentences for `/health/ready` and the log: tables that do not fit, rights
//! that the server's role lacks, and Rowtide's own tables. Most of it is of one table, and the rest is served; some of it
//! holds up everything.

use rowtide_plan::sql::quote_table;
use rowtide_postgres::setup::Writes;
use rowtide_postgres::watch::{ObservedRights, ObservedTable};

use super::Looked;

/// Why a server that starts serves nothing of the definition yet: nobody could connect, none of its tables fits, or mutations
/// would be rejected for good by rules that were never taken.
pub(super) fn unservable(looked: &Looked) -> Option<String> {
    let nothing = !looked.plan.tables.iter().any(|table| table.published);
    let stops = nothing || !looked.unwritable.is_empty() || !looked.own.is_empty();
    stops.then(|| incomplete(looked)).flatten()
}

/// How an entry for documents is named among those for tables.
const DOCUMENTS: &str = "documents.";

/// The tables that nobody can write, because Postgres does not take a rule for that, and the
/// documents that nobody can open.
pub(super) fn unwritable(looked: &Looked) -> impl Iterator<Item = String> {
    let said = |(name, why): &(String, String)| match name.strip_prefix(DOCUMENTS) {
        Some(kind) => format!("documents `{kind}` cannot be opened: {why}"),
        None => format!("table `{name}` cannot be written: {why}"),
    };
    looked.unwritable.iter().map(said)
}

/// What of the definition does not fit, or cannot be read.
pub(super) fn incomplete(looked: &Looked) -> Option<String> {
    let rejected = looked.rejected.iter();
    let rejected = rejected.map(|(name, why)| match name.strip_prefix(DOCUMENTS) {
        Some(kind) => format!("documents `{kind}` do not fit: {why}"),
        None => format!("table `{name}` does not fit: {why}"),
    });
    let unreadable = looked.plan.tables.iter().filter_map(|table| {
        let (schema, name) = (&table.catalog.schema, &table.catalog.name);
        let seen = looked.observed.table(schema, name).filter(|seen| !seen.readable)?;
        let quoted = quote_table(&seen.schema, &seen.name);
        Some(format!("the server's role may not read table {quoted} (GRANT SELECT on it, and USAGE on its schema)"))
    });
    let ungranted = looked.plan.tables.iter().flat_map(|table| {
        let seen = looked.observed.table(&table.catalog.schema, &table.catalog.name);
        seen.into_iter().flat_map(|seen| ungranted(Writes::of(&looked.plan, table), seen))
    });
    let own = looked.own.iter().cloned();
    let all: Vec<String> =
        own.chain(rejected).chain(unwritable(looked)).chain(unreadable).chain(ungranted).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// The rights that rules for writing need and the server's role lacks. Mutations that need them wait.
fn ungranted(writes: Writes, seen: &ObservedTable) -> Vec<String> {
    let ObservedRights { insert, update, delete } = seen.rights;
    let needed = [
        ("INSERT", writes.insert && !insert),
        ("UPDATE", writes.update && !update),
        ("DELETE", writes.delete && !delete),
    ];
    let quoted = quote_table(&seen.schema, &seen.name);
    let said = |(right, _): &(&str, bool)| {
        format!(
            "the server's role may not {} rows of table {quoted} (GRANT {right} on it)",
            right.to_lowercase()
        )
    };
    needed.iter().filter(|(_, lacks)| *lacks).map(said).collect()
}
