//! What an application's schema says of itself: its version, the types of its records, and the records of a new
//! document. It is data; what the schema does with records, the room asks for with a [`SchemaQuestion`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rowtide_schema::{Scale, SchemaQuestion};
use serde::Deserialize;
use thiserror::Error;

use super::json::{Json, write_value};
use super::schema::Schema;

/// An application's schema. Read once from what its bundle says of itself.
#[derive(Debug)]
pub struct TlsyncSchema {
    pub(super) schema: Arc<Schema>,
    scopes: BTreeMap<Box<str>, Scope>,
    /// The records of a new document.
    pub(super) initial: Vec<(Box<str>, Json)>,
}

/// Why a bundle's description is not understood.
#[derive(Debug, Error)]
pub enum TlsyncSchemaError {
    /// It is no JSON, or something in it is not what it should be.
    #[error("what it says of itself cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// Its schema is of a form that is not known.
    #[error("its schema has neither `sequences` nor another form that is known")]
    Schema,
    /// A record of a new document has no id, or none of a type that is stored.
    #[error("a new document has a record that cannot be stored")]
    Record,
    /// Several types of records are shown to others.
    #[error("at most one type of records has the scope `presence`")]
    Presence,
}

/// A document is of a newer schema than the application's here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it is of a newer schema than the server's")]
pub struct NewerSchema;

/// Where records of a type are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scope {
    Document,
    Presence,
    Session,
}

#[derive(Deserialize)]
struct Description {
    schema: Json,
    types: BTreeMap<Box<str>, Scope>,
    records: Vec<Json>,
}

/// What came of the records of a push.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Judged {
    Invalid {
        #[expect(dead_code, reason = "that it is there says it")]
        invalid: Box<str>,
    },
    Valid {
        /// In the application's schema, if they were not.
        records: Option<Vec<Json>>,
        /// In each schema that was asked for.
        to: Vec<Option<Vec<Json>>>,
    },
}

/// The records of a document in another schema.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Brought {
    Failed {
        failed: Box<str>,
    },
    Refused {
        #[expect(dead_code, reason = "that it is there says it")]
        refused: bool,
    },
    Records {
        records: Vec<Json>,
    },
}

impl TlsyncSchema {
    /// Reads what a bundle says of itself.
    ///
    /// # Errors
    /// If that is not understood.
    pub fn read(description: &str) -> Result<TlsyncSchema, TlsyncSchemaError> {
        let Description { schema, types, records } = serde_json::from_str(description)?;
        let schema = Arc::new(Schema::read(schema).ok_or(TlsyncSchemaError::Schema)?);
        if types.values().filter(|scope| **scope == Scope::Presence).count() > 1 {
            return Err(TlsyncSchemaError::Presence);
        }
        let mut application = TlsyncSchema { schema, scopes: types, initial: Vec::new() };
        let initial = records.into_iter().map(|record| {
            let (id, type_name) = named(&record)?;
            let id: Option<Box<str>> = application.stores(type_name).then(|| id.into());
            id.map(|id| (id, record))
        });
        let initial: Option<_> = initial.collect();
        application.initial = initial.ok_or(TlsyncSchemaError::Record)?;
        Ok(application)
    }

    /// Whether records of a type are stored.
    pub(super) fn stores(&self, type_name: &str) -> bool {
        self.scopes.get(type_name) == Some(&Scope::Document)
    }

    /// The type of what sessions show of themselves, if there is one.
    pub(super) fn presence(&self) -> Option<&str> {
        let mut types = self.scopes.iter();
        types.find(|(_, scope)| **scope == Scope::Presence).map(|(name, _)| &**name)
    }
}

/// The id and the type of a record.
pub(super) fn named(record: &Json) -> Option<(&str, &str)> {
    let record = record.as_object()?;
    Some((record.get("id")?.as_text()?, record.get("typeName")?.as_text()?))
}

/// A record of a push, for a question.
pub(super) struct Pushed<'a> {
    pub(super) record: &'a Json,
    /// What it was before, as its client has it.
    pub(super) before: Option<&'a Json>,
    /// As the room has it.
    pub(super) own: Option<&'a Json>,
}

/// Asks whether records of a push are valid, and what they are in other schemas.
pub(super) fn ask_of_push(
    records: &[Pushed<'_>],
    from: Option<&Schema>,
    to: &[&Schema],
) -> SchemaQuestion {
    let mut out = br#"{"ask":"push","records":["#.to_vec();
    for (n, Pushed { record, before, own }) in records.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        if from.is_none() {
            record.write(&mut out);
            continue;
        }
        out.extend_from_slice(br#"{"record":"#);
        record.write(&mut out);
        out.extend_from_slice(br#","before":"#);
        write_value(&mut out, before);
        out.extend_from_slice(br#","own":"#);
        write_value(&mut out, own);
        out.push(b'}');
    }
    out.extend_from_slice(br#"],"from":"#);
    write_value(&mut out, &from.map(Schema::written));
    out.extend_from_slice(br#","to":"#);
    write_value(&mut out, &to.iter().map(|schema| schema.written()).collect::<Vec<_>>());
    out.push(b'}');
    SchemaQuestion { text: out.into(), scale: Scale::Push }
}

/// Which records are not valid.
#[derive(Debug, Deserialize)]
pub(super) struct Validated {
    pub(super) invalid: BTreeSet<Box<str>>,
}

/// Asks which of the records that `write` writes, with commas between them, are not valid.
pub(super) fn ask_which_are_valid(write: impl FnOnce(&mut Vec<u8>)) -> SchemaQuestion {
    let mut out = br#"{"ask":"valid","records":["#.to_vec();
    write(&mut out);
    out.extend_from_slice(b"]}");
    SchemaQuestion { text: out.into(), scale: Scale::Document }
}

/// What a bundle says of a schema.
#[derive(Debug, Deserialize)]
pub(super) struct Served {
    pub(super) serves: bool,
}

/// Asks whether clients of a schema can be served.
pub(super) fn ask_whether_served(schema: &Schema) -> SchemaQuestion {
    let mut out = br#"{"ask":"serves","schema":"#.to_vec();
    schema.written().write(&mut out);
    out.push(b'}');
    SchemaQuestion { text: out.into(), scale: Scale::Schema }
}

/// Asks what records, which `write` writes with commas between them, are for clients of a schema.
pub(super) fn ask_for_edition(schema: &Schema, write: impl FnOnce(&mut Vec<u8>)) -> SchemaQuestion {
    ask_of_document(br#"{"ask":"edition","schema":"#, schema, write)
}

/// Asks what records of an older schema are now.
pub(super) fn ask_to_bring_up(from: &Schema, write: impl FnOnce(&mut Vec<u8>)) -> SchemaQuestion {
    ask_of_document(br#"{"ask":"document","from":"#, from, write)
}

fn ask_of_document(
    asked: &[u8],
    schema: &Schema,
    write: impl FnOnce(&mut Vec<u8>),
) -> SchemaQuestion {
    let mut out = asked.to_vec();
    schema.written().write(&mut out);
    out.extend_from_slice(br#","records":["#);
    write(&mut out);
    out.extend_from_slice(b"]}");
    SchemaQuestion { text: out.into(), scale: Scale::Document }
}
