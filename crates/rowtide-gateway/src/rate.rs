//! How much a user may ask for in a time, counted in operations. Each user has a bucket that a minute fills.
//! What is over it is never rejected for that: whoever asks is told how long to wait, and has that time
//! reserved, so that those who wait are served in the order in which they came; or is told that it would be
//! too long, and takes nothing. Pure: whoever asks says what time it is.

use std::collections::HashMap;
use std::time::Duration;

/// How much time a full bucket holds.
const WINDOW: Duration = Duration::from_secs(60);
/// How many buckets there are before full ones are looked for, to be dropped.
const MIN_SWEEP: usize = 1_024;

/// The answer to one who asks for operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They may be done at once.
    Now,
    /// They may be done after this time, and have their place.
    After(Duration),
    /// It would be longer than the asker can wait: this long. Nothing was taken.
    TooLong(Duration),
}

/// The buckets of all users.
#[derive(Debug)]
pub struct Rate {
    /// Operations a minute for each user; 0: any number.
    per_minute: u32,
    /// When the bucket of each user would be full again, if nothing more is taken.
    full_at: HashMap<Box<str>, Duration>,
    sweep_at: usize,
}

impl Rate {
    /// `per_minute` operations for each user, all of them at once if none was done before; 0: any number.
    pub fn new(per_minute: u32) -> Rate {
        Rate { per_minute, full_at: HashMap::new(), sweep_at: MIN_SWEEP }
    }

    /// Asks for operations of a user, who can wait for `longest`. What is more than a whole bucket costs a whole
    /// bucket: nothing is too much for ever.
    pub fn take(
        &mut self,
        user: &str,
        operations: usize,
        now: Duration,
        longest: Duration,
    ) -> Verdict {
        if self.per_minute == 0 {
            return Verdict::Now;
        }
        let operations = u32::try_from(operations).unwrap_or(u32::MAX).min(self.per_minute);
        let cost = WINDOW * operations / self.per_minute;
        let full_at = self.full_at.get(user).copied().unwrap_or(now).max(now) + cost;
        let wait = full_at.saturating_sub(now + WINDOW);
        if wait > longest {
            return Verdict::TooLong(wait);
        }
        self.full_at.insert(user.into(), full_at);
        if self.full_at.len() >= self.sweep_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.sweep_at = (2 * self.full_at.len()).max(MIN_SWEEP);
        }
        if wait.is_zero() { Verdict::Now } else { Verdict::After(wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_over_the_rate_waits_in_order_and_what_would_wait_too_long_takes_nothing() {
        let mut rate = Rate::new(60);
        let mut take = |n, now: u64| rate.take("ann", n, SECOND * now as u32, SECOND * 10);
        assert_eq!(take(60, 100), Verdict::Now);
        assert_eq!(take(4, 100), Verdict::After(SECOND * 4));
        assert_eq!(take(1, 100), Verdict::After(SECOND * 5));
        assert_eq!(take(6, 100), Verdict::TooLong(SECOND * 11));
        assert_eq!(take(5, 100), Verdict::After(SECOND * 10));
        assert_eq!(take(1, 111), Verdict::Now);
        assert_eq!(take(1, 111), Verdict::After(SECOND));
        // All of it comes back with time, and no more than that.
        assert_eq!(take(60, 1000), Verdict::Now);
        assert_eq!(take(1, 1000), Verdict::After(SECOND));
    }

    #[test]
    fn users_have_buckets_of_their_own_and_nothing_is_too_much_for_ever() {
        let mut rate = Rate::new(5);
        assert_eq!(rate.take("ann", 500, SECOND, SECOND), Verdict::Now);
        assert_eq!(rate.take("bob", 5, SECOND, SECOND), Verdict::Now);
        assert!(matches!(rate.take("ann", 500, SECOND, SECOND), Verdict::TooLong(_)));
        assert_eq!(Rate::new(0).take("ann", usize::MAX, SECOND, SECOND), Verdict::Now);
    }

    #[test]
    fn buckets_that_are_full_again_are_dropped() {
        let mut rate = Rate::new(60);
        for user in 0..10 * MIN_SWEEP as u32 {
            rate.take(&user.to_string(), 1, SECOND * user, SECOND);
        }
        assert!(rate.full_at.len() <= MIN_SWEEP);
    }
}
