//! Set up behind open transactions, by roles that may do a part only, by hand with what `--print` gives.

use rowtide_tests::{Running, eventually, rowtide, said};

use crate::{DEFINITION, Operator, SECRET, TABLES, rejected, succeeded};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_behind_setup_while_it_waits_for_a_reader() {
    let operator = Operator::new(TABLES, DEFINITION).await;
    let reader = operator.database.connect().await;
    reader.batch_execute("SET application_name = 'a long report'").await.unwrap();
    reader.batch_execute("BEGIN; SELECT count(*) FROM note").await.unwrap();
    let pid: i32 = reader.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let mut setup = operator.start(&["setup"]).await;
    let waits = setup.line("waiting: ").await;
    for part in [&format!("process {pid} "), "a long report", "idle in transaction", "SELECT"] {
        assert!(waits.contains(part), "no `{part}` in: {waits}");
    }
    let writer = operator.database.connect().await;
    // A hundred times what one may have to wait.
    writer.batch_execute("SET lock_timeout = '9s'").await.unwrap();
    for _ in 0..50 {
        writer.batch_execute("UPDATE note SET body = body || '.'").await.unwrap();
        assert!(setup.runs());
    }
    reader.batch_execute("COMMIT").await.unwrap();
    succeeded(&setup.ended().await);
    assert_eq!(operator.state().await, ["note f", "publication", "schema", "slot"]);
}

/// Of others' transactions a role without rights does not see how long they have been open, so that it asks for its lock turn
/// after turn.
#[tokio::test(flavor = "multi_thread")]
async fn who_writes_in_a_turn_of_setup_waits_for_that_turn_alone() {
    let operator = Operator::new(TABLES, DEFINITION).await;
    let owner = format!("{}_owner", operator.database.name());
    operator
        .database
        .run(&format!(
            "CREATE ROLE {owner} LOGIN REPLICATION; ALTER TABLE note OWNER TO {owner};
             GRANT CREATE ON DATABASE {} TO {owner}",
            operator.database.name()
        ))
        .await;
    let reader = operator.database.connect().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM note").await.unwrap();
    let url = operator.database.url_as(&owner).await;
    let mut setup = Running::start(operator.command_at(&url, &["setup"]));
    operator.write_in_turns().await;
    assert!(setup.runs());
    reader.batch_execute("COMMIT").await.unwrap();
    succeeded(&setup.ended().await);
    assert_eq!(operator.state().await, ["note f", "publication", "schema", "slot"]);
    operator.database.run(&format!("DROP OWNED BY {owner} CASCADE; DROP ROLE {owner}")).await;
}

