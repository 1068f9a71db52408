//! Opening a document: the object that was saved last, and then the edits that the journal has.
//!
//! The edits follow on the object, or are in it already, if it was a host with this journal that has put it. If another
//! server has, they were made of an older state: then they are merged into the newer one, as their authors would now make
//! them. What the other server has written is kept in the history before, and what does not fit is kept aside. So is what
//! leads to records that are not valid for the application's schema: such a record stays as the other server has left it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rowtide_schema::Unanswered;
use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};

use super::application::DocumentApplication;
use super::failure::StorageError;
use super::naming::DocumentId;
use super::objects::{ObjectVersion, Writer};
use super::room::{Room, UnreadableDocument};
use super::settings::DocumentKind;
use super::shared::Shared;
use super::telemetry;
use crate::journal::JournalError;
use crate::place::Effect;
use crate::tlsync::{MergedEdits, NewerSchema, SchemaFailure, TlsyncRoom};

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

impl OpenError {
    /// Whether it is what is stored that is not to be opened; otherwise it may be opened later, as when the application's
    /// schema did not answer.
    pub(super) fn is_of_the_document(&self) -> bool {
        matches!(self, OpenError::Object(_) | OpenError::Edit(_) | OpenError::Newer(_))
    }
}

/// A document that was opened.
#[derive(Debug)]
pub(super) struct OpenedDocument {
    pub(super) room: Room,
    /// The clock of the object.
    pub(super) saved_clock: u64,
    /// Which object that was, if there is one.
    pub(super) version: Option<ObjectVersion>,
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
    let (snapshot, version) = object.map(|object| (object.snapshot, object.version)).unzip();
    let written_by = version.as_ref().map(ObjectVersion::writer);
    let now = shared.now();
    let application =
        shared.kinds.get(document.kind()).and_then(DocumentKind::application).cloned();
    let (mut left_out, mut times) = (LeftOut::default(), 0);
    let (restored, effects) = loop {
        let (opens, of) = (Arc::clone(shared), document.clone());
        let (stored, without) = (snapshot.clone(), left_out.clone());
        let opening =
            spawn_blocking(move || restored(&opens, &of, stored.as_deref(), written_by, &without));
        let restored = opening.await??;
        let Some(application) = &application else { break (restored, Vec::new()) };
        match adopted(restored, application, &document.key(), now, &left_out).await? {
            Adopted::Whole(restored, effects) => break (*restored, effects),
            Adopted::Without(more) => {
                times += 1;
                left_out = if times < MERGES { more } else { LeftOut::All };
            }
        }
    };
    let Restored { room, saved_clock, number, edit_bytes, is_new, merged } = restored;
    let merged = merged.map(|merged| merged.unmerged);
    // Only now that it can be opened: whoever tries again and again would write this again and again.
    if let (Some(unmerged), Some(snapshot)) = (merged, snapshot) {
        telemetry::merged();
        shared.objects.keep_earlier(document, snapshot).await?;
        let unmerged_edits = unmerged.len();
        tracing::warn!(%document, unmerged_edits, "another server has written a document; edits of this one were merged");
        if !unmerged.is_empty() {
            shared.objects.set_aside(document, &unmerged).await?;
        }
    }
    Ok(OpenedDocument {
        room,
        saved_clock,
        version,
        number,
        edit_bytes,
        failures,
        is_new,
        last_history,
        effects,
    })
}

fn is_question(effect: &mut Effect) -> bool {
    matches!(effect, Effect::Ask(_))
}

/// What an object and the journal make together.
struct Restored {
    room: Room,
    saved_clock: u64,
    number: u64,
    edit_bytes: usize,
    is_new: bool,
    /// If edits were merged into what another server has written: what became of them.
    merged: Option<MergedEdits>,
}

/// How often edits are merged with more of them left out, before all are.
const MERGES: u32 = 4;

/// What of the edits in the journal does not go into what another server has written, since it would make records that are
/// not valid.
#[derive(Clone, Debug)]
enum LeftOut {
    /// What they do to these records.
    Of(BTreeSet<Box<str>>),
    All,
}

impl Default for LeftOut {
    fn default() -> LeftOut {
        LeftOut::Of(BTreeSet::new())
    }
}

impl LeftOut {
    fn has(&self, id: &str) -> bool {
        match self {
            LeftOut::Of(ids) => ids.contains(id),
            LeftOut::All => true,
        }
    }

    /// That and what is done to more records. Where they are all left out already, it is not known what is to blame.
    fn and(&self, more: BTreeSet<Box<str>>) -> LeftOut {
        match self {
            LeftOut::Of(ids) if more.iter().any(|id| !ids.contains(id)) => {
                LeftOut::Of(ids.union(&more).cloned().collect())
            }
            _ => LeftOut::All,
        }
    }
}

/// What the application's schema makes of a document that was restored.
enum Adopted {
    Whole(Box<Restored>, Vec<Effect>),
    /// It is to be restored with this left out.
    Without(LeftOut),
}

