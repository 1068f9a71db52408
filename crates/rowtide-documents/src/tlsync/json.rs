//! JSON as rooms hold it: objects are lists in the order of their keys, so that two of them are compared, and
//! a diff is laid over one, in a single walk, and so that nobody can choose keys that collide. Numbers stay as
//! they came; whether two are equal is asked of their values, because clients have doubles. A key `__proto__`
//! never comes in: clients of JavaScript would take it for something else.

use std::cmp::Ordering;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::Number;

/// The key that names an object's prototype in JavaScript.
pub(super) const PROTOTYPE: &str = "__proto__";
/// What any value counts in a [`Json::weight`], beside the bytes of its text.
pub(super) const VALUE_WEIGHT: usize = 8;
/// What a key counts, beside its bytes.
pub(super) const KEY_WEIGHT: usize = 4;

/// How deep a record, or what is put into one, may be nested. All that is written of a record is read again, and is
/// nested deeper there: [`serde_json`] reads up to 127 levels.
pub(super) const MAX_DEPTH: usize = 100;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(Number),
    Text(Box<str>),
    Array(Vec<Json>),
    Object(Object),
}

/// An object: its entries in the order of their keys, each key once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Object(Box<[(Box<str>, Json)]>);

impl Json {
    /// Text as a value.
    pub(super) fn text(text: &str) -> Json {
        Json::Text(text.into())
    }

    /// The text, if it is one.
    pub(super) fn as_text(&self) -> Option<&str> {
        if let Json::Text(text) = self { Some(text) } else { None }
    }

    /// The object, if it is one.
    pub(super) fn as_object(&self) -> Option<&Object> {
        if let Json::Object(object) = self { Some(object) } else { None }
    }

    /// About how many bytes it is as text. Every value counts at least [`VALUE_WEIGHT`], so that what it takes
    /// in memory is a small multiple of this.
    pub(super) fn weight(&self) -> usize {
        VALUE_WEIGHT
            + match self {
                Json::Null | Json::Bool(_) | Json::Number(_) => 0,
                Json::Text(text) => text.len(),
                Json::Array(items) => items.iter().map(Json::weight).sum(),
                Json::Object(object) => {
                    object.iter().map(|(key, value)| entry_weight(key, value)).sum()
                }
            }
    }

    /// How deep it is nested.
    pub(super) fn depth(&self) -> usize {
        match self {
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) => 0,
            Json::Array(items) => 1 + items.iter().map(Json::depth).max().unwrap_or(0),
            Json::Object(object) => {
                1 + object.iter().map(|(_, value)| value.depth()).max().unwrap_or(0)
            }
        }
    }

    /// Writes it as text.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_value(out, self);
    }
}

/// What an entry of an object adds to its weight.
pub(super) fn entry_weight(key: &str, value: &Json) -> usize {
    KEY_WEIGHT + key.len() + value.weight()
}

/// Writes text, a number, or a [`Json`] as JSON.
pub(super) fn write_value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("text and numbers always have a JSON form");
}

impl Object {
    /// The object of these entries; of those with one key, the last counts.
    pub(super) fn of(mut entries: Vec<(Box<str>, Json)>) -> Object {
        last_of_each(&mut entries);
        Object(entries.into())
    }

    /// The entries in the order of their keys.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, (Box<str>, Json)> {
        self.0.iter()
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Json> {
        self.find(key).map(|at| &self.0[at].1)
    }

    /// Where the entry of a key is.
    pub(super) fn find(&self, key: &str) -> Option<usize> {
        self.0.binary_search_by(|(own, _)| (**own).cmp(key)).ok()
    }

    /// The value of an entry that was found.
    pub(super) fn at_mut(&mut self, at: usize) -> &mut Json {
        &mut self.0[at].1
    }

    /// Sets the value of a key.
    pub(super) fn set(&mut self, key: &str, value: Json) {
        match self.find(key) {
            Some(at) => self.0[at].1 = value,
            None => self.merge(vec![(key.into(), value)], &[]),
        }
    }

    /// Takes entries out, by their places in ascending order, and puts in others, which are in the order of
    /// their keys and not there yet.
    pub(super) fn merge(&mut self, added: Vec<(Box<str>, Json)>, removed: &[usize]) {
        if added.is_empty() && removed.is_empty() {
            return;
        }
        let mut merged = Vec::with_capacity(self.0.len() + added.len() - removed.len());
        let mut added = added.into_iter().peekable();
        let mut removed = removed.iter().peekable();
        for (at, entry) in std::mem::take(&mut self.0).into_iter().enumerate() {
            if removed.next_if(|next| **next == at).is_some() {
                continue;
            }
            while let Some(new) = added.next_if(|(key, _)| *key < entry.0) {
                merged.push(new);
            }
            merged.push(entry);
        }
        merged.extend(added);
        self.0 = merged.into();
    }
}

