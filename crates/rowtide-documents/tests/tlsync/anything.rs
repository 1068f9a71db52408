//! What somebody could say who means no good, or is broken: messages in which anything may be wrong, and much is right.

use proptest::collection::vec;
use proptest::prelude::*;

fn object(entries: Vec<(String, String)>) -> String {
    let entries: Vec<String> =
        entries.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    format!("{{{}}}", entries.join(","))
}

fn list(items: Vec<String>) -> String {
    format!("[{}]", items.join(","))
}

/// JSON of any kind, with what is hard to read in it.
fn value() -> impl Strategy<Value = String> + Clone {
    let leaf = prop_oneof![
        Just("null"),
        Just("true"),
        Just("0"),
        Just("-1"),
        Just("1"),
        Just("1.5"),
        Just("1e30"),
        Just("99999999999999999999"),
        Just(r#""""#),
        Just(r#""a""#),
        Just(r#""a😀é""#),
        Just(r#""\ud83d""#),
        Just(r#""put""#),
        Just(r#""shape""#),
    ]
    .prop_map(str::to_owned);
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(list),
            vec((key(), inner), 0..4).prop_map(object),
        ]
    })
    .boxed()
}

fn key() -> impl Strategy<Value = String> + Clone {
    prop_oneof![
        Just("id"),
        Just("typeName"),
        Just("props"),
        Just("meta"),
        Just("text"),
        Just("points"),
        Just("x"),
        Just("0"),
        Just("1"),
        Just("__proto__"),
        Just("constructor"),
    ]
    .prop_map(|key| format!("{key:?}"))
}

fn id() -> impl Strategy<Value = String> + Clone {
    prop_oneof![
        6 => (0..4_u8).prop_map(|n| format!("shape:{n}")),
        1 => Just("page:page".to_owned()),
        1 => Just("document:document".to_owned()),
        1 => Just("instance_presence:0000000000000007".to_owned()),
        1 => Just("__proto__".to_owned()),
        1 => Just("nothing".to_owned()),
    ]
}

fn object_diff() -> impl Strategy<Value = String> + Clone {
    let op = prop_oneof![
        4 => value().prop_map(|value| list(vec![r#""put""#.to_owned(), value])),
        2 => (value(), 0..4_u8).prop_map(|(value, at)| format!(r#"["append",{value},{at}]"#)),
        1 => Just(r#"["delete"]"#.to_owned()),
        1 => value(),
    ];
    op.prop_recursive(4, 20, 3, |inner| {
        let patch = vec((key(), inner.clone()), 0..4).prop_map(object);
        prop_oneof![inner, patch.prop_map(|diff| format!(r#"["patch",{diff}]"#))]
    })
    .prop_flat_map(|op| (key(), Just(op)))
    .prop_map(|entry| object(vec![entry]))
    .boxed()
}

fn record_op() -> impl Strategy<Value = (String, String)> {
    let record = |id: String, props: String| {
        format!(
            r#"["put",{{"id":"{id}","typeName":"shape","x":0,"props":{{"p":{props}}},"meta":{{}}}}]"#
        )
    };
    let op = prop_oneof![
        3 => Just(None),
        6 => object_diff().prop_map(|diff| Some(format!(r#"["patch",{diff}]"#))),
        1 => Just(Some(r#"["remove"]"#.to_owned())),
        1 => value().prop_map(|value| Some(format!(r#"["put",{value}]"#))),
    ];
    (id(), op, value()).prop_map(move |(id, op, props)| {
        let op = op.unwrap_or_else(|| record(id.clone(), props));
        (format!("{id:?}"), op)
    })
}

/// A message, as text.
pub(crate) fn message() -> impl Strategy<Value = String> {
    let diff = vec(record_op(), 0..3).prop_map(object).boxed();
    let presence = prop_oneof![
        object_diff().prop_map(|diff| format!(r#"["patch",{diff}]"#)),
        vec((key(), value()), 0..4).prop_map(|entries| format!(r#"["put",{}]"#, object(entries))),
    ]
    .boxed();
    let push = prop_oneof![
        4 => diff.clone().prop_map(|diff| format!(r#""diff":{diff}"#)),
        1 => presence.clone().prop_map(|presence| format!(r#""presence":{presence}"#)),
        1 => (diff, presence).prop_map(|(diff, presence)| format!(r#""diff":{diff},"presence":{presence}"#)),
    ];
    prop_oneof![
        20 => push.prop_map(|push| format!(r#"{{"type":"push","clientClock":1,{push}}}"#)),
        1 => value(),
        1 => vec((key(), value()), 0..4).prop_map(object),
        1 => value().prop_map(|value| format!(r#"{{"type":"push","clientClock":{value},"diff":{{}}}}"#)),
        1 => value().prop_map(|value| format!(
            r#"{{"type":"connect","connectRequestId":"r","protocolVersion":8,"lastServerClock":{value},"schema":{value}}}"#
        )),
        1 => ".*",
        1 => (0..3_u8, ".*").prop_map(|(n, part)| format!("{n}_{part}")),
    ]
}
