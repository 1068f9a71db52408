//! Where the books of all documents are kept: what became of each edit, and since when who is kept out of which.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::papers::OWNER;
use super::view::{Fate, Kind};

/// A row, as whoever changes it knows it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) generation: u64,
    pub(super) version: i64,
    pub(super) shared: String,
    pub(super) is_deleted: bool,
    pub(super) name: String,
    /// What the last statement has done is not known.
    pub(super) is_doubtful: bool,
    /// Since when it was known that guests may not come, or nobody. None as soon as they might.
    pub(super) closed_to_guests: Option<Instant>,
    pub(super) closed_to_all: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Books {
    pub(super) rows: Vec<Row>,
    /// Documents of rows that were deleted for good, and since when that was known.
    pub(super) gone: BTreeMap<String, Instant>,
    pub(super) fates: BTreeMap<(Kind, String), BTreeMap<String, Fate>>,
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) findings: Vec<String>,
}

/// Where all books are kept.
#[derive(Default)]
pub(super) struct Desk {
    books: Mutex<Books>,
}

impl Desk {
    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, what: &'static str) {
        *self.books().counts.entry(what).or_default() += 1;
    }

    pub(super) fn found(&self, what: String) {
        self.books().findings.push(what);
    }

    /// The document of a row as it is now.
    pub(super) fn document(&self, slot: usize) -> String {
        self.books().rows[slot].id.clone()
    }

    /// Notes what became of an edit.
    pub(super) fn note(&self, kind: Kind, document: &str, mark: &str, fate: Fate) {
        let mut books = self.books();
        let fates = books.fates.entry((kind, document.to_owned())).or_default();
        fates.insert(mark.to_owned(), fate);
    }

    /// Somebody was shown an edit.
    pub(super) fn shown(&self, kind: Kind, document: &str, mark: &str) {
        let mut books = self.books();
        let fates = books.fates.entry((kind, document.to_owned())).or_default();
        let wrong = match fates.get_mut(mark) {
            Some(fate @ Fate::Unknown) => {
                *fate = Fate::Saved;
                None
            }
            Some(Fate::Saved | Fate::Doubtful | Fate::TakenBack) => None,
            Some(Fate::Refused) => Some("was refused"),
            None => Some("was never made"),
        };
        if let Some(wrong) = wrong {
            let found = format!("{mark} {wrong} and is shown at {kind:?} {document}");
            books.findings.push(found);
        }
    }

    /// Somebody who began to connect then was let in.
    pub(super) fn let_in(&self, user: &str, kind: Kind, document: &str, begun: Instant) {
        let mut books = self.books();
        let row = books.rows.iter().find(|row| row.id == document);
        let closed = row.and_then(|row| row.closed_to_all);
        let to_guests = row.and_then(|row| row.closed_to_guests).filter(|_| user != OWNER);
        let gone = books.gone.get(document).copied();
        if let Some(since) = [closed, to_guests, gone].into_iter().flatten().min()
            && since < begun
        {
            let late = begun - since;
            let found = format!(
                "{user} was let in to {kind:?} {document}, and was to be kept out {late:?} before they came"
            );
            books.findings.push(found);
        }
    }
}
