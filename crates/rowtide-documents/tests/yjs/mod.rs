//! What clients of Yjs send, as y-protocols and lib0 write it.

use rowtide_documents::place::Frame;

/// The first number of a message that is of the document.
pub(crate) const SYNC: u8 = 0;

/// Writes a number.
pub(crate) fn number(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The number that `bytes` begin with, which is taken off them.
pub(crate) fn read_number(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    number
}

/// A message of the document: step 1 (`kind` 0), step 2 (1) or an update (2).
pub(crate) fn sync_message(kind: u8, content: &[u8]) -> Frame {
    let mut out = vec![SYNC, kind];
    number(&mut out, content.len() as u64);
    out.extend_from_slice(content);
    Frame::Binary(out.into())
}
