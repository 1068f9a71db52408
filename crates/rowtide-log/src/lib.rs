//! The log: the feed, durable. Every change is stored once, in commit order, with an index by topic, so
//! that a client that was away is sent what it missed and nothing else, and with all that the feed
//! carries, so that whoever follows it can be brought all of it again. There is one writer, which owns the
//! directory; readers do not block it and see all that was appended.
//!
//! A log is a row of *segments*, each a SQLite database of its own. Only the newest is written, and
//! old transactions are let go by removing the oldest segment whole. What is a rule and not a matter of
//! disks is in [`rules`].

mod identity;
mod log;
mod note;
mod reader;
pub mod rules;
mod segment;
mod state;

pub use identity::LogIdentity;
pub use log::{Log, LogError, LogOptions, Opened};
pub use reader::{Committed, HistoryError, LogReader, Statistics};
pub use rules::Began;
pub use segment::Damaged;
