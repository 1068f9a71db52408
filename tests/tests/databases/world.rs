//! One database with its server and clients, and what is held against what.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rowtide_client::Replica;
use rowtide_plan::catalog::{Catalog, TableName};
use rowtide_plan::check::plan_once_set_up;
use rowtide_plan::compile::compile_partly;
use rowtide_plan::definition::Definition;
use rowtide_plan::sql::quote_literal;
use rowtide_postgres::catalog::read_catalog;
use rowtide_postgres::setup::setup;
use rowtide_tests::samples::{expected, plain};
use rowtide_tests::{App, Database};
use serde_json::Value as Json;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::clients::{Streaming, visit};
use crate::ddl::Change;
use crate::schema::{Table, schema};
use crate::seen::Seen;

/// How long it may take until everyone holds what SQL says. Many lives share two cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// The rows of a table, by their JSON.
type Rows = BTreeMap<String, usize>;

pub(crate) struct World {
    pub(crate) app: App,
    pub(crate) sql: Client,
    pub(crate) rng: SmallRng,
    pub(crate) tables: Vec<Table>,
    pub(crate) seen: Seen,
    pub(crate) prepared: u32,
    pub(crate) changes: u32,
    definition: Arc<Definition>,
    /// What takes back what keeps something from being served, the latest last.
    mends: Vec<String>,
    streaming: Streaming,
    /// What the one who comes back has kept.
    kept: Replica,
    story: Story,
}

/// What was done, printed when a life fails.
struct Story {
    seed: u64,
    told: bool,
    text: String,
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.told {
            println!("ROWTIDE_SEED={}\n{}", self.seed, self.text);
        }
    }
}

impl Story {
    fn say(&mut self, text: &str) {
        if self.told {
            println!("{text}");
        }
        self.text += text;
        self.text.push('\n');
    }
}

fn definition_of(tables: &[Table]) -> Arc<Definition> {
    let mut text = String::new();
    for table in tables {
        let key = Json::from(table.wire()).to_string();
        text += &format!("[tables.{key}]\nvisible = '''{}'''\n", table.visible);
    }
    let parsed = Definition::parse("rowtide.toml", &text);
    Arc::new(parsed.unwrap_or_else(|error| panic!("{error}: {:?}\n{text}", error.problems)))
}

impl World {
    /// Makes a database, and a server for what of it can be served.
    pub(crate) async fn begin(seed: u64, told: bool) -> World {
        let mut story = Story { seed, told, text: String::new() };
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut seen = Seen::default();
        let (database, sql, tables, definition) = loop {
            let (mut tables, made) = schema(&mut rng);
            story.say(&made);
            let database = Database::with(&made).await;
            let sql = database.connect().await;
            // What `rowtide check` rejects by name is left out of the definition, and with it who looks into it.
            loop {
                let definition = definition_of(&tables);
                let catalog = read_catalog(&sql, &definition.tables()).await.expect("a catalog");
                if plan_once_set_up(&definition, &catalog).is_ok() {
                    break;
                }
                let (_, rejected) = compile_partly(&definition, &once_set_up(catalog));
                let Some((name, why)) = rejected.first() else { break };
                let why = format!("{why}: {:?}", why.problems);
                story.say(&format!("-- {name} is left out: {why}"));
                seen.note("tables that cannot be served", true);
                let place = tables.iter().position(|table| table.wire() == *name);
                tables.remove(place.expect("it names a table of the definition"));
                // Places have moved.
                let count = place.unwrap_or_default();
                tables.retain(|table| table.parent.as_ref().is_none_or(|(_, of)| *of != count));
                for table in &mut tables {
                    if let Some((_, of)) = &mut table.parent
                        && *of > count
                    {
                        *of -= 1;
                    }
                }
                if tables.is_empty() {
                    break;
                }
            }
            if !tables.is_empty() {
                let definition = definition_of(&tables);
                break (database, sql, tables, definition);
            }
        };
        let app = App::over(database, &definition, |_| ()).await;
        let streaming = Streaming::start(app.url());
        story.say("-- served");
        World {
            app,
            sql,
            rng,
            tables,
            seen,
            prepared: 0,
            changes: 0,
            definition,
            mends: Vec::new(),
            streaming,
            kept: Replica::new(),
            story,
        }
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.story.say(text);
    }

