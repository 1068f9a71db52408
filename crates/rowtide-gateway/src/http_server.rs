//! Takes connections and serves HTTP on them: one request each, within a time, so that nobody holds a connection
//! without a use for it. A WebSocket keeps its connection's [`Seat`] and is timed by its session. Which connections
//! there may be is decided by [`Admission`]; what is done here is what follows from that.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rowtide_plan::map::IdMap;
use rowtide_postgres::said_once::SaidOnce;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, Admitted, Origin, PlaceId};
use crate::limits::{
    ACCEPT_PAUSE, ConnectionLimits, GOODBYE_TIMEOUT, HEAD_BYTES, HEALTH_TIMEOUT, LIMIT_LOG,
};
use crate::telemetry::{self, Limit};

/// The connections of one listener.
struct Door {
    state: Mutex<State>,
    router: Router,
    limits: ConnectionLimits,
    /// Paths that are answered whatever limit is reached.
    always: &'static [&'static str],
    stop: CancellationToken,
}

struct State {
    admission: Admission,
    /// How those are told to go that may only ask for health.
    go: IdMap<PlaceId, CancellationToken>,
    /// When it was last said that a limit is reached, and how often one was since.
    said: Option<Instant>,
    since: u64,
}

/// A connection's place, for as long as any part of it is open.
pub(crate) struct Seat {
    door: Arc<Door>,
    place: PlaceId,
    admitted: Admitted,
    pub(crate) origin: Origin,
    go: CancellationToken,
}

/// Serves HTTP until `stop`, and until those who are being answered then have gone. Requests for a path of `always`
/// are answered also when a limit of connections is reached.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    always: &'static [&'static str],
    stop: CancellationToken,
) {
    let state =
        State { admission: Admission::new(limits), go: IdMap::default(), said: None, since: 0 };
    let door =
        Arc::new(Door { state: Mutex::new(state), router, limits, always, stop: stop.clone() });
    let open = TaskTracker::new();
    stop.run_until_cancelled(door.accept(listener, &open)).await;
    open.close();
    open.wait().await;
}

impl Door {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements that hold it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where no more files may be open, one that is kept for that makes room for a moment, so that connections do
    /// not pile up unheard.
    async fn accept(self: &Arc<Door>, listener: TcpListener, open: &TaskTracker) {
        let spare = || File::open("/dev/null").ok();
        let (mut kept, mut said) = (spare(), SaidOnce::default());
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let is_scarce = kept.is_none();
                    kept = kept.or_else(spare);
                    if kept.is_some() {
                        said.clear();
                    }
                    // A delay of small frames would be most of what a change takes to arrive.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "cannot turn off Nagle's algorithm");
                    }
                    let seat = Arc::new(self.seat(address.ip(), is_scarce));
                    open.spawn(Arc::clone(self).hold(stream, seat));
                }
                // It was gone before it was taken.
                Err(error) if is_of_one(&error) => {}
                Err(error) => {
                    telemetry::limited(Limit::OpenFiles);
                    if said.is_new(&error.to_string()) {
                        tracing::error!(%error, "connections cannot be accepted");
                    }
                    if kept.take().is_none() {
                        self.evict_one();
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    fn seat(self: &Arc<Door>, address: IpAddr, is_scarce: bool) -> Seat {
        let mut state = self.lock();
        let arrival = state.admission.arrive(address, is_scarce);
        let go = self.stop.child_token();
        if let Admitted::HealthOnly(limit) = arrival.admitted {
            state.go.insert(arrival.place, go.clone());
            state.tell(limit);
        }
        if let Some(evicted) = arrival.evicted.and_then(|place| state.go.remove(&place)) {
            evicted.cancel();
        }
        telemetry::connections(state.admission.open());
        let (place, admitted, origin) = (arrival.place, arrival.admitted, Origin::of(address));
        Seat { door: Arc::clone(self), place, admitted, origin, go }
    }

    fn evict_one(&self) {
        let mut state = self.lock();
        if let Some(go) = state.admission.evict().and_then(|place| state.go.remove(&place)) {
            go.cancel();
        }
    }

    /// Answers one request.
    async fn hold(self: Arc<Door>, stream: TcpStream, seat: Arc<Seat>) {
        let (head, whole) = match seat.admitted {
            Admitted::Whole => (self.limits.head_timeout, self.limits.http_timeout),
            Admitted::HealthOnly(_) => (HEALTH_TIMEOUT, HEALTH_TIMEOUT),
        };
        let router = TowerToHyperService::new(self.router.clone());
        let go = seat.go.clone();
        let door = Arc::clone(&self);
        let answer = service_fn(move |mut request: Request<Incoming>| {
            let is_for_all = door.always.contains(&request.uri().path());
            let answer = match seat.admitted {
                Admitted::HealthOnly(limit) if !is_for_all => Err(limit),
                _ => {
                    request.extensions_mut().insert(Arc::clone(&seat));
                    Ok(router.call(request))
                }
            };
            async move {
                let mut response = match answer {
                    Ok(answer) => answer.await?,
                    Err(limit) => too_many(limit),
                };
                // The next request comes over another connection: an idle one is nobody's.
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(HEAD_BYTES);
        let connection = http.serve_connection(TokioIo::new(stream), answer).with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => match ended {
                Err(error) if error.is_timeout() => telemetry::limited(Limit::HttpTime),
                // Clients go when they want to.
                Ok(()) | Err(_) => {}
            },
            () = sleep(whole) => telemetry::limited(Limit::HttpTime),
            () = go.cancelled() => {
                connection.as_mut().graceful_shutdown();
                drop(timeout(self.patience(), connection).await);
            }
        }
    }

    /// How long one that is being answered has when it is to go.
    fn patience(&self) -> Duration {
        if self.stop.is_cancelled() { GOODBYE_TIMEOUT } else { Duration::ZERO }
    }
}

impl State {
    /// Says that a limit is reached, but not for each connection.
    fn tell(&mut self, limit: Limit) {
        telemetry::limited(limit);
        self.since += 1;
        if self.said.is_some_and(|at| at.elapsed() < LIMIT_LOG) {
            return;
        }
        let (open, since) = (self.admission.open(), self.since);
        tracing::warn!(
            limit = limit.as_str(),
            open,
            since,
            "a limit of connections is reached: more are turned away, but for health and metrics"
        );
        (self.said, self.since) = (Some(Instant::now()), 0);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.door.lock();
        state.admission.leave(self.place);
        state.go.remove(&self.place);
        telemetry::connections(state.admission.open());
    }
}

fn too_many(limit: Limit) -> Response<Body> {
    let text = format!("There are too many connections ({}); come back later.\n", limit.as_str());
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

/// Whether an error of `accept` says nothing of the next connection.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
