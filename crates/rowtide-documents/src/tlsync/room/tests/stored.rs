//! What is stored of a room, and what the server itself does to its document.

use super::*;

/// A room made from a snapshot and edits.
fn made(snapshot: &[u8], edits: &[Value]) -> Result<TlsyncRoom, ReplayError> {
    let mut room = TlsyncRoom::open(snapshot, TlsyncLimits::default())?;
    for edit in edits {
        room.replay(edit.to_string().as_bytes())?;
    }
    Ok(room)
}

/// A room with some edits behind it: snapshots before each of them and after the last.
fn edited() -> (Stage, Vec<Bytes>) {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    let mut snapshots = vec![stage.room.snapshot()];
    for diff in [
        json!({"shape:a": ["put", shape("shape:a", 1)], "shape:b": ["put", shape("shape:b", 1)]}),
        json!({"shape:a": ["patch", {"props": ["patch", {"text": ["append", "é", 0]}]}]}),
        json!({"shape:b": ["remove"], "shape:c": ["remove"]}),
        json!({"shape:a": ["put", shape("shape:a", 7)]}),
    ] {
        stage.push(1, 1, diff);
        snapshots.push(stage.room.snapshot());
    }
    (stage, snapshots)
}

#[test]
fn a_snapshot_and_all_later_edits_lead_to_the_same_room() {
    let (mut stage, mut snapshots) = edited();
    let effects = stage.room.restore(stage.now, &snapshots[2]).unwrap();
    assert_eq!(stage.got(effects), [end(1, Closing::ComeBack)]);
    snapshots.push(stage.room.snapshot());
    let effects = stage.room.rename(stage.now, "name");
    assert_eq!(stage.got(effects), []);
    snapshots.push(stage.room.snapshot());
    let last = stage.room.snapshot();
    for snapshot in &snapshots {
        // Edits that the snapshot has already are passed over.
        assert_eq!(made(snapshot, &stage.edits).unwrap().snapshot(), last);
    }
    assert_eq!((stage.edits.len(), stage.room.clock()), (6, 6));
}

#[test]
fn edits_that_do_not_follow_are_errors() {
    let (stage, snapshots) = edited();
    let replayed = |edits: &[Value]| made(&snapshots[0], edits).map(|room| room.clock());
    assert!(matches!(replayed(&stage.edits[1..]), Err(ReplayError::Gap { at: 0, to: 2 })));
    let other = json!({"clock": 1, "diff": {"shape:x": ["remove"]}});
    assert!(matches!(replayed(&[other]), Err(ReplayError::Misfit { to: 1 })));
    assert!(matches!(replayed(&[json!([])]), Err(ReplayError::Unreadable(_))));
    assert!(matches!(
        replayed(&[json!({"clock": 1, "restored": {}})]),
        Err(ReplayError::Snapshot(_))
    ));
    assert!(matches!(made(b"[", &[]), Err(ReplayError::Snapshot(SnapshotError::Unreadable(_)))));
}

#[test]
fn records_that_are_nested_deep_are_read_again() {
    let deep = |depth: usize, leaf: u64| {
        let nested = format!("{}{leaf}{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        format!(
            r#"{{"type":"push","clientClock":1,"diff":{{"shape:a":["put",
                {{"id":"shape:a","typeName":"shape","props":{nested}}}]}}}}"#
        )
    };
    let mut stage = Stage::new();
    stage.enter(1, 8);
    for leaf in 0..3 {
        stage.hear(1, &deep(99, leaf));
    }
    assert_eq!(stage.room.clock(), 3);
    let fresh = TlsyncRoom::new(TlsyncLimits::default()).snapshot();
    assert_eq!(made(&fresh, &stage.edits).unwrap().snapshot(), stage.room.snapshot());
    // What is deeper is discarded, by a patch too; what no message can hold is no record.
    stage.hear(1, &deep(100, 7));
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let patch = |depth: usize| {
        format!(
            r#"{{"type":"push","clientClock":1,"diff":{{"shape:a":["patch",{{"b":["put",{}]}}]}}}}"#,
            nested(depth)
        )
    };
    stage.hear(1, &patch(100));
    assert_eq!(stage.room.clock(), 3);
    stage.hear(1, &patch(99));
    assert_eq!(stage.room.clock(), 4);
    let invalid = Closing::Final(Reason::InvalidRecord);
    assert_eq!(stage.hear(1, &patch(1_000)), [end(1, invalid)]);
    assert_eq!(made(&fresh, &stage.edits).unwrap().snapshot(), stage.room.snapshot());
    assert!(made(&stage.room.snapshot(), &[]).is_ok());
}

