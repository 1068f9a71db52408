//! Questions about the past of an epoch, which whoever owns the log answers, and why one may have no answer.

use std::sync::Arc;

use rowtide_plan::plan::TableId;
use rowtide_plan::row::Topic;
use rowtide_protocol::Lsn;
use thiserror::Error;

/// A question: what has changed in these topics. Of the interrupted tables all must be told that are among
/// `tables`.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryQuery {
    /// Each once.
    pub topics: Vec<Topic>,
    /// The tables of all topics that whoever asks could ever reach.
    pub tables: Arc<[TableId]>,
    /// Behind this position.
    pub after: Lsn,
    /// Up to this one.
    pub up_to: Lsn,
}

/// Why the past cannot be told. None of it is a matter of trying again at once.
#[derive(Debug, Error)]
pub enum PastError {
    /// The log does not go back that far.
    #[error("the log does not go back that far")]
    TooOld,
    /// It would be more than one answer may hold.
    #[error("there is more of it than one answer may hold")]
    TooMuch,
    /// The log cannot be read.
    #[error("the log cannot be read: {0}")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}
