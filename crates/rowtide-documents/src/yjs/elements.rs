//! The elements that one client inserted into a document, by their clocks.
//!
//! Structs do not overlap; where updates have not come yet there are gaps. Runs that belong together are joined when
//! they come, so that typing does not leave a struct for each letter.

use std::collections::BTreeMap;
use std::ops::Range;

use super::lib0::put_number;
use super::ranges::Spans;
use super::structs::{Id, Struct, put_skip};

/// Structs of one client.
#[derive(Clone, Debug)]
pub(crate) struct Elements {
    client: u64,
    /// By the clock of their first element.
    structs: BTreeMap<u64, Struct>,
    /// Up to here there is no gap.
    whole: u64,
    /// What is there after that, however many structs it takes: what a client sends again costs no walk through them.
    islands: Spans,
    bytes: usize,
}

/// The part of a struct from a clock on, if it begins before that.
pub(crate) fn after(start: Id, mut part: Struct, clock: u64) -> (Id, Struct) {
    if clock <= start.clock {
        return (start, part);
    }
    let rest = part.cut(start, clock - start.clock);
    (Id { clock, ..start }, rest)
}

/// The part of a struct before a clock, and the rest if it goes on.
pub(crate) fn before(start: Id, mut part: Struct, clock: u64) -> (Struct, Option<(Id, Struct)>) {
    if clock >= start.clock + part.len {
        return (part, None);
    }
    let rest = part.cut(start, clock - start.clock);
    (part, Some((Id { clock, ..start }, rest)))
}

impl Elements {
    pub(crate) fn new(client: u64) -> Elements {
        Elements { client, structs: BTreeMap::new(), whole: 0, islands: Spans::default(), bytes: 0 }
    }

    /// The bytes that they take in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many there are from the first one on without a gap.
    pub(crate) fn whole(&self) -> u64 {
        self.whole
    }

    /// Whether elements follow a gap.
    pub(crate) fn has_gap(&self) -> bool {
        self.islands.count() > 0
    }

    fn end(&self) -> u64 {
        self.structs.last_key_value().map_or(0, |(clock, part)| clock + part.len)
    }

    fn id(&self, clock: u64) -> Id {
        Id { client: self.client, clock }
    }

    pub(crate) fn structs(&self) -> impl Iterator<Item = (Id, &Struct)> {
        self.structs.iter().map(|(clock, part)| (self.id(*clock), part))
    }

    /// Where a struct begins that has the element `clock`, or else where the next one does.
    fn first(&self, clock: u64) -> u64 {
        match self.structs.range(..=clock).next_back() {
            Some((start, part)) if start + part.len > clock => *start,
            _ => clock,
        }
    }

