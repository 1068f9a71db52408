//! What a filter compares, and how: columns, literals and claims, and SQL's six comparisons.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::ids::ClaimId;
use crate::value::{ColumnType, Value};

/// `=`, `<>`, `<`, `<=`, `>`, `>=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// What is compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A column: an index into the values that the filter is judged over.
    Column(usize),
    /// A column as another type, which each of its values can be: `column::text`.
    Cast(usize, ColumnType),
    /// A literal, already of the type that it is compared with.
    Literal(Value),
    /// A claim of the view; only in a [`ClaimFilter`].
    Claim(ClaimId),
}

impl Comparison {
    /// The operator in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Comparison::Equal => "=",
            Comparison::NotEqual => "<>",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        }
    }

    /// The comparison that is true where this one is false.
    pub fn negated(self) -> Comparison {
        match self {
            Comparison::Equal => Comparison::NotEqual,
            Comparison::NotEqual => Comparison::Equal,
            Comparison::Less => Comparison::GreaterOrEqual,
            Comparison::LessOrEqual => Comparison::Greater,
            Comparison::Greater => Comparison::LessOrEqual,
            Comparison::GreaterOrEqual => Comparison::Less,
        }
    }

    /// The comparison that holds with the two sides in each other's place.
    pub(crate) fn turned(self) -> Comparison {
        match self {
            Comparison::Equal | Comparison::NotEqual => self,
            Comparison::Less => Comparison::Greater,
            Comparison::LessOrEqual => Comparison::GreaterOrEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterOrEqual => Comparison::LessOrEqual,
        }
    }

    pub(crate) fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Equal => order.is_eq(),
            Comparison::NotEqual => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        }
    }
}

impl Operand {
    /// The column that it is, or is made of.
    pub fn column(&self) -> Option<usize> {
        match self {
            Operand::Column(index) | Operand::Cast(index, _) => Some(*index),
            Operand::Literal(_) | Operand::Claim(_) => None,
        }
    }

    pub(crate) fn value<'a>(&'a self, columns: &'a [Value], claims: &'a [Value]) -> Cow<'a, Value> {
        match self {
            Operand::Column(index) => Cow::Borrowed(&columns[*index]),
            Operand::Cast(index, kind) => columns[*index].cast(kind),
            Operand::Claim(ClaimId(index)) => Cow::Borrowed(&claims[usize::from(*index)]),
            Operand::Literal(value) => Cow::Borrowed(value),
        }
    }
}
