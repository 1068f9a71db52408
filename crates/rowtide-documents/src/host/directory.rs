//! Whether a directory of objects is the one that it was.
//!
//! Where a disk is not mounted, or not any more, there is a directory all the same, and it looks like a storage without
//! objects: documents would begin anew in there, and nobody would say so. So a directory carries an id, which is
//! remembered beside the journal, and without it nothing is read or written.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::failure::StorageError;
use crate::journal::{ID, id_of, make_private, write_whole};

/// Beside the journal: the id of the directory in which its documents are.
const REMEMBERED: &str = "storage";

/// A directory of objects that has its id.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    dir: PathBuf,
    /// Where the id is.
    file: PathBuf,
    id: Box<str>,
}

impl Directory {
    /// The directory `dir`, whose id is in `place`, for the journal in `journal`.
    pub(super) fn open(
        dir: &Path,
        place: &Path,
        journal: &Path,
    ) -> Result<Directory, StorageError> {
        let at = |path: &Path| {
            let dir = path.to_owned();
            move |source| StorageError::Dir { dir, source }
        };
        let note = journal.join(REMEMBERED);
        let known = match std::fs::read_to_string(&note) {
            Ok(known) => Some(known),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(at(&note)(error)),
        };
        let file = place.join(ID);
        if let Some(known) = known.as_deref().map(str::trim).filter(|known| !known.is_empty()) {
            let directory = Directory { dir: dir.to_owned(), file, id: known.into() };
            return match std::fs::read_to_string(&directory.file) {
                Ok(id) if *id == *directory.id => Ok(directory),
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(at(&directory.file)(error))
                }
                _ => Err(StorageError::Another { dir: directory.dir, note }),
            };
        }
        let id = id_of(place).map_err(at(place))?;
        make_private(journal).map_err(at(journal))?;
        write_whole(journal, REMEMBERED, &id).map_err(at(&note))?;
        Ok(Directory { dir: dir.to_owned(), file, id })
    }

    /// What a call comes to that reads or writes in it. That nothing is there counts only if the directory is there after it.
    pub(super) async fn has<T>(
        &self,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StorageError> {
        self.check().await?;
        let called = call.await.map_err(StorageError::from);
        if matches!(&called, Err(StorageError::Missing { .. })) {
            self.check().await?;
        }
        called
    }

    /// Whether it is still there.
    async fn check(&self) -> Result<(), StorageError> {
        match tokio::fs::read(&self.file).await {
            Ok(id) if *id == *self.id.as_bytes() => Ok(()),
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StorageError::Dir { dir: self.file.clone(), source })
            }
            _ => Err(StorageError::Gone(self.dir.clone())),
        }
    }
}

/// Removes what writes have left in `root` that were cut off before `began`. The store writes an object beside its place at
/// first, under its name with `#` and a number, which no key has in it. What cannot be read or removed is in nobody's way.
pub(super) fn remove_unfinished(root: &Path, began: SystemTime) {
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        let mut has_removed = false;
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else if is_unfinished(&entry.file_name().to_string_lossy())
                && metadata.modified().is_ok_and(|at| at < began)
            {
                has_removed |= std::fs::remove_file(entry.path()).is_ok();
            }
        }
        // A directory without objects would look like a document.
        let mut empty = has_removed.then_some(dir.as_path());
        while let Some(dir) = empty.filter(|dir| *dir != root) {
            empty = std::fs::remove_dir(dir).ok().and_then(|()| dir.parent());
        }
    }
}

fn is_unfinished(name: &str) -> bool {
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}
