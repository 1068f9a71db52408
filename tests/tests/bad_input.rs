//! What clients do wrong, and the answer that each gets. Each table is read as: what it is, what is
//! sent, the code that it ends with. After every single one the bystander's session still gets its
//! changes, and the server says that it is ready.

use std::collections::BTreeSet;

use rowtide::limits::FIRST_MESSAGE_BYTES;
use rowtide_tests::{App, Bystander, Raw, http};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The largest message that the tests' server takes, in bytes.
const MAX_MESSAGE: usize = 64 << 10;

async fn app() -> App {
    App::with(Bystander::DEFINITION, Bystander::TABLES).await
}

/// What is sent on an open socket.
#[derive(Clone)]
enum Sent {
    /// A text frame with this.
    Text(String),
    /// A text frame with this JSON.
    Json(Value),
    /// Any message.
    Message(Message),
    /// Bytes below the frames.
    Bytes(Vec<u8>),
}

use Sent::{Bytes, Json, Text};

async fn send(raw: &mut Raw, sent: &Sent) {
    match sent {
        Text(text) => raw.send(Message::text(text.clone())).await,
        Json(json) => raw.say(json).await,
        Sent::Message(message) => raw.send(message.clone()).await,
        Bytes(bytes) => raw.write(bytes).await,
    }
}

fn frame(payload: impl Into<Vec<u8>>, code: OpCode, last: bool) -> Sent {
    let mut frame = Frame::message(payload.into(), TEXT, last);
    // Of control frames too, which a frame is not made of.
    frame.header_mut().opcode = code;
    Sent::Message(Message::Frame(frame))
}

const TEXT: OpCode = OpCode::Data(Data::Text);

