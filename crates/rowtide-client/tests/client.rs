//! The client against a server whose messages the test writes, over real WebSockets and real files.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test")]

#[path = "../examples/files.rs"]
#[expect(dead_code, reason = "its `main` is not run")]
mod files;
mod played;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use played::{Dir, PlayedServer, PlayedSession, connected, note, ready};
use rowtide_client::{
    Acked, Client, Event, FileStorage, MutateError, Outcome, Record, RefusedSubscription,
    RowChange, Status, Storage, StorageError, SubscribeError, row_of,
};
use rowtide_protocol::TextFrame;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// The next event that `wanted` takes.
async fn event<T>(client: &mut Client, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = wanted(client.next().await.expect("the client goes on")) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time")
}

async fn acked(client: &mut Client) -> Acked {
    event(client, |event| match event {
        Event::Acked(acked) => Some(acked),
        _ => None,
    })
    .await
}

async fn live(client: &mut Client) {
    event(client, |event| (event == Event::Status(Status::Live)).then_some(())).await;
}

fn applied(id: u64) -> Acked {
    Acked { id, outcome: Outcome::Applied, keys: BTreeMap::new() }
}

fn rejected(id: u64, code: &str) -> Acked {
    let outcome = Outcome::Rejected { code: code.to_owned(), message: "no".to_owned() };
    Acked { id, outcome, keys: BTreeMap::new() }
}

fn texts(client: &Client) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Note {
        text: String,
    }
    let shown = client.shown();
    let mut texts: Vec<String> =
        shown.typed("note").map(|note: Result<Note, _>| note.unwrap().text).collect();
    texts.sort();
    texts
}

/// Accepts a connection and sends no rows, only the acknowledgement of all mutations up to `last`.
async fn welcome(server: &mut PlayedServer, last: u64, rejected: Value) -> (PlayedSession, Value) {
    let (mut session, connect) = server.session().await;
    session.say(connected("ann", last, rejected)).await;
    session.say(ready("1")).await;
    (session, connect)
}

#[tokio::test]
async fn a_mutation_shows_at_once_and_is_sent_until_it_is_acknowledged() {
    let mut server = PlayedServer::start().await;
    let mut client = Client::start(server.options());
    assert_eq!(client.mutate(note(1, "before")), Ok(1));
    let (mut session, connect) = welcome(&mut server, 0, json!([])).await;
    assert_eq!((&connect["settled"], &connect["cursor"]), (&Value::Null, &Value::Null));
    live(&mut client).await;
    assert_eq!(client.mutate(note(2, "after")), Ok(2));
    assert_eq!(texts(&client), ["after", "before"]);
    assert_eq!(client.replica().count("note"), 0);
    assert_eq!((session.mutation().await, session.mutation().await), (1, 2));
    assert_eq!(client.status().pending, 2);
    // The server applies the first, but the connection is lost before the acknowledgement.
    drop(session);
    let (mut session, connect) = welcome(&mut server, 1, json!([])).await;
    assert_eq!(connect["cursor"], "1");
    assert_eq!(acked(&mut client).await, applied(1));
    assert_eq!(session.mutation().await, 2);
    session
        .say(json!({"type": "tx", "cursor": "2", "ack": 2, "changes": [
        {"op": "put", "table": "note", "row": {"id": 2, "text": "AFTER"}}]}))
        .await;
    assert_eq!(acked(&mut client).await, applied(2));
    assert_eq!(texts(&client), ["AFTER"]);
    let status = client.status();
    assert_eq!((status.connection, status.pending, status.last_error), (Status::Live, 0, None));
}

/// The binary frame of a message.
fn deflated(message: &Value) -> Message {
    let frame = TextFrame::new(message.to_string().into());
    while !frame.deflate_a_stretch() {}
    Message::Binary(frame.deflated().unwrap().clone())
}

