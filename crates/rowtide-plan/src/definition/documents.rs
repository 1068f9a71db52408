//! `[documents.NAME]` as a person writes it. Its form is checked here; whether table and columns exist, and have fitting
//! types, is checked when it is compiled, and what the rules ask is for Postgres to judge.

use serde::Deserialize;
use toml::Spanned;

use crate::catalog::TableName;
use crate::documents::DocumentProtocol;
use crate::error::{DefinitionProblem, did_you_mean};
use crate::judged_rule::{JudgedRule, Rows};
use crate::rule::Name;
use crate::sql_text::{Span, SqlText};

#[derive(Clone, Debug)]
pub(crate) struct DocumentDefinition {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) table: TableName,
    pub(crate) table_span: Span,
    pub(crate) protocol: DocumentProtocol,
    pub(crate) read: JudgedRule,
    pub(crate) edit: JudgedRule,
    pub(crate) alive: Option<JudgedRule>,
    /// The file of the application's own schema, as it is written.
    pub(crate) schema: Option<Name>,
    /// The column that the document's own name follows.
    pub(crate) title: Option<Name>,
    /// The column that says when it was saved.
    pub(crate) touched: Option<Name>,
    /// Who sees its history and goes back in it.
    pub(crate) restore: Option<JudgedRule>,
    pub(crate) publishing: Option<PublishingDefinition>,
    /// The column that says what it begins as.
    pub(crate) source: Option<Name>,
}

/// The columns that say whether and how a document is published.
#[derive(Clone, Debug)]
pub(crate) struct PublishingDefinition {
    pub(crate) published: Name,
    pub(crate) slug: Name,
    pub(crate) republish: Option<Name>,
    pub(crate) error: Option<Name>,
}

