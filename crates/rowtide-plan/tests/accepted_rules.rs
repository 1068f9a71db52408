//! What the language accepts, and what becomes of it: for each rule how its rows are reached from the
//! claims, and for whole definitions the plan as `rowtide explain` prints it.

mod catalogs;
#[path = "accepted_rules/queries.rs"]
mod queries;

use std::fmt::Write;

use rowtide_plan::catalog::Catalog;
use rowtide_plan::check::check_plan;
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::explain::explain;
use rowtide_plan::plan::{Branch, Plan, Source};
use rowtide_plan::secrets::sent_secrets;
use rowtide_protocol::Op;

use catalogs::{notes, table};

#[track_caller]
fn plan(text: &str, catalog: &Catalog) -> Plan {
    let definition = Definition::parse("rowtide.toml", text).unwrap_or_else(|e| panic!("{e:?}"));
    compile(&definition, catalog).unwrap_or_else(|error| panic!("{text}\n{error:?}"))
}

/// Compares with what is kept under `name`.
#[track_caller]
fn kept(name: &str, shown: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, shown));
}

/// Each rule with the branches that it becomes.
#[track_caller]
fn drawn(rules: &[&str]) -> String {
    let mut text = String::new();
    for rule in rules {
        let plan = plan(&format!("[tables.note]\nvisible = '''{rule}'''"), &notes());
        let drawing = explain(&plan);
        let branches = drawing.split("\nloads").next().unwrap_or_default().trim_end();
        writeln!(text, "{rule}\n\n{branches}\n\n").expect("a string takes all");
    }
    text
}

#[test]
fn filters() {
    kept(
        "filters",
        &drawn(&[
            "true",
            "false",
            "NULL",
            "shared",
            "NOT shared AND archived = false",
            "shared AND (stars > 3 OR price <= 1.50 OR due IS NOT NULL)",
            "NOT (shared AND (stars < 3 OR title <> 'a'))",
            "status IN ('open', 'done') AND country = 'CH' AND id NOT IN (1, -2, NULL)",
            "made >= '2026-01-31 12:00:00+00' AND seen > made AND score < 1e3",
            "extra IS NULL AND tags IS NOT NULL AND place IS NULL AND title_ci IS NULL",
            "team = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' AND NOTE.Stars = 5 AND \"note\".title = 'it''s'",
            "title = country -- the rest\n /* does /* not */ matter */",
            "stars = '5' AND stars != 7 AND stars <> NULL",
        ]),
    );
}

#[test]
fn filters_of_other_words() {
    kept(
        "filters_of_other_words",
        &drawn(&[
            "stars BETWEEN 1 AND 3 AND made NOT BETWEEN seen AND '2026-01-31 12:00:00+00'",
            "shared IS TRUE AND archived IS NOT FALSE AND (stars > 3) IS NOT UNKNOWN",
            "NOT (shared IS NOT TRUE OR (stars = 1 AND shared) IS FALSE)",
            "coalesce(shared, false) AND NOT Coalesce(stars > 3, true)",
            "title IS DISTINCT FROM 'a' AND stars IS NOT DISTINCT FROM 3 AND seen IS NOT DISTINCT FROM NULL",
            "(\"ownerId\" = auth.user_id) IS TRUE OR (\"ownerId\" <> auth.user_id OR NOT shared) IS FALSE",
            "(\"ownerId\" = auth.user_id) IS NOT TRUE",
            "id IN (SELECT note FROM share WHERE person = auth.user_id) IS TRUE AND coalesce(shared, false)",
        ]),
    );
}

#[test]
fn casts() {
    kept(
        "casts",
        &drawn(&[
            "made > '2024-01-01'::timestamptz AND due = DATE '2026-01-31' AND team = CAST('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' AS uuid)",
            "stars::int8 = 5::int8 AND stars::numeric > 1.5 AND stars::double precision < 2e9 AND stars::text <> '7'",
            "(title)::varchar::text = 'a'::character varying AND country::text = 'CH' AND status = 'open'::status AND status::text = title",
            "team::text = title AND shared::text = 'true' AND (stars::numeric) IS NOT NULL",
            "team = auth.user_id::uuid",
            "auth.user_id = team::text AND shared",
            "stars::numeric = auth.claims.level",
            "title = auth.claims.a::text AND (auth.claims.admin::boolean OR auth.claims.until::timestamptz > made)",
            "auth.claims.until::timestamptz > '2026-01-01'::timestamptz AND auth.claims.level::int IN (1, 2)",
        ]),
    );
}

