//! Reads what the draft of a definition is made of: the tables of a database with their keys, their foreign keys and the
//! policies of row-level security on them. Partitions, tables of extensions and what is not permanent are left out: they
//! are not synced by themselves. Expressions are printed with an empty search path, so that every name in them has its
//! schema.

use rowtide_plan::catalog::{Catalog, TableName};
use rowtide_plan::draft::{
    DraftFacts, DraftTable, ForeignKey, PolicyCommand, RowPolicy, is_of_application,
};
use tokio_postgres::{Client, Error, Row};

use crate::catalog::{BEGIN, read_in_transaction};

/// The tables that may be synced, and whether row-level security applies to them.
const TABLES: &str = "
SELECT n.nspname::text, c.relname::text, c.relrowsecurity, c.oid
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p' AND c.oid >= 16384
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e')
ORDER BY n.nspname <> 'public', n.nspname COLLATE \"C\", c.relname COLLATE \"C\"";

/// The policies of tables, those that allow before those that restrict.
const POLICIES: &str = "
SELECT p.polrelid, p.polname::text, p.polpermissive, p.polcmd::text,
  ARRAY(SELECT CASE role WHEN 0 THEN 'public' ELSE pg_get_userbyid(role)::text END
        FROM unnest(p.polroles) WITH ORDINALITY AS r(role, place) ORDER BY place),
  pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
FROM pg_policy p WHERE p.polrelid = ANY ($1)
ORDER BY p.polpermissive DESC, p.polname COLLATE \"C\"";

/// What rows of tables refer to.
const FOREIGN_KEYS: &str = "
SELECT k.conrelid,
  ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u(number, place)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.place),
  n.nspname::text, c.relname::text,
  ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u(number, place)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number ORDER BY u.place)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY ($1)
ORDER BY k.conkey, k.conname COLLATE \"C\"";

/// Reads the facts of a draft and the catalog of all tables, of one moment. `schemas` are those that are asked for; if
/// there are none, it is those of the application.
///
/// # Errors
/// When Postgres does not answer.
pub async fn draft_facts(
    client: &Client,
    schemas: &[String],
) -> Result<(DraftFacts, Catalog), Error> {
    client.batch_execute(BEGIN).await?;
    let read = read(client, schemas).await;
    // After an error there is nothing to keep.
    let ended = client.batch_execute("COMMIT").await;
    let read = read?;
    ended.map(|()| read)
}

async fn read(client: &Client, schemas: &[String]) -> Result<(DraftFacts, Catalog), Error> {
    let found = client.query(TABLES, &[]).await?;
    let oids: Vec<u32> = found.iter().map(|row| row.get(3)).collect();
    let policies = client.query(POLICIES, &[&oids]).await?;
    let foreign_keys = client.query(FOREIGN_KEYS, &[&oids]).await?;
    let mut facts = DraftFacts::default();
    for row in &found {
        let oid: u32 = row.get(3);
        let here = |of: &&Row| of.get::<_, u32>(0) == oid;
        let table = DraftTable {
            name: TableName { schema: row.get(0), name: row.get(1) },
            row_security: row.get(2),
            policies: policies.iter().filter(here).map(policy).collect(),
            foreign_keys: foreign_keys.iter().filter(here).map(foreign_key).collect(),
        };
        match is_of_application(&table.name, schemas) {
            true => facts.tables.push(table),
            false => facts.others.push(table),
        }
    }
    let all = facts.tables.iter().chain(&facts.others);
    let names: Vec<TableName> = all.map(|table| table.name.clone()).collect();
    let catalog = read_in_transaction(client, &names).await?;
    Ok((facts, catalog))
}

fn policy(row: &Row) -> RowPolicy {
    RowPolicy {
        name: row.get(1),
        permissive: row.get(2),
        command: match row.get(3) {
            "r" => PolicyCommand::Select,
            "a" => PolicyCommand::Insert,
            "w" => PolicyCommand::Update,
            "d" => PolicyCommand::Delete,
            _ => PolicyCommand::All,
        },
        roles: row.get(4),
        using: row.get(5),
        check: row.get(6),
    }
}

fn foreign_key(row: &Row) -> ForeignKey {
    let table = TableName { schema: row.get(2), name: row.get(3) };
    ForeignKey { columns: row.get(1), table, referenced: row.get(4) }
}
