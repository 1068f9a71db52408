//! Which user a client id belongs to: the one who first used it, for ever. Ids are claimed for many
//! connects with one statement, and one that is known already writes nothing.

use rowtide_plan::sql::quote_identifier;
use rustc_hash::FxHashMap;
use tokio_postgres::Client;

use crate::connect::Names;

/// Whose a client id is, and how far its mutations are settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The user who first used it.
    pub user_id: String,
    /// The id of the last mutation that was settled, 0 if there was none.
    pub last_mutation: u64,
}

/// Claims each `(client id, user id)` and returns whose each client id is, in the same order.
///
/// `None` stands for an id that another server claimed at the same moment: ask again.
///
/// # Errors
/// When the statement fails.
pub async fn claim(
    client: &Client,
    names: &Names,
    wanted: &[(String, String)],
) -> Result<Vec<Option<Claimed>>, tokio_postgres::Error> {
    let schema = quote_identifier(&names.schema);
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
    let rows = client.query(&sql, &[&ids, &users]).await?;
    let entry = |row: &tokio_postgres::Row| {
        let last_mutation = u64::try_from(row.get::<_, i64>(2)).unwrap_or(0);
        (row.get::<_, String>(0), Claimed { user_id: row.get(1), last_mutation })
    };
    let claimed: FxHashMap<String, Claimed> = rows.iter().map(entry).collect();
    Ok(ids.into_iter().map(|id| claimed.get(id).cloned()).collect())
}
