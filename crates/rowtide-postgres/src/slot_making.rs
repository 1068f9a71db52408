//! Makes a replication slot. Postgres waits for every transaction that is running then, which may take long, and
//! is worth waiting for; so nothing ends the wait but its end, and meanwhile it is told who is waited for. Whoever
//! stops asking has it given up, so that nothing is left behind that nobody reads.

use std::time::Duration;

use thiserror::Error;
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;

use crate::connect::{ConnectError, ConnectOptions, connect, reason};

/// How often is looked who is waited for.
const LOOK: Duration = Duration::from_secs(1);
/// The version since which slots can be synchronized to standbys.
pub(crate) const FAILOVER_SLOTS: i32 = 170_000;

/// Why there is no slot.
#[derive(Debug, Error)]
pub enum MakeSlotError {
    /// Postgres cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Postgres refused.
    #[error("cannot make the replication slot: {}", reason(.0))]
    Query(#[from] tokio_postgres::Error),
    /// The slot that is to be replaced is in use.
    #[error("the replication slot `{0}` is to be made anew and is in use")]
    InUse(String),
    /// The slot is another database's.
    #[error(
        "replication slot `{slot}` belongs to database `{database}`; choose another environment for this one"
    )]
    OfAnother {
        /// The slot.
        slot: String,
        /// Whose it is.
        database: String,
    },
    /// It was given up.
    #[error("it was given up")]
    Stopped,
}

/// Makes the slot, if it is not there, or anew if `anew`. Where Postgres waits for others `waits` is told for
/// whom, for a person. Ends early with `stop`, and then nothing goes on in Postgres.
///
/// # Errors
/// When Postgres cannot be reached or refuses, and when the slot is another's.
pub async fn make_slot(
    options: &ConnectOptions,
    slot: &str,
    anew: bool,
    waits: impl Fn(String),
    stop: &CancellationToken,
) -> Result<(), MakeSlotError> {
    let client = connect(options, "slot").await?;
    // Should we go without a word, Postgres notices by itself, where it can.
    let sql = "SET client_connection_check_interval = '5s'";
    if let Err(error) = client.batch_execute(sql).await {
        tracing::debug!(error = reason(&error), "connections are not checked here");
    }
    client.batch_execute("SET lock_timeout = 0; SET statement_timeout = 0").await?;
    let sql = "SELECT database = current_database(), coalesce(database, '')::text, active \
               FROM pg_replication_slots WHERE slot_name = $1";
    if let Some(row) = client.query_opt(sql, &[&slot]).await? {
        if row.get::<_, Option<bool>>(0) != Some(true) {
            let (slot, database) = (slot.to_owned(), row.get(1));
            return Err(MakeSlotError::OfAnother { slot, database });
        }
        if !anew {
            return Ok(());
        }
        if row.get(2) {
            return Err(MakeSlotError::InUse(slot.to_owned()));
        }
        client.query("SELECT pg_drop_replication_slot($1)", &[&slot]).await?;
    }
    let others = connect(options, "slot").await?;
    make(&client, &others, slot, Looks::AtWho, waits, stop).await
}

/// How closely is looked at those who are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looks {
    /// At who they are. What is said can be read by everyone.
    AtWho,
    /// At what they do, too: the beginning of their statement, for a person at a terminal.
    Closely,
}

/// Makes the slot over `client`, whose settings let it wait for as long as that takes. Looks over `others`, and cancels
/// over it.
pub(crate) async fn make(
    client: &Client,
    others: &Client,
    slot: &str,
    looks: Looks,
    waits: impl Fn(String),
    stop: &CancellationToken,
) -> Result<(), MakeSlotError> {
    let row = client
        .query_one("SELECT pg_backend_pid(), current_setting('server_version_num')::int", &[]);
    let row = row.await?;
    let (pid, version): (i32, i32) = (row.get(0), row.get(1));
    let sql = creation_sql(version);
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&slot];
    let making = client.query(sql, &parameters);
    tokio::pin!(making);
    loop {
        tokio::select! {
            made = &mut making => return Ok(made.map(drop)?),
            () = tokio::time::sleep(LOOK) => {
                for who in blockers(others, pid, looks).await? {
                    waits(format!("the replication slot `{slot}` is being made, and Postgres waits for {who}"));
                }
            }
            () = stop.cancelled() => {
                // One that has not begun yet cannot be cancelled, so it is tried until it has ended.
                loop {
                    others.query("SELECT pg_cancel_backend($1)", &[&pid]).await?;
                    if tokio::time::timeout(LOOK, &mut making).await.is_ok() {
                        return Err(MakeSlotError::Stopped);
                    }
                }
            }
        }
    }
}

/// The statement that makes a slot. Where Postgres has failover slots it is one: standbys that synchronize slots have
/// it, too, and with `synchronized_standby_slots` nothing is streamed that these standbys have not, so that nobody is
/// told what a failover would lose. Where nothing of that is configured it is a slot like any other.
pub(crate) fn creation_sql(version: i32) -> &'static str {
    if version >= FAILOVER_SLOTS {
        "SELECT 1 FROM pg_create_logical_replication_slot($1, 'pgoutput', failover => true)"
    } else {
        "SELECT 1 FROM pg_create_logical_replication_slot($1, 'pgoutput')"
    }
}

/// For whom a process waits.
async fn blockers(
    client: &Client,
    pid: i32,
    looks: Looks,
) -> Result<Vec<String>, tokio_postgres::Error> {
    // 0 stands for transactions that are prepared.
    let sql = "SELECT b.pid, coalesce(a.usename, '')::text, coalesce(a.application_name, ''), \
               coalesce(a.state, 'what it does is hidden'), \
               coalesce(extract(epoch FROM now() - a.xact_start)::bigint, 0), coalesce(a.query, '') \
               FROM (SELECT DISTINCT unnest(pg_blocking_pids($1))) AS b(pid) \
               LEFT JOIN pg_stat_activity a ON a.pid = b.pid ORDER BY 5 DESC LIMIT 1";
    let rows = client.query(sql, &[&pid]).await?;
    let who = |row: &Row| match row.get::<_, i32>(0) {
        0 => "a prepared transaction (see pg_prepared_xacts)".to_owned(),
        pid => {
            let (user, application, state): (&str, &str, &str) =
                (row.get(1), row.get(2), row.get(3));
            let seconds: i64 = row.get(4);
            let statement = beginning(row.get(5)).filter(|_| looks == Looks::Closely);
            let statement = statement.map_or_else(String::new, |text| format!(": {text}"));
            format!(
                "the transaction of process {pid} (`{user}`, `{application}`, {state}), which has been open for \
                 {seconds} s{statement}"
            )
        }
    };
    Ok(rows.iter().map(who).collect())
}

/// The most of a statement that is shown, in characters.
const STATEMENT: usize = 60;

/// The beginning of a statement, in one line; `None` if there is none.
pub(crate) fn beginning(statement: &str) -> Option<String> {
    let words = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = words.chars().take(STATEMENT).collect();
    let more = if short.len() < words.len() { " …" } else { "" };
    (!short.is_empty()).then(|| short + more)
}
