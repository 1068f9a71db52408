//! Under which client id, and for which user, the queue goes on, where the server does not take it as it is. Rows and
//! mutations of one user are never another's.

use std::collections::BTreeMap;

use super::{Acked, Dirty, Optimistic, Step, rejected_with};
use crate::queue::{MutationQueue, Record};

impl Optimistic {
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
            self.subscriptions.cleared();
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
}
