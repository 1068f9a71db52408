//! What documents are called.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// The longest name of a kind, in bytes.
const KIND_BYTES: usize = 64;

/// The longest id, in bytes, with what is percent-encoded in the key of an object counted as that: file systems take
/// 255, some of which is theirs.
const ID_BYTES: usize = 240;

/// A document: its kind, which the definition names, and its id, which is the key of its row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentId {
    kind: Arc<str>,
    id: Arc<str>,
}

/// Nothing can be called so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadDocumentId {
    /// A kind has letters, digits, `_` and `-`, and up to 64 of them.
    #[error("the name of a kind has letters, digits, `_` and `-`, and up to 64 of them")]
    Kind,
    /// An id is not empty and not too long.
    #[error("an id has at least one byte, and at most 240 when it is percent-encoded")]
    Id,
}

impl DocumentId {
    /// The document `id` of `kind`.
    ///
    /// # Errors
    /// If no document can be called so.
    pub fn new(kind: &str, id: &str) -> Result<DocumentId, BadDocumentId> {
        if kind.is_empty() || kind.len() > KIND_BYTES || !kind.bytes().all(plain) {
            return Err(BadDocumentId::Kind);
        }
        if !is_part(id) {
            return Err(BadDocumentId::Id);
        }
        Ok(DocumentId { kind: kind.into(), id: id.into() })
    }

    /// The name of its kind.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its id among those of its kind.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// As it is called in the journal.
    pub(super) fn key(&self) -> Arc<str> {
        format!("{}/{}", self.kind, self.id).into()
    }

    /// Which document the journal calls so.
    pub(super) fn of_key(key: &str) -> Option<DocumentId> {
        let (kind, id) = key.split_once('/')?;
        DocumentId::new(kind, id).ok()
    }
}

fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// Whether an id, or an address, can be a part of the key of an object.
pub(super) fn is_part(text: &str) -> bool {
    let encoded: usize = text.bytes().map(|byte| if plain(byte) { 1 } else { 3 }).sum();
    !text.is_empty() && encoded <= ID_BYTES
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.id)
    }
}
