//! The HTTP side: `/sync`, health, and the life of the whole server from start to drained.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Extract;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use metrics_exporter_prometheus::PrometheusHandle;
use rowtide_plan::definition::Definition;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_postgres::mutate::Mutator;
use rowtide_protocol::SUBPROTOCOL;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Auth, AuthError, AuthOptions};
use crate::config::Config;
use crate::hub::{Hub, HubError, HubOptions};
use crate::limits::{ACCEPT_BACKLOG, ClientLimits, DRAIN_TIMEOUT, READ_BUFFER_BYTES};
use crate::older::{self, OlderQueues};
use crate::playground::{self, PlaygroundOptions};
use crate::rate::Rate;
use crate::registry::Registry;
use crate::session;
use crate::telemetry;
use crate::writer::Writer;

/// What a server needs.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The database, the definition, the engines.
    pub hub: HubOptions,
    /// How tokens are checked.
    pub auth: AuthOptions,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What clients may ask for.
    pub client: ClientLimits,
    /// The same database behind a transaction pooler, for mutations alone, if there is one.
    pub mutation_database: Option<ConnectOptions>,
    /// How many connections to Postgres apply mutations.
    pub mutation_connections: usize,
    /// Whether statements are prepared on those.
    pub prepared_statements: bool,
    /// How long Postgres may take for one answer on those.
    pub mutation_answer: Duration,
    /// The page of `rowtide dev`, which hands out tokens for anyone: for development alone.
    pub playground: Option<PlaygroundOptions>,
}

impl ServerOptions {
    /// What a configuration says, for a definition.
    pub fn new(config: Config, definition: Arc<Definition>) -> ServerOptions {
        let hub = HubOptions {
            database: config.database,
            names: config.names,
            definition,
            engines: config.engines,
            outbox_bytes: config.outbox_bytes,
            log: config.log,
            row_bytes: config.row_bytes,
            load_connections: config.load_connections,
        };
        ServerOptions {
            hub,
            auth: config.auth,
            listen: config.listen,
            client: config.client,
            mutation_database: config.mutation_database,
            mutation_connections: config.mutation_connections,
            prepared_statements: config.prepared_statements,
            mutation_answer: config.mutation_answer,
            playground: None,
        }
    }
}

/// Why a server does not start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Tokens cannot be checked.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The hub does not start.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The address is not free.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// What every session shares.
pub(crate) struct State {
    pub(crate) hub: Hub,
    pub(crate) auth: Auth,
    pub(crate) registry: Registry,
    pub(crate) stop: CancellationToken,
    pub(crate) rate: Rate,
    pub(crate) writer: Writer,
    pub(crate) limits: ClientLimits,
    metrics: PrometheusHandle,
    pub(crate) older_clients: bool,
    pub(crate) older_queues: OlderQueues,
    pub(crate) sessions: TaskTracker,
}

