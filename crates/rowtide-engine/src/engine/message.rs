//! The end of a step: every view that has something to say, and is whole, says it. A message is the
//! difference between what was visible at the last one and what is visible now.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_feed::Acknowledgement;
use rowtide_plan::map::{IdSet, SeededSet};
use rowtide_plan::plan::TableId;
use rowtide_plan::row::Row;
use rowtide_protocol::Mode;

use super::{Engine, Output};
use crate::message::Body;
use crate::sessions::SessionId;
use crate::topic::{TopicKey, ViewKey};
use crate::touched::TouchedRow;
use crate::view::{Joining, View, ViewPhase};
use crate::{ViewMessage, ViewRows};

impl Engine {
    /// Every view that has something to say, and is whole, says it.
    pub(super) fn speak(&mut self, out: &mut Vec<Output>) {
        self.topics.pass(self.position);
        self.views.pass(self.position);
        self.follow_sets();
        let mut shared = None;
        let mut dirty = self.views.take_dirty();
        for key in dirty.drain(..) {
            if self.views[key].resume().is_some() {
                self.advance_resume(key);
            }
            self.need_rows_of_sets(key);
            // What has changed for someone who comes back may have to be loaded, or be known already.
            let view = &self.views[key];
            if view.is_whole(self.position) && view.resume().is_none() {
                self.flush(key, &mut shared, out);
            } else if let Some(at) = view.waits_until(self.position) {
                self.views.look_at(key, at);
            }
        }
        self.views.reuse(dirty);
        self.join_views();
    }