#[tokio::test]
async fn a_deflated_frame_is_a_message_like_any_other() {
    let mut server = PlayedServer::start().await;
    let mut client = Client::start(server.options());
    let (mut session, connect) = server.session().await;
    assert_eq!(connect["accept"], json!(["deflate"]));
    session.say(connected("ann", 0, json!([]))).await;
    let rows: Vec<Value> = (1..=200).map(|id| json!({"id": id, "text": "é".repeat(20)})).collect();
    let snapshot = json!({"type": "snapshot", "table": "note", "rows": rows});
    session.send(deflated(&snapshot)).await;
    session.say(ready("1")).await;
    live(&mut client).await;
    assert_eq!(client.replica().count("note"), 200);
    assert!(texts(&client).iter().all(|text| *text == "é".repeat(20)));
}

#[tokio::test]
async fn behind_a_broken_frame_the_client_comes_back_and_asks_for_text() {
    let mut server = PlayedServer::start().await;
    let mut client = Client::start(server.options());
    let (mut session, _) = server.session().await;
    session.say(connected("ann", 0, json!([]))).await;
    session.send(Message::Binary("no deflate".into())).await;
    session.say(ready("never heard")).await;
    session.until_closed().await;
    let (_session, connect) = welcome(&mut server, 0, json!([])).await;
    assert_eq!((&connect["accept"], &connect["cursor"]), (&Value::Null, &Value::Null));
    live(&mut client).await;
}

#[tokio::test]
async fn a_rejected_mutation_is_no_longer_shown() {
    let mut server = PlayedServer::start().await;
    let mut client = Client::start(server.options());
    let (mut session, _) = welcome(&mut server, 0, json!([])).await;
    client.mutate(note(1, "a")).unwrap();
    session.mutation().await;
    let rejection = json!({"type": "reject", "id": 1, "code": "max_notes", "message": "no"});
    session.say(rejection).await;
    assert_eq!(acked(&mut client).await, rejected(1, "max_notes"));
    assert!(texts(&client).is_empty());
}

#[tokio::test]
async fn a_queue_in_a_file_outlives_its_client() {
    let dir = Dir::new();
    let mut server = PlayedServer::start().await;
    let storage = FileStorage::open(dir.queue()).unwrap();
    let mut client = Client::open(server.options(), storage).await.unwrap();
    let (mut session, connect) = welcome(&mut server, 0, json!([])).await;
    live(&mut client).await;
    client.mutate(note(1, "a")).unwrap();
    session.mutation().await;
    client.mutate(note(2, "b")).unwrap();
    client.mutate(note(3, "c")).unwrap();
    client.close().await.unwrap();
    drop(session);

    let mut options = server.options();
    options.client_id = "another-id".to_owned();
    let storage = FileStorage::open(dir.queue()).unwrap();
    let mut client = Client::open(options, storage).await.unwrap();
    assert_eq!(texts(&client), ["a", "b", "c"], "before there is a connection");
    let told = json!([{"id": 1, "code": "forbidden", "message": "no"}]);
    let (mut session, again) = welcome(&mut server, 1, told).await;
    assert_eq!(again["clientId"], connect["clientId"]);
    assert_eq!((session.mutation().await, session.mutation().await), (2, 3));
    assert_eq!(acked(&mut client).await, rejected(1, "forbidden"));
    session.say(json!({"type": "tx", "cursor": "2", "ack": 3, "changes": []})).await;
    assert_eq!(acked(&mut client).await, applied(2));
    assert_eq!(acked(&mut client).await, applied(3));
    client.close().await.unwrap();

    let storage = FileStorage::open(dir.queue()).unwrap();
    let client = Client::open(server.options(), storage).await.unwrap();
    assert_eq!(client.status().pending, 0);
    let (_, connect) = server.session().await;
    assert_eq!(connect["settled"], 3);
}

