//! From sessions to Postgres: the gateway's own scheduler says which mutation runs next, over simulated
//! connections. The answer to a commit may be lost, and then the same is tried again.

use std::collections::{BTreeSet, VecDeque};

use rand::Rng;
use rowtide_gateway::attempt::{Came, Note, came, work};
use rowtide_gateway::conversation::{Asked, Mutation as Sent};
use rowtide_gateway::registry::Sharing;
use rowtide_gateway::scheduler::{Broken, Ended, Full, Job};
use rowtide_postgres::mutate::{MutateError, Number, Outcome, Work};
use rowtide_protocol::{ClientMessage, Lsn};

use crate::breaks::Break;
use crate::network::Side;
use crate::older::tag_of_text;
use crate::postgres::{Answer, Mutation};
use crate::rules::Op;
use crate::world::{At, Event, World};

/// One attempt at a mutation: a transaction.
#[derive(Debug)]
pub struct Attempt {
    job: Job<Sent>,
    mutation: Mutation,
    xid: u64,
    postgres_life: u64,
}

/// The tag that a mutation bears.
pub fn tag_of(sent: &Sent) -> u64 {
    let Asked::Apply(ops) = &sent.asked else { panic!("clients speak the protocol") };
    Op::read(&ops[0]).tag().expect("a mutation begins with what bears its tag")
}

impl World {
    /// Puts a mutation into its client's queue.
    ///
    /// # Errors
    /// When that is full.
    pub fn push_mutation(&mut self, at: At, id: u64, mutation: Sent) -> Result<(), Sent> {
        let server = &mut self.servers[at.server];
        let Some(connection) = server.connections.get_mut(&id) else { return Ok(()) };
        let Some(of) = &connection.client else { return Ok(()) };
        let scheduler = &mut server.scheduler;
        let queue = *connection.queue.get_or_insert_with(|| {
            let user = if self.broken == Some(Break::OneLine) { "everyone" } else { &of.user };
            let queue = scheduler.attach(&of.client, user, of.sharing == Sharing::Shared);
            server.fairness.attach(queue, &of.user);
            queue
        });
        let claim = server.claimed.get(&*of.client).copied().unwrap_or(0);
        server.users.insert(of.client.to_string(), of.user.to_string());
        let is_older = connection.session.is_older();
        let (operations, bytes) = (mutation.operations, mutation.bytes);
        let tag = tag_of(&mutation);
        let is_broken = scheduler.broken(queue).is_some();
        scheduler.push(queue, mutation, operations, bytes).map_err(|Full(mutation)| mutation)?;
        if !is_broken {
            server.fairness.arrive(queue, operations);
            server.pending.insert(tag);
            if is_older {
                // Without a view it is told when it comes back.
                if connection.has_send_queue() {
                    connection.taken.insert(tag);
                }
                if server.stopping.is_some() {
                    server.arrived_of_older.insert(tag);
                }
            }
            server.pushed.insert((queue, tag), claim);
        }
        self.start_mutations(at);
        Ok(())
    }

    /// Starts what can be started.
    pub fn start_mutations(&mut self, at: At) {
        let now = self.time();
        while let Some(mut job) = self.servers[at.server].scheduler.start(now) {
            let server = &mut self.servers[at.server];
            // A newer connection may have been told numbers that what waited before it bears.
            let newest = server.claimed.get(&*job.client).copied().unwrap_or(0);
            let pushed = server.pushed.get(&(job.queue, tag_of(&job.mutation))).copied();
            assert!(
                pushed.is_none_or(|then| then >= newest),
                "an older connection's mutation starts"
            );
            if let Some(user) = server.users.get(&*job.client) {
                job.user = user.as_str().into();
            }
            if server.fairness.start(job.queue) > 0 {
                self.seen.count("mutations that wait for others'");
            }
            let delay = self.rng.random_range(0..5);
            self.after(delay, Event::Attempt(at, Box::new(job)));
        }
        if let Some(deadline) = self.servers[at.server].scheduler.deadline() {
            let deadline_ms = deadline.as_micros().div_ceil(1000) as u64;
            let delay = deadline_ms.saturating_sub(self.now_ms).max(1);
            self.after(delay, Event::Retry(at));
        }
    }

