//! Sessions: what one brings when it comes, which views each open one holds, and which of them are one
//! client's. A session holds the view of its claims, and one for each of its subscriptions. With one view it is told what
//! that view says, as it says it; with several it is told what all of them say together, once all of them have
//! come to the same commit: until then what each says is kept here.

use std::collections::BTreeSet;
use std::sync::Arc;

use rowtide_feed::Acknowledgement;
use rowtide_plan::claims::Claims;
use rowtide_plan::map::{Id, IdMap, IdSet, SeededMap};
use rowtide_plan::plan::QueryId;
use rowtide_protocol::{Cursor, Lsn};
use smallvec::SmallVec;

use crate::ViewMessage;
use crate::topic::ViewKey;

/// Names one session for as long as it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl Id for SessionId {}

/// Names one subscription of a session for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub u64);

/// What a session asks for beside what it is always sent.
#[derive(Clone, Debug)]
pub struct Subscribing {
    /// Not that of another subscription of the session.
    pub id: SubscriptionId,
    /// The query.
    pub query: QueryId,
    /// The session's claims and the parameters: what [`Plan::select`](rowtide_plan::plan::Plan::select) says.
    pub claims: Claims,
}

/// A session that comes.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Not used twice.
    pub session: SessionId,
    /// What it sees is decided by these.
    pub claims: Claims,
    /// Whose acknowledgements it is told; several sessions may be one client's.
    pub client: Option<Box<str>>,
    /// Its first rows must not be older than this commit: the session has been told of a mutation
    /// that it acknowledges.
    pub not_before: Option<Lsn>,
    /// What the client has from before. One of another epoch or of other claims is of no use.
    pub cursor: Option<Cursor>,
    /// What it is subscribed to; with a cursor, what its client has of it is as of the cursor.
    pub subscriptions: Vec<Subscribing>,
}

/// All open sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    sessions: IdMap<SessionId, Session>,
    /// The sessions of each client; never none.
    clients: SeededMap<Box<str>, SmallVec<[SessionId; 1]>>,
    /// Those that may have something to be told of several views.
    listed: Vec<SessionId>,
    /// Those for whom something is kept that views have said.
    keeping: BTreeSet<SessionId>,
    /// Whether any session has ever had a subscription.
    have_subscribed: bool,
}

/// One open session.
#[derive(Debug)]
pub(crate) struct Session {
    client: Option<Box<str>>,
    pub(crate) way: Way,
    /// The view of its claims first. Several subscriptions may hold one view.
    pub(crate) held: SmallVec<[Held; 1]>,
    /// Of a session that is told of several views: what they have said since it was told last, in order.
    pub(crate) kept: Vec<Arc<ViewMessage>>,
    /// Subscriptions that it wants no longer, and that it is not told of before it is ready.
    pub(crate) unwanted: Vec<SubscriptionId>,
    /// What it is to be told with that.
    pub(crate) acknowledgements: Vec<Arc<Acknowledgement>>,
    is_listed: bool,
}

/// How a session comes to hear of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The one view whose rows it has tells it, or will; until it is ready, it is known there how far it is.
    Direct {
        /// Whether it was told that it is ready.
        ready: bool,
    },
    /// It waits for the first rows of several views, which must not be older than this.
    Opening(Option<Lsn>),
    /// It has come back, and waits for what has changed in several views.
    Returning,
    /// It is told what several views say.
    Composed,
}

/// A view that a session holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) view: ViewKey,
    /// None for the view of its claims.
    pub(crate) subscription: Option<SubscriptionId>,
    pub(crate) state: HeldState,
}

/// How far a session is with a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldState {
    /// It waits for the view's rows, which are among its first, or for what has changed of them while it was away.
    First,
    /// It waits for the view's rows, and goes on meanwhile.
    Joining,
    /// It has the view's rows.
    Live,
    /// It wants the view's rows no longer, if it ever had them.
    Leaving {
        /// Whether it has them.
        had: bool,
    },
}

impl HeldState {
    /// Whether the session has the view's rows.
    pub(crate) fn has_rows(self) -> bool {
        matches!(self, HeldState::Live | HeldState::Leaving { had: true })
    }
}

impl Session {
    /// Whether it has the rows of a view.
    pub(crate) fn has(&self, view: ViewKey) -> bool {
        self.held.iter().any(|held| held.view == view && held.state.has_rows())
    }

    /// Whether nothing but the view of its claims has to do with it.
    pub(crate) fn is_simple(&self) -> bool {
        self.held.len() == 1 && matches!(self.way, Way::Direct { .. })
    }

    /// Whether it waits for the rows of a view, or to be told that it has them no longer.
    pub(crate) fn awaits(&self, view: ViewKey) -> bool {
        self.held.iter().any(|held| held.view == view && held.state != HeldState::Live)
    }

    /// Whether one of its subscriptions, or its claims, holds the view still.
    pub(crate) fn holds(&self, view: ViewKey) -> bool {
        self.held.iter().any(|held| held.view == view)
    }

    /// The views that it holds in this state, each once.
    pub(crate) fn views_in(&self, state: HeldState) -> SmallVec<[ViewKey; 4]> {
        let mut views: SmallVec<[ViewKey; 4]> = SmallVec::new();
        for held in self.held.iter().filter(|held| held.state == state) {
            if !views.contains(&held.view) {
                views.push(held.view);
            }
        }
        views
    }

