//! Keys that the server makes: an insert leaves the key out, or a part of it, and the server says with the acknowledgement
//! which key the row has. Until then, and ever after, an operation may name it by the insert that it is of.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The key of a row that an insert came without, as it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeKey {
    /// The mutation.
    pub id: u64,
    /// Which of its operations the insert is, counted from 0.
    pub op: u32,
    /// All columns of the key, with the values that the row has in `snapshot` and `tx`.
    pub key: Map<String, Value>,
}

/// Stands for a column of a key that the server makes: `{"$key": [7, 0, "id"]}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyReference {
    /// The mutation.
    pub id: u64,
    /// Which of its operations the insert is, counted from 0.
    pub op: u32,
    /// The column of the key.
    pub column: String,
}

/// The most bytes of JSON that may be a reference: names of columns have 63 in Postgres.
const MAX_REFERENCE: usize = 512;

impl KeyReference {
    /// Reads a value of an operation; `None` if it is any other value. An object that has more, or whose `$key` is of another
    /// form, is a value: a column of JSON may hold it.
    pub fn read(json: &str) -> Option<KeyReference> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            #[serde(rename = "$key")]
            key: (u64, u32, String),
        }
        let json = json.trim();
        if !json.starts_with('{') || json.len() > MAX_REFERENCE {
            return None;
        }
        let Fields { key: (id, op, column) } = serde_json::from_str(json).ok()?;
        (id > 0).then_some(KeyReference { id, op, column })
    }
}

impl fmt::Display for KeyReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column: String = self.column.chars().filter(|c| !c.is_control()).take(60).collect();
        write!(f, "$key [{}, {}, {column:?}]", self.id, self.op)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_an_object_of_one_field_and_all_else_is_a_value() {
        let read = |json: &str| KeyReference::read(json);
        let of = |id, op, column: &str| Some(KeyReference { id, op, column: column.to_owned() });
        assert_eq!(read(r#"{"$key":[7,0,"id"]}"#), of(7, 0, "id"));
        assert_eq!(read(" { \"\\u0024key\" : [ 1 , 499 , \"a\\\"b\" ] } "), of(1, 499, "a\"b"));
        for value in [
            "7",
            "null",
            "[[7,0,\"id\"]]",
            r#"{"$key":[7,0]}"#,
            r#"{"$key":[7,0,"id",1]}"#,
            r#"{"$key":[0,0,"id"]}"#,
            r#"{"$key":[7,-1,"id"]}"#,
            r#"{"$key":[7.5,0,"id"]}"#,
            r#"{"$key":["7",0,"id"]}"#,
            r#"{"$key":[7,0,"id"],"more":1}"#,
            r#"{"$key":[7,0,"id"],"$key":[8,0,"id"]}"#,
            r#"{"key":[7,0,"id"]}"#,
            "{}",
        ] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
