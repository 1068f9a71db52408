//! Writes into rows why their documents are not published, and that they are: one at a time, and again where Postgres does
//! not do it, so that the last word counts.

use std::sync::Arc;

use rowtide_documents::host::DocumentId;
use rowtide_feed::FeedState;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_postgres::touch::{RowToucher, TouchError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::limits::EFFECTS_AT_ONCE;

struct Said {
    document: DocumentId,
    reason: Option<String>,
    done: oneshot::Sender<Result<(), TouchError>>,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PublishErrors {
    says: mpsc::Sender<Said>,
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
        let task = AbortOnDropHandle::new(tokio::spawn(write(database, states.clone(), said)));
        PublishErrors { says, states, _task: Arc::new(task) }
    }

    /// Says why a document is not published, or that all is well; nothing where its kind has no column for it.
    ///
    /// # Errors
    /// When it was not written.
    pub(crate) async fn say(
        &self,
        document: &DocumentId,
        reason: Option<String>,
    ) -> Result<(), TouchError> {
        let has_column = self.states.borrow().plan.as_ref().is_some_and(|plan| {
            let kind = plan.document_kind(document.kind());
            kind.and_then(|kind| kind.publishing?.error).is_some()
        });
        if !has_column {
            return Ok(());
        }
        let (done, is_done) = oneshot::channel();
        let said = Said { document: document.clone(), reason, done };
        self.says.send(said).await.map_err(|_| TouchError::Silent)?;
        is_done.await.unwrap_or(Err(TouchError::Silent))
    }
}

async fn write(
    database: ConnectOptions,
    states: watch::Receiver<FeedState>,
    mut said: mpsc::Receiver<Said>,
) {
    let mut toucher = RowToucher::new(database);
    while let Some(Said { document, reason, done }) = said.recv().await {
        let plan = states.borrow().plan.clone();
        let written = match plan {
            Some(plan) => {
                let (kind, id) = (document.kind(), document.id());
                toucher.say_publish_error(&plan, kind, id, reason.as_deref()).await
            }
            None => Err(TouchError::Unfit),
        };
        done.send(written).ok();
    }
}
