//! Reads the catalog of the tables that a definition names. What a type means is decided by its base
//! type: domains are followed to the end, and elements of arrays likewise. Only what Postgres can publish is read:
//! permanent tables, partitioned ones included, and the columns whose values it streams. Of what else has a table's
//! name it is read what it is.

use rowtide_plan::catalog::{
    Catalog, CatalogColumn, CatalogIndex, CatalogPartition, CatalogTable, ColumnInput,
    FullRejected, LeftOutColumn, ReplicaIdentity, TableName, TableStreaming, Unstreamed,
    UnstreamedKind,
};
use rowtide_plan::sql::{quote_identifier, quote_table};
use rowtide_plan::value::ColumnType;
use tokio_postgres::{Client, Row};

/// All of it is of one moment. Types and defaults are printed with their schemas, so that they mean the same in every
/// session, whatever its search path is.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = ''; \
    SET LOCAL quote_all_identifiers = off";

/// Generated columns that are stored are published since this version; before it none is.
pub(crate) const GENERATED_PUBLISHED: i32 = 180_000;

/// The index whose columns tell the rows of the relation with this oid apart: the primary key, or else a unique index
/// over columns that are `NOT NULL`. One that is `DEFERRABLE` does not: two rows may be the same to it within a
/// transaction. Of a partitioned table only a primary key does, because without one the partitions that are made
/// later could not be updated while they are published.
pub(crate) fn key_index(relation: &str) -> String {
    format!(
        "(SELECT i.indexrelid FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid \
          JOIN pg_class r ON r.oid = i.indrelid \
          WHERE i.indrelid = {relation} AND i.indisunique AND i.indimmediate AND i.indisvalid \
            AND i.indpred IS NULL AND i.indexprs IS NULL AND (i.indisprimary OR r.relkind <> 'p') \
            AND NOT EXISTS (SELECT FROM unnest(i.indkey) WITH ORDINALITY k(number, place) \
                JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number \
                WHERE k.place <= i.indnkeyatts AND NOT {NEVER_NULL}) \
          ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, x.relname LIMIT 1)"
    )
}

/// That the column `a` is `NOT NULL`, and that all rows are: since version 18 that may not have been validated.
const NEVER_NULL: &str = "(a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint v \
    WHERE v.conrelid = a.attrelid AND v.contype = 'n' AND v.conkey = ARRAY[a.attnum] AND NOT v.convalidated))";

/// The bits of `pg_trigger.tgtype` of a trigger that runs before each row of an insert.
const BEFORE_EACH_INSERT: i16 = 1 | 2 | 4;

/// All relations of those names, with what is in the way of streaming them.
fn tables_sql() -> String {
    let columns = |condition: &str| {
        format!(
            "coalesce((SELECT array_agg(a.attname::text ORDER BY k.place) \
              FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY k(attnum, place) \
              JOIN pg_attribute a ON a.attnum = k.attnum AND a.attrelid = i.indrelid \
              WHERE i.indrelid = c.oid AND {condition} AND k.place <= i.indnkeyatts), '{{}}')"
        )
    };
    let key = columns(&format!("i.indexrelid = {}", key_index("c.oid")));
    let identity = columns("i.indisreplident");
    format!(
        "
SELECT c.oid, n.nspname, c.relname, c.relreplident::text, c.relrowsecurity, {key}, {identity},
       c.relkind::text, c.relpersistence::text, c.oid < 16384,
       (SELECT format('%I.%I', kn.nspname, k.relname) FROM pg_inherits h
        JOIN pg_class k ON k.oid = h.inhrelid JOIN pg_namespace kn ON kn.oid = k.relnamespace
        WHERE h.inhparent = c.oid AND NOT k.relispartition ORDER BY 1 LIMIT 1),
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND NOT i.indimmediate),
       EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal
         AND g.tgenabled IN ('O', 'A') AND g.tgtype & {BEFORE_EACH_INSERT} = {BEFORE_EACH_INSERT})
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted(schema, name, place)
  ON n.nspname = wanted.schema AND c.relname = wanted.name
ORDER BY wanted.place"
    )
}

/// For a `WITH RECURSIVE`: all partitions (`oid`) of the tables (`root`) whose oids the query `roots` has, at any depth, with
/// those that have partitions themselves, and without those that are being detached. Which transactions have attached each,
/// and those above it, is one text (`attached`).
pub(crate) fn parts_below(roots: &str) -> String {
    format!(
        "part AS (
  SELECT h.inhparent AS root, h.inhrelid AS oid, h.xmin::text AS attached
  FROM pg_inherits h JOIN pg_class k ON k.oid = h.inhparent
  WHERE h.inhparent IN ({roots}) AND k.relkind = 'p' AND NOT h.inhdetachpending
  UNION ALL
  SELECT part.root, h.inhrelid, part.attached || ' ' || h.xmin::text
  FROM part JOIN pg_class k ON k.oid = part.oid AND k.relkind = 'p'
  JOIN pg_inherits h ON h.inhparent = part.oid WHERE NOT h.inhdetachpending
)"
    )
}