    /// Runs statements; whether Postgres took them.
    pub(crate) async fn run(&mut self, sql: &str) -> bool {
        let ran = self.sql.batch_execute(sql).await;
        let said = match &ran {
            Ok(()) => sql.to_owned(),
            Err(error) => {
                drop(self.sql.batch_execute("ROLLBACK").await);
                format!("-- {}\n{sql}", rowtide_postgres::connect::reason(error))
            }
        };
        self.story.say(&said);
        ran.is_ok()
    }

    /// Something happens.
    pub(crate) async fn step(&mut self) {
        match self.rng.random_range(0..20) {
            0..=8 => {
                for _ in 0..self.rng.random_range(1..=4) {
                    self.write().await;
                }
            }
            9 => self.copy().await,
            10 | 11 => self.restart().await,
            12 if !self.mends.is_empty() => self.mend_last().await,
            _ => {
                self.write().await;
                self.change_something().await;
                self.write().await;
            }
        }
    }

    async fn change_something(&mut self) {
        let Some(Change { what, sql, mend }) = self.change().await else { return };
        let taken = self.run(&sql).await;
        self.seen.note(what, taken);
        if let Some(mend) = mend.filter(|_| taken) {
            self.mends.push(mend);
        }
    }

    /// The server ends, and starts again some writes, and perhaps some DDL, later.
    async fn restart(&mut self) {
        self.story.say("-- the server stops");
        self.app.stop_server().await;
        self.write().await;
        if self.rng.random_bool(0.3) {
            self.change_something().await;
        }
        self.write().await;
        self.app.start_server().await;
        self.story.say("-- the server starts");
        self.seen.note("restarts", true);
    }

    async fn mend_last(&mut self) {
        let Some(mend) = self.mends.pop() else { return };
        self.run(&mend).await;
        self.set_up().await;
    }

    async fn set_up(&mut self) {
        let made = setup(&self.sql, &self.app.database.names(), &self.definition.tables()).await;
        self.story.say(&format!("-- rowtide setup: {made:?}"));
    }

    /// Takes back everything that keeps something from being served.
    pub(crate) async fn mend(&mut self) {
        while let Some(mend) = self.mends.pop() {
            self.run(&mend).await;
        }
        self.set_up().await;
    }

