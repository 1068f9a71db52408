//! One random run, and what must hold after each of its steps.

mod subscribing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rowtide_client::{
    Acked, Op, OpKind, Optimistic, Outcome, Outgoing, Record, RowChange, Step, SubscriptionRequest,
};
use rowtide_protocol::ServerMessage;

use crate::coverage::Coverage;
use crate::random_op;
use crate::server::{ModelServer, RowMap, Selected, TABLES, USERS, key, read_cursor};

/// What the model knows about a mutation.
#[derive(Clone, Debug)]
struct Made {
    id: u64,
    ops: Vec<Op>,
    /// The client id and number under which it was sent, if it was.
    sent_as: Option<(String, u64)>,
    /// It is shown.
    shown: bool,
    /// It is applied, and shown until the next `ready`.
    held: bool,
    reported: Option<Outcome>,
    reported_in_this_life: bool,
    dropped: bool,
}

pub struct ModelRun {
    rng: SmallRng,
    server: ModelServer,
    client: Optimistic,
    storage: Vec<Record>,
    user: &'static str,
    /// What is on its way to the server.
    outgoing: VecDeque<Outgoing>,
    connected: bool,
    /// The rows that the changes of all steps lead to.
    mirror: RowMap,
    made: Vec<Made>,
    keys_known: bool,
    /// What the application asks for, and was not refused.
    wanted: Selected,
    /// Whose rows the client has, as the messages say that were delivered.
    held: Selected,
    /// What is on its way to the server of subscriptions.
    requests: VecDeque<SubscriptionRequest>,
    client_ids: u64,
    coverage: Coverage,
}

impl ModelRun {
    pub fn new(seed: u64) -> ModelRun {
        ModelRun {
            rng: SmallRng::seed_from_u64(seed),
            server: ModelServer::new(),
            client: Optimistic::new("client-0".to_owned()),
            storage: Vec::new(),
            user: USERS[0],
            outgoing: VecDeque::new(),
            connected: false,
            mirror: RowMap::new(),
            made: Vec::new(),
            keys_known: false,
            wanted: Selected::new(),
            held: Selected::new(),
            requests: VecDeque::new(),
            client_ids: 0,
            coverage: Coverage::default(),
        }
    }

    pub fn run(mut self) -> Coverage {
        let switching = self.rng.random_bool(0.3);
        for _ in 0..self.rng.random_range(20..160) {
            match self.rng.random_range(0..100) {
                0..7 => self.mutate(),
                7..10 => self.subscribe(),
                10..16 => self.server.others_write(&mut self.rng),
                16..30 => self.server.judge(&mut self.rng),
                30..42 => self.server.step(&mut self.rng),
                42..60 => self.deliver(),
                60..76 => self.send(),
                76..82 => self.store(),
                82..94 => self.connect(),
                94..97 => self.disconnect(),
                97..99 => self.crash(),
                _ if switching => self.switch_user(),
                _ => {}
            }
            self.check();
        }
        self.finish();
        self.coverage
    }

    fn mutate(&mut self) {
        let count = self.rng.random_range(1..4);
        let ops: Vec<Op> = (0..count).map(|_| random_op(&mut self.rng)).collect();
        let (id, changes) = self.client.mutate(ops.clone()).unwrap();
        self.made.push(Made {
            id,
            ops,
            sent_as: None,
            shown: true,
            held: false,
            reported: None,
            reported_in_this_life: false,
            dropped: false,
        });
        self.mirrored(changes);
    }

