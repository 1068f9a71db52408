//! Diffs as a browser makes and applies them, written again from what it does and on other values, so that what the
//! room thinks of them is compared with something.

use serde_json::{Map, Value, json};

/// Records by id.
pub(crate) type Records = std::collections::BTreeMap<String, Value>;

/// Whether each operation must have an effect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Exactly,
    AsFarAsPossible,
}

fn utf16(text: &str) -> usize {
    text.encode_utf16().count()
}

/// The diff from one state of a record to another, as clients of a version make it.
pub(crate) fn of_records(before: &Value, after: &Value, version: u8) -> Map<String, Value> {
    let entered: &[&str] = if version < 8 { &["props"] } else { &["props", "meta"] };
    of_objects(before.as_object().unwrap(), after.as_object().unwrap(), version, Some(entered))
}

fn of_objects(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    version: u8,
    entered: Option<&[&str]>,
) -> Map<String, Value> {
    let mut diff = Map::new();
    for (key, old) in before {
        let Some(new) = after.get(key) else {
            diff.insert(key.clone(), json!(["delete"]));
            continue;
        };
        let enter = !old.is_object() || entered.is_none_or(|keys| keys.contains(&&**key));
        let op = if enter {
            of_values(old, new, version)
        } else {
            (old != new).then(|| json!(["put", new]))
        };
        diff.extend(op.map(|op| (key.clone(), op)));
    }
    for (key, new) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        diff.insert(key.clone(), json!(["put", new]));
    }
    diff
}

fn of_values(before: &Value, after: &Value, version: u8) -> Option<Value> {
    match (before, after) {
        _ if before == after => None,
        (Value::Array(old), Value::Array(new)) => Some(of_arrays(old, new, version)),
        (Value::Object(old), Value::Object(new)) => {
            Some(json!(["patch", of_objects(old, new, version, None)]))
        }
        (Value::String(old), Value::String(new)) if version >= 8 && new.starts_with(&**old) => {
            Some(json!(["append", new[old.len()..], utf16(old)]))
        }
        _ => Some(json!(["put", after])),
    }
}

fn of_arrays(before: &[Value], after: &[Value], version: u8) -> Value {
    if before.len() == after.len() {
        let differ: Vec<usize> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
        if differ.len() as f64 > (before.len() as f64 / 5.0).max(1.0) {
            return json!(["put", after]);
        }
        let mut diff = Map::new();
        for at in differ {
            let (old, new) = (&before[at], &after[at]);
            let enter = (old.is_object() && new.is_object()) || (old.is_array() && new.is_array());
            let op = if enter { of_values(old, new, version) } else { None };
            diff.insert(at.to_string(), op.unwrap_or_else(|| json!(["put", new])));
        }
        json!(["patch", diff])
    } else if after.len() > before.len() && after[..before.len()] == *before {
        json!(["append", after[before.len()..], before.len()])
    } else {
        json!(["put", after])
    }
}

/// The diff between all records, or `None` if they are the same.
pub(crate) fn between(before: &Records, after: &Records, version: u8) -> Option<Value> {
    let mut diff = Map::new();
    for (id, new) in after {
        match before.get(id) {
            None => diff.insert(id.clone(), json!(["put", new])),
            Some(old) if old != new => {
                diff.insert(id.clone(), json!(["patch", of_records(old, new, version)]))
            }
            Some(_) => None,
        };
    }
    for id in before.keys().filter(|id| !after.contains_key(*id)) {
        diff.insert(id.clone(), json!(["remove"]));
    }
    if diff.is_empty() { None } else { Some(Value::Object(diff)) }
}

/// Applies a diff of records as a client of a version does.
pub(crate) fn apply(records: &mut Records, diff: &Value, version: u8, fit: Fit) {
    for (id, op) in diff.as_object().unwrap() {
        let there = records.get_mut(id);
        let fits = match (op[0].as_str().unwrap(), there) {
            ("put", there) => {
                let fits = there.is_none();
                records.insert(id.clone(), op[1].clone());
                fits
            }
            ("patch", Some(record)) => apply_to_value(record, &op[1], version, fit),
            ("remove", Some(_)) => records.remove(id).is_some(),
            ("patch" | "remove", None) => false,
            (other, _) => panic!("no client knows {other}"),
        };
        assert!(fits || fit == Fit::AsFarAsPossible, "{id} {op} has no effect");
    }
}

/// Whether it had an effect.
fn apply_to_value(value: &mut Value, diff: &Value, version: u8, fit: Fit) -> bool {
    let mut any = false;
    for (key, op) in diff.as_object().unwrap() {
        let slot = match value {
            Value::Object(object) => object.get_mut(key),
            Value::Array(items) => key.parse::<usize>().ok().and_then(|at| items.get_mut(at)),
            _ => return false,
        };
        let fits = match (op[0].as_str().unwrap(), slot, &op[1]) {
            ("put", Some(slot), new) => std::mem::replace(slot, new.clone()) != *new,
            ("put", None, new) => {
                let Value::Object(object) = &mut *value else { panic!("{op} behind an array") };
                object.insert(key.clone(), new.clone());
                true
            }
            ("patch", Some(slot), inner) => apply_to_value(slot, inner, version, fit),
            ("append", Some(Value::Array(own)), Value::Array(more)) => {
                let fits = op[2] == own.len() && !more.is_empty();
                own.extend(more.iter().filter(|_| fits).cloned());
                fits
            }
            ("append", slot, Value::String(more)) => {
                assert!(version >= 8 || fit != Fit::Exactly, "an older client is to append a text");
                match slot {
                    Some(Value::String(own)) if version >= 8 && op[2] == utf16(own) => {
                        *own += more;
                        !more.is_empty()
                    }
                    _ => false,
                }
            }
            ("delete", Some(_), _) => {
                let Value::Object(object) = &mut *value else { panic!("{op} in an array") };
                object.remove(key);
                true
            }
            ("patch" | "append" | "delete", ..) => false,
            (other, ..) => panic!("no client knows {other}"),
        };
        assert!(fits || fit == Fit::AsFarAsPossible, "{key} {op} has no effect");
        any |= fits;
    }
    any
}
