//! The catalog of the simulated Postgres: tables with their columns, replica identity, privileges and
//! persistence, and the publication with what it leaves out. Each state of the database has its own, because
//! the stream is decoded with the catalog as of each change. What the server may rely on is judged here once
//! more, naively, so that what it says of its tables can be held against it.

use std::collections::{BTreeMap, BTreeSet};

use rowtide_plan::catalog::{
    Catalog as Read, CatalogColumn, CatalogIndex, CatalogTable, ColumnInput, ReplicaIdentity,
    TableStreaming, Unstreamed, UnstreamedKind,
};
use rowtide_plan::value::ColumnType;

use crate::data::{COMMENT, MEMBER, NOTE, Row, TABLES, TEAM};

/// An object id.
pub type Oid = u32;

/// The transaction that set all up, before any other. Its id is told of in the rows of the catalog (`xmin`), of which there
/// are 32 bits, and no later one has those: they cross the end of these bits, and deployments are not that long.
pub const SETUP_XID: u64 = (1 << 32) - 41;

/// Rowtide's own table with a row for each client id.
pub const CLIENT: Oid = 900;

/// What a column holds: a field of [`Row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Id,
    Parent,
    Person,
    Mark,
    Hidden,
    Extra,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bigint,
    Text,
    Boolean,
}

impl Kind {
    /// `pg_type.oid`.
    pub fn oid(self) -> Oid {
        match self {
            Kind::Bigint => 20,
            Kind::Text => 25,
            Kind::Boolean => 16,
        }
    }

