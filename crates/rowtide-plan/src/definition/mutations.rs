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
    if cuts(type_name) {
        return problem(
            "values would be cut to this type",
            "write the type without a length, as \"text\", \"numeric\", \"varbit\" or \"interval\", and check the value in \
             `run`",
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

/// Whether Postgres cuts a value, or rounds it, to make it one of the type, and says nothing: it does where a length is written,
/// and where a name stands for a length of 1.
fn cuts(type_name: &str) -> bool {
    let name = type_name.to_ascii_lowercase();
    let mut words =
        name.split(|c: char| c.is_whitespace() || c == '[').filter(|word| !word.is_empty());
    let is_one = match words.next() {
        Some("char" | "character" | "nchar" | "bit") => words.next() != Some("varying"),
        Some("national") => true,
        Some("interval") => words.next().is_some_and(|field| !field.ends_with(']')),
        _ => false,
    };
    is_one || name.contains('(') && !name.contains('"')
}

/// The text of a literal; the inner `None` for null.
pub(super) fn literal(written: &str) -> Option<Option<String>> {
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
            ("1a = 'text'", "SELECT 1", "this cannot be the name of a parameter"),
            ("a = 'varchar(3)'", "SELECT params.a", "values would be cut to this type"),
            ("a = 'numeric (4,1)[]'", "SELECT params.a", "values would be cut to this type"),
            (
                "a = 'timestamp(0) with time zone'",
                "SELECT params.a",
                "values would be cut to this type",
            ),
            ("a = 'char'", "SELECT params.a", "values would be cut to this type"),
            ("a = 'Character[]'", "SELECT params.a", "values would be cut to this type"),
            ("a = 'interval year'", "SELECT params.a", "values would be cut to this type"),
            ("a = 'int4'", "SELECT 'a' ||--params.a\n 'b'", "Postgres reads this as a comment"),
        ] {
            assert_eq!(wrong(&mutation(params, run)), [said], "{params} {run}");
        }
        assert_eq!(
            wrong("[mutations.'a b']\nrun = 'SELECT 1'"),
            ["this cannot be the name of a mutation"]
        );
    }

    #[test]
    fn types_that_cut_no_value_are_taken() {
        for type_name in
            ["character varying", "interval[]", "bit varying[]", "bpchar", "\"a (b)\"", "text[]"]
        {
            let text =
                mutation(&format!("a = '{type_name}'"), "SELECT params.a -- why\n+ /* b */ 1");
            assert_eq!(wrong(&text), [""; 0], "{type_name}");
        }
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
        let sql = "SELECT f(($2::int4), /* params.x */ $4, ($1::text), ($2::int4) + 1, ($3::text)) -- auth.x\n";
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
