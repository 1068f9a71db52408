//! What is wrong with queries, and that following the advice helps.

use crate::catalogs::notes;
use crate::{kept, read, rejections};

/// A definition with a query of notes that has these parameters, and this under `select`.
fn query(params: &str, select: &str) -> String {
    format!(
        "[tables.note]\nvisible = 'shared'\nsync = \"on_demand\"\n\n\
         [queries.some]\nparams = {{ {params} }}\n[queries.some.select]\n{select}\n"
    )
}

/// What is wrong, and the same as the advice has it.
fn mended() -> Vec<(String, String)> {
    let note = |condition: &str| format!("note = {{ where = '{condition}' }}");
    let by_team = note("team = params.team");
    let first = |window: &str| format!("note = {{ where = 'shared', {window} }}");
    vec![
        // A parameter: of a type that there is not, of another type than its column, with a default of another type.
        (query("team = \"uid\"", &by_team), query("team = \"uuid\"", &by_team)),
        (query("team = \"team\"", &by_team), query("team = \"uuid\"", &by_team)),
        (query("team = \"int4\"", &by_team), query("team = \"uuid\"", &by_team)),
        (
            query("stars = \"int4 = many\"", &note("stars > params.stars")),
            query("stars = \"int4 = 3\"", &note("stars > params.stars")),
        ),
        (
            query("stars = \"int2 = 40000\"", &note("stars > params.stars")),
            query("stars = \"int4 = 40000\"", &note("stars > params.stars")),
        ),
        (
            query("status = \"text = open\"", &note("status = params.status")),
            query("status = \"text = 'open'\"", &note("status = params.status")),
        ),
        (
            query("teams = \"uuid[] = ''\"", &note("team = ANY (params.teams)")),
            query("teams = \"uuid[] = null\"", &note("team = ANY (params.teams)")),
        ),
        // A list and one value.
        (
            query("teams = \"uuid\"", &note("team = ANY (params.teams)")),
            query("teams = \"uuid[]\"", &note("team = ANY (params.teams)")),
        ),
        (query("team = \"uuid[]\"", &by_team), query("team = \"uuid\"", &by_team)),
        // One that is not used, one that is not there, one without a name.
        (query("team = \"uuid\", other = \"text\"", &by_team), query("team = \"uuid\"", &by_team)),
        (query("team = \"uuid\"", &note("team = params.taem")), query("team = \"uuid\"", &by_team)),
        (query("", &by_team), query("team = \"uuid\"", &by_team)),
        (
            query("\"a b\" = \"uuid\", team = \"uuid\"", &note("team = params.team")),
            query("team = \"uuid\"", &by_team),
        ),
        // What is selected: a table that is not there, one that is none of the definition, none.
        (
            query("team = \"uuid\"", &by_team.replace("note", "nots")),
            query("team = \"uuid\"", &by_team),
        ),
        (
            query("team = \"uuid\"", "member = { where = 'team = params.team' }"),
            query("team = \"uuid\"", "member = { where = 'team = params.team' }")
                + "[tables.member]\nvisible = 'person = auth.user_id'\n",
        ),
        (query("", ""), query("team = \"uuid\"", &by_team)),
        // The rule: a column that is not there, in it and in a membership; what is not supported; a word of SQL's own.
        (query("team = \"uuid\"", &note("taem = params.team")), query("team = \"uuid\"", &by_team)),
        (
            query(
                "who = \"text\"",
                &note("id IN (SELECT node FROM share WHERE person = params.who)"),
            ),
            query(
                "who = \"text\"",
                &note("id IN (SELECT note FROM share WHERE person = params.who)"),
            ),
        ),
        (
            query(
                "title = \"text\"",
                "note = { where = '''\n  shared\n  AND title LIKE params.title\n''' }",
            ),
            query(
                "title = \"text\"",
                "note = { where = '''\n  shared\n  AND title = params.title\n''' }",
            ),
        ),
        // A window: an order or a limit alone, no number of rows, no column, one that has no order, no parameter that counts.
        (query("", &first("order = 'stars'")), query("", &first("order = 'stars', limit = 50"))),
        (query("", &first("limit = 50")), query("", &first("order = 'made DESC', limit = 50"))),
        (
            query("", &first("order = 'stars', limit = 0")),
            query("", &first("order = 'stars', limit = 10000")),
        ),
        (
            query("", &first("order = 'stars', limit = 1000000000")),
            query("", &first("order = 'stars', limit = '10000'")),
        ),
        (
            query("", &first("order = 'stars', limit = 'all'")),
            query("count = \"int4 = 50\"", &first("order = 'stars', limit = 'params.count'")),
        ),
        (
            query("count = \"int4\"", &first("order = 'stars', limit = 'params.cuont'")),
            query("count = \"int4\"", &first("order = 'stars', limit = 'params.count'")),
        ),
        (
            query("", &first("order = 'stars', limit = 'params.count'")),
            query("count = \"int4 = 50\"", &first("order = 'stars', limit = 'params.count'")),
        ),
        (
            query("count = \"text\"", &first("order = 'stars', limit = 'params.count'")),
            query("count = \"int4 = 50\"", &first("order = 'stars', limit = 'params.count'")),
        ),
        (
            query("count = \"int4 = -1\"", &first("order = 'stars', limit = 'params.count'")),
            query("count = \"int4 = 50\"", &first("order = 'stars', limit = 'params.count'")),
        ),
        (
            query("", &first("order = 'satrs desc', limit = 50")),
            query("", &first("order = 'stars desc', limit = 50")),
        ),
        (
            query("", &first("order = 'stars + 1', limit = 50")),
            query("", &first("order = 'stars DESC, id DESC', limit = 50")),
        ),
        (
            query("", &first("order = 'team.stars', limit = 50")),
            query("", &first("order = 'note.stars', limit = 50")),
        ),
        (
            query("", &first("order = 'status', limit = 50")),
            query("", &first("order = 'title', limit = 50")),
        ),
        (
            query("", &first("order = 'stars LIMIT 3', limit = 50")),
            query("", &first("order = 'stars, title', limit = 50")),
        ),
        // Elsewhere: parameters are a query's alone, and `sync` has two words.
        (
            query("team = \"uuid\"", &by_team).replace("'shared'", "'team = params.team'"),
            query("team = \"uuid\"", &by_team).replace("'shared'", "'team = auth.claims.team'"),
        ),
        (
            query("team = \"uuid\"", &by_team).replace("on_demand", "on-demand"),
            query("team = \"uuid\"", &by_team),
        ),
    ]
}

#[test]
fn what_is_wrong_with_a_query_is_pointed_at() {
    let (wrong, _): (Vec<String>, Vec<String>) = mended().into_iter().unzip();
    kept("queries", &rejections(&notes(), &wrong));
}

#[test]
fn what_is_advised_is_accepted() {
    for (wrong, mended) in mended() {
        if let Err(error) = read(&mended, &notes()) {
            panic!("{mended}\n{error:?}\ninstead of\n{wrong}");
        }
    }
}
