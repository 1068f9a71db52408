//! Another server of the same protocol, run by Node on the same machine and measured with the same people.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use miette::{Context, IntoDiagnostic, Result, miette};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::progress;

/// How long it may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// A Node program that serves rooms at `/{room}`; it ends when this is dropped.
pub(crate) struct Peer {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Peer {
    /// Starts it; it is told in `HOST` and `PORT` where to listen.
    pub(crate) async fn start(program: &Path) -> Result<Peer> {
        progress(&format!("starting {}", program.display()));
        let free = TcpListener::bind(("127.0.0.1", 0)).into_diagnostic()?;
        let address = free.local_addr().into_diagnostic()?;
        drop(free);
        let process = Command::new("node")
            .arg(program)
            .env("HOST", address.ip().to_string())
            .env("PORT", address.port().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .into_diagnostic()
            .wrap_err("cannot start node")?;
        let listens = async {
            while TcpStream::connect(address).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, listens)
            .await
            .map_err(|_| miette!("{} does not listen", program.display()))?;
        Ok(Peer { process, address })
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.process.id().ok_or_else(|| miette!("the peer has ended"))
    }
}
