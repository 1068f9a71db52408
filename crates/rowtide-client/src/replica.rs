//! A user's rows as the server last sent them. Each message is applied as a whole: a snapshot replaces the
//! rows only with its `ready`, and nobody sees a part of a `tx`. Applying a change twice does no harm.

use std::collections::{BTreeMap, HashMap, HashSet};

use rowtide_protocol::{ChangedRow, Connected, Mode, ServerMessage};
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::row::{Key, KeyColumns, Row};

/// What a message did to one row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowChange {
    /// The row is new or has changed.
    Put {
        /// Its table.
        table: String,
        /// The whole row.
        row: Row,
    },
    /// The row is gone.
    Delete {
        /// Its table.
        table: String,
        /// The columns of its key.
        key: Row,
    },
}

/// The server broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplicaError {
    /// A row of a table that `connected` did not name.
    #[error("the server sent a row of table `{0}`, which it has not named")]
    UnknownTable(String),
    /// A row without its key.
    #[error("the server sent a row of table `{table}` without its key column `{column}`")]
    NoKey {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
}

type Tables = BTreeMap<String, HashMap<Key, Row>>;

/// A row that a message changed, and how it was before.
pub(crate) struct Touched {
    pub(crate) table: String,
    pub(crate) key: Key,
    pub(crate) before: Option<Row>,
}

/// A user's rows.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    keys: KeyColumns,
    tables: Tables,
    /// A snapshot that is not complete yet.
    arriving: Option<Tables>,
    cursor: Option<String>,
}

impl Replica {
    /// An empty replica.
    pub fn new() -> Replica {
        Replica::default()
    }

    /// The cursor of the rows; `None` before the first `ready`.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The names of the tables, in order.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// The columns of a table's primary key; none if the table is not known.
    pub fn key_columns(&self, table: &str) -> &[String] {
        self.keys.get(table).map_or(&[], Vec::as_slice)
    }

    /// The rows of a table, in no particular order.
    pub fn rows(&self, table: &str) -> impl Iterator<Item = &Row> {
        self.tables.get(table).into_iter().flat_map(HashMap::values)
    }

    /// How many rows a table has.
    pub fn count(&self, table: &str) -> usize {
        self.tables.get(table).map_or(0, HashMap::len)
    }

    /// The rows of a table as values of a type. Rows that do not fit it are errors.
    pub fn typed<T: DeserializeOwned>(
        &self,
        table: &str,
    ) -> impl Iterator<Item = Result<T, serde_json::Error>> {
        self.rows(table).map(|row| serde_json::from_value(Value::Object(row.clone())))
    }

    /// The row with this key; `key` holds the key's columns.
    pub fn get(&self, table: &str, key: &Row) -> Option<&Row> {
        let key = self.key(table, key).ok()?;
        self.tables.get(table)?.get(&key)
    }

    /// The key of a row.
    pub(crate) fn key(&self, table: &str, row: &Row) -> Result<Key, ReplicaError> {
        let known =
            self.keys.get(table).ok_or_else(|| ReplicaError::UnknownTable(table.to_owned()))?;
        let value = |column: &String| {
            row.get(column).ok_or_else(|| ReplicaError::NoKey {
                table: table.to_owned(),
                column: column.clone(),
            })
        };
        let values: Vec<&Value> = known.iter().map(value).collect::<Result<_, _>>()?;
        Ok(serde_json::to_string(&values).unwrap_or_default())
    }

    /// The row with this key.
    pub(crate) fn by_key(&self, table: &str, key: &str) -> Option<&Row> {
        self.tables.get(table)?.get(key)
    }

    /// The rows of a table with their keys.
    pub(crate) fn keyed(&self, table: &str) -> impl Iterator<Item = (&Key, &Row)> {
        self.tables.get(table).into_iter().flatten()
    }

    /// The columns of each table's primary key.
    pub(crate) fn keys(&self) -> &KeyColumns {
        &self.keys
    }

