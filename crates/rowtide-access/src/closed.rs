//! What those who come to documents are told of effects: which documents nobody may come to until they are deleted, and
//! that nothing is known before the stream was followed to its end. And what the effects are told of who came: which
//! documents have begun.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rowtide_documents::host::DocumentId;
use tokio::sync::watch;

use crate::limits::MOST_KNOWN_ROWS;
use crate::telemetry;

#[derive(Debug, Default)]
struct State {
    closed: BTreeSet<DocumentId>,
    /// It is known that they have begun, or begin with nothing.
    begun: BTreeSet<DocumentId>,
    /// Names for those of which that is not known.
    names: BTreeMap<DocumentId, String>,
    /// What has begun since it was asked for last.
    news: BTreeSet<DocumentId>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct EffectsShared {
    state: Mutex<State>,
    is_caught_up: watch::Sender<bool>,
}

impl EffectsShared {
    pub(crate) fn new() -> EffectsShared {
        EffectsShared { state: Mutex::default(), is_caught_up: watch::channel(false).0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody may come to these.
    pub(crate) fn close(&self, documents: Vec<DocumentId>) {
        if !documents.is_empty() {
            let mut state = self.state();
            for document in documents {
                state.begun.remove(&document);
                state.names.remove(&document);
                state.closed.insert(document);
            }
        }
    }

    /// Whoever may may come to these again.
    pub(crate) fn open(&self, documents: &[DocumentId]) {
        if !documents.is_empty() {
            let mut state = self.state();
            for document in documents {
                state.closed.remove(document);
            }
        }
    }

    /// Whether nobody may come to it; `revive` is called while that cannot change, if somebody may.
    pub(crate) fn is_closed(&self, document: &DocumentId, revive: impl FnOnce()) -> bool {
        let state = self.state();
        let is_closed = state.closed.contains(document);
        if !is_closed {
            revive();
        }
        is_closed
    }

    /// All that the stream says is known.
    pub(crate) fn caught_up(&self) {
        self.is_caught_up.send_replace(true);
    }

    /// Nothing is known any more: this server has not got the documents now.
    pub(crate) fn end(&self) {
        self.is_caught_up.send_replace(false);
        *self.state() = State::default();
    }

    /// Waits until all that the stream says is known. Cancel safe.
    pub(crate) async fn when_caught_up(&self) {
        // The sender is ours, so it is there.
        drop(self.is_caught_up.subscribe().wait_for(|is| *is).await);
    }

    /// Whether it is known that a document has begun, or begins with nothing.
    pub(crate) fn has_begun(&self, document: &DocumentId) -> bool {
        self.state().begun.contains(document)
    }

    /// A document has begun. Returns the name that it is to have by now, if it was told before.
    pub(crate) fn begun(&self, document: &DocumentId) -> Option<String> {
        let mut state = self.state();
        if state.begun.len() >= MOST_KNOWN_ROWS {
            state.begun.clear();
        }
        state.begun.insert(document.clone());
        state.news.insert(document.clone());
        state.names.remove(document)
    }

    /// A name for a document that may not have begun yet: it is given back, if it has.
    pub(crate) fn named(&self, document: &DocumentId, name: String) -> Option<String> {
        let mut state = self.state();
        if state.begun.contains(document) {
            return Some(name);
        }
        if state.names.len() >= MOST_KNOWN_ROWS {
            state.names.clear();
        }
        state.names.insert(document.clone(), name);
        None
    }

    /// What has begun since this was asked last.
    pub(crate) fn take_begun(&self) -> Vec<DocumentId> {
        std::mem::take(&mut self.state().news).into_iter().collect()
    }

    /// How many documents are to be seen to, and of how many nothing is tried any more.
    pub(crate) fn set_counts(&self, (waiting, failed): (usize, usize)) {
        telemetry::effects(waiting, failed);
    }
}
