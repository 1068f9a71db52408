//! The engines of the generation that the feed is at. Each follows the feed at its own pace; when the generation
//! ends they end, their sessions are told to come back, and others begin. A session is put into the engine of its
//! claims, and leaves it when its place is dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rowtide_engine::{Engine, SessionId, Subscribing, SubscriptionId};
use rowtide_feed::{Feed, FeedEnded, FollowError, Generation};
use rowtide_plan::plan::Plan;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_protocol::{Epoch, Lsn};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::engine_thread::{self, Ends, EngineHandle, Surroundings};
use crate::garbage::Garbage;
use crate::health::EnginesHealth;
use crate::limits::OPEN_TIMEOUT;
use crate::loads::{LoadCounts, Loads};
use crate::now::Clock;
use crate::opening::{self, Entrance, NotServing, OpenRequest};
use crate::outlet::Outlet;
use crate::progress::{Progress, Watchdog, say};
use crate::send_queue::SendQueue;

/// The pause before engines that ended by themselves begin again; it doubles with each time.
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How often it is looked whether engines keep up.
const LOOK: Duration = Duration::from_secs(1);

/// How engines are run.
#[derive(Clone, Debug)]
pub(crate) struct EnginesOptions {
    pub(crate) database: ConnectOptions,
    pub(crate) engines: usize,
    pub(crate) send_queue_bytes: usize,
    pub(crate) row_bytes: usize,
    pub(crate) load_connections: usize,
}

/// A session's place in its view; dropping it leaves the view.
pub(crate) struct EngineSession {
    session: SessionId,
    outlet: Outlet,
    engine: EngineHandle,
    shared: Arc<Serving>,
}

impl EngineSession {
    /// Where it takes what there is to say to it.
    pub(crate) fn outlet(&self) -> &Outlet {
        &self.outlet
    }
}

impl EngineSession {
    /// Asks for more.
    pub(crate) fn subscribe(&self, subscribing: Subscribing) {
        self.engine.subscribe(self.session, subscribing);
    }

    /// Asks for less.
    pub(crate) fn unsubscribe(&self, subscription: SubscriptionId) {
        self.engine.unsubscribe(self.session, subscription);
    }
}

impl Drop for EngineSession {
    fn drop(&mut self) {
        self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
        self.engine.close(self.session);
    }
}

/// The engines of one generation.
struct Running {
    generation: Arc<Generation>,
    engines: Vec<EngineHandle>,
    loads: Loads,
    /// Ends all of them; cancelled when one ends by itself.
    stop: CancellationToken,
    ends: Ends,
}

/// Why engines are over.
enum Over {
    /// The generation has ended: there is another one, or will be.
    Generation,
    /// The server stops.
    Stopped,
    /// One could not be told what it has missed.
    Missed,
    /// One has ended by itself, which none should.
    Itself,
}

struct Serving {
    options: EnginesOptions,
    feed: Feed,
    clock: Clock,
    running: watch::Sender<Option<Arc<Running>>>,
    /// The plan that serves, or served last.
    plan: watch::Sender<Option<Arc<Plan>>>,
    next_session: AtomicU64,
    sessions: AtomicU64,
    load_counts: Arc<LoadCounts>,
    stall: Mutex<Option<String>>,
    stop: CancellationToken,
}

/// A cheap handle to the engines.
#[derive(Clone)]
pub(crate) struct Engines {
    shared: Arc<Serving>,
}

impl Engines {
    /// Starts to follow the feed; ends with `stop`.
    pub(crate) fn start(
        options: EnginesOptions,
        feed: Feed,
        clock: Clock,
        stop: CancellationToken,
    ) -> Engines {
        let shared = Arc::new(Serving {
            options,
            feed,
            clock,
            running: watch::channel(None).0,
            plan: watch::channel(None).0,
            next_session: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            load_counts: Arc::default(),
            stall: Mutex::default(),
            stop,
        });
        tokio::spawn(Arc::clone(&shared).follow());
        Engines { shared }
    }

    /// The plan that serves, or served last; `None` before there was one.
    pub(crate) fn plan(&self) -> Option<Arc<Plan>> {
        self.shared.plan.borrow().clone()
    }

