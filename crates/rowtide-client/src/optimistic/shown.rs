//! Reading the optimistic layer: the rows that are shown, and the state of the queue.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Optimistic;
use crate::replica::Replica;
use crate::row::Row;

impl Optimistic {
    /// The rows as the server last sent them, without pending mutations.
    pub fn base(&self) -> &Replica {
        &self.base
    }

    /// The names of the tables, in order; none before they are known.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.base.tables()
    }

    /// The rows of a table as they are shown, in no particular order.
    pub fn rows(&self, table: &str) -> impl Iterator<Item = &Row> {
        let over = self.overlay.rows(table);
        let covered = move |key: &String| over.is_some_and(|over| over.contains_key(key));
        let base = self.base.keyed(table).filter(move |(key, _)| !covered(key));
        let pending = over.into_iter().flatten().filter_map(|(_, layer)| layer.row.as_ref());
        base.map(|(_, row)| row).chain(pending)
    }

    /// How many rows of a table are shown.
    pub fn count(&self, table: &str) -> usize {
        let over = self.overlay.rows(table).into_iter().flatten();
        over.fold(self.base.count(table), |count, (key, layer)| {
            let below = usize::from(self.base.by_key(table, key).is_some());
            count - below + usize::from(layer.row.is_some())
        })
    }

    /// The shown row with this key; `key` holds the key's columns.
    pub fn get(&self, table: &str, key: &Row) -> Option<&Row> {
        self.shown(table, &self.base.key(table, key).ok()?)
    }

    /// Whether a pending mutation has an operation on this row.
    pub fn is_pending(&self, table: &str, key: &Row) -> bool {
        let key = self.base.key(table, key);
        key.is_ok_and(|key| self.overlay.get(table, &key).is_some())
    }

    /// The shown rows of a table as values of a type. Rows that do not fit it are errors.
    pub fn typed<T: DeserializeOwned>(
        &self,
        table: &str,
    ) -> impl Iterator<Item = Result<T, serde_json::Error>> {
        self.rows(table).map(|row| serde_json::from_value(Value::Object(row.clone())))
    }

    /// The ids of the mutations that are not acknowledged yet, in order.
    pub fn pending(&self) -> impl Iterator<Item = u64> {
        self.queue.entries().filter(|(_, entry)| !entry.rejected).map(|(id, _)| id)
    }

    /// For `connect`: the name of this queue.
    pub fn client_id(&self) -> &str {
        &self.queue.client_id
    }

    /// The user whom the queue belongs to; `None` before the first `connected`.
    pub fn user_id(&self) -> Option<&str> {
        self.queue.user_id.as_deref()
    }

    /// For `connect`: the cursor of the base; `None` before the first `ready`.
    pub fn cursor(&self) -> Option<&str> {
        self.base.cursor()
    }

    /// For `connect`: the highest number that is stored as acknowledged; `None` if there is none.
    pub fn acked(&self) -> Option<u64> {
        let number = self.queue.number(self.stored_acked);
        (number > 0 && self.queue.user_id.is_some()).then_some(number)
    }

    /// For `connect`: the highest number that the client was told of as acknowledged, stored or not; `None` if there
    /// is none. What is left keeps its numbers, because the server goes on behind it, also where the database has
    /// gone back.
    pub fn spent(&self) -> Option<u64> {
        let number = self.queue.number(self.queue.acked);
        (number > 0 && self.queue.user_id.is_some()).then_some(number)
    }

    pub(super) fn shown(&self, table: &str, key: &str) -> Option<&Row> {
        self.overlay.get(table, key).unwrap_or_else(|| self.base.by_key(table, key))
    }
}
