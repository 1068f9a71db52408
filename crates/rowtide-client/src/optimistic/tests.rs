use serde_json::{Value, json};

use super::*;
use crate::row::row_of;

fn row(value: Value) -> Row {
    row_of(&value).unwrap()
}

fn note(id: u64, text: &str) -> Vec<Op> {
    vec![Op::insert("note", row(json!({"id": id, "text": text})))]
}

fn say(client: &mut Optimistic, message: Value) -> Step {
    client.apply(&ServerMessage::parse(&message.to_string()).unwrap()).unwrap()
}

fn connected(user: impl serde::Serialize, last: u64, rejected: Value) -> Value {
    json!({"type": "connected", "protocol": 1, "userId": user, "mode": "snapshot",
        "lastMutation": last, "refused": rejected, "tables": {"note": {"key": ["id"]}}})
}

fn ready(cursor: &str) -> Value {
    json!({"type": "ready", "cursor": cursor})
}

/// A client that is live, with no rows.
fn live() -> Optimistic {
    let mut client = Optimistic::new("client-1".to_owned());
    say(&mut client, connected("ann", 0, json!([])));
    say(&mut client, ready("1"));
    client
}

fn store(client: &mut Optimistic) -> Vec<Record> {
    let records: Vec<Record> = client.unstored().chain(client.outcomes()).cloned().collect();
    client.stored(usize::MAX);
    client.outcomes_stored(usize::MAX);
    records
}

fn numbers(client: &mut Optimistic) -> Vec<u64> {
    store(client);
    std::iter::from_fn(|| client.next_to_send(100)).map(|outgoing| outgoing.number).collect()
}

fn texts(client: &Optimistic) -> Vec<String> {
    let mut texts: Vec<String> =
        client.rows("note").map(|row| row["text"].as_str().unwrap().to_owned()).collect();
    texts.sort();
    texts
}

fn rejected(id: u64, code: &str) -> Acked {
    Acked { id, outcome: rejected_with(code, "no"), keys: BTreeMap::new() }
}

fn applied(id: u64) -> Acked {
    Acked { id, outcome: Outcome::Applied, keys: BTreeMap::new() }
}

#[test]
fn a_mutation_is_sent_once_it_is_durable_and_in_the_form_of_the_protocol() {
    let mut client = live();
    store(&mut client);
    client.mutate(note(1, "a")).unwrap();
    assert_eq!(client.next_to_send(100), None);
    store(&mut client);
    let sent = client.next_to_send(100).unwrap();
    let text = r#"{"type":"mutate","id":1,"ops":[{"op":"insert","table":"note","row":{"id":1,"text":"a"}}]}"#;
    assert_eq!(serde_json::to_string(&sent).unwrap(), text);
    assert_eq!(client.next_to_send(100), None, "once on each connection");
    client.disconnected();
    assert_eq!(client.next_to_send(100), None);
    say(&mut client, connected("ann", 0, json!([])));
    assert_eq!(numbers(&mut client), [1]);
}

#[test]
fn only_as_many_as_the_window_wait_for_their_acknowledgement() {
    let mut client = live();
    for id in 0..5 {
        client.mutate(note(id, "a")).unwrap();
    }
    store(&mut client);
    assert!(client.next_to_send(2).is_some() && client.next_to_send(2).is_some());
    assert_eq!(client.next_to_send(2), None);
    say(&mut client, json!({"type": "tx", "cursor": "2", "changes": [], "ack": 1}));
    assert_eq!(client.next_to_send(2).unwrap().number, 3);
    assert_eq!(client.next_to_send(2), None);
}

