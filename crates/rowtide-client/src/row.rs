//! Rows as an application and the server both write them: JSON objects, with their columns by name. A row is
//! found by its key, whose columns the server names for each table. Replica, queue and operations share
//! these forms.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

/// A row: its columns by name.
pub type Row = Map<String, Value>;

/// A row's primary key: the JSON of its values, in the order of the key's columns.
pub type Key = String;

/// The columns of each table's primary key.
pub(crate) type KeyColumns = BTreeMap<String, Vec<String>>;

/// A row made from a value of the application's own type, by its `serde` form.
///
/// # Errors
/// When the value does not serialize as an object.
pub fn row_of(value: &impl Serialize) -> Result<Row, serde_json::Error> {
    match serde_json::to_value(value)? {
        Value::Object(row) => Ok(row),
        other => Err(serde::ser::Error::custom(format!("a row is an object, not {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_object_is_a_row() {
        #[derive(Serialize)]
        struct File {
            id: &'static str,
        }
        assert_eq!(
            row_of(&File { id: "f1" }).unwrap(),
            Row::from_iter([("id".to_owned(), json!("f1"))])
        );
        assert!(row_of(&[1, 2]).is_err());
    }
}
