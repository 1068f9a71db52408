//! `[queries.NAME]` as a person writes it: the parameters that a subscription gives, and which rows of which tables it
//! selects. What is selected is a rule of the language of read rules; it says what a client wants, and never what it may see.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::mutations::literal;
use super::sql_text;
use super::windows::{WindowDefinition, window};
use crate::error::DefinitionProblem;
use crate::queries::{ParamType, QueryParam};
use crate::rule::{QueryScope, Rule, parse_of_query};
use crate::sql_text::Span;

/// The longest name of a query or a parameter, in bytes.
const MAX_NAME_BYTES: usize = 63;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueryEntry {
    #[serde(default)]
    params: BTreeMap<Spanned<String>, Spanned<String>>,
    select: BTreeMap<Spanned<String>, SelectEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SelectEntry {
    r#where: Spanned<String>,
    order: Option<Spanned<String>>,
    limit: Option<Spanned<toml::Value>>,
}

/// A query whose rules have been read.
#[derive(Clone, Debug)]
pub(crate) struct QueryDefinition {
    pub(crate) name: String,
    /// In the order of their names, each with its place.
    pub(crate) params: Vec<(QueryParam, Span)>,
    pub(crate) selects: Vec<SelectDefinition>,
}

/// What a query selects of one table.
#[derive(Clone, Debug)]
pub(crate) struct SelectDefinition {
    /// As clients know the table, and the place.
    pub(crate) table: String,
    pub(crate) span: Span,
    pub(crate) rule: Rule,
    pub(crate) rule_span: Span,
    /// If only the first rows are selected.
    pub(crate) window: Option<WindowDefinition>,
}

/// Reads an entry.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn query(
    text: &str,
    key: &Spanned<String>,
    entry: &QueryEntry,
) -> Result<QueryDefinition, Vec<DefinitionProblem>> {
    let mut problems = Vec::new();
    let mut name = |name: &Spanned<String>, of: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let text = name.get_ref();
        let is_number = of == "parameter" && text.starts_with(|c: char| c.is_ascii_digit());
        if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(plain) || is_number {
            let what = format!("this cannot be the name of a {of}");
            let problem = DefinitionProblem::new(name.span(), what, "this name");
            let most = MAX_NAME_BYTES;
            let help =
                format!("write 1 to {most} of a-z A-Z 0-9 _; a parameter begins with no digit");
            problems.push(problem.help(help));
        }
    };
    name(key, "query");
    entry.params.keys().for_each(|key| name(key, "parameter"));
    if entry.select.is_empty() {
        let what = "a query selects rows of some table";
        let problem = DefinitionProblem::new(key.span(), what, "this one of none");
        let help =
            format!("write [queries.{}.select] with `TABLE = {{ where = '…' }}`", key.get_ref());
        problems.push(problem.help(help));
    }
    let mut params = Vec::new();
    for (name, written) in &entry.params {
        match param(name, written) {
            Ok(param) => params.push((param, written.span())),
            Err(problem) => problems.push(problem),
        }
    }
    let scope = QueryScope {
        name: key.get_ref(),
        params: entry.params.keys().map(|key| key.get_ref().as_str()).collect(),
    };
    let mut selects = Vec::new();
    for (table, entry) in &entry.select {
        let sql = sql_text(text, &entry.r#where);
        let name = table.get_ref().rsplit('.').next().unwrap_or_default();
        let of = window(text, name, entry.order.as_ref(), entry.limit.as_ref(), &scope);
        match (parse_of_query(&sql, name, &scope), of) {
            (Ok(rule), Ok(window)) => selects.push(SelectDefinition {
                table: table.get_ref().clone(),
                span: table.span(),
                rule,
                rule_span: sql.span(),
                window,
            }),
            (rule, window) => {
                problems.extend(rule.err().into_iter().chain(window.err()).flatten());
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(QueryDefinition { name: key.get_ref().clone(), params, selects })
}

/// A type, and a default behind an equals sign.
fn param(
    name: &Spanned<String>,
    written: &Spanned<String>,
) -> Result<QueryParam, DefinitionProblem> {
    let problem = |what: String, help: &str| {
        Err(DefinitionProblem::new(written.span(), what, "this parameter").help(help))
    };
    let (type_name, default) = match written.get_ref().split_once('=') {
        Some((type_name, default)) => (type_name.trim(), Some(default.trim())),
        None => (written.get_ref().trim(), None),
    };
    let Some(kind) = ParamType::of_name(type_name) else {
        return problem(
            format!("a parameter of a query cannot be of type `{type_name}`"),
            "write \"text\" (also for labels of enums), \"uuid\", \"int2\", \"int4\", \"int8\", \"float8\", \"numeric\", \"bool\", \
             \"date\", \"time\", \"timestamp\", \"timestamptz\" or \"bytea\", or one of them with [] for an array",
        );
    };
    let default = match default {
        None => None,
        Some(written) => {
            let text = literal(written);
            let value = text.as_ref().and_then(|text| kind.default(text.as_deref()));
            match value {
                Some(value) => Some(value),
                None => {
                    let what = format!("this is no default of type `{type_name}`");
                    return problem(what, &kind.example_of_default());
                }
            }
        }
    };
    Ok(QueryParam { name: name.get_ref().clone(), kind, default })
}
