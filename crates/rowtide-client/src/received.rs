//! Reads what the server sends. The columns `json` and `jsonb` hold what JSON allows, and that is more than a value of
//! this language can: numbers beyond a double, and lists within lists within lists. One such value, which anybody may
//! have written, must not keep a client from all its rows. So what cannot be held is read as a text: its own JSON.
//! What can be held is read as it is, at no cost. Pure.

use rowtide_protocol::ServerMessage;

/// How deep lists and objects are within each other at the most. The parser takes a little more.
const DEPTH: usize = 100;

/// Reads one text frame.
///
/// # Errors
/// When the text is not a message of the protocol.
pub(crate) fn read(text: &str) -> Result<ServerMessage, serde_json::Error> {
    match ServerMessage::parse(text) {
        Ok(message) => Ok(message),
        // What was wrong is said of what the server has sent.
        Err(error) => holdable(text).and_then(|text| ServerMessage::parse(&text).ok()).ok_or(error),
    }
}

/// The same JSON with texts in the place of what cannot be held; `None` where it is no JSON.
fn holdable(text: &str) -> Option<String> {
    let mut made = String::with_capacity(text.len() + 16);
    let (mut rest, mut depth) = (text, 0_usize);
    while let Some(first) = rest.bytes().next() {
        let length = match first {
            b'"' => string(rest)?,
            b'-' | b'0'..=b'9' => number(rest),
            b'{' | b'[' if depth == DEPTH => nested(rest)?,
            b'{' | b'[' => {
                depth += 1;
                1
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                1
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
        let (part, after) = rest.split_at_checked(length)?;
        let is_beyond = match first {
            b'-' | b'0'..=b'9' => part.parse::<f64>().ok()?.is_infinite(),
            b'{' | b'[' => length > 1,
            _ => false,
        };
        match is_beyond {
            true => made += &serde_json::to_string(part).ok()?,
            false => made += part,
        }
        rest = after;
    }
    Some(made)
}

/// How long the string is that a text begins with, its quotes among it.
fn string(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate().skip(1);
    loop {
        match bytes.next()? {
            (at, b'"') => return Some(at + 1),
            (_, b'\\') => drop(bytes.next()?),
            _ => {}
        }
    }
}

/// How long the number is that a text begins with.
fn number(text: &str) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
    text.bytes().take_while(is_part).count()
}

/// How long the list or object is that a text begins with.
fn nested(text: &str) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        at += match text.as_bytes().get(at)? {
            b'"' => string(text.get(at..)?)?,
            b'{' | b'[' => {
                depth += 1;
                1
            }
            b'}' | b']' if depth == 1 => return Some(at + 1),
            b'}' | b']' => {
                depth -= 1;
                1
            }
            _ => 1,
        };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn row(value: &str) -> Value {
        let frame = format!(
            r#"{{"type":"snapshot","table":"t","rows":[{{"id":1,"before":"é\"[","value":{value},"after":[1e2]}}]}}"#
        );
        match read(&frame).unwrap() {
            ServerMessage::Snapshot { mut rows, .. } => {
                let row = rows.remove(0);
                assert_eq!(row["before"], json!("é\"["));
                assert_eq!(row["after"], json!([1e2]));
                row["value"].clone()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_can_be_held_is_as_it_is() {
        for value in ["1e308", "-0", r#"{"a":[1,"1e400"]}"#, "null", r#""\\\"1e400""#] {
            assert_eq!(row(value), serde_json::from_str::<Value>(value).unwrap(), "{value}");
        }
    }

    #[test]
    fn numbers_beyond_a_double_are_texts() {
        let digits = "9".repeat(400);
        for number in ["1e400", "-1E+400", "12.5e3000", &digits] {
            assert_eq!(row(number), json!(number));
            assert_eq!(row(&format!("[1,{number},{{\"a\":{number}}}]"))[2]["a"], json!(number));
        }
    }

    #[test]
    fn what_is_too_deep_is_a_text_from_some_depth_on() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = format!("{}\"]}}\\\"\"{}", open.repeat(5_000), close.repeat(5_000));
            let mut held = &row(&deep);
            let mut depth = 0;
            while let Some(inner) = held.get(0).or_else(|| held.get("a")) {
                (held, depth) = (inner, depth + 1);
            }
            let text = held.as_str().unwrap();
            assert!((90..DEPTH).contains(&depth), "{depth}");
            assert_eq!(text.matches(open).count() + depth, 5_000);
        }
    }

    #[test]
    fn what_is_no_message_is_none() {
        for text in
            ["", "1e400", "[1e400", "{\"type\":\"tx\",1e400}", "\"1e400", "]", "{]1e400", "--1e400"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reading_is_total() {
        const PARTS: [&str; 12] =
            ["[", "]", "{", "}", "\"", "\\", ",", ":", "é", "1e400", "-", "."];
        let mut texts = vec![String::new()];
        for _ in 0..4 {
            let longer = |text: &String| PARTS.map(|part| format!("{text}{part}"));
            texts = texts.iter().flat_map(longer).collect();
            for text in &texts {
                drop(read(text));
                // What was read once is read as it is.
                let held = holdable(text);
                assert_eq!(held.as_deref().and_then(holdable), held, "{text}");
            }
        }
    }
}
