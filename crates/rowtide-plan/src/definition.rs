//! `rowtide.toml` as a person writes it: tables, who sees which rows, who may write what. Reading it
//! checks its form and the language of its rules; whether tables and columns exist is checked when it
//! is compiled against a catalog.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Spanned;

use crate::error::{DefinitionError, Problem};
use crate::rule::{Rule, Span, SqlText, parse};

/// A definition whose rules have been read.
#[derive(Clone, Debug)]
pub struct Definition {
    pub(crate) file: String,
    pub(crate) text: String,
    pub(crate) tables: Vec<TableDefinition>,
    pub(crate) min_client: Option<i64>,
}

/// A table by its schema and name, as Postgres has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// `public` where the definition names none.
    pub schema: String,
    /// Without quotes.
    pub name: String,
}

#[derive(Clone, Debug)]
pub(crate) struct TableDefinition {
    pub(crate) name: TableName,
    pub(crate) span: Span,
    pub(crate) visible: Rule,
    pub(crate) visible_span: Span,
    /// Columns that the entry names outside rules.
    pub(crate) columns: Vec<(String, Span)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    app: App,
    #[serde(default)]
    tables: BTreeMap<Spanned<String>, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct App {
    min_client: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    visible: Spanned<String>,
    #[serde(default)]
    immutable: Vec<Spanned<String>>,
    #[serde(default)]
    readonly: Vec<Spanned<String>>,
    insert: Option<Insert>,
    #[serde(default)]
    update: Vec<Update>,
    delete: Option<Delete>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Insert {
    allow: Spanned<String>,
    #[serde(default)]
    limit: Vec<Limit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    r#where: Spanned<String>,
    max: Spanned<i64>,
    code: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    #[serde(default)]
    columns: Vec<Spanned<String>>,
    allow: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    allow: Spanned<String>,
}

/// The largest definition, in bytes.
const MAX_BYTES: usize = 1 << 20;

impl Definition {
    /// Reads the text of a definition; `file` is its name, for errors.
    ///
    /// # Errors
    /// All that is wrong with it, each with its place.
    pub fn parse(file: &str, text: &str) -> Result<Definition, DefinitionError> {
        let fail = |problems| DefinitionError::new(file, text, problems);
        if text.len() > MAX_BYTES {
            let message = format!("the definition is larger than {MAX_BYTES} bytes");
            return Err(fail(vec![Problem::new(0..0, message, "too large")]));
        }
        let read: File = toml::from_str(text).map_err(|error| {
            let mut place = error.span().unwrap_or(0..0);
            if place.is_empty() {
                // Where something is missing, what stands before it is shown.
                place.start = text.floor_char_boundary(place.start.saturating_sub(1));
            }
            let message = error.message().to_owned();
            let help = "a definition has [app] and [tables.NAME] with `visible`, and may have \
                        `immutable`, `readonly`, [tables.NAME.insert], [[tables.NAME.update]] and \
                        [tables.NAME.delete]; a table of another schema than public is \
                        [tables.\"SCHEMA.NAME\"]";
            fail(vec![Problem::new(place, message, "here").help(help)])
        })?;
        let mut problems = Vec::new();
        let mut tables = Vec::new();
        for (key, entry) in read.tables {
            match table(text, &key, entry) {
                Ok(table) => tables.push(table),
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() && tables.is_empty() {
            let help = "write an entry for each table, such as\n[tables.note]\n\
                        visible = '\"ownerId\" = auth.user_id'";
            let problem = Problem::new(0..0, "the definition has no tables", "");
            problems.push(problem.help(help));
        }
        tables.sort_by_key(|table: &TableDefinition| table.span.start);
        let mut seen = BTreeSet::new();
        for table in &tables {
            if !seen.insert(&table.name) {
                let what = format!("table `{}` has two entries", table.name.name);
                let problem = Problem::new(table.span.clone(), what, "the second one");
                problems.push(problem.help("`NAME` and `public.NAME` are the same table"));
            }
        }
        if !problems.is_empty() {
            return Err(fail(problems));
        }
        let min_client = read.app.min_client;
        Ok(Definition { file: file.to_owned(), text: text.to_owned(), tables, min_client })
    }

    /// Every table that the catalog must be read for: those with an entry, in the order of the file,
    /// then those that only memberships name.
    pub fn tables(&self) -> Vec<TableName> {
        let mut names: Vec<TableName> =
            self.tables.iter().map(|table| table.name.clone()).collect();
        for table in &self.tables {
            table.visible.members(&mut |member| {
                let name = member.table.name();
                if !names.contains(&name) {
                    names.push(name);
                }
            });
        }
        names
    }

    pub(crate) fn error(&self, problems: Vec<Problem>) -> DefinitionError {
        DefinitionError::new(&self.file, &self.text, problems)
    }
}

fn table(text: &str, key: &Spanned<String>, entry: Entry) -> Result<TableDefinition, Vec<Problem>> {
    let (schema, name) = key.get_ref().split_once('.').unwrap_or(("public", key.get_ref()));
    let mut problems = Vec::new();
    if schema.is_empty() || name.is_empty() {
        let problem = Problem::new(key.span(), "this is not a table", "a name is missing");
        problems
            .push(problem.help("write NAME, or \"SCHEMA.NAME\" for another schema than public"));
    }
    let visible = sql_text(text, &entry.visible);
    let rule = parse(&visible, name).unwrap_or_else(|found| {
        problems.extend(found);
        Rule::Constant(None)
    });
    let limits = entry.insert.iter().flat_map(|insert| &insert.limit);
    let allows = (entry.insert.iter().map(|insert| &insert.allow))
        .chain(entry.update.iter().map(|update| &update.allow))
        .chain(entry.delete.iter().map(|delete| &delete.allow))
        .chain(limits.clone().map(|limit| &limit.r#where));
    for allow in allows {
        // What they ask is for Postgres to judge; here only that they are SQL.
        if let Err(problem) = sql_text(text, allow).expression() {
            problems.push(problem);
        }
    }
    for limit in limits {
        if *limit.max.get_ref() < 0 {
            problems.push(Problem::new(limit.max.span(), "a limit cannot be negative", "here"));
        }
        let code = limit.code.get_ref();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if code.is_empty() || code.len() > 64 || !code.bytes().all(plain) {
            let message = "a code is 1 to 64 of a-z 0-9 _";
            problems.push(Problem::new(limit.code.span(), message, "here"));
        }
    }
    let columns = (entry.immutable.iter())
        .chain(&entry.readonly)
        .chain(entry.update.iter().flat_map(|update| &update.columns))
        .map(|column| (column.get_ref().clone(), column.span()))
        .collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(TableDefinition {
        name: TableName { schema: schema.to_owned(), name: name.to_owned() },
        span: key.span(),
        visible: rule,
        visible_span: visible.span(),
        columns,
    })
}

/// A TOML string with its place, so that places in the SQL can be shown in the file.
fn sql_text(file: &str, value: &Spanned<String>) -> SqlText {
    SqlText::new(file, value.span(), value.get_ref())
}
