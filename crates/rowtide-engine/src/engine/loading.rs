//! Loads that are asked for, arrive or fail. What was streamed and may not be visible to a load yet is
//! given to its topics when it is asked for; when it arrives it is fitted to the stream, and what it
//! changes in topics that views already have is touched.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_feed::Changes;
use rowtide_plan::map::IdSet;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::Image;
use rowtide_protocol::Lsn;

use super::Engine;
use crate::rows::Replaced;
use crate::sets::Moment;
use crate::topic::{Ahead, Pending, TopicKey, ViewKey};
use crate::topics::Topics;
use crate::view::View;
use crate::{LoadId, Loaded, TopicRows};

impl Engine {
    /// Gives topics that are about to be loaded the transactions that the load may not see.
    pub(super) fn seed_with_recent(&mut self, keys: &[TopicKey]) {
        // A load that only asks what is visible has no topics, and while a backlog is drained it comes with every tick.
        if keys.is_empty() {
            return;
        }
        let (plan, topics) = (&self.plan, &mut self.topics);
        let keep = |topics: &mut Topics, tables: Option<&[TableId]>, step: Pending| {
            for key in keys {
                let topic = &mut topics[*key];
                let table = plan.branch(topic.id().branch).table;
                if tables.is_none_or(|tables| tables.contains(&table)) {
                    topic.keep(|| step.clone());
                }
            }
        };
        let ours: IdSet<TopicKey> = keys.iter().copied().collect();
        for entry in self.loads.recent().iter() {
            let xid = entry.xid;
            let Some(transaction) = &entry.transaction else {
                keep(topics, None, Pending::Unknown { xid });
                continue;
            };
            if !transaction.truncated.is_empty() {
                keep(topics, Some(&transaction.truncated), Pending::Truncated { xid });
            }
            let changes = match &transaction.changes {
                Changes::TooLarge(tables) => {
                    keep(topics, Some(tables), Pending::Unknown { xid });
                    continue;
                }
                Changes::Rows(changes) => changes,
            };
            for (index, change) in changes.iter().enumerate() {
                for topic in change.topics() {
                    if let Some(key) = topics.find(topic).filter(|key| ours.contains(key)) {
                        let transaction = Arc::clone(transaction);
                        topics[key].keep(|| Pending::Change { transaction, index });
                    }
                }
            }
        }
    }

    pub(super) fn loaded(&mut self, id: LoadId, loaded: Loaded) {
        let Some(keys) = self.loads.end(id) else { return };
        self.loads.saw(&loaded.snapshot);
        let snapshot = Arc::new(loaded.snapshot.clone());
        let ahead = Ahead::of(&loaded, &snapshot, self.position);
        for (key, rows) in keys.into_iter().zip(loaded.rows) {
            let Some(pending) = self.end_load(key, id) else {
                rows.into_iter().for_each(|rows| self.topics.discard(rows));
                continue;
            };
            let Some(mut rows) = rows else {
                self.loads.postpone(key);
                continue;
            };
            if pending.iter().any(|step| step.is_missing_from(&snapshot)) {
                self.topics.discard(rows);
                self.loads.want(key);
                continue;
            }
            self.topics[key].prefix.iter_mut().for_each(|prefix| prefix.was_loaded(&rows));
            self.topics[key].fit(&mut rows, &pending, &snapshot);
            let was_read = self.topics[key].was_read();
            self.change_phase(key, |topic| topic.was_loaded(ahead.clone()));
            let until = ahead.as_ref().map(|ahead| ahead.until);
            if let Some(until) = until {
                self.topics.runs_ahead(key, until);
            }
            let state = &self.topics[key];
            for view_key in state.views() {
                let view = self.views.mark(*view_key);
                view.hold_until(until);
                if state.turns().are_any() {
                    view.turned.insert(key);
                }
            }
            self.replace_rows(key, rows, was_read);
        }
    }

    pub(super) fn load_failed(&mut self, id: LoadId) {
        for key in self.loads.end(id).unwrap_or_default() {
            if self.end_load(key, id).is_some() {
                self.loads.want(key);
            }
        }
    }

    /// Rows of `tables` are of another plan from `lsn` on, in which they have more columns. Their topics are loaded again, and
    /// whoever has them is told of all that is different.
    pub(super) fn reshape(&mut self, lsn: Lsn, tables: &[TableId], plan: Arc<Plan>) {
        if lsn <= self.position {
            return;
        }
        self.plan = plan;
        self.position = lsn;
        self.loads.reshape(tables);
        self.reshape_resumes(lsn, tables);
        for table in tables {
            for key in self.topics.of_table(&self.plan, *table) {
                let state = &self.topics[key];
                let views = state.views().iter().copied();
                let had: Vec<ViewKey> = views.filter(|view| self.views[*view].had(key)).collect();
                if !state.was_read() {
                    // There is nothing to compare with.
                    for view in &had {
                        self.views.mark(*view).retold.insert(key);
                    }
                }
                if self.change_phase(key, |topic| topic.reshape(lsn, !had.is_empty())) {
                    self.loads.want(key);
                }
            }
        }
    }

