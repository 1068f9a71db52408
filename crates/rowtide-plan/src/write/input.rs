//! Turns the JSON of a mutation into the text that Postgres reads. The forms are those of the stream and the
//! loads, in the other direction. A value that is wrong in a way that Rowtide can see is rejected here,
//! because Postgres would not say which column it was for.

use serde_json::value::RawValue;

use crate::calls::ParamKind;
use crate::catalog::CatalogColumn;
use crate::json::decode_base64;
use crate::value::{ColumnType, MAX_DIMENSIONS, Value};

/// How deep a value of a JSON column may be. Clients read rows with parsers that have a limit, of which
/// 128 levels is a common one, and a row is some levels deep in its message.
const MAX_JSON_DEPTH: usize = 100;

/// The text of a value for a column; `None` for null.
///
/// # Errors
/// What the column takes instead.
pub(super) fn text_of(column: &CatalogColumn, json: &RawValue) -> Result<Option<String>, String> {
    let type_name = &column.input.type_name;
    let text = text_of_kind(&column.kind, type_name, &column.labels, json.get().trim())?;
    if let (Some(max), Some(text)) = (column.input.max_chars, &text)
        && text.trim_end_matches(' ').chars().count() > max as usize
    {
        return Err(format!("text of at most {max} characters"));
    }
    Ok(text)
}

/// As [`text_of`], for a parameter.
pub(super) fn text_of_param(param: &ParamKind, json: &RawValue) -> Result<Option<String>, String> {
    // Columns have the names of types that SQL has.
    let type_name = match param.name.trim_start_matches('_') {
        "int2" => "smallint",
        "int4" => "integer",
        other => other,
    };
    // Which labels an enum has Postgres says each time: there may be more than when it was asked.
    text_of_kind(&param.kind, type_name, &[], json.get().trim())
}

fn text_of_kind(
    kind: &ColumnType,
    type_name: &str,
    labels: &[String],
    json: &str,
) -> Result<Option<String>, String> {
    if json == "null" {
        return Ok(None);
    }
    let wanted = |what: &str| what.to_owned();
    let string = || -> Option<String> { serde_json::from_str(json).ok() };
    // No text of Postgres' holds NUL.
    let text = || string().filter(|text| !text.contains('\0'));
    let text = match kind {
        ColumnType::Bool => {
            matches!(json, "true" | "false").then(|| json.to_owned()).ok_or(wanted("true or false"))
        }
        ColumnType::Int => {
            let (min, max) = match type_name {
                "smallint" => (i64::from(i16::MIN), i64::from(i16::MAX)),
                "integer" => (i64::from(i32::MIN), i64::from(i32::MAX)),
                "oid" => (0, i64::from(u32::MAX)),
                // Beyond 2^53 some clients have it as a string alone.
                _ => (i64::MIN, i64::MAX),
            };
            let digits = match (min, string()) {
                (i64::MIN, Some(digits)) => digits,
                _ => json.to_owned(),
            };
            let fits = digits.parse::<i64>().is_ok_and(|number| (min..=max).contains(&number));
            let unsigned = digits.strip_prefix('-').unwrap_or(&digits);
            let plain = unsigned.bytes().all(|b| b.is_ascii_digit());
            (fits && plain)
                .then_some(digits)
                .ok_or_else(|| format!("a whole number from {min} to {max}"))
        }
        ColumnType::Float4 | ColumnType::Float8 => {
            let named = string().filter(|t| matches!(t.as_str(), "NaN" | "Infinity" | "-Infinity"));
            let number = || {
                let number = json.starts_with(|c: char| c == '-' || c.is_ascii_digit());
                (number && Value::parse(kind, json).is_ok()).then(|| json.to_owned())
            };
            named.or_else(number).ok_or(wanted("a number, \"NaN\", \"Infinity\" or \"-Infinity\""))
        }
        ColumnType::Numeric => string()
            .filter(|text| Value::parse(kind, text).is_ok())
            .ok_or(wanted("a number in a string, such as \"12.50\"")),
        ColumnType::Text | ColumnType::Char | ColumnType::Other => {
            text().ok_or(wanted("a string without NUL"))
        }
        ColumnType::Uuid => text()
            .filter(|text| Value::parse(kind, text).is_ok())
            .ok_or(wanted("a string that is a UUID")),
        ColumnType::Enum => text()
            .filter(|text| labels.is_empty() || labels.contains(text))
            .ok_or_else(|| format!("one of {}", labels.join(", "))),
        ColumnType::Json => {
            let most = MAX_JSON_DEPTH;
            let wanted =
                || format!("JSON of at most {most} levels, without NUL and half characters");
            is_for_all(json).then(|| json.to_owned()).ok_or_else(wanted)
        }
        ColumnType::Bytea => string()
            .and_then(|text| decode_base64(&text))
            .map(|bytes| {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("\\x{hex}")
            })
            .ok_or(wanted("a string of base64")),
        ColumnType::TimestampTz | ColumnType::Timestamp | ColumnType::Date | ColumnType::Time => {
            text().and_then(|text| time(kind, &text)).ok_or(wanted(match kind {
                ColumnType::TimestampTz => "a time such as \"2026-01-31T12:00:00Z\"",
                ColumnType::Timestamp => "a time such as \"2026-01-31T12:00:00\"",
                ColumnType::Date => "a date such as \"2026-01-31\"",
                _ => "a time such as \"12:00:00\"",
            }))
        }
        ColumnType::Array(element) => {
            let element_name = type_name.trim_end_matches("[]");
            return array(element, element_name, labels, json, 1).map(Some);
        }
    };
    text.map(Some)
}

