//! The end of a step: every view that has something to say, and is whole, says it. A message is the
//! difference between what was visible at the last one and what is visible now.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_feed::Acknowledgement;
use rowtide_plan::map::{IdSet, SeededSet};
use rowtide_plan::plan::{Branch, TableId};
use rowtide_plan::row::Row;
use rowtide_protocol::Mode;

use super::{Engine, Output};
use crate::message::{Body, Removed, Said};
use crate::sessions::{SessionId, Way};
use crate::topic::{TopicKey, ViewKey};
use crate::touched::TouchedRow;
use crate::view::{Joining, View, ViewPhase};
use crate::window::ViewWindow;
use crate::{ViewMessage, ViewRows};

impl Engine {
    /// Every view that has something to say, and is whole, says it.
    pub(super) fn speak(&mut self, out: &mut Vec<Output>) {
        self.topics.pass(self.position);
        self.views.pass(self.position);
        self.follow_sets();
        self.look_at_marked(out);
        self.compose(out);
        // Who is told of the first rows may want some no longer.
        self.look_at_marked(out);
        self.compose(out);
        self.join_views();
    }

    /// What there is to say of the views that were marked is said.
    fn look_at_marked(&mut self, out: &mut Vec<Output>) {
        let mut shared = None;
        let mut dirty = self.views.take_dirty();
        for key in dirty.drain(..) {
            if self.views[key].resume().is_some() {
                self.advance_resume(key);
            }
            self.need_rows_of_sets(key);
            // What has changed for someone who comes back may have to be loaded, or be known already.
            let view = &self.views[key];
            let is_there = view.is_whole(self.position) && view.resume().is_none();
            if is_there && self.look_through_windows(key) {
                self.flush(key, &mut shared, out);
            } else if let Some(at) = self.views[key].waits_until(self.position) {
                self.views.look_at(key, at);
            }
        }
        self.views.reuse(dirty);
    }

    /// Brings the sessions of a whole view to the present.
    fn flush(&mut self, key: ViewKey, shared: &mut Option<SharedBody>, out: &mut Vec<Output>) {
        self.touch_by_sets(key);
        self.touch_by_time(key);
        self.detach_leaving(key);
        let view = &mut self.views[key];
        view.sets.were_told();
        view.told_at = self.time.now;
        let (touched, gained) = view.take_news();
        let mut acknowledgements = std::mem::take(&mut view.acknowledgements);
        let view = &self.views[key];
        let returning = view.returning();
        let is_told = returning.is_some() || !view.live.is_empty();
        let message = is_told.then(|| self.changes_of(view, &touched, &gained, shared)).flatten();
        self.views[key].windows_were_told();
        if let Some(session) = returning {
            if self.sessions.is_composed(session) {
                self.has_come_back(session, key, message.clone(), &mut acknowledgements);
            } else {
                out.push(Output::Begin { session, mode: Mode::Resume });
                if let Some(message) = message.clone() {
                    out.push(Output::tx(session, message, Vec::new()));
                }
                self.say_ready(key, session, &mut acknowledgements, out);
            }
        }
        self.say_changes(key, message, &mut acknowledgements, out);
        let view = &self.views[key];
        let (joining, later): (Vec<Joining>, Vec<Joining>) =
            view.joining.iter().partition(|joining| joining.not_before <= Some(self.position));
        let frozen = (!joining.is_empty()).then(|| self.frozen(view));
        if let Some(rows) = &frozen {
            for Joining { session, .. } in &joining {
                out.push(Output::Snapshot { session: *session, rows: Arc::clone(rows) });
                self.say_ready(key, *session, &mut acknowledgements, out);
            }
        }
        for at in later.iter().filter_map(|joining| joining.not_before) {
            self.views.look_at(key, at);
        }
        if returning.is_some() {
            self.views.set_phase(key, ViewPhase::Apart);
        }
        let view = &mut self.views[key];
        view.live.extend(returning);
        view.live.extend(joining.into_iter().map(|joining| joining.session));
        view.joining = later;
        // What is left is for sessions that are not ready yet.
        view.acknowledgements = acknowledgements;
        view.sent = Some(self.position);
        frozen.iter().for_each(|rows| view.was_frozen(rows));
        for session in &self.views[key].awaited_by {
            self.sessions.list(*session);
        }
    }

