//! The engine: topics, views and sessions as a plain state machine. Inputs go in (a transaction of
//! the stream, a load that arrived, a session that came or went, a tick), outputs come out (send
//! this to that session); loads, and questions to the log, are taken from it when the caller is ready to ask. There is
//! no I/O, no clock and no randomness in here, so that a whole deployment can be simulated from a
//! seed, and in test builds every step checks the engine's invariants.

mod engine;
mod load;
mod loads;
mod message;
mod recent;
mod resume;
mod rows;
mod rows_by_value;
mod sessions;
mod sets;
mod topic;
mod topics;
mod touched;
mod transaction_snapshot;
mod turns;
mod view;
mod view_rows;
mod views;
mod window;

#[cfg(test)]
mod invariants;
#[cfg(test)]
mod large_views;
#[cfg(test)]
mod model;

pub use engine::{Counts, Engine, Input, Output, Subscriptions};
pub use load::{Load, LoadId, Loaded};
pub use message::ViewMessage;
pub use recent::MAX_RECENT_BYTES;
pub use resume::{HistoryId, HistoryRequest, MAX_RESUME_BYTES, MAX_RESUME_TICKS};
pub use rows::TopicRows;
pub use sessions::{Opening, SessionId, Subscribing, SubscriptionId};
pub use sets::FrozenSets;
pub use transaction_snapshot::{InvalidSnapshot, TransactionSnapshot};
pub use view_rows::{Place, Slice, ViewRows};