    fn send(&mut self) {
        if let Some(request) = self.client.next_subscription_request() {
            assert!(self.connected, "nothing is sent before `connected`");
            self.requests.push_back(request);
        }
        if self.rng.random_bool(0.5)
            && let Some(request) = self.requests.pop_front()
        {
            self.server.subscription(request);
        }
        if self.rng.random_bool(0.5) {
            if let Some(outgoing) = self.outgoing.pop_front() {
                self.server.receive(outgoing);
            }
            return;
        }
        let window = self.rng.random_range(1..6);
        let Some(outgoing) = self.client.next_to_send(window) else { return };
        assert!(self.connected, "nothing is sent before `connected`");
        let client_id = self.client.client_id().to_owned();
        let sent_as = (client_id, outgoing.number);
        let again = self.made.iter_mut().find(|made| made.sent_as.as_ref() == Some(&sent_as));
        let made = match again {
            Some(made) => {
                self.coverage.sent_again += 1;
                self.coverage.rejected_sent_again += u64::from(made.reported.is_some());
                made
            }
            None => {
                let unsent = |made: &&mut Made| made.sent_as.is_none() && !made.dropped;
                self.made.iter_mut().find(unsent).unwrap()
            }
        };
        assert_eq!(*made.ops, *outgoing.ops, "in the order in which they were made");
        made.sent_as = Some(sent_as);
        let id = made.id;
        let stored =
            |record: &Record| matches!(record, Record::Mutation { id: of, .. } if *of == id);
        assert!(self.storage.iter().any(stored), "sent, but not durable");
        self.outgoing.push_back(outgoing);
    }

    fn store(&mut self) {
        let (all, outcomes) = (self.client.unstored().len(), self.client.outcomes().len());
        if self.rng.random_bool(0.1) {
            self.storage = self.client.records();
            self.client.stored(all);
            self.client.outcomes_stored(outcomes);
        } else {
            let count = self.rng.random_range(0..=all);
            self.storage.extend(self.client.unstored().take(count).cloned());
            self.client.stored(count);
            let count = self.rng.random_range(0..=outcomes);
            self.storage.extend(self.client.outcomes().take(count).cloned());
            self.client.outcomes_stored(count);
        }
    }

    fn connect(&mut self) {
        if self.server.session.is_some() && self.rng.random_bool(0.9) {
            return;
        }
        self.disconnect();
        let id = self.client.client_id().to_owned();
        let acked = self.client.acked();
        let from = self.client.resume();
        self.coverage.subscriptions_named += from.subscriptions.len() as u64;
        let connected = self.server.connect(&id, self.user, &from, acked, &mut self.rng);
        if connected.is_none() {
            let known = self.client.user_id().is_some();
            self.client_ids += 1;
            if known {
                self.held.clear();
            }
            let step = self.client.abandon(format!("client-{}", self.client_ids));
            for made in self.made.iter_mut().filter(|made| known && made.shown) {
                made.shown = false;
                made.dropped = true;
                made.held = false;
                self.coverage.dropped += 1;
            }
            if known {
                for made in &mut self.made {
                    made.dropped = true;
                }
            }
            self.stepped(step);
        }
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.outgoing.clear();
        self.requests.clear();
        self.client.disconnected();
        self.server.cut(&mut self.rng);
    }

    fn switch_user(&mut self) {
        self.disconnect();
        self.user = USERS[self.rng.random_range(0..USERS.len())];
    }

    /// The process ends, and loses everything that was not stored.
    fn crash(&mut self) {
        self.disconnect();
        self.coverage.crashes += 1;
        // What is asked for ends with the process.
        self.wanted.clear();
        self.held.clear();
        self.client = match Optimistic::restore(&self.storage).unwrap() {
            Some(client) => client,
            None => {
                self.client_ids += 1;
                Optimistic::new(format!("client-{}", self.client_ids))
            }
        };
        let mut stored: BTreeSet<u64> = BTreeSet::new();
        let mut hidden: BTreeSet<u64> = BTreeSet::new();
        let mut acked = 0;
        self.keys_known = false;
        for record in &self.storage {
            match record {
                Record::Mutation { id, .. } => drop(stored.insert(*id)),
                Record::Rejected { id } => drop(hidden.insert(*id)),
                Record::Acked { id } | Record::Client { acked: id, .. } => {
                    acked = acked.max(*id);
                }
                Record::Tables { .. } => self.keys_known = true,
                Record::User { .. } | Record::Offset { .. } => {}
            }
        }
        for made in &self.made {
            let lost = !stored.contains(&made.id) && made.id > acked;
            assert!(!lost || made.sent_as.is_none(), "sent, and forgotten");
        }
        self.made.retain(|made| made.id <= acked || stored.contains(&made.id));
        for made in &mut self.made {
            made.reported_in_this_life = false;
            made.held = false;
            made.shown = made.id > acked && !hidden.contains(&made.id);
            if made.dropped && made.shown {
                // The process ended before this was durable.
                (made.dropped, made.reported) = (false, None);
            }
        }
        // A new client shows the pending mutations without any rows below, and reports no changes for that.
        self.mirror = self.shown();
    }

