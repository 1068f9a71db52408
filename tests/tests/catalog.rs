//! The catalog as it is read from a real database: every kind of type, keys, indexes, identities, and
//! what is no table that can be published.

use rowtide_plan::catalog::{Catalog, CatalogTable, ReplicaIdentity, TableName, UnstreamedKind};
use rowtide_plan::value::ColumnType;
use rowtide_postgres::catalog::read_catalog;
use rowtide_tests::Database;

fn public(name: &str) -> TableName {
    TableName { schema: "public".to_owned(), name: name.to_owned() }
}

async fn read(database: &Database, names: &[TableName]) -> Catalog {
    read_catalog(&database.connect().await, names).await.unwrap()
}

/// The catalog of the table `t` that `sql` makes.
async fn table(sql: &str) -> CatalogTable {
    let database = Database::with(sql).await;
    read(&database, &[public("t")]).await.tables.remove(0)
}

#[tokio::test]
async fn every_type_is_what_its_base_type_is() {
    use ColumnType::*;
    let array = |element| Array(Box::new(element));
    let expected = [
        ("bool", Bool),
        ("int2", Int),
        ("int4", Int),
        ("int8", Int),
        ("oid", Int),
        ("float4", Float4),
        ("float8", Float8),
        ("numeric(10,2)", Numeric),
        ("text", Text),
        ("varchar(9)", Text),
        ("name", Text),
        ("char(4)", Char),
        ("uuid", Uuid),
        ("mood", Enum),
        ("json", Json),
        ("jsonb", Json),
        ("bytea", Bytea),
        ("timestamptz", TimestampTz),
        ("timestamp(3)", Timestamp),
        ("date", Date),
        ("time", Time),
        ("int4[]", array(Int)),
        ("text[][]", array(Text)),
        ("mood[]", array(Enum)),
        ("timestamptz[]", array(TimestampTz)),
        ("positive", Int),
        ("small", Int),
        ("small[]", array(Int)),
        ("tags", array(Text)),
        ("interval", Other),
        ("timetz", Other),
        ("inet", Other),
        ("money", Other),
        ("bit(3)", Other),
        ("xml", Other),
        ("tsvector", Other),
        ("int4range", Other),
        ("point", Other),
        ("\"char\"", Other),
        ("regclass", Other),
        ("pg_lsn", Other),
        ("pair", Other),
        ("interval[]", array(Other)),
        // Neither is written in braces with commas.
        ("box[]", Other),
        ("int2vector", Other),
        // Named like a type of Postgres', but not it.
        ("other.uuid", Other),
    ];
    let types = "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
                 CREATE DOMAIN positive AS int4 CHECK (value > 0);
                 CREATE DOMAIN small AS positive CHECK (value < 100);
                 CREATE DOMAIN tags AS text[];
                 CREATE TYPE pair AS (a int, b int);
                 CREATE SCHEMA other; CREATE TYPE other.uuid AS (a int);";
    let columns: Vec<String> =
        expected.iter().enumerate().map(|(at, (kind, _))| format!("c{at} {kind}")).collect();
    let table = table(&format!("{types} CREATE TABLE t ({})", columns.join(", "))).await;
    assert_eq!(table.columns.len(), expected.len());
    for (column, (name, kind)) in table.columns.iter().zip(&expected) {
        assert_eq!(&column.kind, kind, "{name}");
    }
    let mood = table.columns.iter().find(|column| column.type_name == "mood").unwrap();
    assert_eq!(mood.labels, ["sad", "ok", "happy"]);
    assert_eq!(table.columns[7].type_name, "numeric(10,2)");
}

#[tokio::test]
async fn columns_are_in_order_and_those_that_are_not_published_are_left_out() {
    let database = Database::create().await;
    let published = database.is_at_least(18, "generated columns are published").await;
    let table = table(
        "CREATE TABLE t (
           \"Id\" uuid PRIMARY KEY, gone int, plain varchar(9) NOT NULL,
           double int GENERATED ALWAYS AS (1 + 1) STORED, \"with \"\"quotes\"\"\" text, number int8
         );
         ALTER TABLE t DROP COLUMN gone; ALTER TABLE t ADD COLUMN added jsonb",
    )
    .await;
    let columns: Vec<(&str, bool, bool)> = table
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.not_null, column.toastable))
        .filter(|(name, ..)| !published || *name != "double")
        .collect();
    assert_eq!(table.column("double").is_some(), published);
    assert_eq!(table.streaming.left_out.is_empty(), published);
    assert_eq!(
        columns,
        [
            ("Id", true, false),
            ("plain", true, true),
            ("with \"quotes\"", false, true),
            ("number", false, false),
            ("added", false, true),
        ]
    );
}

#[tokio::test]
async fn keys_are_in_their_own_order_without_what_their_index_carries_along() {
    let table = table(
        "CREATE TABLE t (a int, b int, c int, PRIMARY KEY (c, a) INCLUDE (b));
         CREATE UNIQUE INDEX u ON t (b) INCLUDE (a)",
    )
    .await;
    assert_eq!(table.primary_key, ["c", "a"]);
    let indexes: Vec<(&str, &[String])> =
        table.indexes.iter().map(|index| (index.name.as_str(), &index.columns[..])).collect();
    assert_eq!(
        indexes,
        [("t_pkey", &["c".to_owned(), "a".to_owned()][..]), ("u", &["b".to_owned()])]
    );
}

