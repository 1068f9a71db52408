//! Random rules of the definition's language, written as SQL for the plan and evaluated here without
//! it: no normal form, no branches, no topics.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::SmallRng;
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::error::DefinitionProblem;
use rowtide_plan::plan::Plan;

use super::postgres::{Data, DataRow, TABLES, catalog};
use super::window::Window;

/// What somebody may see of each table, which tables are synced always, and what can be asked for.
#[derive(Debug)]
pub(super) struct Rules {
    visible: Vec<Rule>,
    always: Vec<bool>,
    queries: Vec<Query>,
}

/// What a query selects: a rule for some of the tables, and perhaps only the first rows.
#[derive(Debug)]
struct Query {
    name: String,
    select: Vec<Select>,
}

#[derive(Debug)]
struct Select {
    table: usize,
    rule: Rule,
    window: Option<Window>,
}

/// How many rows a window has where the parameter is left out.
const DEFAULT_COUNT: usize = 2;

/// What a subscription asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ask {
    query: usize,
    params: Params,
}

/// What the parameters of a query are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Params {
    n: Option<i64>,
    s: Option<&'static str>,
    /// How many rows a window has, if that is said.
    c: Option<usize>,
}

impl Query {
    fn random(rng: &mut SmallRng, number: usize) -> Query {
        let mut select: Vec<Select> = Vec::new();
        let one = |rng: &mut SmallRng, table| {
            let window = rng.random_bool(0.5).then(|| Window::random(rng));
            Select { table, rule: Rule::of_query(rng), window }
        };
        for table in 0..TABLES.len() {
            if rng.random_bool(0.5) {
                select.push(one(rng, table));
            }
        }
        if select.is_empty() {
            let table = rng.random_range(0..TABLES.len());
            select.push(one(rng, table));
        }
        Query { name: format!("q{number}"), select }
    }

    fn names(&self, param: &str) -> bool {
        let names = |of: &Select| of.rule.sql(TABLES[of.table]).contains(param);
        self.select.iter().any(names)
    }

    /// Whether a parameter says how many rows there are.
    fn counts(&self) -> bool {
        self.select.iter().flat_map(|of| &of.window).any(|window| window.limit.is_none())
    }

    fn toml(&self) -> String {
        let types = [("n", "int8"), ("s", "text")];
        let params = types.iter().filter(|(name, _)| self.names(&format!("params.{name}")));
        let mut params: Vec<String> =
            params.map(|(name, kind)| format!("{name} = '{kind}'")).collect();
        params.extend(self.counts().then(|| format!("c = 'int4 = {DEFAULT_COUNT}'")));
        let mut text = format!("[queries.{}]\nparams = {{ {} }}\n", self.name, params.join(", "));
        text += &format!("[queries.{}.select]\n", self.name);
        for Select { table, rule, window } in &self.select {
            let table = TABLES[*table];
            let window = window.as_ref().map(Window::toml).unwrap_or_default();
            text += &format!("{table} = {{ where = '''{}'''{window} }}\n", rule.sql(table));
        }
        text
    }
}

impl Rules {
    pub(super) fn can_ask(&self) -> bool {
        !self.queries.is_empty()
    }

    pub(super) fn ask(&self, rng: &mut SmallRng) -> Ask {
        let n = [None, Some(1), Some(2), Some(3)][rng.random_range(0..4)];
        let s = [None, Some("p"), Some("q")][rng.random_range(0..3)];
        let c = [None, Some(0), Some(1), Some(3), Some(5)][rng.random_range(0..5)];
        Ask { query: rng.random_range(0..self.queries.len()), params: Params { n, s, c } }
    }

