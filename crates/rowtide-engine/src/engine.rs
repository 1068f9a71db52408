//! One step at a time: an input changes topics and views, then every view that has something to say
//! and is whole says it. A transaction is taken in two passes. The first notes, before anything
//! moves, which views saw each row; the second moves rows between topics and follows links, by which
//! views gain and lose topics. Only then is the difference made, so it is between the state of one
//! commit and the state of the next, whatever the order of changes within.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rowtide_plan::claims::Claims;
use rowtide_plan::plan::{BranchId, Plan, TableId};
use rowtide_plan::row::{Change, Changes, Image, Row, Topic, Transaction};
use rowtide_protocol::{Cursor, Epoch, Lsn, delete_change, put_change};
use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;

use crate::recent::Recent;
use crate::topic::{Ahead, Pending, Phase, Rows, TopicKey, TopicState, ViewKey, key_of};
use crate::view::{TouchedRow, View};
use crate::{Load, LoadId, Loaded};

/// Names one session for as long as it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// What happens to an engine.
#[derive(Clone, Debug)]
pub enum Input {
    /// The stream brought a transaction. One that lies before the position is ignored, so that a
    /// stream may start again from an earlier place.
    Transaction(Arc<Transaction>),
    /// The stream has come this far, and there was nothing on the way.
    Position(Lsn),
    /// A load arrived.
    Loaded(LoadId, Loaded),
    /// A load will not arrive; its topics are wanted again.
    LoadFailed(LoadId),
    /// A session with these claims came. Ids are not used twice.
    Open(SessionId, Claims),
    /// A session went.
    Close(SessionId),
    /// Time passes: a counter that grows by one about every second. Once in
    /// [`Engine::IDLE_TURNS`] of them each idle view's cursor is moved on.
    Tick(u64),
}

/// What the engine has to say to sessions. For one session the order matters.
#[derive(Clone, Debug)]
pub enum Output {
    /// Rows of a new replica.
    Snapshot {
        /// To whom.
        session: SessionId,
        /// The table of the rows.
        table: TableId,
        /// Each row once.
        rows: Vec<Arc<Row>>,
    },
    /// The new replica is whole.
    Ready {
        /// To whom.
        session: SessionId,
        /// As of this commit.
        cursor: Cursor,
    },
    /// One step forward.
    Tx {
        /// To whom.
        session: SessionId,
        /// Up to this commit.
        cursor: Cursor,
        /// The changes as JSON, separated by commas; shared where sessions are sent the same.
        changes: Bytes,
        /// When the last of the commits happened, microseconds since 1970 UTC.
        commit_time_us: Option<i64>,
    },
}

/// How much an engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open sessions.
    pub sessions: usize,
    /// Different sets of claims among them.
    pub views: usize,
    /// Topics in use.
    pub topics: usize,
    /// Topics that wait for a load or are part of one.
    pub loading: usize,
}

/// Topics, views and sessions. See the module.
#[derive(Debug)]
pub struct Engine {
    pub(crate) plan: Arc<Plan>,
    epoch: Epoch,
    pub(crate) position: Lsn,
    commit_time_us: Option<i64>,
    pub(crate) topics: Slab<TopicState>,
    pub(crate) index: FxHashMap<Topic, TopicKey>,
    pub(crate) views: Slab<View>,
    pub(crate) views_by_claims: FxHashMap<Claims, ViewKey>,
    pub(crate) sessions: FxHashMap<SessionId, ViewKey>,
    /// Topics in [`Phase::Wanted`]; may hold keys that are no longer, or are another topic now.
    wanted: VecDeque<TopicKey>,
    pub(crate) loads: FxHashMap<LoadId, Vec<TopicKey>>,
    next_load: u64,
    recent: Recent,
    /// Whether to ask for a snapshot even if no topic is wanted.
    probe: bool,
    /// Views that have all they need and wait for the stream to come to a position.
    releasable: BTreeSet<(Lsn, ViewKey)>,
    /// Topics ahead of the stream, by where that ends.
    ahead: BTreeSet<(Lsn, TopicKey)>,
    /// Views to look at before the step ends.
    dirty: Vec<ViewKey>,
}

