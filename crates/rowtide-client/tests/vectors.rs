//! Plays the scenarios that every client must pass, in whatever language it is written. The files are
//! described in `clients/vectors/README.md`.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rowtide_client::{Acked, Op, Optimistic, Outcome, RowChange};
use rowtide_protocol::{ServerMessage, inflate};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Scenario {
    about: String,
    steps: Vec<ScenarioStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioStep {
    receive: Option<Value>,
    deflated: Option<String>,
    mutate: Option<Vec<Op>>,
    disconnect: Option<bool>,
    #[serde(default)]
    changes: Vec<Value>,
    #[serde(default)]
    acked: Vec<Value>,
    #[serde(default)]
    sends: Vec<u64>,
    shown: Option<Shown>,
    pending: Option<Vec<u64>>,
}

type Shown = BTreeMap<String, Vec<Value>>;

#[derive(Debug, PartialEq)]
struct Observed {
    changes: Vec<Value>,
    acked: Vec<Value>,
    sends: Vec<u64>,
    shown: Shown,
    pending: Vec<u64>,
}

/// Sorts values by their JSON, since their order does not matter.
fn sorted(mut values: Vec<Value>) -> Vec<Value> {
    values.sort_by_key(Value::to_string);
    values
}

fn change_value(change: RowChange) -> Value {
    match change {
        RowChange::Put { table, row } => json!({"op": "put", "table": table, "row": row}),
        RowChange::Delete { table, key } => json!({"op": "delete", "table": table, "row": key}),
    }
}

fn acked_value(acked: Acked) -> Value {
    match acked.outcome {
        Outcome::Applied => json!({"id": acked.id}),
        Outcome::Rejected { code, .. } => json!({"id": acked.id, "code": code}),
    }
}

fn play(client: &mut Optimistic, step: &ScenarioStep) -> Observed {
    let (changes, acked) = match step {
        ScenarioStep { receive: Some(message), .. } => {
            let message = ServerMessage::parse(&message.to_string()).unwrap();
            let step = client.apply(&message).unwrap();
            (step.changes, step.acked)
        }
        ScenarioStep { deflated: Some(frame), .. } => {
            let frame = BASE64_STANDARD.decode(frame).unwrap();
            let message = ServerMessage::parse(&inflate(&frame, 1 << 20).unwrap()).unwrap();
            let step = client.apply(&message).unwrap();
            (step.changes, step.acked)
        }
        ScenarioStep { mutate: Some(ops), .. } => {
            (client.mutate(ops.clone()).unwrap().1, Vec::new())
        }
        ScenarioStep { disconnect, .. } => {
            assert_eq!(*disconnect, Some(true), "a step that does nothing");
            client.disconnected();
            (Vec::new(), Vec::new())
        }
    };
    client.stored(usize::MAX);
    client.outcomes_stored(usize::MAX);
    let sends = std::iter::from_fn(|| client.next_to_send(100)).map(|sent| sent.number).collect();
    let rows = |table: &str| client.rows(table).cloned().map(Value::Object).collect();
    Observed {
        changes: sorted(changes.into_iter().map(change_value).collect()),
        acked: acked.into_iter().map(acked_value).collect(),
        sends,
        shown: client.tables().map(|table| (table.to_owned(), sorted(rows(table)))).collect(),
        pending: client.pending().collect(),
    }
}

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/vectors");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_scenario_shows_what_it_says_after_every_step() {
    let files = files();
    assert!(files.len() >= 10, "the scenarios are not found");
    for file in files {
        let scenario: Scenario = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let mut client = Optimistic::new("client-1".to_owned());
        let (mut shown, mut pending) = (Shown::new(), Vec::new());
        for (index, step) in scenario.steps.iter().enumerate() {
            if let Some(now) = &step.shown {
                let now = now.iter();
                shown = now.map(|(table, rows)| (table.clone(), sorted(rows.clone()))).collect();
            }
            pending = step.pending.clone().unwrap_or(pending);
            let expected = Observed {
                changes: sorted(step.changes.clone()),
                acked: step.acked.clone(),
                sends: step.sends.clone(),
                shown: shown.clone(),
                pending: pending.clone(),
            };
            let place = format!("{}: {}: step {}", file.display(), scenario.about, index + 1);
            assert_eq!(play(&mut client, step), expected, "{place}");
        }
    }
}
