//! Read rules as they are written: a boolean expression over the columns of one row, claims and
//! literals, with memberships. [`parse()`] takes exactly the language that the definition's reference
//! describes, and rejects everything else with its place. What it accepts becomes alternatives in
//! [`normal`], and branches in [`crate::compile`]. Names are looked up later, because only the
//! catalog knows them.

mod cast;
mod interval;
pub(crate) mod normal;
mod parse;

use std::sync::Arc;

use crate::catalog::TableName;
use crate::claims::Claim;
use crate::filter::Comparison;
use crate::sql_text::Span;

pub(crate) use cast::CastType;
pub(crate) use parse::{QueryScope, parse, parse_of_query};

/// A rule, or a part of one.
#[derive(Clone, Debug)]
pub(crate) enum Rule {
    And(Vec<Rule>),
    Or(Vec<Rule>),
    Not(Box<Rule>),
    /// `true`, `false` or null.
    Constant(Option<bool>),
    /// A boolean column or claim by itself.
    Bare(Term),
    Compare(Comparison, Term, Term, Span),
    IsNull(Term),
    /// `IS NOT DISTINCT FROM`.
    Same(Term, Term, Span),
    /// `IS TRUE`, `IS FALSE` or `IS UNKNOWN`.
    Is(Box<Rule>, Option<bool>),
    /// `= ANY (array)`.
    Any(Term, Term, Span),
    /// `IN (literals)`.
    In(Term, Vec<Term>),
    /// `column IN (SELECT …)`, or `EXISTS (SELECT …)`. Shared by the alternatives that it stands in.
    Member(Arc<Member>),
}

/// `(columns) IN (SELECT selected FROM table WHERE rule)`.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// None where it only matters whether there is a row.
    pub(crate) columns: Vec<Name>,
    pub(crate) table: TableReference,
    /// As many as `columns`.
    pub(crate) selected: Vec<Name>,
    /// Written as `EXISTS`: what is null is not found, and the answer is never null.
    pub(crate) exists: bool,
    pub(crate) rule: Rule,
    pub(crate) span: Span,
}

/// What is compared.
#[derive(Clone, Debug)]
pub(crate) enum Term {
    Column(Name),
    Claim(Claim, Span),
    Number(String, Span),
    Text(String, Span),
    Bool(bool, Span),
    Null(Span),
    /// `now()`, moved by so many microseconds.
    Now(i64, Span),
    /// One of the others, moved by so many microseconds.
    Moved(Box<Term>, i64, Span),
    /// One of the others, as another type.
    Cast(Box<Term>, CastType, Span),
}

/// A column's name, folded as Postgres folds it.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// A table as a rule or an entry names it.
#[derive(Clone, Debug)]
pub(crate) struct TableReference {
    /// `public` where none is written.
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) span: Span,
}

impl TableReference {
    /// The name without its place.
    pub(crate) fn name(&self) -> TableName {
        TableName { schema: self.schema.clone(), name: self.name.clone() }
    }
}

impl Term {
    pub(crate) fn span(&self) -> Span {
        match self {
            Term::Column(name) => name.span.clone(),
            Term::Claim(_, span)
            | Term::Number(_, span)
            | Term::Text(_, span)
            | Term::Bool(_, span)
            | Term::Null(span)
            | Term::Now(_, span)
            | Term::Moved(_, _, span)
            | Term::Cast(_, _, span) => span.clone(),
        }
    }

    /// Whether it is a value that is written out.
    pub(crate) fn is_literal(&self) -> bool {
        let is_told = matches!(self.uncast(), Term::Column(_) | Term::Claim(..));
        !is_told && !self.is_of_time()
    }

    /// Whether it is `now()`, or is moved by an interval.
    pub(crate) fn is_of_time(&self) -> bool {
        matches!(self.uncast(), Term::Now(..) | Term::Moved(..))
    }

    /// What is cast, if it is; else itself.
    pub(crate) fn uncast(&self) -> &Term {
        match self {
            Term::Cast(inner, ..) => inner.uncast(),
            term => term,
        }
    }
}

impl Rule {
    /// Calls `visit` with every membership, outer ones first.
    pub(crate) fn members<'a>(&'a self, visit: &mut impl FnMut(&'a Member)) {
        match self {
            Rule::And(parts) | Rule::Or(parts) => {
                parts.iter().for_each(|part| part.members(visit));
            }
            Rule::Not(inner) | Rule::Is(inner, _) => inner.members(visit),
            Rule::Member(member) => {
                visit(member);
                member.rule.members(visit);
            }
            Rule::Constant(_)
            | Rule::Bare(_)
            | Rule::Compare(..)
            | Rule::IsNull(_)
            | Rule::Same(..)
            | Rule::Any(..)
            | Rule::In(..) => {}
        }
    }

    /// Whether it names a claim, or a membership in it does.
    pub(crate) fn names_claim(&self) -> bool {
        self.names(&|_| true)
    }

    /// Whether it names a parameter of a query, or a membership in it does.
    pub(crate) fn names_param(&self) -> bool {
        self.names(&|claim| matches!(claim, Claim::Param { .. }))
    }

    /// Whether it names this parameter of its query, or a membership in it does.
    pub(crate) fn names_param_called(&self, called: &str) -> bool {
        self.names(&|claim| matches!(claim, Claim::Param { name, .. } if **name == *called))
    }

    fn names(&self, wanted: &impl Fn(&Claim) -> bool) -> bool {
        let is_claim =
            |term: &Term| matches!(term.uncast(), Term::Claim(claim, _) if wanted(claim));
        match self {
            Rule::And(parts) | Rule::Or(parts) => parts.iter().any(|part| part.names(wanted)),
            Rule::Not(inner) | Rule::Is(inner, _) => inner.names(wanted),
            Rule::Member(member) => member.rule.names(wanted),
            Rule::Compare(_, left, right, _)
            | Rule::Same(left, right, _)
            | Rule::Any(left, right, _) => is_claim(left) || is_claim(right),
            Rule::Bare(term) | Rule::IsNull(term) | Rule::In(term, _) => is_claim(term),
            Rule::Constant(_) => false,
        }
    }
}
