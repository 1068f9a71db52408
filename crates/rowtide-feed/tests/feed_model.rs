//! The feed against a plain list of what was published: random batches, subscribers of every speed, evictions,
//! a log that is behind and that answers late, generations that end. Every subscriber has every transaction
//! once and in order, and every position at most once; nobody holds up the publisher.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rowtide_feed::{
    Change, Changes, Event, Feed, FeedEnded, FollowError, Generation, PastError, Publisher,
    Request, RowChange, Subscription, Transaction, feed,
};
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::{Image, Row};
use rowtide_protocol::{Epoch, Lsn};
use tokio::sync::mpsc;

const SEEDS: u64 = 2_000;
const STEPS: usize = 200;
const RING_BYTES: usize = 6_000;

fn poll<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn plan() -> Arc<Plan> {
    Arc::new(Plan::default())
}

/// One who follows, and what they have.
struct Subscriber {
    subscription: Subscription,
    from: Lsn,
    seen: Vec<Event>,
    wal_end: Option<Lsn>,
    /// Is polled about once in so many times.
    slowness: u32,
}

struct Model {
    random: SmallRng,
    plan: Arc<Plan>,
    publisher: Publisher,
    feed: Feed,
    requests: mpsc::UnboundedReceiver<Request>,
    waiting: Vec<Request>,
    generation: Arc<Generation>,
    /// What was published of it, and the log has or will have: each once, in order.
    published: Vec<Event>,
    wal_end: Option<Lsn>,
    durable: Lsn,
    /// Whether the log keeps the position behind its last transaction.
    keeps_positions: bool,
    subscribers: Vec<Subscriber>,
    replays: usize,
}

impl Model {
    fn new(seed: u64, plan: &Arc<Plan>) -> Model {
        let mut random = SmallRng::seed_from_u64(seed);
        let (publisher, feed, requests) = feed(RING_BYTES);
        let generation = publisher.begin(generation(plan, 0), None);
        Model {
            plan: Arc::clone(plan),
            publisher,
            feed,
            requests,
            waiting: Vec::new(),
            generation,
            published: Vec::new(),
            wal_end: None,
            durable: Lsn(0),
            keeps_positions: random.random(),
            subscribers: Vec::new(),
            replays: 0,
            random,
        }
    }

    fn end(&self) -> Lsn {
        self.published.last().and_then(Event::lsn).unwrap_or(self.generation.position)
    }

    fn last_transaction(&self) -> Lsn {
        let last = self.published.iter().rev().find(|event| is_transaction(event));
        last.and_then(Event::lsn).unwrap_or(self.generation.position)
    }

    fn publish(&mut self) {
        if poll(self.publisher.room()).is_none() {
            assert!(self.durable < self.end(), "there is no room though all is durable");
            return;
        }
        let mut batch = Vec::new();
        // After a reconnect what was not confirmed comes again.
        if self.random.random_ratio(1, 8) {
            let again = self.random.random_range(0..4).min(self.published.len());
            batch.extend_from_slice(&self.published[self.published.len() - again..]);
        }
        for _ in 0..self.random.random_range(0..5) {
            let previous = self.last_transaction();
            let lsn = Lsn(self.end().0 + self.random.random_range(1..100));
            let event = match self.random.random_range(0..12) {
                0 => {
                    self.wal_end = Some(lsn);
                    batch.push(Event::StreamBegan { wal_end: lsn });
                    continue;
                }
                1 => {
                    let (table, what) = ("t".to_owned(), "x".repeat(100));
                    batch.push(Event::TableChanged { table, what });
                    continue;
                }
                2..5 => Event::Position { previous, lsn, time_us: 0 },
                _ => {
                    let size = self.random.random_range(0..1_500);
                    Event::Transaction { previous, transaction: transaction(lsn, size) }
                }
            };
            self.published.push(event.clone());
            batch.push(event);
        }
        self.publisher.publish(batch.into());
    }

    fn make_durable(&mut self) {
        let places: Vec<Lsn> = self.published.iter().filter_map(Event::lsn).collect();
        let Some(lsn) = places.choose(&mut self.random) else { return };
        self.durable = self.durable.max(*lsn);
        self.publisher.durable(self.durable);
    }

