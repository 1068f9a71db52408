//! How views gain and lose topics. A view counts its reasons for reaching a topic: its claims, and
//! every link row that it sees. With the first reason it gains the topic and follows the topic's own
//! links; with the last it loses it, and what only that topic had made visible is touched.

use std::sync::Arc;

use rowtide_plan::plan::BranchId;
use rowtide_plan::row::{Image, Row, Topic};

use super::{Engine, mark};
use crate::topic::{TopicKey, TopicState, ViewKey};

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
        let key = match self.index.get(&topic) {
            Some(key) => *key,
            None => {
                let key = self.topics.insert(TopicState::new(topic.clone()));
                self.index.insert(topic, key);
                self.wanted.push_back(key);
                key
            }
        };
        let view = &mut self.views[view_key];
        let count = view.reach.entry(key).or_insert(0);
        *count += 1;
        if *count > 1 {
            return;
        }
        let state = &mut self.topics[key];
        state.views.insert(view_key);
        view.gained.insert(key);
        view.release_at = view.release_at.max(state.ahead_until());
        view.waiting += usize::from(!state.is_loaded());
        mark(&mut self.dirty, view_key, view);
        if !self.plan.branch(branch).links.is_empty() {
            for row in self.rows_of(key) {
                self.follow(view_key, branch, None, Some(&row));
            }
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
        view.waiting -= usize::from(!state.is_loaded());
        state.views.remove(&view_key);
        mark(&mut self.dirty, view_key, view);
        let branch_id = state.topic.branch;
        let branch = self.plan.branch(branch_id);
        if branch.published && had {
            for row in state.rows.values() {
                if branch.claim_filter.passes(&row.image.kept, &view.claims) {
                    let touched = view.touched.row(branch.table, &row.image.key, true);
                    // A topic that waits to be loaded again still has the rows of the last message,
                    // and changes that were not kept may have moved them meanwhile.
                    touched.was_visible |= !state.is_loaded();
                    touched.latest.get_or_insert_with(|| Arc::clone(row));
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
        self.topics[key].rows.values().cloned().collect()
    }

    pub(super) fn drop_if_unseen(&mut self, key: TopicKey) {
        if self.topics[key].views.is_empty() {
            let state = self.topics.remove(key);
            self.index.remove(&state.topic);
        }
    }
}
