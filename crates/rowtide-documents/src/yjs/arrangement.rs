//! The elements of a document in their order, list by list.
//!
//! This is what clients do when they take elements in, for all of a document at once: an element is put to the right of
//! the neighbour that it had on its left when it was inserted, and where several were inserted at one place their ids
//! decide (the algorithm of Yjs, which is YATA with a neighbour on the right; `Item.integrate`). Nothing here recurses,
//! and how long it may take is bounded: elements that somebody made up can make it slow, and then it gives up.

use std::collections::BTreeMap;

use super::document::Document;
use super::structs::{Body, Content, Id, Parent, Single, Struct};

/// So many comparisons are made in all, and a number for each run of elements.
const COMPARISONS: usize = 20_000_000;
const COMPARISONS_EACH: usize = 100;

/// What a list is: one of a type, or the values that one key of a type has had.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct List {
    pub(crate) parent: Parent,
    pub(crate) key: Option<Box<str>>,
}

/// A run of elements, which nothing refers into the middle of.
#[derive(Debug)]
struct Run {
    id: Id,
    part: Struct,
    list: Option<usize>,
    right: Option<usize>,
    /// So many things it needs are not there yet.
    needs: usize,
    needed_by: Vec<usize>,
}

/// A document, arranged.
#[derive(Debug)]
pub(crate) struct Arrangement {
    runs: Vec<Run>,
    lists: BTreeMap<List, usize>,
    /// The first run of each list.
    starts: Vec<Option<usize>>,
}

/// Somebody made elements up that cannot be arranged in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tangled;

impl Arrangement {
    /// Arranges a document. Elements that wait for others are left out.
    pub(crate) fn new(document: &Document) -> Result<Arrangement, Tangled> {
        let runs = cut_runs(document);
        let mut arrangement = Arrangement { runs, lists: BTreeMap::new(), starts: Vec::new() };
        let order = arrangement.order();
        let mut budget = COMPARISONS + order.len() * COMPARISONS_EACH;
        let mut marks = Marks::new(arrangement.runs.len());
        for run in order {
            arrangement.place(run, &mut marks, &mut budget)?;
        }
        Ok(arrangement)
    }

    /// The lists, with the elements of each that are not deleted.
    pub(crate) fn lists(&self) -> impl Iterator<Item = (&List, Vec<(Id, &Struct)>)> {
        self.lists.iter().map(|(list, index)| {
            let mut living = Vec::new();
            let mut next = self.starts[*index];
            let mut last = None;
            while let Some(run) = next.map(|index| &self.runs[index]) {
                last = Some(run);
                if is_living(&run.part) {
                    living.push((run.id, &run.part));
                }
                next = run.right;
            }
            if list.key.is_some() {
                // A key has the last value, if that is not deleted.
                let last = last.filter(|run| is_living(&run.part));
                living = last.map(|run| (run.id, &run.part)).into_iter().collect();
            }
            (list, living)
        })
    }

    /// The run that has an element.
    fn run_of(&self, id: Id) -> Option<usize> {
        let after = self.runs.partition_point(|run| run.id <= id);
        let index = after.checked_sub(1)?;
        let run = &self.runs[index];
        (run.id.client == id.client && id.clock < run.id.clock + run.part.len).then_some(index)
    }

    /// The runs in an order in which each comes after what it refers to.
    fn order(&mut self) -> Vec<usize> {
        for index in 0..self.runs.len() {
            let run = &self.runs[index];
            let previous =
                (run.id.clock > 0).then(|| Id { client: run.id.client, clock: run.id.clock - 1 });
            let mut needed: Vec<Id> = previous.into_iter().collect();
            if let Body::Item(item) = &run.part.body {
                needed.extend(item.left.iter().chain(&item.right));
                if let Some(Parent::Element(id)) = item.place.as_ref().map(|place| &place.parent) {
                    needed.push(*id);
                }
            }
            for id in needed {
                self.runs[index].needs += 1;
                // What is not there at all is waited for without end.
                if let Some(other) = self.run_of(id) {
                    self.runs[other].needed_by.push(index);
                }
            }
        }
        let free = |(index, run): (usize, &Run)| (run.needs == 0).then_some(index);
        let mut order: Vec<usize> = self.runs.iter().enumerate().filter_map(free).collect();
        let mut done = 0;
        while let Some(index) = order.get(done).copied() {
            done += 1;
            for other in std::mem::take(&mut self.runs[index].needed_by) {
                self.runs[other].needs -= 1;
                if self.runs[other].needs == 0 {
                    order.push(other);
                }
            }
        }
        order
    }

