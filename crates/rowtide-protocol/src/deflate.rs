//! Text frames that may be sent deflated (raw DEFLATE, RFC 1951), to clients that take that. The deflated form is made
//! from the text once and shared by all who send it; it is made stretch by stretch, so that a very large frame holds up
//! nobody else's, and whoever comes meanwhile goes on where the others are. Each frame is deflated by itself: what one
//! row says never shortens another frame.

use std::fmt;
use std::string::FromUtf8Error;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use thiserror::Error;

/// What clients that take deflated frames have in `accept`, and servers that send them in `features`.
pub const DEFLATE: &str = "deflate";
/// Frames of so many bytes and more have a deflated form: of smaller ones little is saved.
pub const DEFLATE_FROM_BYTES: usize = 4 << 10;

/// Of 1 to 9. Measured on rows of a tracker of issues in frames of 64 KiB: level 1 leaves 36 %, 2 leaves 26 % for half as
/// much time again, 4 leaves 24 % for three times the time of 2, and 6 leaves 23 % for five times.
const LEVEL: u32 = 2;
/// How many bytes of text are deflated at a time, about a millisecond's work.
const STRETCH_BYTES: usize = 256 << 10;
/// How much room the result is given at a time, in bytes.
const ROOM_BYTES: usize = 16 << 10;

/// A text frame of the server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TextFrame {
    text: Bytes,
    deflated: Option<Deflated>,
}

/// The deflated form of one text, made or not, for all frames of this text. Cheap to clone.
#[derive(Clone, Default)]
pub struct Deflated(Arc<Making>);

#[derive(Default)]
struct Making {
    /// `None` where it is not smaller than the text.
    made: OnceLock<Option<Bytes>>,
    /// How far it is.
    under_way: Mutex<Option<UnderWay>>,
}

struct UnderWay {
    compress: Compress,
    out: Vec<u8>,
}

impl TextFrame {
    /// A frame of this text, valid UTF-8, that nobody has deflated yet.
    pub fn new(text: Bytes) -> TextFrame {
        TextFrame::with(text, Deflated::default())
    }

    /// A frame of a text of which this is the deflated form.
    pub fn with(text: Bytes, deflated: Deflated) -> TextFrame {
        let deflated = (text.len() >= DEFLATE_FROM_BYTES).then_some(deflated);
        TextFrame { text, deflated }
    }

    /// Its text.
    pub fn text(&self) -> &Bytes {
        &self.text
    }

    /// The deflated form of its text, of which others may have a share; `None` if the frame is too small to have one.
    pub fn form(&self) -> Option<&Deflated> {
        self.deflated.as_ref()
    }

    /// Its deflated form, where that is made and smaller.
    pub fn deflated(&self) -> Option<&Bytes> {
        self.deflated.as_ref()?.0.made.get()?.as_ref()
    }

    /// Whether a deflated form is still to be made.
    pub fn wants_deflating(&self) -> bool {
        self.deflated.as_ref().is_some_and(|form| form.0.made.get().is_none())
    }

    /// Deflates a stretch more; whether there is nothing more to do. Takes about a millisecond, or two where somebody
    /// else is at it.
    pub fn deflate_a_stretch(&self) -> bool {
        self.deflated.as_ref().is_none_or(|form| form.0.go_on(&self.text))
    }
}

impl Making {
    fn go_on(&self, text: &[u8]) -> bool {
        // What was under way when somebody panicked is as good as it was between two stretches, or not smaller.
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if self.made.get().is_some() {
            return true;
        }
        let UnderWay { compress, out } = under_way.get_or_insert_with(|| UnderWay {
            compress: Compress::new(Compression::new(LEVEL), false),
            out: Vec::new(),
        });
        let place =
            |compress: &Compress| usize::try_from(compress.total_in()).unwrap_or(text.len());
        let end = place(compress).saturating_add(STRETCH_BYTES).min(text.len());
        let made = loop {
            let before = (place(compress), out.len());
            let flush = if end < text.len() {
                if before.0 >= end {
                    return false;
                }
                FlushCompress::None
            } else {
                FlushCompress::Finish
            };
            out.reserve(ROOM_BYTES);
            let more = text.get(before.0..end).unwrap_or_default();
            let status = compress.compress_vec(more, out, flush);
            let stands_still = (place(compress), out.len()) == before;
            match status {
                _ if out.len() >= text.len() => break None,
                Ok(Status::StreamEnd) => {
                    out.shrink_to_fit();
                    break Some(Bytes::from(std::mem::take(out)));
                }
                Ok(Status::Ok | Status::BufError) if !stands_still => {}
                // Neither happens; then the text is sent.
                Ok(_) | Err(_) => break None,
            }
        };
        *under_way = None;
        // Nobody else is here.
        self.made.get_or_init(|| made);
        true
    }
}

impl fmt::Debug for Deflated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.made.get().map(|made| made.as_ref().map(Bytes::len));
        f.debug_tuple("Deflated").field(&bytes).finish()
    }
}

