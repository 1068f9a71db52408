//! Filters: predicates over one row, with SQL's three-valued logic. A row passes only when the
//! answer is true; null is not true. The evaluator is compared with what Postgres answers for the
//! same expression over generated values, so that a row in memory and a row of a load are judged
//! alike.

mod present;

use crate::claims::Claims;
use crate::ids::SetId;
pub use crate::operand::{Comparison, Operand};
use crate::value::{Instant, Value};

pub use present::TimeTest;

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
    /// `= ANY (array)`; with `<> ALL (array)` under [`Predicate::Not`].
    Any(Operand, Operand),
    /// `IS TRUE`, `IS FALSE` or `IS UNKNOWN`: whether that is the answer.
    Is(Box<Predicate>, Option<bool>),
    /// `IN (SELECT …)` or `EXISTS (SELECT …)`; only in a [`ClaimFilter`].
    InSet(InSet),
    /// A comparison with `now()`; only in a [`ClaimFilter`].
    Time(TimeTest),
    /// `NOT`.
    Not(Box<Predicate>),
    /// All of them.
    And(Vec<Predicate>),
    /// Any of them.
    Or(Vec<Predicate>),
}

/// Whether a row's values are in a set.
#[derive(Clone, Debug, PartialEq)]
pub struct InSet {
    /// The row's values, as many as a value of the set has parts.
    pub columns: Vec<Operand>,
    /// The set.
    pub set: SetId,
    /// `EXISTS`: what is null is not found, and the answer is never null.
    pub exists: bool,
}

/// What the sets say of an [`InSet`] over these columns.
pub type AskSet<'a> = &'a dyn Fn(&InSet, &[Value]) -> Option<bool>;

/// Decided by the row alone; columns are indexes into the catalog's columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(pub Predicate);

/// What also depends on the view's claims and sets, and on the time; columns are indexes into [`crate::row::Image::kept`].
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimFilter(pub Predicate);

impl Predicate {
    /// SQL's answer: true, false or null. For what asks no set and not for the time.
    pub fn judge(&self, columns: &[Value], claims: &[Value]) -> Option<bool> {
        self.judge_with(columns, claims, &|_, _| None, Instant::MINUS_INFINITY)
    }

    /// SQL's answer: true, false or null.
    pub fn judge_with(
        &self,
        columns: &[Value],
        claims: &[Value],
        sets: AskSet<'_>,
        now: Instant,
    ) -> Option<bool> {
        match self {
            Predicate::InSet(test) => sets(test, columns),
            Predicate::Time(test) => test.judge(&test.column.value(columns, claims), now),
            Predicate::Literal(answer) => *answer,
            Predicate::Bare(operand) => match *operand.value(columns, claims) {
                Value::Bool(value) => Some(value),
                _ => None,
            },
            Predicate::Compare(comparison, left, right) => {
                let order = left.value(columns, claims).compare(&right.value(columns, claims))?;
                Some(comparison.holds(order))
            }
            Predicate::IsNull(operand) => Some(operand.value(columns, claims).is_null()),
            Predicate::In(operand, values) => {
                let value = operand.value(columns, claims);
                if value.is_null() {
                    None
                } else if values.contains(&value) {
                    Some(true)
                } else if values.contains(&Value::Null) {
                    None
                } else {
                    Some(false)
                }
            }
            Predicate::Any(item, array) => {
                let (item, array) = (item.value(columns, claims), array.value(columns, claims));
                let Value::Array(elements) = &*array else { return None };
                // Nothing is in an empty array, not even null.
                if elements.is_empty() {
                    Some(false)
                } else if item.is_null() {
                    None
                } else if elements.binary_search(&item).is_ok() {
                    Some(true)
                } else {
                    // Null comes first.
                    elements.first().filter(|first| !first.is_null()).map(|_| false)
                }
            }
            Predicate::Is(inner, answer) => {
                Some(inner.judge_with(columns, claims, sets, now) == *answer)
            }
            Predicate::Not(inner) => {
                inner.judge_with(columns, claims, sets, now).map(|answer| !answer)
            }
            Predicate::And(all) => {
                let mut result = Some(true);
                for predicate in all {
                    match predicate.judge_with(columns, claims, sets, now) {
                        Some(false) => return Some(false),
                        None => result = None,
                        Some(true) => {}
                    }
                }
                result
            }
            Predicate::Or(any) => {
                let mut result = Some(false);
                for predicate in any {
                    match predicate.judge_with(columns, claims, sets, now) {
                        Some(true) => return Some(true),
                        None => result = None,
                        Some(false) => {}
                    }
                }
                result
            }
        }
    }

