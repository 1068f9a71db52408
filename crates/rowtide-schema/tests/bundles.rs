//! Bundles as they come: good ones, those that are none, and those that never end. Whatever one does, the next question
//! has its answer.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rowtide_schema::{Bundle, Scale, SchemaLimits, SchemaPool, SchemaQuestion, Unanswered};
use serde_json::{Value, json};

const DRAWING: &str = include_str!("drawing.js");

fn limits() -> SchemaLimits {
    SchemaLimits {
        load: Duration::from_millis(500),
        push: Duration::from_millis(200),
        document: Duration::from_millis(400),
        memory_bytes: 16 << 20,
        stack_bytes: 256 << 10,
        threads: 1,
        ..SchemaLimits::default()
    }
}

fn shape(text: &str) -> Value {
    json!({"id": "shape:a", "typeName": "shape", "position": {"x": 1}, "meta": {},
        "props": {"text": text, "points": [], "color": "red"}})
}

fn schema(version: u64) -> Value {
    json!({"schemaVersion": 2, "sequences": {"com.example.store": 1, "com.example.shape": version}})
}

async fn ask(pool: &SchemaPool, question: Value) -> Result<Value, Unanswered> {
    ask_for(pool, "a document", question).await
}

async fn ask_for(pool: &SchemaPool, asker: &str, question: Value) -> Result<Value, Unanswered> {
    let scale = match question["ask"].as_str() {
        Some("serves") => Scale::Schema,
        Some("push") => Scale::Push,
        _ => Scale::Document,
    };
    let question = SchemaQuestion { text: question.to_string().into(), scale };
    let answer = pool.ask(&asker.into(), question).await?;
    Ok(serde_json::from_slice(&answer).unwrap())
}

async fn validate(pool: &SchemaPool, record: Value) -> Result<Value, Unanswered> {
    ask(pool, json!({"ask": "push", "records": [record], "from": null, "to": []})).await
}

fn pool(source: &str) -> SchemaPool {
    let bundle = Bundle::load(source, &limits()).unwrap();
    SchemaPool::start(bundle, &limits()).unwrap()
}

#[test]
fn a_bundle_describes_itself() {
    let bundle = Bundle::load(DRAWING, &limits()).unwrap();
    let said: Value = serde_json::from_str(bundle.description()).unwrap();
    assert_eq!(said["schema"], schema(3));
    assert_eq!(said["types"]["shape"], "document");
    assert_eq!(said["records"][1]["id"], "page:page");
}

#[test]
fn what_is_no_bundle_says_why() {
    let drawing = |from: &str, to: &str| {
        assert!(DRAWING.contains(from), "{from}");
        DRAWING.replace(from, to)
    };
    for (source, expected) in [
        ("const".to_owned(), "(at bundle:1"),
        ("\u{1}PK".to_owned(), "(at bundle:1"),
        ("import 'fs';".to_owned(), "module"),
        ("throw new Error('not today')".to_owned(), "not today (at"),
        ("await new Promise(() => {})".to_owned(), "waits"),
        ("for (;;);".to_owned(), "more time"),
        ("'x'.repeat(1 << 28)".to_owned(), "out of memory"),
        ("(function f() { f(); })()".to_owned(), "call stack"),
        ("require('fs')".to_owned(), "require"),
        (drawing("export const validate", "const validate"), "function `validate`"),
        (drawing("Page 1\"", "Page 1\", ...null.x"), "null"),
        (drawing("name: \"\"", "name: 1"), "a document has a name"),
        (drawing("camera: \"session\"", "camera: \"other\""), "scope for camera"),
        (
            drawing("export const serialize = () => (", "export const serialize = () => null && ("),
            "no schema",
        ),
        (drawing("return true;", "return false;"), "its own schema"),
    ] {
        let error = Bundle::load(source.clone(), &limits()).unwrap_err().to_string();
        assert!(error.contains(expected), "{source}: {error}");
    }
    let small = SchemaLimits { bundle_bytes: 10, ..limits() };
    assert!(Bundle::load(DRAWING, &small).unwrap_err().to_string().contains("may have 10"));
}