/// A binary frame that is not the raw DEFLATE of a text.
#[derive(Debug, Error)]
pub enum InflateError {
    /// It is no DEFLATE.
    #[error("it is not raw DEFLATE")]
    Broken(#[from] flate2::DecompressError),
    /// It ends before its text does.
    #[error("it ends in the middle")]
    Cut,
    /// There is something behind the end.
    #[error("there is something behind its end")]
    Trailing,
    /// Its text has more than so many bytes.
    #[error("its text has more than {0} bytes")]
    TooLarge(usize),
    /// What it holds is no text.
    #[error("what it holds is no UTF-8")]
    NotText(#[from] FromUtf8Error),
}

/// The text of a deflated frame, of at most `most` bytes.
///
/// # Errors
/// [`InflateError`] when it is no deflated text, or one of more bytes; not more memory than for these is taken.
pub fn inflate(frame: &[u8], most: usize) -> Result<String, InflateError> {
    let mut inflate = Decompress::new(false);
    let mut out = Vec::new();
    loop {
        let at = usize::try_from(inflate.total_in()).unwrap_or(frame.len());
        // One byte more than may be, to see whether it comes; and never none, or nothing would go on.
        let left = most.saturating_add(1).saturating_sub(out.len());
        let room = out.len().max(ROOM_BYTES).min(left).max(1);
        out.reserve_exact(room);
        let more = frame.get(at..).unwrap_or_default();
        let before = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress_vec(more, &mut out, FlushDecompress::None)?;
        if out.len() > most {
            return Err(InflateError::TooLarge(most));
        }
        if status == Status::StreamEnd {
            let trailing = inflate.total_in() != frame.len() as u64;
            return if trailing {
                Err(InflateError::Trailing)
            } else {
                Ok(String::from_utf8(out)?)
            };
        }
        if (inflate.total_in(), inflate.total_out()) == before {
            return Err(InflateError::Cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of about so many bytes.
    fn frame(bytes: usize) -> TextFrame {
        let mut text = String::new();
        for number in 0_u64.. {
            if text.len() >= bytes {
                break;
            }
            text += &format!(
                r#"{{"id":{number},"mark":"{:x}","é":true}},"#,
                number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            );
        }
        TextFrame::new(text.into())
    }

    #[test]
    fn a_frame_is_deflated_stretch_by_stretch_and_inflates_to_exactly_its_text() {
        for bytes in [DEFLATE_FROM_BYTES, 64 << 10, STRETCH_BYTES, 3 * STRETCH_BYTES + 5] {
            let frame = frame(bytes);
            assert!(frame.wants_deflating() && frame.deflated().is_none());
            let stretches = (1..).take_while(|_| !frame.deflate_a_stretch()).count() + 1;
            assert_eq!(stretches, frame.text().len().div_ceil(STRETCH_BYTES), "{bytes}");
            let deflated = frame.deflated().unwrap();
            assert!(deflated.len() * 2 < frame.text().len(), "{} bytes", deflated.len());
            assert_eq!(inflate(deflated, 4 << 20).unwrap().as_bytes(), frame.text());
            assert!(!frame.wants_deflating() && frame.deflate_a_stretch());
        }
    }

    #[test]
    fn all_frames_of_one_text_share_its_deflated_form() {
        let first = frame(2 * STRETCH_BYTES);
        let second = TextFrame::with(first.text().clone(), first.form().unwrap().clone());
        // Each does a part of the work.
        while !(first.deflate_a_stretch() || second.deflate_a_stretch()) {}
        let bytes = [&first, &second].map(|frame| frame.deflated().unwrap().as_ptr());
        assert_eq!(bytes[0], bytes[1]);
    }

    #[test]
    fn what_is_small_or_does_not_get_smaller_is_sent_as_text() {
        let small = frame(DEFLATE_FROM_BYTES - 200);
        assert!(
            !small.wants_deflating() && small.deflate_a_stretch() && small.deflated().is_none()
        );
        // Text of which every byte is a surprise does not get much smaller; bytes as these would get larger.
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(3 * STRETCH_BYTES)
        .collect();
        let noise = TextFrame::new(noise.into());
        while !noise.deflate_a_stretch() {}
        assert!(!noise.wants_deflating() && noise.deflated().is_none());
    }

    #[test]
    fn what_is_no_deflated_text_is_told_apart() {
        let frame = frame(64 << 10);
        while !frame.deflate_a_stretch() {}
        let whole = frame.deflated().unwrap();
        let (size, most) = (frame.text().len(), 1 << 20);
        assert!(inflate(whole, size).is_ok());
        assert!(matches!(inflate(whole, size - 1), Err(InflateError::TooLarge(_))));
        assert!(matches!(inflate(&whole[..whole.len() - 1], most), Err(InflateError::Cut)));
        assert!(matches!(inflate(&[], most), Err(InflateError::Cut)));
        assert!(matches!(inflate(&[&whole[..], b"x"].concat(), most), Err(InflateError::Trailing)));
        assert!(matches!(inflate(b"\xff\xff\xff", most), Err(InflateError::Broken(_))));
        // One stored block of one byte that is no text.
        assert!(matches!(
            inflate(&[1, 1, 0, 0xfe, 0xff, 0xff], most),
            Err(InflateError::NotText(_))
        ));
        for at in 0..whole.len().min(2_000) {
            let mut broken = whole.to_vec();
            broken[at] ^= 0x55;
            drop(inflate(&broken, most));
        }
    }
}