    /// The epoch that is served, if one is.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.shared.running.borrow().as_ref().map(|running| running.generation.epoch)
    }

    /// Puts a session into its engine, once there are engines.
    pub(crate) async fn open(&self, request: OpenRequest) -> Result<EngineSession, NotServing> {
        let opened = timeout(OPEN_TIMEOUT, self.open_in_time(request)).await;
        opened.unwrap_or_else(|_| Err(opening::timed_out(&self.shared.feed.state().status)))
    }

    async fn open_in_time(&self, request: OpenRequest) -> Result<EngineSession, NotServing> {
        let shared = &self.shared;
        let mut running = shared.running.subscribe();
        let mut states = shared.feed.watch();
        loop {
            let ended = shared.stop.is_cancelled();
            let serving = running.borrow_and_update().clone();
            let serving = serving.map(|running| (running.generation.epoch, running));
            let status = states.borrow_and_update().status.clone();
            match opening::look(ended, serving, &status, &request) {
                Entrance::Open { serving, not_before } => {
                    if let Some(session) = shared.enter(&serving, &request, not_before) {
                        return Ok(session);
                    }
                }
                Entrance::Closed(why) => return Err(why),
                Entrance::NotYet => {}
            }
            tokio::select! {
                () = shared.stop.cancelled() => {}
                changed = running.changed() => changed.map_err(|_| NotServing::Stopped)?,
                changed = states.changed() => changed.map_err(|_| NotServing::Stopped)?,
            }
        }
    }

    /// How they are doing. Waits for nothing.
    pub(crate) fn health(&self) -> EnginesHealth {
        let shared = &self.shared;
        let running = shared.running.borrow().clone();
        let stall = shared.stall.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut health = EnginesHealth {
            load_queries: shared.load_counts.queries.load(Ordering::Relaxed),
            loaded_rows: shared.load_counts.rows.load(Ordering::Relaxed),
            sessions: shared.sessions.load(Ordering::Relaxed),
            unreadable_tables: shared.load_counts.unreadable(),
            ..EnginesHealth::default()
        };
        let Some(running) = running else { return health };
        let progress = running.progress();
        health.position = progress.iter().map(|progress| progress.position).min();
        health.trouble = stall.or_else(|| running.loads.failing());
        for Progress { counts, .. } in progress {
            health.counts.sessions += counts.sessions;
            health.counts.views += counts.views;
            health.counts.topics += counts.topics;
            health.counts.loading += counts.loading;
            health.counts.row_bytes += counts.row_bytes;
        }
        health
    }

    /// Waits until there are engines. Cancel safe.
    pub(crate) async fn are_there(&self) {
        let mut running = self.shared.running.subscribe();
        // The sender lives as long as we do.
        drop(running.wait_for(Option::is_some).await);
    }
}

impl Running {
    fn progress(&self) -> Vec<Progress> {
        self.engines.iter().map(EngineHandle::progress).collect()
    }
}

impl Serving {
    /// `None` if the engine has ended: all of them are over then, and others are about to begin.
    fn enter(
        self: &Arc<Serving>,
        running: &Running,
        request: &OpenRequest,
        not_before: Option<Lsn>,
    ) -> Option<EngineSession> {
        let plan = &running.generation.plan;
        let session = SessionId(self.next_session.fetch_add(1, Ordering::Relaxed));
        let (place, opening) = request.place(plan, running.engines.len(), session, not_before);
        let engine = running.engines.get(place)?.clone();
        let queue = SendQueue::new(self.options.send_queue_bytes, request.told);
        let outlet = Outlet::new(Arc::clone(plan), queue);
        engine.open(opening, outlet.clone()).ok()?;
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Some(EngineSession { session, outlet, engine, shared: Arc::clone(self) })
    }

