//! Checks the optimistic layer against a model, in random runs of a client, a server and a bad connection.
//! After each step the client must show the server's rows as of its cursor with the pending mutations
//! applied one by one. In the end the server has acknowledged every mutation exactly once.
//! `ROWTIDE_SEED=n` plays one run, `ROWTIDE_HISTORIES=n` that many.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test")]

mod coverage;
mod run;
mod server;

use rand::Rng;
use rand::rngs::SmallRng;
use rowtide_client::{Op, row_of};
use serde_json::json;

use crate::run::ModelRun;

/// A write to one of few rows.
pub fn random_op(rng: &mut SmallRng) -> Op {
    let (table, mut row) = if rng.random_bool(0.7) {
        ("note", json!({"id": rng.random_range(0..6)}))
    } else {
        ("mark", json!({"note": rng.random_range(0..3), "person": rng.random_range(0..2)}))
    };
    let kind = rng.random_range(0..10);
    if kind < 8 {
        for column in ["text", "done"] {
            if rng.random_bool(0.6) {
                row[column] = json!(rng.random_range(0..100));
            }
        }
        if rng.random_bool(0.15) {
            row["owner"] = json!(["ann", "bob", "all"][rng.random_range(0..3)]);
        }
    }
    let row = row_of(&row).unwrap();
    match kind {
        0..5 => Op::insert(table, row),
        5..8 => Op::update(table, row),
        _ => Op::delete(table, row),
    }
}

#[test]
fn the_client_shows_the_base_with_the_pending_mutations_and_each_is_acknowledged_once() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("ROWTIDE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ROWTIDE_HISTORIES").unwrap_or(2_000),
    };
    let mut coverage = coverage::Coverage::default();
    let many = seeds.end - seeds.start >= 1_000;
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| ModelRun::new(seed).run());
        match std::panic::catch_unwind(run) {
            Ok(covered) => coverage.add(&covered),
            Err(panic) => {
                eprintln!("this run fails: ROWTIDE_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // The test proves nothing if the runs never come to the hard cases.
    println!("{coverage:?}");
    assert!(!many || coverage.all(), "{coverage:?}");
}
