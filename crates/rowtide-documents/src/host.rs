//! Keeps rooms awake.
//!
//! A document sleeps in the storage until somebody comes to it, or something is asked of it; then its room is opened
//! and a task of its own takes what comes ([`Host::join`]). An edit is durable in the journal before anybody hears of
//! it, and the document is saved some seconds later; when everybody has gone and all is saved, the room sleeps again.
//! After the end of the process, however it came, a document is what was saved and the edits that the journal has.

mod application;
mod awake;
mod directory;
mod failure;
mod health;
mod history;
mod mailbox;
mod naming;
mod objects;
mod opening;
mod outbox;
mod probe;
mod publishing;
mod putting_back;
mod room;
mod saving;
mod settings;
mod shared;
mod storage;
mod telemetry;
mod transport;
mod waking;

pub use application::{ApplicationUnusable, DocumentApplication};
pub use failure::{FailureKind, StorageError};
pub use health::HostHealth;
pub use mailbox::{DocumentError, Joined, PublishError, Seat};
pub use naming::{BadDocumentId, DocumentId};
pub use objects::PublishedCopy;
pub use outbox::{Outgoing, OutgoingFrames};
pub use probe::try_storage;
pub use room::UnreadableDocument;
pub use settings::{DocumentKind, DocumentKinds, HostLimits, HostSettings};
pub use shared::SavedDocument;
pub use storage::{BadStorageUrl, BadStorageVariable, StorageSettings, StorageUrl};

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{Instant, sleep};

use crate::journal::{Journal, JournalError};
use crate::place::{Access, Closing, Socket};
use mailbox::{Done, Mailbox, Request};
use objects::Objects;
use outbox::outbox;
use shared::Shared;
use waking::{TRIES, ask, sweep, wake};

/// How often it is looked, when the host stops, whether all rooms sleep.
const STOP_LOOK: Duration = Duration::from_millis(10);

/// Why a host cannot start.
#[derive(Debug, Error)]
pub enum HostError {
    /// The storage cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Keeps the rooms of all documents awake that somebody is in. There is one for a journal, and for a directory of objects,
/// which their locks see to. Where several have one bucket, none overwrites what another has written.
#[derive(Debug)]
pub struct Host {
    shared: Arc<Shared>,
    sweeper: AbortHandle,
}

impl Host {
    /// Starts a host, inside of a runtime. Documents with edits that were not saved when the last one ended are saved
    /// at once.
    ///
    /// # Errors
    /// If the storage or the journal cannot be opened.
    pub async fn start(settings: HostSettings, kinds: DocumentKinds) -> Result<Host, HostError> {
        let HostSettings { environment, storage, journal, limits } = settings;
        let opening = spawn_blocking(move || {
            let mut storage = storage.open(&environment, &journal)?;
            let journal = Journal::open_with(&journal, storage.lock.take())?;
            let objects = Objects::new(storage, &environment, journal.id(), limits.storage_call);
            Ok::<_, HostError>(Shared::new(limits, kinds, objects, journal))
        });
        let shared = match opening.await {
            Ok(opened) => Arc::new(opened?),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        telemetry::begin();
        let sweeper = tokio::spawn(sweep(Arc::clone(&shared))).abort_handle();
        Ok(Host { shared, sweeper })
    }

    /// A socket comes to a document. `session` is what its client calls its stay, the same over reconnects.
    ///
    /// # Errors
    /// If nobody can come to it: [`DocumentError::closing`] is how the socket is closed then.
    pub async fn join(
        &self,
        document: &DocumentId,
        session: &str,
        access: Access,
    ) -> Result<Joined, DocumentError> {
        for _ in 0..TRIES {
            let mailbox = self.mailbox(document)?;
            let socket = self.shared.new_socket();
            let limits = &self.shared.limits;
            let (outbox, outgoing) = outbox(limits.outbox_bytes, limits.outbox_frames);
            let (done, answer) = oneshot::channel();
            let session = session.into();
            let join = Request::Join { socket, session, access, outbox, done };
            let Ok(seat) = mailbox.join(socket, join).await else { continue };
            match answer.await {
                Ok(result) => return result.map(|()| Joined { seat, outgoing }),
                // The room went without a word.
                Err(_) => continue,
            }
        }
        Err(DocumentError::Unopened)
    }

    /// What the person behind a socket may do has changed.
    pub async fn set_access(&self, document: &DocumentId, socket: Socket, access: Access) {
        self.tell(document, Request::SetAccess { socket, access }).await;
    }

    /// Closes a socket.
    pub async fn close(&self, document: &DocumentId, socket: Socket, closing: Closing) {
        self.close_where(document, move |other| (other == socket).then_some(closing)).await;
    }

    /// Closes the sockets in a document's room for which `judge` says how.
    pub async fn close_where(
        &self,
        document: &DocumentId,
        judge: impl Fn(Socket) -> Option<Closing> + Send + 'static,
    ) {
        self.tell(document, Request::Close { judge: Box::new(judge) }).await;
    }

    /// Gives a document another name, as an edit by nobody, which is durable when this returns.
    ///
    /// # Errors
    /// If the document cannot be opened, or the application's schema does not say what its name is for clients of older
    /// ones. It has the name that it had then, and the other one is to be given again.
    pub async fn rename(&self, document: &DocumentId, name: &str) -> Result<(), DocumentError> {
        self.request(document, |done| Request::Rename { name: name.into(), done }).await
    }

    /// Saves a document, if there is something to save. What was edited before the call is saved when it returns.
    ///
    /// # Errors
    /// If it cannot be opened, or not be saved; it is tried again then.
    pub async fn save(&self, document: &DocumentId) -> Result<(), DocumentError> {
        self.request(document, |done| Request::Save { done, for_history: false }).await
    }

    /// A document as it is now, saved; none if nobody has ever edited it.
    ///
    /// # Errors
    /// If it cannot be saved or read.
    pub async fn snapshot(&self, document: &DocumentId) -> Result<Option<Bytes>, DocumentError> {
        self.save(document).await?;
        Ok(self.shared.objects.current(document).await?.map(|object| object.snapshot))
    }

    /// The times at which earlier states of a document were saved, the newest first.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn history(&self, document: &DocumentId) -> Result<Vec<String>, DocumentError> {
        Ok(self.shared.objects.history(document).await?)
    }

