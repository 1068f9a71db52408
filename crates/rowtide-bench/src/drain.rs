//! A backlog of WAL and how long it takes to read it. The server is held up with its sessions connected
//! while `pgbench` writes; `pg_recvlogical` reads a slot of its own to the end, and then the server,
//! let go, does the same: it decodes, routes, and delivers to those who may see. Postgres decodes on a core, and
//! the server and all clients share the others, so it is also said what these cores allow at most.

use std::time::{Duration, Instant};

use clap::Args;
use miette::{IntoDiagnostic, Result, miette};
use rustix::process::{Pid, Signal, kill_process};

use crate::crowd::Crowd;
use crate::postgres_tools::{Length, read_slot};
use crate::process::Used;
use crate::site::{Ground, Population, Site};
use crate::{check_open_files, line, progress};

/// The slot of `pg_recvlogical`.
const SLOT: &str = "bench_limit";
/// A slot that nobody reads: it still has the messages of the backlog when all is over.
pub(crate) const KEPT_SLOT: &str = "bench_messages";
const WRITERS: u32 = 8;

#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// Connected clients
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sessions: u32,
    /// How many of them see each change
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) viewers: u32,
    /// Transactions in the backlog, of one change each
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(8..))]
    pub(crate) transactions: u32,
}

/// What draining a backlog took.
pub(crate) struct Drained {
    /// Transactions of the backlog.
    pub(crate) transactions: u64,
    /// WAL of the backlog, in bytes.
    wal_bytes: u64,
    /// Changes that clients had to be told.
    expected: u64,
    /// How long `pg_recvlogical` read it.
    pub(crate) limit: Duration,
    /// Until the server's position was behind it.
    pub(crate) drained: Duration,
    /// Until all clients had their changes.
    pub(crate) delivered: Duration,
    /// What the server's threads did meanwhile.
    pub(crate) used: Used,
    /// How long Postgres' decoding for the server had a core.
    decoding: Duration,
    /// How long the clients, all of which are in this process, had one.
    clients: Duration,
}

pub(crate) async fn run(ground: &Ground, args: &DrainArgs) -> Result<()> {
    let DrainArgs { sessions, viewers, .. } = *args;
    let (site, drained) = drain(ground, args).await?;
    let megabytes = drained.wal_bytes as f64 / f64::from(1 << 20);
    let rate =
        |time: Duration| format!("{:.0}/s", drained.transactions as f64 / time.as_secs_f64());
    println!(
        "drain: {} transactions, {megabytes:.0} MB of WAL, {sessions} sessions, {viewers} see each change",
        drained.transactions
    );
    line(
        "pg_recvlogical",
        rate(drained.limit),
        &format!("transactions, in {:.2} s; the limit", drained.limit.as_secs_f64()),
    );
    line(
        "the server, decoded and routed",
        rate(drained.drained),
        &format!(
            "in {:.2} s; {:.2} of the limit",
            drained.drained.as_secs_f64(),
            drained.limit.as_secs_f64() / drained.drained.as_secs_f64()
        ),
    );
    line(
        "the server, delivered",
        rate(drained.delivered),
        &format!(
            "all {} changes, in {:.2} s; {:.2} of the limit",
            drained.expected,
            drained.delivered.as_secs_f64(),
            drained.ratio()
        ),
    );
    let used = drained.used.total();
    for (whose, time) in [
        ("the server", used),
        ("Postgres' decoding", drained.decoding),
        ("clients", drained.clients),
    ] {
        line(
            &format!("{whose}: time on the cores"),
            format!("{:.2} s", time.as_secs_f64()),
            &format!("{:.1} µs a transaction", drained.per_transaction_us(time)),
        );
    }
    let (cores, allowed) = drained.allowed();
    let beside =
        format!("of the limit, if nothing ever waited; reached: {:.2}", drained.ratio() / allowed);
    line(&format!("{cores} cores allow at most"), format!("{allowed:.2}"), &beside);
    site.stop().await
}

