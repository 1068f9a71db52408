//! The clients that exist, at a document whose sockets are cut and whose servers are killed and stopped.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rand::Rng;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::{definition, tables};
use crate::{Dir, Fleet, Node};

/// How long they edit, in seconds.
const SECONDS: u32 = 12;
/// How long the program may take that runs them.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs those that are installed in `dir`, whose name says what they are: `yjs`, or begins with `tldraw`.
///
/// # Errors
/// With what they say, if not all come to have the same with every edit in it.
///
/// # Panics
/// When they cannot be run at all.
pub async fn with_clients(dir: &Path) -> Result<String, String> {
    let home = Dir::new();
    let node = Node::start(&home, "postgres").await;
    let mut fleet = Fleet::prepare(&home, &node, &definition(), &tables()).await;
    fleet.add();
    fleet.ready().await;
    let name = dir.file_name().and_then(|name| name.to_str()).expect("it has a name");
    let (kind, path) = match name {
        "yjs" => ("yjs", "doc/note"),
        _ => ("tldraw", "app/drawing"),
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/real-clients.cjs");
    let mut clients = Command::new("node")
        .arg(script)
        .arg(kind)
        .arg(dir)
        .arg(format!("ws://{}/{path}", fleet.front.address()))
        .args([SECONDS.to_string().as_str(), "0-0"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("there is node");
    let mut said = BufReader::new(clients.stdout.take().expect("it has an output")).lines();
    let mut next = async || loop {
        match timeout(PATIENCE, said.next_line()).await {
            // What a library says for itself.
            Ok(Ok(Some(line))) if line.starts_with('[') => {}
            Ok(Ok(Some(line))) => return Ok(line),
            _ => return Err("they say nothing more".to_owned()),
        }
    };
    let begun = next().await?;
    if begun != "edits" {
        return Err(begun);
    }
    let faults = async {
        loop {
            sleep(Duration::from_millis(rand::rng().random_range(300..1_500))).await;
            match rand::rng().random_range(0..4) {
                0 | 1 => fleet.front.cut(),
                2 => fleet.members[0].kill().await,
                _ => drop(fleet.members[0].stop().await),
            }
            fleet.revive();
        }
    };
    let edited = sleep(Duration::from_secs(SECONDS.into()));
    tokio::select! {
        () = faults => {}
        () = edited => {}
    }
    fleet.revive();
    fleet.ready().await;
    let came = next().await?;
    if came.starts_with("converged") { Ok(came) } else { Err(came) }
}
