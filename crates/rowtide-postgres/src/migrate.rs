//! Applies the migrations of an application's tables, for development and tests. Migrations are numbered SQL
//! files (`layout.rs` knows which). Each is applied once, in order, in its own transaction, unless one of its statements
//! cannot be in one. An applied file must not change.

mod layout;
mod statements;

use std::time::Duration;

use thiserror::Error;
use tokio_postgres::error::{ErrorPosition, SqlState};
use tokio_postgres::{Client, Error as PostgresError};

pub use self::layout::{Chosen, choose};
use self::layout::{is_repeatable, order};
use self::statements::{Bound, Statement, parts, statements};
use crate::connect::reason;
use crate::slot_making::beginning;

/// A file of SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The file's name, with the folders that it is in. Files are applied in the order of the numbers that their
    /// names begin with. Files without a number come last, in the order of their names.
    pub name: String,
    /// The file's content.
    pub sql: String,
}

/// Why migrations were not applied.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// A statement failed.
    #[error(
        "migration `{name}` failed at line {line}: {}, in: {statement}{}", reason(source),
        if *whole { "" } else { " (what stands before it in the file is done)" }
    )]
    Failed {
        /// The file.
        name: String,
        /// The line, from 1.
        line: usize,
        /// The beginning of the statement.
        statement: String,
        /// Nothing of the file was done.
        whole: bool,
        /// The error of Postgres.
        #[source]
        source: PostgresError,
    },
    /// A statement that only `psql` can run.
    #[error("migration `{name}`, line {line}: only psql can run this: {statement}")]
    OfPsql {
        /// The file.
        name: String,
        /// The line, from 1.
        line: usize,
        /// Its beginning.
        statement: String,
    },
    /// A file has changed since it was applied.
    #[error("migration `{0}` was changed after it had been applied; write a new one instead")]
    Changed(String),
    /// The table of applied migrations cannot be read or written.
    #[error("cannot read which migrations were applied: {}", reason(.0))]
    State(#[source] tokio_postgres::Error),
}

/// The lock of those who migrate, an arbitrary number.
const LOCK: i64 = 7_306_382_164;
/// How long one attempt waits for that lock. `CREATE INDEX CONCURRENTLY` of whoever has it waits for the transactions of
/// those who wait, so they give way before Postgres takes that for a deadlock, after a second.
const ATTEMPT: &str = "SET lock_timeout = '500ms'";
const PAUSE: Duration = Duration::from_millis(50);

/// Applies the migrations that have not been applied yet, and returns their names.
///
/// # Errors
/// When a file fails or has changed. The files before it stay applied.
pub async fn migrate(
    client: &mut Client,
    migrations: &[Migration],
) -> Result<Vec<String>, MigrateError> {
    lock(client).await.map_err(MigrateError::State)?;
    let migrated = migrate_locked(client, migrations).await;
    let unlocked = client.query_one("SELECT pg_advisory_unlock($1)", &[&LOCK]).await;
    let applied = migrated?;
    unlocked.map_err(MigrateError::State)?;
    Ok(applied)
}

async fn lock(client: &Client) -> Result<(), PostgresError> {
    loop {
        client.batch_execute(ATTEMPT).await?;
        let locked = client.query_one("SELECT pg_advisory_lock($1)", &[&LOCK]).await;
        client.batch_execute("RESET lock_timeout").await?;
        match locked {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                tokio::time::sleep(PAUSE).await;
            }
            locked => return locked.map(drop),
        }
    }
}

async fn migrate_locked(
    client: &mut Client,
    migrations: &[Migration],
) -> Result<Vec<String>, MigrateError> {
    let create = "CREATE SCHEMA IF NOT EXISTS rowtide_dev;
         CREATE TABLE IF NOT EXISTS rowtide_dev.migration (
           name text PRIMARY KEY,
           checksum text NOT NULL,
           applied_at timestamptz NOT NULL DEFAULT now()
         )";
    client.batch_execute(create).await.map_err(MigrateError::State)?;
    let mut sorted: Vec<&Migration> = migrations.iter().collect();
    sorted.sort_by_cached_key(|migration| order(&migration.name));
    let mut applied = Vec::new();
    for migration in sorted {
        let new = apply(client, migration).await?;
        // What a file sets is for itself alone.
        client.batch_execute("RESET ALL").await.map_err(MigrateError::State)?;
        if new {
            applied.push(migration.name.clone());
        }
    }
    Ok(applied)
}