#[tokio::test]
async fn a_rejection_that_the_owner_has_not_received_is_reported_again_after_a_restart() {
    let dir = Dir::new();
    let mut server = PlayedServer::start().await;
    let storage = FileStorage::open(dir.queue()).unwrap();
    let client = Client::open(server.options(), storage).await.unwrap();
    let (mut session, _) = welcome(&mut server, 0, json!([])).await;
    client.mutate(note(1, "a")).unwrap();
    session.mutation().await;
    session.say(json!({"type": "reject", "id": 1, "code": "forbidden", "message": "no"})).await;
    session.say(json!({"type": "tx", "cursor": "2", "ack": 1, "changes": []})).await;
    while client.status().pending > 0 {
        tokio::task::yield_now().await;
    }
    client.close().await.unwrap();
    let storage = FileStorage::open(dir.queue()).unwrap();
    let mut client = Client::open(server.options(), storage).await.unwrap();
    let told = json!([{"id": 1, "code": "forbidden", "message": "no"}]);
    let (_session, connect) = welcome(&mut server, 1, told).await;
    assert_eq!(connect["settled"], Value::Null);
    assert_eq!(acked(&mut client).await, rejected(1, "forbidden"));
}

#[tokio::test]
async fn a_client_id_that_was_removed_takes_no_mutation_with_it() {
    let mut server = PlayedServer::start().await;
    let mut client = Client::start(server.options());
    let (mut session, connect) = welcome(&mut server, 0, json!([])).await;
    client.mutate(note(1, "one")).unwrap();
    session.mutation().await;
    session.say(json!({"type": "tx", "cursor": "2", "changes": [], "ack": 1})).await;
    acked(&mut client).await;
    client.mutate(note(2, "two")).unwrap();
    session.mutation().await;
    drop(session);
    let (mut session, again) = server.session().await;
    assert_eq!((&again["clientId"], &again["acked"]), (&connect["clientId"], &json!(1)));
    session.say(json!({"type": "error", "code": "forbidden", "message": "removed"})).await;
    drop(session);
    let (mut session, anew) = server.session().await;
    assert_ne!(anew["clientId"], connect["clientId"]);
    assert_eq!(anew["acked"].as_u64().unwrap_or(0), 0);
    session.say(connected("ann", 0, json!([]))).await;
    session.say(ready("3")).await;
    assert_eq!(session.mutation().await, 1);
    session.say(json!({"type": "tx", "cursor": "4", "changes": [], "ack": 1})).await;
    assert!(matches!(acked(&mut client).await, Acked { id: 2, outcome: Outcome::Applied, .. }));
}

#[tokio::test]
async fn another_user_begins_anew_under_another_client_id() {
    let mut server = PlayedServer::start().await;
    let mut client = Client::start(server.options());
    let (mut session, connect) = welcome(&mut server, 0, json!([])).await;
    client.mutate(note(1, "ann's")).unwrap();
    session.mutation().await;
    drop(session);
    let (mut session, _) = server.session().await;
    session.say(json!({"type": "error", "code": "forbidden", "message": "not yours"})).await;
    drop(session);
    let (mut session, other) = server.session().await;
    assert_ne!(other["clientId"], connect["clientId"]);
    session.say(connected("bob", 0, json!([]))).await;
    drop(session);
    let outcome = acked(&mut client).await;
    assert!(matches!(outcome, Acked { id: 1, outcome: Outcome::Rejected { .. }, .. }));
    assert!(texts(&client).is_empty());
    client.mutate(note(2, "bob's")).unwrap();
    let (mut session, again) = server.session().await;
    assert_ne!(again["clientId"], other["clientId"]);
    assert_eq!(again["cursor"], Value::Null);
    session.say(connected("bob", 0, json!([]))).await;
    session.say(ready("1")).await;
    assert_eq!(session.mutation().await, 1);
    assert_eq!(texts(&client), ["bob's"]);
    // The same happens if the server accepts the id for yet another user.
    drop(session);
    let (mut session, _) = server.session().await;
    session.say(connected("cyn", 0, json!([]))).await;
    acked(&mut client).await;
    let (_, last) = server.session().await;
    assert_ne!(last["clientId"], again["clientId"]);
}

/// A storage whose disk can be full.
#[derive(Clone, Default)]
struct Full(Arc<Mutex<(bool, Vec<Record>)>>);

