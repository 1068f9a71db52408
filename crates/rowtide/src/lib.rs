//! The Rowtide server: the library behind the binary, so that tests can run it in their own process.

pub mod application;
pub mod auth;
pub mod cli;
mod client_args;
pub mod config;
pub mod dev;
pub mod hub;
pub mod limits;
mod mutate;
mod older;
pub mod playground;
mod rate;
mod registry;
pub mod server;
mod session;
mod socket;
mod telemetry;
mod types;
pub mod watch;
mod writer;
