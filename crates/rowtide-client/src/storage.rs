//! Where a queue of mutations outlives its process. A storage keeps a list of records in order, makes
//! them durable before it returns, and understands nothing of them.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::queue::{CorruptQueue, Record};

/// A durable list of records. Its methods may block: the client calls them where that harms nobody.
/// One storage belongs to one client at a time.
pub trait Storage: Send + 'static {
    /// All records, in the order in which they were appended; none if it is new.
    ///
    /// # Errors
    /// When they cannot be read, or are not what was written.
    fn load(&mut self) -> Result<Vec<Record>, StorageError>;

    /// Adds records behind all others. After `Ok` they are there whatever happens to the process or
    /// the machine; after an error none of them is, and the same may be tried again.
    ///
    /// # Errors
    /// When they cannot be made durable.
    fn append(&mut self, records: &[Record]) -> Result<(), StorageError>;

    /// Puts these records in the place of all others. After an error all of the old ones or all of the
    /// new ones are there, and it is called again before anything is appended.
    ///
    /// # Errors
    /// When they cannot be made durable.
    fn replace(&mut self, records: &[Record]) -> Result<(), StorageError>;
}

/// What is wrong with a storage.
#[derive(Debug, Error)]
pub enum StorageError {
    /// The system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
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
    /// What a storage of the application's own says.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// A storage that ends with its process. Taken over from client to client it keeps the queue.
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
