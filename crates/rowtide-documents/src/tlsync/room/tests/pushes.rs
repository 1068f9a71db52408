//! What becomes of pushes.

use super::*;

#[test]
fn what_happens_as_asked_is_committed_and_told_to_the_others() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.enter(2, 7);
    let put = json!({"shape:a": ["put", shape("shape:a", 1)]});
    let expected = [result(1, 7, 1, &json!("commit")), patch(2, 1, &put)];
    assert_eq!(stage.push(1, 7, put.clone()), expected);
    let edit = json!({"clock": 1, "schema": schema(), "diff": put});
    assert_eq!(stage.edits, [edit]);
    let moved = json!({"shape:a": ["patch", {"x": ["put", 2]}], "page:page": ["remove"]});
    let expected = [patch(1, 2, &moved), result(2, 8, 2, &json!("commit"))];
    let mut got = stage.push(2, 8, moved);
    got.sort_by_key(|(socket, _)| *socket);
    assert_eq!(got, expected);
    assert_eq!(
        (stage.record("page:page"), &stage.record("shape:a").unwrap()["x"]),
        (None, &json!(2))
    );
}

#[test]
fn what_has_no_effect_is_discarded() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.enter(2, 8);
    stage.push(1, 1, json!({"shape:a": ["put", shape("shape:a", 1)]}));
    for nothing in [
        json!({}),
        json!({"shape:a": ["put", shape("shape:a", 1)]}),
        json!({"shape:a": ["patch", {"x": ["put", 1]}]}),
        json!({"shape:b": ["patch", {"x": ["put", 1]}], "shape:c": ["remove"]}),
    ] {
        let expected = [result(1, 2, 1, &json!("discard"))];
        assert_eq!(stage.push(1, 2, nothing), expected);
    }
    assert_eq!((stage.edits.len(), stage.room.clock()), (1, 1));
}

#[test]
fn what_happens_otherwise_is_told_to_its_client_too() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.enter(2, 8);
    stage.push(1, 1, json!({"shape:a": ["put", shape("shape:a", 1)]}));
    let asked = json!({
        "shape:a": ["put", shape("shape:a", 5)],
        "shape:b": ["put", shape("shape:b", 1)],
        "shape:c": ["remove"],
        "page:page": ["patch", {"name": ["put", "Page 1"], "index": ["put", "a2"]}],
    });
    let real = json!({
        "shape:a": ["patch", {"x": ["put", 5]}],
        "shape:b": ["put", shape("shape:b", 1)],
        "page:page": ["patch", {"index": ["put", "a2"]}],
    });
    let expected = [result(1, 2, 2, &json!({"rebaseWithDiff": real})), patch(2, 2, &real)];
    assert_eq!(stage.push(1, 2, asked), expected);
}

#[test]
fn a_record_that_nobody_could_read_ends_its_session_alone() {
    for wrong in [
        json!({"camera:a": ["put", {"id": "camera:a", "typeName": "camera"}]}),
        json!({"instance_presence:a": ["put", {"id": "instance_presence:a",
            "typeName": "instance_presence"}]}),
        json!({"shape:b": ["put", shape("shape:a", 1)]}),
        json!({"shape:a": ["put", []]}),
        json!({"page:page": ["put", {"id": "page:page", "typeName": "shape"}]}),
        json!({"page:page": ["patch", {"typeName": ["put", "shape"]}]}),
        json!({"page:page": ["patch", {"meta": ["put", 1]}]}),
    ] {
        let mut stage = Stage::new();
        stage.enter(1, 8);
        stage.enter(2, 8);
        stage.enter(3, 6);
        let mut diff = wrong.clone();
        diff["shape:z"] = json!(["put", shape("shape:z", 1)]);
        let push = json!({"type": "push", "clientClock": 1, "diff": diff,
            "presence": ["put", {"x": 1}]});
        let got = stage.say(1, push.clone());
        assert_eq!(got, [end(1, Closing::Final(Reason::InvalidRecord))], "{wrong}");
        let told = json!({"type": "incompatibility_error", "reason": "invalidRecord"});
        let got = stage.say(3, push);
        assert_eq!(got, [(3, Got::Message(told)), end(3, Closing::ComeBack)]);
        assert_eq!((stage.edits.len(), stage.room.sessions()), (0, 1));
    }
}

#[test]
fn who_may_only_read_changes_nothing_and_is_seen() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.join(2, "reader", Access::Read);
    stage.connect(2, 8, -1);
    let push = json!({"type": "push", "clientClock": 3, "presence": ["put", {"x": 1}],
        "diff": {"shape:a": ["put", shape("shape:a", 1)]}});
    let presence = json!({"instance_presence:0000000000000002": ["put",
        {"id": "instance_presence:0000000000000002", "typeName": "instance_presence", "x": 1}]});
    let expected = [result(2, 3, 0, &json!("discard")), patch(1, 0, &presence)];
    assert_eq!(data(stage.say(2, push)), expected);
    assert_eq!((stage.edits.len(), stage.record("shape:a")), (0, None));
    // What would be wrong from somebody else is ignored too.
    let got = stage.push(2, 4, json!({"camera:a": ["put", {}]}));
    assert_eq!(got, [result(2, 4, 0, &json!("discard"))]);
}

