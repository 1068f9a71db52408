//! Values of every type, as mutations write them and as they come back: with the `tx`, and again with
//! the snapshot of a client that comes later. Both directions have the same forms.

use std::collections::BTreeMap;

use rowtide_tests::{App, Raw, Writer, insert, update};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN short AS varchar(5);
    CREATE DOMAIN own_mood AS mood;
";

/// A type, a value as it is written, and as it is read; nothing if it is the same.
#[rustfmt::skip]
const VALUES: &[(&str, &str, &str)] = &[
    ("bool", "true", ""),
    ("bool", "false", ""),
    ("int2", "-32768", ""),
    ("int4", "2147483647", ""),
    ("int8", "9223372036854775807", ""),
    ("int8", "-9223372036854775808", ""),
    ("oid", "4294967295", ""),
    ("float4", "0.1", ""),
    ("float4", "3.4028235e+38", ""),
    ("float8", "0.1", ""),
    ("float8", "0.30000000000000004", ""),
    ("float8", "5e-324", ""),
    ("float8", "-0.0", "-0"),
    ("float8", r#""NaN""#, ""),
    ("float8", r#""-Infinity""#, ""),
    ("numeric", r#""12.50""#, ""),
    ("numeric", r#""123456789012345678901234567890.000000000000000000001""#, ""),
    ("numeric", r#""NaN""#, ""),
    ("numeric(6,2)", r#""1.5""#, r#""1.50""#),
    ("text", r#""""#, ""),
    ("text", r#""a'b\"c\\d\ne\tf 🗿 \u0001""#, ""),
    ("text", r#""'; DROP TABLE v0; --""#, ""),
    ("text", r#""\u0041\ud83d\ude00""#, r#""A😀""#),
    ("varchar(5)", r#""äöü🗿ß""#, ""),
    ("char(4)", r#""ab""#, r#""ab  ""#),
    ("name", r#""x""#, ""),
    ("\"char\"", r#""x""#, ""),
    ("uuid", r#""A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11""#, r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#),
    ("mood", r#""so so""#, ""),
    ("positive", "7", ""),
    ("short", r#""12345""#, ""),
    ("own_mood", r#""happy""#, ""),
    ("json", r#"{"b":1,  "a":1e400,"a":12345678901234567890123}"#, ""),
    ("jsonb", r#"{"b":[12345678901234567890.123456789, 1e400],"a":"null"}"#, ""),
    ("jsonb", r#""a\\u0000b""#, ""),
    ("jsonb", "false", ""),
    ("bytea", r#""AAH/""#, ""),
    ("bytea", r#""AA==""#, ""),
    ("bytea", r#""AA""#, r#""AA==""#),
    ("bytea", r#""""#, ""),
    ("timestamptz", r#""2026-01-31T12:00:00.123456Z""#, ""),
    ("timestamptz", r#""2026-01-31T12:00:00.123456+02:00""#, r#""2026-01-31T10:00:00.123456Z""#),
    ("timestamptz", r#""2026-01-31T23:30:00-05:30""#, r#""2026-02-01T05:00:00Z""#),
    ("timestamptz", r#""+012026-01-31T12:00:00Z""#, ""),
    ("timestamptz", r#""-000043-03-15T12:00:00Z""#, ""),
    ("timestamptz", r#""infinity""#, ""),
    ("timestamptz", r#""-infinity""#, ""),
    ("timestamp", r#""2026-01-31T12:00:00.000001""#, ""),
    ("timestamp", r#""-000043-03-15T12:00:00""#, ""),
    ("timestamp", r#""infinity""#, ""),
    ("date", r#""2026-01-31""#, ""),
    ("date", r#""-000043-03-15""#, ""),
    ("date", r#""+012026-01-31""#, ""),
    ("date", r#""infinity""#, ""),
    ("time", r#""12:00:00.5""#, ""),
    ("time", r#""24:00:00""#, ""),
    ("timetz", r#""12:00:00+02""#, ""),
    ("interval", r#""1 mon -2 days +03:04:05.5""#, ""),
    ("inet", r#""10.1.2.3/8""#, ""),
    ("int4range", r#""[1,5)""#, ""),
    ("tstzrange", r#""[\"2026-01-31 12:00:00+00\",infinity)""#, ""),
    ("bit(3)", r#""101""#, ""),
    ("tsvector", r#""'a' 'b':2""#, ""),
    ("point", r#""(1,2)""#, ""),
    ("box[]", r#""{(1,1),(0,0);(2,2),(1,1)}""#, ""),
    ("int4[]", "[]", ""),
    ("int4[]", "[[1,null],[3,4]]", ""),
    ("int8[]", "[9223372036854775807]", ""),
    ("bool[]", "[true,false,null]", ""),
    ("float8[]", r#"[0.1,"NaN"]"#, ""),
    ("numeric[]", r#"["1.50",null]"#, ""),
    ("text[]", r#"["","NULL",null,"a,b","{}","\"\\"," "]"#, ""),
    ("varchar(3)[]", r#"["abc"]"#, ""),
    ("mood[]", r#"["sad","so so"]"#, ""),
    ("uuid[]", r#"["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]"#, ""),
    ("bytea[]", r#"["AAH/",""]"#, ""),
    ("jsonb[]", r#"[{"a":[1]},[1, 2],"x"]"#, r#"[{"a": [1]},[1, 2],"x"]"#),
    ("timestamptz[]", r#"["2026-01-31T12:00:00+01:00"]"#, r#"["2026-01-31T11:00:00Z"]"#),
    ("date[]", r#"["2026-01-31","infinity"]"#, ""),
    ("positive[]", "[1,2]", ""),
    ("inet[]", r#"["10.0.0.1"]"#, ""),
];

#[derive(Deserialize)]
struct Heard<'a> {
    ack: Option<u64>,
    code: Option<String>,
    message: Option<String>,
    #[serde(default, borrow)]
    changes: Vec<Change<'a>>,
    #[serde(default, borrow)]
    rows: Vec<Row<'a>>,
}

#[derive(Deserialize)]
struct Change<'a> {
    #[serde(borrow)]
    row: Row<'a>,
}

/// The columns, each as it was sent.
type Row<'a> = BTreeMap<String, &'a RawValue>;

/// `v` of the one change of the next mutation; or why it was rejected.
async fn write(raw: &mut Raw, id: u64, ops: &str) -> String {
    let message = format!(r#"{{"type":"mutate","id":{id},"ops":[{ops}]}}"#);
    raw.send(Message::text(message)).await;
    loop {
        let text = raw.hear_text().await.unwrap();
        let heard: Heard<'_> = serde_json::from_str(&text).unwrap();
        if let Some(code) = heard.code {
            return format!("{code}: {}", heard.message.unwrap_or_default());
        }
        if heard.ack == Some(id) {
            return heard.changes[0].row["v"].get().to_owned();
        }
    }
}

fn read_as<'a>(written: &'a str, read: &'a str) -> &'a str {
    if read.is_empty() { written } else { read }
}

/// What `jsonb` makes of JSON is for Postgres to say.
async fn normal(app: &App, kind: &str, json: &str) -> String {
    match kind {
        "jsonb" => app.one(&format!("$json${json}$json$::jsonb")).await,
        _ => json.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_comes_back() {
    let (mut sql, mut definition) = (TYPES.to_owned(), String::new());
    for (number, (kind, ..)) in VALUES.iter().enumerate() {
        sql += &format!("CREATE TABLE v{number} (id text PRIMARY KEY, v {kind});\n");
        definition += &format!(
            "[tables.v{number}]\nvisible = 'true'\ninsert.allow = 'true'\nupdate = [{{ allow = 'true' }}]\n"
        );
    }
    let app = App::with(&definition, &sql).await;
    let mut raw = Raw::live(&app, "u1").await;
    let mut id = 0;
    let mut wrong = Vec::new();
    for (number, (kind, written, read)) in VALUES.iter().enumerate() {
        let read = normal(&app, kind, read_as(written, read)).await;
        for (how, value, expected) in [
            ("insert", *written, read.as_str()),
            ("update", "null", "null"),
            ("update", *written, read.as_str()),
            // What was read can be written.
            ("update", read.as_str(), read.as_str()),
        ] {
            id += 1;
            let op =
                format!(r#"{{"op":"{how}","table":"v{number}","row":{{"id":"x","v":{value}}}}}"#);
            let is = write(&mut raw, id, &op).await;
            if is != expected {
                wrong.push(format!("{how} {value} as {kind}: {is}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let mut later = Raw::open(&app).await;
    later.say(&Raw::connect(&App::token("u2"))).await;
    let mut snapshot = BTreeMap::new();
    loop {
        let text = later.hear_text().await.unwrap();
        if text.contains(r#""type":"ready""#) {
            break;
        }
        let heard: Heard<'_> = serde_json::from_str(&text).unwrap();
        let table = |text: &str| text.split(r#""table":""#).nth(1)?.split('"').next()?.parse().ok();
        if let (Some(table), Some(row)) = (table(&text), heard.rows.first()) {
            let table: String = table;
            snapshot.insert(table, row["v"].get().to_owned());
        }
    }
    for (number, (kind, written, read)) in VALUES.iter().enumerate() {
        let read = normal(&app, kind, read_as(written, read)).await;
        assert_eq!(snapshot[&format!("v{number}")], read, "{written} as {kind} in a snapshot");
    }
}

/// A type, a value that it does not take, and what the message says beside the column.
#[rustfmt::skip]
const NO_VALUES: &[(&str, &str, &str)] = &[
    ("bool", r#""true""#, "true or false"),
    ("bool", "1", "true or false"),
    ("int2", "32768", "32767"),
    ("int4", "1.0", "whole number"),
    ("int4", "1e3", "whole number"),
    ("int4", r#""1""#, "whole number"),
    ("int4", "2147483648", "2147483647"),
    ("int8", "9223372036854775808", "whole number"),
    ("oid", "-1", "whole number"),
    ("float4", "1e39", "number"),
    ("float8", "1e400", "number"),
    ("float8", r#""inf""#, "number"),
    ("numeric", "12.5", "number in a string"),
    ("numeric", r#""twelve""#, "number in a string"),
    ("numeric(6,2)", r#""12345""#, ""),
    ("text", "5", "string"),
    ("text", r#"{"a":1}"#, "string"),
    ("text", r#""a\u0000b""#, "NUL"),
    ("text", r#""\ud800""#, "string"),
    ("varchar(5)", r#""123456""#, "5 characters"),
    ("char(4)", r#""12345""#, "4 characters"),
    ("uuid", r#""'; DROP TABLE v0; --""#, "UUID"),
    ("mood", r#""angry""#, "sad, so so, happy"),
    ("own_mood", r#""angry""#, ""),
    ("short", r#""123456""#, ""),
    ("json", r#"{"a":"\u0000"}"#, "JSON"),
    ("json", r#""\ud800""#, "JSON"),
    ("json", r#""\udc00\ud800""#, "JSON"),
    ("jsonb", r#""\ud83dx""#, "JSON"),
    ("bytea", r#""A""#, "base64"),
    ("bytea", r#""\\x00""#, "base64"),
    ("timestamptz", r#""2026-01-31T12:00:00""#, "2026-01-31T12:00:00Z"),
    ("timestamptz", r#""2026-13-31T12:00:00+01:00""#, ""),
    ("timestamptz", r#""now""#, "a time"),
    ("timestamptz", "0", "a time"),
    ("timestamp", r#""2026-02-30T12:00:00""#, "a time"),
    ("date", r#""today""#, "a date"),
    ("time", r#""25:00:00""#, "a time"),
    ("interval", r#""a while""#, ""),
    ("inet", r#""10.0.0.0/99""#, ""),
    ("int4range", r#""[5,1)""#, ""),
    ("bit(3)", r#""1010""#, ""),
    ("int4[]", "1", "an array"),
    ("int4[]", r#"["1"]"#, "an array"),
    ("int4[]", "[[1],[2,3]]", ""),
    ("int4[]", "[1,[2]]", ""),
    ("int4[]", "[[[[[[[1]]]]]]]", "an array"),
    ("varchar(3)[]", r#"["abcd"]"#, ""),
    ("inet[]", r#"["nowhere"]"#, ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_column_does_not_take_is_rejected_by_its_name() {
    let (mut sql, mut definition) = (TYPES.to_owned(), String::new());
    for (number, (kind, ..)) in NO_VALUES.iter().enumerate() {
        sql += &format!(
            "CREATE TABLE v{number} (id text PRIMARY KEY, v {kind}); INSERT INTO v{number} VALUES ('x');\n"
        );
        definition += &format!(
            "[tables.v{number}]\nvisible = 'true'\ninsert.allow = 'true'\nupdate = [{{ allow = 'true' }}]\n"
        );
    }
    let app = App::with(&definition, &sql).await;
    let mut raw = Raw::live(&app, "u1").await;
    let mut id = 0;
    let mut wrong = Vec::new();
    let deep = [
        ("int4[]", format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)), "an array"),
        ("json", format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)), "JSON"),
        ("jsonb", format!(r#"{}1{}"#, r#"{"a":"#.repeat(5_000), "}".repeat(5_000)), "JSON"),
    ];
    let table_of = |kind: &str| NO_VALUES.iter().position(|(other, ..)| *other == kind).unwrap();
    let cases =
        NO_VALUES.iter().enumerate().map(|(at, (kind, value, said))| (at, *kind, *value, *said));
    let deep =
        deep.iter().map(|(kind, value, said)| (table_of(kind), *kind, value.as_str(), *said));
    for (number, kind, value, said) in cases.chain(deep) {
        for (how, row) in [("insert", "new"), ("update", "x")] {
            id += 1;
            let op = format!(
                r#"{{"op":"{how}","table":"v{number}","row":{{"id":"{row}","v":{value}}}}}"#
            );
            let is = write(&mut raw, id, &op).await;
            let named = is.contains("`v`") && is.contains(&format!("`v{number}`"));
            if !is.starts_with("bad_request: ops[0]: ") || !named || !is.contains(said) {
                let value: String = value.chars().take(40).collect();
                wrong.push(format!("{how} {value} as {kind}: {is}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    for number in 0..NO_VALUES.len() {
        assert_eq!(
            app.one(&format!("SELECT count(v) || '/' || count(*) FROM v{number}")).await,
            "0/1"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_insert_leaves_out_is_made_once() {
    let tables = "
        CREATE TABLE made (
          id text PRIMARY KEY, owner text NOT NULL DEFAULT 'u1',
          counted bigserial, random uuid DEFAULT gen_random_uuid(), at timestamptz DEFAULT clock_timestamp(),
          always int GENERATED ALWAYS AS IDENTITY, given int GENERATED BY DEFAULT AS IDENTITY,
          twice int GENERATED ALWAYS AS (2) STORED, short varchar(5) DEFAULT 'short', list int[] DEFAULT '{1,2}');
        CREATE TABLE judged (counted int8, random text, at timestamptz);
        CREATE FUNCTION judge(counted int8, random uuid, at timestamptz) RETURNS bool LANGUAGE sql AS
          'INSERT INTO judged VALUES ($1, $2::text, $3) RETURNING true';
        CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
        INSERT INTO numbered (name) VALUES ('A')";
    let definition = "
        [tables.made]
        visible = 'owner = auth.user_id'
        insert.allow = 'new.owner = auth.user_id AND judge(new.counted, new.random, new.at)'
        update = [{ allow = 'true' }]
        [tables.numbered]
        visible = 'true'
        insert.allow = 'true'
        update = [{ allow = 'true' }]
        delete.allow = 'true'";
    let app = App::with(definition, tables).await;
    let mut writer = Writer::live(&app, "u1").await;
    let changes = writer.mutate(json!([insert("made", json!({ "id": "a" }))])).await.applied();
    let row = &changes[0]["row"];
    assert_eq!(
        (&row["owner"], &row["short"], &row["list"]),
        (&json!("u1"), &json!("short"), &json!([1, 2]))
    );
    assert_eq!((&row["counted"], &row["always"], &row["given"]), (&json!(1), &json!(1), &json!(1)));
    // What was judged is what was written.
    assert_eq!(app.one("SELECT count(*) FROM judged JOIN made USING (counted, at) WHERE judged.random = made.random::text").await, "1");
    // Null is not left out.
    let nothing = json!({ "id": "b", "random": null, "given": 7 });
    let changes = writer.mutate(json!([insert("made", nothing)])).await.applied();
    assert_eq!(
        (&changes[0]["row"]["random"], &changes[0]["row"]["given"]),
        (&Value::Null, &json!(7))
    );
    let owner = json!([insert("made", json!({ "id": "c", "owner": null }))]);
    writer.mutate(owner).await.rejected("forbidden", "`made`");
    // An update makes nothing, and neither does an insert over a row.
    let random = changes[0]["row"]["counted"].clone();
    let changes =
        writer.mutate(json!([insert("made", json!({ "id": "b", "short": "x" }))])).await.applied();
    assert_eq!(changes[0]["row"]["counted"], random);
    // What Postgres alone makes, nobody writes.
    for op in [
        insert("made", json!({ "id": "d", "always": 9 })),
        update("made", json!({ "id": "a", "always": 9 })),
        insert("numbered", json!({ "id": 9, "name": "B" })),
    ] {
        let column = if op["table"] == "made" { "`always`" } else { "`id`" };
        writer.mutate(json!([op])).await.rejected("forbidden", column);
    }
    let generated = json!([insert("made", json!({ "id": "d", "twice": 4 }))]);
    let published = app.database.is_at_least(18, "generated columns are known").await;
    let code = if published { "forbidden" } else { "bad_request" };
    writer.mutate(generated).await.rejected(code, "`twice`");
    writer.mutate(json!([update("numbered", json!({ "id": 1, "name": "C" }))])).await.applied();
}
