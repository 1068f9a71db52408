//! What a tab has still to be told of what it sent over earlier connections. It is asked of the database once the tab
//! has its rows; what is acknowledged from then on comes with the stream, in the order of the numbers. An outcome that
//! was found is told when an acknowledgement of its number or a higher one has come: the tab has its effects then. One
//! that was acknowledged on this connection is left out. A rejection says by its name alone whose it is: one that this
//! connection has not sent may be of an earlier one, and is asked for after a while, if no other has told it by then.
//! A mutation is acknowledged again where the answer to its commit was lost, and may bear a higher number then: what this
//! connection has said to be rejected is known by its name, and not said again. Pure.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use rowtide_feed::Acknowledgement;
use rowtide_postgres::named_outcomes::NamedOutcome;

/// How long a rejection of somebody is left to the connection that has sent it.
const LEAVE_TO_SENDER: Duration = Duration::from_secs(2);
/// How many such rejections are kept in mind.
const MAX_STRANGE: usize = 1_000;
/// How many rejections that were told are kept in mind; one that is acknowledged again is so within seconds.
const MAX_TOLD: usize = 1_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    asking: Asking,
    /// The first acknowledgement on this connection: its number, and its name if it has one. All later ones follow.
    live_from: Option<(u64, Option<Box<str>>)>,
    /// Found, and told when an acknowledgement has come.
    held: Vec<NamedOutcome>,
    /// The names of rejections that this connection has not sent.
    strange: HashSet<Box<str>>,
    /// Those that are being asked for.
    asked: HashSet<Box<str>>,
    /// The names of the last rejections that were told on this connection.
    told: VecDeque<Box<str>>,
    /// When these are to be asked for.
    ask_at: Option<Duration>,
}

/// How far the questions to the database are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asking {
    /// Nothing was asked.
    #[default]
    NotYet,
    /// What was missed is asked for.
    First,
    /// That was answered.
    Answered,
    /// Strange rejections are asked for.
    Again,
}

impl Missed {
    /// The tab has its rows. Whether the database is to be asked.
    pub(crate) fn ready(&mut self) -> bool {
        let first = self.asking == Asking::NotYet;
        if first {
            self.asking = Asking::First;
        }
        first
    }

    /// Something was acknowledged; returns what is to be told of what was missed, in order.
    pub(crate) fn acknowledged(&mut self, acknowledgement: &Acknowledgement) -> Vec<NamedOutcome> {
        if self.live_from.is_none() {
            let name = acknowledgement.name.clone();
            self.live_from = Some((acknowledgement.last_mutation, name));
            self.drop_live();
        }
        let last = acknowledgement.last_mutation;
        let (told, held) =
            std::mem::take(&mut self.held).into_iter().partition(|one| one.number <= last);
        self.held = held;
        self.untold(told)
    }

    /// A rejection is told on this connection.
    pub(crate) fn tells_rejection(&mut self, name: &str) {
        if self.told.len() == MAX_TOLD {
            self.told.pop_front();
        }
        self.told.push_back(name.into());
    }

    /// Without the rejections that were told on this connection.
    fn untold(&self, mut outcomes: Vec<NamedOutcome>) -> Vec<NamedOutcome> {
        outcomes.retain(|one| one.rejected.is_none() || !self.told.contains(&one.name));
        outcomes
    }

    /// A rejection has come that this connection has not sent.
    pub(crate) fn strange_rejection(&mut self, name: &str, now: Duration) {
        let is_told = self.told.iter().any(|told| **told == *name);
        if !is_told && self.strange.len() < MAX_STRANGE {
            self.strange.insert(name.into());
            self.ask_at.get_or_insert(now + LEAVE_TO_SENDER);
        }
    }

    /// The database has answered; returns what is to be told now, in order.
    pub(crate) fn answered(&mut self, outcomes: Vec<NamedOutcome>) -> Vec<NamedOutcome> {
        let asked = std::mem::replace(&mut self.asking, Asking::Answered);
        if asked == Asking::Again {
            // What was applied has been told already, and what was missed.
            let asked = std::mem::take(&mut self.asked);
            let is_missed =
                |one: &NamedOutcome| one.rejected.is_some() && asked.contains(&one.name);
            return self.untold(outcomes.into_iter().filter(is_missed).collect());
        }
        self.held = outcomes;
        self.drop_live();
        match self.live_from {
            // What is left was acknowledged before.
            Some(_) => {
                let held = std::mem::take(&mut self.held);
                self.untold(held)
            }
            None => Vec::new(),
        }
    }

    /// Leaves out what comes on this connection, or has come.
    fn drop_live(&mut self) {
        let Some((first, name)) = &self.live_from else { return };
        let before = |one: &NamedOutcome| {
            // An acknowledgement of an older mutation that is repeated has the last number, too.
            one.number < *first || one.number == *first && name.as_ref() != Some(&one.name)
        };
        self.held.retain(before);
    }

    /// Whether the database is to be asked again.
    pub(crate) fn is_due(&mut self, now: Duration) -> bool {
        let due = self.asking == Asking::Answered && self.ask_at.is_some_and(|at| at <= now);
        if due {
            self.ask_at = None;
            self.asked = std::mem::take(&mut self.strange);
            self.asking = Asking::Again;
        }
        due
    }

    /// When that is to be looked at.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.ask_at.filter(|_| self.asking == Asking::Answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u64; 0] = [];

