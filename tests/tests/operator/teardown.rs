//! Take out of a database what setup has put in, by the command or by hand with what `--print` gives.

use rowtide_tests::{Running, eventually};

use crate::{DEFINITION, Operator, TABLES, rejected, succeeded};

/// Tables with each kind of replica identity, of an owner of their own; and one that has been FULL before.
const IDENTITIES: &str = r#"
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."it's ""odd"" $rowtide$" (id text PRIMARY KEY, owner text NOT NULL);
CREATE TABLE kept (id text PRIMARY KEY);
ALTER TABLE kept REPLICA IDENTITY FULL;
CREATE TABLE nothing (id text PRIMARY KEY);
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
CREATE TABLE by_index (id text PRIMARY KEY, other text NOT NULL);
CREATE UNIQUE INDEX "The ""other"" index" ON by_index (other);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX "The ""other"" index";
"#;
const ALL: &str = r#"
[tables."Odd Schema.it's \"odd\" $rowtide$"]
visible = 'true'
[tables.kept]
visible = 'true'
[tables.nothing]
visible = 'true'
[tables.by_index]
visible = 'true'
"#;

async fn with_identities() -> Operator {
    Operator::new(&format!("{TABLES}{IDENTITIES}"), &format!("{DEFINITION}{ALL}")).await
}

/// What is printed leaves nothing behind, whoever runs it and however often, and is what the command does.
#[tokio::test(flavor = "multi_thread")]
async fn what_teardown_prints_is_what_it_does() {
    let operator = with_identities().await;
    let (database, name) = (&operator.database, operator.database.name());
    let (owner, server) = (format!("{name}_owner"), format!("{name}_server"));
    database
        .run(&format!(
            "CREATE ROLE {owner} LOGIN REPLICATION; CREATE ROLE {server} LOGIN REPLICATION;
             GRANT CREATE ON DATABASE {name} TO {owner};
             ALTER TABLE \"Odd Schema\".\"it's \"\"odd\"\" $rowtide$\" OWNER TO {owner}; ALTER TABLE by_index OWNER TO {owner};
             ALTER TABLE note OWNER TO {owner}; ALTER TABLE kept OWNER TO {owner}; ALTER TABLE nothing OWNER TO {owner};
             GRANT USAGE, CREATE ON SCHEMA \"Odd Schema\" TO {owner}; GRANT USAGE, CREATE ON SCHEMA public TO {owner}"
        ))
        .await;
    let identity =
        "SELECT string_agg(indexrelid::regclass::text, ',') FROM pg_index WHERE indisreplident";
    let before = (operator.state().await, operator.one(identity).await);
    for by_parts in [false, true] {
        succeeded(&operator.says_as(&owner, &["setup"]).await);
        let set_up = operator.state().await;
        let printed = operator.says_as(&owner, &["teardown", "--print"]).await;
        succeeded(&printed);
        assert_eq!(operator.state().await, set_up, "it changes nothing");
        // It says what the command does, in that order.
        let torn = operator.says_as(&owner, &["teardown", "--yes"]).await;
        succeeded(&torn);
        let steps: Vec<&str> = printed
            .out
            .lines()
            .filter_map(|line| line.strip_prefix("-- "))
            .filter(|line| ["drop ", "set ", "left: "].iter().any(|word| line.starts_with(word)))
            .collect();
        assert_eq!(steps, torn.out.lines().collect::<Vec<_>>());
        assert_eq!(steps.len(), 9, "{steps:?}");
        let after = (operator.state().await, operator.one(identity).await);
        assert_eq!(after, before);

        succeeded(&operator.says_as(&owner, &["setup"]).await);
        for _ in 0..2 {
            if by_parts {
                let parts: Vec<&str> = printed.out.split("\n-- Part ").skip(1).collect();
                assert_eq!(parts.len(), 2, "{}", printed.out);
                assert!(parts[0].contains(&format!("the owner of the tables, \"{owner}\"")));
                for (part, role) in parts.iter().zip([&owner, &server]) {
                    let part = format!("\\set ON_ERROR_STOP on\n-- {part}");
                    let ran = operator.psql(role, &part).await;
                    assert!(
                        ran.code() == Some(0) && !ran.err.contains("WARNING"),
                        "as {role}: {ran:?}"
                    );
                }
            } else {
                succeeded(&operator.psql("postgres", &printed.out).await);
            }
            let after = (operator.state().await, operator.one(identity).await);
            assert_eq!(after, before);
        }
        let nothing = operator.says(&["teardown", "--print"]).await;
        succeeded(&nothing);
        assert_eq!(nothing.out.matches("There is nothing to do").count(), 2, "{}", nothing.out);
        succeeded(&operator.psql("postgres", &nothing.out).await);
    }
    // What several own is a superuser's.
    succeeded(&operator.says(&["setup"]).await);
    let printed = operator.says(&["teardown", "--print"]).await;
    assert!(
        printed.out.contains("a superuser: what it changes has several owners"),
        "{}",
        printed.out
    );
    // Which replica identities tables had is not everybody's to read, and without that it would be half of it.
    let told = operator.says_as(&server, &["teardown", "--print"]).await;
    rejected(&told, &["to read which replica identities tables had it needs ownership of table"]);
    assert!(told.out.is_empty(), "{told:?}");
    succeeded(&operator.psql("postgres", &printed.out).await);
    assert_eq!((operator.state().await, operator.one(identity).await), before);
    database.run(&format!("DROP OWNED BY {owner}, {server}; DROP ROLE {owner}, {server}")).await;
}

