//! Opening a document: the object that was saved last, and then the edits that the journal has.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};

use super::naming::DocumentId;
use super::objects::StorageError;
use super::room::{Room, UnreadableDocument};
use super::settings::DocumentKind;
use super::shared::Shared;
use crate::journal::JournalError;
use crate::place::Effect;
use crate::tlsync::NewerSchema;

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
    #[error("{0}: it is left as it is, and nobody can come to it")]
    Newer(#[from] NewerSchema),
    #[error("{0}")]
    Migration(UnreadableDocument),
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
    /// When it was saved for its history last.
    pub(super) last_history: Option<SystemTime>,
    /// What is to be done first: the edit that has brought it up to the application's schema.
    pub(super) effects: Vec<Effect>,
}

pub(super) async fn open(
    shared: &Arc<Shared>,
    document: &DocumentId,
) -> Result<OpenedDocument, OpenError> {
    let failures = shared.journal.state().borrow().failures;
    // A room that went without a word may have left edits to it.
    shared.journal.catch_up().await;
    // It may have left a save, too, after which the object is another one.
    shared.save_is_over(document).await;
    let last_history = shared.objects.last_history(document).await?;
    let object = shared.objects.current(document).await?;
    let now = shared.now();
    let application =
        shared.kinds.get(document.kind()).and_then(DocumentKind::application).cloned();
    let of_opening = application.clone();
    let (shared, document) = (Arc::clone(shared), document.clone());
    let opening = spawn_blocking(move || {
        let kind = shared
            .kinds
            .get(document.kind())
            .ok_or_else(|| OpenError::Kind(document.kind().to_owned()))?;
        let key = document.key();
        let (edits, number) = shared.journal.edits(&key)?;
        // The time in milliseconds is beyond every clock of a document of this name that was deleted. Where there are
        // edits, the first of them says where the document began.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let begins_at = if edits.is_empty() { since.as_millis() as u64 } else { 0 };
        let opened = Room::open(kind, object.as_deref(), begins_at);
        let mut room = opened.map_err(OpenError::Object)?;
        let saved_clock = room.clock();
        for edit in &edits {
            room.replay(edit).map_err(OpenError::Edit)?;
        }
        let mut edit_bytes = edits.iter().map(|edit| edit.len()).sum();
        if room.clock() == saved_clock && object.is_some() && !edits.is_empty() {
            // The object has all of them already.
            shared.journal.settle(&key, number);
            edit_bytes = 0;
        }
        let is_new = object.is_none() && edits.is_empty();
        let effects = room.adopt(of_opening.as_ref())?;
        Ok::<_, OpenError>(OpenedDocument {
            room,
            saved_clock,
            number,
            edit_bytes,
            failures,
            is_new,
            last_history,
            effects,
        })
    });
    let mut opened = opening.await??;
    if let Some(application) = application {
        while let Some(Effect::Ask(question)) = opened.effects.pop_if(is_question) {
            let answer = application.pool.ask(question).await;
            let answering = spawn_blocking(move || {
                opened.effects = opened.room.answered(now, answer).map_err(OpenError::Migration)?;
                Ok::<_, OpenError>(opened)
            });
            opened = answering.await??;
        }
    }
    Ok(opened)
}

fn is_question(effect: &mut Effect) -> bool {
    matches!(effect, Effect::Ask(_))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use object_store::memory::InMemory;

    use super::super::objects::Objects;
    use super::super::settings::HostLimits;
    use super::*;
    use crate::journal::Journal;
    use crate::tlsync::TlsyncLimits;
    use crate::yjs::YjsLimits;

    #[tokio::test]
    async fn a_document_is_opened_after_a_save_that_its_room_has_left() {
        let name = format!("rowtide-opening-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let journal = Journal::open(&dir).expect("a journal");
        let kinds = BTreeMap::from([
            ("note".to_owned(), DocumentKind::Yjs(YjsLimits::default())),
            ("file".to_owned(), DocumentKind::Tlsync(TlsyncLimits::default())),
        ]);
        let objects = Objects::new(Arc::new(InMemory::new()), "test");
        let shared = Arc::new(Shared::new(HostLimits::default(), kinds, objects, journal));
        let document = DocumentId::new("note", "a").expect("a name");
        let under_way = shared.begin_save(&document).expect("the journal is open");
        shared.objects.save(&document, b"rubbish"[..].into(), None).await.expect("saved");
        let saving = async {
            // Until here an opening that does not wait has read what is there.
            for _ in 0..10 {
                shared.journal.catch_up().await;
                tokio::task::yield_now().await;
            }
            shared.objects.save(&document, [0, 0][..].to_vec().into(), None).await.expect("saved");
            drop(under_way);
        };
        let (opened, ()) = tokio::join!(open(&shared, &document), saving);
        opened.expect("it has what was saved at last");
        let drawing = DocumentId::new("file", "a").expect("a name");
        let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_millis();
        let opened = open(&shared, &drawing).await.expect("a new document");
        assert!(u128::from(opened.room.clock()) >= before, "clocks of one before are not repeated");
        assert_eq!(opened.saved_clock, opened.room.clock(), "there is nothing to save");
        shared.journal.close();
        assert!(shared.begin_save(&document).is_none(), "another host may save now");
        std::fs::remove_dir_all(&dir).ok();
    }
}
