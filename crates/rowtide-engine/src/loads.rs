//! What is to be asked of Postgres and of the log, what is asked already, and what a load may not see yet.
//! The more topics are wanted before the caller asks for a load, the fewer loads there are.

use std::collections::VecDeque;
use std::sync::Arc;

use rowtide_feed::Transaction;
use rowtide_plan::map::IdMap;
use rowtide_plan::plan::TableId;
use rowtide_plan::row::Topic;
use rowtide_protocol::Lsn;

use crate::recent::Recent;
use crate::topic::{TopicKey, ViewKey};
use crate::{HistoryId, HistoryRequest, LoadId, TransactionSnapshot};

/// Questions, and who waits for their answers.
#[derive(Debug)]
pub(crate) struct Loads {
    /// Topics that wait for a load; may hold keys that are no longer, or are another topic now.
    wanted: VecDeque<TopicKey>,
    /// Topics that could not be read, and are not asked for before the next tick.
    postponed: Vec<TopicKey>,
    under_way: IdMap<LoadId, Vec<TopicKey>>,
    next_load: u64,
    recent: Recent,
    /// Whether to ask for a snapshot even if no topic is wanted.
    probe: bool,
    /// Behind when a commit is wanted.
    commit_behind_us: Option<i64>,
    questions: VecDeque<HistoryRequest>,
    asked: IdMap<HistoryId, ViewKey>,
    next_history: u64,
}

impl Loads {
    /// Nothing is asked; a load may not see the transactions `recent` yet.
    pub(crate) fn new(recent: &[Arc<Transaction>]) -> Loads {
        Loads {
            wanted: VecDeque::new(),
            postponed: Vec::new(),
            under_way: IdMap::default(),
            next_load: 0,
            recent: Recent::of(recent),
            probe: false,
            commit_behind_us: None,
            questions: VecDeque::new(),
            asked: IdMap::default(),
            next_history: 0,
        }
    }

    /// A topic waits for the next load.
    pub(crate) fn want(&mut self, key: TopicKey) {
        self.wanted.push_back(key);
    }

    /// A topic waits for a load behind the next tick.
    pub(crate) fn postpone(&mut self, key: TopicKey) {
        self.postponed.push(key);
    }

    /// Time passes. Where nothing is loaded and something was streamed, a snapshot is asked for that may show
    /// that it is visible.
    pub(crate) fn tick(&mut self) {
        self.wanted.extend(self.postponed.drain(..));
        self.probe = !self.recent.is_empty() && self.under_way.is_empty();
    }

    /// Whether something is to be asked of Postgres.
    pub(crate) fn wants_load(&self) -> bool {
        self.probe || self.commit_behind_us.is_some() || !self.wanted.is_empty()
    }

    /// Time is to pass: a commit is wanted once Postgres' clock is behind this.
    pub(crate) fn want_commit(&mut self, behind_us: i64) {
        self.commit_behind_us = Some(behind_us);
    }

    /// The next load with its topics, and behind when a commit is wanted with it, as long as `begin` says of a topic that it waits for one; at most so
    /// many.
    pub(crate) fn begin(
        &mut self,
        max_topics: usize,
        mut begin: impl FnMut(TopicKey, LoadId) -> bool,
    ) -> Option<(LoadId, &[TopicKey], Option<i64>)> {
        let id = LoadId(self.next_load);
        let mut keys = Vec::new();
        while keys.len() < max_topics {
            let Some(key) = self.wanted.pop_front() else { break };
            if begin(key, id) {
                keys.push(key);
            }
        }
        let commit_behind_us = self.commit_behind_us.take();
        if keys.is_empty() && !self.probe && commit_behind_us.is_none() {
            return None;
        }
        self.probe = false;
        self.next_load += 1;
        Some((id, self.under_way.entry(id).or_insert(keys), commit_behind_us))
    }

    /// A load has ended; returns its topics, if it was under way.
    pub(crate) fn end(&mut self, id: LoadId) -> Option<Vec<TopicKey>> {
        self.under_way.remove(&id)
    }

    /// Transactions that a load may not see yet.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// A transaction was streamed.
    pub(crate) fn streamed(&mut self, transaction: &Arc<Transaction>) {
        self.recent.push(transaction);
    }

    /// Rows of these tables are others from here on.
    pub(crate) fn reshape(&mut self, tables: &[TableId]) {
        self.recent.reshape(tables);
    }

    /// Every later load sees what this snapshot has seen.
    pub(crate) fn saw(&mut self, snapshot: &TransactionSnapshot) {
        self.recent.drop_visible(snapshot);
    }

    /// Asks the log for a view what has changed in these topics.
    pub(crate) fn ask(
        &mut self,
        view: ViewKey,
        topics: Vec<Topic>,
        tables: Arc<[TableId]>,
        after: Lsn,
        up_to: Lsn,
    ) {
        let id = HistoryId(self.next_history);
        self.next_history += 1;
        self.asked.insert(id, view);
        self.questions.push_back(HistoryRequest { id, topics, tables, after, up_to });
    }

    /// The next question to the log.
    pub(crate) fn take_question(&mut self) -> Option<HistoryRequest> {
        self.questions.pop_front()
    }

    /// The log has answered; returns the view that had asked, if it is still there.
    pub(crate) fn answered(&mut self, id: HistoryId) -> Option<ViewKey> {
        self.asked.remove(&id)
    }

    /// A view is gone, and needs no answers.
    pub(crate) fn drop_view(&mut self, view: ViewKey) {
        self.asked.retain(|_, of| *of != view);
    }

    /// Whether a topic will be asked for.
    #[cfg(test)]
    pub(crate) fn is_wanted(&self, key: TopicKey) -> bool {
        self.wanted.contains(&key) || self.postponed.contains(&key)
    }

    /// Whether a topic is part of that load.
    #[cfg(test)]
    pub(crate) fn is_under_way(&self, load: LoadId, key: TopicKey) -> bool {
        self.under_way.get(&load).is_some_and(|keys| keys.contains(&key))
    }
}
