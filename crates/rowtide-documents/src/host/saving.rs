//! When a document is saved: some time after the first edit that is not saved, at once when somebody asks, later and
//! later while it fails.

use std::time::Duration;

/// Doubling ends here, long after the longest pause is reached.
const MOST_DOUBLINGS: u32 = 20;

/// The plan of a document's saves.
#[derive(Clone, Copy, Debug)]
pub(super) struct SavePlan {
    after: Duration,
    retry: Duration,
    retry_max: Duration,
    due: Option<Duration>,
    failures: u32,
}

impl SavePlan {
    pub(super) fn new(after: Duration, retry: Duration, retry_max: Duration) -> SavePlan {
        SavePlan { after, retry, retry_max, due: None, failures: 0 }
    }

    /// There is something to save.
    pub(super) fn changed(&mut self, now: Duration) {
        if self.due.is_none() {
            let pause = if self.failures == 0 { self.after } else { self.pause() };
            self.due = Some(now + pause);
        }
    }

    /// It is wanted at once; but not while saves fail.
    pub(super) fn hurry(&mut self, now: Duration) {
        if self.failures == 0 {
            self.due = Some(now);
        }
    }

    /// Somebody waits for it.
    pub(super) fn insist(&mut self, now: Duration) {
        self.due = Some(now);
    }

    /// When to save next.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// What there was to save is being saved.
    pub(super) fn begin(&mut self) {
        self.due = None;
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(super) fn failed(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        let retry = now + self.pause();
        self.due = Some(self.due.map_or(retry, |due| due.max(retry)));
    }

    fn pause(&self) -> Duration {
        let doubled = 1 << self.failures.saturating_sub(1).min(MOST_DOUBLINGS);
        self.retry.saturating_mul(doubled).min(self.retry_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_save_follows_the_first_edit_and_not_the_last() {
        let mut plan = SavePlan::new(8 * SECOND, SECOND, 60 * SECOND);
        plan.changed(SECOND);
        plan.changed(5 * SECOND);
        assert_eq!(plan.due(), Some(9 * SECOND));
        plan.begin();
        assert_eq!(plan.due(), None);
        plan.changed(10 * SECOND);
        plan.hurry(11 * SECOND);
        assert_eq!(plan.due(), Some(11 * SECOND));
    }

    #[test]
    fn what_fails_is_tried_again_later_and_later() {
        let mut plan = SavePlan::new(8 * SECOND, SECOND, 60 * SECOND);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            plan.begin();
            plan.failed(Duration::ZERO);
            plan.hurry(Duration::ZERO);
            pauses.extend(plan.due().map(|due| due.as_secs()));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        plan.insist(Duration::ZERO);
        assert_eq!(plan.due(), Some(Duration::ZERO));
        plan.begin();
        plan.succeeded();
        plan.changed(Duration::ZERO);
        assert_eq!(plan.due(), Some(8 * SECOND));
    }
}
