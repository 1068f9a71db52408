//! Diffs of records, as clients send them and are sent them: made of two states, laid over a state, written.
//! Laying one over a state leaves of it what had an effect, which is what others are to be told. What does not
//! fit is no error: somebody else was faster. Older clients do not know how to append to a text, so for them the
//! whole text is written instead.

mod apply;
mod make;

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json::{self, Json, write_value};

pub(super) use apply::apply;
pub(super) use make::make;

/// Which diffs a client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// Up to version 7 of the protocol: texts are never appended to.
    Seven,
    /// From version 8 on.
    Eight,
}

/// What becomes of the entries of an object, or of the items of an array by their index: in the order of the
/// keys, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ObjectDiff(pub(super) Vec<(Box<str>, ValueOp)>);

/// What becomes of a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ValueOp {
    Put(Json),
    Patch(ObjectDiff),
    /// To an array that has exactly `offset` items.
    AppendItems {
        items: Vec<Json>,
        offset: usize,
    },
    /// To a text that has exactly `offset` UTF-16 units.
    AppendText {
        text: Box<str>,
        offset: usize,
    },
    Delete,
}

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RecordOp {
    Put(Json),
    Patch(ObjectDiff),
    Remove,
}

/// What becomes of records, by their ids: in the order of the ids, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RecordsDiff(pub(super) Vec<(Box<str>, RecordOp)>);

/// How many UTF-16 units a text has, which is its length for clients.
pub(super) fn utf16_len(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.encode_utf16().count() }
}

impl ObjectDiff {
    /// What becomes of a key.
    pub(super) fn get(&self, key: &str) -> Option<&ValueOp> {
        let at = self.0.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// Whether it appends to a text somewhere, so that it is not the same for each [`Flavour`].
    pub(super) fn appends_text(&self) -> bool {
        self.0.iter().any(|(_, op)| match op {
            ValueOp::AppendText { .. } => true,
            ValueOp::Patch(inner) => inner.appends_text(),
            ValueOp::Put(_) | ValueOp::AppendItems { .. } | ValueOp::Delete => false,
        })
    }

    /// About by how many bytes a record can grow by it.
    pub(super) fn weight(&self) -> usize {
        let of_op = |op: &ValueOp| match op {
            ValueOp::Put(value) => value.weight(),
            ValueOp::Patch(inner) => inner.weight(),
            ValueOp::AppendItems { items, .. } => items.iter().map(Json::weight).sum(),
            ValueOp::AppendText { text, .. } => text.len(),
            ValueOp::Delete => 0,
        };
        self.0.iter().map(|(key, op)| key.len() + 8 + of_op(op)).sum()
    }

    /// How deep what it puts is nested, with the objects and arrays that it is put into.
    pub(super) fn depth(&self) -> usize {
        let of_op = |op: &ValueOp| match op {
            ValueOp::Put(value) => value.depth(),
            ValueOp::Patch(inner) => inner.depth(),
            ValueOp::AppendItems { items, .. } => {
                1 + items.iter().map(Json::depth).max().unwrap_or(0)
            }
            ValueOp::AppendText { .. } | ValueOp::Delete => 0,
        };
        1 + self.0.iter().map(|(_, op)| of_op(op)).max().unwrap_or(0)
    }

    /// Writes it for clients of a flavour; `after` is the value that it has led to.
    pub(super) fn write(&self, out: &mut Vec<u8>, after: &Json, flavour: Flavour) {
        out.push(b'{');
        for (n, (key, op)) in self.0.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            write_value(out, key);
            out.push(b':');
            let after = match after {
                Json::Object(object) => object.get(key),
                Json::Array(items) => index(key).and_then(|at| items.get(at)),
                _ => None,
            };
            op.write(out, after.unwrap_or(&Json::Null), flavour);
        }
        out.push(b'}');
    }
}

