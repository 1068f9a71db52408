//! What a step costs in a view of very many rows: it is counted how many of them the engine looks at.

use std::sync::Arc;

use rowtide_feed::{Change, Changes, RowChange, Transaction};
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::encode::{Datum, RowEncoder};
use rowtide_plan::plan::Plan;
use rowtide_plan::row::Row;
use rowtide_protocol::{Epoch, Lsn, ServerMessage};

use crate::model::postgres::catalog;
use crate::rows::LOOKED_AT;
use crate::topics::LOOKED_UP;
use crate::{
    Engine, Input, Loaded, Opening, Output, Place, SessionId, Subscribing, SubscriptionId,
    TopicRows, TransactionSnapshot, ViewRows,
};

const ROWS: usize = 20_000;

/// One view of many rows; a row with `x = 1` is in it for two reasons.
struct Deployment {
    plan: Arc<Plan>,
    engine: Engine,
    next: u64,
}

impl Deployment {
    fn new(row_budget: usize) -> Deployment {
        Deployment::of("[tables.a]\nvisible = 'y = auth.user_id OR x = 1'", row_budget)
    }

    fn of(definition: &str, row_budget: usize) -> Deployment {
        let definition = Definition::parse("rowtide.toml", definition).unwrap();
        let plan = Arc::new(compile(&definition, &catalog()).unwrap());
        let engine = Engine::new(Arc::clone(&plan), Epoch(1), Lsn(100), &[], row_budget);
        Deployment { plan, engine, next: 100 }
    }

    fn row(&self, id: usize, flag: &str) -> Arc<Row> {
        let table = self.plan.table_id("public", "a").unwrap();
        let encoder =
            RowEncoder::new(&self.plan, table, &["id", "x", "y", "flag", "m", "t"]).unwrap();
        let (id, x) = (id.to_string(), (id % 2).to_string());
        let datums = [&id, &x, "p", flag, "{}"].map(|text| Datum::Text(text.as_bytes()));
        let datums: Vec<Datum<'_>> = datums.into_iter().chain([Datum::Null]).collect();
        Arc::new(encoder.row(&datums).unwrap())
    }

    /// Takes an input; returns what follows, and how many rows were looked at.
    fn step(&mut self, input: Input) -> (Vec<Output>, usize) {
        let mut outputs = Vec::new();
        let before = LOOKED_AT.get();
        self.engine.advance(input, &mut outputs);
        (outputs, LOOKED_AT.get() - before)
    }

    fn open(&mut self, session: u64) -> (Vec<Output>, usize) {
        let claims = self.plan.resolve_claims("p", &serde_json::Map::new());
        let (session, client) = (SessionId(session), None);
        let opening = Opening {
            session,
            claims,
            client,
            not_before: None,
            cursor: None,
            subscriptions: Vec::new(),
        };
        self.step(Input::Open(opening))
    }

    /// Everything that is wanted arrives.
    fn load(&mut self) -> (Vec<Output>, usize) {
        let load = self.engine.take_load(100).unwrap();
        let all: Vec<Arc<Row>> = (0..ROWS).map(|id| self.row(id, "t")).collect();
        let of_topic = |topic| {
            let rows = all.iter().filter(|row| row.image.topics.contains(topic));
            Some(rows.cloned().collect::<TopicRows>())
        };
        let rows = load.topics.iter().map(of_topic).collect();
        let snapshot = TransactionSnapshot::new(10, vec![]);
        self.step(Input::Loaded(load.id, Loaded { snapshot, position: Lsn(100), rows }))
    }

    fn update(&mut self, id: usize) -> (Vec<Output>, usize) {
        let (before, after) = (self.row(id, "t").image.clone(), self.row(id, "f"));
        let table = self.plan.table_id("public", "a").unwrap();
        self.commit(vec![Change { table, row: RowChange::Update { before, after } }])
    }

    /// The view gains the rows with `x = 1`.
    fn link(&mut self) -> (Vec<Output>, usize) {
        self.insert_beside(1)
    }