    /// Calls `visit` with every operand.
    pub fn operands<'a>(&'a self, visit: &mut impl FnMut(&'a Operand)) {
        match self {
            Predicate::Literal(_) => {}
            Predicate::Bare(operand) | Predicate::IsNull(operand) | Predicate::In(operand, _) => {
                visit(operand);
            }
            Predicate::Compare(_, left, right) | Predicate::Any(left, right) => {
                visit(left);
                visit(right);
            }
            Predicate::InSet(test) => test.columns.iter().for_each(visit),
            Predicate::Time(test) => visit(&test.column),
            Predicate::Is(inner, _) | Predicate::Not(inner) => inner.operands(visit),
            Predicate::And(parts) | Predicate::Or(parts) => {
                parts.iter().for_each(|part| part.operands(visit));
            }
        }
    }

    /// Calls `visit` with all that asks a set.
    pub fn set_tests<'a>(&'a self, visit: &mut impl FnMut(&'a InSet)) {
        match self {
            Predicate::InSet(test) => visit(test),
            Predicate::Is(inner, _) | Predicate::Not(inner) => inner.set_tests(visit),
            Predicate::And(parts) | Predicate::Or(parts) => {
                parts.iter().for_each(|part| part.set_tests(visit));
            }
            Predicate::Literal(_)
            | Predicate::Bare(_)
            | Predicate::Compare(..)
            | Predicate::IsNull(_)
            | Predicate::Time(_)
            | Predicate::Any(..)
            | Predicate::In(..) => {}
        }
    }

    /// All that asks for the time.
    pub fn time_tests(&self) -> Vec<&TimeTest> {
        match self {
            Predicate::Time(test) => vec![test],
            Predicate::Is(inner, _) | Predicate::Not(inner) => inner.time_tests(),
            Predicate::And(parts) | Predicate::Or(parts) => {
                parts.iter().flat_map(Predicate::time_tests).collect()
            }
            Predicate::Literal(_)
            | Predicate::Bare(_)
            | Predicate::Compare(..)
            | Predicate::IsNull(_)
            | Predicate::InSet(_)
            | Predicate::Any(..)
            | Predicate::In(..) => Vec::new(),
        }
    }

    /// Whether it asks for the time.
    pub fn asks_time(&self) -> bool {
        !self.time_tests().is_empty()
    }

    /// Whether it asks a set.
    pub fn asks_sets(&self) -> bool {
        let mut asks = false;
        self.set_tests(&mut |_| asks = true);
        asks
    }

    /// The same predicate over columns that are numbered anew.
    pub fn with_columns(&self, number: &impl Fn(usize) -> usize) -> Predicate {
        let operand = |operand: &Operand| match operand {
            Operand::Column(index) => Operand::Column(number(*index)),
            Operand::Cast(index, kind) => Operand::Cast(number(*index), kind.clone()),
            other => other.clone(),
        };
        let each = |parts: &[Predicate]| parts.iter().map(|p| p.with_columns(number)).collect();
        match self {
            Predicate::Literal(answer) => Predicate::Literal(*answer),
            Predicate::Bare(inner) => Predicate::Bare(operand(inner)),
            Predicate::IsNull(inner) => Predicate::IsNull(operand(inner)),
            Predicate::In(inner, values) => Predicate::In(operand(inner), values.clone()),
            Predicate::Compare(comparison, left, right) => {
                Predicate::Compare(*comparison, operand(left), operand(right))
            }
            Predicate::Any(item, array) => Predicate::Any(operand(item), operand(array)),
            Predicate::InSet(test) => {
                let columns = test.columns.iter().map(operand).collect();
                Predicate::InSet(InSet { columns, ..*test })
            }
            Predicate::Time(test) => {
                Predicate::Time(TimeTest { column: operand(&test.column), ..*test })
            }
            Predicate::Is(inner, answer) => {
                Predicate::Is(Box::new(inner.with_columns(number)), *answer)
            }
            Predicate::Not(inner) => Predicate::Not(Box::new(inner.with_columns(number))),
            Predicate::And(parts) => Predicate::And(each(parts)),
            Predicate::Or(parts) => Predicate::Or(each(parts)),
        }
    }
}

