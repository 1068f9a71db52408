//! One step at a time: an input changes topics and views, then every view that has something to say
//! and is whole says it. A transaction is taken in two passes. The first notes, before anything
//! moves, which views saw each row; the second moves rows between topics and follows links, by which
//! views gain and lose topics. Only then is the difference made, so it is between the state of one
//! commit and the state of the next, whatever the order of changes within.

mod composing;
mod loading;
mod message;
mod reach;
mod resuming;
mod sets;
mod time;
mod transaction;
mod waiting;
mod windows;

use std::cell::LazyCell;
use std::sync::Arc;

use bytes::Bytes;
use rowtide_feed::{Acknowledgement, History, Transaction};
use rowtide_plan::claims::Claims;
use rowtide_plan::plan::{Plan, Selection, TableId};
use rowtide_protocol::{Cursor, Epoch, Lsn, Mode};
use smallvec::smallvec;

use self::time::StreamTime;
use crate::loads::Loads;
use crate::resume::{HistoryId, HistoryRequest};
use crate::sessions::{
    Held, HeldState, Opening, SessionId, Sessions, Subscribing, SubscriptionId, Way,
};
use crate::topic::{Phase, TopicKey, ViewKey};
use crate::topics::Topics;
use crate::view::{Joining, ViewPhase};
use crate::views::Views;
use crate::window::{Prefix, ViewWindow};
use crate::{Load, LoadId, Loaded, TopicRows, ViewMessage, ViewRows};

/// What happens to an engine.
#[derive(Clone, Debug)]
pub enum Input {
    /// The stream brought a transaction. One that lies before the position is ignored, so that a
    /// stream may start again from an earlier place.
    Transaction(Arc<Transaction>),
    /// From a position on rows of some tables are of another plan, which has the same topics and more columns in these
    /// tables. All of their rows are loaded again. One that lies before the position is ignored.
    Reshaped {
        /// The position.
        lsn: Lsn,
        /// The tables.
        tables: Vec<TableId>,
        /// The plan.
        plan: Arc<Plan>,
    },
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
    /// A session asks for more. It is told when it has the rows.
    Subscribe(SessionId, Subscribing),
    /// A session asks for less. It is told when it has no rows any more that only this subscription selects.
    Unsubscribe(SessionId, SubscriptionId),
    /// Time passes: a counter that grows by one about every second. Once in
    /// [`Engine::IDLE_TICKS`] of them each idle view's cursor is moved on.
    Tick(u64),
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
    /// The rows of a new replica, all of them, or with others that follow at once; shared by the sessions that are sent the
    /// same.
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
        message: Arc<ViewMessage>,
        /// The mutations of the session's client that these commits acknowledge, in order.
        acknowledgements: Vec<Arc<Acknowledgement>>,
        /// Whose rows it has now, and whose no longer.
        subscriptions: Subscriptions,
    },
    /// What has changed cannot be said; the session is no longer known, and must come back for all of its rows.
    Reset {
        /// Who.
        session: SessionId,
    },
    /// Many rows that the engine has let go. To drop them takes time, which is better spent elsewhere.
    Discarded(TopicRows),
}

/// What becomes of subscriptions with a step forward.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// The session has their rows from now on.
    pub subscribed: Vec<SubscriptionId>,
    /// It has no rows any more that only these select.
    pub unsubscribed: Vec<SubscriptionId>,
}

/// How much an engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open sessions.
    pub sessions: usize,
    /// Different sets of claims among them, and different subscriptions.
    pub views: usize,
    /// Topics in use.
    pub topics: usize,
    /// Topics that wait for a load or are part of one.
    pub loading: usize,
    /// The JSON of rows that are held, in bytes.
    pub row_bytes: usize,
}

/// Topics, views and sessions. See the module.
#[derive(Debug)]
pub struct Engine {
    pub(crate) plan: Arc<Plan>,
    epoch: Epoch,
    /// Everything up to here has been taken in.
    pub(crate) position: Lsn,
    /// The commit that is being taken in.
    taking: Option<Lsn>,
    commit_time_us: Option<i64>,
    progress: Progress,
    pub(crate) time: StreamTime,
    pub(crate) topics: Topics,
    pub(crate) views: Views,
    pub(crate) loads: Loads,
    pub(crate) sessions: Sessions,
}

/// Whether the stream goes on.
#[derive(Debug, Default)]
struct Progress {
    /// The last tick.
    tick: u64,
    /// The tick in which the stream last brought something.
    heard: u64,
    /// Where WAL ended when the stream began, once one has.
    wal_end: Option<Lsn>,
}

