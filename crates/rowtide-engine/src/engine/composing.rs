//! Sessions that are told of several views: of that of their claims, and of their subscriptions. What the views say is kept
//! until all of them have come to the same commit, and is then one message. A row that a view says is gone is not said where
//! another of the session's views sees it: a client has what any of its views sees. A view that was not whole says late what
//! happened before others said more, so of each row the last by its commit counts, and not the last that is said.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use rowtide_plan::claims::Claims;
use rowtide_plan::map::SeededSet;
use rowtide_plan::plan::{Selection, TableId};
use rowtide_plan::row::Row;
use rowtide_protocol::{Lsn, Mode};
use smallvec::{SmallVec, smallvec};

use super::message::{Acks, take_of};
use super::{Engine, Output, Subscriptions};
use crate::ViewMessage;
use crate::message::{Body, Composed, GoneRow, Removed};
use crate::sessions::{Held, HeldState, Session, SessionId, Subscribing, SubscriptionId, Way};
use crate::topic::ViewKey;
use crate::window::ViewWindow;

/// A row that is gone from some of a session's views.
struct Gone<'a> {
    /// What was said of it last.
    removed: &'a Removed,
    /// By which message, and where in it.
    said: (usize, usize),
    /// As of when a view was last said to have it.
    put: Option<Lsn>,
}

/// Views of one session.
type Few = SmallVec<[ViewKey; 4]>;

impl Engine {
    /// A session comes that wants the rows of several views, and has none.
    pub(super) fn open_composed(
        &mut self,
        session: SessionId,
        claims: Claims,
        client: Option<Box<str>>,
        not_before: Option<Lsn>,
        subscriptions: Vec<Subscribing>,
    ) {
        let state = HeldState::First;
        let view = self.shared_view(Selection::Always, claims);
        let mut held: SmallVec<[Held; 1]> = smallvec![Held { view, subscription: None, state }];
        for Subscribing { id, query, claims } in subscriptions {
            let view = self.shared_view(Selection::Query(query), claims);
            held.push(Held { view, subscription: Some(id), state });
        }
        self.sessions.enter(session, Way::Opening(not_before), held.clone(), client);
        held.iter().for_each(|held| self.await_view(session, held.view));
    }

    /// A session asks for more.
    pub(super) fn subscribe(&mut self, session: SessionId, subscribing: Subscribing) {
        if self.sessions.get(session).is_none() {
            return;
        }
        let Subscribing { id, query, claims } = subscribing;
        let view = self.shared_view(Selection::Query(query), claims);
        let held = Held { view, subscription: Some(id), state: HeldState::Joining };
        self.sessions.hold(session, held);
        self.await_view(session, view);
    }

    /// A session asks for less.
    pub(super) fn unsubscribe(&mut self, session: SessionId, subscription: SubscriptionId) {
        let Some(of) = self.sessions.list(session) else { return };
        let waits = matches!(of.way, Way::Opening(_) | Way::Returning);
        let is = |held: &&mut Held| held.subscription == Some(subscription);
        let Some(held) = of.held.iter_mut().find(is) else { return };
        match held.state {
            // Whether it has rows is not known yet.
            HeldState::First if waits => return of.unwanted.push(subscription),
            HeldState::Leaving { .. } => return,
            state => held.state = HeldState::Leaving { had: state.has_rows() },
        }
        let view = held.view;
        self.await_view(session, view);
    }

    /// The session is looked at once the view is whole, and all of its rows are known.
    fn await_view(&mut self, session: SessionId, view: ViewKey) {
        self.need_all_rows(view);
        let view = self.views.mark(view);
        if !view.awaited_by.contains(&session) {
            view.awaited_by.push(session);
        }
    }

