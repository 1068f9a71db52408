//! The draft of a definition, from a database that is there: its tables, and rules for those who read and write them. Where
//! a table has row-level security, its policies are turned into rules as far as they can be said; elsewhere foreign keys
//! suggest who may read. Whether a rule can be said is decided by compiling it, and nothing else: what is refused is
//! `false`, with the reason beside it. A draft never shows more than the policies do. Pure: facts in, text out.

mod expr;
mod looked;
mod policy;
mod rules;
mod said;
mod suggest;
mod text;

use std::collections::BTreeMap;

use crate::catalog::{Catalog, TableName};

pub use self::text::draft;

/// What is known of a database's tables beside the catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DraftFacts {
    /// Those that are written, in that order.
    pub tables: Vec<DraftTable>,
    /// Others, into which policies may look.
    pub others: Vec<DraftTable>,
}

/// What is known of a table beside its columns and keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DraftTable {
    /// The table.
    pub name: TableName,
    /// Whether row-level security applies to it.
    pub row_security: bool,
    /// The policies of row-level security, by name.
    pub policies: Vec<RowPolicy>,
    /// What its rows refer to.
    pub foreign_keys: Vec<ForeignKey>,
}

/// A policy of row-level security.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPolicy {
    /// Its name.
    pub name: String,
    /// Whether it allows (`PERMISSIVE`), and does not restrict what others allow.
    pub permissive: bool,
    /// For which commands it is.
    pub command: PolicyCommand,
    /// The roles that it is for; `public` is all of them.
    pub roles: Vec<String>,
    /// What a row that is there must be (`USING`), as Postgres prints it with an empty search path.
    pub using: Option<String>,
    /// What a row that is written must be (`WITH CHECK`).
    pub check: Option<String>,
}

/// Which command a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyCommand {
    /// Each of them.
    All,
    /// `SELECT`
    Select,
    /// `INSERT`
    Insert,
    /// `UPDATE`
    Update,
    /// `DELETE`
    Delete,
}

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// The columns that refer.
    pub columns: Vec<String>,
    /// The table that is referred to.
    pub table: TableName,
    /// The columns there, in the same order.
    pub referenced: Vec<String>,
}

/// The rules for writing that Postgres does not take, by table, and why: they are left out of the next draft.
pub type RefusedWrites = BTreeMap<TableName, String>;

/// A draft, and what there is to say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The text of the definition.
    pub text: String,
    /// How many tables it has.
    pub tables: usize,
    /// The tables that nobody sees until somebody writes their rule, as rules name them.
    pub unsaid: Vec<String>,
    /// The tables that are left out, because their rows cannot be told apart.
    pub without_key: Vec<String>,
}

/// Schemas that are not an application's: of Postgres, and of the platforms that it runs on.
const SCHEMAS_OF_OTHERS: [&str; 22] = [
    "information_schema",
    "auth",
    "storage",
    "realtime",
    "_realtime",
    "vault",
    "extensions",
    "graphql",
    "graphql_public",
    "net",
    "cron",
    "pgsodium",
    "pgsodium_masks",
    "pgbouncer",
    "pgmq",
    "supabase_functions",
    "supabase_migrations",
    "_analytics",
    "drizzle",
    "tiger",
    "topology",
    "hdb_catalog",
];

/// Tables in which tools keep which migrations they have run.
const MIGRATIONS: [&str; 19] = [
    "schema_migrations",
    "_sqlx_migrations",
    "__diesel_schema_migrations",
    "_prisma_migrations",
    "flyway_schema_history",
    "goose_db_version",
    "knex_migrations",
    "knex_migrations_lock",
    "alembic_version",
    "ar_internal_metadata",
    "django_migrations",
    "__drizzle_migrations",
    "__efmigrationshistory",
    "pgmigrations",
    "sequelizemeta",
    "databasechangelog",
    "databasechangeloglock",
    "kysely_migration",
    "kysely_migration_lock",
];

/// Whether a table is the application's, and not one of its tools. `schemas` are those that were asked for; if there are
/// none, all are that belong to nobody else.
pub fn is_of_application(table: &TableName, schemas: &[String]) -> bool {
    let schema = table.schema.as_str();
    let wanted = match schemas {
        [] => !SCHEMAS_OF_OTHERS.contains(&schema) && !schema.starts_with("pg_"),
        asked => asked.iter().any(|asked| asked == schema),
    };
    let name = table.name.to_lowercase();
    // Each environment has a schema of its own.
    let is_rowtides = schema == "rowtide" || schema.starts_with("rowtide_");
    wanted && !is_rowtides && !MIGRATIONS.contains(&name.as_str())
}

/// The tables that the draft is about: those of the facts that the catalog has with a key.
fn told_apart<'a>(
    facts: &'a DraftFacts,
    catalog: &Catalog,
) -> (Vec<&'a DraftTable>, Vec<&'a DraftTable>) {
    let has_key = |table: &&DraftTable| {
        catalog.table_of(&table.name).is_some_and(|known| !known.primary_key.is_empty())
    };
    facts.tables.iter().partition(has_key)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole;
