//! A Postgres as far as the engine can tell: transactions with ids, a log, snapshots, a stream. It
//! does what the real one does and a naive model forgets: ids are given out when a transaction
//! begins, the log orders commits, and a commit is in the log, and streamed, before it is visible.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;
use rowtide_feed::{Acknowledgement, Change, Changes, History, Transaction};
use rowtide_plan::catalog::{
    Catalog, CatalogColumn, CatalogIndex, CatalogTable, ColumnInput, ReplicaIdentity,
    TableStreaming,
};
use rowtide_plan::encode::{Datum, RowEncoder};
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::{Row, Topic};
use rowtide_plan::value::ColumnType;
use rowtide_protocol::Lsn;

use super::data::{Data, DataRow, FIRST_US, added_column};
use crate::{HistoryRequest, Input, Load, Loaded, TransactionSnapshot};

pub(super) const TABLES: [&str; 3] = ["a", "b", "c"];
pub(super) const CLIENTS: [&str; 4] = ["client-0", "client-1", "client-2", "client-3"];
const IDS: i64 = 6;

/// How many columns each table has got since the beginning; each has the same value in every row.
pub(super) type Added = [usize; 3];

pub(crate) fn catalog() -> Catalog {
    catalog_with([0; 3])
}

pub(super) fn catalog_with(added: Added) -> Catalog {
    let column = |name: &str, kind: ColumnType, type_oid, type_name: &str| CatalogColumn {
        name: name.to_owned(),
        toastable: kind == ColumnType::Text,
        kind,
        type_oid,
        type_name: type_name.to_owned(),
        not_null: name == "id",
        deterministic: true,
        labels: Vec::new(),
        input: ColumnInput { type_name: type_name.to_owned(), ..ColumnInput::default() },
    };
    let added = |oid: usize| {
        (0..added[oid])
            .map(|number| column(&added_column(number), ColumnType::Text, 25, "text"))
            .collect::<Vec<_>>()
    };
    let first = || {
        vec![
            column("id", ColumnType::Int, 20, "bigint"),
            column("x", ColumnType::Int, 20, "bigint"),
            column("y", ColumnType::Text, 25, "text"),
            column("m", ColumnType::Array(Box::new(ColumnType::Text)), 1009, "text[]"),
            column("flag", ColumnType::Bool, 16, "boolean"),
            column("t", ColumnType::TimestampTz, 1184, "timestamp with time zone"),
        ]
    };
    let table = |(oid, name): (usize, &&str)| CatalogTable {
        oid: oid as u32,
        schema: "public".to_owned(),
        name: (*name).to_owned(),
        columns: first().into_iter().chain(added(oid)).collect(),
        primary_key: vec!["id".to_owned()],
        indexes: vec![CatalogIndex {
            name: format!("{name}_pkey"),
            columns: vec!["id".to_owned()],
            of_elements: false,
        }],
        replica_identity: ReplicaIdentity::Full,
        row_security: false,
        insert_trigger: false,
        streaming: TableStreaming::default(),
    };
    let tables = TABLES.iter().enumerate().map(table).collect();
    Catalog { tables, ..Catalog::default() }
}

/// What a transaction does to one row: `None` is a delete.
type Writes = BTreeMap<(usize, i64), Option<DataRow>>;

struct Committed {
    xid: u32,
    lsn: Lsn,
    truncated: Vec<usize>,
    writes: Writes,
    streamed: Arc<Transaction>,
    visible: bool,
}

/// Tables have got columns, and the stream says so here.
struct Reshaped {
    lsn: Lsn,
    tables: Vec<TableId>,
    plan: Arc<Plan>,
    added: Added,
}

pub(super) struct Postgres {
    /// Whether nothing is truncated and no transaction is too large, so that most can be resumed.
    is_calm: bool,
    /// The newest plan.
    plan: Arc<Plan>,
    reshaped: Vec<Reshaped>,
    /// What its clock says, as [`Data::now`] does; commits may be a little earlier.
    clock: i64,
    /// As of each commit, by LSN.
    states: BTreeMap<Lsn, Data>,
    log: Vec<Committed>,
    next_xid: u64,
    open: Vec<u64>,
    wal_end: Lsn,
    streamed: Lsn,
    /// How many of `log` have been streamed.
    stream_at: usize,
    /// The last mutation of each of [`CLIENTS`].
    acked: [u64; CLIENTS.len()],
}

