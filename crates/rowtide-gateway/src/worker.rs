//! One engine with the send queues of its sessions, and when it asks for loads. Everything but the feed reaches it
//! through one inbox, in order: sessions that come and go, loads and answers of the log that arrive. So nothing
//! can overtake: a session that goes is known to have come. Loads are asked for one at a time: topics are collected while
//! one is under way, and behind one of many topics for some milliseconds more, longer when it took long. So whoever comes
//! alone is served at once, and ten thousand clients that arrive together are a handful of queries. Pure: whoever runs it says what
//! time it is, carries what it asks for, and wakes the sessions.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rowtide_engine::{
    Counts, Engine, HistoryId, HistoryRequest, Input, Load, LoadId, Loaded, Opening, Output, Place,
    SessionId, Subscribing, SubscriptionId, ViewRows,
};
use rowtide_feed::{Event, Fingerprint, History};
use rowtide_plan::map::IdMap;
use rowtide_plan::plan::Plan;
use rowtide_protocol::{ErrorCode, Lsn};
use thiserror::Error;

use crate::frames::SnapshotFrames;
use crate::garbage::Garbage;
use crate::send_queue::{Item, SendQueue};

/// A load of more topics than that is one of a crowd.
const FEW_TOPICS: usize = 8;
/// How long topics are collected behind a load of a crowd, at least.
const COLLECT: Duration = Duration::from_millis(4);
/// How long they are collected at most.
const MAX_COLLECT: Duration = Duration::from_millis(100);
/// The most topics in one load of one engine.
const MAX_LOAD_TOPICS: usize = 20_000;
/// How often the engine is told that time passes.
const TICK: Duration = Duration::from_secs(1);
/// How often it is counted what the engine holds, at most.
const COUNT: Duration = Duration::from_millis(20);
/// How much longer that is for each topic, because it costs a look at each.
const COUNT_PER_TOPIC: Duration = Duration::from_micros(10);
/// Why sessions are closed when an engine ends.
pub const RESTARTING: (ErrorCode, &str) = (ErrorCode::Restarting, "the server is starting anew");
/// Why a session is closed that cannot be told what has changed.
const RESET: &str = "more has changed than can be said; come back for all rows";

/// The feed tells of rows of a plan that it does not know, which it never should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("rows are of a plan that is not known")]
pub struct UnknownPlan;

/// Where a session takes what there is to say to it: a send queue, shared with another thread or not.
pub trait Sink {
    /// Queues an item. Whether the session must be woken.
    fn push(&mut self, item: Item) -> bool;
    /// Ends the session after what is queued, and wakes it.
    fn close(&mut self, code: ErrorCode, message: &str);
    /// Wakes the session.
    fn wake(&self);
}

impl Sink for SendQueue {
    fn push(&mut self, item: Item) -> bool {
        SendQueue::push(self, item)
    }

    fn close(&mut self, code: ErrorCode, message: &str) {
        SendQueue::close(self, code, message);
    }

    /// Whoever has the queue to themselves looks into it.
    fn wake(&self) {}
}

/// What reaches an engine through its inbox.
#[derive(Debug)]
pub enum EngineArrival<S> {
    /// A session came.
    Open(Opening, S),
    /// A session went.
    Close(SessionId),
    /// A session asks for more.
    Subscribe(SessionId, Subscribing),
    /// A session asks for less.
    Unsubscribe(SessionId, SubscriptionId),
    /// A load arrived; `None` if it will not.
    Loaded(LoadId, Option<Loaded>),
    /// What was asked of the log; `None` if it cannot say.
    History(HistoryId, Option<History>),
}

/// What an engine wants carried.
#[derive(Debug)]
pub enum EngineRequest {
    /// A load. Its answer is a [`EngineArrival::Loaded`].
    Load(Load),
    /// A question to the log. Its answer is a [`EngineArrival::History`].
    History(HistoryRequest),
}

/// An engine and its sessions, who take what there is to say from sinks of the form `S`.
#[derive(Debug)]
pub struct Worker<S: Sink> {
    engine: Engine,
    sinks: IdMap<SessionId, S>,
    outputs: Vec<Output>,
    requests: Vec<EngineRequest>,
    /// Sessions that are to be woken.
    filled: Vec<SessionId>,
    /// Snapshots that some session is being sent.
    snapshots: Vec<Weak<SnapshotFrames>>,
    garbage: Garbage,
    loading: Loading,
    /// The next load is asked for no sooner: topics are collected until then.
    collect_until: Duration,
    tick: u64,
    tick_at: Duration,
    counts: Counts,
    counted: Option<Duration>,
    /// Whether something has happened since it was counted.
    is_uncounted: bool,
    /// Changed rows for clients that were not counted yet.
    sent_rows: u64,
}