    /// The query's name, and its parameters as a client sends them.
    pub(super) fn sent(&self, ask: &Ask) -> (&str, serde_json::Map<String, serde_json::Value>) {
        let query = &self.queries[ask.query];
        let all = [("n", serde_json::json!(ask.params.n)), ("s", serde_json::json!(ask.params.s))];
        let named = all.into_iter().filter(|(name, _)| query.names(&format!("params.{name}")));
        let count = ask.params.c.filter(|_| query.counts()).map(|c| ("c", serde_json::json!(c)));
        let named = named.chain(count);
        (&query.name, named.map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The rows of a table that somebody who asks for this is sent, by their ids.
    pub(super) fn selected<'a>(
        &self,
        table: usize,
        user: &User,
        asks: &[Ask],
        data: &'a Data,
    ) -> BTreeMap<i64, &'a DataRow> {
        let may_be_seen = |row: &&DataRow| self.visible[table].judge(row, user, data) == Some(true);
        let visible: Vec<&DataRow> = data[table].values().filter(may_be_seen).collect();
        let mut selected: Vec<&DataRow> = Vec::new();
        if self.always[table] {
            selected.extend(&visible);
        }
        for ask in asks {
            let user = User { params: ask.params, ..*user };
            let of_table = self.queries[ask.query].select.iter().filter(|of| of.table == table);
            for Select { rule, window, .. } in of_table {
                let wanted = |row: &&DataRow| rule.judge(row, &user, data) == Some(true);
                let rows: Vec<&DataRow> = visible.iter().copied().filter(wanted).collect();
                selected.extend(match window {
                    Some(window) => window.first(rows, ask.params.c.unwrap_or(DEFAULT_COUNT)),
                    None => rows,
                });
            }
        }
        selected.into_iter().map(|row| (row.id, row)).collect()
    }
}

