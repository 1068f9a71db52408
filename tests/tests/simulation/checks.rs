//! What must hold after every step: a mutation that a client holds as applied is in the database, once,
//! and a refused one is not; a replica is what the rules select at its cursor; and once faults have ended
//! nobody is stuck. What a database that went back has forgotten is nobody's fault.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rowtide_client::Row;
use rowtide_engine::Counts;
use rowtide_feed::EpochReason;
use rowtide_protocol::{Cursor, Lsn};

use crate::data::{COMMENT, TABLES};
use crate::postgres::database::State;
use crate::world::{At, World};

/// How often each kind of thing has happened.
#[derive(Debug, Default)]
pub struct Seen(pub BTreeMap<&'static str, u64>);

impl Seen {
    pub fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: &Seen) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }
}

/// What clients hold of their mutations, by tag.
#[derive(Default)]
pub struct Ledger {
    /// How many were made; the tags are up to this number.
    pub made: u64,
    /// Of which tables the mutations of clients are.
    pub tables: BTreeMap<u64, BTreeSet<usize>>,
    /// Who was told of it, and whether it was applied.
    told: BTreeMap<u64, (usize, bool)>,
    /// Their outcome was lost with a database that went back.
    forgotten: BTreeSet<u64>,
    /// Which mutation each client has meant by each number.
    numbers: BTreeMap<(Arc<str>, u64), u64>,
}

impl Ledger {
    /// A mutation is about to be applied under a number. A number names one for ever, however often the database
    /// goes back: of its copies, on whatever connection and server, the client's row takes one.
    pub fn is_numbered(&mut self, client: &Arc<str>, number: u64, tag: u64) {
        let named = *self.numbers.entry((Arc::clone(client), number)).or_insert(tag);
        assert_eq!(named, tag, "number {number} of {client} names another mutation");
    }

    /// A client was told what became of a mutation.
    pub fn tell(&mut self, tag: u64, client: usize, applied: bool, now: &State) {
        let before = self.told.insert(tag, (client, applied));
        if !self.forgotten.contains(&tag) {
            let same = before.is_none_or(|before| before == (client, applied));
            assert!(same, "mutation {tag} was {before:?}, and is said to be applied: {applied}");
            self.check_one(tag, applied, now);
        }
    }

    fn check_one(&self, tag: u64, applied: bool, now: &State) {
        if !self.forgotten.contains(&tag) {
            let is = now.applied.contains(&tag);
            assert_eq!(is, applied, "mutation {tag} is in the database, against what was told");
        }
    }

    /// Holds all that was told against the database.
    pub fn check(&self, now: &State) {
        self.told.iter().for_each(|(tag, (_, applied))| self.check_one(*tag, *applied, now));
    }

    /// The database is as it was before.
    pub fn forget(&mut self, before: &State, now: &State) {
        self.forgotten.extend(before.applied.difference(&now.applied));
        self.forgotten.extend(before.refused.difference(&now.refused));
        self.check(now);
    }

    /// What a client was told, and is not in the rows of this state.
    fn missing(&self, client: usize, state: &State) -> Option<u64> {
        let theirs = self.told.iter().filter(|(_, told)| **told == (client, true));
        let mut theirs = theirs.map(|(tag, _)| *tag);
        theirs.find(|tag| !state.applied.contains(tag) && !self.forgotten.contains(tag))
    }
}

/// What an epoch is of.
#[derive(Clone, Debug)]
pub struct EpochFacts {
    /// The history of Postgres in which it began.
    pub history: usize,
    /// The tables that are not served in it.
    pub refused: BTreeSet<usize>,
    /// Where WAL ended when the tables were read.
    pub read_at: Lsn,
    /// From where on rows are as of a later time at which the tables were read, and where WAL ended then.
    pub reshaped: Vec<(Lsn, Lsn)>,
}