fn array(
    kind: &ColumnType,
    type_name: &str,
    labels: &[String],
    json: &str,
    depth: usize,
) -> Result<String, String> {
    let wanted = || format!("an array of at most {MAX_DIMENSIONS} dimensions");
    if depth > MAX_DIMENSIONS {
        return Err(wanted());
    }
    let elements: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| wanted())?;
    let mut literal = "{".to_owned();
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            literal.push(',');
        }
        let json = element.get().trim();
        // A value of a JSON column may itself be an array.
        if json.starts_with('[') && *kind != ColumnType::Json {
            literal += &array(kind, type_name, labels, json, depth + 1)?;
            continue;
        }
        let text = text_of_kind(kind, type_name, labels, json)
            .map_err(|wanted| format!("an array, each of it {wanted}"))?;
        match text {
            None => literal += "NULL",
            Some(text) => {
                literal.push('"');
                for character in text.chars() {
                    if matches!(character, '"' | '\\') {
                        literal.push('\\');
                    }
                    literal.push(character);
                }
                literal.push('"');
            }
        }
    }
    literal.push('}');
    Ok(literal)
}

/// ISO 8601 as Postgres reads it.
fn time(kind: &ColumnType, text: &str) -> Option<String> {
    if matches!(text, "infinity" | "-infinity") && *kind != ColumnType::Time {
        return Some(text.to_owned());
    }
    let plain =
        |c: char| c.is_ascii_digit() || matches!(c, 'T' | ' ' | ':' | '.' | '+' | '-' | 'Z');
    if !text.chars().all(plain) {
        return None;
    }
    let (mut text, era) = match kind {
        ColumnType::Time => (text.to_owned(), ""),
        _ => postgres_year(text)?,
    };
    let zone = |text: &str| {
        let time = text.split_once([' ', 'T'])?.1;
        Some(time.ends_with('Z') || time.contains(['+', '-']))
    };
    if *kind == ColumnType::TimestampTz && zone(&text) != Some(true) {
        return None;
    }
    if text.ends_with('Z') {
        text.pop();
        text += "+00";
    }
    let text = text.replacen('T', " ", 1) + era;
    Value::parse(kind, &text).is_ok().then_some(text)
}

/// The expanded years of ISO 8601 (a sign and six digits) as Postgres writes them, and the era, which
/// it writes behind everything else.
fn postgres_year(text: &str) -> Option<(String, &'static str)> {
    let Some(sign) = text.chars().next().filter(|c| matches!(c, '+' | '-')) else {
        return Some((text.to_owned(), ""));
    };
    let (year, rest) = text[1..].split_once('-')?;
    let year: i64 = year.parse().ok().filter(|year| (0..=9_999_999).contains(year))?;
    Some(match sign {
        '+' => (format!("{year:04}-{rest}"), ""),
        // The year 0 is 1 BC.
        _ => (format!("{:04}-{rest}", year + 1), " BC"),
    })
}

