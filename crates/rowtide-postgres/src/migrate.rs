//! Migrations of an application's tables for development and tests: numbered SQL files, each applied
//! once, in order, in a transaction of its own. A file that was applied must not change.

use std::hash::Hasher;

use rustc_hash::FxHasher;
use thiserror::Error;
use tokio_postgres::Client;

use crate::connect::reason;

/// A file of SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its name; files are applied in the order of their names.
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

/// Applies what has not been applied yet and returns the names.
///
/// # Errors
/// At the first file that fails or was changed; those before it stay applied.
pub async fn migrate(
    client: &mut Client,
    migrations: &[Migration],
) -> Result<Vec<String>, MigrateError> {
    let create = "CREATE SCHEMA IF NOT EXISTS rowtide_dev;
                  CREATE TABLE IF NOT EXISTS rowtide_dev.migration (
                    name text PRIMARY KEY, checksum bigint NOT NULL
                  )";
    client.batch_execute(create).await.map_err(MigrateError::State)?;
    let mut sorted: Vec<&Migration> = migrations.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut applied = Vec::new();
    for migration in sorted {
        let name = &migration.name;
        let fail = |source| MigrateError::Failed { name: name.clone(), source };
        let mut hasher = FxHasher::default();
        hasher.write(migration.sql.as_bytes());
        let checksum = hasher.finish() as i64;
        let transaction = client.transaction().await.map_err(MigrateError::State)?;
        // One server at a time.
        transaction
            .batch_execute("LOCK TABLE rowtide_dev.migration IN EXCLUSIVE MODE")
            .await
            .map_err(MigrateError::State)?;
        let sql = "SELECT checksum FROM rowtide_dev.migration WHERE name = $1";
        let known = transaction.query_opt(sql, &[name]).await.map_err(MigrateError::State)?;
        match known.map(|row| row.get::<_, i64>(0)) {
            Some(known) if known == checksum => continue,
            Some(_) => return Err(MigrateError::Changed(name.clone())),
            None => {}
        }
        transaction.batch_execute(&migration.sql).await.map_err(fail)?;
        let sql = "INSERT INTO rowtide_dev.migration VALUES ($1, $2)";
        transaction.execute(sql, &[name, &checksum]).await.map_err(fail)?;
        transaction.commit().await.map_err(fail)?;
        applied.push(name.clone());
    }
    Ok(applied)
}
