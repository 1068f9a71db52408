//! Opening a document: the object that was saved last, and then the edits that the journal has.

use std::sync::Arc;

use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};

use super::naming::DocumentId;
use super::objects::StorageError;
use super::room::{Room, UnreadableDocument};
use super::shared::Shared;
use crate::journal::JournalError;

/// Why a document cannot be opened.
#[derive(Debug, Error)]
pub(super) enum OpenError {
    #[error("there is no kind `{0}`")]
    Kind(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("its object cannot be read: {0}")]
    Object(UnreadableDocument),
    #[error("an edit in the journal cannot be read: {0}")]
    Edit(UnreadableDocument),
    #[error("opening it failed: {0}")]
    Failed(#[from] JoinError),
}

/// A document that was opened.
#[derive(Debug)]
pub(super) struct OpenedDocument {
    pub(super) room: Room,
    /// The clock of the object.
    pub(super) saved_clock: u64,
    /// The last edit that the journal has of it.
    pub(super) number: u64,
    /// The edits in the journal.
    pub(super) edit_bytes: usize,
    /// How often the journal had failed before.
    pub(super) failures: u64,
    /// Nobody has ever edited it.
    pub(super) is_new: bool,
}

pub(super) async fn open(
    shared: &Arc<Shared>,
    document: &DocumentId,
) -> Result<OpenedDocument, OpenError> {
    let failures = shared.journal.state().borrow().failures;
    // A room that went without a word may have left edits to it.
    shared.journal.catch_up().await;
    let object = shared.objects.current(document).await?;
    let (shared, document) = (Arc::clone(shared), document.clone());
    let opening = spawn_blocking(move || {
        let kind = shared
            .kinds
            .get(document.kind())
            .ok_or_else(|| OpenError::Kind(document.kind().to_owned()))?;
        let key = document.key();
        let (edits, number) = shared.journal.edits(&key)?;
        let mut room = Room::open(kind, object.as_deref()).map_err(OpenError::Object)?;
        let saved_clock = room.clock();
        for edit in &edits {
            room.replay(edit).map_err(OpenError::Edit)?;
        }
        let mut edit_bytes = edits.iter().map(|edit| edit.len()).sum();
        if room.clock() == saved_clock && !edits.is_empty() {
            // The object has all of them already.
            shared.journal.settle(&key, number);
            edit_bytes = 0;
        }
        let is_new = object.is_none() && edits.is_empty();
        Ok(OpenedDocument { room, saved_clock, number, edit_bytes, failures, is_new })
    });
    opening.await?
}
