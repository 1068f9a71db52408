//! How a session that comes back with a cursor is brought to the present. It has a view of its own, and
//! first that view reaches what its claims and the link rows name now; rows are loaded only where they
//! name topics. Then the log is asked what has changed in those topics since the cursor. From the link
//! rows of now and their changes follow the link rows, and so the topics, of then; where there are more,
//! the log is asked about these, too. With both known, the view is put into the state of one whose last
//! message was made at the cursor: topics that it has gained, topics that are leaving, rows that were
//! touched. Everything behind that is the ordinary way of a view to its next message.

use std::sync::Arc;

use rowtide_feed::{Changes, History, Transaction};
use rowtide_plan::plan::{BranchId, TableId};
use rowtide_plan::row::Topic;
use rowtide_protocol::Lsn;
use rustc_hash::FxHashSet;

use super::{Engine, Opening, Output, mark};
use crate::resume::{
    HistoryId, HistoryRequest, MAX_RESUME_BYTES, MAX_RESUME_TURNS, Resume, STILL_TURNS,
};
use crate::topic::ViewKey;
use crate::view::{Touched, View};

impl Engine {
    /// A session came whose client has the rows of its view as of `from`.
    pub(super) fn open_resuming(&mut self, opening: Opening, from: Lsn) {
        let mut view = View::new(opening.claims.clone());
        let reached = self.plan.reached(&opening.claims);
        // Nothing is said before the stream is where the client is already.
        view.release_at = from.max(opening.not_before);
        view.resume = Some(Box::new(Resume {
            session: opening.session,
            opening: Opening { cursor: None, ..opening.clone() },
            from,
            until_turn: self.turn + MAX_RESUME_TURNS,
            is_too_much: false,
            tables: self.tables_behind(&reached),
            base: None,
            known: FxHashSet::default(),
            asked: false,
            past: std::collections::BTreeMap::new(),
            since: Vec::new(),
            since_bytes: 0,
        }));
        let key = self.views.insert(view);
        self.resuming.insert(key);
        self.enter(opening.session, key, opening.client);
        reached.into_iter().for_each(|topic| self.reach(key, topic));
        mark(&mut self.dirty, key, &mut self.views[key]);
    }

    /// The tables of all topics that can be reached from these.
    fn tables_behind(&self, topics: &[Topic]) -> Arc<[TableId]> {
        let mut branches: Vec<BranchId> = topics.iter().map(|topic| topic.branch).collect();
        let mut next = 0;
        while let Some(branch) = branches.get(next).map(|id| self.plan.branch(*id)) {
            next += 1;
            for link in &branch.links {
                if !branches.contains(&link.target) {
                    branches.push(link.target);
                }
            }
        }
        let mut tables: Vec<TableId> =
            branches.iter().map(|branch| self.plan.branch(*branch).table).collect();
        tables.sort_unstable();
        tables.dedup();
        tables.into()
    }

    /// Goes as far as what is known allows: asks the log for what is missing, or has rows loaded that say
    /// where links led, or knows all and leaves the rest to the next message.
    pub(super) fn advance_resume(&mut self, key: ViewKey) {
        while self.views[key].is_whole(self.position)
            && self.views[key].resume.as_ref().is_some_and(|resume| !resume.asked)
        {
            self.take_step(key);
        }
    }

