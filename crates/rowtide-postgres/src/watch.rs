//! What a plan relies on, as Postgres has it now: the publication, and of each table what its rows are, who may
//! see them and which of their changes are streamed. It is read with one query, and only after something was
//! committed: a first, trivial one asks which transactions are running, and as long as that is the same no
//! transaction has ended, so nothing can be different. Only catalogs are read: neither query opens a table, so
//! neither waits for a DDL statement that has locked one, and neither writes WAL. What follows from a difference is
//! not decided here.

use rowtide_plan::catalog::{Catalog, TableName};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio_postgres::Client;

use crate::catalog::{
    BEGIN, key_index, parts_below, read_in_transaction, server_version, tables_above,
};
use crate::connect::{Names, reason};
use crate::sightings::Sightings;

/// What a plan relies on, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Observed {
    /// The publication, if it is there.
    pub publication: Option<ObservedPublication>,
    /// The relations that have a name of the definition, and Rowtide's own that is streamed; sorted by name.
    pub tables: Vec<ObservedTable>,
    /// The types of their columns, with what these are made of; sorted by oid.
    pub types: Vec<ObservedType>,
}

/// A publication.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ObservedPublication {
    /// `pg_publication.oid`: another after it was dropped and made again.
    pub oid: u32,
    /// Which transaction wrote its row (`xmin`): another after any change of it, also one that was undone.
    pub version: u32,
    /// Inserts are streamed.
    pub insert: bool,
    /// Updates are streamed.
    pub update: bool,
    /// Deletes are streamed.
    pub delete: bool,
    /// `TRUNCATE` is streamed.
    pub truncate: bool,
    /// Rows of partitions are streamed as rows of the root (`publish_via_partition_root`).
    pub via_root: bool,
    /// `publish_generated_columns`, in versions that have it.
    pub generated: Option<String>,
}

/// A relation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ObservedTable {
    /// The schema, unquoted.
    pub schema: String,
    /// The name, unquoted.
    pub name: String,
    /// `pg_class.oid`: another for what was made anew or has taken the name.
    pub oid: u32,
    /// Which transaction wrote its row of `pg_class` (`xmin`).
    pub version: u32,
    /// Which transaction wrote the row of its row type (`xmin`): another after it was renamed, also if that was
    /// undone.
    pub name_version: u32,
    /// Which transaction wrote the row of its schema (`xmin`): another after that was renamed, also if that was undone.
    pub schema_version: u32,
    /// What else is in the row of its schema, as one text: what explains another version.
    pub schema_incidental: String,
    /// `relfilenode`: another after the table was rewritten or truncated.
    pub file: u32,
    /// What else is in its row of `pg_class` and is of no concern, as one text: what explains another version.
    pub incidental: String,
    /// `relkind`.
    pub kind: String,
    /// `relpersistence`.
    pub persistence: String,
    /// `relreplident`.
    pub identity: String,
    /// The columns of the index that is the replica identity, by number; empty if none is.
    pub identity_columns: Vec<i16>,
    /// The columns that tell rows apart, by number.
    pub key: Vec<i16>,
    /// Row-level security is switched on (`relrowsecurity`).
    pub row_security: bool,
    /// It applies to the owner, too (`relforcerowsecurity`).
    pub row_security_forced: bool,
    /// It hides rows from the role that asks, or would if it were switched on.
    pub row_security_concerns: bool,
    /// It hides rows from the role that asks.
    pub row_security_active: bool,
    /// The role that asks may read the table, and use its schema.
    pub readable: bool,
    /// What else it may do.
    pub rights: ObservedRights,
    /// Other tables inherit from it, and are no partitions.
    pub children: bool,
    /// The partitions that hold its rows, sorted by oid.
    pub partitions: Vec<ObservedPartition>,
    /// How it is published, if it is.
    pub membership: Option<ObservedMembership>,
    /// How other publications publish it, or partitions of it, each as one text: by one that leaves out columns Postgres rejects
    /// updates. Always empty where publications have no lists of columns.
    pub other_publications: Vec<String>,
    /// In the order of their numbers.
    pub columns: Vec<ObservedColumn>,
}

