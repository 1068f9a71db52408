//! How sessions begin and end.

use super::*;

const OLD: Closing = Closing::Final(Reason::ClientTooOld);
const NEW: Closing = Closing::Final(Reason::ServerTooOld);

#[test]
fn who_connects_is_told_everything_in_one_message() {
    let mut stage = Stage::new();
    assert_eq!(stage.join(1, "a", Access::Read), []);
    let document = json!({"id": "document:document", "typeName": "document", "gridSize": 10,
        "name": "", "meta": {}});
    let page = json!({"id": "page:page", "typeName": "page", "name": "Page 1", "index": "a1",
        "meta": {}});
    let diff = json!({"document:document": ["put", document], "page:page": ["put", page]});
    let connected = |hydration, read_only, objects, diff| {
        Got::Message(json!({"type": "connect", "connectRequestId": "r",
            "hydrationType": hydration, "protocolVersion": 8, "schema": schema(),
            "serverClock": 0, "isReadonly": read_only, "objectAccess": objects, "diff": diff}))
    };
    let got = stage.connect(1, 8, -1);
    assert_eq!(got, [(1, connected("wipe_all", true, "read", &diff))]);
    stage.join(2, "b", ALL);
    assert_eq!(stage.connect(2, 8, 0), [(2, connected("wipe_presence", false, "write", &diff))]);
    stage.join(3, "c", ALL);
    stage.push(2, 1, json!({"shape:a": ["put", shape("shape:a", 1)]}));
    let got = stage.connect(3, 8, 1);
    let Got::Message(message) = &got[0].1 else { panic!("{got:?}") };
    assert_eq!(message["diff"], json!({}));
}

#[test]
fn who_does_not_connect_within_ten_seconds_is_sent_back() {
    let mut stage = Stage::new();
    stage.join(1, "a", ALL);
    assert_eq!(stage.say(1, json!({"type": "ping"})), []);
    let early = json!({"type": "push", "clientClock": 1,
        "diff": {"shape:a": ["put", shape("shape:a", 1)]}});
    assert_eq!(stage.say(1, early), []);
    assert_eq!(stage.record("shape:a"), None);
    assert_eq!(stage.pass(ms(9_999)), []);
    assert_eq!(stage.room.next_tick(), Some(stage.now + ms(1)));
    assert_eq!(stage.pass(ms(1)), [end(1, Closing::ComeBack)]);
    assert!(stage.room.is_empty() && stage.room.next_tick().is_none());
}

#[test]
fn versions_of_the_protocol_are_served_from_five_to_eight() {
    let mut stage = Stage::new();
    let connect = |version: Value| {
        json!({"type": "connect", "connectRequestId": "r", "lastServerClock": 0,
            "protocolVersion": version, "schema": schema()})
    };
    for (n, (version, closing)) in [
        (Value::Null, OLD),
        (json!(-1), OLD),
        (json!(4), OLD),
        (json!(4.9), OLD),
        (json!(9), NEW),
        (json!(1e300), NEW),
        (json!("8"), Closing::Final(Reason::UnknownError)),
    ]
    .into_iter()
    .enumerate()
    {
        stage.join(n as u64, "a", ALL);
        assert_eq!(stage.say(n as u64, connect(version)), [end(n as u64, closing)]);
    }
    for version in 5..=8 {
        stage.join(100 + version, &format!("{version}"), ALL);
        let got = stage.say(100 + version, connect(json!(version)));
        assert!(matches!(&got[0].1, Got::Message(m) if m["type"] == "connect"), "{got:?}");
    }
}

#[test]
fn only_clients_of_the_documents_schema_are_served() {
    let older = json!({"schemaVersion": 2, "sequences": {"com.tldraw.store": 3}});
    let newer = json!({"schemaVersion": 2, "sequences": {"com.tldraw.store": 5}});
    let mut stage = Stage::new();
    stage.enter(1, 8);
    let mut socket = 10;
    for (schema, closing, legacy) in [
        (&older, OLD, "clientTooOld"),
        (&newer, NEW, "serverTooOld"),
        (&Value::Null, OLD, "clientTooOld"),
        (&json!({"schemaVersion": 7}), OLD, "clientTooOld"),
    ] {
        for protocol in [6, 7] {
            socket += 1;
            stage.join(socket, "b", ALL);
            let connect = json!({"type": "connect", "connectRequestId": "r", "lastServerClock": 0,
                "protocolVersion": protocol, "schema": schema});
            let got = stage.say(socket, connect);
            if protocol == 6 {
                let told = json!({"type": "incompatibility_error", "reason": legacy});
                let expected = [(socket, Got::Message(told)), end(socket, Closing::ComeBack)];
                assert_eq!(got, expected);
            } else {
                assert_eq!(got, [end(socket, closing)]);
            }
        }
    }
    assert_eq!(stage.room.sessions(), 1);
}