impl EpochFacts {
    /// Where WAL ended when the tables were read that rows are of at a cursor.
    fn read_at(&self, cursor: Lsn) -> Lsn {
        let last = self.reshaped.iter().rev().find(|(from, _)| *from <= cursor);
        last.map_or(self.read_at, |(_, read_at)| *read_at)
    }
}

impl World {
    /// The epoch of a client's cursor, and the state of the database at it; `None` without one, and for one
    /// of a history that is over: its epoch is about to end.
    fn at_cursor(&self, client: usize) -> Option<(&EpochFacts, &State, Lsn)> {
        let cursor: Cursor = self.clients[client].optimistic.cursor()?.parse().unwrap();
        let epoch = &self.epochs[&cursor.epoch.0];
        let current = epoch.history == self.postgres.history();
        current.then(|| (epoch, &**self.postgres.at(epoch.history, cursor.lsn), cursor.lsn))
    }

    /// Holds a client's replica against the rules. A table that was altered between what the server has read
    /// of it and the cursor is left out: that must be noticed in time, and everyone be there in the end.
    pub fn check_replica(&mut self, client: usize) {
        let Some((epoch, state, lsn)) = self.at_cursor(client) else { return };
        let now = self.postgres.now();
        let altered = |table: &usize| {
            let read_at = epoch.read_at(lsn);
            let after = state.altered[*table] > read_at;
            // Read behind the cursor, and altered between the two.
            let before = now.altered[*table] > lsn && lsn < read_at;
            after || before
        };
        let told = self.clients[client].tables.iter().copied();
        let served = told.filter(|table| !epoch.refused.contains(table));
        let served: BTreeSet<usize> = served.filter(|table| !altered(table)).collect();
        let left_out = served.len() < TABLES.len();
        let difference = self.difference(client, state, &served);
        assert_eq!(difference, None, "client {client} at its cursor {lsn}");
        let live = self.clients[client].live;
        let hidden: Vec<&str> = epoch.refused.iter().map(|table| TABLES[*table]).collect();
        let base = self.clients[client].optimistic.base();
        let held = hidden.iter().find(|table| live && base.count(table) > 0);
        assert_eq!(held, None, "client {client} holds rows of a table that is not served");
        if self.clients[client].live && !left_out {
            let missing = self.ledger.missing(client, state);
            assert_eq!(missing, None, "client {client} was told that it is applied");
        }
    }

    /// In what a client's replica of some tables differs from what the rules select.
    fn difference(&self, client: usize, state: &State, of: &BTreeSet<usize>) -> Option<String> {
        let mut expected = state.database.visible(self.clients[client].user);
        let optimistic = &self.clients[client].optimistic;
        let threads = self.clients[client].asked.held(optimistic);
        let is_selected = |table: usize, json: &Row| {
            table != COMMENT || json["parent"].as_i64().is_some_and(|note| threads.contains(&note))
        };
        expected.retain(|(table, _), json| of.contains(table) && is_selected(*table, json));
        let base = optimistic.base();
        for ((table, id), json) in &expected {
            let key: Row = [("id".to_owned(), (*id).into())].into_iter().collect();
            let held = base.get(TABLES[*table], &key);
            if held != Some(*json) {
                return Some(format!("{} {id} should be {json:?}, not {held:?}", TABLES[*table]));
            }
        }
        let held =
            of.iter().flat_map(|table| base.rows(TABLES[*table]).map(move |row| (*table, row)));
        let mut more = held.filter(|(table, row)| {
            row["id"].as_i64().is_none_or(|id| !expected.contains_key(&(*table, id)))
        });
        more.next().map(|(table, row)| format!("{} {row:?} should not be there", TABLES[table]))
    }

    /// Whether a client's mutations wait for a table that is left as it is. With more of these than may wait it is
    /// sent away again and again, so several of such clients may never be there at the same time.
    fn waits_for_a_table(&self, client: usize) -> bool {
        let unfit = self.postgres.now().database.catalog.unfit();
        let first = self.clients[client].first_pending();
        first.is_some_and(|tag| !self.ledger.tables[&tag].is_disjoint(&unfit))
    }