impl Storage for Full {
    fn load(&mut self) -> Result<Vec<Record>, StorageError> {
        Ok(self.0.lock().unwrap().1.clone())
    }

    fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        let mut disk = self.0.lock().unwrap();
        if disk.0 {
            return Err(StorageError::Other("the disk is full".into()));
        }
        disk.1.extend_from_slice(records);
        Ok(())
    }

    fn replace(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.0.lock().unwrap().1 = records.to_vec();
        Ok(())
    }
}

#[tokio::test]
async fn a_mutation_is_not_sent_before_it_can_be_stored() {
    let mut server = PlayedServer::start().await;
    let disk = Full::default();
    let mut client = Client::open(server.options(), disk.clone()).await.unwrap();
    let (mut session, _) = welcome(&mut server, 0, json!([])).await;
    live(&mut client).await;
    disk.0.lock().unwrap().0 = true;
    client.mutate(note(1, "a")).unwrap();
    let why = event(&mut client, |event| match event {
        Event::NotStored { reason } => Some(reason),
        _ => None,
    });
    assert_eq!(why.await, "the disk is full");
    let reason = "the disk is full".to_owned();
    assert_eq!(client.status().storage_error, Some(reason.clone()));
    assert_eq!(client.mutate(note(2, "b")), Err(MutateError::Storage(reason)));
    // The server's changes still arrive.
    session
        .say(json!({"type": "tx", "cursor": "2", "changes": [
        {"op": "put", "table": "note", "row": {"id": 9, "text": "z"}}]}))
        .await;
    event(&mut client, |event| matches!(event, Event::Changes(_)).then_some(())).await;
    assert_eq!(texts(&client), ["a", "z"]);
    disk.0.lock().unwrap().0 = false;
    assert_eq!(session.mutation().await, 1);
    let stored = |record: &Record| matches!(record, Record::Mutation { id: 1, .. });
    assert_eq!(disk.0.lock().unwrap().1.iter().filter(|record| stored(record)).count(), 1);
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_queue_that_cannot_be_read_is_an_error() {
    let server = PlayedServer::start().await;
    let disk = Full::default();
    disk.0.lock().unwrap().1.push(Record::Acked { id: 3 });
    let error = Client::open(server.options(), disk).await.err().unwrap();
    assert!(matches!(error, StorageError::Corrupt(_)), "{error}");
}

#[tokio::test]
async fn an_owner_that_receives_no_events_can_still_close() {
    let dir = Dir::new();
    let mut server = PlayedServer::start().await;
    let storage = FileStorage::open(dir.queue()).unwrap();
    let client = Client::open(server.options(), storage).await.unwrap();
    let (mut session, _) = welcome(&mut server, 0, json!([])).await;
    for id in 0..2_000 {
        let row = json!({"id": id, "text": "a"});
        let change = json!({"op": "put", "table": "note", "row": row});
        session.say(json!({"type": "tx", "cursor": "2", "changes": [change]})).await;
    }
    client.mutate(note(1, "b")).unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(60), client.close());
    closed.await.expect("in time").unwrap();
    let stored = FileStorage::open(dir.queue()).unwrap().load().unwrap();
    assert!(stored.iter().any(|record| matches!(record, Record::Mutation { id: 1, .. })));
}

#[tokio::test]
async fn a_client_that_has_stopped_takes_no_more_mutations() {
    let mut server = PlayedServer::start().await;
    let mut client = Client::start(server.options());
    let (mut session, _) = server.session().await;
    session.say(json!({"type": "error", "code": "client_too_old", "message": "reload"})).await;
    let stopped = |event| matches!(event, Event::Stopped(_)).then_some(());
    event(&mut client, stopped).await;
    assert_eq!(client.next().await, None);
    assert_eq!(client.mutate(note(1, "a")), Err(MutateError::Stopped));
    assert!(client.status().stopped);
}

