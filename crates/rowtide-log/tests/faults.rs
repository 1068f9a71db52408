//! What the log does when the disk is full, when another process has it, and when what lies in its
//! directory is not what it should be.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use kit::{
    TABLES, TestDir, all_topics, append, begun, end, events, history, identity, oldest, options,
    transaction,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rowtide_feed::{Event, Transaction};
use rowtide_log::rules::{Gap, Replaced};
use rowtide_log::{Began, HistoryError, Log, LogError, LogIdentity, LogReader, Opened};
use rowtide_protocol::Lsn;

fn some_transactions(seed: u64, after: Lsn, count: usize) -> Vec<Arc<Transaction>> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut end = after;
    let mut next = |index| {
        let next = transaction(&mut random, end, index as i64 * 1_000);
        end = next.lsn;
        next
    };
    (0..count).map(&mut next).collect()
}

fn last_of(transactions: &[Arc<Transaction>]) -> Lsn {
    transactions[transactions.len() - 1].lsn
}

fn lsns(reader: &LogReader, after: Lsn) -> Vec<Lsn> {
    let committed = reader.transactions(after, Lsn(u64::MAX)).unwrap();
    committed.into_iter().map(|committed| committed.lsn).collect()
}

fn lsns_of(transactions: &[Arc<Transaction>]) -> Vec<Lsn> {
    transactions.iter().map(|transaction| transaction.lsn).collect()
}

/// A log with one segment for each of `count` groups.
fn in_segments(dir: &Path, count: usize) -> Vec<Vec<Arc<Transaction>>> {
    let mut options = options(dir);
    options.max_bytes = 1 << 20;
    let Opened { mut log, reader, .. } = begun(Log::open(options, identity()).unwrap(), identity());
    let mut groups = Vec::new();
    while segments(dir).len() < count {
        let group = some_transactions(groups.len() as u64, end(&log), 200);
        append(&mut log, &reader, &group);
        groups.push(group);
    }
    groups
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_segment =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "segment");
    let mut segments: Vec<PathBuf> = paths.filter(is_segment).collect();
    segments.sort();
    segments
}

fn replaced(dir: &Path, identity: LogIdentity) -> Replaced {
    let Opened { log, began, .. } = Log::open(options(dir), identity).unwrap();
    assert_eq!(log.extent(), None, "nothing has begun");
    assert_eq!(segments(dir).len(), 1, "nothing is left of the old one");
    let Began::Replaced(why) = began else { panic!("{began:?}") };
    why
}

#[test]
fn a_log_goes_on_where_it_ended_with_its_epoch() {
    let dir = TestDir::new("goes-on");
    let transactions = some_transactions(1, Lsn(0), 20);
    let mut opened = kit::open(&dir.0);
    assert_eq!(opened.began, Began::New);
    append(&mut opened.log, &opened.reader, &transactions);
    let epoch = opened.log.epoch();
    drop(opened);
    let Opened { log, reader, began, .. } = kit::open(&dir.0);
    assert_eq!((began, log.epoch(), reader.epoch()), (Began::Continued, epoch, epoch));
    assert_eq!(end(&log), last_of(&transactions));
    assert_eq!(lsns(&reader, Lsn(0)), lsns_of(&transactions));
}

#[test]
fn a_note_is_found_again_in_the_epoch_that_it_is_of() {
    let dir = TestDir::new("note");
    let mut opened = kit::open(&dir.0);
    assert_eq!(opened.note, None);
    opened.log.note("one\nof two lines").unwrap();
    opened.log.note("another\n").unwrap();
    drop(opened);
    // What was left half-made is nothing.
    std::fs::write(dir.0.join("note.new"), "half").unwrap();
    let mut opened = kit::open(&dir.0);
    assert_eq!(opened.note.as_deref(), Some("another\n"));
    opened.log.begin_epoch(identity(), Lsn(10)).unwrap();
    drop(opened);
    let mut opened = kit::open(&dir.0);
    assert_eq!(opened.note, None, "it is of another epoch");
    opened.log.note("").unwrap();
    drop(opened);
    assert_eq!(kit::open(&dir.0).note.as_deref(), Some(""));
}

