//! What the lives have had in them, so that nothing ceases to be tried without anyone noticing, and where their time went.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How often each kind of step was taken by Postgres, and how often not; how long everyone took to be current after it.
#[derive(Default)]
pub(crate) struct Seen {
    kinds: BTreeMap<&'static str, (u64, u64)>,
    spent: BTreeMap<&'static str, (u32, Duration)>,
}

impl Seen {
    pub(crate) fn note(&mut self, what: &'static str, taken: bool) {
        let (yes, no) = self.kinds.entry(what).or_default();
        *if taken { yes } else { no } += 1;
    }

    /// That something took so long.
    pub(crate) fn spend(&mut self, what: &'static str, time: Duration) {
        let (times, sum) = self.spent.entry(what).or_default();
        (*times, *sum) = (*times + 1, *sum + time);
    }

    pub(crate) fn add(&mut self, other: Seen) {
        for (what, (yes, no)) in other.kinds {
            let sum = self.kinds.entry(what).or_default();
            (sum.0, sum.1) = (sum.0 + yes, sum.1 + no);
        }
        for (what, (times, time)) in other.spent {
            let sum = self.spent.entry(what).or_default();
            (sum.0, sum.1) = (sum.0 + times, sum.1 + time);
        }
    }

    /// Fails if something was tried often and never taken.
    pub(crate) fn assert_all(&self) {
        let never = self.kinds.iter().filter(|(_, (yes, no))| *yes == 0 && *no > 20);
        let never: Vec<_> = never.collect();
        assert!(never.is_empty(), "never taken: {never:?}");
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, (yes, no)) in &self.kinds {
            writeln!(f, "{yes:>8} {no:>6} rejected  {what}")?;
        }
        for (what, (times, time)) in &self.spent {
            writeln!(
                f,
                "{:>8.1} s, {:>6.2} s each  {what}",
                time.as_secs_f32(),
                (*time / *times).as_secs_f32()
            )?;
        }
        Ok(())
    }
}
