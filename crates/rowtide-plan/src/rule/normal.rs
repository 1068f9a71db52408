//! A rule as alternatives. Negation is pushed down to the leaves, and `AND` is distributed over those
//! `OR`s that hold an anchor, so that each alternative can be found by one column; an `OR` of mere
//! filters stays a filter. Where several conditions ask other tables, one that finds every row that is in is
//! the anchor, and the others are filters as they stand. All of this keeps SQL's answer for every row,
//! null included.

use std::sync::Arc;

use super::{Member, Rule, Term};
use crate::error::DefinitionProblem;
use crate::filter::Comparison;
use crate::sql_text::Span;
use crate::value::ColumnType;

/// The most alternatives of one rule.
pub(crate) const MAX_ALTERNATIVES: usize = 32;

/// All of these must hold.
pub(crate) type Alternative<'a> = Vec<Part<'a>>;

/// One condition of an alternative.
#[derive(Clone, Debug)]
pub(crate) enum Part<'a> {
    /// A membership: an anchor, or a filter beside one.
    Member(&'a Arc<Member>),
    /// `column = claim`, or one is among the elements of the other: an anchor, or a filter beside one.
    ClaimEqual(Rule),
    /// Decided by the row, and perhaps claims and sets.
    Filter(Rule),
}

impl Part<'_> {
    /// Whether it is `column = params.x`.
    pub(crate) fn is_param_equal(&self) -> bool {
        matches!(self, Part::ClaimEqual(rule) if rule.names_param())
    }

    /// Whether it says `false` or null, whatever the row.
    pub(crate) fn is_never(&self) -> bool {
        fn is_never(rule: &Rule) -> bool {
            match rule {
                Rule::Constant(answer) => *answer != Some(true),
                Rule::And(parts) => parts.iter().any(is_never),
                _ => false,
            }
        }
        matches!(self, Part::Filter(rule) if is_never(rule))
    }
}

/// The alternatives of `rule`.
///
/// # Errors
/// Too many alternatives.
pub(crate) fn alternatives(
    rule: &Rule,
    whole: Span,
) -> Result<Vec<Alternative<'_>>, DefinitionProblem> {
    distribute(rule, false, &whole)
}

fn is_claim_equal(rule: &Rule) -> bool {
    let (Rule::Compare(Comparison::Equal, left, right, _) | Rule::Any(left, right, _)) = rule
    else {
        return false;
    };
    let is_claim = |term: &Term| matches!(term.uncast(), Term::Claim(..));
    (finds_rows(left) && is_claim(right)) || (is_claim(left) && finds_rows(right))
}

/// Whether it is a column, or one as a type whose values say which ones the column has: numbers of another kind do not.
fn finds_rows(term: &Term) -> bool {
    match term {
        Term::Column(_) => true,
        Term::Cast(inner, to, _) => {
            let is_number = matches!(to.kind(), Some(ColumnType::Numeric | ColumnType::Float8));
            !is_number && finds_rows(inner)
        }
        _ => false,
    }
}

/// Whether the rule, or its negation, holds an anchor.
fn has_anchor(rule: &Rule, negated: bool) -> bool {
    match rule {
        Rule::And(parts) | Rule::Or(parts) => parts.iter().any(|part| has_anchor(part, negated)),
        Rule::Not(inner) => has_anchor(inner, !negated),
        Rule::Is(inner, Some(answer)) if !negated => has_anchor(inner, !answer),
        Rule::Any(..) => !negated && is_claim_equal(rule),
        Rule::Member(_) => !negated,
        Rule::Compare(comparison, left, right, span) => {
            let comparison = if negated { comparison.negated() } else { *comparison };
            is_claim_equal(&Rule::Compare(comparison, left.clone(), right.clone(), span.clone()))
        }
        _ => false,
    }
}

/// How well a condition finds rows by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Finds {
    /// Rows that it does not name may be in.
    Not,
    /// It says whether the whole table is in.
    All,
    /// Every row that is in is found by a column.
    ByColumn,
    /// Every row that is in is found by a column, and a claim says by which values: they are not all that there are.
    ByClaim,
    /// As by a claim, and a parameter of a query says it: of what somebody may see it is the part that they ask for.
    ByParam,
}