#[test]
fn a_document_that_nobody_has_edited_has_the_schema_of_who_is_there() {
    let newer = json!({"schemaVersion": 2, "sequences": {"com.tldraw.store": 5}});
    let connect = json!({"type": "connect", "connectRequestId": "r", "lastServerClock": 0,
        "protocolVersion": 8, "schema": newer});
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.leave(1);
    stage.join(2, "b", ALL);
    let got = stage.say(2, connect.clone());
    assert!(matches!(&got[0].1, Got::Message(m) if m["schema"] == newer));
    // It is the document's when somebody edits it, and is stored with that edit.
    stage.push(2, 1, json!({"page:page": ["patch", {"name": ["put", "a"]}]}));
    stage.push(2, 2, json!({"page:page": ["patch", {"name": ["put", "b"]}]}));
    assert_eq!((&stage.edits[0]["schema"], &stage.edits[1]["schema"]), (&newer, &Value::Null));
    stage.leave(2);
    stage.join(3, "c", ALL);
    assert_eq!(stage.connect(3, 8, 0), [end(3, OLD)]);
    stage.join(4, "d", ALL);
    assert!(matches!(&stage.say(4, connect)[0].1, Got::Message(_)));
}

#[test]
fn who_is_silent_for_twenty_seconds_is_sent_back() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.pass(ms(15_000));
    let pong = Got::Message(json!({"type": "pong"}));
    assert_eq!(stage.say(1, json!({"type": "ping"})), [(1, pong)]);
    assert_eq!(stage.pass(ms(19_999)), []);
    assert_eq!(stage.pass(ms(1)), [end(1, Closing::ComeBack)]);
}

#[test]
fn a_session_that_comes_again_takes_the_place_of_its_old_socket() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    assert_eq!(stage.join(2, "s1", ALL), [end(1, Closing::ComeBack)]);
    assert_eq!(stage.room.sessions(), 1);
    assert_eq!(stage.say(1, json!({"type": "ping"})), []);
    stage.leave(1);
    assert_eq!(stage.room.sessions(), 1);
    assert_eq!(stage.connect(2, 8, 0).len(), 1);
}

#[test]
fn a_room_that_is_full_takes_nobody_but_those_who_are_there() {
    let mut stage = Stage::with(TlsyncLimits { sessions: 2, ..TlsyncLimits::default() });
    stage.enter(1, 8);
    stage.enter(2, 8);
    stage.say(2, json!({"type": "push", "clientClock": 1, "presence": ["put", {"x": 1}]}));
    assert_eq!(stage.join(3, "s3", ALL), [end(3, Closing::Final(Reason::RoomFull))]);
    assert_eq!(stage.join(4, "s2", ALL), [end(2, Closing::ComeBack)]);
    stage.pass(ms(40));
    // Whoever is only shown yet makes room for somebody who comes.
    stage.leave(4);
    let got = data(stage.join(5, "s5", ALL));
    assert_eq!(got, [patch(1, 0, &json!({"instance_presence:0000000000000002": ["remove"]}))]);
}

#[test]
fn who_says_too_much_is_sent_away() {
    let limits = TlsyncLimits {
        messages_a_second: 10,
        messages_at_once: 20,
        bytes_a_message: 1_000,
        ..TlsyncLimits::default()
    };
    let ping = json!({"type": "ping"});
    let mut stage = Stage::with(limits);
    stage.enter(1, 8);
    stage.pass(ms(2_000));
    for _ in 0..20 {
        assert_eq!(stage.say(1, ping.clone()).len(), 1);
    }
    stage.pass(ms(100));
    assert_eq!(stage.say(1, ping.clone()).len(), 1);
    assert_eq!(stage.say(1, ping), [end(1, Closing::Final(Reason::RateLimited))]);
    // A long message counts as several.
    stage.enter(2, 8);
    let long = json!({"type": "ping", "x": "x".repeat(15_000)});
    assert_eq!(stage.say(2, long.clone()).len(), 1);
    assert_eq!(stage.say(2, long), [end(2, Closing::Final(Reason::RateLimited))]);
}

