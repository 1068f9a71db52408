//! The adapter, driven as a client of the older protocol drives it.

use std::collections::BTreeSet;

use rowtide_tests::{App, Older, Writer, eventually, http_get};
use serde_json::{Value, json};

fn file(id: &str, owner: &str) -> Value {
    json!({
        "id": id, "name": "Plan", "ownerId": owner, "ownerName": "", "ownerAvatar": "",
        "thumbnail": "", "shared": false, "sharedLinkType": "view", "published": false,
        "lastPublished": 0, "publishedSlug": id, "createdAt": 1, "updatedAt": 1, "isEmpty": true,
        "isDeleted": false, "createSource": null,
    })
}

fn state(user: &str, file: &str) -> Value {
    json!({ "userId": user, "fileId": file, "firstVisitAt": 1, "isFileOwner": true })
}

fn update(table: &str, event: &str, row: Value) -> Value {
    json!({ "table": table, "event": event, "row": row })
}

/// What is said of rows, as `event table key`.
fn rows(heard: &[Value]) -> Vec<String> {
    let mut said: Vec<String> = heard
        .iter()
        .filter(|message| message["type"] == "update")
        .map(|message| {
            let update = &message["update"];
            let row = &update["row"];
            let key = row.get("id").or(row.get("fileId")).and_then(Value::as_str).unwrap();
            format!(
                "{} {} {key}",
                update["event"].as_str().unwrap(),
                update["table"].as_str().unwrap()
            )
        })
        .collect();
    said.sort();
    said
}

fn error_code(heard: &[Value]) -> &str {
    let last = heard.last().unwrap();
    assert_eq!(last["type"], "reject", "{heard:?}");
    last["errorCode"].as_str().unwrap()
}