/// A partition without partitions of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ObservedPartition {
    /// `pg_class.oid`.
    pub oid: u32,
    /// `relfilenode`: another after it was rewritten or truncated.
    pub file: u32,
    /// `relkind` and `relpersistence`.
    pub kind: String,
    /// `relreplident`.
    pub identity: String,
    /// Which transactions attached it, and those that it is a partition of, as one text (`xmin` of `pg_inherits`): another
    /// after it was detached and attached again, with what was written into it meanwhile.
    pub attached: String,
    /// Which transaction wrote its row of `pg_class` (`xmin`): another after its replica identity was altered, also if that was
    /// undone. What was deleted in between has no more than the key in the stream, which does not say so: it tells the identity
    /// of the root.
    pub version: u32,
    /// What else is in that row and is of no concern, as one text: what explains another version.
    pub incidental: String,
}

/// What the role that asks may do to the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[expect(missing_docs, reason = "they are named as Postgres' privileges are")]
pub struct ObservedRights {
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
}

/// That a table is in the publication.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ObservedMembership {
    /// The oid of what says so; another after the table, or its schema, was taken out and put in again. None if it is
    /// there because all tables are.
    pub oid: Option<u32>,
    /// Which transaction wrote that row (`xmin`).
    pub version: Option<u32>,
    /// The table itself is named, and not its schema, all tables, or the table that it is a partition of. Postgres does
    /// not make one of these unlogged.
    pub named: bool,
    /// Rows are left out.
    pub filtered: bool,
    /// Columns are left out.
    pub listed: bool,
}

/// A column that has not been dropped.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ObservedColumn {
    /// `attnum`, which stays with a column for good.
    pub number: i16,
    /// The name, unquoted.
    pub name: String,
    /// `atttypid`.
    #[serde(rename = "type")]
    pub type_oid: u32,
    /// `atttypmod`: the length of a `varchar(n)` plus 4, for one; -1 for none.
    pub modifier: i32,
    /// `NOT NULL`.
    pub not_null: bool,
    /// `attgenerated`; empty if it is not.
    pub generated: String,
    /// `attidentity`; empty if it is not.
    pub numbered: String,
    /// `attcollation`.
    pub collation: u32,
    /// `attstorage`.
    pub storage: String,
    /// A digest of its default.
    pub default: Option<String>,
    /// Which transaction wrote its row of `pg_attribute` (`xmin`).
    pub version: u32,
    /// What else is in that row and is of no concern, as one text.
    pub incidental: String,
}

/// A type.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ObservedType {
    /// `pg_type.oid`.
    pub oid: u32,
    /// The name, with its schema.
    pub name: String,
    /// `typtype`.
    pub kind: String,
    /// What a domain is over; 0 for others.
    pub base: u32,
    /// What an array is of; 0 for others.
    pub element: u32,
    /// The labels of an enum with the oid of each, in their order, and which transaction wrote it (`xmin`): another after it
    /// was renamed, also if that was undone. Rows that were streamed in between have the name that it had.
    pub labels: Vec<(u32, String, u32)>,
    /// The attributes of a composite type, with the type and the number of each: another after it was dropped and added again.
    pub attributes: Vec<(String, u32, i16)>,
}

impl Observed {
    /// The relation that has a name.
    pub fn table(&self, schema: &str, name: &str) -> Option<&ObservedTable> {
        self.tables.iter().find(|table| table.schema == schema && table.name == name)
    }
}