    /// Sets the keys of the tables. Rows of a table whose key has changed are kept under the new one.
    pub(crate) fn set_keys(&mut self, keys: KeyColumns) {
        let before = std::mem::replace(&mut self.keys, keys);
        for (table, columns) in before {
            if self.keys.get(&table).is_some_and(|now| *now != columns)
                && let Some(rows) = self.tables.remove(&table)
            {
                let rows = rows.into_values();
                let keyed = rows.filter_map(|row| Some((self.key(&table, &row).ok()?, row)));
                let keyed = keyed.collect();
                self.tables.insert(table, keyed);
            }
        }
    }

    /// Removes all rows and the cursor, and returns the rows.
    pub(crate) fn clear(&mut self) -> Vec<Touched> {
        self.cursor = None;
        self.arriving = None;
        self.replace(Tables::new())
    }

    /// How a row has changed, if it has.
    pub(crate) fn difference(
        &self,
        table: &str,
        before: Option<Row>,
        now: Option<&Row>,
    ) -> Option<RowChange> {
        let table = table.to_owned();
        match (before, now) {
            (before, Some(row)) => {
                (before.as_ref() != Some(row)).then(|| RowChange::Put { table, row: row.clone() })
            }
            (Some(mut key), None) => {
                // The key of a table that the server no longer names is not known: then take the whole row.
                if let Some(columns) = self.keys.get(&table) {
                    key.retain(|column, _| columns.contains(column));
                }
                Some(RowChange::Delete { table, key })
            }
            (None, None) => None,
        }
    }

    /// Applies one message and returns the rows that it changed, each once. For a `ready` that completes a
    /// snapshot these are the differences to the rows before it.
    ///
    /// # Errors
    /// When the message breaks the protocol; the replica is then as it was.
    pub fn apply(&mut self, message: &ServerMessage) -> Result<Vec<RowChange>, ReplicaError> {
        let touched = self.take(message)?;
        let change = |touched: Touched| {
            let now = self.by_key(&touched.table, &touched.key);
            self.difference(&touched.table, touched.before, now)
        };
        Ok(touched.into_iter().filter_map(change).collect())
    }

    /// As [`Replica::apply`], but returns the rows as they were before.
    pub(crate) fn take(&mut self, message: &ServerMessage) -> Result<Vec<Touched>, ReplicaError> {
        match message {
            ServerMessage::Connected(connected) => {
                self.connected(connected);
                Ok(Vec::new())
            }
            ServerMessage::Snapshot { table, rows } => {
                let keyed: Vec<(Key, Row)> = rows
                    .iter()
                    .map(|row| Ok((self.key(table, row)?, row.clone())))
                    .collect::<Result<_, _>>()?;
                let arriving = self.arriving.get_or_insert_default();
                arriving.entry(table.clone()).or_default().extend(keyed);
                Ok(Vec::new())
            }
            ServerMessage::Ready { cursor } => {
                let touched = match self.arriving.take() {
                    Some(tables) => self.replace(tables),
                    None => Vec::new(),
                };
                self.cursor = Some(cursor.clone());
                Ok(touched)
            }
            ServerMessage::Tx { cursor, changes, .. } => {
                let touched = self.transaction(changes)?;
                self.cursor = Some(cursor.clone());
                Ok(touched)
            }
            ServerMessage::Reject(_)
            | ServerMessage::SubscriptionError { .. }
            | ServerMessage::Pong
            | ServerMessage::Error { .. }
            | ServerMessage::Unknown => Ok(Vec::new()),
        }
    }

    fn connected(&mut self, connected: &Connected) {
        let keys = connected.tables.iter();
        self.set_keys(keys.map(|(table, known)| (table.clone(), known.key.clone())).collect());
        self.arriving = (connected.mode == Mode::Snapshot).then(Tables::new);
    }

