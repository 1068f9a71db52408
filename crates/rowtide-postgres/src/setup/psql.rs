//! The form of what is printed for `psql`, of set-up and of what takes it out again: a head that stops at the first error, parts
//! that each say who must run them, and blocks that look whether it is the right database and whether there is something
//! to do. Locks are asked for in short attempts, as `turns.rs` does.

use std::collections::BTreeSet;

use rowtide_plan::sql::{quote_identifier, quote_literal};

/// How a script is run, and that it ends with the first error.
pub(super) const HEAD: &str = "\
-- Run it with psql, connected to that database, and not in one transaction (no -1). A superuser may
-- run all of it as it stands; otherwise each part says who must run it, in this order. It can be run
-- again at any time.
\\set ON_ERROR_STOP on
";

/// That it is the database that the script was written for.
pub(super) fn guard(database: &str) -> String {
    let database = quote_literal(database);
    block(&format!(
        "IF current_database() <> {database} THEN\n    \
         RAISE EXCEPTION 'this is for database %, and not for %', {database}, current_database();\n  END IF;"
    ))
}

/// Who can change what these roles own without being a superuser, if one can.
pub(super) fn one_of<'a>(owners: &BTreeSet<&'a str>) -> Option<&'a str> {
    let mut owners = owners.iter();
    let one = owners.next()?;
    owners.next().is_none().then_some(*one)
}

/// Who must run a part that changes what these roles own.
pub(super) fn whose(owners: &BTreeSet<&str>) -> String {
    match one_of(owners) {
        Some(owner) => format!("the owner of the tables, {}, or a superuser", comment(owner)),
        None => {
            let all: Vec<String> = owners.iter().map(|owner| comment(owner)).collect();
            format!("a superuser: what it changes has several owners, {}", all.join(", "))
        }
    }
}

/// Changes a table that others may be using, in short attempts: nobody waits behind one for longer than a tenth of a second.
/// `done` is a condition; `handlers` are those of other errors than that a lock is not had.
pub(super) fn attempts(table: &str, done: &str, change: &str, handlers: &str) -> String {
    block(&format!(
        "FOR attempt IN 1..600 LOOP\n    \
         EXIT WHEN {done};\n    \
         BEGIN\n      SET LOCAL lock_timeout = '100ms';\n      \
         LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE;\n      \
         {change}\n    \
         EXCEPTION WHEN lock_not_available THEN\n      \
         IF attempt = 600 THEN RAISE; END IF;\n      \
         IF attempt = 1 THEN RAISE NOTICE 'waiting for others who use %', {name}; END IF;\n      \
         PERFORM pg_sleep(1);\n    {handlers}END;\n  END LOOP;",
        name = quote_literal(table)
    ))
}

/// A statement of PL/pgSQL, in quotes that do not occur in it.
pub(super) fn block(body: &str) -> String {
    let mut tag = "$rowtide$".to_owned();
    while body.contains(&tag) {
        tag.insert(1, '_');
    }
    format!("DO {tag}\nBEGIN\n  {body}\nEND\n{tag};\n")
}

/// A name in a comment, which ends with the line.
pub(super) fn comment(name: &str) -> String {
    quote_identifier(&in_line(name))
}

/// A text in a comment.
pub(super) fn in_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_a_quote_or_a_comment() {
        assert_eq!(comment("a\nDROP TABLE b"), "\"a DROP TABLE b\"");
        let quoted = block("SELECT '$rowtide$'");
        assert!(
            quoted.starts_with("DO $_rowtide$\n") && quoted.ends_with("\n$_rowtide$;\n"),
            "{quoted}"
        );
    }
}
