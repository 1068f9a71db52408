//! What a host is told when it starts, and its limits with their units.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::application::DocumentApplication;
use super::storage::StorageSettings;
use crate::tlsync::TlsyncLimits;
use crate::yjs::YjsLimits;

/// How a kind of documents is edited.
#[derive(Clone, Debug)]
pub enum DocumentKind {
    /// By tldraw's clients.
    Tlsync(TlsyncLimits),
    /// By tldraw's clients, with the application's own schema.
    TlsyncOf(TlsyncLimits, DocumentApplication),
    /// By clients of Yjs.
    Yjs(YjsLimits),
}

/// The kinds of documents, by name.
pub type DocumentKinds = BTreeMap<String, DocumentKind>;

impl DocumentKind {
    /// The application's schema, if it has one.
    pub(super) fn application(&self) -> Option<&DocumentApplication> {
        if let DocumentKind::TlsyncOf(_, application) = self { Some(application) } else { None }
    }
}

/// Where documents are.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// What the keys of all objects begin with, so that several deployments can share a storage.
    pub environment: String,
    /// Where objects are.
    pub storage: StorageSettings,
    /// The directory of the journal; nothing else may be in it.
    pub journal: PathBuf,
    /// How much may go on.
    pub limits: HostLimits,
}

/// How much may go on in a host.
#[derive(Clone, Debug)]
pub struct HostLimits {
    /// How many rooms may be awake at a time; who comes to another one is sent away, to come back.
    pub rooms_awake: usize,
    /// How many requests may wait for one room, beside one for each socket's leaving; who has another one waits.
    pub requests: usize,
    /// How many bytes of messages from clients may wait for one room; who sends more waits.
    pub inbox_bytes: usize,
    /// How many bytes may wait for one socket; one that is slower is closed, to come back.
    pub outbox_bytes: usize,
    /// How many frames may wait for one socket.
    pub outbox_frames: usize,
    /// How many bytes of one room may wait for the journal before the room hears nothing more until they are durable.
    pub waiting_bytes: usize,
    /// How long after the first edit that is not saved a document is saved.
    pub save_after: Duration,
    /// The first pause before a save that failed is tried again; it doubles with each.
    pub save_retry: Duration,
    /// The longest such pause.
    pub save_retry_max: Duration,
    /// How long one call of the storage may take, with its retries.
    pub storage_call: Duration,
    /// How many bytes of edits one document may have that are durable and not saved; beyond it the document can only be
    /// read until it is saved.
    pub unsaved_bytes: usize,
    /// Earlier states of a document are kept this far apart, at least; those older than an hour are thinned.
    pub history_every: Duration,
    /// How often it is looked for documents that have edits in the journal and no room that would save them.
    pub sweep_every: Duration,
}

impl Default for HostLimits {
    fn default() -> HostLimits {
        HostLimits {
            rooms_awake: 10_000,
            requests: 512,
            inbox_bytes: 32 << 20,
            outbox_bytes: 64 << 20,
            outbox_frames: 10_000,
            waiting_bytes: 64 << 20,
            save_after: Duration::from_secs(8),
            save_retry: Duration::from_secs(1),
            save_retry_max: Duration::from_secs(60),
            storage_call: Duration::from_secs(60),
            unsaved_bytes: 64 << 20,
            history_every: Duration::from_secs(60),
            sweep_every: Duration::from_secs(60),
        }
    }
}