    /// What was streamed for a topic while `id` was under way; `None` if it is not part of that load
    /// (any more).
    fn end_load(&mut self, key: TopicKey, id: LoadId) -> Option<Vec<Pending>> {
        self.topics.get(key)?;
        self.change_phase(key, |topic| topic.end_load(id))
    }

    /// Puts `rows` in the place of a topic's rows: what differs is touched in the views that had the
    /// topic, and links are followed. If it was not read before, they had its rows from elsewhere, and what
    /// has changed since was touched as it was streamed.
    pub(super) fn replace_rows(&mut self, key: TopicKey, rows: TopicRows, was_read: bool) {
        let state = &self.topics[key];
        let branch_id = state.id().branch;
        let plan = Arc::clone(&self.plan);
        let branch = plan.branch(branch_id);
        let (has_links, published) = (branch.names_others(), branch.published);
        if branch.window.is_some() {
            for view in state.views() {
                self.views.mark(*view).windows_are_stale = true;
            }
        }
        // Views that have sent the topic's rows before; none when it is loaded for the first time.
        let informed =
            was_read && published && state.views().iter().any(|view| self.views[*view].had(key));
        if !has_links && !informed {
            let old = self.topics.put_rows(key, rows);
            return self.topics.discard(old);
        }
        let changed = rows.changed_since(state.rows());
        let old_rows = self.topics.put_rows(key, rows);
        let views: Vec<ViewKey> = self.topics[key].views().iter().copied().collect();
        let reached_by = self.reached_by(key);
        for view_key in views {
            if informed && self.views[view_key].had(key) {
                self.touch_replaced(view_key, key, &old_rows, &changed);
            }
            if has_links && reached_by.contains(&view_key) {
                // All that is gained before anything is lost.
                for (before, after) in &changed {
                    if let Some(after) = after
                        && before.as_ref().is_none_or(|b| b.image.kept != after.image.kept)
                    {
                        self.follow(view_key, branch_id, None, Some(after));
                    }
                }
                for (before, after) in &changed {
                    if let Some(before) = before
                        && after.as_ref().is_none_or(|a| a.image.kept != before.image.kept)
                    {
                        self.follow(view_key, branch_id, Some(before), None);
                    }
                }
            }
        }
        self.topics.discard(old_rows);
    }

    /// The rows of a topic that `view` had are others now: notes which of them it saw before.
    fn touch_replaced(
        &mut self,
        view_key: ViewKey,
        key: TopicKey,
        old_rows: &TopicRows,
        changed: &[Replaced],
    ) {
        let state = &self.topics[key];
        let branch = self.plan.branch(state.id().branch);
        let saw_here = |view: &View, row_key: &Bytes| {
            let old = old_rows.get(row_key);
            old.is_some_and(|old| view.saw(branch, &old.image.kept))
        };
        let view = &self.views[view_key];
        // Of a window it is known which rows were told; where all of them are now is looked up when it is looked through.
        let was_told = |(before, after): &&Replaced| {
            let row = before.as_ref().or(after.as_ref());
            let told = |id| row.is_some_and(|row| view.had_in_window(id, &row.image.key));
            branch.window.is_none_or(told)
        };
        let changed: Vec<Replaced> = changed.iter().filter(was_told).cloned().collect();
        let saw: Vec<bool> = changed
            .iter()
            .map(|(before, after)| {
                let images = before.iter().chain(after).map(|row| &row.image);
                images.clone().any(|image| saw_here(view, &image.key))
                    || images.clone().any(|image| self.had_row_elsewhere(view, image, key))
            })
            .collect();
        let at = self.stands_at();
        let view = self.views.mark(view_key);
        // Changes that were not kept may have moved a touched row out, and in again.
        let (sets, claims, told_at) = (&view.sets, &view.claims, view.told_at);
        for touched in view.touched.of_table(branch.table) {
            let old = old_rows.get(&touched.key).filter(|_| state.is_touched_late(touched.first));
            touched.was_visible |= old.is_some_and(|old| {
                sets.pass(Moment::Told, branch, &old.image.kept, claims, told_at)
            });
            if let Some(row) = state.rows().get(&touched.key) {
                touched.was_loaded(row, state.ahead(), at);
            }
        }
        for ((before, after), saw) in changed.iter().zip(saw) {
            let Some(row) = after.as_ref().or(before.as_ref()) else { continue };
            let touched = view.touched.row(branch.table, &row.image.key, saw, self.position);
            match after {
                Some(after) => touched.was_loaded(after, state.ahead(), at),
                // It may have been seen in another topic since.
                None => touched.was_held(row, at),
            }
        }
    }

    /// Whether a row that has not been touched since the last message was part of it by another topic than
    /// `replaced`, whose rows are new ones.
    fn had_row_elsewhere(&self, view: &View, image: &Image, replaced: TopicKey) -> bool {
        image.topics.iter().any(|topic| {
            let branch = self.plan.branch(topic.branch);
            let others = |key: &TopicKey| *key != replaced && view.had(*key);
            let Some(key) = self.topics.find(topic).filter(others) else {
                return false;
            };
            let row = self.topics[key].rows().get(&image.key);
            branch.sends_all_rows() && row.is_some_and(|row| view.saw(branch, &row.image.kept))
        })
    }
}
