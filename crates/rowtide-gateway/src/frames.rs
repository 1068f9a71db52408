//! The frames of a snapshot, made when a session has room for them and not before. Sessions that are sent the
//! same snapshot share a frame for as long as one of them still has it: so memory grows by what is in
//! sockets, and not by the sessions that connect. To deflate a frame costs much more than to make it, so what was
//! deflated is kept for as long as several sessions are being sent the snapshot, up to a size.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use rowtide_engine::{Place, Slice, ViewRows};
use rowtide_plan::map::IdMap;
use rowtide_plan::plan::Plan;
use rowtide_protocol::{Deflated, TextFrame, snapshot_frame};

use crate::garbage::Garbage;
use crate::limits::KEPT_DEFLATED_BYTES;

/// About how many bytes of rows go into one frame.
pub const FRAME_BYTES: usize = 64 * 1024;
/// How many rows messages that wait may have together and be folded into one frame, if none of them has more by itself.
pub const FRAME_ROWS: usize = 1_000;
/// How often a snapshot is held on behalf of one session: by its queue, and by who makes a frame of it.
const HOLDS_OF_ONE: usize = 2;

/// A snapshot and the frames of it that some session has.
#[derive(Debug)]
pub struct SnapshotFrames {
    /// Taken out when it is dropped, and only then.
    rows: Option<Arc<ViewRows>>,
    frames: Mutex<Frames>,
    garbage: Garbage,
}

#[derive(Debug, Default)]
struct Frames {
    made: IdMap<Place, Weak<Made>>,
    /// What is kept, also when nobody has the frame any more.
    deflated: IdMap<Place, Deflated>,
    /// The bytes of the texts of these, which are more than theirs.
    kept_bytes: usize,
}

/// One frame.
#[derive(Debug)]
struct Made {
    frame: TextFrame,
    rows: u64,
    next: Place,
}

/// A session's share of a frame.
struct Share(Arc<Made>);

impl AsRef<[u8]> for Share {
    fn as_ref(&self) -> &[u8] {
        self.0.frame.text()
    }
}

/// A frame, how many rows are in it, and where the next begins.
pub struct SnapshotFrame {
    /// The frame.
    pub frame: TextFrame,
    /// How many rows it holds.
    pub rows: u64,
    /// Where the next one begins.
    pub next: Place,
}

impl SnapshotFrames {
    /// No frame of these rows is made yet.
    pub fn new(rows: Arc<ViewRows>, garbage: Garbage) -> SnapshotFrames {
        SnapshotFrames { rows: Some(rows), frames: Mutex::default(), garbage }
    }

    /// Whether these are the frames of that snapshot.
    pub fn are_of(&self, rows: &Arc<ViewRows>) -> bool {
        self.rows.as_ref().is_some_and(|own| Arc::ptr_eq(own, rows))
    }

    /// The rows that begin at a place, for those who do not speak in frames; `None` behind the last.
    pub fn slice(&self, at: Place) -> Option<Slice<'_>> {
        self.rows.as_ref()?.slice(at, FRAME_BYTES)
    }

    /// The frame that begins at a place; `None` behind the last.
    pub fn frame(self: &Arc<Self>, plan: &Plan, at: Place) -> Option<SnapshotFrame> {
        let (made, deflated) = {
            let frames = self.lock();
            let made = frames.made.get(&at).and_then(Weak::upgrade);
            (made, frames.deflated.get(&at).cloned().unwrap_or_default())
        };
        let made = match made {
            Some(made) => made,
            None => {
                let slice = self.slice(at)?;
                let rows = slice.rows.iter().map(|row| &row.json[..]);
                let frame = snapshot_frame(&plan.table(slice.table).name_json, rows);
                let rows = slice.rows.len() as u64;
                let frame = TextFrame::with(frame, deflated);
                let made = Arc::new(Made { frame, rows, next: slice.next });
                // Another session may have been as fast; then its frame goes when it is written.
                self.lock().made.insert(at, Arc::downgrade(&made));
                made
            }
        };
        if Arc::strong_count(self) > HOLDS_OF_ONE
            && let Some(deflated) = made.frame.form()
        {
            self.lock().keep(at, deflated, made.frame.text().len());
        }
        let (rows, next) = (made.rows, made.next);
        let deflated = made.frame.form().cloned().unwrap_or_default();
        let frame = TextFrame::with(Bytes::from_owner(Share(made)), deflated);
        Some(SnapshotFrame { frame, rows, next })
    }

    /// How many frames some session has at the moment.
    #[cfg(test)]
    pub(crate) fn alive(&self) -> usize {
        self.lock().made.values().filter(|made| made.strong_count() > 0).count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Frames> {
        // A map of what can be made again: a panic elsewhere cannot spoil it.
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Frames {
    /// Keeps the deflated form of a text of so many bytes, if there is room.
    fn keep(&mut self, at: Place, deflated: &Deflated, text_bytes: usize) {
        let kept_bytes = self.kept_bytes + text_bytes;
        if kept_bytes <= KEPT_DEFLATED_BYTES && !self.deflated.contains_key(&at) {
            self.deflated.insert(at, deflated.clone());
            self.kept_bytes = kept_bytes;
        }
    }
}

impl Drop for SnapshotFrames {
    /// Perhaps nobody else has these rows any more.
    fn drop(&mut self) {
        if let Some(rows) = self.rows.take() {
            self.garbage.throw(rows);
        }
    }
}
