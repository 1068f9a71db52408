//! What a bundle is asked. A question and its answer are JSON, so that a push of many records is one call:
//!
//! | question | answer |
//! | --- | --- |
//! | `{"ask":"push","records":[…],"from":SCHEMA or null,"to":[SCHEMA…]}` | `{"records":[…] or null,"to":[[…] or null…]}`, or `{"invalid":WHY}` |
//! | `{"ask":"serves","schema":SCHEMA}` | `{"serves":true or false}` |
//! | `{"ask":"edition","schema":SCHEMA,"records":[…]}` | `{"records":[…]}`, or `{"refused":true}` |
//! | `{"ask":"document","from":SCHEMA,"records":[…]}` | `{"records":[…]}`, or `{"failed":WHY}` |
//! | `{"ask":"valid","records":[…]}` | `{"invalid":[ID…]}` |
//!
//! `push` validates records and brings each down to the schemas in `to`; `null` is said where that cannot be done. Where
//! they are of an older schema, `from`, each comes as `{"record":…,"before":…,"own":…}`, with what it was before, in that
//! schema and in the bundle's own, or null; it is brought up first, and what its schema does not know of stays. `serves`
//! tells whether a schema can be served at all, and `edition` brings down the records of a whole document to such a schema.
//! `document` brings the records of a document up, and `valid` tells which of the bundle's own schema are not valid.

use bytes::Bytes;
use thiserror::Error;

/// A question to a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaQuestion {
    /// The question, as JSON.
    pub text: Bytes,
    /// How much it is about.
    pub scale: Scale,
}

/// How much a question is about, and so how long its answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// A schema alone. Its answer is kept.
    Schema,
    /// The records of a push.
    Push,
    /// A whole document.
    Document,
}

/// Why there is no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unanswered {
    /// It took too long.
    #[error("it took more time than it may")]
    TimeIsUp,
    /// It took too much memory or stack, or the bundle did something that it cannot do.
    #[error("{0}")]
    Failed(String),
    /// Nobody answers any more.
    #[error("nobody answers any more")]
    Ended,
}