/// Brings a document up to the application's schema, and has what was merged into it validated.
async fn adopted(
    restored: Restored,
    application: &DocumentApplication,
    asker: &Arc<str>,
    now: Duration,
    left_out: &LeftOut,
) -> Result<Adopted, OpenError> {
    let Restored { mut room, saved_clock, number, edit_bytes, is_new, merged } = restored;
    let may_leave_out = merged.is_some() && !matches!(left_out, LeftOut::All);
    let mut effects = room.adopt(Some(application))?;
    while let Some(Effect::Ask(question)) = effects.pop_if(is_question) {
        let answer = application.pool.ask(asker, question).await;
        let is_over = answer == Err(Unanswered::Ended);
        let answering =
            spawn_blocking(move || room.answered(now, answer).map(|effects| (room, effects)));
        match answering.await? {
            Ok(brought_up) => (room, effects) = brought_up,
            // It may be what was merged that cannot be brought up.
            Err(_) if may_leave_out && !is_over => return Ok(Adopted::Without(LeftOut::All)),
            Err(error) => return Err(OpenError::Migration(error)),
        }
    }
    let changed = merged.as_ref().map(|merged| &merged.changed);
    if let Some(question) = changed.and_then(|changed| room.ask_of_records(changed)) {
        let invalid = match application.pool.ask(asker, question).await {
            Err(Unanswered::Ended) => Err(SchemaFailure::Unanswered(Unanswered::Ended)),
            // What it cannot look at is not known to be valid.
            Err(_) => return Ok(Adopted::Without(LeftOut::All)),
            Ok(answer) => TlsyncRoom::invalid(&answer),
        };
        let invalid = invalid.map_err(|error| OpenError::Migration(error.into()))?;
        if !invalid.is_empty() {
            return Ok(Adopted::Without(left_out.and(invalid)));
        }
    }
    let restored = Restored { room, saved_clock, number, edit_bytes, is_new, merged };
    Ok(Adopted::Whole(Box::new(restored), effects))
}

fn restored(
    shared: &Shared,
    document: &DocumentId,
    object: Option<&[u8]>,
    written_by: Option<Writer>,
    left_out: &LeftOut,
) -> Result<Restored, OpenError> {
    let kind = shared
        .kinds
        .get(document.kind())
        .ok_or_else(|| OpenError::Kind(document.kind().to_owned()))?;
    let key = document.key();
    let (edits, number) = shared.journal.edits(&key)?;
    // The time in milliseconds is beyond every clock of a document of this name that was deleted. Where there are edits,
    // the first of them says where the document began.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = since.as_millis() as u64;
    let begins_at = if edits.is_empty() { since } else { 0 };
    let open = || Room::open(kind, object, begins_at).map_err(OpenError::Object);
    let mut room = open()?;
    let mut saved_clock = room.clock();
    let mut merges = written_by == Some(Writer::Other) && !edits.is_empty();
    if !merges {
        for edit in &edits {
            match room.replay(edit) {
                Ok(()) => {}
                // An object was put there by nobody knows whom, or in the moment before what was merged was settled.
                Err(error) if error.is_misfit() && object.is_some() => {
                    merges = true;
                    room = open()?;
                    break;
                }
                Err(error) => return Err(OpenError::Edit(error)),
            }
        }
    }
    let mut merged = None;
    if merges {
        let of_edits = room.merge(&edits, |id| left_out.has(id)).map_err(OpenError::Edit)?;
        // It is to be saved, also if the object had all of it: then it is this host's.
        room.renumber(since);
        merged = Some(of_edits);
    } else if written_by == Some(Writer::Other) {
        room.renumber(since);
        saved_clock = room.clock();
    }
    let mut edit_bytes = edits.iter().map(|edit| edit.len()).sum();
    if room.clock() == saved_clock && object.is_some() && !edits.is_empty() {
        // The object has all of them already.
        shared.journal.settle(&key, number);
        edit_bytes = 0;
    }
    let is_new = object.is_none() && edits.is_empty();
    Ok(Restored { room, saved_clock, number, edit_bytes, is_new, merged })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::super::objects::Objects;
    use super::super::settings::HostLimits;
    use super::super::storage::Storage;
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
        let (store, root, lock) = (Arc::new(InMemory::new()), Path::default(), None);
        let storage =
            Storage { store, pages: None, root, conditional: false, directory: None, lock };
        let objects = Objects::new(storage, "test", journal.id(), Duration::from_secs(60));
        let shared = Arc::new(Shared::new(HostLimits::default(), kinds, objects, journal));
        let document = DocumentId::new("note", "a").expect("a name");
        let under_way = shared.begin_save(&document).expect("the journal is open");
        let save = async |snapshot: &'static [u8]| {
            let (objects, now) = (&shared.objects, SystemTime::now());
            objects.save(&document, snapshot.into(), None, now, false).await.expect("saved")
        };
        save(b"rubbish").await;
        let saving = async {
            // Until here an opening that does not wait has read what is there.
            for _ in 0..10 {
                shared.journal.catch_up().await;
                tokio::task::yield_now().await;
            }
            save(&[0, 0]).await;
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
