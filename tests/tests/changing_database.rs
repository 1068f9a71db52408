//! Mutations while the database is not as the server knows it, or not as it should be: tables are changed under it,
//! triggers and rules break, roles and databases set what sessions rely on. What the client has not caused does not
//! reject its mutation; what is rejected is told for what it is.

use rowtide_postgres::connect::ConnectOptions;
use rowtide_tests::{App, Raw, Writer, eventually, http_get, insert, update};
use serde_json::{Value, json};

const DEFINITION: &str = r#"
[tables.item]
visible = 'owner = auth.user_id'
[tables.item.insert]
allow = 'new.owner = auth.user_id'
[[tables.item.update]]
allow = 'old.owner = auth.user_id'
[tables.item.delete]
allow = 'old.owner = auth.user_id'

[tables.judged]
visible = 'owner = auth.user_id'
[[tables.judged.update]]
allow = 'old.owner IN (SELECT who FROM member)'
"#;

const TABLES: &str = "
CREATE TYPE mood AS ENUM ('calm');
CREATE TABLE item (id text PRIMARY KEY, owner text NOT NULL, n int, name varchar(5), mood mood, spare text, gone text);
CREATE TABLE judged (id text PRIMARY KEY, owner text NOT NULL, n int);
CREATE TABLE member (who text);
INSERT INTO member VALUES ('u1');
INSERT INTO item (id, owner) VALUES ('i1', 'u1');
INSERT INTO judged VALUES ('j1', 'u1', 0);";

/// A client that comes back when its session ends, as clients do.
struct Steady<'a> {
    app: &'a App,
    writer: Writer,
}