    fn outcome(number: u64, rejected: bool) -> NamedOutcome {
        let rejected = rejected.then(|| "forbidden".to_owned());
        NamedOutcome { name: format!("m{number}").into(), number, rejected }
    }

    fn acknowledgement(last: u64, name: Option<&str>) -> Acknowledgement {
        let name = name.map(Into::into);
        Acknowledgement {
            client: "app/u".into(),
            last_mutation: last,
            rejected: Vec::new(),
            keys: Vec::new(),
            name,
        }
    }

    fn numbers(told: &[NamedOutcome]) -> Vec<u64> {
        told.iter().map(|one| one.number).collect()
    }

    #[test]
    fn what_was_found_is_told_once_its_effects_are_there_whichever_comes_first() {
        let found = || vec![outcome(3, false), outcome(4, true)];
        let mut missed = Missed::default();
        assert!(missed.ready() && !missed.ready());
        assert_eq!(numbers(&missed.answered(found())), NONE);
        assert_eq!(numbers(&missed.acknowledged(&acknowledgement(4, None))), [3, 4]);
        assert_eq!(numbers(&missed.acknowledged(&acknowledgement(5, Some("m5")))), NONE);

        let mut missed = Missed::default();
        missed.ready();
        assert_eq!(numbers(&missed.acknowledged(&acknowledgement(4, None))), NONE);
        assert_eq!(numbers(&missed.answered(found())), [3, 4]);
    }

    #[test]
    fn what_comes_with_the_stream_is_not_told_again() {
        let found = || vec![outcome(3, false), outcome(4, false), outcome(5, false)];
        let mut missed = Missed::default();
        missed.ready();
        missed.acknowledged(&acknowledgement(4, Some("m4")));
        assert_eq!(numbers(&missed.answered(found())), [3]);
        // One that repeats another mutation.
        let mut missed = Missed::default();
        missed.ready();
        missed.acknowledged(&acknowledgement(4, Some("m1")));
        assert_eq!(numbers(&missed.answered(found())), [3, 4]);
        let mut missed = Missed::default();
        missed.ready();
        missed.answered(found());
        assert_eq!(numbers(&missed.acknowledged(&acknowledgement(4, Some("m4")))), [3]);
        assert_eq!(numbers(&missed.acknowledged(&acknowledgement(5, Some("m5")))), NONE);
    }

    #[test]
    fn a_rejection_of_an_earlier_connection_is_asked_for_after_a_while_and_told_if_nobody_has() {
        let mut missed = Missed::default();
        missed.ready();
        missed.answered(Vec::new());
        missed.acknowledged(&acknowledgement(7, Some("m7")));
        missed.strange_rejection("m7", Duration::ZERO);
        assert!(!missed.is_due(LEAVE_TO_SENDER / 2));
        assert_eq!(missed.deadline(), Some(LEAVE_TO_SENDER));
        assert!(missed.is_due(LEAVE_TO_SENDER) && !missed.is_due(LEAVE_TO_SENDER));
        let found = vec![outcome(5, true), outcome(6, false), outcome(7, true)];
        assert_eq!(numbers(&missed.answered(found)), [7]);
        // One that came while the first question was open.
        let mut missed = Missed::default();
        missed.ready();
        missed.acknowledged(&acknowledgement(7, Some("m7")));
        missed.strange_rejection("m7", Duration::ZERO);
        let found = || vec![outcome(6, false), outcome(7, true)];
        assert_eq!(numbers(&missed.answered(found())), [6]);
        assert!(missed.is_due(LEAVE_TO_SENDER));
        missed.strange_rejection("m8", LEAVE_TO_SENDER);
        assert_eq!(numbers(&missed.answered(found())), [7]);
        assert!(missed.is_due(2 * LEAVE_TO_SENDER), "it came too late for the answer");
    }

    #[test]
    fn a_rejection_that_is_acknowledged_again_is_not_told_again() {
        let found = || vec![outcome(5, true), outcome(6, false)];
        // It comes with the stream, under the number of a later one, and is found as well.
        let mut missed = Missed::default();
        missed.ready();
        missed.acknowledged(&acknowledgement(7, Some("m5")));
        missed.tells_rejection("m5");
        assert_eq!(numbers(&missed.answered(found())), [6]);
        // It is no stranger when it comes once more.
        missed.strange_rejection("m5", Duration::ZERO);
        assert_eq!(missed.deadline(), None);
        // It is found, and told with the acknowledgement of another.
        let mut missed = Missed::default();
        missed.ready();
        missed.answered(found());
        missed.tells_rejection("m5");
        assert_eq!(numbers(&missed.acknowledged(&acknowledgement(7, None))), [6]);
        // It is told while it is asked for as a stranger.
        missed.strange_rejection("m8", Duration::ZERO);
        assert!(missed.is_due(LEAVE_TO_SENDER));
        missed.tells_rejection("m8");
        assert_eq!(numbers(&missed.answered(vec![outcome(8, true)])), NONE);
    }

    #[test]
    fn of_the_rejections_that_were_told_a_bounded_number_is_kept() {
        let mut missed = Missed::default();
        (0..=MAX_TOLD).for_each(|number| missed.tells_rejection(&format!("m{number}")));
        assert_eq!(missed.told.len(), MAX_TOLD);
        assert!(!missed.told.contains(&"m0".into()) && missed.told.contains(&"m1".into()));
    }
}
