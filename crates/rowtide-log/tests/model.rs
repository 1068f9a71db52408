//! The log against a plain list of transactions: whatever is appended, brought again, pruned, torn
//! off or opened again, the history of any topics from any position is what the list says, and a replay
//! from any position brings what was appended, event by event.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kit::{
    TABLES, TestDir, all_topics, begun, end, events, history, identity, oldest, transaction,
};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rowtide_feed::{
    Change, Changes, Event, Fingerprint, Follower, HistoryQuery, Taken, Transaction,
};
use rowtide_log::rules::{LogEnd, LogSelection, Replay};
use rowtide_log::{
    Began, Committed, HistoryError, Log, LogIdentity, LogOptions, LogReader, Opened,
};
use rowtide_protocol::Lsn;

const SEEDS: u64 = 40;
const STEPS: usize = 60;

/// What the log must hold.
struct Model {
    random: SmallRng,
    dir: TestDir,
    options: LogOptions,
    /// `None` only while it is opened again.
    open: Option<(Log, LogReader)>,
    transactions: Vec<Arc<Transaction>>,
    /// Where tables had more columns.
    reshaped: Vec<Event>,
    /// How often, since the beginning: what the log is of.
    shapes: u8,
    /// Where appends have ended, the newest last: a torn tail ends at one of them.
    ends: Vec<End>,
    now_us: i64,
}