impl Filter {
    /// Whether the row with these columns is in.
    pub fn passes(&self, columns: &[Value]) -> bool {
        self.0.judge(columns, &[]) == Some(true)
    }
}

impl ClaimFilter {
    /// Whether a view with these claims and sets sees the row with these kept columns when it is `now`.
    pub fn passes(&self, kept: &[Value], claims: &Claims, sets: AskSet<'_>, now: Instant) -> bool {
        self.0.judge_with(kept, &claims.0, sets, now) == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ClaimId;

    const NOW: Instant = Instant::MINUS_INFINITY;

    fn literal(answer: Option<bool>) -> Predicate {
        Predicate::Literal(answer)
    }

    fn judge(predicate: &Predicate) -> Option<bool> {
        predicate.judge(&[], &[])
    }

    #[test]
    fn null_is_unknown_and_not_false() {
        let (yes, no, unknown) = (literal(Some(true)), literal(Some(false)), literal(None));
        let and = |a: &Predicate, b: &Predicate| judge(&Predicate::And(vec![a.clone(), b.clone()]));
        let or = |a: &Predicate, b: &Predicate| judge(&Predicate::Or(vec![a.clone(), b.clone()]));
        assert_eq!(and(&unknown, &yes), None);
        assert_eq!(and(&unknown, &no), Some(false));
        assert_eq!(or(&unknown, &yes), Some(true));
        assert_eq!(or(&unknown, &no), None);
        assert_eq!(judge(&Predicate::Not(Box::new(unknown.clone()))), None);
        assert!(!Filter(unknown.clone()).passes(&[]));
        assert!(!Filter(Predicate::Not(Box::new(unknown))).passes(&[]));
    }

    #[test]
    fn in_with_null_is_never_false() {
        let column = |value: Value, list: &[Value]| {
            Predicate::In(Operand::Column(0), list.to_vec()).judge(&[value], &[])
        };
        let (one, two, null) = (Value::Int(1), Value::Int(2), Value::Null);
        assert_eq!(column(one.clone(), &[one.clone(), null.clone()]), Some(true));
        assert_eq!(column(two.clone(), &[one.clone(), null.clone()]), None);
        assert_eq!(column(two, std::slice::from_ref(&one)), Some(false));
        assert_eq!(column(null, &[one]), None);
    }

    #[test]
    fn a_filter_over_claims_asks_the_view() {
        let filter = ClaimFilter(Predicate::Compare(
            Comparison::GreaterOrEqual,
            Operand::Claim(ClaimId(1)),
            Operand::Column(0),
        ));
        let level = |level: Value| Claims([Value::Null, level].into());
        assert!(filter.passes(&[Value::Int(3)], &level(Value::Int(3)), &|_, _| None, NOW));
        assert!(!filter.passes(&[Value::Int(3)], &level(Value::Int(2)), &|_, _| None, NOW));
        assert!(!filter.passes(&[Value::Int(3)], &level(Value::Null), &|_, _| None, NOW));
        assert!(!filter.passes(&[Value::Null], &level(Value::Int(3)), &|_, _| None, NOW));
    }

    #[test]
    fn what_is_asked_of_an_answer_asks_the_sets() {
        let test = InSet { columns: vec![Operand::Column(0)], set: SetId(0), exists: false };
        let answers = [Some(true), Some(false), None];
        for (asked, said) in answers.iter().flat_map(|a| answers.iter().map(move |b| (*a, *b))) {
            let is = Predicate::Is(Box::new(Predicate::InSet(test.clone())), asked);
            assert!(is.asks_sets());
            let passes = ClaimFilter(is).passes(
                &[Value::Int(3)],
                &Claims(Box::default()),
                &|_, _| said,
                NOW,
            );
            assert_eq!(passes, asked == said, "{said:?} IS {asked:?}");
        }
    }
}
