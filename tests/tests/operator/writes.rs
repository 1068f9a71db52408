//! What `rowtide check` says of who writes: the role that operations are done as, rules that let rows be handed away, and
//! mutations that have names.

use crate::{Operator, TABLES, rejected, succeeded};

fn definition(role: &str) -> String {
    format!(
        "[writes]\nrole = '{role}'\n\
         [tables.note]\nvisible = 'owner = auth.user_id'\n\
         [tables.note.insert]\nallow = 'owner = auth.user_id'\n\
         [[tables.note.update]]\nallow = 'owner = auth.user_id'\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_that_writes_must_be_there_and_be_granted_what_the_rules_allow() {
    let writes = format!("Writes {:08x}", rand::random::<u32>());
    let operator = Operator::new(TABLES, &definition(&writes)).await;
    succeeded(&operator.says(&["setup"]).await);
    let server = operator.database.stranger("server", "LOGIN REPLICATION", "note").await;
    // It locks rows, and does not write them itself.
    operator.database.run(&format!("GRANT UPDATE ON note TO {server}")).await;
    let check = async || operator.says_as(&server, &["check"]).await;
    rejected(&check().await, &[&format!("error: there is no role \"{writes}\"")]);
    // As the script makes and grants it.
    let printed = operator.says(&["setup", "--print", "--server-role", &server]).await;
    succeeded(&operator.psql("postgres", &printed.out).await);
    let lacks = |what: &str| {
        format!("role \"{writes}\", which operations are done as, may not {what} table")
    };
    let checked = check().await;
    rejected(
        &checked,
        &[&lacks("insert into"), &lacks("update"), &lacks("find rows by the key of")],
    );
    assert!(!checked.out.contains("may not become"), "{checked:?}");
    let grant = format!("GRANT INSERT, UPDATE, SELECT ON note TO \"{writes}\"");
    operator.database.run(&grant).await;
    let checked = check().await;
    succeeded(&checked);
    assert!(!checked.out.contains("error: ") && !checked.out.contains("note: "), "{checked:?}");
    operator.database.run(&format!("REVOKE \"{writes}\" FROM {server}")).await;
    let repair = format!("GRANT \"{writes}\" TO {server};");
    rejected(&check().await, &["may not become role", &repair]);
    operator.database.run(&format!("{repair} ALTER ROLE \"{writes}\" BYPASSRLS")).await;
    let checked = check().await;
    succeeded(&checked);
    assert!(
        checked.out.contains("note: row-level security does not judge operations"),
        "{checked:?}"
    );
    let roles = format!("DROP OWNED BY {server}, \"{writes}\"; DROP ROLE {server}, \"{writes}\"");
    operator.database.run(&roles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_lets_a_row_be_handed_away_is_warned_of() {
    let tables = "CREATE TABLE member (team text, person text, PRIMARY KEY (team, person)); CREATE INDEX ON member (person);
        CREATE TABLE note (id text PRIMARY KEY, owner text, team text, body text, deleted bool);
        CREATE INDEX ON note (team);";
    let visible = "team IN (SELECT team FROM member WHERE person = auth.user_id) AND NOT deleted";
    for (update, named) in [
        ("allow = 'old.owner = auth.user_id'", Some("owner, team")),
        ("allow = 'owner = auth.user_id'", None),
        (
            "allow = 'old.owner = auth.user_id AND new.owner = auth.user_id AND new.team = old.team'",
            None,
        ),
        ("allow = 'old.owner = auth.user_id AND NOT deleted'", Some("owner")),
        ("columns = ['body', 'deleted']\nallow = 'old.owner = auth.user_id'", None),
        (
            "allow = 'EXISTS (SELECT FROM member m WHERE m.team = old.team AND m.person = auth.user_id)'",
            Some("team"),
        ),
        ("allow = '''old.body = 'mine' '''", Some("team")),
        // As it is advised to write it.
        (
            "allow = 'EXISTS (SELECT FROM member m WHERE m.team = note.team AND m.person = auth.user_id)'",
            None,
        ),
    ] {
        let definition =
            format!("[tables.note]\nvisible = '{visible}'\n[[tables.note.update]]\n{update}\n");
        let operator = Operator::new(tables, &definition).await;
        let checked = operator.says(&["check"]).await;
        let said = match named {
            Some(named) => {
                let named: Vec<String> =
                    named.split(", ").map(|name| format!("\"{name}\"")).collect();
                format!("the rule names `old` alone, and {} may be written", named.join(", "))
            }
            None => String::new(),
        };
        assert_eq!(
            checked.out.contains("hand it to somebody else"),
            named.is_some(),
            "{update}: {checked:?}"
        );
        assert!(checked.out.contains(&said), "{update}: {checked:?}");
        let by_name = checked.out.contains("write `\"note\".` in place of `old.`");
        assert_eq!(by_name, named.is_some() && update.contains("EXISTS"), "{update}: {checked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_a_subquery_takes_for_its_own_is_warned_of() {
    let tables = "CREATE TABLE member (team text, person text, PRIMARY KEY (team, person));
        CREATE TABLE note (id text PRIMARY KEY, team text);";
    for (column, is_warned) in [("team", true), ("note.team", false)] {
        let rule = format!(
            "EXISTS (SELECT FROM member m WHERE m.team = {column} AND m.person = auth.user_id)"
        );
        let definition = format!(
            "[tables.note]\nvisible = 'true'\n[tables.note.insert]\nallow = '{rule}'\n\
             [[tables.note.update]]\nallow = '{rule}'\n[tables.note.delete]\nallow = '{rule}'\n"
        );
        let operator = Operator::new(tables, &definition).await;
        let checked = operator.says(&["check"]).await;
        let said = r#"compares "m"."team" with "team": where "m" is of a subquery"#;
        let count = if is_warned { 3 } else { 0 };
        assert_eq!(checked.out.matches(said).count(), count, "{checked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_that_postgres_does_not_take_is_shown_at_its_place() {
    let tables =
        &format!("{TABLES} CREATE FUNCTION f(text) RETURNS int LANGUAGE sql AS 'SELECT 1';");
    for (params, run, parts) in [
        ("", "SELECT nothing()", &["does not take this mutation", "nothing"][..]),
        ("a = 'texxt'", "SELECT f(params.a)", &["type \"texxt\" does not exist", "a = 'texxt'"]),
        ("a = 'int4'", "SELECT f(params.a)", &["function f(integer) does not exist"]),
        ("a = \"int4 = 'x'\"", "SELECT params.a", &["`x` is no int4"]),
        ("", "SELECT auth.claims.x IS NULL", &["write auth.claims.NAME::text"]),
        ("", "SELECT 1; SELECT 2", &["a mutation runs one statement"]),
        ("a = 'int4'", "SELECT 1 +--params.a", &["`run` does not use the parameter `a`"]),
    ] {
        let definition = format!(
            "[tables.note]\nvisible = 'owner = auth.user_id'\n[mutations.m]\nparams = {{ {params} }}\nrun = '{run}'\n"
        );
        let operator = Operator::new(tables, &definition).await;
        rejected(&operator.says(&["check"]).await, parts);
    }
    // What the role may not call, which shows when it is explained.
    let definition = "[tables.note]\nvisible = 'owner = auth.user_id'\n\
        [mutations.m]\nparams = { a = 'text' }\nrun = 'SELECT f(params.a) -- and why'\n";
    let operator = Operator::new(tables, definition).await;
    succeeded(&operator.says(&["setup"]).await);
    let server = operator.database.stranger("server", "LOGIN REPLICATION", "note").await;
    succeeded(&operator.says_as(&server, &["check"]).await);
    operator.database.run("REVOKE EXECUTE ON FUNCTION f(text) FROM public").await;
    let found = format!("role {server} cannot run mutation m: permission denied for function f");
    rejected(&operator.says_as(&server, &["check"]).await, &[&found]);
    operator.database.run(&format!("DROP OWNED BY {server}; DROP ROLE {server}")).await;
}
