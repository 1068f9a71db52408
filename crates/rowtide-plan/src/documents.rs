//! Live documents in the plan: each belongs to a row, and rules over that row say who may read and edit it. A kind of
//! document is a table whose rows have documents; the id of a document is its row's key. Postgres judges the rules,
//! and what it says is a [`Standing`].

use crate::ids::TableId;
use crate::judged_rule::JudgedRule;
use crate::value::{ColumnType, Value};

/// What clients of a document speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentProtocol {
    /// tldraw's: records in text frames.
    Tlsync,
    /// Yjs': updates in binary frames.
    Yjs,
}

impl DocumentProtocol {
    /// As the definition calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            DocumentProtocol::Tlsync => "tlsync",
            DocumentProtocol::Yjs => "yjs",
        }
    }

    /// Where documents of a kind are served: `/app/{kind}` or `/doc/{kind}`, and the id behind it.
    pub fn path(self, kind: &str) -> String {
        match self {
            DocumentProtocol::Tlsync => format!("/app/{kind}"),
            DocumentProtocol::Yjs => format!("/doc/{kind}"),
        }
    }
}

/// A kind of documents: a `[documents.…]` entry of the definition, held against the catalog.
#[derive(Clone, Debug)]
pub struct PlannedKind {
    /// What the entry calls it.
    pub name: String,
    /// What its clients speak.
    pub protocol: DocumentProtocol,
    /// The table of its rows.
    pub table: TableId,
    /// The key's only column, whose value is the document's id: text, `uuid` or an integer.
    pub key: usize,
    /// The key's type.
    pub key_type: ColumnType,
    /// Who may read; over the row.
    pub read: JudgedRule,
    /// Who may edit, and read as well.
    pub edit: JudgedRule,
    /// Whether there is a document of a row; `None`: of every row.
    pub alive: Option<JudgedRule>,
    /// A text column that the document's own name follows.
    pub title: Option<usize>,
    /// A column that says when the document was saved last.
    pub touched: Option<TouchedColumn>,
    /// Who sees its history and goes back in it; `None`: nobody.
    pub restore: Option<JudgedRule>,
    /// The columns that say whether and how it is published; `None`: it never is.
    pub publishing: Option<PublishingColumns>,
    /// A text column that says what a document begins as.
    pub source: Option<usize>,
    /// The tables that its rules look into, besides its own row: a change in one of them may change who may do what
    /// with any document.
    pub looks_into: Vec<TableId>,
}

/// The columns that say whether and how a document is published, by their places in the catalog's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishingColumns {
    /// A boolean: whether it is.
    pub published: usize,
    /// A text: its address.
    pub slug: usize,
    /// What is another value each time that it is published anew.
    pub edition: Option<usize>,
    /// A text that says why it is not published; the server writes it.
    pub error: Option<usize>,
}

/// A column that is set to the time of a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TouchedColumn {
    /// Its place in the catalog's columns.
    pub column: usize,
    /// What it holds.
    pub unit: TouchedUnit,
}

/// What a time is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TouchedUnit {
    /// A `bigint` of milliseconds since 1970.
    Milliseconds,
    /// A `timestamptz`.
    Timestamp,
}

/// The longest id of a document, in bytes.
pub const MAX_DOCUMENT_ID_BYTES: usize = 256;

impl PlannedKind {
    /// The id as Postgres prints it, so that one document has one id; `None` if no row can have it.
    pub fn document_id(&self, text: &str) -> Option<String> {
        if text.is_empty() || text.len() > MAX_DOCUMENT_ID_BYTES || text.contains('\0') {
            return None;
        }
        Value::parse(&self.key_type, text).ok()?.to_text(&self.key_type)
    }

    /// The id of a row, given its key as rows carry it ([`crate::row::Image::key`]): the one by which
    /// [`PlannedKind::document_id`] finds it, however it is written.
    pub fn id_of_key(&self, key: &[u8]) -> Option<String> {
        let key: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(key).ok()?;
        match key.into_iter().next()? {
            (_, serde_json::Value::String(text)) => self.document_id(&text),
            (_, number @ serde_json::Value::Number(_)) => self.document_id(&number.to_string()),
            _ => None,
        }
    }

    /// Whether Postgres has said of which type each claim in its rules must be.
    pub(crate) fn is_judged(&self) -> bool {
        self.rules().all(|rule| rule.claims().iter().all(|claim| claim.kind.is_some()))
    }

    /// Its rules, those that say whether there is a document first.
    pub fn rules(&self) -> impl Iterator<Item = &JudgedRule> {
        self.alive.iter().chain([&self.read, &self.edit]).chain(&self.restore)
    }

    /// As [`PlannedKind::rules`], mutable.
    pub fn rules_mut(&mut self) -> impl Iterator<Item = &mut JudgedRule> {
        self.alive.iter_mut().chain([&mut self.read, &mut self.edit]).chain(&mut self.restore)
    }
}

/// What somebody may do with a document, as the rules say over its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no such row.
    Missing,
    /// The row says that there is no document any more.
    Gone,
    /// Nothing, without having signed in.
    NotSignedIn,
    /// Nothing.
    Forbidden,
    /// Reading.
    Read,
    /// Reading and editing.
    Edit,
}

/// What the rules say of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowJudged {
    /// Whether there is a document.
    pub alive: bool,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be edited.
    pub edit: bool,
}

impl Standing {
    /// What follows from what was said of the row, if there is one.
    pub fn of(row: Option<RowJudged>, is_signed_in: bool) -> Standing {
        match row {
            None => Standing::Missing,
            Some(RowJudged { alive: false, .. }) => Standing::Gone,
            Some(RowJudged { edit: true, .. }) => Standing::Edit,
            Some(RowJudged { read: true, .. }) => Standing::Read,
            Some(_) if is_signed_in => Standing::Forbidden,
            Some(_) => Standing::NotSignedIn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_edit_may_read_and_nobody_may_do_anything_with_what_is_gone() {
        let judged = |alive, read, edit| Some(RowJudged { alive, read, edit });
        for is_signed_in in [true, false] {
            let of = |row| Standing::of(row, is_signed_in);
            assert_eq!(of(None), Standing::Missing);
            assert_eq!(of(judged(false, true, true)), Standing::Gone);
            assert_eq!(of(judged(true, false, true)), Standing::Edit);
            assert_eq!(of(judged(true, true, true)), Standing::Edit);
            assert_eq!(of(judged(true, true, false)), Standing::Read);
        }
        assert_eq!(Standing::of(judged(true, false, false), true), Standing::Forbidden);
        assert_eq!(Standing::of(judged(true, false, false), false), Standing::NotSignedIn);
    }
}
