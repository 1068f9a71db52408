use super::super::snapshot;
use super::*;

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::read(json(r#"{"schemaVersion":2,"sequences":{"a":1}}"#)).unwrap())
}

fn push(document: &mut Document, diff: &str, limits: &TlsyncLimits) -> Result<bool, InvalidRecord> {
    let diff = serde_json::from_str(diff).unwrap();
    let change = document.push(diff, Flavour::Eight, &schema(), limits)?;
    assert_eq!(document.weight, document.records.values().map(|r| r.weight).sum::<usize>());
    for record in document.records.values_mut() {
        let weight = record.value().weight();
        assert_eq!(record.weight, weight);
    }
    Ok(!change.became.is_empty())
}

fn page(id: &str, name: &str) -> String {
    format!(r#""page:{id}":["put",{{"id":"page:{id}","typeName":"page","name":"{name}"}}]"#)
}

/// What somebody is told who has seen some clock: how, and ids of what is there and what is not.
fn told(document: &Document, seen: i64) -> (Hydration, Vec<String>, Vec<String>) {
    let mut entries = Entries::default();
    let hydration = document.hydrate(seen, None, &mut entries);
    let text = format!("{{{}}}", std::str::from_utf8(entries.as_bytes()).unwrap());
    let diff: RecordsDiff = serde_json::from_str(&text).unwrap();
    let (mut put, mut removed) = (Vec::new(), Vec::new());
    for (id, op) in diff.0 {
        match op {
            RecordOp::Put(_) => put.push(id.into()),
            RecordOp::Remove => removed.push(id.into()),
            RecordOp::Patch(_) => panic!("a patch of what nobody has"),
        }
    }
    (hydration, put, removed)
}

#[test]
fn a_new_document_is_told_whole_to_somebody_who_has_seen_nothing() {
    let document = Document::begin(0);
    let all = vec!["document:document".to_owned(), "page:page".to_owned()];
    assert_eq!(told(&document, 0), (Hydration::WipePresence, all.clone(), vec![]));
    assert_eq!(told(&document, -1), (Hydration::WipeAll, all.clone(), vec![]));
    assert_eq!(told(&document, 1), (Hydration::WipeAll, all, vec![]));
}

#[test]
fn somebody_who_was_away_is_told_what_changed_and_what_was_removed() {
    let (mut document, limits) = (Document::begin(0), TlsyncLimits::default());
    assert_eq!(
        push(&mut document, &format!("{{{},{}}}", page("a", ""), page("b", "")), &limits),
        Ok(true)
    );
    assert_eq!(
        push(&mut document, r#"{"page:a":["remove"],"page:x":["remove"]}"#, &limits),
        Ok(true)
    );
    assert_eq!(
        push(&mut document, r#"{"page:b":["patch",{"name":["put","c"]}]}"#, &limits),
        Ok(true)
    );
    assert_eq!(document.clock, 3);
    let (a, b) = ("page:a".to_owned(), "page:b".to_owned());
    assert_eq!(told(&document, 1), (Hydration::WipePresence, vec![b.clone()], vec![a]));
    assert_eq!(told(&document, 2), (Hydration::WipePresence, vec![b], vec![]));
    assert_eq!(told(&document, 3), (Hydration::WipePresence, vec![], vec![]));
    assert_eq!(told(&document, 4).0, Hydration::WipeAll);
    // What is there again was not removed.
    assert_eq!(push(&mut document, &format!("{{{}}}", page("a", "")), &limits), Ok(true));
    assert_eq!(told(&document, 1).2, Vec::<String>::new());
}

#[test]
fn a_push_is_done_whole_or_not_at_all() {
    let (mut document, limits) = (Document::begin(0), TlsyncLimits::default());
    let before = snapshot::write(&document, None);
    for wrong in [
        r#""page:z":["put",{"id":"page:z","typeName":"shape"}]"#,
        r#""instance_presence:z":["put",{"id":"instance_presence:z","typeName":"instance_presence"}]"#,
        r#""page:page":["patch",{"id":["put","page:z"]}]"#,
    ] {
        let diff = format!("{{{},{wrong}}}", page("a", ""));
        assert_eq!(push(&mut document, &diff, &limits), Err(InvalidRecord), "{wrong}");
        assert_eq!(snapshot::write(&document, None), before);
    }
}

#[test]
fn what_has_no_effect_moves_no_clock() {
    let (mut document, limits) = (Document::begin(0), TlsyncLimits::default());
    for nothing in [
        "{}",
        r#"{"page:x":["remove"],"page:y":["patch",{"a":["put",1]}]}"#,
        r#"{"page:page":["patch",{"name":["put","Page 1"]}]}"#,
        r#"{"page:page":["put",{"id":"page:page","typeName":"page","name":"Page 1","index":"a1","meta":{}}]}"#,
    ] {
        assert_eq!(push(&mut document, nothing, &limits), Ok(false), "{nothing}");
        assert_eq!(document.clock, 0);
    }
}

#[test]
fn removals_are_forgotten_by_whole_clocks_and_history_begins_behind_them() {
    let limits = TlsyncLimits { tombstones: 3, tombstones_slack: 2, ..TlsyncLimits::default() };
    let mut document = Document::begin(0);
    let ids = ["a", "b", "c", "d", "e", "f"];
    let all: Vec<_> = ids.iter().map(|id| page(id, "")).collect();
    push(&mut document, &format!("{{{}}}", all.join(",")), &limits).unwrap();
    for removed in [&ids[..1], &ids[1..4], &ids[4..5]] {
        let diff: Vec<_> = removed.iter().map(|id| format!(r#""page:{id}":["remove"]"#)).collect();
        push(&mut document, &format!("{{{}}}", diff.join(",")), &limits).unwrap();
    }
    assert_eq!((document.clock, document.tombstones.len(), document.history_start), (4, 5, 0));
    push(&mut document, r#"{"page:f":["remove"]}"#, &limits).unwrap();
    // Three would be kept, but two of those that were removed at clock 3 cannot be forgotten without the third.
    assert_eq!((document.tombstones.len(), document.history_start), (2, 3));
    assert_eq!(told(&document, 2).0, Hydration::WipeAll);
    assert_eq!(told(&document, 3).2, ["page:e", "page:f"]);
}

#[test]
fn a_document_does_not_grow_beyond_its_limits_but_shrinks() {
    let roomy = TlsyncLimits::default();
    let mut document = Document::begin(0);
    push(&mut document, &format!("{{{}}}", page("a", &"x".repeat(1_000))), &roomy).unwrap();
    let (records, weight) = (document.records.len(), document.weight);
    for tight in [
        TlsyncLimits { records, ..roomy.clone() },
        TlsyncLimits { document_bytes: weight, ..roomy.clone() },
        TlsyncLimits { record_bytes: 50, ..roomy.clone() },
    ] {
        assert_eq!(push(&mut document, &format!("{{{}}}", page("b", "")), &tight), Ok(false));
        assert_eq!(push(&mut document, r#"{"page:b":["remove"]}"#, &tight), Ok(false));
    }
    // One may come where another goes.
    let tight = TlsyncLimits { records, document_bytes: weight, ..roomy.clone() };
    let instead = format!(r#"{{"page:a":["remove"],{}}}"#, page("b", &"x".repeat(1_000)));
    assert_eq!(push(&mut document, &instead, &tight), Ok(true));
    let instead = format!(r#"{{"page:b":["remove"],{}}}"#, page("a", &"x".repeat(1_000)));
    assert_eq!(push(&mut document, &instead, &tight), Ok(true));
    let tight = TlsyncLimits { document_bytes: weight, ..roomy };
    assert_eq!(
        push(&mut document, r#"{"page:a":["patch",{"name":["append","x",1000]}]}"#, &tight),
        Ok(false)
    );
    assert_eq!(push(&mut document, &format!("{{{}}}", page("a", "x")), &tight), Ok(true));
    assert_eq!(
        push(&mut document, r#"{"page:a":["patch",{"name":["append","x",1]}]}"#, &tight),
        Ok(true)
    );
}

#[test]
fn a_snapshot_is_read_as_it_was_written() {
    let (mut document, limits) = (Document::begin(0), TlsyncLimits::default());
    let fresh = snapshot::write(&document, None);
    assert_eq!(snapshot::write(&snapshot::read(&fresh).unwrap(), None), fresh);
    assert!(snapshot::read(&fresh).unwrap().schema.is_none());
    push(&mut document, &format!("{{{},{}}}", page("a", "é\\\""), page("b", "")), &limits).unwrap();
    push(&mut document, r#"{"page:b":["remove"]}"#, &limits).unwrap();
    document.schema = Some(schema());
    document.history_start = 1;
    let written = snapshot::write(&document, None);
    let read = snapshot::read(&written).unwrap();
    assert_eq!((read.clock, read.history_start, read.weight), (2, 1, document.weight));
    assert_eq!(read.tombstones, BTreeMap::from([("page:b".into(), 2)]));
    assert_eq!(read.records["page:a"].changed_at, 1);
    assert_eq!(read.schema.as_ref().unwrap().serves(&schema()), Ok(()));
    assert_eq!(snapshot::write(&read, None), written);
}

#[test]
fn snapshots_of_other_servers_are_read() {
    let record = r#"{"state":{"id":"page:a","typeName":"page"},"lastChangedClock":9}"#;
    let older =
        format!(r#"{{"clock":7,"documents":[{record}],"tombstones":{{"page:b":3,"page:a":2}}}}"#);
    let read = snapshot::read(older.as_bytes()).unwrap();
    assert_eq!((read.clock, read.history_start), (7, 7));
    assert_eq!(read.records["page:a"].changed_at, 7);
    assert_eq!(read.tombstones, BTreeMap::from([("page:b".into(), 3)]));
    // A document without a schema is from before there were any: nobody of today can read it.
    assert!(read.schema.unwrap().serves(&schema()).is_err());
    let newer = format!(
        r#"{{"clock":1,"documentClock":7,"tombstoneHistoryStartsAtClock":5,"documents":[{record}]}}"#
    );
    let read = snapshot::read(newer.as_bytes()).unwrap();
    assert_eq!((read.clock, read.history_start), (7, 5));
}

#[test]
fn what_is_no_snapshot_is_an_error() {
    for wrong in [
        "",
        "[]",
        r#"{"documents":[]}"#,
        r#"{"clock":1e300,"documents":[]}"#,
        r#"{"clock":9007199254740993,"documents":[]}"#,
        r#"{"clock":-1,"documents":[]}"#,
        r#"{"clock":1}"#,
        r#"{"clock":1,"documents":[],"schema":{}}"#,
        r#"{"clock":1,"documents":[{"state":{"id":"a"},"lastChangedClock":1}]}"#,
        r#"{"clock":1,"documents":[{"state":{"id":"a","typeName":"b"}}]}"#,
    ] {
        assert!(snapshot::read(wrong.as_bytes()).is_err(), "{wrong}");
    }
    let deep = format!(
        r#"{{"clock":1,"documents":[{{"state":{}1{},"lastChangedClock":1}}]}}"#,
        r#"{"id":"a","typeName":"b","c":"#.repeat(1_000),
        "}".repeat(1_000)
    );
    assert!(snapshot::read(deep.as_bytes()).is_err());
}
