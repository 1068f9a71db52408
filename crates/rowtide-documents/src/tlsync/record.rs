//! A record of a document. A record that was loaded stays the text that it was, which is small and is sent as it
//! is; it becomes a value when somebody changes it. What a record must be is asked here, as far as one can know
//! without the code of the release that made it: a record that clients cannot read would break the room for all.

use serde_json::value::RawValue;

use super::diff::{ObjectDiff, ValueOp};
use super::json::Json;
use super::limits::TlsyncLimits;
use super::surrogates;
use super::survey::Survey;

/// The keys of a record under which it has an object.
const OBJECTS: [&str; 2] = ["props", "meta"];

/// A record that no client could read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidRecord;

/// A record.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// The clock of the room when it was changed last.
    pub(super) changed_at: u64,
    /// See [`Json::weight`].
    pub(super) weight: usize,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// Text that can be read as a value.
    Written(Box<RawValue>),
    Value(Json),
}

impl Record {
    /// A record that is an object.
    pub(super) fn new(state: Json, changed_at: u64) -> Record {
        Record { changed_at, weight: state.weight(), state: State::Value(state) }
    }

    /// A record of a snapshot, with its id.
    pub(super) fn load(
        written: &RawValue,
        changed_at: u64,
    ) -> Result<(Box<str>, Record), serde_json::Error> {
        match serde_json::from_str::<Survey>(written.get()) {
            Ok(Survey { id, weight, plain: true }) => {
                let state = State::Written(written.to_owned());
                Ok((id, Record { changed_at, weight, state }))
            }
            Ok(Survey { id, plain: false, .. }) => {
                Ok((id, Record::new(serde_json::from_str(written.get())?, changed_at)))
            }
            Err(error) => {
                let mended = surrogates::mend(written.get()).ok_or(error)?;
                let Survey { id, .. } = serde_json::from_str(&mended)?;
                Ok((id, Record::new(serde_json::from_str(&mended)?, changed_at)))
            }
        }
    }

    /// The record as a value.
    pub(super) fn value(&mut self) -> &mut Json {
        if let State::Written(written) = &self.state {
            let value =
                serde_json::from_str(written.get()).expect("it was read when it was loaded");
            self.state = State::Value(value);
        }
        match &mut self.state {
            State::Value(value) => value,
            State::Written(_) => unreachable!("it has just become a value"),
        }
    }

    /// The record, if it is a value already, as every one is that was ever changed here.
    pub(super) fn as_value(&self) -> Option<&Json> {
        if let State::Value(value) = &self.state { Some(value) } else { None }
    }

    /// Writes it.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match &self.state {
            State::Written(written) => out.extend_from_slice(written.get().as_bytes()),
            State::Value(value) => value.write(out),
        }
    }
}

/// Looks at a record that is put under an id into a document; `stores` says which types are stored. Its id begins with its type, so that no
/// record can become one of another type.
pub(super) fn check(
    id: &str,
    state: &Json,
    stores: impl Fn(&str) -> bool,
    limits: &TlsyncLimits,
) -> Result<(), InvalidRecord> {
    if id.len() > limits.id_bytes {
        return Err(InvalidRecord);
    }
    let record = state.as_object().ok_or(InvalidRecord)?;
    let type_name = record.get("typeName").and_then(Json::as_text).ok_or(InvalidRecord)?;
    let of_type = id.strip_prefix(type_name).is_some_and(|rest| rest.starts_with(':'));
    let named = record.get("id").and_then(Json::as_text) == Some(id);
    let objects =
        OBJECTS.iter().all(|key| record.get(key).is_none_or(|value| value.as_object().is_some()));
    if named && of_type && objects && stores(type_name) { Ok(()) } else { Err(InvalidRecord) }
}

/// Looks at a diff that is to be laid over a record: it may leave no other record behind, and no worse one.
pub(super) fn check_diff(record: &Json, diff: &ObjectDiff) -> Result<(), InvalidRecord> {
    let own = |key: &str| record.as_object().and_then(|record| record.get(key));
    let named = ["id", "typeName"].iter().all(|key| match diff.get(key) {
        Some(ValueOp::Put(value)) => own(key) == Some(value),
        // A text that is not empty, or is longer than the offset, does not become another by it.
        Some(ValueOp::AppendText { text, .. }) => text.is_empty(),
        Some(ValueOp::Delete) => false,
        Some(ValueOp::Patch(_) | ValueOp::AppendItems { .. }) | None => true,
    });
    let objects = OBJECTS.iter().all(|key| match diff.get(key) {
        Some(ValueOp::Put(value)) => value.as_object().is_some(),
        Some(ValueOp::Delete) => own(key).is_none(),
        Some(_) | None => true,
    });
    if named && objects { Ok(()) } else { Err(InvalidRecord) }
}

