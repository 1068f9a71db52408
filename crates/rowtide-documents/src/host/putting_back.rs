//! Puts an earlier state in place of a document that cannot be opened: what is stored of it, or the journal has, cannot be
//! read, or is of a newer schema than the server's. Nothing is lost by that: what is stored becomes a state of the history,
//! and the edits in the journal are kept aside.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::mailbox::DocumentError;
use super::naming::DocumentId;
use super::objects::SaveError;
use super::room::{Room, UnreadableDocument};
use super::shared::Shared;

/// Puts it back, where nobody else writes the document: by who has its mailbox. Done again, it comes to the same.
pub(super) async fn put_back(
    shared: &Arc<Shared>,
    document: &DocumentId,
    snapshot: Bytes,
) -> Result<(), DocumentError> {
    let kind = shared.kinds.get(document.kind()).ok_or(DocumentError::NotFound)?.clone();
    let now = SystemTime::now();
    // Beyond every clock that clients have seen: they are sent everything.
    let clock = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let reading = spawn_blocking(move || {
        let mut room = Room::open(&kind, Some(&snapshot), clock)?;
        room.renumber(clock);
        let snapshot = room.snapshot();
        // What is of a newer schema could not be opened then, either.
        let is_newer = room.adopt(kind.application()).is_err();
        Ok::<_, UnreadableDocument>((snapshot, is_newer))
    });
    let (snapshot, is_newer) = reading.await.map_err(|_| DocumentError::Unopened)??;
    if is_newer {
        return Err(DocumentError::Newer);
    }
    shared.journal.catch_up().await;
    shared.save_is_over(document).await;
    let key = document.key();
    let reading = spawn_blocking({
        let (shared, key) = (Arc::clone(shared), Arc::clone(&key));
        move || shared.journal.edits(&key)
    });
    let edits = reading.await.map_err(|_| DocumentError::Unopened)?;
    let (edits, _) = edits.map_err(|error| {
        tracing::error!(%document, %error, "edits of a document cannot be read");
        DocumentError::Unopened
    })?;
    let object = shared.objects.current(document).await?;
    if !edits.is_empty() {
        shared.objects.set_aside(document, &edits).await?;
    }
    let mut follows = None;
    if let Some(object) = object {
        shared.objects.keep_earlier(document, object.snapshot).await?;
        follows = Some(object.version);
    }
    // As every save: the next server waits for it, also if this task ends before.
    let under_way = shared.begin_save(document).ok_or(DocumentError::Stopping)?;
    let (objects, of) = (shared.objects.clone(), document.clone());
    let saving = tokio::spawn(async move {
        let saved = objects.save(&of, snapshot, follows, now, false).await;
        drop(under_way);
        saved
    });
    match saving.await {
        Ok(Ok(_)) => {}
        Ok(Err(SaveError::Storage(error))) => return Err(error.into()),
        Ok(Err(SaveError::Superseded)) | Err(_) => return Err(DocumentError::Unsaved),
    }
    // Only now: until it is saved nothing has happened.
    shared.journal.forget(&key).await?;
    tracing::warn!(%document, "a document that could not be opened is an earlier state of itself again");
    shared.open_succeeded(document);
    Ok(())
}
