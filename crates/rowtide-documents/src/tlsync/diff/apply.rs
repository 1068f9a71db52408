//! A diff laid over a state.

use super::super::json::{Json, Object, entry_weight};
use super::{Flavour, ObjectDiff, ValueOp, index, utf16_len};

/// What came of a diff that was laid over a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Applied {
    /// Whether all of it had an effect.
    pub(in super::super) exact: bool,
    /// What the [`Json::weight`] of the record has lost.
    pub(in super::super) lost: usize,
    /// What it has gained.
    pub(in super::super) gained: usize,
}

/// Lays a diff of a client of some flavour over a value, and takes out of it what had no effect.
pub(in super::super) fn apply(
    diff: &mut ObjectDiff,
    value: &mut Json,
    flavour: Flavour,
) -> Applied {
    let mut applying = Applying { flavour, applied: Applied { exact: true, lost: 0, gained: 0 } };
    applying.lay(diff, value);
    applying.applied
}

struct Applying {
    flavour: Flavour,
    applied: Applied,
}

impl Applying {
    /// Whether it had any effect.
    fn lay(&mut self, diff: &mut ObjectDiff, value: &mut Json) -> bool {
        let before = diff.0.len();
        match value {
            Json::Object(object) => self.lay_over_object(diff, object),
            Json::Array(items) => diff.0.retain_mut(|(key, op)| {
                // Nothing puts an item behind the end, or takes one out of the middle.
                index(key)
                    .and_then(|at| items.get_mut(at))
                    .is_some_and(|item| self.change(op, item))
            }),
            _ => diff.0.clear(),
        }
        self.applied.exact &= diff.0.len() == before;
        !diff.0.is_empty()
    }

    fn lay_over_object(&mut self, diff: &mut ObjectDiff, object: &mut Object) {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        diff.0.retain_mut(|(key, op)| match (object.find(key), &mut *op) {
            (Some(at), ValueOp::Delete) => {
                self.applied.lost += entry_weight(key, object.at_mut(at));
                removed.push(at);
                true
            }
            (Some(at), op) => self.change(op, object.at_mut(at)),
            (None, ValueOp::Put(value)) => {
                self.applied.gained += entry_weight(key, value);
                added.push((key.clone(), value.clone()));
                true
            }
            (None, _) => false,
        });
        object.merge(added, &removed);
    }

    /// Does to a value that is there what is not `delete`; whether it had any effect.
    fn change(&mut self, op: &mut ValueOp, value: &mut Json) -> bool {
        match (op, value) {
            (ValueOp::Put(new), value) if new != value => {
                self.applied.lost += value.weight();
                self.applied.gained += new.weight();
                value.clone_from(new);
                true
            }
            (ValueOp::Patch(inner), value @ (Json::Object(_) | Json::Array(_))) => {
                self.lay(inner, value)
            }
            (ValueOp::AppendItems { items, offset }, Json::Array(own))
                if own.len() == *offset && !items.is_empty() =>
            {
                self.applied.gained += items.iter().map(Json::weight).sum::<usize>();
                own.extend_from_slice(items);
                true
            }
            (ValueOp::AppendText { text, offset }, Json::Text(own))
                if self.flavour == Flavour::Eight
                    && utf16_len(own) == *offset
                    && !text.is_empty() =>
            {
                self.applied.gained += text.len();
                *own = [&**own, &**text].concat().into();
                true
            }
            _ => false,
        }
    }
}
