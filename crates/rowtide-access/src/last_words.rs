//! Why documents are not published, for as long as their rows do not say so: of each the last word alone, which is tried until
//! it is written, after a pause that doubles. Where Postgres is away that is for as long as it is; where a row does not take
//! it, as often as effects are tried. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rowtide_documents::host::DocumentId;

use crate::limits::{EFFECT_TRIES, MAX_EFFECT_PAUSE, MIN_EFFECT_PAUSE};

/// What became of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WordEnd {
    /// The row says so.
    Written,
    /// Postgres could not be asked.
    Away,
    /// The row does not take it.
    Refused,
}

/// A word that is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) document: DocumentId,
    pub(crate) reason: String,
    /// No other word has it.
    number: u64,
}

#[derive(Debug)]
struct Waiting {
    reason: String,
    number: u64,
    tries: u32,
    refusals: u32,
    not_before: Duration,
}

/// See the module. Has one entry for each document at most of which something has failed.
#[derive(Debug, Default)]
pub(crate) struct LastWords {
    words: BTreeMap<DocumentId, Waiting>,
    due: BTreeSet<(Duration, DocumentId)>,
    next: u64,
}

impl LastWords {
    /// This is why a document is not published, whatever was said before.
    pub(crate) fn say(&mut self, document: &DocumentId, reason: String, now: Duration) {
        self.withdraw(document);
        let (number, not_before) = (self.next, now);
        self.next += 1;
        self.due.insert((now, document.clone()));
        let waiting = Waiting { reason, number, tries: 0, refusals: 0, not_before };
        self.words.insert(document.clone(), waiting);
    }

    /// Nothing that was said of a document counts any more.
    pub(crate) fn withdraw(&mut self, document: &DocumentId) {
        if let Some(word) = self.words.remove(document) {
            self.due.remove(&(word.not_before, document.clone()));
        }
    }

    /// When there is something to write.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// What is to be written now; what became of it is to be said.
    pub(crate) fn begin(&mut self, now: Duration) -> Option<Word> {
        if self.deadline()? > now {
            return None;
        }
        let (_, document) = self.due.pop_first()?;
        let word = self.words.get(&document)?;
        Some(Word { reason: word.reason.clone(), number: word.number, document })
    }

    /// What became of a word. Tells whether it was given up.
    pub(crate) fn ended(&mut self, word: &Word, end: WordEnd, now: Duration) -> bool {
        let waiting = self.words.get_mut(&word.document);
        // What is said by now is another thing.
        let Some(waiting) = waiting.filter(|waiting| waiting.number == word.number) else {
            return false;
        };
        waiting.refusals += u32::from(end == WordEnd::Refused);
        let gives_up = waiting.refusals >= EFFECT_TRIES;
        if end == WordEnd::Written || gives_up {
            self.words.remove(&word.document);
            return gives_up;
        }
        let pause = MIN_EFFECT_PAUSE.saturating_mul(1 << waiting.tries.min(16));
        waiting.tries += 1;
        waiting.not_before = now + pause.min(MAX_EFFECT_PAUSE);
        self.due.insert((waiting.not_before, word.document.clone()));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(id: &str) -> DocumentId {
        DocumentId::new("note", id).expect("a name")
    }

    fn begin(words: &mut LastWords, now: Duration) -> Word {
        words.begin(now).expect("there is something to write")
    }

    #[test]
    fn what_could_not_be_written_is_written_later_however_long_postgres_is_away() {
        let (mut words, mut now) = (LastWords::default(), Duration::ZERO);
        words.say(&document("a"), "why".to_owned(), now);
        for _ in 0..3 * EFFECT_TRIES {
            let word = begin(&mut words, now);
            assert_eq!((words.deadline(), words.begin(now)), (None, None), "one at a time");
            assert!(!words.ended(&word, WordEnd::Away, now));
            let due = words.deadline().expect("it is tried again");
            assert!(due - now >= MIN_EFFECT_PAUSE && due - now <= MAX_EFFECT_PAUSE);
            assert_eq!(words.begin(now), None, "not before that");
            now = due;
        }
        let word = begin(&mut words, now);
        assert_eq!((&word.document, &*word.reason), (&document("a"), "why"));
        assert!(!words.ended(&word, WordEnd::Written, now));
        assert_eq!(words.deadline(), None);
    }

    #[test]
    fn a_row_that_does_not_take_it_is_asked_as_often_as_effects_are_tried() {
        let (mut words, mut now) = (LastWords::default(), Duration::ZERO);
        words.say(&document("a"), "why".to_owned(), now);
        let mut tries = 1;
        loop {
            let word = begin(&mut words, now);
            if words.ended(&word, WordEnd::Refused, now) {
                break;
            }
            now = words.deadline().expect("it is tried again");
            tries += 1;
        }
        assert_eq!((tries, words.deadline()), (EFFECT_TRIES, None));
    }

    #[test]
    fn the_last_word_counts() {
        let (mut words, now) = (LastWords::default(), Duration::ZERO);
        words.say(&document("a"), "first".to_owned(), now);
        let first = begin(&mut words, now);
        words.say(&document("a"), "second".to_owned(), now);
        assert!(!words.ended(&first, WordEnd::Refused, now));
        let second = begin(&mut words, now);
        assert_eq!(second.reason, "second");
        // All is well meanwhile.
        words.withdraw(&document("a"));
        assert!(!words.ended(&second, WordEnd::Away, now));
        assert_eq!((words.deadline(), words.begin(now)), (None, None));
        words.say(&document("b"), "why".to_owned(), now);
        words.withdraw(&document("b"));
        assert_eq!((words.deadline(), words.begin(now)), (None, None));
    }
}
