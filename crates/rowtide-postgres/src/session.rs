//! What a session relies on, whatever a role, a database or a server sets for those who connect (`ALTER ROLE … SET`,
//! `ALTER DATABASE … SET`). A connection of our own is set to it for good. One that may come from a pooler is left as
//! it is: each transaction on it sets what is otherwise than it must be. The search path stays the role's, because
//! rules and the application's triggers are written for it; but for schemas of Rowtide itself, which would shadow
//! tables of the application there (`"$user"`, where role and schema are both named `rowtide`).

use std::fmt::Write as _;

use rowtide_plan::sql::quote_literal;
use tokio_postgres::{Client, Error};

/// Settings of the session, as the `options` of a connection; what the URL sets comes after them. A lock that is not had
/// in time is not waited for, a transaction that does nothing is ended, and no timeout of the role's ends what may
/// take long. Compiling a query (`jit`) pays for none of ours, and takes seconds for those that look dear.
pub(crate) const STARTUP: &str = "-c jit=off -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s \
    -c statement_timeout=0 -c idle_session_timeout=0 -c default_transaction_read_only=off \
    -c default_transaction_deferrable=off -c default_transaction_isolation=read\\ committed";

/// What values of mutations, triggers and policies are read and run under. A name that this version of Postgres does
/// not know is left out.
const RELIED_ON: [(&str, &str); 8] = [
    ("transaction_timeout", "0"),
    ("IntervalStyle", "postgres"),
    ("array_nulls", "on"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("xmloption", "content"),
    ("row_security", "on"),
    ("session_replication_role", "origin"),
];

/// The tables by which a schema of Rowtide is recognized, in whatever environment.
const ASK_PATH: &str = "SELECT pg_catalog.current_setting('search_path'), CURRENT_USER::pg_catalog.text, \
    coalesce((SELECT pg_catalog.array_agg(n.nspname::pg_catalog.text) FROM pg_catalog.pg_namespace n \
    WHERE (SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid \
    AND c.relname IN ('client', 'refusal', 'named_mutation')) = 3), '{}')";

/// The settings of a session that are otherwise than they must be, with the values that they must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amiss(Vec<(&'static str, String)>);

impl Amiss {
    /// Asks the server. Nothing is left behind in the session.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub(crate) async fn ask(client: &Client) -> Result<Amiss, Error> {
        let names: Vec<String> = RELIED_ON.iter().map(|(name, _)| quote_literal(name)).collect();
        let sql = format!(
            "SELECT name, pg_catalog.current_setting(name, true) \
             FROM pg_catalog.unnest(ARRAY[{}]) AS name",
            names.join(", ")
        );
        let mut amiss = Vec::new();
        for (row, (name, wanted)) in client.query_typed(&sql, &[]).await?.iter().zip(RELIED_ON) {
            if row.get::<_, Option<&str>>(1).is_some_and(|value| value != wanted) {
                amiss.push((name, wanted.to_owned()));
            }
        }
        for row in client.query_typed(ASK_PATH, &[]).await? {
            let own: Vec<String> = row.get(2);
            if let Some(path) = without(row.get(0), row.get(1), &own) {
                amiss.push(("search_path", path));
            }
        }
        Ok(Amiss(amiss))
    }

    /// Sets right what a session of our own needs, for good.
    ///
    /// # Errors
    /// When Postgres does not let us.
    pub(crate) async fn set(&self, client: &Client) -> Result<(), Error> {
        // The others concern what mutations run, and may need a right.
        let ours = self.0.iter().filter(|(name, _)| {
            matches!(*name, "transaction_timeout" | "search_path" | "standard_conforming_strings")
        });
        let sql: Vec<String> =
            ours.map(|(name, value)| format!("SET {name} = {}", as_value(name, value))).collect();
        if sql.is_empty() { Ok(()) } else { client.batch_execute(&sql.join("; ")).await }
    }

    /// `; SET LOCAL …` for each, to stand behind a `BEGIN`.
    pub(crate) fn local(&self) -> String {
        let mut sql = String::new();
        for (name, value) in &self.0 {
            let _ = write!(sql, "; SET LOCAL {name} = {}", as_value(name, value));
        }
        sql
    }
}

fn as_value(name: &str, value: &str) -> String {
    // A list of names, quoted as it was written.
    if name == "search_path" && !value.is_empty() { value.to_owned() } else { quote_literal(value) }
}

/// The search path without the schemas `own`; `None` if they are not in it.
fn without(path: &str, user: &str, own: &[String]) -> Option<String> {
    let is_own = |entry: &&str| {
        let name = unquoted(entry);
        let schema = if name == "$user" { user } else { name.as_str() };
        own.iter().any(|own| own == schema)
    };
    let entries = entries(path);
    if !entries.iter().any(&is_own) {
        return None;
    }
    let kept: Vec<&str> = entries.into_iter().filter(|entry| !is_own(entry)).collect();
    Some(kept.join(", "))
}

/// The names of a list, each as it is written.
fn entries(path: &str) -> Vec<&str> {
    let mut quoted = false;
    let between = |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    path.split(between).map(str::trim).filter(|entry| !entry.is_empty()).collect()
}

fn unquoted(entry: &str) -> String {
    match entry.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => entry.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_of_our_own_are_taken_out_of_a_search_path() {
        let own = ["rowtide".to_owned(), "rowtide_pr_1".to_owned()];
        for (path, user, left) in [
            (r#""$user", public"#, "rowtide", Some("public")),
            (r#""$user", public"#, "app", None),
            (r#""$user", public"#, "Rowtide", None),
            ("Rowtide, app", "x", Some("app")),
            (r#""Rowtide", app"#, "x", None),
            (r#"app, "rowtide_pr_1", "a, ""b""", public"#, "x", Some(r#"app, "a, ""b""", public"#)),
            (r#""$user""#, "rowtide", Some("")),
            ("", "rowtide", None),
        ] {
            assert_eq!(without(path, user, &own).as_deref(), left, "{path} of {user}");
        }
        let amiss = Amiss(vec![("search_path", String::new()), ("row_security", "on".to_owned())]);
        assert_eq!(amiss.local(), "; SET LOCAL search_path = ''; SET LOCAL row_security = 'on'");
        let amiss = Amiss(vec![("search_path", "\"A\", b".to_owned())]);
        assert_eq!(amiss.local(), "; SET LOCAL search_path = \"A\", b");
    }
}
