//! Random windows of queries: written as in a definition, and looked for here by sorting all rows.

use std::cmp::Ordering;

use rand::Rng;
use rand::rngs::SmallRng;

use super::postgres::DataRow;

/// The first rows in an order.
#[derive(Debug)]
pub(super) struct Window {
    order: Vec<(Column, Direction)>,
    /// None: as many as a parameter says.
    pub(super) limit: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Column {
    Id,
    X,
    Y,
    Flag,
}

/// How SQL says it, whether it descends, and whether nulls come first.
type Direction = (&'static str, bool, bool);

const DIRECTIONS: [Direction; 6] = [
    ("", false, false),
    (" ASC", false, false),
    (" DESC", true, true),
    (" NULLS FIRST", false, true),
    (" DESC NULLS LAST", true, false),
    (" desc nulls first", true, true),
];

impl Window {
    pub(super) fn random(rng: &mut SmallRng) -> Window {
        let columns = [Column::Id, Column::X, Column::Y, Column::Flag];
        let mut one = || (columns[rng.random_range(0..4)], DIRECTIONS[rng.random_range(0..6)]);
        let mut order = vec![one()];
        if rng.random_bool(0.5) {
            order.push((columns[rng.random_range(0..4)], DIRECTIONS[rng.random_range(0..6)]));
        }
        let limit = rng.random_bool(0.6).then(|| rng.random_range(1..4));
        Window { order, limit }
    }

    pub(super) fn toml(&self) -> String {
        let one = |(column, (direction, ..)): &(Column, Direction)| {
            let name = match column {
                Column::Id => "id",
                Column::X => "x",
                Column::Y => "y",
                Column::Flag => "flag",
            };
            format!("{name}{direction}")
        };
        let order: Vec<String> = self.order.iter().map(one).collect();
        let limit = match self.limit {
            Some(rows) => rows.to_string(),
            None => "'params.c'".to_owned(),
        };
        format!(", order = '{}', limit = {limit}", order.join(", "))
    }

    /// The first of these rows; `count` is what the parameter says.
    pub(super) fn first<'a>(&self, mut rows: Vec<&'a DataRow>, count: usize) -> Vec<&'a DataRow> {
        rows.sort_by(|a, b| self.compare(a, b));
        rows.truncate(self.limit.unwrap_or(count));
        rows
    }

    fn compare(&self, a: &DataRow, b: &DataRow) -> Ordering {
        for (column, (_, descending, nulls_first)) in &self.order {
            let order = match column {
                Column::Id => by(Some(a.id), Some(b.id), *descending, *nulls_first),
                Column::X => by(a.x, b.x, *descending, *nulls_first),
                Column::Y => by(a.y, b.y, *descending, *nulls_first),
                Column::Flag => by(a.flag, b.flag, *descending, *nulls_first),
            };
            if order != Ordering::Equal {
                return order;
            }
        }
        // The key is added, with the direction of the last.
        let descends = self.order.last().is_some_and(|(_, (_, descending, _))| *descending);
        if descends { b.id.cmp(&a.id) } else { a.id.cmp(&b.id) }
    }
}

fn by<T: Ord>(a: Option<T>, b: Option<T>, descending: bool, nulls_first: bool) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) if nulls_first => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) if nulls_first => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) if descending => b.cmp(&a),
        (Some(a), Some(b)) => a.cmp(&b),
    }
}