/// For a `WITH RECURSIVE`: the tables (`root`) whose oids are in the array `tables`, each with itself and with its partitions at
/// any depth (`oid`).
pub(crate) fn whole_tables(tables: &str) -> String {
    let part = parts_below(&format!("SELECT unnest({tables})"));
    format!(
        "{part}, rel AS (
  SELECT oid AS root, oid FROM unnest({tables}) AS oid UNION SELECT root, oid FROM part
)"
    )
}

/// For a `WITH RECURSIVE`: the tables (`rel`) whose oids the query `tables` has, each with itself and with all that it is a
/// partition of (`oid`, `relnamespace`).
pub(crate) fn tables_above(tables: &str) -> String {
    format!(
        "above AS (
  SELECT k.oid AS rel, k.oid, k.relnamespace FROM pg_class k WHERE k.oid IN ({tables})
  UNION ALL
  SELECT above.rel, k.oid, k.relnamespace FROM above JOIN pg_class of ON of.oid = above.oid AND of.relispartition
  JOIN pg_inherits h ON h.inhrelid = above.oid JOIN pg_class k ON k.oid = h.inhparent
)"
    )
}

/// The partitions of tables that have no partitions themselves. Up to version 14 `pgoutput` reads rows of a partition as the
/// root's, which does not know what those have of a column that were there before it.
fn partitions_sql(version: i32) -> String {
    let missing = if version < 150_000 { "a.atthasmissing" } else { "false" };
    format!(
        "WITH RECURSIVE {}
SELECT part.root, part.oid, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relreplident::text,
  ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = part.oid AND a.attnum > 0 AND {missing}
    ORDER BY a.attnum)
FROM part JOIN pg_class c ON c.oid = part.oid AND c.relkind <> 'p' JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY part.root, n.nspname, c.relname",
        parts_below("SELECT unnest($1::oid[])")
    )
}

/// Which of the tables are partitions of others of them.
fn partition_of_sql() -> String {
    format!(
        "WITH RECURSIVE {}
SELECT DISTINCT ON (above.rel) above.rel, format('%I.%I', n.nspname, c.relname)
FROM above JOIN pg_class c ON c.oid = above.oid JOIN pg_namespace n ON n.oid = above.relnamespace
WHERE above.oid <> above.rel AND above.oid = ANY($1) ORDER BY above.rel, c.oid",
        tables_above("SELECT unnest($1::oid[])")
    )
}

/// The generated columns of tables.
const GENERATED: &str = "
SELECT a.attrelid, a.attname, a.attgenerated::text FROM pg_attribute a
WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''
ORDER BY a.attrelid, a.attnum";

/// The publications with which Postgres takes no updates of a table, or of one of its partitions, whose replica
/// identity is `FULL`: those with a list of its columns, and those without its generated ones. Those of Rowtide are
/// its own concern.
fn rejecting_sql(version: i32) -> String {
    let generated = if version >= GENERATED_PUBLISHED {
        "UNION ALL
         SELECT of.root, quote_ident(p.pubname), quote_ident(a.attname)
         FROM pg_publication p CROSS JOIN of
         JOIN pg_class c ON c.oid = of.oid
         JOIN pg_attribute a ON a.attrelid = of.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = 's'
         WHERE to_jsonb(p) ->> 'pubgencols' = 'n' AND NOT EXISTS (SELECT FROM pg_publication_rel r
             WHERE r.prpubid = p.oid AND r.prrelid = of.oid AND r.prattrs IS NOT NULL) AND p.pubname NOT LIKE 'rowtide\\_%'
           AND (p.puballtables
             OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = of.oid)
             OR EXISTS (SELECT FROM pg_publication_namespace s
                        WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace))"
    } else {
        ""
    };
    format!(
        "WITH of AS (SELECT * FROM unnest($1::oid[], $2::oid[]) AS of(root, oid))
         SELECT of.root, quote_ident(p.pubname), NULL::text
         FROM of JOIN pg_publication_rel r ON r.prrelid = of.oid JOIN pg_publication p ON p.oid = r.prpubid
         WHERE r.prattrs IS NOT NULL AND p.pubname NOT LIKE 'rowtide\\_%'
         {generated} ORDER BY 1, 2, 3"
    )
}

/// `{generated}` stands for a condition on the columns, `{never_null}` for [`NEVER_NULL`].
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
SELECT a.attrelid, a.attname, a.atttypid, format_type(a.atttypid, a.atttypmod), {never_null},
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
       a.attidentity::text = 'a', a.attgenerated <> '', a.attidentity <> ''