    /// All of it is durable: then there is room, whoever is behind.
    fn catch_up(&mut self) {
        self.durable = self.durable.max(self.end());
        self.publisher.durable(self.durable);
        assert!(poll(self.publisher.room()).is_some(), "a subscriber holds up the publisher");
        assert!(self.publisher.bytes() <= RING_BYTES, "{}", self.publisher.bytes());
    }

    fn subscribe(&mut self) {
        let places: Vec<Lsn> = self.published.iter().filter_map(Event::lsn).collect();
        let from = places.choose(&mut self.random).copied();
        let from = from.filter(|_| self.random.random()).unwrap_or(self.generation.position);
        let subscription = self.feed.subscribe(&self.generation, from).unwrap();
        let slowness = self.random.random_range(1..30);
        let seen = Vec::new();
        self.subscribers.push(Subscriber { subscription, from, seen, wal_end: None, slowness });
    }

    /// Whether anything came.
    fn poll(&mut self, index: usize) -> bool {
        let Some(batch) = poll(self.subscribers[index].subscription.next()) else { return false };
        let Subscriber { subscription, from, seen, wal_end, .. } = &mut self.subscribers[index];
        for event in batch.unwrap().iter() {
            match event {
                Event::StreamBegan { wal_end: said } => *wal_end = Some(*said),
                Event::Transaction { .. } | Event::Position { .. } => {
                    let before = seen.last().and_then(Event::lsn).unwrap_or(*from);
                    assert!(event.lsn() > Some(before), "{event:?} after {before}");
                    seen.push(event.clone());
                }
                _ => {}
            }
        }
        let position = seen.last().and_then(Event::lsn).unwrap_or(*from);
        assert_eq!(subscription.position(), position);
        true
    }

    fn answer(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            self.waiting.push(request);
        }
        if self.waiting.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.waiting.len());
        let Request::Replay(_, after, _, reply) = self.waiting.swap_remove(at) else { panic!() };
        let durable = |event: &&Event| event.lsn() <= Some(self.durable);
        let mut replayed: Vec<Event> = self.published.iter().filter(durable).cloned().collect();
        let position = replayed.pop_if(|last| !is_transaction(last));
        replayed.retain(|event| is_transaction(event) && event.lsn() > Some(after));
        let count = self.random.random_range(1..6);
        if replayed.len() > count {
            replayed.truncate(count);
        } else if self.keeps_positions {
            replayed.extend(position.filter(|position| position.lsn() > Some(after)));
        }
        self.replays += 1;
        // Whoever asked may be gone.
        drop(reply.send(Ok(replayed)));
    }

    /// Everything comes to rest, and everyone has everything.
    fn rest(&mut self) {
        self.catch_up();
        let mut busy = true;
        while busy {
            busy = false;
            for index in 0..self.subscribers.len() {
                for turn in 0.. {
                    assert!(turn < 10_000, "it never comes to rest");
                    if !self.poll(index) {
                        break;
                    }
                    busy = true;
                }
            }
            while !self.waiting.is_empty() || !self.requests.is_empty() {
                self.answer();
                busy = true;
            }
        }
        let transactions = |events: &[Event], from: Lsn| {
            let behind = events.iter().filter(|event| event.lsn() > Some(from));
            behind.filter(|event| is_transaction(event)).cloned().collect::<Vec<_>>()
        };
        for Subscriber { subscription, from, seen, wal_end, .. } in &self.subscribers {
            assert_eq!(transactions(seen, *from), transactions(&self.published, *from));
            let strangers = seen.iter().filter(|event| !self.published.contains(event));
            assert_eq!(strangers.count(), 0);
            assert_eq!(*wal_end, self.wal_end);
            if self.keeps_positions {
                assert_eq!(subscription.position(), self.end());
            }
        }
    }

    /// Another generation begins, or none; nobody follows the old one any more, whatever they wait for.
    fn end_generation(&mut self) {
        if self.random.random() {
            self.publisher.end();
            assert!(self.feed.state().generation.is_none());
            let again = self.feed.subscribe(&self.generation, self.end());
            assert!(again.is_err());
        }
        let old = Arc::clone(&self.generation);
        let position = self.end().0 + 1_000;
        self.generation = self.publisher.begin(generation(&self.plan, position), None);
        assert!(Arc::ptr_eq(&self.feed.state().generation.unwrap(), &self.generation));
        assert_eq!(self.feed.subscribe(&old, old.position).err(), Some(FeedEnded));
        for subscriber in &mut self.subscribers {
            let next = poll(subscriber.subscription.next()).unwrap();
            assert_eq!(next.err(), Some(FollowError::Ended(FeedEnded)));
        }
        self.subscribers.clear();
        self.published.clear();
        self.wal_end = None;
        self.durable = Lsn(position);
        // They were asked of the old log.
        self.waiting.clear();
        while self.requests.try_recv().is_ok() {}
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..35 => self.publish(),
            35..45 => self.make_durable(),
            45..48 => self.catch_up(),
            48..52 if self.subscribers.len() < 6 => self.subscribe(),
            52..54 if !self.subscribers.is_empty() => {
                let gone = self.random.random_range(0..self.subscribers.len());
                self.subscribers.swap_remove(gone);
            }
            54..68 => self.answer(),
            68 => self.rest(),
            69 => self.end_generation(),
            _ => {
                for index in 0..self.subscribers.len() {
                    if self.random.random_ratio(1, self.subscribers[index].slowness) {
                        self.poll(index);
                    }
                }
            }
        }
    }
}

