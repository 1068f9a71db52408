//! What there is to do, as a list of steps, each with its SQL and with the rights that it needs; and what stands in
//! the way of any of it. So a role that may do a part only is told all that it lacks before anything was done. Pure.

use rowtide_plan::catalog::TableName;
use rowtide_plan::sql::{quote_identifier, quote_literal, quote_table};

use super::found::{FULL, Found, FoundSlot, FoundTable, OwnTable, Owned};
use super::{LATER_COLUMNS, OWN_TABLES, RECORD, RECORD_COLUMNS, SetupError};
use crate::connect::Names;

/// Something to do.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What it does, as the rest of a sentence that begins with "it will" or "cannot".
    pub(crate) what: String,
    pub(crate) action: Action,
    /// What the role lacks for it.
    pub(crate) missing: Vec<Right>,
}

impl OwnTable {
    /// How it shows that it is somebody else's.
    pub(crate) fn foreign(&self) -> Option<String> {
        foreign(&self.name, self.table, &self.columns)
    }
}

/// How it is done.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// By statements, in one transaction of their own.
    Run {
        sql: String,
        locks: Locks,
    },
    MakeSlot,
    DropSlot,
}

/// Which locks a step needs on tables of the application.
#[derive(Clone, Debug)]
pub(crate) enum Locks {
    None,
    /// One that only other changes of the tables are in the way of. These are their oids.
    Shared(Vec<u32>),
    /// One that everybody who uses the table is in the way of, and that everybody would wait behind.
    Exclusive(u32),
}

/// A right that a role lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// What it is.
    pub what: String,
    /// The SQL that gives it, or who has it.
    pub repair: String,
}

/// The steps that set up the database.
///
/// # Errors
/// When it cannot be done by anybody as things are.
pub(crate) fn setup_steps(
    found: &Found,
    names: &Names,
    tables: &[TableName],
) -> Result<Vec<Step>, SetupError> {
    possible(found, names, tables)?;
    let mut steps = Vec::new();
    let schema = quote_identifier(&names.schema);
    let create = |steps: &mut Vec<Step>, what: String, sql: String, missing: Vec<Right>| {
        steps.push(Step { what, action: Action::Run { sql, locks: Locks::None }, missing });
    };
    if found.schema.is_none() {
        let what = format!("create schema {schema}");
        create(&mut steps, what, format!("CREATE SCHEMA {schema}"), create_on_database(found));
    }
    let in_schema: Vec<Right> = match &found.schema {
        Some(owned) if !owned.usable => vec![Right {
            what: format!("CREATE on schema {schema}"),
            repair: format!(
                "GRANT USAGE, CREATE ON SCHEMA {schema} TO {};",
                quote_identifier(&found.server.role)
            ),
        }],
        // Who creates the schema may create tables in it.
        _ => Vec::new(),
    };
    for (name, columns) in OWN_TABLES {
        if found.own(name).is_none() {
            let table = quote_table(&names.schema, name);
            let sql = format!("CREATE TABLE {table} ({columns})");
            create(&mut steps, format!("create table {table}"), sql, in_schema.clone());
        }
    }
    for own in &found.own {
        for (column, kind) in later_columns(&own.name, &own.columns) {
            let table = quote_table(&names.schema, &own.name);
            let sql = format!("ALTER TABLE {table} ADD COLUMN {column} {kind}");
            let what = format!("add column {column} to table {table}");
            create(&mut steps, what, sql, owner_of(&own.owned, "table", &table));
        }
    }
    let all = found.tables.iter().chain(&found.partitions);
    let identified = |table: &&FoundTable| found.to_identify.contains(&table.quoted());
    for table in all.filter(|table| table.identity != FULL).filter(identified) {
        let mut missing = owner_of(&table.owned, "table", &table.quoted());
        match found.own(RECORD) {
            Some(record) if !record.owned.usable => missing.push(Right {
                what: format!("INSERT on table {}", quote_table(&names.schema, RECORD)),
                repair: format!(
                    "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT INSERT ON {} TO {role};",
                    quote_table(&names.schema, RECORD),
                    role = quote_identifier(&found.server.role)
                ),
            }),
            Some(_) => {}
            None => missing.extend(in_schema.clone()),
        }
        steps.push(Step {
            what: format!("set the replica identity of {} to FULL", table.quoted()),
            action: Action::Run {
                sql: identity_sql(names, table),
                locks: Locks::Exclusive(table.oid),
            },
            missing,
        });
    }
    steps.extend(publication_steps(found, names, tables));
    let lost = found.slot.as_ref().map(|slot| slot.lost);
    let (slot, missing) = (&names.slot, replication(found));
    if lost == Some(true) {
        let what = format!("drop the lost replication slot `{slot}`");
        steps.push(Step { what, action: Action::DropSlot, missing: missing.clone() });
    }
    if lost != Some(false) {
        let what = format!("create replication slot `{slot}`");
        steps.push(Step { what, action: Action::MakeSlot, missing });
    }
    Ok(steps)
}