#[tokio::test]
async fn records_are_validated_and_brought_up_and_down() {
    let pool = pool(DRAWING);
    assert_eq!(validate(&pool, shape("a")).await, Ok(json!({"records": null, "to": []})));
    let wrong = json!({"id": "shape:a", "typeName": "shape", "props": {"text": 1}});
    let invalid = json!({"invalid": "a shape has text and points"});
    assert_eq!(validate(&pool, wrong).await, Ok(invalid));
    // It knows nothing of the color, which stays.
    let older = |x: u64| {
        json!({"id": "shape:a", "typeName": "shape", "x": x, "meta": {},
            "props": {"text": "a", "points": []}})
    };
    let mut moved = shape("a");
    moved["position"]["x"] = json!(5);
    let asked = json!({"record": older(5), "before": older(1), "own": shape("a")});
    let question = json!({"ask": "push", "records": [asked], "from": schema(1),
        "to": [schema(1), schema(2)]});
    let mut second = older(5);
    second["props"]["color"] = json!("red");
    let expected = json!({"records": [moved], "to": [[older(5)], [second]]});
    assert_eq!(ask(&pool, question).await, Ok(expected));
    let question = json!({"ask": "document", "from": schema(1), "records": [older(1)]});
    let mut first = shape("a");
    first["props"]["color"] = json!("black");
    assert_eq!(ask(&pool, question).await, Ok(json!({"records": [first]})));
    let edition =
        |version| json!({"ask": "edition", "schema": schema(version), "records": [shape("a")]});
    assert_eq!(ask(&pool, edition(1)).await, Ok(json!({"records": [older(1)]})));
}

#[test]
fn what_schemas_use_besides_the_language_is_there() {
    let checks = r#"
        const same = (a, b) => { if (a !== b) throw new Error(`${a} is not ${b}`); };
        const url = new URL(" HTTPS://me@Example.com:8080/a/b?x=1&y=a%20b#c");
        same(`${url.protocol} ${url.hostname} ${url.port} ${url.pathname}`, "https: example.com 8080 /a/b");
        same(url.searchParams.get("y"), "a b");
        url.searchParams.delete("x");
        same(url.href, "https://me@example.com:8080/a/b?y=a%20b#c");
        same(new URL("java\nscript:alert(1)").protocol, "javascript:");
        same(new URL("./c", "http://example.com/a/b").pathname, "/a/./c");
        same(new URL("data:text/plain,x").pathname, "text/plain,x");
        for (const wrong of ["", "x", "//a", "http://", "https:///a"]) {
            let thrown = false;
            try { new URL(wrong); } catch { thrown = true; }
            if (!thrown) throw new Error(`${wrong} is an address`);
        }
        same(crypto.getRandomValues(new Uint8Array(4)).length, 4);
        const given = { a: [1] };
        same(structuredClone(given).a !== given.a, true);
        for (const name of ["process", "require", "fetch", "std", "os", "Deno", "window", "document"]) {
            same(typeof globalThis[name], "undefined");
        }
    "#;
    Bundle::load(format!("{DRAWING}{checks}"), &limits()).unwrap();
}

#[tokio::test]
async fn what_cannot_be_brought_down_is_refused() {
    let pool = pool(&DRAWING.replace("VERSION = 3", "VERSION = 4"));
    for (version, refused) in [(3, true), (4, false)] {
        let question = json!({"ask": "edition", "schema": schema(version), "records": []});
        let answer = ask(&pool, question).await.unwrap();
        assert_eq!(answer["refused"] == true, refused, "{version}");
        let answer = ask(&pool, json!({"ask": "serves", "schema": schema(version)})).await;
        assert_eq!(answer, Ok(json!({"serves": !refused})), "{version}");
    }
    let to = [schema(3)];
    let question = json!({"ask": "push", "records": [shape("a")], "from": null, "to": to});
    assert_eq!(ask(&pool, question).await.unwrap()["to"], json!([null]));
}

#[tokio::test]
async fn whatever_is_too_much_the_next_question_has_its_answer() {
    let pool = pool(DRAWING);
    for (text, expected) in
        [("endless", "more time than it may"), ("memory", "out of memory"), ("deep", "call stack")]
    {
        let error = validate(&pool, shape(text)).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{text}: {error}");
        assert!(validate(&pool, shape("a")).await.is_ok(), "after {text}");
    }
    let thrown = validate(&pool, shape("throws")).await;
    assert_eq!(thrown, Ok(json!({"invalid": "anything"})));
    let huge = "x".repeat(32 << 20);
    assert!(matches!(validate(&pool, shape(&huge)).await, Err(Unanswered::Failed(_))));
    let rubbish = SchemaQuestion { text: "[".into(), scale: Scale::Push };
    assert!(matches!(pool.ask(&"a document".into(), rubbish).await, Err(Unanswered::Failed(_))));
    assert!(validate(&pool, shape("a")).await.is_ok());
}

#[tokio::test]
async fn no_record_leaves_anything_behind_for_the_next() {
    let pool = pool(DRAWING);
    assert!(validate(&pool, shape("pollutes")).await.unwrap()["invalid"].is_string());
    let junk =
        r#"{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"toString":1}"#;
    let mut record = shape("a");
    record["props"]["junk"] = serde_json::from_str(junk).unwrap();
    assert_eq!(validate(&pool, record.clone()).await, Ok(json!({"records": null, "to": []})));
    record["props"]["junk"] = json!({});
    assert!(validate(&pool, record).await.unwrap()["invalid"].is_null());
}

