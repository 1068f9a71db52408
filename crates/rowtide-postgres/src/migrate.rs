//! Applies the migrations of an application's tables, for development and tests. Migrations are numbered SQL
//! files. Each is applied once, in order, in its own transaction. An applied file must not change.

use thiserror::Error;
use tokio_postgres::Client;

use crate::connect::reason;

/// A file of SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The file's name. Files are applied in the order of the numbers that their names begin with. Files
    /// without a number come last, in the order of their names.
    pub name: String,
    /// The file's content.
    pub sql: String,
}

/// Why migrations were not applied.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// A statement failed.
    #[error("migration `{name}` failed: {}", reason(source))]
    Failed {
        /// The file.
        name: String,
        /// The error of Postgres.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A file has changed since it was applied.
    #[error("migration `{0}` was changed after it had been applied; write a new one instead")]
    Changed(String),
    /// The table of applied migrations cannot be read or written.
    #[error("cannot read which migrations were applied: {}", reason(.0))]
    State(#[source] tokio_postgres::Error),
}

/// Takes the lock for migrations, an arbitrary number, for as long as one file takes.
const LOCK: &str = "SET LOCAL lock_timeout = 0;
                    SELECT pg_advisory_xact_lock(7306382164);
                    SET LOCAL lock_timeout TO DEFAULT";

/// Applies the migrations that have not been applied yet, and returns their names.
///
/// # Errors
/// When a file fails or has changed. The files before it stay applied.
pub async fn migrate(
    client: &mut Client,
    migrations: &[Migration],
) -> Result<Vec<String>, MigrateError> {
    let create = format!(
        "BEGIN; {LOCK};
         CREATE SCHEMA IF NOT EXISTS rowtide_dev;
         CREATE TABLE IF NOT EXISTS rowtide_dev.migration (
           name text PRIMARY KEY,
           checksum text NOT NULL,
           applied_at timestamptz NOT NULL DEFAULT now()
         );
         COMMIT"
    );
    client.batch_execute(&create).await.map_err(MigrateError::State)?;
    let mut sorted: Vec<&Migration> = migrations.iter().collect();
    sorted.sort_by_key(|migration| (number(&migration.name), &migration.name));
    let mut applied = Vec::new();
    for migration in sorted {
        if apply(client, migration).await? {
            applied.push(migration.name.clone());
        }
    }
    Ok(applied)
}

/// Applies one migration. Returns `false` if it had been applied before.
async fn apply(client: &mut Client, migration: &Migration) -> Result<bool, MigrateError> {
    let Migration { name, sql } = migration;
    let fail = |source| MigrateError::Failed { name: name.clone(), source };
    let transaction = client.transaction().await.map_err(MigrateError::State)?;
    transaction.batch_execute(LOCK).await.map_err(MigrateError::State)?;
    let same = "SELECT checksum = md5($2) FROM rowtide_dev.migration WHERE name = $1";
    let known = transaction.query_opt(same, &[name, sql]).await.map_err(MigrateError::State)?;
    match known.map(|row| row.get(0)) {
        Some(true) => return Ok(false),
        Some(false) => return Err(MigrateError::Changed(name.clone())),
        None => {}
    }
    transaction.batch_execute(sql).await.map_err(fail)?;
    let insert = "INSERT INTO rowtide_dev.migration (name, checksum) VALUES ($1, md5($2))";
    transaction.execute(insert, &[name, sql]).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)?;
    Ok(true)
}

/// The number that a name begins with: `9_…` comes before `10_…`.
fn number(name: &str) -> u64 {
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    name[..digits].parse().unwrap_or(u64::MAX)
}
