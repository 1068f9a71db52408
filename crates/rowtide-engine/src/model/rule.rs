//! Random rules of the definition's language, written as SQL for the plan and evaluated here without
//! it: no normal form, no branches, no topics.

use rand::Rng;
use rand::rngs::SmallRng;

use super::postgres::{Data, DataRow, TABLES};

#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub(super) id: &'static str,
    level: Option<i64>,
}

impl User {
    pub(super) fn random(rng: &mut SmallRng) -> User {
        User {
            id: ["p", "q"][rng.random_range(0..2)],
            level: [None, Some(1), Some(2)][rng.random_range(0..3)],
        }
    }

    pub(super) fn claims(&self) -> serde_json::Map<String, serde_json::Value> {
        self.level.map(|level| ("level".to_owned(), level.into())).into_iter().collect()
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
            0..3 => vec![Rule::OwnedByUser],
            3..5 => vec![Rule::AtLevel],
            5..9 if depth > 0 => {
                let column = |rng: &mut SmallRng| {
                    if rng.random_bool(0.5) { IntColumn::Id } else { IntColumn::X }
                };
                let (column, selected) = (column(rng), column(rng));
                let table = rng.random_range(0..TABLES.len());
                let rule = Box::new(Rule::random(rng, depth - 1));
                vec![Rule::Member { column, selected, table, rule }]
            }
            5..9 => vec![Rule::OwnedByUser, Rule::AtLevel],
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
                Filter::Always => "true".to_owned(),
            },
        }
    }

    pub(super) fn judge(&self, row: &DataRow, user: &User, data: &Data) -> Option<bool> {
        let equal = |a: Option<i64>, b: Option<i64>| Some(a? == b?);
        match self {
            Rule::And(rules) => all(rules.iter().map(|rule| rule.judge(row, user, data))),
            Rule::Or(rules) => {
                all(rules.iter().map(|rule| not(rule.judge(row, user, data)))).map(|all| !all)
            }
            Rule::OwnedByUser => row.y.map(|y| y == user.id),
            Rule::AtLevel => equal(row.x, user.level),
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
                Filter::Always => Some(true),
            },
        }
    }
}

impl Filter {
    fn random(rng: &mut SmallRng) -> Rule {
        let n = rng.random_range(1..4);
        Rule::Filter(match rng.random_range(0..10) {
            0 => Filter::Flag,
            1 => Filter::NotFlag,
            2 => Filter::XNull,
            3 => Filter::XNotNull,
            4 => Filter::XLess(n),
            5 => Filter::XNotEqual(n),
            6 => Filter::YIn("p"),
            7 => Filter::AboveLevel,
            8 => Filter::NotBoth(n),
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
