//! Channels, direct messages, blocks and guests: `examples/chat`.

use std::collections::BTreeSet;

use rowtide_tests::{App, delete, insert};
use serde_json::{Value, json};

use super::story::{Example, Person, call};

const LOBBY: &str = "10000000-0000-4000-8000-000000000001";
const PLANS: &str = "10000000-0000-4000-8000-000000000002";
const LINK: &str = "50000000-0000-4000-8000-000000000001";

async fn comes<'a>(app: &'a App, person: &str) -> Person<'a> {
    Person::comes(app, json!({ "sub": person })).await
}

fn message(id: u32, channel: &str, author: &str, body: &str) -> Value {
    let id = format!("60000000-0000-4000-8000-{id:012}");
    let row = json!({ "id": id, "channel_id": channel, "author_id": author, "body": body });
    json!([insert("message", row)])
}

/// What the application shows beside a channel.
fn unread(person: &Person<'_>, channel: &str) -> i64 {
    let number = |table: &str, of: &str, column: &str| {
        let rows = person.holds(table, of);
        if rows.contains(channel) { person.row(table, of, channel)[column].as_i64() } else { None }
    };
    number("channel", "id", "last_number").unwrap_or(0)
        - number("reading", "channel_id", "read_to").unwrap_or(0)
}

/// The lobby's first message that a client is sent. With windows: 71.
const FIRST_OF_LOBBY: u32 = 1;

