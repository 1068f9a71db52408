//! One step at a time: an input changes topics and views, then every view that has something to say
//! and is whole says it. A transaction is taken in two passes. The first notes, before anything
//! moves, which views saw each row; the second moves rows between topics and follows links, by which
//! views gain and lose topics. Only then is the difference made, so it is between the state of one
//! commit and the state of the next, whatever the order of changes within.

mod forgetting;
mod loading;
mod message;
mod reach;
mod resuming;
mod transaction;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rowtide_feed::{Acknowledgement, History, Transaction};
use rowtide_plan::claims::Claims;
use rowtide_plan::plan::Plan;
use rowtide_plan::row::Topic;
use rowtide_protocol::{Cursor, Epoch, Lsn, Mode};
use rustc_hash::FxHashMap;
use slab::Slab;
use smallvec::SmallVec;

use crate::recent::Recent;
use crate::resume::{HistoryId, HistoryRequest};
use crate::topic::{Phase, TopicKey, TopicState, ViewKey};
use crate::view::View;
use crate::{Load, LoadId, Loaded, Message, TopicRows, ViewRows};

/// Names one session for as long as it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// What happens to an engine.
#[derive(Clone, Debug)]
pub enum Input {
    /// The stream brought a transaction. One that lies before the position is ignored, so that a
    /// stream may start again from an earlier place.
    Transaction(Arc<Transaction>),
    /// The stream has come this far, and there was nothing on the way.
    Position(Lsn),
    /// A stream begins, and WAL ends here: no client was ever told of anything behind it.
    StreamBegan(Lsn),
    /// A load arrived.
    Loaded(LoadId, Loaded),
    /// A load will not arrive; its topics are wanted again.
    LoadFailed(LoadId),
    /// What was asked with [`Engine::take_history`]; `None` if the log cannot say.
    History(HistoryId, Option<History>),
    /// A session came.
    Open(Opening),
    /// A session went.
    Close(SessionId),
    /// Time passes: a counter that grows by one about every second. Once in
    /// [`Engine::IDLE_TURNS`] of them each idle view's cursor is moved on.
    Tick(u64),
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
    /// that was settled by it.
    pub not_before: Lsn,
    /// What the client has from before. One of another epoch or of other claims is of no use.
    pub cursor: Option<Cursor>,
}

/// What the engine has to say to sessions. For one session the order matters.
#[derive(Clone, Debug)]
pub enum Output {
    /// Comes first: whether the session is sent all of its rows, or only what has changed for it.
    Begin {
        /// To whom.
        session: SessionId,
        /// With [`Mode::Resume`] at most one [`Output::Tx`] comes before [`Output::Ready`].
        mode: Mode,
    },
    /// The rows of a new replica, all of them; shared by the sessions that are sent the same.
    Snapshot {
        /// To whom.
        session: SessionId,
        /// As of the cursor of the [`Output::Ready`] that follows.
        rows: Arc<ViewRows>,
    },
    /// The replica is whole.
    Ready {
        /// To whom.
        session: SessionId,
        /// As of this commit.
        cursor: Cursor,
    },
    /// One step forward.
    Tx {
        /// To whom.
        session: SessionId,
        /// What has changed; shared by the sessions that are sent the same.
        message: Arc<Message>,
        /// The mutations of the session's client that these commits acknowledge, in order.
        acknowledgements: Vec<Arc<Acknowledgement>>,
    },
    /// What has changed cannot be said; the session is no longer known, and must come back for all of its rows.
    Reset {
        /// Who.
        session: SessionId,
    },
    /// Many rows that the engine has let go. To drop them takes time, which is better spent elsewhere.
    Discarded(TopicRows),
}

/// How much an engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open sessions.
    pub sessions: usize,
    /// Different sets of claims among them.
    pub views: usize,
    /// Topics in use.
    pub topics: usize,
    /// Topics that wait for a load or are part of one.
    pub loading: usize,
    /// The JSON of rows that are held, in bytes.
    pub row_bytes: usize,
}

/// Where a session belongs.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) view: ViewKey,
    pub(crate) client: Option<Box<str>>,
}