impl Engine {
    /// An idle client's cursor is moved on once in so many ticks, about five minutes.
    pub const IDLE_TURNS: u64 = 300;

    /// An engine that has seen the stream up to `position` and has no sessions.
    pub fn new(plan: Arc<Plan>, epoch: Epoch, position: Lsn) -> Engine {
        Engine {
            plan,
            epoch,
            position,
            commit_time_us: None,
            topics: Slab::new(),
            index: FxHashMap::default(),
            views: Slab::new(),
            views_by_claims: FxHashMap::default(),
            sessions: FxHashMap::default(),
            wanted: VecDeque::new(),
            loads: FxHashMap::default(),
            next_load: 0,
            recent: Recent::default(),
            probe: false,
            releasable: BTreeSet::new(),
            ahead: BTreeSet::new(),
            dirty: Vec::new(),
        }
    }

    /// Takes one input and appends what follows from it to `out`.
    pub fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Transaction(transaction) => self.transaction(&transaction),
            Input::Position(lsn) => self.position = self.position.max(lsn),
            Input::Loaded(id, loaded) => self.loaded(id, loaded),
            Input::LoadFailed(id) => self.load_failed(id),
            Input::Open(session, claims) => self.open(session, claims),
            Input::Close(session) => self.close(session),
            Input::Tick(turn) => self.tick(turn, out),
        }
        self.settle(out);
        #[cfg(test)]
        self.check_invariants();
    }

    /// The next load to ask for, of at most `max_topics` topics. Its snapshot must be taken after
    /// this call. The more topics gather before it is called, the fewer loads there are.
    pub fn take_load(&mut self, max_topics: usize) -> Option<Load> {
        let id = LoadId(self.next_load);
        let mut keys = Vec::new();
        while keys.len() < max_topics {
            let Some(key) = self.wanted.pop_front() else { break };
            if let Some(topic) = self.topics.get_mut(key)
                && matches!(topic.phase, Phase::Wanted)
            {
                topic.phase = Phase::Loading { load: id, pending: Vec::new() };
                keys.push(key);
            }
        }
        if keys.is_empty() && !self.probe {
            return None;
        }
        self.probe = false;
        self.next_load += 1;
        self.seed_with_recent(&keys, id);
        let topics = keys.iter().map(|key| self.topics[*key].topic.clone()).collect();
        self.loads.insert(id, keys);
        Some(Load { id, topics })
    }

    /// Whether [`Engine::take_load`] has something to ask for.
    pub fn wants_load(&self) -> bool {
        self.probe || !self.wanted.is_empty()
    }

    /// Everything up to here has been taken in.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// How much the engine holds. Costs a look at every topic.
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.len(),
            views: self.views.len(),
            topics: self.topics.len(),
            loading: self.topics.iter().filter(|(_, topic)| !topic.is_loaded()).count(),
        }
    }

    // Transactions.

    fn transaction(&mut self, transaction: &Arc<Transaction>) {
        if transaction.lsn <= self.position {
            return;
        }
        for table in &transaction.truncated {
            self.truncate(*table, transaction.xid);
        }
        match &transaction.changes {
            Changes::Rows(changes) => {
                let concerned: Vec<usize> = (0..changes.len())
                    .filter(|index| self.note_who_saw(&changes[*index]))
                    .collect();
                for index in concerned {
                    self.apply(transaction, index, &changes[index]);
                }
            }
            Changes::TooLarge(tables) => self.reload(tables, transaction.xid),
        }
        self.recent.push(transaction);
        self.position = transaction.lsn;
        self.commit_time_us = Some(transaction.commit_time_us);
    }

    /// The first pass: which views saw the row, which may see it. Returns whether any topic in use is
    /// concerned.
    fn note_who_saw(&mut self, change: &Change) -> bool {
        let mut concerned = false;
        let images =
            [(change.old.as_ref(), true), (change.new.as_ref().map(|row| &row.image), false)];
        for (image, before) in images {
            let Some(image) = image else { continue };
            for topic in &image.topics {
                let Some(&key) = self.index.get(topic) else { continue };
                concerned = true;
                let branch = self.plan.branch(topic.branch);
                if !branch.published {
                    continue;
                }
                for view_key in &self.topics[key].views {
                    let view = &mut self.views[*view_key];
                    if before {
                        if !view.had(key) || !branch.claim_filter.passes(&image.kept, &view.claims)
                        {
                            continue;
                        }
                        view.touched.row(change.table, &image.key, true);
                    } else {
                        let row = view.touched.row(change.table, &image.key, false);
                        row.latest.clone_from(&change.new);
                    }
                    mark(&mut self.dirty, *view_key, view);
                }
            }
        }
        concerned
    }

    /// The second pass: the topics that the row leaves, enters or stays in.
    fn apply(&mut self, transaction: &Arc<Transaction>, index: usize, change: &Change) {
        let old: &[Topic] = change.old.as_ref().map_or(&[], |image| &image.topics);
        let new: &[Topic] = change.new.as_ref().map_or(&[], |row| &row.image.topics);
        for topic in old.iter().chain(new.iter().filter(|topic| !old.contains(topic))) {
            // Looked up anew: a link that changed just before may have dropped or added topics.
            let Some(&key) = self.index.get(topic) else { continue };
            let state = &mut self.topics[key];
            if state.has_seen(transaction.xid) {
                continue;
            }
            match &mut state.phase {
                Phase::Wanted => continue,
                Phase::Loading { pending, .. } => {
                    let transaction = Arc::clone(transaction);
                    pending.push(Pending::Change { transaction, index });
                    continue;
                }
                Phase::Loaded { .. } => {}
            }
            let before = match state.row_after(change).cloned() {
                Some(row) => state.rows.insert(row.image.key.clone(), row),
                None => state.rows.remove(key_of(change)),
            };
            let branch = topic.branch;
            if !self.plan.branch(branch).links.is_empty() {
                let after = state.row_after(change).cloned();
                let views: Vec<ViewKey> = state.views.iter().copied().collect();
                for view in views {
                    self.follow(view, branch, before.as_ref(), after.as_ref());
                }
            }
        }
    }

    fn truncate(&mut self, table: TableId, xid: u32) {
        for key in self.topics_of(table) {
            // Gone if another topic of this table named it.
            let Some(state) = self.topics.get_mut(key).filter(|state| !state.has_seen(xid)) else {
                continue;
            };
            match &mut state.phase {
                Phase::Wanted => {}
                Phase::Loading { pending, .. } => pending.push(Pending::Truncated { xid }),
                Phase::Loaded { .. } => self.replace_rows(key, Rows::default()),
            }
        }
    }

    /// A transaction changed too much of `tables`: their topics are to be loaded again.
    fn reload(&mut self, tables: &[TableId], xid: u32) {
        let keys: Vec<TopicKey> = tables.iter().flat_map(|table| self.topics_of(*table)).collect();
        for key in keys {
            let state = &mut self.topics[key];
            if state.has_seen(xid) {
                continue;
            }
            match &mut state.phase {
                Phase::Wanted => {}
                Phase::Loading { pending, .. } => pending.push(Pending::Unknown { xid }),
                Phase::Loaded { .. } => {
                    state.phase = Phase::Wanted;
                    self.wanted.push_back(key);
                    for view in &state.views {
                        self.views[*view].waiting += 1;
                    }
                }
            }
        }
    }

    fn topics_of(&self, table: TableId) -> Vec<TopicKey> {
        let of_table = |(key, state): (TopicKey, &TopicState)| {
            (self.plan.branch(state.topic.branch).table == table).then_some(key)
        };
        self.topics.iter().filter_map(of_table).collect()
    }

    // Links.

    /// A row of a topic that `view` reaches has changed: the topics that it names are reached, those
    /// that it named are not. In this order, so that what it still names is not lost for a moment.
    fn follow(
        &mut self,
        view: ViewKey,
        branch: BranchId,
        before: Option<&Arc<Row>>,
        after: Option<&Arc<Row>>,
    ) {
        if let (Some(before), Some(after)) = (before, after)
            && before.image.kept == after.image.kept
        {
            return;
        }
        for topic in after.map_or_else(Vec::new, |row| self.named(view, branch, &row.image)) {
            self.reach(view, topic);
        }
        for topic in before.map_or_else(Vec::new, |row| self.named(view, branch, &row.image)) {
            let key = self.index[&topic];
            self.unreach(view, key);
        }
    }

    /// The topics that a row of `branch` names for `view`.
    fn named(&self, view: ViewKey, branch: BranchId, image: &Image) -> Vec<Topic> {
        let branch = self.plan.branch(branch);
        if branch.links.is_empty()
            || !branch.claim_filter.passes(&image.kept, &self.views[view].claims)
        {
            return Vec::new();
        }
        let named = branch.links.iter().map(|link| (link.target, &image.kept[link.column]));
        named
            .filter(|(_, value)| !value.is_null())
            .map(|(branch, value)| Topic { branch, anchor: Some(value.clone()) })
            .collect()
    }

    /// One more reason for `view` to reach `topic`.
    fn reach(&mut self, view_key: ViewKey, topic: Topic) {
        let branch = topic.branch;
        let key = match self.index.get(&topic) {
            Some(key) => *key,
            None => {
                let key = self.topics.insert(TopicState::new(topic.clone()));
                self.index.insert(topic, key);
                self.wanted.push_back(key);
                key
            }
        };
        let view = &mut self.views[view_key];
        let count = view.reach.entry(key).or_insert(0);
        *count += 1;
        if *count > 1 {
            return;
        }
        let state = &mut self.topics[key];
        state.views.insert(view_key);
        view.gained.insert(key);
        view.release_at = view.release_at.max(state.ahead_until());
        view.waiting += usize::from(!state.is_loaded());
        mark(&mut self.dirty, view_key, view);
        if !self.plan.branch(branch).links.is_empty() {
            for row in self.rows_of(key) {
                self.follow(view_key, branch, None, Some(&row));
            }
        }
    }

    /// One reason less; with the last, the rows that only this topic made visible are gone.
    fn unreach(&mut self, view_key: ViewKey, key: TopicKey) {
        let view = &mut self.views[view_key];
        let count = view.reach.get_mut(&key).expect("a view reaches what its link rows name");
        *count -= 1;
        if *count > 0 {
            return;
        }
        let state = &mut self.topics[key];
        view.reach.remove(&key);
        let had = !view.gained.remove(&key);
        view.waiting -= usize::from(!state.is_loaded());
        state.views.remove(&view_key);
        mark(&mut self.dirty, view_key, view);
        let branch_id = state.topic.branch;
        let branch = self.plan.branch(branch_id);
        if branch.published && had {
            for row in state.rows.values() {
                if branch.claim_filter.passes(&row.image.kept, &view.claims) {
                    let touched = view.touched.row(branch.table, &row.image.key, true);
                    // A topic that waits to be loaded again still has the rows of the last message,
                    // and changes that were not kept may have moved them meanwhile.
                    touched.was_visible |= !state.is_loaded();
                    touched.latest.get_or_insert_with(|| Arc::clone(row));
                }
            }
        }
        if !branch.links.is_empty() {
            for row in self.rows_of(key) {
                self.follow(view_key, branch_id, Some(&row), None);
            }
        }
        self.drop_if_unseen(key);
    }

    fn rows_of(&self, key: TopicKey) -> Vec<Arc<Row>> {
        self.topics[key].rows.values().cloned().collect()
    }

    fn drop_if_unseen(&mut self, key: TopicKey) {
        if self.topics[key].views.is_empty() {
            let state = self.topics.remove(key);
            self.index.remove(&state.topic);
        }
    }

    // Loads.

    /// Gives topics that are about to be loaded the transactions that the load may not see.
    fn seed_with_recent(&mut self, keys: &[TopicKey], id: LoadId) {
        let plan = Arc::clone(&self.plan);
        for entry in self.recent.iter() {
            let xid = entry.xid;
            let tables_of = |tables: &[TableId], topic: &TopicState| {
                tables.contains(&plan.branch(topic.topic.branch).table)
            };
            let Some(transaction) = &entry.transaction else {
                for key in keys {
                    push_pending(&mut self.topics[*key], id, Pending::Unknown { xid });
                }
                continue;
            };
            if !transaction.truncated.is_empty() {
                for key in keys {
                    let topic = &mut self.topics[*key];
                    if tables_of(&transaction.truncated, topic) {
                        push_pending(topic, id, Pending::Truncated { xid });
                    }
                }
            }
            match &transaction.changes {
                Changes::TooLarge(tables) => {
                    for key in keys {
                        let topic = &mut self.topics[*key];
                        if tables_of(tables, topic) {
                            push_pending(topic, id, Pending::Unknown { xid });
                        }
                    }
                }
                Changes::Rows(changes) => {
                    for (index, change) in changes.iter().enumerate() {
                        let old: &[Topic] = change.old.as_ref().map_or(&[], |old| &old.topics);
                        let new: &[Topic] =
                            change.new.as_ref().map_or(&[], |new| &new.image.topics);
                        for topic in old.iter().chain(new.iter().filter(|t| !old.contains(t))) {
                            if let Some(key) = self.index.get(topic) {
                                let transaction = Arc::clone(transaction);
                                let pending = Pending::Change { transaction, index };
                                push_pending(&mut self.topics[*key], id, pending);
                            }
                        }
                    }
                }
            }
        }
    }

    fn loaded(&mut self, id: LoadId, loaded: Loaded) {
        let Some(keys) = self.loads.remove(&id) else { return };
        self.recent.forget_visible(&loaded.snapshot);
        let snapshot = Arc::new(loaded.snapshot.clone());
        let ahead = Ahead::of(&loaded, &snapshot, self.position);
        for (key, rows) in keys.into_iter().zip(loaded.rows) {
            let Some(pending) = self.take_pending(key, id) else { continue };
            let state = &mut self.topics[key];
            let Ok(rows) = state.fit(rows, &pending, &snapshot) else {
                state.phase = Phase::Wanted;
                self.wanted.push_back(key);
                continue;
            };
            state.phase = Phase::Loaded { ahead: ahead.clone() };
            if let Some(ahead) = &ahead {
                self.ahead.insert((ahead.until, key));
            }
            for view_key in &state.views {
                let view = &mut self.views[*view_key];
                view.waiting -= 1;
                if let Some(ahead) = &ahead {
                    view.release_at = view.release_at.max(ahead.until);
                }
                mark(&mut self.dirty, *view_key, view);
            }
            self.replace_rows(key, rows);
        }
    }

    fn load_failed(&mut self, id: LoadId) {
        for key in self.loads.remove(&id).unwrap_or_default() {
            if self.take_pending(key, id).is_some() {
                self.topics[key].phase = Phase::Wanted;
                self.wanted.push_back(key);
            }
        }
    }

    /// What was streamed for a topic while `id` was under way; `None` if it is not part of that load
    /// (any more).
    fn take_pending(&mut self, key: TopicKey, id: LoadId) -> Option<Vec<Pending>> {
        match &mut self.topics.get_mut(key)?.phase {
            Phase::Loading { load, pending } if *load == id => Some(std::mem::take(pending)),
            _ => None,
        }
    }

    /// Puts `rows` in the place of a topic's rows: what differs is touched in the views that had the
    /// topic, and links are followed.
    fn replace_rows(&mut self, key: TopicKey, rows: Rows) {
        let state = &mut self.topics[key];
        let branch_id = state.topic.branch;
        let plan = Arc::clone(&self.plan);
        let branch = plan.branch(branch_id);
        let (has_links, published, table) =
            (!branch.links.is_empty(), branch.published, branch.table);
        // Views that have sent the topic's rows before; none when it is loaded for the first time.
        let informed = published && state.views.iter().any(|view| self.views[*view].had(key));
        if !has_links && !informed {
            state.rows = rows;
            return;
        }
        type Pair = (Option<Arc<Row>>, Option<Arc<Row>>);
        let mut changed: Vec<Pair> = Vec::new();
        for (row_key, after) in &rows {
            let before = state.rows.get(row_key);
            if before.is_none_or(|before| before != after) {
                changed.push((before.cloned(), Some(Arc::clone(after))));
            }
        }
        let gone = state.rows.iter().filter(|(row_key, _)| !rows.contains_key(*row_key));
        changed.extend(gone.map(|(_, before)| (Some(Arc::clone(before)), None)));
        let old_rows = std::mem::replace(&mut state.rows, rows);
        let views: Vec<ViewKey> = state.views.iter().copied().collect();
        for view_key in views {
            if informed && self.views[view_key].had(key) {
                self.touch_replaced(view_key, key, &old_rows, &changed);
            }
            if has_links {
                // All that is gained before anything is lost.
                for (before, after) in &changed {
                    if let Some(after) = after
                        && before.as_ref().is_none_or(|b| b.image.kept != after.image.kept)
                    {
                        self.follow(view_key, branch_id, None, Some(after));
                    }
                }
                for (before, after) in &changed {
                    if let Some(before) = before
                        && after.as_ref().is_none_or(|a| a.image.kept != before.image.kept)
                    {
                        self.follow(view_key, branch_id, Some(before), None);
                    }
                }
            }
        }
    }

    /// The rows of a topic that `view` had are others now: notes which of them it saw before.
    fn touch_replaced(
        &mut self,
        view_key: ViewKey,
        key: TopicKey,
        old_rows: &Rows,
        changed: &[(Option<Arc<Row>>, Option<Arc<Row>>)],
    ) {
        let state = &self.topics[key];
        let branch = self.plan.branch(state.topic.branch);
        let saw_here = |view: &View, row_key: &Bytes| {
            let old = old_rows.get(row_key);
            old.is_some_and(|old| branch.claim_filter.passes(&old.image.kept, &view.claims))
        };
        let view = &self.views[view_key];
        let saw: Vec<bool> = changed
            .iter()
            .map(|(before, after)| {
                let images = before.iter().chain(after).map(|row| &row.image);
                images.clone().any(|image| saw_here(view, &image.key))
                    || images.clone().any(|image| self.had_row(view, image))
            })
            .collect();
        let view = &mut self.views[view_key];
        // Changes that were not kept may have moved a touched row out, and in again.
        let claims = &view.claims;
        for touched in view.touched.of_table(branch.table) {
            let old = old_rows.get(&touched.key);
            touched.was_visible |=
                old.is_some_and(|old| branch.claim_filter.passes(&old.image.kept, claims));
            if let Some(row) = state.rows.get(&touched.key) {
                touched.latest = Some(Arc::clone(row));
            }
        }
        for ((before, after), saw) in changed.iter().zip(saw) {
            let Some(row) = after.as_ref().or(before.as_ref()) else { continue };
            let touched = view.touched.row(branch.table, &row.image.key, saw);
            match after {
                Some(after) => touched.latest = Some(Arc::clone(after)),
                // It may have been seen in another topic since.
                None => drop(touched.latest.get_or_insert_with(|| Arc::clone(row))),
            }
        }
        mark(&mut self.dirty, view_key, view);
    }

    /// Whether a row that has not been touched since the last message was part of it.
    fn had_row(&self, view: &View, image: &Image) -> bool {
        image.topics.iter().any(|topic| {
            let branch = self.plan.branch(topic.branch);
            let Some(&key) = self.index.get(topic).filter(|key| view.had(**key)) else {
                return false;
            };
            let row = self.topics[key].rows.get(&image.key);
            branch.published
                && row.is_some_and(|row| branch.claim_filter.passes(&row.image.kept, &view.claims))
        })
    }

    // Sessions.

    fn open(&mut self, session: SessionId, claims: Claims) {
        let view_key = match self.views_by_claims.get(&claims) {
            Some(key) => *key,
            None => {
                let key = self.views.insert(View::new(claims.clone()));
                for topic in self.plan.reached(&claims) {
                    self.reach(key, topic);
                }
                self.views_by_claims.insert(claims, key);
                key
            }
        };
        self.sessions.insert(session, view_key);
        let view = &mut self.views[view_key];
        view.joining.push(session);
        mark(&mut self.dirty, view_key, view);
    }

    fn close(&mut self, session: SessionId) {
        let Some(view_key) = self.sessions.remove(&session) else { return };
        let view = &mut self.views[view_key];
        view.live.retain(|other| *other != session);
        view.joining.retain(|other| *other != session);
        if !view.live.is_empty() || !view.joining.is_empty() {
            return;
        }
        let view = self.views.remove(view_key);
        self.views_by_claims.remove(&view.claims);
        for key in view.reach.into_keys() {
            self.topics[key].views.remove(&view_key);
            self.drop_if_unseen(key);
        }
    }

    fn tick(&mut self, turn: u64, out: &mut Vec<Output>) {
        self.probe = !self.recent.is_empty() && self.loads.is_empty();
        let turn = turn % Self::IDLE_TURNS;
        for (key, view) in &mut self.views {
            let due = key as u64 % Self::IDLE_TURNS == turn;
            let idle = view.touched.is_empty() && view.gained.is_empty();
            if due && idle && view.sent < self.position && view.is_whole(self.position) {
                view.sent = self.position;
                let cursor = Cursor { epoch: self.epoch, lsn: self.position };
                out.extend(view.live.iter().map(|session| Output::Tx {
                    session: *session,
                    cursor,
                    changes: Bytes::new(),
                    commit_time_us: None,
                }));
            }
        }
    }

    // The end of a step.

    /// Every view that has something to say, and is whole, says it.
    fn settle(&mut self, out: &mut Vec<Output>) {
        while let Some((until, key)) = self.ahead.first().copied()
            && until <= self.position
        {
            self.ahead.pop_first();
            if let Some(Phase::Loaded { ahead }) = self.topics.get_mut(key).map(|t| &mut t.phase) {
                ahead.take_if(|ahead| ahead.until <= until);
            }
        }
        while let Some((lsn, key)) = self.releasable.first().copied()
            && lsn <= self.position
        {
            self.releasable.pop_first();
            if let Some(view) = self.views.get_mut(key) {
                mark(&mut self.dirty, key, view);
            }
        }
        let mut shared = None;
        for key in std::mem::take(&mut self.dirty) {
            let Some(view) = self.views.get_mut(key) else { continue };
            view.dirty = false;
            if view.is_whole(self.position) {
                self.flush(key, &mut shared, out);
            } else if view.waiting == 0 {
                self.releasable.insert((view.release_at, key));
            }
        }
    }

    /// Brings the sessions of a whole view to the present.
    fn flush(&mut self, key: ViewKey, shared: &mut Option<SharedBody>, out: &mut Vec<Output>) {
        let cursor = Cursor { epoch: self.epoch, lsn: self.position };
        let view = &mut self.views[key];
        let touched = view.touched.take();
        let gained = std::mem::take(&mut view.gained);
        let view = &self.views[key];
        if !view.live.is_empty() {
            let changes = match touched.as_slice() {
                [only] if gained.is_empty() => self.body_of_one(view, only, shared),
                _ => self.body(view, &touched, &gained),
            };
            if !changes.is_empty() {
                out.extend(view.live.iter().map(|session| Output::Tx {
                    session: *session,
                    cursor,
                    changes: changes.clone(),
                    commit_time_us: self.commit_time_us,
                }));
            }
        }
        if !view.joining.is_empty() {
            let tables = self.visible_rows(view);
            for session in &view.joining {
                out.extend(tables.iter().map(|(table, rows)| Output::Snapshot {
                    session: *session,
                    table: *table,
                    rows: rows.clone(),
                }));
                out.push(Output::Ready { session: *session, cursor });
            }
        }
        let view = &mut self.views[key];
        view.live.append(&mut view.joining);
        view.sent = self.position;
    }

    /// The row as the view sees it now, if it does.
    fn visible_now(&self, view: &View, touched: &TouchedRow) -> Option<&Arc<Row>> {
        touched.latest.as_ref()?.image.topics.iter().find_map(|topic| {
            let branch = self.plan.branch(topic.branch);
            let key = self.index.get(topic).filter(|key| view.reach.contains_key(key))?;
            let row = self.topics[*key].rows.get(&touched.key)?;
            let sees =
                branch.published && branch.claim_filter.passes(&row.image.kept, &view.claims);
            sees.then_some(row)
        })
    }

    /// Many views are often sent the same one row: its JSON is made once.
    fn body_of_one(
        &self,
        view: &View,
        touched: &TouchedRow,
        shared: &mut Option<SharedBody>,
    ) -> Bytes {
        let row = self.visible_now(view, touched);
        if row.is_none() && !touched.was_visible {
            return Bytes::new();
        }
        let identity =
            (touched.table, touched.key.clone(), row.map_or(0, |row| Arc::as_ptr(row) as usize));
        if let Some(shared) = shared
            && shared.identity == identity
        {
            return shared.body.clone();
        }
        let mut body = Vec::new();
        self.push_change(&mut body, touched.table, &touched.key, row);
        let body = Bytes::from(body);
        *shared = Some(SharedBody { identity, body: body.clone() });
        body
    }

    fn body(&self, view: &View, touched: &[TouchedRow], gained: &FxHashSet<TopicKey>) -> Bytes {
        let mut body = Vec::new();
        let mut said: FxHashSet<(TableId, &Bytes)> = FxHashSet::default();
        for touched in touched {
            let row = self.visible_now(view, touched);
            if row.is_some() || touched.was_visible {
                self.push_change(&mut body, touched.table, &touched.key, row);
            }
            if row.is_some() && !gained.is_empty() {
                said.insert((touched.table, &touched.key));
            }
        }
        for key in gained {
            let state = &self.topics[*key];
            let branch = self.plan.branch(state.topic.branch);
            for row in state.rows.values().filter(|_| branch.published) {
                if branch.claim_filter.passes(&row.image.kept, &view.claims)
                    && said.insert((branch.table, &row.image.key))
                {
                    self.push_change(&mut body, branch.table, &row.image.key, Some(row));
                }
            }
        }
        body.into()
    }

    fn push_change(&self, body: &mut Vec<u8>, table: TableId, key: &Bytes, row: Option<&Arc<Row>>) {
        if !body.is_empty() {
            body.push(b',');
        }
        let name = &self.plan.table(table).name_json;
        match row {
            Some(row) => put_change(body, name, &row.json),
            None => delete_change(body, name, key),
        }
    }

    /// All that a view sees, by table.
    pub(crate) fn visible_rows(&self, view: &View) -> Vec<(TableId, Vec<Arc<Row>>)> {
        let mut tables: Vec<(TableId, Vec<Arc<Row>>)> = Vec::new();
        let mut said: FxHashSet<(TableId, &Bytes)> = FxHashSet::default();
        for key in view.reach.keys() {
            let state = &self.topics[*key];
            let branch = self.plan.branch(state.topic.branch);
            if !branch.published {
                continue;
            }
            for row in state.rows.values() {
                if branch.claim_filter.passes(&row.image.kept, &view.claims)
                    && said.insert((branch.table, &row.image.key))
                {
                    match tables.iter_mut().find(|(table, _)| *table == branch.table) {
                        Some((_, rows)) => rows.push(Arc::clone(row)),
                        None => tables.push((branch.table, vec![Arc::clone(row)])),
                    }
                }
            }
        }
        tables
    }
}

/// The last message of a single row, for the next view that is sent the same.
struct SharedBody {
    identity: (TableId, Bytes, usize),
    body: Bytes,
}

fn mark(dirty: &mut Vec<ViewKey>, key: ViewKey, view: &mut View) {
    if !view.dirty {
        view.dirty = true;
        dirty.push(key);
    }
}

fn push_pending(topic: &mut TopicState, id: LoadId, step: Pending) {
    if let Phase::Loading { load, pending } = &mut topic.phase
        && *load == id
    {
        pending.push(step);
    }
}