#[test]
fn anchors() {
    kept(
        "anchors",
        &drawn(&[
            "\"ownerId\" = auth.user_id",
            "auth.user_id = \"ownerId\" AND title = auth.claims.title AND stars >= auth.claims.level",
            "\"ownerId\" = auth.user_id OR shared",
            "(\"ownerId\" = auth.user_id OR team = auth.claims.\"Team\") AND NOT archived",
            "shared AND (stars = 1 OR stars = 2) AND (\"ownerId\" = auth.user_id OR archived)",
            "NOT (\"ownerId\" <> auth.user_id OR archived)",
            "\"ownerId\" = auth.user_id AND auth.claims.admin AND auth.claims.role IN ('a', 'b')",
            "auth.claims.admin OR auth.claims.level > 3 AND auth.claims.org IS NOT NULL",
            "auth.claims.level IN (1, 2) AND auth.user_id <> 'guest' AND auth.user_id = auth.claims.a",
            "team = auth.claims.app_metadata.team AND auth.claims.\"https://x/role\" = 'admin' AND auth.claims.a.\"B\".c",
            "\"ownerId\" = auth.user_id OR \"ownerId\" = auth.user_id",
            "(shared AND false) OR (\"ownerId\" = auth.user_id AND true)",
            "NULL AND (\"ownerId\" = auth.user_id OR id IN (SELECT note FROM share))",
        ]),
    );
}

#[test]
fn arrays() {
    kept(
        "arrays",
        &drawn(&[
            "team = ANY (auth.claims.app.teams) AND NOT archived",
            "\"ownerId\" = auth.user_id OR shared AND 'admin' = ANY (auth.claims.roles)",
            "\"ownerId\" = auth.user_id AND stars <> ALL (auth.claims.levels) AND 5 = ANY ((auth.claims.levels)::int8[])",
            "auth.user_id = ANY (editors) OR auth.claims.name = ANY (tags)",
            "'open' = ANY (tags) AND title = ANY (tags) AND 3 <> ALL (levels)",
            "stars = ANY (ARRAY[1, 2]) AND (title)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])",
            "auth.user_id = ANY (ARRAY[\"ownerId\", title])",
            "team::text = ANY (auth.claims.teams) AND status = ANY (auth.claims.s) AND country = ANY (auth.claims.c)",
            "team IN (SELECT id FROM team WHERE org = ANY (auth.claims.orgs))",
        ]),
    );
}

#[test]
fn memberships() {
    kept(
        "memberships",
        &drawn(&[
            "id IN (SELECT note FROM share WHERE person = auth.user_id)",
            "shared AND \"ownerId\" <> auth.user_id AND id IN (SELECT s.note FROM share AS s WHERE s.person = auth.user_id)",
            "team IN (SELECT team FROM member WHERE person = auth.user_id AND role <> auth.claims.role)",
            "team IN (SELECT id FROM public.team WHERE org IN (SELECT id FROM org WHERE person = auth.user_id))",
            "team IN (SELECT team FROM member WHERE person = auth.user_id OR role = 'public')",
            "team IN (SELECT team FROM member)",
            "team IN (SELECT team FROM member WHERE false)",
            "team IN (SELECT team FROM member WHERE person = auth.user_id) AND (shared OR \"ownerId\" = auth.user_id)",
            "id IN (SELECT id FROM note WHERE \"ownerId\" = auth.user_id) OR \"ownerId\" = auth.user_id",
            "NOT NOT (team IN (SELECT team FROM member WHERE NOT (person <> auth.user_id)))",
        ]),
    );
}

const HIDING: &str = r#"
[tables.note]
visible = """status = 'open' AND "ownerId" = auth.user_id"""
hidden = ["ownerId", "price", "extra", "status", "shared"]
[tables.note.insert]
allow = 'new.price > 0'
[[tables.note.update]]
allow = 'old.shared'
"#;

