//! What people do to tables, publications and privileges. Each statement changes the catalog and, where
//! Postgres rewrites a table, its rows; none of that is in the stream, which only shows the next shape of a
//! table before its next change.

use std::sync::Arc;

use super::catalog::{
    CLIENT, Catalog, Column, Field, Identity, Kind, Member, Oid, Operations, Relation, usual_name,
};
use super::database::Database;
use crate::data::{Row, Stored, TABLES};

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ddl {
    AddColumn(Oid, Field),
    DropColumn(Oid, Field),
    RenameColumn(Oid, Field, String),
    AlterType(Oid, Field, Kind),
    RenameTable(Oid, String),
    /// The id is given out when the statement runs, so whoever fills it in the same transaction asks first.
    CreateTable(Oid, String),
    DropTable(Oid),
    SetIdentity(Oid, Identity),
    SetLogged(Oid, bool),
    SetRowSecurity(Oid, bool),
    SetGranted(Oid, bool),
    PublicationAdd(Oid, bool),
    PublicationDrop(Oid),
    PublicationSet(Operations),
    DropPublication,
    CreatePublication,
}

impl Ddl {
    /// The table that it locks against everyone; `None` for what locks none.
    pub fn locks(&self) -> Option<Oid> {
        match self {
            Ddl::AddColumn(oid, _)
            | Ddl::DropColumn(oid, _)
            | Ddl::RenameColumn(oid, ..)
            | Ddl::AlterType(oid, ..)
            | Ddl::RenameTable(oid, _)
            | Ddl::CreateTable(oid, _)
            | Ddl::DropTable(oid)
            | Ddl::SetIdentity(oid, _)
            | Ddl::SetLogged(oid, _)
            | Ddl::SetRowSecurity(oid, _) => Some(*oid),
            _ => None,
        }
    }

    /// The object whose row in the catalog it writes, so that two of it wait for each other.
    pub fn writes(&self) -> Oid {
        match self {
            Ddl::SetGranted(oid, _) => *oid,
            _ => self.locks().unwrap_or(0),
        }
    }
}

impl Database {
    /// Runs a statement in the transaction `xid`.
    pub fn alter(&mut self, ddl: &Ddl, xid: u64) {
        let catalog = Arc::make_mut(&mut self.catalog);
        match ddl {
            Ddl::AddColumn(oid, field) => {
                let name = usual_name(*field).to_owned();
                let kind = usual_kind(*field);
                catalog.change(*oid, xid, |r| r.columns.push(Column { name, field: *field, kind }));
                self.rewrite(*oid, |row| row.reset(*field));
            }
            Ddl::DropColumn(oid, field) => {
                catalog.change(*oid, xid, |r| r.columns.retain(|c| c.field != *field));
                self.rewrite(*oid, |_| {});
            }
            Ddl::RenameColumn(oid, field, name) => {
                catalog.change(*oid, xid, |r| {
                    let column = r.columns.iter_mut().find(|column| column.field == *field);
                    column.into_iter().for_each(|column| column.name.clone_from(name));
                });
                self.rewrite(*oid, |_| {});
            }
            Ddl::AlterType(oid, field, kind) => {
                catalog.change(*oid, xid, |r| {
                    let column = r.columns.iter_mut().find(|column| column.field == *field);
                    column.into_iter().for_each(|column| column.kind = *kind);
                });
                self.rewrite(*oid, |_| {});
            }
            Ddl::RenameTable(oid, name) => {
                catalog.change(*oid, xid, |relation| relation.name.clone_from(name));
            }
            Ddl::CreateTable(oid, name) => {
                catalog.next_oid = catalog.next_oid.max(*oid + 1);
                catalog.relations.insert(*oid, Relation::new(*oid, name, xid));
            }
            Ddl::DropTable(oid) => {
                catalog.relations.remove(oid);
                if let Some(publication) = &mut catalog.publication {
                    publication.members.remove(oid);
                }
                self.rows.retain(|(of, _), _| of != oid);
            }
            Ddl::SetIdentity(oid, identity) => {
                catalog.change(*oid, xid, |relation| relation.identity = *identity);
            }
            Ddl::SetLogged(oid, logged) => {
                catalog.change(*oid, xid, |relation| relation.logged = *logged);
            }
            Ddl::SetRowSecurity(oid, on) => {
                catalog.change(*oid, xid, |relation| relation.row_security = *on);
            }
            Ddl::SetGranted(oid, granted) => {
                catalog.change(*oid, xid, |relation| relation.granted = *granted);
            }
            Ddl::PublicationAdd(table, filtered) => {
                let oid = catalog.take_oid();
                if let Some(publication) = &mut catalog.publication {
                    publication.members.insert(*table, Member { oid, filtered: *filtered });
                }
            }
            Ddl::PublicationDrop(table) => {
                if let Some(publication) = &mut catalog.publication {
                    publication.members.remove(table);
                }
            }
            Ddl::PublicationSet(operations) => {
                if let Some(publication) = &mut catalog.publication {
                    (publication.operations, publication.xmin) = (*operations, xid);
                }
            }
            Ddl::DropPublication => catalog.publication = None,
            Ddl::CreatePublication => catalog.publish_all(xid),
        }
    }

