//! What a bundle is asked. A question and its answer are JSON, so that a push of many records is one call:
//!
//! | question | answer |
//! | --- | --- |
//! | `{"ask":"push","records":[…],"from":SCHEMA or null,"to":[SCHEMA…]}` | `{"records":[…] or null,"to":[[…] or null…]}`, or `{"invalid":WHY}` |
//! | `{"ask":"edition","schema":SCHEMA,"records":[…]}` | `{"records":[…]}`, or `{"refused":true}` |
//! | `{"ask":"document","from":SCHEMA,"records":[…]}` | `{"records":[…]}`, or `{"failed":WHY}` |
//!
//! `push` validates records and brings each down to the schemas in `to`; `null` is said where that cannot be done. Where
//! they are of an older schema, `from`, each comes as `{"record":…,"before":…,"own":…}`, with what it was before, in that
//! schema and in the bundle's own, or null; it is brought up first, and what its schema does not know of stays. `edition` brings down the records of a
//! whole document, if a schema can be served, and `document` brings the records of one up.

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