    /// A document as it was saved at a time of its history.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn earlier(
        &self,
        document: &DocumentId,
        time: &str,
    ) -> Result<Option<Bytes>, DocumentError> {
        Ok(self.shared.objects.earlier(document, time).await?)
    }

    /// Makes a document what it was at a time of its history; what it is now is kept in the history too, also if it cannot
    /// be opened. The change is durable when this returns.
    ///
    /// # Errors
    /// [`DocumentError::NotFound`] if there is no such time; others if the document cannot be opened because of the storage or
    /// the journal, saved or restored.
    pub async fn restore(&self, document: &DocumentId, time: &str) -> Result<(), DocumentError> {
        let earlier = self.shared.objects.earlier(document, time).await?;
        let snapshot = earlier.ok_or(DocumentError::NotFound)?;
        match self.request(document, |done| Request::Save { done, for_history: true }).await {
            Err(DocumentError::Unopened | DocumentError::Newer) => {
                let put_back = |done| Request::PutBack { snapshot: snapshot.clone(), done };
                return self.request(document, put_back).await;
            }
            saved => saved?,
        }
        let restore = |done| Request::Restore { snapshot: snapshot.clone(), begins: false, done };
        self.request(document, restore).await
    }

    /// Begins a document with what another one, or the same kind of document elsewhere, was. That is durable when this
    /// returns.
    ///
    /// # Errors
    /// [`DocumentError::Begun`] if the document has begun already; others if it cannot be opened, or `snapshot` is no
    /// document of its kind.
    pub async fn begin_from(
        &self,
        document: &DocumentId,
        snapshot: Bytes,
    ) -> Result<(), DocumentError> {
        let restore = |done| Request::Restore { snapshot: snapshot.clone(), begins: true, done };
        self.request(document, restore).await
    }

