//! `rowtide.toml` as a person writes it: tables, who sees which rows, who may write what, live documents. Reading it
//! checks its form and the language of its rules; whether tables and columns exist is checked when it
//! is compiled against a catalog.

mod documents;
mod mutations;
mod queries;
mod sent;
mod storage;
mod windows;
mod writes;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Spanned;

pub(crate) use self::documents::{DocumentDefinition, PublishingDefinition};
use self::documents::{DocumentEntry, document};
use self::mutations::{MutationEntry, call};
pub(crate) use self::queries::{QueryDefinition, SelectDefinition};
use self::queries::{QueryEntry, query};
pub(crate) use self::sent::SentColumns;
use self::storage::StorageEntry;
pub(crate) use self::windows::{LimitDefinition, WindowDefinition};
use self::writes::WritesEntry;
use crate::calls::PlannedCall;
use crate::catalog::TableName;
use crate::documents::DocumentProtocol;
use crate::error::{DefinitionError, DefinitionProblem};
use crate::judged_rule::{JudgedRule, Rows};
use crate::rule::{Name, Rule, parse};
use crate::sql_text::{Span, SqlText};
use crate::value::Int8Form;
use crate::write_rules::{InsertRule, RowLimit};

/// A definition whose rules have been read.
#[derive(Clone, Debug)]
pub struct Definition {
    pub(crate) file: String,
    pub(crate) text: String,
    pub(crate) tables: Vec<TableDefinition>,
    pub(crate) documents: Vec<DocumentDefinition>,
    /// The URL of their storage, as it is written.
    storage: Option<Name>,
    pub(crate) min_client: Option<i64>,
    pub(crate) int8: Int8Form,
    pub(crate) anonymous: bool,
    older_clients: bool,
    /// The role of the database that operations are done as, if they are done as one of their own.
    pub(crate) writes_as: Option<String>,
    /// The mutations that have names.
    pub(crate) calls: Vec<PlannedCall>,
    /// What clients may subscribe to.
    pub(crate) queries: Vec<QueryDefinition>,
}

#[derive(Clone, Debug)]
pub(crate) struct TableDefinition {
    pub(crate) name: TableName,
    /// As the entry calls it: what clients know it by.
    pub(crate) wire_name: String,
    pub(crate) span: Span,
    pub(crate) visible: Rule,
    pub(crate) visible_span: Span,
    pub(crate) sync: Sync,
    pub(crate) sent: SentColumns,
    pub(crate) immutable: Vec<Name>,
    pub(crate) readonly: Vec<Name>,
    pub(crate) insert: Option<InsertRule>,
    /// The columns that each update is about, if it names them, and its rule.
    pub(crate) updates: Vec<(Option<Vec<Name>>, JudgedRule)>,
    pub(crate) delete: Option<JudgedRule>,
}

