//! Which outcomes a tab is known to have heard, so that they are not told it again when it comes back. It does not say
//! so; but whoever answers a WebSocket ping has got what was sent before it. A rejection is shown to the person, so the
//! client is asked at once. What was applied may be told twice, and is noted with the next ping. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// How many names wait for a ping at most; the others are told once more.
const MAX_WAITING: usize = 1_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Told, and not followed by a ping.
    told: VecDeque<Box<str>>,
    /// When one must follow.
    ping_at: Option<Duration>,
    /// How many pings were sent, and answered.
    pings: u64,
    pongs: u64,
    /// What the answer to each ping says to be heard.
    waiting: VecDeque<(u64, Vec<Box<str>>)>,
}

impl Heard {
    /// The outcome of a mutation of the tab was told. A ping is to follow at a time, or with the next.
    pub(crate) fn told(&mut self, name: &str, ping_at: Option<Duration>) {
        if self.told.len() == MAX_WAITING {
            self.told.pop_front();
        }
        self.told.push_back(name.into());
        self.ping_at = self.ping_at.into_iter().chain(ping_at).min();
    }

    /// Whether it is time for a ping.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.ping_at.is_some_and(|at| at <= now)
    }

    /// When it is.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.ping_at
    }

    /// A ping is sent.
    pub(crate) fn pinged(&mut self) {
        self.pings += 1;
        self.ping_at = None;
        if !self.told.is_empty() {
            self.waiting.push_back((self.pings, self.told.drain(..).collect()));
        }
    }

    /// The client has answered to a ping. Returns what it has heard by that.
    pub(crate) fn answered(&mut self) -> Vec<Box<str>> {
        self.pongs = (self.pongs + 1).min(self.pings);
        let mut heard = Vec::new();
        while let Some((_, names)) = self.waiting.pop_front_if(|(ping, _)| *ping <= self.pongs) {
            heard.extend(names);
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_before_a_ping_is_heard_when_it_is_answered() {
        let second = Duration::from_secs(1);
        let mut heard = Heard::default();
        heard.pinged();
        heard.told("a", None);
        assert_eq!((heard.deadline(), heard.answered().len()), (None, 0), "an earlier ping");
        heard.told("b", Some(second));
        assert!(heard.is_due(second) && !heard.is_due(second / 2));
        heard.pinged();
        heard.told("c", None);
        assert_eq!(heard.answered(), ["a".into(), "b".into()]);
        assert_eq!(heard.answered(), [], "nobody has asked");
        heard.pinged();
        assert_eq!(heard.answered(), ["c".into()]);
    }
}
