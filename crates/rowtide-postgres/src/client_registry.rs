//! The owners of client ids: an id belongs for ever to the user who first used it. One statement claims ids
//! for many connects, and writes nothing for ids that are known already.
//!
//! **A number names one mutation, for ever.** The numbers of a client never go back, also where the database does:
//! a client says up to which number it knows that its mutations were acknowledged, and a row that says less is
//! raised to it before the client is told its last number. So what the client has sent and not heard of keeps its
//! number, and of all its copies, on older connections and on other servers, however late, the row takes one. Were
//! the client told less, it would count from there: a copy under an old number would be applied beside the one under
//! the new number, or the new one would be taken for a repeat of it. A row that says less may also be one whose
//! newest commit is streamed and not visible yet. It is locked then, and nothing is claimed until it can be seen.
//!
//! **Rows that nobody used for long are removed** ([`remove_unused`]), or there would be one for every id that anybody
//! ever made up. That rows were removed is noted in a row of no client, with the empty id. From then on a client that
//! knows of mutations and has no row may be one of these, and does not get its id again: what it sends under it could be
//! what it sent before. It goes on under a new one.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rowtide_plan::sql::quote_identifier;
use rowtide_protocol::{Lsn, MadeKey, Rejected};
use tokio_postgres::Client;

use crate::connect::Names;
use crate::wal::{WalError, end_of_wal, flush};

/// The owner of a client id, and its last acknowledged mutation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The user who first used it.
    pub user_id: String,
    /// The last acknowledged number, 0 if there is none.
    pub last_mutation: u64,
    /// It was not noted for long that the row is in use. It is now.
    pub is_unused_for_long: bool,
}

/// A client id that is to be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The client id.
    pub client: String,
    /// Who takes it, if nobody has it.
    pub user: String,
    /// The client knows that its mutations were acknowledged up to this number; more than a `bigint` holds
    /// counts as the most that it holds.
    pub known: u64,
    /// It knows the outcome of its mutations up to this number.
    pub outcomes: u64,
}

impl Wanted {
    /// What the client knows, as Postgres takes it.
    fn floor(&self) -> i64 {
        bigint(self.known)
    }

    /// It has had a row.
    fn is_old(&self) -> bool {
        self.known > 0 || self.outcomes > 0
    }

    fn knows_more(&self, claimed: &Claimed) -> bool {
        claimed.user_id == self.user && bigint(claimed.last_mutation) < self.floor()
    }
}

/// Claims each client id and returns the owner of each, in the same order. If several users want one client id,
/// the first gets it. The last number of one that is the user's is at least what the client knows. `None`: the
/// text cannot be stored in Postgres (it has a NUL), or another transaction has the row of a client that knows of
/// more than can be seen, or its row may have been removed (see [`removed`]); nothing is claimed then.
///
/// # Errors
/// When the statement fails.
pub async fn claim(
    client: &Client,
    names: &Names,
    wanted: &[Wanted],
) -> Result<Vec<Option<Claimed>>, tokio_postgres::Error> {
    let mut found = HashMap::new();
    // One text that cannot be stored must not make the statement fail for the others.
    let storable = |one: &&Wanted| !one.client.contains('\0') && !one.user.contains('\0');
    let mut open: Vec<&Wanted> = wanted.iter().filter(storable).collect();
    // If another server claims an id at the same time, the statement waits for it but does not return its
    // row. A second statement sees the row.
    for _ in 0..2 {
        if !open.is_empty() {
            claim_once(client, names, &open, &mut found).await?;
            open.retain(|one| !found.contains_key(&one.client));
        }
    }
    let ahead = |one: &&Wanted| found.get(&one.client).is_some_and(|it| one.knows_more(it));
    let ahead: Vec<&Wanted> = wanted.iter().filter(storable).filter(ahead).collect();
    if !ahead.is_empty() {
        raise(client, names, &ahead, &mut found).await?;
    }
    note_use(client, names, wanted, &found).await?;
    let claimed = |one: &Wanted| {
        let claimed = found.get(&one.client).filter(|_| !one.user.contains('\0'))?;
        (!one.knows_more(claimed)).then(|| claimed.clone())
    };
    Ok(wanted.iter().map(claimed).collect())
}

/// Those of the clients that have no row because it was removed, as far as can be told.
///
/// # Errors
/// When a statement fails.
pub async fn removed(
    client: &Client,
    names: &Names,
    wanted: &[&Wanted],
) -> Result<HashSet<String>, tokio_postgres::Error> {
    let schema = quote_identifier(&names.schema);
    let sql = format!(
        "SELECT id FROM unnest($1::text[]) AS id
         WHERE NOT EXISTS (SELECT 1 FROM {schema}.client WHERE client_id = id)
           AND EXISTS (SELECT 1 FROM {schema}.client WHERE client_id = '')"
    );
    let old = wanted.iter().filter(|one| one.is_old() && !one.client.contains('\0'));
    let ids: Vec<&str> = old.map(|one| one.client.as_str()).collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    Ok(client.query(&sql, &[&ids]).await?.iter().map(|row| row.get(0)).collect())
}

