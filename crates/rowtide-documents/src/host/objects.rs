//! Documents as objects: the present state of each, earlier ones by the time at which they were saved, and copies that
//! were published.
//!
//! Keys are `<environment>/documents/<kind>/<id>/current`, `…/history/<time>` and `…/published/<slug>`; what a key
//! cannot have in it is percent-encoded. An object is written whole and takes the place of the one before at once, and is durable then.

mod publications;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use thiserror::Error;

use super::history::outdated;
use super::naming::DocumentId;

/// So many objects are deleted before the next ones are listed.
const PAGE: usize = 1_000;

/// Why a storage cannot be used.
#[derive(Debug, Error)]
pub enum StorageError {
    /// It is not one that is known.
    #[error("`{0}` is no storage: it is `file:///` and a directory")]
    Url(String),
    /// Its directory cannot be made.
    #[error("the storage's `{dir}` cannot be made: {source}")]
    Dir {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something it was asked for failed.
    #[error("the storage failed: {0}")]
    Failed(#[from] object_store::Error),
}

/// Opens the storage at `url`.
pub(super) fn open(url: &str) -> Result<Arc<dyn ObjectStore>, StorageError> {
    let bad = || StorageError::Url(url.to_owned());
    let path = url.strip_prefix("file://").filter(|path| path.starts_with('/')).ok_or_else(bad)?;
    let dir = PathBuf::from(path);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(|source| StorageError::Dir { dir: dir.clone(), source })?;
    Ok(Arc::new(LocalFileSystem::new_with_prefix(dir)?.with_fsync(true)))
}

/// When a document was saved, as its history names it: in UTC, with milliseconds.
fn time_name(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The time that is named so.
fn time_of(name: &str) -> Option<SystemTime> {
    DateTime::parse_from_rfc3339(name).ok().map(SystemTime::from)
}

/// The objects of documents.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    environment: Arc<str>,
}

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>, environment: &str) -> Objects {
        Objects { store, environment: environment.into() }
    }

    fn key(&self, document: &DocumentId, rest: &[&str]) -> Path {
        let parts = [&*self.environment, "documents", document.kind(), document.id()];
        Path::from_iter(parts.iter().chain(rest).copied())
    }

    async fn get(&self, key: &Path) -> Result<Option<Bytes>, StorageError> {
        match self.store.get(key).await {
            Ok(object) => Ok(Some(object.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The document as it was saved last.
    pub(super) async fn current(
        &self,
        document: &DocumentId,
    ) -> Result<Option<Bytes>, StorageError> {
        self.get(&self.key(document, &["current"])).await
    }

    /// The document as it was saved at `time`.
    pub(super) async fn earlier(
        &self,
        document: &DocumentId,
        time: &str,
    ) -> Result<Option<Bytes>, StorageError> {
        self.get(&self.key(document, &["history", time])).await
    }

    /// The times of earlier states, the newest first.
    pub(super) async fn history(&self, document: &DocumentId) -> Result<Vec<String>, StorageError> {
        let prefix = self.key(document, &["history"]);
        let objects: Vec<_> = self.store.list(Some(&prefix)).try_collect().await?;
        let mut times: Vec<String> = objects
            .iter()
            .filter_map(|object| object.location.filename().map(str::to_owned))
            .collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        Ok(times)
    }

    /// When the newest of the earlier states was saved.
    pub(super) async fn last_history(
        &self,
        document: &DocumentId,
    ) -> Result<Option<SystemTime>, StorageError> {
        Ok(self.history(document).await?.iter().find_map(|name| time_of(name)))
    }

    /// Deletes the earlier states that are kept no longer.
    async fn thin_history(
        &self,
        document: &DocumentId,
        now: SystemTime,
    ) -> Result<(), StorageError> {
        let names = self.history(document).await?;
        let times: Vec<_> = names.iter().filter_map(|name| time_of(name)).collect();
        for time in outdated(&times, now) {
            let key = self.key(document, &["history", &time_name(time)]);
            match self.store.delete(&key).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Saves the document, for its history too if a time is given; then what is too old in its history goes. What is
    /// not saved leaves nothing in the history, so that a save which fails again and again does not fill it.
    pub(super) async fn save(
        &self,
        document: &DocumentId,
        snapshot: Bytes,
        time: Option<SystemTime>,
    ) -> Result<(), StorageError> {
        let current = self.key(document, &["current"]);
        self.store.put(&current, snapshot.clone().into()).await?;
        if let Some(time) = time {
            let key = self.key(document, &["history", &time_name(time)]);
            self.store.put(&key, snapshot.into()).await?;
            if let Err(error) = self.thin_history(document, time).await {
                tracing::warn!(%document, %error, "the history of a document cannot be thinned");
            }
        }
        Ok(())
    }

    /// Puts a copy of the document as it was saved last where it is found by `slug`.
    pub(super) async fn publish(
        &self,
        document: &DocumentId,
        slug: &str,
    ) -> Result<(), StorageError> {
        let published = self.key(document, &["published", slug]);
        Ok(self.store.copy(&self.key(document, &["current"]), &published).await?)
    }

    /// The copy that is found by `slug`.
    pub(super) async fn published(
        &self,
        document: &DocumentId,
        slug: &str,
    ) -> Result<Option<Bytes>, StorageError> {
        self.get(&self.key(document, &["published", slug])).await
    }

    /// Removes the copy that is found by `slug`, if there is one.
    pub(super) async fn unpublish(
        &self,
        document: &DocumentId,
        slug: &str,
    ) -> Result<(), StorageError> {
        self.remove(&self.key(document, &["published", slug])).await
    }

    async fn remove(&self, key: &Path) -> Result<(), StorageError> {
        match self.store.delete(key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes all objects of the document. It can be done again, whatever of it was done.
    pub(super) async fn delete(&self, document: &DocumentId) -> Result<(), StorageError> {
        let prefix = self.key(document, &[]);
        loop {
            let mut page = Vec::new();
            let mut objects = self.store.list(Some(&prefix));
            while page.len() < PAGE
                && let Some(object) = objects.try_next().await?
            {
                page.push(object.location);
            }
            if page.is_empty() {
                return Ok(());
            }
            for key in page {
                self.remove(&key).await?;
            }
        }
    }
}
