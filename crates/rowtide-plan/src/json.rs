//! The text of a Postgres output function as JSON. The text is what `pgoutput` sends, under
//! `TimeZone = UTC`, `DateStyle = ISO`, `IntervalStyle = postgres`, `bytea_output = hex`; loads are
//! written so that they get the very same text. Nothing is parsed further than its JSON needs.

use std::io::Write;

use thiserror::Error;

use crate::value::{ArrayPart, ColumnType, Int8Form, array_parts, decode_hex, split_date};

/// Text that Postgres would not have printed for the type.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("Postgres sent text that is not of the column's type")]
pub(crate) struct UnexpectedText;

/// Appends the JSON of one value; `form` is that of its integers.
///
/// # Errors
/// When the text is not what Postgres prints for `kind`; `into` may then hold a part.
pub(crate) fn push_value(
    into: &mut Vec<u8>,
    kind: &ColumnType,
    form: Int8Form,
    text: &str,
) -> Result<(), UnexpectedText> {
    match kind {
        ColumnType::Bool => into.extend_from_slice(match text {
            "t" | "true" => b"true",
            "f" | "false" => b"false",
            _ => return Err(UnexpectedText),
        }),
        ColumnType::Int => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let padded = digits.len() > 1 && digits.starts_with('0');
            if digits.is_empty() || padded || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(UnexpectedText);
            }
            match form {
                Int8Form::Number => into.extend_from_slice(text.as_bytes()),
                Int8Form::String => push_plain(into, text),
            }
        }
        ColumnType::Float4 | ColumnType::Float8 => match text {
            "NaN" | "Infinity" | "-Infinity" => push_plain(into, text),
            // `1e+20` and `1.5e-07` are JSON as they are.
            _ if text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                push_json(into, text)?;
            }
            _ => return Err(UnexpectedText),
        },
        ColumnType::Json => {
            // The stream and the loads send it as it is stored; it must not be able to end the
            // frame that it is spliced into.
            push_json(into, text)?;
        }
        ColumnType::Bytea => {
            let bytes = text.strip_prefix("\\x").and_then(decode_hex).ok_or(UnexpectedText)?;
            push_base64(into, &bytes);
        }
        ColumnType::TimestampTz | ColumnType::Timestamp | ColumnType::Date => {
            push_date(into, kind, text)?;
        }
        ColumnType::Array(element) => push_array(into, element, form, text)?,
        ColumnType::Numeric
        | ColumnType::Text
        | ColumnType::Char
        | ColumnType::Uuid
        | ColumnType::Enum
        | ColumnType::Time
        | ColumnType::Other => push_string(into, text),
    }
    Ok(())
}

/// Appends JSON as it is, if it is JSON.
fn push_json(into: &mut Vec<u8>, text: &str) -> Result<(), UnexpectedText> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|_| UnexpectedText)?;
    into.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Appends a JSON string.
pub(crate) fn push_string(into: &mut Vec<u8>, text: &str) {
    // Nearly all text is free of what must be escaped, and is found to be so many bytes at a time.
    if text.bytes().fold(true, |plain, byte| plain & !matches!(byte, b'"' | b'\\' | ..0x20)) {
        push_plain(into, text);
    } else {
        serde_json::to_writer(into, text).expect("writing text to memory does not fail");
    }
}

/// Appends a JSON string that needs no escapes.
fn push_plain(into: &mut Vec<u8>, text: &str) {
    into.push(b'"');
    into.extend_from_slice(text.as_bytes());
    into.push(b'"');
}

/// RFC 4648, with padding or without.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    if text.len() - digits.len() > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for chunk in digits.chunks(4) {
        let mut bits = 0_u32;
        for digit in chunk {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}

/// RFC 4648, with padding.
fn push_base64(into: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    into.push(b'"');
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            into.push(if digit <= chunk.len() { DIGITS[value as usize] } else { b'=' });
        }
    }
    into.push(b'"');
}

