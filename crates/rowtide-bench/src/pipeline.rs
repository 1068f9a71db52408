//! What a transaction costs the server, stage by stage. A backlog is drained twice, with one client and with
//! many, and what each of the server's threads used is divided by the transactions. The thread of the stream
//! has several stages, which are told apart by running the very functions in this process over the messages
//! of the same backlog.

use clap::Args;
use miette::{IntoDiagnostic, Result, miette};
use rowtide::application::fit;
use rowtide_plan::definition::Definition;
use rowtide_postgres::assemble::Assembler;
use rowtide_postgres::pgoutput::decode;
use rowtide_postgres::stream::MAX_TRANSACTION_BYTES;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use crate::drain::{DrainArgs, Drained, KEPT_SLOT, drain};
use crate::process::Thread;
use crate::site::{DEFINITION, Ground, Site};
use crate::{line, progress};

/// How often the stages are run over the same messages; the fastest counts, as the least disturbed.
const ROUNDS: usize = 5;
/// How many transactions are handed on together.
const BATCH: usize = 256;

#[derive(Args, Debug)]
pub(crate) struct PipelineArgs {
    /// Connected clients in the second part; the first has one
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// Transactions in the backlog, of one change each
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(8..))]
    transactions: u32,
}

pub(crate) async fn run(ground: &Ground, args: &PipelineArgs) -> Result<()> {
    let PipelineArgs { sessions, transactions } = *args;
    let part = |sessions| DrainArgs { sessions, viewers: 1, transactions };
    let (site, one) = drain(ground, &part(1)).await?;
    let stages = stages(&site).await?;
    site.stop().await?;
    let (site, many) = drain(ground, &part(sessions)).await?;
    site.stop().await?;

    println!(
        "pipeline: {} transactions; µs of a core for each, with 1 session and with {sessions}",
        one.transactions
    );
    let beside = |what: &str, of: &Drained, us: f64| match what {
        "" => format!("{us:.1}"),
        name => {
            let times = of.used.0.get(name).map_or(0, |thread| thread.times);
            format!("{us:.1} ({:.2} wake-ups)", times as f64 / of.transactions as f64)
        }
    };
    let row = |what: &str, name: &str, time: &dyn Fn(&Drained) -> Duration| {
        let [first, second] = [&one, &many].map(|of| {
            let time = time(of);
            beside(name, of, of.per_transaction_us(time))
        });
        println!("  {what:<44} {first:>24}  {second:>24}");
    };
    let of = |name: &'static str| {
        move |of: &Drained| of.used.0.get(name).map_or(Duration::ZERO, |t| t.time)
    };
    row("all of the server", "", &|of| of.used.total());
    row("stream: socket, decode, encode, hand on", "stream", &of("stream"));
    row("log: written and made durable", "log", &of("log"));
    row("engine: who sees it", "engine", &of("engine"));
    row("sessions: frames and sockets, loads, HTTP", "sessions", &of("sessions"));
    row("the other threads", "", &|drained| {
        let known = ["stream", "log", "engine", "sessions"].map(|name| of(name)(drained));
        drained.used.total().saturating_sub(known.iter().sum())
    });
    println!("  of the stream's thread, run in this process over the same messages:");
    let us = |time: Duration| format!("{:.2} µs", time.as_secs_f64() * 1e6 / stages.transactions);
    line("decode alone", us(stages.decode), "each message, borrowed from the bytes");
    line("decode, encode, route, net changes", us(stages.assemble), "whole transactions");
    let of_stream = one.used.0.get("stream").map_or(Duration::ZERO, |thread| thread.time);
    line(
        "so socket and handing on",
        format!("{:.2} µs", one.per_transaction_us(of_stream) - stages.assemble_us()),
        "what is left of the stream's thread, with 1 session",
    );
    for (sessions, part) in [(1, &one), (sessions, &many)] {
        line(
            &format!("delivered, with {sessions} sessions"),
            format!("{:.2}", part.ratio()),
            &format!("of pg_recvlogical; the cores allow {:.2}", part.allowed().1),
        );
    }
    Ok(())
}

/// What the functions of the stream's thread took over a backlog.
struct Stages {
    transactions: f64,
    decode: Duration,
    assemble: Duration,
}

impl Stages {
    fn assemble_us(&self) -> f64 {
        self.assemble.as_secs_f64() * 1e6 / self.transactions
    }
}

async fn stages(site: &Site) -> Result<Stages> {
    progress("running the stages over the same messages");
    let client = site.connect().await?;
    let sql = "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, \
               'proto_version', '1', 'publication_names', $2)";
    let rows = client.query(sql, &[&KEPT_SLOT, &site.names.publication]).await.into_diagnostic()?;
    let messages: Vec<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect();
    drop(rows);
    let definition = Definition::parse("bench.toml", DEFINITION)?;
    let (plan, _) = fit(&client, &definition).await?;
    let plan = Arc::new(plan);
    let (mut decoded, mut assembled) = (Duration::MAX, Duration::MAX);
    let mut transactions = 0;
    for _ in 0..ROUNDS {
        let begun = Thread::current();
        for message in &messages {
            black_box(decode(message).into_diagnostic()?);
        }
        decoded = decoded.min(Thread::current().time - begun.time);
        let schema = site.names.schema.clone();
        let mut assembler = Assembler::new(Arc::clone(&plan), schema, MAX_TRANSACTION_BYTES);
        let mut events = Vec::with_capacity(BATCH);
        transactions = 0;
        let begun = Thread::current();
        for message in &messages {
            assembler.message(message, &mut events).into_diagnostic()?;
            // As many as are handed on together, and let go in the end.
            if events.len() == BATCH {
                transactions += events.len();
                black_box(&events);
                events.clear();
            }
        }
        transactions += events.len();
        assembled = assembled.min(Thread::current().time - begun.time);
    }
    if transactions == 0 {
        return Err(miette!("the slot has no transaction"));
    }
    Ok(Stages { transactions: transactions as f64, decode: decoded, assemble: assembled })
}
