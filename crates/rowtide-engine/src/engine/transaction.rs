//! What a transaction does to topics. The first pass notes, before anything moves, which views saw
//! each row; the second moves rows between topics. A topic that is being loaded only keeps the change,
//! and one that runs ahead of the stream and has seen it skips it.

use std::sync::Arc;

use rowtide_feed::{Acknowledgement, Change, Changes, Transaction};
use rowtide_plan::map::IdSet;
use rowtide_plan::plan::TableId;

use super::{Engine, Output};
use crate::TopicRows;
use crate::sessions::SessionId;
use crate::topic::{Pending, Phase, TopicKey, ViewKey};
use crate::window::Prefix;

impl Engine {
    pub(super) fn transaction(&mut self, transaction: &Arc<Transaction>, out: &mut Vec<Output>) {
        if transaction.lsn <= self.position {
            return;
        }
        self.interrupt(transaction, out);
        self.note_for_resumes(transaction);
        self.taking = Some(transaction.lsn);
        for table in &transaction.truncated {
            self.truncate(*table, transaction.xid);
        }
        match &transaction.changes {
            Changes::Rows(changes) => {
                let concerned: Vec<usize> = (0..changes.len())
                    .filter(|index| self.note_who_saw(&changes[*index], transaction.xid))
                    .collect();
                for index in concerned {
                    self.apply(transaction, index, &changes[index]);
                }
            }
            Changes::TooLarge(tables) => self.reload(tables, transaction),
        }
        for acknowledgement in &transaction.acknowledgements {
            self.acknowledge(acknowledgement);
        }
        self.pass_time(transaction.commit_time_us);
        self.loads.streamed(transaction);
        self.position = transaction.lsn;
        self.taking = None;
        self.commit_time_us = Some(transaction.commit_time_us);
    }

    /// The first pass: which views saw the row, which may see it. Returns whether any topic in use is
    /// concerned.
    fn note_who_saw(&mut self, change: &Change, xid: u32) -> bool {
        let mut concerned = false;
        let at = self.stands_at();
        let images = [(change.before(), true), (change.after().map(|row| &row.image), false)];
        for (image, before) in images {
            let Some(image) = image else { continue };
            for topic in &image.topics {
                let Some(key) = self.topics.find(topic) else { continue };
                concerned = true;
                let branch = self.plan.branch(topic.branch);
                if !branch.published {
                    continue;
                }
                let state = &self.topics[key];
                let rank = state.prefix.as_ref().map(|prefix| prefix.rank(image));
                let is_known = state.prefix.as_ref().zip(rank.as_ref());
                let is_known = is_known.is_none_or(|(prefix, rank)| prefix.covers(rank));
                // A load that has seen this change may have seen later ones that were not kept.
                let newer = state.has_seen(xid).then(|| state.rows().get(&image.key)).flatten();
                for view_key in state.views() {
                    let view = &self.views[*view_key];
                    let was_visible = match branch.window {
                        Some(window) => view.had_in_window(window, &image.key),
                        None => before && view.had(key) && view.saw(branch, &image.kept),
                    };
                    let may_be_seen = match (branch.window, &rank) {
                        (Some(window), Some(rank)) => {
                            let window = view.window(window);
                            is_known && window.is_some_and(|of| of.may_differ(&image.key, rank))
                        }
                        _ => !before,
                    };
                    if !was_visible && !may_be_seen {
                        continue;
                    }
                    let view = self.views.mark(*view_key);
                    view.windows_are_stale |= branch.window.is_some();
                    let row =
                        view.touched.row(change.table, &image.key, was_visible, self.position);
                    match newer {
                        Some(newer) => row.was_loaded(newer, state.ahead(), at),
                        None => row.was_streamed(change.after(), xid, at),
                    }
                }
            }
        }
        concerned
    }

