//! Positions in WAL. Where WAL ends is told in a way that depends on where its pages begin, and must be
//! brought to what the stream says of the same place.

use rowtide_protocol::{InvalidLsn, Lsn};
use thiserror::Error;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use crate::connect::reason;

/// Where WAL ends could not be learnt.
#[derive(Debug, Error)]
pub enum WalError {
    /// Postgres did not answer.
    #[error("{}", reason(.0))]
    Query(#[from] Error),
    /// It answered something else.
    #[error("Postgres says where WAL ends in a form that is not known: {0}")]
    Position(#[from] InvalidLsn),
}

/// Where page headers lie in WAL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalLayout {
    block_bytes: u64,
    segment_bytes: u64,
}

impl WalLayout {
    /// Asks the server.
    pub(crate) async fn read(client: &Client) -> Result<WalLayout, Error> {
        let sql = "SELECT pg_size_bytes(current_setting('wal_segment_size')), \
                   current_setting('wal_block_size')::bigint";
        let row = client.query_one(sql, &[]).await?;
        let positive = |at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or(1).max(1);
        Ok(WalLayout { segment_bytes: positive(0), block_bytes: positive(1) })
    }

    /// At the start of a page `pg_current_wal_insert_lsn` points behind the page's header, where the
    /// next record will go, while the stream's position is the end of the last record, before it.
    /// Without this a view could wait for bytes that only the next write makes.
    pub(crate) fn end_of_last_record(self, insert: Lsn) -> Lsn {
        const LONG_HEADER: u64 = 40;
        const SHORT_HEADER: u64 = 24;
        let in_segment = insert.0 % self.segment_bytes;
        let in_block = insert.0 % self.block_bytes;
        if in_segment == LONG_HEADER {
            Lsn(insert.0 - LONG_HEADER)
        } else if in_block == SHORT_HEADER && in_segment > self.block_bytes {
            Lsn(insert.0 - SHORT_HEADER)
        } else {
            insert
        }
    }
}

/// Where WAL ends: every commit that could be seen before the call lies before it.
///
/// # Errors
/// When Postgres does not answer, or not with a position.
pub async fn end_of_wal(client: &Client) -> Result<Lsn, WalError> {
    let layout = WalLayout::read(client).await?;
    let row = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
    let end = row.get::<_, &str>(0).parse()?;
    Ok(layout.end_of_last_record(end))
}

/// Where WAL ends, as [`end_of_wal`] says it. What is behind it comes soon, also where nobody commits: a message is committed
/// that nobody is sent.
///
/// # Errors
/// When Postgres does not answer, or not with a position.
pub async fn pass_end_of_wal(client: &Client) -> Result<Lsn, WalError> {
    let end = end_of_wal(client).await?;
    flush(client, Lsn(end.0 + 1)).await?;
    Ok(end)
}

/// Sees to it that everything up to `position` is flushed, because no more than that is streamed. Of a
/// transaction that is open, or that failed, Postgres flushes nothing by itself before its background writer
/// logs the running transactions, which may take longer than 20 seconds where nobody else commits.
///
/// Where Postgres refuses, its background writer is left to it.
///
/// # Errors
/// When Postgres does not answer, or not with a position.
pub(crate) async fn flush(client: &Client, position: Lsn) -> Result<(), WalError> {
    let sql = "SELECT pg_current_wal_flush_lsn()::text";
    let rows = client.query_typed(sql, &[]).await?;
    let flushed: Lsn = rows.first().map_or("", |row| row.get(0)).parse()?;
    if flushed < position {
        // A commit is flushed with all that was written before. It does not wait for a standby, which may have
        // stalled, and nobody is sent the message.
        let sql = "SELECT set_config('synchronous_commit', 'local', true), \
                   pg_logical_emit_message(true, 'rowtide', '')";
        match client.query_typed(sql, &[]).await {
            // What is read is good without it, only late.
            Err(error) if error.as_db_error().is_some() => {
                tracing::debug!(error = reason(&error), "cannot have WAL flushed");
            }
            flushed => drop(flushed?),
        }
    }
    Ok(())
}

/// Commits something that changes nothing, and is streamed all the same where the plan asks for the time, if the clock of
/// Postgres is behind a moment, in microseconds since 1970 UTC.
///
/// # Errors
/// When Postgres does not answer, or refuses.
pub(crate) async fn commit_behind(client: &Client, us: i64) -> Result<(), Error> {
    // It need not wait for a standby: what turns by it has turned already.
    let sql = "SELECT set_config('synchronous_commit', 'local', true), \
               pg_logical_emit_message(true, 'rowtide.time', '') \
               WHERE extract(epoch FROM clock_timestamp()) * 1000000 > $1";
    client.query_typed(sql, &[(&us, Type::INT8)]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_at_the_start_of_a_page_is_the_end_of_the_record_before() {
        let wal = WalLayout { block_bytes: 8192, segment_bytes: 16 << 20 };
        let end = |lsn| wal.end_of_last_record(Lsn(lsn)).0;
        assert_eq!(end(0x0300_0028), 0x0300_0000, "a segment starts with a long header");
        assert_eq!(end(0x0300_2018), 0x0300_2000, "a page starts with a short header");
        assert_eq!(end(0x0300_2028), 0x0300_2028, "a record may end right after a short header");
        assert_eq!(end(0x0300_1238), 0x0300_1238);
    }
}
