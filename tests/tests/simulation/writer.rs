//! From sessions to Postgres: the mutations of one session wait in one queue, which outlives it, and are
//! tried one after the other until Postgres has settled them. The answer to a commit may be lost, and then
//! the same is tried again.

use std::collections::VecDeque;

use rand::Rng;
use rowtide_protocol::ErrorCode;

use crate::postgres::{Mutation, Outcome};
use crate::rules::Op;
use crate::world::{At, Event, World};

/// How many mutations of a session may wait.
const WAITING: usize = 12;

pub struct Queue {
    client: String,
    user: String,
    waiting: VecDeque<Mutation>,
    /// Whether the first of them is being tried.
    busy: bool,
    tries: u32,
    /// The last that is known to be settled.
    settled: u64,
}

/// One attempt at a mutation: a transaction.
#[derive(Debug)]
pub struct Attempt {
    queue: u64,
    client: String,
    user: String,
    mutation: Mutation,
    xid: u64,
    postgres_life: u64,
}

impl World {
    pub fn queue_mutation(&mut self, at: At, id: u64, sent: rowtide_protocol::Mutation) {
        let server = &mut self.servers[at.server];
        let Some(session) = server.sessions.get(&id) else { return };
        let queue = server.queues.entry(id).or_insert_with(|| Queue {
            client: session.client.clone(),
            user: session.user.clone(),
            waiting: VecDeque::new(),
            busy: false,
            tries: 0,
            settled: session.last,
        });
        if queue.waiting.len() >= WAITING {
            self.seen.count("full queues");
            return self.end_session(at, id, Some(ErrorCode::Unavailable));
        }
        let ops: Vec<Op> =
            sent.ops.expect("clients speak the protocol").iter().map(Op::read).collect();
        let tag = ops[0].tag().expect("a mutation begins with what bears its tag");
        let asked = if self.rng.random_bool(0.03) { Err("rate_limit_exceeded") } else { Ok(ops) };
        queue.waiting.push_back(Mutation { number: sent.id, tag, asked });
        if !std::mem::replace(&mut queue.busy, true) {
            let delay = self.rng.random_range(0..5);
            self.after(delay, Event::Attempt(at, id));
        }
    }

    /// Lets go what waits in a client's queues, and says whether something is under way.
    pub fn drop_waiting(&mut self, at: At, client: &str) -> bool {
        let queues = self.servers[at.server].queues.values_mut();
        let mut busy = false;
        for queue in queues.filter(|queue| queue.client == client) {
            queue.waiting.truncate(usize::from(queue.busy));
            busy |= queue.busy;
        }
        busy
    }

    pub fn attempt(&mut self, at: At, id: u64) {
        if self.is_gone(at) {
            return;
        }
        let server = &mut self.servers[at.server];
        let open = server.sessions.contains_key(&id);
        let Some(queue) = server.queues.get_mut(&id) else { return };
        let Some(mutation) = queue.waiting.front().cloned() else {
            queue.busy = false;
            if !open {
                server.queues.remove(&id);
            }
            return;
        };
        if !self.postgres.up {
            let delay = self.rng.random_range(100..2000);
            return self.after(delay, Event::Attempt(at, id));
        }
        let attempt = Attempt {
            queue: id,
            client: queue.client.clone(),
            user: queue.user.clone(),
            mutation,
            xid: self.postgres.begin(),
            postgres_life: self.postgres.life,
        };
        let delay = self.rng.random_range(1..25);
        self.after(delay, Event::Commit(at, Box::new(attempt)));
    }

    /// The transaction of an attempt runs, unless Postgres or, before it had sent everything, the server
    /// has ended.
    pub fn commit_attempt(&mut self, at: At, attempt: Box<Attempt>) {
        let id = attempt.queue;
        let alive = !self.is_gone(at) && self.servers[at.server].queues.contains_key(&id);
        if self.postgres.life != attempt.postgres_life {
            if alive {
                self.seen.count("mutations interrupted");
                let delay = self.rng.random_range(50..500);
                self.after(delay, Event::Attempt(at, id));
            }
            return;
        }
        if !alive && self.rng.random_bool(0.5) {
            return self.postgres.abort(attempt.xid);
        }
        let Attempt { client, user, mutation, xid, .. } = &*attempt;
        let outcome = self.postgres.mutate(*xid, client, user, mutation, self.now_ms);
        if self.told {
            println!("{:>8} mutation {} as {client}: {outcome:?}", self.now_ms, mutation.tag);
        }
        let visible_in = match outcome {
            Outcome::MustWait => {
                self.seen.count("waits for a row");
                return self.after(20, Event::Commit(at, attempt));
            }
            Outcome::Settled(lsn) | Outcome::Repeated(lsn) => self.show_later(lsn),
            Outcome::Gap { .. } | Outcome::NotTheirs | Outcome::Changed => 0,
        };
        let Some(queue) = self.servers[at.server].queues.get_mut(&id).filter(|_| alive) else {
            return;
        };
        match outcome {
            Outcome::MustWait => {}
            Outcome::Changed => {
                self.seen.count("mutations of what is not there");
                queue.tries += 1;
                if queue.tries > 5
                    && let Some(mutation) = queue.waiting.front_mut()
                {
                    (queue.tries, mutation.asked) = (0, Err("unknown_error"));
                }
                let delay = self.rng.random_range(50..1000);
                return self.after(delay, Event::Attempt(at, id));
            }
            Outcome::Gap { last } => {
                // Only a database that has gone back forgets what was settled.
                assert!(last < queue.settled, "{} left a gap behind {last}", mutation.number);
                self.seen.count("gaps");
                self.servers[at.server].queues.remove(&id);
                self.end_session(at, id, Some(ErrorCode::Restarting));
                return;
            }
            Outcome::NotTheirs => {
                self.seen.count("clients that were forgotten");
                self.servers[at.server].queues.remove(&id);
                self.end_session(at, id, Some(ErrorCode::Restarting));
                return;
            }
            Outcome::Settled(_) if self.stormy && self.rng.random_bool(0.08) => {
                self.seen.count("lost answers to a commit");
            }
            Outcome::Settled(_) => drop(queue.waiting.pop_front()),
            Outcome::Repeated(_) => {
                self.seen.count("repeated mutations");
                queue.waiting.pop_front();
            }
        }
        queue.settled = queue.settled.max(mutation.number);
        let delay = visible_in + self.rng.random_range(1..20);
        self.after(delay, Event::Attempt(at, id));
    }

    /// Makes a commit visible now or later, and says when.
    pub fn show_later(&mut self, lsn: rowtide_protocol::Lsn) -> u64 {
        if self.rng.random_bool(0.7) {
            self.postgres.show(lsn);
            return 0;
        }
        let delay = if self.rng.random_bool(0.1) { 3000 } else { 200 };
        let delay = self.rng.random_range(1..delay);
        self.after(delay, Event::Show(self.postgres.history(), lsn));
        delay
    }
}
