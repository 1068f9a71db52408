//! What is read of a client, from its first message to its last. As a rule that is up to its conversation. When the
//! server stops, what has arrived already comes first: it is read before the conversation hears of the stop, as far
//! as the conversation reads, and so many messages at the most, so that one who sends without an end does not keep
//! the server. After the goodbye everything is read, until the client has gone or has had its time and its share
//! (`GOODBYE_MESSAGES`): what it had sent before it heard of the end may be of use, and dropping the socket with
//! something unread may take the goodbye back. Pure.

use std::time::Duration;

use crate::limits::{GOODBYE_TIMEOUT, STOP_MESSAGES};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listening {
    /// As the conversation wants.
    #[default]
    Open,
    /// The server stops: of what has arrived so many messages are still taken, before the conversation is told.
    Stopping {
        /// How many.
        left: usize,
    },
    /// The conversation was told that the server stops, and reads as it wants.
    Told,
    /// The goodbye was said.
    Goodbye,
}

impl Listening {
    /// The server stops. The first time what has arrived comes next: see [`Listening::takes`].
    pub fn stop(&mut self) {
        if *self == Listening::Open {
            *self = Listening::Stopping { left: STOP_MESSAGES };
        }
    }

    /// Whether one more of the messages that have arrived is taken before the conversation hears of the stop, and
    /// counts it; the conversation `reads` or does not. If not, or if nothing has arrived, it is to be told now.
    pub fn takes(&mut self, reads: bool) -> bool {
        match self {
            Listening::Stopping { left } if reads && *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }

    /// Nothing that has arrived is taken any more. Whether the conversation is to be told that the server stops: once.
    pub fn tells(&mut self) -> bool {
        let tells = matches!(self, Listening::Stopping { .. });
        if tells {
            *self = Listening::Told;
        }
        tells
    }

    /// Whether it is still to be heard that the server stops.
    pub fn hears_of_stop(&self) -> bool {
        *self == Listening::Open
    }

    /// The goodbye is said. Returns when the client has had the time to hear it.
    pub fn say_goodbye(&mut self, now: Duration) -> Duration {
        *self = Listening::Goodbye;
        now + GOODBYE_TIMEOUT
    }

    /// Whether the goodbye was said.
    pub fn is_over(&self) -> bool {
        *self == Listening::Goodbye
    }

    /// Whether messages of the client are read, whose conversation `reads` or does not.
    pub fn is_open(&self, reads: bool) -> bool {
        reads || self.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn what_has_arrived_is_taken_before_the_conversation_is_told_but_not_without_an_end() {
        let mut listening = Listening::default();
        assert!(listening.hears_of_stop() && !listening.takes(true) && !listening.tells());
        listening.stop();
        assert!(!listening.hears_of_stop());
        let taken = (0..).take_while(|_| listening.takes(true)).count();
        assert_eq!(taken, STOP_MESSAGES);
        // One that hears of the stop again begins nothing anew.
        listening.stop();
        assert!(!listening.takes(true));
        assert!(listening.tells() && !listening.tells(), "once");
        listening.stop();
        assert!(!listening.takes(true) && !listening.tells());
    }

    #[test]
    fn a_conversation_that_does_not_read_is_told_at_once() {
        let mut listening = Listening::default();
        listening.stop();
        assert!(listening.takes(true) && !listening.takes(false));
        assert!(listening.tells());
        assert!(listening.is_open(true) && !listening.is_open(false), "as it wants");
    }

    #[test]
    fn after_the_goodbye_everything_is_read_for_a_while() {
        for mut listening in [Listening::Open, Listening::Told] {
            assert!(!listening.is_over() && !listening.is_open(false));
            assert_eq!(listening.say_goodbye(NOW), NOW + GOODBYE_TIMEOUT);
            assert!(listening.is_over() && listening.is_open(false) && listening.is_open(true));
            // It is over for that conversation already.
            listening.stop();
            assert!(!listening.hears_of_stop() && !listening.takes(true) && !listening.tells());
        }
    }
}
