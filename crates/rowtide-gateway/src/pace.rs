//! How fast one connection may go on with something, whatever it is: so many at once, and from then on one in a time.
//! What is over it is not rejected: nothing more is taken before its time has come, and whoever sends it notices.
//! Pure: whoever asks says what time it is.

use std::time::Duration;

/// A pace and how far one is ahead of it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    every: Duration,
    ahead: Duration,
    /// When what was taken would be due.
    due: Duration,
}

impl Pace {
    /// `burst` at once if there were none before, and `burst` in each `window` from then on.
    pub fn new(burst: u32, window: Duration) -> Pace {
        Pace { every: window / burst.max(1), ahead: window, due: Duration::ZERO }
    }

    /// One was taken.
    pub fn take(&mut self, now: Duration) {
        self.due = self.due.max(now) + self.every;
    }

    /// Until when the next one has to wait, if it has.
    pub fn rests_until(&self, now: Duration) -> Option<Duration> {
        let until = (self.due + self.every).checked_sub(self.ahead)?;
        (until > now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_its_pace() {
        let mut pace = Pace::new(10, 60 * SECOND);
        let mut now = 1_000 * SECOND;
        for _ in 0..10 {
            assert_eq!(pace.rests_until(now), None);
            pace.take(now);
        }
        for _ in 0..100 {
            let until = pace.rests_until(now).unwrap();
            assert_eq!(until, now + 6 * SECOND);
            now = until;
            pace.take(now);
        }
        now += 60 * SECOND;
        let at_once =
            std::iter::from_fn(|| pace.rests_until(now).is_none().then(|| pace.take(now)));
        assert_eq!(at_once.count(), 10);
    }
}
