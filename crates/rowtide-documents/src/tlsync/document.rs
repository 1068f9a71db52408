//! A document: records by id, one clock that goes up by one with each change, and the ids of what was removed, so
//! that somebody who was away can be told all that happened meanwhile. Old removals are forgotten, all of a clock
//! at once, and then nobody from before them is told of single changes any more. A change is looked at whole
//! before any of it is done.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::diff::{Flavour, ObjectDiff, RecordOp, RecordsDiff, ValueOp, apply, make};
use super::json::{Json, MAX_DEPTH, Object};
use super::limits::TlsyncLimits;
use super::record::{InvalidRecord, Record, check, check_diff};
use super::schema::Schema;
use super::telling::{Became, Entries};

/// The largest clock that a document begins or is stored with: a number that clients can count to and beyond.
pub(super) const MAX_CLOCK: u64 = 1 << 52;

/// The record of a document that has its name.
pub(super) const DOCUMENT_ID: &str = "document:document";

/// A document.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) clock: u64,
    /// The clock that it began at, as long as nobody has edited it.
    pub(super) begun: Option<u64>,
    /// What was removed after this clock is known.
    pub(super) history_start: u64,
    pub(super) records: BTreeMap<Box<str>, Record>,
    /// When records were removed that are not there again.
    pub(super) tombstones: BTreeMap<Box<str>, u64>,
    /// The schema of the records; a document that nobody has edited has none yet.
    pub(super) schema: Option<Arc<Schema>>,
    /// What the records weigh together.
    weight: usize,
}

/// What a change did to a document.
#[derive(Debug)]
pub(super) struct Change {
    /// What became of which records; if of none, nothing happened and the clock is as before.
    pub(super) became: Vec<(Box<str>, Became)>,
    /// Whether all that was asked for had an effect, and just that one.
    pub(super) exact: bool,
}

/// What a client is told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hydration {
    /// All records: the client forgets its own.
    WipeAll,
    /// What changed since it was there.
    WipePresence,
}

impl Change {
    /// Nothing has happened.
    pub(super) fn none() -> Change {
        Change { became: Vec::new(), exact: false }
    }

    /// Whether it is not told the same to clients of each [`Flavour`].
    pub(super) fn appends_text(&self) -> bool {
        self.became.iter().any(|(_, became)| became.appends_text())
    }
}

impl Document {
    /// A document that nobody has edited, and that nobody has seen before `clock`.
    pub(super) fn begin(clock: u64) -> Document {
        let clock = clock.min(MAX_CLOCK);
        let text = |text| Json::text(text);
        let empty = || Json::Object(Object::default());
        let document = [
            ("id", text(DOCUMENT_ID)),
            ("typeName", text("document")),
            ("gridSize", Json::Number(10.into())),
            ("name", text("")),
            ("meta", empty()),
        ];
        let page = [
            ("id", text("page:page")),
            ("typeName", text("page")),
            ("name", text("Page 1")),
            ("index", text("a1")),
            ("meta", empty()),
        ];
        let record = |entries: [(&str, Json); 5]| {
            let entries = entries.map(|(key, value)| (key.into(), value));
            Record::new(Json::Object(Object::of(entries.into())), clock)
        };
        let records = [(DOCUMENT_ID.into(), record(document)), ("page:page".into(), record(page))];
        Document::new(clock, records.into())
    }

    /// As [`Document::begin`], with the records that a new document has for the application.
    pub(super) fn begin_with(clock: u64, initial: &[(Box<str>, Json)]) -> Document {
        let clock = clock.min(MAX_CLOCK);
        let record =
            |(id, state): &(Box<str>, Json)| (id.clone(), Record::new(state.clone(), clock));
        Document::new(clock, initial.iter().map(record).collect())
    }

    fn new(clock: u64, records: BTreeMap<Box<str>, Record>) -> Document {
        let document = Document::of(clock, clock, records, BTreeMap::new(), None);
        Document { begun: Some(clock), ..document }
    }

    /// A document of its parts.
    pub(super) fn of(
        clock: u64,
        history_start: u64,
        records: BTreeMap<Box<str>, Record>,
        tombstones: BTreeMap<Box<str>, u64>,
        schema: Option<Arc<Schema>>,
    ) -> Document {
        let weight = records.values().map(|record| record.weight).sum();
        Document { clock, begun: None, history_start, records, tombstones, schema, weight }
    }

