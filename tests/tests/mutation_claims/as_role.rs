//! Operations that a role of the database's own does: its grants and the policies for it judge them, beside the rules of the
//! definition, which the server's own role judges.

use rowtide_tests::warnings;
use rowtide_tests::{App, Writer, delete, eventually, insert, update};
use serde_json::{Value, json};

use crate::token;

/// The role is the cluster's, and so is what others of this process do to it.
fn tables(role: &str) -> String {
    format!(
        "CREATE ROLE {role} NOLOGIN;
        CREATE SCHEMA auth;
        GRANT USAGE ON SCHEMA auth TO {role};
        CREATE FUNCTION auth.uid() RETURNS text LANGUAGE sql STABLE AS
            $$SELECT nullif(current_setting('request.jwt.claim.sub', true), '')$$;
        CREATE TABLE member (team text, person text, PRIMARY KEY (team, person));
        INSERT INTO member VALUES ('red', 'u1'), ('red', 'u2');
        CREATE TABLE note (
            id text PRIMARY KEY, team text, owner text DEFAULT auth.uid(), title text DEFAULT 'new',
            mark uuid DEFAULT gen_random_uuid(), at timestamptz DEFAULT now(), parts text[] DEFAULT '{{a,\"b,c\",NULL}}',
            done_by text
        );
        ALTER TABLE note ENABLE ROW LEVEL SECURITY;
        CREATE POLICY reads ON note FOR SELECT TO {role} USING (true);
        CREATE POLICY inserts ON note FOR INSERT TO {role} WITH CHECK (owner = auth.uid());
        CREATE POLICY updates ON note FOR UPDATE TO {role} USING (owner = auth.uid());
        CREATE POLICY deletes ON note FOR DELETE TO {role} USING (owner = auth.uid() AND title <> 'kept');
        GRANT SELECT, INSERT, UPDATE, DELETE ON note TO {role};
        CREATE TABLE plain (id text PRIMARY KEY, n int);
        CREATE TABLE file_state (id text PRIMARY KEY, n int);
        CREATE FUNCTION done_by() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN new.done_by := current_user; RETURN new; END$$;
        CREATE TRIGGER done_by BEFORE INSERT OR UPDATE ON note FOR EACH ROW EXECUTE FUNCTION done_by();
        CREATE FUNCTION at_the_end() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
            IF new.title LIKE 'as %' AND new.title <> 'as ' || current_user THEN
                RAISE EXCEPTION 'the end is of %', current_user;
            END IF;
            RETURN NULL;
        END$$;
        CREATE CONSTRAINT TRIGGER at_the_end AFTER INSERT OR UPDATE ON note DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION at_the_end();"
    )
}

fn definition(role: &str) -> String {
    format!(
        "[writes]\nrole = '{role}'
        [tables.note]
        visible = 'team IN (SELECT team FROM member WHERE person = auth.user_id)'
        [tables.note.insert]
        allow = 'new.team IN (SELECT team FROM member WHERE person = auth.user_id)'
        [[tables.note.insert.limit]]
        where = 'team = auth.claims.full'
        max = 2
        code = 'full'
        [[tables.note.update]]
        allow = 'true'
        [tables.note.delete]
        allow = 'true'
        [tables.plain]
        visible = 'true'
        [tables.plain.insert]
        allow = 'true'
        [tables.file_state]
        visible = 'true'
        [[tables.file_state.update]]
        allow = 'true'"
    )
}

struct Stage {
    app: App,
    role: String,
}

impl Stage {
    async fn new(name: &str) -> Stage {
        let role = format!("{name} {:08x}", rand::random::<u32>());
        let quoted = format!("\"{role}\"");
        let (definition, tables) = (definition(&role), tables(&quoted));
        let app = App::with_options(&definition, &tables, |options| {
            options.gateway.mutation_connections = 1;
        });
        Stage { app: app.await, role }
    }

    async fn writer(&self, user: &str) -> Writer {
        Writer::live_with(&self.app, &token(json!({ "sub": user, "full": "red" }))).await
    }

    /// Roles outlive databases.
    async fn end(mut self) {
        self.app.stop_server().await;
        self.app
            .database
            .run(&format!("DROP OWNED BY \"{0}\"; DROP ROLE \"{0}\"", self.role))
            .await;
    }
}

/// What others write comes meanwhile.
async fn refused(writer: &mut Writer, ops: Value, code: &str, said: &str) {
    let (is, message) = writer.mutate(ops).await.rejected.expect("it is refused");
    assert!(is == code && message.contains(said), "{is}: {message}, not {code}: {said}");
}

