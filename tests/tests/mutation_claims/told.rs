//! What the database is told of who writes: settings of the mutation's transaction, for triggers, defaults and policies.

use rowtide_tests::small::{FILES, SMALL_FILES, files_tables};
use rowtide_tests::{App, Older, Writer, insert, update};
use serde_json::{Value, json};

use crate::token;

const TABLES: &str = "
    CREATE SCHEMA auth;
    CREATE FUNCTION auth.uid() RETURNS text LANGUAGE sql STABLE AS
        $$SELECT nullif(current_setting('request.jwt.claim.sub', true), '')$$;
    CREATE TABLE note (
        id text PRIMARY KEY, title text,
        author text DEFAULT auth.uid(), changed_by text, claims jsonb
    );
    CREATE FUNCTION changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        new.changed_by := nullif(current_setting('rowtide.user_id', true), '');
        new.claims := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
        RETURN new;
    END $$;
    CREATE TRIGGER changed BEFORE INSERT OR UPDATE ON note FOR EACH ROW EXECUTE FUNCTION changed();
";
const DEFINITION: &str = "
    [tables.note]
    visible = 'true'
    readonly = ['author', 'changed_by', 'claims']
    [tables.note.insert]
    allow = 'true'
    [[tables.note.update]]
    allow = 'true'";

fn row<'a>(changes: &'a [Value], id: &str) -> &'a Value {
    // What others have written before may come first.
    let is = |change: &&Value| change["row"]["id"] == id;
    &changes.iter().rev().find(is).expect("the row was written")["row"]
}

/// Claims that are nothing but text to whoever is told them.
fn strange() -> Value {
    json!({
        "team": "'); DROP TABLE note; --", "role": "a\"b\\c", "roles": ["x", null],
        "é": { "$1": "\u{1F600}" },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_and_defaults_know_who_writes() {
    // All go over one connection, so what one is told would show in what another writes.
    let app = App::with_options(DEFINITION, TABLES, |options| {
        options.gateway.mutation_connections = 1;
    });
    let app = app.await;
    let mut strange = Writer::live_with(&app, &token(strange())).await;
    let mut bob = Writer::live(&app, "bob").await;
    let changes = strange
        .mutate(json!([
            insert("note", json!({ "id": "a", "title": "one" })),
            insert("note", json!({ "id": "b", "title": "two" })),
        ]))
        .await
        .applied();
    for id in ["a", "b"] {
        let row = row(&changes, id);
        assert_eq!((&row["author"], &row["changed_by"]), (&json!("u1"), &json!("u1")));
        let mut claims = row["claims"].clone();
        assert!(claims["exp"].as_u64().is_some_and(|exp| exp > 1_700_000_000), "{claims}");
        claims.as_object_mut().expect("an object").remove("exp");
        let mut sent = self::strange();
        sent["sub"] = "u1".into();
        assert_eq!(claims, sent);
    }
    // An insert over a row that is there is another way, of one operation after the other.
    let over = json!([insert("note", json!({ "id": "a", "title": "three" }))]);
    let changes = bob.mutate(over).await.applied();
    let row = row(&changes, "a");
    assert_eq!((&row["author"], &row["changed_by"]), (&json!("u1"), &json!("bob")));
    assert_eq!((&row["claims"]["sub"], &row["claims"]["team"]), (&json!("bob"), &Value::Null));
    // What was told of one is not what the next one meets, however the one ended.
    let wrong =
        json!([insert("note", json!({ "id": "c" })), insert("note", json!({ "nothing": 1 }))]);
    let rejected = strange.mutate(wrong).await.rejected.expect("it is rejected");
    assert_eq!(rejected.0, "bad_request", "{}", rejected.1);
    let changes = bob.mutate(json!([update("note", json!({ "id": "b", "title": "x" }))])).await;
    let changes = changes.applied();
    let row = self::row(&changes, "b");
    assert_eq!((&row["author"], &row["changed_by"]), (&json!("u1"), &json!("bob")));
    assert_eq!(row["claims"]["team"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_knows_older_clients_too() {
    let tables = format!(
        "{}\n{SMALL_FILES};
        CREATE TABLE told (who text, claims jsonb);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
            INSERT INTO told VALUES (current_setting('rowtide.user_id'), current_setting('request.jwt.claims')::jsonb);
            RETURN new;
        END$$;
        CREATE TRIGGER tell BEFORE UPDATE ON file FOR EACH ROW EXECUTE FUNCTION tell();",
        files_tables()
    );
    let app = App::with(FILES, &tables).await;
    let (mut owner, _) = Older::live(&app, "owner").await;
    let named =
        json!({ "table": "file", "event": "update", "row": { "id": "edit", "name": "New" } });
    owner.mutate("m1", json!([named])).await;
    assert_eq!(owner.until("m1").await.last().unwrap()["type"], "commit");
    let sql = "SELECT who, claims ->> 'sub', count(*) FROM told GROUP BY 1, 2";
    let client = app.database.connect().await;
    app.commits_are_seen(&client).await;
    let told = client.query_one(sql, &[]).await.unwrap();
    assert_eq!((told.get(0), told.get(1), told.get(2)), ("owner", "owner", 1_i64));
}
