//! A user's rows as the server last told them. Messages are applied whole: a snapshot replaces
//! everything only with its `ready`, and a `tx` is never seen in part. Applying a change twice does
//! no harm.

use std::collections::{BTreeMap, HashMap};

use rowtide_protocol::{Change, ServerMessage, TableKey};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use thiserror::Error;

/// A row: its columns by name.
pub type Row = Map<String, Value>;

/// A row's primary key: the JSON of its values, in the order of the key's columns.
pub type Key = String;

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
    /// A table that `connected` did not name.
    #[error("the server sent a row of table `{0}`, which it has not told of")]
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

/// A user's rows.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    keys: BTreeMap<String, TableKey>,
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

    /// Where the replica stands; `None` before the first `ready`.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The names of the tables, in order.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
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

    fn key(&self, table: &str, row: &Row) -> Result<Key, ReplicaError> {
        let known =
            self.keys.get(table).ok_or_else(|| ReplicaError::UnknownTable(table.to_owned()))?;
        let value = |column: &String| {
            row.get(column).ok_or_else(|| ReplicaError::NoKey {
                table: table.to_owned(),
                column: column.clone(),
            })
        };
        let values: Vec<&Value> = known.key.iter().map(value).collect::<Result<_, _>>()?;
        Ok(serde_json::to_string(&values).unwrap_or_default())
    }

    /// Applies one message and returns what it changed, in order. After a `ready` that completes a
    /// snapshot these are the differences to the rows of before.
    ///
    /// # Errors
    /// When the message is not of the protocol; the replica is then as it was.
    pub fn apply(&mut self, message: &ServerMessage) -> Result<Vec<RowChange>, ReplicaError> {
        match message {
            ServerMessage::Connected(connected) => {
                self.keys.clone_from(&connected.tables);
                let snapshot = connected.mode == rowtide_protocol::Mode::Snapshot;
                self.arriving = snapshot.then(Tables::new);
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
                let changes = match self.arriving.take() {
                    Some(tables) => self.replace(tables),
                    None => Vec::new(),
                };
                self.cursor = Some(cursor.clone());
                Ok(changes)
            }
            ServerMessage::Tx { cursor, changes, .. } => {
                let keyed: Vec<(&str, Key, Option<&Row>, &Row)> = changes
                    .iter()
                    .map(|change| match change {
                        Change::Put { table, row } => {
                            Ok((table.as_str(), self.key(table, row)?, Some(row), row))
                        }
                        Change::Delete { table, row } => {
                            Ok((table.as_str(), self.key(table, row)?, None, row))
                        }
                    })
                    .collect::<Result<_, _>>()?;
                let mut changed = Vec::new();
                for (table, key, put, row) in keyed {
                    let rows = self.tables.entry(table.to_owned()).or_default();
                    let table = table.to_owned();
                    match put {
                        Some(row) => {
                            rows.insert(key, row.clone());
                            changed.push(RowChange::Put { table, row: row.clone() });
                        }
                        None => {
                            rows.remove(&key);
                            changed.push(RowChange::Delete { table, key: row.clone() });
                        }
                    }
                }
                self.cursor = Some(cursor.clone());
                Ok(changed)
            }
            ServerMessage::Reject(_)
            | ServerMessage::Pong
            | ServerMessage::Error { .. }
            | ServerMessage::Unknown => Ok(Vec::new()),
        }
    }

    fn replace(&mut self, tables: Tables) -> Vec<RowChange> {
        let old = std::mem::replace(&mut self.tables, tables);
        let mut changes = Vec::new();
        for (table, rows) in &self.tables {
            let before = old.get(table);
            for (key, row) in rows {
                if before.and_then(|before| before.get(key)) != Some(row) {
                    changes.push(RowChange::Put { table: table.clone(), row: row.clone() });
                }
            }
        }
        for (table, rows) in old {
            let now = self.tables.get(&table);
            for (key, row) in rows {
                if now.is_none_or(|now| !now.contains_key(&key)) {
                    let columns = self.keys.get(&table).map_or(&[][..], |known| &known.key);
                    let key: Row = columns
                        .iter()
                        .filter_map(|column| Some((column.clone(), row.get(column)?.clone())))
                        .collect();
                    changes.push(RowChange::Delete { table: table.clone(), key });
                }
            }
        }
        changes
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
