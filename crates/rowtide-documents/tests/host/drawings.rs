//! Drawings whose records an application's schema knows, in a host: what is merged into a document is validated, and a name
//! that the schema says nothing of is not lost without a word.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rowtide_documents::host::{
    DocumentApplication, DocumentError, DocumentKind, Host, Joined, Outgoing, OutgoingFrames, Seat,
};
use rowtide_documents::place::{Access, Frame};
use rowtide_documents::tlsync::TlsyncLimits;
use rowtide_schema::{Bundle, SchemaLimits};
use serde_json::{Value, json};

use crate::kit::{DEADLINE, Dir, file, never_saving, records, settings};

const DRAWING: &str = include_str!("../../../rowtide-schema/tests/drawing.js");

/// A host of drawings. In them `odd` happens to whoever validates a shape that is red and says `quiet`.
async fn start(dir: &Dir, odd: &str) -> Host {
    let limits = SchemaLimits {
        push: Duration::from_millis(300),
        document: Duration::from_millis(300),
        ..SchemaLimits::default()
    };
    let of_text = "switch (props.text) {";
    let of_name = "if (record.typeName === \"document\")";
    let quiet = format!("if (props.text === 'quiet' && props.color === 'red') {odd} {of_text}");
    let endless = format!("while (record.name === 'endless'); {of_name}");
    assert!(DRAWING.contains(of_text) && DRAWING.contains(of_name));
    let source = DRAWING.replace(of_text, &quiet).replace(of_name, &endless);
    let bundle = Bundle::load(source, &limits).unwrap();
    let application = DocumentApplication::start(bundle, &limits).unwrap();
    let kind = DocumentKind::TlsyncOf(TlsyncLimits::default(), application);
    let kinds = BTreeMap::from([("file".to_owned(), kind)]);
    Host::start(settings(dir, never_saving()), kinds).await.unwrap()
}

/// A client of tlsync, which does not look at what it is told.
struct Tab {
    seat: Seat,
    outgoing: OutgoingFrames,
}

impl Tab {
    async fn come(host: &Host, version: u64) -> Tab {
        let Joined { seat, outgoing } = host.join(&file("a"), "tab", Access::Edit).await.unwrap();
        let mut tab = Tab { seat, outgoing };
        let sequences = json!({"com.example.store": 1, "com.example.shape": version});
        let connect = json!({"type": "connect", "connectRequestId": "r", "lastServerClock": -1,
            "protocolVersion": 8, "schema": {"schemaVersion": 2, "sequences": sequences}});
        tab.say(&connect, "connect").await;
        tab
    }

    async fn say(&mut self, message: &Value, until: &str) {
        self.seat.heard(Frame::Text(message.to_string().into())).await;
        let answered = tokio::time::timeout(DEADLINE, async {
            loop {
                match self.outgoing.next().await {
                    Outgoing::Frame(Frame::Text(text)) => {
                        if String::from_utf8_lossy(&text).contains(until) {
                            return;
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        answered.await.expect("it is answered");
    }

    async fn push(&mut self, diff: Value) {
        self.say(&json!({"type": "push", "clientClock": 1, "diff": diff}), "push_result").await;
    }
}

fn shape(id: &str) -> Value {
    json!({"id": id, "typeName": "shape", "meta": {}, "position": {"x": 0},
        "props": {"text": "", "points": [], "color": "black"}})
}

/// What is there after a shape was made red by a server that had not saved it, while another one has made it say `quiet`; and
/// what was kept aside.
async fn merged(odd: &str) -> (BTreeMap<String, Value>, String) {
    let dir = Dir::new().await;
    let host = start(&dir, odd).await;
    let mut tab = Tab::come(&host, 3).await;
    let both = [shape("shape:1"), shape("shape:2")];
    tab.push(json!({"shape:1": ["put", both[0]], "shape:2": ["put", both[1]]})).await;
    host.save(&file("a")).await.unwrap();
    tab.push(json!({"shape:1": ["patch", {"props": ["patch", {"color": ["put", "red"]}]}]})).await;
    tab.push(json!({"shape:2": ["patch", {"position": ["put", {"x": 7}]}]})).await;

    let after = dir.crash().await;
    let key = "test/documents/file/a/current";
    let mut object: Value = serde_json::from_slice(&after.objects.get(key).unwrap()).unwrap();
    for record in object["documents"].as_array_mut().unwrap() {
        if record["state"]["id"] == "shape:1" {
            record["state"]["props"]["text"] = json!("quiet");
        }
    }
    after.objects.put(key, object.to_string().as_bytes());
    after.objects.put("test/documents/file/a/writer", "0123456789abcdef".repeat(2).as_bytes());

    let host = start(&after, odd).await;
    let snapshot: Value = serde_json::from_str(&records(&host, &file("a")).await).unwrap();
    let documents = snapshot["documents"].as_array().unwrap().iter();
    let states = documents.map(|document| document["state"].clone());
    let states = states.map(|state| (state["id"].as_str().unwrap().to_owned(), state));
    let kept = after.path.join("objects/test/documents/file/a/unmerged");
    let kept = fs::read_dir(kept).into_iter().flatten();
    let kept = kept.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    (states.collect(), kept.collect())
}

#[tokio::test]
async fn what_would_not_be_valid_is_not_merged() {
    let (records, kept) = merged("throw new Error('red is loud');").await;
    let props = &records["shape:1"]["props"];
    assert_eq!((&props["text"], &props["color"]), (&json!("quiet"), &json!("black")));
    assert_eq!(records["shape:2"]["position"]["x"], 7, "what is valid is merged");
    assert!(kept.contains("red") && !kept.contains("position"), "{kept}");
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_not_merged_and_keeps_nobody_out() {
    let (records, kept) = merged("for (;;);").await;
    let props = &records["shape:1"]["props"];
    assert_eq!((&props["text"], &props["color"]), (&json!("quiet"), &json!("black")));
    assert_eq!(records["shape:2"]["position"]["x"], 0);
    assert!(kept.contains("red") && kept.contains("position"), "{kept}");
}

#[tokio::test]
async fn whoever_names_a_document_is_told_if_the_schema_does_not_answer() {
    let dir = Dir::new().await;
    let host = start(&dir, ";").await;
    let older = Tab::come(&host, 2).await;
    let unnamed = host.rename(&file("a"), "endless").await.unwrap_err();
    assert!(matches!(unnamed, DocumentError::Unnamed(_)), "{unnamed}");
    host.rename(&file("a"), "fine").await.unwrap();
    assert!(records(&host, &file("a")).await.contains("fine"));
    drop(older);
}