    /// The other table gets a row of this id and `x = 1`.
    fn insert_beside(&mut self, id: usize) -> (Vec<Output>, usize) {
        let table = self.plan.table_id("public", "b").unwrap();
        let encoder =
            RowEncoder::new(&self.plan, table, &["id", "x", "y", "flag", "m", "t"]).unwrap();
        let id = id.to_string();
        let datums = [&id, "1", "p", "t", "{}"].map(|text| Datum::Text(text.as_bytes()));
        let datums: Vec<Datum<'_>> = datums.into_iter().chain([Datum::Null]).collect();
        let row = Arc::new(encoder.row(&datums).unwrap());
        self.commit(vec![Change { table, row: RowChange::Insert(row) }])
    }

    fn commit(&mut self, changes: Vec<Change>) -> (Vec<Output>, usize) {
        self.next += 100;
        self.step(Input::Transaction(Arc::new(Transaction {
            lsn: Lsn(self.next),
            xid: 10 + self.next as u32,
            commit_time_us: 0,
            truncated: Vec::new(),
            changes: Changes::Rows(changes),
            acknowledgements: Vec::new(),
        })))
    }
}

fn snapshot(outputs: &[Output]) -> Arc<ViewRows> {
    let rows = outputs.iter().find_map(|output| match output {
        Output::Snapshot { rows, .. } => Some(Arc::clone(rows)),
        _ => None,
    });
    rows.unwrap_or_else(|| panic!("no rows in {outputs:?}"))
}

/// How many rows are in a snapshot, how many slices it takes to say them, and how many are `false`.
fn read(rows: &ViewRows) -> (usize, usize, usize) {
    let (mut place, mut count, mut slices, mut changed) = (Place::default(), 0, 0, 0);
    let flag = br#""flag":false"#;
    let is_false = |row: &&&Arc<Row>| row.json.windows(flag.len()).any(|part| part == flag);
    while let Some(slice) = rows.slice(place, 64 * 1024) {
        place = slice.next;
        count += slice.rows.len();
        slices += 1;
        changed += slice.rows.iter().filter(is_false).count();
    }
    (count, slices, changed)
}

#[test]
fn a_step_that_loads_or_opens_a_large_view_looks_at_no_row() {
    let mut deployment = Deployment::new(usize::MAX);
    assert_eq!(deployment.open(1).1, 0);
    let (outputs, looked_at) = deployment.load();
    assert_eq!(looked_at, 0, "a first load is taken as it is");
    let first = snapshot(&outputs);
    let (outputs, looked_at) = deployment.open(2);
    assert_eq!(looked_at, 0, "what is sent is not looked at");
    assert!(Arc::ptr_eq(&first, &snapshot(&outputs)), "nothing has changed: it is the same");
    assert_eq!(deployment.update(7).1, 0);
    let (outputs, looked_at) = deployment.open(3);
    assert_eq!(looked_at, 0);
    let later = snapshot(&outputs);
    let (count, slices, changed) = read(&first);
    assert!(slices > 10, "{slices} slices");
    assert_eq!((count, changed), (ROWS, 0), "each once, as it was");
    assert_eq!(read(&later), (ROWS, slices, 1));
    drop(first);
}

#[test]
fn a_step_in_which_a_view_gains_many_rows_looks_at_none_of_them() {
    let mut deployment = Deployment::of(
        "[tables.b]
         visible = 'y = auth.user_id'
         [tables.a]
         visible = 'x IN (SELECT x FROM b WHERE y = auth.user_id)'",
        usize::MAX,
    );
    deployment.open(1);
    deployment.load();
    assert_eq!(deployment.link().1, 0);
    let (outputs, looked_at) = deployment.load();
    assert_eq!(looked_at, 0);
    let message = outputs.iter().find_map(|output| match output {
        Output::Tx { message, .. } => Some(Arc::clone(message)),
        _ => None,
    });
    let message = message.unwrap_or_else(|| panic!("no message in {outputs:?}"));
    // What changes afterwards is not part of it.
    deployment.update(1);
    let frame = message.frame().text().clone();
    let text = std::str::from_utf8(&frame).unwrap();
    let Ok(ServerMessage::Tx { changes, .. }) = ServerMessage::parse(text) else {
        panic!("not a tx");
    };
    assert_eq!(changes.len(), ROWS / 2 + 1, "the link, and what it leads to");
    assert!(!text.contains("false") && message.size() < 1000);
}

