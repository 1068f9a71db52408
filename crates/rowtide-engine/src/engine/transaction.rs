//! What a transaction does to topics. The first pass notes, before anything moves, which views saw
//! each row; the second moves rows between topics. A topic that is being loaded only keeps the change,
//! and one that runs ahead of the stream and has seen it skips it.

use std::sync::Arc;

use rowtide_plan::plan::TableId;
use rowtide_plan::row::{Change, Changes, Settlement, Topic, Transaction};

use super::{Engine, Session, mark};
use crate::topic::{Pending, Phase, Rows, TopicKey, TopicState, ViewKey, key_of};

impl Engine {
    pub(super) fn transaction(&mut self, transaction: &Arc<Transaction>) {
        if transaction.lsn <= self.position {
            return;
        }
        for table in &transaction.truncated {
            self.truncate(*table, transaction.xid);
        }
        match &transaction.changes {
            Changes::Rows(changes) => {
                let concerned: Vec<usize> = (0..changes.len())
                    .filter(|index| self.note_who_saw(&changes[*index]))
                    .collect();
                for index in concerned {
                    self.apply(transaction, index, &changes[index]);
                }
            }
            Changes::TooLarge(tables) => self.reload(tables, transaction.xid),
        }
        for settlement in &transaction.settlements {
            self.settled(settlement);
        }
        self.recent.push(transaction);
        self.position = transaction.lsn;
        self.commit_time_us = Some(transaction.commit_time_us);
    }

    /// The first pass: which views saw the row, which may see it. Returns whether any topic in use is
    /// concerned.
    fn note_who_saw(&mut self, change: &Change) -> bool {
        let mut concerned = false;
        let images =
            [(change.old.as_ref(), true), (change.new.as_ref().map(|row| &row.image), false)];
        for (image, before) in images {
            let Some(image) = image else { continue };
            for topic in &image.topics {
                let Some(&key) = self.index.get(topic) else { continue };
                concerned = true;
                let branch = self.plan.branch(topic.branch);
                if !branch.published {
                    continue;
                }
                for view_key in &self.topics[key].views {
                    let view = &mut self.views[*view_key];
                    if before {
                        if !view.had(key) || !branch.claim_filter.passes(&image.kept, &view.claims)
                        {
                            continue;
                        }
                        view.touched.row(change.table, &image.key, true);
                    } else {
                        let row = view.touched.row(change.table, &image.key, false);
                        row.latest.clone_from(&change.new);
                    }
                    mark(&mut self.dirty, *view_key, view);
                }
            }
        }
        concerned
    }

    /// The second pass: the topics that the row leaves, enters or stays in.
    fn apply(&mut self, transaction: &Arc<Transaction>, index: usize, change: &Change) {
        let old: &[Topic] = change.old.as_ref().map_or(&[], |image| &image.topics);
        let new: &[Topic] = change.new.as_ref().map_or(&[], |row| &row.image.topics);
        for topic in old.iter().chain(new.iter().filter(|topic| !old.contains(topic))) {
            // Looked up anew: a link that changed just before may have dropped or added topics.
            let Some(&key) = self.index.get(topic) else { continue };
            let state = &mut self.topics[key];
            if state.has_seen(transaction.xid) {
                continue;
            }
            match &mut state.phase {
                Phase::Wanted => continue,
                Phase::Loading { pending, .. } => {
                    let transaction = Arc::clone(transaction);
                    pending.push(Pending::Change { transaction, index });
                    continue;
                }
                Phase::Loaded { .. } => {}
            }
            let before = match state.row_after(change).cloned() {
                Some(row) => state.rows.insert(row.image.key.clone(), row),
                None => state.rows.remove(key_of(change)),
            };
            let branch = topic.branch;
            if !self.plan.branch(branch).links.is_empty() {
                let after = state.row_after(change).cloned();
                let views: Vec<ViewKey> = state.views.iter().copied().collect();
                for view in views {
                    self.follow(view, branch, before.as_ref(), after.as_ref());
                }
            }
        }
    }

    /// The sessions of a client are told with the next message of their views, which has the effects.
    fn settled(&mut self, settlement: &Arc<Settlement>) {
        for session in self.clients.get(&settlement.client).into_iter().flatten() {
            let Some(&Session { view: key, .. }) = self.sessions.get(session) else { continue };
            let view = &mut self.views[key];
            view.settled.push((*session, Arc::clone(settlement)));
            mark(&mut self.dirty, key, view);
        }
    }

    fn truncate(&mut self, table: TableId, xid: u32) {
        for key in self.topics_of(table) {
            // Gone if another topic of this table named it.
            let Some(state) = self.topics.get_mut(key).filter(|state| !state.has_seen(xid)) else {
                continue;
            };
            match &mut state.phase {
                Phase::Wanted => {}
                Phase::Loading { pending, .. } => pending.push(Pending::Truncated { xid }),
                Phase::Loaded { .. } => self.replace_rows(key, Rows::default()),
            }
        }
    }

    /// A transaction changed too much of `tables`: their topics are to be loaded again.
    fn reload(&mut self, tables: &[TableId], xid: u32) {
        let keys: Vec<TopicKey> = tables.iter().flat_map(|table| self.topics_of(*table)).collect();
        for key in keys {
            let state = &mut self.topics[key];
            if state.has_seen(xid) {
                continue;
            }
            match &mut state.phase {
                Phase::Wanted => {}
                Phase::Loading { pending, .. } => pending.push(Pending::Unknown { xid }),
                Phase::Loaded { .. } => {
                    state.phase = Phase::Wanted;
                    self.wanted.push_back(key);
                    for view in &state.views {
                        self.views[*view].waiting += 1;
                    }
                }
            }
        }
    }

    fn topics_of(&self, table: TableId) -> Vec<TopicKey> {
        let of_table = |(key, state): (TopicKey, &TopicState)| {
            (self.plan.branch(state.topic.branch).table == table).then_some(key)
        };
        self.topics.iter().filter_map(of_table).collect()
    }
}
