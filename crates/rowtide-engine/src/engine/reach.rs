//! How views gain and lose topics. A view counts its reasons for reaching a topic: its claims, and
//! every link row that it sees. With the first reason it gains the topic and follows the topic's own
//! links; with the last it loses it, and what only that topic had made visible is touched.

use std::sync::Arc;

use rowtide_plan::plan::BranchId;
use rowtide_plan::row::{Image, Row, Topic};

use super::Engine;
use crate::sets::Moment;
use crate::topic::{TopicKey, ViewKey};
use crate::view::View;
use crate::window::{Prefix, with_reserve};

/// Which topics a view needs the rows of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// Of each.
    All,
    /// Of those only whose rows name other topics, fill sets, or come and go as time passes.
    IfItNames,
}

impl Engine {
    /// A row of a topic that `view` reaches has changed: the topics that it names are reached, those
    /// that it named are not. In this order, so that what it still names is not lost for a moment.
    pub(super) fn follow(
        &mut self,
        view: ViewKey,
        branch: BranchId,
        before: Option<&Arc<Row>>,
        after: Option<&Arc<Row>>,
    ) {
        if let (Some(before), Some(after)) = (before, after)
            && before.image.kept == after.image.kept
        {
            return;
        }
        for (row, counts) in [(after, true), (before, false)] {
            let Some(row) = row else { continue };
            let View { sets, claims, .. } = &self.views[view];
            let branch_of = self.plan.branch(branch);
            let at = self.time.followed;
            if sets.pass(Moment::Followed, branch_of, &row.image.kept, claims, at) {
                self.count(view, branch, &row.image, counts);
            }
        }
    }

    /// A row that `view` sees counts from now on, or does not any more: for the topics that it names, and in the sets that
    /// it fills.
    pub(super) fn count(&mut self, view: ViewKey, branch: BranchId, image: &Image, counts: bool) {
        let plan = Arc::clone(&self.plan);
        let branch = plan.branch(branch);
        for (set, member) in branch.filled(&image.kept) {
            let sets = &mut self.views.mark(view).sets;
            match counts {
                true => sets.add(set, member),
                false => sets.remove(set, member),
            }
        }
        for topic in branch.named(&image.kept) {
            if counts {
                self.reach(view, topic);
            } else if let Some(key) = self.topics.find(&topic) {
                self.unreach(view, key);
            }
        }
    }

    /// One more reason for `view` to reach `topic`.
    pub(super) fn reach(&mut self, view_key: ViewKey, topic: Topic) {
        let branch = topic.branch;
        // Whether a client that comes back must be sent the rows of a topic is not known yet.
        let rows =
            if self.views[view_key].resume().is_some() { Rows::IfItNames } else { Rows::All };
        let key = self.topic(view_key, topic, rows);
        let view = &mut self.views[view_key];
        let count = view.reach.entry(key).or_insert(0);
        *count += 1;
        if *count > 1 {
            return;
        }
        let view = self.views.mark(view_key);
        view.windows_are_stale |= self.topics[key].prefix.is_some();
        let was_leaving = view.leaving.remove(&key);
        // Otherwise it was there at the last message, and is again.
        if !was_leaving || view.resume().is_some() {
            view.gained.insert(key);
        }
        if !was_leaving {
            self.attach(view_key, key);
        }
        if self.plan.branch(branch).names_others() {
            for row in self.rows_of(key) {
                self.follow(view_key, branch, None, Some(&row));
            }
        }
    }

    /// The topic, in use from now on by this view; its rows are loaded if they have to be.
    fn topic(&mut self, view: ViewKey, topic: Topic, rows: Rows) -> TopicKey {
        let branch = self.plan.branch(topic.branch);
        // What turns, or is among the first, is known of rows that are read alone.
        let is_read = branch.names_others() || branch.asks_time() || branch.window.is_some();
        let needed = rows == Rows::All || is_read;
        let limit = branch.window.and_then(|id| Some(self.views[view].window(id)?.limit));
        let plan = &self.plan;
        let prefix = || {
            let window = Arc::clone(plan.window(branch.window?));
            Some(Prefix::new(window, branch.topic_filter(plan)))
        };
        let key = self.topics.enter(topic, branch, prefix);
        if let (Some(limit), Some(prefix)) = (limit, &mut self.topics[key].prefix) {
            prefix.ask_for(with_reserve(limit));
        }
        if needed {
            self.need_rows(key);
        }
        key
    }

    /// Keeps a topic that was in reach at the last message and is not now, until its rows are known.
    pub(super) fn keep_leaving(&mut self, view_key: ViewKey, topic: Topic) {
        let key = self.topic(view_key, topic, Rows::All);
        if self.views[view_key].leaving.insert(key) {
            self.attach(view_key, key);
        }
    }

    /// The rows of topics that have left are known: those that were not touched since the last message were
    /// part of it.
    pub(super) fn detach_leaving(&mut self, view_key: ViewKey) {
        let at = self.stands_at();
        for key in std::mem::take(&mut self.views[view_key].leaving) {
            let (view, state) = (&mut self.views[view_key], &self.topics[key]);
            let branch = self.plan.branch(state.id().branch);
            for row in state.rows().iter().filter(|_| branch.sends_all_rows()) {
                if view.saw(branch, &row.image.kept) {
                    let touched =
                        view.touched.row(branch.table, &row.image.key, true, self.position);
                    touched.was_held(row, at);
                }
            }
            self.detach(view_key, key);
            self.topics.drop_if_unseen(key);
        }
    }

    /// One reason less; with the last, the rows that only this topic made visible are gone.
    fn unreach(&mut self, view_key: ViewKey, key: TopicKey) {
        // A view reaches what its link rows name.
        let Some(count) = self.views[view_key].reach.get_mut(&key) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        let at = self.stands_at();
        let (view, state) = (self.views.mark(view_key), &self.topics[key]);
        view.reach.remove(&key);
        view.windows_are_stale |= state.prefix.is_some();
        let had = !view.gained.remove(&key);
        let branch_id = state.id().branch;
        let plan = Arc::clone(&self.plan);
        let branch = plan.branch(branch_id);
        let tells_what_was = state.tells_what_was(self.position);
        if branch.sends_all_rows() && had && tells_what_was {
            for row in state.rows().iter() {
                if view.saw(branch, &row.image.kept) {
                    let touched =
                        view.touched.row(branch.table, &row.image.key, true, self.position);
                    // A topic that waits to be loaded again still has the rows of before, and changes that
                    // were not kept may have moved them out before one was touched.
                    touched.was_visible |=
                        state.is_waiting() && state.is_touched_late(touched.first);
                    touched.was_held(row, at);
                }
            }
        }
        // What the stream brings of it still says what was there at the last message.
        let is_leaving = branch.sends_all_rows() && had && !tells_what_was;
        if is_leaving {
            view.leaving.insert(key);
            self.need_rows(key);
        } else {
            self.detach(view_key, key);
        }
        if branch.names_others() {
            for row in self.rows_of(key) {
                self.follow(view_key, branch_id, Some(&row), None);
            }
        }
        if !is_leaving {
            self.topics.drop_if_unseen(key);
        }
    }

    fn rows_of(&self, key: TopicKey) -> Vec<Arc<Row>> {
        self.topics[key].rows().iter().cloned().collect()
    }
}
