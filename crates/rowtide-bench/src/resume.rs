//! Clients that were away while some of their rows changed. All come back at once, with their cursors, and
//! are brought up to date; then all come once more without cursors, for the same rows as snapshots.

use std::time::Duration;

use clap::Args;
use miette::{IntoDiagnostic, Result};

use crate::crowd::{Crowd, Cursors};
use crate::process::{cores_shown, cpu_time};
use crate::site::{Ground, Population, Site};
use crate::{check_open_files, line, progress};

#[derive(Args, Debug)]
pub(crate) struct ResumeArgs {
    /// How many clients come back
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// How many rows each has
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// How many of a hundred have missed something
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    percent: u32,
}

/// What it took to bring everyone up to date.
struct Return {
    took: Duration,
    bytes: u64,
    rows_read: u64,
    queries: u64,
    cpu: String,
}

pub(crate) async fn run(ground: &Ground, args: &ResumeArgs) -> Result<()> {
    let ResumeArgs { sessions, rows, percent } = *args;
    check_open_files(sessions)?;
    let mut site = Site::prepare(ground, Population { people: sessions, viewers: 1, rows }).await?;
    site.serve().await?;
    let cursors = Cursors::new(sessions);
    let (crowd, _) = Crowd::connect_with(&site, sessions, usize::MAX >> 4, Some(&cursors)).await?;
    crowd.leave().await;
    let missed = u64::from(sessions) * u64::from(percent) / 100;
    progress(&format!("changing a row of {missed} of them"));
    let sql = format!(
        "UPDATE item SET stars = stars + 1, changed_at = now() \
         WHERE room <= {missed} AND id % {rows} = 0"
    );
    site.connect().await?.execute(&sql, &[]).await.into_diagnostic()?;
    streamed(&site).await?;
    let resumed = all_return(&site, sessions, Some(&cursors), missed).await?;
    let snapshots = all_return(&site, sessions, None, 0).await?;
    println!("resume: {sessions} clients come back at once, {percent} % of them missed a change");
    for (name, part) in [("with cursors", &resumed), ("as snapshots", &snapshots)] {
        let Return { took, bytes, rows_read, queries, cpu } = part;
        line(&format!("{name}: until all are current"), format!("{:.2} s", took.as_secs_f64()), "");
        line(&format!("{name}: bytes of messages"), bytes, "");
        let of = format!("with {queries} queries");
        line(&format!("{name}: rows read"), rows_read, &of);
        line(&format!("{name}: the server's time on the cores"), cpu, "");
    }
    let fewer = snapshots.bytes as f64 / resumed.bytes.max(1) as f64;
    line("times fewer bytes", format!("{fewer:.1}"), "");
    site.stop().await
}

/// Waits until the server has everything that is committed.
pub(crate) async fn streamed(site: &Site) -> Result<()> {
    let end = site.wal_end().await?;
    while site.health().await?.position < Some(end) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn all_return(
    site: &Site,
    sessions: u32,
    cursors: Option<&Cursors>,
    missed: u64,
) -> Result<Return> {
    let (before, pid) = (site.health().await?, site.pid()?);
    let cpu = cpu_time(pid);
    let (crowd, took) = Crowd::connect_with(site, sessions, usize::MAX >> 4, cursors).await?;
    let cpu = cores_shown(cpu, cpu_time(pid));
    let after = site.health().await?;
    let (bytes, changes) = (crowd.tally.bytes(), crowd.tally.changes());
    crowd.leave().await;
    if changes < missed {
        return Err(miette::miette!("{changes} changes arrived where {missed} were missed"));
    }
    Ok(Return {
        took,
        bytes,
        rows_read: after.loaded_rows - before.loaded_rows,
        queries: after.load_queries - before.load_queries,
        cpu,
    })
}