#[test]
fn a_mutation_stays_on_top_of_others_writes_until_its_effects_are_there() {
    let mut client = live();
    let (_, changes) = client.mutate(note(1, "mine")).unwrap();
    assert!(matches!(&changes[..], [RowChange::Put { row, .. }] if row["text"] == "mine"));
    numbers(&mut client);
    let theirs = json!({"op": "put", "table": "note", "row": {"id": 1, "text": "theirs", "n": 1}});
    let step = say(&mut client, json!({"type": "tx", "cursor": "2", "changes": [theirs]}));
    assert!(
        matches!(&step.changes[..], [RowChange::Put { row, .. }] if row["text"] == "mine" && row["n"] == 1)
    );
    assert!(client.is_pending("note", &row(json!({"id": 1}))));
    let server = json!({"op": "put", "table": "note", "row": {"id": 1, "text": "MINE", "n": 1}});
    let step =
        say(&mut client, json!({"type": "tx", "cursor": "3", "changes": [server], "ack": 1}));
    assert_eq!((texts(&client), step.acked), (vec!["MINE".to_owned()], vec![applied(1)]));
    assert!(!client.is_pending("note", &row(json!({"id": 1}))));
}

#[test]
fn a_rejected_mutation_is_reported_once_and_keeps_its_number() {
    let mut client = live();
    client.mutate(note(1, "a")).unwrap();
    client.mutate(note(2, "b")).unwrap();
    assert_eq!(numbers(&mut client), [1, 2]);
    let reject = json!({"type": "reject", "id": 2, "code": "forbidden", "message": "no"});
    assert_eq!(say(&mut client, reject.clone()).acked, [rejected(2, "forbidden")]);
    assert_eq!(texts(&client), ["a"]);
    assert_eq!(say(&mut client, reject), Step::default());
    client.disconnected();
    let again = json!([{"id": 2, "code": "forbidden", "message": "no"}]);
    // The server lost both when it crashed.
    assert_eq!(say(&mut client, connected("ann", 0, json!([]))).acked, []);
    assert_eq!(numbers(&mut client), [1, 2]);
    assert_eq!(say(&mut client, connected("ann", 2, again)).acked, [applied(1)]);
}

#[test]
fn a_mutation_that_was_applied_while_the_client_was_away_does_not_flicker() {
    let mut client = live();
    client.mutate(note(1, "a")).unwrap();
    client.mutate(note(2, "b")).unwrap();
    numbers(&mut client);
    client.disconnected();
    let told = json!([{"id": 2, "code": "max_notes", "message": "no"}]);
    let step = say(&mut client, connected("ann", 2, told));
    assert_eq!(step.acked, [applied(1), rejected(2, "max_notes")]);
    assert_eq!(texts(&client), ["a"], "still shown");
    assert_eq!(client.pending().count(), 0);
    let rows = json!([{"id": 1, "text": "A"}]);
    say(&mut client, json!({"type": "snapshot", "table": "note", "rows": rows}));
    assert_eq!(texts(&client), ["a"]);
    let step = say(&mut client, ready("2"));
    assert_eq!((texts(&client), step.changes.len()), (vec!["A".to_owned()], 1));
}

#[test]
fn pending_mutations_are_shown_after_a_restart_without_a_server() {
    let mut client = live();
    client.mutate(note(1, "a")).unwrap();
    let records = store(&mut client);
    let client = Optimistic::restore(&records).unwrap().unwrap();
    assert_eq!(texts(&client), ["a"]);
    assert_eq!((client.user_id(), client.client_id()), (Some("ann"), "client-1"));
    let compact = Optimistic::restore(&client.records()).unwrap().unwrap();
    assert_eq!((texts(&compact), compact.records()), (texts(&client), client.records()));
}

#[test]
fn mutations_made_before_the_keys_are_known_are_shown_once_they_are() {
    let mut client = Optimistic::new("client-1".to_owned());
    assert_eq!(client.mutate(note(1, "a")).unwrap(), (1, vec![]));
    let step = say(&mut client, connected("ann", 0, json!([])));
    assert_eq!((step.changes.len(), texts(&client)), (1, vec!["a".to_owned()]));
}