    /// The second pass: the topics that the row leaves, enters or stays in.
    fn apply(&mut self, transaction: &Arc<Transaction>, index: usize, change: &Change) {
        for topic in change.topics() {
            // Looked up anew: a link that changed just before may have dropped or added topics.
            let Some(key) = self.topics.find(topic) else { continue };
            let state = &mut self.topics[key];
            if state.has_seen(transaction.xid) {
                continue;
            }
            state.keep(|| Pending::Change { transaction: Arc::clone(transaction), index });
            if !matches!(state.phase(), Phase::Loaded { .. }) {
                continue;
            }
            let before = self.topics.change_row(key, change);
            let branch = topic.branch;
            if self.plan.branch(branch).names_others() {
                let after = self.topics[key].row_after(change).cloned();
                for view in self.reached_by(key) {
                    self.follow(view, branch, before.as_ref(), after.as_ref());
                }
            }
        }
    }

    /// The sessions of a client are told with the next message of their views, which has the effects.
    fn acknowledge(&mut self, acknowledgement: &Arc<Acknowledgement>) {
        for (session, key) in self.sessions.told_of(acknowledgement) {
            let view = self.views.mark(key);
            view.acknowledgements.push((session, Arc::clone(acknowledgement)));
        }
    }

    fn truncate(&mut self, table: TableId, xid: u32) {
        for key in self.topics.of_table(&self.plan, table) {
            // Gone if another topic of this table named it.
            let Some(state) = self.topics.get_mut(key).filter(|state| !state.has_seen(xid)) else {
                continue;
            };
            state.keep(|| Pending::Truncated { xid });
            if matches!(state.phase(), Phase::Loaded { .. }) {
                state.prefix.iter_mut().for_each(Prefix::was_emptied);
                self.replace_rows(key, TopicRows::default(), true);
            }
        }
    }

    /// A transaction changed too much of `tables`: their topics are to be loaded again.
    fn reload(&mut self, tables: &[TableId], transaction: &Transaction) {
        let xid = transaction.xid;
        let of_table = |table: &TableId| self.topics.of_table(&self.plan, *table);
        let keys: Vec<TopicKey> = tables.iter().flat_map(of_table).collect();
        for key in keys {
            let state = &mut self.topics[key];
            if state.has_seen(xid) {
                continue;
            }
            state.keep(|| Pending::Unknown { xid });
            if matches!(state.phase(), Phase::Loaded { .. }) {
                self.change_phase(key, |topic| topic.outdate(transaction.lsn));
                self.loads.want(key);
            }
        }
    }

    /// Whom a topic's links concern; those whom it is leaving do not follow them any more.
    pub(super) fn reached_by(&self, key: TopicKey) -> Vec<ViewKey> {
        let reach = |view: &&ViewKey| self.views[**view].reach.contains_key(&key);
        self.topics[key].views().iter().filter(reach).copied().collect()
    }

    /// Of a table that is truncated, or changed beyond what can be held, the rows that were visible are
    /// known only where they were read. Whoever has others comes back and is sent all of them.
    fn interrupt(&mut self, transaction: &Transaction, out: &mut Vec<Output>) {
        let too_large = match &transaction.changes {
            Changes::TooLarge(tables) => tables.as_slice(),
            Changes::Rows(_) => &[],
        };
        for table in transaction.truncated.iter().chain(too_large) {
            self.interrupt_resumes(*table, out);
            let mut views: IdSet<ViewKey> = IdSet::default();
            for key in self.topics.of_table(&self.plan, *table) {
                let state = &self.topics[key];
                // What was told of a window is known.
                if state.prefix.is_none() && state.cannot_compare(transaction.xid, self.position) {
                    views.extend(state.views().iter().filter(|view| self.views[**view].had(key)));
                }
            }
            for key in views {
                if self.views.get(key).is_none() {
                    continue;
                }
                let view = &mut self.views[key];
                view.was_changed_unseen();
                let sessions: Vec<SessionId> =
                    view.live.iter().copied().chain(view.returning()).collect();
                for session in sessions {
                    out.push(Output::Reset { session });
                    self.close(session);
                }
            }
        }
    }
}
