//! `[mutations.NAME]` as a person writes it: what the mutation takes, and the statement that it runs.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use crate::calls::{CallParam, PlannedCall};
use crate::error::DefinitionProblem;
use crate::sql_text::SqlText;

/// The longest name of a mutation or a parameter, in bytes.
const MAX_NAME_BYTES: usize = 63;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MutationEntry {
    #[serde(default)]
    params: BTreeMap<Spanned<String>, Spanned<String>>,
    run: Spanned<String>,
}

/// Reads an entry.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn call(
    text: &str,
    key: &Spanned<String>,
    entry: &MutationEntry,
) -> Result<PlannedCall, Vec<DefinitionProblem>> {
    let mut problems = Vec::new();
    let mut name = |name: &Spanned<String>, of: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let text = name.get_ref();
        if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(plain) {
            let what = format!("this cannot be the name of a {of}");
            let problem = DefinitionProblem::new(name.span(), what, "this name");
            problems.push(problem.help(format!("write 1 to {MAX_NAME_BYTES} of a-z A-Z 0-9 _")));
        }
    };
    name(key, "mutation");
    entry.params.keys().for_each(|key| name(key, "parameter"));
    let mut params = Vec::new();
    for (name, written) in &entry.params {
        match param(name, written) {
            Ok(param) => params.push(param),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let run = SqlText::new(text, entry.run.span(), entry.run.get_ref());
    PlannedCall::read(key.get_ref(), params, run)
}

/// A type, and a default behind an equals sign.
fn param(
    name: &Spanned<String>,
    written: &Spanned<String>,
) -> Result<CallParam, DefinitionProblem> {
    let problem = |what: &str, help: &str| {
        Err(DefinitionProblem::new(written.span(), what, "this parameter").help(help))
    };
    let (type_name, default) = match written.get_ref().split_once('=') {
        Some((type_name, default)) => (type_name.trim(), Some(default.trim())),
        None => (written.get_ref().trim(), None),
    };
    // It becomes a part of the statement. Which types there are Postgres says.
    let plain = |c: char| c.is_alphanumeric() || " _.,()[]\"".contains(c);
    if type_name.is_empty() || !type_name.chars().all(plain) {
        return problem(
            "this is no type",
            "write a type of Postgres, such as \"text\" or \"int4 = 5\"",
        );
    }
    let Some(default) = default.map(literal).map_or(Some(None), |read| read.map(Some)) else {
        return problem(
            "this is no default",
            "write a number, true, false, null, or text in single quotes: \"text = 'new'\"",
        );
    };
    Ok(CallParam {
        name: name.get_ref().clone(),
        type_name: type_name.to_owned(),
        place: written.span(),
        default,
        kind: None,
    })
}

/// The text of a literal; the inner `None` for null.
fn literal(written: &str) -> Option<Option<String>> {
    if let Some(inner) = written.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        let text = inner.replace("''", "\u{1}");
        return (!text.contains('\'') && !text.contains('\0'))
            .then(|| Some(text.replace('\u{1}', "'")));
    }
    match written.to_ascii_lowercase().as_str() {
        "null" => Some(None),
        "true" | "false" => Some(Some(written.to_ascii_lowercase())),
        _ => written.parse::<f64>().is_ok_and(f64::is_finite).then(|| Some(written.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use crate::definition::Definition;

    /// What is wrong with these entries: the messages, in the order of the file.
    fn wrong(entries: &str) -> Vec<String> {
        let text = format!("[tables.note]\nvisible = 'true'\n{entries}\n");
        match Definition::parse("rowtide.toml", &text) {
            Ok(_) => Vec::new(),
            Err(error) => error.problems.into_iter().map(|problem| problem.message).collect(),
        }
    }

    fn mutation(params: &str, run: &str) -> String {
        format!("[mutations.m]\nparams = {{ {params} }}\nrun = '''{run}'''")
    }

    #[test]
    fn what_can_be_no_mutation_is_told() {
        for (params, run, said) in [
            ("", "SELECT 1; SELECT 2", "a mutation runs one statement"),
            ("", "COMMIT", "this is no statement that a mutation can run"),
            ("", "set role postgres", "this is no statement that a mutation can run"),
            ("", "", "this is no statement that a mutation can run"),
            ("", "\"SELECT\" 1", "this is no statement that a mutation can run"),
            ("", "SELECT $1", "parameters have names"),
            ("", "SELECT 'a", "this is not SQL"),
            ("", "SELECT params.a", "there is no parameter `a`"),
            ("", "SELECT auth.id", "`auth` has no such field"),
            ("a = 'text'", "SELECT 'params.a'", "`run` does not use the parameter `a`"),
            ("a = 'text'", "SELECT x.params.a", "`run` does not use the parameter `a`"),
            ("a = ''", "SELECT params.a", "this is no type"),
            ("a = 'text; DROP TABLE x'", "SELECT params.a", "this is no type"),
            ("a = 'text = ='", "SELECT params.a", "this is no default"),
            ("a = 'int4 = now()'", "SELECT params.a", "this is no default"),
            ("a = \"text = 'it's'\"", "SELECT params.a", "this is no default"),
            ("a = 'int4 = nan'", "SELECT params.a", "this is no default"),
            ("'a-b' = 'text'", "SELECT 1", "this cannot be the name of a parameter"),
        ] {
            assert_eq!(wrong(&mutation(params, run)), [said], "{params} {run}");
        }
        assert_eq!(
            wrong("[mutations.'a b']\nrun = 'SELECT 1'"),
            ["this cannot be the name of a mutation"]
        );
    }

    #[test]
    fn a_statement_is_asked_about_with_its_types() {
        let text = mutation(
            "n = 'int4 = 5', b = \"text = 'it''s'\", z = 'text = null'",
            "SELECT f(params.n, /* params.x */ auth.user_id, params.b, params.n + 1, params.z) -- auth.x\n;",
        );
        let text = format!("[tables.note]\nvisible = 'true'\n{text}\n");
        let definition = Definition::parse("rowtide.toml", &text).expect("it is one");
        let call = &definition.calls[0];
        let sql =
            "SELECT f($2::int4, /* params.x */ $4, $1::text, $2::int4 + 1, $3::text) -- auth.x\n";
        assert_eq!(call.ask(), sql);
        let defaults: Vec<(&str, &str)> =
            call.defaults().map(|(text, type_name, _)| (text, type_name)).collect();
        assert_eq!(defaults, [("it's", "text"), ("5", "int4")]);
    }

    #[test]
    fn a_role_is_one_that_postgres_can_have() {
        for role in ["", "none", "public", &"x".repeat(64), "a\\u0000b"] {
            let wrong = wrong(&format!("[writes]\nrole = \"{role}\""));
            assert_eq!(wrong, ["no role of Postgres has this name"], "{role}");
        }
        assert_eq!(wrong("[writes]\nrole = \"Some \\\"one\\\"\""), [""; 0]);
    }
}
