//! Where the edits are that are of use: by document, and how many there are in each segment.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::format::edit_bytes;

/// A segment's file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: File,
}

/// Where an edit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) number: u64,
    /// The number of the segment.
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

#[derive(Debug)]
struct Tally {
    segment: Arc<Segment>,
    bytes: u64,
    edits: usize,
    /// So many bytes edits take that are of use.
    live: u64,
}

/// What a journal has.
#[derive(Debug, Default)]
pub(super) struct Index {
    documents: BTreeMap<Box<str>, BTreeMap<u64, Place>>,
    segments: BTreeMap<u64, Tally>,
}

impl Index {
    /// There is one more segment.
    pub(super) fn begin(&mut self, number: u64, segment: Arc<Segment>) {
        self.segments.insert(number, Tally { segment, bytes: 0, edits: 0, live: 0 });
    }

    /// A segment has grown, or was found, up to here.
    pub(super) fn set_bytes(&mut self, segment: u64, bytes: u64) {
        if let Some(tally) = self.segments.get_mut(&segment) {
            tally.bytes = bytes;
        }
    }

    /// There is an edit. One that was copied is where it was copied to.
    pub(super) fn insert(&mut self, document: &str, place: Place) {
        if !self.documents.contains_key(document) {
            self.documents.insert(document.into(), BTreeMap::new());
        }
        let before =
            self.documents.get_mut(document).and_then(|edits| edits.insert(place.number, place));
        if let Some(before) = before {
            self.uncount(document, &before);
        }
        if let Some(tally) = self.segments.get_mut(&place.segment) {
            tally.edits += 1;
            tally.live += edit_bytes(document, place.len);
        }
    }

    /// The edits of a document up to `number` are of no use any more.
    pub(super) fn settle(&mut self, document: &str, number: u64) {
        let Some(edits) = self.documents.get_mut(document) else { return };
        let later = number.checked_add(1).map(|next| edits.split_off(&next)).unwrap_or_default();
        let settled = std::mem::replace(edits, later);
        if edits.is_empty() {
            self.documents.remove(document);
        }
        for place in settled.values() {
            self.uncount(document, place);
        }
    }

    fn uncount(&mut self, document: &str, place: &Place) {
        if let Some(tally) = self.segments.get_mut(&place.segment) {
            tally.edits = tally.edits.saturating_sub(1);
            tally.live = tally.live.saturating_sub(edit_bytes(document, place.len));
        }
    }

    /// The edits of a document, in order.
    pub(super) fn places(&self, document: &str) -> Vec<(Place, Arc<Segment>)> {
        let places = self.documents.get(document).into_iter().flat_map(BTreeMap::values);
        places
            .filter_map(|place| {
                let tally = self.segments.get(&place.segment)?;
                Some((*place, Arc::clone(&tally.segment)))
            })
            .collect()
    }

    pub(super) fn documents(&self) -> Vec<Box<str>> {
        self.documents.keys().cloned().collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().map(|tally| tally.bytes).sum()
    }

    /// How many bytes edits take that are of use.
    pub(super) fn live(&self) -> u64 {
        self.segments.values().map(|tally| tally.live).sum()
    }

    /// How many bytes the oldest segment has.
    pub(super) fn oldest_bytes(&self) -> u64 {
        self.segments.first_key_value().map_or(0, |(_, tally)| tally.bytes)
    }

    /// How many segments there are.
    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Whether a segment has no edit that is of use.
    pub(super) fn is_spent(&self, segment: u64) -> bool {
        self.segments.get(&segment).is_none_or(|tally| tally.edits == 0)
    }

    /// The oldest segment, if it is not the only one.
    pub(super) fn oldest(&self) -> Option<(u64, Arc<Segment>)> {
        let (number, tally) =
            self.segments.first_key_value().filter(|_| self.segments.len() > 1)?;
        Some((*number, Arc::clone(&tally.segment)))
    }

    /// The edits of a segment that are of use, with their documents.
    pub(super) fn edits_of(&self, segment: u64) -> Vec<(Box<str>, Place)> {
        let all = self.documents.iter().flat_map(|(document, edits)| {
            edits.values().map(move |place| (document.clone(), *place))
        });
        all.filter(|(_, place)| place.segment == segment).collect()
    }

    /// A segment is no more.
    pub(super) fn remove(&mut self, segment: u64) {
        self.segments.remove(&segment);
    }
}
