//! What passes `rowtide check` is served: it tries what the server is going to do, and names what is in the way.

use rowtide_postgres::cluster::Cluster;
use rowtide_tests::{Dir, Pooler, Running, eventually, rowtide, said};

use crate::{DEFINITION, Operator, SECRET, TABLES, psql_url, rejected, succeeded};

async fn set_up() -> Operator {
    let operator = Operator::new(TABLES, DEFINITION).await;
    succeeded(&operator.says(&["setup"]).await);
    operator
}

impl Operator {
    /// Makes a role with all that a server needs, and these attributes.
    async fn server_role(&self, attributes: &str) -> String {
        let role = self.database.stranger("server", attributes, "note").await;
        self.database.run(&format!("GRANT INSERT, UPDATE, DELETE ON note TO {role}")).await;
        role
    }

    async fn drop_role(&self, role: &str) {
        self.database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_lacks_or_begins_with_is_found() {
    let operator = set_up().await;
    let name = operator.database.name();
    let role = operator.server_role("LOGIN REPLICATION").await;
    let first = operator.says_as(&role, &["check"]).await;
    succeeded(&first);
    assert!(!first.out.contains("error: ") && !first.out.contains("note: "), "{}", first.out);
    for (change, undo, found) in [
        (
            "NOREPLICATION",
            "REPLICATION",
            "error: role {role} may not stream\n  ALTER ROLE {role} REPLICATION;",
        ),
        (
            "CONNECTION LIMIT 9",
            "CONNECTION LIMIT -1",
            "error: role {role} may have 9 connections, and the server opens up to 17\n  ALTER ROLE {role} CONNECTION LIMIT 17;",
        ),
        ("SET statement_timeout = '5s'", "RESET statement_timeout", ""),
        ("SET default_transaction_read_only = on", "RESET default_transaction_read_only", ""),
    ] {
        operator.database.run(&format!("ALTER ROLE {role} {change}")).await;
        let checked = operator.says_as(&role, &["check"]).await;
        let found = found.replace("{role}", &role);
        assert!(checked.out.contains(&found), "{change}: {checked:?}");
        if checked.code() == Some(0) {
            // It means that.
            let url = operator.database.url_as(&role).await;
            let mut serving = Running::start(operator.command_at(&url, &["serve"]));
            serving.line("ready http://").await;
            succeeded(&serving.stop().await);
        } else {
            assert!(checked.out.contains("error: "), "{checked:?}");
        }
        operator.database.run(&format!("ALTER ROLE {role} {undo}")).await;
    }
    // As platforms do by themselves for every new table.
    for table in ["client", "refusal", "made_key", "named_mutation"] {
        let table = format!("\"rowtide_{name}\".\"{table}\"");
        operator.database.run(&format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")).await;
        let checked = operator.says_as(&role, &["check"]).await;
        let disable = format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY");
        let found = format!(
            "error: row-level security of table {table} applies to role {role}\n  {disable};"
        );
        assert!(checked.code() == Some(1) && checked.out.contains(&found), "{checked:?}");
        operator.database.run(&disable).await;
    }
    operator.database.run(&format!("ALTER DATABASE {name} CONNECTION LIMIT 3")).await;
    let checked = operator.says_as(&role, &["check"]).await;
    assert!(
        checked.out.contains(&format!("error: database {name} may have 3 connections")),
        "{checked:?}"
    );
    operator.database.run(&format!("ALTER DATABASE {name} CONNECTION LIMIT -1")).await;
    succeeded(&operator.says_as(&role, &["check"]).await);
    operator.drop_role(&role).await;
}

/// What rules, defaults and constraints need shows in no list of tables, and would hold mutations for ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_statements_of_mutations_need_is_found_before_one_waits_for_it() {
    let tables = "CREATE SCHEMA apart;
        CREATE FUNCTION apart.may(text) RETURNS bool LANGUAGE plpgsql STABLE AS 'BEGIN RETURN true; END';
        CREATE FUNCTION apart.fits(text) RETURNS bool LANGUAGE sql IMMUTABLE AS $$SELECT $1 <> ''$$;
        CREATE FUNCTION apart.made() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN 'made'; END$$;
        CREATE FUNCTION apart.on_write() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TABLE apart.member (who text PRIMARY KEY);
        INSERT INTO apart.member VALUES ('ada');
        CREATE DOMAIN apart.word AS text CHECK (apart.fits(value));
        CREATE FUNCTION apart.deep(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 0';
        CREATE FUNCTION apart.matches(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 <> $2';
        CREATE FUNCTION apart.fires(text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
        CREATE FUNCTION apart.never(text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
        CREATE OPERATOR apart.<<>> (FUNCTION = apart.matches, LEFTARG = text, RIGHTARG = text);
        CREATE DOMAIN apart.above AS int CHECK (apart.deep(value));
        CREATE TYPE apart.pair AS (a apart.above, b text);
        CREATE DOMAIN apart.key AS text NOT NULL CHECK (value IS NOT NULL AND length(value) > 1);
        CREATE TABLE note (id apart.key PRIMARY KEY, owner apart.word NOT NULL, body text DEFAULT apart.made(),
          pairs apart.pair[], \"n o\" serial, own bigint GENERATED ALWAYS AS IDENTITY) PARTITION BY HASH (id);
        CREATE TABLE note_0 PARTITION OF note FOR VALUES WITH (MODULUS 1, REMAINDER 0);
        ALTER TABLE note_0 ADD CHECK (apart.fits(body)), ADD CHECK (body OPERATOR(apart.<<>>) 'none');
        CREATE INDEX ON note (owner);
        CREATE TRIGGER seen BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION apart.on_write();
        CREATE TRIGGER fires BEFORE UPDATE OF body ON note FOR EACH ROW WHEN (apart.fires(new.body))
          EXECUTE FUNCTION apart.on_write();
        CREATE TRIGGER never BEFORE UPDATE OF owner ON note FOR EACH ROW WHEN (apart.never(new.body))
          EXECUTE FUNCTION apart.on_write();
        CREATE TRIGGER off BEFORE INSERT ON note FOR EACH ROW WHEN (apart.never(new.body))
          EXECUTE FUNCTION apart.on_write();
        ALTER TABLE note DISABLE TRIGGER off;";
    let definition = "[tables.note]\nvisible = 'owner = auth.user_id'\n\
        [tables.note.insert]\nallow = 'new.owner = auth.user_id AND apart.may(new.id)'\n\
        [[tables.note.update]]\ncolumns = ['body']\nallow = 'auth.user_id IN (SELECT who FROM apart.member)'\n\
        [tables.note.delete]\nallow = 'old.owner = auth.user_id'\n";
    let operator = Operator::new(tables, definition).await;
    succeeded(&operator.says(&["setup"]).await);
    let role = operator.server_role("LOGIN REPLICATION").await;
    let revoke = "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA apart FROM public";
    operator.database.run(&format!("GRANT USAGE ON SCHEMA apart TO {role}; {revoke}")).await;
    let needed = [
        (
            "EXECUTE ON FUNCTION apart.may(text)",
            "cannot insert into table \"public\".\"note\": permission denied for function may",
        ),
        (
            "EXECUTE ON FUNCTION apart.made()",
            "cannot insert into table \"public\".\"note\": permission denied for function made",
        ),
        (
            "SELECT ON apart.member",
            "cannot update table \"public\".\"note\": permission denied for table member",
        ),
        (
            "USAGE ON SEQUENCE \"note_n o_seq\"",
            "may not use sequence public.\"note_n o_seq\", which numbers rows of note",
        ),
        (
            "EXECUTE ON FUNCTION apart.fits(text)",
            "may not call apart.fits(text), which a constraint, an index, a column or a trigger's condition of note calls",
        ),
        (
            "EXECUTE ON FUNCTION apart.deep(int)",
            "may not call apart.deep(integer), which a constraint, an index, a column or a trigger's condition of note calls",
        ),
        (
            "EXECUTE ON FUNCTION apart.matches(text, text)",
            "may not call apart.matches(text, text), which a constraint, an index, a column or a trigger's condition of note calls",
        ),
        (
            "EXECUTE ON FUNCTION apart.fires(text)",
            "may not call apart.fires(text), which a constraint, an index, a column or a trigger's condition of note calls",
        ),
    ];
    for (right, _) in needed {
        operator.database.run(&format!("GRANT {right} TO {role}")).await;
    }
    let whole = operator.says_as(&role, &["check"]).await;
    succeeded(&whole);
    assert!(!whole.out.contains("error: ") && !whole.out.contains("note: "), "{}", whole.out);
    let url = operator.database.url_as(&role).await;
    let mut serving = Running::start(operator.command_at(&url, &["serve"]));
    let address = serving.line("ready http://").await;
    let socket = format!("ws://{address}/sync");
    let token = rowtide::auth::sign(SECRET, "ada", std::time::Duration::from_secs(600)).unwrap();
    for op in [
        r#"{"op":"insert","table":"note","row":{"id":"n1","owner":"ada","pairs":["(7,x)"]}}"#,
        r#"{"op":"update","table":"note","row":{"id":"n1","body":"y"}}"#,
        r#"{"op":"delete","table":"note","row":{"id":"n1"}}"#,
    ] {
        succeeded(&said(rowtide(["mutate", "--token", &token, "--url", &socket, op])).await);
    }
    succeeded(&serving.stop().await);
    for (right, found) in needed {
        operator.database.run(&format!("REVOKE {right} FROM {role}")).await;
        let checked = operator.says_as(&role, &["check"]).await;
        rejected(&checked, &[&format!("error: role {role} {found}")]);
        assert_eq!(checked.out.matches("error: ").count(), 1, "{right}: {checked:?}");
        // The same is found where mutations alone come as that role.
        let args = ["check", "--mutation-database-url", &url];
        let checked = said(operator.command_at(&operator.database.url().await, &args)).await;
        rejected(&checked, &[&format!("error: role {role} {found}")]);
        operator.database.run(&format!("GRANT {right} TO {role}")).await;
    }
    operator.drop_role(&role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_somebody_else_reads_is_found() {
    let operator = set_up().await;
    let slot = operator.database.names().slot;
    let mut serving = operator.start(&["serve"]).await;
    serving.line("ready http://").await;
    succeeded(&operator.says(&["check"]).await);
    succeeded(&serving.stop().await);
    let mut reader = std::process::Command::new("pg_recvlogical");
    let url = psql_url(&operator.database.url().await);
    reader.args(["-d", &url, "-S", &slot, "--start", "-n", "-f", "-"]);
    reader.args(["-o", "proto_version=1", "-o", &format!("publication_names={slot}")]);
    let reading = Running::start(reader);
    let client = operator.database.connect().await;
    eventually("it reads", || async {
        let sql = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND active";
        client.query_opt(sql, &[&slot]).await.unwrap()
    })
    .await;
    let checked = operator.says(&["check"]).await;
    let found = format!("error: replication slot `{slot}` is in use by process ");
    rejected(&checked, &[&found, "(`pg_recvlogical`), which is no server of Rowtide's"]);
    drop(reading);
}

/// What a role and a database set is overruled; what the URL sets is not, and the role is not blamed for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_url_sets_is_to_be_taken_out_of_the_url() {
    let operator = set_up().await;
    let url = operator.database.url().await;
    let with = async |options: &str| {
        let join = if url.contains('?') { '&' } else { '?' };
        said(operator.command_at(&format!("{url}{join}options={options}"), &["check"])).await
    };
    let slow = with("-c%20statement_timeout%3D7s%20-c%20idle_session_timeout%3D9s").await;
    succeeded(&slow);
    for (name, value) in [("statement_timeout", "7s"), ("idle_session_timeout", "9s")] {
        let note = format!(
            "note: sessions begin with {name} = {value}, set by `options` in database_url: what takes longer \
             fails\n  take {name} out of `options` in database_url\n"
        );
        assert!(slow.out.contains(&note), "{slow:?}");
    }
    let read_only = with("-c%20default_transaction_read_only%3Don").await;
    rejected(
        &read_only,
        &[
            "error: sessions begin with default_transaction_read_only = on, set by `options` in database_url: \
             they can only read",
            "take default_transaction_read_only out of `options` in database_url",
        ],
    );
    for said in [slow, read_only] {
        assert!(!said.out.contains("ALTER ROLE"), "{said:?}");
    }
}

/// A role that may not use a schema is told so, and not that its rules are wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_may_not_be_used_is_named() {
    let operator = set_up().await;
    let role = operator.server_role("LOGIN REPLICATION").await;
    operator.database.run("REVOKE USAGE ON SCHEMA public FROM public").await;
    let checked = operator.says_as(&role, &["check"]).await;
    rejected(&checked, &[&format!("GRANT USAGE ON SCHEMA public TO {role};")]);
    assert!(!checked.err.contains("does not take this rule"), "{checked:?}");
    operator.database.run(&format!("GRANT USAGE ON SCHEMA public TO {role}")).await;
    succeeded(&operator.says_as(&role, &["check"]).await);
    // Values of mutations are cast to their types, which have schemas, too.
    let typed = "CREATE SCHEMA kinds; CREATE TYPE kinds.mood AS ENUM ('glad');
        CREATE DOMAIN kinds.word AS text; ALTER TABLE note ADD mood kinds.mood, ADD words kinds.word[]";
    operator.database.run(typed).await;
    let checked = operator.says_as(&role, &["check"]).await;
    rejected(
        &checked,
        &[&format!(
            "error: role {role} may not use schema kinds\n  GRANT USAGE ON SCHEMA kinds TO {role};"
        )],
    );
    assert!(!checked.err.contains("does not take this rule"), "{checked:?}");
    operator.database.run(&format!("GRANT USAGE ON SCHEMA kinds TO {role}")).await;
    succeeded(&operator.says_as(&role, &["check"]).await);
    operator.drop_role(&role).await;
}

/// Foreign keys have Postgres look at, delete and update rows of other tables, as the owners of these.
#[tokio::test(flavor = "multi_thread")]
async fn what_foreign_keys_do_beside_a_mutation_is_tried() {
    let tables = "CREATE SCHEMA apart;
        CREATE TABLE apart.team (id text PRIMARY KEY, name text);
        CREATE TABLE note (id text PRIMARY KEY, owner text NOT NULL, body text NOT NULL UNIQUE,
          team text REFERENCES apart.team);
        CREATE INDEX ON note (owner);
        CREATE TABLE tag (note text REFERENCES note ON DELETE CASCADE, label int UNIQUE);
        CREATE TABLE use_of_tag (label int REFERENCES tag (label) ON DELETE SET NULL, by text);
        CREATE TABLE quote (body text REFERENCES note (body) ON UPDATE CASCADE);
        CREATE TABLE answer (id int PRIMARY KEY, note text REFERENCES note);
        INSERT INTO apart.team VALUES ('t', 'red')";
    let rules = "[tables.note]\nvisible = 'owner = auth.user_id'\n\
        [tables.note.insert]\nallow = 'new.owner = auth.user_id'\n\
        [tables.note.delete]\nallow = 'old.owner = auth.user_id'\n";
    let updates =
        "[[tables.note.update]]\ncolumns = ['body']\nallow = 'old.owner = auth.user_id'\n";
    let operator = Operator::new(tables, &format!("{rules}{updates}")).await;
    let name = operator.database.name();
    let (owner, others) = (format!("{name}_owner"), format!("\"{name} others\""));
    let database = &operator.database;
    database
        .run(&format!(
            "CREATE ROLE {owner}; CREATE ROLE {others}; GRANT USAGE ON SCHEMA apart TO {owner};
             ALTER TABLE apart.team OWNER TO {owner}; ALTER TABLE answer OWNER TO {owner}; ALTER TABLE tag OWNER TO {others}"
        ))
        .await;
    succeeded(&operator.says(&["setup"]).await);
    let whole = operator.says(&["check"]).await;
    succeeded(&whole);
    let insert = "INSERT INTO note VALUES ('n1', 'ada', 'x', 't')";
    let update = "UPDATE note SET body = 'y'";
    let delete = "DELETE FROM note";
    let at = |oid: &str| format!("a foreign key has Postgres use table {oid} as its owner, ");
    let lost = |oid: &str, who: &str, rights: &str| {
        format!("{}{who}, who has lost {rights} on it", at(oid))
    };
    let rows = "INSERT INTO note VALUES ('n1', 'ada', 'x', 't'); INSERT INTO tag VALUES ('n1', 1);
        INSERT INTO use_of_tag VALUES (1, 'x')";
    for (change, undo, op, found) in [
        (
            format!("REVOKE UPDATE ON apart.team FROM {owner}"),
            format!("GRANT UPDATE ON apart.team TO {owner}"),
            insert,
            lost("apart.team", &owner, "UPDATE"),
        ),
        (
            format!("REVOKE USAGE ON SCHEMA apart FROM {owner}"),
            format!("GRANT USAGE ON SCHEMA apart TO {owner}"),
            insert,
            format!("{}{owner}, who may not use schema apart", at("apart.team")),
        ),
        (
            format!("REVOKE ALL ON answer FROM {owner}"),
            format!("GRANT ALL ON answer TO {owner}"),
            delete,
            lost("answer", &owner, "SELECT, UPDATE"),
        ),
        (
            format!("REVOKE DELETE ON tag FROM {others}"),
            format!("GRANT DELETE ON tag TO {others}"),
            delete,
            lost("tag", &others, "DELETE"),
        ),
        (
            "CREATE PUBLICATION p FOR TABLE tag".to_owned(),
            "DROP PUBLICATION p".to_owned(),
            delete,
            "rows of table tag are deleted by foreign keys, and cannot be: publication p publishes deletes, and the \
             table's replica identity does not do for it\n  ALTER TABLE tag REPLICA IDENTITY FULL;"
                .to_owned(),
        ),
        (
            "CREATE PUBLICATION p FOR TABLE use_of_tag WITH (publish = 'update')".to_owned(),
            "DROP PUBLICATION p".to_owned(),
            delete,
            "rows of table use_of_tag are updated by foreign keys, and cannot be: publication p publishes updates".to_owned(),
        ),
        (
            "CREATE PUBLICATION p FOR TABLE quote WHERE (body <> '')".to_owned(),
            "DROP PUBLICATION p".to_owned(),
            update,
            "rows of table quote are updated by foreign keys, and cannot be".to_owned(),
        ),
        (
            "ALTER TABLE quote ADD at int NOT NULL DEFAULT 1, ADD UNIQUE (at); ALTER TABLE quote REPLICA IDENTITY USING \
             INDEX quote_at_key; CREATE PUBLICATION p FOR TABLE quote WHERE (body <> '')"
                .to_owned(),
            "DROP PUBLICATION p; ALTER TABLE quote DROP at".to_owned(),
            update,
            "rows of table quote are updated by foreign keys, and cannot be".to_owned(),
        ),
        (
            "CREATE PUBLICATION p FOR TABLE answer, tag WITH (publish = 'insert'); CREATE PUBLICATION q FOR TABLE note".to_owned(),
            "DROP PUBLICATION p, q".to_owned(),
            delete,
            String::new(),
        ),
    ] {
        if let Err(error) = database.connect().await.batch_execute(&change).await {
            // Row filters came with version 15.
            assert!(change.contains("WHERE") && error.to_string().contains("db error"), "{change}: {error}");
            continue;
        }
        let checked = operator.says(&["check"]).await;
        if found.is_empty() {
            succeeded(&checked);
        } else {
            rejected(&checked, &[&format!("error: {found}")]);
            assert_eq!(checked.out.matches("error: ").count(), 1, "{change}: {checked:?}");
        }
        // It is as it says, whoever writes.
        if op != insert {
            database.run(rows).await;
        }
        if op == update {
            database.run("INSERT INTO quote VALUES ('x')").await;
        }
        let written = database.connect().await.batch_execute(op).await;
        assert_eq!(written.is_ok(), found.is_empty(), "{change}: {written:?}");
        database.run(&undo).await;
        database.run("DELETE FROM tag; DELETE FROM quote; DELETE FROM use_of_tag; DELETE FROM note").await;
    }
    succeeded(&operator.says(&["check"]).await);
    database
        .run(&format!("DROP OWNED BY {owner}, {others} CASCADE; DROP ROLE {owner}, {others}"))
        .await;
}

/// Databases that were hardened: what a server looks at all the time, and every role may look at by itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_looks_at_while_it_serves_is_tried() {
    let operator = set_up().await;
    let role = operator.server_role("LOGIN REPLICATION").await;
    let public = "public";
    for (what, found) in [
        (
            "EXECUTE ON FUNCTION pg_current_snapshot()",
            "error: cannot look at the tables: permission denied",
        ),
        (
            "EXECUTE ON FUNCTION row_security_active(oid)",
            "permission denied for function row_security_active",
        ),
        ("SELECT ON pg_locks", "error: cannot look at the running transactions: permission denied"),
        (
            "EXECUTE ON FUNCTION pg_current_wal_insert_lsn()",
            "permission denied for function pg_current_wal_insert_lsn",
        ),
    ] {
        operator.database.run(&format!("REVOKE {what} FROM {public}")).await;
        let checked = operator.says_as(&role, &["check"]).await;
        assert_eq!(checked.code(), Some(1), "{what}: {checked:?}");
        let text = format!("{}{}", checked.out, checked.err);
        let words: Vec<&str> = text.split_whitespace().filter(|word| *word != "│").collect();
        for part in [found, "as every role may by itself"] {
            assert!(words.join(" ").contains(part), "{what}: {checked:?}");
        }
        operator.database.run(&format!("GRANT {what} TO {public}")).await;
    }
    succeeded(&operator.says_as(&role, &["check"]).await);
    operator.drop_role(&role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_of_mutations_is_tried() {
    let operator = set_up().await;
    let url = operator.database.url().await;
    let with = async |mutations: &str| {
        let args = ["check", "--mutation-database-url", mutations];
        said(operator.command_at(&url, &args)).await
    };
    succeeded(&with(&url).await);
    rejected(
        &with("postgres://me@127.0.0.1:1/app").await,
        &["error: no mutation can be applied: cannot connect to", "nothing listens there"],
    );
    let another = rowtide_tests::Database::with(TABLES).await;
    rejected(&with(&another.url().await).await, &["leads to another database"]);
    // Another role, which lacks what the rules need.
    let role = format!("{}_mutates", operator.database.name());
    let schema = operator.database.names().schema;
    operator
        .database
        .run(&format!(
            "CREATE ROLE {role} LOGIN; GRANT SELECT ON note TO {role}; GRANT USAGE ON SCHEMA {schema} TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
        ))
        .await;
    let lacks = with(&operator.database.url_as(&role).await).await;
    rejected(
        &lacks,
        &[&format!("GRANT INSERT ON note TO {role};"), &format!("GRANT DELETE ON note TO {role};")],
    );
    operator.database.run(&format!("GRANT INSERT, UPDATE, DELETE ON note TO {role}; REVOKE UPDATE ON {schema}.client FROM {role}")).await;
    rejected(
        &with(&operator.database.url_as(&role).await).await,
        &[
            &format!("may not write table \"{schema}\".\"client\""),
            &format!("ON ALL TABLES IN SCHEMA \"{schema}\" TO {role};"),
        ],
    );
    operator.database.run(&format!("GRANT UPDATE ON {schema}.client TO {role}")).await;
    succeeded(&with(&operator.database.url_as(&role).await).await);
    let client = operator.database.connect().await;
    let sql = format!("SELECT 1 FROM {schema}.client");
    assert!(client.query(&sql, &[]).await.unwrap().is_empty(), "it leaves nothing behind");
    operator.drop_role(&role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_is_found_where_it_may_not_be_and_served_where_it_may() {
    let operator = set_up().await;
    let url = operator.database.url().await;
    let pooler = Pooler::start(operator.database.upstream().await).await;
    let pooled = format!(
        "postgres://postgres@{}/{}?sslmode=disable",
        pooler.address(),
        operator.database.name()
    );
    let checked = said(operator.command_at(&pooled, &["check"])).await;
    rejected(
        &checked,
        &[
            "database_url leads to a pooler",
            "no connection can stream: unsupported startup parameter: replication",
        ],
    );
    let args = |command, prepared| {
        [command, "--mutation-database-url", &pooled, "--prepared-statements", prepared]
    };
    let checked = said(operator.command_at(&url, &args("check", "true"))).await;
    rejected(
        &checked,
        &["no mutation can be applied: prepared statement", "set prepared_statements = false"],
    );
    succeeded(&said(operator.command_at(&url, &args("check", "false"))).await);
    let mut serving = Running::start(operator.command_at(&url, &args("serve", "false")));
    let address = serving.line("ready http://").await;
    let token = rowtide::auth::sign(SECRET, "ada", std::time::Duration::from_secs(600)).unwrap();
    let socket = format!("ws://{address}/sync");
    let op = r#"{"op":"delete","table":"note","row":{"id":"n1"}}"#;
    succeeded(&said(rowtide(["mutate", "--token", &token, "--url", &socket, op])).await);
    succeeded(&serving.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_does_not_have_is_found() {
    let cluster = Cluster::start_temporary(&[("max_wal_senders", "0")]).await.unwrap();
    let client = cluster.connect("postgres").await.unwrap();
    client.batch_execute(TABLES).await.unwrap();
    let dir = Dir::new();
    dir.write("rowtide.toml", DEFINITION);
    let run = async |command: &str| {
        let mut command = rowtide([command, "--database-url", &cluster.url("postgres")]);
        command.current_dir(dir.path());
        said(command).await
    };
    succeeded(&run("setup").await);
    let checked = run("check").await;
    let parts = [
        "error: no connection can stream: number of requested standby connections exceeds",
        "raise max_wal_senders",
    ];
    rejected(&checked, &parts);
}

#[tokio::test(flavor = "multi_thread")]
async fn why_there_is_no_connection_is_told_apart() {
    let operator = Operator::new(TABLES, DEFINITION).await;
    let unknown = operator.database.url().await.replace(operator.database.name(), "not_there");
    for (url, parts) in [
        ("postgres://me:s3cret@127.0.0.1:1/app", &["refused", "nothing listens there"][..]),
        ("postgres://me:s3cret@nowhere.invalid/app", &["the host's name is not known here"]),
        (
            "postgres://me:s3cret@%2Fnowhere/app",
            &["there is no socket of Postgres in this directory"],
        ),
        (&unknown, &["database \"not_there\" does not exist"]),
    ] {
        for command in ["check", "setup", "teardown"] {
            let told = said(operator.command_at(url, &[command])).await;
            rejected(&told, parts);
            assert!(!told.err.contains("s3cret"), "{}", told.err);
        }
    }
}
