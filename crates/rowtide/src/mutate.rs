//! `rowtide mutate`: one mutation from the command line, and what became of it. What is confirmed is
//! printed as the server has it; a rejection is an error with its code.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use miette::{Result, miette};
use rowtide_client::{Client, Event, Op, Outcome, Row, Status};

use crate::client_args::{ClientArgs, read_ops};
use crate::dev::interrupted;
use crate::said::said;
use crate::terminal::{note, tell};

/// What to write.
#[derive(Args, Debug)]
pub(crate) struct MutateArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// How long to wait for the outcome
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    timeout: u64,
    /// An operation as JSON, or an array of them that are applied together
    #[arg(value_name = "JSON")]
    ops: String,
}

/// Sends a mutation and waits for its outcome: success if it was confirmed.
///
/// # Errors
/// When the operations cannot be read, or the server turns the client away for good.
pub(crate) async fn run(args: MutateArgs) -> Result<ExitCode> {
    let ops = read_ops(&args.ops)?;
    let kept = args.client.keeps();
    let mut client = args.client.connect("mutate").await?;
    let id = client.mutate(ops.clone()).map_err(said)?;
    let patience = Duration::from_secs(args.timeout);
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(patience, outcome(&mut client, id)) => outcome,
        () = interrupted() => return Ok(unacknowledged(client, kept).await),
    };
    let Ok(outcome) = outcome else { return Ok(unacknowledged(client, kept).await) };
    match outcome? {
        (Outcome::Applied, keys) => {
            for (place, op) in ops.iter().enumerate() {
                tell!("{}", confirmed(&client, op, keys.get(&place)));
            }
            client.close().await.map_err(said)?;
            Ok(ExitCode::SUCCESS)
        }
        (Outcome::Rejected { code, message }, _) => {
            note!("rejected ({code}): {message}");
            client.close().await.map_err(said)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Waits for the outcome of a mutation, with the keys that were made for it, and tells of the others that the queue still had.
async fn outcome(client: &mut Client, id: u64) -> Result<(Outcome, BTreeMap<usize, Row>)> {
    while let Some(event) = client.next().await {
        match event {
            Event::Acked(acked) if acked.id == id => return Ok((acked.outcome, acked.keys)),
            Event::Acked(acked) => match acked.outcome {
                Outcome::Applied => note!("an earlier mutation was confirmed"),
                Outcome::Rejected { code, message } => {
                    note!("an earlier mutation was rejected ({code}): {message}");
                }
            },
            Event::Status(Status::Offline { reason }) => note!("offline: {reason}"),
            Event::NotStored { reason } => note!("cannot store the mutation: {reason}"),
            Event::Stopped(error) => return Err(miette!("{error}")),
            Event::Changes(_)
            | Event::Status(_)
            | Event::Subscribed(_)
            | Event::SubscriptionRefused(_) => {}
        }
    }
    Err(miette!("the client has stopped"))
}

async fn unacknowledged(client: Client, kept: bool) -> ExitCode {
    if let Err(error) = client.close().await {
        note!("{error}");
    }
    if kept {
        note!("not acknowledged yet: it is kept in the queue, and sent by the next that uses it");
    } else {
        note!("not acknowledged: it may have been applied or not; with --queue it would be kept");
    }
    ExitCode::FAILURE
}

/// What the server has of the row that an operation was about, or the key that it made for it.
fn confirmed(client: &Client, op: &Op, made: Option<&Row>) -> String {
    let op = match op {
        Op::Row(op) => op,
        Op::Call(op) => return format!("{} called", op.name),
    };
    let replica = client.replica();
    match replica.get(&op.table, made.unwrap_or(&op.row)) {
        Some(row) => format!("{} put {}", op.table, serde_json::Value::from(row.clone())),
        None if made.is_some() || op.row.values().any(|value| value.get("$key").is_some()) => {
            let row = made.unwrap_or(&op.row).clone();
            format!("{} key {}", op.table, serde_json::Value::from(row))
        }
        None => {
            let keys = replica.key_columns(&op.table);
            let mut key = op.row.clone();
            key.retain(|column, _| keys.contains(column));
            format!("{} delete {}", op.table, serde_json::Value::from(key))
        }
    }
}
