//! The log: the durable history of the stream. Every change is stored once, in commit order, with an
//! index by topic, so that a client that was away is sent what it missed and nothing else. There is
//! one writer, which owns the directory; readers do not block it and see all that was appended.
//!
//! A log is a row of *segments*, each a SQLite database of its own. Only the newest is written, and
//! history is forgotten by removing the oldest whole.

mod log;
mod reader;
mod record;
mod segment;

pub use log::{Began, Entry, Identity, Log, LogError, LogOptions, Opened};
pub use reader::{Committed, HistoryError, LogReader, Statistics};
pub use record::{Damaged, parse_change};
