//! JavaScript has texts that are no Unicode: half of a pair of UTF-16 units, which its JSON writes as `\ud83d`.
//! They come about where a text was cut, and no other language takes them. Here the character that stands for
//! nothing takes the place of such a half, which is one unit too, so that lengths are still right.

/// The text with every half of a pair replaced, or `None` if there is none.
pub(super) fn mend(text: &str) -> Option<String> {
    let mut mended = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        mended.push_str(before);
        // What stands behind a backslash is part of the escape, another backslash too.
        let length = match (unit(escape), escape.get(6..).and_then(unit)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                mended.push_str("\\ufffd");
                rest = &escape[6..];
                continue;
            }
            (Some(_), _) => 6,
            (None, _) => 1 + escape[1..].chars().next().map_or(0, char::len_utf8),
        };
        let (escape, behind) = escape.split_at(length);
        mended.push_str(escape);
        rest = behind;
    }
    mended.push_str(rest);
    (mended != text).then_some(mended)
}

/// The UTF-16 unit that the escape at the beginning of a text stands for.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex { u16::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_of_a_pair_becomes_what_stands_for_nothing() {
        for (text, mended) in [
            (r"a\ud83db", r"a\ufffdb"),
            (r"\uDE00", r"\ufffd"),
            (r"\ud83d\ud83d\ude00", r"\ufffd\ud83d\ude00"),
            (r"\\\ud83d", r"\\\ufffd"),
        ] {
            assert_eq!(mend(text).as_deref(), Some(mended));
        }
        for fine in
            [r"\ud83d\ude00", r"\\ud83d", r"\u00e9", "é", "", r"\", r"\é", r"\ud8", r"\u+fff"]
        {
            assert_eq!(mend(fine), None, "{fine}");
        }
    }
}
