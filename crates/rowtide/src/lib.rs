//! The Rowtide server: the library behind the binary, so that tests can run it in their own process.

pub mod auth;
pub mod hub;
pub mod limits;
mod registry;
pub mod server;
mod session;
