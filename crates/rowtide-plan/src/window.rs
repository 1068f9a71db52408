//! Windows: of what a subscription selects of a table only the first rows, in an order. The order ends in the table's key, so
//! that no two rows stand at one place, and it is one that Postgres and the server agree on: text is compared by its bytes.
//! A window is of the rows that a subscriber may see, so how many rows of a topic it needs is known by looking.

use std::cmp::Ordering;

use crate::claims::Claims;
use crate::ids::{ClaimId, QueryId, TableId};
use crate::value::{ColumnType, Value};

/// The most rows of a window.
pub const MAX_WINDOW_ROWS: u32 = 10_000;

/// What a query selects of a table, where that is a window.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The query.
    pub query: QueryId,
    /// The table.
    pub table: TableId,
    /// Never empty; ends in the table's key.
    pub order: Vec<OrderColumn>,
    /// How many rows.
    pub limit: WindowLimit,
}

/// A column that rows are put in order by.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderColumn {
    /// Index into the catalog's columns.
    pub column: usize,
    /// Where its value is found in [`crate::row::Image::kept`].
    pub kept: usize,
    /// Whether the greatest come first.
    pub descending: bool,
    /// Whether null comes before all values, or behind them.
    pub nulls_first: bool,
}

/// How many rows a window has at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowLimit {
    /// As many as the definition says.
    Rows(u32),
    /// As many as a parameter says.
    Param(ClaimId),
}

/// Where a row stands in the order of a window. The lower come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(Box<[Placed]>);

/// A value where it stands in one column of an order. Derived, the order is that of the variants: nulls are before or behind
/// all values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Placed {
    NullFirst,
    Up(Ordered),
    Down(std::cmp::Reverse<Ordered>),
    NullLast,
}

/// A value with the order that Postgres has for its type.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ordered(Value);

impl Ord for Ordered {
    fn cmp(&self, other: &Ordered) -> Ordering {
        // Values of one column are of one family.
        self.0.compare(&other.0).unwrap_or_else(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Ordered) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Window {
    /// Where a row with these kept columns stands.
    pub fn rank(&self, kept: &[Value]) -> Rank {
        let place = |of: &OrderColumn| match &kept[of.kept] {
            Value::Null if of.nulls_first => Placed::NullFirst,
            Value::Null => Placed::NullLast,
            value if of.descending => Placed::Down(std::cmp::Reverse(Ordered(value.clone()))),
            value => Placed::Up(Ordered(value.clone())),
        };
        Rank(self.order.iter().map(place).collect())
    }

    /// How many rows it has at the most for a subscription with these claims, which [`Plan::select`] has made.
    pub fn rows(&self, claims: &Claims) -> usize {
        let rows = match self.limit {
            WindowLimit::Rows(rows) => rows,
            WindowLimit::Param(claim) => match claims.0.get(usize::from(claim.0)) {
                Some(Value::Int(rows)) => {
                    u32::try_from(*rows).unwrap_or_default().min(MAX_WINDOW_ROWS)
                }
                _ => 0,
            },
        };
        rows as usize
    }
}

/// Whether Postgres and [`Value::compare`] agree on which of two values of this type is the greater.
pub fn has_order(kind: &ColumnType) -> bool {
    match kind {
        ColumnType::Bool
        | ColumnType::Int
        | ColumnType::Float4
        | ColumnType::Float8
        | ColumnType::Numeric
        | ColumnType::Text
        | ColumnType::Uuid
        | ColumnType::Bytea
        | ColumnType::TimestampTz
        | ColumnType::Timestamp
        | ColumnType::Date
        | ColumnType::Time => true,
        // The labels of an enum have an order of their own, and `char(n)` one without its blanks.
        ColumnType::Enum
        | ColumnType::Char
        | ColumnType::Json
        | ColumnType::Array(_)
        | ColumnType::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(order: &[(bool, bool)]) -> Window {
        let column = |(at, (descending, nulls_first)): (usize, &(bool, bool))| OrderColumn {
            column: at,
            kept: at,
            descending: *descending,
            nulls_first: *nulls_first,
        };
        let order = order.iter().enumerate().map(column).collect();
        Window { query: QueryId(0), table: TableId(0), order, limit: WindowLimit::Rows(1) }
    }

    #[test]
    fn rows_stand_as_order_by_puts_them() {
        let int = Value::Int;
        let sorted = |order: &[(bool, bool)], mut rows: Vec<[Value; 2]>| {
            let window = window(order);
            rows.sort_by_key(|row| window.rank(row));
            rows
        };
        let rows = [[int(2), int(1)], [Value::Null, int(2)], [int(10), int(3)], [int(2), int(4)]];
        let ids = |order: &[(bool, bool)]| {
            let second = |row: &[Value; 2]| match &row[1] {
                Value::Int(id) => *id,
                _ => 0,
            };
            sorted(order, rows.to_vec()).iter().map(second).collect::<Vec<i64>>()
        };
        assert_eq!(ids(&[(false, false), (false, false)]), [1, 4, 3, 2]);
        assert_eq!(ids(&[(true, true), (true, true)]), [2, 3, 4, 1]);
        assert_eq!(ids(&[(true, false), (false, false)]), [3, 1, 4, 2]);
        assert_eq!(ids(&[(false, true), (true, true)]), [2, 4, 1, 3]);
    }
}
