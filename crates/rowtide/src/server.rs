//! The composition of a server: a replicator that reads Postgres, a gateway that serves clients from its feed, the
//! adapter for older clients and live documents where the definition asks for them, health and metrics; and the life of
//! all of it from start to drained.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use rowtide_access::{Documents, DocumentsError, DocumentsOptions};
use rowtide_documents::host::{HostLimits, StorageUrl};
use rowtide_gateway::auth::AuthError;
use rowtide_gateway::limits::{ConnectionLimits, MUTATION_LOOK, OTHER_FILES};
use rowtide_gateway::{Gateway, GatewayOptions};
use rowtide_log::LogOptions;
use rowtide_plan::definition::Definition;
use rowtide_replicator::limits::RING_BYTES;
use rowtide_replicator::{ReplicatorHandle, ReplicatorOptions, StartError};
use rowtide_schema::Bundle;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::health::Health;
use crate::limits::{ACCEPT_BACKLOG, READY_LOOK};
use crate::playground::{self, PlaygroundOptions};
use crate::stopping::{ServerStop, StopStage};
use crate::telemetry::{self, Watched};

/// What a server needs.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// What to sync.
    pub definition: Arc<Definition>,
    /// The application's own schemas of documents, by the kind of documents.
    pub schemas: BTreeMap<String, Bundle>,
    /// Where the log is kept, and how much of it.
    pub log: LogOptions,
    /// The database and how clients are served. The replicator uses the same database under the same names.
    pub gateway: GatewayOptions,
    /// Where live documents are kept.
    pub documents_dir: PathBuf,
    /// Where their objects are, if not there.
    pub storage: Option<StorageUrl>,
    /// How much may go on in them.
    pub documents: HostLimits,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How many connections there may be; fewer where the system allows fewer open files.
    pub connections: ConnectionLimits,
    /// The page of `rowtide dev`, which hands out tokens for anyone: for development alone.
    pub playground: Option<PlaygroundOptions>,
}

