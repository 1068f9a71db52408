//! Which user a client id belongs to: the one who first used it, for ever. Ids are claimed for many
//! connects with one statement, and one that is known already writes nothing.

use std::collections::HashMap;

use rowtide_plan::sql::quote_identifier;
use rowtide_protocol::{Lsn, Refusal};
use tokio_postgres::Client;

use crate::connect::Names;
use crate::wal::{end_of_wal, flush};

/// Whose a client id is, and how far its mutations are settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The user who first used it.
    pub user_id: String,
    /// The id of the last mutation that was settled, 0 if there was none.
    pub last_mutation: u64,
}

/// Claims each `(client id, user id)` and returns whose each client id is, in the same order. Of one
/// client id that is wanted several times, the first takes it. `None`: text that Postgres cannot
/// store (with a NUL) claims nothing.
///
/// # Errors
/// When the statement fails.
pub async fn claim(
    client: &Client,
    names: &Names,
    wanted: &[(String, String)],
) -> Result<Vec<Option<Claimed>>, tokio_postgres::Error> {
    let mut found = HashMap::new();
    // One bad text must not spoil what others want in the same statement.
    let storable = wanted.iter().filter(|(id, user)| !id.contains('\0') && !user.contains('\0'));
    let mut open: Vec<&(String, String)> = storable.collect();
    // A row that another server claims at this moment is waited for, but not returned: the second
    // statement sees it.
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

/// What clients are told when they come back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The refusals after the mutation that each knows of, by client id, in order.
    pub refused: HashMap<String, Vec<Refusal>>,
    /// All that was settled until now was settled by commits up to here.
    pub until: Lsn,
}

/// What was refused of each `(client id, the highest mutation whose outcome it knows)`.
///
/// # Errors
/// When a statement fails.
pub async fn settled(
    client: &Client,
    names: &Names,
    known: &[(String, u64)],
) -> Result<Settled, tokio_postgres::Error> {
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
    let mut settled = Settled { until: end_of_wal(client).await?, ..Settled::default() };
    for row in client.query(&sql, &[&ids, &numbers]).await? {
        let id = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
        let refusal = Refusal { id, code: row.get(2), message: row.get(3) };
        settled.refused.entry(row.get(0)).or_default().push(refusal);
    }
    flush(client, settled.until).await?;
    Ok(settled)
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
