//! Saving the document of a room: one save at a time, and none if nothing has changed. A room whose document another
//! server has written ends, and is opened again with both.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::failure::StorageError;
use super::super::mailbox::{DocumentError, Done};
use super::super::objects::{ObjectVersion, SaveError};
use super::super::shared::SaveUnderWay;
use super::super::telemetry;
use super::{AwakeTask, End, HEAVY_MESSAGE};

/// A save that is under way.
#[derive(Debug)]
pub(super) struct Save {
    task: JoinHandle<Result<ObjectVersion, SaveError>>,
    since: Instant,
    clock: u64,
    bytes: usize,
    /// The last edit that is in it.
    number: u64,
    unsaved_bytes: usize,
    /// It is not for the history alone.
    changed: bool,
    /// When the document had been saved for its history before.
    last_history: Option<SystemTime>,
    asked: Vec<Done>,
}

impl AwakeTask {
    pub(super) fn plan_save(&mut self) {
        let now = self.now();
        if self.is_dirty() {
            self.plan.changed(now);
            if self.members.is_empty() {
                self.plan.hurry(now);
            }
        }
    }

    pub(super) async fn begin_save_if_due(&mut self) {
        let due = self.plan.due().is_some_and(|due| due <= self.now());
        // What is not durable is in no save: nobody may hear of it in the end.
        if !due || self.save.is_some() || !self.waiting.is_empty() || self.end.is_some() {
            return;
        }
        self.plan.begin();
        if !self.is_dirty() && !self.for_history {
            for done in self.asked.drain(..) {
                done.send(Ok(())).ok();
            }
            return;
        }
        let heavy = self.room.document_bytes() > HEAVY_MESSAGE;
        let Some(snapshot) = self.ask(heavy, |room| room.snapshot()).await else { return };
        let Some(under_way) = self.shared.begin_save(&self.document) else { return };
        let changed = self.is_dirty();
        self.covered = self.room.clock();
        self.save = Some(self.save_task(snapshot, changed, under_way));
    }

    fn save_task(&mut self, snapshot: Bytes, changed: bool, under_way: SaveUnderWay) -> Save {
        let time = SystemTime::now();
        let every = self.shared.limits.history_every;
        let recent = |last: SystemTime| time.duration_since(last).is_ok_and(|since| since < every);
        let for_history = std::mem::take(&mut self.for_history);
        let last_history = self.last_history;
        let history_due = for_history || !last_history.is_some_and(recent);
        if history_due {
            self.last_history = Some(time);
        }
        let bytes = snapshot.len();
        let (objects, document) = (self.shared.objects.clone(), self.document.clone());
        let follows = self.version.clone();
        let task = tokio::spawn(async move {
            let saved = objects.save(&document, snapshot, follows, time, history_due).await;
            drop(under_way);
            saved
        });
        Save {
            task,
            since: Instant::now(),
            clock: self.covered,
            bytes,
            number: self.number,
            unsaved_bytes: self.unsaved_bytes,
            changed,
            last_history,
            asked: std::mem::take(&mut self.asked),
        }
    }

    pub(super) async fn saved(&mut self, result: Result<ObjectVersion, SaveError>) {
        let Some(save) = self.save.take() else { return };
        match result {
            Ok(version) => {
                telemetry::saved(save.bytes, save.since.elapsed());
                self.version = Some(version);
                self.plan.succeeded();
                self.is_new = false;
                self.shared.save_succeeded(&self.document);
                self.shared.journal.settle(&self.key, save.number);
                self.remove_unsaved(save.unsaved_bytes);
                if save.changed {
                    self.shared.tell_saved(&self.document, SystemTime::now());
                }
                for done in save.asked {
                    done.send(Ok(())).ok();
                }
            }
            Err(SaveError::Superseded) => {
                tracing::error!(
                    document = %self.document,
                    "another server has written a document that is open here; it is opened again with what both have"
                );
                telemetry::superseded();
                self.shared.superseded.fetch_add(1, Ordering::Relaxed);
                self.end.get_or_insert(End::Superseded);
                for done in save.asked {
                    done.send(Err(DocumentError::Unsaved)).ok();
                }
            }
            Err(SaveError::Storage(error)) => self.save_failed(save, error.to_string()),
        }
        self.refresh_refusing().await;
    }

    fn save_failed(&mut self, save: Save, error: String) {
        telemetry::save_failed();
        if self.shared.save_failed(&self.document, error.clone()) {
            tracing::error!(document = %self.document, error, "a document cannot be saved; it is tried again");
        }
        // The clock goes up only, so this says that there is something to save.
        self.covered = save.clock.wrapping_sub(1);
        self.last_history = save.last_history;
        let now = self.now();
        self.plan.failed(now);
        for done in save.asked {
            done.send(Err(DocumentError::Unsaved)).ok();
        }
    }
}

/// What becomes of the save that is under way. A save that panicked has not been one.
pub(super) async fn first_save(save: &mut Option<Save>) -> Result<ObjectVersion, SaveError> {
    match save {
        Some(save) => match (&mut save.task).await {
            Ok(result) => result,
            Err(error) => Err(SaveError::Storage(StorageError::Broken(error))),
        },
        None => pending().await,
    }
}
