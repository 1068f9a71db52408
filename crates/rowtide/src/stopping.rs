//! The order in which a server stops. First it drains: nobody is let in any more, sessions take what has arrived and say
//! goodbye, and what they were sent is applied or rejected; engines and stream go on meanwhile, because by them clients
//! hear of it. Then documents that nobody is in any more are saved, while the database can still be told. Then engines,
//! stream and log end, in that order. None may take longer than its time: what a
//! client, or Postgres, or a full disk holds up does not hold up the stop. Pure: who stops asks at each stage what is
//! to be done.

use std::time::Duration;

use crate::limits::{DRAIN_TIMEOUT, END_TIMEOUT, SAVE_TIMEOUT};

/// What a server that stops is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopStage {
    /// Nobody is let in. It is done when there is no session, and no mutation that waits or runs.
    Drains,
    /// Documents are saved. It is done when all are.
    Saves,
    /// Engines and mutations end, and the stream, and the log with all that was handed to it. It is done when they have,
    /// and the last connection has.
    Ends,
    /// The process ends, and with it whatever has not.
    Over,
}

/// How far a server is that stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerStop {
    stage: StopStage,
    /// Until when the stage may take.
    until: Duration,
}

impl ServerStop {
    /// The server begins to stop.
    pub fn new(now: Duration) -> ServerStop {
        ServerStop { stage: StopStage::Drains, until: now + DRAIN_TIMEOUT }
    }

    /// What it is at.
    pub fn stage(&self) -> StopStage {
        self.stage
    }

    /// When the next stage begins, whatever there is still.
    pub fn deadline(&self) -> Duration {
        self.until
    }

    /// The same, or, where the stage `is_done` or has had its time, the next one, which begins now.
    #[must_use]
    pub fn go_on(self, is_done: bool, now: Duration) -> ServerStop {
        match self.stage {
            StopStage::Drains if is_done || now >= self.until => {
                ServerStop { stage: StopStage::Saves, until: now + SAVE_TIMEOUT }
            }
            StopStage::Saves if is_done || now >= self.until => {
                ServerStop { stage: StopStage::Ends, until: now + END_TIMEOUT }
            }
            StopStage::Ends if is_done || now >= self.until => {
                ServerStop { stage: StopStage::Over, until: now }
            }
            StopStage::Drains | StopStage::Saves | StopStage::Ends | StopStage::Over => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn a_stage_begins_when_the_one_before_is_done_or_has_had_its_time() {
        let began = Duration::from_secs(100);
        for in_time in [true, false] {
            let mut stop = ServerStop::new(began);
            for (stage, may_take) in [
                (StopStage::Drains, DRAIN_TIMEOUT),
                (StopStage::Saves, SAVE_TIMEOUT),
                (StopStage::Ends, END_TIMEOUT),
            ] {
                let then = stop.deadline() - may_take;
                assert_eq!(stop.stage(), stage);
                assert_eq!(stop.go_on(false, then), stop);
                assert_eq!(stop.go_on(false, stop.deadline() - MOMENT), stop);
                let now = if in_time { then + MOMENT } else { stop.deadline() };
                stop = stop.go_on(in_time, now);
            }
            assert_eq!(stop.stage(), StopStage::Over);
            assert_eq!(
                stop.go_on(true, stop.deadline() + MOMENT),
                stop,
                "there is nothing behind it"
            );
        }
    }
}
