//! A TCP proxy of the tests' own: the network between clients and a server, or between a server and
//! Postgres, that does what it is told. A flow is a way of passing bytes on in one direction; it holds
//! for the connections that are open and for those to come, until another is set. Bytes are never lost
//! or made up on a connection that lives, and what is held back is bounded: then the sender is held up,
//! as TCP does. Where the proxy leads to can be changed while it runs, so that an address stays while
//! servers come and go behind it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How many bytes of one direction of one connection are held back before its sender is held up.
const HELD_BYTES: usize = 256 << 10;
/// How many bytes are read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Where connections lead to.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// An address.
    Tcp(SocketAddr),
    /// A socket in the file system, of a Postgres that listens nowhere else.
    Unix(PathBuf),
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connects.
    ToServer,
    /// To whoever connects.
    ToClient,
}

/// How bytes are passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// At once.
    #[default]
    Free,
    /// Not at all, and neither is the end of the connection told. They are passed on later.
    Stalled,
    /// So long after they came.
    Delayed(Duration),
    /// Slowly.
    Drip {
        /// How many at a time.
        bytes: usize,
        /// How often.
        every: Duration,
    },
}

/// The proxy; its connections end with it.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    ends: CancellationToken,
}

struct Shared {
    state: Mutex<State>,
}

struct State {
    upstream: Upstream,
    refuses: bool,
    flows: [Flow; 2],
    links: Vec<Link>,
}

/// What a connection is told.
#[derive(Clone)]
struct Link {
    flows: Arc<watch::Sender<[Flow; 2]>>,
    /// Neither a new flow nor healing reaches it any more.
    stranded: bool,
    half_closes: [CancellationToken; 2],
    cut: CancellationToken,
}

impl Proxy {
    /// Listens on a port of its own.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start(upstream: Upstream) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
        let address = listener.local_addr().expect("it has an address");
        let state = State { upstream, refuses: false, flows: [Flow::Free; 2], links: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state) });
        let ends = CancellationToken::new();
        let (accepting, ended) = (Arc::clone(&shared), ends.clone());
        tokio::spawn(async move { ended.run_until_cancelled(accept(listener, accepting)).await });
        Proxy { address, shared, ends }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads connections to come elsewhere.
    pub fn lead_to(&self, upstream: Upstream) {
        self.shared.lock().upstream = upstream;
    }

    /// Where connections to come are led to.
    pub fn leads_to(&self) -> Upstream {
        self.shared.lock().upstream.clone()
    }

    /// Resets connections to come, or no longer.
    pub fn refuse(&self, refuses: bool) {
        self.shared.lock().refuses = refuses;
    }

    /// Sets how bytes are passed on in one direction.
    pub fn flow(&self, direction: Direction, flow: Flow) {
        let mut state = self.shared.lock();
        state.flows[direction as usize] = flow;
        let flows = state.flows;
        for link in state.links.iter().filter(|link| !link.stranded) {
            link.flows.send_replace(flows);
        }
    }

    /// Passes on whatever comes, on connections that are not stranded, and takes new ones.
    pub fn heal(&self) {
        self.refuse(false);
        self.flow(Direction::ToServer, Flow::Free);
        self.flow(Direction::ToClient, Flow::Free);
    }

    /// Resets every connection, on both sides.
    pub fn cut(&self) {
        for link in self.shared.lock().links.drain(..) {
            link.cut.cancel();
        }
    }

    /// Ends one direction of every connection; the other goes on. What is sent on is thrown away.
    pub fn half_close(&self, direction: Direction) {
        for link in &self.shared.lock().links {
            link.half_closes[direction as usize].cancel();
        }
    }

    /// Stalls every connection that is open, for good: both sides believe in it until it is cut, as they
    /// do when a machine on the way has died. Those to come are not concerned.
    pub fn strand(&self) {
        for link in &mut self.shared.lock().links {
            link.stranded = true;
            link.flows.send_replace([Flow::Stalled; 2]);
        }
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.lock().links.len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ends.cancel();
        self.cut();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection, and where it leads to; `None` if it is refused.
    fn admit(&self) -> Option<(Link, Upstream)> {
        let mut state = self.lock();
        if state.refuses {
            return None;
        }
        let link = Link {
            flows: Arc::new(watch::channel(state.flows).0),
            stranded: false,
            half_closes: [CancellationToken::new(), CancellationToken::new()],
            cut: CancellationToken::new(),
        };
        state.links.push(link.clone());
        Some((link, state.upstream.clone()))
    }

    fn forget(&self, link: &Link) {
        self.lock().links.retain(|other| !Arc::ptr_eq(&other.flows, &link.flows));
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // It fails only for connections that have gone again.
        let Ok((mut client, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let Some((link, upstream)) = shared.admit() else { return reset(&client) };
            carry(&mut client, &upstream, &link).await;
            if link.cut.is_cancelled() {
                reset(&client);
            }
            shared.forget(&link);
        });
    }
}