    /// Brings the sessions of a whole view to the present.
    fn flush(&mut self, key: ViewKey, shared: &mut Option<SharedBody>, out: &mut Vec<Output>) {
        self.touch_by_sets(key);
        self.detach_leaving(key);
        let view = &mut self.views[key];
        view.sets.were_told();
        let (touched, gained) = view.take_news();
        let mut acknowledgements = std::mem::take(&mut view.acknowledgements);
        let view = &self.views[key];
        let returning = view.returning();
        if let Some(session) = returning {
            out.push(Output::Begin { session, mode: Mode::Resume });
            if let Some(message) = self.changes_of(view, &touched, &gained, shared) {
                out.push(Output::Tx { session, message, acknowledgements: Vec::new() });
            }
            self.say_ready(view, session, &mut acknowledgements, out);
        }
        if !view.live.is_empty() {
            let message = self.changes_of(view, &touched, &gained, shared);
            self.say_changes(view, message, &mut acknowledgements, out);
        }
        let (joining, later): (Vec<Joining>, Vec<Joining>) =
            view.joining.iter().partition(|joining| joining.not_before <= Some(self.position));
        let frozen = (!joining.is_empty()).then(|| {
            view.frozen().unwrap_or_else(|| Arc::new(self.freeze(view, view.reach.keys())))
        });
        if let Some(rows) = &frozen {
            for Joining { session, .. } in &joining {
                out.push(Output::Snapshot { session: *session, rows: Arc::clone(rows) });
                self.say_ready(view, *session, &mut acknowledgements, out);
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
    }

    fn message(&self, view: &View, body: Body) -> Arc<ViewMessage> {
        ViewMessage::of(view.cursor(self.epoch, self.position), body, self.commit_time_us)
    }

    /// Tells the sessions of a view what has changed; where nothing has, only those whose mutations were
    /// acknowledged.
    fn say_changes(
        &self,
        view: &View,
        message: Option<Arc<ViewMessage>>,
        acks: &mut Acks,
        out: &mut Vec<Output>,
    ) {
        if let Some(message) = message {
            out.reserve(view.live.len());
            for session in &view.live {
                out.push(Output::Tx {
                    session: *session,
                    message: Arc::clone(&message),
                    acknowledgements: take_of(acks, *session),
                });
            }
            return;
        }
        if acks.is_empty() {
            return;
        }
        let is_live = |id: &SessionId| view.joining.iter().all(|joining| joining.session != *id);
        let mut told: Vec<SessionId> = acks.iter().map(|(id, _)| *id).collect();
        told.dedup();
        told.retain(is_live);
        let message = self.message(view, Body::default());
        for session in told {
            let acknowledgements = take_of(acks, session);
            if !acknowledgements.is_empty() {
                let message = Arc::clone(&message);
                out.push(Output::Tx { session, message, acknowledgements });
            }
        }
    }

    /// A session has all of its rows; then it is told what was acknowledged meanwhile.
    fn say_ready(&self, view: &View, session: SessionId, acks: &mut Acks, out: &mut Vec<Output>) {
        let cursor = view.cursor(self.epoch, self.position);
        out.push(Output::Ready { session, cursor });
        let acknowledgements = take_of(acks, session);
        if !acknowledgements.is_empty() {
            let message = self.message(view, Body::default());
            out.push(Output::Tx { session, message, acknowledgements });
        }
    }

    /// The row as the view sees it now, if it does.
    fn visible_now<'a>(&'a self, view: &View, touched: &'a TouchedRow) -> Option<&'a Arc<Row>> {
        let latest = touched.latest.as_ref()?;
        latest.image.topics.iter().find_map(|topic| {
            let branch = self.plan.branch(topic.branch);
            let key = self.topics.find(topic).filter(|key| view.reach.contains_key(key))?;
            let state = &self.topics[key];
            let row = if state.was_read() { state.rows().get(&touched.key)? } else { latest };
            (branch.published && view.sees(branch, &row.image.kept)).then_some(row)
        })
    }

    /// What has changed, if anything has. Many views are often sent the same one row: its JSON is made once.
    fn changes_of(
        &self,
        view: &View,
        touched: &[TouchedRow],
        gained: &IdSet<TopicKey>,
        shared: &mut Option<SharedBody>,
    ) -> Option<Arc<ViewMessage>> {
        let ([only], true) = (touched, gained.is_empty()) else {
            let body = self.body(view, touched, gained);
            return (!body.is_empty()).then(|| self.message(view, body));
        };
        let row = self.visible_now(view, only);
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
                body.push(&self.plan, only.table, &only.key, row.map(|row| &row.json[..]));
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
        Some(ViewMessage::new(cursor, changes, 1, self.commit_time_us))
    }

    fn body(&self, view: &View, touched: &[TouchedRow], gained: &IdSet<TopicKey>) -> Body {
        let mut body = Body::default();
        let mut said: SeededSet<(TableId, Bytes)> = SeededSet::default();
        for touched in touched {
            let row = self.visible_now(view, touched);
            if row.is_some() || touched.was_visible {
                let json = row.map(|row| &row.json[..]);
                body.push(&self.plan, touched.table, &touched.key, json);
            }
            if row.is_some() && !gained.is_empty() {
                said.insert((touched.table, touched.key.clone()));
            }
        }
        if !gained.is_empty() {
            body.gain(self.freeze(view, gained.iter()), said);
        }
        body
    }

    /// What a whole view sees of these topics.
    fn freeze<'a>(&self, view: &View, topics: impl Iterator<Item = &'a TopicKey>) -> ViewRows {
        let topics = topics.map(|key| &self.topics[*key]);
        let published = topics.filter(|state| self.plan.branch(state.id().branch).published);
        let rows = published.map(|state| (state.id(), state.rows()));
        ViewRows::freeze(&self.plan, &view.claims, view.sets.freeze(), rows)
    }
}

/// What is to be acknowledged, and to whom; in order for each session.
type Acks = Vec<(SessionId, Arc<Acknowledgement>)>;

/// Takes out what is acknowledged to a session, in order.
fn take_of(acks: &mut Acks, session: SessionId) -> Vec<Arc<Acknowledgement>> {
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