    /// The parts of `range` that are not there, in order.
    pub(crate) fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.islands.missing(range.start.max(self.whole)..range.end)
    }

    /// How many ends of `range` are in the middle of a struct, which is cut there when the range is taken out.
    pub(crate) fn cuts(&self, range: &Range<u64>) -> usize {
        [range.start, range.end].into_iter().filter(|clock| self.first(*clock) < *clock).count()
    }

    /// Puts a struct into a gap.
    pub(crate) fn put(&mut self, clock: u64, part: Struct) {
        let end = clock + part.len;
        let start = self.join(clock, part);
        if let Some(next) = self.structs.remove(&end) {
            self.bytes -= next.bytes();
            if let Err(next) = self.join_to(start, next) {
                self.bytes += next.bytes();
                self.structs.insert(end, next);
            }
        }
        if end > self.whole {
            self.islands.insert(clock.max(self.whole)..end);
            self.whole = self.islands.take_at(self.whole).unwrap_or(self.whole);
        }
    }

    /// Joins a struct to the one before it, or puts it in by itself; where what it is in begins is returned.
    fn join(&mut self, clock: u64, part: Struct) -> u64 {
        let left = self.structs.range(..clock).next_back();
        let left = left.filter(|(start, left)| *start + left.len == clock).map(|(start, _)| *start);
        let part = match left {
            Some(left) => match self.join_to(left, part) {
                Ok(()) => return left,
                Err(part) => part,
            },
            None => part,
        };
        self.bytes += part.bytes();
        self.structs.insert(clock, part);
        clock
    }

    fn join_to(&mut self, start: u64, next: Struct) -> Result<(), Struct> {
        let id = self.id(start);
        let Some(part) = self.structs.get_mut(&start) else { return Err(next) };
        let before = part.bytes();
        part.join(id, next)?;
        self.bytes += part.bytes() - before;
        Ok(())
    }

    /// Takes out what is there of `range`; structs that reach beyond it are cut.
    pub(crate) fn take(&mut self, range: Range<u64>) -> Vec<(u64, Struct)> {
        let starts: Vec<u64> = self
            .structs
            .range(self.first(range.start)..range.end)
            .map(|(start, _)| *start)
            .collect();
        let mut taken = Vec::with_capacity(starts.len());
        for start in starts {
            let Some(part) = self.structs.remove(&start) else { continue };
            self.bytes -= part.bytes();
            let (start, part) = if start < range.start {
                let (left, rest) = before(self.id(start), part, range.start);
                self.bytes += left.bytes();
                self.structs.insert(start, left);
                let Some(rest) = rest else { continue };
                rest
            } else {
                (self.id(start), part)
            };
            let (part, rest) = before(start, part, range.end);
            if let Some((rest_start, rest)) = rest {
                self.bytes += rest.bytes();
                self.structs.insert(rest_start.clock, rest);
            }
            taken.push((start.clock, part));
        }
        taken
    }

    /// Writes those from the clock `from` on, for an update; nothing, if there are none.
    pub(crate) fn write(&self, from: u64, out: &mut Vec<u8>) -> bool {
        if self.end() <= from {
            return false;
        }
        let first = self.first(from);
        let mut written = Vec::new();
        let mut count = 0;
        let mut expected = None;
        for (start, part) in self.structs.range(first..) {
            let offset = from.saturating_sub(*start);
            if let Some(expected) = expected.filter(|expected| expected < start) {
                put_skip(&mut written, start - expected);
                count += 1;
            }
            if expected.is_none() {
                put_number(&mut written, self.client);
                put_number(&mut written, start + offset);
            }
            part.write(self.id(*start), offset, &mut written);
            count += 1;
            expected = Some(start + part.len);
        }
        put_number(out, count);
        out.extend_from_slice(&written);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::structs::{Body, Content, Item, Single};
    use super::*;

    /// Elements that are joined with no others.
    fn alone(len: u64) -> Struct {
        let content = Content::Single(Single::Type, Box::new([0]));
        Struct { len, body: Body::Item(Item { left: None, right: None, place: None, content }) }
    }

    #[test]
    fn what_is_there_is_one_range_however_many_structs_it_takes() {
        let mut elements = Elements::new(7);
        for clock in 10..1_010 {
            elements.put(clock, alone(1));
        }
        assert_eq!((elements.structs.len(), elements.islands.count()), (1_000, 1));
        assert_eq!(elements.gaps(0..1 << 50), [0..10, 1_010..1 << 50]);
        assert_eq!((elements.whole(), elements.has_gap()), (0, true));
        elements.put(0, alone(10));
        assert_eq!(elements.islands.count(), 0);
        assert_eq!((elements.whole(), elements.has_gap()), (1_010, false));
    }

    proptest! {
        #[test]
        fn gaps_are_filled_and_ranges_taken_out_and_put_back(
            steps in proptest::collection::vec((0u64..40, 1u64..12, any::<bool>()), 0..30),
            asked in (0u64..50, 0u64..20),
        ) {
            let mut elements = Elements::new(7);
            let mut there = std::collections::BTreeSet::new();
            for (start, len, deleted) in steps {
                let range = start..start + len;
                if deleted {
                    let cuts = elements.cuts(&range);
                    let before = elements.structs.len();
                    let taken = elements.take(range);
                    prop_assert_eq!(elements.structs.len() + taken.len(), before + cuts);
                    taken.into_iter().for_each(|(clock, part)| elements.put(clock, part));
                } else {
                    for gap in elements.gaps(range.clone()) {
                        elements.put(gap.start, alone(gap.end - gap.start));
                    }
                    there.extend(range);
                }
            }
            let whole = (0..).find(|clock| !there.contains(clock)).unwrap_or(0);
            prop_assert_eq!(elements.whole(), whole);
            prop_assert_eq!(elements.has_gap(), there.last().is_some_and(|last| *last > whole));
            let (start, len) = asked;
            let gaps: Vec<u64> = elements.gaps(start..start + len).into_iter().flatten().collect();
            let missing: Vec<u64> =
                (start..start + len).filter(|clock| !there.contains(clock)).collect();
            prop_assert_eq!(gaps, missing);
        }
    }
}
