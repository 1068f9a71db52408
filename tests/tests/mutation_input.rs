//! Mutations that are wrong, and the answer that each gets: its code, and a message that names what is
//! wrong and nothing of what others have. Nothing of it is applied, the session goes on with the next
//! number, and a bystander notices nothing.

use rand::Rng;
use rand::distr::Alphanumeric;
use rowtide::limits::ClientLimits;
use rowtide_tests::{App, Bystander, Raw, Writer, delete, insert, update};
use serde_json::{Value, json};

const TABLES: &str = "
    CREATE TABLE item (
      id text PRIMARY KEY, owner text NOT NULL, name varchar(40) NOT NULL, slug text UNIQUE,
      n int CHECK (n >= 0), made int NOT NULL DEFAULT 0);
    CREATE TABLE part (
      id text PRIMARY KEY, item_id text NOT NULL REFERENCES item DEFERRABLE INITIALLY DEFERRED, owner text NOT NULL,
      label_id int REFERENCES label);
    CREATE TABLE pair (a int, b int, v text, PRIMARY KEY (a, b));
    CREATE TABLE hidden (id int PRIMARY KEY);
    CREATE TABLE share (id text PRIMARY KEY, owner text, parts int NOT NULL, price numeric(4, 2));
    INSERT INTO share VALUES ('theirs', 'u2', 0, 1), ('mine', 'u1', 0, 1);
    INSERT INTO item VALUES ('mine', 'u1', 'Mine', 'mine', 1), ('theirs', 'u2', 'secret', 'secret-slug', 1);
    INSERT INTO part VALUES ('p1', 'mine', 'u1'), ('p2', 'theirs', 'u2')";

const DEFINITION: &str = r#"
    [tables.item]
    visible = 'owner = auth.user_id'
    immutable = ["owner"]
    readonly = ["made"]
    insert.allow = 'new.owner = auth.user_id'
    update = [{ allow = 'old.owner = auth.user_id' }]
    delete.allow = 'old.owner = auth.user_id'

    [tables.part]
    visible = 'owner = auth.user_id'
    insert.allow = '''new.owner = auth.user_id AND (new.item_id LIKE 'free%' OR EXISTS
                      (SELECT FROM item WHERE item.id = new.item_id AND item.owner = auth.user_id))'''

    [tables.share]
    visible = 'owner = auth.user_id'
    update = [{ allow = '10 / old.parts > 1' }]
    delete.allow = '10 / old.parts > 1'

    [tables.pair]
    visible = 'true'
    insert.allow = 'true'
    update = [{ allow = 'true' }]
    delete.allow = 'true'
"#;

async fn app(change: impl FnOnce(&mut ClientLimits)) -> App {
    let tables =
        format!("CREATE TABLE label (id int PRIMARY KEY); {TABLES}; {}", Bystander::TABLES);
    let definition = format!("{DEFINITION}\n{}", Bystander::DEFINITION);
    App::with_options(&definition, &tables, |options| change(&mut options.gateway.client)).await
}

/// Every row that a mutation could have touched.
async fn all(app: &App) -> String {
    let rows = |table: &str| format!("(SELECT jsonb_agg(t ORDER BY t::text) FROM {table} t)");
    let rows = ["item", "part", "pair", "label", "hidden", "share"].map(rows);
    app.one(&format!("jsonb_build_array({})", rows.join(", "))).await
}

/// Text that does not compress.
fn noise(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}

fn item(row: Value) -> Value {
    let mut all = json!({ "id": "new", "owner": "u1", "name": "New" });
    all.as_object_mut().unwrap().extend(row.as_object().unwrap().clone());
    json!([insert("item", all)])
}

fn mine(row: Value) -> Value {
    let mut row = row;
    row["id"] = "mine".into();
    json!([update("item", row)])
}

fn part(item: &str) -> Value {
    json!([insert("part", json!({ "id": "new", "item_id": item, "owner": "u1" }))])
}

fn share(id: &str, price: &str) -> Value {
    json!([update("share", json!({ "id": id, "price": price }))])
}

