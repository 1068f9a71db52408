//! Transactions that are committed and that nobody sees yet. A commit is in WAL, and on its way to whoever
//! streams, before others see it: it may wait for a synchronous standby in between, for as long as that takes.
//! Rows that are loaded meanwhile lack it. So whoever is about to rely on loads behind a position asks here
//! which transactions may have been committed before it and be unseen.
//!
//! Postgres does not tell of a running transaction whether its commit is in WAL. What its process does tells it
//! nearly always: one that waits for its client or for a lock has not come to its commit. Of a commit whose WAL
//! is flushed nothing is left to do but to wait for a standby, which shows, and a moment of work. Whoever has waited
//! for longer than a moment remembers who was still at work: if the stream brings its commit, it was one of these.

use rowtide_protocol::Lsn;
use thiserror::Error;
use tokio_postgres::{Client, Row};

use crate::connect::reason;
use crate::wal::{WalError, end_of_wal, flush};

/// It is not known what can be seen.
#[derive(Debug, Error)]
pub enum UnseenError {
    /// Postgres did not answer.
    #[error("cannot look at the running transactions: {}", reason(.0))]
    Query(#[from] tokio_postgres::Error),
    /// Nor where WAL ends.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// It answered something else.
    #[error("cannot look at the running transactions: `{0}` is not the id of one")]
    Xid(String),
}

/// A transaction that may be committed, and that nobody sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// Its 32-bit id, as the stream has it.
    pub xid: u32,
    /// It waits for a standby, or what it does is hidden from the role that asks and standbys are waited for here.
    /// Otherwise it is at work, and either not at its commit or about to be seen.
    pub waits: bool,
    /// Whose it is, for a person.
    pub who: String,
}

/// Where WAL ends, flushed, and which transactions may have been committed before and be unseen.
///
/// # Errors
/// When Postgres does not answer.
pub async fn unseen_before_end(client: &Client) -> Result<(Lsn, Vec<Unseen>), UnseenError> {
    let end = end_of_wal(client).await?;
    flush(client, end).await?;
    Ok((end, unseen(client).await?))
}

/// Which transactions may have been committed before this call and be unseen.
///
/// # Errors
/// When Postgres does not answer.
pub async fn unseen(client: &Client) -> Result<Vec<Unseen>, UnseenError> {
    ask(client, None).await
}

/// Which of these transactions may be committed and still be unseen.
///
/// # Errors
/// When Postgres does not answer.
pub async fn still_unseen(client: &Client, xids: &[u32]) -> Result<Vec<Unseen>, UnseenError> {
    ask(client, Some(xids)).await
}

async fn ask(client: &Client, xids: Option<&[u32]>) -> Result<Vec<Unseen>, UnseenError> {
    let xids: Option<Vec<String>> = xids.map(|xids| xids.iter().map(u32::to_string).collect());
    // Whoever has ended for others gives back the lock on its own id only after that. A snapshot does not tell who
    // runs with an id beyond the last one that has ended. Of a transaction that is prepared there is no process; the
    // one that commits it has no id of its own.
    let sql = "SELECT DISTINCT coalesce(a.backend_xid, l.transactionid)::text AS xid, l.pid, a.usename::text, p.gid, \
               coalesce(a.wait_event = 'SyncRep', false) \
               OR (p.gid IS NOT NULL AND EXISTS (SELECT 1 FROM pg_stat_activity o WHERE \
                   o.datname = current_database() AND o.wait_event = 'SyncRep' AND o.backend_xid IS NULL)) \
               OR (p.gid IS NULL AND a.backend_type IS NULL \
                   AND current_setting('synchronous_standby_names') <> ''), \
               a.backend_type IS NULL AND p.gid IS NULL \
               FROM pg_locks l \
               LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
               LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND p.transaction = l.transactionid \
               WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted \
                 AND l.pid IS DISTINCT FROM pg_backend_pid() \
                 AND ($1::text[] IS NULL OR coalesce(a.backend_xid, l.transactionid)::text = ANY($1)) \
                 AND coalesce(a.datname, p.database, current_database()) = current_database() \
                 AND coalesce(a.state, '') NOT LIKE 'idle in transaction%' \
                 AND coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client', 'BufferPin')";
    let rows = client.query(sql, &[&xids]).await?;
    rows.iter().map(of_row).collect()
}

fn of_row(row: &Row) -> Result<Unseen, UnseenError> {
    let xid: String = row.get(0);
    let who = match (row.get::<_, Option<i32>>(1), row.get::<_, Option<String>>(3)) {
        (_, Some(gid)) => format!("transaction {xid} (prepared as `{gid}`)"),
        (Some(pid), None) => {
            let user: Option<String> = row.get(2);
            let hidden =
                if row.get(5) { "; GRANT pg_read_all_stats shows what it does" } else { "" };
            format!("transaction {xid} of process {pid} (`{}`{hidden})", user.unwrap_or_default())
        }
        (None, None) => format!("transaction {xid}"),
    };
    let Ok(number) = xid.parse() else { return Err(UnseenError::Xid(xid)) };
    Ok(Unseen { xid: number, waits: row.get(4), who })
}
