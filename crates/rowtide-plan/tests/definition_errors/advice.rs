//! Advice that works: what a message says to write is written here, as it says, and accepted. Every help that the kept messages have is in
//! these tables, so that a new one is followed, too.

mod documents;
mod entries;
mod expressions;
mod findings;
mod memberships;

use std::collections::BTreeSet;
use std::path::Path;

use rowtide_plan::catalog::Catalog;

use super::catalogs::{notes, table};
use super::{read, shown, with_lines, with_rule};

/// What is rejected, what is said to write instead, and that.
struct Followed {
    wrong: String,
    advice: &'static str,
    /// Several, where it says several.
    right: Vec<String>,
}

fn catalog() -> Catalog {
    let mut catalog = notes();
    let note = &mut catalog.tables[0];
    let mood = note.column("mood").expect("the column is there");
    note.columns[mood].labels = (1..12).map(|n| format!("mood {n}")).collect();
    let mut other = table("item", &[("id", "text"), ("owner", "text")], &["id"], &[]);
    other.schema = "other".to_owned();
    catalog.tables.push(other);
    let board = [
        ("id", "uuid"),
        ("name", "text"),
        ("open", "boolean"),
        ("slug", "text"),
        ("error", "text"),
        ("saved_ms", "bigint"),
        ("saved_at", "timestamptz"),
    ];
    catalog.tables.push(table("board", &board, &["id"], &[]));
    for name in ["user", "file", "file_state"] {
        let columns = [("id", "text"), ("ownerId", "text"), ("name", "text")];
        catalog.tables.push(table(name, &columns, &["id"], &[]));
    }
    catalog
}

fn rule(wrong: &str, advice: &'static str, right: &[&str]) -> Followed {
    let right = right.iter().map(with_rule).collect();
    Followed { wrong: with_rule(&wrong), advice, right }
}

/// Lines of the entry of `note`, or behind it.
fn lines(wrong: &str, advice: &'static str, right: &[&str]) -> Followed {
    let right = right.iter().map(|right| with_lines(right)).collect();
    Followed { wrong: with_lines(wrong), advice, right }
}

fn whole(wrong: &str, advice: &'static str, right: &[&str]) -> Followed {
    let right = right.iter().map(|right| (*right).to_owned()).collect();
    Followed { wrong: wrong.to_owned(), advice, right }
}

fn all() -> Vec<Followed> {
    [
        expressions::expressions(),
        memberships::memberships(),
        entries::entries(),
        entries::calls_and_queries(),
        documents::documents(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn what_a_message_says_to_write_is_accepted() {
    let catalog = catalog();
    let mut wrong = Vec::new();
    for Followed { wrong: rejected, advice, right } in all() {
        match read(&rejected, &catalog) {
            Ok(()) => wrong.push(format!("accepted: {rejected}")),
            Err(error) => {
                let says =
                    |help: &Option<String>| help.as_ref().is_some_and(|of| of.contains(advice));
                if !error.problems.iter().any(|problem| says(&problem.help)) {
                    wrong.push(format!("does not say `{advice}`:\n{}", shown(&error)));
                }
            }
        }
        for right in right {
            if let Err(error) = read(&right, &catalog) {
                wrong.push(format!("`{advice}` is refused in turn:\n{}", shown(&error)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Advice about the database, which a definition does not follow.
const OF_THE_DATABASE: &[&str] = &[
    "ALTER TABLE ",
    "ALTER PUBLICATION ",
    "ALTER ROLE … BYPASSRLS;",
    "VACUUM FULL ",
    "detach ",
    "give the column a deterministic collation",
    "make column ",
    "make it STORED",
    "make it a plain column that a trigger fills",
    "make it a table that stays",
    "make the key NOT DEFERRABLE",
    "make the key of plain columns",
    "name a table",
    "name the tables that it is made from",
    "rowtide check",
    "rowtide setup",
    "serve the database that they are in",
    "sync public.",
    "take \"public\".\"note\" out of publication",
    "let clients have it, or take `older_clients` out of [app]",
];

/// The helps that the kept messages have, each in one line.
fn kept_helps() -> BTreeSet<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let mut helps = BTreeSet::new();
    for file in dir.read_dir().expect("there are snapshots").flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        // What is said of queries is followed where it is kept.
        if !name.starts_with("definition_errors__") || name.ends_with("__queries.snap") {
            continue;
        }
        let text = std::fs::read_to_string(file.path()).expect("it is text");
        for help in text.split("\n  help: ").skip(1) {
            // A line of it that is wrapped, or that it has by itself, is indented by eight.
            let mut lines = help.lines();
            let first = lines.next().unwrap_or_default().to_owned();
            let rest = lines.map_while(|line| line.strip_prefix("        "));
            helps.insert(rest.fold(first, |help, line| format!("{help} {line}")));
        }
    }
    helps
}

#[test]
fn all_that_the_kept_messages_say_to_write_is_tried() {
    let known = all();
    let is_known = |help: &String| {
        let advice = known.iter().map(|of| of.advice);
        let mut all = advice.chain(OF_THE_DATABASE.iter().copied());
        // Names that are close, and those that there are, are tried for one of each kind.
        let is_of_names = ["did you mean ", "it has "].iter().any(|kind| help.starts_with(kind));
        is_of_names || all.any(|advice| help.contains(&advice.replace('\n', " ")))
    };
    let untried: Vec<String> = kept_helps()
        .into_iter()
        .filter(|help| !help.ends_with(" found") && !is_known(help))
        .collect();
    assert!(untried.is_empty(), "{}", untried.join("\n"));
}
