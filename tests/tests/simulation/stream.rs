//! A connection that streams, on the server's side: what the walsender says goes through the server's own
//! decoder, for the server's plan, as `rowtide_postgres::stream` does it over a socket.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::Rng;
use rowtide_plan::plan::Plan;
use rowtide_postgres::assemble::Assembler;
use rowtide_postgres::stream::{SchemaChange, StreamEvent};
use rowtide_protocol::Lsn;
use rowtide_replicator::machine::{Brought, Input, StreamFailure};

use crate::breaks::Break;
use crate::postgres::{Postgres, Sent, Walsender, WalsenderError};
use crate::replicator::Job;
use crate::sql::LARGE;
use crate::world::{At, Event, World};

/// More bytes than this of one transaction are not held.
const MAX_TRANSACTION_BYTES: usize = LARGE * 330;
/// How many batches may wait for the disk before the stream is held up.
const LOG_QUEUE: usize = 12;

pub struct Stream {
    walsender: Walsender,
    assembler: Assembler,
    messages: VecDeque<Sent>,
    events: VecDeque<StreamEvent>,
    /// What is told to Postgres with the next status.
    pub confirmed: Option<Lsn>,
    postgres_life: u64,
}

impl Stream {
    pub fn new(plan: Arc<Plan>, position: Lsn, postgres_life: u64) -> Stream {
        let assembler = Assembler::new(plan, "rowtide".to_owned(), MAX_TRANSACTION_BYTES);
        let (messages, events) = (VecDeque::new(), VecDeque::new());
        let walsender = Walsender::new(position);
        Stream { walsender, assembler, messages, events, confirmed: None, postgres_life }
    }

    /// What is committed behind `at` is of another plan.
    pub fn switch(&mut self, at: Lsn, plan: Arc<Plan>) {
        self.assembler.switch(at, plan);
    }

    /// Postgres ends it.
    pub fn end(&mut self) {
        self.postgres_life = u64::MAX;
    }

    /// Whether Postgres is still there, and runs as it did.
    pub fn is_of(&self, postgres: &Postgres) -> bool {
        postgres.up && self.postgres_life == postgres.life
    }

    pub fn tell_confirmed(&self, postgres: &mut Postgres) {
        if let (Some(confirmed), Some(slot)) = (self.confirmed, &mut postgres.slot) {
            slot.confirmed = slot.confirmed.max(confirmed);
        }
    }

    /// What comes next, if something is there.
    fn next(
        &mut self,
        postgres: &mut Postgres,
        now_ms: u64,
    ) -> Option<Result<Brought, StreamFailure>> {
        loop {
            if self.messages.is_empty() && self.events.is_empty() {
                match self.walsender.next(postgres) {
                    Ok(sent) if sent.is_empty() => return None,
                    Ok(sent) => self.messages = sent,
                    Err(WalsenderError::NoPublication) => {
                        let why = "publication \"publication\" does not exist".to_owned();
                        return Some(Err(StreamFailure::PublicationMissing(why)));
                    }
                }
            }
            if let Some(event) = self.events.pop_front() {
                return Some(match event {
                    StreamEvent::Transaction(transaction) => {
                        Ok(Brought::Transaction(Arc::new(transaction)))
                    }
                    StreamEvent::SchemaChanged(SchemaChange { table, what, committed }) => {
                        Err(StreamFailure::Unfit { table, what, committed })
                    }
                    StreamEvent::Switched => Ok(Brought::Switched),
                    StreamEvent::Position(lsn) => {
                        Ok(Brought::Position { lsn, time_us: now_ms as i64 * 1000 })
                    }
                });
            }
            match self.messages.pop_front()? {
                Sent::Message(bytes) => {
                    let mut events = Vec::new();
                    let taken = self.assembler.message(&bytes, &mut events);
                    taken.unwrap_or_else(|error| panic!("what Postgres sends is decoded: {error}"));
                    self.events.extend(events);
                }
                Sent::KeepAlive(lsn) => {
                    let mut events = Vec::new();
                    self.assembler.reached(lsn, &mut events);
                    self.events.extend(events);
                    self.events.push_back(StreamEvent::Position(lsn));
                }
            }
        }
    }
}

impl World {
    /// Hands on what the stream has brought.
    pub fn take_from_stream(&mut self, at: At, asked: u64) {
        let mut brought = Vec::new();
        let mut failure = None;
        let has_room = self.feed_has_room(at);
        let server = &mut self.servers[at.server];
        let Some(stream) = &mut server.replicator.stream else { return };
        let queued = server.log_queue.len();
        if !stream.is_of(&self.postgres) {
            self.seen.count("streams cut");
            failure = Some(StreamFailure::Ended("Postgres closed it".to_owned()));
        } else if queued > LOG_QUEUE || !has_room {
            self.seen.count("streams held up");
        } else {
            for _ in 0..self.rng.random_range(1..6) {
                match stream.next(&mut self.postgres, self.now_ms) {
                    None => break,
                    Some(Ok(next)) => brought.push(next),
                    Some(Err(StreamFailure::Unfit { .. }))
                        if self.broken == Some(Break::SwallowedChange) => {}
                    Some(Err(why)) => {
                        self.seen.count(match &why {
                            StreamFailure::PublicationMissing(_) => "streams without a publication",
                            _ => "shapes that do not fit",
                        });
                        failure = Some(why);
                        break;
                    }
                }
            }
            let confirms = stream.confirmed.is_some() && self.postgres.slot.is_some();
            if confirms && self.rng.random_bool(0.3) {
                stream.tell_confirmed(&mut self.postgres);
            }
        }
        let delay = self.rng.random_range(2..80);
        self.after(delay, Event::Replicator(at, asked, Box::new(Job::Stream)));
        if !brought.is_empty() {
            self.servers[at.server].replicator.fruitless.clear();
        }
        if !brought.is_empty() || failure.is_some() {
            self.step_replicator(at, Input::Streamed(brought, failure));
        }
    }
}