    /// A view knows what a session has missed of it that has come back.
    pub(super) fn has_come_back(
        &mut self,
        session: SessionId,
        view: ViewKey,
        message: Option<Arc<ViewMessage>>,
        acks: &mut Acks,
    ) {
        let Some(of) = self.sessions.list(session) else { return };
        for held in of.held.iter_mut().filter(|held| held.view == view) {
            held.state = HeldState::Live;
        }
        of.kept.extend(message);
        of.acknowledgements.extend(take_of(acks, session));
    }

    /// Tells the sessions of several views what these have said, where all of them have come as far as the stream.
    pub(super) fn compose(&mut self, out: &mut Vec<Output>) {
        for session in self.sessions.take_listed() {
            match self.sessions.get(session).map(|of| of.way) {
                Some(Way::Opening(not_before)) => self.begin(session, not_before, out),
                Some(Way::Returning) => self.come_back(session, out),
                Some(Way::Direct { ready: true } | Way::Composed) => self.go_on(session, out),
                Some(Way::Direct { ready: false }) | None => {}
            }
            self.sessions.was_looked_at(session);
        }
    }

    /// Whether a view has said all that there is to say at this position.
    fn has_spoken(&self, view: ViewKey) -> bool {
        let view = &self.views[view];
        view.is_whole(self.position) && view.resume().is_none() && view.returning().is_none()
    }

    fn have_spoken(&self, views: &[ViewKey]) -> bool {
        views.iter().all(|view| self.has_spoken(*view))
    }

    /// A session is sent its first rows.
    fn begin(&mut self, session: SessionId, not_before: Option<Lsn>, out: &mut Vec<Output>) {
        let Some(of) = self.sessions.get(session) else { return };
        let views = of.views_in(HeldState::First);
        if !self.have_spoken(&views) {
            return;
        }
        if let Some(at) = not_before.filter(|at| *at > self.position) {
            return self.views.look_at(views[0], at);
        }
        for view in &views {
            let rows = self.frozen(&self.views[*view]);
            self.views[*view].was_frozen(&rows);
            out.push(Output::Snapshot { session, rows });
            self.joins(session, *view, HeldState::First);
        }
        self.is_there(session, out);
    }

    /// A session that has come back is told what has changed for it.
    fn come_back(&mut self, session: SessionId, out: &mut Vec<Output>) {
        let Some(of) = self.sessions.get(session) else { return };
        if !of.views_in(HeldState::First).is_empty() || !self.have_spoken(&of.live()) {
            return;
        }
        out.push(Output::Begin { session, mode: Mode::Resume });
        let composed = self.take_kept(session, &of.live());
        if !composed.is_empty() {
            let message = self.composed(session, composed, Body::default());
            out.push(Output::tx(session, message, Vec::new()));
        }
        self.is_there(session, out);
    }

    /// All of its views have been told, or will be.
    fn is_there(&mut self, session: SessionId, out: &mut Vec<Output>) {
        let Some(of) = self.sessions.get_mut(session) else { return };
        let base = of.held[0].view;
        of.way = way_of(of);
        let unwanted = std::mem::take(&mut of.unwanted);
        let mut acks: Acks =
            of.acknowledgements.drain(..).map(|acknowledged| (session, acknowledged)).collect();
        let later = take_of(&mut self.views[base].acknowledgements, session);
        acks.extend(later.into_iter().map(|acknowledged| (session, acknowledged)));
        self.say_ready(base, session, &mut acks, out);
        unwanted.into_iter().for_each(|subscription| self.unsubscribe(session, subscription));
        // What was asked for meanwhile may be there already.
        self.go_on(session, out);
    }

