//! The feed within one process. One side publishes, any number follow, each at its own pace: whoever is so far
//! behind that the ring has not got what comes next replays it from the log, and nobody holds up the publisher
//! or the others. Questions about the past travel to the publisher's side, which owns the log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rowtide_plan::plan::Plan;
use rowtide_protocol::{Epoch, Lsn};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Event, Fingerprint, Follower, History, HistoryQuery, PastError, Ring, Since, Taken, Transaction,
};

/// How many batches a follower takes at once.
const BATCHES: usize = 64;
/// How many bytes of transactions are replayed at once.
const REPLAY_BYTES: usize = 4 << 20;

/// How the side that reads Postgres is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicatorStatus {
    /// It catches up with the stream.
    Starting,
    /// Another server has the slot or the log: why.
    Standby(String),
    /// What is committed comes.
    Streaming,
    /// Nothing comes at the moment: why, for a person.
    Waiting(String),
}

/// One epoch and a plan that may be extended ([`Event::Reshaped`]): what those who serve clients go by until the next one.
#[derive(Debug)]
pub struct Generation {
    /// The id of the unbroken log.
    pub epoch: Epoch,
    /// What its topics are of, and its rows as it begins.
    pub plan: Arc<Plan>,
    /// Engines begin here: what is before is in their loads, or among `recent`.
    pub position: Lsn,
    /// The last transactions up to there, in commit order: some may not be visible to a load yet.
    pub recent: Vec<Arc<Transaction>>,
}

/// From where to where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogExtent {
    /// Cursors before this cannot be resumed.
    pub oldest: Lsn,
    /// Everything up to here is durable.
    pub durable: Lsn,
}

/// What those who follow can see at any time.
#[derive(Clone, Debug)]
pub struct FeedState {
    /// How the publisher's side is doing.
    pub status: ReplicatorStatus,
    /// None before there is a log and a slot, and while another server has them.
    pub generation: Option<Arc<Generation>>,
    /// The plan of its newest rows; the last one while there is no generation.
    pub plan: Option<Arc<Plan>>,
    /// Why the log cannot be written, if so.
    pub log_failing: Option<String>,
    /// What the log holds, once it is open.
    pub log: Option<LogExtent>,
    /// Tables of the definition that are not served, and why.
    pub rejected_tables: Vec<(String, String)>,
    /// What of the definition is missing, while all of it has not fitted the database once since the start. The rest is
    /// served, but a server that has never had all of it is not ready to take the place of another.
    pub incomplete: Option<String>,
}

/// A question to the side that owns the log.
#[derive(Debug)]
pub enum Request {
    /// What happened in topics of an epoch.
    History(Epoch, HistoryQuery, oneshot::Sender<Result<History, PastError>>),
    /// Transactions of an epoch behind a position, about so many bytes.
    Replay(Epoch, Lsn, usize, oneshot::Sender<Result<Vec<Event>, PastError>>),
    /// The tables are not what the plan says: they are to be looked at now, and not only when their turn comes.
    Look,
}

/// The generation has ended, or the publisher is gone: there is another generation, or will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the generation has ended")]
pub struct FeedEnded;

/// Why one who follows is told nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FollowError {
    /// In order: whoever follows goes over to the next generation.
    #[error(transparent)]
    Ended(#[from] FeedEnded),
    /// This one has missed something that nobody can bring any more; the generation may go on for others. Whoever follows
    /// begins again without what it has, after a pause: until the replicator has begun another generation, it may fare
    /// no better.
    #[error("the log cannot bring what was missed")]
    Missed,
}