    /// What the records weigh together.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Does what a client with a schema asks for, or nothing if it would make the document too large.
    pub(super) fn push(
        &mut self,
        diff: RecordsDiff,
        flavour: Flavour,
        schema: &Schema,
        limits: &TlsyncLimits,
    ) -> Result<Change, InvalidRecord> {
        self.check(&diff, |type_name| schema.stores(type_name), limits)?;
        if !self.would_fit(&diff, limits) {
            return Ok(Change::none());
        }
        Ok(self.change(diff, flavour, limits))
    }

    /// Looks at what a client asks for, as far as one can know without the application's schema; `stores` says which
    /// types are stored.
    pub(super) fn check(
        &mut self,
        diff: &RecordsDiff,
        stores: impl Fn(&str) -> bool,
        limits: &TlsyncLimits,
    ) -> Result<(), InvalidRecord> {
        for (id, op) in &diff.0 {
            match op {
                RecordOp::Put(state) => check(id, state, &stores, limits)?,
                RecordOp::Patch(diff) => {
                    if let Some(record) = self.records.get_mut(id) {
                        check_diff(record.value(), diff)?;
                    }
                }
                RecordOp::Remove => {}
            }
        }
        Ok(())
    }

    /// What gives a document another name.
    pub(super) fn renaming(name: &str) -> RecordsDiff {
        let name = ObjectDiff(vec![("name".into(), ValueOp::Put(Json::text(name)))]);
        RecordsDiff(vec![(DOCUMENT_ID.into(), RecordOp::Patch(name))])
    }

    /// Whether a document is within its limits after a diff, as far as it grows by it.
    pub(super) fn would_fit(&self, diff: &RecordsDiff, limits: &TlsyncLimits) -> bool {
        let (mut more, mut less, mut weight) = (0_usize, 0_usize, self.weight);
        for (id, op) in &diff.0 {
            let before = self.records.get(id).map(|record| record.weight);
            let (growth, after) = match op {
                RecordOp::Put(state) => {
                    (state.weight().saturating_sub(before.unwrap_or(0)), state.weight())
                }
                RecordOp::Patch(diff) => {
                    let growth = if before.is_some() { diff.weight() } else { 0 };
                    (growth, before.unwrap_or(0) + growth)
                }
                RecordOp::Remove => (0, 0),
            };
            let depth = match op {
                RecordOp::Put(state) => state.depth(),
                RecordOp::Patch(diff) => diff.depth(),
                RecordOp::Remove => 0,
            };
            if depth > MAX_DEPTH || (growth > 0 && after > limits.record_bytes) {
                return false;
            }
            more += usize::from(before.is_none() && matches!(op, RecordOp::Put(_)));
            weight += growth;
            if let (RecordOp::Remove, Some(before)) = (op, before) {
                less += 1;
                weight -= before;
            }
        }
        (more <= less || self.records.len() + more - less <= limits.records)
            && (weight <= self.weight || weight <= limits.document_bytes)
    }

    /// Does what a diff says, as far as it has an effect.
    pub(super) fn change(
        &mut self,
        diff: RecordsDiff,
        flavour: Flavour,
        limits: &TlsyncLimits,
    ) -> Change {
        let mut change = Change { became: Vec::with_capacity(diff.0.len()), exact: true };
        let clock = self.clock + 1;
        for (id, op) in diff.0 {
            let became = match op {
                RecordOp::Put(state) => self.put(&id, state, clock, &mut change.exact),
                RecordOp::Patch(diff) => self.patch(&id, diff, flavour, clock, &mut change.exact),
                RecordOp::Remove => self.remove(&id, clock),
            };
            match became {
                Some(became) => change.became.push((id, became)),
                None => change.exact = false,
            }
        }
        if !change.became.is_empty() {
            self.clock = clock;
            self.forget_old_removals(limits);
        }
        change
    }

    fn put(&mut self, id: &str, state: Json, clock: u64, exact: &mut bool) -> Option<Became> {
        let Some(record) = self.records.get_mut(id) else {
            let record = Record::new(state, clock);
            self.weight += record.weight;
            self.records.insert(id.into(), record);
            self.tombstones.remove(id);
            return Some(Became::Put);
        };
        *exact = false;
        let (Json::Object(own), Some(new)) = (record.value(), state.as_object()) else {
            return None;
        };
        let diff = make(own, new, Flavour::Eight);
        if diff.0.is_empty() {
            return None;
        }
        self.weight -= record.weight;
        *record = Record::new(state, clock);
        self.weight += record.weight;
        Some(Became::Patched(diff))
    }

