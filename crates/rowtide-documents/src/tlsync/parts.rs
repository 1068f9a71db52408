//! Text that clients split: frames `<number of parts that follow>_<part>`, counting down to `0_`. A text that is
//! not split begins with no digit, because it is JSON. A browser cuts by UTF-16 units and may cut a character in
//! two, which then arrives as two characters that stand for nothing; nobody can mend that.

use std::borrow::Cow;

/// Puts split text together again.
#[derive(Debug, Default)]
pub(super) struct Parts {
    text: String,
    /// How many parts are to follow, within a text that is split.
    follow: Option<usize>,
}

/// Why a frame is no part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It does not continue what came before. Sent again on another connection, it may be fine.
    OutOfOrder,
    /// The text has too many bytes or parts, and will have them again.
    TooLong,
}

impl Parts {
    /// Takes the next frame: a whole text, or nothing if there is more to come.
    pub(super) fn take<'a>(
        &mut self,
        frame: &'a str,
        max_bytes: usize,
        max_parts: usize,
    ) -> Result<Option<Cow<'a, str>>, Broken> {
        if self.text.len() + frame.len() > max_bytes {
            return Err(Broken::TooLong);
        }
        let Some((count, part)) = split(frame) else {
            return match self.follow {
                None if frame.starts_with('{') => Ok(Some(Cow::Borrowed(frame))),
                _ => Err(Broken::OutOfOrder),
            };
        };
        match self.follow {
            Some(follow) if follow != count => return Err(Broken::OutOfOrder),
            None if count >= max_parts => return Err(Broken::TooLong),
            _ => {}
        }
        self.text += part;
        self.follow = count.checked_sub(1);
        match self.follow {
            Some(_) => Ok(None),
            None => Ok(Some(Cow::Owned(std::mem::take(&mut self.text)))),
        }
    }
}

fn split(frame: &str) -> Option<(usize, &str)> {
    let (count, part) = frame.split_once('_')?;
    let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    if digits { Some((count.parse().ok()?, part)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(parts: &mut Parts, frame: &'static str) -> Result<Option<String>, Broken> {
        Ok(parts.take(frame, 16, 3)?.map(Cow::into_owned))
    }

    #[test]
    fn parts_are_put_together_and_what_is_whole_is_let_pass() {
        let mut parts = Parts::default();
        let whole = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(take(&mut parts, "{}"), whole("{}"));
        assert_eq!(take(&mut parts, "2_{\"a"), Ok(None));
        assert_eq!(take(&mut parts, "1_\":"), Ok(None));
        assert_eq!(take(&mut parts, "0_1}"), whole("{\"a\":1}"));
        assert_eq!(take(&mut parts, "0_{}"), whole("{}"));
        assert_eq!(take(&mut parts, "{\"a_b\":1}"), whole("{\"a_b\":1}"));
    }

    #[test]
    fn parts_that_do_not_follow_are_told_from_those_that_are_too_many() {
        for next in ["2_ab", "0_ab", "{}", "ab", "", "99999999_x"] {
            let mut parts = Parts::default();
            assert_eq!(take(&mut parts, "2_ab"), Ok(None));
            assert_eq!(take(&mut parts, next), Err(Broken::OutOfOrder), "{next}");
        }
        for alone in ["ab", "", "[]", "_x", "99999999999_"] {
            let mut parts = Parts::default();
            let broken = take(&mut parts, alone);
            let expected =
                if alone.starts_with('9') { Broken::TooLong } else { Broken::OutOfOrder };
            assert_eq!(broken, Err(expected), "{alone}");
        }
        let mut parts = Parts::default();
        assert_eq!(take(&mut parts, "3_"), Err(Broken::TooLong));
        assert_eq!(take(&mut parts, "1_{234567890"), Ok(None));
        assert_eq!(take(&mut parts, "0_12345"), Err(Broken::TooLong));
    }
}
