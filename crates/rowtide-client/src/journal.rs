//! Writes records to the storage, off the runtime's threads. All records that are added during one write
//! are the batch of the next. Mutations are written at once. Outcomes are written with the next mutation or
//! a little later, since the server would send a lost outcome again.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::shared::{SharedState, StorageWrite, WriteCounts};
use crate::storage::{Storage, StorageError};

/// How long outcomes may wait.
const LATER: Duration = Duration::from_secs(1);
/// The wait after an error of the storage.
const RETRY: Duration = Duration::from_secs(1);

type WriteResult = (Box<dyn Storage>, Result<(), StorageError>);

/// The writer of one client's storage. See the module's text.
pub(crate) struct Journal {
    state: JournalState,
    /// Records appended since the last compaction.
    written: usize,
    /// A compaction has failed. It has to be repeated, since nobody knows what the storage holds.
    replace: bool,
}

enum JournalState {
    Idle(Box<dyn Storage>),
    Writing {
        task: JoinHandle<WriteResult>,
        counts: WriteCounts,
        records: usize,
        replaces: bool,
    },
    /// The storage panicked.
    Lost,
}

impl Journal {
    pub(crate) fn new(storage: Box<dyn Storage>) -> Journal {
        Journal { state: JournalState::Idle(storage), written: 0, replace: false }
    }

    /// Stores all records, for ever. The future may be dropped, and the method called again, at any time.
    pub(crate) async fn run(&mut self, shared: &SharedState) {
        let mut later: Option<Instant> = None;
        loop {
            let due = later.is_some_and(|later| later <= Instant::now());
            if self.flush(shared, due).await.is_err() {
                sleep(RETRY).await;
                continue;
            }
            later = match shared.has_outcomes() {
                true => Some(later.filter(|_| !due).unwrap_or_else(|| Instant::now() + LATER)),
                false => None,
            };
            let wait = async {
                match later {
                    Some(later) => sleep_until(later).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shared.to_store.notified() => {}
                () = wait => {}
            }
        }
    }

    /// Stores the records of this moment; outcomes alone only with `all`. The future may be dropped, and the
    /// method called again.
    ///
    /// # Errors
    /// When they cannot be stored; the next call tries it again.
    pub(crate) async fn flush(
        &mut self,
        shared: &SharedState,
        all: bool,
    ) -> Result<(), StorageError> {
        loop {
            if let JournalState::Writing { task, counts, records, replaces } = &mut self.state {
                let joined = task.await;
                let (counts, records, replaces) = (*counts, *records, *replaces);
                let result = match joined {
                    Ok((storage, result)) => {
                        self.state = JournalState::Idle(storage);
                        result
                    }
                    Err(error) => {
                        self.state = JournalState::Lost;
                        Err(StorageError::Other(error.into()))
                    }
                };
                if replaces {
                    self.replace = result.is_err();
                    self.written = if self.replace { self.written } else { 0 };
                } else if result.is_ok() {
                    self.written += records;
                }
                shared.written(counts, &result);
                result?;
            }
            let Some(write) = shared.next_write(all, self.written, self.replace) else {
                return Ok(());
            };
            let JournalState::Idle(mut storage) =
                std::mem::replace(&mut self.state, JournalState::Lost)
            else {
                return Err(StorageError::Other("the storage has panicked".into()));
            };
            self.state = match write {
                StorageWrite::Append(records, counts) => JournalState::Writing {
                    counts,
                    records: records.len(),
                    replaces: false,
                    task: tokio::task::spawn_blocking(move || {
                        let result = storage.append(&records);
                        (storage, result)
                    }),
                },
                StorageWrite::Replace(records, counts) => JournalState::Writing {
                    counts,
                    records: records.len(),
                    replaces: true,
                    task: tokio::task::spawn_blocking(move || {
                        let result = storage.replace(&records);
                        (storage, result)
                    }),
                },
            };
        }
    }
}
