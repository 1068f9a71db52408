//! Values as bytes, for what is kept on disk: a tag, then the value in canonical form, numbers in
//! little-endian order. Equal values have equal bytes. Reading is total.

use super::calendar::Instant;
use super::parts::{read_array, read_slice, write_slice};
use super::{Numeric, Value};

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const FLOAT: u8 = 4;
const NUMERIC: u8 = 5;
const TEXT: u8 = 6;
const UUID: u8 = 7;
const BYTEA: u8 = 8;
const TIME: u8 = 9;
const ARRAY: u8 = 10;

impl Value {
    /// Appends the value's bytes.
    pub fn write(&self, into: &mut Vec<u8>) {
        let tagged = |into: &mut Vec<u8>, tag: u8, number: i64| {
            into.push(tag);
            into.extend_from_slice(&number.to_le_bytes());
        };
        match self {
            Value::Null => into.push(NULL),
            Value::Bool(false) => into.push(FALSE),
            Value::Bool(true) => into.push(TRUE),
            Value::Int(number) => tagged(into, INT, *number),
            Value::Float(bits) => tagged(into, FLOAT, *bits),
            Value::Time(Instant(count)) => tagged(into, TIME, *count),
            Value::Numeric(number) => {
                into.push(NUMERIC);
                number.write(into);
            }
            Value::Text(text) => {
                into.push(TEXT);
                write_slice(into, text.as_bytes());
            }
            Value::Uuid(bytes) => {
                into.push(UUID);
                into.extend_from_slice(bytes);
            }
            Value::Bytea(bytes) => {
                into.push(BYTEA);
                write_slice(into, bytes);
            }
            Value::Array(elements) => {
                into.push(ARRAY);
                into.extend_from_slice(&(elements.len() as u32).to_le_bytes());
                elements.iter().for_each(|element| element.write(into));
            }
        }
    }

    /// Reads a value from the front of `from` and moves it on; `None` if no value is there.
    pub fn read(from: &mut &[u8]) -> Option<Value> {
        let [tag] = read_array(from)?;
        let number = |from: &mut &[u8]| Some(i64::from_le_bytes(read_array(from)?));
        Some(match tag {
            NULL => Value::Null,
            FALSE => Value::Bool(false),
            TRUE => Value::Bool(true),
            INT => Value::Int(number(from)?),
            FLOAT => Value::Float(number(from)?),
            TIME => Value::Time(Instant(number(from)?)),
            NUMERIC => Value::Numeric(Box::new(Numeric::read(from)?)),
            TEXT => Value::Text(std::str::from_utf8(read_slice(from)?).ok()?.into()),
            UUID => Value::Uuid(read_array(from)?),
            BYTEA => Value::Bytea(read_slice(from)?.into()),
            ARRAY => Value::Array(read_elements(from)?.into()),
            _ => return None,
        })
    }
}

/// The elements of an array, if each is there once and in order.
fn read_elements(from: &mut &[u8]) -> Option<Vec<Value>> {
    let mut elements: Vec<Value> = Vec::new();
    for _ in 0..u32::from_le_bytes(read_array(from)?) {
        if from.first() == Some(&ARRAY) {
            return None;
        }
        let element = Value::read(from)?;
        if elements.last().is_some_and(|last| *last >= element) {
            return None;
        }
        elements.push(element);
    }
    Some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::ColumnType;

    #[track_caller]
    fn read_back(value: &Value) {
        let mut bytes = Vec::new();
        value.write(&mut bytes);
        let mut from = &bytes[..];
        assert_eq!(Value::read(&mut from).as_ref(), Some(value));
        assert!(from.is_empty());
    }

    #[test]
    fn values_of_every_kind_are_read_back() {
        let values = [
            (ColumnType::Bool, "t"),
            (ColumnType::Bool, "f"),
            (ColumnType::Int, "-9223372036854775808"),
            (ColumnType::Float8, "NaN"),
            (ColumnType::Float8, "-1.5e-300"),
            (ColumnType::Numeric, "NaN"),
            (ColumnType::Numeric, "-Infinity"),
            (ColumnType::Numeric, "Infinity"),
            (ColumnType::Numeric, "0"),
            (ColumnType::Numeric, "-120.0450"),
            (ColumnType::Numeric, "1e131071"),
            (ColumnType::Text, "ä\u{10FFFF}"),
            (ColumnType::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            (ColumnType::Bytea, "\\x00ff"),
            (ColumnType::TimestampTz, "infinity"),
            (ColumnType::Date, "4714-11-24 BC"),
        ];
        read_back(&Value::Null);
        read_back(&Value::Array([].into()));
        read_back(&Value::Array([Value::Null, Value::Int(-1), Value::Text("a".into())].into()));
        for (kind, text) in values {
            read_back(&Value::parse(&kind, text).unwrap());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_value_in_canonical_form_or_rejected(
            tag in 0u8..11,
            rest in proptest::collection::vec(0u8..12, 0..30),
        ) {
            let bytes = [&[tag], &rest[..]].concat();
            let mut from = &bytes[..];
            if let Some(value) = Value::read(&mut from) {
                let mut again = Vec::new();
                value.write(&mut again);
                proptest::prop_assert_eq!(&bytes[..bytes.len() - from.len()], &again[..]);
                if let Value::Numeric(number) = &value {
                    let parsed = Value::parse(&ColumnType::Numeric, &number.to_string());
                    proptest::prop_assert_eq!(parsed, Ok(value.clone()));
                }
            }
        }
    }
}
