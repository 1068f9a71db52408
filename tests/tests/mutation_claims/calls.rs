//! Mutations that have a name: the statement that the definition gives, called with arguments, in one transaction with
//! operations on rows.

use rowtide_tests::{App, Raw, Writer, insert, update};
use serde_json::{Value, json};

use crate::token;

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE TABLE invitation (token text PRIMARY KEY, team text NOT NULL, expired bool NOT NULL DEFAULT false);
    INSERT INTO invitation VALUES ('t1', 'red', false), ('t2', 'blue', true);
    CREATE TABLE member (team text, person text, PRIMARY KEY (team, person));
    CREATE TABLE note (id text PRIMARY KEY, n int4, at timestamptz, mood mood, tags text[], by text, seen int4);
    CREATE FUNCTION accept_invitation(of text) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE found_one invitation;
    BEGIN
        SELECT * INTO found_one FROM invitation WHERE token = of FOR UPDATE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no such invitation' USING HINT = 'unknown_invitation';
        ELSIF found_one.expired THEN
            RAISE EXCEPTION 'too late' USING HINT = 'Not a code!';
        END IF;
        INSERT INTO member VALUES (found_one.team, current_setting('request.jwt.claim.sub'));
        DELETE FROM invitation WHERE token = of;
    END $$;
    CREATE TYPE degree AS ENUM ('low');
    CREATE DOMAIN amount AS int4 CHECK (value > 0);
    CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN RAISE EXCEPTION 'at the end' USING HINT = 'too_late'; END$$;
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
        WHEN (new.id = 'late') EXECUTE FUNCTION late();
    CREATE FUNCTION fails() RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN 'x'::text::int; END$$;";

const DEFINITION: &str = r#"
    [tables.member]
    visible = 'person = auth.user_id'
    [tables.note]
    visible = 'true'
    [tables.note.insert]
    allow = 'true'
    [[tables.note.update]]
    allow = "old.n < 10"
    [mutations.accept_invitation]
    params = { token = "text" }
    run = 'SELECT accept_invitation(params.token);'
    [mutations.fails]
    run = 'SELECT fails()'
    [mutations.second]
    params = { id = "text", of = "int4[]", more = "amount = 1" }
    run = 'INSERT INTO note (id, n) VALUES (params.id, params.of[2] + params.more)'
    [mutations.rate]
    params = { degree = "degree" }
    run = 'SELECT params.degree'
    [mutations.of_table]
    params = { table = "regclass", as_text = "text" }
    run = 'SELECT params.table, params.as_text::regclass'
    [mutations.note.params]
    id = "text"
    n = "int4 = 5"
    at = "timestamptz = null"
    mood = "mood = 'happy'"
    tags = "text[] = null"
    [mutations.note]
    run = '''
      WITH seen AS (SELECT count(*)::int4 AS notes FROM note)
      INSERT INTO note SELECT params.id, params.n, params.at, params.mood, params.tags,
        auth.user_id || auth.claims.app.suffix, notes FROM seen -- params.nothing
    '''
"#;

fn call(name: &str, args: Value) -> Value {
    json!({ "op": "call", "name": name, "args": args })
}

