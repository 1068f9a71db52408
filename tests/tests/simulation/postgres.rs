//! A Postgres as far as Rowtide can tell. Ids are given out when a transaction begins, the log orders
//! commits, and a commit is in the log, and streamed, before it is visible to others, which wait for its
//! rows meanwhile. The stream starts from what its slot has confirmed. A failover goes back to an older
//! state, and from there another history begins, which may use the same ids and positions again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rowtide_engine::{Loaded, TransactionSnapshot};
use rowtide_feed::{Acknowledgement, Change, Changes, Transaction};
use rowtide_plan::row::Topic;
use rowtide_protocol::{Lsn, Refusal};

use crate::data::{Place, Schema, Stored, Tables, Writes};
use crate::rules::{Op, judge};

/// What is known of a client id.
#[derive(Clone, Debug, Default)]
pub struct ClientRow {
    pub user: String,
    pub last: u64,
    pub refused: BTreeMap<u64, String>,
}

/// Everything in the database, as of one commit.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub tables: Tables,
    pub clients: BTreeMap<String, Arc<ClientRow>>,
    /// The tags of the mutations that were applied.
    pub applied: BTreeSet<u64>,
    /// The tags of the mutations that were refused.
    pub refused: BTreeSet<u64>,
}

/// What one transaction does.
#[derive(Debug, Default)]
pub struct Work {
    pub truncated: Vec<usize>,
    pub writes: Writes,
    /// A client's row after it, and what the stream tells of it.
    pub client: Option<(String, Arc<ClientRow>)>,
    pub acknowledgement: Option<Acknowledgement>,
    pub applied: Option<u64>,
    pub refused: Vec<u64>,
    /// Too much to hold in memory.
    pub too_large: bool,
}

struct Commit {
    xid: u64,
    lsn: Lsn,
    work: Work,
    streamed: Arc<Transaction>,
    visible: bool,
}

/// The replication slot.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub confirmed: Lsn,
}

/// What the stream brings.
pub enum Streamed {
    Transaction(Arc<Transaction>),
    Position(Lsn),
}

pub struct Postgres {
    pub schema: Schema,
    pub up: bool,
    /// Grows with every restart; what was begun in an earlier one is gone.
    pub life: u64,
    /// As a server can ask for it: another one after the promotion of a standby.
    pub timeline: u64,
    pub slot: Option<Slot>,
    pub wal_end: Lsn,
    /// The furthest that anything was streamed in this history.
    pub streamed: Lsn,
    /// Of each history the state as of each commit; the last history is the present one.
    histories: Vec<BTreeMap<Lsn, Arc<State>>>,
    log: Vec<Commit>,
    /// The rows, and the clients, that a new snapshot sees.
    visible: Tables,
    visible_clients: BTreeMap<String, Arc<ClientRow>>,
    open: BTreeSet<u64>,
    next_xid: u64,
}

/// Where the log begins.
const BEGINNING: Lsn = Lsn(1000);

impl Postgres {
    pub fn new(schema: Schema, tables: Tables) -> Postgres {
        let state = State { tables: tables.clone(), ..State::default() };
        Postgres {
            schema,
            up: true,
            life: 0,
            timeline: 1,
            slot: None,
            wal_end: BEGINNING,
            streamed: BEGINNING,
            histories: vec![BTreeMap::from([(BEGINNING, Arc::new(state))])],
            log: Vec::new(),
            visible: tables,
            visible_clients: BTreeMap::new(),
            open: BTreeSet::new(),
            // Close to where 32 bits end, so that deployments cross it.
            next_xid: (1 << 32) - 40,
        }
    }

    /// The number of the present history.
    pub fn history(&self) -> usize {
        self.histories.len() - 1
    }

    /// The database as of the last commit up to `lsn`.
    pub fn at(&self, history: usize, lsn: Lsn) -> &Arc<State> {
        self.histories[history].range(..=lsn).next_back().expect("there is a beginning").1
    }

    pub fn now(&self) -> &Arc<State> {
        self.at(self.history(), Lsn(u64::MAX))
    }

    pub fn begin(&mut self) -> u64 {
        self.next_xid += 1;
        self.open.insert(self.next_xid - 1);
        self.next_xid - 1
    }

    pub fn abort(&mut self, xid: u64) {
        self.open.remove(&xid);
    }

    /// Whether a transaction would have to wait for one that is not visible yet.
    pub fn must_wait(&self, work: &Work) -> bool {
        let client = work.client.as_ref().map(|(client, _)| client);
        self.log.iter().rev().filter(|commit| !commit.visible).any(|other| {
            let theirs = &other.work;
            theirs.client.as_ref().is_some_and(|(id, _)| Some(id) == client)
                || !work.truncated.is_empty()
                || work.writes.keys().any(|place| {
                    theirs.writes.contains_key(place) || theirs.truncated.contains(&place.0)
                })
        })
    }

