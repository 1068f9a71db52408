//! Windows, as an engine keeps them. A topic of a branch that is for a window holds a prefix: all of its rows up to a bound in
//! the window's order, and of what lies behind nothing. A view has of each of its windows what it was told of it; the window
//! now is the first rows that it sees in the prefixes of its topics, if these reach far enough to say which ones those are.
//! Where they do not, more rows are asked for. What a view is told is the difference between both, so that it does not matter
//! in which order things came to be so.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rowtide_plan::claims::Claims;
use rowtide_plan::filter::ClaimFilter;
use rowtide_plan::plan::{Plan, Selection, TableId, WindowId};
use rowtide_plan::row::{Image, Row};
use rowtide_plan::window::{Rank, Window};

use crate::TopicRows;

/// How many rows more than for any other window may be loaded to tell a client that comes back what was in its.
const MOST_MORE: usize = if cfg!(test) { 4 } else { 1_000 };

/// How many rows are asked for beside those of a window, at the least: so many may leave it before more are asked for.
const RESERVE: usize = if cfg!(test) { 1 } else { 16 };

/// A prefix that has grown to so many times what is asked for is cut back.
const KEPT: usize = if cfg!(test) { 1 } else { 2 };

/// What a window of so many rows asks for: half as many more, so that it need not ask again for each row that leaves.
pub(crate) fn with_reserve(rows: usize) -> usize {
    rows + (rows / 2).max(RESERVE)
}

/// The most rows that are loaded to tell a client that comes back what was in its window of so many. Past that it is sent all
/// of its rows.
pub(crate) fn most_for_who_comes_back(rows: usize) -> usize {
    4 * with_reserve(rows) + MOST_MORE
}

/// The rows of a window by their keys, each with what is known of it.
pub(crate) type WindowRows = BTreeMap<Bytes, Option<Arc<Row>>>;

/// The window of a view.
#[derive(Debug)]
pub(crate) struct ViewWindow {
    pub(crate) id: WindowId,
    pub(crate) table: TableId,
    /// How many rows it has at the most.
    pub(crate) limit: usize,
    /// The rows of the view's last message by their keys. Of one that may have changed since it is not known what it was.
    pub(crate) told: WindowRows,
    /// Where the last of them stands, if there are as many as there may be: what comes behind is none of the window's.
    last: Option<Rank>,
    /// The rows of the next one, once that is known.
    pub(crate) next: Option<FirstRows>,
}

/// The first rows in an order.
#[derive(Debug)]
pub(crate) struct FirstRows {
    pub(crate) rows: WindowRows,
    /// Where the last of them stands, if there are as many as were asked for.
    pub(crate) last: Option<Rank>,
}

impl ViewWindow {
    /// Those of a view of this selection, empty.
    pub(crate) fn all_of(plan: &Plan, selection: Selection, claims: &Claims) -> Vec<ViewWindow> {
        let Selection::Query(query) = selection else { return Vec::new() };
        let of = |id: WindowId| {
            let window = plan.window(id);
            let (table, limit) = (window.table, window.rows(claims));
            ViewWindow { id, table, limit, told: BTreeMap::new(), last: None, next: None }
        };
        plan.windows_of(query).map(of).collect()
    }

    /// Whether it may have another row because this one has changed, which stands there now, or did.
    pub(crate) fn may_differ(&self, key: &Bytes, rank: &Rank) -> bool {
        self.told.contains_key(key) || self.last.as_ref().is_none_or(|last| rank <= last)
    }

    /// What it is was told.
    pub(crate) fn was_told(&mut self, FirstRows { rows, last }: FirstRows) {
        (self.told, self.last) = (rows, last);
    }

    /// These were its rows at the cursor of who comes back.
    pub(crate) fn was(&mut self, rows: WindowRows) {
        (self.told, self.last) = (rows, None);
    }

    /// The rows of the last message, where no other is being made.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Arc<Row>> {
        self.told.values().flatten()
    }

    /// The same, each with its table.
    pub(crate) fn rows_of_table(&self) -> impl Iterator<Item = (TableId, &Arc<Row>)> {
        self.rows().map(|row| (self.table, row))
    }
}

