//! Values as the server compares them. A value is read from the text that Postgres prints, or that a
//! person wrote, and is brought to one form, so that equality and hashing agree with Postgres' `=`
//! for the type: `1.0` and `1.00` are one numeric, `char(n)` has no trailing blanks, all `NaN` are
//! equal. Parsing is total.

mod array;
mod array_text;
mod bytes;
mod calendar;
mod cast;
mod family;
mod numeric;
mod parts;

use std::cmp::Ordering;
use std::str::FromStr;

use thiserror::Error;

pub use array::MAX_CLAIM_ELEMENTS;
pub(crate) use array_text::{ArrayPart, MAX_DIMENSIONS, array_parts};
pub(crate) use calendar::split_date;
pub use calendar::{Instant, rfc3339};
use calendar::{parse_date, parse_time, parse_timestamp};
pub use family::Family;
pub use numeric::Numeric;

/// What a column's type means to Rowtide: how its text becomes JSON, and whether rules can compare
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// `bool`
    Bool,
    /// `int2`, `int4`, `int8`, `oid`
    Int,
    /// `float4`
    Float4,
    /// `float8`
    Float8,
    /// `numeric`
    Numeric,
    /// `text`, `varchar`, `name`
    Text,
    /// `char(n)`: trailing blanks do not count
    Char,
    /// `uuid`
    Uuid,
    /// An enum type.
    Enum,
    /// `json`, `jsonb`
    Json,
    /// `bytea`
    Bytea,
    /// `timestamptz`
    TimestampTz,
    /// `timestamp`
    Timestamp,
    /// `date`
    Date,
    /// `time`
    Time,
    /// An array of one of these, and the delimiter of its text.
    Array(Box<ColumnType>),
    /// Anything else: a string as Postgres prints it.
    Other,
}

/// How the `int8` of rows are written in JSON. Who writes may use either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Int8Form {
    /// A number with all of its digits, of which a reader with doubles loses some beyond 2^53.
    #[default]
    Number,
    /// A string of digits.
    String,
}

impl ColumnType {
    /// The type of a column whose base type is `pg_catalog.<name>`; `typtype` is
    /// `pg_type.typtype`. Types of other schemas are [`ColumnType::Enum`] or [`ColumnType::Other`].
    pub fn of(name: &str, typtype: char, builtin: bool) -> ColumnType {
        match (typtype, name) {
            ('e', _) => ColumnType::Enum,
            _ if !builtin => ColumnType::Other,
            (_, "bool") => ColumnType::Bool,
            (_, "int2" | "int4" | "int8" | "oid") => ColumnType::Int,
            (_, "float4") => ColumnType::Float4,
            (_, "float8") => ColumnType::Float8,
            (_, "numeric") => ColumnType::Numeric,
            (_, "text" | "varchar" | "name") => ColumnType::Text,
            (_, "bpchar") => ColumnType::Char,
            (_, "uuid") => ColumnType::Uuid,
            (_, "json" | "jsonb") => ColumnType::Json,
            (_, "bytea") => ColumnType::Bytea,
            (_, "timestamptz") => ColumnType::TimestampTz,
            (_, "timestamp") => ColumnType::Timestamp,
            (_, "date") => ColumnType::Date,
            (_, "time") => ColumnType::Time,
            _ => ColumnType::Other,
        }
    }
}

/// A value of a column that a rule needs, in canonical form. The derived order is for maps only; see
/// [`Value::compare`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// SQL `NULL`.
    Null,
    /// `bool`.
    Bool(bool),
    /// `int2`, `int4`, `int8`, `oid`.
    Int(i64),
    /// The bits of a double, ordered as a signed number: see [`Value::float`].
    Float(i64),
    /// `numeric`.
    Numeric(Box<Numeric>),
    /// Text, enum labels, `char(n)` without trailing blanks.
    Text(Box<str>),
    /// `uuid`.
    Uuid([u8; 16]),
    /// `bytea`.
    Bytea(Box<[u8]>),
    /// `timestamptz`, `timestamp`, `date` and `time`: microseconds (days for `date`).
    Time(Instant),
    /// The elements of an array, each once, in the order of maps; null may be one, an array is none.
    Array(Box<[Value]>),
}

/// The text is not a value of the type.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{text}` is not a value of this type")]
pub struct InvalidValue {
    /// The text, cut to 40 characters.
    pub text: String,
}

impl InvalidValue {
    pub(crate) fn new(text: &str) -> InvalidValue {
        InvalidValue { text: text.chars().take(40).collect() }
    }
}

