//! `rowtide serve` while something that it needs is missing: it comes up and listens, says in `/health/ready` and once
//! in its log what is wrong, sends clients away with the word that they may come back, and heals when the thing is
//! there, without a restart. What only another command line, configuration or file can change ends it at once.

use std::net::SocketAddr;
use std::process::Command;

use rowtide_postgres::connect::Names;
use rowtide_protocol::Lsn;
use rowtide_tests::proxy::{Proxy, Upstream};
use rowtide_tests::{
    App, Database, Dir, Node, PATIENCE, Raw, Running, SECRET, eventually, free_address, rowtide,
    said,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Client;

const TABLES: &str =
    "CREATE TABLE note (id text PRIMARY KEY, owner text NOT NULL, body text NOT NULL);
                      CREATE TABLE other (id text PRIMARY KEY, owner text NOT NULL);
                      INSERT INTO note VALUES ('n1', 'ada', 'hello');";
const DEFINITION: &str = "[tables.note]\nvisible = 'owner = auth.user_id'\n\
                          [tables.other]\nvisible = 'owner = auth.user_id'\n";
const JWKS: &str = include_str!("auth/jwks.json");
const ED: &str = include_str!("auth/ed.pem");

/// A directory with a definition and a log, and the names of a deployment.
struct Place {
    dir: Dir,
    environment: String,
}

impl Place {
    fn new(environment: &str, definition: &str) -> Place {
        let dir = Dir::new();
        dir.write("rowtide.toml", definition);
        Place { dir, environment: environment.to_owned() }
    }

    fn command(&self, name: &str, url: &str) -> Command {
        let mut command = rowtide([name, "--log-format", "json"]);
        command
            .current_dir(self.dir.path())
            .env("DATABASE_URL", url)
            .env("ROWTIDE_ENVIRONMENT", &self.environment)
            .env("ROWTIDE_TOKEN_SECRET", SECRET)
            .env("ROWTIDE_LOG_DIR", self.dir.join("log"))
            .env("ROWTIDE_LISTEN", "127.0.0.1:0");
        command
    }

    async fn serve(&self, url: &str) -> Served {
        Served::start(self.command("serve", url)).await
    }

    async fn set_up(&self, url: &str) {
        let done = said(self.command("setup", url)).await;
        assert_eq!(done.code(), Some(0), "{done:?}");
    }
}

/// A database of the shared cluster that is set up, and a place for its server.
struct Site {
    database: Database,
    place: Place,
    sql: Client,
}

impl Site {
    async fn new() -> Site {
        Site::with(DEFINITION).await
    }

    async fn with(definition: &str) -> Site {
        let database = Database::with(TABLES).await;
        let place = Place::new(database.name(), definition);
        let sql = database.connect().await;
        let site = Site { database, place, sql };
        site.place.set_up(&site.url().await).await;
        site
    }

    async fn url(&self) -> String {
        self.database.url().await
    }

    async fn serve(&self) -> Served {
        self.place.serve(&self.url().await).await
    }

    async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }

    /// A client inserts a row into `other`, and hears what others commit meanwhile, and neither of a rejection nor of an
    /// acknowledgement.
    async fn mutation_waits(&self, client: &mut Raw) {
        let op = json!({ "op": "insert", "table": "other", "row": { "id": "o1", "owner": "ada" } });
        client.say(&json!({ "type": "mutate", "id": 1, "ops": [op] })).await;
        self.run("UPDATE note SET body = 'changed'").await;
        loop {
            let message = client.hear().await.expect("it goes on");
            assert_ne!(message["type"], "reject", "{message}");
            if message["type"] == "tx" && message.to_string().contains("changed") {
                assert_eq!(message["ack"], Value::Null, "{message}");
                break;
            }
        }
    }

    /// What has waited is applied by itself.
    async fn mutation_is_applied(&self) {
        eventually("it is applied", || async {
            let count = self.sql.query_one("SELECT count(*) FROM other WHERE id = 'o1'", &[]).await;
            count.is_ok_and(|row| row.get::<_, i64>(0) == 1).then_some(())
        })
        .await;
    }
}

/// `rowtide serve`, which listens.
struct Served {
    running: Running,
    address: SocketAddr,
}

