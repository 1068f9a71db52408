//! The catalog of the tables in the definition: columns, types, keys, indexes and replica identity.
//! `rowtide-postgres` reads it, and this crate checks it. It is plain data, so that a plan can be compiled
//! and tested without a database.

use crate::value::ColumnType;

/// A table by its schema and name, as Postgres has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// `public` where a definition or a rule names none.
    pub schema: String,
    /// Without quotes.
    pub name: String,
}

/// The tables that the definition names and that exist, in the order of the definition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// One entry for each table.
    pub tables: Vec<CatalogTable>,
    /// Relations that the definition names and whose changes cannot be streamed.
    pub unstreamed: Vec<Unstreamed>,
}

/// A relation whose changes Postgres does not stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unstreamed {
    /// The schema, unquoted.
    pub schema: String,
    /// The name, unquoted.
    pub name: String,
    /// What it is.
    pub kind: UnstreamedKind,
}

/// Why changes are not streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnstreamedKind {
    /// A view: it has no rows of its own.
    View,
    /// A materialized view: refreshing it writes no changes.
    MaterializedView,
    /// A partitioned table: its rows are in its partitions.
    Partitioned,
    /// A foreign table: its rows are elsewhere.
    Foreign,
    /// An unlogged table: it is not in the WAL.
    Unlogged,
    /// A temporary table: it is its session's.
    Temporary,
    /// A table that the publication does not have.
    Unpublished,
    /// A table of which the publication leaves out operations, rows or columns.
    PublishedInPart,
    /// A table of which row-level security hides rows from the role that reads it, but not their changes.
    RowSecurity,
    /// A sequence, an index or a type.
    Other,
}

impl Catalog {
    /// The table `name`, as the definition calls it.
    pub fn table(&self, name: &str) -> Option<&CatalogTable> {
        self.tables.iter().find(|table| table.name == name)
    }
}

/// A table as Postgres describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogTable {
    /// `pg_class.oid`: what the stream's relation messages name.
    pub oid: u32,
    /// The schema, unquoted.
    pub schema: String,
    /// The name, unquoted.
    pub name: String,
    /// In the order of `attnum`, without dropped and generated columns, which are not published.
    pub columns: Vec<CatalogColumn>,
    /// The names of the primary key's columns in key order; empty if there is none.
    pub primary_key: Vec<String>,
    /// Valid, non-partial b-tree or hash indexes on plain columns: the columns of each, in order.
    pub indexes: Vec<CatalogIndex>,
    /// Which columns of the old row the stream brings.
    pub replica_identity: ReplicaIdentity,
    /// Whether row-level security applies to the table (`relrowsecurity`).
    pub row_security: bool,
}

impl CatalogTable {
    /// Whether what is written to `other` is read, judged and written as it is for this table: it is the same table, with the
    /// same key and columns, as they are named and with all that they accept.
    pub fn is_written_as(&self, other: &CatalogTable) -> bool {
        let of = |table: &CatalogTable| (table.oid, table.schema.clone(), table.name.clone());
        of(self) == of(other)
            && self.primary_key == other.primary_key
            && self.columns == other.columns
    }

    /// The position of column `name` in [`CatalogTable::columns`].
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

/// An index that can serve an anchor.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogIndex {
    /// The index's name.
    pub name: String,
    /// The columns, first the leading one.
    pub columns: Vec<String>,
}

/// A column as Postgres describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogColumn {
    /// The name, unquoted.
    pub name: String,
    /// What the type means to Rowtide.
    pub kind: ColumnType,
    /// `pg_type.oid`, as the stream's relation messages give it.
    pub type_oid: u32,
    /// The type as `format_type` prints it, for people; without the schema `public`.
    pub type_name: String,
    /// Whether the column is `NOT NULL`.
    pub not_null: bool,
    /// Whether a value can be stored out of line (TOAST), so that an update may not bring it.
    pub toastable: bool,
    /// Whether equal means the same bytes: false for non-deterministic collations.
    pub deterministic: bool,
    /// The labels of an enum type, empty for others.
    pub labels: Vec<String>,
    /// What the column accepts.
    pub input: ColumnInput,
}

/// What a column accepts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ColumnInput {
    /// The type without its modifier, with its schema, for casts: one to `varchar(10)` would cut a longer text,
    /// where an assignment rejects it.
    pub type_name: String,
    /// The most characters, for `varchar(n)` and `char(n)`.
    pub max_chars: Option<u32>,
    /// The expression for a value that an insert leaves out, as Postgres prints it; `None` for null.
    pub default: Option<String>,
    /// Whether Postgres numbers the rows and accepts no value (`GENERATED ALWAYS AS IDENTITY`).
    pub always_identity: bool,
}

/// `pg_class.relreplident`, resolved to columns.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplicaIdentity {
    /// The primary key's columns (`DEFAULT`).
    Key,
    /// The whole row (`FULL`).
    Full,
    /// The columns of a unique index.
    Index(Vec<String>),
    /// Nothing: updates and deletes cannot be published.
    Nothing,
}
