//! For how long the database may not be looked at while the stream goes on. A look that fails now and then says nothing,
//! and the next one makes up for it; but where none has succeeded for [`WATCH_PATIENCE`] nobody knows any more what
//! has become of the tables, which is said, and said again after as long. Pure.

use std::time::Duration;

use crate::limits::WATCH_PATIENCE;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// When the tables were known last.
    known: Duration,
}

impl Patience {
    /// The database is watched from now on.
    pub fn new(now: Duration) -> Patience {
        Patience { known: now }
    }

    /// A look has succeeded.
    pub fn saw(&mut self, now: Duration) {
        self.known = now;
    }

    /// A look has failed. Whether it is to be said that nothing can be seen.
    pub fn failed(&mut self, now: Duration) -> bool {
        let is_over = now >= self.known + WATCH_PATIENCE;
        if is_over {
            self.known = now;
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_fail_for_long_enough_are_said_and_said_again() {
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(5 * second);
        let mut said = Vec::new();
        for at in 6..40 {
            let now = at * second;
            if at == 10 {
                patience.saw(now);
            } else if patience.failed(now) {
                said.push(at);
            }
        }
        assert_eq!(said, [20, 30]);
    }
}
