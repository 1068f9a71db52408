//! How a session that comes back with a cursor is brought to the present. It has a view of its own, and
//! first that view reaches what its claims and the link rows name now; rows are loaded only where they
//! name topics. Then the log is asked what has changed in those topics since the cursor. From the link
//! rows of now and their changes follow the link rows, and so the topics, of then; where there are more,
//! the log is asked about these, too. With both known, the view is put into the state of one whose last
//! message was made at the cursor: topics that it has gained, topics that are leaving, rows that were
//! touched. Everything behind that is the ordinary way of a view to its next message.

use std::collections::BTreeSet;
use std::sync::Arc;

use rowtide_feed::{Changes, History, Transaction};
use rowtide_plan::claims::Claims;
use rowtide_plan::map::SeededSet;
use rowtide_plan::plan::{BranchId, Selection, TableId};
use rowtide_plan::row::Topic;
use rowtide_plan::value::Instant;
use rowtide_protocol::Lsn;
use smallvec::SmallVec;

use super::message::{Acks, take_of};
use super::{Engine, Output, Progress};
use crate::resume::{HistoryId, MAX_RESUME_BYTES, MAX_RESUME_TICKS, Resume, STILL_TICKS};
use crate::sessions::{Held, HeldState, Opening, SessionId, Subscribing, Way};
use crate::sets::{Moment, ViewSets};
use crate::topic::{TopicKey, ViewKey};
use crate::touched::Touched;
use crate::view::{View, ViewPhase};
use crate::window::{Prefix, WindowRows};

/// The topics that a view reached at its cursor.
#[derive(Default)]
struct TopicsThen {
    /// As they were found.
    in_order: Vec<Topic>,
    found: SeededSet<Topic>,
}

impl TopicsThen {
    /// Whether the topic is a new one.
    fn insert(&mut self, topic: &Topic) -> bool {
        let is_new = self.found.insert(topic.clone());
        if is_new {
            self.in_order.push(topic.clone());
        }
        is_new
    }

    fn contains(&self, topic: &Topic) -> bool {
        self.found.contains(topic)
    }
}

impl Engine {
    /// A session came whose client has the rows of its view as of `from`.
    pub(super) fn open_resuming(&mut self, opening: Opening, from: Lsn) {
        let way = match opening.subscriptions.is_empty() {
            true => Way::Direct { ready: false },
            false => Way::Returning,
        };
        let own = (None, Selection::Always, opening.claims.clone());
        let of = |of: &Subscribing| (Some(of.id), Selection::Query(of.query), of.claims.clone());
        let wanted: Vec<_> =
            std::iter::once(own).chain(opening.subscriptions.iter().map(of)).collect();
        let mut held: SmallVec<[Held; 1]> = SmallVec::new();
        for (subscription, selection, claims) in wanted {
            let view = self.resuming_view(&opening, selection, claims, from);
            held.push(Held { view, subscription, state: HeldState::First });
        }
        self.sessions.enter(opening.session, way, held, opening.client);
    }

    /// A view for what a session has missed of it since `from`.
    fn resuming_view(
        &mut self,
        opening: &Opening,
        selection: Selection,
        claims: Claims,
        from: Lsn,
    ) -> ViewKey {
        let reached = self.plan.reached(selection, &claims);
        let resume = Resume {
            opening: Opening { cursor: None, ..opening.clone() },
            from,
            until_tick: self.progress.tick + MAX_RESUME_TICKS,
            is_too_much: false,
            tables: self.tables_behind(&reached),
            base: None,
            known: SeededSet::default(),
            from_time: Instant::MINUS_INFINITY,
            asked: false,
            past: std::collections::BTreeMap::new(),
            reshaped: Vec::new(),
            since: Vec::new(),
            since_bytes: 0,
        };
        let phase = ViewPhase::Resuming(Box::new(resume));
        let key = self.new_view(selection, claims, phase);
        reached.into_iter().for_each(|topic| self.reach(key, topic));
        // Nothing is said before the stream is where the client is already.
        self.views.mark(key).hold_until(opening.not_before.max(Some(from)));
        key
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
            && self.views[key].resume().is_some_and(|resume| !resume.asked)
        {
            self.resume_further(key);
        }
    }

