//! How a segment is written: groups of records, each group with its length and a checksum before it.
//!
//! A group is what one flush makes durable. It is written when the group before it is durable, so a group that is
//! not whole can only be the last one, if nothing is damaged.

use std::ops::Range;

/// What a group begins with. It tells groups that follow a damage from a tail that was never durable, so nobody who
/// has a say in what an edit is may know it: each segment has one of its own, by chance, which its first group names.
pub(super) type Mark = [u8; 8];

/// What the first group of a segment begins with.
pub(super) const FIRST: Mark = *b"RtEdits2";

/// Bytes before the length of the records in a group.
const MARK: usize = 8;

/// Bytes before the records of a group: the mark, the length of the records, and a CRC-32 of both.
const HEAD: usize = MARK + 8;

const BEGIN: u8 = 0;
const EDIT: u8 = 1;
const SETTLED: u8 = 2;

/// One thing that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// The first of a segment.
    Begin {
        /// The number of the next edit.
        next: u64,
        /// So many bytes of the segment before it count.
        previous_end: u64,
        /// What all groups of the segment begin with but for the first.
        mark: Mark,
    },
    Edit {
        number: u64,
        document: &'a str,
        edit: &'a [u8],
    },
    /// The edits of a document up to `number` that stand before it are of no use any more.
    Settled {
        number: u64,
        document: &'a str,
    },
}

/// So many bytes an edit takes in a group.
pub(super) fn edit_bytes(document: &str, edit: u32) -> u64 {
    (1 + 8 + 4 + document.len() + 4) as u64 + u64::from(edit)
}

/// A group that is being put together.
#[derive(Debug)]
pub(super) struct Group {
    bytes: Vec<u8>,
}

impl Group {
    pub(super) fn new(mark: Mark) -> Group {
        let mut bytes = mark.to_vec();
        bytes.resize(HEAD, 0);
        Group { bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == HEAD
    }

    /// Adds a record. Where the bytes of an edit begin in the group is returned; for another record, its end.
    pub(super) fn push(&mut self, record: &Record<'_>) -> usize {
        match *record {
            Record::Begin { next, previous_end, mark } => {
                self.bytes.push(BEGIN);
                self.number(next);
                self.number(previous_end);
                self.bytes.extend_from_slice(&mark);
                self.bytes.len()
            }
            Record::Edit { number, document, edit } => {
                self.bytes.push(EDIT);
                self.number(number);
                self.blob(document.as_bytes());
                self.blob(edit);
                self.bytes.len() - edit.len()
            }
            Record::Settled { number, document } => {
                self.bytes.push(SETTLED);
                self.number(number);
                self.blob(document.as_bytes());
                self.bytes.len()
            }
        }
    }

    /// The group as it is written.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let len = ((self.bytes.len() - HEAD) as u32).to_le_bytes();
        self.bytes[MARK..MARK + 4].copy_from_slice(&len);
        let crc = checksum(&len, &self.bytes[HEAD..]);
        self.bytes[MARK + 4..HEAD].copy_from_slice(&crc.to_le_bytes());
        self.bytes
    }

    fn number(&mut self, number: u64) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    fn blob(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(bytes);
    }
}

fn checksum(len: &[u8], records: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(len);
    hasher.update(records);
    hasher.finalize()
}

/// Where the records are of the group that begins at `at`, if a whole one does.
pub(super) fn group_at(segment: &[u8], at: usize, mark: Mark) -> Option<Range<usize>> {
    let head = segment.get(at..at.checked_add(HEAD)?)?;
    let word = |at: usize| <[u8; 4]>::try_from(&head[at..at + 4]).ok();
    let len = word(MARK)?;
    let start = at + HEAD;
    let end = start.checked_add(u32::from_le_bytes(len) as usize)?;
    let records = segment.get(start..end)?;
    let whole = head[..MARK] == mark && checksum(&len, records).to_le_bytes() == word(MARK + 4)?;
    whole.then_some(start..end)
}

/// Whether a whole group begins anywhere after `at`. Only what was written as a group has the mark, so each byte is
/// looked at about twice.
pub(super) fn group_after(segment: &[u8], at: usize, mark: Mark) -> bool {
    let starts_here = |at: &usize| segment.get(*at..*at + MARK).is_some_and(|head| head == mark);
    (at + 1..segment.len()).filter(starts_here).any(|at| group_at(segment, at, mark).is_some())
}

/// Reads the records of a group, with where the bytes of each edit begin in the segment.
#[derive(Debug)]
pub(super) struct Records<'a> {
    segment: &'a [u8],
    rest: Range<usize>,
}

impl<'a> Records<'a> {
    pub(super) fn new(segment: &'a [u8], group: Range<usize>) -> Records<'a> {
        Records { segment, rest: group }
    }

    /// Where it has come to.
    pub(super) fn at(&self) -> usize {
        self.rest.start
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// If it makes no sense, which its checksum should have told.
    pub(super) fn next(&mut self) -> Result<Option<(Record<'a>, usize)>, ()> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.record().map(Some).ok_or(())
    }

    fn record(&mut self) -> Option<(Record<'a>, usize)> {
        let kind = self.take(1)?[0];
        let number = u64::from_le_bytes(self.take(8)?.try_into().ok()?);
        let record = match kind {
            BEGIN => {
                let previous_end = u64::from_le_bytes(self.take(8)?.try_into().ok()?);
                let mark = self.take(MARK)?.try_into().ok()?;
                Record::Begin { next: number, previous_end, mark }
            }
            EDIT => {
                let document = self.document()?;
                let edit = self.blob()?;
                return Some((Record::Edit { number, document, edit }, self.at() - edit.len()));
            }
            SETTLED => Record::Settled { number, document: self.document()? },
            _ => return None,
        };
        Some((record, self.at()))
    }

    fn document(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.blob()?).ok()
    }

    fn blob(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        self.take(len as usize)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.rest.start.checked_add(len).filter(|end| *end <= self.rest.end)?;
        let taken = self.segment.get(self.rest.start..end)?;
        self.rest.start = end;
        Some(taken)
    }
}
