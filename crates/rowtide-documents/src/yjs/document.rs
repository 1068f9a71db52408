//! A document of Yjs as its updates say it: which elements there are, and which of them are deleted.
//!
//! The document is kept as structs, merged and without what was deleted, and never put in order: that is what clients
//! do, each for itself, and all with the same result. So an edit costs what the edit is long, the memory is about that
//! of the document as it is stored, and what a client makes up can neither confuse the server nor take its stack. Only
//! [`super::arrangement`] orders elements, when an earlier state is brought back.

use std::collections::BTreeMap;
use std::ops::Range;

use super::elements::{Elements, after, before};
use super::lib0::{MalformedYjs, Reader, put_number};
use super::ranges::Ranges;
use super::structs::{Id, STRUCT_BYTES, Struct};
use super::update::{Part, UpdateReader};

/// What the first struct of a client takes beside itself, about, in bytes: the map of its structs, which has room for
/// eleven, and its place in the map of clients.
const CLIENT_BYTES: usize =
    11 * (size_of::<u64>() + size_of::<Struct>()) + 2 * size_of::<(u64, Elements)>();

/// What a range of deleted elements takes, about, in bytes.
const RANGE_BYTES: usize = 48;

/// What the first range of a client takes beside itself, about, in bytes.
const CLIENT_RANGES_BYTES: usize = 256;

/// What an update brings that a document does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Bytes that its structs would take, about.
    pub(crate) structs: usize,
    /// Bytes that its deletions would take, about.
    pub(crate) deletions: usize,
}

impl News {
    pub(crate) fn is_nothing(self) -> bool {
        self.bytes() == 0
    }

    /// Bytes that all of it would take, about.
    pub(crate) fn bytes(self) -> usize {
        self.structs.saturating_add(self.deletions)
    }
}

/// A document.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    clients: BTreeMap<u64, Elements>,
    deleted: Ranges,
    struct_bytes: usize,
}

