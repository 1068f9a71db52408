//! Reads the catalog of the tables that a definition names.

use rowtide_plan::catalog::{Catalog, CatalogColumn, CatalogIndex, CatalogTable, ReplicaIdentity};
use rowtide_plan::definition::TableName;
use rowtide_plan::value::ColumnType;
use tokio_postgres::{Client, Row};

const TABLES: &str = "
SELECT c.oid, n.nspname, c.relname, c.relreplident::text, c.relrowsecurity,
       coalesce((SELECT array_agg(a.attname::text ORDER BY k.ordinality)
                 FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k
                 JOIN pg_attribute a ON a.attnum = k.attnum
                 WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid), '{}'),
       coalesce((SELECT array_agg(a.attname::text ORDER BY k.ordinality)
                 FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(attnum, ordinality)
                 JOIN pg_attribute a ON a.attnum = k.attnum
                 WHERE i.indrelid = c.oid AND i.indisreplident AND a.attrelid = c.oid), '{}')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unnest($1::text[], $2::text[]) AS wanted(schema, name)
  ON n.nspname = wanted.schema AND c.relname = wanted.name
WHERE c.relkind = 'r'";

const COLUMNS: &str = "
SELECT a.attrelid, a.attname, a.atttypid, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.attstorage <> 'p', coalesce(l.collisdeterministic, true),
       b.typname, b.typtype::text, b.typnamespace = 'pg_catalog'::regnamespace,
       b.typcategory = 'A' AND b.typelem <> 0 AND e.typdelim = ',',
       e.typname, e.typtype::text, e.typnamespace = 'pg_catalog'::regnamespace,
       coalesce((SELECT array_agg(enumlabel::text ORDER BY enumsortorder)
                 FROM pg_enum WHERE enumtypid = b.oid), '{}')
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
LEFT JOIN pg_type e ON e.oid = b.typelem
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attrelid, a.attnum";

const INDEXES: &str = "
SELECT i.indrelid, c.relname,
       (SELECT array_agg(a.attname::text ORDER BY k.ordinality)
        FROM unnest(i.indkey) WITH ORDINALITY k(attnum, ordinality)
        JOIN pg_attribute a ON a.attnum = k.attnum AND a.attrelid = i.indrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = ANY($1) AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND m.amname IN ('btree', 'hash')
ORDER BY i.indisprimary DESC, c.relname";

/// Reads what Postgres says of `names`. Tables that are not there, and what is no plain table (views,
/// partitioned and foreign tables), are left out.
///
/// # Errors
/// When a query fails.
pub async fn read_catalog(
    client: &Client,
    names: &[TableName],
) -> Result<Catalog, tokio_postgres::Error> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let rows = client.query(TABLES, &[&schemas, &tables]).await?;
    let mut catalog: Vec<CatalogTable> = rows.iter().map(table).collect();
    let oids: Vec<u32> = catalog.iter().map(|table| table.oid).collect();
    let columns = client.query(COLUMNS, &[&oids]).await?;
    let indexes = client.query(INDEXES, &[&oids]).await?;
    for table in &mut catalog {
        let here = |row: &&Row| row.get::<_, u32>(0) == table.oid;
        table.columns = columns.iter().filter(here).map(column).collect();
        table.indexes = indexes
            .iter()
            .filter(here)
            .map(|row| CatalogIndex { name: row.get(1), columns: row.get(2) })
            .collect();
    }
    let order = |table: &CatalogTable| {
        names.iter().position(|name| name.schema == table.schema && name.name == table.name)
    };
    catalog.sort_by_key(order);
    Ok(Catalog { tables: catalog })
}

fn table(row: &Row) -> CatalogTable {
    let replica_identity = match row.get::<_, &str>(3) {
        "f" => ReplicaIdentity::Full,
        "i" => ReplicaIdentity::Index(row.get(6)),
        "n" => ReplicaIdentity::Nothing,
        _ => ReplicaIdentity::Key,
    };
    CatalogTable {
        oid: row.get(0),
        schema: row.get(1),
        name: row.get(2),
        columns: Vec::new(),
        primary_key: row.get(5),
        indexes: Vec::new(),
        replica_identity,
        row_security: row.get(4),
    }
}

fn column(row: &Row) -> CatalogColumn {
    let kind_of = |name: usize| {
        let typtype = row.get::<_, Option<&str>>(name + 1).and_then(|text| text.chars().next());
        let builtin = row.get::<_, Option<bool>>(name + 2).unwrap_or(false);
        let name = row.get::<_, Option<&str>>(name).unwrap_or_default();
        ColumnType::of(name, typtype.unwrap_or('b'), builtin)
    };
    let is_array = row.get::<_, Option<bool>>(10).unwrap_or(false);
    let kind = if is_array { ColumnType::Array(Box::new(kind_of(11))) } else { kind_of(7) };
    CatalogColumn {
        name: row.get(1),
        kind,
        type_oid: row.get(2),
        type_name: row.get(3),
        not_null: row.get(4),
        toastable: row.get(5),
        deterministic: row.get(6),
        labels: row.get(14),
    }
}