#[tokio::test]
async fn only_indexes_that_can_find_any_value_count() {
    let table = table(
        "CREATE TABLE t (a text, b text, tags text[], made jsonb);
         CREATE INDEX tree ON t (a, b); CREATE INDEX hashed ON t USING hash (b);
         CREATE INDEX part ON t (a) WHERE b IS NULL; CREATE INDEX lowered ON t (lower(a));
         CREATE INDEX inverted ON t USING gin (tags);
         CREATE INDEX documents ON t USING gin (made)",
    )
    .await;
    let indexes = table.indexes.iter().map(|index| (index.name.as_str(), index.of_elements));
    let indexes: Vec<(&str, bool)> = indexes.collect();
    assert_eq!(indexes, [("hashed", false), ("inverted", true), ("tree", false)]);
    assert_eq!(table.primary_key, [""; 0]);
}

#[tokio::test]
async fn a_replica_identity_is_read_as_columns() {
    let base = "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b int NOT NULL);
                CREATE UNIQUE INDEX u ON t (b, a);";
    for (identity, expected) in [
        ("DEFAULT", ReplicaIdentity::Key),
        ("FULL", ReplicaIdentity::Full),
        ("NOTHING", ReplicaIdentity::Nothing),
        ("USING INDEX u", ReplicaIdentity::Index(vec!["b".to_owned(), "a".to_owned()])),
    ] {
        let table = table(&format!("{base} ALTER TABLE t REPLICA IDENTITY {identity}")).await;
        assert_eq!(table.replica_identity, expected, "{identity}");
    }
}

#[tokio::test]
async fn text_whose_equal_is_not_the_same_bytes_is_known() {
    let table = table(
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE DOMAIN email AS text COLLATE loose;
         CREATE TABLE t (a text, b text COLLATE loose, c email, d text COLLATE \"C\", e int)",
    )
    .await;
    let deterministic: Vec<bool> =
        table.columns.iter().map(|column| column.deterministic).collect();
    assert_eq!(deterministic, [true, false, false, true, true]);
}

#[tokio::test]
async fn tables_come_in_the_order_they_were_asked_for_and_are_told_apart_by_schema() {
    let database = Database::with(
        "CREATE TABLE t (a int); CREATE SCHEMA other; CREATE TABLE other.t (b int);
         CREATE TABLE \"T\" (c int); ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    )
    .await;
    let other = TableName { schema: "other".to_owned(), name: "t".to_owned() };
    let catalog = read(&database, &[public("T"), public("none"), other, public("t")]).await;
    let found: Vec<(&str, &str, &str, bool)> = catalog
        .tables
        .iter()
        .map(|table| {
            (&table.schema[..], &table.name[..], &table.columns[0].name[..], table.row_security)
        })
        .collect();
    assert_eq!(
        found,
        [("public", "T", "c", false), ("other", "t", "b", false), ("public", "t", "a", true)]
    );
}

#[tokio::test]
async fn what_postgres_does_not_stream_as_a_table_is_told_by_what_it_is() {
    let database = Database::with(
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (9);
         CREATE TABLE mother (id int PRIMARY KEY); CREATE TABLE kid () INHERITS (mother);
         CREATE TABLE mixed (id int NOT NULL) PARTITION BY RANGE (id);
         CREATE UNLOGGED TABLE lost PARTITION OF mixed FOR VALUES FROM (0) TO (9);
         CREATE VIEW looks AS SELECT 1 AS id; CREATE MATERIALIZED VIEW stored AS SELECT 1 AS id;
         CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY); CREATE SEQUENCE counts;
         CREATE FOREIGN DATA WRAPPER wrapper; CREATE SERVER elsewhere FOREIGN DATA WRAPPER wrapper;
         CREATE FOREIGN TABLE afar (id int) SERVER elsewhere;
         CREATE TABLE plain (id int PRIMARY KEY)",
    )
    .await;
    let expected = [
        ("part", UnstreamedKind::PartitionOf { root: "public.parts".to_owned() }),
        ("mother", UnstreamedKind::Inherited { child: "public.kid".to_owned() }),
        (
            "mixed",
            UnstreamedKind::PartitionUnstreamed { partition: "\"public\".\"lost\"".to_owned() },
        ),
        ("looks", UnstreamedKind::View),
        ("stored", UnstreamedKind::MaterializedView),
        ("unlogged", UnstreamedKind::Unlogged),
        ("counts", UnstreamedKind::Other),
        ("afar", UnstreamedKind::Foreign),
    ];
    let mut names: Vec<TableName> = expected.iter().map(|(name, _)| public(name)).collect();
    names.extend(["none", "plain", "parts", "kid"].map(public));
    let system = TableName { schema: "pg_catalog".to_owned(), name: "pg_class".to_owned() };
    names.push(system);
    let catalog = read(&database, &names).await;
    let tables: Vec<&str> = catalog.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(tables, ["plain", "parts", "kid"]);
    let mut found: Vec<(&str, UnstreamedKind)> =
        catalog.unstreamed.iter().map(|other| (other.name.as_str(), other.kind.clone())).collect();
    assert_eq!(found.pop(), Some(("pg_class", UnstreamedKind::System)));
    assert_eq!(found, expected);
}
