//! Claims of the token in the rules for writing: each takes the type that the rule compares it with.
//! One that is missing, or does not fit, is null, and null allows nothing; it is never an error. Beside it: what the database
//! itself is told of who writes, the role that may write in the server's place, columns that are meant of both rows, and
//! mutations that have names.

mod as_role;
mod both_rows;
mod calls;
mod told;

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rowtide_tests::{App, SECRET, Writer, delete, insert, update};
use serde_json::{Value, json};

fn token(claims: Value) -> String {
    let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 600;
    let mut all = json!({ "sub": "u1", "exp": until });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    encode(&Header::new(Algorithm::HS256), &all, &EncodingKey::from_secret(SECRET.as_bytes()))
        .unwrap()
}

/// A type, a value of it, claims that are it, and claims that are not or do not fit.
#[rustfmt::skip]
fn types() -> Vec<(&'static str, Value, Vec<Value>, Vec<Value>)> {
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    vec![
        ("text", json!("5"), vec![json!("5"), json!(5)], vec![json!(""), json!(["5"]), json!("5\0")]),
        ("bool", json!(true), vec![json!(true), json!("true")], vec![json!(false), json!(1), json!("yes")]),
        ("int2", json!(5), vec![json!(5), json!("5")],
            vec![json!(6), json!(40_000), json!(-40_000), json!(1e300), json!("five"), json!(true), json!({})]),
        ("int4", json!(5), vec![json!(5), json!("5")],
            vec![json!(3_000_000_000_u64), json!("99999999999999999999"), json!(5.5), json!([5])]),
        ("int8", json!(5), vec![json!(5)], vec![json!(u64::MAX), json!("5; DROP TABLE t")]),
        ("oid", json!(5), vec![json!(5)], vec![json!(-5), json!(1_u64 << 40)]),
        ("float4", json!(0.5), vec![json!(0.5), json!("0.5")], vec![json!(1e39), json!("half")]),
        ("float8", json!(0.5), vec![json!(0.5)], vec![json!("1e999"), json!(false)]),
        ("numeric", json!("0.5"), vec![json!(0.5), json!("0.50")], vec![json!("1e999999"), json!("half")]),
        ("uuid", json!(uuid), vec![json!(uuid), json!(uuid.to_uppercase())], vec![json!("u1"), json!(1)]),
        ("mood", json!("happy"), vec![json!("happy")], vec![json!("sad"), json!("angry"), json!(1)]),
        ("date", json!("2026-01-31"), vec![json!("2026-01-31")], vec![json!("2026-02-30"), json!("today"), json!(0)]),
        ("timestamptz", json!("2026-01-31T12:00:00Z"),
            vec![json!("2026-01-31T12:00:00Z"), json!("2026-01-31T13:00:00+01:00")],
            vec![json!("now"), json!("999999-01-01T00:00:00Z"), json!(1_769_860_800)]),
        ("time", json!("12:00:00"), vec![json!("12:00:00")], vec![json!("noon"), json!("25:00:00")]),
        ("jsonb", json!({ "a": 1 }), vec![json!({ "a": 1 })], vec![json!("{\"a\":1}"), json!([1]), json!("\0")]),
        ("inet", json!("10.0.0.1"), vec![json!("10.0.0.1")], vec![json!("nowhere"), json!([1])]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_takes_the_type_that_it_is_compared_with() {
    let (mut sql, mut definition) =
        ("CREATE TYPE mood AS ENUM ('sad', 'happy');\n".to_owned(), String::new());
    for (kind, ..) in types() {
        sql += &format!("CREATE TABLE t_{kind} (id int PRIMARY KEY, v {kind}, n int);\n");
        let rule = |of: &str| format!("allow = 'auth.claims.v = {of}.v'");
        definition += &format!(
            "[tables.t_{kind}]\nvisible = 'true'\n[tables.t_{kind}.insert]\n{}\n\
             [[tables.t_{kind}.update]]\n{}\n[tables.t_{kind}.delete]\n{}\n",
            rule("new"),
            rule("old"),
            rule("old"),
        );
    }
    let app = App::with(&definition, &sql).await;
    let mut wrong = Vec::new();
    for (kind, value, fits, others) in types() {
        let table = format!("t_{kind}");
        let all = [
            insert(&table, json!({ "id": 1, "v": value })),
            update(&table, json!({ "id": 1, "n": 1 })),
            delete(&table, json!({ "id": 1 })),
        ];
        let fits = fits.into_iter().map(|claim| (json!({ "v": claim }), true));
        let missing = [json!({}), json!({ "v": null }), json!({ "V": value })];
        let others = others.into_iter().map(|claim| json!({ "v": claim })).chain(missing);
        for (claims, may) in fits.chain(others.map(|claims| (claims, false))) {
            let mut writer = Writer::live_with(&app, &token(claims.clone())).await;
            if !may {
                let one = format!(
                    "INSERT INTO {table} SELECT 1, (jsonb_populate_record(NULL::{table}, '{}')).v",
                    json!({ "v": value })
                );
                app.database.run(&one).await;
            }
            for (number, op) in all.iter().enumerate() {
                let mut op = op.clone();
                if number == 0 && !may {
                    op["row"]["id"] = 2.into();
                }
                let rejected = writer.mutate(json!([op])).await.rejected;
                let is = rejected.as_ref().map(|(code, _)| code.as_str());
                if is != (!may).then_some("forbidden") {
                    wrong.push(format!("{claims} as {kind}: {rejected:?}"));
                }
            }
            app.database.run(&format!("DELETE FROM {table}")).await;
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_may_be_an_array_and_lie_within_objects() {
    let tables = "
        CREATE TYPE mood AS ENUM ('sad', 'happy');
        CREATE TABLE t (id text PRIMARY KEY, number int, mood mood, org uuid);
        CREATE INDEX ON t (org);
        CREATE TABLE n (id text PRIMARY KEY, editors text[], name text);
        CREATE INDEX ON n USING gin (editors)";
    let definition = r#"
        [tables.t]
        visible = 'org = ANY (auth.claims.app.orgs)'
        [tables.t.insert]
        allow = '''auth.claims.app.role = 'writer' AND new.number = ANY (auth.claims.numbers)
                   AND new.mood = ANY (auth.claims.moods)'''
        [tables.n]
        visible = 'auth.user_id = ANY (editors)'
        [[tables.n.update]]
        allow = "'admin' = ANY (auth.claims.app.roles)"
    "#;
    let app = App::with(definition, tables).await;
    let new = |id: &str, number: i64, mood: &str| {
        let org = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        json!([insert("t", json!({ "id": id, "number": number, "mood": mood, "org": org }))])
    };
    // What does not fit is left out, and what is no array is null.
    let claims = json!({
        "app": { "role": "writer", "roles": ["admin"] },
        "numbers": [5, "6", 1_u64 << 40, "x", null],
        "moods": ["happy", "angry", 1],
    });
    let mut writer = Writer::live_with(&app, &token(claims.clone())).await;
    writer.mutate(new("a", 5, "happy")).await.applied();
    writer.mutate(new("b", 6, "happy")).await.applied();
    writer.mutate(new("c", 7, "happy")).await.rejected("forbidden", "`t`");
    writer.mutate(new("d", 5, "sad")).await.rejected("forbidden", "`t`");
    for (name, other) in
        [("numbers", json!(5)), ("moods", json!("happy")), ("app", json!(["writer"]))]
    {
        let mut claims = claims.clone();
        claims[name] = other;
        let mut writer = Writer::live_with(&app, &token(claims)).await;
        writer.mutate(new("e", 5, "happy")).await.rejected("forbidden", "`t`");
    }
    // A row that the array in it shows can be written, until the array shows it no more.
    app.database.run("INSERT INTO n VALUES ('n', '{u1,u2,u1,NULL}', 'one')").await;
    let rename =
        |editors: serde_json::Value| json!([update("n", json!({ "id": "n", "editors": editors }))]);
    writer.mutate(rename(json!(["u2", "u1"]))).await.applied();
    writer.mutate(rename(json!(["u2"]))).await.applied();
    assert!(writer.mutate(rename(json!(["u1"]))).await.rejected.is_some(), "it is not seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_claim_has_as_many_types_as_places_and_limits_know_claims_too() {
    let tables = "CREATE TABLE t (id text PRIMARY KEY, number int, name text);";
    let definition = r#"
        [tables.t]
        visible = 'true'
        [tables.t.insert]
        allow = '''new.number = auth.claims.team AND new.name = auth.claims.team
                   OR auth.claims.teams ? new.name
                   OR auth.claims."Team Lead"'''
        [[tables.t.insert.limit]]
        where = "number = auth.claims.team"
        max = 1
        code = "team_is_full"
    "#;
    let app = App::with(definition, tables).await;
    let new = |id: &str, number: i64, name: &str| {
        json!([insert("t", json!({ "id": id, "number": number, "name": name }))])
    };
    let mut five = Writer::live_with(&app, &token(json!({ "team": 5 }))).await;
    five.mutate(new("a", 6, "5")).await.rejected("forbidden", "`t`");
    five.mutate(new("a", 5, "6")).await.rejected("forbidden", "`t`");
    five.mutate(new("a", 5, "5")).await.applied();
    five.mutate(new("b", 5, "5")).await.rejected("team_is_full", "`t`");
    let mut many = Writer::live_with(&app, &token(json!({ "teams": ["red", "' OR true"] }))).await;
    many.mutate(new("c", 1, "red")).await.applied();
    many.mutate(new("d", 1, "' OR true")).await.applied();
    many.mutate(new("e", 1, "blue")).await.rejected("forbidden", "`t`");
    // What a claim does not fit is null, and what does not depend on it still holds.
    for (id, team) in [("f", json!(null)), ("g", json!(3_000_000_000_u64)), ("h", json!("none"))] {
        let lead = token(json!({ "team": team, "teams": "red", "Team Lead": true }));
        let mut lead = Writer::live_with(&app, &lead).await;
        lead.mutate(new(id, 1, "x")).await.applied();
    }
}