    /// A session is brought to the present.
    fn go_on(&mut self, session: SessionId, out: &mut Vec<Output>) {
        let Some(of) = self.sessions.get(session) else { return };
        let live = of.live();
        if !self.have_spoken(&live) {
            return;
        }
        let mut subscriptions = Subscriptions::default();
        let mut joined = Few::new();
        for held in &of.held {
            match (held.state, held.subscription) {
                (HeldState::Joining, Some(id)) if self.has_spoken(held.view) => {
                    subscriptions.subscribed.push(id);
                    if !live.contains(&held.view) && !joined.contains(&held.view) {
                        joined.push(held.view);
                    }
                }
                (HeldState::Leaving { .. }, Some(id)) => subscriptions.unsubscribed.push(id),
                _ => {}
            }
        }
        let is_silent = of.kept.is_empty() && of.acknowledgements.is_empty();
        if is_silent && subscriptions == Subscriptions::default() {
            return;
        }
        let stays = |held: &&Held| !matches!(held.state, HeldState::Leaving { .. });
        let kept: Few = of.held.iter().filter(stays).map(|held| held.view).collect();
        let after: Few =
            live.iter().filter(|view| kept.contains(view)).chain(&joined).copied().collect();
        let left: Few = live.iter().filter(|view| !kept.contains(view)).copied().collect();
        let mut composed = self.take_kept(session, &after);
        for view in joined {
            let rows = self.frozen(&self.views[view]);
            self.views[view].was_frozen(&rows);
            composed.push_whole(rows);
        }
        let lost = self.lost(&left, &after);
        let message = self.composed(session, composed, lost);
        for view in self.settle(session, &subscriptions) {
            self.loses(session, view);
        }
        let Some(of) = self.sessions.get_mut(session) else { return };
        of.way = way_of(of);
        let acknowledgements = std::mem::take(&mut of.acknowledgements);
        out.push(Output::Tx { session, message, acknowledgements, subscriptions });
    }

    /// Takes what the views of a session have said. `after` are those of which it has the rows then.
    fn take_kept(&mut self, session: SessionId, after: &[ViewKey]) -> Composed {
        let mut composed = Composed::default();
        let Some(of) = self.sessions.get_mut(session) else { return composed };
        let mut kept = std::mem::take(&mut of.kept);
        kept.retain(|message| message.rows > 0);
        let mut gone: BTreeMap<(TableId, Bytes), Gone<'_>> = BTreeMap::new();
        for (message, of) in kept.iter().enumerate() {
            for (place, removed) in of.removed().iter().enumerate() {
                let row = (removed.table, removed.key.clone());
                let first = || Gone { removed, said: (message, place), put: None };
                let of_row = gone.entry(row).or_insert_with(first);
                if of_row.removed.at <= removed.at {
                    (of_row.removed, of_row.said) = (removed, (message, place));
                }
            }
        }
        if !gone.is_empty() {
            for message in &kept {
                let at = message.cursor.lsn;
                message.puts_of(&mut gone, |of_row| of_row.put = of_row.put.max(Some(at)));
            }
            gone.retain(|_, of_row| {
                let Removed { key, latest, at, by_change, .. } = &of_row.removed;
                of_row.put < Some(*at) && !self.is_seen(after, key, latest.as_ref(), *by_change)
            });
        }
        let said: BTreeSet<(usize, usize)> = gone.values().map(|of_row| of_row.said).collect();
        for (at, message) in kept.iter().enumerate() {
            let places = 0..message.removed().len();
            let left_out = places.filter(|place| !said.contains(&(at, *place))).collect();
            composed.push(Arc::clone(message), left_out);
        }
        composed
    }

    /// Whether one of the views sees the row. A session may have many: each topic is looked up once for all of them. What is
    /// known `by_change` may be old where a topic is not read, see [`GoneRow::by_change`].
    fn is_seen(
        &self,
        views: &[ViewKey],
        key: &Bytes,
        latest: Option<&Arc<Row>>,
        by_change: bool,
    ) -> bool {
        let Some(latest) = latest else { return false };
        latest.image.topics.iter().any(|topic| {
            let branch = self.plan.branch(topic.branch);
            let Some(topic) = self.topics.find(topic) else { return false };
            if by_change && branch.window.is_none() && !self.topics[topic].was_read() {
                return false;
            }
            let mut views = views.iter().map(|view| &self.views[*view]);
            views.any(|view| self.seen_in(view, branch, topic, key, latest).is_some())
        })
    }

