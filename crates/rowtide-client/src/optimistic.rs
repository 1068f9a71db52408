//! The optimistic layer: the rows as the server last told them (the base) and on top of them the
//! mutations that are not settled, in order. That is what is shown. A mutation shows at once, stays on
//! top of whatever comes, and goes in the very step in which the base has its effects, or in which it
//! is refused. A state machine without I/O, clock or randomness: messages in, steps out; what must be
//! stored and what may be sent is asked of it.

mod error;
mod shown;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use rowtide_protocol::{Connected, Refusal, ServerMessage};
use serde::Serialize;

pub use self::error::{ApplyError, MutateError};
use crate::op::{Op, within_depth};
use crate::overlay::Overlay;
use crate::queue::{CorruptQueue, Queue, Record, shared, size};
use crate::replica::{Key, Replica, Row, RowChange};

/// The most operations in one mutation, as the protocol has it.
const MAX_OPS: usize = 500;
/// The largest mutation: a message may have 1 MiB, of which this leaves a little for the rest.
const MAX_BYTES: usize = (1 << 20) - 256;
/// The most mutations that wait to be settled.
const MAX_PENDING: usize = 10_000;
/// The most bytes of JSON that wait to be settled.
const MAX_PENDING_BYTES: usize = 64 << 20;
/// How deep a value may be nested: readers of JSON give up somewhat later.
const MAX_DEPTH: usize = 100;

/// What a message did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// The rows that are shown otherwise than before, each once: to be shown as a whole.
    pub changes: Vec<RowChange>,
    /// The mutations whose outcome is known now, in order.
    pub settled: Vec<Settled>,
}

/// The outcome of a mutation. It is told once, unless the process ends before it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The mutation.
    pub id: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a mutation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was applied, whole.
    Confirmed,
    /// Nothing of it was applied.
    Refused {
        /// See the protocol's codes of a `reject`.
        code: String,
        /// For the developer.
        message: String,
    },
}

/// A mutation to be sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename = "mutate")]
pub struct Outgoing {
    /// The number by which the server knows it.
    #[serde(rename = "id")]
    pub number: u64,
    /// What it does.
    #[serde(with = "shared")]
    pub ops: Arc<[Op]>,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Optimistic {
    base: Replica,
    queue: Queue,
    overlay: Overlay,
    /// Confirmed by a `connected`, and shown until the base has their effects, with its `ready`.
    held: VecDeque<(u64, Arc<[Op]>)>,
    /// The highest mutation that the server may have seen.
    sent: u64,
    /// The highest mutation sent on this connection; `None` before `connected`.
    sending: Option<u64>,
    unstored: VecDeque<Record>,
    outcomes: VecDeque<Record>,
    unstored_headers: usize,
    stored_last: u64,
    stored_settled: u64,
}

/// The rows that a step may have changed, with what was shown before it.
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
    /// A new queue under a client id of its own: 8 to 64 of `A-Z a-z 0-9 _ -`.
    pub fn new(client_id: String) -> Optimistic {
        let (queue, first) = Queue::new(client_id);
        let mut new = Optimistic::around(queue);
        new.unstored.push_back(first);
        new.unstored_headers = 1;
        new
    }

    /// The queue that these stored records led to, shown over no rows; `None` if there are none.
    ///
    /// # Errors
    /// When the records do not follow from each other.
    pub fn restore(records: &[Record]) -> Result<Option<Optimistic>, CorruptQueue> {
        Ok(Queue::restore(records)?.map(|queue| {
            let mut restored = Optimistic::around(queue);
            // Nothing is sent before the user's id is durable.
            if restored.queue.user_id.is_some() {
                restored.sent = restored.queue.last();
            }
            restored.index();
            restored
        }))
    }

    fn around(queue: Queue) -> Optimistic {
        let mut base = Replica::new();
        base.set_keys(queue.keys.clone());
        Optimistic {
            base,
            overlay: Overlay::default(),
            held: VecDeque::new(),
            sent: queue.settled,
            sending: None,
            unstored: VecDeque::new(),
            outcomes: VecDeque::new(),
            unstored_headers: 0,
            stored_last: queue.last(),
            stored_settled: queue.settled,
            queue,
        }
    }

