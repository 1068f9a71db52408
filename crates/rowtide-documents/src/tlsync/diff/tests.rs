use proptest::prelude::*;

use super::super::json::{Json, Object};
use super::*;

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

fn object(text: &str) -> Object {
    let Json::Object(object) = json(text) else { panic!("{text} is no object") };
    object
}

fn written(diff: &ObjectDiff, after: &Json, flavour: Flavour) -> String {
    let mut out = Vec::new();
    diff.write(&mut out, after, flavour);
    String::from_utf8(out).unwrap()
}

/// The diff between two states, as text.
fn made(before: &str, after: &str, flavour: Flavour) -> String {
    written(&make(&object(before), &object(after), flavour), &json(after), flavour)
}

/// What comes of a diff, and what of it had an effect.
fn applied(state: &str, diff: &str, flavour: Flavour) -> (Json, String) {
    let mut state = json(state);
    let mut diff: ObjectDiff = serde_json::from_str(diff).unwrap();
    let all = diff.clone();
    let weight = state.weight();
    let applied = apply(&mut diff, &mut state, flavour);
    assert_eq!(applied.exact, diff == all);
    assert_eq!(weight + applied.gained - applied.lost, state.weight());
    let effect = written(&diff, &state, flavour);
    (state, effect)
}

const BOTH: [Flavour; 2] = [Flavour::Seven, Flavour::Eight];

