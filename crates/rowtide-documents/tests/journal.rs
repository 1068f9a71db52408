//! The journal: nothing that it said is durable is lost, whatever becomes of the process or of the end of a file.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use rowtide_documents::journal::{Journal, JournalError, Refused};
use tokio::runtime::{Builder, Runtime};

/// A directory that goes when it is dropped.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("rowtide-journal-{}-{next}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// The segments, as they are now, in another directory.
    fn copy(&self) -> Dir {
        let copy = Dir::new();
        fs::create_dir(copy.journal()).unwrap();
        for segment in segments(&self.journal()) {
            fs::copy(&segment, copy.journal().join(segment.file_name().unwrap())).unwrap();
        }
        copy
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut segments: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "edits"))
        .collect();
    segments.sort();
    segments
}

/// The segment with the last edits: what an opening begins has none.
fn newest(dir: &Path) -> PathBuf {
    segments(dir).pop().unwrap()
}

fn append(
    runtime: &Runtime,
    journal: &Journal,
    document: &str,
    edit: &[u8],
) -> Result<u64, Refused> {
    runtime.block_on(async {
        let failures = journal.state().borrow().failures;
        let edit = Bytes::copy_from_slice(edit);
        let receipt = journal.append(&Arc::from(document), edit, failures).await;
        receipt.await.expect("the thread is there")
    })
}

fn edits(journal: &Journal, document: &str) -> Vec<Vec<u8>> {
    journal.edits(document).unwrap().0.into_iter().map(Vec::from).collect()
}

/// Waits until what was asked for without waiting is done.
fn flush(runtime: &Runtime, journal: &Journal) {
    runtime.block_on(journal.forget(&Arc::from("nothing"))).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize, Vec<u8>),
    Settle(usize, usize),
    Forget(usize),
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3usize, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(d, edit)| Step::Append(d, edit)),
        2 => (0..3usize, 0..10usize).prop_map(|(d, which)| Step::Settle(d, which)),
        1 => (0..3usize).prop_map(Step::Forget),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_has_what_was_appended_and_not_settled(steps in proptest::collection::vec(step(), 1..60)) {
        const DOCUMENTS: [&str; 3] = ["a", "b/ü", "c"];
        let runtime = runtime();
        let mut dir = Dir::new();
        let mut journal = Journal::open(&dir.journal()).unwrap();
        let mut model: BTreeMap<&str, BTreeMap<u64, Vec<u8>>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Append(document, edit) => {
                    let number = append(&runtime, &journal, DOCUMENTS[document], &edit).unwrap();
                    prop_assert!(model.values().flat_map(BTreeMap::keys).all(|other| *other < number));
                    model.entry(DOCUMENTS[document]).or_default().insert(number, edit);
                }
                Step::Settle(document, which) => {
                    let document = DOCUMENTS[document];
                    let known = model.entry(document).or_default();
                    let number = known.keys().nth(which).copied().unwrap_or(0);
                    known.retain(|other, _| *other > number);
                    journal.settle(&Arc::from(document), number);
                }
                Step::Forget(document) => {
                    model.remove(DOCUMENTS[document]);
                    runtime.block_on(journal.forget(&Arc::from(DOCUMENTS[document]))).unwrap();
                }
                Step::Reopen => {
                    drop(journal);
                    journal = Journal::open(&dir.journal()).unwrap();
                }
                Step::Crash => {
                    flush(&runtime, &journal);
                    let copy = dir.copy();
                    drop(journal);
                    dir = copy;
                    journal = Journal::open(&dir.journal()).unwrap();
                }
            }
            flush(&runtime, &journal);
            for document in DOCUMENTS {
                let expected: Vec<Vec<u8>> =
                    model.get(document).map(|known| known.values().cloned().collect()).unwrap_or_default();
                prop_assert_eq!(edits(&journal, document), expected);
            }
            let mut known: Vec<&str> =
                model.iter().filter(|(_, edits)| !edits.is_empty()).map(|(document, _)| *document).collect();
            known.sort_unstable();
            let documents = journal.documents();
            prop_assert_eq!(documents.iter().map(|document| &**document).collect::<Vec<_>>(), known);
        }
    }
}

#[test]
fn a_tail_that_is_torn_at_any_byte_is_cut_off() {
    let runtime = runtime();
    let dir = Dir::new();
    let journal = Journal::open(&dir.journal()).unwrap();
    append(&runtime, &journal, "a", b"first").unwrap();
    append(&runtime, &journal, "b", b"second").unwrap();
    let whole = fs::read(newest(&dir.journal())).unwrap().len();
    append(&runtime, &journal, "a", b"torn").unwrap();
    let all = fs::read(newest(&dir.journal())).unwrap();
    for len in whole..all.len() {
        for zeros in [false, true] {
            let copy = dir.copy();
            let mut torn = all[..len].to_vec();
            if zeros {
                // The file has got its length, and not all of its bytes.
                torn.resize(all.len(), 0);
            }
            fs::write(newest(&copy.journal()), torn).unwrap();
            let journal = Journal::open(&copy.journal()).unwrap();
            assert_eq!(edits(&journal, "a"), [b"first".to_vec()], "{len}");
            assert_eq!(edits(&journal, "b"), [b"second".to_vec()]);
            append(&runtime, &journal, "a", b"next").unwrap();
            drop(journal);
            let journal = Journal::open(&copy.journal()).unwrap();
            assert_eq!(edits(&journal, "a"), [b"first".to_vec(), b"next".to_vec()]);
        }
    }
}

