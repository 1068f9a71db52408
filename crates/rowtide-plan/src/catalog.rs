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

/// Why changes are not streamed, or not as those of this relation. Names are quoted, with their schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnstreamedKind {
    /// A view: it has no rows of its own.
    View,
    /// A materialized view: refreshing it writes no changes.
    MaterializedView,
    /// Another table inherits from it: the rows of that one are its own, too, and their changes are streamed as
    /// the other's.
    Inherited {
        /// One of those that inherit.
        child: String,
    },
    /// A partition of a table that is synced, too: its changes are streamed as that one's.
    PartitionOf {
        /// The table.
        root: String,
    },
    /// A partitioned table with a partition that is a foreign or an unlogged table: its changes are not in the WAL.
    PartitionUnstreamed {
        /// The partition.
        partition: String,
    },
    /// A foreign table: its rows are elsewhere.
    Foreign,
    /// An unlogged table: it is not in the WAL.
    Unlogged,
    /// A temporary table: it is its session's.
    Temporary,
    /// A table that the publication does not have.
    Unpublished,
    /// A table of which the publication leaves out operations, rows or columns, or streams partitions as tables by themselves.
    PublishedInPart,
    /// A table of which row-level security hides rows from the role that reads it, but not their changes.
    RowSecurity,
    /// A table of Postgres' own.
    System,
    /// A sequence, an index or a type.
    Other,
}

impl Catalog {
    /// The table `name`, as the definition calls it.
    pub fn table(&self, name: &str) -> Option<&CatalogTable> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// The table with this name in this schema.
    pub(crate) fn table_of(&self, name: &TableName) -> Option<&CatalogTable> {
        self.tables.iter().find(|table| table.schema == name.schema && table.name == name.name)
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
    /// In the order of `attnum`, without dropped columns, and without those that are never streamed
    /// ([`TableStreaming::left_out`]).
    pub columns: Vec<CatalogColumn>,
    /// The names of the columns that tell rows apart, in key order: those of the primary key, or else of a unique
    /// index over columns that are `NOT NULL`. Empty if there is neither.
    pub primary_key: Vec<String>,
    /// Valid, non-partial b-tree, hash or GIN indexes on plain columns: the columns of each, in order.
    pub indexes: Vec<CatalogIndex>,
    /// Which columns of the old row the stream brings.
    pub replica_identity: ReplicaIdentity,
    /// Whether row-level security applies to the table (`relrowsecurity`).
    pub row_security: bool,
    /// Whether a trigger of the application runs before each row of an insert: it may give the row its key.
    pub insert_trigger: bool,
    /// What is peculiar about its changes in the stream.
    pub streaming: TableStreaming,
}

/// What is peculiar about the changes of a table in the stream. Of most tables there is nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableStreaming {
    /// The columns that the stream does not bring.
    pub left_out: Vec<LeftOutColumn>,
    /// Whether it has partitions, whose rows are streamed as its own.
    pub partitioned: bool,
    /// The partitions that hold rows.
    pub partitions: Vec<CatalogPartition>,
    /// Whether it has a primary key, which is `DEFERRABLE`: rows may have the same one within a transaction.
    pub deferrable_key: bool,
    /// Why Postgres rejects the application's own updates and deletes of the table while its replica identity is
    /// `FULL` and it is published, if it does.
    pub full_rejected: Option<FullRejected>,
}

/// A partition that holds rows.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogPartition {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name, quoted, with its schema.
    pub name: String,
    /// Which columns of an old row of it the stream brings.
    pub replica_identity: ReplicaIdentity,
    /// Columns that come as null with an old row that was written before they were added: up to version 14 Postgres does not
    /// give the default that such a row has of them when it streams it as one of the root.
    pub null_in_old_rows: Vec<String>,
}

/// A column that the stream does not bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOutColumn {
    /// The column.
    pub name: String,
    /// Whether it is computed when it is read (`VIRTUAL`); otherwise it is a generated column of a server that
    /// publishes none.
    pub is_virtual: bool,
}

/// What the replica identity `FULL` cannot go with. A name is quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FullRejected {
    /// A generated column that is `VIRTUAL`.
    VirtualColumn(String),
    /// Another publication that has a list of the table's columns.
    ColumnList {
        /// The publication.
        publication: String,
    },
    /// Another publication that has the table, which has a generated column, and does not publish that.
    GeneratedColumn {
        /// The publication.
        publication: String,
        /// The column.
        column: String,
    },
}

impl TableStreaming {
    /// Whether changes are streamed alike, but for columns that rows of partitions are older than: where rows are found by one of
    /// these a table is not served.
    pub fn is_like(&self, other: &TableStreaming) -> bool {
        let without = |streaming: &TableStreaming| {
            let mut streaming = streaming.clone();
            streaming.partitions.iter_mut().for_each(|part| part.null_in_old_rows.clear());
            streaming
        };
        without(self) == without(other)
    }
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
    /// Whether it finds arrays by their elements (GIN), by any of its columns.
    pub of_elements: bool,
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
    /// Whether it is an `int8`, an array of them, or a domain over one of these.
    pub is_int8: bool,
    /// The most characters, for `varchar(n)` and `char(n)`.
    pub max_chars: Option<u32>,
    /// The expression for a value that an insert leaves out, as Postgres prints it; `None` for null.
    pub default: Option<String>,
    /// Whether Postgres numbers the rows and accepts no value (`GENERATED ALWAYS AS IDENTITY`).
    pub always_identity: bool,
    /// Whether Postgres numbers the rows that come without a value (`GENERATED … AS IDENTITY`).
    pub identity: bool,
    /// The expression that Postgres computes the value with, accepting none, for a generated column.
    pub generated: Option<String>,
}

impl ColumnInput {
    /// Whether only Postgres gives the column its values.
    pub fn is_of_postgres_alone(&self) -> bool {
        self.always_identity || self.generated.is_some()
    }
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
