//! `rowtide dev` as a newcomer has it: one command, a private cluster that comes and goes with it, and
//! what it says when it cannot.

use std::path::Path;
use std::sync::Arc;

use rowtide_client::{Client, ClientOptions, Event, Status};
use rowtide_postgres::connect::{ConnectOptions, connect};
use rowtide_tests::{Database, Dir, PATIENCE, Running, Said, eventually, rowtide, said};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nothing was wrong, and nothing is said to be.
#[track_caller]
fn assert_in_order(said: &Said) {
    let troubled =
        said.err.lines().find(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    assert_eq!(troubled, None, "{}", said.err);
}

/// A `rowtide dev` that is ready.
struct Dev {
    running: Running,
    /// Host and port.
    address: String,
    /// The URL for psql.
    database: String,
}

impl Dev {
    async fn start(dir: &Dir, more: &[&str]) -> Dev {
        let mut running = Running::start(dev(dir, more));
        let address = running.line("ready http://").await;
        let database = running.line("psql ").await.trim_matches('\'').to_owned();
        Dev { running, address, database }
    }

    async fn sql(&self) -> tokio_postgres::Client {
        let options = ConnectOptions::parse(&self.database).unwrap();
        connect(&options, "test").await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn count(&self, what: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {what}");
        self.sql().await.query_one(&sql, &[]).await.unwrap().get(0)
    }

    /// A client that has its rows.
    async fn client(&self, token: &str) -> Client {
        let token = token.to_owned();
        let mut client = Client::start(ClientOptions {
            url: format!("ws://{}/sync", self.address),
            token: Arc::new(move || Some(token.clone())),
            client_id: format!("test-{:016x}", rand::random::<u64>()),
            app_version: None,
        });
        let live = async {
            loop {
                match client.next().await {
                    Some(Event::Status(Status::Live)) => break,
                    None | Some(Event::Stopped(_)) => panic!("the server refuses"),
                    Some(_) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, live).await.expect("live in time");
        client
    }
}

/// What is served at `/`.
async fn page(port: &str) -> String {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// `rowtide dev` in `dir`, on a free port.
fn dev(dir: &Dir, more: &[&str]) -> std::process::Command {
    let mut command = rowtide(["dev", "--dir", &dir.join("dev")]);
    if !more.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.args(more);
    command
}

/// An error for a person: what is wrong in one line, and no more than a hint below it.
#[track_caller]
fn refused_in_a_line(said: &Said, line: &str) {
    assert_eq!(said.code(), Some(1), "{said:?}");
    let errors: Vec<&str> = said.err.lines().filter(|line| line.contains('×')).collect();
    assert_eq!(errors.len(), 1, "{}", said.err);
    assert!(errors[0].contains(line), "{}", said.err);
    // A cause that the line has named already would be said twice.
    assert!(!said.err.contains('╰') && !said.err.contains("panicked"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_gives_a_server_with_sample_data_and_tokens_and_keeps_it_for_the_next() {
    let dir = Dir::new();
    let mut dev = Dev::start(&dir, &[]).await;
    assert_eq!((dev.count("\"user\"").await, dev.count("file").await), (1_000, 20_000));
    assert!(dev.count("file_state WHERE NOT \"isFileOwner\"").await > 10_000);
    for user in ["u1", "u2"] {
        let token = dev.running.line(&format!("token {user} ")).await;
        let client = dev.client(&token).await;
        let own: Vec<String> =
            client.replica().rows("user").map(|row| row["id"].to_string()).collect();
        assert_eq!(own, [format!("\"{user}\"")]);
        assert!(client.replica().count("file") >= 20);
    }
    let token = said(rowtide(["token", "u3", "--dir", &dir.join("dev")])).await;
    assert_eq!(token.code(), Some(0), "{token:?}");
    let client = dev.client(token.out.trim()).await;
    assert_eq!(client.replica().count("user"), 1);
    dev.sql().await.execute("UPDATE file SET name = 'kept' WHERE id = 'f1'", &[]).await.unwrap();
    drop(client);
    let said = dev.running.stop().await;
    assert_eq!(said.code(), Some(0), "{said:?}");
    assert_in_order(&said);
    assert_eq!(dir.cluster("dev"), None);

    let mut dev = Dev::start(&dir, &[]).await;
    let kept = dev.count("file WHERE name = 'kept'").await;
    assert_eq!((kept, dev.count("file").await), (1, 20_000));
    let token = dev.running.line("token u1 ").await;
    let client = dev.client(&token).await;
    assert!(client.replica().rows("file").any(|row| row["name"] == "kept"));
    // With a client that stays connected, too.
    let said = dev.running.stop().await;
    assert_eq!(said.code(), Some(0), "{said:?}");
    assert!(!said.err.contains("applied"), "{}", said.err);
    assert_in_order(&said);
    assert_eq!(dir.cluster("dev"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_the_cluster_is_taken_over_and_stopped_in_the_end() {
    let dir = Dir::new();
    let dev = Dev::start(&dir, &["--example", "tracker"]).await;
    let cluster = dir.cluster("dev").expect("a cluster runs");
    dev.running.signal("KILL");
    dev.running.ended().await;
    assert_eq!(dir.cluster("dev"), Some(cluster));

    let mut dev = Dev::start(&dir, &["--example", "tracker"]).await;
    dev.running.line("taking over the PostgreSQL that still runs").await;
    assert_eq!(dir.cluster("dev"), Some(cluster));
    assert_eq!(dev.running.stop().await.code(), Some(0));
    assert_eq!(dir.cluster("dev"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tracker_is_served_by_its_name() {
    let dir = Dir::new();
    let mut dev = Dev::start(&dir, &["--example", "tracker"]).await;
    let token = dev.running.line("token u1 ").await;
    let client = dev.client(&token).await;
    assert!(client.replica().count("comment") > 50);
    let said = said(rowtide(["dev", "--dir", &dir.join("dev"), "--example", "none"])).await;
    refused_in_a_line(&said, "there is no example `none`");
    assert!(said.err.contains("`files` and `tracker`"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_application_is_served_from_its_definition_and_migrations() {
    let dir = Dir::new();
    let definition = dir.write("rowtide.toml", "[tables.note]\nvisible = 'owner = auth.user_id'");
    dir.write(
        "migrations/2_rows.sql",
        "INSERT INTO note SELECT n, 'u' || n FROM generate_series(1, 5) n",
    );
    dir.write("migrations/1_table.sql", "CREATE TABLE note (id int PRIMARY KEY, owner text)");
    dir.write("migrations/README.md", "not SQL");
    let migrations = dir.join("migrations");
    let args = ["--definition", &definition, "--migrations", &migrations];
    // In the same directory, as somebody does who has looked at an example first.
    Dev::start(&dir, &["--example", "tracker"]).await.running.stop().await;
    let mut dev = Dev::start(&dir, &args).await;
    let token = dev.running.line("token u2 ").await;
    let client = dev.client(&token).await;
    let ids: Vec<String> = client.replica().rows("note").map(|row| row["id"].to_string()).collect();
    assert_eq!(ids, ["2"]);
    drop((client, dev));
    assert_eq!(dir.cluster("dev"), None);

    // A mistake in a migration is told with its file and line, and undone.
    dir.write("migrations/3_more.sql", "ALTER TABLE note\n  ADD text text;\nSELECT nothing");
    let refused = said(self::dev(&dir, &args)).await;
    refused_in_a_line(&refused, "migration `3_more.sql` failed at line 3");
    assert_eq!(dir.cluster("dev"), None);

    // One in the definition with its place.
    dir.write("migrations/3_more.sql", "CREATE VIEW notes AS TABLE note");
    dir.write(
        "rowtide.toml",
        "[tables.note]\nvisible = 'ownr = auth.user_id'\n[tables.notes]\nvisible = 'true'\n",
    );
    let refused = said(self::dev(&dir, &args)).await;
    assert_eq!(refused.code(), Some(1), "{}", refused.err);
    assert!(refused.err.contains("rowtide.toml:2:12"), "{}", refused.err);
    assert!(refused.err.contains("did you mean \"owner\"?"), "{}", refused.err);
    assert!(refused.err.contains("\"notes\" is a view"), "{}", refused.err);
    assert_eq!(dir.cluster("dev"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_have_is_said_in_a_line_and_leaves_nothing_running() {
    let dir = Dir::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = ["--example", "tracker", "--listen", &address];
    refused_in_a_line(&said(dev(&dir, &args)).await, &format!("cannot listen on {address}"));
    assert_eq!(dir.cluster("dev"), None);

    refused_in_a_line(&said(dev(&dir, &["--listen", "here"])).await, "`listen` is `here`");
    refused_in_a_line(&said(dev(&dir, &["--engines", "0"])).await, "`engines` is `0`");
    assert_eq!(dir.cluster("dev"), None);

    let one = Dev::start(&dir, &["--example", "tracker"]).await;
    let two = said(dev(&dir, &["--example", "tracker"])).await;
    refused_in_a_line(&two, "another rowtide uses");
    assert!(two.err.contains("--dir"), "{}", two.err);
    assert!(one.count("person").await > 0, "the first notices nothing");

    let nowhere = dir.join("nowhere");
    refused_in_a_line(&said(rowtide(["token", "u1", "--dir", &nowhere])).await, "no secret in");
    assert!(!Path::new(&nowhere).exists(), "asking for a token makes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_playground_is_there_unless_other_machines_could_reach_it() {
    let dir = Dir::new();
    for (listen, served) in
        [("127.0.0.1:0", "Rowtide playground"), ("0.0.0.0:0", "This is a Rowtide server")]
    {
        let dev = Dev::start(&dir, &["--example", "tracker", "--listen", listen]).await;
        let (_, port) = dev.address.rsplit_once(':').unwrap();
        let page = page(port).await;
        assert!(page.contains(served), "{listen}: {page}");
        assert_eq!(dev.running.stop().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_at_any_step_of_the_start_stops_the_cluster_too() {
    for step in ["creating", "starting PostgreSQL", "applied 0001_tables.sql", "create publication"]
    {
        let dir = Dir::new();
        let mut running = Running::start(dev(&dir, &[]));
        running.line(step).await;
        let said = running.stop().await;
        assert_eq!(said.code(), Some(0), "{step}: {said:?}");
        assert_eq!(dir.cluster("dev"), None, "{step}");
        // What was begun is begun again, or goes on.
        let dev = Dev::start(&dir, &["--example", "tracker"]).await;
        assert!(dev.count("person").await > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_given_is_taken_instead_of_a_cluster() {
    let (dir, database) = (Dir::new(), Database::create().await);
    let environment = database.name();
    let url = database.url().await;
    let args = ["--example", "tracker", "--environment", environment, "--database-url", &url];
    let mut running = Running::start(dev(&dir, &args));
    running.line("ready http://").await;
    assert_eq!(running.line("psql ").await, format!("'{}'", database.url().await));
    assert!(!dir.path().join("dev/postgres").exists());
    running.signal("INT");
    let stopped = running.ended().await;
    assert_eq!(stopped.code(), Some(0));
    assert_in_order(&stopped);
    let sql = database.connect().await;
    eventually("its stream is let go", || async {
        let free = "SELECT FROM pg_replication_slots WHERE NOT active AND database = $1";
        (sql.query(free, &[&environment]).await.unwrap().len() == 1).then_some(())
    })
    .await;
}

/// Whoever has exported what `serve` is to use does not mean sample data.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_for_a_server_that_is_deployed_is_left_alone() {
    let (dir, database) = (Dir::new(), Database::with("CREATE TABLE theirs (id int)").await);
    let url = database.url().await;
    let mut command = dev(
        &dir,
        &[
            "--example",
            "tracker",
            "--config",
            &dir.write("s.toml", &format!("database_url = '{url}'")),
        ],
    );
    let log_dir = dir.join("production");
    command
        .env("DATABASE_URL", &url)
        .env("ROWTIDE_DATABASE_URL", &url)
        .env("ROWTIDE_MUTATION_DATABASE_URL", &url)
        .env("ROWTIDE_ENVIRONMENT", database.name())
        .env("ROWTIDE_LOG_DIR", &log_dir)
        .env("ROWTIDE_TOKEN_SECRET", "the secret of production, long enough");
    let mut running = Running::start(command);
    running.line("of the environment and the configuration file, `rowtide dev` does not use database_url").await;
    running.line("ready http://").await;
    assert_ne!(running.line("psql ").await, format!("'{url}'"));
    let token = running.line("token u1 ").await;
    let signed = |secret: &str| {
        let key = jsonwebtoken::DecodingKey::from_secret(secret.as_bytes());
        let validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
        jsonwebtoken::decode::<serde_json::Value>(&token, &key, &validation).is_ok()
    };
    assert!(!signed("the secret of production, long enough"), "it signs for nobody else's server");
    let secret = std::fs::read_to_string(dir.path().join("dev/token-secret")).unwrap();
    assert!(signed(secret.trim()));
    running.stop().await;
    assert!(!Path::new(&log_dir).exists());
    let client = database.connect().await;
    let sql = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text \
               NOT IN ('pg_catalog', 'information_schema')";
    let tables: Vec<String> =
        client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(tables, ["theirs"]);
}

/// As golang-migrate, Prisma and Diesel lay them out.
#[tokio::test(flavor = "multi_thread")]
async fn migrations_of_other_tools_are_applied_as_they_are() {
    for files in [
        [
            ("2_index.up.sql", "CREATE INDEX CONCURRENTLY ON note (owner)"),
            ("1_note.down.sql", "DROP TABLE note"),
            ("1_note.up.sql", "CREATE TABLE note (id int PRIMARY KEY, owner text)"),
        ],
        [
            ("20240102000000_index/migration.sql", "CREATE INDEX CONCURRENTLY ON note (owner)"),
            ("migration_lock.toml", "provider = 'postgresql'"),
            (
                "20240101000000_note/migration.sql",
                "CREATE TABLE note (id int PRIMARY KEY, owner text)",
            ),
        ],
        [
            ("2024-01-02-000000_index/up.sql", "CREATE INDEX CONCURRENTLY ON note (owner)"),
            ("2024-01-01-000000_note/down.sql", "DROP TABLE note"),
            ("2024-01-01-000000_note/up.sql", "CREATE TABLE note (id int PRIMARY KEY, owner text)"),
        ],
    ] {
        let dir = Dir::new();
        let definition =
            dir.write("rowtide.toml", "[tables.note]\nvisible = 'owner = auth.user_id'");
        for (name, text) in files {
            dir.write(&format!("migrations/{name}"), text);
        }
        let mut dev = Dev::start(
            &dir,
            &["--definition", &definition, "--migrations", &dir.join("migrations")],
        )
        .await;
        dev.running.line("applied ").await;
        assert_eq!(dev.count("pg_indexes WHERE tablename = 'note'").await, 2);
        assert_eq!(dev.running.stop().await.code(), Some(0));
    }
    let dir = Dir::new();
    let definition = dir.write("rowtide.toml", "[tables.note]\nvisible = 'true'");
    dir.write("migrations/a/b.sql", "SELECT 1");
    let args = ["--definition", &definition, "--migrations", &dir.join("migrations")];
    refused_in_a_line(&said(self::dev(&dir, &args)).await, "there are no migrations in");
}
