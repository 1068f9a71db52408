//! A Postgres as far as Rowtide can tell. Ids are given out when a transaction begins, the log orders
//! commits, and a commit is in the log, and streamed, before it is visible to others, which wait for its
//! rows meanwhile; a synchronous standby that stalls stretches that at will. The stream starts from what its
//! slot has confirmed. A failover goes back to an older state, and from there another history begins, which
//! may use the same ids and positions again.

pub mod catalog;
pub mod database;
pub mod ddl;
mod load;
mod mutate;
mod observe;
mod walsender;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rowtide_feed::Acknowledgement;
use rowtide_protocol::Lsn;

use self::catalog::SETUP_XID;
use self::database::{ClientRow, Database, State, Work};

pub use self::mutate::{Answer, Mutation, refusal};
pub use self::walsender::{Sent, Walsender, WalsenderError};

struct Commit {
    xid: u64,
    lsn: Lsn,
    time_ms: u64,
    work: Work,
    before: Arc<State>,
    after: Arc<State>,
    visible: bool,
}

/// The replication slot.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub confirmed: Lsn,
    /// Postgres has thrown away WAL that it needs.
    pub lost: bool,
}

pub struct Postgres {
    pub up: bool,
    pub up_since_ms: u64,
    /// Whether it is of version 18, which passes over changes of a publication that is not there.
    pub newer: bool,
    /// Whether it is of version 14, and there are partitions.
    pub remembers_partitions: bool,
    /// Grows with every restart; what was begun in an earlier one is gone.
    pub life: u64,
    /// As a server can ask for it: another one after the promotion of a standby.
    pub timeline: u32,
    pub slot: Option<Slot>,
    pub wal_end: Lsn,
    /// The furthest that anything was streamed in this history.
    pub streamed: Lsn,
    /// Its synchronous standby does not answer: commits are in the log and are not visible.
    pub stalled: bool,
    /// Of each history the state as of each commit; the last history is the present one.
    histories: Vec<BTreeMap<Lsn, Arc<State>>>,
    log: Vec<Commit>,
    /// What a new snapshot sees.
    pub visible: Database,
    open: BTreeSet<u64>,
    next_xid: u64,
}

/// Where the log begins.
const BEGINNING: Lsn = Lsn(1000);

impl Postgres {
    pub fn new(database: Database, newer: bool) -> Postgres {
        let state = State { database: database.clone(), ..State::default() };
        Postgres {
            up: true,
            up_since_ms: 0,
            newer,
            remembers_partitions: false,
            life: 0,
            timeline: 1,
            slot: None,
            wal_end: BEGINNING,
            streamed: BEGINNING,
            stalled: false,
            histories: vec![BTreeMap::from([(BEGINNING, Arc::new(state))])],
            log: Vec::new(),
            visible: database,
            open: BTreeSet::new(),
            // Close to where 32 bits end, so that deployments cross it.
            next_xid: SETUP_XID + 1,
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
        let locks = |work: &Work| -> BTreeSet<u32> {
            work.ddl.iter().filter_map(ddl::Ddl::locks).chain(work.truncated.clone()).collect()
        };
        let rows =
            |work: &Work| -> BTreeSet<u32> { work.writes.keys().map(|place| place.0).collect() };
        let catalog =
            |work: &Work| -> BTreeSet<u32> { work.ddl.iter().map(ddl::Ddl::writes).collect() };
        self.log.iter().rev().filter(|commit| !commit.visible).any(|other| {
            let theirs = &other.work;
            theirs.client.as_ref().is_some_and(|(id, _)| Some(id) == client)
                || work.writes.keys().any(|place| theirs.writes.contains_key(place))
                || !locks(work).is_disjoint(&locks(theirs))
                || !locks(work).is_disjoint(&rows(theirs))
                || !rows(work).is_disjoint(&locks(theirs))
                || !catalog(work).is_disjoint(&catalog(theirs))
                // What it does is worked out on the catalog of the last commit.
                || !work.ddl.is_empty() && !theirs.ddl.is_empty()
        })
    }

    /// Commits, in the log alone: [`Postgres::show`] makes it visible.
    pub fn commit(&mut self, xid: u64, work: Work, now_ms: u64) -> Lsn {
        assert!(self.open.remove(&xid), "only what was begun is committed");
        let before = Arc::clone(self.now());
        let mut state = State::clone(&before);
        self.wal_end.0 += 100;
        let lsn = self.wal_end;
        state.apply(&work, xid, lsn);
        let after = Arc::new(state);
        self.histories.last_mut().expect("there is one").insert(lsn, Arc::clone(&after));
        let visible = false;
        self.log.push(Commit { xid, lsn, time_ms: now_ms, work, before, after, visible });
        lsn
    }

    /// Makes a commit visible, unless the standby has to take it first.
    pub fn show(&mut self, lsn: Lsn) {
        if !self.stalled {
            self.show_at_once(lsn);
        }
    }

    /// Makes a commit visible that waits for no standby (`synchronous_commit = local`).
    fn show_at_once(&mut self, lsn: Lsn) {
        let Ok(index) = self.log.binary_search_by_key(&lsn, |commit| commit.lsn) else { return };
        let commit = &mut self.log[index];
        if !std::mem::replace(&mut commit.visible, true) {
            self.visible.apply(&commit.work, commit.xid);
        }
    }

    pub fn is_visible(&self, lsn: Lsn) -> bool {
        let found = self.log.binary_search_by_key(&lsn, |commit| commit.lsn);
        found.is_ok_and(|index| self.log[index].visible)
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

    /// The standby answers, and everything that was committed becomes visible.
    pub fn show_all(&mut self) {
        self.stalled = false;
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
        self.visible = self.now().database.clone();
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
            self.slot = Some(Slot { confirmed: self.wal_end, lost: false });
        }
        quiet
    }

    /// The row of a client id, as it can be seen, which is `user`'s from now on if it is nobody's. One that says
    /// less than what the client knows is raised to it.
    pub fn claim(&mut self, client: &str, user: &str, known: u64, now_ms: u64) -> Claim {
        let visible = self.visible.clients.get(client);
        if let Some(row) = visible.filter(|row| row.last >= known || row.user != user) {
            return Claim::Row(Arc::clone(row));
        }
        let is_new = visible.is_none();
        let row = match visible {
            Some(row) => ClientRow { last: known, ..ClientRow::clone(row) },
            None => ClientRow { user: user.to_owned(), last: known, ..ClientRow::default() },
        };
        let row = Arc::new(row);
        let acknowledgement = visible.map(|_| Acknowledgement {
            client: client.into(),
            last_mutation: known,
            rejected: Vec::new(),
            name: None,
            keys: Vec::new(),
        });
        let client = Some((client.to_owned(), Arc::clone(&row)));
        let work = Work { client, acknowledgement, ..Work::default() };
        if self.must_wait(&work) {
            return if is_new { Claim::Waits } else { Claim::Locked };
        }
        let xid = self.begin();
        let lsn = self.commit(xid, work, now_ms);
        self.show_at_once(lsn);
        Claim::Row(row)
    }
}

/// What comes of a claim.
#[derive(Debug)]
pub enum Claim {
    Row(Arc<ClientRow>),
    /// Another transaction has the row, which is passed over then.
    Locked,
    /// Another transaction makes it, and is waited for.
    Waits,
}
