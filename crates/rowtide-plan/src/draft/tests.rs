use super::policy::{Obstacle, Reader, parse};
use super::said::{Said, Voice};
use super::*;
use crate::value::ColumnType;

fn name(name: &str) -> TableName {
    TableName { schema: "public".to_owned(), name: name.to_owned() }
}

/// What a policy of `posts` says, where rows of `secret` are hidden but from their owner, and columns are text but these.
fn read(text: &str) -> Result<Said, Obstacle> {
    let table = name("posts");
    let mut hides = |of: &TableName| {
        let own = || Said::equal(Said::row("owner"), Said::user());
        Ok((of.name == "secret").then(own))
    };
    let kind = |_: &TableName, column: &str| {
        Some(match column {
            "n" | "m" => ColumnType::Int,
            "price" => ColumnType::Numeric,
            "owner" | "user_id" => ColumnType::Uuid,
            _ => ColumnType::Text,
        })
    };
    let (scopes, numbers, negated) = (Vec::new(), 0, false);
    let (hides, kind) = (&mut hides as &mut _, &kind as &_);
    Reader { table: &table, hides, kind, scopes, numbers, negated }.read(&parse(text)?)
}

#[track_caller]
fn said(text: &str) -> String {
    read(text).unwrap_or_else(|why| panic!("{why:?}")).text(Voice::Read("posts"))
}

#[test]
fn who_asks_is_said_as_a_claim() {
    for (policy, rule) in [
        ("(( SELECT auth.uid() AS uid) = user_id)", "user_id = auth.user_id"),
        ("((auth.uid())::text = (owner)::text)", "owner = auth.user_id"),
        ("(user_id = ((auth.jwt() ->> 'sub'::text))::uuid)", "user_id = auth.user_id"),
        ("((tenant)::text = (auth.jwt() ->> 'tenant'::text))", "tenant = auth.claims.tenant"),
        (
            "(((auth.jwt() -> 'app_metadata'::text) ->> 'role'::text) = 'admin'::text)",
            "auth.claims.app_metadata.role = 'admin'",
        ),
        (
            "(id = ((NULLIF(current_setting('request.jwt.claims'::text, true), ''::text))::json ->> 'sub'::text))",
            "id = auth.user_id",
        ),
        ("(id = current_setting('request.jwt.claim.sub'::text, true))", "id = auth.user_id"),
        ("(auth.role() = 'authenticated'::text)", "auth.user_id IS NOT NULL"),
        ("(auth.role() = 'service_role'::text)", "false"),
        (
            "(team_id IN ( SELECT (jsonb_array_elements_text((auth.jwt() -> 'teams'::text)))::uuid AS x))",
            "team_id = ANY (auth.claims.teams)",
        ),
        (
            "(((auth.jwt() -> 'teams'::text)) ? (team_id)::text)",
            "team_id = ANY (auth.claims.teams)",
        ),
        ("(auth.uid() = ANY (members))", "auth.user_id = ANY (members)"),
        ("(auth.uid() <> ALL (banned))", "NOT (auth.user_id = ANY (banned))"),
    ] {
        assert_eq!(said(policy), rule, "{policy}");
    }
}

#[test]
fn what_postgres_adds_when_it_prints_goes() {
    for (policy, rule) in [
        (
            "((status)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[]))",
            "status IN ('a', 'b')",
        ),
        ("(status <> ALL (ARRAY['a'::text]))", "status NOT IN ('a')"),
        ("((NOT (deleted)) AND ((a = 1) OR (b > 2)))", "NOT deleted AND (a = 1 OR b > 2)"),
        (
            "(created_at > (now() - '24:00:00'::interval))",
            "created_at > (now() - interval '24:00:00')",
        ),
        ("(body ~~ 'a%'::text)", "body LIKE 'a%'"),
        ("(\"Case\" IS NOT TRUE)", "\"Case\" IS NOT TRUE"),
        ("true", "true"),
    ] {
        assert_eq!(said(policy), rule, "{policy}");
    }
}

/// A number of which `7` is one text, and `07` none.
#[test]
fn a_cast_to_text_stays_where_it_says_something() {
    for (policy, rule) in [
        ("((n)::text = '07'::text)", "n::text = '07'"),
        ("('07'::text = (n)::text)", "'07' = n::text"),
        ("((n)::text <> '07'::text)", "n::text <> '07'"),
        ("((n)::text = ANY (ARRAY['07'::text, '8'::text]))", "n::text IN ('07', '8')"),
        ("((n)::text = (m)::text)", "n = m"),
        ("((n)::text = (auth.jwt() ->> 'n'::text))", "n = auth.claims.n"),
        ("((n)::text = (status)::text)", "status = n::text"),
        ("((price)::text = (price)::text)", "price::text = price::text"),
        ("((status)::text = '07'::text)", "status = '07'"),
        (
            "((( SELECT p.n FROM public.profile p WHERE (p.id = auth.uid())))::text = '07'::text)",
            "EXISTS (SELECT 1 FROM profile WHERE id = auth.user_id AND n::text = '07')",
        ),
        (
            "((( SELECT p.role FROM public.profile p WHERE (p.id = auth.uid())))::text = 'x'::text)",
            "EXISTS (SELECT 1 FROM profile WHERE id = auth.user_id AND role = 'x')",
        ),
        (
            "((owner)::text IN ( SELECT (m.user_id)::text FROM public.member m))",
            "owner IN (SELECT user_id FROM member)",
        ),
    ] {
        assert_eq!(said(policy), rule, "{policy}");
    }
}

