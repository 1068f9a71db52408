//! Questions about the past of an epoch, and who answers them: the log on this machine's disk, and whatever
//! else holds its segments.

use std::sync::Arc;

use rowtide_plan::plan::TableId;
use rowtide_plan::row::Topic;
use rowtide_protocol::Lsn;
use thiserror::Error;

use crate::{Event, History};

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

/// Who knows the past of an epoch. Calls wait for a disk or a network: they are made from threads that may.
pub trait Past: Send + Sync {
    /// What happened in topics. Whoever calls has seen to it that `up_to` is covered.
    ///
    /// # Errors
    /// When it does not go back that far, is too much, or cannot be read.
    fn history(&self, query: &HistoryQuery) -> Result<History, PastError>;

    /// The transactions behind a position, whole and in order, with their acknowledgements: as many as have
    /// about `max_bytes`, and at least one if there is one.
    ///
    /// # Errors
    /// When it does not go back that far, or cannot be read.
    fn replay(&self, after: Lsn, max_bytes: usize) -> Result<Vec<Event>, PastError>;
}