#[test]
fn keys_that_are_gone_new_or_different_are_told() {
    for flavour in BOTH {
        assert_eq!(
            made(r#"{"a":1,"b":2,"c":3,"e":[1]}"#, r#"{"b":2.0,"c":4,"d":null,"e":[1]}"#, flavour),
            r#"{"a":["delete"],"c":["put",4],"d":["put",null]}"#
        );
    }
}

#[test]
fn only_props_and_later_meta_are_entered_and_all_objects_in_them() {
    let before = r#"{"props":{"a":{"b":1,"c":1}},"meta":{"a":{"b":1}},"other":{"a":1,"b":1}}"#;
    let after = r#"{"props":{"a":{"b":2,"c":1}},"meta":{"a":{"b":2}},"other":{"a":2,"b":1}}"#;
    let props = r#""props":["patch",{"a":["patch",{"b":["put",2]}]}]"#;
    let other = r#""other":["put",{"a":2,"b":1}]"#;
    let seven = format!(r#"{{"meta":["put",{{"a":{{"b":2}}}}],{other},{props}}}"#);
    let eight =
        format!(r#"{{"meta":["patch",{{"a":["patch",{{"b":["put",2]}}]}}],{other},{props}}}"#);
    assert_eq!(made(before, after, Flavour::Seven), seven);
    assert_eq!(made(before, after, Flavour::Eight), eight);
}

#[test]
fn arrays_are_patched_appended_to_or_put() {
    for flavour in BOTH {
        for (before, after, expected) in [
            // One item may always differ, and then a fifth of them.
            ("[1,2]", "[1,3]", r#"["patch",{"1":["put",3]}]"#),
            ("[1,2]", "[2,3]", r#"["put",[2,3]]"#),
            (
                "[0,0,0,0,0,0,0,0,0,0]",
                "[1,0,0,0,0,0,0,0,1,0]",
                r#"["patch",{"0":["put",1],"8":["put",1]}]"#,
            ),
            ("[0,0,0,0,0,0,0,0,0]", "[1,0,0,0,0,0,0,0,1]", r#"["put",[1,0,0,0,0,0,0,0,1]]"#),
            // Items are entered if both can be.
            (
                r#"[{"a":1,"b":1}]"#,
                r#"[{"a":2,"b":1}]"#,
                r#"["patch",{"0":["patch",{"a":["put",2]}]}]"#,
            ),
            ("[[1,2]]", "[[1,2,3]]", r#"["patch",{"0":["append",[3],2]}]"#),
            (r#"[{"a":1}]"#, "[null]", r#"["patch",{"0":["put",null]}]"#),
            (r#"[{"a":1}]"#, "[[1]]", r#"["patch",{"0":["put",[1]]}]"#),
            (r#"["a"]"#, r#"["ab"]"#, r#"["patch",{"0":["put","ab"]}]"#),
            // Longer behind what is the same, or not.
            ("[1,2]", "[1,2,3,4]", r#"["append",[3,4],2]"#),
            ("[]", "[1]", r#"["append",[1],0]"#),
            ("[1,2]", "[1,3,4]", r#"["put",[1,3,4]]"#),
            ("[1,2]", "[1]", r#"["put",[1]]"#),
            ("[1]", r#"{"0":1}"#, r#"["put",{"0":1}]"#),
        ] {
            let of = |value: &str| format!(r#"{{"a":{value},"props":{{"a":{value}}}}}"#);
            let expected = format!(r#"{{"a":{expected},"props":["patch",{{"a":{expected}}}]}}"#);
            assert_eq!(made(&of(before), &of(after), flavour), expected, "{before} {after}");
        }
    }
}

#[test]
fn texts_are_appended_to_by_utf16_units_and_only_for_those_who_know_how() {
    for (before, after, eight, seven) in [
        ("ab", "abc", r#"["append","c",2]"#, r#"["put","abc"]"#),
        ("", "a", r#"["append","a",0]"#, r#"["put","a"]"#),
        ("a😀", "a😀é", r#"["append","é",3]"#, r#"["put","a😀é"]"#),
        ("é", "éa", r#"["append","a",1]"#, r#"["put","éa"]"#),
        ("ab", "b", r#"["put","b"]"#, r#"["put","b"]"#),
        ("ab", "a", r#"["put","a"]"#, r#"["put","a"]"#),
    ] {
        let of = |text: &str| format!(r#"{{"a":"{text}","props":{{"a":"{text}"}}}}"#);
        let told = |op: &str| format!(r#"{{"a":{op},"props":["patch",{{"a":{op}}}]}}"#);
        let diff = make(&object(&of(before)), &object(&of(after)), Flavour::Eight);
        let after_state = json(&of(after));
        assert_eq!(written(&diff, &after_state, Flavour::Eight), told(eight));
        // What was made for the later flavour is told to the earlier by the whole text.
        assert_eq!(written(&diff, &after_state, Flavour::Seven), told(seven));
        assert_eq!(made(&of(before), &of(after), Flavour::Seven), told(seven));
        assert_eq!(diff.appends_text(), eight != seven);
    }
}

#[test]
fn what_fits_is_applied_and_the_rest_is_ignored() {
    let state = r#"{"a":1,"l":[1,{"b":1}],"t":"a😀","o":{"b":1}}"#;
    for (diff, expected) in [
        // Of these, all has an effect.
        (r#"{"a":["put",2]}"#, Ok(r#"{"a":2,"l":[1,{"b":1}],"t":"a😀","o":{"b":1}}"#)),
        (r#"{"b":["put",2]}"#, Ok(r#"{"a":1,"b":2,"l":[1,{"b":1}],"t":"a😀","o":{"b":1}}"#)),
        (r#"{"a":["delete"]}"#, Ok(r#"{"l":[1,{"b":1}],"t":"a😀","o":{"b":1}}"#)),
        (r#"{"l":["append",[2],2]}"#, Ok(r#"{"a":1,"l":[1,{"b":1},2],"t":"a😀","o":{"b":1}}"#)),
        (
            r#"{"l":["patch",{"0":["put",5],"1":["patch",{"b":["put",2]}]}]}"#,
            Ok(r#"{"a":1,"l":[5,{"b":2}],"t":"a😀","o":{"b":1}}"#),
        ),
        (
            r#"{"o":["patch",{"b":["delete"],"c":["put",1]}]}"#,
            Ok(r#"{"a":1,"l":[1,{"b":1}],"t":"a😀","o":{"c":1}}"#),
        ),
        // Of these, nothing has.
        (r#"{"a":["put",1.0]}"#, Err(())),
        (r#"{"o":["put",{"b":1}]}"#, Err(())),
        (r#"{"b":["delete"]}"#, Err(())),
        (r#"{"l":["append",[2],1]}"#, Err(())),
        (r#"{"l":["append",[],2]}"#, Err(())),
        (r#"{"o":["append",[],0]}"#, Err(())),
        (r#"{"t":["append",[1],3]}"#, Err(())),
        (r#"{"l":["append","a",2]}"#, Err(())),
        (r#"{"a":["patch",{"b":["put",1]}]}"#, Err(())),
        (r#"{"t":["patch",{"0":["put","b"]}]}"#, Err(())),
        (r#"{"b":["patch",{"b":["put",1]}]}"#, Err(())),
        (r#"{"o":["patch",{}]}"#, Err(())),
        (r#"{"l":["patch",{"2":["put",1]}]}"#, Err(())),
        (r#"{"l":["patch",{"00":["put",5],"+1":["put",5],"-1":["put",5],"":["put",5]}]}"#, Err(())),
        (r#"{"l":["patch",{"99999999999999999999999":["put",5],"length":["put",0]}]}"#, Err(())),
        (r#"{"l":["patch",{"0":["delete"]}]}"#, Err(())),
        (r#"{"__proto__":["put",{"b":1}]}"#, Err(())),
        (r#"{"o":["patch",{"__proto__":["put",1]}]}"#, Err(())),
    ] {
        for flavour in BOTH {
            let (after, effect) = applied(state, diff, flavour);
            assert_eq!(after, json(expected.unwrap_or(state)), "{diff}");
            assert_eq!(json(&effect), json(expected.map_or("{}", |_| diff)), "{diff}");
        }
    }
}

#[test]
fn what_has_an_effect_is_told_without_what_has_none() {
    let diff = r#"{"a":["put",1],"b":["put",2],"o":["patch",{"b":["put",2],"c":["delete"]}]}"#;
    let (after, effect) = applied(r#"{"a":1,"o":{"b":1}}"#, diff, Flavour::Eight);
    assert_eq!(after, json(r#"{"a":1,"b":2,"o":{"b":2}}"#));
    assert_eq!(effect, r#"{"b":["put",2],"o":["patch",{"b":["put",2]}]}"#);
}

#[test]
fn texts_are_appended_to_at_their_end_and_not_by_those_who_do_not_know_how() {
    for (diff, expected) in [
        (r#"{"t":["append","b",3]}"#, r#"{"t":"a😀b"}"#),
        (r#"{"t":["append","b",2]}"#, r#"{"t":"a😀"}"#),
        (r#"{"t":["append","b",5]}"#, r#"{"t":"a😀"}"#),
        (r#"{"t":["append","",3]}"#, r#"{"t":"a😀"}"#),
    ] {
        assert_eq!(applied(r#"{"t":"a😀"}"#, diff, Flavour::Eight).0, json(expected), "{diff}");
        assert_eq!(applied(r#"{"t":"a😀"}"#, diff, Flavour::Seven).0, json(r#"{"t":"a😀"}"#));
    }
}

#[test]
fn numbers_stay_as_they_came() {
    for number in ["1", "-7", "0.1", "1e+21", "5e-324", "12345678901234567890", "-0.0"] {
        let diff = format!(r#"{{"a":["put",{number}]}}"#);
        assert_eq!(applied("{}", &diff, Flavour::Eight).1, diff);
    }
}

#[test]
fn what_nobody_can_do_is_no_diff() {
    for text in [
        "[]",
        "null",
        r#"{"a":[]}"#,
        r#"{"a":["put"]}"#,
        r#"{"a":"put"}"#,
        r#"{"a":["swap",1]}"#,
        r#"{"a":["append",[1]]}"#,
        r#"{"a":["append",{},1]}"#,
        r#"{"a":["append",[1],-1]}"#,
        r#"{"a":["patch",[1]]}"#,
        r#"{"a":["remove"]}"#,
    ] {
        assert!(serde_json::from_str::<ObjectDiff>(text).is_err(), "{text}");
    }
    assert!(serde_json::from_str::<ObjectDiff>(r#"{"a":["delete",1,{}]}"#).is_ok());
    assert!(serde_json::from_str::<RecordsDiff>(r#"{"a":["delete"]}"#).is_err());
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        (0..4_i32).prop_map(|n| n.to_string()),
        (0..4_i32).prop_map(|n| format!("{n}.5")),
        "[ab😀]{0,4}".prop_map(|text| format!("{text:?}")),
    ];
    leaf.prop_recursive(4, 40, 7, |inner| {
        let entries = proptest::collection::vec(("[abc]", inner.clone()), 0..4);
        let entries = entries.prop_map(|entries| {
            let entries: Vec<_> = entries.iter().map(|(k, v)| format!("{k:?}:{v}")).collect();
            format!("{{{}}}", entries.join(","))
        });
        let items = proptest::collection::vec(inner, 0..7);
        prop_oneof![entries, items.prop_map(|items| format!("[{}]", items.join(",")))]
    })
}

fn record() -> impl Strategy<Value = String> {
    (value(), value(), value()).prop_map(|(props, meta, a)| {
        format!(r#"{{"props":{{"p":{props}}},"meta":{{"m":{meta}}},"a":{a}}}"#)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_diff_leads_from_one_state_to_the_other(before in record(), after in record()) {
        for (made_for, read_by) in [
            (Flavour::Seven, Flavour::Seven),
            (Flavour::Eight, Flavour::Eight),
            (Flavour::Eight, Flavour::Seven),
        ] {
            let diff = make(&object(&before), &object(&after), made_for);
            prop_assert_eq!(diff.0.is_empty(), json(&before) == json(&after));
            let text = written(&diff, &json(&after), read_by);
            let (state, effect) = applied(&before, &text, read_by);
            prop_assert_eq!(state, json(&after));
            prop_assert_eq!(effect, text);
        }
    }

    #[test]
    fn what_had_an_effect_leads_to_the_same(state in record(), a in record(), b in record()) {
        let text = written(&make(&object(&a), &object(&b), Flavour::Eight), &json(&b), Flavour::Eight);
        let (after, effect) = applied(&state, &text, Flavour::Eight);
        let (again, all) = applied(&state, &effect, Flavour::Eight);
        prop_assert_eq!(&again, &after);
        prop_assert_eq!(all, effect.clone());
        prop_assert_eq!(effect == "{}", after == json(&state));
    }
}