/// Whether a load is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loading {
    /// No topic is wanted.
    Nothing,
    /// Topics are collected; the load is asked for then.
    Due(Duration),
    /// A load was asked for.
    Asked(UnderWay),
}

/// The load that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UnderWay {
    id: LoadId,
    since: Duration,
    topics: usize,
}

impl UnderWay {
    /// How long topics are collected behind it, when it has ended.
    fn collect(&self, now: Duration) -> Duration {
        if self.topics <= FEW_TOPICS {
            return Duration::ZERO;
        }
        // The busier Postgres is, the more is asked with one query.
        (now.saturating_sub(self.since) * 2).clamp(COLLECT, MAX_COLLECT)
    }
}

impl<S: Sink> Worker<S> {
    /// A worker without sessions. `garbage` is where large things are dropped.
    pub fn new(engine: Engine, garbage: Garbage, now: Duration) -> Worker<S> {
        Worker {
            engine,
            sinks: IdMap::default(),
            outputs: Vec::new(),
            requests: Vec::new(),
            filled: Vec::new(),
            snapshots: Vec::new(),
            garbage,
            loading: Loading::Nothing,
            collect_until: Duration::ZERO,
            tick: 0,
            tick_at: now,
            counts: Counts::default(),
            counted: None,
            is_uncounted: false,
            sent_rows: 0,
        }
    }

    /// Takes what the feed brought, in order. `plan_of` knows the plan of each [`Event::Reshaped`].
    ///
    /// # Errors
    /// When it does not. Nothing that comes can be taken then.
    pub fn follow(
        &mut self,
        events: &[Event],
        plan_of: impl Fn(Fingerprint) -> Option<Arc<Plan>>,
        now: Duration,
    ) -> Result<(), UnknownPlan> {
        for event in events {
            match event {
                Event::Reshaped { lsn, plan, tables, .. } => {
                    let plan = plan_of(*plan).ok_or(UnknownPlan)?;
                    self.step(Input::Reshaped { lsn: *lsn, tables: tables.clone(), plan });
                }
                Event::Transaction { transaction, .. } => {
                    self.step(Input::Transaction(Arc::clone(transaction)));
                }
                Event::Position { lsn, .. } => self.step(Input::Position(*lsn)),
                Event::StreamBegan { wal_end } => self.step(Input::StreamBegan(*wal_end)),
                // What follows from these comes as another generation.
                Event::EpochBegan { .. } | Event::TableChanged { .. } => {}
            }
        }
        self.look(now);
        Ok(())
    }

    /// Takes what comes next in the inbox.
    pub fn take(&mut self, arrival: EngineArrival<S>, now: Duration) {
        match arrival {
            EngineArrival::Open(opening, sink) => {
                self.sinks.insert(opening.session, sink);
                self.step(Input::Open(opening));
            }
            EngineArrival::Close(session) => {
                self.sinks.remove(&session);
                self.step(Input::Close(session));
            }
            EngineArrival::Subscribe(session, subscribing) => {
                self.step(Input::Subscribe(session, subscribing));
            }
            EngineArrival::Unsubscribe(session, id) => {
                self.step(Input::Unsubscribe(session, id));
            }
            EngineArrival::Loaded(id, loaded) => {
                if let Loading::Asked(load) = self.loading
                    && load.id == id
                {
                    self.loading = Loading::Nothing;
                    self.collect_until = now + load.collect(now);
                }
                match loaded {
                    Some(loaded) => self.step(Input::Loaded(id, loaded)),
                    None => self.step(Input::LoadFailed(id)),
                }
            }
            EngineArrival::History(id, history) => self.step(Input::History(id, history)),
        }
        self.look(now);
    }

    /// Does what is due.
    pub fn pass(&mut self, now: Duration) {
        if now >= self.tick_at {
            self.tick += 1;
            self.tick_at = now + TICK;
            self.step(Input::Tick(self.tick));
        }
        if let Loading::Due(at) = self.loading
            && at <= now
        {
            self.loading = match self.engine.take_load(MAX_LOAD_TOPICS) {
                None => Loading::Nothing,
                Some(load) => {
                    let asked = UnderWay { id: load.id, since: now, topics: load.topics.len() };
                    self.requests.push(EngineRequest::Load(load));
                    Loading::Asked(asked)
                }
            };
        }
        self.look(now);
    }

