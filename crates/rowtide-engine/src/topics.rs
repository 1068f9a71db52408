//! The topics in use and the rows that they hold. A topic is found by its id or its key; the bytes of all rows
//! are counted here, where alone rows change. The memory that they take is bounded: where a topic names no
//! others, its rows are only needed to send them whole; when there are too many, those of topics at rest are
//! evicted, one after the other, and loaded again if someone must be sent them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use rowtide_feed::Change;
use rowtide_plan::map::SeededMap;
use rowtide_plan::plan::{Branch, Plan, TableId};
use rowtide_plan::row::{Row, Topic};
use rowtide_plan::value::Instant;
use rowtide_protocol::Lsn;
use slab::Slab;

use crate::TopicRows;
use crate::rows_by_value::RowsByValue;
use crate::topic::{TopicKey, TopicState};
use crate::turns::Turns;
use crate::window::Prefix;

#[cfg(test)]
thread_local! {
    /// How often a topic was looked up by its id.
    pub(crate) static LOOKED_UP: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How many topics are looked at in one step at the most, when rows must be evicted.
const LOOKED_AT: usize = 1_000;
/// How many rows are dropped within a step at the most.
const DROPPED_HERE: usize = 1_000;

/// All topics in use.
#[derive(Debug)]
pub(crate) struct Topics {
    states: Slab<TopicState>,
    index: SeededMap<Topic, TopicKey>,
    /// Topics ahead of the stream, by where that ends.
    ahead: BTreeSet<(Lsn, TopicKey)>,
    /// When rows come or go by time alone: in which topics, and of how many rows.
    turns: BTreeMap<(Instant, TopicKey), u32>,
    /// The JSON of all rows that are held; a row counts once for each of its topics.
    row_bytes: usize,
    row_budget: usize,
    /// Where rows were last evicted.
    hand: TopicKey,
    /// How many topics were looked at in vain since then.
    in_vain: usize,
    /// Rows that were let go in this step, and are many.
    discarded: Vec<TopicRows>,
}

impl Topics {
    /// None, that will try to hold at most so many bytes of rows.
    pub(crate) fn new(row_budget: usize) -> Topics {
        Topics {
            states: Slab::new(),
            index: SeededMap::default(),
            ahead: BTreeSet::new(),
            turns: BTreeMap::new(),
            row_bytes: 0,
            row_budget,
            hand: 0,
            in_vain: 0,
            discarded: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (TopicKey, &TopicState)> {
        self.states.iter()
    }

    pub(crate) fn find(&self, topic: &Topic) -> Option<TopicKey> {
        #[cfg(test)]
        LOOKED_UP.with(|count| count.set(count.get() + 1));
        self.index.get(topic).copied()
    }

    pub(crate) fn get(&self, key: TopicKey) -> Option<&TopicState> {
        self.states.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: TopicKey) -> Option<&mut TopicState> {
        self.states.get_mut(key)
    }

    /// The topic of a branch, which is in use from now on, with what is known of its rows if they are for a window.
    pub(crate) fn enter(
        &mut self,
        topic: Topic,
        branch: &Branch,
        prefix: impl FnOnce() -> Option<Prefix>,
    ) -> TopicKey {
        if let Some(key) = self.index.get(&topic) {
            return *key;
        }
        let state = TopicState::new(topic.clone(), Turns::of(branch), prefix());
        let key = self.states.insert(state);
        self.index.insert(topic, key);
        key
    }

    /// Drops a topic that no view looks at.
    pub(crate) fn drop_if_unseen(&mut self, key: TopicKey) {
        if self.states[key].views().is_empty() {
            let rows = self.put_rows(key, TopicRows::default());
            self.discard(rows);
            let state = self.states.remove(key);
            self.index.remove(state.id());
        }
    }

    /// The topics of a table.
    pub(crate) fn of_table(&self, plan: &Plan, table: TableId) -> Vec<TopicKey> {
        let of_table = |(key, state): (TopicKey, &TopicState)| {
            (plan.branch(state.id().branch).table == table).then_some(key)
        };
        self.states.iter().filter_map(of_table).collect()
    }

    /// The JSON of all rows that are held, in bytes.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Applies a change to a topic's rows; returns the row of before.
    pub(crate) fn change_row(&mut self, key: TopicKey, change: &Change) -> Option<Arc<Row>> {
        let state = &mut self.states[key];
        self.row_bytes -= state.rows.bytes();
        let after = state.row_after(change).cloned();
        let before = match after.clone() {
            Some(row) => state.rows.insert(row),
            None => state.rows.remove(change.key()),
        };
        for index in &mut state.by_value {
            before.iter().for_each(|row| index.remove(row));
            after.iter().for_each(|row| index.insert(row));
        }
        let mut forgotten = Vec::new();
        if let Some(prefix) = &mut state.prefix {
            forgotten = prefix.change(before.as_ref(), after.as_ref());
            for row in &forgotten {
                state.rows.remove(&row.image.key);
            }
        }
        self.row_bytes += state.rows.bytes();
        if state.turns.are_any() {
            let mut gone: Vec<Instant> =
                before.iter().flat_map(|row| state.turns.remove(row)).collect();
            let new: Vec<Instant> = after.iter().flat_map(|row| state.turns.insert(row)).collect();
            gone.extend(forgotten.iter().flat_map(|row| state.turns.remove(row)));
            new.into_iter().for_each(|at| self.note_turn(at, key));
            gone.into_iter().for_each(|at| self.forget_turn(at, key));
        }
        before
    }

    /// Puts `rows` in the place of a topic's rows, which are returned.
    pub(crate) fn put_rows(&mut self, key: TopicKey, rows: TopicRows) -> TopicRows {
        let state = &mut self.states[key];
        if !rows.is_empty() {
            self.in_vain = 0;
        }
        self.row_bytes += rows.bytes();
        self.row_bytes -= state.rows.bytes();
        state.by_value.clear();
        state.prefix.iter_mut().for_each(|prefix| prefix.put(&rows));
        let old = std::mem::replace(&mut state.rows, rows);
        if state.turns.are_any() {
            let TopicState { rows, turns, .. } = state;
            let gone: Vec<Instant> = turns.clear().collect();
            let new: Vec<Instant> = rows.iter().flat_map(|row| turns.insert(row)).collect();
            gone.into_iter().for_each(|at| self.forget_turn(at, key));
            new.into_iter().for_each(|at| self.note_turn(at, key));
        }
        old
    }

    fn note_turn(&mut self, at: Instant, key: TopicKey) {
        *self.turns.entry((at, key)).or_insert(0) += 1;
    }

    fn forget_turn(&mut self, at: Instant, key: TopicKey) {
        if let Some(rows) = self.turns.get_mut(&(at, key)) {
            *rows -= 1;
            if *rows == 0 {
                self.turns.remove(&(at, key));
            }
        }
    }

    /// The topics with rows that may have another answer at the one moment than at the other, each once.
    pub(crate) fn turning(&self, one: Instant, other: Instant) -> Vec<TopicKey> {
        let between = (one.min(other), TopicKey::MIN)..=(one.max(other), TopicKey::MAX);
        let keys: BTreeSet<TopicKey> =
            self.turns.range(between).map(|((_, key), _)| *key).collect();
        keys.into_iter().collect()
    }

    /// The first moment from `now` on at which a row may get another answer.
    pub(crate) fn next_turn(&self, now: Instant) -> Option<Instant> {
        self.turns.range((now, TopicKey::MIN)..).next().map(|((at, _), _)| *at)
    }

    /// The rows of a topic by the values of these of their kept columns.
    pub(crate) fn by_value(&mut self, key: TopicKey, columns: &[usize]) -> &RowsByValue {
        let TopicState { by_value, rows, .. } = &mut self.states[key];
        let at = by_value.iter().position(|index| index.is_by(columns)).unwrap_or_else(|| {
            by_value.push(RowsByValue::new(columns, rows));
            by_value.len() - 1
        });
        &by_value[at]
    }

    /// Lets rows go; many are given to the caller of the step, because to drop them takes time.
    pub(crate) fn discard(&mut self, rows: TopicRows) {
        if rows.len() > DROPPED_HERE {
            self.discarded.push(rows);
        }
    }

    /// Large sets of rows that were let go in this step.
    pub(crate) fn take_discarded(&mut self) -> impl Iterator<Item = TopicRows> {
        self.discarded.drain(..)
    }

    /// Evicts rows of topics that allow it, until those that are left fit the budget. When all topics were
    /// looked at in vain, it rests until rows were loaded, or [`Topics::look_again`] is called.
    pub(crate) fn evict_rows(&mut self, may_evict: impl Fn(&TopicState) -> bool) {
        let places = self.states.capacity();
        for _ in 0..LOOKED_AT {
            if self.row_bytes <= self.row_budget || self.in_vain > places {
                return;
            }
            self.hand = (self.hand + 1) % places.max(1);
            self.in_vain += 1;
            if self.states.get(self.hand).is_some_and(&may_evict) {
                self.in_vain = 0;
                let rows = self.put_rows(self.hand, TopicRows::default());
                self.discard(rows);
                self.states[self.hand].was_evicted();
            }
        }
    }

    /// Topics that could not be evicted may have come to rest.
    pub(crate) fn look_again(&mut self) {
        self.in_vain = 0;
    }

    /// A topic runs ahead of the stream until there.
    pub(crate) fn runs_ahead(&mut self, key: TopicKey, until: Lsn) {
        self.ahead.insert((until, key));
    }

    /// The stream has come to `position`: topics are not ahead of it any more.
    pub(crate) fn pass(&mut self, position: Lsn) {
        while let Some((until, key)) = self.ahead.first().copied()
            && until <= position
        {
            self.ahead.pop_first();
            if let Some(state) = self.states.get_mut(key) {
                state.pass(until);
            }
        }
    }

    /// Panics if what is counted is not what is there.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        for (key, state) in &self.states {
            assert_eq!(self.index.get(state.id()), Some(&key), "the index knows every topic");
        }
        assert_eq!(self.index.len(), self.states.len());
        for (_, state) in &self.states {
            state.by_value.iter().for_each(|index| index.check(&state.rows));
            state.prefix.iter().for_each(|prefix| prefix.check(&state.rows));
        }
        for (_, state) in &self.states {
            state.turns.check(state.rows.iter());
        }
        let turns = self.states.iter().map(|(_, state)| state.turns.len()).sum::<usize>();
        assert_eq!(self.turns.values().map(|rows| *rows as usize).sum::<usize>(), turns);
        let rows = self.states.iter().flat_map(|(_, state)| state.rows.iter());
        assert_eq!(self.row_bytes, rows.map(|row| row.json.len()).sum::<usize>());
    }
}

impl Index<TopicKey> for Topics {
    type Output = TopicState;

    fn index(&self, key: TopicKey) -> &TopicState {
        &self.states[key]
    }
}

impl IndexMut<TopicKey> for Topics {
    fn index_mut(&mut self, key: TopicKey) -> &mut TopicState {
        &mut self.states[key]
    }
}
