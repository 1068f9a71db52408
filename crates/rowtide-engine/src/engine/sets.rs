//! What follows when values enter or leave the sets of a view. Link rows that are asked whether they are in a
//! set count from then on, or do not any more; rows that the view sees by a set are touched, once, when the
//! next message is made: then it is known what a set has become, whatever it was in between. Topics whose rows
//! were not read are loaded for that.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
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
            if !branch.names_others() || !view.sets.differ(Moment::Followed, branch, None) {
                continue;
            }
            let may_differ = |key: &TopicKey| {
                let is_of_branch = self.topics[*key].id().branch == id;
                is_of_branch && self.may_differ(view, *key, Moment::Followed)
            };
            let topics: Vec<TopicKey> = view.reach.keys().copied().filter(may_differ).collect();
            for key in topics {
                let rows = self.rows_by_sets(view_key, key, Moment::Followed);
                let View { sets, claims, .. } = &self.views[view_key];
                let at = self.time.now;
                let passes =
                    |moment, row: &Row| sets.pass(moment, branch, &row.image.kept, claims, at);
                let changed: Vec<(Arc<Row>, bool)> = (rows.into_iter())
                    .map(|row| (passes(Moment::Now, &row), row))
                    .filter(|(counts, row)| *counts != passes(Moment::Followed, row))
                    .map(|(counts, row)| (row, counts))
                    .collect();
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
            let rows = self.rows_by_sets(view_key, key, Moment::Told);
            self.touch_changed(view_key, key, rows);
        }
    }

    /// Touches those of a topic's rows that the view saw and does not see any more, or the other way round.
    pub(super) fn touch_changed(&mut self, view_key: ViewKey, key: TopicKey, rows: Vec<Arc<Row>>) {
        let at = self.stands_at();
        let branch = self.plan.branch(self.topics[key].id().branch);
        if !branch.sends_all_rows() {
            return;
        }
        let view = &self.views[view_key];
        let changed: Vec<(Arc<Row>, bool)> = (rows.into_iter())
            .map(|row| (self.saw_row(view, &row.image), row))
            .filter(|(saw, row)| *saw != self.sees_row(view, &row.image))
            .map(|(saw, row)| (row, saw))
            .collect();
        let view = &mut self.views[view_key];
        for (row, saw) in changed {
            let touched = view.touched.row(branch.table, &row.image.key, saw, self.position);
            touched.was_held(&row, at);
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
            branch.sends_all_rows() && view.had(*key) && self.may_differ(view, *key, Moment::Told)
        };
        view.reach.keys().copied().filter(differs).collect()
    }

    /// Whether rows of a topic may be judged otherwise than at that moment: those of a topic whose own anchor is asked for
    /// are not, when other values come and go.
    fn may_differ(&self, view: &View, key: TopicKey, moment: Moment) -> bool {
        let topic = self.topics[key].id();
        let branch = self.plan.branch(topic.branch);
        let mut kept = self.plan.table(branch.table).kept.iter();
        let anchor = kept.position(|column| Some(*column) == branch.anchor);
        view.sets.differ(moment, branch, anchor.zip(topic.anchor.as_ref()))
    }

    /// The rows of a topic that may be judged otherwise than at that moment, because of what is in the view's sets.
    fn rows_by_sets(&mut self, view_key: ViewKey, key: TopicKey, moment: Moment) -> Vec<Arc<Row>> {
        let branch = self.plan.branch(self.topics[key].id().branch);
        let flips = self.views[view_key].sets.flips(moment, branch);
        let len = self.topics[key].rows().len();
        let mut keys: BTreeSet<Bytes> = BTreeSet::new();
        for flip in flips {
            let Some(members) = flip.members.filter(|members| members.len() < len) else {
                return self.topics[key].rows().iter().cloned().collect();
            };
            let rows = self.topics.by_value(key, &flip.columns);
            keys.extend(members.iter().flat_map(|member| rows.with(member)).cloned());
            if flip.with_null {
                keys.extend(rows.with_null().cloned());
            }
        }
        let rows = self.topics[key].rows();
        keys.iter().filter_map(|key| rows.get(key)).cloned().collect()
    }

    /// Whether the view saw a row at its last message, that has not been touched since.
    fn saw_row(&self, view: &View, image: &Image) -> bool {
        image.topics.iter().any(|topic| {
            let branch = self.plan.branch(topic.branch);
            let had = self.topics.find(topic).is_some_and(|key| view.had(key));
            branch.sends_all_rows() && had && view.saw(branch, &image.kept)
        })
    }

    /// Whether it sees that row now.
    fn sees_row(&self, view: &View, image: &Image) -> bool {
        image.topics.iter().any(|topic| {
            let branch = self.plan.branch(topic.branch);
            let key = self.topics.find(topic).filter(|key| view.reach.contains_key(key));
            branch.sends_all_rows()
                && key.is_some()
                && view.sees(branch, &image.kept, self.time.now)
        })
    }
}
