//! What foreign keys make Postgres do beside a mutation. It looks for the row that is referred to, and for the rows that
//! refer to one, and it deletes or changes those: also in tables that are not synced, and as the owner of the table at hand,
//! whoever the mutation is of. That fails where the owner was not left the right, and where a publication of others streams
//! what is deleted or changed of a table that has no replica identity for it. Nothing of it shows before there is a row.

use rowtide_plan::check::Problem;
use rowtide_plan::plan::{Plan, Table};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

use crate::catalog::{server_version, tables_above, whole_tables};
use crate::check::fatal;
use crate::sequences::oids;

/// That Postgres holds the constraint `k`: since version 18 it need not.
pub(crate) const ENFORCED: &str = "coalesce(to_jsonb(k) ->> 'conenforced', 'true') = 'true'";

/// What is in the way of the mutations that a plan allows, whoever they are of.
///
/// # Errors
/// When Postgres does not answer.
pub(crate) async fn in_the_way(client: &Client, plan: &Plan) -> Result<Vec<Problem>, Error> {
    let inserted = oids(plan, |table| table.write.insert.is_some());
    let deleted = oids(plan, |table| table.write.delete.is_some());
    let (updated, columns): (Vec<u32>, Vec<&str>) = plan.tables.iter().flat_map(updates).unzip();
    let served = oids(plan, |_| true);
    let sets = [
        (&inserted as _, Type::OID_ARRAY),
        (&deleted as _, Type::OID_ARRAY),
        (&updated as _, Type::OID_ARRAY),
        (&columns as _, Type::TEXT_ARRAY),
        (&served as _, Type::OID_ARRAY),
    ];
    let mut problems: Vec<Problem> =
        client.query_typed(&rights_sql(), &sets[..4]).await?.iter().map(right).collect();
    let sql = unpublishable_sql(server_version(client).await?);
    problems.extend(client.query_typed(&sql, &sets).await?.iter().map(identity));
    Ok(problems)
}

/// The columns that updates may change, each with its table.
fn updates(table: &Table) -> impl Iterator<Item = (u32, &str)> {
    let columns = table.sent_columns();
    let updates = &table.write.updates;
    let may = |at: &usize| {
        updates.iter().any(|rule| rule.columns.as_ref().is_none_or(|columns| columns.contains(at)))
    };
    columns
        .filter(move |(at, _)| may(at))
        .map(|(_, column)| (table.catalog.oid, column.name.as_str()))
}

fn right(row: &Row) -> Problem {
    let (table, owner): (&str, &str) = (row.get(0), row.get(1));
    let because = format!("a foreign key has Postgres use table {table} as its owner, {owner}");
    if let Some(schema) = row.get::<_, Option<&str>>(2) {
        let what = format!("{because}, who may not use schema {schema}");
        return fatal(what, format!("GRANT USAGE ON SCHEMA {schema} TO {owner};"));
    }
    let lacking: Vec<&str> = row.get(3);
    let rights = lacking.join(", ");
    let what = format!("{because}, who has lost {rights} on it");
    fatal(what, format!("GRANT {rights} ON {table} TO {owner};"))
}

fn identity(row: &Row) -> Problem {
    let (table, publication, event): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
    let (what, operation) = match event {
        "d" => ("deletes", "deleted"),
        _ => ("updates", "updated"),
    };
    let what = format!(
        "rows of table {table} are {operation} by foreign keys, and cannot be: publication {publication} publishes {what}, \
         and the table's replica identity does not do for it"
    );
    fatal(what, format!("ALTER TABLE {table} REPLICA IDENTITY FULL;"))
}

/// The names of columns with these numbers.
fn named(relation: &str, numbers: &str) -> String {
    format!(
        "ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = {relation} AND a.attnum = ANY ({numbers}))"
    )
}

/// For a `WITH RECURSIVE`: the tables (`oid`) of which rows may be deleted (`event` is `d`) or updated (`u`, of which columns)
/// by mutations, or because of these by foreign keys.
fn reached() -> String {
    let relations = whole_tables("$1 || $2 || $3");
    let (referred, referring) =
        (named("k.confrelid", "k.confkey"), named("k.conrelid", "k.conkey"));
    format!(
        "{relations}, changed AS (
  SELECT oid, array_agg(name COLLATE \"C\") AS columns FROM unnest($3, $4) AS u(oid, name) GROUP BY oid
), reached AS (
  SELECT rel.oid, 'd' AS event, NULL::text[] COLLATE \"C\" AS columns FROM rel WHERE rel.root = ANY ($2)
  UNION
  SELECT rel.oid, 'u', changed.columns FROM rel JOIN changed ON changed.oid = rel.root
  UNION
  SELECT k.conrelid, CASE WHEN reached.event = 'd' AND k.confdeltype = 'c' THEN 'd' ELSE 'u' END,
    CASE WHEN reached.event = 'd' AND k.confdeltype = 'c' THEN NULL ELSE {referring} END
  FROM reached JOIN pg_constraint k ON k.contype = 'f' AND k.confrelid = reached.oid AND {ENFORCED}
  WHERE (reached.event = 'd' AND k.confdeltype IN ('c', 'n', 'd'))
     OR (reached.event = 'u' AND k.confupdtype IN ('c', 'n', 'd') AND {referred} && reached.columns)
)"
    )
}

