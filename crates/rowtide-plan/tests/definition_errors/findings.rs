//! What `rowtide check` says to do is done, and accepted.

use rowtide_plan::catalog::Catalog;
use rowtide_plan::check::{Problem, check_plan};
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::secrets::sent_secrets;

use crate::catalogs::{notes, table};
use crate::shown;

/// A definition that `rowtide check` has something to say of, a part of that, and definitions that do what it says.
fn findings() -> Vec<(String, &'static str, Vec<String>)> {
    let of = |wrong: &str, advice, right: &[&str]| {
        (wrong.to_owned(), advice, right.iter().map(|right| (*right).to_owned()).collect())
    };
    let member =
        |entry: &str| format!("[tables.member]\nvisible = 'person = auth.user_id'\n{entry}");
    let update = |allow: &str| member(&format!("[[tables.member.update]]\nallow = '''{allow}'''"));
    let teams = "team IN (SELECT id FROM team WHERE org = 'a'";
    let mine = "SELECT team FROM member WHERE person = auth.user_id";
    vec![
        of(
            &format!(
                "[tables.note]\nvisible = '''team IN ({mine}) AND {teams})'''\n[app]\nint8 = 'string'"
            ),
            "nest it in the membership that finds the rows",
            &[&format!(
                "[tables.note]\nvisible = '''{teams} AND id IN ({mine}))'''\n[app]\nint8 = 'string'"
            )],
        ),
        of(
            "[tables.note]\nvisible = 'shared'",
            "int8 = \"string\" in [app]",
            &["[app]\nint8 = \"string\"\n[tables.note]\nvisible = 'shared'"],
        ),
        of(
            &update("old.role = auth.claims.role"),
            "leave `old.` out",
            &[&update("role = auth.claims.role")],
        ),
        of(
            &update("old.role = auth.claims.role"),
            "make the column immutable",
            &[&member(
                "immutable = ['role']\n[[tables.member.update]]\nallow = 'old.role = auth.claims.role'",
            )],
        ),
        of(
            &update("old.role IN (SELECT org FROM team)"),
            "write `\"member\".` in place of `old.`",
            &[&update("\"member\".role IN (SELECT org FROM team)")],
        ),
        of(
            &update("role IN (SELECT m.role FROM member AS m WHERE m.team = team)"),
            "write \"member\".\"team\" for that of the row",
            &[&update(
                "role IN (SELECT m.role FROM member AS m WHERE m.team = \"member\".\"team\")",
            )],
        ),
        of(
            "[tables.account]\nvisible = 'true'",
            "hidden = [\"password\"] in [tables.account]; or name in `columns` what clients get",
            &[
                "[tables.account]\nvisible = 'true'\nhidden = [\"password\"]",
                "[tables.account]\nvisible = 'true'\ncolumns = [\"id\", \"password\"]",
            ],
        ),
    ]
}

#[test]
fn what_check_says_to_do_is_accepted_and_it_says_it_no_more() {
    let mut catalog = notes();
    catalog.tables.push(table("account", &[("id", "text"), ("password", "text")], &["id"], &[]));
    let found = |text: &str| {
        let definition = Definition::parse("rowtide.toml", text);
        let definition = definition.unwrap_or_else(|error| panic!("{}", shown(&error)));
        let plan = compile(&definition, &catalog);
        let plan = plan.unwrap_or_else(|error| panic!("{}", shown(&error)));
        let mut found = check_plan(&plan);
        found.extend(sent_secrets(&definition, &plan));
        found
    };
    for (wrong, advice, right) in findings() {
        let says =
            |problem: &Problem| problem.repair.as_ref().is_some_and(|of| of.contains(advice));
        assert!(found(&wrong).iter().any(says), "{wrong}\n{:?}", found(&wrong));
        for right in right {
            assert!(!found(&right).iter().any(|problem| says(problem) || problem.fatal), "{right}");
        }
    }
}

/// A column that no client writes cannot be given away, and advice to make it immutable would be refused.
#[test]
fn a_hidden_column_is_not_said_to_be_handed_away() {
    let of = "hidden = ['role']\n[[tables.member.update]]\nallow = 'old.role = auth.claims.role'";
    let text = format!("[tables.member]\nvisible = 'person = auth.user_id'\n{of}");
    let definition = Definition::parse("rowtide.toml", &text).expect("it is a definition");
    assert_eq!(check_plan(&compile(&definition, &notes()).expect("it fits")), []);
}

/// Postgres makes no index of a partitioned table concurrently.
#[test]
fn an_index_is_said_as_postgres_makes_it() {
    let mut catalog = notes();
    let rule = "[app]\nint8 = 'string'\n[tables.note]\nvisible = 'title = auth.user_id OR auth.user_id = ANY (tags)'";
    let repairs = |catalog: &Catalog| {
        let definition = Definition::parse("rowtide.toml", rule).expect("it is a definition");
        let found = check_plan(&compile(&definition, catalog).expect("it fits"));
        found.into_iter().filter_map(|problem| problem.repair).collect::<Vec<_>>()
    };
    let expected = [
        "CREATE INDEX CONCURRENTLY ON \"public\".\"note\" (\"title\");",
        "CREATE INDEX CONCURRENTLY ON \"public\".\"note\" USING gin (\"tags\");",
    ];
    assert_eq!(repairs(&catalog), expected);
    catalog.tables[0].streaming.partitioned = true;
    assert_eq!(repairs(&catalog), expected.map(|sql| sql.replace(" CONCURRENTLY", "")));
}