/// Whether Postgres can hold this JSON and every client can read it: no NUL, no half of a surrogate
/// pair, not too deep.
fn is_for_all(json: &str) -> bool {
    let bytes = json.as_bytes();
    let escape = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut at, mut depth, mut in_string) = (0, 0_usize, false);
    while at < bytes.len() {
        match (bytes[at], in_string) {
            (b'"', _) => in_string = !in_string,
            (b'\\', _) => match escape(at) {
                Some(0 | 0xDC00..=0xDFFF) => return false,
                Some(0xD800..=0xDBFF) => {
                    if !matches!(escape(at + 6), Some(0xDC00..=0xDFFF)) {
                        return false;
                    }
                    at += 11;
                }
                Some(_) => at += 5,
                None => at += 1,
            },
            (b'[' | b'{', false) => depth += 1,
            // More closed than opened is no JSON at all.
            (b']' | b'}', false) => match depth.checked_sub(1) {
                Some(outer) => depth = outer,
                None => return false,
            },
            _ => {}
        }
        if depth > MAX_JSON_DEPTH {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::Int8Form;

    fn read(kind: ColumnType, type_name: &str, json: &str) -> Result<Option<String>, String> {
        text_of_kind(&kind, type_name, &[], json)
    }

    #[test]
    fn values_are_read_in_the_forms_in_which_they_are_sent() {
        use ColumnType::{
            Array, Bool, Bytea, Float8, Int, Json, Numeric, Text, Timestamp, TimestampTz,
        };
        let ints = Array(Box::new(Int));
        for (kind, type_name, json, text) in [
            (Bool, "boolean", "true", "true"),
            (Int, "bigint", "-9223372036854775808", "-9223372036854775808"),
            (Int, "bigint", "\"9223372036854775807\"", "9223372036854775807"),
            (Array(Box::new(Int)), "bigint[]", "[1, \"2\", null]", r#"{"1","2",NULL}"#),
            (Float8, "double precision", "1.5e-7", "1.5e-7"),
            (Float8, "double precision", "\"NaN\"", "NaN"),
            (Numeric, "numeric", "\"12.50\"", "12.50"),
            (Text, "text", r#""a\"b\u00e9""#, "a\"bé"),
            (Json, "jsonb", r#"{"a": 1e400}"#, r#"{"a": 1e400}"#),
            (Bytea, "bytea", "\"AAH/\"", "\\x0001ff"),
            (Bytea, "bytea", "\"AA==\"", "\\x00"),
            (TimestampTz, "timestamptz", "\"2026-01-31T12:00:00.5Z\"", "2026-01-31 12:00:00.5+00"),
            (
                TimestampTz,
                "timestamptz",
                "\"2026-01-31T12:00:00+02:00\"",
                "2026-01-31 12:00:00+02:00",
            ),
            (
                TimestampTz,
                "timestamptz",
                "\"-000043-03-15T12:00:00Z\"",
                "0044-03-15 12:00:00+00 BC",
            ),
            (Timestamp, "timestamp", "\"+012026-01-31T12:00:00\"", "12026-01-31 12:00:00"),
            (ints.clone(), "integer[]", "[[1,null],[3,4]]", r#"{{"1",NULL},{"3","4"}}"#),
            (Array(Box::new(Text)), "text[]", r#"["a\"b\\", ""]"#, r#"{"a\"b\\",""}"#),
        ] {
            assert_eq!(read(kind, type_name, json), Ok(Some(text.to_owned())), "{json}");
        }
        assert_eq!(read(ints, "integer[]", "null"), Ok(None));
    }

    #[test]
    fn what_does_not_fit_is_told_what_would() {
        use ColumnType::{
            Array, Bool, Bytea, Date, Enum, Float4, Int, Json, Numeric, Text, TimestampTz, Uuid,
        };
        for (kind, type_name, json) in [
            (Bool, "boolean", "\"true\""),
            (Int, "smallint", "32768"),
            (Int, "integer", "1.0"),
            (Int, "integer", "\"1\""),
            (Int, "bigint", "9223372036854775808"),
            (Int, "bigint", "\"9223372036854775808\""),
            (Int, "bigint", "\"\""),
            (Int, "bigint", "\" 1\""),
            (Int, "bigint", "\"+1\""),
            (Int, "bigint", "\"1.0\""),
            (Array(Box::new(Int)), "smallint[]", "[\"1\"]"),
            (Float4, "real", "1e39"),
            (Numeric, "numeric", "12.5"),
            (Text, "text", "\"a\\u0000b\""),
            (Text, "text", "5"),
            (Uuid, "uuid", "\"'; DROP TABLE file; --\""),
            (Json, "jsonb", r#"{"a":"\u0000"}"#),
            (Json, "json", r#""\ud83d""#),
            (Json, "json", "]"),
            (Json, "json", r#""\ud83d\ud83d\ude00""#),
            (Json, "json", &"[".repeat(MAX_JSON_DEPTH + 1)),
            (Array(Box::new(Int)), "integer[]", "[[[[[[[1]]]]]]]"),
            (Bytea, "bytea", "\"A\""),
            (Date, "date", "\"2026-02-30\""),
            (Date, "date", "\"now\""),
            (TimestampTz, "timestamptz", "\"2026-01-31T12:00:00\""),
            (Array(Box::new(Int)), "integer[]", "[\"x\"]"),
            (Array(Box::new(Int)), "integer[]", "1"),
        ] {
            assert!(read(kind, type_name, json).is_err(), "{json} as {type_name}");
        }
        let labels = ["open".to_owned()];
        assert!(text_of_kind(&Enum, "status", &labels, "\"shut\"").unwrap_err().contains("open"));
        for fits in
            [r#""\\u0000""#, r#""\ud83d\ude00 \u0001 \" [""#, &"[]".repeat(MAX_JSON_DEPTH + 1)]
        {
            assert_eq!(read(Json, "jsonb", fits), Ok(Some(fits.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn base64_is_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut json = Vec::new();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            crate::json::push_value(&mut json, &ColumnType::Bytea, Int8Form::Number, &format!("\\x{hex}")).unwrap();
            let text: String = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(decode_base64(&text), Some(bytes));
        }

        #[test]
        fn reading_is_total(json in "\\PC{0,40}", kind in 0usize..16) {
            use ColumnType::*;
            let kinds = [Bool, Int, Float4, Float8, Numeric, Text, Char, Uuid, Enum, Json, Bytea,
                         TimestampTz, Timestamp, Date, Time, Array(Box::new(Json))];
            drop(read(kinds[kind].clone(), "x", &json));
            let quoted = serde_json::to_string(&json).unwrap();
            drop(read(kinds[kind].clone(), "x", &quoted));
        }
    }
}
