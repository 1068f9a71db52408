//! Writing from a terminal: `rowtide mutate` says what became of a mutation, and `rowtide watch --write`
//! shows what is pending as pending.

use rowtide_tests::{App, Dir, Running, rowtide, said};

const TABLES: &str = "
    CREATE TABLE note (id text PRIMARY KEY, owner text NOT NULL, body text NOT NULL DEFAULT 'empty');
    CREATE TABLE part (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner text NOT NULL, of int REFERENCES part);
    INSERT INTO note VALUES ('n1', 'ada', 'hello'), ('n2', 'bob', 'secret');";
const DEFINITION: &str = r#"
    [tables.note]
    visible = 'owner = auth.user_id'
    immutable = ["owner"]
    insert.allow = 'new.owner = auth.user_id'
    update = [{ allow = 'old.owner = auth.user_id' }]
    delete.allow = 'old.owner = auth.user_id'
    [tables.part]
    visible = 'owner = auth.user_id'
    insert.allow = 'new.owner = auth.user_id'
"#;

fn command(app: &App, command: &str, more: &[&str]) -> std::process::Command {
    let (token, url) = (App::token("ada"), app.url());
    rowtide([&[command, "--token", &token, "--url", &url], more].concat())
}

async fn notes(app: &App) -> String {
    app.one("SELECT string_agg(id || ' ' || body, ', ' ORDER BY id) FROM note").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_is_confirmed_with_its_rows_or_rejected_with_its_code() {
    let app = App::with(DEFINITION, TABLES).await;
    for (ops, printed) in [
        (
            r#"{"op":"update","table":"note","row":{"id":"n1","body":"new"}}"#,
            "note put {\"body\":\"new\",\"id\":\"n1\",\"owner\":\"ada\"}\n",
        ),
        // What the database adds is there; one line for each operation.
        (
            r#"[{"op":"insert","table":"note","row":{"id":"n3","owner":"ada"}},
                {"op":"delete","table":"note","row":{"id":"n1"}}]"#,
            "note put {\"body\":\"empty\",\"id\":\"n3\",\"owner\":\"ada\"}\nnote delete {\"id\":\"n1\"}\n",
        ),
        // A row whose key the server makes is found by it, and another operation refers to it.
        (
            r#"[{"op":"insert","table":"part","row":{"owner":"ada"}},
                {"op":"insert","table":"part","row":{"owner":"ada","of":{"$key":[1,0,"id"]}}}]"#,
            "part put {\"id\":1,\"of\":null,\"owner\":\"ada\"}\npart put {\"id\":2,\"of\":1,\"owner\":\"ada\"}\n",
        ),
    ] {
        let said = said(command(&app, "mutate", &[ops])).await;
        assert_eq!((said.code(), said.out.as_str()), (Some(0), printed), "{said:?}");
    }
    for (ops, err) in [
        (
            r#"{"op":"update","table":"note","row":{"id":"n2","body":"x"}}"#,
            "rejected (not_found): ",
        ),
        (
            r#"{"op":"insert","table":"note","row":{"id":"x","owner":"bob"}}"#,
            "rejected (forbidden): ",
        ),
        (r#"{"op":"delete","table":"nte","row":{"id":"n3"}}"#, "did you mean `note`?"),
        (r#"{"op":"remove","table":"note","row":{"id":"n3"}}"#, "not an operation"),
        ("delete n3", "not an operation"),
    ] {
        let said = said(command(&app, "mutate", &[ops])).await;
        assert_eq!((said.code(), said.out.as_str()), (Some(1), ""), "{said:?}");
        assert!(said.err.contains(err) && !said.err.contains("panicked"), "{}", said.err);
    }
    assert_eq!(notes(&app).await, "n2 secret, n3 empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_in_a_queue_outlives_its_command() {
    let mut app = App::with(DEFINITION, TABLES).await;
    let dir = Dir::new();
    let queue = dir.path().join("queue");
    let queue = queue.to_str().unwrap();
    let insert = |id: &str| {
        format!(r#"{{"op":"insert","table":"note","row":{{"id":"{id}","owner":"ada"}}}}"#)
    };
    app.stop_server().await;
    let away = ["--queue", queue, "--timeout", "1", &insert("n3")];
    let kept = said(command(&app, "mutate", &away)).await;
    assert_eq!(kept.code(), Some(1), "{kept:?}");
    assert!(kept.err.contains("it is kept in the queue"), "{}", kept.err);
    app.start_server().await;
    let both = said(command(&app, "mutate", &["--queue", queue, &insert("n4")])).await;
    assert_eq!(both.code(), Some(0), "{both:?}");
    assert!(both.err.contains("an earlier mutation was confirmed"), "{}", both.err);
    assert_eq!(notes(&app).await, "n1 hello, n2 secret, n3 empty, n4 empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_is_shown_as_pending_where_it_is_written() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut watch = Running::start_to_say(command(&app, "watch", &["--write"]));
    watch.line("live").await;
    let holder = app.database.connect().await;
    holder.batch_execute("BEGIN; SELECT FROM note WHERE id = 'n1' FOR UPDATE").await.unwrap();
    watch.say(r#"{"op":"update","table":"note","row":{"id":"n1","body":"mine"}}"#);
    let shown = watch.line(r#"note put {"body":"mine""#).await;
    assert!(shown.ends_with("(pending)"), "{shown}");
    // Another is made before the first is acknowledged; this one is taken back in the end.
    watch
        .say(r#"{"op":"insert","table":"note","row":{"id":"n9","owner":"bob","body":"not mine"}}"#);
    let shown = watch.line(r#"note put {"body":"not mine""#).await;
    assert!(shown.ends_with("(pending)"), "{shown}");
    watch.say("no JSON");
    watch.line("not sent: ").await;
    holder.batch_execute("COMMIT").await.unwrap();
    watch.line("mutation 1 confirmed").await;
    watch.line("mutation 2 rejected (forbidden): ").await;
    watch.line(r#"note delete {"id":"n9"}"#).await;
    assert_eq!(watch.stop().await.code(), Some(0));
    assert_eq!(notes(&app).await, "n1 mine, n2 secret");
}