    pub fn retry(&mut self, at: At) {
        if !self.is_gone(at) {
            self.start_mutations(at);
        }
    }

    fn mutation_ended(&mut self, at: At, job: &Job<Sent>, ended: Ended) {
        let (now, jitter) = (self.time(), self.rng.random_range(0.0..1.0));
        let breaks = ended != Ended::Acknowledged;
        let server = &mut self.servers[at.server];
        let stopping = server.stopping.is_some();
        if ended == Ended::Acknowledged {
            server.pending.remove(&tag_of(&job.mutation));
        }
        server.fairness.end(job.queue, &ended);
        let (broken, away) =
            (matches!(ended, Ended::Broken(_)), stopping && matches!(ended, Ended::Away(_)));
        server.scheduler.ended(job.queue, ended, now, jitter);
        let scheduler = &server.scheduler;
        let is_over = scheduler.broken(job.queue).is_some() || scheduler.is_empty(job.queue);
        // What ran when a newer connection came is not tried again.
        let superseded = matches!(scheduler.broken(job.queue), Some(Broken::Superseded));
        let gives_up = broken || superseded || away && is_over;
        server.let_go |= gives_up;
        server.older_let_go |= gives_up && matches!(job.mutation.number, Number::Next { .. });
        if server.scheduler.broken(job.queue).is_some() {
            server.fairness.let_go(job.queue);
        }
        if breaks {
            self.tell_broken(at);
        }
        self.start_mutations(at);
    }

    /// Postgres is not there, or has not answered.
    fn away(&mut self, at: At, job: &Job<Sent>) {
        let away = Err(MutateError::Away("Postgres is away".to_owned()));
        let Came { ended, .. } = came(&job.mutation.number, away);
        self.mutation_ended(at, job, ended);
    }

    pub fn attempt(&mut self, at: At, job: Job<Sent>) {
        if self.is_gone(at) {
            return;
        }
        let (plan, work) = match work(self.plan_of(at), &job.mutation, job.gives_up) {
            Ok(work) => work,
            Err(Came { ended, note }) => {
                if let Note::WaitsForTable(_) = note {
                    self.seen.count("mutations of a table that does not fit");
                }
                return self.mutation_ended(at, &job, ended);
            }
        };
        if !self.postgres.up {
            return self.away(at, &job);
        }
        let number = job.mutation.number.clone();
        let tag = tag_of(&job.mutation);
        if let Number::Given(number) = number {
            self.ledger.is_numbered(&job.client, number, tag);
        }
        let Asked::Apply(ops) = &job.mutation.asked else { panic!("nothing is rejected at once") };
        let ops = ops.iter().map(Op::read).collect();
        let work = match work {
            Work::RejectIfItFits { rejection, .. } if self.broken == Some(Break::PlanIsTrusted) => {
                Work::Reject(vec![rejection])
            }
            work => work,
        };
        let xid = self.postgres.begin();
        let mutation = Mutation { number, tag, ops, plan, work };
        let postgres_life = self.postgres.life;
        let attempt = Attempt { job, mutation, xid, postgres_life };
        let delay = self.rng.random_range(1..25);
        self.after(delay, Event::Commit(at, Box::new(attempt)));
    }

    /// The transaction of an attempt runs, unless Postgres or, before it had sent everything, the server
    /// has ended.
    pub fn commit_attempt(&mut self, at: At, attempt: Box<Attempt>) {
        let alive = !self.is_gone(at);
        if self.postgres.life != attempt.postgres_life {
            if alive {
                self.seen.count("mutations interrupted");
                self.away(at, &attempt.job);
            }
            return;
        }
        if !alive && self.rng.random_bool(0.5) {
            return self.postgres.abort(attempt.xid);
        }
        let Attempt { job, mutation, xid, .. } = &*attempt;
        let answer = self.postgres.mutate(*xid, &job.client, &job.user, mutation, self.now_ms);
        if self.told {
            println!("{:>8} mutation {} as {}: {answer:?}", self.now_ms, mutation.tag, job.client);
        }
        match answer {
            Answer::MustWait => {
                self.seen.count("waits for a row");
                self.after(20, Event::Commit(at, attempt));
            }
            Answer::Committed(lsn, outcome) => {
                if outcome == Outcome::Repeated {
                    self.seen.count("repeated mutations");
                }
                self.show_later(lsn);
                self.after(1, Event::Committed(at, attempt, lsn, outcome));
            }
            Answer::Nothing(answer) if alive => {
                if matches!(answer, Err(MutateError::Away(_))) {
                    self.seen.count("mutations of what is not there");
                }
                let Came { ended, .. } = came(&mutation.number, answer);
                self.mutation_ended(at, job, ended);
            }
            Answer::Nothing(_) => {}
        }
    }

