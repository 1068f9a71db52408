//! From SQL text to a [`Rule`]. The text is parsed as Postgres' SQL, and then taken apart with one
//! arm for each supported form. Everything else is rejected, with its name.

mod membership;
mod scalar;
mod time;

use sqlparser::ast::{
    BinaryOperator, Expr, Ident, InTarget, Spanned, UnaryOperator, Value as SqlValue,
};

use self::scalar::is_coalesce;
use self::time::clock;
use super::{Name, Rule, Term};
use crate::claims::Claim;
use crate::error::{DefinitionProblem, did_you_mean};
use crate::filter::Comparison;
use crate::sql_text::{Span, SqlText, fold};

/// Reads a read rule.
///
/// # Errors
/// All that is not supported, each with its place.
pub(crate) fn parse(sql: &SqlText, table: &str) -> Result<Rule, Vec<DefinitionProblem>> {
    read(sql, table, None)
}

/// Reads what a query selects of a table: a read rule that may name the query's parameters.
///
/// # Errors
/// All that is not supported, each with its place.
pub(crate) fn parse_of_query(
    sql: &SqlText,
    table: &str,
    query: &QueryScope<'_>,
) -> Result<Rule, Vec<DefinitionProblem>> {
    read(sql, table, Some(query))
}

/// The parameters that can be named.
pub(crate) struct QueryScope<'a> {
    /// The query's name.
    pub(crate) name: &'a str,
    /// The names of its parameters.
    pub(crate) params: Vec<&'a str>,
}

fn read(
    sql: &SqlText,
    table: &str,
    query: Option<&QueryScope<'_>>,
) -> Result<Rule, Vec<DefinitionProblem>> {
    let expression = sql.expression().map_err(|problem| vec![problem])?;
    let scopes = vec![table.to_owned()];
    let mut reader = RuleReader { sql, query, scopes, problems: Vec::new() };
    let rule = reader.rule(&expression, 0);
    if reader.problems.is_empty() { Ok(rule) } else { Err(reader.problems) }
}

fn not_if(negated: bool, rule: Rule) -> Rule {
    if negated { Rule::Not(Box::new(rule)) } else { rule }
}

struct RuleReader<'a> {
    sql: &'a SqlText,
    /// Whose parameters it may name.
    query: Option<&'a QueryScope<'a>>,
    /// What columns can be qualified with: the table of the rule, then those of the memberships that
    /// are being read.
    scopes: Vec<String>,
    problems: Vec<DefinitionProblem>,
}

