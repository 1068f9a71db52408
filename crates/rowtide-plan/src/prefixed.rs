//! Which columns a rule for writing names as of `old` and as of `new`, and which of `old` it compares with something that is
//! not written down in it: a claim, or what a membership finds. Who may write such a column afterwards can hand the row to
//! somebody else. It is read off the words of the rule, so it is good for a warning and decides nothing.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{BinaryOperator, Expr, InTarget, Visit, Visitor};

use crate::sql_text::fold;

/// What a rule names with a prefix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prefixed {
    /// The columns that are named as of `old`.
    pub(crate) old: BTreeSet<String>,
    /// Those of `new`.
    pub(crate) new: BTreeSet<String>,
    /// Those of `old` that are compared with something that may be another for another user.
    pub(crate) compared: BTreeSet<String>,
    /// Those without a prefix that are compared with the same column of something else, and the prefix of that: where it is of
    /// a subquery, both are that subquery's.
    pub(crate) same: BTreeSet<(String, String)>,
}

impl Prefixed {
    pub(crate) fn of(expression: &Expr) -> Prefixed {
        let mut names = Prefixed::default();
        // It never breaks off.
        let _: ControlFlow<()> = expression.visit(&mut names);
        names
    }

    fn compare(&mut self, with: &Expr) {
        match with {
            Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => self.compare(inner),
            Expr::Tuple(parts) => parts.iter().for_each(|part| self.compare(part)),
            other => {
                if let Some(("old", column)) = named(other).as_ref().map(|(a, b)| (&**a, b)) {
                    self.compared.insert(column.clone());
                }
            }
        }
    }
}

/// A prefix and a column.
fn named(expression: &Expr) -> Option<(String, String)> {
    let Expr::CompoundIdentifier(parts) = expression else { return None };
    let [row, column] = &parts[..] else { return None };
    Some((fold(row), fold(column)))
}

fn is_literal(expression: &Expr) -> bool {
    match expression {
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => is_literal(inner),
        Expr::UnaryOp { expr, .. } => is_literal(expr),
        Expr::Value(_) => true,
        _ => false,
    }
}

impl Visitor for Prefixed {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match named(expression) {
            Some((row, column)) if row == "old" => drop(self.old.insert(column)),
            Some((row, column)) if row == "new" => drop(self.new.insert(column)),
            _ => {}
        }
        match expression {
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                for (one, other) in [(left, right), (right, left)] {
                    if let (Some((prefix, column)), Expr::Identifier(bare)) = (named(one), &**other)
                        && fold(bare) == column
                    {
                        self.same.insert((prefix, column));
                    }
                }
                if !is_literal(right) {
                    self.compare(left);
                }
                if !is_literal(left) {
                    self.compare(right);
                }
            }
            Expr::AnyOp { left, right, .. } if !is_literal(left) && !is_literal(right) => {
                self.compare(left);
                self.compare(right);
            }
            Expr::In { expr, target: InTarget::Subquery(_), .. } => self.compare(expr),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
