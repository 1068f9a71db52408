//! One database with its server and clients, and what is held against what.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rowtide::server::ServerOptions;
use rowtide_client::Replica;
use rowtide_plan::catalog::{Catalog, TableName};
use rowtide_plan::check::plan_once_set_up;
use rowtide_plan::compile::compile_partly;
use rowtide_plan::definition::Definition;
use rowtide_plan::sql::{quote_identifier, quote_literal};
use rowtide_postgres::catalog::read_catalog;
use rowtide_postgres::connect::{ConnectOptions, reason};
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
const PATIENCE: Duration = Duration::from_secs(90);
/// How long a server that starts is waited for, which may have something to wait for itself.
const STARTS: Duration = Duration::from_secs(10);
/// How long nothing is served before what keeps it from that is mended.
const STALLED: Duration = Duration::from_secs(2);
/// Those who come back with a cursor, by how often they do: one of them was away for long.
const COMES_BACK: [f64; 3] = [1.0, 0.35, 0.12];

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
    /// The server's role, where that is not a superuser.
    pub(crate) role: Option<String>,
    /// Postgres' major version.
    pub(crate) version: i32,
    /// For what depends on time: a seed repeats all else.
    chance: SmallRng,
    definition: Arc<Definition>,
    /// What takes back what keeps something from being served, the latest last.
    mends: Vec<String>,
    streaming: Streaming,
    /// What those who come back have kept.
    kept: [Replica; COMES_BACK.len()],
    /// What was done last, and has to reach everyone now.
    last: &'static str,
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
        let begun = Instant::now();
        let (database, version, sql, tables, definition) = loop {
            let database = Database::create().await;
            let version = database.major_version().await;
            let (mut tables, made) = schema(&mut rng, version);
            story.say(&made);
            let sql = database.connect().await;
            let ran = sql.batch_execute(&made).await;
            ran.unwrap_or_else(|error| panic!("{}: {made}", reason(&error)));
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
                leave_out(&mut tables, place.expect("it names a table of the definition"));
                if tables.is_empty() {
                    break;
                }
            }
            if !tables.is_empty() {
                let definition = definition_of(&tables);
                break (database, version, sql, tables, definition);
            }
        };
        let role = if rng.random_bool(0.5) {
            Some(limited_role(&database, &sql, &definition, &tables).await)
        } else {
            None
        };
        let url = match &role {
            Some(role) => database.url_as(role).await,
            None => database.url().await,
        };
        let served_as = |options: &mut ServerOptions| {
            options.gateway.database = ConnectOptions::parse(&url).expect("a URL of the cluster");
        };
        let app = App::over(database, &definition, served_as).await;
        let streaming = Streaming::start(app.url());
        story.say(&format!("-- served to {}", role.as_deref().unwrap_or("a superuser")));
        let seeded = format!("SELECT setseed({})", rng.random_range(-1.0..1.0));
        sql.batch_execute(&seeded).await.expect("it takes a seed");
        seen.spend("a life begins", begun.elapsed());
        World {
            app,
            sql,
            rng,
            tables,
            seen,
            prepared: 0,
            changes: 0,
            role,
            version,
            chance: SmallRng::seed_from_u64(seed),
            definition,
            mends: Vec::new(),
            streaming,
            kept: COMES_BACK.map(|_| Replica::new()),
            last: "nothing yet",
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
                format!("-- {}\n{sql}", reason(error))
            }
        };
        self.story.say(&said);
        ran.is_ok()
    }

    /// What is done of it is mended later. Whether all of it was taken.
    async fn make(&mut self, change: Change) -> bool {
        let mut taken = Vec::new();
        for sql in &change.script.0 {
            taken.push(self.run(sql).await);
        }
        self.mends.extend(change.mend.filter(|_| taken.contains(&true)));
        let taken = !taken.contains(&false);
        self.seen.note(change.what, taken);
        taken
    }

    /// Something happens.
    pub(crate) async fn step(&mut self) {
        match self.rng.random_range(0..24) {
            0..7 => {
                self.last = "writes";
                for _ in 0..self.rng.random_range(1..=4) {
                    self.write().await;
                }
            }
            7 => {
                self.last = "copies";
                self.copy().await;
            }
            8 => self.restart().await,
            9 if !self.mends.is_empty() => {
                self.last = "what was mended";
                self.mend_last().await;
            }
            10..13 => self.overlap().await,
            13 => self.prepare_addition().await,
            // One may hide another from who looks now and then.
            14..18 => {
                for _ in 0..self.rng.random_range(2..=5) {
                    self.change_something().await;
                    self.write().await;
                }
            }
            _ => {
                self.write().await;
                self.change_something().await;
                self.write().await;
            }
        }
    }

    async fn change_something(&mut self) {
        let Some(change) = self.change().await else { return };
        self.last = change.what;
        self.make(change).await;
    }

    /// Somebody's transaction is open while something is done to the database, and writes before and after it.
    async fn overlap(&mut self) {
        let other = self.app.database.connect().await;
        let sees = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
        let sees = *sees.choose(&mut self.rng).expect("there are some");
        let seed: f64 = self.rng.random_range(-1.0..1.0);
        let settings = format!("SET lock_timeout = '300ms'; SELECT setseed({seed})");
        other.batch_execute(&settings).await.expect("settings");
        let begin = format!("BEGIN ISOLATION LEVEL {sees}");
        other.batch_execute(&begin).await.expect("a transaction");
        self.story.say(&format!("-- another transaction: {sees}"));
        let mut taken = self.beside(&other).await;
        self.run("SET lock_timeout = '100ms'").await;
        let change = match self.rng.random_bool(0.7) {
            true => Some(self.addition().await),
            false => self
                .change()
                .await
                .filter(|change| !change.script.0.iter().any(|sql| sql.contains("CONCURRENTLY"))),
        };
        if let Some(change) = change {
            taken &= self.make(change).await;
        }
        self.run("RESET lock_timeout").await;
        taken &= self.beside(&other).await;
        self.prepared += 1;
        let name = format!("{}_{}", self.app.database.name(), self.prepared);
        let prepared = self.rng.random_bool(0.3);
        let end = match self.rng.random_range(0..5) {
            _ if prepared => format!("PREPARE TRANSACTION '{name}'"),
            0 => "ROLLBACK".to_owned(),
            _ => "COMMIT".to_owned(),
        };
        let ended = other.batch_execute(&end).await.map_err(|error| reason(&error));
        self.story.say(&format!("-- another transaction: {end}: {ended:?}"));
        if prepared && ended.is_ok() {
            self.run("SET lock_timeout = '100ms'").await;
            let addition = self.addition().await;
            self.make(addition).await;
            self.run("RESET lock_timeout").await;
            // It fails where the transaction had, and was rolled back.
            self.run(&format!("COMMIT PREPARED '{name}'")).await;
        }
        self.last = "transactions that are open over DDL";
        self.seen.note(self.last, taken);
    }

    /// A statement of another session.
    async fn beside(&mut self, other: &Client) -> bool {
        let table = self.rng.random_range(0..self.tables.len());
        let Some((_, sql)) = self.statement(table).await else { return false };
        let ran = other.batch_execute(&sql).await.map_err(|error| reason(&error));
        self.story.say(&format!("-- another transaction: {ran:?}\n{sql}"));
        ran.is_ok()
    }

    /// A column is added by a transaction that is prepared, and committed or rolled back when others have written.
    async fn prepare_addition(&mut self) {
        let Change { script, .. } = self.addition().await;
        let sql = script.0.join("; ");
        let table = self.rng.random_range(0..self.tables.len());
        let before = self.statement(table).await.map_or(String::new(), |(_, sql)| sql);
        self.prepared += 1;
        let name = format!("{}_{}", self.app.database.name(), self.prepared);
        let sql = format!("BEGIN; {before}; {sql}; PREPARE TRANSACTION '{name}'");
        let taken = self.run(&sql).await;
        if taken {
            self.run("SET lock_timeout = '50ms'").await;
            self.write().await;
            self.write().await;
            self.run("RESET lock_timeout").await;
            let end = if self.rng.random_bool(0.7) { "COMMIT" } else { "ROLLBACK" };
            self.run(&format!("{end} PREPARED '{name}'")).await;
        }
        self.last = "columns added by prepared transactions";
        self.seen.note(self.last, taken);
    }

    /// The server ends, and starts again some writes, and perhaps some DDL, later.
    async fn restart(&mut self) {
        self.story.say("-- the server stops");
        self.app.stop_server().await;
        self.write().await;
        if self.rng.random_bool(0.6) {
            self.change_something().await;
        }
        self.write().await;
        self.app.begin_server().await;
        // What was altered meanwhile may keep it from being ready.
        let ready = self.app.server.as_ref().expect("it runs").wait_until_ready();
        drop(timeout(STARTS, ready).await);
        self.story.say("-- the server starts");
        self.last = "restarts";
        self.seen.note(self.last, true);
    }

    async fn mend_last(&mut self) {
        let Some(mend) = self.mends.pop() else { return };
        self.take_back(&mend).await;
        self.set_up().await;
    }

    async fn take_back(&mut self, mend: &str) {
        if self.run(mend).await {
            return;
        }
        // Rows that were written meanwhile may be in its way: some have one key, where there was none.
        for name in self.tables.iter().map(Table::sql).collect::<Vec<_>>() {
            self.run(&format!("TRUNCATE {name} CASCADE")).await;
        }
        self.run(mend).await;
    }

    async fn set_up(&mut self) {
        let made = setup(&self.sql, &self.app.database.names(), &self.definition.tables()).await;
        self.story.say(&format!("-- rowtide setup: {made:?}"));
    }

    /// Takes back everything that keeps something from being served.
    pub(crate) async fn mend(&mut self) {
        while let Some(mend) = self.mends.pop() {
            self.take_back(&mend).await;
        }
        // On version 14 a partition may have rows that are older than a column of the key.
        let partitioned = self.tables.iter().filter(|table| !table.partitions.is_empty());
        for name in partitioned.map(Table::sql).collect::<Vec<_>>() {
            if self.version < 15 {
                self.run(&format!("VACUUM FULL {name}")).await;
            }
        }
        self.set_up().await;
    }

    /// Everyone comes to hold what SQL says, of each table that is served; the others are rejected by name.
    pub(crate) async fn check(&mut self) {
        self.story.say("-- check");
        let come = COMES_BACK.map(|often| self.rng.random_bool(often));
        let begun = Instant::now();
        let mut deadline = begun + PATIENCE;
        let mut stalled = None;
        loop {
            let Some(why) = self.difference(come).await else { break };
            // Who sees a table that the server may not read any more waits until it may again.
            let health = self.app.server.as_ref().expect("it runs").health();
            let waits = !health.ready || !health.unreadable_tables.is_empty();
            if Instant::now() > deadline {
                // What stalls everything is said, and is mended before anything else is looked at.
                assert!(waits && !self.mends.is_empty(), "{why}; {health:?}");
            }
            if !waits || self.mends.is_empty() {
                stalled = None;
            } else if stalled.get_or_insert_with(Instant::now).elapsed() > STALLED {
                self.story.say("-- it says that it is not ready");
                self.mend_last().await;
                // A slot may have to be made anew, for which Postgres waits for everyone's transactions.
                deadline = Instant::now() + PATIENCE;
                stalled = None;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        self.seen.spend(self.last, begun.elapsed());
    }

    /// Everything is served again, and everyone holds it.
    pub(crate) async fn check_all(&mut self) {
        self.story.say("-- check that all is served");
        let begun = Instant::now();
        let deadline = begun + PATIENCE;
        self.last = "all that was mended in the end";
        loop {
            let (_, served) = self.served().await;
            let why = match self.tables.len() - served.len() {
                0 => self.difference(COMES_BACK.map(|_| true)).await,
                missing => Some(format!("{missing} tables are not served")),
            };
            let Some(why) = why else { break };
            let health = self.app.server.as_ref().expect("it runs").health();
            // What was altered for good may have made a table one that cannot be served: then that is said.
            if served.len() < self.tables.len() && self.cannot_be_served().await {
                self.seen.note("tables that can no longer be served", true);
                return self.check().await;
            }
            assert!(Instant::now() < deadline, "{why}; {health:?}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        self.seen.spend(self.last, begun.elapsed());
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
    async fn difference(&mut self, come: [bool; COMES_BACK.len()]) -> Option<String> {
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
        let mut visitors: Vec<(&str, &mut Replica)> = vec![("anew", &mut fresh)];
        let back = self.kept.iter_mut().zip(come).filter(|(_, comes)| *comes);
        visitors.extend(back.map(|(replica, _)| ("back", replica)));
        visitors.shuffle(&mut self.chance);
        for (who, replica) in visitors {
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
        let only = if found.streaming.partitioned { "" } else { "ONLY " };
        // As the server's own connections have it.
        let sql = format!(
            "SELECT json_build_object({})::text FROM {only}{} WHERE {visible}",
            columns.join(", "),
            table.sql()
        );
        let rows = self.sql.query(&sql, &[]).await;
        let rows = rows.map_err(|error| reason(&error))?;
        let mut all = Rows::new();
        for row in rows {
            let json: Json = serde_json::from_str(row.get(0)).expect("it is JSON");
            *all.entry(plain(json).to_string()).or_default() += 1;
        }
        Ok(all)
    }

    /// Takes everything down.
    pub(crate) async fn end(mut self) -> Seen {
        let ending = Instant::now();
        self.app.stop_server().await;
        self.seen.spend("a life ends", ending.elapsed());
        std::mem::take(&mut self.seen)
    }
}

/// Takes a table out, and all whose rules look into one that is taken out.
fn leave_out(tables: &mut Vec<Table>, place: usize) {
    let mut kept: Vec<bool> = (0..tables.len()).map(|index| index != place).collect();
    // Those that a table may look into were made before it.
    for index in place..tables.len() {
        kept[index] &= tables[index].parent.as_ref().is_none_or(|(_, of)| kept[*of]);
    }
    let moved = |of: usize| kept[..of].iter().filter(|kept| **kept).count();
    for (_, of) in tables.iter_mut().filter_map(|table| table.parent.as_mut()) {
        *of = moved(*of);
    }
    let mut each = kept.iter();
    tables.retain(|_| each.next().is_some_and(|kept| *kept));
}

/// A role that may stream and read, and is otherwise nobody.
async fn limited_role(
    database: &Database,
    sql: &Client,
    definition: &Definition,
    tables: &[Table],
) -> String {
    let made = setup(sql, &database.names(), &definition.tables()).await;
    made.unwrap_or_else(|error| panic!("{error:?}"));
    let names: Vec<String> = tables.iter().map(Table::sql).collect();
    let role = database.stranger("server", "LOGIN REPLICATION", &names.join(", ")).await;
    let mut grants = format!(
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {role}; \
         ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO {role}"
    );
    for table in tables {
        let schema = quote_identifier(&table.name.schema);
        grants += &format!("; GRANT USAGE ON SCHEMA {schema} TO {role}");
    }
    let granted = sql.batch_execute(&grants).await;
    granted.unwrap_or_else(|error| panic!("{}", reason(&error)));
    role
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
        if table.streaming.full_rejected.is_none() {
            table.replica_identity = rowtide_plan::catalog::ReplicaIdentity::Full;
        }
    }
    catalog
}
