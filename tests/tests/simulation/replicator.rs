//! The part of a server that owns the stream and the log. It takes its place first, as long as another has
//! it this one stands by. It hands every transaction to the log and to every engine, in order, and confirms
//! what is durable. A stream that is not the log's continuation ends the epoch.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::Rng;
use rowtide_feed::{Event as FeedEvent, Generation};
use rowtide_protocol::Lsn;

use crate::checks::EpochFacts;
use crate::disk::{Entry, Seen, seen};
use crate::postgres::Walsender;
use crate::stream::{Decoder, Interrupted, Streamed};
use crate::world::{At, Event, World};

/// How many entries may wait for the disk before the stream is held up.
const LOG_QUEUE: usize = 12;

/// A connection that streams.
pub struct Stream {
    position: Lsn,
    walsender: Walsender,
    decoder: Decoder,
    /// The transactions of the log that the slot had not confirmed: they must come again, the same ones.
    expected: VecDeque<Seen>,
    /// Up to here nothing else may come.
    log_end: Lsn,
    postgres_life: u64,
}

impl World {
    fn replicate_again(&mut self, at: At, most_ms: u64) {
        let delay = self.rng.random_range(20..most_ms);
        self.after(delay, Event::Replicate(at));
    }

    /// Takes its place and begins to stream, or tries again later.
    pub fn replicate(&mut self, at: At) {
        let server = &self.servers[at.server];
        if self.is_gone(at) || server.stopping || server.stream.is_some() {
            return;
        }
        let me = (at.server, at.life);
        if self.disk.holder.is_some_and(|holder| holder != me) {
            self.seen.count("looks of a standby");
            return self.replicate_again(at, 900);
        }
        self.disk.holder = Some(me);
        let busy = self.walsender.is_some_and(|walsender| walsender != me);
        if !self.postgres.up || busy || !self.servers[at.server].log_queue.is_empty() {
            return self.replicate_again(at, 400);
        }
        let Some(slot) = self.postgres.slot else {
            // Durably before there is a slot: it may stand where the log of another history ends.
            if self.disk.end_epoch().is_ok() && self.postgres.create_slot() {
                self.servers[at.server].broken.get_or_insert("slot missing");
            }
            return self.replicate_again(at, 200);
        };
        if slot.confirmed > self.disk.end && self.servers[at.server].broken.is_none() {
            // What the slot has let go may not be visible to loads yet; one that is made anew waits for that.
            self.postgres.slot = None;
            self.servers[at.server].broken = Some("log behind");
            return self.replicate_again(at, 200);
        }
        let read = self.read_tables();
        if self.servers[at.server].broken.is_none()
            && self.disk.epoch.0 > 0
            && read.facts != self.disk.facts
        {
            (self.postgres.slot, self.slot_was_lost) = (None, true);
            self.servers[at.server].broken = Some("tables changed");
            return self.replicate_again(at, 200);
        }
        let broken = if let Some(broken) = self.servers[at.server].broken {
            Some(broken)
        } else if self.postgres.timeline != self.disk.timeline {
            Some("other timeline")
        } else if self.postgres.wal_end < self.disk.end {
            Some("database behind")
        } else if slot.confirmed < self.disk.oldest {
            // What the log does not have cannot be held against what the stream brings.
            Some("slot behind")
        } else {
            None
        };
        if let Some(reason) = broken {
            let before = self.epochs.get(&self.disk.epoch.0);
            let continues = before.is_some_and(|epoch| epoch.history == self.postgres.history());
            let lost = self.slot_was_lost || read.facts != self.disk.facts;
            assert!(!continues || lost, "an epoch ends for nothing: {reason}");
            let Ok(epoch) = self.disk.begin(slot.confirmed, self.postgres.timeline) else {
                return self.replicate_again(at, 400);
            };
            self.say(|| format!("server {} begins {epoch:?}: {reason}", at.server));
            self.seen.count("epochs");
            self.seen.count(reason);
            self.disk.facts.clone_from(&read.facts);
            let (refused, read_at) = (read.refused.clone(), read.read_at);
            let history = self.postgres.history();
            self.epochs.insert(epoch.0, EpochFacts { history, refused, read_at });
            self.servers[at.server].tables = Some(read);
            self.slot_was_lost = false;
            let (plan, position) = (self.plan_of(at), slot.confirmed);
            let generation = Generation { epoch, plan, position, recent: Vec::new() };
            self.begin_generation(at, generation, position);
            self.servers[at.server].broken = None;
        } else if self.servers[at.server].feed.feed.state().generation.is_none() {
            self.seen.count("logs taken up");
            self.servers[at.server].tables = Some(read);
            let recent = self.disk.transactions();
            let previous = recent.last().map_or(self.disk.oldest, |last| last.lsn);
            let (epoch, plan, position) = (self.disk.epoch, self.plan_of(at), self.disk.end);
            let generation = Generation { epoch, plan, position, recent };
            self.begin_generation(at, generation, previous);
        }
        let wal_end = self.postgres.wal_end;
        self.publish(at, vec![FeedEvent::StreamBegan { wal_end }]);
        self.walsender = Some(me);
        let tables = self.servers[at.server].tables.as_ref();
        let plan = Arc::clone(&tables.expect("they were read").plan);
        self.servers[at.server].stream = Some(Stream {
            position: slot.confirmed,
            walsender: Walsender::new(slot.confirmed),
            decoder: Decoder::new(plan),
            expected: self.disk.seen_behind(slot.confirmed),
            log_end: self.disk.end,
            postgres_life: self.postgres.life,
        });
        self.after(1, Event::Stream(at));
    }

