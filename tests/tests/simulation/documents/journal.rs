//! What outlives a server: the document as it was saved last, and the edits since, of which those that were not flushed
//! may be gone after a crash.

use bytes::Bytes;

#[derive(Clone, Debug)]
enum Entry {
    Edit(u64, Bytes),
    Settled(u64),
}

/// The disk of the document.
#[derive(Default)]
pub struct Shelf {
    pub object: Option<Bytes>,
    durable: Vec<Entry>,
    written: Vec<Entry>,
    next: u64,
}

impl Shelf {
    /// Appends an edit; returns its number.
    pub fn append(&mut self, edit: Bytes) -> u64 {
        self.next += 1;
        self.written.push(Entry::Edit(self.next, edit));
        self.next
    }

    /// Edits up to this one are of no use any more.
    pub fn settle(&mut self, number: u64) {
        self.written.push(Entry::Settled(number));
    }

    /// Makes durable what is written; up to which edit that is.
    pub fn flush(&mut self) -> u64 {
        self.durable.append(&mut self.written);
        self.next
    }

    /// So much of what was not flushed is there all the same.
    pub fn crash(&mut self, kept: usize) {
        self.written.truncate(kept);
        self.durable.append(&mut self.written);
    }

    pub fn unflushed(&self) -> usize {
        self.written.len()
    }

    /// Everything of it goes, durably.
    pub fn forget(&mut self) {
        let next = self.next;
        *self = Shelf { next, ..Shelf::default() };
    }

    /// The edits since the object was saved.
    pub fn edits(&self) -> Vec<Bytes> {
        let settled = self.durable.iter().filter_map(|entry| match entry {
            Entry::Settled(number) => Some(*number),
            Entry::Edit(..) => None,
        });
        let settled = settled.max().unwrap_or(0);
        let edits = self.durable.iter().filter_map(|entry| match entry {
            Entry::Edit(number, edit) if *number > settled => Some(edit.clone()),
            _ => None,
        });
        edits.collect()
    }
}
