//! What was seen at the last look at a database, so that the next one reads nothing for nothing. As long as the same
//! transactions are running none has ended, so nothing can be different; and what is read and is the same as before
//! is no news. What was seen of another connection, or before a look that failed, counts for nothing: the database
//! may be another one, which says the same of another history. Pure.

/// See the module: `R` says which transactions are running, `S` what there is.
#[derive(Clone, Debug)]
pub struct Sightings<R, S> {
    last: Option<(R, S)>,
}

impl<R, S> Default for Sightings<R, S> {
    fn default() -> Sightings<R, S> {
        Sightings { last: None }
    }
}

impl<R: PartialEq, S: PartialEq> Sightings<R, S> {
    /// Whether there may be something else than was seen last.
    pub fn may_differ(&self, running: &R) -> bool {
        self.last.as_ref().is_none_or(|(last, _)| last != running)
    }

    /// Notes what was seen; `running` was asked before. Returns it if it is news. What is committed between the two
    /// questions is seen already, and looked at once more for nothing.
    pub fn saw(&mut self, running: R, seen: S) -> Option<&S> {
        let is_news = self.last.as_ref().is_none_or(|(_, last)| *last != seen);
        let (_, seen) = self.last.insert((running, seen));
        is_news.then_some(seen)
    }

    /// What was seen before counts for nothing: the next look is news.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_long_as_no_transaction_has_ended_nothing_is_read_and_only_what_differs_is_news() {
        let mut sightings = Sightings::default();
        assert!(sightings.may_differ(&1));
        assert_eq!(sightings.saw(1, "a"), Some(&"a"), "the first");
        assert!(!sightings.may_differ(&1) && sightings.may_differ(&2));
        assert_eq!(sightings.saw(2, "a"), None, "as before");
        assert!(!sightings.may_differ(&2) && sightings.may_differ(&1));
        assert_eq!(sightings.saw(3, "b"), Some(&"b"));
        assert_eq!(sightings.saw(4, "a"), Some(&"a"), "and back");
        sightings.forget();
        assert!(sightings.may_differ(&4), "of another database, perhaps");
        assert_eq!(sightings.saw(4, "a"), Some(&"a"));
    }
}
