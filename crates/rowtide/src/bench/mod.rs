//! `rowtide bench`: how fast, and how close to the limit. Every scenario makes a database of its own in
//! a private cluster, runs the server as another process, and measures beside it, in the same run, what
//! Postgres can do at most: `pgbench` committing the same statement, `pg_recvlogical` reading the same
//! WAL, `COPY` reading the same rows. What is printed is the ratio, since absolute numbers are of one
//! machine.

mod burst;
mod connect;
mod crowd;
mod drain;
mod fanout;
mod idle;
mod mutate;
mod postgres_tools;
mod process;
mod restart;
mod resume;
mod site;
mod snapshots;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use miette::{Result, miette};

/// What to measure.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Where the private PostgreSQL of the benchmarks is kept
    #[arg(long, default_value = ".rowtide-bench", value_name = "DIR", global = true)]
    dir: PathBuf,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand, Debug)]
enum Scenario {
    /// Writers in SQL, sessions that see them: changes a second, and commit-to-client latency
    Fanout(fanout::FanoutArgs),
    /// A backlog of WAL, read to its end: beside pg_recvlogical
    Drain(drain::DrainArgs),
    /// Clients that arrive at once: time until all are ready, and what that costs Postgres
    Connect(connect::ConnectArgs),
    /// Clients that write: mutations a second, and send-to-ack latency
    Mutate(mutate::MutateArgs),
    /// Clients that were away for a stretch: what it takes to bring them up to date, beside snapshots
    Resume(resume::ResumeArgs),
    /// The server is killed and started with all clients at its door
    Restart(restart::RestartArgs),
    /// A transaction of very many rows, then very many of one: the most memory of the server
    Burst(burst::BurstArgs),
    /// A user of very many rows connects many times at once: what others notice, and memory
    Snapshots(snapshots::SnapshotsArgs),
    /// Sessions at which nothing happens: memory of the server
    Idle(idle::IdleArgs),
}

/// Runs one scenario and prints what was measured.
///
/// # Errors
/// When something does not start, or a client was not served.
pub async fn run(args: BenchArgs) -> Result<()> {
    match args.scenario {
        Scenario::Fanout(scenario) => fanout::run(&args.dir, &scenario).await,
        Scenario::Drain(scenario) => drain::run(&args.dir, &scenario).await,
        Scenario::Connect(scenario) => connect::run(&args.dir, &scenario).await,
        Scenario::Mutate(scenario) => mutate::run(&args.dir, &scenario).await,
        Scenario::Resume(scenario) => resume::run(&args.dir, &scenario).await,
        Scenario::Restart(scenario) => restart::run(&args.dir, &scenario).await,
        Scenario::Burst(scenario) => burst::run(&args.dir, &scenario).await,
        Scenario::Snapshots(scenario) => snapshots::run(&args.dir, &scenario).await,
        Scenario::Idle(scenario) => idle::run(&args.dir, &scenario).await,
    }
}

/// Clients and server each need a file for every session.
fn check_open_files(sessions: u32) -> Result<()> {
    const OTHERS: u64 = 100;
    let wanted = u64::from(sessions) + OTHERS;
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        Some(allowed) if allowed < wanted => Err(miette!(
            help = "raise it with `ulimit -Hn`, or ask for fewer sessions",
            "{sessions} sessions need {wanted} open files, and {allowed} are allowed"
        )),
        _ => Ok(()),
    }
}

/// One line of the result: what, how much, and beside what.
fn line(what: &str, value: impl std::fmt::Display, beside: &str) {
    println!("  {what:<44} {value:>14}  {beside}");
}

/// What is under way, for a person who waits.
fn progress(step: &str) {
    eprintln!("{step} …");
}
