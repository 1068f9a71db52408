//! When rows come or go by time alone. A row of a branch whose rule asks for the time has an answer for each stretch of time, and the
//! moments between two of these are known from its value. They are kept in order, so that what turns between two moments is
//! found without looking at the others.

use std::collections::BTreeSet;

use bytes::Bytes;
use rowtide_plan::filter::TimeTest;
use rowtide_plan::plan::Branch;
use rowtide_plan::row::Row;
use rowtide_plan::value::Instant;

/// The moments at which rows of one topic turn.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// What rows are asked, each with the kept column.
    tests: Box<[(usize, TimeTest)]>,
    rows: BTreeSet<(Instant, Bytes)>,
}

impl Turns {
    /// Those of a topic without rows.
    pub(crate) fn of(branch: &Branch) -> Turns {
        Turns { tests: branch.time_tests().into(), rows: BTreeSet::new() }
    }

    /// Whether its rows come and go as time passes.
    pub(crate) fn are_any(&self) -> bool {
        !self.tests.is_empty()
    }

    fn moments(&self, row: &Row) -> impl Iterator<Item = Instant> {
        self.tests.iter().filter_map(|(column, test)| test.turns_at(&row.image.kept[*column]))
    }

    /// A row has come; returns the moments that have become more.
    pub(crate) fn insert(&mut self, row: &Row) -> Vec<Instant> {
        let mut moments: Vec<Instant> = self.moments(row).collect();
        moments.retain(|at| self.rows.insert((*at, row.image.key.clone())));
        moments
    }

    /// A row has gone; returns the moments that have become less.
    pub(crate) fn remove(&mut self, row: &Row) -> Vec<Instant> {
        let mut moments: Vec<Instant> = self.moments(row).collect();
        moments.retain(|at| self.rows.remove(&(*at, row.image.key.clone())));
        moments
    }

    /// All rows have gone; returns their moments.
    pub(crate) fn clear(&mut self) -> impl Iterator<Item = Instant> + use<> {
        std::mem::take(&mut self.rows).into_iter().map(|(at, _)| at)
    }

    /// The rows that may have another answer at the one moment than at the other.
    pub(crate) fn between(&self, one: Instant, other: Instant) -> impl Iterator<Item = &Bytes> {
        let (first, last) = (one.min(other), one.max(other));
        let from = self.rows.range((first, Bytes::new())..);
        from.take_while(move |(at, _)| *at <= last).map(|(_, key)| key)
    }

    /// How many moments there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Panics if they are not those of these rows.
    #[cfg(test)]
    pub(crate) fn check<'a>(&self, rows: impl Iterator<Item = &'a std::sync::Arc<Row>>) {
        let mut anew = Turns { tests: self.tests.clone(), rows: BTreeSet::new() };
        rows.for_each(|row| drop(anew.insert(row)));
        assert_eq!(self.rows, anew.rows);
    }
}