    /// Commits, in the log alone: [`Postgres::show`] makes it visible.
    pub fn commit(&mut self, xid: u64, work: Work, now_ms: u64) -> Lsn {
        assert!(self.open.remove(&xid), "only what was begun is committed");
        let before = Arc::clone(self.now());
        let mut state = State::clone(&before);
        work.truncated.iter().for_each(|table| state.tables.truncate(*table));
        state.tables.write(&work.writes);
        if let Some((client, row)) = &work.client {
            state.clients.insert(client.clone(), Arc::clone(row));
        }
        if let Some(tag) = work.applied {
            assert!(state.applied.insert(tag), "mutation {tag} is applied a second time");
            assert!(!state.refused.contains(&tag), "mutation {tag} is applied after a refusal");
        }
        for tag in &work.refused {
            assert!(!state.applied.contains(tag), "mutation {tag} is refused after it was applied");
            state.refused.insert(*tag);
        }
        self.wal_end.0 += 100;
        let lsn = self.wal_end;
        let streamed = Arc::new(Transaction {
            lsn,
            xid: xid as u32,
            commit_time_us: now_ms as i64 * 1000 + 1,
            truncated: work.truncated.iter().map(|table| self.schema.table_id(*table)).collect(),
            changes: self.changes(&before.tables, &work),
            acknowledgements: work.acknowledgement.iter().cloned().map(Arc::new).collect(),
        });
        self.histories.last_mut().expect("there is one").insert(lsn, Arc::new(state));
        self.log.push(Commit { xid, lsn, work, streamed, visible: false });
        lsn
    }

    fn changes(&self, before: &Tables, work: &Work) -> Changes {
        if work.too_large {
            let mut tables: Vec<usize> = work.writes.keys().map(|(table, _)| *table).collect();
            tables.dedup();
            return Changes::TooLarge(
                tables.into_iter().map(|table| self.schema.table_id(table)).collect(),
            );
        }
        let change = |(place, new): (&Place, &Option<Arc<Stored>>)| {
            let old = before.0.get(place).filter(|_| !work.truncated.contains(&place.0));
            let old = old.map(|old| old.encoded.image.clone());
            let new = new.as_ref().map(|new| Arc::clone(&new.encoded));
            let table = self.schema.table_id(place.0);
            Change::between(table, old, new)
        };
        Changes::Rows(work.writes.iter().filter_map(change).collect())
    }

    /// Makes a commit visible.
    pub fn show(&mut self, lsn: Lsn) {
        let Ok(index) = self.log.binary_search_by_key(&lsn, |commit| commit.lsn) else { return };
        if !std::mem::replace(&mut self.log[index].visible, true) {
            let work = &self.log[index].work;
            work.truncated.iter().for_each(|table| self.visible.truncate(*table));
            self.visible.write(&work.writes);
            if let Some((client, row)) = &work.client {
                self.visible_clients.insert(client.clone(), Arc::clone(row));
            }
        }
    }

    /// WAL that is none of ours.
    pub fn write_other_wal(&mut self) {
        self.wal_end.0 += 64;
    }

    /// Stops: what was not committed is gone, what was is visible afterwards.
    pub fn stop(&mut self) {
        self.up = false;
        self.life += 1;
        self.open.clear();
        self.show_all();
    }

    pub fn show_all(&mut self) {
        let hidden: Vec<Lsn> = self.log.iter().filter(|c| !c.visible).map(|c| c.lsn).collect();
        hidden.into_iter().for_each(|lsn| self.show(lsn));
    }

    /// Goes back to how it was before the last `lost` commits; `slot` is what is left of the slot.
    pub fn fall_back(&mut self, lost: usize, slot: Option<Slot>) {
        self.stop();
        self.log.truncate(self.log.len() - lost);
        let end = self.log.last().map_or(BEGINNING, |commit| commit.lsn);
        let history = self.histories[self.history()].range(..=end);
        let history = history.map(|(lsn, state)| (*lsn, Arc::clone(state))).collect();
        self.histories.push(history);
        let state = Arc::clone(self.now());
        self.visible = state.tables.clone();
        self.visible_clients = state.clients.clone();
        self.next_xid = self.log.iter().map(|commit| commit.xid + 1).max().unwrap_or(self.next_xid);
        (self.wal_end, self.streamed, self.slot) = (end, end, slot);
    }

    /// How many of the last commits there are behind `lsn`.
    pub fn commits_behind(&self, lsn: Lsn) -> usize {
        self.log.len() - self.log.partition_point(|commit| commit.lsn <= lsn)
    }

    /// Up to here every commit is visible.
    pub fn all_visible_until(&self) -> Lsn {
        let hidden = self.log.iter().position(|commit| !commit.visible);
        self.end_before(hidden.map_or(0, |hidden| self.log.len() - hidden))
    }

    pub fn commits(&self) -> usize {
        self.log.len()
    }

    /// The end of the commit before the last `count`.
    pub fn end_before(&self, count: usize) -> Lsn {
        let kept = self.log.len().saturating_sub(count);
        kept.checked_sub(1).map_or(BEGINNING, |last| self.log[last].lsn)
    }

