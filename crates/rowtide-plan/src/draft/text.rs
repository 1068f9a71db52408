//! The text of a draft: TOML that a person reads, with what it was made of as comments. Each rule is tried in the
//! definition as it stands so far, so that the whole is one that compiles.

use std::fmt::Write;

use super::rules::{Come, Missing, Policies, Side};
use super::said::{Said, Voice, table_text};
use super::suggest::{Suggestion, Suggestions};
use super::{Draft, DraftFacts, DraftTable, PolicyCommand, RefusedWrites, RowPolicy, told_apart};
use crate::catalog::{Catalog, TableName};
use crate::check::plan_once_set_up;
use crate::definition::{Definition, toml_key, toml_string};

/// How long a line of a rule becomes before each alternative has its own.
const LINE: usize = 100;

/// Writes the draft. `source` says where the tables are, and `refused` has the tables whose rules for writing Postgres
/// does not take: they are left out, with what it says.
pub fn draft(
    facts: &DraftFacts,
    catalog: &Catalog,
    refused: &RefusedWrites,
    source: &str,
) -> Draft {
    let (tables, without_key) = told_apart(facts, catalog);
    let mut text = head(source);
    let strangers = tables.iter().flat_map(|table| &table.policies).any(is_for_strangers);
    if strangers {
        text += "\n# Policies for the role anon let those read who are not signed in. To let clients in that have no token:\n\
                 # [auth]\n# anonymous = true\n";
    }
    let accepts = |name: &TableName, said: &Said| compiles("", name, said, catalog);
    let mut policies = Policies::new(facts, catalog, &accepts);
    let mut suggestions = Suggestions::new(facts, catalog);
    let mut unsaid = Vec::new();
    // Alone, the entries are what the rules of further tables are tried with.
    let mut entries = String::new();
    for table in &tables {
        let Entry { comments, visible, writes } = match table.row_security {
            true => of_policies(&mut policies, table, refused),
            false => of_keys(&mut suggestions, table),
        };
        let mut comments = comments;
        let visible = match compiles(&entries, &table.name, &visible, catalog) {
            Ok(()) => visible,
            Err(why) => {
                comments
                    .push(format!("Together with the tables above this rule is refused: {why}"));
                Said::never()
            }
        };
        if visible == Said::never() {
            unsaid.push(table_text(&table.name));
        }
        text.push('\n');
        for comment in comments {
            let _ = writeln!(text, "# {comment}");
        }
        let entry = entry(&table.name, &visible);
        text += &entry;
        entries += &entry;
        text += &writes;
    }
    if !without_key.is_empty() {
        text += "\n# Left out, because nothing tells their rows apart: give them a primary key.\n";
    }
    let name = |table: &&DraftTable| table_text(&table.name);
    let without_key: Vec<String> = without_key.iter().map(name).collect();
    for name in &without_key {
        let _ = writeln!(text, "# - {name}");
    }
    Draft { text, tables: tables.len(), unsaid, without_key }
}

/// What stands for a table.
struct Entry {
    comments: Vec<String>,
    visible: Said,
    writes: String,
}

fn head(source: &str) -> String {
    format!(
        "# A draft by `rowtide init`, of {source}. Read each rule before it is served: `visible` says who sees which rows, and\n\
         # whoever is not allowed to write, writes nothing. Rules come from policies of row-level security where a table has\n\
         # it, and are suggested by foreign keys elsewhere. `rowtide check` holds the file against the database.\n"
    )
}

fn is_for_strangers(policy: &RowPolicy) -> bool {
    let reads = matches!(policy.command, PolicyCommand::Select | PolicyCommand::All);
    reads && policy.permissive && policy.roles.iter().any(|role| role == "anon")
}

/// Whether a rule for reading is one, behind entries that are; or why it is none.
fn compiles(
    entries: &str,
    name: &TableName,
    visible: &Said,
    catalog: &Catalog,
) -> Result<(), String> {
    let text = format!("{entries}{}", entry(name, visible));
    let definition = Definition::parse("draft", &text);
    let compiled = definition.and_then(|definition| plan_once_set_up(&definition, catalog));
    match compiled {
        Ok(_) => Ok(()),
        Err(error) => {
            let first = error.problems.first();
            Err(first.map_or_else(|| error.to_string(), |problem| problem.message.clone()))
        }
    }
}

/// The entry of a table, for reading. What is not sent of its rows has its place here.
fn entry(name: &TableName, visible: &Said) -> String {
    format!("[tables.{}]\nvisible = {}\n", key(name), rule(visible, Voice::Read(&name.name)))
}

/// What the entry of a table is called.
fn key(name: &TableName) -> String {
    match name.schema.as_str() {
        "public" if !name.name.contains('.') => toml_key(&name.name),
        schema => toml_key(&format!("{schema}.{}", name.name)),
    }
}

/// A rule as a string of TOML.
fn rule(said: &Said, voice: Voice<'_>) -> String {
    let line = said.text(voice);
    if line.len() <= LINE && !line.contains('\'') {
        return format!("'{line}'");
    }
    let parts: Vec<String> = match said {
        Said::Any(parts) if line.len() > LINE => {
            let part = |(at, part): (usize, &Said)| {
                let text = part.text(voice);
                let text = if matches!(part, Said::All(parts) if parts.len() > 1) {
                    format!("({text})")
                } else {
                    text
                };
                if at == 0 { text } else { format!("OR {text}") }
            };
            parts.iter().enumerate().map(part).collect()
        }
        _ => vec![line.clone()],
    };
    let lines = parts.join("\n  ");
    let plain = |c: char| c == '\n' || !c.is_control();
    if lines.contains("'''") || !lines.chars().all(plain) {
        return toml_string(&line);
    }
    format!("'''\n  {lines}\n'''")
}

