//! Too much at once: one transaction that changes every row, and then a great many small ones, with some
//! clients that look on. What counts is the most memory that the server took on the way.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use miette::{IntoDiagnostic, Result};

use super::crowd::Crowd;
use super::postgres_tools::Length;
use super::process::{peak_bytes, reset_peak, resident_bytes};
use super::resume::streamed;
use super::site::{Population, Site};
use super::{check_open_files, line, progress};

/// How many rows each person has.
const ROWS: u32 = 1_000;
const WRITERS: u32 = 8;

#[derive(Args, Debug)]
pub(super) struct BurstArgs {
    /// How many rows the one transaction changes, in thousands
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    thousand_rows: u32,
    /// How many clients look on, with a thousand rows each
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// How many small transactions follow
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(8..))]
    transactions: u32,
}

pub(super) async fn run(dir: &Path, args: &BurstArgs) -> Result<()> {
    let BurstArgs { thousand_rows, sessions, transactions } = *args;
    check_open_files(sessions)?;
    let population = Population { people: thousand_rows.max(sessions), viewers: 1, rows: ROWS };
    let mut site = Site::prepare(dir, population).await?;
    site.serve().await?;
    let (crowd, _) = Crowd::gather(&site, sessions, usize::MAX >> 4).await?;
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
    crowd.leave().await;
    site.stop().await
}
