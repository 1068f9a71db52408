//! Many clients in one process. Each speaks the protocol on a socket of its own and reads no more of a
//! message than it must to count: the clients share the machine with what is measured.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use miette::{IntoDiagnostic, Result, miette};
use rowtide_protocol::{PROTOCOL_VERSION, SUBPROTOCOL};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};

use crate::site::Site;
use rowtide_gateway::auth::sign;

const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The most latencies that are kept.
const MAX_LATENCIES: usize = 10_000_000;

/// What the clients have seen together.
#[derive(Default)]
pub(crate) struct Tally {
    ready: AtomicU64,
    rows: AtomicU64,
    changes: AtomicU64,
    bytes: AtomicU64,
    ended: Mutex<Option<String>>,
    timed: AtomicBool,
    latencies_us: Mutex<Vec<u32>>,
    moved: Notify,
}

/// The last cursor of each client, for when it comes back.
#[derive(Clone)]
pub(crate) struct Cursors(Arc<Vec<Mutex<String>>>);

impl Cursors {
    /// Of clients that have none yet.
    pub(crate) fn new(sessions: u32) -> Cursors {
        Cursors(Arc::new((0..sessions).map(|_| Mutex::default()).collect()))
    }

    fn of(&self, session: u32) -> std::sync::MutexGuard<'_, String> {
        self.0[session as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the cursor of a `tx` or `ready`.
    fn take(&self, session: u32, message: &str) {
        let moved = [r#"{"type":"tx","cursor":""#, r#"{"type":"ready","cursor":""#];
        let rest = moved.iter().find_map(|head| message.strip_prefix(head));
        if let Some((cursor, _)) = rest.and_then(|rest| rest.split_once('"')) {
            cursor.clone_into(&mut self.of(session));
        }
    }
}

/// Clients; dropping them hangs up.
pub(crate) struct Crowd {
    pub(crate) tally: Arc<Tally>,
    clients: JoinSet<()>,
}

/// Percentiles, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) samples: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Crowd {
    /// Person after person, `sessions` clients connect, at most `at_once` at a time, and have their
    /// rows when this returns. The time is from the first connect to the last `ready`.
    pub(crate) async fn connect(
        site: &Site,
        sessions: u32,
        at_once: usize,
    ) -> Result<(Crowd, Duration)> {
        Crowd::connect_with(site, sessions, at_once, None).await
    }

    /// As [`Crowd::connect`], of clients that come back with their cursors, if they have some, and keep
    /// them up to date.
    pub(crate) async fn connect_with(
        site: &Site,
        sessions: u32,
        at_once: usize,
        cursors: Option<&Cursors>,
    ) -> Result<(Crowd, Duration)> {
        let people = site.population.people;
        let mut hellos = Vec::new();
        for session in 0..sessions {
            let client_id = format!("bench-{session:08}");
            let cursor =
                cursors.map(|cursors| cursors.of(session).clone()).filter(|c| !c.is_empty());
            hellos.push(hello(site.secret(), session % people, &client_id, cursor)?);
        }
        Crowd::connect_saying(site, hellos, at_once, cursors).await
    }

    /// As [`Crowd::connect_with`], of clients of which each says one of these first.
    pub(crate) async fn connect_saying(
        site: &Site,
        hellos: Vec<String>,
        at_once: usize,
        cursors: Option<&Cursors>,
    ) -> Result<(Crowd, Duration)> {
        let sessions = hellos.len();
        crate::progress(&format!("connecting {sessions} clients"));
        let tally = Arc::new(Tally::default());
        let address = site.address()?;
        let doors = Arc::new(Semaphore::new(at_once));
        let mut clients = JoinSet::new();
        let begun = Instant::now();
        for (session, hello) in (0..).zip(hellos) {
            let (tally, doors) = (Arc::clone(&tally), Arc::clone(&doors));
            let cursors = cursors.cloned();
            clients.spawn(async move {
                let heard = |text: &str| {
                    tally.take(text);
                    cursors.iter().for_each(|cursors| cursors.take(session, text));
                };
                let why = match attend(address, hello, heard, &doors).await {
                    Ok(()) => "the server closed a connection".to_owned(),
                    Err(error) => error.to_string(),
                };
                tally.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
                tally.moved.notify_one();
            });
        }
        let crowd = Crowd { tally, clients };
        crowd.until(Duration::from_secs(120), |tally| tally.ready() == sessions as u64).await?;
        Ok((crowd, begun.elapsed()))
    }

    /// Waits until `holds`; an error if a client was closed, or it takes too long.
    pub(crate) async fn until(&self, time: Duration, holds: impl Fn(&Tally) -> bool) -> Result<()> {
        let tally = &self.tally;
        let waited = timeout(time, async {
            while !holds(tally) {
                if let Some(why) = &*tally.ended.lock().unwrap_or_else(PoisonError::into_inner) {
                    return Err(miette!("a client was cut off: {why}"));
                }
                // Looked at again now and then, since a notification is for what one client saw.
                drop(timeout(Duration::from_millis(20), tally.moved.notified()).await);
            }
            Ok(())
        });
        waited.await.map_err(|_| {
            let (ready, changes) = (tally.ready(), tally.changes());
            miette!("not all came: {ready} clients are ready, {changes} changes have arrived")
        })?
    }

    /// Hangs up.
    pub(crate) async fn leave(mut self) {
        self.clients.shutdown().await;
    }
}

impl Tally {
    pub(crate) fn ready(&self) -> u64 {
        self.ready.load(Ordering::Relaxed)
    }

