//! The gateway serves clients. It follows the feed with engines, each at its own pace, loads the rows that they
//! need, keeps the sessions of clients, and applies their mutations. What decides is in pure cores (inputs in,
//! effects out): the engine's [`worker`], the [`send_queue`], the [`session`], the [`opening`] of its place, what is read of its client ([`listening`]), the [`registry`] and [`claiming`] of client ids, the
//! [`scheduler`] of mutations and each [`attempt`] at one, the [`rate`], the [`admission`] of connections, the [`gate`] of strangers; beside each is a thin shell that carries its effects. The simulation runs the cores.
//!
//! Entry points: [`Gateway::start`] puts all of it together, `connection.rs` is the loop of one socket, `engines.rs`
//! follows the feed's generations.

pub mod admission;
pub mod attempt;
pub mod auth;
pub mod claiming;
mod claims;
mod connection;
pub mod conversation;
mod deflater;
mod engine_thread;
mod engines;
pub mod frames;
pub mod garbage;
pub mod gate;
mod gateway;
mod health;
mod held_socket;
mod http;
mod http_server;
pub mod limits;
pub mod listening;
mod loads;
mod now;
pub mod opening;
mod outcomes;
mod outlet;
pub mod pace;
pub mod progress;
pub mod rate;
pub mod registry;
pub mod scheduler;
pub mod send_queue;
pub mod session;
mod telemetry;
#[cfg(test)]
mod testing;
mod visitor;
pub mod worker;
mod writer;

pub use admission::ClientOrigin;
pub use connection::Saying;
pub use gateway::{Gateway, GatewayOptions};
pub use health::EnginesHealth;
pub use held_socket::{HeldEnd, HeldFrame, HeldSocket};
pub use http::{NoUpgrade, Upgrade, bearer};
pub use http_server::serve;
pub use now::Now;
pub use opening::{NotServing, OpenRequest};
pub use outlet::Outlet;
pub use telemetry::Limit;
