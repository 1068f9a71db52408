//! The tables of the simulated application, the rules for reading them, and what the rules select,
//! evaluated naively on whole tables: no branches, no topics, no links.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rowtide_plan::catalog::{
    Catalog, CatalogColumn, CatalogIndex, CatalogTable, ColumnInput, ReplicaIdentity,
};
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::encode::{Datum, RowEncoder};
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::Row as Encoded;
use rowtide_plan::value::ColumnType;
use serde_json::{Map, Value, json};

pub const USERS: [&str; 3] = ["ann", "bob", "cat"];
pub const TABLES: [&str; 4] = ["team", "member", "note", "comment"];
pub const MEMBER: usize = 1;
pub const NOTE: usize = 2;
pub const COMMENT: usize = 3;

/// A comment is two links away from who may read it: over its note's team and their membership.
const DEFINITION: &str = "
    [tables.team]
    visible = 'id IN (SELECT parent FROM member WHERE person = auth.user_id)'
    [tables.member]
    visible = 'person = auth.user_id'
    [tables.note]
    visible = '''NOT hidden AND (person = auth.user_id
                 OR parent IN (SELECT parent FROM member WHERE person = auth.user_id))'''
    [tables.comment]
    visible = '''parent IN (SELECT id FROM note WHERE NOT hidden AND parent IN
                 (SELECT parent FROM member WHERE person = auth.user_id))'''
";

/// A row; all tables have the same columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: i64,
    /// The team of a member or a note, the note of a comment.
    pub parent: Option<i64>,
    pub person: Option<String>,
    /// Who wrote it last: the tag of a mutation, or 0.
    pub mark: u64,
    pub hidden: bool,
}

const COLUMNS: [&str; 5] = ["id", "parent", "person", "mark", "hidden"];

/// A row in the forms in which it is needed, each made once.
#[derive(Debug)]
pub struct Stored {
    pub row: Row,
    pub json: Map<String, Value>,
    pub encoded: Arc<Encoded>,
}

/// A row by its table and its id.
pub type Place = (usize, i64);

/// What a transaction does to rows: `None` is a delete.
pub type Writes = BTreeMap<Place, Option<Arc<Stored>>>;

/// The rows of all tables.
#[derive(Clone, Debug, Default)]
pub struct Tables(pub BTreeMap<Place, Arc<Stored>>);

impl Tables {
    pub fn get(&self, place: Place) -> Option<&Row> {
        self.0.get(&place).map(|stored| &stored.row)
    }

    pub fn write(&mut self, writes: &Writes) {
        for (place, row) in writes {
            match row {
                Some(row) => drop(self.0.insert(*place, Arc::clone(row))),
                None => drop(self.0.remove(place)),
            }
        }
    }

    pub fn truncate(&mut self, table: usize) {
        self.0.retain(|(of, _), _| *of != table);
    }

    fn of(&self, table: usize) -> impl Iterator<Item = &Arc<Stored>> {
        self.0.range((table, i64::MIN)..=(table, i64::MAX)).map(|(_, row)| row)
    }

    fn teams(&self, user: &str) -> BTreeSet<i64> {
        let theirs = self.of(MEMBER).filter(|row| row.row.person.as_deref() == Some(user));
        theirs.filter_map(|row| row.row.parent).collect()
    }

    /// The rows that the rules select for `user`.
    pub fn visible(&self, user: &str) -> BTreeMap<Place, &Map<String, Value>> {
        let teams = self.teams(user);
        let of_teams = |parent: Option<i64>| parent.is_some_and(|parent| teams.contains(&parent));
        let theirs = |row: &Row| row.person.as_deref() == Some(user);
        let readable = self.of(NOTE).map(|row| &row.row);
        let readable = readable.filter(|note| !note.hidden && of_teams(note.parent));
        let notes: BTreeSet<i64> = readable.map(|note| note.id).collect();
        let selects = |(place, row): &(&Place, &Arc<Stored>)| {
            let row = &row.row;
            match place.0 {
                MEMBER => theirs(row),
                NOTE => !row.hidden && (theirs(row) || of_teams(row.parent)),
                COMMENT => row.parent.is_some_and(|note| notes.contains(&note)),
                _ => teams.contains(&row.id),
            }
        };
        self.0.iter().filter(selects).map(|(place, row)| (*place, &row.json)).collect()
    }
}

/// The plan of the definition, and how its rows are encoded.
pub struct Schema {
    pub plan: Arc<Plan>,
    encoders: Vec<(TableId, RowEncoder)>,
}

impl Schema {
    pub fn new() -> Schema {
        let definition = Definition::parse("rowtide.toml", DEFINITION).unwrap();
        let plan = Arc::new(compile(&definition, &catalog()).unwrap());
        let encoder = |name: &&str| {
            let table = plan.table_id("public", name).unwrap();
            (table, RowEncoder::new(&plan, table, &COLUMNS).unwrap())
        };
        let encoders = TABLES.iter().map(encoder).collect();
        Schema { plan, encoders }
    }

    pub fn table_id(&self, table: usize) -> TableId {
        self.encoders[table].0
    }

    /// The tables with their keys, as `connected` tells them.
    pub fn tables_json() -> String {
        let keys = TABLES.iter().map(|table| ((*table).to_owned(), json!({ "key": ["id"] })));
        Value::Object(keys.collect()).to_string()
    }

    pub fn store(&self, table: usize, row: Row) -> Arc<Stored> {
        let (id, mark) = (row.id.to_string(), row.mark.to_string());
        let parent = row.parent.map(|parent| parent.to_string());
        fn datum(text: Option<&str>) -> Datum<'_> {
            text.map_or(Datum::Null, |text| Datum::Text(text.as_bytes()))
        }
        let datums = [
            datum(Some(&id)),
            datum(parent.as_deref()),
            datum(row.person.as_deref()),
            datum(Some(&mark)),
            datum(Some(if row.hidden { "t" } else { "f" })),
        ];
        let encoded = Arc::new(self.encoders[table].1.row(&datums).unwrap());
        let Row { id, parent, person, mark, hidden } = &row;
        let json = json!({
            "id": id, "parent": parent, "person": person, "mark": mark, "hidden": hidden
        });
        let Value::Object(json) = json else { unreachable!("an object was made") };
        Arc::new(Stored { row, json, encoded })
    }
}

fn catalog() -> Catalog {
    let column = |name: &str, kind: ColumnType, type_oid, type_name: &str| CatalogColumn {
        name: name.to_owned(),
        toastable: kind == ColumnType::Text,
        kind,
        type_oid,
        type_name: type_name.to_owned(),
        not_null: name == "id",
        deterministic: true,
        labels: Vec::new(),
        input: ColumnInput::default(),
    };
    let table = |(oid, name): (usize, &&str)| CatalogTable {
        oid: oid as u32,
        schema: "public".to_owned(),
        name: (*name).to_owned(),
        columns: vec![
            column("id", ColumnType::Int, 20, "bigint"),
            column("parent", ColumnType::Int, 20, "bigint"),
            column("person", ColumnType::Text, 25, "text"),
            column("mark", ColumnType::Int, 20, "bigint"),
            column("hidden", ColumnType::Bool, 16, "boolean"),
        ],
        primary_key: vec!["id".to_owned()],
        indexes: vec![CatalogIndex {
            name: format!("{name}_pkey"),
            columns: vec!["id".to_owned()],
        }],
        replica_identity: ReplicaIdentity::Full,
        row_security: false,
    };
    let tables = TABLES.iter().enumerate().map(table).collect();
    Catalog { tables, ..Catalog::default() }
}