/// Rules, and what becomes of them.
pub(super) fn definition(rng: &mut SmallRng) -> (Rules, Definition, Plan) {
    loop {
        let visible: Vec<Rule> = (0..TABLES.len()).map(|_| Rule::random(rng, 2)).collect();
        let mut text = String::new();
        let queries = if rng.random_bool(0.5) { 0 } else { rng.random_range(1..3) };
        let always: Vec<bool> =
            TABLES.iter().map(|_| queries == 0 || rng.random_bool(0.3)).collect();
        let queries: Vec<Query> = (0..queries).map(|number| Query::random(rng, number)).collect();
        for ((table, rule), always) in TABLES.iter().zip(&visible).zip(&always) {
            let sync = if *always { "always" } else { "on_demand" };
            let rule = rule.sql(table);
            text += &format!("[tables.{table}]\nsync = '{sync}'\nvisible = '''{rule}'''\n");
        }
        queries.iter().for_each(|query| text += &query.toml());
        let rules = Rules { visible, always, queries };
        let compiled = Definition::parse("rowtide.toml", &text)
            .and_then(|definition| Ok((compile(&definition, &catalog())?, definition)));
        match compiled {
            Ok((plan, definition)) => return (rules, definition, plan),
            Err(error) => {
                let is_too_much = |problem: &DefinitionProblem| {
                    problem.message.contains("too many") || problem.message.contains("too long")
                };
                assert!(error.problems.iter().all(is_too_much), "{text}\n{error:?}");
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub(super) id: &'static str,
    level: Option<i64>,
    /// `auth.claims.app.levels`, within an object.
    levels: Option<&'static [i64]>,
    roles: Option<&'static [&'static str]>,
    /// Of the query that a rule is of.
    params: Params,
}

impl User {
    pub(super) fn random(rng: &mut SmallRng) -> User {
        User {
            id: ["p", "q"][rng.random_range(0..2)],
            level: [None, Some(1), Some(2)][rng.random_range(0..3)],
            levels: [None, Some(&[][..]), Some(&[1]), Some(&[2, 3, 2])][rng.random_range(0..4)],
            roles: [None, Some(&["admin", "other"][..]), Some(&["other"])][rng.random_range(0..3)],
            params: Params::default(),
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

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Column {
    Id,
    X,
    Y,
}

#[derive(Clone, Debug)]
pub(super) enum Rule {
    And(Vec<Rule>),
    Or(Vec<Rule>),
    Not(Box<Rule>),
    /// `IS TRUE`, `IS FALSE` or `IS UNKNOWN`.
    Is(Box<Rule>, Option<bool>),
    Filter(Filter),
    /// `y = auth.user_id`
    OwnedByUser,
    /// `x = auth.claims.level`
    AtLevel,
    /// `x = ANY (auth.claims.app.levels)`
    AtAnyLevel,
    /// `auth.user_id = ANY (m)`
    InMembers,
    /// `x = params.n`
    AtParam,
    /// `y = params.s`
    OfParam,
    Member(Member),
}

/// `(columns) IN (SELECT selected FROM table WHERE rule)`, or an `EXISTS` with these equalities.
#[derive(Clone, Debug)]
pub(super) struct Member {
    exists: bool,
    /// None only with `exists`.
    columns: Vec<Column>,
    selected: Vec<Column>,
    table: usize,
    rule: Box<Rule>,
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
    /// `t > now() - interval '… seconds'`, written in one of several ways.
    After(i64, bool),
    /// `now() BETWEEN t AND t + interval '… seconds'`
    For(i64),
    Always,
}

impl Rule {
    /// What a query selects.
    fn of_query(rng: &mut SmallRng) -> Rule {
        let param = [Rule::AtParam, Rule::OfParam][rng.random_range(0..2)].clone();
        match rng.random_range(0..8) {
            0..2 => param,
            2 => {
                let mut member = Member::random(rng, 1);
                let rule = std::mem::replace(&mut *member.rule, param.clone());
                if rng.random_bool(0.5) {
                    *member.rule = Rule::And(vec![rule, param]);
                }
                Rule::Member(member)
            }
            3 => Rule::And(vec![param, Filter::random(rng)]),
            4 => Rule::Or(vec![param, Rule::random(rng, 1)]),
            5 => Rule::And(vec![Rule::random(rng, 1), param]),
            6 => Rule::Not(Box::new(param)),
            _ => Rule::random(rng, 1),
        }
    }

    /// A rule of the language.
    pub(super) fn random(rng: &mut SmallRng, depth: u32) -> Rule {
        if rng.random_bool(0.6) {
            return Rule::expression(rng, depth, depth.max(1));
        }
        let alternatives = rng.random_range(1..4);
        let mut any: Vec<Rule> = (0..alternatives).map(|_| Rule::alternative(rng, depth)).collect();
        let rule = if any.len() == 1 { any.remove(0) } else { Rule::Or(any) };
        // An OR below an AND has to be distributed.
        if rng.random_bool(0.3) { Rule::And(vec![rule, Filter::random(rng)]) } else { rule }
    }

    /// Anything, of so many levels.
    fn expression(rng: &mut SmallRng, depth: u32, levels: u32) -> Rule {
        let parts = |rng: &mut SmallRng| {
            (0..rng.random_range(2..4)).map(|_| Rule::expression(rng, depth, levels - 1)).collect()
        };
        let inner =
            |rng: &mut SmallRng| Box::new(Rule::expression(rng, depth, levels.saturating_sub(1)));
        match rng.random_range(0..12) {
            0..3 if levels > 0 => Rule::And(parts(rng)),
            3..5 if levels > 0 => Rule::Or(parts(rng)),
            5 => Rule::Not(inner(rng)),
            6 => {
                let answer = [Some(true), Some(false), None][rng.random_range(0..3)];
                Rule::Is(inner(rng), answer)
            }
            7 => [Rule::OwnedByUser, Rule::InMembers][rng.random_range(0..2)].clone(),
            8 => [Rule::AtLevel, Rule::AtAnyLevel][rng.random_range(0..2)].clone(),
            9 => Filter::random(rng),
            _ if depth > 0 => Rule::Member(Member::random(rng, depth)),
            _ => Filter::random(rng),
        }
    }

    fn alternative(rng: &mut SmallRng, depth: u32) -> Rule {
        let mut all = match rng.random_range(0..10) {
            0..2 => vec![Rule::OwnedByUser],
            2..3 => vec![Rule::InMembers],
            3..4 => vec![Rule::AtLevel],
            4..5 => vec![Rule::AtAnyLevel],
            5..9 if depth > 0 => {
                vec![Rule::Member(Member::random(rng, depth))]
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

    /// As SQL where the table is called `outer`.
    pub(super) fn sql(&self, outer: &str) -> String {
        let joined = |rules: &[Rule], word: &str| {
            let parts: Vec<String> =
                rules.iter().map(|rule| format!("({})", rule.sql(outer))).collect();
            parts.join(word)
        };
        match self {
            Rule::And(rules) => joined(rules, " AND "),
            Rule::Or(rules) => joined(rules, " OR "),
            Rule::Not(rule) => match rule.as_ref() {
                Rule::Member(member) => member.sql(outer, "NOT "),
                rule => format!("NOT ({})", rule.sql(outer)),
            },
            Rule::Is(rule, answer) => {
                let answer = answer.map_or("UNKNOWN".to_owned(), |answer| answer.to_string());
                format!("({}) IS {answer}", rule.sql(outer))
            }
            Rule::OwnedByUser => "y = auth.user_id".to_owned(),
            Rule::AtLevel => "auth.claims.level = x".to_owned(),
            Rule::AtAnyLevel => "x = ANY (auth.claims.app.levels)".to_owned(),
            Rule::InMembers => "auth.user_id = ANY (m)".to_owned(),
            Rule::AtParam => "x = params.n".to_owned(),
            Rule::OfParam => "params.s = y".to_owned(),
            Rule::Member(member) => member.sql(outer, ""),
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
                Filter::After(seconds, true) => format!("t > now() - interval '{seconds} seconds'"),
                Filter::After(seconds, false) => {
                    format!("NOT (now() >= t + interval '00:00:{seconds:02}')")
                }
                Filter::For(seconds) => {
                    format!("now() BETWEEN t AND (t + '{seconds} s'::interval)")
                }
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
            Rule::Not(rule) => not(rule.judge(row, user, data)),
            Rule::Is(rule, answer) => Some(rule.judge(row, user, data) == *answer),
            Rule::OwnedByUser => row.y.map(|y| y == user.id),
            Rule::AtLevel => equal(row.x, user.level),
            Rule::AtAnyLevel => at_any_level(),
            Rule::InMembers => in_members(Some(user.id)),
            Rule::AtParam => equal(row.x, user.params.n),
            Rule::OfParam => Some(row.y? == user.params.s?),
            Rule::Member(member) => member.judge(row, user, data),
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
                Filter::After(seconds, _) => Some(row.t? > data.now - seconds),
                Filter::For(seconds) => {
                    let t = row.t?;
                    Some((t..=t + seconds).contains(&data.now))
                }
                Filter::Always => Some(true),
            },
        }
    }
}

impl Filter {
    fn random(rng: &mut SmallRng) -> Rule {
        let n = rng.random_range(1..4);
        Rule::Filter(match rng.random_range(0..18) {
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
            14 => Filter::After([0, 5, 20][rng.random_range(0..3)], rng.random_bool(0.5)),
            15 => Filter::For(rng.random_range(0..20)),
            _ => Filter::Always,
        })
    }
}

impl Member {
    fn random(rng: &mut SmallRng, depth: u32) -> Member {
        let exists = rng.random_bool(0.3);
        let most = if rng.random_bool(0.8) { 1 } else { 2 };
        let least = usize::from(!exists || rng.random_bool(0.6));
        let pairs: Vec<(Column, Column)> = (0..rng.random_range(least..=most.max(least)))
            .map(|_| {
                if rng.random_bool(0.2) {
                    return (Column::Y, Column::Y);
                }
                let mut column = || [Column::Id, Column::X][rng.random_range(0..2)];
                (column(), column())
            })
            .collect();
        let (columns, selected) = pairs.into_iter().unzip();
        let table = rng.random_range(0..TABLES.len());
        let rule = Box::new(Rule::random(rng, depth - 1));
        Member { exists, columns, selected, table, rule }
    }

    fn sql(&self, outer: &str, not: &str) -> String {
        let names = |columns: &[Column], of: &str| -> Vec<String> {
            columns.iter().map(|column| format!("{of}{}", column.name())).collect()
        };
        let alias = format!("{outer}_{}", TABLES[self.table]);
        let table = TABLES[self.table];
        let rule = self.rule.sql(&alias);
        if self.exists {
            let inner = names(&self.selected, &format!("{alias}."));
            let outer = names(&self.columns, &format!("{outer}."));
            let equal = inner.iter().zip(&outer).map(|(a, b)| format!("{a} = {b} AND "));
            let equal: String = equal.collect();
            return format!("{not}EXISTS (SELECT 1 FROM {table} AS {alias} WHERE {equal}({rule}))");
        }
        let columns = match names(&self.columns, "") {
            one if one.len() == 1 => one.join(""),
            several => format!("({})", several.join(", ")),
        };
        let selected = names(&self.selected, "").join(", ");
        format!("{columns} {not}IN (SELECT {selected} FROM {table} AS {alias} WHERE {rule})")
    }

    fn judge(&self, row: &DataRow, user: &User, data: &Data) -> Option<bool> {
        let of = data[self.table].values();
        let chosen = of.filter(|inner| self.rule.judge(inner, user, data) == Some(true));
        let same = |inner: &DataRow| {
            let pairs = self.columns.iter().zip(&self.selected);
            all(pairs.map(|(column, selected)| Some(column.of(row)? == selected.of(inner)?)))
        };
        let answers: Vec<Option<bool>> = chosen.map(same).collect();
        if self.exists {
            return Some(answers.contains(&Some(true)));
        }
        not(all(answers.into_iter().map(not)))
    }
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Column::Id => "id",
            Column::X => "x",
            Column::Y => "y",
        }
    }

    fn of(self, row: &DataRow) -> Option<String> {
        match self {
            Column::Id => Some(row.id.to_string()),
            Column::X => row.x.map(|x| x.to_string()),
            Column::Y => row.y.map(str::to_owned),
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