impl Value {
    /// Reads what Postgres prints for a value of `kind` (ISO dates, UTC, hexadecimal `bytea`), and
    /// dates and times as ISO 8601 has them. What is read can be handed to Postgres again: claims go
    /// into loads that many users share, and one that Postgres rejects would fail them all.
    ///
    /// # Errors
    /// When the text is not such a value, is out of the type's range, or rules cannot compare the
    /// type.
    pub fn parse(kind: &ColumnType, text: &str) -> Result<Value, InvalidValue> {
        if let Some(element) = kind.element() {
            return Value::parse_array(element, text);
        }
        let read = || {
            Some(match kind {
                ColumnType::Bool => match text {
                    "t" | "true" => Value::Bool(true),
                    "f" | "false" => Value::Bool(false),
                    _ => return None,
                },
                ColumnType::Int => Value::Int(text.parse().ok()?),
                // A `float4` is compared with a `float8` as what it is exactly, not as it is printed.
                ColumnType::Float4 => Value::float(f64::from(parse_float::<f32>(text)?)),
                ColumnType::Float8 => Value::float(parse_float::<f64>(text)?),
                ColumnType::Numeric => Value::Numeric(Box::new(Numeric::parse(text)?)),
                // No text of Postgres' holds NUL.
                ColumnType::Text | ColumnType::Enum | ColumnType::Char if text.contains('\0') => {
                    return None;
                }
                ColumnType::Text | ColumnType::Enum => Value::Text(text.into()),
                ColumnType::Char => Value::Text(text.trim_end_matches(' ').into()),
                ColumnType::Uuid => Value::Uuid(parse_uuid(text)?),
                ColumnType::Bytea => Value::Bytea(decode_hex(text.strip_prefix("\\x")?)?.into()),
                ColumnType::TimestampTz => Value::Time(parse_timestamp(text, true)?),
                ColumnType::Timestamp => Value::Time(parse_timestamp(text, false)?),
                ColumnType::Date => Value::Time(parse_date(text)?),
                ColumnType::Time => Value::Time(parse_time(text)?),
                ColumnType::Json | ColumnType::Array(_) | ColumnType::Other => return None,
            })
        };
        read().ok_or_else(|| InvalidValue::new(text))
    }

    /// A claim as a value of `kind`; null if it does not fit. As text a claim is what `->>` makes of
    /// JSON, so that only a claim that is not there, or is JSON's null, is null. Of a type that rules
    /// cannot compare a claim is `true`, if it is there.
    pub fn from_claim(kind: &ColumnType, claim: &serde_json::Value) -> Value {
        use serde_json::Value as Json;
        if claim.is_null() {
            return Value::Null;
        }
        if let Some(element) = kind.element() {
            return Value::array_of_claim(element, claim);
        }
        let parsed = match (claim, kind) {
            _ if kind.family().is_none() => return Value::Bool(true),
            (Json::Bool(value), ColumnType::Bool) => return Value::Bool(*value),
            (Json::String(text), ColumnType::Bool) => {
                // Postgres takes more spellings, but a token is not a person typing.
                matches!(text.as_str(), "true" | "false").then(|| Value::Bool(text == "true"))
            }
            (Json::String(text), _) => Value::parse(kind, text).ok(),
            (_, ColumnType::Text | ColumnType::Char) => Value::parse(kind, &claim.to_string()).ok(),
            (
                Json::Number(number),
                ColumnType::Int | ColumnType::Float4 | ColumnType::Float8 | ColumnType::Numeric,
            ) => Value::parse(kind, &number.to_string()).ok(),
            _ => None,
        };
        parsed.unwrap_or(Value::Null)
    }

    /// A double in canonical form: one zero, one `NaN`.
    pub fn float(number: f64) -> Value {
        let number = if number.is_nan() {
            f64::NAN.abs()
        } else if number == 0.0 {
            0.0
        } else {
            number
        };
        // As in `f64::total_cmp`: the bits of negative numbers are turned over but for the sign.
        let bits = number.to_bits() as i64;
        Value::Float(bits ^ (((bits >> 63) as u64) >> 1) as i64)
    }

