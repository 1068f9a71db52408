//! Runs a target on mutated inputs for a budget. There is no instrumentation on stable Rust; instead the word that a
//! target says of an input stands for the way that it went, and an input that brings a new word is mutated further.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::mutate::mutate;
use crate::targets::Target;

/// The most inputs that are kept.
const CORPUS: usize = 4_096;

/// How long a target is run.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// The time; at least [`Budget::inputs`] are tried.
    pub time: Duration,
    /// So many are tried however long it takes.
    pub inputs: u64,
    /// What it is made of: the same seed tries the same inputs in the same order.
    pub seed: u64,
}

/// What a run has come to.
#[derive(Clone, Debug)]
pub struct Found {
    /// How many inputs were tried.
    pub inputs: u64,
    /// How many different things came of them.
    pub words: usize,
    /// An input that broke a promise, and how.
    pub broken: Option<(Vec<u8>, String)>,
}

/// Runs a target until the budget is used up, or until an input breaks it.
pub fn drive(target: &Target, budget: &Budget) -> Found {
    let mut rng = SmallRng::seed_from_u64(budget.seed);
    let mut corpus = (target.seeds)();
    let mut words: BTreeSet<String> = BTreeSet::new();
    let mut found = Found { inputs: 0, words: 0, broken: None };
    let began = Instant::now();
    let mut next = 0;
    while found.inputs < budget.inputs || began.elapsed() < budget.time {
        // The seeds come first, as they are.
        let input = if next < corpus.len() && found.inputs < corpus.len() as u64 {
            next += 1;
            corpus[next - 1].clone()
        } else {
            let seed = &corpus[rng.random_range(0..corpus.len())];
            let other = &corpus[rng.random_range(0..corpus.len())];
            mutate(&mut rng, seed, other, target.words)
        };
        found.inputs += 1;
        match catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            Ok(word) => {
                if words.insert(word) && corpus.len() < CORPUS {
                    corpus.push(input);
                }
            }
            Err(panic) => {
                let said = panic.downcast_ref::<String>().cloned();
                let said =
                    said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                found.broken = Some((input, said.unwrap_or_default()));
                break;
            }
        }
    }
    found.words = words.len();
    found
}

/// The time that `ROWTIDE_FUZZ_SECONDS` gives each target, or `otherwise`.
pub fn seconds(otherwise: Duration) -> Duration {
    let given = std::env::var("ROWTIDE_FUZZ_SECONDS").ok();
    given.and_then(|text| text.parse().ok()).map_or(otherwise, Duration::from_secs)
}
