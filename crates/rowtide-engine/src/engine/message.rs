//! The end of a step: every view that has something to say, and is whole, says it. A message is the
//! difference between what was visible at the last one and what is visible now.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_feed::Acknowledgement;
use rowtide_plan::plan::TableId;
use rowtide_plan::row::Row;
use rowtide_protocol::{Mode, delete_change, put_change};
use rustc_hash::FxHashSet;

use super::{Engine, Output, SessionId};
use crate::topic::{TopicKey, ViewKey};
use crate::touched::TouchedRow;
use crate::view::{Joining, View, ViewPhase};
use crate::{Message, ViewRows};

impl Engine {
    /// Every view that has something to say, and is whole, says it.
    pub(super) fn speak(&mut self, out: &mut Vec<Output>) {
        self.topics.pass(self.position);
        self.views.pass(self.position);
        let mut shared = None;
        let mut dirty = self.views.take_dirty();
        for key in dirty.drain(..) {
            if self.views[key].resume().is_some() {
                self.advance_resume(key);
            }
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
        self.detach_leaving(key);
        let view = &mut self.views[key];
        let (touched, gained) = view.take_news();
        let mut acknowledgements = std::mem::take(&mut view.acknowledgements);
        let view = &self.views[key];
        let returning = view.returning();
        if let Some(session) = returning {
            out.push(Output::Begin { session, mode: Mode::Resume });
            let body = self.body(view, &touched, &gained);
            if !body.changes.is_empty() {
                let message = self.message(view, body);
                out.push(Output::Tx { session, message, acknowledgements: Vec::new() });
            }
            self.say_ready(view, session, &mut acknowledgements, out);
        }
        if !view.live.is_empty() {
            let body = match touched.as_slice() {
                [] if gained.is_empty() => Body::default(),
                [only] if gained.is_empty() => self.body_of_one(view, only, shared),
                _ => self.body(view, &touched, &gained),
            };
            self.say_changes(view, body, &mut acknowledgements, out);
        }
        let (joining, later): (Vec<Joining>, Vec<Joining>) =
            view.joining.iter().partition(|joining| joining.not_before <= Some(self.position));
        let frozen = (!joining.is_empty())
            .then(|| view.frozen().unwrap_or_else(|| Arc::new(self.freeze(view))));
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

    fn message(&self, view: &View, Body { changes, rows }: Body) -> Arc<Message> {
        let cursor = view.cursor(self.epoch, self.position);
        Message::new(cursor, changes, rows, self.commit_time_us)
    }

    /// Tells the sessions of a view what has changed; where nothing has, only those whose mutations were
    /// acknowledged.
    fn say_changes(&self, view: &View, body: Body, acks: &mut Acks, out: &mut Vec<Output>) {
        if body.changes.is_empty() {
            if acks.is_empty() {
                return;
            }
            let is_live =
                |id: &SessionId| view.joining.iter().all(|joining| joining.session != *id);
            let mut told: Vec<SessionId> = acks.iter().map(|(id, _)| *id).collect();
            told.dedup();
            told.retain(is_live);
            let message = self.message(view, body);
            for session in told {
                let acknowledgements = take_of(acks, session);
                if !acknowledgements.is_empty() {
                    let message = Arc::clone(&message);
                    out.push(Output::Tx { session, message, acknowledgements });
                }
            }
            return;
        }
        let message = self.message(view, body);
        out.reserve(view.live.len());
        for session in &view.live {
            out.push(Output::Tx {
                session: *session,
                message: Arc::clone(&message),
                acknowledgements: take_of(acks, *session),
            });
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
            let branch = self.plan.branch(state.id().branch);
            for row in state.rows().iter().filter(|_| branch.published) {
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
        let published = topics.filter(|state| self.plan.branch(state.id().branch).published);
        let rows = published.map(|state| (state.id(), state.rows()));
        ViewRows::freeze(&self.plan, &view.claims, rows)
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
    identity: (TableId, Bytes, usize),
    changes: Bytes,
}

/// The changes of one message.
#[derive(Default)]
struct Body {
    changes: Bytes,
    rows: u32,
}
