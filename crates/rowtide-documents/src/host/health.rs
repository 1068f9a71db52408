//! How a host is, for whoever watches it.

use std::collections::BTreeMap;

use super::naming::DocumentId;

/// How a host is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostHealth {
    /// Rooms that are awake.
    pub rooms_awake: usize,
    /// Sockets in them.
    pub sessions: usize,
    /// Bytes of edits that are in the journal alone.
    pub unsaved_bytes: usize,
    /// Documents whose last save failed, with what was said.
    pub saves_failing: BTreeMap<DocumentId, String>,
    /// How often a document was not saved because another server had written it.
    pub superseded: u64,
    /// Documents that could not be opened when they were wanted last, with what was said.
    pub unopened: BTreeMap<DocumentId, String>,
    /// The journal's segments, in bytes.
    pub journal_bytes: u64,
    /// The journal cannot be written: documents can only be read.
    pub journal_failing: bool,
}