    fn transaction(&mut self, changes: &[ChangedRow]) -> Result<Vec<Touched>, ReplicaError> {
        let keyed: Vec<(&str, Key, Option<&Row>)> = changes
            .iter()
            .map(|change| match change {
                ChangedRow::Put { table, row } => {
                    Ok((table.as_str(), self.key(table, row)?, Some(row)))
                }
                ChangedRow::Delete { table, row } => {
                    Ok((table.as_str(), self.key(table, row)?, None))
                }
            })
            .collect::<Result<_, _>>()?;
        let mut touched = Vec::with_capacity(keyed.len());
        let mut seen = HashSet::new();
        for (table, key, put) in keyed {
            let rows = self.tables.entry(table.to_owned()).or_default();
            let before = match put {
                Some(row) => rows.insert(key.clone(), row.clone()),
                None => rows.remove(&key),
            };
            // Most transactions are of one row.
            if changes.len() == 1 || seen.insert((table, key.clone())) {
                touched.push(Touched { table: table.to_owned(), key, before });
            }
        }
        Ok(touched)
    }

    fn replace(&mut self, tables: Tables) -> Vec<Touched> {
        let mut old = std::mem::replace(&mut self.tables, tables);
        let mut touched = Vec::new();
        for (table, rows) in &self.tables {
            let mut before = old.get_mut(table);
            for (key, row) in rows {
                let before = before.as_mut().and_then(|before| before.remove(key));
                if before.as_ref() != Some(row) {
                    touched.push(Touched { table: table.clone(), key: key.clone(), before });
                }
            }
        }
        for (table, rows) in old {
            let gone = rows.into_iter();
            touched.extend(gone.map(|(key, row)| Touched {
                table: table.clone(),
                key,
                before: Some(row),
            }));
        }
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(replica: &mut Replica, text: &str) -> Result<Vec<RowChange>, ReplicaError> {
        replica.apply(&ServerMessage::parse(text).unwrap())
    }

    fn connected(mode: &str) -> String {
        format!(
            r#"{{"type":"connected","protocol":1,"userId":"u","mode":"{mode}","lastMutation":0,
                "refused":[],"tables":{{"t":{{"key":["a","b"]}}}}}}"#
        )
    }

    #[test]
    fn a_snapshot_replaces_everything_with_its_ready_and_not_before() {
        let mut replica = Replica::new();
        apply(&mut replica, &connected("snapshot")).unwrap();
        let rows = r#"{"type":"snapshot","table":"t","rows":[{"a":1,"b":"x","c":1},{"a":2,"b":"x","c":1}]}"#;
        apply(&mut replica, rows).unwrap();
        assert_eq!(replica.count("t"), 0);
        assert_eq!(apply(&mut replica, r#"{"type":"ready","cursor":"1"}"#).unwrap().len(), 2);
        apply(&mut replica, &connected("snapshot")).unwrap();
        let rows = r#"{"type":"snapshot","table":"t","rows":[{"a":1,"b":"x","c":1}]}"#;
        apply(&mut replica, rows).unwrap();
        assert_eq!(replica.count("t"), 2, "the old rows stay until the new ones are complete");
        let changes = apply(&mut replica, r#"{"type":"ready","cursor":"2"}"#).unwrap();
        assert!(
            matches!(&changes[..], [RowChange::Delete { key, .. }] if key["a"] == 2 && key.len() == 2)
        );
        assert_eq!(replica.cursor(), Some("2"));
    }

    #[test]
    fn a_tx_is_applied_whole_or_not_at_all_and_twice_does_no_harm() {
        let mut replica = Replica::new();
        apply(&mut replica, &connected("resume")).unwrap();
        let tx = r#"{"type":"tx","cursor":"5","changes":[
            {"op":"put","table":"t","row":{"a":1,"b":"x","c":2}},
            {"op":"delete","table":"t","row":{"a":9,"b":"x"}}]}"#;
        for _ in 0..2 {
            apply(&mut replica, tx).unwrap();
            assert_eq!(replica.count("t"), 1);
        }
        let broken = r#"{"type":"tx","cursor":"6","changes":[
            {"op":"delete","table":"t","row":{"a":1,"b":"x"}},
            {"op":"put","table":"t","row":{"a":3}}]}"#;
        let column = "b".to_owned();
        let error = ReplicaError::NoKey { table: "t".to_owned(), column };
        assert_eq!(apply(&mut replica, broken), Err(error));
        assert_eq!((replica.count("t"), replica.cursor()), (1, Some("5")));
    }
}
