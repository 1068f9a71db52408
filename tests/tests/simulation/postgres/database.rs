//! Everything in the database as of one commit, and what a transaction does to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rowtide_feed::Acknowledgement;
use rowtide_protocol::Lsn;
use serde_json::{Map, Value};

use super::catalog::{Catalog, Identity, Oid, Relation, needs};
use super::ddl::Ddl;
use crate::data::{COMMENT, MEMBER, NOTE, Row, Stored, TABLES, TEAM, open_teams};

/// What is known of a client id.
#[derive(Clone, Debug, Default)]
pub struct ClientRow {
    pub user: String,
    pub last: u64,
    pub refused: BTreeMap<u64, String>,
    /// The mutations of older clients, by name.
    pub names: BTreeMap<Arc<str>, Named>,
}

/// A mutation of an older client.
#[derive(Clone, Debug)]
pub struct Named {
    pub number: u64,
    /// The tab that sent it.
    pub session: Arc<str>,
    /// Whether that is known to have heard what became of it.
    pub told: bool,
}

/// A row by its table and its id.
pub type Place = (Oid, i64);

/// What a transaction does to rows: `None` is a delete.
pub type Writes = BTreeMap<Place, Option<Arc<Stored>>>;

/// What one transaction does, in this order.
#[derive(Debug, Default)]
pub struct Work {
    pub ddl: Vec<Ddl>,
    pub truncated: Vec<Oid>,
    pub writes: Writes,
    /// A client's row after it, and what the stream tells of it.
    pub client: Option<(String, Arc<ClientRow>)>,
    pub acknowledgement: Option<Acknowledgement>,
    pub applied: Option<u64>,
    pub refused: Vec<u64>,
}

#[derive(Clone, Debug)]
pub struct Database {
    pub catalog: Arc<Catalog>,
    pub rows: BTreeMap<Place, Arc<Stored>>,
    pub clients: BTreeMap<String, Arc<ClientRow>>,
}

impl Default for Database {
    fn default() -> Database {
        let catalog = Arc::new(Catalog::new());
        Database { catalog, rows: BTreeMap::new(), clients: BTreeMap::new() }
    }
}

/// The database with what clients may hold against it.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub database: Database,
    /// The tags of the mutations that were applied.
    pub applied: BTreeSet<u64>,
    /// The tags of the mutations that were refused.
    pub refused: BTreeSet<u64>,
    /// Where anything was last changed that the rows of each of [`TABLES`] depend on, besides rows.
    pub altered: [Lsn; TABLES.len()],
}

impl Database {
    /// Does what a transaction does.
    pub fn apply(&mut self, work: &Work, xid: u64) {
        work.ddl.iter().for_each(|ddl| self.alter(ddl, xid));
        for oid in &work.truncated {
            Arc::make_mut(&mut self.catalog).truncate(*oid, xid);
        }
        self.rows.retain(|(table, _), _| !work.truncated.contains(table));
        for (place, row) in &work.writes {
            match row {
                Some(row) => drop(self.rows.insert(*place, Arc::clone(row))),
                None => drop(self.rows.remove(place)),
            }
        }
        if let Some((client, row)) = &work.client {
            self.clients.insert(client.clone(), Arc::clone(row));
        }
    }

    /// Whether rows of a table can be updated and deleted: what is published must say which rows.
    pub fn takes_writes(&self, relation: &Relation) -> bool {
        match self.catalog.member(relation.oid) {
            Some(member) if member.filtered => relation.identity == Identity::Full,
            Some(_) => relation.identity != Identity::Nothing,
            None => true,
        }
    }

    /// The rows of one of [`TABLES`]; none without such a table.
    pub fn of(&self, table: usize) -> impl Iterator<Item = &Arc<Stored>> {
        let oid = self.catalog.table(table).map_or(0, |relation| relation.oid);
        self.of_oid(oid)
    }

    pub fn of_oid(&self, oid: Oid) -> impl Iterator<Item = &Arc<Stored>> {
        self.rows.range((oid, i64::MIN)..=(oid, i64::MAX)).map(|(_, row)| row)
    }

    pub fn get(&self, table: usize, id: i64) -> Option<&Row> {
        let oid = self.catalog.table(table)?.oid;
        self.rows.get(&(oid, id)).map(|stored| &stored.row)
    }

    fn memberships(&self, user: &str) -> impl Iterator<Item = &Row> {
        self.of(MEMBER).map(|row| &row.row).filter(move |row| row.person.as_deref() == Some(user))
    }

    /// The rows that the rules select for `user`, by table and id, evaluated naively on whole tables: no
    /// branches, no topics, no links.
    pub fn visible(&self, user: &str) -> BTreeMap<(usize, i64), &Map<String, Value>> {
        let teams: BTreeSet<i64> = self.memberships(user).filter_map(|row| row.parent).collect();
        let hidden: Vec<Option<i64>> =
            self.memberships(user).filter(|row| row.hidden).map(|row| row.parent).collect();
        // As SQL has it, where one of them names no team nothing is known to be none of theirs.
        let is_hidden = |team| hidden.iter().any(|of| of.is_none_or(|of| of == team));
        let of_teams = |parent: Option<i64>| parent.is_some_and(|parent| teams.contains(&parent));
        let theirs = |row: &Row| row.person.as_deref() == Some(user);
        let readable = self.of(NOTE).map(|row| &row.row);
        let readable = readable.filter(|note| !note.hidden && of_teams(note.parent));
        let notes: BTreeSet<i64> = readable.map(|note| note.id).collect();
        let selects = |table: usize, row: &Row| match table {
            TEAM => {
                open_teams(user).contains(&row.id) || teams.contains(&row.id) && !is_hidden(row.id)
            }
            MEMBER => theirs(row),
            NOTE => !row.hidden && (theirs(row) || of_teams(row.parent)),
            COMMENT => row.parent.is_some_and(|note| notes.contains(&note)),
            _ => false,
        };
        let mut visible = BTreeMap::new();
        for table in 0..TABLES.len() {
            let rows = self.of(table).filter(|stored| selects(table, &stored.row));
            visible.extend(rows.map(|stored| ((table, stored.row.id), &stored.json)));
        }
        visible
    }
}

impl State {
    /// Does what a transaction does that is committed at `lsn`.
    ///
    /// # Panics
    /// When a mutation would be done twice, or after it was refused.
    pub fn apply(&mut self, work: &Work, xid: u64, lsn: Lsn) {
        let before = Arc::clone(&self.database.catalog);
        self.database.apply(work, xid);
        if let Some(tag) = work.applied {
            assert!(self.applied.insert(tag), "mutation {tag} is applied a second time");
            assert!(!self.refused.contains(&tag), "mutation {tag} is applied after a refusal");
        }
        for tag in &work.refused {
            assert!(!self.applied.contains(tag), "mutation {tag} is refused after it was applied");
            self.refused.insert(*tag);
        }
        if work.ddl.is_empty() {
            return;
        }
        let after = &self.database.catalog;
        let tables = 0..TABLES.len();
        let changed: Vec<bool> =
            tables.map(|table| before.facts(table) != after.facts(table)).collect();
        for table in 0..TABLES.len() {
            if needs(table).iter().any(|needed| changed[*needed]) {
                self.altered[table] = lsn;
            }
        }
    }
}