/// What nobody could do as things are.
fn possible(found: &Found, names: &Names, tables: &[TableName]) -> Result<(), SetupError> {
    let server = &found.server;
    if server.standby {
        return Err(SetupError::Standby);
    }
    if let Some(table) = found.missing(tables).first() {
        return Err(SetupError::NoTable(quote_table(&table.schema, &table.name)));
    }
    for table in &found.own {
        if let Some(what) = table.foreign() {
            let table = quote_table(&names.schema, &table.name);
            return Err(SetupError::Foreign { table, what });
        }
    }
    let slot = names.slot.clone();
    let Some(found_slot) = &found.slot else {
        let why = if server.wal_level != "logical" {
            let repair = "ALTER SYSTEM SET wal_level = logical;  -- then restart Postgres";
            (format!("wal_level is `{}`, and must be `logical`", server.wal_level), repair)
        } else if !server.free_slots {
            let repair = "drop one that nobody uses (pg_replication_slots), or raise max_replication_slots \
                          and restart Postgres";
            ("all replication slots are in use".to_owned(), repair)
        } else {
            return Ok(());
        };
        return Err(SetupError::NoSlot { slot, why: why.0, repair: why.1 });
    };
    slot_is_ours(found_slot, &slot)
}

/// The columns, with their types, that an earlier version made one of Rowtide's own tables without, and that this one, with
/// its columns, still lacks.
pub(crate) fn later_columns<'a>(
    name: &'a str,
    columns: &'a [String],
) -> impl Iterator<Item = (&'static str, &'static str)> + 'a {
    let lacking = LATER_COLUMNS.into_iter().filter(move |(table, column, _)| {
        *table == name && !columns.iter().any(|there| there == column)
    });
    lacking.map(|(_, column, kind)| (column, kind))
}

/// How it shows that what has the name of one of Rowtide's own tables is somebody else's.
pub(crate) fn foreign(name: &str, is_table: bool, columns: &[String]) -> Option<String> {
    if !is_table {
        return Some("it is no table".to_owned());
    }
    let wanted = OWN_TABLES.iter().find(|(own, _)| *own == name);
    let wanted = wanted.map_or(RECORD_COLUMNS, |(_, columns)| *columns);
    let there = |name: &&str| columns.iter().any(|column| column == name);
    let later = |column: &&str| later_columns(name, columns).any(|(later, _)| later == *column);
    let column = column_names(wanted).find(|column| !there(column) && !later(column))?;
    Some(format!("it has no column `{column}`"))
}

/// Whether a slot of our name is one that can be ours.
pub(crate) fn slot_is_ours(found: &FoundSlot, slot: &str) -> Result<(), SetupError> {
    let slot = slot.to_owned();
    match (&found.database, &found.plugin) {
        (None, _) => Err(SetupError::PhysicalSlot(slot)),
        (Some(database), _) if !found.is_here => {
            Err(SetupError::SlotOfAnother { slot, database: database.clone() })
        }
        (_, Some(plugin)) if plugin != "pgoutput" => {
            Err(SetupError::SlotOfAnotherPlugin { slot, plugin: plugin.clone() })
        }
        _ => Ok(()),
    }
}

/// The names of the columns in what stands between the parentheses of `CREATE TABLE`, a line for each.
fn column_names(columns: &str) -> impl Iterator<Item = &str> {
    let names = columns.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "PRIMARY")
}

