//! `rowtide watch`: a user's live rows in a terminal. On a terminal the rows are drawn by table and
//! drawn anew with every change; elsewhere every change is one plain line, to be read by a program.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use miette::{IntoDiagnostic, Result, miette};
use rowtide_client::{Client, ClientOptions, Event, Replica, Row, RowChange, Status};

use crate::dev;

/// What to watch.
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// The user, with the secret of `rowtide dev`
    #[arg(long, value_name = "ID", required_unless_present = "token")]
    user: Option<String>,
    /// A token
    #[arg(long, value_name = "TOKEN", conflicts_with = "user")]
    token: Option<String>,
    /// The directory of `rowtide dev`
    #[arg(long, default_value = ".rowtide", value_name = "DIR")]
    dir: PathBuf,
    /// The server
    #[arg(long, default_value = "ws://127.0.0.1:4400/sync", value_name = "URL")]
    url: String,
    /// The version that the client says it is
    #[arg(long, value_name = "NUMBER")]
    app_version: Option<i64>,
}

/// How many changes are shown below the rows.
const LOG_LINES: usize = 8;
/// How many rows of a table are shown.
const ROWS_SHOWN: usize = 12;

/// Watches until it is interrupted or the server says that there is no use.
///
/// # Errors
/// When there is no token, or the server refuses for good.
pub async fn run(args: WatchArgs) -> Result<()> {
    let token: rowtide_client::TokenSource = match (args.token, args.user) {
        (Some(token), _) => Arc::new(move || token.clone()),
        (None, Some(user)) => {
            let dir = args.dir;
            // Once now, so that a mistake is told at once.
            let first = dev::token(&dir, &user)?;
            Arc::new(move || dev::token(&dir, &user).unwrap_or_else(|_| first.clone()))
        }
        (None, None) => return Err(miette!("say whose rows to watch: --user ID or --token TOKEN")),
    };
    let mut client = Client::start(ClientOptions {
        url: args.url,
        token,
        client_id: format!("watch-{:016x}", rand::random::<u64>()),
        app_version: args.app_version,
    });
    let mut screen = std::io::stdout().is_terminal().then(Screen::default);
    let interrupted = dev::interrupted();
    tokio::pin!(interrupted);
    loop {
        let event = tokio::select! {
            event = client.next() => event,
            () = &mut interrupted => return Ok(()),
        };
        let shown = match (event, &mut screen) {
            (None, _) => return Ok(()),
            (Some(Event::Stopped(error)), _) => return Err(miette!("{error}")),
            (Some(event), Some(screen)) => screen.show(&event, &client.replica()),
            (Some(event), None) => plain(&event),
        };
        match shown {
            Ok(()) => {}
            // Whoever read the lines has enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error).into_diagnostic(),
        }
    }
}

fn line(change: &RowChange) -> String {
    match change {
        RowChange::Put { table, row } => format!("{table} put {}", json(row)),
        RowChange::Delete { table, key } => format!("{table} delete {}", json(key)),
    }
}

fn json(row: &Row) -> String {
    serde_json::to_string(row).unwrap_or_default()
}

fn plain(event: &Event) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match event {
        Event::Changes(changes) => {
            for change in changes {
                writeln!(out, "{}", line(change))?;
            }
        }
        Event::Status(Status::Live) => writeln!(out, "live")?,
        Event::Status(Status::Connecting) => eprintln!("connecting …"),
        Event::Status(Status::Offline { reason }) => eprintln!("offline: {reason}"),
        Event::Settled(_) | Event::NotStored { .. } | Event::Stopped(_) => {}
    }
    out.flush()
}

#[derive(Default)]
struct Screen {
    status: String,
    log: Vec<String>,
}

impl Screen {
    fn show(&mut self, event: &Event, replica: &Replica) -> std::io::Result<()> {
        match event {
            Event::Status(Status::Live) => self.status = "live".to_owned(),
            Event::Status(Status::Connecting) => self.status = "connecting …".to_owned(),
            Event::Status(Status::Offline { reason }) => self.status = format!("offline: {reason}"),
            Event::Changes(changes) if self.status == "live" => {
                self.log.extend(changes.iter().map(line));
                let gone = self.log.len().saturating_sub(LOG_LINES);
                self.log.drain(..gone);
            }
            Event::Changes(_) | Event::Settled(_) | Event::NotStored { .. } | Event::Stopped(_) => {
            }
        }
        let width = std::env::var("COLUMNS").ok().and_then(|w| w.parse().ok()).unwrap_or(100);
        let cut = |text: &str| text.chars().take(width).collect::<String>();
        // Home, and erase what was there.
        let mut text = String::from("\x1b[H\x1b[2J");
        text += &format!("\x1b[1m{}\x1b[0m\n\n", cut(&self.status));
        for table in replica.tables() {
            text += &format!("\x1b[1m{table}\x1b[0m  {}\n", replica.count(table));
            let mut rows: Vec<String> = replica.rows(table).map(json).collect();
            rows.sort();
            for row in rows.iter().take(ROWS_SHOWN) {
                text += &format!("  {}\n", cut(row));
            }
            if rows.len() > ROWS_SHOWN {
                text += &format!("  … and {} more\n", rows.len() - ROWS_SHOWN);
            }
            text.push('\n');
        }
        for change in &self.log {
            text += &format!("\x1b[2m{}\x1b[0m\n", cut(change));
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}
