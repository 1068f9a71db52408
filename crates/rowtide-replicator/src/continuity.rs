//! Whether what the database streams is the continuation of what the log holds. That is decided twice: by what the
//! two say of themselves before anything is streamed, and then by the transactions. Those of the log that the slot
//! had not confirmed must come again, the same ones and no others; otherwise the database has another history than
//! the one that clients were told of. Nothing is confirmed before they have. Pure.

use std::collections::VecDeque;

use rowtide_feed::{EpochReason, Event};
use rowtide_log::{Committed, LogIdentity};
use rowtide_protocol::Lsn;

/// What there is to decide by, before anything is streamed.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What the log's records are of.
    pub of_log: &'a LogIdentity,
    /// What the stream is of, with the plan that serves now.
    pub of_stream: &'a LogIdentity,
    /// The log ends here, if it has begun.
    pub log_ends: Option<Lsn>,
    /// What the slot has confirmed: it brings what was committed behind it.
    pub slot_confirmed: Lsn,
    /// Where WAL ends.
    pub wal_ends: Lsn,
    /// What is known already to be no continuation.
    pub broken: Option<EpochReason>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on with the log, once the transactions behind `slot_confirmed` have come again.
    Continue,
    /// Begin an epoch.
    Begin(EpochReason),
}

/// Decides.
pub fn decide(evidence: &Evidence<'_>) -> Decision {
    let of_tables = LogIdentity {
        plan: evidence.of_stream.plan,
        columns: evidence.of_stream.columns.clone(),
        ..evidence.of_log.clone()
    };
    if let Some(reason) = evidence.broken {
        Decision::Begin(reason)
    } else if *evidence.of_stream != of_tables {
        Decision::Begin(EpochReason::OtherDatabase)
    } else if evidence.of_stream != evidence.of_log {
        Decision::Begin(EpochReason::OtherTables)
    } else if Some(evidence.slot_confirmed) > evidence.log_ends {
        Decision::Begin(EpochReason::LogBehind)
    } else if evidence.log_ends > Some(evidence.wal_ends) {
        Decision::Begin(EpochReason::DatabaseBehind)
    } else {
        Decision::Continue
    }
}

/// Decides once more, when the log was read. The slot may bring what was committed before the log begins, which is
/// passed over: an epoch begins behind what its slot has confirmed, and old parts of a log are dropped. Then a
/// transaction of the log must be among what comes again, or nothing tells whether the rest is the same.
pub fn decide_by_transactions(
    slot_confirmed: Lsn,
    log_begins: Lsn,
    expected: &[Committed],
) -> Decision {
    if slot_confirmed < log_begins && expected.is_empty() {
        Decision::Begin(EpochReason::LogShort)
    } else {
        Decision::Continue
    }
}

/// What is to be done about a slot that cannot be streamed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotAction {
    /// It is there, and may stay.
    Keep,
    /// Another has it: it is waited for.
    Wait,
    /// It is made.
    Make,
    /// It is dropped and made: nothing can be had from it any more.
    MakeAnew,
}

/// What a stream must bring to be the continuation of a log.
#[derive(Clone, Debug, Default)]
pub struct Continuity {
    /// The transactions of the log that the slot had not confirmed and that have not come again.
    expected: VecDeque<Committed>,
    /// Where the log began: it knows nothing of what comes up to here.
    begin: Lsn,
    /// Where the log ended.
    end: Lsn,
    /// Transactions that were at work when the epoch began, and not thought to be committed.
    at_work: Vec<u32>,
}

/// What an event is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogPlace {
    /// The log has it, or it is from before the epoch.
    Behind,
    /// It is the next.
    Ahead,
}

impl Continuity {
    /// A log that goes on, from `begin` to `end`, whose transactions behind what the slot has confirmed are
    /// `expected`, in order.
    pub fn of_log(expected: Vec<Committed>, begin: Lsn, end: Lsn) -> Continuity {
        Continuity { expected: expected.into(), begin, end, at_work: Vec::new() }
    }

    /// An epoch that begins here, while these transactions, by their ids in the stream, were at work.
    pub fn of_epoch(position: Lsn, at_work: Vec<u32>) -> Continuity {
        Continuity { expected: VecDeque::new(), begin: position, end: position, at_work }
    }

    /// Whether everything has come again that must, so that what is durable may be confirmed.
    pub fn is_proved(&self) -> bool {
        self.expected.is_empty()
    }

    /// Where the log began, or the epoch.
    pub fn begin(&self) -> Lsn {
        self.begin
    }