    /// When [`Worker::pass`] has something to do next.
    pub fn deadline(&self) -> Duration {
        let mut deadline = self.tick_at;
        if let Loading::Due(at) = self.loading {
            deadline = deadline.min(at);
        }
        if self.is_uncounted {
            deadline = deadline.min(self.count_at());
        }
        deadline
    }

    /// What is to be carried, in order.
    pub fn requests(&mut self) -> std::vec::Drain<'_, EngineRequest> {
        self.requests.drain(..)
    }

    /// Wakes the sessions for which something was queued. Called after a batch and not after each of its events, so
    /// that a session that was sent several commits at once writes them as one message.
    pub fn wake(&mut self) {
        for session in self.filled.drain(..) {
            if let Some(sink) = self.sinks.get(&session) {
                sink.wake();
            }
        }
    }

    /// Everything up to here has been taken in.
    pub fn position(&self) -> Lsn {
        self.engine.position()
    }

    /// How much the engine held when it was counted last.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many changed rows were put into send queues since this was asked last.
    pub fn take_sent_rows(&mut self) -> u64 {
        std::mem::take(&mut self.sent_rows)
    }

    /// The sink of a session, for who has all of them to themselves.
    pub fn sink(&mut self, session: SessionId) -> Option<&mut S> {
        self.sinks.get_mut(&session)
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn step(&mut self, input: Input) {
        self.is_uncounted |= !matches!(input, Input::Tick(_) | Input::Position(_));
        self.engine.step(input, &mut self.outputs);
        for output in self.outputs.drain(..) {
            let (session, item) = match output {
                Output::Snapshot { session, rows } => {
                    let frames = frames_of(&mut self.snapshots, rows, &self.garbage);
                    (session, Item::Snapshot { frames, at: Place::default() })
                }
                Output::Discarded(rows) => {
                    self.garbage.throw(rows);
                    continue;
                }
                Output::Ready { session, cursor } => (session, Item::Ready(cursor)),
                Output::Begin { session, mode } => (session, Item::Begin(mode)),
                Output::Tx { session, message, acknowledgements, subscriptions } => {
                    self.sent_rows += message.rows as u64;
                    (session, Item::Tx { message, acknowledgements, subscriptions })
                }
                Output::Reset { session } => {
                    if let Some(mut sink) = self.sinks.remove(&session) {
                        sink.close(RESTARTING.0, RESET);
                    }
                    continue;
                }
            };
            if let Some(sink) = self.sinks.get_mut(&session)
                && sink.push(item)
            {
                self.filled.push(session);
            }
        }
        while let Some(request) = self.engine.take_history() {
            self.requests.push(EngineRequest::History(request));
        }
    }

    /// Looks at what follows from a step.
    fn look(&mut self, now: Duration) {
        if self.loading == Loading::Nothing && self.engine.wants_load() {
            self.loading = Loading::Due(self.collect_until.max(now));
        }
        if self.is_uncounted && now >= self.count_at() {
            self.counts = self.engine.counts();
            self.counted = Some(now);
            self.is_uncounted = false;
        }
    }

    fn count_at(&self) -> Duration {
        let topics = u32::try_from(self.counts.topics).unwrap_or(u32::MAX);
        let wait = COUNT + COUNT_PER_TOPIC.saturating_mul(topics);
        self.counted.map_or(Duration::ZERO, |counted| counted + wait)
    }
}

impl<S: Sink> Drop for Worker<S> {
    /// However it ends, its sessions are told.
    fn drop(&mut self) {
        for sink in self.sinks.values_mut() {
            sink.close(RESTARTING.0, RESTARTING.1);
        }
    }
}

/// The frames of a snapshot, shared with those who are being sent it already.
fn frames_of(
    snapshots: &mut Vec<Weak<SnapshotFrames>>,
    rows: Arc<ViewRows>,
    garbage: &Garbage,
) -> Arc<SnapshotFrames> {
    snapshots.retain(|frames| frames.strong_count() > 0);
    let known = snapshots.iter().filter_map(Weak::upgrade).find(|frames| frames.are_of(&rows));
    known.unwrap_or_else(|| {
        let frames = Arc::new(SnapshotFrames::new(rows, garbage.clone()));
        snapshots.push(Arc::downgrade(&frames));
        frames
    })
}

#[cfg(test)]
mod tests;
