//! A server of one test in this process, over a database of its own, and clients of it.

use std::sync::Arc;
use std::time::Duration;

use rowtide::application::Application;
use rowtide::auth::{AuthOptions, sign};
use rowtide::limits::{ClientLimits, ConnectionLimits, HEALTH_TIMEOUT};
use rowtide::server::{Server, ServerOptions};
use rowtide_client::{Client, ClientOptions};
use rowtide_documents::host::HostLimits;
use rowtide_gateway::GatewayOptions;
use rowtide_log::LogOptions;
use rowtide_plan::definition::Definition;
use rowtide_postgres::migrate::{Migration, migrate};
use rowtide_postgres::setup::setup;
use rowtide_protocol::Lsn;

use crate::{Database, Dir, eventually};

/// The secret of every test's tokens.
pub const SECRET: &str = "a secret of the tests, long enough for HS256";

/// Up to where Postgres has flushed: all that is committed.
///
/// # Panics
/// When it does not answer.
pub async fn flushed(client: &tokio_postgres::Client) -> Lsn {
    let sql = "SELECT pg_current_wal_flush_lsn()::text";
    let end = client.query_one(sql, &[]).await.expect("a position");
    end.get::<_, &str>(0).parse().expect("it is an LSN")
}

/// A database and a server for it.
pub struct App {
    /// The database.
    pub database: Database,
    /// The server; `None` once it was stopped.
    pub server: Option<Server>,
    options: ServerOptions,
    /// Where its log is.
    _log: Dir,
}

impl App {
    /// One of the examples, with its sample data.
    ///
    /// # Panics
    /// When something of it does not start.
    pub async fn example(name: &str) -> App {
        App::example_with(name, |_| ()).await
    }

    /// As [`App::example`], of a server whose options `change` has changed.
    ///
    /// # Panics
    /// When something of it does not start.
    pub async fn example_with(name: &str, change: impl FnOnce(&mut ServerOptions)) -> App {
        let application = Application::example(name).expect("the example is there");
        App::start(&application.definition, &application.migrations, change).await
    }

    /// A definition over tables that `sql` makes.
    ///
    /// # Panics
    /// When something of it does not start.
    pub async fn with(definition: &str, sql: &str) -> App {
        App::with_options(definition, sql, |_| ()).await
    }

    /// As [`App::with`], of a server whose options `change` has changed.
    ///
    /// # Panics
    /// When something of it does not start.
    pub async fn with_options(
        definition: &str,
        sql: &str,
        change: impl FnOnce(&mut ServerOptions),
    ) -> App {
        let definition = Definition::parse("rowtide.toml", definition)
            .unwrap_or_else(|error| panic!("{:?}", miette_of(error)));
        let migration = Migration { name: "tables.sql".to_owned(), sql: sql.to_owned() };
        App::start(&Arc::new(definition), &[migration], change).await
    }

    async fn start(
        definition: &Arc<Definition>,
        migrations: &[Migration],
        change: impl FnOnce(&mut ServerOptions),
    ) -> App {
        let database = Database::create().await;
        let mut client = database.connect().await;
        migrate(&mut client, migrations).await.unwrap_or_else(|error| panic!("{error}"));
        App::over(database, definition, change).await
    }

    /// A server for a database with its tables.
    ///
    /// # Panics
    /// When something of it does not start.
    pub async fn over(
        database: Database,
        definition: &Arc<Definition>,
        change: impl FnOnce(&mut ServerOptions),
    ) -> App {
        let client = database.connect().await;
        setup(&client, &database.names(), &definition.tables())
            .await
            .unwrap_or_else(|error| panic!("{error:?}"));
        let log = Dir::new();
        let mut options = ServerOptions {
            definition: Arc::clone(definition),
            schemas: std::collections::BTreeMap::new(),
            log: LogOptions {
                dir: log.path().join("log"),
                retention: Duration::from_secs(600),
                max_bytes: 1 << 30,
            },
            gateway: GatewayOptions {
                database: database.options().await,
                names: database.names(),
                engines: 2,
                send_queue_bytes: 1 << 20,
                row_bytes: 1 << 20,
                load_connections: 1,
                auth: AuthOptions { secret: Some(SECRET.to_owned()), ..AuthOptions::default() },
                client: ClientLimits {
                    message_bytes: 64 << 10,
                    mutation_bytes: 32 << 10,
                    requests_per_minute: 0,
                    ..ClientLimits::default()
                },
                mutation_database: None,
                mutation_connections: 4,
                prepared_statements: true,
                mutation_answer: Duration::from_secs(30),
                mutation_look: Duration::from_secs(5),
            },
            documents_dir: log.path().join("documents"),
            storage: None,
            documents: HostLimits {
                save_after: Duration::from_millis(200),
                ..HostLimits::default()
            },
            listen: ([127, 0, 0, 1], 0).into(),
            connections: ConnectionLimits::default(),
            playground: None,
        };
        change(&mut options);
        let mut app = App { database, server: None, options, _log: log };
        app.start_server().await;
        app
    }

    /// What the next server is started with.
    pub fn options(&mut self) -> &mut ServerOptions {
        &mut self.options
    }

    /// Starts the server again, and waits until it is ready, or has looked at the tables and waits for some of them to fit.
    ///
    /// # Panics
    /// When it does not start, or comes to neither in time.
    pub async fn start_server(&mut self) {
        self.begin_server().await;
        let Some(server) = &self.server else { return };
        let waits = eventually("it is ready, or says which tables do not fit", || async {
            (!server.health().rejected_tables.is_empty()).then_some(())
        });
        tokio::select! {
            () = server.wait_until_ready() => {}
            () = waits => {}
        }
    }

    /// Starts the server again, which may have to wait for something that is missing.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn begin_server(&mut self) {
        let server = Server::start(self.options.clone()).await;
        let server = server.unwrap_or_else(|error| panic!("{error}"));
        // Where clients know it to be, also after a restart.
        self.options.listen = server.address();
        self.server = Some(server);
    }

    /// Stops the server in order.
    pub async fn stop_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    /// Waits until the server has all that is committed.
    ///
    /// # Panics
    /// When that does not come, or no server runs.
    pub async fn streamed(&self) {
        let end = flushed(&self.database.connect().await).await;
        let server = self.server.as_ref().expect("a server runs");
        eventually("the stream is there", || async {
            (server.health().position >= Some(end)).then_some(())
        })
        .await;
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("ws://{}/sync", self.options.listen)
    }

    /// Where HTTP is spoken.
    pub fn address(&self) -> std::net::SocketAddr {
        self.options.listen
    }

    /// So little time the server may give a request to come, whatever limits are reached.
    pub fn time_for_a_request(&self) -> Duration {
        self.options.connections.head_timeout.min(HEALTH_TIMEOUT)
    }

    /// A good token.
    ///
    /// # Panics
    /// Never.
    pub fn token(user: &str) -> String {
        sign(SECRET, user, Duration::from_secs(600)).expect("a token can be signed")
    }

    /// A client of `user`.
    pub fn client(&self, user: &str) -> Client {
        let user = user.to_owned();
        Client::start(ClientOptions {
            url: self.url(),
            token: Arc::new(move || Some(App::token(&user))),
            client_id: format!("test-{:016x}", rand::random::<u64>()),
            app_version: None,
        })
    }
}

fn miette_of(error: impl std::fmt::Display) -> String {
    error.to_string()
}