impl<'a> Steady<'a> {
    async fn new(app: &'a App) -> Steady<'a> {
        Steady { app, writer: Writer::live(app, "u1").await }
    }

    /// What becomes of a mutation: `None` if it is applied.
    async fn mutate(&mut self, ops: Value) -> Option<(String, String)> {
        let id = self.writer.next();
        let client_id = self.writer.client_id.clone();
        loop {
            if self.writer.next() == id {
                self.writer.send(ops.clone()).await;
            }
            let mut rejected = None;
            let ended = loop {
                let Ok(message) = self.writer.raw.hear().await else { break true };
                if message["type"] == "reject" && message["id"] == id {
                    let text = |field: &str| message[field].as_str().unwrap().to_owned();
                    rejected = Some((text("code"), text("message")));
                }
                if message["ack"].as_u64() >= Some(id) {
                    break false;
                }
            };
            if !ended {
                return rejected;
            }
            let connected = self.come_back(&client_id, id).await;
            if connected["lastMutation"].as_u64() >= Some(id) {
                let rejected = connected["refused"].as_array().unwrap().first().cloned();
                let text = |of: &Value, field: &str| of[field].as_str().unwrap().to_owned();
                return rejected.map(|it| (text(&it, "code"), text(&it, "message")));
            }
        }
    }

    async fn come_back(&mut self, client_id: &str, id: u64) -> Value {
        let connect = json!({
            "type": "connect", "protocol": 1, "clientId": client_id, "token": App::token("u1"),
            "settled": id - 1,
        });
        let came = eventually("the client comes back", || async {
            let mut raw = Raw::open(self.app).await;
            raw.say(&connect).await;
            let mut connected = Value::Null;
            while let Ok(message) = raw.hear().await {
                match message["type"].as_str() {
                    Some("connected") => connected = message,
                    Some("ready") => return Some((raw, connected)),
                    _ => {}
                }
            }
            None
        });
        let (raw, connected) = came.await;
        self.writer.come_back(raw, connected["lastMutation"].as_u64().unwrap());
        connected
    }
}

fn set(column: &str, value: Value) -> Value {
    json!([update("item", json!({ "id": "i1", column: value }))])
}

#[tokio::test(flavor = "multi_thread")]
async fn no_mutation_is_rejected_because_the_server_knows_the_table_of_before() {
    let must = "ALTER TABLE item ADD COLUMN must text NOT NULL DEFAULT ''; ALTER TABLE item ALTER COLUMN must DROP DEFAULT";
    let app = App::with(DEFINITION, &format!("{TABLES} {must}")).await;
    let mut steady = Steady::new(&app).await;
    for (sql, column, value) in [
        ("ALTER TYPE mood ADD VALUE 'wild'", "mood", json!("wild")),
        ("ALTER TABLE item ALTER COLUMN name TYPE varchar(10)", "name", json!("123456789")),
        ("ALTER TABLE item ALTER COLUMN n TYPE bigint", "n", json!(5_000_000_000_u64)),
        ("ALTER TABLE item ADD COLUMN extra int", "extra", json!(5)),
        ("ALTER TABLE item ALTER COLUMN n TYPE text", "n", json!("text")),
    ] {
        app.database.run(sql).await;
        assert_eq!(steady.mutate(set(column, value.clone())).await, None, "{sql}");
        let is = app.one(&format!("SELECT to_jsonb({column}) FROM item WHERE id = 'i1'")).await;
        assert_eq!(is, value.to_string(), "{sql}");
    }
    // What had to be given need not be, and may be null.
    let new = |id: &str| json!([insert("item", json!({ "id": id, "owner": "u1" }))]);
    let missing = steady.mutate(new("i2")).await;
    assert!(missing.is_some_and(|(code, _)| code == "constraint"));
    for (sql, id) in [
        ("ALTER TABLE item ALTER COLUMN must SET DEFAULT 'given'", "i2"),
        ("ALTER TABLE item ALTER COLUMN must DROP DEFAULT, ALTER COLUMN must DROP NOT NULL", "i3"),
    ] {
        app.database.run(sql).await;
        assert_eq!(steady.mutate(new(id)).await, None, "{sql}");
    }
    assert_eq!(steady.mutate(set("must", Value::Null)).await, None);
    let is = "SELECT string_agg(coalesce(must, '-'), ' ' ORDER BY id) FROM item";
    assert_eq!(app.one(is).await, "- given -");
    // What is wrong by the table of now is rejected.
    let rejected = steady.mutate(set("mood", json!("odd"))).await.unwrap();
    assert!(rejected.0 == "bad_request" && rejected.1.contains("calm, wild"), "{rejected:?}");
    let rejected = steady.mutate(set("mod", json!("calm"))).await.unwrap();
    assert!(rejected.0 == "bad_request" && rejected.1.contains("no column `mod`"), "{rejected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_goes_takes_no_mutation_with_it() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut steady = Steady::new(&app).await;
    for (n, sql) in [
        "ALTER TABLE item DROP COLUMN gone",
        "ALTER TABLE item RENAME COLUMN spare TO other",
        "ALTER TYPE mood RENAME TO humour",
        "ALTER TABLE item DROP COLUMN other",
    ]
    .iter()
    .enumerate()
    {
        // The statements are prepared.
        assert_eq!(steady.mutate(set("n", json!(100 + n))).await, None, "before {sql}");
        app.database.run(sql).await;
        assert_eq!(steady.mutate(set("n", json!(n))).await, None, "{sql}");
        let new = insert("item", json!({ "id": format!("new{n}"), "owner": "u1", "mood": "calm" }));
        assert_eq!(steady.mutate(json!([new])).await, None, "{sql}");
    }
    // One that is named and gone.
    app.database.run("ALTER TABLE item DROP COLUMN name").await;
    let rejected = steady.mutate(set("name", json!("a"))).await.unwrap();
    assert!(rejected.0 == "bad_request" && rejected.1.contains("no column `name`"), "{rejected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_trigger_is_told_as_one() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    writer.mutate(set("n", json!(1))).await.applied();
    for (when, body, state) in [
        ("BEFORE UPDATE", "INSERT INTO nowhere VALUES (1)", "42P01"),
        ("BEFORE UPDATE", "NEW.nothing = 1", "42703"),
        ("AFTER UPDATE", "PERFORM no_function(1)", "42883"),
        ("AFTER UPDATE", "EXECUTE 'SELEC 1'", "42601"),
        ("AFTER UPDATE", "SELECT 1 INTO STRICT NEW FROM item WHERE false", "P0002"),
        ("BEFORE UPDATE", "NEW.n = 1 / (NEW.n - NEW.n)", "22012"),
        ("AFTER UPDATE", "PERFORM (NEW.id || 'x')::int", "22P02"),
        ("AFTER UPDATE", "TRUNCATE item", "55006"),
    ] {
        let deferred = "CREATE CONSTRAINT TRIGGER stamp AFTER UPDATE ON item \
                        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION stamp()";
        let at_once =
            format!("CREATE TRIGGER stamp {when} ON item FOR EACH ROW EXECUTE FUNCTION stamp()");
        for trigger in [at_once.as_str(), deferred] {
            app.database
                .run(&format!(
                    "CREATE OR REPLACE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$
                     BEGIN {body}; RETURN NEW; END $$; {trigger}"
                ))
                .await;
            let rejected = writer.mutate(set("n", json!(2))).await.rejected.unwrap();
            let said = format!("function `stamp()` of the database fails (SQLSTATE {state})");
            assert!(rejected.0 == "unknown_error" && rejected.1.ends_with(&said), "{rejected:?}");
            app.database.run("DROP TRIGGER stamp ON item").await;
            writer.mutate(set("n", json!(3))).await.applied();
        }
    }
    // What one raises on purpose comes with its words, whatever its code.
    for code in [
        "P0001", "42501", "23514", "45000", "57014", "42P01", "55P03", "25P02", "26000", "22012",
        "53100",
    ] {
        app.database
            .run(&format!(
                "CREATE OR REPLACE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN RAISE 'not on a Sunday' USING ERRCODE = '{code}'; END $$;
                 CREATE TRIGGER stamp BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION stamp()"
            ))
            .await;
        writer.mutate(set("n", json!(4))).await.rejected("constraint", "not on a Sunday");
        app.database.run("DROP TRIGGER stamp ON item").await;
    }
    // Rules of the database are nothing that Postgres lets such statements meet.
    app.database.run("CREATE RULE odd AS ON UPDATE TO item DO INSTEAD NOTHING").await;
    writer.mutate(set("n", json!(5))).await.rejected("unknown_error", "(SQLSTATE 0A000)");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_each_time_is_told_so() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    app.database
        .run(
            "CREATE SEQUENCE tries;
             CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM nextval('tries');
               PERFORM pg_cancel_backend(pg_backend_pid());
               PERFORM pg_sleep(60);
               RETURN NEW;
             END $$;
             CREATE TRIGGER stamp BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION stamp()",
        )
        .await;
    writer.mutate(set("n", json!(1))).await.rejected("unknown_error", "takes longer");
    assert_eq!(app.one("SELECT last_value FROM tries").await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_does_not_fit_any_more_holds_mutations_and_rejects_none() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut steady = Steady::new(&app).await;
    let judged = |n: u64| json!([update("judged", json!({ "id": "j1", "n": n }))]);
    assert_eq!(steady.mutate(judged(1)).await, None);
    app.database.run("ALTER TABLE member RENAME COLUMN who TO person").await;
    let held = || async {
        let name = "rowtide_mutation_retries_total{reason=\"away\"} ";
        let text = http_get(&app, "/metrics").await;
        text.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok()).unwrap_or(0)
    };
    let script = async {
        eventually("it is held", || async { (held().await > 0).then_some(()) }).await;
        // The server compiles its definition again, and Postgres does not take the rule.
        app.database.run("ALTER TYPE mood ADD VALUE 'wild'").await;
        let before = held().await;
        eventually("it is tried again", || async { (held().await > before + 4).then_some(()) })
            .await;
        app.database.run("ALTER TABLE member RENAME COLUMN person TO who").await;
    };
    let (rejected, ()) = tokio::join!(steady.mutate(judged(2)), script);
    assert_eq!(rejected, None);
    assert_eq!(app.one("SELECT n FROM judged").await, "2");
}

/// A migration may lock a table for longer than anybody would try.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_is_waited_for() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    writer.mutate(set("n", json!(1))).await.applied();
    let other = app.database.connect().await;
    other.batch_execute("BEGIN; LOCK TABLE item IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let id = writer.send(set("n", json!(2))).await;
    eventually("it is held", || async {
        let text = http_get(&app, "/metrics").await;
        let held = "rowtide_mutation_retries_total{reason=\"away\"} ";
        text.lines().any(|line| line.starts_with(held) && !line.ends_with(" 0")).then_some(())
    })
    .await;
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(writer.outcome(id).await.rejected, None);
}

/// The database sets what sessions begin with, and the schema of Rowtide stands before the application's.
const SETTINGS: &str = "
DO $$ BEGIN
  EXECUTE format('ALTER DATABASE %1$I SET search_path = rowtide_%1$s, public', current_database());
  EXECUTE format('ALTER DATABASE %I SET statement_timeout = 1', current_database());
  EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());
  EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database());
  EXECUTE format('ALTER DATABASE %I SET default_transaction_deferrable = on', current_database());
  EXECUTE format('ALTER DATABASE %I SET lock_timeout = 1', current_database());
  EXECUTE format('ALTER DATABASE %I SET idle_in_transaction_session_timeout = 1', current_database());
  EXECUTE format('ALTER DATABASE %I SET idle_session_timeout = 20', current_database());
  EXECUTE format('ALTER DATABASE %I SET array_nulls = off', current_database());
  EXECUTE format('ALTER DATABASE %I SET row_security = off', current_database());
  EXECUTE format('ALTER DATABASE %I SET standard_conforming_strings = off', current_database());
  EXECUTE format('ALTER DATABASE %I SET session_replication_role = replica', current_database());
  EXECUTE format('ALTER DATABASE %I SET quote_all_identifiers = on', current_database());
  EXECUTE format('ALTER DATABASE %I SET DateStyle = %L', current_database(), 'SQL, DMY');
  IF current_setting('transaction_timeout', true) IS NOT NULL THEN
    EXECUTE format('ALTER DATABASE %I SET transaction_timeout = 50', current_database());
  END IF;
END $$;";

const CALENDAR: &str = "
CREATE TABLE client (item text, tags text[], day date);
CREATE TABLE item (id text PRIMARY KEY, owner text NOT NULL, tags text[], day date, back text);
-- It takes longer than any time-out that is set.
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  PERFORM pg_sleep(0.1); INSERT INTO client VALUES (NEW.id, NEW.tags, NEW.day); RETURN NEW;
END $$;
CREATE TRIGGER note AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION note();";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_for_a_role_or_a_database_changes_nothing() {
    let definition = &DEFINITION[..DEFINITION.find("[tables.judged]").unwrap()];
    let app = App::with(definition, &format!("{CALENDAR}{SETTINGS}")).await;
    let mut writer = Writer::live(&app, "u1").await;
    let item = json!({ "id": "i1", "owner": "u1", "tags": ["a\\b", null], "day": "2026-02-01", "back": "\\n'" });
    let changes = writer.mutate(json!([insert("item", item.clone())])).await.applied();
    assert_eq!(changes, [json!({ "op": "put", "table": "item", "row": item })]);
    writer.mutate(set("back", json!("x"))).await.applied();
    let rejected = json!([insert("item", json!({ "id": "x", "owner": "u2" }))]);
    writer.mutate(rejected).await.rejected("forbidden", "`item`");
    assert_eq!(app.one("SELECT count(*) FROM client WHERE day = '2026-02-01'").await, "1");
    // One who comes reads it over a load.
    let mut raw = Raw::open(&app).await;
    raw.say(&Raw::connect(&App::token("u1"))).await;
    assert_eq!(raw.until("snapshot").await["rows"][0]["tags"], json!(["a\\b", null]));
}

