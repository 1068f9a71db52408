//! Advice on entries of the file: tables, settings, mutations and queries.

use super::{Followed, lines, rule, whole};

/// A query of notes with a parameter, and what it selects.
fn query(params: &str, select: &str) -> String {
    format!("[queries.some]\nparams = {{ {params} }}\n[queries.some.select]\n{select}")
}

pub(super) fn entries() -> Vec<Followed> {
    let entry = "[tables.note]\nvisible = 'true'\n";
    vec![
        whole(
            "",
            "[tables.note]\nvisible = '\"ownerId\" = auth.user_id'",
            &["[tables.note]\nvisible = '\"ownerId\" = auth.user_id'"],
        ),
        whole("[tables.note]\nvisable = 'true'\n", "[tables.NAME] with `visible`", &[entry]),
        whole(
            "[tables.\".note\"]\nvisible = 'true'\n",
            "write NAME, or \"SCHEMA.NAME\" for another schema than public",
            &[entry, "[tables.\"other.item\"]\nvisible = 'true'\n"],
        ),
        whole(
            &format!("{entry}[tables.\"public.note\"]\nvisible = 'true'\n"),
            "`NAME` and `public.NAME` are the same table",
            &[entry],
        ),
        whole(
            &format!("[app]\nint8 = \"text\"\n{entry}"),
            "write \"number\" or \"string\"",
            &[
                &format!("[app]\nint8 = \"number\"\n{entry}"),
                &format!("[app]\nint8 = \"string\"\n{entry}"),
            ],
        ),
        lines(
            "sync = 'never'",
            "write \"always\" or \"on_demand\"",
            &["sync = \"always\"", "sync = \"on_demand\""],
        ),
        lines(
            "columns = ['id', 'title']\nhidden = ['price']",
            "keep one of them",
            &["columns = ['id', 'title']", "hidden = ['price']"],
        ),
        lines("hidden = ['id']", "take it out of `hidden`", &["hidden = []"]),
        lines("columns = ['title']", "add \"id\"", &["columns = ['title', \"id\"]"]),
        lines(
            "hidden = ['price']\nreadonly = ['price']",
            "leave it out here",
            &["hidden = ['price']\nreadonly = []"],
        ),
        lines(
            "[[tables.note.update]]\ncolumns = []\nallow = 'true'",
            "name columns, or leave `columns` out for all of them",
            &[
                "[[tables.note.update]]\ncolumns = ['title']\nallow = 'true'",
                "[[tables.note.update]]\nallow = 'true'",
            ],
        ),
        lines(
            "[tables.note.insert]\nallow = 'auth.uid() = id'",
            "write auth.user_id, or auth.claims.NAME for another claim of the token; a schema of this name takes double quotes: \"auth\".uid()",
            &[
                "[tables.note.insert]\nallow = 'auth.user_id = \"ownerId\" AND auth.claims.a'",
                "[tables.note.insert]\nallow = '\"auth\".uid() = \"ownerId\"'",
            ],
        ),
        lines(
            "[writes]\nrole = 'none'",
            "write a role that policies and grants are for, such as \"authenticated\"",
            &["[writes]\nrole = \"authenticated\""],
        ),
        lines(
            "[app]\nolder_clients = true",
            "write [tables.user] with `visible`",
            &[
                "[tables.user]\nvisible = 'true'\n[tables.file]\nvisible = 'true'\n[tables.file_state]\nvisible = 'true'\n[app]\nolder_clients = true",
            ],
        ),
    ]
}