#[test]
fn what_is_looked_for_in_other_tables_is_a_membership() {
    for (policy, rule) in [
        (
            "(EXISTS ( SELECT 1 FROM public.member m WHERE ((m.team_id = posts.team_id) AND (m.user_id = auth.uid()))))",
            "team_id IN (SELECT team_id FROM member WHERE user_id = auth.user_id)",
        ),
        (
            "(auth.uid() IN ( SELECT member.user_id FROM public.member WHERE (member.team_id = posts.team_id)))",
            "team_id IN (SELECT team_id FROM member WHERE user_id = auth.user_id)",
        ),
        (
            "(EXISTS ( SELECT 1 FROM (public.project p JOIN public.member m ON ((m.team_id = p.team_id))) \
              WHERE ((p.id = posts.project_id) AND (m.user_id = auth.uid()) AND p.open)))",
            "project_id IN (SELECT id FROM project WHERE open AND team_id IN (SELECT team_id FROM member WHERE user_id = auth.user_id))",
        ),
        (
            "(( SELECT p.role FROM public.profile p WHERE (p.id = auth.uid())) = 'admin'::text)",
            "EXISTS (SELECT 1 FROM profile WHERE id = auth.user_id AND role = 'admin')",
        ),
        (
            "(NOT (EXISTS ( SELECT 1 FROM app.block b WHERE ((b.blocked = posts.author) AND (b.blocker = auth.uid())))))",
            "NOT EXISTS (SELECT 1 FROM app.block WHERE blocked = posts.author AND blocker = auth.user_id)",
        ),
        (
            "(NOT (author IN ( SELECT b.blocked FROM public.block b WHERE (b.blocker = auth.uid()))))",
            "author NOT IN (SELECT blocked FROM block WHERE blocker = auth.user_id)",
        ),
        (
            "(EXISTS ( SELECT 1 FROM public.seat s WHERE ((s.a = posts.a) AND (s.b = posts.b))))",
            "(a, b) IN (SELECT a, b FROM seat)",
        ),
    ] {
        assert_eq!(said(policy), rule, "{policy}");
    }
}

#[test]
fn what_hides_rows_from_those_who_look_is_said_with_it() {
    assert_eq!(
        said("(id IN ( SELECT secret.post FROM public.secret))"),
        "id IN (SELECT post FROM secret WHERE owner = auth.user_id)"
    );
    assert_eq!(
        said("(id IN ( SELECT secret.post FROM public.secret WHERE (auth.uid() = secret.owner)))"),
        "id IN (SELECT post FROM secret WHERE owner = auth.user_id)",
        "once is enough"
    );
    assert_eq!(
        said("(NOT (id IN ( SELECT secret.post FROM public.secret)))"),
        "id NOT IN (SELECT post FROM secret)",
        "whoever must not be there must not be there unseen either"
    );
}

#[test]
fn what_has_no_words_is_told_with_the_part_that_stands_in_the_way() {
    for (policy, part) in [
        ("(private.is_member(team_id) AND a)", "private.is_member(team_id)"),
        ("((storage.foldername(name))[1] = (auth.uid())::text)", "(storage.foldername(name))[1]"),
        (
            "(org = current_setting('app.org'::text, true))",
            "current_setting('app.org'::TEXT, true)",
        ),
        (
            "(( SELECT count(*) AS count FROM public.x) > 3)",
            "(SELECT count(*) AS count FROM public.x)",
        ),
        ("(a IN ( SELECT x.a FROM public.x LIMIT 1))", "SELECT x.a FROM public.x LIMIT 1"),
        ("(CASE WHEN a THEN b ELSE c END)", "CASE WHEN a THEN b ELSE c END"),
        ("((a IN ( SELECT x.a FROM public.x)) IS NOT FALSE)", "(a IN (SELECT x.a FROM public.x))"),
        (
            "COALESCE((a IN ( SELECT x.a FROM public.x)), true)",
            "COALESCE((a IN (SELECT x.a FROM public.x)), true)",
        ),
        (
            "((a IN ( SELECT x.a FROM public.x)) IS DISTINCT FROM true)",
            "(a IN (SELECT x.a FROM public.x))",
        ),
        // Without a row it is null, and NOT IN would be true.
        ("(NOT (a = ( SELECT x.a FROM public.x)))", "a = (SELECT x.a FROM public.x)"),
        // Postgres shows nothing of it to somebody without an id, and `NOT IN` over the other column would.
        (
            "(NOT (auth.uid() IN ( SELECT b.blocker FROM public.block b WHERE (b.blocked = posts.author))))",
            "SELECT b.blocker FROM public.block b WHERE (b.blocked = posts.author)",
        ),
        ("((", "(("),
    ] {
        let why = read(policy).unwrap_err();
        assert_eq!(why.part, part, "{policy}: {why:?}");
        assert!(!why.why.is_empty());
    }
}

#[test]
fn tools_and_platforms_keep_their_tables() {
    let is = |schema: &str, table: &str, asked: &[&str]| {
        let asked: Vec<String> = asked.iter().map(|of| (*of).to_owned()).collect();
        let name = TableName { schema: schema.to_owned(), name: table.to_owned() };
        is_of_application(&name, &asked)
    };
    assert!(is("public", "note", &[]) && is("app", "note", &[]));
    for (schema, table) in [
        ("auth", "users"),
        ("rowtide", "client"),
        ("rowtide_staging", "client"),
        ("public", "SequelizeMeta"),
    ] {
        assert!(!is(schema, table, &[]), "{schema}.{table}");
    }
    assert!(is("auth", "users", &["auth"]) && !is("public", "note", &["auth"]));
    assert!(!is("rowtide", "client", &["rowtide"]));
}
