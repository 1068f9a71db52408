//! What is to be done with documents because of their rows: each that was deleted is deleted, and each that has another
//! name takes it, the documents independently of one another. What fails is tried again: a deletion until it is done,
//! since nobody may come to the document before, and a name for a while. Pure: told what rows say and what was done, it
//! answers what is to be done now.

use std::collections::BTreeMap;
use std::time::Duration;

use rowtide_documents::host::DocumentId;

use crate::limits::{CHORES_AT_ONCE, MAX_PAUSE, MIN_PAUSE, NAME_TRIES};

/// What is done with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// It is deleted.
    Delete,
    /// It takes a name.
    Rename(String),
}

#[derive(Debug, Default)]
struct OfDocument {
    /// A name that comes after the deletion is that of a row that came after it.
    deletes: bool,
    name: Option<String>,
    under_way: Option<Chore>,
    failures: u32,
    not_before: Duration,
}

/// See the module. Has one entry for each document at most.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    documents: BTreeMap<DocumentId, OfDocument>,
}

impl Chores {
    /// The row of a document is gone.
    pub(crate) fn deleted(&mut self, document: DocumentId, now: Duration) {
        let of = self.documents.entry(document).or_default();
        (of.deletes, of.name) = (true, None);
        (of.failures, of.not_before) = (0, now);
    }

    /// A row has this name for its document.
    pub(crate) fn named(&mut self, document: DocumentId, name: String, now: Duration) {
        let of = self.documents.entry(document).or_default();
        of.name = Some(name);
        if !of.deletes {
            (of.failures, of.not_before) = (0, now);
        }
    }

    /// Whether it is not deleted yet though its row is gone.
    pub(crate) fn is_deleting(&self, document: &DocumentId) -> bool {
        let of = self.documents.get(document);
        of.is_some_and(|of| of.deletes || of.under_way == Some(Chore::Delete))
    }

    /// What is to be begun now, each at a document of its own.
    pub(crate) fn begin(&mut self, now: Duration) -> Vec<(DocumentId, Chore)> {
        let under_way = self.documents.values().filter(|of| of.under_way.is_some()).count();
        let ready = self.documents.iter_mut();
        let ready = ready.filter(|(_, of)| of.under_way.is_none() && of.not_before <= now);
        let mut ready: Vec<_> = ready.collect();
        ready.sort_by_key(|(_, of)| of.not_before);
        let mut begun = Vec::new();
        for (document, of) in ready.into_iter().take(CHORES_AT_ONCE.saturating_sub(under_way)) {
            let chore = if std::mem::take(&mut of.deletes) {
                Chore::Delete
            } else if let Some(name) = of.name.take() {
                Chore::Rename(name)
            } else {
                continue;
            };
            of.under_way = Some(chore.clone());
            begun.push((document.clone(), chore));
        }
        begun
    }

    /// What was under way at a document has ended.
    pub(crate) fn ended(&mut self, document: &DocumentId, is_done: bool, now: Duration) {
        let Some(of) = self.documents.get_mut(document) else { return };
        let chore = of.under_way.take();
        if is_done {
            (of.failures, of.not_before) = (0, now);
        } else {
            of.failures = of.failures.saturating_add(1);
            let pause = MIN_PAUSE.saturating_mul(1 << (of.failures - 1).min(16));
            of.not_before = now + pause.min(MAX_PAUSE);
            match chore {
                Some(Chore::Delete) => of.deletes = true,
                // What came meanwhile is newer.
                Some(Chore::Rename(name)) if !of.deletes && of.failures < NAME_TRIES => {
                    of.name.get_or_insert(name);
                }
                _ => {}
            }
        }
        if !of.deletes && of.name.is_none() {
            self.documents.remove(document);
        }
    }

