//! Clients that write: first `pgbench` running the very statements that a mutation becomes, in one
//! pipeline a transaction and with as many connections; then clients with one mutation in flight each,
//! and with as many as they may have; then one client by itself for the latency. A mutation counts
//! when its acknowledgement has come back through the stream.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use miette::{IntoDiagnostic, Result, miette};
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::write::{self, Param};
use rowtide_postgres::mutate::BEGIN;
use rowtide_protocol::OpKind;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::crowd::{Latency, hello, open, percentiles};
use crate::postgres_tools::{Length, Pgbench, Written, script};
use crate::process::{cores_shown, cpu_time};
use crate::site::{DEFINITION, Ground, Population, Site};
use crate::{line, progress};
use rowtide::application::fit;

/// How many mutations a client has in flight when it sends as many as it may.
const WINDOW: u64 = 100;
/// Items of each person.
const ROWS: u32 = 20;

#[derive(Args, Debug)]
pub(crate) struct MutateArgs {
    /// Clients, and connections of pgbench
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Length of each part, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// One part of the run.
struct Part {
    mutations: u64,
    took: Duration,
    latency: Latency,
    cores: String,
}

impl Part {
    fn a_second(&self) -> f64 {
        self.mutations as f64 / self.took.as_secs_f64()
    }
}

pub(crate) async fn run(ground: &Ground, args: &MutateArgs) -> Result<()> {
    let MutateArgs { clients, seconds } = *args;
    let population = Population { people: clients, viewers: 1, rows: ROWS };
    let mut site = Site::prepare(ground, population).await?;
    let time = Duration::from_secs(seconds);
    let same = same_statements(&site, &ground.dir, clients).await?;
    progress(&format!("pgbench with {clients} connections for {seconds} s"));
    let limit = pgbench(&site, &same, clients, time).await?;
    progress(&format!("pgbench with one connection for {seconds} s"));
    let single_limit = pgbench(&site, &same, 1, time).await?;
    site.serve().await?;
    progress(&format!("{clients} clients, one mutation in flight each, for {seconds} s"));
    let each = part(&site, clients, 1, time).await?;
    progress(&format!("{clients} clients, {WINDOW} in flight each, for {seconds} s"));
    let many = part(&site, clients, WINDOW, time).await?;
    progress(&format!("one client, one mutation in flight, for {seconds} s"));
    let single = part(&site, 1, 1, time).await?;

    println!("mutate: {clients} clients, each with rows of its own, {seconds} s each");
    let latency = |latency: &Latency| format!("{:.2} / {:.2} ms", latency.p50_ms, latency.p99_ms);
    line(
        "pgbench, the same statements in one pipeline",
        format!("{:.0}/s", limit.commits_a_second),
        &format!("transactions, {:.2} ms each; the limit", limit.latency_ms),
    );
    for (what, part) in [("one in flight each", &each), ("100 in flight each", &many)] {
        line(
            &format!("{what}: acknowledged"),
            format!("{:.0}/s", part.a_second()),
            &format!(
                "{:.2} of the limit; the server had a core for {}",
                part.a_second() / limit.commits_a_second,
                part.cores
            ),
        );
        line(&format!("{what}: send to ack p50 / p99"), latency(&part.latency), "");
    }
    line(
        "pgbench, one connection",
        format!("{:.2} ms", single_limit.latency_ms),
        "a transaction; the limit",
    );
    line(
        "one client: send to ack p50 / p99",
        latency(&single.latency),
        &format!("{:.2} times the limit", single.latency.p50_ms / single_limit.latency_ms),
    );
    site.stop().await
}

/// The script of what one mutation of one row is in Postgres.
async fn same_statements(site: &Site, dir: &Path, clients: u32) -> Result<std::path::PathBuf> {
    let client = site.connect().await?;
    let schema = &site.names.schema;
    let rows = format!(
        "INSERT INTO {schema}.client (client_id, user_id) \
         SELECT 'pgbench-' || n, 'p' || n FROM generate_series(0, {clients}) n"
    );
    client.batch_execute(&rows).await.into_diagnostic()?;
    let definition = Definition::parse("bench.toml", DEFINITION)?;
    let (plan, _) = fit(&client, &definition).await?;
    let table = plan.table_id("public", "item").ok_or_else(|| miette!("no table `item`"))?;
    let columns: Vec<usize> = ["id", "stars"]
        .iter()
        .filter_map(|column| plan.table(table).catalog.column(column))
        .collect();
    let lock = write::lock(&plan, table, OpKind::Update);
    let update = write::write(&plan, table, OpKind::Update, &columns);
    let begin = BEGIN.replace("; ", ";\n");
    let text = format!(
        "\\set id random(1, :items)\n\\set p (:id - 1) / {ROWS} + 1\n\\set stars random(1, 1000000)\n\
         \\startpipeline\n{begin};\n\
         UPDATE {schema}.client SET last_mutation = last_mutation + 1, refused = NULL, name = NULL \
         WHERE client_id = 'pgbench-' || :client_id AND user_id = 'p' || :client_id \
         RETURNING last_mutation, {};\n{};\n{};\nCOMMIT;\n\\endpipeline\n",
        write::GO_ON,
        with_variables(&plan, table, &lock).replace('\n', " "),
        with_variables(&plan, table, &update).replace('\n', " "),
    );
    script(dir, "mutation.sql", &text)
}

/// Parameters as pgbench's variables; from the last, since `$1` is the beginning of `$10`.
fn with_variables(plan: &Plan, table: TableId, statement: &write::Statement) -> String {
    let mut sql = statement.sql.clone();
    for (index, param) in statement.params.iter().enumerate().rev() {
        let variable = match param {
            Param::Value(column) => {
                format!(":{}", plan.table(table).catalog.columns[*column].name)
            }
            Param::Claim(..) => "('p' || :p)".to_owned(),
        };
        sql = sql.replace(&format!("${}::", index + 1), &format!("{variable}::"));
    }
    sql
}

async fn pgbench(site: &Site, script: &Path, writers: u32, time: Duration) -> Result<Written> {
    let url = site.url();
    let variables = [("items", site.population.items())];
    let run = Pgbench {
        binaries: site.cluster.binaries(),
        url: &url,
        script,
        writers,
        length: Length::Time(time),
        rate: None,
        variables: &variables,
        durable: true,
    };
    run.run().await
}

async fn part(site: &Site, clients: u32, window: u64, time: Duration) -> Result<Part> {
    let address = site.address()?;
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let mut writers = JoinSet::new();
    let pid = site.pid()?;
    let (cpu, begun) = (cpu_time(pid), Instant::now());
    for person in 0..clients {
        let name = format!("writer-{window}-{clients}-{person}");
        let hello = hello(site.secret(), person, &name, None)?;
        let latencies = Arc::clone(&latencies);
        writers.spawn(async move {
            let all = writes(address, hello, person, window, begun + time).await?;
            latencies.lock().unwrap_or_else(PoisonError::into_inner).extend(all);
            Ok::<(), miette::Report>(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written.into_diagnostic()??;
    }
    let took = begun.elapsed();
    let cores = cores_shown(cpu, cpu_time(pid));
    let mut all = latencies.lock().unwrap_or_else(PoisonError::into_inner);
    let latency = percentiles(&mut all).ok_or_else(|| miette!("nothing was acknowledged"))?;
    Ok(Part { mutations: all.len() as u64, took, latency, cores })
}

/// One client that writes until the time is over and all is acknowledged: the microseconds that each
/// mutation took.
async fn writes(
    address: SocketAddr,
    hello: String,
    person: u32,
    window: u64,
    until: Instant,
) -> Result<Vec<u32>> {
    let mut socket = open(address).await?;
    socket.send(Message::Text(hello.into())).await.into_diagnostic()?;
    let mut took = Vec::new();
    let mut sent: std::collections::VecDeque<Instant> = std::collections::VecDeque::new();
    let (mut next, mut acked, mut live) = (1_u64, 0_u64, false);
    loop {
        while live && next - acked <= window && Instant::now() < until {
            let id = u64::from(person) * u64::from(ROWS) + next % u64::from(ROWS) + 1;
            let text = format!(
                r#"{{"type":"mutate","id":{next},"ops":[{{"op":"update","table":"item","row":{{"id":{id},"stars":{next}}}}}]}}"#
            );
            sent.push_back(Instant::now());
            socket.feed(Message::Text(text.into())).await.into_diagnostic()?;
            next += 1;
        }
        socket.flush().await.into_diagnostic()?;
        if live && sent.is_empty() {
            return Ok(took);
        }
        let message = socket.next().await.ok_or_else(|| miette!("the connection ended"))?;
        let Message::Text(text) = message.into_diagnostic()? else { continue };
        if text.starts_with(r#"{"type":"ready""#) {
            live = true;
        }
        if text.starts_with(r#"{"type":"error""#) || text.starts_with(r#"{"type":"reject""#) {
            return Err(miette!("{}", text.as_str()));
        }
        let Some((_, ack)) = text.split_once(r#""ack":"#) else { continue };
        let digits = ack.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let ack: u64 = digits.parse().into_diagnostic()?;
        while acked < ack {
            acked += 1;
            if let Some(at) = sent.pop_front() {
                took.push(u32::try_from(at.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
        }
    }
}
