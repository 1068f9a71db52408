//! Whether engines keep up. Each publishes where it stands, and that it is alive, without being asked: whoever looks
//! never waits for an engine. From what is seen now and then follows which engine does nothing any more, and which
//! one falls behind the feed. Pure but for the cell between the two threads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rowtide_engine::Counts;
use rowtide_protocol::Lsn;

/// How long an engine may do nothing, or be behind, before it is said.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Where an engine stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here has been taken in.
    pub position: Lsn,
    /// What it holds.
    pub counts: Counts,
    /// Grows with all that it does, and at least once a second.
    pub beats: u64,
}

/// Where an engine publishes its progress. Cheap to clone; nobody holds it for longer than a copy takes.
#[derive(Clone, Debug, Default)]
pub struct ProgressCell(Arc<Mutex<Progress>>);

impl ProgressCell {
    /// A cell of an engine at a position.
    pub fn new(position: Lsn) -> ProgressCell {
        ProgressCell(Arc::new(Mutex::new(Progress { position, ..Progress::default() })))
    }

    /// What was published last.
    pub fn get(&self) -> Progress {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes.
    pub fn publish(&self, position: Lsn, counts: Counts) {
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *progress = Progress { position, counts, beats: progress.beats + 1 };
    }
}

/// What is wrong with an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// It does nothing.
    Still(Duration),
    /// It does not move, and the feed has moved.
    Stuck(Duration),
    /// It moves, and is behind the feed by this long.
    Behind(Duration),
}

/// Looks after the engines of one generation.
#[derive(Debug)]
pub struct Watchdog {
    engines: Vec<Watched>,
    /// Where the feed was, and when, for all that some engine has not taken in.
    feed: VecDeque<(Lsn, Duration)>,
}

#[derive(Debug)]
struct Watched {
    last: Progress,
    beat_at: Duration,
    moved_at: Duration,
}

impl Watchdog {
    /// For engines that are at these places now.
    pub fn new(engines: &[Progress], now: Duration) -> Watchdog {
        let watched = |last: &Progress| Watched { last: *last, beat_at: now, moved_at: now };
        Watchdog { engines: engines.iter().map(watched).collect(), feed: VecDeque::new() }
    }

    /// Looks: where the feed is, if it has begun, and where the engines are. Called about every second. Returns the first engine that
    /// is stalled.
    pub fn look(
        &mut self,
        feed: Option<Lsn>,
        engines: &[Progress],
        now: Duration,
    ) -> Option<(usize, Stall)> {
        if let Some(feed) = feed
            && self.feed.back().is_none_or(|(last, _)| feed > *last)
        {
            self.feed.push_back((feed, now));
        }
        let slowest = engines.iter().map(|engine| engine.position).min();
        while self
            .feed
            .front()
            .is_some_and(|(lsn, _)| slowest.is_none_or(|slowest| *lsn <= slowest))
        {
            self.feed.pop_front();
        }
        let mut stalled = None;
        for (index, (watched, progress)) in self.engines.iter_mut().zip(engines).enumerate() {
            if progress.beats != watched.last.beats {
                watched.beat_at = now;
            }
            if progress.position != watched.last.position {
                watched.moved_at = now;
            }
            watched.last = *progress;
            let since = |at: Duration| now.saturating_sub(at);
            let still = since(watched.beat_at);
            let waits = self.feed.iter().find(|(lsn, _)| *lsn > progress.position);
            let behind = waits.map_or(Duration::ZERO, |(_, at)| since(*at));
            let stall = if behind >= PATIENCE && since(watched.moved_at) >= PATIENCE {
                Some(Stall::Stuck(since(watched.moved_at).min(behind)))
            } else if still >= PATIENCE {
                Some(Stall::Still(still))
            } else if behind >= PATIENCE {
                Some(Stall::Behind(behind))
            } else {
                None
            };
            stalled = stalled.or(stall.map(|stall| (index, stall)));
        }
        stalled
    }
}

/// What to say of a stall.
pub fn say((engine, stall): (usize, Stall)) -> String {
    match stall {
        Stall::Still(time) => format!("engine {engine} has done nothing for {} s", time.as_secs()),
        Stall::Stuck(time) => {
            format!("engine {engine} has not moved for {} s while the feed has", time.as_secs())
        }
        Stall::Behind(time) => format!("engine {engine} is {} s behind the feed", time.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64, beats: u64) -> Progress {
        Progress { position: Lsn(position), beats, ..Progress::default() }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_engine_that_does_not_move_while_the_feed_does_is_said_to() {
        let mut watchdog = Watchdog::new(&[at(5, 0), at(5, 0)], seconds(0));
        for now in 0..12 {
            // It goes on with other things.
            let engines = [at(5 + now, now), at(5, now)];
            let stall = watchdog.look(Some(Lsn(5 + now)), &engines, seconds(now));
            assert_eq!(stall.is_some(), now >= 11, "after {now} s: {stall:?}");
        }
        let stall = watchdog.look(Some(Lsn(17)), &[at(17, 12), at(5, 0)], seconds(13)).unwrap();
        assert_eq!(say(stall), "engine 1 has not moved for 12 s while the feed has");
        assert_eq!(watchdog.look(Some(Lsn(17)), &[at(17, 13), at(17, 1)], seconds(14)), None);
    }

    #[test]
    fn an_engine_that_is_slow_or_does_nothing_is_said_to() {
        let mut watchdog = Watchdog::new(&[at(0, 0)], seconds(0));
        for now in 0..30 {
            watchdog.look(Some(Lsn(10 * now)), &[at(now, now)], seconds(now));
        }
        let stall = watchdog.look(Some(Lsn(300)), &[at(30, 30)], seconds(30)).unwrap();
        assert_eq!(stall, (0, Stall::Behind(seconds(26))));
        let mut watchdog = Watchdog::new(&[at(0, 0)], seconds(0));
        let stall = watchdog.look(None, &[at(0, 0)], seconds(11)).unwrap();
        assert_eq!(say(stall), "engine 0 has done nothing for 11 s");
    }

    #[test]
    fn a_feed_that_stands_still_is_no_stall() {
        let mut watchdog = Watchdog::new(&[at(5, 0)], seconds(0));
        for now in 0..60 {
            assert_eq!(watchdog.look(Some(Lsn(5)), &[at(5, now)], seconds(now)), None);
        }
    }
}