    fn deliver(&mut self) {
        let Some(message) = self.server.sent.pop_front() else { return };
        let number = |made: &Made, client: &Optimistic| match &made.sent_as {
            Some((client_id, number)) if client_id == client.client_id() => Some(*number),
            _ => None,
        };
        // What must follow from the message, as the protocol says.
        match &message {
            ServerMessage::Connected(connected) => {
                self.connected = true;
                self.keys_known = true;
                for made in self.made.iter_mut().filter(|made| made.shown && !made.held) {
                    let Some(number) = number(made, &self.client) else { continue };
                    if connected.rejected.iter().any(|rejection| rejection.id == number) {
                        made.shown = false;
                        self.coverage.rejected_at_connect += 1;
                    } else if number <= connected.last_mutation {
                        made.held = true;
                        self.coverage.applied_at_connect += 1;
                    }
                }
            }
            ServerMessage::Ready { .. } => {
                for made in self.made.iter_mut().filter(|made| made.held) {
                    (made.held, made.shown) = (false, false);
                }
            }
            ServerMessage::Tx { ack: Some(ack), .. } => {
                for made in &mut self.made {
                    if number(made, &self.client).is_some_and(|number| number <= *ack) {
                        (made.held, made.shown) = (false, false);
                    }
                }
            }
            ServerMessage::Reject(rejection) => {
                for made in &mut self.made {
                    if number(made, &self.client) == Some(rejection.id) {
                        made.shown = false;
                    }
                }
            }
            _ => {}
        }
        let before = self.held.clone();
        let refused = self.hold(&message);
        let step = self.client.apply(&message).unwrap();
        self.check_subscriptions(&step, refused, &before);
        self.stepped(step);
    }

    fn stepped(&mut self, step: Step) {
        for Acked { id, outcome, .. } in step.acked {
            let made = self.made.iter_mut().find(|made| made.id == id).unwrap();
            assert!(!made.reported_in_this_life, "{id} is acknowledged twice");
            if let Some(reported) = &made.reported
                && !made.dropped
            {
                assert_eq!(*reported, outcome, "{id} has another outcome than before the restart");
            }
            match outcome {
                Outcome::Applied => self.coverage.applied += 1,
                Outcome::Rejected { .. } => self.coverage.rejected += 1,
            }
            made.reported = Some(outcome);
            made.reported_in_this_life = true;
        }
        self.mirrored(step.changes);
    }

    /// Each change must change something, and a step names a row once.
    fn mirrored(&mut self, changes: Vec<RowChange>) {
        let mut named = BTreeSet::new();
        for change in changes {
            let at = match &change {
                RowChange::Put { table, row } => key(table, row),
                RowChange::Delete { table, key: row } => key(table, row),
            };
            assert!(named.insert(at.clone()), "{at:?} twice in one step");
            match change {
                RowChange::Put { row, .. } => {
                    assert_ne!(self.mirror.get(&at), Some(&row), "a change without a change");
                    self.mirror.insert(at, row);
                }
                RowChange::Delete { table, key } => {
                    let columns = TABLES.iter().find(|(name, _)| *name == table).unwrap().1;
                    assert_eq!(key.len(), columns.len());
                    assert!(self.mirror.remove(&at).is_some(), "a deleted row that was not shown");
                }
            }
        }
    }

