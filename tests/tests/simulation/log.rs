//! What a server has queued for the log, on its way to the disk.

use std::sync::Arc;

use rand::Rng;
use rowtide_feed::Event as FeedEvent;
use rowtide_log::LogIdentity;
use rowtide_postgres::watch::Observed;
use rowtide_replicator::machine::Input;

use crate::world::{At, Event, World};

/// What waits for the disk.
#[derive(Clone, Debug)]
pub enum Logged {
    Events(Arc<[FeedEvent]>),
    /// With what the log is of from there on.
    Reshaped(LogIdentity, FeedEvent),
    /// What the database is like.
    Note(Box<Observed>),
}

impl World {
    pub fn write_later(&mut self, at: At) {
        if !std::mem::replace(&mut self.servers[at.server].writing, true) {
            let delay = if self.disk.full { 300 } else { self.rng.random_range(1..60) };
            self.after(delay, Event::Write(at));
        }
    }

    /// A group of what waits for the disk becomes durable.
    pub fn write(&mut self, at: At) {
        if self.is_gone(at) || self.disk.holder != Some((at.server, at.life)) {
            return;
        }
        let server = &mut self.servers[at.server];
        server.writing = false;
        let group = self.rng.random_range(1..=20);
        for _ in 0..group {
            let Some(events) = server.log_queue.front() else { break };
            if self.disk.write(events).is_err() {
                self.seen.count("writes to a full disk");
                break;
            }
            server.log_queue.pop_front();
        }
        let (more, closing) = (!server.log_queue.is_empty(), server.log_closing);
        server.feed.publisher.durable(self.disk.end());
        if more {
            self.write_later(at);
        } else if closing {
            self.log_is_closed(at);
        }
        let durable = self.disk.end();
        self.step_replicator(at, Input::Durable(durable));
    }

    /// What is told only when it is durable: the disk is waited for, as long as it takes.
    pub fn write_at_once(&mut self, at: At, logged: Logged) {
        let full = std::mem::replace(&mut self.disk.full, false);
        let server = &mut self.servers[at.server];
        for logged in server.log_queue.drain(..).chain([logged]) {
            self.disk.write(&logged).expect("there is room by now");
        }
        self.disk.full = full;
        // Which is told when it is looked at.
        self.write_later(at);
    }

    /// Gives the log free, once what is queued is in it.
    pub fn close_log(&mut self, at: At) {
        if self.disk.holder != Some((at.server, at.life)) {
            return self.log_is_closed(at);
        }
        self.servers[at.server].log_closing = true;
        if self.servers[at.server].log_queue.is_empty() {
            self.log_is_closed(at);
        }
    }

    fn log_is_closed(&mut self, at: At) {
        self.servers[at.server].log_closing = false;
        self.disk.holder.take_if(|holder| *holder == (at.server, at.life));
        if self.servers[at.server].ends {
            self.servers[at.server].has_ended = true;
            self.go_on_stopping(at);
        }
    }
}