/// What it is, the operations, the code, and what the message says.
#[rustfmt::skip]
fn wrong() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let sql = r#"id" = 1; DROP TABLE item; --"#;
    vec![
        // The form.
        ("ops that are null", json!(null), "bad_request", "`ops`"),
        ("ops that are an object", item(json!({}))[0].clone(), "bad_request", "`ops`"),
        ("no ops", json!([]), "bad_request", "1 to 500"),
        ("501 ops", json!(vec![delete("item", json!({ "id": "mine" })); 501]), "bad_request", "501"),
        ("an op that is null", json!([null]), "bad_request", "ops[0]"),
        ("an op that is text", json!(["insert"]), "bad_request", "ops[0]"),
        ("an op that is an array", json!([["insert", "item", {}]]), "bad_request", "an array"),
        ("a bad op after a good one", json!([item(json!({}))[0], {}]), "bad_request", "ops[1]"),
        ("no op", json!([{ "table": "item", "row": {} }]), "bad_request", "`op`"),
        ("no table", json!([{ "op": "insert", "row": {} }]), "bad_request", "`table`"),
        ("no row", json!([{ "op": "insert", "table": "item" }]), "bad_request", "`row`"),
        ("an unknown op", json!([{ "op": "upsert", "table": "item", "row": {} }]), "bad_request", "upsert"),
        ("an op with NUL", json!([{ "op": "insert\0", "table": "item", "row": {} }]), "bad_request", "insert"),
        ("20 kB for an op", json!([{ "op": noise(20_000), "table": "item", "row": {} }]), "bad_request", "ops[0]"),
        ("an op in capitals", json!([{ "op": "INSERT", "table": "item", "row": {} }]), "bad_request", "INSERT"),
        ("a table that is a number", json!([{ "op": "insert", "table": 1, "row": {} }]), "bad_request", "ops[0]"),
        ("a row that is an array", json!([{ "op": "insert", "table": "item", "row": [1] }]), "bad_request", "ops[0]"),
        ("a row that is text", json!([{ "op": "insert", "table": "item", "row": "id=1" }]), "bad_request", "ops[0]"),
        // Tables and columns.
        ("a table's name misspelt", json!([insert("itm", json!({ "id": "x" }))]), "bad_request", "did you mean `item`"),
        ("a table in capitals", json!([insert("Item", json!({ "id": "x" }))]), "bad_request", "`Item`"),
        ("a table with its schema", json!([insert("public.item", json!({ "id": "x" }))]), "bad_request", "`public.item`"),
        ("a table of the database's alone", json!([insert("hidden", json!({ "id": 1 }))]), "bad_request", "`hidden`"),
        ("a table of Rowtide's", json!([update("client", json!({ "client_id": "x" }))]), "bad_request", "`client`"),
        ("a table of Postgres'", json!([delete("pg_authid", json!({ "oid": 10 }))]), "bad_request", "`pg_authid`"),
        ("a table without a name", json!([insert("", json!({ "id": "x" }))]), "bad_request", "``"),
        ("SQL for a table", json!([delete("item; DROP TABLE item", json!({ "id": "x" }))]), "bad_request", "DROP"),
        ("a table with NUL", json!([delete("item\0", json!({ "id": "x" }))]), "bad_request", "`item`"),
        ("10 kB for a table", json!([delete(&noise(10_000), json!({ "id": "x" }))]), "bad_request", "no table"),
        ("a column's name misspelt", mine(json!({ "nam": "x" })), "bad_request", "did you mean `name`"),
        ("a column in capitals", mine(json!({ "NAME": "x" })), "bad_request", "`NAME`"),
        ("a column of Postgres'", mine(json!({ "ctid": "(0,1)" })), "bad_request", "`ctid`"),
        ("a column without a name", mine(json!({ "": "x" })), "bad_request", "``"),
        ("SQL for a column", mine(json!({ sql: "x" })), "bad_request", "no column"),
        ("10 kB for a column", mine(json!({ noise(10_000): "x" })), "bad_request", "no column"),
        // Keys.
        ("nothing", json!([insert("item", json!({}))]), "bad_request", "key column `id`"),
        ("no key", json!([update("item", json!({ "name": "x" }))]), "bad_request", "key column `id`"),
        ("a key that is null", json!([delete("item", json!({ "id": null }))]), "bad_request", "key column `id`"),
        ("half a key", json!([insert("pair", json!({ "a": 1, "v": "x" }))]), "bad_request", "key column `b`"),
        ("a key of another type", json!([delete("pair", json!({ "a": 1, "b": "1 OR true" }))]), "bad_request", "`b`"),
        ("more than a key", json!([delete("item", json!({ "id": "mine", "owner": "u1" }))]), "bad_request", "`owner`"),
        ("a key of 5 kB", item(json!({ "id": noise(5_000) })), "too_large", "item_pkey"),
        ("a key of 20 kB", item(json!({ "id": noise(20_000) })), "too_large", "`item`"),
        // Values; tests/mutation_values.rs has those of each type.
        ("a number for a text", mine(json!({ "name": 5 })), "bad_request", "`name`"),
        ("an object for a text", mine(json!({ "name": { "$ne": "x" } })), "bad_request", "`name`"),
        ("a text for a number", mine(json!({ "n": "1; DROP TABLE item" })), "bad_request", "`n`"),
        ("out of range", mine(json!({ "n": 2_147_483_648_u32 })), "bad_request", "`n`"),
        ("NUL", mine(json!({ "name": "a\0b" })), "bad_request", "`name`"),
        ("a text too long", mine(json!({ "name": "x".repeat(41) })), "bad_request", "40 characters"),
        ("20 kB for a name", mine(json!({ "name": noise(20_000) })), "bad_request", "`name`"),
        ("5 kB for what is indexed", mine(json!({ "slug": noise(5_000) })), "too_large", "item_slug_key"),
        ("more than a mutation may have", mine(json!({ "slug": noise(40_000) })), "too_large", "bytes"),
        // Constraints.
        ("null for what must not be", mine(json!({ "name": null })), "constraint", "column `name`"),
        ("a column left out", json!([insert("item", json!({ "id": "new", "owner": "u1" }))]), "constraint", "`name`"),
        ("a value that a check refuses", mine(json!({ "n": -1 })), "constraint", "`item_n_check`"),
        ("what somebody else has already", mine(json!({ "slug": "secret-slug" })), "constraint", "`item_slug_key`"),
        ("a reference to nothing, seen at the end", part("free"), "constraint", "`part_item_id_fkey`"),
        ("a row that is referred to", json!([delete("item", json!({ "id": "mine" }))]), "constraint", "`part_item_id_fkey`"),
        // Rules.
        ("a column of the server's", mine(json!({ "made": 1 })), "forbidden", "`made`"),
        ("the same, in an insert", item(json!({ "made": 1 })), "forbidden", "`made`"),
        ("a column of an insert's alone", mine(json!({ "owner": "u1" })), "forbidden", "`owner`"),
        ("a row in another's name", item(json!({ "owner": "u2" })), "forbidden", "`item`"),
        ("over somebody's row", item(json!({ "id": "theirs" })), "forbidden", "`item`"),
        ("over somebody's row in their name", item(json!({ "id": "theirs", "owner": "u2" })), "forbidden", "`item`"),
        ("nothing may be updated", json!([update("part", json!({ "id": "p1" }))]), "forbidden", "`part`"),
        ("nothing may be deleted", json!([delete("part", json!({ "id": "p1" }))]), "forbidden", "`part`"),
        ("nothing may be inserted", json!([insert("note", json!({ "id": 9, "owner": "u1" }))]), "forbidden", "`note`"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_nothing_of_it_applied() {
    let app = app(|_| ()).await;
    let mut bystander = Bystander::of(&app).await;
    let mut writer = Writer::live(&app, "u1").await;
    let before = all(&app).await;
    for (name, ops, code, said) in wrong() {
        let Some((is, message)) = writer.mutate(ops).await.rejected else {
            panic!("{name}: applied")
        };
        assert_eq!(is, code, "{name}: {message}");
        assert!(message.contains(said), "{name}: {message}");
        // Nothing of others, of SQL, or of what was sent at length.
        assert!(message.chars().count() <= 420 && !message.contains("secret"), "{name}: {message}");
        assert!(!message.contains('$') && !message.contains("SELECT"), "{name}: {message}");
        assert_eq!(all(&app).await, before, "{name}");
        bystander.assert_undisturbed(&app, name).await;
    }
    // What is right is still taken.
    writer.mutate(item(json!({}))).await.applied();
    // All of the rejections are kept, for a client that did not hear them.
    let acked = wrong().len() as u64 + 1;
    let (_, connected) = Writer::again(&app, "u1", &writer.client_id, 0).await;
    assert_eq!(connected["lastMutation"], acked);
    let rejected = connected["refused"].as_array().unwrap();
    let told: Vec<(u64, &str)> = rejected
        .iter()
        .map(|rejected| (rejected["id"].as_u64().unwrap(), rejected["code"].as_str().unwrap()))
        .collect();
    let codes: Vec<&str> = wrong().iter().map(|(_, _, code, _)| *code).collect();
    assert_eq!(told, (1..).zip(codes).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_cannot_see_is_as_if_it_were_not_there() {
    let app = app(|_| ()).await;
    let mut writer = Writer::live(&app, "u1").await;
    let before = all(&app).await;
    let row = |id: &str| json!({ "id": id, "name": "New" });
    for (what, theirs, nowhere) in [
        (
            "an update",
            json!([update("item", row("theirs"))]),
            json!([update("item", row("nowhere"))]),
        ),
        (
            "an update that fails",
            json!([update("item", json!({ "id": "theirs", "n": -1 }))]),
            json!([update("item", json!({ "id": "nowhere", "n": -1 }))]),
        ),
        (
            "a delete",
            json!([delete("item", json!({ "id": "theirs" }))]),
            json!([delete("item", json!({ "id": "nowhere" }))]),
        ),
        ("a reference", part("theirs"), part("nowhere")),
        (
            "an insert in another's name",
            item(json!({ "id": "theirs", "owner": "u2" })),
            item(json!({ "id": "nowhere", "owner": "u2" })),
        ),
        ("an update whose rule fails", share("theirs", "1.00"), share("nowhere", "1.00")),
        ("an update with too large a value", share("theirs", "100.00"), share("nowhere", "100.00")),
        (
            "a delete whose rule fails",
            json!([delete("share", json!({ "id": "theirs" }))]),
            json!([delete("share", json!({ "id": "nowhere" }))]),
        ),
    ] {
        // Postgres plans a statement anew a few times, and then once for all values.
        for _ in 0..8 {
            let theirs = writer.mutate(theirs.clone()).await.rejected;
            let nowhere = writer.mutate(nowhere.clone()).await.rejected;
            assert!(theirs.is_some(), "{what}");
            assert_eq!(theirs, nowhere, "{what}");
        }
    }
    assert_eq!(all(&app).await, before);
    // Of one's own row it is told what is wrong.
    writer.mutate(share("mine", "1.00")).await.rejected("bad_request", "`share`");
}

/// Strings that mean something to SQL, to JSON or to Postgres' formats mean nothing as values.
#[tokio::test(flavor = "multi_thread")]
async fn any_text_is_a_value() {
    let app = app(|_| ()).await;
    let mut writer = Writer::live(&app, "u1").await;
    for text in [
        "'",
        "''",
        "\"",
        "\\",
        "\\'",
        "\\N",
        "\\x00",
        "$1",
        "$$",
        "%s",
        "NULL",
        "DEFAULT",
        "now()",
        "'; DROP TABLE item; --",
        "' OR '1'='1",
        "{a,b}",
        "(1,2)",
        "[1,2)",
        "auth.user_id",
        "${x}",
        "old.owner",
        "",
        " ",
        "\n\t\r",
        "\u{1}\u{7f}",
        "é",
        "e\u{301}",
        "🗿",
        "\u{202e}",
        "\u{fffd}",
        "\u{feff}",
    ] {
        let row = json!({ "id": format!("id{text}"), "name": text, "slug": text });
        let changes = writer.mutate(item(row.clone())).await.applied();
        let is = &changes[0]["row"];
        assert_eq!((&is["id"], &is["name"], &is["slug"]), (&row["id"], &row["name"], &row["slug"]));
        let key = json!({ "id": row["id"] });
        let changes = writer.mutate(json!([delete("item", key.clone())])).await.applied();
        assert_eq!(changes[0]["row"], key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_follows_the_one_before() {
    let app = app(|_| ()).await;
    let mut bystander = Bystander::of(&app).await;
    let mut writer = Writer::live(&app, "u1").await;
    let add = |n: u32| json!([insert("pair", json!({ "a": n, "b": n, "v": "x" }))]);
    writer.mutate(add(1)).await.applied();
    writer.mutate(json!([delete("pair", json!({ "a": 1, "b": 1 }))])).await.applied();
    let rejected = mine(json!({ "made": 1 }));
    writer.mutate(rejected.clone()).await.rejected("forbidden", "`made`");
    // Going back is a repeat, whatever it brings: it is acknowledged, and told again how.
    writer.send_as(1, add(1)).await;
    assert_eq!(writer.outcome(1).await.applied(), [Value::Null; 0]);
    writer.send_as(3, add(3)).await;
    writer.outcome(3).await.rejected("forbidden", "`made`");
    assert_eq!(app.one("SELECT count(*) FROM pair").await, "0");
    writer.mutate(add(4)).await.applied();
    // A jump can only be a mistake; what came before it is applied, and nothing after it.
    for (name, jump) in [("by one", 6), ("as far as numbers go", i64::MAX as u64)] {
        let (mut client, connected) = Writer::again(&app, "u1", &writer.client_id, 3).await;
        assert_eq!(connected["lastMutation"], 4);
        client.send_as(jump, add(6)).await;
        client.send_as(5, add(5)).await;
        client.raw.ending().await.assert(name, "bad_request");
        bystander.assert_undisturbed(&app, name).await;
        assert_eq!(app.one("SELECT string_agg(a::text, ',') FROM pair").await, "4");
    }
    let (mut client, _) = Writer::again(&app, "u1", &writer.client_id, 3).await;
    client.mutate(add(5)).await.applied();
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_have_limits_with_their_defaults() {
    let app =
        app(|limits| *limits = ClientLimits { ops_per_mutation: 2, ..ClientLimits::default() })
            .await;
    let mut bystander = Bystander::of(&app).await;
    let mut writer = Writer::live(&app, "u1").await;
    let before = all(&app).await;
    let megabyte = noise(1 << 20);
    for (name, ops) in [
        ("a megabyte where a name belongs", mine(json!({ "name": megabyte }))),
        ("a megabyte for a key", json!([delete("item", json!({ "id": megabyte }))])),
        ("a megabyte for a table", json!([delete(&megabyte, json!({ "id": "mine" }))])),
        ("a megabyte for a column", mine(json!({ megabyte.clone(): 1 }))),
        ("three ops", json!(vec![mine(json!({ "n": 1 }))[0].clone(); 3])),
    ] {
        writer.mutate(ops).await.rejected("too_large", "more than");
        bystander.assert_undisturbed(&app, name).await;
    }
    assert_eq!(all(&app).await, before);
    writer.mutate(mine(json!({ "slug": "x".repeat(200 << 10) }))).await.applied();
    writer.send(mine(json!({ "name": noise(5 << 20) }))).await;
    writer.raw.ending().await.assert("five megabytes", "bad_request");
    bystander.assert_undisturbed(&app, "five megabytes").await;
}

/// Names that mean something to SQL name tables and columns like any other.
#[tokio::test(flavor = "multi_thread")]
async fn any_name_is_a_name() {
    let table = r#"we"ird'; DROP TABLE note; --"#;
    let sql = format!(
        r#"{}; CREATE TYPE "mo""od; --" AS ENUM ('it''s', '$1');
           CREATE TABLE "we""ird'; DROP TABLE note; --" (
             "i""d'" int, "$1" "mo""od; --", "old" text DEFAULT 'new', "a\b.c" text NOT NULL, "é ü" text,
             "select" varchar(9), PRIMARY KEY ("i""d'", "a\b.c"))"#,
        Bystander::TABLES
    );
    let definition = format!(
        r#"
        {}
        [tables.{table_key}]
        visible = 'true'
        immutable = ["é ü"]
        insert.allow = """new."$1" <> '$1' AND new."old" = 'new'"""
        update = [{{ allow = """old."i""d'" < 100 AND new."select" = 'x'""" }}]
        delete.allow = """old."old" = 'new'"""
        [[tables.{table_key}.insert.limit]]
        where = """"old" = 'new' AND "select" = auth.user_id"""
        max = 1
        code = "full"
        "#,
        Bystander::DEFINITION,
        table_key = Value::from(table),
    );
    let app = App::with(&definition, &sql).await;
    let mut bystander = Bystander::of(&app).await;
    let mut writer = Writer::live(&app, "u1").await;
    let key = json!({ "i\"d'": 1, "a\\b.c": "'; --" });
    let with = |more: Value| {
        let mut row = key.clone();
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let row = with(json!({ "$1": "it's", "é ü": "$1", "select": "u1" }));
    let changes = writer.mutate(json!([insert(table, row.clone())])).await.applied();
    let all = with(json!({ "$1": "it's", "é ü": "$1", "select": "u1", "old": "new" }));
    assert_eq!((&changes[0]["table"], &changes[0]["row"]), (&json!(table), &all));
    let mut second = row.clone();
    second["i\"d'"] = 2.into();
    writer.mutate(json!([insert(table, second)])).await.rejected("full", table);
    let changes = writer.mutate(json!([update(table, with(json!({ "select": "x" })))])).await;
    assert_eq!(changes.applied()[0]["row"]["select"], "x");
    let wrong = with(json!({ "$1": "x", "select": "x" }));
    writer.mutate(json!([update(table, wrong)])).await.rejected("bad_request", "`$1`");
    let fixed = with(json!({ "é ü": "x" }));
    writer.mutate(json!([update(table, fixed)])).await.rejected("forbidden", "`é ü`");
    let changes = writer.mutate(json!([delete(table, key.clone())])).await.applied();
    assert_eq!(changes[0]["row"], key);
    bystander.assert_undisturbed(&app, "all of it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_users_rate_waits_and_nothing_is_rejected() {
    let app = app(|limits| limits.requests_per_minute = 60).await;
    let mut other = Writer::live(&app, "u2").await;
    let mut writer = Writer::live(&app, "u1").await;
    let op = |n: u32| insert("pair", json!({ "a": n, "b": n }));
    let mut last = 0;
    // The connect counts one, and each operation.
    for n in 0..31 {
        last = writer.send(json!([op(2 * n), op(2 * n + 1)])).await;
    }
    assert_eq!(writer.acked_up_to(last).await, []);
    assert_eq!(app.one("SELECT count(*) FROM pair").await, "62");
    // A connect waits for nothing: the client does.
    let mut again = Raw::open(&app).await;
    again.say(&Raw::connect(&App::token("u1"))).await;
    again.ending().await.assert("a connect", "rate_limit_exceeded");
    // Nor does anything else wait for long: nothing is acknowledged, and the client comes back.
    let many: Vec<Value> = (100..130).map(op).collect();
    writer.send(json!(many)).await;
    writer.raw.ending().await.assert("half a minute's operations", "rate_limit_exceeded");
    assert_eq!(app.one("SELECT count(*) FROM pair").await, "62");
    // Everyone has a rate of their own, whatever the number of their clients.
    let own = json!([insert("item", json!({ "id": "x", "owner": "u2", "name": "x" }))]);
    other.mutate(own).await.applied();
}