#[tokio::test]
async fn subscriptions_are_asked_for_over_every_connection_and_what_becomes_of_them_is_told() {
    let with = |mode: &str| {
        let mut with = connected("ann", 0, json!([]));
        (with["features"], with["mode"]) = (json!(["subscriptions"]), json!(mode));
        with
    };
    let params = |channel: u64| row_of(&json!({ "channel": channel })).unwrap();
    let mut server = PlayedServer::start().await;
    let mut client = Client::start(server.options());
    let (mut session, _) = server.session().await;
    session.say(with("snapshot")).await;
    session.say(ready("1")).await;
    live(&mut client).await;
    let (first, wrong) = (client.subscribe("channel", params(7)), client.subscribe("x", params(7)));
    let (first, wrong) = (first.unwrap(), wrong.unwrap());
    let asked = session.next().await;
    let named = json!({"id": first, "query": "channel", "params": {"channel": 7}});
    assert_eq!((&asked["type"], &asked["id"]), (&json!("subscribe"), &named["id"]));
    assert_eq!((&asked["query"], &asked["params"]), (&named["query"], &named["params"]));
    assert_eq!(session.next().await["id"], wrong);
    let refusal = json!({"type": "subscription_error", "id": wrong, "code": "bad_request",
        "message": "there is no query `x`"});
    session.say(refusal).await;
    let change = json!({"op": "put", "table": "note", "row": {"id": 1, "text": "there"}});
    let tx = json!({"type": "tx", "cursor": "2", "changes": [change], "subscribed": [first]});
    session.say(tx).await;
    let refused = event(&mut client, |event| match event {
        Event::SubscriptionRefused(refused) => Some(refused),
        _ => None,
    });
    let (code, message) = ("bad_request".to_owned(), "there is no query `x`".to_owned());
    assert_eq!(refused.await, RefusedSubscription { id: wrong, code, message });
    event(&mut client, |event| (event == Event::Subscribed(first)).then_some(())).await;
    assert_eq!(texts(&client), ["there"]);
    drop(session);
    let (mut session, connect) = server.session().await;
    assert_eq!((&connect["cursor"], &connect["subscriptions"]), (&json!("2"), &json!([named])));
    session.say(with("resume")).await;
    session.say(ready("3")).await;
    client.unsubscribe(first);
    assert_eq!(session.next().await, json!({"type": "unsubscribe", "id": first}));
    let change = json!({"op": "delete", "table": "note", "row": {"id": 1}});
    let tx = json!({"type": "tx", "cursor": "4", "changes": [change], "unsubscribed": [first]});
    session.say(tx).await;
    event(&mut client, |event| matches!(event, Event::Changes(_)).then_some(())).await;
    assert!(texts(&client).is_empty() && !client.shown().is_subscribed(first));
    drop(session);
    let (mut session, connect) = server.session().await;
    assert_eq!((&connect["cursor"], &connect["subscriptions"]), (&json!("4"), &Value::Null));
    session.say(json!({"type": "error", "code": "client_too_old", "message": "reload"})).await;
    event(&mut client, |event| matches!(event, Event::Stopped(_)).then_some(())).await;
    assert_eq!(client.subscribe("channel", params(7)), Err(SubscribeError::Stopped));
}

