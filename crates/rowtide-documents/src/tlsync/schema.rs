//! The schema of a document, as data: versions of sequences of migrations, by name. What is in a record, only code
//! of the same release knows, so that without such code a room serves clients of exactly its own schema. Two forms
//! are written; the older is turned into the newer.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::json::Json;

/// The types of records that every release stores.
const DOCUMENT_TYPES: [&str; 5] = ["document", "page", "shape", "asset", "binding"];
/// A type of records that releases store whose schema has a sequence for it.
const USER_TYPE: &str = "user";

/// A schema.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    /// As it came.
    written: Json,
    sequences: BTreeMap<Box<str>, u64>,
}

/// Why a client cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// It is behind in something, and ahead in nothing.
    ClientTooOld,
    /// It is ahead in something.
    ServerTooOld,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema_version: u64,
    sequences: Option<BTreeMap<Box<str>, u64>>,
    store_version: Option<u64>,
    record_versions: Option<BTreeMap<Box<str>, RecordVersion>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordVersion {
    version: u64,
    #[serde(default)]
    sub_type_versions: BTreeMap<Box<str>, u64>,
}

impl Schema {
    /// Reads a schema of either form.
    pub(super) fn read(written: Json) -> Option<Schema> {
        let text = serde_json::to_vec(&written).ok()?;
        let form: Written = serde_json::from_slice(&text).ok()?;
        let sequences = match form.schema_version {
            2 => form.sequences?,
            1 => sequences_of_first_form(form.store_version?, form.record_versions?),
            _ => return None,
        };
        Some(Schema { written, sequences })
    }

    /// The schema of documents from before there were any.
    pub(super) fn earliest() -> Schema {
        let written = [
            ("schemaVersion".into(), Json::Number(2.into())),
            ("sequences".into(), Json::Object(super::json::Object::default())),
        ];
        let written = Json::Object(super::json::Object::of(written.into()));
        Schema { written, sequences: BTreeMap::new() }
    }

    /// As it was written.
    pub(super) fn written(&self) -> &Json {
        &self.written
    }

    /// See [`Json::weight`].
    pub(super) fn weight(&self) -> usize {
        self.written.weight()
    }

    /// Whether a client with another schema can be served by a room with this one: if every sequence is equal.
    pub(super) fn serves(&self, client: &Schema) -> Result<(), Mismatch> {
        let ahead = |a: &Schema, b: &Schema| {
            a.sequences.iter().any(|(name, version)| b.sequences.get(name) < Some(version))
        };
        match (ahead(client, self), ahead(self, client)) {
            (true, _) => Err(Mismatch::ServerTooOld),
            (false, true) => Err(Mismatch::ClientTooOld),
            (false, false) => Ok(()),
        }
    }

    /// Whether records of a type are stored. Of other types, which are shown to others or kept by clients for
    /// themselves, none belongs into a document: no client could read it there.
    pub(super) fn stores(&self, type_name: &str) -> bool {
        DOCUMENT_TYPES.contains(&type_name)
            || (type_name == USER_TYPE && self.sequences.contains_key("com.tldraw.user"))
    }
}

fn sequences_of_first_form(
    store: u64,
    records: BTreeMap<Box<str>, RecordVersion>,
) -> BTreeMap<Box<str>, u64> {
    let mut sequences = BTreeMap::from([("com.tldraw.store".into(), store)]);
    for (name, record) in records {
        for (sub_type, version) in record.sub_type_versions {
            sequences.insert(format!("com.tldraw.{name}.{sub_type}").into(), version);
        }
        sequences.insert(format!("com.tldraw.{name}").into(), record.version);
    }
    sequences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> Option<Schema> {
        Schema::read(serde_json::from_str(text).unwrap())
    }

    fn of(sequences: &str) -> Schema {
        schema(&format!(r#"{{"schemaVersion":2,"sequences":{{{sequences}}}}}"#)).unwrap()
    }

    #[test]
    fn only_a_client_of_the_same_schema_is_served() {
        let own = of(r#""com.tldraw.shape":4,"com.tldraw.store":4"#);
        for (client, expected) in [
            (r#""com.tldraw.store":4,"com.tldraw.shape":4"#, Ok(())),
            (r#""com.tldraw.store":4,"com.tldraw.shape":3"#, Err(Mismatch::ClientTooOld)),
            (r#""com.tldraw.store":4"#, Err(Mismatch::ClientTooOld)),
            (r#""com.tldraw.store":5,"com.tldraw.shape":4"#, Err(Mismatch::ServerTooOld)),
            (r#""com.tldraw.store":5,"com.tldraw.shape":3"#, Err(Mismatch::ServerTooOld)),
            (
                r#""com.tldraw.store":4,"com.tldraw.shape":4,"com.tldraw.shape.mine":0"#,
                Err(Mismatch::ServerTooOld),
            ),
        ] {
            assert_eq!(own.serves(&of(client)), expected, "{client}");
        }
        assert_eq!(Schema::earliest().serves(&own), Err(Mismatch::ServerTooOld));
    }

    #[test]
    fn the_older_form_says_the_same() {
        let first = r#"{"schemaVersion":1,"storeVersion":4,"recordVersions":{
            "shape":{"version":3,"subTypeKey":"type","subTypeVersions":{"geo":8}},"page":{"version":1}}}"#;
        let same = r#""com.tldraw.store":4,"com.tldraw.shape":3,"com.tldraw.shape.geo":8,"com.tldraw.page":1"#;
        assert_eq!(of(same).serves(&schema(first).unwrap()), Ok(()));
    }

    #[test]
    fn what_is_no_schema_is_none() {
        for text in [
            "null",
            "{}",
            r#"{"schemaVersion":3,"sequences":{}}"#,
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":2,"sequences":{"a":-1}}"#,
            r#"{"schemaVersion":1,"sequences":{}}"#,
        ] {
            assert!(schema(text).is_none(), "{text}");
        }
    }

    #[test]
    fn only_types_that_are_stored_are_taken() {
        let (older, newer) = (of(""), of(r#""com.tldraw.user":1"#));
        assert!(older.stores("shape") && !older.stores("user") && newer.stores("user"));
        assert!(!newer.stores("instance_presence") && !newer.stores("camera"));
    }
}