/// Sets the replica identity, and keeps a record of what it was.
fn identity_sql(names: &Names, table: &FoundTable) -> String {
    let record = quote_table(&names.schema, RECORD);
    format!(
        "CREATE TABLE IF NOT EXISTS {record} ({RECORD_COLUMNS});
         ALTER TABLE {} REPLICA IDENTITY FULL;
         INSERT INTO {record} VALUES ({}, {}, {}) ON CONFLICT DO NOTHING",
        table.quoted(),
        quote_literal(&table.name.schema),
        quote_literal(&table.name.name),
        quote_literal(&table.identity)
    )
}

fn publication_steps(found: &Found, names: &Names, tables: &[TableName]) -> Vec<Step> {
    let own = TableName { schema: names.schema.clone(), name: "client".to_owned() };
    let mut wanted: Vec<&TableName> = tables.iter().chain([&own]).collect();
    let publication = quote_identifier(&names.publication);
    let table_of = |name: &TableName| found.tables.iter().find(|table| table.name == *name);
    let quoted = |name: &&TableName| quote_table(&name.schema, &name.name);
    // Rowtide's own table is the role's that is going to make it.
    let owner = |name: &TableName| match (table_of(name), found.own(&name.name)) {
        (Some(table), _) => owner_of(&table.owned, "table", &table.quoted()),
        (None, Some(table)) if *name == own => {
            owner_of(&table.owned, "table", &quote_table(&name.schema, &name.name))
        }
        _ => Vec::new(),
    };
    let oids = |names: &[&TableName]| {
        Locks::Shared(names.iter().filter_map(|name| Some(table_of(name)?.oid)).collect())
    };
    let Some(there) = &found.publication else {
        let list: Vec<String> = wanted.iter().map(quoted).collect();
        let list = list.join(", ");
        let options: Vec<&str> = found.options.iter().map(|option| option.set).collect();
        let options = options.join(", ");
        let sql = format!("CREATE PUBLICATION {publication} FOR TABLE {list} WITH ({options})");
        let mut missing = create_on_database(found);
        missing.extend(wanted.iter().flat_map(|name| owner(name)));
        return vec![Step {
            what: format!("create publication {publication} for {list}"),
            action: Action::Run { sql, locks: oids(&wanted) },
            missing,
        }];
    };
    let mut steps = Vec::new();
    let ours = owner_of(&there.owned, "publication", &publication);
    if !there.complete {
        let sql = format!(
            "ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate')"
        );
        steps.push(Step {
            what: format!("make publication {publication} publish all operations"),
            action: Action::Run { sql, locks: Locks::None },
            missing: ours.clone(),
        });
    }
    for option in &found.options {
        let set = option.set;
        let sql = format!("ALTER PUBLICATION {publication} SET ({set})");
        steps.push(Step {
            what: format!("alter publication {publication}: {set}"),
            action: Action::Run { sql, locks: Locks::None },
            missing: ours.clone(),
        });
    }
    wanted.retain(|table| !there.all && !there.tables.contains(table));
    for table in wanted {
        let name = quoted(&table);
        let sql = format!("ALTER PUBLICATION {publication} ADD TABLE {name}");
        let mut missing = ours.clone();
        missing.extend(owner(table));
        steps.push(Step {
            what: format!("add {name} to publication {publication}"),
            action: Action::Run { sql, locks: oids(&[table]) },
            missing,
        });
    }
    steps
}

fn create_on_database(found: &Found) -> Vec<Right> {
    if found.server.create {
        return Vec::new();
    }
    let database = quote_identifier(&found.server.database);
    let role = quote_identifier(&found.server.role);
    let repair = format!("GRANT CREATE ON DATABASE {database} TO {role};");
    vec![Right { what: format!("CREATE on database {database}"), repair }]
}

pub(crate) fn replication(found: &Found) -> Vec<Right> {
    if found.server.replication {
        return Vec::new();
    }
    let repair = format!("ALTER ROLE {} REPLICATION;", quote_identifier(&found.server.role));
    vec![Right { what: "REPLICATION".to_owned(), repair }]
}

pub(crate) fn owner_of(owned: &Owned, kind: &str, name: &str) -> Vec<Right> {
    if owned.ours {
        return Vec::new();
    }
    let repair = format!("{} has it, or a superuser", quote_identifier(&owned.owner));
    vec![Right { what: format!("ownership of {kind} {name}"), repair }]
}