impl Document {
    /// The bytes that it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.struct_bytes
            + self.clients.len() * CLIENT_BYTES
            + self.deleted.count() * RANGE_BYTES
            + self.deleted.clients() * CLIENT_RANGES_BYTES
    }

    /// What `update` would bring; once that is over `most` bytes, the rest of it is not looked at. An update may say one
    /// thing any number of times, so only what is new may take time.
    ///
    /// # Errors
    /// If it is no update.
    pub(crate) fn news(&self, update: &[u8], most: usize) -> Result<News, MalformedYjs> {
        let mut reader = UpdateReader::new(update)?;
        let mut news = News::default();
        let (mut new_client, mut newly_deleted) = (None, None);
        while news.bytes() <= most
            && let Some(part) = reader.next()?
        {
            match part {
                Part::Struct(id, part) => {
                    let structs = self.news_of(id, &part);
                    let is_new = structs > 0 && !self.clients.contains_key(&id.client);
                    if is_new && new_client.replace(id.client) != Some(id.client) {
                        news.structs += CLIENT_BYTES;
                    }
                    news.structs += structs;
                }
                Part::Deleted(client, range) => {
                    let missing = self.deleted.missing(client, range);
                    let is_new = !missing.is_empty() && !self.deleted.has(client);
                    if is_new && newly_deleted.replace(client) != Some(client) {
                        news.deletions += CLIENT_RANGES_BYTES;
                    }
                    let elements = self.clients.get(&client);
                    let cuts = |range| elements.map_or(0, |elements| elements.cuts(range));
                    let cuts: usize = missing.iter().map(cuts).sum();
                    news.deletions += missing.len() * RANGE_BYTES + cuts * STRUCT_BYTES;
                }
            }
        }
        Ok(news)
    }

    /// The bytes that a struct would take. It is cut where some of its elements are there, or deleted, already.
    fn news_of(&self, id: Id, part: &Struct) -> usize {
        let range = id.clock..id.clock + part.len;
        let gaps = match self.clients.get(&id.client) {
            Some(elements) => elements.gaps(range),
            None => vec![range],
        };
        if gaps.is_empty() {
            return 0;
        }
        let cuts_of = |gap: &Range<u64>| 2 * self.deleted.within(id.client, gap.clone()).len();
        let cuts = gaps.len() - 1 + gaps.iter().map(cuts_of).sum::<usize>();
        part.bytes() + cuts * STRUCT_BYTES
    }

    /// Takes an update in. It may be one that was taken in before, and one that others must come before. Tells whether
    /// elements are missing before those that it brought.
    ///
    /// # Errors
    /// If it is no update; the document may have taken in the beginning of it.
    pub(crate) fn apply(&mut self, update: &[u8]) -> Result<bool, MalformedYjs> {
        let mut reader = UpdateReader::new(update)?;
        let mut gaps = false;
        while let Some(part) = reader.next()? {
            match part {
                Part::Struct(id, part) => gaps |= self.insert(id, part),
                Part::Deleted(client, range) => self.delete(client, range),
            }
        }
        Ok(gaps)
    }

    /// Takes in elements, as far as they are not there. Tells whether others of their client are missing before them.
    pub(crate) fn insert(&mut self, id: Id, part: Struct) -> bool {
        let elements = self.clients.entry(id.client).or_insert_with(|| Elements::new(id.client));
        self.struct_bytes -= elements.bytes();
        let gaps = elements.gaps(id.clock..id.clock + part.len);
        let mut rest = Some((id, part));
        for gap in gaps {
            // What is deleted already is forgotten at once.
            let deleted = self.deleted.within(id.client, gap.clone());
            let living = self.deleted.missing(id.client, gap);
            let mut ranges: Vec<_> = deleted
                .into_iter()
                .map(|range| (range, true))
                .chain(living.into_iter().map(|range| (range, false)))
                .collect();
            ranges.sort_unstable_by_key(|(range, _)| range.start);
            for (range, dead) in ranges {
                let Some((start, part)) = rest.take() else { break };
                let (start, part) = after(start, part, range.start);
                let (mut part, following) = before(start, part, range.end);
                rest = following;
                if dead {
                    part.forget();
                }
                elements.put(start.clock, part);
            }
        }
        self.struct_bytes += elements.bytes();
        elements.has_gap()
    }

    /// Takes in that elements are deleted, which may be still to come.
    pub(crate) fn delete(&mut self, client: u64, range: Range<u64>) {
        for fresh in self.deleted.missing(client, range) {
            self.deleted.insert(client, fresh.clone());
            if let Some(elements) = self.clients.get_mut(&client) {
                self.struct_bytes -= elements.bytes();
                for (clock, mut part) in elements.take(fresh) {
                    part.forget();
                    elements.put(clock, part);
                }
                self.struct_bytes += elements.bytes();
            }
        }
    }

    /// How many elements of each client are there, from the first one on without a gap: a state vector, as Yjs writes
    /// it.
    pub(crate) fn state_vector(&self) -> Vec<u8> {
        let whole = self.clients.iter().rev().map(|(client, elements)| (*client, elements.whole()));
        let whole: Vec<_> = whole.filter(|(_, whole)| *whole > 0).collect();
        let mut out = Vec::new();
        put_number(&mut out, whole.len() as u64);
        for (client, whole) in whole {
            put_number(&mut out, client);
            put_number(&mut out, whole);
        }
        out
    }

    /// An update with all that somebody lacks who has the state vector `has`.
    ///
    /// # Errors
    /// If that is no state vector.
    pub(crate) fn since(&self, has: &[u8]) -> Result<Vec<u8>, MalformedYjs> {
        let mut reader = Reader::new(has);
        let mut clocks = BTreeMap::new();
        for _ in 0..reader.number()? {
            let (client, clock) = (reader.number()?, reader.number()?);
            // Of others there is nothing to send.
            if self.clients.contains_key(&client) {
                clocks.insert(client, clock);
            }
        }
        reader.end()?;
        Ok(self.after(&clocks))
    }

    /// The document as one update.
    pub(crate) fn to_update(&self) -> Vec<u8> {
        self.after(&BTreeMap::new())
    }

    /// An update with the elements from these clocks on, and all deletions.
    fn after(&self, clocks: &BTreeMap<u64, u64>) -> Vec<u8> {
        let mut clients = 0;
        let mut structs = Vec::new();
        for (client, elements) in self.clients.iter().rev() {
            let from = clocks.get(client).copied().unwrap_or(0);
            clients += u64::from(elements.write(from, &mut structs));
        }
        let mut out = Vec::with_capacity(structs.len() + 16 + self.deleted.count() * 6);
        put_number(&mut out, clients);
        out.extend_from_slice(&structs);
        self.deleted.write(&mut out);
        out
    }

    /// The clients whose elements are there, in order.
    pub(crate) fn clients(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.clients.keys().copied()
    }

    /// All structs, in the order of clients and clocks.
    pub(crate) fn structs(&self) -> impl Iterator<Item = (Id, &Struct)> {
        self.clients.values().flat_map(Elements::structs)
    }

    /// The elements that are deleted.
    pub(crate) fn deleted(&self) -> &Ranges {
        &self.deleted
    }
}
