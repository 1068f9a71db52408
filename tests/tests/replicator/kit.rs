//! A replicator over a database of one test, and a mirror: whoever follows the feed as a gateway does, with
//! loads by plain `SELECT`s, and so holds what clients would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rowtide_feed::{
    Changes, Event, Feed, FeedState, Generation, ReplicatorStatus, Subscription, Transaction,
};
use rowtide_log::LogOptions;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::TableId;
use rowtide_postgres::connect::{ConnectOptions, Names};
use rowtide_postgres::setup::setup;
use rowtide_replicator::{ReplicatorHandle, ReplicatorOptions, start};
use rowtide_tests::{Database, Dir, PATIENCE, eventually};
use serde_json::Value;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

/// What most tests sync.
pub const DEFINITION: &str = "[tables.note]\nvisible = 'true'\n[tables.other]\nvisible = 'true'\n";
/// Its tables.
pub const TABLES: &str = "CREATE TABLE note (id int PRIMARY KEY, body varchar(20));
                          CREATE TABLE other (id int PRIMARY KEY, body text);";

/// A replicator that runs.
pub struct Running {
    pub feed: Feed,
    pub handle: ReplicatorHandle,
    stop: CancellationToken,
}

impl Running {
    /// Stops it, and waits until it has ended.
    pub async fn stop(self) {
        self.stop.cancel();
        within("the replicator ends", self.handle.ended()).await;
    }

    /// Waits for a state of the feed.
    pub async fn until<T>(&self, what: &str, found: impl Fn(&FeedState) -> Option<T>) -> T {
        let mut last = None;
        let mut states = self.feed.watch();
        let wait = async {
            loop {
                let state = states.borrow_and_update().clone();
                if let Some(found) = found(&state) {
                    return found;
                }
                last = Some((state.status, state.rejected_tables));
                states.changed().await.expect("the replicator runs");
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => panic!("not within {PATIENCE:?}: {what}; the last was {last:?}"),
        }
    }

    /// Waits until it streams, and returns the generation.
    pub async fn streaming(&self) -> Arc<Generation> {
        let streams = |state: &FeedState| state.status == ReplicatorStatus::Streaming;
        self.until("it streams", |state| streams(state).then(|| state.generation.clone()).flatten())
            .await
    }

    /// Waits until it streams in another epoch.
    pub async fn streaming_after(&self, before: &Generation) -> Arc<Generation> {
        self.until("another epoch streams", |state| {
            let generation = state.generation.clone()?;
            let streams = state.status == ReplicatorStatus::Streaming;
            (streams && generation.epoch != before.epoch).then_some(generation)
        })
        .await
    }
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let within = tokio::time::timeout(PATIENCE, future).await;
    within.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// Starts a replicator.
pub fn start_replicator(
    database: ConnectOptions,
    names: Names,
    definition: &Arc<Definition>,
    log: &Dir,
) -> Running {
    let stop = CancellationToken::new();
    let options = ReplicatorOptions {
        database,
        names,
        definition: Arc::clone(definition),
        log: LogOptions {
            dir: log.path().to_owned(),
            retention: Duration::from_secs(600),
            max_bytes: 1 << 30,
        },
        ring_bytes: 8 << 20,
    };
    let (feed, handle) = start(options, stop.clone()).expect("there are threads");
    Running { feed, handle, stop }
}

/// A database that is set up, and where the log is.
pub struct Site {
    pub database: Database,
    pub client: Client,
    pub definition: Arc<Definition>,
    pub log: Dir,
}

impl Site {
    pub async fn new() -> Site {
        Site::with(DEFINITION, TABLES).await
    }

    pub async fn with(definition: &str, sql: &str) -> Site {
        let site = Site::not_set_up(definition, sql).await;
        let tables = site.definition.tables();
        setup(&site.client, &site.database.names(), &tables).await.expect("it can be set up");
        site
    }

    pub async fn not_set_up(definition: &str, sql: &str) -> Site {
        let database = Database::with(sql).await;
        let client = database.connect().await;
        let definition = Definition::parse("rowtide.toml", definition).expect("it is right");
        Site { database, client, definition: Arc::new(definition), log: Dir::new() }
    }

    pub async fn start(&self) -> Running {
        self.start_at(self.database.options().await)
    }

    /// Starts a replicator that reaches the database in some other way.
    pub fn start_at(&self, database: ConnectOptions) -> Running {
        start_replicator(database, self.database.names(), &self.definition, &self.log)
    }

    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }

    pub async fn one(&self, sql: &str) -> Option<String> {
        let row = self.client.query_opt(sql, &[]).await;
        row.unwrap_or_else(|error| panic!("{error:?}: {sql}"))?.get(0)
    }

    /// Ends whatever streams, and drops the slot before it streams again.
    pub async fn drop_slot(&self) {
        let slot = self.database.names().slot;
        let free = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                    WHERE slot_name = $1 AND active";
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                    WHERE slot_name = $1";
        eventually("the slot is dropped", || async {
            self.client.query(free, &[&slot]).await.ok()?;
            self.client.query(drop, &[&slot]).await.ok()
        })
        .await;
    }
}

/// The rows of a table, by key.
pub type Held = BTreeMap<String, Value>;

/// The rows of a table as the feed has them: without generated columns.
async fn rows_of(client: &Client, table: &str) -> Result<Held, tokio_postgres::Error> {
    let columns = "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute \
                   WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped \
                   AND attgenerated = ''";
    let columns: String = client.query_one(columns, &[&table]).await?.get(0);
    let sql = format!("SELECT row_to_json(t)::text FROM (SELECT {columns} FROM {table}) t");
    let row = |row: &tokio_postgres::Row| {
        let row: Value = serde_json::from_str(row.get(0)).expect("Postgres writes JSON");
        (row["id"].to_string(), row)
    };
    Ok(client.query(&sql, &[]).await?.iter().map(row).collect())
}

/// Holds what one who follows the feed holds.
pub struct Mirror {
    feed: Feed,
    client: Client,
    following: Option<Following>,
}

struct Following {
    subscription: Subscription,
    generation: Arc<Generation>,
    /// By the table's name.
    tables: BTreeMap<String, Held>,
}

impl Mirror {
    pub async fn new(site: &Site, running: &Running) -> Mirror {
        Mirror::over(site.database.connect().await, running).await
    }

