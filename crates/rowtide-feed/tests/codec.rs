//! What is written is read back, and what was not written never passes for it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{change, event, transaction};
use proptest::collection::vec;
use proptest::prelude::*;
use rowtide_feed::codec::{
    DecodeError, VERSION, decode, decode_change, decode_commit, encode, encode_change,
    encode_commit,
};
use rowtide_feed::{Changes, Event};
use rowtide_protocol::Lsn;

fn message(event: &Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(event, &mut bytes);
    bytes
}

/// A message with any body: the length and the checksum fit.
fn sealed(kind: u8, body: &[u8]) -> Vec<u8> {
    let version = match kind {
        6 => 2,
        7 | 18 => 3,
        _ => 1,
    };
    let record = [&[version, kind], body].concat();
    let length = (record.len() as u32 + 4).to_le_bytes();
    let checksum = crc32fast::hash(&record).to_le_bytes();
    [&length[..], &record, &checksum].concat()
}

proptest! {
    #[test]
    fn messages_are_read_back_one_after_the_other(events in vec(event(), 0..5), more in vec(any::<u8>(), 0..3)) {
        let mut bytes = Vec::new();
        events.iter().for_each(|event| encode(event, &mut bytes));
        bytes.extend(&more);
        let mut from = &bytes[..];
        for event in &events {
            let read = decode(&mut from);
            prop_assert_eq!(read.as_ref(), Ok(event));
        }
        prop_assert_eq!(from, &more[..]);
        prop_assert_eq!(decode(&mut from), Err(DecodeError::CutOff { missing: 4 - more.len() }));
    }

    #[test]
    fn a_message_that_is_cut_off_says_what_is_missing(event in event(), at: usize) {
        let bytes = message(&event);
        let at = at % bytes.len();
        let mut from = &bytes[..at];
        let missing = if at < 4 { 4 - at } else { bytes.len() - at };
        prop_assert_eq!(decode(&mut from), Err(DecodeError::CutOff { missing }));
        prop_assert_eq!(from.len(), at, "nothing is taken");
    }

    #[test]
    fn a_bit_that_is_turned_over_is_found(event in event(), at: usize, bit in 0..8u8) {
        let mut bytes = message(&event);
        let at = at % bytes.len();
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(decode(&mut &bytes[..]).is_err());
    }

    #[test]
    fn parts_are_read_back_at_their_position_alone(
        transaction in transaction(),
        previous in any::<u64>().prop_map(Lsn),
    ) {
        let lsn = transaction.lsn;
        let other = Lsn(lsn.0 ^ 1);
        let mut record = Vec::new();
        encode_commit(previous, &transaction, &mut record);
        let commit = decode_commit(lsn, &record).unwrap();
        prop_assert_eq!(decode_commit(other, &record), Err(DecodeError::Checksum));
        let mut changes = Vec::new();
        if let Changes::Rows(rows) = &transaction.changes {
            for change in rows {
                let mut record = Vec::new();
                encode_change(lsn, change, &mut record);
                changes.push(decode_change(lsn, &record).unwrap());
                prop_assert_eq!(decode_change(other, &record), Err(DecodeError::Checksum));
                prop_assert!(decode_commit(lsn, &record).is_err(), "of another kind");
            }
        }
        if let Some(fewer) = changes.len().checked_sub(1) {
            let part = commit.clone().with_changes(changes[..fewer].to_vec());
            prop_assert_eq!(part, Err(DecodeError::Count { expected: changes.len(), found: fewer }));
        }
        prop_assert_eq!(commit.previous, previous);
        prop_assert_eq!(commit.with_changes(changes).unwrap(), transaction);
    }

    #[test]
    fn a_record_that_is_cut_or_changed_is_rejected(change in change(), at: usize, bit in 0..8u8) {
        let mut record = Vec::new();
        encode_change(Lsn(1), &change, &mut record);
        let at = at % record.len();
        prop_assert!(decode_change(Lsn(1), &record[..at]).is_err());
        record[at] ^= 1_u8 << bit;
        prop_assert!(decode_change(Lsn(1), &record).is_err());
    }

    #[test]
    fn any_bytes_are_an_event_or_an_error(bytes in vec(any::<u8>(), 0..60), kind in 0..20u8) {
        drop(decode(&mut &bytes[..]));
        drop(decode_change(Lsn(1), &bytes));
        drop(decode_commit(Lsn(1), &bytes));
        // Also where the checksum fits; an event then is one that is written and read back.
        let sealed = sealed(kind, &bytes);
        if let Ok(event) = decode(&mut &sealed[..]) {
            prop_assert_eq!(decode(&mut &message(&event)[..]), Ok(event));
        }
    }

    /// Bodies that are nearly right reach what wholly random ones never do.
    #[test]
    fn a_body_that_is_nearly_right_is_an_event_or_an_error_with_its_place(
        event in event(),
        at: usize,
        byte: u8,
        cut: usize,
    ) {
        let bytes = message(&event);
        let (kind, mut body) = (bytes[5], bytes[6..bytes.len() - 4].to_vec());
        let at = at % body.len();
        body[at] = byte;
        if let Ok(event) = decode(&mut &sealed(kind, &body)[..]) {
            prop_assert_eq!(decode(&mut &message(&event)[..]), Ok(event));
        }
        body[at] = bytes[6 + at];
        body.truncate(cut % body.len());
        let end = 6 + body.len();
        match decode(&mut &sealed(kind, &body)[..]) {
            Err(DecodeError::Invalid { at, .. }) => prop_assert!(at <= end),
            other => prop_assert!(false, "{:?}", other),
        }
        body = bytes[6..bytes.len() - 4].to_vec();
        body.push(byte);
        let trailing = DecodeError::Trailing { at: bytes.len() - 4 };
        prop_assert_eq!(decode(&mut &sealed(kind, &body)[..]), Err(trailing));
    }

    #[test]
    fn another_version_is_refused_with_its_number(event in event(), version: u8, rest in vec(any::<u8>(), 5..40)) {
        prop_assume!(!(1..=VERSION).contains(&version));
        let mut bytes = message(&event);
        bytes[4] = version;
        prop_assert_eq!(decode(&mut &bytes[..]), Err(DecodeError::Version(version)));
        // Whatever such a version has behind its number.
        let record = [&[version], &rest[..]].concat();
        let length = (record.len() as u32).to_le_bytes();
        let bytes = [&length[..], &record].concat();
        prop_assert_eq!(decode(&mut &bytes[..]), Err(DecodeError::Version(version)));
        prop_assert_eq!(decode_change(Lsn(1), &record), Err(DecodeError::Version(version)));
        prop_assert_eq!(decode_commit(Lsn(1), &record), Err(DecodeError::Version(version)));
    }
}