impl Postgres {
    pub(super) fn new(plan: &Arc<Plan>, rng: &mut SmallRng) -> Postgres {
        let mut data = Data::default();
        for rows in &mut data.tables {
            for id in 1..=IDS {
                if rng.random_bool(0.6) {
                    rows.insert(id, DataRow::random(rng, id));
                }
            }
        }
        Postgres {
            plan: Arc::clone(plan),
            reshaped: Vec::new(),
            is_calm: rng.random_bool(0.6),
            clock: 0,
            states: BTreeMap::from([(Lsn(0), data)]),
            log: Vec::new(),
            // Close to where 32 bits end, so that histories cross it.
            next_xid: (1 << 32) - 20,
            open: Vec::new(),
            wal_end: Lsn(1000),
            streamed: Lsn(1000),
            stream_at: 0,
            acked: [0; CLIENTS.len()],
        }
    }

    /// The data as of the last commit up to `lsn`.
    pub(super) fn at(&self, lsn: Lsn) -> &Data {
        self.states.range(..=lsn).next_back().expect("there is a state from the start").1
    }

    /// The data as of each commit behind `after` and up to `lsn`.
    pub(super) fn between(&self, after: Lsn, lsn: Lsn) -> impl Iterator<Item = &Data> {
        self.states.range(..=lsn).filter(move |(at, _)| **at > after).map(|(_, data)| data)
    }

    /// Whether topics had to be loaded again behind `after` and up to `lsn`: for a transaction that could not be held, or
    /// because tables got columns.
    pub(super) fn was_loaded_again(&self, after: Lsn, lsn: Lsn) -> bool {
        let within = |at: Lsn| at > after && at <= lsn;
        let mut range = self.log.iter().filter(|c| within(c.lsn)).map(|c| &c.streamed.changes);
        range.any(|changes| matches!(changes, Changes::TooLarge(_)))
            || self.reshaped.iter().any(|reshaped| within(reshaped.lsn))
    }

    /// How many columns each table has got up to `lsn`.
    pub(super) fn added(&self, lsn: Lsn) -> Added {
        let last = self.reshaped.iter().rev().find(|reshaped| reshaped.lsn <= lsn);
        last.map_or([0; 3], |reshaped| reshaped.added)
    }

    /// The plan of rows at a position.
    pub(super) fn plan_at(&self, lsn: Lsn) -> Option<Arc<Plan>> {
        let last = self.reshaped.iter().rev().find(|reshaped| reshaped.lsn <= lsn)?;
        Some(Arc::clone(&last.plan))
    }

    /// Tables get columns, which `plan` has.
    pub(super) fn reshape(&mut self, added: Added, plan: Arc<Plan>) {
        let tables = self.plan.columns_added_by(&plan).expect("columns are added");
        self.plan = Arc::clone(&plan);
        let lsn = Lsn(self.wal_end.0 + 1);
        self.wal_end.0 += 64;
        self.reshaped.push(Reshaped { lsn, tables, plan, added });
    }

    pub(super) fn wal_end(&self) -> Lsn {
        self.wal_end
    }

    pub(super) fn streamed(&self) -> Lsn {
        self.streamed
    }

    pub(super) fn other_wal(&mut self) {
        self.wal_end.0 += 64;
    }

    pub(super) fn begin_or_commit(&mut self, rng: &mut SmallRng) {
        if self.open.is_empty() || rng.random_bool(0.4) {
            self.open.push(self.next_xid);
            self.next_xid += 1;
            return;
        }
        let xid = self.open.swap_remove(rng.random_range(0..self.open.len()));
        if rng.random_bool(0.1) {
            return; // Rolled back: never in the log.
        }
        self.commit(xid, rng);
    }

