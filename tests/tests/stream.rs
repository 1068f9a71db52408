//! The stream against a real Postgres: what a transaction becomes, and where the position stands.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rowtide_feed::{Change, Changes, Transaction};
use rowtide_plan::catalog::Catalog;
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::{BranchId, Plan};
use rowtide_plan::row::Topic;
use rowtide_plan::value::Value;
use rowtide_postgres::catalog::read_catalog;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_postgres::load::Loader;
use rowtide_postgres::setup::setup;
use rowtide_postgres::stream::{
    Instance, MAX_TRANSACTION_BYTES, SchemaChange, Stream, StreamError, StreamEvent,
};
use rowtide_postgres::wal::end_of_wal;
use rowtide_protocol::Lsn;
use rowtide_tests::proxy::Proxy;
use rowtide_tests::{Database, PATIENCE, flushed};
use tokio_postgres::Client;

const DEFINITION: &str = "[tables.note]\nvisible = 'owner = auth.user_id'\n\
                          [tables.other]\nvisible = 'true'\n";
const TABLES: &str =
    "CREATE TABLE note (id int, part int, owner text, body text, PRIMARY KEY (id, part));
                      CREATE TABLE other (id int PRIMARY KEY);
                      CREATE TABLE unpublished (id int PRIMARY KEY);";

struct Fixture {
    database: Database,
    client: Client,
    plan: Arc<Plan>,
    stream: Events,
}

/// A stream, event by event.
struct Events {
    stream: Stream,
    ready: VecDeque<StreamEvent>,
}

impl Events {
    fn of(stream: Stream) -> Events {
        Events { stream, ready: VecDeque::new() }
    }

    async fn next(&mut self) -> Result<StreamEvent, StreamError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            self.ready.extend(self.stream.next_batch(100, 1 << 20).await?.events);
        }
    }

    fn confirm(&self, lsn: Lsn) {
        self.stream.confirm(lsn);
    }

    async fn stop(self) {
        self.stream.stop().await;
    }
}

impl Fixture {
    async fn new(max_transaction_bytes: usize) -> Fixture {
        let database = Database::with(TABLES).await;
        let client = database.connect().await;
        let definition = Definition::parse("rowtide.toml", DEFINITION).expect("it is right");
        setup(&client, &database.names(), &definition.tables()).await.expect("it can be set up");
        let plan = Arc::new(plan(&client, &definition).await);
        let options = database.options().await;
        let names = database.names();
        let (plan_of, this) = (Arc::clone(&plan), Instance(1));
        let stream =
            Stream::start_with_budget(&options, &names, plan_of, this, max_transaction_bytes);
        let (stream, _) = stream.await.expect("it streams");
        Fixture { database, client, plan, stream: Events::of(stream) }
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }

    /// The next transaction that changed something.
    async fn transaction(&mut self) -> Transaction {
        loop {
            let event = within(self.stream.next()).await;
            match event.expect("the stream goes on") {
                StreamEvent::Transaction(transaction) => return transaction,
                StreamEvent::SchemaChanged(change) => panic!("{change}"),
                StreamEvent::Position(_) | StreamEvent::Switched => {}
            }
        }
    }

    /// The next table that no longer fits.
    async fn schema_change(&mut self) -> SchemaChange {
        loop {
            match within(self.stream.next()).await.expect("the stream goes on") {
                StreamEvent::SchemaChanged(change) => return change,
                StreamEvent::Transaction(transaction) => {
                    assert_eq!(transaction.changes, Changes::Rows(Vec::new()));
                }
                StreamEvent::Position(_) | StreamEvent::Switched => {}
            }
        }
    }

    /// Those of the next transaction that has any: before PostgreSQL 15 DDL comes too, as one that has none.
    async fn some_changes_of(&mut self, sql: &str) -> Vec<String> {
        self.run(sql).await;
        loop {
            let Changes::Rows(changes) = self.transaction().await.changes else {
                panic!("too large")
            };
            if !changes.is_empty() {
                return changes.iter().map(|change| self.show(change)).collect();
            }
        }
    }