    /// Whether a document has begun: somebody has edited it, or it was saved.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn has_begun(&self, document: &DocumentId) -> Result<bool, DocumentError> {
        for _ in 0..TRIES {
            let mailbox = self.mailbox(document)?;
            let (answer, has_begun) = oneshot::channel();
            if mailbox.send(Request::HasBegun { answer }).await.is_err() {
                continue;
            }
            if let Ok(has_begun) = has_begun.await {
                return Ok(has_begun);
            }
        }
        Err(DocumentError::Unopened)
    }

    /// Begins a document with nothing, if it has not begun: it is there from then on.
    ///
    /// # Errors
    /// If it cannot be opened or saved.
    pub async fn begin_empty(&self, document: &DocumentId) -> Result<(), DocumentError> {
        self.request(document, |done| Request::Save { done, for_history: true }).await
    }

    /// All documents of a kind of which something is kept, in no order.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn stored(&self, kind: &str) -> Result<Vec<DocumentId>, StorageError> {
        let ids = self.shared.objects.stored(kind).await?;
        let stored = ids.iter().filter_map(|id| DocumentId::new(kind, id).ok());
        let journal = self.shared.journal.documents();
        let edited = journal.iter().filter_map(|key| DocumentId::of_key(key));
        Ok(stored.chain(edited.filter(|document| document.kind() == kind)).collect())
    }

    /// Keeps what a document is now aside, where nobody finds it by its id, before it is deleted: what was edited before the
    /// call is in it. Nothing is kept of one that nobody has ever edited, or that is being deleted already.
    ///
    /// # Errors
    /// If it cannot be saved, read or kept; it is not to be deleted then.
    pub async fn keep_removed(&self, document: &DocumentId) -> Result<(), DocumentError> {
        if self.shared.registry().deleted.contains(document) {
            return Ok(());
        }
        match self.snapshot(document).await? {
            Some(snapshot) => Ok(self.shared.objects.keep_removed(document, snapshot).await?),
            None => Ok(()),
        }
    }

    /// Deletes a document: nobody can come any more, who is there goes, and then its edits and all its objects are
    /// removed. It can be done again, and has to be if it failed.
    ///
    /// # Errors
    /// If the journal or the storage fails.
    pub async fn delete(&self, document: &DocumentId) -> Result<(), DocumentError> {
        let awake = {
            let mut registry = self.shared.registry();
            registry.deleted.insert(document.clone());
            registry.rooms.get(document).map(|room| room.mailbox.clone())
        };
        if let Some(mailbox) = awake {
            let (done, forgotten) = oneshot::channel();
            if mailbox.send(Request::Forget { done }).await.is_ok() {
                // A room that goes without a word has gone too.
                forgotten.await.ok();
            }
        }
        self.shared.save_is_over(document).await;
        self.shared.journal.forget(&document.key()).await?;
        self.shared.objects.withdraw(document).await?;
        self.shared.objects.delete(document).await?;
        self.shared.open_succeeded(document);
        Ok(())
    }

    /// Lets people come again to a document that was deleted. It begins anew.
    pub fn revive(&self, document: &DocumentId) {
        self.shared.registry().deleted.remove(document);
    }

    /// The next document that was saved after somebody had edited it; of one that was saved several times meanwhile
    /// only the last time is told. To be waited for by one task.
    pub async fn next_saved(&self) -> SavedDocument {
        self.shared.next_saved().await
    }

    /// How the host is.
    pub fn health(&self) -> HostHealth {
        self.shared.health()
    }

    /// Brings the gauges up to date, for whoever is about to read them.
    pub fn update_gauges(&self) {
        telemetry::gauges(&self.shared.health());
    }

    /// Sends everyone away, to come back, saves everything and closes the journal. What cannot be saved in time is in the journal, and is
    /// saved after the next start. Returns how many documents that concerns.
    pub async fn shutdown(&self, deadline: Duration) -> usize {
        let deadline = Instant::now() + deadline;
        self.sweeper.abort();
        let mailboxes: Vec<Mailbox> = {
            let mut registry = self.shared.registry();
            registry.stopping = true;
            registry.rooms.values().map(|room| room.mailbox.clone()).collect()
        };
        for mailbox in mailboxes {
            // One that has gone meanwhile needs not be told.
            mailbox.stop().ok();
        }
        while !self.shared.registry().rooms.is_empty() && Instant::now() < deadline {
            sleep(STOP_LOOK).await;
        }
        let rooms = std::mem::take(&mut self.shared.registry().rooms);
        for room in rooms.values() {
            room.abort.abort();
        }
        // Whoever still has the host, the next one can have the journal.
        let shared = Arc::clone(&self.shared);
        spawn_blocking(move || shared.journal.close()).await.ok();
        rooms.len()
    }

    fn mailbox(&self, document: &DocumentId) -> Result<Mailbox, DocumentError> {
        wake(&self.shared, document)
    }

    /// Tells a room something, if it is awake.
    async fn tell(&self, document: &DocumentId, request: Request) {
        let awake = self.shared.registry().rooms.get(document).map(|room| room.mailbox.clone());
        if let Some(mailbox) = awake {
            mailbox.send(request).await.ok();
        }
    }

    async fn request(
        &self,
        document: &DocumentId,
        request: impl Fn(Done) -> Request,
    ) -> Result<(), DocumentError> {
        ask(&self.shared, document, request).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}
