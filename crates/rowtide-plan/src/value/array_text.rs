//! The text of arrays, as Postgres prints it: `{1,NULL,"a,b"}`, `{{1,2},{3,4}}`, `[0:1]={1,2}`. It is read part by part, for
//! whoever makes something of it. Reading is total.

use std::borrow::Cow;

/// How many dimensions an array of Postgres' may have.
pub(crate) const MAX_DIMENSIONS: usize = 6;

/// A part of an array's text.
pub(crate) enum ArrayPart<'a> {
    Open,
    Close,
    Comma,
    Null,
    /// Without its quotes.
    Element(Cow<'a, str>),
}

/// Calls `on` with each part; bounds are left out. `None` where the text is no array, or `on` says so.
pub(crate) fn array_parts(
    text: &str,
    mut on: impl FnMut(ArrayPart<'_>) -> Option<()>,
) -> Option<()> {
    let body = match text.strip_prefix('[') {
        Some(bounds) => bounds.split_once('=')?.1,
        None => text,
    };
    let mut chars = body.char_indices().peekable();
    let mut depth = 0;
    loop {
        let (start, c) = chars.next()?;
        match c {
            '{' => {
                depth += 1;
                on(ArrayPart::Open)?;
                if depth > MAX_DIMENSIONS {
                    return None;
                }
                continue;
            }
            '}' => {
                if depth == 0 {
                    return None;
                }
                depth -= 1;
                on(ArrayPart::Close)?;
            }
            '"' => {
                let mut value = String::new();
                loop {
                    match chars.next()?.1 {
                        '"' => break,
                        '\\' => value.push(chars.next()?.1),
                        other => value.push(other),
                    }
                }
                on(ArrayPart::Element(Cow::Owned(value)))?;
            }
            _ => {
                let mut end = start + c.len_utf8();
                while let Some((at, next)) = chars.peek()
                    && !matches!(next, ',' | '}')
                {
                    end = at + next.len_utf8();
                    chars.next();
                }
                on(match &body[start..end] {
                    "NULL" => ArrayPart::Null,
                    value => ArrayPart::Element(Cow::Borrowed(value)),
                })?;
            }
        }
        if depth == 0 {
            return chars.next().is_none().then_some(());
        }
        match chars.peek() {
            Some((_, ',')) => {
                chars.next();
                // Nothing may end right after a comma.
                if chars.peek().is_none_or(|(_, next)| matches!(next, ',' | '}')) {
                    return None;
                }
                on(ArrayPart::Comma)?;
            }
            Some((_, '}')) => {}
            _ => return None,
        }
    }
}