fn rows(changes: &[Value]) -> Vec<&Value> {
    changes.iter().map(|change| &change["row"]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_and_rules_both_judge_what_is_written() {
    let stage = Stage::new("authenticated").await;
    let (mut one, mut two) = (stage.writer("u1").await, stage.writer("u2").await);
    let mut stranger = stage.writer("u3").await;
    let note = |id: &str, more: Value| {
        let mut row = json!({ "id": id, "team": "red" });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        insert("note", row)
    };
    // Defaults are what was judged, and as what is the writer's role the trigger knows it.
    let changes = one.mutate(json!([note("a", json!({}))])).await.applied();
    let row = rows(&changes)[0].clone();
    assert_eq!((&row["owner"], &row["title"]), (&json!("u1"), &json!("new")));
    assert_eq!(row["parts"], json!(["a", "b,c", null]));
    assert_eq!(row["done_by"], stage.role.as_str());
    assert_eq!(row["mark"].as_str().map(str::len), Some(36), "{row}");
    // The rule says no, then the policy, then the limit, which counts what the role may not see, too.
    refused(&mut stranger, json!([note("b", json!({}))]), "forbidden", "rule").await;
    let of_another = |id: &str| json!([note(id, json!({ "owner": "u1" }))]);
    let said = two.mutate(of_another("b")).await.rejected.unwrap();
    assert_eq!(said.0, "forbidden");
    // In the same words where there is a row that the writer may not see.
    let hidden = "INSERT INTO note (id, team, owner) VALUES ('hidden', 'blue', 'u9')";
    stage.app.database.run(hidden).await;
    assert_eq!(two.mutate(of_another("hidden")).await.rejected, Some(said));
    two.mutate(json!([note("b", json!({ "title": null }))])).await.applied();
    refused(&mut two, json!([note("c", json!({}))]), "full", "`note`").await;
    // Rows that a policy hides from an update or a delete.
    let title = |id: &str, title: &str| update("note", json!({ "id": id, "title": title }));
    refused(&mut two, json!([title("a", "mine")]), "forbidden", "`note`").await;
    refused(&mut stranger, json!([title("a", "mine")]), "not_found", "`note`").await;
    let gives = json!([update("note", json!({ "id": "a", "owner": "u2" }))]);
    refused(&mut one, gives, "forbidden", "row-level").await;
    // Several, of which each is judged as itself, and the last is refused: none is written.
    let all = json!([title("a", "kept"), title("a", "again"), title("b", "no")]);
    refused(&mut one, all, "forbidden", "ops[2]").await;
    one.mutate(json!([title("a", "kept"), title("a", "kept")])).await.applied();
    let gone = |id: &str| json!([delete("note", json!({ "id": id }))]);
    refused(&mut two, gone("a"), "forbidden", "`note`").await;
    refused(&mut one, gone("a"), "forbidden", "`note`").await;
    // An insert that meets a row is an update of it, and the policies for updates judge that.
    refused(&mut two, json!([note("a", json!({ "title": "x" }))]), "forbidden", "`note`").await;
    let over = json!([note("a", json!({ "title": "over" })), title("a", "again")]);
    let changes = one.mutate(over).await.applied();
    assert_eq!(rows(&changes).last().unwrap()["title"], "again");
    // What is deferred runs as the role, too.
    let at_the_end = format!("as {}", stage.role);
    one.mutate(json!([title("a", &at_the_end)])).await.applied();
    one.mutate(gone("a")).await.applied();
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_granted_is_forbidden_and_said_once() {
    let warnings = warnings();
    let stage = Stage::new("lacking").await;
    let mut writer = stage.writer("u1").await;
    let from = warnings.size();
    for _ in 0..3 {
        let plain = json!([insert("plain", json!({ "id": "a" }))]);
        writer.mutate(plain).await.rejected("forbidden", "`plain`");
    }
    let said = warnings.text(from);
    assert_eq!(said.matches("permission denied for table plain").count(), 1, "{said}");
    // Rowtide's own writes go on as its own role.
    stage.app.database.run(&format!("GRANT INSERT ON plain TO \"{}\"", stage.role)).await;
    writer.mutate(json!([insert("plain", json!({ "id": "a" }))])).await.applied();
    let again = json!([insert("note", json!({ "id": "a", "team": "red" }))]);
    writer.mutate(again).await.applied();
    // A row with the same key that comes to be meanwhile is updated.
    let other = stage.app.database.connect().await;
    let same = "BEGIN; INSERT INTO note (id, team, owner) VALUES ('b', 'red', 'u1')";
    other.batch_execute(same).await.unwrap();
    let row = json!({ "id": "b", "team": "red", "title": "over" });
    let id = writer.send(json!([insert("note", row)])).await;
    eventually("the insert waits", || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                       AND datname = current_database() AND application_name = 'rowtide mutate'";
        (stage.app.one(waiting).await == "1").then_some(())
    })
    .await;
    other.batch_execute("COMMIT").await.unwrap();
    let changes = writer.outcome(id).await.applied();
    assert!(changes.iter().any(|change| change["row"]["title"] == "over"), "{changes:?}");
    stage.end().await;
}
