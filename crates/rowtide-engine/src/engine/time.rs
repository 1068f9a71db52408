//! Time, as the stream has it: at a position it is when the last transaction up to there was committed. So what a view sees at a
//! position depends on nothing else, whoever looks at it and when. Each transaction may be a later moment than the one before, or
//! for once an earlier one. Link rows that count by time do so, or do not any more, with that transaction; rows that are sent and
//! turn meanwhile are touched when a view's next message is made. Where nobody commits, and something is to turn, a commit is
//! asked for.

use std::sync::Arc;

use rowtide_plan::row::Row;
use rowtide_plan::value::Instant;

use super::Engine;
use crate::sets::Moment;
use crate::topic::{TopicKey, ViewKey};
use crate::view::View;

/// The time of a stream.
#[derive(Debug)]
pub(crate) struct StreamTime {
    /// Whether rows of the plan come and go as time passes.
    matters: bool,
    /// When the last transaction was committed; before every moment, where none is known.
    pub(crate) now: Instant,
    /// As of when link rows count.
    pub(super) followed: Instant,
    /// In which tick that transaction came.
    tick: u64,
}

/// A commit is asked for, for what turns within so much time after the last one, in microseconds.
const AHEAD_US: i64 = 120_000_000;
/// And within so much more for each tick since. A tick is no less than a second, but may be more.
const AHEAD_US_PER_TICK: i64 = 2_000_000;

impl StreamTime {
    /// That of a stream whose last transaction was committed then, if that is known.
    pub(super) fn new(matters: bool, commit_time_us: Option<i64>) -> StreamTime {
        let now = commit_time_us.map_or(Instant::MINUS_INFINITY, Instant::of_unix_us);
        StreamTime { matters, now, followed: now, tick: 0 }
    }

    /// Whether views wait to learn what time it is.
    pub(crate) fn is_awaited(&self) -> bool {
        self.matters && !self.now.is_finite()
    }

    /// Whether rows of the plan come and go as time passes.
    pub(super) fn matters(&self) -> bool {
        self.matters
    }
}

impl Engine {
    /// A transaction was committed then, whose changes were applied.
    pub(super) fn pass_time(&mut self, commit_time_us: i64) {
        let now = Instant::of_unix_us(commit_time_us);
        let was_awaited = self.time.is_awaited();
        self.time.tick = self.progress.tick;
        self.time.now = now;
        if self.time.matters {
            self.turn(self.time.followed, now);
        }
        self.time.followed = now;
        if was_awaited {
            self.views.know_the_time();
        }
    }

    /// What turns between two moments counts for those who reach it, or does not any more.
    fn turn(&mut self, before: Instant, now: Instant) {
        let plan = Arc::clone(&self.plan);
        let mut turning = self.topics.turning(before, now);
        // In the order of branches: what names topics, or fills a set, comes before what is named.
        turning.sort_unstable_by_key(|key| (self.topics[*key].id().branch, *key));
        for key in turning {
            // Gone if another one that turned had named it.
            let Some(state) = self.topics.get(key) else { continue };
            let branch_id = state.id().branch;
            let branch = plan.branch(branch_id);
            for view in state.views() {
                let view = self.views.mark(*view);
                view.turned.insert(key);
                view.windows_are_stale |= branch.window.is_some();
            }
            if !branch.names_others() {
                continue;
            }
            let rows = self.turning_rows(key, before, now);
            for view_key in self.reached_by(key) {
                let View { sets, claims, .. } = &self.views[view_key];
                let passes = |row: &Row, at| {
                    sets.pass(Moment::Followed, branch, &row.image.kept, claims, at)
                };
                let changed: Vec<(&Arc<Row>, bool)> = (rows.iter())
                    .map(|row| (row, passes(row, now)))
                    .filter(|(row, counts)| *counts != passes(row, before))
                    .collect();
                // All that is gained before anything is lost.
                for now_counts in [true, false] {
                    for (row, _) in changed.iter().filter(|(_, counts)| *counts == now_counts) {
                        self.count(view_key, branch_id, &row.image, now_counts);
                    }
                }
            }
        }
    }

    fn turning_rows(&self, key: TopicKey, one: Instant, other: Instant) -> Vec<Arc<Row>> {
        let Some(state) = self.topics.get(key) else { return Vec::new() };
        let mut keys: Vec<_> = state.turns().between(one, other).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().filter_map(|key| state.rows().get(key)).cloned().collect()
    }

    /// Rows that were not touched since the last message, and were in it or are not any more because time has passed.
    pub(super) fn touch_by_time(&mut self, view_key: ViewKey) {
        let turned = std::mem::take(&mut self.views[view_key].turned);
        for key in turned {
            let view = &self.views[view_key];
            if view.reach.contains_key(&key) && view.had(key) {
                let rows = self.turning_rows(key, view.told_at, self.time.now);
                self.touch_changed(view_key, key, rows);
            }
        }
    }

    /// All rows of these views that turn are looked at with the next message.
    pub(super) fn look_at_turns(&mut self, view_key: ViewKey) {
        let asks_time = |key: &TopicKey| self.topics[*key].turns().are_any();
        let turned: Vec<TopicKey> =
            self.views[view_key].reach.keys().copied().filter(asks_time).collect();
        self.views[view_key].turned.extend(turned);
    }

    /// The moment behind which a commit is wanted, in microseconds since 1970 UTC, if something may turn soon and nobody commits.
    pub(super) fn time_due(&self) -> Option<i64> {
        if self.time.is_awaited() {
            return Some(i64::MIN);
        }
        let ticks = self.progress.tick.saturating_sub(self.time.tick);
        let ticks = i64::try_from(ticks).unwrap_or(i64::MAX);
        let ahead = AHEAD_US.saturating_add(ticks.saturating_mul(AHEAD_US_PER_TICK));
        let next = self.topics.next_turn(self.time.now).filter(|_| self.time.matters)?;
        (next <= self.time.now.plus_us(ahead)).then(|| next.unix_us())
    }
}
