//! Mistakes that were made once, or could be, put back one by one where the cores meet the world: the simulation
//! must find each within some deployments. Production code knows nothing of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::documents::Papers;
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
    /// A change that does not fit its table is passed over, and nobody holds what the plan relies on against the
    /// database: with a watch the next look makes up for it.
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
    /// A client whose database has gone back is told to count from there.
    NumbersGoBack,
    /// A server that stops says goodbye to older clients before it has told them what became of what they sent.
    OlderGoodbyeFirst,
    /// A session that goes is not told to its engine.
    ClosesNothing,
    /// A tab of an older client that comes back is not told what became of what it had sent.
    OutcomesUntold,
    /// What became of that is read while a mutation is being acknowledged, which is streamed and not seen yet.
    OutcomesWithoutLock,
    /// A tab asks once: what is rejected after that of what it had sent over an earlier connection, it is not told.
    OutcomesAskedOnce,
    /// What the plan alone says against a mutation rejects it, whatever the tables are by now.
    PlanIsTrusted,
    /// Who connects is told its last number, and its first rows do not wait for the effects.
    FirstRowsAtOnce,
    /// Everybody is told of an edit of a document before it is flushed.
    ToldBeforeFlushed,
    /// The edits of a document go from the journal when a save of it begins, and not when it has ended.
    SettledBeforeSaved,
    /// The document of another row of the same id begins at a clock that the one before it had.
    ClocksBeginAgain,
    /// What Postgres answers of somebody at a document counts, whether it has seen the change or not.
    AnswersCountAtOnce,
    /// What somebody may do who comes to a document changes while it is opened, and the room is not told.
    AccessOvertaken,
}

impl Break {
    /// The other mistake that is part of it: what is found must not be found with that alone.
    fn beside(self) -> Option<Break> {
        (self == Break::SwallowedChange).then_some(Break::NoWatch)
    }

    /// Whether it is one of documents, which have deployments of their own.
    fn is_of_documents(self) -> bool {
        matches!(
            self,
            Break::ToldBeforeFlushed
                | Break::SettledBeforeSaved
                | Break::ClocksBeginAgain
                | Break::AnswersCountAtOnce
                | Break::AccessOvertaken
        )
    }
}

/// Each with a deployment that was seen to find it and is tried first, with the number of deployments of which one must
/// find it otherwise, and with what these must fail of: a mistake that is found by something else is not found. Whatever
/// changes the course of deployments makes the first useless; the test prints by which each is found now.
const BREAKS: [(Break, u64, u64, &str); 25] = [
    (Break::GoingBeforeComing, 8, 300, "nobody is there"),
    (Break::EpochAtConfirmed, 210, 4_000, "should be"),
    (Break::NoWatch, 27, 200, "are not served"),
    (Break::SwallowedChange, 10, 600, "should be {"),
    (Break::StopFirst, 18, 500, "is thrown away"),
    (Break::OneLine, 12, 4_000, "has waited for"),
    (Break::NoBackOff, 1, 100, "again and again"),
    (Break::ConfirmBeforeDurable, 1, 200, "ends for nothing"),
    (Break::AcknowledgeBeforeEffects, 1, 200, "against what was told"),
    (Break::RecentLost, 665, 4_000, "at its cursor"),
    (Break::ReplaySkips, 166, 1_000, "at its cursor"),
    (Break::OlderMutationsStay, 10, 200, "older connection's mutation starts"),
    (Break::NumbersGoBack, 21, 200, "names another mutation"),
    (Break::OlderGoodbyeFirst, 109, 2_000, "before the goodbye"),
    (Break::ClosesNothing, 8, 300, "any more of a storm"),
    (Break::OutcomesUntold, 6, 300, "was never told of"),
    (Break::OutcomesWithoutLock, 491, 4_000, "was never told of"),
    (Break::OutcomesAskedOnce, 18, 1_000, "was never told of"),
    (Break::PlanIsTrusted, 10, 2_000, "that the tables fit"),
    (Break::FirstRowsAtOnce, 261, 4_000, "was told that it is applied"),
    (Break::ToldBeforeFlushed, 22, 2_000, "was saved and is lost"),
    (Break::SettledBeforeSaved, 215, 2_000, "was saved and is lost"),
    (Break::ClocksBeginAgain, 136, 2_000, "has another document"),
    (Break::AnswersCountAtOnce, 200, 2_000, "may not be there"),
    (Break::AccessOvertaken, 434, 2_000, "m-of-reader"),
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

/// What a deployment fails of, if it does.
fn failure(seed: u64, of_documents: bool, broken: Option<Break>) -> Option<String> {
    let run = || match of_documents {
        true => Papers::new(seed, false, broken).run(),
        false => World::with(seed, false, broken).run(),
    };
    let panic = catch_unwind(AssertUnwindSafe(run)).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
}

/// The deployment that finds a mistake, and what it fails of; it does not fail without the mistake.
fn finds(broken: Break, first: u64, within: u64, by: &str) -> Option<(u64, String)> {
    let of_documents = broken.is_of_documents();
    let found = |seed| {
        let failure = failure(seed, of_documents, Some(broken));
        let failure = failure.filter(|failure| failure.contains(by))?;
        self::failure(seed, of_documents, broken.beside()).is_none().then_some((seed, failure))
    };
    std::iter::once(first).chain(0..within).find_map(found)
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
                    let Some((broken, first, within, failure)) = next else { return };
                    let by = finds(broken, first, within, failure);
                    match &by {
                        Some((seed, why)) => {
                            let why = why.lines().next().unwrap_or_default();
                            println!("{broken:?} is found by deployment {seed}: {why:.120}");
                        }
                        None => println!("{broken:?} is not found by {within} deployments"),
                    }
                    found.lock().unwrap().push((broken, by));
                }
            };
            std::thread::Builder::new().name(THREAD.to_owned()).spawn_scoped(scope, run).unwrap();
        }
    });
    let found = found.into_inner().unwrap();
    let missed: Vec<Break> =
        found.iter().filter(|(_, by)| by.is_none()).map(|(broken, _)| *broken).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