#[test]
fn a_log_of_something_else_is_replaced() {
    let others = [
        LogIdentity { plan: [8; 32], ..identity() },
        LogIdentity { system: 43, ..identity() },
        LogIdentity { timeline: 2, ..identity() },
        LogIdentity { database: 6, ..identity() },
        LogIdentity { slot: "other".into(), ..identity() },
    ];
    for other in others {
        let dir = TestDir::new("identity");
        let mut opened = kit::open(&dir.0);
        append(&mut opened.log, &opened.reader, &some_transactions(1, Lsn(0), 5));
        let epoch = opened.log.epoch();
        drop(opened);
        assert_eq!(replaced(&dir.0, other.clone()), Replaced::OtherIdentity);
        let opened = Log::open(options(&dir.0), other).unwrap();
        assert_eq!(opened.began, Began::Continued);
        assert_ne!(opened.log.epoch(), epoch);
    }
}

#[test]
fn a_new_epoch_leaves_nothing_of_the_old_one_and_outlives_a_restart() {
    let dir = TestDir::new("epoch");
    let Opened { mut log, reader, .. } = kit::open(&dir.0);
    append(&mut log, &reader, &some_transactions(1, Lsn(0), 50));
    let old = log.epoch();
    // Also backwards: the database may have been restored.
    log.begin_epoch(identity(), Lsn(10)).unwrap();
    let epoch = log.epoch();
    assert_ne!(epoch, old);
    assert_eq!((oldest(&log), end(&log), reader.epoch()), (Lsn(10), Lsn(10), epoch));
    assert_eq!(lsns(&reader, Lsn(10)), []);
    let transactions = some_transactions(2, Lsn(10), 5);
    append(&mut log, &reader, &transactions);
    drop((log, reader));
    let Opened { log, reader, began, .. } = kit::open(&dir.0);
    assert_eq!((began, log.epoch(), oldest(&log)), (Began::Continued, epoch, Lsn(10)));
    assert_eq!(lsns(&reader, Lsn(10)), lsns_of(&transactions));
}

/// A log that an earlier version has written does not say how many columns tables had, and says it once this one has it.
#[test]
fn a_log_learns_how_many_columns_tables_have() {
    let dir = TestDir::new("columns");
    let Opened { mut log, reader, .. } = kit::open(&dir.0);
    append(&mut log, &reader, &some_transactions(1, Lsn(0), 5));
    let epoch = log.epoch();
    drop((log, reader));
    let forget = || {
        for entry in std::fs::read_dir(&dir.0).unwrap() {
            let path = entry.unwrap().path();
            if std::fs::read(&path).unwrap().starts_with(b"SQLite") {
                let segment = rusqlite::Connection::open(path).unwrap();
                segment.execute("DROP TABLE columns", []).unwrap();
            }
        }
    };
    let grown = LogIdentity { plan: [8; 32], columns: vec![4], ..identity() };
    forget();
    let Opened { log, .. } = Log::open(options(&dir.0), identity()).unwrap();
    assert_eq!(log.epoch(), epoch);
    drop(log);
    let Opened { log, began, .. } = Log::open(options(&dir.0), grown.clone()).unwrap();
    assert_eq!((began, log.epoch(), log.identity()), (Began::Continued, epoch, &identity()));
    drop(log);
    forget();
    let Opened { log, began, .. } = Log::open(options(&dir.0), grown.clone()).unwrap();
    assert!(matches!(began, Began::Replaced(_)), "{began:?}");
    assert_eq!(log.identity(), &grown);
}