    fn read(self) -> (ColumnType, &'static str) {
        match self {
            Kind::Bigint => (ColumnType::Int, "bigint"),
            Kind::Text => (ColumnType::Text, "text"),
            Kind::Boolean => (ColumnType::Bool, "boolean"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// `attnum`: it stays with a column for good.
    pub number: i16,
    pub name: String,
    pub field: Field,
    pub kind: Kind,
    /// The transaction that wrote its row last.
    pub version: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    Full,
    Key,
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub oid: Oid,
    pub name: String,
    pub columns: Vec<Column>,
    pub identity: Identity,
    pub logged: bool,
    pub row_security: bool,
    /// Whether the server's role may read it.
    pub granted: bool,
    /// The transaction that wrote its row of `pg_class` last, the one that renamed it, and the one that wrote all
    /// of its rows anew.
    pub version: u64,
    pub name_version: u64,
    pub filenode: u64,
    /// The number that the next column gets, so that none is used twice.
    pub next_number: i16,
}

impl Relation {
    /// A table of the application as it should be.
    pub fn new(oid: Oid, name: &str, version: u64) -> Relation {
        let column = |name: &str, field, kind| {
            let number = field as i16 + 1;
            Column { number, name: name.to_owned(), field, kind, version }
        };
        Relation {
            oid,
            name: name.to_owned(),
            columns: vec![
                column("id", Field::Id, Kind::Bigint),
                column("parent", Field::Parent, Kind::Bigint),
                column("person", Field::Person, Kind::Text),
                column("mark", Field::Mark, Kind::Bigint),
                column("hidden", Field::Hidden, Kind::Boolean),
            ],
            identity: Identity::Full,
            logged: true,
            row_security: false,
            granted: true,
            version,
            name_version: version,
            filenode: version,
            next_number: 10,
        }
    }

    pub fn column(&self, field: Field) -> Option<&Column> {
        self.columns.iter().find(|column| column.field == field)
    }

    /// The column as the application calls it.
    pub fn usual(&self, field: Field) -> Option<&Column> {
        self.column(field).filter(|column| column.name == usual_name(field))
    }

    /// What the output function prints of a row's column.
    pub fn text(&self, row: &Row, column: &Column) -> Option<String> {
        match column.field {
            Field::Id => Some(row.id.to_string()),
            Field::Parent => row.parent.map(|parent| parent.to_string()),
            Field::Person => row.person.clone(),
            Field::Mark => Some(row.mark.to_string()),
            Field::Hidden => Some(if row.hidden { "t" } else { "f" }.to_owned()),
            Field::Extra => row.extra.clone(),
        }
    }

    fn read(&self) -> CatalogTable {
        let column = |column: &Column| {
            let (kind, type_name) = column.kind.read();
            CatalogColumn {
                name: column.name.clone(),
                toastable: kind == ColumnType::Text,
                kind,
                type_oid: column.kind.oid(),
                type_name: type_name.to_owned(),
                not_null: column.field == Field::Id,
                deterministic: true,
                labels: Vec::new(),
                input: ColumnInput { type_name: type_name.to_owned(), ..ColumnInput::default() },
            }
        };
        CatalogTable {
            oid: self.oid,
            schema: "public".to_owned(),
            name: self.name.clone(),
            columns: self.columns.iter().map(column).collect(),
            primary_key: vec!["id".to_owned()],
            indexes: vec![CatalogIndex {
                name: format!("{}_pkey", self.name),
                columns: vec!["id".to_owned()],
                of_elements: false,
            }],
            replica_identity: match self.identity {
                Identity::Full => ReplicaIdentity::Full,
                Identity::Key => ReplicaIdentity::Key,
                Identity::Nothing => ReplicaIdentity::Nothing,
            },
            row_security: self.row_security,
            insert_trigger: false,
            streaming: TableStreaming::default(),
        }
    }
}

/// What an application's table calls the column of a field.
pub fn usual_name(field: Field) -> &'static str {
    match field {
        Field::Id => "id",
        Field::Parent => "parent",
        Field::Person => "person",
        Field::Mark => "mark",
        Field::Hidden => "hidden",
        Field::Extra => "extra",
    }
}

/// Which operations a publication brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations {
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
    pub truncate: bool,
}

impl Operations {
    pub const ALL: Operations =
        Operations { insert: true, update: true, delete: true, truncate: true };
}

/// A table in a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Of the entry, `pg_publication_rel.oid`.
    pub oid: Oid,
    /// The transaction that wrote it.
    pub version: u64,
    /// Whether only rows with `NOT hidden` are in it.
    pub filtered: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    pub oid: Oid,
    pub operations: Operations,
    pub members: BTreeMap<Oid, Member>,
    /// The transaction that changed it last.
    pub version: u64,
}

/// See [`Catalog::facts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    relation: Option<Relation>,
    member: Option<Member>,
    publication: Option<(Oid, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    pub relations: BTreeMap<Oid, Relation>,
    pub publication: Option<Publication>,
    pub next_oid: Oid,
}

impl Catalog {
    pub fn new() -> Catalog {
        let oids = (1000..).zip(TABLES);
        let relations =
            oids.map(|(oid, name)| (oid, Relation::new(oid, name, SETUP_XID))).collect();
        let mut catalog = Catalog { relations, publication: None, next_oid: 2000 };
        catalog.publish_all(SETUP_XID);
        catalog
    }

    pub fn take_oid(&mut self) -> Oid {
        self.next_oid += 1;
        self.next_oid - 1
    }

    /// A publication of all tables that there are.
    pub fn publish_all(&mut self, version: u64) {
        let tables: Vec<Oid> = self.relations.keys().copied().chain([CLIENT]).collect();
        let members = tables
            .into_iter()
            .map(|table| (table, Member { oid: self.take_oid(), version, filtered: false }));
        let members = members.collect();
        let oid = self.take_oid();
        let operations = Operations::ALL;
        self.publication = Some(Publication { oid, operations, members, version });
    }

    pub fn named(&self, name: &str) -> Option<&Relation> {
        self.relations.values().find(|relation| relation.name == name)
    }

    /// One of [`TABLES`].
    pub fn table(&self, table: usize) -> Option<&Relation> {
        self.named(TABLES[table])
    }

