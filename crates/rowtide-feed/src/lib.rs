//! The feed: one interface between what reads Postgres and what serves clients. Committed transactions
//! travel through it in commit order, each routed already, together with what there is to say about the
//! database. Nothing in it needs both sides to be in one process.

mod change;

pub use change::{Acknowledgement, Change, Changes, History, RowChange, Transaction};
