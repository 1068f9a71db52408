//! `rowtide setup` and `rowtide check`: what they do and find in real databases, and that what check
//! advises repairs what it found.

use rowtide_plan::catalog::ReplicaIdentity;
use rowtide_plan::check::{Problem, check_plan, plan_once_set_up};
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::Plan;
use rowtide_postgres::catalog::read_catalog;
use rowtide_postgres::check::check;
use rowtide_postgres::cluster::Cluster;
use rowtide_postgres::connect::{ConnectOptions, Names, connect};
use rowtide_postgres::setup::{SetupError, setup};
use rowtide_postgres::slot_making::make_slot;
use rowtide_tests::{Database, cluster};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

const TABLES: &str = r#"
CREATE TABLE note (id text PRIMARY KEY, owner text NOT NULL, text text);
CREATE INDEX ON note (owner);
CREATE TABLE member (team text, person text, PRIMARY KEY (team, person));
CREATE INDEX ON member (person);
CREATE SCHEMA other;
CREATE TABLE other.plan (id int PRIMARY KEY, team text NOT NULL);
CREATE INDEX ON other.plan (team);
"#;

const DEFINITION: &str = r#"
[tables.note]
visible = 'owner = auth.user_id'

[tables."other.plan"]
visible = 'team IN (SELECT team FROM member WHERE person = auth.user_id)'
"#;

fn definition() -> Definition {
    Definition::parse("rowtide.toml", DEFINITION).unwrap_or_else(|error| panic!("{error:?}"))
}

async fn plan(client: &Client) -> Plan {
    let definition = definition();
    let catalog = read_catalog(client, &definition.tables()).await.unwrap();
    compile(&definition, &catalog).unwrap_or_else(|error| panic!("{error:?}"))
}

/// As the replica identity must be for a plan.
async fn with_identities() -> Database {
    let full = "ALTER TABLE note REPLICA IDENTITY FULL; ALTER TABLE member REPLICA IDENTITY FULL; \
                ALTER TABLE other.plan REPLICA IDENTITY FULL;";
    Database::with(&format!("{TABLES}{full}")).await
}

async fn set_up(client: &Client, names: &Names) -> Vec<String> {
    setup(client, names, &definition().tables()).await.unwrap_or_else(|error| panic!("{error}"))
}

/// What check says, as a person reads it.
async fn found(client: &Client, names: &Names) -> Vec<String> {
    let problems = check(client, names, &plan(client).await).await.unwrap().problems;
    problems.into_iter().map(|problem| problem.what).collect()
}

