//! What others write to the database, beside the server.

use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::data::{NOTE, Row, Stored, USERS};
use crate::postgres::database::{Database, Work, Writes};
use crate::world::{Event, World};

/// More changes than this in one transaction are not held.
pub const LARGE: usize = 12;

impl World {
    /// A row for each user, so that all have something to come to see.
    pub fn mark_the_end(&mut self) {
        let mut writes = Writes::new();
        for (user, id) in USERS.iter().zip(900..) {
            let mark = self.now_ms;
            let person = Some((*user).to_owned());
            let row = Row { id, parent: None, person, mark, hidden: false, extra: None };
            write(&self.postgres.now().database, &mut writes, NOTE, id, Some(row));
        }
        let xid = self.postgres.begin();
        let work = Work { writes, ..Work::default() };
        let lsn = self.postgres.commit(xid, work, self.now_ms);
        self.postgres.show(lsn);
    }

    pub fn begin_sql(&mut self) {
        if !self.stormy {
            return;
        }
        let pause = self.rng.random_range(30..900);
        self.after(pause, Event::BeginSql);
        if self.postgres.up {
            let xid = self.postgres.begin();
            let most = if self.rng.random_bool(0.1) { 3000 } else { 200 };
            let delay = self.rng.random_range(1..most);
            let postgres_life = self.postgres.life;
            self.after(delay, Event::CommitSql { xid, postgres_life });
        }
        if self.rng.random_bool(0.1) {
            self.postgres.write_other_wal();
        }
    }

    pub fn commit_sql(&mut self, xid: u64, postgres_life: u64) {
        if self.postgres.life != postgres_life {
            return;
        }
        if self.rng.random_bool(0.1) {
            return self.postgres.abort(xid);
        }
        let mut work = Work::default();
        if self.weather.rough && self.rng.random_bool(0.03) {
            let table = self.rng.random_range(1..4);
            let relation = self.postgres.now().database.catalog.table(table);
            work.truncated.extend(relation.map(|relation| relation.oid));
        }
        let too_large = self.weather.rough && self.rng.random_bool(0.04);
        let count = if too_large { 4 * LARGE } else { self.rng.random_range(0..5) };
        for _ in 0..count {
            let (table, id) = (self.rng.random_range(0..4), self.rng.random_range(0..8));
            let there = self.rng.random_bool(0.75);
            let row = random_row(&mut self.rng, table, id);
            let database = &self.postgres.now().database;
            write(database, &mut work.writes, table, id, there.then_some(row));
        }
        if self.postgres.must_wait(&work) {
            return self.after(20, Event::CommitSql { xid, postgres_life });
        }
        self.seen.count("transactions of others");
        if !work.truncated.is_empty() {
            self.seen.count("truncations");
        }
        if too_large && work.writes.len() > LARGE {
            self.seen.count("transactions too large to hold");
        }
        let lsn = self.postgres.commit(xid, work, self.now_ms);
        self.show_later(lsn);
    }
}

pub fn random_row(rng: &mut SmallRng, table: usize, id: i64) -> Row {
    let parent = rng.random_bool(0.8).then(|| rng.random_range(0..if table == 3 { 8 } else { 4 }));
    let person = rng.random_bool(0.9).then(|| USERS[rng.random_range(0..3)].to_owned());
    let (mark, hidden) = (rng.random_range(1_000..1_000_000), rng.random_bool(0.2));
    Row { id, parent, person, mark, hidden, extra: None }
}

/// Puts a row among what is written, if its table is there and takes it.
pub fn write(database: &Database, writes: &mut Writes, table: usize, id: i64, row: Option<Row>) {
    if let Some(relation) =
        database.catalog.table(table).filter(|table| database.takes_writes(table))
    {
        let row = row.map(|row| Arc::new(Stored::new(relation, row)));
        writes.insert((relation.oid, id), row);
    }
}
