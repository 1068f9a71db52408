use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowtide_engine::TransactionSnapshot;
use rowtide_feed::{Change, Changes, RowChange, Transaction};
use rowtide_plan::encode::{Datum, RowEncoder};
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::Row;
use rowtide_protocol::Epoch;
use serde_json::Map;

use super::*;
use crate::send_queue::Delivery;
use crate::testing::plan;

/// A worker, and the answers that are on their way to its inbox.
struct Run {
    plan: Arc<Plan>,
    worker: Worker<SendQueue>,
    now: Duration,
    lsn: u64,
    requests: Vec<EngineRequest>,
}

impl Run {
    fn new() -> Run {
        let plan = plan();
        let engine = Engine::new(Arc::clone(&plan), Epoch(1), Lsn(1), &[], 1 << 20);
        let worker = Worker::new(engine, Garbage::in_place(), Duration::ZERO);
        Run { plan, worker, now: Duration::ZERO, lsn: 1, requests: Vec::new() }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.worker.pass(self.now);
        self.requests.extend(self.worker.requests());
        self.worker.wake();
    }

    fn open(&mut self, session: u64, user: &str) {
        let opening = Opening {
            session: SessionId(session),
            claims: self.plan.resolve_claims(user, &Map::new()),
            client: Some(format!("client-{session}").into()),
            not_before: None,
            cursor: None,
            subscriptions: Vec::new(),
        };
        let arrival = EngineArrival::Open(opening, SendQueue::new(1 << 20, Some(0)));
        self.worker.take(arrival, self.now);
    }

    fn close(&mut self, session: u64) {
        self.worker.take(EngineArrival::Close(SessionId(session)), self.now);
    }

    /// Answers what was asked for first, if something was.
    fn answer(&mut self, fails: bool) {
        if self.requests.is_empty() {
            return;
        }
        match self.requests.remove(0) {
            EngineRequest::Load(load) => {
                let rows = load.topics.iter().map(|_| Some(std::iter::empty().collect()));
                let loaded = Loaded {
                    snapshot: TransactionSnapshot::new(1_000_000, Vec::new()),
                    position: Lsn(self.lsn),
                    rows: rows.collect(),
                };
                let loaded = (!fails).then_some(loaded);
                self.worker.take(EngineArrival::Loaded(load.id, loaded), self.now);
            }
            EngineRequest::History(request) => {
                self.worker.take(EngineArrival::History(request.id, None), self.now);
            }
        }
    }

    fn row(&self, id: &str, owner: &str) -> Arc<Row> {
        let encoder = RowEncoder::new(&self.plan, TableId(0), &["id", "owner"]).unwrap();
        let datums = [Datum::Text(id.as_bytes()), Datum::Text(owner.as_bytes())];
        Arc::new(encoder.row(&datums).unwrap())
    }

    /// The feed brings a new row.
    fn insert(&mut self, owner: &str) {
        self.lsn += 1;
        let row = self.row(&format!("r{}", self.lsn), owner);
        let transaction = Transaction {
            lsn: Lsn(self.lsn),
            xid: 2_000_000 + self.lsn as u32,
            commit_time_us: 0,
            truncated: Vec::new(),
            changes: Changes::Rows(vec![Change { table: TableId(0), row: RowChange::Insert(row) }]),
            acknowledgements: Vec::new(),
        };
        let previous = Lsn(self.lsn - 1);
        let event = Event::Transaction { previous, transaction: Arc::new(transaction) };
        self.worker.follow(&[event], |_| None, self.now).unwrap();
    }

    /// All frames that a session has not taken.
    fn frames(&mut self, session: u64) -> Vec<String> {
        let plan = Arc::clone(&self.plan);
        let queue = self.worker.sink(SessionId(session)).unwrap();
        let frames = std::iter::from_fn(|| queue.next(&plan)).filter_map(|said| match said {
            Delivery::Frame(frame) => Some(String::from_utf8(frame.frame.text().to_vec()).unwrap()),
            Delivery::Begin(_) => None,
            Delivery::Closed(code, message) => panic!("{code:?}: {message}"),
        });
        frames.collect()
    }
}

