//! Large frames are deflated for clients that offer it; what they say is what others are told as text.

use rowtide_tests::{App, Raw, eventually, http_get};
use serde_json::{Value, json};

const DEFINITION: &str = r#"
[tables.note]
visible = 'true'
[tables.later]
sync = "on_demand"
visible = 'true'
[queries.later]
[queries.later.select]
later = { where = 'true' }
"#;

const TABLES: &str = "
CREATE TABLE note (id int PRIMARY KEY, body text NOT NULL);
CREATE TABLE later (id int PRIMARY KEY, body text NOT NULL);
INSERT INTO note SELECT n, repeat('a note ', n % 50) FROM generate_series(1, 3000) AS n;
INSERT INTO later SELECT n, repeat('later ', n % 50) FROM generate_series(1, 500) AS n;
";

/// A session that says what it accepts, and all that it heard up to its first message of this type.
async fn heard(app: &App, accept: &Value, cursor: Option<&str>, last: &str) -> (Raw, Vec<String>) {
    let mut raw = Raw::open(app).await;
    let mut connect = Raw::connect_from(&App::token("ann"), cursor);
    if !accept.is_null() {
        connect["accept"] = accept.clone();
    }
    raw.say(&connect).await;
    let texts = until(&mut raw, last).await;
    (raw, texts)
}

async fn until(raw: &mut Raw, last: &str) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let text = raw.hear_text().await.unwrap();
        let message: Value = serde_json::from_str(&text).unwrap();
        // A cursor that moves on by itself may come at any time.
        let says = message["type"] != "tx" || message["changes"] != json!([]);
        texts.extend(says.then_some(text));
        if message["type"] == last && says {
            return texts;
        }
    }
}

/// What they say, but for where they stand and when it was.
fn said(texts: &[String]) -> Vec<Value> {
    let said = |text: &String| {
        let mut message: Value = serde_json::from_str(text).unwrap();
        let fields = message.as_object_mut().unwrap();
        fields.retain(|name, _| name != "cursor" && name != "commitTime");
        message
    };
    texts.iter().map(said).collect()
}

async fn counted(app: &App, name: &str) -> u64 {
    let text = http_get(app, "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_offers_deflate_is_told_the_same_in_fewer_bytes() {
    let app = App::with(DEFINITION, TABLES).await;
    let sql = app.database.connect().await;
    let offer = json!(["deflate"]);
    let (mut plain, texts) = heard(&app, &Value::Null, None, "ready").await;
    let connected: Value = serde_json::from_str(&texts[0]).unwrap();
    assert!(connected["features"].as_array().unwrap().contains(&json!("deflate")));
    assert_eq!(plain.deflated, 0);
    // A snapshot; two sessions that are sent it are told the same.
    let (mut one, other) =
        tokio::join!(heard(&app, &offer, None, "ready"), heard(&app, &offer, None, "ready"));
    for (raw, deflated) in [&one, &other] {
        assert_eq!(said(deflated), said(&texts));
        assert!(raw.deflated > 5, "{} of {}", raw.deflated, texts.len());
    }
    let before = counted(&app, "rowtide_deflated_text_bytes_total").await;
    let after = counted(&app, "rowtide_deflated_bytes_total").await;
    assert!(after > 0 && after * 3 < before, "{before} bytes became {after}");
    // A large commit, and a small one behind it.
    let deflated = one.0.deflated;
    sql.batch_execute("UPDATE note SET body = body || 'more' WHERE id <= 300").await.unwrap();
    let large = until(&mut plain, "tx").await;
    assert_eq!(said(&until(&mut one.0, "tx").await), said(&large));
    assert_eq!(one.0.deflated, deflated + 1);
    sql.batch_execute("UPDATE note SET body = 'small' WHERE id = 1").await.unwrap();
    let small = until(&mut plain, "tx").await;
    assert_eq!(said(&until(&mut one.0, "tx").await), said(&small));
    assert_eq!(one.0.deflated, deflated + 1, "what is small is text");
    // A subscription brings many rows at once.
    let subscribe = json!({ "type": "subscribe", "id": 1, "query": "later" });
    for raw in [&mut plain, &mut one.0] {
        raw.say(&subscribe).await;
    }
    let rows = until(&mut plain, "tx").await;
    assert_eq!(said(&until(&mut one.0, "tx").await), said(&rows));
    assert_eq!(one.0.deflated, deflated + 2);
    // Who comes back is told what it has missed.
    let ready: Value = serde_json::from_str(texts.last().unwrap()).unwrap();
    let cursor = ready["cursor"].as_str();
    let (resumed, missed) = heard(&app, &offer, cursor, "ready").await;
    let (as_text, told) = heard(&app, &Value::Null, cursor, "ready").await;
    assert_eq!(said(&missed), said(&told));
    assert!(missed[0].contains(r#""mode":"resume""#), "{}", missed[0]);
    assert!(resumed.deflated > 0 && as_text.deflated == 0);
    assert_eq!(plain.deflated, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_are_not_known_are_passed_over_and_what_is_no_list_is_refused() {
    let app = App::with(DEFINITION, TABLES).await;
    for accept in [json!([]), json!(["br", "Deflate"])] {
        let (raw, _) = heard(&app, &accept, None, "ready").await;
        assert_eq!(raw.deflated, 0, "{accept}");
    }
    let (raw, _) = heard(&app, &json!(["later", "deflate"]), None, "ready").await;
    assert!(raw.deflated > 0);
    for accept in [json!("deflate"), json!([1]), json!({ "deflate": true })] {
        let mut raw = Raw::open(&app).await;
        let mut connect = Raw::connect(&App::token("ann"));
        connect["accept"] = accept.clone();
        raw.say(&connect).await;
        raw.ending().await.assert(&accept.to_string(), "bad_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_takes_deflated_frames() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut client = app.client("ann");
    super::live(&mut client).await;
    assert_eq!(client.replica().count("note"), 3_000);
    let deflated =
        || async { counted(&app, "rowtide_deflated_bytes_total").await.ge(&1).then_some(()) };
    eventually("frames are deflated", deflated).await;
}