    /// Everyone comes to hold what SQL says, of each table that is served; the others are rejected by name.
    pub(crate) async fn check(&mut self) {
        self.story.say("-- check");
        let mut deadline = Instant::now() + PATIENCE;
        loop {
            let Some(why) = self.difference().await else { return };
            if Instant::now() > deadline {
                // What stalls everything is said, and is mended before anything else is looked at.
                let health = self.app.server.as_ref().expect("it runs").health();
                assert!(!health.ready && !self.mends.is_empty(), "{why}; {health:?}");
            }
            let stalled = self.app.server.as_ref().is_some_and(|server| !server.health().ready);
            if stalled && !self.mends.is_empty() && self.rng.random_bool(0.2) {
                self.story.say("-- it says that it is not ready");
                self.mend_last().await;
                // A slot may have to be made anew, for which Postgres waits for everyone's transactions.
                deadline = Instant::now() + PATIENCE;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Everything is served again, and everyone holds it.
    pub(crate) async fn check_all(&mut self) {
        self.story.say("-- check that all is served");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, served) = self.served().await;
            let why = match self.tables.len() - served.len() {
                0 => self.difference().await,
                missing => Some(format!("{missing} tables are not served")),
            };
            let Some(why) = why else { return };
            let health = self.app.server.as_ref().expect("it runs").health();
            // What was altered for good may have made a table one that cannot be served: then that is said.
            if served.len() < self.tables.len() && self.cannot_be_served().await {
                self.seen.note("tables that can no longer be served", true);
                return self.check().await;
            }
            assert!(Instant::now() < deadline, "{why}; {health:?}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Whether `rowtide check` would reject the definition now.
    async fn cannot_be_served(&self) -> bool {
        let catalog = read_catalog(&self.sql, &self.definition.tables()).await.expect("a catalog");
        plan_once_set_up(&self.definition, &catalog).is_err()
    }

    /// The catalog, and the names on the wire of the tables that the streaming client has been told of.
    async fn served(&self) -> (Catalog, BTreeMap<TableName, String>) {
        let catalog = read_catalog(&self.sql, &self.definition.tables()).await.expect("a catalog");
        let replica = self.streaming.replica.lock().unwrap_or_else(PoisonError::into_inner);
        let told: Vec<&str> = replica.tables().collect();
        let named = self.tables.iter().filter_map(|table| {
            let wire = table.wire();
            let wire = told.iter().find(|told| **told == wire)?;
            Some((table.name.clone(), (*wire).to_owned()))
        });
        let named = named.collect();
        drop(replica);
        (catalog, named)
    }

    /// What somebody holds and SQL does not say, or what is not served and not rejected; `None` if all is well.
    async fn difference(&mut self) -> Option<String> {
        let health = self.app.server.as_ref().expect("it runs").health();
        let (catalog, served) = self.served().await;
        let mut truth: BTreeMap<String, Rows> = BTreeMap::new();
        for table in &self.tables.clone() {
            let Some(wire) = served.get(&table.name) else {
                let rejected = health.rejected_tables.contains(&table.wire());
                if rejected {
                    continue;
                }
                return Some(format!("{:?} is neither served nor rejected", table.name));
            };
            // A table that is rejected is not served by those who come now.
            let rows = self.truth(&catalog, table).await;
            match rows {
                Ok(rows) => drop(truth.insert(wire.clone(), rows)),
                Err(why) => return Some(why),
            }
        }
        let streamed = {
            let replica = self.streaming.replica.lock().unwrap_or_else(PoisonError::into_inner);
            differs(&replica, &truth)
        };
        if let Some(why) = streamed {
            return Some(format!("the one who streams: {why}"));
        }
        let url = self.app.url();
        let mut fresh = Replica::new();
        let mut order = [true, false];
        order.shuffle(&mut self.rng);
        for anew in order {
            let (who, replica) = if anew { ("anew", &mut fresh) } else { ("back", &mut self.kept) };
            match timeout(Duration::from_secs(10), visit(&url, replica)).await {
                Ok(true) => {}
                Ok(false) => return Some(format!("the one who comes {who} is sent away")),
                Err(_) => return Some(format!("the one who comes {who} gets no rows")),
            }
            if let Some(why) = differs(replica, &truth) {
                return Some(format!("the one who comes {who}: {why}"));
            }
        }
        None
    }

    /// What the user should hold of a table.
    async fn truth(&self, catalog: &Catalog, table: &Table) -> Result<Rows, String> {
        let found = catalog
            .tables
            .iter()
            .find(|found| found.schema == table.name.schema && found.name == table.name.name);
        let Some(found) = found else { return Err(format!("{:?} is served and gone", table.name)) };
        let columns = found
            .columns
            .iter()
            .map(|column| format!("{}, {}", quote_literal(&column.name), expected(column)));
        let columns: Vec<String> = columns.collect();
        let visible = table.visible.replace("auth.user_id", "'ann'");
        let only = if table.partitions.is_empty() { "ONLY " } else { "" };
        // As the server's own connections have it.
        let sql = format!(
            "SELECT json_build_object({})::text FROM {only}{} WHERE {visible}",
            columns.join(", "),
            table.sql()
        );
        let rows = self.sql.query(&sql, &[]).await;
        let rows = rows.map_err(|error| rowtide_postgres::connect::reason(&error))?;
        let mut all = Rows::new();
        for row in rows {
            let json: Json = serde_json::from_str(row.get(0)).expect("it is JSON");
            *all.entry(plain(json).to_string()).or_default() += 1;
        }
        Ok(all)
    }

    /// Takes everything down.
    pub(crate) async fn end(mut self) -> Seen {
        self.app.stop_server().await;
        std::mem::take(&mut self.seen)
    }
}

/// What a replica holds that is not true, or does not hold.
fn differs(replica: &Replica, truth: &BTreeMap<String, Rows>) -> Option<String> {
    for (table, rows) in truth {
        let mut held = Rows::new();
        for row in replica.rows(table) {
            let json = plain(Json::Object(row.clone())).to_string();
            *held.entry(json).or_default() += 1;
        }
        if held != *rows {
            let more: Vec<&String> =
                held.keys().filter(|row| !rows.contains_key(*row)).take(2).collect();
            let less: Vec<&String> =
                rows.keys().filter(|row| !held.contains_key(*row)).take(2).collect();
            return Some(format!("{table}: holds {more:?}, and not {less:?}"));
        }
    }
    None
}

/// The catalog as `rowtide setup` will leave it.
fn once_set_up(mut catalog: Catalog) -> Catalog {
    for table in &mut catalog.tables {
        table.replica_identity = rowtide_plan::catalog::ReplicaIdentity::Full;
    }
    catalog
}
