//! A backlog of WAL and how long it takes to read it. The server is held up with its sessions connected
//! while `pgbench` writes; `pg_recvlogical` reads a slot of its own to the end, and then the server,
//! let go, does the same: it decodes, routes, and delivers to those who may see.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use miette::{IntoDiagnostic, Result, miette};
use rustix::process::{Pid, Signal, kill_process};

use super::crowd::Crowd;
use super::postgres_tools::{Length, read_slot};
use super::process::{cores_shown, cpu_time};
use super::site::{Population, Site};
use super::{check_open_files, line, progress};

/// The slot of `pg_recvlogical`.
const SLOT: &str = "bench_limit";
const WRITERS: u32 = 8;

#[derive(Args, Debug)]
pub(super) struct DrainArgs {
    /// Connected clients
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// How many of them see each change
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    viewers: u32,
    /// Transactions in the backlog, of one change each
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(8..))]
    transactions: u32,
}

pub(super) async fn run(dir: &Path, args: &DrainArgs) -> Result<()> {
    let DrainArgs { sessions, viewers, transactions } = *args;
    check_open_files(sessions)?;
    let mut site = Site::prepare(dir, Population { people: sessions, viewers, rows: 20 }).await?;
    site.serve().await?;
    let (crowd, _) = Crowd::gather(&site, sessions, 200).await?;
    let client = site.connect().await?;
    let create = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    client.execute(create, &[&SLOT]).await.into_diagnostic()?;

    let pid = site.pid()?;
    let process = Pid::from_raw(pid as i32).ok_or_else(|| miette!("the server has ended"))?;
    progress(&format!("writing {transactions} transactions while the server is held up"));
    let begin = site.wal_end().await?;
    kill_process(process, Signal::STOP).into_diagnostic()?;
    let length = Length::Transactions { of_each_writer: transactions / WRITERS };
    let written = site.write(WRITERS, length, None, false).await?;
    client.batch_execute("CHECKPOINT").await.into_diagnostic()?;
    let end = site.wal_end().await?;

    progress("reading it with pg_recvlogical");
    let publication = &site.names.publication;
    let limit = read_slot(site.cluster.binaries(), &site.url(), SLOT, publication, end).await?;

    progress("letting the server go");
    let expected = written.transactions * u64::from(viewers.min(sessions));
    let before = cpu_time(pid);
    let begun = Instant::now();
    kill_process(process, Signal::CONT).into_diagnostic()?;
    let position = async {
        while site.health().await?.position < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, miette::Report>(begun.elapsed())
    };
    let delivered = async {
        let arrived = crowd.until(Duration::from_secs(120), |tally| tally.changes() >= expected);
        arrived.await.map(|()| begun.elapsed())
    };
    let (drained, delivered) = tokio::try_join!(position, delivered)?;
    let cpu = cores_shown(before, cpu_time(pid));

    let megabytes = (end.0 - begin.0) as f64 / f64::from(1 << 20);
    let rate =
        |time: Duration| format!("{:.0}/s", written.transactions as f64 / time.as_secs_f64());
    println!(
        "drain: {} transactions, {megabytes:.0} MB of WAL, {sessions} sessions, {viewers} see each change",
        written.transactions
    );
    line(
        "pg_recvlogical",
        rate(limit),
        &format!("transactions, in {:.2} s; the limit", limit.as_secs_f64()),
    );
    line(
        "the server, decoded and routed",
        rate(drained),
        &format!(
            "in {:.2} s; {:.2} of the limit",
            drained.as_secs_f64(),
            limit.as_secs_f64() / drained.as_secs_f64()
        ),
    );
    line(
        "the server, delivered",
        rate(delivered),
        &format!(
            "all {expected} changes, in {:.2} s; {:.2} of the limit",
            delivered.as_secs_f64(),
            limit.as_secs_f64() / delivered.as_secs_f64()
        ),
    );
    line("the server's time on the cores", cpu, "");
    crowd.leave().await;
    site.stop().await
}