    fn resume_further(&mut self, key: ViewKey) {
        let view = &self.views[key];
        let Some(resume) = view.resume() else { return };
        let mut then = TopicsThen::default();
        let (mut unknown, mut unread) = (Vec::new(), Vec::new());
        // In the order of branches: what fills a set comes before what asks it.
        let mut open: BTreeSet<Topic> =
            self.plan.reached(view.selection, &view.claims).into_iter().collect();
        let mut sets = ViewSets::new(self.plan.sets);
        while let Some(topic) = open.pop_first() {
            if !then.insert(&topic) {
                continue;
            }
            let branch = self.plan.branch(topic.branch);
            if !resume.known.contains(&topic) {
                unknown.push(topic);
                continue;
            }
            let is_unknown = !unknown.is_empty() || !unread.is_empty();
            if !branch.names_others() || (is_unknown && branch.claim_filter.0.asks_sets()) {
                continue;
            }
            let Some(key) = self.topics.find(&topic).filter(|key| view.looks_at(*key)) else {
                unread.push(topic);
                continue;
            };
            for (image, _) in resume.states_then(&topic, self.topics[key].rows()) {
                let at = resume.from_time;
                if sets.pass(Moment::Now, branch, &image.kept, &view.claims, at) {
                    open.extend(branch.named(&image.kept));
                    branch.filled(&image.kept).for_each(|(set, member)| sets.add(set, member));
                }
            }
        }
        let reached = view.reach.keys().map(|key| self.topics[*key].id());
        unknown.extend(
            reached.filter(|topic| !resume.known.contains(topic) && !then.contains(topic)).cloned(),
        );
        if unknown.is_empty() && unread.is_empty() {
            if let Some(windows) = self.windows_then(key, &then.in_order, &sets) {
                self.complete_resume(key, &then, &sets, windows);
            }
            return;
        }
        if !unknown.is_empty() {
            self.ask_history(key, unknown);
        }
        unread.into_iter().for_each(|topic| self.keep_leaving(key, topic));
    }

    fn ask_history(&mut self, key: ViewKey, topics: Vec<Topic>) {
        let Some(resume) = self.views[key].resume_mut() else { return };
        resume.asked = true;
        resume.known.extend(topics.iter().cloned());
        let (tables, after) = (Arc::clone(&resume.tables), resume.from);
        let up_to = *resume.base.get_or_insert(self.position);
        self.loads.ask(key, topics, tables, after, up_to);
    }

    pub(super) fn history(
        &mut self,
        id: HistoryId,
        history: Option<History>,
        out: &mut Vec<Output>,
    ) {
        let Some(key) = self.loads.answered(id) else { return };
        let Some(resume) = self.views.mark(key).resume_mut() else { return };
        resume.asked = false;
        let time_matters = self.time.matters();
        let tells = |history: &History| {
            history.interrupted.is_empty() && (history.time_us.is_some() || !time_matters)
        };
        let Some(history) = history.filter(tells) else {
            return self.give_up_resume(key, out);
        };
        resume.from_time = history.time_us.map_or(Instant::MINUS_INFINITY, Instant::of_unix_us);
        resume.reshaped.extend(history.reshaped);
        for (lsn, change) in history.changes {
            let row_key = change.key().clone();
            resume.past.insert((lsn, change.table, row_key), change);
        }
    }

