//! How views gain and lose topics. A view counts its reasons for reaching a topic: its claims, and
//! every link row that it sees. With the first reason it gains the topic and follows the topic's own
//! links; with the last it loses it, and what only that topic had made visible is touched.

use std::sync::Arc;

use rowtide_plan::plan::BranchId;
use rowtide_plan::row::{Image, Row, Topic};

use super::{Engine, mark};
use crate::topic::{Phase, TopicKey, TopicState, ViewKey};

/// Which topics a view needs the rows of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// Of each.
    All,
    /// Of those only whose rows name other topics.
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
        for topic in after.map_or_else(Vec::new, |row| self.named(view, branch, &row.image)) {
            self.reach(view, topic);
        }
        for topic in before.map_or_else(Vec::new, |row| self.named(view, branch, &row.image)) {
            let key = self.index[&topic];
            self.unreach(view, key);
        }
    }

    /// The topics that a row of `branch` names for `view`.
    fn named(&self, view: ViewKey, branch: BranchId, image: &Image) -> Vec<Topic> {
        let branch = self.plan.branch(branch);
        if branch.links.is_empty()
            || !branch.claim_filter.passes(&image.kept, &self.views[view].claims)
        {
            return Vec::new();
        }
        let named = branch.links.iter().map(|link| (link.target, &image.kept[link.column]));
        named
            .filter(|(_, value)| !value.is_null())
            .map(|(branch, value)| Topic { branch, anchor: Some(value.clone()) })
            .collect()
    }

    /// One more reason for `view` to reach `topic`.
    pub(super) fn reach(&mut self, view_key: ViewKey, topic: Topic) {
        let branch = topic.branch;
        // Whether a client that comes back must be sent the rows of a topic is not known yet.
        let rows = if self.views[view_key].resume.is_some() { Rows::IfItNames } else { Rows::All };
        let key = self.topic(topic, rows);
        let view = &mut self.views[view_key];
        let count = view.reach.entry(key).or_insert(0);
        *count += 1;
        if *count > 1 {
            return;
        }
        mark(&mut self.dirty, view_key, view);
        let was_leaving = view.leaving.remove(&key);
        // Otherwise it was there at the last message, and is again.
        if !was_leaving || view.resume.is_some() {
            view.gained.insert(key);
        }
        if !was_leaving {
            self.join(view_key, key);
        }
        if !self.plan.branch(branch).links.is_empty() {
            for row in self.rows_of(key) {
                self.follow(view_key, branch, None, Some(&row));
            }
        }
    }

    /// The topic, in use from now on; its rows are loaded if they have to be.
    fn topic(&mut self, topic: Topic, rows: Rows) -> TopicKey {
        let needed = rows == Rows::All || !self.plan.branch(topic.branch).links.is_empty();
        let key = match self.index.get(&topic) {
            Some(key) => *key,
            None => {
                let key = self.topics.insert(TopicState::new(topic.clone(), Phase::Unread));
                self.index.insert(topic, key);
                key
            }
        };
        if needed {
            self.need_rows(key);
        }
        key
    }

    /// A topic that was not read must be.
    pub(super) fn need_rows(&mut self, key: TopicKey) {
        let state = &mut self.topics[key];
        if matches!(state.phase, Phase::Unread) {
            state.phase = Phase::Wanted;
            self.wanted.push_back(key);
            for view in &state.views {
                self.views[*view].waiting += 1;
            }
        }
    }

    /// The view waits for what the topic waits for.
    fn join(&mut self, view_key: ViewKey, key: TopicKey) {
        let (view, state) = (&mut self.views[view_key], &mut self.topics[key]);
        state.views.insert(view_key);
        view.release_at = view.release_at.max(state.ahead_until());
        view.waiting += usize::from(state.is_waiting());
    }

    /// Keeps a topic that was in reach at the last message and is not now, until its rows are known.
    pub(super) fn keep_leaving(&mut self, view_key: ViewKey, topic: Topic) {
        let key = self.topic(topic, Rows::All);
        if self.views[view_key].leaving.insert(key) {
            self.join(view_key, key);
        }
    }

    /// The rows of topics that have left are known: those that were not touched since the last message were
    /// part of it.
    pub(super) fn take_leave(&mut self, view_key: ViewKey) {
        for key in std::mem::take(&mut self.views[view_key].leaving) {
            let (view, state) = (&mut self.views[view_key], &mut self.topics[key]);
            let branch = self.plan.branch(state.topic.branch);
            for row in state.rows.iter().filter(|_| branch.published) {
                if branch.claim_filter.passes(&row.image.kept, &view.claims) {
                    let touched =
                        view.touched.row(branch.table, &row.image.key, true, self.position);
                    touched.was_held(row);
                }
            }
            state.views.remove(&view_key);
            self.drop_if_unseen(key);
        }
    }

    /// One reason less; with the last, the rows that only this topic made visible are gone.
    fn unreach(&mut self, view_key: ViewKey, key: TopicKey) {
        let view = &mut self.views[view_key];
        let count = view.reach.get_mut(&key).expect("a view reaches what its link rows name");
        *count -= 1;
        if *count > 0 {
            return;
        }
        let state = &mut self.topics[key];
        view.reach.remove(&key);
        let had = !view.gained.remove(&key);
        mark(&mut self.dirty, view_key, view);
        let branch_id = state.topic.branch;
        let branch = self.plan.branch(branch_id);
        if branch.published && had && !state.was_read {
            view.leaving.insert(key);
            self.need_rows(key);
            return;
        }
        view.waiting -= usize::from(state.is_waiting());
        state.views.remove(&view_key);
        if branch.published && had {
            for row in state.rows.iter() {
                if branch.claim_filter.passes(&row.image.kept, &view.claims) {
                    let touched =
                        view.touched.row(branch.table, &row.image.key, true, self.position);
                    // A topic that waits to be loaded again still has the rows of before, and changes that
                    // were not kept may have moved them out before one was touched.
                    touched.was_visible |= state.is_waiting() && touched.first >= state.outdated_at;
                    touched.was_held(row);
                }
            }
        }
        if !branch.links.is_empty() {
            for row in self.rows_of(key) {
                self.follow(view_key, branch_id, Some(&row), None);
            }
        }
        self.drop_if_unseen(key);
    }

    fn rows_of(&self, key: TopicKey) -> Vec<Arc<Row>> {
        self.topics[key].rows.iter().cloned().collect()
    }

    pub(super) fn drop_if_unseen(&mut self, key: TopicKey) {
        if self.topics[key].views.is_empty() {
            self.discard_rows(key);
            let state = self.topics.remove(key);
            self.index.remove(&state.topic);
        }
    }
}
