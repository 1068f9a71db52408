//! How the replication slot is doing, as Postgres sees it.

use rowtide_protocol::{InvalidLsn, Lsn};
use thiserror::Error;
use tokio_postgres::Client;

use crate::connect::reason;

/// The state of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotHealth {
    /// `pg_replication_slots.wal_status`: `reserved`, `extended`, `unreserved` or `lost`.
    pub status: String,
    /// How much WAL is kept for it, in bytes.
    pub retained_bytes: u64,
    /// Where WAL ends.
    pub end_of_wal: Lsn,
}

/// A question about a slot has no answer.
#[derive(Debug, Error)]
pub enum SlotError {
    /// It was not answered.
    #[error("{}", reason(.0))]
    Query(#[from] tokio_postgres::Error),
    /// What came is not a position.
    #[error("Postgres tells a position that cannot be read: {0}")]
    Position(#[from] InvalidLsn),
}

/// Asks for a slot; `None` if there is none of that name.
///
/// # Errors
/// When the question is not answered, or not with a position.
pub async fn slot_health(client: &Client, slot: &str) -> Result<Option<SlotHealth>, SlotError> {
    let sql = "SELECT coalesce(wal_status, 'lost'), \
               coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, \
               pg_current_wal_lsn()::text \
               FROM pg_replication_slots WHERE slot_name = $1";
    let row = client.query_opt(sql, &[&slot]).await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(SlotHealth {
        status: row.get(0),
        // Less than nothing is kept only while a standby has not caught up with the slot.
        retained_bytes: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
        end_of_wal: row.get::<_, &str>(2).parse()?,
    }))
}

/// Which database this is, for whatever of it is kept elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The same for a primary and its standbys, another after `initdb`.
    pub cluster: u64,
    /// `pg_database.oid`.
    pub database: u32,
    /// Another after a standby was promoted, or a backup was brought up to a point in time.
    pub timeline: u32,
}

/// Asks whether the server is a standby, or is still being recovered: it can then neither be written nor, in all
/// versions, be streamed from.
///
/// # Errors
/// When the question is not answered.
pub async fn is_standby(client: &Client) -> Result<bool, tokio_postgres::Error> {
    Ok(client.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0))
}

/// Asks which database this is.
///
/// # Errors
/// When the question is not answered.
pub async fn system_identity(client: &Client) -> Result<SystemIdentity, tokio_postgres::Error> {
    // The first eight digits of a file of WAL are its timeline.
    let sql = "SELECT system_identifier, \
               (SELECT oid FROM pg_database WHERE datname = current_database()), \
               ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int \
               FROM pg_control_system()";
    let row = client.query_one(sql, &[]).await?;
    // Postgres shows the unsigned number as a signed one.
    let (cluster, timeline) = (row.get::<_, i64>(0) as u64, row.get::<_, i32>(2) as u32);
    Ok(SystemIdentity { cluster, database: row.get(1), timeline })
}