    pub fn member(&self, oid: Oid) -> Option<Member> {
        self.publication.as_ref()?.members.get(&oid).copied()
    }

    /// What the rows that are served of a table depend on, besides rows.
    pub fn facts(&self, table: usize) -> Facts {
        let relation = self.table(table).map(|relation| Relation {
            version: 0,
            name_version: 0,
            filenode: 0,
            ..relation.clone()
        });
        let member = relation.as_ref().and_then(|relation| self.member(relation.oid));
        let publication = self.publication.as_ref().map(|p| (p.oid, p.version));
        Facts { relation, member, publication }
    }

    /// What the server reads of the tables of its definition.
    pub fn read(&self) -> Read {
        let there = || TABLES.iter().filter_map(|name| self.named(name));
        Read {
            tables: there().filter(|table| table.logged).map(Relation::read).collect(),
            unstreamed: there()
                .filter(|table| !table.logged)
                .map(|table| Unstreamed {
                    schema: "public".to_owned(),
                    name: table.name.clone(),
                    kind: UnstreamedKind::Unlogged,
                })
                .collect(),
        }
    }

    /// Whether a table, as it is now, could take part in what is served: seen by the stream and by loads, each
    /// row whole. Who may not read it waits for that.
    fn brings_all(&self, table: usize, keyed: bool) -> bool {
        let Some(relation) = self.table(table) else { return false };
        let identity = match relation.identity {
            Identity::Full => true,
            // A long text that did not change is nowhere in the stream then.
            Identity::Key => keyed && relation.columns.iter().all(|c| c.kind != Kind::Text),
            Identity::Nothing => false,
        };
        relation.logged
            && !relation.row_security
            && identity
            && self.publication.as_ref().is_some_and(|p| p.operations == Operations::ALL)
            && self.member(relation.oid).is_some_and(|member| !member.filtered)
    }

    fn kind(&self, table: usize, field: Field) -> Option<Kind> {
        self.table(table)?.usual(field).map(|column| column.kind)
    }

    /// Whether the rule of a table holds against the catalog: what it names is there, and what it compares can
    /// be compared.
    fn serves(&self, table: usize) -> bool {
        let members =
            self.brings_all(MEMBER, false) && self.kind(MEMBER, Field::Person) == Some(Kind::Text);
        let teams = self.kind(MEMBER, Field::Parent);
        let notes = |table: usize| self.kind(table, Field::Parent);
        let shown = || self.kind(NOTE, Field::Hidden) == Some(Kind::Boolean);
        match table {
            TEAM => {
                self.brings_all(TEAM, true)
                    && members
                    && teams == Some(Kind::Bigint)
                    && self.kind(MEMBER, Field::Hidden) == Some(Kind::Boolean)
            }
            MEMBER => members,
            NOTE => {
                self.brings_all(NOTE, false)
                    && shown()
                    && self.kind(NOTE, Field::Person) == Some(Kind::Text)
                    && members
                    && notes(NOTE).is_some()
                    && notes(NOTE) == teams
            }
            _ => {
                self.brings_all(COMMENT, false)
                    && notes(COMMENT) == Some(Kind::Bigint)
                    && self.brings_all(NOTE, false)
                    && shown()
                    && members
                    && notes(NOTE).is_some()
                    && notes(NOTE) == teams
            }
        }
    }

    /// Tables that cannot be served rightly, because of themselves or of those that their rules look into.
    pub fn unfit(&self) -> BTreeSet<usize> {
        (0..TABLES.len()).filter(|table| !self.serves(*table)).collect()
    }
}

/// The tables on whose rows it depends who sees those of a table, itself among them.
pub fn needs(table: usize) -> &'static [usize] {
    match table {
        TEAM => &[TEAM, MEMBER],
        MEMBER => &[MEMBER],
        NOTE => &[NOTE, MEMBER],
        _ => &[COMMENT, NOTE, MEMBER],
    }
}