    async fn follow(self: Arc<Serving>) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.follow_generations()).await;
        self.end();
    }

    async fn follow_generations(&self) {
        let mut states = self.feed.watch();
        let mut pause = MIN_PAUSE;
        loop {
            let generation = states.borrow_and_update().generation.clone();
            match generation {
                None => self.end(),
                Some(generation) => match self.begin(&generation) {
                    Ok(running) => {
                        let began = self.clock.time();
                        let why = match self.watch(&running, &mut states).await {
                            Over::Generation => continue,
                            Over::Stopped => return self.end(),
                            // The replicator hears of it, too, and may have begun another generation by then.
                            Over::Missed => {
                                "an engine has missed what the log cannot bring any more"
                            }
                            Over::Itself => "an engine has ended by itself",
                        };
                        self.end();
                        if self.clock.time() > began + MAX_PAUSE {
                            pause = MIN_PAUSE;
                        }
                        tracing::warn!(?pause, why, "engines have ended, and begin again");
                        sleep(pause).await;
                        pause = (pause * 2).min(MAX_PAUSE);
                        continue;
                    }
                    // It is about to be another, or to be there.
                    Err(Begin::Ended(_)) => {
                        sleep(MIN_PAUSE / 10).await;
                        continue;
                    }
                    Err(Begin::Thread(error)) => {
                        tracing::error!(%error, "cannot start an engine");
                        sleep(MAX_PAUSE).await;
                        continue;
                    }
                },
            }
            if states.changed().await.is_err() {
                // The publisher has gone.
                return self.end();
            }
        }
    }

    /// Looks after the engines until they are over.
    async fn watch(
        &self,
        running: &Running,
        states: &mut watch::Receiver<rowtide_feed::FeedState>,
    ) -> Over {
        let mut watchdog = Watchdog::new(&running.progress(), self.clock.time());
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_other = |state: &rowtide_feed::FeedState| {
            let present = state.generation.as_ref();
            !present.is_some_and(|present| Arc::ptr_eq(present, &running.generation))
        };
        loop {
            let is_extended = |state: &rowtide_feed::FeedState| {
                let serving = self.plan.borrow();
                let same = serving.iter().zip(&state.plan).all(|(a, b)| Arc::ptr_eq(a, b));
                !same && state.plan.is_some()
            };
            let is_news = |state: &rowtide_feed::FeedState| is_other(state) || is_extended(state);
            tokio::select! {
                news = states.wait_for(is_news) => {
                    match news.map(|state| (is_other(&state), state.plan.clone())) {
                        // Without a publisher there is no other, and never will be.
                        Err(_) => return Over::Stopped,
                        Ok((true, _)) => return Over::Generation,
                        // Mutations may have the new columns; engines hear of it from the feed.
                        Ok((false, plan)) => drop(self.plan.send_replace(plan)),
                    }
                }
                () = running.stop.cancelled() => {
                    // Theirs is a child of ours, and may be seen first.
                    if self.stop.is_cancelled() {
                        return Over::Stopped;
                    }
                    return match running.ends.why() {
                        Some(FollowError::Ended(_)) => Over::Generation,
                        Some(FollowError::Missed) => Over::Missed,
                        None => Over::Itself,
                    };
                }
                _ = tick.tick() => {
                    let feed = self.feed.state().log.map(|log| log.durable);
                    let stall = watchdog.look(feed, &running.progress(), self.clock.time());
                    let stall = stall.map(say);
                    let mut said = self.stall.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(stall) = stall.as_ref().filter(|_| said.is_none()) {
                        tracing::error!(stall, "an engine does not keep up");
                    }
                    *said = stall;
                }
            }
        }
    }

    fn begin(&self, generation: &Arc<Generation>) -> Result<Arc<Running>, Begin> {
        let options = &self.options;
        let stop = self.stop.child_token();
        self.load_counts.clear_unreadable();
        let loads = Loads::start(
            &options.database,
            options.load_connections,
            &self.load_counts,
            &self.feed,
            &stop,
        );
        let ends = Ends::new(stop.clone());
        let started = self.start_engines(generation, &loads, &ends);
        let engines = started.inspect_err(|_| stop.cancel())?;
        let generation = Arc::clone(generation);
        // It may have been extended since, of which engines hear from the feed.
        let newest = self.feed.state().plan.unwrap_or_else(|| Arc::clone(&generation.plan));
        self.plan.send_replace(Some(newest));
        let running = Arc::new(Running { generation, engines, loads, stop, ends });
        if let Some(before) = self.running.send_replace(Some(Arc::clone(&running))) {
            before.stop.cancel();
        }
        Ok(running)
    }

    fn start_engines(
        &self,
        generation: &Arc<Generation>,
        loads: &Loads,
        ends: &Ends,
    ) -> Result<Vec<EngineHandle>, Begin> {
        let options = &self.options;
        let count = options.engines.max(1);
        let garbage = Garbage::start()?;
        let position = generation.position;
        let mut engines = Vec::new();
        for index in 0..count {
            let subscription = self.feed.subscribe(generation, position)?;
            let engine = Engine::new(
                Arc::clone(&generation.plan),
                generation.epoch,
                position,
                &generation.recent,
                options.row_bytes / count,
            );
            let surroundings = Surroundings {
                loads: loads.clone(),
                feed: self.feed.clone(),
                garbage: garbage.clone(),
                clock: self.clock,
                ends: ends.clone(),
            };
            let name = format!("engine-{index}");
            engines.push(engine_thread::start(name, engine, subscription, surroundings)?);
        }
        Ok(engines)
    }

    /// Ends the engines, with their sessions.
    fn end(&self) {
        if let Some(before) = self.running.send_replace(None) {
            before.stop.cancel();
        }
        *self.stall.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Why engines did not begin.
#[derive(Debug, Error)]
enum Begin {
    #[error(transparent)]
    Ended(#[from] FeedEnded),
    #[error(transparent)]
    Thread(#[from] std::io::Error),
}

#[cfg(test)]
mod tests;
