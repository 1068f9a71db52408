//! What time it is, for the pure cores: they are told, and never look.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment, by two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since some fixed moment; never goes back.
    pub time: Duration,
    /// Since 1970 UTC, by a clock that may be set.
    pub unix: Duration,
}

/// The clocks of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: Instant,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { began: Instant::now() }
    }

    /// Since this clock was started.
    pub(crate) fn time(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { time: self.time(), unix }
    }

    /// When that is for tokio's timers.
    pub(crate) fn instant(&self, time: Duration) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.began) + time
    }
}