/// What a topic knows of its rows, which are those up to a bound.
#[derive(Debug)]
pub(crate) struct Prefix {
    pub(crate) window: Arc<Window>,
    /// What hides all of its rows from a view, or none.
    pub(crate) of_topic: Option<ClaimFilter>,
    /// The rows in order.
    ordered: BTreeMap<Rank, Arc<Row>>,
    /// The rows up to here are known, and none behind. None: all of them are.
    bound: Option<Rank>,
    /// How many rows are asked for.
    asked: usize,
    /// How many are asked for until those who come back are told what they have missed.
    asked_once: usize,
    /// How many the load under way, or the last one, was asked for.
    loading: usize,
}

impl Prefix {
    pub(crate) fn new(window: Arc<Window>, of_topic: Option<ClaimFilter>) -> Prefix {
        let (ordered, bound) = (BTreeMap::new(), None);
        Prefix { window, of_topic, ordered, bound, asked: 1, asked_once: 0, loading: 1 }
    }

    /// Where a row stands.
    pub(crate) fn rank(&self, image: &Image) -> Rank {
        self.window.rank(&image.kept)
    }

    /// Whether a row that stands there is one of those that are known.
    pub(crate) fn covers(&self, rank: &Rank) -> bool {
        self.bound.as_ref().is_none_or(|bound| rank <= bound)
    }

    /// In order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&Rank, &Arc<Row>)> {
        self.ordered.iter()
    }

    pub(crate) fn bound(&self) -> Option<&Rank> {
        self.bound.as_ref()
    }

    /// At least so many rows are needed, from now on.
    pub(crate) fn ask_for(&mut self, rows: usize) {
        self.asked = self.asked.max(rows);
    }

    /// At least so many rows are needed until [`Prefix::needs_no_more`].
    pub(crate) fn ask_once_for(&mut self, rows: usize) {
        self.asked_once = self.asked_once.max(rows);
    }

    /// Nobody needs more rows than are asked for anyway.
    pub(crate) fn needs_no_more(&mut self) {
        self.asked_once = 0;
    }

    /// A load begins.
    pub(crate) fn begin_load(&mut self) {
        self.loading = self.asked.max(self.asked_once);
    }

    /// How many rows the load under way was asked for.
    pub(crate) fn loading(&self) -> usize {
        self.loading
    }

    /// A load has brought these rows, as its snapshot sees them: where it was given as many as it was asked for, there may be
    /// more.
    pub(crate) fn was_loaded(&mut self, rows: &TopicRows) {
        let last = || rows.iter().map(|row| self.rank(&row.image)).max();
        self.bound = if rows.len() >= self.loading { last() } else { None };
    }

    /// There are no rows, and none are unknown.
    pub(crate) fn was_emptied(&mut self) {
        self.bound = None;
    }

    /// These are the topic's rows.
    pub(crate) fn put(&mut self, rows: &TopicRows) {
        self.ordered = rows.iter().map(|row| (self.rank(&row.image), Arc::clone(row))).collect();
    }

    /// A row has become another. Returns the rows that are not known any more, because there are too many.
    pub(crate) fn change(
        &mut self,
        before: Option<&Arc<Row>>,
        after: Option<&Arc<Row>>,
    ) -> Vec<Arc<Row>> {
        if let Some(row) = before {
            self.ordered.remove(&self.rank(&row.image));
        }
        if let Some(row) = after {
            self.ordered.insert(self.rank(&row.image), Arc::clone(row));
        }
        let mut forgotten = Vec::new();
        let wanted = self.asked.max(self.asked_once);
        if self.ordered.len() > KEPT * wanted {
            while self.ordered.len() > wanted {
                forgotten.extend(self.ordered.pop_last().map(|(_, row)| row));
            }
            self.bound = self.ordered.last_key_value().map(|(rank, _)| rank.clone());
        }
        forgotten
    }

    #[cfg(test)]
    pub(crate) fn check(&self, rows: &TopicRows) {
        assert_eq!(self.ordered.len(), rows.len());
        for (rank, row) in &self.ordered {
            assert_eq!(*rank, self.rank(&row.image));
            assert!(rows.get(&row.image.key).is_some_and(|other| Arc::ptr_eq(other, row)));
            assert!(self.bound.as_ref().is_none_or(|bound| rank <= bound));
        }
    }
}