fn is_transaction(event: &Event) -> bool {
    matches!(event, Event::Transaction { .. })
}

fn generation(plan: &Arc<Plan>, position: u64) -> Generation {
    let (epoch, plan) = (Epoch(position), Arc::clone(plan));
    Generation { epoch, plan, position: Lsn(position), recent: Vec::new() }
}

fn transaction(lsn: Lsn, size: usize) -> Arc<Transaction> {
    let image = Image { key: Bytes::from_static(b"{}"), kept: [].into(), topics: [].into() };
    let row = Arc::new(Row { image, json: Bytes::from(vec![b'x'; size]) });
    let change = Change { table: TableId(0), row: RowChange::Insert(row) };
    Arc::new(Transaction {
        lsn,
        xid: lsn.0 as u32,
        commit_time_us: 0,
        truncated: Vec::new(),
        changes: Changes::Rows(vec![change]),
        acknowledgements: Vec::new(),
    })
}

#[test]
fn every_subscriber_has_everything_once_and_in_order_and_holds_up_nobody() {
    let plan = plan();
    let mut replays = 0;
    for seed in 0..SEEDS {
        let run = AssertUnwindSafe(|| {
            let mut model = Model::new(seed, &plan);
            (0..STEPS).for_each(|_| model.step());
            model.rest();
            model.replays
        });
        match catch_unwind(run) {
            Ok(count) => replays += count,
            Err(panic) => {
                eprintln!("seed {seed}");
                resume_unwind(panic);
            }
        }
    }
    assert!(replays > 1_000, "the ring is too large to say anything: {replays} replays");
}

/// Whoever is told of a generation can follow it, unless it has ended since: one that cannot be followed at first and
/// can be later would be waited for in vain.
#[test]
fn a_generation_that_is_shown_can_be_followed() {
    let plan = plan();
    let (publisher, feed, _requests) = feed(RING_BYTES);
    let last = 20_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let Some(shown) = feed.state().generation else { continue };
                if feed.subscribe(&shown, shown.position).is_err() {
                    while feed.state().generation.is_some_and(|now| Arc::ptr_eq(&now, &shown)) {
                        assert!(feed.subscribe(&shown, shown.position).is_err());
                    }
                }
                if shown.position == Lsn(last) {
                    return;
                }
            }
        });
        for position in 1..=last {
            publisher.begin(generation(&plan, position), None);
        }
    });
}

fn large(previous: u64, lsn: u64) -> Event {
    let transaction = transaction(Lsn(lsn), RING_BYTES / 3);
    Event::Transaction { previous: Lsn(previous), transaction }
}