async fn one(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn setup_makes_all_that_check_misses_and_a_second_one_does_nothing() {
    let database = with_identities().await;
    let (client, names) = (database.connect().await, database.names());
    let Names { slot, publication, schema } = &names;
    assert_eq!(
        found(&client, &names).await,
        [
            format!("table \"{schema}\".\"client\" is missing"),
            format!("publication \"{publication}\" is missing"),
            format!("replication slot `{slot}` is missing"),
        ]
    );
    let done = set_up(&client, &names).await;
    assert_eq!(
        done,
        [
            format!("create schema \"{schema}\""),
            format!("create table \"{schema}\".\"client\""),
            format!("create table \"{schema}\".\"refusal\""),
            format!("create table \"{schema}\".\"made_key\""),
            format!("create table \"{schema}\".\"named_mutation\""),
            format!(
                "create publication \"{publication}\" for \"public\".\"note\", \"other\".\"plan\", \
                 \"public\".\"member\", \"{schema}\".\"client\""
            ),
            format!("create replication slot `{slot}`"),
        ]
    );
    assert_eq!(found(&client, &names).await, [""; 0]);
    assert_eq!(set_up(&client, &names).await, [""; 0]);
    let sql = "SELECT plugin || ' ' || temporary::text FROM pg_replication_slots \
               WHERE database = current_database()";
    assert_eq!(one(&client, sql).await, "pgoutput false");
}

#[tokio::test]
async fn setup_gives_tables_a_replica_identity_that_holds_the_old_row() {
    let database = Database::with(TABLES).await;
    let (client, names) = (database.connect().await, database.names());
    let done = set_up(&client, &names).await;
    assert!(
        done.contains(&"set the replica identity of \"other\".\"plan\" to FULL".to_owned()),
        "{done:?}"
    );
    let catalog = read_catalog(&client, &definition().tables()).await.unwrap();
    assert_eq!(catalog.tables.len(), 3);
    assert!(catalog.tables.iter().all(|table| table.replica_identity == ReplicaIdentity::Full));
}

#[tokio::test]
async fn setup_adds_what_a_new_definition_needs_to_what_is_there() {
    let database = with_identities().await;
    let (client, names) = (database.connect().await, database.names());
    let first = Definition::parse("rowtide.toml", "[tables.note]\nvisible = 'true'").unwrap();
    setup(&client, &names, &first.tables()).await.unwrap();
    let publication = &names.publication;
    let narrow = format!("ALTER PUBLICATION {publication} SET (publish = 'insert')");
    client.batch_execute(&narrow).await.unwrap();
    assert_eq!(
        found(&client, &names).await,
        [
            format!("publication \"{publication}\" leaves operations out"),
            format!("\"other\".\"plan\" is not in publication \"{publication}\""),
            format!("\"public\".\"member\" is not in publication \"{publication}\""),
        ]
    );
    assert_eq!(set_up(&client, &names).await.len(), 3);
    assert_eq!(found(&client, &names).await, [""; 0]);
}

#[tokio::test]
async fn several_may_set_up_at_once() {
    let database = Database::with(TABLES).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, names) = (database.connect().await, database.names());
        tasks.spawn(async move { set_up(&client, &names).await });
    }
    let done: Vec<Vec<String>> = tasks.join_all().await;
    assert_eq!(done.iter().filter(|steps| !steps.is_empty()).count(), 1, "{done:?}");
}