/// Topics, views and sessions. See the module.
#[derive(Debug)]
pub struct Engine {
    pub(crate) plan: Arc<Plan>,
    epoch: Epoch,
    pub(crate) position: Lsn,
    commit_time_us: Option<i64>,
    pub(crate) topics: Slab<TopicState>,
    pub(crate) index: FxHashMap<Topic, TopicKey>,
    pub(crate) views: Slab<View>,
    pub(crate) views_by_claims: FxHashMap<Claims, ViewKey>,
    pub(crate) sessions: FxHashMap<SessionId, Session>,
    /// The sessions of each client.
    pub(crate) clients: FxHashMap<Box<str>, SmallVec<[SessionId; 1]>>,
    /// Views with [`View::resume`].
    pub(crate) resuming: BTreeSet<ViewKey>,
    /// Views of sessions that came back and have not joined the others of their claims yet.
    pub(crate) apart: BTreeSet<ViewKey>,
    history_requests: VecDeque<HistoryRequest>,
    pub(crate) histories: FxHashMap<HistoryId, ViewKey>,
    next_history: u64,
    turn: u64,
    /// Where WAL ended when the stream began.
    wal_end: Lsn,
    /// The turn in which the stream last brought something.
    heard_turn: u64,
    /// The JSON of all rows that are held, in bytes; a row counts once for each of its topics.
    pub(crate) row_bytes: usize,
    row_budget: usize,
    /// Rows that were let go in this step.
    discarded: Vec<TopicRows>,
    /// Where rows were last forgotten.
    next_forgotten: TopicKey,
    /// Topics in [`Phase::Wanted`]; may hold keys that are no longer, or are another topic now.
    pub(crate) wanted: VecDeque<TopicKey>,
    /// Others in that phase: they could not be read, and are not asked for before the next tick.
    pub(crate) postponed: Vec<TopicKey>,
    pub(crate) loads: FxHashMap<LoadId, Vec<TopicKey>>,
    next_load: u64,
    recent: Recent,
    /// Whether to ask for a snapshot even if no topic is wanted.
    probe: bool,
    /// Views that have all they need and wait for the stream to come to a position.
    releasable: BTreeSet<(Lsn, ViewKey)>,
    /// Topics ahead of the stream, by where that ends.
    ahead: BTreeSet<(Lsn, TopicKey)>,
    /// Views to look at before the step ends.
    dirty: Vec<ViewKey>,
}

impl Engine {
    /// An idle client's cursor is moved on once in so many ticks, about five minutes.
    pub const IDLE_TURNS: u64 = 300;

    /// An engine that has seen the stream up to `position` and has no sessions. `recent` are the last of the
    /// transactions until there, in commit order: some may not be visible to a load yet. `row_budget` is how
    /// many bytes of JSON it tries to hold at the most.
    pub fn new(
        plan: Arc<Plan>,
        epoch: Epoch,
        position: Lsn,
        recent: &[Arc<Transaction>],
        row_budget: usize,
    ) -> Engine {
        Engine {
            plan,
            epoch,
            position,
            commit_time_us: None,
            topics: Slab::new(),
            index: FxHashMap::default(),
            views: Slab::new(),
            views_by_claims: FxHashMap::default(),
            sessions: FxHashMap::default(),
            clients: FxHashMap::default(),
            resuming: BTreeSet::new(),
            apart: BTreeSet::new(),
            history_requests: VecDeque::new(),
            histories: FxHashMap::default(),
            next_history: 0,
            turn: 0,
            wal_end: Lsn(0),
            heard_turn: 0,
            row_bytes: 0,
            row_budget,
            discarded: Vec::new(),
            next_forgotten: 0,
            wanted: VecDeque::new(),
            postponed: Vec::new(),
            loads: FxHashMap::default(),
            next_load: 0,
            recent: Recent::of(recent),
            probe: false,
            releasable: BTreeSet::new(),
            ahead: BTreeSet::new(),
            dirty: Vec::new(),
        }
    }

