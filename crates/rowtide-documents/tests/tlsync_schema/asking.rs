//! What the schema is asked, and what it is not: who cannot be served is found out about without the document, and what
//! would cost more than somebody may have others do is never asked.

use rowtide_schema::Scale;

use super::*;

impl World<'_> {
    /// Somebody of a version comes with a socket of their own; what that leads to before anything is answered.
    fn knocks(&mut self, socket: Socket, version: u64) -> Vec<Effect> {
        let mut client = Client::new(8);
        client.open(&schema(version));
        self.room.heard(NOW, socket, &client.outgoing[0])
    }

    fn pushes(&mut self, socket: Socket, diff: &Value) -> Vec<Effect> {
        self.room.heard(NOW, socket, &push(&diff.to_string()))
    }
}

fn asks(effects: &[Effect]) -> Option<Scale> {
    match effects {
        [Effect::Ask(question)] => Some(question.scale),
        _ => None,
    }
}

#[test]
fn only_who_can_be_served_is_let_in() {
    let (third, fourth) = (release(3), release(4));
    let mut world = World::new(&third, &[]);
    assert_eq!(world.says(4, "{}"), [Closing::Final(Reason::ServerTooOld)]);
    assert_eq!(world.says(1, r#"{"type":"ping"}"#), []);
    let mut world = World::new(&fourth, &[]);
    assert_eq!(world.says(3, "{}"), [Closing::Final(Reason::ClientTooOld)]);
    assert_eq!(world.says(4, r#"{"type":"ping"}"#), []);
}

#[test]
fn a_schema_is_asked_about_before_the_document_is() {
    let fourth = release(4);
    let mut world = World::new(&fourth, &[]);
    let socket = world.join("somebody");
    let effects = world.knocks(socket, 3);
    assert_eq!(asks(&effects), Some(Scale::Schema));
    let Some(Effect::Ask(question)) = effects.into_iter().next() else { panic!("no question") };
    let answer = world.asked(question);
    let effects = world.room.answered(NOW, answer).unwrap();
    assert_eq!(effects, [Effect::Close(socket, Closing::Final(Reason::ClientTooOld))]);
}

#[test]
fn a_document_is_brought_down_for_a_socket_once() {
    let third = release(3);
    let mut world = World::new(&third, &[]);
    let socket = world.join("somebody");
    let effects = world.knocks(socket, 1);
    assert_eq!(world.take(effects), []);
    let effects = world.knocks(socket, 2);
    assert_eq!(asks(&effects), Some(Scale::Schema));
    assert_eq!(world.take(effects), [(socket, Closing::Final(Reason::RateLimited))]);
}

#[test]
fn a_push_that_costs_more_than_it_may_is_not_asked_about() {
    let third = release(3);
    let (bytes_a_message, messages_at_once) = (10_000, 20);
    let limits = TlsyncLimits { bytes_a_message, messages_at_once, ..TlsyncLimits::default() };
    let mut world = World::with(&third, &[], limits);
    let socket = world.join("somebody");
    let effects = world.knocks(socket, 3);
    assert_eq!(world.take(effects), []);
    let mut large = shape("shape:a", 3);
    large["meta"]["note"] = json!("x".repeat(120_000));
    let effects = world.pushes(socket, &json!({"shape:a": ["put", large]}));
    assert_eq!(asks(&effects), Some(Scale::Push));
    assert_eq!(world.take(effects), []);
    // A few bytes of a message, and a large record to look at.
    let moved = json!({"shape:a": ["patch", {"position": ["put", {"x": 5}]}]});
    let effects = world.pushes(socket, &moved);
    assert_eq!(effects, [Effect::Close(socket, Closing::Final(Reason::RateLimited))]);
}

#[test]
fn who_needs_one_more_older_schema_comes_back_until_there_is_room() {
    let third = release(3);
    let limits = TlsyncLimits { editions: 1, ..TlsyncLimits::default() };
    let mut world = World::with(&third, &[(1, 8)], limits);
    world.come(0);
    let ping = r#"{"type":"ping"}"#;
    assert_eq!(world.says(2, ping), [Closing::ComeBack]);
    assert_eq!(world.says(1, ping), [], "of that one somebody is there");
    assert_eq!(world.says(3, ping), []);
    world.cut(0);
    assert_eq!(world.says(2, ping), []);
}

#[test]
fn a_document_is_brought_down_only_so_often_whoever_comes() {
    let third = release(3);
    let limits = TlsyncLimits { editions_at_once: 2, ..TlsyncLimits::default() };
    let every = limits.edition_every;
    let mut world = World::with(&third, &[], limits);
    let ping = r#"{"type":"ping"}"#;
    assert_eq!((world.says(1, ping), world.says(2, ping)), (vec![], vec![]));
    assert_eq!(world.says(1, ping), [Closing::ComeBack]);
    assert_eq!(world.says(3, ping), [], "of the document's own schema");
    let socket = world.join("somebody");
    let mut client = Client::new(8);
    client.open(&schema(1));
    let effects = world.room.heard(NOW + every, socket, &client.outgoing[0]);
    let Some(Effect::Ask(question)) = effects.into_iter().next() else { panic!("no question") };
    let answer = world.asked(question);
    let effects = world.room.answered(NOW + every, answer).unwrap();
    assert_eq!(asks(&effects), Some(Scale::Document));
}