FROM pg_attribute a
JOIN base ON base.type = a.atttypid AND base.typtype <> 'd'
JOIN pg_type b ON b.oid = base.oid
LEFT JOIN element ON element.type = a.atttypid AND element.typtype <> 'd'
LEFT JOIN pg_type e ON e.oid = element.oid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped AND {generated}
ORDER BY a.attrelid, a.attnum";

/// Columns that an index only carries along (`INCLUDE`) come after `indnkeyatts` of the others.
const INDEXES: &str = "
SELECT i.indrelid, c.relname,
       (SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM unnest(i.indkey) WITH ORDINALITY k(attnum, place)
        JOIN pg_attribute a ON a.attnum = k.attnum AND a.attrelid = i.indrelid
        WHERE k.place <= i.indnkeyatts),
       m.amname = 'gin'
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = ANY($1) AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND (m.amname IN ('btree', 'hash') OR m.amname = 'gin' AND NOT EXISTS
    (SELECT FROM unnest(i.indclass) AS class JOIN pg_opclass c ON c.oid = class WHERE c.opcname <> 'array_ops'))
ORDER BY i.indisprimary DESC, c.relname";

/// Reads what Postgres says of `names`. What is not there is left out; what is there and cannot be streamed (views,
/// foreign, temporary and unlogged tables, tables that others inherit from) is in [`Catalog::unstreamed`].
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

/// As [`read_catalog`], in a transaction that [`BEGIN`] began.
pub(crate) async fn read_in_transaction(
    client: &Client,
    names: &[TableName],
) -> Result<Catalog, tokio_postgres::Error> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let version = server_version(client).await?;
    let found = client.query(&tables_sql(), &[&schemas, &tables]).await?;
    let oids: Vec<u32> = found.iter().map(|row| row.get(0)).collect();
    let partitions = client.query(&partitions_sql(version), &[&oids]).await?;
    let partition_of = client.query(&partition_of_sql(), &[&oids]).await?;
    let mut catalog = Catalog::default();
    for row in &found {
        let (schema, name) = (row.get(1), row.get(2));
        match unstreamed(row, &partitions, &partition_of) {
            Some(kind) => catalog.unstreamed.push(Unstreamed { schema, name, kind }),
            None => catalog.tables.push(table(row, &partitions)),
        }
    }
    let oids: Vec<u32> = catalog.tables.iter().map(|table| table.oid).collect();
    let streamed = if version >= GENERATED_PUBLISHED { "IN ('', 's')" } else { "= ''" };
    let columns = COLUMNS.replace("{generated}", &format!("a.attgenerated {streamed}"));
    let columns = columns.replace("{never_null}", NEVER_NULL);
    let columns = client.query(&columns, &[&oids]).await?;
    let indexes = client.query(INDEXES, &[&oids]).await?;
    let generated = client.query(GENERATED, &[&oids]).await?;
    let rejecting = rejecting(client, version, &catalog.tables, &partitions).await?;
    for table in &mut catalog.tables {
        let here = |row: &&Row| row.get::<_, u32>(0) == table.oid;
        table.columns = columns.iter().filter(here).map(column).collect();
        table.indexes = indexes
            .iter()
            .filter(here)
            .map(|row| CatalogIndex {
                name: row.get(1),
                columns: row.get(2),
                of_elements: row.get(3),
            })
            .collect();
        let left_out = generated.iter().filter(here).map(|row| LeftOutColumn {
            name: row.get(1),
            is_virtual: row.get::<_, &str>(2) == "v",
        });
        let left_out =
            left_out.filter(|column| column.is_virtual || version < GENERATED_PUBLISHED).collect();
        table.streaming.left_out = left_out;
        let mut left_out = table.streaming.left_out.iter();
        let is_virtual = left_out.find(|column| column.is_virtual);
        table.streaming.full_rejected = match is_virtual {
            Some(column) => Some(FullRejected::VirtualColumn(quote_identifier(&column.name))),
            None => rejecting.iter().find(here).map(|row| match (row.get(1), row.get(2)) {
                (publication, Some(column)) => {
                    FullRejected::GeneratedColumn { publication, column }
                }
                (publication, None) => FullRejected::ColumnList { publication },
            }),
        };
    }
    Ok(catalog)
}

/// The server's version, such as 180004.
pub(crate) async fn server_version(client: &Client) -> Result<i32, tokio_postgres::Error> {
    let sql = "SELECT current_setting('server_version_num')::int";
    // As a pooler's connection answers it, too, which prepares nothing.
    Ok(client.query_typed(sql, &[]).await?.first().map_or(0, |row| row.get(0)))
}

