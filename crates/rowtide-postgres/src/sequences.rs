//! The sequences that defaults take numbers from: whoever inserts needs a right to them that no right to the table brings.

use rowtide_plan::plan::{Plan, Table};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

const SEQUENCES: &str = "SELECT DISTINCT format('%I.%I', n.nspname, s.relname), d.adrelid::regclass::text,
  has_sequence_privilege(s.oid, 'USAGE, UPDATE'), pg_get_userbyid(s.relowner)::text
FROM pg_attrdef d
JOIN pg_depend takes ON takes.classid = 'pg_attrdef'::regclass AND takes.objid = d.oid
  AND takes.refclassid = 'pg_class'::regclass
JOIN pg_class s ON s.oid = takes.refobjid JOIN pg_namespace n ON n.oid = s.relnamespace
WHERE d.adrelid = ANY($1) AND EXISTS (SELECT FROM pg_sequence WHERE seqrelid = s.oid) ORDER BY 1, 2";

/// A sequence that the defaults of a table take numbers from.
pub(crate) struct Sequence {
    /// As SQL.
    pub(crate) name: String,
    /// As SQL.
    pub(crate) table: String,
    /// The role that asks may use it.
    pub(crate) usable: bool,
    /// Whose it is.
    pub(crate) owner: String,
}

/// The sequences of tables that may be inserted into. Of a column that is an identity nobody needs a right.
///
/// # Errors
/// When Postgres does not answer.
pub(crate) async fn sequences(client: &Client, plan: &Plan) -> Result<Vec<Sequence>, Error> {
    let inserted = oids(plan, |table| table.write.insert.is_some());
    let rows = client.query_typed(SEQUENCES, &[(&inserted, Type::OID_ARRAY)]).await?;
    let sequence = |row: &Row| Sequence {
        name: row.get(0),
        table: row.get(1),
        usable: row.get(2),
        owner: row.get(3),
    };
    Ok(rows.iter().map(sequence).collect())
}

/// The oids of the tables of a plan that fit.
pub(crate) fn oids(plan: &Plan, fits: impl Fn(&&Table) -> bool) -> Vec<u32> {
    plan.tables.iter().filter(fits).map(|table| table.catalog.oid).collect()
}
