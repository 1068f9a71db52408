//! Writers commit in SQL, and everyone who may see a change gets it. First `pgbench` alone, then the
//! same with the server and its clients beside it, then at a steady pace for the latency: at full speed
//! everything waits for a core, and a latency would say no more than that.

use std::time::{Duration, Instant};

use clap::Args;
use miette::{Result, miette};

use crate::crowd::Crowd;
use crate::postgres_tools::Length;
use crate::process::{cores_shown, cpu_time};
use crate::site::{Ground, Population, Site};
use crate::{check_open_files, line, progress};

#[derive(Args, Debug)]
pub(crate) struct FanoutArgs {
    /// Connected clients
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// How many of them see each change
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    viewers: u32,
    /// Connections of pgbench at full speed
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    writers: u32,
    /// Length of each part, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Commits a second while the latency is measured
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
}

pub(crate) async fn run(ground: &Ground, args: &FanoutArgs) -> Result<()> {
    let FanoutArgs { sessions, viewers, writers, seconds, rate } = *args;
    check_open_files(sessions)?;
    let mut site =
        Site::prepare(ground, Population { people: sessions, viewers, rows: 20 }).await?;
    let length = Length::Time(Duration::from_secs(seconds));
    progress(&format!("pgbench alone for {seconds} s"));
    let alone = site.write(writers, length, None, true).await?;
    site.serve().await?;
    let (crowd, _) = Crowd::connect(&site, sessions, 200).await?;
    let served = || viewers_of(sessions, viewers);

    progress(&format!("pgbench with the server for {seconds} s"));
    let pid = site.pid()?;
    let (cpu, begun) = (cpu_time(pid), Instant::now());
    let beside = site.write(writers, length, None, true).await?;
    let expected = beside.transactions * served();
    crowd.until(Duration::from_secs(60), |tally| tally.changes() >= expected).await?;
    let took = begun.elapsed();
    let cpu = cores_shown(cpu, cpu_time(pid));
    let delivered = crowd.tally.changes();

    progress(&format!("{rate} commits a second for {seconds} s"));
    crowd.tally.time();
    let paced = site.write(writers.min(4), length, Some(rate), true).await?;
    let expected = delivered + paced.transactions * served();
    crowd.until(Duration::from_secs(60), |tally| tally.changes() >= expected).await?;
    let latency = crowd.tally.latency().ok_or_else(|| miette!("no latency was measured"))?;

    println!(
        "fanout: {sessions} sessions, {viewers} see each change, {writers} writers, {seconds} s each"
    );
    line("pgbench alone", format!("{:.0}/s", alone.commits_a_second), "commits; the limit");
    line(
        "pgbench beside the server",
        format!("{:.0}/s", beside.commits_a_second),
        &format!("commits; {:.2} of the limit", beside.commits_a_second / alone.commits_a_second),
    );
    line(
        "changes delivered",
        format!("{:.0}/s", delivered as f64 / took.as_secs_f64()),
        &format!("all {delivered} of them, {:.2} s after the last commit at most", {
            (took.as_secs_f64() - seconds as f64).max(0.0)
        }),
    );
    line("the server's time on the cores", cpu, "while writers ran at full speed");
    line("commit to client, p50", format!("{:.2} ms", latency.p50_ms), "flush to disk included");
    line(
        "commit to client, p99",
        format!("{:.2} ms", latency.p99_ms),
        &format!("{} messages at {rate} commits a second", latency.samples),
    );
    line("a commit of pgbench at that pace", format!("{:.2} ms", paced.latency_ms), "mean");
    crowd.leave().await;
    site.stop().await
}

/// How many sessions get each change: the last room may have fewer members, so only full rooms count.
fn viewers_of(sessions: u32, viewers: u32) -> u64 {
    u64::from(viewers.min(sessions))
}