fn finds(rule: &Rule, negated: bool) -> Finds {
    match (rule, negated) {
        (Rule::Not(inner), _) => finds(inner, !negated),
        (Rule::Is(inner, Some(answer)), false) => finds(inner, !answer),
        (Rule::And(parts), false) | (Rule::Or(parts), true) => {
            parts.iter().map(|part| finds(part, negated)).max().unwrap_or(Finds::Not)
        }
        (Rule::Or(parts), false) | (Rule::And(parts), true) => {
            parts.iter().map(|part| finds(part, negated)).min().unwrap_or(Finds::Not)
        }
        (Rule::Member(member), false) if member.columns.is_empty() => Finds::All,
        (Rule::Member(member), false) if !member.rule.names_claim() => Finds::ByColumn,
        (rule, negated) if has_anchor(rule, negated) => {
            if rule.names_param() {
                Finds::ByParam
            } else {
                Finds::ByClaim
            }
        }
        _ => Finds::Not,
    }
}

/// Whether the rule, or its negation, may find rows by a membership.
fn has_membership(rule: &Rule, negated: bool) -> bool {
    match rule {
        Rule::And(parts) | Rule::Or(parts) => {
            parts.iter().any(|part| has_membership(part, negated))
        }
        Rule::Not(inner) => has_membership(inner, !negated),
        Rule::Is(inner, Some(answer)) if !negated => has_membership(inner, !answer),
        Rule::Member(_) => !negated,
        // What is true where the inner rule is not true, or is null, is found by nothing in it.
        Rule::Is(..)
        | Rule::Constant(_)
        | Rule::Bare(_)
        | Rule::Compare(..)
        | Rule::IsNull(_)
        | Rule::Same(..)
        | Rule::Any(..)
        | Rule::In(..) => false,
    }
}

/// Of several conditions that must hold, the one that finds the rows, so that others can be filters as they stand.
struct Finder {
    at: usize,
    /// Whether all others are filters: otherwise those that ask other tables.
    alone: bool,
}

/// The condition that finds the rows, where a parameter does, or several ask other tables.
fn finder(parts: &[Rule], negated: bool) -> Option<Finder> {
    let by_param = |part: &Rule| finds(part, negated) == Finds::ByParam;
    let by_column = |part: &&Rule| by_param(part) && !has_membership(part, negated);
    if parts.iter().any(by_param) {
        let at = parts.iter().position(|part| by_column(&part));
        let at = at.or_else(|| parts.iter().position(by_param));
        return at.map(|at| Finder { at, alone: true });
    }
    if parts.iter().filter(|part| has_membership(part, negated)).count() < 2 {
        return None;
    }
    let best = parts.iter().map(|part| finds(part, negated)).max().filter(|f| *f != Finds::Not)?;
    let is_best = |part: &Rule| finds(part, negated) == best;
    let membership = parts.iter().position(|part| is_best(part) && has_membership(part, negated));
    let at = membership.or_else(|| parts.iter().position(is_best));
    at.map(|at| Finder { at, alone: false })
}