    /// Makes the rows of a table anew.
    fn rewrite(&mut self, oid: Oid, change: impl Fn(&mut Row)) {
        let Some(relation) = self.catalog.relations.get(&oid) else { return };
        for (_, stored) in self.rows.range_mut((oid, i64::MIN)..=(oid, i64::MAX)) {
            let mut row = stored.row.clone();
            change(&mut row);
            *stored = Arc::new(Stored::new(relation, row));
        }
    }
}

impl Catalog {
    fn change(&mut self, oid: Oid, xid: u64, change: impl FnOnce(&mut Relation)) {
        if let Some(relation) = self.relations.get_mut(&oid) {
            change(relation);
            relation.xmin = xid;
        }
    }

    /// What brings everything back to how it should be.
    pub fn mend(&self) -> Vec<Ddl> {
        let mut all = Vec::new();
        let mut spare =
            self.relations.values().filter(|relation| !TABLES.contains(&relation.name.as_str()));
        let mut next = self.next_oid;
        for name in TABLES {
            match self.named(name) {
                Some(relation) => all.extend(relation.mend()),
                None => match spare.next() {
                    Some(relation) => {
                        all.push(Ddl::RenameTable(relation.oid, name.to_owned()));
                        all.extend(relation.mend());
                    }
                    None => {
                        all.push(Ddl::CreateTable(next, name.to_owned()));
                        next += 1;
                    }
                },
            }
        }
        let mut database = Database { catalog: Arc::new(self.clone()), ..Database::default() };
        all.iter().for_each(|ddl| database.alter(ddl, 0));
        let made = &database.catalog;
        match &made.publication {
            None => all.push(Ddl::CreatePublication),
            Some(publication) => {
                if publication.operations != Operations::ALL {
                    all.push(Ddl::PublicationSet(Operations::ALL));
                }
                for oid in made.relations.keys().copied().chain([CLIENT]) {
                    match publication.members.get(&oid) {
                        None => all.push(Ddl::PublicationAdd(oid, false)),
                        Some(member) if member.filtered => {
                            all.push(Ddl::PublicationDrop(oid));
                            all.push(Ddl::PublicationAdd(oid, false));
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        all
    }
}

impl Relation {
    fn mend(&self) -> Vec<Ddl> {
        let mut all = Vec::new();
        let oid = self.oid;
        for field in [Field::Parent, Field::Person, Field::Mark, Field::Hidden] {
            match self.column(field) {
                None => all.push(Ddl::AddColumn(oid, field)),
                Some(column) => {
                    if column.name != usual_name(field) {
                        all.push(Ddl::RenameColumn(oid, field, usual_name(field).to_owned()));
                    }
                    if column.kind != usual_kind(field) {
                        all.push(Ddl::AlterType(oid, field, usual_kind(field)));
                    }
                }
            }
        }
        if self.identity != Identity::Full {
            all.push(Ddl::SetIdentity(oid, Identity::Full));
        }
        if !self.logged {
            all.push(Ddl::SetLogged(oid, true));
        }
        if self.row_security {
            all.push(Ddl::SetRowSecurity(oid, false));
        }
        if !self.granted {
            all.push(Ddl::SetGranted(oid, true));
        }
        all
    }
}

pub fn usual_kind(field: Field) -> Kind {
    match field {
        Field::Id | Field::Parent | Field::Mark => Kind::Bigint,
        Field::Person | Field::Extra => Kind::Text,
        Field::Hidden => Kind::Boolean,
    }
}
