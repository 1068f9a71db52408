//! Advice on conditions of one row.

use super::{Followed, rule};

pub(super) fn expressions() -> Vec<Followed> {
    let stored = "keep what you need in a column of the row, by a trigger or as a stored value";
    let type_of_column = "leave the cast out, and beside the column write a claim, or";
    let keep_it = "for anything else keep the value in a column of type";
    let other_type = "compare it with what is of type";
    vec![
        rule(
            "made = now()",
            "compare with <, <=, > or >=",
            &["made < now()", "made <= now()", "made > now()", "made >= now()"],
        ),
        rule(
            "made > now() - interval '1 month'",
            "count days, as in `interval '30 days'`, or keep the moment in a column of the row",
            &["made > now() - interval '30 days'", "made > now()"],
        ),
        rule("stars > now()", "make the column a `timestamptz`", &[]),
        rule("made > clock_timestamp()", "compare a `timestamptz` with `now()`", &["made > now()"]),
        rule(
            "made > now() - interval '1 fortnight'",
            "write numbers with units, as in `interval '24 hours'` or `interval '1 day 30 minutes'`",
            &["made > now() - interval '24 hours'", "made > now() - interval '1 day 30 minutes'"],
        ),
        rule(
            "made > now() - interval '99999999 days'",
            "write an interval of less than 10,000 years",
            &["made > now() - interval '3600000 days'"],
        ),
        rule(
            "now() - made < interval '24 hours'",
            "write `created_at > now() - interval '24 hours'`, with the column by itself",
            &["made > now() - interval '24 hours'"],
        ),
        rule(
            "now() IS NULL",
            "write `expires_at > now()`, or `created_at > now() - interval '24 hours'`",
            &["made > now()", "made > now() - interval '24 hours'"],
        ),
        rule("lower(title) = auth.user_id", stored, &["title = auth.user_id"]),
        rule("title ~ '^a'", "compare with =, <>, <, <=, > or >=", &["title = 'a'", "stars >= 1"]),
        rule(
            "title::varchar(3) = 'a'",
            "leave out the length",
            &["title::varchar = 'a'", "title = 'a'"],
        ),
        rule(
            "(title = 'a')::text = 'true'",
            "join conditions with AND, OR and NOT",
            &["title = 'a'"],
        ),
        rule(
            "(stars = 1) = shared",
            "join conditions with AND, OR and NOT",
            &["stars = 1 AND shared OR NOT stars = 1 AND NOT shared"],
        ),
        rule(
            "coalesce(title, 'a') = 'a'",
            "write `a = x OR a IS NULL`",
            &["title = 'a' OR title IS NULL"],
        ),
        rule(
            "coalesce(shared, archived)",
            "write `coalesce(condition, false)` or `coalesce(condition, true)`",
            &["coalesce(shared, false)", "coalesce(shared, true)"],
        ),
        rule(
            "CASE WHEN shared THEN true ELSE archived END",
            "write it with AND and OR",
            &["shared OR NOT shared AND archived"],
        ),
        rule("title COLLATE \"C\" = 'a'", "leave it out", &["title = 'a'"]),
        rule(
            "(id, stars) = (1, 2)",
            "compare column by column, joined with AND",
            &["id = 1 AND stars = 2"],
        ),
        rule(
            "stars > ANY (levels)",
            "write `x = ANY (array)` or `x <> ALL (array)`",
            &["stars = ANY (levels)", "stars <> ALL (levels)"],
        ),
        rule("stars = ANY (ARRAY[]::int[])", "write false", &["false"]),
        rule("stars <> ALL (ARRAY[]::int[])", "write true", &["true"]),
        rule(
            "stars = ANY ('{1,2}')",
            "write `x IN (1, 2)`, `x = ANY (column)` or `x = ANY (auth.claims.NAME)`",
            &["stars IN (1, 2)", "stars = ANY (levels)", "stars = ANY (auth.claims.levels)"],
        ),
        rule(
            "stars = ANY (levels::int8[])",
            "write `x IN (1, 2)`, `x = ANY (column)`",
            &["stars = ANY (levels)"],
        ),
        rule(
            "stars = ANY (stars)",
            "ANY takes columns that are arrays of numbers, texts, times, booleans and uuids",
            &["stars = ANY (levels)"],
        ),
        rule(
            "title = E'a\\n'",
            "write numbers, 'text', true, false or NULL",
            &["title = 'a'", "stars = 1", "shared = true", "shared = false", "stars = NULL"],
        ),
        rule("5", "compare a column with it", &["stars = 5"]),
        rule("1 = 1", "compare a column or a claim", &["stars = 1", "auth.claims.level = 1"]),
        rule(
            "NULL IS NULL",
            "compare a column or a claim",
            &["stars IS NULL", "auth.claims.a IS NULL"],
        ),
        rule("stars AND shared", "compare it with something", &["stars = 5 AND shared"]),
        rule("extra", "such a column can only be tested with IS NULL", &["extra IS NOT NULL"]),
        rule("tags", "write `x = ANY (column)`", &["'a' = ANY (tags)"]),
        rule(
            "tags = '{}'",
            "write `x = ANY (column)`, or test it with IS NULL",
            &["'a' = ANY (tags)", "tags IS NULL"],
        ),
        rule("extra = '{}'", "such a column can only be tested with IS NULL", &["extra IS NULL"]),
        rule(
            "title < 'm'",
            "compare with = or <>, or keep a number",
            &["title = 'm'", "title <> 'm'", "stars < 5"],
        ),
        rule(
            "shared < archived",
            "compare with = or <>, or keep a number",
            &["shared <> archived"],
        ),
        rule("stars = price", "compare columns of the same kind of type", &["stars = id"]),
        rule("status = mood", "compare columns of the same kind of type", &["mood = mood"]),
        rule("title = 5::int", other_type, &["title = '5'", "title = '5'::text"]),
        rule(
            "status = ANY (tags)",
            "compare it with elements of the same kind of type",
            &["status::text = ANY (tags)"],
        ),
        rule("\"ownerId\"::uuid = auth.user_id", type_of_column, &["\"ownerId\" = auth.user_id"]),
        rule("title::int = 5", type_of_column, &["title = 'text'"]),
        rule("made::date = '2026-01-31'", type_of_column, &["made = '2026-01-31 12:00:00+00'"]),
        rule("due::timestamp = made", keep_it, &["seen = made"]),
        rule("title::int = stars", keep_it, &["id = stars"]),
        rule("status = 'open'::nothing", "leave the cast out", &["status = 'open'"]),
        rule("stars IN (1, '2'::text)", "leave the cast out", &["stars IN (1, '2')"]),
        rule(
            "stars::text::int = 5",
            "cast once, to the type that it is compared with",
            &["stars::int = 5"],
        ),
        rule("title::text::int = 5", type_of_column, &["title = 'text'"]),
        rule("title = 5", "write 'text' in single quotes", &["title = '5'"]),
        rule("stars = 'many'", "write a whole number, such as 42", &["stars = 42"]),
        rule("price = 'NaN '", "write a number, such as 4.2", &["price = 4.2", "score = 4.2"]),
        rule("due = 'tomorrow'", "write '2026-01-31', for example", &["due = '2026-01-31'"]),
        rule(
            "made > '2026-13-01'",
            "write '2026-01-31 12:00:00+00', for example",
            &["made > '2026-01-31 12:00:00+00'"],
        ),
        rule("shared = 1", "write true or false", &["shared = true", "shared = false"]),
        rule(
            "status = 'nothing'",
            "write one of 'open', 'done'",
            &["status = 'open'", "status = 'done'"],
        ),
        rule("mood = 'nothing at all'", "write one of 'mood 1', 'mood 2'", &["mood = 'mood 1'"]),
        rule("status = 'opne'", "did you mean 'open'?", &["status = 'open'"]),
        rule(
            "team = 'red'",
            "write 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', for example",
            &["team = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
        ),
        rule(
            "id IN (1, stars, auth.claims.level)",
            "write `a = x OR a = y` for columns and claims",
            &["id = 1 OR id = stars OR id = auth.claims.level"],
        ),
        rule("stars == 1", "write =", &["stars = 1"]),
        rule("stars = 5L", "write 5", &["stars = 5"]),
        rule(
            "shared archived",
            "join parts with AND and OR",
            &["shared AND archived", "shared OR archived"],
        ),
    ]
}
