//! What says in other words what conditions say, arrays and casts: `BETWEEN`, `IS TRUE`, `coalesce`,
//! `IS DISTINCT FROM`, `= ANY (…)`, `x::type`.

use sqlparser::ast::{
    ArrayElemTypeDef, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, Spanned, TypedString, Value as SqlValue,
};

use super::{RuleReader, not_if};
use crate::filter::Comparison;
use crate::rule::{CastType, Rule, Term};
use crate::sql_text::{Span, fold};

pub(super) fn is_coalesce(function: &Function) -> bool {
    let [part] = &function.name.0[..] else { return false };
    part.as_ident().is_some_and(|name| fold(name) == "coalesce")
}

impl RuleReader<'_> {
    /// `a BETWEEN x AND y` is `a >= x AND a <= y`.
    pub(super) fn between(&mut self, whole: &Expr) -> Rule {
        let Expr::Between { expr, negated, low, high } = whole else { return Self::REJECTED };
        let terms = (self.term(expr), self.term(low), self.term(high));
        let (Some(term), Some(low), Some(high)) = terms else { return Self::REJECTED };
        let span = self.sql.place(whole.span());
        let rule = Rule::And(vec![
            Rule::Compare(Comparison::GreaterOrEqual, term.clone(), low, span.clone()),
            Rule::Compare(Comparison::LessOrEqual, term, high, span),
        ]);
        not_if(*negated, rule)
    }

    pub(super) fn is(
        &mut self,
        inner: &Expr,
        answer: Option<bool>,
        negated: bool,
        depth: usize,
    ) -> Rule {
        not_if(negated, Rule::Is(Box::new(self.rule(inner, depth)), answer))
    }

    pub(super) fn same(&mut self, whole: &Expr, left: &Expr, right: &Expr, negated: bool) -> Rule {
        match (self.term(left), self.term(right)) {
            (Some(left), Some(right)) => {
                not_if(negated, Rule::Same(left, right, self.sql.place(whole.span())))
            }
            _ => Self::REJECTED,
        }
    }

    /// `coalesce(condition, true)` is the condition `IS NOT FALSE`, with `false` it is `IS TRUE`.
    pub(super) fn coalesce(&mut self, function: &Function, depth: usize) -> Rule {
        let arguments = match &function.args {
            FunctionArguments::List(list) => &list.args[..],
            _ => &[],
        };
        if let [FunctionArg::Unnamed(FunctionArgExpr::Expr(condition)), default] = arguments
            && let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(default))) = default
            && let SqlValue::Boolean(default) = default.value
            // Written out again, nothing else may have been there.
            && function.to_string() == format!("{}({condition}, {default})", function.name)
        {
            return self.is(condition, Some(!default), default, depth);
        }
        self.reject(
            function,
            "coalesce is supported in a read rule for conditions only",
            "not a condition, and true or false",
            "write `coalesce(condition, false)` or `coalesce(condition, true)`; of other values write \
             `a = x OR a IS NULL`",
        );
        Self::REJECTED
    }

    /// `item = ANY (array)`, or `item <> ALL (array)`.
    pub(super) fn any(&mut self, whole: &Expr, item: &Expr, array: &Expr, negated: bool) -> Rule {
        let mut array = array;
        let mut to = None;
        loop {
            match array {
                Expr::Nested(inner) => array = inner,
                Expr::Cast {
                    kind: CastKind::Cast | CastKind::DoubleColon,
                    expr,
                    data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(element, None)),
                    format: None,
                } if to.is_none() => {
                    let Some(element) = CastType::read(element) else { break };
                    to = Some(element);
                    array = expr;
                }
                _ => break,
            }
        }
        let span = self.sql.place(whole.span());
        let as_element = |term: Term| match &to {
            Some(to) => {
                let span = term.span();
                Term::Cast(Box::new(term), to.clone(), span)
            }
            None => term,
        };
        let Expr::Array(written) = array else {
            let (Some(item), Some(array)) = (self.term(item), self.term(array)) else {
                return Self::REJECTED;
            };
            return not_if(negated, Rule::Any(item, as_element(array), span));
        };
        if written.elem.is_empty() {
            let help = if negated { "write true" } else { "write false" };
            self.reject(array, "this array is empty", "without elements", help);
            return Self::REJECTED;
        }
        let Some(item) = self.term(item) else { return Self::REJECTED };
        let is = |element: &Expr| {
            let element = as_element(self.term(element)?);
            Some(Rule::Compare(Comparison::Equal, item.clone(), element, span.clone()))
        };
        match written.elem.iter().map(is).collect() {
            Some(any) => not_if(negated, Rule::Or(any)),
            None => Self::REJECTED,
        }
    }

    pub(super) fn cast(&mut self, expression: &Expr, span: Span) -> Option<Term> {
        match expression {
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
            } => {
                let Some(to) = CastType::read(data_type) else {
                    self.reject(
                        expression,
                        &format!("casts to {data_type} are not supported in a read rule"),
                        "not supported",
                        "leave out the length or precision, or the whole cast: literals and claims \
                         take the type of the column",
                    );
                    return None;
                };
                Some(Term::Cast(Box::new(self.term(expr)?), to, span))
            }
            Expr::TypedString(TypedString { data_type, value, uses_odbc_syntax: false }) => {
                let (Some(to), SqlValue::SingleQuotedString(text)) =
                    (CastType::read(data_type), &value.value)
                else {
                    self.unsupported(expression);
                    return None;
                };
                Some(Term::Cast(Box::new(Term::Text(text.clone(), span.clone())), to, span))
            }
            other => {
                self.unsupported(other);
                None
            }
        }
    }
}
