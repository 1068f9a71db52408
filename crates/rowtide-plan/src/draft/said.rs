//! Conditions as rules say them: what a policy of row-level security is read into, and what a foreign key suggests.
//! Columns know whose they are, so that one condition can be said of a row that is read, and of the old or the new row
//! of a write. Printed with the parentheses that are needed and no others.

use crate::catalog::TableName;

/// Whose column it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The row that the rule is of.
    Row,
    /// The row of a SELECT. Numbers tell those of one policy apart.
    Looked(usize),
}

/// A condition, or a value in one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// AND; `true` if there is none.
    All(Vec<Said>),
    /// OR; `false` if there is none.
    Any(Vec<Said>),
    /// NOT.
    Not(Box<Said>),
    /// An operator between two.
    Binary(Box<Said>, String, Box<Said>),
    /// What stands behind, as `IS NULL`.
    Test(Box<Said>, &'static str),
    /// `[NOT] IN (…)`.
    Among { value: Box<Said>, negated: bool, list: Vec<Said> },
    /// `[NOT] IN (SELECT …)`, of one value or several.
    Member { row: Vec<Said>, negated: bool, of: Box<Looked> },
    /// `EXISTS (SELECT …)`.
    Exists(Box<Looked>),
    /// `= ANY (…)` over an array, or with another operator.
    OfArray(Box<Said>, String, Box<Said>),
    /// A column.
    Column(Owner, String),
    /// A path into the token's claims; an empty one is the user's id.
    Claim(Vec<String>),
    /// A literal, as SQL.
    Literal(String),
    /// A function of Postgres.
    Call(String, Vec<Said>),
    /// A cast to this type.
    Cast(Box<Said>, String),
}

/// Rows of one table that are looked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Looked {
    pub(super) table: TableName,
    /// Which row of the policy's it is.
    pub(super) number: usize,
    /// The columns that are compared, none of `EXISTS`.
    pub(super) columns: Vec<Said>,
    pub(super) filter: Said,
}

