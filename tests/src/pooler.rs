//! A pooler of the tests' own: it hands out a connection to Postgres for each transaction, as PgBouncer does, does not
//! know of prepared statements, and takes no connection that is to stream.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::proxy::Upstream;

/// The pooler; its connections end with it.
pub struct Pooler {
    address: SocketAddr,
    ends: CancellationToken,
}

/// Connections to Postgres that nobody uses; the last one that was used is the first to be used again.
type Idle = Arc<Mutex<Vec<UnixStream>>>;

const SSL_REQUEST: u32 = 80_877_103;

impl Pooler {
    /// Listens on a port of its own.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start(upstream: Upstream) -> Pooler {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
        let address = listener.local_addr().expect("it has an address");
        let ends = CancellationToken::new();
        let (idle, ended) = (Idle::default(), ends.clone());
        tokio::spawn(async move {
            loop {
                let accepted = ended.run_until_cancelled(listener.accept()).await;
                let Some(Ok((client, _))) = accepted else { return };
                let (idle, upstream, ended) = (Arc::clone(&idle), upstream.clone(), ended.clone());
                tokio::spawn(async move {
                    // A connection that fails is its client's concern.
                    drop(ended.run_until_cancelled(serve(client, upstream, idle)).await);
                });
            }
        });
        Pooler { address, ends }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.ends.cancel();
    }
}

async fn serve(mut client: TcpStream, upstream: Upstream, idle: Idle) -> std::io::Result<()> {
    let mut startup = read_body(&mut client).await?;
    if startup.starts_with(&SSL_REQUEST.to_be_bytes()) {
        client.write_all(b"N").await?;
        startup = read_body(&mut client).await?;
    }
    let mut words = startup[4..].split(|byte| *byte == 0);
    if words.any(|word| word == b"replication") {
        let said = b"SFATAL\0C08P01\0Munsupported startup parameter: replication\0\0";
        return client.write_all(&message(b'E', said)).await;
    }
    // It is let in, and ready.
    let ready = [message(b'R', &[0; 4]), message(b'K', &[0; 8]), message(b'Z', b"I")].concat();
    client.write_all(&ready).await?;
    let mut server: Option<UnixStream> = None;
    loop {
        let kind = client.read_u8().await?;
        let body = read_body(&mut client).await?;
        if kind == b'X' {
            return Ok(());
        }
        let mut used = match server.take() {
            Some(server) => server,
            None => take(&idle, &upstream, &startup).await?,
        };
        used.write_all(&message(kind, &body)).await?;
        // A query, or the end of messages that belong together, is answered.
        let answered = matches!(kind, b'Q' | b'S');
        let in_transaction = !answered || !pass_answer(&mut used, &mut client).await?;
        if in_transaction {
            server = Some(used);
        } else {
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(used);
        }
    }
}

/// Passes on what Postgres says until it is ready. Returns whether no transaction is open then.
async fn pass_answer(server: &mut UnixStream, client: &mut TcpStream) -> std::io::Result<bool> {
    loop {
        let kind = server.read_u8().await?;
        let body = read_body(server).await?;
        client.write_all(&message(kind, &body)).await?;
        if kind == b'Z' {
            return Ok(body == b"I");
        }
    }
}

async fn take(idle: &Idle, upstream: &Upstream, startup: &[u8]) -> std::io::Result<UnixStream> {
    if let Some(server) = idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
        return Ok(server);
    }
    let Upstream::Unix(path) = upstream else {
        return Err(std::io::ErrorKind::Unsupported.into());
    };
    let mut server = UnixStream::connect(path).await?;
    server.write_all(&(startup.len() as u32 + 4).to_be_bytes()).await?;
    server.write_all(startup).await?;
    while server.read_u8().await? != b'Z' {
        read_body(&mut server).await?;
    }
    read_body(&mut server).await?;
    Ok(server)
}

/// What follows a length that counts itself.
async fn read_body(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut body = vec![0; length.saturating_sub(4) as usize];
    from.read_exact(&mut body).await?;
    Ok(body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}