/// The encoding of the database, if it is one that cannot be served. What a database in another encoding than UTF-8
/// holds may be no text elsewhere, and what clients write may have no place in it.
///
/// # Errors
/// When the query fails.
pub async fn unserved_encoding(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    let encoding: String =
        client.query_one("SELECT getdatabaseencoding()::text", &[]).await?.get(0);
    Ok(Some(encoding).filter(|encoding| encoding != "UTF8"))
}

/// That a database of this encoding is not served, and what to do.
pub fn encoding_said(encoding: &str) -> String {
    format!(
        "the database's encoding is {encoding}, and only UTF8 is served: dump it, and restore it into a database \
         that was made with `ENCODING 'UTF8' TEMPLATE template0`"
    )
}

/// What is in the way of streaming a relation.
fn unstreamed(row: &Row, partitions: &[Row], partition_of: &[Row]) -> Option<UnstreamedKind> {
    let oid: u32 = row.get(0);
    let here = |row: &&Row| row.get::<_, u32>(0) == oid;
    let kind = match (row.get::<_, &str>(7), row.get::<_, &str>(8)) {
        ("v", _) => UnstreamedKind::View,
        ("m", _) => UnstreamedKind::MaterializedView,
        ("f", _) => UnstreamedKind::Foreign,
        ("r", "u") => UnstreamedKind::Unlogged,
        ("r" | "p", "t") => UnstreamedKind::Temporary,
        ("r" | "p", _) if row.get(9) => UnstreamedKind::System,
        ("r" | "p", _) => {
            let elsewhere =
                |row: &&Row| row.get::<_, &str>(4) != "r" || row.get::<_, &str>(5) != "p";
            let mut foreign = partitions.iter().filter(here).filter(elsewhere);
            if let Some(child) = row.get::<_, Option<String>>(10) {
                return Some(UnstreamedKind::Inherited { child });
            }
            if let Some(of) = partition_of.iter().find(here) {
                return Some(UnstreamedKind::PartitionOf { root: of.get(1) });
            }
            let partition = foreign.next().map(|row| quote_table(row.get(2), row.get(3)));
            return partition.map(|partition| UnstreamedKind::PartitionUnstreamed { partition });
        }
        _ => UnstreamedKind::Other,
    };
    Some(kind)
}

async fn rejecting(
    client: &Client,
    version: i32,
    tables: &[CatalogTable],
    partitions: &[Row],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    // Publications have had no lists of columns before.
    if version < 150_000 {
        return Ok(Vec::new());
    }
    let of_tables = tables.iter().map(|table| (table.oid, table.oid));
    let of_partitions = partitions.iter().map(|row| (row.get(0), row.get(1)));
    let (roots, oids): (Vec<u32>, Vec<u32>) = of_tables.chain(of_partitions).unzip();
    client.query(&rejecting_sql(version), &[&roots, &oids]).await
}

fn identity(letter: &str, index: Vec<String>) -> ReplicaIdentity {
    match letter {
        "f" => ReplicaIdentity::Full,
        "i" => ReplicaIdentity::Index(index),
        "n" => ReplicaIdentity::Nothing,
        _ => ReplicaIdentity::Key,
    }
}

fn table(row: &Row, partitions: &[Row]) -> CatalogTable {
    let oid: u32 = row.get(0);
    let partitions = partitions.iter().filter(|row| row.get::<_, u32>(0) == oid);
    let partitions = partitions.map(|row| CatalogPartition {
        oid: row.get(1),
        name: quote_table(row.get(2), row.get(3)),
        replica_identity: identity(row.get(6), Vec::new()),
        null_in_old_rows: row.get(7),
    });
    let streaming = TableStreaming {
        partitioned: row.get::<_, &str>(7) == "p",
        partitions: partitions.collect(),
        deferrable_key: row.get(11),
        ..TableStreaming::default()
    };
    CatalogTable {
        oid,
        schema: row.get(1),
        name: row.get(2),
        columns: Vec::new(),
        primary_key: row.get(5),
        indexes: Vec::new(),
        replica_identity: identity(row.get(3), row.get(6)),
        row_security: row.get(4),
        insert_trigger: row.get(12),
        streaming,
    }
}

fn holds_integers(kind: &ColumnType) -> bool {
    match kind {
        ColumnType::Array(element) => holds_integers(element),
        kind => *kind == ColumnType::Int,
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
    let integer: Option<&str> = row.get(if is_array { 11 } else { 7 });
    let is_int8 = integer == Some("int8") && holds_integers(&kind);
    // What Postgres computes a generated column with is kept where a default is.
    let expression: Option<String> = row.get(18);
    let (default, generated) = if row.get(20) { (None, expression) } else { (expression, None) };
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
            is_int8,
            max_chars: row.get::<_, Option<i32>>(17).and_then(|chars| u32::try_from(chars).ok()),
            default,
            always_identity: row.get(19),
            identity: row.get(21),
            generated,
        },
    }
}