    /// Where the clock is behind that, a commit changes nothing but the time; `jump` seconds may have passed.
    pub(super) fn commit_behind(&mut self, us: i64, jump: i64) {
        let behind = us.saturating_sub(FIRST_US).div_euclid(1_000_000);
        self.clock = self.clock.max(behind.saturating_add(jump));
        if self.clock <= behind {
            return;
        }
        let xid = self.next_xid as u32;
        self.next_xid += 1;
        let mut data = self.at(Lsn(u64::MAX)).clone();
        data.now = self.clock;
        self.wal_end.0 += 50;
        let (lsn, writes) = (self.wal_end, Writes::new());
        let streamed = self.transaction(xid, (lsn, data.now), &data, &[], &writes, false);
        let (streamed, truncated) = (Arc::new(streamed), Vec::new());
        self.log.push(Committed { xid, lsn, truncated, writes, streamed, visible: true });
        self.states.insert(lsn, data);
    }

    fn commit(&mut self, xid: u64, rng: &mut SmallRng) {
        let before = self.at(Lsn(u64::MAX)).clone();
        let mut data = before.clone();
        self.clock += rng.random_range(0..4);
        data.now = self.clock - if rng.random_bool(0.2) { rng.random_range(0..4) } else { 0 };
        // A row that an invisible transaction wrote is still locked by it.
        let hidden = || self.log.iter().filter(|committed| !committed.visible);
        let locked = |at: &(usize, i64)| {
            hidden().any(|c| c.writes.contains_key(at) || c.truncated.contains(&at.0))
        };
        let mut truncated = Vec::new();
        let truncates = !self.is_calm && rng.random_bool(0.05) && hidden().next().is_none();
        if truncates {
            let table = rng.random_range(0..TABLES.len());
            data[table].clear();
            truncated.push(table);
        }
        let mut writes = Writes::new();
        for _ in 0..rng.random_range(1..5) {
            let (table, id) = (rng.random_range(0..TABLES.len()), rng.random_range(1..=IDS));
            if locked(&(table, id)) {
                continue;
            }
            let row = rng.random_bool(0.75).then(|| DataRow::random(rng, id));
            match &row {
                Some(row) => data[table].insert(id, row.clone()),
                None => data[table].remove(&id),
            };
            writes.insert((table, id), row);
        }
        self.wal_end.0 += 100;
        let lsn = self.wal_end;
        let large = !self.is_calm && rng.random_bool(0.08);
        let streamed =
            self.transaction(xid as u32, (lsn, data.now), &before, &truncated, &writes, large);
        let mut streamed = streamed;
        if rng.random_bool(0.5) {
            let client = rng.random_range(0..CLIENTS.len());
            self.acked[client] += 1;
            streamed.acknowledgements.push(Arc::new(Acknowledgement {
                client: CLIENTS[client].into(),
                last_mutation: self.acked[client],
                rejected: Vec::new(),
                name: None,
                keys: Vec::new(),
            }));
        }
        let streamed = Arc::new(streamed);
        self.log.push(Committed {
            xid: xid as u32,
            lsn,
            truncated,
            writes,
            streamed,
            visible: false,
        });
        self.states.insert(lsn, data);
        if rng.random_bool(0.6) {
            self.log.last_mut().expect("just pushed").visible = true;
        }
    }

    fn transaction(
        &self,
        xid: u32,
        (lsn, now): (Lsn, i64),
        before: &Data,
        truncated: &[usize],
        writes: &Writes,
        large: bool,
    ) -> Transaction {
        let id = |table: usize| table_id(&self.plan, table);
        let changes = if large {
            let mut tables: Vec<TableId> = writes.keys().map(|(table, _)| id(*table)).collect();
            tables.dedup();
            Changes::TooLarge(tables)
        } else {
            let change = |((table, row_id), new): (&(usize, i64), &Option<DataRow>)| {
                let old = before[*table].get(row_id).filter(|_| !truncated.contains(table));
                let old = old.map(|old| encode(&self.plan, *table, old).image);
                let new = new.as_ref().map(|new| Arc::new(encode(&self.plan, *table, new)));
                Change::between(id(*table), old, new)
            };
            Changes::Rows(writes.iter().filter_map(change).collect())
        };
        let truncated = truncated.iter().map(|table| id(*table)).collect();
        Transaction {
            lsn,
            xid,
            commit_time_us: FIRST_US + now * 1_000_000,
            truncated,
            changes,
            acknowledgements: Vec::new(),
        }
    }

