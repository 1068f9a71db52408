//! The feed of a server: the real one. Nothing in here runs tasks, so its futures are polled by hand, when the
//! simulation says that a follower looks; what was not ready then is looked at again when something is published.

use std::sync::Arc;

use futures_util::FutureExt;
use rand::Rng;
use rowtide_feed::{
    Event as FeedEvent, Feed, Generation, History, PastError, Publisher, Request, feed,
};
use rowtide_plan::plan::Plan;
use rowtide_replicator::machine::Input;
use tokio::sync::{mpsc, oneshot};

use crate::breaks::Break;
use crate::world::{At, Event, World};

/// How many bytes the ring holds: so few that a slow engine has to replay now and then.
const RING_BYTES: usize = 6_000;

/// Both ends of it.
pub struct ServerFeed {
    pub publisher: Publisher,
    pub feed: Feed,
    asked: mpsc::UnboundedReceiver<Request>,
}

impl Default for ServerFeed {
    fn default() -> ServerFeed {
        let (publisher, feed, asked) = feed(RING_BYTES);
        ServerFeed { publisher, feed, asked }
    }
}

/// The answer to a question about the past, on its way.
pub type Asked<T> = oneshot::Receiver<Result<T, PastError>>;

impl World {
    /// Begins a generation; the one before ends.
    pub fn begin_generation(&mut self, at: At, generation: Generation, newest: Option<Arc<Plan>>) {
        self.servers[at.server].feed.publisher.begin(generation, newest);
        self.look_at_feed(at);
    }

    pub fn end_generation(&mut self, at: At) {
        self.servers[at.server].feed.publisher.end();
        self.look_at_feed(at);
    }

    pub fn look_at_feed(&mut self, at: At) {
        let delay = self.rng.random_range(0..20);
        self.after(delay, Event::Generation(at));
    }

    /// Whether there is room for more.
    pub fn feed_has_room(&self, at: At) -> bool {
        self.servers[at.server].feed.publisher.room().now_or_never().is_some()
    }

    /// Hands on events.
    pub fn publish(&mut self, at: At, events: Arc<[FeedEvent]>) {
        self.servers[at.server].feed.publisher.publish(events);
        for engine in 0..self.servers[at.server].engines.len() {
            self.wake_engine(at, engine);
        }
    }

    /// Takes what followers ask of the log; each answer takes its time.
    pub fn take_requests(&mut self, at: At) {
        while let Ok(request) = self.servers[at.server].feed.asked.try_recv() {
            let delay = self.rng.random_range(1..100);
            self.after(delay, Event::AnswerRequest(at, request, 0));
        }
    }

    /// The log answers, once it has what is asked for, or it cannot.
    pub fn answer(&mut self, at: At, request: Request, tries: u32) {
        if self.is_gone(at) || self.disk.holder != Some((at.server, at.life)) {
            return;
        }
        let up_to = match &request {
            Request::History(epoch, query, _) if *epoch == self.disk.epoch => query.up_to,
            Request::Replay(epoch, after, ..) if *epoch == self.disk.epoch => *after,
            Request::Look => return self.watch_now(at),
            // The epoch is over, and nobody answers.
            _ => return,
        };
        let stuck = self.stormy && tries > 10;
        if self.disk.end() < up_to && !stuck {
            return self.after(500, Event::AnswerRequest(at, request, tries + 1));
        }
        let fails = self.disk.end() < up_to || self.stormy && self.rng.random_bool(0.03);
        match request {
            Request::History(_, query, reply) => {
                let told = if fails { None } else { self.disk.history(&query) };
                let known =
                    if told.is_some() { "histories" } else { "histories that are not known" };
                self.seen.count(known);
                drop(reply.send(told.ok_or(PastError::TooOld)));
            }
            Request::Replay(_, after, bytes, reply) => {
                let told = if fails { None } else { self.disk.replay(after, bytes) };
                let known = if told.is_some() { "replays" } else { "replays that fail" };
                self.seen.count(known);
                let told = told.map(|mut events| {
                    if self.broken == Some(Break::ReplaySkips) && events.len() > 1 {
                        skip_first(&mut events);
                    }
                    events
                });
                let outrun = told.is_none();
                drop(reply.send(told.ok_or(PastError::TooOld)));
                if outrun {
                    self.step_replicator(at, Input::Outrun);
                }
            }
            Request::Look => {}
        }
        for engine in 0..self.servers[at.server].engines.len() {
            self.wake_engine(at, engine);
        }
    }
}

/// What the log has said, if it has; `Some(None)` if it cannot say.
pub fn answered(asked: &mut Asked<History>) -> Option<Option<History>> {
    match asked.try_recv() {
        Ok(answer) => Some(answer.ok()),
        Err(oneshot::error::TryRecvError::Empty) => None,
        Err(oneshot::error::TryRecvError::Closed) => Some(None),
    }
}

/// As if the first had not been there.
fn skip_first(events: &mut Vec<FeedEvent>) {
    let skipped = events.remove(0);
    if let (FeedEvent::Transaction { previous: before, .. }, Some(next)) =
        (skipped, events.first_mut())
        && let FeedEvent::Transaction { previous, .. } = next
    {
        *previous = before;
    }
}