async fn writer(app: &App) -> Writer {
    Writer::live_with(app, &token(json!({ "app": { "suffix": "!" } }))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_runs_with_the_operations_of_its_mutation() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut raw = Raw::open(&app).await;
    raw.say(&Raw::connect(&App::token("u2"))).await;
    let connected = raw.until("connected").await;
    assert!(connected["features"].as_array().unwrap().contains(&json!("calls")), "{connected}");
    let mut writer = writer(&app).await;
    let accept = |token: &str| call("accept_invitation", json!({ "token": token }));
    let changes = writer.mutate(json!([accept("t1")])).await.applied();
    assert_eq!(changes[0]["row"], json!({ "team": "red", "person": "u1" }));
    // It is gone, and what is raised on purpose is for the caller.
    let unknown = "unknown_invitation";
    writer.mutate(json!([accept("t1")])).await.rejected(unknown, "no such invitation");
    writer.mutate(json!([accept("'; DROP TABLE note; --")])).await.rejected(unknown, "ops[0]");
    writer.mutate(json!([accept("t2")])).await.rejected("rejected", "too late");
    // What is broken is nobody's code, and names no value.
    writer.mutate(json!([call("fails", json!({}))])).await.rejected("unknown_error", "fails()");
    // In order with what is before and behind, and all or none.
    let all = json!([
        insert("note", json!({ "id": "a", "n": 1 })),
        call("note", json!({ "id": "b" })),
        update("note", json!({ "id": "b", "n": 6 })),
        call(
            "note",
            json!({
                "id": "c", "n": null, "at": "2026-01-31T12:00:00Z", "mood": "sad", "tags": ["x", null],
            })
        ),
    ]);
    let mut changes = writer.mutate(all).await.applied();
    changes.sort_by_key(|change| change["row"]["id"].to_string());
    let rows: Vec<&Value> = changes.iter().map(|change| &change["row"]).collect();
    let b = json!({
        "id": "b", "n": 6, "at": null, "mood": "happy", "tags": null, "by": "u1!", "seen": 1,
    });
    let c = json!({
        "id": "c", "n": null, "at": "2026-01-31T12:00:00Z", "mood": "sad", "tags": ["x", null],
        "by": "u1!", "seen": 2,
    });
    assert_eq!((rows[1], rows[2]), (&b, &c));
    let note = |id: &str| call("note", json!({ "id": id }));
    let n = |id: &str, n: i64| update("note", json!({ "id": id, "n": n }));
    for (ops, code, said) in [
        (json!([note("d"), accept("t1")]), unknown, "ops[1]"),
        (json!([n("z", 1), note("d")]), "not_found", "ops[0]"),
        (json!([note("a")]), "constraint", "note_pkey"),
        // An insert over a row is done one operation after the other.
        (json!([insert("note", json!({ "id": "a", "n": 2 })), note("b")]), "constraint", "ops[1]"),
        (json!([call("note", json!({ "id": "d", "n": 11 })), n("d", 1)]), "forbidden", "ops[1]"),
    ] {
        writer.mutate(ops).await.rejected(code, said);
    }
    let over = json!([insert("note", json!({ "id": "a", "n": 2 })), note("d")]);
    assert_eq!(writer.mutate(over).await.applied().len(), 2);
    // A mutation that is sent again is not run again.
    let last = writer.next() - 1;
    writer.send_as(last, json!([note("e")])).await;
    let changes = writer.mutate(json!([note("f")])).await.applied();
    assert!(changes.iter().all(|change| change["row"]["id"] == "f"), "{changes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_held_against_their_types() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = writer(&app).await;
    let note = |args: Value| call("note", args);
    for (op, said) in [
        (call("nothing", json!({})), "no mutation `nothing`"),
        (call("notes", json!({})), "did you mean `note`?"),
        (note(json!({})), "argument `id` of mutation `note` is missing"),
        (note(json!({ "id": "x", "m": 1 })), "no argument `m`"),
        (note(json!({ "id": 1 })), "argument `id`"),
        (note(json!({ "id": "x", "n": true })), "argument `n`"),
        (note(json!({ "id": "x", "n": 3_000_000_000_u64 })), "argument `n`"),
        (note(json!({ "id": "x", "at": "soon" })), "argument `at`"),
        (note(json!({ "id": "x", "mood": "glad" })), "argument `mood`"),
        // What Postgres alone can say: checks of domains, and names of what is in the database.
        (call("second", json!({ "id": "x", "of": [1, 2], "more": -1 })), "argument `more`"),
        (call("second", json!({ "id": "x", "of": [1, 2], "more": "1" })), "argument `more`"),
        (call("of_table", json!({ "table": "nosuch", "as_text": "note" })), "argument `table`"),
        (note(json!({ "id": "x", "tags": "x" })), "argument `tags`"),
        (json!({ "op": "call", "name": "note", "args": [] }), "ops[0]"),
        (json!({ "op": "call", "name": "note", "args": null }), "ops[0]"),
        (json!({ "op": "call", "args": {} }), "name"),
    ] {
        writer.mutate(json!([op])).await.rejected("bad_request", said);
    }
    let none = call("accept_invitation", json!({ "token": null }));
    writer.mutate(json!([none])).await.rejected("unknown_invitation", "");
    // It would fail again and again, and nothing waits for that.
    let nowhere = call("of_table", json!({ "table": "note", "as_text": "nosuch" }));
    writer.mutate(json!([nowhere])).await.rejected("unknown_error", "42P01");
    writer.mutate(json!([note(json!({ "id": "late" }))])).await.rejected("too_late", "at the end");
    let second = call("second", json!({ "id": "second", "of": [1, 20], "more": 5 }));
    let changes = writer.mutate(json!([second])).await.applied();
    assert_eq!(changes[0]["row"]["n"], 25);
    // The newest labels of an enum are taken.
    let high = || json!([call("rate", json!({ "degree": "high" }))]);
    writer.mutate(high()).await.rejected("bad_request", "argument `degree`");
    app.database.run("ALTER TYPE degree ADD VALUE 'high'").await;
    writer.mutate(high()).await.applied();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_of_the_role_that_writes() {
    let role = format!("caller_{:08x}", rand::random::<u32>());
    let definition = format!(
        "[writes]\nrole = '{role}'\n[tables.note]\nvisible = 'true'\n[tables.note.insert]\nallow = 'true'\n\
         [mutations.mark]\nrun = 'INSERT INTO note (id, by) VALUES (auth.claims.id, current_user)'\n"
    );
    let tables = format!(
        "CREATE ROLE {role}; CREATE TABLE note (id text PRIMARY KEY, by text); GRANT INSERT ON note TO {role};
         ALTER TABLE note ENABLE ROW LEVEL SECURITY;
         CREATE POLICY marks ON note FOR INSERT TO {role} WITH CHECK (id LIKE 'm%');"
    );
    let mut app = App::with(&definition, &tables).await;
    let mut writer = Writer::live_with(&app, &token(json!({ "id": "m1" }))).await;
    let row = |id: &str| insert("note", json!({ "id": id }));
    let mark = || call("mark", json!({}));
    let changes = writer.mutate(json!([row("m2"), mark(), row("m3")])).await.applied();
    let by = changes.iter().find(|change| change["row"]["id"] == "m1").unwrap();
    assert_eq!(by["row"]["by"], role.as_str());
    let mut other = Writer::live_with(&app, &token(json!({ "id": "x1" }))).await;
    other.mutate(json!([mark()])).await.rejected("forbidden", "row-level");
    app.database.run(&format!("REVOKE INSERT ON note FROM {role}")).await;
    other.mutate(json!([mark()])).await.rejected("forbidden", "rights");
    drop((writer, other));
    app.stop_server().await;
    app.database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
