//! While it streams: events are held against the log, handed on once each, and confirmed when they are durable.

use rowtide_feed::{Event, ReplicatorStatus};
use rowtide_protocol::Lsn;

use super::{Brought, Core, Effect, Fitted, Input, Serving, State, Step, StreamFailure};
use crate::continuity::{Continuity, LogPlace};
use crate::drift::Follows;

/// A stream that is under way.
#[derive(Debug)]
pub(super) struct Streaming {
    continuity: Continuity,
    /// Once that is reached it has caught up.
    wal_end: Lsn,
    /// Everything up to here was brought by this connection, if anything was.
    reached: Option<Lsn>,
    durable: Lsn,
    /// What was confirmed over this connection.
    confirmed: Option<Lsn>,
    /// Whether the tables can be looked at. What is brought is true all the same, but perhaps not all of it comes.
    sees: bool,
    /// Nothing is handed on: once the epoch is reached the stream begins there, over a connection of its own.
    only_up_to_epoch: bool,
}

impl Streaming {
    pub(super) fn new(continuity: Continuity, wal_end: Lsn) -> Streaming {
        Streaming {
            durable: continuity.end(),
            continuity,
            wal_end,
            reached: None,
            confirmed: None,
            sees: true,
            only_up_to_epoch: false,
        }
    }

    /// One whose connection is good for what lies before the epoch alone.
    pub(super) fn up_to_epoch(continuity: Continuity, wal_end: Lsn) -> Streaming {
        Streaming { only_up_to_epoch: true, ..Streaming::new(continuity, wal_end) }
    }

    /// Whether all that this connection is good for was brought.
    fn is_at_epoch(&self) -> bool {
        self.only_up_to_epoch
            && self.continuity.is_proved()
            && self.reached >= Some(self.continuity.end())
    }

    /// Whether nothing is known to be behind.
    fn is_current(&self) -> bool {
        self.sees && !self.only_up_to_epoch && self.reached >= Some(self.wal_end)
    }

    /// What may be confirmed now and was not: what is durable, and was brought by this very connection, because
    /// otherwise it may be another database's.
    fn confirm(&mut self) -> Option<Effect> {
        // Where an `Event::Reshaped` is told is a position between two: nothing in WAL ends there, and a commit may begin
        // right before it. All that are in WAL are even.
        let confirmed = Lsn(self.durable.min(self.reached?).0 & !1);
        let news = self.continuity.is_proved() && Some(confirmed) > self.confirmed;
        news.then(|| {
            self.confirmed = Some(confirmed);
            Effect::Confirm(confirmed)
        })
    }
}

impl Core {
    pub(super) fn stream(&mut self, mut streaming: Streaming, input: Input) -> Step {
        let mut effects = Vec::new();
        match input {
            Input::Streamed(brought, failure) => {
                return self.streamed(streaming, brought, failure);
            }
            Input::Durable(lsn) => {
                streaming.durable = lsn;
                effects.extend(streaming.confirm());
            }
            Input::Outrun => {
                // Another begins where the log ends.
                self.serving = None;
                self.progress = true;
                return self.look_anew(vec![Effect::EndGeneration]);
            }
            Input::Blind(why) => {
                streaming.sees = false;
                self.tell_trouble(&why, &mut effects);
            }
            Input::Observed(observed) => {
                if !std::mem::replace(&mut streaming.sees, true) && streaming.is_current() {
                    self.said.clear();
                    effects.push(Effect::Status(ReplicatorStatus::Streaming));
                }
                let follows = self.drifted(&observed, &mut effects);
                if follows < Follows::Recompile {
                    // What of it matters is no reason to look again.
                    effects.push(Effect::KeepLook(observed.clone()));
                }
                if let Some(looked) = &mut self.looked {
                    looked.observed = *observed;
                }
                self.tell_incomplete(&mut effects);
                if follows >= Follows::Recompile {
                    // A drift is news, and looked into at once.
                    self.progress = true;
                    return self.look_anew(effects);
                }
            }
            _ => {}
        }
        self.state = State::Streaming(streaming);
        Step { effects, next: None }
    }

    fn streamed(
        &mut self,
        mut streaming: Streaming,
        brought: Vec<Brought>,
        failure: Option<StreamFailure>,
    ) -> Step {
        let mut effects = Vec::new();
        let mut news = Vec::new();
        let Some(mut serving) = self.serving.take() else { return self.look_anew(Vec::new()) };
        for brought in brought {
            let Some((event, lsn)) = serving.event(brought) else {
                // The connection that begins at the epoch is told again.
                if streaming.only_up_to_epoch {
                    continue;
                }
                let Some(reshape) = self.reshape(&mut serving) else { continue };
                if !news.is_empty() {
                    effects.push(Effect::HandOn(std::mem::take(&mut news).into()));
                }
                effects.push(reshape);
                continue;
            };
            match streaming.continuity.check(&event) {
                Ok(place) => {
                    streaming.reached = streaming.reached.max(Some(lsn));
                    if streaming.is_at_epoch() {
                        effects.extend(streaming.confirm());
                        effects.push(Effect::Disconnect);
                        self.serving = Some(serving);
                        return self.connect(effects);
                    }
                    if place == LogPlace::Ahead && lsn > serving.handed_on {
                        serving.handed_on = lsn;
                        self.progress |= serving.take_note(&event);
                        news.push(event);
                    }
                }
                Err(reason) => {
                    // Nothing of this batch was handed on, so nothing of another history is in the log.
                    self.serving = Some(serving);
                    self.broken = self.broken.or(Some(reason));
                    return self.wait(&format!(
                        "what comes is not the continuation of what clients hold: {reason}"
                    ));
                }
            }
        }
        self.serving = Some(serving);
        if !news.is_empty() {
            effects.push(Effect::HandOn(news.into()));
        }
        if streaming.is_current() {
            self.progress = true;
            self.said.clear();
            effects.push(Effect::Status(ReplicatorStatus::Streaming));
            if self.fitted == Fitted::Once {
                self.fitted = Fitted::Told;
                effects.push(Effect::Incomplete(None));
            }
        }
        effects.extend(streaming.confirm());
        match failure {
            None => {}
            // A load that is made in this epoch has it.
            Some(StreamFailure::Unfit { committed, .. })
                if committed < streaming.continuity.end() => {}
            Some(failure) => {
                let mut step = self.failed(failure);
                effects.append(&mut step.effects);
                return Step { effects, next: step.next };
            }
        }
        self.state = State::Streaming(streaming);
        Step { effects, next: None }
    }
}

impl Serving {
    /// What is brought, and up to where; `None` where the plan is another.
    fn event(&self, brought: Brought) -> Option<(Event, Lsn)> {
        let previous = self.previous;
        match brought {
            Brought::Transaction(transaction) => {
                let lsn = transaction.lsn;
                Some((Event::Transaction { previous, transaction }, lsn))
            }
            Brought::Position { lsn, time_us } => {
                Some((Event::Position { previous, lsn, time_us }, lsn))
            }
            Brought::Switched => None,
        }
    }

    /// Whether the event is a transaction, which the next event follows then.
    fn take_note(&mut self, event: &Event) -> bool {
        let Event::Transaction { transaction, .. } = event else { return false };
        self.previous = transaction.lsn;
        true
    }
}