    /// Why a client is not where everyone must be in the end, if it is not.
    fn lacks(&self, client: usize) -> Option<String> {
        let state = &self.clients[client];
        if state.rested == Some(self.postgres.commits()) && self.waits_for_a_table(client) {
            return None;
        }
        if !state.live {
            return Some("it is not live".to_owned());
        }
        if let Some(tag) = state.first_pending()
            && !self.waits_for_a_table(client)
        {
            return Some(format!("mutation {tag} is pending"));
        }
        let unfit = self.postgres.now().database.catalog.unfit();
        let Some((epoch, ..)) = self.at_cursor(client) else {
            return Some("its epoch should have ended".to_owned());
        };
        let now = self.postgres.now();
        if epoch.refused != unfit {
            return Some(format!(
                "{:?} are not served, and {unfit:?} should not be",
                epoch.refused
            ));
        }
        let served = (0..TABLES.len()).filter(|table| !unfit.contains(table)).collect();
        self.difference(client, now, &served).or_else(|| self.lacks_comments(client))
    }

    /// An epoch costs every client a snapshot, so there must be a reason for the one before to end.
    pub fn check_that_an_epoch_may_end(&mut self, at: At, reason: EpochReason) {
        let ended_by_another = self.ended_by.is_some_and(|by| by != at);
        let before = self.last_epoch.and_then(|epoch| self.epochs.get(&epoch));
        let continues = before.is_some_and(|epoch| epoch.history == self.postgres.history());
        let may = |why: &[&str]| why.iter().any(|why| self.may_end.contains(why));
        let fits = match reason {
            EpochReason::SlotLost | EpochReason::SlotMissing => may(&["slot", "migration"]),
            EpochReason::NewLog => may(&["disk"]),
            // Killed before what lies before the epoch was confirmed.
            EpochReason::LogShort => true,
            EpochReason::LogBehind => ended_by_another || may(&["slot", "migration", "disk"]),
            EpochReason::OtherTables
            | EpochReason::AlteredBack
            | EpochReason::PublicationChanged
            | EpochReason::TableReplaced => may(&["migration"]),
            _ => false,
        };
        assert!(!continues || fits, "an epoch ends for nothing: {reason}");
        if self.postgres.slot.is_some_and(|slot| !slot.lost) {
            self.may_end.remove("slot");
        }
        self.may_end.remove("disk");
        self.ended_by = None;
    }

    /// When everyone has gone engines, the registry and the scheduler hold nothing.
    pub fn check_that_nothing_is_left(&self) {
        let unfit = self.postgres.now().database.catalog.unfit();
        for server in &self.servers {
            assert!(server.connections.is_empty() && server.registry.is_empty(), "nobody is there");
            for thread in &server.engines {
                let Counts { sessions, views, topics, .. } = thread.worker.engine().counts();
                assert_eq!((sessions, views, topics), (0, 0, 0), "nobody is there");
            }
            // What has arrived waits for a plan, and for the tables that it is of.
            let waits = server.generation.is_none() || !unfit.is_empty();
            assert!(server.scheduler.is_idle() || waits);
        }
    }

    pub fn is_at_rest(&mut self) -> bool {
        let mut all = true;
        for client in 0..self.clients.len() {
            let rests = self.lacks(client).is_none();
            all &= rests;
            if rests {
                self.clients[client].rested = Some(self.postgres.commits());
            }
        }
        all && (0..self.older.len()).all(|number| self.older_lacks(number).is_none())
    }

    pub fn who_is_stuck(&self) -> String {
        let stuck = |client| Some(format!("client {client}: {}", self.lacks(client)?));
        let older = |number| Some(format!("older client {number}: {}", self.older_lacks(number)?));
        let stuck = (0..self.clients.len()).filter_map(stuck);
        let stuck: Vec<String> = stuck.chain((0..self.older.len()).filter_map(older)).collect();
        format!("stuck: {}", stuck.join("; "))
    }
}