    /// The views whose rows it has, each once.
    pub(crate) fn live(&self) -> SmallVec<[ViewKey; 4]> {
        let mut live: SmallVec<[ViewKey; 4]> = SmallVec::new();
        for held in self.held.iter().filter(|held| held.state.has_rows()) {
            if !live.contains(&held.view) {
                live.push(held.view);
            }
        }
        live
    }
}

impl Sessions {
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) fn get(&self, session: SessionId) -> Option<&Session> {
        self.sessions.get(&session)
    }

    pub(crate) fn get_mut(&mut self, session: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(&session)
    }

    /// The view of its claims that a session holds, if it is open.
    pub(crate) fn view_of(&self, session: SessionId) -> Option<ViewKey> {
        self.sessions.get(&session)?.held.first().map(|held| held.view)
    }

    /// Whether what a view says is kept for the session, to be told with what others say.
    pub(crate) fn is_composed(&self, session: SessionId) -> bool {
        let way = self.sessions.get(&session).map(|session| session.way);
        way.is_some_and(|way| !matches!(way, Way::Direct { .. }))
    }

    /// A session comes.
    pub(crate) fn enter(
        &mut self,
        session: SessionId,
        way: Way,
        held: SmallVec<[Held; 1]>,
        client: Option<Box<str>>,
    ) {
        if let Some(client) = &client {
            self.clients.or_insert_with(client.clone(), SmallVec::new).push(session);
        }
        self.have_subscribed |= held.len() > 1;
        let (kept, unwanted, acknowledgements) = (Vec::new(), Vec::new(), Vec::new());
        let is_listed = false;
        let entered = Session { client, way, held, kept, unwanted, acknowledgements, is_listed };
        self.sessions.insert(session, entered);
    }

    /// A session goes; returns the views that it held, each once.
    pub(crate) fn leave(&mut self, session: SessionId) -> SmallVec<[ViewKey; 4]> {
        self.keeping.remove(&session);
        let Some(Session { client, held, .. }) = self.sessions.remove(&session) else {
            return SmallVec::new();
        };
        if let Some(client) = client
            && let Some(sessions) = self.clients.get_mut(&client)
        {
            sessions.retain(|other| *other != session);
            if sessions.is_empty() {
                self.clients.remove(&client);
            }
        }
        let mut views: SmallVec<[ViewKey; 4]> = held.iter().map(|held| held.view).collect();
        views.sort_unstable();
        views.dedup();
        views
    }

    /// A session holds another view instead of one from now on.
    pub(crate) fn move_to(&mut self, session: SessionId, from: ViewKey, to: ViewKey) {
        if let Some(session) = self.sessions.get_mut(&session) {
            for held in session.held.iter_mut().filter(|held| held.view == from) {
                held.view = to;
            }
        }
    }

    /// The session was told that it is ready.
    pub(crate) fn is_ready(&mut self, session: SessionId) {
        let Some(of) = self.sessions.get_mut(&session) else { return };
        if let Way::Direct { ready } = &mut of.way {
            *ready = true;
            of.held[0].state = HeldState::Live;
        }
        if !of.is_simple() {
            self.list(session);
        }
    }

    /// A session asks for another view.
    pub(crate) fn hold(&mut self, session: SessionId, held: Held) {
        self.have_subscribed = true;
        if let Some(of) = self.list(session) {
            of.held.push(held);
        }
    }

    /// Whether all sessions have one view, and always had.
    pub(crate) fn are_simple(&self) -> bool {
        !self.have_subscribed
    }

    /// Whether the session has the rows of a view, and is told of what becomes of them.
    pub(crate) fn is_told_of(&self, session: SessionId, view: ViewKey) -> bool {
        self.sessions.get(&session).is_some_and(|of| match of.way {
            Way::Direct { ready } => ready,
            _ => of.has(view),
        })
    }

    /// The session must be looked at before the step ends.
    pub(crate) fn list(&mut self, session: SessionId) -> Option<&mut Session> {
        let of = self.sessions.get_mut(&session)?;
        if !std::mem::replace(&mut of.is_listed, true) {
            self.listed.push(session);
        }
        Some(of)
    }

    /// Takes into account whether something is kept for the session, which was looked at.
    pub(crate) fn was_looked_at(&mut self, session: SessionId) {
        match self.sessions.get(&session).is_some_and(|of| !of.kept.is_empty()) {
            true => drop(self.keeping.insert(session)),
            false => drop(self.keeping.remove(&session)),
        }
    }

    /// Views that have said something which is kept for a session still.
    pub(crate) fn kept_of(&self) -> IdSet<ViewKey> {
        let keeping = self.keeping.iter().filter_map(|session| self.sessions.get(session));
        keeping.flat_map(|of| of.held.iter().map(|held| held.view)).collect()
    }

    /// Those to look at.
    pub(crate) fn take_listed(&mut self) -> Vec<SessionId> {
        let listed = std::mem::take(&mut self.listed);
        for session in &listed {
            if let Some(session) = self.sessions.get_mut(session) {
                session.is_listed = false;
            }
        }
        listed
    }

    /// The sessions that an acknowledgement is for, each with the view of its claims.
    pub(crate) fn told_of(
        &self,
        acknowledgement: &Acknowledgement,
    ) -> impl Iterator<Item = (SessionId, ViewKey)> {
        let of_client = self.clients.get(&acknowledgement.client).into_iter().flatten();
        of_client.filter_map(|session| Some((*session, self.view_of(*session)?)))
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
    }
}
