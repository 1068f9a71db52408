//! What the rooms of a host share: which of them are awake, where documents are stored, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::health::HostHealth;
use super::mailbox::{Inbox, Mailbox};
use super::naming::DocumentId;
use super::objects::Objects;
use super::settings::{DocumentKinds, HostLimits};
use crate::journal::{Journal, JournalLock};
use crate::place::Socket;

/// A document was saved after somebody had edited it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedDocument {
    /// Which.
    pub document: DocumentId,
    /// When.
    pub at: SystemTime,
}

/// A room that is awake, or about to be.
#[derive(Debug)]
pub(super) struct AwakeRoom {
    pub(super) mailbox: Mailbox,
    pub(super) abort: AbortHandle,
}

/// Which rooms are awake, and which documents are deleted.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) rooms: BTreeMap<DocumentId, AwakeRoom>,
    /// Until they are brought back. Whoever serves them knows of older ones by their rows.
    pub(super) deleted: BTreeSet<DocumentId>,
    pub(super) stopping: bool,
}

/// Documents that were saved and not told of yet: of each the last time alone, so they are not more than there are
/// documents.
#[derive(Debug, Default)]
struct SavedDocuments {
    row: VecDeque<DocumentId>,
    times: BTreeMap<DocumentId, SystemTime>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: HostLimits,
    pub(super) kinds: DocumentKinds,
    pub(super) objects: Objects,
    pub(super) journal: Journal,
    registry: Mutex<Registry>,
    failing: Mutex<Failing>,
    saves: Mutex<BTreeMap<DocumentId, watch::Receiver<()>>>,
    saved: Mutex<SavedDocuments>,
    news_of_saved: Notify,
    started: Instant,
    sockets: AtomicU64,
    pub(super) sessions: AtomicUsize,
    pub(super) unsaved_bytes: AtomicUsize,
    pub(super) superseded: AtomicU64,
}

/// A save that is under way, also if its room has gone: until this is dropped nobody reads the document's object, and
/// no other host opens the journal.
#[derive(Debug)]
pub(super) struct SaveUnderWay {
    shared: Arc<Shared>,
    document: DocumentId,
    _over: watch::Sender<()>,
    _lock: Arc<JournalLock>,
}

impl Drop for SaveUnderWay {
    fn drop(&mut self) {
        locked(&self.shared.saves).remove(&self.document);
    }
}

#[derive(Debug, Default)]
struct Failing {
    saves: BTreeMap<DocumentId, String>,
    unopened: BTreeMap<DocumentId, String>,
}

/// So many documents that cannot be opened are remembered.
const UNOPENED: usize = 1_000;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        limits: HostLimits,
        kinds: DocumentKinds,
        objects: Objects,
        journal: Journal,
    ) -> Shared {
        Shared {
            limits,
            kinds,
            objects,
            journal,
            registry: Mutex::default(),
            failing: Mutex::default(),
            saves: Mutex::default(),
            saved: Mutex::default(),
            news_of_saved: Notify::new(),
            started: Instant::now(),
            sockets: AtomicU64::new(1),
            sessions: AtomicUsize::new(0),
            unsaved_bytes: AtomicUsize::new(0),
            superseded: AtomicU64::new(0),
        }
    }

    /// The time, as rooms are told it.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The moment of a time that a room has named.
    pub(super) fn instant(&self, at: Duration) -> Instant {
        self.started + at
    }

    pub(super) fn new_socket(&self) -> Socket {
        Socket(self.sockets.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        locked(&self.registry)
    }

    /// Lets a room sleep, if it was asked for nothing and nobody is about to ask.
    pub(super) fn retire(&self, document: &DocumentId, inbox: &Inbox) -> bool {
        let mut registry = self.registry();
        let awaited = |room: &AwakeRoom| room.mailbox.is_shared();
        let unused = inbox.is_empty() && !registry.rooms.get(document).is_some_and(awaited);
        if unused {
            registry.rooms.remove(document);
        }
        unused
    }

    /// A room is no more, whoever is about to ask it.
    pub(super) fn gone(&self, document: &DocumentId) {
        self.registry().rooms.remove(document);
    }

    /// A document is about to be saved; none if the host has ended.
    pub(super) fn begin_save(self: &Arc<Shared>, document: &DocumentId) -> Option<SaveUnderWay> {
        let lock = self.journal.lock()?;
        let (over, is_over) = watch::channel(());
        locked(&self.saves).insert(document.clone(), is_over);
        let (shared, document) = (Arc::clone(self), document.clone());
        Some(SaveUnderWay { shared, document, _over: over, _lock: lock })
    }

    /// Waits until no save of a document is under way.
    pub(super) async fn save_is_over(&self, document: &DocumentId) {
        let under_way = locked(&self.saves).get(document).cloned();
        if let Some(mut under_way) = under_way {
            while under_way.changed().await.is_ok() {}
        }
    }

    /// A document cannot be saved. Tells whether that is news: it is tried again and again.
    pub(super) fn save_failed(&self, document: &DocumentId, error: String) -> bool {
        let news = locked(&self.failing).saves.insert(document.clone(), error.clone());
        news.is_none_or(|known| known != error)
    }

    /// The document is saved, or there is nothing to be saved any more.
    pub(super) fn save_succeeded(&self, document: &DocumentId) {
        locked(&self.failing).saves.remove(document);
    }

    /// A document cannot be opened. Tells whether that is news: whoever wants it comes again and again.
    pub(super) fn open_failed(&self, document: &DocumentId, error: String) -> bool {
        let unopened = &mut locked(&self.failing).unopened;
        let known = unopened.get(document);
        if known.is_none() && unopened.len() >= UNOPENED {
            return false;
        }
        let news = known != Some(&error);
        unopened.insert(document.clone(), error);
        news
    }

    pub(super) fn open_succeeded(&self, document: &DocumentId) {
        locked(&self.failing).unopened.remove(document);
    }

    pub(super) fn tell_saved(&self, document: &DocumentId, at: SystemTime) {
        let mut saved = locked(&self.saved);
        if saved.times.insert(document.clone(), at).is_none() {
            saved.row.push_back(document.clone());
        }
        drop(saved);
        self.news_of_saved.notify_one();
    }

    /// The next document that was saved.
    pub(super) async fn next_saved(&self) -> SavedDocument {
        loop {
            let news = self.news_of_saved.notified();
            {
                let mut saved = locked(&self.saved);
                if let Some(document) = saved.row.pop_front()
                    && let Some(at) = saved.times.remove(&document)
                {
                    return SavedDocument { document, at };
                }
            }
            news.await;
        }
    }

    pub(super) fn health(&self) -> HostHealth {
        let (saves_failing, unopened) = {
            let failing = locked(&self.failing);
            (failing.saves.clone(), failing.unopened.clone())
        };
        HostHealth {
            rooms_awake: self.registry().rooms.len(),
            sessions: self.sessions.load(Ordering::Relaxed),
            unsaved_bytes: self.unsaved_bytes.load(Ordering::Relaxed),
            saves_failing,
            superseded: self.superseded.load(Ordering::Relaxed),
            unopened,
            journal_bytes: self.journal.bytes(),
            journal_failing: !self.journal.state().borrow().writable,
        }
    }
}