#[test]
fn errors_say_what_and_where() {
    let decode = |bytes: &[u8]| decode(&mut &bytes[..]);
    assert_eq!(decode(&[5, 0, 0, 0, 1, 2, 3, 4, 5]), Err(DecodeError::TooShort { length: 5 }));
    assert_eq!(decode(&sealed(9, &[])), Err(DecodeError::Kind(9)));
    assert_eq!(
        decode(&sealed(2, &[1, 2, 3])),
        Err(DecodeError::Invalid { at: 6, what: "end of WAL" })
    );
    let huge = decode(&sealed(5, &[0xff; 8]));
    assert_eq!(huge, Err(DecodeError::Invalid { at: 10, what: "table" }));
    let not_text = decode(&sealed(5, &[1, 0, 0, 0, 0xff, 0, 0, 0, 0]));
    assert_eq!(not_text, Err(DecodeError::Invalid { at: 6, what: "table" }));
    assert_eq!(not_text.unwrap_err().to_string(), "at byte 6 there is no table");
    // A commit of four billion changes, of which none comes.
    let mut body = vec![0; 8 + 8 + 4 + 8 + 4];
    body.extend([0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert_eq!(decode(&sealed(3, &body)), Err(DecodeError::Invalid { at: 47, what: "table" }));
}
