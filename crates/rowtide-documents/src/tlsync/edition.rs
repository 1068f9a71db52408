//! Editions: a document as clients of an older schema have it. Each is brought down from the document once, and then
//! follows it change by change; what such a client pushes is laid over its edition, and what others do is told to it as
//! a diff of its edition.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::diff::{Flavour, make};
use super::document::Change;
use super::json::Json;
use super::schema::Schema;
use super::telling::{Became, Entries};

/// A document's edition, by a number that is given once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EditionId(u64);

/// An edition.
#[derive(Debug)]
pub(super) struct Edition {
    pub(super) schema: Arc<Schema>,
    /// The records of the document, and what sessions show of themselves.
    pub(super) records: BTreeMap<Box<str>, Json>,
}

/// The editions of a document.
#[derive(Debug, Default)]
pub(super) struct Editions {
    all: BTreeMap<EditionId, Edition>,
    next: u64,
}

impl Edition {
    /// Puts a record in; what became of it for those of this edition.
    pub(super) fn put(&mut self, id: &str, state: Json) -> Option<Became> {
        let Some(before) = self.records.get_mut(id) else {
            self.records.insert(id.into(), state);
            return Some(Became::Put);
        };
        let diff = make(before.as_object()?, state.as_object()?, Flavour::Eight);
        *before = state;
        (!diff.0.is_empty()).then_some(Became::Patched(diff))
    }

    /// Takes a record out.
    pub(super) fn remove(&mut self, id: &str) -> Option<Became> {
        self.records.remove(id).map(|_| Became::Removed)
    }

    /// Tells what a change did to those of a flavour.
    pub(super) fn tell(&self, change: &Change, flavour: Flavour) -> Entries {
        let mut entries = Entries::default();
        for (id, became) in &change.became {
            entries.tell(id, became, self.records.get(id), flavour);
        }
        entries
    }
}

impl Editions {
    /// The edition for a schema, if there is one.
    pub(super) fn of(&self, schema: &Schema) -> Option<(EditionId, &Edition)> {
        let same = |(_, edition): &(&EditionId, &Edition)| edition.schema.serves(schema).is_ok();
        self.all.iter().find(same).map(|(id, edition)| (*id, edition))
    }

    pub(super) fn get(&self, id: EditionId) -> Option<&Edition> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: EditionId) -> Option<&mut Edition> {
        self.all.get_mut(&id)
    }

    pub(super) fn add(&mut self, edition: Edition) -> EditionId {
        let id = EditionId(self.next);
        self.next += 1;
        self.all.insert(id, edition);
        id
    }

    pub(super) fn remove(&mut self, id: EditionId) {
        self.all.remove(&id);
    }

    /// Keeps those that somebody has.
    pub(super) fn retain(&mut self, has: impl Fn(EditionId) -> bool) {
        self.all.retain(|id, _| has(*id));
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn clear(&mut self) {
        self.all.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (EditionId, &Edition)> {
        self.all.iter().map(|(id, edition)| (*id, edition))
    }

    /// Takes a record out of all.
    pub(super) fn forget(&mut self, record: &str) {
        self.all.values_mut().for_each(|edition| drop(edition.remove(record)));
    }
}
