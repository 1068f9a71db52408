//! Random rules of the definition's language, written as SQL for the plan and evaluated here without
//! it: no normal form, no branches, no topics.

use rand::Rng;
use rand::rngs::SmallRng;

use super::postgres::{Data, DataRow, TABLES};

#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub(super) id: &'static str,
    level: Option<i64>,
    /// `auth.claims.app.levels`, within an object.
    levels: Option<&'static [i64]>,
    roles: Option<&'static [&'static str]>,
}

impl User {
    pub(super) fn random(rng: &mut SmallRng) -> User {
        User {
            id: ["p", "q"][rng.random_range(0..2)],
            level: [None, Some(1), Some(2)][rng.random_range(0..3)],
            levels: [None, Some(&[][..]), Some(&[1]), Some(&[2, 3, 2])][rng.random_range(0..4)],
            roles: [None, Some(&["admin", "other"][..]), Some(&["other"])][rng.random_range(0..3)],
        }
    }

    pub(super) fn claims(&self) -> serde_json::Map<String, serde_json::Value> {
        let level = self.level.map(|level| ("level", level.into()));
        let levels = self.levels.map(|levels| ("app", serde_json::json!({ "levels": levels })));
        let roles = self.roles.map(|roles| ("roles", roles.into()));
        let all = level.into_iter().chain(levels).chain(roles);
        all.map(|(name, claim)| (name.to_owned(), claim)).collect()
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum IntColumn {
    Id,
    X,
}

#[derive(Clone, Debug)]
pub(super) enum Rule {
    And(Vec<Rule>),
    Or(Vec<Rule>),
    Filter(Filter),
    /// `y = auth.user_id`
    OwnedByUser,
    /// `x = auth.claims.level`
    AtLevel,
    /// `x = ANY (auth.claims.app.levels)`
    AtAnyLevel,
    /// `auth.user_id = ANY (m)`
    InMembers,
    /// `column IN (SELECT selected FROM table WHERE rule)`
    Member {
        column: IntColumn,
        selected: IntColumn,
        table: usize,
        rule: Box<Rule>,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Filter {
    Flag,
    NotFlag,
    XNull,
    XNotNull,
    XLess(i64),
    XNotEqual(i64),
    YIn(&'static str),
    AboveLevel,
    NotBoth(i64),
    /// `x <> ALL (auth.claims.app.levels)`
    AtNoLevel,
    /// `'admin' = ANY (auth.claims.roles)`
    IsAdmin,
    /// `auth.user_id <> ALL (m)`
    NotInMembers,
    /// `y = ANY (m)`
    YInMembers,
    /// `(flag AND x = …) IS NOT FALSE`
    MayBeBoth(i64),
    Always,
}

impl Rule {
    /// A rule that the language accepts: no alternative has two memberships.
    pub(super) fn random(rng: &mut SmallRng, depth: u32) -> Rule {
        let alternatives = rng.random_range(1..4);
        let mut any: Vec<Rule> = (0..alternatives).map(|_| Rule::alternative(rng, depth)).collect();
        let rule = if any.len() == 1 { any.remove(0) } else { Rule::Or(any) };
        // An OR below an AND has to be distributed.
        if rng.random_bool(0.3) { Rule::And(vec![rule, Filter::random(rng)]) } else { rule }
    }

    fn alternative(rng: &mut SmallRng, depth: u32) -> Rule {
        let mut all = match rng.random_range(0..10) {
            0..2 => vec![Rule::OwnedByUser],
            2..3 => vec![Rule::InMembers],
            3..4 => vec![Rule::AtLevel],
            4..5 => vec![Rule::AtAnyLevel],
            5..9 if depth > 0 => {
                let column = |rng: &mut SmallRng| {
                    if rng.random_bool(0.5) { IntColumn::Id } else { IntColumn::X }
                };
                let (column, selected) = (column(rng), column(rng));
                let table = rng.random_range(0..TABLES.len());
                let rule = Box::new(Rule::random(rng, depth - 1));
                vec![Rule::Member { column, selected, table, rule }]
            }
            5..7 => vec![Rule::OwnedByUser, Rule::AtLevel],
            7..9 => vec![Rule::AtAnyLevel, Rule::InMembers],
            _ => vec![Rule::Filter(Filter::XLess(2))],
        };
        for _ in 0..rng.random_range(0..2) {
            all.push(Filter::random(rng));
        }
        if all.len() == 1 { all.remove(0) } else { Rule::And(all) }
    }

    pub(super) fn sql(&self) -> String {
        let joined = |rules: &[Rule], word: &str| {
            let parts: Vec<String> = rules.iter().map(|rule| format!("({})", rule.sql())).collect();
            parts.join(word)
        };
        match self {
            Rule::And(rules) => joined(rules, " AND "),
            Rule::Or(rules) => joined(rules, " OR "),
            Rule::OwnedByUser => "y = auth.user_id".to_owned(),
            Rule::AtLevel => "auth.claims.level = x".to_owned(),
            Rule::AtAnyLevel => "x = ANY (auth.claims.app.levels)".to_owned(),
            Rule::InMembers => "auth.user_id = ANY (m)".to_owned(),
            Rule::Member { column, selected, table, rule } => format!(
                "{} IN (SELECT {} FROM {} WHERE {})",
                column.name(),
                selected.name(),
                TABLES[*table],
                rule.sql()
            ),
            Rule::Filter(filter) => match filter {
                Filter::Flag => "flag".to_owned(),
                Filter::NotFlag => "NOT flag".to_owned(),
                Filter::XNull => "x IS NULL".to_owned(),
                Filter::XNotNull => "NOT (x IS NULL)".to_owned(),
                Filter::XLess(n) => format!("x < {n}"),
                Filter::XNotEqual(n) => format!("x <> {n}"),
                Filter::YIn(y) => format!("y IN ('{y}', 'other')"),
                Filter::AboveLevel => "x >= auth.claims.level".to_owned(),
                Filter::NotBoth(n) => format!("NOT (flag AND x = {n})"),
                Filter::AtNoLevel => "x <> ALL (auth.claims.app.levels)".to_owned(),
                Filter::IsAdmin => "'admin' = ANY (auth.claims.roles)".to_owned(),
                Filter::NotInMembers => "auth.user_id <> ALL (m)".to_owned(),
                Filter::YInMembers => "y = ANY (m)".to_owned(),
                Filter::MayBeBoth(n) => format!("(flag AND x = {n}) IS NOT FALSE"),
                Filter::Always => "true".to_owned(),
            },
        }
    }

    pub(super) fn judge(&self, row: &DataRow, user: &User, data: &Data) -> Option<bool> {
        let equal = |a: Option<i64>, b: Option<i64>| Some(a? == b?);
        let at_any_level = || any_of(row.x, user.levels?.iter().copied().map(Some));
        let in_members = |who: Option<&'static str>| any_of(who, row.m?.iter().copied());
        match self {
            Rule::And(rules) => all(rules.iter().map(|rule| rule.judge(row, user, data))),
            Rule::Or(rules) => {
                all(rules.iter().map(|rule| not(rule.judge(row, user, data)))).map(|all| !all)
            }
            Rule::OwnedByUser => row.y.map(|y| y == user.id),
            Rule::AtLevel => equal(row.x, user.level),
            Rule::AtAnyLevel => at_any_level(),
            Rule::InMembers => in_members(Some(user.id)),
            Rule::Member { column, selected, table, rule } => {
                let of = data[*table].values();
                let chosen = of.filter(|inner| rule.judge(inner, user, data) == Some(true));
                let values: Vec<Option<i64>> = chosen.map(|inner| selected.of(inner)).collect();
                let here = column.of(row);
                not(all(values.into_iter().map(|value| not(equal(here, value)))))
            }
            Rule::Filter(filter) => match filter {
                Filter::Flag => row.flag,
                Filter::NotFlag => not(row.flag),
                Filter::XNull => Some(row.x.is_none()),
                Filter::XNotNull => Some(row.x.is_some()),
                Filter::XLess(n) => row.x.map(|x| x < *n),
                Filter::XNotEqual(n) => row.x.map(|x| x != *n),
                Filter::YIn(y) => row.y.map(|value| value == *y),
                Filter::AboveLevel => Some(row.x? >= user.level?),
                Filter::NotBoth(n) => not(all([row.flag, equal(row.x, Some(*n))].into_iter())),
                Filter::AtNoLevel => not(at_any_level()),
                Filter::IsAdmin => any_of(Some("admin"), user.roles?.iter().copied().map(Some)),
                Filter::NotInMembers => not(in_members(Some(user.id))),
                Filter::YInMembers => in_members(row.y),
                Filter::MayBeBoth(n) => {
                    let both = all([row.flag, equal(row.x, Some(*n))].into_iter());
                    Some(both != Some(false))
                }
                Filter::Always => Some(true),
            },
        }
    }
}

impl Filter {
    fn random(rng: &mut SmallRng) -> Rule {
        let n = rng.random_range(1..4);
        Rule::Filter(match rng.random_range(0..15) {
            0 => Filter::Flag,
            1 => Filter::NotFlag,
            2 => Filter::XNull,
            3 => Filter::XNotNull,
            4 => Filter::XLess(n),
            5 => Filter::XNotEqual(n),
            6 => Filter::YIn("p"),
            7 => Filter::AboveLevel,
            8 => Filter::NotBoth(n),
            9 => Filter::AtNoLevel,
            10 => Filter::IsAdmin,
            11 => Filter::NotInMembers,
            12 => Filter::YInMembers,
            13 => Filter::MayBeBoth(n),
            _ => Filter::Always,
        })
    }
}

impl IntColumn {
    fn name(self) -> &'static str {
        match self {
            IntColumn::Id => "id",
            IntColumn::X => "x",
        }
    }

    fn of(self, row: &DataRow) -> Option<i64> {
        match self {
            IntColumn::Id => Some(row.id),
            IntColumn::X => row.x,
        }
    }
}

fn not(answer: Option<bool>) -> Option<bool> {
    answer.map(|answer| !answer)
}

/// SQL's `= ANY`: what is in the array is equal to one of its elements, null unless one is, or none can be.
fn any_of<T: PartialEq>(
    item: Option<T>,
    elements: impl Iterator<Item = Option<T>>,
) -> Option<bool> {
    let equal = |element: Option<T>| Some(*item.as_ref()? == element?);
    not(all(elements.map(|element| not(equal(element)))))
}

/// SQL's `AND`: false wins over null, null over true.
fn all(answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut result = Some(true);
    for answer in answers {
        match answer {
            Some(false) => return Some(false),
            None => result = None,
            Some(true) => {}
        }
    }
    result
}