struct Shared {
    ring: Mutex<(Arc<Generation>, Ring)>,
    /// Those that the generation was extended to, in order. Nobody is told of one before it is here.
    plans: Mutex<Vec<Arc<Plan>>>,
    /// How many batches there are; told with each.
    published: watch::Sender<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (Arc<Generation>, Ring)> {
        // The ring is whole between any two statements here.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side that publishes. There is one.
pub struct Publisher {
    state: watch::Sender<FeedState>,
    current: watch::Sender<Option<Arc<Shared>>>,
    room: watch::Sender<bool>,
    limit_bytes: usize,
}

/// The side that follows. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    state: watch::Receiver<FeedState>,
    current: watch::Receiver<Option<Arc<Shared>>>,
    requests: mpsc::UnboundedSender<Request>,
}

/// One who follows a generation.
pub struct Subscription {
    shared: Arc<Shared>,
    generation: Arc<Generation>,
    published: watch::Receiver<u64>,
    current: watch::Receiver<Option<Arc<Shared>>>,
    requests: mpsc::UnboundedSender<Request>,
    follower: Follower,
    next: u64,
    ready: VecDeque<Arc<[Event]>>,
    replay: Option<Replay>,
}

/// What the log was asked for.
struct Replay {
    answer: oneshot::Receiver<Result<Vec<Event>, PastError>>,
    /// A transaction is known to be missing, so the log must have it.
    must_bring: bool,
}

/// What of a batch is new to a follower.
enum News {
    Some(Arc<[Event]>),
    Nothing,
    /// Something is missing before it.
    Gap,
}

/// A feed whose ring holds about `limit_bytes`. The third is for the side that owns the log; there is one request
/// at most for each who follows and for each session that comes back, which bounds their number.
pub fn feed(limit_bytes: usize) -> (Publisher, Feed, mpsc::UnboundedReceiver<Request>) {
    let (state, of_state) = watch::channel(FeedState {
        status: ReplicatorStatus::Starting,
        generation: None,
        plan: None,
        log_failing: None,
        log: None,
        rejected_tables: Vec::new(),
        incomplete: None,
    });
    let (current, of_current) = watch::channel(None);
    let (requests, asked) = mpsc::unbounded_channel();
    let publisher = Publisher { state, current, room: watch::channel(true).0, limit_bytes };
    (publisher, Feed { state: of_state, current: of_current, requests }, asked)
}

impl Publisher {
    /// Changes what those who follow can see; whether it is another then is for `change` to say.
    pub fn update(&self, change: impl FnOnce(&mut FeedState) -> bool) {
        self.state.send_if_modified(change);
    }

    /// Begins a generation; the one before ends. `newest` is the plan of which its rows are about to be, if that is another
    /// than its own: [`FeedState::plan`] is that from the beginning.
    pub fn begin(&self, generation: Generation, newest: Option<Arc<Plan>>) -> Arc<Generation> {
        let generation = Arc::new(generation);
        let ring = Ring::new(generation.position, self.limit_bytes);
        let shared = Arc::new(Shared {
            ring: Mutex::new((Arc::clone(&generation), ring)),
            plans: Mutex::default(),
            published: watch::channel(0).0,
        });
        self.room.send_replace(true);
        // In this order whoever sees a generation can follow it.
        self.current.send_replace(Some(shared));
        self.state.send_modify(|state| {
            state.plan = Some(newest.unwrap_or_else(|| Arc::clone(&generation.plan)));
            state.generation = Some(Arc::clone(&generation));
        });
        generation
    }

    /// Hands on an [`Event::Reshaped`], behind which the rows of the generation are of `plan`.
    pub fn reshape(&self, plan: Arc<Plan>, event: Event) {
        let current = self.current.borrow().clone();
        let Some(shared) = current else { return };
        shared.plans.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&plan));
        self.state.send_modify(|state| state.plan = Some(plan));
        self.publish([event].into());
    }

    /// Ends the generation; there is none then.
    pub fn end(&self) {
        // Whoever sees a generation can follow it, so that it is hidden first.
        self.state.send_modify(|state| state.generation = None);
        self.current.send_replace(None);
        self.room.send_replace(true);
    }

    /// Hands on what the stream brought. Never waits: see [`Publisher::room`].
    pub fn publish(&self, events: Arc<[Event]>) {
        if events.is_empty() {
            return;
        }
        let current = self.current.borrow().clone();
        let Some(shared) = current else { return };
        let mut ring = shared.lock();
        ring.1.push(events);
        let (next, full) = (ring.1.next(), ring.1.is_full());
        drop(ring);
        shared.published.send_replace(next);
        self.room.send_if_modified(|room| std::mem::replace(room, !full) == full);
    }

    /// Everything up to here can be replayed from the log.
    pub fn durable(&self, lsn: Lsn) {
        let current = self.current.borrow().clone();
        let Some(shared) = current else { return };
        let mut ring = shared.lock();
        ring.1.durable(lsn);
        let full = ring.1.is_full();
        drop(ring);
        self.room.send_if_modified(|room| std::mem::replace(room, !full) == full);
    }

    /// Waits until there is room for more. Cancel safe.
    pub async fn room(&self) {
        let mut room = self.room.subscribe();
        // The sender is ours, so it is there.
        drop(room.wait_for(|room| *room).await);
    }

    /// How much the ring holds, in bytes.
    pub fn bytes(&self) -> usize {
        self.current.borrow().as_ref().map_or(0, |shared| shared.lock().1.bytes())
    }
}

