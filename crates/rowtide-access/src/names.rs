//! DocumentNames that documents are to take from their rows, the documents independently of one another. What fails is tried again
//! for a while. Pure: told what rows say and what was done, it answers what is to be done now.

use std::collections::BTreeMap;
use std::time::Duration;

use rowtide_documents::host::DocumentId;

use crate::limits::{MAX_PAUSE, MIN_PAUSE, NAME_TRIES, NAMED_AT_ONCE};

#[derive(Debug, Default)]
struct OfDocument {
    /// The one that it is to take, if that is another one than it is taking.
    name: Option<String>,
    under_way: Option<String>,
    failures: u32,
    not_before: Duration,
}

/// See the module. Has one entry for each document at most.
#[derive(Debug, Default)]
pub(crate) struct DocumentNames {
    documents: BTreeMap<DocumentId, OfDocument>,
}

impl DocumentNames {
    /// A row has this name for its document.
    pub(crate) fn named(&mut self, document: DocumentId, name: String, now: Duration) {
        let of = self.documents.entry(document).or_default();
        of.name = Some(name);
        (of.failures, of.not_before) = (0, now);
    }

    /// What is to be begun now, each at a document of its own.
    pub(crate) fn begin(&mut self, now: Duration) -> Vec<(DocumentId, String)> {
        let under_way = self.documents.values().filter(|of| of.under_way.is_some()).count();
        let ready = self.documents.iter_mut();
        let ready = ready.filter(|(_, of)| of.under_way.is_none() && of.not_before <= now);
        let mut ready: Vec<_> = ready.collect();
        ready.sort_by_key(|(_, of)| of.not_before);
        let mut begun = Vec::new();
        for (document, of) in ready.into_iter().take(NAMED_AT_ONCE.saturating_sub(under_way)) {
            if let Some(name) = of.name.take() {
                of.under_way = Some(name.clone());
                begun.push((document.clone(), name));
            }
        }
        begun
    }

    /// What was under way at a document has ended.
    pub(crate) fn ended(&mut self, document: &DocumentId, is_done: bool, now: Duration) {
        let Some(of) = self.documents.get_mut(document) else { return };
        let name = of.under_way.take();
        if is_done {
            (of.failures, of.not_before) = (0, now);
        } else {
            of.failures = of.failures.saturating_add(1);
            let pause = MIN_PAUSE.saturating_mul(1 << (of.failures - 1).min(16));
            of.not_before = now + pause.min(MAX_PAUSE);
            // What came meanwhile is newer.
            if of.failures < NAME_TRIES && of.name.is_none() {
                of.name = name;
            }
        }
        if of.name.is_none() {
            self.documents.remove(document);
        }
    }

    /// When there is something to begin, if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let under_way = self.documents.values().filter(|of| of.under_way.is_some()).count();
        let waiting = self.documents.values().filter(|of| of.under_way.is_none());
        waiting.map(|of| of.not_before).min().filter(|_| under_way < NAMED_AT_ONCE)
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
    fn a_name_that_a_document_does_not_take_is_tried_again_for_a_while() {
        let (mut names, mut now) = (DocumentNames::default(), NOW);
        names.named(document(0), "a".to_owned(), now);
        let mut tries = 0;
        while let Some(deadline) = names.deadline() {
            now = deadline;
            assert_eq!(names.begin(now), [(document(0), "a".to_owned())]);
            tries += 1;
            names.ended(&document(0), false, now);
        }
        assert_eq!(tries, NAME_TRIES);
    }

    #[test]
    fn what_a_row_says_last_counts() {
        let mut names = DocumentNames::default();
        names.named(document(0), "a".to_owned(), NOW);
        names.begin(NOW);
        names.named(document(0), "b".to_owned(), NOW);
        assert_eq!(names.begin(NOW), [], "one at a time for each document");
        names.ended(&document(0), false, NOW);
        let later = names.deadline().expect("it has another name");
        assert_eq!(names.begin(later), [(document(0), "b".to_owned())]);
        names.ended(&document(0), true, later);
        assert_eq!(names.deadline(), None);
    }

    #[test]
    fn no_more_is_under_way_than_may_be() {
        let mut names = DocumentNames::default();
        (0..=NAMED_AT_ONCE).for_each(|id| names.named(document(id), "a".to_owned(), NOW));
        let begun = names.begin(NOW);
        assert_eq!((begun.len(), names.begin(NOW).len()), (NAMED_AT_ONCE, 0));
        assert_eq!(names.deadline(), None);
        names.ended(&begun[0].0, true, NOW);
        assert_eq!(names.begin(NOW).len(), 1, "the one that had to wait");
    }
}
