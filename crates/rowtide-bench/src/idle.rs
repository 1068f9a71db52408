//! Sessions at which nothing happens, and the memory that the server keeps for them.

use std::time::Duration;

use clap::Args;
use miette::{Result, miette};

use crate::crowd::Crowd;
use crate::process::{cpu_time, resident_bytes};
use crate::site::{Ground, Population, Site};
use crate::{check_open_files, line, progress};

#[derive(Args, Debug)]
pub(crate) struct IdleArgs {
    /// Connected clients
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// How many rows each has
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// How long the server is watched, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

pub(crate) async fn run(ground: &Ground, args: &IdleArgs) -> Result<()> {
    let IdleArgs { sessions, rows, seconds } = *args;
    let watched = Duration::from_secs(seconds);
    check_open_files(sessions)?;
    let mut site = Site::prepare(ground, Population { people: sessions, viewers: 1, rows }).await?;
    site.serve().await?;
    let pid = site.pid()?;
    let resident = || resident_bytes(pid).ok_or_else(|| miette!("memory is only known on Linux"));
    let empty = resident()?;
    let (crowd, _) = Crowd::connect(&site, sessions, 500).await?;
    let full = resident()?;
    progress(&format!("watching the server for {seconds} s"));
    let before = cpu_time(pid);
    tokio::time::sleep(watched).await;
    let idle = resident()?;
    let cpu = cpu_time(pid).zip(before).map(|(after, before)| after - before);
    let held = site.health().await?.sessions;

    let megabytes = |bytes: u64| format!("{:.0} MB", bytes as f64 / f64::from(1 << 20));
    println!("idle: {held} sessions, {rows} rows each");
    line("without sessions", megabytes(empty), "resident memory of the server");
    line("all ready", megabytes(full), "");
    line("after nothing has happened", megabytes(idle), &format!("for {seconds} s"));
    line(
        "for each session and its rows",
        format!("{:.1} kB", idle.saturating_sub(empty) as f64 / 1024.0 / f64::from(sessions)),
        "",
    );
    if let Some(cpu) = cpu {
        let share = cpu.as_secs_f64() / watched.as_secs_f64() * 100.0;
        line("of one core", format!("{share:.1} %"), "while nothing happens");
    }
    crowd.leave().await;
    site.stop().await
}