    /// One that loads over a connection.
    pub async fn over(client: Client, running: &Running) -> Mirror {
        let mut mirror = Mirror { feed: running.feed.clone(), client, following: None };
        mirror.begin().await;
        mirror
    }

    /// Of which generation it holds rows.
    pub fn generation(&self) -> Option<&Arc<Generation>> {
        self.following.as_ref().map(|following| &following.generation)
    }

    /// Follows the present generation: all tables are loaded, and what may not be seen by that is applied to it.
    async fn begin(&mut self) {
        let mut states = self.feed.watch();
        let there = states.wait_for(|state| state.generation.is_some());
        let generation = within("a generation", there).await.expect("it runs").generation.clone();
        let generation = generation.expect("it was waited for");
        let position = generation.position;
        let Ok(subscription) = self.feed.subscribe(&generation, position) else { return };
        let mut tables = BTreeMap::new();
        for table in &generation.plan.tables {
            let name = format!("\"{}\".\"{}\"", table.catalog.schema, table.catalog.name);
            // It may be gone by now, and then so is the generation.
            let Ok(rows) = rows_of(&self.client, &name).await else { continue };
            tables.insert(table.catalog.name.clone(), rows);
        }
        let mut following = Following { subscription, generation, tables };
        let recent = following.generation.recent.clone();
        recent.iter().for_each(|transaction| following.apply(transaction));
        self.following = Some(following);
    }

    /// Takes what comes until it holds exactly what the table has, the condition holds, and the stream has passed
    /// what was committed before.
    pub async fn holds_what_is_there(&mut self, table: &str) -> Held {
        let truth = rows_of(&self.client, table).await.expect("the table can be read");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.held(table) != Some(&truth) {
            if tokio::time::timeout_at(deadline, self.step()).await.is_err() {
                panic!("{table}: it holds {:?} and not {truth:?}", self.held(table));
            }
        }
        truth
    }

    /// The rows that it holds of a table; `None` if the table is not served.
    pub fn held(&self, table: &str) -> Option<&Held> {
        self.following.as_ref()?.tables.get(table)
    }

    /// Takes one batch, or goes over to the next generation.
    pub async fn step(&mut self) {
        let Some(following) = &mut self.following else { return self.begin().await };
        match following.subscription.next().await {
            Ok(events) => {
                for event in events.iter() {
                    if let Event::Transaction { transaction, .. } = event {
                        following.apply(transaction);
                    }
                }
            }
            Err(_) => self.following = None,
        }
    }
}

impl Following {
    fn apply(&mut self, transaction: &Transaction) {
        let plan = Arc::clone(&self.generation.plan);
        let name = |table: TableId| &plan.table(table).catalog.name;
        for table in &transaction.truncated {
            self.tables.entry(name(*table).clone()).or_default().clear();
        }
        let Changes::Rows(changes) = &transaction.changes else { panic!("too large for this") };
        for change in changes {
            let key: Value = serde_json::from_slice(change.key()).expect("a key is JSON");
            let rows = self.tables.entry(name(change.table).clone()).or_default();
            let key = key["id"].to_string();
            match change.after() {
                Some(row) => {
                    let row = serde_json::from_slice(&row.json).expect("a row is JSON");
                    rows.insert(key, row);
                }
                None => drop(rows.remove(&key)),
            }
        }
    }
}
