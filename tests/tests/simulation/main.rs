//! Whole deployments, simulated: engines, the log's rules, the protocol's frames and the client's state
//! machine are the real ones or follow them; time, the network, the disk and Postgres are made up, and
//! everything that goes wrong with them comes from one seed. After every step each client's replica is what
//! its rules select at its cursor, and what it holds as settled is so in the database, once; after every
//! storm everyone comes to rest with the last commit.
//!
//! A quarter as many deployments have a document of a row that people edit.
//!
//! `ROWTIDE_SIMULATIONS` sets how many deployments are run, `ROWTIDE_SEED` runs a single one and prints its
//! course.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test")]

mod breaks;
mod checks;
mod client;
mod crowd;
mod data;
mod disk;
mod documents;
mod engines;
mod fairness;
mod faults;
mod feed;
mod log;
mod migrations;
mod mutations;
mod network;
mod older;
mod postgres;
mod replicator;
mod rules;
mod server;
mod sessions;
mod speaker;
mod sql;
mod stream;
mod subscribing;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::checks::Seen;
use crate::documents::Papers;
use crate::world::World;

/// What must have happened in two thousand deployments, or they say nothing of it.
const IMPORTANT: [&str; 79] = [
    "subscriptions that came",
    "subscriptions that come back",
    "columns added while no server ran",
    "floods of mutations",
    "mutations that wait for others'",
    "storms at rest",
    "views of a storm",
    "mutations of older clients",
    "mutations of older clients that a stop has found",
    "goodbyes to older clients",
    "outcomes that tabs had missed",
    "outcomes that wait for a row",
    "notes of what tabs have heard",
    "storms of connects",
    "rates that are passed",
    "mutations that a newer connection sends again",
    "slow engines",
    "claims of an epoch before",
    "client crashes",
    "clients that were forgotten",
    "columns added or dropped",
    "columns renamed and back at once",
    "columns renamed",
    "columns that rules need dropped",
    "cut connections",
    "databases left as they are",
    "databases mended",
    "dropped slots",
    "epochs",
    "failed loads",
    "gaps",
    "half-closed connections",
    "histories that are not known",
    "killed servers",
    "kills with a torn tail",
    "loads that are not permitted",
    "loads that do not fit their tables",
    "loads that wait for a lock",
    "log_behind",
    "logs taken up",
    "looks of a standby",
    "lost answers to a commit",
    "lost slots",
    "migrations that wait",
    "mutations interrupted",
    "mutations of a table that does not fit",
    "mutations of what is not there",
    "operations left out of the publication",
    "other_database",
    "other_tables",
    "other_transactions",
    "privileges taken or given",
    "publication_changed",
    "publications dropped",
    "repeated mutations",
    "replays",
    "replica identities altered",
    "resets",
    "restarts of Postgres",
    "resumes",
    "row filters",
    "row-level security switched",
    "shapes that do not fit",
    "slow clients",
    "snapshots in place of older rows",
    "stalls of a standby",
    "stopped servers",
    "tables that cannot be looked at",
    "tables with more columns and no epoch",
    "streams held up",
    "streams without a publication",
    "stops with mutations in flight",
    "stops with the log held up",
    "table_replaced",
    "tables made anew",
    "tables renamed",
    "tables swapped",
    "tables taken out of the publication",
    "types altered",
];

/// The same of five hundred with documents.
const OF_DOCUMENTS: [&str; 16] = [
    "changes while a room is opened",
    "cut sockets of documents",
    "documents of killed servers",
    "documents of stopped servers",
    "documents that came to rest",
    "documents that were deleted",
    "documents that were saved",
    "edits of readers",
    "edits that were not flushed",
    "edits that were refused",
    "edits that were replayed",
    "people who may do something else",
    "people who were sent away",
    "questions that were not answered",
    "rooms that fell asleep",
    "standings that stayed unknown",
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs deployments with these seeds, two at a time; what was seen in all of them.
fn run_all(count: u64, deployment: impl Fn(u64) -> Seen + Sync) -> Seen {
    let next = AtomicU64::new(0);
    let run = || {
        let mut seen = Seen::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return seen;
            }
            match catch_unwind(AssertUnwindSafe(|| deployment(seed))) {
                Ok(of_one) => seen.add(&of_one),
                Err(panic) => {
                    eprintln!("this deployment fails: ROWTIDE_SEED={seed}");
                    next.store(count, Ordering::Relaxed);
                    resume_unwind(panic);
                }
            }
        }
    };
    let mut seen = Seen::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(run)).collect();
        for thread in threads {
            match thread.join() {
                Ok(of_thread) => seen.add(&of_thread),
                Err(panic) => resume_unwind(panic),
            }
        }
    });
    println!("{count} deployments: {:#?}", seen.0);
    seen
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_or_done_twice_and_everyone_comes_to_see_it() {
    if let Some(seed) = number("ROWTIDE_SEED") {
        println!("{:#?}", World::new(seed, true).run());
        return;
    }
    let count = number("ROWTIDE_SIMULATIONS").unwrap_or(2_000);
    let seen = run_all(count, |seed| World::new(seed, false).run());
    let never: Vec<&str> =
        IMPORTANT.into_iter().filter(|what| !seen.0.contains_key(what)).collect();
    assert!(count < 2_000 || never.is_empty(), "never happened: {never:?}");
}

#[test]
fn whatever_goes_wrong_a_document_is_what_was_told_of_it_and_for_those_who_may_be_there() {
    if let Some(seed) = number("ROWTIDE_SEED") {
        println!("{:#?}", Papers::new(seed, true, None).run());
        return;
    }
    let count = number("ROWTIDE_SIMULATIONS").unwrap_or(2_000) / 4;
    let seen = run_all(count, |seed| Papers::new(seed, false, None).run());
    let never: Vec<&str> =
        OF_DOCUMENTS.into_iter().filter(|what| !seen.0.contains_key(what)).collect();
    assert!(count < 500 || never.is_empty(), "never happened: {never:?}");
}

#[test]
fn a_seed_gives_the_same_course_again() {
    let run = || World::new(7, false).run().0;
    assert_eq!(run(), run());
}
