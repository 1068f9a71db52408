//! Reads what any version is made of: numbers, texts and lists, each or an error that says where it should be.

use rowtide_plan::value::Value;

use super::DecodeError;

/// Bytes that are read from the front.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Where `rest` begins in the message or record.
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Reader<'a> {
        Reader { rest: bytes, at }
    }

    /// There must be nothing more.
    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing { at: self.at }) }
    }

    /// `what` should be here, and is not.
    pub(super) fn invalid(&self, what: &'static str) -> DecodeError {
        DecodeError::Invalid { at: self.at, what }
    }

    fn bytes(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(self.invalid(what))?;
        self.rest = rest;
        self.at += length;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(self.invalid(what))?;
        self.rest = rest;
        self.at += N;
        Ok(*bytes)
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        self.array(what).map(i64::from_le_bytes)
    }

    /// One of the numbers that `of` knows.
    pub(super) fn tag<T>(
        &mut self,
        what: &'static str,
        of: impl Fn(u8) -> Option<T>,
    ) -> Result<T, DecodeError> {
        let found = self.rest.first().copied().and_then(of).ok_or(self.invalid(what))?;
        self.array::<1>(what)?;
        Ok(found)
    }

    /// A length and as many bytes.
    pub(super) fn slice(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.u32(what)?;
        self.bytes(usize::try_from(length).unwrap_or(usize::MAX), what)
    }

    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        let begins = DecodeError::Invalid { at: self.at, what };
        std::str::from_utf8(self.slice(what)?).map_err(|_| begins)
    }

    /// Something, if the byte before it says that it is there.
    pub(super) fn option<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        let is_there = self.tag(what, |tag| match tag {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        })?;
        is_there.then(|| read(self)).transpose()
    }

    /// A number of things and the things. None of them is empty, so the bytes bound how many are held, whatever
    /// the number says.
    pub(super) fn list<T, L: FromIterator<T>>(
        &mut self,
        what: &'static str,
        read: impl Fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<L, DecodeError> {
        let count = self.u32(what)?;
        self.several(count, read)
    }

    /// So many things, none of which is empty.
    pub(super) fn several<T, L: FromIterator<T>>(
        &mut self,
        count: u32,
        read: impl Fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<L, DecodeError> {
        (0..count).map(|_| read(self)).collect()
    }

    pub(super) fn value(&mut self) -> Result<Value, DecodeError> {
        let mut rest = self.rest;
        let value = Value::read(&mut rest).ok_or(self.invalid("value"))?;
        self.at += self.rest.len() - rest.len();
        self.rest = rest;
        Ok(value)
    }
}
