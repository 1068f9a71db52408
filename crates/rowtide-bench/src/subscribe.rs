//! Clients that each ask for the last messages of a few channels: how long until all have them, what that costs, what it takes
//! to tell them of new messages, and how quickly one of them comes to another channel. Beside a switch the same query is asked
//! of Postgres by itself.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use miette::{IntoDiagnostic, Result, miette};
use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::crowd::{Crowd, Latency, hello, open, percentiles};
use crate::process::{cores_shown, cpu_time, peak_bytes, reset_peak, resident_bytes};
use crate::site::{Annex, Ground, Population, Site};
use crate::{check_open_files, line, progress};

/// Channels that nobody is subscribed to.
const QUIET: u32 = 400;
/// Channels that get new messages.
const HOT: u32 = 20;
/// Connections that write them.
const WRITERS: u32 = 4;
/// Rows of a window.
const WINDOW: u32 = 50;

#[derive(Args, Debug)]
pub(crate) struct SubscribeArgs {
    /// Clients
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// Channels that each is subscribed to
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    each: u32,
    /// Channels that somebody may be subscribed to
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(50..))]
    channels: u32,
    /// Messages of each channel
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// New messages a second, and for how many seconds
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// For how long there are new messages
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    seconds: u32,
}

const DEFINITION: &str = "
[tables.message]
sync = 'on_demand'
visible = 'true'
[queries.channel]
params = { channel = 'int4' }
[queries.channel.select]
message = { where = 'channel = params.channel', order = 'created_at DESC, id DESC', limit = 50 }
";

fn subscription(id: u32, channel: u32) -> Value {
    json!({ "id": id, "query": "channel", "params": { "channel": channel } })
}

pub(crate) async fn run(ground: &Ground, args: &SubscribeArgs) -> Result<()> {
    let SubscribeArgs { sessions, each, channels, messages, rate, seconds } = *args;
    check_open_files(sessions)?;
    let all = u64::from(channels + QUIET) * u64::from(messages);
    let tables = format!(
        "CREATE TABLE message (id bigint PRIMARY KEY, channel int NOT NULL, author text NOT NULL, body text NOT NULL,
                               created_at timestamptz NOT NULL DEFAULT clock_timestamp());
         CREATE INDEX ON message (channel, created_at, id);
         INSERT INTO message
           SELECT n, n % {} + 1, 'p' || n % 97, repeat('words ', 12), now() - n * interval '1 second'
           FROM generate_series(1, {all}) n;
         ANALYZE message;",
        channels + QUIET
    );
    let population = Population { people: sessions, viewers: 1, rows: 1 };
    let annex = Annex { tables: &tables, definition: DEFINITION };
    let mut site = Site::prepare_with(ground, population, annex).await?;
    site.serve().await?;
    let pid = site.pid()?;
    let (before, memory, cpu) = (site.health().await?, resident_bytes(pid), cpu_time(pid));
    reset_peak(pid);
    let mut hellos = Vec::new();
    for session in 0..sessions {
        let text = hello(site.secret(), session, &format!("bench-{session:08}"), None)?;
        let mut message: Value = serde_json::from_str(&text).into_diagnostic()?;
        // A channel is nobody's twice, since they come one after the other.
        let channel = |number: u32| (session * each + number) % channels + 1;
        message["subscriptions"] = (0..each).map(|n| subscription(n + 1, channel(n))).collect();
        hellos.push(message.to_string());
    }
    let (crowd, took) = Crowd::connect_saying(&site, hellos, usize::MAX >> 4, None).await?;
    let cpu = cores_shown(cpu, cpu_time(pid));
    let (after, held) = (site.health().await?, resident_bytes(pid));
    let (arrived, bytes) = (crowd.tally.rows(), crowd.tally.bytes());

    println!(
        "subscribe: {sessions} clients, {each} of {channels} channels each, {all} messages, the last {WINDOW}"
    );
    line(
        "until all are ready",
        format!("{:.2} s", took.as_secs_f64()),
        &format!("{arrived} rows, {} MB of messages", bytes >> 20),
    );
    line("queries that load rows", after.load_queries - before.load_queries, "");
    line("rows that were loaded", after.loaded_rows - before.loaded_rows, "");
    line("the server's time on the cores", cpu, "");
    if let (Some(memory), Some(held), Some(peak)) = (memory, held, peak_bytes(pid)) {
        let more = held.saturating_sub(memory);
        line(
            "the server's memory for them",
            format!("{} MB", more >> 20),
            &format!(
                "{} KB a client; {} MB at most",
                (more >> 10) / u64::from(sessions),
                peak >> 20
            ),
        );
    }
    tell(&site, &crowd, all, rate, seconds).await?;
    switch(&site, channels).await?;
    crowd.leave().await;
    site.stop().await
}

