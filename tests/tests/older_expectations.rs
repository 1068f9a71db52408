//! What the older clients expect of a server that their authors never described: seen with their own code.

use std::time::Duration;

use rowtide::auth::sign;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_tests::proxy::{Proxy, Upstream};
use rowtide_tests::small::{FILES, SMALL_FILES, files_tables};
use rowtide_tests::{App, Older, SECRET, Writer, cluster, eventually, http_get};
use serde_json::{Value, json};

fn update(table: &str, event: &str, row: Value) -> Value {
    json!({ "table": table, "event": event, "row": row })
}

fn rename(name: &str) -> Value {
    json!([update("file", "update", json!({ "id": "edit", "name": name }))])
}

fn new_file(id: &str, owner: &str) -> Value {
    json!({
        "id": id, "name": "Plan", "ownerId": owner, "ownerName": "", "ownerAvatar": "",
        "thumbnail": "", "shared": false, "sharedLinkType": "view", "published": false,
        "lastPublished": 0, "publishedSlug": id, "createdAt": 1, "updatedAt": 1, "isEmpty": true,
        "isDeleted": false, "createSource": null,
    })
}

/// `commit`, or the code of the rejection.
fn outcome(heard: &[Value]) -> &str {
    let last = heard.last().unwrap();
    last["errorCode"].as_str().or(last["type"].as_str()).unwrap()
}