/// An entry of what foreign keys suggest.
fn of_keys(suggestions: &mut Suggestions<'_>, table: &DraftTable) -> Entry {
    let mut found = suggestions.of(table).into_iter();
    let mut comments = Vec::new();
    let visible = match found.next() {
        Some(Suggestion { said, because }) => {
            comments.push(format!("Suggested: {because}."));
            said
        }
        None => {
            let what = "No foreign key says whose these rows are. Write who sees them: `true` for everyone, a column \
                        `= auth.user_id`,";
            comments.push(what.to_owned());
            comments.push(
                "or `column IN (SELECT column FROM table WHERE user_id = auth.user_id)`."
                    .to_owned(),
            );
            Said::never()
        }
    };
    for Suggestion { said, because } in found {
        let text = said.text(Voice::Read(&table.name.name));
        comments.push(format!("Or, as {because}: {text}"));
    }
    Entry { comments, visible, writes: String::new() }
}

/// An entry of what policies say.
fn of_policies(policies: &mut Policies<'_>, table: &DraftTable, refused: &RefusedWrites) -> Entry {
    let mut comments: Vec<String> = table.policies.iter().map(policy_text).collect();
    if table.policies.is_empty() {
        comments
            .push("Row-level security is on, and no policy lets anybody do anything.".to_owned());
    }
    let Come { said: visible, missing } = policies.reading(table);
    comments.extend(missing.iter().map(|missing| unsaid("reading", missing)));
    let (come, writes) = write_rules(policies, table);
    for (what, missing) in &come {
        comments.push(unsaid(what, missing));
    }
    let writes = match refused.get(&table.name) {
        None => writes,
        Some(why) => {
            comments.push(format!(
                "Its rules for writing are left out, because Postgres does not take them: {why}"
            ));
            String::new()
        }
    };
    Entry { comments, visible, writes }
}

/// The rules for writing, and what is missing of them.
fn write_rules(
    policies: &mut Policies<'_>,
    table: &DraftTable,
) -> (Vec<(&'static str, Missing)>, String) {
    let mut missing = Vec::new();
    let mut come = |what, command, side| {
        let come = policies.writing(table, command, side);
        for one in come.missing {
            if !missing.contains(&(what, one.clone())) {
                missing.push((what, one));
            }
        }
        come.said
    };
    let insert = come("inserts", PolicyCommand::Insert, Side::Written);
    let old = come("updates", PolicyCommand::Update, Side::There);
    let new = come("updates", PolicyCommand::Update, Side::Written);
    let delete = come("deletes", PolicyCommand::Delete, Side::There);
    let mut text = String::new();
    let name = key(&table.name);
    let never = Said::never();
    if insert != never {
        let allow = rule(&insert, Voice::Write("new."));
        let _ = writeln!(text, "\n[tables.{name}.insert]\nallow = {allow}");
    }
    if old != never && new != never {
        let _ = writeln!(text, "\n[[tables.{name}.update]]\nallow = {}", both(&old, &new));
    }
    if delete != never {
        let allow = rule(&delete, Voice::Write("old."));
        let _ = writeln!(text, "\n[tables.{name}.delete]\nallow = {allow}");
    }
    (missing, text)
}

/// What must hold of the row that is there, and of the one that is written.
fn both(old: &Said, new: &Said) -> String {
    let always = Said::always();
    let (before, after) = (old.text(Voice::Write("old.")), new.text(Voice::Write("new.")));
    let line = match (*old == always, *new == always) {
        (true, true) => "true".to_owned(),
        (true, false) => after,
        (false, true) => before,
        (false, false) => {
            let part = |said: &Said, text: String| match said {
                Said::Any(_) => format!("({text})"),
                _ => text,
            };
            let (before, after) = (part(old, before), part(new, after));
            if before == after { before } else { format!("{before} AND {after}") }
        }
    };
    if line.len() <= LINE && !line.contains('\'') {
        return format!("'{line}'");
    }
    let plain = |c: char| !c.is_control();
    match line.contains("'''") || !line.chars().all(plain) {
        true => toml_string(&line),
        false => format!("'''\n  {line}\n'''"),
    }
}

/// Text on one line.
fn flat(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().map(shown).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A policy as it was made.
fn policy_text(policy: &RowPolicy) -> String {
    let command = match policy.command {
        PolicyCommand::All => "ALL",
        PolicyCommand::Select => "SELECT",
        PolicyCommand::Insert => "INSERT",
        PolicyCommand::Update => "UPDATE",
        PolicyCommand::Delete => "DELETE",
    };
    let restrictive = if policy.permissive { "" } else { " AS RESTRICTIVE" };
    let mut text = format!(
        "POLICY {:?}{restrictive} FOR {command} TO {}",
        flat(&policy.name),
        policy.roles.join(", ")
    );
    if let Some(using) = &policy.using {
        let _ = write!(text, " USING ({})", flat(using));
    }
    if let Some(check) = &policy.check {
        let _ = write!(text, " WITH CHECK ({})", flat(check));
    }
    text
}

/// What of a policy is not in a rule.
fn unsaid(what: &str, Missing { policy, why }: &Missing) -> String {
    let (policy, part) = (flat(policy), flat(&why.part));
    let why = flat(&why.why);
    match part.is_empty() {
        true => format!("NOT SAID for {what}: {policy:?}, because {why}"),
        false => format!("NOT SAID for {what}: {policy:?}, because of `{part}`: {why}"),
    }
}