#[test]
fn what_comes_again_when_it_is_durable_takes_no_room() {
    let (publisher, feed, _requests) = feed(RING_BYTES);
    let generation = publisher.begin(generation(&plan(), 0), None);
    publisher.publish([large(0, 10)].into());
    publisher.durable(Lsn(10));
    for _ in 0..10 {
        publisher.publish([large(0, 10)].into());
        assert!(poll(publisher.room()).is_some(), "nothing more will be durable");
    }
    assert!(publisher.bytes() <= RING_BYTES);
    // What is not durable holds it up until it is.
    (1..=4).for_each(|n| publisher.publish([large(n * 10, n * 10 + 10)].into()));
    assert!(poll(publisher.room()).is_none());
    publisher.durable(Lsn(50));
    assert!(poll(publisher.room()).is_some());
    assert!(feed.subscribe(&generation, Lsn(0)).is_ok());
}

#[test]
fn whoever_waits_for_the_log_is_told_when_the_generation_ends() {
    let (publisher, feed, mut requests) = feed(RING_BYTES);
    let generation = publisher.begin(generation(&plan(), 0), None);
    let mut behind = feed.subscribe(&generation, Lsn(0)).unwrap();
    (0..9).for_each(|n| publisher.publish([large(n * 10, n * 10 + 10)].into()));
    publisher.durable(Lsn(90));
    let mut next = pin!(behind.next());
    let mut context = Context::from_waker(Waker::noop());
    assert!(next.as_mut().poll(&mut context).is_pending());
    // The log never answers.
    let request = requests.try_recv().unwrap();
    assert!(matches!(request, Request::Replay(_, Lsn(0), ..)));
    publisher.end();
    let ended = next.as_mut().poll(&mut context);
    assert!(matches!(ended, Poll::Ready(Err(FollowError::Ended(_)))), "it was not for the log");
}

#[test]
fn a_log_that_has_not_got_what_is_missing_ends_the_subscription() {
    let (publisher, feed, mut requests) = feed(RING_BYTES);
    let generation = publisher.begin(generation(&plan(), 100), None);
    // The ring begins behind it, and what is between is in the log alone.
    let mut behind = feed.subscribe(&generation, Lsn(50)).unwrap();
    publisher.publish([large(100, 110)].into());
    for replayed in [vec![large(50, 70)], vec![]] {
        assert!(poll(behind.next()).is_none());
        let Ok(Request::Replay(_, _, _, reply)) = requests.try_recv() else { panic!() };
        let last = replayed.is_empty();
        assert!(reply.send(Ok(replayed)).is_ok());
        let next = poll(behind.next()).unwrap();
        assert_eq!(next.err(), last.then_some(FollowError::Missed));
    }
}

#[test]
fn what_the_log_cannot_bring_is_told_apart_from_the_end_of_the_generation() {
    let (publisher, feed, mut requests) = feed(RING_BYTES);
    let generation = publisher.begin(generation(&plan(), 100), None);
    let mut asked = || {
        let mut behind = feed.subscribe(&generation, Lsn(50)).unwrap();
        publisher.publish([large(100, 110)].into());
        assert!(poll(behind.next()).is_none());
        let Ok(Request::Replay(_, _, _, reply)) = requests.try_recv() else { panic!() };
        (behind, reply)
    };
    // A log that does not go back so far: others who follow may go on.
    let (mut behind, reply) = asked();
    assert!(reply.send(Err(PastError::TooOld)).is_ok());
    assert_eq!(poll(behind.next()).unwrap().err(), Some(FollowError::Missed));
    assert!(feed.subscribe(&generation, Lsn(100)).is_ok());
    // A log that is of another epoch by now gives no answer.
    let (mut behind, reply) = asked();
    drop(reply);
    assert_eq!(poll(behind.next()).unwrap().err(), Some(FollowError::Missed));
    // What comes first counts: with the generation what it missed is over, too.
    let (mut behind, reply) = asked();
    assert!(reply.send(Err(PastError::TooOld)).is_ok());
    publisher.end();
    assert_eq!(poll(behind.next()).unwrap().err(), Some(FollowError::Ended(FeedEnded)));
}
