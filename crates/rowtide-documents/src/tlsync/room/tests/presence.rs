//! What sessions show of themselves.

use super::*;

const OF_1: &str = "instance_presence:0000000000000001";

impl Stage {
    fn show(&mut self, socket: u64, op: Value) -> Vec<(u64, Value)> {
        let mut got = self.say(socket, json!({"type": "push", "clientClock": 1, "presence": op}));
        got.extend(self.pass(ms(40)));
        data(got)
    }
}

/// What somebody is told who connects.
fn told(got: &[(u64, Got)]) -> &Value {
    let [(_, Got::Message(message))] = got else { panic!("{got:?}") };
    &message["diff"]
}

fn state(x: u64) -> Value {
    json!({"id": OF_1, "typeName": "instance_presence", "x": x})
}

#[test]
fn it_is_shown_under_the_rooms_own_id_and_never_stored() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.enter(2, 8);
    let before = stage.room.snapshot();
    let got = stage
        .show(1, json!(["put", {"id": "instance_presence:mine", "typeName": "shape", "x": 1}]));
    assert_eq!(
        got,
        [result(1, 1, 0, &json!("commit")), patch(2, 0, &json!({OF_1: ["put", state(1)]}))]
    );
    // Patched, or put again: the others are told what differs.
    let moved = |x: u64| patch(2, 0, &json!({OF_1: ["patch", {"x": ["put", x]}]}));
    let got = stage.show(1, json!(["patch", {"x": ["put", 2], "id": ["put", "shape:a"]}]));
    assert_eq!(got, [result(1, 1, 0, &json!("commit")), moved(2)]);
    let got = stage.show(1, json!(["put", {"x": 3}]));
    assert_eq!(got, [result(1, 1, 0, &json!("commit")), moved(3)]);
    // Nothing new is told to nobody.
    for nothing in
        [json!(["put", {"x": 3}]), json!(["patch", {"x": ["put", 3]}]), json!(["remove"])]
    {
        assert_eq!(stage.show(1, nothing), [result(1, 1, 0, &json!("commit"))]);
    }
    assert_eq!((stage.room.snapshot(), stage.edits.len(), stage.room.clock()), (before, 0, 0));
}

#[test]
fn it_can_only_be_patched_when_it_was_put() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.enter(2, 8);
    let got = stage.show(1, json!(["patch", {"x": ["put", 2]}]));
    assert_eq!(got, [result(1, 1, 0, &json!("commit"))]);
}

#[test]
fn who_connects_is_shown_the_others_and_not_itself() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.show(1, json!(["put", {"x": 1}]));
    stage.join(2, "b", ALL);
    assert_eq!(told(&stage.connect(2, 7, 0))[OF_1], json!(["put", state(1)]));
    assert_eq!(told(&stage.connect(1, 8, 0))[OF_1], Value::Null);
}

#[test]
fn it_stays_for_five_seconds_without_a_socket() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.enter(2, 8);
    stage.show(1, json!(["put", {"x": 1}]));
    let later = |stage: &mut Stage, time| {
        stage.say(2, json!({"type": "ping"}));
        stage.pass(ms(time))
    };
    stage.leave(1);
    assert_eq!(later(&mut stage, 4_999), []);
    // It comes back and is still shown, under the same id.
    assert_eq!(stage.join(3, "s1", ALL), []);
    stage.connect(3, 8, 0);
    assert_eq!(later(&mut stage, 10_000), []);
    let moved = patch(2, 0, &json!({OF_1: ["patch", {"x": ["put", 2]}]}));
    assert_eq!(stage.show(3, json!(["put", {"x": 2}]))[1], moved);
    // It does not come back.
    stage.leave(3);
    assert_eq!(later(&mut stage, 4_999), []);
    assert_eq!(data(later(&mut stage, 1)), [patch(2, 0, &json!({OF_1: ["remove"]}))]);
    // It comes back and does not connect.
    stage.enter(4, 8);
    stage.show(4, json!(["put", {"x": 1}]));
    stage.leave(4);
    stage.join(5, "s4", ALL);
    assert_eq!(later(&mut stage, 9_990), []);
    assert_eq!(later(&mut stage, 10), [end(5, Closing::ComeBack)]);
    assert_eq!(data(later(&mut stage, 5_000)).len(), 1);
}

#[test]
fn it_goes_at_once_with_who_is_sent_away() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.enter(2, 8);
    stage.show(1, json!(["put", {"x": 1}]));
    let got = stage.close(1, Closing::Final(Reason::Forbidden));
    assert_eq!(got[0], end(1, Closing::Final(Reason::Forbidden)));
    assert_eq!(data(got[1..].to_vec()), [patch(2, 0, &json!({OF_1: ["remove"]}))]);
}

#[test]
fn it_is_told_with_the_change_that_it_comes_with() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.enter(2, 8);
    let push = json!({"type": "push", "clientClock": 1, "presence": ["put", {"x": 1}],
        "diff": {"shape:a": ["put", shape("shape:a", 1)]}});
    let both = json!({"shape:a": ["put", shape("shape:a", 1)], OF_1: ["put", state(1)]});
    assert_eq!(data(stage.say(1, push)), [result(1, 1, 1, &json!("commit")), patch(2, 1, &both)]);
    assert_eq!(stage.edits[0]["diff"].get(OF_1), None);
}

#[test]
fn it_cannot_grow_without_end() {
    let mut stage = Stage::with(TlsyncLimits { presence_bytes: 1_000, ..TlsyncLimits::default() });
    stage.enter(1, 8);
    stage.enter(2, 8);
    stage.show(1, json!(["put", {"x": 1}]));
    let long = "x".repeat(1_000);
    for op in [json!(["put", {"x": long}]), json!(["patch", {"x": ["put", long]}])] {
        assert_eq!(stage.show(1, op), [result(1, 1, 0, &json!("commit"))]);
    }
    assert_eq!(stage.show(1, json!(["patch", {"x": ["put", 2]}])).len(), 2);
}

#[test]
fn ids_are_of_one_session_each() {
    let mut stage = Stage::new();
    for session in ["a", "b", "c"] {
        let effects = stage.room.join(
            stage.now,
            Socket(session.as_bytes()[0].into()),
            session,
            ALL,
            u64::MAX,
        );
        assert_eq!(effects, []);
    }
    let mut ids: Vec<_> = stage.room.sessions.values().map(|s| s.presence.id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}
