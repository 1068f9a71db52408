//! Waking rooms: whoever has something to ask of a document is brought to its room, which is opened if it sleeps. A room
//! may go to sleep, or fail, in the moment before it is asked; then the next one is asked. What a crash has left to be
//! saved wakes rooms as well, though nobody comes.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::awake::keep_awake;
use super::mailbox::{DocumentError, Done, Mailbox, Request, mailbox};
use super::naming::DocumentId;
use super::shared::{AwakeRoom, Shared};

/// How often a request is brought to a room that has just gone to sleep.
pub(super) const TRIES: usize = 5;

/// Asks a room for something, which is woken for it.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    document: &DocumentId,
    request: impl Fn(Done) -> Request,
) -> Result<(), DocumentError> {
    for _ in 0..TRIES {
        let mailbox = wake(shared, document)?;
        let (done, answer) = oneshot::channel();
        if mailbox.send(request(done)).await.is_err() {
            continue;
        }
        if let Ok(result) = answer.await {
            return result;
        }
    }
    Err(DocumentError::Unopened)
}

/// The way to a document's room, which is woken if it sleeps.
pub(super) fn wake(shared: &Arc<Shared>, document: &DocumentId) -> Result<Mailbox, DocumentError> {
    let mut registry = shared.registry();
    if !shared.kinds.contains_key(document.kind()) || registry.deleted.contains(document) {
        return Err(DocumentError::NotFound);
    }
    if registry.stopping {
        return Err(DocumentError::Stopping);
    }
    let awake = registry.rooms.get(document);
    if let Some(room) = awake.filter(|room| !room.mailbox.is_closed()) {
        return Ok(room.mailbox.clone());
    }
    // A room that failed has gone without a word.
    registry.rooms.remove(document);
    if registry.rooms.len() >= shared.limits.rooms_awake {
        registry.rooms.retain(|_, room| !room.mailbox.is_closed());
    }
    if registry.rooms.len() >= shared.limits.rooms_awake {
        return Err(DocumentError::Full);
    }
    let (mailbox, inbox) = mailbox(shared.limits.requests, shared.limits.inbox_bytes);
    let task = tokio::spawn(keep_awake(Arc::clone(shared), document.clone(), inbox));
    let room = AwakeRoom { mailbox: mailbox.clone(), abort: task.abort_handle() };
    registry.rooms.insert(document.clone(), room);
    Ok(mailbox)
}

/// Saves documents that have edits in the journal and nobody who would save them.
pub(super) async fn sweep(shared: Arc<Shared>) {
    loop {
        for key in shared.journal.documents() {
            let Some(document) = DocumentId::of_key(&key) else { continue };
            if shared.registry().rooms.contains_key(&document) {
                continue;
            }
            let save = |done| Request::Save { done, for_history: false };
            if let Err(error) = ask(&shared, &document, save).await {
                tracing::warn!(%document, %error, "edits of a document that was open are not saved yet");
            }
        }
        sleep(shared.limits.sweep_every).await;
    }
}
