//! A row that is deleted with a link to one of its topics, or soon after, or after it moved. Of a client that came back the
//! rows of some topics are not read, so the row itself must say that it is gone.

#![allow(clippy::unwrap_used, reason = "a test")]

mod teams;

use std::sync::Arc;

use rowtide_engine::{
    Engine, HistoryRequest, Input, Load, Loaded, Opening, Output, SessionId, Subscribing,
    SubscriptionId, TransactionSnapshot,
};
use rowtide_feed::{Change, Changes, History, RowChange, Transaction};
use rowtide_plan::encode::{Datum, RowEncoder};
use rowtide_plan::plan::Plan;
use rowtide_plan::row::Row;
use rowtide_plan::value::ColumnType;
use rowtide_protocol::{Cursor, Epoch, Lsn};

use crate::teams::plan;

const DEFINITION: &str = "
    [tables.member]
    visible = 'person = auth.user_id'
    [tables.note]
    visible = '''person = auth.user_id
                 OR team IN (SELECT team FROM member WHERE person = auth.user_id)'''
";

/// An engine whose loads and questions to the log are answered at once.
struct Deployment {
    plan: Arc<Plan>,
    engine: Engine,
    rows: Vec<(&'static str, Arc<Row>)>,
    /// What loads see: whether all rows are deleted, by the transactions 10 and 11, and where WAL ends.
    deleted: bool,
    wal_end: Lsn,
    /// What the log has.
    log: Vec<(Lsn, Change)>,
}

impl Deployment {
    fn new(definition: &str, rows: &[(&'static str, [&str; 3])]) -> Deployment {
        let plan = plan(definition, (ColumnType::Int, 20, "bigint"));
        let encode = |(table, columns): &(&'static str, [&str; 3])| {
            let id = plan.table_id("public", table).unwrap();
            let encoder = RowEncoder::new(&plan, id, &["id", "team", "person"]).unwrap();
            let datums = columns.map(|text| Datum::Text(text.as_bytes()));
            (*table, Arc::new(encoder.row(&datums).unwrap()))
        };
        let rows = rows.iter().map(encode).collect();
        let engine = Engine::new(Arc::clone(&plan), Epoch(1), Lsn(100), &[], usize::MAX);
        Deployment { plan, engine, rows, deleted: false, wal_end: Lsn(100), log: Vec::new() }
    }

    /// Takes an input, and what follows from it until nothing is asked any more.
    fn step(&mut self, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        let mut next = Some(input);
        while let Some(input) = next {
            self.engine.step(input, &mut outputs);
            let question = self.engine.take_history();
            let question = question.map(|of| Input::History(of.id, Some(self.history(&of))));
            next = question.or_else(|| self.engine.take_load(100).map(|load| self.load(load)));
        }
        outputs
    }

    fn history(&self, asked: &HistoryRequest) -> History {
        let concerns = |change: &Change| change.topics().any(|topic| asked.topics.contains(topic));
        let changes =
            self.log.iter().filter(|(lsn, change)| *lsn > asked.after && concerns(change));
        History { changes: changes.cloned().collect(), ..History::default() }
    }

    fn load(&self, load: Load) -> Input {
        let of_topic = |topic| {
            let rows = self.rows.iter().map(|(_, row)| row).filter(|_| !self.deleted);
            Some(rows.filter(|row| row.image.topics.contains(topic)).cloned().collect())
        };
        let rows = load.topics.iter().map(of_topic).collect();
        let next_xid = if self.deleted { 12 } else { 10 };
        let snapshot = TransactionSnapshot::new(next_xid, vec![]);
        Input::Loaded(load.id, Loaded { snapshot, position: self.wal_end, rows })
    }

    fn open(&mut self, session: u64, user: &str, cursor: Option<Cursor>) -> Vec<Output> {
        self.open_with(session, user, cursor, &[])
    }

    /// With subscriptions to the notes of these teams.
    fn open_with(
        &mut self,
        session: u64,
        user: &str,
        cursor: Option<Cursor>,
        teams: &[u64],
    ) -> Vec<Output> {
        let claims = self.plan.resolve_claims(user, &serde_json::Map::new());
        let subscribing = |team: &u64| {
            let params = [("team".to_owned(), (*team).into())].into_iter().collect();
            let (query, claims) = self.plan.select(&claims, "of_team", &params).unwrap();
            Subscribing { id: SubscriptionId(*team), query, claims }
        };
        let subscriptions = teams.iter().map(subscribing).collect();
        let (session, not_before, client) = (SessionId(session), None, None);
        self.step(Input::Open(Opening {
            session,
            claims,
            client,
            not_before,
            cursor,
            subscriptions,
        }))
    }

    /// One transaction deletes these rows, in this order.
    fn delete(&mut self, xid: u32, rows: &[usize]) -> Vec<Output> {
        let change = |at: &usize| {
            let (table, row) = &self.rows[*at];
            let table = self.plan.table_id("public", table).unwrap();
            Change { table, row: RowChange::Delete(row.image.clone()) }
        };
        let changes = rows.iter().map(change).collect();
        self.commit(xid, changes)
    }

    fn commit(&mut self, xid: u32, changes: Vec<Change>) -> Vec<Output> {
        let lsn = Lsn(u64::from(xid) * 100);
        self.log.extend(changes.iter().map(|change| (lsn, change.clone())));
        let changes = Changes::Rows(changes);
        self.step(Input::Transaction(Arc::new(Transaction {
            lsn,
            xid,
            commit_time_us: 0,
            truncated: Vec::new(),
            changes,
            acknowledgements: Vec::new(),
        })))
    }
}

#[test]
fn a_row_that_is_deleted_with_a_link_to_it_is_not_shown_again_to_who_came_back() {
    let ann = ("member", ["1", "2", "ann"]);
    let bob = ("member", ["2", "2", "bob"]);
    let note = ("note", ["3", "2", "ann"]);
    let mut deployment = Deployment::new(DEFINITION, &[ann, bob, note]);
    let first = deployment.open(1, "ann", None);
    let Some(Output::Ready { cursor, .. }) = first.last() else { panic!("{first:?}") };
    deployment.step(Input::Close(SessionId(1)));
    // The rows of the team are read for somebody else; those of the person are not.
    deployment.open(2, "bob", None);
    let back = deployment.open(3, "ann", Some(*cursor));
    assert!(matches!(back.as_slice(), [Output::Begin { .. }, Output::Ready { .. }]), "{back:?}");
    let told = deployment.delete(10, &[0, 2]);
    assert_eq!(changes(&told, 3), Some(BOTH_GONE));
}

#[test]
fn a_row_that_is_deleted_after_the_link_to_it_is_taken_from_who_came_back_though_a_load_ran_ahead()
{
    let ann = ("member", ["1", "2", "ann"]);
    let note = ("note", ["3", "2", "eve"]);
    let mut deployment = Deployment::new(DEFINITION, &[ann, note]);
    let first = deployment.open(1, "ann", None);
    let Some(Output::Ready { cursor, .. }) = first.last() else { panic!("{first:?}") };
    deployment.step(Input::Close(SessionId(1)));
    let back = deployment.open(2, "ann", Some(*cursor));
    assert!(matches!(back.as_slice(), [Output::Begin { .. }, Output::Ready { .. }]), "{back:?}");
    // The notes of the team are read first when they are gone already, of which the stream has not told.
    (deployment.deleted, deployment.wal_end) = (true, Lsn(1_100));
    let claims = deployment.plan.resolve_claims("ann", &serde_json::Map::new());
    let (session, client) = (SessionId(3), None);
    let opening = Opening {
        session,
        claims,
        client,
        not_before: Some(Lsn(1_000)),
        cursor: None,
        subscriptions: Vec::new(),
    };
    deployment.step(Input::Open(opening));
    assert_eq!(changes(&deployment.delete(10, &[0]), 2), None, "it waits for what was read");
    let told = deployment.delete(11, &[1]);
    assert_eq!(changes(&told, 2), Some(BOTH_GONE));
}

#[test]
fn a_row_that_moves_from_one_subscription_to_another_and_is_deleted_is_taken_from_who_comes_back() {
    let definition = "
        [tables.note]\nsync = 'on_demand'\nvisible = 'true'
        [tables.member]\nvisible = 'person = auth.user_id'
        [queries.of_team]\nparams = { team = 'int8' }
        [queries.of_team.select]\nnote = { where = 'team = params.team' }";
    let here = ("note", ["3", "2", "eve"]);
    let there = ("note", ["3", "4", "eve"]);
    let mut deployment = Deployment::new(definition, &[here, there]);
    let (_, there) = deployment.rows.pop().unwrap();
    let first = deployment.open_with(1, "ann", None, &[2, 4]);
    let Some(Output::Ready { cursor, .. }) = first.last() else { panic!("{first:?}") };
    deployment.step(Input::Close(SessionId(1)));
    let note = deployment.plan.table_id("public", "note").unwrap();
    let (before, after) = (deployment.rows[0].1.image.clone(), Arc::clone(&there));
    let gone = RowChange::Delete(there.image.clone());
    deployment.commit(10, vec![Change { table: note, row: RowChange::Update { before, after } }]);
    deployment.commit(11, vec![Change { table: note, row: gone }]);
    (deployment.deleted, deployment.wal_end) = (true, Lsn(1_100));
    let back = deployment.open_with(2, "ann", Some(*cursor), &[2, 4]);
    assert_eq!(changes(&back, 2), Some(r#"{"op":"delete","table":"note","row":{"id":3}}"#));
}

const BOTH_GONE: &str = r#"{"op":"delete","table":"member","row":{"id":1}},{"op":"delete","table":"note","row":{"id":3}}"#;

/// What a session is told has changed.
fn changes(told: &[Output], session: u64) -> Option<&str> {
    told.iter().find_map(|output| match output {
        Output::Tx { session: of, message, .. } if *of == SessionId(session) => {
            std::str::from_utf8(message.changes()).ok()
        }
        _ => None,
    })
}
