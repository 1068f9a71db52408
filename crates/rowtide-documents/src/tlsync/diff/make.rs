//! The diff that leads from one state of a record to another.

use super::super::json::{Json, Object, side_by_side};
use super::{Flavour, ObjectDiff, ValueOp, utf16_len};

/// The diff that leads from one state of a record to another; empty if they are equal. Of what a record has,
/// `props` are entered, and `meta` from the later flavour on; any other object is put whole. Objects in them are
/// entered too.
pub(in super::super) fn make(before: &Object, after: &Object, flavour: Flavour) -> ObjectDiff {
    let entered = |key: &str| match flavour {
        Flavour::Seven => key == "props",
        Flavour::Eight => key == "props" || key == "meta",
    };
    of_objects(before, after, flavour, &entered)
}

fn of_objects(
    before: &Object,
    after: &Object,
    flavour: Flavour,
    entered: &dyn Fn(&str) -> bool,
) -> ObjectDiff {
    let op = |key: &str, before: Option<&Json>, after: Option<&Json>| match (before, after) {
        (Some(Json::Object(_)), Some(Json::Object(_))) if !entered(key) => {
            (before != after).then(|| ValueOp::Put(after.cloned().unwrap_or(Json::Null)))
        }
        (Some(before), Some(after)) => of_values(before, after, flavour),
        (None, Some(after)) => Some(ValueOp::Put(after.clone())),
        (_, None) => Some(ValueOp::Delete),
    };
    let ops = side_by_side(before, after)
        .filter_map(|(key, before, after)| Some((key.into(), op(key, before, after)?)));
    ObjectDiff(ops.collect())
}

/// What makes one value of another; `None` if they are equal.
fn of_values(before: &Json, after: &Json, flavour: Flavour) -> Option<ValueOp> {
    match (before, after) {
        (Json::Object(before), Json::Object(after)) => {
            let diff = of_objects(before, after, flavour, &|_| true);
            (!diff.0.is_empty()).then_some(ValueOp::Patch(diff))
        }
        (Json::Array(before), Json::Array(after)) => of_arrays(before, after, flavour),
        (Json::Text(from), Json::Text(to)) if flavour == Flavour::Eight => match to
            .strip_prefix(&**from)
        {
            Some("") => None,
            Some(text) => Some(ValueOp::AppendText { text: text.into(), offset: utf16_len(from) }),
            None => Some(ValueOp::Put(after.clone())),
        },
        _ => (before != after).then(|| ValueOp::Put(after.clone())),
    }
}

fn of_arrays(before: &[Json], after: &[Json], flavour: Flavour) -> Option<ValueOp> {
    let whole = || Some(ValueOp::Put(Json::Array(after.to_vec())));
    if before.len() == after.len() {
        // With more than a fifth of the items, and more than one, the whole is shorter.
        let most = (before.len() / 5).max(1);
        let mut ops = Vec::new();
        for (at, (before, after)) in before.iter().zip(after).enumerate() {
            if let Some(op) = of_items(before, after, flavour) {
                if ops.len() == most {
                    return whole();
                }
                ops.push((at.to_string().into_boxed_str(), op));
            }
        }
        ops.sort_by(|(a, _), (b, _)| a.cmp(b));
        return (!ops.is_empty()).then_some(ValueOp::Patch(ObjectDiff(ops)));
    }
    match after.strip_prefix(before) {
        Some(items) => Some(ValueOp::AppendItems { items: items.to_vec(), offset: before.len() }),
        None => whole(),
    }
}

/// Items of arrays are entered if both are objects or both are arrays, and put otherwise, texts too.
fn of_items(before: &Json, after: &Json, flavour: Flavour) -> Option<ValueOp> {
    match (before, after) {
        (Json::Object(_), Json::Object(_)) | (Json::Array(_), Json::Array(_)) => {
            of_values(before, after, flavour)
        }
        _ => (before != after).then(|| ValueOp::Put(after.clone())),
    }
}
