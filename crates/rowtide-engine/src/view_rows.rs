//! What a view sees at one commit, frozen, to be said slice by slice whenever somebody has room for it. It
//! shares the chunks of the topics that it was made from, so to make it costs as many steps as there are
//! chunks, and nothing that happens in the engine afterwards changes it. Where several topics hold a row, the
//! one of the lowest branch says it: of the topics of one branch that a view reaches a row is in one at the most,
//! because rules look for one value in an array, and for one of several only in what is none.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_plan::claims::Claims;
use rowtide_plan::map::Id;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::{Row, Topic};

use crate::rows::{FrozenRows, TopicRows};
use crate::sets::FrozenSets;

/// The rows of a view as of one commit, each once.
#[derive(Debug)]
pub struct ViewRows {
    plan: Arc<Plan>,
    claims: Claims,
    sets: FrozenSets,
    /// By table and topic; none is empty.
    parts: Vec<Part>,
}

/// The rows of one topic that the view reaches.
#[derive(Debug)]
struct Part {
    table: TableId,
    /// None: the rows of a window, each of which it says.
    topic: Option<Topic>,
    rows: FrozenRows,
    /// Whether parts of lower branches may have said some of its rows.
    may_repeat: bool,
}

/// Where a slice begins. The first begins at the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    part: usize,
    row: usize,
}

impl Id for Place {}

/// Some rows of one table.
#[derive(Debug)]
pub struct Slice<'a> {
    /// Their table.
    pub table: TableId,
    /// Never none.
    pub rows: Vec<&'a Arc<Row>>,
    /// Where the next slice begins.
    pub next: Place,
}

impl ViewRows {
    /// Freezes the rows of topics of published branches that a view with these claims and sets reaches.
    pub fn freeze<'a>(
        plan: &Arc<Plan>,
        claims: &Claims,
        sets: FrozenSets,
        topics: impl Iterator<Item = (&'a Topic, &'a TopicRows)>,
    ) -> ViewRows {
        let part = |(topic, rows): (&Topic, &TopicRows)| Part {
            table: plan.branch(topic.branch).table,
            topic: Some(topic.clone()),
            rows: rows.freeze(),
            may_repeat: false,
        };
        let mut parts: Vec<Part> = topics.filter(|(_, rows)| !rows.is_empty()).map(part).collect();
        parts.sort_unstable_by(|a, b| (a.table, &a.topic).cmp(&(b.table, &b.topic)));
        for at in 1..parts.len() {
            let (before, part) = (&parts[at - 1], &parts[at]);
            let same_table = before.table == part.table;
            let branch = |part: &Part| part.topic.as_ref().map(|topic| topic.branch);
            let repeats = before.may_repeat || branch(before) != branch(part);
            parts[at].may_repeat = same_table && repeats;
        }
        ViewRows { plan: Arc::clone(plan), claims: claims.clone(), sets, parts }
    }

    /// And the rows of windows, which are of tables of which there are no others.
    pub(crate) fn with_windows(
        mut self,
        windows: impl Iterator<Item = (TableId, TopicRows)>,
    ) -> ViewRows {
        let part = |(table, rows): (TableId, TopicRows)| Part {
            table,
            topic: None,
            rows: rows.freeze(),
            may_repeat: false,
        };
        self.parts.extend(windows.filter(|(_, rows)| !rows.is_empty()).map(part));
        self.parts.sort_by(|a, b| (a.table, &a.topic).cmp(&(b.table, &b.topic)));
        self
    }

    /// The plan of its tables.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// At most so many rows are in it; those that its claims hide, and those that several topics hold, are
    /// counted as well.
    pub fn most_rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows.len()).sum()
    }

    /// The slice of about `bytes` of JSON that begins at `from`, which is the default or [`Slice::next`] of
    /// another slice; `None` behind the last. Who asks the same is given the same.
    pub fn slice(&self, from: Place, bytes: usize) -> Option<Slice<'_>> {
        let mut rows = Vec::new();
        let mut taken = 0;
        let mut next = from;
        let mut table = None;
        while let Some(part) = self.parts.get(next.part) {
            if *table.get_or_insert(part.table) != part.table {
                if !rows.is_empty() {
                    break;
                }
                table = Some(part.table);
            }
            for row in part.rows.starting_at(next.row) {
                if taken >= bytes {
                    break;
                }
                next.row += 1;
                if self.says(part, row) {
                    taken += row.json.len();
                    rows.push(row);
                }
            }
            if next.row < part.rows.len() {
                break;
            }
            next = Place { part: next.part + 1, row: 0 };
        }
        table.filter(|_| !rows.is_empty()).map(|table| Slice { table, rows, next })
    }

    /// Which rows are in it.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (TableId, Bytes)> {
        self.parts.iter().flat_map(|part| {
            let rows = part.rows.starting_at(0).filter(|row| self.says(part, row));
            rows.map(|row| (part.table, row.image.key.clone()))
        })
    }

    /// Whether the view sees the row, and by this part first.
    fn says(&self, part: &Part, row: &Row) -> bool {
        let passes = |topic: &Topic| {
            self.sets.pass(self.plan.branch(topic.branch), &row.image.kept, &self.claims)
        };
        let Some(own) = &part.topic else { return true };
        let says = |topic: &Topic| {
            topic.branch < own.branch
                && self
                    .parts
                    .binary_search_by(|other| {
                        (other.table, other.topic.as_ref()).cmp(&(part.table, Some(topic)))
                    })
                    .is_ok()
                && passes(topic)
        };
        passes(own) && !(part.may_repeat && row.image.topics.iter().any(says))
    }
}