/// Thousands of mutations, an owner who is slow now and then, a server that loses connections: the
/// events lead to what is shown, only so many mutations are under way, and the file does not grow
/// without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_mutations_are_acknowledged_in_order_whatever_the_owner_and_the_connection_do() {
    const COUNT: u64 = 3_000;
    let dir = Dir::new();
    let mut server = PlayedServer::start().await;
    let storage = FileStorage::open(dir.queue()).unwrap();
    let mut client = Client::open(server.options(), storage).await.unwrap();
    let playing = tokio::spawn(async move {
        let (mut last, mut rows) = (0, BTreeMap::new());
        while last < COUNT {
            let (mut session, _) = server.session().await;
            session.say(connected("ann", last, json!([]))).await;
            let all: Vec<&Value> = rows.values().collect();
            session.say(json!({"type": "snapshot", "table": "note", "rows": all})).await;
            session.say(ready("1")).await;
            let lost_at = (last + 1_100).min(COUNT);
            while last < lost_at {
                let mutation = session.next().await;
                last += 1;
                assert_eq!(mutation["id"], last);
                let row = mutation["ops"][0]["row"].clone();
                rows.insert(row["id"].as_u64(), row.clone());
                // The last mutation of a session is applied, but its acknowledgement is lost.
                if last < lost_at || last == COUNT {
                    let change = json!({"op": "put", "table": "note", "row": row});
                    let tx = json!({"type": "tx", "cursor": "2", "ack": last, "changes": [change]});
                    session.say(tx).await;
                }
            }
            if last == COUNT {
                session.until_closed().await;
            }
        }
    });
    let (mut mirror, mut next) = (BTreeMap::new(), 1);
    for id in 1..=COUNT {
        assert_eq!(client.mutate(note(id % 50, &id.to_string())), Ok(id));
    }
    while next <= COUNT {
        event(&mut client, |event| match event {
            Event::Changes(changes) => {
                for change in changes {
                    let RowChange::Put { row, .. } = change else { panic!("nothing is deleted") };
                    mirror.insert(row["id"].as_u64().unwrap(), row["text"].clone());
                }
                None
            }
            Event::Acked(acked) => {
                assert_eq!(acked, applied(next), "in order, each once");
                next += 1;
                Some(())
            }
            _ => None,
        })
        .await;
        if next % 500 == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let shown: BTreeMap<u64, Value> = {
        let shown = client.shown();
        let row = |row: &rowtide_client::Row| (row["id"].as_u64().unwrap(), row["text"].clone());
        shown.rows("note").map(row).collect()
    };
    assert_eq!(shown, mirror);
    client.close().await.unwrap();
    playing.await.unwrap();
    let size = std::fs::metadata(dir.queue()).unwrap().len();
    assert!(size < 300_000, "{size} bytes for a queue without mutations");
}

#[tokio::test]
async fn the_example_lists_files_and_takes_commands() {
    use std::io::{Result, Write};

    use tokio::io::{AsyncWriteExt, BufReader, duplex};
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    struct Said(UnboundedSender<String>);
    impl Write for Said {
        fn write(&mut self, text: &[u8]) -> Result<usize> {
            let _ = self.0.send(String::from_utf8_lossy(text).into_owned());
            Ok(text.len())
        }
        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    let mut server = PlayedServer::start().await;
    let client = Client::start(server.options());
    let (said, mut heard) = unbounded_channel::<String>();
    let (mut commands, read) = duplex(1024);
    let script = async {
        let mut until = async |end: &str| {
            let mut text = String::new();
            while !text.ends_with(end) {
                text += &heard.recv().await.unwrap();
            }
            text
        };
        let (mut session, _) = server.session().await;
        let mut welcome = connected("ann", 0, json!([]));
        welcome["tables"] = json!({"file": {"key": ["id"]}});
        session.say(welcome).await;
        let rows = json!([{"id": "f1", "name": "Plan"}, {"id": "f2", "name": "Map"}]);
        session.say(json!({"type": "snapshot", "table": "file", "rows": rows})).await;
        session.say(ready("1")).await;
        until("f2 Map\nf1 Plan\n\n").await;
        commands.write_all(b"f1 Plan B\n").await.unwrap();
        until("f1 Plan B (not sent yet)\n\n").await;
        assert_eq!(session.next().await["ops"][0]["row"], json!({"id": "f1", "name": "Plan B"}));
        let put = json!({"op": "put", "table": "file", "row": {"id": "f1", "name": "Plan B"}});
        session.say(json!({"type": "tx", "cursor": "2", "changes": [put], "ack": 1})).await;
        commands.write_all(b"f2\n").await.unwrap();
        assert_eq!(session.next().await["ops"][0]["op"], "delete");
        session
            .say(json!({"type": "reject", "id": 2, "code": "not_allowed", "message": "no"}))
            .await;
        until("rejected: no (not_allowed)\n").await;
        drop(commands);
    };
    let both =
        async { tokio::join!(files::list(client, BufReader::new(read), Said(said)), script) };
    let (listed, ()) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    listed.unwrap();
}
