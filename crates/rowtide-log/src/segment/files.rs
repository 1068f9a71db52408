//! The files of a segment. Each is a SQLite database, named by the segment's number, with the files that
//! SQLite keeps beside it. A segment is made under another name and gets its own when it is whole, so a file
//! with that name is never half-made. A log holds the rows of every user, so only the server's own user may read it.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Of a segment's database.
const EXTENSION: &str = "segment";

/// Of the directory.
const OWN_DIR: u32 = 0o700;
/// Of each file.
const OWN_FILE: u32 = 0o600;

/// Makes the directory of a log, and sees to it that nobody else may read what is in it, also of a log that was
/// there before. What belongs to another user is theirs to protect.
pub(crate) fn make_private(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        // Who may write in it could put another in its place.
        DirBuilder::new().recursive(true).mode(OWN_DIR).create(parent)?;
    }
    match DirBuilder::new().mode(OWN_DIR).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    restrict(dir, OWN_DIR)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            restrict(&entry.path(), OWN_FILE)?;
        }
    }
    Ok(())
}

fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    match fs::set_permissions(path, Permissions::from_mode(mode)) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

/// Opens a file, or makes one that nobody else may read. SQLite gives the files beside a database the rights of that.
pub(crate) fn private_file(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(OWN_FILE).open(path)
}

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