/// That nothing has begun is no position: nothing is appended to it, nothing is read of it, and so it is opened again.
#[test]
fn an_ended_log_has_no_position_until_it_begins_anew() {
    let dir = TestDir::new("ended");
    let Opened { mut log, reader, .. } = kit::open(&dir.0);
    append(&mut log, &reader, &some_transactions(1, Lsn(0), 5));
    log.end_epoch(identity()).unwrap();
    let epoch = log.epoch();
    let nothing = |log: &mut Log, reader: &LogReader| {
        assert_eq!((log.extent(), reader.last_transaction()), (None, None));
        for events in [&[position(0, 7)][..], &events(Lsn(0), &some_transactions(2, Lsn(0), 1))] {
            let appended = log.append(events);
            assert!(matches!(appended, Err(LogError::NotBegun(_))), "{appended:?}");
        }
        let replay = reader.replay(Lsn(0), usize::MAX);
        assert!(matches!(replay, Err(HistoryError::TooOld)), "{replay:?}");
        let asked = history(reader, &all_topics(), &TABLES, Lsn(0), Lsn(u64::MAX), usize::MAX);
        assert!(matches!(asked, Err(HistoryError::TooOld)), "{asked:?}");
        assert_eq!(reader.tail(usize::MAX).unwrap(), []);
    };
    nothing(&mut log, &reader);
    drop((log, reader));
    let Opened { mut log, reader, began, .. } = Log::open(options(&dir.0), identity()).unwrap();
    assert_eq!((began, log.epoch()), (Began::Continued, epoch));
    nothing(&mut log, &reader);
    log.begin_epoch(identity(), Lsn(10)).unwrap();
    append(&mut log, &reader, &some_transactions(3, Lsn(10), 5));
    drop((log, reader));
    let Opened { log, .. } = Log::open(options(&dir.0), identity()).unwrap();
    assert_eq!(oldest(&log), Lsn(10));
}

#[test]
fn a_log_that_cannot_be_read_is_replaced() {
    for (name, spoil) in [
        ("garbage", (|bytes: &mut Vec<u8>| bytes.fill(0x5a)) as fn(&mut Vec<u8>)),
        ("empty", |bytes| bytes.clear()),
        ("cut", |bytes| bytes.truncate(5_000)),
        ("zeros", |bytes| bytes[100..].fill(0)),
    ] {
        let dir = TestDir::new(name);
        let mut opened = kit::open(&dir.0);
        append(&mut opened.log, &opened.reader, &some_transactions(1, Lsn(0), 50));
        drop(opened);
        let newest = segments(&dir.0).pop().unwrap();
        let mut bytes = fs::read(&newest).unwrap();
        spoil(&mut bytes);
        fs::write(&newest, bytes).unwrap();
        let why = replaced(&dir.0, identity());
        let is_damaged = matches!(why, Replaced::Damaged(_) | Replaced::OtherVersion);
        assert!(is_damaged, "{name}: {why}");
    }
}

#[test]
fn what_is_behind_damage_is_kept() {
    let dir = TestDir::new("shortened");
    let groups = in_segments(&dir.0, 4);
    let damaged = &segments(&dir.0)[1];
    fs::write(damaged, [0x5a; 5_000]).unwrap();
    let Opened { log, reader, began, .. } = kit::open(&dir.0);
    assert!(matches!(began, Began::Shortened(_)), "{began:?}");
    let all: Vec<Lsn> = groups.iter().flat_map(|group| lsns_of(group)).collect();
    let kept = lsns(&reader, oldest(&log));
    assert!(!kept.is_empty() && all.ends_with(&kept));
    assert_eq!(segments(&dir.0).len(), 2, "what lies before the damage is of no use");
    drop((log, reader));
    assert_eq!(kit::open(&dir.0).began, Began::Continued);
}

#[test]
fn a_missing_segment_ends_the_history_before_it() {
    let dir = TestDir::new("missing");
    in_segments(&dir.0, 4);
    fs::remove_file(&segments(&dir.0)[2]).unwrap();
    let Opened { began, .. } = kit::open(&dir.0);
    assert_eq!(began, Began::Shortened("a part of it is missing".into()));
}

