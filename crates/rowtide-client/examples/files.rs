//! The files that a user of `examples/files` sees, in a terminal, as they change. It reads commands, one a line: `ID NAME` gives a
//! file a name, `ID` alone deletes it. Commands go on without a connection, and are kept in a file until the server has
//! acknowledged them, also over an end of this program.
//!
//! ```sh
//! make dev    # in another terminal; it prints the token of u1
//! cargo run -p rowtide-client --example files -- ws://127.0.0.1:4400/sync TOKEN queue.jsonl
//! ```

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rowtide_client::{
    Acked, Client, ClientOptions, Event, FileStorage, Op, Outcome, Status, row_of,
};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

#[derive(Deserialize)]
struct File {
    id: String,
    name: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [url, token, queue] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|given: Vec<String>| {
            format!("expected URL TOKEN QUEUE, not {} arguments", given.len())
        })?;
    // The server knows a client's mutations by its id: a queue keeps the one that it began with.
    let began = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let options = ClientOptions {
        url,
        token: Arc::new(move || Some(token.clone())),
        client_id: format!("files-{began}-{}", std::process::id()),
        app_version: None,
    };
    let client = Client::open(options, FileStorage::open(queue)?).await?;
    list(client, BufReader::new(tokio::io::stdin()), std::io::stdout()).await
}

/// Shows the files until the commands end.
pub(crate) async fn list(
    mut client: Client,
    commands: impl AsyncBufRead + Unpin,
    mut out: impl Write,
) -> Result<(), Box<dyn Error>> {
    let mut commands = commands.lines();
    loop {
        tokio::select! {
            event = client.next() => match event {
                Some(Event::Changes(_)) => show(&client, &mut out)?,
                Some(Event::Status(Status::Offline { reason })) => writeln!(out, "offline: {reason}")?,
                Some(Event::Status(status)) => writeln!(out, "{status:?}")?,
                Some(Event::Acked(Acked { outcome: Outcome::Rejected { code, message }, .. })) => {
                    writeln!(out, "rejected: {message} ({code})")?;
                }
                Some(Event::Stopped(error)) => return Err(error.into()),
                Some(_) => {}
                None => return Ok(()),
            },
            command = commands.next_line() => match command? {
                Some(command) => write(&client, &command, &mut out)?,
                // What is not acknowledged yet is in the file, and the next run sends it.
                None => return Ok(client.close().await?),
            },
        }
    }
}

fn show(client: &Client, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let shown = client.shown();
    let mut files: Vec<File> = shown.typed("file").collect::<Result<_, _>>()?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    for File { id, name } in files {
        let pending = shown.is_pending("file", &row_of(&json!({ "id": id }))?);
        writeln!(out, "{id} {name}{}", if pending { " (not sent yet)" } else { "" })?;
    }
    Ok(writeln!(out)?)
}

fn write(client: &Client, command: &str, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let op = match command.trim().split_once(' ') {
        Some((id, name)) => Op::update("file", row_of(&json!({ "id": id, "name": name }))?),
        None => Op::delete("file", row_of(&json!({ "id": command.trim() }))?),
    };
    if let Err(error) = client.mutate(vec![op]) {
        writeln!(out, "{error}")?;
    }
    Ok(())
}
