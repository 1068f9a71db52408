//! The Rust client: a live replica of the rows that one user may see, with the user's own changes
//! shown at once. [`Optimistic`] is the state (the rows as the server told them, [`Replica`], under the
//! mutations that are not settled) and does no I/O; [`Client`] keeps a connection, comes back after
//! every interruption as the protocol asks, and says what changed.

mod backoff;
mod client;
mod file_storage;
mod op;
mod optimistic;
mod overlay;
mod queue;
mod replica;
mod storage;

pub use client::{Client, ClientOptions, ConnectionError, Event, Status, TokenSource};
pub use file_storage::FileStorage;
pub use op::{Op, OpKind, row_of};
pub use optimistic::{ApplyError, MutateError, Optimistic, Outcome, Outgoing, Settled, Step};
pub use queue::{CorruptQueue, Record};
pub use replica::{Key, Replica, ReplicaError, Row, RowChange};
pub use storage::{MemoryStorage, Storage, StorageError};
