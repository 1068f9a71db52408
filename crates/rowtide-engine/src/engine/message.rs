//! The end of a step: every view that has something to say, and is whole, says it. A message is the
//! difference between what was visible at the last one and what is visible now.

use std::borrow::Cow;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use rowtide_feed::Acknowledgement;
use rowtide_plan::plan::TableId;
use rowtide_plan::row::Row;
use rowtide_protocol::{Cursor, Mode, delete_change, put_change};
use rustc_hash::FxHashSet;

use super::{Engine, Output, SessionId, mark};
use crate::topic::{Phase, TopicKey, ViewKey};
use crate::view::{TouchedRow, View};
use crate::{Message, ViewRows};

impl Engine {
    /// Every view that has something to say, and is whole, says it.
    pub(super) fn settle(&mut self, out: &mut Vec<Output>) {
        while let Some((until, key)) = self.ahead.first().copied()
            && until <= self.position
        {
            self.ahead.pop_first();
            if let Some(Phase::Loaded { ahead }) = self.topics.get_mut(key).map(|t| &mut t.phase) {
                ahead.take_if(|ahead| ahead.until <= until);
            }
        }
        while let Some((lsn, key)) = self.releasable.first().copied()
            && lsn <= self.position
        {
            self.releasable.pop_first();
            if let Some(view) = self.views.get_mut(key) {
                mark(&mut self.dirty, key, view);
            }
        }
        let mut shared = None;
        for key in std::mem::take(&mut self.dirty) {
            let Some(view) = self.views.get_mut(key) else { continue };
            view.dirty = false;
            if view.resume.is_some() {
                self.advance_resume(key);
            }
            // What has changed for someone who comes back may have to be loaded, or be known already.
            let view = &self.views[key];
            if view.is_whole(self.position) && view.resume.is_none() {
                self.flush(key, &mut shared, out);
            } else if view.waiting == 0 && view.release_at > self.position {
                self.releasable.insert((view.release_at, key));
            }
        }
        self.join_views();
    }