impl Served {
    async fn start(command: Command) -> Served {
        let mut running = Running::start(command);
        let address = running.line("listening http://").await.parse().unwrap();
        Served { running, address }
    }

    /// Status and body of a page.
    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        let read = tokio::time::timeout(PATIENCE, read).await;
        read.expect("health is answered at once").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// It lives, is not ready, and says that `part` is why, without what is secret.
    async fn waits(&self, part: &str) {
        assert_eq!(self.get("/health/live").await.0, 200);
        let what = format!("it says `{part}`");
        let detail = eventually(&what, || async {
            let (status, body) = self.get("/health/ready").await;
            let health: Value = serde_json::from_str(&body).unwrap();
            let detail = health["detail"].as_str().unwrap().to_owned();
            Some(detail).filter(|detail| status == 503 && detail.contains(part))
        });
        let detail = detail.await;
        assert!(!detail.contains("s3cret"), "{detail}");
    }

    /// A client is sent away, to come back.
    async fn sends_away(&self, token: &str) {
        let url = format!("ws://{}/sync", self.address);
        let mut raw = Raw::open_url(&url, None).await;
        raw.say(&Raw::connect(token)).await;
        let ending = raw.hear().await.expect_err("there is nothing to serve");
        ending.assert("a client that comes too early", "unavailable");
    }

    /// A client gets its row of the tables that fit. The connection is returned.
    async fn serves(&self, token: &str) -> Raw {
        let url = format!("ws://{}/sync", self.address);
        // Who comes while other engines begin is told to come again.
        let (snapshot, raw) = eventually("a client is served", || async {
            let mut raw = Raw::open_url(&url, None).await;
            raw.say(&Raw::connect(token)).await;
            let connected = raw.hear().await.ok()?;
            assert_eq!(connected["type"], "connected");
            Some((raw.hear().await.ok()?, raw))
        })
        .await;
        assert_eq!(snapshot["rows"][0]["id"], "n1", "{snapshot}");
        raw
    }

    /// It is ready, and says in its health and its metrics that mutations wait for this, or that none does.
    async fn is_ready_and_mutations_wait_for(&self, part: Option<&str>) {
        let gauge = format!("rowtide_mutations_failing {}", u8::from(part.is_some()));
        let what = format!("it says that mutations wait for {part:?}");
        eventually(&what, || async {
            let (status, body) = self.get("/health/ready").await;
            assert_eq!(status, 200, "{body}");
            assert!(!body.contains("s3cret"), "{body}");
            let health: Value = serde_json::from_str(&body).unwrap();
            let detail = health["detail"].as_str().unwrap();
            let says = match (part, &health["mutationsWaitFor"]) {
                (None, Value::Null) => detail == "streaming",
                (Some(part), Value::String(why)) => why.contains(part) && detail.contains(why),
                _ => false,
            };
            let (_, metrics) = self.get("/metrics").await;
            (says && metrics.lines().any(|line| line == gauge)).then_some(())
        })
        .await;
    }

    /// How often a mutation was tried again because Postgres could not take it.
    async fn retries(&self) -> u64 {
        let (_, metrics) = self.get("/metrics").await;
        let name = "rowtide_mutation_retries_total{reason=\"away\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |count| count.parse().expect("a number"))
    }

    /// It has healed: it is ready, and serves a client its row. Nothing was said twice, and it stops in order.
    async fn heals(mut self, token: &str) {
        self.running.line("ready http://").await;
        let (status, body) = self.get("/health/ready").await;
        let health: Value = serde_json::from_str(&body).unwrap();
        for name in ["position", "oldest"] {
            let lsn = health[name].as_str().and_then(|text| text.parse::<Lsn>().ok());
            assert!(status == 200 && lsn > Some(Lsn(0)), "{status}: {health}");
        }
        drop(self.serves(token).await);
        let stopped = self.running.stop().await;
        assert_eq!(stopped.code(), Some(0), "{stopped:?}");
        let warnings = troubles(&stopped.err);
        for (place, warning) in warnings.iter().enumerate() {
            assert!(!warnings[..place].contains(warning), "said twice: {warning}\n{warnings:#?}");
        }
        assert!(!warnings.is_empty(), "nothing was said");
        let of_stop = warnings.iter().find(|warning| warning.contains("engines have ended"));
        assert_eq!(of_stop, None, "it stopped in order");
    }
}