/// Puts entries in the order of their keys and keeps the last of those with one key, as JavaScript does.
pub(super) fn last_of_each<T>(entries: &mut Vec<(Box<str>, T)>) {
    if entries.is_sorted_by(|(a, _), (b, _)| a < b) {
        return;
    }
    entries.reverse();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    entries.dedup_by(|(later, _), (kept, _)| later == kept);
}

impl PartialEq for Json {
    /// By value: `1` is `1.0`, and the order of keys does not count.
    fn eq(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Null, Json::Null) => true,
            (Json::Bool(a), Json::Bool(b)) => a == b,
            (Json::Number(a), Json::Number(b)) => a == b || a.as_f64() == b.as_f64(),
            (Json::Text(a), Json::Text(b)) => a == b,
            (Json::Array(a), Json::Array(b)) => a == b,
            (Json::Object(a), Json::Object(b)) => a == b,
            _ => false,
        }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_unit(),
            Json::Bool(value) => serializer.serialize_bool(*value),
            Json::Number(number) => number.serialize(serializer),
            Json::Text(text) => serializer.serialize_str(text),
            Json::Array(items) => serializer.collect_seq(items),
            Json::Object(object) => {
                serializer.collect_map(object.iter().map(|(key, value)| (key, value)))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        struct Values;
        impl<'de> Visitor<'de> for Values {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
                Ok(Json::Number(number.into()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
                Ok(Json::Number(number.into()))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Json, E> {
                let number = Number::from_f64(number).ok_or_else(|| E::custom("not a number"))?;
                Ok(Json::Number(number))
            }
            fn visit_str<E>(self, text: &str) -> Result<Json, E> {
                Ok(Json::text(text))
            }
            fn visit_string<E>(self, text: String) -> Result<Json, E> {
                Ok(Json::Text(text.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                items.shrink_to_fit();
                Ok(Json::Array(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Json, A::Error> {
                Ok(Json::Object(Object(entries(map)?.into())))
            }
        }
        deserializer.deserialize_any(Values)
    }
}

/// The entries of a map as it is read, in the order of their keys, each once.
pub(super) fn entries<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    mut map: A,
) -> Result<Vec<(Box<str>, T)>, A::Error> {
    let mut entries: Vec<(Box<str>, T)> = Vec::new();
    while let Some(key) = map.next_key::<Box<str>>()? {
        if &*key == PROTOTYPE {
            map.next_value::<de::IgnoredAny>()?;
        } else {
            entries.push((key, map.next_value()?));
        }
    }
    last_of_each(&mut entries);
    Ok(entries)
}

/// Walks through the entries of two objects at once, in the order of their keys.
pub(super) fn side_by_side<'a>(
    a: &'a Object,
    b: &'a Object,
) -> impl Iterator<Item = (&'a str, Option<&'a Json>, Option<&'a Json>)> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let left = if order.is_le() { a.next() } else { None };
        let right = if order.is_ge() { b.next() } else { None };
        let key = &left.or(right)?.0;
        Some((&**key, left.map(|(_, value)| value), right.map(|(_, value)| value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        serde_json::from_str(text).unwrap()
    }

    fn text(value: &Json) -> String {
        let mut out = Vec::new();
        value.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_come_out_as_they_came_in() {
        // This fails where a crate turns numbers of `serde_json` into text, which goes for all crates at once.
        for same in [
            r#"{"a":[1,-2,0.1,1e+21,null,true,"\n\u0000é😀"],"b":{}}"#,
            "12345678901234567890",
            "5e-324",
            "1.7976931348623157e+308",
            "9007199254740993",
        ] {
            assert_eq!(text(&json(same)), same);
        }
        assert_eq!(text(&json("-0")), "-0.0");
        assert!(serde_json::from_str::<Json>("1e999").is_err());
    }

    #[test]
    fn equality_is_by_value() {
        assert_eq!(json(r#"{"a":1,"b":[2]}"#), json(r#"{"b":[2.0],"a":1e0}"#));
        assert_eq!(json("-0"), json("0"));
        assert_ne!(json("[1]"), json("[1,1]"));
        assert_ne!(json("{}"), json("[]"));
        assert_ne!(json("0"), json("false"));
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_no_prototype_comes_in() {
        assert_eq!(text(&json(r#"{"b":1,"a":2,"b":3,"__proto__":{"c":1}}"#)), r#"{"a":2,"b":3}"#);
    }

    #[test]
    fn what_is_nested_too_deep_is_rejected() {
        assert!(serde_json::from_str::<Json>(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn entries_are_merged_in_order() {
        let Json::Object(mut object) = json(r#"{"b":1,"d":2,"f":3}"#) else { unreachable!() };
        object.merge(vec![("a".into(), Json::Null), ("e".into(), Json::Null)], &[1]);
        object.set("g", Json::Bool(true));
        object.set("b", Json::Bool(false));
        let expected = json(r#"{"a":null,"b":false,"e":null,"f":3,"g":true}"#);
        assert_eq!(Json::Object(object), expected);
    }

    #[test]
    fn a_value_is_small() {
        assert_eq!(size_of::<Json>(), 24);
    }
}
