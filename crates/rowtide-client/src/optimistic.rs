//! The optimistic layer. It keeps the rows as the server last sent them (the base) and the mutations that
//! are not acknowledged yet; the application sees the base with these mutations applied in order. A
//! mutation shows at once and stays on top of later changes of the base. It goes in the same step in which
//! its effects arrive in the base, or in which the server rejects it. The layer is a state machine without
//! I/O, clock or randomness: messages go in, steps come out. Its owner asks it what to store and what to
//! send.

mod error;
mod identity;
mod shown;
mod step;
mod subscribing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use rowtide_protocol::{Connected, MadeKey, Rejected, ServerMessage};

pub use self::error::{ApplyError, MutateError};
pub use self::step::{Acked, Outcome, Outgoing, Step};
pub use self::subscribing::Resumption;
use crate::op::{Op, OpKind, is_reference, with_numbers, within_depth};
use crate::overlay::Overlay;
use crate::queue::{CorruptQueue, MutationQueue, Record, size};
use crate::replica::{Replica, RowChange};
use crate::row::{Key, Row};
use crate::subscriptions::SubscriptionSet;

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

/// The optimistic layer of one client. See the module's text.
#[derive(Clone, Debug)]
pub struct Optimistic {
    base: Replica,
    subscriptions: SubscriptionSet,
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
            subscriptions: SubscriptionSet::default(),
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
        let mut step = self.applied(message)?;
        let subscriptions = self.subscriptions.apply(message);
        (step.subscribed, step.refused) = (subscriptions.subscribed, subscriptions.refused);
        Ok(step)
    }

    fn applied(&mut self, message: &ServerMessage) -> Result<Step, ApplyError> {
        match message {
            ServerMessage::Connected(connected) => self.connected(connected, message),
            ServerMessage::Tx { ack, keys, .. } => {
                let mut dirty = self.take(message)?;
                let acked = match ack {
                    Some(ack) => self.acknowledged(*ack, keys, &mut dirty),
                    None => Vec::new(),
                };
                Ok(Step { changes: self.rebuilt(dirty), acked, ..Step::default() })
            }
            ServerMessage::Ready { .. } => {
                let mut dirty = self.take(message)?;
                self.release_all_held(&mut dirty);
                Ok(Step { changes: self.rebuilt(dirty), ..Step::default() })
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
        Ok(Step { changes: self.rebuilt(dirty), acked, ..Step::default() })
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
            ..Step::default()
        }
    }

    /// The connection has ended.
    pub fn disconnected(&mut self) {
        self.sending = None;
        self.subscriptions.disconnected();
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