/// With the search path that Postgres begins with, `"$user"` is Rowtide's own schema for such a role, and in it is a table
/// of the same name.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_named_like_the_schema_writes_the_tables_of_the_application() {
    let definition = &DEFINITION[..DEFINITION.find("[tables.judged]").unwrap()];
    let mut app = App::with(definition, CALENDAR).await;
    let role = app.database.names().schema;
    app.database
        .run(&format!(
            "CREATE ROLE {role} LOGIN REPLICATION; GRANT ALL ON item, client TO {role};
             GRANT USAGE ON SCHEMA {role} TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA {role} TO {role}"
        ))
        .await;
    let url = app.database.url_as(&role).await;
    let options = ConnectOptions::parse(&url).unwrap();
    // As others connect, who set nothing.
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql = "SELECT current_setting('search_path'), relnamespace::regnamespace::text FROM pg_class \
               WHERE oid = 'client'::regclass";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "\"$user\", public");
    assert_eq!(row.get::<_, &str>(1), role, "there is something to be led astray by");
    drop(client);
    for mutations_apart in [false, true] {
        app.stop_server().await;
        app.options().gateway.database = options.clone();
        app.options().gateway.mutation_database = mutations_apart.then(|| options.clone());
        app.start_server().await;
        let mut writer = Writer::live(&app, "u1").await;
        let id = format!("i{mutations_apart}");
        let item = json!({ "id": id, "owner": "u1", "day": "2026-02-01" });
        writer.mutate(json!([insert("item", item)])).await.applied();
        let rows = format!(
            "SELECT count(*) FROM public.client WHERE item = '{id}' AND day = '2026-02-01'"
        );
        assert_eq!(app.one(&rows).await, "1");
        let acked = format!(
            "SELECT last_mutation FROM {role}.client WHERE client_id = '{}'",
            writer.client_id
        );
        assert_eq!(app.one(&acked).await, "1");
    }
    app.stop_server().await;
    app.database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Mutations by a role of their own, to which row-level security applies, and for which everything is set otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_mutations_may_be_one_that_everything_is_set_for() {
    let mut app = App::with(DEFINITION, TABLES).await;
    let role = app.database.stranger("mutations", "LOGIN", "item").await;
    app.database
        .run(&format!(
            "GRANT INSERT, UPDATE ON item TO {role};
             ALTER TABLE item ENABLE ROW LEVEL SECURITY;
             CREATE POLICY reads ON item FOR SELECT TO {role} USING (true);
             CREATE POLICY updates ON item FOR UPDATE TO {role} USING (true) WITH CHECK (n < 10);
             CREATE POLICY inserts ON item FOR INSERT TO {role} WITH CHECK (n < 10);
             ALTER ROLE {role} SET default_transaction_read_only = on;
             ALTER ROLE {role} SET statement_timeout = 1;
             ALTER ROLE {role} SET search_path = nowhere;
             ALTER ROLE {role} SET row_security = off;
             ALTER ROLE {role} SET idle_session_timeout = 20"
        ))
        .await;
    app.stop_server().await;
    let url = app.database.url_as(&role).await;
    app.options().gateway.mutation_database = Some(ConnectOptions::parse(&url).unwrap());
    app.start_server().await;
    let mut writer = Writer::live(&app, "u1").await;
    let new = |n: u64| json!([insert("item", json!({ "id": "new", "owner": "u1", "n": n }))]);
    let says_no = "row-level security of table `item` says no";
    writer.mutate(new(10)).await.rejected("forbidden", says_no);
    writer.mutate(new(9)).await.applied();
    writer.mutate(set("n", json!(11))).await.rejected("forbidden", says_no);
    writer.mutate(set("n", json!(5))).await.applied();
}