#[test]
fn lists_that_are_nested_deep_are_read_again() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    for leaf in 0..3 {
        let nested = format!("{}{leaf}{}", "[".repeat(98), "]".repeat(98));
        let text = format!(
            r#"{{"type":"push","clientClock":1,"diff":{{"shape:a":["put",
                {{"id":"shape:a","typeName":"shape","props":{{"a":{nested}}}}}]}}}}"#
        );
        stage.hear(1, &text);
    }
    assert_eq!(stage.room.clock(), 3);
    let fresh = TlsyncRoom::new(TlsyncLimits::default()).snapshot();
    assert_eq!(made(&fresh, &stage.edits).unwrap().snapshot(), stage.room.snapshot());
}

#[test]
fn a_document_that_is_begun_anew_does_not_go_on_from_the_one_before() {
    let limits = TlsyncLimits::default;
    let mut stage = Stage::new();
    stage.room = TlsyncRoom::begin(1_000, limits());
    for (socket, seen, hydration) in
        [(1, 0, "wipe_all"), (2, 999, "wipe_all"), (3, 1_000, "wipe_presence")]
    {
        stage.join(socket, &format!("s{socket}"), ALL);
        let got = stage.connect(socket, 8, seen);
        let [(_, Got::Message(message))] = &got[..] else { panic!("{got:?}") };
        assert_eq!(message["hydrationType"], hydration);
        assert_eq!(message["serverClock"], 1_000);
    }
    stage.push(1, 1, json!({"shape:a": ["put", shape("shape:a", 1)]}));
    stage.push(1, 2, json!({"shape:a": ["remove"]}));
    // The first edit says where the document began, so that it does again what it did, whenever that is.
    for clock in [0, 1_001, 5_000] {
        let mut room = TlsyncRoom::begin(clock, limits());
        for edit in &stage.edits {
            room.replay(edit.to_string().as_bytes()).unwrap();
        }
        assert_eq!(room.snapshot(), stage.room.snapshot());
        assert!(room.replay(br#"{"clock":1004,"diff":{"shape:b":["remove"]}}"#).is_err());
    }
    let begun = TlsyncRoom::begin(1_000, limits()).snapshot();
    assert_eq!(made(&begun, &stage.edits).unwrap().snapshot(), stage.room.snapshot());
    // So does whatever comes first.
    let mut room = TlsyncRoom::begin(1_000, limits());
    let effects = room.restore(stage.now, &begun).unwrap();
    let [Effect::Edit(edit)] = &effects[..] else { panic!("{effects:?}") };
    let mut again = TlsyncRoom::begin(9_000, limits());
    again.replay(edit).unwrap();
    assert_eq!(again.snapshot(), room.snapshot());
}

#[test]
fn a_restored_document_is_the_newest_of_all() {
    let (mut stage, snapshots) = edited();
    stage.room.restore(stage.now, &snapshots[1]).unwrap();
    assert!(stage.room.is_empty());
    assert_eq!(stage.room.clock(), 5);
    // Who has seen everything is told all that has become different, and all that has gone.
    stage.enter(2, 8);
    stage.push(2, 1, json!({"shape:c": ["put", shape("shape:c", 1)]}));
    stage.room.restore(stage.now, &snapshots[1]).unwrap();
    stage.join(3, "c", ALL);
    let got = stage.connect(3, 8, 6);
    let Got::Message(message) = &got[0].1 else { panic!("{got:?}") };
    assert_eq!(
        (&message["hydrationType"], &message["serverClock"]),
        (&json!("wipe_presence"), &json!(7))
    );
    assert_eq!(message["diff"]["shape:c"], json!(["remove"]));
    assert_eq!(message["diff"]["shape:a"], json!(["put", shape("shape:a", 1)]));
    assert!(stage.room.restore(stage.now, b"{}").is_err());
    assert_eq!(stage.room.sessions(), 1);
}

#[test]
fn a_new_name_is_told_to_everybody() {
    let mut stage = Stage::new();
    stage.enter(1, 8);
    stage.enter(2, 7);
    let effects = stage.room.rename(stage.now, "name");
    let named = |op: Value| json!({"document:document": ["patch", {"name": op}]});
    let put = named(json!(["put", "name"]));
    assert_eq!(data(stage.got(effects)), [patch(1, 1, &put), patch(2, 1, &put)]);
    assert_eq!(stage.edits, [json!({"clock": 1, "diff": put})]);
    let effects = stage.room.rename(stage.now, "name");
    assert_eq!(stage.got(effects), []);
    // A document without such a record has no name.
    stage.push(1, 1, json!({"document:document": ["remove"]}));
    let effects = stage.room.rename(stage.now, "other");
    assert_eq!(stage.got(effects), []);
}

#[test]
fn a_document_is_about_as_large_as_its_text() {
    let (stage, _) = edited();
    let before = stage.room.document_bytes();
    assert!((200..1_000).contains(&before), "{before}");
}
