//! What follows when values enter or leave the sets of a view. Link rows that are asked whether they are in a
//! set count from then on, or do not any more; rows that the view sees by a set are touched, once, when the
//! next message is made: then it is known what a set has become, whatever it was in between. Topics whose rows
//! were not read are loaded for that.

use std::sync::Arc;

use rowtide_plan::plan::BranchId;
use rowtide_plan::row::{Image, Row};

use super::Engine;
use crate::sets::Moment;
use crate::topic::{Phase, TopicKey, ViewKey};
use crate::view::View;

impl Engine {
    /// Follows link rows of all views that are looked at, by what is in their sets now.
    pub(super) fn follow_sets(&mut self) {
        if self.plan.sets == 0 {
            return;
        }
        let marked = self.views.marked().to_vec();
        for key in marked {
            let has_changed = |view: &View| view.is_dirty && view.sets.any_differ(Moment::Followed);
            if self.views.get(key).is_some_and(has_changed) {
                self.follow_sets_of(key);
            }
        }
    }

    /// Goes through the branches in their order, in which all that fills a set comes before what asks it.
    fn follow_sets_of(&mut self, view_key: ViewKey) {
        let plan = Arc::clone(&self.plan);
        for (index, branch) in plan.branches.iter().enumerate() {
            let id = BranchId(index as u16);
            let view = &self.views[view_key];
            if !branch.names_others() || !view.sets.differ(Moment::Followed, branch) {
                continue;
            }
            let of_branch = |key: &TopicKey| self.topics[*key].id().branch == id;
            let topics: Vec<TopicKey> = view.reach.keys().copied().filter(of_branch).collect();
            for key in topics {
                let View { sets, claims, .. } = &self.views[view_key];
                let passes = |moment, row: &Row| sets.pass(moment, branch, &row.image.kept, claims);
                let rows = self.topics[key].rows().iter();
                let rows = rows
                    .filter(|row| sets.may_differ(Moment::Followed, branch, &row.image.kept))
                    .map(|row| (row, passes(Moment::Now, row)))
                    .filter(|(row, counts)| *counts != passes(Moment::Followed, row));
                let changed: Vec<(Arc<Row>, bool)> =
                    rows.map(|(row, counts)| (Arc::clone(row), counts)).collect();
                // All that is gained before anything is lost.
                for now_counts in [true, false] {
                    for (row, _) in changed.iter().filter(|(_, counts)| *counts == now_counts) {
                        self.count(view_key, id, &row.image, now_counts);
                    }
                }
            }
        }
        self.views[view_key].sets.were_followed();
    }

    /// The rows of topics that the view had are needed, if what is in its sets decides which of them it sees.
    pub(super) fn need_rows_of_sets(&mut self, view_key: ViewKey) {
        if self.plan.sets == 0 || self.views[view_key].resume().is_some() {
            return;
        }
        for key in self.topics_by_sets(view_key) {
            if matches!(self.topics[key].phase(), Phase::Unread) {
                self.need_rows(key);
            }
        }
    }

    /// Rows that were not touched since the last message, and were in it or are not any more because of what is in a set.
    pub(super) fn touch_by_sets(&mut self, view_key: ViewKey) {
        if self.plan.sets == 0 {
            return;
        }
        for key in self.topics_by_sets(view_key) {
            let state = &self.topics[key];
            let branch = self.plan.branch(state.id().branch);
            let view = &self.views[view_key];
            let differs = |row: &&Arc<Row>| {
                view.sets.may_differ(Moment::Told, branch, &row.image.kept)
                    && view.saw(branch, &row.image.kept) != view.sees(branch, &row.image.kept)
            };
            let changed: Vec<(Arc<Row>, bool)> = (state.rows().iter().filter(differs))
                .map(|row| (row, self.saw_row(view, &row.image)))
                .filter(|(row, saw)| *saw != self.sees_row(view, &row.image))
                .map(|(row, saw)| (Arc::clone(row), saw))
                .collect();
            let view = &mut self.views[view_key];
            for (row, saw) in changed {
                let touched = view.touched.row(branch.table, &row.image.key, saw, self.position);
                touched.was_held(&row);
            }
        }
    }

    /// Topics that the view had and reaches, and whose rows it may see otherwise because of what is in its sets.
    fn topics_by_sets(&self, view_key: ViewKey) -> Vec<TopicKey> {
        let view = &self.views[view_key];
        if !view.sets.any_differ(Moment::Told) {
            return Vec::new();
        }
        let differs = |key: &TopicKey| {
            let branch = self.plan.branch(self.topics[*key].id().branch);
            branch.published && view.had(*key) && view.sets.differ(Moment::Told, branch)
        };
        view.reach.keys().copied().filter(differs).collect()
    }

    /// Whether the view saw a row at its last message, that has not been touched since.
    fn saw_row(&self, view: &View, image: &Image) -> bool {
        image.topics.iter().any(|topic| {
            let branch = self.plan.branch(topic.branch);
            let had = self.topics.find(topic).is_some_and(|key| view.had(key));
            branch.published && had && view.saw(branch, &image.kept)
        })
    }

    /// Whether it sees that row now.
    fn sees_row(&self, view: &View, image: &Image) -> bool {
        image.topics.iter().any(|topic| {
            let branch = self.plan.branch(topic.branch);
            let key = self.topics.find(topic).filter(|key| view.reach.contains_key(key));
            branch.published && key.is_some() && view.sees(branch, &image.kept)
        })
    }
}
