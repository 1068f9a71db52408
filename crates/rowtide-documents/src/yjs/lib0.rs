//! The numbers, texts and values that messages of Yjs are made of, as the JavaScript library lib0 writes them.
//!
//! What is read comes from outside: nothing is reserved for what is only announced, numbers stay below
//! [`MAX_NUMBER`], and nesting is bounded. What is left out or wrong is [`MalformedYjs`], never a panic.

use serde::de::IgnoredAny;
use thiserror::Error;

/// The largest number: what JavaScript counts exactly.
pub(crate) const MAX_NUMBER: u64 = (1 << 53) - 1;

/// How deep values may be nested; the parser of JSON has the same bound.
const MAX_DEPTH: usize = 128;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MalformedYjs {
    /// They end too early.
    #[error("it ends too early")]
    Short,
    /// Something follows their end.
    #[error("something follows its end")]
    Long,
    /// A number is larger than JavaScript counts.
    #[error("a number is too large")]
    Number,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Utf8,
    /// A text is not JSON.
    #[error("a text is not JSON")]
    Json,
    /// Values are nested too deep.
    #[error("values are nested too deep")]
    Deep,
    /// There is no such kind of thing.
    #[error("there is no kind {0}")]
    Kind(u64),
    /// Elements say that they are beside or in one that their client has inserted after them, which cannot be.
    #[error("elements are where elements are that came after them")]
    Later,
}

/// Reads bytes from the front.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Everything was read.
    pub(crate) fn end(&self) -> Result<(), MalformedYjs> {
        if self.rest.is_empty() { Ok(()) } else { Err(MalformedYjs::Long) }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, MalformedYjs> {
        let (first, rest) = self.rest.split_first().ok_or(MalformedYjs::Short)?;
        self.rest = rest;
        Ok(*first)
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: u64) -> Result<&'a [u8], MalformedYjs> {
        let count = usize::try_from(count).map_err(|_| MalformedYjs::Short)?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(MalformedYjs::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A number: seven bits a byte, the lowest first, the eighth bit says that more follow.
    pub(crate) fn number(&mut self) -> Result<u64, MalformedYjs> {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let byte = self.byte()?;
            if shift > 49 {
                return Err(MalformedYjs::Number);
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        if number > MAX_NUMBER { Err(MalformedYjs::Number) } else { Ok(number) }
    }

    /// Bytes with their count before them.
    pub(crate) fn buffer(&mut self) -> Result<&'a [u8], MalformedYjs> {
        let count = self.number()?;
        self.take(count)
    }

    /// UTF-8 with its count of bytes before it.
    pub(crate) fn text(&mut self) -> Result<&'a str, MalformedYjs> {
        std::str::from_utf8(self.buffer()?).map_err(|_| MalformedYjs::Utf8)
    }

    /// A text that a client can read as JSON.
    pub(crate) fn json(&mut self) -> Result<&'a str, MalformedYjs> {
        let text = self.text()?;
        serde_json::from_str::<IgnoredAny>(text).map_err(|_| MalformedYjs::Json)?;
        Ok(text)
    }

    /// Passes over a value of any type.
    pub(crate) fn skip_value(&mut self) -> Result<(), MalformedYjs> {
        self.skip_nested(MAX_DEPTH)
    }

    fn skip_nested(&mut self, depth: usize) -> Result<(), MalformedYjs> {
        match self.byte()? {
            // undefined, null, false, true
            127 | 126 | 121 | 120 => Ok(()),
            125 => self.skip_integer(),
            // A float of 32 bits, one of 64, and an integer of 64.
            124 => self.take(4).map(drop),
            123 | 122 => self.take(8).map(drop),
            119 => self.text().map(drop),
            kind @ (118 | 117) => {
                let depth = depth.checked_sub(1).ok_or(MalformedYjs::Deep)?;
                for _ in 0..self.number()? {
                    if kind == 118 {
                        self.text()?;
                    }
                    self.skip_nested(depth)?;
                }
                Ok(())
            }
            116 => self.buffer().map(drop),
            kind => Err(MalformedYjs::Kind(kind.into())),
        }
    }

    /// An integer, whose first byte has a sign instead of the seventh bit. One that is larger than JavaScript counts no
    /// client can read.
    fn skip_integer(&mut self) -> Result<(), MalformedYjs> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(());
        }
        let rest = self.number()?;
        let low = u64::from(first & 0x3f);
        let is_counted = rest.checked_mul(64).is_some_and(|high| high + low <= MAX_NUMBER);
        if is_counted { Ok(()) } else { Err(MalformedYjs::Number) }
    }

    /// What `read` passes over, as it was written.
    pub(crate) fn written(
        &mut self,
        read: impl FnOnce(&mut Reader<'a>) -> Result<(), MalformedYjs>,
    ) -> Result<&'a [u8], MalformedYjs> {
        let before = self.rest;
        read(self)?;
        Ok(&before[..before.len() - self.rest.len()])
    }
}

/// Writes a number as [`Reader::number`] reads it.
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Writes bytes with their count before them.
pub(crate) fn put_buffer(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_it_was_written() {
        for number in [0, 1, 127, 128, 300, 1 << 32, MAX_NUMBER] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.number(), Ok(number));
            assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn what_is_too_large_too_short_or_too_deep_is_malformed() {
        let mut out = Vec::new();
        put_number(&mut out, MAX_NUMBER + 1);
        assert_eq!(Reader::new(&out).number(), Err(MalformedYjs::Number));
        assert_eq!(Reader::new(&[0xff; 20]).number(), Err(MalformedYjs::Number));
        assert_eq!(Reader::new(&[0x80]).number(), Err(MalformedYjs::Short));
        assert_eq!(Reader::new(&[5, b'a']).text(), Err(MalformedYjs::Short));
        assert_eq!(Reader::new(&[1, 0xff]).text(), Err(MalformedYjs::Utf8));
        assert_eq!(Reader::new(&[1, b'{']).json(), Err(MalformedYjs::Json));
        assert_eq!(Reader::new(&[117, 1].repeat(200_000)).skip_value(), Err(MalformedYjs::Deep));
        assert_eq!(Reader::new(&[0]).skip_value(), Err(MalformedYjs::Kind(0)));
        for (integer, read) in [
            (&[125, 0x3f][..], Ok(())),
            (&[125, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f], Ok(())),
            (&[125, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f], Err(MalformedYjs::Number)),
            (
                &[125, 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
                Err(MalformedYjs::Number),
            ),
        ] {
            assert_eq!(Reader::new(integer).skip_value(), read, "{integer:?}");
        }
    }
}