    /// Where the log ended, or the epoch began.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Checks what comes next.
    ///
    /// # Errors
    /// With the reason for which the epoch is over.
    pub fn check(&mut self, event: &Event) -> Result<LogPlace, EpochReason> {
        let Some(lsn) = event.lsn() else { return Ok(LogPlace::Ahead) };
        let place = if lsn <= self.end { LogPlace::Behind } else { LogPlace::Ahead };
        if lsn <= self.begin {
            // It was committed before the epoch began, and loads of the epoch may not have seen it.
            return match event {
                Event::Transaction { transaction, .. }
                    if self.at_work.contains(&transaction.xid) =>
                {
                    Err(EpochReason::MissingTransactions)
                }
                _ => Ok(place),
            };
        }
        match (event, self.expected.front()) {
            (Event::Transaction { transaction, .. }, Some(next)) => {
                let (lsn, xid) = (transaction.lsn, transaction.xid);
                let commit_time_us = transaction.commit_time_us;
                if *next != (Committed { lsn, xid, commit_time_us }) {
                    return Err(EpochReason::OtherTransactions);
                }
                self.expected.pop_front();
            }
            (_, Some(next)) if lsn >= next.lsn => return Err(EpochReason::MissingTransactions),
            // All of the log has come again, so what comes now must be behind it.
            (Event::Transaction { .. }, None) if place == LogPlace::Behind => {
                return Err(EpochReason::OtherTransactions);
            }
            _ => {}
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rowtide_feed::{Changes, Transaction};

    use super::*;

    fn identity(plan: u8, timeline: u32) -> LogIdentity {
        LogIdentity {
            plan: [plan; 32],
            columns: vec![3],
            system: 1,
            database: 2,
            timeline,
            slot: "slot".to_owned(),
        }
    }

    fn decided(of_stream: &LogIdentity, ends: u64, confirmed: u64, wal: u64) -> Decision {
        decide(&Evidence {
            of_log: &identity(1, 1),
            of_stream,
            log_ends: Some(Lsn(ends)),
            slot_confirmed: Lsn(confirmed),
            wal_ends: Lsn(wal),
            broken: None,
        })
    }

    #[test]
    fn what_the_two_say_of_themselves_decides_first() {
        let same = identity(1, 1);
        assert_eq!(decided(&same, 20, 15, 30), Decision::Continue);
        assert_eq!(decided(&same, 20, 20, 20), Decision::Continue);
        let begin = Decision::Begin;
        assert_eq!(decided(&identity(1, 2), 20, 15, 30), begin(EpochReason::OtherDatabase));
        assert_eq!(decided(&identity(2, 1), 20, 15, 30), begin(EpochReason::OtherTables));
        assert_eq!(decided(&same, 20, 21, 30), begin(EpochReason::LogBehind));
        assert_eq!(decided(&same, 20, 15, 19), begin(EpochReason::DatabaseBehind));
    }

    fn transaction(lsn: u64, xid: u32) -> Event {
        let transaction = Transaction {
            lsn: Lsn(lsn),
            xid,
            commit_time_us: 0,
            truncated: Vec::new(),
            changes: Changes::Rows(Vec::new()),
            acknowledgements: Vec::new(),
        };
        Event::Transaction { previous: Lsn(0), transaction: Arc::new(transaction) }
    }

    fn position(lsn: u64) -> Event {
        Event::Position { previous: Lsn(0), lsn: Lsn(lsn), time_us: 0 }
    }

    fn committed(lsn: u64, xid: u32) -> Committed {
        Committed { lsn: Lsn(lsn), xid, commit_time_us: 0 }
    }

    #[test]
    fn the_log_s_transactions_must_come_again_and_no_others() {
        let log = || Continuity::of_log(vec![committed(12, 1), committed(14, 2)], Lsn(10), Lsn(20));
        let mut continuity = log();
        assert_eq!(continuity.check(&position(11)), Ok(LogPlace::Behind));
        assert_eq!(continuity.check(&transaction(12, 1)), Ok(LogPlace::Behind));
        assert!(!continuity.is_proved());
        assert_eq!(continuity.check(&transaction(14, 2)), Ok(LogPlace::Behind));
        assert!(continuity.is_proved());
        assert_eq!(continuity.check(&position(20)), Ok(LogPlace::Behind));
        assert_eq!(continuity.check(&transaction(21, 3)), Ok(LogPlace::Ahead));
        let mut continuity = log();
        assert_eq!(continuity.check(&transaction(10, 7)), Ok(LogPlace::Behind), "before the log");
        assert_eq!(continuity.check(&transaction(12, 1)), Ok(LogPlace::Behind));
        let other = Err(EpochReason::OtherTransactions);
        assert_eq!(log().check(&transaction(12, 9)), other);
        assert_eq!(log().check(&transaction(13, 1)), other);
        assert_eq!(log().check(&position(12)), Err(EpochReason::MissingTransactions));
        let mut continuity = Continuity::of_log(Vec::new(), Lsn(10), Lsn(20));
        assert_eq!(continuity.check(&transaction(19, 1)), other);
    }

    #[test]
    fn a_log_that_begins_behind_the_slot_must_have_something_to_be_known_by() {
        let decided = |expected: &[Committed]| decide_by_transactions(Lsn(9), Lsn(10), expected);
        assert_eq!(decided(&[committed(12, 1)]), Decision::Continue);
        assert_eq!(decided(&[]), Decision::Begin(EpochReason::LogShort));
        assert_eq!(decide_by_transactions(Lsn(10), Lsn(10), &[]), Decision::Continue);
    }

    #[test]
    fn what_lies_before_an_epoch_is_passed_over() {
        let mut continuity = Continuity::of_epoch(Lsn(20), vec![3]);
        assert!(continuity.is_proved());
        assert_eq!(continuity.check(&transaction(20, 1)), Ok(LogPlace::Behind));
        assert_eq!(continuity.check(&transaction(21, 2)), Ok(LogPlace::Ahead));
        assert_eq!(
            continuity.check(&transaction(22, 3)),
            Ok(LogPlace::Ahead),
            "it was not committed"
        );
    }

    #[test]
    fn one_that_was_at_work_when_the_epoch_began_and_had_committed_is_not_passed_over() {
        let mut continuity = Continuity::of_epoch(Lsn(20), vec![3]);
        assert_eq!(continuity.check(&transaction(12, 1)), Ok(LogPlace::Behind));
        let missing = Err(EpochReason::MissingTransactions);
        assert_eq!(continuity.check(&transaction(19, 3)), missing);
    }
}