    /// Makes a mutation: it shows at once, and is to be stored, then sent. Returns its id and the rows
    /// that are shown otherwise.
    ///
    /// # Errors
    /// When the server could not take it, or the queue is full; nothing is changed then. Whether the
    /// rules allow it is the server's to say.
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
            if let Some((column, _)) =
                op.row.iter().find(|(_, value)| !within_depth(value, MAX_DEPTH))
            {
                let (table, column) = (op.table.clone(), column.clone());
                return Err(MutateError::Depth { table, column, max: MAX_DEPTH });
            }
            // What is not known here is for the server to judge.
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
    /// When the message is not of the protocol, or is for another user; nothing is changed then.
    pub fn apply(&mut self, message: &ServerMessage) -> Result<Step, ApplyError> {
        match message {
            ServerMessage::Connected(connected) => self.connected(connected, message),
            ServerMessage::Tx { ack, .. } => {
                let mut dirty = self.take(message)?;
                let settled = match ack {
                    Some(ack) => self.acknowledged(*ack, &mut dirty),
                    None => Vec::new(),
                };
                Ok(Step { changes: self.rebuilt(dirty), settled })
            }
            ServerMessage::Ready { .. } => {
                let mut dirty = self.take(message)?;
                self.release_held(u64::MAX, &mut dirty);
                Ok(Step { changes: self.rebuilt(dirty), settled: Vec::new() })
            }
            ServerMessage::Reject(refusal) => Ok(self.rejected(refusal)),
            ServerMessage::Snapshot { .. }
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
        if self.queue.user_id.as_ref().is_some_and(|known| known != user_id) {
            return Err(ApplyError::OtherUser { user_id: user_id.clone() });
        }
        let keys = self.base.keys().clone();
        self.base.take(message)?;
        let mut dirty = Dirty::default();
        if keys != *self.base.keys() {
            self.record(Record::Tables { keys: self.base.keys().clone() });
            self.index_anew(&mut dirty);
        }
        let refused = connected.refused.iter();
        let refused = refused.map(|refusal| (self.queue.id(refusal.id), refusal)).collect();
        let last = connected.last_mutation;
        let settled = self.settle(self.queue.id(last), &refused, true, &mut dirty);
        // What is left goes on behind what the server knows, also if the server knows of more than was
        // ever sent (another had this client id) or of less (its database was restored).
        let offset = Queue::offset_for(self.queue.settled, last);
        if offset != self.queue.offset {
            self.record(Record::Offset { offset });
        }
        if self.queue.user_id.is_none() {
            self.record(Record::User { user_id: user_id.clone() });
        }
        self.sending = Some(self.queue.settled);
        Ok(Step { changes: self.rebuilt(dirty), settled })
    }

    fn acknowledged(&mut self, ack: u64, dirty: &mut Dirty) -> Vec<Settled> {
        let id = self.queue.id(ack);
        self.release_held(id, dirty);
        self.settle(id, &BTreeMap::new(), false, dirty)
    }

    /// Settles all up to `id`; those that are confirmed go on being shown if they are to be held.
    fn settle(
        &mut self,
        id: u64,
        refused: &BTreeMap<u64, &Refusal>,
        hold: bool,
        dirty: &mut Dirty,
    ) -> Vec<Settled> {
        let mut settled = Vec::new();
        let upto = id.min(self.sent);
        for id in self.queue.settled + 1..=upto {
            let Some(entry) = self.queue.get(id).filter(|entry| !entry.refused) else { continue };
            let ops = Arc::clone(&entry.ops);
            let outcome = match refused.get(&id) {
                Some(refusal) => refused_as(&refusal.code, &refusal.message),
                None => Outcome::Confirmed,
            };
            if hold && outcome == Outcome::Confirmed {
                self.held.push_back((id, ops));
            } else {
                self.release(id, &ops, dirty);
            }
            settled.push(Settled { id, outcome });
        }
        if upto > self.queue.settled {
            self.record(Record::Settled { id: upto });
        }
        settled
    }

    fn rejected(&mut self, refusal: &Refusal) -> Step {
        let id = self.queue.id(refusal.id);
        let Some(entry) = self.queue.get(id).filter(|entry| !entry.refused && id <= self.sent)
        else {
            return Step::default();
        };
        let ops = Arc::clone(&entry.ops);
        self.record(Record::Refused { id });
        let mut dirty = Dirty::default();
        self.release(id, &ops, &mut dirty);
        let outcome = refused_as(&refusal.code, &refusal.message);
        Step { changes: self.rebuilt(dirty), settled: vec![Settled { id, outcome }] }
    }

    /// The connection has ended.
    pub fn disconnected(&mut self) {
        self.sending = None;
    }

    /// The client id belongs to another user than the one who is signed in now. Takes another id, under
    /// which the mutations of nobody yet go on; those of a former user, and their rows, are dropped.
    pub fn abandon(&mut self, client_id: String) -> Step {
        let mut step = Step::default();
        let mut settled = self.queue.settled;
        if self.queue.user_id.is_some() {
            settled = self.queue.last();
            let message = "the mutation was made by a user who is no longer signed in";
            let pending = self.queue.entries().filter(|(_, entry)| !entry.refused);
            let outcome = || refused_as("forbidden", message);
            step.settled = pending.map(|(id, _)| Settled { id, outcome: outcome() }).collect();
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
        let offset = Queue::offset_for(settled, 0);
        self.record(Record::Client { client_id, offset, settled });
        self.sent = settled;
        self.sending = None;
        step
    }

    /// The next mutation to send on this connection, once: `None` if there is none, if it is not durable
    /// yet, or if `window` are under way.
    pub fn next_to_send(&mut self, window: u64) -> Option<Outgoing> {
        let id = self.sending?.max(self.queue.settled) + 1;
        let durable = self.unstored_headers == 0 && id <= self.stored_last;
        if !durable || id - self.queue.settled > window {
            return None;
        }
        let ops = Arc::clone(&self.queue.get(id)?.ops);
        self.sending = Some(id);
        self.sent = self.sent.max(id);
        Some(Outgoing { number: self.queue.number(id), ops })
    }

    /// What must be made durable before what follows from it is sent, in order.
    pub fn unstored(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.unstored.iter()
    }

    /// The first `count` of [`Optimistic::unstored`] are durable now.
    pub fn stored(&mut self, count: usize) {
        for record in self.unstored.drain(..count.min(self.unstored.len())) {
            self.unstored_headers -= usize::from(record.is_header());
            match record {
                Record::Mutation { id, .. } => self.stored_last = id,
                Record::Client { settled, .. } => {
                    self.stored_last = self.stored_last.max(settled);
                    self.stored_settled = self.stored_settled.max(settled);
                }
                _ => {}
            }
        }
    }

    /// Outcomes that are not durable yet, in order. They are to be stored after they were told: what is
    /// lost before is told again. They may be stored before or after what [`Optimistic::unstored`] says
    /// at the same time.
    pub fn outcomes(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.outcomes.iter()
    }

    /// The first `count` of [`Optimistic::outcomes`] are durable now.
    pub fn outcomes_stored(&mut self, count: usize) {
        for record in self.outcomes.drain(..count.min(self.outcomes.len())) {
            if let Record::Settled { id } = record {
                self.stored_settled = self.stored_settled.max(id);
            }
        }
    }

    /// The fewest records that lead to the present queue: a storage may keep them in place of all
    /// before, [`Optimistic::unstored`] and [`Optimistic::outcomes`] included.
    pub fn records(&self) -> Vec<Record> {
        self.queue.records()
    }

    fn record(&mut self, record: Record) {
        let applied = self.queue.apply(&record);
        debug_assert_eq!(applied, Ok(()));
        self.unstored_headers += usize::from(record.is_header());
        match record {
            Record::Refused { .. } | Record::Settled { .. } => self.outcomes.push_back(record),
            _ => self.unstored.push_back(record),
        }
    }

    /// Gives a message to the base.
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

    /// Shows a mutation on top of all others.
    fn push(&mut self, id: u64, ops: &Arc<[Op]>, dirty: &mut Dirty) {
        for (index, op) in ops.iter().enumerate() {
            // Of a table whose key is not known nothing can be shown.
            let Ok(key) = self.base.key(&op.table, &op.row) else { continue };
            dirty.note(&op.table, &key, || self.shown(&op.table, &key).cloned());
            let base = self.base.by_key(&op.table, &key);
            self.overlay.push(key, id, ops, index, base);
        }
    }

    /// Shows a mutation no longer.
    fn release(&mut self, id: u64, ops: &[Op], dirty: &mut Dirty) {
        for op in ops {
            let Ok(key) = self.base.key(&op.table, &op.row) else { continue };
            dirty.note(&op.table, &key, || self.shown(&op.table, &key).cloned());
            self.overlay.remove(&op.table, &key, id);
        }
    }

    fn release_held(&mut self, upto: u64, dirty: &mut Dirty) {
        while let Some((id, ops)) = self.held.pop_front_if(|(id, _)| *id <= upto) {
            self.release(id, &ops, dirty);
        }
    }

    fn index(&mut self) {
        self.index_anew(&mut Dirty::default());
    }

    /// Finds the rows of all mutations anew, since the keys of tables have become known.
    fn index_anew(&mut self, dirty: &mut Dirty) {
        for (table, key) in self.overlay.keys() {
            dirty.note(table, key, || self.shown(table, key).cloned());
        }
        self.overlay.clear();
        let pending = self.queue.entries().filter(|(_, entry)| !entry.refused);
        let pending = pending.map(|(id, entry)| (id, Arc::clone(&entry.ops)));
        let all: Vec<(u64, Arc<[Op]>)> = self.held.iter().cloned().chain(pending).collect();
        for (id, ops) in all {
            self.push(id, &ops, dirty);
        }
    }

    /// Puts the pending operations on the rows' new base.
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

fn refused_as(code: &str, message: &str) -> Outcome {
    Outcome::Refused { code: code.to_owned(), message: message.to_owned() }
}
