//! The programs of Postgres that show its limit: `pgbench`, which commits as fast as it can, and
//! `pg_recvlogical`, which reads what a slot has as fast as it can.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use miette::{Context, IntoDiagnostic, Result, miette};
use rowtide_protocol::Lsn;
use tokio::process::Command;

/// How long a program may take beyond what it was asked for.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long `pgbench` writes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    Time(Duration),
    Transactions { of_each_writer: u32 },
}

/// One run of `pgbench`.
#[derive(Debug)]
pub(crate) struct Pgbench<'a> {
    pub(crate) binaries: &'a Path,
    pub(crate) url: &'a str,
    pub(crate) script: &'a Path,
    pub(crate) writers: u32,
    pub(crate) length: Length,
    /// Commits a second at the most.
    pub(crate) rate: Option<u32>,
    /// Values of the script's variables.
    pub(crate) variables: &'a [(&'a str, u64)],
    /// Whether a commit is on disk when it is confirmed.
    pub(crate) durable: bool,
}

/// What `pgbench` says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) transactions: u64,
    pub(crate) commits_a_second: f64,
    /// Of one commit, with the round trip.
    pub(crate) latency_ms: f64,
}

impl Pgbench<'_> {
    pub(crate) async fn run(&self) -> Result<Written> {
        let mut command = Command::new(self.binaries.join("pgbench"));
        command.args(["-n", "-M", "prepared", "-j", "1", "-c"]).arg(self.writers.to_string());
        match self.length {
            Length::Time(time) => command.arg("-T").arg(time.as_secs().max(1).to_string()),
            Length::Transactions { of_each_writer } => {
                command.arg("-t").arg(of_each_writer.to_string())
            }
        };
        if let Some(rate) = self.rate {
            command.arg("-R").arg(rate.to_string());
        }
        for (name, value) in self.variables {
            command.arg("-D").arg(format!("{name}={value}"));
        }
        command.arg("-f").arg(self.script).arg(self.url);
        if !self.durable {
            command.env("PGOPTIONS", "-c synchronous_commit=off");
        }
        let said = output(command, "pgbench").await?;
        let number = |label: &str| -> Result<f64> {
            said.lines()
                .find_map(|line| line.strip_prefix(label))
                .and_then(|rest| rest.trim().split([' ', '/']).next()?.parse().ok())
                .ok_or_else(|| miette!("pgbench did not say `{label}`:\n{said}"))
        };
        Ok(Written {
            transactions: number("number of transactions actually processed:")? as u64,
            commits_a_second: number("tps =")?,
            latency_ms: number("latency average =")?,
        })
    }
}

/// How long `pg_recvlogical` takes to read a slot up to `end`, with the same plugin and options as the
/// server.
pub(crate) async fn read_slot(
    binaries: &Path,
    url: &str,
    slot: &str,
    publication: &str,
    end: Lsn,
) -> Result<Duration> {
    let mut command = Command::new(binaries.join("pg_recvlogical"));
    command.arg("--dbname").arg(url).arg("--slot").arg(slot).arg("--endpos").arg(end.to_string());
    command.args(["--start", "--no-loop", "--file", "/dev/null", "-o", "proto_version=1", "-o"]);
    command.arg(format!("publication_names={publication}"));
    let begun = Instant::now();
    output(command, "pg_recvlogical").await?;
    Ok(begun.elapsed())
}

async fn output(mut command: Command, program: &str) -> Result<String> {
    let ran = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, ran)
        .await
        .map_err(|_| miette!("{program} did not end"))?
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot run {program}; it comes with PostgreSQL's server"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(miette!("{program} failed: {}", said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes a script of `pgbench` into `dir`.
pub(crate) fn script(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    std::fs::write(&path, text).into_diagnostic().wrap_err("cannot write pgbench's script")?;
    Ok(path)
}