    /// Whether it is SQL `NULL`.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// How two values of one family compare in Postgres; `None` if one is null, or they are of
    /// different families. `NaN` is the greatest number.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        Some(match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Int(a), Value::Int(b)) | (Value::Float(a), Value::Float(b)) => a.cmp(b),
            (Value::Numeric(a), Value::Numeric(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            (Value::Uuid(a), Value::Uuid(b)) => a.cmp(b),
            (Value::Bytea(a), Value::Bytea(b)) => a.cmp(b),
            (Value::Time(a), Value::Time(b)) => a.cmp(b),
            _ => return None,
        })
    }

    /// Text that Postgres reads back as this value; `None` for null. Uuids and integers are as Postgres prints them. `kind` tells
    /// times apart.
    pub fn to_text(&self, kind: &ColumnType) -> Option<String> {
        Some(match self {
            Value::Null => return None,
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(bits) => {
                let bits = bits ^ (((bits >> 63) as u64) >> 1) as i64;
                let number = f64::from_bits(bits as u64);
                match number {
                    _ if number.is_nan() => "NaN".to_owned(),
                    f64::INFINITY => "Infinity".to_owned(),
                    f64::NEG_INFINITY => "-Infinity".to_owned(),
                    _ => format!("{number:e}"),
                }
            }
            Value::Numeric(number) => number.to_string(),
            Value::Text(text) => text.to_string(),
            Value::Uuid(bytes) => encode_uuid(bytes),
            Value::Bytea(bytes) => format!("\\x{}", encode_hex(bytes)),
            Value::Time(instant) => instant.to_text(kind),
            Value::Array(elements) => array::to_text(elements, kind),
        })
    }
}

/// Finite numbers, and the three others by the names that Postgres prints.
fn parse_float<T: FromStr + Into<f64> + Copy>(text: &str) -> Option<T> {
    let named = matches!(text, "NaN" | "Infinity" | "-Infinity");
    let number: T = text.parse().ok()?;
    (named || number.into().is_finite()).then_some(number)
}

/// 32 hexadecimal digits, with hyphens anywhere.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut count = 0;
    for digit in text.bytes().filter(|byte| *byte != b'-') {
        let byte = bytes.get_mut(count / 2)?;
        *byte = *byte << 4 | hex_digit(digit)?;
        count += 1;
    }
    (count == 32).then_some(bytes)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// `None` if the text is not an even number of hexadecimal digits.
pub(crate) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(hex_digit(pair[0])? << 4 | hex_digit(*pair.get(1)?)?)).collect()
}

/// With hyphens between groups of 8, 4, 4, 4 and 12 digits (RFC 9562, 4), as Postgres prints it.
fn encode_uuid(bytes: &[u8; 16]) -> String {
    let (a, rest) = bytes.split_at(4);
    let (b, rest) = rest.split_at(2);
    let (c, rest) = rest.split_at(2);
    let (d, e) = rest.split_at(2);
    [a, b, c, d, e].map(encode_hex).join("-")
}