/// Where an append has ended, with the position behind the last transaction, if there is one.
#[derive(Clone)]
struct End {
    lsn: Lsn,
    position: Option<Event>,
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut random = SmallRng::seed_from_u64(seed);
        let dir = TestDir::new("model");
        let retention = Duration::from_secs(random.random_range(50..500));
        let max_bytes = *[400_000, 2_000_000, 1 << 30].choose(&mut random).unwrap();
        let options = LogOptions { dir: dir.0.join("log"), retention, max_bytes };
        let opened = Log::open(options.clone(), identity()).unwrap();
        assert_eq!(opened.began, Began::New);
        let Opened { log, reader, .. } = begun(opened, identity());
        let open = Some((log, reader));
        let ends = vec![End { lsn: Lsn(0), position: None }];
        let (transactions, reshaped) = (Vec::new(), Vec::new());
        Model { random, dir, options, open, transactions, reshaped, shapes: 0, ends, now_us: 0 }
    }

    fn log(&mut self) -> &mut Log {
        &mut self.open.as_mut().unwrap().0
    }

    fn end(&self) -> &End {
        &self.ends[self.ends.len() - 1]
    }

    fn append(&mut self) {
        // What was delivered before comes again, with what was said of positions then.
        let all = self.links();
        let again = self.random.random_range(0..3).min(all.len());
        let mut group = all[all.len() - again..].to_vec();
        group.extend(self.end().position.clone());
        let mut last = self.last_link();
        let mut end = self.end().clone();
        for _ in 0..self.random.random_range(0..30) {
            self.now_us += self.random.random_range(0..200_000);
            match self.random.random_range(0..20) {
                0 => group.push(Event::StreamBegan { wal_end: end.lsn }),
                1 | 2 => {
                    let lsn = Lsn(end.lsn.0 + self.random.random_range(0..50));
                    let position = Event::Position { previous: last, lsn, time_us: self.now_us };
                    group.push(position.clone());
                    if lsn > end.lsn {
                        end = End { lsn, position: Some(position) };
                    }
                }
                _ => {
                    let next = transaction(&mut self.random, end.lsn, self.now_us);
                    group.extend(events(last, std::slice::from_ref(&next)));
                    end = End { lsn: next.lsn, position: None };
                    last = next.lsn;
                    self.transactions.push(next);
                }
            }
        }
        self.log().append(&group).unwrap();
        self.ends.push(end);
    }

    /// Tables have more columns from here on.
    fn reshape(&mut self) {
        let lsn = Lsn(self.end().lsn.0 + 1);
        let table = *TABLES.choose(&mut self.random).unwrap();
        let (previous, plan) = (self.last_link(), Fingerprint([self.random.random(); 32]));
        let event = Event::Reshaped { previous, lsn, plan, tables: vec![table] };
        self.shapes += 1;
        let of = self.identity();
        self.log().reshape(of.clone(), &event).unwrap();
        // It may come again.
        self.log().reshape(of, &event).unwrap();
        self.reshaped.push(event);
        self.ends.push(End { lsn, position: None });
    }

    fn identity(&self) -> LogIdentity {
        of_shapes(self.shapes)
    }

    /// Transactions, and what is told between them, in order.
    fn links(&self) -> Vec<Event> {
        let mut all = self.reshaped.clone();
        let transactions = self.transactions.iter().cloned();
        all.extend(
            transactions.map(|transaction| Event::Transaction { previous: Lsn(0), transaction }),
        );
        all.sort_by_key(Event::lsn);
        let mut last = Lsn(0);
        for event in &mut all {
            if let Event::Transaction { previous, .. } = event {
                *previous = last;
            }
            last = event.lsn().unwrap();
        }
        all
    }

    fn last_link(&self) -> Lsn {
        let last = self.transactions.last().map(|last| last.lsn);
        last.max(self.reshaped.last().and_then(Event::lsn)).unwrap_or(Lsn(0))
    }

    fn prune(&mut self) {
        let now = UNIX_EPOCH + Duration::from_micros(self.now_us as u64);
        self.log().prune(now).unwrap();
        let kept_us = self.now_us - self.options.retention.as_micros() as i64;
        let (max_bytes, (log, reader)) = (self.options.max_bytes, self.open.as_ref().unwrap());
        let statistics = reader.statistics().unwrap();
        let pruned = self.transactions.iter().filter(|transaction| transaction.lsn <= oldest(log));
        let too_early = pruned.filter(|transaction| transaction.commit_time_us >= kept_us).count();
        // Before its time only for the size, and the one that is written is never pruned.
        assert!(too_early == 0 || statistics.bytes > max_bytes / 2, "{statistics:?}");
    }

    /// As after `kill -9`: the files as they are now, opened elsewhere. With `torn`, the end of the
    /// write-ahead log is missing or was never written.
    fn crash(&mut self, torn: bool) {
        let epoch = self.log().epoch();
        let oldest_before = oldest(self.log());
        let copy = self.dir.0.join(format!("copy-{:x}", self.random.random::<u64>()));
        copy_dir(&self.options.dir, &copy);
        if torn {
            tear(&mut self.random, &copy);
        }
        self.open = None;
        self.options.dir = copy;
        // What a torn log is of has to be found out: the last one that it can be.
        let shapes = if torn { self.shapes_of(&self.options) } else { self.shapes };
        self.shapes = shapes;
        let of = self.identity();
        let opened = Log::open(self.options.clone(), of.clone()).unwrap();
        assert_eq!((&opened.began, opened.log.epoch()), (&Began::Continued, epoch));
        let Opened { log, reader, .. } = begun(opened, of);
        assert_eq!(oldest(&log), oldest_before);
        let end = end(&log);
        if torn {
            let whole = self.ends.iter().any(|earlier| earlier.lsn == end);
            assert!(whole, "torn within an append: {end}");
            self.ends.retain(|earlier| earlier.lsn <= end);
            self.transactions.retain(|transaction| transaction.lsn <= end);
            self.reshaped.retain(|event| event.lsn() <= Some(end));
            assert_eq!(self.reshaped.len(), usize::from(self.shapes), "both or neither");
        }
        self.open = Some((log, reader));
    }

    /// How often the log in a directory was reshaped: a copy of it opens as that.
    fn shapes_of(&self, options: &LogOptions) -> u8 {
        let fits = |shapes: &u8| {
            let copy = self.dir.0.join(format!("look-{shapes}"));
            copy_dir(&options.dir, &copy);
            let of = of_shapes(*shapes);
            let options = LogOptions { dir: copy.clone(), ..options.clone() };
            let opened = Log::open(options, of).unwrap();
            let fits = opened.began == Began::Continued;
            drop(opened);
            fs::remove_dir_all(copy).unwrap();
            fits
        };
        (0..=self.shapes).rev().find(fits).expect("it is one that it was")
    }

    fn reopen(&mut self) {
        let epoch = self.log().epoch();
        self.open = None;
        let of = self.identity();
        let opened = Log::open(self.options.clone(), of.clone()).unwrap();
        assert_eq!((&opened.began, opened.log.epoch()), (&Began::Continued, epoch));
        let Opened { log, reader, .. } = begun(opened, of);
        self.open = Some((log, reader));
    }

    fn check(&mut self) {
        let (log, reader) = self.open.as_ref().unwrap();
        assert_eq!(end(log), self.end().lsn);
        let last = self.last_link();
        assert_eq!(reader.last_transaction(), Some(last));
        let oldest = oldest(log);
        let topics: Vec<_> = {
            let count = self.random.random_range(0..5);
            all_topics().choose_multiple(&mut self.random, count).cloned().collect()
        };
        let tables = &TABLES[..self.random.random_range(0..TABLES.len())];
        let places: Vec<Lsn> =
            self.transactions.iter().map(|transaction| transaction.lsn).collect();
        let mut place = || {
            let near = places.choose(&mut self.random).copied().unwrap_or(Lsn(1));
            Lsn(near.0.saturating_add_signed(self.random.random_range(-1..=1)))
        };
        let (after, up_to) = (place(), place().max(place()));
        let selected = history(reader, &topics, tables, after, up_to, usize::MAX);
        if after < oldest {
            assert!(matches!(selected, Err(HistoryError::TooOld)), "{selected:?}");
            let replay = reader.replay(after, usize::MAX);
            assert!(matches!(replay, Err(HistoryError::TooOld)), "{replay:?}");
            return;
        }
        let max_bytes = self.random.random_range(1..100_000);
        self.check_replay(after, max_bytes);
        let selected = selected.unwrap();
        let range = || {
            let all = self.transactions.iter();
            all.filter(move |transaction| transaction.lsn > after && transaction.lsn <= up_to)
        };
        let mut expected = Vec::new();
        let (mut interrupted, mut reshaped) = (Vec::new(), Vec::new());
        for transaction in range() {
            interrupted.extend(&transaction.truncated);
            match &transaction.changes {
                Changes::TooLarge(tables) => interrupted.extend(tables),
                Changes::Rows(changes) => {
                    let concerned = changes.iter().filter(|change| {
                        let of = |topic| topics_of(change).any(|other| other == topic);
                        topics.iter().any(of)
                    });
                    expected.extend(concerned.map(|change| (transaction.lsn, change.clone())));
                }
            }
        }
        for event in &self.reshaped {
            if let Event::Reshaped { lsn, tables, .. } = event
                && *lsn > after
                && *lsn <= up_to
            {
                reshaped.extend(tables);
            }
        }
        for of_these in [&mut interrupted, &mut reshaped] {
            of_these.retain(|table| tables.contains(table));
            of_these.sort_unstable();
            of_these.dedup();
        }
        assert_eq!(selected.changes, expected);
        assert_eq!(selected.interrupted, interrupted);
        assert_eq!(selected.reshaped, reshaped);
        let query = HistoryQuery { topics: topics.clone(), tables: tables.into(), after, up_to };
        let mut selection = LogSelection::new(&query, oldest, self.end().lsn).unwrap();
        self.events().iter().for_each(|event| selection.event(event));
        assert_eq!(selection.done(), selected, "by the rules alone");
        if let Some(fewer) = expected.len().checked_sub(1) {
            let limited = history(reader, &topics, tables, after, up_to, fewer);
            assert!(matches!(limited, Err(HistoryError::TooMuch)), "{limited:?}");
        }

        let committed = |transaction: &Arc<Transaction>| Committed {
            lsn: transaction.lsn,
            xid: transaction.xid,
            commit_time_us: transaction.commit_time_us,
        };
        let transactions = reader.transactions(after, up_to).unwrap();
        assert_eq!(transactions, range().map(committed).collect::<Vec<_>>());

        let mut left = self.random.random_range(0..100_usize);
        let tail = reader.tail(left).unwrap();
        let newest_first = self.transactions.iter().rev();
        let mut last: Vec<_> = newest_first
            .cloned()
            .take_while(|transaction| transaction.lsn > oldest && weight(transaction, &mut left))
            .collect();
        last.reverse();
        for event in &self.reshaped {
            let Event::Reshaped { lsn, tables, .. } = event else { continue };
            for before in last.iter_mut().filter(|before| before.lsn < *lsn) {
                if let Some(without) = before.without_rows_of(tables) {
                    *before = Arc::new(without);
                }
            }
        }
        assert_eq!(tail, last);
    }
}

