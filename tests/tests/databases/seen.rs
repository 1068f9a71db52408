//! What the lives have had in them, so that nothing ceases to be tried without anyone noticing.

use std::collections::BTreeMap;
use std::fmt;

/// How often each kind of step was taken by Postgres, and how often not.
#[derive(Default)]
pub(crate) struct Seen(BTreeMap<&'static str, (u64, u64)>);

impl Seen {
    pub(crate) fn note(&mut self, what: &'static str, taken: bool) {
        let (yes, no) = self.0.entry(what).or_default();
        *if taken { yes } else { no } += 1;
    }

    pub(crate) fn add(&mut self, other: Seen) {
        for (what, (yes, no)) in other.0 {
            let sum = self.0.entry(what).or_default();
            (sum.0, sum.1) = (sum.0 + yes, sum.1 + no);
        }
    }

    /// Fails if something was never taken.
    pub(crate) fn assert_all(&self) {
        let never: Vec<_> = self.0.iter().filter(|(_, (yes, _))| *yes == 0).collect();
        assert!(never.is_empty(), "never taken: {never:?}");
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, (yes, no)) in &self.0 {
            writeln!(f, "{yes:>8} {no:>6} rejected  {what}")?;
        }
        Ok(())
    }
}
