//! What has a table's name and cannot be synced, because Postgres streams no changes of it: said with
//! what it is, since "there is no such table" would send a person looking for a slip of the pen.

use crate::catalog::{Unstreamed, UnstreamedKind};
use crate::error::DefinitionProblem;
use crate::sql::quote_table;
use crate::sql_text::Span;

/// That it cannot be synced, why, and what to do instead.
pub(super) fn unstreamed(relation: &Unstreamed, span: Span) -> DefinitionProblem {
    let quoted = quote_table(&relation.schema, &relation.name);
    let (is, why, help) = match &relation.kind {
        UnstreamedKind::View => (
            "a view",
            "it has no rows of its own that change",
            "name the tables that it is made from".to_owned(),
        ),
        UnstreamedKind::MaterializedView => (
            "a materialized view",
            "Postgres does not stream what a refresh changes",
            "name the tables that it is made from".to_owned(),
        ),
        UnstreamedKind::Inherited { child } => (
            "a table that others inherit from",
            "rows of those are rows of it, too, and their changes are streamed as theirs",
            format!(
                "sync {child} and the other tables that hold the rows, each by itself, or make it a \
                 partitioned table"
            ),
        ),
        UnstreamedKind::PartitionOf { root } => (
            "a partition of a table that is synced, too,",
            "its changes are streamed as those of the partitioned table",
            format!("sync {root} alone, or its partitions without it"),
        ),
        UnstreamedKind::PartitionUnstreamed { partition } => (
            "a table with a partition that is not streamed",
            "changes of foreign and of unlogged tables are not in the WAL",
            format!("detach {partition}, or make it a plain, logged table"),
        ),
        UnstreamedKind::Foreign => (
            "a foreign table",
            "its rows change where they are, and not in this database",
            "serve the database that they are in".to_owned(),
        ),
        UnstreamedKind::Unlogged => (
            "an unlogged table",
            "its changes are not in the WAL",
            format!("ALTER TABLE {quoted} SET LOGGED;"),
        ),
        UnstreamedKind::Temporary => (
            "a temporary table",
            "it is there for one connection alone",
            "make it a table that stays".to_owned(),
        ),
        UnstreamedKind::Unpublished => {
            ("not in the publication", "its changes are not streamed", "rowtide setup".to_owned())
        }
        UnstreamedKind::PublishedInPart => (
            "published only in part",
            "the publication leaves out operations, rows or columns of it, or streams its partitions as tables by themselves",
            "rowtide check".to_owned(),
        ),
        UnstreamedKind::RowSecurity => (
            "under row-level security",
            "it hides rows from the server's role, but not their changes",
            "ALTER ROLE … BYPASSRLS;".to_owned(),
        ),
        UnstreamedKind::System => (
            "a table of Postgres' own",
            "its changes are not streamed",
            "name a table of the application".to_owned(),
        ),
        UnstreamedKind::Other => {
            ("not a table", "it has no rows to sync", "name a table".to_owned())
        }
    };
    DefinitionProblem::of_table(span, format!("{quoted} is {is} and cannot be synced"), why)
        .help(help)
}
