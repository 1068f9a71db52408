//! The owners of client ids: an id belongs for ever to the user who first used it. One statement claims ids
//! for many connects, and writes nothing for ids that are known already.

use std::collections::HashMap;

use rowtide_plan::sql::quote_identifier;
use rowtide_protocol::{Lsn, Rejected};
use tokio_postgres::Client;

use crate::connect::Names;
use crate::wal::{end_of_wal, flush};

/// The owner of a client id, and its last acknowledged mutation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The user who first used it.
    pub user_id: String,
    /// The last acknowledged number, 0 if there is none.
    pub last_mutation: u64,
}

/// Claims each `(client id, user id)` and returns the owner of each client id, in the same order. If several
/// users want one client id, the first gets it. `None`: the text cannot be stored in Postgres (it has a NUL),
/// so nothing was claimed.
///
/// # Errors
/// When the statement fails.
pub async fn claim(
    client: &Client,
    names: &Names,
    wanted: &[(String, String)],
) -> Result<Vec<Option<Claimed>>, tokio_postgres::Error> {
    let mut found = HashMap::new();
    // One text that cannot be stored must not make the statement fail for the others.
    let storable = wanted.iter().filter(|(id, user)| !id.contains('\0') && !user.contains('\0'));
    let mut open: Vec<&(String, String)> = storable.collect();
    // If another server claims an id at the same time, the statement waits for it but does not return its
    // row. A second statement sees the row.
    for _ in 0..2 {
        if !open.is_empty() {
            claim_once(client, names, &open, &mut found).await?;
            open.retain(|(id, _)| !found.contains_key(id));
        }
    }
    let claimed =
        |(id, user): &(String, String)| found.get(id).filter(|_| !user.contains('\0')).cloned();
    Ok(wanted.iter().map(claimed).collect())
}

/// What the server tells clients that come back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The rejections behind the last mutation that each client knows of, by client id, in order.
    pub rejections: HashMap<String, Vec<Rejected>>,
    /// Everything that was acknowledged until now was acknowledged by commits up to here.
    pub until: Lsn,
}

/// The rejections for each `(client id, the highest mutation whose outcome the client knows)`.
///
/// # Errors
/// When a statement fails.
pub async fn outcomes(
    client: &Client,
    names: &Names,
    known: &[(String, u64)],
) -> Result<Outcomes, tokio_postgres::Error> {
    let schema = quote_identifier(&names.schema);
    let sql = format!(
        "SELECT r.client_id, r.id, r.code, r.message
         FROM {schema}.refusal r
         JOIN unnest($1::text[], $2::bigint[]) AS known(client_id, id) USING (client_id)
         WHERE r.id > known.id ORDER BY r.client_id, r.id"
    );
    let ids: Vec<&str> = known.iter().map(|(id, _)| id.as_str()).collect();
    let numbers: Vec<i64> =
        known.iter().map(|(_, number)| i64::try_from(*number).unwrap_or(i64::MAX)).collect();
    let mut outcomes = Outcomes { until: end_of_wal(client).await?, ..Outcomes::default() };
    for row in client.query(&sql, &[&ids, &numbers]).await? {
        let id = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
        let rejection = Rejected { id, code: row.get(2), message: row.get(3) };
        outcomes.rejections.entry(row.get(0)).or_default().push(rejection);
    }
    flush(client, outcomes.until).await?;
    Ok(outcomes)
}

async fn claim_once(
    client: &Client,
    names: &Names,
    wanted: &[&(String, String)],
    found: &mut HashMap<String, Claimed>,
) -> Result<(), tokio_postgres::Error> {
    let schema = quote_identifier(&names.schema);
    // In one order, so that two servers cannot deadlock.
    let sql = format!(
        "WITH wanted AS (
           SELECT DISTINCT ON (client_id) client_id, user_id
           FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w(client_id, user_id, place)
           ORDER BY client_id, place
         ), claimed AS (
           INSERT INTO {schema}.client (client_id, user_id)
           SELECT client_id, user_id FROM wanted
           WHERE NOT EXISTS (SELECT 1 FROM {schema}.client c WHERE c.client_id = wanted.client_id)
           ORDER BY client_id
           ON CONFLICT DO NOTHING
           RETURNING client_id, user_id, last_mutation
         )
         SELECT client_id, user_id, last_mutation FROM claimed
         UNION ALL
         SELECT c.client_id, c.user_id, c.last_mutation
         FROM {schema}.client c JOIN wanted USING (client_id)"
    );
    let ids: Vec<&str> = wanted.iter().map(|(id, _)| id.as_str()).collect();
    let users: Vec<&str> = wanted.iter().map(|(_, user)| user.as_str()).collect();
    for row in client.query(&sql, &[&ids, &users]).await? {
        let last_mutation = u64::try_from(row.get::<_, i64>(2)).unwrap_or(0);
        found.insert(row.get(0), Claimed { user_id: row.get(1), last_mutation });
    }
    Ok(())
}
