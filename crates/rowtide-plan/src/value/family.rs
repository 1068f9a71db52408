//! Which types can be compared with which others.

use super::ColumnType;

/// Types whose values can be compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Booleans.
    Bool,
    /// Integers of any width.
    Int,
    /// Floating point numbers of any width.
    Float,
    /// `numeric`.
    Numeric,
    /// Text of any kind.
    Text,
    /// Labels of an enum.
    Enum,
    /// `uuid`.
    Uuid,
    /// `bytea`.
    Bytea,
    /// `timestamptz`.
    TimestampTz,
    /// `timestamp`.
    Timestamp,
    /// `date`.
    Date,
    /// `time`.
    Time,
}

impl ColumnType {
    /// The family in which its values can be compared; `None` if rules can only ask for null.
    pub fn family(&self) -> Option<Family> {
        Some(match self {
            ColumnType::Bool => Family::Bool,
            ColumnType::Int => Family::Int,
            ColumnType::Float4 | ColumnType::Float8 => Family::Float,
            ColumnType::Numeric => Family::Numeric,
            ColumnType::Text | ColumnType::Char => Family::Text,
            ColumnType::Enum => Family::Enum,
            ColumnType::Uuid => Family::Uuid,
            ColumnType::Bytea => Family::Bytea,
            ColumnType::TimestampTz => Family::TimestampTz,
            ColumnType::Timestamp => Family::Timestamp,
            ColumnType::Date => Family::Date,
            ColumnType::Time => Family::Time,
            ColumnType::Json | ColumnType::Array(_) | ColumnType::Other => return None,
        })
    }
}

impl Family {
    /// Whether `<` means the same here and in Postgres: numbers and times, not text.
    pub fn is_ordered(self) -> bool {
        use Family::{Date, Float, Int, Numeric, Time, Timestamp, TimestampTz};
        matches!(self, Int | Float | Numeric | TimestampTz | Timestamp | Date | Time)
    }
}