fn distribute<'a>(
    rule: &'a Rule,
    negated: bool,
    whole: &Span,
) -> Result<Vec<Alternative<'a>>, DefinitionProblem> {
    if !has_anchor(rule, negated) {
        let filter = push_down(rule, negated);
        return Ok(match filter {
            Rule::Constant(Some(true)) => vec![Vec::new()],
            filter => vec![vec![Part::Filter(filter)]],
        });
    }
    match (rule, negated) {
        (Rule::Not(inner), _) => distribute(inner, !negated, whole),
        (Rule::Is(inner, Some(answer)), false) => distribute(inner, !answer, whole),
        (Rule::Member(member), false) => Ok(vec![vec![Part::Member(member)]]),
        (Rule::And(parts), false) | (Rule::Or(parts), true) => {
            let mut product: Vec<Alternative<'a>> = vec![Vec::new()];
            let finder = finder(parts, negated);
            for (at, part) in parts.iter().enumerate() {
                let is_filter = finder.as_ref().is_some_and(|finder| {
                    finder.at != at && (finder.alone || has_membership(part, negated))
                });
                let factor = if is_filter {
                    vec![vec![Part::Filter(push_down(part, negated))]]
                } else {
                    distribute(part, negated, whole)?
                };
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

fn limit(alternatives: usize, whole: &Span) -> Result<(), DefinitionProblem> {
    if alternatives <= MAX_ALTERNATIVES {
        return Ok(());
    }
    Err(DefinitionProblem::new(
        whole.clone(),
        "the rule has too many alternatives",
        format!("written out, it has more than {MAX_ALTERNATIVES}"),
    )
    .help("every OR beside an anchor doubles them: move what is common out of the OR"))
}

/// The rule, negated or not, with `NOT` only over what cannot be turned round.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::claims::Claim;
    use crate::rule::{Name, TableReference};

    const COLUMNS: [&str; 3] = ["a", "b", "c"];
    const MEMBERS: [&str; 3] = ["first", "second", "third"];

    /// What the columns, the claim and the memberships are, for one row and one view.
    #[derive(Clone, Copy, Debug)]
    struct World {
        columns: [Option<i8>; 3],
        claim: Option<i8>,
        member: [Option<bool>; 3],
    }

    impl World {
        fn term(&self, term: &Term) -> Option<i8> {
            match term {
                Term::Column(name) => {
                    self.columns[COLUMNS.iter().position(|column| *column == name.text).unwrap()]
                }
                Term::Claim(..) => self.claim,
                Term::Number(text, _) => Some(text.parse().unwrap()),
                _ => None,
            }
        }

        /// SQL's answer, by the book.
        fn judge(&self, rule: &Rule) -> Option<bool> {
            let both = |a: Option<bool>, b: Option<bool>| match (a, b) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            };
            let not = |answer: Option<bool>| answer.map(|answer| !answer);
            match rule {
                Rule::And(parts) => {
                    parts.iter().map(|part| self.judge(part)).reduce(both).unwrap_or(Some(true))
                }
                Rule::Or(parts) => {
                    let none = parts.iter().map(|part| not(self.judge(part))).reduce(both);
                    not(none.unwrap_or(Some(true)))
                }
                Rule::Not(inner) => not(self.judge(inner)),
                Rule::Constant(answer) => *answer,
                Rule::Bare(term) => self.term(term).map(|value| value > 0),
                Rule::Compare(comparison, left, right, _) => {
                    let (left, right) = (self.term(left)?, self.term(right)?);
                    Some(match comparison {
                        Comparison::Equal => left == right,
                        Comparison::NotEqual => left != right,
                        Comparison::Less => left < right,
                        Comparison::LessOrEqual => left <= right,
                        Comparison::Greater => left > right,
                        Comparison::GreaterOrEqual => left >= right,
                    })
                }
                Rule::IsNull(term) => Some(self.term(term).is_none()),
                Rule::Same(left, right, _) => Some(self.term(left) == self.term(right)),
                Rule::Is(inner, answer) => Some(self.judge(inner) == *answer),
                // Arrays of one element.
                Rule::Any(item, array, _) => Some(self.term(item)? == self.term(array)?),
                Rule::In(term, values) => {
                    let value = self.term(term)?;
                    let values: Vec<Option<i8>> = values.iter().map(|v| self.term(v)).collect();
                    if values.contains(&Some(value)) {
                        Some(true)
                    } else if values.contains(&None) {
                        None
                    } else {
                        Some(false)
                    }
                }
                Rule::Member(member) => {
                    self.member[MEMBERS.iter().position(|name| *name == member.table.name).unwrap()]
                }
            }
        }

        fn judge_part(&self, part: &Part<'_>) -> Option<bool> {
            match part {
                Part::Member(member) => self.judge(&Rule::Member(Arc::clone(member))),
                Part::ClaimEqual(rule) | Part::Filter(rule) => self.judge(rule),
            }
        }
    }

    fn column() -> impl Strategy<Value = Term> {
        proptest::sample::select(&COLUMNS[..])
            .prop_map(|name| Term::Column(Name { text: name.to_owned(), span: 0..0 }))
    }

    fn comparison() -> impl Strategy<Value = Comparison> {
        use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
        proptest::sample::select(&[Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual][..])
    }

    /// The third does not look at the row.
    fn member(name: &str) -> Rule {
        let named = |text: &str| Name { text: text.to_owned(), span: 0..0 };
        let table = TableReference { schema: String::new(), name: name.to_owned(), span: 0..0 };
        let rule = Rule::Constant(Some(true));
        let exists = name == MEMBERS[2];
        let columns = if exists { Vec::new() } else { vec![named("a")] };
        let selected = columns.clone();
        Rule::Member(Arc::new(Member { columns, table, selected, exists, rule, span: 0..0 }))
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let number = |number: i8| Term::Number(number.to_string(), 0..0);
        let leaf = prop_oneof![
            any::<Option<bool>>().prop_map(Rule::Constant),
            column().prop_map(Rule::Bare),
            column().prop_map(Rule::IsNull),
            (column(), -1..2i8).prop_map(move |(column, value)| {
                Rule::In(column, vec![number(value), Term::Null(0..0)])
            }),
            (column(), comparison(), -1..2i8).prop_map(move |(column, comparison, value)| {
                Rule::Compare(comparison, column, number(value), 0..0)
            }),
            (column(), comparison()).prop_map(|(column, comparison)| {
                Rule::Compare(comparison, Term::Claim(Claim::UserId, 0..0), column, 0..0)
            }),
            column()
                .prop_map(|column| { Rule::Same(column, Term::Claim(Claim::UserId, 0..0), 0..0) }),
            column().prop_map(|column| Rule::Any(column, Term::Claim(Claim::UserId, 0..0), 0..0)),
            proptest::sample::select(&MEMBERS[..]).prop_map(member),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 1..4).prop_map(Rule::And),
                proptest::collection::vec(inner.clone(), 1..4).prop_map(Rule::Or),
                inner.clone().prop_map(|rule| Rule::Not(Box::new(rule))),
                (inner, any::<Option<bool>>())
                    .prop_map(|(rule, answer)| Rule::Is(Box::new(rule), answer)),
            ]
        })
    }

    fn world() -> impl Strategy<Value = World> {
        let value = || prop_oneof![Just(None), (-1..2i8).prop_map(Some)];
        (value(), value(), value(), value(), any::<[Option<bool>; 3]>())
            .prop_map(|(a, b, c, claim, member)| World { columns: [a, b, c], claim, member })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_alternatives_say_what_the_rule_says(
            rule in rule(),
            worlds in proptest::collection::vec(world(), 16),
        ) {
            if let Ok(alternatives) = alternatives(&rule, 0..0) {
                prop_assert!(alternatives.len() <= MAX_ALTERNATIVES);
                for world in worlds {
                    let holds = |part: &Part<'_>| world.judge_part(part) == Some(true);
                    let any = alternatives.iter().any(|parts| parts.iter().all(holds));
                    prop_assert_eq!(any, world.judge(&rule) == Some(true), "{:?}", world);
                }
            }
        }

        #[test]
        fn no_anchor_hides_in_a_filter(rule in rule()) {
            for alternative in alternatives(&rule, 0..0).unwrap_or_default() {
                let by_column = |part: &Part<'_>| match part {
                    Part::Member(member) => !member.columns.is_empty(),
                    Part::ClaimEqual(_) => true,
                    Part::Filter(_) => false,
                };
                let is_found = alternative.iter().any(by_column);
                for part in &alternative {
                    match part {
                        Part::Filter(rule) => {
                            prop_assert!(is_found || finds(rule, false) != Finds::ByColumn);
                        }
                        Part::ClaimEqual(rule) => prop_assert!(is_claim_equal(rule)),
                        Part::Member(_) => {}
                    }
                }
            }
        }
    }
}
