//! A column is added to a table of which every client has rows: what it takes until all of them have it, in bytes of
//! messages, in queries that load rows and in time on the cores. Beside it what the same clients cost when they came, which is what
//! they would cost again if they were sent everything.

use std::time::{Duration, Instant};

use clap::Args;
use miette::{IntoDiagnostic, Result};

use crate::crowd::Crowd;
use crate::process::{cores_shown, cpu_time};
use crate::site::{Ground, Population, Site};
use crate::{check_open_files, line, progress};

/// How long it may take until all have it.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Args, Debug)]
pub(crate) struct ColumnArgs {
    /// How many clients there are
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// How many rows each has
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
}

pub(crate) async fn run(ground: &Ground, args: &ColumnArgs) -> Result<()> {
    let ColumnArgs { sessions, rows } = *args;
    check_open_files(sessions)?;
    let mut site = Site::prepare(ground, Population { people: sessions, viewers: 1, rows }).await?;
    site.serve().await?;
    let pid = site.pid()?;
    let (empty, cpu_empty) = (site.health().await?, cpu_time(pid));
    let (crowd, arriving) = Crowd::connect(&site, sessions, usize::MAX >> 4).await?;
    let (before, cpu_before) = (site.health().await?, cpu_time(pid));
    let arrived = crowd.tally.bytes();
    progress("adding a column");
    let client = site.connect().await?;
    let begun = Instant::now();
    let add = "ALTER TABLE item ADD COLUMN color text NOT NULL DEFAULT 'red'";
    client.batch_execute(add).await.into_diagnostic()?;
    let altering = begun.elapsed();
    let all = site.population.items();
    crowd.until(PATIENCE, |tally| tally.changes() >= all).await?;
    let took = begun.elapsed();
    let (after, cpu_after) = (site.health().await?, cpu_time(pid));
    let (told, bytes) = (crowd.tally.changes(), crowd.tally.bytes() - arrived);
    crowd.leave().await;

    println!("column: {sessions} clients, {rows} rows each of the table that gets a column");
    line("ALTER TABLE", format!("{:.1} ms", altering.as_secs_f64() * 1e3), "");
    line(
        "until all have the column",
        format!("{:.2} s", took.as_secs_f64()),
        &format!("{:.2} s until all were there", arriving.as_secs_f64()),
    );
    line(
        "bytes of messages",
        format!("{} kB", bytes >> 10),
        &format!("{told} changes; {} kB for all rows of all tables", arrived >> 10),
    );
    line(
        "queries that load rows",
        after.load_queries - before.load_queries,
        &format!("{} when they came", before.load_queries - empty.load_queries),
    );
    line(
        "rows that these read",
        after.loaded_rows - before.loaded_rows,
        &format!("{} when they came", before.loaded_rows - empty.loaded_rows),
    );
    line(
        "the server's time on the cores",
        cores_shown(cpu_before, cpu_after),
        &format!("{} when they came", cores_shown(cpu_empty, cpu_before)),
    );
    site.stop().await
}
