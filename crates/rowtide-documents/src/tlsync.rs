//! Rooms for tldraw's clients, which speak tlsync: versions 7 and 8, and 5 and 6 as far as they are the same.
//!
//! A document is a set of records and a clock. Clients change records at once and push diffs of them; the
//! [`TlsyncRoom`] puts the pushes of all in one order, tells each client what became of its own, and everybody else what
//! happened. A client that was away says the last clock that it knows, and is told what has changed since.

mod application;
mod diff;
mod document;
mod edition;
mod json;
mod limits;
mod message;
mod outbox;
mod parts;
mod record;
mod room;
mod schema;
mod session;
mod snapshot;
mod surrogates;
mod survey;
mod telling;

pub use application::{NewerSchema, TlsyncSchema, TlsyncSchemaError};
pub use limits::TlsyncLimits;
pub use room::{MergedEdits, SchemaFailure, TlsyncRoom};
pub use snapshot::{ReplayError, SnapshotError};