    async fn changes_of(&mut self, sql: &str) -> Vec<String> {
        self.run(&format!("BEGIN; {sql}; COMMIT")).await;
        let transaction = self.transaction().await;
        let Changes::Rows(changes) = &transaction.changes else { panic!("too large") };
        let truncated =
            transaction.truncated.iter().map(|table| format!("truncate {}", self.name(*table)));
        truncated.chain(changes.iter().map(|change| self.show(change))).collect()
    }

    fn name(&self, table: rowtide_plan::plan::TableId) -> &str {
        &self.plan.table(table).catalog.name
    }

    fn show(&self, change: &Change) -> String {
        let old = change.before().map(|old| {
            let topics = if old.topics.is_empty() { "nowhere" } else { "a topic" };
            format!("from {topics} {}", String::from_utf8_lossy(&old.key))
        });
        let new = change.after().map(|new| format!("to {}", String::from_utf8_lossy(&new.json)));
        let parts: Vec<String> = old.into_iter().chain(new).collect();
        format!("{}: {}", self.name(change.table), parts.join(" "))
    }
}

async fn plan(client: &Client, definition: &Definition) -> Plan {
    let catalog: Catalog =
        read_catalog(client, &definition.tables()).await.expect("the catalog can be read");
    compile(definition, &catalog).unwrap_or_else(|error| panic!("{error:?}"))
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

#[tokio::test]
async fn a_transaction_becomes_one_net_change_for_each_row() {
    let mut fixture = Fixture::new(MAX_TRANSACTION_BYTES).await;
    let row = |id: i32, owner: &str, body: &str| {
        format!(r#"{{"id":{id},"part":0,"owner":"{owner}","body":"{body}"}}"#)
    };
    assert_eq!(
        fixture.changes_of("INSERT INTO note VALUES (1, 0, 'u1', 'a')").await,
        [format!("note: to {}", row(1, "u1", "a"))]
    );
    assert_eq!(
        fixture
            .changes_of("UPDATE note SET body = 'b'; UPDATE note SET body = 'c', owner = 'u2'")
            .await,
        [format!(r#"note: from a topic {{"id":1,"part":0}} to {}"#, row(1, "u2", "c"))]
    );
    assert_eq!(
        fixture.changes_of("UPDATE note SET id = 2").await,
        [
            r#"note: from a topic {"id":1,"part":0}"#.to_owned(),
            format!("note: to {}", row(2, "u2", "c"))
        ]
    );
    assert_eq!(
        fixture
            .changes_of("INSERT INTO note VALUES (9, 0, 'u1', 'x'); DELETE FROM note WHERE id = 9; INSERT INTO other VALUES (7)")
            .await,
        [r#"other: to {"id":7}"#]
    );
    assert_eq!(
        fixture
            .changes_of(
                "DELETE FROM note WHERE id = 2; INSERT INTO note VALUES (2, 0, 'u3', 'again')"
            )
            .await,
        [format!(r#"note: from a topic {{"id":2,"part":0}} to {}"#, row(2, "u3", "again"))]
    );
    assert_eq!(
        fixture
            .changes_of("INSERT INTO note VALUES (3, 0, 'u1', 'gone'); TRUNCATE note; INSERT INTO note VALUES (2, 0, NULL, 'new')")
            .await,
        [
            "truncate note".to_owned(),
            r#"note: to {"id":2,"part":0,"owner":null,"body":"new"}"#.to_owned()
        ]
    );
    assert_eq!(
        fixture.changes_of("DELETE FROM note").await,
        [r#"note: from nowhere {"id":2,"part":0}"#],
        "a row without an anchor is in no topic"
    );
}

#[tokio::test]
async fn what_an_update_leaves_out_is_filled_from_the_old_row() {
    let mut fixture = Fixture::new(MAX_TRANSACTION_BYTES).await;
    // Not compressible, so that it is stored out of line.
    let large = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) AS n)";
    fixture.changes_of(&format!("INSERT INTO note VALUES (1, 0, 'u1', {large})")).await;
    let changes = fixture.changes_of("UPDATE note SET owner = 'u2'").await;
    assert_eq!(changes.len(), 1);
    assert!(changes[0].contains(r#""owner":"u2""#));
    assert!(changes[0].len() > 64_000, "the large column is there: {}", changes[0].len());
}

#[tokio::test]
async fn a_transaction_past_the_budget_only_names_its_tables() {
    let mut fixture = Fixture::new(100_000).await;
    let insert = "INSERT INTO note SELECT n, 0, 'u1', 'x' FROM generate_series(1, 2000) AS n; \
                  INSERT INTO other VALUES (1)";
    fixture.run(&format!("BEGIN; {insert}; COMMIT")).await;
    let transaction = fixture.transaction().await;
    let Changes::TooLarge(tables) = &transaction.changes else { panic!("it was held") };
    let names: Vec<&str> = tables.iter().map(|table| fixture.name(*table)).collect();
    assert_eq!(names, ["note", "other"]);
    assert_eq!(fixture.changes_of("INSERT INTO other VALUES (2)").await, [r#"other: to {"id":2}"#]);
}

#[tokio::test]
async fn a_table_that_changes_is_told_and_the_stream_can_go_on_without_it() {
    let mut fixture = Fixture::new(MAX_TRANSACTION_BYTES).await;
    fixture.changes_of("INSERT INTO note VALUES (1, 0, 'u1', 'a')").await;
    fixture.run("ALTER TABLE note RENAME COLUMN body TO stars").await;
    fixture.run("BEGIN; UPDATE note SET stars = 'b'; INSERT INTO other VALUES (1); COMMIT").await;
    let change = fixture.schema_change().await;
    assert_eq!((&change.table[..], change.what.contains("stars")), ("note", true), "{change}");
    let transaction = fixture.transaction().await;
    let Changes::Rows(changes) = &transaction.changes else { panic!("too large") };
    let shown: Vec<String> = changes.iter().map(|change| fixture.show(change)).collect();
    assert_eq!(shown, [r#"other: to {"id":1}"#], "the rest of the transaction is there");
    assert!(change.committed < transaction.lsn, "{change:?}");
    // Every later change of the table is told of, too, once a transaction.
    for change in ["INSERT INTO note VALUES (2, 0, 'u1', 'b'), (3, 0, 'u1', 'b')", "TRUNCATE note"]
    {
        fixture.run(change).await;
        let told = fixture.schema_change().await;
        assert_eq!((&told.table[..], told.what.contains("stars")), ("note", true), "{told}");
        let transaction = fixture.transaction().await;
        assert_eq!(transaction.changes, Changes::Rows(Vec::new()), "it is told of once");
        assert!(told.committed < transaction.lsn, "{told:?}");
    }
    // Until it fits again.
    fixture.run("ALTER TABLE note RENAME COLUMN stars TO body").await;
    fixture.run("INSERT INTO note VALUES (4, 0, 'u1', 'c')").await;
    let shown = loop {
        // Before PostgreSQL 15 the DDL comes too, as a transaction of no change.
        match fixture.transaction().await.changes {
            Changes::Rows(rows) if rows.is_empty() => {}
            Changes::Rows(rows) => break fixture.show(&rows[0]),
            Changes::TooLarge(_) => panic!("too large"),
        }
    };
    assert_eq!(shown, r#"note: to {"id":4,"part":0,"owner":"u1","body":"c"}"#);
}

#[tokio::test]
async fn columns_that_were_added_are_left_out_until_the_stream_is_where_its_plan_has_them() {
    let mut fixture = Fixture::new(MAX_TRANSACTION_BYTES).await;
    fixture.changes_of("INSERT INTO note VALUES (1, 0, 'u1', 'a'), (2, 0, 'u1', 'a')").await;
    fixture.run("ALTER TABLE note ADD COLUMN stars int DEFAULT 3").await;
    fixture.run("ALTER TABLE other ADD COLUMN more text").await;
    let shown = fixture.some_changes_of("UPDATE note SET body = 'b', stars = 4 WHERE id = 1").await;
    let without = r#" to {"id":1,"part":0,"owner":"u1","body":"b"}"#;
    assert!(shown[0].ends_with(without), "{shown:?}");
    let definition = Definition::parse("rowtide.toml", DEFINITION).expect("it is right");
    let newer = Arc::new(plan(&fixture.client, &definition).await);
    assert_eq!(fixture.plan.columns_added_by(&newer).map(|added| added.len()), Some(2));
    let end = end_of_wal(&fixture.client).await.expect("it says so");
    fixture.stream.stream.switch(end, Arc::clone(&newer));
    fixture.run("UPDATE note SET body = 'c' WHERE id = 2; INSERT INTO other VALUES (1, 'x')").await;
    let mut events = Vec::new();
    while !matches!(events.last(), Some(StreamEvent::Transaction(transaction)) if transaction.lsn > end)
    {
        events.push(within(fixture.stream.next()).await.expect("the stream goes on"));
    }
    let told = events.iter().filter(|event| matches!(event, StreamEvent::Switched)).count();
    assert_eq!(told, 1, "{events:?}");
    let before = events.iter().take_while(|event| !matches!(event, StreamEvent::Switched));
    for event in before {
        let up_to_end = match event {
            StreamEvent::Transaction(transaction) => transaction.lsn <= end,
            StreamEvent::Position(lsn) => *lsn <= end,
            _ => false,
        };
        assert!(up_to_end, "{event:?}");
    }
    fixture.plan = newer;
    let Some(StreamEvent::Transaction(transaction)) = events.pop() else { panic!("{events:?}") };
    let Changes::Rows(changes) = &transaction.changes else { panic!("too large") };
    let shown: Vec<String> = changes.iter().map(|change| fixture.show(change)).collect();
    assert!(shown[0].ends_with(r#""body":"c","stars":3}"#), "{shown:?}");
    assert_eq!(shown[1], r#"other: to {"id":1,"more":"x"}"#);
}

#[tokio::test]
async fn the_position_passes_what_a_load_has_seen_also_when_nothing_is_published() {
    let mut fixture = Fixture::new(MAX_TRANSACTION_BYTES).await;
    let mut loader = Loader::new(fixture.database.options().await);
    for round in 0..20 {
        fixture.run(&format!("INSERT INTO unpublished VALUES ({round})")).await;
        let loaded = loader.load(&fixture.plan, &[], &[], &[]).await.expect("it loads").topics;
        let reached = async {
            let mut position = Lsn(0);
            while position < loaded.position {
                position = match fixture.stream.next().await.expect("the stream goes on") {
                    StreamEvent::Position(lsn) => lsn,
                    StreamEvent::Transaction(transaction) => transaction.lsn,
                    StreamEvent::SchemaChanged(change) => panic!("{change}"),
                    StreamEvent::Switched => continue,
                };
                fixture.stream.confirm(position);
            }
        };
        within(reached).await;
    }
}

/// All rows of the table `other`.
fn topics_of_other(fixture: &Fixture) -> Vec<Topic> {
    let other = fixture.plan.tables.iter().position(|table| table.catalog.name == "other");
    let branch =
        |branch: &BranchId| Some(usize::from(fixture.plan.branch(*branch).table.0)) == other;
    let branches = (0..fixture.plan.branches.len()).map(|index| BranchId(index as u16));
    branches.filter(branch).map(|branch| Topic { branch, anchor: None }).collect()
}

/// The names of tables, columns and schemas can be exchanged and exchanged back before anyone looks.
#[tokio::test]
async fn a_load_takes_no_other_table_and_no_other_column_for_that_of_the_plan() {
    let fixture = Fixture::new(MAX_TRANSACTION_BYTES).await;
    fixture
        .run(
            "INSERT INTO other VALUES (1); CREATE TABLE foreigner (id int PRIMARY KEY, x int);
             INSERT INTO foreigner VALUES (7); CREATE SCHEMA elsewhere;
             CREATE TABLE elsewhere.other (id int PRIMARY KEY); INSERT INTO elsewhere.other VALUES (7)",
        )
        .await;
    let topics = topics_of_other(&fixture);
    let mut loader = Loader::new(fixture.database.options().await);
    let swap = |what: &str, a: &str, b: &str| {
        [(a, "of_a"), (b, a), ("of_a", b)].iter().fold(String::new(), |sql, (from, to)| {
            sql + &format!("ALTER {what} {from} RENAME TO {to}; ")
        })
    };
    for swapped in [swap("TABLE", "other", "foreigner"), swap("SCHEMA", "public", "elsewhere")] {
        fixture.run(&format!("BEGIN; {swapped} COMMIT")).await;
        for _ in 0..2 {
            let loaded = loader.load(&fixture.plan, &topics, &[], &[]).await.expect("it answers");
            assert!(loaded.topics.rows[0].is_none(), "{swapped}: {:?}", loaded.topics.rows);
            assert!(loaded.failed["other"].to_string().contains("another table"));
        }
        fixture.run(&format!("BEGIN; {swapped} COMMIT")).await;
        let loaded = loader.load(&fixture.plan, &topics, &[], &[]).await.expect("it answers");
        assert_eq!(loaded.topics.rows[0].as_ref().map(|rows| rows.iter().count()), Some(1));
    }
}

#[tokio::test]
async fn a_load_takes_no_column_for_another_that_has_its_name_for_a_while() {
    let database =
        Database::with("CREATE TABLE pair (id int PRIMARY KEY, one text, two text)").await;
    let client = database.connect().await;
    let definition = Definition::parse("rowtide.toml", "[tables.pair]\nvisible = 'true'\n");
    let definition = definition.expect("a definition");
    client
        .batch_execute(
            "ALTER TABLE pair REPLICA IDENTITY FULL; INSERT INTO pair VALUES (1, '1', '2')",
        )
        .await
        .expect("it is made");
    let catalog = read_catalog(&client, &definition.tables()).await.expect("a catalog");
    let plan = compile(&definition, &catalog).expect("it fits");
    let topics = [Topic { branch: BranchId(0), anchor: None }];
    let mut loader = Loader::new(database.options().await);
    let swap = "ALTER TABLE pair RENAME one TO x; ALTER TABLE pair RENAME two TO one; \
                ALTER TABLE pair RENAME x TO two";
    for good in [true, false, true] {
        let loaded = loader.load(&plan, &topics, &[], &[]).await.expect("it answers");
        assert_eq!(loaded.topics.rows[0].is_some(), good, "{:?}", loaded.failed);
        client.batch_execute(swap).await.expect("they are exchanged");
    }
}

#[tokio::test]
async fn a_load_brings_a_row_for_each_element_of_its_array() {
    let database = Database::with(
        "CREATE TABLE list (id int PRIMARY KEY, members text[], ranks int2[]);
         CREATE INDEX ON list USING gin (members);
         INSERT INTO list VALUES (1, '{ann,bob,ann,NULL}', '{1,2}'), (2, '{bob}', NULL), (3, '{}', '{}')",
    )
    .await;
    let client = database.connect().await;
    let visible = "auth.user_id = ANY (members) OR auth.claims.rank = ANY (ranks)";
    let text = format!("[tables.list]\nvisible = '{visible}'\n");
    let definition = Definition::parse("rowtide.toml", &text).expect("it is right");
    setup(&client, &database.names(), &definition.tables()).await.expect("it can be set up");
    let plan = plan(&client, &definition).await;
    let problems = rowtide_plan::check::check_plan(&plan);
    let repairs: Vec<_> = problems.iter().filter_map(|problem| problem.repair.as_deref()).collect();
    let index = r#"CREATE INDEX CONCURRENTLY ON "public"."list" USING gin ("ranks");"#;
    assert_eq!(repairs, [index], "the other has one");
    let topic = |branch, anchor| Topic { branch: BranchId(branch), anchor: Some(anchor) };
    let topics = [
        topic(0, Value::Text("ann".into())),
        topic(0, Value::Text("bob".into())),
        topic(0, Value::Text("".into())),
        topic(1, Value::Int(2)),
        topic(1, Value::Int(1 << 40)),
    ];
    let mut loader = Loader::new(database.options().await);
    let loaded = loader.load(&plan, &topics, &[], &[]).await.expect("it answers");
    assert!(loaded.failed.is_empty(), "{:?}", loaded.failed);
    let counts: Vec<usize> =
        loaded.topics.rows.iter().flatten().map(|rows| rows.iter().count()).collect();
    assert_eq!(counts, [1, 2, 0, 1, 0]);
}

/// A table whose rows are hidden from the server's role is not taken for an empty one.
#[tokio::test]
async fn a_load_leaves_nothing_out_that_row_level_security_hides() {
    let fixture = Fixture::new(MAX_TRANSACTION_BYTES).await;
    let role = format!("{}_reader", fixture.database.name());
    fixture
        .run(&format!(
            "INSERT INTO other VALUES (1); CREATE ROLE {role} LOGIN; GRANT SELECT ON other TO {role};
             ALTER TABLE other ENABLE ROW LEVEL SECURITY"
        ))
        .await;
    let topics = topics_of_other(&fixture);
    let url = fixture.database.url_as(&role).await;
    let mut loader = Loader::new(ConnectOptions::parse(&url).expect("it is an URL"));
    let loaded = loader.load(&fixture.plan, &topics, &[], &[]).await.expect("it answers");
    assert!(loaded.topics.rows[0].is_none(), "{:?}", loaded.topics.rows);
    assert!(
        loaded.failed["other"].to_string().contains("row-level security"),
        "{:?}",
        loaded.failed
    );
    fixture.run(&format!("ALTER ROLE {role} BYPASSRLS")).await;
    let loaded = loader.load(&fixture.plan, &topics, &[], &[]).await.expect("it answers");
    assert_eq!(loaded.topics.rows[0].as_ref().map(|rows| rows.iter().count()), Some(1));
    fixture.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Postgres streams only what it has flushed, and of an open transaction it flushes nothing for many seconds.
#[tokio::test]
async fn the_position_of_a_load_is_flushed_also_while_a_transaction_that_wrote_is_open() {
    let fixture = Fixture::new(MAX_TRANSACTION_BYTES).await;
    let mut loader = Loader::new(fixture.database.options().await);
    let open = fixture.database.connect().await;
    open.batch_execute("BEGIN").await.expect("it begins");
    for round in 0..20 {
        let write = format!("INSERT INTO unpublished VALUES ({round})");
        open.batch_execute(&write).await.expect("it writes");
        let position =
            loader.load(&fixture.plan, &[], &[], &[]).await.expect("it loads").topics.position;
        let flushed = flushed(&fixture.client).await;
        assert!(position <= flushed, "round {round}: {flushed} is before {position}");
    }
}

#[tokio::test]
async fn what_was_not_confirmed_comes_again_after_a_new_start() {
    let mut fixture = Fixture::new(MAX_TRANSACTION_BYTES).await;
    fixture.run("INSERT INTO other VALUES (1)").await;
    let first = fixture.transaction().await;
    let Fixture { database, plan, stream, .. } = fixture;
    stream.stop().await;
    let (options, names) = (database.options().await, database.names());
    let again = rowtide_tests::eventually("the slot is free", || async {
        Stream::start(&options, &names, Arc::clone(&plan), Instance(1)).await.ok()
    })
    .await
    .0;
    let mut again = Events::of(again);
    let second = loop {
        if let StreamEvent::Transaction(transaction) =
            within(again.next()).await.expect("the stream goes on")
        {
            break transaction;
        }
    };
    assert_eq!((first.lsn, first.xid), (second.lsn, second.xid));
    // A second stream of the same slot is told who has it.
    let refused = Stream::start(&options, &names, Arc::clone(&plan), Instance(2)).await;
    assert!(matches!(refused, Err(StreamError::SlotActive { .. })));
    // Unless it is of the same server, which has lost the first: then that one is ended.
    let refused = Stream::start(&options, &names, Arc::clone(&plan), Instance(1)).await;
    assert!(matches!(refused, Err(StreamError::OwnConnection { .. })));
    let ended = async { while again.next().await.is_ok() {} };
    within(ended).await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_leads_nowhere_any_more_ends() {
    let Fixture { database, client, plan, stream } = Fixture::new(MAX_TRANSACTION_BYTES).await;
    stream.stop().await;
    let network = Proxy::start(database.upstream().await).await;
    let (options, names) = (database.options_through(&network), database.names());
    let stream = rowtide_tests::eventually("the slot is free", || async {
        Stream::start(&options, &names, Arc::clone(&plan), Instance(2)).await.ok()
    })
    .await
    .0;
    let mut stream = Events::of(stream);
    client.batch_execute("INSERT INTO other VALUES (1)").await.unwrap();
    // Only now the connection is known to be there.
    while !matches!(within(stream.next()).await, Ok(StreamEvent::Transaction(_))) {}
    network.strand();
    let ended = async { while stream.next().await.is_ok() {} };
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
    ended.expect("it is noticed that nothing is heard");
}