    /// Postgres answers to a commit once it can be seen; or the answer is lost.
    pub fn committed(&mut self, at: At, attempt: Box<Attempt>, lsn: Lsn, outcome: Outcome) {
        if self.is_gone(at) {
            return;
        }
        let interrupted = self.postgres.life != attempt.postgres_life;
        if !interrupted && !self.postgres.is_visible(lsn) {
            return self.after(20, Event::Committed(at, attempt, lsn, outcome));
        }
        if interrupted || self.stormy && self.rng.random_bool(0.08) {
            self.seen.count("lost answers to a commit");
            return self.away(at, &attempt.job);
        }
        if self.broken == Some(Break::AcknowledgeBeforeEffects) {
            self.acknowledge_at_once(at, &attempt);
        }
        let Came { ended, .. } = came(&attempt.mutation.number, Ok(outcome));
        self.mutation_ended(at, &attempt.job, ended);
    }

    /// As if the answer of Postgres were enough: see [`Break::AcknowledgeBeforeEffects`].
    fn acknowledge_at_once(&mut self, at: At, attempt: &Attempt) {
        let Number::Given(number) = attempt.mutation.number else { return };
        let connections = self.servers[at.server].connections.iter();
        let of = connections.filter(|(_, c)| c.queue == Some(attempt.job.queue));
        let ids: Vec<u64> = of.map(|(id, _)| *id).collect();
        for id in ids {
            let client = self.network.connections.get(&id).map(|connection| connection.client);
            let client = client.and_then(|client| self.clients.get(client));
            let cursor = client.and_then(|client| client.optimistic.cursor());
            let Some(cursor) = cursor.and_then(|cursor| cursor.parse().ok()) else { continue };
            let none: [&[u8]; 0] = [];
            let parts = rowtide_protocol::TxParts { ack: Some(number), ..Default::default() };
            let frame = rowtide_protocol::tx_frame(cursor, none, parts);
            self.send(id, Side::Client, frame.to_vec());
        }
    }

    /// Makes a commit visible now or later.
    pub fn show_later(&mut self, lsn: Lsn) {
        if self.rng.random_bool(0.7) {
            return self.postgres.show(lsn);
        }
        let delay = if self.rng.random_bool(0.1) { 3000 } else { 200 };
        let delay = self.rng.random_range(1..delay);
        self.after(delay, Event::Show(self.postgres.history(), lsn));
    }

    /// The server stops in order: everything that has arrived is to be acknowledged before it ends.
    pub fn note_arrived(&mut self, at: At) {
        let server = &self.servers[at.server];
        let mut arrived = Vec::new();
        let mut older = BTreeSet::new();
        for (id, connection) in &server.connections {
            if connection.session.is_older() {
                older.extend(&connection.taken);
                older.extend(connection.inbox.iter().filter_map(|text| tag_of_text(text)));
                continue;
            }
            arrived.extend(unread(&connection.inbox).into_iter().map(|tag| (tag, *id)));
        }
        if !older.is_empty() {
            self.seen.count("mutations of older clients that a stop has found");
        }
        let server = &mut self.servers[at.server];
        server.unread.extend(arrived);
        server.arrived_of_older.extend(older);
    }

    /// A session ends before everything was read that its client had sent, and not because the server stops: the client
    /// sends that again.
    pub fn let_go_unread(&mut self, at: At, id: u64) {
        self.servers[at.server].unread.retain(|_, of| *of != id);
    }
}

/// The tags of mutations that have arrived.
fn unread(inbox: &VecDeque<String>) -> Vec<u64> {
    let tag = |text: &String| {
        let Ok(ClientMessage::Mutate(sent)) = ClientMessage::parse(text) else { return None };
        Op::read(&sent.ops.ok()?[0]).tag()
    };
    inbox.iter().filter_map(tag).collect()
}