/// Removes rows of clients that nobody has used for so long, with what is kept of their rejections, keys and names, a number
/// of them. Returns how many, 0 if there are no more.
///
/// # Errors
/// When the statement fails; it has removed nothing then.
pub async fn remove_unused(
    client: &Client,
    names: &Names,
    unused_for: Duration,
) -> Result<u64, tokio_postgres::Error> {
    let schema = quote_identifier(&names.schema);
    // A row that somebody has is in use.
    let sql = format!(
        "WITH unused AS (
           SELECT client_id FROM {schema}.client
           WHERE created_at < now() - $1::float8 * interval '1 second' AND client_id <> ''
           LIMIT {REMOVED_AT_ONCE} FOR UPDATE SKIP LOCKED
         ), rejections AS (
           DELETE FROM {schema}.refusal r USING unused WHERE r.client_id = unused.client_id
         ), keys AS (
           DELETE FROM {schema}.made_key k USING unused WHERE k.client_id = unused.client_id
         ), named AS (
           DELETE FROM {schema}.named_mutation n USING unused WHERE n.client_id = unused.client_id
         ), noted AS (
           INSERT INTO {schema}.client (client_id, user_id)
           SELECT '', '' WHERE EXISTS (SELECT FROM unused)
           ON CONFLICT (client_id) DO UPDATE SET created_at = now()
         )
         DELETE FROM {schema}.client c USING unused WHERE c.client_id = unused.client_id"
    );
    client.execute(&sql, &[&unused_for.as_secs_f64()]).await
}

/// How many rows one statement removes.
const REMOVED_AT_ONCE: usize = 1_000;
/// Notes that rows are in use, where that was not noted for long.
async fn note_use(
    client: &Client,
    names: &Names,
    wanted: &[Wanted],
    found: &HashMap<String, Claimed>,
) -> Result<(), tokio_postgres::Error> {
    let is_theirs = |one: &&Wanted| {
        found.get(&one.client).is_some_and(|it| it.is_unused_for_long && it.user_id == one.user)
    };
    let ids: Vec<&str> = wanted.iter().filter(is_theirs).map(|one| one.client.as_str()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let schema = quote_identifier(&names.schema);
    // The stream brings the row: it must not tell once more what was rejected or made.
    let sql = format!(
        "WITH free AS (
           SELECT client_id FROM {schema}.client WHERE client_id = ANY($1) FOR UPDATE SKIP LOCKED
         )
         UPDATE {schema}.client c SET created_at = now(), keys = NULL,
           refused = CASE WHEN c.name IS NOT NULL THEN c.refused END
         FROM free WHERE c.client_id = free.client_id RETURNING {LOCAL}"
    );
    client.query(&sql, &[&ids]).await.map(drop)
}

/// Lets the transaction of the statement that has it in its list not wait for standbys. One that stalls would hold up
/// everyone who connects; and what is lost with a primary is claimed, and raised, again with the next connect.
pub(crate) const LOCAL: &str = "set_config('synchronous_commit', 'local', true)";

/// Whether the row has not said for long that it is in use: a client that connects often costs no write as often.
const STALE: &str = "c.created_at < now() - interval '7 days'";

/// A number as Postgres takes it.
fn bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Raises the last numbers of clients that know of more. A row that another transaction has stays as it is.
async fn raise(
    client: &Client,
    names: &Names,
    ahead: &[&Wanted],
    found: &mut HashMap<String, Claimed>,
) -> Result<(), tokio_postgres::Error> {
    let schema = quote_identifier(&names.schema);
    let sql = format!(
        "WITH wanted AS (
           SELECT client_id, user_id, max(known) AS known
           FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bool[]) AS w(client_id, user_id, known, is_old)
           GROUP BY client_id, user_id
         ), free AS (
           SELECT client_id, c.last_mutation, known
           FROM {schema}.client c JOIN wanted USING (client_id, user_id)
           FOR UPDATE OF c SKIP LOCKED
         )
         UPDATE {schema}.client c
         SET last_mutation = greatest(c.last_mutation, free.known), refused = NULL, keys = NULL, name = NULL
         FROM free WHERE c.client_id = free.client_id
         RETURNING c.client_id, c.user_id, c.last_mutation, {STALE}, {LOCAL}"
    );
    ask(client, &sql, ahead, found).await
}

/// What the server tells clients that come back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The rejections behind the last mutation that each client knows of, by client id, in order.
    pub rejections: HashMap<String, Vec<Rejected>>,
    /// The keys that mutations behind it made, by client id, in order.
    pub keys: HashMap<String, Vec<MadeKey>>,
    /// Everything that was acknowledged until now was acknowledged by commits up to here.
    pub until: Lsn,
}