    /// When there is something to begin, if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let under_way = self.documents.values().filter(|of| of.under_way.is_some()).count();
        let waiting = self.documents.values().filter(|of| of.under_way.is_none());
        waiting.map(|of| of.not_before).min().filter(|_| under_way < CHORES_AT_ONCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(id: usize) -> DocumentId {
        DocumentId::new("board", &format!("d{id}")).unwrap()
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_deletion_that_does_not_end_holds_up_nothing_else_and_lets_nobody_come_to_its_document() {
        let mut chores = Chores::default();
        chores.deleted(document(0), NOW);
        assert!(chores.is_deleting(&document(0)), "from the moment on at which it is told");
        assert_eq!(chores.begin(NOW), [(document(0), Chore::Delete)]);
        chores.deleted(document(1), NOW);
        chores.named(document(2), "b".to_owned(), NOW);
        let rename = Chore::Rename("b".to_owned());
        let others = [(document(1), Chore::Delete), (document(2), rename)];
        assert_eq!(chores.begin(NOW), others);
        assert!(chores.is_deleting(&document(0)));
        chores.ended(&document(1), true, NOW);
        assert!(!chores.is_deleting(&document(1)));
    }

    #[test]
    fn a_deletion_that_fails_is_tried_again_until_it_is_done() {
        let (mut chores, mut now) = (Chores::default(), NOW);
        chores.deleted(document(0), now);
        for _ in 0..100 {
            assert_eq!(chores.begin(now), [(document(0), Chore::Delete)]);
            chores.ended(&document(0), false, now);
            assert!(chores.is_deleting(&document(0)));
            now = chores.deadline().expect("it is tried again");
        }
        chores.begin(now);
        chores.ended(&document(0), true, now);
        assert_eq!(chores.deadline(), None);
        assert!(!chores.is_deleting(&document(0)));
    }

    #[test]
    fn a_name_that_a_document_does_not_take_is_tried_again_for_a_while() {
        let (mut chores, mut now) = (Chores::default(), NOW);
        chores.named(document(0), "a".to_owned(), now);
        let mut tries = 0;
        while let Some(deadline) = chores.deadline() {
            now = deadline;
            assert_eq!(chores.begin(now), [(document(0), Chore::Rename("a".to_owned()))]);
            tries += 1;
            chores.ended(&document(0), false, now);
        }
        assert_eq!(tries, NAME_TRIES);
    }

    #[test]
    fn what_a_row_says_last_counts() {
        let mut chores = Chores::default();
        chores.named(document(0), "a".to_owned(), NOW);
        chores.begin(NOW);
        chores.named(document(0), "b".to_owned(), NOW);
        assert_eq!(chores.begin(NOW), [], "one at a time for each document");
        chores.ended(&document(0), false, NOW);
        let later = chores.deadline().expect("it has another name");
        assert_eq!(chores.begin(later), [(document(0), Chore::Rename("b".to_owned()))]);
        // A row that is deleted and there again: the name is the second one's.
        chores.deleted(document(0), later);
        chores.named(document(0), "c".to_owned(), later);
        chores.ended(&document(0), true, later);
        assert_eq!(chores.begin(later), [(document(0), Chore::Delete)]);
        chores.ended(&document(0), true, later);
        assert!(!chores.is_deleting(&document(0)));
        assert_eq!(chores.begin(later), [(document(0), Chore::Rename("c".to_owned()))]);
        chores.deleted(document(0), later);
        chores.ended(&document(0), false, later);
        let later = chores.deadline().expect("it is to be deleted");
        assert_eq!(chores.begin(later), [(document(0), Chore::Delete)]);
    }

    #[test]
    fn no_more_is_under_way_than_may_be() {
        let mut chores = Chores::default();
        (0..=CHORES_AT_ONCE).for_each(|id| chores.deleted(document(id), NOW));
        let begun = chores.begin(NOW);
        assert_eq!((begun.len(), chores.begin(NOW).len()), (CHORES_AT_ONCE, 0));
        assert_eq!(chores.deadline(), None);
        chores.ended(&begun[0].0, true, NOW);
        assert_eq!(chores.begin(NOW).len(), 1, "the one that had to wait");
    }
}