/// Two hexadecimal digits for each byte.
pub(crate) fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn same(kind: ColumnType, a: &str, b: &str) {
        assert_eq!(Value::parse(&kind, a).unwrap(), Value::parse(&kind, b).unwrap());
    }

    #[track_caller]
    fn less(kind: ColumnType, a: &str, b: &str) {
        let (a, b) = (Value::parse(&kind, a).unwrap(), Value::parse(&kind, b).unwrap());
        assert_eq!(a.compare(&b), Some(Ordering::Less), "{a:?} {b:?}");
    }

    #[test]
    fn values_are_equal_when_postgres_says_so() {
        same(ColumnType::Numeric, "1.0", "1.00");
        same(ColumnType::Numeric, "-0.0", "0");
        same(ColumnType::Numeric, "100", "1e2");
        same(ColumnType::Float8, "-0", "0");
        same(ColumnType::Char, "a  ", "a");
        same(
            ColumnType::Uuid,
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        );
        same(ColumnType::TimestampTz, "2024-01-01 00:00:00+00", "2024-01-01T01:00:00+01:00");
        same(ColumnType::TimestampTz, "2024-01-01 00:00:00+00", "2024-01-01T00:00:00Z");
    }

    #[test]
    fn values_are_ordered_as_in_postgres() {
        less(ColumnType::Numeric, "9.99", "10");
        less(ColumnType::Numeric, "-10", "-9.99");
        less(ColumnType::Numeric, "0.09", "0.1");
        less(ColumnType::Numeric, "Infinity", "NaN");
        less(ColumnType::Numeric, "-Infinity", "-1e300");
        less(ColumnType::Float8, "-1.5", "-1.25");
        less(ColumnType::Float8, "1e300", "Infinity");
        less(ColumnType::Float8, "Infinity", "NaN");
        less(ColumnType::Date, "0044-03-15 BC", "0001-01-01");
        less(ColumnType::TimestampTz, "-infinity", "4713-01-01 00:00:00+00 BC");
        less(ColumnType::Timestamp, "12024-01-01 00:00:00", "infinity");
        less(ColumnType::Time, "23:59:59.999999", "24:00:00");
    }

    #[test]
    fn null_is_not_comparable_and_claims_that_do_not_fit_are_null() {
        assert_eq!(Value::Null.compare(&Value::Int(1)), None);
        let claim = |kind, json: serde_json::Value| Value::from_claim(&kind, &json);
        assert_eq!(claim(ColumnType::Int, 42.into()), Value::Int(42));
        assert_eq!(claim(ColumnType::Int, "42".into()), Value::Int(42));
        assert_eq!(claim(ColumnType::Int, "42; drop".into()), Value::Null);
        assert_eq!(claim(ColumnType::Int, serde_json::json!([42])), Value::Null);
        assert_eq!(claim(ColumnType::Uuid, true.into()), Value::Null);
    }

    #[test]
    fn a_claim_that_is_there_is_not_null_as_text() {
        let text = |json: serde_json::Value| Value::from_claim(&ColumnType::Text, &json);
        assert_eq!(text(true.into()), Value::Text("true".into()));
        assert_eq!(text(serde_json::json!(["a"])), Value::Text(r#"["a"]"#.into()));
        assert_eq!(text(serde_json::Value::Null), Value::Null);
        let there = Value::from_claim(&ColumnType::Json, &serde_json::json!("\0"));
        assert_eq!(there, Value::Bool(true));
    }

    #[test]
    fn what_postgres_would_reject_is_rejected() {
        let rejected = [
            (ColumnType::Text, "a\0b"),
            (ColumnType::Enum, "\0"),
            (ColumnType::Int, "9223372036854775808"),
            (ColumnType::Float4, "1e39"),
            (ColumnType::Float8, "inf"),
            (ColumnType::Numeric, "1e131072"),
            (ColumnType::Numeric, "1e-16384"),
            (ColumnType::Numeric, "1e2147483647"),
            (ColumnType::TimestampTz, "294277-01-01 00:00:00+00"),
            (ColumnType::TimestampTz, "4714-11-23 23:59:59.999999+00 BC"),
            (ColumnType::TimestampTz, "2024-01-01 00:00:00+99"),
            (ColumnType::Date, "5874898-01-01"),
            (ColumnType::Date, "4714-11-23 BC"),
            (ColumnType::Date, "2023-02-29"),
            (ColumnType::Time, "24:00:00.000001"),
        ];
        for (kind, text) in rejected {
            assert!(Value::parse(&kind, text).is_err(), "{kind:?} {text:?}");
        }
    }

    #[test]
    fn the_ends_of_the_calendar_are_read_and_written() {
        let ends = [
            (ColumnType::TimestampTz, "294276-12-31 23:59:59.999999+00"),
            (ColumnType::TimestampTz, "4714-11-24 00:00:00.000000+00 BC"),
            (ColumnType::Timestamp, "294276-12-31 23:59:59.999999"),
            (ColumnType::Date, "5874897-12-31"),
            (ColumnType::Date, "4714-11-24 BC"),
        ];
        for (kind, text) in ends {
            let value = Value::parse(&kind, text).unwrap();
            assert_eq!(value.to_text(&kind).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_value_is_small() {
        assert!(size_of::<Value>() <= 24);
    }

    proptest::proptest! {
        #[test]
        fn parsing_is_total(text in "\\PC{0,30}", kind in 0usize..13) {
            use ColumnType::*;
            let kinds = [
                Bool, Int, Float8, Numeric, Text, Char, Uuid, Enum, Bytea, TimestampTz, Timestamp,
                Date, Time,
            ];
            let kind = &kinds[kind];
            if let Ok(value) = Value::parse(kind, &text) {
                let again = value.to_text(kind).unwrap();
                proptest::prop_assert_eq!(Value::parse(kind, &again), Ok(value));
            }
        }

        #[test]
        fn times_are_read_back(text in "[0-9]{1,6}-[0-9]{1,2}-[0-9]{1,2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,6})?(\\+00)?( BC)?") {
            for kind in [ColumnType::TimestampTz, ColumnType::Timestamp] {
                if let Ok(value) = Value::parse(&kind, &text) {
                    let again = value.to_text(&kind).unwrap();
                    proptest::prop_assert_eq!(Value::parse(&kind, &again), Ok(value));
                }
            }
        }
    }
}