    /// Brings the sessions of a whole view to the present.
    fn flush(&mut self, key: ViewKey, shared: &mut Option<SharedBody>, out: &mut Vec<Output>) {
        self.take_leave(key);
        let view = &mut self.views[key];
        let cursor = view.cursor(self.epoch, self.position);
        let touched = view.touched.take();
        // What was frozen at an earlier message is true as long as nothing has changed since.
        let mut frozen = std::mem::take(&mut view.frozen);
        if !touched.is_empty() || !view.gained.is_empty() {
            frozen = Weak::new();
        }
        let gained = std::mem::take(&mut view.gained);
        let mut settled = std::mem::take(&mut view.settled);
        let returning = view.returning.take();
        let view = &self.views[key];
        if let Some(session) = returning {
            out.push(Output::Begin { session, mode: Mode::Resume });
            let Body { changes, rows } = self.body(view, &touched, &gained);
            if !changes.is_empty() {
                let message = Message::new(cursor, changes, rows, self.commit_time_us);
                out.push(Output::Tx { session, message, acknowledgements: Vec::new() });
            }
            out.push(Output::Ready { session, cursor });
            let acknowledgements = take_of(&mut settled, session);
            self.acknowledge(session, cursor, acknowledgements, out);
        }
        if !view.live.is_empty() {
            let Body { changes, rows } = match touched.as_slice() {
                [only] if gained.is_empty() => self.body_of_one(view, only, shared),
                _ => self.body(view, &touched, &gained),
            };
            let told: Cow<'_, [SessionId]> = if changes.is_empty() {
                // Of many sessions only those whose mutations were settled.
                let waits = |id: &SessionId| view.joining.iter().any(|(other, _)| other == id);
                let mut told: Vec<SessionId> = settled.iter().map(|(id, _)| *id).collect();
                told.dedup();
                told.retain(|id| !waits(id));
                told.into()
            } else {
                Cow::Borrowed(&view.live)
            };
            let is_silent = changes.is_empty();
            let message = Message::new(cursor, changes, rows, self.commit_time_us);
            for session in told.iter().copied() {
                let acknowledgements = take_of(&mut settled, session);
                if !is_silent || !acknowledgements.is_empty() {
                    let message = Arc::clone(&message);
                    out.push(Output::Tx { session, message, acknowledgements });
                }
            }
        }
        let (joining, later): (Vec<_>, Vec<_>) =
            view.joining.iter().copied().partition(|(_, not_before)| *not_before <= self.position);
        if !joining.is_empty() {
            let shared = frozen.upgrade().unwrap_or_else(|| Arc::new(self.freeze(view)));
            frozen = Arc::downgrade(&shared);
            for (session, _) in &joining {
                let rows = Arc::clone(&shared);
                out.push(Output::Snapshot { session: *session, rows });
                out.push(Output::Ready { session: *session, cursor });
                let acknowledgements = take_of(&mut settled, *session);
                self.acknowledge(*session, cursor, acknowledgements, out);
            }
        }
        let view = &mut self.views[key];
        view.live.extend(returning);
        view.live.extend(joining.into_iter().map(|(session, _)| session));
        self.releasable.extend(later.iter().map(|(_, not_before)| (*not_before, key)));
        view.joining = later;
        // What is left is for sessions that are not ready yet.
        view.settled = settled;
        view.sent = self.position;
        view.frozen = frozen;
    }

    /// What was settled for a session that has just become ready.
    fn acknowledge(
        &self,
        session: SessionId,
        cursor: Cursor,
        acknowledgements: Vec<Arc<Acknowledgement>>,
        out: &mut Vec<Output>,
    ) {
        if !acknowledgements.is_empty() {
            let message = Message::new(cursor, Bytes::new(), 0, self.commit_time_us);
            out.push(Output::Tx { session, message, acknowledgements });
        }
    }

    /// The row as the view sees it now, if it does.
    fn visible_now<'a>(&'a self, view: &View, touched: &'a TouchedRow) -> Option<&'a Arc<Row>> {
        let latest = touched.latest.as_ref()?;
        latest.image.topics.iter().find_map(|topic| {
            let branch = self.plan.branch(topic.branch);
            let key = self.index.get(topic).filter(|key| view.reach.contains_key(key))?;
            let state = &self.topics[*key];
            let row = if state.was_read { state.rows.get(&touched.key)? } else { latest };
            let sees =
                branch.published && branch.claim_filter.passes(&row.image.kept, &view.claims);
            sees.then_some(row)
        })
    }

    /// Many views are often sent the same one row: its JSON is made once.
    fn body_of_one(
        &self,
        view: &View,
        touched: &TouchedRow,
        shared: &mut Option<SharedBody>,
    ) -> Body {
        let row = self.visible_now(view, touched);
        if row.is_none() && !touched.was_visible {
            return Body::default();
        }
        let identity =
            (touched.table, touched.key.clone(), row.map_or(0, |row| Arc::as_ptr(row) as usize));
        if let Some(shared) = shared
            && shared.identity == identity
        {
            return Body { changes: shared.changes.clone(), rows: 1 };
        }
        let mut body = Vec::new();
        self.push_change(&mut body, touched.table, &touched.key, row);
        let changes = Bytes::from(body);
        *shared = Some(SharedBody { identity, changes: changes.clone() });
        Body { changes, rows: 1 }
    }

    fn body(&self, view: &View, touched: &[TouchedRow], gained: &FxHashSet<TopicKey>) -> Body {
        let (mut body, mut rows) = (Vec::new(), 0);
        let mut said: FxHashSet<(TableId, &Bytes)> = FxHashSet::default();
        for touched in touched {
            let row = self.visible_now(view, touched);
            if row.is_some() || touched.was_visible {
                self.push_change(&mut body, touched.table, &touched.key, row);
                rows += 1;
            }
            if row.is_some() && !gained.is_empty() {
                said.insert((touched.table, &touched.key));
            }
        }
        for key in gained {
            let state = &self.topics[*key];
            let branch = self.plan.branch(state.topic.branch);
            for row in state.rows.iter().filter(|_| branch.published) {
                if branch.claim_filter.passes(&row.image.kept, &view.claims)
                    && said.insert((branch.table, &row.image.key))
                {
                    self.push_change(&mut body, branch.table, &row.image.key, Some(row));
                    rows += 1;
                }
            }
        }
        Body { changes: body.into(), rows }
    }

    fn push_change(&self, body: &mut Vec<u8>, table: TableId, key: &Bytes, row: Option<&Arc<Row>>) {
        if !body.is_empty() {
            body.push(b',');
        }
        let name = &self.plan.table(table).name_json;
        match row {
            Some(row) => put_change(body, name, &row.json),
            None => delete_change(body, name, key),
        }
    }

    /// All that a whole view sees.
    fn freeze(&self, view: &View) -> ViewRows {
        let topics = view.reach.keys().map(|key| &self.topics[*key]);
        let published = topics.filter(|state| self.plan.branch(state.topic.branch).published);
        let rows = published.map(|state| (&state.topic, &state.rows));
        ViewRows::freeze(&self.plan, &view.claims, rows)
    }
}

/// Takes out what was settled for a session, in order.
fn take_of(
    settled: &mut Vec<(SessionId, Arc<Acknowledgement>)>,
    session: SessionId,
) -> Vec<Arc<Acknowledgement>> {
    settled
        .extract_if(.., |(of, _)| *of == session)
        .map(|(_, acknowledgement)| acknowledgement)
        .collect()
}

/// The last message of a single row, for the next view that is sent the same.
struct SharedBody {
    identity: (TableId, Bytes, usize),
    changes: Bytes,
}

/// The changes of one message.
#[derive(Default)]
struct Body {
    changes: Bytes,
    rows: u32,
}
