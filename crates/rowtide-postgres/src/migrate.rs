//! Migrations of an application's tables for development and tests: numbered SQL files, each applied
//! once, in order, in a transaction of its own. A file that was applied must not change.

use thiserror::Error;
use tokio_postgres::Client;

use crate::connect::reason;

/// A file of SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its name. Files are applied in the order of the numbers that their names begin with; those
    /// without one come last, in the order of their names.
    pub name: String,
    /// What it holds.
    pub sql: String,
}

/// Why migrations were not applied.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// Postgres refused a statement.
    #[error("migration `{name}` failed: {}", reason(source))]
    Failed {
        /// The file.
        name: String,
        /// What Postgres said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A file is not what was applied.
    #[error("migration `{0}` was changed after it had been applied; write a new one instead")]
    Changed(String),
    /// The table of applied migrations cannot be used.
    #[error("cannot read which migrations were applied: {}", reason(.0))]
    State(#[source] tokio_postgres::Error),
}

/// What those who migrate lock, each for as long as one file takes: an arbitrary number.
const LOCK: &str = "SET LOCAL lock_timeout = 0;
                    SELECT pg_advisory_xact_lock(7306382164);
                    SET LOCAL lock_timeout TO DEFAULT";

/// Applies what has not been applied yet and returns the names.
///
/// # Errors
/// At the first file that fails or was changed; those before it stay applied.
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

/// Whether it had not been applied yet.
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