impl Model {
    /// All that the log ever had, as a fold over it would find it.
    fn events(&self) -> Vec<Event> {
        let mut all = self.links();
        all.extend(self.end().position.clone());
        all
    }

    /// All that is behind `after`, in pieces of about `max_bytes`, each of which follows the one before.
    fn check_replay(&self, after: Lsn, max_bytes: usize) {
        let (_, reader) = self.open.as_ref().unwrap();
        let mut expected = self.events();
        let mut end = LogEnd::at(Lsn(0));
        let mut by_rules = Replay::new(after, Lsn(0), max_bytes).unwrap();
        for event in &expected {
            assert_eq!(end.take(event), Taken::Next);
            let is_link = matches!(event, Event::Transaction { .. } | Event::Reshaped { .. });
            if is_link && by_rules.has_room() {
                by_rules.transaction(event.clone());
            }
        }
        assert_eq!(reader.replay(after, max_bytes).unwrap(), by_rules.done(&end));
        expected.retain(|event| event.lsn() > Some(after));
        let mut follower = Follower::at(after);
        let mut replayed = Vec::new();
        loop {
            let piece = reader.replay(follower.position(), max_bytes).unwrap();
            if piece.is_empty() {
                break;
            }
            assert!(piece.iter().all(|event| follower.take(event) == Taken::Next));
            let transactions: Vec<usize> = piece
                .iter()
                .filter(|event| matches!(event, Event::Transaction { .. }))
                .map(Event::bytes)
                .collect();
            let but_last = &transactions[..transactions.len().saturating_sub(1)];
            assert!(but_last.iter().sum::<usize>() < max_bytes);
            replayed.extend(piece);
        }
        assert_eq!(replayed, expected);
    }
}

