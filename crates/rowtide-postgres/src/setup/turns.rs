//! Takes locks without holding up anybody. Who waits for a lock on a table stops everyone who comes after and needs
//! it, too; so a statement asks for a tenth of a second and then gives way, and asks again later. Where somebody has
//! had the table for longer than a moment, it is not even asked for. Who is in the way is told, by name. Between two
//! attempts nothing is asked of Postgres, so that to stop leaves nothing behind that waits.

use std::time::{Duration, Instant};

use rowtide_plan::catalog::TableName;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row};

use super::steps::Locks;
use super::{Attended, SetupError};
use crate::slot_making::beginning;

/// How long an attempt waits for its locks, and others may have to wait behind it.
const ATTEMPT: &str = "100ms";
/// The pause after the first attempt. It doubles with each, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often is looked whether those who are in the way have gone.
const LOOK: Duration = Duration::from_millis(200);
/// How often the same one is named again.
pub(crate) const SAY_AGAIN: Duration = Duration::from_secs(10);

pub(crate) struct Turns<'a> {
    pub(crate) client: &'a Client,
    pub(crate) attended: &'a Attended<'a>,
}

/// Who is in the way.
struct Holder {
    /// `None` for a transaction that is prepared.
    pid: Option<i32>,
    /// Has been at it for longer than a moment.
    long: bool,
    said: String,
}

/// What a person was told last.
#[derive(Default)]
struct Told {
    last: Option<(Option<i32>, Instant)>,
}

