//! How the replication slot is doing, as Postgres sees it.

use rowtide_protocol::Lsn;
use tokio_postgres::{Client, Error};

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

/// Asks for a slot; `None` if there is none of that name.
///
/// # Errors
/// When the question is not answered.
pub async fn slot_health(client: &Client, slot: &str) -> Result<Option<SlotHealth>, Error> {
    let sql = "SELECT coalesce(wal_status, 'lost'), \
               coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, \
               pg_current_wal_lsn()::text \
               FROM pg_replication_slots WHERE slot_name = $1";
    let row = client.query_opt(sql, &[&slot]).await?;
    Ok(row.map(|row| SlotHealth {
        status: row.get(0),
        retained_bytes: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
        // Postgres has printed it.
        end_of_wal: row.get::<_, &str>(2).parse().unwrap_or_default(),
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

/// Asks which database this is.
///
/// # Errors
/// When the question is not answered.
pub async fn system_identity(client: &Client) -> Result<SystemIdentity, Error> {
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