/// Who is sent the rows of a table that they may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Everybody.
    Always,
    /// Who has subscribed to a query that selects them.
    OnDemand,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    app: App,
    #[serde(default)]
    auth: AuthEntry,
    #[serde(default)]
    tables: BTreeMap<Spanned<String>, Entry>,
    #[serde(default)]
    documents: BTreeMap<Spanned<String>, DocumentEntry>,
    storage: Option<StorageEntry>,
    writes: Option<WritesEntry>,
    #[serde(default)]
    mutations: BTreeMap<Spanned<String>, MutationEntry>,
    #[serde(default)]
    queries: BTreeMap<Spanned<String>, QueryEntry>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthEntry {
    #[serde(default)]
    anonymous: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct App {
    min_client: Option<i64>,
    older_clients: Option<Spanned<bool>>,
    int8: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    visible: Spanned<String>,
    sync: Option<Spanned<String>>,
    columns: sent::List,
    hidden: sent::List,
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
    limit: Vec<InsertLimit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InsertLimit {
    r#where: Spanned<String>,
    max: Spanned<i64>,
    code: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    columns: Option<Vec<Spanned<String>>>,
    allow: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    allow: Spanned<String>,
}

/// The tables that clients of the older protocol know.
pub const OLDER_TABLES: [&str; 3] = ["user", "file", "file_state"];

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
            return Err(fail(vec![DefinitionProblem::new(0..0, message, "too large")]));
        }
        let read: File = toml::from_str(text).map_err(|error| {
            let mut place = error.span().unwrap_or(0..0);
            if place.is_empty() {
                // Where something is missing, what stands before it is shown.
                place.start = text.floor_char_boundary(place.start.saturating_sub(1));
            }
            let message = error.message().to_owned();
            let help = "a definition has [app], [auth] with `anonymous`, and [tables.NAME] with `visible`, and may have \
                        `columns` or `hidden`, `sync`, `immutable`, `readonly`, [tables.NAME.insert], [[tables.NAME.update]] and \
                        [tables.NAME.delete]; a table of another schema than public is \
                        [tables.\"SCHEMA.NAME\"]. [documents.NAME] has `table`, `protocol`, `read` and \
                        `edit`, and may have `alive`, `schema`, `name`, `touched`, `restore`, `source`, \
                        and `published` with `slug`, `republish` and `publish_error`. [storage] has `url`, \
                        [writes] has `role`, [mutations.NAME] has `run` and may have `params`, and [queries.NAME] has \
                        [queries.NAME.select], where each TABLE has `where` and may have `order` and `limit`, and may have `params`";
            fail(vec![DefinitionProblem::new(place, message, "here").help(help)])
        })?;
        let storage = read.storage.as_ref().map(StorageEntry::url);
        let shown = read.storage.as_ref().map_or_else(|| text.to_owned(), |of| of.shown(text));
        let fail = |problems| DefinitionError::new(file, &shown, problems);
        let mut problems = Vec::new();
        let mut tables = Vec::new();
        for (key, entry) in read.tables {
            match table(text, &key, entry) {
                Ok(table) => tables.push(table),
                Err(found) => problems.extend(found),
            }
        }
        let mut documents = Vec::new();
        for (key, entry) in &read.documents {
            match document(text, key, entry) {
                Ok(document) => documents.push(document),
                Err(found) => problems.extend(found),
            }
        }
        let mut calls = Vec::new();
        for (key, entry) in &read.mutations {
            match call(text, key, entry) {
                Ok(call) => calls.push(call),
                Err(found) => problems.extend(found),
            }
        }
        let mut queries = Vec::new();
        for (key, entry) in &read.queries {
            match query(text, key, entry) {
                Ok(query) => queries.push(query),
                Err(found) => problems.extend(found),
            }
        }
        let writes_as = read.writes.map(WritesEntry::role).transpose();
        let writes_as = writes_as.unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        documents.sort_by_key(|document: &DocumentDefinition| document.span.start);
        if problems.is_empty() && tables.is_empty() {
            let help = "write an entry for each table, such as\n[tables.note]\n\
                        visible = '\"ownerId\" = auth.user_id'";
            let problem = DefinitionProblem::new(0..0, "the definition has no tables", "");
            problems.push(problem.help(help));
        }
        tables.sort_by_key(|table: &TableDefinition| table.span.start);
        let mut seen = BTreeSet::new();
        for table in &tables {
            if !seen.insert(&table.name) {
                let what = format!("table `{}` has two entries", table.name.name);
                let problem = DefinitionProblem::new(table.span.clone(), what, "the second one");
                problems.push(problem.help("`NAME` and `public.NAME` are the same table"));
            }
        }
        if let Some(asked) = read.app.older_clients.as_ref().filter(|asked| *asked.get_ref()) {
            let there = |name: &&&str| tables.iter().any(|table| table.wire_name == **name);
            let on_demand = |table: &&TableDefinition| {
                table.sync == Sync::OnDemand && OLDER_TABLES.contains(&&*table.wire_name)
            };
            if let Some(table) = tables.iter().find(on_demand) {
                let what = format!("older clients need all of `{}`", table.wire_name);
                let problem = DefinitionProblem::new(table.span.clone(), what, "synced on demand");
                problems.push(problem.help("take `sync` out, or `older_clients` out of [app]"));
            }
            let missing = OLDER_TABLES.iter().find(|name| !there(name));
            if let Some(missing) = missing {
                let what = format!("older clients know a table `{missing}`, which has no entry");
                let problem = DefinitionProblem::new(asked.span(), what, "asked for here");
                problems.push(
                    problem.help(format!(
                        "write [tables.{missing}] with `visible`, or leave this out"
                    )),
                );
            }
        }
        let int8 = int8_form(&read.app).unwrap_or_else(|problem| {
            problems.push(problem);
            Int8Form::Number
        });
        if !problems.is_empty() {
            return Err(fail(problems));
        }
        let (min_client, anonymous) = (read.app.min_client, read.auth.anonymous);
        let older_clients = read.app.older_clients.is_some_and(Spanned::into_inner);
        let file = file.to_owned();
        Ok(Definition {
            file,
            text: shown,
            tables,
            documents,
            storage,
            min_client,
            anonymous,
            int8,
            older_clients,
            writes_as,
            calls,
            queries,
        })
    }

    /// Whether clients of the older protocol are served, beside those of the present one.
    pub fn older_clients(&self) -> bool {
        self.older_clients
    }

    /// The kinds of live documents: what each is called, and what its clients speak.
    pub fn documents(&self) -> impl Iterator<Item = (&str, DocumentProtocol)> {
        self.documents.iter().map(|document| (document.name.as_str(), document.protocol))
    }

    /// The files of the application's own schemas: the kind of documents that each is for, and its path, which is relative
    /// to the definition's file.
    pub fn schemas(&self) -> impl Iterator<Item = (&str, &str)> {
        self.documents
            .iter()
            .filter_map(|document| Some((&*document.name, &*document.schema.as_ref()?.text)))
    }

    /// A problem of the schema of a kind of documents, at its place; none if the kind has none.
    pub fn schema_problem(&self, kind: &str, why: &str) -> Option<DefinitionProblem> {
        let document = self.documents.iter().find(|document| document.name == kind)?;
        let schema = document.schema.as_ref()?;
        let what = format!("the schema `{}` cannot be used: {why}", schema.text);
        let problem = DefinitionProblem::new(schema.span.clone(), what, "this file");
        Some(problem.help(
            "`rowtide-schema-bundle MODULE -o FILE.js` makes one of the application's package; the path is \
             relative to this file",
        ))
    }

    /// Every table that the catalog must be read for: those with an entry, in the order of the file,
    /// then those that only memberships name, then those of documents.
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
        for select in self.queries.iter().flat_map(|query| &query.selects) {
            select.rule.members(&mut |member| {
                let name = member.table.name();
                if !names.contains(&name) {
                    names.push(name);
                }
            });
        }
        for document in &self.documents {
            let looks_into = document.looks_into().map(|table| table.name());
            for name in std::iter::once(document.table.clone()).chain(looks_into) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// Problems of this definition, to be shown in its file.
    pub fn error(&self, problems: Vec<DefinitionProblem>) -> DefinitionError {
        DefinitionError::new(&self.file, &self.text, problems)
    }
}