async fn sql(app: &App, sql: &str) {
    app.database.connect().await.batch_execute(sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_begins_with_its_rows_and_hears_of_what_it_writes() {
    let app = App::example("files").await;
    let (mut ann, initial) = Older::live(&app, "u1").await;
    assert_eq!(initial["user"]["id"], "u1");
    assert_eq!(
        initial["files"].as_array().unwrap().iter().filter(|f| f["ownerId"] == "u1").count(),
        20
    );
    assert!(!initial["fileStates"].as_array().unwrap().is_empty());
    assert!(initial["lsn"].as_str().unwrap().contains('/'));
    let (mut tab, _) = Older::live(&app, "u1").await;
    ann.mutate(
        "m1",
        json!([
            update("file", "insert", file("n1", "u1")),
            update("file_state", "insert", state("u1", "n1")),
        ]),
    )
    .await;
    for session in [&mut ann, &mut tab] {
        let heard = session.until("m1").await;
        assert_eq!(rows(&heard), ["insert file n1", "insert file_state n1"]);
        assert_eq!(heard.last().unwrap()["type"], "commit");
    }
    // Columns that may never be written are left out, and nothing may be left.
    ann.mutate(
        "m2",
        json!([update("file", "update", json!({ "id": "n1", "name": "B", "ownerId": "u2" }))]),
    )
    .await;
    let heard = ann.until("m2").await;
    assert_eq!(rows(&heard), ["update file n1"]);
    assert_eq!(
        (&heard[0]["update"]["row"]["name"], &heard[0]["update"]["row"]["ownerId"]),
        (&json!("B"), &json!("u1"))
    );
    ann.mutate("m3", json!([update("file", "update", json!({ "id": "n1", "ownerId": "u2" }))]))
        .await;
    assert_eq!(ann.until("m3").await.last().unwrap()["type"], "commit");
    // The same name again changes nothing, and is answered.
    ann.mutate("m2", json!([update("file", "update", json!({ "id": "n1", "name": "C" }))])).await;
    assert_eq!(rows(&ann.until("m2").await), [""; 0]);
    ann.mutate("m4", json!([update("file", "delete", json!({ "id": "n1" }))])).await;
    assert_eq!(rows(&ann.until("m4").await), ["delete file n1", "delete file_state n1"]);
    let schema = app.database.names().schema;
    let numbers = format!("SELECT last_mutation FROM {schema}.client WHERE client_id = 'app/u1'");
    assert_eq!(app.one(&numbers).await, "4");
    // The other tab has heard of all of it.
    tab.until("m4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejections_go_to_their_sender_alone_and_have_the_older_codes() {
    let app = App::example("files").await;
    let (mut ann, _) = Older::live(&app, "u1").await;
    let (mut tab, _) = Older::live(&app, "u1").await;
    for (name, change, code) in [
        ("r1", update("file", "insert", file("x1", "u2")), "forbidden"),
        ("r2", update("file", "update", json!({ "id": "nothere", "name": "x" })), "bad_request"),
        ("r3", update("nothing", "insert", json!({ "id": "x" })), "bad_request"),
        ("r4", update("file", "insert", json!({ "id": "x2", "ownerId": "u1" })), "bad_request"),
        ("r5", update("file", "update", json!({ "id": 5, "name": "x" })), "bad_request"),
        ("r6", update("user", "delete", json!({ "id": "u1" })), "forbidden"),
        ("r7", json!({ "table": "file", "event": "upsert", "row": {} }), "bad_request"),
    ] {
        ann.mutate(name, json!([change])).await;
        let heard = ann.until(name).await;
        assert_eq!((error_code(&heard), rows(&heard)), (code, Vec::new()), "{name}");
        // Again: rejected again, and still not done.
        ann.mutate(name, json!([change])).await;
        assert_eq!(error_code(&ann.until(name).await), code, "{name}");
    }
    ann.mutate("after", json!([])).await;
    ann.until("after").await;
    let heard = tab.until("after").await;
    assert!(heard.iter().all(|message| message["type"] != "reject"), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_over_a_row_updates_it_and_leaves_out_what_is_never_written() {
    let app = App::small_files().await;
    let (mut owner, _) = Older::live(&app, "owner").await;
    let mut row = file("edit", "owner");
    for (column, value) in
        [("name", json!("New")), ("shared", json!(true)), ("sharedLinkType", json!("edit"))]
    {
        row[column] = value;
    }
    // Derived columns are left out; they come back as the database has them.
    row["ownerName"] = "never".into();
    owner.mutate("over", json!([update("file", "insert", row.clone())])).await;
    let heard = owner.until("over").await;
    assert_eq!(rows(&heard), ["update file edit"]);
    let is = &heard[0]["update"]["row"];
    assert_eq!((&is["name"], &is["ownerName"]), (&json!("New"), &json!("secret name of owner")));
    // By guessing its id nobody takes a file over, whether they see it or not.
    for user in ["editor", "stranger"] {
        let (mut other, _) = Older::live(&app, user).await;
        row["ownerId"] = user.into();
        other.mutate("take", json!([update("file", "insert", row.clone())])).await;
        assert_eq!(error_code(&other.until("take").await), "forbidden", "{user}");
    }
    // A guest may say that it was edited, and what else they say is rejected and not left out.
    let (mut editor, _) = Older::live(&app, "editor").await;
    let edit = |more: Value| {
        let mut row = json!({ "id": "edit", "updatedAt": 5, "ownerAvatar": "x" });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([update("file", "update", row)])
    };
    editor.mutate("both", edit(json!({ "isEmpty": false }))).await;
    assert_eq!(error_code(&editor.until("both").await), "forbidden");
    editor.mutate("one", edit(json!({}))).await;
    assert_eq!(rows(&editor.until("one").await), ["update file edit"]);
    assert_eq!(app.one(r#"SELECT "ownerId" FROM file WHERE id = 'edit'"#).await, "owner");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_replaced_begins_with_all_of_its_rows() {
    let app = App::small_files().await;
    let (mut owner, before) = Older::live(&app, "owner").await;
    assert_eq!(before["files"].as_array().unwrap().len(), 4);
    // Other columns are another replica; with one column more they stay.
    sql(
        &app,
        r#"ALTER TABLE file ADD COLUMN extra text DEFAULT 'x', DROP COLUMN thumbnail;
           UPDATE file SET name = 'New'"#,
    )
    .await;
    assert_eq!(owner.closed().await, (1012, "restarting".to_owned()));
    // Those clients come back by themselves.
    let (mut owner, after) = Older::live(&app, "owner").await;
    let files = after["files"].as_array().unwrap();
    assert!(files.iter().all(|file| file["extra"] == "x" && file["name"] == "New"), "{files:?}");
    owner
        .mutate("m", json!([update("file", "update", json!({ "id": "edit", "extra": "y" }))]))
        .await;
    assert_eq!(rows(&owner.until("m").await), ["update file edit"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_added_is_told_and_nobody_is_sent_away() {
    let app = App::small_files().await;
    let (mut owner, before) = Older::live(&app, "owner").await;
    let files = before["files"].as_array().unwrap().len();
    sql(&app, "ALTER TABLE file ADD COLUMN extra text DEFAULT 'x'").await;
    let mut told = BTreeSet::new();
    while told.len() < files {
        let heard = owner.hear().await;
        assert_eq!(heard["update"]["row"]["extra"], "x", "{heard}");
        told.extend(rows(&[heard]));
    }
    owner
        .mutate("m", json!([update("file", "update", json!({ "id": "edit", "extra": "y" }))]))
        .await;
    assert_eq!(rows(&owner.until("m").await), ["update file edit"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_of_a_user_are_applied_in_the_order_in_which_they_came() {
    let app = App::small_files().await;
    let holder = app.database.connect().await;
    holder.batch_execute("BEGIN; SELECT FROM file WHERE id = 'edit' FOR UPDATE").await.unwrap();
    let rename =
        |name: &str| json!([update("file", "update", json!({ "id": "edit", "name": name }))]);
    let waits = |count: i64| {
        let app = &app;
        eventually("mutations that wait for a row", move || async move {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND application_name = 'rowtide mutate' AND wait_event_type = 'Lock'";
            (app.one(sql).await == count.to_string()).then_some(())
        })
    };
    let (mut first, _) = Older::live(&app, "owner").await;
    first.mutate("m1", rename("1")).await;
    waits(1).await;
    first.mutate("m2", rename("2")).await;
    first.mutate("m1", rename("never")).await;
    // It hears nothing of them any more, and they are applied all the same.
    first.hang_up().await;
    eventually("it is gone", || async {
        let health: Value = serde_json::from_str(&http_get(&app, "/health/ready").await).unwrap();
        (health["sessions"] == 0).then_some(())
    })
    .await;
    let (mut second, _) = Older::live(&app, "owner").await;
    let (mut third, _) = Older::live(&app, "owner").await;
    for (number, session) in [(3, &mut second), (4, &mut third)] {
        session.mutate(&format!("m{number}"), rename(&number.to_string())).await;
        // Until the server has read it, to come before the next.
        session.assert_alive().await;
    }
    holder.batch_execute("COMMIT").await.unwrap();
    for session in [&mut second, &mut third] {
        let mut names = Vec::new();
        for message in session.until("m4").await {
            names.extend(message["mutationIds"].as_array().into_iter().flatten().cloned());
        }
        assert_eq!(names, ["m1", "m2", "m1", "m3", "m4"]);
    }
    let schema = app.database.names().schema;
    let order =
        format!("SELECT string_agg(name, ' ' ORDER BY number) FROM {schema}.named_mutation");
    // A commit is streamed before others see it.
    eventually("the last one is seen", || async {
        (app.one("SELECT name FROM file WHERE id = 'edit'").await == "4").then_some(())
    })
    .await;
    assert_eq!(app.one(&order).await, "m1 m2 m3 m4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_a_file_from_the_first_state_until_it_is_not_shared() {
    let app = App::example("files").await;
    sql(&app, r#"UPDATE file SET shared = true, "sharedLinkType" = 'edit' WHERE id = 'f1'"#).await;
    let owner: String = app
        .database
        .connect()
        .await
        .query_one(r#"SELECT "ownerId" FROM file WHERE id = 'f1'"#, &[])
        .await
        .unwrap()
        .get(0);
    let (mut guest, _) = Older::live(&app, "u900").await;
    guest.mutate("visit", json!([update("file_state", "insert", state("u900", "f1"))])).await;
    assert_eq!(rows(&guest.until("visit").await), ["insert file f1", "insert file_state f1"]);
    guest
        .mutate("touch", json!([update("file", "update", json!({ "id": "f1", "updatedAt": 77 }))]))
        .await;
    assert_eq!(rows(&guest.until("touch").await), ["update file f1"]);
    guest
        .mutate("name", json!([update("file", "update", json!({ "id": "f1", "name": "mine" }))]))
        .await;
    assert_eq!(error_code(&guest.until("name").await), "forbidden");
    // The owner has the newer client: both speak to the same engine.
    let mut owner = Writer::live(&app, &owner).await;
    let unshare =
        json!([{ "op": "update", "table": "file", "row": { "id": "f1", "shared": false } }]);
    owner.mutate(unshare).await.applied();
    let mut heard = vec![guest.hear().await];
    heard.push(guest.hear().await);
    assert_eq!(rows(&heard), ["delete file f1", "delete file_state f1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_person_has_no_row_until_their_client_inserts_it() {
    let app = App::example("files").await;
    let (mut zoe, initial) = Older::live(&app, "zoe").await;
    assert_eq!(initial["user"], Value::Null);
    assert_eq!((initial["files"].clone(), initial["fileStates"].clone()), (json!([]), json!([])));
    let row = json!({
        "id": "zoe", "name": "Zoë", "email": "zoe@example.org", "avatar": "", "color": "red",
        "exportFormat": "png", "exportTheme": "auto", "exportBackground": true,
        "exportPadding": true, "createdAt": 1, "updatedAt": 1, "flags": "",
    });
    zoe.mutate("me", json!([update("user", "insert", row)])).await;
    assert_eq!(rows(&zoe.until("me").await), ["insert user zoe"]);
    let fill = r#"INSERT INTO file (id, name, "ownerId", thumbnail, shared, "sharedLinkType", published, "lastPublished", "publishedSlug", "createdAt", "updatedAt", "isEmpty")
        SELECT 'z' || i, 'f', 'zoe', '', false, 'view', false, 0, 'z' || i, 1, 1, true FROM generate_series(1, 200) AS i"#;
    sql(&app, fill).await;
    zoe.mutate("one more", json!([update("file", "insert", file("z201", "zoe"))])).await;
    assert_eq!(error_code(&zoe.until("one more").await), "max_files_reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_text_comes_in_frames() {
    let app = App::example_with("files", |options| {
        options.gateway.client.message_bytes = 2 << 20;
        options.gateway.client.mutation_bytes = 1 << 20;
    })
    .await;
    let (mut ann, _) = Older::live(&app, "u1").await;
    let name = "n".repeat(400_000);
    let updates =
        json!([update("file", "update", json!({ "id": own_file(&app).await, "name": name }))]);
    let text = json!({ "type": "mutate", "mutationId": "long", "updates": updates }).to_string();
    let parts: Vec<&str> =
        text.as_bytes().chunks(262_144).map(|part| std::str::from_utf8(part).unwrap()).collect();
    for (index, part) in parts.iter().enumerate() {
        ann.send(&format!("{}_{part}", parts.len() - 1 - index)).await;
    }
    let heard = ann.until("long").await;
    assert_eq!(heard[0]["update"]["row"]["name"].as_str().unwrap().len(), 400_000);
    ann.send("3_{").await;
    ann.send("1_}").await;
    assert_eq!(ann.closed().await, (4400, "bad_request".to_owned()));
}

async fn own_file(app: &App) -> String {
    let sql = r#"SELECT id FROM file WHERE "ownerId" = 'u1' LIMIT 1"#;
    app.database.connect().await.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_connect_is_told_before_or_right_after_the_upgrade() {
    let app =
        App::example_with("files", |options| options.gateway.client.requests_per_minute = 2).await;
    let token = App::token("u1");
    for (query, status) in [
        (format!("/app/u1/connect?accessToken={token}"), 400),
        (format!("/app/u1/connect?sessionId=s&protocolVersion=one&accessToken={token}"), 400),
        ("/app/u1/connect?sessionId=s".to_owned(), 401),
        ("/app/u1/connect?sessionId=s&accessToken=x".to_owned(), 401),
        (format!("/app/u2/connect?sessionId=s&accessToken={token}"), 403),
    ] {
        let refused = Older::open(&app, &query).await.err().map(|status| status.as_u16());
        assert_eq!(refused, Some(status), "{query}");
    }
    let old = format!("/app/u1/connect?sessionId=s&protocolVersion=2&accessToken={token}");
    let mut old = Older::open(&app, &old).await.unwrap();
    assert_eq!(old.closed().await, (4099, "CLIENT_TOO_OLD".to_owned()));
    // A connect counts as one request of two a minute.
    let (mut ann, _) = Older::live(&app, "u1").await;
    ann.mutate("m1", json!([])).await;
    ann.until("m1").await;
    ann.mutate("m2", json!([])).await;
    assert_eq!(error_code(&ann.until("m2").await), "rate_limit_exceeded");
    let again = format!("/app/u1/connect?sessionId=s&accessToken={token}");
    assert_eq!(Older::open(&app, &again).await.err().map(|s| s.as_u16()), Some(429));
    let plain = App::example("tracker").await;
    let none = Older::open(&plain, &again).await.err().map(|s| s.as_u16());
    assert_eq!(none, Some(404), "only where the definition asks for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_back_together_share_their_loads() {
    const CLIENTS: usize = 150;
    let app = App::example("files").await;
    let health = || app.server.as_ref().unwrap().health();
    let (mut locked, looks_on) = (app.database.connect().await, app.database.connect().await);
    // Until all have come no load ends.
    let lock = locked.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE file IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let users: Vec<String> = (1..=CLIENTS).map(|number| format!("u{number}")).collect();
    let live = futures_util::future::join_all(users.iter().map(|user| Older::live(&app, user)));
    let release = async {
        eventually("all have come", || async {
            (health().sessions as usize == CLIENTS).then_some(())
        })
        .await;
        // A session is counted before its rows are asked for.
        eventually("all wait for their rows", || async {
            let views = format!("rowtide_views {CLIENTS}");
            http_get(&app, "/metrics").await.lines().any(|line| line == views).then_some(())
        })
        .await;
        let sql = "SELECT count(*), count(*) FILTER (WHERE wait_event_type = 'Lock') \
                   FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name = 'rowtide load'";
        let loading: i64 = eventually("a load waits for the table", || async {
            let row = looks_on.query_one(sql, &[]).await.unwrap();
            (row.get::<_, i64>(1) > 0).then(|| row.get(0))
        })
        .await;
        lock.commit().await.unwrap();
        loading
    };
    let (live, loading) = tokio::join!(live, release);
    assert_eq!(loading, 1, "no more loads run at a time than `load_connections` says");
    for ((_, initial), user) in live.iter().zip(&users) {
        assert_eq!(initial["user"]["id"], user.as_str());
    }
    let queries = health().load_queries;
    assert!(queries < 50, "{queries} queries for {CLIENTS} clients");
}