impl ServerOptions {
    /// What a configuration says, for a definition.
    pub fn new(config: Config, definition: Arc<Definition>) -> ServerOptions {
        let gateway = GatewayOptions {
            database: config.database,
            names: config.names,
            engines: config.engines,
            send_queue_bytes: config.send_queue_bytes,
            row_bytes: config.row_bytes,
            load_connections: config.load_connections,
            auth: config.auth,
            client: config.client,
            mutation_database: config.mutation_database,
            mutation_connections: config.mutation_connections,
            prepared_statements: config.prepared_statements,
            mutation_answer: config.mutation_answer,
            mutation_look: MUTATION_LOOK,
        };
        ServerOptions {
            definition,
            schemas: BTreeMap::new(),
            log: config.log,
            gateway,
            documents_dir: config.documents_dir,
            storage: config.storage,
            documents: HostLimits::default(),
            listen: config.listen,
            connections: config.connections,
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
    /// Live documents cannot be kept.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// The replicator does not start.
    #[error(transparent)]
    Replicator(#[from] StartError),
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

/// What is answered whatever limit of connections is reached.
const WATCHED: [&str; 3] = ["/health/live", "/health/ready", "/metrics"];

/// What health and metrics look at.
struct Pages {
    watched: Watched,
    metrics: PrometheusHandle,
    stop: CancellationToken,
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    state: Arc<Pages>,
    replicator: ReplicatorHandle,
    http: JoinHandle<()>,
    /// Tells sessions to go.
    stop: CancellationToken,
    /// Ends the replicator.
    ends: CancellationToken,
}

impl Server {
    /// Starts to serve. It listens at once, and what is not there yet (the database, a table, the slot, the keys of an
    /// issuer) is waited for and named by [`Server::health`]; sessions are taken meanwhile, and get their rows when the
    /// stream has caught up.
    ///
    /// # Errors
    /// When the address is not free, or tokens could never be checked: what only another configuration repairs.
    pub async fn start(options: ServerOptions) -> Result<Server, ServerError> {
        let fail = |source| ServerError::Listen { address: options.listen, source };
        let listener = listen(options.listen).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let metrics = telemetry::install();
        let (stop, ends) = (CancellationToken::new(), CancellationToken::new());
        let (database, names) = (options.gateway.database.clone(), options.gateway.names.clone());
        let log_limit = options.log.max_bytes;
        let definition = Arc::clone(&options.definition);
        // What is started is ended, if something after it does not start.
        let ends_if_it_fails = ends.clone().drop_guard();
        let (feed, replicator) = rowtide_replicator::start(
            ReplicatorOptions {
                database: database.clone(),
                names: names.clone(),
                definition: options.definition,
                log: options.log,
                ring_bytes: RING_BYTES,
            },
            ends.clone(),
        )?;
        let gateway = Gateway::start(options.gateway, feed.clone(), stop.clone()).await?;
        let documents = if definition.documents().next().is_some() {
            let of_documents = DocumentsOptions {
                database: database.clone(),
                dir: options.documents_dir,
                storage: options.storage,
                environment: names.slot.clone(),
                limits: options.documents,
                schemas: options.schemas,
            };
            Some(Documents::start(of_documents, &definition, &feed, &ends)?)
        } else {
            None
        };
        let watched =
            Watched { feed, gateway, documents, replicator: replicator.clone(), log_limit };
        let slot = telemetry::watch(database.clone(), names, watched.clone(), stop.clone());
        tokio::spawn(slot);
        let gateway = &watched.gateway;
        let mut router = match options.playground {
            Some(options) => playground::router(options, database, gateway.clone()),
            None => Router::new().route("/", get(index)),
        };
        router = router.merge(gateway.router());
        if definition.older_clients() {
            router = router.merge(rowtide_legacy::router(gateway));
        }
        if let Some(documents) = &watched.documents {
            router = router.merge(documents.router(gateway));
        }
        let state = Arc::new(Pages { watched, metrics, stop: stop.clone() });
        let router = router.route("/health/live", get(|| async { "live\n" })).merge(
            Router::new()
                .route("/health/ready", get(ready))
                .route("/metrics", get(metrics_page))
                .with_state(Arc::clone(&state)),
        );
        let limits = fitting(options.connections);
        let served = rowtide_gateway::serve(listener, router, limits, &WATCHED, stop.clone());
        let http = tokio::spawn(served);
        ends_if_it_fails.disarm();
        Ok(Server { address, state, replicator, http, stop, ends })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it is doing.
    pub fn health(&self) -> Health {
        self.state.watched.health()
    }

    /// Waits until it is ready: it streams, tokens can be checked, and all of the definition has fitted once. Cancel safe.
    pub async fn wait_until_ready(&self) {
        let mut states = self.state.watched.feed.watch();
        loop {
            self.state.watched.gateway.wait_until_ready().await;
            if states.wait_for(|state| state.incomplete.is_none()).await.is_err() {
                // The publisher has gone: it never will.
                return std::future::pending().await;
            }
            if self.health().ready {
                return;
            }
            tokio::time::sleep(READY_LOOK).await;
        }
    }

    /// Stops: no new connections; what has arrived is acknowledged; every session is told `restarting`; then documents
    /// are saved, and engines and stream end. See [`crate::stopping`].
    pub async fn stop(mut self) {
        let began = Instant::now();
        let mut stop = ServerStop::new(Duration::ZERO);
        loop {
            let until = began + stop.deadline();
            let is_done = match stop.stage() {
                StopStage::Drains => {
                    self.stop.cancel();
                    let drained = timeout_at(until, self.state.watched.gateway.drained()).await;
                    if drained.is_err() {
                        tracing::warn!(
                            "some clients did not take their goodbye, or their mutations did not end"
                        );
                    }
                    drained.is_ok()
                }
                StopStage::Saves => {
                    let left = until.saturating_duration_since(Instant::now());
                    let unsaved = match &self.state.watched.documents {
                        Some(documents) => documents.save_all(left).await,
                        None => 0,
                    };
                    if unsaved > 0 {
                        tracing::warn!(
                            unsaved,
                            "documents are saved after the next start: their edits are in the journal"
                        );
                    }
                    true
                }
                StopStage::Ends => {
                    self.state.watched.gateway.end();
                    self.ends.cancel();
                    let ended = async {
                        drop((&mut self.http).await);
                        self.replicator.clone().ended().await;
                    };
                    timeout_at(until, ended).await.is_ok()
                }
                StopStage::Over => return,
            };
            stop = stop.go_on(is_done, began.elapsed());
        }
    }
}

impl Drop for Server {
    /// One that was not stopped in order ends all the same.
    fn drop(&mut self) {
        self.stop.cancel();
        self.state.watched.gateway.end();
        self.ends.cancel();
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that comes right after another is not kept out by connections that are closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_BACKLOG)
}

/// Every connection is an open file, and others must be left for the database, the log and the system.
fn fitting(limits: ConnectionLimits) -> ConnectionLimits {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    let most = files.saturating_sub(OTHER_FILES).max(1);
    if most < limits.connections {
        tracing::info!(
            files,
            max_connections = limits.connections,
            "only {most} connections are taken, because no more files may be open"
        );
    }
    ConnectionLimits { connections: limits.connections.min(most), ..limits }
}

async fn index() -> &'static str {
    "This is a Rowtide server. Clients connect to /sync; see docs/protocol.md.\n"
}

async fn metrics_page(Extract(state): Extract<Arc<Pages>>) -> Response {
    let text = telemetry::render(&state.metrics, &state.watched);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn ready(Extract(state): Extract<Arc<Pages>>) -> Response {
    let health = state.watched.health();
    let status = if health.ready && !state.stop.is_cancelled() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::to_string(&health).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body + "\n").into_response()
}