/// What a log is of that was reshaped so often.
fn of_shapes(shapes: u8) -> LogIdentity {
    let identity = identity();
    LogIdentity { timeline: identity.timeline + u32::from(shapes), ..identity }
}

fn topics_of(change: &Change) -> impl Iterator<Item = &rowtide_plan::row::Topic> {
    change.topics()
}

fn weight(transaction: &Transaction, left: &mut usize) -> bool {
    let weight = match &transaction.changes {
        Changes::Rows(changes) => changes.len().max(1),
        Changes::TooLarge(_) => 1,
    };
    let fits = left.checked_sub(weight);
    *left = fits.unwrap_or(0);
    fits.is_some()
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The newest segment's write-ahead log, if there is something in it.
fn newest_wal(dir: &Path) -> Option<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let wals = paths.filter(|path| path.to_string_lossy().ends_with(".segment-wal"));
    wals.max().filter(|wal| fs::metadata(wal).unwrap().len() > 0)
}

fn tear(random: &mut SmallRng, dir: &Path) {
    let Some(wal) = newest_wal(dir) else { return };
    let mut bytes = fs::read(&wal).unwrap();
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..3) {
        0 => bytes.truncate(at),
        1 => bytes[at..].fill(0),
        _ => random.fill(&mut bytes[at..]),
    }
    fs::write(&wal, bytes).unwrap();
}

#[test]
fn history_is_what_was_appended_whatever_happens_in_between() {
    for seed in 0..SEEDS {
        let run = std::panic::AssertUnwindSafe(|| {
            let mut model = Model::new(seed);
            for _ in 0..STEPS {
                match model.random.random_range(0..20) {
                    0..11 => model.append(),
                    11 => model.reshape(),
                    12..14 => model.prune(),
                    14 => model.reopen(),
                    15 => model.crash(false),
                    16 => model.crash(true),
                    _ => {}
                }
                model.check();
            }
        });
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn pruning_by_the_clock_leaves_nothing_that_is_older() {
    let dir = TestDir::new("prune");
    let Opened { mut log, reader, .. } = kit::open(&dir.0);
    let mut random = SmallRng::seed_from_u64(1);
    let first = transaction(&mut random, Lsn(0), 1_000_000);
    kit::append(&mut log, &reader, &[Arc::clone(&first)]);
    log.prune(SystemTime::now()).unwrap();
    assert_eq!((oldest(&log), end(&log)), (first.lsn, first.lsn));
    assert_eq!(reader.statistics().unwrap().oldest_us, None);
    let left = history(&reader, &all_topics(), &TABLES, first.lsn, Lsn(u64::MAX), 10).unwrap();
    assert!(left.changes.is_empty());
}

/// The index in memory moves into the database under the readers several times.
#[test]
fn readers_see_all_of_what_was_appended_while_more_is() {
    let dir = TestDir::new("readers");
    let Opened { mut log, reader, .. } = kit::open(&dir.0);
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut random = SmallRng::seed_from_u64(2);
    let mut transactions = Vec::new();
    let topics = all_topics();
    let changes_of = |reader: &LogReader, up_to| {
        let all = history(reader, &topics, &[], Lsn(0), up_to, usize::MAX).unwrap();
        all.changes.iter().map(|(lsn, change)| (*lsn, change.table)).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut seen, mut looks) = (Vec::new(), 0);
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let now = changes_of(&reader, Lsn(u64::MAX));
                        assert!(now.starts_with(&seen), "what was seen once is seen again");
                        (seen, looks) = (now, looks + 1);
                    }
                    looks
                })
            })
            .collect();
        for _ in 0..100 {
            let mut group = Vec::new();
            for _ in 0..120 {
                let after = transactions.last().map_or(Lsn(0), |last: &Arc<Transaction>| last.lsn);
                let next = transaction(&mut random, after, 0);
                transactions.push(Arc::clone(&next));
                group.push(next);
            }
            kit::append(&mut log, &reader, &group);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    let expected: Vec<_> = transactions
        .iter()
        .flat_map(|transaction| match &transaction.changes {
            Changes::Rows(changes) => {
                changes.iter().map(|change| (transaction.lsn, change)).collect()
            }
            Changes::TooLarge(_) => Vec::new(),
        })
        .filter(|(_, change)| topics_of(change).next().is_some())
        .map(|(lsn, change)| (lsn, change.table))
        .collect();
    assert!(expected.len() > 20_000);
    assert_eq!(changes_of(&reader, Lsn(u64::MAX)), expected);
    drop((log, reader));
    assert_eq!(changes_of(&kit::open(&dir.0).reader, Lsn(u64::MAX)), expected);
}
