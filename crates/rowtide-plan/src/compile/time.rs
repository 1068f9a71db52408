//! Comparisons with the present. Only a `timestamptz` is a moment by itself: what moment a `timestamp` or a `date` is depends on a
//! time zone, which is a setting.

use super::{Compiler, Rejected};
use crate::error::DefinitionProblem;
use crate::filter::TimeTest;
use crate::filter::{Comparison, Operand, Predicate};
use crate::ids::TableId;
use crate::rule::Term;
use crate::sql_text::Span;
use crate::value::ColumnType;

const EXAMPLE: &str = "write `expires_at > now()`, or `created_at > now() - interval '24 hours'`";

/// What is compared, and how far it is moved.
fn base(term: &Term) -> (&Term, i64) {
    match term {
        Term::Moved(inner, by, _) => (inner, *by),
        term => (term, 0),
    }
}

impl Compiler<'_> {
    /// A comparison in which one side is `now()`, or is moved by an interval.
    pub(super) fn time_comparison(
        &mut self,
        table: TableId,
        comparison: Comparison,
        left: &Term,
        right: &Term,
        span: &Span,
    ) -> Result<Predicate, Rejected> {
        let (term, now_us, comparison) = match (left, right) {
            (Term::Now(..), Term::Now(..)) => {
                let what = "a comparison of now() with itself says nothing about the row";
                let problem = DefinitionProblem::new(span.clone(), what, "without a column");
                return Err(self.problem(problem.help(EXAMPLE)));
            }
            (term, Term::Now(us, _)) => (term, *us, comparison),
            (Term::Now(us, _), term) => (term, *us, comparison.turned()),
            _ => {
                let what = "an interval is added or subtracted only where now() is compared";
                let problem = DefinitionProblem::new(span.clone(), what, "without now()");
                return Err(self.problem(problem.help(EXAMPLE)));
            }
        };
        if matches!(comparison, Comparison::Equal | Comparison::NotEqual) {
            let what = format!("`{}` is not supported for now()", comparison.sql());
            let problem = DefinitionProblem::new(span.clone(), what, "true for no time at all");
            return Err(self.problem(problem.help("compare with <, <=, > or >=")));
        }
        let (term, moved_us) = base(term);
        let column = self.moment(table, term)?;
        let Some(offset_us) = now_us.checked_sub(moved_us) else {
            let problem =
                DefinitionProblem::new(span.clone(), "this interval is too long", "too long");
            return Err(self.problem(problem.help("write an interval of less than 10,000 years")));
        };
        Ok(Predicate::Time(TimeTest { comparison, column, offset_us }))
    }

    /// A column that is a moment by itself.
    fn moment(&mut self, table: TableId, term: &Term) -> Result<Operand, Rejected> {
        let column = match term {
            Term::Column(name) => self.comparable(table, name)?,
            Term::Cast(inner, to, span) if matches!(**inner, Term::Column(_)) => {
                match self.cast(table, inner, to, span)? {
                    Operand::Column(column) => column,
                    _ => return Err(self.no_moment(term, &to.name)),
                }
            }
            other => {
                let what = "now() is compared with a column";
                let problem = DefinitionProblem::new(other.span(), what, "not a column");
                return Err(self.problem(problem.help(EXAMPLE)));
            }
        };
        let of = self.of(table, column);
        if of.kind != ColumnType::TimestampTz {
            let type_name = of.type_name.clone();
            return Err(self.no_moment(term, &type_name));
        }
        Ok(Operand::Column(column))
    }

    fn no_moment(&mut self, term: &Term, type_name: &str) -> Rejected {
        let what = format!("now() cannot be compared with values of type {type_name}");
        let label = format!("of type {type_name}");
        let problem = DefinitionProblem::new(term.span(), what, label);
        self.problem(problem.help(
            "make the column a `timestamptz`: which moment a value of another type is depends on a time zone",
        ))
    }

    /// `now()` where it cannot stand.
    pub(super) fn misplaced_time(&mut self, term: &Term) -> Rejected {
        let what = "now() and intervals can only be compared with <, <=, > and >=";
        let problem = DefinitionProblem::new(term.span(), what, "not supported");
        self.problem(problem.help(EXAMPLE))
    }
}