/// How `int8` of rows are written.
fn int8_form(app: &App) -> Result<Int8Form, DefinitionProblem> {
    let Some(written) = &app.int8 else { return Ok(Int8Form::Number) };
    let problem = |what: &str, label: &str| DefinitionProblem::new(written.span(), what, label);
    match written.get_ref().as_str() {
        "number" => Ok(Int8Form::Number),
        "string" if app.older_clients.as_ref().is_some_and(|asked| *asked.get_ref()) => {
            let problem = problem("older clients take an `int8` as a number", "a string");
            Err(problem.help("leave it out, or take `older_clients` out of [app]"))
        }
        "string" => Ok(Int8Form::String),
        _ => {
            let problem = problem("an `int8` is written in one of two forms", "neither");
            Err(problem.help("write \"number\" or \"string\""))
        }
    }
}

fn table(
    text: &str,
    key: &Spanned<String>,
    entry: Entry,
) -> Result<TableDefinition, Vec<DefinitionProblem>> {
    let (schema, name) = key.get_ref().split_once('.').unwrap_or(("public", key.get_ref()));
    let mut problems = Vec::new();
    if schema.is_empty() || name.is_empty() {
        let problem =
            DefinitionProblem::new(key.span(), "this is not a table", "a name is missing");
        problems
            .push(problem.help("write NAME, or \"SCHEMA.NAME\" for another schema than public"));
    }
    let visible = sql_text(text, &entry.visible);
    let rule = parse(&visible, name).unwrap_or_else(|found| {
        problems.extend(found);
        Rule::Constant(None)
    });
    let sync = sync(entry.sync.as_ref()).unwrap_or_else(|problem| {
        problems.push(problem);
        Sync::Always
    });
    let sent = SentColumns::read(&entry.columns, &entry.hidden).unwrap_or_else(|problem| {
        problems.push(problem);
        SentColumns::All
    });
    let mut rules = Rules { text, problems };
    let insert = entry.insert.as_ref().and_then(|insert| rules.insert(insert));
    let updates = entry.update.iter().filter_map(|update| rules.update(update)).collect();
    let delete =
        entry.delete.as_ref().and_then(|delete| rules.rule(&delete.allow, Rows::OldAndNew));
    if !rules.problems.is_empty() {
        return Err(rules.problems);
    }
    Ok(TableDefinition {
        name: TableName { schema: schema.to_owned(), name: name.to_owned() },
        wire_name: key.get_ref().clone(),
        span: key.span(),
        visible: rule,
        visible_span: visible.span(),
        sync,
        sent,
        immutable: names(&entry.immutable),
        readonly: names(&entry.readonly),
        insert,
        updates,
        delete,
    })
}