    fn shown(&self) -> RowMap {
        let mut shown = RowMap::new();
        for (table, _) in TABLES {
            for row in self.client.rows(table) {
                let twice = shown.insert(key(table, row), row.clone());
                assert_eq!(twice, None, "a row is shown twice");
                assert_eq!(self.client.get(table, row), Some(row));
            }
        }
        shown
    }

    /// The rows that must be shown, computed independently.
    fn expected(&self) -> RowMap {
        let mut rows = match self.client.cursor() {
            Some(cursor) => {
                let user = self.client.user_id().unwrap();
                let (at, held) = read_cursor(cursor, user);
                assert_eq!(held, self.held);
                self.server.view(at, user, &held)
            }
            None => RowMap::new(),
        };
        if !self.keys_known {
            return rows;
        }
        for op in self.made.iter().filter(|made| made.shown).flat_map(|made| &made.ops) {
            let op = op.on_row().unwrap();
            let key = key(&op.table, &op.row);
            match op.kind {
                OpKind::Insert => rows.entry(key).or_default().extend(op.row.clone()),
                OpKind::Update => {
                    if let Some(row) = rows.get_mut(&key) {
                        row.extend(op.row.clone());
                    }
                }
                OpKind::Delete => drop(rows.remove(&key)),
            }
        }
        rows
    }

    fn check(&self) {
        let shown = self.shown();
        assert_eq!(shown, self.expected(), "what is shown");
        assert_eq!(shown, self.mirror, "what the changes led to");
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (table, _) in shown.keys() {
            *counts.entry(table).or_default() += 1;
        }
        for (table, _) in TABLES {
            assert_eq!(self.client.count(table), counts.get(table).copied().unwrap_or(0));
        }
        for made in self.made.iter().filter(|made| made.shown && self.keys_known) {
            for op in made.ops.iter().filter_map(Op::on_row) {
                assert!(self.client.is_pending(&op.table, &op.row));
            }
        }
        for id in self.held.keys().chain(self.wanted.keys()) {
            assert_eq!(self.client.is_subscribed(*id), self.held.contains_key(id), "{id}");
        }
        let waiting = self.made.iter().filter(|made| made.shown && !made.held);
        assert!(self.client.pending().eq(waiting.map(|made| made.id)), "what is pending");
    }

    /// Plays on without faults until nothing is left to do.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.server.session.is_none() {
                self.connect();
            }
            self.store();
            self.send();
            self.server.judge(&mut self.rng);
            self.server.step(&mut self.rng);
            self.deliver();
            self.check();
            let unacked = self.client.pending().next().is_some();
            let unasked = self.held != self.wanted || !self.requests.is_empty();
            if !unacked && !unasked && self.outgoing.is_empty() && self.server.idle() {
                return self.end();
            }
        }
        panic!("not acknowledged: {:?}", self.made);
    }

    fn end(&self) {
        assert_eq!(
            self.mirror,
            self.server.now(self.user, &self.wanted),
            "everything is acknowledged"
        );
        assert!(self.client.pending().next().is_none());
        for made in &self.made {
            if made.dropped {
                continue;
            }
            let (client_id, number) = made.sent_as.as_ref().unwrap();
            let client = &self.server.clients[client_id];
            assert_eq!(client.user, self.user);
            let applied = client.applied.contains(number);
            let rejected =
                client.rejections.iter().filter(|rejection| rejection.id == *number).count();
            assert_eq!(usize::from(applied) + rejected, 1, "acknowledged exactly once");
            let reported_applied = made.reported.as_ref().unwrap() == &Outcome::Applied;
            assert_eq!(reported_applied, applied, "and reported with its outcome");
        }
    }
}
