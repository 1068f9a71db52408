//! Clients of tlsync, and a world of them around a room.

pub(crate) mod anything;
pub(crate) mod client;
pub(crate) mod diff;
pub(crate) mod world;
