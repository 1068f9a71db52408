//! One user with very many rows, who connects on many devices at once: what others notice of it whose rows
//! change meanwhile, and how much memory the server takes. What counts is how much later the others are told
//! than at rest.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use miette::{IntoDiagnostic, Result, miette};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::crowd::{Crowd, Latency, hello, open};
use crate::postgres_tools::Length;
use crate::process::{peak_bytes, reset_peak, resident_bytes};
use crate::site::{Ground, Population, Site};
use crate::{line, progress};

/// How many others there are.
const OTHERS: u32 = 20;
/// Rows that they and the one have anyway; these are changed.
const ROWS: u32 = 20;
/// Changes a second.
const RATE: u32 = 200;
/// Connections that make them. They wait for the disk with each, as the stream brings only what is flushed: without,
/// it would be Postgres' delay that is measured.
const WRITERS: u32 = 4;

#[derive(Args, Debug)]
pub(crate) struct SnapshotsArgs {
    /// How many rows the one user has, in thousands
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    thousand_rows: u32,
    /// How often they connect at once
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..))]
    connects: u32,
    /// For how long others are watched before, and at least while it happens
    #[arg(long, default_value_t = 15, value_name = "SECONDS")]
    seconds: u32,
}

pub(crate) async fn run(ground: &Ground, args: &SnapshotsArgs) -> Result<()> {
    let SnapshotsArgs { thousand_rows, connects, seconds } = *args;
    let population = Population { people: OTHERS, viewers: 1, rows: ROWS };
    let mut site = Site::prepare(ground, population).await?;
    // A person who is none of the others, so that what these are told is not for them.
    let one = OTHERS + 1;
    let rows = u64::from(thousand_rows) * 1_000;
    let fill = format!(
        "INSERT INTO member VALUES ({one}, 'p{one}');
         INSERT INTO item (id, room, title, author)
           SELECT 1000000 + n, {one}, 'Item ' || n, 'p{one}' FROM generate_series(1, {rows}) n;"
    );
    site.connect().await?.batch_execute(&fill).await.into_diagnostic()?;
    site.serve().await?;
    let pid = site.pid()?;
    let (others, _) = Crowd::connect(&site, OTHERS, usize::MAX >> 4).await?;

    progress("watching the others at rest");
    others.tally.time();
    let length = || Length::Time(Duration::from_secs(seconds.into()));
    site.write(WRITERS, length(), Some(RATE), true).await?;
    let at_rest = others.tally.latency();
    others.leave().await;

    let (others, _) = Crowd::connect(&site, OTHERS, usize::MAX >> 4).await?;
    progress("connecting the one user");
    let before = resident_bytes(pid);
    reset_peak(pid);
    others.tally.time();
    let began = Instant::now();
    // On a thread of their own: what they read must not hold up what is measured.
    let mut hellos = Vec::new();
    for device in 0..connects {
        hellos.push(hello(site.secret(), one - 1, &format!("device-{device:08}"), None)?);
    }
    let address = site.address()?;
    let devices = tokio::task::spawn_blocking(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().into_diagnostic()?;
        runtime.block_on(connect(address, hellos, rows))
    });
    let write = site.write(WRITERS, length(), Some(RATE), true);
    let (took, written) = tokio::join!(devices, write);
    written?;
    let took = took.into_diagnostic()??.saturating_duration_since(began);
    let (meanwhile, peak) = (others.tally.latency(), peak_bytes(pid));
    others.leave().await;

    let megabytes = |bytes: Option<u64>| {
        bytes.map_or_else(|| "not known".to_owned(), |bytes| format!("{} MB", bytes >> 20))
    };
    let shown = |latency: Option<Latency>| match latency {
        Some(Latency { p50_ms, p99_ms, samples }) => {
            (format!("{p50_ms:.1} / {p99_ms:.1} ms"), format!("p50 / p99 of {samples}"))
        }
        None => ("none".to_owned(), String::new()),
    };
    println!("snapshots: {connects} connects at once of one user with {rows} rows");
    line("until all have their rows", format!("{:.1} s", took.as_secs_f64()), "");
    for (what, latency) in [("at rest", at_rest), ("meanwhile", meanwhile)] {
        let (value, beside) = shown(latency);
        line(&format!("commit to the others, {what}"), value, &beside);
    }
    line("the server's memory before", megabytes(before), "");
    line("at most", megabytes(peak), "");
    site.stop().await
}

/// Connects at once until all devices have their rows; returns when that was.
async fn connect(address: SocketAddr, hellos: Vec<String>, rows: u64) -> Result<Instant> {
    let mut devices = JoinSet::new();
    for hello in hellos {
        devices.spawn(async move {
            let mut socket = open(address).await?;
            socket.send(Message::Text(hello.into())).await.into_diagnostic()?;
            let mut arrived = 0;
            while let Some(message) = socket.next().await {
                let Message::Text(text) = message.into_diagnostic()? else { continue };
                if text.starts_with(r#"{"type":"snapshot","#) {
                    arrived += text.matches(r#"{"id":"#).count() as u64;
                } else if text.starts_with(r#"{"type":"ready""#) {
                    return match arrived == rows {
                        true => Ok(socket),
                        false => Err(miette!("{arrived} of {rows} rows arrived")),
                    };
                } else if text.starts_with(r#"{"type":"error""#) {
                    return Err(miette!("{text}"));
                }
            }
            Err(miette!("a device was cut off"))
        });
    }
    let mut sockets = Vec::new();
    let all = async {
        while let Some(socket) = devices.join_next().await {
            sockets.push(socket.into_diagnostic()??);
        }
        Ok(Instant::now())
    };
    let ended: Result<Instant> = tokio::time::timeout(Duration::from_secs(600), all)
        .await
        .map_err(|_| miette!("not all devices had their rows in time"))?;
    drop(sockets);
    ended
}
