//! Too much at once: one transaction that changes every row, then a great many small ones, with some clients
//! that look on, and wide ones while the log cannot be written. What counts is the most memory that the
//! server took on the way.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use miette::{IntoDiagnostic, Result, miette};
use rusqlite::Connection;

use crate::crowd::Crowd;
use crate::postgres_tools::Length;
use crate::process::{peak_bytes, reset_peak, resident_bytes};
use crate::resume::streamed;
use crate::site::{Ground, Population, Site};
use crate::{check_open_files, line, progress};

/// How many rows each person has.
const ROWS: u32 = 1_000;
const WRITERS: u32 = 8;
/// The text of a wide row, in bytes.
const WIDE: u32 = 100_000;
/// How long the stream must have stood still to be held up.
const STILL: Duration = Duration::from_secs(3);

#[derive(Args, Debug)]
pub(crate) struct BurstArgs {
    /// How many rows the one transaction changes, in thousands
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    thousand_rows: u32,
    /// How many clients look on, with a thousand rows each
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// How many small transactions follow
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(8..))]
    transactions: u32,
    /// How many transactions of 100 kB are committed while the log cannot be written
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    wide: u32,
}

pub(crate) async fn run(ground: &Ground, args: &BurstArgs) -> Result<()> {
    let BurstArgs { thousand_rows, sessions, transactions, wide } = *args;
    check_open_files(sessions)?;
    let population = Population { people: thousand_rows.max(sessions), viewers: 1, rows: ROWS };
    let mut site = Site::prepare(ground, population).await?;
    site.serve().await?;
    let (crowd, _) = Crowd::connect(&site, sessions, usize::MAX >> 4).await?;
    let pid = site.pid()?;
    let megabytes = |bytes: Option<u64>| {
        bytes.map_or_else(|| "not known".to_owned(), |bytes| format!("{} MB", bytes >> 20))
    };
    let before = resident_bytes(pid);

    progress("changing every row in one transaction");
    reset_peak(pid);
    let begun = Instant::now();
    let client = site.connect().await?;
    let sql = "UPDATE item SET stars = stars + 1";
    let changed = client.execute(sql, &[]).await.into_diagnostic()?;
    let committed = begun.elapsed();
    streamed(&site).await?;
    let expected = u64::from(sessions) * u64::from(ROWS);
    crowd.until(Duration::from_secs(120), |tally| tally.changes() >= expected).await?;
    let (took, peak) = (begun.elapsed(), peak_bytes(pid));

    progress("committing small transactions");
    reset_peak(pid);
    let length = Length::Transactions { of_each_writer: transactions / WRITERS };
    let written = site.write(WRITERS, length, None, false).await?;
    streamed(&site).await?;
    let peak_of_many = peak_bytes(pid);

    progress("committing wide transactions while the log cannot be written");
    let held = hold_log(&site.log_dir().join(&site.names.slot))?;
    reset_peak(pid);
    // The last rows, which nobody sees: what is measured is what is on its way.
    let last = population.items();
    let sql = format!(
        "DO $$ BEGIN FOR n IN 1..{wide} LOOP \
           UPDATE item SET title = repeat('x', {WIDE}) WHERE id = {last} - n % {ROWS}; COMMIT; \
         END LOOP; END $$"
    );
    client.batch_execute(&sql).await.into_diagnostic()?;
    let held_up = stands_still(&site).await?;
    let peak_of_wide = peak_bytes(pid);
    drop(held);
    streamed(&site).await?;

    println!("burst: {sessions} clients with {ROWS} rows each look on");
    line("the server's memory before", megabytes(before), "");
    line(
        &format!("one transaction of {changed} rows: at most"),
        megabytes(peak),
        &format!(
            "committed in {:.1} s, everyone current after {:.1} s",
            committed.as_secs_f64(),
            took.as_secs_f64()
        ),
    );
    line(&format!("{} small ones: at most", written.transactions), megabytes(peak_of_many), "");
    line(
        &format!("{wide} of {} kB, no disk: at most", WIDE / 1_000),
        megabytes(peak_of_wide),
        &format!(
            "of {} MB, {}",
            (u64::from(wide) * u64::from(WIDE)) >> 20,
            if held_up { "the stream was held up" } else { "which all fits" }
        ),
    );
    crowd.leave().await;
    site.stop().await
}

/// Keeps the server from writing its log, as a disk does that has stalled, until it is dropped.
fn hold_log(dir: &Path) -> Result<Connection> {
    let files = fs::read_dir(dir).into_diagnostic()?;
    let paths = files.filter_map(|file| Some(file.ok()?.path()));
    let segments = paths.filter(|path| path.extension().is_some_and(|of| of == "segment"));
    let newest = segments.max().ok_or_else(|| miette!("there is no log"))?;
    let connection = Connection::open(newest).into_diagnostic()?;
    connection.execute_batch("BEGIN IMMEDIATE").into_diagnostic()?;
    Ok(connection)
}

/// Waits until the stream has come to its end, or stands still before it: whether it does.
async fn stands_still(site: &Site) -> Result<bool> {
    let end = Some(site.wal_end().await?);
    let (mut at, mut since) = (site.health().await?.position, Instant::now());
    while at < end && since.elapsed() < STILL {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = site.health().await?.position;
        if now != at {
            (at, since) = (now, Instant::now());
        }
    }
    Ok(at < end)
}