#[test]
fn mutations_that_were_never_sent_get_numbers_behind_those_of_the_server() {
    // A client id that was used before, by a client that has lost its storage.
    let mut client = Optimistic::new("client-1".to_owned());
    let (id, _) = client.mutate(note(1, "a")).unwrap();
    let step = say(&mut client, connected("ann", 7, json!([])));
    assert_eq!(step.acked, []);
    assert_eq!(numbers(&mut client), [8]);
    let step = say(&mut client, json!({"type": "tx", "cursor": "2", "changes": [], "ack": 8}));
    assert_eq!(step.acked, [applied(id)]);
    store(&mut client);
    assert_eq!(client.acked(), Some(8));
    // The same with a database that was restored to an earlier state.
    client.mutate(note(2, "b")).unwrap();
    client.disconnected();
    say(&mut client, connected("ann", 3, json!([])));
    assert_eq!(numbers(&mut client), [4]);
}

#[test]
fn another_user_gets_nothing_of_the_former_one() {
    let mut client = live();
    client.mutate(note(1, "sent")).unwrap();
    numbers(&mut client);
    client.mutate(note(2, "not sent")).unwrap();
    client.disconnected();
    let message = connected("bob", 0, json!([])).to_string();
    let error = client.apply(&ServerMessage::parse(&message).unwrap()).unwrap_err();
    assert_eq!(error, ApplyError::OtherUser { user_id: Some("bob".to_owned()) });
    let step = client.abandon("client-2".to_owned());
    assert_eq!((step.changes.len(), step.acked.len()), (2, 2));
    assert_eq!((texts(&client), client.cursor(), client.acked()), (vec![], None, None));
    let (id, _) = client.mutate(note(3, "bob's")).unwrap();
    assert_eq!(id, 3, "ids go on, numbers begin anew");
    say(&mut client, connected("bob", 0, json!([])));
    assert_eq!(numbers(&mut client), [1]);
}

#[test]
fn nobody_gets_nothing_of_a_user_and_a_user_goes_on_where_nobody_was() {
    let nobody = || connected(Value::Null, 0, json!([]));
    let mut client = live();
    client.mutate(note(1, "of ann")).unwrap();
    client.disconnected();
    let message = ServerMessage::parse(&nobody().to_string()).unwrap();
    let error = client.apply(&message).unwrap_err();
    assert_eq!(error, ApplyError::OtherUser { user_id: None });
    client.abandon("client-2".to_owned());
    say(&mut client, nobody());
    say(
        &mut client,
        json!({"type": "snapshot", "table": "note", "rows": [{"id": 9, "text": "public"}]}),
    );
    say(&mut client, ready("1"));
    assert_eq!((texts(&client), client.user_id()), (vec!["public".to_owned()], None));
    // Whoever signs in then has what everyone sees until the first rows come.
    client.disconnected();
    say(&mut client, connected("bob", 0, json!([])));
    assert_eq!((texts(&client), client.user_id()), (vec!["public".to_owned()], Some("bob")));
}

#[test]
fn mutations_that_belong_to_no_user_yet_go_on_under_another_client_id() {
    let mut client = Optimistic::new("client-1".to_owned());
    client.mutate(note(1, "a")).unwrap();
    assert_eq!(client.abandon("client-2".to_owned()), Step::default());
    let records = store(&mut client);
    let mut client = Optimistic::restore(&records).unwrap().unwrap();
    assert_eq!(client.client_id(), "client-2");
    say(&mut client, connected("bob", 0, json!([])));
    assert_eq!(numbers(&mut client), [1]);
}