    /// Which list a run is in; none if what it was in is deleted.
    fn list_of(&mut self, run: usize) -> Option<usize> {
        let Body::Item(item) = &self.runs[run].part.body else { return None };
        let neighbours = (item.left, item.right);
        if neighbours != (None, None) {
            // With one neighbour gone, all are.
            let lists = [neighbours.0, neighbours.1]
                .into_iter()
                .flatten()
                .map(|id| self.run_of(id).and_then(|index| self.runs[index].list));
            return lists.reduce(|first, second| second.and(first)).flatten();
        }
        let place = item.place.as_deref()?.clone();
        if let Parent::Element(id) = place.parent {
            let parent = &self.runs[self.run_of(id)?];
            let Body::Item(item) = &parent.part.body else { return None };
            if !matches!(item.content, Content::Single(Single::Type, _)) {
                return None;
            }
        }
        let list = List { parent: place.parent, key: place.key };
        let next = self.starts.len();
        let index = *self.lists.entry(list).or_insert(next);
        if index == next {
            self.starts.push(None);
        }
        Some(index)
    }

    /// Puts a run where it belongs.
    fn place(&mut self, run: usize, marks: &mut Marks, budget: &mut usize) -> Result<(), Tangled> {
        let Some(list) = self.list_of(run) else { return Ok(()) };
        let Body::Item(item) = &self.runs[run].part.body else { return Ok(()) };
        let (left_id, right_id) = (item.left, item.right);
        let mut left = left_id.and_then(|id| self.run_of(id));
        let right = right_id.and_then(|id| self.run_of(id));
        let client = self.runs[run].id.client;
        marks.begin();
        let mut other = match left {
            Some(left) => self.runs[left].right,
            None => self.starts[list],
        };
        while let Some(index) = other.filter(|_| other != right) {
            *budget = budget.checked_sub(1).ok_or(Tangled)?;
            marks.pass(index);
            let there = &self.runs[index];
            let Body::Item(item) = &there.part.body else { break };
            if item.left == left_id {
                if there.id.client < client {
                    left = Some(index);
                    marks.settle();
                } else if item.right == right_id {
                    break;
                }
            } else if let Some(origin) = item.left.and_then(|id| self.run_of(id))
                && marks.was_passed(origin)
            {
                if !marks.conflicts(origin) {
                    left = Some(index);
                    marks.settle();
                }
            } else {
                break;
            }
            other = there.right;
        }
        let right = match left {
            Some(left) => self.runs[left].right.replace(run),
            None => self.starts[list].replace(run),
        };
        let placed = &mut self.runs[run];
        (placed.list, placed.right) = (Some(list), right);
        Ok(())
    }
}

fn is_living(part: &Struct) -> bool {
    matches!(&part.body, Body::Item(item) if item.content != Content::Deleted)
}

/// Which runs were passed while one is placed, and which of them may still come before it.
#[derive(Debug)]
struct Marks {
    passed: Vec<u64>,
    conflicting: Vec<u64>,
    since: u64,
    settled: u64,
    now: u64,
}

impl Marks {
    fn new(runs: usize) -> Marks {
        Marks { passed: vec![0; runs], conflicting: vec![0; runs], since: 1, settled: 1, now: 0 }
    }

    fn begin(&mut self) {
        self.now += 1;
        self.since = self.now;
        self.settled = self.now;
    }

    fn pass(&mut self, run: usize) {
        self.passed[run] = self.now;
        self.conflicting[run] = self.now;
    }

    /// What was passed until now comes before the one that is placed.
    fn settle(&mut self) {
        self.now += 1;
        self.settled = self.now;
    }

    fn was_passed(&self, run: usize) -> bool {
        self.passed[run] >= self.since
    }

    fn conflicts(&self, run: usize) -> bool {
        self.conflicting[run] >= self.settled
    }
}

/// The structs of a document, cut wherever one is referred to, in the order of their ids.
fn cut_runs(document: &Document) -> Vec<Run> {
    // Before which elements to cut.
    let mut cuts: Vec<Id> = Vec::new();
    for (_, part) in document.structs() {
        if let Body::Item(item) = &part.body {
            cuts.extend(item.left.map(|id| Id { clock: id.clock + 1, ..id }));
            cuts.extend(item.right);
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    let mut runs = Vec::new();
    for (id, part) in document.structs() {
        let (mut id, mut part) = (id, part.clone());
        let first = cuts.partition_point(|cut| *cut <= id);
        for cut in &cuts[first..] {
            if cut.client != id.client || cut.clock >= id.clock + part.len {
                break;
            }
            let rest = part.cut(id, cut.clock - id.clock);
            runs.push(Run::new(id, std::mem::replace(&mut part, rest)));
            id = *cut;
        }
        runs.push(Run::new(id, part));
    }
    runs
}

impl Run {
    fn new(id: Id, part: Struct) -> Run {
        Run { id, part, list: None, right: None, needs: 0, needed_by: Vec::new() }
    }
}
