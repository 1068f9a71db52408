//! Filters: predicates over one row, with SQL's three-valued logic. A row passes only when the
//! answer is true; null is not true. The evaluator is compared with what Postgres answers for the
//! same expression over generated values, so that a row in memory and a row of a load are judged
//! alike.

use crate::plan::ClaimId;
use crate::value::Value;

/// A boolean expression over one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicate {
    /// True, false or null, whatever the row.
    Literal(Option<bool>),
    /// A boolean operand by itself.
    Bare(Operand),
    /// Two operands of one family of types.
    Compare(Comparison, Operand, Operand),
    /// `IS NULL`; with `IS NOT NULL` under [`Predicate::Not`].
    IsNull(Operand),
    /// `IN (literals)`, not empty; may hold null.
    In(Operand, Vec<Value>),
    /// `NOT`.
    Not(Box<Predicate>),
    /// All of them.
    And(Vec<Predicate>),
    /// Any of them.
    Or(Vec<Predicate>),
}

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
    /// A literal, already of the type that it is compared with.
    Literal(Value),
    /// A claim of the view; only in a [`ClaimFilter`].
    Claim(ClaimId),
}

/// Decided by the row alone; columns are indexes into the catalog's columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(pub Predicate);

/// What also depends on the view's claims; columns are indexes into [`crate::row::Image::kept`].
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimFilter(pub Predicate);