impl Turns<'_> {
    /// Runs the statements in one transaction.
    pub(crate) async fn run(&self, what: &str, sql: &str, locks: &Locks) -> Result<(), SetupError> {
        let failed = |source| SetupError::Step { step: what.to_owned(), source };
        let mut told = Told::default();
        let mut pause = PAUSE;
        loop {
            self.go_on(what)?;
            if let Locks::Exclusive(_) = locks
                && let Some(holder) = self.holder(locks).await.map_err(failed)?
                && holder.long
            {
                self.tell(&mut told, what, Some(&holder));
                self.pause(LOOK).await;
                continue;
            }
            let attempt = format!("BEGIN; SET LOCAL lock_timeout = '{ATTEMPT}'; {sql}; COMMIT");
            let Err(error) = self.client.batch_execute(&attempt).await else { return Ok(()) };
            // Of a connection that is gone the first error says more.
            drop(self.client.batch_execute("ROLLBACK").await);
            if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
                return Err(failed(error));
            }
            let holder = self.holder(locks).await.map_err(failed)?;
            self.tell(&mut told, what, holder.as_ref());
            self.pause(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes the lock that keeps out others who do the same, for this session.
    pub(crate) async fn lock_out_others(&self, schema: &str) -> Result<(), SetupError> {
        let what = "wait for another setup";
        let failed = |source| SetupError::Step { step: what.to_owned(), source };
        let mut told = Told::default();
        loop {
            self.go_on(what)?;
            let sql = "SELECT pg_try_advisory_lock(hashtext($1))";
            if self.client.query_one(sql, &[&schema]).await.map_err(failed)?.get(0) {
                return Ok(());
            }
            let sql = format!(
                "{HOLDER} WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                 AND l.objid = hashtext($1)::oid AND {HERE} LIMIT 1"
            );
            let row = self.client.query_opt(&sql, &[&schema]).await.map_err(failed)?;
            self.tell(&mut told, "begin", row.as_ref().map(holder).as_ref());
            self.pause(LOOK).await;
        }
    }

    pub(crate) async fn let_others_in(&self, schema: &str) -> Result<(), SetupError> {
        let sql = "SELECT pg_advisory_unlock(hashtext($1))";
        let step = "end the setup".to_owned();
        let unlocked = self.client.query_one(sql, &[&schema]).await;
        unlocked.map(drop).map_err(|source| SetupError::Step { step, source })
    }

    fn go_on(&self, before: &str) -> Result<(), SetupError> {
        if self.attended.stop.is_cancelled() {
            return Err(SetupError::Stopped { before: before.to_owned() });
        }
        Ok(())
    }

    async fn pause(&self, pause: Duration) {
        // That it was stopped is seen before the next attempt.
        self.attended.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }

    fn tell(&self, told: &mut Told, what: &str, holder: Option<&Holder>) {
        let pid = holder.and_then(|holder| holder.pid);
        let now = Instant::now();
        if told.last.is_some_and(|(last, at)| last == pid && now < at + SAY_AGAIN) {
            return;
        }
        told.last = Some((pid, now));
        let who = holder.map_or("others who have come and gone", |holder| &holder.said);
        (self.attended.waits)(format!("to {what}, it waits for {who}"));
    }

    /// Who has had a lock that is in the way for the longest time.
    async fn holder(&self, locks: &Locks) -> Result<Option<Holder>, Error> {
        let (oids, shared) = match locks {
            Locks::None => return Ok(None),
            Locks::Shared(oids) => (oids.clone(), true),
            Locks::Exclusive(oid) => (vec![*oid], false),
        };
        let sql = format!(
            "{HOLDER} WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY($1) \
             AND l.pid IS DISTINCT FROM pg_backend_pid() AND {HERE} \
             AND (NOT $2 OR l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')) \
             ORDER BY a.xact_start NULLS LAST LIMIT 1"
        );
        Ok(self.client.query_opt(&sql, &[&oids, &shared]).await?.as_ref().map(holder))
    }
}

/// Who has had a lock on one of these tables for the longest time that only other changes of tables are in the way of,
/// for a person.
///
/// # Errors
/// When it cannot be asked.
pub async fn in_the_way(client: &Client, tables: &[TableName]) -> Result<Option<String>, Error> {
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let sql = format!(
        "{HOLDER} JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN unnest($1::text[], $2::text[]) AS wanted(schema, name) \
           ON n.nspname = wanted.schema AND c.relname = wanted.name \
         WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() AND {HERE} \
         AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock') \
         ORDER BY a.xact_start NULLS LAST LIMIT 1"
    );
    let row = client.query_opt(&sql, &[&schemas, &names]).await?;
    Ok(row.as_ref().map(holder).map(|holder| holder.said))
}

/// Locks with those who hold them. What others do may be hidden from the role; `application_name` never is.
const HOLDER: &str = "SELECT l.pid, coalesce(a.application_name, ''), coalesce(a.usename, '')::text, \
    coalesce(a.state, ''), coalesce(a.backend_type, ''), coalesce(a.query, ''), \
    extract(epoch FROM clock_timestamp() - a.xact_start)::float8 \
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid";
const HERE: &str = "l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// After how long, in seconds, somebody is not there for a moment only.
const MOMENT: f64 = 0.25;

fn holder(row: &Row) -> Holder {
    let Some(pid) = row.get::<_, Option<i32>>(0) else {
        let said = "a prepared transaction (see pg_prepared_xacts)".to_owned();
        return Holder { pid: None, long: true, said };
    };
    let (application, user, state): (&str, &str, &str) = (row.get(1), row.get(2), row.get(3));
    let (kind, statement): (&str, &str) = (row.get(4), row.get(5));
    let since: Option<f64> = row.get(6);
    let application = if application.is_empty() { kind } else { application };
    let mut said = format!("process {pid} (`{application}`");
    if !user.is_empty() {
        said += &format!(", user `{user}`");
    }
    if !state.is_empty() {
        said += &format!(", {state}");
    }
    if let Some(since) = since {
        said += &format!(", its transaction has been open for {since:.0} s");
    }
    said += ")";
    if let Some(beginning) = beginning(statement) {
        said += &format!(": {beginning}");
    }
    Holder { pid: Some(pid), long: since.is_some_and(|since| since > MOMENT), said }
}
