//! The Rust client: a live replica of the rows that one user may see. [`Replica`] applies the
//! protocol's messages and does no I/O; [`Client`] keeps a connection, comes back after every
//! interruption as the protocol asks, and says what changed.

mod backoff;
mod client;
mod replica;

pub use client::{Client, ClientOptions, ConnectionError, Event, Status, TokenSource};
pub use replica::{Key, Replica, ReplicaError, Row, RowChange};