impl Output {
    /// A step forward that is none for subscriptions.
    fn tx(
        session: SessionId,
        message: Arc<ViewMessage>,
        acknowledgements: Vec<Arc<Acknowledgement>>,
    ) -> Output {
        let subscriptions = Subscriptions::default();
        Output::Tx { session, message, acknowledgements, subscriptions }
    }
}

impl Engine {
    /// An idle client's cursor is moved on once in so many ticks, about five minutes.
    pub const IDLE_TICKS: u64 = 300;

    /// An engine that has seen the stream up to `position` and has no sessions. `recent` are the last of the
    /// transactions until there, in commit order: some may not be visible to a load yet, and the last says what time it is. `row_budget` is how
    /// many bytes of JSON it tries to hold at the most.
    pub fn new(
        plan: Arc<Plan>,
        epoch: Epoch,
        position: Lsn,
        recent: &[Arc<Transaction>],
        row_budget: usize,
    ) -> Engine {
        let last = recent.last().map(|transaction| transaction.commit_time_us);
        let time = StreamTime::new(plan.asks_time(), last);
        let mut loads = Loads::new(recent);
        if time.is_awaited() {
            loads.want_commit(i64::MIN);
        }
        Engine {
            plan,
            epoch,
            position,
            taking: None,
            commit_time_us: None,
            progress: Progress::default(),
            time,
            topics: Topics::new(row_budget),
            views: Views::default(),
            loads,
            sessions: Sessions::default(),
        }
    }