/// As the command, what is printed does nothing where it could do a part only, leaves what is others', and holds up nobody.
#[tokio::test(flavor = "multi_thread")]
async fn what_teardown_prints_is_as_careful_as_it_is() {
    let operator = with_identities().await;
    let before = operator.state().await;
    let schema = operator.database.names().schema;
    succeeded(&operator.says(&["setup"]).await);
    let set_up = operator.state().await;
    let printed = operator.says(&["teardown", "--print"]).await.out;
    let mut serving = operator.start(&["serve"]).await;
    serving.line("ready http://").await;
    // While a server runs it can be printed, and not be run.
    assert_eq!(operator.says(&["teardown", "--print"]).await.out, printed);
    let stopped = |ran: rowtide_tests::Said, why: &str| {
        assert_eq!(ran.code(), Some(3), "{ran:?}");
        assert!(ran.err.contains(why), "{ran:?}");
    };
    stopped(operator.psql("postgres", &printed).await, "stop that server first; nothing was done");
    assert_eq!(operator.state().await, set_up);
    succeeded(&serving.stop().await);
    operator.database.run(&format!("CREATE VIEW clients AS TABLE {schema}.client")).await;
    stopped(operator.psql("postgres", &printed).await, "other objects depend on");
    assert_eq!(operator.state().await, set_up);
    operator.database.run("DROP VIEW clients").await;
    let other = operator.database.url().await.replace(operator.database.name(), "postgres");
    let elsewhere = operator.psql_command(&other, &printed);
    stopped(rowtide_tests::said(elsewhere).await, "this is for database");

    operator
        .database
        .run(&format!(
            "CREATE TABLE {schema}.theirs (id int); DROP INDEX \"The \"\"other\"\" index\""
        ))
        .await;
    let reader = operator.database.connect().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM note").await.unwrap();
    let url = operator.database.url().await;
    let script = Running::start(operator.psql_command(&url, &printed));
    eventually("it says whom it waits for", || async {
        script.said().contains("waiting for others who use").then_some(())
    })
    .await;
    operator.write_in_turns().await;
    reader.batch_execute("COMMIT").await.unwrap();
    let ran = script.ended().await;
    succeeded(&ran);
    for left in ["left: cannot drop schema", "left: index \"The \"other\" index\""] {
        assert!(ran.err.contains(left), "no `{left}` in {}", ran.err);
    }
    let mut after = operator.state().await;
    after.retain(|what| what != "schema");
    let by_index = before.iter().map(|it| if it == "by_index i" { "by_index f" } else { it });
    assert_eq!(after, by_index.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn teardown_takes_out_what_setup_made_and_names_what_it_leaves() {
    let operator = Operator::new(TABLES, DEFINITION).await;
    operator
        .database
        .run(
            "CREATE TABLE kept (id text PRIMARY KEY); ALTER TABLE kept REPLICA IDENTITY FULL;
             CREATE TABLE by_index (id text PRIMARY KEY, other text NOT NULL UNIQUE);
             ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_other_key",
        )
        .await;
    let all = format!(
        "{DEFINITION}\n[tables.kept]\nvisible = 'true'\n[tables.by_index]\nvisible = 'true'\n"
    );
    operator.dir.write("rowtide.toml", &all);
    let before = operator.state().await;
    succeeded(&operator.says(&["setup"]).await);
    let schema = operator.database.names().schema;
    operator.database.run(&format!("CREATE TABLE {schema}.theirs (id int)")).await;
    // It asks, and there is nobody to ask.
    let asked = operator.says(&["teardown"]).await;
    rejected(&asked, &["--yes", "nothing was done", "drop publication", "drop replication slot"]);
    assert!(operator.state().await.contains(&"slot".to_owned()));
    // What somebody has built upon it is told before anything is done.
    operator.database.run(&format!("CREATE VIEW clients AS TABLE {schema}.client")).await;
    rejected(&operator.says(&["teardown", "--yes"]).await, &["other objects depend on"]);
    assert!(operator.state().await.contains(&"publication".to_owned()));
    operator.database.run("DROP VIEW clients").await;

    let torn = operator.says(&["teardown", "--yes"]).await;
    succeeded(&torn);
    for part in [
        "left: the replica identity of \"public\".\"kept\" is FULL, and setup had not set it",
        "left: it did not drop schema",
    ] {
        assert!(torn.out.contains(part), "no `{part}` in:\n{}", torn.out);
    }
    let mut after = operator.state().await;
    after.retain(|what| what != "schema");
    assert_eq!(after, before);
    operator.database.run(&format!("DROP TABLE {schema}.theirs")).await;
    succeeded(&operator.says(&["teardown", "--yes"]).await);
    let nothing = operator.says(&["teardown", "--yes"]).await;
    assert!(nothing.out.starts_with("nothing was there"), "{nothing:?}");
    assert_eq!(operator.state().await, before);
}

/// Two environments over one database: the one that stays goes on.
#[tokio::test(flavor = "multi_thread")]
async fn teardown_leaves_another_environment_what_it_needs() {
    let operator = Operator::new(TABLES, DEFINITION).await;
    let second = format!("{}_b", operator.database.name());
    succeeded(&operator.says(&["setup"]).await);
    succeeded(&operator.says(&["setup", "--environment", &second]).await);
    let torn = operator.says(&["teardown", "--yes"]).await;
    succeeded(&torn);
    assert!(
        torn.out.contains(&format!("is FULL: publication \"rowtide_{second}\" needs it")),
        "{}",
        torn.out
    );
    succeeded(&operator.says(&["check", "--environment", &second]).await);
    succeeded(&operator.says(&["teardown", "--yes", "--environment", &second]).await);
}