#[test]
fn what_an_edit_says_makes_no_torn_tail_a_damage() {
    let runtime = runtime();
    // Whole groups, as another journal writes them.
    let other = Dir::new();
    let journal = Journal::open(&other.journal()).unwrap();
    append(&runtime, &journal, "a", b"other").unwrap();
    let forged = fs::read(newest(&other.journal())).unwrap();
    let dir = Dir::new();
    let journal = Journal::open(&dir.journal()).unwrap();
    append(&runtime, &journal, "a", b"first").unwrap();
    append(&runtime, &journal, "a", &forged).unwrap();
    let all = fs::read(newest(&dir.journal())).unwrap();
    drop(journal);
    let torn = Dir::new();
    fs::create_dir(torn.journal()).unwrap();
    let name = segments(&dir.journal()).remove(0);
    let name = name.file_name().unwrap();
    fs::write(torn.journal().join(name), &all[..all.len() - 1]).unwrap();
    let journal = Journal::open(&torn.journal()).unwrap();
    assert_eq!(edits(&journal, "a"), [b"first".to_vec()]);
}

#[test]
fn one_that_is_closed_refuses_and_another_may_be_opened() {
    let runtime = runtime();
    let dir = Dir::new();
    let journal = Journal::open(&dir.journal()).unwrap();
    append(&runtime, &journal, "a", b"kept").unwrap();
    let lock = journal.lock();
    journal.close();
    // What must be over first is not over yet.
    assert!(matches!(Journal::open(&dir.journal()), Err(JournalError::Locked(_))));
    drop(lock);
    let next = Journal::open(&dir.journal()).unwrap();
    assert_eq!(edits(&next, "a"), [b"kept".to_vec()]);
    runtime.block_on(async {
        let late = journal.append(&Arc::from("a"), Bytes::from_static(b"late"), 0).await;
        assert!(!matches!(late.await, Ok(Ok(_))));
        assert_eq!(journal.forget(&Arc::from("a")).await, Err(Refused));
        journal.catch_up().await;
    });
    assert!(journal.lock().is_none());
}

#[test]
fn damage_before_the_end_is_an_error_that_says_where() {
    let runtime = runtime();
    let dir = Dir::new();
    let journal = Journal::open(&dir.journal()).unwrap();
    let first = fs::metadata(newest(&dir.journal())).unwrap().len();
    append(&runtime, &journal, "a", b"first").unwrap();
    let second = fs::metadata(newest(&dir.journal())).unwrap().len();
    append(&runtime, &journal, "a", b"second").unwrap();
    let bytes = fs::read(newest(&dir.journal())).unwrap();
    for at in 0..second as usize {
        let copy = dir.copy();
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let path = newest(&copy.journal());
        fs::write(&path, &damaged).unwrap();
        let error = Journal::open(&copy.journal()).unwrap_err();
        let expected = if (at as u64) < first { 0 } else { first };
        assert!(
            matches!(&error, JournalError::Damaged { path: named, offset } if *named == path && *offset == expected),
            "{at}: {error}"
        );
        // It was only looked at.
        assert_eq!(fs::read(&path).unwrap(), damaged);
    }
    // An older segment has no tail that could be torn.
    drop(journal);
    drop(Journal::open(&dir.journal()).unwrap());
    let oldest = segments(&dir.journal()).remove(0);
    fs::write(&oldest, &bytes[..bytes.len() - 1]).unwrap();
    let error = Journal::open(&dir.journal()).unwrap_err();
    assert!(matches!(error, JournalError::Damaged { offset, .. } if offset == second), "{error}");
}

#[test]
fn there_is_one_at_a_time_and_nobody_else_may_read_it() {
    let dir = Dir::new();
    let journal = Journal::open(&dir.journal()).unwrap();
    assert!(matches!(Journal::open(&dir.journal()), Err(JournalError::Locked(_))));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.journal()), 0o700);
    for entry in fs::read_dir(dir.journal()).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    drop(journal);
    Journal::open(&dir.journal()).unwrap();
}

