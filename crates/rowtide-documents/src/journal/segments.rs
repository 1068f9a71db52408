//! The files of segments. Each is named by the segment's number and gets its name when its first group is durable, so
//! a file with such a name is never half-made. A journal holds what people write, so only the server's own user may
//! read it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::format::{FIRST, Group, Mark, Record};

const EXTENSION: &str = "edits";
const UNFINISHED: &str = "new";
/// The file in a directory that says what the directory is called.
pub(crate) const ID: &str = "id";

/// Of the directory.
const OWN_DIR: u32 = 0o700;
/// Of each file.
const OWN_FILE: u32 = 0o600;

/// So many bytes must fit on the disk for a new segment to begin.
const SPACE: usize = 1 << 20;

/// Makes the directory, and sees to it that nobody else may read what is in it, also if it was there before. What
/// belongs to another user is theirs to protect.
pub(crate) fn make_private(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        // Who may write in it could put another in its place.
        DirBuilder::new().recursive(true).mode(OWN_DIR).create(parent)?;
    }
    match DirBuilder::new().mode(OWN_DIR).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match fs::set_permissions(dir, Permissions::from_mode(OWN_DIR)) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

/// Opens a file, or makes one that nobody else may read.
pub(super) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(OWN_FILE).open(path)
}

pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.{EXTENSION}"))
}

/// The numbers of the segments in `dir`, in order. What was left half-made is removed.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(EXTENSION) => {
                let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
                numbers.extend(number);
            }
            Some(UNFINISHED) => fs::remove_file(&path)?,
            _ => {}
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A segment that was made, with its first group.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// So long is the first group.
    pub(super) len: u64,
    /// What the next groups begin with.
    pub(super) mark: Mark,
}

/// Makes a segment.
pub(super) fn create(dir: &Path, number: u64, next: u64, previous_end: u64) -> io::Result<Created> {
    let path = path_of(dir, number);
    let unfinished = path.with_extension(UNFINISHED);
    let file = private_file(&unfinished)?;
    let mark = rand::random();
    let mut group = Group::new(FIRST);
    group.push(&Record::Begin { next, previous_end, mark });
    let group = group.finish();
    file.set_len(0)?;
    // Where there is no space for more than that, a segment would only begin for the next one to fail.
    file.write_all_at(&vec![0; SPACE], group.len() as u64)?;
    file.sync_all()?;
    file.set_len(0)?;
    file.write_all_at(&group, 0)?;
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    sync_dir(dir)?;
    Ok(Created { file, path, len: group.len() as u64, mark })
}

/// What `dir` is called, as long as it is there: what its file says, or a new name if it says nothing that can be one.
pub(crate) fn id(dir: &Path) -> io::Result<Box<str>> {
    let path = dir.join(ID);
    let is_id = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match fs::read_to_string(&path) {
        Ok(text) if is_id(&text) => return Ok(text.into()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let id = format!("{:032x}", rand::random::<u128>());
    write_whole(dir, ID, &id)?;
    Ok(id.into())
}

/// Writes a small file in `dir` that is there with all of `text` or not at all, durable.
pub(crate) fn write_whole(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let path = dir.join(name);
    let unfinished = path.with_extension(UNFINISHED);
    let file = private_file(&unfinished)?;
    file.set_len(0)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    sync_dir(dir)
}

/// Makes durable which files there are.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