fn shown(latency: Option<Latency>) -> (String, String) {
    match latency {
        Some(Latency { p50_ms, p99_ms, samples }) => {
            (format!("{p50_ms:.2} / {p99_ms:.2} ms"), format!("p50 / p99 of {samples}"))
        }
        None => ("none".to_owned(), String::new()),
    }
}

/// New messages at a steady pace.
async fn tell(site: &Site, crowd: &Crowd, from: u64, rate: u32, seconds: u32) -> Result<()> {
    progress(&format!("{rate} new messages a second for {seconds} s"));
    let pid = site.pid()?;
    let (cpu, told) = (cpu_time(pid), crowd.tally.changes());
    crowd.tally.time();
    let begun = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let client = site.connect().await?;
        let count = u64::from(rate) * u64::from(seconds) / u64::from(WRITERS);
        writers.spawn(write(client, from + 1 + u64::from(writer) * count, count, rate / WRITERS));
    }
    while let Some(written) = writers.join_next().await {
        written.into_diagnostic()??;
    }
    let took = begun.elapsed();
    // What is under way still.
    let (mut last, mut quiet) = (0, 0);
    while quiet < 10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = crowd.tally.changes();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
    let changes = last - told;
    let (latency, samples) = shown(crowd.tally.latency());
    line("commit to client", latency, &samples);
    let pace = f64::from(rate) * f64::from(seconds) / took.as_secs_f64();
    line("new messages a second", format!("{pace:.0}/s"), &format!("{changes} changes told"));
    line("the server's time on the cores for that", cores_shown(cpu, cpu_time(pid)), "");
    Ok(())
}

async fn write(client: Client, first: u64, count: u64, rate: u32) -> Result<()> {
    let sql = "INSERT INTO message (id, channel, author, body) VALUES ($1, $2, 'p1', 'a new one')";
    let insert = client.prepare(sql).await.into_diagnostic()?;
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    for id in first..first + count {
        pace.tick().await;
        let channel = (id % u64::from(HOT)) as i32 + 1;
        client.execute(&insert, &[&(id as i64), &channel]).await.into_diagnostic()?;
    }
    Ok(())
}

/// One client goes from channel to channel.
async fn switch(site: &Site, channels: u32) -> Result<()> {
    progress("switching channels");
    let mut socket = open(site.address()?).await?;
    let text = hello(site.secret(), 0, "bench-switcher", None)?;
    socket.send(Message::Text(text.into())).await.into_diagnostic()?;
    let mut id = 0;
    let mut told = Vec::new();
    for (what, first, count) in
        [("that others have", channels / 2, QUIET / 2), ("that nobody has", channels, QUIET)]
    {
        let mut times = Vec::new();
        for channel in first + 1..=first + count {
            let begun = Instant::now();
            if id > 0 {
                let no_more = json!({ "type": "unsubscribe", "id": id }).to_string();
                socket.send(Message::Text(no_more.into())).await.into_diagnostic()?;
            }
            id += 1;
            let mut subscribe = subscription(id, channel);
            subscribe["type"] = "subscribe".into();
            socket.send(Message::Text(subscribe.to_string().into())).await.into_diagnostic()?;
            let subscribed = format!(r#""subscribed":[{id}]"#);
            loop {
                let message = socket.next().await.ok_or_else(|| miette!("it was cut off"))?;
                let Message::Text(text) = message.into_diagnostic()? else { continue };
                if text.contains(&subscribed) {
                    break;
                }
                if text.contains("_error\"") {
                    return Err(miette!("{}", text.as_str()));
                }
            }
            times.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
            // No faster than may be asked for.
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        told.push((what, percentiles(&mut times)));
    }
    let client = site.connect().await?;
    let sql = "SELECT id::text, channel::text, author, body, created_at::text FROM message
               WHERE channel = $1 ORDER BY created_at DESC, id DESC LIMIT 50";
    let bare = client.prepare(sql).await.into_diagnostic()?;
    let mut times = Vec::new();
    for channel in channels + 1..=channels + QUIET {
        let begun = Instant::now();
        client.query(&bare, &[&(channel as i32)]).await.into_diagnostic()?;
        times.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let bare = percentiles(&mut times);
    for (what, latency) in told {
        let (value, samples) = shown(latency);
        let ratio = match (latency, bare) {
            (Some(latency), Some(bare)) => latency.p50_ms / bare.p50_ms,
            _ => 0.0,
        };
        line(
            &format!("to a channel {what}"),
            value,
            &format!("{samples}; {ratio:.1} bare queries"),
        );
    }
    let (value, samples) = shown(bare);
    line("the same query by itself", value, &format!("{samples}; the limit"));
    Ok(())
}
