//! The thread of one engine: it runs a [`Worker`] over the feed and the engine's inbox, carries what that asks for,
//! and publishes how far it is.

use std::sync::{Arc, OnceLock};

use rowtide_engine::{Engine, Loaded, Opening, SessionId, Subscribing, SubscriptionId};
use rowtide_feed::{Feed, FollowError, HistoryQuery, Subscription};
use rowtide_protocol::Epoch;
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::garbage::Garbage;
use crate::loads::Loads;
use crate::now::Clock;
use crate::outlet::Outlet;
use crate::progress::{Progress, ProgressCell};
use crate::telemetry;
use crate::worker::{EngineArrival, EngineRequest, RESTARTING, Sink, Worker};

/// How many arrivals are taken before the feed is looked at again.
const BATCH: usize = 64;

/// The front of an engine thread. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EngineHandle {
    /// Two entries at most for each session, one for each load and question under way, and those of subscriptions, which come
    /// at a pace and of which each session has only so many: so it is bounded by them.
    inbox: mpsc::UnboundedSender<EngineArrival<Outlet>>,
    progress: ProgressCell,
}

/// The engine has ended.
pub(crate) struct EngineEnded;

/// What an engine thread needs beside its engine.
pub(crate) struct Surroundings {
    /// Where it asks for loads.
    pub(crate) loads: Loads,
    /// Where it asks about the past.
    pub(crate) feed: Feed,
    /// Where it drops what is large.
    pub(crate) garbage: Garbage,
    /// What it goes by.
    pub(crate) clock: Clock,
    /// Ends it, and ends the others with it.
    pub(crate) ends: Ends,
}

/// What the engines of a generation have in common: they end together, and the first one says why, if it can.
#[derive(Clone)]
pub(crate) struct Ends {
    stop: CancellationToken,
    why: Arc<OnceLock<FollowError>>,
}

impl Ends {
    /// The engines end when `stop` is cancelled, and cancel it when one of them ends.
    pub(crate) fn new(stop: CancellationToken) -> Ends {
        Ends { stop, why: Arc::default() }
    }

    /// Why the feed told one of them nothing more; `None` if one has ended by itself, or all were stopped.
    pub(crate) fn why(&self) -> Option<FollowError> {
        self.why.get().copied()
    }

    /// Ends all of them when it is dropped.
    fn guard(&self) -> DropGuard {
        self.stop.clone().drop_guard()
    }
}

impl EngineHandle {
    /// A session comes. It is told if the engine ends before it is there.
    pub(crate) fn open(&self, opening: Opening, outlet: Outlet) -> Result<(), EngineEnded> {
        self.inbox.send(EngineArrival::Open(opening, outlet)).map_err(|_| EngineEnded)
    }

    /// A session goes. Reaches the engine after its coming.
    pub(crate) fn close(&self, session: SessionId) {
        // An engine that has ended has no sessions.
        drop(self.inbox.send(EngineArrival::Close(session)));
    }

    /// A session asks for more. Reaches the engine after its coming.
    pub(crate) fn subscribe(&self, session: SessionId, subscribing: Subscribing) {
        drop(self.inbox.send(EngineArrival::Subscribe(session, subscribing)));
    }

    /// A session asks for less.
    pub(crate) fn unsubscribe(&self, session: SessionId, subscription: SubscriptionId) {
        drop(self.inbox.send(EngineArrival::Unsubscribe(session, subscription)));
    }

    /// What it published last.
    pub(crate) fn progress(&self) -> Progress {
        self.progress.get()
    }
}

/// What has arrived and was not taken. However the thread ends, who is in it is told.
struct Inbox(mpsc::UnboundedReceiver<EngineArrival<Outlet>>);

impl Drop for Inbox {
    fn drop(&mut self) {
        self.0.close();
        while let Ok(arrival) = self.0.try_recv() {
            if let EngineArrival::Open(_, mut outlet) = arrival {
                outlet.close(RESTARTING.0, RESTARTING.1);
            }
        }
    }
}

/// Starts an engine's thread. It ends with its generation, or when it is stopped.
///
/// # Errors
/// When the operating system gives no thread.
pub(crate) fn start(
    name: String,
    engine: Engine,
    subscription: Subscription,
    surroundings: Surroundings,
) -> std::io::Result<EngineHandle> {
    let (inbox, arrivals) = mpsc::unbounded_channel();
    let progress = ProgressCell::new(engine.position());
    let epoch = subscription.generation().epoch;
    let Surroundings { garbage, clock, .. } = &surroundings;
    let worker = Worker::new(engine, garbage.clone(), clock.time());
    let thread = EngineThread {
        worker,
        epoch,
        replies: inbox.downgrade(),
        progress: progress.clone(),
        surroundings,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new()
        .name(name)
        .spawn(move || runtime.block_on(thread.run(Inbox(arrivals), subscription)))?;
    Ok(EngineHandle { inbox, progress })
}

struct EngineThread {
    worker: Worker<Outlet>,
    epoch: Epoch,
    /// For answers; weak, so that it does not keep the thread itself alive.
    replies: mpsc::WeakUnboundedSender<EngineArrival<Outlet>>,
    progress: ProgressCell,
    surroundings: Surroundings,
}

impl EngineThread {
    async fn run(mut self, mut inbox: Inbox, mut subscription: Subscription) {
        let clock = self.surroundings.clock;
        let stop = self.surroundings.ends.stop.clone();
        // However it ends, also by a panic.
        let _guard = self.surroundings.ends.guard();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let deadline = clock.instant(self.worker.deadline());
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep_until(deadline) => {}
                count = inbox.0.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    for arrival in batch.drain(..) {
                        self.worker.take(arrival, clock.time());
                    }
                }
                events = subscription.next() => match events {
                    Ok(events) => {
                        let plan_of = |plan| subscription.plan(plan);
                        if let Err(why) = self.worker.follow(&events, plan_of, clock.time()) {
                            tracing::error!(%why, "an engine ends");
                            break;
                        }
                    }
                    Err(why) => {
                        tracing::debug!(%why, "an engine ends");
                        // The first one says it.
                        self.surroundings.ends.why.get_or_init(|| why);
                        break;
                    }
                }
            }
            self.worker.pass(clock.time());
            self.carry();
            self.worker.wake();
            telemetry::rows_sent(self.worker.take_sent_rows());
            self.progress.publish(self.worker.position(), self.worker.counts());
        }
    }

    fn carry(&mut self) {
        for request in self.worker.requests() {
            let replies = self.replies.clone();
            match request {
                EngineRequest::Load(load) => {
                    let id = load.id;
                    let answer = move |loaded: Option<Loaded>| {
                        tell(&replies, EngineArrival::Loaded(id, loaded))
                    };
                    self.surroundings.loads.ask(load, Box::new(answer));
                }
                EngineRequest::History(request) => {
                    let id = request.id;
                    let query = HistoryQuery {
                        topics: request.topics,
                        tables: request.tables,
                        after: request.after,
                        up_to: request.up_to,
                    };
                    let answer = self.surroundings.feed.history(self.epoch, query);
                    self.surroundings.loads.runtime().spawn(async move {
                        // Too old, too much, or never answered: it cannot be told.
                        let history = answer.await.ok().and_then(Result::ok);
                        tell(&replies, EngineArrival::History(id, history));
                    });
                }
            }
        }
    }
}

fn tell(
    replies: &mpsc::WeakUnboundedSender<EngineArrival<Outlet>>,
    arrival: EngineArrival<Outlet>,
) {
    if let Some(replies) = replies.upgrade() {
        // An engine that has ended does not wait for it.
        drop(replies.send(arrival));
    }
}