/// What is set for the server's role and for its database holds for the stream's session, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_goes_on_whatever_is_set_for_the_servers_role() {
    let mut app = App::with(DEFINITION, TABLES).await;
    let database = app.database.name().to_owned();
    app.stop_server().await;
    for set in [
        "idle_session_timeout = 1",
        "idle_in_transaction_session_timeout = 1",
        "statement_timeout = 1",
        "lock_timeout = 1",
        "default_transaction_read_only = on",
        "DateStyle = 'German'",
    ] {
        app.database.run(&format!("ALTER ROLE postgres IN DATABASE {database} SET {set}")).await;
    }
    app.start_server().await;
    let mut writer = Writer::live(&app, "u1").await;
    writer.mutate(set("n", json!(4))).await.applied();
    // The stream's connection is made again.
    app.database
        .run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND backend_type = 'walsender'",
        )
        .await;
    writer.mutate(set("n", json!(5))).await.applied();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_one_name_in_two_schemas_are_two_tables() {
    // The last has a dot in its own name.
    const TABLES: [(&str, &str); 3] =
        [("users", "users"), ("auth.users", "auth.users"), ("public.auth.users", "\"auth.users\"")];
    let entry = |name: &str| {
        format!(
            "[tables.\"{name}\"]\nvisible = 'id = auth.user_id'\nupdate = [{{ allow = 'old.id = auth.user_id' }}]\n"
        )
    };
    let made = |(name, sql): (&str, &str)| {
        format!(
            "CREATE TABLE {sql} (id text PRIMARY KEY, name text); INSERT INTO {sql} VALUES ('u1', 'in {name}');"
        )
    };
    let definition: String = TABLES.iter().map(|(name, _)| entry(name)).collect();
    let app =
        App::with(&definition, &format!("CREATE SCHEMA auth; {}", TABLES.map(made).concat())).await;
    let mut raw = Raw::open(&app).await;
    raw.say(&Raw::connect(&App::token("u1"))).await;
    let keys = raw.until("connected").await["tables"].clone();
    for (name, _) in TABLES {
        assert_eq!(keys[name], json!({ "key": ["id"] }));
    }
    for _ in TABLES {
        let snapshot = raw.until("snapshot").await;
        let name = format!("in {}", snapshot["table"].as_str().unwrap());
        assert_eq!(snapshot["rows"], json!([{ "id": "u1", "name": name }]), "{snapshot}");
    }
    let mut writer = Writer::live(&app, "u1").await;
    for (table, _) in TABLES {
        let row = json!({ "id": "u1", "name": format!("new in {table}") });
        let changes = writer.mutate(json!([update(table, row.clone())])).await.applied();
        assert_eq!(changes, [json!({ "op": "put", "table": table, "row": row })]);
    }
    for (name, sql) in TABLES {
        assert_eq!(app.one(&format!("SELECT name FROM {sql}")).await, format!("new in {name}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subsets_of_columns_do_not_pile_up_in_postgres() {
    let definition = "[tables.item]\nvisible = 'true'\nupdate = [{ allow = 'true' }]\n";
    let columns = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let app = App::with_options(
        definition,
        "CREATE TABLE item (id text PRIMARY KEY, a int, b int, c int, d int, e int, f int, g int, h int, prepared int);
         INSERT INTO item (id) VALUES ('i1');
         CREATE FUNCTION count_them() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           NEW.prepared = (SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql);
           RETURN NEW;
         END $$;
         CREATE TRIGGER count_them BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION count_them()",
        |options| options.gateway.mutation_connections = 1,
    )
    .await;
    let mut writer = Writer::live(&app, "u1").await;
    let subset = |bits: u32| {
        let mut row = json!({ "id": "i1" });
        let named = columns.iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0);
        named.for_each(|(at, column)| row[*column] = json!(at));
        update("item", row)
    };
    for from in (1..256).step_by(51).chain((1..256).step_by(51)) {
        let ops: Vec<Value> = (from..from + 51).map(|bits| subset(bits & 255 | 1)).collect();
        writer.mutate(json!(ops)).await.applied();
        writer.mutate(json!(ops)).await.applied();
    }
    let prepared: u64 = app.one("SELECT prepared FROM item").await.parse().unwrap();
    // What is about to be dropped may be there a moment longer.
    assert!((1..=110).contains(&prepared), "{prepared} statements");
}
