//! The engines of a server: the gateway's own workers, with a simulated thread for each, which may be slow, and
//! loads that may fail.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt;
use rand::Rng;
use rowtide_engine::{Engine, HistoryId, HistoryRequest, Load};
use rowtide_feed::{FeedEnded, FollowError, Generation, History, HistoryQuery, Subscription};
use rowtide_gateway::Outlet;
use rowtide_gateway::garbage::Garbage;
use rowtide_gateway::worker::{EngineArrival, EngineRequest, Worker};
use rowtide_plan::plan::Plan;
use rowtide_postgres::table_trouble::TableTrouble;

use crate::breaks::Break;
use crate::feed::{Asked, answered};
use crate::world::{At, Event, World};

/// How many bytes of rows an engine holds: so few that rows are evicted now and then.
const ROW_BUDGET: usize = 2_000;

pub struct EngineThread {
    pub worker: Worker<Outlet>,
    subscription: Subscription,
    /// What was asked of the log.
    histories: Vec<(HistoryId, Asked<History>)>,
    pub inbox: VecDeque<EngineArrival<Outlet>>,
    /// Until then it is slow.
    slow_until_ms: u64,
    woken: bool,
}

impl World {
    /// What there is to follow has changed: engines of another generation end, and those of this one begin.
    pub fn generation(&mut self, at: At) {
        if self.is_gone(at) {
            return;
        }
        let server = &mut self.servers[at.server];
        let generation = server.feed.feed.state().generation;
        let same = match (&server.generation, &generation) {
            (Some(serving), Some(generation)) => Arc::ptr_eq(serving, generation),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        self.end_engines(at);
        let Some(generation) = generation else { return };
        let count = self.rng.random_range(1..=2);
        let Generation { epoch, plan, position, recent } = &*generation;
        let now = self.time();
        let thread = |_| {
            let engine = Engine::new(Arc::clone(plan), *epoch, *position, recent, ROW_BUDGET);
            Ok(EngineThread {
                worker: Worker::new(engine, Garbage::in_place(), now),
                subscription: self.servers[at.server]
                    .feed
                    .feed
                    .subscribe(&generation, *position)?,
                histories: Vec::new(),
                inbox: VecDeque::new(),
                slow_until_ms: 0,
                woken: false,
            })
        };
        let threads: Result<Vec<EngineThread>, FeedEnded> = (0..count).map(thread).collect();
        // It has ended again, so there will be another look.
        let Ok(threads) = threads else { return };
        let server = &mut self.servers[at.server];
        (server.engines, server.generation) = (threads, Some(generation));
        server.generations += 1;
        server.serving_since_ms = Some(self.now_ms);
        (0..count).for_each(|engine| self.wake_engine(at, engine));
    }

    /// The engines end, and every session of them is told.
    pub fn end_engines(&mut self, at: At) {
        let server = &mut self.servers[at.server];
        for thread in server.engines.drain(..) {
            for arrival in thread.inbox {
                if let EngineArrival::Open(_, mut outlet) = arrival {
                    use rowtide_gateway::worker::{RESTARTING, Sink};
                    outlet.close(RESTARTING.0, RESTARTING.1);
                }
            }
        }
        (server.generation, server.serving_since_ms) = (None, None);
        self.look_at_outlets(at);
    }

    pub fn give(&mut self, at: At, engine: usize, arrival: EngineArrival<Outlet>) {
        let Some(thread) = self.servers[at.server].engines.get_mut(engine) else { return };
        if self.broken == Some(Break::GoingBeforeComing)
            && matches!(arrival, EngineArrival::Close(_))
        {
            thread.inbox.push_front(arrival);
        } else {
            thread.inbox.push_back(arrival);
        }
        self.wake_engine(at, engine);
    }

    pub fn wake_engine(&mut self, at: At, engine: usize) {
        let Some(thread) = self.servers[at.server].engines.get_mut(engine) else { return };
        if !std::mem::replace(&mut thread.woken, true) {
            let slow = thread.slow_until_ms.saturating_sub(self.now_ms);
            let delay = slow.max(self.rng.random_range(0..15));
            let generations = self.servers[at.server].generations;
            self.after(delay, Event::Engine(at, engine, generations));
        }
    }

    /// One engine has much to do for a while, or its machine is busy.
    pub fn slow_engine(&mut self, server: usize) {
        let until_ms = self.now_ms + self.rng.random_range(500..10_000);
        if let Some(thread) = self.servers[server].engines.first_mut() {
            self.seen.count("slow engines");
            thread.slow_until_ms = until_ms;
        }
    }

    pub fn run_engine(&mut self, at: At, engine: usize, generations: u64) {
        if self.is_gone(at) || self.servers[at.server].generations != generations {
            return;
        }
        let now = self.time();
        let Some(thread) = self.servers[at.server].engines.get_mut(engine) else { return };
        thread.woken = false;
        let mut again = false;
        if thread.inbox.is_empty() || self.rng.random_bool(0.7) {
            match thread.subscription.next().now_or_never() {
                None => {}
                Some(Err(FollowError::Ended(_) | FollowError::Missed)) => {
                    // Another generation is there, or will be; or the same is begun again.
                    self.seen.count("engines without a feed");
                    self.end_engines(at);
                    return self.look_at_feed(at);
                }
                Some(Ok(batch)) => {
                    again = true;
                    let plan_of = |plan| thread.subscription.plan(plan);
                    let followed = thread.worker.follow(&batch, plan_of, now);
                    followed.expect("every plan is known before it is told of");
                }
            }
        }
        thread.histories.retain_mut(|(id, asked)| match answered(asked) {
            None => true,
            Some(answer) => {
                thread.inbox.push_back(EngineArrival::History(*id, answer));
                false
            }
        });
        for _ in 0..self.rng.random_range(1..=8) {
            let Some(arrival) = thread.inbox.pop_front() else { break };
            if self.told {
                println!("{:>8} server {} engine {engine}: {arrival:?}", self.now_ms, at.server);
            }
            thread.worker.take(arrival, now);
        }
        thread.worker.pass(now);
        thread.worker.wake();
        let again = again || !thread.inbox.is_empty();
        let requests: Vec<EngineRequest> = thread.worker.requests().collect();
        let deadline = thread.worker.deadline().as_millis() as u64;
        let later = (!again).then(|| deadline.max(self.now_ms + 1) - self.now_ms);
        for request in requests {
            match request {
                EngineRequest::Load(load) => {
                    let delay = self.rng.random_range(1..10);
                    self.after(delay, Event::Look(at, engine, load, generations));
                }
                EngineRequest::History(request) => self.ask_history(at, engine, request),
            }
        }
        self.take_requests(at);
        match later {
            None => self.wake_engine(at, engine),
            Some(delay) => self.after(delay, Event::EngineDue(at, engine, generations)),
        }
        self.look_at_outlets(at);
    }

    /// Something is due in an engine.
    pub fn engine_is_due(&mut self, at: At, engine: usize, generations: u64) {
        if !self.is_gone(at) && self.servers[at.server].generations == generations {
            self.wake_engine(at, engine);
        }
    }

    fn ask_history(&mut self, at: At, engine: usize, request: HistoryRequest) {
        let HistoryRequest { id, topics, tables, after, up_to } = request;
        let query = HistoryQuery { topics, tables, after, up_to };
        let server = &mut self.servers[at.server];
        let Some(generation) = &server.generation else { return };
        let asked = server.feed.feed.history(generation.epoch, query);
        server.engines[engine].histories.push((id, asked));
    }

    /// The plan that is served; none while nothing is.
    pub fn plan_of(&self, at: At) -> Option<Arc<Plan>> {
        let server = &self.servers[at.server];
        server.generation.as_ref().and(server.feed.feed.state().plan)
    }

    /// A load reads, at some moment, and arrives at another.
    pub fn look(&mut self, at: At, engine: usize, load: Load, generations: u64) {
        if self.is_gone(at) || self.servers[at.server].generations != generations {
            return;
        }
        let plan = Arc::clone(&load.plan);
        if self.postgres.up && self.postgres.is_locked(&plan, &load.topics) {
            self.seen.count("loads that wait for a lock");
            return self.after(30, Event::Look(at, engine, load, generations));
        }
        self.seen.count("loads");
        let fails = !self.postgres.up || self.stormy && self.rng.random_bool(0.03);
        if fails {
            // It is tried again until it succeeds.
            self.seen.count("failed loads");
            return self.after(200, Event::Look(at, engine, load, generations));
        }
        let (loaded, failed) = self.postgres.load(&plan, &load.topics, &load.before);
        if failed.into_values().any(TableTrouble::asks_for_a_look) {
            self.seen.count("loads that do not fit their tables");
            self.servers[at.server].feed.feed.look();
            self.take_requests(at);
        } else if loaded.rows.iter().any(Option::is_none) {
            self.seen.count("loads that are not permitted");
        }
        let most = if self.rng.random_bool(0.1) { 3000 } else { 60 };
        let delay = self.rng.random_range(1..most);
        let arrival = Box::new(EngineArrival::Loaded(load.id, Some(loaded)));
        self.after(delay, Event::Looked(at, engine, arrival, generations));
    }

    pub fn looked(
        &mut self,
        at: At,
        engine: usize,
        arrival: EngineArrival<Outlet>,
        generations: u64,
    ) {
        if !self.is_gone(at) && self.servers[at.server].generations == generations {
            self.give(at, engine, arrival);
        }
    }
}