impl DocumentDefinition {
    /// The tables that its rules look into.
    pub(crate) fn looks_into(&self) -> impl Iterator<Item = &crate::rule::TableReference> {
        let rules = self.alive.iter().chain([&self.read, &self.edit]).chain(&self.restore);
        rules.flat_map(JudgedRule::tables)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DocumentEntry {
    table: Spanned<String>,
    protocol: Spanned<String>,
    read: Spanned<String>,
    edit: Spanned<String>,
    alive: Option<Spanned<String>>,
    schema: Option<Spanned<String>>,
    name: Option<Spanned<String>>,
    touched: Option<Spanned<String>>,
    restore: Option<Spanned<String>>,
    published: Option<Spanned<String>>,
    slug: Option<Spanned<String>>,
    republish: Option<Spanned<String>>,
    publish_error: Option<Spanned<String>>,
    source: Option<Spanned<String>>,
}

const PROTOCOLS: [DocumentProtocol; 2] = [DocumentProtocol::Tlsync, DocumentProtocol::Yjs];

/// Names that have a meaning of their own in paths.
const RESERVED: [&str; 1] = ["publish"];

pub(super) fn document(
    text: &str,
    key: &Spanned<String>,
    entry: &DocumentEntry,
) -> Result<DocumentDefinition, Vec<DefinitionProblem>> {
    let mut problems = Vec::new();
    let name = key.get_ref();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > 40 || !name.bytes().all(plain) {
        let what = "this cannot be the name of documents";
        let problem = DefinitionProblem::new(key.span(), what, "it becomes a part of paths");
        problems.push(problem.help("write 1 to 40 of a-z A-Z 0-9 _ -"));
    }
    if RESERVED.contains(&name.as_str()) {
        let what = format!("documents cannot be called `{name}`");
        let problem = DefinitionProblem::new(key.span(), what, "the path has another meaning");
        problems.push(problem.help("choose another name"));
    }
    let table = entry.table.get_ref();
    let (schema, table) = table.split_once('.').unwrap_or(("public", table));
    if schema.is_empty() || table.is_empty() {
        let what = "this is not a table";
        let problem = DefinitionProblem::new(entry.table.span(), what, "a name is missing");
        problems.push(problem.help("write NAME, or SCHEMA.NAME for another schema than public"));
    }
    let written = entry.protocol.get_ref();
    let protocol = PROTOCOLS.into_iter().find(|protocol| protocol.as_str() == written);
    if protocol.is_none() {
        let what = format!("there is no protocol `{written}`");
        let problem = DefinitionProblem::new(entry.protocol.span(), what, "unknown protocol");
        let known = PROTOCOLS.map(DocumentProtocol::as_str);
        let help = match did_you_mean(written, known) {
            Some(close) => format!("did you mean \"{close}\"?"),
            None => "write \"tlsync\" or \"yjs\"".to_owned(),
        };
        problems.push(problem.help(help));
    }
    if let (Some(DocumentProtocol::Yjs), Some(title)) = (protocol, &entry.name) {
        let what = "documents of Yjs have no name of their own";
        let problem = DefinitionProblem::new(title.span(), what, "for tlsync alone");
        problems.push(problem.help("leave `name` out; clients read it from the row"));
    }
    if let (Some(DocumentProtocol::Yjs), Some(schema)) = (protocol, &entry.schema) {
        let what = "documents of Yjs have no schema";
        let problem = DefinitionProblem::new(schema.span(), what, "for tlsync alone");
        problems.push(problem.help("leave `schema` out"));
    }
    let published = publishing(entry).map_err(|problem| problems.push(problem)).ok().flatten();
    let mut rule = |written: &Spanned<String>| {
        let sql = SqlText::new(text, written.span(), written.get_ref());
        let rule = JudgedRule::read(sql, Rows::OfTable);
        rule.map_err(|problem| problems.push(problem)).ok()
    };
    let (read, edit) = (rule(&entry.read), rule(&entry.edit));
    let alive = entry.alive.as_ref().and_then(&mut rule);
    let restore = entry.restore.as_ref().and_then(rule);
    let (Some(protocol), Some(read), Some(edit), true) =
        (protocol, read, edit, problems.is_empty())
    else {
        return Err(problems);
    };
    Ok(DocumentDefinition {
        name: name.clone(),
        span: key.span(),
        table: TableName { schema: schema.to_owned(), name: table.to_owned() },
        table_span: entry.table.span(),
        protocol,
        read,
        edit,
        alive,
        schema: entry.schema.as_ref().map(column),
        title: entry.name.as_ref().map(column),
        touched: entry.touched.as_ref().map(column),
        restore,
        publishing: published,
        source: entry.source.as_ref().map(column),
    })
}

fn column(written: &Spanned<String>) -> Name {
    Name { text: written.get_ref().clone(), span: written.span() }
}

/// The columns of publishing, which need each other: nothing is published without an address, nor one given for nothing.
fn publishing(entry: &DocumentEntry) -> Result<Option<PublishingDefinition>, DefinitionProblem> {
    let (published, slug) = (entry.published.as_ref(), entry.slug.as_ref());
    if let (Some(published), Some(slug)) = (published, slug) {
        return Ok(Some(PublishingDefinition {
            published: column(published),
            slug: column(slug),
            republish: entry.republish.as_ref().map(column),
            error: entry.publish_error.as_ref().map(column),
        }));
    }
    if let Some(published) = published {
        let what = "what is published needs an address";
        let problem = DefinitionProblem::new(published.span(), what, "without `slug`");
        return Err(
            problem.help("write `slug = \"COLUMN\"`, a text column with the address of each")
        );
    }
    let keys = [
        ("slug", slug),
        ("republish", entry.republish.as_ref()),
        ("publish_error", entry.publish_error.as_ref()),
    ];
    let Some((key, written)) = keys.into_iter().find_map(|(key, of)| Some((key, of?))) else {
        return Ok(None);
    };
    let what = format!("`{key}` says nothing without `published`");
    let problem = DefinitionProblem::new(written.span(), what, "nothing is published");
    Err(problem.help("write `published = \"COLUMN\"`, a boolean column, or leave it out"))
}
