//! The optimistic layer. It keeps the rows as the server last sent them (the base) and the mutations that
//! are not acknowledged yet; the application sees the base with these mutations applied in order. A
//! mutation shows at once and stays on top of later changes of the base. It goes in the same step in which
//! its effects arrive in the base, or in which the server rejects it. The layer is a state machine without
//! I/O, clock or randomness: messages go in, steps come out. Its owner asks it what to store and what to
//! send.

mod error;
mod shown;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use rowtide_protocol::{Connected, MadeKey, Rejected, ServerMessage};
use serde::Serialize;

pub use self::error::{ApplyError, MutateError};
use crate::op::{Op, OpKind, is_reference, with_numbers, within_depth};
use crate::overlay::Overlay;
use crate::queue::{CorruptQueue, MutationQueue, Record, shared, size};
use crate::replica::{Replica, RowChange};
use crate::row::{Key, Row};

/// The most operations in one mutation, as the protocol has it.
const MAX_OPS: usize = 500;
/// The largest mutation, in bytes of JSON. A message may have 1 MiB; the difference is for its other fields.
const MAX_BYTES: usize = (1 << 20) - 256;
/// The most mutations that may wait for their acknowledgement.
const MAX_PENDING: usize = 10_000;
/// The most bytes of JSON in mutations that wait for their acknowledgement.
const MAX_PENDING_BYTES: usize = 64 << 20;
/// How deep a value may be nested. Parsers of JSON have limits that are somewhat higher.
const MAX_DEPTH: usize = 100;

/// What a message changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// The shown rows that have changed, each once. An application shows them all at the same time.
    pub changes: Vec<RowChange>,
    /// The mutations that are acknowledged now, in order.
    pub acked: Vec<Acked>,
}

/// The outcome of a mutation that the server has acknowledged. It is reported once, or again if the process
/// ended before the outcome was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acked {
    /// The mutation.
    pub id: u64,
    /// Whether it was applied.
    pub outcome: Outcome,
    /// The keys that the server made for inserts which left theirs out, by the place of the operation. They are of rows that
    /// are shown from now on; nothing was shown of them before. Empty also where they are not known any more.
    pub keys: BTreeMap<usize, Row>,
}

/// Whether a mutation was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server applied all of it.
    Applied,
    /// The server rejected it, and applied nothing of it.
    Rejected {
        /// See the protocol's codes of a `reject`.
        code: String,
        /// For the developer.
        message: String,
    },
}

/// A mutation to send.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename = "mutate")]
pub struct Outgoing {
    /// The number by which the server knows it.
    #[serde(rename = "id")]
    pub number: u64,
    /// Its operations.
    #[serde(with = "shared")]
    pub ops: Arc<[Op]>,
}

/// The optimistic layer of one client. See the module's text.
#[derive(Clone, Debug)]
pub struct Optimistic {
    base: Replica,
    queue: MutationQueue,
    overlay: Overlay,
    /// Applied, as a `connected` has said. They stay visible until the next `ready`, when the base has their
    /// effects.
    held: VecDeque<(u64, Arc<[Op]>)>,
    /// The highest mutation that the server may have seen.
    sent: u64,
    /// The highest mutation sent on this connection; `None` before `connected`.
    sending: Option<u64>,
    unstored: VecDeque<Record>,
    outcomes: VecDeque<Record>,
    unstored_headers: usize,
    stored_last: u64,
    stored_acked: u64,
}

/// The rows that a step may have changed, as they were shown before it.
#[derive(Default)]
struct Dirty {
    rows: Vec<(String, Key, Option<Row>)>,
    seen: HashSet<(String, Key)>,
}

impl Dirty {
    fn note(&mut self, table: &str, key: &Key, shown: impl FnOnce() -> Option<Row>) {
        if self.seen.insert((table.to_owned(), key.clone())) {
            self.rows.push((table.to_owned(), key.clone(), shown()));
        }
    }
}

impl Optimistic {
    /// A new queue with a client id that no other queue has: 8 to 64 of `A-Z a-z 0-9 _ -`.
    pub fn new(client_id: String) -> Optimistic {
        let (queue, first) = MutationQueue::new(client_id);
        let mut new = Optimistic::around(queue);
        new.unstored.push_back(first);
        new.unstored_headers = 1;
        new
    }