#[cfg(test)]
mod tests {
    use super::super::schema::Schema;
    use super::*;

    fn json(text: &str) -> Json {
        serde_json::from_str(text).unwrap()
    }

    fn schema() -> Schema {
        Schema::read(json(r#"{"schemaVersion":2,"sequences":{}}"#)).unwrap()
    }

    fn load(text: &str) -> Result<(Box<str>, Record), serde_json::Error> {
        Record::load(serde_json::from_str(text).unwrap(), 1)
    }

    #[test]
    fn a_record_is_named_as_its_id_says_and_is_of_a_type_that_is_stored() {
        let limits = TlsyncLimits { id_bytes: 10, ..TlsyncLimits::default() };
        let check =
            |id: &str, text: &str| check(id, &json(text), |name| schema().stores(name), &limits);
        let fine = r#"{"id":"shape:a","typeName":"shape","props":{},"meta":{}}"#;
        assert_eq!(check("shape:a", fine), Ok(()));
        assert_eq!(check("shape:a", r#"{"id":"shape:a","typeName":"shape"}"#), Ok(()));
        for (id, text) in [
            ("shape:b", fine),
            ("shape:a", "[]"),
            ("shape:a", "null"),
            ("shape:a", r#"{"id":"shape:a"}"#),
            ("page:a", r#"{"id":"page:a","typeName":"shape"}"#),
            ("page:abcdef", r#"{"id":"page:abcdef","typeName":"page"}"#),
            ("shape", r#"{"id":"shape","typeName":"shape"}"#),
            ("camera:a", r#"{"id":"camera:a","typeName":"camera"}"#),
            ("shape:a", r#"{"id":"shape:a","typeName":"shape","props":[]}"#),
            ("shape:a", r#"{"id":"shape:a","typeName":"shape","meta":null}"#),
        ] {
            assert_eq!(check(id, text), Err(InvalidRecord), "{id} {text}");
        }
    }

    #[test]
    fn no_diff_makes_another_record_of_one() {
        let record = json(r#"{"id":"shape:a","typeName":"shape","props":{},"meta":{}}"#);
        let check = |text| check_diff(&record, &serde_json::from_str(text).unwrap());
        for fine in [
            "{}",
            r#"{"id":["put","shape:a"],"typeName":["put","shape"]}"#,
            r#"{"props":["patch",{"a":["put",1]}],"meta":["put",{}],"x":["delete"]}"#,
        ] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for wrong in [
            r#"{"id":["put","shape:b"]}"#,
            r#"{"id":["append","b",7]}"#,
            r#"{"typeName":["delete"]}"#,
            r#"{"typeName":["put",1]}"#,
            r#"{"props":["put",[]]}"#,
            r#"{"meta":["delete"]}"#,
        ] {
            assert_eq!(check(wrong), Err(InvalidRecord), "{wrong}");
        }
    }

    #[test]
    fn a_loaded_record_is_written_as_it_was_and_read_when_it_is_changed() {
        let text = r#"{ "typeName" : "page", "id":"page:a", "a": [1, "é", {"b": null}] }"#;
        let (id, mut record) = load(text).unwrap();
        assert_eq!((&*id, record.weight), ("page:a", json(text).weight()));
        let mut out = Vec::new();
        record.write(&mut out);
        assert_eq!(out, text.as_bytes());
        assert_eq!(*record.value(), json(text));
    }

    #[test]
    fn what_would_not_be_read_as_it_is_written_is_read_at_once() {
        for (text, expected) in [
            (
                r#"{"id":"page:a","typeName":"page","a":{"__proto__":1}}"#,
                r#"{"id":"page:a","typeName":"page","a":{}}"#,
            ),
            (
                r#"{"id":"page:a","typeName":"page","a":"\ud83d"}"#,
                r#"{"id":"page:a","typeName":"page","a":"\ufffd"}"#,
            ),
        ] {
            let mut out = Vec::new();
            load(text).unwrap().1.write(&mut out);
            assert_eq!(serde_json::from_slice::<Json>(&out).unwrap(), json(expected));
        }
    }

    #[test]
    fn what_is_no_record_is_not_loaded() {
        for text in [
            "[]",
            "1",
            "{}",
            r#"{"id":"a"}"#,
            r#"{"id":1,"typeName":"a"}"#,
            r#"{"id":"a","typeName":"a","b":1e999}"#,
        ] {
            assert!(load(text).is_err(), "{text}");
        }
    }
}
