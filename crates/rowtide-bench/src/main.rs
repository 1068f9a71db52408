//! `rowtide-bench`: how fast the server is, and how close to the limit. Every scenario makes a database of
//! its own in a private cluster, runs the server as another process, and measures beside it, in the same
//! run, what Postgres can do at most: `pgbench` committing the same statement, `pg_recvlogical` reading the
//! same WAL, `COPY` reading the same rows. What is printed is the ratio, since absolute numbers are of one
//! machine.

mod burst;
mod column;
mod connect;
mod crowd;
mod drain;
mod fanout;
mod idle;
mod mutate;
mod pipeline;
mod postgres_tools;
mod process;
mod restart;
mod resume;
mod rooms;
mod site;
mod snapshots;
mod subscribe;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use miette::{IntoDiagnostic, Result, miette};

use crate::site::Ground;

/// How fast the Rowtide server is, beside the limit that Postgres sets
#[derive(Parser, Debug)]
#[command(name = "rowtide-bench", version, disable_help_subcommand = true)]
struct Cli {
    /// Where the private PostgreSQL of the benchmarks is kept
    #[arg(long, default_value = ".rowtide-bench", value_name = "DIR", global = true)]
    dir: PathBuf,
    /// The server to measure [default: `rowtide` beside this program]
    #[arg(long, value_name = "PROGRAM", global = true)]
    server: Option<PathBuf>,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand, Debug)]
enum Scenario {
    /// Writers in SQL, sessions that see them: changes a second, and commit-to-client latency
    Fanout(fanout::FanoutArgs),
    /// A backlog of WAL, read to its end: beside pg_recvlogical
    Drain(drain::DrainArgs),
    /// What a transaction costs the server, stage by stage, with one session and with many
    Pipeline(pipeline::PipelineArgs),
    /// Clients that arrive at once: time until all are ready, and what that costs Postgres
    Connect(connect::ConnectArgs),
    /// A table gets a column: what it takes until every client has it, beside what they cost when they came
    Column(column::ColumnArgs),
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
    /// Clients that ask for the last messages of channels: until they have them, new messages, and other channels
    Subscribe(subscribe::SubscribeArgs),
    /// Sessions at which nothing happens: memory of the server
    Idle(idle::IdleArgs),
    /// People who edit documents together: pushes a second, latency, memory, and how long one takes to open
    Rooms(rooms::RoomsArgs),
}

fn main() -> ExitCode {
    allow_open_files();
    // Every library that uses TLS takes the provider that is installed first.
    drop(rustls::crypto::ring::default_provider().install_default());
    let ran = tokio::runtime::Builder::new_multi_thread().enable_all().build().into_diagnostic();
    match ran.and_then(|runtime| runtime.block_on(run(Cli::parse()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one scenario and prints what was measured.
async fn run(cli: Cli) -> Result<()> {
    let program = match cli.server {
        Some(program) => program,
        None => std::env::current_exe().into_diagnostic()?.with_file_name("rowtide"),
    };
    if !program.is_file() {
        return Err(miette!(
            help =
                "build it with `cargo build --release -p rowtide`, or name another with --server",
            "there is no server at `{}`",
            program.display()
        ));
    }
    let ground = Ground { dir: cli.dir, program };
    match cli.scenario {
        Scenario::Fanout(args) => fanout::run(&ground, &args).await,
        Scenario::Drain(args) => drain::run(&ground, &args).await,
        Scenario::Pipeline(args) => pipeline::run(&ground, &args).await,
        Scenario::Connect(args) => connect::run(&ground, &args).await,
        Scenario::Column(args) => column::run(&ground, &args).await,
        Scenario::Mutate(args) => mutate::run(&ground, &args).await,
        Scenario::Resume(args) => resume::run(&ground, &args).await,
        Scenario::Restart(args) => restart::run(&ground, &args).await,
        Scenario::Burst(args) => burst::run(&ground, &args).await,
        Scenario::Snapshots(args) => snapshots::run(&ground, &args).await,
        Scenario::Subscribe(args) => subscribe::run(&ground, &args).await,
        Scenario::Idle(args) => idle::run(&ground, &args).await,
        Scenario::Rooms(args) => rooms::run(&ground, &args).await,
    }
}

/// Every connection is an open file, and what is allowed at first is often but 1,024. The server inherits it.
fn allow_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // A scenario that needs more says so.
    let _unraised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
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