/// Applies one migration. Returns `false` if it had been applied before.
async fn apply(client: &mut Client, migration: &Migration) -> Result<bool, MigrateError> {
    let Migration { name, sql } = migration;
    let same = "SELECT checksum = md5($2) FROM rowtide_dev.migration WHERE name = $1";
    let known = client.query_opt(same, &[name, sql]).await.map_err(MigrateError::State)?;
    match known.map(|row| row.get(0)) {
        Some(true) => return Ok(false),
        Some(false) if !is_repeatable(name) => return Err(MigrateError::Changed(name.clone())),
        Some(false) | None => {}
    }
    let parts = parts(sql);
    let statements = to_run(name, &parts.sql)?;
    let record = "INSERT INTO rowtide_dev.migration (name, checksum) VALUES ($1, md5($2)) \
                  ON CONFLICT (name) DO UPDATE SET checksum = excluded.checksum, applied_at = now()";
    let alone = parts.no_transaction
        || statements
            .iter()
            .any(|statement| statement.is_alone() || statement.transaction().is_some());
    if alone {
        // Whether a transaction is open that the file has begun, and whether anything stays.
        let (mut open, mut done) = (false, false);
        for statement in &statements {
            if let Err(error) = client.batch_execute(statement.text).await {
                drop(client.batch_execute("ROLLBACK").await);
                return Err(failed(name, statement, !done, error));
            }
            match statement.transaction() {
                Some(Bound::Begin) => open = true,
                Some(Bound::Commit) => (open, done) = (false, true),
                Some(Bound::RollBack) => open = false,
                None => done |= !open,
            }
        }
        client.execute(record, &[name, sql]).await.map_err(MigrateError::State)?;
        return Ok(true);
    }
    let transaction = client.transaction().await.map_err(MigrateError::State)?;
    for statement in &statements {
        let ran = transaction.batch_execute(statement.text).await;
        ran.map_err(|error| failed(name, statement, true, error))?;
    }
    transaction.execute(record, &[name, sql]).await.map_err(MigrateError::State)?;
    match (transaction.commit().await, statements.last()) {
        (Ok(()), _) => Ok(true),
        // What is checked in the end belongs to no statement.
        (Err(error), Some(last)) => Err(failed(name, last, true, error)),
        (Err(error), None) => Err(MigrateError::State(error)),
    }
}

/// The statements of a file that can be run.
fn to_run<'a>(name: &str, sql: &'a str) -> Result<Vec<Statement<'a>>, MigrateError> {
    let mut statements = statements(sql);
    // What `pg_dump` writes around its output.
    let dumped = |text: &str| text.starts_with("\\restrict") || text.starts_with("\\unrestrict");
    statements.retain(|statement| !dumped(statement.text));
    match statements.iter().find(|it| it.is_of_psql() || it.copies_from_input()) {
        None => Ok(statements),
        Some(statement) => Err(MigrateError::OfPsql {
            name: name.to_owned(),
            line: statement.line,
            statement: beginning(statement.text).unwrap_or_default(),
        }),
    }
}

fn failed(
    name: &str,
    statement: &Statement<'_>,
    whole: bool,
    source: PostgresError,
) -> MigrateError {
    let position = source.as_db_error().and_then(|error| match error.position() {
        Some(ErrorPosition::Original(position)) => usize::try_from(*position).ok(),
        _ => None,
    });
    MigrateError::Failed {
        name: name.to_owned(),
        line: statement.line_of(position.filter(|position| *position > 0)),
        statement: beginning(statement.text).unwrap_or_default(),
        whole,
        source,
    }
}
