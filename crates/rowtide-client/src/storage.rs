//! Storages, in which a queue of mutations outlives its process. A storage keeps a list of records in
//! order, makes them durable before it returns, and does not interpret them.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::queue::{CorruptQueue, Record};

/// A durable list of records. Its methods may block: the client calls them on threads for blocking work. A
/// storage belongs to one client at a time.
pub trait Storage: Send + 'static {
    /// All records, in the order in which they were appended; none if it is new.
    ///
    /// # Errors
    /// When they cannot be read, or are damaged.
    fn load(&mut self) -> Result<Vec<Record>, StorageError>;

    /// Adds records behind all others. After `Ok` they outlive a crash of the process and of the machine.
    /// After an error none of them is stored, and the caller may try again.
    ///
    /// # Errors
    /// When they cannot be made durable.
    fn append(&mut self, records: &[Record]) -> Result<(), StorageError>;

    /// Replaces all records by these. After an error either all of the old or all of the new records are
    /// stored, and the client calls it again before it appends anything.
    ///
    /// # Errors
    /// When they cannot be made durable.
    fn replace(&mut self, records: &[Record]) -> Result<(), StorageError>;
}

/// Why a storage failed.
#[derive(Debug, Error)]
pub enum StorageError {
    /// An operation on a file failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another process, or another client of this one, uses the same queue.
    #[error("{} is in use by another client", path.display())]
    Locked {
        /// The queue's file.
        path: PathBuf,
    },
    /// The file is not a queue of this version.
    #[error("{} is not a queue that this version can read", path.display())]
    Format {
        /// The queue's file.
        path: PathBuf,
    },
    /// A line in the middle of the file cannot be read.
    #[error("line {line} of {} is damaged: {why}", path.display())]
    Damaged {
        /// The queue's file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The records can be read but do not make a queue.
    #[error(transparent)]
    Corrupt(#[from] CorruptQueue),
    /// Another error, of a storage that the application has written.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// A storage in memory. A clone of it for the next client has the queue of the one before.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    records: Vec<Record>,
}

impl MemoryStorage {
    /// An empty one.
    pub fn new() -> MemoryStorage {
        MemoryStorage::default()
    }
}

impl Storage for MemoryStorage {
    fn load(&mut self) -> Result<Vec<Record>, StorageError> {
        Ok(self.records.clone())
    }

    fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.records.extend_from_slice(records);
        Ok(())
    }

    fn replace(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.records = records.to_vec();
        Ok(())
    }
}
