//! Sets of elements of clients, as ranges of their clocks: which elements of a document are deleted.
//!
//! Ranges of a client neither overlap nor touch, so a set has one form, and what is added twice changes nothing.

use std::collections::BTreeMap;
use std::ops::Range;

use super::lib0::put_number;

/// A set of elements of one client: ends of ranges by their starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spans(BTreeMap<u64, u64>);

/// A set of elements. Clients choose their ids, so the maps are ordered ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    clients: BTreeMap<u64, Spans>,
    count: usize,
}

impl Spans {
    /// How many ranges there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The parts of `range` that are in the set, in order.
    fn within(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let first =
            self.0.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        self.0
            .range(first..range.end.max(first))
            .map(|(start, end)| range.start.max(*start)..range.end.min(*end))
            .filter(|part| !part.is_empty())
            .collect()
    }

    /// The parts of `range` that are not in the set, in order.
    pub(crate) fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut from = range.start;
        for part in self.within(range.clone()) {
            if from < part.start {
                missing.push(from..part.start);
            }
            from = part.end;
        }
        if from < range.end {
            missing.push(from..range.end);
        }
        missing
    }

    /// Adds a range. What overlaps it or touches it becomes one with it.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        while let Some((&other, &other_end)) = self.0.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            start = start.min(other);
            end = end.max(other_end);
            self.0.remove(&other);
        }
        self.0.insert(start, end);
    }

    /// Takes the first range out if it begins at `clock`; its end is returned.
    pub(crate) fn take_at(&mut self, clock: u64) -> Option<u64> {
        self.0.remove(&clock)
    }
}

impl Ranges {
    /// How many ranges there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// How many clients have elements in the set.
    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Whether a client has elements in the set.
    pub(crate) fn has(&self, client: u64) -> bool {
        self.clients.contains_key(&client)
    }

    /// The parts of `range` that are in the set, in order.
    pub(crate) fn within(&self, client: u64, range: Range<u64>) -> Vec<Range<u64>> {
        self.clients.get(&client).map_or_else(Vec::new, |spans| spans.within(range))
    }

    /// The parts of `range` that are not in the set, in order.
    pub(crate) fn missing(&self, client: u64, range: Range<u64>) -> Vec<Range<u64>> {
        match self.clients.get(&client) {
            Some(spans) => spans.missing(range),
            None if range.is_empty() => Vec::new(),
            None => vec![range],
        }
    }

    /// Adds a range.
    pub(crate) fn insert(&mut self, client: u64, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let spans = self.clients.entry(client).or_default();
        self.count -= spans.count();
        spans.insert(range);
        self.count += spans.count();
    }

    /// All ranges, clients in order.
    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = (u64, Range<u64>)> + '_ {
        self.clients
            .iter()
            .flat_map(|(client, spans)| spans.0.iter().map(|(start, end)| (*client, *start..*end)))
    }

    /// Writes the set as the end of an update, the highest client first as Yjs has them.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        put_number(out, self.clients.len() as u64);
        for (client, spans) in self.clients.iter().rev() {
            put_number(out, *client);
            put_number(out, spans.count() as u64);
            for (start, end) in &spans.0 {
                put_number(out, *start);
                put_number(out, end - start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_the_set_of_their_elements(
            added in proptest::collection::vec((0u64..3, 0u64..40, 0u64..12), 0..30),
            asked in (0u64..3, 0u64..40, 0u64..20),
        ) {
            let mut ranges = Ranges::default();
            let mut elements = std::collections::BTreeSet::new();
            for (client, start, len) in added {
                ranges.insert(client, start..start + len);
                elements.extend((start..start + len).map(|clock| (client, clock)));
            }
            let listed: Vec<_> =
                ranges.iter().flat_map(|(client, range)| range.map(move |clock| (client, clock))).collect();
            prop_assert_eq!(&listed, &elements.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(ranges.count(), ranges.iter().count());
            let (client, start, len) = asked;
            let (inside, outside): (Vec<u64>, Vec<u64>) =
                (start..start + len).partition(|clock| elements.contains(&(client, *clock)));
            let within = ranges.within(client, start..start + len);
            prop_assert_eq!(within.into_iter().flatten().collect::<Vec<_>>(), inside);
            let missing = ranges.missing(client, start..start + len);
            prop_assert_eq!(missing.into_iter().flatten().collect::<Vec<_>>(), outside);
        }
    }
}