/// Lets the other side see a reset and not an end.
fn reset(socket: &TcpStream) {
    // Of a socket that is gone there is nothing to reset.
    drop(socket.set_nodelay(true).and_then(|()| socket.set_zero_linger()));
}

async fn carry(client: &mut TcpStream, upstream: &Upstream, link: &Link) {
    match upstream {
        Upstream::Tcp(address) => {
            let Ok(mut server) = TcpStream::connect(address).await else { return reset(client) };
            drop(server.set_nodelay(true));
            between(client, server.split(), link).await;
            if link.cut.is_cancelled() {
                reset(&server);
            }
        }
        Upstream::Unix(path) => {
            let Ok(mut server) = UnixStream::connect(path).await else { return reset(client) };
            between(client, server.split(), link).await;
        }
    }
}

async fn between<R, W>(client: &mut TcpStream, server: (R, W), link: &Link)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    drop(client.set_nodelay(true));
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server;
    let both = async {
        tokio::join!(
            pass(from_client, to_server, Direction::ToServer, link),
            pass(from_server, to_client, Direction::ToClient, link),
        )
    };
    link.cut.run_until_cancelled(both).await;
}

/// Passes on what is read until that ends, and then the end.
async fn pass<R, W>(mut from: R, mut to: W, direction: Direction, link: &Link)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let half_close = &link.half_closes[direction as usize];
    let passed = half_close.run_until_cancelled(pass_all(&mut from, &mut to, direction, link));
    match passed.await {
        Some(Ok(())) => drop(to.shutdown().await),
        Some(Err(_)) => link.cut.cancel(),
        None => {
            drop(to.shutdown().await);
            let mut thrown_away = vec![0; CHUNK_BYTES];
            while let Ok(1..) = from.read(&mut thrown_away).await {}
        }
    }
}

async fn pass_all<R, W>(
    from: &mut R,
    to: &mut W,
    direction: Direction,
    link: &Link,
) -> std::io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut flows = link.flows.subscribe();
    let mut held: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut held_bytes = 0;
    let mut passed_at = Instant::now();
    let mut end = None;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let flow = flows.borrow_and_update()[direction as usize];
        if held.is_empty()
            && flow != Flow::Stalled
            && let Some(end) = end.take()
        {
            return end;
        }
        let due = held.front().and_then(|(came, _)| match flow {
            Flow::Free => Some(*came),
            Flow::Stalled => None,
            Flow::Delayed(delay) => Some(*came + delay),
            Flow::Drip { every, .. } => Some(passed_at + every),
        });
        tokio::select! {
            biased;
            _ = flows.changed() => {}
            () = sleep_until(due.unwrap_or(passed_at)), if due.is_some() => {
                if let Some((_, bytes)) = held.front_mut() {
                    let most = if let Flow::Drip { bytes, .. } = flow { bytes } else { usize::MAX };
                    let rest = bytes.split_off(most.min(bytes.len()));
                    let now = std::mem::replace(bytes, rest);
                    if bytes.is_empty() {
                        held.pop_front();
                    }
                    held_bytes -= now.len();
                    to.write_all(&now).await?;
                    to.flush().await?;
                    passed_at = Instant::now();
                }
            }
            read = from.read(&mut chunk), if end.is_none() && held_bytes < HELD_BYTES => match read {
                Ok(0) => end = Some(Ok(())),
                Ok(count) => {
                    held.push_back((Instant::now(), chunk[..count].to_vec()));
                    held_bytes += count;
                }
                Err(error) => end = Some(Err(error)),
            },
        }
    }
}