    /// Takes one input and appends what follows from it to `out`.
    pub fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        self.advance(input, out);
        #[cfg(test)]
        self.check_invariants();
    }

    pub(crate) fn advance(&mut self, input: Input, out: &mut Vec<Output>) {
        if matches!(input, Input::Transaction(_) | Input::Position(_)) {
            self.heard_turn = self.turn;
        }
        match input {
            Input::Transaction(transaction) => self.transaction(&transaction, out),
            Input::Position(lsn) => self.position = self.position.max(lsn),
            Input::StreamBegan(end) => self.wal_end = end,
            Input::Loaded(id, loaded) => self.loaded(id, loaded),
            Input::LoadFailed(id) => self.load_failed(id),
            Input::History(id, history) => self.history(id, history, out),
            Input::Open(opening) => self.open(opening, out),
            Input::Close(session) => self.close(session),
            Input::Tick(turn) => self.tick(turn, out),
        }
        self.settle(out);
        self.forget_rows();
        out.extend(self.discarded.drain(..).map(Output::Discarded));
    }

    /// The next load to ask for, of at most `max_topics` topics. Its snapshot must be taken after
    /// this call. The more topics gather before it is called, the fewer loads there are.
    pub fn take_load(&mut self, max_topics: usize) -> Option<Load> {
        let id = LoadId(self.next_load);
        let mut keys = Vec::new();
        while keys.len() < max_topics {
            let Some(key) = self.wanted.pop_front() else { break };
            if let Some(topic) = self.topics.get_mut(key)
                && matches!(topic.phase, Phase::Wanted)
            {
                topic.phase = Phase::Loading { load: id, pending: Vec::new() };
                keys.push(key);
            }
        }
        if keys.is_empty() && !self.probe {
            return None;
        }
        self.probe = false;
        self.next_load += 1;
        self.seed_with_recent(&keys, id);
        let topics = keys.iter().map(|key| self.topics[*key].topic.clone()).collect();
        self.loads.insert(id, keys);
        Some(Load { id, topics })
    }

    /// Whether [`Engine::take_load`] has something to ask for.
    pub fn wants_load(&self) -> bool {
        self.probe || !self.wanted.is_empty()
    }

    /// The next question to the log.
    pub fn take_history(&mut self) -> Option<HistoryRequest> {
        self.history_requests.pop_front()
    }

    /// Everything up to here has been taken in.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// How much the engine holds. Costs a look at every topic.
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.len(),
            views: self.views.len(),
            topics: self.topics.len(),
            row_bytes: self.row_bytes,
            loading: self.topics.iter().filter(|(_, topic)| topic.is_waiting()).count(),
        }
    }

    fn open(&mut self, opening: Opening, out: &mut Vec<Output>) {
        if let Some(cursor) = opening.cursor
            && cursor.epoch == self.epoch
            && cursor.view == View::new(opening.claims.clone()).id
        {
            return self.open_resuming(opening, cursor.lsn);
        }
        let Opening { session, claims, client, not_before, cursor: _ } = opening;
        out.push(Output::Begin { session, mode: Mode::Snapshot });
        let view_key = match self.views_by_claims.get(&claims) {
            Some(key) => *key,
            None => {
                let key = self.views.insert(View::new(claims.clone()));
                for topic in self.plan.reached(&claims) {
                    self.reach(key, topic);
                }
                self.views_by_claims.insert(claims, key);
                key
            }
        };
        self.enter(session, view_key, client);
        let unread: Vec<TopicKey> = self.views[view_key].reach.keys().copied().collect();
        unread.into_iter().for_each(|key| self.need_rows(key));
        let view = &mut self.views[view_key];
        view.joining.push((session, not_before));
        mark(&mut self.dirty, view_key, view);
    }

    fn enter(&mut self, session: SessionId, view: ViewKey, client: Option<Box<str>>) {
        if let Some(client) = &client {
            self.clients.entry(client.clone()).or_default().push(session);
        }
        self.sessions.insert(session, Session { view, client });
    }

    fn close(&mut self, session: SessionId) {
        let Some(Session { view: view_key, client }) = self.sessions.remove(&session) else {
            return;
        };
        if let Some(client) = client
            && let Some(sessions) = self.clients.get_mut(&client)
        {
            sessions.retain(|other| *other != session);
            if sessions.is_empty() {
                self.clients.remove(&client);
            }
        }
        let view = &mut self.views[view_key];
        view.live.retain(|other| *other != session);
        view.joining.retain(|(other, _)| *other != session);
        view.settled.retain(|(other, _)| *other != session);
        view.resume.take_if(|resume| resume.session == session);
        view.returning.take_if(|other| *other == session);
        if view.is_deserted() {
            self.drop_view(view_key);
        }
    }

    fn drop_view(&mut self, view_key: ViewKey) {
        let view = self.views.remove(view_key);
        if self.views_by_claims.get(&view.claims) == Some(&view_key) {
            self.views_by_claims.remove(&view.claims);
        }
        self.resuming.remove(&view_key);
        self.releasable.remove(&(view.release_at, view_key));
        self.apart.remove(&view_key);
        self.histories.retain(|_, of| *of != view_key);
        for key in view.reach.into_keys().chain(view.leaving) {
            self.topics[key].views.remove(&view_key);
            self.drop_if_unseen(key);
        }
    }

    fn tick(&mut self, turn: u64, out: &mut Vec<Output>) {
        self.turn = turn;
        self.wanted.extend(self.postponed.drain(..));
        self.give_up_resumes(out);
        self.probe = !self.recent.is_empty() && self.loads.is_empty();
        let turn = turn % Self::IDLE_TURNS;
        for (key, view) in &mut self.views {
            let due = key as u64 % Self::IDLE_TURNS == turn;
            if due && view.is_silent() && view.sent < self.position && view.is_whole(self.position)
            {
                view.sent = self.position;
                let cursor = view.cursor(self.epoch, self.position);
                let message = Message::new(cursor, Bytes::new(), 0, None);
                out.extend(view.live.iter().map(|session| Output::Tx {
                    session: *session,
                    message: Arc::clone(&message),
                    acknowledgements: Vec::new(),
                }));
            }
        }
    }
}

fn mark(dirty: &mut Vec<ViewKey>, key: ViewKey, view: &mut View) {
    if !view.dirty {
        view.dirty = true;
        dirty.push(key);
    }
}