/// Bytes that went bad under a log that is open, or that no check at the start looks at: whatever
/// they are, reading gives what was written, or an error.
#[test]
fn damaged_records_are_never_taken_for_rows() {
    let mut random = SmallRng::seed_from_u64(4);
    let mut found = 0;
    for _ in 0..60 {
        let dir = TestDir::new("bytes");
        let transactions = some_transactions(random.random(), Lsn(0), 60);
        let mut opened = kit::open(&dir.0);
        append(&mut opened.log, &opened.reader, &transactions);
        drop(opened);
        let newest = segments(&dir.0).pop().unwrap();
        let mut bytes = fs::read(&newest).unwrap();
        // Into the text of records, where SQLite's own structure is not hurt.
        let text: Vec<usize> =
            (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"xxxx")).collect();
        let at = text[random.random_range(0..text.len())];
        bytes[at] = b'y';
        fs::write(&newest, bytes).unwrap();
        let Opened { reader, began, .. } = kit::open(&dir.0);
        match began {
            Began::Replaced(why) => assert!(matches!(why, Replaced::Damaged(_)), "{why}"),
            _ => match reader.tail(usize::MAX) {
                Err(error) => assert!(matches!(error, HistoryError::Damaged(_)), "{error}"),
                // The byte was in a page that is not in use.
                Ok(tail) => {
                    assert_eq!(format!("{tail:?}"), format!("{transactions:?}"));
                    continue;
                }
            },
        }
        found += 1;
    }
    assert!(found > 30, "{found} of 60 were in use");
}

/// Run by the tests below as a process of its own: opens the log, says so, and waits to be killed.
#[test]
fn holder() {
    let Ok(dir) = std::env::var("ROWTIDE_LOG_TEST_HOLDER") else { return };
    let mut opened = kit::open(Path::new(&dir));
    append(&mut opened.log, &opened.reader, &some_transactions(1, Lsn(0), 20));
    println!("\nholding");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn a_log_has_one_owner_until_it_is_killed() {
    let dir = TestDir::new("owner");
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder", "--nocapture"])
        .env("ROWTIDE_LOG_TEST_HOLDER", &dir.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let holding = lines.map_while(Result::ok).any(|line| line == "holding");
    assert!(holding);
    let locked = Log::open(options(&dir.0), identity());
    assert!(matches!(locked, Err(LogError::Locked(_))), "{locked:?}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    let Opened { reader, began, .. } = kit::open(&dir.0);
    assert_eq!(began, Began::Continued);
    assert_eq!(lsns(&reader, Lsn(0)), lsns_of(&some_transactions(1, Lsn(0), 20)));
}

/// A file system of its own that is soon full; unmounted when it is dropped.
struct SmallDisk(TestDir);

impl SmallDisk {
    fn mount() -> SmallDisk {
        let dir = TestDir::new("full");
        let mount = ["-t", "tmpfs", "-o", "size=12m", "tmpfs"];
        let mounted = Command::new("mount").args(mount).arg(&dir.0).status().unwrap();
        assert!(mounted.success());
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0.0).status());
    }
}

#[test]
fn a_full_disk_is_an_error_that_heals() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not shown: only root can mount a small disk");
        return;
    }
    let disk = SmallDisk::mount();
    let ballast = disk.0.0.join("ballast");
    fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let dir = disk.0.0.join("log");
    let mut options = options(&dir);
    // Small segments, so that the disk is also full when one is to be begun.
    options.max_bytes = 8 << 20;
    let Opened { mut log, reader, .. } = begun(Log::open(options, identity()).unwrap(), identity());
    let mut kept = Vec::new();
    let mut failed = 0;
    for seed in 0.. {
        let end_before = end(&log);
        let last = reader.last_transaction().unwrap();
        let group = some_transactions(seed, end_before, 100);
        let mut tries = 0;
        while let Err(error) = log.append(&events(last, &group)) {
            assert!(matches!(error, LogError::DiskFull(_)), "{error:?}");
            assert_eq!(end(&log), end_before);
            assert_eq!(lsns(&reader, Lsn(0)), kept, "the log is as it was");
            failed += 1;
            tries += 1;
            assert!(tries <= 3, "there is room and it does not heal");
            if tries == 3 {
                fs::remove_file(&ballast).unwrap();
            }
        }
        kept.extend(lsns_of(&group));
        if failed > 0 && seed % 10 == 0 {
            break;
        }
    }
    let all = |reader: &LogReader| {
        let end = Lsn(u64::MAX);
        history(reader, &all_topics(), &TABLES, Lsn(0), end, usize::MAX).unwrap().changes.len()
    };
    let changes = all(&reader);
    drop((log, reader));
    let Opened { reader, began, .. } = kit::open(&dir);
    assert_eq!(began, Began::Continued);
    assert_eq!(lsns(&reader, Lsn(0)), kept);
    assert_eq!(all(&reader), changes);
}