impl State {
    /// The key columns of each table that is sent, as JSON.
    pub(crate) fn tables_json(&self) -> String {
        let plan = self.hub.plan();
        let key = |table: &rowtide_plan::plan::Table| {
            let key = serde_json::json!({ "key": table.catalog.primary_key });
            (table.catalog.name.clone(), key)
        };
        let tables: serde_json::Map<String, serde_json::Value> =
            plan.tables.iter().filter(|table| table.published).map(key).collect();
        serde_json::Value::Object(tables).to_string()
    }
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts to serve; sessions are taken at once and get their rows when the stream has caught up.
    ///
    /// # Errors
    /// When keys, database or address cannot be used.
    pub async fn start(options: ServerOptions) -> Result<Server, ServerError> {
        let auth = Auth::new(&options.auth).await?;
        let fail = |source| ServerError::Listen { address: options.listen, source };
        let listener = listen(options.listen).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let stop = CancellationToken::new();
        let registry = Registry::start(
            options.hub.database.clone(),
            options.hub.names.clone(),
            options.client.sessions_per_user,
            stop.clone(),
        );
        let mutator = Mutator::new(
            options.mutation_database.unwrap_or_else(|| options.hub.database.clone()),
            options.hub.names.clone(),
            options.mutation_connections,
            options.prepared_statements,
            options.mutation_answer,
        );
        let older_clients = options.hub.definition.older_clients();
        let (database, names) = (options.hub.database.clone(), options.hub.names.clone());
        let (hub, replicator) = Hub::start(options.hub).await?;
        let sessions = TaskTracker::new();
        let writer = Writer::new(mutator, hub.clone(), sessions.clone(), stop.clone());
        let (of_hub, of_writer) = (hub.clone(), writer.clone());
        tokio::spawn(telemetry::watch(database.clone(), names, of_hub, of_writer, stop.clone()));
        let rate = Rate::start(options.client.requests_per_minute, stop.clone());
        let state = Arc::new(State {
            hub,
            auth,
            registry,
            stop: stop.clone(),
            rate,
            writer,
            limits: options.client,
            metrics: telemetry::install(),
            older_clients,
            older_queues: OlderQueues::default(),
            sessions,
        });
        let router = match options.playground {
            Some(options) => playground::router(options, database, state.hub.clone()),
            None => Router::new().route("/", get(index)),
        };
        let router = router
            .route("/sync", get(sync))
            .route("/app/{user_id}/connect", get(older::connect))
            .route("/health/live", get(|| async { "live\n" }))
            .route("/health/ready", get(ready))
            .route("/metrics", get(metrics))
            .with_state(Arc::clone(&state));
        let listener = listener.tap_io(|stream| {
            // A delay of small frames would be most of what a change takes to arrive.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot turn off Nagle's algorithm");
            }
        });
        let http = tokio::spawn(async move {
            let served =
                axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "the HTTP server ended");
            }
        });
        Ok(Server { address, state, tasks: vec![http, replicator] })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The hub, for its health.
    pub fn hub(&self) -> &Hub {
        &self.state.hub
    }

    /// Stops: no new connections; every session is told `restarting`; then stream and engines end.
    pub async fn stop(mut self) {
        self.state.stop.cancel();
        self.state.sessions.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.state.sessions.wait()).await.is_err() {
            tracing::warn!("some clients did not take their goodbye");
        }
        self.state.hub.stop();
        for task in std::mem::take(&mut self.tasks) {
            // What does not end in time ends with the process.
            drop(tokio::time::timeout(Duration::from_secs(5), task).await);
        }
    }
}

impl Drop for Server {
    /// One that was not stopped in order ends all the same.
    fn drop(&mut self) {
        self.state.stop.cancel();
        self.state.hub.stop();
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that comes right after another is not kept out by connections that are closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_BACKLOG)
}

async fn index() -> &'static str {
    "This is a Rowtide server. Clients connect to /sync; see docs/protocol.md.\n"
}

async fn metrics(Extract(state): Extract<Arc<State>>) -> Response {
    let text = telemetry::render(&state.metrics, &state.hub).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn ready(Extract(state): Extract<Arc<State>>) -> Response {
    let health = state.hub.health();
    let status = if health.ready && !state.stop.is_cancelled() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::to_string(&health).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body + "\n").into_response()
}

/// The token of an `Authorization` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<String> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        // Schemes have no case (RFC 9110, 11.1).
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned())
}

async fn sync(
    Extract(state): Extract<Arc<State>>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let token = bearer(&headers);
    let limit = state.limits.message_bytes;
    let tracker = state.sessions.clone();
    upgrade
        .protocols([SUBPROTOCOL])
        .read_buffer_size(READ_BUFFER_BYTES)
        // Frames are written out with every flush; a buffer would only be kept for nothing.
        .write_buffer_size(0)
        .max_write_buffer_size(usize::MAX)
        .max_message_size(limit)
        .max_frame_size(limit)
        .on_upgrade(move |socket| tracker.track_future(session::serve(socket, state, token)))
}
