//! What is held against rows where the stream cannot say what has changed: all documents that are kept, and all rows that
//! are published. They come page by page, no faster than they are taken.

use std::sync::Arc;
use std::time::Duration;

use rowtide_documents::host::{DocumentId, Host};
use rowtide_plan::documents::PlannedKind;
use rowtide_plan::plan::Plan;
use rowtide_postgres::said_once::SaidOnce;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::desk::Desk;
use crate::limits::{MAX_PAUSE, MIN_PAUSE, RECONCILED_AT_ONCE};

/// After how many documents it is said how far it is.
const SAID_EVERY: usize = 10_000;

/// The documents that are to be seen to.
pub(crate) struct Reconciling {
    pages: mpsc::Receiver<Page>,
    _task: AbortOnDropHandle<()>,
    seen: usize,
}

/// Some of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Some(Vec<DocumentId>),
    /// These were all.
    Last,
}

impl Reconciling {
    /// Begins with the first.
    pub(crate) fn begin(host: Arc<Host>, desk: Desk, plan: Arc<Plan>) -> Reconciling {
        let (sends, pages) = mpsc::channel(1);
        let task = AbortOnDropHandle::new(tokio::spawn(send(host, desk, plan, sends)));
        Reconciling { pages, _task: task, seen: 0 }
    }

    /// The next ones. Cancel safe.
    pub(crate) async fn next(&mut self) -> Page {
        let page = self.pages.recv().await.unwrap_or(Page::Last);
        match &page {
            Page::Some(documents) => {
                let before = self.seen / SAID_EVERY;
                self.seen += documents.len();
                if self.seen / SAID_EVERY > before {
                    tracing::info!(documents = self.seen, "documents are held against their rows");
                }
            }
            Page::Last => {
                tracing::info!(documents = self.seen, "all documents were held against their rows");
            }
        }
        page
    }
}

/// The kinds of documents that can be seen to, and by which columns.
pub(crate) fn kinds(plan: &Plan) -> String {
    let of = |kind: &PlannedKind| {
        let table = &plan.table(kind.table).catalog;
        format!("{} {}.{} {:?}", kind.name, table.schema, table.name, kind.publishing)
    };
    plan.documents.iter().map(of).collect::<Vec<_>>().join("\n")
}

/// Whether a row can have a document's id, as far as the plan says: of what none can have there is nothing to ask.
pub(crate) fn is_possible(plan: &Plan, document: &DocumentId) -> bool {
    let kind = plan.document_kind(document.kind());
    kind.is_none_or(|kind| kind.document_id(document.id()).as_deref() == Some(document.id()))
}

async fn send(host: Arc<Host>, desk: Desk, plan: Arc<Plan>, pages: mpsc::Sender<Page>) {
    for planned in &plan.documents {
        let kind: &Arc<str> = &planned.name.as_str().into();
        let stored = until_done("stored documents", || host.stored(kind)).await;
        let is_possible = |document: &DocumentId| is_possible(&plan, document);
        let (stored, others): (Vec<_>, Vec<_>) = stored.into_iter().partition(is_possible);
        if !others.is_empty() {
            let documents = others.len();
            tracing::warn!(
                documents,
                kind = &**kind,
                "stored documents have ids that no row can have; they stay"
            );
        }
        for page in stored.chunks(RECONCILED_AT_ONCE) {
            if pages.send(Page::Some(page.to_vec())).await.is_err() {
                return;
            }
        }
        let mut after = None;
        loop {
            let behind: &Option<String> = &after;
            let ask = || desk.published(kind, behind.clone());
            let ids = until_done("rows that are published", ask).await;
            after = ids.last().cloned();
            let documents = ids.iter().filter_map(|id| DocumentId::new(kind, id).ok());
            let is_last = ids.len() < RECONCILED_AT_ONCE;
            let documents = documents.filter(is_possible).collect();
            if pages.send(Page::Some(documents)).await.is_err() {
                return;
            }
            if is_last {
                break;
            }
        }
    }
    pages.send(Page::Last).await.ok();
    // Whoever takes them ends this.
    std::future::pending().await
}

async fn until_done<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    look: impl Fn() -> F,
) -> T {
    let (mut pause, mut said): (Duration, _) = (MIN_PAUSE, SaidOnce::default());
    loop {
        match look().await {
            Ok(found) => return found,
            Err(error) if said.is_new(&error.to_string()) => {
                tracing::warn!(%error, "{what} cannot be listed; it is tried again");
            }
            Err(_) => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