#[test]
fn a_mutation_that_the_server_could_not_accept_is_an_error() {
    let mut client = live();
    let before = client.records();
    let no_key = Op::update("note", row(json!({"text": "a"})));
    let error = client.mutate(vec![no_key]).unwrap_err().to_string();
    assert_eq!(error, "an operation on table `note` needs the key column `id`");
    assert!(matches!(client.mutate(vec![]), Err(MutateError::Ops { count: 0, .. })));
    let many = vec![note(1, "a").remove(0); 501];
    assert!(matches!(client.mutate(many), Err(MutateError::Ops { count: 501, .. })));
    let large = note(1, &"x".repeat(1 << 20));
    assert!(matches!(client.mutate(large), Err(MutateError::Size { .. })));
    let deep = (0..101).fold(json!(1), |value, _| json!([value]));
    let call = Op::call("accept", row(json!({"token": deep})));
    assert!(matches!(client.mutate(vec![call]), Err(MutateError::ArgumentDepth { .. })));
    let deep = Op::update("note", row(json!({"id": 1, "text": deep})));
    assert!(matches!(client.mutate(vec![deep]), Err(MutateError::Depth { .. })));
    assert_eq!(client.records(), before);
    let part = note(1, &"x".repeat(1 << 19));
    let error = (0..1_000).find_map(|_| client.mutate(part.clone()).err());
    assert!(matches!(error, Some(MutateError::QueueFull { .. })), "{error:?}");
}

#[test]
fn a_call_waits_in_the_queue_and_shows_nothing_by_itself() {
    let mut client = live();
    let before = client.records().len();
    let (id, changes) =
        client.mutate(vec![Op::call("accept", row(json!({"token": "t"})))]).unwrap();
    assert!(changes.is_empty() && client.records().len() == before + 1);
    let beside = vec![Op::call("leave", Row::new()), note(7, "a").remove(0)];
    let (next, changes) = client.mutate(beside).unwrap();
    assert_eq!((next, changes.len()), (id + 1, 1));
}

#[test]
fn as_deep_as_it_may_be_it_can_be_stored_and_sent() {
    let mut client = live();
    let deep = (0..MAX_DEPTH).fold(json!(1), |value, _| json!([value]));
    client.mutate(vec![Op::update("note", row(json!({"id": 1, "text": deep})))]).unwrap();
    for record in store(&mut client) {
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }
    let text = serde_json::to_string(&client.next_to_send(1).unwrap()).unwrap();
    assert!(rowtide_protocol::ClientMessage::parse(&text).is_ok());
}

#[test]
fn records_that_do_not_fit_each_other_are_an_error() {
    let client = Record::Client { client_id: "client-1".to_owned(), offset: 0, acked: 0 };
    let position = |records: &[Record]| Optimistic::restore(records).unwrap_err().position;
    assert_eq!(position(&[Record::Acked { id: 1 }]), 1);
    assert_eq!(position(&[client.clone(), Record::Acked { id: 1 }]), 2);
    assert_eq!(position(&[client.clone(), Record::Rejected { id: 1 }]), 2);
    let second = Record::Mutation { id: 2, ops: note(1, "a").into() };
    assert_eq!(position(&[client, second]), 2);
    assert!(Optimistic::restore(&[]).unwrap().is_none());
}

#[test]
fn a_step_costs_what_it_names_and_not_what_is_there() {
    let mut client = Optimistic::new("client-1".to_owned());
    say(&mut client, connected("ann", 0, json!([])));
    let rows: Vec<Value> = (0..100_000).map(|id| json!({"id": id, "text": "a"})).collect();
    say(&mut client, json!({"type": "snapshot", "table": "note", "rows": rows}));
    say(&mut client, ready("1"));
    let start = std::time::Instant::now();
    for id in 1..=1_000 {
        client.mutate(note(id, "b")).unwrap();
        store(&mut client);
        client.next_to_send(1).unwrap();
        let put = json!({"op": "put", "table": "note", "row": {"id": id, "text": "b"}});
        let step =
            say(&mut client, json!({"type": "tx", "cursor": "2", "changes": [put], "ack": id}));
        assert_eq!((step.changes.len(), step.acked.len()), (0, 1));
    }
    // One pass over the rows in each step would take minutes.
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(client.count("note"), 100_000);
}
