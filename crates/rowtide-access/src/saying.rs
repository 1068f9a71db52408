//! Writes into rows why their documents are not published, and that they are: one at a time, so that the last word counts. Why
//! not is tried until it is written ([`LastWords`]); that all is well whoever says it waits for, and does nothing before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rowtide_documents::host::DocumentId;
use rowtide_feed::FeedState;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_postgres::said_once::SaidOnce;
use rowtide_postgres::touch::{RowToucher, TouchError};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::last_words::{LastWords, WordEnd};
use crate::limits::{EFFECTS_AT_ONCE, NEVER};

/// A document is well, as far as is known.
struct Well {
    document: DocumentId,
    done: oneshot::Sender<Result<(), TouchError>>,
}

/// Why documents are not published, for who writes it.
struct Reasons {
    words: Mutex<LastWords>,
    came: Notify,
    began: Instant,
}

impl Reasons {
    fn lock(&self) -> MutexGuard<'_, LastWords> {
        // Whole between any two statements that hold it.
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PublishErrors {
    says: mpsc::Sender<Well>,
    reasons: Arc<Reasons>,
    states: watch::Receiver<FeedState>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl PublishErrors {
    /// Starts to write.
    pub(crate) fn start(
        database: ConnectOptions,
        states: watch::Receiver<FeedState>,
    ) -> PublishErrors {
        let (says, said) = mpsc::channel(EFFECTS_AT_ONCE);
        let reasons = Arc::new(Reasons {
            words: Mutex::default(),
            came: Notify::new(),
            began: Instant::now(),
        });
        let writes = write(database, states.clone(), Arc::clone(&reasons), said);
        let task = Arc::new(AbortOnDropHandle::new(tokio::spawn(writes)));
        PublishErrors { says, reasons, states, _task: task }
    }

    /// Whether the kind has a column for it.
    fn has_column(&self, document: &DocumentId) -> bool {
        self.states.borrow().plan.as_ref().is_some_and(|plan| {
            let kind = plan.document_kind(document.kind());
            kind.and_then(|kind| kind.publishing?.error).is_some()
        })
    }

    /// Says why a document is not published, until its row does.
    pub(crate) fn failed(&self, document: &DocumentId, reason: String) {
        // Without a plan it is not known whether there is one.
        if self.states.borrow().plan.is_none() || self.has_column(document) {
            self.reasons.lock().say(document, reason, self.reasons.now());
            self.reasons.came.notify_one();
        }
    }

    /// Says that all is well with a document, as far as is known.
    ///
    /// # Errors
    /// When it was not written.
    pub(crate) async fn well(&self, document: &DocumentId) -> Result<(), TouchError> {
        self.reasons.lock().withdraw(document);
        if !self.has_column(document) {
            return Ok(());
        }
        let (done, is_done) = oneshot::channel();
        let well = Well { document: document.clone(), done };
        self.says.send(well).await.map_err(|_| TouchError::Silent)?;
        is_done.await.unwrap_or(Err(TouchError::Silent))
    }
}

async fn write(
    database: ConnectOptions,
    states: watch::Receiver<FeedState>,
    reasons: Arc<Reasons>,
    mut said: mpsc::Receiver<Well>,
) {
    let (mut toucher, mut known) = (RowToucher::new(database), SaidOnce::default());
    loop {
        let deadline = reasons.lock().deadline().unwrap_or(NEVER);
        tokio::select! {
            well = said.recv() => {
                let Some(Well { document, done }) = well else { return };
                done.send(say(&mut toucher, &states, &document, None).await).ok();
            }
            () = reasons.came.notified() => {}
            () = sleep_until(reasons.began + deadline) => {
                let word = reasons.lock().begin(reasons.now());
                let Some(word) = word else { continue };
                let written = say(&mut toucher, &states, &word.document, Some(&word.reason)).await;
                let end = match &written {
                    Ok(()) => WordEnd::Written,
                    Err(error) if error.is_of_rows() => WordEnd::Refused,
                    Err(_) => WordEnd::Away,
                };
                let is_given_up = reasons.lock().ended(&word, end, reasons.now());
                match written {
                    Ok(()) => known.clear(),
                    Err(error) if is_given_up => {
                        let (kind, id) = (word.document.kind(), word.document.id());
                        tracing::error!(kind, id, %error, "a row does not take why its document is not published");
                    }
                    Err(error) if known.is_new(&error.to_string()) => {
                        tracing::warn!(%error, "a row is not told yet why its document is not published");
                    }
                    Err(_) => {}
                }
            }
        }
    }
}

async fn say(
    toucher: &mut RowToucher,
    states: &watch::Receiver<FeedState>,
    document: &DocumentId,
    reason: Option<&str>,
) -> Result<(), TouchError> {
    let plan = states.borrow().plan.clone().ok_or(TouchError::Unfit)?;
    toucher.say_publish_error(&plan, document.kind(), document.id(), reason).await
}
