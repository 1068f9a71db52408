//! What is not served, and is said to be: tables that others inherit from, what is no table, databases in another
//! encoding than UTF-8.

use rowtide_tests::{Running, eventually, http_get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::{Operator, Stage};

const MOTHER: &str = "CREATE TABLE mother (id int PRIMARY KEY, body text);
                      CREATE TABLE other (id int PRIMARY KEY, body text);
                      INSERT INTO mother VALUES (1, 'a'); INSERT INTO other VALUES (1, 'a');";
const RULE: &str = "[tables.mother]\nvisible = 'true'\n[tables.other]\nvisible = 'true'\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_others_inherit_from_is_rejected_and_they_can_be_written() {
    let tables = format!(
        "{MOTHER} CREATE TABLE kid (more int) INHERITS (mother); INSERT INTO kid VALUES (2, 'b');"
    );
    let operator = Operator::new(RULE, &tables).await;
    let parts = [
        "\"public\".\"mother\" is a table that others inherit from and cannot be synced",
        "their changes are streamed as theirs",
        "sync public.kid",
    ];
    operator
        .is_rejected(
            &parts,
            "UPDATE kid SET body = 'x'; UPDATE mother SET body = 'y'; DELETE FROM kid",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_others_begin_to_inherit_from_is_not_served_until_they_cease() {
    let mut stage = Stage::new(RULE, MOTHER).await;
    stage.holds_all("mother").await;
    stage.run("CREATE TABLE kid () INHERITS (mother); INSERT INTO kid VALUES (2, 'b')").await;
    stage.rejects(&["mother"]).await;
    stage.run("UPDATE kid SET body = 'x'; UPDATE mother SET body = 'y'; DELETE FROM kid").await;
    stage.follows("other", "UPDATE other SET body = 'z'").await;
    stage.run("ALTER TABLE kid NO INHERIT mother").await;
    stage.rejects(&[]).await;
    stage.follows("mother", "UPDATE mother SET body = 'again'").await;
}

/// Rows of those who inherit from it would be members in snapshots, and not when they change.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_memberships_look_into_may_not_be_inherited_from_either() {
    let rule = "[tables.mother]\nvisible = 'id IN (SELECT id FROM other WHERE body = auth.user_id)'\n\
                [tables.kept]\nvisible = 'true'\n";
    let kept = "CREATE TABLE kept (id int PRIMARY KEY);";
    let kid = "CREATE TABLE kid () INHERITS (other); INSERT INTO kid VALUES (2, 'ann')";
    let operator = Operator::new(rule, &format!("{MOTHER} {kept} {kid}")).await;
    let parts = ["\"public\".\"other\" is a table that others inherit from and cannot be synced"];
    operator.is_rejected(&parts, "UPDATE kid SET body = 'x'; DELETE FROM kid").await;

    let tables = format!("{MOTHER} {kept} UPDATE other SET body = 'ann'");
    let mut stage = Stage::new(rule, &tables).await;
    stage.holds_all("mother").await;
    stage.run(kid).await;
    stage.rejects(&["mother"]).await;
    stage.run("UPDATE kid SET body = 'x'; DROP TABLE kid").await;
    stage.rejects(&[]).await;
    stage.follows("mother", "UPDATE mother SET body = 'again'").await;
    // Also where it began while no server ran.
    stage.app.stop_server().await;
    stage.run(kid).await;
    stage.app.start_server().await;
    // One that has never fitted is not ready, whatever else it serves.
    eventually("it is named", || async {
        let health = http_get(&stage.app, "/health/ready").await;
        health.contains(r#""refusedTables":["mother"]"#).then_some(())
    })
    .await;
    stage.run("UPDATE kid SET body = 'x'; DROP TABLE kid").await;
    stage.rejects(&[]).await;
    stage.follows("mother", "UPDATE mother SET body = 'and again'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_inherits_is_a_table_like_any_other() {
    let rule = "[tables.kid]\nvisible = 'true'\n";
    let tables =
        format!("{MOTHER} CREATE TABLE kid (more int, PRIMARY KEY (id)) INHERITS (mother);");
    let mut stage = Stage::new(rule, &tables).await;
    stage.follows("kid", "INSERT INTO kid VALUES (2, 'b', 1)").await;
    stage.follows("kid", "UPDATE mother SET body = 'from above'").await;
    stage.follows("kid", "DELETE FROM mother").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_table_that_is_streamed_is_rejected_before_anything_is_changed() {
    let tables = "CREATE TABLE note (id int PRIMARY KEY); CREATE VIEW seen AS SELECT * FROM note;
                  CREATE MATERIALIZED VIEW kept AS SELECT * FROM note;
                  CREATE UNLOGGED TABLE lost (id int PRIMARY KEY);
                  CREATE FOREIGN DATA WRAPPER wrapper; CREATE SERVER elsewhere FOREIGN DATA WRAPPER wrapper;
                  CREATE FOREIGN TABLE afar (id int) SERVER elsewhere;";
    for (name, why) in [
        ("seen", "is a view and cannot be synced"),
        ("kept", "is a materialized view and cannot be synced"),
        ("lost", "is an unlogged table and cannot be synced"),
        ("afar", "is a foreign table and cannot be synced"),
        ("pg_catalog.pg_class", "is a table of Postgres' own and cannot be synced"),
    ] {
        let rule =
            format!("[tables.note]\nvisible = 'true'\n[tables.\"{name}\"]\nvisible = 'true'\n");
        let operator = Operator::new(&rule, tables).await;
        operator.is_rejected(&[why], "INSERT INTO note VALUES (1)").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_another_encoding_is_not_served_and_not_changed() {
    let operator = Operator::new("[tables.note]\nvisible = 'true'\n", "").await;
    let admin = operator.database.connect().await;
    for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP"] {
        let name = format!("{}_{}", operator.database.name(), encoding.to_lowercase());
        let create = format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        );
        admin.batch_execute(&create).await.unwrap();
        let url = rowtide_tests::cluster().await.url(&name);
        let sql = rowtide_tests::cluster().await.connect(&name).await.unwrap();
        sql.batch_execute("CREATE TABLE note (id int PRIMARY KEY)").await.unwrap();
        let part = format!("the database's encoding is {encoding}, and only UTF8 is served");
        for command in ["check", "setup"] {
            let said = operator.says_at(command, &url).await;
            assert_eq!(said.code(), Some(1), "{said:?}");
            let text = format!("{}{}", said.out, said.err);
            let text = text.replace("\n  │ ", " ");
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.contains(&part), "{text}");
        }
        let changed = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'rowtide%'";
        assert_eq!(sql.query_one(changed, &[]).await.unwrap().get::<_, i64>(0), 0);

        let mut served = Running::start(operator.command("serve", &url));
        let address = served.line("listening http://").await;
        eventually("the server says why it does not serve", || async {
            let mut stream = TcpStream::connect(&address).await.ok()?;
            let request = "GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            (answer.contains(" 503 ") && answer.contains(&part)).then_some(())
        })
        .await;
        served.stop().await;
        drop(sql);
        admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    }
}

/// Postgres takes no `ON CONFLICT` for a table with rewrite rules, which is no reason not to read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_rewrite_rules_is_served_and_so_is_everything_else() {
    let rules = "[tables.a]\nvisible = 'true'\n[tables.b]\nvisible = 'true'\n\
                 [tables.b.insert]\nallow = 'true'\n";
    let tables = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, n int);
                  CREATE RULE more AS ON UPDATE TO a DO ALSO INSERT INTO b VALUES (new.id, 0);
                  INSERT INTO a VALUES (1)";
    let mut stage = Stage::new(rules, tables).await;
    stage.follows("a", "UPDATE a SET id = 2").await;
    stage.holds_all("b").await;
    // It begins to have one while it is served, and is looked at again.
    stage.run("CREATE RULE more AS ON UPDATE TO b DO ALSO DELETE FROM a").await;
    stage.follows("b", "ALTER TABLE b ADD more int; INSERT INTO b VALUES (7, 1, 2)").await;
    stage.follows("b", "ALTER TABLE b RENAME n TO m; UPDATE b SET m = 3").await;
    stage.holds_all("a").await;
}