#[test]
fn segments_go_when_what_is_in_them_is_saved() {
    let runtime = runtime();
    let dir = Dir::new();
    let journal = Journal::open(&dir.journal()).unwrap();
    let large = vec![7; 5 << 20];
    // One document is never saved; the others are, at once.
    append(&runtime, &journal, "unsaved", b"once").unwrap();
    for _ in 0..40 {
        let number = append(&runtime, &journal, "saved", &large).unwrap();
        journal.settle(&Arc::from("saved"), number);
        // What is settled in one group with the next edit leaves a segment with something of use in it.
        flush(&runtime, &journal);
    }
    assert!(journal.bytes() < 150 << 20, "{}", journal.bytes());
    assert_eq!(edits(&journal, "unsaved"), [b"once".to_vec()]);
    let number = append(&runtime, &journal, "unsaved", b"twice").unwrap();
    drop(journal);
    // However often it is opened, there are not more and more of them.
    for _ in 0..20 {
        drop(Journal::open(&dir.journal()).unwrap());
        let journal = Journal::open(&dir.journal()).unwrap();
        append(&runtime, &journal, "other", b"x").unwrap();
    }
    assert!(segments(&dir.journal()).len() <= 9, "{}", segments(&dir.journal()).len());
    let journal = Journal::open(&dir.journal()).unwrap();
    assert_eq!(edits(&journal, "unsaved"), [b"once".to_vec(), b"twice".to_vec()]);
    journal.settle(&Arc::from("unsaved"), number);
    runtime.block_on(journal.forget(&Arc::from("other"))).unwrap();
    append(&runtime, &journal, "last", &large).unwrap();
    assert_eq!(segments(&dir.journal()).len(), 1);
}

#[test]
fn what_is_not_saved_is_not_written_again_and_again() {
    let runtime = runtime();
    let dir = Dir::new();
    let large = vec![7; 5 << 20];
    for _ in 0..10 {
        let journal = Journal::open(&dir.journal()).unwrap();
        append(&runtime, &journal, "unsaved", &large).unwrap();
    }
    let before = segments(&dir.journal());
    let journal = Journal::open(&dir.journal()).unwrap();
    for _ in 0..10 {
        append(&runtime, &journal, "other", b"small").unwrap();
    }
    assert!(segments(&dir.journal()).starts_with(&before));
    // When most of it is saved, the rest of an old segment is.
    let number = journal.edits("unsaved").unwrap().1;
    append(&runtime, &journal, "unsaved", b"last").unwrap();
    journal.settle(&Arc::from("unsaved"), number);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while journal.bytes() >= 1 << 20 {
        assert!(std::time::Instant::now() < deadline, "{}", journal.bytes());
        flush(&runtime, &journal);
    }
    drop(journal);
    let journal = Journal::open(&dir.journal()).unwrap();
    assert_eq!(edits(&journal, "unsaved"), [b"last".to_vec()]);
    assert_eq!(edits(&journal, "other").len(), 10);
}

/// Runs a test of this file in a process of its own, in which a file that grows too large is an error and no signal.
fn in_a_process_with_small_files(test: &str) {
    let status = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_full_disk_refuses_edits_until_there_is_space() {
    in_a_process_with_small_files("full_disk");
}

#[test]
#[ignore = "run by another test, in a process of its own"]
fn full_disk() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let runtime = runtime();
    let dir = Dir::new();
    let journal = Journal::open(&dir.journal()).unwrap();
    let limit = |bytes: Option<u64>| {
        let maximum = getrlimit(Resource::Fsize).maximum;
        setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum }).unwrap();
    };
    append(&runtime, &journal, "a", b"before").unwrap();
    let edit = vec![1; 10_000];
    limit(Some(100_000));
    let mut durable = 1;
    while append(&runtime, &journal, "a", &edit).is_ok() {
        durable += 1;
    }
    assert_eq!(durable, 10);
    assert!(!journal.state().borrow().writable);
    assert_eq!(append(&runtime, &journal, "b", b"small"), Err(Refused));
    assert_eq!(edits(&journal, "a").len(), durable);
    // A crash meanwhile loses nothing either.
    limit(None);
    let copy = dir.copy();
    assert_eq!(edits(&Journal::open(&copy.journal()).unwrap(), "a").len(), durable);

    let deadline = Instant::now() + Duration::from_secs(20);
    runtime.block_on(async {
        let mut state = journal.state();
        let waited =
            tokio::time::timeout_at(deadline.into(), state.wait_for(|state| state.writable)).await;
        waited.expect("it can be written again").unwrap();
        // What follows on an edit that was refused is refused, too.
        let late = journal.append(&Arc::from("a"), Bytes::from_static(b"late"), 0).await;
        assert_eq!(late.await.unwrap(), Err(Refused));
    });
    append(&runtime, &journal, "a", b"after").unwrap();
    drop(journal);
    let journal = Journal::open(&dir.journal()).unwrap();
    let all = edits(&journal, "a");
    assert_eq!(all.len(), durable + 1);
    assert_eq!(all[0], b"before");
    assert_eq!(all[durable], b"after");
    assert!(edits(&journal, "b").is_empty());
}
