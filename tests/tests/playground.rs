//! The page of `rowtide dev`: what it is told of any application, whom it signs in, and who may have it.

use rowtide::playground::PlaygroundOptions;
use rowtide::server::ServerOptions;
use rowtide_client::{Client, ClientOptions, Event, Status};
use rowtide_tests::{App, PATIENCE, SECRET};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn with_playground(options: &mut ServerOptions) {
    options.playground = Some(PlaygroundOptions {
        application: "notes".to_owned(),
        database_url: "postgres://me@localhost/notes".to_owned(),
        secret: SECRET.to_owned(),
    });
}

/// Head and body of the answer to a request, whose `Host` is `host`.
async fn ask(app: &App, host: &str, request: &str, body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(app.address()).await.unwrap();
    let length = body.len();
    let sent = format!(
        "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

async fn get(app: &App, path: &str) -> (String, String) {
    ask(app, "127.0.0.1", &format!("GET {path}"), "").await
}

const NOTES: &str = r#"
  [app]
  min_client = 7
  [tables.note]
  visible = "author = auth.user_id OR team = auth.claims.team"
  immutable = ["author"]
  readonly = ["at"]
  [[tables.note.update]]
  allow = "auth.claims.role = 'editor'"
"#;

const NOTE_TABLE: &str = r#"
  CREATE TYPE mood AS ENUM ('good', 'bad');
  CREATE TABLE note (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), author text NOT NULL, team text,
                     mood mood NOT NULL, stars int4[], done boolean, at timestamptz NOT NULL DEFAULT now());
  ALTER TABLE note REPLICA IDENTITY FULL;
  CREATE INDEX ON note (author);
  CREATE INDEX ON note (team);
  INSERT INTO note (author, mood) SELECT 'u' || n, 'good' FROM generate_series(1, 200) n"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_told_all_that_it_needs_of_any_application() {
    let app = App::with_options(NOTES, NOTE_TABLE, with_playground).await;
    let (_, body) = get(&app, "/playground/info").await;
    let info: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(info["application"], "notes");
    assert_eq!(info["psql"], "psql 'postgres://me@localhost/notes'");
    // Of the rules for reading and of those for writing.
    assert_eq!(info["claims"], json!(["role", "team"]));
    assert_eq!(info["minClient"], 7);
    let users = info["users"].as_array().unwrap();
    assert_eq!((users.len(), &users[0], &users[1]), (50, &json!("u1"), &json!("u2")));
    assert_eq!(info["tables"].as_array().unwrap().len(), 1);
    let note = &info["tables"][0];
    assert_eq!((&note["name"], &note["key"]), (&json!("note"), &json!(["id"])));
    let column = |name: &str| {
        let columns = note["columns"].as_array().unwrap();
        columns.iter().find(|column| column["name"] == name).unwrap().clone()
    };
    let plain = json!({
        "name": "team", "type": "text", "kind": "text", "notNull": false, "hasDefault": false,
        "labels": [], "isUser": false, "immutable": false, "readonly": false,
    });
    assert_eq!(column("team"), plain);
    let with = |changes: Value| {
        let mut expected = plain.clone();
        expected.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        expected
    };
    for (name, changes) in [
        ("id", json!({ "type": "uuid", "kind": "uuid", "notNull": true, "hasDefault": true })),
        ("author", json!({ "notNull": true, "isUser": true, "immutable": true })),
        (
            "mood",
            json!({ "type": "mood", "kind": "enum", "notNull": true, "labels": ["good", "bad"] }),
        ),
        ("stars", json!({ "type": "integer[]", "kind": "array" })),
        ("done", json!({ "type": "boolean", "kind": "boolean" })),
        (
            "at",
            json!({ "type": "timestamp with time zone", "kind": "instant", "notNull": true,
                    "hasDefault": true, "readonly": true }),
        ),
    ] {
        let mut expected = with(changes);
        expected["name"] = json!(name);
        assert_eq!(column(name), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_told_what_may_be_subscribed_to() {
    let definition = r#"
      [tables.note]
      sync = "on_demand"
      visible = "author = auth.user_id"
      [queries.mine]
      params = { team = "text", latest = "int8 = 5" }
      [queries.mine.select]
      note = { where = "team = params.team", order = "at DESC", limit = "params.latest" }
    "#;
    let app = App::with_options(definition, NOTE_TABLE, with_playground).await;
    let (_, body) = get(&app, "/playground/info").await;
    let info: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(info["tables"][0]["isOnDemand"], true);
    let latest = json!({ "name": "latest", "type": "int8", "kind": "integer", "isOptional": true });
    let team = json!({ "name": "team", "type": "text", "kind": "text", "isOptional": false });
    let mine = json!({ "name": "mine", "tables": ["note"], "params": [latest, team] });
    assert_eq!(info["queries"], json!([mine]));
}

#[tokio::test(flavor = "multi_thread")]
async fn anyone_can_be_signed_in_with_any_claims() {
    let app = App::with_options(NOTES, NOTE_TABLE, with_playground).await;
    let sql = app.database.connect().await;
    sql.batch_execute("INSERT INTO note (author, team, mood) VALUES ('x', 'red', 'bad')")
        .await
        .unwrap();
    let wanted = json!({ "user": "u7", "claims": { "team": "red", "sub": "u8", "exp": 0 } });
    let (_, body) = ask(&app, "localhost", "POST /playground/token", &wanted.to_string()).await;
    let signed: Value = serde_json::from_str(&body).unwrap();
    let token = signed["token"].as_str().unwrap().to_owned();
    let mut client = Client::start(ClientOptions {
        url: format!("ws://{}/sync", app.address()),
        token: Arc::new(move || Some(token.clone())),
        client_id: "test-playground".to_owned(),
        app_version: Some(7),
    });
    let live = async {
        loop {
            match client.next().await {
                Some(Event::Status(Status::Live)) => break,
                None | Some(Event::Stopped(_)) => panic!("the server refuses"),
                Some(_) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, live).await.expect("live in time");
    // Their own, and that of their team.
    let mut authors: Vec<String> =
        client.replica().rows("note").map(|row| row["author"].to_string()).collect();
    authors.sort();
    assert_eq!(authors, ["\"u7\"", "\"x\""]);
    let (head, _) = ask(&app, "localhost", "POST /playground/token", "{}").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_it_leaves_this_machine_or_is_framed() {
    let app = App::with_options(NOTES, NOTE_TABLE, with_playground).await;
    for path in ["/", "/playground/info", "/playground/main.js", "/playground/style.css"] {
        for host in ["127.0.0.1:4400", "localhost:4400", "LOCALHOST", "[::1]:4400"] {
            let (head, body) = ask(&app, host, &format!("GET {path}"), "").await;
            assert!(head.starts_with("HTTP/1.1 200"), "{path} of {host}: {head}");
            assert!(!body.is_empty());
            for header in [
                "content-security-policy: default-src 'none'; script-src 'self'",
                "frame-ancestors 'none'",
                "x-content-type-options: nosniff",
                "cross-origin-resource-policy: same-origin",
            ] {
                assert!(head.contains(header), "{path}: {head}");
            }
        }
        // A name of elsewhere that leads here, as a page of elsewhere would ask.
        for host in ["example.com", "127.0.0.1.example.com", "10.0.0.1:4400", "", "[::2]:4400"] {
            let (head, body) = ask(&app, host, &format!("GET {path}"), "").await;
            assert!(head.starts_with("HTTP/1.1 403"), "{path} of {host}: {head}");
            assert!(!body.contains("postgres://"), "{body}");
        }
    }
    let (head, _) = get(&app, "/playground/other.js").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_for_development_has_none_of_it() {
    let app = App::with(NOTES, NOTE_TABLE).await;
    assert!(get(&app, "/").await.1.starts_with("This is a Rowtide server"));
    for request in ["GET /playground/info", "GET /playground/main.js", "POST /playground/token"] {
        let (head, _) = ask(&app, "127.0.0.1", request, r#"{"user":"u1"}"#).await;
        assert!(head.starts_with("HTTP/1.1 404"), "{request}: {head}");
    }
}