    /// The queue that these stored records lead to, without any rows of the server; `None` if there are no
    /// records.
    ///
    /// # Errors
    /// When the records do not follow from each other.
    pub fn restore(records: &[Record]) -> Result<Option<Optimistic>, CorruptQueue> {
        Ok(MutationQueue::restore(records)?.map(|queue| {
            let mut restored = Optimistic::around(queue);
            // Nothing is sent before the user's id is durable.
            if restored.queue.user_id.is_some() {
                restored.sent = restored.queue.last();
            }
            restored.index();
            restored
        }))
    }

    fn around(queue: MutationQueue) -> Optimistic {
        let mut base = Replica::new();
        base.set_keys(queue.keys.clone());
        Optimistic {
            base,
            overlay: Overlay::default(),
            held: VecDeque::new(),
            sent: queue.acked,
            sending: None,
            unstored: VecDeque::new(),
            outcomes: VecDeque::new(),
            unstored_headers: 0,
            stored_last: queue.last(),
            stored_acked: queue.acked,
            queue,
        }
    }

    /// Makes a mutation, which shows at once, and has to be stored and then sent. Returns its id and the
    /// shown rows that have changed.
    ///
    /// # Errors
    /// When the server could not accept it, or the queue is full; nothing is changed then. Only the server
    /// knows whether the rules allow it.
    pub fn mutate(&mut self, ops: Vec<Op>) -> Result<(u64, Vec<RowChange>), MutateError> {
        self.check(&ops)?;
        let id = self.queue.last() + 1;
        let ops: Arc<[Op]> = ops.into();
        self.record(Record::Mutation { id, ops: Arc::clone(&ops) });
        let mut dirty = Dirty::default();
        self.push(id, &ops, &mut dirty);
        Ok((id, self.differences(dirty)))
    }

    fn check(&self, ops: &[Op]) -> Result<(), MutateError> {
        if ops.is_empty() || ops.len() > MAX_OPS {
            return Err(MutateError::Ops { count: ops.len(), max: MAX_OPS });
        }
        for op in ops {
            let op = match op {
                Op::Row(op) => op,
                Op::Call(op) => {
                    let deep = op.args.iter().find(|(_, value)| !within_depth(value, MAX_DEPTH));
                    if let Some((argument, _)) = deep {
                        let (call, argument) = (op.name.clone(), argument.clone());
                        return Err(MutateError::ArgumentDepth { call, argument, max: MAX_DEPTH });
                    }
                    continue;
                }
            };
            if let Some((column, _)) =
                op.row.iter().find(|(_, value)| !within_depth(value, MAX_DEPTH))
            {
                let (table, column) = (op.table.clone(), column.clone());
                return Err(MutateError::Depth { table, column, max: MAX_DEPTH });
            }
            // The server checks the tables that are not known here, and makes what an insert leaves out of the key.
            if op.kind == OpKind::Insert {
                continue;
            }
            let missing = |column: &&String| !op.row.contains_key(*column);
            let known = self.base.keys().get(&op.table).into_iter().flatten();
            if let Some(column) = known.into_iter().find(missing) {
                let (table, column) = (op.table.clone(), column.clone());
                return Err(MutateError::NoKey { table, column });
            }
        }
        let bytes = size(ops);
        if bytes > MAX_BYTES {
            return Err(MutateError::Size { bytes, max: MAX_BYTES });
        }
        let full = self.queue.len() >= MAX_PENDING;
        if full || self.queue.bytes() + bytes > MAX_PENDING_BYTES {
            return Err(MutateError::QueueFull { pending: self.queue.len() });
        }
        Ok(())
    }