#[tokio::test]
async fn setup_waits_for_older_transactions_before_it_makes_the_slot() {
    let database = with_identities().await;
    let older = database.connect().await;
    older.batch_execute("BEGIN; INSERT INTO note VALUES ('n', 'u1')").await.unwrap();
    let (client, names) = (database.connect().await, database.names());
    let task = tokio::spawn(async move { set_up(&client, &names).await });
    let waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND datname = current_database()";
    rowtide_tests::eventually("setup waits", || async {
        (!older.query(waits, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    older.batch_execute("COMMIT").await.unwrap();
    assert_eq!(task.await.unwrap().len(), 7);
}

#[tokio::test]
async fn two_databases_of_one_server_need_two_environments() {
    let (one, two) = (with_identities().await, with_identities().await);
    let names = one.names();
    set_up(&one.connect().await, &names).await;
    let client = two.connect().await;
    let error = setup(&client, &names, &definition().tables()).await.unwrap_err();
    assert!(matches!(&error, SetupError::SlotOfAnother { .. }), "{error}");
    let (slot, other) = (&names.slot, one.name());
    let (schema, publication) = (&names.schema, &names.publication);
    assert_eq!(
        found(&client, &names).await,
        [
            format!("table \"{schema}\".\"client\" is missing"),
            format!("publication \"{publication}\" is missing"),
            format!("replication slot `{slot}` belongs to database `{other}`"),
        ],
        "and nothing was done"
    );
    set_up(&client, &two.names()).await;
    assert_eq!(found(&client, &two.names()).await, [""; 0]);
}

#[tokio::test]
async fn what_check_advises_a_role_without_rights_mends_what_it_found() {
    let database = with_identities().await;
    let (admin, names) = (database.connect().await, database.names());
    let role = format!("{}_Role", database.name());
    let sql = format!(
        "REVOKE ALL ON SCHEMA public FROM public; CREATE ROLE \"{role}\" LOGIN;
         ALTER TABLE note ENABLE ROW LEVEL SECURITY"
    );
    admin.batch_execute(&sql).await.unwrap();
    set_up(&admin, &names).await;
    let options = ConnectOptions::parse(&database.url_as(&role).await).unwrap();
    let client = connect(&options, "test").await.unwrap();
    let plan = plan(&admin).await;
    let problems: Vec<Problem> = check(&client, &names, &plan).await.unwrap().problems;
    let what: Vec<&str> = problems.iter().map(|problem| problem.what.as_str()).collect();
    let schema = &names.schema;
    assert_eq!(
        what,
        [
            format!("role \"{role}\" may not stream"),
            format!("role \"{role}\" may not use schema other"),
            format!("role \"{role}\" may not use schema public"),
            format!("role \"{role}\" may not read table public.note"),
            format!(
                "row-level security hides rows of table public.note from role \"{role}\", but not \
                 their changes"
            ),
            format!("role \"{role}\" may not read table other.plan"),
            format!("role \"{role}\" may not read table public.member"),
            format!("role \"{role}\" may not write table \"{schema}\".\"client\""),
        ]
    );
    assert!(problems.iter().all(|problem| problem.fatal));
    for problem in problems {
        admin.batch_execute(&problem.repair.unwrap()).await.unwrap();
    }
    let problems = check(&client, &names, &plan).await.unwrap().problems;
    assert_eq!(problems, [], "as {role}");
}

#[tokio::test]
async fn a_role_that_may_not_set_up_is_told_what_it_may_not() {
    let database = with_identities().await;
    let (admin, names) = (database.connect().await, database.names());
    let role = format!("{}_role", database.name());
    let sql = format!("CREATE ROLE {role} LOGIN REPLICATION; GRANT pg_read_all_data TO {role}");
    admin.batch_execute(&sql).await.unwrap();
    let options = ConnectOptions::parse(&database.url_as(&role).await).unwrap();
    let client = connect(&options, "test").await.unwrap();
    let error = setup(&client, &names, &definition().tables()).await.unwrap_err();
    let name = database.name();
    assert!(matches!(&error, SetupError::NotAllowed { .. }), "{error}");
    let said = error.to_string();
    for part in
        ["may not do all of it, and nothing was done", "CREATE on database", "ownership of table"]
    {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    let problems = check(&client, &names, &plan(&admin).await).await.unwrap().problems;
    let missing = problems.iter().find(|problem| problem.what.contains("client")).unwrap();
    let repair = missing.repair.as_deref().unwrap();
    assert_eq!(
        repair,
        format!("GRANT CREATE ON DATABASE {name} TO {role};  -- then: rowtide setup")
    );
}

#[tokio::test]
async fn a_publication_that_leaves_rows_or_columns_out_is_found() {
    let database = with_identities().await;
    if !database.is_at_least(15, "row filters").await {
        return;
    }
    let (client, names) = (database.connect().await, database.names());
    set_up(&client, &names).await;
    let publication = &names.publication;
    let narrow =
        format!("ALTER PUBLICATION {publication} SET TABLE note WHERE (owner <> 'u9'), member");
    client.batch_execute(&narrow).await.unwrap();
    let problems = check(&client, &names, &plan(&client).await).await.unwrap().problems;
    let what: Vec<&str> = problems.iter().map(|problem| problem.what.as_str()).collect();
    let schema = &names.schema;
    assert_eq!(
        what,
        [
            format!(
                "publication \"{publication}\" leaves rows or columns of \"public\".\"note\" out"
            ),
            format!("\"other\".\"plan\" is not in publication \"{publication}\""),
            format!("\"{schema}\".\"client\" is not in publication \"{publication}\""),
        ]
    );
    for problem in problems {
        client.batch_execute(&problem.repair.unwrap()).await.unwrap();
    }
    assert_eq!(found(&client, &names).await, [""; 0]);
}

#[tokio::test]
async fn an_anchor_without_an_index_and_a_key_beyond_javascript_are_noted() {
    let database = Database::with(
        "CREATE TABLE note (id bigint PRIMARY KEY, owner text NOT NULL);
         ALTER TABLE note REPLICA IDENTITY FULL;
         CREATE INDEX ON note (lower(owner)); CREATE INDEX ON note (owner) WHERE owner <> '';",
    )
    .await;
    let (client, names) = (database.connect().await, database.names());
    let text = "[tables.note]\nvisible = 'owner = auth.user_id'";
    let definition = Definition::parse("rowtide.toml", text).unwrap();
    setup(&client, &names, &definition.tables()).await.unwrap();
    let plan = || async {
        let catalog = read_catalog(&client, &definition.tables()).await.unwrap();
        compile(&definition, &catalog).unwrap()
    };
    let problems = check(&client, &names, &plan().await).await.unwrap().problems;
    assert!(problems.iter().all(|problem| !problem.fatal));
    let what: Vec<&str> = problems.iter().map(|problem| problem.what.as_str()).collect();
    assert!(what[0].starts_with("no index serves the anchor \"owner\""), "{what:?}");
    assert!(what[1].contains("2^53"), "{what:?}");
    client.batch_execute(problems[0].repair.as_deref().unwrap()).await.unwrap();
    assert_eq!(check(&client, &names, &plan().await).await.unwrap().problems, problems[1..]);
}

/// An insert may leave out a key that Postgres makes, so a rule for inserts is as good as for any other table.
#[tokio::test]
async fn rows_whose_key_postgres_alone_makes_may_be_inserted() {
    let database = Database::with(
        "CREATE TABLE ticket (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner text);
         CREATE TABLE pair (half int NOT NULL, id int GENERATED ALWAYS AS (half * 2) STORED PRIMARY KEY);",
    )
    .await;
    let client = database.connect().await;
    let found = async |text: &str| {
        let definition = Definition::parse("rowtide.toml", text).unwrap();
        let catalog = read_catalog(&client, &definition.tables()).await.unwrap();
        let problems = plan_once_set_up(&definition, &catalog).map(|(plan, _)| check_plan(&plan));
        let problems = problems.unwrap_or_else(|error| panic!("{error:?}"));
        problems.into_iter().find(|problem| problem.what.contains("insert"))
    };
    let ticket = "[tables.ticket]\nvisible = 'true'\n[tables.ticket.insert]\nallow = 'true'\n";
    assert_eq!(found(ticket).await, None);
    if database.is_at_least(18, "generated columns are synced").await {
        let pair = "[tables.pair]\nvisible = 'true'\n[tables.pair.insert]\nallow = 'true'\n";
        assert_eq!(found(pair).await, None);
    }
}

#[tokio::test]
async fn a_table_without_a_primary_key_is_refused_with_the_statement_that_repairs_it() {
    let database = Database::with("CREATE TABLE note (id text, owner text)").await;
    let client = database.connect().await;
    let text = "[tables.note]\nvisible = 'owner = auth.user_id'";
    let definition = Definition::parse("rowtide.toml", text).unwrap();
    let catalog = read_catalog(&client, &definition.tables()).await.unwrap();
    let error = compile(&definition, &catalog).unwrap_err();
    assert_eq!(error.problems[0].message, "table \"public\".\"note\" has no primary key");
    let help = error.problems[0].help.as_deref().unwrap();
    assert!(help.starts_with("ALTER TABLE \"public\".\"note\" ADD PRIMARY KEY"), "{help}");
}

#[tokio::test]
async fn a_server_without_logical_wal_is_found_and_said() {
    let cluster = Cluster::start_temporary(&[("wal_level", "replica")]).await.unwrap();
    let client = cluster.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    let names = Names::of("default").unwrap();
    let error = setup(&client, &names, &definition().tables()).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot create replication slot `rowtide_default`: "), "{error}");
    assert!(error.contains("wal_level"), "{error}");
    // Nothing was done.
    let sql =
        "SELECT string_agg(relreplident::text, '') FROM pg_class WHERE oid = 'note'::regclass";
    assert_eq!(one(&client, sql).await, "d");
    let full = "ALTER TABLE note REPLICA IDENTITY FULL; ALTER TABLE member REPLICA IDENTITY FULL; \
                ALTER TABLE other.plan REPLICA IDENTITY FULL;";
    client.batch_execute(full).await.unwrap();
    let problems = check(&client, &names, &plan(&client).await).await.unwrap().problems;
    assert_eq!(problems[0].what, "wal_level is `replica`: changes cannot be streamed");
    let repair = problems[0].repair.as_deref().unwrap();
    assert_eq!(repair, "ALTER SYSTEM SET wal_level = logical;  -- then restart Postgres");
    client.batch_execute(repair).await.unwrap();
}

#[tokio::test]
async fn a_lost_slot_is_found_and_made_anew() {
    let settings = [("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB")];
    let cluster = Cluster::start_temporary(&settings).await.unwrap();
    let client = cluster.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    let names = Names::of("default").unwrap();
    set_up(&client, &names).await;
    assert_eq!(found(&client, &names).await, [""; 0]);
    rowtide_tests::eventually("the slot is lost", || async {
        let sql = "SELECT pg_logical_emit_message(false, 'test', 'x')";
        client.query(sql, &[]).await.unwrap();
        client.query("SELECT pg_switch_wal()", &[]).await.unwrap();
        client.batch_execute("CHECKPOINT").await.unwrap();
        let sql = "SELECT wal_status FROM pg_replication_slots";
        (one(&client, sql).await == "lost").then_some(())
    })
    .await;
    assert_eq!(
        found(&client, &names).await,
        ["replication slot `rowtide_default` is lost: it was too far behind"]
    );
    assert_eq!(set_up(&client, &names).await.len(), 2);
    assert_eq!(found(&client, &names).await, [""; 0]);
}

#[tokio::test]
async fn a_new_slot_is_a_failover_slot_where_postgres_has_some() {
    let database = with_identities().await;
    if !database.is_at_least(17, "failover slots").await {
        return;
    }
    let (client, names) = (database.connect().await, database.names());
    set_up(&client, &names).await;
    let sql = "SELECT failover::text FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(one(&client, sql).await, "true");
    let options = database.options().await;
    let stop = CancellationToken::new();
    make_slot(&options, &names.slot, true, |_| (), &stop).await.unwrap();
    assert_eq!(one(&client, sql).await, "true");
}

#[tokio::test]
async fn slots_that_are_all_in_use_are_said() {
    let settings = [("max_replication_slots", "1"), ("max_wal_senders", "1")];
    let cluster = Cluster::start_temporary(&settings).await.unwrap();
    let client = cluster.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    set_up(&client, &Names::of("one").unwrap()).await;
    let names = Names::of("two").unwrap();
    let error = setup(&client, &names, &definition().tables()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot create replication slot `rowtide_two`: all replication slots are in use"
    );
    let problems = check(&client, &names, &plan(&client).await).await.unwrap().problems;
    let full = problems.iter().find(|problem| problem.what.contains("max_replication_slots"));
    client.batch_execute(full.unwrap().repair.as_deref().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_connection_says_who_it_is_and_holds_up_nobody() {
    let database = Database::create().await;
    let url = format!("{}?options=-c%20statement_timeout%3D7s", database.url().await);
    let client = connect(&ConnectOptions::parse(&url).unwrap(), "load").await.unwrap();
    for (name, value) in [
        ("application_name", "rowtide load"),
        ("lock_timeout", "10s"),
        // Compiling the look at the catalog takes seconds, where it seems dear: with very many tables, or `enable_seqscan` off.
        ("jit", "off"),
        ("idle_in_transaction_session_timeout", "1min"),
        ("statement_timeout", "7s"),
    ] {
        assert_eq!(one(&client, &format!("SHOW {name}")).await, value, "{name}");
    }
}

#[tokio::test]
async fn a_connection_that_is_refused_says_where_and_why_without_the_password() {
    let url = cluster().await.url("nowhere").replacen("postgres@", "postgres:s3cret@", 1);
    let options = ConnectOptions::parse(&url).unwrap();
    let error = connect(&options, "test").await.unwrap_err().to_string();
    assert!(error.starts_with("cannot connect to database `nowhere` at /"), "{error}");
    assert!(error.ends_with("as `postgres`: database \"nowhere\" does not exist"), "{error}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("postgres://ann:s3cret@{free}/app");
    let error = connect(&ConnectOptions::parse(&url).unwrap(), "test").await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot connect to database `app` at {free} as `ann`: ")));
    assert!(text.contains("refused") && !format!("{error:?}").contains("s3cret"), "{text}");
}