    /// Puts the view into the state of one whose last message was made at the cursor, when it reached
    /// the topics `then`, its sets had what is in `sets`, and its windows these rows.
    fn complete_resume(
        &mut self,
        key: ViewKey,
        then: &TopicsThen,
        sets: &ViewSets,
        windows: Vec<WindowRows>,
    ) {
        let Some(session) = self.views[key].resume().map(|resume| resume.opening.session) else {
            return;
        };
        let ViewPhase::Resuming(resume) = self.views.set_phase(key, ViewPhase::Returning(session))
        else {
            return;
        };
        let view = &mut self.views[key];
        view.sets.were_told_by(sets);
        view.windows_are_stale = !windows.is_empty();
        for key in view.reach.keys().chain(&view.leaving) {
            self.topics[*key].prefix.iter_mut().for_each(Prefix::needs_no_more);
        }
        for (window, rows) in view.windows.iter_mut().zip(windows) {
            window.was(rows);
        }
        view.told_at = resume.from_time;
        let (topics, plan) = (&self.topics, &self.plan);
        let (reach, sets, claims) = (&view.reach, &view.sets, &view.claims);
        let told_at = view.told_at;
        view.gained.retain(|key| !then.contains(topics[*key].id()));
        view.touched = Touched::default();
        for (at, change) in resume.changes() {
            let of_now =
                |topic: &Topic| topics.find(topic).is_some_and(|key| reach.contains_key(&key));
            let concerns = |topics: &[Topic]| topics.iter().any(|t| then.contains(t) || of_now(t));
            let old = change.before().filter(|old| concerns(&old.topics));
            if old.is_none() && !concerns(change.topics_after()) {
                continue;
            }
            let saw = |topic: &Topic, kept: &[_]| {
                let branch = plan.branch(topic.branch);
                branch.sends_all_rows()
                    && then.contains(topic)
                    && sets.pass(Moment::Told, branch, kept, claims, told_at)
            };
            let was_visible =
                old.is_some_and(|old| old.topics.iter().any(|topic| saw(topic, &old.kept)));
            let row_key = change.key();
            let touched = view.touched.row(change.table, row_key, was_visible, self.position);
            touched.is_now(change.after(), at);
        }
        let gained: Vec<_> = view.gained.iter().copied().collect();
        gained.into_iter().for_each(|key| self.need_rows(key));
        self.look_at_turns(key);
        let view = &self.views[key];
        let reached = |topic: &Topic| {
            self.topics.find(topic).is_some_and(|key| view.reach.contains_key(&key))
        };
        let published = |topic: &Topic| self.plan.branch(topic.branch).sends_all_rows();
        let lost: Vec<Topic> = then
            .in_order
            .iter()
            .filter(|topic| published(topic) && !reached(topic))
            .cloned()
            .collect();
        lost.into_iter().for_each(|topic| self.keep_leaving(key, topic));
        self.retell(key, &resume.reshaped);
    }

    /// All rows of these tables are others than at the view's last message, which had them.
    fn retell(&mut self, key: ViewKey, tables: &[TableId]) {
        let (plan, topics) = (&self.plan, &self.topics);
        let is_other = |topic: &TopicKey| {
            let branch = plan.branch(topics[*topic].id().branch);
            branch.sends_all_rows() && tables.contains(&branch.table)
        };
        let view = &mut self.views[key];
        // Those that leave may come back before the next message.
        let there = view.reach.keys().chain(&view.leaving).copied();
        let others: Vec<TopicKey> = there.filter(|t| view.had(*t) && is_other(t)).collect();
        view.retold.extend(&others);
        others.into_iter().for_each(|topic| self.need_rows(topic));
    }

    /// Those that come back to rows of tables that have got more columns are told all of these.
    pub(super) fn reshape_resumes(&mut self, lsn: Lsn, tables: &[TableId]) {
        self.views.each_resume(|resume| {
            if resume.from < lsn {
                resume.reshaped.extend(tables);
            }
        });
    }

    /// Views that wait for the log must not miss what is streamed behind its answer.
    pub(super) fn note_for_resumes(&mut self, transaction: &Arc<Transaction>) {
        self.views.each_resume(|resume| {
            let concerned = match &transaction.changes {
                Changes::Rows(changes) => changes.iter().any(|c| resume.tables.contains(&c.table)),
                // Its tables are none of the view's, or it would have been given up.
                Changes::TooLarge(_) => false,
            };
            if concerned && resume.base.is_some() {
                resume.since_bytes += transaction.bytes();
                resume.since.push(Arc::clone(transaction));
                resume.is_too_much |= resume.since_bytes > MAX_RESUME_BYTES;
            }
        });
    }