/// The tables that foreign keys have Postgres use as their owner, who may not: with the owner, and the schema or the rights.
/// Rows that are looked for are locked, for which Postgres wants a right to update.
fn rights_sql() -> String {
    let reached = reached();
    let (referred, referring) =
        (named("k.confrelid", "k.confkey"), named("k.conrelid", "k.conkey"));
    format!(
        "WITH RECURSIVE {reached}, used AS (
  SELECT k.confrelid AS oid, ARRAY['SELECT', 'UPDATE'] AS rights
  FROM pg_constraint k JOIN rel ON rel.oid = k.conrelid WHERE k.contype = 'f' AND {ENFORCED} AND rel.root = ANY ($1)
  UNION
  SELECT k.confrelid, ARRAY['SELECT', 'UPDATE']
  FROM pg_constraint k JOIN reached ON reached.oid = k.conrelid
  WHERE k.contype = 'f' AND {ENFORCED} AND reached.event = 'u' AND {referring} && reached.columns
  UNION
  SELECT k.conrelid, ARRAY['SELECT', CASE WHEN reached.event = 'd' AND k.confdeltype = 'c' THEN 'DELETE' ELSE 'UPDATE' END]
  FROM pg_constraint k JOIN reached ON reached.oid = k.confrelid
  WHERE k.contype = 'f' AND {ENFORCED} AND (reached.event = 'd' OR {referred} && reached.columns)
), wanted AS (
  SELECT DISTINCT used.oid, r AS privilege FROM used CROSS JOIN unnest(used.rights) AS r
)
SELECT c.oid::regclass::text, quote_ident(pg_get_userbyid(c.relowner)),
  CASE WHEN NOT has_schema_privilege(c.relowner, c.relnamespace, 'USAGE') THEN c.relnamespace::regnamespace::text END,
  array_agg(wanted.privilege ORDER BY wanted.privilege) FILTER (WHERE NOT held.fits)
FROM wanted JOIN pg_class c ON c.oid = wanted.oid CROSS JOIN LATERAL (SELECT CASE wanted.privilege
  WHEN 'DELETE' THEN has_table_privilege(c.relowner, c.oid, 'DELETE')
  ELSE has_any_column_privilege(c.relowner, c.oid, wanted.privilege) END) AS held(fits)
GROUP BY c.oid, c.relowner, c.relnamespace
HAVING NOT bool_and(held.fits) OR NOT has_schema_privilege(c.relowner, c.relnamespace, 'USAGE')
ORDER BY 1"
    )
}

/// The tables that are not served (`$5` are) and of which foreign keys delete or update rows, with a publication that streams
/// these and cannot: Postgres wants to tell the row by its replica identity, and a filter to know it by that.
fn unpublishable_sql(version: i32) -> String {
    let (reached, above) = (reached(), tables_above("SELECT oid FROM reached"));
    // A schema can be published since 15.
    let in_schema = match version >= 150_000 {
        true => {
            "OR EXISTS (SELECT FROM above JOIN pg_publication_namespace s ON s.pnnspid = above.relnamespace
      WHERE above.rel = c.oid AND s.pnpubid = p.oid)"
        }
        false => "",
    };
    // A list of columns, and a filter, is of the table itself, and not of one that it is a partition of.
    let identity = "SELECT a.attnum FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = c.oid
        AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND (c.relreplident = 'f' OR a.attnum = ANY (i.indkey))";
    format!(
        "WITH RECURSIVE {reached}, {above}
SELECT DISTINCT c.oid::regclass::text, quote_ident(p.pubname), reached.event
FROM reached JOIN pg_class c ON c.oid = reached.oid AND c.relkind = 'r' AND c.relpersistence = 'p'
JOIN pg_publication p ON CASE reached.event WHEN 'd' THEN p.pubdelete ELSE p.pubupdate END
LEFT JOIN pg_publication_rel own ON own.prpubid = p.oid AND own.prrelid = c.oid
WHERE c.oid <> ALL ($5) AND NOT EXISTS (SELECT FROM rel WHERE rel.oid = c.oid)
  AND (p.puballtables OR EXISTS (SELECT FROM above JOIN pg_publication_rel r ON r.prrelid = above.oid
      WHERE above.rel = c.oid AND r.prpubid = p.oid) {in_schema})
  AND (NOT EXISTS ({identity})
    OR (c.relreplident <> 'f' AND EXISTS (SELECT FROM pg_depend d
      WHERE d.classid = 'pg_publication_rel'::regclass AND d.objid = own.oid AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = c.oid AND d.refobjsubid > 0 AND to_jsonb(own) ->> 'prqual' IS NOT NULL
        AND to_jsonb(own) ->> 'prattrs' IS NULL AND d.refobjsubid NOT IN ({identity})))
    OR (to_jsonb(own) ->> 'prattrs' IS NOT NULL AND (c.relreplident = 'f' OR EXISTS ({identity}
      AND a.attnum::text <> ALL (string_to_array(to_jsonb(own) ->> 'prattrs', ' '))))))
ORDER BY 1, 2, 3"
    )
}