    /// Applies a message of the server.
    ///
    /// # Errors
    /// When the message breaks the protocol, or is for another user; nothing is changed then.
    pub fn apply(&mut self, message: &ServerMessage) -> Result<Step, ApplyError> {
        match message {
            ServerMessage::Connected(connected) => self.connected(connected, message),
            ServerMessage::Tx { ack, keys, .. } => {
                let mut dirty = self.take(message)?;
                let acked = match ack {
                    Some(ack) => self.acknowledged(*ack, keys, &mut dirty),
                    None => Vec::new(),
                };
                Ok(Step { changes: self.rebuilt(dirty), acked })
            }
            ServerMessage::Ready { .. } => {
                let mut dirty = self.take(message)?;
                self.release_all_held(&mut dirty);
                Ok(Step { changes: self.rebuilt(dirty), acked: Vec::new() })
            }
            ServerMessage::Reject(rejection) => Ok(self.rejected(rejection)),
            ServerMessage::Snapshot { .. }
            | ServerMessage::SubscriptionError { .. }
            | ServerMessage::Pong
            | ServerMessage::Error { .. }
            | ServerMessage::Unknown => {
                self.base.take(message)?;
                Ok(Step::default())
            }
        }
    }

    fn connected(
        &mut self,
        connected: &Connected,
        message: &ServerMessage,
    ) -> Result<Step, ApplyError> {
        let user_id = &connected.user_id;
        if self.queue.user_id.is_some() && self.queue.user_id != *user_id {
            return Err(ApplyError::OtherUser { user_id: user_id.clone() });
        }
        let keys = self.base.keys().clone();
        self.base.take(message)?;
        let mut dirty = Dirty::default();
        if keys != *self.base.keys() {
            self.record(Record::Tables { keys: self.base.keys().clone() });
            self.index_anew(&mut dirty);
        }
        let rejections = connected.rejected.iter();
        let rejections =
            rejections.map(|rejection| (self.queue.id(rejection.id), rejection)).collect();
        let last = connected.last_mutation;
        let keys = &connected.keys;
        let acked = self.acknowledge(self.queue.id(last), &rejections, keys, true, &mut dirty);
        // The mutations that are left get the numbers after the server's last one. The server may know
        // of more than was ever sent (another client had this id), or of less (its database was restored).
        let offset = MutationQueue::offset_for(self.queue.acked, last);
        if offset != self.queue.offset {
            self.record(Record::Offset { offset });
        }
        if let (None, Some(user_id)) = (&self.queue.user_id, user_id.clone()) {
            self.record(Record::User { user_id });
        }
        self.sending = Some(self.queue.acked);
        Ok(Step { changes: self.rebuilt(dirty), acked })
    }

    fn acknowledged(&mut self, ack: u64, keys: &[MadeKey], dirty: &mut Dirty) -> Vec<Acked> {
        let id = self.queue.id(ack);
        self.release_held_up_to(id, dirty);
        self.acknowledge(id, &BTreeMap::new(), keys, false, dirty)
    }

    /// The server has acknowledged all mutations up to `id`. With `hold` the applied ones stay visible,
    /// because their effects are still to come.
    fn acknowledge(
        &mut self,
        id: u64,
        rejections: &BTreeMap<u64, &Rejected>,
        keys: &[MadeKey],
        hold: bool,
        dirty: &mut Dirty,
    ) -> Vec<Acked> {
        let mut acked = Vec::new();
        let upto = id.min(self.sent);
        for id in self.queue.acked + 1..=upto {
            let Some(entry) = self.queue.get(id).filter(|entry| !entry.rejected) else { continue };
            let ops = Arc::clone(&entry.ops);
            let outcome = match rejections.get(&id) {
                Some(rejection) => rejected_with(&rejection.code, &rejection.message),
                None => Outcome::Applied,
            };
            if hold && outcome == Outcome::Applied {
                self.held.push_back((id, ops));
            } else {
                self.release(id, &ops, dirty);
            }
            let made = keys.iter().filter(|made| self.queue.id(made.id) == id);
            let made = made.map(|made| (made.op as usize, made.key.clone()));
            acked.push(Acked { id, outcome, keys: made.collect() });
        }
        if upto > self.queue.acked {
            self.record(Record::Acked { id: upto });
        }
        acked
    }

    fn rejected(&mut self, rejection: &Rejected) -> Step {
        let id = self.queue.id(rejection.id);
        let Some(entry) = self.queue.get(id).filter(|entry| !entry.rejected && id <= self.sent)
        else {
            return Step::default();
        };
        let ops = Arc::clone(&entry.ops);
        self.record(Record::Rejected { id });
        let mut dirty = Dirty::default();
        self.release(id, &ops, &mut dirty);
        let outcome = rejected_with(&rejection.code, &rejection.message);
        Step {
            changes: self.rebuilt(dirty),
            acked: vec![Acked { id, outcome, keys: BTreeMap::new() }],
        }
    }