/// The messages of the warnings and errors in a log.
fn troubles(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["level"] == "WARN" || line["level"] == "ERROR")
        .map(|line| line["fields"].to_string())
        .collect()
}

fn ada() -> String {
    App::token("ada")
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_refuses_connections() {
    let site = Site::new().await;
    let network = Proxy::start(site.database.upstream().await).await;
    network.refuse(true);
    let name = site.database.name();
    let url = format!("postgres://postgres:s3cret@{}/{name}?sslmode=disable", network.address());
    let served = site.place.serve(&url).await;
    served.waits("cannot connect to").await;
    served.sends_away(&ada()).await;
    // There is no position that could be taken for one.
    let (_, body) = served.get("/health/ready").await;
    let health: Value = serde_json::from_str(&body).unwrap();
    for name in ["position", "oldest"] {
        assert_eq!(health.get(name), Some(&Value::Null), "{health}");
    }
    network.heal();
    served.heals(&ada()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_started_only_after_the_server() {
    let dir = Dir::new();
    let mut node = Node::start(&dir, "later").await;
    let url = node.cluster().url("postgres");
    node.connect("postgres").await.batch_execute(TABLES).await.unwrap();
    let place = Place::new("default", DEFINITION);
    place.set_up(&url).await;
    node.stop();
    let served = place.serve(&url).await;
    served.waits("cannot connect to").await;
    served.sends_away(&ada()).await;
    node.start_again().await;
    served.heals(&ada()).await;
    node.stop();
}

/// Answers every connection as a Postgres does that is not there yet.
async fn starting_up() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut startup = [0; 1024];
            if !matches!(stream.read(&mut startup).await, Ok(1..)) {
                continue;
            }
            let fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
            let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
            drop(stream.write_all(&[b"E", &length[..], fields].concat()).await);
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_starting_up() {
    let site = Site::new().await;
    let network = Proxy::start(Upstream::Tcp(starting_up().await)).await;
    let name = site.database.name();
    let url = format!("postgres://postgres@{}/{name}?sslmode=disable", network.address());
    let served = site.place.serve(&url).await;
    served.waits("the database system is starting up").await;
    served.sends_away(&ada()).await;
    network.lead_to(site.database.upstream().await);
    served.heals(&ada()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_a_standby_that_is_promoted_later() {
    let dir = Dir::new();
    let mut primary = Node::start(&dir, "primary").await;
    primary.connect("postgres").await.batch_execute(TABLES).await.unwrap();
    let place = Place::new("default", DEFINITION);
    place.set_up(&primary.cluster().url("postgres")).await;
    primary.stop();
    let mut standby = primary.copy(&dir, "standby");
    primary.start_again().await;
    standby.follow(&primary, false);
    standby.start_again().await;
    let served = place.serve(&standby.cluster().url("postgres")).await;
    served.waits("the server is a standby").await;
    standby.catch_up_with(&primary).await;
    primary.stop();
    standby.promote().await;
    served.heals(&ada()).await;
    standby.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_wrong_until_it_is_corrected() {
    let site = Site::new().await;
    let role = format!("{}_keyed", site.database.name());
    site.run(&format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'another'")).await;
    let file: String = site.sql.query_one("SHOW hba_file", &[]).await.unwrap().get(0);
    let rules = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("local all {role} scram-sha-256\n{rules}")).unwrap();
    site.run("SELECT pg_reload_conf()").await;
    let url = site.database.url_as(&format!("{role}:right")).await;
    let served = site.place.serve(&url).await;
    served.waits("password authentication failed").await;
    served.sends_away(&ada()).await;
    site.run(&format!("ALTER ROLE {role} PASSWORD 'right'")).await;
    served.heals(&ada()).await;
    site.run(&format!("DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_made_and_set_up_later() {
    let template = Database::with(TABLES).await;
    let name = format!("{}_later", template.name());
    let place = Place::new(&name, DEFINITION);
    let url = template.url().await.replace(template.name(), &name);
    let served = place.serve(&url).await;
    served.waits("does not exist").await;
    served.sends_away(&ada()).await;
    let sql = rowtide_tests::cluster().await.connect("postgres").await.unwrap();
    let create = format!("CREATE DATABASE {name} TEMPLATE {}", template.name());
    eventually("the template is free", || async { sql.batch_execute(&create).await.ok() }).await;
    served.waits("rowtide setup").await;
    served.sends_away(&ada()).await;
    place.set_up(&url).await;
    served.heals(&ada()).await;
    let names = Names::of(&name).unwrap();
    eventually("its slot is dropped", || async {
        sql.query("SELECT pg_drop_replication_slot($1)", &[&names.slot]).await.ok()
    })
    .await;
    sql.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_missing_until_it_is_created() {
    let site = Site::new().await;
    site.run("DROP TABLE other").await;
    let served = site.serve().await;
    served.waits("table `other` does not fit").await;
    served.waits("has no table").await;
    drop(served.serves(&ada()).await);
    site.run("CREATE TABLE other (id text PRIMARY KEY, owner text NOT NULL)").await;
    served.waits("not in the publication").await;
    site.place.set_up(&site.url().await).await;
    served.heals(&ada()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_renamed_until_it_has_its_name_again() {
    let site = Site::new().await;
    site.run("ALTER TABLE other RENAME TO elsewhere").await;
    let served = site.serve().await;
    served.waits("table `other` does not fit").await;
    drop(served.serves(&ada()).await);
    site.run("ALTER TABLE elsewhere RENAME TO other").await;
    served.heals(&ada()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fits_so_nothing_is_served() {
    let site = Site::new().await;
    let rename = "ALTER TABLE other RENAME TO elsewhere; ALTER TABLE note RENAME TO paper";
    site.run(rename).await;
    let served = site.serve().await;
    served.waits("table `other` does not fit").await;
    served.waits("table `note` does not fit").await;
    served.sends_away(&ada()).await;
    site.run("ALTER TABLE elsewhere RENAME TO other; ALTER TABLE paper RENAME TO note").await;
    served.heals(&ada()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_of_a_table_that_does_not_fit_waits_until_it_does() {
    let definition = format!("{DEFINITION}[tables.other.insert]\nallow = 'true'\n");
    let site = Site::with(&definition).await;
    site.run("ALTER TABLE other RENAME TO elsewhere").await;
    let served = site.serve().await;
    served.waits("table `other` does not fit").await;
    let mut raw = served.serves(&ada()).await;
    site.mutation_waits(&mut raw).await;
    site.run("ALTER TABLE elsewhere RENAME TO other").await;
    site.mutation_is_applied().await;
    served.heals(&ada()).await;
}

/// What is read is served meanwhile, and no load balancer sends clients elsewhere, where the way would be the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_way_of_mutations_alone_is_down_until_it_is_there_again() {
    let definition = format!("{DEFINITION}[tables.other.insert]\nallow = 'true'\n");
    let site = Site::with(&definition).await;
    let way = Proxy::start(site.database.upstream().await).await;
    let (address, name) = (way.address(), site.database.name());
    let url = format!("postgres://postgres:s3cret@{address}/{name}?sslmode=disable");
    let mut command = site.place.command("serve", &site.url().await);
    command.env("ROWTIDE_MUTATION_DATABASE_URL", url);
    let mut served = Served::start(command).await;
    served.running.line("ready http://").await;
    eventually("it has gone the way", || async { (way.connections() > 0).then_some(()) }).await;
    served.is_ready_and_mutations_wait_for(None).await;
    way.refuse(true);
    way.cut();
    let target = format!("cannot connect to database `{name}` at {address} as `postgres`");
    // Nobody has sent a mutation.
    served.is_ready_and_mutations_wait_for(Some(&target)).await;
    served.running.says("no mutation can be applied").await;
    let mut raw = served.serves(&ada()).await;
    site.mutation_waits(&mut raw).await;
    eventually("it is tried", || async { (served.retries().await > 0).then_some(()) }).await;
    served.is_ready_and_mutations_wait_for(Some(&target)).await;
    way.refuse(false);
    site.mutation_is_applied().await;
    while raw.hear().await.expect("it goes on")["ack"] != 1 {}
    served.is_ready_and_mutations_wait_for(None).await;
    served.heals(&ada()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_cannot_be_read_until_that_is_granted() {
    let site = Site::new().await;
    let role = site.database.stranger("reader", "LOGIN REPLICATION", "note").await;
    let served = site.place.serve(&site.database.url_as(&role).await).await;
    served.waits("may not read table").await;
    site.run(&format!("GRANT SELECT ON other TO {role}")).await;
    served.heals(&ada()).await;
    site.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// To reject what cannot be written yet would lose it.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_cannot_be_written_until_that_is_granted() {
    let definition = format!(
        "{DEFINITION}[tables.other.insert]\nallow = 'true'\n[tables.note.insert]\nallow = 'true'\n"
    );
    let site = Site::with(&definition).await;
    let role = site.database.stranger("writer", "LOGIN REPLICATION", "note, other").await;
    site.run(&format!("GRANT INSERT ON note TO {role}")).await;
    let served = site.place.serve(&site.database.url_as(&role).await).await;
    served.waits("may not insert rows of table").await;
    let mut raw = served.serves(&ada()).await;
    site.mutation_waits(&mut raw).await;
    // Others write meanwhile, which does not make it news that this one waits.
    let mut other = served.serves(&ada()).await;
    for id in 1..=3 {
        let row = json!({ "id": format!("m{id}"), "owner": "bob", "body": "" });
        let op = json!({ "op": "insert", "table": "note", "row": row });
        let before = served.retries().await;
        other.say(&json!({ "type": "mutate", "id": id, "ops": [op] })).await;
        while other.hear().await.expect("it goes on")["ack"] != id {}
        eventually("the one that waits is tried again", || async {
            (served.retries().await > before).then_some(())
        })
        .await;
    }
    site.run(&format!("GRANT INSERT ON other TO {role}")).await;
    site.mutation_is_applied().await;
    served.heals(&ada()).await;
    site.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_rowtide_is_missing_until_it_is_set_up() {
    let site = Site::new().await;
    let schema = site.database.names().schema;
    site.run(&format!("DROP TABLE {schema}.refusal")).await;
    let served = site.serve().await;
    served.waits("refusal\" is missing").await;
    served.sends_away(&ada()).await;
    site.place.set_up(&site.url().await).await;
    served.heals(&ada()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_may_not_replicate_until_that_is_granted() {
    let site = Site::new().await;
    let role = site.database.stranger("quiet", "LOGIN", "note, other").await;
    let served = site.place.serve(&site.database.url_as(&role).await).await;
    let newer = site.database.major_version().await >= 16;
    served.waits(if newer { "with the REPLICATION attribute" } else { "replication role" }).await;
    site.run(&format!("ALTER ROLE {role} REPLICATION")).await;
    served.heals(&ada()).await;
    site.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_a_rule_is_missing_until_it_is_added() {
    let site = Site::with(DEFINITION).await;
    let definition = "[tables.note]\nvisible = '''team = 'x' OR owner = auth.user_id'''\n\
                      [tables.other]\nvisible = 'owner = auth.user_id'\n";
    site.place.dir.write("rowtide.toml", definition);
    let served = site.serve().await;
    let sentence = "table `note` has no column `team`";
    served.waits(sentence).await;
    let checked = said(site.place.command("check", &site.url().await)).await;
    assert_eq!(checked.code(), Some(1), "{checked:?}");
    assert!(checked.err.contains(sentence), "{checked:?}");
    let says = |line: &str| line.contains("ERROR") && line.contains(sentence);
    eventually("an error says it", || async {
        served.running.said().lines().any(says).then_some(())
    })
    .await;
    site.run("ALTER TABLE note ADD COLUMN team text").await;
    served.heals(&ada()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_for_writing_that_postgres_does_not_take_is_waited_for() {
    let definition = format!("{DEFINITION}[[tables.note.update]]\nallow = 'old.team IS NULL'\n");
    let site = Site::with(DEFINITION).await;
    site.place.dir.write("rowtide.toml", &definition);
    let served = site.serve().await;
    served.waits("does not take this rule").await;
    site.run("ALTER TABLE note ADD COLUMN team text").await;
    served.heals(&ada()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_is_missing() {
    let site = Site::new().await;
    let slot = site.database.names().slot;
    site.sql.query("SELECT pg_drop_replication_slot($1)", &[&slot]).await.unwrap();
    // Nobody can make it as long as an older transaction is open.
    let blocker = site.database.connect().await;
    blocker.batch_execute("BEGIN; INSERT INTO note VALUES ('n0', 'bob', '')").await.unwrap();
    let served = site.serve().await;
    served.waits("slot").await;
    served.sends_away(&ada()).await;
    blocker.batch_execute("ROLLBACK").await.unwrap();
    served.heals(&ada()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_is_lost() {
    let dir = Dir::new();
    let mut node = Node::start(&dir, "short").await;
    let url = node.cluster().url("postgres");
    let sql = node.connect("postgres").await;
    sql.batch_execute(TABLES).await.unwrap();
    let place = Place::new("default", DEFINITION);
    place.set_up(&url).await;
    node.set("max_slot_wal_keep_size", "1MB").await;
    eventually("the slot is lost", || async {
        node.wear(4).await;
        let status = "SELECT coalesce(min(wal_status), 'none') FROM pg_replication_slots";
        (node.one(status).await == "lost").then_some(())
    })
    .await;
    let served = place.serve(&url).await;
    served.heals(&ada()).await;
    drop(sql);
    node.stop();
}

fn of_issuer() -> String {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let header = Header { kid: Some("ed".to_owned()), ..Header::new(Algorithm::EdDSA) };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let claims = serde_json::json!({ "sub": "ada", "exp": now.as_secs() + 600 });
    encode(&header, &claims, &EncodingKey::from_ed_pem(ED.as_bytes()).unwrap()).unwrap()
}

/// An issuer that answers every request so.
async fn issuer(listener: TcpListener, status: &'static str, body: &'static str) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n")
            && let Ok(1..) = stream.read_buf(&mut request).await
        {}
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close");
        drop(stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuer_of_keys_is_started_only_after_the_server() {
    let site = Site::new().await;
    let address = free_address();
    let mut command = site.place.command("serve", &site.url().await);
    command.args(["--jwks", &format!("http://{address}/keys?key=s3cret")]);
    command.env_remove("ROWTIDE_TOKEN_SECRET");
    let served = Served::start(command).await;
    served.waits("cannot read the keys of").await;
    // It may be a good one: the client must keep it.
    served.sends_away(&of_issuer()).await;
    let listener = TcpListener::bind(address).await.unwrap();
    let broken = tokio::spawn(issuer(listener, "503 Service Unavailable", "later"));
    served.waits("503").await;
    served.sends_away(&of_issuer()).await;
    broken.abort();
    assert!(broken.await.unwrap_err().is_cancelled());
    let listener = TcpListener::bind(address).await.unwrap();
    let answers = tokio::spawn(issuer(listener, "200 OK", JWKS));
    served.heals(&of_issuer()).await;
    answers.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_operator_can_mend_ends_it_at_once() {
    let site = Site::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().map(|address| (taken, address.to_string())).unwrap();
    let wrong = site.place.dir.write("wrong.toml", "[tables.note]\nvisible = 'owner <'\n");
    let no_toml = site.place.dir.write("no.toml", "[tables.note\n");
    for (args, part) in [
        (vec!["--listen", &taken.1], "cannot listen on"),
        (vec!["--definition", &wrong], "cannot be used"),
        (vec!["--definition", &no_toml], "no.toml"),
        (vec!["--definition", "not-there.toml"], "cannot read `not-there.toml`"),
        (vec!["--engines", "0"], "`engines`"),
        (vec!["--token-secret", "short"], "32 bytes"),
        (vec!["--jwks", "not-there.json"], "cannot read the keys of `not-there.json`"),
        (vec!["--database-url", "mysql://localhost/app"], "postgres://"),
    ] {
        let mut command = site.place.command("serve", &site.url().await);
        command.args(&args);
        let ended = said(command).await;
        assert_eq!(ended.code(), Some(1), "{args:?}: {ended:?}");
        assert!(ended.err.contains(part), "no `{part}` in:\n{}", ended.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stops_fitting_once_it_has_fitted_is_left_out_and_the_rest_served() {
    let site = Site::new().await;
    let mut served = site.serve().await;
    served.running.line("ready http://").await;
    site.run("ALTER TABLE other RENAME TO elsewhere").await;
    eventually("it is refused", || async {
        let (status, body) = served.get("/health/ready").await;
        let health: Value = serde_json::from_str(&body).unwrap();
        (status == 200 && health["refusedTables"][0] == "other").then_some(())
    })
    .await;
    served.heals(&ada()).await;
}
