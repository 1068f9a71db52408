//! Answers that are kept: to questions about a schema alone, of which clients of one release all ask the same. So many
//! bytes of them are kept, and the oldest go first.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

/// Answers, by their questions.
#[derive(Debug)]
pub(crate) struct KeptAnswers {
    answers: HashMap<Bytes, Bytes>,
    oldest_first: VecDeque<Bytes>,
    bytes: usize,
    max_bytes: usize,
}

impl KeptAnswers {
    /// Keeps so many bytes of questions and answers.
    pub(crate) fn new(max_bytes: usize) -> KeptAnswers {
        let (answers, oldest_first) = (HashMap::new(), VecDeque::new());
        KeptAnswers { answers, oldest_first, bytes: 0, max_bytes }
    }

    pub(crate) fn get(&self, question: &Bytes) -> Option<Bytes> {
        self.answers.get(question).cloned()
    }

    pub(crate) fn keep(&mut self, question: Bytes, answer: Bytes) {
        let bytes = question.len() + answer.len();
        if bytes > self.max_bytes || self.answers.contains_key(&question) {
            return;
        }
        self.bytes += bytes;
        self.answers.insert(question.clone(), answer);
        self.oldest_first.push_back(question);
        while self.bytes > self.max_bytes {
            let Some(oldest) = self.oldest_first.pop_front() else { break };
            let answer = self.answers.remove(&oldest).unwrap_or_default();
            self.bytes -= oldest.len() + answer.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes() {
        let mut kept = KeptAnswers::new(100);
        let question = |n: u32| Bytes::from(format!("question {n:03}"));
        for n in 0..500 {
            kept.keep(question(n), Bytes::from_static(b"answer"));
            assert_eq!(kept.get(&question(n)).as_deref(), Some(&b"answer"[..]));
            assert!(kept.bytes <= 100 && kept.answers.len() == kept.oldest_first.len());
        }
        assert_eq!(kept.get(&question(0)), None);
        assert!(kept.get(&question(497)).is_some());
        kept.keep(Bytes::from(vec![b'x'; 101]), Bytes::new());
        assert!(kept.get(&question(497)).is_some(), "what is too large is not kept");
    }
}
