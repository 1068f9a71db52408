//! Reads the catalog of the tables that a definition names. What a type means is decided by its base
//! type: domains are followed to the end, and elements of arrays likewise. Only what Postgres can
//! publish is read: plain, permanent tables and their columns that are not generated. Of what else has
//! a table's name it is read what it is.

use rowtide_plan::catalog::{
    Catalog, CatalogColumn, CatalogIndex, CatalogTable, ColumnInput, ReplicaIdentity, TableName,
    Unstreamed, UnstreamedKind,
};
use rowtide_plan::value::ColumnType;
use tokio_postgres::{Client, Row};

/// All of it is of one moment. Types and defaults are printed with their schemas, so that they mean the same in every
/// session, whatever its search path is.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = ''; \
    SET LOCAL quote_all_identifiers = off";

const TABLES: &str = "
SELECT c.oid, n.nspname, c.relname, c.relreplident::text, c.relrowsecurity,
       coalesce((SELECT array_agg(a.attname::text ORDER BY k.place)
                 FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY k(attnum, place)
                 JOIN pg_attribute a ON a.attnum = k.attnum AND a.attrelid = i.indrelid
                 WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts), '{}'),
       coalesce((SELECT array_agg(a.attname::text ORDER BY k.place)
                 FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY k(attnum, place)
                 JOIN pg_attribute a ON a.attnum = k.attnum AND a.attrelid = i.indrelid
                 WHERE i.indrelid = c.oid AND i.indisreplident AND k.place <= i.indnkeyatts), '{}')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unnest($1::text[], $2::text[]) AS wanted(schema, name)
  ON n.nspname = wanted.schema AND c.relname = wanted.name
WHERE c.relkind = 'r' AND c.relpersistence = 'p'";

/// All the others of those names.
const UNSTREAMED: &str = "
SELECT n.nspname, c.relname, c.relkind::text, c.relpersistence::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted(schema, name, place)
  ON n.nspname = wanted.schema AND c.relname = wanted.name
WHERE NOT (c.relkind = 'r' AND c.relpersistence = 'p')
ORDER BY place";

const COLUMNS: &str = "
WITH RECURSIVE base AS (
  SELECT DISTINCT t.oid AS type, t.oid, t.typtype, t.typbasetype
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = ANY($1)
  UNION ALL
  SELECT base.type, t.oid, t.typtype, t.typbasetype
  FROM base JOIN pg_type t ON base.typtype = 'd' AND t.oid = base.typbasetype
), element AS (
  SELECT base.type, e.oid, e.typtype, e.typbasetype
  FROM base JOIN pg_type e ON e.typarray = base.oid AND e.typdelim = ','
  UNION ALL
  SELECT element.type, t.oid, t.typtype, t.typbasetype
  FROM element JOIN pg_type t ON element.typtype = 'd' AND t.oid = element.typbasetype
)
SELECT a.attrelid, a.attname, a.atttypid, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.attstorage <> 'p', coalesce(l.collisdeterministic, true),
       b.typname, b.typtype::text, b.typnamespace = 'pg_catalog'::regnamespace,
       e.oid IS NOT NULL,
       e.typname, e.typtype::text, e.typnamespace = 'pg_catalog'::regnamespace,
       coalesce((SELECT array_agg(enumlabel::text ORDER BY enumsortorder)
                 FROM pg_enum WHERE enumtypid = b.oid), '{}'),
       base.type <> base.oid,
       format_type(a.atttypid, -1),
       CASE WHEN a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND a.atttypmod >= 4
            THEN a.atttypmod - 4 END,
       pg_get_expr(d.adbin, d.adrelid),
       a.attidentity::text = 'a'
FROM pg_attribute a
JOIN base ON base.type = a.atttypid AND base.typtype <> 'd'
JOIN pg_type b ON b.oid = base.oid
LEFT JOIN element ON element.type = a.atttypid AND element.typtype <> 'd'
LEFT JOIN pg_type e ON e.oid = element.oid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attrelid, a.attnum";

/// Columns that an index only carries along (`INCLUDE`) come after `indnkeyatts` of the others.
const INDEXES: &str = "
SELECT i.indrelid, c.relname,
       (SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM unnest(i.indkey) WITH ORDINALITY k(attnum, place)
        JOIN pg_attribute a ON a.attnum = k.attnum AND a.attrelid = i.indrelid
        WHERE k.place <= i.indnkeyatts)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = ANY($1) AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND m.amname IN ('btree', 'hash')
ORDER BY i.indisprimary DESC, c.relname";

/// Reads what Postgres says of `names`. What is not there is left out; what is there and is no plain
/// table (views, partitioned, foreign, temporary and unlogged tables) is in [`Catalog::unstreamed`].
///
/// # Errors
/// When a query fails.
pub async fn read_catalog(
    client: &Client,
    names: &[TableName],
) -> Result<Catalog, tokio_postgres::Error> {
    client.batch_execute(BEGIN).await?;
    let catalog = read_in_transaction(client, names).await;
    // After an error there is nothing to keep.
    let ended = client.batch_execute("COMMIT").await;
    let catalog = catalog?;
    ended.map(|()| catalog)
}

async fn read_in_transaction(
    client: &Client,
    names: &[TableName],
) -> Result<Catalog, tokio_postgres::Error> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let rows = client.query(TABLES, &[&schemas, &tables]).await?;
    let unstreamed = client.query(UNSTREAMED, &[&schemas, &tables]).await?;
    let unstreamed = unstreamed.iter().map(self::unstreamed).collect();
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
    Ok(Catalog { tables: catalog, unstreamed })
}

fn unstreamed(row: &Row) -> Unstreamed {
    let kind = match (row.get::<_, &str>(2), row.get::<_, &str>(3)) {
        ("v", _) => UnstreamedKind::View,
        ("m", _) => UnstreamedKind::MaterializedView,
        ("p", _) => UnstreamedKind::Partitioned,
        ("f", _) => UnstreamedKind::Foreign,
        ("r", "u") => UnstreamedKind::Unlogged,
        ("r", _) => UnstreamedKind::Temporary,
        _ => UnstreamedKind::Other,
    };
    Unstreamed { schema: row.get(0), name: row.get(1), kind }
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
    let kind = match if is_array { ColumnType::Array(Box::new(kind_of(11))) } else { kind_of(7) } {
        // Postgres has no `=` for a domain over an enum.
        ColumnType::Enum if row.get::<_, bool>(15) => ColumnType::Other,
        kind => kind,
    };
    CatalogColumn {
        name: row.get(1),
        kind,
        type_oid: row.get(2),
        // For people, as they would write it.
        type_name: row.get::<_, String>(3).trim_start_matches("public.").to_owned(),
        not_null: row.get(4),
        toastable: row.get(5),
        deterministic: row.get(6),
        labels: row.get(14),
        input: ColumnInput {
            type_name: row.get(16),
            max_chars: row.get::<_, Option<i32>>(17).and_then(|chars| u32::try_from(chars).ok()),
            default: row.get(18),
            always_identity: row.get(19),
        },
    }
}