#[tokio::test]
async fn migrations_that_give_junk_are_told_from_those_that_fail() {
    for junk in ["null", "[]", "({})", "({ ...record, id: 'shape:b' })", "'x'"] {
        let with = format!("if (schema.sequences['com.example.shape'] < VERSION) return {junk};");
        let source = DRAWING.replace(
            "record, schema, direction) => {",
            &format!("record, schema, direction) => {{ {with}"),
        );
        let pool = pool(&source);
        let asked = json!({"record": shape("a"), "before": null, "own": null});
        let question = json!({"ask": "push", "records": [asked], "from": schema(1), "to": []});
        assert!(ask(&pool, question).await.unwrap()["invalid"].is_string(), "{junk}");
    }
    let source = DRAWING.replace("export const migrateDocument = (records, schema) =>", "export const migrateDocument = (records, schema) => schema.sequences['com.example.shape'] < VERSION ? 5 :");
    let question = json!({"ask": "document", "from": schema(1), "records": []});
    assert!(ask(&pool(&source), question).await.unwrap()["failed"].is_string());
}

#[tokio::test]
async fn records_that_are_not_valid_are_named() {
    let pool = pool(DRAWING);
    let wrong = json!({"id": "shape:w", "typeName": "shape", "props": {"text": 1}});
    let question = json!({"ask": "valid", "records": [shape("a"), wrong, shape("b")]});
    assert_eq!(ask(&pool, question).await, Ok(json!({"invalid": ["shape:w"]})));
}

#[tokio::test]
async fn whether_a_schema_is_served_is_asked_once() {
    // It says so of the first schema that a context is asked about, and of no other.
    let once =
        "let times = 0; export const serves = () => times++ === 0; const other = (schema) => {";
    let pool = pool(&DRAWING.replace("export const serves = (schema) => {", once));
    let serves = async |version| {
        ask(&pool, json!({"ask": "serves", "schema": schema(version)})).await.unwrap()["serves"]
            == true
    };
    assert!(serves(1).await && !serves(2).await);
    assert!(serves(1).await, "the answer is kept");
    let throws = DRAWING.replace("for (let n = versionOf(schema) + 1; n <= VERSION; n++) if", "if (versionOf(schema) === 2) throw 0; for (let n = versionOf(schema) + 1; n <= VERSION; n++) if");
    let question = json!({"ask": "serves", "schema": schema(2)});
    assert_eq!(ask(&self::pool(&throws), question).await, Ok(json!({"serves": false})));
}

/// Has a task ask, and lets it come as far as the queue.
async fn begin(
    pool: &SchemaPool,
    asker: &'static str,
    question: Value,
    answered: &Arc<AtomicUsize>,
) {
    let (pool, answered) = (pool.clone(), Arc::clone(answered));
    tokio::spawn(async move {
        ask_for(&pool, asker, question).await.ok();
        answered.fetch_add(1, Ordering::Relaxed);
    });
    tokio::task::yield_now().await;
}

fn push(text: &str) -> Value {
    json!({"ask": "push", "records": [shape(text)], "from": null, "to": []})
}

#[tokio::test]
async fn a_document_that_asks_much_holds_up_no_other() {
    let (pool, answered) = (pool(DRAWING), Arc::default());
    for _ in 0..20 {
        begin(&pool, "busy", push("slow"), &answered).await;
    }
    let bystander = ask_for(&pool, "bystander", push("a")).await;
    assert_eq!(bystander, Ok(json!({"records": null, "to": []})));
    // What a busy thread of the test may let pass is a part of them.
    assert!(answered.load(Ordering::Relaxed) < 15, "it has waited for all of them");
}

#[tokio::test]
async fn questions_about_whole_documents_leave_a_thread_for_pushes() {
    let limits = SchemaLimits { threads: 2, document: Duration::from_secs(2), ..limits() };
    let pool = SchemaPool::start(Bundle::load(DRAWING, &limits).unwrap(), &limits).unwrap();
    let answered = Arc::default();
    for asker in ["one", "another"] {
        let question = json!({"ask": "valid", "records": [shape("endless")]});
        begin(&pool, asker, question, &answered).await;
    }
    let bystander = ask_for(&pool, "bystander", push("a")).await;
    assert_eq!(bystander, Ok(json!({"records": null, "to": []})));
    assert_eq!(answered.load(Ordering::Relaxed), 0, "it has waited for one of them");
}
