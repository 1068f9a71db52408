//! Random DDL: what an application's migrations do, what an operator does by mistake, and how that is mended. Each family
//! has a file of its own; here is what they all need to know of the database as it is at the moment.

mod columns;
mod functions;
mod keys;
mod migrations;
mod operator;
mod parts;
mod types;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rowtide_plan::sql::{quote_identifier, quote_table};

use crate::schema::Table;
use crate::world::World;
use crate::writes::Column;

/// What is done to a database.
pub(crate) struct Change {
    pub(crate) what: &'static str,
    pub(crate) script: Script,
    /// What takes it back, for what keeps a table or everything from being served.
    pub(crate) mend: Option<String>,
}

/// What is sent one after the other. As in a script of `psql`, what follows is done also where something before failed: what
/// is taken away for a moment comes back.
pub(crate) struct Script(pub(crate) Vec<String>);

impl From<String> for Script {
    fn from(sql: String) -> Self {
        Self(vec![sql])
    }
}

fn change(what: &'static str, script: impl Into<Script>) -> Change {
    Change { what, script: script.into(), mend: None }
}

fn until_mended(what: &'static str, script: impl Into<Script>, mend: String) -> Change {
    Change { what, script: script.into(), mend: Some(mend) }
}

/// Some transactions.
fn transactions(all: &[String]) -> Script {
    Script(all.iter().map(|sql| transaction(sql)).collect())
}

fn transaction(sql: &str) -> String {
    format!("BEGIN; {sql}; COMMIT")
}

/// A table of the definition, and what there is to know about it when something is done to it.
pub(crate) struct Place {
    pub(crate) table: Table,
    /// Another one, or the same.
    pub(crate) other: Table,
    /// The name of the table in SQL, and those of its columns.
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) key: String,
    pub(crate) publication: String,
    pub(crate) slot: String,
    pub(crate) database: String,
    /// The server's role.
    pub(crate) role: String,
    /// Whether that is not a superuser.
    pub(crate) limited: bool,
    /// A name that nothing has.
    pub(crate) fresh: String,
    /// Columns that neither a rule nor the key names.
    pub(crate) free: Vec<Column>,
    /// Postgres' major version.
    pub(crate) version: i32,
    /// The tables of the definition, in SQL.
    pub(crate) all: String,
}

impl Place {
    /// A column that neither a rule nor the key names.
    pub(crate) fn some(&self, rng: &mut SmallRng) -> Option<String> {
        self.free.choose(rng).map(|column| quote_identifier(&column.name))
    }

    /// A relation in the table's schema.
    pub(crate) fn beside(&self, name: &str) -> String {
        quote_table(&self.table.name.schema, name)
    }

    /// Rows come into view and go out of it.
    pub(crate) fn flip(&self) -> String {
        flip(&self.table, "random() < 0.6")
    }
}

/// Rows of a table come into view and go out of it.
fn flip(table: &Table, which: &str) -> String {
    let owner = quote_identifier(&table.owner);
    format!(
        "UPDATE {} SET {owner} = CASE {owner} WHEN 'ann' THEN 'bob' ELSE 'ann' END WHERE {which}",
        table.sql()
    )
}

impl World {
    async fn place(&mut self) -> Place {
        let number = self.rng.random_range(0..self.tables.len());
        let table = self.tables[number].clone();
        let names = self.app.database.names();
        self.changes += 1;
        let parent = table.parent.as_ref().map(|(name, _)| name.clone());
        let mut free = self.columns(number).await;
        free.retain(|column| {
            let name = &column.name;
            !table.key.contains(name)
                && *name != table.owner
                && !name.to_lowercase().contains("flag")
                && parent.as_ref() != Some(name)
        });
        let key: Vec<String> = table.key.iter().map(|name| quote_identifier(name)).collect();
        Place {
            other: self.tables.choose(&mut self.rng).expect("there are tables").clone(),
            name: table.sql(),
            id: table.id(),
            owner: quote_identifier(&table.owner),
            key: key.join(", "),
            publication: quote_identifier(&names.publication),
            slot: names.slot,
            database: self.app.database.name().to_owned(),
            role: self.role.clone().unwrap_or_else(|| "postgres".to_owned()),
            limited: self.role.is_some(),
            fresh: format!("x{}", self.changes),
            free,
            version: self.version,
            all: self.tables.iter().map(Table::sql).collect::<Vec<_>>().join(", "),
            table,
        }
    }

    /// What is done next.
    pub(crate) async fn change(&mut self) -> Option<Change> {
        let at = self.place().await;
        let rng = &mut self.rng;
        match rng.random_range(0..100) {
            0..25 => columns::change(&at, rng),
            25..35 => types::change(&at, rng),
            35..44 => keys::change(&at, rng),
            44..54 => parts::change(&at, rng),
            54..70 => operator::change(&at, rng),
            70..76 => functions::change(&at, rng),
            _ => migrations::change(&at, rng),
        }
    }

    /// A column that is added, for what goes on beside it.
    pub(crate) async fn addition(&mut self) -> Change {
        let at = self.place().await;
        columns::addition(&at, &mut self.rng)
    }
}