fn sync(written: Option<&Spanned<String>>) -> Result<Sync, DefinitionProblem> {
    let Some(written) = written else { return Ok(Sync::Always) };
    match written.get_ref().as_str() {
        "always" => Ok(Sync::Always),
        "on_demand" => Ok(Sync::OnDemand),
        _ => {
            let what = "a table is synced in one of two ways";
            let problem = DefinitionProblem::new(written.span(), what, "neither");
            Err(problem.help("write \"always\" or \"on_demand\""))
        }
    }
}

fn names(columns: &[Spanned<String>]) -> Vec<Name> {
    let name =
        |column: &Spanned<String>| Name { text: column.get_ref().clone(), span: column.span() };
    columns.iter().map(name).collect()
}

/// Reads the rules for writing. What they ask is for Postgres to judge; here only that they are SQL,
/// and which claims they name.
struct Rules<'a> {
    text: &'a str,
    problems: Vec<DefinitionProblem>,
}

impl Rules<'_> {
    fn rule(&mut self, written: &Spanned<String>, rows: Rows) -> Option<JudgedRule> {
        let rule = JudgedRule::read(sql_text(self.text, written), rows);
        rule.map_err(|problem| self.problems.push(problem)).ok()
    }

    fn insert(&mut self, insert: &Insert) -> Option<InsertRule> {
        let allow = self.rule(&insert.allow, Rows::OldAndNew);
        let mut limits = Vec::new();
        for limit in &insert.limit {
            let max = *limit.max.get_ref();
            if max < 0 {
                let what = "a limit cannot be negative";
                self.problems.push(DefinitionProblem::new(limit.max.span(), what, "here"));
            }
            let code = limit.code.get_ref();
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            if code.is_empty() || code.len() > 64 || !code.bytes().all(plain) {
                let message = "a code is 1 to 64 of a-z 0-9 _";
                self.problems.push(DefinitionProblem::new(limit.code.span(), message, "here"));
            }
            if let Some(counted) = self.rule(&limit.r#where, Rows::OfTable) {
                limits.push(RowLimit { counted, max, code: code.clone() });
            }
        }
        Some(InsertRule { allow: allow?, limits })
    }

    fn update(&mut self, update: &Update) -> Option<(Option<Vec<Name>>, JudgedRule)> {
        if update.columns.as_ref().is_some_and(Vec::is_empty) {
            let what = "a rule for no columns allows nothing";
            let problem = DefinitionProblem::new(update.allow.span(), what, "the rule");
            let help = "name columns, or leave `columns` out for all of them";
            self.problems.push(problem.help(help));
        }
        Some((update.columns.as_deref().map(names), self.rule(&update.allow, Rows::OldAndNew)?))
    }
}

/// A TOML string with its place, so that places in the SQL can be shown in the file.
fn sql_text(file: &str, value: &Spanned<String>) -> SqlText {
    SqlText::new(file, value.span(), value.get_ref())
}

/// What an entry is called in a header of the file: `[tables.KEY]`.
pub(crate) fn toml_key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    match !name.is_empty() && name.bytes().all(is_bare) {
        true => name.to_owned(),
        false => toml_string(name),
    }
}

/// A basic string of TOML.
pub(crate) fn toml_string(text: &str) -> String {
    // JSON's escapes are TOML's, but for one character.
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