#[test]
fn what_is_committed_comes_to_those_who_see_it_once_their_rows_are_loaded() {
    let mut run = Run::new();
    run.open(1, "ann");
    run.open(2, "bob");
    assert!(run.frames(1).is_empty());
    run.pass(Duration::ZERO);
    let [EngineRequest::Load(load)] = &run.requests[..] else { panic!("{:?}", run.requests) };
    assert_eq!(load.topics.len(), 2, "one load for both");
    run.insert("ann");
    run.answer(false);
    let (ann, bob) = (run.frames(1), run.frames(2));
    assert!(ann.iter().any(|frame| frame.contains("\"r2\"")), "{ann:?}");
    assert!(bob.iter().any(|frame| frame.contains("\"ready\"")), "{bob:?}");
    run.insert("bob");
    let (ann, bob) = (run.frames(1), run.frames(2));
    assert!(ann.is_empty() && bob.len() == 1 && bob[0].contains("\"r3\""), "{ann:?} {bob:?}");
}

#[test]
fn loads_are_asked_one_at_a_time_at_once_for_a_few_and_collected_longer_for_a_crowd_that_takes_longer()
 {
    let mut run = Run::new();
    run.open(1, "ann");
    run.pass(Duration::ZERO);
    assert_eq!(run.requests.len(), 1, "whoever comes alone is served at once");
    for session in 2..20 {
        run.open(session, &format!("user-{session}"));
    }
    run.pass(Duration::from_millis(20));
    assert_eq!(run.requests.len(), 1, "one is under way");
    run.answer(false);
    run.pass(Duration::ZERO);
    let [EngineRequest::Load(load)] = &run.requests[..] else { panic!("{:?}", run.requests) };
    assert!(load.topics.len() > FEW_TOPICS, "one for all who came meanwhile");
    run.pass(Duration::from_millis(20));
    run.answer(false);
    run.open(20, "bob");
    run.pass(Duration::from_millis(39));
    assert!(run.requests.is_empty(), "more may come");
    run.pass(Duration::from_millis(1));
    assert_eq!(run.requests.len(), 1, "twice as long as the load before took");
}

/// Whatever the order in which sessions come and go, loads arrive or fail, rows change and time passes: when all have
/// gone nothing of them is left.
#[test]
fn views_topics_and_queues_come_back_to_nothing() {
    for seed in 0..1_000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut run = Run::new();
        let (mut open, mut next) = (Vec::new(), 0);
        for _ in 0..rng.random_range(1..80) {
            match rng.random_range(0..7) {
                0..=2 => {
                    next += 1;
                    run.open(next, ["ann", "bob", "cleo"][rng.random_range(0..3)]);
                    open.push(next);
                    if rng.random_bool(0.3) {
                        // At once.
                        run.close(next);
                        open.pop();
                    }
                }
                3 if !open.is_empty() => {
                    let at = rng.random_range(0..open.len());
                    run.close(open.swap_remove(at));
                }
                4 => run.answer(rng.random_bool(0.2)),
                5 => run.insert(["ann", "bob", "cleo"][rng.random_range(0..3)]),
                _ => run.pass(Duration::from_millis(rng.random_range(0..1500))),
            }
        }
        open.into_iter().for_each(|session| run.close(session));
        for _ in 0..5 {
            run.pass(Duration::from_secs(1));
            run.answer(false);
        }
        run.pass(Duration::from_secs(1));
        assert!(run.worker.sinks.is_empty(), "seed {seed}: send queues");
        assert_eq!(run.worker.counts(), Counts::default(), "seed {seed}");
        assert_eq!(run.worker.engine().counts(), Counts::default(), "seed {seed}");
    }
}

#[test]
fn whoever_is_there_when_it_ends_is_told() {
    #[derive(Clone, Default)]
    struct Ends(std::rc::Rc<std::cell::Cell<u32>>);
    impl Sink for Ends {
        fn push(&mut self, _: Item) -> bool {
            false
        }
        fn close(&mut self, code: ErrorCode, _: &str) {
            assert_eq!(code, ErrorCode::Restarting);
            self.0.set(self.0.get() + 1);
        }
        fn wake(&self) {}
    }
    let plan = plan();
    let engine = Engine::new(Arc::clone(&plan), Epoch(1), Lsn(1), &[], 1 << 20);
    let mut worker = Worker::new(engine, Garbage::in_place(), Duration::ZERO);
    let ends = Ends::default();
    for session in [1, 2, 3].map(SessionId) {
        let claims = plan.resolve_claims("ann", &Map::new());
        let opening = Opening {
            session,
            claims,
            client: None,
            not_before: None,
            cursor: None,
            subscriptions: Vec::new(),
        };
        worker.take(EngineArrival::Open(opening, ends.clone()), Duration::ZERO);
    }
    worker.take(EngineArrival::Close(SessionId(2)), Duration::ZERO);
    drop(worker);
    assert_eq!(ends.0.get(), 2);
}