    /// Changes of rows that have arrived.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Rows of snapshots that have arrived.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Bytes of messages that have arrived.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Keeps latencies from now on.
    pub(crate) fn time(&self) {
        self.timed.store(true, Ordering::Relaxed);
    }

    /// What has been kept.
    pub(crate) fn latency(&self) -> Option<Latency> {
        let mut all = self.latencies_us.lock().unwrap_or_else(PoisonError::into_inner);
        percentiles(&mut all)
    }

    fn take(&self, text: &str) {
        self.bytes.fetch_add(text.len() as u64, Ordering::Relaxed);
        if let Some(rest) = text.strip_prefix(r#"{"type":"tx","#) {
            let changes = rest.matches(r#"{"op":"#).count() as u64;
            self.changes.fetch_add(changes, Ordering::Relaxed);
            if self.timed.load(Ordering::Relaxed)
                && let Some(latency) = since_commit_us(rest)
            {
                let mut all = self.latencies_us.lock().unwrap_or_else(PoisonError::into_inner);
                if all.len() < MAX_LATENCIES {
                    all.push(latency);
                }
            }
        } else if text.starts_with(r#"{"type":"snapshot","#) {
            self.rows.fetch_add(text.matches(r#"{"id":"#).count() as u64, Ordering::Relaxed);
        } else if text.starts_with(r#"{"type":"ready","#) {
            self.ready.fetch_add(1, Ordering::Relaxed);
            self.moved.notify_one();
        }
    }
}

/// The first message of a client of the person with this number, from 0.
pub(crate) fn hello(
    secret: &str,
    person: u32,
    client_id: &str,
    cursor: Option<String>,
) -> Result<String> {
    let token = sign(secret, &format!("p{}", person + 1), TOKEN_LIFETIME).into_diagnostic()?;
    let hello = serde_json::json!({
        "type": "connect", "protocol": PROTOCOL_VERSION, "token": token, "clientId": client_id,
        "cursor": cursor,
    });
    Ok(hello.to_string())
}

/// Sorts latencies in microseconds and picks out two; `None` if there are none.
pub(crate) fn percentiles(latencies_us: &mut [u32]) -> Option<Latency> {
    latencies_us.sort_unstable();
    let at =
        |part: usize| Some(f64::from(*latencies_us.get(latencies_us.len() * part / 100)?) / 1e3);
    Some(Latency { samples: latencies_us.len(), p50_ms: at(50)?, p99_ms: at(99)? })
}

/// How long ago the commit of a message was. Postgres notes the time of a commit just before it
/// flushes it to disk, so the flush counts too.
fn since_commit_us(message: &str) -> Option<u32> {
    const DAY_US: i64 = 86_400_000_000;
    // 2026-01-31T12:00:00.000000Z
    let time = message.split_once(r#""commitTime":""#)?.1.get(11..26)?;
    let part = |range: std::ops::Range<usize>| time.get(range)?.parse::<i64>().ok();
    let seconds = part(0..2)? * 3600 + part(3..5)? * 60 + part(6..8)?;
    let then = seconds * 1_000_000 + part(9..15)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_micros() as i64;
    u32::try_from((now - then).rem_euclid(DAY_US)).ok()
}

async fn attend(
    address: SocketAddr,
    hello: String,
    heard: impl Fn(&str),
    doors: &Semaphore,
) -> Result<()> {
    let door = doors.acquire().await.into_diagnostic()?;
    let mut socket = open(address).await?;
    socket.send(Message::Text(hello.into())).await.into_diagnostic()?;
    let mut door = Some(door);
    while let Some(message) = socket.next().await {
        match message.into_diagnostic()? {
            Message::Text(text) => {
                if text.starts_with(r#"{"type":"error""#) {
                    return Err(miette!("{}", text.as_str()));
                }
                heard(&text);
                if text.starts_with(r#"{"type":"ready""#) {
                    door = None;
                }
            }
            Message::Close(_) => break,
            // Answers to pings go out with the next flush.
            _ => socket.flush().await.into_diagnostic()?,
        }
    }
    drop(door);
    Ok(())
}

/// A socket to the server.
pub(crate) async fn open(address: SocketAddr) -> Result<WebSocketStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await.into_diagnostic()?;
    tcp.set_nodelay(true).into_diagnostic()?;
    let mut request = format!("ws://{address}/sync").into_client_request().into_diagnostic()?;
    let protocol = HeaderValue::from_static(SUBPROTOCOL);
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
    let config = WebSocketConfig::default().read_buffer_size(4 << 10).write_buffer_size(0);
    let (socket, _) =
        client_async_with_config(request, tcp, Some(config)).await.into_diagnostic()?;
    Ok(socket)
}
