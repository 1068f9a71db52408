//! Clients that all arrive at the same moment, as after a deploy: how long until every one of them has
//! its rows, and how many queries that is for Postgres. Beside it one `COPY` that reads the same rows
//! once.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{StreamExt, pin_mut};
use miette::{IntoDiagnostic, Result};

use crate::crowd::Crowd;
use crate::process::{cores_shown, cpu_time};
use crate::site::{Ground, Population, Site};
use crate::{check_open_files, line, progress};

#[derive(Args, Debug)]
pub(crate) struct ConnectArgs {
    /// How many arrive
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// How many rows each has
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
}

pub(crate) async fn run(ground: &Ground, args: &ConnectArgs) -> Result<()> {
    let ConnectArgs { sessions, rows } = *args;
    check_open_files(sessions)?;
    let mut site = Site::prepare(ground, Population { people: sessions, viewers: 1, rows }).await?;
    progress("reading all rows once with COPY");
    let (limit, bytes) = copy(&site).await?;
    let committed = transactions(&site).await?;
    site.serve().await?;
    let pid = site.pid()?;
    let before = site.health().await?;
    let cpu = cpu_time(pid);
    let (crowd, took) = Crowd::connect(&site, sessions, usize::MAX >> 4).await?;
    let cpu = cores_shown(cpu, cpu_time(pid));
    let after = site.health().await?;
    let (arrived, bytes_arrived) = (crowd.tally.rows(), crowd.tally.bytes());
    crowd.leave().await;
    site.end_server().await?;
    let committed = transactions(&site).await? - committed;

    println!("connect: {sessions} clients at once, {rows} rows each");
    line(
        "COPY of the same rows",
        format!("{:.2} s", limit.as_secs_f64()),
        &format!("{} MB; the limit", bytes >> 20),
    );
    line(
        "until all are ready",
        format!("{:.2} s", took.as_secs_f64()),
        &format!("{arrived} rows, {} MB of messages", bytes_arrived >> 20),
    );
    line("clients a second", format!("{:.0}/s", f64::from(sessions) / took.as_secs_f64()), "");
    line("queries that load rows", after.load_queries - before.load_queries, "");
    line(
        "transactions of Postgres altogether",
        committed,
        "loads, client ids and the server's own start",
    );
    line("the server's time on the cores", cpu, "");
    site.stop().await
}

async fn copy(site: &Site) -> Result<(Duration, usize)> {
    let client = site.connect().await?;
    let begun = Instant::now();
    let rows = client.copy_out("COPY (SELECT * FROM item) TO STDOUT").await.into_diagnostic()?;
    pin_mut!(rows);
    let mut bytes = 0;
    while let Some(chunk) = rows.next().await {
        bytes += chunk.into_diagnostic()?.len();
    }
    Ok((begun.elapsed(), bytes))
}

/// Transactions of the database so far. A connection tells what it did when it ends, so all must have.
async fn transactions(site: &Site) -> Result<i64> {
    let client = site.cluster.connect("postgres").await.into_diagnostic()?;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'bench'";
    while client.query_one(open, &[]).await.into_diagnostic()?.get::<_, i64>(0) > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'bench'";
    Ok(client.query_one(sql, &[]).await.into_diagnostic()?.get(0))
}
