//! Troubles that have been said already. What is tried again and again fails again and again for the same reason, and
//! an operator needs to read that once and not with every try. Pure.

use std::collections::BTreeSet;

/// How many sentences are remembered; beyond that all of them are new again.
const REMEMBERED: usize = 64;

/// Which troubles were said since the last time that all was well.
#[derive(Debug, Default)]
pub struct SaidOnce(BTreeSet<String>);

impl SaidOnce {
    /// Whether this has not been said yet; from now on it has.
    pub fn is_new(&mut self, trouble: &str) -> bool {
        if self.0.len() >= REMEMBERED && !self.0.contains(trouble) {
            self.0.clear();
        }
        self.0.insert(trouble.to_owned())
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All is well: whatever comes next is news.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_is_said_once_until_it_is_over() {
        let mut said = SaidOnce::default();
        assert!(said.is_new("refused") && said.is_new("starting up"));
        assert!(!said.is_new("refused") && !said.is_new("starting up"));
        said.clear();
        assert!(said.is_empty() && said.is_new("refused"));
        for number in 0..10 * REMEMBERED {
            said.is_new(&number.to_string());
        }
        assert!(said.0.len() <= REMEMBERED);
    }
}
