//! Objects in files.

use std::fs;
use std::path::{Path, PathBuf};

use rowtide_documents::host::StorageSettings;

use crate::kit::copy_dir;

/// A directory of objects.
pub(crate) struct Objects(PathBuf);

#[allow(clippy::unused_async, reason = "those on S3 wait")]
impl Objects {
    pub(crate) async fn new(dir: &Path) -> Objects {
        Objects(dir.join("objects"))
    }

    /// What is there now, in a directory of its own.
    pub(crate) async fn copy(&self, dir: &Path) -> Objects {
        let copy = dir.join("objects");
        fs::create_dir(&copy).unwrap();
        copy_dir(&self.0, &copy);
        Objects(copy)
    }

    pub(crate) fn settings(&self) -> StorageSettings {
        StorageSettings::files(self.0.clone())
    }

    /// Whether there is an object, or one whose key begins so.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.join(key).exists()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        fs::read(self.0.join(key)).ok()
    }

    pub(crate) fn put(&self, key: &str, content: &[u8]) {
        let path = self.0.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Has every access fail.
    pub(crate) fn fail(&self) {
        if self.has("test") {
            fs::rename(self.0.join("test"), self.0.join("away")).unwrap();
        }
        fs::write(self.0.join("test"), "in the way").unwrap();
    }

    pub(crate) fn heal(&self) {
        fs::remove_file(self.0.join("test")).unwrap();
        if self.has("away") {
            fs::rename(self.0.join("away"), self.0.join("test")).unwrap();
        }
    }
}
