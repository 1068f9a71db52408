//! Tells rows when their documents were saved, several of a kind at a time. It is done again while Postgres is away;
//! meanwhile the host remembers of each document the last save alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use rowtide_documents::host::{Host, SavedDocument};
use rowtide_feed::FeedState;
use rowtide_plan::plan::Plan;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_postgres::said_once::SaidOnce;
use rowtide_postgres::touch::{RowToucher, TouchError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use crate::limits::{MAX_PAUSE, MIN_PAUSE, TOUCHED_AT_ONCE};

/// Saves of one kind.
type Saves = Vec<(Arc<str>, i64)>;

/// Who waits until the rows of all documents that were saved before are told.
pub(crate) type WhenTold = oneshot::Sender<()>;

/// Runs until it is dropped.
pub(crate) async fn touch_rows(
    host: &Host,
    database: ConnectOptions,
    states: watch::Receiver<FeedState>,
    waiting: &mut mpsc::UnboundedReceiver<WhenTold>,
) {
    let (mut toucher, mut said) = (RowToucher::new(database), SaidOnce::default());
    loop {
        let mut by_kind: BTreeMap<Arc<str>, BTreeMap<Arc<str>, i64>> = BTreeMap::new();
        let mut next = tokio::select! {
            biased;
            saved = host.next_saved() => Some(saved),
            // All that was saved is told by now.
            Some(waits) = waiting.recv() => {
                waits.send(()).ok();
                continue;
            }
        };
        let mut count = 0;
        while let Some(SavedDocument { document, at }) = next {
            let saves = by_kind.entry(document.kind().into()).or_default();
            saves.insert(document.id().into(), milliseconds(at));
            count += 1;
            // It loses nothing when it is dropped.
            next = (count < TOUCHED_AT_ONCE).then(|| host.next_saved().now_or_never()).flatten();
        }
        for (kind, saves) in by_kind {
            let saves: Saves = saves.into_iter().collect();
            let mut pause = MIN_PAUSE;
            while let Err(error) = touch(&mut toucher, &states, &kind, &saves).await {
                if said.is_new(&error.to_string()) {
                    tracing::warn!(%error, "rows are not told yet that documents were saved");
                }
                sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
            said.clear();
        }
    }
}

/// # Errors
/// When it has to be done again.
async fn touch(
    toucher: &mut RowToucher,
    states: &watch::Receiver<FeedState>,
    kind: &str,
    saves: &Saves,
) -> Result<(), TouchError> {
    let plan: Option<Arc<Plan>> = states.borrow().plan.clone();
    let plan = plan.ok_or(TouchError::Unfit)?;
    match toucher.touch(&plan, kind, saves).await {
        Err(error) if error.is_of_rows() => {}
        other => return other,
    }
    // One of them is in the way of the others.
    for save in saves {
        match toucher.touch(&plan, kind, std::slice::from_ref(save)).await {
            Err(error) if error.is_of_rows() => {
                tracing::warn!(kind, %error, "a row is not told that its document was saved");
            }
            other => other?,
        }
    }
    Ok(())
}

fn milliseconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