/// Makes a backlog while `sessions` clients are connected, and lets the server drain it.
pub(crate) async fn drain(ground: &Ground, args: &DrainArgs) -> Result<(Site, Drained)> {
    let DrainArgs { sessions, viewers, transactions } = *args;
    check_open_files(sessions)?;
    let mut site =
        Site::prepare(ground, Population { people: sessions, viewers, rows: 20 }).await?;
    site.serve().await?;
    let (crowd, _) = Crowd::connect(&site, sessions, 200).await?;
    let client = site.connect().await?;
    let create = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    for slot in [SLOT, KEPT_SLOT] {
        client.execute(create, &[&slot]).await.into_diagnostic()?;
    }

    let pid = site.pid()?;
    let process = Pid::from_raw(pid as i32).ok_or_else(|| miette!("the server has ended"))?;
    progress(&format!("writing {transactions} transactions while the server is held up"));
    let begin = site.wal_end().await?;
    kill_process(process, Signal::STOP).into_diagnostic()?;
    let length = Length::Transactions { of_each_writer: transactions / WRITERS };
    let written = site.write(WRITERS, length, None, false).await?;
    client.batch_execute("CHECKPOINT").await.into_diagnostic()?;
    let end = site.wal_end().await?;

    progress("reading it with pg_recvlogical");
    let publication = &site.names.publication;
    let limit = read_slot(site.cluster.binaries(), &site.url(), SLOT, publication, end).await?;

    progress("letting the server go");
    let expected = written.transactions * u64::from(viewers.min(sessions));
    let decodes = client
        .query_one(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1",
            &[&site.names.slot],
        )
        .await;
    let decodes: Option<i32> = decodes.into_diagnostic()?.get(0);
    let decodes = decodes.ok_or_else(|| miette!("nobody reads the server's slot"))?.unsigned_abs();
    let pids = [pid, decodes, std::process::id()];
    let before = pids.map(Used::by);
    let begun = Instant::now();
    kill_process(process, Signal::CONT).into_diagnostic()?;
    let position = async {
        while site.health().await?.position < Some(end) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, miette::Report>(begun.elapsed())
    };
    let delivered = async {
        let arrived = crowd.until(Duration::from_secs(120), |tally| tally.changes() >= expected);
        arrived.await.map(|()| begun.elapsed())
    };
    let (drained, delivered) = tokio::try_join!(position, delivered)?;
    let [mut used, mut decoding, mut clients] = pids.map(Used::by);
    for (after, before) in [&mut used, &mut decoding, &mut clients].into_iter().zip(&before) {
        *after = std::mem::take(after).since(before);
    }
    crowd.leave().await;
    let (wal_bytes, transactions) = (end.0 - begin.0, written.transactions);
    let (decoding, clients) = (decoding.total(), clients.total());
    let drained = Drained {
        transactions,
        wal_bytes,
        expected,
        limit,
        drained,
        delivered,
        used,
        decoding,
        clients,
    };
    Ok((site, drained))
}

impl Drained {
    /// How fast all was delivered, beside `pg_recvlogical`.
    pub(crate) fn ratio(&self) -> f64 {
        self.limit.as_secs_f64() / self.delivered.as_secs_f64()
    }

    /// How many cores there are, and how fast all would be delivered beside `pg_recvlogical` if everything that had to
    /// be done filled them without a gap: Postgres' decoding is one thread, so no faster than that.
    pub(crate) fn allowed(&self) -> (usize, f64) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let all = self.used.total() + self.decoding + self.clients;
        let fastest = self.decoding.max(all / cores as u32);
        (cores, self.limit.as_secs_f64() / fastest.as_secs_f64())
    }

    /// A part of the time for each transaction, in microseconds.
    pub(crate) fn per_transaction_us(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.transactions as f64
    }
}