impl RuleReader<'_> {
    /// Stands for a part that was rejected.
    const REJECTED: Rule = Rule::Constant(None);

    fn reject(&mut self, at: &impl Spanned, what: &str, label: &str, help: &str) {
        let problem = DefinitionProblem::new(self.sql.place(at.span()), what, label).help(help);
        self.problems.push(problem);
    }

    fn rule(&mut self, expression: &Expr, depth: usize) -> Rule {
        match expression {
            Expr::Nested(inner) => self.rule(inner, depth),
            Expr::BinaryOp { op: BinaryOperator::And, .. } => {
                Rule::And(self.chain(expression, &BinaryOperator::And, depth))
            }
            Expr::BinaryOp { op: BinaryOperator::Or, .. } => {
                Rule::Or(self.chain(expression, &BinaryOperator::Or, depth))
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
                Rule::Not(Box::new(self.rule(expr, depth)))
            }
            Expr::BinaryOp { left, op, right } => self.comparison(expression, left, op, right),
            Expr::IsNull(inner) => match self.term(inner) {
                Some(term) => Rule::IsNull(term),
                None => Self::REJECTED,
            },
            Expr::IsNotNull(inner) => match self.term(inner) {
                Some(term) => Rule::Not(Box::new(Rule::IsNull(term))),
                None => Self::REJECTED,
            },
            Expr::IsTrue(inner) => self.is(inner, Some(true), false, depth),
            Expr::IsNotTrue(inner) => self.is(inner, Some(true), true, depth),
            Expr::IsFalse(inner) => self.is(inner, Some(false), false, depth),
            Expr::IsNotFalse(inner) => self.is(inner, Some(false), true, depth),
            Expr::IsUnknown(inner) => self.is(inner, None, false, depth),
            Expr::IsNotUnknown(inner) => self.is(inner, None, true, depth),
            Expr::IsDistinctFrom(left, right) => self.same(expression, left, right, true),
            Expr::IsNotDistinctFrom(left, right) => self.same(expression, left, right, false),
            Expr::Between { .. } => self.between(expression),
            Expr::Function(function) if is_coalesce(function) => self.coalesce(function, depth),
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. }
                if !matches!(right.as_ref(), Expr::Subquery(_)) =>
            {
                self.any(expression, left, right, false)
            }
            Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right }
                if !matches!(right.as_ref(), Expr::Subquery(_)) =>
            {
                self.any(expression, left, right, true)
            }
            Expr::In { expr, target: InTarget::List(list), negated, global: false } => {
                self.in_list(expr, list, *negated)
            }
            Expr::In { expr, target: InTarget::Subquery(query), negated, global: false } => {
                let rule = self.member(expression, expr, query, depth);
                if *negated { Rule::Not(Box::new(rule)) } else { rule }
            }
            Expr::Exists { subquery, negated } => {
                let rule = self.exists(expression, subquery, depth);
                if *negated { Rule::Not(Box::new(rule)) } else { rule }
            }
            Expr::Value(value) => match &value.value {
                SqlValue::Boolean(answer) => Rule::Constant(Some(*answer)),
                SqlValue::Null => Rule::Constant(None),
                _ => {
                    self.reject(
                        expression,
                        "a literal is not a rule",
                        "this is neither true nor false",
                        "compare a column with it",
                    );
                    Self::REJECTED
                }
            },
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Cast { .. } => {
                match self.term(expression) {
                    Some(term) => Rule::Bare(term),
                    None => Self::REJECTED,
                }
            }
            other => {
                self.unsupported(other);
                Self::REJECTED
            }
        }
    }

    /// The operands of `a AND b AND c`, which the parser nests as deep as the chain is long.
    fn chain(&mut self, whole: &Expr, operator: &BinaryOperator, depth: usize) -> Vec<Rule> {
        let mut operands = Vec::new();
        let mut rest = whole;
        while let Expr::BinaryOp { left, op, right } = rest
            && op == operator
        {
            operands.push(right.as_ref());
            rest = left;
        }
        operands.push(rest);
        operands.iter().rev().map(|operand| self.rule(operand, depth)).collect()
    }

    fn comparison(
        &mut self,
        whole: &Expr,
        left: &Expr,
        operator: &BinaryOperator,
        right: &Expr,
    ) -> Rule {
        let comparison = match operator {
            BinaryOperator::Eq => Comparison::Equal,
            BinaryOperator::NotEq => Comparison::NotEqual,
            BinaryOperator::Lt => Comparison::Less,
            BinaryOperator::LtEq => Comparison::LessOrEqual,
            BinaryOperator::Gt => Comparison::Greater,
            BinaryOperator::GtEq => Comparison::GreaterOrEqual,
            other => {
                self.reject(
                    whole,
                    &format!("the operator `{other}` is not supported in a read rule"),
                    "not supported",
                    "compare with =, <>, <, <=, > or >=; for anything else keep a column that says it, \
                     by a trigger or as a stored value",
                );
                return Self::REJECTED;
            }
        };
        match (self.term(left), self.term(right)) {
            (Some(left), Some(right)) => {
                Rule::Compare(comparison, left, right, self.sql.place(whole.span()))
            }
            _ => Self::REJECTED,
        }
    }

    fn in_list(&mut self, expr: &Expr, list: &[Expr], negated: bool) -> Rule {
        let term = self.term(expr);
        let mut values = Vec::new();
        for item in list {
            match self.term(item) {
                Some(term) if !term.is_literal() => self.reject(
                    item,
                    "IN takes literals",
                    "not a literal",
                    "write `a = x OR a = y` for columns and claims",
                ),
                Some(value) => values.push(value),
                None => {}
            }
        }
        let Some(term) = term else { return Self::REJECTED };
        not_if(negated, Rule::In(term, values))
    }

    fn term(&mut self, expression: &Expr) -> Option<Term> {
        let span = self.sql.place(expression.span());
        match expression {
            Expr::Nested(inner) => self.term(inner),
            Expr::Identifier(ident) => Some(Term::Column(Name { text: fold(ident), span })),
            Expr::CompoundIdentifier(parts) => self.compound(expression, parts, span),
            Expr::Value(value) => match &value.value {
                SqlValue::Number(text, _) => Some(Term::Number(text.to_string(), span)),
                SqlValue::SingleQuotedString(text) => Some(Term::Text(text.clone(), span)),
                SqlValue::Boolean(value) => Some(Term::Bool(*value, span)),
                SqlValue::Null => Some(Term::Null(span)),
                _ => {
                    self.reject(
                        expression,
                        "this kind of literal is not supported in a read rule",
                        "not supported",
                        "write numbers, 'text', true, false or NULL",
                    );
                    None
                }
            },
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match self.term(expr)? {
                Term::Number(text, _) => Some(Term::Number(format!("-{text}"), span)),
                _ => {
                    self.unsupported(expression);
                    None
                }
            },
            Expr::Cast { .. } | Expr::TypedString(_) => self.cast(expression, span),
            Expr::Function(function) if let Some(name) = clock(function) => {
                self.now(function, &name, span)
            }
            Expr::BinaryOp {
                left,
                op: op @ (BinaryOperator::Plus | BinaryOperator::Minus),
                right,
            } => self.moved(expression, left, op, right, span),
            other => {
                self.unsupported(other);
                None
            }
        }
    }

    fn compound(&mut self, whole: &Expr, parts: &[Ident], span: Span) -> Option<Term> {
        let claim_help = "the claims are `auth.user_id`, `auth.claims.<name>` and, into an object, \
                          `auth.claims.<name>.<name>`";
        match parts {
            [auth, rest @ ..] if fold(auth) == "auth" => match rest {
                [user] if fold(user) == "user_id" => Some(Term::Claim(Claim::UserId, span)),
                // A token's claims are JSON: their case is kept.
                [claims, path @ ..] if fold(claims) == "claims" && !path.is_empty() => {
                    let path = path.iter().map(|name| name.value.clone()).collect();
                    Some(Term::Claim(Claim::Named(path), span))
                }
                _ => {
                    self.reject(whole, "this is not a claim", "unknown", claim_help);
                    None
                }
            },
            [params, name]
                if fold(params) == "params" && !self.scopes.iter().any(|of| of == "params") =>
            {
                self.param(whole, &name.value, span)
            }
            [table, column] => {
                let table = fold(table);
                let mut scopes = self.scopes.iter().rev();
                if scopes.next() == Some(&table) {
                    return Some(Term::Column(Name { text: fold(column), span }));
                }
                if scopes.any(|scope| *scope == table) {
                    self.reject_outer(whole);
                } else {
                    let what = format!("there is no table `{table}` here");
                    let here = self.scopes.last().map_or("", String::as_str);
                    let help = format!("write the column by itself; the table here is `{here}`");
                    self.reject(whole, &what, "unknown", &help);
                }
                None
            }
            _ => {
                let help = "write the column by itself";
                self.reject(whole, "this name has too many parts", "unknown", help);
                None
            }
        }
    }

    fn param(&mut self, whole: &Expr, name: &str, span: Span) -> Option<Term> {
        let Some(query) = self.query else {
            let what = "a rule has no parameters";
            let help = "only what a query selects has: write `params` in [queries.NAME], and name them in its `where`";
            self.reject(whole, what, "unknown", help);
            return None;
        };
        if !query.params.contains(&name) {
            let what = format!("the query `{}` has no parameter `{name}`", query.name);
            let help = match did_you_mean(name, query.params.iter().copied()) {
                Some(close) => format!("did you mean `params.{close}`?"),
                None => "write it in `params` of the query, with its type".to_owned(),
            };
            self.reject(whole, &what, "unknown", &help);
            return None;
        }
        Some(Term::Claim(Claim::Param { query: query.name.into(), name: name.into() }, span))
    }

    fn unsupported(&mut self, expression: &Expr) {
        let store = "keep what you need in a column of the row, by a trigger or as a stored value";
        let (what, help) = match expression {
            Expr::Function(function) if is_coalesce(function) => (
                "coalesce is supported in a read rule for conditions only".to_owned(),
                "write `a = x OR a IS NULL`",
            ),
            Expr::Function(function) => {
                (format!("the function `{}` is not supported in a read rule", function.name), store)
            }
            Expr::Like { .. } | Expr::ILike { .. } | Expr::SimilarTo { .. } => {
                ("LIKE is not supported in a read rule".to_owned(), store)
            }
            Expr::Subquery(_) => (
                "a SELECT can only stand after IN".to_owned(),
                "write `column IN (SELECT column FROM table WHERE …)`",
            ),
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. }
                if matches!(right.as_ref(), Expr::Subquery(_)) =>
            {
                let help = match expression {
                    Expr::AnyOp { .. } => "write `column IN (SELECT …)`",
                    _ => "write `column NOT IN (SELECT …)`",
                };
                ("ANY and ALL of a SELECT are not supported in a read rule".to_owned(), help)
            }
            Expr::Tuple(_) => (
                "rows of several values are not supported in a read rule".to_owned(),
                "compare column by column, joined with AND",
            ),
            Expr::Cast { .. } | Expr::TypedString { .. } => (
                "this cast is not supported in a read rule".to_owned(),
                "leave the cast out: literals and claims take the type of the column",
            ),
            Expr::BinaryOp {
                op:
                    BinaryOperator::And
                    | BinaryOperator::Or
                    | BinaryOperator::Eq
                    | BinaryOperator::NotEq
                    | BinaryOperator::Lt
                    | BinaryOperator::LtEq
                    | BinaryOperator::Gt
                    | BinaryOperator::GtEq,
                ..
            }
            | Expr::UnaryOp { op: UnaryOperator::Not, .. }
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsTrue(_)
            | Expr::IsNotFalse(_)
            | Expr::IsFalse(_)
            | Expr::IsNotTrue(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotUnknown(_)
            | Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
            | Expr::Between { .. }
            | Expr::AnyOp { compare_op: BinaryOperator::Eq, .. }
            | Expr::AllOp { compare_op: BinaryOperator::NotEq, .. }
            | Expr::In { .. } => (
                "a condition cannot be compared in a read rule".to_owned(),
                "join conditions with AND, OR and NOT; compare columns, literals and claims",
            ),
            Expr::AnyOp { .. } | Expr::AllOp { .. } => (
                "of ANY and ALL a read rule supports `= ANY` and `<> ALL`".to_owned(),
                "write `x = ANY (array)` or `x <> ALL (array)`",
            ),
            Expr::BinaryOp { op, .. } => {
                (format!("the operator `{op}` is not supported in a read rule"), store)
            }
            Expr::UnaryOp { .. } => {
                ("arithmetic is not supported in a read rule".to_owned(), store)
            }
            Expr::CompoundFieldAccess { .. } => {
                ("parts of a value are not supported in a read rule".to_owned(), store)
            }
            Expr::Collate { .. } => (
                "COLLATE is not supported in a read rule".to_owned(),
                "leave it out: text is equal when its characters are",
            ),
            Expr::AtTimeZone { .. }
            | Expr::Ceil { .. }
            | Expr::Extract { .. }
            | Expr::Floor { .. }
            | Expr::Overlay { .. }
            | Expr::Position { .. }
            | Expr::Substring { .. }
            | Expr::Trim { .. } => ("functions are not supported in a read rule".to_owned(), store),
            Expr::Case { .. } => {
                ("CASE is not supported in a read rule".to_owned(), "write it with AND and OR")
            }
            _ => ("this is not supported in a read rule".to_owned(), store),
        };
        self.reject(expression, &what, "not supported", help);
    }
}