    /// The rows that views see which the session has no longer, and none of those that it has.
    fn lost(&self, left: &[ViewKey], after: &[ViewKey]) -> Body {
        let mut body = Body::default();
        let gone = GoneRow { latest: None, at: self.position, by_change: false };
        let mut said: SeededSet<(TableId, &Bytes)> = SeededSet::default();
        for view in left.iter().map(|view| &self.views[*view]) {
            let mut topics: Vec<_> = view.reach.keys().map(|key| &self.topics[*key]).collect();
            topics.sort_unstable_by(|a, b| a.id().cmp(b.id()));
            for state in topics {
                let branch = self.plan.branch(state.id().branch);
                for row in state.rows().iter().filter(|_| branch.sends_all_rows()) {
                    let key = &row.image.key;
                    if view.sees(branch, &row.image.kept, self.time.now)
                        && !self.is_seen(after, key, Some(row), false)
                        && said.insert((branch.table, key))
                    {
                        body.push(&self.plan, branch.table, key, Err(gone));
                    }
                }
            }
            for (table, row) in view.windows.iter().flat_map(ViewWindow::rows_of_table) {
                let key = &row.image.key;
                if !self.is_seen(after, key, Some(row), false) && said.insert((table, key)) {
                    body.push(&self.plan, table, key, Err(gone));
                }
            }
        }
        body
    }

    fn composed(&self, session: SessionId, composed: Composed, own: Body) -> Arc<ViewMessage> {
        let base = self.sessions.view_of(session).map(|base| &self.views[base]);
        let id = base.map_or(rowtide_protocol::ViewId(0), |view| view.id);
        let cursor = rowtide_protocol::Cursor { epoch: self.epoch, view: id, lsn: self.position };
        ViewMessage::composed(cursor, composed, own, self.commit_time_us)
    }

    /// Takes into account that it is told of these; returns the views that it does not hold any more.
    fn settle(&mut self, session: SessionId, told: &Subscriptions) -> Few {
        let Some(of) = self.sessions.get(session) else { return Few::new() };
        let is_in = |list: &[SubscriptionId], held: &Held| {
            held.subscription.is_some_and(|id| list.contains(&id))
        };
        let joined: Few = (of.held.iter())
            .filter(|held| is_in(&told.subscribed, held))
            .map(|held| held.view)
            .collect();
        // Before others of the same view go, so that it is known whether the session is there already.
        joined.iter().for_each(|view| self.joins(session, *view, HeldState::Joining));
        let Some(of) = self.sessions.get_mut(session) else { return Few::new() };
        let mut left = Few::new();
        of.held.retain(|held| {
            let goes = is_in(&told.unsubscribed, held);
            if goes && !left.contains(&held.view) {
                left.push(held.view);
            }
            !goes
        });
        for view in &left {
            if !of.awaits(*view) {
                self.views[*view].awaited_by.retain(|other| *other != session);
            }
        }
        left.retain(|view| !of.holds(*view));
        left
    }

    /// A session has the rows of a view from now on, for which it has `waited`.
    fn joins(&mut self, session: SessionId, view: ViewKey, waited: HeldState) {
        let Some(of) = self.sessions.get_mut(session) else { return };
        let had = of.has(view);
        for held in of.held.iter_mut().filter(|held| held.view == view) {
            if held.state == waited {
                held.state = HeldState::Live;
            }
        }
        let awaits = of.awaits(view);
        let view = &mut self.views[view];
        if !awaits {
            view.awaited_by.retain(|other| *other != session);
        }
        if !had {
            view.live.push(session);
        }
    }

    /// A session does not hold a view any more.
    fn loses(&mut self, session: SessionId, view: ViewKey) {
        if self.views[view].leave(session) {
            self.drop_view(view);
        }
    }
}

/// How a session that is there hears of things.
fn way_of(of: &Session) -> Way {
    match of.live().len() {
        0 | 1 => Way::Direct { ready: true },
        _ => Way::Composed,
    }
}