#[test]
fn texts_are_appended_to_only_between_clients_who_know_how() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.enter(2, 8);
    stage.enter(3, 7);
    stage.push(1, 1, json!({"shape:a": ["put", shape("shape:a", 1)]}));
    let append = |text, offset| json!({"shape:a": ["patch", {"props": ["patch", {"text": ["append", text, offset]}]}]});
    let put = |text| json!({"shape:a": ["patch", {"props": ["patch", {"text": ["put", text]}]}]});
    let got = stage.push(1, 2, append("a😀", 0));
    let expected = [
        result(1, 2, 2, &json!("commit")),
        patch(2, 2, &append("a😀", 0)),
        patch(3, 2, &put("a😀")),
    ];
    assert_eq!(got, expected);
    // Nor may an older client append, which would not see its own change.
    let got = stage.push(3, 3, append("b", 3));
    assert_eq!(got, [result(3, 3, 2, &json!("discard"))]);
    // A put by an older client that differs by what is appended.
    let mut whole = shape("shape:a", 1);
    whole["props"]["text"] = json!("a😀b");
    let mut got = stage.push(3, 4, json!({"shape:a": ["put", whole]}));
    got.sort_by_key(|(socket, _)| *socket);
    let expected = [
        patch(1, 3, &append("b", 3)),
        patch(2, 3, &append("b", 3)),
        result(3, 4, 3, &json!({"rebaseWithDiff": put("a😀b")})),
    ];
    assert_eq!(got, expected);
}

#[test]
fn data_is_sent_at_once_and_then_together() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.enter(2, 8);
    let push = |n: u64| json!({"type": "push", "clientClock": n, "diff": {"page:page": ["patch", {"name": ["put", n]}]}});
    let frames = |got: &[(u64, Got)], socket| got.iter().filter(|(to, _)| *to == socket).count();
    let got = stage.say(1, push(1));
    assert_eq!((frames(&got, 1), frames(&got, 2)), (1, 1));
    for n in 2..5 {
        stage.now += ms(5);
        assert_eq!(stage.say(1, push(n)), []);
    }
    // A pong waits for nothing and lets nothing go; whoever connects is told of what waits before.
    assert_eq!(stage.say(2, json!({"type": "ping"})).len(), 1);
    let got = stage.connect(2, 8, 0);
    assert_eq!(data(got[..1].to_vec()).len(), 3);
    assert_eq!(got.len(), 2);
    let got = stage.pass(Duration::from_micros(1_700));
    assert_eq!(
        (got.len(), data(got)),
        (1, (2..5).map(|n| result(1, n, n, &json!("commit"))).collect())
    );
    // When nothing waits, there is nothing to wake up for but silence.
    assert!(stage.room.next_tick().unwrap() > stage.now + ms(10_000));
    // As long as there is always something, it goes together.
    stage.now += ms(1);
    assert_eq!(frames(&stage.say(1, push(5)), 1), 0);
    assert_eq!(frames(&stage.pass(ms(20)), 1), 1);
    stage.pass(ms(20));
    assert_eq!(frames(&stage.say(1, push(6)), 1), 1);
}

#[test]
fn what_waits_keeps_its_place_where_nobody_looked_in_time() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    for n in 1..=3 {
        let push = json!({"type": "push", "clientClock": n,
            "diff": {"page:page": ["patch", {"name": ["put", n]}]}});
        let got = data(stage.say(1, push));
        let expected = match n {
            1 => vec![result(1, 1, 1, &json!("commit"))],
            2 => vec![],
            _ => vec![result(1, 2, 2, &json!("commit")), result(1, 3, 3, &json!("commit"))],
        };
        assert_eq!(got, expected);
        stage.now += ms(10);
    }
}

#[test]
fn who_does_not_keep_up_comes_back() {
    let mut stage = Stage::with(TlsyncLimits { waiting_bytes: 1_000, ..TlsyncLimits::default() });
    stage.enter(1, 8);
    stage.enter(2, 8);
    let push = |n: u64| {
        let name = format!("{n}{}", "x".repeat(600));
        json!({"type": "push", "clientClock": n,
            "diff": {"page:page": ["patch", {"name": ["put", name]}]}})
    };
    assert_eq!(stage.say(1, push(1)).len(), 2);
    assert_eq!(stage.say(1, push(2)), []);
    assert_eq!(stage.say(1, push(3)), [end(2, Closing::ComeBack)]);
    assert_eq!(stage.record("page:page").unwrap()["name"].as_str().unwrap().len(), 601);
    // So does who is told too much of its own pushes, which are taken all the same.
    let page = json!({"id": "page:page", "typeName": "page", "name": "x".repeat(900)});
    assert_eq!(
        stage.say(
            1,
            json!({"type": "push", "clientClock": 4, "diff": {"page:page": ["put", page]}})
        ),
        [end(1, Closing::ComeBack)]
    );
    assert_eq!(stage.record("page:page").unwrap()["name"].as_str().unwrap().len(), 900);
}

#[test]
fn half_a_pair_of_units_is_taken_as_what_it_cannot_be_and_told_so() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    let push = r#"{"type":"push","clientClock":1,"diff":{"page:page":["patch",{"name":["put","a\ud83d"]}]}}"#;
    let real = json!({"page:page": ["patch", {"name": ["put", "a\u{fffd}"]}]});
    let expected = [result(1, 1, 1, &json!({"rebaseWithDiff": real}))];
    assert_eq!(data(stage.hear(1, push)), expected);
}

#[test]
fn the_clock_of_a_push_comes_back_as_it_came() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    for clock in ["0", "-1", "12345678901234567890", "1.5"] {
        let push = format!(r#"{{"type":"push","clientClock":{clock},"presence":["patch",{{}}]}}"#);
        let got = data(stage.hear(1, &push).into_iter().chain(stage.pass(ms(40))).collect());
        assert_eq!(
            (got[0].1["clientClock"].to_string(), &got[0].1["action"]),
            (clock.to_owned(), &json!("commit"))
        );
    }
}