/// ISO 8601; years outside 1 to 9999 in the expanded form with a sign and six digits.
fn push_date(into: &mut Vec<u8>, kind: &ColumnType, text: &str) -> Result<(), UnexpectedText> {
    if matches!(text, "infinity" | "-infinity") {
        push_plain(into, text);
        return Ok(());
    }
    let civil = split_date(text).ok_or(UnexpectedText)?;
    let (time, zone) = match kind {
        ColumnType::Date if civil.rest.is_empty() => ("", ""),
        ColumnType::Date => return Err(UnexpectedText),
        ColumnType::TimestampTz => (civil.rest.strip_suffix("+00").ok_or(UnexpectedText)?, "Z"),
        _ => (civil.rest, ""),
    };
    let time = match time.strip_prefix(' ') {
        Some(time) => time,
        None if time.is_empty() => "",
        None => return Err(UnexpectedText),
    };
    if !time.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.')) {
        return Err(UnexpectedText);
    }
    into.push(b'"');
    match (civil.year, text.split_at_checked(4)) {
        (1..=9999, Some((year, rest))) if rest.starts_with('-') => {
            into.extend_from_slice(year.as_bytes());
        }
        (year, _) => write!(into, "{year:+07}").expect("writing to memory does not fail"),
    }
    for part in ["-", civil.month, "-", civil.day, if time.is_empty() { "" } else { "T" }] {
        into.extend_from_slice(part.as_bytes());
    }
    into.extend_from_slice(time.as_bytes());
    into.extend_from_slice(zone.as_bytes());
    into.push(b'"');
    Ok(())
}