fn position(previous: u64, lsn: u64) -> Event {
    Event::Position { previous: Lsn(previous), lsn: Lsn(lsn), time_us: lsn as i64 + 7 }
}

#[test]
fn positions_are_kept_and_nothing_goes_back() {
    let dir = TestDir::new("positions");
    let Opened { mut log, reader, .. } = kit::open(&dir.0);
    log.append(&[position(0, 5_000)]).unwrap();
    log.append(&[position(0, 50)]).unwrap();
    // Behind the end: the stream has brought it before.
    append(&mut log, &reader, &some_transactions(1, Lsn(0), 1));
    assert_eq!((end(&log), reader.last_transaction().unwrap()), (Lsn(5_000), Lsn(0)));
    assert_eq!(lsns(&reader, Lsn(0)), []);
    assert_eq!(reader.replay(Lsn(0), 1).unwrap(), [position(0, 5_000)]);
    log.append(&[position(0, u64::MAX)]).unwrap();
    drop((log, reader));
    let Opened { log, reader, .. } = kit::open(&dir.0);
    assert_eq!((end(&log), reader.last_transaction().unwrap()), (Lsn(u64::MAX), Lsn(0)));
    assert_eq!(reader.replay(Lsn(7), 1).unwrap(), [position(0, u64::MAX)]);
}

#[test]
fn what_is_not_the_continuation_is_never_appended() {
    let dir = TestDir::new("gap");
    let Opened { mut log, reader, .. } = kit::open(&dir.0);
    let transactions = some_transactions(1, Lsn(0), 20);
    append(&mut log, &reader, &transactions[..5]);
    let last = transactions[4].lsn;
    let all = events(Lsn(0), &transactions);
    let gap = |log: &mut Log, events: &[Event]| match log.append(events) {
        Err(LogError::Gap(gap)) => gap,
        other => panic!("{other:?}"),
    };
    let previous = transactions[5].lsn;
    assert_eq!(gap(&mut log, &all[6..]), Gap { after: last, previous });
    // All or nothing, and positions say what is missing, too.
    let position = position(previous.0, previous.0 + 1);
    assert_eq!(gap(&mut log, std::slice::from_ref(&position)), Gap { after: last, previous });
    let (after, previous) = (transactions[7].lsn, transactions[9].lsn);
    let holed = [&all[3..8], &all[10..]].concat();
    assert_eq!(gap(&mut log, &holed), Gap { after, previous });
    assert_eq!(lsns(&reader, Lsn(0)), lsns_of(&transactions[..5]));
    log.append(&all[3..]).unwrap();
    assert_eq!(reader.replay(Lsn(0), usize::MAX).unwrap(), all);
}

/// A log that the version before wrote: three transactions of the identity that tests use.
const FORMAT_1: &[u8] = include_bytes!("format1/00000000000000000000.segment");

#[test]
fn a_log_of_the_former_format_is_replaced_by_a_new_epoch() {
    let dir = TestDir::new("format-1");
    fs::write(dir.0.join("00000000000000000000.segment"), FORMAT_1).unwrap();
    assert_eq!(replaced(&dir.0, identity()), Replaced::OtherVersion);
    let transactions = some_transactions(1, Lsn(0), 20);
    let mut opened = kit::open(&dir.0);
    assert_eq!(opened.began, Began::Continued);
    append(&mut opened.log, &opened.reader, &transactions);
    drop(opened);
    let Opened { reader, began, .. } = kit::open(&dir.0);
    assert_eq!(began, Began::Continued);
    assert_eq!(reader.replay(Lsn(0), usize::MAX).unwrap(), events(Lsn(0), &transactions));
}

#[test]
fn what_a_former_format_has_left_before_the_newest_segment_ends_the_log_there() {
    let dir = TestDir::new("format-1-older");
    let groups = in_segments(&dir.0, 2);
    fs::write(&segments(&dir.0)[0], FORMAT_1).unwrap();
    let Opened { log, reader, began, .. } = kit::open(&dir.0);
    assert_eq!(began, Began::Shortened("a part of it is of another version".into()));
    let all: Vec<Lsn> = groups.iter().flat_map(|group| lsns_of(group)).collect();
    assert!(all.ends_with(&lsns(&reader, oldest(&log))));
}
