//! Text that older clients split: frames `<number of frames that follow>_<part>`, counting down to
//! `0_`. A text that is not split begins with no digit, because it is JSON.

/// Puts split text together again.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    text: String,
    /// How many frames are to follow, within a text that is split.
    follow: Option<usize>,
}

/// What a frame was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The whole of a text, or its last part.
    Whole(String),
    /// There is more to come.
    Part,
    /// It does not continue what came before, or is too long with it.
    Broken(&'static str),
}

impl Frames {
    /// Takes the next frame of a text of at most `max_bytes`.
    pub(crate) fn take(&mut self, frame: &str, max_bytes: usize) -> Frame {
        let Some((count, part)) = split(frame) else {
            return match self.follow {
                None => Frame::Whole(frame.to_owned()),
                Some(_) => Frame::Broken("a text in frames was not finished"),
            };
        };
        match self.follow {
            Some(follow) if follow != count => return Frame::Broken("a frame is out of order"),
            None if count > max_bytes => return Frame::Broken("too many frames"),
            _ => {}
        }
        if self.text.len() + part.len() > max_bytes {
            return Frame::Broken("the text is too long");
        }
        self.text += part;
        if count > 0 {
            self.follow = Some(count - 1);
            return Frame::Part;
        }
        self.follow = None;
        Frame::Whole(std::mem::take(&mut self.text))
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

    fn whole(text: &str) -> Frame {
        Frame::Whole(text.to_owned())
    }

    #[test]
    fn parts_are_put_together_and_what_is_whole_is_let_pass() {
        let mut frames = Frames::default();
        assert_eq!(frames.take("{}", 10), whole("{}"));
        assert_eq!(frames.take("2_{\"a", 10), Frame::Part);
        assert_eq!(frames.take("1_\":", 10), Frame::Part);
        assert_eq!(frames.take("0_1}", 10), whole("{\"a\":1}"));
        assert_eq!(frames.take("0_[]", 10), whole("[]"));
        assert_eq!(frames.take("{\"a_b\":1}", 10), whole("{\"a_b\":1}"));
    }

    #[test]
    fn parts_that_do_not_follow_are_rejected() {
        let start = || {
            let mut frames = Frames::default();
            assert_eq!(frames.take("2_ab", 10), Frame::Part);
            frames
        };
        for next in ["2_ab", "0_ab", "{}", "1_aaaaaaaaa", "9999999999999999999999_x"] {
            assert!(matches!(start().take(next, 10), Frame::Broken(_)), "{next}");
        }
        assert!(matches!(Frames::default().take("11_a", 10), Frame::Broken(_)));
    }
}
