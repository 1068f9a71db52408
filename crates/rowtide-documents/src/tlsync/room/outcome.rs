//! What passes between those who judge a push and those who tell of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Number;

use super::super::diff::Flavour;
use super::super::document::Change;
use super::super::edition::EditionId;
use super::super::message::Protocol;
use super::super::schema::Schema;
use super::super::telling::Became;

/// A push, as far as its answer depends on it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) clock: Number,
    pub(super) presence_alone: bool,
    pub(super) mended: bool,
    pub(super) flavour: Flavour,
}

/// What a client that is let in speaks, and what it has of the document.
pub(super) struct Accepted {
    pub(super) protocol: Protocol,
    /// Its schema, or an equal one.
    pub(super) schema: Arc<Schema>,
    pub(super) edition: Option<EditionId>,
}

/// What became of the document, and of each edition.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) change: Change,
    pub(super) editions: BTreeMap<EditionId, Change>,
    /// Editions that could not follow.
    pub(super) lost: Vec<EditionId>,
    /// What became of what the session shows of itself.
    pub(super) shown: Option<Became>,
}

impl Asked {
    /// Whether a change is just what was asked for.
    pub(super) fn is_exact(&self, change: &Change) -> bool {
        change.exact && !self.mended
    }
}

impl Outcome {
    /// Nothing but the document has changed.
    pub(super) fn of(change: Change) -> Outcome {
        Outcome { change, editions: BTreeMap::new(), lost: Vec::new(), shown: None }
    }
}
