//! Every target is fuzzed for a moment with every test run, for as long as `ROWTIDE_FUZZ_SECONDS` says where it is
//! set, and with the seed of `ROWTIDE_SEED`. An input that breaks something is written to `target/fuzz`.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use rowtide_targets::{Budget, all, drive, seconds};

/// Without a budget of time.
const INPUTS: u64 = 2_000;

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("{name}.input"));
    std::fs::write(&path, input).unwrap();
    path
}

#[test]
fn no_input_breaks_a_target() {
    let seed = std::env::var("ROWTIDE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    let budget = Budget { time: seconds(Duration::ZERO), inputs: INPUTS, seed };
    let targets = all();
    let runs = std::thread::scope(|scope| {
        let running: Vec<_> = targets
            .iter()
            .map(|target| (target.name, scope.spawn(move || drive(target, &budget))))
            .collect();
        running.into_iter().map(|(name, run)| (name, run.join().unwrap())).collect::<Vec<_>>()
    });
    let mut broken = Vec::new();
    for (name, found) in runs {
        println!("{name}: {} inputs, {} outcomes", found.inputs, found.words);
        assert!(found.words > 3, "{name} says nothing of its inputs");
        if let Some((input, said)) = found.broken {
            let path = keep(name, &input);
            broken.push(format!(
                "{name}: {said}\n  {}\n  kept in {}",
                input.escape_ascii(),
                path.display()
            ));
        }
    }
    assert!(broken.is_empty(), "seed {seed}\n{}", broken.join("\n"));
}

/// The driver finds what is there to be found: a target with a fault that takes three steps to come to.
#[test]
fn the_driver_goes_on_from_what_is_new() {
    let target = rowtide_targets::Target {
        name: "guess",
        words: &[],
        seeds: || vec![b"seed".to_vec()],
        run: |bytes| {
            let right = bytes.iter().zip(b"open").take_while(|(a, b)| a == b).count();
            assert!(right < 4, "it is open");
            right.to_string()
        },
    };
    let budget = Budget { time: Duration::from_secs(60), inputs: 1, seed: 1 };
    let found = drive(&target, &budget);
    assert!(found.broken.is_some(), "{found:?}");
}
