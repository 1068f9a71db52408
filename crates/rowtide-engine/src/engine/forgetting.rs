//! The memory that rows take is bounded. Where a topic names no others, its rows are only needed to send them
//! whole; when there are too many, those of topics at rest are forgotten, one after the other, and loaded again
//! if someone must be sent them. Rows that name topics are always held.

use super::Engine;
use crate::TopicRows;
use crate::topic::{Phase, TopicKey};

/// How many topics are looked at in one step at the most.
const LOOKED_AT: usize = 1_000;
/// How many rows are dropped within a step at the most.
const DROPPED_HERE: usize = 1_000;

impl Engine {
    /// Forgets rows until those that are left fit the budget, or nothing more can be forgotten for now.
    pub(super) fn forget_rows(&mut self) {
        let places = self.topics.capacity();
        for _ in 0..LOOKED_AT.min(places) {
            if self.row_bytes <= self.row_budget {
                return;
            }
            self.next_forgotten = (self.next_forgotten + 1) % places;
            if self.may_forget(self.next_forgotten) {
                self.discard_rows(self.next_forgotten);
                let state = &mut self.topics[self.next_forgotten];
                state.phase = Phase::Unread;
                state.was_read = false;
            }
        }
    }

    /// Whether nobody waits for anything of the topic: all who reach it hold its rows.
    fn may_forget(&self, key: TopicKey) -> bool {
        let Some(state) = self.topics.get(key) else { return false };
        let rests = |key: &usize| {
            let view = &self.views[*key];
            view.is_whole(self.position)
                && view.is_silent()
                && view.joining.is_empty()
                && view.resume.is_none()
                && view.returning.is_none()
        };
        matches!(state.phase, Phase::Loaded { ahead: None })
            && self.plan.branch(state.topic.branch).links.is_empty()
            && state.views.iter().all(rests)
    }

    /// Puts `rows` in the place of a topic's rows, which are returned.
    pub(super) fn put_rows(&mut self, key: TopicKey, rows: TopicRows) -> TopicRows {
        let state = &mut self.topics[key];
        self.row_bytes += rows.bytes();
        self.row_bytes -= state.rows.bytes();
        std::mem::replace(&mut state.rows, rows)
    }

    /// Lets a topic's rows go.
    pub(super) fn discard_rows(&mut self, key: TopicKey) {
        let rows = self.put_rows(key, TopicRows::default());
        self.discard(rows);
    }

    /// Lets rows go; many are given to the caller, because to drop them takes time.
    pub(super) fn discard(&mut self, rows: TopicRows) {
        if rows.len() > DROPPED_HERE {
            self.discarded.push(rows);
        }
    }
}