/// What is printed waits as setup does.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_behind_what_setup_prints() {
    let operator = Operator::new(TABLES, DEFINITION).await;
    let printed = operator.says(&["setup", "--print"]).await;
    succeeded(&printed);
    let reader = operator.database.connect().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM note").await.unwrap();
    let url = operator.database.url().await;
    let mut script = Running::start(operator.psql_command(&url, &printed.out));
    script.says("waiting for others who use").await;
    operator.write_in_turns().await;
    assert!(script.runs());
    reader.batch_execute("COMMIT").await.unwrap();
    succeeded(&script.ended().await);
    assert_eq!(operator.state().await, ["note f", "publication", "schema", "slot"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_that_is_stopped_leaves_nothing_that_waits() {
    for signal in ["INT", "TERM", "KILL"] {
        for locks in [true, false] {
            let operator = Operator::new(TABLES, DEFINITION).await;
            let other = operator.database.connect().await;
            other.batch_execute("SET application_name = 'a migration'").await.unwrap();
            // What others do is looked up once in a transaction, so it is another that looks.
            let looks = operator.database.connect().await;
            looks.batch_execute("SET application_name = 'a test'").await.unwrap();
            // Who reads the table is in the way of its replica identity, an open transaction of the slot.
            let open =
                if locks { "SELECT count(*) FROM note" } else { "SELECT pg_current_xact_id()" };
            other.batch_execute(&format!("BEGIN; {open}")).await.unwrap();
            let mut setup = operator.start(&["setup"]).await;
            let waits = setup.line("waiting: ").await;
            assert!(waits.contains("a migration") && waits.contains(open), "{waits}");
            setup.signal(signal);
            let ended = setup.ended().await;
            if signal != "KILL" {
                rejected(&ended, &["it was stopped before it could"]);
                assert_eq!(
                    operator.ours(&looks, "AND state = 'active'").await,
                    0,
                    "{signal} {locks}"
                );
            }
            eventually("nothing of it is left", || async {
                (operator.ours(&looks, "").await == 0).then_some(())
            })
            .await;
            let state = operator.state().await;
            assert!(!state.contains(&"slot".to_owned()), "{state:?}");
            other.batch_execute("COMMIT").await.unwrap();
            succeeded(&operator.says(&["setup"]).await);
        }
    }
}

/// A migration that has the table to itself: it is named, and waited for, by `setup`; `check` gives up.
#[tokio::test(flavor = "multi_thread")]
async fn who_changes_a_table_meanwhile_is_named() {
    let operator = Operator::new(TABLES, DEFINITION).await;
    let other = operator.database.connect().await;
    other.batch_execute("SET application_name = 'a migration'").await.unwrap();
    other.batch_execute("BEGIN; LOCK TABLE note IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut setup = operator.start(&["setup"]).await;
    let waits = setup.line("waiting: ").await;
    assert!(waits.contains("`a migration`") && waits.contains("LOCK TABLE note"), "{waits}");
    rejected(
        &operator.says(&["check"]).await,
        &["the tables cannot be looked at: locked by process"],
    );
    other.batch_execute("COMMIT").await.unwrap();
    succeeded(&setup.ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_do_a_part_only_is_told_all_that_it_lacks_and_does_nothing() {
    let operator = Operator::new(TABLES, DEFINITION).await;
    let name = operator.database.name();
    let (least, owner) = (format!("{name}_least"), format!("{name}_owner"));
    operator.database.run(&format!("CREATE ROLE {least} LOGIN; CREATE ROLE {owner} LOGIN")).await;
    operator
        .database
        .run(&format!(
            "ALTER TABLE note OWNER TO {owner}; GRANT CREATE ON DATABASE {name} TO {owner}"
        ))
        .await;
    let before = operator.state().await;
    let schema = operator.database.names().schema;
    let told = operator.says_as(&least, &["setup"]).await;
    let parts = [
        &format!("role `{least}` may not do all of it, and nothing was done"),
        &format!("create schema \"{schema}\" it needs CREATE on database"),
        &format!("GRANT CREATE ON DATABASE \"{name}\" TO \"{least}\";"),
        "ownership of table \"public\".\"note\"",
        &format!("\"{owner}\" has it, or a superuser"),
        "create publication",
        &format!("ALTER ROLE \"{least}\" REPLICATION;"),
        "rowtide setup --print",
    ];
    rejected(&told, &parts);
    assert_eq!(operator.state().await, before);
    // The owner lacks one thing.
    let told = operator.says_as(&owner, &["setup"]).await;
    rejected(&told, &["needs REPLICATION", &format!("ALTER ROLE \"{owner}\" REPLICATION;")]);
    assert_eq!(told.err.matches("it needs").count(), 1, "{}", told.err);
    assert_eq!(operator.state().await, before);
    operator.database.run(&format!("ALTER ROLE {owner} REPLICATION")).await;
    succeeded(&operator.says_as(&owner, &["setup"]).await);
    // What is there needs no right.
    let again = operator.says_as(&least, &["setup"]).await;
    assert_eq!((again.code(), again.out.as_str()), (Some(0), "everything was there\n"));
    succeeded(&operator.says_as(&owner, &["teardown", "--yes"]).await);
    assert_eq!(operator.state().await, before);
    let drop = format!("DROP OWNED BY {least}, {owner}; DROP ROLE {least}, {owner}");
    operator.database.run(&drop).await;
}

const ODD: &str = r#"
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."it's ""odd"" $rowtide$" (id text PRIMARY KEY, owner text NOT NULL);
CREATE INDEX ON "Odd Schema"."it's ""odd"" $rowtide$" (owner);
ALTER TABLE "Odd Schema"."it's ""odd"" $rowtide$" ENABLE ROW LEVEL SECURITY;
"#;

/// What is printed makes of a database what `serve` needs, whoever runs it and however often.
#[tokio::test(flavor = "multi_thread")]
async fn what_setup_prints_is_all_that_a_server_needs() {
    for by_parts in [false, true] {
        let definition =
            format!("{DEFINITION}\n[tables.'Odd Schema.it''s \"odd\" $rowtide$']\nvisible = 'owner = auth.user_id'\n")
                .replace("'Odd Schema.it''s \"odd\" $rowtide$'", "\"Odd Schema.it's \\\"odd\\\" $rowtide$\"");
        let operator = Operator::new(&format!("{TABLES}{ODD}"), &definition).await;
        let name = operator.database.name();
        let (owner, server) = (format!("{name}_owner"), format!("{name}_server"));
        operator
            .database
            .run(&format!(
                "CREATE SEQUENCE others; ALTER TABLE note ADD number serial, ADD n bigint DEFAULT nextval('others');
                 CREATE ROLE {owner} LOGIN; ALTER TABLE note OWNER TO {owner}; REVOKE ALL ON SCHEMA public FROM public;
                 CREATE SCHEMA kinds; CREATE TYPE kinds.mood AS ENUM ('glad'); ALTER TABLE note ADD mood kinds.mood;
                 ALTER SCHEMA \"Odd Schema\" OWNER TO {owner};
                 ALTER TABLE \"Odd Schema\".\"it's \"\"odd\"\" $rowtide$\" OWNER TO {owner}"
            ))
            .await;
        let printed = operator.says(&["setup", "--print", "--server-role", &server]).await;
        succeeded(&printed);
        assert_eq!(operator.state().await.len(), 2, "it changes nothing");
        let script = &printed.out;
        for _ in 0..2 {
            if by_parts {
                let parts: Vec<&str> = script.split("\n-- Part ").skip(1).collect();
                assert_eq!(parts.len(), 3, "{script}");
                for (part, role) in parts.iter().zip(["postgres", &owner, &server]) {
                    let ran =
                        operator.psql(role, &format!("\\set ON_ERROR_STOP on\n-- {part}")).await;
                    assert_eq!(
                        (ran.code(), ran.err.contains("ERROR")),
                        (Some(0), false),
                        "as {role}: {ran:?}"
                    );
                }
            } else {
                succeeded(&operator.psql("postgres", script).await);
            }
        }
        let checked = operator.says_as(&server, &["check"]).await;
        assert_eq!(
            (checked.code(), checked.out.contains("error: ")),
            (Some(0), false),
            "{checked:?}"
        );
        // What passes is served, and written.
        let url = operator.database.url_as(&server).await;
        let mut serving = Running::start(operator.command_at(&url, &["serve"]));
        let address = serving.line("ready http://").await;
        let token =
            rowtide::auth::sign(SECRET, "ada", std::time::Duration::from_secs(600)).unwrap();
        let socket = format!("ws://{address}/sync");
        for op in [
            r#"{"op":"delete","table":"note","row":{"id":"n1"}}"#,
            r#"{"op":"insert","table":"note","row":{"id":"n3","owner":"ada","body":"numbered","mood":"glad"}}"#,
        ] {
            succeeded(&said(rowtide(["mutate", "--token", &token, "--url", &socket, op])).await);
        }
        let owned: String = {
            let client = operator.database.connect().await;
            let sql = "SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class \
                       WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'";
            client.query_one(sql, &[&operator.database.names().schema]).await.unwrap().get(0)
        };
        assert_eq!(owned, owner, "whoever runs it");
        // Nothing is taken from under it.
        let refused = operator.says(&["teardown", "--yes"]).await;
        rejected(&refused, &["uses replication slot", "stop that server first; nothing was done"]);
        assert!(operator.state().await.contains(&"schema".to_owned()));
        succeeded(&serving.stop().await);
        let torn = operator.says(&["teardown", "--yes"]).await;
        succeeded(&torn);
        let left = operator.state().await;
        assert_eq!(left.len(), 2, "{left:?} {torn:?}");
        assert!(left.iter().all(|table| table.ends_with(" d")), "{left:?}");
        operator
            .database
            .run(&format!("DROP OWNED BY {server}, {owner}; DROP ROLE {server}, {owner}"))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_name_of_ours_and_is_not_ours_is_left_alone() {
    let operator = Operator::new(TABLES, DEFINITION).await;
    let names = operator.database.names();
    let (schema, slot) = (&names.schema, &names.slot);
    operator
        .database
        .run(&format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.client (id int)"))
        .await;
    let parts = ["is not Rowtide's: it has no column `client_id`"];
    rejected(&operator.says(&["setup"]).await, &parts);
    rejected(&operator.says(&["check"]).await, &parts);
    assert_eq!(operator.state().await, ["note d", "schema"]);
    operator.database.run(&format!("DROP TABLE {schema}.client")).await;
    operator.database.run(&format!("SELECT pg_create_physical_replication_slot('{slot}')")).await;
    let parts = [&format!("replication slot `{slot}` is one of physical replication")[..]];
    rejected(&operator.says(&["setup"]).await, &parts);
    rejected(&operator.says(&["check"]).await, &parts);
    assert_eq!(operator.state().await, ["note d", "schema", "slot"]);
    operator.database.run(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    let made = operator.database.connect().await;
    let sql = format!("SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')");
    // The plugin is not installed everywhere.
    if made.batch_execute(&sql).await.is_ok() {
        let parts = [&format!("replication slot `{slot}` has another plugin than pgoutput")[..]];
        rejected(&operator.says(&["setup"]).await, &parts);
        rejected(&operator.says(&["check"]).await, &parts);
        let torn = operator.says(&["teardown", "--yes"]).await;
        assert!(torn.out.contains("left: replication slot"), "{torn:?}");
        operator.database.run(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    }
    succeeded(&operator.says(&["setup"]).await);
}

/// A publication of our name that publishes everything, and one that is somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_for_all_tables_will_do_and_one_of_another_role_is_named() {
    let operator = Operator::new(TABLES, DEFINITION).await;
    let publication = operator.database.names().publication;
    operator.database.run(&format!("CREATE PUBLICATION {publication} FOR ALL TABLES")).await;
    succeeded(&operator.says(&["setup"]).await);
    succeeded(&operator.says(&["check"]).await);
    let mut serving = operator.start(&["serve"]).await;
    serving.line("ready http://").await;
    succeeded(&serving.stop().await);
    succeeded(&operator.says(&["teardown", "--yes"]).await);

    let name = operator.database.name();
    let owner = format!("{name}_owner");
    operator
        .database
        .run(&format!(
            "CREATE ROLE {owner} LOGIN REPLICATION; ALTER TABLE note OWNER TO {owner};
             GRANT CREATE ON DATABASE {name} TO {owner};
             CREATE PUBLICATION {publication} WITH (publish = 'insert')"
        ))
        .await;
    let told = operator.says_as(&owner, &["setup"]).await;
    rejected(&told, &["ownership of publication", "\"postgres\" has it, or a superuser"]);
    assert_eq!(operator.state().await, ["note d", "publication"]);
    operator.database.run(&format!("DROP OWNED BY {owner} CASCADE; DROP ROLE {owner}")).await;
}

/// No table is made half of what it needs where there can be no slot.
#[tokio::test(flavor = "multi_thread")]
async fn where_there_can_be_no_slot_nothing_is_done() {
    let operator = Operator::new(TABLES, DEFINITION).await;
    let slots = [("max_replication_slots", "1"), ("max_wal_senders", "2")];
    let cluster = rowtide_postgres::cluster::Cluster::start_temporary(&slots).await.unwrap();
    let client = cluster.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    client.batch_execute("SELECT pg_create_physical_replication_slot('theirs')").await.unwrap();
    let url = cluster.url("postgres");
    let told = said(operator.command_at(&url, &["setup"])).await;
    rejected(&told, &["all replication slots are in use", "raise max_replication_slots"]);
    let sql = "SELECT count(*) FROM pg_publication, pg_class WHERE relname = 'note' AND relreplident <> 'd'";
    let done: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    let sql = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'rowtide%'";
    let schemas: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!((done, schemas), (0, 0));
    client.batch_execute("SELECT pg_drop_replication_slot('theirs')").await.unwrap();
    succeeded(&said(operator.command_at(&url, &["setup"])).await);
    succeeded(&said(operator.command_at(&url, &["check"])).await);
}