    /// The connection has ended.
    pub fn disconnected(&mut self) {
        self.sending = None;
    }

    /// Takes another client id, because the present one cannot be had: it may have been removed while nobody used it,
    /// or belong to another user. Everything goes on under the new one; whose it is shows with the next `connected`. What was
    /// sent, and was applied without a word of it having come back, is sent once more.
    pub fn renew(&mut self, client_id: String) {
        let acked = self.queue.acked;
        let user_id = self.queue.user_id.clone();
        self.record(Record::Client {
            client_id,
            offset: MutationQueue::offset_for(acked, 0),
            acked,
        });
        if let Some(user_id) = user_id {
            self.record(Record::User { user_id });
        }
        self.sent = acked;
        self.sending = None;
    }

    /// Takes another client id, because another user is signed in now. Mutations that belong to no user yet go on under the new id. Those of a former user, and that
    /// user's rows, are dropped.
    pub fn abandon(&mut self, client_id: String) -> Step {
        let mut step = Step::default();
        let mut acked = self.queue.acked;
        if self.queue.user_id.is_some() {
            acked = self.queue.last();
            let message = "the mutation was made by a user who is no longer signed in";
            let pending = self.queue.entries().filter(|(_, entry)| !entry.rejected);
            let outcome = || rejected_with("forbidden", message);
            let ended = |id| Acked { id, outcome: outcome(), keys: BTreeMap::new() };
            step.acked = pending.map(|(id, _)| ended(id)).collect();
            let mut dirty = Dirty::default();
            for (table, key) in self.overlay.keys() {
                dirty.note(table, key, || self.shown(table, key).cloned());
            }
            for touched in self.base.clear() {
                dirty.note(&touched.table, &touched.key, || touched.before);
            }
            self.overlay.clear();
            self.held.clear();
            step.changes = self.differences(dirty);
        }
        let offset = MutationQueue::offset_for(acked, 0);
        self.record(Record::Client { client_id, offset, acked });
        self.sent = acked;
        self.sending = None;
        step
    }

    /// The next mutation to send on this connection. Each is returned once. `None` if there is none, if it
    /// is not durable yet, or if `window` mutations wait for their acknowledgement already.
    pub fn next_to_send(&mut self, window: u64) -> Option<Outgoing> {
        let id = self.sending?.max(self.queue.acked) + 1;
        let durable = self.unstored_headers == 0 && id <= self.stored_last;
        if !durable || id - self.queue.acked > window {
            return None;
        }
        let ops = Arc::clone(&self.queue.get(id)?.ops);
        self.sending = Some(id);
        self.sent = self.sent.max(id);
        let ops = with_numbers(ops, |id| self.queue.number(id));
        Some(Outgoing { number: self.queue.number(id), ops })
    }

    /// The records to make durable, in order. A mutation is sent only after its own and all records before
    /// it are durable.
    pub fn unstored(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.unstored.iter()
    }

    /// The first `count` of [`Optimistic::unstored`] are durable now.
    pub fn stored(&mut self, count: usize) {
        for record in self.unstored.drain(..count.min(self.unstored.len())) {
            self.unstored_headers -= usize::from(record.is_header());
            match record {
                Record::Mutation { id, .. } => self.stored_last = id,
                Record::Client { acked, .. } => {
                    self.stored_last = self.stored_last.max(acked);
                    self.stored_acked = self.stored_acked.max(acked);
                }
                _ => {}
            }
        }
    }

    /// Outcomes that are not durable yet, in order. Store an outcome only after it was reported: the server
    /// sends it again if it is lost before. Their order relative to [`Optimistic::unstored`] does not matter.
    pub fn outcomes(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.outcomes.iter()
    }

    /// The first `count` of [`Optimistic::outcomes`] are durable now.
    pub fn outcomes_stored(&mut self, count: usize) {
        for record in self.outcomes.drain(..count.min(self.outcomes.len())) {
            if let Record::Acked { id } = record {
                self.stored_acked = self.stored_acked.max(id);
            }
        }
    }