    /// One of the commits that are only in the log becomes visible, in no particular order.
    pub(super) fn make_visible(&mut self, rng: &mut SmallRng) {
        let mut hidden: Vec<&mut Committed> =
            self.log.iter_mut().filter(|committed| !committed.visible).collect();
        if !hidden.is_empty() {
            let at = rng.random_range(0..hidden.len());
            hidden[at].visible = true;
        }
    }

    pub(super) fn finish_all(&mut self) {
        self.open.clear();
        for committed in &mut self.log {
            committed.visible = true;
        }
    }

    /// The next thing that the stream brings, if any.
    pub(super) fn stream(&mut self, rng: &mut SmallRng) -> Option<Input> {
        if self.stream_at > 0 && rng.random_bool(0.05) {
            // It was cut, and starts again from an earlier place.
            self.stream_at = rng.random_range(0..self.stream_at);
        }
        let next = self.log.get(self.stream_at).map(|committed| committed.lsn);
        let reshaped = self.reshaped.iter().find(|reshaped| reshaped.lsn > self.streamed);
        if let Some(Reshaped { lsn, tables, plan, .. }) = reshaped
            && next.is_none_or(|next| next > *lsn)
        {
            self.streamed = *lsn;
            let (lsn, tables, plan) = (*lsn, tables.clone(), Arc::clone(plan));
            return Some(Input::Reshaped { lsn, tables, plan });
        }
        if let Some(committed) = self.log.get(self.stream_at) {
            self.stream_at += 1;
            self.streamed = self.streamed.max(committed.lsn);
            return Some(Input::Transaction(Arc::clone(&committed.streamed)));
        }
        if self.streamed < self.wal_end {
            self.streamed = self.wal_end;
            return Some(Input::Position(self.wal_end));
        }
        None
    }

    /// A server that was killed has the stream up to a position of its log. Returns the transactions until there.
    pub(super) fn restart(&mut self, rng: &mut SmallRng) -> Vec<Arc<Transaction>> {
        let streamed: Vec<Lsn> = self.log.iter().map(|committed| committed.lsn).collect();
        let places: Vec<Lsn> = streamed.into_iter().filter(|lsn| *lsn <= self.streamed).collect();
        if !places.is_empty() && rng.random_bool(0.5) {
            let from = places.len().saturating_sub(4);
            self.streamed = places[rng.random_range(from..places.len())];
        }
        let logged: Vec<_> = self.log.iter().filter(|c| c.lsn <= self.streamed).collect();
        self.stream_at = rng.random_range(0..=logged.len());
        let mut recent: Vec<Arc<Transaction>> =
            logged.into_iter().map(|committed| Arc::clone(&committed.streamed)).collect();
        for reshaped in self.reshaped.iter().filter(|reshaped| reshaped.lsn <= self.streamed) {
            for before in recent.iter_mut().filter(|before| before.lsn < reshaped.lsn) {
                if let Some(without) = before.without_rows_of(&reshaped.tables) {
                    *before = Arc::new(without);
                }
            }
        }
        recent
    }

    pub(super) fn history(&self, request: &HistoryRequest) -> History {
        let mut history = History::default();
        let before = self.log.iter().rev().find(|c| c.lsn <= request.after);
        history.time_us = before.map(|committed| committed.streamed.commit_time_us);
        let range = self.log.iter().filter(|c| c.lsn > request.after && c.lsn <= request.up_to);
        for committed in range {
            let transaction = &committed.streamed;
            let mut tables = transaction.truncated.clone();
            let of_topics = |topics: &[Topic]| topics.iter().any(|t| request.topics.contains(t));
            match &transaction.changes {
                Changes::TooLarge(too_large) => tables.extend(too_large),
                Changes::Rows(changes) => {
                    let concerns = |change: &&Change| {
                        of_topics(change.topics_before()) || of_topics(change.topics_after())
                    };
                    let concerned = changes.iter().filter(concerns);
                    history.changes.extend(concerned.map(|change| (committed.lsn, change.clone())));
                }
            }
            history.interrupted.extend(tables.iter().filter(|t| request.tables.contains(t)));
        }
        let in_range = |lsn: Lsn| lsn > request.after && lsn <= request.up_to;
        for reshaped in self.reshaped.iter().filter(|reshaped| in_range(reshaped.lsn)) {
            let of_these = reshaped.tables.iter().filter(|t| request.tables.contains(t));
            history.reshaped.extend(of_these);
        }
        history
    }

