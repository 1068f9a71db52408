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