    fn patch(
        &mut self,
        id: &str,
        mut diff: ObjectDiff,
        flavour: Flavour,
        clock: u64,
        exact: &mut bool,
    ) -> Option<Became> {
        let record = self.records.get_mut(id)?;
        let applied = apply(&mut diff, record.value(), flavour);
        *exact &= applied.exact;
        if diff.0.is_empty() {
            return None;
        }
        self.weight -= record.weight;
        record.weight = (record.weight + applied.gained).saturating_sub(applied.lost);
        self.weight += record.weight;
        record.changed_at = clock;
        Some(Became::Patched(diff))
    }

    fn remove(&mut self, id: &str, clock: u64) -> Option<Became> {
        self.weight -= self.records.remove(id)?.weight;
        self.tombstones.insert(id.into(), clock);
        Some(Became::Removed)
    }

    /// Forgets the oldest removals if there are too many. Removals of one clock are forgotten together: whoever
    /// has been told of that clock has been told of all of them.
    pub(super) fn forget_old_removals(&mut self, limits: &TlsyncLimits) {
        if self.tombstones.len() <= limits.tombstones + limits.tombstones_slack {
            return;
        }
        let mut clocks: Vec<u64> = self.tombstones.values().copied().collect();
        clocks.sort_unstable();
        let newest_forgotten = clocks[clocks.len() - limits.tombstones - 1];
        self.tombstones.retain(|_, clock| *clock > newest_forgotten);
        self.history_start = self.history_start.max(newest_forgotten);
    }

    /// Tells what a change did to those who are of a flavour.
    pub(super) fn tell(&self, change: &Change, flavour: Flavour) -> Entries {
        let mut entries = Entries::default();
        for (id, became) in &change.became {
            let after = self.records.get(id).and_then(Record::as_value);
            entries.tell(id, became, after, flavour);
        }
        entries
    }

    /// Tells all that a client does not know that has seen the document, or an edition of it with these records, at some
    /// clock, as it says.
    pub(super) fn hydrate(
        &self,
        seen: i64,
        edition: Option<&BTreeMap<Box<str>, Json>>,
        entries: &mut Entries,
    ) -> Hydration {
        let known = u64::try_from(seen)
            .ok()
            .filter(|seen| (self.history_start..=self.clock).contains(seen));
        // Some clients say 0 where they have seen nothing: they have not even seen what is there from the start.
        let tell_all = known.is_none_or(|seen| seen == 0);
        let seen = known.unwrap_or(0);
        for (id, record) in &self.records {
            if !tell_all && record.changed_at <= seen {
                continue;
            }
            match edition.map(|records| records.get(id)) {
                None => entries.tell_put(id, |out| record.write(out)),
                Some(Some(theirs)) => entries.tell_put(id, |out| theirs.write(out)),
                Some(None) => {}
            }
        }
        if known.is_none() {
            return Hydration::WipeAll;
        }
        for (id, removed_at) in &self.tombstones {
            if *removed_at > seen {
                entries.tell_removed(id);
            }
        }
        Hydration::WipePresence
    }

    /// Goes beyond a clock, and forgets what was removed before: nobody from before is told of single changes any more.
    pub(super) fn renumber(&mut self, beyond: u64) {
        self.clock = self.clock.max(beyond.min(MAX_CLOCK)) + 1;
        self.history_start = self.clock;
        self.tombstones.clear();
    }

    /// This document with what another one holds: as if somebody had made it so now.
    pub(super) fn restored(&self, other: Document, limits: &TlsyncLimits) -> Document {
        let clock = self.clock + 1;
        let mut records = other.records;
        for record in records.values_mut() {
            record.changed_at = clock;
        }
        let mut tombstones = self.tombstones.clone();
        tombstones.extend(self.records.keys().map(|id| (id.clone(), clock)));
        tombstones.retain(|id, _| !records.contains_key(id));
        let mut restored =
            Document::of(clock, self.history_start, records, tombstones, other.schema);
        restored.forget_old_removals(limits);
        restored
    }
}

#[cfg(test)]
mod tests;
