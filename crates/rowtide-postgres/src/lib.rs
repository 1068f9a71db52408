//! Everything that speaks to Postgres: the stream, the loads, the catalog, set-up, and the private
//! cluster of `rowtide dev` and the tests. Nothing in here knows sessions or clients' sockets.

pub mod assemble;
pub mod catalog;
pub mod check;
pub mod client_registry;
pub mod cluster;
pub mod connect;
mod context;
mod document_rights;
mod handshake;
mod intake;
pub mod load;
pub mod migrate;
pub mod mutate;
pub mod named_outcomes;
pub mod pgoutput;
mod published;
mod rights;
pub mod rules;
pub mod said_once;
pub mod sample;
mod sequences;
mod session;
pub mod setup;
pub mod sightings;
pub mod slot;
pub mod slot_making;
pub mod standings;
pub mod stream;
pub mod table_trouble;
mod tls;
pub mod touch;
pub mod trial;
pub mod unseen;
pub mod wal;
mod walsender;
pub mod watch;
