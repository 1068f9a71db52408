//! What a transaction costs the server, stage by stage. A backlog is drained twice, with one client and with
//! many, and what each of the server's threads used is divided by the transactions. The thread of the stream
//! has three stages (socket, decode, encode and route), which are told apart by running the very functions in this process
//! over the messages of the same backlog: what they do not take is the socket's.

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
    let time = |of: &Drained, name: &str| of.used.0.get(name).map_or(Duration::ZERO, |t| t.time);
    let us = |of: &Drained, name: &str| of.per_transaction_us(time(of, name));
    let print = |what: &str, columns: [String; 2]| {
        let [first, second] = columns;
        println!("  {what:<44} {first:>24}  {second:>24}");
    };
    let both = |shown: &dyn Fn(&Drained) -> String| [&one, &many].map(shown);
    let thread = |what: &str, name: &str| {
        let woken = |of: &Drained| {
            let times = of.used.0.get(name).map_or(0, |thread| thread.times);
            times as f64 / of.transactions as f64
        };
        print(what, both(&|of| format!("{:.1} ({:.2} wake-ups)", us(of, name), woken(of))));
    };
    print(
        "all of the server",
        both(&|of| format!("{:.1}", of.per_transaction_us(of.used.total()))),
    );
    // The stream's thread has three of the stages. What its functions take depends on the messages alone.
    let (decode, assemble) = (stages.us(stages.decode), stages.us(stages.assemble));
    thread("stream's thread: the next three", "stream");
    let socket = |of: &Drained| (us(of, "stream") - assemble).max(0.0);
    print("  socket: read, and handed on (what is left)", both(&|of| format!("{:.2}", socket(of))));
    print("  decode (run here over the same messages)", both(&|_| format!("{decode:.2}")));
    let encode = (assemble - decode).max(0.0);
    print("  encode and route, net changes (run here)", both(&|_| format!("{encode:.2}")));
    thread("log: written and made durable", "log");
    thread("engine: who sees it", "engine");
    thread("frames: made and sent; loads, HTTP", "sessions");
    let known = ["stream", "log", "engine", "sessions"];
    let others = |of: &Drained| {
        let known: Duration = known.iter().map(|name| time(of, name)).sum();
        of.per_transaction_us(of.used.total().saturating_sub(known))
    };
    print("the other threads", both(&|of| format!("{:.1}", others(of))));
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
    /// A part of it for each transaction, in microseconds.
    fn us(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.transactions
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