#[test]
fn who_connects_again_and_again_is_sent_away() {
    let limits = TlsyncLimits {
        messages_a_second: 10,
        messages_at_once: 20,
        bytes_a_message: 5,
        ..TlsyncLimits::default()
    };
    let mut stage = Stage::with(limits.clone());
    stage.enter(1, 8);
    // The whole document is more than may be asked for at once, and still is not too much for ever.
    for _ in 0..2 {
        stage.pass(ms(2_000));
        assert!(matches!(&stage.connect(1, 8, -1)[..], [(1, Got::Message(_))]));
    }
    assert_eq!(stage.connect(1, 8, 0), [end(1, Closing::Final(Reason::RateLimited))]);

    // What the others show counts too.
    let limits = TlsyncLimits { bytes_a_message: 1_000, ..limits };
    let mut stage = Stage::with(limits);
    stage.enter(1, 8);
    stage.enter(2, 8);
    let shown = json!({"x": "x".repeat(15_000)});
    stage.say(2, json!({"type": "push", "clientClock": 1, "presence": ["put", shown]}));
    stage.pass(ms(2_000));
    assert!(matches!(&stage.connect(1, 8, -1).last(), Some((1, Got::Message(_)))));
    assert_eq!(stage.connect(1, 8, 0), [end(1, Closing::Final(Reason::RateLimited))]);
}

#[test]
fn a_schema_that_is_too_large_is_none() {
    let mut stage = Stage::with(TlsyncLimits { schema_bytes: 10, ..TlsyncLimits::default() });
    stage.join(1, "a", ALL);
    assert_eq!(stage.connect(1, 8, 0), [end(1, OLD)]);
}

#[test]
fn what_is_no_message_ends_one_session() {
    const BACK: Closing = Closing::ComeBack;
    const WRONG: Closing = Closing::Final(Reason::UnknownError);
    const INVALID: Closing = Closing::Final(Reason::InvalidRecord);
    let mut stage = Stage::with(TlsyncLimits { message_bytes: 2_000, ..TlsyncLimits::default() });
    stage.enter(1, 8);
    let deep = format!("{{\"type\":\"ping\",\"schema\":{}", "[".repeat(1_500));
    let long = format!("{{\"type\":\"ping\",\"a\":\"{}\"}}", "a".repeat(2_000));
    for (n, (text, closing)) in [
        ("", BACK),
        ("hello", BACK),
        ("[]", BACK),
        ("{", BACK),
        ("0_", BACK),
        ("0_{\"type\":", BACK),
        (&deep, INVALID),
        ("{\"type\":\"push\",\"clientClock\":1,\"diff\":{\"a\":[\"put\",1e999]}}", INVALID),
        ("{}", WRONG),
        ("{\"type\":\"dance\"}", WRONG),
        ("{\"type\":1}", WRONG),
        ("{\"type\":\"push\"}", WRONG),
        ("{\"type\":\"push\",\"clientClock\":1,\"diff\":[]}", WRONG),
        ("{\"type\":\"push\",\"clientClock\":1,\"diff\":{\"a\":[\"swap\"]}}", WRONG),
        ("{\"type\":\"push\",\"clientClock\":1,\"presence\":[\"put\",1]}", WRONG),
        ("{\"type\":\"connect\"}", WRONG),
        (&long, WRONG),
        ("999_{", WRONG),
    ]
    .into_iter()
    .enumerate()
    {
        let socket = 10 + n as u64;
        stage.enter(socket, 8);
        assert_eq!(stage.hear(socket, text), [end(socket, closing)], "{text}");
        // Older clients read the reason from a message.
        stage.enter(socket + 100, 6);
        let got = stage.hear(socket + 100, text);
        assert_eq!(got.last(), Some(&end(socket + 100, BACK)), "{text}");
        assert_eq!(got.len(), if closing == BACK { 1 } else { 2 });
    }
    assert_eq!(stage.room.sessions(), 1);
    assert_eq!(stage.hear(1, "2_{\"type\""), []);
    assert_eq!(stage.hear(1, "1_:\"pi"), []);
    assert_eq!(stage.hear(1, "0_ng\"}").len(), 1);
}

#[test]
fn who_may_do_something_else_comes_back() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    let effects = stage.room.access_changed(stage.now, Socket(1), ALL);
    assert_eq!(stage.got(effects), []);
    let effects = stage.room.access_changed(stage.now, Socket(1), Access::Read);
    assert_eq!(stage.got(effects), [end(1, Closing::ComeBack)]);
    let effects = stage.room.access_changed(stage.now, Socket(1), ALL);
    assert_eq!(stage.got(effects), []);
}

#[test]
fn a_socket_that_is_closed_is_told_why() {
    let mut stage = Stage::new();
    let gone = Closing::Final(Reason::NotFound);
    stage.enter(1, 8);
    stage.enter(2, 6);
    assert_eq!(stage.close(1, gone), [end(1, gone)]);
    let told = json!({"type": "incompatibility_error", "reason": "invalidOperation"});
    assert_eq!(stage.close(2, gone), [(2, Got::Message(told)), end(2, Closing::ComeBack)]);
    assert_eq!(stage.close(2, gone), []);
    assert!(stage.room.is_empty());
    assert_eq!(
        stage.join(3, &"x".repeat(300), ALL),
        [end(3, Closing::Final(Reason::UnknownError))]
    );
}