#[test]
fn rows_that_are_evicted_are_handed_out_and_stay_in_what_was_frozen() {
    let mut deployment = Deployment::new(1000);
    deployment.open(1);
    let (outputs, looked_at) = deployment.load();
    let rows = snapshot(&outputs);
    let discarded = outputs.iter().map(|output| match output {
        Output::Discarded(rows) => rows.len(),
        _ => 0,
    });
    assert_eq!(
        discarded.sum::<usize>(),
        ROWS + ROWS / 2,
        "a row is in two topics for its two reasons"
    );
    assert_eq!((looked_at, deployment.engine.counts().row_bytes), (0, 0));
    assert_eq!(read(&rows).0, ROWS);
    // Who comes now has them loaded again.
    deployment.open(2);
    assert_eq!(read(&snapshot(&deployment.load().0)).0, ROWS);
}

#[test]
fn a_value_that_enters_a_set_looks_at_its_rows_alone() {
    let mut deployment = Deployment::of(
        "[tables.b]
         visible = 'false'
         [tables.a]
         visible = 'y = auth.user_id AND id NOT IN (SELECT id FROM b WHERE y = auth.user_id)'",
        usize::MAX,
    );
    deployment.open(1);
    assert_eq!(deployment.load().1, 0, "nothing is indexed before a set changes");
    // Once, to find the rows by their values.
    assert_eq!(deployment.insert_beside(7).1, ROWS);
    let (outputs, looked_at) = deployment.insert_beside(9);
    assert_eq!(looked_at, 0);
    let [Output::Tx { message, .. }] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!(
        (message.rows, &message.changes()[..]),
        (1, br#"{"op":"delete","table":"a","row":{"id":9}}"#.as_slice())
    );
}

#[test]
fn a_value_that_enters_a_set_loads_no_evicted_topic_of_another_value() {
    let mut deployment = Deployment::of(
        "[tables.b]
         visible = 'false'
         [tables.a]
         visible = '''
           x IN (SELECT x FROM b WHERE id = 7)
           AND x NOT IN (SELECT id FROM b WHERE y = auth.user_id)
         '''",
        0,
    );
    deployment.open(1);
    deployment.load();
    deployment.insert_beside(7);
    // The rows with `x = 1`, which are evicted at once.
    deployment.load();
    deployment.insert_beside(9);
    assert!(!deployment.engine.wants_load());
    deployment.insert_beside(1);
    assert!(deployment.engine.wants_load(), "it is their own value");
}

#[test]
fn what_an_unsubscribe_costs_is_a_matter_of_its_rows_and_not_of_the_other_subscriptions() {
    const OTHERS: u64 = 30;
    let definition = "
        [tables.a]\nsync = 'on_demand'\nvisible = 'y = auth.user_id OR x = 1'
        [queries.all.select]\na = { where = 'true' }
        [queries.at]\nparams = { x = 'int8' }\n[queries.at.select]\na = { where = 'x = params.x' }";
    let mut deployment = Deployment::of(definition, usize::MAX);
    deployment.open(1);
    let claims = deployment.plan.resolve_claims("p", &serde_json::Map::new());
    let mut asked = vec![("all", serde_json::Map::new())];
    asked.extend(
        (0..OTHERS).map(|x| ("at", [("x".to_owned(), (1_000 + x).into())].into_iter().collect())),
    );
    for (id, (query, params)) in (1..).zip(&asked) {
        let (query, claims) = deployment.plan.select(&claims, query, params).unwrap();
        let asked = Subscribing { id: SubscriptionId(id), query, claims };
        deployment.step(Input::Subscribe(SessionId(1), asked));
        deployment.load();
    }
    let before = LOOKED_UP.get();
    let (out, _) = deployment.step(Input::Unsubscribe(SessionId(1), SubscriptionId(1)));
    let is_told = |out: &Output| matches!(out, Output::Tx { message, .. } if message.rows >= ROWS);
    assert!(out.iter().any(is_told), "{out:?}");
    assert!(LOOKED_UP.get() - before < 10 * ROWS, "{} times", LOOKED_UP.get() - before);
}