    /// What a whole view sees, for who has nothing of it.
    pub(super) fn frozen(&self, view: &View) -> Arc<ViewRows> {
        view.frozen()
            .unwrap_or_else(|| Arc::new(self.freeze(view, view.reach.keys(), &view.windows)))
    }

    pub(super) fn message(&self, view: &View, body: Body) -> Arc<ViewMessage> {
        ViewMessage::of(view.cursor(self.epoch, self.position), body, self.commit_time_us)
    }

    /// Tells the sessions of a view what has changed; where nothing has, only those whose mutations were
    /// acknowledged. Those that are told of several views are told when the step ends.
    fn say_changes(
        &mut self,
        key: ViewKey,
        message: Option<Arc<ViewMessage>>,
        acks: &mut Acks,
        out: &mut Vec<Output>,
    ) {
        if message.is_some() {
            out.reserve(self.views[key].live.len());
        }
        if message.is_some() || !self.sessions.are_simple() {
            for session in self.views[key].live.iter().copied() {
                let Some(of) = self.sessions.get(session) else { continue };
                if matches!(of.way, Way::Direct { .. }) {
                    let is_simple = of.is_simple();
                    if let Some(message) = message.clone() {
                        out.push(Output::tx(session, message, take_of(acks, session)));
                    }
                    if !is_simple {
                        self.sessions.list(session);
                    }
                } else if let Some(of) = self.sessions.list(session) {
                    of.kept.extend(message.clone());
                    of.acknowledgements.extend(take_of(acks, session));
                }
            }
        }
        if message.is_some() || acks.is_empty() {
            return;
        }
        let mut told: Vec<SessionId> = acks.iter().map(|(id, _)| *id).collect();
        told.dedup();
        told.retain(|session| self.sessions.is_told_of(*session, key));
        let message = self.message(&self.views[key], Body::default());
        for session in told {
            let acknowledgements = take_of(acks, session);
            if !acknowledgements.is_empty() {
                out.push(Output::tx(session, Arc::clone(&message), acknowledgements));
            }
        }
    }

    /// A session has all of its rows; then it is told what was acknowledged meanwhile.
    pub(super) fn say_ready(
        &mut self,
        key: ViewKey,
        session: SessionId,
        acks: &mut Acks,
        out: &mut Vec<Output>,
    ) {
        self.sessions.is_ready(session);
        let view = &self.views[key];
        let cursor = view.cursor(self.epoch, self.position);
        out.push(Output::Ready { session, cursor });
        let acknowledgements = take_of(acks, session);
        if !acknowledgements.is_empty() {
            let message = self.message(view, Body::default());
            out.push(Output::tx(session, message, acknowledgements));
        }
    }