    /// Holds what was read of the tables against what they are.
    pub fn watch(&mut self, at: At) {
        if self.is_gone(at) || self.servers[at.server].stopping {
            return;
        }
        self.after(1000, Event::Watch(at));
        self.watch_now(at);
    }

    pub fn watch_now(&mut self, at: At) {
        let read = self.read_tables();
        let server = &mut self.servers[at.server];
        if self.postgres.up
            && server.stream.is_some()
            && server.tables.as_ref().is_some_and(|tables| tables.facts != read.facts)
        {
            self.seen.count("drifts that the watch has found");
            server.stream = None;
            self.walsender = None;
            self.replicate_again(at, 100);
        }
    }

    /// Someone who follows cannot be told what comes next: a generation begins where the log ends.
    pub fn renew_generation(&mut self, at: At) {
        self.seen.count("generations renewed");
        self.end_generation(at);
        if self.servers[at.server].stream.take().is_some() {
            self.walsender = None;
            self.replicate_again(at, 100);
        }
    }

    /// Hands on what the stream has brought.
    pub fn stream(&mut self, at: At) {
        if self.is_gone(at) || self.servers[at.server].stopping {
            return;
        }
        let most = self.rng.random_range(1..6);
        for _ in 0..most {
            let has_room = self.feed_has_room(at);
            let server = &mut self.servers[at.server];
            let Some(stream) = &mut server.stream else { return };
            if stream.postgres_life != self.postgres.life {
                server.stream = None;
                self.seen.count("streams cut");
                return self.replicate_again(at, 800);
            }
            if server.log_queue.len() > LOG_QUEUE || !has_room {
                self.seen.count("streams held up");
                break;
            }
            let Some(streamed) = stream.decoder.next(&mut stream.walsender, &mut self.postgres)
            else {
                break;
            };
            let streamed = match streamed {
                Ok(streamed) => streamed,
                // The watch sees to it.
                Err(interrupted) => {
                    if matches!(interrupted, Interrupted::NoPublication) {
                        (self.postgres.slot, self.slot_was_lost) = (None, true);
                    }
                    self.seen.count("shapes that do not fit");
                    server.stream = None;
                    self.walsender = None;
                    return self.replicate_again(at, 800);
                }
            };
            if !stream.continues(&streamed) {
                (server.stream, server.broken) = (None, Some("other transactions"));
                self.walsender = None;
                return self.replicate_again(at, 200);
            }
            self.hand_on(at, streamed);
        }
        self.confirm(at);
        let delay = self.rng.random_range(2..80);
        self.after(delay, Event::Stream(at));
    }

    fn hand_on(&mut self, at: At, streamed: Streamed) {
        let entry = match streamed {
            Streamed::Transaction(transaction) => Entry::Transaction(transaction),
            Streamed::Position(lsn) => Entry::Position(lsn),
        };
        let feed = &mut self.servers[at.server].feed;
        let (previous, lsn) = (feed.previous, entry.lsn());
        let event = match &entry {
            Entry::Transaction(transaction) => {
                feed.previous = previous.max(lsn);
                let transaction = Arc::clone(transaction);
                FeedEvent::Transaction { previous, transaction }
            }
            Entry::Position(lsn) => {
                let time_us = self.now_ms as i64 * 1000;
                FeedEvent::Position { previous, lsn: *lsn, time_us }
            }
        };
        let server = &mut self.servers[at.server];
        if let Some(stream) = &mut server.stream {
            stream.position = entry.lsn();
        }
        server.log_queue.push_back(entry);
        self.write_later(at);
        self.publish(at, vec![event]);
    }

    fn write_later(&mut self, at: At) {
        if !std::mem::replace(&mut self.servers[at.server].writing, true) {
            let delay = if self.disk.full { 300 } else { self.rng.random_range(1..60) };
            self.after(delay, Event::Write(at));
        }
    }

    /// A group of what waits for the disk becomes durable.
    pub fn write(&mut self, at: At) {
        if self.is_gone(at) {
            return;
        }
        let server = &mut self.servers[at.server];
        server.writing = false;
        let group = self.rng.random_range(1..=20);
        for _ in 0..group {
            let Some(entry) = server.log_queue.front() else { break };
            if self.disk.append(entry).is_err() {
                self.seen.count("writes to a full disk");
                break;
            }
            server.log_queue.pop_front();
        }
        let (more, stopping) = (!server.log_queue.is_empty(), server.stopping);
        server.feed.publisher.durable(self.disk.end);
        self.confirm(at);
        if more {
            self.write_later(at);
        } else if stopping {
            self.server_ends(at.server);
        }
    }

    /// Tells Postgres, now and then, what is durable; and nothing that this very
    /// connection has not brought, because that may be another's.
    fn confirm(&mut self, at: At) {
        let server = &self.servers[at.server];
        if let Some(stream) = &server.stream
            && stream.postgres_life == self.postgres.life
            && let Some(slot) = &mut self.postgres.slot
            && self.rng.random_bool(0.3)
        {
            let confirmed = self.disk.end.min(stream.position);
            slot.confirmed = slot.confirmed.max(confirmed);
        }
    }
}

impl Stream {
    /// Whether this may come next, if the database goes on from where the log ends.
    fn continues(&mut self, streamed: &Streamed) -> bool {
        match streamed {
            Streamed::Transaction(transaction) => match self.expected.pop_front() {
                Some(expected) => expected == seen(transaction),
                None => transaction.lsn > self.log_end,
            },
            Streamed::Position(lsn) => self.expected.front().is_none_or(|(next, ..)| lsn < next),
        }
    }
}