/// What no client may send, neither first nor later.
fn never() -> Vec<(&'static str, Sent)> {
    let mut reserved_bit = Frame::message("{}", TEXT, true);
    reserved_bit.header_mut().rsv1 = true;
    vec![
        ("nothing in a frame", Text(String::new())),
        ("not JSON", Text("hello".to_owned())),
        ("half of some JSON", Text(r#"{"type":"ping""#.to_owned())),
        ("JSON and more", Text(r#"{"type":"ping"} and more"#.to_owned())),
        ("two messages", Text(r#"{"type":"ping"}{"type":"ping"}"#.to_owned())),
        ("an array", Json(json!([{ "type": "ping" }]))),
        ("an array that could be a message", Json(json!(["ping"]))),
        ("a string", Json(json!("ping"))),
        ("a number", Json(json!(1))),
        ("null", Json(json!(null))),
        ("an object without a type", Json(json!({}))),
        ("a type that is null", Json(json!({ "type": null }))),
        ("a type that is a number", Json(json!({ "type": 1 }))),
        ("a type that is an object", Json(json!({ "type": { "type": "ping" } }))),
        ("a type twice", Text(r#"{"type":"ping","type":"ping"}"#.to_owned())),
        ("an unknown type", Json(json!({ "type": "subscribe" }))),
        ("a type in capitals", Json(json!({ "type": "PING" }))),
        ("a type of the server", Json(json!({ "type": "ready", "cursor": "x" }))),
        ("an endless type", Json(json!({ "type": "x".repeat(10_000) }))),
        ("a type with a NUL", Json(json!({ "type": "ping\0" }))),
        ("10,000 arrays in each other", Text("[".repeat(10_000))),
        ("10,000 objects in each other", Text(r#"{"a":"#.repeat(10_000))),
        ("a lone surrogate", Text(r#"{"type":"\ud800"}"#.to_owned())),
        ("a binary frame", Sent::Message(Message::binary(&br#"{"type":"ping"}"#[..]))),
        ("an empty binary frame", Sent::Message(Message::binary(&b""[..]))),
        ("text that is not UTF-8", frame(&b"{\"type\":\"ping\xff\"}"[..], TEXT, true)),
        ("half a character", frame(&b"{\"type\":\"\xc3"[..], TEXT, true)),
        ("one byte too much", Text(" ".repeat(MAX_MESSAGE + 1))),
        ("megabytes", Text("x".repeat(8 << 20))),
        // The header alone: 2^62 bytes are to come.
        ("a length without end", Bytes(vec![0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4])),
        ("a reserved bit", Sent::Message(Message::Frame(reserved_bit))),
        ("a reserved kind of data", frame("{}", OpCode::Data(Data::Reserved(5)), true)),
        ("a reserved kind of control", frame("", OpCode::Control(Control::Reserved(12)), true)),
        ("the rest of nothing", frame("{}", OpCode::Data(Data::Continue), true)),
        ("a ping in parts", frame("", OpCode::Control(Control::Ping), false)),
        ("a ping of 126 bytes", frame([0; 126], OpCode::Control(Control::Ping), true)),
        // "{}", not masked.
        ("a frame without a mask", Bytes(vec![0x81, 0x02, 0x7b, 0x7d])),
        ("HTTP", Bytes(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec())),
    ]
}

/// `connect` of a new client of `u1`, with these changes; a `null` takes a field away.
fn connect(changes: Value) -> Sent {
    let mut connect = Raw::connect(&App::token("u1"));
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            connect.as_object_mut().unwrap().remove(name);
        } else {
            connect[name] = value.clone();
        }
    }
    Json(connect)
}

fn bad_connects() -> Vec<(&'static str, Sent)> {
    vec![
        ("ping first", Json(json!({ "type": "ping" }))),
        ("auth first", Json(json!({ "type": "auth", "token": App::token("u1") }))),
        ("mutate first", mutate(json!(1), json!([insert()]))),
        ("one byte more than a first message may have", {
            let text = Raw::connect(&App::token("u1")).to_string();
            Text(format!("{text}{}", " ".repeat(FIRST_MESSAGE_BYTES + 1 - text.len())))
        }),
        ("no protocol", connect(json!({ "protocol": null }))),
        ("protocol 0", connect(json!({ "protocol": 0 }))),
        ("protocol 2", connect(json!({ "protocol": 2 }))),
        ("protocol -1", connect(json!({ "protocol": -1 }))),
        ("protocol 1.5", connect(json!({ "protocol": 1.5 }))),
        ("protocol \"1\"", connect(json!({ "protocol": "1" }))),
        ("protocol 2^64", connect(json!({ "protocol": 18_446_744_073_709_551_616_f64 }))),
        ("no clientId", connect(json!({ "clientId": null }))),
        ("clientId is a number", connect(json!({ "clientId": 12_345_678 }))),
        ("clientId is empty", connect(json!({ "clientId": "" }))),
        ("clientId of 7", connect(json!({ "clientId": "1234567" }))),
        ("clientId of 65", connect(json!({ "clientId": "x".repeat(65) }))),
        ("clientId of 10 kB", connect(json!({ "clientId": "x".repeat(10_000) }))),
        ("clientId with a NUL", connect(json!({ "clientId": "client-1\0" }))),
        ("clientId with a quote", connect(json!({ "clientId": "client-1'" }))),
        ("clientId with a space", connect(json!({ "clientId": "client 1" }))),
        (
            "clientId with a letter of no alphabet of ours",
            connect(json!({ "clientId": "clienté-1" })),
        ),
        ("token is a number", connect(json!({ "token": 1 }))),
        ("token is an object", connect(json!({ "token": { "sub": "u1" } }))),
        ("appVersion is text", connect(json!({ "appVersion": "3" }))),
        ("appVersion 1.5", connect(json!({ "appVersion": 1.5 }))),
        ("cursor is a number", connect(json!({ "cursor": 1 }))),
        ("settled is negative", connect(json!({ "settled": -1 }))),
        ("settled is text", connect(json!({ "settled": "1" }))),
    ]
}

fn insert() -> Value {
    json!({ "op": "insert", "table": "note", "row": { "id": 7, "owner": "u1" } })
}

fn mutate(id: Value, ops: Value) -> Sent {
    Json(json!({ "type": "mutate", "id": id, "ops": ops }))
}

/// Mutations without a number that could be acknowledged; tests/mutation_input.rs has the others.
fn bad_mutates() -> Vec<(&'static str, Sent)> {
    vec![
        ("mutate without anything", Json(json!({ "type": "mutate" }))),
        ("no id", Json(json!({ "type": "mutate", "ops": [insert()] }))),
        ("id 0", mutate(json!(0), json!([insert()]))),
        ("id -1", mutate(json!(-1), json!([insert()]))),
        ("id 1.5", mutate(json!(1.5), json!([insert()]))),
        ("id 1e300", mutate(json!(1e300), json!([insert()]))),
        ("id \"1\"", mutate(json!("1"), json!([insert()]))),
        ("id null", mutate(json!(null), json!([insert()]))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_connect_comes_first() {
    let app = app().await;
    let mut bystander = Bystander::of(&app).await;
    for (name, sent) in never().into_iter().chain(bad_connects()) {
        let mut raw = Raw::open(&app).await;
        send(&mut raw, &sent).await;
        raw.ending().await.assert(name, "bad_request");
        bystander.assert_undisturbed(&app, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_protocol_comes_later() {
    let app = app().await;
    let mut bystander = Bystander::of(&app).await;
    let more = [
        ("a second connect", connect(json!({}))),
        ("a second connect without its fields", Json(json!({ "type": "connect" }))),
        ("auth without a token", Json(json!({ "type": "auth" }))),
        ("auth with a number", Json(json!({ "type": "auth", "token": 1 }))),
    ];
    for (name, sent) in never().into_iter().chain(more).chain(bad_mutates()) {
        let mut raw = Raw::live(&app, "u1").await;
        send(&mut raw, &sent).await;
        raw.ending().await.assert(name, "bad_request");
        bystander.assert_undisturbed(&app, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unusual_is_taken() {
    let app = app().await;
    let mut bystander = Bystander::of(&app).await;
    let mut raw = Raw::live(&app, "u1").await;
    raw.send(Message::text(format!("{}{{\"type\":\"ping\"}}", " ".repeat(MAX_MESSAGE - 15)))).await;
    raw.until("pong").await;
    bystander.assert_undisturbed(&app, "the largest message").await;
    for (name, sent) in [
        ("every optional field", connect(json!({ "appVersion": 3, "settled": 0, "cursor": "x" }))),
        ("fields that are not known", connect(json!({ "future": { "a": [1, 2] } }))),
        ("depth in a field that is not known", {
            let (open, close) = ("[".repeat(10_000), "]".repeat(10_000));
            let text = Raw::connect(&App::token("u1")).to_string();
            Text(text.replacen('{', &format!(r#"{{"future":{open}{close},"#), 1))
        }),
        ("a negative appVersion", connect(json!({ "appVersion": -1 }))),
        ("a large settled", connect(json!({ "settled": u64::MAX }))),
        ("an empty cursor", connect(json!({ "cursor": "" }))),
        ("a forged cursor", connect(json!({ "cursor": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" }))),
        ("a cursor that is not base64", connect(json!({ "cursor": "'; DROP TABLE note; --" }))),
        ("a cursor with a NUL", connect(json!({ "cursor": "\0" }))),
        ("a cursor of unicode", connect(json!({ "cursor": "🗿".repeat(32) }))),
        ("a cursor of 129 bytes", connect(json!({ "cursor": "A".repeat(129) }))),
        ("a cursor of 10 kB", connect(json!({ "cursor": "A".repeat(10_000) }))),
        ("a clientId of 8", connect(json!({ "clientId": "_-_-_-_-" }))),
        ("a clientId of 64", connect(json!({ "clientId": "Z".repeat(64) }))),
        ("blanks around", Text(format!("\n {} \t", Raw::connect(&App::token("u1"))))),
        ("the largest first message", {
            let text = Raw::connect(&App::token("u1")).to_string();
            Text(format!("{text}{}", " ".repeat(FIRST_MESSAGE_BYTES - text.len())))
        }),
    ] {
        let mut raw = Raw::open(&app).await;
        send(&mut raw, &sent).await;
        assert_eq!(raw.until("connected").await["mode"], "snapshot", "{name}");
        raw.until("ready").await;
        raw.assert_alive().await;
        bystander.assert_undisturbed(&app, name).await;
    }
    let text = Raw::connect(&App::token("u1")).to_string().into_bytes();
    let mut raw = Raw::open(&app).await;
    send(&mut raw, &frame(&text[..1], TEXT, false)).await;
    // A ping may come between the parts of a message (RFC 6455, 5.4).
    send(&mut raw, &Sent::Message(Message::Ping(b"still here".to_vec().into()))).await;
    for byte in &text[1..text.len() - 1] {
        send(&mut raw, &frame([*byte], OpCode::Data(Data::Continue), false)).await;
    }
    send(&mut raw, &frame(&text[text.len() - 1..], OpCode::Data(Data::Continue), true)).await;
    raw.until("ready").await;
    bystander.assert_undisturbed(&app, "a message in single bytes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_in_parts_is_too_large() {
    let app = app().await;
    let mut bystander = Bystander::of(&app).await;
    let mut raw = Raw::live(&app, "u1").await;
    send(&mut raw, &frame(vec![b' '; MAX_MESSAGE / 2], TEXT, false)).await;
    let more = frame(vec![b' '; MAX_MESSAGE / 2], OpCode::Data(Data::Continue), false);
    send(&mut raw, &more).await;
    raw.assert_ping_is_answered().await;
    send(&mut raw, &frame(" ", OpCode::Data(Data::Continue), false)).await;
    raw.ending().await.assert("one byte too much in the third part", "bad_request");
    bystander.assert_undisturbed(&app, "parts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_hang_up_anywhere() {
    let app = app().await;
    let mut bystander = Bystander::of(&app).await;
    let whole = Raw::connect(&App::token("u1")).to_string().into_bytes();
    for (name, sent) in [
        ("after the upgrade", Bytes(vec![])),
        ("within the header of a frame", Bytes(vec![0x81])),
        ("within the length of a frame", Bytes(vec![0x81, 0xfe, 0x01])),
        ("within the mask of a frame", Bytes(vec![0x81, 0x82, 1, 2])),
        ("within a frame", Bytes(vec![0x81, 0x8a, 0, 0, 0, 0, b'{', b'"'])),
        ("between the parts of a message", frame(&whole[..20], TEXT, false)),
        ("after connect", Json(Raw::connect(&App::token("u1")))),
        ("with an orderly close", Sent::Message(Message::Close(None))),
        ("with a close of one byte", frame([3], OpCode::Control(Control::Close), true)),
        ("with a reserved close code", {
            frame(1005_u16.to_be_bytes(), OpCode::Control(Control::Close), true)
        }),
    ] {
        let mut raw = Raw::open(&app).await;
        send(&mut raw, &sent).await;
        drop(raw);
        bystander.assert_undisturbed(&app, name).await;
        let mut raw = Raw::live(&app, "u1").await;
        send(&mut raw, &sent).await;
        drop(raw);
        bystander.assert_undisturbed(&app, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_belongs_to_who_first_used_it() {
    let app = app().await;
    let mut bystander = Bystander::of(&app).await;
    let connect = |user: &str, token_user: &str| {
        let mut connect = Raw::connect(&App::token(token_user));
        connect["clientId"] = json!("the-client-of-u1");
        // What a client says of itself does not matter.
        connect["userId"] = json!(user);
        connect["sub"] = json!(user);
        connect
    };
    let mut first = Raw::open(&app).await;
    first.say(&connect("u1", "u1")).await;
    assert_eq!(first.until("connected").await["userId"], "u1");
    first.until("ready").await;
    for round in ["while its user is there", "after its user has gone"] {
        let mut thief = Raw::open(&app).await;
        thief.say(&connect("u1", "u2")).await;
        thief.ending().await.assert(round, "forbidden");
        bystander.assert_undisturbed(&app, round).await;
        if round.starts_with("while") {
            first.assert_alive().await;
            let mut newer = Raw::open(&app).await;
            newer.say(&connect("u1", "u1")).await;
            newer.until("ready").await;
            first.ending().await.assert("the newest wins", "superseded");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_cannot_take_all_places() {
    let app = App::with_options(Bystander::DEFINITION, Bystander::TABLES, |options| {
        options.gateway.client.sessions_per_user = 3;
    });
    let app = app.await;
    let mut bystander = Bystander::of(&app).await;
    let mut sessions = Vec::new();
    for number in 0..3 {
        let mut connect = Raw::connect(&App::token("u1"));
        connect["clientId"] = json!(format!("client-{number}"));
        let mut raw = Raw::open(&app).await;
        raw.say(&connect).await;
        raw.until("ready").await;
        sessions.push((raw, connect));
    }
    let mut fourth = Raw::open(&app).await;
    fourth.say(&Raw::connect(&App::token("u1"))).await;
    fourth.ending().await.assert("a fourth", "rate_limit_exceeded");
    bystander.assert_undisturbed(&app, "a fourth").await;
    // One that comes back before its old connection is known to be gone takes its own place.
    let (mut old, connect) = sessions.remove(0);
    let mut again = Raw::open(&app).await;
    again.say(&connect).await;
    again.until("ready").await;
    old.ending().await.assert("its own older connection", "superseded");
    for (raw, _) in &mut sessions {
        raw.assert_alive().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_too_old_is_told_so() {
    let definition = format!("[app]\nmin_client = 3\n{}", Bystander::DEFINITION);
    let app = App::with(&definition, Bystander::TABLES).await;
    for (name, version, code) in [
        ("older", json!(2), Some("client_too_old")),
        ("of before all versions", json!(i64::MIN), Some("client_too_old")),
        ("no version", Value::Null, Some("client_too_old")),
        ("the oldest that is taken", json!(3), None),
        ("newer", json!(i64::MAX), None),
    ] {
        let mut raw = Raw::open(&app).await;
        send(&mut raw, &connect(json!({ "appVersion": version }))).await;
        match code {
            Some(code) => raw.ending().await.assert(name, code),
            None => drop(raw.until("ready").await),
        }
    }
}

/// Ids that are legal, however they look, are ordinary users: each sees exactly their own rows.
#[tokio::test(flavor = "multi_thread")]
async fn any_text_is_a_user() {
    let app = app().await;
    let mut bystander = Bystander::of(&app).await;
    let sql = app.database.connect().await;
    let longest = "x".repeat(1_024);
    let users = [
        "'",
        "''",
        "' OR '1'='1",
        "'; DROP TABLE note; --",
        "$$",
        "$1",
        "\"",
        "\\",
        "\\'",
        "\\N",
        "\\x00",
        "%",
        "_",
        "{u1,u2}",
        "{\"a\"}",
        "NULL",
        "null",
        "true",
        "0",
        " ",
        " u1",
        "u1",
        "U1",
        "u1 ",
        "\n",
        "\t\r",
        "é",
        "e\u{301}",
        "日本語",
        "🗿",
        "\u{202e}u1",
        "\u{feff}u1",
        "\u{1}",
        "\u{7f}",
        "\u{fffd}",
        "</script>",
        "../../etc/passwd",
        "auth.user_id",
        longest.as_str(),
        &longest[1..],
    ];
    for (number, user) in (1..).zip(&users) {
        sql.execute("INSERT INTO note VALUES ($1, $2)", &[&number, user]).await.unwrap();
    }
    let mut sessions = Vec::new();
    for (number, user) in (1..).zip(&users) {
        let mut raw = Raw::open(&app).await;
        raw.say(&Raw::connect(&App::token(user))).await;
        assert_eq!(raw.until("connected").await["userId"], *user);
        let mut rows = BTreeSet::new();
        loop {
            let message = raw.hear().await.unwrap_or_else(|ending| panic!("{user}: {ending:?}"));
            match message["type"].as_str() {
                Some("ready") => break,
                _ => {
                    let all = message["rows"].as_array().unwrap();
                    rows.extend(all.iter().map(|row| row["id"].as_i64().unwrap()));
                }
            }
        }
        assert_eq!(rows, BTreeSet::from([number]), "{user}");
        sessions.push((number, *user, raw));
    }
    // One change for each, in one transaction: everyone hears of their own alone.
    sql.batch_execute("UPDATE note SET count = 41 WHERE id > 0").await.unwrap();
    for (number, user, mut raw) in sessions {
        let mut tx = raw.until("tx").await;
        while tx["changes"] == json!([]) {
            tx = raw.until("tx").await;
        }
        let row = json!({ "id": number, "owner": user, "count": 41 });
        assert_eq!(tx["changes"], json!([{ "op": "put", "table": "note", "row": row }]), "{user}");
    }
    bystander.assert_undisturbed(&app, "all of them").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_that_is_no_upgrade_gets_its_status() {
    let app = app().await;
    let mut bystander = Bystander::of(&app).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let upgrade = "GET /sync HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for (name, request, status) in [
        ("the first page", get("/"), 200),
        ("alive", get("/health/live"), 200),
        ("ready", get("/health/ready"), 200),
        ("/sync without an upgrade", get("/sync"), 400),
        (
            "an upgrade to another protocol",
            {
                "GET /sync HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
                    .to_owned()
            },
            400,
        ),
        ("an upgrade without a key", format!("{upgrade}Sec-WebSocket-Version: 13\r\n\r\n"), 400),
        (
            "an old version of WebSockets",
            { format!("{upgrade}Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAA\r\n\r\n") },
            400,
        ),
        ("a post", "POST /sync HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}".to_owned(), 405),
        ("a delete", "DELETE /health/live HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405),
        ("an unknown path", get("/admin"), 404),
        ("a path below", get("/sync/u1"), 404),
        ("a path above", get("/../../etc/passwd"), 404),
        ("a path of a NUL", get("/%00"), 404),
        ("a path of 10 kB", get(&format!("/{}", "x".repeat(10_000))), 404),
        ("a header without end", format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(1 << 20)), 431),
        ("not HTTP", "hello\r\n\r\n".to_owned(), 400),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".to_owned(), 400),
    ] {
        assert_eq!(http(&app, request.as_bytes()).await, status, "{name}");
        bystander.assert_undisturbed(&app, name).await;
    }
}
