//! `rowtide watch`: a user's live rows in a terminal. On a terminal the rows are drawn by table and
//! drawn anew with every change; elsewhere every change is one plain line, to be read by a program.
//! With `--write` it writes as well, and what is not acknowledged yet is shown to be pending.

use std::io::{IsTerminal, Write};

use clap::Args;
use miette::{IntoDiagnostic, Result, miette};
use rowtide_client::{Acked, Client, Event, Optimistic, Outcome, Row, RowChange, Status};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use crate::client_args::{ClientArgs, read_ops};
use crate::dev;
use crate::said::said;
use crate::subscribing::{WatchedQueries, WatchedSubscriptions};
use crate::terminal::note;

/// What to watch.
#[derive(Args, Debug)]
pub struct WatchArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    queries: WatchedQueries,
    /// Take mutations from standard input, one operation or array of them a line, as JSON
    #[arg(long)]
    write: bool,
}

/// How many changes are shown below the rows.
const LOG_LINES: usize = 8;
/// How many rows of a table are shown.
const ROWS_SHOWN: usize = 12;

/// Watches until it is interrupted or the server says that there is no use.
///
/// # Errors
/// When there is no token, the server turns it away for good, or refuses a query.
pub async fn run(args: WatchArgs) -> Result<()> {
    let mut client = args.client.connect("watch").await?;
    let subscriptions = args.queries.subscribe(&client)?;
    let mut lines = args.write.then(|| BufReader::new(tokio::io::stdin()).lines());
    let mut screen = std::io::stdout().is_terminal().then(Screen::default);
    let interrupted = dev::interrupted();
    tokio::pin!(interrupted);
    loop {
        let event = tokio::select! {
            event = client.next() => event,
            line = next_line(&mut lines) => {
                match line.into_diagnostic()? {
                    Some(line) => write(&client, &line, screen.as_mut()),
                    None => lines = None,
                }
                continue;
            }
            () = &mut interrupted => return client.close().await.map_err(said),
        };
        let shown = match (event, &mut screen) {
            (None, _) => return Ok(()),
            (Some(Event::Stopped(error)), _) => return Err(miette!("{error}")),
            (Some(Event::SubscriptionRefused(refused)), _) => {
                return Err(subscriptions.refusal(&refused));
            }
            (Some(event), Some(screen)) => screen.show(&event, &client.shown(), &subscriptions),
            (Some(event), None) => plain(&event, &client.shown(), &subscriptions),
        };
        match shown {
            Ok(()) => {}
            // Whoever read the lines has enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error).into_diagnostic(),
        }
    }
}

/// The next line of standard input, if it is read.
async fn next_line(lines: &mut Option<Lines<BufReader<Stdin>>>) -> std::io::Result<Option<String>> {
    match lines {
        Some(lines) => lines.next_line().await,
        None => std::future::pending().await,
    }
}

/// Makes the mutation that a line asks for. It is shown at once, by an event.
fn write(client: &Client, line: &str, screen: Option<&mut Screen>) {
    if line.trim().is_empty() {
        return;
    }
    let made = read_ops(line).and_then(|ops| client.mutate(ops).map_err(said));
    if let Err(error) = made {
        match screen {
            Some(screen) => screen.log.push(format!("not sent: {error}")),
            None => note!("not sent: {error}"),
        }
    }
}

fn line(change: &RowChange, shown: &Optimistic) -> String {
    let (table, verb, row) = match change {
        RowChange::Put { table, row } => (table, "put", row),
        RowChange::Delete { table, key } => (table, "delete", key),
    };
    let pending = if shown.is_pending(table, row) { " (pending)" } else { "" };
    format!("{table} {verb} {}{pending}", json(row))
}

fn outcome(acked: &Acked) -> String {
    match &acked.outcome {
        Outcome::Applied => format!("mutation {} confirmed", acked.id),
        Outcome::Rejected { code, message } => {
            format!("mutation {} rejected ({code}): {message}", acked.id)
        }
    }
}

fn json(row: &Row) -> String {
    serde_json::to_string(row).unwrap_or_default()
}

fn plain(
    event: &Event,
    shown: &Optimistic,
    subscriptions: &WatchedSubscriptions,
) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match event {
        Event::Changes(changes) => {
            for change in changes {
                writeln!(out, "{}", line(change, shown))?;
            }
        }
        Event::Status(Status::Live) => writeln!(out, "live")?,
        Event::Status(Status::Connecting) => note!("connecting …"),
        Event::Status(Status::Offline { reason }) => note!("offline: {reason}"),
        Event::Acked(acked) => writeln!(out, "{}", outcome(acked))?,
        Event::Subscribed(id) => writeln!(out, "subscribed to {}", subscriptions.query(*id))?,
        Event::NotStored { reason } => note!("cannot store mutations: {reason}"),
        Event::SubscriptionRefused(_) | Event::Stopped(_) => {}
    }
    out.flush()
}

#[derive(Default)]
struct Screen {
    status: String,
    log: Vec<String>,
}

impl Screen {
    fn show(
        &mut self,
        event: &Event,
        shown: &Optimistic,
        subscriptions: &WatchedSubscriptions,
    ) -> std::io::Result<()> {
        match event {
            Event::Status(Status::Live) => self.status = "live".to_owned(),
            Event::Status(Status::Connecting) => self.status = "connecting …".to_owned(),
            Event::Status(Status::Offline { reason }) => self.status = format!("offline: {reason}"),
            Event::Changes(changes) if self.status == "live" => {
                self.log.extend(changes.iter().map(|change| line(change, shown)));
            }
            Event::Acked(acked) => self.log.push(outcome(acked)),
            Event::NotStored { reason } => {
                self.log.push(format!("cannot store mutations: {reason}"));
            }
            Event::Subscribed(id) => {
                self.log.push(format!("subscribed to {}", subscriptions.query(*id)));
            }
            Event::Changes(_) | Event::SubscriptionRefused(_) | Event::Stopped(_) => {}
        }
        let gone = self.log.len().saturating_sub(LOG_LINES);
        self.log.drain(..gone);
        let width = std::env::var("COLUMNS").ok().and_then(|w| w.parse().ok()).unwrap_or(100);
        let cut = |text: &str| text.chars().take(width).collect::<String>();
        // Home, and erase what was there.
        let mut text = String::from("\x1b[H\x1b[2J");
        let pending = match shown.pending().count() {
            0 => String::new(),
            count => format!(", {count} pending"),
        };
        let status = format!("{}{pending}", self.status);
        text += &format!("\x1b[1m{}\x1b[0m\n\n", cut(&status));
        for table in shown.tables() {
            text += &format!("\x1b[1m{table}\x1b[0m  {}\n", shown.count(table));
            let row = |row: &Row| (json(row), shown.is_pending(table, row));
            let mut rows: Vec<(String, bool)> = shown.rows(table).map(row).collect();
            rows.sort();
            for (row, pending) in rows.iter().take(ROWS_SHOWN) {
                // In yellow until it is acknowledged.
                let (begin, end) = if *pending { ("\x1b[33m", "\x1b[0m") } else { ("", "") };
                text += &format!("  {begin}{}{end}\n", cut(row));
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