pub(super) fn calls_and_queries() -> Vec<Followed> {
    let mutation = |params: &str, run: &str| {
        format!("[mutations.m]\nparams = {{ {params} }}\nrun = '''{run}'''")
    };
    let of_note = |condition: &str| format!("note = {{ where = '''{condition}''' }}");
    let by_title = of_note("title = params.x");
    let one = |wrong: &str, advice, right: &[&str]| lines(wrong, advice, right);
    let default = "write a number, true, false, null, or text in single quotes";
    vec![
        one(
            &mutation("x = 'text'", "SELECT 1"),
            "write params.x where its value belongs, or take it out",
            &[&mutation("x = 'text'", "SELECT params.x"), &mutation("", "SELECT 1")],
        ),
        one(
            &mutation("", "VACUUM"),
            "begin with SELECT, INSERT, UPDATE, DELETE, MERGE or WITH",
            &[&mutation("", "SELECT 1"), &mutation("", "WITH a AS (SELECT 1) SELECT * FROM a")],
        ),
        one(
            &mutation("", "SELECT 1; SELECT 2"),
            "put several statements into a function, and SELECT that",
            &[&mutation("", "SELECT f()")],
        ),
        one(
            &mutation("x = 'text'", "SELECT $1, params.x"),
            "write params.NAME",
            &[&mutation("x = 'text'", "SELECT params.x")],
        ),
        one(
            &mutation("token = 'text'", "SELECT params.tokn, params.token"),
            "did you mean params.token?",
            &[&mutation("token = 'text'", "SELECT params.token")],
        ),
        one(
            &mutation("", "SELECT params.x"),
            "add `x = \"text\"` to `params`",
            &[&mutation("x = \"text\"", "SELECT params.x")],
        ),
        one(
            &mutation("x = 'varchar(3)'", "SELECT params.x"),
            "write the type without a length",
            &[&mutation("x = \"text\"", "SELECT params.x")],
        ),
        one(
            &mutation("x = ''", "SELECT params.x"),
            "such as \"text\" or \"int4 = 5\"",
            &[
                &mutation("x = \"text\"", "SELECT params.x"),
                &mutation("x = \"int4 = 5\"", "SELECT params.x"),
            ],
        ),
        one(
            &mutation("x = 'text = new'", "SELECT params.x"),
            default,
            &[&mutation("x = \"text = 'new'\"", "SELECT params.x")],
        ),
        one(
            &mutation("x = 'text'", "SELECT params.x ||--and\n'b'"),
            "put a space behind the operator",
            &[&mutation("x = 'text'", "SELECT params.x || --and\n'b'")],
        ),
        one(
            &query("x = 'money'", &by_title),
            "write \"text\" (also for labels of enums)",
            &[
                &query("x = \"text\"", &by_title),
                &query("x = \"uuid\"", &of_note("team = params.x")),
                &query("x = \"int8\"", &of_note("id = params.x")),
                &query("x = \"numeric\"", &of_note("price = params.x")),
                &query("x = \"bool\"", &of_note("shared = params.x")),
                &query("x = \"date\"", &of_note("due = params.x")),
                &query("x = \"timestamptz\"", &of_note("made = params.x")),
                &query("x = \"int4[]\"", &of_note("stars = ANY (params.x)")),
                &query("x = \"text\"", &of_note("status = params.x")),
            ],
        ),
        one(
            &query("x = 'text = new'", &by_title),
            "write text in single quotes or null: \"text = 'new'\"",
            &[&query("x = \"text = 'new'\"", &by_title), &query("x = \"text = null\"", &by_title)],
        ),
        one(
            &query("x = 'int4[] = 5'", &of_note("stars = ANY (params.x)")),
            "an array has no default but null",
            &[
                &query("x = 'int4[] = null'", &of_note("stars = ANY (params.x)")),
                &query("x = 'int4[]'", &of_note("stars = ANY (params.x)")),
            ],
        ),
        one(
            &query("x = \"int4 = 'a'\"", &of_note("stars = params.x")),
            "write a number or null: \"int4 = 5\"",
            &[
                &query("x = \"int4 = 5\"", &of_note("stars = params.x")),
                &query("x = \"int4 = null\"", &of_note("stars = params.x")),
            ],
        ),
        one(
            &query("x = 'date = 5'", &of_note("due = params.x")),
            "write a date or null: \"date = '2026-01-31'\"",
            &[&query("x = \"date = '2026-01-31'\"", &of_note("due = params.x"))],
        ),
        one(
            &query("x = 'bool = 1'", &of_note("shared = params.x")),
            "write true, false or null: \"bool = true\"",
            &[&query("x = \"bool = true\"", &of_note("shared = params.x"))],
        ),
        one(
            &query("x = 'text', y = 'text'", &by_title),
            "name it in a `where` or as a `limit` as `params.y`, or leave it out",
            &[
                &query(
                    "x = 'text', y = 'text'",
                    &of_note("title = params.x AND \"ownerId\" = params.y"),
                ),
                &query("x = 'text'", &by_title),
            ],
        ),
        one(
            &query("x = 'uuid'", &by_title),
            "write \"text\"",
            &[&query("x = \"text\"", &by_title)],
        ),
        one(
            &query("x = 'uuid'", &of_note("status = params.x")),
            "write \"text\"",
            &[&query("x = \"text\"", &of_note("status = params.x"))],
        ),
        one(
            &query("x = 'text'", &of_note("id = params.x")),
            "write \"int8\"",
            &[&query("x = \"int8\"", &of_note("id = params.x"))],
        ),
        one(
            &query("x = 'text[]'", &of_note("stars = ANY (params.x)")),
            "write \"int8[]\"",
            &[&query("x = \"int8[]\"", &of_note("stars = ANY (params.x)"))],
        ),
        one(
            &query("", &by_title),
            "write it in `params` of the query, with its type",
            &[&query("x = 'text'", &by_title)],
        ),
        one(
            &query("title = 'text'", &of_note("title = params.titel OR title = params.title")),
            "did you mean `params.title`?",
            &[&query("title = 'text'", &of_note("title = params.title"))],
        ),
        one(
            "[queries.some.select]\n",
            "write [queries.some.select] with `TABLE = { where = '…' }`",
            &["[queries.some.select]\nnote = { where = 'shared' }"],
        ),
        one(
            "[queries.some.select]\n\"other.item\" = { where = 'true' }",
            "write [tables.\"other.item\"], with who may see its rows",
            &[
                "[tables.\"other.item\"]\nvisible = 'true'\n[queries.some.select]\n\"other.item\" = { where = 'true' }",
            ],
        ),
        one(
            "[queries.some.select]\nnode = { where = 'true' }",
            "did you mean `note`?",
            &["[queries.some.select]\nnote = { where = 'true' }"],
        ),
        one(
            "[queries.\"a b\".select]\nnote = { where = 'true' }",
            "write 1 to 63 of a-z A-Z 0-9 _",
            &["[queries.a_b.select]\nnote = { where = 'true' }"],
        ),
        rule("title = params.x", "only what a query selects has", &[]),
    ]
}