/// What Postgres has could not be seen.
#[derive(Debug, Error)]
pub enum WatchError {
    /// Postgres did not answer.
    #[error("cannot look at the tables: {}", reason(.0))]
    Query(#[from] tokio_postgres::Error),
    /// It answered something else.
    #[error("cannot look at the tables: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// Looks at one database again and again, over one connection.
pub struct Watcher {
    client: Client,
    sql: String,
    schemas: Vec<String>,
    names: Vec<String>,
    publication: String,
    sightings: Sightings<String, String>,
}

impl Watcher {
    /// One that looks at the tables of a definition.
    ///
    /// # Errors
    /// When Postgres does not say which version it is.
    pub async fn new(
        client: Client,
        names: &Names,
        tables: &[TableName],
    ) -> Result<Watcher, WatchError> {
        let version = server_version(&client).await?;
        let own = TableName { schema: names.schema.clone(), name: "client".to_owned() };
        let tables: Vec<&TableName> = tables.iter().chain([&own]).collect();
        Ok(Watcher {
            client,
            sql: look_sql(version),
            schemas: tables.iter().map(|table| table.schema.clone()).collect(),
            names: tables.iter().map(|table| table.name.clone()).collect(),
            publication: names.publication.clone(),
            sightings: Sightings::default(),
        })
    }

    /// What is there, if it may be something else than at the last call that returned it.
    ///
    /// # Errors
    /// When Postgres does not answer, or something else.
    pub async fn look_again(&mut self) -> Result<Option<Observed>, WatchError> {
        let sql = "SELECT pg_current_snapshot()::text";
        let running: String = self.client.query_one(sql, &[]).await?.get(0);
        if !self.sightings.may_differ(&running) {
            return Ok(None);
        }
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&self.schemas, &self.names, &self.publication];
        let seen: String = self.client.query_one(&self.sql, &parameters).await?.get(0);
        let news = self.sightings.saw(running, seen);
        Ok(news.map(|seen| serde_json::from_str(seen)).transpose()?)
    }

    /// What is there.
    ///
    /// # Errors
    /// When Postgres does not answer, or something else.
    pub async fn look(&mut self) -> Result<Observed, WatchError> {
        self.sightings.forget();
        // Without anything to compare with there is always an answer.
        self.look_again().await.map(Option::unwrap_or_default)
    }

    /// What is there, and what the catalog says of `tables`, both as of one moment. If they were not, a table could be judged
    /// by what it was between two looks that see the same, and nothing would tell that it is to be judged again.
    ///
    /// # Errors
    /// When Postgres does not answer, or something else. Then the connection is of no use any more.
    pub async fn look_with_catalog(
        &mut self,
        tables: &[TableName],
    ) -> Result<(Observed, Catalog), WatchError> {
        self.client.batch_execute(BEGIN).await?;
        let observed = self.look().await?;
        let catalog = read_in_transaction(&self.client, tables).await?;
        self.client.batch_execute("COMMIT").await?;
        Ok((observed, catalog))
    }

    /// The connection, for whoever has more to ask.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// The query, in a form that a server of this version knows.
fn look_sql(version: i32) -> String {
    // A schema can be published since 15.
    let schema = |column: &str| {
        if version >= 150_000 {
            format!(
                "(SELECT s.{column} FROM pg_publication_namespace s \
                  WHERE s.pnpubid = p.oid AND s.pnnspid = above.relnamespace)"
            )
        } else {
            "NULL".to_owned()
        }
    };
    let (schema_oid, schema_version) = (schema("oid"), schema("xmin"));
    let others = if version >= 150_000 {
        "coalesce((SELECT json_agg(o.pubname || ' ' || concat_ws(' ', to_jsonb(o) ->> 'pubgencols', r.lists) ORDER BY o.oid)
           FROM pg_publication o CROSS JOIN LATERAL (
             SELECT count(*) > 0 AS named, string_agg(coalesce(r.prattrs::text, 'all'), ', ' ORDER BY r.prrelid) AS lists
             FROM pg_publication_rel r WHERE r.prpubid = o.oid
               AND (r.prrelid = c.rel OR r.prrelid IN (SELECT part.oid FROM part WHERE part.root = c.rel))) r
           WHERE o.pubname <> $3 AND o.pubname NOT LIKE 'rowtide\\_%' AND (o.puballtables OR r.named
             OR EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = o.oid AND s.pnnspid = c.relnamespace))), '[]')"
    } else {
        "'[]'::json"
    };
    // As `pg_get_publication_tables` has it, which opens the tables: a partition is published with the table that it is a
    // partition of, and as that where the publication says so.
    let key = key_index("c.rel");
    let (above, part) = (tables_above("SELECT rel FROM c"), parts_below("SELECT rel FROM c"));
    format!(
        "
WITH RECURSIVE p AS (
  SELECT p.*, p.oid AS pub, p.xmin::text::bigint AS version FROM pg_publication p WHERE p.pubname = $3
), c AS (
  SELECT c.*, c.oid AS rel, c.xmin::text::bigint AS version, n.nspname, n.xmin::text::bigint AS schema_version,
         concat_ws(' ', n.nspowner, n.nspacl) AS schema_incidental FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN (SELECT DISTINCT * FROM unnest($1::text[], $2::text[]) AS u(schema, name)) wanted
    ON n.nspname = wanted.schema AND c.relname = wanted.name
), {above}, member AS (
  SELECT above.rel, above.oid = above.rel AS own, r.prrelid IS NOT NULL AS named, coalesce(r.oid, {schema_oid}) AS oid,
         coalesce(r.xmin, {schema_version})::text::bigint AS version,
         to_jsonb(r) ->> 'prqual' IS NOT NULL AS filtered,
         to_jsonb(r) ->> 'prattrs' IS NOT NULL AS listed
  FROM p CROSS JOIN above LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = above.oid
), published AS (
  SELECT DISTINCT ON (c.rel) c.rel, m.own AND m.named AS named, m.oid, m.version, m.filtered, m.listed
  FROM p CROSS JOIN c JOIN member m ON m.rel = c.rel
  WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.rel >= 16384
    AND (p.puballtables OR m.oid IS NOT NULL)
    AND NOT (p.pubviaroot AND c.relispartition AND (p.puballtables OR EXISTS (SELECT FROM member a
      WHERE a.rel = c.rel AND NOT a.own AND a.oid IS NOT NULL)))
  ORDER BY c.rel, m.own DESC, m.named DESC, m.oid
), {part}, t AS (
  SELECT a.atttypid AS oid FROM c JOIN pg_attribute a ON a.attrelid = c.rel AND a.attnum > 0
  WHERE NOT a.attisdropped
  UNION
  SELECT part.oid FROM t JOIN pg_type of ON of.oid = t.oid
  CROSS JOIN LATERAL (
    SELECT of.typbasetype UNION ALL SELECT of.typelem
    UNION ALL SELECT a.atttypid FROM pg_attribute a
    WHERE of.typtype = 'c' AND a.attrelid = of.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE of.oid IN (r.rngtypid, r.rngmultitypid)
  ) AS part(oid) WHERE part.oid <> 0
)
SELECT json_build_object(
  'publication', (SELECT json_build_object('oid', pub::bigint, 'version', version,
     'insert', pubinsert, 'update', pubupdate, 'delete', pubdelete, 'truncate', pubtruncate,
     'via_root', pubviaroot, 'generated', to_jsonb(p) ->> 'pubgencols') FROM p),
  'tables', coalesce((SELECT json_agg(json_build_object(
     'schema', c.nspname, 'name', c.relname, 'oid', c.rel::bigint, 'version', c.version,
     'name_version', coalesce((SELECT y.xmin::text::bigint FROM pg_type y WHERE y.oid = c.reltype), 0),
     'schema_version', c.schema_version, 'schema_incidental', c.schema_incidental,
     'file', c.relfilenode::bigint, 'incidental', concat_ws(' ', c.reltablespace, c.relowner, c.relhastriggers, c.relhasrules,
        c.relhassubclass, c.relchecks, c.relnatts, c.reltoastrelid, c.relam, c.relhasindex, c.reloptions, c.relacl),
     'kind', c.relkind, 'persistence', c.relpersistence, 'identity', c.relreplident,
     'identity_columns', coalesce((SELECT to_json(i.indkey::smallint[]) FROM pg_index i
        WHERE i.indrelid = c.rel AND i.indisreplident), '[]'),
     'key', coalesce((SELECT to_json(i.indkey::smallint[]) FROM pg_index i
        WHERE i.indexrelid = {key}), '[]'),
     'row_security', c.relrowsecurity, 'row_security_forced', c.relforcerowsecurity,
     'row_security_concerns', NOT EXISTS (SELECT 1 FROM pg_roles r WHERE r.rolname = current_user
        AND (r.rolsuper OR r.rolbypassrls)) AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE')),
     'row_security_active', row_security_active(c.rel),
     'readable', coalesce(has_schema_privilege(c.relnamespace, 'USAGE')
        AND has_table_privilege(c.rel, 'SELECT'), false),
     'rights', json_build_object('insert', coalesce(has_table_privilege(c.rel, 'INSERT'), false),
        'update', coalesce(has_table_privilege(c.rel, 'UPDATE'), false),
        'delete', coalesce(has_table_privilege(c.rel, 'DELETE'), false)),
     'children', EXISTS (SELECT 1 FROM pg_inherits WHERE inhparent = c.rel) AND c.relkind <> 'p',
     'partitions', coalesce((SELECT json_agg(json_build_object('oid', l.oid::bigint, 'file', l.relfilenode::bigint,
        'kind', l.relkind::text || l.relpersistence::text, 'identity', l.relreplident, 'attached', part.attached,
        'version', l.xmin::text::bigint, 'incidental', concat_ws(' ', l.relname, l.relnamespace, l.reltablespace, l.relowner,
        l.relhastriggers, l.relhasrules, l.relrowsecurity, l.relforcerowsecurity, l.relchecks, l.relnatts, l.reltoastrelid,
        l.relam, l.relhasindex, l.reloptions, l.relacl, md5(l.relpartbound::text))) ORDER BY l.oid)
        FROM part JOIN pg_class l ON l.oid = part.oid AND l.relkind <> 'p' WHERE part.root = c.rel), '[]'),
     'membership', (SELECT json_build_object('oid', m.oid::bigint, 'version', m.version, 'named', m.named,
        'filtered', m.filtered, 'listed', m.listed) FROM published m WHERE m.rel = c.rel),
     'other_publications', {others},
     'columns', coalesce((SELECT json_agg(json_build_object(
        'number', a.attnum, 'name', a.attname, 'type', a.atttypid::bigint, 'modifier', a.atttypmod,
        'not_null', a.attnotnull, 'generated', a.attgenerated, 'numbered', a.attidentity,
        'collation', a.attcollation::bigint, 'storage', a.attstorage,
        'default', (SELECT md5(d.adbin::text) FROM pg_attrdef d
           WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum),
        'version', a.xmin::text::bigint,
        'incidental', concat_ws(' ', a.attstattarget, a.atthasmissing, a.attmissingval, a.atthasdef,
           a.attoptions, a.attacl, to_jsonb(a) ->> 'attcompression', a.attislocal, a.attinhcount)
        ) ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = c.rel AND a.attnum > 0 AND NOT a.attisdropped), '[]')
     ) ORDER BY c.nspname, c.relname) FROM c), '[]'),
  'types', coalesce((SELECT json_agg(json_build_object(
     'oid', y.oid::bigint, 'name', y.typnamespace::regnamespace || '.' || y.typname, 'kind', y.typtype,
     'base', y.typbasetype::bigint, 'element', y.typelem::bigint,
     'labels', coalesce((SELECT json_agg(json_build_array(e.oid::bigint, e.enumlabel, e.xmin::text::bigint) ORDER BY e.enumsortorder)
        FROM pg_enum e WHERE e.enumtypid = y.oid), '[]'),
     'attributes', coalesce((SELECT json_agg(json_build_array(b.attname, b.atttypid::bigint, b.attnum) ORDER BY b.attnum)
        FROM pg_attribute b WHERE b.attrelid = y.typrelid AND b.attnum > 0 AND NOT b.attisdropped), '[]')
     ) ORDER BY y.oid) FROM pg_type y WHERE y.oid IN (SELECT oid FROM t)), '[]')
)::text"
    )
}