    /// The row as the view sees it now, if it does.
    pub(super) fn visible_now<'a>(
        &'a self,
        view: &'a View,
        row_key: &Bytes,
        latest: Option<&'a Arc<Row>>,
    ) -> Option<&'a Arc<Row>> {
        let latest = latest?;
        latest.image.topics.iter().find_map(|topic| {
            let branch = self.plan.branch(topic.branch);
            self.seen_in(view, branch, self.topics.find(topic)?, row_key, latest)
        })
    }

    /// The row as the view sees it now for a topic of this branch, if it reaches that.
    pub(super) fn seen_in<'a>(
        &'a self,
        view: &'a View,
        branch: &Branch,
        topic: TopicKey,
        row_key: &Bytes,
        latest: &'a Arc<Row>,
    ) -> Option<&'a Arc<Row>> {
        if !view.reach.contains_key(&topic) {
            return None;
        }
        if let Some(window) = branch.window {
            return view.window(window)?.told.get(row_key)?.as_ref();
        }
        let state = &self.topics[topic];
        let row = if state.was_read() { state.rows().get(row_key)? } else { latest };
        (branch.published && view.sees(branch, &row.image.kept, self.time.now)).then_some(row)
    }

    /// What has changed, if anything has. Many views are often sent the same one row: its JSON is made once.
    fn changes_of(
        &self,
        view: &View,
        touched: &[TouchedRow],
        gained: &IdSet<TopicKey>,
        shared: &mut Option<SharedBody>,
    ) -> Option<Arc<ViewMessage>> {
        let is_simple = gained.is_empty() && view.windows.is_empty();
        let ([only], true) = (touched, is_simple) else {
            let body = self.body(view, touched, gained);
            return (!body.is_empty()).then(|| self.message(view, body));
        };
        let row = self.visible_now(view, &only.key, only.latest.as_ref());
        if row.is_none() && !only.was_visible {
            return None;
        }
        let row_ptr = row.map_or(std::ptr::null(), Arc::as_ptr);
        let fits = |shared: &&SharedBody| {
            shared.row == row_ptr && shared.table == only.table && shared.key == only.key
        };
        let changes = match shared.as_ref().filter(fits) {
            Some(shared) => shared.changes.clone(),
            None => {
                let mut body = Body::default();
                let row = row.map(|row| &row.json[..]).ok_or(only.gone());
                body.push(&self.plan, only.table, &only.key, row);
                let changes = body.into_said();
                *shared = Some(SharedBody {
                    table: only.table,
                    key: only.key.clone(),
                    row: row_ptr,
                    changes: changes.clone(),
                });
                changes
            }
        };
        let cursor = view.cursor(self.epoch, self.position);
        let (table, key) = (only.table, only.key.clone());
        let said = match row {
            None => Some(Said::Removed(Removed::new(table, key, only.gone()))),
            Some(_) => self.notes().then_some(Said::Put(table, key)),
        };
        Some(ViewMessage::of_one(cursor, changes, said, 1, self.commit_time_us))
    }

    /// Whether somebody may be told of several views, and it matters which rows a message says.
    fn notes(&self) -> bool {
        !self.plan.queries.is_empty()
    }

    fn body(&self, view: &View, touched: &[TouchedRow], gained: &IdSet<TopicKey>) -> Body {
        let mut body = Body::new(self.notes());
        let mut said: SeededSet<(TableId, Bytes)> = SeededSet::default();
        self.say_windows(view, touched, &mut body);
        for touched in touched.iter().filter(|row| !view.is_windowed(row.table)) {
            let row = self.visible_now(view, &touched.key, touched.latest.as_ref());
            if row.is_some() || touched.was_visible {
                let said = row.map(|row| &row.json[..]).ok_or(touched.gone());
                body.push(&self.plan, touched.table, &touched.key, said);
            }
            if row.is_some() && !gained.is_empty() {
                said.insert((touched.table, touched.key.clone()));
            }
        }
        if !gained.is_empty() {
            body.gain(self.freeze(view, gained.iter(), &[]), said);
        }
        body
    }

    /// What a whole view sees of these topics, and in these of its windows.
    fn freeze<'a>(
        &self,
        view: &View,
        topics: impl Iterator<Item = &'a TopicKey>,
        windows: &[ViewWindow],
    ) -> ViewRows {
        let topics = topics.map(|key| &self.topics[*key]);
        let published = topics.filter(|state| self.plan.branch(state.id().branch).sends_all_rows());
        let rows = published.map(|state| (state.id(), state.rows()));
        let windows = windows.iter().map(|window| (window.table, window.rows().cloned().collect()));
        let sets = view.sets.freeze(self.time.now);
        ViewRows::freeze(&self.plan, &view.claims, sets, rows).with_windows(windows)
    }
}

/// What is to be acknowledged, and to whom; in order for each session.
pub(super) type Acks = Vec<(SessionId, Arc<Acknowledgement>)>;

/// Takes out what is acknowledged to a session, in order.
pub(super) fn take_of(acks: &mut Acks, session: SessionId) -> Vec<Arc<Acknowledgement>> {
    acks.extract_if(.., |(of, _)| *of == session).map(|(_, acknowledged)| acknowledged).collect()
}

/// The last message of a single row, for the next view that is sent the same.
struct SharedBody {
    table: TableId,
    key: Bytes,
    /// Compared, and never looked at; null where the row is gone.
    row: *const Row,
    changes: Bytes,
}
