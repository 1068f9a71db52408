//! Puts of this process whose answers are not known. Whoever finds another object than the one that theirs was to follow on
//! may have put it themselves: then the answer was lost on the way. Who has put an object does not tell that, since it may
//! be an older one that somebody has brought back; which put it was does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::naming::DocumentId;

#[derive(Debug, Default)]
struct Puts {
    next: u64,
    /// Of each document that was put without an answer, the first such put since one that had one.
    unanswered: BTreeMap<DocumentId, u64>,
}

/// See the module. One document's puts come one after the other.
#[derive(Debug, Default)]
pub(super) struct OwnPuts {
    puts: Mutex<Puts>,
}

impl OwnPuts {
    fn lock(&self) -> MutexGuard<'_, Puts> {
        // Whole between any two statements that hold it.
        self.puts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A document is put now. Returns the number of the put, which no other one has.
    pub(super) fn begin(&self, document: &DocumentId) -> u64 {
        let mut puts = self.lock();
        let number = puts.next;
        puts.next += 1;
        puts.unanswered.entry(document.clone()).or_insert(number);
        number
    }

    /// It is known which object is there: none of the puts until now is one whose answer is to come.
    pub(super) fn known(&self, document: &DocumentId) {
        self.lock().unanswered.remove(document);
    }

    /// Whether a put of this number may have been done without an answer.
    pub(super) fn is_unanswered(&self, document: &DocumentId, number: u64) -> bool {
        self.lock().unanswered.get(document).is_some_and(|first| number >= *first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_counts_for_as_long_as_its_answer_is_not_known() {
        let (puts, a, b) = (OwnPuts::default(), "a", "b");
        let [a, b] = [a, b].map(|id| DocumentId::new("note", id).expect("a name"));
        let first = puts.begin(&a);
        assert!(puts.is_unanswered(&a, first) && !puts.is_unanswered(&b, first));
        puts.known(&a);
        assert!(!puts.is_unanswered(&a, first));
        let (second, of_other, third) = (puts.begin(&a), puts.begin(&b), puts.begin(&a));
        assert!(puts.is_unanswered(&a, second) && puts.is_unanswered(&a, third));
        assert!(!puts.is_unanswered(&a, first) && puts.is_unanswered(&b, of_other));
    }
}
