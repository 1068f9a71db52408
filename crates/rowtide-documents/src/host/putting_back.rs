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
        Ok::<_, UnreadableDocument>(room.snapshot())
    });
    let snapshot = reading.await.map_err(|_| DocumentError::Unopened)??;
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
    // Before the earlier state is there, to which they do not belong.
    shared.journal.forget(&key).await?;
    match shared.objects.save(document, snapshot, follows, now, false).await {
        Ok(_) => {}
        Err(SaveError::Storage(error)) => return Err(error.into()),
        Err(SaveError::Superseded) => return Err(DocumentError::Unsaved),
    }
    tracing::warn!(%document, "a document that could not be opened is an earlier state of itself again");
    shared.open_succeeded(document);
    Ok(())
}
