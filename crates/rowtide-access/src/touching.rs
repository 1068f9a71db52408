//! Tells rows when their documents were saved, several of a kind at a time. It is done again while Postgres is away, and of
//! rows that somebody has locked, which keep no others waiting; of each document the last save alone is remembered.

use std::collections::{BTreeMap, BTreeSet};
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

/// When documents of one kind were saved, in milliseconds since 1970.
type Saves = BTreeMap<Arc<str>, i64>;

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
    let mut untold: BTreeMap<Arc<str>, Saves> = BTreeMap::new();
    let mut pause = MIN_PAUSE;
    loop {
        let mut next = None;
        if untold.is_empty() {
            pause = MIN_PAUSE;
            said.clear();
            tokio::select! {
                biased;
                saved = host.next_saved() => next = Some(saved),
                // All that was saved is told by now.
                Some(waits) = waiting.recv() => {
                    waits.send(()).ok();
                    continue;
                }
            }
        } else {
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        for _ in 0..TOUCHED_AT_ONCE {
            // It loses nothing when it is dropped.
            let saved = next.take().or_else(|| host.next_saved().now_or_never());
            let Some(SavedDocument { document, at }) = saved else { break };
            let saves = untold.entry(document.kind().into()).or_default();
            saves.insert(document.id().into(), milliseconds(at));
        }
        for (kind, saves) in &mut untold {
            match touch(&mut toucher, &states, kind, saves).await {
                Ok(locked) => saves.retain(|id, _| locked.contains(&**id)),
                Err(error) => {
                    if said.is_new(&error.to_string()) {
                        tracing::warn!(%error, "rows are not told yet that documents were saved");
                    }
                }
            }
        }
        untold.retain(|_, saves| !saves.is_empty());
    }
}

/// Tells rows, and returns the ids of those that somebody has locked.
///
/// # Errors
/// When it has to be done again.
async fn touch(
    toucher: &mut RowToucher,
    states: &watch::Receiver<FeedState>,
    kind: &str,
    saves: &Saves,
) -> Result<BTreeSet<String>, TouchError> {
    let plan: Option<Arc<Plan>> = states.borrow().plan.clone();
    let plan = plan.ok_or(TouchError::Unfit)?;
    let saves: Vec<_> = saves.iter().map(|(id, at)| (Arc::clone(id), *at)).collect();
    match toucher.touch(&plan, kind, &saves).await {
        Err(error) if error.is_of_rows() && !error.is_of_a_lock() => {}
        other => return other.map(BTreeSet::from_iter),
    }
    // One of them is in the way of the others.
    let mut locked = BTreeSet::new();
    for save in &saves {
        match toucher.touch(&plan, kind, std::slice::from_ref(save)).await {
            Err(error) if error.is_of_rows() && !error.is_of_a_lock() => {
                tracing::warn!(kind, %error, "a row is not told that its document was saved");
            }
            other => locked.extend(other?),
        }
    }
    Ok(locked)
}

fn milliseconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