/// How columns of the row are called.
#[derive(Clone, Copy, Debug)]
pub(super) enum Voice<'a> {
    /// By themselves; within a SELECT with this table's name.
    Read(&'a str),
    /// Behind this, as `old.`.
    Write(&'static str),
}

/// How tightly a condition holds together.
const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const TEST: u8 = 4;
const VALUE: u8 = 5;

impl Said {
    pub(super) fn always() -> Said {
        Said::All(Vec::new())
    }

    pub(super) fn never() -> Said {
        Said::Any(Vec::new())
    }

    pub(super) fn equal(left: Said, right: Said) -> Said {
        Said::Binary(Box::new(left), "=".to_owned(), Box::new(right))
    }

    pub(super) fn row(column: &str) -> Said {
        Said::Column(Owner::Row, column.to_owned())
    }

    pub(super) fn user() -> Said {
        Said::Claim(Vec::new())
    }

    /// All of them, without those that say nothing and those within one another.
    pub(super) fn all(parts: impl IntoIterator<Item = Said>) -> Said {
        let mut all = Vec::new();
        for part in parts {
            match part {
                Said::All(parts) => all.extend(parts),
                other => all.push(other),
            }
        }
        if all.contains(&Said::never()) {
            return Said::never();
        }
        let mut kept: Vec<Said> = Vec::new();
        for part in all {
            if !kept.iter().any(|of| of.is_same(&part)) {
                kept.push(part);
            }
        }
        one(kept, Said::All)
    }

    /// Any of them.
    pub(super) fn any(parts: impl IntoIterator<Item = Said>) -> Said {
        let mut any = Vec::new();
        for part in parts {
            match part {
                Said::Any(parts) => any.extend(parts),
                other => any.push(other),
            }
        }
        if any.contains(&Said::always()) {
            return Said::always();
        }
        let mut kept: Vec<Said> = Vec::new();
        for part in any {
            if !kept.iter().any(|of| of.is_same(&part)) {
                kept.push(part);
            }
        }
        one(kept, Said::Any)
    }

    /// Whether two conditions of one place say the same. Rows that are looked for have no names there.
    pub(super) fn is_same(&self, other: &Said) -> bool {
        let text = |of: &Said| of.show(Voice::Read("\0"), Some(usize::MAX), 0);
        text(self) == text(other)
    }

    /// What must hold, all of it.
    pub(super) fn conjuncts(&self) -> &[Said] {
        match self {
            Said::All(parts) => parts,
            other => std::slice::from_ref(other),
        }
    }

    /// What may hold, any of it.
    pub(super) fn alternatives(&self) -> &[Said] {
        match self {
            Said::Any(parts) => parts,
            other => std::slice::from_ref(other),
        }
    }

    /// Whether it can hold for a user alone, and for nobody without a token.
    pub(super) fn asks_for_user(&self) -> bool {
        match self {
            Said::All(parts) => parts.iter().any(Said::asks_for_user),
            Said::Any(parts) => parts.iter().all(Said::asks_for_user),
            Said::Binary(left, operator, right) => {
                operator == "=" && (**left == Said::user() || **right == Said::user())
            }
            Said::OfArray(left, operator, _) => operator == "=" && **left == Said::user(),
            Said::Test(value, test) => *test == "IS NOT NULL" && **value == Said::user(),
            Said::Member { negated: false, of, .. } | Said::Exists(of) => of.filter.asks_for_user(),
            _ => false,
        }
    }

    /// Whether it looks into other tables.
    pub(super) fn looks(&self) -> bool {
        match self {
            Said::Member { .. } | Said::Exists(_) => true,
            Said::All(parts) | Said::Any(parts) | Said::Call(_, parts) => {
                parts.iter().any(Said::looks)
            }
            Said::Not(of) | Said::Test(of, _) | Said::Cast(of, _) => of.looks(),
            Said::Binary(left, _, right) | Said::OfArray(left, _, right) => {
                left.looks() || right.looks()
            }
            Said::Among { value, list, .. } => value.looks() || list.iter().any(Said::looks),
            Said::Column(..) | Said::Claim(_) | Said::Literal(_) => false,
        }
    }

    /// Every column in it, also within SELECTs.
    pub(super) fn each_column(&self, see: &mut impl FnMut(Owner, &str)) {
        match self {
            Said::All(parts) | Said::Any(parts) | Said::Call(_, parts) => {
                parts.iter().for_each(|part| part.each_column(see));
            }
            Said::Not(of) | Said::Test(of, _) | Said::Cast(of, _) => of.each_column(see),
            Said::Binary(left, _, right) | Said::OfArray(left, _, right) => {
                left.each_column(see);
                right.each_column(see);
            }
            Said::Among { value, list, .. } => {
                value.each_column(see);
                list.iter().for_each(|one| one.each_column(see));
            }
            Said::Member { row, of, .. } => {
                row.iter().for_each(|one| one.each_column(see));
                of.each_column(see);
            }
            Said::Exists(of) => of.each_column(see),
            Said::Column(owner, name) => see(*owner, name),
            Said::Claim(_) | Said::Literal(_) => {}
        }
    }

    /// The same of another row: what was said of the row is said of that one.
    pub(super) fn of_row(&self, number: usize) -> Said {
        let boxed = |of: &Said| Box::new(of.of_row(number));
        let each = |parts: &[Said]| parts.iter().map(|part| part.of_row(number)).collect();
        let looked =
            |of: &Looked| Box::new(Looked { filter: of.filter.of_row(number), ..of.clone() });
        match self {
            Said::All(parts) => Said::All(each(parts)),
            Said::Any(parts) => Said::Any(each(parts)),
            Said::Not(of) => Said::Not(boxed(of)),
            Said::Binary(left, operator, right) => {
                Said::Binary(boxed(left), operator.clone(), boxed(right))
            }
            Said::Test(of, test) => Said::Test(boxed(of), test),
            Said::Among { value, negated, list } => {
                Said::Among { value: boxed(value), negated: *negated, list: each(list) }
            }
            Said::Member { row, negated, of } => {
                Said::Member { row: each(row), negated: *negated, of: looked(of) }
            }
            Said::Exists(of) => Said::Exists(looked(of)),
            Said::OfArray(left, operator, right) => {
                Said::OfArray(boxed(left), operator.clone(), boxed(right))
            }
            Said::Column(Owner::Row, name) => Said::Column(Owner::Looked(number), name.clone()),
            Said::Column(..) | Said::Claim(_) | Said::Literal(_) => self.clone(),
            Said::Call(name, parts) => Said::Call(name.clone(), each(parts)),
            Said::Cast(of, kind) => Said::Cast(boxed(of), kind.clone()),
        }
    }

    /// As text of a rule.
    pub(super) fn text(&self, voice: Voice<'_>) -> String {
        self.show(voice, None, 0)
    }

    fn binds(&self) -> u8 {
        match self {
            Said::All(parts) if parts.len() > 1 => AND,
            Said::Any(parts) if parts.len() > 1 => OR,
            Said::Not(_) => NOT,
            Said::Binary(..)
            | Said::Test(..)
            | Said::Among { .. }
            | Said::Member { .. }
            | Said::OfArray(..) => TEST,
            _ => VALUE,
        }
    }

    /// `within` is the SELECT that it stands in.
    fn show(&self, voice: Voice<'_>, within: Option<usize>, around: u8) -> String {
        let bare = self.show_bare(voice, within);
        if self.binds() < around { format!("({bare})") } else { bare }
    }

    fn show_bare(&self, voice: Voice<'_>, within: Option<usize>) -> String {
        let show = |of: &Said, around| of.show(voice, within, around);
        let joined = |parts: &[Said], word: &str, around| {
            parts.iter().map(|part| show(part, around)).collect::<Vec<_>>().join(word)
        };
        match self {
            Said::All(parts) if parts.is_empty() => "true".to_owned(),
            Said::Any(parts) if parts.is_empty() => "false".to_owned(),
            Said::All(parts) => joined(parts, " AND ", AND),
            Said::Any(parts) => joined(parts, " OR ", OR),
            Said::Not(of) => format!("NOT {}", show(of, VALUE)),
            Said::Binary(left, operator, right) => {
                format!("{} {operator} {}", show(left, VALUE), show(right, VALUE))
            }
            // Postgres wants to know the type of what is only tested.
            Said::Test(of, test) => match (&**of, voice) {
                (Said::Claim(_), Voice::Write(_)) => format!("{}::text {test}", show(of, VALUE)),
                _ => format!("{} {test}", show(of, VALUE)),
            },
            Said::Among { value, negated, list } => {
                let word = if *negated { "NOT IN" } else { "IN" };
                format!("{} {word} ({})", show(value, VALUE), joined(list, ", ", 0))
            }
            Said::Member { row, negated, of } => {
                let word = if *negated { "NOT IN" } else { "IN" };
                let row = match row.as_slice() {
                    [one] => show(one, VALUE),
                    several => format!("({})", joined(several, ", ", 0)),
                };
                format!("{row} {word} ({})", of.text(voice))
            }
            Said::Exists(of) => format!("EXISTS ({})", of.text(voice)),
            Said::OfArray(left, operator, right) => {
                format!("{} {operator} ANY ({})", show(left, VALUE), show(right, 0))
            }
            Said::Column(owner, name) => {
                let name = identifier(name);
                match (owner, voice) {
                    (Owner::Row, Voice::Write(prefix)) => format!("{prefix}{name}"),
                    (Owner::Row, Voice::Read(table)) if within.is_some() => {
                        format!("{}.{name}", identifier(table))
                    }
                    _ => name,
                }
            }
            Said::Claim(path) => match path.as_slice() {
                [] => "auth.user_id".to_owned(),
                path => format!(
                    "auth.claims.{}",
                    path.iter().map(|name| part(name)).collect::<Vec<_>>().join(".")
                ),
            },
            Said::Literal(text) => text.clone(),
            Said::Call(name, parts) => format!("{name}({})", joined(parts, ", ", 0)),
            Said::Cast(of, kind) => format!("{}::{kind}", show(of, VALUE)),
        }
    }
}

impl Looked {
    fn each_column(&self, see: &mut impl FnMut(Owner, &str)) {
        self.columns.iter().for_each(|column| column.each_column(see));
        self.filter.each_column(see);
    }

    fn text(&self, voice: Voice<'_>) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|column| column.show(voice, Some(self.number), 0)).collect();
        let columns = if columns.is_empty() { "1".to_owned() } else { columns.join(", ") };
        let table = table_text(&self.table);
        match &self.filter {
            Said::All(parts) if parts.is_empty() => format!("SELECT {columns} FROM {table}"),
            filter => {
                let filter = filter.show(voice, Some(self.number), 0);
                format!("SELECT {columns} FROM {table} WHERE {filter}")
            }
        }
    }
}

/// Words that Postgres reads as something else than a name (its reserved key words), and those that rules do.
const RESERVED: &str = " all analyse analyze and any array as asc asymmetric auth authorization between binary both case cast \
    check collate collation column concurrently constraint create cross current_catalog current_date current_role \
    current_schema current_time current_timestamp current_user default deferrable desc distinct do else end except exists \
    false fetch for foreign freeze from full grant group having ilike in initially inner intersect interval into is isnull \
    join lateral leading left like limit localtime localtimestamp natural new not notnull null offset old on only or order \
    outer overlaps placing primary references returning right select session_user similar some symmetric table tablesample \
    then to trailing true union unique user using variadic verbose when where window with ";

/// A name of a table or a column, quoted where it has to be.
pub(super) fn identifier(name: &str) -> String {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    let plain = name.starts_with(first)
        && name.chars().all(|c| first(c) || c.is_ascii_digit())
        && !RESERVED.contains(&format!(" {name} "));
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn one(mut parts: Vec<Said>, several: impl Fn(Vec<Said>) -> Said) -> Said {
    match parts.len() {
        1 => parts.remove(0),
        _ => several(parts),
    }
}

/// A part of a claim's path. Names of claims keep their case without quotes.
fn part(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty();
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A table as rules name it.
pub(super) fn table_text(table: &TableName) -> String {
    match table.schema.as_str() {
        "public" => identifier(&table.name),
        schema => format!("{}.{}", identifier(schema), identifier(&table.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_parentheses_that_are_needed_are_written() {
        let own = || Said::equal(Said::row("owner id"), Said::user());
        let open = || Said::row("open");
        let both = Said::all([own(), Said::any([open(), Said::Not(Box::new(open()))])]);
        assert_eq!(
            both.text(Voice::Read("t")),
            r#""owner id" = auth.user_id AND (open OR NOT open)"#
        );
        assert_eq!(
            Said::Not(Box::new(both)).text(Voice::Write("old.")),
            r#"NOT (old."owner id" = auth.user_id AND (old.open OR NOT old.open))"#
        );
        assert_eq!(Said::all([own(), own()]), own());
        assert_eq!(Said::all([own(), Said::never()]), Said::never());
        assert_eq!(Said::any([own(), Said::always()]).text(Voice::Read("t")), "true");
        let claim = Said::Claim(vec!["app_metadata".into(), "https://x".into()]);
        assert_eq!(claim.text(Voice::Read("t")), r#"auth.claims.app_metadata."https://x""#);
    }

    #[test]
    fn a_row_outside_of_a_select_is_named() {
        let table = TableName { schema: "app".into(), name: "Block".into() };
        let inner = Said::Column(Owner::Looked(1), "of".into());
        let filter = Said::equal(inner, Said::row("author"));
        let looked = Looked { table, number: 1, columns: Vec::new(), filter };
        let exists = Said::Not(Box::new(Said::Exists(Box::new(looked))));
        assert_eq!(
            exists.text(Voice::Read("post")),
            r#"NOT EXISTS (SELECT 1 FROM app."Block" WHERE of = post.author)"#
        );
    }
}