    /// The fewest records that lead to the present queue. A storage may replace everything by them; they
    /// include [`Optimistic::unstored`] and [`Optimistic::outcomes`].
    pub fn records(&self) -> Vec<Record> {
        self.queue.records()
    }

    fn record(&mut self, record: Record) {
        let applied = self.queue.apply(&record);
        debug_assert_eq!(applied, Ok(()));
        self.unstored_headers += usize::from(record.is_header());
        match record {
            Record::Rejected { .. } | Record::Acked { .. } => self.outcomes.push_back(record),
            _ => self.unstored.push_back(record),
        }
    }

    /// Applies a message to the base.
    fn take(&mut self, message: &ServerMessage) -> Result<Dirty, ApplyError> {
        let mut dirty = Dirty::default();
        for touched in self.base.take(message)? {
            let over = self.overlay.get(&touched.table, &touched.key);
            dirty.note(&touched.table, &touched.key, || match over {
                Some(row) => row.cloned(),
                None => touched.before,
            });
        }
        Ok(dirty)
    }

    /// Applies a mutation on top of all others.
    fn push(&mut self, id: u64, ops: &Arc<[Op]>, dirty: &mut Dirty) {
        for (index, op) in ops.iter().enumerate() {
            // What has a key that is to be made shows when it is there.
            let Some(op) = op.on_row().filter(|op| !op.row.values().any(is_reference)) else {
                continue;
            };
            // Without the table's key its rows cannot be found.
            let Ok(key) = self.base.key(&op.table, &op.row) else { continue };
            dirty.note(&op.table, &key, || self.shown(&op.table, &key).cloned());
            let base = self.base.by_key(&op.table, &key);
            self.overlay.push(key, id, ops, index, base);
        }
    }

    /// Takes the effects of a mutation away.
    fn release(&mut self, id: u64, ops: &[Op], dirty: &mut Dirty) {
        for op in ops.iter().filter_map(Op::on_row) {
            let Ok(key) = self.base.key(&op.table, &op.row) else { continue };
            dirty.note(&op.table, &key, || self.shown(&op.table, &key).cloned());
            self.overlay.remove(&op.table, &key, id);
        }
    }

    /// The rows have the effects of all mutations up to `last`.
    fn release_held_up_to(&mut self, last: u64, dirty: &mut Dirty) {
        while let Some((id, ops)) = self.held.pop_front_if(|(id, _)| *id <= last) {
            self.release(id, &ops, dirty);
        }
    }

    /// The rows are whole: they have the effects of whatever was acknowledged.
    fn release_all_held(&mut self, dirty: &mut Dirty) {
        for (id, ops) in std::mem::take(&mut self.held) {
            self.release(id, &ops, dirty);
        }
    }

    fn index(&mut self) {
        self.index_anew(&mut Dirty::default());
    }

    /// Finds the rows of all mutations again, because the keys of tables have changed.
    fn index_anew(&mut self, dirty: &mut Dirty) {
        for (table, key) in self.overlay.keys() {
            dirty.note(table, key, || self.shown(table, key).cloned());
        }
        self.overlay.clear();
        let pending = self.queue.entries().filter(|(_, entry)| !entry.rejected);
        let pending = pending.map(|(id, entry)| (id, Arc::clone(&entry.ops)));
        let all: Vec<(u64, Arc<[Op]>)> = self.held.iter().cloned().chain(pending).collect();
        for (id, ops) in all {
            self.push(id, &ops, dirty);
        }
    }

    /// Applies the pending operations to the rows' new base.
    fn rebuilt(&mut self, dirty: Dirty) -> Vec<RowChange> {
        for (table, key, _) in &dirty.rows {
            self.overlay.rebuild(table, key, self.base.by_key(table, key));
        }
        self.differences(dirty)
    }

    fn differences(&self, dirty: Dirty) -> Vec<RowChange> {
        let change = |(table, key, before): (String, Key, Option<Row>)| {
            self.base.difference(&table, before, self.shown(&table, &key))
        };
        dirty.rows.into_iter().filter_map(change).collect()
    }
}

fn rejected_with(code: &str, message: &str) -> Outcome {
    Outcome::Rejected { code: code.to_owned(), message: message.to_owned() }
}