    /// Makes the slot, if nothing is under way: Postgres would wait for that to end.
    pub fn create_slot(&mut self) -> bool {
        let quiet = self.open.is_empty() && self.log.iter().all(|commit| commit.visible);
        if quiet {
            self.slot = Some(Slot { confirmed: self.wal_end });
        }
        quiet
    }

    /// What the stream brings behind `position`.
    pub fn stream(&mut self, position: Lsn) -> Option<Streamed> {
        let next = self.log.partition_point(|commit| commit.lsn <= position);
        if let Some(commit) = self.log.get(next) {
            self.streamed = self.streamed.max(commit.lsn);
            return Some(Streamed::Transaction(Arc::clone(&commit.streamed)));
        }
        (position < self.wal_end).then_some(Streamed::Position(self.wal_end))
    }

    pub fn load(&self, topics: &[Topic]) -> Loaded {
        let hidden = self.log.iter().filter(|commit| !commit.visible).map(|commit| commit.xid);
        let of_topic = |topic: &Topic| {
            let rows = self.visible.0.values().map(|row| &row.encoded);
            Some(rows.filter(|row| row.image.topics.contains(topic)).cloned().collect())
        };
        Loaded {
            snapshot: TransactionSnapshot::new(
                self.next_xid,
                self.open.iter().copied().chain(hidden).collect(),
            ),
            position: self.wal_end,
            rows: topics.iter().map(of_topic).collect(),
        }
    }

    /// The row of a client id, which is `user`'s from now on if it is nobody's.
    /// `None` as long as another transaction has the row: it may have been streamed before it is visible,
    /// and nobody may be told of less than that.
    pub fn claim(&mut self, client: &str, user: &str, now_ms: u64) -> Option<Arc<ClientRow>> {
        let theirs = Some((client.to_owned(), Arc::default()));
        if self.must_wait(&Work { client: theirs, ..Work::default() }) {
            return None;
        }
        if let Some(row) = self.visible_clients.get(client) {
            return Some(Arc::clone(row));
        }
        let row = Arc::new(ClientRow { user: user.to_owned(), ..ClientRow::default() });
        let client = Some((client.to_owned(), Arc::clone(&row)));
        let xid = self.begin();
        let lsn = self.commit(xid, Work { client, ..Work::default() }, now_ms);
        self.show(lsn);
        Some(row)
    }
}

/// What became of an attempt at a mutation.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Others are writing the same rows.
    MustWait,
    Settled(Lsn),
    Repeated(Lsn),
    Gap {
        last: u64,
    },
    NotTheirs,
}

/// A mutation as the server gives it to Postgres.
#[derive(Clone, Debug)]
pub struct Mutation {
    pub number: u64,
    pub tag: u64,
    pub asked: Result<Vec<Op>, &'static str>,
}

impl Postgres {
    /// One transaction, begun as `xid`: the client's row moves from the number before to this one, and with
    /// it the operations are applied, or refused.
    pub fn mutate(
        &mut self,
        xid: u64,
        client: &str,
        user: &str,
        mutation: &Mutation,
        now_ms: u64,
    ) -> Outcome {
        let state = Arc::clone(self.now());
        let Some(row) = state.clients.get(client).filter(|row| row.user == user) else {
            self.abort(xid);
            return Outcome::NotTheirs;
        };
        let number = mutation.number;
        let mut work =
            Work { client: Some((client.to_owned(), Arc::clone(row))), ..Work::default() };
        if self.must_wait(&work) {
            return Outcome::MustWait;
        }
        if number > row.last + 1 {
            self.abort(xid);
            return Outcome::Gap { last: row.last };
        }
        let mut row = ClientRow::clone(row);
        let repeated = number <= row.last;
        if !repeated {
            row.last = number;
            let judged = mutation.asked.as_ref().map_err(|code| *code);
            let judged = judged.and_then(|ops| judge(&self.schema, &state.tables, user, ops));
            match judged {
                Ok(writes) => (work.writes, work.applied) = (writes, Some(mutation.tag)),
                Err(code) => {
                    row.refused.insert(number, code.to_owned());
                    work.refused.push(mutation.tag);
                }
            }
        }
        let refused = row.refused.get(&number).map(|code| refusal(number, code));
        work.acknowledgement = Some(Acknowledgement {
            client: client.into(),
            last_mutation: row.last,
            rejected: refused.into_iter().collect(),
            name: None,
        });
        work.client = Some((client.to_owned(), Arc::new(row)));
        if self.must_wait(&work) {
            return Outcome::MustWait;
        }
        let lsn = self.commit(xid, work, now_ms);
        if repeated { Outcome::Repeated(lsn) } else { Outcome::Settled(lsn) }
    }
}

pub fn refusal(id: u64, code: &str) -> Refusal {
    Refusal { id, code: code.to_owned(), message: String::new() }
}
