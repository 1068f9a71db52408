//! A rule as alternatives. Negation is pushed down to the leaves, and `AND` is distributed over those
//! `OR`s that hold an anchor, so that each alternative can be found by one column; an `OR` of mere
//! filters stays a filter. Both steps keep SQL's answer for every row, null included.

use super::{Member, Rule, Span, Term};
use crate::error::Problem;
use crate::filter::Comparison;

/// The most alternatives of one rule.
pub(crate) const MAX_ALTERNATIVES: usize = 32;

/// All of these must hold.
pub(crate) type Alternative<'a> = Vec<Part<'a>>;

/// One condition of an alternative.
#[derive(Clone, Debug)]
pub(crate) enum Part<'a> {
    /// A membership: the anchor.
    Member(&'a Member),
    /// `column = claim`: an anchor, or a filter beside one.
    ClaimEqual(Rule),
    /// Decided by the row, and perhaps claims. Holds no membership.
    Filter(Rule),
}

/// The alternatives of `rule`; none if it is never true.
///
/// # Errors
/// A negated membership, or too many alternatives.
pub(crate) fn alternatives(rule: &Rule, whole: Span) -> Result<Vec<Alternative<'_>>, Problem> {
    distribute(rule, false, &whole)
}

fn is_claim_equal(rule: &Rule) -> bool {
    matches!(
        rule,
        Rule::Compare(Comparison::Equal, Term::Column(_), Term::Claim(..), _)
            | Rule::Compare(Comparison::Equal, Term::Claim(..), Term::Column(_), _)
    )
}

/// Whether the rule, or its negation, holds an anchor.
fn has_anchor(rule: &Rule, negated: bool) -> bool {
    match rule {
        Rule::And(parts) | Rule::Or(parts) => parts.iter().any(|part| has_anchor(part, negated)),
        Rule::Not(inner) => has_anchor(inner, !negated),
        Rule::Member(_) => true,
        Rule::Compare(comparison, left, right, span) => {
            let comparison = if negated { comparison.negated() } else { *comparison };
            is_claim_equal(&Rule::Compare(comparison, left.clone(), right.clone(), span.clone()))
        }
        _ => false,
    }
}

fn distribute<'a>(
    rule: &'a Rule,
    negated: bool,
    whole: &Span,
) -> Result<Vec<Alternative<'a>>, Problem> {
    if !has_anchor(rule, negated) {
        let filter = push_down(rule, negated);
        return Ok(match filter {
            Rule::Constant(Some(true)) => vec![Vec::new()],
            Rule::Constant(_) => Vec::new(),
            filter => vec![vec![Part::Filter(filter)]],
        });
    }
    match (rule, negated) {
        (Rule::Not(inner), _) => distribute(inner, !negated, whole),
        (Rule::Member(member), false) => Ok(vec![vec![Part::Member(member)]]),
        (Rule::Member(member), true) => Err(Problem::new(
            member.span.clone(),
            "NOT over a membership is not supported in a read rule",
            "a row would become visible by what is not there",
        )
        .help("keep a column on the row that says it, and test that column")),
        (Rule::And(parts), false) | (Rule::Or(parts), true) => {
            let mut product: Vec<Alternative<'a>> = vec![Vec::new()];
            for part in parts {
                let factor = distribute(part, negated, whole)?;
                let both = |left: &Alternative<'a>| {
                    let left = left.clone();
                    factor.iter().map(move |right| [left.as_slice(), right].concat())
                };
                product = product.iter().flat_map(both).collect();
                limit(product.len(), whole)?;
            }
            Ok(product)
        }
        (Rule::Or(parts), false) | (Rule::And(parts), true) => {
            let mut sum = Vec::new();
            for part in parts {
                sum.extend(distribute(part, negated, whole)?);
                limit(sum.len(), whole)?;
            }
            Ok(sum)
        }
        _ => Ok(vec![vec![Part::ClaimEqual(push_down(rule, negated))]]),
    }
}

fn limit(alternatives: usize, whole: &Span) -> Result<(), Problem> {
    if alternatives <= MAX_ALTERNATIVES {
        return Ok(());
    }
    Err(Problem::new(
        whole.clone(),
        "the rule has too many alternatives",
        format!("written out, it has more than {MAX_ALTERNATIVES}"),
    )
    .help("every OR beside an anchor doubles them: move what is common out of the OR"))
}

/// The rule without memberships, negated or not, with `NOT` only over what cannot be turned round.
fn push_down(rule: &Rule, negated: bool) -> Rule {
    let each = |parts: &[Rule]| parts.iter().map(|part| push_down(part, negated)).collect();
    match (rule, negated) {
        (Rule::Not(inner), _) => push_down(inner, !negated),
        (Rule::And(parts), false) | (Rule::Or(parts), true) => Rule::And(each(parts)),
        (Rule::Or(parts), false) | (Rule::And(parts), true) => Rule::Or(each(parts)),
        (Rule::Constant(answer), true) => Rule::Constant(answer.map(|answer| !answer)),
        (Rule::Compare(comparison, left, right, span), true) => {
            Rule::Compare(comparison.negated(), left.clone(), right.clone(), span.clone())
        }
        (leaf, true) => Rule::Not(Box::new(leaf.clone())),
        (leaf, false) => leaf.clone(),
    }
}
