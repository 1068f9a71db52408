//! Opening a journal: what is in its segments, and where the last of them ends.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::JournalError;
use super::format::{FIRST, Mark, Record, Records, group_after, group_at};
use super::index::{Index, Place, Segment};
use super::segments;

/// Where writing goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// The number of the next edit.
    pub(super) next: u64,
    /// The newest segment, and how long it is.
    pub(super) newest: Option<(u64, u64)>,
}

/// A journal as it was found.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) index: Index,
    pub(super) end: End,
}

/// One segment, read.
struct Found {
    segment: Segment,
    number: u64,
    bytes: Vec<u8>,
    previous_end: u64,
    mark: Mark,
}

/// Reads all segments. What follows the last whole group of the newest is cut off, if it was never durable.
pub(super) fn open(dir: &Path) -> Result<Opened, JournalError> {
    let at = |source| JournalError::Io { path: dir.to_owned(), source };
    let numbers = segments::list(dir).map_err(at)?;
    let mut index = Index::default();
    let mut end = End { next: 1, newest: None };
    let mut following = numbers.iter().skip(1);
    let mut found = numbers.first().map(|number| read(dir, *number)).transpose()?;
    while let Some(present) = found {
        // What the next one says of this one must be known to read it.
        found = following.next().map(|number| read(dir, *number)).transpose()?;
        let expected = found.as_ref().map(|next| next.previous_end);
        take(&mut index, &mut end, present, expected)?;
    }
    Ok(Opened { index, end })
}

fn read(dir: &Path, number: u64) -> Result<Found, JournalError> {
    let path = segments::path_of(dir, number);
    let at = |source| JournalError::Io { path: path.clone(), source };
    let file = segments::private_file(&path).map_err(at)?;
    let bytes = fs::read(&path).map_err(at)?;
    let first = group_at(&bytes, 0, FIRST).map(|group| Records::new(&bytes, group).next());
    match first {
        Some(Ok(Some((Record::Begin { previous_end, mark, .. }, _)))) => {
            Ok(Found { segment: Segment { path, file }, number, bytes, previous_end, mark })
        }
        _ => Err(JournalError::Damaged { path, offset: 0 }),
    }
}

/// Takes in a segment, which ends where the next one says, or with its last whole group if it is the newest.
fn take(
    index: &mut Index,
    end: &mut End,
    found: Found,
    expected: Option<u64>,
) -> Result<(), JournalError> {
    let Found { segment, number, bytes, mark, .. } = found;
    let segment = Arc::new(segment);
    let damaged =
        |at: usize| JournalError::Damaged { path: segment.path.clone(), offset: at as u64 };
    let expected = expected.map(|end| usize::try_from(end).unwrap_or(usize::MAX));
    index.begin(number, Arc::clone(&segment));
    let mut at = 0;
    while expected.is_none_or(|end| at < end) {
        let mark = if at == 0 { FIRST } else { mark };
        let Some(group) = group_at(&bytes, at, mark) else { break };
        let next = group.end;
        let mut records = Records::new(&bytes, group);
        while let Some((record, offset)) = records.next().map_err(|()| damaged(records.at()))? {
            match record {
                Record::Begin { next, .. } => end.next = next,
                Record::Edit { number: edit_number, document, edit } => {
                    let place = Place {
                        number: edit_number,
                        segment: number,
                        offset: offset as u64,
                        len: edit.len() as u32,
                    };
                    index.insert(document, place);
                    end.next = end.next.max(edit_number.saturating_add(1));
                }
                Record::Settled { number, document } => index.settle(document, number),
            }
        }
        at = next;
    }
    match expected {
        Some(end) if at == end => {}
        None if !group_after(&bytes, at, mark) => {
            if at < bytes.len() {
                let cut = segment.file.set_len(at as u64).and_then(|()| segment.file.sync_all());
                cut.map_err(|source| JournalError::Io { path: segment.path.clone(), source })?;
            }
        }
        _ => return Err(damaged(at)),
    }
    index.set_bytes(number, at as u64);
    end.newest = Some((number, at as u64));
    Ok(())
}
