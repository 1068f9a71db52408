//! Documents as objects: the present state of each, earlier ones by the time at which they were saved, and copies that
//! were published.
//!
//! Keys are `<environment>/documents/<kind>/<id>/current`, `…/history/<time>` and `…/published/<slug>`; what a key
//! cannot have in it is percent-encoded. An object is written whole and takes the place of the one before at once, and is
//! durable then. In a storage that others may write to, too, it takes the place of that one alone on which it follows:
//! whoever finds another there has not written.

mod publications;
mod puts;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::{Path, PathPart};
use object_store::{
    Attribute, Attributes, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, UpdateVersion,
};
use thiserror::Error;
use tokio::time::timeout;

use super::directory::Directory;
use super::failure::StorageError;
use super::history::outdated;
use super::naming::DocumentId;
use super::storage::{Pages, Storage};
use super::telemetry;
use puts::OwnPuts;

/// So many objects are deleted before the next ones are listed.
const PAGE: usize = 1_000;

/// So many of them at a time.
const DELETES: usize = 16;

/// How often a put is tried that meets what a put of ours has left, or nothing where something was.
const PUTS: usize = 4;

/// Who has put an object: the journal that has the edits which follow, and this opening of it.
pub(super) const WRITER: Attribute =
    Attribute::Metadata(std::borrow::Cow::Borrowed("rowtide-writer"));

/// Which put of theirs it was.
const PUT: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("rowtide-put"));

/// When a document was saved, as its history names it: in UTC, with milliseconds.
fn time_name(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The time that is named so.
fn time_of(name: &str) -> Option<SystemTime> {
    DateTime::parse_from_rfc3339(name).ok().map(SystemTime::from)
}

/// Who has put an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// A host with this journal.
    Own,
    /// A host with another one.
    Other,
    /// Nobody has said: an operator, or a release that did not.
    Unknown,
}

/// One state of an object, to be followed by the next.
#[derive(Clone, Debug)]
pub(super) struct ObjectVersion {
    version: UpdateVersion,
    writer: Writer,
}

impl ObjectVersion {
    /// Who has put it.
    pub(super) fn writer(&self) -> Writer {
        self.writer
    }
}

/// A document as it was saved last.
#[derive(Debug)]
pub(super) struct CurrentObject {
    pub(super) snapshot: Bytes,
    pub(super) version: ObjectVersion,
}

/// A copy of a document that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedCopy {
    /// Which copy of this document it is: another one has another version.
    pub version: String,
    /// The document as it was then.
    pub snapshot: Bytes,
}

/// What the storage tells one state of an object from another by.
fn version_text(meta: &ObjectMeta) -> String {
    match &meta.e_tag {
        Some(e_tag) => e_tag.clone(),
        None => format!("{} {}", meta.last_modified.timestamp_micros(), meta.size),
    }
}

/// Why a document was not saved.
#[derive(Debug, Error)]
pub(super) enum SaveError {
    /// Somebody else has saved it meanwhile, and that is not overwritten.
    #[error("another server has written the document")]
    Superseded,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The objects of documents.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    pages: Option<Pages>,
    root: Path,
    conditional: bool,
    directory: Option<Directory>,
    environment: Arc<str>,
    /// The journal.
    owner: Arc<str>,
    /// The journal, and this opening of it: a copy of its directory is another writer.
    writer: Arc<str>,
    puts: Arc<OwnPuts>,
    /// How long one call may take. Files have no such limit: what was begun there is done whoever waits for it, and after a
    /// newer write it would take that one's place.
    within: Option<Duration>,
}

impl Objects {
    /// Those of an environment, for the host that has the journal which is called `owner`.
    pub(super) fn new(
        storage: Storage,
        environment: &str,
        owner: &str,
        within: Duration,
    ) -> Objects {
        let writer = format!("{owner}.{:016x}", rand::random::<u64>());
        Objects {
            store: storage.store,
            pages: storage.pages,
            root: storage.root,
            conditional: storage.conditional,
            directory: storage.directory,
            environment: environment.into(),
            owner: owner.into(),
            writer: writer.into(),
            puts: Arc::default(),
            within: storage.conditional.then_some(within),
        }
    }

    fn key(&self, document: &DocumentId, rest: &[&str]) -> Path {
        self.path(&[&["documents", document.kind(), document.id()], rest].concat())
    }

    /// A path of the environment.
    fn path(&self, parts: &[&str]) -> Path {
        let environment = PathPart::from(&*self.environment);
        let parts = parts.iter().map(|part| PathPart::from(*part));
        Path::from_iter(self.root.parts().chain([environment]).chain(parts))
    }