/// How many mutations of a client that made keys are told of when it comes back.
const TOLD_MUTATIONS: u64 = 100;

/// The rejections and the keys for each `(client id, the highest mutation whose outcome the client knows)`.
///
/// # Errors
/// When a statement fails.
pub async fn outcomes(
    client: &Client,
    names: &Names,
    known: &[(String, u64)],
) -> Result<Outcomes, WalError> {
    let schema = quote_identifier(&names.schema);
    let sql = format!(
        "SELECT r.client_id, r.id, r.code, r.message
         FROM {schema}.refusal r
         JOIN unnest($1::text[], $2::bigint[]) AS known(client_id, id) USING (client_id)
         WHERE r.id > known.id ORDER BY r.client_id, r.id"
    );
    let ids: Vec<&str> = known.iter().map(|(id, _)| id.as_str()).collect();
    let numbers: Vec<i64> = known.iter().map(|(_, number)| bigint(*number)).collect();
    let mut outcomes = Outcomes { until: end_of_wal(client).await?, ..Outcomes::default() };
    for row in client.query(&sql, &[&ids, &numbers]).await? {
        let id = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
        let rejection = Rejected { id, code: row.get(2), message: row.get(3) };
        outcomes.rejections.entry(row.get(0)).or_default().push(rejection);
    }
    let sql = format!(
        "SELECT k.client_id, k.id, k.op, k.key::text
         FROM unnest($1::text[], $2::bigint[]) AS known(client_id, id)
         CROSS JOIN LATERAL (SELECT DISTINCT m.id FROM {schema}.made_key m
           WHERE m.client_id = known.client_id AND m.id > known.id
           ORDER BY m.id DESC LIMIT {TOLD_MUTATIONS}) AS told
         JOIN {schema}.made_key k ON k.client_id = known.client_id AND k.id = told.id
         ORDER BY k.client_id, k.id, k.op"
    );
    for row in client.query(&sql, &[&ids, &numbers]).await? {
        let id = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
        let op = u32::try_from(row.get::<_, i32>(2)).unwrap_or(0);
        // What somebody else has spoiled is not told.
        if let Ok(key) = serde_json::from_str(row.get(3)) {
            outcomes.keys.entry(row.get(0)).or_default().push(MadeKey { id, op, key });
        }
    }
    flush(client, outcomes.until).await?;
    Ok(outcomes)
}

async fn claim_once(
    client: &Client,
    names: &Names,
    wanted: &[&Wanted],
    found: &mut HashMap<String, Claimed>,
) -> Result<(), tokio_postgres::Error> {
    let schema = quote_identifier(&names.schema);
    // In one order, so that two servers cannot deadlock.
    let sql = format!(
        "WITH wanted AS (
           SELECT DISTINCT ON (client_id) client_id, user_id, known, is_old
           FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bool[])
             WITH ORDINALITY AS w(client_id, user_id, known, is_old, place)
           ORDER BY client_id, place
         ), claimed AS (
           INSERT INTO {schema}.client (client_id, user_id, last_mutation)
           SELECT client_id, user_id, known FROM wanted
           WHERE NOT EXISTS (SELECT 1 FROM {schema}.client c WHERE c.client_id = wanted.client_id)
             AND NOT (is_old AND EXISTS (SELECT 1 FROM {schema}.client WHERE client_id = ''))
           ORDER BY client_id
           ON CONFLICT DO NOTHING
           RETURNING client_id, user_id, last_mutation, {LOCAL}
         )
         SELECT client_id, user_id, last_mutation, false FROM claimed
         UNION ALL
         SELECT c.client_id, c.user_id, c.last_mutation, {STALE}
         FROM {schema}.client c JOIN wanted USING (client_id)"
    );
    ask(client, &sql, wanted, found).await
}

/// Runs a statement over client ids, users and what is known, which returns rows of `client`, and notes these.
async fn ask(
    client: &Client,
    sql: &str,
    wanted: &[&Wanted],
    found: &mut HashMap<String, Claimed>,
) -> Result<(), tokio_postgres::Error> {
    let ids: Vec<&str> = wanted.iter().map(|one| one.client.as_str()).collect();
    let users: Vec<&str> = wanted.iter().map(|one| one.user.as_str()).collect();
    let known: Vec<i64> = wanted.iter().map(|one| one.floor()).collect();
    let old: Vec<bool> = wanted.iter().map(|one| one.is_old()).collect();
    for row in client.query(sql, &[&ids, &users, &known, &old]).await? {
        let last_mutation = u64::try_from(row.get::<_, i64>(2)).unwrap_or(0);
        let (user_id, is_unused_for_long) = (row.get(1), row.get(3));
        found.insert(row.get(0), Claimed { user_id, last_mutation, is_unused_for_long });
    }
    Ok(())
}
