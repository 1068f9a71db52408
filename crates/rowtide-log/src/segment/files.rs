//! The files of a segment. Each is a SQLite database, named by the segment's number, with the files that
//! SQLite keeps beside it. A segment is made under another name and gets its own when it is whole, so a file
//! with that name is never half-made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Of a segment's database.
const EXTENSION: &str = "segment";

pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.{EXTENSION}"))
}

pub(super) fn wal_of(path: &Path) -> PathBuf {
    with_suffix(path, "-wal")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The numbers of the segments in `dir`, in order. What was left half-made is removed.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(EXTENSION) => {
                numbers
                    .extend(path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok()));
            }
            Some("new") => remove_database(&path)?,
            _ => {}
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes the files of segment `number`, usable or not.
pub(crate) fn remove(dir: &Path, number: u64) -> io::Result<()> {
    remove_database(&path_of(dir, number))
}

/// The database first: without it, what else is left means nothing.
pub(super) fn remove_database(path: &Path) -> io::Result<()> {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        match fs::remove_file(with_suffix(path, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