    pub(super) fn load(&self, load: &Load, rng: &mut SmallRng) -> Loaded {
        let plan = &*load.plan;
        let mut data = self.states[&Lsn(0)].clone();
        let mut unseen = self.open.clone();
        for committed in &self.log {
            if !committed.visible {
                let distance = committed.xid.wrapping_sub(self.next_xid as u32) as i32;
                unseen.push(self.next_xid.wrapping_add_signed(i64::from(distance)));
                continue;
            }
            for table in &committed.truncated {
                data[*table].clear();
            }
            for ((table, id), row) in &committed.writes {
                match row {
                    Some(row) => data[*table].insert(*id, row.clone()),
                    None => data[*table].remove(id),
                };
            }
        }
        let all: Vec<Arc<Row>> = (0..TABLES.len())
            .flat_map(|table| data[table].values().map(move |row| (table, row)))
            .map(|(table, row)| Arc::new(encode(plan, table, row)))
            .collect();
        let of_topic = |(topic, most): (&Topic, &Option<usize>)| {
            assert!(usize::from(topic.branch.0) < plan.branches.len());
            let of_topic = all.iter().filter(|row| row.image.topics.contains(topic)).cloned();
            let mut rows: Vec<Arc<Row>> = of_topic.collect();
            if let Some(most) = most {
                let window = plan.branch(topic.branch).window.map(|id| plan.window(id));
                let window = window.expect("rows are limited for a window alone");
                rows.sort_by_key(|row| window.rank(&row.image.kept));
                // Others may have asked for more.
                rows.truncate(most + usize::from(rng.random_bool(0.1)));
            }
            Some(rows.into_iter().collect())
        };
        Loaded {
            snapshot: TransactionSnapshot::new(self.next_xid, unseen),
            position: self.wal_end,
            rows: load.topics.iter().zip(&load.most).map(of_topic).collect(),
        }
    }
}

fn table_id(plan: &Plan, table: usize) -> TableId {
    plan.table_id("public", TABLES[table]).expect("every table has a rule")
}

fn encode(plan: &Plan, table: usize, row: &DataRow) -> Row {
    let (id, x) = (row.id.to_string(), row.x.map(|x| x.to_string()));
    let flag = row.flag.map(|flag| if flag { "t" } else { "f" });
    let datum =
        |text: Option<&'static str>| text.map_or(Datum::Null, |text| Datum::Text(text.as_bytes()));
    let x = x.as_ref().map_or(Datum::Null, |x| Datum::Text(x.as_bytes()));
    let table = table_id(plan, table);
    let columns: Vec<&str> =
        plan.table(table).catalog.columns.iter().map(|column| column.name.as_str()).collect();
    let elements =
        |of: &[Option<&'static str>]| of.iter().map(|e| e.unwrap_or("NULL")).collect::<Vec<_>>();
    let m = row.m.map(|of| format!("{{{}}}", elements(of).join(",")));
    let m = m.as_ref().map_or(Datum::Null, |m| Datum::Text(m.as_bytes()));
    let t = row.t.map(|t| format!("2026-01-01 00:00:{t:02}+00"));
    let t = t.as_ref().map_or(Datum::Null, |t| Datum::Text(t.as_bytes()));
    let mut datums = vec![Datum::Text(id.as_bytes()), x, datum(row.y), m, datum(flag), t];
    datums.resize(columns.len(), Datum::Text(b"z"));
    let encoder = RowEncoder::new(plan, table, &columns).expect("the columns are all there");
    encoder.row(&datums).expect("the row can be encoded")
}