    fn take_step(&mut self, key: ViewKey) {
        let view = &self.views[key];
        let Some(resume) = view.resume.as_deref() else { return };
        let mut then: FxHashSet<Topic> = FxHashSet::default();
        let (mut unknown, mut unread) = (Vec::new(), Vec::new());
        let mut open = self.plan.reached(&view.claims);
        while let Some(topic) = open.pop() {
            if !then.insert(topic.clone()) {
                continue;
            }
            let branch = self.plan.branch(topic.branch);
            if !resume.known.contains(&topic) {
                unknown.push(topic);
                continue;
            }
            if branch.links.is_empty() {
                continue;
            }
            let held = |key: &&usize| view.reach.contains_key(key) || view.leaving.contains(key);
            let Some(state) = self.index.get(&topic).filter(held).map(|key| &self.topics[*key])
            else {
                unread.push(topic);
                continue;
            };
            for image in resume.images_then(&topic, &state.rows) {
                if !branch.claim_filter.passes(&image.kept, &view.claims) {
                    continue;
                }
                let named = branch.links.iter().map(|link| (link.target, &image.kept[link.column]));
                let named = named.filter(|(_, value)| !value.is_null());
                open.extend(
                    named.map(|(branch, value)| Topic { branch, anchor: Some(value.clone()) }),
                );
            }
        }
        let reached = view.reach.keys().map(|key| &self.topics[*key].topic);
        unknown.extend(
            reached.filter(|topic| !resume.known.contains(topic) && !then.contains(topic)).cloned(),
        );
        if unknown.is_empty() && unread.is_empty() {
            return self.complete_resume(key, &then);
        }
        if !unknown.is_empty() {
            self.ask_history(key, unknown);
        }
        unread.into_iter().for_each(|topic| self.keep_leaving(key, topic));
    }

    fn ask_history(&mut self, key: ViewKey, topics: Vec<Topic>) {
        let Some(resume) = self.views[key].resume.as_deref_mut() else { return };
        let id = HistoryId(self.next_history);
        self.next_history += 1;
        resume.asked = true;
        resume.known.extend(topics.iter().cloned());
        let (tables, after) = (Arc::clone(&resume.tables), resume.from);
        let up_to = *resume.base.get_or_insert(self.position);
        self.histories.insert(id, key);
        self.history_requests.push_back(HistoryRequest { id, topics, tables, after, up_to });
    }

    pub(super) fn history(
        &mut self,
        id: HistoryId,
        history: Option<History>,
        out: &mut Vec<Output>,
    ) {
        let Some(key) = self.histories.remove(&id) else { return };
        let view = &mut self.views[key];
        let Some(resume) = view.resume.as_deref_mut() else { return };
        resume.asked = false;
        let Some(history) = history.filter(|history| history.interrupted.is_empty()) else {
            return self.give_up_resume(key, out);
        };
        for (lsn, change) in history.changes {
            let row_key = change.key().clone();
            resume.past.insert((lsn, change.table, row_key), change);
        }
        mark(&mut self.dirty, key, view);
    }

    /// Puts the view into the state of one whose last message was made at the cursor, when it reached
    /// the topics `then`.
    fn complete_resume(&mut self, key: ViewKey, then: &FxHashSet<Topic>) {
        let view = &mut self.views[key];
        let Some(resume) = view.resume.take() else { return };
        self.resuming.remove(&key);
        self.apart.insert(key);
        let (topics, index, plan) = (&self.topics, &self.index, &self.plan);
        let (reach, claims) = (&view.reach, &view.claims);
        view.gained.retain(|key| !then.contains(&topics[*key].topic));
        view.touched = Touched::default();
        for change in resume.changes() {
            let of_now =
                |topic: &Topic| index.get(topic).is_some_and(|key| reach.contains_key(key));
            let concerns = |topics: &[Topic]| topics.iter().any(|t| then.contains(t) || of_now(t));
            let old = change.before().filter(|old| concerns(&old.topics));
            if old.is_none() && !concerns(change.topics_after()) {
                continue;
            }
            let saw = |topic: &Topic, kept: &[_]| {
                let branch = plan.branch(topic.branch);
                branch.published && then.contains(topic) && branch.claim_filter.passes(kept, claims)
            };
            let was_visible =
                old.is_some_and(|old| old.topics.iter().any(|topic| saw(topic, &old.kept)));
            let row_key = change.key();
            let touched = view.touched.row(change.table, row_key, was_visible, self.position);
            touched.is_now(change.after());
        }
        view.returning = Some(resume.session);
        let gained: Vec<_> = view.gained.iter().copied().collect();
        gained.into_iter().for_each(|key| self.need_rows(key));
        let view = &self.views[key];
        let reached = |topic: &Topic| {
            self.index.get(topic).is_some_and(|topic| view.reach.contains_key(topic))
        };
        let published = |topic: &Topic| self.plan.branch(topic.branch).published;
        let lost: Vec<Topic> =
            then.iter().filter(|topic| published(topic) && !reached(topic)).cloned().collect();
        lost.into_iter().for_each(|topic| self.keep_leaving(key, topic));
    }