    /// Has a call end in time; a failure is counted.
    async fn call<T>(
        &self,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StorageError> {
        let called = match (&self.directory, self.within) {
            (Some(directory), _) => directory.has(call).await,
            (None, None) => call.await.map_err(StorageError::from),
            (None, Some(within)) => match timeout(within, call).await {
                Ok(called) => called.map_err(StorageError::from),
                Err(_) => Err(StorageError::Slow(within)),
            },
        };
        let failed = match called {
            Ok(done) => return Ok(done),
            Err(failed) => failed,
        };
        if !failed.is_an_answer() {
            telemetry::storage_failed(failed.label());
        }
        Err(failed)
    }

    async fn get(&self, key: &Path) -> Result<Option<Bytes>, StorageError> {
        let got = self.call(async { self.store.get(key).await?.bytes().await }).await;
        got.map(Some).or_else(StorageError::unless_missing)
    }

    /// The document as it was saved last.
    pub(super) async fn current(
        &self,
        document: &DocumentId,
    ) -> Result<Option<CurrentObject>, StorageError> {
        let key = self.key(document, &["current"]);
        let got = self.call(async {
            let object = self.store.get(&key).await?;
            let version = self.version_of(&object.meta, &object.attributes);
            Ok((version, object.bytes().await?))
        });
        let got = got.await.map(Some).or_else(StorageError::unless_missing)?;
        let Some((mut version, snapshot)) = got else { return Ok(None) };
        if !self.conditional
            && let Some(owner) = self.get(&self.key(document, &["writer"])).await?
        {
            let is_own = *owner == *self.owner.as_bytes();
            version.writer = if is_own { Writer::Own } else { Writer::Other };
        }
        Ok(Some(CurrentObject { snapshot, version }))
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
        let objects: Vec<_> = self.call(self.store.list(Some(&prefix)).try_collect()).await?;
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
            self.remove(&self.key(document, &["history", &time_name(time)])).await?;
        }
        Ok(())
    }

    /// Saves the document in place of the state that it `follows`, or as the first one; for its history too if a time is
    /// `for_history`, and then what is too old in there goes. What is not saved leaves nothing in the history, so that a
    /// save which fails again and again does not fill it: but where another server has written meanwhile, what was to be
    /// saved is kept there, since nothing else is going to have it as it was.
    pub(super) async fn save(
        &self,
        document: &DocumentId,
        snapshot: Bytes,
        follows: Option<ObjectVersion>,
        at: SystemTime,
        for_history: bool,
    ) -> Result<ObjectVersion, SaveError> {
        let saved = self.put_current(document, &snapshot, follows).await;
        if for_history || matches!(saved, Err(SaveError::Superseded)) {
            let key = self.key(document, &["history", &time_name(at)]);
            let kept = self.call(self.store.put(&key, snapshot.into())).await;
            match saved {
                Ok(_) => drop(kept?),
                Err(SaveError::Superseded) => {
                    if let Err(error) = kept {
                        tracing::error!(%document, %error, "what was not saved is not in the history either");
                    }
                }
                Err(SaveError::Storage(_)) => {}
            }
            if let Err(error) = self.thin_history(document, at).await {
                tracing::warn!(%document, %error, "the history of a document cannot be thinned");
            }
        }
        saved
    }

