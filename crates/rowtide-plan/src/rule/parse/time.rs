//! The present, and what is so long before or after it: `now()`, `now() - interval '24 hours'`, `created_at + interval '1 day'`.

use sqlparser::ast::{BinaryOperator, CastKind, Expr, Function, Interval, Value as SqlValue};

use super::RuleReader;
use crate::rule::Term;
use crate::rule::interval::{self, IntervalProblem};
use crate::sql_text::Span;

/// Whether an operand of `+` or `-` is an interval.
fn interval_text(expression: &Expr) -> Option<&str> {
    let value = match expression {
        Expr::Nested(inner) => return interval_text(inner),
        Expr::Interval(Interval {
            value,
            leading_field: None,
            leading_precision: None,
            last_field: None,
            fractional_seconds_precision: None,
        }) => value,
        Expr::Cast {
            kind: CastKind::Cast | CastKind::DoubleColon,
            expr,
            data_type,
            format: None,
        } if data_type.to_string().eq_ignore_ascii_case("interval") => expr,
        _ => return None,
    };
    match value.as_ref() {
        Expr::Value(value) => match &value.value {
            SqlValue::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// The function's name, if it says what time it is.
pub(super) fn clock(function: &Function) -> Option<String> {
    const CLOCKS: [&str; 9] = [
        "now()",
        "current_timestamp",
        "transaction_timestamp()",
        "statement_timestamp()",
        "clock_timestamp()",
        "localtimestamp",
        "localtime",
        "current_date",
        "current_time",
    ];
    let name = function.to_string().to_ascii_lowercase();
    CLOCKS.contains(&name.as_str()).then_some(name)
}

impl RuleReader<'_> {
    /// `now()`, by either of its names.
    pub(super) fn now(&mut self, function: &Function, name: &str, span: Span) -> Option<Term> {
        if matches!(name, "now()" | "current_timestamp" | "transaction_timestamp()") {
            return Some(Term::Now(0, span));
        }
        let what = format!("`{name}` is not supported in a read rule");
        self.reject(function, &what, "not supported", "compare a `timestamptz` with `now()`");
        None
    }

    /// `now()` or a column, and an interval that is added or subtracted.
    pub(super) fn moved(
        &mut self,
        whole: &Expr,
        left: &Expr,
        operator: &BinaryOperator,
        right: &Expr,
        span: Span,
    ) -> Option<Term> {
        let is_added = *operator == BinaryOperator::Plus;
        let (moved, text) = match (interval_text(left), interval_text(right)) {
            (None, Some(text)) => (left, text),
            (Some(text), None) if is_added => (right, text),
            _ => {
                let help = "an interval is a constant, as in `created_at > now() - interval '24 hours'`; keep \
                            what else is computed in a column of the row, by a trigger or as a stored value";
                let what = format!("`{operator}` is not supported here in a read rule");
                self.reject(whole, &what, "not supported", help);
                return None;
            }
        };
        let by = match interval::parse(text) {
            Ok(us) if is_added => us,
            Ok(us) => -us,
            Err(problem) => {
                self.reject_interval(whole, text, problem);
                return None;
            }
        };
        let moved = match self.term(moved)? {
            Term::Now(before, _) => before.checked_add(by).map(|us| Term::Now(us, span)),
            Term::Moved(inner, before, _) => {
                before.checked_add(by).map(|us| Term::Moved(inner, us, span))
            }
            column => Some(Term::Moved(Box::new(column), by, span)),
        };
        if moved.is_none() {
            self.reject_interval(whole, text, IntervalProblem::TooLong);
        }
        moved
    }

    fn reject_interval(&mut self, whole: &Expr, text: &str, problem: IntervalProblem) {
        let (what, help) = match problem {
            IntervalProblem::Months => (
                format!("`{text}` is not always as long"),
                "count days, as in `interval '30 days'`, or keep the moment in a column of the row",
            ),
            IntervalProblem::TooLong => {
                (format!("`{text}` is too long"), "write an interval of less than 10,000 years")
            }
            IntervalProblem::Unknown => (
                format!("`{text}` is not an interval that a read rule knows"),
                "write numbers with units, as in `interval '24 hours'` or `interval '1 day 30 minutes'`",
            ),
        };
        self.reject(whole, &what, "not supported", help);
    }
}
