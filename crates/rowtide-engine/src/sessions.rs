//! Sessions: what one brings when it comes, in which view each open one is, and which of them are one
//! client's.

use rowtide_feed::Acknowledgement;
use rowtide_plan::claims::Claims;
use rowtide_plan::map::{Id, IdMap, SeededMap};
use rowtide_protocol::{Cursor, Lsn};
use smallvec::SmallVec;

use crate::topic::ViewKey;

/// Names one session for as long as it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl Id for SessionId {}

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
}

/// All open sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    sessions: IdMap<SessionId, Session>,
    /// The sessions of each client; never none.
    clients: SeededMap<Box<str>, SmallVec<[SessionId; 1]>>,
}

#[derive(Debug)]
struct Session {
    view: ViewKey,
    client: Option<Box<str>>,
}

impl Sessions {
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The view that a session is in, if it is open.
    pub(crate) fn view_of(&self, session: SessionId) -> Option<ViewKey> {
        self.sessions.get(&session).map(|session| session.view)
    }

    /// A session comes.
    pub(crate) fn enter(&mut self, session: SessionId, view: ViewKey, client: Option<Box<str>>) {
        if let Some(client) = &client {
            self.clients.or_insert_with(client.clone(), SmallVec::new).push(session);
        }
        self.sessions.insert(session, Session { view, client });
    }

    /// A session goes; returns the view that it was in, if it was open.
    pub(crate) fn leave(&mut self, session: SessionId) -> Option<ViewKey> {
        let Session { view, client } = self.sessions.remove(&session)?;
        if let Some(client) = client
            && let Some(sessions) = self.clients.get_mut(&client)
        {
            sessions.retain(|other| *other != session);
            if sessions.is_empty() {
                self.clients.remove(&client);
            }
        }
        Some(view)
    }

    /// A session is in another view from now on.
    pub(crate) fn move_to(&mut self, session: SessionId, view: ViewKey) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.view = view;
        }
    }

    /// The sessions that an acknowledgement is for, each with its view.
    pub(crate) fn told_of(
        &self,
        acknowledgement: &Acknowledgement,
    ) -> impl Iterator<Item = (SessionId, ViewKey)> {
        let of_client = self.clients.get(&acknowledgement.client).into_iter().flatten();
        of_client.filter_map(|session| Some((*session, self.view_of(*session)?)))
    }
}