impl Feed {
    /// What there is to see now.
    pub fn state(&self) -> FeedState {
        self.state.borrow().clone()
    }

    /// To wait for what there is to see to change.
    pub fn watch(&self) -> watch::Receiver<FeedState> {
        self.state.clone()
    }

    /// How much of what was published is not durable yet, in bytes: what is on its way.
    pub fn volatile_bytes(&self) -> usize {
        self.current.borrow().as_ref().map_or(0, |shared| shared.lock().1.volatile_bytes())
    }

    /// Follows a generation from a position in it.
    ///
    /// # Errors
    /// When the generation is not the present one any more.
    pub fn subscribe(
        &self,
        generation: &Arc<Generation>,
        from: Lsn,
    ) -> Result<Subscription, FeedEnded> {
        let shared = self.current.borrow().clone().ok_or(FeedEnded)?;
        let ring = shared.lock();
        if !Arc::ptr_eq(&ring.0, generation) {
            return Err(FeedEnded);
        }
        // 0 is evicted if it is not held: then what comes is replayed.
        let next = ring.1.number_after(from).unwrap_or(0);
        let wal_end = ring.1.wal_end();
        drop(ring);
        let began = wal_end.map(|wal_end| Arc::from([Event::StreamBegan { wal_end }]));
        Ok(Subscription {
            published: shared.published.subscribe(),
            shared,
            generation: Arc::clone(generation),
            current: self.current.clone(),
            requests: self.requests.clone(),
            follower: Follower::at(from),
            next,
            ready: began.into_iter().collect(),
            replay: None,
        })
    }

    /// Asks what happened in topics of an epoch. The answer may take until the log has what is asked for; it
    /// never comes (the receiver fails) if the log is of another epoch by then, or the side that owns it is gone.
    pub fn history(
        &self,
        epoch: Epoch,
        query: HistoryQuery,
    ) -> oneshot::Receiver<Result<History, PastError>> {
        let (reply, answer) = oneshot::channel();
        // Without the other side the reply is dropped, and the answer is an error.
        drop(self.requests.send(Request::History(epoch, query, reply)));
        answer
    }

    /// Says that a statement did not fit the tables, so that they are looked at now. If they have changed, what
    /// follows from it comes as events, or as another generation.
    pub fn look(&self) {
        // Without the other side there is nobody to look.
        drop(self.requests.send(Request::Look));
    }
}

impl Subscription {
    /// Everything up to here has been taken.
    pub fn position(&self) -> Lsn {
        self.follower.position()
    }