async fn sees_the_lobby(person: &mut Person<'_>) {
    let numbers: Vec<String> = (FIRST_OF_LOBBY..=120).map(|number| number.to_string()).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    person.sees("message", "number", &numbers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_the_messages_of_the_channels_that_it_has_open() {
    let example = Example::new("chat").await;
    // What it costs that there are channels for everyone.
    let kept = "note: a rule asks for all values of \"id\" of \"public\".\"channel\", whoever the user is: each view keeps \
                all of them";
    assert_eq!(example.notes().await, [kept]);
    let app = example.served().await;
    let mut ada = comes(&app, "ada").await;
    ada.sees("channel", "name", &["Lobby", "Plans"]).await;
    ada.sees("message", "id", &[]).await;
    ada.subscribes(1, "channel", json!({ "channel": LOBBY })).await;
    sees_the_lobby(&mut ada).await;
    ada.subscribes(2, "channel", json!({ "channel": PLANS })).await;
    ada.sees("message", "channel_id", &[LOBBY, PLANS]).await;
    // What is not for cleo is nothing to her, whatever she asks for.
    let mut cleo = comes(&app, "cleo").await;
    cleo.sees("channel", "name", &["Lobby"]).await;
    cleo.subscribes(1, "channel", json!({ "channel": PLANS })).await;
    cleo.sees("message", "id", &[]).await;
    cleo.may_not("forbidden", message(1, PLANS, "cleo", "hello?")).await;
    cleo.may_not("forbidden", message(1, LOBBY, "ada", "forged")).await;
    let member = |channel: &str, person: &str| {
        json!([insert("member", json!({ "channel_id": channel, "person_id": person }))])
    };
    cleo.may_not("forbidden", member(PLANS, "cleo")).await;
    ada.may(member(PLANS, "cleo")).await;
    cleo.sees("message", "body", &["Where to?", "To the sea"]).await;
    // Whoever leaves has nothing of it any more, subscribed or not.
    cleo.may(json!([delete("member", json!({ "channel_id": PLANS, "person_id": "cleo" }))])).await;
    cleo.sees("message", "id", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unread_is_the_newest_number_less_the_one_that_was_read_to() {
    let app = Example::new("chat").await.served().await;
    let (mut ada, mut ben) = (comes(&app, "ada").await, comes(&app, "ben").await);
    // Who writes has read what is before it.
    assert_eq!((unread(&ada, PLANS), unread(&ben, PLANS)), (1, 0));
    ben.may(message(1, PLANS, "ben", "When?")).await;
    ada.sees("channel", "last_number", &["120", "3"]).await;
    assert_eq!((unread(&ada, PLANS), unread(&ben, PLANS)), (2, 0));
    let read_to = |person: &str, number: u32| {
        json!([insert(
            "reading",
            json!({ "channel_id": PLANS, "person_id": person, "read_to": number })
        )])
    };
    ada.may_not("forbidden", read_to("ben", 1)).await;
    ada.may(read_to("ada", 3)).await;
    assert_eq!(unread(&ada, PLANS), 0);
    // On all her devices, and to nobody else.
    let mut phone = comes(&app, "ada").await;
    assert_eq!(unread(&phone, PLANS), 0);
    ben.may(message(2, PLANS, "ben", "Now?")).await;
    phone.sees("channel", "last_number", &["120", "4"]).await;
    assert_eq!(unread(&phone, PLANS), 1);
    ben.sees("reading", "person_id", &["ben"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_takes_messages_away_at_once_and_closes_what_is_between_two() {
    let app = Example::new("chat").await.served().await;
    let (mut ada, mut mallory) = (comes(&app, "ada").await, comes(&app, "mallory").await);
    ada.subscribes(1, "channel", json!({ "channel": LOBBY })).await;
    mallory.may_not("nobody", call("open_direct", json!({ "other": "nobody" }))).await;
    mallory.may(call("open_direct", json!({ "other": "ada" }))).await;
    ada.sees("channel", "name", &["Lobby", "Plans", "ada and mallory"]).await;
    let direct = ada.row("channel", "name", "ada and mallory")["id"].as_str().unwrap().to_owned();
    // There is one between two, whoever opens it.
    ada.may(call("open_direct", json!({ "other": "mallory" }))).await;
    ada.sees("channel", "name", &["Lobby", "Plans", "ada and mallory"]).await;
    let third = json!({ "channel_id": direct, "person_id": "ben" });
    mallory.may_not("forbidden", json!([insert("member", third)])).await;
    ada.subscribes(2, "channel", json!({ "channel": direct })).await;
    mallory.may(message(1, &direct, "mallory", "psst")).await;
    ada.sees("message", "channel_id", &[LOBBY, &direct]).await;

    let block = json!({ "person_id": "ada", "blocked_id": "mallory" });
    ada.may(json!([insert("block", block)])).await;
    ada.sees("message", "author_id", &["ada", "ben", "cleo"]).await;
    for person in ["ada", "mallory"] {
        let writer = if person == "ada" { &mut ada } else { &mut mallory };
        writer.may_not("forbidden", message(2, &direct, person, "again")).await;
    }
    mallory.may_not("blocked", call("open_direct", json!({ "other": "ada" }))).await;
    mallory.may(message(3, LOBBY, "mallory", "to all")).await;
    // Nobody is told that they are blocked; and all is there again afterwards.
    mallory.sees("block", "person_id", &[]).await;
    assert!(!ada.holds("message", "author_id").contains("mallory"));
    ada.may(json!([delete("block", block)])).await;
    ada.sees("message", "author_id", &["ada", "ben", "cleo", "mallory"]).await;
    assert!(
        ada.holds("message", "body")
            .is_superset(&BTreeSet::from(["psst".to_owned(), "to all".to_owned()]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reads_one_channel_as_long_as_the_link_is_there_and_nobody_the_open_ones() {
    let app = Example::new("chat").await.served().await;
    let mut nobody = Person::comes(&app, Value::Null).await;
    let claims = json!({ "sub": "guest", "link": LINK });
    let mut guest = Person::comes(&app, claims).await;
    nobody.sees("channel", "name", &["Lobby"]).await;
    guest.sees("channel", "name", &["Lobby", "Plans"]).await;
    guest.sees("guest_link", "id", &[]).await;
    for person in [&mut nobody, &mut guest] {
        person.subscribes(1, "channel", json!({ "channel": PLANS })).await;
        person.may_not("forbidden", message(1, PLANS, "guest", "hello")).await;
    }
    guest.sees("message", "body", &["Where to?", "To the sea"]).await;
    nobody.sees("message", "body", &[]).await;
    nobody.subscribes(2, "channel", json!({ "channel": LOBBY })).await;
    sees_the_lobby(&mut nobody).await;
    // A member takes the link out.
    let mut ben = comes(&app, "ben").await;
    ben.may(json!([delete("guest_link", json!({ "id": LINK }))])).await;
    guest.sees("message", "body", &[]).await;
    guest.sees("channel", "name", &["Lobby"]).await;
    // One that somebody chose by themselves opens nothing.
    let mut other = Person::comes(&app, json!({ "sub": "guest", "link": PLANS })).await;
    other.sees("channel", "name", &["Lobby"]).await;
}
