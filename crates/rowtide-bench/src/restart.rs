//! The server is killed while all clients are connected, and started again: how long until everyone is
//! current, and what that costs Postgres. Nobody waits before coming back, so the herd is as bad as it can
//! be; clients that keep to the protocol spread it.

use std::time::Instant;

use clap::Args;
use miette::Result;

use crate::crowd::{Crowd, Cursors};
use crate::site::{Ground, Population, Site};
use crate::{check_open_files, line, progress, resume};

#[derive(Args, Debug)]
pub(crate) struct RestartArgs {
    /// How many clients are connected
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// How many rows each has
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
}

pub(crate) async fn run(ground: &Ground, args: &RestartArgs) -> Result<()> {
    let RestartArgs { sessions, rows } = *args;
    check_open_files(sessions)?;
    let mut site = Site::prepare(ground, Population { people: sessions, viewers: 1, rows }).await?;
    site.serve().await?;
    let cursors = Cursors::new(sessions);
    println!("restart: {sessions} clients, {rows} rows each; the server is killed and started");
    for (name, cursors) in [("with cursors", Some(&cursors)), ("as snapshots", None)] {
        let (crowd, _) = Crowd::connect_with(&site, sessions, usize::MAX >> 4, cursors).await?;
        resume::streamed(&site).await?;
        progress("killing the server");
        let killed = Instant::now();
        site.end_server().await?;
        crowd.leave().await;
        site.serve().await?;
        let served = killed.elapsed();
        let (crowd, _) = Crowd::connect_with(&site, sessions, usize::MAX >> 4, cursors).await?;
        let took = killed.elapsed();
        let health = site.health().await?;
        crowd.leave().await;
        let of = format!("{:.2} s of it until the server was ready", served.as_secs_f64());
        line(&format!("{name}: kill to all current"), format!("{:.2} s", took.as_secs_f64()), &of);
        line(&format!("{name}: queries that load rows"), health.load_queries, "");
        line(&format!("{name}: rows read"), health.loaded_rows, "");
    }
    site.stop().await
}