    /// The next batch: every transaction behind the position once and in order, and no position twice. Of what was
    /// replayed only the last position comes. Events without a position may come again, or be missing where they
    /// were evicted; the last [`Event::StreamBegan`] never is. Cancel safe.
    ///
    /// # Errors
    /// [`FollowError::Ended`] when the generation has ended, and what was published of it and not taken may be missing
    /// then; [`FollowError::Missed`] when the log cannot bring what is missing.
    pub async fn next(&mut self) -> Result<Arc<[Event]>, FollowError> {
        loop {
            if self.is_over() {
                return Err(FeedEnded.into());
            }
            if let Some(batch) = self.ready.pop_front() {
                match self.take(batch) {
                    News::Some(batch) => return Ok(batch),
                    News::Nothing => {}
                    News::Gap => {
                        self.ready.clear();
                        self.ask_for_replay(true);
                    }
                }
                continue;
            }
            if let Some(replay) = &mut self.replay {
                let replayed = tokio::select! {
                    replayed = &mut replay.answer => replayed,
                    // The log may have no answer any more.
                    changed = self.current.changed() => {
                        changed.map_err(|_| FeedEnded)?;
                        continue;
                    }
                };
                let must_bring = replay.must_bring;
                self.replay = None;
                // What the log cannot say, nobody can. It gives no answer if it is of another epoch by now; the
                // generation may still be there for those who need nothing of it.
                let over = if self.is_over() { FeedEnded.into() } else { FollowError::Missed };
                let Ok(Ok(events)) = replayed else { return Err(over) };
                match self.rejoin(events, must_bring)? {
                    News::Some(batch) => return Ok(batch),
                    News::Nothing => continue,
                    News::Gap => return Err(FollowError::Missed),
                }
            }
            self.published.borrow_and_update();
            let since = self.shared.lock().1.since(self.next, BATCHES);
            match since {
                Since::Evicted => self.ask_for_replay(false),
                Since::Batches(batches, next) if !batches.is_empty() => {
                    self.next = next;
                    self.ready.extend(batches);
                }
                Since::Batches(..) => {
                    tokio::select! {
                        published = self.published.changed() => published.map_err(|_| FeedEnded)?,
                        changed = self.current.changed() => changed.map_err(|_| FeedEnded)?,
                    }
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        let current = self.current.borrow();
        !current.as_ref().is_some_and(|shared| Arc::ptr_eq(shared, &self.shared))
    }

    /// What of a batch has not been taken before.
    fn take(&mut self, batch: Arc<[Event]>) -> News {
        let before = self.follower;
        let mut all = true;
        for event in batch.iter() {
            match self.follower.take(event) {
                Taken::Next => {}
                Taken::Known => all = false,
                Taken::Gap { .. } => {
                    self.follower = before;
                    return News::Gap;
                }
            }
        }
        if all {
            return News::Some(batch);
        }
        let mut follower = before;
        let news = batch.iter().filter(|event| follower.take(event) == Taken::Next).cloned();
        let news: Vec<Event> = news.collect();
        if news.is_empty() { News::Nothing } else { News::Some(news.into()) }
    }

    fn ask_for_replay(&mut self, must_bring: bool) {
        let (reply, answer) = oneshot::channel();
        let (epoch, position) = (self.generation.epoch, self.follower.position());
        let request = Request::Replay(epoch, position, REPLAY_BYTES, reply);
        // Without the other side the reply is dropped, and the answer is an error.
        drop(self.requests.send(request));
        self.replay = Some(Replay { answer, must_bring });
    }

    /// Takes what was replayed, and goes on behind it.
    fn rejoin(&mut self, events: Vec<Event>, must_bring: bool) -> Result<News, FollowError> {
        let before = self.follower.position();
        let news = if events.is_empty() { News::Nothing } else { self.take(events.into()) };
        let position = self.follower.position();
        if must_bring && position == before {
            // It would be asked for ever.
            return Err(FollowError::Missed);
        }
        let ring = self.shared.lock();
        // What was evicted is durable: where the log brings nothing of it, it had no transaction, and the ring goes on.
        // If transactions were evicted since the log answered, what comes next shows a gap.
        let brought_nothing = position == before;
        let number = ring.1.number_after(position).or(brought_nothing.then(|| ring.1.first()));
        let wal_end = ring.1.wal_end();
        drop(ring);
        // Below what is held, the rest is asked for.
        self.next = number.unwrap_or(0);
        if let (Some(_), Some(wal_end)) = (number, wal_end) {
            self.ready.push_back(Arc::from([Event::StreamBegan { wal_end }]));
        }
        Ok(news)
    }

    /// The plan of an [`Event::Reshaped`] of the generation: of everyone who was told of one, this is there.
    pub fn plan(&self, fingerprint: Fingerprint) -> Option<Arc<Plan>> {
        let plans = self.shared.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.iter().rev().find(|plan| plan.fingerprint() == fingerprint.0).cloned()
    }

    /// Of which it follows.
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }
}
