//! Why a segment cannot be used, read or written. What is damaged stays so, and what the storage engine
//! could not do may pass: opening a log asks for the one or the other, and so the two are kept apart.

use std::io;

use rowtide_feed::codec::DecodeError;
use thiserror::Error;

use crate::rules;

/// What was read is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Damaged {
    /// A record is not what was written at this position.
    #[error("a record of the log is damaged: {0}")]
    Record(#[from] DecodeError),
    /// There is no record where there should be one.
    #[error("a record of the log is missing")]
    NoRecord,
}

/// Why a file cannot be used as a segment.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// For good.
    Unfit(rules::Unusable),
    /// It could not be read, for a reason that may pass.
    Failed(rusqlite::Error),
}

impl Unusable {
    pub(super) fn damaged(why: impl ToString) -> Unusable {
        Unusable::Unfit(rules::Unusable::Damaged(why.to_string()))
    }
}

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Unusable {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, Unknown};
        // Without a code it is a column that is not what the schema says; `Unknown` is a table that is
        // not there.
        match error.sqlite_error_code() {
            None | Some(DatabaseCorrupt | NotADatabase | Unknown) => Unusable::damaged(error),
            Some(_) => Unusable::Failed(error),
        }
    }
}

impl From<Damaged> for Unusable {
    fn from(damaged: Damaged) -> Unusable {
        Unusable::damaged(damaged)
    }
}

/// A record could not be read.
#[derive(Debug, Error)]
pub(crate) enum Unreadable {
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error(transparent)]
    Storage(#[from] rusqlite::Error),
}

impl From<Unreadable> for Unusable {
    fn from(unreadable: Unreadable) -> Unusable {
        match unreadable {
            Unreadable::Damaged(damaged) => damaged.into(),
            Unreadable::Storage(error) => error.into(),
        }
    }
}

/// A segment could not be made or written.
#[derive(Debug, Error)]
pub(crate) enum SegmentError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

impl From<rusqlite::Error> for SegmentError {
    fn from(error: rusqlite::Error) -> SegmentError {
        SegmentError::Unreadable(error.into())
    }
}
