//! How much of a backlog is handed on together. What comes in time is handed on at once; what comes late is batched
//! for a quarter of its lateness, because everyone behind the stream is woken once for all of it. A table that does not
//! fit is told of where it is noticed, before the transaction that shows it, and nothing behind it with it. Pure: it is told
//! what time it is, and the skin in [`crate::source`] waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rowtide_postgres::stream::{BACKLOG, Batch, SchemaChange, StreamEvent};

use crate::limits::{BATCH_BYTES, BATCH_EVENTS, BATCH_PAUSE, BATCH_TIME};
use crate::machine::{Brought, StreamFailure};

/// What has come and was not handed on.
#[derive(Debug, Default)]
pub(crate) struct Batching {
    /// In the order in which it came.
    events: VecDeque<StreamEvent>,
    /// About how many bytes of transactions came since something was handed on last.
    bytes: usize,
    /// Until when more is batched.
    until: Option<Duration>,
    /// Why nothing comes behind it.
    failed: Option<StreamFailure>,
}

impl Batching {
    /// Whether there is nothing to hand on.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.failed.is_none()
    }

    /// Takes what came.
    pub(crate) fn put(&mut self, batch: Batch) {
        self.bytes += batch.bytes;
        self.events.extend(batch.events);
    }

    /// Nothing more comes.
    pub(crate) fn fail(&mut self, failure: StreamFailure) {
        self.failed = Some(failure);
    }

    /// What is there came so late after its commit.
    pub(crate) fn late(&mut self, late: Duration, now: Duration) {
        self.until = (late > BACKLOG).then(|| now + (late / 4).min(BATCH_TIME));
    }

    /// Until when more is to be waited for; `None` if what is there is to be handed on.
    pub(crate) fn waits_until(&self, now: Duration) -> Option<Duration> {
        let until = self.until.filter(|until| now < *until)?;
        let room = self.events.len() < BATCH_EVENTS && self.bytes < BATCH_BYTES;
        (room && self.failed.is_none()).then(|| until.min(now + BATCH_PAUSE))
    }

    /// What is handed on, in order, and what ends it: a table that does not fit, behind which the rest stays for the next
    /// call, or the end of the stream. `time_us` is the time, microseconds since 1970 UTC.
    pub(crate) fn take(&mut self, time_us: i64) -> (Vec<Brought>, Option<StreamFailure>) {
        (self.until, self.bytes) = (None, 0);
        let mut brought = Vec::with_capacity(self.events.len());
        while let Some(event) = self.events.pop_front() {
            match event {
                StreamEvent::Transaction(transaction) => {
                    brought.push(Brought::Transaction(Arc::new(transaction)));
                }
                StreamEvent::Position(lsn) => brought.push(Brought::Position { lsn, time_us }),
                StreamEvent::Switched => brought.push(Brought::Switched),
                StreamEvent::SchemaChanged(SchemaChange { table, what, committed }) => {
                    return (brought, Some(StreamFailure::Unfit { table, what, committed }));
                }
            }
        }
        (brought, self.failed.take())
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use rowtide_protocol::Lsn;

    use super::*;

    /// What a stream brings, by its number.
    fn event(rng: &mut SmallRng, number: u64) -> StreamEvent {
        if rng.random_bool(0.03) {
            let (table, what) = (number.to_string(), "it differs".to_owned());
            return StreamEvent::SchemaChanged(SchemaChange {
                table,
                what,
                committed: Lsn(number),
            });
        }
        StreamEvent::Position(Lsn(number))
    }

    fn numbers((brought, failure): &(Vec<Brought>, Option<StreamFailure>)) -> Vec<u64> {
        let of = |brought: &Brought| match brought {
            Brought::Position { lsn, .. } => lsn.0,
            Brought::Transaction(transaction) => transaction.lsn.0,
            Brought::Switched => panic!("nobody has asked for another plan"),
        };
        let unfit = failure.iter().filter_map(|failure| match failure {
            StreamFailure::Unfit { committed, .. } => Some(committed.0),
            _ => None,
        });
        brought.iter().map(of).chain(unfit).collect()
    }

    /// A stream that brings pieces of any size, in time or late, and ends at some time.
    #[test]
    fn everything_is_handed_on_once_and_in_order_and_nothing_waits_longer_than_it_may() {
        for seed in 0..2_000 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let (mut batching, mut now) = (Batching::default(), Duration::ZERO);
            let (mut came, mut handed_on, mut ended) = (0, Vec::new(), false);
            while !ended {
                let mut latest = None;
                if batching.is_empty() {
                    let batch = piece(&mut rng, &mut came);
                    batching.put(batch);
                    let late = Duration::from_millis(rng.random_range(0..400));
                    batching.late(late, now);
                    let most =
                        if late > BACKLOG { (late / 4).min(BATCH_TIME) } else { Duration::ZERO };
                    latest = Some(now + most);
                }
                while let Some(until) = batching.waits_until(now) {
                    assert!(latest.is_some_and(|latest| until <= latest), "seed {seed}");
                    assert!(until > now && until <= now + BATCH_PAUSE, "seed {seed}");
                    assert!(batching.events.len() < BATCH_EVENTS, "seed {seed}");
                    match rng.random_range(0..20) {
                        0 => batching.fail(StreamFailure::Ended("it ended".to_owned())),
                        // Nothing comes in time.
                        1..4 => {
                            now = until;
                            break;
                        }
                        _ => {
                            let batch = piece(&mut rng, &mut came);
                            batching.put(batch);
                            now += Duration::from_micros(rng.random_range(1..900));
                        }
                    }
                }
                let handed = batching.take(1);
                handed_on.extend(numbers(&handed));
                match handed.1 {
                    Some(StreamFailure::Unfit { .. }) => {
                        assert!(batching.waits_until(now).is_none(), "the rest is not held back");
                    }
                    Some(_) => ended = true,
                    None => assert!(batching.is_empty(), "seed {seed}"),
                }
                if rng.random_bool(0.01) && !ended {
                    batching.fail(StreamFailure::Ended("it ended".to_owned()));
                }
            }
            assert!(batching.is_empty(), "seed {seed}");
            assert!(handed_on.iter().copied().eq(1..=came), "seed {seed}: {handed_on:?}");
        }
    }

    fn piece(rng: &mut SmallRng, came: &mut u64) -> Batch {
        let count =
            if rng.random_bool(0.1) { rng.random_range(1..3_000) } else { rng.random_range(1..8) };
        let mut next = || {
            *came += 1;
            *came
        };
        let events = (0..count).map(|_| next()).collect::<Vec<_>>();
        let events = events.into_iter().map(|number| event(rng, number)).collect();
        Batch { events, bytes: rng.random_range(0..200_000) }
    }
}
