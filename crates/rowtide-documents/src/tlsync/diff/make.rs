//! The diff that leads from one state of a record to another.

use super::super::json::{Json, Object, side_by_side};
use super::{Flavour, ObjectDiff, ValueOp, utf16_len};

/// How many levels of a record are entered; what is deeper is put whole. A diff is nested twice as deep as what it
/// enters, and has to be read again, see [`MAX_DEPTH`](super::super::json::MAX_DEPTH).
const ENTERED: usize = 20;

/// The diff that leads from one state of a record to another; empty if they are equal. Of what a record has,
/// `props` are entered, and `meta` from the later flavour on; any other object is put whole. Objects in them are
/// entered too.
pub(in super::super) fn make(before: &Object, after: &Object, flavour: Flavour) -> ObjectDiff {
    of_objects(before, after, Making { flavour, level: 0 })
}

/// Where in a record a diff is made, and for whom.
#[derive(Clone, Copy)]
struct Making {
    flavour: Flavour,
    level: usize,
}

impl Making {
    fn below(self) -> Making {
        Making { level: self.level + 1, ..self }
    }

    /// Whether objects under a key are entered.
    fn enters(self, key: &str) -> bool {
        match (self.level, self.flavour) {
            (0, Flavour::Seven) => key == "props",
            (0, Flavour::Eight) => key == "props" || key == "meta",
            (level, _) => level < ENTERED,
        }
    }
}

fn of_objects(before: &Object, after: &Object, making: Making) -> ObjectDiff {
    let op = |key: &str, before: Option<&Json>, after: Option<&Json>| match (before, after) {
        (Some(before @ Json::Object(_)), Some(after @ Json::Object(_))) if !making.enters(key) => {
            put_if_other(before, after)
        }
        (Some(before), Some(after)) => of_values(before, after, making),
        (None, Some(after)) => Some(ValueOp::Put(after.clone())),
        (_, None) => Some(ValueOp::Delete),
    };
    let ops = side_by_side(before, after)
        .filter_map(|(key, before, after)| Some((key.into(), op(key, before, after)?)));
    ObjectDiff(ops.collect())
}

fn put_if_other(before: &Json, after: &Json) -> Option<ValueOp> {
    (before != after).then(|| ValueOp::Put(after.clone()))
}

/// What makes one value of another; `None` if they are equal.
fn of_values(before: &Json, after: &Json, making: Making) -> Option<ValueOp> {
    match (before, after) {
        (Json::Object(before), Json::Object(after)) => {
            let diff = of_objects(before, after, making.below());
            (!diff.0.is_empty()).then_some(ValueOp::Patch(diff))
        }
        (Json::Array(before), Json::Array(after)) => of_arrays(before, after, making),
        (Json::Text(from), Json::Text(to)) if making.flavour == Flavour::Eight => match to
            .strip_prefix(&**from)
        {
            Some("") => None,
            Some(text) => Some(ValueOp::AppendText { text: text.into(), offset: utf16_len(from) }),
            None => Some(ValueOp::Put(after.clone())),
        },
        _ => put_if_other(before, after),
    }
}

fn of_arrays(before: &[Json], after: &[Json], making: Making) -> Option<ValueOp> {
    let whole = || Some(ValueOp::Put(Json::Array(after.to_vec())));
    if before.len() == after.len() {
        // With more than a fifth of the items, and more than one, the whole is shorter.
        let most = (before.len() / 5).max(1);
        let mut ops = Vec::new();
        for (at, (before, after)) in before.iter().zip(after).enumerate() {
            if let Some(op) = of_items(before, after, making.below()) {
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
fn of_items(before: &Json, after: &Json, making: Making) -> Option<ValueOp> {
    match (before, after) {
        (Json::Object(_), Json::Object(_)) | (Json::Array(_), Json::Array(_))
            if making.level < ENTERED =>
        {
            of_values(before, after, making)
        }
        _ => put_if_other(before, after),
    }
}