/// `{1,NULL,"a,b"}`, `{{1,2},{3,4}}`, `[0:1]={1,2}`: bounds are left out.
fn push_array(
    into: &mut Vec<u8>,
    element: &ColumnType,
    form: Int8Form,
    text: &str,
) -> Result<(), UnexpectedText> {
    let push = |part: ArrayPart<'_>| {
        match part {
            ArrayPart::Open => into.push(b'['),
            ArrayPart::Close => into.push(b']'),
            ArrayPart::Comma => into.push(b','),
            ArrayPart::Null => into.extend_from_slice(b"null"),
            ArrayPart::Element(text) => push_value(into, element, form, &text).ok()?,
        }
        Some(())
    };
    array_parts(text, push).ok_or(UnexpectedText)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: ColumnType, text: &str, json: &str) {
        let mut bytes = Vec::new();
        push_value(&mut bytes, &kind, Int8Form::Number, text).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), json);
    }

    #[test]
    fn every_type_has_its_json() {
        check(ColumnType::Bool, "t", "true");
        check(ColumnType::Int, "-9223372036854775808", "-9223372036854775808");
        check(ColumnType::Int, "4294967295", "4294967295");
        check(ColumnType::Float8, "1e+20", "1e+20");
        check(ColumnType::Float8, "-Infinity", r#""-Infinity""#);
        check(ColumnType::Numeric, "12345678901234567890.10", r#""12345678901234567890.10""#);
        check(ColumnType::Json, r#"{"a" : [1, null]}"#, r#"{"a" : [1, null]}"#);
        let deep = format!("{}1{}", "[".repeat(4_000), "]".repeat(4_000));
        check(ColumnType::Json, &deep, &deep);
        check(ColumnType::Bytea, "\\x", r#""""#);
        check(ColumnType::Bytea, "\\x00", r#""AA==""#);
        check(ColumnType::Bytea, "\\x0001", r#""AAE=""#);
        check(ColumnType::Bytea, "\\xfffefd", r#""//79""#);
        check(ColumnType::TimestampTz, "2024-02-29 12:34:56.7+00", r#""2024-02-29T12:34:56.7Z""#);
        check(ColumnType::Timestamp, "0044-03-15 00:00:00 BC", r#""-000043-03-15T00:00:00""#);
        check(ColumnType::Date, "12024-01-01", r#""+012024-01-01""#);
        check(ColumnType::Date, "5874897-12-31", r#""+5874897-12-31""#);
        check(ColumnType::Date, "infinity", r#""infinity""#);
        check(ColumnType::Time, "24:00:00", r#""24:00:00""#);
        check(ColumnType::Other, "1 day \"x\"\n", r#""1 day \"x\"\n""#);
    }

    #[test]
    fn integers_may_be_strings() {
        let strings = |kind, text: &str| {
            let mut bytes = Vec::new();
            push_value(&mut bytes, &kind, Int8Form::String, text).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(strings(ColumnType::Int, "-9223372036854775808"), r#""-9223372036854775808""#);
        let array = ColumnType::Array(Box::new(ColumnType::Int));
        assert_eq!(strings(array, "{{1,NULL},{3,4}}"), r#"[["1",null],["3","4"]]"#);
        assert_eq!(strings(ColumnType::Float8, "1.5"), "1.5", "no integer");
    }

    #[test]
    fn arrays_become_arrays() {
        let array = |kind| ColumnType::Array(Box::new(kind));
        check(array(ColumnType::Int), "{}", "[]");
        check(array(ColumnType::Int), "{1,NULL,3}", "[1,null,3]");
        check(array(ColumnType::Int), "[0:1]={1,2}", "[1,2]");
        check(array(ColumnType::Int), "{{1,2},{3,4}}", "[[1,2],[3,4]]");
        check(
            array(ColumnType::Text),
            r#"{a,"NULL","b,\"c\\","",é}"#,
            r#"["a","NULL","b,\"c\\","","é"]"#,
        );
        check(array(ColumnType::Bytea), r#"{"\\x00"}"#, r#"["AA=="]"#);
        check(
            array(ColumnType::TimestampTz),
            r#"{"2024-01-01 00:00:00+00"}"#,
            r#"["2024-01-01T00:00:00Z"]"#,
        );
    }

    #[test]
    fn text_that_is_not_of_the_type_is_rejected() {
        let array = |kind| ColumnType::Array(Box::new(kind));
        let rejected = [
            (ColumnType::Bool, "yes"),
            (ColumnType::Int, "01"),
            (ColumnType::Int, ""),
            (ColumnType::Float8, "1e"),
            (ColumnType::Float8, "{}"),
            (ColumnType::Json, "{}}, {"),
            (ColumnType::Bytea, "\\x0"),
            (ColumnType::Bytea, "abc"),
            (ColumnType::TimestampTz, "2024-01-01 00:00:00+01"),
            (ColumnType::Date, "2024-01-01\""),
            (ColumnType::Timestamp, "2024-01-01 00:00\":00"),
            (array(ColumnType::Int), "{1,}"),
            (array(ColumnType::Int), "{1,,2}"),
            (array(ColumnType::Int), "{1}}"),
            (array(ColumnType::Int), "{{1}"),
            (array(ColumnType::Int), "{{{{{{{1}}}}}}}"),
            (array(ColumnType::Text), "{\"a"),
            (array(ColumnType::Text), ""),
        ];
        for (kind, text) in rejected {
            let answer = push_value(&mut Vec::new(), &kind, Int8Form::String, text);
            assert_eq!(answer, Err(UnexpectedText), "{kind:?} {text:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4_000))]

        #[test]
        fn whatever_is_accepted_is_json(text in "[{}\\[\\]\",\\\\a01:=N +.-]{0,24}", kind in 0usize..9, strings: bool) {
            use ColumnType::*;
            let form = if strings { Int8Form::String } else { Int8Form::Number };
            let kinds = [
                Bool, Int, Float8, Json, Bytea, TimestampTz, Date, Array(Box::new(Int)),
                Array(Box::new(Other)),
            ];
            let mut bytes = Vec::new();
            if push_value(&mut bytes, &kinds[kind], form, &text).is_ok() {
                serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
            }
        }
    }
}
