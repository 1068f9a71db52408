//! Any bytes are messages of the feed or an error, also where the checksum fits; what is read is written and read
//! back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rowtide_feed::codec::{VERSION, decode, decode_change, decode_commit, encode};
use rowtide_protocol::Lsn;

fuzz_target!(|bytes: &[u8]| {
    drop(decode_change(Lsn(0), bytes));
    drop(decode_commit(Lsn(0), bytes));
    read(bytes);
    // The checksum would stop nearly all of them.
    let [kind, body @ ..] = bytes else { return };
    let record = [&[VERSION, *kind], body].concat();
    let length = (record.len() as u32 + 4).to_le_bytes();
    let checksum = crc32fast::hash(&record).to_le_bytes();
    read(&[&length[..], &record, &checksum].concat());
});

fn read(mut from: &[u8]) {
    while let Ok(event) = decode(&mut from) {
        let mut again = Vec::new();
        encode(&event, &mut again);
        assert_eq!(decode(&mut &again[..]), Ok(event));
    }
}
