//! Mistakes that were made once, or could be, put back one by one where the cores meet the world: the simulation
//! must find each within some deployments. Production code knows nothing of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::world::World;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// A session's going overtakes its coming: the two travel on ways of their own.
    GoingBeforeComing,
    /// An epoch begins at what the slot has confirmed, whatever is committed and not seen yet.
    EpochAtConfirmed,
    /// Nobody holds what the plan relies on against the database.
    NoWatch,
    /// A change that does not fit its table is passed over.
    SwallowedChange,
    /// A server that is to stop throws away what it has received.
    StopFirst,
    /// All users wait in one line.
    OneLine,
    /// However often nothing came of a connection, the next is made at once.
    NoBackOff,
    /// Postgres is told that it may forget what is not durable yet.
    ConfirmBeforeDurable,
    /// A mutation is acknowledged as soon as it is committed, before its effects are told.
    AcknowledgeBeforeEffects,
    /// Engines that go on with a log are not told of its last transactions.
    RecentLost,
    /// What is replayed lacks a transaction, and does not say so.
    ReplaySkips,
    /// A newer connection of a client lets mutations of older ones wait on.
    OlderMutationsStay,
}

/// Each with the number of deployments within which it must be found.
const BREAKS: [(Break, u64); 12] = [
    (Break::GoingBeforeComing, 100),
    (Break::EpochAtConfirmed, 1_000),
    (Break::NoWatch, 200),
    (Break::SwallowedChange, 1_000),
    (Break::StopFirst, 500),
    (Break::OneLine, 2_000),
    (Break::NoBackOff, 500),
    (Break::ConfirmBeforeDurable, 200),
    (Break::AcknowledgeBeforeEffects, 500),
    (Break::RecentLost, 1_000),
    (Break::ReplaySkips, 1_000),
    (Break::OlderMutationsStay, 2_000),
];

const THREAD: &str = "with a mistake";

/// Deployments with a mistake panic, and say nothing.
fn be_silent() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() != Some(THREAD) {
                usual(panic);
            }
        }));
    });
}

fn fails(seed: u64, broken: Option<Break>) -> bool {
    catch_unwind(AssertUnwindSafe(|| World::with(seed, false, broken).run())).is_err()
}

/// The deployment that finds a mistake: it fails with it, and does not without.
fn finds(broken: Break, within: u64) -> Option<u64> {
    (0..within).find(|seed| fails(*seed, Some(broken)) && !fails(*seed, None))
}

#[test]
fn every_mistake_that_is_put_back_is_found() {
    be_silent();
    let queue = std::sync::Mutex::new(BREAKS.into_iter());
    let found = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let run = || {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some((broken, within)) = next else { return };
                    let by = finds(broken, within);
                    found.lock().unwrap().push((broken, within, by));
                }
            };
            std::thread::Builder::new().name(THREAD.to_owned()).spawn_scoped(scope, run).unwrap();
        }
    });
    let found = found.into_inner().unwrap();
    for (broken, within, by) in &found {
        match by {
            Some(seed) => println!("{broken:?} is found by deployment {seed}"),
            None => println!("{broken:?} is not found by {within} deployments"),
        }
    }
    let missed: Vec<Break> =
        found.iter().filter(|(_, _, by)| by.is_none()).map(|(broken, ..)| *broken).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