impl ValueOp {
    fn write(&self, out: &mut Vec<u8>, after: &Json, flavour: Flavour) {
        match self {
            ValueOp::Put(value) => write_put(out, value),
            ValueOp::AppendText { .. } if flavour == Flavour::Seven => write_put(out, after),
            ValueOp::Patch(inner) => write_patch(out, inner, after, flavour),
            ValueOp::AppendItems { items, offset } => write_append(out, items, *offset),
            ValueOp::AppendText { text, offset } => write_append(out, text, *offset),
            ValueOp::Delete => out.extend_from_slice(br#"["delete"]"#),
        }
    }
}

/// Writes that a value, or a record, is put.
pub(super) fn write_put(out: &mut Vec<u8>, value: &Json) {
    out.extend_from_slice(br#"["put","#);
    value.write(out);
    out.push(b']');
}

/// Writes that a value, or a record, is patched, and has become `after`.
pub(super) fn write_patch(out: &mut Vec<u8>, diff: &ObjectDiff, after: &Json, flavour: Flavour) {
    out.extend_from_slice(br#"["patch","#);
    diff.write(out, after, flavour);
    out.push(b']');
}

fn write_append<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, values: &T, offset: usize) {
    out.extend_from_slice(br#"["append","#);
    write_value(out, values);
    out.push(b',');
    write_value(out, &offset);
    out.push(b']');
}

/// The index that a key of an array's diff names: written as JavaScript writes it.
fn index(key: &str) -> Option<usize> {
    let canonical = key == "0" || !key.starts_with(['0', '+']);
    if canonical { key.parse().ok() } else { None }
}

/// Reads a list whose first item is the name of what it says.
struct Named<T>(PhantomData<T>);

/// What can be read behind a name.
trait ReadNamed<'de>: Sized {
    fn read<A: SeqAccess<'de>>(name: &str, seq: &mut A) -> Result<Self, A::Error>;
}

impl<'de, T: ReadNamed<'de>> Visitor<'de> for Named<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list that begins with what is done")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        let name: Box<str> = next(&mut seq)?;
        let named = T::read(&name, &mut seq)?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(named)
    }
}

fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| de::Error::custom("the list ends too early"))
}

impl<'de> ReadNamed<'de> for ValueOp {
    fn read<A: SeqAccess<'de>>(name: &str, seq: &mut A) -> Result<ValueOp, A::Error> {
        Ok(match name {
            "put" => ValueOp::Put(next(seq)?),
            "patch" => ValueOp::Patch(next(seq)?),
            "append" => match (next(seq)?, next(seq)?) {
                (Json::Array(items), offset) => ValueOp::AppendItems { items, offset },
                (Json::Text(text), offset) => ValueOp::AppendText { text, offset },
                _ => return Err(de::Error::custom("neither a list nor a text is appended")),
            },
            "delete" => ValueOp::Delete,
            _ => return Err(de::Error::custom("nobody can do this to a value")),
        })
    }
}

impl<'de> ReadNamed<'de> for RecordOp {
    fn read<A: SeqAccess<'de>>(name: &str, seq: &mut A) -> Result<RecordOp, A::Error> {
        Ok(match name {
            "put" => RecordOp::Put(next(seq)?),
            "patch" => RecordOp::Patch(next(seq)?),
            "remove" => RecordOp::Remove,
            _ => return Err(de::Error::custom("nobody can do this to a record")),
        })
    }
}

impl<'de> Deserialize<'de> for ValueOp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ValueOp, D::Error> {
        deserializer.deserialize_seq(Named(PhantomData))
    }
}

impl<'de> Deserialize<'de> for RecordOp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RecordOp, D::Error> {
        deserializer.deserialize_seq(Named(PhantomData))
    }
}

/// Reads the entries of an object.
struct Entries<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
    type Value = Vec<(Box<str>, T)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        json::entries(map)
    }
}

impl<'de> Deserialize<'de> for ObjectDiff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ObjectDiff, D::Error> {
        deserializer.deserialize_map(Entries(PhantomData)).map(ObjectDiff)
    }
}

impl<'de> Deserialize<'de> for RecordsDiff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RecordsDiff, D::Error> {
        deserializer.deserialize_map(Entries(PhantomData)).map(RecordsDiff)
    }
}

#[cfg(test)]
mod tests;
