//! The schemas that serving a plan names: without a right to use them nothing in them is found, whatever else is granted.

use rowtide_plan::plan::Plan;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

use crate::sequences::oids;

const SCHEMAS: &str = "SELECT DISTINCT n.nspname::text, quote_ident(n.nspname), pg_get_userbyid(n.nspowner)::text, has_schema_privilege(n.oid, 'USAGE')
FROM (
  SELECT relnamespace FROM pg_class WHERE oid = ANY($1) UNION
  SELECT t.typnamespace FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = ANY($2) AND a.attnum > 0 AND NOT a.attisdropped AND t.typnamespace <> 'pg_catalog'::regnamespace
) AS named(oid) JOIN pg_namespace n ON n.oid = named.oid ORDER BY 1";

/// A schema that is named.
pub(crate) struct NamedSchema {
    /// Unquoted.
    pub(crate) name: String,
    /// As SQL.
    pub(crate) quoted: String,
    /// Whose it is.
    pub(crate) owner: String,
    /// The role that asks may use it.
    pub(crate) usable: bool,
}

/// Those of the plan's tables, and of the types that values of mutations are cast to.
///
/// # Errors
/// When Postgres does not answer.
pub(crate) async fn schemas(client: &Client, plan: &Plan) -> Result<Vec<NamedSchema>, Error> {
    let (all, written) =
        (oids(plan, |_| true), oids(plan, |table| table.write.rules().next().is_some()));
    let parameters = [(&all as _, Type::OID_ARRAY), (&written as _, Type::OID_ARRAY)];
    let rows = client.query_typed(SCHEMAS, &parameters).await?;
    let schema = |row: &Row| NamedSchema {
        name: row.get(0),
        quoted: row.get(1),
        owner: row.get(2),
        usable: row.get(3),
    };
    Ok(rows.iter().map(schema).collect())
}