    /// What has changed in a table cannot be said: who waits to be told it is sent everything.
    pub(super) fn interrupt_resumes(&mut self, table: TableId, out: &mut Vec<Output>) {
        let concerned = |key: &ViewKey| {
            self.views[*key].resume().is_some_and(|resume| resume.tables.contains(&table))
        };
        let concerned: Vec<ViewKey> = self.views.resuming().filter(concerned).collect();
        concerned.into_iter().for_each(|key| self.give_up_resume(key, out));
    }

    /// Those for whom too much is kept, or whose cursor the stream does not come to, are sent all of their rows.
    pub(super) fn give_up_resumes(&mut self, out: &mut Vec<Output>) {
        let Progress { tick, heard, wal_end } = self.progress;
        let goes_on = wal_end <= Some(self.position) && tick < heard + STILL_TICKS;
        let late = |key: &ViewKey| {
            self.views[*key].resume().is_some_and(|resume| {
                let waits = resume.from > self.position && resume.until_tick <= tick;
                resume.is_too_much || (waits && goes_on)
            })
        };
        let late: Vec<ViewKey> = self.views.resuming().filter(late).collect();
        late.into_iter().for_each(|key| self.give_up_resume(key, out));
    }

    fn give_up_resume(&mut self, key: ViewKey, out: &mut Vec<Output>) {
        let Some(opening) =
            self.views.get(key).and_then(View::resume).map(|resume| resume.opening.clone())
        else {
            // It was one of a session that has been given up for another of its views.
            return;
        };
        let session = opening.session;
        // What was acknowledged meanwhile is told all the same, and what was asked for stays asked for.
        let mut owed: Acks = Vec::new();
        let (mut asked, mut unwanted) = (Vec::new(), Vec::new());
        if let Some(of) = self.sessions.get_mut(session) {
            owed.extend(of.acknowledgements.drain(..).map(|acknowledged| (session, acknowledged)));
            let base = of.held[0].view;
            let later = take_of(&mut self.views[base].acknowledgements, session);
            owed.extend(later.into_iter().map(|acknowledged| (session, acknowledged)));
            unwanted = std::mem::take(&mut of.unwanted);
            for held in &of.held {
                let Some(id) = held.subscription else { continue };
                let View { selection, claims, .. } = &self.views[held.view];
                if let (false, Selection::Query(query)) =
                    (held.state == HeldState::First, selection)
                    && !opening.subscriptions.iter().any(|known| known.id == id)
                {
                    asked.push(Subscribing { id, query: *query, claims: claims.clone() });
                }
                if matches!(held.state, HeldState::Leaving { .. }) {
                    unwanted.push(id);
                }
            }
        }
        self.close(session);
        self.open(opening, out);
        asked.into_iter().for_each(|subscribing| self.subscribe(session, subscribing));
        unwanted.into_iter().for_each(|id| self.unsubscribe(session, id));
        if let Some(entered) = self.sessions.view_of(session) {
            self.views[entered].acknowledgements.extend(owed);
        }
    }

    /// Views of sessions that came back become the view of their claims, or join it once both say the same.
    pub(super) fn join_views(&mut self) {
        if !self.views.has_apart() {
            return;
        }
        let apart: Vec<ViewKey> = self.views.apart().collect();
        for key in apart {
            let has_spoken = |view: &View| {
                view.is_whole(self.position) && view.is_silent() && view.returning().is_none()
            };
            let view = &self.views[key];
            if !has_spoken(view) {
                continue;
            }
            let Some(shared) = self.views.shared(view.selection, &view.claims) else {
                self.views.set_phase(key, ViewPhase::Shared);
                continue;
            };
            if !has_spoken(&self.views[shared]) {
                continue;
            }
            let live = std::mem::take(&mut self.views[key].live);
            let awaited_by = std::mem::take(&mut self.views[key].awaited_by);
            let sessions: Vec<SessionId> = live.iter().chain(&awaited_by).copied().collect();
            for session in live {
                let has = self.sessions.get(session).is_some_and(|of| of.has(shared));
                if !has {
                    self.views[shared].live.push(session);
                }
            }
            for session in awaited_by {
                if !self.views[shared].awaited_by.contains(&session) {
                    self.views[shared].awaited_by.push(session);
                }
            }
            sessions.iter().for_each(|session| self.sessions.move_to(*session, key, shared));
            self.drop_view(key);
        }
    }
}