    /// Views that wait for the log must not miss what is streamed behind its answer.
    pub(super) fn note_for_resumes(&mut self, transaction: &Arc<Transaction>) {
        for key in &self.resuming {
            let view = &mut self.views[*key];
            let Some(resume) = view.resume.as_deref_mut() else { continue };
            if resume.base.is_none() {
                continue;
            }
            let concerned = match &transaction.changes {
                Changes::Rows(changes) => changes.iter().any(|c| resume.tables.contains(&c.table)),
                // Its tables are none of the view's, or it would have been given up.
                Changes::TooLarge(_) => false,
            };
            if concerned {
                resume.since_bytes += transaction.bytes();
                resume.since.push(Arc::clone(transaction));
            }
            if resume.since_bytes > MAX_RESUME_BYTES {
                resume.is_too_much = true;
            }
        }
    }

    /// What has changed in a table cannot be said: who waits to be told it is sent everything.
    pub(super) fn interrupt_resumes(&mut self, table: TableId, out: &mut Vec<Output>) {
        let concerned = |key: &ViewKey| {
            self.views[*key].resume.as_ref().is_some_and(|resume| resume.tables.contains(&table))
        };
        let concerned: Vec<ViewKey> = self.resuming.iter().copied().filter(concerned).collect();
        concerned.into_iter().for_each(|key| self.give_up_resume(key, out));
    }

    /// Those for whom too much is kept, or whose cursor the stream does not come to, are sent all of their rows.
    pub(super) fn give_up_resumes(&mut self, out: &mut Vec<Output>) {
        let goes_on = self.position >= self.wal_end && self.turn < self.heard_turn + STILL_TURNS;
        let late = |key: &ViewKey| {
            self.views[*key].resume.as_ref().is_some_and(|resume| {
                let waits = resume.from > self.position && resume.until_turn <= self.turn;
                resume.is_too_much || (waits && goes_on)
            })
        };
        let late: Vec<ViewKey> = self.resuming.iter().copied().filter(late).collect();
        late.into_iter().for_each(|key| self.give_up_resume(key, out));
    }

    fn give_up_resume(&mut self, key: ViewKey, out: &mut Vec<Output>) {
        let view = &mut self.views[key];
        let Some(opening) = view.resume.as_ref().map(|resume| resume.opening.clone()) else {
            return;
        };
        let settled = std::mem::take(&mut view.settled);
        let session = opening.session;
        self.close(session);
        self.open(opening, out);
        // What was settled meanwhile is told all the same.
        if let Some(entered) = self.sessions.get(&session) {
            self.views[entered.view].settled.extend(settled);
        }
    }

    /// Views of sessions that came back become the view of their claims, or join it once both say the same.
    pub(super) fn join_views(&mut self) {
        for key in std::mem::take(&mut self.apart) {
            let spoken = |view: &View| {
                view.is_whole(self.position) && view.is_silent() && view.returning.is_none()
            };
            let view = &self.views[key];
            if !spoken(view) {
                self.apart.insert(key);
                continue;
            }
            let Some(&shared) = self.views_by_claims.get(&view.claims) else {
                self.views_by_claims.insert(view.claims.clone(), key);
                continue;
            };
            if !spoken(&self.views[shared]) {
                self.apart.insert(key);
                continue;
            }
            let live = std::mem::take(&mut self.views[key].live);
            for session in &live {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.view = shared;
                }
            }
            self.views[shared].live.extend(live);
            self.drop_view(key);
        }
    }
}
