//! What people do to the database while it is served: migrations and slips of the hand. Each is one
//! transaction, which waits for those that hold what it needs; most are mended after a while, by another one.

use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::data::{Stored, TABLES};
use crate::postgres::catalog::{Catalog, Field, Identity, Kind, Oid, Operations, Relation};
use crate::postgres::database::{Work, Writes};
use crate::postgres::ddl::{Ddl, usual_kind};
use crate::sql::random_row;
use crate::world::{Event, World};

/// A kind of migration: its name in what was seen, and what it does to a table, beside another one.
type Migration = (&'static str, fn(&mut SmallRng, &Catalog, &Relation, &Relation) -> Work);

const KINDS: [Migration; 15] = [
    ("columns added or dropped", |_, _, table, _| {
        let extra = table.column(Field::Extra).is_some();
        work(if extra {
            vec![Ddl::DropColumn(table.oid, Field::Extra)]
        } else {
            vec![Ddl::AddColumn(table.oid, Field::Extra)]
        })
    }),
    ("columns that rules need dropped", |rng, _, table, _| {
        work(vec![Ddl::DropColumn(table.oid, any_field(rng))])
    }),
    ("columns renamed", |rng, _, table, _| {
        let field = any_field(rng);
        work(vec![Ddl::RenameColumn(table.oid, field, format!("old_{field:?}"))])
    }),
    ("columns renamed and back at once", |rng, _, table, _| {
        let field = any_field(rng);
        let Some(column) = table.column(field) else { return Work::default() };
        let rename = |name: &str| Ddl::RenameColumn(table.oid, field, name.to_owned());
        work(vec![rename("renamed"), rename(&column.name)])
    }),
    ("tables renamed", |_, _, table, _| {
        work(vec![Ddl::RenameTable(table.oid, format!("{}_{}", table.name, table.oid))])
    }),
    ("tables made anew", |rng, catalog, table, _| {
        let oid = catalog.next_oid;
        let name = table.name.clone();
        let mut ddl = vec![Ddl::DropTable(table.oid), Ddl::CreateTable(oid, name)];
        if rng.random_bool(0.7) {
            ddl.push(Ddl::PublicationAdd(oid, false));
        }
        let writes = rows_of_new(rng, &table.name, oid);
        Work { ddl, writes, ..Work::default() }
    }),
    ("tables swapped", |_, _, table, other| {
        let rename = |oid: Oid, name: &str| Ddl::RenameTable(oid, name.to_owned());
        work(vec![
            rename(table.oid, "aside"),
            rename(other.oid, &table.name),
            rename(table.oid, &other.name),
        ])
    }),
    ("types altered", |rng, _, table, _| {
        let field = if rng.random_bool(0.7) { Field::Mark } else { Field::Parent };
        let altered = table.column(field).is_some_and(|column| column.kind == Kind::Text);
        let kind = if altered { usual_kind(field) } else { Kind::Text };
        work(vec![Ddl::AlterType(table.oid, field, kind)])
    }),
    ("replica identities altered", |rng, _, table, _| {
        let identities = [Identity::Full, Identity::Key, Identity::Nothing];
        work(vec![Ddl::SetIdentity(table.oid, identities[rng.random_range(0..3)])])
    }),
    ("tables taken out of the publication", |rng, _, table, _| {
        let drop = Ddl::PublicationDrop(table.oid);
        let again = rng.random_bool(0.2).then_some(Ddl::PublicationAdd(table.oid, false));
        work([drop].into_iter().chain(again).collect())
    }),
    ("row filters", |_, _, table, _| {
        let add = Ddl::PublicationAdd(table.oid, true);
        work(vec![Ddl::PublicationDrop(table.oid), add])
    }),
    ("operations left out of the publication", |rng, _, _, _| {
        let mut operations = Operations::ALL;
        let left_out = [
            &mut operations.insert,
            &mut operations.update,
            &mut operations.delete,
            &mut operations.truncate,
        ];
        *left_out.into_iter().nth(rng.random_range(0..4)).expect("there are four") = false;
        work(vec![Ddl::PublicationSet(operations)])
    }),
    ("publications dropped", |rng, _, _, _| {
        let again = rng.random_bool(0.3).then_some(Ddl::CreatePublication);
        work([Ddl::DropPublication].into_iter().chain(again).collect())
    }),
    ("row-level security switched", |_, _, table, _| {
        work(vec![Ddl::SetRowSecurity(table.oid, !table.row_security)])
    }),
    ("privileges taken or given", |_, _, table, _| {
        work(vec![Ddl::SetGranted(table.oid, !table.granted)])
    }),
];

fn work(ddl: Vec<Ddl>) -> Work {
    Work { ddl, ..Work::default() }
}

fn any_field(rng: &mut SmallRng) -> Field {
    [Field::Parent, Field::Person, Field::Hidden, Field::Mark][rng.random_range(0..4)]
}

/// Rows that a table begins with which is made as `oid`.
fn rows_of_new(rng: &mut SmallRng, name: &str, oid: Oid) -> Writes {
    let table = TABLES.iter().position(|table| *table == name).unwrap_or(0);
    let relation = Relation::new(oid, name, 0);
    let rows = (0..8).filter(|_| rng.random_bool(0.6)).collect::<Vec<i64>>().into_iter();
    let row = |id| {
        let row = random_row(rng, table, id);
        ((oid, id), Some(Arc::new(Stored::new(&relation, row))))
    };
    rows.map(row).collect()
}

impl World {
    /// Someone begins a migration, or to mend what others did.
    pub fn begin_migration(&mut self) {
        if !self.stormy {
            return;
        }
        let pause = self.rng.random_range(500..6000);
        self.after(pause, Event::BeginMigration);
        if self.postgres.up {
            let xid = self.postgres.begin();
            let kind = self.rng.random_bool(0.6).then(|| self.rng.random_range(0..KINDS.len()));
            let delay = self.rng.random_range(1..300);
            let postgres_life = self.postgres.life;
            self.after(delay, Event::CommitMigration { xid, kind, postgres_life });
        }
    }

    /// What it does is worked out when nobody else's is hidden from it.
    pub fn commit_migration(&mut self, xid: u64, kind: Option<usize>, postgres_life: u64) {
        if self.postgres.life != postgres_life {
            return;
        }
        if !self.stormy {
            return self.postgres.abort(xid);
        }
        let catalog = Arc::clone(&self.postgres.now().database.catalog);
        let work = match kind {
            None => work(catalog.mend()),
            Some(kind) => {
                let of = |number: usize| catalog.relations.values().nth(number);
                let count = catalog.relations.len();
                let table = self.rng.random_range(0..count);
                let other = (table + self.rng.random_range(1..count)) % count;
                match (of(table), of(other)) {
                    (Some(table), Some(other)) => {
                        KINDS[kind].1(&mut self.rng, &catalog, table, other)
                    }
                    _ => Work::default(),
                }
            }
        };
        if self.postgres.must_wait(&work) {
            self.seen.count("migrations that wait");
            return self.after(30, Event::CommitMigration { xid, kind, postgres_life });
        }
        if work.ddl.is_empty() {
            return self.postgres.abort(xid);
        }
        self.seen.count(kind.map_or("databases mended", |kind| KINDS[kind].0));
        self.say(|| format!("migration: {:?}", work.ddl));
        self.may_end.insert("migration");
        let lsn = self.postgres.commit(xid, work, self.now_ms);
        self.show_later(lsn);
    }

    /// Everything is as the definition wants it, or, seldom, it is left as it is.
    pub fn mend_database(&mut self) {
        let catalog = &self.postgres.now().database.catalog;
        let (mut ddl, published) = (catalog.mend(), catalog.publication.is_some());
        // Without a publication that brings acknowledgements whole nothing streams, and whoever needs rows that
        // may not be read waits for them. Otherwise what is left is served.
        let serves = catalog.unfit().len() < TABLES.len();
        if published && serves && !ddl.is_empty() && self.rng.random_bool(0.2) {
            self.seen.count("databases left as they are");
            ddl.retain(|ddl| matches!(ddl, Ddl::SetGranted(..) | Ddl::PublicationSet(_)));
        }
        if ddl.is_empty() {
            return;
        }
        self.say(|| format!("everything is mended: {ddl:?}"));
        self.may_end.insert("migration");
        let xid = self.postgres.begin();
        let lsn = self.postgres.commit(xid, work(ddl), self.now_ms);
        self.postgres.show(lsn);
    }
}