    async fn put_current(
        &self,
        document: &DocumentId,
        snapshot: &Bytes,
        follows: Option<ObjectVersion>,
    ) -> Result<ObjectVersion, SaveError> {
        let key = self.key(document, &["current"]);
        if !self.conditional {
            let put = self.call(self.store.put(&key, snapshot.clone().into())).await?;
            if follows.is_none_or(|before| before.writer != Writer::Own) {
                let marker = self.key(document, &["writer"]);
                let owner = Bytes::copy_from_slice(self.owner.as_bytes());
                self.call(self.store.put(&marker, owner.into())).await?;
            }
            return Ok(ObjectVersion { version: put.into(), writer: Writer::Own });
        }
        let mut follows = follows.map(|before| before.version);
        for _ in 0..PUTS {
            let mode = follows.map_or(PutMode::Create, PutMode::Update);
            let number = self.puts.begin(document);
            let attributes = [(WRITER, self.writer.to_string()), (PUT, number.to_string())];
            let attributes = Attributes::from_iter(attributes);
            let options = PutOptions { mode, attributes, ..PutOptions::default() };
            match self.call(self.store.put_opts(&key, snapshot.clone().into(), options)).await {
                Ok(put) => {
                    self.puts.known(document);
                    return Ok(ObjectVersion { version: put.into(), writer: Writer::Own });
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
            // Another server may have been faster; or a put of ours was, whose answer never came.
            let head = GetOptions { head: true, ..GetOptions::default() };
            let head = self.call(self.store.get_opts(&key, head)).await;
            follows = match head.map(Some).or_else(StorageError::unless_missing)? {
                Some(there) if self.wrote(document, &there.attributes) => {
                    Some(self.version_of(&there.meta, &there.attributes).version)
                }
                Some(_) => {
                    self.puts.known(document);
                    return Err(SaveError::Superseded);
                }
                // Somebody has taken it away. The room has all of it, so it comes back.
                None => {
                    tracing::warn!(%document, "the object of a document that is open has gone; it is put again");
                    None
                }
            };
        }
        Err(SaveError::Superseded)
    }

    /// Whether an object is one that this host has put, since it started, without hearing of it.
    fn wrote(&self, document: &DocumentId, attributes: &Attributes) -> bool {
        let is_own = attributes.get(&WRITER).is_some_and(|writer| **writer == *self.writer);
        let number = attributes.get(&PUT).and_then(|number| number.parse().ok());
        is_own && number.is_some_and(|number| self.puts.is_unanswered(document, number))
    }

    fn version_of(&self, meta: &ObjectMeta, attributes: &Attributes) -> ObjectVersion {
        let version = UpdateVersion { e_tag: meta.e_tag.clone(), version: meta.version.clone() };
        let owner = attributes.get(&WRITER).and_then(|writer| writer.split_once('.'));
        let writer = match owner {
            None => Writer::Unknown,
            Some((owner, _)) if *owner == *self.owner => Writer::Own,
            Some(_) => Writer::Other,
        };
        ObjectVersion { version, writer }
    }

    /// Keeps a state in the history that another one is going to take the place of.
    pub(super) async fn keep_earlier(
        &self,
        document: &DocumentId,
        snapshot: Bytes,
    ) -> Result<(), StorageError> {
        let key = self.key(document, &["history", &time_name(SystemTime::now())]);
        self.call(self.store.put(&key, snapshot.into())).await.map(drop)
    }

    /// Keeps edits aside that do not fit what another server has written, for a person to look at.
    pub(super) async fn set_aside(
        &self,
        document: &DocumentId,
        edits: &[Bytes],
    ) -> Result<(), StorageError> {
        let key = self.key(document, &["unmerged", &time_name(SystemTime::now())]);
        self.call(self.store.put(&key, edits.join(&b"\n"[..]).into())).await.map(drop)
    }

    /// Puts a copy of the document as it was saved last where it is found by `slug`.
    pub(super) async fn publish(
        &self,
        document: &DocumentId,
        slug: &str,
    ) -> Result<(), StorageError> {
        let published = self.key(document, &["published", slug]);
        self.call(self.store.copy(&self.key(document, &["current"]), &published)).await
    }

    /// The copy that is found by `slug`.
    pub(super) async fn published(
        &self,
        document: &DocumentId,
        slug: &str,
    ) -> Result<Option<PublishedCopy>, StorageError> {
        let key = self.key(document, &["published", slug]);
        let got = self.call(async {
            let object = self.store.get(&key).await?;
            let version = version_text(&object.meta);
            Ok(PublishedCopy { version, snapshot: object.bytes().await? })
        });
        got.await.map(Some).or_else(StorageError::unless_missing)
    }

    /// Which copy is found by `slug`, without reading it.
    pub(super) async fn published_version(
        &self,
        document: &DocumentId,
        slug: &str,
    ) -> Result<Option<String>, StorageError> {
        let key = self.key(document, &["published", slug]);
        let head = self.call(self.store.head(&key)).await.map(|meta| version_text(&meta));
        head.map(Some).or_else(StorageError::unless_missing)
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
        let removed = self.call(self.store.delete(key)).await;
        removed.map(Some).or_else(StorageError::unless_missing).map(drop)
    }

    /// Deletes all objects of the document. It can be done again, whatever of it was done.
    pub(super) async fn delete(&self, document: &DocumentId) -> Result<(), StorageError> {
        let prefix = self.key(document, &[]);
        loop {
            let page = self.store.list(Some(&prefix)).take(PAGE);
            let page: Vec<_> = self.call(page.try_collect()).await?;
            if page.is_empty() {
                self.puts.known(document);
                return Ok(());
            }
            let removals = page.iter().map(|object| self.remove(&object.location));
            let removals = stream::iter(removals.collect::<Vec<_>>()).buffer_unordered(DELETES);
            removals.try_collect::<()>().await?;
        }
    }
}
