//! Brings what must last to the storage, off the runtime's threads. Whatever has gathered while one
//! write was under way goes with the next. Mutations are written at once; outcomes, which the server
//! would tell again, with the next mutation or a little later.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::shared::{Batch, Shared, Stored};
use crate::storage::{Storage, StorageError};

/// How long outcomes may wait.
const LATER: Duration = Duration::from_secs(1);
/// The wait after an error of the storage.
const RETRY: Duration = Duration::from_secs(1);

type Written = (Box<dyn Storage>, Result<(), StorageError>);

/// See the module's text.
pub(crate) struct Journal {
    state: State,
    /// Records appended since the last compaction.
    written: usize,
    /// A compaction has failed: what the storage has is not known before one succeeds.
    replace: bool,
}

enum State {
    Idle(Box<dyn Storage>),
    Writing {
        task: JoinHandle<Written>,
        stored: Stored,
        records: usize,
        replaces: bool,
    },
    /// The storage panicked.
    Lost,
}

impl Journal {
    pub(crate) fn new(storage: Box<dyn Storage>) -> Journal {
        Journal { state: State::Idle(storage), written: 0, replace: false }
    }

    /// Stores whatever there is, for ever. May be dropped and called again at any time.
    pub(crate) async fn run(&mut self, shared: &Shared) {
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

    /// Stores what there is, outcomes alone only if `all` is to be stored. May be dropped and called
    /// again.
    ///
    /// # Errors
    /// When it cannot be stored; the same is tried again with the next call.
    pub(crate) async fn flush(&mut self, shared: &Shared, all: bool) -> Result<(), StorageError> {
        loop {
            if let State::Writing { task, stored, records, replaces } = &mut self.state {
                let joined = task.await;
                let (stored, records, replaces) = (*stored, *records, *replaces);
                let result = match joined {
                    Ok((storage, result)) => {
                        self.state = State::Idle(storage);
                        result
                    }
                    Err(error) => {
                        self.state = State::Lost;
                        Err(StorageError::Other(error.into()))
                    }
                };
                if replaces {
                    self.replace = result.is_err();
                    self.written = if self.replace { self.written } else { 0 };
                } else if result.is_ok() {
                    self.written += records;
                }
                shared.stored(stored, &result);
                result?;
            }
            let Some(batch) = shared.batch(all, self.written, self.replace) else { return Ok(()) };
            let State::Idle(mut storage) = std::mem::replace(&mut self.state, State::Lost) else {
                return Err(StorageError::Other("the storage has panicked".into()));
            };
            self.state = match batch {
                Batch::Append(records, stored) => State::Writing {
                    stored,
                    records: records.len(),
                    replaces: false,
                    task: tokio::task::spawn_blocking(move || {
                        let result = storage.append(&records);
                        (storage, result)
                    }),
                },
                Batch::Replace(records, stored) => State::Writing {
                    stored,
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
