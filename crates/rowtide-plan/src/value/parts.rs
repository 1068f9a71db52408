//! The parts that the bytes of values are made of: bytes of a known number, and bytes with their length before
//! them. Reading is total.

/// The length and the bytes.
pub(super) fn write_slice(into: &mut Vec<u8>, bytes: &[u8]) {
    // A value of Postgres has at most a gigabyte.
    into.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    into.extend_from_slice(bytes);
}

/// What [`write_slice`] has written, from the front of `from`, which moves on.
pub(super) fn read_slice<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(read_array(from)?);
    let (bytes, rest) = from.split_at_checked(usize::try_from(length).ok()?)?;
    *from = rest;
    Some(bytes)
}

/// So many bytes from the front of `from`, which moves on.
pub(super) fn read_array<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*bytes)
}
