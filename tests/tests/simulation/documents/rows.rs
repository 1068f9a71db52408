//! The row that a document belongs to, in a Postgres that streams a commit before queries see it.

use std::sync::Arc;

use rowtide_engine::TransactionSnapshot;
use rowtide_feed::{Change, Changes, RowChange, Transaction};
use rowtide_plan::catalog::{
    Catalog, CatalogColumn, CatalogTable, ColumnInput, ReplicaIdentity, TableStreaming,
};
use rowtide_plan::definition::Definition;
use rowtide_plan::documents::Standing;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::{Image, Row};
use rowtide_plan::value::ColumnType;
use rowtide_protocol::Lsn;

/// How many transactions a server that starts is told of.
const RECENT: usize = 8;

/// What the row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none.
    Missing,
    /// It is there, and says that there is no document.
    Gone,
    Private,
    Shown,
    Shared,
}

impl State {
    pub const ALL: [State; 5] =
        [State::Missing, State::Gone, State::Private, State::Shown, State::Shared];

    pub fn standing(self, is_owner: bool) -> Standing {
        match self {
            State::Missing => Standing::Missing,
            State::Gone => Standing::Gone,
            State::Private | State::Shown if is_owner => Standing::Edit,
            State::Private => Standing::Forbidden,
            State::Shown => Standing::Read,
            State::Shared => Standing::Edit,
        }
    }
}

struct Commit {
    state: State,
    is_visible: bool,
    is_streamed: bool,
}

/// See the module.
pub struct Rows {
    pub plan: Plan,
    /// The first have the ids 1, 2, and so on.
    commits: Vec<Commit>,
    /// What queries saw, and from when on.
    seen: Vec<(u64, State)>,
}

impl Rows {
    pub fn new() -> Rows {
        let first = Commit { state: State::Shared, is_visible: true, is_streamed: true };
        Rows { plan: plan(), commits: vec![first], seen: vec![(0, State::Shared)] }
    }

    /// Commits, unless the commit before is not visible yet, for which whoever writes the row waits.
    pub fn commit(&mut self, state: State) -> Option<usize> {
        let waits = self.commits.iter().any(|commit| !commit.is_visible);
        (!waits).then(|| {
            self.commits.push(Commit { state, is_visible: false, is_streamed: false });
            self.commits.len() - 1
        })
    }

    pub fn show(&mut self, number: usize, now_ms: u64) {
        let commit = &mut self.commits[number];
        if !std::mem::replace(&mut commit.is_visible, true) {
            let state = commit.state;
            self.seen.push((now_ms, state));
        }
    }

    pub fn show_all(&mut self, now_ms: u64) {
        (0..self.commits.len()).for_each(|number| self.show(number, now_ms));
    }

    /// The next transaction of the stream.
    pub fn stream(&mut self) -> Option<Transaction> {
        let next = self.commits.iter().position(|commit| !commit.is_streamed)?;
        self.commits[next].is_streamed = true;
        Some(self.transaction(next))
    }

    /// Whether the row was deleted by a transaction.
    pub fn deletes(transaction: &Transaction) -> bool {
        let Changes::Rows(changes) = &transaction.changes else { return false };
        changes.iter().any(|change| matches!(change.row, RowChange::Delete(_)))
    }

    /// What was streamed last, for a server that starts.
    pub fn recent(&self) -> Vec<Arc<Transaction>> {
        let from = self.commits.len().saturating_sub(RECENT);
        let streamed =
            (from..self.commits.len()).filter(|number| self.commits[*number].is_streamed);
        streamed.map(|number| Arc::new(self.transaction(number))).collect()
    }

    pub fn snapshot(&self) -> (State, TransactionSnapshot) {
        let hidden = self.commits.iter().enumerate().filter(|(_, commit)| !commit.is_visible);
        let running = hidden.map(|(number, _)| number as u64 + 1).collect();
        (self.state(), TransactionSnapshot::new(self.commits.len() as u64 + 1, running))
    }

    /// What queries see.
    pub fn state(&self) -> State {
        self.seen.last().expect("there is a first").1
    }

    /// Whether queries have seen one of the wanted since then.
    pub fn was_since(&self, since_ms: u64, wanted: impl Fn(State) -> bool) -> bool {
        let before = self.seen.iter().rposition(|(at_ms, _)| *at_ms <= since_ms).unwrap_or(0);
        self.seen[before..].iter().any(|(_, state)| wanted(*state))
    }

    fn transaction(&self, number: usize) -> Transaction {
        let key = b"{\"id\":\"d\"}".to_vec().into();
        let image = Image { key, kept: [].into(), topics: [].into() };
        let row = match self.commits[number].state {
            State::Missing => RowChange::Delete(image),
            _ => RowChange::Insert(Arc::new(Row { image, json: "{}".into() })),
        };
        Transaction {
            lsn: Lsn(number as u64 + 1),
            xid: number as u32 + 1,
            commit_time_us: 0,
            truncated: Vec::new(),
            changes: Changes::Rows(vec![Change { table: TableId(0), row }]),
            acknowledgements: Vec::new(),
        }
    }
}

fn plan() -> Plan {
    let text = r#"
[tables.paper]
visible = 'true'
[documents.drawing]
table = "paper"
protocol = "tlsync"
read = 'true'
edit = 'true'
[documents.note]
table = "paper"
protocol = "yjs"
read = 'true'
edit = 'true'
"#;
    let definition = Definition::parse("rowtide.toml", text).unwrap();
    let column = CatalogColumn {
        name: "id".to_owned(),
        kind: ColumnType::Text,
        type_oid: 25,
        type_name: "text".to_owned(),
        not_null: true,
        toastable: true,
        deterministic: true,
        labels: Vec::new(),
        input: ColumnInput { type_name: "text".to_owned(), ..ColumnInput::default() },
    };
    let table = CatalogTable {
        oid: 1,
        schema: "public".to_owned(),
        name: "paper".to_owned(),
        primary_key: vec!["id".to_owned()],
        columns: vec![column],
        indexes: Vec::new(),
        replica_identity: ReplicaIdentity::Full,
        row_security: false,
        insert_trigger: false,
        streaming: TableStreaming::default(),
    };
    let catalog = Catalog { tables: vec![table], ..Catalog::default() };
    rowtide_plan::compile::compile(&definition, &catalog).unwrap()
}