    /// Takes one input and appends what follows from it to `out`.
    pub fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        self.advance(input, out);
        #[cfg(test)]
        self.check_invariants();
    }

    pub(crate) fn advance(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Transaction(transaction) => {
                self.progress.heard = self.progress.tick;
                self.transaction(&transaction, out);
            }
            Input::Reshaped { lsn, tables, plan } => {
                self.progress.heard = self.progress.tick;
                self.reshape(lsn, &tables, plan);
            }
            Input::Position(lsn) => {
                self.progress.heard = self.progress.tick;
                self.position = self.position.max(lsn);
            }
            Input::StreamBegan(end) => self.progress.wal_end = Some(end),
            Input::Loaded(id, loaded) => self.loaded(id, loaded),
            Input::LoadFailed(id) => self.load_failed(id),
            Input::History(id, history) => self.history(id, history, out),
            Input::Open(opening) => self.open(opening, out),
            Input::Close(session) => self.close(session),
            Input::Subscribe(session, subscribing) => self.subscribe(session, subscribing),
            Input::Unsubscribe(session, subscription) => self.unsubscribe(session, subscription),
            Input::Tick(tick) => self.tick(tick, out),
        }
        self.speak(out);
        self.evict_rows();
        out.extend(self.topics.take_discarded().map(Output::Discarded));
    }

    /// The next load to ask for, of at most `max_topics` topics. Its snapshot must be taken after
    /// this call. The more topics wait before it is called, the fewer loads there are.
    pub fn take_load(&mut self, max_topics: usize) -> Option<Load> {
        let topics = &mut self.topics;
        let begin = |key, id| topics.get_mut(key).is_some_and(|topic| topic.begin_load(id));
        let (id, keys, commit_behind_us) = self.loads.begin(max_topics, begin)?;
        let keys = keys.to_vec();
        self.seed_with_recent(&keys);
        let states = keys.iter().map(|key| &self.topics[*key]);
        let (topics, before) = states.map(|of| (of.id().clone(), of.rows().clone())).unzip();
        let most = |key: &TopicKey| Some(self.topics[*key].prefix.as_ref()?.loading());
        let most = keys.iter().map(most).collect();
        let plan = Arc::clone(&self.plan);
        Some(Load { id, plan, topics, before, most, commit_behind_us })
    }

    /// Whether [`Engine::take_load`] has something to ask for.
    pub fn wants_load(&self) -> bool {
        self.loads.wants_load()
    }

    /// The next question to the log.
    pub fn take_history(&mut self) -> Option<HistoryRequest> {
        self.loads.take_question()
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
            row_bytes: self.topics.row_bytes(),
            loading: self.topics.iter().filter(|(_, topic)| topic.is_waiting()).count(),
        }
    }

    fn open(&mut self, opening: Opening, out: &mut Vec<Output>) {
        if let Some(cursor) = opening.cursor
            && cursor.epoch == self.epoch
            && cursor.view == opening.claims.view_id()
        {
            return self.open_resuming(opening, cursor.lsn);
        }
        out.push(Output::Begin { session: opening.session, mode: Mode::Snapshot });
        let Opening { session, claims, client, not_before, cursor: _, subscriptions } = opening;
        if !subscriptions.is_empty() {
            return self.open_composed(session, claims, client, not_before, subscriptions);
        }
        let view = self.shared_view(Selection::Always, claims);
        let held = Held { view, subscription: None, state: HeldState::First };
        self.sessions.enter(session, Way::Direct { ready: false }, smallvec![held], client);
        self.need_all_rows(view);
        self.views.mark(view).joining.push(Joining { session, not_before });
    }

    /// The view that those share who come for it.
    fn shared_view(&mut self, selection: Selection, claims: Claims) -> ViewKey {
        if let Some(key) = self.views.shared(selection, &claims) {
            return key;
        }
        let reached = self.plan.reached(selection, &claims);
        let key = self.new_view(selection, claims, ViewPhase::Shared);
        reached.into_iter().for_each(|topic| self.reach(key, topic));
        key
    }

    /// A view without topics.
    fn new_view(&mut self, selection: Selection, claims: Claims, phase: ViewPhase) -> ViewKey {
        let windows = ViewWindow::all_of(&self.plan, selection, &claims);
        let key = self.views.add(selection, claims, phase, self.plan.sets, windows);
        if self.time.is_awaited() {
            self.views[key].wait_for_one();
        }
        key
    }

    /// Somebody has to be sent all that a view sees.
    fn need_all_rows(&mut self, view: ViewKey) {
        let unread: Vec<TopicKey> = self.views[view].reach.keys().copied().collect();
        unread.into_iter().for_each(|key| self.need_rows(key));
    }

    fn close(&mut self, session: SessionId) {
        for view_key in self.sessions.leave(session) {
            if self.views[view_key].leave(session) {
                self.drop_view(view_key);
            }
        }
    }

    /// As of which commit what the engine holds is being brought.
    fn stands_at(&self) -> Lsn {
        self.taking.unwrap_or(self.position)
    }

    fn drop_view(&mut self, view_key: ViewKey) {
        let view = self.views.remove(view_key);
        self.loads.drop_view(view_key);
        let came_back = view.resume().is_some();
        for key in view.reach.into_keys().chain(view.leaving) {
            if came_back {
                self.topics[key].prefix.iter_mut().for_each(Prefix::needs_no_more);
            }
            self.topics[key].remove_view(view_key);
            self.topics.drop_if_unseen(key);
        }
    }

    fn tick(&mut self, tick: u64, out: &mut Vec<Output>) {
        self.progress.tick = tick;
        self.loads.tick();
        if let Some(due_us) = self.time_due() {
            self.loads.want_commit(due_us);
        }
        self.topics.look_again();
        self.give_up_resumes(out);
        let (epoch, position) = (self.epoch, self.position);
        let place = tick % Self::IDLE_TICKS;
        for (key, view) in self.views.iter_mut() {
            let due = key as u64 % Self::IDLE_TICKS == place;
            let is_behind = view.sent < Some(position);
            if due && is_behind && view.is_silent() && view.is_whole(position) {
                view.sent = Some(position);
                let message = ViewMessage::new(view.cursor(epoch, position), Bytes::new(), 0, None);
                let is_own = view.selection == Selection::Always;
                for session in view.live.iter().copied() {
                    let message = Arc::clone(&message);
                    if !self.sessions.is_composed(session) {
                        out.push(Output::tx(session, message, Vec::new()));
                    } else if is_own && let Some(of) = self.sessions.list(session) {
                        of.kept.push(message);
                    }
                }
            }
        }
    }

    /// Bounds the memory that rows take. A topic may be evicted if it names no others, fills no set, is for no window and has no
    /// rows that come and go by time, and nobody waits for anything of it: all who reach it hold its rows.
    fn evict_rows(&mut self) {
        let (plan, views, position) = (&self.plan, &self.views, self.position);
        // What is kept tells of rows as they were, and is held against those of now.
        let kept = LazyCell::new(|| self.sessions.kept_of());
        self.topics.evict_rows(|state| {
            let rests = |key: &ViewKey| {
                let view = &views[*key];
                let is_told = view.is_whole(position) && view.is_silent() && view.is_at_rest();
                is_told && !kept.contains(key)
            };
            matches!(state.phase(), Phase::Loaded { ahead: None, .. })
                && !plan.branch(state.id().branch).names_others()
                && state.prefix.is_none()
                && !state.turns().are_any()
                && state.views().iter().all(rests)
        });
    }
}
