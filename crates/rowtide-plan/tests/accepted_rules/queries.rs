//! Queries: how a plan with some is drawn, and what could be better about them.

use rowtide_plan::check::{Problem, check_plan};
use rowtide_plan::explain::explain;

use crate::catalogs::notes;
use crate::{kept, plan};

const QUERIES: &str = r#"
[tables.note]
visible = "\"ownerId\" = auth.user_id OR team IN (SELECT team FROM member WHERE person = auth.user_id)"
sync = "on_demand"
[tables.team]
visible = 'true'
[queries.by_team]
params = { team = "uuid", stars = "int4 = 3", status = "text = 'open'", shared = "bool = true" }
[queries.by_team.select]
note = { where = 'team = params.team AND stars > params.stars AND status = params.status AND shared = params.shared' }
team = { where = 'id = params.team' }
[queries.shared_with]
params = { people = "text[]", since = "timestamptz = null" }
[queries.shared_with.select]
note = { where = 'id IN (SELECT note FROM share WHERE person = ANY (params.people)) AND made > params.since' }
[queries.mine.select]
note = { where = '"ownerId" = auth.user_id' }
[queries.nothing.select]
note = { where = 'false' }
"#;

#[test]
fn queries() {
    kept("queries", &explain(&plan(QUERIES, &notes())));
}

/// What `rowtide check` says of a definition, with what it advises.
fn told_of(definition: &str) -> Vec<(String, String)> {
    let problems = check_plan(&plan(definition, &notes())).into_iter();
    let of_keys = |problem: &Problem| problem.what.contains("is a bigint");
    problems
        .filter(|problem| !of_keys(problem))
        .map(|problem| (problem.what, problem.repair.unwrap_or_default()))
        .collect()
}

#[test]
fn a_table_on_demand_that_no_query_selects_is_told_of_with_advice_that_helps() {
    let alone = "[tables.note]\nvisible = 'shared'\nsync = \"on_demand\"\n";
    let is_nobodys = |definition: &str| {
        told_of(definition).into_iter().find(|(what, _)| what.contains("nobody is sent any"))
    };
    let (what, repair) = is_nobodys(alone).expect("it is told of");
    assert!(what.starts_with("\"public\".\"note\" is synced on demand"), "{what}");
    let line =
        repair.split('`').nth(1).expect("it says what to write").replace('…', "id = params.id");
    let query = "[queries.one]\nparams = { id = \"int8\" }\n[queries.one.select]\n";
    assert_eq!(is_nobodys(&format!("{alone}{query}{line}\n")), None, "{line}");
    assert_eq!(is_nobodys(&alone.replace("sync = \"on_demand\"\n", "")), None);
    // Selected of another table only.
    let other = "[tables.team]\nvisible = 'true'\n[queries.x.select]\nteam = { where = 'true' }\n";
    assert!(is_nobodys(&format!("{alone}{other}")).is_some());
}

/// What no view reaches is loaded for nobody, so nothing is told of it.
#[test]
fn what_may_be_seen_of_a_table_on_demand_needs_no_index_until_a_query_asks_for_it() {
    let visible = "title = auth.user_id OR id IN (SELECT note FROM share WHERE note = 1)";
    let on_demand = format!("[tables.note]\nvisible = '{visible}'\nsync = \"on_demand\"\n");
    let by_id = "[queries.q]\nparams = { id = \"int8\" }\n[queries.q.select]\nnote = { where = 'id = params.id' }\n";
    let anchors = |definition: &str| {
        let told = told_of(definition).into_iter();
        let told = told.filter(|(what, _)| what.contains("no index serves"));
        told.map(|(what, _)| what).collect::<Vec<String>>()
    };
    assert_eq!(anchors(&format!("{on_demand}{by_id}")), Vec::<String>::new());
    assert!(
        !explain(&plan(&format!("{on_demand}{by_id}"), &notes()))
            .contains("note by \"title\" (no index")
    );
    let always = on_demand.replace("on_demand", "always");
    assert!(anchors(&always)[0].contains("\"title\""), "{:?}", anchors(&always));
}

#[test]
fn a_selection_that_needs_a_scan_is_told_of_with_the_index_to_make() {
    let with = |visible: &str, condition: &str, param: &str| {
        told_of(&format!(
            "[tables.note]\nvisible = '{visible}'\nsync = \"on_demand\"\n\
             [queries.q]\nparams = {{ x = \"{param}\" }}\n\
             [queries.q.select]\nnote = {{ where = '{condition}' }}\n"
        ))
    };
    let told = with("shared", "title = params.x", "text");
    let [(what, repair)] = &told[..] else { panic!("{told:?}") };
    assert!(what.starts_with("no index serves the anchor \"title\""), "{what}");
    assert_eq!(repair, "CREATE INDEX CONCURRENTLY ON \"public\".\"note\" (\"title\");");
    let told = with("shared", "stars > params.x", "int4");
    let [(what, repair)] = &told[..] else { panic!("{told:?}") };
    assert!(what.contains("that the query `q` selects: all of the table is read"), "{what}");
    assert!(repair.contains("`column = params.x`"), "{repair}");
    // What may be seen finds the rows, or all of them are there anyway.
    let owned = with("\"ownerId\" = auth.user_id", "stars > params.x", "int4");
    assert!(owned.iter().all(|(what, _)| !what.contains("the query `q`")), "{owned:?}");
    let told = told_of(
        "[tables.note]\nvisible = 'true'\n[queries.q]\nparams = { x = \"int4\" }\n\
         [queries.q.select]\nnote = { where = 'stars > params.x' }\n",
    );
    assert!(told.iter().all(|(what, _)| !what.contains("the query `q`")), "{told:?}");
}

/// A query of the first notes of a team.
const WINDOW: &str = r#"
[tables.note]
visible = '"ownerId" = auth.user_id OR shared'
sync = "on_demand"
[queries.latest]
params = { team = "uuid", count = "int4 = 50" }
[queries.latest.select]
note = { where = 'team = params.team', order = 'made DESC NULLS LAST, title', limit = 'params.count' }
"#;

#[test]
fn windows() {
    kept("windows", &explain(&plan(WINDOW, &notes())));
}

#[test]
fn a_window_without_an_index_for_its_order_is_told_of_with_the_index() {
    let told = |catalog: &rowtide_plan::catalog::Catalog| {
        let problems = check_plan(&plan(WINDOW, catalog)).into_iter();
        let of_index = |problem: &Problem| problem.what.contains("index");
        problems.filter(of_index).map(|problem| problem.repair).collect::<Vec<_>>()
    };
    let index = "CREATE INDEX CONCURRENTLY ON \"public\".\"note\" \
                 (\"team\", \"made\" DESC NULLS LAST, \"title\" COLLATE \"C\", \"id\");";
    assert_eq!(told(&notes()), [Some(index.to_owned())]);
    let mut indexed = notes();
    let note = indexed.tables.iter_mut().find(|table| table.name == "note").expect("it is there");
    note.indexes.push(rowtide_plan::catalog::CatalogIndex {
        name: "note_latest".to_owned(),
        columns: vec!["team".to_owned(), "made".to_owned()],
        of_elements: false,
    });
    assert_eq!(told(&indexed), []);
    assert!(explain(&plan(WINDOW, &indexed)).contains("index \"note_latest\""));
}
