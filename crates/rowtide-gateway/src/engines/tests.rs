use std::cell::Cell;
use std::sync::mpsc;
use std::time::Instant;

use rowtide_engine::Opening;
use rowtide_feed::{Event, LogExtent, Publisher, ReplicatorStatus, Request, feed};
use rowtide_postgres::mutate::Author;
use rowtide_protocol::{Epoch, ErrorCode};
use serde_json::Map;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::send_queue::Delivery;
use crate::testing::plan;

/// Engines that follow a feed, without a database.
struct Run {
    publisher: Publisher,
    _requests: UnboundedReceiver<Request>,
    engines: Engines,
    stop: CancellationToken,
}

impl Run {
    fn new() -> Run {
        let (publisher, feed, requests) = feed(1 << 20);
        let stop = CancellationToken::new();
        let options = EnginesOptions {
            database: ConnectOptions::parse("postgres://nobody@127.0.0.1:1/none").unwrap(),
            engines: 2,
            send_queue_bytes: 1 << 20,
            row_bytes: 1 << 20,
            load_connections: 1,
        };
        let engines = Engines::start(options, feed, Clock::start(), stop.clone());
        Run { publisher, _requests: requests, engines, stop }
    }

    fn begin(&self, epoch: u64) {
        let (plan, position) = (plan(), Lsn(1));
        let generation = Generation { epoch: Epoch(epoch), plan, position, recent: Vec::new() };
        self.publisher.begin(generation, None);
    }

    async fn open(&self, user: &str) -> Result<EngineSession, NotServing> {
        let author = Author { user_id: user.to_owned(), claims: Map::new() };
        let request = OpenRequest {
            author: Some(Arc::new(author)),
            client: Some("client".into()),
            told: None,
            not_before: None,
            cursor: None,
            subscriptions: Vec::new(),
        };
        self.engines.open(request).await
    }
}

async fn eventually(what: &str, found: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !found() {
        assert!(Instant::now() < until, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// As an engine in an endless loop: it waits for a lock that is not given free.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_move_is_said_and_nobody_waits_for_it() {
    let run = Run::new();
    run.begin(1);
    run.engines.are_there().await;
    let claims = plan().resolve_claims("ann", &Map::new());
    let opening = Opening {
        session: SessionId(1_000),
        claims,
        client: None,
        not_before: None,
        cursor: None,
        subscriptions: Vec::new(),
    };
    let outlet = Outlet::new(plan(), SendQueue::new(1 << 20, None));
    let (holds, held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let of_holder = outlet.clone();
    let holder = std::thread::spawn(move || {
        let guard = of_holder.hold();
        holds.send(()).unwrap();
        // Until the other side is dropped.
        assert!(released.recv().is_err());
        drop(guard);
    });
    held.recv().unwrap();
    let running = run.engines.shared.running.borrow().clone().unwrap();
    let Ok(()) = running.engines[1].open(opening, outlet) else { panic!("it runs") };
    // It has come to the lock: while the other one goes on and on, it does not. Only then is there news, so that it
    // cannot have taken them before.
    let beats = |engine: usize| running.engines[engine].progress().beats;
    let still_since = Cell::new((beats(1), beats(0)));
    eventually("it stands still", || {
        let (beat, others) = still_since.get();
        if beats(1) != beat {
            still_since.set((beats(1), beats(0)));
        }
        beats(1) == beat && beats(0) >= others + 3
    })
    .await;
    let event = Event::Position { previous: Lsn(1), lsn: Lsn(2), time_us: 0 };
    run.publisher.publish([event].into());
    run.publisher.update(|state| {
        state.log = Some(LogExtent { oldest: Lsn(1), durable: Lsn(2) });
        true
    });
    eventually("the other one follows", || running.engines[0].progress().position == Lsn(2)).await;
    eventually("it is said", || {
        let trouble = run.engines.health().trouble.unwrap_or_default();
        // Before that, that it has done nothing.
        trouble.starts_with("engine 1 has not moved for 1")
            && trouble.ends_with(" s while the feed has")
    })
    .await;
    let health = run.engines.health();
    assert_eq!(health.position, Some(Lsn(1)), "what all have taken in");
    drop(release);
    holder.join().unwrap();
    eventually("it has healed", || {
        let health = run.engines.health();
        // There is no database for its load, which is said all the while.
        let stalls = health.trouble.is_some_and(|trouble| trouble.starts_with("engine 1"));
        !stalls && health.position == Some(Lsn(2))
    })
    .await;
    run.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_generation_ends_its_sessions_are_told_and_others_are_served() {
    let run = Run::new();
    run.begin(1);
    let first = run.open("ann").await.unwrap();
    eventually("it is there", || run.engines.health().counts.views == 1).await;
    run.begin(2);
    let told = async {
        loop {
            match first.outlet().try_next() {
                Some(Delivery::Closed(code, _)) => return code,
                Some(_) => {}
                None => first.outlet().filled().await,
            }
        }
    };
    assert_eq!(timeout(Duration::from_secs(60), told).await.unwrap(), ErrorCode::Restarting);
    let second = run.open("ann").await.unwrap();
    eventually("the second is there", || run.engines.health().counts.views == 1).await;
    drop(first);
    assert_eq!(run.engines.health().sessions, 1);
    drop(second);
    eventually("all have gone", || {
        let health = run.engines.health();
        (health.sessions, health.counts) == (0, Default::default())
    })
    .await;
    run.publisher.end();
    run.publisher.update(|state| {
        state.status = ReplicatorStatus::Standby("another server has it".to_owned());
        true
    });
    eventually("there are no engines", || run.engines.health().position.is_none()).await;
    assert!(matches!(run.open("ann").await, Err(NotServing::Standby(_))));
    run.stop.cancel();
}