async fn becomes(tab: &mut Older, name: &str, updates: Value) -> String {
    tab.mutate(name, updates).await;
    outcome(&tab.until(name).await).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_its_token_unless_the_operator_says_otherwise() {
    let files = || format!("{}\n{SMALL_FILES}", files_tables());
    let (lasting, strict) = (files(), files());
    let (lasting, strict) = tokio::join!(
        App::with(FILES, &lasting),
        App::with_options(FILES, &strict, |options| {
            options.gateway.client.older_sessions_outlive_tokens = false;
        }),
    );
    let token = sign(SECRET, "owner", Duration::from_secs(1)).unwrap();
    let query = format!("/app/owner/connect?sessionId=s&accessToken={token}");
    let mut lasts = Older::open(&lasting, &query).await.unwrap();
    let mut ends = Older::open(&strict, &query).await.unwrap();
    assert_eq!(lasts.hear().await["type"], "initial_data");
    assert_eq!(ends.hear().await["type"], "initial_data");
    assert_eq!(ends.closed().await, (4401, "unauthorized".to_owned()));
    assert_eq!(becomes(&mut lasts, "m1", rename("later")).await, "commit");
    // It is checked at the connect.
    let (lasting, query) = (&lasting, &query);
    eventually("the clocks cannot differ so much", || async {
        let refused = Older::open(lasting, query).await.err()?;
        (refused.as_u16() == 401).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_first_tabs_insert_the_same_rows_and_neither_is_rejected() {
    let app = App::small_files().await;
    let person = |created: i64| {
        json!([update(
            "user",
            "insert",
            json!({
                "id": "zoe", "name": "Zoë", "email": format!("zoe{created}@example.org"), "avatar": "",
                "color": "red", "exportFormat": "png", "exportTheme": "auto", "exportBackground": true,
                "exportPadding": true, "createdAt": created, "updatedAt": created, "flags": "",
            })
        )])
    };
    let (mut first, _) = Older::tab(&app, "zoe", "a").await;
    let (mut second, _) = Older::tab(&app, "zoe", "b").await;
    assert_eq!(becomes(&mut first, "m1", person(1_000)).await, "commit");
    // The clock of the other tab's machine is years ahead.
    assert_eq!(becomes(&mut second, "n1", person(4_000_000_000_000)).await, "commit");
    let of = |what: &str| format!(r#"SELECT {what} FROM "user" WHERE id = 'zoe'"#);
    assert_eq!(app.one(&of(r#""createdAt" || email"#)).await, "1000zoe1000@example.org");
    assert_eq!(app.one(&of(r#""updatedAt""#)).await, "4000000000000");
    // Both visit a file.
    app.database
        .run(r#"UPDATE file SET shared = true, "sharedLinkType" = 'edit' WHERE id = 'edit'"#)
        .await;
    let visit = |at: i64| {
        let row = json!({ "userId": "zoe", "fileId": "edit", "firstVisitAt": at });
        json!([update("file_state", "insert", row)])
    };
    assert_eq!(becomes(&mut first, "m2", visit(1)).await, "commit");
    assert_eq!(becomes(&mut second, "n2", visit(2)).await, "commit");
    let first_visit = r#"SELECT "firstVisitAt" FROM file_state WHERE "userId" = 'zoe'"#;
    assert_eq!(app.one(first_visit).await, "1");
    // A file of theirs that is inserted twice, and one that is somebody else's.
    let mut file = new_file("z", "zoe");
    assert_eq!(
        becomes(&mut first, "m3", json!([update("file", "insert", file.clone())])).await,
        "commit"
    );
    file["createdAt"] = 2.into();
    file["name"] = "again".into();
    assert_eq!(
        becomes(&mut second, "n3", json!([update("file", "insert", file.clone())])).await,
        "commit"
    );
    let is = r#"SELECT "createdAt" || name FROM file WHERE id = 'z'"#;
    assert_eq!(app.one(is).await, "1again");
    let taken = json!([update("file", "insert", new_file("edit", "zoe"))]);
    assert_eq!(becomes(&mut second, "n4", taken).await, "forbidden");
    let other = json!([update("user", "insert", json!({ "id": "owner", "name": "mine" }))]);
    assert_eq!(becomes(&mut second, "n5", other).await, "forbidden");
    // An update says no by itself to nothing: what may not be written is left out, as before.
    let update = json!([update("user", "update", json!({ "id": "zoe", "createdAt": 5 }))]);
    assert_eq!(becomes(&mut second, "n6", update).await, "commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_not_there_is_updated_and_deleted_without_a_word() {
    let app = App::small_files().await;
    let (mut tab, _) = Older::live(&app, "owner").await;
    let state = |event: &str, file: &str| {
        let mut row = json!({ "userId": "owner", "fileId": file });
        if event == "update" {
            row["lastVisitAt"] = 5.into();
        }
        update("file_state", event, row)
    };
    assert_eq!(becomes(&mut tab, "m1", json!([state("update", "nothing")])).await, "commit");
    assert_eq!(becomes(&mut tab, "m2", json!([state("delete", "nothing")])).await, "commit");
    // With a file its states go; the client deletes both.
    let both = json!([
        update("file", "delete", json!({ "id": "private" })),
        state("delete", "private"),
        update("file", "update", json!({ "id": "edit", "name": "still" })),
    ]);
    assert_eq!(becomes(&mut tab, "m3", both).await, "commit");
    assert_eq!(app.one("SELECT count(*) FROM file WHERE id = 'private'").await, "0");
    assert_eq!(app.one("SELECT name FROM file WHERE id = 'edit'").await, "still");
    // Another's is not told from one that is not there, and nothing of it is written.
    let row = json!({ "userId": "editor", "fileId": "edit", "isPinned": true });
    assert_eq!(
        becomes(&mut tab, "m4", json!([update("file_state", "update", row)])).await,
        "commit"
    );
    let pinned = r#"SELECT count(*) FROM file_state WHERE "isPinned""#;
    assert_eq!(app.one(pinned).await, "0");
    // A file that is not there is still said to be missing.
    let missing = json!([update("file", "update", json!({ "id": "nothing", "name": "x" }))]);
    assert_eq!(becomes(&mut tab, "m5", missing).await, "bad_request");
    // And with today's clients a state, too.
    let mut writer = Writer::live(&app, "owner").await;
    let row = json!({ "userId": "owner", "fileId": "nothing", "lastVisitAt": 1 });
    let ops = json!([{ "op": "update", "table": "file_state", "row": row }]);
    writer.mutate(ops).await.rejected("not_found", "file_state");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_may_be_as_large_as_a_message() {
    let app = App::example_with("files", |options| {
        options.gateway.client.message_bytes = 1 << 20;
        // One connect, and each mutation one as long as it is no larger than today's.
        options.gateway.client.requests_per_minute = 10;
    })
    .await;
    let (mut tab, _) = Older::live(&app, "u900").await;
    let color = |number: usize| {
        update(
            "user",
            "update",
            json!({ "id": "u900", "color": format!("{number} {}", "x".repeat(60)) }),
        )
    };
    app.database.run(r#"INSERT INTO "user" SELECT (jsonb_populate_record(u, '{"id": "u900"}')).* FROM "user" u WHERE id = 'u1' ON CONFLICT DO NOTHING"#).await;
    let colors: Vec<Value> = (0..1_500).map(color).collect();
    let bytes = json!(colors).to_string().len();
    assert!(bytes > 128 << 10, "more than a mutation of today's may have in this test: {bytes}");
    assert_eq!(becomes(&mut tab, "m1", json!(colors)).await, "commit");
    let last = r#"SELECT left(color, 4) FROM "user" WHERE id = 'u900'"#;
    assert_eq!(app.one(last).await, "1499");
    // One that is wrong among them lets none of them through.
    let mut colors: Vec<Value> = (1_500..2_100).map(color).collect();
    colors.push(update("user", "update", json!({ "id": "u1", "color": "x" })));
    assert_eq!(becomes(&mut tab, "m2", json!(colors)).await, "bad_request");
    assert_eq!(app.one(last).await, "1499");
    // What was used of the rate is not so much that nothing more goes, and there is an end to it.
    assert_eq!(becomes(&mut tab, "m3", json!([])).await, "commit");
    for number in 4.. {
        assert!(number < 50, "it is never over the rate");
        if becomes(&mut tab, &format!("m{number}"), json!([])).await == "rate_limit_exceeded" {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fifty_first_tab_is_served_and_takes_nobodys_place() {
    let app = App::small_files().await;
    let mut tabs = Vec::new();
    for number in 0..51 {
        tabs.push(Older::tab(&app, "owner", &format!("tab{number}")).await.0);
    }
    assert_eq!(becomes(&mut tabs[50], "m1", rename("one of many")).await, "commit");
    for tab in &mut tabs[..50] {
        assert_eq!(outcome(&tab.until("m1").await), "commit");
    }
    // The user's client of today, too, hears of it, and is heard.
    let mut writer = Writer::live(&app, "owner").await;
    let row = json!({ "id": "edit", "name": "by today's" });
    writer.mutate(json!([{ "op": "update", "table": "file", "row": row }])).await.applied();
    for tab in &mut tabs {
        let heard = tab.hear().await;
        assert_eq!(heard["update"]["row"]["name"], "by today's");
    }
    assert_eq!(becomes(&mut tabs[0], "m2", rename("by a tab")).await, "commit");
    loop {
        let message = writer.raw.hear().await.unwrap();
        if message.to_string().contains("by a tab") {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_ignored_and_what_has_a_name_is_rejected() {
    let app = App::small_files().await;
    let (mut tab, _) = Older::live(&app, "owner").await;
    for nonsense in [
        "",
        "x",
        "null",
        "[]",
        "17",
        "\"mutate\"",
        "{}",
        r#"{"type":"ping"}"#,
        r#"{"type":5}"#,
        r#"{"type":"mutate"}"#,
        r#"{"type":"mutate","updates":[]}"#,
        r#"{"type":"mutate","mutationId":7,"updates":[]}"#,
        r#"{"type":"any","mutationId":"a"}"#,
        "_",
        "x_y",
        "-1_{}",
        "0_nonsense",
        "1_{\"type\":",
        "0_\"ping\"}",
    ] {
        tab.send(nonsense).await;
    }
    tab.send_binary(b"{}".to_vec()).await;
    for (name, updates) in [
        ("r1", json!(null)),
        ("r2", json!({})),
        ("r3", json!([7])),
        ("r4", json!([{ "table": "file" }])),
        ("r5", json!([update("file", "rename", json!({ "id": "edit" }))])),
        (
            "r6",
            json!([update(
                "file",
                "update",
                json!({ "id": "edit", "createdAt": 1.5, "isEmpty": 7 })
            )]),
        ),
    ] {
        assert_eq!(becomes(&mut tab, name, updates).await, "bad_request", "{name}");
    }
    tab.send(r#"{"type":"mutate","mutationId":"r7"}"#).await;
    assert_eq!(outcome(&tab.until("r7").await), "bad_request");
    let name = "n".repeat(201);
    assert_eq!(becomes(&mut tab, &name, json!([])).await, "bad_request");
    assert_eq!(becomes(&mut tab, "m1", rename("after all that")).await, "commit");
    // What is wrong is told like all else to a tab that comes back.
    tab.hang_up().await;
    let schema = app.database.names().schema;
    app.database.run(&format!("UPDATE {schema}.named_mutation SET told = name <> 'r4'")).await;
    let (mut tab, _) = Older::live(&app, "owner").await;
    assert_eq!(outcome(&tab.until("r4").await), "bad_request");
    // Frames that do not follow each other leave nothing to go on with.
    for broken in [["3_{", "1_}"], ["1_{", "{}"]] {
        let (mut tab, _) = Older::tab(&app, "owner", "frames").await;
        tab.send(broken[0]).await;
        tab.send(broken[1]).await;
        assert_eq!(tab.closed().await.0, 4400);
    }
    let long = format!(
        "/app/owner/connect?sessionId={}&accessToken={}",
        "s".repeat(201),
        App::token("owner")
    );
    assert_eq!(Older::open(&app, &long).await.err().map(|status| status.as_u16()), Some(400));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_tab_gets_its_rows_while_postgres_is_away() {
    let url = cluster().await.url("postgres");
    let socket = url.split(['@', '/']).find(|part| part.starts_with("%2F")).unwrap();
    let socket = socket.replace("%2F", "/");
    let network = Proxy::start(Upstream::Unix(format!("{socket}/.s.PGSQL.5432").into())).await;
    let app = App::with_options(FILES, &format!("{}\n{SMALL_FILES}", files_tables()), |options| {
        let database = options.gateway.database.database();
        let address = network.address();
        let url = format!("postgres://postgres@{address}/{database}?sslmode=disable");
        options.gateway.database = ConnectOptions::parse(&url).unwrap();
    })
    .await;
    let (mut first, initial) = Older::tab(&app, "owner", "a").await;
    // Without a commit the server could not know afterwards that it has missed nothing.
    assert_eq!(becomes(&mut first, "m0", rename("before")).await, "commit");
    network.refuse(true);
    network.cut();
    eventually("the server knows that Postgres is away", || async {
        let health: Value = serde_json::from_str(&http_get(&app, "/health/ready").await).unwrap();
        (health["ready"] == false).then_some(())
    })
    .await;
    let (mut second, again) = Older::tab(&app, "owner", "b").await;
    let count = |data: &Value| data["files"].as_array().unwrap().len();
    assert_eq!((count(&again), &again["user"]), (count(&initial), &initial["user"]));
    // What it sends waits.
    second.mutate("m1", rename("meanwhile")).await;
    second.assert_alive().await;
    network.heal();
    assert_eq!(outcome(&second.until("m1").await), "commit");
    assert_eq!(outcome(&first.until("m1").await), "commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tab_stays_when_its_user_is_deleted_and_comes_back_with_them() {
    let app = App::small_files().await;
    let (mut tab, _) = Older::live(&app, "owner").await;
    app.database.run(r#"DELETE FROM "user" WHERE id = 'owner'"#).await;
    let mut gone = Vec::new();
    while !gone.contains(&"user".to_owned()) || gone.len() < 5 {
        let message = tab.hear().await;
        assert_eq!(message["update"]["event"], "delete", "{message}");
        gone.push(message["update"]["table"].as_str().unwrap().to_owned());
    }
    let file = json!([update("file", "insert", new_file("after", "owner"))]);
    assert_eq!(becomes(&mut tab, "m1", file.clone()).await, "bad_request", "nobody can own it");
    let name = json!([update("user", "update", json!({ "id": "owner", "name": "who?" }))]);
    assert_eq!(becomes(&mut tab, "m2", name).await, "bad_request");
    let row = json!({
        "id": "owner", "name": "Back", "email": "", "avatar": "", "color": "", "exportFormat": "",
        "exportTheme": "", "exportBackground": true, "exportPadding": true, "createdAt": 1,
        "updatedAt": 1, "flags": "",
    });
    assert_eq!(becomes(&mut tab, "m3", json!([update("user", "insert", row)])).await, "commit");
    assert_eq!(becomes(&mut tab, "m4", file).await, "commit");
}

/// The value of a metric, by its name with labels; 0 if nothing was counted.
async fn metric(app: &App, name: &str) -> f64 {
    let text = http_get(app, "/metrics").await;
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_adapter_counts_as_others_do() {
    let app = App::small_files().await;
    let names = [
        "rowtide_connects_total{result=\"snapshot\"}",
        "rowtide_connects_total{result=\"unauthorized\"}",
        "rowtide_connects_total{result=\"forbidden\"}",
        "rowtide_connects_total{result=\"bad_request\"}",
        "rowtide_connects_total{result=\"client_too_old\"}",
        "rowtide_sessions_ended_total{code=\"bad_request\"}",
        "rowtide_mutations_total{outcome=\"applied\"}",
        "rowtide_mutations_total{outcome=\"forbidden\"}",
        "rowtide_mutations_total{outcome=\"bad_request\"}",
        "rowtide_mutation_seconds_count",
        "rowtide_sent_rows_total",
        "rowtide_sent_frames_total",
        "rowtide_sent_bytes_total",
        "rowtide_commit_to_send_seconds_count",
    ];
    let mut before = Vec::new();
    for name in names {
        before.push(metric(&app, name).await);
    }
    let (mut tab, _) = Older::live(&app, "owner").await;
    assert_eq!(becomes(&mut tab, "m1", rename("counted")).await, "commit");
    let stolen = json!([update("file", "insert", json!({ "id": "x", "ownerId": "editor" }))]);
    assert_eq!(becomes(&mut tab, "m2", stolen).await, "forbidden");
    assert_eq!(becomes(&mut tab, "m3", json!(7)).await, "bad_request");
    assert_eq!(becomes(&mut tab, &"n".repeat(300), json!([])).await, "bad_request");
    tab.send("3_x").await;
    tab.send("3_x").await;
    tab.closed().await;
    let token = App::token("owner");
    for query in [
        "/app/owner/connect?sessionId=s".to_owned(),
        format!("/app/editor/connect?sessionId=s&accessToken={token}"),
        format!("/app/owner/connect?accessToken={token}"),
    ] {
        Older::open(&app, &query).await.err().unwrap();
    }
    let old = format!("/app/owner/connect?sessionId=s&protocolVersion=2&accessToken={token}");
    Older::open(&app, &old).await.unwrap().closed().await;
    for (name, before) in names.into_iter().zip(before) {
        eventually(name, || async { (metric(&app, name).await > before).then_some(()) }).await;
    }
}
