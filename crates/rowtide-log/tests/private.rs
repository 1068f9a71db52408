//! A log holds the rows of every user: nobody but the server's own user may read it, whatever the umask was.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use self::kit::TestDir;

/// The rights of a directory and of all that is in it.
fn rights(dir: &Path) -> Vec<(String, u32)> {
    let of = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut rights = vec![(".".to_owned(), of(dir))];
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        rights.push((entry.file_name().into_string().unwrap(), of(&entry.path())));
    }
    rights
}

#[track_caller]
fn assert_private(dir: &Path) {
    for (name, mode) in rights(dir) {
        let only = if name == "." { 0o700 } else { 0o600 };
        assert_eq!(mode, only, "{name} has {mode:o}");
    }
}

#[test]
fn only_the_owner_may_read_it_from_the_beginning_and_after_it_was_opened_again() {
    let dir = TestDir::new("private");
    let log = dir.0.join("below").join("log");
    let mut opened = kit::open(&log);
    let mut random = SmallRng::seed_from_u64(1);
    let first = kit::transaction(&mut random, opened.reader.last_transaction().unwrap(), 1);
    kit::append(&mut opened.log, &opened.reader, &[first]);
    assert!(rights(&log).len() > 3, "a database, what is beside it, the lock");
    assert_private(&log);
    // Nor put another in its place.
    assert_eq!(rights(log.parent().unwrap())[0].1, 0o700);
    drop(opened);
    // As an earlier version, or a copy, has left it.
    for (name, _) in rights(&log) {
        let mode = if name == "." { 0o755 } else { 0o644 };
        fs::set_permissions(log.join(name), Permissions::from_mode(mode)).unwrap();
    }
    let opened = kit::open(&log);
    assert_private(&log);
    drop(opened);
}