#[test]
fn hidden_columns_are_loaded_where_rules_need_them() {
    let drawing = explain(&plan(HIDING, &notes()));
    assert!(
        drawing
            .contains("is sent without \"ownerId\", \"shared\", \"status\", \"price\", \"extra\"")
    );
    let (loads, writes) = drawing.split_once("\nwrites").expect("there are writes");
    let (_, loads) = loads.split_once("\nloads").expect("there are loads");
    for (column, is_loaded) in
        [("ownerId", true), ("status", true), ("title", true), ("price", false), ("extra", false)]
    {
        assert_eq!(loads.contains(column), is_loaded, "{column}: {loads}");
    }
    for parameters in writes.lines().filter(|line| line.trim_start().starts_with("-- ")) {
        assert!(!parameters.contains("price") && parameters.contains("\"id\""), "{parameters}");
    }
}

#[test]
fn a_hidden_column_is_none_to_who_writes() {
    let plan = plan(HIDING, &notes());
    let answer = |kind: &str, row: &str| {
        let op = format!(r#"{{"op":"{kind}","table":"note","row":{row}}}"#);
        let op = Op::Row(serde_json::from_str(&op).expect("it is an operation"));
        plan.read_op(&op).map(drop).map_err(|unreadable| unreadable.rejection)
    };
    for kind in ["insert", "update", "delete"] {
        let hidden = answer(kind, r#"{"id":1,"extra":1}"#).expect_err("it is hidden");
        let missing = answer(kind, r#"{"id":1,"other":1}"#).expect_err("there is none");
        assert_eq!(hidden.code, missing.code);
        assert_eq!(hidden.message, missing.message.replace("other", "extra"));
    }
    // Nor is it told to who means another one.
    let close = answer("update", r#"{"id":1,"pric":"1"}"#).expect_err("there is none");
    assert!(!close.message.contains("price"), "{}", close.message);
    assert_eq!(answer("insert", r#"{"id":1,"title":"t"}"#), Ok(()));
}

#[test]
fn what_looks_like_a_secret_is_told_with_what_hides_it() {
    let columns = [
        ("id", "text"),
        ("password_hash", "text"),
        ("token_count", "integer"),
        ("email", "text"),
        ("totpSecret", "bytea"),
    ];
    let catalog =
        Catalog { tables: vec![table("account", &columns, &["id"], &[])], ..Catalog::default() };
    let told = |lines: &str| {
        let text = format!("[tables.account]\nvisible = 'true'\n{lines}");
        let definition = Definition::parse("rowtide.toml", &text).expect("it is a definition");
        let plan = compile(&definition, &catalog).expect("it fits");
        sent_secrets(&definition, &plan)
    };
    let [problem] = &told("hidden = ['email']")[..] else { panic!("one table has some") };
    assert_eq!(
        problem.what,
        r#"columns "password_hash", "totpSecret" look like secrets, and whoever sees a row of "public"."account" gets it"#
    );
    let repair = problem.repair.as_deref().expect("there is advice");
    let (list, place) = repair.split_once(" in ").expect("it says where");
    assert!(place.starts_with("[tables.account];"), "{place}");
    assert!(told(list).is_empty(), "what is advised is accepted, and enough: {list}");
    assert!(told("columns = ['id', 'totpSecret']").is_empty(), "somebody wants that");
}

#[test]
fn what_an_insert_needs_and_no_client_can_give_is_told() {
    let mut catalog = notes();
    let price = catalog.tables[0].column("price").expect("the column is there");
    let told = |catalog: &Catalog| {
        let problems = check_plan(&plan(HIDING, catalog));
        problems.iter().any(|problem| problem.what.contains("needs a value of \"price\""))
    };
    assert!(!told(&catalog), "it may be null");
    catalog.tables[0].columns[price].not_null = true;
    assert!(told(&catalog));
    catalog.tables[0].columns[price].input.default = Some("1".to_owned());
    assert!(!told(&catalog));
}

#[test]
fn sets() {
    kept(
        "sets",
        &drawn(&[
            "id IN (SELECT note FROM share WHERE person = auth.user_id) AND team IN (SELECT team FROM member WHERE person = auth.user_id)",
            "(\"ownerId\" = auth.user_id OR id IN (SELECT note FROM share WHERE person = auth.user_id)) AND team IN (SELECT team FROM member WHERE person = auth.user_id)",
            "team IN (SELECT team FROM member WHERE person = auth.user_id) AND (shared OR id IN (SELECT note FROM share WHERE person = auth.user_id))",
            "team IN (SELECT team FROM member WHERE person = auth.user_id) AND \"ownerId\" NOT IN (SELECT person FROM share)",
            "\"ownerId\" = auth.user_id AND NOT (id IN (SELECT note FROM share) AND team IN (SELECT team FROM member))",
            "NOT (shared OR id IN (SELECT note FROM share WHERE person = auth.user_id))",
            "EXISTS (SELECT 1 FROM share AS s WHERE s.note = note.id AND (note.\"ownerId\" = s.person AND person <> 'x'))",
            "(id, \"ownerId\") IN (SELECT note, person FROM share)",
            "shared AND NOT EXISTS (SELECT * FROM share WHERE note.id = share.note AND person = auth.user_id)",
            "\"ownerId\" = auth.user_id OR EXISTS (SELECT FROM member WHERE person = auth.user_id AND role = 'admin')",
            "\"ownerId\" = auth.claims.owner AND EXISTS (SELECT FROM member WHERE person = auth.user_id)",
            "NOT EXISTS (SELECT person FROM member WHERE person = auth.user_id)",
            "team IN (SELECT team FROM member WHERE person = auth.user_id AND person NOT IN (SELECT person FROM share))",
            "id NOT IN (SELECT note FROM share WHERE false)",
            "(id IN (SELECT note FROM share WHERE person = auth.user_id)) IS NOT TRUE",
            "coalesce(id IN (SELECT note FROM share), true)",
            "\"ownerId\" = auth.user_id AND (id IN (SELECT note FROM share) AND shared) IS UNKNOWN",
            "(team IN (SELECT team FROM member WHERE person = auth.user_id) AND id NOT IN (SELECT note FROM share)) IS TRUE",
            "team = ANY (auth.claims.teams) AND id IN (SELECT note FROM share WHERE person = ANY (auth.claims.app.people))",
            "stars::numeric = auth.claims.level AND id IN (SELECT note FROM share)",
        ]),
    );
}

#[test]
fn auth_is_a_claim_whatever_tables_are_called() {
    let branches = |name: &str| {
        let rule = format!(
            "id IN (SELECT note FROM share AS {name} WHERE EXISTS (SELECT 1 FROM member WHERE member.person = auth.user_id))"
        );
        let drawn = drawn(&[&rule]);
        drawn.split_once("\n\n").expect("a rule comes before its branches").1.to_owned()
    };
    assert_eq!(branches("auth"), branches("s"));
}

#[test]
fn a_table_that_is_held_whole_because_of_others_is_named() {
    let held = |rule: &str| {
        let plan = plan(&format!("[tables.note]\nvisible = '''{rule}'''"), &notes());
        check_plan(&plan).iter().filter(|problem| problem.what.contains("held in memory")).count()
    };
    assert_eq!(held("EXISTS (SELECT 1 FROM member WHERE person = auth.user_id)"), 1);
    assert_eq!(held("id NOT IN (SELECT note FROM share WHERE person = auth.user_id)"), 1);
    assert_eq!(held("\"ownerId\" = auth.user_id AND id NOT IN (SELECT note FROM share)"), 0);
    assert_eq!(held("shared"), 0);
}

#[test]
fn values_that_every_view_keeps_are_named() {
    let kept = |rule: &str| {
        let plan = plan(&format!("[tables.note]\nvisible = '''{rule}'''"), &notes());
        check_plan(&plan).iter().filter(|problem| problem.what.contains("each view keeps")).count()
    };
    let mine = "SELECT team FROM member WHERE person = auth.user_id";
    assert_eq!(
        kept(&format!("team IN ({mine}) AND team IN (SELECT id FROM team WHERE org = 'a')")),
        1
    );
    assert_eq!(
        kept(&format!("team IN (SELECT id FROM team WHERE org = 'a' AND id IN ({mine}))")),
        0
    );
    assert_eq!(kept(&format!("\"ownerId\" = auth.user_id AND team NOT IN ({mine})")), 0);
    assert_eq!(kept("shared AND EXISTS (SELECT 1 FROM team)"), 0, "it is one value");
}

#[test]
fn whatever_the_order_a_condition_that_names_a_claim_finds_the_rows() {
    let is_found_by_claim = |rule: &str| {
        let plan = plan(&format!("[tables.note]\nvisible = '''{rule}'''"), &notes());
        let published = plan.branches.iter().find(|branch| branch.published);
        let source = published.expect("the rule has a branch").source;
        let names_it =
            |branch: &&Branch| branch.links.iter().any(|link| plan.branch(link.target).published);
        matches!(source, Source::Claim(_))
            || plan.branches.iter().filter(names_it).all(|branch| branch.source != Source::Everyone)
    };
    let (mine, all) = (
        "team IN (SELECT team FROM member WHERE person = auth.user_id)",
        "team IN (SELECT id FROM team)",
    );
    let own = "\"ownerId\" = auth.user_id";
    let teams = "team = ANY (auth.claims.teams)";
    let notes = "id IN (SELECT note FROM share)";
    for parts in [
        [mine, all, "shared"],
        [own, all, "shared"],
        [own, all, notes],
        [mine, all, notes],
        [teams, all, notes],
        [
            notes,
            all,
            "\"ownerId\" IN (SELECT person FROM share WHERE person = ANY (auth.claims.a))",
        ],
    ] {
        for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]] {
            let rule = order.map(|part| parts[part]).join(" AND ");
            assert!(is_found_by_claim(&rule), "{rule}");
        }
    }
    assert!(!is_found_by_claim(all));
}

#[test]
fn documents() {
    let definition = r#"
[tables.note]
visible = 'true'

[documents.board]
table = "team"
protocol = "tlsync"
alive = "org <> 'none' -- for now"
read = """
  EXISTS (SELECT FROM member AS m JOIN public.share s ON s.person = m.person
          WHERE m.team = team.id AND m.person = auth.user_id)
  OR org IN (WITH mine AS (SELECT id FROM org WHERE person = auth.user_id) SELECT id FROM mine)
"""
edit = 'auth.claims.role = org AND org IN (SELECT unnest(ARRAY[auth.user_id]))'
name = "org"

[documents.text]
table = "note"
protocol = "yjs"
read = 'shared OR "ownerId" = auth.user_id'
edit = '"ownerId" = auth.user_id'
touched = "seen"
restore = '"ownerId" = auth.user_id'
published = "shared"
slug = "ownerId"
republish = "seen"
publish_error = "title"
source = "title"
"#;
    let text = explain(&plan(definition, &notes()));
    kept("documents", text.split_once("\ndocuments\n").expect("there are some").1);
}

#[test]
fn a_whole_plan() {
    let definition = include_str!("../../../examples/files/rowtide.toml");
    let user = [("id", "text"), ("name", "text"), ("email", "text"), ("avatar", "text")];
    let user = [&user[..], &[("createdAt", "bigint"), ("flags", "text")]].concat();
    let file =
        [("id", "text"), ("ownerId", "text"), ("ownerName", "text"), ("ownerAvatar", "text")];
    let more = [("shared", "boolean"), ("isDeleted", "boolean"), ("createdAt", "bigint")];
    let more = [
        &more[..],
        &[
            ("name", "text"),
            ("sharedLinkType", "text"),
            ("published", "boolean"),
            ("lastPublished", "bigint"),
        ],
    ]
    .concat();
    let file = [
        &file[..],
        &more,
        &[("updatedAt", "bigint"), ("createSource", "text"), ("publishedSlug", "text")],
    ]
    .concat();
    let state = [("userId", "text"), ("fileId", "text"), ("isFileOwner", "boolean")];
    let state = [&state[..], &[("firstVisitAt", "bigint")]].concat();
    let mut catalog = Catalog {
        tables: vec![
            table("user", &user, &["id"], &[]),
            table("file", &file, &["id"], &["ownerId"]),
            table("file_state", &state, &["userId", "fileId"], &["fileId"]),
        ],
        ..Catalog::default()
    };
    kept("the_files_example", &explain(&plan(definition, &catalog)));
    catalog.tables[1].indexes.clear();
    let keyed_by_number = [("id", "bigint"), ("person", "text")];
    catalog.tables.push(table("event", &keyed_by_number, &["id"], &["person"]));
    let definition = format!("{definition}\n[tables.event]\nvisible = 'person = auth.user_id'\n");
    let problems = check_plan(&plan(&definition, &catalog));
    let shown = problems.iter().map(|problem| {
        let fatal = if problem.fatal { "must be repaired" } else { "is served" };
        format!("{} ({fatal})\n  {}\n", problem.what, problem.repair.as_deref().unwrap_or("-"))
    });
    kept("what_could_be_better", &shown.collect::<String>());
}
