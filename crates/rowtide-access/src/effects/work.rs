//! What effects are about: marks of rows, what is kept of a document, what is done with it, and what follows.

use std::collections::BTreeMap;

use rowtide_documents::host::DocumentId;
use rowtide_postgres::standings::DocumentRow;

/// What is known of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It is another one, or may be gone; whoever looks has to have seen this transaction.
    Changed(Option<u32>),
    /// It was deleted.
    Deleted,
}

/// How it is known that the row of a document is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The stream has told of its deletion.
    Deleted,
    /// It was not there when it was looked for.
    Missing,
}

/// What is kept of a document while something is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PendingEffect {
    /// What is stored goes, whatever row there is by now.
    pub(crate) gone: Option<Gone>,
    /// What its row says is to be seen to.
    pub(crate) is_changed: bool,
    /// Who looks has to have seen this transaction.
    pub(crate) xid: Option<u32>,
    /// Why nothing more is tried.
    pub(crate) failure: Option<String>,
}

/// What is done with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// It is deleted, with all that is kept of it; of one whose row is but missing, what it was is kept aside.
    Delete(Gone),
    /// It is published at an address, as this edition.
    Publish {
        /// The address.
        slug: String,
        /// What is another value each time that it is published anew.
        edition: String,
        /// Whether it begins as something else, once somebody opens it.
        has_source: bool,
    },
    /// Nothing of it is published any more.
    Unpublish,
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkFailure {
    /// For a person.
    pub(crate) reason: String,
    /// When trying again could come to something else.
    pub(crate) retry: Retry,
}

/// When something that was not done is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// After a pause.
    Later,
    /// When something has been done with this document, which has the address.
    After(DocumentId),
    /// When somebody wants it.
    Never,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EffectStep {
    /// To ask what the rows of these documents say; the answer comes before anything else is asked.
    Ask(Vec<DocumentId>),
    /// To do something, and to say what became of it.
    Do(DocumentId, Work),
}

/// What follows at once, and what follows when all is durable.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// To let nobody come to these from now on.
    pub(crate) closed: Vec<DocumentId>,
    /// What is to be kept of each; `None`: nothing any more.
    pub(crate) entries: BTreeMap<DocumentId, Option<PendingEffect>>,
    /// To let people come to these again, once that is durable.
    pub(crate) opened: Vec<DocumentId>,
    /// What failed and is not tried again, with what was to be done.
    pub(crate) failed: Vec<(DocumentId, Work, String)>,
}

/// What follows from what a row says.
pub(super) fn wanted(row: DocumentRow) -> Work {
    match row.published {
        true => Work::Publish {
            slug: row.slug.unwrap_or_default(),
            edition: row.edition.unwrap_or_default(),
            has_source: row.source.is_some_and(|source| !source.is_empty()),
        },
        false => Work::Unpublish,
    }
}
