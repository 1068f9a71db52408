//! A private cluster for the test binary and a database for each test. Slots are the cluster's and
//! not a database's, so every database comes with names of its own, and takes its slots with it when
//! it goes.

use std::sync::atomic::{AtomicU32, Ordering};

use rowtide_postgres::cluster::Cluster;
use rowtide_postgres::connect::{ConnectOptions, Names, connect};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::OnceCell;
use tokio_postgres::Client;

use crate::eventually;
use crate::proxy::{Proxy, Upstream};

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// The cluster of this test binary, started by the first test that asks for it. It ends with the
/// process.
///
/// # Panics
/// When it cannot be started; the message says what is missing.
pub async fn cluster() -> &'static Cluster {
    // There is room for the connections and slots of many servers.
    let settings = [
        ("max_prepared_transactions", "64"),
        ("max_connections", "1000"),
        ("max_replication_slots", "100"),
        ("max_wal_senders", "100"),
    ];
    let start = || async { Cluster::start_temporary(&settings).await };
    CLUSTER.get_or_try_init(start).await.unwrap_or_else(|error| panic!("{error}"))
}

/// An empty database of one test, gone with everything in it when it is dropped.
#[derive(Debug)]
pub struct Database {
    name: String,
}

impl Database {
    /// Makes a new database in the cluster of this test binary.
    ///
    /// # Panics
    /// When there is no cluster or it refuses.
    pub async fn create() -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed));
        cluster().await.create_database(&name).await.unwrap_or_else(|error| panic!("{error}"));
        Database { name }
    }

    /// As [`Database::create`], and runs `sql` in it.
    ///
    /// # Panics
    /// When Postgres refuses.
    pub async fn with(sql: &str) -> Database {
        let database = Database::create().await;
        database.run(sql).await;
        database
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's major version. A test of something that older ones have not asks for it, and says so where it leaves
    /// something out.
    ///
    /// # Panics
    /// When Postgres does not say.
    pub async fn major_version(&self) -> i32 {
        let sql = "SELECT current_setting('server_version_num')::int / 10000";
        self.connect().await.query_one(sql, &[]).await.expect("a version").get(0)
    }

    /// Whether the server is of this major version or newer. If it is not, the test says what it leaves out.
    ///
    /// # Panics
    /// When Postgres does not say.
    pub async fn is_at_least(&self, major: i32, for_what: &str) -> bool {
        let is = self.major_version().await;
        if is < major {
            eprintln!("left out on PostgreSQL {is}: {for_what} (since {major})");
        }
        is >= major
    }

    /// Slot, publication and schema of this test: no other test has the same.
    pub fn names(&self) -> Names {
        Names::of(&self.name).expect("the name of a database is the name of an environment")
    }

    /// Its URL, as superuser.
    pub async fn url(&self) -> String {
        cluster().await.url(&self.name)
    }

    /// Where a proxy finds Postgres.
    pub async fn upstream(&self) -> Upstream {
        let url = self.url().await;
        let socket = url.split(['@', '/']).find(|part| part.starts_with("%2F"));
        let socket = socket.expect("the cluster listens on a socket").replace("%2F", "/");
        Upstream::Unix(format!("{socket}/.s.PGSQL.5432").into())
    }

    /// How to connect to it through `proxy`, as superuser.
    ///
    /// # Panics
    /// Never, as long as such a URL can be read.
    pub fn options_through(&self, proxy: &Proxy) -> ConnectOptions {
        let url = format!("postgres://postgres@{}/{}?sslmode=disable", proxy.address(), self.name);
        ConnectOptions::parse(&url).expect("the URL can be read")
    }

    /// Its URL, as the role `user`, who needs no password.
    pub async fn url_as(&self, user: &str) -> String {
        self.url().await.replacen("postgres@", &format!("{user}@"), 1)
    }

    /// Makes a role that is neither a superuser nor the owner of the tables: with these attributes, it may read these
    /// tables, and use those of Rowtide. Returns its name.
    ///
    /// # Panics
    /// When Postgres rejects it.
    pub async fn stranger(&self, suffix: &str, attributes: &str, tables: &str) -> String {
        let (role, schema) = (format!("{}_{suffix}", self.name), self.names().schema);
        self.run(&format!(
            "CREATE ROLE {role} {attributes}; GRANT SELECT ON {tables} TO {role};
             GRANT USAGE ON SCHEMA {schema} TO {role};
             GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}"
        ))
        .await;
        role
    }

    /// How to connect to it, as superuser.
    ///
    /// # Panics
    /// Never, as long as a cluster's URL can be read.
    pub async fn options(&self) -> ConnectOptions {
        ConnectOptions::parse(&self.url().await).expect("the URL of a cluster can be read")
    }

    /// Connects to it as superuser.
    ///
    /// # Panics
    /// When the cluster does not let us in.
    pub async fn connect(&self) -> Client {
        let options = self.options().await;
        connect(&options, "test").await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs statements over a connection of their own.
    ///
    /// # Panics
    /// When Postgres refuses one.
    pub async fn run(&self, sql: &str) {
        let client = self.connect().await;
        if let Err(error) = client.batch_execute(sql).await {
            panic!("{}\nin: {sql}", rowtide_postgres::connect::reason(&error));
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let name = self.name.clone();
        // A drop cannot wait within the test's own runtime, which may be winding down.
        let removal = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime for cleaning up").block_on(remove(&name));
        });
        // Postgres waits for everyone to have read what they were sent, so what else this runtime does has to go on.
        let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
        let removed = match flavor {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(|| removal.join()),
            _ => removal.join(),
        };
        assert!(removed.is_ok() || std::thread::panicking(), "the database was not removed");
    }
}

async fn remove(name: &str) {
    let client =
        cluster().await.connect("postgres").await.unwrap_or_else(|error| panic!("{error}"));
    let client = &client;
    let free = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                WHERE database = $1 AND active";
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                WHERE database = $1";
    eventually("its slots are dropped", || async move {
        client.query(free, &[&name]).await.ok()?;
        client.query(drop, &[&name]).await.ok()
    })
    .await;
    let sql = format!("DROP DATABASE {name} WITH (FORCE)");
    eventually("it is dropped", || async { client.batch_execute(&sql).await.ok() }).await;
}
