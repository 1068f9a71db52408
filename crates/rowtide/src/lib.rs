//! The Rowtide server: the library behind the binary, so that tests can run it in their own process.

pub mod application;
pub mod cli;
mod client_args;
pub mod config;
pub mod dev;
pub mod former_names;
mod health;
mod init;
pub mod limits;
pub mod log_filter;
mod metric_help;
mod mutate;
mod operate;
pub mod playground;
mod said;
pub mod server;
pub mod stopping;
mod subscribing;
mod telemetry;
mod terminal;
mod types;
pub mod watch;

pub use health::Health;
pub use rowtide_gateway::auth;
